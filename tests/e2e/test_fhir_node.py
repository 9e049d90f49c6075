"""Goal: an organisation's node serves FHIR and SMART on FHIR to programs that know nothing of it.

Method: a real node process started by the program itself, on a home made by the program; a wallet approves by the
command line; the SMART clients `fhirclient` (Python) and `fhir-kit-client` (Node.js) walk the standalone launch,
and a plain HTTP client walks it everywhere.
"""

import base64
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest

from npm_clients import MODULES, node

PASSWORD: Final = "correct horse 口令"
REDIRECT: Final = "http://127.0.0.1:9009/back"
SCOPES: Final = "launch/patient openid fhirUser offline_access patient/Patient.rs patient/Observation.rs"
MRN: Final = "MRN-7"


class Hospital:
    """One home, its node, and a patient's wallet in another home."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.password = folder / "password"
        self.password.write_text(PASSWORD, encoding="utf-8")
        self.password.chmod(0o600)
        self.node = ""
        self.fhir = ""
        self.pseudonym = ""
        self.apps: dict[str, dict[str, Any]] = {}
        self.grants: list[str] = []

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CARECHAIN_")}
        kept |= {"CARECHAIN_NODE": self.node} if self.node else {}
        kept |= {"CARECHAIN_FHIR_SERVER": self.fhir} if self.fhir else {}
        paths = os.pathsep.join(one for one in sys.path if one)
        return {**kept, "PYTHONPATH": paths, "CARECHAIN_PASSWORD_FILE": str(self.password)}

    def run(self, home: str, *words: str, expect: int = 0) -> dict[str, Any]:
        """One command with ``--json``: its one object."""
        done = subprocess.run(
            [sys.executable, "-m", "carechain", *words, "--json", "--home", str(self.folder / home)],
            env=self.environment(),
            capture_output=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == expect, done.stderr.decode()
        return dict(json.loads(done.stdout))

    @contextmanager
    def serving(self) -> Iterator[None]:
        """The node, started and drained by the program."""
        ports = ("--port", "0", "--ops-port", "0", "--gatekeeper-port", "0", "--fhir-port", "0")
        with (self.folder / "log").open("wb+") as log:
            node = subprocess.Popen(
                [sys.executable, "-m", "carechain", "start", *ports, "--home", str(self.folder / "a")],
                env=self.environment(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
            try:
                assert node.stderr is not None
                told = b""
                while b'"node started"' not in told:
                    told = node.stderr.readline()
                    assert told, "the node ended"
                said = json.loads(told)
                self.node, self.fhir = said["api"], said["fhir"]
                yield
                node.send_signal(signal.SIGTERM)
                _, rest = node.communicate(timeout=60)
                log.write(rest)
                assert node.returncode == 0, rest.decode()
            finally:
                node.kill()
                node.communicate()

    def told(self) -> str:
        """The node's log after it ended."""
        return (self.folder / "log").read_text(encoding="utf-8")


def patient_bundle(patient: str) -> bytes:
    """A patient with two observations."""
    entries = [
        {"resourceType": "Patient", "id": patient, "name": [{"text": "王小明"}], "gender": "male"},
        *(
            {
                "resourceType": "Observation",
                "id": f"o{number}",
                "status": "final",
                "subject": {"reference": f"Patient/{patient}"},
                "code": {"coding": [{"system": "http://loinc.org", "code": "8867-4"}]},
                "effectiveDateTime": f"2026-01-0{number}",
            }
            for number in (1, 2)
        ),
    ]
    requests = [
        {"resource": one, "request": {"method": "PUT", "url": f"{one['resourceType']}/{one['id']}"}} for one in entries
    ]
    return json.dumps({"resourceType": "Bundle", "type": "transaction", "entry": requests}).encode()


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    """A founded network with a registered patient who has a chart, and three registered apps."""
    hospital = Hospital(tmp_path_factory.mktemp("医院"))
    hospital.run("a", "init", "--name", "协和医院", "--kind", "hospital", "--chain-id", "fhir-test")
    config = hospital.folder / "a" / "config.toml"
    config.write_text(
        f"password_file = {json.dumps(str(hospital.password))}\n"
        '[fhir]\nanchor_as = "records"\ntime_zone = "Asia/Shanghai"\n',
        encoding="utf-8",
    )
    # The key that anchors is opened at the start; it may act once it is enrolled.
    hospital.run("a", "keys", "new", "records")
    with hospital.serving():
        prepare(hospital)
        yield hospital
    log = hospital.told()
    assert MRN not in log
    assert "王小明" not in log
    assert "cca_" not in log


