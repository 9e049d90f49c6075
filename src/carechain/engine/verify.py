"""Verify a node's whole ledger offline: re-hash it, re-execute it, and compare what the node holds (AUD-4).

Nothing is taken on trust but the genesis: every record's checksum, every header's place and signature, every
transaction (its own signature included), every receipt, every state root, then the node's own tree, node by node,
its transaction index, and the contracts' invariants. The first thing that is wrong is named. The folder is only
read; stop the node first, or verify a copy.

A ledger that began with a snapshot has no blocks to make its state from. There the node's own tree is checked against
the header at its checkpoint first, and execution goes on from it; of the blocks between the snapshot and the checkpoint
every header, signature and root is checked. The verdict says where execution began.
"""

from collections.abc import Sequence
from enum import StrEnum
from itertools import islice, zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Self

from msgspec import Struct

from carechain.chain.genesis import TABLES, Genesis, apply_genesis, genesis_hash
from carechain.chain.header import Header, header_hash, receipt_root, tx_root
from carechain.chain.receipts import Receipt, encode_receipt
from carechain.chain.replay import ReplayWindow, WindowMismatch, check_window
from carechain.chain.routing import Contracts
from carechain.chain.signatures import SignatureCache
from carechain.chain.transition import Block, Ledger, apply_block
from carechain.engine.base import Base, installed_tree
from carechain.engine.blocklog import BlockLog, CorruptHistory, StoredBlock
from carechain.engine.sealed import Sealers, beyond_bounds, check_contents, check_header, read_header, read_receipts
from carechain.engine.session import LEDGER_FOLDER, TREE_FOLDER, Progress
from carechain.engine.txindex import TxIndex, admitted, id_of
from carechain.engine.window import check_base, read_window
from carechain.state.audit import BadState, check_tree
from carechain.state.log import StoreDamaged
from carechain.state.overlay import Overlay
from carechain.state.snapshot import Snapshot
from carechain.state.store import NodeStore

CHECKPOINT_TXS: Final = 20_000


class Part(StrEnum):
    """What kind of thing is wrong."""

    BLOCK = "block"
    TRANSACTION = "transaction"
    RECEIPT = "receipt"
    STATE = "state"


class FirstBad(Struct, frozen=True, kw_only=True):
    """The first thing that is wrong. ``key`` names it within the block: a transaction's id or a state entry."""

    kind: Part
    height: int
    key: str
    reason: str


class Verdict(Struct, frozen=True, kw_only=True):
    """How far the ledger is good. ``torn_bytes`` is an unacknowledged rest that the next start cuts off.

    ``base`` is the height of the snapshot that the ledger began with, 0 where it has all blocks. ``executed_from`` is
    the height of the state from which blocks were executed again: then also 0, or the checkpoint's.
    """

    ok: bool
    height: int
    app_hash: bytes
    first_bad: FirstBad | None
    torn_bytes: int
    base: int = 0
    executed_from: int = 0


class _Wrong(Exception):  # noqa: N818 - carries the finding out of the loop
    def __init__(self, kind: Part, height: int, key: str, reason: str) -> None:
        super().__init__(reason)
        self.found = FirstBad(kind=kind, height=height, key=key, reason=reason)


def verify_chain(
    home: Path,
    genesis: Genesis,
    *,
    keeper: bytes | None = None,
    store: NodeStore | None = None,
    progress: Progress | None = None,
) -> Verdict:
    """Verify the ledger in ``home/ledger``; ``store`` is its tree, where the caller has it open already.

    ``keeper`` is the organisation whose copy it is: in a consortium it has signed every block.

    Raises only what keeps it from looking: ``OSError``, a log or store of a newer version, or one that belongs to
    another genesis.
    """
    folder = home / LEDGER_FOLDER
    with TemporaryDirectory(prefix="carechain-verify-") as scratch, NodeStore.open(Path(scratch)) as fresh:
        run = _Run(genesis, fresh, keeper)
        try:
            log = BlockLog.open(folder, genesis=genesis_hash(genesis), read_only=True)
        except CorruptHistory as corrupt:
            # Not even the label is right, so there is no telling where blocks begin.
            bad = FirstBad(kind=Part.BLOCK, height=corrupt.height, key="", reason=corrupt.reason)
            run.from_genesis(None)
            return run.verdict(bad, torn_bytes=0)
        try:
            tree = installed_tree(folder, folder / TREE_FOLDER, log.base)
            found = run.all_of(log, tree, store, progress)
            return run.verdict(found, torn_bytes=log.torn_bytes)
        finally:
            log.close()


