"""Goal: exports and event streams give out what their caller sees at that moment, audited, bounded, and nothing else.

Method: exports are followed from kick-off to the last line, on SQLite and PostgreSQL; streams are read part by part
while the world changes between the parts.
"""

from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from carechain.charts.sight import CUSTODIAN, NOTHING
from carechain.core.limits import EVENT_STREAMS_PER_PARTY, FHIR_EXPORTS_PER_CALLER
from carechain.gateway.principal import Rights
from fhir_world import READ, FhirWorld, entry, observation, patient, transaction

ASYNC = {"prefer": "respond-async"}


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
        for one in (
            patient("p1"),
            patient("p2"),
            {"resourceType": "Organization", "id": "org", "name": "x"},
            {
                "resourceType": "Group",
                "id": "g",
                "type": "person",
                "actual": True,
                "member": [{"entity": {"reference": "Patient/p2"}}, {"entity": {"reference": "Patient/none"}}],
            },
        ):
            made.put(one)
        made.put(observation("o", "p1"))
        made.put(observation("q", "p2"))
        made.readings.clear()
        yield made


def _export(world: FhirWorld, path: str, *, by: str = "system") -> dict[str, list[str]]:
    began = world.get(path, by=by, headers=ASYNC)
    assert (began.status, began.body) == (202, b""), began.body
    manifest = world.get(began.headers["content-location"], by=by)
    assert manifest.json["requiresAccessToken"] is True
    found = {}
    for one in manifest.json["output"]:
        lines = world.get(one["url"], by=by)
        assert lines.headers["content-type"] == "application/fhir+ndjson"
        found[one["type"]] = [orjson.loads(line)["id"] for line in lines.body.splitlines()]
    assert world.ask("DELETE", began.headers["content-location"], by=by).status == 202
    return found


def test_an_export_gives_everything_and_audits_every_part(world: FhirWorld) -> None:
    many = [entry("PUT", f"Observation/o{number}", observation(f"o{number}", "p1")) for number in range(220)]
    assert world.ask("POST", "", transaction(*many)).status == 200
    world.readings.clear()
    found = _export(world, "$export")
    assert sorted(found) == ["Group", "Observation", "Organization", "Patient"]
    assert len(found["Observation"]) == len(set(found["Observation"])) == 222
    assert sum(one.count for one in world.readings if one.interaction == "export-file") == 226
    assert max(one.count for one in world.readings) <= 200


def test_an_export_can_be_of_patients_or_of_a_group(world: FhirWorld) -> None:
    assert sorted(_export(world, "Patient/$export")) == ["Group", "Observation", "Patient"]
    assert _export(world, "Group/g/$export") == {"Patient": ["p2"], "Observation": ["q"]}
    assert list(_export(world, "$export?_type=Patient")) == ["Patient"]
    assert _export(world, "$export?_since=2200-01-01") == {}


def test_an_export_is_narrowed_to_what_its_caller_sees(world: FhirWorld) -> None:
    world.sees("app", "p2")
    assert _export(world, "$export?_type=Patient,Observation,Group", by="app") == {
        "Observation": ["q"],
        "Patient": ["p2"],
    }
    scoped = Rights(read=True, search=True, filters=("code=unheard",))
    world.caller("scoped", CUSTODIAN, {"Observation": scoped, "Patient": READ})
    assert sorted(_export(world, "$export", by="scoped")) == ["Patient"]


def test_what_is_revoked_meanwhile_is_not_given_out(world: FhirWorld) -> None:
    world.sees("app", "p2")
    began = world.get("$export?_type=Patient", by="app", headers=ASYNC).headers["content-location"]
    url = world.get(began, by="app").json["output"][0]["url"]
    world.caller("app", NOTHING)
    assert world.get(url, by="app").body == b""
    assert world.get(began, by="app").json["output"] == []


def test_an_export_is_its_callers_alone_and_ends(world: FhirWorld) -> None:
    world.caller("other", CUSTODIAN)
    began = world.get("$export", headers=ASYNC).headers["content-location"]
    unknown = world.get("$export-status/nope")
    assert (unknown.status, unknown.label) == (404, "FHIR.EXPORT_UNKNOWN")
    assert world.get(began, by="other").whole() == unknown.whole()
    assert world.ask("DELETE", began).status == 202
    assert world.get(began).status == 404
    began = world.get("$export", headers=ASYNC).headers["content-location"]
    world.now_s += 4_000
    assert world.get(began).status == 404


