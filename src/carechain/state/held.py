"""A snapshot that outlives checkpoints: what whoever goes through all entries slowly needs."""

from collections.abc import Callable

from carechain.state.snapshot import SNAPSHOT_CHECKPOINTS, NodeSource, Snapshot


class Held:
    """A snapshot that stays readable until it is released, however many checkpoints are written meanwhile.

    Files that checkpoints have emptied stay on the disk for so long. Reading it keeps nothing in memory, so that
    whoever goes through all entries does not push out what others read again and again.
    """

    __slots__ = ("_epoch", "_let_go", "_released", "_source", "snapshot")

    def __init__(self, source: NodeSource, snapshot: Snapshot, let_go: Callable[["Held"], None]) -> None:
        """Use :meth:`~carechain.state.store.NodeStore.hold`, which gives itself as ``source``."""
        self._source = source
        self._let_go = let_go
        self._released = False
        self._epoch = snapshot.epoch
        self.snapshot = Snapshot(self, snapshot.root)

    @property
    def epoch(self) -> int:
        """The checkpoint the snapshot builds on; once it was released, one at which it is gone."""
        return self._epoch + SNAPSHOT_CHECKPOINTS if self._released else self._epoch

    def load(self, reference: int) -> bytes:
        """The stored bytes of a node."""
        return self._source.load(reference)

    load_recent = load

    def release(self) -> None:
        """Done with it; may be repeated. Reading it raises ``SnapshotGone`` from now on."""
        self._released = True
        self._let_go(self)
