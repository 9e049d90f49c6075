"""Goal: a node as an operator runs it keeps what it acknowledged, stops cleanly, and says why it cannot run.

Method: real processes on homes of the test's own, spoken to by the SDK's client over loopback; each is waited for by
reading its log, never by sleeping. A canary is put wherever a client can put text, and looked for in the log.
"""

import asyncio
import ipaddress
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from carechain.chain import genesis as founding
from carechain.chain.queries import NoArgs, TimelinePage
from carechain.contracts.membership import EnrolStaff
from carechain.core.crypto import Suite
from carechain.core.vocabulary import PartyKind, Role
from carechain.engine.session import Session
from carechain.node.home import make_home, running
from carechain.sdk.client import Client, Refused, SyncClient, Unreachable
from carechain.sdk.identity import Identity
from carechain.sealing.symmetric import ScryptCost
from node_network import founders, genesis_of
from world import Actor, Organisation, anchor_of, anything, bind_message, entropy_of, seeded, wallet_of

PASSWORD = "correct horse 口令"
CANARY = "Steve-Apple-MRN-4711"
PROGRAM = """
import sys
from pathlib import Path
from carechain.node.main import run
from carechain.node.settings import load_settings
sys.exit(run(load_settings(home=Path(sys.argv[1]))))
"""
ANY_PORT = "[api]\nport = 0\n[ops]\nport = 0\n[gatekeeper_api]\nport = 0\n"
GENESIS_S = 1_770_000_000


@pytest.fixture
def members() -> dict[str, Organisation]:
    return founders()


@pytest.fixture
def home(tmp_path: Path, members: dict[str, Organisation]) -> Path:
    return make(tmp_path / "节点", members["a"], members)


def make(home: Path, owner: Organisation, members: dict[str, Organisation], config: str = ANY_PORT) -> Path:
    """The home of one organisation."""
    make_home(home)
    (home / "genesis.json").write_bytes(founding.write(genesis_of(members, time_s=GENESIS_S)))
    identity = Identity(
        kind=PartyKind.MEMBER,
        suite=Suite.ED25519,
        signing_seed=seeded(owner.label, "signing"),
        hpke_seed=seeded(owner.label, "hpke"),
        party=owner.id,
        organisation=owner.id,
        label=CANARY,
    )
    identity.save(
        home / "keys" / "member.json", password=PASSWORD, entropy=entropy_of("file"), cost=ScryptCost(n=1024, r=1)
    )
    password = home / "keys" / "password"
    password.write_text(PASSWORD + "\n", encoding="utf-8")
    password.chmod(0o600)
    (home / "config.toml").write_text('password_file = "keys/password"\n' + config, encoding="utf-8")
    return home


