"""Access: the one decision on every request, the tickets it gives, and the patient's log of both (AUD-1, AUD-3).

A refused request is not a rejected transaction: it gets a ticket that says refused and which check failed,
and it stands in the patient's log like an allowed one. Each pseudonym carries the count and the running hash
of its log, so a state proof of that one row proves a shown log complete.
"""

from collections.abc import Iterator
from enum import IntEnum
from typing import Final, Protocol

from msgspec.structs import replace

from carechain.core.codec import encode
from carechain.core.context import Ctx
from carechain.core.decision import DecisionCode, Path
from carechain.core.hashing import ZERO_HASH, tagged
from carechain.core.ids import U16, U32, U63, Hash, PartyId, TicketId
from carechain.core.limits import QUERY_PAGE_ROWS, TICKET_LIFETIME_S
from carechain.core.message import Event, Message, Row
from carechain.core.party import HpkeKey, Party
from carechain.core.rejection import RejectionCode, present, require
from carechain.core.scope import Scope
from carechain.core.vocabulary import Action, PartyKind, Power, Purpose, Role, in_mask, mask
from carechain.state.overlay import Overlay
from carechain.state.table import TableSpec

# --- codes ----------------------------------------------------------------------------------------------


class AccessCode(RejectionCode):
    """Why a transaction about access is rejected. Why a ticket says refused: see ``DecisionCode``."""

    PSEUDONYM_UNKNOWN = 601, "No such patient pseudonym."
    SCOPE_MALFORMED = 602, "Name at least one category, a possible date window, and records sorted without repeats."
    TICKET_NOT_FOUND = 603, "No such ticket."
    TICKET_REFUSED = 604, "This ticket was refused; there is nothing to release or revoke."
    TICKET_ENDED = 605, "This ticket has expired or was revoked."
    SENDER_MAY_NOT_REVOKE = (
        606,
        "Only the patient, a representative who may revoke, or the requester may revoke a ticket.",
    )
    SENDER_NOT_CUSTODIAN = 607, "Only the custodian of the records may report what it released."
    NOTHING_RELEASED = 608, "A report counts at least one record."
    ASKED_IN_VAIN_TODAY = (
        609,
        "Your key is not live, and today's attempt is in the log already. Ask your organisation to enrol or renew you.",
    )
    SENDER_NOT_KEYHOLDER = 610, "Only a keyholder of this or the previous key epoch may report shares it released."


# --- messages -------------------------------------------------------------------------------------------


class RequestAccess(Message, frozen=True, tag="access.request"):
    """Ask to read part of a record for a purpose. Answered with a ticket, allowed or refused."""

    pseudonym: PartyId
    scope: Scope
    purpose: Purpose


class ReportRelease(Message, frozen=True, tag="access.report"):
    """The custodian's report of what its gatekeeper served under a ticket: a count and a digest of the reads."""

    ticket: TicketId
    records: U32
    digest: Hash


class ReportShares(Message, frozen=True, tag="access.report_shares"):
    """A keyholder's report of the key shares it released under a ticket: of how many records, and a digest (KEY-1)."""

    ticket: TicketId
    records: U32
    digest: Hash


class RevokeTicket(Message, frozen=True, tag="access.revoke_ticket"):
    """End a ticket before its time."""

    ticket: TicketId


# --- events ---------------------------------------------------------------------------------------------


class Decided(Event, frozen=True, tag="access.decided"):
    """A request was decided. ``decision`` is 0 when allowed, else a DecisionCode."""

    ticket: TicketId
    pseudonym: PartyId
    requester: PartyId
    custodian: PartyId
    decision: U16
    expires_s: U63


class Released(Event, frozen=True, tag="access.released"):
    """The custodian reported reads under a ticket."""

    ticket: TicketId
    pseudonym: PartyId
    records: U32


class SharesReleased(Event, frozen=True, tag="access.shares_released"):
    """A keyholder reported the shares it released under a ticket."""

    ticket: TicketId
    pseudonym: PartyId
    holder: PartyId
    records: U32


class TicketRevoked(Event, frozen=True, tag="access.ticket_revoked"):
    """A ticket was ended early."""

    ticket: TicketId
    pseudonym: PartyId


# --- tables ---------------------------------------------------------------------------------------------


class TicketRow(Row, frozen=True):
    """The ledger's decision on one request, with everything a gatekeeper needs. ``decision`` 0 means allowed."""

    requester: PartyId
    organisation: PartyId
    hpke_key: HpkeKey
    pseudonym: PartyId
    custodian: PartyId
    scope: Scope
    purpose: Purpose
    decision: U16
    path: Path | None
    decided_s: U63
    expires_s: U63
    revoked_s: U63 = 0


