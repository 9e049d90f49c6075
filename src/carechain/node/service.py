"""One node's ledger as a service: it takes transactions in, makes blocks, and answers from the committed state.

The way of a submission: queue → form, signature and admission (signatures in a second process when there are
several) → ready → block → durable → outcome. Everything runs on one event loop and the session is only touched
from it; while block N executes here, the signatures of block N+1 are verified there.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Final, Self

import structlog

from carechain.chain.genesis import Genesis
from carechain.chain.header import SealedHeader
from carechain.chain.queries import Asker, View
from carechain.chain.receipts import code_named
from carechain.core.crypto import SigningKey
from carechain.core.limits import STALE_BLOCK_S, SUBMIT_QUEUE_TXS
from carechain.core.rejection import Rejected
from carechain.engine.embedded import BatchPolicy, BlockProducer, EmbeddedEngine
from carechain.engine.session import Checkpoints, CommittedBlock, Session
from carechain.engine.txindex import id_of
from carechain.node.clock import ACCEPT_GAP_DAYS, BlockClock, Clock, require_near, uptime_s
from carechain.node.culprit import NOBODYS_FAULT, find_culprit
from carechain.node.feed import Feed, Subscription
from carechain.node.metrics import Metrics
from carechain.node.refusals import NodeCode, Overloaded
from carechain.node.submissions import Group, Outcome, Submissions
from carechain.node.worker import Worker
from carechain.sdk.answers import ProvenEntry, Submitted

__all__ = ["NodeFailed", "NodeService", "Outcome", "ProvenEntry", "Submitted"]

INLINE_CHECKS: Final = 2
"""So few signatures are verified sooner here than sent to the worker and back."""
QUIET_S: Final = 60.0
"""After so long without a transaction the tree is written, so that a restart has nothing to execute."""
LOOK_AGAIN_S: Final = 1.0
"""How often a clock that jumped is looked at."""

_log = structlog.get_logger("carechain.node")


class NodeFailed(Exception):  # noqa: N818 - names what happened to the node
    """The node can make no more blocks. What became of a waiting transaction shows by its id after a restart."""


class NodeService:
    """Submit to, follow and read one ledger: :meth:`open`, ``await start()``, … ``await drain()``."""

    def __init__(
        self,
        *,
        session: Session,
        producer: BlockProducer,
        policy: BatchPolicy | None = None,
        verify_in_worker: bool = True,
        clock: Clock = time.time,
        passed: Clock = uptime_s,
        metrics: Metrics | None = None,
    ) -> None:
        """Take over an open session.

        ``clock`` is wall-clock time in Unix seconds, from which block time is made as long as ``passed``, which counts
        seconds and is never set, agrees with it.
        """
        self.metrics: Final = metrics or Metrics()
        self.server: Final = producer.party
        """The party this node acts as: what a client names when it opens a session."""
        self._session = session
        self._engine = EmbeddedEngine(session, producer)
        self._policy = policy or BatchPolicy()
        self._clock = clock
        self._block_clock = BlockClock(wall=clock, passed=passed)
        self._submissions = Submissions()
        self._worker = Worker(session, lambda: self._guarded(self._collect))
        self._verify_in_worker = verify_in_worker
        self._arrived: list[bytes] = []
        self._feed = Feed(read=session.block, height=session.head.height)
        self._sealed: SealedHeader | None = None
        self._view: View | None = None
        self._askers: dict[bytes, Asker] = {}
        self._wake = asyncio.Event()
        self._last_block_s = 0.0
        self._busy_s = 0.0
        # Opening may have executed what came after the last checkpoint.
        self._unwritten = True
        self._draining = False
        self._failure: BaseException | None = None
        self._running: asyncio.Task[None] | None = None
        self._add_gauges()

    @classmethod
    def open(
        cls,
        home: Path,
        genesis: Genesis,
        key: SigningKey,
        *,
        policy: BatchPolicy | None = None,
        checkpoints: Checkpoints | None = None,
        verify_in_worker: bool = True,
        clock: Clock = time.time,
        passed: Clock = uptime_s,
    ) -> Self:
        """Open or start the ledger in ``home/ledger`` with ``key`` as block producer.

        Raises what ``Session.open`` raises: the history is checked and caught up before this returns.
        """
        return cls(
            session=Session.open(home, genesis, checkpoints=checkpoints),
            producer=BlockProducer.of(key),
            policy=policy,
            verify_in_worker=verify_in_worker,
            clock=clock,
            passed=passed,
        )

    # --- running ------------------------------------------------------------------------------------------

    async def start(self, *, accept_gap_days: int = ACCEPT_GAP_DAYS) -> None:
        """Make a first block, so that block time is the present, then go on making blocks.

        Raises :class:`~carechain.node.clock.ClockAhead` when the clock is more than ``accept_gap_days`` ahead of the
        last block, and ``OSError``.
        """
        self._look_at_clock(accept_gap_days)
        if self._verify_in_worker:
            self._worker.start()
        self._produce()
        self._busy_s = self._last_block_s
        self._running = asyncio.create_task(self._make_blocks(), name="carechain blocks")
        self._running.add_done_callback(self._note_end)

    async def finish(self) -> None:
        """Take nothing new, finish what was taken, end the feed. Reading goes on until :meth:`drain`."""
        self._draining = True
        self._wake.set()
        if self._running is not None:
            await asyncio.wait({self._running})
        self._feed.end()

    async def drain(self) -> None:
        """Finish, write a checkpoint and close. May be repeated."""
        await self.finish()
        self._worker.close()
        if self._failure is None:
            self._session.close()
        else:
            # Nothing more is written: what was acknowledged is in the log.
            self._session.__exit__(type(self._failure), self._failure, None)

    async def stopped(self) -> None:
        """Wait until no more blocks are made; raises :class:`NodeFailed` when nobody asked for that."""
        if self._running is not None:
            await asyncio.wait({self._running})
        self._require_working()

    @property
    def is_live(self) -> bool:
        """Whether blocks are being made and submissions taken."""
        going = self._failure is None and not self._draining
        return going and self._running is not None and not self._running.done()

    @property
    def clock_jumped(self) -> bool:
        """Whether the wall clock jumped ahead, so that no block is made and nothing is taken in."""
        return self._block_clock.jumped(self.time_s)

    @property
    def clock(self) -> Clock:
        """The wall clock this node goes by."""
        return self._clock

    def _require_working(self) -> None:
        if self._failure is not None:
            raise NodeFailed("no block can be made any more") from self._failure

    def _note_end(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """Nothing durable can be promised any more: everyone who waits is told, and the node stops."""
        if self._failure is not None:
            return
        self._failure = error
        self._worker.unwatch()
        failed = NodeFailed("the node failed before the outcome was known: ask for the transaction by its id")
        failed.__cause__ = error
        self._submissions.fail(failed)
        self._feed.end()
        self._wake.set()

    def _guarded(self, step: Callable[[], None]) -> None:
        """A step that the loop calls: what it raises would end in the loop's own log, and those who wait would wait."""
        try:
            step()
        except Exception as error:  # noqa: BLE001 - whatever it is, the node cannot go on as if nothing were
            self._fail(error)

    # --- submitting ---------------------------------------------------------------------------------------

    async def submit(self, raw: bytes) -> Submitted:
        """Order one signed transaction; returns when it is durable, whatever its receipt says.

        Raises ``Rejected`` when it is not admitted, :class:`Overloaded` when nothing more may wait, and
        :class:`NodeFailed`. The same bytes sent again while they wait share one outcome.
        """
        outcome = (await self.submit_many((raw,)))[0]
        if isinstance(outcome, Rejected):
            raise outcome
        return outcome

    async def submit_many(self, raws: Sequence[bytes]) -> list[Outcome]:
        """Order many; returns their outcomes in order once all are known.

        Raises :class:`Overloaded` before taking any, ``Rejected`` for more than may ever wait, or :class:`NodeFailed`.
        """
        group = self.enqueue(raws)
        await group.done
        return [outcome for outcome in group.outcomes if outcome is not None]

    def enqueue(self, raws: Sequence[bytes]) -> Group:
        """Take transactions in without waiting: ``done`` of the group tells when all have their outcome."""
        self._require_working()
        if not self.is_live:
            raise Overloaded(NodeCode.STOPPING)
        if self.clock_jumped:
            raise Overloaded(NodeCode.CLOCK_JUMPED)
        if len(raws) > SUBMIT_QUEUE_TXS:
            raise Rejected(NodeCode.TOO_MANY_TRANSACTIONS)
        loop = asyncio.get_running_loop()
        group = Group(len(raws), loop.create_future())
        # A caller that is gone by the time the node fails has nobody to be told.
        group.done.add_done_callback(lambda done: done.cancelled() or done.exception())
        fresh = self._submissions.take_in(raws, group, loop.time())
        if fresh and not self._arrived:
            # What else arrives in this turn of the loop is verified together with it.
            loop.call_soon(self._guarded, self._admit_arrived)
        self._arrived += fresh
        return group

    def _admit_arrived(self) -> None:
        raws, self._arrived = self._arrived, []
        if self._failure is not None:
            return
        time_s = self._next_time_s()
        if len(raws) <= INLINE_CHECKS or not self._handed_over(raws, time_s):
            for raw in raws:
                self._admit(raw, time_s)
            self._wake.set()
        else:
            self._collect()

    def _handed_over(self, raws: Sequence[bytes], time_s: int) -> bool:
        """Whether the worker has them; where one of them trips the program up, they are looked at one by one."""
        try:
            return self._worker.submit(raws, time_s=time_s)
        except NOBODYS_FAULT:
            raise
        except Exception:  # noqa: BLE001 - looking at them one by one shows, and logs, which it was
            return False

    def _admit(self, raw: bytes, time_s: int) -> None:
        try:
            self._session.check(raw, time_s=time_s)
        except Rejected as refused:
            self._refuse(raw, refused)
        except NOBODYS_FAULT:
            raise
        except Exception as bug:  # noqa: BLE001 - an error over one transaction must not end the node for all
            self._set_aside(raw, bug)
        else:
            self._submissions.make_ready(raw)

    def _collect(self) -> None:
        """Take in the worker's verdicts, or those that were made here because the worker is gone."""
        if self._failure is not None:
            return
        for raws, verdicts in self._worker.collect():
            for raw, verdict in zip(raws, verdicts, strict=True):
                if isinstance(verdict, int):
                    self._refuse(raw, Rejected(verdict))
                else:
                    self._submissions.make_ready(raw)
        self._wake.set()

    def _set_aside(self, raw: bytes, bug: Exception) -> None:
        """Refuse a transaction that the program fails over, and name it to the operator."""
        tx_id = id_of(raw)
        _log.error("transaction_not_executable", tx_id=None if tx_id is None else tx_id.hex(), exc_info=bug)
        self._refuse(raw, Rejected(NodeCode.NOT_EXECUTABLE))

    def _refuse(self, raw: bytes, refused: Rejected) -> None:
        self.metrics.refused(int(refused.code))
        self._submissions.settle(raw, refused)

    # --- making blocks ------------------------------------------------------------------------------------

    async def _make_blocks(self) -> None:
        while True:
            await self._until_due()
            if self._failure is not None or (self._draining and not len(self._submissions)):
                return
            if self.clock_jumped and not self._draining:
                await self._until_clock_is_back()
                continue
            self._write_tree_if_quiet(self._produce())
            self._worker.tend()
            # Between two blocks everyone else on the loop has a turn.
            await asyncio.sleep(0)

    async def _until_due(self) -> None:
        """Wait until the policy wants a block. While draining, whatever is ready is due."""
        loop = asyncio.get_running_loop()
        while self._failure is None:
            self._wake.clear()
            ready = self._submissions.ready
            wait_s = self._policy.wait_s(
                count=len(ready),
                size_bytes=self._submissions.ready_bytes,
                first_arrival_s=ready[0].arrival_s if ready else 0.0,
                last_block_s=self._last_block_s,
                now_s=loop.time(),
            )
            if wait_s <= 0 or (self._draining and (ready or not len(self._submissions))):
                return
            await self._woken(wait_s)

    async def _woken(self, within_s: float) -> None:
        """Wait until something happened, but no longer than ``within_s``."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._wake.wait()

    def _look_at_clock(self, accept_gap_days: int) -> None:
        """At the start: a clock far ahead needs somebody's word, one behind makes the node unready."""
        wall_s, head = self._clock(), self._session.head
        # A chain without a block has nothing to lose: it can be founded again.
        if head.height:
            require_near(wall_s=wall_s, head_s=head.time_s, accept_gap_days=accept_gap_days)
        if head.time_s - wall_s > STALE_BLOCK_S:
            _log.warning("clock_behind_ledger", seconds=int(head.time_s - wall_s), height=head.height)

    async def _until_clock_is_back(self) -> None:
        """Make no block of a clock that jumped: a block from the future can never be taken back.

        What waits goes on waiting. While draining it gets its block, whose time is counted, not read.
        """
        _log.error("clock_jumped", seconds=int(self._block_clock.ahead_s), height=self.height)
        while self.clock_jumped and not self._draining and self._failure is None:
            self._wake.clear()
            await self._woken(LOOK_AGAIN_S)
        if not self.clock_jumped:
            _log.info("clock_back", height=self.height)

    def _next_time_s(self) -> int:
        return self._block_clock.time_s(self._session.head.time_s)

    def _produce(self) -> CommittedBlock:
        """Make one block of what is ready, durable when this returns, and tell everyone."""
        ready = self._submissions.ready
        sizes = [len(entry.raw) for entry in islice(ready, self._policy.txs)]
        txs = self._submissions.take(self._policy.how_many(sizes))
        began_s = time.perf_counter()
        block = self._execute(txs, self._next_time_s())
        self.metrics.block(block.receipts, time.perf_counter() - began_s)
        self._last_block_s = asyncio.get_running_loop().time()
        self._block_clock.made_block()
        self._sealed = SealedHeader(block.header, block.signature)
        self._settle(block)
        self._feed.publish(block)
        return block

    def _execute(self, txs: list[bytes], time_s: int) -> CommittedBlock:
        """A block of ``txs``; one that cannot be executed is set aside, and what comes after it waits for the next."""
        try:
            return self._engine.produce(time_s=time_s, txs=txs)
        except NOBODYS_FAULT:
            raise
        except Exception as bug:
            index = find_culprit(self._session, time_s=time_s, txs=txs)
            if index is None:
                raise
            block = self._engine.produce(time_s=time_s, txs=txs[:index])
            self._set_aside(txs[index], bug)
            self._submissions.put_back(txs[index + 1 :])
            return block

    def _write_tree_if_quiet(self, block: CommittedBlock) -> None:
        """Write the tree once nothing has come for a while, and only what is not written yet.

        Not at every heartbeat: each writing syncs several times and ends what was read from older trees.
        """
        if block.txs or len(self._submissions):
            self._busy_s = self._last_block_s
            self._unwritten = True
        elif self._unwritten and self._last_block_s - self._busy_s >= QUIET_S:
            self._session.checkpoint(idle=True)
            self._unwritten = False

    def _settle(self, block: CommittedBlock) -> None:
        settle = self._submissions.settle
        for index, (raw, tx_id, receipt) in enumerate(zip(block.txs, block.tx_ids, block.receipts, strict=True)):
            settle(raw, Submitted(tx_id=tx_id or b"", height=block.height, index=index, receipt=receipt))
        for raw, number in block.refused:
            code = code_named(number)
            if code is None:
                raise ValueError(f"the engine refused with a code that nobody owns: {number}")
            self._refuse(raw, Rejected(code))

    # --- following ----------------------------------------------------------------------------------------

    def subscribe(self, from_height: int | None = None, *, by: bytes | None = None) -> Subscription:
        """Committed blocks from ``from_height`` on (None: the next one), in order, without gaps.

        Use it as ``async with service.subscribe() as blocks: async for block in blocks``. Raises
        :class:`Overloaded` when too many follow, or too many for the party ``by``. Ends when the node stops.
        """
        return self._feed.subscribe(self.height + 1 if from_height is None else from_height, by=by)

    # --- reading ------------------------------------------------------------------------------------------

    @property
    def genesis(self) -> Genesis:
        """What the network started from."""
        return self._session.genesis

    @property
    def chain_id(self) -> str:
        """The network's name."""
        return self._session.genesis.chain_id

    @property
    def height(self) -> int:
        """The height of the last committed block."""
        return self._session.head.height

    @property
    def time_s(self) -> int:
        """The last block's time, Unix seconds."""
        return self._session.head.time_s

    @property
    def app_hash(self) -> bytes:
        """The root of the committed state."""
        return self._session.head.app_hash

    def view(self) -> View:
        """The committed state at the last height, for queries; the same object until the next block."""
        head = self._session.head
        view = self._view
        if view is None or view.height != head.height:
            view = self._view = View(snapshot=self._session.snapshot(), height=head.height, time_s=head.time_s)
            self._askers.clear()
        return view

    def asker(self, party: bytes) -> Asker | None:
        """The party as the ledger has it now; whether it is live and may ask is judged by the query."""
        view = self.view()
        known = self._askers.get(party)
        if known is not None:
            return known
        row = view.contracts.membership.party(party)
        if row is None:
            # Strangers are not remembered: there is no end to their ids.
            return None
        asker = self._askers[party] = Asker(party, row)
        return asker

    def prove(self, keys: Iterable[bytes]) -> tuple[SealedHeader, list[ProvenEntry]]:
        """Proofs of state entries, or of their absence, under the app hash of the returned header."""
        if self._sealed is None:
            raise RuntimeError("the node was not started")
        snapshot = self._session.snapshot()
        entries = [ProvenEntry(key=key, value=snapshot.get(key), proof=snapshot.prove(key).to_bytes()) for key in keys]
        return self._sealed, entries

    def block(self, height: int) -> CommittedBlock:
        """A committed block; raises ``IndexError`` if there is none at ``height``."""
        return self._feed.block(height) if 0 < height <= self.height else self._session.block(height)

    def locate(self, tx_id: bytes) -> tuple[int, int] | None:
        """Height and index of a transaction on the ledger, or None."""
        return self._session.locate(tx_id)

    # --- figures ------------------------------------------------------------------------------------------

    def _add_gauges(self) -> None:
        gauge = self.metrics.gauge
        gauge("height", "Height of the last block.", lambda: self.height)
        gauge("block_time_seconds", "Time of the last block, Unix seconds.", lambda: self.time_s)
        gauge("queue_transactions", "Transactions that wait for their outcome.", lambda: len(self._submissions))
        gauge("queue_bytes", "Bytes of transactions that wait.", lambda: self._submissions.size_bytes)
        gauge("event_streams", "Open subscriptions.", lambda: self._feed.subscribers)
        gauge(
            "verify_fallback_checks",
            "Signatures the worker process should have verified but did not.",
            lambda: self._worker.fallback_checks,
        )
