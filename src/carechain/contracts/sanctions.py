"""Sanctions: what the ledger does when a validator is proved to have broken the rules of agreement (LED-6).

The engine hands over evidence whose signatures it has checked. The organisation is named for good and loses its seat
until the members vote it in again: the engine's own answer, to do nothing, would leave a liar among those who decide.
"""

from collections.abc import Iterator
from typing import Final, Protocol

from carechain.core.evidence import Evidence, Offence
from carechain.core.ids import U63
from carechain.core.limits import QUERY_PAGE_ROWS
from carechain.core.message import Row
from carechain.state.overlay import Overlay
from carechain.state.table import TableSpec

# --- tables ---------------------------------------------------------------------------------------------


class SanctionRow(Row, frozen=True):
    """What an organisation's validator did, and when; ``recorded_height`` is the block that brought the evidence.

    ``unseated`` False: it had no seat to lose then, or the only one.
    """

    offence: Offence
    time_s: U63
    recorded_height: U63
    unseated: bool


SANCTIONS: Final = TableSpec(
    name="sanctions.sanctions",
    prefix=0x78,
    key=(32, 8),
    row=SanctionRow,
    note="organisation, height of the offence → what it was",
)


class SanctionsTables:
    """The table of this contract."""

    __slots__ = ("sanctions",)

    def __init__(self, state: Overlay) -> None:
        self.sanctions = SANCTIONS.bind(state)


class Seats(Protocol):
    """What this contract needs from validators."""

    def organisation_at(self, address: bytes) -> bytes | None:
        """The organisation that has, or once had, the consensus key with this address."""

    def strip(self, organisation: bytes) -> bool:
        """Take the organisation's seat, unless it is the last; says whether it lost one."""


# --- handlers -------------------------------------------------------------------------------------------


def sanction(tables: SanctionsTables, seats: Seats, evidence: Evidence, *, height: int) -> None:
    """Record one offence, once, in the block at ``height``, and take the offender's seat.

    An address that nobody ever announced names nobody, so nothing is recorded.
    """
    organisation = seats.organisation_at(evidence.address)
    if organisation is None or tables.sanctions.has(organisation, evidence.height):
        return
    row = SanctionRow(
        offence=evidence.offence,
        time_s=evidence.time_s,
        recorded_height=height,
        unseated=seats.strip(organisation),
    )
    tables.sanctions.put(organisation, evidence.height, row=row)


# --- invariants -----------------------------------------------------------------------------------------


def check_state(tables: SanctionsTables) -> list[str]:
    """No offence is recorded before it happened."""
    return [
        f"an offence of {organisation.hex()} was recorded before it happened"
        for (organisation, height), row in tables.sanctions.scan()
        if row.recorded_height < height
    ]


# --- queries --------------------------------------------------------------------------------------------


def sanctions(
    tables: SanctionsTables, after: tuple[bytes, int] | None = None
) -> Iterator[tuple[bytes, int, SanctionRow]]:
    """A page of all sanctions: organisation, height of the offence, and what it was."""
    for (organisation, height), row in tables.sanctions.scan(after=after, limit=QUERY_PAGE_ROWS):
        yield organisation, height, row
