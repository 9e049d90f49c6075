"""The worked case of HealthChain (S3) as FHIR: Steve Apple, Dr Carl Savem and the technician John Doe.

Three bundles in the order of the story: Steve reports who he is and how he lives; Carl, once authorised,
writes the encounter note; John, once authorised, adds the lipid test. The text is our own. Each bundle holds
the same Patient bytes, so sending all three makes one version of the demographics.
"""

import json
from typing import Any, Final

from carechain.demo.synthetic import LOINC, SNOMED, TERMINOLOGY, UCUM

Json = dict[str, Any]

PATIENT_NAME: Final = "Steve Apple"
DOCTOR_NAME: Final = "Dr. Carl Savem"
TECHNICIAN_NAME: Final = "John Doe"
MRN: Final = "SA-1001"
VISIT_DAY: Final = "2025-03-04"
TEST_DAY: Final = "2025-03-06"

_STEVE: Final = {"reference": "Patient/steve-apple"}
_CARL: Final = {"reference": "Practitioner/carl-savem"}
_JOHN: Final = {"reference": "Practitioner/john-doe"}
_VISIT: Final = {"reference": "Encounter/steve-apple-visit-1"}
_ASSERTED: Final = {"security": [{"system": f"{TERMINOLOGY}/v3-ObservationValue", "code": "PATAST"}]}


def demographics() -> bytes:
    """What Steve says about himself: demographics, and how he exercises and smokes (patient-reported)."""
    return _bundle(
        _patient(),
        _reported("exercise", "73985-4", "Exercise activity", "Walks the dog twice a day, about 20 minutes each time"),
        _reported("smoking", "72166-2", "Tobacco smoking status", "Stopped smoking ten years ago"),
    )


def encounter_note() -> bytes:
    """Carl's note: chief complaint, physical examination, assessment and plan, one record."""
    return _bundle(
        _patient(), _practitioner("carl-savem", "Savem", "Carl"), *_visit(), _condition(), _impression(), _plan()
    )


def lipid_test() -> bytes:
    """John's lipid panel: a report and its four results, one record."""
    values = (
        ("total", "2093-3", "Total cholesterol", 232, "desirable below 200"),
        ("triglycerides", "2571-8", "Triglycerides", 168, "desirable below 150"),
        ("ldl", "13457-7", "LDL cholesterol, calculated", 151, "desirable below 130"),
        ("hdl", "2085-9", "HDL cholesterol", 47, "desirable above 40"),
    )
    results = [_result(*value) for value in values]
    report = {
        "resourceType": "DiagnosticReport",
        "id": "steve-apple-lipids",
        "status": "final",
        "category": [_concept(f"{TERMINOLOGY}/v2-0074", "LAB", "Laboratory")],
        "code": _concept(LOINC, "57698-3", "Lipid panel"),
        "subject": _STEVE,
        "effectiveDateTime": f"{TEST_DAY}T08:15:00Z",
        "performer": [_JOHN],
        "result": [{"reference": f"Observation/{result['id']}"} for result in results],
        "conclusion": "Total and LDL cholesterol above the desirable range.",
    }
    return _bundle(_patient(), _practitioner("john-doe", "Doe", "John"), report, *results)


def _patient() -> Json:
    return {
        "resourceType": "Patient",
        "id": "steve-apple",
        "meta": _ASSERTED,
        "identifier": [{"type": _concept(f"{TERMINOLOGY}/v2-0203", "MR", ""), "value": MRN}],
        "name": [{"use": "official", "family": "Apple", "given": ["Steve"]}],
        "telecom": [{"system": "phone", "value": "555-0142"}],
        "gender": "male",
        "birthDate": "1956-09-12",
        "address": [{"line": ["12 Orchard Lane"], "city": "Springfield", "country": "US"}],
        "contact": [{"relationship": [{"text": "Wife"}], "name": {"family": "Apple", "given": ["Mary"]}}],
    }


def _practitioner(identity: str, family: str, given: str) -> Json:
    return {
        "resourceType": "Practitioner",
        "id": identity,
        "active": True,
        "name": [{"family": family, "given": [given]}],
    }


