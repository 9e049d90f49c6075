"""One line of an access log, and one read at the gatekeeper, as a FHIR AuditEvent in the patterns of IHE BALP (AUD-5).

A decision on a request is ``AuthZconsent`` and cites the Consents that allowed it, or says why nothing did. A read at
the gatekeeper is ``PatientRead`` with the records it gave out, by their ids on the ledger. What a custodian or a
keyholder reported to the ledger, and a ticket ended early, have no pattern of BALP: they are plain R4. No name of a
person and no id of an organisation's own systems is in here.
"""

from typing import Any, Final

import msgspec
from msgspec import Struct

from carechain.chain.receipts import code_named
from carechain.contracts.access import EntryKind, LogRow, TicketRow
from carechain.core.decision import Path, PathKind
from carechain.core.vocabulary import PartyKind, Purpose, Role
from carechain.gatekeeper.audit import Read
from carechain.sdk.pcf_terms import (
    ACT_REASON,
    PARTICIPATION,
    PARTY,
    RECORD,
    TICKET,
    Json,
    coding,
    concept,
    identifier,
    party_reference,
    patient_reference,
)
from carechain.sdk.pcf_writing import moment, rule_id

BALP: Final = "https://profiles.ihe.net/ITI/BALP/StructureDefinition/IHE.BasicAudit."
DICOM: Final = "http://dicom.nema.org/resources/ontology/DCM"
AUDIT_TYPE: Final = "http://terminology.hl7.org/CodeSystem/audit-event-type"
ENTITY_TYPE: Final = "http://terminology.hl7.org/CodeSystem/audit-entity-type"
OBJECT_ROLE: Final = "http://terminology.hl7.org/CodeSystem/object-role"
RESOURCE_TYPE: Final = "http://hl7.org/fhir/resource-types"
EVENT: Final = "urn:carechain:audit-event"
ROLE: Final = "urn:carechain:role"
DECISION: Final = "urn:carechain:decision"
DIGEST: Final = "urn:carechain:reads-digest"

SUCCESS: Final = "0"
REFUSED: Final = "8"
"""FHIR's "serious failure", which the deny example of BALP uses; 4 would be a mistake to be tried again."""
_REPORTS: Final = {
    EntryKind.RELEASE: ("released", "The custodian reports that it gave out records under this ticket."),
    EntryKind.KEY_SHARES: ("key-shares", "A keyholder reports that it gave out key shares under this ticket."),
    EntryKind.REVOCATION: ("ticket-revoked", "The ticket was ended before its time."),
}


class Around(Struct, frozen=True, kw_only=True):
    """What an event needs besides its own line: the patient as the reader may see it, the network, the kinds of party.

    ``actor_kind`` is of whoever acted, ``roles`` the actor's roles now, ``custodian`` the records' organisation.
    """

    pseudonym: bytes
    patient_id: str | None
    chain_id: str
    custodian: bytes
    actor_kind: PartyKind | None
    roles: int = 0


def decision_event(event_id: str, line: LogRow, ticket: TicketRow | None, around: Around) -> bytes:
    """The decision on one request (AuthZconsent)."""
    refused = code_named(line.decision)
    cited = _cited(ticket.path if ticket is not None else None, around.pseudonym)
    if not cited:
        cited = [{"identifier": identifier(DECISION, "allowed" if refused is None else refused.label)}]
    event = {
        **_head(event_id, "AuthZconsent"),
        "type": {**coding(DICOM, "110113"), "display": "Security Alert"},
        "subtype": [coding("https://profiles.ihe.net/ITI/BALP/CodeSystem/AuthZsubType", "AuthZ-Consent")],
        "action": "E",
        **_when_and_how(line.at_s, refused.reason if refused is not None else None),
        "purposeOfEvent": [_purpose(line.purpose)],
        "agent": [
            *_asking(line, around),
            {
                "type": concept("http://terminology.hl7.org/CodeSystem/extra-security-role-type", "authserver"),
                "who": _network(around),
                "requestor": False,
            },
        ],
        "source": {"observer": _network(around), "type": [_security_source("6")]},
        "entity": [
            _patient(around),
            *({"type": coding(RESOURCE_TYPE, "Consent"), "what": one} for one in cited),
        ],
    }
    return msgspec.json.encode(event)


def report_event(event_id: str, line: LogRow, around: Around) -> bytes:
    """What somebody reported to the ledger under a ticket, or that the ticket was ended."""
    code, words = _REPORTS[line.kind]
    things = [{"type": "records", "valueString": str(line.records)}] if line.records else []
    about: Json = {
        "what": {"identifier": identifier(TICKET, line.ticket.hex())},
        "type": coding(ENTITY_TYPE, "2"),
        "role": coding(OBJECT_ROLE, "20"),
        "detail": [*things, {"type": "digest", "valueString": line.digest.hex()}] if line.records else things,
    }
    if not about["detail"]:
        del about["detail"]
    event = {
        **_head(event_id, None),
        "type": {**coding(DICOM, "110106"), "display": "Export"}
        if line.records
        else {**coding(DICOM, "110113"), "display": "Security Alert"},
        "subtype": [coding(EVENT, code)],
        "action": "R" if line.records else "E",
        **_when_and_how(line.at_s, None),
        "outcomeDesc": words,
        "purposeOfEvent": [_purpose(line.purpose)],
        "agent": [
            {
                "type": concept(DICOM, "110153"),
                "who": party_reference(line.actor, around.actor_kind),
                "requestor": True,
                "policy": [_ticket(line.ticket)],
            }
        ],
        "source": {"observer": _network(around), "type": [_security_source("4")]},
        "entity": [_patient(around), about],
    }
    return msgspec.json.encode(event)


