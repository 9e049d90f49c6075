"""Goal: what a server is given it gives back byte for byte, and what it is given twice it holds once.

Method: every published resource, and the project's synthetic patients, go through transactions and through PUT; then
``$received`` must be the bytes that came in (apart from references that the transaction resolved), with their digest,
and the served form must be those bytes with ``id`` and ``meta`` added. Forty Synthea patients are loaded as
transactions, twice. Numbers such as 72.50, escapes and the order of elements must survive.
"""

import json
import re
from base64 import b64encode
from collections import defaultdict
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson
import pytest

from carechain.charts.resource_types import R4_TYPES
from carechain.demo import synthetic
from fhir_recordings import NOT_FHIR, data_folder, example_resources, raw_entries, reference_server, synthea
from fhir_world import FHIR, FhirWorld

SYNTHEA_PATIENTS = 40
ODD = rb"""{ "resourceType" : "Observation",
  "status":"final", "code":{"text":"\u738b \ud83d\ude00 \"quoted\" \/ "},
  "valueQuantity":{"value":72.50,"unit":"kg"},
  "referenceRange":[{"low":{"value":1.0E2},"high":{"value":100.000000000000000000000001}}],
  "extension":[{"valueDecimal":-0.0,"url":"http://one.example/b"},{"url":"http://one.example/a","valueString":" a "}],
  "note":[{"text":"\u00e9"}], "id":"odd" }"""


class Written(str):
    """A number as it is written; no string of the JSON is equal to it by accident, since those are plain."""

    __slots__ = ()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.databases)])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FhirWorld]:
    place = tmp_path / "charts.sqlite" if request.param == "sqlite" else request.getfixturevalue("postgresql_url")
    with FhirWorld(place) as world:
        yield world


def exact_tree(body: bytes) -> Any:
    """JSON with every number as it is written."""
    return json.loads(body, parse_float=Written, parse_int=Written)


def require_kept(world: FhirWorld, name: str, sent: bytes) -> None:
    """A resource's stored bytes are those, and it is served as those with id and meta completed."""
    received = world.get(f"{name}/$received")
    assert received.status == 200, (name, received.body)
    assert received.body == sent, name
    assert received.headers["digest"] == f"sha-256={b64encode(sha256(sent).digest()).decode()}"
    served, original = exact_tree(world.get(name).body), exact_tree(sent)
    assert served.pop("id") == name.partition("/")[2]
    original.pop("id", None)
    meta, own_meta = served.pop("meta"), original.pop("meta", {})
    assert {"versionId", "lastUpdated"} <= set(meta), name
    for one in ("versionId", "lastUpdated"):
        meta.pop(one)
        own_meta.pop(one, None)
    assert (served, meta) == (original, own_meta), name


def resolved(sent: bytes, names: dict[str, str]) -> bytes:
    """The bytes with the addresses of a transaction replaced, found independently of the server: as quoted strings."""
    pattern = re.compile(rb'("(?:reference|uri|url|valueUri|valueUrl)"\s*:\s*)"([^"]+)"')
    return pattern.sub(
        lambda found: found[1] + b'"' + names.get(found[2].decode(), found[2].decode()).encode() + b'"', sent
    )


def load(world: FhirWorld, bundle: bytes) -> tuple[list[tuple[str, bytes]], list[str]]:
    """Store a transaction: every resource's name and the bytes that must be kept, and the statuses."""
    answer = world.ask("POST", "", bundle)
    assert answer.status == 200, answer.body
    entries = raw_entries(bundle)
    responses = [one["response"] for one in answer.json["entry"]]
    names = [one["location"].partition("/_history")[0] for one in responses]
    addresses = {
        around["fullUrl"]: name for (around, _), name in zip(entries, names, strict=True) if "fullUrl" in around
    }
    # A reference that is already relative and leads to an entry which names itself stays as it is.
    kept = [(name, resolved(body, addresses)) for (_, body), name in zip(entries, names, strict=True)]
    return kept, [one["status"] for one in responses]


def test_odd_but_valid_bytes_survive(world: FhirWorld) -> None:
    answer = world.ask("PUT", "Observation/odd", ODD)
    assert answer.status == 201, answer.body
    require_kept(world, "Observation/odd", ODD)
    for written in (b"72.50", b"1.0E2", b"100.000000000000000000000001", b"-0.0", rb"\ud83d\ude00"):
        assert written in world.get("Observation/odd").body


