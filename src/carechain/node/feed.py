"""The committed blocks in order, for whoever follows: the block log is the backlog, so a reader can start anywhere."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, Self

from carechain.core.limits import (
    EVENT_STREAM_BACKLOG,
    EVENT_STREAM_SUBSCRIBERS,
    EVENT_STREAMS_PER_PARTY,
    FEED_RECENT_BYTES,
)
from carechain.core.rejection import Rejected
from carechain.engine.session import CommittedBlock
from carechain.node.refusals import NodeCode, Overloaded

_BLOCK_BYTES: Final = 1024
"""What a block weighs besides its transactions, roughly."""


class FellBehind(Rejected):
    """A follower that had caught up then read more slowly than blocks came. ``height`` is where to go on."""

    def __init__(self, height: int) -> None:
        super().__init__(NodeCode.FELL_BEHIND)
        self.height = height


class Feed:
    """Hands committed blocks to its subscriptions. Belongs to one event loop."""

    def __init__(self, *, read: Callable[[int], CommittedBlock], height: int, base: int = 0) -> None:
        """``read`` gives any committed block from the log; ``height`` is the last one, ``base`` is before the first."""
        self._read = read
        self._recent: deque[CommittedBlock] = deque()
        self._recent_bytes = 0
        self._subscriptions: list[Subscription] = []
        self.height = height
        self.base = base
        self.ended = False

    def begin_at(self, height: int) -> None:
        """Earlier blocks are not here and never will be: the ledger began with a snapshot of this height."""
        self.height = self.base = height
        for one in self._subscriptions:
            one.height = max(one.height, height + 1)

    def publish(self, block: CommittedBlock) -> None:
        """Tell everyone about the next block."""
        self.height = block.height
        self._recent.append(block)
        self._recent_bytes += _weight(block)
        while self._recent_bytes > FEED_RECENT_BYTES and len(self._recent) > 1:
            self._recent_bytes -= _weight(self._recent.popleft())
        for one in self._subscriptions:
            one.wake()

    def end(self) -> None:
        """No more blocks will come: subscriptions finish what there is and stop."""
        self.ended = True
        for one in self._subscriptions:
            one.wake()

    def block(self, height: int) -> CommittedBlock:
        """A committed block, from memory if it is recent."""
        first = self._recent[0].height if self._recent else self.height + 1
        # One that is committed and not published yet is in the log only.
        return self._recent[height - first] if first <= height <= self.height else self._read(height)

    def subscribe(self, from_height: int, *, by: bytes | None = None) -> "Subscription":
        """Blocks from ``from_height`` on, then each as it is committed; raises :class:`Overloaded` when full.

        ``by`` is the party that follows, so that none takes the places of the others; None for the node's own use.
        """
        if by is not None and sum(one.by == by for one in self._subscriptions) >= EVENT_STREAMS_PER_PARTY:
            raise Overloaded(NodeCode.TOO_MANY_OWN_STREAMS)
        if len(self._subscriptions) >= EVENT_STREAM_SUBSCRIBERS:
            raise Overloaded(NodeCode.TOO_MANY_STREAMS)
        subscription = Subscription(self, max(self.base + 1, from_height), by)
        self._subscriptions.append(subscription)
        return subscription

    def forget(self, subscription: "Subscription") -> None:
        """A subscription was closed."""
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)

    @property
    def subscribers(self) -> int:
        """How many follow."""
        return len(self._subscriptions)


class Subscription:
    """An asynchronous iterator of committed blocks; use it with ``async with`` or close it.

    While it catches up it may be any number of blocks behind. Once it has reached the tip, falling more than
    ``EVENT_STREAM_BACKLOG`` blocks behind ends it with :class:`FellBehind`.
    """

    def __init__(self, feed: Feed, height: int, by: bytes | None) -> None:
        self._feed = feed
        self.by = by
        self._wake = asyncio.Event()
        self._live = False
        self.height = height
        """The height of the next block to be handed out."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> CommittedBlock:
        feed = self._feed
        while self.height > feed.height:
            self._live = True
            if feed.ended:
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()
        if self._live and feed.height - self.height >= EVENT_STREAM_BACKLOG:
            self.close()
            raise FellBehind(self.height)
        if not self._live:
            # Catching up reads from the log without ever waiting, so others are given their turn here.
            await asyncio.sleep(0)
        block = feed.block(self.height)
        self.height += 1
        return block

    def wake(self) -> None:
        """There is news."""
        self._wake.set()

    def close(self) -> None:
        """Stop following; closing twice is allowed."""
        self._feed.forget(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


def _weight(block: CommittedBlock) -> int:
    return _BLOCK_BYTES + sum(map(len, block.txs))
