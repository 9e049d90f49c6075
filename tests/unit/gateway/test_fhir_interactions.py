"""Goal: reading, writing and their conditions answer as FHIR R4 says, with headers, statuses and outcomes (API-1).

Method: a server over real charts is asked over HTTP; what comes back is compared with what was sent, byte by byte where
bytes count. One test at least for every reason that these interactions have.
"""

from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import orjson
import pytest
from structlog.testing import capture_logs

from carechain.charts.sight import CUSTODIAN, NOTHING
from carechain.core.limits import FHIR_REQUESTS_AT_ONCE, HTTP_BODY_BYTES
from carechain.gateway.principal import Rights
from fhir_world import ALL, BASE, FHIR, READ, FhirWorld, observation, patient

PATCH = {"content-type": "application/json-patch+json"}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[FhirWorld]:
    with FhirWorld(tmp_path / "charts.db") as made:
        yield made


# --- create and read -------------------------------------------------------------------------------------
def test_a_created_resource_is_read_back_and_its_bytes_are_kept(world: FhirWorld) -> None:
    world.put(patient("p1"))
    body = orjson.dumps(observation(None, "p1")).replace(b"72.5,", b"72.50,")
    created = world.ask("POST", "Observation", body)
    assert created.status == 201
    assert created.headers["etag"] == 'W/"1"'
    location = created.headers["location"]
    assert location.startswith(f"{BASE}/Observation/")
    assert location.endswith("/_history/1")
    read = world.get(location.removesuffix("/_history/1"))
    assert read.status == 200
    assert b"72.50" in read.body
    assert read.json["meta"]["versionId"] == "1"
    assert read.headers["etag"] == 'W/"1"'
    assert "GMT" in read.headers["last-modified"]
    assert read.headers["content-type"] == "application/fhir+json; charset=utf-8"
    received = world.get(location.removesuffix("/_history/1") + "/$received")
    assert received.body == body
    assert received.headers["digest"] == "sha-256=" + b64encode(sha256(body).digest()).decode()


def test_the_id_of_a_created_resource_is_the_servers(world: FhirWorld) -> None:
    created = world.ask("POST", "Patient", patient("mine"))
    assert created.status == 201
    assert created.json["id"] != "mine"
    assert world.get("Patient/mine").status == 404


@pytest.mark.parametrize(
    ("returns", "body"), [("minimal", b""), ("representation", b"Patient"), ("OperationOutcome", b"OperationOutcome")]
)
def test_an_answer_has_the_form_that_was_preferred(world: FhirWorld, returns: str, body: bytes) -> None:
    answer = world.ask("POST", "Patient", patient("x"), headers={"prefer": f"return={returns}"})
    assert answer.status == 201
    assert (body in answer.body) if body else answer.body == b""


def test_who_has_the_version_gets_nothing_twice(world: FhirWorld) -> None:
    world.put(patient("p1"))
    read = world.get("Patient/p1", headers={"if-none-match": 'W/"1"'})
    assert (read.status, read.body) == (304, b"")
    modified = world.get("Patient/p1").headers["last-modified"]
    assert world.get("Patient/p1", headers={"if-modified-since": modified}).status == 304


def test_head_is_get_without_a_body(world: FhirWorld) -> None:
    world.put(patient("p1"))
    head, get = world.ask("HEAD", "Patient/p1"), world.get("Patient/p1")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == get.headers["content-length"]


def test_parts_are_marked_and_keep_their_digits(world: FhirWorld) -> None:
    world.put(patient("p1"))
    body = orjson.dumps(observation("o1", "p1")).replace(b"72.5,", b"72.50,")
    world.ask("PUT", "Observation/o1", body)
    part = world.get("Observation/o1?_elements=value")
    assert b"72.50" in part.body
    assert set(part.json) == {"resourceType", "id", "meta", "status", "code", "valueQuantity"}
    assert part.json["meta"]["tag"][0]["code"] == "SUBSETTED"
    assert "effectiveDateTime" in world.get("Observation/o1?_summary=true").json
    assert set(world.get("Observation/o1?_summary=text").json) == {"resourceType", "id", "meta", "status", "code"}
    assert world.get("Observation/o1?_summary=perhaps").label == "FHIR.PARAMETER_INVALID"


