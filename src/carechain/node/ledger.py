"""What every node does alike, whichever engine orders: hold the ledger, answer from it, hand on blocks and outcomes.

Two kinds of node build on it: :mod:`carechain.node.service` makes the blocks itself, :mod:`carechain.node.consortium`
agrees on them with other organisations. Everything runs on one event loop, and the session is only touched from it.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Final

import structlog
from msgspec import Struct

from carechain.chain.genesis import Genesis
from carechain.chain.header import SealedHeader
from carechain.chain.queries import Asker, View
from carechain.core.limits import SUBMIT_QUEUE_TXS
from carechain.core.rejection import Rejected
from carechain.engine.session import CommittedBlock, Session
from carechain.engine.txindex import id_of
from carechain.node.clock import Clock
from carechain.node.culprit import NOBODYS_FAULT
from carechain.node.feed import Feed, Subscription
from carechain.node.metrics import Metrics
from carechain.node.refusals import NodeCode, Overloaded
from carechain.node.submissions import Group, Outcome, Submissions
from carechain.sdk.answers import ProvenEntry, Submitted

_log = structlog.get_logger("carechain.node")


class NodeFailed(Exception):  # noqa: N818 - names what happened to the node
    """The node can make no more blocks. What became of a waiting transaction shows by its id after a restart."""


class Engine(Struct, frozen=True, kw_only=True):
    """How a node's blocks come about, for people: which engine, and how many others it is connected to."""

    name: str
    peers: int = 0
    validators: int = 0


class LedgerNode(ABC):
    """Submit to, follow and read one ledger."""

    def __init__(self, *, session: Session, server: bytes, clock: Clock, metrics: Metrics | None = None) -> None:
        """Take over an open session. ``clock`` is wall-clock time in Unix seconds."""
        self.metrics: Final = metrics or Metrics()
        self.server: Final = server
        """The party this node acts as: what a client names when it opens a session."""
        self._session = session
        self._clock = clock
        self._submissions = Submissions()
        self._feed = Feed(read=session.block, height=session.head.height, base=session.base_height)
        self._sealed: SealedHeader | None = None
        self._view: View | None = None
        self._askers: dict[bytes, Asker] = {}
        self._draining = False
        self._failure: BaseException | None = None
        self._add_gauges()

    # --- running ------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def engine(self) -> Engine:
        """How blocks come about here."""

    @property
    @abstractmethod
    def is_live(self) -> bool:
        """Whether submissions are taken."""

    @abstractmethod
    def why_unready(self) -> str:
        """Why this node should be given no work now, and what to look at; empty when it may be."""

    @abstractmethod
    async def finish(self) -> None:
        """Take nothing new, finish what was taken, end the feed. Reading goes on until :meth:`drain`."""

    @abstractmethod
    async def drain(self) -> None:
        """Finish, write a checkpoint and close. May be repeated."""

    @abstractmethod
    async def stopped(self) -> None:
        """Wait until no more blocks are made; raises :class:`NodeFailed` when nobody asked for that."""

    @property
    def clock(self) -> Clock:
        """The wall clock this node goes by."""
        return self._clock

    def _require_working(self) -> None:
        if self._failure is not None:
            raise NodeFailed("no block can be made any more") from self._failure

    def _fail(self, error: BaseException) -> None:
        """Nothing durable can be promised any more: everyone who waits is told, and the node stops."""
        if self._failure is not None:
            return
        self._failure = error
        failed = NodeFailed("the node failed before the outcome was known: ask for the transaction by its id")
        failed.__cause__ = error
        self._submissions.fail(failed)
        self._feed.end()

    def _close_session(self) -> None:
        if self._failure is None:
            self._session.close()
        else:
            # Nothing more is written: what was acknowledged is in the log.
            self._session.__exit__(type(self._failure), self._failure, None)

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
        if len(raws) > SUBMIT_QUEUE_TXS:
            raise Rejected(NodeCode.TOO_MANY_TRANSACTIONS)
        loop = asyncio.get_running_loop()
        group = Group(len(raws), loop.create_future())
        # A caller that is gone by the time the node fails has nobody to be told.
        group.done.add_done_callback(lambda done: done.cancelled() or done.exception())
        fresh = self._submissions.take_in(raws, group, loop.time())
        if fresh:
            self._take(fresh)
        return group

    @abstractmethod
    def _take(self, raws: Sequence[bytes]) -> None:
        """See to it that these new submissions are admitted and ordered; called in the middle of :meth:`enqueue`."""

    def _admitted(self, raw: bytes, *, time_s: int | None = None) -> bool:
        """Whether admission lets a submission pass; what it refuses, or fails over, has its outcome now."""
        try:
            self._session.check(raw, time_s=time_s)
        except Rejected as refused:
            self._refuse(raw, refused)
        except NOBODYS_FAULT:
            raise
        except Exception as bug:  # noqa: BLE001 - an error over one transaction must not end the node for all
            self._set_aside(raw, bug)
        else:
            return True
        return False

    def _set_aside(self, raw: bytes, bug: Exception) -> None:
        """Refuse a transaction that the program fails over, and name it to the operator."""
        tx_id = id_of(raw)
        _log.error("transaction_not_executable", tx_id=None if tx_id is None else tx_id.hex(), exc_info=bug)
        self._refuse(raw, Rejected(NodeCode.NOT_EXECUTABLE))

    def _refuse(self, raw: bytes, refused: Rejected) -> None:
        self.metrics.refused(int(refused.code))
        self._submissions.settle(raw, refused)

    def _publish(self, block: CommittedBlock) -> None:
        """A block is durable: hand out the outcomes of what waited here, and tell everyone who follows."""
        self._sealed = block.sealed
        waits, settle = self._submissions.waits, self._submissions.settle
        for index, (raw, tx_id, receipt) in enumerate(zip(block.txs, block.tx_ids, block.receipts, strict=True)):
            if waits(raw):
                settle(raw, Submitted(tx_id=tx_id or b"", height=block.height, index=index, receipt=receipt))
        self._feed.publish(block)

    async def reached(self, height: int) -> None:
        """Wait until this node has the block at ``height``; raises :class:`NodeFailed` when it never will."""
        if self.height >= height:
            return
        async with self.subscribe(height) as blocks:
            async for _ in blocks:
                return
        raise NodeFailed("the node stopped before that block")

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
            raise Overloaded(NodeCode.NO_BLOCK_YET)
        snapshot = self._session.snapshot()
        entries = [ProvenEntry(key=key, value=snapshot.get(key), proof=snapshot.prove(key).to_bytes()) for key in keys]
        return self._sealed, entries

    def block(self, height: int) -> CommittedBlock:
        """A committed block; raises ``IndexError`` if there is none at ``height``."""
        return self._feed.block(height) if self.base_height < height <= self.height else self._session.block(height)

    @property
    def base_height(self) -> int:
        """The height of the snapshot that this node's ledger began with; blocks up to it are not here. 0: none."""
        return self._session.base_height

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
