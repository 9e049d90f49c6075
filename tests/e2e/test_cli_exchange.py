"""Goal: hospital B reads what hospital A wrote, because the patient said so, by the command line alone (CON-1, REC-2).

Method: real homes on a temporary disk, a real node as a child process on loopback ports, and the installed program's
own entry point for every step. Each promise is asserted by itself; nothing is imported from the program under test but
its vocabulary. The main steps also in a network with the SM suite (KEY-6).
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from carechain.node.ports import free_ports

BUNDLE = {
    "resourceType": "Bundle",
    "type": "transaction",
    "entry": [
        {
            "resource": {
                "resourceType": "Patient",
                "id": "p1",
                "name": [{"text": "王小明"}],
                "identifier": [{"type": {"coding": [{"code": "MR"}]}, "value": "MRN-778123"}],
            },
            "request": {"method": "PUT", "url": "Patient/p1"},
        },
        {
            "resource": {
                "resourceType": "Encounter",
                "id": "e1",
                "status": "finished",
                "class": {"code": "AMB"},
                "subject": {"reference": "Patient/p1"},
                "period": {"start": "2026-03-01T09:00:00Z"},
            },
            "request": {"method": "PUT", "url": "Encounter/e1"},
        },
        {
            "resource": {
                "resourceType": "Observation",
                "id": "o1",
                "status": "final",
                "code": {"coding": [{"system": "http://loinc.org", "code": "8480-6"}]},
                "subject": {"reference": "Patient/p1"},
                "encounter": {"reference": "Encounter/e1"},
                "effectiveDateTime": "2026-03-01T09:05:00Z",
                "valueQuantity": {"value": 120, "unit": "mmHg"},
            },
            "request": {"method": "PUT", "url": "Observation/o1"},
        },
    ],
}
PRIVATE = ("王小明", "MRN-778123", "8480-6", "mmHg")
"""What must never reach the ledger, the logs or an error text."""


class Program:
    """The program as a user calls it, always as a process of its own."""

    def __init__(self, folder: Path, *, suite: str = "international") -> None:
        self.folder = folder
        self.suite = suite
        self.password = folder / "password"
        self.password.touch(mode=0o600)
        self.password.write_text("正确的 password\n", encoding="utf-8")
        self.node = ""
        self.gatekeeper = ""
        self.said = ""

    def run(self, home: str, *words: str, expect: int = 0, stdin: str = "") -> Any:
        """One command with --json: its object, after the exit status was checked."""
        finished = subprocess.run(
            [sys.executable, "-m", "carechain", *words, "--json", "--home", str(self.folder / home)],
            env=self.environment(),
            input=stdin.encode(),
            capture_output=True,
            check=False,
        )
        out, err = finished.stdout.decode(), finished.stderr.decode()
        self.said += err
        assert finished.returncode == expect, (words, out, err)
        assert "Traceback" not in err
        return json.loads(out) if out else None

    def environment(self) -> dict[str, str]:
        """Nothing of the caller's settings, and the two addresses once there are any."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CARECHAIN_")}
        addresses = {"CARECHAIN_NODE": self.node, "CARECHAIN_GATEKEEPER": self.gatekeeper}
        return {
            **kept,
            "CARECHAIN_PASSWORD_FILE": str(self.password),
            **{name: value for name, value in addresses.items() if value},
        }