def prepare(hospital: Hospital) -> None:
    """Staff, the patient's registration and chart, and the apps."""
    records = hospital.run("a", "staff", "enrol", "records", "--roles", "doctor")["party"]
    hospital.run("a", "staff", "enrol", "chartview", "--roles", "nurse")
    genesis = str(hospital.folder / "a" / "genesis.json")
    hospital.run("steve", "keys", "new", "wallet", "--kind", "wallet", "--genesis", genesis)
    wallet = str(hospital.folder / "steve" / "keys" / "wallet.json")
    existing = hospital.folder / "id"
    existing.write_text(MRN, encoding="utf-8")
    bound = hospital.run("a", "patient", "register", "--wallet", wallet, "--id-file", str(existing))
    write = ("--categories", "all", "--ceiling", "V", "--actions", "write", "--purposes", "all")
    hospital.run("steve", "grant", "--to", records, *write)
    bundle = hospital.folder / "bundle.json"
    bundle.write_bytes(patient_bundle("p1"))
    hospital.run("a", "record", "add", str(bundle), "--patient", bound["pseudonym"], "--as", "records")
    app = ("--redirect", REDIRECT, "--scopes", SCOPES, "--acts-as", "chartview")
    hospital.apps = {
        "public": hospital.run("a", "app", "add", "Chart View", *app),
        "secret": hospital.run("a", "app", "add", "Chart Server", *app, "--with-secret"),
        "system": hospital.run(
            "a", "app", "add", "Laboratory", "--scopes", "system/*.cruds", "--system", "--with-secret"
        ),
    }
    hospital.pseudonym = bound["pseudonym"]


def system_token(hospital: Hospital) -> str:
    """The laboratory's own token."""
    app = hospital.apps["system"]
    form = {"grant_type": "client_credentials", "scope": "system/*.cruds"}
    auth = (app["client_id"], app["secret"])
    answer = httpx.post(f"{hospital.fhir}/smart/token", data=form, auth=auth, trust_env=False)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["access_token"])


def approve(hospital: Hospital, address: str) -> str:
    """A browser goes to the address, the patient approves the shown code, the browser goes on: returns where to."""
    with httpx.Client(trust_env=False) as browser:
        page = browser.get(address)
        assert page.status_code == 200, page.text
        (code,) = re.findall(r"class=code>([^<]+)<", page.text)
        (again,) = re.findall(r"href='([^']+)'", page.text)
        assert browser.get(again).status_code == 200
        hospital.grants.append(hospital.run("steve", "app", "approve", code, "--yes")["grant"])
        back = browser.get(again)
        assert back.status_code == 303
        return str(back.headers["location"])


# --- the door -------------------------------------------------------------------------------------------


def test_the_door_is_open(hospital: Hospital) -> None:
    configuration = httpx.get(f"{hospital.fhir}/fhir/.well-known/smart-configuration", trust_env=False).json()
    assert configuration["issuer"] == f"{hospital.fhir}/fhir"
    statement = httpx.get(f"{hospital.fhir}/fhir/metadata", trust_env=False).json()
    assert statement["resourceType"] == "CapabilityStatement"
    refused = httpx.get(f"{hospital.fhir}/fhir/Patient", trust_env=False)
    assert refused.status_code == 401
    assert refused.json()["resourceType"] == "OperationOutcome"


