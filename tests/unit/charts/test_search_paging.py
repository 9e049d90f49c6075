"""Goal: pages follow each other without gaps and repeats, in the order asked for, alike on SQLite and PostgreSQL.

Method: a few dozen observations of several patients, with equal, missing and repeated values; every order is compared
with Python's own sorting, and every page size with the whole result. The same again with bounds so low that the ways
for large tables are taken.
"""

from collections.abc import Iterator

import pytest
from sqlalchemy import select, update

from carechain.charts.index_schema import live
from carechain.charts.searching import result
from carechain.charts.searching.codes import BadParameter, SearchCode
from carechain.charts.searching.result import Page
from carechain.charts.sight import CUSTODIAN, Sight, Window
from carechain.core.scope import EVERYTHING
from index_shelf import Shelf, coded, pseudonym, quantity, shelf_at, to

PATIENTS = ("ann", "bob", "eve")
SIZE = 45


@pytest.fixture(params=["few", "many"])
def _bounds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "many":
        monkeypatch.setattr(result, "SEARCH_DENSE", 5)
        monkeypatch.setattr(result, "SEARCH_RESOLVED", 1)


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.databases)])
def shelf(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    if request.param == "sqlite":
        with shelf_at(f"sqlite:///{tmp_path_factory.mktemp('index') / 'index'}") as filled:
            _fill(filled)
            yield filled
        return
    with request.getfixturevalue("postgresql").new_database() as url, shelf_at(url) as filled:
        _fill(filled)
        yield filled


def _day(number: int) -> str | None:
    """The day of an observation: some share one, some have none."""
    return None if number % 7 == 3 else f"2024-03-{number % 10 + 1:02}"


def _value(number: int) -> float | None:
    return None if number % 5 == 2 else float(number * 37 % 11)


def _text(number: int) -> str | None:
    return None if number % 9 == 4 else ("Äpfel", "birnen", "Birnen", "中文", "apfel")[number % 5]


def _fill(shelf: Shelf) -> None:
    for number, name in enumerate(PATIENTS):
        shelf.put(
            "Patient", name, of=name, place=(0, 1), name=[{"family": name}], gender=("female", "male")[number % 2]
        )
    for number in range(SIZE):
        owner = PATIENTS[number % 3]
        elements = {
            "effectiveDateTime": _day(number),
            "valueQuantity": None if _value(number) is None else quantity(_value(number) or 0.0),
        }
        shelf.put(
            "Observation",
            f"n{number:02}",
            of=owner,
            day=100 + number % 4,
            status="final",
            subject=to(f"Patient/{owner}"),
            code={**coded("even" if number % 2 == 0 else "odd"), **({"text": _text(number)} if _text(number) else {})},
            **{name: value for name, value in elements.items() if value is not None},
        )
    shelf.write()


def _numbers(names: list[str]) -> list[int]:
    return [int(name.removeprefix("Observation/n")) for name in names]


def walk(shelf: Shelf, question: str, size: int, sight: Sight = CUSTODIAN) -> list[str]:
    """All pages of a size, one behind the other."""
    names: list[str] = []
    after = None
    while True:
        page, found, _ = shelf.ask(question, sight, page=Page(count=size, after=after))
        names += page
        assert len(page) <= size
        assert found.more == (found.next is not None)
        if not found.more:
            return names
        assert len(page) == size
        after = found.next


FOLDED = {"Äpfel": "apfel", "birnen": "birnen", "Birnen": "birnen", "中文": "中文", "apfel": "apfel"}


def _ordered(numbers: range, key: str, *, descending: bool) -> list[int]:
    """With Python: what has no value last, equal values by row, the last first."""
    value = {"date": _day, "value-quantity": _value, "code": lambda one: _text(one) and FOLDED[_text(one) or ""]}[key]
    last_first = sorted(numbers, reverse=True)
    having = [one for one in last_first if value(one) is not None]
    having.sort(key=value, reverse=descending)  # type: ignore[arg-type,return-value]
    # A reversed sort keeps equal values in the order they came in, which is the last first.
    return having + [one for one in last_first if value(one) is None]


SORTS = [
    ("date", False),
    ("date", True),
    ("value-quantity", False),
    ("value-quantity", True),
    ("code", False),
    ("code", True),
]


@pytest.mark.usefixtures("_bounds")
def test_sorted_by_one_value(shelf: Shelf) -> None:
    for key, descending in SORTS:
        sort = f"{'-' if descending else ''}{key}"
        expected = _ordered(range(SIZE), key, descending=descending)
        for size in (7, 50):
            assert _numbers(walk(shelf, f"Observation?_sort={sort}", size)) == expected, sort
        even = [one for one in expected if one % 2 == 0]
        assert _numbers(walk(shelf, f"Observation?code=even&_sort={sort}", 9)) == even, sort


@pytest.mark.usefixtures("_bounds")
def test_sorted_by_several_values(shelf: Shelf) -> None:
    expected = sorted(range(SIZE), reverse=True)
    expected.sort(key=lambda one: -(_value(one) or 0.0))
    expected.sort(key=lambda one: _value(one) is None)
    expected.sort(key=lambda one: _day(one) or "")
    expected.sort(key=lambda one: _day(one) is None)
    assert _numbers(walk(shelf, "Observation?_sort=date,-value-quantity", 7)) == expected


@pytest.mark.usefixtures("_bounds")
def test_sorted_by_id_and_by_time_of_change(shelf: Shelf) -> None:
    upward = list(range(SIZE))
    for sort, expected in (
        ("_id", upward),
        ("-_id", upward[::-1]),
        ("_lastUpdated", upward),
        ("-_lastUpdated", upward[::-1]),
    ):
        assert _numbers(walk(shelf, f"Observation?_sort={sort}", 6)) == expected, sort


QUESTIONS = [
    "Observation?",
    "Observation?code=even",
    "Observation?code=even,odd",
    "Observation?code=even,odd&status=final",
    "Observation?date=ge2024-03-04",
    "Observation?date=ge2024-03-04&code=odd",
    "Observation?value-quantity=gt3&status=final",
    "Observation?patient=ann,bob",
    "Observation?patient.gender=female",
    "Observation?code:not=odd",
    "Observation?_id=n01,n02,n03,n04,n05,n06",
    "?_type=Observation,Patient",
]


@pytest.mark.usefixtures("_bounds")
def test_every_page_size_gives_the_same(shelf: Shelf) -> None:
    some = Sight(windows=tuple(Window(pseudonym=pseudonym(one), scope=EVERYTHING) for one in ("ann", "eve")))
    for question in QUESTIONS:
        for sight in (CUSTODIAN, some):
            whole = walk(shelf, question, 100, sight)
            assert len(whole) == len(set(whole)) > 0
            assert shelf.ask(f"{question}&_total=accurate", sight)[1].total == len(whole), question
            for size in (4, 10):
                assert walk(shelf, question, size, sight) == whole, question


def test_one_patients_newest_days_come_first(shelf: Shelf) -> None:
    numbers = _numbers(shelf.find("Observation?patient=ann"))
    assert numbers == sorted(numbers, key=lambda one: (one % 4, one), reverse=True)


def _move(shelf: Shelf, rid: int, number: int) -> None:
    with shelf.engine.execution_options(carechain_write=True).begin() as connection:
        connection.execute(update(live).where(live.c.rid == rid).values(shelf=number))


def test_what_is_hidden_meanwhile_shifts_no_page(shelf: Shelf) -> None:
    ann = Sight(windows=(Window(pseudonym=pseudonym("ann"), scope=EVERYTHING),))
    expected = list(range(SIZE - 3, SIZE - 3 - 3 * 8, -3))
    names, found, _ = shelf.ask("Observation?_sort=-_id", ann, page=Page(count=4))
    assert _numbers(names) == expected[:4]
    rid = found.matches[1]
    with shelf.engine.connect() as connection:
        place = connection.execute(select(live.c.shelf).where(live.c.rid == rid)).scalar_one()
    _move(shelf, rid, 999)
    try:
        after = shelf.find("Observation?_sort=-_id", ann, page=Page(count=4, after=found.next))
    finally:
        _move(shelf, rid, place)
    assert _numbers(after) == expected[4:]


def test_a_place_belongs_to_its_query(shelf: Shelf) -> None:
    place = shelf.ask("Observation?code=even", page=Page(count=2))[1].next
    assert place is not None
    # The size of a page and what is included may change on the way.
    assert shelf.find("Observation?code=even&_include=Observation:subject", page=Page(count=3, after=place))
    for question in ("Observation?code=odd", "Observation?code=even&_sort=date", "Patient?", "?_type=Observation"):
        with pytest.raises(BadParameter) as refusal:
            shelf.find(question, page=Page(after=place))
        assert refusal.value.code is SearchCode.BAD_PAGE
    for garbage in (b"", b"\xff", b"\x93", place[:-1], place + b"\0"):
        with pytest.raises(BadParameter):
            shelf.find("Observation?code=even", page=Page(after=garbage))


def test_a_page_of_nothing_is_only_counted(shelf: Shelf) -> None:
    names, found, _ = shelf.ask("Observation?_count=0")
    assert (names, found.more, found.total) == ([], False, SIZE)
