"""Objects in a folder: one file each, named by its address, below two levels of folders.

A file is written in ``incoming/`` under a random name, synced, and renamed: whatever happens, an address names a whole
object or nothing. Writers hold a lock on their unfinished file, so what a crash left there is told apart and removed.
"""

import asyncio
import fcntl
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO, Final

from carechain.core.limits import VAULT_CHUNK_BYTES
from carechain.core.rejection import Rejected, require
from carechain.state.log import make_folder, sync_folder
from carechain.vault.base import SHA256, Hashing, Source, address_of, pieces_of, read_at, require_address, size_of, span
from carechain.vault.codes import VaultCode

INCOMING: Final = "incoming"
_FAN: Final = 2
_HEX: Final = frozenset("0123456789abcdef")
_NAME: Final = 64


class FolderStore:
    """A vault on a disk of this machine. Several processes may use one folder at a time."""

    is_near: Final = True
    is_ours: Final = True

    def __init__(self, root: Path, *, hashing: Hashing = SHA256, name: str = "folder") -> None:
        """Make the folder where it is missing, and remove what unfinished writes of dead processes left."""
        self.name: Final = name
        self._root = root
        self._hashing = hashing
        self._incoming = root / INCOMING
        make_folder(self._incoming)
        self._sweep()

    async def put(self, address: bytes, source: Source, *, replace: bool = False) -> None:
        """As :meth:`carechain.vault.base.Vault.put`. A stored file that was altered is written anew."""
        await asyncio.to_thread(self._put, require_address(address), source, replace=replace)

    async def open(self, address: bytes, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """As :meth:`carechain.vault.base.Vault.open`."""
        handle, size = await asyncio.to_thread(self._handle, require_address(address))
        try:
            position, last = span(start, end, size)
            while position < last:
                chunk = await asyncio.to_thread(read_at, handle, position, min(VAULT_CHUNK_BYTES, last - position))
                position += len(chunk)
                yield chunk
        finally:
            os.close(handle)

    async def size(self, address: bytes) -> int | None:
        """As :meth:`carechain.vault.base.Vault.size`."""
        try:
            return (await asyncio.to_thread(self._path(require_address(address)).stat)).st_size
        except FileNotFoundError:
            return None

    async def holds_own(self, address: bytes) -> bool:
        """As :meth:`carechain.vault.base.Vault.holds_own`."""
        return await self.size(address) is not None

    async def delete(self, address: bytes) -> bool:
        """As :meth:`carechain.vault.base.Vault.delete`. The disk may keep the bytes until it writes over them."""
        return await asyncio.to_thread(self._delete, require_address(address))

    async def addresses(self) -> AsyncIterator[bytes]:
        """As :meth:`carechain.vault.base.Vault.addresses`; files with other names are passed over."""
        for first in await asyncio.to_thread(_listed, self._root, _FAN):
            for second in await asyncio.to_thread(_listed, first, _FAN):
                for file in await asyncio.to_thread(_listed, second, _NAME):
                    if file.name.startswith(first.name + second.name):
                        yield bytes.fromhex(file.name)

    def _path(self, address: bytes) -> Path:
        name = address.hex()
        return self._root / name[:_FAN] / name[_FAN : 2 * _FAN] / name

    def _put(self, address: bytes, source: Source, *, replace: bool) -> None:
        size_of(source)
        path = self._path(address)
        if not replace and self._is_sound(path, address):
            return
        with self._unfinished() as (file, temporary):
            hasher = self._hashing()
            for piece in pieces_of(source):
                hasher.update(piece)
                file.write(piece)
            require(hasher.digest() == address, VaultCode.CONTENT_DIFFERS)
            file.flush()
            os.fsync(file.fileno())
            make_folder(path.parent)
            temporary.replace(path)
        sync_folder(path.parent)

    def _is_sound(self, path: Path, address: bytes) -> bool:
        try:
            return address_of(path, self._hashing) == address
        except FileNotFoundError:
            return False

    @contextmanager
    def _unfinished(self) -> Iterator[tuple[BinaryIO, Path]]:
        """A locked file that is gone afterwards, unless it was renamed."""
        temporary, handle = self._locked()
        with os.fdopen(handle, "wb") as file:
            try:
                yield file, temporary
            finally:
                temporary.unlink(missing_ok=True)

    def _locked(self) -> tuple[Path, int]:
        while True:
            temporary = self._incoming / token_hex(16)
            handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            fcntl.flock(handle, fcntl.LOCK_EX)
            # Another process may have swept the new file away before it was locked.
            if os.fstat(handle).st_nlink:
                return temporary, handle
            os.close(handle)

    def _sweep(self) -> None:
        for one in self._incoming.iterdir():
            with suppress(FileNotFoundError, BlockingIOError), one.open("rb") as file:
                fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
                one.unlink()

    def _handle(self, address: bytes) -> tuple[int, int]:
        try:
            handle = os.open(self._path(address), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise Rejected(VaultCode.OBJECT_UNKNOWN) from None
        return handle, os.fstat(handle).st_size

    def _delete(self, address: bytes) -> bool:
        path = self._path(address)
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        sync_folder(path.parent)
        return True


def _listed(folder: Path, digits: int) -> list[Path]:
    """What is named in so many hexadecimal digits, in order; a folder that is gone holds nothing."""
    try:
        with closing(os.scandir(folder)) as found:
            names = [one.name for one in found if len(one.name) == digits and _HEX.issuperset(one.name)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [folder / name for name in sorted(names)]