class _Run:
    """One verification: the chain so far, executed again in a store of its own, from the genesis if possible."""

    def __init__(self, genesis: Genesis, fresh: NodeStore, keeper: bytes | None) -> None:
        self.genesis = genesis
        self.sealers = Sealers.of(genesis, keeper)
        self.fresh = fresh
        self.replay = ReplayWindow()
        self.signatures = SignatureCache()
        self.snapshot = fresh.snapshot()
        self.base = self.executed_from = self.height = 0
        self.time_s = genesis.time_s
        self.block_hash = genesis_hash(genesis)
        self.unwritten = 0

    def verdict(self, bad: FirstBad | None, *, torn_bytes: int) -> Verdict:
        """What was found."""
        return Verdict(
            ok=bad is None,
            height=self.height,
            app_hash=self.snapshot.root_hash,
            first_bad=bad,
            torn_bytes=torn_bytes,
            base=self.base,
            executed_from=self.executed_from,
        )

    def all_of(self, log: BlockLog, tree: Path, store: NodeStore | None, progress: Progress | None) -> FirstBad | None:
        """Go through everything; None if all of it is good."""
        try:
            if store is not None or not tree.exists():
                self.everything(log, store, progress)
            else:
                with _own_store(tree) as own:
                    self.everything(log, own, progress)
        except CorruptHistory as corrupt:
            return FirstBad(kind=Part.BLOCK, height=corrupt.height, key="", reason=corrupt.reason)
        except StoreDamaged as damaged:
            return FirstBad(kind=Part.STATE, height=self.height, key="", reason=f"the state store: {damaged}")
        except _Wrong as wrong:
            return wrong.found
        return None

    def everything(self, log: BlockLog, own: NodeStore | None, progress: Progress | None) -> None:
        """Blocks in order, the node's own state where its checkpoint stands, invariants at the end."""
        checkpoint = -1 if own is None else own.height
        index = None if own is None else TxIndex(own)
        if log.base is not None:
            self.from_checkpoint(log, log.base, own)
        else:
            self.from_genesis(own)
        for height, stored in log.blocks(self.height + 1):
            receipts = self.block(height, stored)
            if index is not None and height <= checkpoint:
                check_index(index, height, stored, receipts)
            if own is not None and height == checkpoint:
                check_own_state(own, self.snapshot, height)
            if progress is not None:
                progress(height, log.height)
        log.require(checkpoint)
        for broken in Contracts(Overlay(self.snapshot)).check_state():
            raise _Wrong(Part.STATE, self.height, "", f"an invariant does not hold: {broken}")

    def from_genesis(self, own: NodeStore | None) -> None:
        """Begin with the state of the genesis."""
        overlay = Overlay(self.fresh.snapshot())
        apply_genesis(overlay, self.genesis)
        self.snapshot = self.fresh.checkpoint(height=0, snapshot=self.fresh.snapshot().apply(overlay.changes()))
        if own is not None and not own.height:
            check_own_state(own, self.snapshot, 0)

    def from_checkpoint(self, log: BlockLog, base: Base, own: NodeStore | None) -> None:
        """Begin with the node's own tree, once it was found to be the one that the header at its checkpoint states."""
        header = check_base(base, genesis=self.genesis, sealers=self.sealers)
        self.base, self.height, self.time_s, self.block_hash = (
            base.height,
            base.height,
            header.time_s,
            header_hash(header),
        )
        if own is None or own.height < base.height:
            raise _Wrong(
                Part.STATE, base.height, "", "the state is missing, and the blocks to make it from are not here"
            )
        log.require(own.height)
        index = TxIndex(own)
        for height in range(base.height + 1, own.height + 1):
            stored = log.read(height)
            header = self.following(height, stored)
            check_index(index, height, stored, check_contents(header, stored))
            self.height, self.time_s, self.block_hash = height, header.time_s, header_hash(header)
        self.copy_tree(own, header)
        read_window(log, own.height, genesis=self.genesis, sealers=self.sealers, replay=self.replay)
        try:
            check_window(self.replay.groups(), self.snapshot, header.time_s)
        except WindowMismatch as wrong:
            raise _Wrong(Part.STATE, self.height, "", str(wrong)) from None
        self.executed_from = own.height

    def copy_tree(self, own: NodeStore, header: Header) -> None:
        """Check the node's tree node by node, and take its entries into the store of this run."""
        mine = own.snapshot()
        if mine.root_hash != header.app_hash:
            raise _Wrong(Part.STATE, self.height, "", "the node's state is another than the header states")
        entries: list[tuple[bytes, bytes]] = []
        last = b""
        try:
            for entry in check_tree(own.load, mine.root):
                entries.append(entry)
                last = entry[0]
                if len(entries) >= CHECKPOINT_TXS:
                    self.take_in(entries)
        except BadState as damaged:
            good = f"; it is good up to {describe_key(last)}" if last else ""
            raise _Wrong(Part.STATE, self.height, "", f"the state's tree is damaged: {damaged.reason}{good}") from None
        self.take_in(entries)
        if self.snapshot.root_hash != header.app_hash:
            raise _Wrong(Part.STATE, self.height, "", "the node's state root is not the one that its entries have")

    def take_in(self, entries: list[tuple[bytes, bytes]]) -> None:
        """Write these entries and forget them."""
        self.snapshot = self.fresh.checkpoint(height=self.height, snapshot=self.snapshot.apply(entries))
        entries.clear()

    def following(self, height: int, stored: StoredBlock) -> Header:
        """The block's header, which must follow the last one and be sealed by whoever may."""
        sealed = read_header(height, stored)
        check_header(
            sealed,
            chain_id=self.genesis.chain_id,
            previous=self.block_hash,
            time_s=self.time_s,
            sealers=self.sealers,
        )
        return sealed.header

    def block(self, height: int, stored: StoredBlock) -> list[Receipt]:
        """Check one block and execute it; returns its receipts as executed."""
        header = self.following(height, stored)
        if beyond_bounds(stored.txs):
            raise CorruptHistory(height, "the block is larger than a block may be")
        kept = read_receipts(height, stored)
        overlay = Overlay(self.snapshot)
        ledger = Ledger(chain_id=self.genesis.chain_id, state=overlay, replay=self.replay, signatures=self.signatures)
        receipts = apply_block(
            ledger, Block(height=height, time_s=header.time_s, txs=stored.txs, evidence=header.evidence)
        )
        check_outcome(header, stored, receipts, kept)
        self.snapshot = self.snapshot.apply(overlay.changes())
        if self.snapshot.root_hash != header.app_hash:
            raise _Wrong(Part.STATE, height, "", "executing the block gives another state than its header states")
        self.replay.commit(header.time_s)
        self.height, self.time_s, self.block_hash = height, header.time_s, header_hash(header)
        self.unwritten += len(stored.txs)
        if self.unwritten >= CHECKPOINT_TXS:
            self.snapshot = self.fresh.checkpoint(height=height, snapshot=self.snapshot)
            self.unwritten = 0
        return receipts


