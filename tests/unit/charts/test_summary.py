"""Goal: a summary is a sound document whatever the resources are, and its narrative is never anybody's markup (REC-11).

Method: hand-made resources for each section and each way of being left out, the IPS examples of HL7, hostile texts;
every document is checked against R4's definitions.
"""

import json
import os
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from carechain.charts.summary import SECTION_ENTRIES, Missing, Part, Stamp, decode_exact, summary
from carechain.charts.validation import validate

Json = dict[str, Any]

BASE = "https://a.example/fhir"
OTHER = "https://b.example/fhir/"
HERE: Json = {"resourceType": "Organization", "id": "here", "name": "Hospital A"}
THERE: Json = {"resourceType": "Organization", "id": "there", "name": "Hospital B"}
PATIENT: Json = {"resourceType": "Patient", "id": "p", "name": [{"family": "王", "given": ["小明"]}]}
STAMP = Stamp(
    uuid="59f51f0b-2005-485c-858e-3d3ae9657287", instant="2026-11-22T00:00:00Z", custodian=HERE, base_url=BASE
)


def about(resource_type: str, identity: str, **elements: Any) -> Json:
    return {"resourceType": resource_type, "id": identity, "subject": {"reference": "Patient/p"}, **elements}


def coded(code: str, text: str = "", system: str = "http://loinc.org") -> Json:
    return {"coding": [{"system": system, "code": code}], **({"text": text} if text else {})}


def observed(identity: str, category: str, code: str = "x", **elements: Any) -> Json:
    return about("Observation", identity, status="final", category=[coded(category)], code=coded(code), **elements)


def part(*resources: Json, base_url: str = BASE, author: Json = HERE) -> Part:
    return Part(source=author["name"], base_url=base_url, author=author, resources=resources)


def document(*parts: Part, missing: tuple[Missing, ...] = (), patient: Json = PATIENT) -> Json:
    body = summary(patient, parts, STAMP, missing=missing)
    assert [one for one in validate(body) if one.severity != "warning"] == []
    tree: Json = json.loads(body)
    for section in tree["entry"][0]["resource"]["section"]:
        ET.fromstring(section["text"]["div"])  # noqa: S314 - it was made here, and is well-formed or fails the test
    return tree


def sections(tree: Json) -> dict[str, list[str]]:
    """The entries of each section, by title, without the base."""
    found = tree["entry"][0]["resource"]["section"]
    return {
        one["title"]: [entry["reference"].removeprefix(BASE + "/") for entry in one.get("entry", [])] for one in found
    }


def test_an_empty_chart_still_has_the_required_sections() -> None:
    tree = document(part())
    found = tree["entry"][0]["resource"]["section"]
    assert [one["code"]["coding"][0]["code"] for one in found] == ["11450-4", "48765-2", "10160-0"]
    assert all(one["emptyReason"]["coding"][0]["code"] == "unavailable" for one in found)


def test_resources_stand_in_the_section_they_belong_to() -> None:
    resolved = coded("resolved", system="http://terminology.hl7.org/CodeSystem/condition-clinical")
    active = coded("active", system="http://terminology.hl7.org/CodeSystem/condition-clinical")
    tree = document(
        part(
            about("Condition", "c1", code=coded("1", "哮喘"), clinicalStatus=active),
            about("Condition", "c2", code=coded("2"), clinicalStatus=resolved),
            {
                "resourceType": "AllergyIntolerance",
                "id": "a",
                "patient": {"reference": "Patient/p"},
                "clinicalStatus": coded(
                    "active", system="http://terminology.hl7.org/CodeSystem/allergyintolerance-clinical"
                ),
            },
            about("MedicationRequest", "m", status="active", intent="order", medicationCodeableConcept=coded("3")),
            observed("lab", "laboratory"),
            observed("vital", "vital-signs"),
            observed("smokes", "social-history", code="72166-2"),
            observed("expects", "social-history", code="82810-3"),
            about("Procedure", "done", status="completed"),
            about("CarePlan", "plan", status="active", intent="plan"),
            about("Flag", "flag", status="active", code=coded("4")),
            about("Encounter", "visit", status="finished", **{"class": {"code": "AMB"}}),
        )
    )
    assert sections(tree) == {
        "Problem List": ["Condition/c1"],
        "Allergies and Intolerances": ["AllergyIntolerance/a"],
        "Medication Summary": ["MedicationRequest/m"],
        "Results": ["Observation/lab"],
        "History of Procedures": ["Procedure/done"],
        "Vital Signs": ["Observation/vital"],
        "Social History": ["Observation/smokes"],
        "History of Pregnancy": ["Observation/expects"],
        "History of Past Problems": ["Condition/c2"],
        "Plan of Care": ["CarePlan/plan"],
        "Alerts": ["Flag/flag"],
    }


def test_what_is_wrong_or_was_never_done_is_left_out() -> None:
    wrong = coded("entered-in-error", system="http://terminology.hl7.org/CodeSystem/condition-ver-status")
    tree = document(
        part(
            about("Procedure", "not", status="not-done"),
            about("Condition", "wrong", verificationStatus=wrong),
            {**observed("wrong", "laboratory"), "status": "entered-in-error"},
        )
    )
    assert sections(tree) == {"Problem List": [], "Allergies and Intolerances": [], "Medication Summary": []}


