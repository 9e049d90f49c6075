"""Queries: what may be read from the ledger, by whom. Local on any node; needs no block.

Every query passes the same three checks as a message (CON-3): the asker is a live member or patient → its
role may ask this → the data owner's rules let it see the answer. What is not listed here cannot be asked.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from carechain.chain.asking import (
    Allowed,
    Asker,
    Page,
    Query,
    QueryCode,
    Sights,
    View,
    anchor_reader,
    anyone,
    erasure_reader,
    grantee_itself,
    inbox_reader,
    log_reader,
    may_read_asker,
    own_organisation,
    patient_or_custodian,
    patient_side,
    recovery_reader,
    share_of,
    the_patient,
    ticket_party,
)
from carechain.chain.questions import (
    AnchorLine,
    AttemptLine,
    CeremonyLine,
    ErasureLine,
    GranteePage,
    GrantPage,
    HistoryPage,
    LogLine,
    LogPage,
    MayRead,
    MayReadAnswer,
    MisdeedLine,
    MisdeedPage,
    Named,
    NoArgs,
    OfEpoch,
    OfOrganisation,
    OfParty,
    OfPseudonym,
    OfRecord,
    OfTicket,
    PatientLine,
    PatientPage,
    ReceiptLine,
    SanctionLine,
    SanctionPage,
    StaffLine,
    StaffPage,
    TimelinePage,
)
from carechain.chain.versions import overview
from carechain.contracts import (
    access,
    governance,
    keyring,
    membership,
    records,
    recovery,
    relationships,
    sanctions,
    validators,
)
from carechain.contracts.consent import schema as consent
from carechain.contracts.consent import views
from carechain.contracts.consent.coverage import Sight
from carechain.contracts.keyring import Misdeed
from carechain.contracts.keyring import schema as keys
from carechain.contracts.roles import may_ask
from carechain.core.decision import Path
from carechain.core.limits import QUERY_PAGE_ROWS
from carechain.core.rejection import Rejected, present, require
from carechain.core.vocabulary import PartyKind
from carechain.state.table import TableSpec

__all__ = [
    "QUERIES",
    "Answer",
    "Asker",
    "QueryCode",
    "View",
    "ask",
    "decode_args",
    "log_reader",
    "patient_side",
    "share_of",
]


class Answer(Struct, frozen=True, kw_only=True):
    """``rows`` of the answer, ``after`` to ask for the next page, and what a proof of it is found by."""

    rows: tuple[Any, ...]
    after: tuple[Any, ...] | None = None
    query: Query
    args: Struct

    def keys(self) -> tuple[bytes, ...]:
        """The state keys that prove the answer; none for a query that joins or judges rather than reads."""
        return self.query.proves(self.args, self.rows)


# --- answers --------------------------------------------------------------------------------------------
# Each gives its rows and where the next page begins; the third argument is what the third check let the asker see.


def _member(view: View, args: OfOrganisation, _: object) -> Page:
    row = present(view.contracts.membership.member(args.organisation), QueryCode.NOT_FOUND)
    return (Named(args.organisation, row),), None


def _members(view: View, _args: NoArgs, _: object) -> Page:
    return tuple(Named(one, row) for one, row in view.contracts.membership.live_members()), None


def _party(view: View, args: OfParty, _: object) -> Page:
    row = present(view.contracts.membership.party(args.party), QueryCode.NOT_FOUND)
    return (Named(args.party, row),), None


def _staff(view: View, args: StaffPage, _: object) -> Page:
    found = membership.staff_of(view.contracts.membership, args.organisation, args.after)
    lines = tuple(StaffLine(one, line.enrolled_s, line.left_s, party) for one, line, party in found)
    return lines, (lines[-1].id,) if len(lines) == QUERY_PAGE_ROWS else None


def _patients(view: View, args: PatientPage, _: object) -> Page:
    found = relationships.patients_of(view.contracts.relationships, args.organisation, args.after)
    lines = tuple(PatientLine(one, row.pseudonym, row.bound_s, left_s) for one, row, left_s in found)
    return lines, (lines[-1].id_hash,) if len(lines) == QUERY_PAGE_ROWS else None


def _relation(view: View, args: OfPseudonym, _: object) -> Page:
    row = relationships.relation_of(view.contracts.relationships, args.pseudonym)
    return (present(row, QueryCode.NOT_FOUND),), None


def _summary(view: View, args: OfPseudonym, _: object) -> Page:
    return (present(relationships.summary_of(view.contracts.relationships, args.pseudonym), QueryCode.NOT_FOUND),), None


def _grants(view: View, args: GrantPage, _: object) -> Page:
    rows = tuple(views.grants_of(view.contracts.consent, args.pseudonym, view.time_s, args.after))
    return rows, (rows[-1].grant_id,) if len(rows) == QUERY_PAGE_ROWS else None


def _granted_to(view: View, args: GranteePage, _: object) -> Page:
    page, after = views.granted_to(view.contracts.consent, args.grantee, view.time_s, args.after)
    rows = tuple(one for _pseudonym, grants in page for one in grants)
    return rows, None if after is None else (after,)


def _inbox(view: View, args: OfPseudonym, _: object) -> Page:
    waiting = views.inbox_of(view.contracts.consent.tables, args.pseudonym, view.time_s)
    return tuple(Named(one, row) for one, row in waiting), None


def _rules(view: View, args: OfPseudonym, _: object) -> Page:
    found = views.rules_of(view.contracts.consent.tables, args.pseudonym)
    return tuple(Named(number.to_bytes(2, "big"), row) for number, row in found), None


def _representatives(view: View, args: OfPseudonym, _: object) -> Page:
    found = views.representatives_of(view.contracts.consent.tables, args.pseudonym)
    return tuple(Named(one, row) for one, row in found), None


def _who_can_see(view: View, args: OfRecord, _: object) -> Page:
    newest = present(records.latest(view.contracts.records, args.pseudonym, args.record), QueryCode.NOT_FOUND)
    if view.contracts.records.is_erased(args.pseudonym, args.record):
        # Grants may still name it, but no door opens: there is nothing to see.
        return (), None
    row = newest[1]
    found = views.who_can_see(
        view.contracts.consent,
        pseudonym=args.pseudonym,
        record=args.record,
        category=row.category,
        sensitivity=row.sensitivity,
        day=row.day,
        time_s=view.time_s,
    )
    return tuple(found), None


def _anchor(view: View, args: OfRecord, seen: Allowed) -> Page:
    version, row = present(records.latest(view.contracts.records, args.pseudonym, args.record), QueryCode.NOT_FOUND)
    erased = view.contracts.records.erasures.get(args.pseudonym, args.record)
    line = AnchorLine(args.record, version, row, erased)
    shown = _shown(view, args.pseudonym, seen, (line,), whole=True)
    require(shown, QueryCode.NOT_AUTHORISED)
    return shown, None


def _history(view: View, args: HistoryPage, seen: Allowed) -> Page:
    found = records.history(view.contracts.records, args.pseudonym, args.record, args.after)
    erased = view.contracts.records.erasures.get(args.pseudonym, args.record)
    lines = tuple(AnchorLine(args.record, version, row, erased) for version, row in found)
    whole = len(lines) < QUERY_PAGE_ROWS
    shown = _shown(view, args.pseudonym, seen, lines, whole=whole)
    return shown, None if whole else (lines[-1].version,)


def _timeline(view: View, args: TimelinePage, seen: Allowed) -> Page:
    found = records.timeline(view.contracts.records, args.pseudonym, args.after)
    lines = tuple(AnchorLine(record, version, row) for record, version, row in found)
    if lines:
        erased = records.erased_in(view.contracts.records, args.pseudonym, lines[0].record, lines[-1].record)
        lines = tuple(replace(one, erased=erased[one.record]) if one.record in erased else one for one in lines)
    whole = len(lines) < QUERY_PAGE_ROWS
    shown = _shown(view, args.pseudonym, seen, lines, whole=whole)
    return shown, None if whole else (lines[-1].record, lines[-1].version)


def _shown(
    view: View, pseudonym: bytes, seen: Allowed, lines: tuple[AnchorLine, ...], *, whole: bool
) -> tuple[AnchorLine, ...]:
    """The lines the asker sees. They are in order, and when ``whole`` no further line follows.

    A correction may raise a record's grade, and then its older versions are no longer shown under their old one:
    one sight must cover the version and the record's newest version both, as the gatekeeper demands too. Whoever sees
    but a part is no longer shown what was erased.
    """
    if isinstance(seen, bool):
        return lines if seen else ()
    # Lines are in order of version, so the last line of a record is its newest, unless the page ends there.
    newest = {line.record: line for line in lines}
    if lines and not whole:
        last = lines[-1].record
        version, row = records.latest(view.contracts.records, pseudonym, last) or (lines[-1].version, lines[-1].anchor)
        newest[last] = AnchorLine(last, version, row)
    return tuple(line for line in lines if _is_seen(seen, line, newest[line.record]))


def _is_seen(sights: Sights, line: AnchorLine, newest: AnchorLine) -> bool:
    if line.erased is not None:
        return False
    for one in sights:  # noqa: SIM110 - a generator for every line would be a tenth of a timeline's time
        if _covers(one, line) and (newest is line or _covers(one, newest)):
            return True
    return False


def _covers(sight: Sight, line: AnchorLine) -> bool:
    row = line.anchor
    return sight.covers(category=row.category, sensitivity=row.sensitivity, day=row.day, record=line.record)


def _erasure(view: View, args: OfRecord, _: object) -> Page:
    tables = view.contracts.records
    order = present(tables.erasures.get(args.pseudonym, args.record), QueryCode.NOT_FOUND)
    receipts = tuple(ReceiptLine(*one) for one in records.receipts_of(tables, args.pseudonym, args.record))
    return (ErasureLine(args.record, order, receipts),), None


def _ticket(view: View, args: OfTicket, _: object) -> Page:
    return (Named(args.ticket, present(view.contracts.access.tickets.get(args.ticket), QueryCode.NOT_FOUND)),), None


def _may_read(view: View, args: MayRead, _: object) -> Page:
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
        return (MayReadAnswer(0, "Allowed.", outcome),), None
    return (MayReadAnswer(int(outcome), outcome.reason, None),), None


def _log(view: View, args: LogPage, _: object) -> Page:
    found = access.log_of(view.contracts.access, args.pseudonym, args.after)
    lines = tuple(LogLine(number, line) for number, line in found)
    return lines, (lines[-1].number,) if len(lines) == QUERY_PAGE_ROWS else None


def _log_head(view: View, args: OfPseudonym, _: object) -> Page:
    return (view.contracts.access.log_heads.get(args.pseudonym) or access.EMPTY_LOG,), None


def _proposals(view: View, _args: NoArgs, _: object) -> Page:
    found = governance.proposals(view.contracts.governance)
    return tuple(Named(one, row) for one, row in found), None


def _agreements(view: View, _args: NoArgs, _: object) -> Page:
    found = governance.agreements(view.contracts.governance)
    return tuple(Named(one + other, row) for one, other, row in found), None


def _versions(view: View, _args: NoArgs, _: object) -> Page:
    return overview(view.contracts.upgrades, view.height), None


def _validators(view: View, _args: NoArgs, _: object) -> Page:
    return tuple(Named(one, row) for one, row in validators.validators(view.contracts.validators)), None


def _nodes(view: View, args: OfOrganisation, _: object) -> Page:
    found = validators.nodes_of(view.contracts.validators, args.organisation)
    return tuple(Named(one, row) for one, row in found), None


def _sanctions(view: View, args: SanctionPage, _: object) -> Page:
    found = sanctions.sanctions(view.contracts.sanctions, args.after)
    lines = tuple(SanctionLine(one, height, row) for one, height, row in found)
    return lines, (lines[-1].organisation, lines[-1].height) if len(lines) == QUERY_PAGE_ROWS else None


def _key(view: View, args: OfEpoch, _: object) -> Page:
    tables = view.contracts.keyring
    found = tables.current() if args.epoch is None else tables.key_at(args.epoch)
    return (present(found, QueryCode.NOT_FOUND),), None


def _ceremonies(view: View, _args: NoArgs, _: object) -> Page:
    return tuple(CeremonyLine(*one) for one in keyring.ceremonies(view.contracts.keyring)), None


def _misdeeds(view: View, args: MisdeedPage, _: object) -> Page:
    found = keyring.misdeeds(view.contracts.keyring, args.after)
    lines = tuple(MisdeedLine(holder, epoch, Misdeed(kind), row) for holder, epoch, kind, row in found)
    last = lines[-1] if len(lines) == QUERY_PAGE_ROWS else None
    return lines, None if last is None else (last.holder, last.epoch, int(last.kind))


def _recovery_policy(view: View, args: OfPseudonym, _: object) -> Page:
    return (recovery.policy_of(view.contracts.recovery, args.pseudonym),), None


def _recoveries(view: View, args: OfPseudonym, _: object) -> Page:
    found = view.contracts.recovery.running(args.pseudonym, view.time_s)
    return tuple(AttemptLine(number, row) for number, row in found), None


# --- what proves an answer ------------------------------------------------------------------------------


def _no_keys(_args: object, _rows: object) -> tuple[bytes, ...]:
    return ()


def _named_keys(table: TableSpec[Any]) -> Callable[[object, tuple[Named, ...]], tuple[bytes, ...]]:
    """For rows that are state rows under their own id."""
    return lambda _args, rows: tuple(table.key_of(one.id) for one in rows)


def _pseudonym_key(table: TableSpec[Any]) -> Callable[[Any, object], tuple[bytes, ...]]:
    """For the one row a patient has in a table."""
    return lambda args, _rows: (table.key_of(args.pseudonym),)


def _grant_keys(_args: object, rows: tuple[views.GrantView, ...]) -> tuple[bytes, ...]:
    return tuple(consent.GRANTS.key_of(one.pseudonym, one.grant_id) for one in rows)


def _held_keys(args: GranteePage, rows: tuple[views.GrantView, ...]) -> tuple[bytes, ...]:
    return tuple(consent.HELD.key_of(args.grantee, one) for one in dict.fromkeys(row.pseudonym for row in rows))


def _latest_keys(args: OfRecord, rows: tuple[AnchorLine, ...]) -> tuple[bytes, ...]:
    """The version and the next one: versions have no gaps, so the next one's absence shows that this is the latest."""
    keys = (records.ANCHORS.key_of(args.pseudonym, one.record, one.version + 1) for one in rows)
    return (*_anchor_keys(args, rows), *keys)


