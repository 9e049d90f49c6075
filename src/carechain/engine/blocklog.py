"""The block log: every block as it was acknowledged, append-only and checksummed. All else is derived from it.

**Layout.** The file begins with a label (what it is, format version, genesis hash, checksum). Then one record
per height from 1 on, or from the one after its *base* (:mod:`carechain.engine.base`) where the ledger took over a
snapshot; such a label has version 2 and the digest of genesis and base instead. A record is a head of fixed size with
height, payload length, the payload's checksum and a checksum over the head itself, followed by the payload: sealed
header, transactions, receipts. Checksums are truncated SHA-256. They are not chained: they are there for the disk's
errors, and against people the headers are chained and signed.

**Torn or corrupt.** A record is written whole, synced, and only then acknowledged; the next record is written
after that. So whatever a crash cut short is the last record, and it was never acknowledged. It is *torn* exactly if
the file ends before the record does: inside its head, or before the end that a head with a correct checksum
states. Only that is cut off. A record that is all there but fails a checksum is *corrupt*: it may have been
acknowledged, so it is never dropped, and opening refuses with :class:`CorruptHistory`. A flipped length cannot pass
for a torn record, because the head has its own checksum. What a torn record cannot be told from is a log
that somebody shortened; :mod:`carechain.engine.session` notices that where a checkpoint reaches further. Opening
therefore changes nothing: :meth:`BlockLog.settle` cuts, once it is known that no acknowledged block is missing.

**Whole is not yet durable.** The last record found on opening may be in the system's memory only: the process was
killed between writing and syncing, or a sync failed, after which Linux takes the pages for written. ``settle``
writes it once more and syncs, before anybody is told of it.

**Index.** Beside the log lies a file of 8-byte offsets, one per height. It is derived, is never synced except at
closing, and is rebuilt from the heads whenever it does not fit.
"""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from struct import Struct as Layout
from typing import Annotated, Final, Self

import msgspec
from msgspec import Meta, Struct

from carechain.core.codec import Malformed, decode_strict, encode
from carechain.core.hashing import tagged
from carechain.core.limits import BLOCK_TXS
from carechain.engine.base import BadBase, Base, digest_of, read_base
from carechain.engine.disk import LogFile, OsFile

LOG_NAME: Final = "blocks.log"
INDEX_NAME: Final = "blocks.index"
LOG_VERSION: Final = 2
"""Version 2 goes on from a base; without one a log is of version 1."""
_FROM_THE_FIRST: Final = 1
RECORD_BYTES: Final = 0xFFFF_FFFF
"""The largest payload a head can state; blocks are bounded far below it."""

_MAGIC: Final = b"carechain blocks"
_LABEL: Final = Layout(">16sI32s")
_CHECK_BYTES: Final = 12
LABEL_BYTES: Final = _LABEL.size + _CHECK_BYTES
_HEAD: Final = Layout(">QI16s")
_DIGEST_BYTES: Final = 16
HEAD_BYTES: Final = _HEAD.size + _CHECK_BYTES
_OFFSET: Final = Layout(">Q")


class CorruptHistory(Exception):  # noqa: N818 - names what is wrong with the disk
    """An acknowledged block is damaged or does not fit: restore it from a backup or another node.

    ``height`` is the first block that is wrong.
    """

    def __init__(self, height: int, reason: str) -> None:
        super().__init__(f"block {height}: {reason}")
        self.height = height
        self.reason = reason


class LogTooNew(Exception):  # noqa: N818 - names what is wrong with the log
    """The log was written by a newer version of the program; install that version."""


class WrongChain(Exception):  # noqa: N818 - names what is wrong with the folder
    """The folder belongs to a network with another genesis."""