def test_what_entries_refer_to_comes_along() -> None:
    medicine = about(
        "MedicationRequest", "m", status="active", intent="order", medicationReference={"reference": "Medication/x"}
    )
    tree = document(
        part(
            {**medicine, "requester": {"reference": "Practitioner/d"}},
            {"resourceType": "Medication", "id": "x", "manufacturer": {"reference": "Organization/maker"}},
            {"resourceType": "Organization", "id": "maker", "name": "Maker"},
            {"resourceType": "Practitioner", "id": "d"},
            {"resourceType": "Practitioner", "id": "nobody-names-him"},
        )
    )
    names = {one["fullUrl"].removeprefix(BASE + "/") for one in tree["entry"]}
    assert {"Medication/x", "Organization/maker", "Practitioner/d"} <= names
    assert "Practitioner/nobody-names-him" not in names


def test_the_same_id_at_two_places_is_two_resources() -> None:
    there = part(
        observed("1", "laboratory"),
        {"resourceType": "Patient", "id": "p"},
        base_url=OTHER,
        author=THERE,
    )
    tree = document(part(observed("1", "laboratory")), there, missing=(Missing(source="C <b>", reason="no answer"),))
    composition = tree["entry"][0]["resource"]
    (results,) = [one for one in composition["section"] if one["title"] == "Results"]
    assert [one["reference"] for one in results["entry"]] == [
        f"{BASE}/Observation/1",
        "https://b.example/fhir/Observation/1",
    ]
    assert [one["reference"] for one in composition["author"]] == [
        f"{BASE}/Organization/here",
        "https://b.example/fhir/Organization/there",
    ]
    assert "Not included: C &lt;b&gt; (no answer)." in composition["text"]["div"]
    # The patient's entry over there is another one, so its results keep their subject.
    assert "https://b.example/fhir/Patient/p" in {one["fullUrl"] for one in tree["entry"]}


def test_a_hostile_text_stays_a_text() -> None:
    nasty = '<script>alert("1")</script>&#x1; \x00\x0b]]>' + "长" * 500
    tree = document(part(about("Condition", "c", code={"text": nasty.replace("\x00", "").replace("\x0b", "")})))
    div = tree["entry"][0]["resource"]["section"][0]["text"]["div"]
    assert "<script" not in div
    assert "…" in div
    from carechain.charts.summary import _clean  # noqa: PLC0415 - the one place that text becomes markup

    ET.fromstring(f"<p>{_clean(nasty)}</p>")  # noqa: S314 - as above


def test_the_latest_come_first_and_a_long_section_says_what_is_missing() -> None:
    many = [
        observed(str(number), "laboratory", effectiveDateTime=f"20{number // 28 + 10:02d}-02-{number % 28 + 1:02d}")
        for number in range(SECTION_ENTRIES + 5)
    ]
    tree = document(part(*many))
    (results,) = [one for one in tree["entry"][0]["resource"]["section"] if one["title"] == "Results"]
    assert results["entry"][0]["reference"].endswith(f"/Observation/{SECTION_ENTRIES + 4}")
    assert len(results["entry"]) == SECTION_ENTRIES
    assert "5 older ones are not in this document." in results["text"]["div"]


def test_figures_keep_their_digits() -> None:
    body = json.dumps(observed("1", "laboratory", valueQuantity={"value": 72.5, "unit": "kg"})).encode()
    exact = decode_exact(body.replace(b"72.5", b"72.50"))
    made = summary(PATIENT, [part(exact)], STAMP)
    assert b'"value":72.50' in made
    assert "72.50 kg" in made.decode()


def test_the_examples_of_ips_make_a_summary_again() -> None:
    folder = os.environ.get("CARECHAIN_TEST_DATA")
    if folder is None:
        pytest.skip("CARECHAIN_TEST_DATA names no folder with the IPS examples")
    for name in (
        "Bundle-bundle-ips-all-sections.json",
        "Bundle-IPS-examples-Bundle-01.json",
        "Bundle-bundle-minimal.json",
    ):
        given = json.loads(Path(folder, "hl7-ips", name).read_bytes())
        resources = [one["resource"] for one in given["entry"] if "id" in one["resource"]]
        (patient,) = [one for one in resources if one["resourceType"] == "Patient"]
        others = [one for one in resources if one["resourceType"] not in ("Patient", "Composition")]
        body = summary(patient, [part(*others)], STAMP)
        made = json.loads(body)
        wrong = [one for one in validate(body) if one.severity != "warning"]
        assert wrong == [], (name, wrong)
        titles = {one["title"] for one in given["entry"][0]["resource"]["section"] if one.get("entry")}
        known = {"Problem List", "Allergies and Intolerances", "Medication Summary", "Immunizations", "Vital Signs"}
        filled = {one["title"] for one in made["entry"][0]["resource"]["section"] if one.get("entry")}
        assert titles & known <= filled, name
