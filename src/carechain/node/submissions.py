"""What was submitted and has no outcome yet: bounded, each transaction once, with everyone who waits for it."""

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from carechain.core.limits import SUBMIT_QUEUE_BYTES, SUBMIT_QUEUE_TXS
from carechain.core.rejection import Rejected
from carechain.node.refusals import Overloaded
from carechain.sdk.answers import Submitted

if TYPE_CHECKING:
    import asyncio


Outcome = Submitted | Rejected
"""On the ledger with a receipt, or refused before it (the refusal says why)."""


class Group:
    """The transactions of one call: their outcomes in order, and a future that is done with the last."""

    __slots__ = ("_left", "done", "outcomes")

    def __init__(self, size: int, done: "asyncio.Future[None]") -> None:
        """``done`` belongs to the running loop; it is set by the last :meth:`settle`."""
        self.outcomes: list[Outcome | None] = [None] * size
        self.done = done
        self._left = size
        if not size:
            done.set_result(None)

    def settle(self, place: int, outcome: Outcome) -> None:
        """Note one outcome."""
        self.outcomes[place] = outcome
        self._left -= 1
        if not self._left and not self.done.done():
            self.done.set_result(None)

    def fail(self, error: BaseException) -> None:
        """The node failed: what became of the rest shows only after a restart."""
        if not self.done.done():
            self.done.set_exception(error)


class Entry:
    """One transaction on its way, and the places in groups that wait for it."""

    __slots__ = ("arrival_s", "raw", "waiting")

    def __init__(self, raw: bytes, arrival_s: float) -> None:
        """``arrival_s`` is of the loop's clock."""
        self.raw = raw
        self.arrival_s = arrival_s
        self.waiting: list[tuple[Group, int]] = []


class Submissions:
    """All entries by their bytes; those that were admitted stand in ``ready``, in the order of their admission.

    The key is the bytes and not the id: two envelopes of one body differ in their signatures, and the
    outcome of a bad one must not be given to the sender of the good one.
    """

    __slots__ = ("_entries", "ready", "ready_bytes", "size_bytes")

    def __init__(self) -> None:
        """Start empty."""
        self._entries: dict[bytes, Entry] = {}
        self.ready: deque[Entry] = deque()
        self.ready_bytes = 0
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def take_in(self, raws: Sequence[bytes], group: Group, arrival_s: float) -> list[bytes]:
        """Note that ``group`` waits for ``raws``; returns the new ones. Takes all, or raises :class:`Overloaded`."""
        entries = self._entries
        size_bytes = sum(map(len, raws))
        if len(entries) + len(raws) > SUBMIT_QUEUE_TXS or self.size_bytes + size_bytes > SUBMIT_QUEUE_BYTES:
            raise Overloaded
        fresh: list[bytes] = []
        for place, raw in enumerate(raws):
            entry = entries.get(raw)
            if entry is None:
                entry = entries[raw] = Entry(raw, arrival_s)
                self.size_bytes += len(raw)
                fresh.append(raw)
            entry.waiting.append((group, place))
        return fresh

    def make_ready(self, raw: bytes) -> None:
        """The transaction was admitted and may go into the next block."""
        self.ready.append(self._entries[raw])
        self.ready_bytes += len(raw)

    def take(self, count: int) -> list[bytes]:
        """The bytes of the ``count`` oldest ready entries; they stay known until they are settled."""
        taken = [self.ready.popleft().raw for _ in range(count)]
        self.ready_bytes -= sum(map(len, taken))
        return taken

    def put_back(self, raws: Sequence[bytes]) -> None:
        """What was taken for a block, and did not get into it, is next again."""
        self.ready.extendleft(self._entries[raw] for raw in reversed(raws))
        self.ready_bytes += sum(map(len, raws))

    def settle(self, raw: bytes, outcome: Outcome) -> None:
        """Hand the outcome to everyone who waits for it and forget the entry."""
        entry = self._entries.pop(raw)
        self.size_bytes -= len(raw)
        for group, place in entry.waiting:
            group.settle(place, outcome)

    def waits(self, raw: bytes) -> bool:
        """Whether the transaction was submitted here and has no outcome yet."""
        return raw in self._entries

    def fail(self, error: BaseException) -> None:
        """The node failed: tell everyone who waits."""
        for entry in self._entries.values():
            for group, _ in entry.waiting:
                group.fail(error)
        self._entries.clear()
        self.ready.clear()
        self.ready_bytes = self.size_bytes = 0
