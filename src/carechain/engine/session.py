"""The session: the one legal order of calls for every engine, and the state they all share (DESIGN section 5).

``check`` any number of times · ``finalize`` a block, repeatedly if need be: it computes and keeps nothing ·
``commit`` what was finalised last: appended to the block log, synced, and only then made the current state. Opening
resumes at the last durable block: the tree's last checkpoint is loaded and the blocks after it are executed again.

The block log is authoritative. The tree and the transaction index are written at checkpoints, whose only purpose
is a short start. A session belongs to one thread.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from shutil import rmtree
from typing import Final, Protocol, Self

from msgspec import Struct

from carechain.chain.genesis import CHAIN, Genesis, apply_genesis, genesis_hash
from carechain.chain.header import Header, Keeper, SealedHeader, header_hash, receipt_leaves, signing_bytes, tx_root
from carechain.chain.receipts import FullReceipt, Receipt, describe, encode_receipt
from carechain.chain.replay import ReplayWindow
from carechain.chain.signatures import SignatureCache
from carechain.chain.transition import Block, Ledger, admit, apply_block
from carechain.chain.tx import parse
from carechain.core import merkle
from carechain.core.codec import encode
from carechain.core.party import Party
from carechain.engine.base import Arrived, Base, settle_arrival, write_base
from carechain.engine.blocklog import BlockLog, CorruptHistory, StoredBlock, WrongChain
from carechain.engine.sealed import Sealers, beyond_bounds, check_header, read_header, read_receipts
from carechain.engine.snapshots import Capture
from carechain.engine.txindex import TxIndex, id_of
from carechain.engine.window import read_window
from carechain.state.log import StoreDamaged, make_folder
from carechain.state.node import EMPTY
from carechain.state.overlay import Overlay
from carechain.state.snapshot import Snapshot
from carechain.state.store import NodeStore, StoreTooOld, height_on_disk

LEDGER_FOLDER: Final = "ledger"
TREE_FOLDER: Final = "tree"

_events = logging.getLogger("carechain.engine")

Progress = Callable[[int, int], None]
"""Called with how many blocks are done and how many there are."""


class IllegalOrder(RuntimeError):  # noqa: N818 - names what the caller did
    """A call out of order, a height or a time that does not follow, or a session that has ended: a caller's bug."""


class ResyncNeeded(Exception):  # noqa: N818 - names what has to be done
    """The state is unusable, and the blocks before the snapshot that this ledger began with are not here."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"The state tree is unusable ({reason}) and cannot be made from the blocks here, because this ledger began "
            "with a snapshot. Run `carechain resync`, then start again: the state comes from the other nodes."
        )
        self.reason = reason


class Checkpoints(Struct, frozen=True, kw_only=True):
    """When the tree is written: after so many blocks or admitted transactions, whichever comes first.

    Larger values write less and make a restart after a crash longer.
    """

    blocks: int = 1_000
    txs: int = 20_000


class Head(Struct, frozen=True, kw_only=True):
    """Where the chain stands. At height 0: the genesis time, the genesis state and the genesis hash."""

    height: int
    time_s: int
    app_hash: bytes
    block_hash: bytes


class Finalized(Struct, frozen=True, kw_only=True):
    """What executing a block gave: one receipt per transaction, and the three roots of its header."""

    block: Block
    receipts: tuple[Receipt, ...]
    encoded: tuple[bytes, ...]
    """The receipts' bytes."""
    leaves: list[bytes]
    """The leaves of the receipts' tree."""
    app_hash: bytes
    tx_root: bytes
    receipt_root: bytes


class CommittedBlock(Struct, frozen=True, kw_only=True):
    """A durable block. ``receipts`` and ``tx_ids`` stand in the order of ``txs``.

    ``tx_ids`` holds None for bytes that were never a transaction. ``refused`` lists transactions that were handed to
    the producer but failed admission at the block's time, with the number of the code: they are not on the ledger.
    """

    sealed: SealedHeader
    txs: tuple[bytes, ...]
    receipts: tuple[Receipt, ...]
    tx_ids: tuple[bytes | None, ...]
    refused: tuple[tuple[bytes, int], ...] = ()

    @property
    def header(self) -> Header:
        """What the block states."""
        return self.sealed.header

    @property
    def height(self) -> int:
        """The block's height."""
        return self.header.height

    @property
    def time_s(self) -> int:
        """The block's time, Unix seconds."""
        return self.header.time_s


class Sealer(Protocol):
    """Who signs blocks: one of the genesis' producers (LED-3), or in a consortium the organisation of this node."""

    @property
    def keeper(self) -> Keeper:
        """The key that :meth:`sign` signs with."""

    def sign(self, message: bytes) -> bytes:
        """A 64-byte signature over ``message``."""


