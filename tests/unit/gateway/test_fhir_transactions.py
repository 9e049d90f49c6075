"""Goal: a transaction is done whole or not at all, its references lead where they should, and twice is once (API-1).

Method: bundles with every kind of entry and reference; after every refusal nothing is stored.
"""

from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from carechain.charts.assistant import FEWEST, Assistant
from carechain.charts.binding import provisional
from carechain.charts.sight import CUSTODIAN, of_patient
from carechain.core.limits import BUNDLE_ENTRIES
from fhir_store import ready
from fhir_world import ALL, BASE, READ, FhirWorld, entry, observation, patient, transaction

U1 = "urn:uuid:7d0b1e9c-95f5-4c5a-9b0a-0d9b3a3f0a01"
U2 = "urn:uuid:7d0b1e9c-95f5-4c5a-9b0a-0d9b3a3f0a02"
U3 = "urn:uuid:7d0b1e9c-95f5-4c5a-9b0a-0d9b3a3f0a03"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[FhirWorld]:
    with FhirWorld(tmp_path / "charts.db") as made:
        yield made


def _about(reference: str, **fields: Any) -> dict[str, Any]:
    return observation(None, "x", **fields) | {"subject": {"reference": reference}}


def _statuses(answer: Any) -> list[str]:
    return [one["response"]["status"] for one in answer.json["entry"]]


def _stored(world: FhirWorld) -> int:
    return int(world.get("?_type=Patient,Practitioner,Observation&_summary=count").json["total"])


def _new_patient(full_url: str = U1, **request: str) -> dict[str, Any]:
    resource = {key: value for key, value in patient("x").items() if key != "id"}
    return entry("POST", "Patient", resource, full_url, **request)


def test_a_transaction_twice_is_stored_once(world: FhirWorld) -> None:
    sent = transaction(_new_patient(), entry("POST", "Observation", _about(U1), U2))
    first, again = world.ask("POST", "", sent), world.ask("POST", "", sent)
    assert first.json["type"] == "transaction-response"
    assert _statuses(first) == ["201 Created", "201 Created"]
    assert _statuses(again) == ["200 OK", "200 OK"]
    assert [one["response"]["etag"] for one in again.json["entry"]] == ['W/"1"', 'W/"1"']
    assert _stored(world) == 2
    read = world.get(f"Observation/{U2.removeprefix('urn:uuid:')}")
    assert read.json["subject"]["reference"] == f"Patient/{U1.removeprefix('urn:uuid:')}"


def test_references_are_rewritten_in_the_bytes_alone(world: FhirWorld) -> None:
    body = orjson.dumps(_about(U1)).replace(b"72.5,", b"72.50,").replace(b'"status":', b'"status" :  ')
    bundle = orjson.dumps(transaction(_new_patient(), entry("POST", "Observation", {"here": 1}, U2)))
    assert world.ask("POST", "", bundle.replace(b'{"here":1}', body)).status == 200
    received = world.get(f"Observation/{U2.removeprefix('urn:uuid:')}/$received").body
    assert received == body.replace(U1.encode(), f"Patient/{U1.removeprefix('urn:uuid:')}".encode())


def test_absolute_addresses_of_entries_are_rewritten_too(world: FhirWorld) -> None:
    sent = transaction(
        _new_patient("http://old.test/fhir/Patient/1"),
        entry("POST", "Observation", _about("http://old.test/fhir/Patient/1"), "http://old.test/fhir/Observation/1"),
        entry("POST", "Observation", _about("Patient/1"), "http://old.test/fhir/Observation/2"),
    )
    answer = world.ask("POST", "", sent)
    new = answer.json["entry"][0]["response"]["location"].partition("/_history")[0]
    found = world.get(f"Observation?subject={new}")
    assert len(found.ids) == 2


def test_entries_are_done_in_fhirs_order_and_answered_in_theirs(world: FhirWorld) -> None:
    sent = transaction(
        entry("GET", "Observation?patient=p1"),
        entry("PUT", "Patient/p1", patient("p1")),
        entry("POST", "Observation", observation(None, "p1"), U2),
        entry("GET", "Patient/p1"),
    )
    answer = world.ask("POST", "", sent)
    assert _statuses(answer) == ["200 OK", "201 Created", "201 Created", "200 OK"]
    assert answer.json["entry"][0]["resource"]["total"] == 1
    assert answer.json["entry"][3]["resource"]["id"] == "p1"


