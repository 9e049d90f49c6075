"""A node among several and its submissions: each has one outcome, the true one, whatever engine and pool do meanwhile.

Goal: nothing is called refused that gets on the ledger, nothing waits for ever, nothing that has its outcome takes a
place in the engine's pool, and what is read between a block's commit and its announcement fits together. Method: the
real service with its application driven by frames as the engine sends them; in the place of the engine's RPC stands a
pool that the test looks into.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from abci_wire import Channels, init_chain
from carechain.chain.receipts import OK
from carechain.chain.tx import AdmissionCode
from carechain.contracts.validators import RetireNode, address_of
from carechain.core.rejection import Rejected
from carechain.engine.cometbft.config import (
    FOLDER,
    STANDBY_MARK,
    STATE_WAS_MISSING,
    VALIDATOR_STATE,
    BadEngineKey,
    Tuning,
)
from carechain.engine.cometbft.rpc import ALREADY_THERE, EngineUnreachable
from carechain.node import consortium
from carechain.node.consortium import ConsortiumService, Place, prepare
from carechain.node.ledger import NodeFailed
from carechain.sdk.answers import Submitted
from ledgers import Life
from world import anchor_of, fresh, seeded


class Pool:
    """The engine as far as its RPC goes: it keeps what it is handed, and knows what it was handed before."""

    def __init__(self) -> None:
        self.cache: set[bytes] = set()
        self.batches: list[list[bytes]] = []
        self.peers_now: list[str] = []
        self.on_broadcast: Callable[[Sequence[bytes]], None] = lambda _: None

    async def broadcast(self, raws: Sequence[bytes]) -> list[str | None]:
        self.batches.append(list(raws))
        known = [f"internal: {ALREADY_THERE}" if raw in self.cache else None for raw in raws]
        self.cache.update(raws)
        self.on_broadcast(raws)
        return known

    async def peers(self) -> list[str]:
        return self.peers_now

    async def call(self, method: str, **_: Any) -> Any:
        if method == "status":
            return {"sync_info": {"catching_up": False}}
        raise EngineUnreachable(method)

    async def close(self) -> None:
        """Nothing is open."""


class Node:
    """A service without its engine; the test is the engine."""

    def __init__(self, home: Path, *, mempool_txs: int = 1_000, seats: str = "abcd") -> None:
        self.life = Life()
        self.life.world = self.world = fresh(validators=seats)
        place = Place(program=Path("none"), p2p="127.0.0.1:0", tuning=Tuning(mempool_txs=mempool_txs))
        self.service = ConsortiumService.open(
            home, self.life.genesis, self.world.a.signing, place, clock=lambda: float(self.life.time_s)
        )
        self.pool = Pool()
        self.service._rpc = self.pool
        self.service._process.starts = 1
        self.call = Channels(self.service._application).call
        self.call("info")
        self.call("init_chain", **init_chain(self.life.genesis))

    def finalize(self, *txs: bytes) -> None:
        """The engine has decided a block."""
        self.life.time_s += 1
        self.call(
            "finalize_block",
            txs=list(txs),
            height=self.service.height + 1,
            time={"seconds": self.life.time_s},
            proposer_address=address_of(self.world.b.consensus_key().public_key),
        )

    def block(self, *txs: bytes) -> None:
        """A block from beginning to end."""
        self.finalize(*txs)
        self.call("commit")

    def anchor(self, label: str, *, valid_s: int = 300) -> bytes:
        return self.life.sign(anchor_of(self.world.steve, label), by=self.world.steve, valid_s=valid_s)


@asynccontextmanager
async def node(home: Path, **settings: Any) -> AsyncIterator[Node]:
    """A node whose submissions are handed over and looked after."""
    one = Node(home, **settings)
    service = one.service
    tasks = [asyncio.create_task(part) for part in (service._hand_over(), service._look_after())]
    for task in tasks:
        task.add_done_callback(service._note_end)
    one.block(*one.life.founding())
    await settled()
    try:
        yield one
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        service._application.close()
        service._close_session()


async def settled() -> None:
    """Everything that could go on by now has done so."""
    for _ in range(50):
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consortium, "LOOK_S", 0.0)
    monkeypatch.setattr(consortium, "DRAIN_S", 0.01)
    monkeypatch.setattr(consortium, "OFFER_AGAIN_LOOKS", 1_000_000)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


# --- the outcome is the true one ------------------------------------------------------------------------


def test_what_stands_in_a_block_that_is_being_committed_is_not_called_replayed(tmp_path: Path) -> None:
    """A client that sent it elsewhere as well must not be told that it is refused."""

    async def scenario() -> None:
        async with node(tmp_path) as one:
            raw = one.anchor("one")
            one.finalize(raw)
            outcome = asyncio.ensure_future(one.service.submit(raw))
            await settled()
            one.call("commit")
            assert (await outcome).receipt.code == OK

    run(scenario())


def test_the_pool_asking_in_the_middle_of_a_block_refuses_nothing_in_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with node(tmp_path) as one:
            raw = one.anchor("one")
            outcome = asyncio.ensure_future(one.service.submit(raw))
            await settled()
            one.finalize(raw)
            assert one.call("check_tx", tx=raw).code == 0
            await settled()
            one.call("commit")
            assert (await outcome).receipt.code == OK
            assert one.call("check_tx", tx=raw).code == AdmissionCode.REPLAYED

    run(scenario())


def test_what_a_block_after_another_attempt_has_is_still_refused(tmp_path: Path) -> None:
    """A block that was executed and given up leaves nothing behind, and the one that counts does."""

    async def scenario() -> None:
        async with node(tmp_path) as one:
            first, second = one.anchor("one"), one.anchor("two")
            one.finalize(first)
            one.block(second)
            assert one.call("check_tx", tx=first).code == 0
            assert one.call("check_tx", tx=second).code == AdmissionCode.REPLAYED

    run(scenario())


def test_a_node_that_stops_leaves_nobody_waiting(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with node(tmp_path) as one:
            outcome = asyncio.ensure_future(one.service.submit(one.anchor("one")))
            await settled()
            await one.service.finish()
            async with asyncio.timeout(5):
                with pytest.raises(NodeFailed, match="by its id"):
                    await outcome

    run(scenario())


def test_what_expired_in_the_pool_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with node(tmp_path) as one:
            outcome = asyncio.ensure_future(one.service.submit(one.anchor("one", valid_s=2)))
            await settled()
            for _ in range(3):
                one.block()
            await settled()
            with pytest.raises(Rejected) as refused:
                await outcome
            assert refused.value.code is AdmissionCode.EXPIRED

    run(scenario())


# --- the pool -------------------------------------------------------------------------------------------


def test_what_got_on_the_ledger_by_another_node_takes_no_place_in_the_pool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many submissions wait, others order them meanwhile: the rest must not wait for their expiry."""
    monkeypatch.setattr(consortium, "BROADCAST_TXS", 2)

    async def scenario() -> None:
        async with node(tmp_path, mempool_txs=2) as one:
            raws = [one.anchor(f"record {number}") for number in range(8)]
            group = one.service.enqueue(raws)
            one.block(*raws[:6])
            # The engine heard of them from its peers, and remembers them.
            one.pool.cache.update(raws[:6])
            await settled()
            assert one.pool.batches == [raws[:2], raws[6:]]
            one.block(*raws[6:])
            await group.done
            assert all(isinstance(each, Submitted) for each in group.outcomes)

    run(scenario())


