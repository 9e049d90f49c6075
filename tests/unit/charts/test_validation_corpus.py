"""Goal: real resources are valid and can be indexed, apart from those known to be broken.

Method: everything in the folder that ``CARECHAIN_TEST_DATA`` names (Synthea patients, the IPS and PCF guides, the
recorded US Core server) is validated and extracted; the few refusals are listed with the element they are about.
"""

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from zoneinfo import ZoneInfo

import orjson
import pytest

from carechain.charts.definitions import RESOURCE_TYPES
from carechain.charts.searching.extract import Extractor
from carechain.charts.searching.keys import coding_term, param_key
from carechain.charts.validation import validate

BROKEN = {
    "Binary-B-ink.json": "Binary.data",  # Holds the name of a file.
    "uscore_bundle_patient_355.json": "Bundle.entry[266].resource.effectivePeriod",  # Has an element called stop.
    "us_quality_core_bundle_patient.json": "Bundle.entry[1].resource.content",  # Has an element called link.
}


@pytest.fixture(scope="module")
def folder() -> Path:
    named = os.environ.get("CARECHAIN_TEST_DATA")
    if not named:
        pytest.skip("CARECHAIN_TEST_DATA names no folder with example resources")
    return Path(named)


def synthea(folder: Path) -> Iterator[bytes]:
    with tarfile.open(folder / "synthea-r4-40.tar.xz") as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isfile() and member.name.endswith(".json") else None
            if content is not None:
                yield content.read()


def test_synthea_is_valid_and_extracts(folder: Path) -> None:
    extractor, count = Extractor(ZoneInfo("Asia/Shanghai")), 0
    for body in synthea(folder):
        assert validate(body) == ()
        for entry in orjson.loads(body)["entry"]:
            resource = entry["resource"]
            found = extractor.rows(resource, resource["resourceType"])
            assert found.tokens
            count += 1
            if resource["resourceType"] == "Observation":
                coding = resource["code"]["coding"][0]
                term = coding_term(coding["system"], coding["code"])
                assert (param_key("Observation", "code"), term) in found.tokens
                assert any(key == param_key("Observation", "date") for key, *_ in found.dates)
    assert count > 10_000


@pytest.mark.parametrize("name", ["hl7-ips", "ihe-pcf", "inferno/resources"])
def test_published_examples_are_valid(folder: Path, name: str) -> None:
    extractor = Extractor(ZoneInfo("Europe/Berlin"))
    paths = sorted((folder / name).glob("*.json"))
    assert paths
    for path in paths:
        body = path.read_bytes()
        errors = [one.location for one in validate(body) if one.severity != "warning"]
        assert errors == ([BROKEN[path.name]] if path.name in BROKEN else []), path.name
        tree = orjson.loads(body)
        if tree["resourceType"] in RESOURCE_TYPES:
            extractor.rows(tree, tree["resourceType"])