def test_meta_is_given_by_itself(world: FhirWorld) -> None:
    world.put(patient("p1"))
    answer = world.get("Patient/p1/$meta").json
    assert answer["parameter"][0]["valueMeta"]["versionId"] == "1"


# --- versions --------------------------------------------------------------------------------------------
def test_every_version_is_kept(world: FhirWorld) -> None:
    for family in ("Wang", "Li", "Zhao"):
        world.put(patient("p1", family))
    assert world.get("Patient/p1").json["name"][0]["family"] == "Zhao"
    assert world.get("Patient/p1/_history/1").json["name"][0]["family"] == "Wang"
    for version in ("4", "0", "x", "9999999999999"):
        assert world.get(f"Patient/p1/_history/{version}").status == 404
    history = world.get("Patient/p1/_history").json
    assert [one["resource"]["meta"]["versionId"] for one in history["entry"]] == ["3", "2", "1"]
    assert [one["request"]["method"] for one in history["entry"]] == ["PUT", "PUT", "POST"]
    assert history["total"] == 3
    assert world.get("Patient/p1/$received?versionId=1").json["name"][0]["family"] == "Wang"
    assert world.get("Patient/p1/$received?versionId=7").status == 404


@pytest.mark.parametrize("path", ["Patient/p1/_history", "Patient/_history", "_history"])
def test_histories_go_on_page_by_page(world: FhirWorld, path: str) -> None:
    for number in range(5):
        world.put(patient("p1", f"Wang{number}"))
    seen, url = [], f"{path}?_count=2"
    while url:
        page = world.get(url)
        seen += [one["resource"]["meta"]["versionId"] for one in page.json["entry"]]
        url = page.link("next") or ""
    assert seen == ["5", "4", "3", "2", "1"]


def test_a_history_can_begin_at_a_time(world: FhirWorld) -> None:
    world.put(patient("p1"))
    since = world.get("Patient/p1").json["meta"]["lastUpdated"]
    world.now_s += 60
    world.put(patient("p1", "Li"))
    assert len(world.get(f"Patient/p1/_history?_since={since}").json["entry"]) == 2
    assert "entry" not in world.get("Patient/p1/_history?_since=2200-01-01").json
    assert world.get("Patient/p1/_history?_since=yesterday").label == "FHIR.PARAMETER_INVALID"
    assert world.get("Patient/p1/_history?_count=many").label == "FHIR.PARAMETER_INVALID"


# --- update ----------------------------------------------------------------------------------------------
def test_an_update_needs_the_version_that_it_names(world: FhirWorld) -> None:
    world.put(patient("p1"))
    new = patient("p1", "Li")
    refused = world.ask("PUT", "Patient/p1", new, headers={"if-match": 'W/"2"'})
    assert (refused.status, refused.label) == (412, "FHIR.VERSION_CONFLICT")
    assert world.ask("PUT", "Patient/p1", new, headers={"if-match": "2"}).label == "FHIR.ETAG_MALFORMED"
    assert world.ask("PUT", "Patient/p1", new, headers={"if-none-match": "*"}).status == 412
    done = world.ask("PUT", "Patient/p1", new, headers={"if-match": 'W/"1"'})
    assert (done.status, done.headers["etag"]) == (200, 'W/"2"')
    assert world.ask("PUT", "Patient/p9", patient("p9"), headers={"if-match": 'W/"1"'}).status == 412


def test_the_same_bytes_again_make_no_version(world: FhirWorld) -> None:
    world.put(patient("p1"))
    again = world.ask("PUT", "Patient/p1", patient("p1"))
    assert (again.status, again.headers["etag"]) == (200, 'W/"1"')


def test_an_update_names_the_same_resource_as_its_address(world: FhirWorld) -> None:
    assert world.ask("PUT", "Patient/p1", patient("p2")).label == "FHIR.ID_MISMATCH"
    assert world.ask("PUT", "Observation/p1", patient("p1")).label == "FHIR.TYPE_MISMATCH"
    assert world.ask("PUT", "Patient/p1", {"resourceType": "Patient"}).label == "FHIR.ID_MISMATCH"
    assert world.ask("PUT", "Patient/p1", patient("a b")).label == "FHIR.ID_MALFORMED"


