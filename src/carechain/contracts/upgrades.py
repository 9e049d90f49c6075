"""Upgrades: which version of each contract is in force, and which is voted in for a height to come (LED-11).

Every check rests on the state alone. Whether the running program has a version must not decide a transaction, because
nodes run different programs while they are updated one after the other.
"""

from collections.abc import Iterator
from typing import Annotated, Final

from msgspec import Meta

from carechain.core.context import Ctx
from carechain.core.ids import U8, U16, U63
from carechain.core.limits import UPGRADE_NOTICE_BLOCKS
from carechain.core.message import Event, Row
from carechain.core.rejection import RejectionCode, require
from carechain.core.vocabulary import FOUNDING_CONTRACTS
from carechain.state.overlay import Overlay
from carechain.state.table import TableSpec

ContractNumber = U8
"""A number of :class:`~carechain.core.vocabulary.Contract`, or of a contract that this program does not have yet."""
Version = Annotated[int, Meta(ge=1, le=0xFFFF)]


# --- codes ----------------------------------------------------------------------------------------------


class UpgradesCode(RejectionCode):
    """Why an upgrade is rejected."""

    NOT_THE_NEXT_VERSION = 1501, "An upgrade goes to the version after the one in force."
    TOO_SOON = 1502, "An upgrade needs 10 blocks of notice. Propose a greater height."


# --- events ---------------------------------------------------------------------------------------------


class UpgradeVoted(Event, frozen=True, tag="upgrades.voted"):
    """From this height on another version of a contract is in force. Programs without it stop there."""

    contract: ContractNumber
    version: Version
    height: U63


# --- tables ---------------------------------------------------------------------------------------------


class ContractVersion(Row, frozen=True):
    """In the genesis: which version of a contract the network begins with."""

    contract: ContractNumber
    version: Version


class VersionRow(Row, frozen=True):
    """``version`` is in force below ``from_height``, and ``next_version`` from there on (0: none was voted in)."""

    version: U16
    next_version: U16 = 0
    from_height: U63 = 0

    def at(self, height: int) -> int:
        """The version in force at ``height``; 0 before a contract's first."""
        return self.next_version if self.next_version and height >= self.from_height else self.version


VERSIONS: Final = TableSpec(
    name="upgrades.versions", prefix=0x63, key=(1,), row=VersionRow, note="contract → versions, now and to come"
)


class UpgradesTables:
    """The table of this contract, and what governance may ask of it."""

    __slots__ = ("versions",)

    def __init__(self, state: Overlay) -> None:
        self.versions = VERSIONS.bind(state)

    def row_of(self, contract: int) -> VersionRow:
        """The versions of a contract. One that was never voted on stands at its beginning."""
        return self.versions.get(contract) or VersionRow(version=int(contract <= FOUNDING_CONTRACTS))

    def require_possible(self, ctx: Ctx, *, contract: int, version: int, height: int) -> None:
        """Refuse what does not follow the version in force, or leaves the operators no time."""
        require(version == self.row_of(contract).at(ctx.height) + 1, UpgradesCode.NOT_THE_NEXT_VERSION)
        require(height >= ctx.height + UPGRADE_NOTICE_BLOCKS, UpgradesCode.TOO_SOON)

    def schedule(self, ctx: Ctx, *, contract: int, version: int, height: int) -> None:
        """Let a version come into force: called by governance once the vote has passed.

        It replaces one whose height is still to come, which is how members choose another height.
        """
        self.require_possible(ctx, contract=contract, version=version, height=height)
        current = self.row_of(contract).at(ctx.height)
        self.versions.put(contract, row=VersionRow(version=current, next_version=version, from_height=height))
        ctx.emit(UpgradeVoted(contract=contract, version=version, height=height))


# --- invariants -----------------------------------------------------------------------------------------


def check_state(tables: UpgradesTables) -> list[str]:
    """Versions go up one by one."""
    return [
        f"contract {contract} goes from version {row.version} to {row.next_version}"
        for (contract,), row in tables.versions.scan()
        if row.next_version and (row.next_version != row.version + 1 or not row.from_height)
    ]


# --- genesis --------------------------------------------------------------------------------------------


def genesis(tables: UpgradesTables, versions: tuple[ContractVersion, ...]) -> None:
    """The versions that the network begins with; a contract that is not listed begins with the first."""
    for one in versions:
        tables.versions.put(one.contract, row=VersionRow(version=one.version))


# --- queries --------------------------------------------------------------------------------------------


def versions(tables: UpgradesTables) -> Iterator[tuple[int, VersionRow]]:
    """Every contract whose version the genesis or a vote has set; the founding ones without a row stand at 1."""
    for (contract,), row in tables.versions.scan():
        yield contract, row
