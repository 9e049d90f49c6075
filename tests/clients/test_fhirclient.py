"""Goal: SMART's own Python client lets a patient's app in by the standalone launch, and the patient shuts it out.

Method: `fhirclient` does its whole launch against the real authorisation server on a socket, with a public app (PKCE)
and with one that has a secret; the test is the browser and the patient's wallet.
"""

from pathlib import Path

import pytest
from fhirclient.client import FHIRClient
from fhirclient.models.fhirsearch import FHIRSearch
from fhirclient.models.observation import Observation
from fhirclient.models.patient import Patient
from fhirclient.server import FHIRUnauthorizedException

from carechain.gateway.clients import Client
from served_house import ServedHouse, client_settings
from smart_house import SECRET

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
    patient = Patient.read(smart.patient_id, smart.server)
    assert patient.id == smart.patient_id
    found = list(FHIRSearch(Observation, {"patient": patient.id}).perform_resources_iter(smart.server))
    assert found, (smart.server.request_json(f"Observation?patient={patient.id}"))
    assert {one.subject.reference for one in found} == {f"Patient/{patient.id}"}
    # fhirclient reads the model strictly: what it can read back as JSON is valid by its lights too.
    assert all(one.as_json()["resourceType"] == "Observation" for one in found)
    # The next token comes from the refresh token; the patient is not asked again.
    before = smart.server.auth.access_token
    smart.reauthorize()
    assert smart.server.auth.access_token != before
    assert Patient.read(smart.patient_id, smart.server).id == patient.id
    house.revoke(grant)
    with pytest.raises(FHIRUnauthorizedException):
        Patient.read(smart.patient_id, smart.server)
