"""Consent over FHIR: grants and standing rules out, messages to sign in (CON-10, IHE PCF).

A patient and a representative who may read the log see every grant and rule of that patient; everybody else sees the
grants that are to him or to his organisation. ``Consent/$to-messages`` turns a Consent into the messages that the
patient signs: the server signs nothing, and nothing is in force before the ledger has them.
"""

import base64
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, tzinfo
from typing import Any, Final

import msgspec

from carechain.chain.asking import QueryCode
from carechain.chain.questions import GranteePage, GrantPage, OfPseudonym
from carechain.charts.repository import Reader, Repository
from carechain.contracts.consent.schema import SetRule
from carechain.contracts.consent.views import GrantView
from carechain.core.codec import encode
from carechain.core.message import Message
from carechain.core.rejection import present, require
from carechain.gateway.fhir.providing import Handler  # noqa: TC001 - not only a type
from carechain.gateway.principal import Principal
from carechain.gateway.providers.ledger import (
    Caller,
    LedgerView,
    just_before,
    named_patient,
    patients_of,
    shown_patient,
)
from carechain.gateway.providers.matching import matching, within_scopes
from carechain.sdk.pcf import Held, to_messages
from carechain.sdk.pcf_codes import DocumentCode
from carechain.sdk.pcf_reading import read_consent
from carechain.sdk.pcf_terms import PARTY, id_in
from carechain.sdk.pcf_writing import Setting, grant_consent, read_numbered, rule_consent

PATIENT_PARAMETERS: Final = frozenset({"patient", "patient:Patient", "patient:identifier"})
GROUP_MEMBERS: Final = 64
_GRANTEE_ROWS: Final = 4_000


class ConsentProvider:
    """Consents made from the ledger beside those that are stored as documents."""

    types: Final = frozenset({"Consent"})
    writable: Final = True

    def __init__(self, *, ledger: LedgerView, charts: Repository, zone: tzinfo = UTC) -> None:
        """``zone`` is where dates without an offset count."""
        self._ledger = ledger
        self._charts = charts
        self._zone = zone
        self.operations: Final[Mapping[tuple[str, str], Handler]] = {("Consent", "$to-messages"): self._to_messages}

    async def read(self, principal: Principal, resource_type: str, resource_id: str) -> bytes | None:  # noqa: ARG002 - one type
        """The Consent of a grant or of a standing rule that the caller may see."""
        # The ledger is only read in the loop that owns it, so nothing of this goes to a thread.
        body = self._read(principal, resource_id)
        return None if body is None else next(iter(within_scopes(principal, "Consent", [body], zone=self._zone)), None)

    async def search(
        self,
        principal: Principal,
        resource_type: str,
        params: Sequence[tuple[str, str]],
    ) -> list[bytes]:
        """The matches, the patient's grants by id, then the rules by number."""
        return self._search(principal, resource_type, params)

    # --- out ----------------------------------------------------------------------------------------------

    def _read(self, principal: Principal, resource_id: str) -> bytes | None:
        caller = Caller(self._ledger.view(), principal)
        with self._charts.reading() as reader:
            numbered = read_numbered(resource_id)
            if numbered is not None:
                pseudonym = numbered[0]
                rules = _rules(caller, reader, pseudonym)
                return next((body for body in rules if msgspec.json.decode(body)["id"] == resource_id), None)
            grant_id = id_in(resource_id)
            if grant_id is None:
                return None
            view = _grant(caller, grant_id)
            return None if view is None else _shown(caller, reader, view)

    def _search(self, principal: Principal, resource_type: str, params: Sequence[tuple[str, str]]) -> list[bytes]:
        caller = Caller(self._ledger.view(), principal)
        with self._charts.reading() as reader:
            others = []
            named: list[bytes | None] = []
            for name, value in params:
                if name in PATIENT_PARAMETERS:
                    named.append(named_patient(reader, principal, value))
                else:
                    others.append((name, value))
            if None in named or len({*named}) > 1:
                return []
            wanted = named[0] if named else None
            bodies = [_shown(caller, reader, view) for view in _grants(caller, wanted)]
            for pseudonym in patients_of(caller, wanted):
                bodies += _rules(caller, reader, pseudonym)
        readable = within_scopes(principal, resource_type, bodies, zone=self._zone)
        return matching(readable, resource_type, others, zone=self._zone)

    # --- in -----------------------------------------------------------------------------------------------

    async def _to_messages(
        self,
        principal: Principal,
        resource_id: str,  # noqa: ARG002 - an operation on the type
        params: Sequence[tuple[str, str]],  # noqa: ARG002 - it takes none
        body: bytes,
    ) -> bytes:
        """The messages for a Consent, as a Parameters resource; refused where it cannot be said on the ledger."""
        return self._messages(principal, body)

    def _messages(self, principal: Principal, body: bytes) -> bytes:
        caller = Caller(self._ledger.view(), principal)
        with self._charts.reading() as reader:
            pseudonym = present(_subject(caller, reader, body, self._zone), DocumentCode.NO_SUCH_PATIENT)
            about = OfPseudonym(pseudonym)
            messages = to_messages(
                body,
                pseudonym=pseudonym,
                now_s=caller.view.time_s,
                naming=_ChartNaming(reader, principal),
                zone=self._zone,
                rules=[int.from_bytes(one.id) for one in caller.rows("consent.rules", about)],
            )
        if any(isinstance(one, SetRule) for one in messages):
            # Without the patient's rules before one's eyes a new one could take the place of another.
            require(caller.may("consent.rules", about), QueryCode.NOT_AUTHORISED)
        return msgspec.json.encode(
            {"resourceType": "Parameters", "parameter": [_message_parameter(one) for one in messages]}
        )


