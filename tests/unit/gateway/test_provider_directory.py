"""Goal: members and staff are found by id, kind, role and organisation, and nobody's name is among it (ID-4).

Method: the small world's six members and its staff, asked by several callers; every resource is valid R4.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from carechain.charts.sight import Sight
from carechain.contracts.membership import DismissStaff
from carechain.gateway.providers.directory import DirectoryProvider
from house import House
from provider_house import ProviderHouse

LOOKING = Sight(directory=True)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[ProviderHouse]:
    house = House(tmp_path)
    yield ProviderHouse(house)
    house.close()


@pytest.fixture
def directory(place: ProviderHouse) -> DirectoryProvider:
    return DirectoryProvider(ledger=place.ledger, addresses={place.world.a.id: "https://a.example/fhir"})


def found(
    place: ProviderHouse, directory: DirectoryProvider, actor: Any, kind: str, **params: str
) -> list[dict[str, Any]]:
    return place.search_as(directory, place.principal(actor, sight=LOOKING), kind, *params.items())


def test_members_are_organizations(place: ProviderHouse, directory: DirectoryProvider) -> None:
    world = place.world
    every = found(place, directory, world.bert, "Organization")
    assert sorted(one["name"] for one in every) == [f"Organisation {one}" for one in "abcdef"]
    assert {one["name"] for one in found(place, directory, world.steve, "Organization", type="ins")} == {
        "Organisation c",
        "Organisation d",
    }
    (named,) = found(place, directory, world.bert, "Organization", name="organisation a")
    assert named["id"] == world.a.id.hex()
    assert named["endpoint"] == [{"reference": f"Endpoint/{world.a.id.hex()}"}]
    (by_id,) = found(place, directory, world.bert, "Organization", identifier=f"urn:carechain:party|{world.b.id.hex()}")
    assert by_id["id"] == world.b.id.hex()


def test_staff_are_pseudonymous_and_listed_to_their_own_organisation(
    place: ProviderHouse, directory: DirectoryProvider
) -> None:
    world = place.world
    listed = found(place, directory, world.anna, "Practitioner")
    assert world.carl.id.hex() in {one["id"] for one in listed}
    assert world.bert.id.hex() not in {one["id"] for one in listed}
    assert all("name" not in one for one in listed)
    assert found(place, directory, world.bert, "Practitioner") == []
    (named,) = found(place, directory, world.bert, "Practitioner", _id=world.carl.id.hex())
    assert named["id"] == world.carl.id.hex()
    roles = found(place, directory, world.anna, "PractitionerRole", role="doctor")
    assert {one["id"] for one in roles} == {world.carl.id.hex(), world.dana.id.hex()}
    (role,) = found(
        place, directory, world.ivan, "PractitionerRole", practitioner=f"Practitioner/{world.bert.id.hex()}"
    )
    assert role["organization"] == {"reference": f"Organization/{world.b.id.hex()}"}


def test_who_has_left_is_no_longer_active(place: ProviderHouse, directory: DirectoryProvider) -> None:
    world = place.world
    world.done(DismissStaff(party=world.dana.id), by=world.anna)
    active = found(place, directory, world.anna, "PractitionerRole", role="doctor", active="true")
    assert [one["id"] for one in active] == [world.carl.id.hex()]


def test_where_records_can_be_asked_for(place: ProviderHouse, directory: DirectoryProvider) -> None:
    world = place.world
    (endpoint,) = found(place, directory, world.bert, "Endpoint")
    assert endpoint["address"] == "https://a.example/fhir"
    (service,) = found(place, directory, world.bert, "HealthcareService", organization=world.a.id.hex())
    assert service["providedBy"] == {"reference": f"Organization/{world.a.id.hex()}"}
    principal = place.principal(world.bert, sight=LOOKING)
    import asyncio  # noqa: PLC0415 - only here

    read = asyncio.run(directory.read(principal, "Endpoint", world.a.id.hex()))
    assert read is not None
    for kind, name in (("Endpoint", world.b.id.hex()), ("Organization", "x"), ("Organization", world.carl.id.hex())):
        assert asyncio.run(directory.read(principal, kind, name)) is None


def test_patients_and_representatives_are_not_in_the_directory(
    place: ProviderHouse, directory: DirectoryProvider
) -> None:
    world = place.world
    for kind in ("Practitioner", "PractitionerRole", "Organization"):
        assert found(place, directory, world.anna, kind, _id=world.steve.id.hex()) == []


def test_who_may_not_see_the_directory_sees_nothing(place: ProviderHouse, directory: DirectoryProvider) -> None:
    blind = place.principal(place.world.bert, sight=Sight(directory=False))
    assert place.search_as(directory, blind, "Organization") == []
