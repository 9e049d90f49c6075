"""Append-only files that hold the stored nodes of the trie.

A reference is a 64-bit number that says file, offset and length, so one positioned read fetches a node and no
index stands between. Leaves and branches go to separate files because they live differently: a leaf stays
until its entry changes, a branch is replaced with every change below it. Files only grow at the end and are
dropped whole, after what is still in use has been moved out of them; nothing is ever overwritten.

Why files and not the B-tree that holds the rest: replaced branches lie scattered, and deleting them from a B-tree
rewrites about as many pages at every checkpoint as the tree has.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from carechain.state.node import stored_size

BRANCHES: Final = 0
LEAVES: Final = 1
STREAMS: Final = (BRANCHES, LEAVES)
DEFAULT_FILE_BYTES: Final = 4 * 1024 * 1024

_LENGTH_BITS: Final = 18
_OFFSET_BITS: Final = 26
_LENGTH_MASK: Final = (1 << _LENGTH_BITS) - 1
_OFFSET_MASK: Final = (1 << _OFFSET_BITS) - 1
_FILE_SHIFT: Final = _LENGTH_BITS + _OFFSET_BITS
_LARGEST_FILE_BYTES: Final = 1 << _OFFSET_BITS
_FILES_PER_STREAM: Final = 64
"""Files grow with the store, so that about this many are open per stream until they reach their largest size."""
_SUFFIX: Final = ".nodes"
_WRITE_BYTES: Final = 1024 * 1024


class StoreDamaged(Exception):  # noqa: N818 - names the state of the disk
    """What is on the disk is not what was written: rebuild the store from the block log."""


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
    """The length in bytes of the node a reference points to."""
    return reference & _LENGTH_MASK


class NodeLog:
    """All node files of one store: even file numbers hold branches, odd ones leaves."""

    def __init__(self, folder: Path, *, file_bytes: int, writable: bool) -> None:
        """Start without files. ``file_bytes`` is the size at which a small store begins its next file."""
        self._folder = folder
        self._file_bytes = file_bytes
        self._writable = writable
        self._handles: dict[int, int] = {}
        self._active: list[int | None] = [None, None]
        self._waiting: tuple[list[bytes], list[bytes]] = ([], [])
        self._room = [0, 0]
        self._touched: set[int] = set()
        self.files: dict[int, NodeFile] = {}

    def load(self, reference: int) -> bytes:
        """The stored bytes of a node. Raises :class:`StoreDamaged` when its file is shorter than it was."""
        size = reference & _LENGTH_MASK
        stored = os.pread(self._handles[reference >> _FILE_SHIFT], size, reference >> _LENGTH_BITS & _OFFSET_MASK)
        if len(stored) != size:
            raise StoreDamaged("a node file ends too early")
        return stored

    # --- files --------------------------------------------------------------------------------------------

    def adopt(self, sizes: Iterable[tuple[int, int, int]]) -> None:
        """Open the files a checkpoint names, as (number, size, dead bytes), and cut what was written after it.

        Files the checkpoint does not name are left over from an interrupted one; a writable log removes them.
        """
        for number, size, dead in sorted(sizes):
            handle = self._open(number, os.O_RDWR if self._writable else os.O_RDONLY)
            self.files[number] = NodeFile(handle=handle, size_bytes=size, dead_bytes=dead)
            present = os.fstat(handle).st_size
            if present < size:
                raise StoreDamaged("a node file ends too early")
            if present > size and self._writable:
                os.ftruncate(handle, size)
            self._active[number & 1] = number
        for stream in STREAMS:
            active = self._active[stream]
            self._room[stream] = 0 if active is None else self._capacity(stream) - self.files[active].size_bytes
        if self._writable:
            for path in self._folder.glob(f"*{_SUFFIX}"):
                if int(path.stem) not in self.files:
                    path.unlink()

    def _open(self, number: int, flags: int) -> int:
        try:
            handle = os.open(self._path(number), flags | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            raise StoreDamaged("a node file is missing") from None
        self._handles[number] = handle
        return handle

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:08d}{_SUFFIX}"

    def _capacity(self, stream: int) -> int:
        total = sum(file.size_bytes for number, file in self.files.items() if number & 1 == stream)
        return min(_LARGEST_FILE_BYTES, max(self._file_bytes, total // _FILES_PER_STREAM))

    def closed_files(self, stream: int) -> list[int]:
        """Numbers of the stream's files that nothing is appended to any more."""
        return [number for number in self.files if number & 1 == stream and number != self._active[stream]]

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

    def add(self, stream: int, stored: bytes) -> int:
        """Append a node and return its reference; it can be loaded after :meth:`flush`."""
        size = len(stored)
        if size > _LENGTH_MASK:
            raise ValueError("a node too large for a reference")
        if self._room[stream] < size:
            self._begin_file(stream)
        self._room[stream] -= size
        self._waiting[stream].append(stored)
        number = self._active[stream] or 0
        file = self.files[number]
        offset = file.size_bytes
        file.size_bytes = offset + size
        return number << _FILE_SHIFT | offset << _LENGTH_BITS | size

    def _begin_file(self, stream: int) -> None:
        self._write(stream)
        active = self._active[stream]
        number = (active if active is not None else stream) + 2
        capacity = self._capacity(stream)
        handle = self._open(number, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        self.files[number] = NodeFile(handle=handle, size_bytes=0, dead_bytes=0)
        self._active[stream] = number
        self._room[stream] = capacity

    def _write(self, stream: int) -> None:
        """Hand what waits to the operating system, at the end of the stream's active file."""
        number, waiting = self._active[stream], self._waiting[stream]
        if number is None or not waiting:
            return
        data = memoryview(b"".join(waiting))
        file = self.files[number]
        offset = file.size_bytes - len(data)
        while data:
            written = os.pwrite(file.handle, data[:_WRITE_BYTES], offset)
            offset += written
            data = data[written:]
        waiting.clear()
        self._touched.add(number)

    def flush(self) -> list[int]:
        """Make everything added durable; returns the numbers of the files that grew."""
        for stream in STREAMS:
            self._write(stream)
        grown = sorted(self._touched)
        for number in grown:
            os.fdatasync(self.files[number].handle)
        if grown:
            folder = os.open(self._folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        self._touched.clear()
        return grown

    # --- emptying -----------------------------------------------------------------------------------------

    def live(self, number: int, dead: set[int]) -> Iterator[tuple[int, bytes]]:
        """The nodes of a file that are not in ``dead``, as (reference, stored bytes)."""
        file = self.files[number]
        data = os.pread(file.handle, file.size_bytes, 0)
        if len(data) != file.size_bytes:
            raise StoreDamaged("a node file ends too early")
        at = 0
        while at < len(data):
            size = stored_size(data, at)
            reference = number << _FILE_SHIFT | at << _LENGTH_BITS | size
            if reference not in dead:
                yield reference, data[at : at + size]
            at += size
