"""Which versions of each contract this program has, and what a network's votes ask of it (LED-11)."""

from typing import Final

from msgspec import Struct

from carechain.contracts.upgrades import ContractVersion, UpgradesTables, versions
from carechain.core.vocabulary import Contract

KNOWN: Final[dict[int, int]] = {**dict.fromkeys(Contract, 1), Contract.GOVERNANCE: 2}
"""Contract → the highest version this program has. It has every lower one too: old blocks are executed as they were."""

LATEST: Final = tuple(ContractVersion(contract=one, version=version) for one, version in KNOWN.items() if version > 1)
"""What a network that is founded now begins with."""


class UpgradeNeeded(Exception):  # noqa: N818 - says what the operator has to do
    """The members voted in a version that this program does not have.

    Nothing is wrong with the ledger: it goes on with a program that has the version. The block is not executed, because
    guessing would give another state than everybody else's.
    """

    def __init__(self, contract: str, version: int, from_height: int) -> None:
        super().__init__(
            f"from block {from_height} on, contract {contract} runs version {version}, which this program does not "
            "have: install a newer release and start again"
        )
        self.contract = contract
        self.version = version
        self.from_height = from_height


class VersionLine(Struct, frozen=True, kw_only=True):
    """A contract's version in force, and the one to come (0: none)."""

    contract: str
    version: int
    next_version: int
    from_height: int
    known: bool
    """Whether the program that answers has both."""


def name_of(contract: int) -> str:
    """The contract's name, or its number where a newer program would know the name."""
    return Contract(contract).name.lower() if contract in KNOWN else f"number {contract}"


def in_force(tables: UpgradesTables, height: int) -> dict[int, int]:
    """Contract → version at ``height``; founding contracts that were never voted on are left out and stand at 1."""
    return {contract: row.at(height) for contract, row in versions(tables)}


def require_known(tables: UpgradesTables, height: int) -> None:
    """Raise :class:`UpgradeNeeded` where this program lacks what is in force at ``height``."""
    for contract, row in versions(tables):
        version = row.at(height)
        if version > KNOWN.get(contract, 0):
            raise UpgradeNeeded(name_of(contract), version, row.from_height if version == row.next_version else 0)


def overview(tables: UpgradesTables, height: int) -> tuple[VersionLine, ...]:
    """Every contract, what is in force at ``height`` and what is to come: an operator sees early what to install."""
    numbers = dict.fromkeys(Contract, 0) | dict.fromkeys((one for one, _ in versions(tables)), 0)
    found = []
    for contract in numbers:
        row = tables.row_of(contract)
        version, waits = row.at(height), bool(row.next_version) and height < row.from_height
        coming = row.next_version if waits else 0
        found.append(
            VersionLine(
                contract=name_of(contract),
                version=version,
                next_version=coming,
                from_height=row.from_height if waits else 0,
                known=max(version, coming) <= KNOWN.get(contract, 0),
            )
        )
    return tuple(found)
