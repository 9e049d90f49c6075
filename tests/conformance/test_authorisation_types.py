"""Goal: each role reads, adds and changes over FHIR the resource types that are its business, and no others.

Method: the caller of every role, with consent to everything, asks the real gateway for a resource of each kind of
record in every way. The table of who may stands here, written from the field's rules and not from the gateway's
table; the cells are counted.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any, Final

import httpx
import pytest
from msgspec import Struct

from carechain.charts.resource_types import CATEGORIES
from carechain.core.vocabulary import Category, Role
from ward import OLGA, PLAIN, Situation, Ward

LETTERS: Final = dict(zip("PFDNLIGSEACR", [
    Role.PATIENT, Role.FAMILY_MEMBER, Role.DOCTOR, Role.NURSE, Role.LAB_TECHNICIAN, Role.INSURANCE_AUDITOR,
    Role.REGULATOR, Role.RESEARCHER, Role.EMERGENCY_RESPONDER, Role.ORGANISATION_ADMIN, Role.CONSORTIUM_ADMIN,
    Role.REGISTRAR,
], strict=True))  # fmt: skip
EVERYBODY: Final = "".join(LETTERS)
SUBJECT: Final = {"reference": f"Patient/{OLGA}"}
DRUG: Final = {"text": "Lisinopril"}
SHARED: Final = "Organization/ward-7"


class Kind(Struct, frozen=True):
    """One type: who reads, adds and changes it, and a resource of it."""

    reads: str
    adds: str
    changes: str
    body: dict[str, Any]
    made: bool = False
    """Whether such resources are made from the ledger, so that they are written by nobody."""


CARE: Final = "PFDNIGE"
"""Who reads what a doctor found and ordered: not the laboratory, and nobody who only administers."""
TYPES: Final[dict[str, Kind]] = {
    "Patient": Kind("PFDNLIGE", "", "", {"name": [{"family": "Olsen"}]}),
    "Encounter": Kind("PFDNLIGE", "DN", "DN", {"status": "finished", "class": {"code": "AMB"}, "subject": SUBJECT}),
    "QuestionnaireResponse": Kind("PFDNLIGE", "PDN", "DN", {"status": "completed", "subject": SUBJECT}),
    "Observation": Kind("PFDNLIGE", "PDNL", "DNL", {"status": "final", "code": {"text": "Pulse"}, "subject": SUBJECT}),
    "DiagnosticReport": Kind("PFDNLIGE", "DNL", "DNL", {"status": "final", "code": {"text": "x"}, "subject": SUBJECT}),
    "Consent": Kind(CARE, "", "", {
        "status": "active",
        "scope": {"text": "privacy"},
        "category": [{"text": "treatment"}],
        "patient": SUBJECT,
        "policyRule": {"text": "OPTIN"},
    }),
    "Condition": Kind(CARE, "D", "D", {"code": {"text": "Asthma"}, "subject": SUBJECT}),
    "AllergyIntolerance": Kind(CARE, "DN", "D", {
        "clinicalStatus": {
            "coding": [
                {"system": "http://terminology.hl7.org/CodeSystem/allergyintolerance-clinical", "code": "active"},
            ],
        },
        "code": {"text": "Nuts"},
        "patient": SUBJECT,
    }),
    "MedicationRequest": Kind(CARE, "D", "D", {
        "status": "active", "intent": "order", "medicationCodeableConcept": DRUG, "subject": SUBJECT,
    }),
    "MedicationStatement": Kind(CARE, "PD", "D", {
        "status": "active", "medicationCodeableConcept": DRUG, "subject": SUBJECT,
    }),
    "MedicationAdministration": Kind(CARE, "DN", "D", {
        "status": "completed",
        "medicationCodeableConcept": DRUG,
        "subject": SUBJECT,
        "effectiveDateTime": "2024-03-01",
    }),
    "ImagingStudy": Kind("PFDNLGE", "DL", "DL", {"status": "available", "subject": SUBJECT}),
    "Claim": Kind("PFDIG", "", "", {
        "status": "active",
        "type": {"text": "professional"},
        "use": "claim",
        "patient": SUBJECT,
        "created": "2024-03-01",
        "provider": {"reference": SHARED},
        "priority": {"text": "normal"},
        "insurance": [{"sequence": 1, "focal": True, "coverage": {"display": "Plan"}}],
    }),
    "DocumentReference": Kind("PFDNGE", "PDN", "D", {
        "status": "current", "subject": SUBJECT, "content": [{"attachment": {"title": "Letter"}}],
    }),
    "Provenance": Kind("PFDNGE", "", "", {
        "target": [{"reference": f"Observation/{PLAIN}"}],
        "recorded": "2024-03-01T10:00:00Z",
        "agent": [{"who": {"display": "Somebody"}}],
    }),
    "AuditEvent": Kind("PFDNGE", "", "", {
        "type": {"code": "rest"},
        "recorded": "2024-03-01T10:00:00Z",
        "agent": [{"requestor": False}],
        "source": {"observer": {"display": "Somebody"}},
    }, made=True),
    "Organization": Kind(EVERYBODY, "", "", {"name": "Ward 7"}),
}  # fmt: skip
WAYS: Final = ("read", "search", "create", "update", "patch")
WITHOUT_GRANT: Final = frozenset(LETTERS[one] for one in "PFSACR")
"""Who stands here by its own right (a patient, a relative), or for whom no ticket would open anything."""
CELLS: Final = 1020


@pytest.fixture(scope="module")
def wards(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Situation, Ward]]:
    """A ward in which nothing was granted, and one in which Olga granted everything to everybody."""
    made = [stored(name) for name, kind in TYPES.items() if not kind.made and name != "Patient"]
    with ExitStack() as held:
        wards = {}
        for situation in (Situation.OWN, Situation.GRANTED):
            ward = wards[situation] = held.enter_context(closing(Ward(tmp_path_factory.mktemp("ward"))))
            ward.file(ward.olga, made)
            ward.stand(situation)
        yield wards


def id_of(name: str) -> str:
    """The id of the resource of a type that is there."""
    return {"Patient": OLGA, "Organization": "ward-7"}.get(name, f"the-{name.lower()}")


def stored(name: str, **more: object) -> dict[str, Any]:
    return {"resourceType": name, "id": id_of(name), **TYPES[name].body, **more}


def test_every_kind_of_record_has_its_row() -> None:
    clinical = {CATEGORIES[name] for name in TYPES if name in CATEGORIES}
    # What patients report is told by its author, not by its type.
    assert clinical == set(Category) - {Category.PATIENT_REPORTED}
    assert set(LETTERS.values()) == set(Role)
    assert len(TYPES) * len(WAYS) * len(Role) == CELLS


@pytest.mark.parametrize("role", list(Role), ids=lambda one: one.name.lower())
def test_cells(wards: dict[Situation, Ward], role: Role) -> None:
    ward = wards[Situation.OWN if role in WITHOUT_GRANT else Situation.GRANTED]
    answers = {(name, way): ask(ward, role, name, way) for name in TYPES for way in WAYS}
    assert len(answers) * len(Role) == CELLS
    assert {
        f"{way} {name}": (answer.status_code, answer.text[:300])
        for (name, way), answer in answers.items()
        if answer.status_code != expected(role, name, way)
    } == {}


def expected(role: Role, name: str, way: str) -> int:
    """The status that must come."""
    kind = TYPES[name]
    if kind.made and way not in {"read", "search"}:
        return 405
    letters = {"create": kind.adds, "update": kind.changes, "patch": kind.changes}.get(way, kind.reads)
    if role not in {LETTERS[one] for one in letters}:
        return 403
    if kind.made and way == "read":
        return 404
    return 201 if way == "create" else 200


def ask(ward: Ward, role: Role, name: str, way: str) -> httpx.Response:
    language = f"x-{ward.fresh().removeprefix('note ')}"
    where = f"{name}/{id_of(name)}"
    match way:
        case "read":
            return ward.call(role, "GET", where)
        case "search":
            return ward.call(role, "GET", f"{name}?_id={id_of(name)}")
        case "create":
            body = {key: value for key, value in stored(name, language=language).items() if key != "id"}
            return ward.call(role, "POST", name, body)
        case "update":
            return ward.call(role, "PUT", where, stored(name, language=language))
        case _:
            steps = [{"op": "add", "path": "/language", "value": language}]
            return ward.call(
                role, "PATCH", where, json.dumps(steps).encode(), content_type="application/json-patch+json"
            )
