"""Goal: a transaction's writes can be taken back, and its digests say what it saw and did (LED-9).

Method: an overlay over a committed snapshot of a handful of entries; each test states one rule of the layers.
"""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from carechain.core.limits import STATE_KEY_BYTES, STATE_VALUE_BYTES
from carechain.state.overlay import NoTransaction, Overlay, entries_digest
from carechain.state.store import NodeStore


@pytest.fixture
def overlay(tmp_path: Path) -> Iterator[Overlay]:
    with NodeStore.open(tmp_path / "state") as store:
        committed = [(b"a1", b"one"), (b"a2", b"two"), (b"a4", b"four"), (b"b1", b"other")]
        yield Overlay(store.snapshot().apply(committed))


def test_a_transaction_sees_its_own_writes_and_a_rollback_forgets_them(overlay: Overlay) -> None:
    overlay.begin()
    overlay.put(b"a1", b"changed")
    overlay.delete(b"a2")
    overlay.put(b"a3", b"three")
    assert (overlay.get(b"a1"), overlay.get(b"a2"), overlay.get(b"a3")) == (b"changed", None, b"three")
    assert list(overlay.scan(b"a")) == [(b"a1", b"changed"), (b"a3", b"three"), (b"a4", b"four")]
    overlay.rollback()
    assert list(overlay.scan(b"a")) == [(b"a1", b"one"), (b"a2", b"two"), (b"a4", b"four")]
    assert overlay.changes() == []


def test_a_later_transaction_sees_what_an_earlier_one_committed(overlay: Overlay) -> None:
    overlay.begin()
    overlay.put(b"a3", b"three")
    overlay.delete(b"a1")
    overlay.commit()
    overlay.begin()
    assert overlay.get(b"a3") == b"three"
    assert overlay.get(b"a1") is None
    overlay.put(b"a0", b"zero")
    overlay.commit()
    assert overlay.changes() == [(b"a0", b"zero"), (b"a1", None), (b"a3", b"three")]


def test_a_scan_shows_the_state_at_the_call_and_pages_by_key(overlay: Overlay) -> None:
    overlay.begin()
    found = overlay.scan(b"a")
    overlay.put(b"a3", b"three")
    overlay.delete(b"a4")
    assert [key for key, _ in found] == [b"a1", b"a2", b"a4"]
    assert [key for key, _ in overlay.scan(b"a")] == [b"a1", b"a2", b"a3"]
    assert [key for key, _ in overlay.scan(b"a", after=b"a1")] == [b"a2", b"a3"]
    assert [key for key, _ in overlay.scan(b"a", after=b"a1", limit=1)] == [b"a2"]
    assert list(overlay.scan(b"a", limit=0)) == []
    assert [key for key, _ in overlay.scan(b"", after=b"a3")] == [b"b1"]


def test_reads_are_what_was_seen_from_outside(overlay: Overlay) -> None:
    overlay.begin()
    overlay.put(b"a1", b"mine")
    overlay.get(b"a1")
    overlay.get(b"a2")
    overlay.put(b"a2", b"mine")
    overlay.get(b"zz")
    assert overlay.reads == {b"a2": b"two", b"zz": None}
    assert overlay.writes == {b"a1": b"mine", b"a2": b"mine"}


def test_a_scan_records_the_entries_it_handed_out_and_no_others(overlay: Overlay) -> None:
    overlay.begin()
    overlay.put(b"a2", b"mine")
    found = overlay.scan(b"a")
    assert (next(found), next(found)) == ((b"a1", b"one"), (b"a2", b"mine"))
    assert overlay.reads == {b"a1": b"one"}


def test_digests_follow_from_the_entries_and_outlive_the_transaction(overlay: Overlay) -> None:
    overlay.begin()
    overlay.get(b"zz")
    overlay.get(b"a1")
    overlay.put(b"x", b"new")
    overlay.delete(b"a4")
    overlay.commit()
    reads = b"\x00\x02a1\x01" + sha256(b"one").digest() + b"\x00\x02zz\x00"
    writes = b"\x00\x02a4\x00" + b"\x00\x01x\x01" + sha256(b"new").digest()
    assert overlay.read_digest() == sha256(reads).digest()
    assert overlay.write_digest() == sha256(writes).digest()
    overlay.begin()
    assert overlay.read_digest() == overlay.write_digest() == entries_digest({})


def test_a_rolled_back_transaction_wrote_nothing_but_did_read(overlay: Overlay) -> None:
    overlay.begin()
    overlay.get(b"a1")
    overlay.put(b"x", b"new")
    overlay.rollback()
    assert overlay.write_digest() == entries_digest({})
    assert overlay.read_digest() == entries_digest({b"a1": b"one"})


def test_outside_a_transaction_writes_go_to_the_block_and_reads_are_not_recorded(overlay: Overlay) -> None:
    overlay.put(b"g", b"genesis")
    overlay.delete(b"b1")
    assert overlay.get(b"g") == b"genesis"
    assert list(overlay.scan(b"b")) == []
    assert overlay.reads == {}
    assert overlay.changes() == [(b"b1", None), (b"g", b"genesis")]


def test_transactions_do_not_nest_and_do_not_end_twice(overlay: Overlay) -> None:
    with pytest.raises(NoTransaction):
        overlay.commit()
    with pytest.raises(NoTransaction):
        overlay.rollback()
    overlay.begin()
    with pytest.raises(NoTransaction):
        overlay.begin()
    with pytest.raises(NoTransaction):
        overlay.changes()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        pytest.param(b"", b"", id="no key"),
        pytest.param(bytes(STATE_KEY_BYTES + 1), b"", id="key too long"),
        pytest.param(b"k", bytes(STATE_VALUE_BYTES + 1), id="value too long"),
    ],
)
def test_an_entry_out_of_bounds_is_a_bug(overlay: Overlay, key: bytes, value: bytes) -> None:
    with pytest.raises(ValueError, match="state"):
        overlay.put(key, value)
    if key != b"k":
        with pytest.raises(ValueError, match="state key"):
            overlay.delete(key)
    assert overlay.changes() == []


def test_the_largest_entry_is_taken(overlay: Overlay) -> None:
    overlay.put(bytes(STATE_KEY_BYTES), bytes(STATE_VALUE_BYTES))
    assert overlay.get(bytes(STATE_KEY_BYTES)) == bytes(STATE_VALUE_BYTES)