def test_only_the_organisations_systems_choose_ids(world: FhirWorld) -> None:
    world.put(patient("p1"))
    world.sees("doctor", "p1")
    world.callers["doctor"] = world.callers["doctor"].__class__(
        party=b"d" * 32, sight=world.callers["doctor"].sight, rights={"*": ALL}
    )
    refused = world.ask("PUT", "Observation/new", observation("new", "p1"), by="doctor")
    assert (refused.status, refused.label) == (404, "FHIR.CREATE_BY_PUT")
    created = world.ask("POST", "Observation", observation(None, "p1"), by="doctor")
    assert created.status == 201
    assert world.ask("POST", "Observation", observation(None, "p2"), by="doctor").label == "FHIR.OUT_OF_SIGHT"


def test_nothing_is_deleted(world: FhirWorld) -> None:
    world.put(patient("p1"))
    refused = world.ask("DELETE", "Patient/p1")
    assert (refused.status, refused.label) == (405, "FHIR.NOT_DELETED")
    assert "GET" in refused.headers["allow"]
    assert world.get("Patient/p1").status == 200


# --- conditional -----------------------------------------------------------------------------------------
def test_a_conditional_create_makes_no_duplicate(world: FhirWorld) -> None:
    named = patient("x") | {"identifier": [{"system": "urn:mrn", "value": "7"}]}
    condition = {"if-none-exist": "identifier=urn:mrn|7"}
    first = world.ask("POST", "Patient", named, headers=condition)
    again = world.ask("POST", "Patient", named, headers=condition)
    assert (first.status, again.status) == (201, 200)
    assert again.headers["location"] == first.headers["location"]
    assert world.get("Patient?_summary=count").json["total"] == 1
    world.ask("POST", "Patient", named)
    refused = world.ask("POST", "Patient", named, headers=condition)
    assert (refused.status, refused.label) == (412, "FHIR.MULTIPLE_MATCHES")


@pytest.mark.parametrize(
    ("condition", "status", "label"),
    [
        ("", 412, "FHIR.CRITERIA_MISSING"),
        ("foo=bar", 400, "SEARCH.UNKNOWN_PARAMETER"),
        ("_count=1", 400, "FHIR.PARAMETER_INVALID"),
        ("birthdate=soon", 400, "SEARCH.BAD_VALUE"),
    ],
)
def test_criteria_must_mean_something(world: FhirWorld, condition: str, status: int, label: str) -> None:
    refused = world.ask("POST", "Patient", patient("x"), headers={"if-none-exist": condition})
    assert (refused.status, refused.label) == (status, label)


def test_a_conditional_update_updates_the_one_match(world: FhirWorld) -> None:
    named = patient("x") | {"identifier": [{"system": "urn:mrn", "value": "7"}]}
    without_id = {key: value for key, value in named.items() if key != "id"}
    created = world.ask("PUT", "Patient?identifier=urn:mrn|7", without_id)
    assert created.status == 201
    updated = world.ask("PUT", "Patient?identifier=urn:mrn|7", without_id | {"gender": "female"})
    assert (updated.status, updated.headers["etag"]) == (200, 'W/"2"')
    assert updated.json["id"] == created.json["id"]
    assert world.ask("PUT", "Patient?identifier=urn:mrn|7", named).label == "FHIR.ID_MISMATCH"
    assert world.ask("PUT", "Patient", without_id).label == "FHIR.CRITERIA_MISSING"
    chosen = world.ask("PUT", "Patient?identifier=urn:mrn|8", patient("p8"))
    assert (chosen.status, chosen.json["id"]) == (201, "p8")