@pytest.mark.parametrize(
    ("path", "headers", "label"),
    [
        ("$export", {}, "FHIR.EXPORT_UNSUPPORTED"),
        ("$export?_outputFormat=csv", ASYNC, "FHIR.EXPORT_UNSUPPORTED"),
        ("$export?_typeFilter=x", ASYNC, "FHIR.PARAMETER_UNKNOWN"),
        ("$export?_type=Foo", ASYNC, "FHIR.PARAMETER_INVALID"),
        ("Group/none/$export", ASYNC, "FHIR.NOT_FOUND"),
    ],
)
def test_exports_that_cannot_be_are_refused(world: FhirWorld, path: str, headers: dict[str, str], label: str) -> None:
    assert world.get(path, headers=headers).label == label


def test_one_caller_has_a_few_exports(world: FhirWorld) -> None:
    world.caller("greedy", CUSTODIAN)
    for _ in range(FHIR_EXPORTS_PER_CALLER):
        assert world.get("$export", by="greedy", headers=ASYNC).status == 202
    refused = world.get("$export", by="greedy", headers=ASYNC)
    assert (refused.status, refused.label) == (429, "FHIR.TOO_MANY_EXPORTS")


# --- events ----------------------------------------------------------------------------------------------
def _changes(parts: list[bytes]) -> list[str]:
    lines = b"".join(parts).splitlines()
    return [orjson.loads(line[6:])["focus"] for line in lines if line.startswith(b"data: ")]


def test_a_stream_tells_ids_of_what_is_seen_and_matches(world: FhirWorld) -> None:
    world.sees("app", "p2")

    async def then(number: int) -> None:
        if number == 2:
            await world.store(observation("hidden", "p1"))
            await world.store(patient("p2", "Li"))
            await world.store(observation("new", "p2"))

    path = "$events?criteria=Observation?code=8867-4"
    parts = world.stream(path, by="app", most=3, then=then)
    assert _changes(parts) == ["Observation/new"]
    assert b"72" not in b"".join(parts)
    # From the beginning: of all observations two are this caller's to see.
    seen = world.stream(path, by="app", most=2, after="0")
    assert _changes(seen) == ["Observation/q", "Observation/new"]
    # An event's id goes on from there, and is sealed: it would count what is hidden.
    first = seen[1].partition(b"\n")[0].removeprefix(b"id: ").decode()
    assert not first.isdigit()
    assert _changes(world.stream(path, by="app", most=2, after=first)) == ["Observation/new"]
    assert world.get(path, headers={"last-event-id": first}).label == "FHIR.PAGE_UNKNOWN"


def test_a_stream_ends_with_what_allowed_it(world: FhirWorld) -> None:
    world.sees("app", "p2")

    async def then(number: int) -> None:
        if number == 2:
            del world.callers["app"]
            await world.store(patient("p2", "Li"))

    parts = world.stream("$events?criteria=Patient", by="app", most=9, then=then)
    assert parts[-1].startswith(b"event: end")


def test_one_caller_has_a_few_streams(world: FhirWorld) -> None:
    world.sees("app", "p2")
    with world.open_streams("$events?criteria=Patient", by="app", number=EVENT_STREAMS_PER_PARTY):
        refused = world.get("$events?criteria=Patient", by="app")
        assert (refused.status, refused.label) == (429, "FHIR.TOO_MANY_STREAMS")
    assert len(world.stream("$events?criteria=Patient", by="app", most=2)) == 2


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("$events", "FHIR.CRITERIA_MISSING"),
        ("$events?criteria=Foo", "FHIR.TYPE_UNKNOWN"),
        ("$events?criteria=Patient/1", "FHIR.PARAMETER_INVALID"),
        ("$events?criteria=Patient?foo=1", "SEARCH.UNKNOWN_PARAMETER"),
    ],
)
def test_streams_need_criteria(world: FhirWorld, path: str, label: str) -> None:
    assert world.get(path).label == label
