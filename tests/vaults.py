"""What every store must do, as one check, and stores that misbehave on demand: for the tests of the vault."""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from carechain.core.rejection import Rejected
from carechain.vault.base import SHA256, Hashing, Source, Vault, VaultUnavailable, address_of, pieces_of, span
from carechain.vault.codes import VaultCode


async def read(store: Vault, address: bytes, start: int = 0, end: int | None = None) -> bytes:
    """The bytes of an object, or of a part of it."""
    async with aclosing(store.open(address, start, end)) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def listed(store: Vault) -> list[bytes]:
    """Every address a store lists."""
    return [address async for address in store.addresses()]


async def check_store(
    store: Vault, folder: Path, *, large_bytes: int = 3_000_001, lists: bool = True, hashing: Hashing = SHA256
) -> None:
    """Put, read, read parts, list, refuse and delete, as the protocol says."""
    small, large, empty = b"\x00sealed", os.urandom(large_bytes), b""
    contents = {address_of(one, hashing): one for one in (small, large, empty)}
    file = folder / "一个对象"
    await asyncio.to_thread(file.write_bytes, large)
    for address, content in contents.items():
        assert await store.size(address) is None
        with pytest.raises(Rejected) as unknown:
            await read(store, address)
        assert unknown.value.code is VaultCode.OBJECT_UNKNOWN
        source: Source = file if content is large else content
        await store.put(address, source)
        await store.put(address, source)
        assert await store.size(address) == len(content)
        assert await read(store, address) == content
    found = await listed(store)
    assert found == (sorted(contents) if lists else [])
    address = address_of(large, hashing)
    for start, end in ((0, 1), (1, 6144), (6143, 6145), (100_000, 100_001), (large_bytes - 1, large_bytes), (5, 5)):
        assert await read(store, address, start, end) == large[start:end]
    assert await read(store, address, large_bytes - 10) == large[-10:]
    for start, end in ((0, large_bytes + 1), (large_bytes + 1, None), (5, 4), (-1, 5)):
        with pytest.raises(Rejected) as beyond:
            await read(store, address, start, end)
        assert beyond.value.code is VaultCode.RANGE_UNUSABLE
    other = bytes([address[0] ^ 1]) + address[1:]
    with pytest.raises(Rejected) as differs:
        await store.put(other, file)
    assert differs.value.code is VaultCode.CONTENT_DIFFERS
    assert await store.size(other) is None, "kept under a wrong address"
    with pytest.raises(Rejected) as malformed:
        await store.size(address[:-1])
    assert malformed.value.code is VaultCode.ADDRESS_MALFORMED
    await store.put(address, file, replace=True)
    assert await read(store, address) == large
    for one in contents:
        assert await store.delete(one)
        assert not await store.delete(one)
        assert await store.size(one) is None
    assert await listed(store) == []


class MemoryStore:
    """A store in memory that can be told to fail, and whose objects a test may alter."""

    is_near = False
    is_ours = True

    def __init__(self, name: str, *, hashing: Hashing = SHA256) -> None:
        self.name = name
        self.objects: dict[bytes, bytes] = {}
        self.is_down = False
        self.refuses: VaultCode | None = None
        self.fails_at: int | None = None
        self.reads = 0
        self._hashing = hashing

    async def put(self, address: bytes, source: Source, *, replace: bool = False) -> None:
        self._reach()
        if self.refuses is not None:
            raise Rejected(self.refuses)
        if address_of(source, self._hashing) != address:
            raise Rejected(VaultCode.CONTENT_DIFFERS)
        if replace or address not in self.objects:
            self.objects[address] = b"".join(pieces_of(source))

    async def open(self, address: bytes, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        self._reach()
        self.reads += 1
        if address not in self.objects:
            raise Rejected(VaultCode.OBJECT_UNKNOWN)
        content = self.objects[address]
        first, last = span(start, end, len(content))
        for position in range(first, last, 1000):
            if self.fails_at is not None and position + 1000 > self.fails_at:
                raise VaultUnavailable(self.name)
            yield content[position : min(position + 1000, last)]

    async def size(self, address: bytes) -> int | None:
        self._reach()
        return len(self.objects[address]) if address in self.objects else None

    async def holds_own(self, address: bytes) -> bool:
        return await self.size(address) is not None

    async def delete(self, address: bytes) -> bool:
        self._reach()
        return self.objects.pop(address, None) is not None

    async def addresses(self) -> AsyncIterator[bytes]:
        self._reach()
        for address in sorted(self.objects):
            yield address

    def _reach(self) -> None:
        if self.is_down:
            raise VaultUnavailable(self.name)
