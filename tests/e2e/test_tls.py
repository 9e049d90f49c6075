"""Goal: servers are believed on their organisation's word alone, and their certificates are renewed while they serve.

Method: a home made by the program's own `init --tls-host`, served by a real node process; the SDK and the command line
speak to it over TLS, and raw connections look at what it shows.
"""

import asyncio
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from carechain.chain.genesis import Genesis, read
from carechain.chain.questions import NoArgs
from carechain.core.ids import party_id
from carechain.sdk.certificates import CertificateAuthority, ServerCertificate
from carechain.sdk.client import Client, Node, SyncClient, Trust, Unreachable, WrongNode
from carechain.sdk.identity import Identity
from carechain.sdk.tls import ClientCertificate
from node_process import PASSWORD, Process, cannot_run, node
from world import entropy_of, seeded

NOW = datetime.now(UTC).replace(microsecond=0)
PORTS = tuple((f"# port = {port}", "port = 0") for port in (8710, 8711, 8712, 8714))


class Home:
    """An organisation's home that serves with TLS."""

    def __init__(self, folder: Path) -> None:
        self.path = folder
        self.password = folder.parent / "password"
        self.password.write_text(PASSWORD, encoding="utf-8")
        self.password.chmod(0o600)
        self.run("init", "--name", "General Hospital", "--kind", "hospital", "--tls-host", "node.hospital.example")
        self.configure(
            *PORTS, ("# password_file = ", "password_file = "), ("/run/secrets/carechain", str(self.password))
        )
        self.genesis: Genesis = read((folder / "genesis.json").read_bytes())
        (founder,) = self.genesis.members
        self.member = party_id(founder.suite, founder.public_key)
        self.identity = Identity.load(folder / "keys" / "member.json", password=PASSWORD)
        self.authority = CertificateAuthority.load(folder / "keys" / "authority.json", password=PASSWORD)

    def configure(self, *changes: tuple[str, str]) -> None:
        file = self.path / "config.toml"
        text = file.read_text(encoding="utf-8")
        for old, new in changes:
            assert old in text
            text = text.replace(old, new, 1)
        file.write_text(text, encoding="utf-8")

    def run(self, *words: str, expect: int = 0) -> dict[str, Any]:
        needs_password = words[0] not in ("status", "doctor")
        secret = ("--password-file", str(self.password)) if needs_password else ()
        done = subprocess.run(
            [sys.executable, "-m", "carechain", *words, *secret, "--home", str(self.path), "--json"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(one for one in sys.path if one)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == expect, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def put(self, made: ServerCertificate) -> None:
        for name, data in (("key.pem", made.key), ("certificate.pem", made.certificate)):
            fresh = self.path / "tls" / f"{name}.new"
            fresh.write_bytes(data)
            fresh.chmod(0o600)
            fresh.replace(self.path / "tls" / name)

    def shown(self) -> ClientCertificate:
        return ClientCertificate(self.path / "tls" / "certificate.pem", self.path / "tls" / "key.pem")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "医院")


@pytest.fixture
def process(home: Home) -> Iterator[Process]:
    with node(home.path) as running:
        yield running


def made_by(authority: CertificateAuthority, *hosts: str, days: int = 90, label: str = "1") -> ServerCertificate:
    return authority.issue_server(
        hosts,
        not_before=NOW - timedelta(hours=1) - timedelta(days=max(0, -days)),
        not_after=NOW + timedelta(days=days),
        entropy=entropy_of(label),
    )


def refusal(home: Home, url: str, **settings: Any) -> str:
    """Why a client believes nobody at this address."""
    with SyncClient(url, home.identity, give_up_s=0, **{"genesis": home.genesis, **settings}) as client:
        with pytest.raises((Unreachable, WrongNode)) as refused:
            client.query("membership.members", NoArgs())
        return str(refused.value)


def test_sdk_and_commands_speak_tls_and_believe_the_genesis(home: Home, process: Process) -> None:
    assert process.api.startswith("https://127.0.0.1:")
    with SyncClient(process.api, home.identity, genesis=home.genesis, server=home.member) as client:
        assert len(client.query("membership.members", NoArgs()).rows) == 1
    by_name = process.api.replace("127.0.0.1", "localhost")
    with SyncClient(by_name, home.identity, genesis=home.genesis) as client:
        assert client.status().server == home.member
    said = home.run("status")
    assert said["node"] == process.api
    assert 363 <= said["tls_days_left"] <= 365
    assert len(home.run("member", "list")["members"]) == 1
    checks = {one["name"]: one for one in home.run("doctor")["checks"]}
    assert checks["tls certificate"]["ok"]
    assert "days left" in checks["tls certificate"]["note"]
    assert checks["authority"]["ok"]
    figures = httpx.get(f"{process.addresses['ops']}/metrics", trust_env=False).text
    assert "carechain_tls_certificate_days_left 36" in figures
    assert "carechain_authority_days_left 36" in figures


def test_whom_a_client_does_not_believe(home: Home, process: Process) -> None:
    stranger = CertificateAuthority.create(
        seeded("stranger"),
        not_before=NOW - timedelta(days=1),
        not_after=NOW + timedelta(days=9),
        entropy=entropy_of("s"),
    )
    others = {seeded("stranger"): stranger.certificate}
    assert "not believed" in refusal(home, process.api, trust=Trust(others))
    assert "not believed" in refusal(home, process.api, trust=Trust.of(home.genesis), server=seeded("stranger"))
    assert "not believed" in refusal(home, process.api, genesis=None)
    plain = process.api.replace("https://", "http://")
    assert "no answer" in refusal(home, plain)
    ca_file = home.path / "stranger.pem"
    ca_file.write_text(ssl.DER_cert_to_PEM_cert(stranger.certificate), encoding="ascii")
    process.ask_to_stop(signal.SIGTERM)
    assert process.end() == 0
    for made, why in (
        (made_by(home.authority, "node.hospital.example"), "IP address mismatch"),
        (made_by(home.authority, "127.0.0.1", days=-1), "expired"),
        (made_by(stranger, "127.0.0.1", days=5), "self-signed|unable to get"),
    ):
        home.put(made)
        with node(home.path) as other:
            told = refusal(home, other.api)
            assert any(one in told for one in why.split("|")), told
    with node(home.path) as again:
        assert "not believed" in json.dumps(home.run("status", expect=3))
        with SyncClient(
            again.api, home.identity, genesis=home.genesis, trust=Trust.of(home.genesis, ca_file=ca_file)
        ) as client:
            assert client.status().server == home.member
        assert home.run("status", "--ca", str(ca_file))["server"] == home.member.hex()
        # A member that puts its own server in another's place: what it says and what its certificate says differ.
        both = Trust({home.member: home.authority.certificate, seeded("stranger"): stranger.certificate})
        assert "certificate says another" in refusal(home, again.api, trust=both)


def test_a_certificate_is_renewed_while_the_node_serves(home: Home, process: Process) -> None:
    async def main() -> None:
        async with Client(process.api, home.identity, genesis=home.genesis) as client:
            await client.query("membership.members", NoArgs())
            before = shown_at(process.api, home)
            renewed = await asyncio.to_thread(home.run, "keys", "tls", "--days", "30")
            assert renewed["hosts"][0] == "node.hospital.example", "renewing keeps the hosts"
            process.ask_to_stop(signal.SIGHUP)
            await asyncio.to_thread(process.wait_for, "certificate_renewed")
            assert shown_at(process.api, home) != before
            await client.query("membership.members", NoArgs())
            assert len(client._links._own[0]._http._transport._pool.connections) == 1, "the open connection stayed"  # type: ignore[union-attr]
            assert (await asyncio.to_thread(home.run, "status"))["tls_days_left"] <= 30
            renewed_once = shown_at(process.api, home)
            (home.path / "tls" / "certificate.pem").write_text("nonsense")
            process.ask_to_stop(signal.SIGHUP)
            await asyncio.to_thread(process.wait_for, "certificate_refused")
            assert shown_at(process.api, home) == renewed_once

    asyncio.run(main())
    process.ask_to_stop()
    assert process.end() == 0
    assert "PEM" in cannot_run(home.path)


def shown_at(url: str, home: Home) -> int:
    """The serial number of the certificate that a new connection is shown."""
    host, port = url.removeprefix("https://").split(":")
    context = Trust.of(home.genesis).context(home.member)
    with socket.create_connection((host, int(port))) as raw, context.wrap_socket(raw, server_hostname=host) as secure:
        found = secure.getpeercert()
        assert found is not None
        return int(str(found["serialNumber"]), 16)


def test_the_authority_is_renewed_on_the_ledger_and_all_goes_on(home: Home, process: Process) -> None:
    before = (home.path / "tls" / "authority.pem").read_text(encoding="ascii")
    done = home.run("keys", "renew-authority", "--days", "4000")
    assert done["valid_until_s"] > NOW.timestamp() + 3999 * 86400
    assert (home.path / "tls" / "authority.pem").read_text(encoding="ascii") != before
    home.run("keys", "tls", "--host", "localhost", "--days", "3650")
    process.ask_to_stop(signal.SIGHUP)
    process.wait_for("certificate_renewed")
    assert home.run("status")["tls_days_left"] >= 3648
    with SyncClient(process.api, home.identity, genesis=home.genesis) as client:
        assert client.status().height >= done["height"]
    figures = httpx.get(f"{process.addresses['ops']}/metrics", trust_env=False).text
    assert "carechain_authority_days_left 3999" in figures


def test_a_node_for_members_only_asks_for_a_certificate(home: Home) -> None:
    home.configure(("[api]\n", "[api]\nrequire_client_certificate = true\n"))
    with node(home.path) as process:
        assert "certificate of a member" in refusal(home, process.api)
        trust = Trust.of(home.genesis, certificate=home.shown())
        with SyncClient(process.api, home.identity, genesis=home.genesis, trust=trust) as client:
            assert client.query("membership.members", NoArgs()).rows
        assert len(home.run("member", "list")["members"]) == 1, "a home shows its own certificate"
        with SyncClient(
            [Node("https://127.0.0.1:9"), Node(process.api)], home.identity, genesis=home.genesis, trust=trust
        ) as client:
            assert client.status().server == home.member
