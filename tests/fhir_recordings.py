"""Published FHIR data for conformance tests: where it is, what of it is not FHIR, and how a server is loaded with it.

The data is no part of the project. ``CARECHAIN_TEST_DATA`` names a folder with ``inferno/resources`` (the resources of
a US Core reference server), ``inferno/requests_us_core_*.json`` (requests of recorded conformance runs with their
status), ``synthea-r4-40.tar.xz``, ``hl7-ips`` and ``ihe-pcf``; without it the tests that need it skip and say so.
"""

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import orjson
import pytest
from msgspec import Struct

from fhir_world import FhirWorld

NOT_FHIR: Final = {
    "uscore_bundle_patient_355.json": {266: "effectivePeriod has an element 'stop', which FHIR does not know"},
    "us_quality_core_bundle_patient.json": {1: "content has an element 'link', which FHIR does not know"},
    "Binary-B-ink.json": {0: "data holds the name of a file and not base64"},
}
"""Entries (by position; 0 for a file with a single resource) that no FHIR server may accept, and why."""


class Recorded(Struct, frozen=True, forbid_unknown_fields=True):
    """One request of a recorded run; ``{base}`` in ``url`` stands for the server's address. No bodies are recorded."""

    verb: str
    url: str
    status: int
    test: str
    result: str


def data_folder() -> Path:
    """The folder of test data; skips the test where there is none."""
    named = os.environ.get("CARECHAIN_TEST_DATA")
    if not named:
        pytest.skip("CARECHAIN_TEST_DATA names no folder with published FHIR data")
    return Path(named)


def has_data() -> bool:
    """Whether the folder is named."""
    return bool(os.environ.get("CARECHAIN_TEST_DATA"))


def recorded(version: str) -> list[Recorded]:
    """The recorded requests of a US Core version, in the order of the run."""
    body = (data_folder() / "inferno" / f"requests_us_core_{version}.json").read_bytes()
    return msgspec.json.decode(body, type=list[Recorded])


def reference_server() -> Iterator[tuple[str, dict[str, Any]]]:
    """The files of the reference server by name, without what is not FHIR."""
    for path in sorted((data_folder() / "inferno" / "resources").glob("*.json")):
        tree = orjson.loads(path.read_bytes())
        for position in sorted(NOT_FHIR.get(path.name, {}), reverse=True):
            del tree["entry"][position]
        yield path.name, tree


def load_reference_server(world: FhirWorld) -> None:
    """Store all of it, bundles as the transactions that they are."""
    for name, tree in reference_server():
        answer = world.ask("POST", "", tree) if tree["resourceType"] == "Bundle" else world.put(tree)
        assert answer.status in {200, 201}, (name, answer.body)


def synthea(most: int) -> Iterator[tuple[str, bytes]]:
    """The first Synthea patients, each a transaction Bundle, by file name."""
    with tarfile.open(data_folder() / "synthea-r4-40.tar.xz") as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isfile() and member.name.endswith(".json") else None
            if content is None:
                continue
            yield Path(member.name).name, content.read()
            most -= 1
            if not most:
                return


def example_resources() -> Iterator[tuple[str, bytes]]:
    """The published examples of the IPS and PCF guides that are single resources and FHIR, by file name."""
    for folder in ("hl7-ips", "ihe-pcf"):
        for path in sorted((data_folder() / folder).glob("*.json")):
            if path.name not in NOT_FHIR:
                yield path.name, path.read_bytes()


def raw_entries(bundle: bytes) -> list[tuple[dict[str, Any], bytes]]:
    """The entries of a Bundle: what stands around the resource, and the resource's own bytes."""
    outer = msgspec.json.decode(bundle, type=dict[str, msgspec.Raw])
    entries = msgspec.json.decode(bytes(outer["entry"]), type=list[dict[str, msgspec.Raw]])
    return [
        (
            {name: orjson.loads(bytes(value)) for name, value in one.items() if name != "resource"},
            bytes(one["resource"]),
        )
        for one in entries
    ]
