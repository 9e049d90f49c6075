"""What the charts tests share: an open repository, numbered randomness, and small bundles."""

import json
from collections.abc import Callable, Iterator
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from carechain.charts.store import Charts, IngestResult
from carechain.core.suite import Institution


class Desk:
    """A clerk at one repository: builds bundles about one patient and sends them."""

    PSEUDONYM = b"p" * 32
    RECEIVED_S = 1_760_000_000
    PATIENT: dict[str, Any] = {  # noqa: RUF012 - never changed
        "resourceType": "Patient",
        "id": "pat-1",
        "name": [{"family": "Doe", "given": ["Jo"]}],
    }

    def __init__(self, charts: Charts) -> None:
        self.charts = charts
        self._numbers = count()

    def rng(self, size: int) -> bytes:
        return sha256(next(self._numbers).to_bytes(8, "big")).digest()[:size]

    def about(self, resource_type: str, identity: str, **elements: Any) -> dict[str, Any]:
        """A resource of the test patient."""
        return {"resourceType": resource_type, "id": identity, "subject": {"reference": "Patient/pat-1"}, **elements}

    def coded(self, code: str, system: str = "http://snomed.info/sct") -> dict[str, Any]:
        return {"coding": [{"system": system, "code": code}]}

    def pack(self, *resources: dict[str, Any], kind: str = "collection") -> bytes:
        """A bundle of the given resources; the patient comes first unless one of them is a Patient."""
        has_patient = any(one.get("resourceType") == "Patient" for one in resources)
        entries = [{"resource": one} for one in (resources if has_patient else (self.PATIENT, *resources))]
        return self.bundle(*entries, kind=kind)

    def bundle(self, *entries: Any, kind: str = "collection") -> bytes:
        return json.dumps({"resourceType": "Bundle", "type": kind, "entry": entries}, ensure_ascii=False).encode()

    def post(self, data: bytes, *, pseudonym: bytes = PSEUDONYM, received_s: int = RECEIVED_S) -> IngestResult:
        return self.charts.ingest(pseudonym=pseudonym, bundle=data, received_s=received_s, rng=self.rng)

    def send(self, *resources: dict[str, Any], received_s: int = RECEIVED_S) -> IngestResult:
        return self.post(self.pack(*resources), received_s=received_s)

    def visit(self) -> list[dict[str, Any]]:
        """An encounter with an ordinary and a very sensitive diagnosis, its medicine, and the claim for both."""
        inside = {"encounter": {"reference": "Encounter/e1"}}
        return [
            self.about("Encounter", "e1", period={"start": "2024-05-06T10:00:00+08:00"}),
            self.about("Condition", "c-flu", code=self.coded("6142004"), **inside),
            self.about("Condition", "c-hiv", code=self.coded("86406008"), recordedDate="2024-05-07", **inside),
            self.about(
                "MedicationRequest",
                "m-hiv",
                medicationCodeableConcept=self.coded("0", "http://local.example"),
                reasonReference=[{"reference": "Condition/c-hiv"}],
                authoredOn="2024-05-06",
                **inside,
            ),
            {
                "resourceType": "Claim",
                "id": "cl1",
                "patient": {"reference": "Patient/pat-1"},
                "diagnosis": [{"diagnosisReference": {"reference": "Condition/c-hiv"}}],
                "created": "2024-05-08",
            },
        ]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "charts.db"


@pytest.fixture
def institution() -> Institution:
    """The suite that records are committed with; tests about commitments ask for both."""
    return Institution.INTERNATIONAL


@pytest.fixture
def charts(path: Path, institution: Institution) -> Iterator[Charts]:
    with Charts.open(path, institution) as opened:
        yield opened


@pytest.fixture
def desk(charts: Charts) -> Desk:
    return Desk(charts)


@pytest.fixture
def another_desk(tmp_path: Path) -> Iterator[Callable[[], Desk]]:
    """Further repositories, each empty."""
    opened: list[Charts] = []

    def make() -> Desk:
        opened.append(Charts.open(tmp_path / f"other-{len(opened)}.db"))
        return Desk(opened[-1])

    yield make
    for one in opened:
        one.close()