# --- patch -----------------------------------------------------------------------------------------------
def test_a_patch_changes_what_it_names_and_no_digits(world: FhirWorld) -> None:
    world.put(patient("p1"))
    world.ask("PUT", "Observation/o1", orjson.dumps(observation("o1", "p1")).replace(b"72.5,", b"72.50,"))
    steps = [{"op": "replace", "path": "/status", "value": "amended"}]
    done = world.ask("PATCH", "Observation/o1", steps, headers=PATCH | {"if-match": 'W/"1"'})
    assert (done.status, done.headers["etag"]) == (200, 'W/"2"')
    assert done.json["status"] == "amended"
    assert b"72.50" in done.body
    found = world.ask("PATCH", "Observation?code=8867-4&patient=p1", steps, headers=PATCH)
    assert found.status == 200


@pytest.mark.parametrize(
    ("steps", "status", "label"),
    [
        ({}, 400, "FHIR.PATCH_MALFORMED"),
        ([{"op": "test", "path": "/status", "value": "x"}], 422, "FHIR.PATCH_FAILED"),
        ([{"op": "replace", "path": "/id", "value": "o2"}], 400, "FHIR.ID_MISMATCH"),
        ([{"op": "replace", "path": "/resourceType", "value": "Patient"}], 400, "FHIR.TYPE_MISMATCH"),
        ([{"op": "remove", "path": "/status"}], 400, "FHIR.RESOURCE_INVALID"),
    ],
)
def test_a_patch_that_does_not_fit_changes_nothing(world: FhirWorld, steps: object, status: int, label: str) -> None:
    world.put(patient("p1"))
    world.put(observation("o1", "p1"))
    refused = world.ask("PATCH", "Observation/o1", steps, headers=PATCH)
    assert (refused.status, refused.label) == (status, label)
    assert world.get("Observation/o1").headers["etag"] == 'W/"1"'


def test_a_patch_of_nothing_is_not_found(world: FhirWorld) -> None:
    assert world.ask("PATCH", "Patient/nope", [], headers=PATCH).status == 404
    assert world.ask("PATCH", "Patient?identifier=nope", [], headers=PATCH).status == 404
    refused = world.ask("PATCH", "Patient/nope", b"<x/>", headers={"content-type": "application/xml-patch+xml"})
    assert (refused.status, refused.label) == (415, "FHIR.MEDIA_TYPE_UNSUPPORTED")


# --- bad input -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b"null", 400),
        (b'{"resourceType":"Patient"', 400),
        (b'{"resourceType":"Patient","gender":"x"}', 400),
        (b'{"resourceType":"Patient","gender":"male","gender":"female"}', 400),
        (b'{"resourceType":"Patient","birthDate":"2023-02-30"}', 400),
        (b'{"resourceType":"Patient","unheardOf":1}', 400),
        (b'{"resourceType":"Patient","name":[{"family":"\xff"}]}', 400),
        (b'{"resourceType":"Patient","id":7}', 400),
        (b'{"resourceType":7}', 400),
        (b"[" * 100_000, 400),
        (b'{"resourceType":"Patient","a":' + b"[" * 5_000 + b"]" * 5_000 + b"}", 400),
    ],
)
def test_what_is_no_valid_resource_is_refused_and_not_stored(world: FhirWorld, body: bytes, status: int) -> None:
    refused = world.ask("POST", "Patient", body)
    assert refused.status == status
    assert refused.json["resourceType"] == "OperationOutcome"
    assert world.get("Patient?_summary=count").json["total"] == 0


def test_a_refusal_says_where_and_repeats_nothing(world: FhirWorld) -> None:
    refused = world.ask("POST", "Patient", patient("x") | {"gender": "SECRETWORD"})
    assert refused.status == 400
    assert any("gender" in place for one in refused.json["issue"] for place in one.get("expression", []))
    assert b"SECRETWORD" not in refused.body


def test_a_script_in_a_narrative_is_refused(world: FhirWorld) -> None:
    div = '<div xmlns="http://www.w3.org/1999/xhtml"><script>alert(1)</script></div>'
    refused = world.ask("POST", "Patient", patient("x") | {"text": {"status": "generated", "div": div}})
    assert refused.status in {400, 422}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "application/fhir+xml"}, 415),
        ({"content-type": "application/fhir+json; charset=gbk"}, 415),
        ({"content-encoding": "gzip"}, 415),
        ({"accept": "application/fhir+xml"}, 406),
    ],
)
def test_other_forms_are_refused(world: FhirWorld, headers: dict[str, str], status: int) -> None:
    refused = world.ask("POST", "Patient", patient("x"), headers=headers)
    assert refused.status == status
    assert refused.issue["code"] == "not-supported"


