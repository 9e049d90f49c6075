"""One committed version of the state: what a block starts from and what queries read."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final, Protocol

from carechain.core.limits import VALUE_CACHE_BYTES
from carechain.state import trie
from carechain.state.node import Root
from carechain.state.proof import Proof, prove
from carechain.state.recent import Recent

SNAPSHOT_CHECKPOINTS: Final = 2
"""A snapshot is gone at the second checkpoint after the one it was taken on."""
_UNKNOWN: Final = b"\x00never a value: told apart by identity"


class SnapshotGone(Exception):  # noqa: N818 - names what happened to the snapshot
    """The snapshot is too old: its nodes may have been dropped. Take the current one and start again."""


class NodeSource(Protocol):
    """What a snapshot needs of the store it belongs to."""

    @property
    def epoch(self) -> int:
        """How many checkpoints the store has written."""

    def load(self, reference: int) -> bytes:
        """The stored bytes of a node that is about to be replaced."""

    def load_recent(self, reference: int) -> bytes:
        """The stored bytes of a node that is likely to be read again."""


class Snapshot:
    """A reader over one root. It stays as it is while later blocks are applied, until it is gone.

    Reads raise :class:`SnapshotGone` from the second checkpoint on.
    """

    __slots__ = ("_epoch", "_recent", "_root", "_source")

    def __init__(self, source: NodeSource, root: Root, recent: Recent | None = None) -> None:
        """A view of ``root`` as of the last checkpoint of ``source``."""
        self._source = source
        self._root = root
        self._epoch = source.epoch
        self._recent = recent or Recent(VALUE_CACHE_BYTES)

    @property
    def root(self) -> Root:
        """The tree's version: top node, hash, replaced nodes."""
        return self._root

    @property
    def root_hash(self) -> bytes:
        """The 32-byte Merkle root over all entries; 32 zero bytes when there are none."""
        return self._root.hash

    @property
    def epoch(self) -> int:
        """The checkpoint the snapshot builds on."""
        return self._epoch

    def get(self, key: bytes) -> bytes | None:
        """The value under ``key``, or None."""
        if self._source.epoch - self._epoch >= SNAPSHOT_CHECKPOINTS:
            raise SnapshotGone
        value = self._recent.get(key, _UNKNOWN)
        if value is _UNKNOWN:
            value = trie.get(self._source.load_recent, self._root, key)
            self._recent.put(key, value)
        return value

    def scan(
        self, prefix: bytes, after: bytes | None = None, limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        """Entries whose key starts with ``prefix``, ascending, those above ``after`` only, at most ``limit``."""
        self._check()
        return self._entries(prefix, after, limit)

    def _entries(self, prefix: bytes, after: bytes | None, limit: int | None) -> Iterator[tuple[bytes, bytes]]:
        # An iterator may outlive its snapshot, so this is asked whenever it goes on, before anything is fetched.
        self._check()
        for entry in islice(trie.scan(self._source.load_recent, self._root, prefix, after), limit):
            yield entry
            self._check()

    def prove(self, key: bytes) -> Proof:
        """A proof of the value under ``key``, or of its absence, against :attr:`root_hash`."""
        self._check()
        return prove(self._load, self._root, key)

    def apply(self, changes: Sequence[trie.Change]) -> "Snapshot":
        """The version after ``changes``, sorted by key as :meth:`Overlay.changes` gives them.

        Nothing is written: a block that is never committed is simply forgotten. What is remembered of recent
        reads moves on to the result, because that is where reading goes on.
        """
        self._check()
        root = trie.apply(self._source.load, self._root, changes)
        recent, self._recent = self._recent, Recent(VALUE_CACHE_BYTES)
        for key, value in changes:
            recent.put(key, value)
        fresh = Snapshot(self._source, root, recent)
        fresh._epoch = self._epoch
        return fresh

    def on(self, root: Root) -> "Snapshot":
        """The same entries on the nodes a checkpoint has just written."""
        recent, self._recent = self._recent, Recent(VALUE_CACHE_BYTES)
        return Snapshot(self._source, root, recent)

    def _load(self, reference: int) -> bytes:
        # An iterator may outlive its snapshot, so it is checked at each step.
        self._check()
        return self._source.load_recent(reference)

    def _check(self) -> None:
        if self._source.epoch - self._epoch >= SNAPSHOT_CHECKPOINTS:
            raise SnapshotGone
