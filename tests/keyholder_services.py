"""Organisations that hold shares of the consortium key beside one that makes the blocks, in a thread of the test's own.

Goal: let a test use the command line against a quorum: one real node process, and other members' keyholders behind real
sockets. Method: each keyholder reads a replica that is computed from the producer's block log, block by block, takes
part in the ceremony with its own key over the producer's API, and serves shares as a node does. One may lie, one may
be down.
"""

import asyncio
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

from carechain.chain.genesis import Genesis, apply_genesis, genesis_hash
from carechain.chain.queries import View
from carechain.chain.replay import ReplayWindow
from carechain.chain.signatures import SignatureCache
from carechain.chain.transition import Block, Ledger, apply_block
from carechain.charts.store import Charts
from carechain.core import group
from carechain.engine.blocklog import BlockLog
from carechain.engine.sealed import read_header
from carechain.engine.session import LEDGER_FOLDER
from carechain.gatekeeper.audit import Audit
from carechain.gatekeeper.keyholder import Keyholder, _Judged, _Seat
from carechain.gatekeeper.listen import Listener
from carechain.gatekeeper.release import Gatekeeper
from carechain.gatekeeper.serve import app as gatekeeper_app
from carechain.gatekeeper.shares_door import shares_door
from carechain.node.ceremony import CeremonyRunner
from carechain.node.keyholder_store import KEYHOLDER_FILE, HolderSecret, KeyholderStore
from carechain.sdk.answers import Submitted
from carechain.sdk.client import Client
from carechain.sdk.shares import SignedShare
from carechain.state.node import EMPTY
from carechain.state.overlay import Overlay
from carechain.state.snapshot import Snapshot
from ceremony_network import identity_of
from world import Organisation, _InMemory, empty_state


class Replica:
    """The ledger as one more organisation computes it, from the blocks that the producer has on its disk."""

    def __init__(self, home: Path, genesis: Genesis, client: Client) -> None:
        self.chain_id = genesis.chain_id
        self._folder = home / LEDGER_FOLDER
        self._genesis = genesis
        self._client = client
        self._replay = ReplayWindow()
        self._signatures = SignatureCache()
        founding = empty_state()
        apply_genesis(founding, genesis)
        self._snapshot = Snapshot(_InMemory(), EMPTY).apply(founding.changes())
        self._height = 0
        self._time_s = genesis.time_s

    def view(self) -> View:
        log = BlockLog.open(self._folder, genesis=genesis_hash(self._genesis), read_only=True)
        try:
            for height in range(self._height + 1, log.height + 1):
                self._apply(height, log)
        finally:
            log.close()
        return View(snapshot=self._snapshot, height=self._height, time_s=self._time_s)

    def _apply(self, height: int, log: BlockLog) -> None:
        stored = log.read(height)
        time_s = read_header(height, stored).header.time_s
        overlay = Overlay(self._snapshot)
        ledger = Ledger(chain_id=self.chain_id, state=overlay, replay=self._replay, signatures=self._signatures)
        apply_block(ledger, Block(height=height, time_s=time_s, txs=tuple(stored.txs)))
        self._snapshot = self._snapshot.apply(overlay.changes())
        self._replay.commit(time_s)
        self._height, self._time_s = height, time_s

    async def submit(self, raw: bytes) -> Submitted:
        return await self._client.send(raw)

    async def reached(self, height: int) -> None:
        """Ceremonies are told to every member, so the stream says when there is something to do."""
        if self.view().height >= height:
            return
        async for message in self._client.events(height):
            if message["height"] >= height:
                return


class Liar(Keyholder):
    """A keyholder whose shares are made with another secret than its own, and signed all the same."""

    def _compute(self, seat: _Seat, requester: bytes, ticket_id: bytes, judged: Sequence[_Judged]) -> list[SignedShare]:
        false = HolderSecret(epoch=seat.epoch, index=seat.secret.index, scalar=group.hash_to_scalar("test/lie", b"x"))
        return super()._compute(_Seat(false, group.base_mul(false.scalar)), requester, ticket_id, judged)


