"""Goal: what the ledger orders to be erased is destroyed wherever it is held, once, and signed for truthfully (REC-13).

Method: hospital a with real charts, a real folder of sealed objects and a real token store on the world's ledger.
Crashes are played by failing at one step and going on with a new eraser over the same files; restores by putting the
old files back. What must be gone is searched in the bytes on the disk.
"""

import asyncio
import os
import shutil
from collections.abc import Callable, Coroutine, Iterator
from functools import wraps
from hashlib import sha256
from pathlib import Path
from typing import Any, ParamSpec

import httpx
import pytest

from carechain.charts.record import StoredRecord
from carechain.charts.schema import ChartsUnavailable
from carechain.charts.store import Charts
from carechain.contracts.records import Erase, ErasedPart, SealedHashes, receipts_of
from carechain.core.rejection import Rejected
from carechain.core.vocabulary import Sensitivity
from carechain.gatekeeper.codes import GatekeeperCode, Withheld
from carechain.gatekeeper.erasing import Eraser, Holdings, SealedObjects, Swept
from carechain.gatekeeper.erasure_journal import ErasureJournal, JournalTooNew, JournalUnavailable
from carechain.gatekeeper.release import Asked, ReleaseRequest
from carechain.vault.folder import FolderStore
from carechain.vault.metering import Metering
from carechain.vault.remote import RemoteStore
from carechain.vault.replicated import Replicated
from carechain.vault.service import VaultService
from carechain.vault.tokens import TokenStore
from house import House
from world import anchor_of, record_id

P = ParamSpec("P")
IN_CHARTS = int(ErasedPart.CHART | ErasedPart.SALTS)
IN_VAULT = int(ErasedPart.OBJECT | ErasedPart.CAPSULE)


Asynchronous = Callable[P, Coroutine[None, None, None]]


def synchronous(test: Asynchronous[P]) -> Callable[P, None]:
    """A test of coroutines, on a loop of its own."""

    @wraps(test)
    def run(*args: P.args, **named: P.kwargs) -> None:
        asyncio.run(test(*args, **named))

    return run


class Cut(Exception):  # noqa: N818 - what a power cut is
    """The power goes."""


class Site:
    """Everything hospital a keeps, and its eraser."""

    def __init__(self, house: House, folder: Path) -> None:
        self.house = house
        self.folder = folder
        self.objects = FolderStore(folder / "objects")
        self.tokens = TokenStore(folder / "tokens.sqlite")
        self.metering = Metering(folder / "metering.sqlite")
        self.vault = VaultService(
            Replicated((self.objects,), copies=1),
            self.metering,
            self.tokens,
            organisation=house.world.a.id,
            clock=house.clock,
            is_erased=self.is_erased,
        )
        self.journal = ErasureJournal.open(folder / "erasures.sqlite")
        self.eraser = self.new_eraser()

    def is_erased(self, address: bytes) -> bool:
        """What the organisation's vault asks the ledger."""
        return self.house.ledger.view().contracts.records.is_erased_object(address)

    def new_eraser(self, **holdings: Any) -> Eraser:
        """As after a restart."""
        a = self.house.world.a
        held = {"charts": self.house.charts, "vault": SealedObjects(self.vault), "tokens": self.tokens, **holdings}
        return Eraser(
            ledger=self.house.ledger,
            journal=self.journal,
            key=a.signing,
            member=a.id,
            clock=self.house.clock,
            entropy=os.urandom,
            holdings=Holdings(**held),
        )

    def order(self, record: bytes) -> None:
        world = self.house.world
        world.done(Erase(pseudonym=world.steve.id, record=record), by=world.steve)

    def receipts(self, record: bytes) -> dict[bytes, int]:
        tables = self.house.ledger.view().contracts.records
        return {one: row.destroyed for one, row in receipts_of(tables, self.house.world.steve.id, record)}

    async def seal(self, name: str, *versions: bytes) -> tuple[bytes, list[bytes]]:
        """A sealed record of Steve's with tokens; returns its id and the addresses of its objects."""
        world, addresses = self.house.world, []
        for number, body in enumerate(versions, 1):
            address = sha256(body).digest()
            await self.vault.put(address, body, pseudonym=world.steve.id)
            hashes = SealedHashes(capsule=sha256(body[:8]).digest(), object=address)
            world.done(anchor_of(world.steve, name, version=number, sealed=hashes), by=world.steve)
            addresses.append(address)
        self.tokens.put(world.steve.id, record_id(name), [sha256(name.encode()).digest()])
        return record_id(name), addresses

    def close(self) -> None:
        self.journal.close()
        self.tokens.close()
        self.metering.close()


