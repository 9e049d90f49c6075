"""Several stores as one vault: so many copies of everything, read from the first that is sound.

The first store is the organisation's own and gets every object. Which of the others get one is drawn from the hash of
the address and the store's name, so that all processes agree and a store that is added takes its share.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from tempfile import SpooledTemporaryFile
from typing import IO, Final

import structlog

from carechain.core.hashing import tagged
from carechain.core.limits import VAULT_CHUNK_BYTES, VAULT_STORES
from carechain.core.rejection import Rejected, RejectionCode
from carechain.vault.base import (
    SHA256,
    Hashing,
    Source,
    Vault,
    VaultUnavailable,
    address_of,
    address_of_stream,
    span,
    verified,
)
from carechain.vault.base import require_address as checked
from carechain.vault.codes import VaultCode

_IN_MEMORY_BYTES: Final = 1024 * 1024
_log = structlog.get_logger("carechain.vault")


class Replicated:
    """A vault over other vaults."""

    name: Final = "vault"

    def __init__(self, stores: Sequence[Vault], *, copies: int, minimum: int = 0, hashing: Hashing = SHA256) -> None:
        """``copies`` of each object are written; ``minimum`` of them must succeed (0: all). The first store is own.

        Raises ``ValueError`` for figures that do not fit, or for two stores of one name.
        """
        minimum = minimum or copies
        if not 1 <= minimum <= copies <= len(stores) <= VAULT_STORES:
            raise ValueError("copies must be at most the number of stores, and minimum at most copies")
        if len({one.name for one in stores}) != len(stores):
            raise ValueError("every store needs its own name")
        self.stores: Final = tuple(stores)
        self.copies: Final = copies
        self.hashing: Final = hashing
        self._minimum = minimum

    @property
    def is_near(self) -> bool:
        """Whether the own store is on this machine."""
        return self.stores[0].is_near

    @property
    def is_ours(self) -> bool:
        """The first store is own."""
        return self.stores[0].is_ours

    @property
    def ours(self) -> "Replicated":
        """The own store by itself: for what is kept for others, and for what they ask."""
        return Replicated(self.stores[:1], copies=1, hashing=self.hashing)

    def placement(self, address: bytes) -> tuple[Vault, ...]:
        """All stores in the order in which this object is written to them and read from them."""
        first, *others = self.stores
        return (first, *sorted(others, key=lambda one: tagged("carechain/vault-place/1", address, one.name.encode())))

    async def put(self, address: bytes, source: Source, *, replace: bool = False) -> None:
        """Write the copies; a store that cannot take one is passed over for the next.

        Raises ``Rejected`` for bytes with another hash, the stores' own refusal when none took it, and
        ``VaultUnavailable`` when fewer than the minimum did: what was written then stays for the next try.
        """
        if await asyncio.to_thread(address_of, source, self.hashing) != checked(address):
            raise Rejected(VaultCode.CONTENT_DIFFERS)
        order, kept, refusal = list(self.placement(address)), 0, None
        while order and kept < self.copies:
            now, order = order[: self.copies - kept], order[self.copies - kept :]
            results = await asyncio.gather(
                *(one.put(address, source, replace=replace) for one in now), return_exceptions=True
            )
            for store, result in zip(now, results, strict=True):
                if result is None:
                    kept += 1
                elif isinstance(result, Rejected | OSError):
                    refusal = result.code if isinstance(result, Rejected) else refusal
                    _log.warning("copy_not_written", store=kind_of(store), reason=_why(result))
                else:
                    raise result
        if kept < self._minimum:
            if refusal is not None and not kept:
                raise Rejected(refusal)
            raise VaultUnavailable(f"only {kept} of {self._minimum} copies could be written")

    async def open(self, address: bytes, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """A whole object from the first store whose copy has the right hash, or a part from the first that has one.

        Parts are not verified here: the sealed object's own chunks are, when they are opened. Raises ``Rejected`` with
        ``OBJECT_UNKNOWN`` or ``OBJECT_ALTERED``, and ``VaultUnavailable`` when no store could say.
        """
        whole = start == 0 and end is None
        chunks = self._whole(checked(address)) if whole else self._part(checked(address), start, end)
        async with aclosing(chunks) as opened:
            async for chunk in opened:
                yield chunk

    async def size(self, address: bytes) -> int | None:
        """The size by the first store that has the object."""
        unreached: OSError | None = None
        for store in self.placement(checked(address)):
            try:
                size = await store.size(address)
            except OSError as lost:
                unreached = lost
                continue
            if size is not None:
                return size
        if unreached is not None:
            raise VaultUnavailable("no store that can be reached has the object") from unreached
        return None

    async def delete(self, address: bytes) -> bool:
        """Destroy every copy; raises ``VaultUnavailable`` when a store could not be reached, after all were tried."""
        return await self._delete(address, self.stores)

    async def delete_ours(self, address: bytes) -> bool:
        """As :meth:`delete`, leaving other organisations' copies to them: an erasure is theirs to sign for."""
        return await self._delete(address, [one for one in self.stores if one.is_ours])

    async def delete_others(self, address: bytes) -> bool:
        """As :meth:`delete`, where other organisations keep copies for this one."""
        return await self._delete(address, [one for one in self.stores if not one.is_ours])

    async def holds_own(self, address: bytes) -> bool:
        """Whether a store of this organisation has a copy that is its own."""
        for store in self.stores:
            if store.is_ours and await store.holds_own(checked(address)):
                return True
        return False

    async def _delete(self, address: bytes, stores: Sequence[Vault]) -> bool:
        results = await asyncio.gather(*(one.delete(checked(address)) for one in stores), return_exceptions=True)
        failed = []
        for store, result in zip(stores, results, strict=True):
            if isinstance(result, OSError | Rejected):
                failed.append(store.name)
            elif isinstance(result, BaseException):
                raise result
        if failed:
            raise VaultUnavailable(f"copies may be left at: {', '.join(failed)}")
        return any(results)

    async def addresses(self) -> AsyncIterator[bytes]:
        """Every address that any store lists, in ascending order; each once."""
        async with aclosing(merged([one.addresses() for one in self.stores])) as found:
            async for address in found:
                yield address

    async def spooled(self, store: Vault, address: bytes) -> IO[bytes] | None:
        """A store's copy in a temporary file, if it is sound; otherwise None. The caller closes it."""
        hasher = self.hashing()
        spool = SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES)  # noqa: SIM115 - handed to the caller
        try:
            async with aclosing(store.open(address)) as chunks:
                async for chunk in chunks:
                    hasher.update(chunk)
                    await asyncio.to_thread(spool.write, chunk)
        except BaseException:
            spool.close()
            raise
        if hasher.digest() != address:
            spool.close()
            return None
        spool.seek(0)
        return spool

    async def _whole(self, address: bytes) -> AsyncGenerator[bytes, None]:
        verdict: RejectionCode | None = None
        unreached = False
        for store in self.placement(address):
            try:
                sound = await self._sound_copy(store, address)
            except OSError as lost:
                unreached = True
                _log.warning("copy_not_read", store=kind_of(store), reason=_why(lost))
                continue
            except Rejected as refused:
                if refused.code is not VaultCode.OBJECT_UNKNOWN and verdict is None:
                    verdict = refused.code
                continue
            if sound is None:
                verdict = VaultCode.OBJECT_ALTERED
                _log.error("copy_altered", store=kind_of(store), object=address.hex())
                continue
            # Sound a moment ago: what fails from here on is told, because the reader has a part of it already.
            async with aclosing(sound) as chunks:
                async for chunk in chunks:
                    yield chunk
            return
        self._give_up(verdict, unreached=unreached)

    async def _sound_copy(self, store: Vault, address: bytes) -> AsyncGenerator[bytes, None] | None:
        """A store's copy, read once already and found sound; None for an altered one.

        A copy on this machine is read twice, any other is kept in a temporary file meanwhile.
        """
        if not store.is_near:
            spool = await self.spooled(store, address)
            return None if spool is None else _read_out(spool)
        async with aclosing(store.open(address)) as chunks:
            found, _ = await address_of_stream(chunks, self.hashing)
        return verified(store.open(address), address, self.hashing) if found == address else None

    async def _part(self, address: bytes, start: int, end: int | None) -> AsyncGenerator[bytes, None]:
        """A store that fails in the middle is followed by the next, from where it stopped."""
        position, unreached = start, False
        verdict: RejectionCode | None = None
        for store in self.placement(address):
            try:
                size = await store.size(address)
                if size is None:
                    continue
                _, last = span(position, end, size)
                async with aclosing(store.open(address, position, last)) as chunks:
                    async for chunk in chunks:
                        position += len(chunk)
                        yield chunk
            except OSError as lost:
                unreached = True
                _log.warning("copy_not_read", store=kind_of(store), reason=_why(lost))
                continue
            except Rejected as refused:
                verdict = refused.code if verdict is None else verdict
                continue
            return
        self._give_up(verdict, unreached=unreached)

    def _give_up(self, verdict: RejectionCode | None, *, unreached: bool) -> None:
        if verdict is not None:
            raise Rejected(verdict)
        if unreached:
            raise VaultUnavailable("no store that can be reached has the object")
        raise Rejected(VaultCode.OBJECT_UNKNOWN)


async def merged(listings: Sequence[AsyncIterator[bytes]]) -> AsyncGenerator[bytes, None]:
    """Ascending listings as one, each address once; holds one address of each at a time."""
    heads = [await anext(one, None) for one in listings]
    while left := [one for one in heads if one is not None]:
        lowest = min(left)
        yield lowest
        for at, head in enumerate(heads):
            if head == lowest:
                heads[at] = await anext(listings[at], None)


async def _read_out(spool: IO[bytes]) -> AsyncGenerator[bytes, None]:
    with spool:
        while chunk := await asyncio.to_thread(spool.read, VAULT_CHUNK_BYTES):
            yield chunk


def _why(failure: BaseException) -> str:
    if isinstance(failure, Rejected):
        return failure.code.label
    return str(failure) if isinstance(failure, VaultUnavailable) else type(failure).__name__


def kind_of(store: Vault) -> str:
    """A store as a log may name it: without whose it is."""
    return store.name.partition(" ")[0]
