"""Goal: a lost key is recovered, and every kind of key changed, by commands alone, also when one breaks off (ID-7).

Method: real homes on a temporary disk and a real node as a child process; the network's genesis sets waiting times of a
second or two. A command that broke off is one whose key file is as it was before: it is put back and the command is run
again. Waiting is asking again.
"""

import json
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from carechain.sdk.identity import Identity
from e2e.test_cli_exchange import Program, addresses, node

WAIT_S = 2
PATIENCE = 200


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    return Program(tmp_path_factory.mktemp("recovery"))


@pytest.fixture(scope="module")
def network(program: Program) -> Iterator[dict[str, str]]:
    """Hospital A makes the blocks; hospital B and insurer C are voted in. Keys are recovered within seconds."""
    program.run("a", "init", "--name", "医院 A", "--kind", "hospital", "--chain-id", "recovery-test")
    genesis = program.folder / "a" / "genesis.json"
    founding = json.loads(genesis.read_text(encoding="utf-8"))
    founding["recovery"] = [1, WAIT_S]
    genesis.write_text(json.dumps(founding), encoding="utf-8")
    ports = ("--port", "0", "--gatekeeper-port", "0", "--ops-port", "0", "--fhir-port", "0")
    with (program.folder / "node.log").open("w+b") as log, node(program, *ports) as started:
        served = addresses(started, log)
        program.node, program.gatekeeper = served["api"], served["gatekeeper"]
        ids = {}
        for home, kind in (("b", "hospital"), ("c", "insurer")):
            joined = program.run(home, "init", "--name", home, "--kind", kind, "--genesis", str(genesis))
            proposed = program.run("a", "member", "propose-admit", joined["application"])
            if home == "c":
                program.run("b", "member", "vote", proposed["proposal"], "--yes")
            ids[home] = joined["member"]
        yield ids
        started.send_signal(signal.SIGTERM)
        started.communicate(timeout=60)
        assert started.returncode == 0


def new_wallet(program: Program, home: str) -> Path:
    genesis = str(program.folder / "a" / "genesis.json")
    program.run(home, "keys", "new", "mine", "--kind", "wallet", "--genesis", genesis)
    return program.folder / home / "keys" / "mine.json"


def registered(program: Program, home: str, mrn: str) -> dict[str, str]:
    """A patient of A with a wallet in a home of its own."""
    wallet = new_wallet(program, home)
    bound: dict[str, str] = program.run(
        "a", "patient", "register", "--wallet", str(wallet), "--id-file", "-", stdin=mrn
    )
    return bound


def eventually(program: Program, home: str, *words: str, refused: str = "RECOVERY.STILL_WAITING") -> Any:
    """The command's answer once the ledger's time has come: until then it is refused in one way."""
    for _ in range(PATIENCE):
        finished = subprocess.run(
            [sys.executable, "-m", "carechain", *words, "--json", "--home", str(program.folder / home)],
            env=program.environment(),
            capture_output=True,
            check=False,
        )
        answer = json.loads(finished.stdout)
        if finished.returncode == 0:
            return answer
        assert answer["error"]["label"] == refused, answer
    raise AssertionError(words)


def request_for(program: Program, home: str, patient: dict[str, str], attempt: int, *more: str) -> dict[str, Any]:
    file = str(program.folder / f"{home}-{attempt}.json")
    words = ("keys", "recover", patient["pseudonym"], "--as", "mine", "--at", patient["organisation"])
    made: dict[str, Any] = program.run(home, *words, "--attempt", str(attempt), "--out", file, *more)
    return made


