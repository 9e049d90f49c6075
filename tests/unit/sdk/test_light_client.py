"""Goal: the light client takes the best way, asks all it knows, waits for what must come, and is not held up by liars.

Method: chains in memory served by sources that count what they are asked and may lie, lag or be away; one row per way.
"""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from carechain.core.limits import LIGHT_FRESH_S, LIGHT_KNOWN, TRUSTING_PERIOD_S
from carechain.node.refusals import NodeCode
from carechain.sdk.answers import QueryAnswer
from carechain.sdk.failures import Refused, Unreachable
from carechain.sdk.light.client import LightClient, Source, TrustFile
from carechain.sdk.light.header import LightBlock, encode_block, header_hash
from carechain.sdk.light.verify import Forked, Trusted, TrustExpired, advance, genesis_trust
from carechain.sdk.proofs import NotProven
from light_chain import BLOCK_S, CHAIN_ID, START_S, Weights, block, chain, key

FOUR: Weights = {"a": 1, "b": 1, "c": 1, "d": 1}
OTHERS: Weights = {"x": 1, "y": 1, "z": 1}
LENGTH = 20
BLOCKS = chain([FOUR] * LENGTH)
GENESIS = genesis_trust(chain_id=CHAIN_ID, time_s=START_S, keys=[key(name).public_key for name in FOUR])
NOW_S = START_S + BLOCK_S * LENGTH
STATE = b"s" * 32


class Shown:
    """A node's blocks; ``asked`` are the heights that it was asked for, ``lie`` changes what it shows."""

    def __init__(
        self, name: str = "one", blocks: dict[int, LightBlock] | None = None, *, lie: Callable[[bytes], bytes] = bytes
    ) -> None:
        self.blocks = BLOCKS if blocks is None else blocks
        self.asked: list[int] = []
        self.failure: Exception | None = None
        self.lie = lie
        self.source = Source(name, self.fetch)

    async def fetch(self, height: int) -> bytes:
        self.asked.append(height)
        if self.failure is not None:
            raise self.failure
        found = self.blocks.get(height or max(self.blocks))
        if found is None:
            code = NodeCode.BLOCK_UNKNOWN
            raise Refused(code=int(code), label=code.label, reason=code.reason)
        return self.lie(encode_block(found))


def client_of(*shown: Shown, trusted: Trusted = GENESIS, now_s: float = NOW_S, **settings: Any) -> LightClient:
    sources = [one.source for one in shown]
    return LightClient(trusted, lambda: sources, clock=lambda: now_s, **{"settle_s": 0.0, **settings})


