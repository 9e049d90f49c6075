"""Goal: what the FHIR server gives out is on disk before it is given, under the right patient's ticket, unalterably.

Method: readings of the small world are noted by the gateway's audit; the two files are read again, altered and checked.
"""

import asyncio
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from carechain.charts.sight import CUSTODIAN, NOTHING
from carechain.contracts.access import RequestAccess
from carechain.core.limits import GATEKEEPER_RECORDS
from carechain.core.vocabulary import Category, Purpose
from carechain.gatekeeper.audit import AuditDamaged, AuditTooNew, AuditUnavailable
from carechain.gateway.audit import GatewayAudit, OwnAudit
from carechain.gateway.codes import FhirCode
from carechain.gateway.principal import Principal, Reading
from house import House
from world import grant_of, scope_of


class Owners:
    """Whose records these are, as the charts would say."""

    def __init__(self) -> None:
        self.known: dict[bytes, bytes] = {}

    def owners(self, records: Sequence[bytes]) -> dict[bytes, bytes]:
        return {one: self.known[one] for one in records if one in self.known}


class Audited(House):
    """The hospital with the gateway's audit."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.own = OwnAudit.open(folder / "fhir.sqlite")
        self.owners = Owners()
        self.gateway = GatewayAudit(
            audit=self.audit, own=self.own, ledger=self.ledger, owners=self.owners, clock=self.clock
        )

    def note(self, *, tickets: tuple[bytes, ...] = (), **told: object) -> None:
        principal = Principal(
            party=self.world.bert.id,
            sight=NOTHING if tickets else CUSTODIAN,
            rights={},
            tickets=tickets,
            client_id="app-00001",
            system=not tickets,
        )
        reading = {"interaction": "search-type", "resource_types": ("Observation",), "records": (), "count": 1, **told}
        asyncio.run(self.gateway.note(Reading(principal=principal, **reading)))  # type: ignore[arg-type]

    def close(self) -> None:
        self.own.close()
        super().close()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Audited]:
    house = Audited(tmp_path)
    yield house
    house.close()


RECORDS = tuple((bytes([n & 255, n >> 8]) * 16, 1) for n in range(GATEKEEPER_RECORDS + 3))


def test_a_ticketed_reading_stands_in_the_gatekeepers_audit(house: Audited) -> None:
    ticket = house.ticket()
    house.note(tickets=(ticket,), records=(*RECORDS[:3], RECORDS[0]))
    (entry,) = house.audit.entries()
    assert entry.read.ticket == ticket
    assert entry.read.records == RECORDS[:3]
    assert entry.read.requester == house.world.bert.id
    assert entry.read.height == house.world.height
    assert house.own.entries() == []


def test_many_records_are_many_entries(house: Audited) -> None:
    house.note(tickets=(house.ticket(),), records=RECORDS)
    assert [len(one.read.records) for one in house.audit.entries()] == [GATEKEEPER_RECORDS, 3]


def test_each_patients_records_stand_under_that_patients_ticket(house: Audited) -> None:
    world = house.world
    scope = scope_of(Category.RESULT)
    world.grant(grant_of(world.mary, world.bert, scope=scope), by=world.mary)
    marys = world.request(
        RequestAccess(pseudonym=world.mary.id, scope=scope, purpose=Purpose.TREAT), by=world.bert
    ).ticket
    steves = house.ticket()
    house.owners.known = {RECORDS[0][0]: world.steve.id, RECORDS[1][0]: world.mary.id}
    house.note(tickets=(steves, marys), records=RECORDS[:2])
    assert {one.read.ticket: one.read.records for one in house.audit.entries()} == {
        steves: RECORDS[:1],
        marys: RECORDS[1:2],
    }
    with pytest.raises(AuditUnavailable):
        house.note(tickets=(steves, marys), records=RECORDS[2:3])


def test_a_refusal_is_noted_with_its_code(house: Audited) -> None:
    house.note(tickets=(house.ticket(),), count=0, refused=int(FhirCode.NOT_FOUND))
    (entry,) = house.audit.entries()
    assert entry.read.code == FhirCode.NOT_FOUND
    assert entry.read.records == ()


def test_what_no_ticket_stands_behind_has_a_file_of_its_own(house: Audited) -> None:
    house.note(records=RECORDS[:2], count=2)
    house.note(tickets=(house.ticket(),), resource_types=("Organization",))
    first, second = house.own.entries()
    assert first.reading.records == RECORDS[:2]
    assert first.reading.client_id == "app-00001"
    assert second.reading.types == ("Organization",)
    assert house.own.check() == 2
    assert house.audit.entries() == []


def test_an_altered_entry_is_found(house: Audited, tmp_path: Path) -> None:
    for _ in range(3):
        house.note(records=RECORDS[:1])
    with sqlite3.connect(tmp_path / "fhir.sqlite") as connection:
        connection.execute("UPDATE readings SET running = zeroblob(32) WHERE seq = 2")
    with pytest.raises(AuditDamaged) as damaged:
        house.own.check()
    assert damaged.value.number == 2
    with sqlite3.connect(tmp_path / "fhir.sqlite") as connection:
        connection.execute("UPDATE readings SET entry = x'00' WHERE seq = 1")
    with pytest.raises(AuditDamaged):
        house.own.entries()


def test_a_disk_that_fails_lets_nothing_out(house: Audited) -> None:
    house.own.close()
    with pytest.raises(AuditUnavailable):
        house.note(records=RECORDS[:1])


def test_a_newer_file_is_left_alone(tmp_path: Path) -> None:
    OwnAudit.open(tmp_path / "x.sqlite").close()
    with sqlite3.connect(tmp_path / "x.sqlite") as connection:
        connection.execute("UPDATE store_info SET version = 99")
    with pytest.raises(AuditTooNew):
        OwnAudit.open(tmp_path / "x.sqlite")