def test_only_scripts_of_registered_apps_may_read_answers(hospital: Hospital) -> None:
    url = f"{hospital.fhir}/fhir/metadata"
    for origin, allowed in (("http://127.0.0.1:9009", True), ("http://127.0.0.1:900", False), ("null", False)):
        asked = {"origin": origin, "access-control-request-method": "GET"}
        assert ("access-control-allow-origin" in httpx.options(url, headers=asked, trust_env=False).headers) is allowed
        answer = httpx.get(url, headers={"origin": origin}, trust_env=False)
        assert (answer.headers.get("access-control-allow-origin") == origin) is allowed


# --- standalone launch ----------------------------------------------------------------------------------


def test_a_plain_client_walks_the_launch(hospital: Hospital) -> None:
    verifier = "v" * 50
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    client_id = hospital.apps["public"]["client_id"]
    query = {
        "response_type": "code",
        "client_id": client_id,
        "redirect_uri": REDIRECT,
        "scope": SCOPES,
        "state": "s1",
        "aud": f"{hospital.fhir}/fhir",
        "code_challenge": challenge,
        "code_challenge_method": "S256",
    }
    back = parse_qs(urlsplit(approve(hospital, f"{hospital.fhir}/smart/authorize?{urlencode(query)}")).query)
    assert back["state"] == ["s1"]
    form = {
        "grant_type": "authorization_code",
        "code": back["code"][0],
        "redirect_uri": REDIRECT,
        "code_verifier": verifier,
        "client_id": client_id,
    }
    told = httpx.post(f"{hospital.fhir}/smart/token", data=form, trust_env=False).json()
    assert told["patient"] == "p1"
    bearer = {"authorization": f"Bearer {told['access_token']}"}
    found = httpx.get(f"{hospital.fhir}/fhir/Observation", headers=bearer, trust_env=False).json()
    assert {one["resource"]["id"] for one in found["entry"]} == {"o1", "o2"}
    log = hospital.run("steve", "log")
    assert "CAREMGT" in json.dumps(log).upper()
    hospital.run("steve", "revoke", hospital.grants[-1])
    assert httpx.get(f"{hospital.fhir}/fhir/Observation", headers=bearer, trust_env=False).status_code == 401


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # The library's own.
def test_fhirclient_walks_the_launch(hospital: Hospital) -> None:
    client = import_module("fhirclient.client")
    observations = import_module("fhirclient.models.observation").Observation
    patients = import_module("fhirclient.models.patient").Patient
    smart = client.FHIRClient(
        settings={
            "app_id": hospital.apps["secret"]["client_id"],
            "app_secret": hospital.apps["secret"]["secret"],
            "api_base": f"{hospital.fhir}/fhir",
            "redirect_uri": REDIRECT,
            "scope": SCOPES,
        }
    )
    smart.prepare()
    smart.handle_callback(approve(hospital, smart.authorize_url))
    assert smart.patient_id == "p1"
    patient = patients.read("p1", smart.server)
    assert patient.name[0].text == "王小明"
    found = observations.where({"patient": "p1"}).perform_resources(smart.server)
    assert {"o1", "o2"} <= {one.id for one in found}
    smart.reauthorize()
    assert patients.read("p1", smart.server).id == "p1"


