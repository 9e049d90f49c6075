"""Goal: whatever lies where and whoever asks, a search returns exactly the matches that the sight covers (API-1).

Method: hypothesis places resources on shelves, days and records, makes sights of several windows, and asks, page by
page. The expected answer is worked out in Python from the ledger's own rule (``Scope.covers``) over a plain list.
"""

from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carechain.charts.searching.result import Page
from carechain.charts.sight import CUSTODIAN, Sight, Window
from carechain.core.scope import Scope
from carechain.core.vocabulary import Sensitivity
from index_shelf import coded, pseudonym, record_of, shelf_at, to

OWNERS = ("ann", "bob")
RECORDS = ("first", "second")


class Lying(NamedTuple):
    owner: str
    category: int
    grade: int
    day: int
    record: str
    code: str
    date: str


LYING = st.builds(
    Lying,
    st.sampled_from(OWNERS),
    st.integers(0, 2),
    st.integers(0, 5),
    st.integers(1, 4),
    st.sampled_from(RECORDS),
    st.sampled_from(("a", "b")),
    st.sampled_from(("2024-01-01", "2024-02", "2025")),
)
SCOPES = st.builds(
    lambda categories, ceiling, days, records: Scope(
        categories=categories,
        ceiling=Sensitivity(ceiling),
        first_day=min(days),
        last_day=max(days),
        records=tuple(sorted(record_of(one)[:32] for one in records)),
    ),
    st.integers(1, 7),
    st.integers(0, 5),
    st.tuples(st.integers(0, 5), st.integers(0, 5)),
    st.sets(st.sampled_from(RECORDS), max_size=1),
)
WINDOWS = st.lists(st.tuples(st.sampled_from(OWNERS), SCOPES), max_size=3)
QUESTIONS = {
    "Observation?": lambda _: True,
    "Observation?code=a": lambda one: one.code == "a",
    "Observation?code=a,b&date=2024": lambda one: one.date != "2025",
    "Observation?code:not=a": lambda one: one.code != "a",
    "Observation?date=ge2024-02&code=b": lambda one: one.date != "2024-01-01" and one.code == "b",
    "Observation?patient=ann&_sort=-date": lambda one: one.owner == "ann",
}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(LYING, max_size=12), st.one_of(st.none(), WINDOWS), st.integers(1, 4))
def test_a_search_returns_what_the_sight_covers(
    tmp_path_factory: pytest.TempPathFactory, resources: list[Lying], windows: list[tuple[str, Scope]] | None, size: int
) -> None:
    sight = CUSTODIAN
    if windows is not None:
        sight = Sight(windows=tuple(Window(pseudonym=pseudonym(owner), scope=scope) for owner, scope in windows))
    with shelf_at(f"sqlite:///{tmp_path_factory.mktemp('sight') / 'index'}") as shelf:
        for number, one in enumerate(resources):
            shelf.put(
                "Observation",
                str(number),
                of=one.owner,
                place=(one.category, one.grade),
                day=one.day,
                record=one.record,
                code=coded(one.code),
                subject=to(f"Patient/{one.owner}"),
                effectiveDateTime=one.date,
            )
        shelf.write()
        for question, matches in QUESTIONS.items():
            expected = {
                f"Observation/{number}"
                for number, one in enumerate(resources)
                if matches(one) and (windows is None or any(_covers(owner, scope, one) for owner, scope in windows))
            }
            found: list[str] = []
            after = None
            while True:
                names, page, _ = shelf.ask(f"{question}&_total=accurate", sight, page=Page(count=size, after=after))
                found += names
                assert page.total == len(expected)
                after = page.next
                if after is None:
                    break
            assert len(found) == len(set(found))
            assert set(found) == expected, question


def _covers(owner: str, scope: Scope, one: Lying) -> bool:
    return owner == one.owner and scope.covers(
        category=one.category, sensitivity=one.grade, day=one.day, record=record_of(one.record)[:32]
    )
