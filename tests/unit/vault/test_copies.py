"""Goal: an object is acknowledged when enough stores have it, read from a sound copy only, and repaired by a scrub.

Method: stores in memory that are down, refuse, break off or hold altered bytes; every case is looked at from outside,
through the vault, and in the stores themselves.
"""

import asyncio
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import pytest

from carechain.core.rejection import Rejected
from carechain.vault.base import Vault, VaultUnavailable
from carechain.vault.codes import VaultCode
from carechain.vault.folder import FolderStore
from carechain.vault.metering import Metering
from carechain.vault.replicated import Replicated
from carechain.vault.scrub import PROGRESS, Scrub, ScrubReport, pause_for
from carechain.vault.service import VaultService
from carechain.vault.tokens import TokenStore
from vaults import MemoryStore, check_store, listed, read

CONTENT = bytes(range(256)) * 20
ADDRESS = sha256(CONTENT).digest()
OWN, PATIENT = b"o" * 32, b"p" * 32


def objects(count: int) -> dict[bytes, bytes]:
    return {sha256(content).digest(): content for content in (b"object %d" % number for number in range(count))}


def test_it_does_what_every_store_does(tmp_path: Path) -> None:
    stores: list[Vault] = [FolderStore(tmp_path / "own"), MemoryStore("b"), MemoryStore("c")]
    asyncio.run(check_store(Replicated(stores, copies=2), tmp_path))


@pytest.mark.parametrize(("copies", "minimum"), [(0, 0), (4, 0), (2, 3), (1, 2)])
def test_figures_that_do_not_fit_are_refused(copies: int, minimum: int) -> None:
    with pytest.raises(ValueError, match="copies"):
        Replicated([MemoryStore("a"), MemoryStore("b"), MemoryStore("c")], copies=copies, minimum=minimum)
    with pytest.raises(ValueError, match="name"):
        Replicated([MemoryStore("a"), MemoryStore("a")], copies=1)


def test_the_own_store_has_everything_and_the_others_a_share_of_the_rest() -> None:
    stores = [MemoryStore(name) for name in ("own", "b", "c", "d")]
    vault = Replicated(stores, copies=2)

    async def put() -> None:
        for address, content in objects(300).items():
            await vault.put(address, content)

    asyncio.run(put())
    assert len(stores[0].objects) == 300
    assert sum(len(one.objects) for one in stores[1:]) == 300
    assert all(60 < len(one.objects) < 140 for one in stores[1:])
    assert asyncio.run(listed(vault)) == sorted(objects(300))


def test_a_store_that_is_away_is_passed_over_and_too_few_copies_are_no_success() -> None:
    stores = [MemoryStore(name) for name in ("own", "b", "c")]
    vault = Replicated(stores, copies=2)
    second, third = vault.placement(ADDRESS)[1:]
    assert isinstance(second, MemoryStore)
    assert isinstance(third, MemoryStore)
    second.is_down = True
    asyncio.run(vault.put(ADDRESS, CONTENT))
    assert ADDRESS in third.objects
    third.is_down = True
    other = b"other"
    with pytest.raises(VaultUnavailable, match="only 1 of 2"):
        asyncio.run(vault.put(sha256(other).digest(), other))
    asyncio.run(Replicated(stores, copies=2, minimum=1).put(sha256(other).digest(), other))
    for one in stores:
        one.is_down, one.refuses = False, VaultCode.QUOTA_EXCEEDED
    with pytest.raises(Rejected) as refused:
        asyncio.run(vault.put(sha256(b"third").digest(), b"third"))
    assert refused.value.code is VaultCode.QUOTA_EXCEEDED


def test_a_whole_object_comes_from_a_sound_copy_or_not_at_all() -> None:
    stores = [MemoryStore(name) for name in ("own", "b", "c")]
    vault = Replicated(stores, copies=3)
    asyncio.run(vault.put(ADDRESS, CONTENT))
    stores[0].objects[ADDRESS] = CONTENT[:-1] + b"x"
    stores[1].objects[ADDRESS] = CONTENT[:-1]
    assert asyncio.run(read(vault, ADDRESS)) == CONTENT
    stores[2].is_down = True
    with pytest.raises(Rejected) as altered:
        asyncio.run(read(vault, ADDRESS))
    assert altered.value.code is VaultCode.OBJECT_ALTERED
    for one in stores:
        one.is_down = True
    for work in (read(vault, ADDRESS), vault.size(ADDRESS)):
        with pytest.raises(VaultUnavailable):
            asyncio.run(work)
    with pytest.raises(VaultUnavailable, match="copies may be left at: own, b, c"):
        asyncio.run(vault.delete(ADDRESS))


def test_a_part_goes_on_at_the_next_store_where_the_first_broke_off() -> None:
    stores = [MemoryStore(name) for name in ("own", "b")]
    vault = Replicated(stores, copies=2)
    asyncio.run(vault.put(ADDRESS, CONTENT))
    stores[0].fails_at = 2500
    assert asyncio.run(read(vault, ADDRESS, 100, 4900)) == CONTENT[100:4900]
    del stores[0].objects[ADDRESS]
    assert asyncio.run(read(vault, ADDRESS, 7, 9)) == CONTENT[7:9]
    assert asyncio.run(vault.size(ADDRESS)) == len(CONTENT)


