"""Grants and standing rules as FHIR Consents in the profiles of IHE PCF (CON-10).

One grant is one Consent with one root provision: Intermediate where it says no grade, Advanced where it does. What PCF
has no room for (permissions beyond reading) is said in plain R4, and then no profile is claimed. The source of each
Consent is the ledger's own row, byte for byte, so whoever holds a state proof can check one against the other.
"""

import base64
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Final

import msgspec
from msgspec import Struct

from carechain.contracts.consent.schema import Answer, RuleRow, Who
from carechain.contracts.consent.views import GrantView
from carechain.core.codec import encode
from carechain.core.limits import ID_SIZE
from carechain.core.message import Row
from carechain.core.scope import LAST_DAY, Scope
from carechain.core.vocabulary import ALL_CATEGORIES, ALL_PURPOSES, Action, PartyKind, Sensitivity
from carechain.sdk.pcf_terms import (
    ACT_REASON,
    ACTION,
    CATEGORIES,
    CATEGORY,
    CONFIDENTIALITY,
    CONSENT_ACTION,
    CONSENT_SCOPE,
    GRANT,
    LOINC,
    OWN_ACTIONS,
    PARTICIPATION,
    PCF,
    PEOPLE,
    PRIVACY,
    PURPOSES,
    RECIPIENT,
    RECORD,
    RULE,
    STANDARD_ACTIONS,
    Json,
    coding,
    concept,
    identifier,
    party_reference,
    patient_reference,
    people,
)

POLICY: Final = "urn:carechain:policy:consent-ledger"
"""The policy that every such Consent stands under: what is not granted is denied, and the ledger decides."""
_FIRST_DATE: Final = date(1900, 1, 1).toordinal()
_STANDARD: Final = {Action.READ: "access", Action.WRITE: "correct", Action.SEND: "disclose"}


class Setting(Struct, frozen=True, kw_only=True):
    """What a Consent says besides the grant itself: where the records are, who is who, how the patient is known.

    ``kind`` gives a party's kind (None: unknown). ``patient_id`` is the local Patient's id where the reader sees it.
    """

    custodian: bytes
    kind: Callable[[bytes], PartyKind | None]
    patient_id: str | None = None


def moment(time_s: int) -> str:
    """A ledger time as a FHIR instant."""
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def grant_consent(view: GrantView, setting: Setting) -> bytes:
    """A grant as a Consent (JSON); its id is the grant's."""
    grant = view.grant
    provision = {
        "type": "permit",
        # The grant ends with the second before its expiry, and FHIR counts the named second in.
        "period": {"start": moment(grant.granted_s), "end": moment(grant.expires_s - 1)},
        "actor": [_actor(party_reference(one, setting.kind(one))) for one in grant.grantees],
        **_actions(grant.actions),
        **_terms(grant.scope, grant.purposes),
    }
    granted_by_patient = grant.grantor == view.pseudonym
    performer = (
        patient_reference(view.pseudonym, setting.patient_id)
        if granted_by_patient
        else party_reference(grant.grantor, setting.kind(grant.grantor))
    )
    return msgspec.json.encode(
        {
            **_head(view.grant_id.hex(), provision, live=view.live),
            "identifier": [identifier(GRANT, view.grant_id.hex())],
            "patient": patient_reference(view.pseudonym, setting.patient_id),
            "dateTime": moment(grant.granted_s),
            "performer": [performer],
            **_tail(setting, grant, provision),
        }
    )


def rule_consent(pseudonym: bytes, number: int, rule: RuleRow, *, time_s: int, setting: Setting) -> bytes | None:
    """A standing rule as a Consent (JSON); None for one that says "ask me", since a Consent permits or denies.

    The ledger keeps no date of a rule, so there is no ``dateTime``, which every profile of PCF asks for.
    """
    if rule.answer is Answer.ASK:
        return None
    who = _whom(rule.who, setting)
    provision = {
        "type": "permit" if rule.answer is Answer.ALLOW else "deny",
        "period": {"end": moment(rule.expires_s - 1)},
        **({"actor": [_actor(who)]} if who is not None else {}),
        **_terms(rule.scope, rule.purposes),
    }
    head = _head(rule_id(pseudonym, number), provision, live=time_s < rule.expires_s)
    head.pop("meta", None)
    patient = patient_reference(pseudonym, setting.patient_id)
    return msgspec.json.encode(
        {
            **head,
            "identifier": [identifier(RULE, f"{pseudonym.hex()}/{number}")],
            "patient": patient,
            "performer": [patient],
            **_tail(setting, rule, provision),
        }
    )


