"""Goal: what a caller may not see leaves no trace in an answer, nor in any row that leaves the database (API-1, CON-1).

Method: every question of ``index_questions.py``, and more, is asked of two indexes with one sight: one that holds only
what may be seen, and one with many look-alikes of other patients, grades, days and records beside it. The answers must
be the same to the byte. The second index is asked through a driver that writes down every row it hands out and every
statement: no number of a hidden row may be among them, and no table may be read without the sight.
"""

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event

from carechain.charts.live import visible_to
from carechain.charts.searching import result
from carechain.charts.searching.result import Page, included, search
from carechain.charts.sight import NOTHING, Sight, Window
from carechain.core.scope import Scope
from carechain.core.vocabulary import ALL_CATEGORIES, Sensitivity
from index_questions import QUESTIONS, fill
from index_shelf import Shelf, coded, pseudonym, quantity, read, record_of, shelf_at, to

FIRST_DAY, LAST_DAY = 39_000, 41_000


def window(of: str, *, ceiling: int = 2, **more: Any) -> Window:
    return Window(pseudonym=pseudonym(of), scope=Scope(categories=ALL_CATEGORIES, ceiling=Sensitivity(ceiling), **more))


BOTH = Sight(windows=(window("wang"), window("jose")))
DAYS = Sight(windows=tuple(window(one, first_day=FIRST_DAY, last_day=LAST_DAY) for one in ("wang", "jose")))
RECORDS = Sight(windows=(window("wang"), window("jose", records=(record_of("theirs")[:32],))))
SIGHTS = {"patients": BOTH, "days": DAYS, "records": RECORDS}

MORE_QUESTIONS = [
    "Observation?_sort=-date",
    "Observation?_sort=date,-code&_total=accurate",
    "Observation?_sort=value-quantity",
    "Observation?_sort=_id",
    "Patient?_sort=-family",
    "Observation?_total=accurate",
    "Observation?patient.name=wang&_summary=count",
    "Patient?_revinclude=Observation:patient&_revinclude:iterate=Provenance:target",
    "Observation?_include=*",
    "Encounter?_include=Encounter:subject&_revinclude=Observation:encounter",
    "?_type=Patient,Observation,Practitioner",
    "?_lastUpdated=ge2000",
]
ASKED = [question for question, _ in QUESTIONS] + MORE_QUESTIONS


class Seen:
    """What a driver handed out, and what it was asked."""

    def __init__(self) -> None:
        self.values: set[object] = set()
        self.statements: list[str] = []


def recording(path: Path, seen: Seen) -> Engine:
    """An engine whose driver notes every row before anything else gets it."""

    class Cursor(sqlite3.Cursor):
        def fetchone(self) -> Any:
            return self._noted([super().fetchone()])[0]

        def fetchmany(self, size: int | None = None) -> Any:
            return self._noted(super().fetchmany(size or self.arraysize))

        def fetchall(self) -> Any:
            return self._noted(super().fetchall())

        def _noted(self, rows: list[Any]) -> list[Any]:
            seen.values.update(value for row in rows if row for value in row)
            return rows

    class Connection(sqlite3.Connection):
        def cursor(self, factory: Any = Cursor) -> Any:
            return super().cursor(factory)

    engine = create_engine("sqlite://", creator=lambda: sqlite3.connect(path, factory=Connection))

    @event.listens_for(engine, "before_cursor_execute")
    def _note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.statements.append(statement)

    return engine


