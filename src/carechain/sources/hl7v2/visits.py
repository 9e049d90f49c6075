"""What happened to the patient here: PV1, DG1 and AL1 as FHIR has them (HL7 2.5.1 chapters 3 and 6)."""

from typing import Final

from carechain.sources.bundles import Json, Prepared, concept, prepared, stable_id
from carechain.sources.hl7v2.message import Message, Segment
from carechain.sources.hl7v2.patients import Identity
from carechain.sources.hl7v2.values import Place, clinician, moment, scope_of, system_of
from carechain.sources.hl7v2.values import concept as coded
from carechain.sources.imports.codes import ImportCode

_ACT: Final = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
_PARTICIPATION: Final = "http://terminology.hl7.org/CodeSystem/v3-ParticipationType"
_CLINICAL: Final = "http://terminology.hl7.org/CodeSystem/condition-clinical"
_VERIFIED: Final = "http://terminology.hl7.org/CodeSystem/condition-ver-status"
_CATEGORY: Final = "http://terminology.hl7.org/CodeSystem/condition-category"
_ALLERGY: Final = "http://terminology.hl7.org/CodeSystem/allergyintolerance-"

_CLASSES: Final = {"I": "IMP", "O": "AMB", "E": "EMER", "P": "PRENC", "R": "AMB", "B": "IMP"}
"""Table 0004. U (unknown) and N (not applicable) say that there is no visit."""
_NO_VISIT: Final = ("", "U", "N")
_STATUS: Final = {"A03": "finished", "A05": "planned", "A11": "cancelled"}
_DIAGNOSED: Final = {"A": "provisional", "W": "provisional", "F": "confirmed"}
_SUBSTANCES: Final = {"DA": "medication", "FA": "food", "EA": "environment", "MA": "environment", "PA": "environment"}
_SEVERITIES: Final = {"SV": "severe", "MO": "moderate", "MI": "mild"}


def visit_id(visit: Segment, identity: Identity) -> str | None:
    """The Encounter that PV1 is about: by visit number, else by when it began; None where it says neither."""
    number = visit.first(19)
    if number.text(1):
        return stable_id("hl7-visit", identity.authority, identity.value, scope_of(number, 4), number.text(1))
    began = visit.text(44)
    return stable_id("hl7-visit-at", identity.authority, identity.value, began) if began else None


def encounter(message: Message, event: str, identity: Identity, subject: Json, place: Place) -> Prepared | None:
    """The visit of an ADT message; None where it is about no visit."""
    visit = message.find("PV1")
    if visit is None or visit.text(2) in _NO_VISIT:
        return None
    kind = _CLASSES.get(visit.text(2))
    if kind is None:
        raise visit.refused(ImportCode.VALUE_UNKNOWN, 2)
    found = visit_id(visit, identity)
    if found is None:
        raise visit.refused(ImportCode.FIELD_MISSING, 19)
    ended = moment(visit, 45, place)
    status = _STATUS.get(event) or ("finished" if ended else "in-progress")
    return prepared(
        {
            "resourceType": "Encounter",
            "id": found,
            "identifier": [{"value": visit.text(19)}] if visit.text(19) else [],
            "status": status,
            "class": {"system": _ACT, "code": kind},
            "serviceType": coded(visit.first(10)),
            "subject": subject,
            "participant": [
                {"type": [concept(role, system=_PARTICIPATION)], "individual": found_clinician}
                for field, role in ((7, "ATND"), (8, "REF"), (9, "CON"), (17, "ADM"))
                for one in visit.repetitions(field)
                if (found_clinician := clinician(one))
            ],
            "period": {"start": moment(visit, 44, place), "end": ended},
            "location": _location(visit),
        }
    )


def _location(visit: Segment) -> list[Json]:
    where = visit.first(3)
    shown = " ".join(filter(None, (where.text(part) for part in (4, 1, 2, 3))))
    return [{"location": {"display": shown}}] if shown else []


def diagnoses(
    message: Message, identity: Identity, subject: Json, visit: Prepared | None, place: Place
) -> list[Prepared]:
    """Each DG1 as a Condition."""
    return [_condition(one, identity, subject, visit, place) for one in message.all("DG1")]


def _condition(diagnosis: Segment, identity: Identity, subject: Json, visit: Prepared | None, place: Place) -> Prepared:
    what = diagnosis.first(3)
    name = what.text(1) or what.text(2) or diagnosis.text(4)
    if not name:
        raise diagnosis.refused(ImportCode.FIELD_MISSING, 3)
    around = visit.resource_id if visit is not None else ""
    return prepared(
        {
            "resourceType": "Condition",
            "id": stable_id("hl7-diagnosis", identity.authority, identity.value, around, what.text(3), name),
            "clinicalStatus": concept("active", system=_CLINICAL),
            "verificationStatus": concept(_DIAGNOSED.get(diagnosis.text(6), "unconfirmed"), system=_VERIFIED),
            "category": [concept("encounter-diagnosis", system=_CATEGORY)],
            "code": coded(what) or {"text": name},
            "subject": subject,
            "encounter": {"reference": visit.key} if visit is not None else None,
            "recordedDate": moment(diagnosis, 5, place),
        }
    )


def allergies(message: Message, identity: Identity, subject: Json) -> list[Prepared]:
    """Each AL1 as an AllergyIntolerance."""
    return [_allergy(one, identity, subject) for one in message.all("AL1")]


def _allergy(said: Segment, identity: Identity, subject: Json) -> Prepared:
    what = said.first(3)
    name = what.text(1) or what.text(2)
    if not name:
        raise said.refused(ImportCode.FIELD_MISSING, 3)
    category = _SUBSTANCES.get(said.text(2))
    reactions = [text for one in said.repetitions(5) if (text := one.text(1))]
    return prepared(
        {
            "resourceType": "AllergyIntolerance",
            "id": stable_id(
                "hl7-allergy", identity.authority, identity.value, system_of(what.text(3)) or what.text(3), name
            ),
            "clinicalStatus": concept("active", system=_ALLERGY + "clinical"),
            "verificationStatus": concept("unconfirmed", system=_ALLERGY + "verification"),
            "category": [category] if category else [],
            "criticality": "high" if said.text(4) == "SV" else None,
            "code": coded(what),
            "patient": subject,
            "reaction": [
                {"manifestation": [{"text": one} for one in reactions], "severity": _SEVERITIES.get(said.text(4))}
            ]
            if reactions
            else [],
        }
    )
