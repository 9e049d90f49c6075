"""Goal: no request, however made, gets anything but an answer of FHIR's: never a 500, never somebody's data by mistake.

Method: generated addresses, parameters, headers and bodies; and good transactions with pieces cut out, doubled or
exchanged. After everything that was refused, the charts are what they were.
"""

from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fhir_world import BASE, FhirWorld, entry, observation, patient, transaction

QUIET = settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
ALLOWED = {200, 201, 202, 304, 400, 401, 403, 404, 405, 406, 410, 412, 413, 415, 422, 429}


def _words(text: str, *more: str) -> st.SearchStrategy[str]:
    return st.sampled_from([*text.split(), *more])


_SEGMENTS = _words(
    """
    Patient Observation Foo p1 o1 _history _search 1 $everything $export $validate $received $meta * metadata %00 ..
    王 $export-file $export-status $events
    """,
    "",
    "x" * 70,
)
_NAMES = _words(
    """
    _id name family:exact birthdate _count _sort _include _revinclude _has:Observation:patient:code patient.name
    code:not _page _summary _elements _total _type _since _format _pretty value-quantity _lastUpdated
    identifier:of-type criteria code-value-quantity date:missing _contained general-practitioner:Practitioner.name
    subject:Patient.link:Patient.name
    """,
    "",
)
_VALUES = st.text(max_size=12) | _words(
    """
    p1 Patient/p1 1 -1 99999999999999999999 ge2024 2024-13-01 a|b a$b \\, | $ true * Patient:link
    Observation:patient:Patient -_lastUpdated 5.4|http://unitsofmeasure.org|mg ap100 1e400 nan 0001-01-01
    9999-12-31T23:59:60Z
    """
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FhirWorld]:
    folder = tmp_path_factory.mktemp("fuzz")
    with FhirWorld(folder / "charts.db") as made:
        made.put(patient("p1"))
        made.put(observation("o1", "p1"))
        made.sees("guest", "nobody")
        yield made


@QUIET
@given(
    st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]),
    st.lists(_SEGMENTS, max_size=5),
    st.lists(st.tuples(_NAMES, _VALUES), max_size=4),
    st.sampled_from(["system", "guest", "nobody"]),
    st.sampled_from(["", "handling=strict", "respond-async"]),
)
def test_any_address_is_answered(
    world: FhirWorld, method: str, segments: list[str], params: list[tuple[str, str]], by: str, prefer: str
) -> None:
    request = world.client.build_request(
        method,
        f"{BASE}/{'/'.join(segments)}",
        params=params,
        headers={"x-caller": by, "prefer": prefer, "content-type": "application/fhir+json"},
    )
    answer = world.loop.run_until_complete(world.client.send(request))
    assert answer.status_code in ALLOWED, (method, segments, params, answer.content)
    if by == "guest" and answer.status_code == 200 and method == "GET":
        assert b"Wang" not in answer.content
    if answer.status_code >= 400 and method != "HEAD":
        assert answer.json()["resourceType"] == "OperationOutcome"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["resourceType", "type", "entry", "request", "method", "url", "resource", "id", "fullUrl", "name"]
            ),
            inner | st.sampled_from(["Bundle", "transaction", "batch", "Patient", "POST", "PUT", "GET", "Patient/p1"]),
            max_size=5,
        )
    ),
    max_leaves=25,
)


@QUIET
@given(_JSON | st.binary(max_size=60), st.sampled_from(["", "Patient", "Patient/$validate", "Patient/p1", "$validate"]))
def test_any_body_is_answered(world: FhirWorld, body: Any, path: str) -> None:
    answer = world.ask("PUT" if path == "Patient/p1" else "POST", path, body)
    assert answer.status in ALLOWED, (path, answer.body)


def _stored(world: FhirWorld) -> int:
    return int(world.get("?_type=Patient,Observation&_summary=count").json["total"])


GOOD = orjson.dumps(
    transaction(
        entry("POST", "Patient", {"resourceType": "Patient", "name": [{"family": "王"}]}, "urn:uuid:fuzz-1"),
        entry(
            "POST",
            "Observation",
            observation(None, "x") | {"subject": {"reference": "urn:uuid:fuzz-1"}},
            "urn:uuid:fuzz-2",
            ifNoneExist="identifier=urn:x|1",
        ),
        entry("PUT", "Patient/p1", patient("p1")),
        entry("GET", "Observation?patient=p1"),
    )
)


@QUIET
@given(
    st.lists(
        st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 40), st.binary(max_size=6)), min_size=1, max_size=3
    )
)
def test_broken_transactions_are_refused_whole(world: FhirWorld, cuts: list[tuple[int, int, bytes]]) -> None:
    before = _stored(world)
    body = GOOD
    for at, length, new in cuts:
        body = body[:at] + new + body[at + length :]
    answer = world.ask("POST", "", body)
    assert answer.status in ALLOWED, answer.body
    if answer.status != 200:
        assert _stored(world) == before


def _posted(body: bytes) -> bytes:
    return (
        b'{"resourceType":"Bundle","type":"transaction","entry":[{"request":{"method":"POST","url":"Patient"},'
        b'"resource":%b}]}' % body
    )


@pytest.mark.parametrize("depth", [50, 500, 50_000])
def test_deep_bodies_are_refused(world: FhirWorld, depth: int) -> None:
    deep = b'{"resourceType":"Patient","extension":' + b'[{"extension":' * depth + b"[]" + b"}]" * depth + b"}"
    for path, body in (
        ("Patient", deep),
        ("", _posted(deep)),
        ("Patient/$validate", deep),
        ("Patient/p1/$everything", deep),
    ):  # fmt: skip
        assert world.ask("POST", path, body).status in {200, 400}


def test_references_are_never_fetched(world: FhirWorld) -> None:
    # Whoever resolved this would wait for a connection; nothing here even looks.
    about = observation(None, "p1") | {"performer": [{"reference": "http://169.254.169.254/latest/Practitioner/1"}]}
    assert world.ask("POST", "Observation", about).status == 201


def test_cyclic_references_end(world: FhirWorld) -> None:
    for one, other in (("a", "b"), ("b", "a")):
        world.put(observation(one, "p1", hasMember=[{"reference": f"Observation/{other}"}]))
    follow = "Observation:has-member"
    page = world.get(f"Observation?_id=a&_include:iterate={follow}&_revinclude:iterate={follow}")
    assert sorted(page.ids) == ["Observation/a", "Observation/b"]
    assert world.get("Observation?has-member:Observation.has-member:Observation._id=a").ids == ["Observation/a"]