class StoredBlock(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A record's payload: the sealed header's bytes, each transaction's, each receipt's."""

    header: bytes
    txs: Annotated[tuple[bytes, ...], Meta(max_length=BLOCK_TXS)]
    receipts: Annotated[tuple[bytes, ...], Meta(max_length=BLOCK_TXS)]


_blocks = msgspec.msgpack.Decoder(StoredBlock)


class BlockLog:
    """An open log. Single-threaded, one writer; use :meth:`open` for a folder."""

    __slots__ = (
        "_base_height",
        "_damage",
        "_end",
        "_genesis",
        "_height",
        "_index",
        "_last",
        "_records",
        "_settled",
        "_writable",
        "base",
        "torn_bytes",
    )

    def __init__(
        self,
        *,
        records: LogFile,
        index: LogFile | None,
        genesis: bytes,
        writable: bool = True,
        base: Base | None = None,
    ) -> None:
        """Check the label and the tail of ``records`` and bring ``index`` up to date.

        A torn record is passed over; ``torn_bytes`` says how much was torn. In a log that is not ``writable`` a damaged
        record is reported when reading gets there, and the index may be left out. Raises :class:`CorruptHistory`,
        :class:`WrongChain`, :class:`LogTooNew` or ``OSError``.
        """
        self._records = records
        self._index: LogFile = MemoryFile() if index is None else index
        self._writable = writable
        self._genesis = genesis
        self.base = base
        self._base_height = 0 if base is None else base.height
        self._height = self._base_height
        self._end = LABEL_BYTES
        self._last = 0, LABEL_BYTES
        self._settled = False
        self._damage: CorruptHistory | None = None
        self.torn_bytes = 0
        self._read_label()
        if not self._resume():
            self._walk(self._base_height + 1, LABEL_BYTES)

    @classmethod
    def open(cls, folder: Path, *, genesis: bytes, read_only: bool = False) -> Self:
        """The log in ``folder``, which must exist; ``genesis`` is the hash of the network's genesis."""
        records = OsFile(folder / LOG_NAME, read_only=read_only)
        try:
            # Behind the log's lock, since a running node may change it.
            base = _base_in(folder)
            index = None if read_only else OsFile(folder / INDEX_NAME)
        except BaseException:
            records.close()
            raise
        try:
            return cls(records=records, index=index, genesis=genesis, writable=not read_only, base=base)
        except BaseException:
            records.close()
            if index is not None:
                index.close()
            raise

    @property
    def height(self) -> int:
        """The height of the last block; the base's when there is none, and 0 without a base."""
        return self._height

    @property
    def base_height(self) -> int:
        """The height before the first block in the log: 0 for all blocks, more where a snapshot was taken over."""
        return self._base_height

    @property
    def size_bytes(self) -> int:
        """The length of the log up to the end of its last record."""
        return self._end

    # --- writing ------------------------------------------------------------------------------------------

    def append(self, height: int, block: StoredBlock) -> None:
        """Write the next block and return once it is durable.

        Settles the log first if nobody did. After an ``OSError`` nobody knows what the disk holds: close the log and
        open it again.
        """
        if not self._writable or height != self._height + 1:
            raise ValueError(f"block {height} does not come next in this log")
        payload = encode(block)
        if len(payload) > RECORD_BYTES:
            raise ValueError(f"a block of {len(payload)} bytes does not fit a record")
        if not self._settled:
            self.settle()
        record = record_head(height, payload) + payload
        self._records.write_at(self._end, record)
        self._records.sync()
        self._note(height, self._end, len(record))

    def settle(self, *, at_least: int = 0) -> None:
        """Make what was found on opening durable, and cut off what is torn: before anybody is told of a block.

        ``at_least`` is a height that is known to have been acknowledged: a log that ends below it raises
        :class:`CorruptHistory` and is left as it is.
        """
        self.require(at_least)
        if not self._writable or self._settled:
            return
        if self.torn_bytes:
            self._records.truncate(self._end)
        offset, size = self._last
        self._records.write_at(offset, self._records.read_at(offset, size))
        self._records.sync()
        self._settled = True

    def begin_at(self, base: Base) -> None:
        """Go on from ``base``, which is durable by now, in a log without blocks. Raises ``ValueError``, ``OSError``."""
        if not self._writable or self._height != self._base_height:
            raise ValueError("a log with blocks cannot go on from elsewhere")
        self.base, self._base_height, self._height = base, base.height, base.height
        self._index.truncate(0)
        self._records.truncate(0)
        self._records.write_at(0, label_of(self._genesis, base))
        self._end, self._last, self.torn_bytes, self._settled = LABEL_BYTES, (0, LABEL_BYTES), 0, False
        self.settle()

    def require(self, height: int) -> None:
        """Raise :class:`CorruptHistory` where the log ends below ``height``, up to which blocks were acknowledged."""
        if self._height < height:
            raise CorruptHistory(self._height + 1, "the log ends here, but a checkpoint reaches further")

    def _note(self, height: int, offset: int, size: int) -> None:
        self._index.write_at(self._place(height), _OFFSET.pack(offset))
        self._height = height
        self._end = offset + size

    def close(self) -> None:
        """Sync the index, so that the next start need not rebuild it, and release the files."""
        try:
            if self._writable:
                self._index.sync()
        finally:
            self.release()

    def release(self) -> None:
        """Release the files without writing anything; may be repeated, also after :meth:`close`."""
        self._records.close()
        self._index.close()

    # --- reading ------------------------------------------------------------------------------------------

    def read(self, height: int) -> StoredBlock:
        """The block at ``height``. Raises ``IndexError`` if there is none, :class:`CorruptHistory` if it is damaged."""
        if not self._base_height < height <= self._height:
            raise IndexError(height)
        offset = self._offset(height)
        length, check = self._head(height, offset)
        return self._block(height, offset, length, check)

    def blocks(self, first: int | None = None) -> Iterator[tuple[int, StoredBlock]]:
        """Blocks from height ``first`` on, or all, ascending; raises :class:`CorruptHistory` at the first damaged one.

        ``IndexError`` if ``first`` lies before the first block of the log.
        """
        begin = self._base_height + 1
        first = begin if first is None else first
        if first < begin:
            raise IndexError(first)
        offset = LABEL_BYTES if first == begin else self._offset(first) if first <= self._height else self._end
        for height in range(first, self._height + 1):
            length, check = self._head(height, offset)
            yield height, self._block(height, offset, length, check)
            offset += HEAD_BYTES + length
        if self._damage is not None:
            raise self._damage

    def _offset(self, height: int) -> int:
        """Where a record begins; an index entry that points elsewhere means that the index has to be renewed."""
        entry = self._index.read_at(self._place(height), _OFFSET.size)
        if len(entry) == _OFFSET.size:
            offset = int.from_bytes(entry, "big")
            if LABEL_BYTES <= offset < self._end:
                found = read_head(self._records.read_at(offset, HEAD_BYTES))
                if found is not None and found[0] == height:
                    return offset
        return self._renewed_index()[height - 1 - self._base_height]

    def _place(self, height: int) -> int:
        """Where the offset of a record stands in the index."""
        return (height - 1 - self._base_height) * _OFFSET.size

    def _renewed_index(self) -> list[int]:
        """Write the index again from the heads; nothing changes where a head is damaged."""
        offsets = [offset for _, offset, _, _ in self._heads(self._base_height + 1, LABEL_BYTES, self._end)]
        self._index.write_at(0, b"".join(map(_OFFSET.pack, offsets)))
        return offsets

    def _heads(self, height: int, offset: int, end: int) -> Iterator[tuple[int, int, int, bytes]]:
        """The whole records from ``offset`` on, as (height, offset, payload length, payload checksum)."""
        while end - offset >= HEAD_BYTES:
            length, check = self._head(height, offset)
            if offset + HEAD_BYTES + length > end:
                return
            yield height, offset, length, check
            offset += HEAD_BYTES + length
            height += 1

    def _head(self, height: int, offset: int) -> tuple[int, bytes]:
        """Payload length and checksum of the record at ``offset``."""
        found = read_head(self._records.read_at(offset, HEAD_BYTES))
        if found is None:
            raise CorruptHistory(height, "the record's head fails its checksum")
        if found[0] != height:
            raise CorruptHistory(height, f"the record says that it is block {found[0]}")
        return found[1], found[2]

    def _block(self, height: int, offset: int, length: int, check: bytes) -> StoredBlock:
        payload = self._records.read_at(offset + HEAD_BYTES, length)
        if len(payload) != length or sha256(payload).digest()[:_DIGEST_BYTES] != check:
            raise CorruptHistory(height, "the record fails its checksum")
        try:
            return decode_strict(_blocks, payload)
        except Malformed:
            raise CorruptHistory(height, "the record is not a block") from None

    # --- opening ------------------------------------------------------------------------------------------

    def _read_label(self) -> None:
        label = label_of(self._genesis, self.base)
        found = self._records.read_at(0, LABEL_BYTES)
        if found == label:
            return
        if self.base is not None and self.base.genesis != self._genesis:
            raise WrongChain("the ledger began with a snapshot of another network")
        short = len(found) < LABEL_BYTES
        if short or (self.base is not None and self._records.size() == LABEL_BYTES):
            # Settling syncs the label before the first record is written, so this log never held a block of its own.
            if self._writable:
                self._records.truncate(0)
                self._records.write_at(0, label)
            elif short and self.base is None:
                raise CorruptHistory(0, "the log has no label")
            return
        raise self._wrong_label(found)

    def _wrong_label(self, found: bytes) -> Exception:
        body = found[: _LABEL.size]
        magic, version, chain = _LABEL.unpack(body)
        if magic != _MAGIC or found[_LABEL.size :] != _checksum(body):
            return CorruptHistory(0, "the log's label fails its checksum")
        if version > LOG_VERSION:
            return LogTooNew(f"the log has version {version}, this program knows {LOG_VERSION}")
        if version == LOG_VERSION:
            return CorruptHistory(0, "the snapshot that the log goes on from is missing, or is not the one beside it")
        if version == _FROM_THE_FIRST and chain != self._genesis:
            return WrongChain("the block log was started from another genesis")
        if version == _FROM_THE_FIRST:
            return CorruptHistory(0, "the log begins with the first block, but a snapshot's base lies beside it")
        return CorruptHistory(0, f"the log has the unknown version {version}")

    def _resume(self) -> bool:
        """Go on from the last block the index knows, checking the rest; False if the index is of no use."""
        known = self._index.size() // _OFFSET.size
        if not known:
            return False
        height = self._base_height + known
        offset = int.from_bytes(self._index.read_at(self._place(height), _OFFSET.size), "big")
        if not LABEL_BYTES <= offset < self._records.size():
            return False
        found = read_head(self._records.read_at(offset, HEAD_BYTES))
        if found is None or found[0] != height:
            return False
        self._walk(height, offset)
        return True

    def _walk(self, height: int, offset: int) -> None:
        """Note every record from ``offset`` on, check the last one whole, and measure what is torn."""
        self._height, self._end = height - 1, offset
        size = self._records.size()
        last: tuple[int, int, int, bytes] | None = None
        try:
            for last in self._heads(height, offset, size):
                self._note(last[0], last[1], HEAD_BYTES + last[2])
            if last is not None and self._writable:
                self._block(*last)
        except CorruptHistory as corrupt:
            if self._writable:
                raise
            self._damage = corrupt
            return
        if last is not None:
            self._last = last[1], HEAD_BYTES + last[2]
        self.torn_bytes = size - self._end
        self._index.truncate(self._place(self._height + 1))


class MemoryFile:
    """A :class:`~carechain.engine.disk.LogFile` in memory: the index of a log that is only read."""

    __slots__ = ("_data",)

    def __init__(self) -> None:
        """Start empty."""
        self._data = bytearray()

    def size(self) -> int:
        """The length in bytes."""
        return len(self._data)

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes from ``offset``."""
        return bytes(self._data[offset : offset + size])

    def write_at(self, offset: int, data: bytes) -> None:
        """Write ``data`` at ``offset``."""
        self._data[offset : offset + len(data)] = data

    def truncate(self, size: int) -> None:
        """Cut to ``size`` bytes."""
        del self._data[size:]

    def sync(self) -> None:
        """Memory has nothing to sync."""

    def close(self) -> None:
        """Nothing is held open."""


def _base_in(folder: Path) -> Base | None:
    try:
        return read_base(folder)
    except BadBase as bad:
        raise CorruptHistory(0, f"where the log begins cannot be read: {bad}") from None


def label_of(genesis: bytes, base: Base | None = None) -> bytes:
    """The first bytes of the log of the network with this genesis hash, beginning at the first block or at a base."""
    version, origin = _FROM_THE_FIRST, genesis
    if base is not None:
        version, origin = LOG_VERSION, tagged("carechain/base/1", genesis, digest_of(base))
    body = _LABEL.pack(_MAGIC, version, origin)
    return body + _checksum(body)


def record_head(height: int, payload: bytes) -> bytes:
    """The head of a record."""
    body = _HEAD.pack(height, len(payload), sha256(payload).digest()[:_DIGEST_BYTES])
    return body + _checksum(body)


def read_head(data: bytes) -> tuple[int, int, bytes] | None:
    """Height, payload length and payload checksum of a record's head; None if its own checksum fails."""
    body = data[: _HEAD.size]
    if len(data) != HEAD_BYTES or data[_HEAD.size :] != _checksum(body):
        return None
    height, length, check = _HEAD.unpack(body)
    return height, length, check


def _checksum(body: bytes) -> bytes:
    return sha256(b"carechain/blocklog/1" + body).digest()[:_CHECK_BYTES]