class EntryKind(IntEnum):
    """What a line of the log says."""

    REQUEST = 1
    RELEASE = 2
    REVOCATION = 3
    KEY_SHARES = 4


class LogRow(Row, frozen=True):
    """One line of a patient's access log. ``records`` and ``digest`` are of a release or of key shares; else zero."""

    kind: EntryKind
    ticket: TicketId
    actor: PartyId
    organisation: PartyId
    scope: Scope
    purpose: Purpose
    decision: U16
    at_s: U63
    height: U63
    records: U32 = 0
    digest: Hash = ZERO_HASH


class LogHead(Row, frozen=True):
    """How many lines the log has, and the hash that runs over all of them."""

    count: U32
    running: Hash


class AttemptRow(Row, frozen=True):
    """The last day, in days since 1970, on which a signer that is not live got a refused ticket."""

    day: U32


TICKETS: Final = TableSpec(name="access.tickets", prefix=0x50, key=(32,), row=TicketRow, note="ticket → decision")
LOG: Final = TableSpec(
    name="access.log", prefix=0x51, key=(32, 4), row=LogRow, note="pseudonym, line number from 0 → log line"
)
LOG_HEADS: Final = TableSpec(
    name="access.log_heads", prefix=0x52, key=(32,), row=LogHead, note="pseudonym → count and running hash"
)
ATTEMPTS: Final = TableSpec(
    name="access.attempts", prefix=0x53, key=(32,), row=AttemptRow, note="signer that is not live → last refused day"
)
EMPTY_LOG: Final = LogHead(count=0, running=ZERO_HASH)


class AccessTables:
    """The tables of this contract."""

    __slots__ = ("attempts", "log", "log_heads", "tickets")

    def __init__(self, state: Overlay) -> None:
        self.attempts = ATTEMPTS.bind(state)
        self.tickets = TICKETS.bind(state)
        self.log = LOG.bind(state)
        self.log_heads = LOG_HEADS.bind(state)

    def decided_s(self, ticket: bytes) -> int | None:
        """When the request was decided."""
        row = self.tickets.get(ticket)
        return row.decided_s if row is not None else None

    def pseudonym_of(self, ticket: bytes) -> bytes | None:
        """Whose records the ticket is about."""
        row = self.tickets.get(ticket)
        return row.pseudonym if row is not None else None


class Membership(Protocol):
    """What this contract needs from membership."""

    def party(self, party: bytes) -> Party | None:
        """The party with this id."""

    def standing(self, party: Party, time_s: int) -> RejectionCode | None:
        """None while the party is live, else why not."""


class Consent(Protocol):
    """What this contract needs from consent."""

    def cover(
        self,
        *,
        pseudonym: bytes,
        requester: bytes,
        party: Party,
        scope: Scope,
        purpose: Purpose,
        action: Action,
        time_s: int,
    ) -> Path | DecisionCode:
        """The path that lets the requester do this, or why there is none."""

    def refuses_to_act(self, ctx: Ctx, pseudonym: bytes, power: Power) -> RejectionCode | None:
        """None for the patient, or for a representative with this power; else why not."""


class Keyring(Protocol):
    """What this contract needs from the keyring."""

    def is_holder(self, organisation: bytes) -> bool:
        """Whether the organisation holds a share of the consortium key, in this epoch or the one before."""


# --- role table (data) ----------------------------------------------------------------------------------

_CARE: Final = (Purpose.TREAT, Purpose.ETREAT, Purpose.CAREMGT, Purpose.HOPERAT)
ROLE_PURPOSES: Final[dict[Role, int]] = {
    Role.PATIENT: mask(Purpose.PATRQT),
    Role.FAMILY_MEMBER: mask(Purpose.FAMRQT, Purpose.PWATRNY, Purpose.SUPNWK),
    Role.DOCTOR: mask(*_CARE, Purpose.HPAYMT),
    Role.NURSE: mask(*_CARE),
    Role.LAB_TECHNICIAN: mask(Purpose.TREAT, Purpose.CAREMGT),
    Role.INSURANCE_AUDITOR: mask(Purpose.HPAYMT, Purpose.COVERAGE, Purpose.CLMATTCH),
    Role.REGULATOR: mask(Purpose.HOPERAT, Purpose.PUBHLTH),
    Role.RESEARCHER: mask(Purpose.HRESCH, Purpose.PUBHLTH),
    Role.EMERGENCY_RESPONDER: mask(Purpose.TREAT, Purpose.ETREAT),
}
"""For which purposes each role may request records: the second check of CON-3. What is not listed is refused."""


# --- predicates -----------------------------------------------------------------------------------------


def role_may_request(party: Party, purpose: Purpose) -> bool:
    """Whether one of the party's roles may read records for this purpose."""
    return any(party.has_role(role) and in_mask(purpose, purposes) for role, purposes in ROLE_PURPOSES.items())


