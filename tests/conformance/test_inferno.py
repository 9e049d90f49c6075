"""Goal: a node answers the recorded requests of US Core conformance runs as the recorded server did.

Method: a server is loaded with the resources of the recorded server and asked every request of the lists; the status
must be the recorded one. Where it is not, :data:`DIFFERENCES` says why ours is right, and each of its entries must
still differ. Statuses alone say little, so the content that a recorded test implies is looked at too: only resources
of the type and patient that were asked for, the same by GET and by POST, and something wherever the recorded test
passed (it skips when it finds nothing). What the searches return stands for the reads of ids that the other server
had assigned.
"""

from collections import defaultdict
from collections.abc import Callable
from functools import cache
from urllib.parse import parse_qsl

import pytest

from fhir_recordings import Recorded, load_reference_server, recorded, reference_server
from fhir_world import BASE, Answered, FhirWorld

VERSIONS = ["311", "501"]
DIFFERENCES = {
    # US Core's own search parameters: the recorded server did not have them, so its test failed.
    "CareTeam?role=116154003": 200,
    "CareTeam?role=116154003&status=proposed": 200,
    "CareTeam?patient=85&role=116154003": 200,
    "CareTeam?patient=85&role=116154003&status=proposed": 200,
    "Encounter?discharge-disposition=01&patient=85": 200,
    "Encounter?discharge-disposition=01&patient=85&status=planned": 200,
    "Goal?description=281004&patient=355": 200,
    "Goal?description=281004&lifecycle-status=proposed&patient=355": 200,
}
"""Requests that are answered otherwise than recorded, and how."""
OTHER_SERVERS_IDS = {
    "encounter_patient_location_search_test",
    "medication_request_patient_intent_encounter_search_test",
    "encounter__id_search_test",
    "document_reference__id_search_test",
    "practitioner__id_search_test",
    "related_person__id_search_test",
    "service_request__id_search_test",
    "condition_encounter_diagnosis_patient_category_encounter_search_test",
}
"""Recorded tests (without the version) whose every search names an id that the recorded server had assigned."""


Get = Callable[[str], Answered]


@pytest.fixture(scope="session")
def get(reference_world: FhirWorld) -> Get:
    """GET, each path once: the lists overlap and several tests look at the same answers."""
    return cache(reference_world.get)


def path_of(request: Recorded) -> str:
    return request.url.replace("{base}/", "").replace("{base}", BASE)


def is_read(path: str) -> bool:
    """Whether the path is a type and an id that the recorded server had assigned."""
    kind, slash, identity = path.partition("/")
    return bool(slash) and kind[0].isupper() and len(identity) == 36


def post(world: FhirWorld, request: Recorded, before: str) -> Answered:
    """POST as recorded; the form is not recorded: it is the query of the search before it in the same test."""
    form = before.partition("?")[2].encode()
    headers = {"content-type": "application/x-www-form-urlencoded"}
    return world.ask("POST", path_of(request), form, headers=headers)


@pytest.mark.parametrize("version", VERSIONS)
def test_statuses_are_as_recorded(reference_world: FhirWorld, get: Get, version: str) -> None:
    differing: dict[str, int] = {}
    before = ""
    count = 0
    for request in recorded(version):
        path = path_of(request)
        if is_read(path):
            continue
        answer = post(reference_world, request, before) if request.verb == "post" else get(path)
        count += 1
        if answer.status != request.status:
            differing[path] = answer.status
        if answer.status >= 400:
            assert answer.json["resourceType"] == "OperationOutcome", path
        if request.verb == "get":
            before = path
    assert differing == (DIFFERENCES if version == "501" else {})
    assert count > 500