class _Pending(Struct, frozen=True):
    """A finalised block that nobody committed yet."""

    finalized: Finalized
    snapshot: Snapshot


class Session:
    """The ledger of one node. Use :meth:`open`."""

    def __init__(
        self,
        *,
        log: BlockLog,
        store: NodeStore,
        genesis: Genesis,
        keeper: bytes | None = None,
        signatures: SignatureCache | None = None,
        checkpoints: Checkpoints | None = None,
        progress: Progress | None = None,
        folder: Path | None = None,
    ) -> None:
        """Take over an open log and store and resume at the last durable block.

        ``folder`` is where both lie, for a ledger that may take over a snapshot. ``keeper`` is the organisation whose
        node this is: in a consortium it seals its own copy of the blocks.

        Raises :class:`WrongChain`, :class:`CorruptHistory`, ``StoreDamaged`` or what the disk raises; log and store
        are the caller's to close then.
        """
        self.genesis: Final = genesis
        self.rebuilt: str | None = None
        self.genesis_hash: Final = genesis_hash(genesis)
        self._sealers = Sealers.of(genesis, keeper)
        self._log = log
        self._store = store
        self._folder = folder
        self._signatures = signatures or SignatureCache()
        self._checkpoints = checkpoints or Checkpoints()
        self._replay = ReplayWindow()
        self._index = TxIndex(store)
        self._pending: _Pending | None = None
        self._view: Ledger | None = None
        self._unwritten_txs = 0
        self._open = True
        self._snapshot = store.snapshot()
        self._head = self._resume()
        self._catch_up(progress)

    @classmethod
    def open(
        cls,
        home: Path,
        genesis: Genesis,
        *,
        keeper: bytes | None = None,
        checkpoints: Checkpoints | None = None,
        rebuild: bool = False,
        progress: Progress | None = None,
    ) -> Self:
        """Open or start the ledger in ``home/ledger``; ``rebuild`` throws the derived tree away and replays all blocks.

        That also happens, with a line in the log, when the tree is damaged, missing or of an older layout:
        :attr:`rebuilt` says why. Raises :class:`CorruptHistory` naming the first block that is wrong,
        :class:`ResyncNeeded` where that cannot be done because the ledger began with a snapshot, :class:`WrongChain`,
        ``BadGenesis``, what :class:`~carechain.state.store.NodeStore` and :class:`BlockLog` raise on opening, or
        ``OSError``.
        """
        folder = home / LEDGER_FOLDER
        make_folder(folder)
        reason = "somebody asked for it"
        if not rebuild:
            try:
                return cls._at(folder, genesis, keeper, checkpoints, progress)
            except (StoreDamaged, StoreTooOld) as unusable:
                reason = str(unusable)
        return cls._at(folder, genesis, keeper, checkpoints, progress, reason, asked=rebuild)

    @classmethod
    def _at(
        cls,
        folder: Path,
        genesis: Genesis,
        keeper: bytes | None,
        checkpoints: Checkpoints | None,
        progress: Progress | None,
        reason: str | None = None,
        *,
        asked: bool = False,
    ) -> Self:
        """Open what lies in ``folder``; with a ``reason`` the tree is thrown away first, and written again."""
        tree = folder / TREE_FOLDER
        # The log comes first: its lock keeps a second process away from the tree as well.
        log = BlockLog.open(folder, genesis=genesis_hash(genesis))
        store = None
        try:
            settle_arrival(folder, tree, log.base)
            _require_blocks_for(reason, log)
            if reason is not None:
                # What the tree knows of the log is kept until it is certain that the log is not what is damaged.
                log.require(0 if asked else height_on_disk(tree) or 0)
                if tree.exists():
                    rmtree(tree)
            store = NodeStore.open(tree)
            if reason is None and (store.height < log.base_height or (log.height and not store.epoch)):
                reason = "it is missing"
                _require_blocks_for(reason, log)
            if reason is not None:
                _events.warning("the state tree is rebuilt from the block log (%s)", reason)
            session = cls(
                log=log,
                store=store,
                genesis=genesis,
                keeper=keeper,
                checkpoints=checkpoints,
                progress=progress,
                folder=folder,
            )
        except BaseException:
            if store is not None:
                store.close()
            log.release()
            raise
        session.rebuilt = reason
        return session

    # --- reading ------------------------------------------------------------------------------------------

    @property
    def head(self) -> Head:
        """The last committed block."""
        return self._head

    @property
    def signatures(self) -> SignatureCache:
        """What this node verified already: the engine's helpers add to it."""
        return self._signatures

    @property
    def base_height(self) -> int:
        """The height up to which blocks are not here because a snapshot was taken over; 0: all are here."""
        return self._log.base_height

    @property
    def folder(self) -> Path | None:
        """Where the ledger lies on the disk; None where it was put together from open files."""
        return self._folder

    def sealed_head(self) -> SealedHeader | None:
        """The last block's header, also where that block is the snapshot's; None before the first block."""
        self._require_open()
        height = self._head.height
        if self._log.base is not None and height == self._log.base_height:
            return self._log.base.sealed
        return read_header(height, self._log.read(height)) if height else None

    def sealed_base(self) -> SealedHeader | None:
        """The header of the snapshot that this ledger began with; None where it has all blocks."""
        return None if self._log.base is None else self._log.base.sealed

    def snapshot(self) -> Snapshot:
        """The committed state, for queries and proofs; it stays as it is until the second checkpoint from now."""
        self._require_open()
        return self._snapshot

    def block(self, height: int) -> CommittedBlock:
        """A committed block. Raises ``IndexError`` if there is none at ``height``, :class:`CorruptHistory`."""
        self._require_open()
        stored = self._log.read(height)
        sealed = read_header(height, stored)
        return CommittedBlock(
            sealed=sealed,
            txs=stored.txs,
            receipts=read_receipts(height, stored),
            tx_ids=tuple(id_of(raw) for raw in stored.txs),
        )

    def locate(self, tx_id: bytes) -> tuple[int, int] | None:
        """Height and index of an admitted transaction, or None, also for one before :attr:`base_height`."""
        self._require_open()
        for height, index in self._index.candidates(tx_id):
            txs = self._log.read(height).txs if self._log.base_height < height <= self._log.height else ()
            if index >= len(txs):
                raise self._store.condemn("the transaction index names a place that does not exist")
            if id_of(txs[index]) == tx_id:
                return height, index
        return None

    def receipt(self, tx_id: bytes) -> FullReceipt | None:
        """The receipt of an admitted transaction with everything LED-9 asks for, or None."""
        place = self.locate(tx_id)
        if place is None:
            return None
        height, index = place
        stored = self._log.read(height)
        receipt = read_receipts(height, stored)[index]
        return describe(stored.txs[index], receipt, height=height, index=index)

    # --- snapshots ----------------------------------------------------------------------------------------

    def capture(self) -> Capture:
        """What a snapshot of the last committed block is made of. Raises ``IllegalOrder`` before the first block."""
        sealed = self.sealed_head()
        if sealed is None:
            raise IllegalOrder("there is no block yet")
        return Capture(header=sealed.header, window=self._replay.groups(), state=self._store.hold(self._snapshot))

    @property
    def may_begin_at(self) -> bool:
        """Whether a snapshot may be taken over: no block was executed here, be it after the genesis or a snapshot."""
        return self._open and self._folder is not None and self._head.height == self._log.base_height

    def begin_at(self, arrived: Arrived, sealer: Sealer) -> None:
        """Go on from a snapshot that has arrived in this ledger's folder, instead of from the first block.

        ``sealer`` signs for this node's copy of the header. Raises :class:`IllegalOrder` unless :attr:`may_begin_at`.
        When the disk fails the session has ended; opened again, the ledger is empty or begins with the snapshot.
        """
        if not self.may_begin_at or self._folder is None:
            raise IllegalOrder("only a ledger without blocks may begin with a snapshot")
        header = arrived.header
        sealed = SealedHeader(header, sealer.sign(signing_bytes(header)), sealer.keeper)
        if self._sealers.key_of(sealed) is None:
            raise IllegalOrder("a snapshot is taken over only where several organisations agree on blocks")
        base = Base(genesis=self.genesis_hash, sealed=sealed, window=arrived.window)
        tree = self._folder / TREE_FOLDER
        try:
            write_base(self._folder, base)
            self._store.close()
            settle_arrival(self._folder, tree, base)
            self._store = NodeStore.open(tree)
            self._log.begin_at(base)
            self._replay = ReplayWindow()
            self._index = TxIndex(self._store)
            self._pending, self._view, self._unwritten_txs = None, None, 0
            self._snapshot = self._store.snapshot()
            self._head = self._resume()
        except BaseException:
            self._end()
            raise

    # --- check, finalize, commit --------------------------------------------------------------------------

    def check(self, raw: bytes, *, time_s: int | None = None) -> Party:
        """Admission on the committed state; returns the signer and raises ``Rejected``.

        ``time_s`` is the time to judge validity by: the last block's unless the caller expects a later one.
        """
        tx = self._signatures.parsed(raw) or parse(raw)
        party = admit(self.ledger(), tx, self._head.time_s if time_s is None else time_s)
        self._signatures.keep_parsed(tx)
        return party

    def ledger(self) -> Ledger:
        """The committed state as admission sees it. Nothing may be written to it."""
        self._require_open()
        if self._view is None:
            self._view = Ledger(
                chain_id=self.genesis.chain_id,
                state=Overlay(self._snapshot),
                replay=self._replay.committed(),
                signatures=self._signatures,
                height=self._head.height + 1,
            )
        return self._view

    def finalized_ledger(self) -> Ledger:
        """The state after the block that was finalised last. Nothing may be written to it."""
        return self._ledger_over(Overlay(self._require_pending().snapshot))

    def finalize(self, block: Block) -> Finalized:
        """Execute the next block without keeping anything; may be repeated, also with another block, before commit."""
        self._require_open()
        self._require_next(block)
        if self.checkpoint_due:
            self.checkpoint()
        self._replay.abandon()
        self._pending = None
        overlay = Overlay(self._snapshot)
        receipts = tuple(apply_block(self._ledger_over(overlay), block))
        encoded = tuple(map(encode_receipt, receipts))
        leaves = receipt_leaves(encoded)
        changes = overlay.changes()
        snapshot = self._snapshot.apply(changes) if changes else self._snapshot
        finalized = Finalized(
            block=block,
            receipts=receipts,
            encoded=encoded,
            leaves=leaves,
            app_hash=snapshot.root_hash,
            tx_root=tx_root(block.txs),
            receipt_root=merkle.root(leaves),
        )
        self._pending = _Pending(finalized, snapshot)
        return finalized

    def commit(self, sealer: Sealer, *, producer: bytes | None = None) -> CommittedBlock:
        """Seal the block that was finalised last, make it durable, and make its state the current one.

        ``producer`` is the organisation that put the block together where an engine of several agreed on it; None: the
        sealer itself. When the disk fails, ``OSError`` is raised and the session has ended: whether the block is
        durable is known only after opening again.
        """
        pending = self._require_pending()
        finalized = pending.finalized
        header = Header(
            chain_id=self.genesis.chain_id,
            height=finalized.block.height,
            time_s=finalized.block.time_s,
            previous=self._head.block_hash,
            tx_count=len(finalized.block.txs),
            tx_root=finalized.tx_root,
            receipt_root=finalized.receipt_root,
            app_hash=finalized.app_hash,
            producer=sealer.keeper.party if producer is None else producer,
            evidence=finalized.block.evidence,
        )
        keeper = None if producer is None else sealer.keeper
        sealed = SealedHeader(header, sealer.sign(signing_bytes(header)), keeper)
        if self._sealers.key_of(sealed) is None:
            raise IllegalOrder("this organisation may not seal blocks here: it is not one of the genesis' producers")
        try:
            self._log.append(header.height, StoredBlock(encode(sealed), finalized.block.txs, finalized.encoded))
        except BaseException:
            self._end()
            raise
        tx_ids = self._switch(header, pending)
        return CommittedBlock(sealed=sealed, txs=finalized.block.txs, receipts=finalized.receipts, tx_ids=tx_ids)

    def _require_open(self) -> None:
        if not self._open:
            raise IllegalOrder("the session has ended: open it again")

    def _require_pending(self) -> _Pending:
        self._require_open()
        if self._pending is None:
            raise IllegalOrder("commit needs a finalised block")
        return self._pending

    def _require_next(self, block: Block) -> None:
        if block.height != self._head.height + 1:
            raise IllegalOrder(f"block {block.height} does not follow block {self._head.height}")
        if block.time_s < self._head.time_s:
            raise IllegalOrder("block time goes back")
        if beyond_bounds(block.txs):
            raise IllegalOrder("the block is larger than a block may be")

    def _ledger_over(self, overlay: Overlay) -> Ledger:
        return Ledger(chain_id=self.genesis.chain_id, state=overlay, replay=self._replay, signatures=self._signatures)

    def _switch(self, header: Header, pending: _Pending) -> tuple[bytes | None, ...]:
        """Make a durable block the current state, in memory; returns the transactions' ids."""
        finalized = pending.finalized
        txs = finalized.block.txs
        parsed = self._signatures.parsed
        tx_ids = tuple(tx.id if (tx := parsed(raw)) else id_of(raw) for raw in txs)
        self._index.add(header.height, tx_ids, finalized.receipts)
        self._signatures.forget(txs)
        self._replay.commit(header.time_s)
        self._snapshot = pending.snapshot
        self._head = Head(
            height=header.height, time_s=header.time_s, app_hash=header.app_hash, block_hash=header_hash(header)
        )
        self._pending = None
        self._view = None
        self._unwritten_txs += len(txs)
        return tx_ids

    # --- checkpoints --------------------------------------------------------------------------------------

    @property
    def checkpoint_due(self) -> bool:
        """Whether the next :meth:`finalize` will write a checkpoint first; an engine may do so earlier, when idle."""
        unwritten = self._head.height - self._store.height
        return self._unwritten_txs >= self._checkpoints.txs or unwritten >= self._checkpoints.blocks

    def checkpoint(self, *, idle: bool = False) -> None:
        """Write tree and transaction index as of the last committed block; abandons a finalised block.

        ``idle`` says that no transaction waits, so that the tree may use the time to empty old files.
        """
        self._require_open()
        self._replay.abandon()
        self._pending = None
        self._view = None
        try:
            self._snapshot = self._store.checkpoint(
                height=self._head.height,
                snapshot=self._snapshot,
                meta=self._index.meta(),
                side=self._index.unwritten(),
                idle=idle,
            )
        except BaseException:
            self._end()
            raise
        self._index.written()
        self._unwritten_txs = 0

    def close(self) -> None:
        """Write a last checkpoint and release everything; closing twice is allowed."""
        if not self._open:
            return
        if self._head.height != self._store.height:
            self.checkpoint()
        try:
            self._log.close()
        finally:
            self._end()

    def _end(self) -> None:
        """Release everything without writing: what is not in the log yet was never acknowledged."""
        self._open = False
        self._pending = None
        try:
            self._log.release()
        finally:
            self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        elif self._open:
            self._end()

    # --- recovery -----------------------------------------------------------------------------------------

    def _resume(self) -> Head:
        """The head of the last checkpoint; an empty store gets the genesis state first."""
        if self._snapshot.root_hash == EMPTY.hash:
            self._write_genesis()
        row = CHAIN.bind(self._snapshot).get(0)
        if row is None or row.genesis != self.genesis_hash:
            raise WrongChain("the state was started from another genesis")
        height = self._store.height
        # From here on the log is known to hold what was acknowledged, as far as anybody can tell.
        self._log.settle(at_least=height)
        if not self._index.complete():
            raise self._store.condemn("the transaction index lacks entries")
        app_hash = self._snapshot.root_hash
        if not height:
            return Head(height=0, time_s=self.genesis.time_s, app_hash=app_hash, block_hash=self.genesis_hash)
        header = read_window(self._log, height, genesis=self.genesis, sealers=self._sealers, replay=self._replay)
        if header.app_hash != app_hash:
            raise CorruptHistory(height, "the checkpoint's state is not the one that the block states")
        return Head(height=height, time_s=header.time_s, app_hash=app_hash, block_hash=header_hash(header))

    def _write_genesis(self) -> None:
        overlay = Overlay(self._snapshot)
        apply_genesis(overlay, self.genesis)
        self._snapshot = self._store.checkpoint(height=0, snapshot=self._snapshot.apply(overlay.changes()))

    def _catch_up(self, progress: Progress | None) -> None:
        """Execute the blocks after the checkpoint; each must come out as its header says."""
        first, last = self._head.height + 1, self._log.height
        for height, stored in self._log.blocks(first):
            sealed = read_header(height, stored)
            header = sealed.header
            check_header(
                sealed,
                chain_id=self.genesis.chain_id,
                previous=self._head.block_hash,
                time_s=self._head.time_s,
                sealers=self._sealers,
            )
            try:
                finalized = self.finalize(
                    Block(height=height, time_s=header.time_s, txs=stored.txs, evidence=header.evidence)
                )
            except IllegalOrder as broken:
                raise CorruptHistory(height, str(broken)) from None
            if finalized.tx_root != header.tx_root:
                raise CorruptHistory(height, "the transactions are not those that the header states")
            if finalized.encoded != stored.receipts:
                raise CorruptHistory(height, "executing it again gives other receipts")
            if finalized.receipt_root != header.receipt_root:
                raise CorruptHistory(height, "the receipts are not those that the header states")
            if finalized.app_hash != header.app_hash:
                raise CorruptHistory(height, "executing it again gives another state than the header states")
            self._switch(header, self._require_pending())
            if progress is not None:
                progress(height - first + 1, last - first + 1)


def _require_blocks_for(reason: str | None, log: BlockLog) -> None:
    """A tree that is of no use can be made again only where the log begins with the first block."""
    if reason is not None and log.base is not None:
        raise ResyncNeeded(reason)