def add_lookalikes(shelf: Shelf) -> None:
    """Rows that would match most questions: of a third patient, too sensitive, too early, in other records."""
    for number in range(12):
        other = f"other{number}"
        subject = to(f"Patient/{other}")
        shelf.put(
            "Patient",
            other,
            of=other,
            place=(0, 1),
            name=[{"text": "王 小明", "family": "王", "given": ["小明", "luis"]}, {"family": "Garcia"}],
            identifier=[{"system": "http://h/mrn", "value": "0012"}],
            gender="female" if number % 2 else "male",
            birthDate="1980-02-29",
            managingOrganization=to("Organization/clinic"),
        )
        for of, place, day, about in (
            (other, (2, 1), 40_000, subject),
            ("wang", (2, 4), 40_000, to("Patient/wang")),
            ("jose", (2, 4), 40_000, to("Patient/jose")),
        ):
            encounter = shelf.put(
                "Encounter",
                f"e{of}{number}",
                of=of,
                place=(1, place[1]),
                day=day,
                status="finished",
                subject=about,
                serviceProvider=to("Organization/clinic"),
                period={"start": "2024-03-10", "end": "2024-03-11"},
            )
            observation = shelf.put(
                "Observation",
                f"o{of}{number}",
                of=of,
                place=place,
                day=day,
                code=coded("15074-8", display="Glucose"),
                status="final",
                subject=about,
                encounter=to(shelf.names[encounter]),
                effectiveDateTime="2024-03-11",
                valueQuantity=quantity(6.3 + number, "mmol/l"),
                category=[coded("laboratory", "http://cat")],
                component=[{"code": coded("8480-6"), "valueQuantity": quantity(150, "mm[Hg]")}],
                derivedFrom=[to("Observation/sugar")],
                meta={"tag": [{"system": "http://t", "code": "demo"}]},
            )
            shelf.put(
                "Provenance",
                f"v{of}{number}",
                of=of,
                place=place,
                day=day,
                target=[to(shelf.names[observation]), to("Observation/smoker"), to("Patient/wang")],
                recorded="2024-04-01T00:00:00Z",
                agent=[{"who": to("Practitioner/doc")}],
            )
    for name in ("wang", "jose"):
        # Outside the days, but what the days do not narrow may see it: only asked with DAYS.
        shelf.put(
            "Observation",
            f"early-{name}",
            of=name,
            day=FIRST_DAY - 1,
            code=coded("15074-8"),
            status="final",
            subject=to(f"Patient/{name}"),
        )
    shelf.write()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Shelf, Shelf, Path]]:
    """The index without and with what is hidden. Rows that both have come first and have the same numbers."""
    folder = tmp_path_factory.mktemp("hidden")
    with shelf_at(f"sqlite:///{folder / 'bare'}") as bare, shelf_at(f"sqlite:///{folder / 'full'}") as full:
        fill(bare)
        fill(full)
        add_lookalikes(full)
        yield bare, full, folder / "full"


def answer(engine: Engine, question: str, sight: Sight, page: Page) -> tuple[Any, list[int]]:
    query = read(question)
    with engine.connect() as connection:
        visible = visible_to(connection, sight)
        found = search(connection, visible, query, page)
        return found, included(connection, visible, query, found.matches)


