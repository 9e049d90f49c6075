"""What a gatekeeper needs of the ledger, and how it reads a decision and the anchors of a release from it."""

from collections.abc import Iterator, Sequence
from typing import Final, Protocol

from msgspec import Struct
from msgspec.structs import replace

from carechain.chain.queries import View
from carechain.chain.receipts import Receipt
from carechain.contracts import access, records
from carechain.contracts.access import TicketRow
from carechain.core.limits import RECORD_VERSIONS
from carechain.gatekeeper.decide import Wanted, covers

LATEST: Final = 0
"""The version number that asks for whatever is newest."""


class Committed(Protocol):
    """A transaction that is on the ledger, durably."""

    @property
    def height(self) -> int:
        """The block it stands in."""

    @property
    def receipt(self) -> Receipt:
        """What became of it."""


class LedgerReader(Protocol):
    """The organisation's own replica of the ledger. A gatekeeper believes this and nothing it is shown."""

    @property
    def chain_id(self) -> str:
        """The network's name."""

    def view(self) -> View:
        """The committed state at the latest height."""

    async def submit(self, raw: bytes) -> Committed:
        """Order a signed transaction; returns when it is durable, raises ``Rejected`` when it is not admitted."""


class Decision(Struct, frozen=True, kw_only=True):
    """A committed ticket (None: none), whether it may still be served at ``height``, and its holder's roles."""

    ticket: TicketRow | None
    roles: int
    path_is_live: bool
    height: int
    block_s: int


def read_decision(view: View, ticket_id: bytes) -> Decision:
    """Re-read the ticket and judge its path again at the view's height."""
    contracts = view.contracts
    ticket = contracts.access.tickets.get(ticket_id)
    live = ticket is not None and access.still_allowed(contracts.membership, contracts.consent, ticket, view.time_s)
    holder = None if ticket is None else contracts.membership.party(ticket.requester)
    roles = 0 if holder is None else holder.roles
    return Decision(ticket=ticket, roles=roles, path_is_live=live, height=view.height, block_s=view.time_s)


def read_wanted(view: View, pseudonym: bytes, asked: Sequence[tuple[bytes, int]]) -> tuple[Wanted, ...]:
    """The anchors of the records asked for, given as (record id, version); version 0 is the newest."""
    return tuple(_wanted(view, pseudonym, record_id, version) for record_id, version in asked)


def still_there(view: View, pseudonym: bytes, wanted: Sequence[Wanted]) -> tuple[Wanted, ...]:
    """The same records, as erased where an erasure was ordered since they were read from the ledger."""
    erased = view.contracts.records.is_erased
    return tuple(replace(one, erased=True) if erased(pseudonym, one.record_id) else one for one in wanted)


def in_scope(view: View, ticket: TicketRow, after: bytes | None) -> Iterator[Wanted]:
    """The newest version of every record the ticket covers and nobody erased, by record id, above ``after`` only."""
    start = None if after is None else (ticket.pseudonym, after, RECORD_VERSIONS + 1)
    anchors = view.contracts.records.anchors.scan(ticket.pseudonym, after=start)
    newest: Wanted | None = None
    for (_, record_id, version), row in anchors:
        if newest is not None and newest.record_id != record_id:
            yield from _covered(view, ticket, newest)
        newest = Wanted(record_id=record_id, version=version, anchor=row, newest=row)
    if newest is not None:
        yield from _covered(view, ticket, newest)


def _covered(view: View, ticket: TicketRow, wanted: Wanted) -> Iterator[Wanted]:
    if wanted.newest is None or not covers(ticket, wanted.record_id, wanted.newest):
        return
    if not view.contracts.records.is_erased(ticket.pseudonym, wanted.record_id):
        yield wanted


def _wanted(view: View, pseudonym: bytes, record_id: bytes, version: int) -> Wanted:
    newest = records.latest(view.contracts.records, pseudonym, record_id)
    if newest is None:
        return Wanted(record_id=record_id, version=version, anchor=None, newest=None)
    number = newest[0] if version == LATEST else version
    anchor = view.contracts.records.anchors.get(pseudonym, record_id, number)
    erased = view.contracts.records.is_erased(pseudonym, record_id)
    return Wanted(record_id=record_id, version=number, anchor=anchor, newest=newest[1], erased=erased)
