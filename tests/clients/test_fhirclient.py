"""Goal: SMART's own Python client is let in by a patient, by a clinician and as a system, and shut out again.

Method: `fhirclient` walks its whole launch against the real authorisation server on a socket: as a public app (PKCE),
as one with a secret, started from a clinician's file, and as a backend service with a signed assertion. The test is the
browser, the patient's wallet and the clinician.
"""

import pytest
from fhirclient.client import FHIRClient
from fhirclient.models.observation import Observation
from fhirclient.models.patient import Patient
from fhirclient.server import FHIRNotFoundException, FHIRPermissionDeniedException, FHIRUnauthorizedException

from carechain.core.vocabulary import Category
from carechain.gateway.clients import Client, Proof
from served_house import ServedHouse, client_settings, result
from smart_house import SECRET, KeyHolder
from world import scope_of

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # The library's own.


def launched(house: ServedHouse, client: Client, **more: str) -> tuple[FHIRClient, bytes]:
    smart = FHIRClient(settings={**client_settings(house, client), **more})
    assert not smart.ready
    smart.prepare()
    back, grant = house.approve(smart.authorize_url)
    smart.handle_callback(back)
    assert smart.ready
    return smart, grant


@pytest.mark.parametrize("kind", ["public", "confidential"])
def test_a_patient_lets_an_app_in_and_out(house: ServedHouse, kind: str) -> None:
    more = {"app_secret": SECRET} if kind == "confidential" else {}
    smart, grant = launched(house, house.confidential if more else house.client, **more)
    assert smart.patient_id == house.patient
    patient = Patient.read(smart.patient_id, smart.server)
    house.store(*(result(f"{kind}-{number}", patient.id) for number in range(3)))
    # Page by page, as the library follows links; it reads the models strictly, so what it shows is valid by its lights.
    search = Observation.where({"patient": patient.id, "_count": "2"})
    found = list(search.perform_resources_iter(smart.server))
    assert {f"{kind}-{number}" for number in range(3)} <= {one.id for one in found}
    (mine,) = (one for one in found if one.id == f"{kind}-1")
    assert mine.subject.resolved(Patient).id == patient.id
    # The next token comes from the refresh token; the patient is not asked again.
    before = smart.server.auth.access_token
    smart.reauthorize()
    assert smart.server.auth.access_token != before
    assert Patient.read(smart.patient_id, smart.server).id == patient.id
    house.revoke(grant)
    with pytest.raises(FHIRUnauthorizedException):
        Patient.read(smart.patient_id, smart.server)


def test_an_app_that_was_let_read_cannot_write_or_read_more(house: ServedHouse) -> None:
    smart, _ = launched(house, house.client)
    house.store(result("hidden-1", house.patient, confidentiality="R"))
    with pytest.raises(FHIRNotFoundException):
        Observation.read("hidden-1", smart.server)
    with pytest.raises(FHIRPermissionDeniedException):
        smart.server.request_json("Condition")
    house.store(result("shown-1", house.patient))
    shown = Observation.read("shown-1", smart.server)
    with pytest.raises(FHIRPermissionDeniedException):
        shown.update(smart.server)


def test_a_clinician_starts_an_app_from_the_patients_file(house: ServedHouse) -> None:
    world = house.world
    scope = scope_of(Category.DEMOGRAPHICS, Category.RESULT, Category.ENCOUNTER)
    ticket = house.ticket(world.carl, scope)
    told = {"client_id": house.client.client_id, "tickets": [ticket.hex()]}
    answer = house.ask("POST", "/smart/launch", headers=house.session(world.carl), json=told)
    launch = b"ccl_" + answer.content.partition(b"ccl_")[2][:43]
    smart = FHIRClient(
        settings={
            **client_settings(house, house.client),
            "scope": "launch patient/Observation.rs patient/Patient.rs",
            "launch_token": launch.decode(),
        }
    )
    smart.prepare()
    back = house.browser.get(smart.authorize_url)
    assert back.status_code == 303, back.text
    smart.handle_callback(back.headers["location"])
    assert smart.patient_id == house.patient
    assert Patient.read(smart.patient_id, smart.server).id == house.patient


def test_a_system_signs_in_with_its_key(house: ServedHouse) -> None:
    keys = KeyHolder("RS384")
    told = {"redirects": (), "acting": "", "party": None, "system": True, "scopes": ("system/*.cruds",)}
    client = house.apps.register(house.app(client_id="client-0009", proof=Proof.KEYS, keys=keys.jwks(), **told))
    assertion = keys.assertion(client.client_id, house.clock(), aud=f"{house.url}/smart/token")
    smart = FHIRClient(
        settings={
            "app_id": client.client_id,
            "api_base": house.base,
            "redirect_uri": "",
            "scope": "system/*.cruds",
            "jwt_token": assertion,
        }
    )
    smart.prepare()
    smart.authorize()
    made = Observation(result(None, house.patient))
    created = made.create(smart.server)
    assert created["resourceType"] == "Observation"
    read = Observation.read(created["id"], smart.server)
    read.status = "amended"
    assert read.update(smart.server)["meta"]["versionId"] == "2"
