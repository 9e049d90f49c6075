"""From committed tickets to what a caller may see and write: judged anew at every request (CON-3, CON-7, REC-2).

The decision is the gatekeeper's own (:func:`carechain.gatekeeper.decide.decide_ticket`), at the latest committed state
and with both clocks. A researcher's ticket opens no door here: for research there are pseudonymised views.
"""

from collections.abc import Callable, Sequence
from typing import Final

from msgspec import Struct

from carechain.chain.queries import View
from carechain.charts.sight import Sight, Window
from carechain.contracts.access import TicketRow
from carechain.core.decision import Path
from carechain.core.limits import STALE_BLOCK_S
from carechain.core.party import Party
from carechain.core.rejection import Rejected, present, require
from carechain.core.scope import Scope
from carechain.core.vocabulary import Action, Purpose, Sensitivity
from carechain.gatekeeper.codes import GatekeeperCode
from carechain.gatekeeper.decide import Deny, Door, Moment, decide_ticket
from carechain.gatekeeper.ledger import LedgerReader, read_decision
from carechain.gateway.codes import SmartCode

TICKETS: Final = 16
"""Tickets that one request may show."""
KEPT: Final = 10_000
"""Callers whose worth at one height is kept at hand."""


class Seen(Struct, frozen=True, kw_only=True):
    """What live tickets let their holder do. ``purpose`` is theirs, where all were given for one.

    ``creates`` and ``updates``: whether, besides, the ledger lets the holder add to and change all of it.
    """

    sight: Sight
    tickets: tuple[bytes, ...] = ()
    rows: tuple[TicketRow, ...] = ()
    purpose: Purpose | None = None
    creates: bool = False
    updates: bool = False


def live_party(view: View, party: bytes) -> Party:
    """The party, if it is live; raises ``Rejected``."""
    row = present(view.contracts.membership.party(party), SmartCode.NOT_LIVE)
    require(view.contracts.membership.standing(row, view.time_s) is None, SmartCode.NOT_LIVE)
    return row


def live_ticket(view: View, ticket: bytes, *, requester: bytes, custodian: bytes, wall_s: int) -> TicketRow:
    """The ticket's row, if it may be served now; raises ``Rejected``, with one code for whatever is wrong with it."""
    decision = read_decision(view, ticket)
    verdict = decide_ticket(
        ticket=decision.ticket,
        requester=requester,
        custodian=custodian,
        roles=decision.roles,
        path_is_live=decision.path_is_live,
        moment=Moment(block_s=decision.block_s, wall_s=wall_s),
        door=Door.RECORDS,
    )
    if isinstance(verdict, Deny):
        stale = verdict.code is GatekeeperCode.LEDGER_STALE
        raise Rejected(SmartCode.LEDGER_STALE if stale else SmartCode.TICKET_NOT_LIVE)
    return verdict.ticket


def seen_by(view: View, *, tickets: Sequence[bytes], requester: bytes, custodian: bytes, wall_s: int) -> Seen:
    """What these tickets let their holder see: each must be live. Without any, the shared directory alone."""
    require(len(tickets) <= TICKETS, SmartCode.TICKET_MALFORMED)
    chosen = tuple(dict.fromkeys(tickets))
    rows = tuple(live_ticket(view, one, requester=requester, custodian=custodian, wall_s=wall_s) for one in chosen)
    purposes = {row.purpose for row in rows}
    return Seen(
        sight=Sight(windows=tuple(Window(pseudonym=row.pseudonym, scope=row.scope) for row in rows)),
        tickets=chosen,
        rows=rows,
        purpose=purposes.pop() if len(purposes) == 1 else None,
        creates=bool(rows) and all(_may(view, row, Action.SUBMIT) or _may(view, row, Action.WRITE) for row in rows),
        updates=bool(rows) and all(_may(view, row, Action.WRITE) for row in rows),
    )


class Sights:
    """What tickets and parties are worth at this organisation; worked out once for each height of the ledger.

    Nothing of it can change between two blocks but the age of the last one, and that is looked at every time.
    """

    def __init__(self, *, ledger: LedgerReader, custodian: bytes, clock: Callable[[], int]) -> None:
        """``custodian`` is this organisation; ``clock()`` gives Unix seconds."""
        self._ledger = ledger
        self._custodian = custodian
        self._clock = clock
        self._height = -1
        self._seen: dict[tuple[bytes, tuple[bytes, ...]], Seen] = {}
        self._parties: dict[bytes, Party] = {}

    def by(self, tickets: Sequence[bytes], requester: bytes) -> Seen:
        """As :func:`seen_by`, now."""
        view, key, now_s = self._now(), (requester, tuple(tickets)), self._clock()
        found = self._seen.get(key)
        if found is None:
            found = seen_by(view, tickets=tickets, requester=requester, custodian=self._custodian, wall_s=now_s)
            self._seen[key] = found
        require(not found.tickets or abs(now_s - view.time_s) <= STALE_BLOCK_S, SmartCode.LEDGER_STALE)
        return found

    def party(self, party: bytes) -> Party:
        """As :func:`live_party`, now."""
        view = self._now()
        found = self._parties.get(party)
        if found is None:
            found = self._parties[party] = live_party(view, party)
        return found

    def _now(self) -> View:
        view = self._ledger.view()
        if view.height != self._height or len(self._seen) >= KEPT or len(self._parties) >= KEPT:
            self._height = view.height
            self._seen.clear()
            self._parties.clear()
        return view


def common(one: Scope, other: Scope) -> Scope | None:
    """What both scopes cover; None where that is nothing."""
    records = one.records or other.records
    if one.records and other.records:
        records = tuple(record for record in one.records if record in other.records)
        if not records:
            return None
    both = Scope(
        categories=one.categories & other.categories,
        ceiling=Sensitivity(min(one.ceiling, other.ceiling)),
        first_day=max(one.first_day, other.first_day),
        last_day=min(one.last_day, other.last_day),
        records=records,
    )
    return both if both.is_well_formed() else None


def _may(view: View, ticket: TicketRow, action: Action) -> bool:
    party = view.contracts.membership.party(ticket.requester)
    if party is None:
        return False
    path = view.contracts.consent.cover(
        pseudonym=ticket.pseudonym,
        requester=ticket.requester,
        party=party,
        scope=ticket.scope,
        purpose=ticket.purpose,
        action=action,
        time_s=view.time_s,
    )
    return isinstance(path, Path)
