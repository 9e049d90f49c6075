"""Queries: what may be read from the ledger, by whom. Local on any node; needs no block.

Every query passes the same three checks as a message (CON-3): the asker is a live member or patient → its
role may ask this → the data owner's rules let it see the answer. What is not listed here cannot be asked.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec
from msgspec import Struct

from carechain.chain.routing import Contracts
from carechain.contracts import access, governance, membership, records, relationships
from carechain.contracts.consent import schema as consent
from carechain.contracts.consent import views
from carechain.contracts.consent.coverage import Sight
from carechain.core.decision import Path
from carechain.core.ids import U32, PartyId, RecordId, TicketId
from carechain.core.limits import QUERY_PAGE_ROWS
from carechain.core.party import Party
from carechain.core.rejection import Rejected, RejectionCode, present, require
from carechain.core.scope import Scope
from carechain.core.vocabulary import PartyKind, Power, Purpose, Role
from carechain.state.overlay import Overlay, Reader


class QueryCode(RejectionCode):
    """Why a query is refused; the first three name the check of CON-3 that failed."""

    NOT_A_LIVE_MEMBER = 801, "Check 1, member: your certificate or your organisation is not live."
    ROLE_MAY_NOT_ASK = 802, "Check 2, role: your role may not ask this."
    NOT_AUTHORISED = 803, "Check 3, authorised: the data owner has not let you see this."
    QUERY_UNKNOWN = 804, "No such query. See the list in the reference."
    ARGUMENTS_MALFORMED = 805, "The arguments do not fit the query. See the reference."
    NOT_FOUND = 806, "There is nothing under this name."


class Asker(Struct, frozen=True):
    """Who asks: authenticated by the node, judged here."""

    id: bytes
    party: Party


class View:
    """The committed state at one height, as the contracts see it. Nothing asked here can change it."""

    __slots__ = ("contracts", "height", "time_s")

    def __init__(self, *, snapshot: Reader, height: int, time_s: int) -> None:
        self.contracts = Contracts(Overlay(snapshot))
        self.height = height
        self.time_s = time_s


class Answer(Struct, frozen=True, kw_only=True):
    """``rows`` of the answer, ``after`` to ask for the next page, and the state keys a proof can be had for."""

    rows: tuple[Any, ...]
    after: tuple[Any, ...] | None = None
    keys: tuple[bytes, ...] = ()


class Query(Struct, frozen=True, kw_only=True):
    """One query: its arguments, who is let through the third check, and how it is answered."""

    name: str
    note: str
    args: type[Struct]
    allowed: Callable[[View, Asker, Any], bool]
    run: Callable[[View, Asker, Any], Answer]


# --- arguments ------------------------------------------------------------------------------------------


class NoArgs(Struct, frozen=True, forbid_unknown_fields=True):
    """No arguments."""


class OfOrganisation(Struct, frozen=True, forbid_unknown_fields=True):
    """About an organisation."""

    organisation: PartyId


class OfParty(Struct, frozen=True, forbid_unknown_fields=True):
    """About a party."""

    party: PartyId


class OfPseudonym(Struct, frozen=True, forbid_unknown_fields=True):
    """About a patient's pseudonym."""

    pseudonym: PartyId


class GrantPage(Struct, frozen=True, forbid_unknown_fields=True):
    """A page of grants, from after the given grant."""

    pseudonym: PartyId
    after: PartyId | None = None


class GranteePage(Struct, frozen=True, forbid_unknown_fields=True):
    """A page of what a grantee holds, from after the given pseudonym."""

    grantee: PartyId
    after: PartyId | None = None


class OfRecord(Struct, frozen=True, forbid_unknown_fields=True):
    """About a record; with a ticket, seen through that ticket."""

    pseudonym: PartyId
    record: RecordId
    ticket: TicketId | None = None


class TimelinePage(Struct, frozen=True, forbid_unknown_fields=True):
    """A page of a patient's anchors, from after the given record and version; with a ticket, seen through it."""

    pseudonym: PartyId
    ticket: TicketId | None = None
    after: tuple[RecordId, U32] | None = None


class OfTicket(Struct, frozen=True, forbid_unknown_fields=True):
    """About a ticket."""

    ticket: TicketId


class MayRead(Struct, frozen=True, forbid_unknown_fields=True):
    """Would this request be allowed now? Leaves no trace, gives no ticket."""

    pseudonym: PartyId
    requester: PartyId
    scope: Scope
    purpose: Purpose


class LogPage(Struct, frozen=True, forbid_unknown_fields=True):
    """A page of a patient's access log, from after the given line."""

    pseudonym: PartyId
    after: U32 | None = None


