"""Going back to an earlier height on one node whose process is stopped (LED-8): the blocks above it are cut off.

What is cut is kept in a file beside the log, which begins with the same label and goes on with the cut records. The
state tree is dropped where it is ahead, so that the next start makes it again from what is left. Where it cannot be
made again, because the log does not begin with the first block, nothing is cut.

**Order.** First the cut blocks are made durable in their own file, then the tree goes, then the log is cut: a tree
that reaches further than the log would be taken for a log that lost blocks. A crash in between leaves the whole log and
no tree, which is a node that was not rolled back.

A damaged record may lie above the height: the heads alone say where records begin, and the damage goes with them.
"""

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from shutil import rmtree
from typing import Final

from msgspec import Struct

from carechain.core.rejection import RejectionCode, require
from carechain.engine.blocklog import (
    HEAD_BYTES,
    INDEX_NAME,
    LABEL_BYTES,
    LOG_NAME,
    BlockLog,
    CorruptHistory,
    read_head,
)
from carechain.engine.disk import OsFile
from carechain.engine.sealed import read_header
from carechain.engine.session import TREE_FOLDER
from carechain.state.log import sync_folder
from carechain.state.store import height_on_disk

_PIECE_BYTES: Final = 4 * 1024 * 1024


class RollbackCode(RejectionCode):
    """Why a ledger is not cut."""

    NOT_BELOW_TIP = 1721, "The ledger does not reach above that height, so nothing is there to cut."
    NOT_CONFIRMED = 1722, "Nothing was changed. Look at what would be lost, then add --yes."
    NO_STATE = 1723, "This node began with a snapshot, and its state is past that height. Let it catch up anew instead."


class Loss(Struct, frozen=True, kw_only=True):
    """What cutting above ``height`` takes away. Times are Unix seconds by the blocks, 0 where none can be read.

    ``damaged_at`` is the first block above ``height`` that cannot be read, 0 if all can; ``blocks`` and ``txs`` count
    those before it.
    """

    height: int
    tip: int
    blocks: int
    txs: int
    first_s: int
    last_s: int
    size_bytes: int
    damaged_at: int = 0


def loss_above(folder: Path, height: int, *, genesis: bytes) -> Loss:
    """What the log in ``folder`` (``ledger`` of a home) would lose; reads only.

    ``genesis`` is the hash of the network's. Raises ``Rejected`` with a :class:`RollbackCode`, ``CorruptHistory`` when
    a record up to ``height`` has no legible head, what :class:`BlockLog` raises on opening, and ``OSError``.
    """
    log = BlockLog.open(folder, genesis=genesis, read_only=True)
    try:
        _require_state(folder, log, height)
        records = OsFile(folder / LOG_NAME, read_only=True)
        try:
            end, size = _end_of(records, log.base_height, height), records.size()
        finally:
            records.close()
        require(end < size, RollbackCode.NOT_BELOW_TIP)
        blocks = txs = first_s = last_s = damaged_at = 0
        try:
            for at, stored in log.blocks(height + 1):
                last_s = read_header(at, stored).header.time_s
                first_s = first_s or last_s
                blocks, txs = blocks + 1, txs + len(stored.txs)
        except CorruptHistory as corrupt:
            damaged_at = corrupt.height
        return Loss(
            height=height,
            tip=max(log.height, height),
            blocks=blocks,
            txs=txs,
            first_s=first_s,
            last_s=last_s,
            size_bytes=size - end,
            damaged_at=damaged_at,
        )
    finally:
        log.release()


def roll_back(folder: Path, height: int, *, genesis: bytes) -> Path:
    """Cut the log in ``folder`` above ``height``, durable when it returns; returns the file with the cut blocks.

    Raises what :func:`loss_above` raises, and ``FileLocked`` when a node has the log open.
    """
    # Looks at the label, which decides whether this is the right network's log at all.
    log = BlockLog.open(folder, genesis=genesis, read_only=True)
    log.release()
    records = OsFile(folder / LOG_NAME)
    try:
        _require_state(folder, log, height)
        end, size = _end_of(records, log.base_height, height), records.size()
        require(end < size, RollbackCode.NOT_BELOW_TIP)
        kept = _keep(records, folder, height=height, start=end, size=size)
        _drop_derived(folder, height)
        records.truncate(end)
        records.sync()
    finally:
        records.close()
    return kept


def _require_state(folder: Path, log: BlockLog, height: int) -> None:
    """A state at ``height`` must be had: by executing all blocks, or those after the tree's checkpoint."""
    if log.base_height:
        checkpoint = height_on_disk(folder / TREE_FOLDER)
        require(checkpoint is not None and log.base_height <= checkpoint <= height, RollbackCode.NO_STATE)


def _end_of(records: OsFile, base_height: int, height: int) -> int:
    """Where the record of ``height`` ends, by the heads from the beginning on."""
    offset = LABEL_BYTES
    for at in range(base_height + 1, height + 1):
        data = records.read_at(offset, HEAD_BYTES)
        require(data, RollbackCode.NOT_BELOW_TIP)
        found = read_head(data)
        if found is None or found[0] != at:
            raise CorruptHistory(at, "the record's head cannot be read, so nothing behind it can be found")
        offset += HEAD_BYTES + found[1]
    return offset


def _keep(records: OsFile, folder: Path, *, height: int, start: int, size: int) -> Path:
    """Copy label and cut records into a file of their own; durable with its name."""
    for number in count(1):
        path = folder / f"rolled-back-{height}-{number}.log"
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            continue
        break
    with os.fdopen(handle, "wb") as file:
        file.write(records.read_at(0, LABEL_BYTES))
        for piece in _pieces(records, start, size):
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(folder)
    return path


def _pieces(records: OsFile, start: int, end: int) -> Iterator[bytes]:
    while start < end:
        piece = records.read_at(start, min(_PIECE_BYTES, end - start))
        if not piece:
            raise OSError("the block log became shorter while it was read")
        start += len(piece)
        yield piece


def _drop_derived(folder: Path, height: int) -> None:
    """Tree and index come from the log, and what is left of it gives others; a tree that is not ahead stays right."""
    tree = folder / TREE_FOLDER
    if tree.exists():
        checkpoint = height_on_disk(tree)
        if checkpoint is None or checkpoint > height:
            rmtree(tree)
    (folder / INDEX_NAME).unlink(missing_ok=True)
    sync_folder(folder)
