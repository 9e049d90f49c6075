"""Goal: a follower gets every block once and in order, from any height, and a slow one is told where to go on.

Method: a feed over a list of blocks; no disk and no server.
"""

import asyncio

import pytest

from carechain.chain.header import Header, SealedHeader
from carechain.core.rejection import Rejected
from carechain.engine.session import CommittedBlock
from carechain.node import feed as feed_module
from carechain.node.feed import Feed, FellBehind
from carechain.node.refusals import NodeCode
from world import seeded


def block_at(height: int, size_bytes: int = 10) -> CommittedBlock:
    zero = bytes(32)
    header = Header(
        chain_id="c",
        height=height,
        time_s=height,
        previous=zero,
        tx_count=1,
        tx_root=zero,
        receipt_root=zero,
        app_hash=zero,
        producer=zero,
    )
    return CommittedBlock(
        sealed=SealedHeader(header, bytes(64)), txs=(seeded(height, size=size_bytes),), receipts=(), tx_ids=(None,)
    )


class Chain:
    """Blocks on a pretended disk, and how often it was read."""

    def __init__(self, height: int) -> None:
        self.blocks = [block_at(one) for one in range(1, height + 1)]
        self.reads = 0
        self.feed = Feed(read=self.read, height=height)

    def read(self, height: int) -> CommittedBlock:
        self.reads += 1
        return self.blocks[height - 1]

    def grow(self) -> None:
        self.blocks.append(block_at(len(self.blocks) + 1))
        self.feed.publish(self.blocks[-1])


def test_a_follower_catches_up_and_then_follows() -> None:
    async def main() -> None:
        chain = Chain(5)
        seen: dict[int, None] = {}

        async def follow() -> None:
            async with chain.feed.subscribe(3) as blocks:
                async for block in blocks:
                    seen[block.height] = None

        task = asyncio.create_task(follow())
        for _ in range(20):
            await asyncio.sleep(0)
        assert list(seen) == [3, 4, 5]
        chain.grow()
        chain.grow()
        chain.feed.end()
        await task
        assert list(seen) == [3, 4, 5, 6, 7]
        assert chain.reads == 3
        assert chain.feed.subscribers == 0

    asyncio.run(main())


def test_catching_up_has_no_limit_but_falling_behind_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "EVENT_STREAM_BACKLOG", 4)

    async def main() -> None:
        chain = Chain(50)
        blocks = chain.feed.subscribe(1)
        for height in range(1, 51):
            assert (await anext(blocks)).height == height
        waiting = asyncio.ensure_future(anext(blocks))
        await asyncio.sleep(0)
        for _ in range(3):
            chain.grow()
        assert (await waiting).height == 51
        for _ in range(4):
            chain.grow()
        with pytest.raises(FellBehind) as late:
            await anext(blocks)
        assert (late.value.height, late.value.code) == (52, NodeCode.FELL_BEHIND)
        assert chain.feed.subscribers == 0
        assert (await anext(chain.feed.subscribe(late.value.height))).height == 52

    asyncio.run(main())


def test_blocks_at_hand_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "FEED_RECENT_BYTES", 3000)
    chain = Chain(0)
    for _ in range(10):
        chain.grow()
    for height in range(1, 11):
        assert chain.feed.block(height).height == height
    assert chain.reads == 8


def test_followers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "EVENT_STREAM_SUBSCRIBERS", 2)
    chain = Chain(1)
    first = chain.feed.subscribe(1)
    chain.feed.subscribe(1)
    with pytest.raises(Rejected) as refused:
        chain.feed.subscribe(1)
    assert refused.value.code is NodeCode.TOO_MANY_STREAMS
    first.close()
    first.close()
    chain.feed.subscribe(0)


def test_one_party_cannot_take_all_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "EVENT_STREAMS_PER_PARTY", 2)
    chain = Chain(1)
    own = [chain.feed.subscribe(1, by=b"greedy") for _ in range(2)]
    with pytest.raises(Rejected) as refused:
        chain.feed.subscribe(1, by=b"greedy")
    assert refused.value.code is NodeCode.TOO_MANY_OWN_STREAMS
    chain.feed.subscribe(1, by=b"modest")
    own[0].close()
    chain.feed.subscribe(1, by=b"greedy")