# --- rows that are not state rows -----------------------------------------------------------------------


class Named(Struct, frozen=True):
    """A state row with its id."""

    id: bytes
    row: Any


class StaffLine(Struct, frozen=True):
    """A line of the staff list."""

    id: bytes
    enrolled_s: int
    left_s: int
    party: Party


class PatientLine(Struct, frozen=True):
    """A patient of an organisation."""

    id_hash: bytes
    pseudonym: bytes
    bound_s: int
    left_s: int


class AnchorLine(Struct, frozen=True):
    """One version of a record."""

    record: bytes
    version: int
    anchor: records.AnchorRow


class LogLine(Struct, frozen=True):
    """One line of an access log."""

    number: int
    line: access.LogRow


class MayReadAnswer(Struct, frozen=True):
    """``decision`` 0 means allowed, and ``path`` by what; otherwise the DecisionCode and its sentence."""

    decision: int
    reason: str
    path: Path | None


# --- the third check ------------------------------------------------------------------------------------


def anyone(_view: View, _asker: Asker, _args: object) -> bool:
    """Every live party whose role may ask: the answer says nothing about patients."""
    return True


def own_organisation(_view: View, asker: Asker, args: OfOrganisation) -> bool:
    """Staff of the organisation itself."""
    return _institutional(asker) and asker.party.organisation == args.organisation


def the_patient(_view: View, asker: Asker, args: OfPseudonym) -> bool:
    """The patient alone."""
    return asker.id == args.pseudonym


def patient_side(view: View, asker: Asker, args: OfPseudonym | GrantPage | LogPage | OfRecord) -> bool:
    """The patient, or a representative who may read the log."""
    if asker.id == args.pseudonym:
        return True
    row = view.contracts.consent.representative(args.pseudonym, asker.id, view.time_s)
    return row is not None and bool(row.powers & Power.READ_LOG)


def inbox_reader(view: View, asker: Asker, args: OfPseudonym) -> bool:
    """The patient, or a representative who may answer for the patient or read the log."""
    if asker.id == args.pseudonym:
        return True
    row = view.contracts.consent.representative(args.pseudonym, asker.id, view.time_s)
    return row is not None and bool(row.powers & (Power.ANSWER | Power.READ_LOG))


def log_reader(view: View, asker: Asker, args: LogPage | OfPseudonym) -> bool:
    """The patient's side, the custodian's administrators, and the regulator."""
    if patient_side(view, asker, args) or asker.party.has_role(Role.REGULATOR):
        return True
    return asker.party.has_role(Role.ORGANISATION_ADMIN) and _is_custodian(view, asker, args.pseudonym)


def grantee_itself(_view: View, asker: Asker, args: GranteePage) -> bool:
    """The grantee, or staff of the organisation that is the grantee."""
    return asker.id == args.grantee or (_institutional(asker) and asker.party.organisation == args.grantee)


def anchor_reader(view: View, asker: Asker, args: OfRecord | TimelinePage) -> bool:
    """Whoever sees at least part of the patient's anchors: rows are then filtered one by one."""
    return bool(_sight(view, asker, args.pseudonym, args.ticket))


def ticket_party(view: View, asker: Asker, args: OfTicket) -> bool:
    """Everyone a ticket concerns: requester, patient's side, custodian, regulator."""
    ticket = view.contracts.access.tickets.get(args.ticket)
    if ticket is None:
        return False
    return (
        asker.id == ticket.requester
        or patient_side(view, asker, OfPseudonym(ticket.pseudonym))
        or (_institutional(asker) and asker.party.organisation == ticket.custodian)
        or asker.party.has_role(Role.REGULATOR)
    )


def may_read_asker(view: View, asker: Asker, args: MayRead) -> bool:
    """The requester about itself, its organisation about its staff, the patient's side about anyone."""
    if asker.id == args.requester or patient_side(view, asker, OfPseudonym(args.pseudonym)):
        return True
    requester = view.contracts.membership.party(args.requester)
    return requester is not None and _institutional(asker) and requester.organisation == asker.party.organisation


_EVERYTHING: Final = (Sight(scopes=()),)
"""Sight without any scope to stay inside: everything is seen."""


