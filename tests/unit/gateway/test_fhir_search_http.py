"""Goal: searches over HTTP: forms, pages, includes, totals, scopes, strictness, compartments (API-1, CON-7).

Method: a small world on SQLite and on PostgreSQL; pages are followed to their end and compared with the whole.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from carechain.charts.binding import provisional
from carechain.charts.repository import Change, Repository
from carechain.charts.searching.result import Found, search
from carechain.charts.sight import CUSTODIAN, of_patient
from carechain.gateway.fhir import rights
from carechain.gateway.principal import Rights
from fhir_world import READ, FhirWorld, entry, observation, patient, transaction
from world import entropy_of

FORM = {"content-type": "application/x-www-form-urlencoded"}
LABORATORY = {
    "category": [
        {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "laboratory"}]}
    ]
}


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.databases)])
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str | Path]:
    """A new database for the whole file: SQLite, then PostgreSQL."""
    if request.param == "sqlite":
        yield tmp_path_factory.mktemp("fhir") / "charts.db"
        return
    with request.getfixturevalue("postgresql").new_database() as url:
        yield url


@pytest.fixture(scope="module")
def world(database: str | Path) -> Iterator[FhirWorld]:
    with FhirWorld(database) as made:
        listed: list[dict[str, Any]] = [patient("p1", "Wang"), patient("p2", "王")]
        listed += [observation(f"o{number}", "p1", value=f"{60 + number}") for number in range(7)]
        listed += [observation("lab", "p1", code="718-7", **LABORATORY), observation("q", "p2")]
        listed += [
            {"resourceType": "Practitioner", "id": "dr", "name": [{"family": "Chen"}]},
            observation("by-dr", "p2", performer=[{"reference": "Practitioner/dr"}]),
        ]
        sent = transaction(*(entry("PUT", f"{one['resourceType']}/{one['id']}", one) for one in listed))
        assert made.ask("POST", "", sent).status == 200
        made.readings.clear()
        yield made


def _all_pages(world: FhirWorld, path: str, **options: Any) -> list[str]:
    found: list[str] = []
    url: str | None = path
    while url:
        page = world.get(url, **options)
        assert page.status == 200, page.body
        found += page.ids
        url = page.link("next")
    return found


def test_pages_together_are_the_whole(world: FhirWorld) -> None:
    whole = world.get("Observation?patient=p1&_count=100").ids
    assert len(whole) == 8
    assert _all_pages(world, "Observation?patient=p1&_count=3") == whole
    by_date = world.get("Observation?_sort=-_lastUpdated,_id&_count=100").ids
    assert _all_pages(world, "Observation?_sort=-_lastUpdated,_id&_count=2") == by_date


def test_the_next_link_says_nothing_and_is_the_callers_alone(world: FhirWorld) -> None:
    world.sees("other", "p1")
    page = world.ask("POST", "Observation/_search", b"patient=p1&_count=2", headers=FORM)
    link = page.link("next") or ""
    assert "p1" not in link
    assert world.get(link).status == 200
    refused = world.get(link, by="other")
    assert (refused.status, refused.label) == (410, "FHIR.PAGE_UNKNOWN")
    assert world.get(link[:-2]).status == 410
    # A place in one listing is no place in another.
    assert world.get(link.replace("/Observation?", "/Patient?")).status == 410
    world.now_s += 4_000
    assert world.get(link).status == 410


def test_a_page_is_judged_again(world: FhirWorld) -> None:
    world.sees("guest", "p1")
    link = world.get("Observation?_count=2", by="guest").link("next") or ""
    world.caller("guest", of_patient(provisional("nobody")))
    assert world.get(link, by="guest").ids == []


def test_forms_and_addresses_ask_the_same(world: FhirWorld) -> None:
    asked = world.get("Patient?family=%E7%8E%8B")
    posted = world.ask("POST", "Patient/_search", "family=王".encode(), headers=FORM)
    both = world.ask("POST", "Patient/_search?family=%E7%8E%8B", None, headers=FORM)
    assert asked.ids == posted.ids == both.ids == ["Patient/p2"]
    assert world.ask("POST", "Patient/_search", b"{}", headers={"content-type": "text/plain"}).status == 415


def test_includes_come_with_the_matches_and_are_marked(world: FhirWorld) -> None:
    page = world.get("Observation?patient=p2&_include=Observation:patient&_include=Observation:performer")
    modes = [(one["search"]["mode"], one["resource"]["resourceType"]) for one in page.json["entry"]]
    assert modes.count(("match", "Observation")) == 2
    assert modes.count(("include", "Patient")) == 1
    assert modes.count(("include", "Practitioner")) == 1
    assert page.json["total"] == 2


def test_counting_only_counts(world: FhirWorld) -> None:
    for query in ("_summary=count", "_count=0"):
        answer = world.get(f"Observation?patient=p1&{query}").json
        assert (answer["total"], "entry" in answer) == (8, False)
    assert world.get("Observation?_total=accurate&_count=1").json["total"] == 10


def test_unknown_parameters_are_passed_over_or_refused(world: FhirWorld) -> None:
    lenient = world.get("Observation?patient=p1&foo=bar&_count=2")
    assert lenient.status == 200
    assert "foo" not in (lenient.link("self") or "")
    assert lenient.json["entry"][-1]["search"]["mode"] == "outcome"
    strict = world.get("Observation?foo=bar", headers={"prefer": "handling=strict"})
    assert (strict.status, strict.label) == (400, "SEARCH.UNKNOWN_PARAMETER")
    assert strict.issue["expression"] == ["http.foo"]


@pytest.mark.parametrize(
    "query",
    ["date=yesterday", "_sort=a,b,c,d,e,f", "code:foo=1", "patient.name.given=x", "_include=nonsense", "_count=x",
     "_has:Foo:bar:baz=1", "value-quantity=ten"],
)  # fmt: skip
def test_what_means_nothing_is_refused_without_repeating_it(world: FhirWorld, query: str) -> None:
    refused = world.get(f"Observation?{query}", headers={"prefer": "handling=strict"})
    assert refused.status == 400
    assert refused.json["resourceType"] == "OperationOutcome"
    assert b"yesterday" not in refused.body


def test_a_compartment_is_a_patients_own(world: FhirWorld) -> None:
    assert len(world.get("Patient/p1/Observation?_count=50").ids) == 8
    assert world.get("Patient/p2/*?_count=50").json["total"] == 3
    assert world.ask("POST", "Patient/p1/Observation/_search", b"code=718-7", headers=FORM).ids == ["Observation/lab"]
    assert world.get("Patient/nobody/Observation").ids == []


def test_the_whole_system_can_be_searched_by_type(world: FhirWorld) -> None:
    found = world.get("?_type=Patient,Practitioner&_count=50").ids
    assert sorted(found) == ["Patient/p1", "Patient/p2", "Practitioner/dr"]
    assert world.get("?_type=Foo").status == 400


def test_everything_of_a_patient_brings_who_is_named(world: FhirWorld) -> None:
    page = world.get("Patient/p2/$everything")
    assert sorted(page.ids) == ["Observation/by-dr", "Observation/q", "Patient/p2", "Practitioner/dr"]
    assert len(_all_pages(world, "Patient/p1/$everything?_count=2")) == 9
    assert world.get("Patient/p2/$everything?_type=Observation").ids == ["Observation/q", "Observation/by-dr"]
    assert world.get("Patient/p2/$everything?start=2020-01-01").label == "FHIR.PARAMETER_UNKNOWN"
    assert world.get("Patient/nobody/$everything").status == 404
    parameters = {"resourceType": "Parameters", "parameter": [{"name": "_type", "valueString": "Patient"}]}
    assert world.ask("POST", "Patient/p2/$everything", parameters).ids == ["Patient/p2"]


# --- scopes ----------------------------------------------------------------------------------------------
LAB_ONLY = Rights(read=True, search=True, filters=("category=laboratory",))


@pytest.fixture
def app(world: FhirWorld) -> str:
    """An app whose scopes leave laboratory results of one patient, and the patient."""
    return world.caller("app", of_patient(provisional("p1")), {"Observation": LAB_ONLY, "Patient": READ})


@pytest.mark.parametrize(
    ("path", "ids"),
    [
        ("Observation", ["Observation/lab"]),
        ("Observation?_total=accurate", ["Observation/lab"]),
        ("Patient?_revinclude=Observation:patient", ["Patient/p1", "Observation/lab"]),
        ("Patient?_has:Observation:patient:code=8867-4", []),
        ("Patient?_has:Observation:patient:code=718-7", ["Patient/p1"]),
        ("Patient/p1/$everything", ["Patient/p1", "Observation/lab"]),
        ("Patient/p1/Observation", ["Observation/lab"]),
        ("?_type=Observation", ["Observation/lab"]),
        ("Observation/_history", ["Observation/lab"]),
    ],
)
def test_scopes_narrow_every_way_of_reading(world: FhirWorld, app: str, path: str, ids: list[str]) -> None:
    assert world.get(path, by=app).ids == ids


def test_scopes_narrow_single_resources_too(world: FhirWorld, app: str) -> None:
    assert world.get("Observation/lab", by=app).status == 200
    unknown = world.get("Observation/nope", by=app)
    for tail in ("", "/_history", "/_history/1", "/$received", "/$meta"):
        hidden = world.get(f"Observation/o1{tail}", by=app)
        assert hidden.whole() == unknown.whole()


def test_what_is_shown_is_the_version_that_the_scopes_query_was_asked_of(
    world: FhirWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = world.caller("results", of_patient(provisional("turning")), {"Observation": LAB_ONLY})
    world.ask("PUT", "Patient/turning", patient("turning", "Turner"))
    world.ask("PUT", "Observation/turning", observation("turning", "turning"))
    assert world.get("Observation/turning", by=app).status == 404

    def after_it_became_a_result(*given: Any) -> Found:
        body = orjson.dumps(observation("turning", "turning", code="718-7", **LABORATORY))
        change = Change(resource_type="Observation", resource_id="turning", body=body)
        with Repository(world.charts).writing(int(world.now_s * 1e6), entropy_of("meanwhile")) as writer:
            writer.apply([change], CUSTODIAN)
        return search(*given)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(rights, "search", after_it_became_a_result)
        assert world.get("Observation/turning", by=app).status == 404
    assert world.get("Observation/turning", by=app).json["code"]["coding"][0]["code"] == "718-7"


def test_a_chain_through_a_type_needs_the_right_to_it(world: FhirWorld) -> None:
    world.caller("narrow", CUSTODIAN, {"Observation": READ})
    for query in ("patient.family=Wang", "_has:DiagnosticReport:result:status=final"):
        refused = world.get(f"Observation?{query}", by="narrow")
        assert (refused.status, refused.label) == (403, "FHIR.MAY_NOT")
    page = world.get("Observation?patient=p1&_include=Observation:patient", by="narrow")
    assert all(one.startswith("Observation/") for one in page.ids)
    assert world.get("?_count=50", by="narrow").status == 200
    assert world.get("_history", by="narrow").status == 403


def test_a_scope_that_means_nothing_opens_nothing(world: FhirWorld) -> None:
    broken = Rights(read=True, search=True, filters=("nonsense=1",))
    world.caller("broken", CUSTODIAN, {"Observation": broken})
    assert world.get("Observation", by="broken").status == 400
    assert world.get("Observation/lab", by="broken").status == 400
