"""The words in which a Consent and the ledger say the same, and how to read each way (CON-10, IHE PCF).

What FHIR has a code for is said with that code: purposes (v3-ActReason), grades (v3-Confidentiality), actions. What
only the ledger knows has code systems of its own: its record categories (a label of the compartment kind), records,
grants, standing rules, and descriptions of people by kind and role.
"""

import re
from typing import Any, Final

from carechain.contracts.consent.schema import Who
from carechain.core.limits import ID_SIZE
from carechain.core.vocabulary import (
    Action,
    Category,
    OrganisationKind,
    PartyKind,
    Purpose,
    Role,
    Sensitivity,
    mask,
)

Json = dict[str, Any]

ACT_REASON: Final = "http://terminology.hl7.org/CodeSystem/v3-ActReason"
CONFIDENTIALITY: Final = "http://terminology.hl7.org/CodeSystem/v3-Confidentiality"
PARTICIPATION: Final = "http://terminology.hl7.org/CodeSystem/v3-ParticipationType"
CONSENT_ACTION: Final = "http://terminology.hl7.org/CodeSystem/consentaction"
CONSENT_SCOPE: Final = "http://terminology.hl7.org/CodeSystem/consentscope"
LOINC: Final = "http://loinc.org"
PCF: Final = "https://profiles.ihe.net/ITI/PCF/StructureDefinition/IHE.PCF.consent"

PARTY: Final = "urn:carechain:party"
PSEUDONYM: Final = "urn:carechain:pseudonym"
GRANT: Final = "urn:carechain:grant"
RULE: Final = "urn:carechain:standing-rule"
RECORD: Final = "urn:carechain:record"
CATEGORY: Final = "urn:carechain:record-category"
ACTION: Final = "urn:carechain:action"
PEOPLE: Final = "urn:carechain:people"
TICKET: Final = "urn:carechain:ticket"

RECIPIENT: Final = "IRCP"
PRIVACY: Final = "patient-privacy"

STANDARD_ACTIONS: Final = {
    "access": Action.READ,
    "collect": Action.READ,
    "use": Action.READ,
    "correct": Action.WRITE,
    "disclose": Action.SEND,
}
"""What each code of ``consentaction`` comes to. Fetching and using are what reading is for."""
OWN_ACTIONS: Final = {one.name.lower(): one for one in Action if one.name}
PURPOSES: Final = {one.name: one for one in Purpose}
GRADES: Final = {one.name: one for one in Sensitivity}
CATEGORIES: Final = {one.name.lower().replace("_", "-"): one for one in Category}

_HEX_ID: Final = re.compile(rf"[0-9a-f]{{{2 * ID_SIZE}}}")
_TYPE_OF: Final = {
    PartyKind.MEMBER: "Organization",
    PartyKind.STAFF: "Practitioner",
    PartyKind.PSEUDONYM: "Patient",
    PartyKind.REPRESENTATIVE: "RelatedPerson",
}


def coding(system: str, code: str) -> Json:
    """A Coding."""
    return {"system": system, "code": code}


def concept(system: str, code: str) -> Json:
    """A CodeableConcept of one coding."""
    return {"coding": [coding(system, code)]}


def identifier(system: str, value: str) -> Json:
    """An Identifier."""
    return {"system": system, "value": value}


def party_reference(party: bytes, kind: PartyKind | None) -> Json:
    """How a resource refers to a party: by address where the directory serves it, and by id always.

    People who are no staff have no entry in the directory: they are referred to by id alone.
    """
    named: Json = {"identifier": identifier(PARTY, party.hex())}
    if kind is not None:
        named["type"] = _TYPE_OF[kind]
    if kind in (PartyKind.MEMBER, PartyKind.STAFF):
        named["reference"] = f"{_TYPE_OF[kind]}/{party.hex()}"
    return named


def patient_reference(pseudonym: bytes, patient_id: str | None = None) -> Json:
    """How a resource refers to a patient: by pseudonym, and by its local id where the reader sees that Patient."""
    named: Json = {"type": "Patient", "identifier": identifier(PSEUDONYM, pseudonym.hex())}
    if patient_id is not None:
        named["reference"] = f"Patient/{patient_id}"
    return named


def id_in(text: object) -> bytes | None:
    """The 32 bytes of an id written in hexadecimal digits; None for anything else."""
    return bytes.fromhex(text) if isinstance(text, str) and _HEX_ID.fullmatch(text) else None


def people(who: Who) -> str:
    """A standing rule's description of people as one line, for an Identifier of the system :data:`PEOPLE`."""
    parts = []
    if who.party is not None:
        parts.append(f"party={who.party.hex()}")
    if who.organisation is not None:
        parts.append(f"organisation={who.organisation.hex()}")
    if who.kinds:
        parts.append("kinds=" + "+".join(one.name.lower() for one in OrganisationKind if who.kinds >> one & 1))
    if who.roles:
        parts.append("roles=" + "+".join(one.name.lower() for one in Role if who.roles >> one & 1))
    return ";".join(parts)


def read_people(text: str) -> Who | None:
    """What :func:`people` wrote; None for anything else."""
    fields: dict[str, str] = {}
    for part in text.split(";"):
        name, _, value = part.partition("=")
        if name in fields or not value:
            return None
        fields[name] = value
    if not fields or not fields.keys() <= {"party", "organisation", "kinds", "roles"}:
        return None
    party, organisation = id_in(fields.get("party")), id_in(fields.get("organisation"))
    kinds = [OrganisationKind.__members__.get(one.upper()) for one in fields.get("kinds", "").split("+") if one]
    roles = [Role.__members__.get(one.upper()) for one in fields.get("roles", "").split("+") if one]
    known_kinds, known_roles = [one for one in kinds if one is not None], [one for one in roles if one is not None]
    who = Who(party=party, organisation=organisation, kinds=mask(*known_kinds), roles=mask(*known_roles))
    return who if people(who) == text else None