def _sight(view: View, asker: Asker, pseudonym: bytes, ticket_id: bytes | None) -> tuple[Sight, ...]:
    """The ways in which the asker sees anchors: a row is shown if one of them covers it."""
    contracts = view.contracts
    if asker.id == pseudonym or asker.party.has_role(Role.REGULATOR):
        return _EVERYTHING
    if _is_custodian(view, asker, pseudonym):
        return _EVERYTHING
    if ticket_id is not None:
        ticket = contracts.access.tickets.get(ticket_id)
        if ticket is None or ticket.requester != asker.id or ticket.pseudonym != pseudonym:
            return ()
        live = access.still_allowed(contracts.membership, contracts.consent, ticket, view.time_s)
        return (Sight(scopes=(ticket.scope,)),) if live else ()
    row = contracts.consent.representative(pseudonym, asker.id, view.time_s)
    if row is not None:
        return (Sight(scopes=(row.scope,)),) if row.powers & Power.READ_RECORDS else ()
    return contracts.consent.sights(pseudonym, asker.id, asker.party, view.time_s)


def _is_custodian(view: View, asker: Asker, pseudonym: bytes) -> bool:
    patient = view.contracts.membership.party(pseudonym)
    return _institutional(asker) and patient is not None and patient.organisation == asker.party.organisation


def _institutional(asker: Asker) -> bool:
    return asker.party.kind in (PartyKind.MEMBER, PartyKind.STAFF)


# --- answers --------------------------------------------------------------------------------------------


def _member(view: View, _asker: Asker, args: OfOrganisation) -> Answer:
    row = present(view.contracts.membership.member(args.organisation), QueryCode.NOT_FOUND)
    return Answer(rows=(Named(args.organisation, row),), keys=(membership.MEMBERS_TABLE.key_of(args.organisation),))


def _members(view: View, _asker: Asker, _args: NoArgs) -> Answer:
    return Answer(rows=tuple(Named(one, row) for one, row in view.contracts.membership.live_members()))


def _party(view: View, _asker: Asker, args: OfParty) -> Answer:
    row = present(view.contracts.membership.party(args.party), QueryCode.NOT_FOUND)
    return Answer(rows=(Named(args.party, row),), keys=(membership.PARTIES_TABLE.key_of(args.party),))


def _staff(view: View, _asker: Asker, args: OfOrganisation) -> Answer:
    lines = membership.staff_of(view.contracts.membership, args.organisation)
    return Answer(rows=tuple(StaffLine(one, line.enrolled_s, line.left_s, party) for one, line, party in lines))


def _patients(view: View, _asker: Asker, args: OfOrganisation) -> Answer:
    found = relationships.patients_of(view.contracts.relationships, args.organisation)
    return Answer(rows=tuple(PatientLine(one, row.pseudonym, row.bound_s, left_s) for one, row, left_s in found))


def _summary(view: View, _asker: Asker, args: OfPseudonym) -> Answer:
    row = present(relationships.summary_of(view.contracts.relationships, args.pseudonym), QueryCode.NOT_FOUND)
    return Answer(rows=(row,), keys=(relationships.SUMMARIES.key_of(args.pseudonym),))


def _grants(view: View, _asker: Asker, args: GrantPage) -> Answer:
    rows = views.grants_of(view.contracts.consent, args.pseudonym, view.time_s, args.after)
    after = (rows[-1].grant_id,) if len(rows) == QUERY_PAGE_ROWS else None
    return Answer(
        rows=tuple(rows), after=after, keys=tuple(consent.GRANTS.key_of(one.pseudonym, one.grant_id) for one in rows)
    )


def _granted_to(view: View, _asker: Asker, args: GranteePage) -> Answer:
    page = views.granted_to(view.contracts.consent, args.grantee, view.time_s, args.after)
    after = (page[-1][0],) if len(page) == QUERY_PAGE_ROWS else None
    return Answer(
        rows=tuple(one for _, grants in page for one in grants),
        after=after,
        keys=tuple(consent.HELD.key_of(args.grantee, pseudonym) for pseudonym, _ in page),
    )


def _inbox(view: View, _asker: Asker, args: OfPseudonym) -> Answer:
    waiting = views.inbox_of(view.contracts.consent.tables, args.pseudonym, view.time_s)
    return Answer(rows=tuple(Named(one, row) for one, row in waiting))


def _rules(view: View, _asker: Asker, args: OfPseudonym) -> Answer:
    found = views.rules_of(view.contracts.consent.tables, args.pseudonym)
    return Answer(rows=tuple(Named(number.to_bytes(2, "big"), row) for number, row in found))


def _representatives(view: View, _asker: Asker, args: OfPseudonym) -> Answer:
    found = views.representatives_of(view.contracts.consent.tables, args.pseudonym)
    return Answer(rows=tuple(Named(one, row) for one, row in found))


