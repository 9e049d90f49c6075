"""A node that makes the blocks itself: it takes transactions in, orders them, and answers from the committed state.

The way of a submission: queue → form, signature and admission (signatures in a second process when there are
several) → ready → block → durable → outcome. While block N executes here, the signatures of block N+1 are verified
there.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Final, Self

import structlog

from carechain.chain.genesis import Genesis
from carechain.chain.receipts import code_named
from carechain.core.crypto import SigningKey
from carechain.core.limits import STALE_BLOCK_S
from carechain.core.rejection import Rejected
from carechain.engine.embedded import BatchPolicy, BlockProducer, EmbeddedEngine
from carechain.engine.session import Checkpoints, CommittedBlock, Session
from carechain.node.clock import ACCEPT_GAP_DAYS, BlockClock, Clock, require_near, uptime_s
from carechain.node.culprit import NOBODYS_FAULT, find_culprit
from carechain.node.ledger import Engine, LedgerNode, NodeFailed
from carechain.node.metrics import Metrics
from carechain.node.refusals import NodeCode, Overloaded
from carechain.node.submissions import Group, Outcome
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


class NodeService(LedgerNode):
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
        super().__init__(session=session, server=producer.party, clock=clock, metrics=metrics)
        self._engine = EmbeddedEngine(session, producer)
        self._policy = policy or BatchPolicy()
        self._block_clock = BlockClock(wall=clock, passed=passed)
        self._worker = Worker(session, lambda: self._guarded(self._collect))
        self._verify_in_worker = verify_in_worker
        self._arrived: list[bytes] = []
        self._wake = asyncio.Event()
        self._last_block_s = 0.0
        self._busy_s = 0.0
        # Opening may have executed what came after the last checkpoint.
        self._unwritten = True
        self._running: asyncio.Task[None] | None = None
        self.metrics.gauge(
            "verify_fallback_checks",
            "Signatures the worker process should have verified but did not.",
            lambda: self._worker.fallback_checks,
        )

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
        self._close_session()

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
    def engine(self) -> Engine:
        """One process orders alone."""
        return Engine(name="embedded")

    def why_unready(self) -> str:
        """Why this node should be given no work now, and what to look at; empty when it may be."""
        age_s = int(self._clock()) - self.time_s
        if not self.is_live:
            return "It makes no blocks: it is stopping, or has failed, and then the log says why."
        if self.clock_jumped:
            return "This machine's clock jumped ahead. Set it right; if it is right, start the node again."
        if age_s > STALE_BLOCK_S:
            return "The last block is too old: look at the disk and at the load of this machine."
        if age_s < -STALE_BLOCK_S:
            return (
                "The last block's time is ahead of this machine's clock. Look at this machine's clock first; if it is "
                "right, the clock of the producer was wrong when the block was made, and block time waits for it."
            )
        return ""

    def _note_end(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """As for every node; what this one watches and waits for ends as well."""
        super()._fail(error)
        self._worker.unwatch()
        self._wake.set()

    def _guarded(self, step: Callable[[], None]) -> None:
        """A step that the loop calls: what it raises would end in the loop's own log, and those who wait would wait."""
        try:
            step()
        except Exception as error:  # noqa: BLE001 - whatever it is, the node cannot go on as if nothing were
            self._fail(error)

    # --- submitting ---------------------------------------------------------------------------------------

    def enqueue(self, raws: Sequence[bytes]) -> Group:
        """As for every node; nothing is taken in while the clock cannot be believed."""
        self._require_working()
        if self.clock_jumped:
            raise Overloaded(NodeCode.CLOCK_JUMPED)
        return super().enqueue(raws)

    def _take(self, raws: Sequence[bytes]) -> None:
        if not self._arrived:
            # What else arrives in this turn of the loop is verified together with it.
            asyncio.get_running_loop().call_soon(self._guarded, self._admit_arrived)
        self._arrived += raws

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
        if self._admitted(raw, time_s=time_s):
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
        self._publish(block)
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

    def _publish(self, block: CommittedBlock) -> None:
        """As for every node; what the block had no place for has its outcome too."""
        super()._publish(block)
        for raw, number in block.refused:
            code = code_named(number)
            if code is None:
                raise ValueError(f"the engine refused with a code that nobody owns: {number}")
            self._refuse(raw, Rejected(code))
