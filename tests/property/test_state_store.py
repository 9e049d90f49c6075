"""Goal: whatever is applied, checkpointed, forgotten and reopened, the store holds the dict it should.

Method: a Hypothesis state machine over a real store with tiny node files, so that files fill, are emptied and
dropped within a few steps, against plain dicts for the latest block, the last checkpoint and kept snapshots.
"""

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from carechain.state import trie
from carechain.state.audit import check_tree
from carechain.state.node import EMPTY
from carechain.state.snapshot import Snapshot, SnapshotGone
from carechain.state.store import NodeStore

keys = st.integers(min_value=0, max_value=60).map(lambda number: b"%03d" % (number * 17 % 61) * (1 + number % 3))
batches = st.dictionaries(keys, st.one_of(st.none(), st.binary(max_size=60)), max_size=30)


class StoreMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp(prefix="carechain-state-"))
        self.store = NodeStore.open(self.home, file_bytes=1024)
        self.now = self.store.snapshot()
        self.model: dict[bytes, bytes] = {}
        self.written: dict[bytes, bytes] = {}
        self.kept: list[tuple[Snapshot, dict[bytes, bytes]]] = []

    @rule(batch=batches)
    def apply_block(self, batch: dict[bytes, bytes | None]) -> None:
        self.now = self.now.apply(sorted(batch.items()))
        for key, value in batch.items():
            if value is None:
                self.model.pop(key, None)
            else:
                self.model[key] = value

    @rule(batch=batches)
    def try_a_block_and_forget_it(self, batch: dict[bytes, bytes | None]) -> None:
        self.now.apply(sorted(batch.items()))

    @rule(idle=st.booleans())
    def checkpoint(self, *, idle: bool) -> None:
        height = self.store.height + 1
        self.now = self.store.checkpoint(height=height, snapshot=self.now, idle=idle)
        self.written = dict(self.model)

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = NodeStore.open(self.home, file_bytes=1024)
        self.now = self.store.snapshot()
        self.model = dict(self.written)
        self.kept.clear()

    @rule()
    def keep_a_snapshot(self) -> None:
        self.kept.append((self.now, dict(self.model)))

    @precondition(lambda self: self.kept)
    @rule()
    def read_kept_snapshots(self) -> None:
        for snapshot, model in self.kept:
            if self.store.epoch - snapshot.epoch < 2:
                assert list(snapshot.scan(b"")) == sorted(model.items())
                continue
            try:
                snapshot.get(b"000")
            except SnapshotGone:
                continue
            raise AssertionError("an old snapshot still answers")

    @rule(key=keys, prefix=st.sampled_from([b"", b"0", b"01", b"060"]))
    def read(self, key: bytes, prefix: bytes) -> None:
        assert self.now.get(key) == self.model.get(key)
        expected = [entry for entry in sorted(self.model.items()) if entry[0].startswith(prefix)]
        assert list(self.now.scan(prefix)) == expected
        assert list(self.now.scan(prefix, after=key, limit=3)) == [one for one in expected if one[0] > key][:3]

    @invariant()
    def the_tree_is_the_model(self) -> None:
        assert list(check_tree(self.store.load, self.now.root)) == sorted(self.model.items())
        assert self.now.root_hash == trie.apply(self.store.load, EMPTY, sorted(self.model.items())).hash

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.home)


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=40, stateful_step_count=30)