def test_the_representation_is_given_to_who_prefers_it(world: FhirWorld) -> None:
    answer = world.ask("POST", "", transaction(_new_patient()), headers={"prefer": "return=representation"})
    assert answer.json["entry"][0]["resource"]["resourceType"] == "Patient"
    assert "resource" not in world.ask("POST", "", transaction(_new_patient())).json["entry"][0]


# --- conditions ------------------------------------------------------------------------------------------
def _practitioner(number: str) -> dict[str, Any]:
    return {"resourceType": "Practitioner", "identifier": [{"system": "urn:npi", "value": number}]}


def test_conditional_creates_and_references_find_what_is_there(world: FhirWorld) -> None:
    condition = {"ifNoneExist": "identifier=urn:npi|1"}
    sent = transaction(
        entry("POST", "Practitioner", _practitioner("1"), U3, **condition),
        _new_patient(),
        entry("POST", "Observation", _about(U1) | {"performer": [{"reference": U3}]}, U2),
    )
    first = world.ask("POST", "", sent)
    assert _statuses(first) == ["201 Created"] * 3
    again = world.ask("POST", "", sent)
    assert _statuses(again) == ["200 OK"] * 3
    by_search = _about(U1) | {"performer": [{"reference": "Practitioner?identifier=urn:npi|1"}]}
    third = world.ask("POST", "", transaction(_new_patient(), entry("POST", "Observation", by_search)))
    assert third.status == 200
    practitioner = first.json["entry"][0]["response"]["location"].partition("/_history")[0]
    assert len(world.get(f"Observation?performer={practitioner}").ids) == 2
    assert world.get("Practitioner?_summary=count").json["total"] == 1


def test_the_same_condition_twice_makes_one(world: FhirWorld) -> None:
    condition = {"ifNoneExist": "identifier=urn:npi|1"}
    sent = transaction(
        entry("POST", "Practitioner", _practitioner("1"), U1, **condition),
        entry("POST", "Practitioner", _practitioner("1"), U2, **condition),
    )
    answer = world.ask("POST", "", sent)
    locations = {one["response"]["location"] for one in answer.json["entry"]}
    assert len(locations) == 1
    assert world.get("Practitioner?_summary=count").json["total"] == 1


def test_conditional_updates_and_patches_work_inside(world: FhirWorld) -> None:
    world.put(patient("p1"))
    world.put(observation("o1", "p1"))
    steps = b64encode(orjson.dumps([{"op": "replace", "path": "/status", "value": "amended"}])).decode()
    binary = {"resourceType": "Binary", "contentType": "application/json-patch+json", "data": steps}
    sent = transaction(
        entry("PATCH", "Observation/o1", binary, ifMatch='W/"1"'),
        entry("PUT", "Practitioner?identifier=urn:npi|1", _practitioner("1")),
    )
    assert _statuses(world.ask("POST", "", sent)) == ["200 OK", "201 Created"]
    assert world.get("Observation/o1").json["status"] == "amended"


# --- refused ---------------------------------------------------------------------------------------------
REFUSED: list[tuple[str, list[dict[str, Any]], int, str, str]] = [
    ("delete", [entry("DELETE", "Patient/p1")], 405, "FHIR.NOT_DELETED", "Bundle.entry[1]"),
    ("unknown type", [entry("POST", "Foo", patient("x"))], 404, "FHIR.TYPE_UNKNOWN", "Bundle.entry[1]"),
    ("wrong type", [entry("POST", "Observation", patient("x"))], 400, "FHIR.TYPE_MISMATCH", "Bundle.entry[1]"),
    ("wrong id", [entry("PUT", "Patient/a", patient("b"))], 400, "FHIR.ID_MISMATCH", "Bundle.entry[1]"),
    ("no such", [entry("GET", "Patient/nope")], 404, "FHIR.NOT_FOUND", "Bundle.entry[1]"),
    ("operation", [entry("GET", "Patient/p1/$everything")], 400, "FHIR.NOT_IN_TRANSACTION", "Bundle.entry[1]"),
    ("version", [entry("PUT", "Patient/p1", patient("p1", "Li"), ifMatch='W/"9"')], 412, "FHIR.VERSION_CONFLICT",
     "Bundle.entry[1]"),
    ("same twice", [entry("PUT", "Patient/p2", patient("p2")), entry("PUT", "Patient/p2", patient("p2"))], 400,
     "FHIR.ENTRY_REPEATED", "Bundle.entry[2]"),
    ("fullUrl twice", [_new_patient(), _new_patient()], 400, "FHIR.ENTRY_REPEATED", "Bundle.entry[2]"),
    ("urn nowhere", [entry("POST", "Observation", _about("urn:uuid:nowhere"))], 400, "FHIR.REFERENCE_UNRESOLVED",
     "Bundle.entry[1]"),
    ("search nowhere", [entry("POST", "Observation", _about("Patient?identifier=nobody"))], 400,
     "FHIR.REFERENCE_UNRESOLVED", "Bundle.entry[1]"),
    ("search unclear", [entry("POST", "Observation", _about("Patient?family=Wang"))], 412, "FHIR.MULTIPLE_MATCHES",
     "Bundle.entry[1]"),
    ("create with query", [entry("POST", "Patient?a=b", patient("x"))], 400, "FHIR.ENTRY_MALFORMED",
     "Bundle.entry[1]"),
    ("patch of nothing", [entry("PATCH", "Patient/nope", {"resourceType": "Binary", "contentType": "a/b"})], 404,
     "FHIR.NOT_FOUND", "Bundle.entry[1]"),
    ("patch of another kind", [entry("PATCH", "Patient/p1", {"resourceType": "Binary", "contentType": "a/b"})], 400,
     "FHIR.PATCH_MALFORMED", "Bundle.entry[1]"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "entries", "status", "label", "place"), REFUSED, ids=[one[0] for one in REFUSED])