def test_deleting_reaches_every_store() -> None:
    stores = [MemoryStore(name) for name in ("own", "b", "c")]
    vault = Replicated(stores, copies=1)
    stores[2].objects[ADDRESS] = CONTENT
    assert asyncio.run(vault.delete(ADDRESS))
    assert not any(one.objects for one in stores)


# --- scrub ----------------------------------------------------------------------------------------------


class Kept:
    """A vault of three stores with its books, and ten objects in it."""

    def __init__(self, folder: Path, *, copies: int = 2) -> None:
        self.stores = [MemoryStore(name) for name in ("own", "b", "c")]
        self.vault = Replicated(self.stores, copies=copies)
        self.metering = Metering(folder / "vault.sqlite")
        self.tokens = TokenStore(folder / "tokens.sqlite")
        self.now_s = 1000
        self.service = VaultService(self.vault, self.metering, self.tokens, organisation=OWN, clock=lambda: self.now_s)
        self.contents = objects(10)
        asyncio.run(self._fill())

    async def _fill(self) -> None:
        for address, content in self.contents.items():
            await self.service.put(address, content, pseudonym=PATIENT)

    def scrub(self) -> ScrubReport:
        return asyncio.run(Scrub(self.vault, self.metering).run())

    def places(self, address: bytes) -> list[MemoryStore]:
        return [one for one in self.vault.placement(address) if isinstance(one, MemoryStore)]


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


def test_a_scrub_of_what_is_whole_changes_nothing(kept: Kept) -> None:
    before = [dict(one.objects) for one in kept.stores]
    report = kept.scrub()
    assert report.is_good
    assert (report.objects, report.copies, report.missing, report.altered, report.repaired) == (10, 20, 0, 0, 0)
    assert [one.objects for one in kept.stores] == before


def test_a_scrub_makes_missing_and_altered_copies_again(kept: Kept) -> None:
    first, second, third, fourth = sorted(kept.contents)[:4]
    del kept.places(first)[0].objects[first]
    kept.places(second)[1].objects[second] = b"altered"
    spare = kept.places(third)[2]
    spare.objects[third] = b"an altered copy nobody needs"
    # In the listing of a store, though not in the books.
    stray = b"stray"
    kept.stores[0].objects[sha256(stray).digest()] = stray
    kept.metering.end(fourth, now_s=1001)
    report = kept.scrub()
    assert report.is_good
    assert (report.objects, report.missing, report.altered, report.repaired) == (11, 2, 2, 4)
    for address, content in {**kept.contents, sha256(stray).digest(): stray}.items():
        assert [one.objects[address] for one in kept.places(address)[:2]] == [content, content]
    assert spare.objects[third] == kept.contents[third]
    assert kept.scrub().repaired == 0


def test_what_cannot_be_repaired_is_counted_and_named(kept: Kept) -> None:
    lost, short, *_ = sorted(kept.contents)
    for one in kept.stores:
        if lost in one.objects:
            one.objects[lost] = b"altered everywhere"
    away = kept.places(short)[1]
    away.refuses = VaultCode.QUOTA_EXCEEDED
    del away.objects[short]
    report = kept.scrub()
    assert not report.is_good
    assert (report.lost_objects, report.short_objects) == (1, 1)
    assert report.named == sorted([lost, short])


def test_a_store_that_cannot_be_reached_makes_objects_short_not_lost(kept: Kept) -> None:
    class Deaf(MemoryStore):
        async def size(self, address: bytes) -> int | None:
            raise VaultUnavailable(address.hex())

    stores = [kept.stores[0], Deaf("b"), Deaf("c")]
    vault = Replicated(stores, copies=2)
    gone = min(kept.contents)
    del kept.stores[0].objects[gone]
    report = asyncio.run(Scrub(vault, kept.metering).run())
    assert (report.lost_objects, report.short_objects, report.unreached) == (0, 10, 20)


