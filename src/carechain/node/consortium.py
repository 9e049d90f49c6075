"""A node that agrees on blocks with others: CometBFT orders, this program executes, and neither outlives the other.

The way of a submission: queue → admission here → the engine's pool, which passes it on to every node → a block that
more than two thirds of the validators signed → executed here → durable → outcome. Waiting submissions are handed to the
engine again whenever it was started again, since its pool is in its memory; the ledger takes each at most once.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import structlog
from msgspec import Struct
from msgspec.structs import replace

from carechain.chain.genesis import Genesis
from carechain.chain.tx import AdmissionCode, parse
from carechain.contracts import validators
from carechain.contracts.membership import MemberRemoved
from carechain.contracts.validators import NodeRetired
from carechain.core.crypto import SEED_SIZE, SigningKey
from carechain.core.limits import BLOCK_TXS, HEARTBEAT_S, STALE_BLOCK_S
from carechain.core.rejection import Rejected
from carechain.engine.cometbft import config
from carechain.engine.cometbft.application import Application, Hooks
from carechain.engine.cometbft.config import (
    FOLDER,
    NODE_KEY,
    BadEngineKey,
    SyncFrom,
    Tuning,
    Wiring,
    make_keys,
)
from carechain.engine.cometbft.process import EngineProcess
from carechain.engine.cometbft.rpc import ALREADY_THERE, EngineRpc, EngineUnreachable
from carechain.engine.cometbft.server import serve
from carechain.engine.embedded import BlockProducer
from carechain.engine.session import LEDGER_FOLDER, Checkpoints, CommittedBlock, Session
from carechain.engine.snapshots import Rhythm, Snapshots
from carechain.node.base_check import confirm_base
from carechain.node.clock import Clock
from carechain.node.home import replace_file
from carechain.node.ledger import Engine, LedgerNode, NodeFailed
from carechain.state.log import make_folder
from carechain.state.snapshot import SnapshotGone

if TYPE_CHECKING:
    from carechain.chain.header import SealedHeader

BROADCAST_TXS: Final = 500
"""How many transactions are handed to the engine in one request."""
LOOK_S: Final = 2.0
"""How often the engine is asked for its peers, and submissions are looked through for those that have expired."""
STUCK_S: Final = 10.0
"""How long an engine may stand still while others go on, once the last block is old."""
STUCK_LONGEST_S: Final = 60.0
"""Each restart that did not help doubles the patience, up to this: what peers say of their height may be a lie."""
OFFER_AGAIN_LOOKS: Final = 10
"""After so many looks the engine is handed again what it should have had since the last time."""
CONFIRM_S: Final = 10.0
"""How often it is tried to compare the header that a snapshot began with."""
DIAL_S: Final = 5.0
"""How often peers that are named in the settings and not connected are dialled."""
EVICT_STEP_S: Final = 4.0
"""Nodes that must drop a peer restart their engines one after another, so that not all are away at once."""
EVICT_STEPS: Final = 5
DRAIN_S: Final = 5.0
"""How long a stopping node waits for blocks with what it was given; clients learn the rest by transaction id."""
ENTROPY_BYTES: Final = 64
_SOCKET_PATH_BYTES: Final = 100
"""Somewhat less than the 107 that Linux takes."""

_log = structlog.get_logger("carechain.node")


class Place(Struct, frozen=True, kw_only=True):
    """Where a node of a consortium stands: its engine's program, its addresses, its peers."""

    program: Path
    p2p: str
    peers: tuple[str, ...] = ()
    same_host: bool = False
    tuning: Tuning = Tuning()
    block_txs: int = BLOCK_TXS
    sync: SyncFrom | None = None
    rhythm: Rhythm = Rhythm()
    """When snapshots are made for nodes that join late."""
    rpc_tcp: str | None = None
    resume_validator: bool = False
    """Sign again with a key whose signing state was lost: the operator knows that nobody else signs with it."""
    environment: dict[str, str] | None = None
    """For the engine alone."""