def test_one_wrong_entry_undoes_everything(
    world: FhirWorld, what: str, entries: list[dict[str, Any]], status: int, label: str, place: str
) -> None:
    world.put(patient("p1"))
    world.put(patient("p3"))
    before = _stored(world)
    good = entry("PUT", "Patient/good", patient("good"))
    refused = world.ask("POST", "", transaction(good, *entries))
    assert (refused.status, refused.label) == (status, label), what
    assert refused.issue["expression"] == [place]
    assert _stored(world) == before
    assert world.get("Patient/p1").headers["etag"] == 'W/"1"'


def test_invalid_resources_are_named_by_their_place(world: FhirWorld) -> None:
    bad = {key: value for key, value in observation(None, "x").items() if key != "status"}
    refused = world.ask("POST", "", transaction(_new_patient(), entry("POST", "Observation", bad)))
    assert refused.status == 400
    assert refused.issue["expression"][0].startswith("Bundle.entry[1]")
    assert _stored(world) == 0


@pytest.mark.parametrize(
    ("body", "label"),
    [
        (b"{}", "FHIR.BUNDLE_UNSUPPORTED"),
        (b"[]", "FHIR.BUNDLE_UNSUPPORTED"),
        (b"{", "FHIR.BODY_MALFORMED"),
        (b'{"resourceType":"Bundle","type":"document"}', "FHIR.BUNDLE_UNSUPPORTED"),
        (b'{"resourceType":"Bundle","type":"batch","type":"transaction"}', "CHARTS.DUPLICATE_KEY"),
        (b'{"resourceType":"Bundle","type":"transaction","entry":[1]}', "FHIR.ENTRY_MALFORMED"),
        (b'{"resourceType":"Bundle","type":"transaction","entry":[{}]}', "FHIR.ENTRY_MALFORMED"),
        (b'{"resourceType":"Bundle","type":"transaction","entry":[{"request":{"method":"GET"}}]}',
         "FHIR.ENTRY_MALFORMED"),
        (b'{"resourceType":"Bundle","type":"transaction","entry":[{"request":{"method":"POST","url":"Patient"}}]}',
         "FHIR.BODY_MALFORMED"),
        (b'{"resourceType":"Bundle","type":"batch","entry":[{"fullUrl":"x","request":{"method":"GET","url":"Patient"}}]}',
         "FHIR.ENTRY_MALFORMED"),
        (b'{"resourceType":"Bundle","type":"transaction","entry":[{"request":{"method":"JUMP","url":"Patient"}}]}',
         "FHIR.ENTRY_MALFORMED"),
    ],
)  # fmt: skip
def test_what_is_no_transaction_is_refused(world: FhirWorld, body: bytes, label: str) -> None:
    refused = world.ask("POST", "", body)
    assert (refused.status, refused.label) == (400, label)