@pytest.fixture
def site(house: House, tmp_path: Path) -> Iterator[Site]:
    made = Site(house, tmp_path)
    yield made
    made.close()


def charted(house: House) -> StoredRecord:
    return house.of_grade(Sensitivity.N)[0]


@synchronous
async def test_a_charted_record_is_destroyed_and_signed_for_once(site: Site) -> None:
    house, record = site.house, charted(site.house)
    salts = [part.salt for part in house.charts.read(record.record_id).resources]
    assert await site.eraser.carry_out() == Swept()
    site.order(record.record_id)
    assert await site.eraser.carry_out() == Swept(destroyed=1, receipts=1)
    with pytest.raises(Rejected):
        house.charts.read(record.record_id)
    left = b"".join(one.read_bytes() for one in house.folder.glob("charts.sqlite*"))
    assert not any(salt in left for salt in salts)
    assert site.receipts(record.record_id) == {house.world.a.id: IN_CHARTS}
    # Nothing is left to do, for this eraser and for one after a restart that looks at everything again.
    sent = len(house.ledger.submitted)
    assert await site.eraser.carry_out() == Swept()
    assert await site.new_eraser().carry_out() == Swept()
    assert len(house.ledger.submitted) == sent
    assert house.world.broken() == []


@synchronous
async def test_a_sealed_record_goes_with_all_its_objects_and_tokens(site: Site) -> None:
    steve = site.house.world.steve.id
    record, addresses = await site.seal("x", b"first version" * 99, b"second version" * 99)
    _, (other,) = await site.seal("y", b"another record" * 99)
    site.order(record)
    assert await site.eraser.carry_out() == Swept(destroyed=1, receipts=1)
    assert [await site.objects.size(one) for one in addresses] == [None, None]
    assert await site.objects.size(other) is not None
    assert not site.tokens.holds(steve, record)
    assert site.tokens.holds(steve, record_id("y"))
    assert site.receipts(record) == {site.house.world.a.id: IN_VAULT | int(ErasedPart.TOKENS)}
    with pytest.raises(Rejected):
        await site.vault.put(addresses[0], b"first version" * 99)


@synchronous
async def test_who_holds_nothing_signs_nothing(site: Site) -> None:
    world = site.house.world
    world.done(anchor_of(world.steve, "elsewhere"), by=world.steve)
    site.order(record_id("elsewhere"))
    assert await site.eraser.carry_out() == Swept()
    assert site.receipts(record_id("elsewhere")) == {}
    assert site.journal.unfinished() == site.journal.without_receipt() == []


@synchronous
async def test_another_patients_order_destroys_nothing_of_this_one(site: Site) -> None:
    """Mary anchors Steve's record id under her own pseudonym, which everybody may, and has that erased."""
    house, world, record = site.house, site.house.world, charted(site.house)
    world.done(anchor_of(world.mary, "x", record=record.record_id), by=world.mary)
    world.done(Erase(pseudonym=world.mary.id, record=record.record_id), by=world.mary)
    assert await site.eraser.carry_out() == Swept()
    assert house.charts.read(record.record_id).record == record


@synchronous
async def test_a_node_without_charts_or_vault_looks_at_what_it_has(site: Site) -> None:
    record, addresses = await site.seal("x", b"content" * 99)
    site.order(record)
    bare = site.new_eraser(charts=None, vault=None, tokens=None)
    assert await bare.carry_out() == Swept()
    alone = site.new_eraser(charts=None, tokens=None)
    assert await alone.carry_out() == Swept(destroyed=1, receipts=1)
    assert await site.objects.size(addresses[0]) is None


# --- doors ----------------------------------------------------------------------------------------------


@synchronous
async def test_the_gatekeeper_refuses_an_erased_record_before_it_is_destroyed(site: Site) -> None:
    house, record = site.house, charted(site.house)
    ticket = house.ticket()
    request = ReleaseRequest(ticket=ticket, records=(Asked(record.record_id),))
    assert (await house.gatekeeper.release(house.world.bert.id, request)).records
    site.order(record.record_id)
    with pytest.raises(Withheld) as withheld:
        await house.gatekeeper.release(house.world.bert.id, request)
    assert withheld.value.code is GatekeeperCode.RECORD_UNKNOWN
    everything = await house.gatekeeper.release(house.world.bert.id, ReleaseRequest(ticket=ticket))
    assert record.record_id not in [one for one, _ in everything.records]
    assert {one.record_id for one in house.expected(ticket)} == {one for one, _ in everything.records}