def test_a_body_has_a_limit(world: FhirWorld) -> None:
    refused = world.ask("POST", "Patient", b" " * (HTTP_BODY_BYTES + 1))
    assert (refused.status, refused.label) == (413, "FHIR.BODY_TOO_LARGE")


@pytest.mark.parametrize(("path", "status"), [("Foo", 404), ("nothing", 404), ("Patient/1/2/3/4/5", 404)])
def test_refusals_are_outcomes_everywhere(world: FhirWorld, path: str, status: int) -> None:
    refused = world.get(path)
    assert refused.status == status
    assert refused.json["resourceType"] == "OperationOutcome"


def test_subscriptions_are_streams_here(world: FhirWorld) -> None:
    body = {
        "resourceType": "Subscription",
        "status": "requested",
        "reason": "x",
        "criteria": "Observation?",
        "channel": {"type": "rest-hook", "endpoint": "http://127.0.0.1/"},
    }
    assert world.ask("POST", "Subscription", body).label == "FHIR.SUBSCRIPTION_UNSUPPORTED"


# --- who may ---------------------------------------------------------------------------------------------
def test_nobody_is_told_how_to_become_somebody(world: FhirWorld) -> None:
    refused = world.get("Patient/p1", by="stranger")
    assert (refused.status, refused.headers["www-authenticate"]) == (401, "Bearer")
    assert refused.issue["code"] == "login"
    assert world.get("metadata", by="stranger").status == 200


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "Patient/p1", None),
        ("GET", "Patient/p1/_history", None),
        ("GET", "Patient/_history", None),
        ("GET", "_history", None),
        ("GET", "Patient/p1/_history/1", None),
        ("GET", "Patient?name=x", None),
        ("GET", "?_type=Patient", None),
        ("GET", "Patient/p1/Observation", None),
        ("GET", "Patient/p1/$everything", None),
        ("GET", "Patient/p1/$received", None),
        ("GET", "Patient/p1/$meta", None),
        ("POST", "Patient", patient("x")),
        ("PUT", "Patient/p1", patient("p1")),
        ("PUT", "Patient?identifier=1", patient("p1")),
        ("GET", "$events?criteria=Patient", None),
    ],
)
def test_without_the_right_nothing_is_done(world: FhirWorld, method: str, path: str, body: object) -> None:
    world.put(patient("p1"))
    world.caller("clerk", CUSTODIAN, {"Organization": ALL})
    refused = world.ask(method, path, body, by="clerk")
    assert (refused.status, refused.label) == (403, "FHIR.MAY_NOT")


def test_reading_does_not_allow_writing(world: FhirWorld) -> None:
    world.put(patient("p1"))
    world.caller("reader", CUSTODIAN, {"*": READ})
    assert world.get("Patient/p1", by="reader").status == 200
    assert world.ask("POST", "Patient", patient("x"), by="reader").status == 403
    assert world.ask("PUT", "Patient/p1", patient("p1", "Li"), by="reader").status == 403
    assert world.ask("PATCH", "Patient/p1", [], by="reader", headers=PATCH).status == 403


def test_a_writer_that_may_not_read_can_still_create(world: FhirWorld) -> None:
    world.caller("device", CUSTODIAN, {"Observation": Rights(create=True)})
    world.put(patient("p1"))
    assert world.ask("POST", "Observation", observation(None, "p1"), by="device").status == 201
    assert world.get("Observation", by="device").status == 403


# --- the audit -------------------------------------------------------------------------------------------
def test_what_is_given_out_is_noted_first_and_once(world: FhirWorld) -> None:
    world.put(patient("p1"))
    world.put(observation("o1", "p1"))
    world.readings.clear()
    world.get("Observation?patient=p1&_include=Observation:patient")
    (reading,) = world.readings
    assert (reading.interaction, reading.count, reading.refused) == ("search-type", 2, 0)
    assert reading.resource_types == ("Observation", "Patient")
    assert len(reading.records) == 2