KIT: Final = """
import * as kit from 'fhir-kit-client';
import { createHash } from 'node:crypto';
import { createInterface } from 'node:readline';
const Client = kit.Client ?? kit.default;
const [base, clientId, redirect, scope] = process.argv.slice(2);
const fhir = new Client({ baseUrl: base });
const { authorizeUrl, tokenUrl } = await fhir.smartAuthMetadata();
const verifier = 'k'.repeat(60);
const challenge = createHash('sha256').update(verifier).digest('base64url');
const asked = { response_type: 'code', client_id: clientId, redirect_uri: redirect, scope, state: 'k', aud: base,
  code_challenge: challenge, code_challenge_method: 'S256' };
console.log(`${authorizeUrl}?${new URLSearchParams(asked)}`);
for await (const line of createInterface({ input: process.stdin })) {
  const code = new URL(line).searchParams.get('code');
  const form = { grant_type: 'authorization_code', code, redirect_uri: redirect, client_id: clientId,
    code_verifier: verifier };
  const answer = await fetch(tokenUrl, { method: 'POST', body: new URLSearchParams(form) });
  const told = await answer.json();
  fhir.bearerToken = told.access_token;
  const patient = await fhir.read({ resourceType: 'Patient', id: told.patient });
  const found = await fhir.search({ resourceType: 'Observation', searchParams: { patient: told.patient } });
  console.log(JSON.stringify({ patient: patient.name[0].text, ids: found.entry.map((one) => one.resource.id) }));
  break;
}
"""


@pytest.mark.clients
def test_fhir_kit_client_walks_the_launch(hospital: Hospital) -> None:
    script = hospital.folder / "kit"
    script.mkdir()
    (script / "walk.mjs").write_text(KIT, encoding="utf-8")
    (script / "node_modules").symlink_to(MODULES.resolve())
    words = [f"{hospital.fhir}/fhir", hospital.apps["public"]["client_id"], REDIRECT, SCOPES]
    with subprocess.Popen(
        [str(node()), "walk.mjs", *words], cwd=script, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as walking:
        assert walking.stdin is not None
        assert walking.stdout is not None
        back = approve(hospital, walking.stdout.readline().strip())
        out, _ = walking.communicate(back + "\n", timeout=60)
    told = json.loads(out)
    assert told["patient"] == "王小明"
    assert {"o1", "o2"} <= set(told["ids"])


# --- systems, and what they write -----------------------------------------------------------------------


def test_what_a_system_writes_is_anchored(hospital: Hospital) -> None:
    bearer = {"authorization": f"Bearer {system_token(hospital)}", "content-type": "application/fhir+json"}
    observation = {
        "resourceType": "Observation",
        "id": "lab-1",
        "status": "final",
        "subject": {"reference": "Patient/p1"},
        "code": {"coding": [{"system": "http://loinc.org", "code": "718-7"}]},
        "effectiveDateTime": "2026-03-01",
        "valueQuantity": {"value": 13.50, "unit": "g/dL"},
    }
    before = len(hospital.run("a", "record", "list", "--patient", hospital.pseudonym)["records"])
    url = f"{hospital.fhir}/fhir/Observation/lab-1"
    written = httpx.put(url, headers=bearer, content=json.dumps(observation), trust_env=False)
    assert written.status_code == 201, written.text
    for _ in range(60):
        if len(hospital.run("a", "record", "list", "--patient", hospital.pseudonym)["records"]) > before:
            break
    else:
        pytest.fail(hospital.told())


def test_an_app_that_was_removed_gets_no_token(hospital: Hospital) -> None:
    app = hospital.run("a", "app", "add", "Gone", "--scopes", "system/*.rs", "--system", "--with-secret")
    assert app["client_id"] in {one["client_id"] for one in hospital.run("a", "app", "list")["apps"]}
    hospital.run("a", "app", "remove", app["client_id"])
    form = {"grant_type": "client_credentials", "scope": "system/*.rs"}
    auth = (app["client_id"], app["secret"])
    assert httpx.post(f"{hospital.fhir}/smart/token", data=form, auth=auth, trust_env=False).status_code == 401
    assert hospital.run("a", "app", "remove", app["client_id"], expect=1)["error"]["label"] == "SMART.CLIENT_UNKNOWN"


def test_a_patient_may_deny(hospital: Hospital) -> None:
    refused = hospital.run("steve", "app", "approve", "AAAA-BBBB", "--deny", expect=1)
    assert refused["error"]["label"] == "SMART.APPROVAL_UNKNOWN"
