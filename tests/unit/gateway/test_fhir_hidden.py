"""Goal: what a caller may not see and what does not exist are the same answer: status, headers, every byte (API-1).

Method: two worlds hold the same but for what is hidden. The same caller asks both the same questions, in every way that
FHIR has, and the answers are compared whole. Clocks and randomness are the same in both.
"""

from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import orjson
import pytest

from carechain.charts.binding import provisional
from carechain.charts.sight import Sight, Window, of_patient
from carechain.core.scope import Scope
from carechain.core.vocabulary import ALL_CATEGORIES, Category, Sensitivity
from fhir_world import ALL, FhirWorld, entry, observation, patient, transaction

PATCH = {"content-type": "application/json-patch+json"}
STEPS = [{"op": "replace", "path": "/status", "value": "amended"}]
BINARY = {
    "resourceType": "Binary",
    "contentType": "application/json-patch+json",
    "data": b64encode(orjson.dumps(STEPS)).decode(),
}
U1 = "urn:uuid:hidden-1"
PSYCHIATRY = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "PSY"}]}


def _fill(world: FhirWorld, *, with_hidden: bool) -> None:
    """One patient that is seen; in one of the worlds a second one, and a sensitive observation of the first."""
    world.put(patient("seen", identifier=[{"system": "urn:mrn", "value": "1"}]))
    world.put(observation("open-1", "seen"))
    if with_hidden:
        world.put(patient("hidden", "Hiddenson", identifier=[{"system": "urn:mrn", "value": "2"}]))
        for number in range(4):
            world.put(observation(f"hidden-{number}", "hidden", code="718-7"))
        world.put(patient("hidden", "Hiddenson", identifier=[{"system": "urn:mrn", "value": "2"}], gender="male"))
        world.put(
            observation("grave", "seen", code="2345-7")
            | {
                "meta": {
                    "security": [{"system": "http://terminology.hl7.org/CodeSystem/v3-Confidentiality", "code": "V"}]
                }
            }
        )
        world.put(
            {
                "resourceType": "MedicationRequest",
                "id": "other-category",
                "status": "active",
                "intent": "order",
                "subject": {"reference": "Patient/seen"},
                "medicationCodeableConcept": {"text": "x"},
            }
        )
        world.put(
            {"resourceType": "Group", "id": "own-chart", "type": "person", "actual": True,
             "member": [{"entity": {"reference": "Patient/hidden"}}, {"entity": {"reference": "Patient/seen"}}]}
        )  # fmt: skip
    # Writing took ticks and nonces; both worlds go on from the same place.
    world.now_s = 1_800_000_000
    scope = Scope(
        categories=ALL_CATEGORIES & ~(1 << Category.PRESCRIPTION),
        ceiling=Sensitivity.N,
    )
    world.caller("doctor", of_patient(provisional("seen"), scope), {"*": ALL})
    world.caller("nobody", Sight(windows=(Window(pseudonym=provisional("nobody"), scope=scope),)), {"*": ALL})


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FhirWorld, FhirWorld]]:
    with ExitStack() as stack:
        folder = tmp_path_factory.mktemp("hidden")
        full = stack.enter_context(FhirWorld(folder / "full.db"))
        bare = stack.enter_context(FhirWorld(folder / "bare.db"))
        _fill(full, with_hidden=True)
        _fill(bare, with_hidden=False)
        yield full, bare


HIDDEN_INSTANCES = ["Patient/hidden", "Observation/hidden-0", "Observation/grave", "MedicationRequest/other-category",
                    "Group/own-chart"]  # fmt: skip