def test_a_refusal_about_somebody_is_noted(world: FhirWorld) -> None:
    world.get("Patient/nope")
    (reading,) = world.readings
    assert (reading.interaction, reading.count, reading.refused) == ("read", 0, 2309)


def test_without_the_audit_nothing_is_given_out(world: FhirWorld) -> None:
    world.put(patient("p1"))
    world.audit_works = False
    for path in ("Patient/p1", "Patient", "Patient/p1/_history", "Patient/p1/$everything", "Patient/p1/$received"):
        refused = world.get(path)
        assert (refused.status, refused.label) == (503, "FHIR.STORE_UNAVAILABLE")
        assert b"Wang" not in refused.body
    assert world.get("metadata").status == 200


def test_who_sees_nothing_finds_nothing(world: FhirWorld) -> None:
    world.put(patient("p1"))
    world.caller("blind", NOTHING, {"*": READ})
    assert world.get("Patient/p1", by="blind").status == 404
    assert world.get("Patient?_total=accurate", by="blind").json["total"] == 0


# --- validate --------------------------------------------------------------------------------------------
def test_validating_stores_nothing_and_tells_everything(world: FhirWorld) -> None:
    good = world.ask("POST", "Patient/$validate", patient("x"))
    assert (good.status, good.issue["severity"]) == (200, "information")
    bad = world.ask("POST", "Patient/$validate", patient("x") | {"gender": "x"})
    assert (bad.status, bad.issue["severity"]) == (200, "error")
    wrapped = {"resourceType": "Parameters", "parameter": [{"name": "resource", "resource": patient("x")}]}
    assert world.ask("POST", "$validate", wrapped).issue["severity"] == "information"
    profile = {"name": "profile", "valueUri": "http://example.org/profile"}
    wrapped["parameter"].append(profile)  # type: ignore[attr-defined]
    assert world.ask("POST", "$validate", wrapped).issue["severity"] == "warning"
    assert world.ask("POST", "Observation/$validate", patient("x")).issue["code"] in {"invalid", "structure"}
    assert world.ask("POST", "Patient/$validate", b"{").status in {200, 400}
    assert world.get("Patient/$validate").status == 405
    assert world.get("Patient?_summary=count").json["total"] == 0


def test_operations_that_are_not_here_are_not_found(world: FhirWorld) -> None:
    world.put(patient("p1"))
    for path in ("Patient/p1/$unheard", "$everything", "Observation/$everything", "Observation/x/$export"):
        assert world.get(path).label == "FHIR.OPERATION_UNKNOWN"


def test_an_answer_can_be_read_by_people(world: FhirWorld) -> None:
    world.put(patient("p1"))
    answer = world.get("Patient/p1?_pretty=true")
    assert b'\n  "resourceType": "Patient"' in answer.body


def test_only_fhir_json_headers(world: FhirWorld) -> None:
    answer = world.ask("POST", "Patient", patient("x"), headers=FHIR)
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_server_that_has_enough_in_hand_says_so(world: FhirWorld) -> None:
    answers = world.together("Patient", FHIR_REQUESTS_AT_ONCE + 5)
    refused = [one for one in answers if one.status == 503]
    assert len(refused) == 5
    assert {one.label for one in refused} == {"FHIR.BUSY"}
    assert refused[0].headers["retry-after"] == "1"
    assert {one.status for one in answers} == {200, 503}


def test_a_bug_is_one_callers_and_tells_nothing(world: FhirWorld) -> None:
    world.put(patient("p1"))

    async def broken(_reading: object) -> None:
        raise RuntimeError("SECRETWORD")

    with pytest.MonkeyPatch.context() as patched, capture_logs() as logged:
        patched.setattr(FhirWorld, "note", lambda _self, reading: broken(reading))
        refused = world.get("Patient/p1")
    assert (refused.status, refused.label) == (500, "FHIR.INTERNAL")
    assert b"SECRETWORD" not in refused.body
    assert logged[0]["kind"] == "RuntimeError"
    assert "SECRETWORD" not in str(logged)
    assert world.get("Patient/p1").status == 200
