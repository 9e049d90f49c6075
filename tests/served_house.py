"""Hospital a with its FHIR server on a real socket, for clients that somebody else wrote.

Goal: let a program that knows nothing of this project talk HTTP to the server. Method: the gateway of
:mod:`smart_house` serves on a loopback port from a thread of its own, while the test is the client, the browser and the
wallet. The world moves only when the test moves it.
"""

import asyncio
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import httpx

from carechain.charts.repository import Repository
from carechain.gatekeeper.listen import Listener
from carechain.gateway.clients import Client, Proof, hash_of
from carechain.node.ports import free_ports
from smart_house import SCOPES, SECRET, SmartHouse
from world import Signer

if TYPE_CHECKING:
    from collections.abc import Callable

Json = dict[str, Any]

CONFIDENTIALITY = "http://terminology.hl7.org/CodeSystem/v3-Confidentiality"


class ServedHouse(SmartHouse):
    """The hospital on a socket, with two more registered apps: one that keeps a secret, and its own laboratory."""

    def __init__(self, folder: Path) -> None:
        (port,) = free_ports(1)
        super().__init__(folder, f"http://127.0.0.1:{port}")
        self.base = f"{self.url}/fhir"
        self.confidential = self.apps.register(self.app(client_id="client-0002", **_secret()))
        told = {"scopes": ("system/*.cruds",), "redirects": (), "acting": "", "party": None, "system": True}
        self.laboratory = self.apps.register(self.app(client_id="client-0003", **told, **_secret()))
        self.browser = httpx.Client(base_url=self.url, trust_env=False)
        self._stop: Callable[[], object] = lambda: None
        up = threading.Event()
        self._thread = threading.Thread(target=lambda: self.runner.run(self._serve(port, up)))
        self._thread.start()
        assert up.wait(30)

    async def _serve(self, port: int, up: threading.Event) -> None:
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._stop = lambda: loop.call_soon_threadsafe(stopping.set)
        listener = Listener(self.mounted.app, port=port)
        await listener.start()
        up.set()
        await stopping.wait()
        await listener.stop()

    def ask(self, method: str, path: str, **given: Any) -> httpx.Response:
        """As the house's, over the socket."""
        return self.browser.request(method, path, **given)

    def system_token(self) -> str:
        """The laboratory's own token."""
        form = {"grant_type": "client_credentials", "scope": "system/*.cruds"}
        auth = (self.laboratory.client_id, SECRET)
        answer = self.ask("POST", "/smart/token", data=form, auth=auth)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])

    @property
    def patient(self) -> str:
        """The id of Steve's file."""
        with Repository(self.charts).reading() as reader:
            found = reader.patient(self.world.steve.id)
        assert found is not None
        return found

    def store(self, *resources: Json) -> None:
        """The laboratory files resources under their ids."""
        bearer = {"authorization": f"Bearer {self.system_token()}", "content-type": "application/fhir+json"}
        for one in resources:
            answer = self.ask("PUT", f"/fhir/{one['resourceType']}/{one['id']}", headers=bearer, json=one)
            assert answer.is_success, answer.text

    def approve(self, address: str, by: Signer | None = None) -> tuple[str, bytes]:
        """A browser goes where the app sends it, Steve approves with a grant: where the browser goes, and the grant."""
        page = self.browser.get(address)
        assert page.status_code == 200, (page.status_code, page.text)
        code = page.text.partition("class=code>")[2].partition("<")[0]
        handle = page.text.partition("handle=")[2].partition("&#x27;")[0].partition("'")[0]
        (scopes,) = parse_qs(urlsplit(address).query)["scope"]
        grant = self.consent(scopes)
        done = self.answer(code, by or self.world.steve, grant=grant.hex())
        assert done.status_code == 204, done.text
        back = self.wait(handle)
        assert back.status_code == 303, back.text
        return back.headers["location"], grant

    def token_of_app(self) -> tuple[str, bytes]:
        """An access token that Steve let the public app have, and the grant behind it."""
        told, grant = self.tokens()
        return str(told["access_token"]), grant

    def close(self) -> None:
        self._stop()
        self._thread.join()
        self.browser.close()
        super().close()


def _secret() -> Json:
    return {"proof": Proof.SECRET, "secret_hash": hash_of(SECRET)}


def client_settings(house: ServedHouse, client: Client) -> Json:
    """What an app of this hospital is told by its operator."""
    return {"app_id": client.client_id, "api_base": house.base, "redirect_uri": client.redirects[0], "scope": SCOPES}


def result(resource_id: str | None, patient: str, *, confidentiality: str = "N", day: str = "2026-01-05") -> Json:
    """A laboratory result."""
    return {
        "resourceType": "Observation",
        **({"id": resource_id} if resource_id else {}),
        "meta": {"security": [{"system": CONFIDENTIALITY, "code": confidentiality}]},
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "718-7"}], "text": "Haemoglobin"},
        "subject": {"reference": f"Patient/{patient}"},
        "effectiveDateTime": day,
        "valueQuantity": {"value": 13.5, "unit": "g/dL", "system": "http://unitsofmeasure.org", "code": "g/dL"},
    }
