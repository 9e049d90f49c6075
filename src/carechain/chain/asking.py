"""Who asks, over which state, and the third check of CON-3: whether the data owner lets the asker see the answer."""

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from carechain.chain.questions import (
    GranteePage,
    GrantPage,
    HistoryPage,
    LogPage,
    MayRead,
    OfOrganisation,
    OfPseudonym,
    OfRecord,
    OfTicket,
    PatientPage,
    StaffPage,
    TimelinePage,
)
from carechain.chain.routing import Contracts
from carechain.contracts import access, recovery
from carechain.contracts.consent.coverage import Sight
from carechain.core.party import Party
from carechain.core.rejection import RejectionCode
from carechain.core.vocabulary import PartyKind, Power, Role
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


Page = tuple[tuple[Any, ...], tuple[Any, ...] | None]
"""Rows, and after what the next page begins (None: there is none)."""
Sights = tuple[Sight, ...]
"""The ways in which an asker sees a patient's records: a record is shown if one of them covers it."""
Allowed = bool | Sights
"""What the third check lets an asker see: all that the query is about, some records, or nothing."""


class Query(Struct, frozen=True, kw_only=True):
    """One query: its arguments, who is let through the third check, how it is answered, and what proves the answer.

    ``allowed`` gives what the asker may see: True for everything the query is about, sights for a part of a patient's
    records, and False or no sight at all where the query is refused. ``run`` is handed that and shows no more.
    """

    name: str
    note: str
    args: type[Struct]
    allowed: Callable[[View, Asker, Any], Allowed]
    run: Callable[[View, Any, Any], Page]
    proves: Callable[[Any, tuple[Any, ...]], tuple[bytes, ...]]


# --- the third check ------------------------------------------------------------------------------------


def anyone(_view: View, _asker: Asker, _args: object) -> bool:
    """Every live party whose role may ask: the answer says nothing about patients."""
    return True


def own_organisation(_view: View, asker: Asker, args: OfOrganisation | PatientPage | StaffPage) -> bool:
    """Staff of the organisation itself."""
    return _institutional(asker) and asker.party.organisation == args.organisation


def the_patient(_view: View, asker: Asker, args: OfPseudonym) -> bool:
    """The patient alone."""
    return asker.id == args.pseudonym


def patient_or_custodian(view: View, asker: Asker, args: OfPseudonym) -> bool:
    """The patient, and staff of the organisation where the pseudonym is bound."""
    return asker.id == args.pseudonym or _is_custodian(view, asker, args.pseudonym)


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


def recovery_reader(view: View, asker: Asker, args: OfPseudonym) -> bool:
    """The patient and every representative, the guardians, and who registers patients where the pseudonym is bound."""
    pseudonym, contracts = args.pseudonym, view.contracts
    registers = asker.party.has_role(Role.REGISTRAR) or asker.party.has_role(Role.ORGANISATION_ADMIN)
    if asker.id == pseudonym or (registers and _is_custodian(view, asker, pseudonym)):
        return True
    if contracts.consent.representative(pseudonym, asker.id, view.time_s) is not None:
        return True
    return recovery.names_guardian(contracts.recovery, pseudonym, asker.id, view.time_s)


def log_reader(view: View, asker: Asker, args: LogPage | OfPseudonym) -> bool:
    """The patient's side, the custodian's administrators, and the regulator."""
    if patient_side(view, asker, args) or asker.party.has_role(Role.REGULATOR):
        return True
    return asker.party.has_role(Role.ORGANISATION_ADMIN) and _is_custodian(view, asker, args.pseudonym)


def grantee_itself(_view: View, asker: Asker, args: GranteePage) -> bool:
    """The grantee, or staff of the organisation that is the grantee."""
    return asker.id == args.grantee or (_institutional(asker) and asker.party.organisation == args.grantee)


def anchor_reader(view: View, asker: Asker, args: HistoryPage | OfRecord | TimelinePage) -> Allowed:
    """Whoever sees at least part of the patient's anchors: rows are then filtered one by one."""
    contracts = view.contracts
    pseudonym = args.pseudonym
    if asker.id == pseudonym or asker.party.has_role(Role.REGULATOR) or _is_custodian(view, asker, pseudonym):
        return True
    if args.ticket is not None:
        ticket = contracts.access.tickets.get(args.ticket)
        if ticket is None or ticket.requester != asker.id or ticket.pseudonym != pseudonym:
            return False
        live = access.still_allowed(contracts.membership, contracts.consent, ticket, view.time_s)
        return (Sight(scopes=(ticket.scope,)),) if live else False
    row = contracts.consent.representative(pseudonym, asker.id, view.time_s)
    if row is not None:
        return (Sight(scopes=(row.scope,)),) if row.powers & Power.READ_RECORDS else False
    return contracts.consent.sights(pseudonym, asker.id, asker.party, view.time_s)


def erasure_reader(view: View, asker: Asker, args: OfRecord) -> bool:
    """Whoever reads the patient's log, and a representative who may erase: receipts say who kept something."""
    if log_reader(view, asker, OfPseudonym(args.pseudonym)):
        return True
    row = view.contracts.consent.representative(args.pseudonym, asker.id, view.time_s)
    return row is not None and bool(row.powers & Power.ERASE)


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


def share_of(view: View, party: Party) -> bytes:
    """The organisation whose share of a server a party uses: a representative that of the patient it acts for."""
    patient = view.contracts.membership.party(party.organisation) if party.kind is PartyKind.REPRESENTATIVE else None
    return party.organisation if patient is None else patient.organisation


def _is_custodian(view: View, asker: Asker, pseudonym: bytes) -> bool:
    patient = view.contracts.membership.party(pseudonym)
    return _institutional(asker) and patient is not None and patient.organisation == asker.party.organisation


def _institutional(asker: Asker) -> bool:
    return asker.party.kind in (PartyKind.MEMBER, PartyKind.STAFF)