def check_outcome(header: Header, stored: StoredBlock, receipts: list[Receipt], kept: tuple[Receipt, ...]) -> None:
    """Compare transactions and receipts with the header and with what executing them gave."""
    outcomes = [encode_receipt(receipt) for receipt in receipts]
    differing = next(
        (index for index, pair in enumerate(zip(outcomes, stored.receipts, strict=True)) if pair[0] != pair[1]), None
    )
    if tx_root(stored.txs) != header.tx_root:
        # The altered one is most likely the one whose outcome is not the recorded one: its signature fails.
        if differing is None:
            raise _Wrong(Part.BLOCK, header.height, "", "the transactions are not those that the header states")
        key = tx_name(stored.txs[differing], differing)
        raise _Wrong(Part.TRANSACTION, header.height, key, "the transaction is not the one that the header states")
    if differing is not None:
        key = tx_name(stored.txs[differing], differing)
        reason = "executing the transaction gives another receipt"
        if receipt_root(list(kept)) != header.receipt_root:
            reason = "the receipt is not the one that the header states"
        raise _Wrong(Part.RECEIPT, header.height, key, reason)
    if receipt_root(receipts) != header.receipt_root:
        raise _Wrong(Part.BLOCK, header.height, "", "the receipts are not those that the header states")


def tx_name(raw: bytes, index: int) -> str:
    """How a transaction is named in a finding: its place in the block and its id."""
    tx_id = id_of(raw)
    return f"{index}: {tx_id.hex() if tx_id else 'not a transaction'}"