def test_a_scrub_that_was_cut_short_goes_on(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("carechain.vault.scrub._NOTE_EVERY", 1)
    seen: list[bytes] = []

    def stop_after_four(report: ScrubReport) -> None:
        seen.append(report.at)
        if len(seen) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(Scrub(kept.vault, kept.metering).run(on_object=stop_after_four))
    assert kept.metering.progress(PROGRESS) is not None
    report = asyncio.run(Scrub(kept.vault, kept.metering).run(on_object=lambda one: seen.append(one.at)))
    assert report.objects == 10
    assert seen == sorted(kept.contents)
    assert all(before < after for before, after in pairwise(seen))
    assert kept.metering.progress(PROGRESS) is None


def test_a_scrub_reads_no_faster_than_it_is_told(kept: Kept) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    report = asyncio.run(Scrub(kept.vault, kept.metering, pause=pause_for(100, sleep)).run())
    assert sum(waited) == pytest.approx(report.bytes_read / 100)


def test_of_another_organisations_object_the_own_copy_alone_is_kept_and_looked_after(kept: Kept) -> None:
    """It is one of that organisation's copies; passing it on would make copies of copies without end."""
    guest, content = sha256(b"a guest").digest(), b"a guest"
    asyncio.run(kept.service.put(guest, content, party=b"q" * 32))
    scrub = Scrub(kept.vault, kept.metering, organisation=OWN)
    report = asyncio.run(scrub.run())
    assert (report.is_good, report.objects, report.repaired) == (True, 11, 0)
    assert [guest in one.objects for one in kept.stores] == [True, False, False]
    for one in kept.stores[1:]:
        one.objects[guest] = content
    assert asyncio.run(kept.service.size(guest, only_ours=True)) == len(content)
    del kept.stores[0].objects[guest]
    assert asyncio.run(kept.service.size(guest, only_ours=True)) is None
    assert asyncio.run(kept.service.size(guest)) == len(content)


def test_a_scrub_goes_by_the_ledgers_erasures_too(kept: Kept) -> None:
    """Books from an old backup know nothing of an order: what it is about is destroyed, not made again and not lost."""
    gone, there = sorted(kept.contents)[:2]
    kept.service = VaultService(
        kept.vault,
        kept.metering,
        kept.tokens,
        organisation=OWN,
        clock=lambda: 2000,
        is_erased=lambda address: address in (gone, there),
    )
    del kept.places(gone)[0].objects[gone]
    del kept.places(there)[1].objects[there]
    asyncio.run(kept.service.forget(gone))
    report = asyncio.run(Scrub(kept.vault, kept.metering, finish_erasure=kept.service.finish_erasure).run())
    assert (report.is_good, report.repaired, report.lost_objects) == (True, 0, 0)
    assert not any(one in store.objects for one in (gone, there) for store in kept.stores)
    assert not any(kept.metering.is_held(one) for one in (gone, there))


def test_an_erasure_during_a_repair_wins(kept: Kept) -> None:
    address = min(kept.contents)
    erased: list[bytes] = []
    del kept.places(address)[1].objects[address]

    async def finish(asked: bytes) -> bool | None:
        # The first look at each object comes before anything is read of it.
        if asked != address or not kept.places(address)[1].objects.get(address):
            return None
        erased.append(asked)
        return await kept.service.erase(asked)

    asyncio.run(Scrub(kept.vault, kept.metering, finish_erasure=finish).run())
    assert erased == [address]
    assert not any(address in one.objects for one in kept.stores)


def test_erased_objects_are_neither_served_nor_taken_and_a_scrub_finishes_their_erasure(kept: Kept) -> None:
    address = min(kept.contents)
    holder = kept.places(address)[1]
    holder.is_down = True
    with pytest.raises(VaultUnavailable):
        asyncio.run(kept.service.erase(address))
    holder.is_down = False
    assert address in holder.objects
    for work in (
        read(kept.service, address),
        kept.service.size(address),
        kept.service.put(address, kept.contents[address]),
    ):
        with pytest.raises(Rejected) as erased:
            asyncio.run(work)
        assert erased.value.code is VaultCode.OBJECT_ERASED
    assert kept.scrub().erased_objects == 1
    assert not any(address in one.objects for one in kept.stores)
    assert kept.metering.totals() == (9, sum(len(one) for one in kept.contents.values()) - 8, 1)


def test_an_erasure_during_a_put_wins(kept: Kept) -> None:
    address = sha256(b"new").digest()

    class Racing(MemoryStore):
        async def put(self, where: bytes, source: object, *, replace: bool = False) -> None:
            del source, replace
            self.objects[where] = b"new"
            kept.metering.erase(where, now_s=1)

    store = Racing("own")
    service = VaultService(Replicated([store], copies=1), kept.metering, kept.tokens, organisation=OWN, clock=lambda: 1)
    with pytest.raises(Rejected) as erased:
        asyncio.run(service.put(address, b"new"))
    assert erased.value.code is VaultCode.OBJECT_ERASED
    assert not store.objects


def test_an_object_goes_when_the_last_who_wanted_it_gives_it_up(kept: Kept) -> None:
    address, content = next(iter(kept.contents.items()))
    asyncio.run(kept.service.put(address, content, party=b"q" * 32))
    assert asyncio.run(kept.service.give_up(address, OWN))
    assert asyncio.run(read(kept.service, address)) == content
    assert not asyncio.run(kept.service.give_up(address, OWN))
    assert asyncio.run(kept.service.give_up(address, b"q" * 32))
    assert not any(address in one.objects for one in kept.stores)
    asyncio.run(kept.service.put(address, content))
    assert asyncio.run(kept.service.delete(address))
    assert not kept.metering.is_held(address)


def test_the_service_is_a_store_itself(tmp_path: Path) -> None:
    metering, tokens = Metering(tmp_path / "vault.sqlite"), TokenStore(tmp_path / "tokens.sqlite")
    vault = Replicated([FolderStore(tmp_path / "own")], copies=1)
    service = VaultService(vault, metering, tokens, organisation=OWN, clock=lambda: 5)
    asyncio.run(check_store(service, tmp_path))
    assert metering.totals() == (0, 0, 0)