OF_BOTH_SUITES = (
    "test_the_network_is_up",
    "test_the_exchange",
    "test_a_key_made_elsewhere_is_enrolled_once_it_has_agreed",
    "test_the_doctor_finds_nothing_wrong",
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """What a suite could make a difference to is done in a network of each."""
    suites = ["international", "sm"] if metafunc.function.__name__ in OF_BOTH_SUITES else ["international"]
    if "program" in metafunc.fixturenames:
        metafunc.parametrize("program", suites, indirect=True, scope="module")


@pytest.fixture(scope="module")
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Program:
    return Program(tmp_path_factory.mktemp("cli"), suite=request.param)


@pytest.fixture(scope="module")
def network(program: Program) -> Iterator[dict[str, Any]]:
    """Hospital A founds the network and serves it; hospital B is voted in."""
    program.run(
        "a", "init", "--name", "协和医院", "--kind", "hospital", "--chain-id", "test-chain", "--suite", program.suite
    )
    ports = ("--port", "0", "--gatekeeper-port", "0", "--ops-port", "0", "--fhir-port", "0")
    with (program.folder / "node.log").open("w+b") as log, node(program, *ports) as started:
        served = addresses(started, log)
        program.node, program.gatekeeper = served["api"], served["gatekeeper"]
        genesis = str(program.folder / "a" / "genesis.json")
        joined = program.run("b", "init", "--name", "Hospital B", "--kind", "hospital", "--genesis", genesis)
        admitted = program.run("a", "member", "propose-admit", joined["application"])
        yield {"b": joined, "admitted": admitted}
        started.send_signal(signal.SIGTERM)
        out, err = started.communicate(timeout=60)
        log.write(err)
        assert started.returncode == 0, err.decode()
        assert json.loads(out)["stopped"] is True


@contextmanager
def node(program: Program, *ports: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A running node of home a, dead at the end whatever happens."""
    started = subprocess.Popen(
        [sys.executable, "-m", "carechain", "start", "--json", *ports, "--home", str(program.folder / "a")],
        env=program.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield started
    finally:
        if started.poll() is None:
            started.kill()
            started.communicate()


def addresses(started: "subprocess.Popen[bytes]", log: IO[bytes]) -> dict[str, str]:
    """What the log says once the node serves; the log is a stream of JSON lines."""
    if started.stderr is None:
        raise TypeError
    for line in started.stderr:
        log.write(line)
        entry = json.loads(line)
        if entry["event"] == "node started":
            return dict(entry)
    raise AssertionError("the node ended before it served")


@pytest.fixture(scope="module")
def people(program: Program, network: dict[str, Any]) -> dict[str, str]:
    """A writer at A, a reader at B, and a patient of A with a wallet in a home of its own."""
    (program.folder / "id").write_text("MRN-778123\n", encoding="utf-8")
    carl = program.run("a", "staff", "enrol", "carl", "--roles", "doctor")["party"]
    rosa = program.run("b", "staff", "enrol", "rosa", "--roles", "doctor")["party"]
    genesis = str(program.folder / "a" / "genesis.json")
    program.run("patient", "keys", "new", "mine", "--kind", "wallet", "--genesis", genesis)
    wallet = str(program.folder / "patient" / "keys" / "mine.json")
    id_file = str(program.folder / "id")
    bound = program.run("a", "patient", "register", "--wallet", wallet, "--id-file", id_file, "--label", "家")
    return {"carl": carl, "rosa": rosa, "patient": bound["pseudonym"], "a": bound["organisation"]}


@pytest.fixture(scope="module")
def written(program: Program, people: dict[str, str]) -> dict[str, Any]:
    """What Carl adds to the charts of A, after the patient let hospital A write."""
    bundle = program.folder / "bundle.json"
    bundle.write_text(json.dumps(BUNDLE, ensure_ascii=False), encoding="utf-8")
    words = ("record", "add", str(bundle), "--patient", people["patient"], "--as", "carl")
    refused = program.run("a", *words, expect=1)
    assert refused["error"]["label"] == "RECORDS.WRITE_NOT_AUTHORISED"
    program.run("patient", "grant", "--to", people["a"], "--categories", "all", "--ceiling", "V", "--actions", "write")
    return program.run("a", *words)  # type: ignore[no-any-return]


def ask_for(program: Program, people: dict[str, str], expect: int = 0, categories: str = "encounter") -> Any:
    words = ("request", "--as", "rosa", "--patient", people["patient"], "--categories", categories)
    return program.run("b", *words, expect=expect)


def test_the_network_is_up(program: Program, network: dict[str, Any]) -> None:
    status = program.run("a", "status")
    assert status["chain_id"] == "test-chain"
    assert status["height"] > 0
    members = program.run("a", "member", "list")["members"]
    assert {one["name"] for one in members} == {"协和医院", "Hospital B"}
    assert network["admitted"]["standing"] == "passed"


def test_records_are_anchored_though_the_first_attempt_was_refused(written: dict[str, Any]) -> None:
    assert written["resources"] == 3
    assert {one["category"] for one in written["records"]} >= {"demographics", "encounter"}
    assert written["height"] > 0


def test_adding_the_same_bundle_again_changes_nothing(
    program: Program, people: dict[str, str], written: dict[str, Any]
) -> None:
    bundle = str(program.folder / "bundle.json")
    again = program.run("a", "record", "add", bundle, "--patient", people["patient"], "--as", "carl")
    assert again["records"] == []


def test_a_request_without_a_grant_is_refused_and_logged(
    program: Program, people: dict[str, str], written: dict[str, Any]
) -> None:
    refused = ask_for(program, people, expect=1)
    assert refused["error"]["label"] == "DECISION.NO_GRANT"
    assert refused["allowed"] is False
    log = program.run("patient", "log")
    assert refused["ticket"] in {line["ticket"] for line in log["lines"] if line["decision"]}


def test_the_exchange(program: Program, people: dict[str, str], written: dict[str, Any]) -> None:
    granted = program.run("patient", "grant", "--to", people["rosa"], "--categories", "encounter,result")
    ticket = ask_for(program, people)["ticket"]

    read = program.run("b", "record", "get", "--as", "rosa", "--ticket", ticket)
    shown = [one for record in read["records"] for one in record["resources"]]
    sent = [one["resource"] for one in BUNDLE["entry"]]
    assert read["verified"] is True
    assert all(one in sent for one in shown)
    assert any(one["resourceType"] == "Encounter" for one in shown)
    assert not any(one["resourceType"] == "Patient" for one in shown), "demographics were not granted"

    record = read["records"][0]["record"]
    seen = program.run("patient", "who-can-see", record)["reasons"]
    assert granted["grant"] in {one["grant"] for one in seen}
    for about in (("--patient", people["patient"]), ("--ticket", ticket)):
        listed = program.run("b", "record", "list", "--as", "rosa", *about)["records"]
        assert record in {one["record"] for one in listed}
    versions = program.run("patient", "record", "history", record)["records"]
    assert [one["version"] for one in versions] == [1]

    log = program.run("patient", "log")
    assert log["complete"] is True
    assert log["count"] == len(log["lines"])
    assert ticket in {line["ticket"] for line in log["lines"]}

    program.run("patient", "revoke", granted["grant"])
    assert ask_for(program, people, expect=1)["error"]["label"].startswith("DECISION.")
    dead = program.run("b", "record", "get", "--as", "rosa", "--ticket", ticket, expect=1)
    assert dead["error"]["code"] is not None


def test_asking_and_answering(program: Program, people: dict[str, str], written: dict[str, Any]) -> None:
    asked = program.run("b", "ask", "--as", "rosa", "--patient", people["patient"], "--categories", "result,encounter")
    assert asked["answer"] == "waiting"
    waiting = program.run("patient", "inbox")["requests"]
    assert [one["request"] for one in waiting] == [asked["request"]]
    answered = program.run("patient", "answer", asked["request"], "--allow", "--categories", "encounter")
    assert answered["answer"] == "allow"
    assert program.run("patient", "inbox")["requests"] == []
    assert ask_for(program, people)["allowed"] is True
    assert ask_for(program, people, expect=1, categories="result")["allowed"] is False
    grants = program.run("patient", "grants")["grants"]
    assert [one["live"] for one in grants if one["grant"] == answered["grant"]] == [True]
    program.run("patient", "revoke", answered["grant"])


def test_records_as_files_keep_their_bytes(program: Program, people: dict[str, str], written: dict[str, Any]) -> None:
    granted = program.run("patient", "grant", "--to", people["rosa"], "--categories", "encounter")
    ticket = ask_for(program, people)["ticket"]
    out = program.folder / "out"
    got = program.run("b", "record", "get", "--as", "rosa", "--ticket", ticket, "--out", str(out))
    assert got["files"]
    for name in got["files"]:
        content = Path(name).read_text(encoding="utf-8")
        assert content in (program.folder / "bundle.json").read_text(encoding="utf-8")
    program.run("patient", "revoke", granted["grant"])


def test_staff_come_and_go(program: Program, people: dict[str, str]) -> None:
    nora = program.run("b", "staff", "enrol", "nora", "--roles", "nurse,lab_technician", "--days", "30")
    program.run("b", "staff", "renew", "nora", "--roles", "nurse")
    program.run("b", "staff", "dismiss", "nora")
    staff = {one["party"]: one for one in program.run("b", "staff", "list")["staff"]}
    assert staff[nora["party"]]["left_s"]
    assert staff[nora["party"]]["roles"] == ["nurse"]
    assert staff[nora["party"]]["name"] == "nora"
    refused = program.run("b", "staff", "renew", "nora", "--roles", "nurse", expect=1)
    assert refused["error"]["label"] == "MEMBERSHIP.STAFF_LEFT"
    refused = program.run("b", "staff", "enrol", "rex", "--roles", "regulator", expect=1)
    assert refused["error"]["label"] == "MEMBERSHIP.ROLE_NOT_FOR_THIS_KIND"


def test_a_key_made_elsewhere_is_enrolled_once_it_has_agreed(program: Program, network: dict[str, Any]) -> None:
    half, offer, accepted = (str(program.folder / f"{one}.json") for one in ("half", "offer", "accepted"))
    suite = "sm2" if program.suite == "sm" else "ed25519"
    made = program.run("dana", "keys", "new", "dana", "--kind", "staff", "--suite", suite, "--public", half)
    program.run("b", "staff", "offer", "dana", "--roles", "doctor", "--public", half, "--out", offer)
    program.run("dana", "keys", "accept", "dana", offer, "--out", accepted)
    enrolled = program.run("b", "staff", "enrol", "dana", "--accepted", accepted)
    assert (enrolled["party"], enrolled["roles"]) == (made["party"], ["doctor"])


def test_patients_are_listed_with_names_only_at_home(
    program: Program, people: dict[str, str], written: dict[str, Any]
) -> None:
    listed = program.run("a", "patient", "list")["patients"]
    assert [one["pseudonym"] for one in listed] == [people["patient"]]
    assert "王小明" not in json.dumps(listed, ensure_ascii=False)
    named = program.run("a", "patient", "list", "--names")["patients"]
    assert [one["name"] for one in named] == ["王小明"]


def test_registering_twice_is_refused(program: Program, people: dict[str, str]) -> None:
    refused = program.run(
        "a", "patient", "register", "--wallet", "other", "--id-file", "-", expect=1, stdin="MRN-778123"
    )
    assert refused["error"]["label"] == "RELATIONSHIPS.ID_ALREADY_BOUND"


def test_a_vote_that_fails(program: Program, network: dict[str, Any]) -> None:
    proposed = program.run("a", "member", "propose-remove", network["b"]["member"])
    assert proposed["standing"] == "open"
    voted = program.run("b", "member", "vote", proposed["proposal"], "--no")
    assert voted["standing"] == "failed"
    listed = {one["proposal"]: one for one in program.run("b", "member", "proposals")["proposals"]}
    assert listed[proposed["proposal"]]["standing"] == "failed"
    again = program.run("b", "member", "vote", proposed["proposal"], "--yes", expect=1)
    assert again["error"]["label"] == "GOVERNANCE.PROPOSAL_CLOSED"


def test_inspecting_beside_the_running_node(program: Program, written: dict[str, Any]) -> None:
    block = program.run("a", "inspect", "block", str(written["height"]))
    assert written["transactions"][-1] in {one["tx"] for one in block["transactions"]}
    receipt = program.run("a", "inspect", "tx", written["transactions"][-1])["receipt"]
    assert receipt["height"] == written["height"]
    assert receipt["events"][0]["type"] == "records.anchored"
    assert program.run("a", "inspect", "block", "999999", expect=1)["error"]["label"] == "NODE.BLOCK_UNKNOWN"
    assert program.run("a", "inspect", "tx", "00" * 32, expect=1)["error"]["label"] == "NODE.TX_UNKNOWN"


def test_the_doctor_finds_nothing_wrong(program: Program, network: dict[str, Any]) -> None:
    checks = program.run("a", "doctor")["checks"]
    assert [one for one in checks if not one["ok"]] == []


def test_a_second_node_cannot_open_the_home(program: Program, network: dict[str, Any]) -> None:
    ports = ("--port", "0", "--ops-port", "0", "--gatekeeper-port", "0", "--fhir-port", "0")
    refused = program.run("a", "start", *ports, expect=3)
    assert refused["ok"] is False


@pytest.mark.parametrize(
    "words",
    [
        ("grant", "--to", "nobody", "--categories", "all"),
        ("grant", "--to", "00" * 32, "--categories", "feelings"),
        ("revoke", "not-an-id"),
        ("revoke",),
        ("request", "--patient", "00" * 32),
        ("answer", "00" * 32),
    ],
    ids=" ".join,
)
def test_bad_input_is_usage(program: Program, people: dict[str, str], words: tuple[str, ...]) -> None:
    refused = program.run("patient", *words, expect=2)
    assert (refused["ok"], refused["error"]["code"]) == (False, None)


def test_unknown_ids_are_refused_by_the_ledger(program: Program, people: dict[str, str]) -> None:
    refused = program.run("patient", "revoke", "00" * 32, expect=1)
    assert refused["error"]["label"] == "CONSENT.GRANT_NOT_FOUND"
    refused = program.run("patient", "who-can-see", "00" * 32, expect=1)
    assert refused["error"]["label"] == "QUERY.NOT_FOUND"


def test_nobody_at_the_address_is_the_environment(program: Program, people: dict[str, str]) -> None:
    failed = program.run("patient", "inbox", "--node", f"http://127.0.0.1:{free_ports(1)[0]}", expect=3)
    assert "127.0.0.1" in failed["error"]["reason"]


def test_a_wrong_password_is_refused(program: Program, people: dict[str, str]) -> None:
    wrong = program.folder / "wrong"
    wrong.touch(mode=0o600)
    wrong.write_text("guess\n", encoding="utf-8")
    refused = program.run("patient", "inbox", "--password-file", str(wrong), expect=1)
    assert refused["error"]["label"] == "WALLET.PASSWORD_WRONG"


def test_nothing_private_was_said_or_stored_on_the_ledger(
    program: Program, people: dict[str, str], written: dict[str, Any]
) -> None:
    said = program.said + (program.folder / "node.log").read_text(encoding="utf-8")
    assert not [word for word in PRIVATE if word in said]
    for path in (program.folder / "a" / "ledger").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [word for word in PRIVATE if word.encode() in content], path.name
