"""Goal: what a bundle calls by urn:uuid is found by searches as what it is, also when the index is built again.

Method: bundles whose resources refer to one another by urn:uuid are taken in as received, and searched over the FHIR
server by patient, by chain and with includes; the stored bytes stay as they came.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from carechain.charts.store import Charts
from carechain.demo import synthetic
from fhir_world import FhirWorld
from world import entropy_of

PSEUDONYM = b"\x07" * 32


@pytest.fixture
def bundle() -> dict[str, Any]:
    made: dict[str, Any] = json.loads(synthetic.patient(3, seed=1))
    return made


@pytest.fixture
def world(tmp_path: Path) -> Iterator[FhirWorld]:
    with FhirWorld(tmp_path / "charts.sqlite") as world:
        yield world


def take(world: FhirWorld, bundle: dict[str, Any]) -> None:
    data = json.dumps(bundle).encode()
    world.charts.ingest(pseudonym=PSEUDONYM, bundle=data, received_s=1_800_000_000, rng=entropy_of("urn"))


def of_type(bundle: dict[str, Any], *names: str) -> list[dict[str, Any]]:
    return [one["resource"] for one in bundle["entry"] if one["resource"]["resourceType"] in names]


def require_found(world: FhirWorld, bundle: dict[str, Any]) -> None:
    (patient,) = of_type(bundle, "Patient")
    wanted = sorted(f"Observation/{one['id']}" for one in of_type(bundle, "Observation"))
    family = patient["name"][0].get("family") or patient["name"][0]["text"]
    assert wanted
    assert sorted(world.get(f"Observation?patient={patient['id']}&_count=500").ids) == wanted
    assert sorted(world.get(f"Observation?subject:Patient.name={family}&_count=500").ids) == wanted
    assert sorted(world.get(f"Patient/{patient['id']}/Observation?_count=500").ids) == wanted
    (doctor,) = of_type(bundle, "Practitioner")
    seen = world.get(f"Encounter?participant=Practitioner/{doctor['id']}&_include=Encounter:participant").ids
    assert f"Practitioner/{doctor['id']}" in seen


def test_what_is_named_by_urn_is_found(world: FhirWorld, bundle: dict[str, Any]) -> None:
    take(world, bundle)
    require_found(world, bundle)
    one = of_type(bundle, "Observation")[0]
    received = world.get(f"Observation/{one['id']}/$received").json
    assert received["subject"]["reference"].startswith("urn:uuid:")


def test_in_parts_and_in_any_order(world: FhirWorld, bundle: dict[str, Any]) -> None:
    patient = [one for one in bundle["entry"] if one["resource"]["resourceType"] == "Patient"]
    take(world, bundle | {"entry": bundle["entry"][::-1]})
    corrected = [one for one in bundle["entry"] if one["resource"]["resourceType"] == "Observation"]
    for one in corrected:
        one["resource"]["status"] = "amended"
    take(world, bundle | {"entry": corrected + patient})
    require_found(world, bundle)


def test_after_the_index_was_built_again(tmp_path: Path, bundle: dict[str, Any]) -> None:
    with FhirWorld(tmp_path / "charts.sqlite") as world:
        take(world, bundle)
    Charts.open(tmp_path / "charts.sqlite", zone=ZoneInfo("Asia/Shanghai")).close()
    with FhirWorld(tmp_path / "charts.sqlite", zone="Asia/Shanghai") as world:
        require_found(world, bundle)
