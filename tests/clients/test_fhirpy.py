"""Goal: a generic FHIR client in Python, synchronous and asynchronous, works with the server as with any other.

Method: `fhirpy` creates, reads, searches, pages, updates and patches over a real socket with the token of one of the
organisation's systems, and reads with an app's token what a patient granted.
"""

import asyncio
from typing import Any

import pytest
from fhirpy import AsyncFHIRClient, SyncFHIRClient
from fhirpy.base.exceptions import (
    AuthorizationError,
    ForbiddenError,
    MultipleResourcesFound,
    OperationOutcome,
    ResourceNotFound,
)

from served_house import ServedHouse, result

NAME = "王小明"


def client_of(house: ServedHouse, token: str) -> SyncFHIRClient:
    return SyncFHIRClient(house.base, authorization=f"Bearer {token}")


def new_result(client: SyncFHIRClient | AsyncFHIRClient, patient: str, day: str = "2026-01-05") -> Any:
    return client.resource(
        "Observation", **{key: value for key, value in result(None, patient, day=day).items() if key != "resourceType"}
    )


@pytest.fixture
def system(house: ServedHouse) -> SyncFHIRClient:
    return client_of(house, house.system_token())


def new_patient(client: SyncFHIRClient | AsyncFHIRClient, number: str) -> Any:
    return client.resource(
        "Patient",
        identifier=[{"system": "https://hospital.example/mrn", "value": number}],
        name=[{"family": "王", "given": ["小明"], "text": NAME}],
        birthDate="1980-02-29",
    )


def test_a_resource_is_created_read_changed_and_read_again(system: SyncFHIRClient) -> None:
    patient = new_patient(system, "sync-1").save()
    assert patient.id
    assert patient.meta.versionId == "1"
    read = system.reference("Patient", patient.id).to_resource()
    assert read.name[0].text == NAME
    read["active"] = True
    read.save()
    assert read.meta.versionId == "2"
    assert patient.refresh().active is True
    assert system.get("Patient", patient.id).birthDate == "1980-02-29"


def test_searches_find_page_count_and_include(system: SyncFHIRClient) -> None:
    patient = new_patient(system, "sync-2").save()
    for number in range(5):
        new_result(system, patient.id, f"2026-02-0{number + 1}").save()
    observations = system.resources("Observation").search(patient=patient.to_reference().reference)
    assert observations.count() == 5
    everything = observations.sort("-date").limit(2).fetch_all()
    assert [one.effectiveDateTime for one in everything] == [f"2026-02-0{number}" for number in (5, 4, 3, 2, 1)]
    assert [one.effectiveDateTime for one in observations.search(date__ge="2026-02-04").sort("date").fetch()] == [
        "2026-02-04",
        "2026-02-05",
    ]
    assert observations.first() is not None
    found = system.resources("Patient").search(name=NAME, identifier="sync-2").get()
    assert found.id == patient.id
    both = system.resources("Observation").include("Observation", "subject").search(patient=patient.id).fetch_raw()
    assert {one.resource.resourceType for one in both.entry} == {"Observation", "Patient"}
    chained = system.resources("Observation").search(subject__Patient__identifier="sync-2")
    assert chained.count() == 5
    back = system.resources("Patient").has("Observation", "patient", code="718-7").search(identifier="sync-2")
    assert [one.id for one in back.fetch()] == [patient.id]
    assert list(system.resources("Observation").search(patient="Patient/nobody").fetch()) == []


def test_conditions_keep_duplicates_out(system: SyncFHIRClient) -> None:
    wanted = system.resources("Patient").search(identifier="https://hospital.example/mrn|sync-3")
    first, created = wanted.get_or_create(new_patient(system, "sync-3"))
    second, again = wanted.get_or_create(new_patient(system, "sync-3"))
    assert (created, again) == (True, False)
    assert first.id == second.id
    male = new_patient(system, "sync-3")
    male["gender"] = "male"
    changed, created = wanted.update(male)
    assert changed.id == first.id
    assert changed.gender == "male"
    assert not created
    new_patient(system, "sync-3").save()
    with pytest.raises(MultipleResourcesFound):
        wanted.get_or_create(new_patient(system, "sync-3"))