def test_published_examples_by_put(world: FhirWorld) -> None:
    count = 0
    for name, body in example_resources():
        head = orjson.loads(body)
        kind, identity = head["resourceType"], head["id"]
        if kind not in R4_TYPES:
            continue
        answer = world.ask("PUT", f"{kind}/{identity}", body)
        assert answer.status in {200, 201}, (name, answer.body)
        require_kept(world, f"{kind}/{identity}", body)
        count += 1
    assert count > 80


def test_what_is_no_fhir_is_refused_with_its_place(world: FhirWorld) -> None:
    folder = data_folder()
    for name, places in NOT_FHIR.items():
        path = next(folder.rglob(name))
        tree = orjson.loads(path.read_bytes())
        for position in places:
            resource = tree["entry"][position]["resource"] if tree["resourceType"] == "Bundle" else tree
            answer = world.ask("PUT", f"{resource['resourceType']}/{resource.get('id', 'x')}", resource)
            assert answer.status == 400, (name, answer.body)
            assert answer.issue["expression"], name


def test_the_reference_server_as_transactions(world: FhirWorld) -> None:
    count = 0
    for name, tree in reference_server():
        body = (data_folder() / "inferno" / "resources" / name).read_bytes()
        if tree["resourceType"] != "Bundle":
            world.put(tree)
            continue
        left_out = NOT_FHIR.get(name, {})
        raw = [one for at, one in enumerate(raw_entries(body)) if at not in left_out]
        kept, _ = load(world, joined(raw))
        for resource, sent in kept:
            require_kept(world, resource, sent)
        count += len(kept)
    assert count > 950


def joined(entries: Iterable[tuple[dict[str, Any], bytes]]) -> bytes:
    """A transaction of entries whose resources keep their bytes."""
    parts = [orjson.dumps(around)[:-1] + b',"resource":' + body + b"}" for around, body in entries]
    return b'{"resourceType":"Bundle","type":"transaction","entry":[' + b",".join(parts) + b"]}"


def test_own_patients_twice(world: FhirWorld) -> None:
    require_once(world, list(synthetic.patients(6, 11)), every=1)


def test_synthea_patients_twice(tmp_path: Path) -> None:
    """On SQLite: it is the transactions that are looked at here, and the other tests run on both databases."""
    with FhirWorld(tmp_path / "charts.sqlite") as world:
        require_once(world, [body for _, body in synthea(SYNTHEA_PATIENTS)], every=25)


def require_once(world: FhirWorld, bundles: list[bytes], every: int) -> None:
    """Load all bundles twice: the same ids and counts, nothing changed; bytes are looked at for one of ``every``."""
    first = [load(world, body) for body in bundles]
    assert all(status.startswith(("201", "200")) for _, statuses in first for status in statuses)
    kinds = sorted({name.partition("/")[0] for kept, _ in first for name, _ in kept})
    counted = {kind: world.get(f"{kind}?_summary=count").json["total"] for kind in kinds}
    names = {name for kept, _ in first for name, _ in kept}
    assert sum(counted.values()) == len(names)
    again = [load(world, body) for body in bundles]
    assert [kept for kept, _ in again] == [kept for kept, _ in first]
    assert {status for _, statuses in again for status in statuses} == {"200 OK"}
    assert {kind: world.get(f"{kind}?_summary=count").json["total"] for kind in kinds} == counted
    # Bundles share hospitals and doctors, not always in the same words: the last bundle's stand.
    contents = defaultdict(list)
    for name, sent in (pair for kept, _ in again for pair in kept):
        contents[name].append(sent)
    for name in sorted(contents)[::every]:
        assert world.get(f"{name}/$received").body == contents[name][-1], name
        if len(set(contents[name])) == 1:
            assert world.get(name).json["meta"]["versionId"] == "1", name


def test_bytes_come_back_with_any_encoding_of_the_request(world: FhirWorld) -> None:
    body = '{"resourceType":"Patient","name":[{"text":"王小明","family":"王"}],"id":"ming"}'.encode()
    headers = FHIR | {"content-type": "application/fhir+json; charset=utf-8"}
    assert world.ask("PUT", "Patient/ming", body, headers=headers).status == 201
    require_kept(world, "Patient/ming", body)
