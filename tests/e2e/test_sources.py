"""Goal: a clinic's own database serves records to another hospital, by commands alone, and moves nothing (REC-2).

Method: the shipped example on a real PostgreSQL and a real MariaDB with a user who may only read; real homes, a real
node as a child process, the installed program for every step. The clinic changes its rows as it likes; what the other
hospital gets is checked by its own program against the ledger.
"""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from clinics import PRIVATE, WANG, Clinic
from e2e.test_cli_exchange import Program, addresses, node

if TYPE_CHECKING:
    from stores import Server

pytestmark = pytest.mark.databases


@pytest.fixture(scope="module", params=["postgresql", "mariadb"])
def clinic(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clinic]:
    server: Server = request.getfixturevalue(request.param)
    with server.new_database() as url:
        opened = Clinic(tmp_path_factory.mktemp("clinic"), url, server)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    return Program(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def rosa(program: Program) -> Iterator[str]:
    """Clinic A serves its network; hospital B joins, and Rosa works there."""
    program.run("a", "init", "--name", "診所", "--kind", "hospital", "--chain-id", "sources-test")
    ports = ("--port", "0", "--gatekeeper-port", "0", "--ops-port", "0", "--fhir-port", "0")
    with (program.folder / "node.log").open("w+b") as log, node(program, *ports) as started:
        served = addresses(started, log)
        program.node, program.gatekeeper = served["api"], served["gatekeeper"]
        genesis = str(program.folder / "a" / "genesis.json")
        joined = program.run("b", "init", "--name", "Hospital B", "--kind", "hospital", "--genesis", genesis)
        program.run("a", "member", "propose-admit", joined["application"])
        program.run("a", "staff", "enrol", "carl", "--roles", "doctor")
        yield program.run("b", "staff", "enrol", "rosa", "--roles", "doctor")["party"]
        started.send_signal(signal.SIGTERM)
        _, err = started.communicate(timeout=60)
        log.write(err)
        assert started.returncode == 0, err.decode()


@pytest.fixture(scope="module")
def patient(program: Program, clinic: Clinic, rosa: str) -> str:
    """The clinic's patient Wang, who has a wallet, and lets A write and Rosa read."""
    home = f"wang-{clinic.dialect}"
    program.run(
        home, "keys", "new", "mine", "--kind", "wallet", "--genesis", str(program.folder / "a" / "genesis.json")
    )
    wallet = str(program.folder / home / "keys" / "mine.json")
    own_id = f"100007-{clinic.dialect}"
    bound = program.run("a", "patient", "register", "--wallet", wallet, "--id-file", "-", stdin=own_id)
    everything = ("--categories", "all", "--ceiling", "V")
    program.run(home, "grant", "--to", bound["organisation"], *everything, "--actions", "write")
    program.run(home, "grant", "--to", rosa, *everything)
    return str(bound["pseudonym"])


@pytest.fixture(scope="module")
def name(clinic: Clinic) -> str:
    return f"openmrs-{clinic.dialect}"


@pytest.fixture(scope="module")
def added(
    program: Program, clinic: Clinic, name: str, patient: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """The clinic's database is put behind the gatekeeper of a node that runs already."""
    example = tmp_path_factory.mktemp("example")
    program.run("a", "source", "sql", "example", str(example))
    mapping = str(example / "mapping.toml")
    words = ("source", "sql", "add", name, "--url", clinic.reader_url, "--mapping", mapping)
    made: dict[str, Any] = program.run("a", *words, "--database-password-file", str(clinic.password_file))
    program.run("a", "source", "link", name, "--patient", patient, "--key", str(WANG))
    return made


def sync(program: Program, name: str) -> dict[str, Any]:
    (one,) = program.run("a", "source", "sync", name, "--as", "carl")["patients"]
    return dict(one)


def read(program: Program, patient: str, *words: str, expect: int = 0) -> Any:
    ticket = program.run("b", "request", "--as", "rosa", "--patient", patient, "--categories", "all", "--ceiling", "V")
    return program.run("b", "record", "get", "--as", "rosa", "--ticket", ticket["ticket"], *words, expect=expect)


def resources(answer: dict[str, Any]) -> dict[str, Any]:
    return {one["id"]: one for record in answer["records"] for one in record["resources"]}


def test_a_user_who_may_write_is_refused(program: Program, clinic: Clinic, patient: str, tmp_path: Path) -> None:
    program.run("a", "source", "sql", "example", str(tmp_path))
    clinic.grant("GRANT DELETE ON obs TO READER")
    words = ("source", "sql", "add", "unsafe", "--url", clinic.reader_url, "--mapping", str(tmp_path / "mapping.toml"))
    refused = program.run("a", *words, "--database-password-file", str(clinic.password_file), expect=1)
    assert refused["error"]["label"] == "SOURCE.USER_MAY_WRITE"
    clinic.grant("REVOKE DELETE ON obs FROM READER")
    assert "unsafe" not in {one["source"] for one in program.run("a", "source", "list")["sources"]}


def test_the_story(program: Program, clinic: Clinic, name: str, patient: str, added: dict[str, Any]) -> None:
    assert added["queries"] == ["patient", "encounter", "obs", "condition", "drug-order"]
    first = sync(program, name)
    assert (first["results"], first["added"], first["deleted"], first["refused"]) == (10, 10, 0, None)
    assert len(first["anchored"]) == 3

    answer = read(program, patient)
    found = resources(answer)
    assert answer["verified"] is True
    assert len(found) == 10
    assert found["7"]["name"][0] == {"family": "王", "given": ["小明"]}
    assert found["obs-104"]["valueString"] == "頭痛三天，夜間加劇"
    record = next(one for one in answer["records"] if "obs-101" in [each["id"] for each in one["resources"]])["record"]

    # A row is changed behind everybody's back: nobody gets it until the clinic has anchored what it says now.
    clinic.do("UPDATE obs SET value_numeric = 133 WHERE obs_id = 101")
    withheld = read(program, patient, "--record", record, expect=1)
    assert (withheld["error"]["label"], withheld["error"]["code"]) == ("GATEKEEPER.RECORD_ALTERED", 914)
    checked = program.run("a", "source", "check", name, "--records", expect=1)
    assert (checked["altered"], checked["gone"]) == ([record], [])
    second = sync(program, name)
    assert (second["changed"], second["anchored"]) == (1, [{"record": record, "version": 2}])
    assert resources(read(program, patient))["obs-101"]["valueQuantity"]["value"] == 133

    # A row is deleted: reported, and its record goes on without it; with the last row it is gone.
    clinic.do("DELETE FROM obs WHERE obs_id = 104")
    assert read(program, patient, "--record", record, expect=1)["error"]["label"] == "GATEKEEPER.RECORD_ALTERED"
    third = sync(program, name)
    assert (third["deleted"], third["gone"], third["anchored"]) == (1, [], [{"record": record, "version": 3}])
    assert "obs-104" not in resources(read(program, patient))
    clinic.do("DELETE FROM obs WHERE encounter_id = 32")
    clinic.do("DELETE FROM encounter WHERE encounter_id = 32")
    fourth = sync(program, name)
    assert (fourth["deleted"], fourth["anchored"], len(fourth["gone"])) == (2, [], 1)
    missing = read(program, patient, "--record", fourth["gone"][0], expect=1)
    assert missing["error"]["label"] == "GATEKEEPER.RECORD_MISSING"
    listed = {one["source"]: one for one in program.run("a", "source", "list")["sources"]}[name]
    assert (listed["kind"], listed["patients"], listed["gone"]) == ("sql", 1, 1)
    assert sync(program, name)["anchored"] == []


def test_what_the_clinic_called_it_stays_with_the_clinic(
    program: Program, clinic: Clinic, added: dict[str, Any]
) -> None:
    said = program.said + (program.folder / "node.log").read_text(encoding="utf-8")
    assert clinic.password_file is not None
    secret = clinic.password_file.read_text(encoding="utf-8").strip()
    assert not [word for word in (*PRIVATE, "FROM obs", "obs_id", secret) if word in said]
    for path in (program.folder / "a" / "ledger").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [word for word in (*PRIVATE, "obs-101", "100007") if word.encode() in content], path.name
    assert secret not in json.dumps(program.run("a", "source", "list"))