def _anchor_keys(args: HistoryPage | OfRecord | TimelinePage, rows: tuple[AnchorLine, ...]) -> tuple[bytes, ...]:
    """Every version, and for every record whether its erasure was ordered."""
    anchors = (records.ANCHORS.key_of(args.pseudonym, one.record, one.version) for one in rows)
    named = dict.fromkeys(one.record for one in rows)
    return (*anchors, *(records.ERASURES.key_of(args.pseudonym, one) for one in named))


def _erasure_keys(args: OfRecord, rows: tuple[ErasureLine, ...]) -> tuple[bytes, ...]:
    order = records.ERASURES.key_of(args.pseudonym, args.record)
    organisations = (one.organisation for row in rows for one in row.receipts)
    return (order, *(records.RECEIPTS.key_of(args.pseudonym, args.record, one) for one in organisations))


def _node_keys(args: OfOrganisation, rows: tuple[Named, ...]) -> tuple[bytes, ...]:
    return tuple(validators.NODES.key_of(args.organisation, one.id) for one in rows)


def _sanction_keys(_args: object, rows: tuple[SanctionLine, ...]) -> tuple[bytes, ...]:
    return tuple(sanctions.SANCTIONS.key_of(one.organisation, one.height) for one in rows)


def _key_keys(args: OfEpoch, rows: tuple[keyring.KeyRow, ...]) -> tuple[bytes, ...]:
    """The key, and where the present one was asked for, that its epoch is the one in force."""
    found = tuple(keys.KEYS.key_of(one.epoch) for one in rows)
    return found if args.epoch is not None else (*found, keys.CURRENT.key_of(0))


