"""Goal: a chart that came before its patient's registration goes over to the ledger's pseudonym, and only that one.

Method: real charts with patients written over the repository, the small world's ledger, and the registrar's own hash.
"""

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from carechain.charts.binding import provisional
from carechain.charts.repository import Change, Repository
from carechain.charts.sight import CUSTODIAN
from carechain.gateway import binding
from carechain.gateway.binding import Binder
from carechain.node.hl7 import LedgerRegistry
from house import House
from world import bind_message, wallet_of


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.close()


def write_patient(house: House, patient_id: str, mrn: str | None) -> None:
    tree: dict[str, object] = {"resourceType": "Patient", "id": patient_id}
    if mrn is not None:
        tree["identifier"] = [{"type": {"coding": [{"code": "MR"}]}, "value": mrn}]
    with Repository(house.charts).writing(house.world.time_s * 1_000_000, os.urandom) as writer:
        writer.apply(
            [Change(resource_type="Patient", resource_id=patient_id, body=json.dumps(tree).encode())], CUSTODIAN
        )


def binder(house: House) -> Binder:
    world = house.world
    return Binder(charts=house.charts, registry=LedgerRegistry(house.ledger, world.a.id, world.a.secret, system="mrn"))


def turn(one: Binder) -> int:
    return asyncio.run(one.turn())


def pseudonym_of(house: House, patient_id: str) -> bytes | None:
    with Repository(house.charts).reading() as reader:
        return reader.pseudonym(patient_id)


def register(house: House, mrn: str) -> bytes:
    """A new patient of hospital a, bound by its registrar."""
    world = house.world
    newcomer = wallet_of("newcomer").pseudonym(world.a.id)
    world.done(bind_message(newcomer, world.a.secret.id_hash("mrn", mrn)), by=world.a)
    return newcomer.id


def test_a_chart_waits_until_the_patient_is_registered_and_then_moves(house: House) -> None:
    write_patient(house, "newcomer", "MRN-77")
    going = binder(house)
    assert turn(going) == 0
    assert pseudonym_of(house, "newcomer") == provisional("newcomer")
    registered = register(house, "mrn-77")
    assert turn(going) == 1
    assert pseudonym_of(house, "newcomer") == registered
    assert turn(going) == 0


def test_who_has_no_existing_id_or_another_one_is_left_alone(house: House) -> None:
    write_patient(house, "nobody", None)
    write_patient(house, "other", "MRN-78")
    register(house, "MRN-77")
    assert turn(binder(house)) == 0
    assert pseudonym_of(house, "nobody") == provisional("nobody")
    assert pseudonym_of(house, "other") == provisional("other")


def test_two_local_patients_with_one_existing_id_are_not_joined(
    house: House, capsys: pytest.CaptureFixture[str]
) -> None:
    write_patient(house, "first", "MRN-77")
    write_patient(house, "second", "MRN-77")
    registered = register(house, "MRN-77")
    assert turn(binder(house)) == 1
    assert pseudonym_of(house, "first") == registered
    assert pseudonym_of(house, "second") == provisional("second")
    assert "MRN" not in capsys.readouterr().out


def test_every_patient_gets_a_turn(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binding, "BATCH", 2)
    for number in range(5):
        write_patient(house, f"p{number}", f"BED-{number}")
    registered = register(house, "BED-4")
    going = binder(house)
    assert [turn(going) for _ in range(3)] == [0, 0, 1]
    assert pseudonym_of(house, "p4") == registered
