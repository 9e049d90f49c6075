"""An organisation's vault as its own programs use it: the stores, their books and the search tokens together.

It is itself a :class:`~carechain.vault.base.Vault`: what is put is metered, what is erased is never served or taken
again. An erasure is noted durably before anything is destroyed, so after a crash the scrub finishes it.

What is kept for another organisation, and what another organisation asks for, goes to the own store only. Two that keep
each other's copies would otherwise pass every object, and every question for one, to and fro without end.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Final

from carechain.core.rejection import Rejected, require
from carechain.vault.base import Source, require_address, size_of
from carechain.vault.codes import VaultCode
from carechain.vault.metering import NOBODY, Metering
from carechain.vault.replicated import Replicated
from carechain.vault.tokens import TokenStore

ErasedOnLedger = Callable[[bytes], bool]


class VaultService:
    """Everything that an organisation keeps sealed."""

    name: Final = "vault"

    def __init__(
        self,
        vault: Replicated,
        metering: Metering,
        tokens: TokenStore,
        *,
        organisation: bytes,
        clock: Callable[[], int],
        is_erased: ErasedOnLedger = lambda _: False,
    ) -> None:
        """``clock()`` is Unix seconds. ``is_erased`` is asked beside the own books."""
        self.vault: Final = vault
        self._ours: Final = vault.ours
        self.metering: Final = metering
        self.tokens: Final = tokens
        self._organisation = organisation
        self._clock = clock
        self._is_erased = is_erased

    @property
    def is_near(self) -> bool:
        """As the stores'."""
        return self.vault.is_near

    @property
    def is_ours(self) -> bool:
        """As the stores'."""
        return self.vault.is_ours

    async def put(
        self,
        address: bytes,
        source: Source,
        *,
        replace: bool = False,
        pseudonym: bytes = NOBODY,
        party: bytes | None = None,
    ) -> None:
        """Keep an object and meter it, for the patient ``pseudonym`` and the organisation ``party`` (None: the own).

        Another organisation's object is one of its copies already, so no more are made of it. Raises what the stores
        raise, and ``Rejected(OBJECT_ERASED)``.
        """
        await self._require_not_erased(require_address(address))
        size = size_of(source)
        stores = self.vault if party in (None, self._organisation) else self._ours
        await stores.put(address, source, replace=replace)
        await asyncio.to_thread(
            self.metering.begin,
            address,
            pseudonym=pseudonym,
            party=self._organisation if party is None else party,
            size=size,
            now_s=self._clock(),
        )
        if await self.is_erased(address):
            # Ordered while it was being written.
            await self.erase(address)
            raise Rejected(VaultCode.OBJECT_ERASED)

    async def open(
        self, address: bytes, start: int = 0, end: int | None = None, *, only_ours: bool = False
    ) -> AsyncGenerator[bytes, None]:
        """As the stores, but nothing that was erased; with ``only_ours`` from the own store."""
        await self._require_not_erased(require_address(address))
        stores = self._ours if only_ours else self.vault
        async with aclosing(stores.open(address, start, end)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def size(self, address: bytes, *, only_ours: bool = False) -> int | None:
        """As the stores, but nothing that was erased; with ``only_ours`` from the own store."""
        await self._require_not_erased(require_address(address))
        return await (self._ours if only_ours else self.vault).size(address)

    async def holds_own(self, address: bytes) -> bool:
        """As the stores'."""
        return await self.vault.holds_own(address)

    async def delete(self, address: bytes) -> bool:
        """Destroy an object in every store and end its metering; it may be put again."""
        there = await self.vault.delete(require_address(address))
        await asyncio.to_thread(self.metering.end, address, now_s=self._clock())
        return there

    async def give_up(self, address: bytes, party: bytes) -> bool:
        """``party`` wants its copy kept no more; the object is destroyed once nobody else has it here."""
        require_address(address)
        ended = await asyncio.to_thread(self.metering.end, address, now_s=self._clock(), party=party)
        if not ended:
            return False
        if not await asyncio.to_thread(self.metering.is_held, address):
            await self.vault.delete_ours(address)
        if party == self._organisation:
            await self.vault.delete_others(address)
        return True

    async def erase(self, address: bytes) -> bool:
        """Destroy an object for good: from now on it is neither served nor taken. Says whether a copy was there.

        Copies that other organisations keep are theirs to destroy and to sign for: they read the same ledger. Raises
        ``VaultUnavailable`` when copies may be left; the same call, or a scrub, finishes it.
        """
        await asyncio.to_thread(self.metering.erase, require_address(address), now_s=self._clock())
        return await self.vault.delete_ours(address)

    async def finish_erasure(self, address: bytes) -> bool | None:
        """Destroy what there is of an object that was erased, as :meth:`erase`; None for one that was not."""
        return await self.erase(address) if await self.is_erased(address) else None

    async def forget(self, address: bytes) -> None:
        """End the metering of an erased object that is not here: books from an old backup count it still."""
        if await asyncio.to_thread(self.metering.is_held, address):
            await asyncio.to_thread(self.metering.erase, address, now_s=self._clock())

    async def addresses(self) -> AsyncIterator[bytes]:
        """As the stores."""
        async for address in self.vault.addresses():
            yield address

    def now_s(self) -> int:
        """Unix time by this vault's clock."""
        return self._clock()

    async def is_erased(self, address: bytes) -> bool:
        """Whether the object was erased, by the own books or by what the organisation's ledger says."""
        return self._is_erased(address) or await asyncio.to_thread(self.metering.is_erased, address)

    async def _require_not_erased(self, address: bytes) -> None:
        require(not await self.is_erased(address), VaultCode.OBJECT_ERASED)