def _message_parameter(message: Message) -> dict[str, Any]:
    """A message by its name, and its bytes as they go into a transaction."""
    return {
        "name": "message",
        "part": [
            {"name": "type", "valueString": message.__struct_config__.tag},
            {"name": "content", "valueBase64Binary": base64.b64encode(encode(message)).decode("ascii")},
        ],
    }


def _subject(caller: Caller, reader: Reader, body: bytes, zone: tzinfo) -> bytes | None:
    """Whose Consent it is: the caller's own pseudonym, else the patient that the Consent names and the caller sees."""
    named = read_consent(body, zone=zone).patient
    written = f"{named.system}|{named.value}" if named.system else named.reference
    found = named_patient(reader, caller.principal, written)
    own = caller.own_pseudonym()
    if own is None:
        return found
    require(found in (None, own), DocumentCode.CONSENT_OF_ANOTHER)
    return own


def _grants(caller: Caller, wanted: bytes | None) -> Iterator[GrantView]:
    """The grants that the caller may see: all of its own patient's, and those that are to it."""
    seen: dict[bytes, GrantView] = {}
    for pseudonym in patients_of(caller, wanted):
        for view in caller.rows("consent.grants", GrantPage(pseudonym)):
            seen[view.grant_id] = view
    for grantee in _grantees(caller):
        after = None if wanted is None else just_before(wanted)
        if wanted is None:
            for view in caller.rows("consent.granted_to", GranteePage(grantee, after), most=_GRANTEE_ROWS):
                seen[view.grant_id] = view
        else:
            rows, _ = caller.page("consent.granted_to", GranteePage(grantee, after))
            seen.update((view.grant_id, view) for view in rows if view.pseudonym == wanted)
    yield from (seen[one] for one in sorted(seen))


def _grantees(caller: Caller) -> tuple[bytes, ...]:
    """The parties whose grants the caller may hold: itself and, for staff, its organisation."""
    if caller.asker is None or caller.own_pseudonym() is not None:
        return ()
    return tuple(dict.fromkeys((caller.asker.id, caller.asker.party.organisation)))


def _grant(caller: Caller, grant_id: bytes) -> GrantView | None:
    for pseudonym in patients_of(caller, None):
        rows, _ = caller.page("consent.grants", GrantPage(pseudonym, just_before(grant_id)))
        if rows and rows[0].grant_id == grant_id:
            found: GrantView = rows[0]
            return found
    return next((view for view in _grants(caller, None) if view.grant_id == grant_id), None)


def _setting(caller: Caller, reader: Reader, pseudonym: bytes) -> Setting:
    return Setting(
        custodian=caller.custodian(pseudonym) or pseudonym,
        kind=caller.kind,
        patient_id=shown_patient(reader, caller.principal, pseudonym),
    )


def _shown(caller: Caller, reader: Reader, view: GrantView) -> bytes:
    return grant_consent(view, _setting(caller, reader, view.pseudonym))


def _rules(caller: Caller, reader: Reader, pseudonym: bytes) -> list[bytes]:
    """The patient's standing rules as Consents, where the caller may read them."""
    found = list(caller.rows("consent.rules", OfPseudonym(pseudonym)))
    if not found:
        return []
    setting = _setting(caller, reader, pseudonym)
    time_s = caller.view.time_s
    made = (rule_consent(pseudonym, int.from_bytes(one.id), one.row, time_s=time_s, setting=setting) for one in found)
    return [one for one in made if one is not None]


class _ChartNaming:
    """References of a Consent looked up in the charts: whose party a directory entry names, which record holds what."""

    def __init__(self, reader: Reader, principal: Principal) -> None:
        self._reader = reader
        self._principal = principal

    def parties(self, reference: str) -> Collection[bytes]:
        """The parties that a directory resource names by an identifier of the ledger; of a Group its members'."""
        tree = self._tree(reference)
        if tree is None:
            return ()
        if tree["resourceType"] == "Group":
            return tuple(self._members(tree))
        found = (id_in(one.get("value")) for one in tree.get("identifier", ()) if one.get("system") == PARTY)
        return tuple(one for one in found if one is not None)

    def _members(self, group: dict[str, Any]) -> Iterator[bytes]:
        """Every member's party; none at all where one is unknown, so that nobody is silently left out."""
        members = group.get("member", ())
        require(0 < len(members) <= GROUP_MEMBERS, DocumentCode.ACTOR_UNKNOWN)
        for one in members:
            reference = one.get("entity", {}).get("reference", "")
            known = () if reference.startswith("Group/") else self.parties(reference)
            require(known, DocumentCode.ACTOR_UNKNOWN)
            yield from known

    def record(self, reference: str) -> Held | None:
        """The record that a resource lies in which the caller sees."""
        kind, _, resource_id = reference.partition("/")
        stored = self._reader.read(self._principal.sight, kind, resource_id)
        if stored is None or stored.record is None:
            return None
        record = stored.record[0]
        # Everything in the record counts, seen or not.
        return Held(record=record, holds=frozenset(self._reader.held_in(record)))

    def _tree(self, reference: str) -> dict[str, Any] | None:
        kind, _, resource_id = reference.partition("/")
        stored = self._reader.read(self._principal.sight, kind, resource_id)
        return None if stored is None else msgspec.json.decode(stored.body)
