"""Goal: an overlay behaves as a stack of dicts, whatever is put, deleted, scanned, committed and rolled back.

Method: a Hypothesis state machine against two plain dicts (the block and the running transaction) over a committed
snapshot; the recorded reads are compared with what the transaction could have seen.
"""

import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from carechain.state.ordered import OrderedKeys
from carechain.state.overlay import Overlay, entries_digest
from carechain.state.store import NodeStore

keys = st.binary(min_size=1, max_size=2).map(lambda raw: raw.translate(bytes(byte % 4 for byte in range(256))))
values = st.binary(max_size=3)


class OverlayMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="carechain-overlay-")
        self.store = NodeStore.open(Path(self.folder.name))
        base = {bytes([one, other]): b"base" for one in range(4) for other in range(0, 4, 2)}
        self.overlay = Overlay(self.store.snapshot().apply(sorted(base.items())))
        self.base = base
        self.block = dict(base)
        self.touched: set[bytes] = set()
        self.mine: dict[bytes, bytes | None] = {}
        self.seen: dict[bytes, bytes | None] = {}
        self.inside = False

    def current(self) -> dict[bytes, bytes]:
        merged: dict[bytes, bytes | None] = {**self.block, **self.mine}
        return {key: value for key, value in merged.items() if value is not None}

    def saw(self, key: bytes) -> None:
        if self.inside and key not in self.mine:
            self.seen.setdefault(key, self.block.get(key))

    @precondition(lambda self: not self.inside)
    @rule()
    def begin(self) -> None:
        self.overlay.begin()
        self.inside, self.mine, self.seen = True, {}, {}

    @precondition(lambda self: self.inside)
    @rule()
    def commit(self) -> None:
        self.overlay.commit()
        assert self.overlay.write_digest() == entries_digest(self.mine)
        self.touched |= self.mine.keys()
        self.block, self.mine, self.inside = self.current(), {}, False

    @precondition(lambda self: self.inside)
    @rule()
    def rollback(self) -> None:
        self.overlay.rollback()
        assert self.overlay.write_digest() == entries_digest({})
        self.mine, self.inside = {}, False

    @rule(key=keys, value=values)
    def put(self, key: bytes, value: bytes) -> None:
        self.overlay.put(key, value)
        if self.inside:
            self.mine[key] = value
        else:
            self.block[key] = value
            self.touched.add(key)

    @rule(key=keys)
    def delete(self, key: bytes) -> None:
        self.overlay.delete(key)
        if self.inside:
            self.mine[key] = None
        else:
            self.block.pop(key, None)
            self.touched.add(key)

    @rule(key=keys)
    def get(self, key: bytes) -> None:
        assert self.overlay.get(key) == self.current().get(key)
        self.saw(key)
        assert self.overlay.read_digest() == entries_digest(self.seen)

    @rule(
        prefix=st.one_of(st.just(b""), keys),
        after=st.one_of(st.none(), keys),
        limit=st.one_of(st.none(), st.integers(min_value=0, max_value=4)),
    )
    def scan(self, prefix: bytes, after: bytes | None, limit: int | None) -> None:
        expected = [
            (key, value)
            for key, value in sorted(self.current().items())
            if key.startswith(prefix) and (after is None or key > after)
        ][:limit]
        assert list(self.overlay.scan(prefix, after, limit)) == expected
        for key, _ in expected:
            self.saw(key)
        assert self.overlay.read_digest() == entries_digest(self.seen)

    @precondition(lambda self: not self.inside)
    @rule()
    def changes_lead_from_the_base_to_the_block(self) -> None:
        changes = self.overlay.changes()
        assert [key for key, _ in changes] == sorted(self.touched)
        merged: dict[bytes, bytes | None] = {**self.base, **dict(changes)}
        assert {key: value for key, value in merged.items() if value is not None} == self.block

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()


TestOverlay = OverlayMachine.TestCase
TestOverlay.settings = settings(max_examples=60, stateful_step_count=40)


def test_many_keys_stay_in_order() -> None:
    ordered = OrderedKeys()
    spelled = [b"%05d" % (number * 7919 % 5003) for number in range(5003)]
    for key in spelled:
        ordered.add(key)
    assert list(ordered.under(b"")) == sorted(spelled)
    assert list(ordered.under(b"012")) == [key for key in sorted(spelled) if key.startswith(b"012")]
    assert list(ordered.under(b"0", b"00998")) == [key for key in sorted(spelled) if b"00998" < key < b"1"]
    assert list(ordered.under(b"9")) == []