def _reported(name: str, code: str, text: str, answer: str) -> Json:
    return {
        "resourceType": "Observation",
        "id": f"steve-apple-{name}",
        "meta": _ASSERTED,
        "status": "final",
        "code": _concept(LOINC, code, text),
        "subject": _STEVE,
        "effectiveDateTime": "2025-02-27",
        "performer": [_STEVE],
        "valueString": answer,
    }


def _visit() -> list[Json]:
    encounter = {
        "resourceType": "Encounter",
        "id": "steve-apple-visit-1",
        "status": "finished",
        "class": {"system": f"{TERMINOLOGY}/v3-ActCode", "code": "AMB"},
        "subject": _STEVE,
        "participant": [{"individual": _CARL}],
        "period": {"start": f"{VISIT_DAY}T10:00:00Z", "end": f"{VISIT_DAY}T10:30:00Z"},
        "reasonCode": [{"text": "Tired on the stairs for some weeks; wants his blood pressure looked at"}],
    }
    examination = [
        _measured("systolic", "8480-6", "Systolic blood pressure", 148, "mm[Hg]"),
        _measured("diastolic", "8462-4", "Diastolic blood pressure", 92, "mm[Hg]"),
        _measured("weight", "29463-7", "Body weight", 94, "kg"),
    ]
    return [encounter, *examination]


def _measured(name: str, code: str, text: str, value: int, unit: str) -> Json:
    return {
        "resourceType": "Observation",
        "id": f"steve-apple-{name}",
        "status": "final",
        "category": [_concept(f"{TERMINOLOGY}/observation-category", "vital-signs", "")],
        "code": _concept(LOINC, code, text),
        "subject": _STEVE,
        "encounter": _VISIT,
        "effectiveDateTime": f"{VISIT_DAY}T10:05:00Z",
        "performer": [_CARL],
        "valueQuantity": {"value": value, "unit": unit, "system": UCUM, "code": unit},
    }


def _condition() -> Json:
    return {
        "resourceType": "Condition",
        "id": "steve-apple-hypertension",
        "clinicalStatus": _concept(f"{TERMINOLOGY}/condition-clinical", "active", ""),
        "code": _concept(SNOMED, "38341003", "Hypertension"),
        "subject": _STEVE,
        "encounter": _VISIT,
        "recordedDate": VISIT_DAY,
        "asserter": _CARL,
    }


def _impression() -> Json:
    return {
        "resourceType": "ClinicalImpression",
        "id": "steve-apple-assessment",
        "status": "completed",
        "subject": _STEVE,
        "encounter": _VISIT,
        "date": f"{VISIT_DAY}T10:25:00Z",
        "assessor": _CARL,
        "summary": "Blood pressure not controlled; risk of coronary disease raised by weight and family history.",
        "finding": [{"itemReference": {"reference": "Condition/steve-apple-hypertension"}}],
    }


def _plan() -> Json:
    return {
        "resourceType": "CarePlan",
        "id": "steve-apple-plan",
        "status": "active",
        "intent": "plan",
        "subject": _STEVE,
        "encounter": _VISIT,
        "created": VISIT_DAY,
        "author": _CARL,
        "description": "Lipid test this week, less salt, daily walk, blood pressure again in four weeks.",
    }


def _result(name: str, code: str, text: str, value: int, note: str) -> Json:
    return {
        "resourceType": "Observation",
        "id": f"steve-apple-lipid-{name}",
        "status": "final",
        "category": [_concept(f"{TERMINOLOGY}/observation-category", "laboratory", "")],
        "code": _concept(LOINC, code, text),
        "subject": _STEVE,
        "effectiveDateTime": f"{TEST_DAY}T08:15:00Z",
        "performer": [_JOHN],
        "valueQuantity": {"value": value, "unit": "mg/dL", "system": UCUM, "code": "mg/dL"},
        "referenceRange": [{"text": note}],
    }


def _concept(system: str, code: str, text: str) -> Json:
    return {"coding": [{"system": system, "code": code, **({"display": text} if text else {})}]}


def _bundle(*resources: Json) -> bytes:
    entries = [
        {"resource": one, "request": {"method": "PUT", "url": f"{one['resourceType']}/{one['id']}"}}
        for one in resources
    ]
    bundle = {"resourceType": "Bundle", "type": "transaction", "entry": entries}
    return json.dumps(bundle, ensure_ascii=False, separators=(",", ":")).encode()