def _who_can_see(view: View, _asker: Asker, args: OfRecord) -> Answer:
    newest = present(records.latest(view.contracts.records, args.pseudonym, args.record), QueryCode.NOT_FOUND)
    row = newest[1]
    return Answer(
        rows=tuple(
            views.who_can_see(
                view.contracts.consent,
                pseudonym=args.pseudonym,
                record=args.record,
                category=row.category,
                sensitivity=row.sensitivity,
                day=row.day,
                time_s=view.time_s,
            )
        )
    )


def _seen(
    view: View, asker: Asker, pseudonym: bytes, ticket: bytes | None, lines: Iterator[AnchorLine]
) -> tuple[AnchorLine, ...]:
    """The lines inside the asker's sight.

    A correction may raise a record's grade, and then its older versions are no longer shown under their old one:
    one sight must cover the version and the record's newest version both, as the gatekeeper demands too.
    """
    sights = _sight(view, asker, pseudonym, ticket)
    if sights == _EVERYTHING:
        return tuple(lines)
    newest: dict[bytes, AnchorLine] = {}

    def newest_of(line: AnchorLine) -> AnchorLine:
        if line.record not in newest:
            found = records.latest(view.contracts.records, pseudonym, line.record)
            newest[line.record] = AnchorLine(line.record, *found) if found else line
        return newest[line.record]

    return tuple(line for line in lines if any(_covers(one, line) and _covers(one, newest_of(line)) for one in sights))


def _covers(sight: Sight, line: AnchorLine) -> bool:
    row = line.anchor
    return sight.covers(category=row.category, sensitivity=row.sensitivity, day=row.day, record=line.record)


def _anchor(view: View, asker: Asker, args: OfRecord) -> Answer:
    version, row = present(records.latest(view.contracts.records, args.pseudonym, args.record), QueryCode.NOT_FOUND)
    shown = _seen(view, asker, args.pseudonym, args.ticket, iter((AnchorLine(args.record, version, row),)))
    require(shown, QueryCode.NOT_AUTHORISED)
    return Answer(rows=shown, keys=(records.ANCHORS.key_of(args.pseudonym, args.record, version),))


def _history(view: View, asker: Asker, args: OfRecord) -> Answer:
    found = records.history(view.contracts.records, args.pseudonym, args.record)
    lines = (AnchorLine(args.record, version, row) for version, row in found)
    return _anchors(args.pseudonym, _seen(view, asker, args.pseudonym, args.ticket, lines), None)


def _timeline(view: View, asker: Asker, args: TimelinePage) -> Answer:
    found = records.timeline(view.contracts.records, args.pseudonym, args.after)
    lines = [AnchorLine(record, version, row) for record, version, row in found]
    after = (lines[-1].record, lines[-1].version) if len(lines) == QUERY_PAGE_ROWS else None
    return _anchors(args.pseudonym, _seen(view, asker, args.pseudonym, args.ticket, iter(lines)), after)


def _anchors(pseudonym: bytes, lines: tuple[AnchorLine, ...], after: tuple[Any, ...] | None) -> Answer:
    return Answer(
        rows=lines,
        after=after,
        keys=tuple(records.ANCHORS.key_of(pseudonym, line.record, line.version) for line in lines),
    )


def _ticket(view: View, _asker: Asker, args: OfTicket) -> Answer:
    row = present(view.contracts.access.tickets.get(args.ticket), QueryCode.NOT_FOUND)
    return Answer(rows=(Named(args.ticket, row),), keys=(access.TICKETS.key_of(args.ticket),))


def _may_read(view: View, _asker: Asker, args: MayRead) -> Answer:
    contracts = view.contracts
    party = present(contracts.membership.party(args.requester), QueryCode.NOT_FOUND)
    patient = present(contracts.membership.party(args.pseudonym), QueryCode.NOT_FOUND)
    require(patient.kind is PartyKind.PSEUDONYM, QueryCode.NOT_FOUND)
    require(args.scope.is_well_formed(), QueryCode.ARGUMENTS_MALFORMED)
    outcome = access.decide(
        contracts.membership,
        contracts.consent,
        pseudonym=args.pseudonym,
        requester=args.requester,
        party=party,
        scope=args.scope,
        purpose=args.purpose,
        time_s=view.time_s,
    )
    if isinstance(outcome, Path):
        return Answer(rows=(MayReadAnswer(0, "Allowed.", outcome),))
    return Answer(rows=(MayReadAnswer(int(outcome), outcome.reason, None),))


def _log(view: View, _asker: Asker, args: LogPage) -> Answer:
    lines = tuple(
        LogLine(number, line) for number, line in access.log_of(view.contracts.access, args.pseudonym, args.after)
    )
    after = (lines[-1].number,) if len(lines) == QUERY_PAGE_ROWS else None
    return Answer(rows=lines, after=after, keys=(access.LOG_HEADS.key_of(args.pseudonym),))


