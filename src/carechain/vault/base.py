"""What every store of sealed objects does: take, give, list and destroy bytes by the hash of these bytes.

A store sees ciphertext and addresses, nothing else. :meth:`Vault.open` gives the bytes as they are stored; who must
not believe a store reads through :func:`verified`, which gives the last of them only once the hash has held.
"""

import os
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Final, Protocol

from carechain.core.hashing import HASH_SIZE
from carechain.core.limits import OBJECT_SIZE_BYTES, VAULT_CHUNK_BYTES
from carechain.core.rejection import Rejected, require
from carechain.core.suite import Hasher
from carechain.vault.codes import VaultCode

Hashing = Callable[[], Hasher]
"""Makes the hash that addresses are: SHA-256, or SM3 in a network that was founded with it."""
Source = Path | bytes
"""An object to store: a file, which is read as often as needed, or the bytes themselves."""
SHA256: Final[Hashing] = sha256


class VaultUnavailable(OSError):  # noqa: N818 - the state of the environment
    """A store cannot be used now: disk, network, another process. Names the store and no content."""


class Vault(Protocol):
    """A store of objects by address. An address is the 32-byte hash of the object's bytes."""

    @property
    def name(self) -> str:
        """What reports and figures call this store."""

    @property
    def is_near(self) -> bool:
        """Whether reading twice costs little: a disk of this machine."""

    @property
    def is_ours(self) -> bool:
        """Whether this organisation itself destroys what is in it: not where another one keeps a copy for it."""

    async def put(self, address: bytes, source: Source, *, replace: bool = False) -> None:
        """Keep an object durably, all of it or nothing; one that is there already is left alone.

        With ``replace`` whatever is there under the address is written anew. Raises ``Rejected`` with
        ``CONTENT_DIFFERS`` when the bytes have another hash, ``OBJECT_TOO_LARGE``; and ``OSError``.
        """

    def open(self, address: bytes, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """The stored bytes from ``start`` up to ``end`` (None: all), in chunks; nothing of them is verified.

        Raises ``Rejected`` with ``OBJECT_UNKNOWN`` or ``RANGE_UNUSABLE``, and ``OSError``.
        """

    async def size(self, address: bytes) -> int | None:
        """How many bytes are stored under the address; None where there is no object."""

    async def holds_own(self, address: bytes) -> bool:
        """Whether there is a copy that :meth:`delete` would destroy: in a store of many, one of this organisation's."""

    async def delete(self, address: bytes) -> bool:
        """Destroy an object; says whether there was one. Durable on return."""

    def addresses(self) -> AsyncIterator[bytes]:
        """Every address that this store can list, in ascending order."""


def require_address(address: bytes) -> bytes:
    """``address``, if it is 32 bytes; raises ``Rejected``."""
    require(len(address) == HASH_SIZE, VaultCode.ADDRESS_MALFORMED)
    return address


def parse_address(text: str) -> bytes:
    """An address from its only spelling, 64 small hexadecimal digits; raises ``Rejected``."""
    try:
        address = bytes.fromhex(text)
    except ValueError:
        raise Rejected(VaultCode.ADDRESS_MALFORMED) from None
    require(len(address) == HASH_SIZE and address.hex() == text, VaultCode.ADDRESS_MALFORMED)
    return address


def span(start: int, end: int | None, size: int) -> tuple[int, int]:
    """The range inside an object of ``size`` bytes; raises ``Rejected(RANGE_UNUSABLE)``."""
    last = size if end is None else end
    require(0 <= start <= last <= size, VaultCode.RANGE_UNUSABLE)
    return start, last


def size_of(source: Source) -> int:
    """How many bytes a source has; raises ``OSError``, and ``Rejected`` for more than an object may have."""
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    require(size <= OBJECT_SIZE_BYTES, VaultCode.OBJECT_TOO_LARGE)
    return size


def pieces_of(source: Source, piece_bytes: int = VAULT_CHUNK_BYTES) -> Iterator[bytes]:
    """A source's bytes in pieces of one size, the last one shorter. Blocks on the disk."""
    if isinstance(source, bytes):
        for at in range(0, len(source), piece_bytes):
            yield source[at : at + piece_bytes]
        return
    with source.open("rb") as file:
        while piece := file.read(piece_bytes):
            yield piece


def address_of(source: Source, hashing: Hashing = SHA256) -> bytes:
    """The address of a source's bytes. Blocks on the disk."""
    hasher = hashing()
    for piece in pieces_of(source):
        hasher.update(piece)
    return hasher.digest()


async def address_of_stream(chunks: AsyncIterable[bytes], hashing: Hashing = SHA256) -> tuple[bytes, int]:
    """The address and the size of what a stream brings; keeps none of it."""
    hasher, size = hashing(), 0
    async for chunk in chunks:
        hasher.update(chunk)
        size += len(chunk)
    return hasher.digest(), size


async def verified(
    chunks: AsyncIterable[bytes], address: bytes, hashing: Hashing = SHA256
) -> AsyncGenerator[bytes, None]:
    """The chunks of a whole object, the last of them held back until the hash holds.

    So whoever received all of them received the object. Raises ``Rejected(OBJECT_ALTERED)`` otherwise.
    """
    hasher, held = hashing(), b""
    async for chunk in chunks:
        hasher.update(chunk)
        if held:
            yield held
        held = chunk
    require(hasher.digest() == address, VaultCode.OBJECT_ALTERED)
    if held:
        yield held


def read_at(handle: int, position: int, length: int) -> bytes:
    """Exactly ``length`` bytes of an open file; raises :class:`VaultUnavailable` when it ends before."""
    parts = bytearray()
    while len(parts) < length:
        part = os.pread(handle, length - len(parts), position + len(parts))
        if not part:
            raise VaultUnavailable("a stored object became shorter while it was read")
        parts += part
    return bytes(parts)