def test_guardians_bring_a_patient_back(program: Program, network: dict[str, str]) -> None:
    patient = registered(program, "lost", "MRN-1")
    person = ("--patient", patient["pseudonym"])
    granted = program.run("lost", "grant", "--to", network["b"], "--categories", "all")["grant"]
    chosen = ("--guardian", network["b"], "--guardian", network["c"], "--needed", "2", "--wait", "1s")
    coming = program.run("lost", "patient", "guardians", *chosen)
    assert coming["coming"]["needed"] == 2
    new_wallet(program, "found")
    request = request_for(program, "found", patient, 0)
    again = request_for(program, "found", patient, 0)
    assert again["key"] == request["key"], "a command that broke off goes on with the same keys"
    start = ("patient", "recovery", "start", request["file"])
    begun = eventually(program, "b", *start, refused="RECOVERY.SENDER_MAY_NOT_RECOVER")
    assert begun["due_s"] is None
    assert program.run("b", "patient", "recovery", "start", request["file"])["key"] == request["key"]
    (notice,) = program.run("lost", "patient", "recovery", "list")["attempts"]
    assert notice["key"] == request["key"]
    approve = ("patient", "recovery", "approve", "0", *person, "--key")
    assert program.run("c", *approve, "00" * 32, expect=1)["error"]["label"] == "RECOVERY.KEY_DIFFERS"
    assert program.run("c", *approve, request["key"][:16])["due_s"] > 0
    assert program.run("found", "keys", "recover", patient["pseudonym"], "--as", "mine")["recovered"] is False
    eventually(program, "b", "patient", "recovery", "finish", "0", *person)
    assert program.run("found", "keys", "recover", patient["pseudonym"], "--as", "mine")["recovered"] is True
    # The new wallet is the patient: what was granted is its to take back. The old one is nobody.
    program.run("found", "revoke", granted)
    dead = program.run("lost", "grant", "--to", network["b"], "--categories", "all", expect=1)
    assert dead["error"]["label"] == "ADMISSION.BAD_SIGNATURE"
    assert program.run("lost", "log", expect=1)["error"]["label"] == "AUTH.SIGNATURE_INVALID"
    assert program.run("found", "patient", "guardians")["in_force"]["needed"] == 2


def test_cards_and_an_objection(program: Program, network: dict[str, str]) -> None:
    patient = registered(program, "cards", "MRN-2")
    folder = program.folder / "printed"
    made = program.run("cards", "keys", "cards", "make", "--needed", "2", "--cards", "3", "--out", str(folder))
    assert made["cards"] == []
    assert all(Path(one).stat().st_mode & 0o077 == 0 for one in made["files"])
    program.run("cards", "patient", "guardians", "--with-cards", "--no-registrar", "--wait", "1s")
    two = (made["files"][0], made["files"][2])
    assert program.run("cards", "keys", "cards", "join", *two, "--as", "mine")["present"] is True
    few = program.run("cards", "keys", "cards", "join", two[0], expect=1)
    assert few["error"]["label"] == "CARDS.TOO_FEW_CARDS"
    # Two words in a row: the word list has some that a sentence may have too, "cards" among them.
    for pair in pairwise(Path(two[0]).read_text(encoding="utf-8").split()):
        assert " ".join(pair) not in program.said, "no card is ever repeated"
    new_wallet(program, "recarded")
    with_cards = [word for one in two for word in ("--card", one)]
    first = request_for(program, "recarded", patient, 0, *with_cards)
    # Cards count through anybody; here it is a hospital that has nothing to do with the patient.
    start = ("patient", "recovery", "start", first["file"])
    begun = eventually(program, "b", *start, refused="RECOVERY.CARD_PROOF_INVALID")
    assert begun["due_s"] > 0
    assert program.run("cards", "patient", "veto", "0")["ended"] is True, "the owner has the key after all"
    refused = program.run("b", "patient", "recovery", "start", first["file"], expect=1)
    assert refused["error"]["label"] == "RECOVERY.ATTEMPT_NUMBER_WRONG", "what was signed for it serves no other"
    assert program.run("cards", "patient", "recovery", "list")["next_attempt"] == 1


def test_the_registrar_brings_a_patient_back_and_thinks_again(program: Program, network: dict[str, str]) -> None:
    patient = registered(program, "plain", "MRN-3")
    person = ("--patient", patient["pseudonym"])
    new_wallet(program, "replain")
    program.run("a", "patient", "recovery", "start", request_for(program, "replain", patient, 0)["file"])
    assert program.run("a", "patient", "recovery", "withdraw", "0", *person)["ended"] is True
    program.run("a", "patient", "recovery", "start", request_for(program, "replain", patient, 1)["file"])
    eventually(program, "a", "patient", "recovery", "finish", "1", *person)
    assert program.run("replain", "keys", "recover", patient["pseudonym"], "--as", "mine")["recovered"] is True