def test_a_transaction_refers_within_itself(system: SyncFHIRClient) -> None:
    urn = "urn:uuid:4f8c0d8e-6f0a-4e5e-9a59-0e1c7f3f7b0e"
    bundle = {
        "resourceType": "Bundle",
        "type": "transaction",
        "entry": [
            {
                "fullUrl": urn,
                "resource": new_patient(system, "sync-4").serialize(),
                "request": {"method": "POST", "url": "Patient"},
            },
            {
                "resource": {**result(None, "x"), "subject": {"reference": urn}},
                "request": {"method": "POST", "url": "Observation"},
            },
        ],
    }
    done = system.execute("", method="post", data=bundle)
    assert [one.response.status[:3] for one in done.entry] == ["201", "201"]
    patient = system.resources("Patient").search(identifier="sync-4").get()
    assert patient.id == urn.removeprefix("urn:uuid:")
    assert system.resources("Observation").search(patient=patient.id).count() == 1


def test_operations(system: SyncFHIRClient) -> None:
    patient = new_patient(system, "sync-5").save()
    assert patient.is_valid()
    assert not system.resource("Patient", gender="neither").is_valid()
    with pytest.raises(OperationOutcome):
        system.resource("Patient", gender="neither").is_valid(raise_exception=True)
    new_result(system, patient.id).save()
    everything = patient.execute("$everything", method="get")
    assert {one.resource.resourceType for one in everything.entry} == {"Patient", "Observation"}


def test_refusals_are_told_in_the_clients_own_words(house: ServedHouse, system: SyncFHIRClient) -> None:
    with pytest.raises(ResourceNotFound):
        system.get("Patient", "nobody")
    with pytest.raises(OperationOutcome):
        new_patient(system, "sync-6").save().delete()
    with pytest.raises(OperationOutcome) as invalid:
        system.resource("Observation", status="final").save()
    assert invalid.value.resource["issue"][0]["expression"] == ["Observation.code"]
    # Its patch is no JSON Patch and says it is plain JSON: refused, not misunderstood.
    with pytest.raises(OperationOutcome):
        new_patient(system, "sync-7").save().patch(active=False)
    with pytest.raises(AuthorizationError):
        client_of(house, "cca_nothing").get("Patient", "nobody")


def test_an_app_sees_what_was_granted_until_it_is_revoked(house: ServedHouse) -> None:
    token, grant = house.token_of_app()
    house.store(result("for-the-app", house.patient), result("not-for-the-app", house.patient, confidentiality="V"))
    app = client_of(house, token)
    seen = {one.id for one in app.resources("Observation").search(patient=house.patient).fetch_all()}
    assert "for-the-app" in seen
    assert "not-for-the-app" not in seen
    with pytest.raises(ForbiddenError):
        new_result(app, house.patient).save()
    house.revoke(grant)
    with pytest.raises(AuthorizationError):
        app.get("Patient", house.patient)


def test_the_asynchronous_client(house: ServedHouse) -> None:
    async def used() -> None:
        client = AsyncFHIRClient(house.base, authorization=f"Bearer {house.system_token()}")
        patient = await new_patient(client, "async-1").save()
        made = (new_result(client, patient.id, f"2026-03-0{number + 1}") for number in range(5))
        await asyncio.gather(*(one.save() for one in made))
        observations = client.resources("Observation").search(patient=patient.id)
        assert await observations.count() == 5
        days = [one.effectiveDateTime async for one in observations.sort("date").limit(2)]
        assert days == [f"2026-03-0{number + 1}" for number in range(5)]
        assert (await client.get("Patient", patient.id)).name[0].text == NAME
        with pytest.raises(ResourceNotFound):
            await client.get("Patient", "nobody")

    asyncio.run(used())
