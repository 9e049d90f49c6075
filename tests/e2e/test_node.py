"""Goal: a node as an operator runs it keeps what it acknowledged, stops cleanly, and says why it cannot run.

Method: real processes on homes of the test's own, spoken to by the SDK's client over loopback; each is waited for by
reading its log, never by sleeping.
"""

import asyncio
import ipaddress
import json
import signal
import socket
import ssl
import struct
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import lmdb
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from carechain.chain.questions import NoArgs, TimelinePage
from carechain.engine.embedded import BlockProducer, EmbeddedEngine
from carechain.engine.session import Session
from carechain.node.home import HOME_VERSION, VERSION_FILE, running
from carechain.node.listening import bound
from carechain.node.settings import ApiSettings
from carechain.sdk.client import Client, Refused, SyncClient, Unreachable
from carechain.state.store import STORE_VERSION
from node_network import founders, genesis_of
from node_process import ANY_PORT, GENESIS_S, PASSWORD, cannot_run, make, node, populate
from world import Actor, Organisation, anchor_of


@pytest.fixture
def members() -> dict[str, Organisation]:
    return founders()


@pytest.fixture
def home(tmp_path: Path, members: dict[str, Organisation]) -> Path:
    return make(tmp_path / "节点", members["a"], members)


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


def test_a_clock_far_ahead_of_the_last_block_needs_a_word(home: Path, members: dict[str, Organisation]) -> None:
    with Session.open(home, genesis_of(members, time_s=GENESIS_S)) as session:
        EmbeddedEngine(session, BlockProducer.of(members["a"].signing)).produce(time_s=GENESIS_S + 60, txs=())
    config = home / "config.toml"
    text = config.read_text(encoding="utf-8")
    config.write_text(f"{text}[clock]\naccept_gap_days = 1\n", encoding="utf-8")
    said = cannot_run(home)
    assert "days ahead of the last block" in said
    assert "--accept-gap-days" in said
    config.write_text(f"{text}[clock]\naccept_gap_days = 36500\n", encoding="utf-8")
    with node(home) as process:
        ready = httpx.get(f"{process.addresses['ops']}/readyz", trust_env=False).json()
        assert (ready["ready"], ready["why"]) == (True, "")


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


def test_what_a_newer_program_wrote_is_refused_and_left_alone(home: Path, members: dict[str, Organisation]) -> None:
    with node(home) as process:
        process.ask_to_stop()
        assert process.end() == 0
    for change, undo, said in (
        (lambda: (home / VERSION_FILE).write_text("999\n"), lambda: (home / VERSION_FILE).write_text("1\n"), "newer"),
        (lambda: set_store_version(home, STORE_VERSION + 1), lambda: set_store_version(home, STORE_VERSION), "version"),
    ):
        change()
        assert said in cannot_run(home)
        undo()
    assert int((home / VERSION_FILE).read_text()) == HOME_VERSION
    with node(home) as process, SyncClient(process.api, members["a"]) as client:
        assert client.status().height > 1


def set_store_version(home: Path, version: int) -> None:
    with lmdb.open(str(home / "ledger" / "tree" / "index"), max_dbs=32) as index, index.begin(write=True) as txn:
        txn.put(b"version", struct.pack(">I", version), db=index.open_db(b"main", txn=txn))


def test_a_second_signal_breaks_no_drain(home: Path, members: dict[str, Organisation]) -> None:
    with node(home) as process:
        carl, steve = populate(process.api, members["a"])
        token = session_of(process.api, carl)
        # An answer that is still being asked for keeps the drain open until the second signal is there.
        with socket.create_connection(("127.0.0.1", port_of(process.api))) as slow:
            head = f"POST /v1/query/records.timeline HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n"
            slow.sendall(f"{head}content-type: application/json\r\ncontent-length: 90\r\n\r\n".encode())
            process.ask_to_stop()
            process.wait_for('"node stopping"')
            process.ask_to_stop()
            process.ask_to_stop(signal.SIGINT)
            slow.sendall(json.dumps({"pseudonym": steve.id.hex()}).ljust(90).encode())
            assert slow.recv(65536).startswith(b"HTTP/1.1 200")
        assert process.end() == 0
        assert '"node stopped"' in process.log[-1]


def test_a_connection_that_is_kept_open_answers_without_delay(home: Path) -> None:
    """The listening socket hands TCP_NODELAY on: with Nagle's delay each of these answers would take 40 ms."""
    for group in (ApiSettings(port=0), ApiSettings(port=0, host="::1")):
        if ":" in group.host and not socket.has_ipv6:
            continue
        with bound(group) as listening:
            assert listening.proto == socket.IPPROTO_TCP

            async def accepted_without_delay(listening: socket.socket = listening) -> int:
                found = asyncio.get_running_loop().create_future()

                class Look(asyncio.Protocol):
                    def connection_made(self, transport: asyncio.BaseTransport) -> None:
                        one = transport.get_extra_info("socket")
                        found.set_result(one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
                        transport.close()

                server = await asyncio.get_running_loop().create_server(Look, sock=listening)
                with socket.create_connection(listening.getsockname()[:2]):
                    delayed = await found
                server.close()
                return int(delayed)

            assert asyncio.run(accepted_without_delay()) == 1


def session_of(api: str, who: Actor) -> str:
    async def main() -> str:
        async with Client(api, who) as client:
            return (await client.open_session()).token

    return asyncio.run(main())


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])