def test_a_patient_changes_the_key_also_when_it_breaks_off(program: Program, network: dict[str, str]) -> None:
    patient = registered(program, "turning", "MRN-4")
    wallet = program.folder / "turning" / "keys" / "mine.json"
    before = program.folder / "wallet before"
    shutil.copy(wallet, before)
    assert program.run("turning", "keys", "rotate")["party"] == patient["pseudonym"]
    shutil.copy(before, wallet)
    again = program.run("turning", "keys", "rotate")
    assert again["changed"] is True
    assert "tx" not in again, "the ledger had it already"
    program.run("turning", "grant", "--to", network["b"], "--categories", "all")
    program.run("turning", "keys", "rotate")
    program.run("turning", "grant", "--to", network["c"], "--categories", "all")


def test_a_member_changes_its_key_also_when_it_breaks_off(program: Program, network: dict[str, str]) -> None:
    key = program.folder / "c" / "keys" / "member.json"
    before, halfway = program.folder / "member before", program.folder / "member halfway"
    shutil.copy(key, before)
    # What lies on the disk when the power fails just after the ledger has taken the new key.
    password = program.password.read_text(encoding="utf-8").strip()
    waiting = Identity.load(key, password=password).with_coming(entropy=secrets.token_bytes)
    waiting.save(key, password=password, entropy=secrets.token_bytes, replace_existing=True)
    shutil.copy(key, halfway)
    assert program.run("c", "keys", "rotate")["kind"] == "member"
    shutil.copy(halfway, key)
    again = program.run("c", "keys", "rotate")
    assert again["changed"] is True
    assert "tx" not in again, "the ledger had it already"
    assert program.run("c", "member", "list")["members"]
    dead = program.folder / "dead.json"
    shutil.copy(before, dead)
    refused = program.run("c", "member", "list", "--as", str(dead), expect=1)
    assert refused["error"]["label"] == "AUTH.SIGNATURE_INVALID"


def test_the_producer_changes_its_key_and_goes_on_making_blocks(program: Program, network: dict[str, str]) -> None:
    """Blocks stay signed with the key that the genesis names."""
    program.run("a", "keys", "rotate")
    height = program.run("a", "status")["height"]
    program.run("a", "staff", "enrol", "later", "--roles", "doctor")
    assert program.run("a", "status")["height"] > height


def test_staff_get_new_keys_here_and_elsewhere(program: Program, network: dict[str, str]) -> None:
    program.run("b", "staff", "enrol", "rosa", "--roles", "doctor,nurse")
    rotated = program.run("b", "keys", "rotate", "--as", "rosa")
    listed = {one["party"]: one for one in program.run("b", "staff", "list")["staff"]}
    assert set(listed[rotated["party"]]["roles"]) == {"doctor", "nurse"}
    # From a home of one's own: the key is certified elsewhere.
    genesis = str(program.folder / "a" / "genesis.json")
    half, offer, accepted = (str(program.folder / name) for name in ("half.json", "offer.json", "accepted.json"))
    program.run("person", "keys", "new", "me", "--genesis", genesis, "--public", half)
    program.run("b", "staff", "offer", "carl", "--public", half, "--out", offer, "--roles", "doctor")
    program.run("person", "keys", "accept", "me", offer, "--out", accepted)
    carl = program.run("b", "staff", "enrol", "carl", "--accepted", accepted)["party"]
    alone = program.run("person", "keys", "rotate", "--as", "me", expect=2)
    assert alone["ok"] is False
    request = str(program.folder / "request.json")
    waiting = program.run("person", "keys", "rotate", "--as", "me", "--public", request)
    assert waiting["changed"] is False
    assert program.run("b", "staff", "rotate", request)["party"] == carl
    done = program.run("person", "keys", "rotate", "--as", "me")
    assert done == {"party": carl, "kind": "staff", "changed": True, "file": None}
    program.run("person", "member", "list", "--as", "me")
