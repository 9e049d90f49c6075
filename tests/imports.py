"""What tests of imports share: a chart of its own, a patient, and files made in memory or found beside the project."""

import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from secrets import token_bytes
from typing import Any, BinaryIO
from zoneinfo import ZoneInfo

import pytest

from carechain.charts.store import Charts
from carechain.charts.validation import validate
from carechain.core.vocabulary import Sensitivity
from carechain.sources.imports.base import Importer, ImportReport, Skipped, Subject, run_import
from carechain.sources.intake import ChartsIntake, new_patient

PSEUDONYM = b"q" * 32
RECEIVED_S = 1_760_000_000
ZONE = ZoneInfo("Asia/Shanghai")
SUBJECT = Subject(patient=new_patient(PSEUDONYM), zone=ZONE)


def sample(*parts: str) -> Path:
    """A file of the test data; skips, saying so, where there are none."""
    folder = os.environ.get("CARECHAIN_TEST_DATA")
    if not folder:
        pytest.skip("CARECHAIN_TEST_DATA names no folder of test data")
    return Path(folder, *parts)


def file_of(content: str | bytes | object) -> BinaryIO:
    """A file with a text, with bytes, or with JSON."""
    if isinstance(content, str):
        return io.BytesIO(content.encode())
    return io.BytesIO(content if isinstance(content, bytes) else json.dumps(content).encode())


def read(importer: Importer, content: str | bytes | object) -> tuple[list[dict[str, Any]], list[Skipped]]:
    """The resources of a file as trees, each checked to be valid FHIR, and what was skipped."""
    made: list[dict[str, Any]] = []
    skipped: list[Skipped] = []
    for item in importer.read(file_of(content), SUBJECT):
        if isinstance(item, Skipped):
            skipped.append(item)
        else:
            wrong = [one for one in validate(item.body) if one.severity in ("error", "fatal")]
            assert wrong == []
            made.append(json.loads(item.body))
    return made, skipped


def imported(charts: Charts, importer: Importer, content: str | bytes | object) -> ImportReport:
    """Import a file into charts."""
    return run_import(
        importer,
        file_of(content),
        intake=ChartsIntake(charts, rng=token_bytes),
        pseudonym=PSEUDONYM,
        zone=ZONE,
        received_s=RECEIVED_S,
    )


def stored(charts: Charts) -> list[dict[str, Any]]:
    """Every resource of the patient's chart."""
    return [
        json.loads(one.body)
        for record in charts.search(PSEUDONYM, ceiling=Sensitivity.V)
        for one in charts.read(record.record_id).resources
    ]


def codes(resources: Sequence[dict[str, Any]]) -> set[str]:
    """The codes of Observations."""
    return {coding["code"] for one in resources for coding in one.get("code", {}).get("coding", [])}