def _misdeed_keys(_args: object, rows: tuple[MisdeedLine, ...]) -> tuple[bytes, ...]:
    return tuple(keys.MISDEEDS.key_of(one.holder, one.epoch, int(one.kind)) for one in rows)


def _attempt_keys(args: OfPseudonym, rows: tuple[AttemptLine, ...]) -> tuple[bytes, ...]:
    return tuple(recovery.ATTEMPTS.key_of(args.pseudonym, one.number) for one in rows)


# --- the list (data) ------------------------------------------------------------------------------------


def _query(
    note: str,
    args: type[Struct],
    allowed: Callable[[View, Asker, Any], Allowed],
    run: Callable[[View, Any, Any], Page],
    proves: Callable[[Any, Any], tuple[bytes, ...]] = _no_keys,
) -> dict[str, Any]:
    return {"note": note, "args": args, "allowed": allowed, "run": run, "proves": proves}


QUERIES: Final[dict[str, Query]] = {
    name: Query(name=name, **fields)
    for name, fields in {
        "membership.member": _query(
            "One organisation.", OfOrganisation, anyone, _member, _named_keys(membership.MEMBERS_TABLE)
        ),
        "membership.members": _query("Every organisation that is a member.", NoArgs, anyone, _members),
        "membership.party": _query(
            "The keys, roles and validity of a party.",
            OfParty,
            anyone,
            _party,
            _named_keys(membership.PARTIES_TABLE),
        ),
        "membership.staff": _query("The organisation's staff list.", StaffPage, own_organisation, _staff),
        "relationships.patients": _query("The organisation's patients.", PatientPage, own_organisation, _patients),
        "relationships.relation": _query(
            "Whether a relationship is open, and the number of the next binding proof.",
            OfPseudonym,
            patient_or_custodian,
            _relation,
            _pseudonym_key(relationships.RELATIONS),
        ),
        "relationships.summary": _query(
            "The patient's sealed summary.",
            OfPseudonym,
            the_patient,
            _summary,
            _pseudonym_key(relationships.SUMMARIES),
        ),
        "consent.grants": _query(
            "Who has access: every grant of the patient.", GrantPage, patient_side, _grants, _grant_keys
        ),
        "consent.granted_to": _query(
            "What a person or organisation holds.", GranteePage, grantee_itself, _granted_to, _held_keys
        ),
        "consent.inbox": _query("Requests that wait for the patient.", OfPseudonym, inbox_reader, _inbox),
        "consent.rules": _query("The patient's standing rules.", OfPseudonym, patient_side, _rules),
        "consent.representatives": _query("Who acts for the patient.", OfPseudonym, patient_side, _representatives),
        "consent.who_can_see": _query(
            "Who can see this record, why, and what ends if that is revoked.", OfRecord, patient_side, _who_can_see
        ),
        "records.anchor": _query("The latest version of a record.", OfRecord, anchor_reader, _anchor, _latest_keys),
        "records.erasure": _query(
            "The order to erase a record, and who has given a receipt for what.",
            OfRecord,
            erasure_reader,
            _erasure,
            _erasure_keys,
        ),
        "records.history": _query("Every version of a record.", HistoryPage, anchor_reader, _history, _anchor_keys),
        "records.timeline": _query("The patient's records.", TimelinePage, anchor_reader, _timeline, _anchor_keys),
        "access.may_read": _query("Whether a request would be allowed.", MayRead, may_read_asker, _may_read),
        "access.ticket": _query(
            "A ticket: the decision on one request.", OfTicket, ticket_party, _ticket, _named_keys(access.TICKETS)
        ),
        "access.log": _query("The patient's access log.", LogPage, log_reader, _log, _pseudonym_key(access.LOG_HEADS)),
        "access.log_head": _query(
            "The log's count and running hash.", OfPseudonym, log_reader, _log_head, _pseudonym_key(access.LOG_HEADS)
        ),
        "recovery.policy": _query(
            "Who may recover a patient's key, and the number of the next attempt.",
            OfPseudonym,
            recovery_reader,
            _recovery_policy,
            _pseudonym_key(recovery.POLICIES),
        ),
        "recovery.pending": _query(
            "The recoveries of a patient's key that run: the notice to its owner.",
            OfPseudonym,
            recovery_reader,
            _recoveries,
            _attempt_keys,
        ),
        "governance.proposals": _query("Every vote.", NoArgs, anyone, _proposals),
        "governance.agreements": _query("Every business associate agreement.", NoArgs, anyone, _agreements),
        "governance.versions": _query(
            "Every contract's version in force, and the one voted in for a height to come.", NoArgs, anyone, _versions
        ),
        "validators.list": _query(
            "Whose consensus keys were announced, and who has a seat.",
            NoArgs,
            anyone,
            _validators,
            _named_keys(validators.VALIDATORS),
        ),
        "validators.nodes": _query(
            "The organisation's own nodes; nobody learns of another's.",
            OfOrganisation,
            own_organisation,
            _nodes,
            _node_keys,
        ),
        "sanctions.list": _query(
            "Which validators were proved to have broken the rules.", SanctionPage, anyone, _sanctions, _sanction_keys
        ),
        "keyring.key": _query(
            "The consortium's public key and its holders, now or in an epoch.", OfEpoch, anyone, _key, _key_keys
        ),
        "keyring.ceremony": _query(
            "The ceremony under way, or how the last one ended, and the one that made the present epoch.",
            NoArgs,
            anyone,
            _ceremonies,
            _named_keys(keys.CEREMONIES),
        ),
        "keyring.misdeeds": _query(
            "Which keyholders were proved to have cheated.", MisdeedPage, anyone, _misdeeds, _misdeed_keys
        ),
    }.items()
}
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


def ask(view: View, asker: Asker, name: str, args: Struct) -> Answer:
    """Answer a query after the three checks of CON-3; raises :class:`Rejected` naming the check that failed."""
    query = present(QUERIES.get(name), QueryCode.QUERY_UNKNOWN)
    require(view.contracts.membership.standing(asker.party, view.time_s) is None, QueryCode.NOT_A_LIVE_MEMBER)
    require(may_ask(asker.party, name), QueryCode.ROLE_MAY_NOT_ASK)
    allowed = query.allowed(view, asker, args)
    require(allowed, QueryCode.NOT_AUTHORISED)
    rows, after = query.run(view, args, allowed)
    return Answer(rows=rows, after=after, query=query, args=args)
