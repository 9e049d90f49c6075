"""Scrubbing: read every copy of every object, and make missing or altered ones again from a sound one.

What should be there is known from the books and from the stores' own listings together. A scrub goes by ascending
address and notes where it is, so one that was cut short goes on; it reads no faster than it is told.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from enum import Enum
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Annotated, Final

import msgspec
import structlog
from msgspec import Meta, Struct

from carechain.core.rejection import Rejected
from carechain.vault.base import Vault, address_of_stream
from carechain.vault.codes import VaultCode
from carechain.vault.metering import Metering
from carechain.vault.replicated import Replicated, kind_of, merged

PROGRESS: Final = "scrub"
_NOTE_EVERY: Final = 50
_NAMED: Final = 100
_COPY_BYTES: Final = 1024 * 1024
_log = structlog.get_logger("carechain.vault")

Pause = Callable[[int], Awaitable[None]]
"""Waits as long as having read so many bytes demands."""
FinishErasure = Callable[[bytes], Awaitable[bool | None]]
"""Destroys what is left of an erased object and says whether there was any; None for an object that was not erased."""


class Copy(Enum):
    """What a store has of an object."""

    SOUND = "sound"
    MISSING = "missing"
    ALTERED = "altered"
    UNREACHED = "unreached"


class ScrubReport(Struct, kw_only=True):
    """What a scrub has found so far, also over interruptions. Counts copies, except where a name says objects."""

    objects: int = 0
    copies: int = 0
    bytes_read: int = 0
    missing: int = 0
    altered: int = 0
    unreached: int = 0
    repaired: int = 0
    erased_objects: int = 0
    short_objects: int = 0
    """Objects that have fewer sound copies than they should, after repair."""
    lost_objects: int = 0
    """Objects without any sound copy."""
    named: Annotated[list[bytes], Meta(max_length=_NAMED)] = []
    """The first of the short and the lost."""
    at: bytes = b""

    @property
    def is_good(self) -> bool:
        """Whether every object has all its copies now."""
        return not (self.short_objects or self.lost_objects)


class Scrub:
    """One pass over a vault."""

    def __init__(
        self,
        vault: Replicated,
        metering: Metering,
        *,
        pause: Pause | None = None,
        organisation: bytes | None = None,
        finish_erasure: FinishErasure | None = None,
    ) -> None:
        """``pause`` is called after each object with the bytes that were read for it.

        What the books know as another organisation's than ``organisation`` is that one's to have elsewhere too: of it
        only the own copy is looked after. ``finish_erasure`` also knows what the ledger has erased.
        """
        self._vault = vault
        self._metering = metering
        self._pause = pause
        self._organisation = organisation
        self._finish_erasure = finish_erasure or self._erased_by_the_books

    async def run(self, *, on_object: Callable[[ScrubReport], None] | None = None) -> ScrubReport:
        """Go through everything, from where a pass that was cut short stopped; returns what was found in all of it.

        Raises ``OSError`` when the books, or the listing of a store, cannot be read.
        """
        noted = self._metering.progress(PROGRESS)
        report = ScrubReport() if noted is None else msgspec.msgpack.decode(noted, type=ScrubReport)
        async for address in self._known(report.at):
            read = await self._object(address, report)
            report.at = address
            if report.objects % _NOTE_EVERY == 0:
                await asyncio.to_thread(self._metering.note_progress, PROGRESS, msgspec.msgpack.encode(report))
            if on_object is not None:
                on_object(report)
            if self._pause is not None:
                await self._pause(read)
        self._metering.note_progress(PROGRESS, None)
        _log.info("scrub_done", count=report.objects)
        if not report.is_good:
            _log.error("copies_missing", count=report.short_objects + report.lost_objects)
        return report

    async def _known(self, after: bytes) -> AsyncIterator[bytes]:
        books = _as_async(address for address, _ in self._metering.live(after))
        async for address in merged([books, self._vault.addresses()]):
            if address > after:
                yield address

    async def _object(self, address: bytes, report: ScrubReport) -> int:
        report.objects += 1
        erased = await self._finish_erasure(address)
        if erased is not None:
            report.erased_objects += erased
            return 0
        before = report.bytes_read
        order = self._vault.placement(address)
        copies = self._vault.copies
        if await asyncio.to_thread(self._is_a_guest, address):
            order, copies = order[:1], 1
        found = {store.name: await self._look(store, address, report) for store in order}
        wanted = [one for one in order[:copies] if found[one.name] is not Copy.SOUND]
        # A copy that was altered is made good wherever it is: it would be believed by whoever reads only there.
        wanted += [one for one in order[copies:] if found[one.name] is Copy.ALTERED]
        sound = [one for one in order if found[one.name] is Copy.SOUND]
        report.missing += sum(found[one.name] is Copy.MISSING for one in wanted)
        report.altered += sum(state is Copy.ALTERED for state in found.values())
        report.unreached += sum(state is Copy.UNREACHED for state in found.values())
        if not sound:
            # Nothing is lost as long as a store could not be asked.
            lost = Copy.UNREACHED not in found.values()
            report.lost_objects += lost
            report.short_objects += not lost
            self._name(address, report)
            return report.bytes_read - before
        repaired = await self._repair(address, sound, [one for one in wanted if found[one.name] is not Copy.UNREACHED])
        report.repaired += repaired
        if repaired:
            # The order may have come while the copy was made.
            await self._finish_erasure(address)
        if len(sound) + repaired < copies:
            report.short_objects += 1
            self._name(address, report)
        return report.bytes_read - before

    async def _erased_by_the_books(self, address: bytes) -> bool | None:
        if not await asyncio.to_thread(self._metering.is_erased, address):
            return None
        return await self._vault.delete_ours(address)

    def _is_a_guest(self, address: bytes) -> bool:
        held = self._metering.is_held
        return self._organisation is not None and held(address) and not held(address, self._organisation)

    async def _look(self, store: Vault, address: bytes, report: ScrubReport) -> Copy:
        try:
            if await store.size(address) is None:
                return Copy.MISSING
            found, size = await address_of_stream(store.open(address), self._vault.hashing)
        except OSError:
            return Copy.UNREACHED
        except Rejected as refused:
            return Copy.MISSING if refused.code is VaultCode.OBJECT_UNKNOWN else Copy.ALTERED
        report.copies += 1
        report.bytes_read += size
        return Copy.SOUND if found == address else Copy.ALTERED

    async def _repair(self, address: bytes, sound: list[Vault], wanted: list[Vault]) -> int:
        """How many of the wanted copies were made; the sound one is fetched once."""
        if not wanted:
            return 0
        for origin in sound:
            try:
                spool = await self._vault.spooled(origin, address)
            except (OSError, Rejected):
                continue
            if spool is None:
                continue
            with spool, NamedTemporaryFile(prefix="carechain-scrub-") as file:
                await asyncio.to_thread(_copied, spool, file.file)
                return sum([await self._written(one, address, Path(file.name)) for one in wanted])
        return 0

    async def _written(self, store: Vault, address: bytes, file: Path) -> bool:
        try:
            await store.put(address, file, replace=True)
        except (OSError, Rejected) as failed:
            _log.warning("copy_not_repaired", store=kind_of(store), reason=type(failed).__name__)
            return False
        _log.info("copy_repaired", store=kind_of(store), object=address.hex())
        return True

    def _name(self, address: bytes, report: ScrubReport) -> None:
        _log.error("copies_short", object=address.hex())
        if len(report.named) < _NAMED:
            report.named.append(address)


def pause_for(bytes_per_s: int, sleep: Callable[[float], Awaitable[None]]) -> Pause:
    """A pause that keeps reading at this rate on average."""

    async def pause(read: int) -> None:
        await sleep(read / bytes_per_s)

    return pause


def _copied(source: IO[bytes], target: IO[bytes]) -> None:
    while piece := source.read(_COPY_BYTES):
        target.write(piece)
    target.flush()


async def _as_async(rows: Iterator[bytes]) -> AsyncIterator[bytes]:
    for row in rows:
        yield row