class Process:
    """A running node: its log so far, its addresses, its end."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.log: list[str] = []
        self._popen = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(home)],
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        assert self._popen.stderr is not None
        for line in self._popen.stderr:
            self.log.append(line)
            if '"node started"' in line:
                break
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._popen.stderr is not None
        self.log.extend(self._popen.stderr)

    @property
    def addresses(self) -> dict[str, Any]:
        """What it said when it started."""
        return json.loads(next(line for line in self.log if '"node started"' in line))

    @property
    def api(self) -> str:
        return str(self.addresses["api"])

    def ask_to_stop(self, number: int = signal.SIGTERM) -> None:
        self._popen.send_signal(number)

    def end(self) -> int:
        """The exit status."""
        status = self._popen.wait(60)
        self._reader.join()
        for pipe in (self._popen.stdout, self._popen.stderr):
            assert pipe is not None
            pipe.close()
        return status


@contextmanager
def node(home: Path) -> Iterator[Process]:
    process = Process(home)
    try:
        yield process
    finally:
        process.ask_to_stop(signal.SIGKILL)
        process.end()


def cannot_run(home: Path) -> str:
    """The sentence of a node that must exit with 3 before it starts."""
    process = Process(home)
    assert process.end() == 3
    said = [line for line in process.log if line.startswith("carechain: ")]
    assert len(said) == 1, process.log
    assert "Traceback" not in "".join(process.log)
    return said[0]


def populate(api: str, owner: Organisation) -> tuple[Actor, Any]:
    """A doctor who may write, and a patient."""
    carl, steve = Actor("carl", organisation=owner.id), wallet_of("steve").pseudonym(owner.id)
    with SyncClient(api, owner) as member:
        certificate = owner.certify(carl, Role.DOCTOR)
        member.submit(EnrolStaff(certificate=certificate, hpke_key=carl.hpke.public_key))
        member.submit(bind_message(steve, owner.secret.id_hash("mrn", CANARY)))
    with SyncClient(api, steve) as patient:
        patient.submit(anything(steve, owner))
    return carl, steve


def test_a_node_serves_all_its_ports_and_drains_on_sigterm(home: Path, members: dict[str, Organisation]) -> None:
    with node(home) as process:
        said = running(home)
        assert said is not None
        assert said.api == process.api
        carl, steve = populate(process.api, members["a"])
        with SyncClient(process.api, carl, genesis=genesis_of(members, time_s=GENESIS_S)) as client:
            client.submit(anchor_of(steve, "r"))
            assert len(client.rows("records.timeline", TimelinePage(steve.id), prove=True)) == 1
        ops = str(process.addresses["ops"])
        assert httpx.get(f"{ops}/readyz", trust_env=False).json()["ready"] is True
        assert "carechain_height" in httpx.get(f"{ops}/metrics", trust_env=False).text
        assert httpx.get(f"{process.api}/metrics", trust_env=False).status_code == 404
        gatekeeper = str(process.addresses["gatekeeper"])
        assert httpx.post(f"{gatekeeper}/v1/release", trust_env=False).status_code == 401
        process.ask_to_stop()
        assert process.end() == 0
        assert '"node stopped"' in process.log[-1]
        assert running(home) is None


def test_what_was_acknowledged_before_sigterm_is_there_afterwards(home: Path, members: dict[str, Organisation]) -> None:
    acknowledged: list[tuple[bytes, int]] = []
    with node(home) as process:
        carl, steve = populate(process.api, members["a"])
        halfway = threading.Event()

        def write(batch: int) -> None:
            with SyncClient(process.api, carl, give_up_s=0) as client:
                for number in range(1000):
                    try:
                        done = client.submit(anchor_of(steve, f"{batch}/{number}"))
                    except (Refused, Unreachable):
                        return
                    acknowledged.append((done.tx_id, done.height))
                    if number == 20:
                        halfway.set()

        writers = [threading.Thread(target=write, args=(batch,)) for batch in range(3)]
        for one in writers:
            one.start()
        assert halfway.wait(60)
        process.ask_to_stop(signal.SIGINT)
        assert process.end() == 0
        for one in writers:
            one.join()
    assert len(acknowledged) > 20
    with Session.open(home, genesis_of(members, time_s=GENESIS_S)) as session:
        for tx_id, height in acknowledged:
            place = session.locate(tx_id)
            assert place is not None
            assert place[0] == height


def test_after_a_kill_the_node_goes_on(home: Path, members: dict[str, Organisation]) -> None:
    with node(home) as process:
        carl, steve = populate(process.api, members["a"])
        with SyncClient(process.api, carl) as client:
            done = client.submit(anchor_of(steve, "survives"))
    with node(home) as process, SyncClient(process.api, carl) as client:
        assert client.wait(done.tx_id).height == done.height
        assert client.submit(anchor_of(steve, "and more")).height > done.height


def test_two_nodes_cannot_share_a_home(home: Path) -> None:
    with node(home):
        assert "Another node is running" in cannot_run(home)


def test_why_a_node_cannot_run(home: Path, tmp_path: Path, members: dict[str, Organisation]) -> None:
    assert "carechain init" in cannot_run(tmp_path / "nowhere")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        (home / "config.toml").write_text(
            f'password_file = "keys/password"\n[api]\nport = {taken.getsockname()[1]}\n', encoding="utf-8"
        )
        assert "Choose another port" in cannot_run(home)
    (home / "config.toml").write_text(ANY_PORT)
    assert "password_file is not set" in cannot_run(home)
    (home / "config.toml").write_text(f'password_file = "keys/password"\n{ANY_PORT}')
    (home / "keys" / "password").chmod(0o644)
    assert "0600" in cannot_run(home)
    (home / "keys" / "password").chmod(0o600)
    (home / "keys" / "password").write_text("wrong")
    assert "password does not open" in cannot_run(home)
    assert "not one of the network's block producers" in cannot_run(make(tmp_path / "b", members["b"], members))
    (home / "keys" / "password").write_text(PASSWORD, encoding="utf-8")
    (home / "genesis.json").write_text("{}")
    assert "not a genesis file" in cannot_run(home)
    (home / "genesis.json").unlink()
    assert "genesis.json is missing" in cannot_run(home)


def test_a_damaged_ledger_is_named(home: Path, members: dict[str, Organisation]) -> None:
    with node(home) as process:
        populate(process.api, members["a"])
        process.ask_to_stop()
        assert process.end() == 0
    log = home / "ledger" / "blocks.log"
    data = bytearray(log.read_bytes())
    data[-5] ^= 1
    log.write_bytes(data)
    assert "The ledger is damaged at block" in cannot_run(home)


def test_tls(tmp_path: Path, members: dict[str, Organisation]) -> None:
    config = ANY_PORT.replace("[api]\n", '[api]\ntls_certificate = "keys/tls.pem"\ntls_key = "keys/tls.key"\n')
    home = make(tmp_path / "tls", members["a"], members, config)
    write_certificate(home / "keys")
    with node(home) as process:
        assert process.api.startswith("https://")
        trusting = ssl.create_default_context(cafile=str(home / "keys" / "tls.pem"))

        async def ask() -> int:
            async with (
                httpx.AsyncClient(verify=trusting, trust_env=False) as http,
                Client(process.api, members["b"], http=http) as client,
            ):
                return len((await client.query("membership.members", NoArgs())).rows)

        assert asyncio.run(ask()) == 4
        with SyncClient(process.api, members["b"], give_up_s=0) as untrusting, pytest.raises(Unreachable):
            untrusting.status()
    (home / "keys" / "tls.key").chmod(0o644)
    assert "0600" in cannot_run(home)


def write_certificate(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, SHA256())
    )
    (folder / "tls.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / "tls.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (folder / "tls.key").chmod(0o600)


def test_a_canary_reaches_neither_log_nor_metrics(home: Path, members: dict[str, Organisation]) -> None:
    (home / "config.toml").write_text((home / "config.toml").read_text() + '[log]\nlevel = "debug"\n')
    with node(home) as process:
        carl, steve = populate(process.api, members["a"])
        with httpx.Client(base_url=process.api, trust_env=False) as http:
            for method, path in (
                ("GET", f"/{CANARY}"),
                ("GET", f"/v1/blocks/{CANARY}"),
                ("GET", f"/v1/transactions/{CANARY}?x={CANARY}"),
                ("POST", f"/v1/query/{CANARY}"),
                ("POST", "/v1/transactions"),
                ("POST", "/v1/transactions/batch"),
                ("POST", "/v1/session"),
                ("BREW", "/v1/session"),
            ):
                for media in ("application/json", "application/msgpack", CANARY):
                    headers = {"content-type": media, "authorization": f"Bearer {CANARY}", "x-patient": CANARY}
                    answer = http.request(method, path, content=json.dumps({"tx": CANARY}), headers=headers)
                    assert answer.status_code < 500
                    assert CANARY not in answer.text
        with socket.create_connection(("127.0.0.1", int(process.api.rpartition(":")[2]))) as raw:
            raw.sendall(f"{CANARY} nonsense\r\n\r\n".encode())
            assert CANARY.encode() not in raw.recv(4096)
        with SyncClient(process.api, carl) as client:
            client.submit(anchor_of(steve, "one"))
        metrics = httpx.get(f"{process.addresses['ops']}/metrics", trust_env=False).text
        process.ask_to_stop()
        assert process.end() == 0
    ids = (carl.id.hex(), steve.id.hex(), members["a"].secret.id_hash("mrn", CANARY).hex())
    for text in ("".join(process.log), metrics):
        assert not [one for one in (CANARY, PASSWORD, *ids) if one in text]
    ledger = b"".join(path.read_bytes() for path in (home / "ledger").rglob("*") if path.is_file())
    assert CANARY.encode() not in ledger