def lying(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def idle(length: int, *, since: int) -> dict[int, LightBlock]:
    """Blocks whose state is the same from ``since`` on."""
    blocks: dict[int, LightBlock] = {}
    below: LightBlock | None = None
    for height in range(1, length + 1):
        changed = {"app_hash": STATE} if height > since else {}
        below = blocks[height] = block(FOUR, below=below, **changed)
    return blocks


def answer(height: int, app_hash: bytes = STATE) -> QueryAnswer:
    return QueryAnswer(height=height, time_s=START_S + BLOCK_S * height, app_hash=app_hash, rows=())


def test_the_newest_block_is_believed_in_one_step_and_kept() -> None:
    async def main() -> None:
        shown, kept = Shown(), []
        client = client_of(shown, keep=kept.append)
        header = await client.newest()
        assert header.block == BLOCKS[LENGTH]
        assert shown.asked == [0, LENGTH]
        assert (client.signatures, kept) == (4, [header])
        assert await client.at(LENGTH) is header
        assert client.trusted is header

    asyncio.run(main())


def test_below_a_known_block_its_own_link_is_followed() -> None:
    async def main() -> None:
        shown = Shown()
        client = client_of(shown)
        settled = await client.settle(LENGTH - 1)
        assert settled.above.block == BLOCKS[LENGTH]
        assert shown.asked == [LENGTH, LENGTH - 1]
        # Far below, the genesis leads there sooner.
        assert (await client.at(3)).block == BLOCKS[3]
        assert shown.asked[2:] == [3]

    asyncio.run(main())


def test_from_a_trusted_header_the_genesis_still_leads_to_old_blocks() -> None:
    trusted = advance(GENESIS, BLOCKS[LENGTH], now_s=NOW_S)

    async def main() -> None:
        shown = Shown()
        assert (await client_of(shown, trusted=trusted, genesis=GENESIS).at(2)).block == BLOCKS[2]
        assert shown.asked == [2]
        walked = Shown()
        assert (await client_of(walked, trusted=trusted).at(LENGTH - 3)).block == BLOCKS[LENGTH - 3]
        assert walked.asked == [LENGTH - 1, LENGTH - 2, LENGTH - 3]
        late = NOW_S + TRUSTING_PERIOD_S
        aged = Shown()
        old = client_of(aged, trusted=trusted, genesis=GENESIS, now_s=late)
        assert (await old.at(LENGTH - 1)).block == BLOCKS[LENGTH - 1]
        with pytest.raises(TrustExpired):
            await old.at(LENGTH + 1)
        assert aged.asked == [LENGTH - 1]

    asyncio.run(main())


@pytest.mark.parametrize("away", [Unreachable("away"), Refused(code=1, label="HTTP.502", reason="")])
def test_another_node_is_asked_when_one_lies_or_is_away(away: Exception) -> None:
    async def main() -> None:
        liar, gone, good = Shown("liar", lie=lying), Shown("gone"), Shown("good")
        gone.failure = away
        for order in ((liar, gone, good), (good, gone, liar)):
            assert (await client_of(*order).newest()).height == LENGTH
        with pytest.raises(NotProven):
            await client_of(gone, liar).newest()
        with pytest.raises(type(away)):
            await client_of(gone).newest()
        with pytest.raises(Unreachable):
            await client_of().newest()
        with pytest.raises(Unreachable):
            await client_of().at(1)

    asyncio.run(main())


def test_a_node_that_stays_behind_hides_nothing_and_one_that_boasts_proves_nothing() -> None:
    behind = Shown("behind", {height: BLOCKS[height] for height in range(1, 6)})
    forged = Shown("forged", chain([OTHERS] * (2 * LENGTH)))

    async def main() -> None:
        now_s = NOW_S + BLOCK_S * LENGTH
        for order in ((behind, Shown()), (Shown(), behind), (forged, Shown(), behind)):
            assert (await client_of(*order, now_s=now_s, fresh_s=1000).newest()).height == LENGTH
        with pytest.raises(NotProven):
            await client_of(forged, now_s=now_s, fresh_s=1000).newest()
        client = client_of(behind, trusted=advance(GENESIS, BLOCKS[LENGTH], now_s=NOW_S))
        with pytest.raises(NotProven, match="below 20"):
            await client.newest()

    asyncio.run(main())


def test_a_newest_block_that_is_old_is_one_behind_which_others_are_withheld() -> None:
    async def main() -> None:
        assert (await client_of(Shown(), now_s=NOW_S + LIGHT_FRESH_S).newest()).height == LENGTH
        with pytest.raises(NotProven, match="withheld"):
            await client_of(Shown(), now_s=NOW_S + LIGHT_FRESH_S + 1).newest()

    asyncio.run(main())


def forked(at: int) -> dict[int, LightBlock]:
    blocks = dict(BLOCKS)
    blocks[at] = block(FOUR, below=BLOCKS[at - 1], app_hash=b"f" * 32)
    return blocks


def test_two_signed_blocks_of_one_height_are_a_fork_whoever_shows_them_first() -> None:
    async def main() -> None:
        one, other = Shown("one"), Shown("other", forked(LENGTH))
        for order in ((one, other), (other, one)):
            kept: list[object] = []
            with pytest.raises(Forked) as found:
                await client_of(*order, keep=kept.append).newest()
            hashes = {header_hash(shown.header) for shown in (found.value.first, found.value.second)}
            assert hashes == {header_hash(shown.blocks[LENGTH].header) for shown in order}
            assert kept == []
        trusted = advance(GENESIS, BLOCKS[LENGTH], now_s=NOW_S)
        with pytest.raises(Forked):
            await client_of(other, trusted=trusted).newest()
        unsigned = Shown("unsigned", BLOCKS | {LENGTH: block(OTHERS, height=LENGTH, last_block_id=None)})
        with pytest.raises(NotProven, match="not the one"):
            await client_of(unsigned, trusted=trusted).newest()

    asyncio.run(main())


def test_a_witness_that_proves_nothing_is_none() -> None:
    async def main() -> None:
        gone = Shown("gone")
        gone.failure = Unreachable("away")
        behind = Shown("behind", {1: BLOCKS[1]})
        lazy = Shown("liar", lie=lying)
        forged = Shown("forged", chain([OTHERS] * LENGTH))
        assert (await client_of(Shown(), gone, behind, lazy, forged).at(LENGTH)).block == BLOCKS[LENGTH]

    asyncio.run(main())


# --- what a header is about -----------------------------------------------------------------------------


def test_a_state_that_the_block_began_with_needs_no_block_above() -> None:
    blocks = idle(LENGTH, since=LENGTH - 4)

    async def main() -> None:
        shown = Shown(blocks=blocks)
        found, settled = await client_of(shown).believe(answer(LENGTH))
        assert (found.height, found.time_s) == (LENGTH - 1, START_S + BLOCK_S * (LENGTH - 1))
        believed = settled.believe(found)
        assert (believed.height, believed.time_s, believed.app_hash) == (found.height, found.time_s, STATE)
        # Once the block above is known, the state is that of the very block.
        client = client_of(Shown(blocks=blocks))
        await client.newest()
        same, _ = await client.believe(answer(LENGTH - 1))
        assert same.height == LENGTH - 1

    asyncio.run(main())


def test_the_block_above_is_waited_for_where_the_state_is_new_or_must_be() -> None:
    until = {height: one for height, one in idle(LENGTH, since=2).items() if height < LENGTH}

    async def believe(wanted: QueryAnswer, at_least: int) -> None:
        shown = Shown(blocks=dict(until))

        async def late(height: int) -> bytes:
            if height == LENGTH and shown.asked.count(LENGTH):
                shown.blocks[LENGTH] = block(FOUR, below=until[LENGTH - 1], app_hash=wanted.app_hash)
            return await shown.fetch(height)

        client = LightClient(GENESIS, lambda: [Source("late", late)], clock=lambda: NOW_S)
        found, settled = await client.believe(wanted, at_least=at_least)
        assert (found.height, settled.block.height) == (LENGTH - 1, LENGTH - 1)
        assert settled.app_hash == wanted.app_hash

    asyncio.run(believe(answer(LENGTH - 1, b"new" * 8), 0))
    asyncio.run(believe(answer(LENGTH - 1), LENGTH - 1))


@pytest.mark.parametrize(
    ("asked", "at_least", "now_s", "match"),
    [
        (answer(0), 0, NOW_S, "earlier block"),
        (answer(LENGTH - 1), LENGTH, NOW_S, "earlier block"),
        (answer(LENGTH, b"other" * 6), 0, NOW_S, "no node shows block 21"),
        (answer(LENGTH + 5), 0, NOW_S, "no node shows block 25"),
        (answer(1 << 62), 0, NOW_S, "no node shows"),
        (answer(LENGTH - 1), 0, NOW_S + 2 * LIGHT_FRESH_S, "withheld"),
        (answer(3), 0, NOW_S, "withheld"),
    ],
)
def test_an_answer_about_another_block_is_found_out(
    asked: QueryAnswer, at_least: int, now_s: float, match: str
) -> None:
    async def main() -> None:
        with pytest.raises(NotProven, match=match):
            await client_of(Shown(blocks=idle(LENGTH, since=2)), now_s=now_s).believe(asked, at_least=at_least)

    asyncio.run(main())


def test_a_node_whose_engine_starts_again_is_waited_for() -> None:
    async def main() -> None:
        shown = Shown()
        shown.failure = Refused(code=1, label="NODE.ENGINE_AWAY", reason="", retry_after_s=0.01)

        async def fetch(height: int) -> bytes:
            if len(shown.asked) == 2:
                shown.failure = None
            return await shown.fetch(height)

        client = LightClient(GENESIS, lambda: [Source("one", fetch)], clock=lambda: NOW_S)
        assert (await client.settle(3)).block.block == BLOCKS[3]
        shown.failure = Refused(code=1, label="NODE.ENGINE_AWAY", reason="", retry_after_s=0.01)
        shown.asked.clear()
        with pytest.raises(Refused):
            await client_of(shown).settle(5)

    asyncio.run(main())


@pytest.mark.parametrize("shown", [b"", b"\xc1", b"\x80", b"\x93\x01\x02\x03"])
def test_what_should_show_a_transaction_and_does_not_proves_nothing(shown: bytes) -> None:
    with pytest.raises(NotProven):
        asyncio.run(client_of(Shown()).prove(shown, bytes(32)))


# --- where trust begins ---------------------------------------------------------------------------------


def test_a_hash_heard_elsewhere_is_a_start_and_the_only_one() -> None:
    async def main() -> None:
        kept: list[Any] = []
        client = client_of(Shown("liar", lie=lying), Shown(), keep=kept.append)
        pinned = await client.pin(7, header_hash(BLOCKS[7].header))
        assert (client.trusted, kept) == (pinned, [pinned])
        assert (await client.newest()).height == LENGTH
        for height, expected in ((7, bytes(32)), (8, header_hash(BLOCKS[7].header))):
            with pytest.raises(NotProven, match="hash is trusted"):
                await client_of(Shown()).pin(height, expected)

    asyncio.run(main())


def test_the_trust_file_goes_forward_only(tmp_path: Path) -> None:
    path = tmp_path / "light.json"
    headers = {height: advance(GENESIS, BLOCKS[height], now_s=NOW_S) for height in (3, 5)}
    assert TrustFile(path).read(CHAIN_ID) is None
    file = TrustFile(path)
    for height in (3, 5, 3):
        file.keep(headers[height])
    assert file.read(CHAIN_ID) == headers[5]
    again = TrustFile(path)
    again.read(CHAIN_ID)
    again.keep(headers[3])
    assert again.read(CHAIN_ID) == headers[5]
    assert [one.name for one in tmp_path.iterdir()] == ["light.json"]
    with pytest.raises(NotProven):
        again.read("another")
    path.write_bytes(b"x" * 10_000_000)
    with pytest.raises(NotProven, match="too large"):
        again.read(CHAIN_ID)


def test_no_more_headers_are_kept_at_hand_than_needed() -> None:
    async def main() -> None:
        blocks = chain([FOUR] * (LIGHT_KNOWN + 10))
        client = client_of(Shown(blocks=blocks), now_s=NOW_S + 1000)
        heights: Sequence[int] = range(1, len(blocks) + 1)
        for height in heights:
            await client.at(height)
        assert len(client._known) == LIGHT_KNOWN
        assert (await client.at(1)).block == blocks[1]
        assert client.trusted.height == len(blocks)

    asyncio.run(main())


def test_many_at_once_share_one_way() -> None:
    async def main() -> None:
        shown = Shown()
        client = client_of(shown)
        await asyncio.gather(*(client.at(LENGTH) for _ in range(20)))
        assert shown.asked == [LENGTH]

    asyncio.run(main())


def test_a_commit_for_other_bytes_of_the_same_height_is_no_block() -> None:
    other = replace(BLOCKS[LENGTH], header=replace(BLOCKS[LENGTH].header, app_hash=STATE))
    with pytest.raises(NotProven, match="another block"):
        asyncio.run(client_of(Shown(blocks=BLOCKS | {LENGTH: other})).newest())