@pytest.mark.parametrize("dense", [False, True], ids=["usual", "dense"])
def test_the_answer_is_that_of_an_index_without_the_hidden_rows(
    pair: tuple[Shelf, Shelf, Path],
    dense: bool,  # noqa: FBT001 - a column of the table
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bare, full, path = pair
    if dense:
        monkeypatch.setattr(result, "SEARCH_DENSE", 2)
        monkeypatch.setattr(result, "SEARCH_RESOLVED", 0)
    seen = Seen()
    shared = max(bare.names)
    engine = recording(path, seen)
    for question in ASKED:
        for page in (Page(), Page(count=1)):
            with bare.engine.connect() as connection:
                expected_sight = visible_to(connection, BOTH)
                query = read(question)
                expected = search(connection, expected_sight, query, page)
                linked = included(connection, expected_sight, query, expected.matches)
            assert answer(engine, question, DAYS, page) == (expected, linked), question
    engine.dispose()
    hidden = {rid for rid in full.names if rid > shared}
    assert hidden
    assert seen.values >= set(bare.names)
    assert not seen.values & _traces(full, hidden)


def _traces(shelf: Shelf, rids: set[int]) -> set[object]:
    with shelf.engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT rid, key, resource_id, record_id, updated_us FROM live").all()
    return {value for row in rows if row[0] in rids for value in row}


@pytest.mark.parametrize("name", SIGHTS)
def test_every_table_is_read_under_the_sight(pair: tuple[Shelf, Shelf, Path], name: str) -> None:
    _, _, path = pair
    seen = Seen()
    engine = recording(path, seen)
    for question in ASKED:
        answer(engine, question, SIGHTS[name], Page())
    engine.dispose()
    read_from = 0
    for statement in seen.statements:
        for table, alias in re.findall(r"(?:FROM|JOIN|,)\s+(\w+_index|live) AS (\w+)", statement):
            read_from += 1
            assert re.search(rf"\b{alias}\.shelf IN \(", statement), (table, statement)
            if name == "records" and table == "live":
                assert re.search(rf"\b{alias}\.record_id IN \(", statement), statement
        assert not re.search(r"(?:FROM|JOIN|,)\s+(?:\w+_index|live)(?! AS)\b", statement), statement
    assert read_from > len(ASKED)


def test_an_empty_sight_finds_nothing_and_asks_no_index(pair: tuple[Shelf, Shelf, Path]) -> None:
    _, _, path = pair
    seen = Seen()
    engine = recording(path, seen)
    for question in ASKED:
        found, linked = answer(engine, question, NOTHING, Page())
        assert (found.matches, found.more, found.next, linked) == ([], False, None, [])
        assert found.total in {None, 0}
    engine.dispose()
    assert not [one for one in seen.statements if "live" in one or "_index" in one]


def test_the_directory_alone_shows_no_patient(pair: tuple[Shelf, Shelf, Path]) -> None:
    _, full, _ = pair
    assert full.find("Observation?", Sight()) == []
    assert full.find("Patient?organization=clinic", Sight()) == []
    assert full.find("Organization?_has:Patient:organization:gender=male", Sight()) == []
    assert len(full.find("Organization?", Sight())) == 2
    assert full.ask("Organization?_id=clinic&_revinclude=Patient:organization", Sight())[2] == []


@pytest.fixture
def chart(tmp_path: Path) -> Iterator[Shelf]:
    """One patient's observations on two days, of two grades, in three records."""
    with shelf_at(f"sqlite:///{tmp_path / 'chart'}") as shelf:
        shelf.put("Patient", "pat", of="pat", place=(0, 1), day=100, name=[{"family": "Pat"}], gender="female")
        for name, day, grade, record in (
            ("one", 100, 1, "first"),
            ("two", 200, 1, "second"),
            ("three", 200, 3, "third"),
            ("four", 200, 1, "second"),
        ):
            shelf.put(
                "Observation",
                name,
                of="pat",
                place=(2, grade),
                day=day,
                record=record,
                code=coded("c"),
                subject=to("Patient/pat"),
                effectiveDateTime="2024-01-01",
            )
        shelf.write()
        yield shelf


WINDOWS = [
    ({}, "four two one"),
    ({"ceiling": 3}, "three four two one"),
    ({"first_day": 150}, "four two"),
    ({"last_day": 150}, "one"),
    ({"first_day": 101, "last_day": 199}, ""),
    ({"records": (record_of("second")[:32],)}, "four two"),
    ({"records": (record_of("first")[:32], record_of("third")[:32])}, "one"),
    ({"records": (record_of("first")[:32], record_of("third")[:32]), "ceiling": 3}, "three one"),
]
WAYS = [
    "Observation?",
    "Observation?code=c",
    "Observation?date=2024",
    "Observation?date=ge2023&code=c",
    "Observation?subject=Patient/pat",
    "Observation?_id=one,two,three,four",
    "Observation?_lastUpdated=ge2000",
    "Observation?code:not=d",
    "Observation?_sort=-_id",
]


@pytest.mark.parametrize(("scope", "expected"), WINDOWS)
def test_a_window_narrows_every_way_of_searching(chart: Shelf, scope: dict[str, Any], expected: str) -> None:
    sight = Sight(windows=(window("pat", **scope),))
    found = {question: sorted(chart.find(question, sight)) for question in WAYS}
    assert found == dict.fromkeys(WAYS, sorted(f"Observation/{one}" for one in expected.split()))


def test_a_chain_does_not_lead_through_what_is_hidden(chart: Shelf) -> None:
    second = Sight(windows=(window("pat", records=(record_of("second")[:32],)),))
    # The reference is in what may be seen, but what it leads to may not be asked about.
    assert chart.find("Observation?subject=Patient/pat", second) == ["Observation/four", "Observation/two"]
    assert chart.find("Observation?patient.gender=female", second) == []
    assert chart.find("Observation?patient.gender:not=male", second) == []
    assert chart.find("Observation?patient.gender:missing=true", second) == []
    assert chart.find("Patient?_has:Observation:patient:code=c", second) == []
    assert chart.ask("Observation?_include=Observation:subject", second)[2] == []