@synchronous
async def test_an_order_during_a_release_stops_it(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The decision is looked at again when the reading is done."""
    house, record = site.house, charted(site.house)
    ticket = house.ticket()
    read = house.charts.read

    def ordered_meanwhile(wanted: bytes, version: int | None = None) -> Any:
        content = read(wanted, version)
        site.order(record.record_id)
        return content

    monkeypatch.setattr(house.charts, "read", ordered_meanwhile)
    request = ReleaseRequest(ticket=ticket, records=(Asked(record.record_id),))
    with pytest.raises(Withheld) as withheld:
        await house.gatekeeper.release(house.world.bert.id, request)
    assert withheld.value.code is GatekeeperCode.RECORD_UNKNOWN


# --- crashes --------------------------------------------------------------------------------------------


def _cut(*_: object, **__: object) -> None:
    raise Cut


STEPS: dict[str, Callable[[Site, pytest.MonkeyPatch], None]] = {
    "before anything is destroyed": lambda site, patch: patch.setattr(site.house.charts, "erase", _cut),
    "before the vault is asked": lambda site, patch: patch.setattr(site.vault, "erase", _cut),
    "between objects and tokens": lambda site, patch: patch.setattr(site.tokens, "delete", _cut),
    "before it is noted as destroyed": lambda site, patch: patch.setattr(site.journal, "finish", _cut),
    "before the receipt is sent": lambda site, patch: patch.setattr(site.house.ledger, "submit", _cut),
    "before the receipt is settled": lambda site, patch: patch.setattr(site.journal, "settle", _cut),
}


@pytest.mark.parametrize("step", STEPS)
@synchronous
async def test_a_crash_at_any_step_is_finished_by_the_next_start(
    site: Site, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The receipt names what was held before the crash, whatever was destroyed by then."""
    house, record = site.house, charted(site.house)
    await _move_into_vault(site, record)
    site.order(record.record_id)
    with monkeypatch.context() as power:
        STEPS[step](site, power)
        with pytest.raises(Cut):
            await site.eraser.carry_out()
    await site.new_eraser().carry_out()
    with pytest.raises(Rejected):
        house.charts.read(record.record_id)
    assert site.receipts(record.record_id) == {house.world.a.id: IN_CHARTS | IN_VAULT | int(ErasedPart.TOKENS)}
    assert site.journal.unfinished() == site.journal.without_receipt() == []
    assert await site.new_eraser().carry_out() == Swept()


async def _move_into_vault(site: Site, record: StoredRecord) -> None:
    """A second version of a charted record, sealed, so that one order concerns every kind of store."""
    world, body = site.house.world, b"sealed version" * 99
    address = sha256(body).digest()
    await site.vault.put(address, body, pseudonym=world.steve.id)
    hashes = SealedHashes(capsule=sha256(body[:8]).digest(), object=address)
    again = anchor_of(
        world.steve,
        "unused",
        record=record.record_id,
        version=2,
        category=record.category,
        sensitivity=record.sensitivity,
        day=record.effective_day,
        sealed=hashes,
    )
    world.done(again, by=world.carl)
    site.tokens.put(world.steve.id, record.record_id, [sha256(b"token").digest()])


# --- restored stores ------------------------------------------------------------------------------------


@synchronous
async def test_what_comes_back_from_an_old_backup_goes_again(site: Site) -> None:
    house, record = site.house, charted(site.house)
    sealed_record, (address,) = await site.seal("x", b"content" * 99)
    house.charts.close()
    backup = house.folder / "backup"
    backup.mkdir()
    shutil.copy(house.folder / "charts.sqlite", backup)
    shutil.copytree(site.folder / "objects", backup / "objects")
    house.charts = Charts.open(house.folder / "charts.sqlite")
    for one in (record.record_id, sealed_record):
        site.order(one)
    assert await site.new_eraser().carry_out() == Swept(destroyed=2, receipts=2)
    house.charts.close()
    for side in house.folder.glob("charts.sqlite*"):
        side.unlink()
    shutil.copy(backup / "charts.sqlite", house.folder)
    shutil.rmtree(site.folder / "objects")
    shutil.copytree(backup / "objects", site.folder / "objects")
    house.charts = Charts.open(house.folder / "charts.sqlite")
    assert house.charts.held_among([(house.world.steve.id, record.record_id)])
    # The receipts are on the ledger already; the second destruction needs none.
    assert await site.new_eraser().destroy(everything=True) == Swept(destroyed=2)
    assert house.charts.held_among([(house.world.steve.id, record.record_id)]) == set()
    assert await site.objects.size(address) is None
    assert await site.new_eraser().carry_out() == Swept()


@synchronous
async def test_an_order_that_a_rollback_took_back_is_not_carried_out(site: Site) -> None:
    """What the journal knows of is no order: only the ledger's are."""
    house, record = site.house, charted(site.house)
    site.journal.begin(house.world.steve.id, record.record_id, IN_CHARTS)
    assert await site.eraser.carry_out() == Swept()
    assert house.charts.read(record.record_id).record == record
    site.journal.finish(house.world.steve.id, record.record_id)
    assert await site.eraser.carry_out() == Swept()


# --- the environment ------------------------------------------------------------------------------------


@synchronous
async def test_a_store_that_cannot_be_used_now_is_tried_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    record, addresses = await site.seal("x", b"content" * 99)
    other, _ = await site.seal("y", b"other content" * 99)
    site.order(record)
    site.order(other)

    async def lost(address: bytes) -> bool:
        if address == addresses[0]:
            raise OSError("disk")
        return await VaultService.erase(site.vault, address)

    with monkeypatch.context() as broken:
        broken.setattr(site.vault, "erase", lost)
        assert await site.eraser.carry_out() == Swept(destroyed=1, receipts=1, postponed=1)
    assert site.receipts(record) == {}
    assert await site.eraser.carry_out() == Swept(destroyed=1, receipts=1)
    assert set(site.receipts(record)) == {site.house.world.a.id}


@synchronous
async def test_a_vault_far_away_keeps_the_charts_from_nothing_and_is_not_asked_for_ever(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    house, record = site.house, charted(site.house)
    sealed = [(await site.seal(f"sealed {number}", b"content %d" % number))[0] for number in range(10)]
    for one in (*sealed, record.record_id):
        site.order(one)
    asked: list[bytes] = []

    async def lost(_: SealedObjects, address: bytes) -> bool:
        asked.append(address)
        raise OSError("the bucket does not answer")

    with monkeypatch.context() as broken:
        broken.setattr(SealedObjects, "holds", lost)
        assert await site.eraser.carry_out() == Swept(destroyed=1, receipts=1, postponed=10)
    assert len(asked) == 3
    assert not any(site.tokens.holds(house.world.steve.id, one) for one in sealed)
    assert house.charts.held_among([(house.world.steve.id, record.record_id)]) == set()
    # By a new start as well: what was found at the first attempt is signed for with the rest.
    assert await site.new_eraser().carry_out() == Swept(destroyed=10, receipts=10)
    parts = ErasedPart.TOKENS | ErasedPart.OBJECT | ErasedPart.CAPSULE
    assert all(site.receipts(one) == {house.world.a.id: int(parts)} for one in sealed)


@synchronous
async def test_a_stop_is_heard_between_two_records(site: Site) -> None:
    sealed = [(await site.seal(f"sealed {number}", b"content %d" % number))[0] for number in range(3)]
    for one in sealed:
        site.order(one)
    stop = asyncio.Event()
    erase = site.vault.erase

    async def stopping(address: bytes) -> bool:
        stop.set()
        return await erase(address)

    site.vault.erase = stopping  # type: ignore[method-assign]
    await asyncio.wait_for(site.eraser.run(stop), 60)
    assert sum(bool(site.receipts(one)) for one in sealed) == 1
    site.vault.erase = erase  # type: ignore[method-assign]
    assert await site.new_eraser().carry_out() == Swept(destroyed=2, receipts=2)


@synchronous
async def test_books_from_an_old_backup_end_with_the_erasure(site: Site) -> None:
    """The objects did not come back with them: then nothing is destroyed, nothing signed, and nothing counted on."""
    record, addresses = await site.seal("x", b"content" * 99)
    site.tokens.delete(site.house.world.steve.id, record)
    for address in addresses:
        await site.objects.delete(address)
    site.order(record)
    assert await site.eraser.carry_out() == Swept()
    assert not any(site.metering.is_held(address) for address in addresses)
    assert site.receipts(record) == {}


@synchronous
async def test_charts_that_cannot_be_read_postpone_and_do_not_lie(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    record = charted(site.house)
    site.order(record.record_id)

    def locked(*_: object) -> set[Any]:
        raise ChartsUnavailable("locked")

    with monkeypatch.context() as broken:
        broken.setattr(site.house.charts, "held_among", locked)
        assert await site.eraser.carry_out() == Swept(postponed=1)
    assert await site.eraser.carry_out() == Swept(destroyed=1, receipts=1)


@synchronous
async def test_a_store_that_only_says_that_it_destroyed_gets_no_receipt(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, _ = await site.seal("x", b"content" * 99)
    site.order(record)

    async def nothing(_: bytes) -> bool:
        return True

    monkeypatch.setattr(site.vault, "erase", nothing)
    assert await site.eraser.carry_out() == Swept(postponed=1)
    assert site.receipts(record) == {}


@synchronous
async def test_copies_at_another_organisation_are_theirs_to_destroy(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are not even asked: whoever took a copy back would take away what the other organisation signs for."""
    record, _ = await site.seal("x", b"content" * 99)
    site.order(record)
    asked: list[str] = []

    def no_route(request: httpx.Request) -> httpx.Response:
        asked.append(f"{request.method} {request.url.path}")
        raise httpx.ConnectError("no route")

    async with httpx.AsyncClient(transport=httpx.MockTransport(no_route), base_url="http://away") as http:
        away = RemoteStore(http, Opened(), name="away")
        monkeypatch.setattr(site.vault.vault, "stores", (site.objects, away))
        assert await site.eraser.carry_out() == Swept(destroyed=1, receipts=1)
    assert asked == []


class Opened:
    """A session that is open."""

    async def token(self) -> str:
        return "token"

    def ended(self) -> None:
        raise AssertionError("nobody refused the session")


@synchronous
async def test_a_receipt_the_ledger_does_not_admit_now_waits(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    record = charted(site.house)
    site.order(record.record_id)

    async def full(_: bytes) -> Any:
        raise Rejected(GatekeeperCode.BUSY)

    with monkeypatch.context() as busy:
        busy.setattr(site.house.ledger, "submit", full)
        assert await site.eraser.carry_out() == Swept(destroyed=1)
    assert await site.eraser.carry_out() == Swept(receipts=1)


@synchronous
async def test_a_receipt_that_was_refused_on_the_ledger_is_not_repeated_before_a_restart(site: Site) -> None:
    """Hospital a's key signs for a stranger's organisation: the ledger refuses, and blocks are not filled with it."""
    house, record = site.house, charted(site.house)
    site.order(record.record_id)
    stranger = Eraser(
        ledger=house.ledger,
        journal=site.journal,
        key=house.world.carl.signing,
        member=house.world.carl.id,
        clock=house.clock,
        entropy=os.urandom,
        holdings=Holdings(charts=house.charts),
    )
    assert await stranger.carry_out() == Swept(destroyed=1)
    sent = len(house.ledger.submitted)
    assert await stranger.carry_out() == Swept()
    assert len(house.ledger.submitted) == sent
    assert await site.new_eraser().carry_out() == Swept(receipts=1)


@synchronous
async def test_it_runs_until_it_is_stopped(site: Site) -> None:
    record = charted(site.house)
    site.order(record.record_id)
    stop, done = asyncio.Event(), asyncio.Event()
    site.house.ledger.before_submit = done.set
    running = asyncio.create_task(site.eraser.run(stop))
    await asyncio.wait_for(done.wait(), 30)
    stop.set()
    await running
    assert site.receipts(record.record_id)


# --- the journal ----------------------------------------------------------------------------------------


def test_the_journal_adds_up_what_was_found_over_several_attempts(site: Site) -> None:
    site.journal.begin(b"p" * 32, b"r" * 32, 3)
    site.journal.begin(b"p" * 32, b"r" * 32, 16)
    (noted,) = site.journal.unfinished()
    assert (noted.held, noted.destroyed) == (19, False)
    site.journal.finish(b"p" * 32, b"r" * 32)
    (noted,) = site.journal.without_receipt()
    assert (noted.held, noted.destroyed) == (19, True)
    site.journal.settle(b"p" * 32, b"r" * 32)
    assert site.journal.unfinished() == site.journal.without_receipt() == []


def test_a_journal_of_a_later_release_or_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "erasures.sqlite"
    with ErasureJournal.open(path) as journal:
        journal._connection.execute("UPDATE store_info SET version = 2")
    with pytest.raises(JournalTooNew):
        ErasureJournal.open(path)
    broken = tmp_path / "broken.sqlite"
    broken.write_bytes(b"not a database" * 100)
    with pytest.raises(JournalUnavailable):
        ErasureJournal.open(broken)
