"""Carrying out erasures: destroy what this organisation holds of a record, then sign for it (REC-13).

The ledger's orders are the only work list, so nothing is forgotten: at every start all of them are compared with what
the stores hold, and a store that came back from an old backup loses the erased records again before anything of it is
served. The steps of one record, each of which may be repeated after a crash:

1. store by store, look at what is held, note it in the journal, and destroy it;
2. look again;
3. note that it is destroyed, and send the receipt.

A store that cannot be used now, a bucket far away for instance, keeps the others from nothing. The vault is not asked
again for each of very many records when it has failed a few times: a node must be able to start and to stop meanwhile.

A store is only ever asked for what belongs to the very record: charts by pseudonym and record id, the vault by the
addresses of the record's own anchors, which the ledger gives to no second record. So nobody's order destroys what is
somebody else's.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from itertools import islice
from typing import Final, Protocol

import structlog
from msgspec import Struct
from msgspec.structs import replace

from carechain.chain.queries import View
from carechain.chain.receipts import OK
from carechain.chain.tx import build
from carechain.charts.schema import ChartsUnavailable
from carechain.contracts.records import ConfirmErasure, ErasedPart, ordered_since
from carechain.core.crypto import SigningKey
from carechain.core.limits import NONCE_SIZE, QUERY_PAGE_ROWS, TX_LIFETIME_S
from carechain.core.rejection import Rejected
from carechain.gatekeeper.erasure_journal import ErasureJournal, JournalUnavailable, Noted
from carechain.gatekeeper.ledger import LedgerReader
from carechain.vault.service import VaultService

ERASE_EVERY_S: Final = 2
"""How often the ledger is looked at for new orders."""
RECEIPT_VALID_S: Final = TX_LIFETIME_S // 2
OUTCOME_S: Final = 10
"""How long an outcome is waited for: without a quorum there is none, and the node must be able to stop."""
_BATCH: Final = QUERY_PAGE_ROWS
_VAULT_TRIES: Final = 3
"""So many failures of the vault one after the other end asking it for this turn."""
_IN_THE_CHARTS: Final = ErasedPart.CHART | ErasedPart.SALTS
_IN_THE_VAULT: Final = ErasedPart.OBJECT | ErasedPart.CAPSULE
_log = structlog.get_logger("carechain.gatekeeper")

Named = tuple[bytes, bytes]
"""A record: its patient's pseudonym, and its id."""


class ErasableCharts(Protocol):
    """What an eraser needs of the charts. Both raise ``ChartsUnavailable``."""

    def held_among(self, named: Sequence[Named]) -> set[Named]:
        """Those of the records of which the charts have anything."""

    def erase(self, pseudonym: bytes, record_id: bytes, *, erased_s: int) -> bool:
        """Destroy a record in all its versions, with its salts."""


class ErasableVault(Protocol):
    """What an eraser needs of a vault. Both raise ``OSError``."""

    async def holds(self, address: bytes) -> bool:
        """Whether a copy of the object is there."""

    async def erase(self, address: bytes) -> bool:
        """Destroy every copy for good; says whether there was one."""

    async def forget(self, address: bytes) -> None:
        """End the books of an erased object that is not there."""


class ErasableTokens(Protocol):
    """What an eraser needs of the blind index. Both raise ``OSError``."""

    def holds(self, pseudonym: bytes, record: bytes) -> bool:
        """Whether the record has tokens there."""

    def delete(self, pseudonym: bytes, record: bytes) -> bool:
        """Forget the record's tokens; says whether there were any."""


class SealedObjects:
    """An organisation's vault for its eraser: past the doors, which an order has shut already.

    Copies at other organisations are theirs to destroy and to sign for: they read the same ledger.
    """

    def __init__(self, service: VaultService) -> None:
        self._service = service

    async def holds(self, address: bytes) -> bool:
        """As :class:`ErasableVault`, in the organisation's own stores."""
        return await self._service.holds_own(address)

    async def erase(self, address: bytes) -> bool:
        """As :class:`ErasableVault`; the object's metering ends with it."""
        return await self._service.erase(address)

    async def forget(self, address: bytes) -> None:
        """As :class:`ErasableVault`."""
        await self._service.forget(address)


class Holdings(Struct, frozen=True, kw_only=True):
    """Where an organisation keeps records. What it does not have is None.

    ``pointers`` lead to records that stand in another system: what is here of them, and destroyed, are the salts.
    """

    charts: ErasableCharts | None = None
    pointers: ErasableCharts | None = None
    vault: ErasableVault | None = None
    tokens: ErasableTokens | None = None


class Swept(Struct, frozen=True, kw_only=True):
    """What a turn did: records destroyed here, receipts that the ledger took, and records left for the next turn."""

    destroyed: int = 0
    receipts: int = 0
    postponed: int = 0


