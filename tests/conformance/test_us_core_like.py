"""Goal: a node answers the searches that US Core asks for, with each kind of parameter, and refuses what is none.

Method: a hand-made practice (``fhir_practice.py``) on each database; every search by GET and by POST, with the exact
ids; every other request with its status. Needs no data from elsewhere.
"""

from urllib.parse import parse_qsl, urlencode

import orjson
import pytest

from carechain.charts.validation import validate
from fhir_practice import RESOURCES, SEARCHES, STATUSES
from fhir_world import FhirWorld, entry, transaction

FORM = {"content-type": "application/x-www-form-urlencoded"}


def encoded(search: str) -> tuple[str, str]:
    kind, _, query = search.partition("?")
    return kind, urlencode(parse_qsl(query, keep_blank_values=True))


def matches(world: FhirWorld, url: str | None) -> list[str]:
    found: list[str] = []
    while url:
        answer = world.get(url, headers={"prefer": "handling=strict"})
        assert answer.status == 200, answer.body
        found += [one.partition("/")[2] for one in answer.ids]
        url = answer.link("next")
    return found


@pytest.mark.parametrize(("search", "expected"), SEARCHES, ids=[search for search, _ in SEARCHES])
def test_searches(practice: FhirWorld, search: str, expected: str) -> None:
    kind, query = encoded(search)
    found = matches(practice, f"{kind}?{query}")
    assert (found if "_sort" in search else sorted(found)) == expected.split()
    posted = practice.ask("POST", f"{kind}/_search", query.encode(), headers=FORM)
    assert posted.ids == practice.get(f"{kind}?{query}").ids


@pytest.mark.parametrize(("request_", "status"), STATUSES, ids=[path for path, _ in STATUSES])
def test_statuses(practice: FhirWorld, request_: str, status: int) -> None:
    answer = practice.get(request_)
    assert answer.status == status, answer.body
    assert status == 200 or answer.json["resourceType"] == "OperationOutcome"


def test_unknown_parameters_by_handling(practice: FhirWorld) -> None:
    assert practice.get("Patient?wizard=1", headers={"prefer": "handling=strict"}).status == 400
    lenient = practice.get("Patient?wizard=1&_id=amy", headers={"prefer": "handling=lenient"})
    assert lenient.ids == ["Patient/amy"]
    assert "wizard" not in (lenient.link("self") or "")
    assert lenient.json["entry"][-1]["search"]["mode"] == "outcome"


INCLUDES = [
    ("MedicationRequest?patient=amy&intent=order&_include=MedicationRequest:medication", "Medication/salbutamol"),
    ("Condition?patient=amy&_revinclude=Provenance:target", "Provenance/origin"),
    ("Patient?_id=amy&_revinclude=Provenance:target", "Provenance/origin"),
    (
        "DiagnosticReport?patient=amy&_include=DiagnosticReport:result&_include:iterate=Observation:subject",
        "Observation/glucose Patient/amy",
    ),
    ("PractitionerRole?_include=PractitionerRole:*", "Organization/practice Practitioner/bone"),
    ("Encounter?_id=visit&_include=Encounter:subject:Group", ""),
]


@pytest.mark.parametrize(("search", "expected"), INCLUDES, ids=[search for search, _ in INCLUDES])
def test_what_comes_along(practice: FhirWorld, search: str, expected: str) -> None:
    answer = practice.get(search)
    modes = {
        f"{one['resource']['resourceType']}/{one['resource']['id']}": one["search"]["mode"]
        for one in answer.json["entry"]
    }
    assert sorted(name for name, mode in modes.items() if mode == "include") == expected.split()
    # Only matches count.
    assert answer.json["total"] == list(modes.values()).count("match")


def test_the_practice_is_valid() -> None:
    for one in RESOURCES:
        assert not [issue for issue in validate(orjson.dumps(one)) if issue.severity != "warning"], one["id"]


def test_an_entry_may_be_called_by_type_and_id(practice: FhirWorld) -> None:
    """Common in published bundles though FHIR wants absolute addresses: references by that name reach the new id."""
    observed = {
        "resourceType": "Observation",
        "status": "final",
        "code": {"text": "By name"},
        "subject": {"reference": "Patient/amy"},
    }
    report = {
        "resourceType": "DiagnosticReport",
        "status": "final",
        "code": {"text": "By name"},
        "subject": {"reference": "Patient/amy"},
        "result": [{"reference": "Observation/here-only"}],
    }
    answer = practice.ask(
        "POST",
        "",
        transaction(
            entry("POST", "Observation", observed, "Observation/here-only"),
            entry("POST", "DiagnosticReport", report, "DiagnosticReport/here-too"),
        ),
    )
    assert answer.status == 200, answer.body
    names = [one["response"]["location"].partition("/_history")[0] for one in answer.json["entry"]]
    assert "Observation/here-only" not in names
    assert practice.get(names[1]).json["result"] == [{"reference": names[0]}]
