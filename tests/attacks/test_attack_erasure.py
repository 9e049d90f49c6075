"""Attacks with erasures, and on them. Every case: :mod:`attacks.conftest`.

Goal: nobody has destroyed what is another's, and what was ordered to go does not come back. Method: hospital a's real
charts, vault, tokens and eraser on the world's ledger; a restore is played by putting the old files back.
"""

import os
import shutil
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from attacks.cast import Doorway, synchronous
from carechain.charts.store import Charts
from carechain.contracts.membership import MembershipCode
from carechain.contracts.records import ConfirmErasure, Erase, ErasedPart, RecordsCode, SealedHashes
from carechain.core.rejection import Rejected
from carechain.core.vocabulary import ALL_POWERS, Category, Power, Purpose, Sensitivity
from carechain.gatekeeper.erasing import Eraser, Holdings, SealedObjects
from carechain.gatekeeper.erasure_journal import ErasureJournal
from carechain.sdk.shares import KeyholderCode, SharesRefused
from carechain.vault.codes import VaultCode
from sealed_world import SealedWorld
from vaults import read
from world import anchor_of, anything, record_id, scope_of, seeded

BODY = b"sealed content " * 99
ADDRESS = sha256(BODY).digest()


class Site(Doorway):
    """Hospital a with everything it keeps, and its eraser."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.folder = folder
        self.journal = ErasureJournal.open(folder / "erasures.sqlite")

    @property
    def eraser(self) -> Eraser:
        """As after a restart."""
        return Eraser(
            ledger=self.house.ledger,
            journal=self.journal,
            key=self.world.a.signing,
            member=self.world.a.id,
            clock=self.house.clock,
            entropy=os.urandom,
            holdings=Holdings(charts=self.house.charts, vault=SealedObjects(self.vault), tokens=self.vault.tokens),
        )

    async def seal(self, name: str, body: bytes = BODY) -> bytes:
        """A sealed record of Steve's, in the vault and on the ledger."""
        address, steve = sha256(body).digest(), self.world.steve
        await self.vault.put(address, body, pseudonym=steve.id)
        hashes = SealedHashes(capsule=seeded("capsule", name), object=address)
        self.world.done(anchor_of(steve, name, sealed=hashes), by=steve)
        return address

    def close(self) -> None:
        self.journal.close()
        super().close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.close()


def order(site: Site, name: str) -> Erase:
    return Erase(pseudonym=site.world.steve.id, record=record_id(name))


@synchronous
async def test_erasure_ordered_by_somebody_else(site: Site) -> None:
    """The author, the custodian, a grantee of everything, another patient, and relatives with less than all of it."""
    world = site.world
    await site.seal("one")
    world.grant(anything(world.steve, world.bert), by=world.steve)
    aunt = world.appoint("aunt", world.steve, powers=ALL_POWERS & ~int(Power.ERASE))
    uncle = world.appoint("uncle", world.steve, scope=scope_of(Category.RESULT, ceiling=Sensitivity.V))
    for who in (world.a, world.carl, world.anna, world.vera, world.gita, world.bert):
        assert world.run(order(site, "one"), by=who).code in (
            int(MembershipCode.ROLE_MAY_NOT_SEND),
            int(RecordsCode.MAY_NOT_ERASE),
        )
    for who in (world.mary, world.steve_at_b, aunt, uncle):
        world.refused(RecordsCode.MAY_NOT_ERASE, order(site, "one"), by=who)
    await site.eraser.carry_out()
    assert await read(site.vault, ADDRESS) == BODY


@synchronous
async def test_receipts_by_a_non_member(site: Site) -> None:
    """A patient, staff, or a stranger confirms that a hospital has destroyed its copy; or a member does it twice."""
    world = site.world
    await site.seal("one")
    receipt = ConfirmErasure(pseudonym=world.steve.id, record=record_id("one"), destroyed=int(ErasedPart.OBJECT))
    world.refused(RecordsCode.ERASURE_UNKNOWN, receipt, by=world.a)
    world.done(order(site, "one"), by=world.steve)
    for who in (world.steve, world.mary, world.carl, world.rosa, world.bert):
        world.refused(MembershipCode.ROLE_MAY_NOT_SEND, receipt, by=who)
    assert list(world.contracts().records.receipts.scan()) == []
    await site.eraser.carry_out()
    world.refused(RecordsCode.ALREADY_CONFIRMED, receipt, by=world.a)


@synchronous
async def test_erased_object_put_again(site: Site) -> None:
    """By the hospital's own program, by a partner over the door, and after the books have been lost."""
    world = site.world
    await site.seal("one")
    world.done(order(site, "one"), by=world.steve)
    await site.eraser.carry_out()
    with pytest.raises(Rejected) as caught:
        await site.vault.put(ADDRESS, BODY)
    assert caught.value.code is VaultCode.OBJECT_ERASED
    async with site.open():
        for who in (world.a, world.b, world.carl):
            answer = await site.ask("PUT", f"/v1/objects/{ADDRESS.hex()}", who, BODY)
            assert (answer.status_code, answer.json()["code"]) == (410, int(VaultCode.OBJECT_ERASED))
        assert (await site.ask("GET", f"/v1/objects/{ADDRESS.hex()}", world.steve)).status_code == 410
    site.vault.metering._execute("DELETE FROM erased")
    with pytest.raises(Rejected) as caught:
        await site.vault.put(ADDRESS, BODY)
    assert caught.value.code is VaultCode.OBJECT_ERASED


