"""Goal: what a message says arrives in FHIR, whole and under ids that repeats and corrections meet again.

Method: messages written by hand; the resources are compared element by element, and every one of them goes through the
validation that the charts' FHIR server uses. An independent parser reads the same messages as a check on ours.
"""

import json
from typing import Any
from zoneinfo import ZoneInfo

import hl7
import pytest

from carechain.charts.validation import validate
from carechain.sources.hl7v2.mapping import Parcel, translate
from carechain.sources.hl7v2.message import Message
from carechain.sources.hl7v2.patients import patient
from carechain.sources.hl7v2.values import Place
from hl7_messages import CHINESE, admission, header, message, order, pid, result, segment

PLACE = Place(zone=ZoneInfo("Asia/Shanghai"), authorities={"CN": "urn:oid:2.16.156.10011.1.3"})


def translated(*segments: str, place: Place = PLACE, codec: str = "utf-8") -> list[Parcel]:
    return translate(Message.parse(message(*segments, codec=codec)), place)


def trees(parcel: Parcel) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for one in parcel.resources:
        found.setdefault(one.resource_type, []).append(json.loads(one.body))
    return found


def patient_tree(parcel: Parcel) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(patient(parcel.identity.patient_id(), parcel.said, None).body)
    return tree


@pytest.mark.parametrize("segments", [admission(), admission("A08"), admission("A31"), result(), order()])
def test_everything_made_is_valid_fhir(segments: tuple[str, ...]) -> None:
    for parcel in translated(*segments):
        made = [patient(parcel.identity.patient_id(), parcel.said, None), *parcel.resources]
        for one in made:
            assert [issue for issue in validate(one.body) if issue.severity in ("error", "fatal")] == []


def test_an_admission_is_a_patient_a_visit_a_diagnosis_and_an_allergy() -> None:
    (parcel,) = translated(*admission())
    who = patient_tree(parcel)
    assert who["birthDate"] == "1955-02-24"
    assert who["gender"] == "male"
    assert who["name"][0] == {
        "use": "official",
        "text": "Steven Paul Jobs",
        "family": "Jobs",
        "given": ["Steven", "Paul"],
        "prefix": ["Mr."],
    }
    assert who["identifier"][1]["system"] == "urn:oid:2.16.156.10011.1.3"
    assert who["address"][0]["city"] == "Palo Alto"
    made = trees(parcel)
    visit = made["Encounter"][0]
    assert (visit["status"], visit["class"]["code"]) == ("in-progress", "IMP")
    assert visit["period"] == {"start": "2024-05-01T08:00:00+08:00"}
    assert visit["location"][0]["location"]["display"] == "WEST W1 R2 B3"
    diagnosis = made["Condition"][0]
    assert diagnosis["code"]["coding"][0]["system"] == "http://hl7.org/fhir/sid/icd-10"
    assert diagnosis["encounter"]["reference"] == f"Encounter/{visit['id']}"
    assert made["AllergyIntolerance"][0]["reaction"][0]["severity"] == "severe"


def test_a_result_keeps_its_digits_units_flags_and_notes() -> None:
    (parcel,) = translated(*result())
    made = trees(parcel)
    weight, glucose, group, text = made["Observation"]
    body = next(one.body for one in parcel.resources if b"29463-7" in one.body)
    assert b'"value":72.50,' in body
    assert weight["effectiveDateTime"] == "2024-05-01T09:05:00+08:00"
    assert weight["note"][0]["text"] == "measured with\nclothes & shoes"
    assert glucose["valueQuantity"]["comparator"] == "<"
    assert glucose["referenceRange"][0]["high"]["value"] == 5.6
    assert glucose["interpretation"][0]["coding"][0]["code"] == "L"
    assert group["valueCodeableConcept"]["coding"] == [{"code": "A", "display": "Group A"}]
    assert text["valueString"] == "一切正常"
    report = made["DiagnosticReport"][0]
    assert len(report["result"]) == 4
    assert report["presentedForm"][0]["contentType"] == "application/pdf"
    assert report["issued"] == "2024-05-01T10:00:00+08:00"
    assert weight["category"][0]["coding"][0]["code"] == "laboratory"


