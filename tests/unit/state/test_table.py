"""Goal: rows come back as they were put, in key order, and a key that does not fit its table is refused as a bug.

Method: one table with an id and a number in its key, over an overlay and over a committed snapshot.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from carechain.core.codec import Malformed
from carechain.core.message import Row
from carechain.state.overlay import Overlay
from carechain.state.snapshot import Snapshot
from carechain.state.store import NodeStore
from carechain.state.table import ReadTable, Table, TableSpec


class Visit(Row, frozen=True):
    ward: str
    beds: int = 0


VISITS = TableSpec(name="demo.visits", prefix=0x70, key=(32, 8), row=Visit, note="patient, number → visit")
NEIGHBOUR = TableSpec(name="demo.after", prefix=0x71, key=(32,), row=Visit, note="patient → visit")
ONE, TWO = bytes(31) + b"\x01", bytes(31) + b"\x02"


@pytest.fixture
def snapshot(tmp_path: Path) -> Iterator[Snapshot]:
    with NodeStore.open(tmp_path / "state") as store:
        yield store.snapshot()


@pytest.fixture
def visits(snapshot: Snapshot) -> Table[Visit]:
    table = VISITS.bind(Overlay(snapshot))
    table.put(ONE, 7, row=Visit(ward="内科"))
    table.put(ONE, 300, row=Visit(ward="B", beds=2))
    table.put(TWO, 1, row=Visit(ward="C"))
    return table


def test_a_row_comes_back_as_it_was_put(visits: Table[Visit]) -> None:
    assert visits.get(ONE, 7) == Visit(ward="内科")
    assert visits.has(ONE, 300)
    assert not visits.has(ONE, 8)
    visits.delete(ONE, 7)
    assert visits.get(ONE, 7) is None


def test_a_scan_follows_the_key_and_names_its_parts(visits: Table[Visit]) -> None:
    assert [parts for parts, _ in visits.scan(ONE)] == [(ONE, 7), (ONE, 300)]
    assert [parts for parts, _ in visits.scan()] == [(ONE, 7), (ONE, 300), (TWO, 1)]
    assert [parts for parts, _ in visits.scan(after=(ONE, 7))] == [(ONE, 300), (TWO, 1)]
    assert [row.ward for _, row in visits.scan(limit=1)] == ["内科"]


def test_tables_do_not_see_each_other(visits: Table[Visit]) -> None:
    neighbour = NEIGHBOUR.bind(visits._state)
    neighbour.put(ONE, row=Visit(ward="elsewhere"))
    assert len(list(visits.scan())) == 3
    assert [parts for parts, _ in neighbour.scan()] == [(ONE,)]


def test_a_committed_snapshot_binds_read_only(snapshot: Snapshot) -> None:
    overlay = Overlay(snapshot)
    VISITS.bind(overlay).put(ONE, 7, row=Visit(ward="A"))
    table = VISITS.bind(snapshot.apply(overlay.changes()))
    assert type(table) is ReadTable
    assert table.get(ONE, 7) == Visit(ward="A")
    assert not hasattr(table, "put")


@pytest.mark.parametrize(
    ("parts", "error"),
    [
        pytest.param((ONE,), TypeError, id="too few parts"),
        pytest.param((ONE, 1, 1), TypeError, id="too many parts"),
        pytest.param((ONE[1:], 1), ValueError, id="short id"),
        pytest.param((ONE + b"\x00", 1), ValueError, id="long id"),
        pytest.param((ONE, -1), ValueError, id="negative number"),
        pytest.param((ONE, 1 << 64), ValueError, id="number too large"),
        pytest.param((ONE, b"\x01"), ValueError, id="short number as bytes"),
    ],
)
def test_a_key_that_does_not_fit_is_a_bug(
    visits: Table[Visit], parts: tuple[bytes | int, ...], error: type[Exception]
) -> None:
    with pytest.raises(error, match=r"demo\.visits"):
        visits.get(*parts)


def test_bytes_of_the_right_width_do_for_a_number(visits: Table[Visit]) -> None:
    assert visits.get(ONE, bytes(7) + b"\x07") == visits.get(ONE, 7)


@pytest.mark.parametrize(("prefix", "key"), [(-1, (32,)), (256, (32,)), (1, (0,)), (1, (160,))])
def test_an_impossible_layout_is_refused(prefix: int, key: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="impossible key layout"):
        TableSpec(name="demo.bad", prefix=prefix, key=key, row=Visit, note="")


def test_a_table_without_key_parts_holds_one_row(snapshot: Snapshot) -> None:
    single = TableSpec(name="demo.single", prefix=0x72, key=(), row=Visit, note="the only visit").bind(
        Overlay(snapshot)
    )
    single.put(row=Visit(ward="only"))
    assert single.get() == Visit(ward="only")
    assert list(single.scan()) == [((), Visit(ward="only"))]


def test_a_specification_does_not_change() -> None:
    with pytest.raises(AttributeError):
        VISITS.name = "other"


def test_a_raw_key_is_named_for_people() -> None:
    assert VISITS.describe(VISITS.key_of(ONE, 7)) == "demo.visits[0000000000000000…, 7]"
    assert VISITS.describe(b"\x70\x01") == "demo.visits[not a key: 7001]"
    assert repr(VISITS) == "TableSpec(demo.visits, prefix=0x70, key=(32, 8))"


def test_a_damaged_row_is_told_apart_from_a_missing_one(snapshot: Snapshot) -> None:
    overlay = Overlay(snapshot)
    overlay.put(VISITS.key_of(ONE, 7), b"\xc1")
    with pytest.raises(Malformed, match=r"demo\.visits"):
        VISITS.bind(overlay).get(ONE, 7)