def rule_id(pseudonym: bytes, number: int) -> str:
    """The id of a standing rule's Consent: the pseudonym in base32, so that both fit into 64 characters."""
    return f"{_short(pseudonym)}.r{number}"


def numbered_id(pseudonym: bytes, number: int) -> str:
    """An id for the numbered thing of a patient."""
    return f"{_short(pseudonym)}.{number}"


def read_numbered(text: str) -> tuple[bytes, str] | None:
    """The pseudonym and the rest of an id that :func:`rule_id` or :func:`numbered_id` made; None for others."""
    short, dot, rest = text.partition(".")
    try:
        pseudonym = base64.b32decode(short.upper() + "=" * (-len(short) % 8))
    except ValueError:
        return None
    return (pseudonym, rest) if dot and len(pseudonym) == ID_SIZE and short == _short(pseudonym) else None


def _short(pseudonym: bytes) -> str:
    return base64.b32encode(pseudonym).decode("ascii").rstrip("=").lower()


def _head(resource_id: str, provision: Json, *, live: bool) -> Json:
    head: Json = {"resourceType": "Consent", "id": resource_id}
    if "action" not in provision:
        head["meta"] = {"profile": [PCF + ("Advanced" if "securityLabel" in provision else "Intermediate")]}
    return {
        **head,
        "status": "active" if live else "inactive",
        "scope": concept(CONSENT_SCOPE, PRIVACY),
        "category": [concept(LOINC, "59284-0")],
    }


def _tail(setting: Setting, row: Row, provision: Json) -> Json:
    return {
        "organization": [party_reference(setting.custodian, PartyKind.MEMBER)],
        "sourceAttachment": {
            "contentType": "application/msgpack",
            "title": "The row of the ledger that this Consent was made from",
            "data": base64.b64encode(encode(row)).decode("ascii"),
        },
        "policy": [{"uri": POLICY}],
        "provision": provision,
    }


def _terms(scope: Scope, purposes: int) -> Json:
    """What records, and for what; a part that says everything is left out."""
    terms: Json = {}
    labels = []
    if scope.ceiling < Sensitivity.V:
        labels.append(coding(CONFIDENTIALITY, scope.ceiling.name))
    if scope.categories != ALL_CATEGORIES:
        labels += [coding(CATEGORY, code) for code, one in CATEGORIES.items() if scope.categories >> one & 1]
    if labels:
        terms["securityLabel"] = labels
    if purposes != ALL_PURPOSES:
        terms["purpose"] = [coding(ACT_REASON, name) for name, one in PURPOSES.items() if purposes >> one & 1]
    period = {}
    if scope.first_day:
        period["start"] = _date(scope.first_day)
    if scope.last_day != LAST_DAY:
        period["end"] = _date(scope.last_day)
    if period:
        terms["dataPeriod"] = period
    if scope.records:
        named = ({"identifier": identifier(RECORD, one.hex())} for one in scope.records)
        terms["data"] = [{"meaning": "instance", "reference": one} for one in named]
    return terms


def _date(day: int) -> str:
    """A clinical day as a date; one beyond the calendar's end is its end."""
    return date.fromordinal(min(_FIRST_DATE + day, date.max.toordinal())).isoformat()


def _actions(actions: int) -> Json:
    """Nothing where reading is all that is permitted, since that is what a Consent of PCF permits."""
    if actions == Action.READ:
        return {}
    named = [one for one in OWN_ACTIONS.values() if actions & one]
    return {
        "action": [{"coding": [*_standard_codings(one), coding(ACTION, (one.name or "").lower())]} for one in named]
    }


def _standard_codings(action: Action) -> list[Json]:
    code = _STANDARD.get(action)
    return [coding(CONSENT_ACTION, code)] if code in STANDARD_ACTIONS else []


def _actor(reference: Json) -> Json:
    return {"role": concept(PARTICIPATION, RECIPIENT), "reference": reference}


def _whom(who: Who, setting: Setting) -> Json | None:
    """Whom a rule is about: one party where it names no more than that, else a description; None: everybody."""
    if who == Who():
        return None
    if who.party is not None and who == Who(party=who.party):
        return party_reference(who.party, setting.kind(who.party))
    return {"type": "Group", "identifier": identifier(PEOPLE, people(who))}