@pytest.mark.parametrize("version", VERSIONS)
def test_searches_find_only_what_they_ask_for(get: Get, version: str) -> None:
    for request in recorded(version):
        path = path_of(request)
        kind, question, query = path.partition("?")
        if not question or request.verb == "post":
            continue
        answer = get(path)
        params = dict(parse_qsl(query))
        for one in answer.json.get("entry", []):
            resource, mode = one["resource"], one["search"]["mode"]
            assert one["fullUrl"] == f"{BASE}/{resource['resourceType']}/{resource['id']}"
            if mode == "match":
                assert resource["resourceType"] == kind, path
                patient = params.get("patient")
                if patient:
                    found = (resource.get("subject") or resource.get("patient") or {}).get("reference")
                    assert found == f"Patient/{patient.removeprefix('Patient/')}", path
                assert _codes_fit(resource, "category", params), path
                assert _codes_fit(resource, "code", params), path
                for name in ("status", "intent"):
                    if name in params and kind != "AllergyIntolerance":
                        assert resource[name] in params[name].split(","), path
            else:
                assert mode == "include"
                assert {"_include", "_revinclude"} & set(params), path
                assert resource["resourceType"] in {"Provenance", "Medication"}, path


def _codes_fit(resource: dict[str, object], name: str, params: dict[str, str]) -> bool:
    if name not in params:
        return True
    wanted = {one.rpartition("|")[2] for one in params[name].split(",")}
    concepts = resource.get(name) or resource.get("medicationCodeableConcept")
    listed = concepts if isinstance(concepts, list) else [concepts]
    return bool(wanted & {coding.get("code") for one in listed for coding in one.get("coding", [])})


@pytest.mark.parametrize("version", VERSIONS)
def test_what_passed_found_something(get: Get, version: str) -> None:
    found: dict[str, int] = defaultdict(int)
    for request in recorded(version):
        name = request.test.rpartition("-")[2].removeprefix(f"us_core_v{version}_")
        path = path_of(request)
        if request.result == "pass" and name.endswith("search_test") and request.verb == "get" and not is_read(path):
            found[name] += len(get(path).ids)
    nothing = {name for name, count in found.items() if not count}
    assert nothing <= OTHER_SERVERS_IDS
    assert len(found) > 90


@pytest.mark.parametrize("version", VERSIONS)
def test_post_finds_what_get_finds(reference_world: FhirWorld, get: Get, version: str) -> None:
    before, posts = "", 0
    for request in recorded(version):
        if request.verb == "post":
            posted = post(reference_world, request, before)
            assert posted.ids == get(before).ids, before
            posts += 1
        elif not is_read(path_of(request)):
            before = path_of(request)
    assert posts >= 16


@pytest.mark.parametrize("version", VERSIONS)
def test_reads_of_every_type_that_was_read(get: Get, version: str) -> None:
    kinds = {path_of(one).partition("/")[0] for one in recorded(version) if is_read(path_of(one))}
    assert len(kinds) >= 18
    for kind in sorted(kinds):
        answer = get(f"{kind}?_count=5")
        assert answer.ids, kind
        for one in answer.json["entry"]:
            read = get(f"{kind}/{one['resource']['id']}")
            assert (read.status, read.json) == (200, one["resource"])
            version_read = get(f"{kind}/{read.json['id']}/_history/{read.json['meta']['versionId']}")
            assert version_read.json == one["resource"]


@pytest.mark.parametrize("version", VERSIONS)
def test_ids_of_the_other_server_are_unknown_here(get: Get, version: str) -> None:
    for request in recorded(version):
        if is_read(path_of(request)):
            assert get(path_of(request)).status == 404


def test_loading_it_all_again_changes_nothing(database_url: str) -> None:
    with FhirWorld(database_url) as world:
        load_reference_server(world)
        _load_again(world)


def _load_again(world: FhirWorld) -> None:
    kinds = sorted({one["resource"]["resourceType"] for _, tree in reference_server() for one in tree.get("entry", ())})
    # Only entries that name themselves can be known again: by PUT, or by the urn:uuid of their fullUrl.
    own = [kind for kind in kinds if kind not in _created_anew()]
    before = {kind: world.get(f"{kind}?_summary=count").json["total"] for kind in own}
    load_reference_server(world)
    assert {kind: world.get(f"{kind}?_summary=count").json["total"] for kind in own} == before


def _created_anew() -> set[str]:
    return {
        one["resource"]["resourceType"]
        for _, tree in reference_server()
        for one in tree.get("entry", ())
        if one["request"]["method"] == "POST" and not one.get("fullUrl", "").startswith("urn:uuid:")
    }
