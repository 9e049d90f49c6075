"""Goal: synthetic patients are the same everywhere, valid for the charts, and hold what ceilings must stop.

Method: bundles are hashed, ingested, and counted; the worked case is told in its three steps.
"""

import os
import re
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from carechain.charts.bundle import parse, patient_of
from carechain.charts.store import Charts, IngestResult, check
from carechain.core.vocabulary import Category, Sensitivity
from carechain.demo import steve_apple, synthetic

RECEIVED_S = 1_760_000_000


def ingest(charts: Charts, number: int, bundle: bytes) -> IngestResult:
    return charts.ingest(pseudonym=number.to_bytes(32, "big"), bundle=bundle, received_s=RECEIVED_S, rng=os.urandom)


def test_bundles_depend_on_seed_and_index_only() -> None:
    assert list(synthetic.patients(3, 7)) == [synthetic.patient(index, 7) for index in range(3)]
    assert synthetic.patient(0, 7) != synthetic.patient(0, 8)
    assert synthetic.patient(0, 7) != synthetic.patient(1, 7)


def test_bundles_are_the_same_under_another_hash_seed() -> None:
    program = (
        "import sys; from hashlib import sha256; from carechain.demo import synthetic;"
        "sys.stdout.write(sha256(b''.join(synthetic.patients(4, 1))).hexdigest())"
    )
    here = sha256(b"".join(synthetic.patients(4, 1))).hexdigest()
    environment = {**os.environ, "PYTHONHASHSEED": "4711", "PYTHONPATH": os.pathsep.join(sys.path)}
    there = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert there.stdout == here


def test_twenty_patients_make_a_believable_hospital(tmp_path: Path) -> None:
    with Charts.open(tmp_path / "a.db") as charts:
        results = [ingest(charts, number, bundle) for number, bundle in enumerate(synthetic.patients(20, 1))]
        names = [charts.local_patient(number.to_bytes(32, "big")) for number in range(20)]
        for result in results:
            for record in result.records:
                check(charts.read(record.record_id), record.root)
    assert all(25 <= result.resources <= 60 for result in results)
    chinese = [one for one in names if one is not None and one.name is not None and not one.name.isascii()]
    assert len(chinese) == 7
    assert len({one.mrn for one in names if one is not None}) == 20
    records = [record for result in results for record in result.records]
    assert {record.category for record in records} >= {
        Category.DEMOGRAPHICS,
        Category.ENCOUNTER,
        Category.RESULT,
        Category.CLAIM,
    }
    for number, result in enumerate(results):
        above = {record.sensitivity for record in result.records if record.sensitivity > Sensitivity.N}
        assert bool(above) == (number % 4 == 3)
    labels = {label for record in records for label in record.labels}
    assert {"HIV", "PSY", "OPIOIDUD", "SDV"} <= labels
    assert {Sensitivity.R, Sensitivity.V} <= {record.sensitivity for record in records}


@pytest.mark.parametrize("index", [0, 1, 3])
def test_amounts_have_two_decimals_and_references_resolve(index: int) -> None:
    data = synthetic.patient(index, 1)
    assert re.search(rb'"value":\d+\.\d0,"currency"', b"".join(synthetic.patients(4, 1)))
    text = data.decode()
    assert "\ue000" not in text
    full_urls = {entry.full_url for entry in parse(data).entries}
    assert set(re.findall(r'"reference":"([^"]*)"', text)) <= full_urls
    patient_of(parse(data))


def test_the_worked_case(tmp_path: Path) -> None:
    """Steve reports, Carl writes the note, John adds the test: one record each, and demographics once (S3)."""
    with Charts.open(tmp_path / "a.db") as charts:
        told = [
            ingest(charts, 1, bundle())
            for bundle in (steve_apple.demographics, steve_apple.encounter_note, steve_apple.lipid_test)
        ]
        found = [[(one.category, one.version) for one in result.records] for result in told]
        known = charts.local_patient((1).to_bytes(32, "big"))
    assert found == [
        [(Category.DEMOGRAPHICS, 1), (Category.PATIENT_REPORTED, 1)],
        [(Category.ENCOUNTER, 1)],
        [(Category.RESULT, 1)],
    ]
    assert known is not None
    assert (known.name, known.mrn) == (steve_apple.PATIENT_NAME, steve_apple.MRN)
    assert {one.sensitivity for result in told for one in result.records} == {Sensitivity.N}