class _Store(KeyholderStore):
    """Tells when a share is kept."""

    kept: threading.Semaphore

    def settle(self, ceremony: bytes, share: HolderSecret | None) -> None:
        super().settle(ceremony, share)
        if share is not None:
            self.kept.release()


class Services:
    """Made by :func:`services`."""

    def __init__(self, folder: Path, genesis: Genesis, *, producer: Path, api: str, liars: str) -> None:
        self.folder = folder
        self._genesis = genesis
        self._producer = producer
        self._api = api
        self._liars = liars
        self.doors: dict[bytes, str] = {}
        """Member → where its gatekeeper answers."""
        self.kept = threading.Semaphore(0)
        """Released once for every share that one of them keeps."""
        self.listeners: dict[bytes, Listener] = {}
        self.loop: asyncio.AbstractEventLoop

    def close_door(self, member: bytes) -> None:
        """The organisation answers no more."""
        asyncio.run_coroutine_threadsafe(self.listeners[member].stop(), self.loop).result()

    async def serve(self, member: Organisation, until: AsyncExitStack, stop: asyncio.Event) -> asyncio.Task[None]:
        """Everything one organisation does: its part in ceremonies, and its door. The task is the first of them."""
        folder = self.folder / member.label
        folder.mkdir()
        client = await until.enter_async_context(Client(self._api, member, genesis=self._genesis))
        ledger = Replica(self._producer, self._genesis, client)
        store = _Store.open(folder / KEYHOLDER_FILE, identity=identity_of(member), entropy=os.urandom)
        assert isinstance(store, _Store)
        store.kept = self.kept
        charts = until.enter_context(Charts.open(folder / "charts.sqlite"))
        audits = [until.enter_context(Audit.open(folder / f"{name}.sqlite")) for name in ("reads", "shares")]

        def clock() -> int:
            return int(time.time())

        kind = Liar if member.label in self._liars else Keyholder
        keyholder = kind(
            organisation=member.id,
            signing=member.signing,
            ledger=ledger,
            secrets=store,
            audit=audits[1],
            clock=clock,
            entropy=os.urandom,
        )
        door = Gatekeeper(
            organisation=member.id, ledger=ledger, charts=charts, audit=audits[0], clock=clock, entropy=os.urandom
        )
        app = gatekeeper_app(door, clock=clock, entropy=os.urandom, extensions=[shares_door(keyholder)])
        listener = Listener(app)
        await listener.start()
        until.push_async_callback(listener.stop)
        self.listeners[member.id] = listener
        self.doors[member.id] = listener.url
        runner = CeremonyRunner(ledger=ledger, key=member.signing, member=member.id, store=store, entropy=os.urandom)
        return asyncio.create_task(runner.run(stop))


@contextmanager
def services(
    folder: Path,
    genesis: Genesis,
    members: Sequence[Organisation],
    *,
    producer: Path,
    api: str,
    liars: str = "",
) -> Iterator[Services]:
    """Serve these organisations beside the producer's home until the end; whoever's label is in ``liars`` lies."""
    made = Services(folder, genesis, producer=producer, api=api, liars=liars)
    ready, failure = threading.Event(), []
    loop = made.loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        async with AsyncExitStack() as until:
            running = [await made.serve(one, until, stop) for one in members]
            ready.set()
            try:
                await asyncio.gather(*running)
            finally:
                stop.set()

    def run() -> None:
        try:
            loop.run_until_complete(serve())
        except BaseException as error:  # noqa: BLE001 - the test is told
            failure.append(error)
        finally:
            ready.set()
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    ready.wait()
    try:
        if failure:
            raise failure[0]
        yield made
    finally:
        if thread.is_alive():
            loop.call_soon_threadsafe(stop.set)
        thread.join()
        if failure:
            raise failure[0]
