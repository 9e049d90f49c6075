"""Append-only files that hold the stored nodes of the trie.

A reference is a 64-bit number that says file, offset and length, so one positioned read fetches a node and no
index stands between. Files only grow at the end and are dropped whole, after what is still in use has been moved out of
them; nothing is ever overwritten.

Nodes are written in three streams because they live differently: a leaf stays until its entry changes, a lower branch
(one whose children are all leaves) until one of a few entries does, and an upper branch is replaced with every change
below it. Kept apart, files of upper branches are all but unused when their turn to be emptied comes, and the others
seldom need it.

Behind each node stands a CRC-32 of its bytes, references included, seeded with the place it is meant for. It is checked
whenever a node is fetched: a changed bit must be noticed before a block is built on it, because the hashes in the tree
are only looked at by ``verify``. What fails leaves a mark in the folder, so that the next start does not use it either.

Why files and not the B-tree that holds the rest: replaced branches lie scattered, and deleting them from a B-tree
rewrites about as many pages at every checkpoint as the tree has.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from os import pread
from pathlib import Path
from struct import error as StructError  # noqa: N812 - the standard library's spelling of a class
from typing import Final
from zlib import crc32

from carechain.state.node import REFERENCE_SIZE, stored_size

UPPER: Final = 0
LOWER: Final = 1
LEAVES: Final = 2
_STREAM_NAMES: Final = ("upper", "lower", "leaves")
DEFAULT_FILE_BYTES: Final = 4 * 1024 * 1024

_LENGTH_BITS: Final = 18
_OFFSET_BITS: Final = 26
_LENGTH_MASK: Final = (1 << _LENGTH_BITS) - 1
_OFFSET_MASK: Final = (1 << _OFFSET_BITS) - 1
_FILE_SHIFT: Final = _LENGTH_BITS + _OFFSET_BITS
# The stream stands in the two highest bits of a reference, so that the first byte of a leaf's is 128 or more.
_STREAM_SHIFT: Final = 18
_COUNT_MASK: Final = (1 << _STREAM_SHIFT) - 1
_LOWER_BIT: Final = LOWER << _STREAM_SHIFT + _FILE_SHIFT
_LEAF_BYTE: Final = LEAVES << 6
_LARGEST_FILE_BYTES: Final = 1 << _OFFSET_BITS
_FILES_PER_STREAM: Final = 64
"""Files grow with the store, so that about this many are open per stream until they reach their largest size."""
_SUFFIX: Final = ".nodes"
DAMAGED_MARK: Final = "damaged"
"""The name of the file that says that damage was found here."""
_CHECK_BYTES: Final = 4
_PRIVATE: Final = 0o700
_SEED_MASK: Final = 0xFFFF_FFFF
_SOUND: Final = 0x2144_DF1C
"""The CRC-32 of any bytes with their own CRC-32 behind them, least significant byte first."""


class StoreDamaged(Exception):  # noqa: N818 - names the state of the disk
    """What is on the disk is not what was written; start again: the store is then rebuilt from the block log."""


class NodeFile:
    """One file: its descriptor, how many bytes it has, and how many of them are no longer in use."""

    __slots__ = ("dead_bytes", "handle", "size_bytes")

    def __init__(self, *, handle: int, size_bytes: int, dead_bytes: int) -> None:
        self.handle = handle
        self.size_bytes = size_bytes
        self.dead_bytes = dead_bytes


def file_of(reference: int) -> int:
    """The number of the file a reference points into."""
    return reference >> _FILE_SHIFT


def size_of(reference: int) -> int:
    """The length in bytes of what a reference points to: the node and its checksum."""
    return reference & _LENGTH_MASK


def stream_of(number: int) -> int:
    """The stream a file number belongs to."""
    return number >> _STREAM_SHIFT


def is_upper(reference: int) -> bool:
    """Whether a reference is to an upper branch."""
    return reference < _LOWER_BIT


def all_leaves(references: bytes | bytearray) -> bool:
    """Whether all references of a branch are to leaves."""
    return min(references[::REFERENCE_SIZE]) >= _LEAF_BYTE


class Stream:
    """The end of the log where nodes of one kind are appended."""

    __slots__ = ("_log", "_next", "_room", "_waiting", "active", "kind")

    def __init__(self, log: "NodeLog", kind: int) -> None:
        self._log = log
        self.kind = kind
        self.active: int | None = None
        # The reference of the next node but for its length, and how many bytes the active file still takes.
        self._next = 0
        self._room = 0
        self._waiting: list[bytes] = []

    def add(self, stored: bytes) -> int:
        """Append a node and return its reference; it can be loaded once the log is flushed."""
        size = len(stored) + _CHECK_BYTES
        if size > self._room:
            self._begin_file(size)
        self._room -= size
        check = crc32(stored, self._next >> _LENGTH_BITS & _SEED_MASK)
        self._waiting += stored, check.to_bytes(_CHECK_BYTES, "little")
        reference = self._next | size
        self._next += size << _LENGTH_BITS
        return reference

    def resume(self, number: int, size_bytes: int) -> None:
        """Go on in a file that has ``size_bytes``."""
        self.active = number
        self._next = number << _FILE_SHIFT | size_bytes << _LENGTH_BITS
        self._room = self._log.capacity(self.kind) - size_bytes

    def _begin_file(self, size: int) -> None:
        if size > _LENGTH_MASK:
            raise ValueError("a node too large for a reference")
        self.write()
        number = (self.kind << _STREAM_SHIFT if self.active is None else self.active) + 1
        self._log.create(number)
        self.resume(number, 0)

    def write(self) -> None:
        """Hand what waits to the operating system."""
        if self.active is not None and self._waiting:
            self._log.extend(self.active, b"".join(self._waiting))
            self._waiting.clear()


class NodeLog:
    """All node files of one store. A file's number says its stream and which of the stream's files it is."""

    def __init__(self, folder: Path, *, file_bytes: int, writable: bool) -> None:
        """Start without files. ``file_bytes`` is the size at which a small store begins its next file."""
        self._folder = folder
        self._file_bytes = file_bytes
        self._writable = writable
        self._handles: dict[int, int] = {}
        self._grown: set[int] = set()
        self.files: dict[int, NodeFile] = {}
        self.upper = Stream(self, UPPER)
        self.lower = Stream(self, LOWER)
        self.leaves = Stream(self, LEAVES)
        self.streams = (self.upper, self.lower, self.leaves)

    def load(self, reference: int) -> bytes:
        """The stored bytes of a node. Raises :class:`StoreDamaged` when they are not those that were written."""
        place = reference >> _LENGTH_BITS
        try:
            stored = pread(self._handles[reference >> _FILE_SHIFT], reference & _LENGTH_MASK, place & _OFFSET_MASK)
        except KeyError:
            raise self.condemn("a node file is missing") from None
        if crc32(stored, place & _SEED_MASK) != _SOUND:
            raise self.condemn("a node fails its checksum")
        return stored[:-_CHECK_BYTES]

    def condemn(self, reason: str) -> StoreDamaged:
        """The error to raise for damage, after leaving the mark that keeps a later start from using the store."""
        if self._writable:
            # Where the disk takes no mark, a later start has to meet the damage again.
            with suppress(OSError):
                os.close(os.open(self._folder / DAMAGED_MARK, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
                sync_folder(self._folder)
        return StoreDamaged(reason)

    # --- files --------------------------------------------------------------------------------------------

    def adopt(self, sizes: Iterable[tuple[int, int, int]]) -> None:
        """Open the files a checkpoint names, as (number, size, dead bytes), and cut what was written after it.

        Files the checkpoint does not name are left over from an interrupted one; a writable log removes them.
        Raises :class:`StoreDamaged`, where the log is writable also when damage was found here earlier.
        """
        if self._writable and (self._folder / DAMAGED_MARK).exists():
            raise StoreDamaged("damage was found in it earlier")
        for number, size, dead in sizes:
            handle = self._open(number, os.O_RDWR if self._writable else os.O_RDONLY)
            self.files[number] = NodeFile(handle=handle, size_bytes=size, dead_bytes=dead)
            present = os.fstat(handle).st_size
            if present < size:
                raise StoreDamaged("a node file ends too early")
            if present > size and self._writable:
                os.ftruncate(handle, size)
        for stream in self.streams:
            newest = max((number for number in self.files if stream_of(number) == stream.kind), default=None)
            if newest is not None:
                stream.resume(newest, self.files[newest].size_bytes)
        if self._writable:
            named = {self._path(number) for number in self.files}
            for path in self._folder.glob(f"*{_SUFFIX}"):
                if path not in named:
                    path.unlink()

    def _open(self, number: int, flags: int) -> int:
        try:
            handle = os.open(self._path(number), flags | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            raise StoreDamaged("a node file is missing") from None
        self._handles[number] = handle
        return handle

    def _path(self, number: int) -> Path:
        return self._folder / f"{_STREAM_NAMES[stream_of(number)]}-{number & _COUNT_MASK:06d}{_SUFFIX}"

    def capacity(self, kind: int) -> int:
        """How large the stream's next file may become, in bytes."""
        total = sum(file.size_bytes for number, file in self.files.items() if stream_of(number) == kind)
        return min(_LARGEST_FILE_BYTES, max(self._file_bytes, total // _FILES_PER_STREAM))

    def create(self, number: int) -> None:
        """Begin a file."""
        handle = self._open(number, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        self.files[number] = NodeFile(handle=handle, size_bytes=0, dead_bytes=0)

    def forget(self, number: int) -> None:
        """Leave a file out of the next checkpoint; it stays readable until :meth:`drop`."""
        del self.files[number]

    def drop(self, number: int) -> None:
        """Close and remove a forgotten file."""
        os.close(self._handles.pop(number))
        self._path(number).unlink(missing_ok=True)

    def close(self) -> None:
        """Close all files."""
        for handle in self._handles.values():
            os.close(handle)
        self._handles.clear()
        self.files.clear()

    # --- appending ----------------------------------------------------------------------------------------

    def extend(self, number: int, data: bytes) -> None:
        """Write ``data`` at the end of a file."""
        file = self.files[number]
        view = memoryview(data)
        while view:
            written = os.pwrite(file.handle, view, file.size_bytes)
            file.size_bytes += written
            view = view[written:]
        self._grown.add(number)

    def flush(self) -> list[int]:
        """Make everything added durable; returns the numbers of the files that grew."""
        for stream in self.streams:
            stream.write()
        grown = sorted(self._grown)
        for number in grown:
            os.fdatasync(self.files[number].handle)
        if grown:
            # A file begun just now is durable only once its name is.
            sync_folder(self._folder)
        self._grown.clear()
        return grown

    # --- emptying -----------------------------------------------------------------------------------------

    def live(self, number: int, dead: set[int]) -> Iterator[tuple[int, bytes]]:
        """The nodes of a file that are not in ``dead``, as (reference, stored bytes)."""
        file = self.files[number]
        data = os.pread(file.handle, file.size_bytes, 0)
        if len(data) != file.size_bytes:
            raise self.condemn("a node file ends too early")
        at = 0
        while at < len(data):
            try:
                end = at + stored_size(data, at) + _CHECK_BYTES
            except StructError:
                raise self.condemn("a node fails its checksum") from None
            reference = number << _FILE_SHIFT | at << _LENGTH_BITS | end - at
            # Also where nobody uses the node: its length says where the next one begins.
            if crc32(data[at:end], reference >> _LENGTH_BITS & _SEED_MASK) != _SOUND:
                raise self.condemn("a node fails its checksum")
            if reference not in dead:
                yield reference, data[at : end - _CHECK_BYTES]
            at = end


# --- folders ------------------------------------------------------------------------------------------------


def make_folder(folder: Path) -> None:
    """Make ``folder`` and what is missing above it, for its owner only, and return once all these names are durable.

    The name of a folder that is there already is made durable too: whoever made it may have been stopped in between.
    """
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    for one in reversed(missing):
        one.mkdir(mode=_PRIVATE, exist_ok=True)
        sync_folder(one.parent)
    if not missing:
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