def decide(
    membership: Membership,
    consent: Consent,
    *,
    pseudonym: bytes,
    requester: bytes,
    party: Party,
    scope: Scope,
    purpose: Purpose,
    time_s: int,
) -> Path | DecisionCode:
    """The access decision, the same for a request, a pre-check and a gatekeeper's second look.

    In this order, each refusal naming its check: the requester is a live member or patient → its role may
    make this request → something the patient or the consortium set covers scope and purpose.
    """
    if membership.standing(party, time_s) is not None:
        return DecisionCode.REQUESTER_NOT_LIVE
    if not role_may_request(party, purpose):
        return DecisionCode.ROLE_MAY_NOT_REQUEST
    return consent.cover(
        pseudonym=pseudonym,
        requester=requester,
        party=party,
        scope=scope,
        purpose=purpose,
        action=Action.READ,
        time_s=time_s,
    )


def still_allowed(membership: Membership, consent: Consent, ticket: TicketRow, time_s: int) -> bool:
    """Whether a ticket may be served now: allowed, in time, not revoked, and its decision would still hold.

    What is released is sealed to the key that the ticket names: once the requester has another, nothing goes to it.
    """
    if ticket.decision or ticket.revoked_s or time_s >= ticket.expires_s:
        return False
    party = membership.party(ticket.requester)
    if party is None or party.hpke_key != ticket.hpke_key:
        return False
    again = decide(
        membership,
        consent,
        pseudonym=ticket.pseudonym,
        requester=ticket.requester,
        party=party,
        scope=ticket.scope,
        purpose=ticket.purpose,
        time_s=time_s,
    )
    return isinstance(again, Path)


# --- handlers -------------------------------------------------------------------------------------------


def request_access(
    ctx: Ctx, tables: AccessTables, membership: Membership, consent: Consent, msg: RequestAccess
) -> None:
    """Decide a request, write the ticket and the patient's log.

    A signer that is not live gets one refused ticket a day, so that the attempt stands in a patient's log; after it
    nothing is written, or else a key that was revoked could fill the state for ever.
    """
    patient = present(membership.party(msg.pseudonym), AccessCode.PSEUDONYM_UNKNOWN)
    require(patient.kind is PartyKind.PSEUDONYM, AccessCode.PSEUDONYM_UNKNOWN)
    require(msg.scope.is_well_formed(), AccessCode.SCOPE_MALFORMED)
    outcome = decide(
        membership,
        consent,
        pseudonym=msg.pseudonym,
        requester=ctx.sender,
        party=ctx.party,
        scope=msg.scope,
        purpose=msg.purpose,
        time_s=ctx.time_s,
    )
    if outcome is DecisionCode.REQUESTER_NOT_LIVE:
        _require_first_attempt(ctx, tables)
    allowed = isinstance(outcome, Path)
    ticket = TicketRow(
        requester=ctx.sender,
        organisation=ctx.party.organisation,
        hpke_key=ctx.party.hpke_key,
        pseudonym=msg.pseudonym,
        custodian=patient.organisation,
        scope=msg.scope,
        purpose=msg.purpose,
        decision=0 if isinstance(outcome, Path) else int(outcome),
        path=outcome if isinstance(outcome, Path) else None,
        decided_s=ctx.time_s,
        expires_s=ctx.time_s + TICKET_LIFETIME_S if allowed else ctx.time_s,
    )
    ticket_id = ctx.new_id("ticket")
    tables.tickets.put(ticket_id, row=ticket)
    _append(tables, msg.pseudonym, _line(ctx, EntryKind.REQUEST, ticket_id, ticket))
    ctx.emit(
        Decided(
            ticket=ticket_id,
            pseudonym=msg.pseudonym,
            requester=ctx.sender,
            custodian=patient.organisation,
            decision=ticket.decision,
            expires_s=ticket.expires_s,
        )
    )


def report_release(ctx: Ctx, tables: AccessTables, msg: ReportRelease) -> None:
    """Write into the patient's log what the custodian's gatekeeper served. Late reports count too."""
    ticket = present(tables.tickets.get(msg.ticket), AccessCode.TICKET_NOT_FOUND)
    require(ctx.party.organisation == ticket.custodian, AccessCode.SENDER_NOT_CUSTODIAN)
    _log_report(ctx, tables, EntryKind.RELEASE, msg, ticket)
    ctx.emit(Released(ticket=msg.ticket, pseudonym=ticket.pseudonym, records=msg.records))