def test_what_is_settled_while_it_is_handed_over_leaves_the_pool(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with node(tmp_path) as one:
            raw = one.anchor("one")
            outcome = asyncio.ensure_future(one.service.submit(raw))
            one.pool.cache.add(raw)
            one.pool.on_broadcast = lambda raws: one.block(*raws)
            assert (await outcome).receipt.code == OK
            await settled()
            assert not one.service._pooled

    run(scenario())


def test_what_the_pool_dropped_without_a_word_is_handed_over_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine answers before it has asked, and drops what passes when its pool has become full meanwhile."""
    monkeypatch.setattr(consortium, "OFFER_AGAIN_LOOKS", 100)

    async def scenario() -> None:
        async with node(tmp_path) as one:
            raw = one.anchor("one")
            outcome = asyncio.ensure_future(one.service.submit(raw))
            async with asyncio.timeout(5):
                while not one.pool.batches:  # noqa: ASYNC110 - as below
                    await asyncio.sleep(0)
            one.pool.cache.clear()
            async with asyncio.timeout(5):
                while len(one.pool.batches) == 1:  # noqa: ASYNC110 - the node's own looks are waited for
                    await asyncio.sleep(0)
            assert one.pool.batches[:2] == [[raw], [raw]]
            one.block(raw)
            assert (await outcome).receipt.code == OK

    run(scenario())


# --- between commit and announcement --------------------------------------------------------------------


def test_proofs_and_blocks_fit_together_right_after_a_commit(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with node(tmp_path) as one:
            one.block(one.anchor("one"))
            service = one.service
            sealed, _ = service.prove([b"\x01\x00"])
            assert sealed.header.height == service.height
            assert sealed.header.app_hash == service.app_hash
            assert service.block(service.height).height == service.height

    run(scenario())


# --- a validator that stands by -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seats", "mark", "caught_up", "ahead"),
    [
        ("abcd", b"{}", True, 2),
        ("abc", b"{}", True, 1),
        ("a", b"{}", True, 1),
        ("a", STATE_WAS_MISSING, False, 1),
        ("abcd", STATE_WAS_MISSING, False, 0),
        ("a", b"{}", False, 0),
    ],
    ids=["of four", "of three", "a hub", "a hub with its blocks", "of four too early", "a restored hub too early"],
)
def test_a_validator_resumes_only_with_all_blocks_and_where_it_must(
    tmp_path: Path, seats: str, mark: bytes, ahead: int, *, caught_up: bool
) -> None:
    """``ahead``: how far above the last block it signs again; 0: not at all. A hub too early would part the ledger."""

    async def scenario() -> None:
        async with node(tmp_path, seats=seats) as one:
            service = one.service
            folder = tmp_path / FOLDER
            prepare(folder, seeded("keys", size=64))
            (folder / STANDBY_MARK).write_bytes(mark)
            service._decide_standby()
            assert service.stands_by
            if caught_up:
                service._note_progress(catching_up=True)
                service._note_progress(catching_up=False)
            service._place = replace(service._place, resume_validator=True)
            if not ahead:
                with pytest.raises(BadEngineKey, match="caught up"):
                    service._decide_standby()
                return
            service._decide_standby()
            assert json.loads((folder / VALIDATOR_STATE).read_bytes())["height"] == str(service.height + ahead)
            assert {one.name for one in folder.iterdir()} == {"config", "data"}

    run(scenario())


# --- peers ----------------------------------------------------------------------------------------------


def test_a_node_that_may_not_connect_is_put_out_whenever_it_is_seen(tmp_path: Path) -> None:
    """Not only right after the block that says so: its connection may have been made just before, and seen after."""

    async def scenario() -> None:
        async with node(tmp_path) as one:
            restarts: list[int] = []
            one.service._process.restart = lambda: restarts.append(one.service.height)
            one.block(one.life.sign(RetireNode(node_id=one.world.b.node_id), by=one.world.b))
            await settled()
            assert restarts == []
            one.pool.peers_now = [one.world.c.node_id.hex(), one.world.b.node_id.hex()]
            async with asyncio.timeout(30):
                while not restarts:  # noqa: ASYNC110 - the node's own looks are waited for
                    await asyncio.sleep(0.01)

    run(scenario())
