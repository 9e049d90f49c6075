"""Goal: a researcher sees linked, useful, pseudonymised resources, and nothing that the list does not name (RES-1).

Method: the worked case and synthetic patients are shown to two studies; canaries ride in every element.
"""

import json
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carechain.charts.bundle import parse
from carechain.core.codec import Malformed
from carechain.demo import steve_apple, synthetic
from carechain.research.pseudonym import ALLOWED, Study, View

ONE, TWO = Study(b"1" * 32), Study(b"2" * 32)
CANARY = "Canary4711"


def view(study: Study = ONE, patient: bytes = b"p" * 32, custodian: bytes = b"a" * 32) -> View:
    return View(study=study, patient_key=patient, custodian=custodian, as_of_year=2026)


def show(*resources: dict[str, Any], through: View | None = None) -> list[dict[str, Any]]:
    shown = (through or view()).show(json.dumps(one).encode() for one in resources)
    return [json.loads(one) for one in shown]


def bodies(bundle: bytes) -> list[bytes]:
    return [entry.body for entry in parse(bundle).entries]


def test_the_worked_case_keeps_its_science_and_loses_its_people() -> None:
    resources = (
        bodies(steve_apple.demographics()) + bodies(steve_apple.encounter_note()) + bodies(steve_apple.lipid_test())
    )
    text = b"".join(view().show(resources)).decode()
    for gone in (
        "Steve",
        "Apple",
        "apple",
        "Savem",
        "savem",
        "Doe",
        "doe",
        "Orchard",
        "555",
        "SA-1001",
        "1956-09",
        "2025-03-06",
        "dog",
    ):
        assert gone not in text
    assert '"value":232' in text
    assert "2093-3" in text
    assert '"birthDate":"1956"' in text


def test_links_survive_within_a_study_and_not_across_two() -> None:
    resources = bodies(steve_apple.lipid_test())
    first, again, other = (view(study).show(resources) for study in (ONE, Study(b"1" * 32), TWO))
    assert first == again
    trees = [json.loads(one) for one in first]
    patient = next(one["id"] for one in trees if one["resourceType"] == "Patient")
    report = next(one for one in trees if one["resourceType"] == "DiagnosticReport")
    results = {f"Observation/{one['id']}" for one in trees if one["resourceType"] == "Observation"}
    assert report["subject"] == {"reference": f"Patient/{patient}"}
    assert {one["reference"] for one in report["result"]} == results
    performers = {one["performer"][0]["reference"] for one in trees if "performer" in one}
    assert len(performers) == 1
    tokens = lambda shown: {word for one in shown for word in one.decode().split('"') if len(word) >= 64}  # noqa: E731
    assert tokens(first).isdisjoint(tokens(other))


def test_pseudonyms_differ_by_patient_and_by_custodian() -> None:
    assert ONE.patient(b"p") != ONE.patient(b"q") != TWO.patient(b"p")
    assert ONE.provider(b"a", "1") != ONE.provider(b"b", "1")
    assert ONE.resource(b"a", b"p", "1") != ONE.resource(b"a", b"q", "1")
    assert ONE.provider(b"a", "1") != ONE.patient(b"a1")
    assert len(ONE.patient(b"p")) == 64


def test_a_reference_means_the_same_in_either_form() -> None:
    relative, absolute = show(
        {"resourceType": "Condition", "id": "c", "encounter": {"reference": "Encounter/e1"}},
        {"resourceType": "Condition", "id": "c", "encounter": {"reference": "urn:uuid:e1"}},
    )
    assert relative == absolute


def test_intervals_survive_and_calendar_dates_do_not() -> None:
    first, second = show(
        {"resourceType": "Condition", "id": "1", "recordedDate": "2024-01-01"},
        {"resourceType": "Condition", "id": "2", "recordedDate": "2024-03-01T10:00:00Z"},
    )
    days = [date.fromisoformat(one["recordedDate"]) for one in (first, second)]
    assert (days[1] - days[0]).days == 60
    assert days[0] == date(2024, 1, 1).fromordinal(date(2024, 1, 1).toordinal() + ONE.shift_days(b"p" * 32))
    shifts = {ONE.shift_days(bytes([number])) for number in range(200)}
    assert 0 not in shifts
    assert min(shifts) >= -182
    assert max(shifts) <= 183
    assert len(shifts) > 100


@pytest.mark.parametrize(
    ("born", "shown"),
    [("1980-05-06", "1980"), ("1980", "1980"), ("1936-01-01", "1936"), ("1921-01-01", "1936"), ("unknown", None)],
)
def test_birth_dates_become_years_and_great_ages_one(born: str, shown: str | None) -> None:
    (found,) = show({"resourceType": "Patient", "id": "p", "birthDate": born})
    assert found.get("birthDate") == shown


@pytest.mark.parametrize(
    "coding",
    [
        {"system": "https://hospital.example/mrn", "code": "H123"},
        {"system": "http://loinc.org.evil.example", "code": "2093-3"},
        {"system": "http://snomed.info/sct", "code": "Steve Apple"},
        {"system": "http://hl7.org/fhir/sid/us-ssn", "code": "999-12-3456"},
        {"code": "2093-3"},
        {"system": 5, "code": []},
        "text",
    ],
)
def test_codes_that_are_not_of_a_published_terminology_are_dropped(coding: Any) -> None:
    (found,) = show({"resourceType": "Condition", "id": "c", "code": {"coding": [coding], "text": CANARY}})
    assert "code" not in found


def test_unlisted_types_are_left_out() -> None:
    kinds = ("DocumentReference", "Practitioner", "RelatedPerson", "Coverage", "Provenance", "Binary", "Horoscope")
    assert show(*({"resourceType": kind, "id": "x"} for kind in kinds), {"id": "x"}) == []


ELEMENTS = sorted({key for allowed in ALLOWED.values() for key in allowed})
LEAVES = st.sampled_from([CANARY, f"x {CANARY}", f"Patient/{CANARY}", f"urn:uuid:{CANARY}", f"2024-{CANARY}"])
NAMES = st.sampled_from(
    [*ELEMENTS, "coding", "system", "code", "value", "reference", "display", "text", "start", "unit", "name"]
)
TREES = st.recursive(
    LEAVES, lambda inner: st.dictionaries(NAMES, inner, max_size=5) | st.lists(inner, max_size=3), max_leaves=20
)


@given(st.sampled_from(sorted(ALLOWED)), st.dictionaries(NAMES, TREES, max_size=8))
def test_no_text_passes_whatever_the_shape(kind: str, elements: dict[str, Any]) -> None:
    shown = view().show([json.dumps({**elements, "resourceType": kind, "id": CANARY}).encode()])
    assert CANARY not in b"".join(shown).decode()


def test_synthetic_patients_lose_their_names_and_numbers() -> None:
    for index in range(4):
        resources = bodies(synthetic.patient(index, 1))
        person = next(tree for tree in map(json.loads, resources) if tree["resourceType"] == "Patient")
        text = b"".join(view(patient=bytes([index])).show(resources)).decode()
        names = [person["name"][0]["family"], person["identifier"][0]["value"], person["id"], person["birthDate"]]
        assert not any(one in text for one in names)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"5", b"\xff", CANARY.encode()])
def test_what_is_not_a_json_object_is_refused_without_repeating_it(data: bytes) -> None:
    with pytest.raises(Malformed) as caught:
        view().show([data])
    assert CANARY not in repr(caught.value)


def test_a_study_secret_has_one_length_and_is_not_printed() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Study(b"short")
    assert "111" not in repr(ONE)