def _log_head(view: View, _asker: Asker, args: OfPseudonym) -> Answer:
    head = view.contracts.access.log_heads.get(args.pseudonym) or access.EMPTY_LOG
    return Answer(rows=(head,), keys=(access.LOG_HEADS.key_of(args.pseudonym),))


def _proposals(view: View, _asker: Asker, _args: NoArgs) -> Answer:
    found = governance.proposals(view.contracts.governance)
    return Answer(rows=tuple(Named(one, row) for one, row in found))


def _agreements(view: View, _asker: Asker, _args: NoArgs) -> Answer:
    found = governance.agreements(view.contracts.governance)
    return Answer(rows=tuple(Named(one + other, row) for one, other, row in found))


# --- the list (data) ------------------------------------------------------------------------------------


def _query(
    name: str,
    note: str,
    args: type[Struct],
    allowed: Callable[[View, Asker, Any], bool],
    run: Callable[[View, Asker, Any], Answer],
) -> tuple[str, Query]:
    return name, Query(name=name, note=note, args=args, allowed=allowed, run=run)


QUERIES: Final[dict[str, Query]] = dict(
    (
        _query("membership.member", "One organisation.", OfOrganisation, anyone, _member),
        _query("membership.members", "Every organisation that is a member.", NoArgs, anyone, _members),
        _query("membership.party", "The keys, roles and validity of a party.", OfParty, anyone, _party),
        _query("membership.staff", "The organisation's staff list.", OfOrganisation, own_organisation, _staff),
        _query("relationships.patients", "The organisation's patients.", OfOrganisation, own_organisation, _patients),
        _query("relationships.summary", "The patient's sealed summary.", OfPseudonym, the_patient, _summary),
        _query("consent.grants", "Who has access: every grant of the patient.", GrantPage, patient_side, _grants),
        _query("consent.granted_to", "What a person or organisation holds.", GranteePage, grantee_itself, _granted_to),
        _query("consent.inbox", "Requests that wait for the patient.", OfPseudonym, inbox_reader, _inbox),
        _query("consent.rules", "The patient's standing rules.", OfPseudonym, patient_side, _rules),
        _query("consent.representatives", "Who acts for the patient.", OfPseudonym, patient_side, _representatives),
        _query(
            "consent.who_can_see",
            "Who can see this record, why, and what ends if that is revoked.",
            OfRecord,
            patient_side,
            _who_can_see,
        ),
        _query("records.anchor", "The latest version of a record.", OfRecord, anchor_reader, _anchor),
        _query("records.history", "Every version of a record.", OfRecord, anchor_reader, _history),
        _query("records.timeline", "The patient's records.", TimelinePage, anchor_reader, _timeline),
        _query("access.may_read", "Whether a request would be allowed.", MayRead, may_read_asker, _may_read),
        _query("access.ticket", "A ticket: the decision on one request.", OfTicket, ticket_party, _ticket),
        _query("access.log", "The patient's access log.", LogPage, log_reader, _log),
        _query("access.log_head", "The log's count and running hash.", OfPseudonym, log_reader, _log_head),
        _query("governance.proposals", "Every vote.", NoArgs, anyone, _proposals),
        _query("governance.agreements", "Every business associate agreement.", NoArgs, anyone, _agreements),
    )
)
_decoders: Final = {name: msgspec.msgpack.Decoder(query.args) for name, query in QUERIES.items()}


def decode_args(name: str, data: bytes) -> Struct:
    """The arguments of a query from msgpack (a map by field name); raises :class:`Rejected`."""
    decoder = _decoders.get(name)
    if decoder is None:
        raise Rejected(QueryCode.QUERY_UNKNOWN)
    try:
        args: Struct = decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Rejected(QueryCode.ARGUMENTS_MALFORMED) from None
    return args


def admit_asker(view: View, asker: Asker, name: str, args: Struct) -> Query:
    """The three checks of CON-3 for a query; raises :class:`Rejected` naming the check that failed."""
    query = present(QUERIES.get(name), QueryCode.QUERY_UNKNOWN)
    require(view.contracts.membership.standing(asker.party, view.time_s) is None, QueryCode.NOT_A_LIVE_MEMBER)
    require(membership.may_ask(asker.party, name), QueryCode.ROLE_MAY_NOT_ASK)
    require(query.allowed(view, asker, args), QueryCode.NOT_AUTHORISED)
    return query


def ask(view: View, asker: Asker, name: str, args: Struct) -> Answer:
    """Check, then answer."""
    return admit_asker(view, asker, name, args).run(view, asker, args)