def test_a_correction_meets_the_resources_of_the_first_message() -> None:
    (first,), (second,) = translated(*result()), translated(*result(control="M9", value="73.0", status="C"))
    assert [one.key for one in first.resources] == [one.key for one in second.resources]
    assert trees(second)["Observation"][0]["status"] == "corrected"
    (again,) = translated(*result())
    assert first.resources == again.resources


@pytest.mark.parametrize(
    ("code", "status"), [("NW", "active"), ("CA", "revoked"), ("HD", "on-hold"), ("DC", "revoked")]
)
def test_an_order_is_a_service_request(code: str, status: str) -> None:
    (parcel,) = translated(*order(code))
    (made,) = trees(parcel)["ServiceRequest"]
    assert (made["status"], made["priority"], made["intent"]) == (status, "stat", "order")
    assert made["requester"]["display"] == "Gregory House"
    assert made["note"][0]["text"] == "fasting"
    assert made["id"] == trees(translated(*order())[0])["ServiceRequest"][0]["id"]


@pytest.mark.parametrize(("codec", "charset"), [("utf-8", "UNICODE UTF-8"), ("gb18030", "GB 18030-2000")])
def test_chinese_names_are_the_same_in_both_character_sets(codec: str, charset: str) -> None:
    (parcel,) = translated(*admission(name=CHINESE, charset=charset), codec=codec)
    name = patient_tree(parcel)["name"]
    assert name[0]["text"] == "王小明"
    assert (name[0]["family"], name[0]["given"]) == ("王", ["小明"])
    assert name[1]["text"] == "XIAOMING WANG"


def test_a_charset_is_found_behind_a_chinese_facility() -> None:
    # The second byte of a character of GB 18030 may be the separator itself.
    facility = next(char for char in map(chr, range(0x4E00, 0x9FFF)) if char.encode("gb18030")[1:] == b"|")
    (parcel,) = translated(*admission(name=CHINESE, charset="GB18030", facility=facility), codec="gb18030")
    assert patient_tree(parcel)["name"][0]["text"] == "王小明"


def test_what_pid_is_silent_about_stays_and_what_it_deletes_goes() -> None:
    (before,) = translated(*admission())
    known = patient("p1", {**before.said, "extension": [{"url": "urn:x", "valueDecimal": 1}]}, None)
    silent = segment("PID", {3: "4711^^^WEST^MR", 5: "Jobs^Steven", 13: '""', 14: '""'})
    (after,) = translated(header("ADT^A08", control="M8"), silent, "PV1|1|N")
    merged = json.loads(patient("p1", after.said, known).body)
    assert merged["address"][0]["city"] == "Palo Alto"
    assert "telecom" not in merged
    assert merged["extension"] == [{"url": "urn:x", "valueDecimal": 1}]
    assert len(merged["identifier"]) == 2
    assert patient("p1", before.said, known) is known


def test_a_merge_makes_two_patients_that_point_at_each_other() -> None:
    gone, kept = translated(header("ADT^A40"), pid(), "MRG|4712^^^WEST^MR")
    assert gone.said["active"] is False
    assert gone.said["link"][0]["type"] == "replaced-by"
    assert kept.said["link"][0] == {
        "other": {"reference": f"Patient/{gone.identity.patient_id()}"},
        "type": "replaces",
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024", "2024"),
        ("202405", "2024-05"),
        ("20240501", "2024-05-01"),
        ("202405010815", "2024-05-01T08:15:00+08:00"),
        ("20240501081530.25", "2024-05-01T08:15:30.25+08:00"),
        ("20240501081530-0700", "2024-05-01T08:15:30-07:00"),
    ],
)
def test_times_are_as_exact_as_they_were_sent(text: str, expected: str) -> None:
    segments = [one.replace("20240501090500+0800", text) for one in result()]
    (parcel,) = translated(*segments)
    assert trees(parcel)["Observation"][0]["effectiveDateTime"] == expected


@pytest.mark.parametrize("segments", [admission(name=CHINESE), result(), order()])
def test_an_independent_parser_reads_the_same_fields(segments: tuple[str, ...]) -> None:
    data = message(*segments)
    theirs = hl7.parse(data.decode())
    for ours in Message.parse(data).segments:
        their_segment = theirs.segments(ours.name)[ours.number - 1]
        for field in range(1, len(their_segment)):
            assert ours.raw(field) == str(their_segment[field])