def report_shares(ctx: Ctx, tables: AccessTables, keyring: Keyring, msg: ReportShares) -> None:
    """Write into the patient's log of how many records a keyholder released its share. Late reports count too."""
    ticket = present(tables.tickets.get(msg.ticket), AccessCode.TICKET_NOT_FOUND)
    holder = ctx.party.organisation
    require(keyring.is_holder(holder), AccessCode.SENDER_NOT_KEYHOLDER)
    _log_report(ctx, tables, EntryKind.KEY_SHARES, msg, ticket)
    ctx.emit(SharesReleased(ticket=msg.ticket, pseudonym=ticket.pseudonym, holder=holder, records=msg.records))


def revoke_ticket(ctx: Ctx, tables: AccessTables, consent: Consent, msg: RevokeTicket) -> None:
    """End a live ticket: nothing is served under it from this block on."""
    ticket = present(tables.tickets.get(msg.ticket), AccessCode.TICKET_NOT_FOUND)
    patients_side = consent.refuses_to_act(ctx, ticket.pseudonym, Power.REVOKE) is None
    require(patients_side or ctx.sender == ticket.requester, AccessCode.SENDER_MAY_NOT_REVOKE)
    require(not ticket.decision, AccessCode.TICKET_REFUSED)
    require(not ticket.revoked_s and ctx.time_s < ticket.expires_s, AccessCode.TICKET_ENDED)
    tables.tickets.put(msg.ticket, row=replace(ticket, revoked_s=ctx.time_s))
    _append(tables, ticket.pseudonym, _line(ctx, EntryKind.REVOCATION, msg.ticket, ticket))
    ctx.emit(TicketRevoked(ticket=msg.ticket, pseudonym=ticket.pseudonym))


def running_hash(previous: bytes, line: LogRow) -> bytes:
    """The next value of a log's running hash. Anyone with the lines can compute it again."""
    return tagged("carechain/access-log/1", previous, encode(line))


def _require_first_attempt(ctx: Ctx, tables: AccessTables) -> None:
    """Note the day, and refuse when it is noted already. One row for a signer, however long it goes on."""
    last = tables.attempts.get(ctx.sender)
    require(last is None or last.day < ctx.day, AccessCode.ASKED_IN_VAIN_TODAY)
    tables.attempts.put(ctx.sender, row=AttemptRow(day=ctx.day))


def _log_report(
    ctx: Ctx, tables: AccessTables, kind: EntryKind, msg: ReportRelease | ReportShares, ticket: TicketRow
) -> None:
    require(not ticket.decision, AccessCode.TICKET_REFUSED)
    require(msg.records > 0, AccessCode.NOTHING_RELEASED)
    line = replace(_line(ctx, kind, msg.ticket, ticket), records=msg.records, digest=msg.digest)
    _append(tables, ticket.pseudonym, line)


def _line(ctx: Ctx, kind: EntryKind, ticket_id: bytes, ticket: TicketRow) -> LogRow:
    return LogRow(
        kind=kind,
        ticket=ticket_id,
        actor=ctx.sender,
        organisation=ctx.party.organisation,
        scope=ticket.scope,
        purpose=ticket.purpose,
        decision=ticket.decision,
        at_s=ctx.time_s,
        height=ctx.height,
    )


def _append(tables: AccessTables, pseudonym: bytes, line: LogRow) -> None:
    head = tables.log_heads.get(pseudonym) or EMPTY_LOG
    tables.log.put(pseudonym, head.count, row=line)
    tables.log_heads.put(pseudonym, row=LogHead(count=head.count + 1, running=running_hash(head.running, line)))


# --- invariants -----------------------------------------------------------------------------------------


def check_state(tables: AccessTables) -> list[str]:
    """Every log has as many lines as its head says, and they hash to it; every line names a ticket."""
    broken: list[str] = []
    for (pseudonym,), head in tables.log_heads.scan():
        computed = EMPTY_LOG
        for (_, number), line in tables.log.scan(pseudonym):
            if number != computed.count or tables.tickets.get(line.ticket) is None:
                broken.append(f"log of {pseudonym.hex()} breaks at line {number}")
            computed = LogHead(count=computed.count + 1, running=running_hash(computed.running, line))
        if computed != head:
            broken.append(f"log of {pseudonym.hex()} does not hash to its head")
    for (ticket_id,), ticket in tables.tickets.scan():
        if (ticket.decision == 0) != (ticket.path is not None):
            broken.append(f"ticket {ticket_id.hex()} is allowed by nothing")
    return broken


# --- queries --------------------------------------------------------------------------------------------


def log_of(tables: AccessTables, pseudonym: bytes, after: int | None = None) -> Iterator[tuple[int, LogRow]]:
    """A page of the patient's access log, oldest first."""
    start = None if after is None else (pseudonym, after)
    for (_, number), line in tables.log.scan(pseudonym, after=start, limit=QUERY_PAGE_ROWS):
        yield number, line