def test_a_transaction_has_a_limit(world: FhirWorld) -> None:
    body = b'{"resourceType":"Bundle","type":"transaction","entry":[' + b"{}," * BUNDLE_ENTRIES + b"{}]}"
    refused = world.ask("POST", "", body)
    assert (refused.status, refused.label) == (413, "FHIR.TOO_MANY_ENTRIES")


def test_an_empty_transaction_is_done(world: FhirWorld) -> None:
    assert world.ask("POST", "", {"resourceType": "Bundle", "type": "transaction"}).status == 200


# --- who may ---------------------------------------------------------------------------------------------
def test_who_sees_one_patient_writes_there_and_nowhere_else(world: FhirWorld) -> None:
    world.put(patient("p1"))
    world.put(patient("p2"))
    world.caller("doctor", of_patient(provisional("p1")), {"*": ALL})
    mine = world.ask("POST", "", transaction(entry("POST", "Observation", observation(None, "p1"), U1)), by="doctor")
    assert _statuses(mine) == ["201 Created"]
    again = world.ask("POST", "", transaction(entry("POST", "Observation", observation(None, "p1"), U1)), by="doctor")
    assert _statuses(again) == ["200 OK"]
    hidden = world.ask("POST", "", transaction(entry("POST", "Observation", observation(None, "p2"), U2)), by="doctor")
    unknown = world.ask("POST", "", transaction(entry("POST", "Observation", observation(None, "p9"), U2)), by="doctor")
    assert hidden.whole() == unknown.whole()
    assert hidden.label == "FHIR.OUT_OF_SIGHT"


def test_a_correction_under_the_same_urn_needs_the_right_to_update(world: FhirWorld) -> None:
    world.put(patient("p1"))
    world.caller("device", CUSTODIAN, {"Observation": ALL.__class__(create=True, read=True, search=True)})
    one = transaction(entry("POST", "Observation", observation(None, "p1"), U1))
    other = transaction(entry("POST", "Observation", observation(None, "p1", value="80"), U1))
    assert world.ask("POST", "", one, by="device").status == 200
    refused = world.ask("POST", "", other, by="device")
    assert (refused.status, refused.label) == (403, "FHIR.MAY_NOT")
    assert world.get(f"Observation/{U1.removeprefix('urn:uuid:')}").headers["etag"] == 'W/"1"'


def test_without_the_right_an_entry_is_refused(world: FhirWorld) -> None:
    world.caller("reader", CUSTODIAN, {"*": READ})
    refused = world.ask("POST", "", transaction(_new_patient()), by="reader")
    assert (refused.status, refused.label) == (403, "FHIR.MAY_NOT")


# --- batches ---------------------------------------------------------------------------------------------
def test_a_batch_does_each_entry_by_itself(world: FhirWorld) -> None:
    sent = transaction(
        entry("GET", "Patient/p1"),
        entry("PUT", "Patient/p1", patient("p1")),
        entry("POST", "Patient", {"resourceType": "Patient", "gender": "x"}),
        entry("DELETE", "Patient/p1"),
        entry("GET", f"{BASE}/Patient?_summary=count"),
        entry("POST", "", transaction()),
        entry("GET", "$export"),
        kind="batch",
    )
    answer = world.ask("POST", "", sent)
    assert answer.json["type"] == "batch-response"
    assert _statuses(answer) == ["200", "201", "400", "405", "200", "400", "400"]
    outcome = answer.json["entry"][2]["response"]["outcome"]
    assert outcome["issue"][0]["expression"][0].startswith("Bundle.entry[2]")
    assert answer.json["entry"][4]["resource"]["total"] == 1
    assert len(world.readings) == 1


def test_a_large_one_is_refused_as_a_small_one_is(world: FhirWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    world.charts.assistant = ready(Assistant())
    entries = [entry("PUT", f"Observation/o{number}", observation(f"o{number}", "x")) for number in range(FEWEST)]
    wrong = entry("PUT", "Observation/last", observation("last", "x") | {"status": "no such status"})
    other = entry("PUT", "Observation/last", observation("another", "x"))
    for last in (wrong, other):
        large, small = (world.ask("POST", "", transaction(*some, last)) for some in (entries, []))
        assert (large.status, small.status) == (400, 400)
        said = orjson.dumps(large.json).replace(b"entry[%d]" % FEWEST, b"entry[0]")
        assert orjson.loads(said) == small.json
        assert _stored(world) == 0
    assert world.ask("POST", "", transaction(*entries)).status == 200
    assert _stored(world) == FEWEST
    assert world.charts.assistant.lost == 0