ASKED: list[tuple[str, str, Any, dict[str, str]]] = [
    *[
        ("GET", f"{name}{tail}", None, {})
        for name in HIDDEN_INSTANCES
        for tail in ("", "/_history", "/_history/1", "/$received", "/$meta", "?_elements=id", "/$received?versionId=1")
    ],
    *[("HEAD", name, None, {}) for name in HIDDEN_INSTANCES],
    ("GET", "Patient/hidden", None, {"if-none-match": 'W/"1"'}),
    ("GET", "Patient/hidden/Observation", None, {}),
    ("GET", "Patient/hidden/*", None, {}),
    ("GET", "Patient/hidden/$everything", None, {}),
    ("GET", "Patient/seen/*", None, {}),
    ("GET", "Patient/seen/$everything", None, {}),
    ("GET", "Patient/seen/$everything?_type=MedicationRequest", None, {}),
    ("GET", "Patient?family=Hiddenson", None, {}),
    ("GET", "Patient?family=Hiddenson&_total=accurate", None, {}),
    ("GET", "Patient?_id=hidden", None, {}),
    ("GET", "Patient?identifier=urn:mrn|2", None, {}),
    ("GET", "Patient?_has:Observation:patient:code=718-7", None, {}),
    ("GET", "Patient?_has:Observation:patient:code=2345-7", None, {}),
    ("GET", "Patient?_has:MedicationRequest:patient:status=active", None, {}),
    ("GET", "Patient?_revinclude=Observation:patient&_revinclude=MedicationRequest:patient", None, {}),
    ("GET", "Patient?_revinclude=Group:member&_count=1", None, {}),
    ("GET", "Observation", None, {}),
    ("GET", "Observation?_summary=count", None, {}),
    ("GET", "Observation?_total=accurate&_count=1", None, {}),
    ("GET", "Observation?code=718-7", None, {}),
    ("GET", "Observation?code=718-7", None, {"prefer": "handling=strict"}),
    ("GET", "Observation?code:not=8867-4", None, {}),
    ("GET", "Observation?code:missing=false", None, {}),
    ("GET", "Observation?patient.family=Hiddenson", None, {}),
    ("GET", "Observation?patient=hidden", None, {}),
    ("GET", "Observation?patient:Patient.identifier=urn:mrn|2&_include=Observation:patient", None, {}),
    ("GET", "Observation?_sort=-date&_count=1", None, {}),
    ("GET", "Observation?_sort=code,-_lastUpdated", None, {}),
    ("GET", "Observation?_count=1&_include=*", None, {}),
    ("GET", "MedicationRequest", None, {}),
    ("GET", "Group", None, {}),
    ("GET", "?_type=Patient,Observation,MedicationRequest,Group", None, {}),
    ("GET", "?_lastUpdated=gt2000-01-01", None, {}),
    ("GET", "_history", None, {}),
    ("GET", "Observation/_history", None, {}),
    ("GET", "Patient/_history?_count=1", None, {}),
    ("POST", "Observation/_search", b"code=718-7", {"content-type": "application/x-www-form-urlencoded"}),
    ("PUT", "Observation/open-1", observation("open-1", "hidden"), {}),
    ("GET", "Observation?_page=made-up", None, {}),
    ("PUT", "Patient/hidden", patient("hidden", "New"), {}),
    ("PUT", "Observation/hidden-0", observation("hidden-0", "seen"), {"if-match": 'W/"1"'}),
    ("PUT", "Observation/grave", observation("grave", "seen"), {}),
    ("PUT", "Observation/grave", observation("grave", "seen"), {"if-none-match": "*"}),
    ("PATCH", "Observation/hidden-0", STEPS, PATCH),
    ("PATCH", "Observation/grave", STEPS, PATCH | {"if-match": 'W/"7"'}),
    ("PATCH", "Observation?code=718-7", STEPS, PATCH),
    ("PUT", "Observation?code=718-7", observation("grave", "seen", code="718-7"), {}),
    ("POST", "Observation", observation(None, "hidden"), {}),
    ("DELETE", "Patient/hidden", None, {}),
    ("POST", "", transaction(entry("GET", "Patient/hidden")), {}),
    ("POST", "", transaction(entry("GET", "Observation?code=718-7")), {}),
    ("POST", "", transaction(entry("PATCH", "Observation/hidden-0", BINARY)), {}),
    ("POST", "", transaction(entry("PUT", "Observation/grave", observation("grave", "seen"))), {}),
    ("POST", "", transaction(entry("PUT", "Patient/hidden", patient("hidden"), ifMatch='W/"1"')), {}),
    ("POST", "", transaction(entry("POST", "Observation", observation(None, "hidden"), U1)), {}),
    ("POST", "", transaction(entry("POST", "Observation",
     observation(None, "x") | {"subject": {"reference": "Patient?identifier=urn:mrn|2"}}, U1)), {}),
    ("POST", "", transaction(entry("GET", "Patient/hidden"), entry("GET", "Observation?code=718-7"),
                             entry("GET", "Patient/hidden/_history"), kind="batch"), {}),
    ("GET", "Group/own-chart/$export", None, {"prefer": "respond-async"}),
]  # fmt: skip


@pytest.mark.parametrize("by", ["doctor", "nobody"])
@pytest.mark.parametrize(
    ("method", "path", "body", "headers"),
    ASKED,
    ids=[f"{number}-{one[0]}-{one[1]}" for number, one in enumerate(ASKED)],
)
def test_hidden_and_absent_are_the_same_answer(
    worlds: tuple[FhirWorld, FhirWorld], method: str, path: str, body: Any, headers: dict[str, str], by: str
) -> None:
    answers = []
    for world in worlds:
        world.now_s = 1_800_000_000
        world.readings.clear()
        answer = world.ask(method, path, body, by=by, headers=headers)
        noted = [(one.interaction, one.resource_types, one.count, one.refused) for one in world.readings]
        answers.append((*_comparable(answer.whole()), noted))
    assert answers[0] == answers[1]
    assert b"Hiddenson" not in answers[0][2].replace(path.encode(), b"")


def _comparable(whole: tuple[int, Any, bytes]) -> tuple[int, Any, bytes]:
    """Page links differ by their nonce; that they are there and how long they are must not."""
    status, headers, body = whole
    at = body.find(b"_page=")
    if at < 0:
        return whole
    end = body.index(b'"', at)
    return status, headers, body[:at] + b"_page=" + b"." * (end - at) + body[end:]


@pytest.mark.parametrize("id_taken", ["hidden-0", "free"])
def test_a_create_under_a_taken_id_looks_like_any_other(worlds: tuple[FhirWorld, FhirWorld], id_taken: str) -> None:
    # The transaction's uuid is the id of something hidden in one world; what comes back has the same form in both.
    ids = []
    for world in worlds:
        sent = transaction(entry("POST", "Observation", observation(None, "seen", code="1-8"), f"urn:uuid:{id_taken}"))
        answer = world.ask("POST", "", sent, by="doctor")
        assert answer.json["entry"][0]["response"]["status"] == "201 Created"
        ids.append(answer.json["entry"][0]["response"]["location"])
    assert ids[0] == ids[1]
    assert "hidden-0" not in ids[0]


def test_a_conditional_create_does_not_match_what_is_hidden(worlds: tuple[FhirWorld, FhirWorld]) -> None:
    statuses = [
        world.ask(
            "POST",
            "Observation",
            observation(None, "seen", code="718-7"),
            by="doctor",
            headers={"if-none-exist": "code=718-7"},
        ).status
        for world in worlds
    ]
    assert statuses == [201, 201]