class Eraser:
    """Carries out the ledger's erasures for one organisation and signs the receipts with its member key."""

    def __init__(
        self,
        *,
        ledger: LedgerReader,
        journal: ErasureJournal,
        key: SigningKey,
        member: bytes,
        clock: Callable[[], int],
        entropy: Callable[[int], bytes],
        holdings: Holdings,
    ) -> None:
        """``member`` is the organisation's party id, ``clock()`` Unix seconds, ``entropy(n)`` random bytes."""
        self._ledger = ledger
        self._journal = journal
        self._key = key
        self._member = member
        self._clock = clock
        self._entropy = entropy
        self._charts = holdings.charts
        self._pointers = holdings.pointers
        self._vault = holdings.vault
        self._tokens = holdings.tokens
        self._done_to = 0
        """Every order up to this height was carried out since the start."""
        self._refused: set[Named] = set()
        """Receipts that the ledger refused; sending them again before a restart would only fill blocks."""
        self._turn = asyncio.Lock()
        self._stop: asyncio.Event | None = None
        self._vault_failures = 0

    async def carry_out(self, *, everything: bool = False) -> Swept:
        """Carry out what was ordered since the last turn, and send the receipts that are due.

        The first turn, and one for ``everything``, compares all orders of the ledger with what the stores hold. What
        cannot be destroyed now is left for the next turn and counted. Raises :class:`JournalUnavailable`.
        """
        destroyed = await self.destroy(everything=everything)
        async with self._turn:
            return replace(destroyed, receipts=await self._send_receipts())

    async def destroy(self, *, everything: bool = False) -> Swept:
        """As :meth:`carry_out`, without the receipts: for before the doors open, when the ledger may not answer yet."""
        async with self._turn:
            view = self._ledger.view()
            swept = await self._destroy_all(view, 0 if everything else self._done_to)
            if not swept.postponed:
                self._done_to = view.height
            return swept

    async def run(self, stop: asyncio.Event, *, every_s: float = ERASE_EVERY_S) -> None:
        """Look for orders at intervals until ``stop`` is set.

        What the environment does not allow now is tried again at the next turn. Anything else is raised: watch
        whatever runs this, because an erasure that nobody carries out looks like one that was never ordered.
        """
        self._stop = stop
        while not stop.is_set():
            await self._carry_out_or_log()
            try:
                await asyncio.wait_for(stop.wait(), every_s)
            except TimeoutError:
                continue

    async def _carry_out_or_log(self) -> None:
        try:
            await self.carry_out()
        except JournalUnavailable as unavailable:
            _log.error("storage_unavailable", kind=type(unavailable).__name__, reason=str(unavailable))

    # --- destroying ---------------------------------------------------------------------------------------

    async def _destroy_all(self, view: View, since: int) -> Swept:
        """Carry out every order above the height ``since``, and what an earlier attempt left unfinished."""
        destroyed = postponed = self._vault_failures = 0
        left_over = await asyncio.to_thread(self._journal.unfinished)
        # A ledger that was rolled back has forgotten the order, and without one nothing is touched.
        erased = view.contracts.records.is_erased
        begun = {(one.pseudonym, one.record) for one in left_over if erased(one.pseudonym, one.record)}
        ordered = ((one, record) for _, one, record in ordered_since(view.contracts.records, since))
        for batch in _batches(_each_once(begun, ordered)):
            try:
                in_charts = await self._in_charts(batch)
            except ChartsUnavailable as unavailable:
                _log.error("erasure_postponed", records=len(batch), reason=str(unavailable))
                postponed += len(batch)
                continue
            for one in batch:
                if self._stop is not None and self._stop.is_set():
                    return Swept(destroyed=destroyed, postponed=postponed + 1)
                try:
                    destroyed += await self._destroy(view, one, charted=one in in_charts, begun=one in begun)
                except (ChartsUnavailable, OSError) as failure:
                    _log.error("erasure_postponed", record=one[1].hex(), kind=type(failure).__name__)
                    postponed += 1
        return Swept(destroyed=destroyed, postponed=postponed)

    async def _destroy(self, view: View, one: Named, *, charted: bool, begun: bool) -> bool:
        """Destroy one record wherever it is held; says whether anything was."""
        pseudonym, record = one
        addresses = _addresses(view, one)
        held = ErasedPart(0)
        if self._charts is not None and charted:
            held |= await self._note(one, _IN_THE_CHARTS)
            await asyncio.to_thread(self._charts.erase, pseudonym, record, erased_s=self._clock())
        if await self._is_pointed_to(one) and self._pointers is not None:
            held |= await self._note(one, ErasedPart.SALTS)
            await asyncio.to_thread(self._pointers.erase, pseudonym, record, erased_s=self._clock())
        if self._tokens is not None and await asyncio.to_thread(self._tokens.holds, pseudonym, record):
            held |= await self._note(one, ErasedPart.TOKENS)
            await asyncio.to_thread(self._tokens.delete, pseudonym, record)
        held |= await self._destroy_objects(one, addresses)
        if not held and not begun:
            return False
        if await self._in_charts((one,)) or await self._is_pointed_to(one) or await self._held_sealed(one, addresses):
            raise OSError("a store still holds what it was told to destroy")
        await asyncio.to_thread(self._journal.finish, pseudonym, record)
        _log.info("record_erased", record=record.hex(), destroyed=int(held))
        return True

    async def _note(self, one: Named, part: ErasedPart) -> ErasedPart:
        """Put down what was found, before it is destroyed."""
        await asyncio.to_thread(self._journal.begin, *one, int(part))
        return part

    async def _destroy_objects(self, one: Named, addresses: Sequence[bytes]) -> ErasedPart:
        """Destroy a record's objects in the vault; says what was there. Raises ``OSError``."""
        if self._vault is None or not addresses:
            return ErasedPart(0)
        if self._vault_failures >= _VAULT_TRIES:
            raise OSError("the vault has failed in this turn already")
        held = ErasedPart(0)
        try:
            for address in addresses:
                if await self._vault.holds(address):
                    held |= await self._note(one, _IN_THE_VAULT)
                    await self._vault.erase(address)
                else:
                    # A home that came back from a backup has books of before the erasure, and none of the objects.
                    await self._vault.forget(address)
        except OSError:
            self._vault_failures += 1
            raise
        self._vault_failures = 0
        return held

    async def _in_charts(self, named: Sequence[Named]) -> set[Named]:
        return set() if self._charts is None else await asyncio.to_thread(self._charts.held_among, named)

    async def _is_pointed_to(self, one: Named) -> bool:
        return self._pointers is not None and bool(await asyncio.to_thread(self._pointers.held_among, (one,)))

    async def _held_sealed(self, one: Named, addresses: Sequence[bytes]) -> ErasedPart:
        held = ErasedPart(0)
        if self._vault is not None:
            for address in addresses:
                if await self._vault.holds(address):
                    held |= _IN_THE_VAULT
                    break
        if self._tokens is not None and await asyncio.to_thread(self._tokens.holds, *one):
            held |= ErasedPart.TOKENS
        return held

    # --- receipts -----------------------------------------------------------------------------------------

    async def _send_receipts(self) -> int:
        """Send every receipt that is due; returns how many the ledger has now that it did not have before."""
        sent = 0
        for noted in await asyncio.to_thread(self._journal.without_receipt):
            if (noted.pseudonym, noted.record) in self._refused:
                continue
            tables = self._ledger.view().contracts.records
            if not tables.is_erased(noted.pseudonym, noted.record):
                # The ledger was rolled back to before the order: the receipt waits for the next one.
                continue
            if not tables.receipts.has(noted.pseudonym, noted.record, self._member):
                try:
                    if not await self._send(noted):
                        continue
                except TimeoutError:
                    # The others would wait as long, one after the other.
                    _log.warning("receipt_postponed", reason="the ledger makes no block")
                    break
                sent += 1
            await asyncio.to_thread(self._journal.settle, noted.pseudonym, noted.record)
            _log.info("erasure_confirmed", record=noted.record.hex(), destroyed=noted.held)
        return sent

    async def _send(self, noted: Noted) -> bool:
        """Whether the ledger took the receipt; raises ``TimeoutError`` when it does not say."""
        try:
            async with asyncio.timeout(OUTCOME_S):
                code = (await self._ledger.submit(self._sign(noted))).receipt.code
        except Rejected as refused:
            _log.warning("receipt_postponed", code=int(refused.code), label=refused.code.label)
            return False
        if code != OK:
            _log.error("receipt_refused", code=code, record=noted.record.hex())
            self._refused.add((noted.pseudonym, noted.record))
        return code == OK

    def _sign(self, noted: Noted) -> bytes:
        """One record per transaction: two patients' records in one would link them."""
        receipt = ConfirmErasure(pseudonym=noted.pseudonym, record=noted.record, destroyed=noted.held)
        return build(
            key=self._key,
            sender=self._member,
            chain_id=self._ledger.chain_id,
            nonce=self._entropy(NONCE_SIZE),
            valid_until_s=self._ledger.view().time_s + RECEIPT_VALID_S,
            messages=(receipt,),
        )


def _addresses(view: View, one: Named) -> list[bytes]:
    """The addresses of all of a record's sealed versions, each once."""
    anchors = view.contracts.records.anchors.scan(*one)
    return list(dict.fromkeys(row.sealed.object for _, row in anchors if row.sealed is not None))


def _each_once(first: AbstractSet[Named], then: Iterable[Named]) -> Iterator[Named]:
    yield from first
    yield from (one for one in then if one not in first)


def _batches(named: Iterator[Named]) -> Iterator[list[Named]]:
    while batch := list(islice(named, _BATCH)):
        yield batch
