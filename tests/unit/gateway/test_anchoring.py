"""Goal: what the charts list gets onto the ledger once, and what is refused holds nothing else up.

Method: the outbox works over the small world's ledger and real records; crashes are turns whose outcome is forgotten.
"""

import asyncio
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from carechain.chain.tx import parse
from carechain.charts.record import StoredRecord
from carechain.contracts.consent.schema import Revoke
from carechain.contracts.records import Anchor
from carechain.demo import synthetic
from carechain.gateway.anchoring import RETRY_FIRST_S, Outbox
from house import House
from smart_house import identity_of
from world import anything, entropy_of


class Listed:
    """A list of waiting versions, as the charts keep one."""

    def __init__(self) -> None:
        self.waiting: list[StoredRecord] = []

    def unanchored(self, limit: int) -> list[StoredRecord]:
        return self.waiting[:limit]

    def strike_off(self, anchored: Sequence[tuple[bytes, int]]) -> None:
        self.waiting = [one for one in self.waiting if (one.record_id, one.version) not in set(anchored)]


class Anchoring(House):
    """The hospital with an outbox that acts as carl."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.listed = Listed()
        self.outbox = self.new_outbox()

    def new_outbox(self) -> Outbox:
        return Outbox(
            charts=self.listed,
            ledger=self.ledger,
            identity=identity_of(self.world.carl),
            clock=self.clock,
            entropy=os.urandom,
        )

    def arrive(self, *, mary: bool = False) -> list[StoredRecord]:
        """A bundle comes in over FHIR, a whole chart for mary and one value more for steve; its versions wait."""
        patient = self.world.mary if mary else self.world.steve
        taken = self.charts.ingest(
            pseudonym=patient.id,
            bundle=synthetic.patient(3, seed=7) if mary else one_value_more(),
            received_s=self.clock(),
            rng=entropy_of("arrive", mary),
        )
        self.listed.waiting += taken.records
        return list(taken.records)

    def turn(self) -> int:
        return asyncio.run(self.outbox.turn())

    def is_anchored(self, record: StoredRecord) -> bool:
        anchors = self.ledger.view().contracts.records.anchors
        return anchors.has(record.pseudonym, record.record_id, record.version)


def one_value_more() -> bytes:
    """Steve's Patient resource, as it is known already, and one new Observation."""
    known = json.loads(synthetic.patient(3, seed=1))
    (patient,) = [one for one in known["entry"] if one["resource"]["resourceType"] == "Patient"]
    value = {
        "resourceType": "Observation",
        "id": "one-more",
        "status": "final",
        "subject": {"reference": f"Patient/{patient['resource']['id']}"},
        "code": {"text": "one more"},
        "effectiveDateTime": "2026-02-03",
    }
    new = {"resource": value, "request": {"method": "POST", "url": "Observation"}}
    return json.dumps({**known, "entry": [patient, new]}).encode()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Anchoring]:
    house = Anchoring(tmp_path)
    yield house
    house.close()


def test_waiting_versions_are_anchored(house: Anchoring) -> None:
    arrived = house.arrive(mary=True)
    house.world.grant(anything(house.world.mary, house.world.a), by=house.world.mary)
    assert house.turn() == len(arrived)
    assert all(house.is_anchored(one) for one in arrived)
    assert house.listed.waiting == []
    assert house.turn() == 0


def test_after_a_crash_the_ledger_is_asked_first(house: Anchoring) -> None:
    house.world.grant(anything(house.world.mary, house.world.a), by=house.world.mary)
    arrived = house.arrive(mary=True)
    house.turn()
    house.listed.waiting = arrived
    house.outbox = house.new_outbox()
    sent = len(house.ledger.submitted)
    assert house.turn() == len(arrived)
    assert len(house.ledger.submitted) == sent


def test_what_is_refused_holds_nothing_up_and_is_tried_again(house: Anchoring) -> None:
    world = house.world
    refused = house.arrive(mary=True)
    world.done(Revoke(pseudonym=world.steve.id, grant_id=house.may_write), by=world.steve)
    granted = world.grant(anything(world.steve, world.a), by=world.steve)
    mine = house.arrive()
    assert granted
    done = house.turn()
    assert done == sum(house.is_anchored(one) for one in mine)
    assert done > 0
    sent = len(house.ledger.submitted)
    assert house.turn() == 0
    assert len(house.ledger.submitted) == sent
    world.grant(anything(world.mary, world.a), by=world.mary)
    world.wait(RETRY_FIRST_S)
    assert house.turn() == len(refused)


def test_a_transaction_is_about_one_patient(house: Anchoring) -> None:
    world = house.world
    world.grant(anything(world.mary, world.a), by=world.mary)
    house.arrive(mary=True)
    house.arrive()
    house.turn()
    for raw in house.ledger.submitted:
        assert len({one.pseudonym for one in parse(raw).body.messages if isinstance(one, Anchor)}) == 1


def test_it_stops_when_it_is_asked_to(house: Anchoring) -> None:
    async def main() -> None:
        stop = asyncio.Event()
        running = asyncio.create_task(house.outbox.run(stop, every_s=0.001))
        await asyncio.sleep(0)
        stop.set()
        await running

    asyncio.run(main())