class ConsortiumService(LedgerNode):
    """One organisation's node among several: :meth:`open`, ``await start()``, … ``await drain()``."""

    def __init__(
        self, *, session: Session, key: SigningKey, home: Path, place: Place, clock: Clock = time.time
    ) -> None:
        """Take over an open session whose keeper ``key`` belongs to."""
        sealer = BlockProducer.of(key)
        super().__init__(session=session, server=sealer.party, clock=clock)
        self._place = place
        self._folder = home / FOLDER
        self._sockets = _socket_folder(self._folder)
        self._wiring = Wiring(
            abci=self._sockets / "abci",
            rpc=self._sockets / "rpc",
            p2p=place.p2p,
            peers=place.peers,
            same_host=place.same_host,
            rpc_tcp=place.rpc_tcp,
        )
        self._named_peers = frozenset(peer.partition("@")[0].lower() for peer in place.peers)
        hooks = Hooks(
            committed=self._committed,
            refused=self._no_longer_admitted,
            failed=self._fail,
            knows_peer=lambda node: self._catching_up and node in self._named_peers,
            arrived=self._arrived,
        )
        self._snapshots = Snapshots(home / LEDGER_FOLDER, place.rhythm)
        self._application = Application(session, sealer, hooks, block_txs=place.block_txs, snapshots=self._snapshots)
        self._process = EngineProcess(
            place.program,
            self._folder,
            gave_up=self._fail,
            sockets=(self._wiring.rpc,),
            folder=self._sockets,
            environment=place.environment,
        )
        self._rpc = EngineRpc(self._wiring.rpc)
        self._server: asyncio.Server | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._ended = asyncio.Event()
        self._waiting: list[bytes] = []
        """Admitted here and not in the engine's pool yet."""
        self._pooled: dict[bytes, int] = {}
        """In the engine's pool, with the time at which they expire."""
        self._offered: frozenset[bytes] = frozenset()
        """What was in the engine's pool when that was last looked through."""
        self._wake = asyncio.Event()
        self._grown = asyncio.Event()
        self._peers: tuple[str, ...] = ()
        self._validators = self._count_validators()
        self._catching_up = True
        self._evict_after_s: float | None = None
        self._dial_after_s = 0.0
        self._stuck = (0, 0.0)
        """A height that the engine stands at while others are beyond it, and since when."""
        self._stuck_patience_s = STUCK_S
        self._drained = False
        self._unconfirmed: SealedHeader | None = session.sealed_base()
        """What a snapshot began with, until it was compared with what the validators signed."""
        self._sealed = session.sealed_head()
        self.metrics.gauge("peers", "Nodes that this one is connected to.", lambda: len(self._peers))
        self.metrics.gauge("validators", "Organisations that decide the order now.", lambda: self.engine.validators)
        self.metrics.gauge("engine_starts", "How often the consensus engine was started.", lambda: self._process.starts)
        self.metrics.gauge("stands_by", "1 while the validator signs nothing on purpose.", lambda: self.stands_by)
        self.metrics.gauge("catching_up", "1 while blocks are fetched from other nodes.", lambda: self._catching_up)

    @classmethod
    def open(
        cls,
        home: Path,
        genesis: Genesis,
        key: SigningKey,
        place: Place,
        *,
        checkpoints: Checkpoints | None = None,
        clock: Clock = time.time,
    ) -> Self:
        """Open or start the ledger in ``home/ledger`` as the copy of ``key``'s organisation.

        Raises what ``Session.open`` raises.
        """
        keeper = BlockProducer.of(key).party
        session = Session.open(home, genesis, keeper=keeper, checkpoints=checkpoints)
        return cls(session=session, key=key, home=home, place=place, clock=clock)

    # --- running ------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Write the engine's files, listen for it and start it. Raises ``BadEngineKey``, ``OSError``."""
        prepare(self._folder, os.urandom(ENTROPY_BYTES))
        for key in (NODE_KEY, config.VALIDATOR_KEY):
            config.read_key(self._folder / key)
        self._decide_standby()
        self._write_config()
        self._server = await serve(self._wiring.abci, self._application)
        self._process.start()
        parts = {
            "submission": self._hand_over(),
            "engine watch": self._look_after(),
            "snapshots": self._make_snapshots(),
            "snapshot check": self._confirm_snapshot(),
        }
        for name, run in parts.items():
            task = asyncio.create_task(run, name=f"carechain {name}")
            task.add_done_callback(self._note_end)
            self._tasks.append(task)

    def _decide_standby(self) -> None:
        """Follow without signing while nobody knows what the consensus key has signed."""
        mark = self._folder / config.STANDBY_MARK
        if mark.exists() and self._place.resume_validator:
            if not self._may_resume(mark):
                raise BadEngineKey(
                    "The validator cannot resume before this node has caught up: it would not know from which block on "
                    "to sign. Start it without --resume-validator first, and wait until it is ready."
                )
            replace_file(self._folder / config.VALIDATOR_STATE, config.signing_state(self._resumes_at()))
            (self._folder / config.STANDBY_CAUGHT_UP).unlink(missing_ok=True)
            mark.unlink()
        if mark.exists():
            config.make_standby(self._folder, os.urandom(SEED_SIZE), write=replace_file)
            self._wiring = replace(self._wiring, standby=True)
            _log.warning("validator_stands_by", height=self.height)

    def _may_resume(self, mark: Path) -> bool:
        """Whether the last block here is known to be the last there is.

        An engine that alone makes the blocks asks nobody: begun too early, it would make other blocks than the others
        have. Where it lost no more than its signing state, and there is nobody to catch up with, it has its own.
        """
        alone = self._validators == 1 and mark.read_bytes() == config.STATE_WAS_MISSING
        return bool(self.height) and (alone or (self._folder / config.STANDBY_CAUGHT_UP).exists())

    def _resumes_at(self) -> int:
        """From which block on to sign. Whatever was signed elsewhere is at most one ahead of the last known here.

        That one is left to the others, if they can make it: where every vote is needed there would be no more blocks.
        """
        others = self._validators - 1
        return self.height + (config.RESUME_BLOCKS if 3 * others > 2 * self._validators else 1)

    @property
    def stands_by(self) -> bool:
        """Whether this node signs nothing, although its organisation may have a seat."""
        return self._wiring.standby

    def _write_config(self) -> None:
        replace_file(self._folder / config.GENESIS, config.genesis_file(self.genesis))
        # As long as no block was executed on top of a snapshot, the engine may have to take it over once more.
        sync = self._place.sync if self._session.may_begin_at else None
        replace_file(self._folder / config.CONFIG, config.config_file(self._wiring, self._place.tuning, sync))

    async def finish(self) -> None:
        """Take nothing new, wait a moment for the outcome of what was taken, end the feed."""
        if not self._draining:
            self._draining = True
            with suppress(TimeoutError):
                async with asyncio.timeout(DRAIN_S):
                    while len(self._submissions) and self._failure is None:
                        self._wake.clear()
                        await self._wake.wait()
            # A network without a quorum makes no block, and nobody may be kept waiting for one.
            self._submissions.fail(
                NodeFailed("the node stopped before the outcome was known: ask for the transaction by its id")
            )
        self._feed.end()

    async def drain(self) -> None:
        """Finish, end the engine, write a checkpoint and close. May be repeated."""
        await self.finish()
        if self._drained:
            return
        self._drained = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._process.stop()
        await self._rpc.close()
        if self._server is not None:
            self._server.close()
        self._ended.set()
        self._application.close()
        self._close_session()
        for one in (self._wiring.abci, self._wiring.rpc):
            one.unlink(missing_ok=True)
        if self._sockets != self._folder:
            self._sockets.rmdir()

    async def stopped(self) -> None:
        """Wait until this node executes no more blocks; raises :class:`NodeFailed` when nobody asked for that."""
        await self._ended.wait()
        self._require_working()

    @property
    def is_live(self) -> bool:
        """Whether submissions are taken."""
        return self._failure is None and not self._draining and self._process.starts > 0

    @property
    def engine(self) -> Engine:
        """CometBFT, and how many others take part."""
        return Engine(name="cometbft", peers=len(self._peers), validators=self._validators)

    def _count_validators(self) -> int:
        return len(validators.active(self._session.ledger().contracts.validators, self.height))

    @property
    def peers(self) -> tuple[str, ...]:
        """The engine's ids of the nodes it is connected to."""
        return self._peers

    @property
    def pid(self) -> int | None:
        """The engine's process, while there is one."""
        return self._process.pid

    @property
    def rpc(self) -> EngineRpc:
        """The engine's own interface."""
        return self._rpc

    def why_unready(self) -> str:
        """Why this node should be given no work now, and what to look at; empty when it may be."""
        age_s = int(self._clock()) - self.time_s
        if not self.is_live:
            return "It takes part no more: it is stopping, or has failed, and then the log says why."
        if self._process.pid is None:
            # Anybody may ask, and what the engine said last may name other members' addresses.
            return "The consensus engine is not running and is being started again. Its log says why."
        if self._catching_up and age_s > STALE_BLOCK_S:
            return "It is fetching blocks from other nodes. Wait until it has caught up."
        if age_s > STALE_BLOCK_S and not self._session.ledger().contracts.membership.is_member(self.server):
            return "This organisation is no member of the network, and other nodes let in only those of members."
        if age_s > STALE_BLOCK_S:
            return (
                f"The network makes no blocks. This node sees {len(self._peers)} others; more than two thirds of the "
                f"{self.engine.validators} validators must be there. Nothing is lost: it goes on when they are back."
            )
        if age_s < -STALE_BLOCK_S:
            return "The last block's time is ahead of this machine's clock. Look at this machine's clock."
        return ""

    def _fail(self, error: BaseException) -> None:
        """As for every node; whoever runs this one is told."""
        super()._fail(error)
        self._ended.set()
        self._wake.set()

    def _note_end(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    # --- submitting ---------------------------------------------------------------------------------------

    def _take(self, raws: Sequence[bytes]) -> None:
        self._waiting += [raw for raw in raws if self._admitted(raw)]
        self._wake.set()

    async def _hand_over(self) -> None:
        """Hand what waits to the engine's pool, as long as that has room."""
        while True:
            while not self._waiting or len(self._pooled) >= self._place.tuning.mempool_txs:
                self._wake.clear()
                await self._wake.wait()
            taken = self._waiting[:BROADCAST_TXS]
            del self._waiting[:BROADCAST_TXS]
            # What got on the ledger by another node meanwhile would keep its place here until it expires.
            batch = [raw for raw in taken if self._submissions.waits(raw)]
            if not batch:
                continue
            for raw in batch:
                self._pooled[raw] = parse(raw).body.valid_until_s
            try:
                reasons = await self._rpc.broadcast(batch)
            except EngineUnreachable:
                reasons = ["unreachable"] * len(batch)
            again = [
                raw
                for raw, reason in zip(batch, reasons, strict=True)
                if reason is not None and ALREADY_THERE not in reason and self._pooled.pop(raw, None) is not None
            ]
            for raw in batch:
                if not self._submissions.waits(raw):
                    self._pooled.pop(raw, None)
            if again:
                self._waiting[:0] = again
                # The pool is full or the engine away: a block, or the next look, says when to try again.
                self._wake.clear()
                await self._wake.wait()

    def _no_longer_admitted(self, raw: bytes, refused: Rejected) -> None:
        """The engine asked again about a transaction and has dropped it: its outcome is that it is not admitted."""
        if self._pooled.pop(raw, None) is not None:
            # One that was just committed is settled by its block first, and then waits no more.
            asyncio.get_running_loop().call_soon(self._refuse_if_waiting, raw, refused)

    def _refuse_if_waiting(self, raw: bytes, refused: Rejected) -> None:
        if self._submissions.waits(raw):
            self._refuse(raw, refused)

    def _committed(self, block: CommittedBlock) -> None:
        """A block is durable. Everyone is told once the engine has its answer."""
        self._sealed = block.sealed
        self.metrics.block(block.receipts, self._application.block_seconds)
        for raw in block.txs:
            self._pooled.pop(raw, None)
        asyncio.get_running_loop().call_soon(self._announce, block)

    def _announce(self, block: CommittedBlock) -> None:
        if self._failure is not None:
            return
        self._validators = self._count_validators()
        self._publish(block)
        for raw in block.txs:
            # Handed over in between: the engine has it in its memory, though no longer in its pool.
            self._pooled.pop(raw, None)
        self._wake.set()
        self._grown.set()
        left = (MemberRemoved, NodeRetired)
        if any(isinstance(event, left) for receipt in block.receipts for event in receipt.events):
            self._plan_eviction()

    def _arrived(self) -> None:
        """The ledger has begun with a snapshot of other nodes: what came before is nowhere on this node."""
        self._sealed = self._session.sealed_head()
        self._feed.begin_at(self.height)
        self._unconfirmed = self._sealed
        self._validators = self._count_validators()
        _log.info("began_with_snapshot", height=self.height)

    async def _make_snapshots(self) -> None:
        """Go on with a snapshot that is being made, a slice at a time, so that everything else has its turn."""
        while True:
            self._grown.clear()
            await self._grown.wait()
            try:
                while self._snapshots.advance():  # noqa: ASYNC110 - work in turns; nothing is waited for
                    await asyncio.sleep(0)
            except (OSError, SnapshotGone) as error:
                _log.error("snapshot_not_made", height=self.height, exc_info=error)

    # --- looking after the engine -------------------------------------------------------------------------

    async def _look_after(self) -> None:
        """Every few seconds: who is connected, is it catching up, what has expired, who must go."""
        starts = self._process.starts
        for look in count(1):
            await asyncio.sleep(LOOK_S)
            self._drop_expired()
            if look % OFFER_AGAIN_LOOKS == 0:
                self._offer_again()
            if self._process.starts != starts:
                # The pool was in the memory of the engine that is gone.
                starts = self._process.starts
                self._waiting[:0] = self._pooled
                self._pooled.clear()
            with suppress(EngineUnreachable):
                self._peers = tuple(await self._rpc.peers())
                status = await self._rpc.call("status")
                self._note_progress(catching_up=bool(status["sync_info"]["catching_up"]))
                self._notice_strangers()
                await self._dial_missing()
                await self._restart_if_stuck()
            self._process.trim_log()
            self._evict_if_due()
            self._wake.set()

    async def _confirm_snapshot(self) -> None:
        """Apart from the looks: servers that do not answer must not keep those waiting."""
        while (sync := self._place.sync) is not None:
            begun = self._unconfirmed
            if begun is not None and await confirm_base(begun.header, self._rpc, sync.servers):
                _log.info("snapshot_confirmed", height=begun.header.height)
                self._unconfirmed = None
            await asyncio.sleep(CONFIRM_S)

    @property
    def snapshots(self) -> Snapshots:
        """What this node keeps for those that join late."""
        return self._snapshots

    async def _dial_missing(self) -> None:
        """Dial the named peers that are away: the engine itself tries ever more rarely, and gives up after a day."""
        now_s = asyncio.get_running_loop().time()
        if self._place.rpc_tcp is not None or now_s < self._dial_after_s:
            return
        self._dial_after_s = now_s + DIAL_S
        ids = {peer: peer.partition("@")[0].lower() for peer in self._place.peers}
        away = [peer for peer, node in ids.items() if node not in self._peers and self._application.admits_peer(node)]
        if away:
            await self._rpc.call("dial_peers", peers=away)

    async def _restart_if_stuck(self) -> None:
        """An engine whose consensus has failed, over a full disk for example, stays up and takes part no more.

        It shows by others that work at a later height, or where nobody else makes blocks, by none being made.
        """
        now_s = asyncio.get_running_loop().time()
        if self._catching_up or int(self._clock()) - self.time_s <= 3 * HEARTBEAT_S:
            self._stuck = (0, now_s)
            self._stuck_patience_s = STUCK_S
            return
        state = await self._rpc.call("dump_consensus_state")
        own = int(state["round_state"]["height"])
        others = [int(peer["peer_state"]["round_state"]["height"]) for peer in state["peers"] or ()]
        contracts = self._session.ledger().contracts
        alone = self.engine.validators == 1 and contracts.validators.is_seated(self.server)
        if self._stuck[0] != own or not (alone or max(others, default=0) > own):
            self._stuck = (own, now_s)
        elif now_s - self._stuck[1] > self._stuck_patience_s:
            _log.error("engine_stuck", height=self.height)
            self._stuck = (0, now_s)
            self._stuck_patience_s = min(2 * self._stuck_patience_s, STUCK_LONGEST_S)
            self._process.restart()

    def _note_progress(self, *, catching_up: bool) -> None:
        """Once everything is here, the ledger alone says who may connect, and not whom the operator named."""
        if self._catching_up and not catching_up:
            self._plan_eviction()
            if self.stands_by:
                replace_file(self._folder / config.STANDBY_CAUGHT_UP, b"")
        self._catching_up = catching_up

    def _drop_expired(self) -> None:
        """What can get into no block any more has its outcome: by block time, which alone decides."""
        for raw in [raw for raw, until_s in self._pooled.items() if until_s <= self.time_s]:
            del self._pooled[raw]
            self._refuse_if_waiting(raw, Rejected(AdmissionCode.EXPIRED))

    def _offer_again(self) -> None:
        """Hand over again what has been in the engine's pool for long.

        The engine takes a transaction before it asks about it, and drops it without a word where its pool has become
        full meanwhile. What it still has it does not take twice.
        """
        overdue = [raw for raw in self._pooled if raw in self._offered]
        for raw in overdue:
            del self._pooled[raw]
        self._waiting[:0] = overdue
        self._offered = frozenset(self._pooled)

    def _notice_strangers(self) -> None:
        """A connection that was made just before the block that forbids it may show only later."""
        if self._evict_after_s is None and not all(map(self._application.admits_peer, self._peers)):
            self._plan_eviction()

    def _plan_eviction(self) -> None:
        """A node may be connected that is let in no more: the engine looks only when a peer connects."""
        contracts = self._session.ledger().contracts
        order = [organisation for organisation, _ in contracts.membership.live_members()]
        rank = order.index(self.server) if self.server in order else 0
        self._evict_after_s = asyncio.get_running_loop().time() + (rank % EVICT_STEPS) * EVICT_STEP_S

    def _evict_if_due(self) -> None:
        if self._evict_after_s is None or asyncio.get_running_loop().time() < self._evict_after_s:
            return
        self._evict_after_s = None
        if any(not self._application.admits_peer(peer) for peer in self._peers):
            _log.warning("engine_restarts_without_former_member", height=self.height)
            self._process.restart()


def _socket_folder(folder: Path) -> Path:
    """Where the two sockets go: the engine's own folder, or where its path is too long for a socket's, a new one."""
    if len(os.fsencode(folder / "abci")) <= _SOCKET_PATH_BYTES:
        return folder
    return Path(tempfile.mkdtemp(prefix="carechain-"))


def prepare(folder: Path, entropy: bytes, write: Callable[[Path, bytes], None] = replace_file) -> None:
    """Make the engine's folder and keys, where there are none: 64 random bytes make both keys."""
    for one in (folder, folder / NODE_KEY.parent, folder / "data"):
        make_folder(one)
    make_keys(folder, entropy, write=write)
