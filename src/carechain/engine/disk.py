"""The few things the block log needs of a file, and the operating system's way of doing them.

The log speaks to this narrow face so that the simulator can put a disk under it that forgets what was not synced.
"""

import fcntl
import os
from pathlib import Path
from typing import Final, Protocol

from carechain.state.log import sync_folder

_WRITE_BYTES: Final = 8 * 1024 * 1024
"""One write hands over at most this much; the system may take less, so writing is a loop anyway."""
_CLOSED: Final = -1
"""No descriptor of the system has this number: using it is an ``OSError``."""


class FileLocked(Exception):  # noqa: N818 - names the state of the file
    """Another process has the file open for writing: one node at a time runs on a folder."""


class LogFile(Protocol):
    """One file. What was written is certain to be on the disk only after :meth:`sync`. Failures are ``OSError``."""

    def size(self) -> int:
        """The file's length in bytes."""

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes from ``offset``: fewer only where the file ends."""

    def write_at(self, offset: int, data: bytes) -> None:
        """Write all of ``data`` at ``offset``."""

    def truncate(self, size: int) -> None:
        """Cut the file to ``size`` bytes."""

    def sync(self) -> None:
        """Return once everything written is durable."""

    def close(self) -> None:
        """Release the file; closing twice is allowed."""


class OsFile:
    """A :class:`LogFile` of the operating system."""

    __slots__ = ("_handle",)

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Open ``path``; a writable file is locked, and made if it is not there, readable by its owner only.

        Raises :class:`FileLocked` or ``OSError``.
        """
        flags = os.O_RDONLY if read_only else os.O_RDWR | os.O_CREAT
        self._handle = os.open(path, flags | os.O_CLOEXEC, 0o600)
        try:
            if not read_only:
                _lock(self._handle, path)
                # Also where it was there already: whoever made it may have been stopped before doing this.
                sync_folder(path.parent)
        except BaseException:
            os.close(self._handle)
            raise

    def size(self) -> int:
        """The file's length in bytes."""
        return os.fstat(self._handle).st_size

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes from ``offset``: fewer only where the file ends."""
        found = os.pread(self._handle, size, offset)
        if len(found) == size or not found:
            return found
        parts = [found]
        missing = size - len(found)
        while missing:
            more = os.pread(self._handle, missing, offset + size - missing)
            if not more:
                break
            parts.append(more)
            missing -= len(more)
        return b"".join(parts)

    def write_at(self, offset: int, data: bytes) -> None:
        """Write all of ``data`` at ``offset``."""
        rest = memoryview(data)
        while rest:
            written = os.pwrite(self._handle, rest[:_WRITE_BYTES], offset)
            offset += written
            rest = rest[written:]

    def truncate(self, size: int) -> None:
        """Cut the file to ``size`` bytes."""
        os.ftruncate(self._handle, size)

    def sync(self) -> None:
        """Return once everything written is durable; ``fdatasync`` covers a changed length too."""
        os.fdatasync(self._handle)

    def close(self) -> None:
        """Release the file; closing twice is allowed."""
        handle, self._handle = self._handle, _CLOSED
        if handle != _CLOSED:
            os.close(handle)


def _lock(handle: int, path: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise FileLocked(f"{path.parent} is in use by another process") from None