@synchronous
async def test_erased_record_brought_back_by_a_backup(site: Site) -> None:
    """Charts, objects, tokens and books as they were before the order: at the next start it all goes again."""
    house, world = site.house, site.world
    charted = house.of_grade(Sensitivity.N)[0].record_id
    await site.seal("one")
    site.vault.tokens.put(world.steve.id, record_id("one"), [seeded("token")])
    house.charts.close()
    backup = site.folder / "backup"
    backup.mkdir()
    shutil.copy(site.folder / "charts.sqlite", backup)
    shutil.copytree(site.folder / "objects", backup / "objects")
    house.charts = Charts.open(site.folder / "charts.sqlite")
    world.done(Erase(pseudonym=world.steve.id, record=charted), by=world.steve)
    world.done(order(site, "one"), by=world.steve)
    await site.eraser.carry_out()
    house.charts.close()
    for side in site.folder.glob("charts.sqlite*"):
        side.unlink()
    shutil.copy(backup / "charts.sqlite", site.folder)
    shutil.rmtree(site.folder / "objects")
    shutil.copytree(backup / "objects", site.folder / "objects")
    site.vault.tokens.put(world.steve.id, record_id("one"), [seeded("token")])
    site.vault.metering._execute("DELETE FROM erased")
    house.charts = Charts.open(site.folder / "charts.sqlite")
    assert house.charts.held_among([(world.steve.id, charted)])
    swept = await site.eraser.destroy(everything=True)
    assert (swept.destroyed, swept.postponed) == (2, 0)
    assert house.charts.held_among([(world.steve.id, charted)]) == set()
    assert await site.vault.vault.size(ADDRESS) is None
    assert not site.vault.tokens.holds(world.steve.id, record_id("one"))


@synchronous
async def test_somebody_elses_object_anchored_to_have_it_destroyed(site: Site) -> None:
    """Mary reads the address of Steve's object off the ledger, anchors it as her own, and orders it to be erased."""
    world, mary = site.world, site.world.mary
    address = await site.seal("one")
    world.refused(
        RecordsCode.OBJECT_TAKEN,
        anchor_of(mary, "mine", sealed=SealedHashes(capsule=seeded("mine"), object=address)),
        by=mary,
    )
    # Under the same record id and without the object she may; her order then reaches only what is hers.
    world.done(anchor_of(mary, "one"), by=mary)
    world.done(Erase(pseudonym=mary.id, record=record_id("one")), by=mary)
    await site.eraser.carry_out()
    assert await read(site.vault, address) == BODY
    assert not world.contracts().records.is_erased(world.steve.id, record_id("one"))


@synchronous
async def test_somebody_elses_chart_erased_through_its_record_id(site: Site) -> None:
    """The same with a record in the charts: ids of records are there for every member to see."""
    world, mary, house = site.world, site.world.mary, site.house
    charted = house.of_grade(Sensitivity.N)[0].record_id
    world.done(anchor_of(mary, "x", record=charted), by=mary)
    world.done(Erase(pseudonym=mary.id, record=charted), by=mary)
    await site.eraser.carry_out()
    assert house.charts.held_among([(world.steve.id, charted)])


def test_share_of_an_erased_record(sealed: SealedWorld) -> None:
    """Somebody kept a copy of object and capsule, has a live ticket, and asks once more. So does the patient."""
    world, one = sealed.world, sealed.write("one")
    requests = [(world.bert, sealed.request(sealed.ticket(), one))]
    ticket = sealed.ticket(by=world.steve, purpose=Purpose.PATRQT)
    requests.append((world.steve, sealed.request(ticket, one, by=world.steve)))
    world.done(Erase(pseudonym=world.steve.id, record=one.record), by=world.steve)
    for who, request in requests:
        for label in "abcde":
            with pytest.raises(SharesRefused) as caught:
                sealed.ask(who, request, label)
            assert caught.value.code is KeyholderCode.RECORD_UNKNOWN


def test_new_version_of_an_erased_record(sealed: SealedWorld) -> None:
    """A custodian writes the next version, or begins the record anew, and with it the erased one would be back."""
    world, one = sealed.world, sealed.write("one")
    world.done(Erase(pseudonym=world.steve.id, record=one.record), by=world.steve)
    again = SealedHashes(capsule=sha256(one.data).digest(), object=seeded("another object"))
    world.refused(RecordsCode.RECORD_ERASED, anchor_of(world.steve, "one", version=2, sealed=again), by=world.carl)
    world.refused(RecordsCode.VERSION_NOT_NEXT, anchor_of(world.steve, "one", sealed=again), by=world.carl)
    # The capsule under another record's name does not fit its label.
    world.done(anchor_of(world.steve, "copy", sealed=again), by=world.carl)
    copy = sealed.request(
        sealed.ticket(),
        type(one)(
            record=record_id("copy"), version=1, label=one.label, capsule=one.capsule, data=one.data, key=one.key
        ),
    )
    with pytest.raises(SharesRefused) as caught:
        sealed.ask(world.bert, copy)
    assert caught.value.code is KeyholderCode.CAPSULE_UNSOUND
