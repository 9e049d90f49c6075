"""Goal: each kind of search parameter finds what FHIR R4 says, alike on SQLite and PostgreSQL.

Method: one small index, filled by the extraction from resources as JSON, and a table of questions with the ids that
must come back (``index_questions.py``). Order is tested elsewhere, so the answers are compared as sets. Every question
is asked a second time with bounds so low that the ways for large tables are taken.
"""

from collections.abc import Iterator

import pytest

from carechain.charts.searching import result
from index_questions import QUESTIONS, fill
from index_shelf import Shelf, shelf_at


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.databases)])
def shelf(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    if request.param == "sqlite":
        folder = tmp_path_factory.mktemp("index")
        with shelf_at(f"sqlite:///{folder / 'index'}") as filled:
            fill(filled)
            yield filled
        return
    with request.getfixturevalue("postgresql").new_database() as url, shelf_at(url) as filled:
        fill(filled)
        yield filled


def answers(shelf: Shelf) -> dict[str, list[str]]:
    """What every question finds; all in one test, since there are many and each takes a moment."""
    return {question: sorted(name.partition("/")[2] for name in shelf.find(question)) for question, _ in QUESTIONS}


EXPECTED = {question: sorted(expected.split()) for question, expected in QUESTIONS}


def test_every_question_finds_what_the_specification_says(shelf: Shelf) -> None:
    assert answers(shelf) == EXPECTED


def test_the_ways_for_large_tables_find_the_same(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result, "SEARCH_DENSE", 2)
    monkeypatch.setattr(result, "SEARCH_RESOLVED", 0)
    assert answers(shelf) == EXPECTED


SYSTEM = [
    ("?_type=Patient,Observation&_tag=http://t|demo", "Observation/weight"),
    ("?_id=wang", "Patient/wang"),
    ("?_type=ValueSet,Practitioner", "Practitioner/doc ValueSet/sets ValueSet/colours"),
    ("?_type=Patient&gender=male", "Patient/wang"),
]


@pytest.mark.parametrize(("question", "expected"), SYSTEM, ids=[question for question, _ in SYSTEM])
def test_several_types_are_searched_one_after_the_other(shelf: Shelf, question: str, expected: str) -> None:
    assert shelf.find(question) == expected.split()


INCLUDES = [
    ("Observation?_id=sugar&_include=Observation:subject", "Patient/wang"),
    ("Observation?_id=sugar&_include=Observation:subject:Group", ""),
    ("Observation?_id=sugar&_include=Observation:*", "Patient/wang Encounter/visit"),
    ("Observation?_id=sugar&_include=*", "Patient/wang Encounter/visit"),
    (
        "Encounter?_include=Encounter:service-provider&_include:iterate=Organization:partof",
        "Organization/clinic Organization/trust",
    ),
    ("Observation?_id=sugar&_include=Observation:encounter&_include=Encounter:service-provider", "Encounter/visit"),
    ("Observation?_id=smoker&_revinclude=Provenance:target", "Provenance/source"),
    ("Patient?_id=jose&_revinclude=Observation:patient", "Observation/pressure Observation/smoker"),
    (
        "Patient?_id=jose&_revinclude=Observation:patient&_revinclude:iterate=Provenance:target",
        "Observation/pressure Observation/smoker Provenance/source",
    ),
    ("Observation?_id=sugar,weight&_include=Observation:subject", "Patient/wang"),
    ("Observation?_id=pressure,smoker&_include=Observation:derived-from", ""),
]


@pytest.mark.parametrize(("question", "expected"), INCLUDES, ids=[question for question, _ in INCLUDES])
def test_includes_bring_what_is_linked(shelf: Shelf, question: str, expected: str) -> None:
    _, _, more = shelf.ask(question)
    assert sorted(more) == sorted(expected.split())


def test_totals_are_counted_when_asked_for(shelf: Shelf) -> None:
    assert shelf.ask("Observation?")[1].total is None
    assert shelf.ask("Observation?_total=accurate&_count=1")[1].total == 4
    assert shelf.ask("Observation?code=15074-8,72166-2&_summary=count")[1].total == 2
    assert shelf.ask("Observation?_summary=count")[0] == []
    assert shelf.ask("?_type=Patient,Observation&_summary=count")[1].total == 6