def read_event(event_id: str, read: Read, ticket: TicketRow, around: Around) -> bytes:
    """One read at the gatekeeper: what it gave out (PatientRead), or which check refused it."""
    refused = code_named(read.code)
    user: Json = {
        "type": concept(PARTICIPATION, "IRCP"),
        "who": party_reference(read.requester, around.actor_kind),
        "requestor": True,
        "policy": [_ticket(read.ticket)],
        "purposeOfUse": [_purpose(ticket.purpose)],
        **_roles(around.roles),
    }
    records = [
        {
            "what": {"identifier": identifier(RECORD, record.hex())},
            "type": coding(ENTITY_TYPE, "2"),
            "role": coding(OBJECT_ROLE, "4"),
            "detail": [{"type": "version", "valueString": str(version)}],
        }
        for record, version in read.records
    ]
    event = {
        # The pattern is for reads that gave out one thing; of several it is this event in the same words.
        **_head(event_id, "PatientRead" if refused is None and len(records) == 1 else None),
        "type": {**coding(AUDIT_TYPE, "rest"), "display": "Restful Operation"},
        "subtype": [{**coding("http://hl7.org/fhir/restful-interaction", "read"), "display": "read"}],
        "action": "R",
        **_when_and_how(read.at_s, refused.reason if refused is not None else None),
        "purposeOfEvent": [_purpose(ticket.purpose)],
        "agent": [
            {
                "type": concept(DICOM, "110152"),
                "who": party_reference(ticket.organisation, PartyKind.MEMBER),
                "requestor": False,
                "network": _address(around),
            },
            {
                "type": concept(DICOM, "110153"),
                "who": party_reference(around.custodian, PartyKind.MEMBER),
                "requestor": False,
                "network": _address(around),
            },
            user,
        ],
        "source": {
            "observer": party_reference(around.custodian, PartyKind.MEMBER),
            "type": [_security_source("4")],
        },
        "entity": [_patient(around), *records],
    }
    return msgspec.json.encode(event)


def _head(event_id: str, pattern: str | None) -> Json:
    head: Json = {"resourceType": "AuditEvent", "id": event_id}
    return head if pattern is None else {**head, "meta": {"profile": [BALP + pattern]}}


def _when_and_how(at_s: int, refused: str | None) -> Json:
    if refused is None:
        return {"recorded": moment(at_s), "outcome": SUCCESS}
    return {"recorded": moment(at_s), "outcome": REFUSED, "outcomeDesc": refused}


def _asking(line: LogRow, around: Around) -> list[Json]:
    """Who asked, for which organisation, by way of what: the ledger takes requests from signers, not from devices."""
    user: Json = {
        "type": concept(PARTICIPATION, "IRCP"),
        "who": party_reference(line.actor, around.actor_kind),
        "requestor": True,
        "policy": [_ticket(line.ticket)],
        "purposeOfUse": [_purpose(line.purpose)],
        **_roles(around.roles),
    }
    return [
        {
            "type": concept(DICOM, "110150"),
            "who": {"identifier": identifier(PARTY, line.actor.hex())},
            "requestor": False,
            "network": _address(around),
        },
        user,
        {
            "type": concept("http://terminology.hl7.org/CodeSystem/v3-RoleClass", "PROV"),
            "who": party_reference(line.organisation, PartyKind.MEMBER),
            "requestor": False,
        },
    ]


def _roles(roles: int) -> Json:
    held = [concept(ROLE, one.name.lower().replace("_", "-")) for one in Role if roles >> one & 1]
    return {"role": held} if held else {}


def _cited(path: Path | None, pseudonym: bytes) -> list[Json]:
    """What allowed a request: every grant from the root to the leaf, the standing rule, or the kind of path."""
    if path is None:
        return []
    match path.kind:
        case PathKind.GRANT:
            return [{"reference": f"Consent/{one.hex()}"} for one in path.grants]
        case PathKind.RULE:
            return [{"reference": f"Consent/{rule_id(pseudonym, path.rule)}"}]
        case _:
            return [{"identifier": identifier(DECISION, f"by-{path.kind.name.lower()}")}]


def _patient(around: Around) -> Json:
    return {
        "what": patient_reference(around.pseudonym, around.patient_id),
        "type": coding(ENTITY_TYPE, "1"),
        "role": coding(OBJECT_ROLE, "1"),
    }


def _network(around: Around) -> Json:
    """The ledger itself, which decides and keeps the log."""
    return {"type": "Device", "identifier": identifier("urn:carechain:network", around.chain_id)}


def _address(around: Around) -> Json:
    """Where it came in: signed, through the network. Which machine it came from is not kept."""
    return {"address": f"urn:carechain:network:{around.chain_id}", "type": "5"}


def _ticket(ticket: bytes) -> str:
    return f"{TICKET}:{ticket.hex()}"


def _purpose(purpose: Purpose) -> Json:
    return concept(ACT_REASON, purpose.name)


def _security_source(code: str) -> dict[str, Any]:
    return coding("http://terminology.hl7.org/CodeSystem/security-source-type", code)
