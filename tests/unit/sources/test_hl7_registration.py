"""Goal: a patient who is registered between two messages has one chart, under the pseudonym, with everything in it.

Method: a feed whose registry learns of the patient in between; what the charts refuse stays in the journal until it
can be filed.
"""

from collections.abc import Iterator
from pathlib import Path
from secrets import token_bytes
from zoneinfo import ZoneInfo

import pytest

from carechain.charts.binding import provisional
from carechain.charts.codes import ChartsCode
from carechain.charts.outbox import unanchored
from carechain.charts.store import Charts
from carechain.core.vocabulary import Sensitivity
from carechain.sources.hl7v2.feed import Feed
from carechain.sources.hl7v2.journal import Journal
from carechain.sources.hl7v2.patients import Identity
from carechain.sources.hl7v2.values import Place
from carechain.sources.intake import ChartsIntake, new_patient
from hl7_messages import admission, message, result

PSEUDONYM = b"p" * 32
PATIENT_ID = Identity(authority="WEST", value="4711").patient_id()


class Book:
    """A registry that can be written in."""

    def __init__(self) -> None:
        self.known: dict[str, bytes] = {}

    def pseudonym(self, value: str) -> bytes | None:
        return self.known.get(value)


class Desk:
    def __init__(self, journal: Journal, charts: Charts) -> None:
        self.journal, self.charts, self.book = journal, charts, Book()
        self.intake = ChartsIntake(charts, rng=token_bytes)
        self.feed = Feed(
            journal=journal,
            intake=self.intake,
            registry=self.book,
            place=Place(zone=ZoneInfo("UTC")),
            charset="utf_8",
            clock=lambda: 1_700_000_000,
            entropy=token_bytes,
        )

    def send(self, *segments: str) -> None:
        assert b"MSA|AA|" in (self.feed.receive(message(*segments)) or b"")

    def file_all(self) -> list[object]:
        return [one.code for one in iter(self.feed.file_next, None)]

    def types(self, pseudonym: bytes) -> set[str]:
        found = self.charts.search(pseudonym, ceiling=Sensitivity.V)
        return {one.resource_type for record in found for one in record.resources}


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with Journal.open(tmp_path / "hl7.sqlite") as journal, Charts.open(tmp_path / "charts.sqlite") as charts:
        yield Desk(journal, charts)


def test_a_chart_begun_before_the_registration_goes_over(desk: Desk) -> None:
    desk.send(*admission())
    assert desk.file_all() == [None]
    assert desk.charts.local_patient(provisional(PATIENT_ID)) is not None
    desk.book.known["4711"] = PSEUDONYM
    desk.send(*result())
    assert desk.file_all() == [None]
    assert desk.charts.local_patient(provisional(PATIENT_ID)) is None
    assert {"Patient", "Encounter", "DiagnosticReport", "Observation"} <= desk.types(PSEUDONYM)


@pytest.mark.parametrize("waits", [True, False])
def test_what_the_node_files_waits_for_its_anchor(tmp_path: Path, waits: bool) -> None:  # noqa: FBT001 - a case
    with Charts.open(tmp_path / "charts.sqlite") as charts:
        intake = ChartsIntake(charts, rng=token_bytes, waits=waits)
        for _ in range(2):
            intake.file(pseudonym=PSEUDONYM, resources=[new_patient(PSEUDONYM)], received_s=1)
        with charts.snapshot() as connection:
            waiting = unanchored(connection, 9)
    assert [(one.pseudonym, one.version) for one in waiting] == ([(PSEUDONYM, 1)] if waits else [])


def test_a_patient_whose_chart_came_another_way_keeps_its_patient(desk: Desk) -> None:
    desk.intake.file(pseudonym=PSEUDONYM, resources=[new_patient(PSEUDONYM)], received_s=1)
    desk.book.known["4711"] = PSEUDONYM
    desk.send(*result())
    desk.send(*admission())
    assert desk.file_all() == [None, None]
    known = desk.charts.local_patient(PSEUDONYM)
    assert known is not None
    assert (known.patient_id, known.name) == (new_patient(PSEUDONYM).resource_id, "Steven Paul Jobs")


def test_what_the_charts_refuse_stays_and_is_filed_when_it_can_be(desk: Desk) -> None:
    # Two registers that contradict each other: the charts know the patient under another pseudonym.
    desk.charts.bind(PATIENT_ID, b"o" * 32)
    desk.book.known["4711"] = PSEUDONYM
    desk.send(*admission())
    desk.send(*admission("A08", control="M9"))
    assert desk.file_all() == [ChartsCode.PATIENT_HAS_OTHER_PSEUDONYM] * 2
    first, second = desk.journal.kept()
    assert (first.code, second.code) == (int(ChartsCode.PATIENT_HAS_OTHER_PSEUDONYM),) * 2
    assert desk.journal.drop(second.seq)
    assert not desk.journal.drop(second.seq)
    desk.book.known["4711"] = b"o" * 32
    assert desk.journal.retry() == 1
    assert desk.file_all() == [None]
    assert desk.journal.kept() == []