# --- the node's own state -------------------------------------------------------------------------------


def check_index(own: TxIndex, height: int, stored: StoredBlock, receipts: Sequence[Receipt]) -> None:
    """Every admitted transaction of the block must be found by its id."""
    for index, (raw, receipt) in enumerate(zip(stored.txs, receipts, strict=True)):
        tx_id = id_of(raw)
        if tx_id is not None and admitted(receipt) and (height, index) not in own.candidates(tx_id):
            raise _Wrong(Part.STATE, height, tx_name(raw, index), "the index of transactions lacks this one")


def check_own_state(own: NodeStore, right: Snapshot, height: int) -> None:
    """Compare the node's tree at its checkpoint with the state as executed, and name the first wrong entry."""
    mine = own.snapshot()
    walked = 0
    try:
        for _ in check_tree(own.load, mine.root):
            walked += 1
    except BadState as damaged:
        # So many entries came out right, so the next one is the first that cannot be read.
        nearest = next(islice(right.scan(b""), walked, None), None)
        name = describe_key(nearest[0]) if nearest else ""
        raise _Wrong(Part.STATE, height, name, f"the state's tree is damaged: {damaged.reason}") from None
    if mine.root_hash == right.root_hash:
        return
    for found, wanted in zip_longest(mine.scan(b""), right.scan(b"")):
        if found != wanted:
            first = min(one[0] for one in (found, wanted) if one is not None)
            raise _Wrong(Part.STATE, height, describe_key(first), "the node's state has another value here")
    raise _Wrong(Part.STATE, height, "", "the node's state root is not the one that its entries have")


def describe_key(key: bytes) -> str:
    """A raw state key in people's terms: table and key parts."""
    for table in TABLES:
        if key[:1] == bytes([table.prefix]):
            return table.describe(key)
    return key.hex()


class _own_store:  # noqa: N801 - used like a function
    """The node's store, read-only; damage that shows on opening is a finding, not a failure."""

    def __init__(self, tree: Path) -> None:
        self._tree = tree
        self._store: NodeStore | None = None

    def __enter__(self) -> NodeStore:
        try:
            self._store = NodeStore.open(self._tree, read_only=True)
        except StoreDamaged as damaged:
            raise _Wrong(Part.STATE, 0, "", f"the state store cannot be opened: {damaged}") from None
        return self._store

    def __exit__(self, *_: object) -> Self | None:
        if self._store is not None:
            self._store.close()
        return None
