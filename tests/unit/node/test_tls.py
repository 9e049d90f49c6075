"""Goal: a node's certificate is renewed while it serves, a bad one never takes its place, and only members are let in.

Method: real certificates of real authorities, and TLS handshakes in memory against the contexts that servers listen
with, before and after files and membership change.
"""

import asyncio
import os
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from carechain.core.crypto import Suite
from carechain.core.units import DAY_S
from carechain.node import tls
from carechain.node.relay import relay_of
from carechain.node.settings import BadSettings, Settings, load_settings
from carechain.node.tls import CertificateFiles, CertificateWatch, certificate_files
from carechain.sdk.certificates import CertificateAuthority, ServerCertificate
from node_network import NOT_BEFORE, Network, running, stopped_clock
from world import entropy_of, seeded

NOW = datetime.now(UTC).replace(microsecond=0)


def authority_of(name: str, *, suite: Suite = Suite.ED25519, days: int = 3650) -> CertificateAuthority:
    return CertificateAuthority.create(
        seeded(name),
        not_before=NOW - timedelta(days=400),
        not_after=NOW + timedelta(days=days),
        entropy=entropy_of(f"authority {name}"),
        suite=suite,
    )


def certificate_of(
    authority: CertificateAuthority, *hosts: str, label: str = "1", days: int = 90, began_days: int = 1
) -> ServerCertificate:
    return authority.issue_server(
        hosts or ("localhost",),
        not_before=NOW - timedelta(days=began_days),
        not_after=NOW + timedelta(days=days),
        entropy=entropy_of(label),
    )


class Files:
    """A certificate and a key on the disk."""

    def __init__(self, folder: Path, made: ServerCertificate) -> None:
        self.certificate, self.key = folder / "certificate.pem", folder / "key.pem"
        self.put(made)

    def put(self, made: ServerCertificate) -> None:
        for path, data in ((self.key, made.key), (self.certificate, made.certificate)):
            fresh = path.with_suffix(".new")
            fresh.write_bytes(data)
            fresh.chmod(0o600)
            fresh.replace(path)


def client_context(*authorities: CertificateAuthority, shown: Files | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    for one in authorities:
        context.load_verify_locations(cadata=one.certificate)
    if shown is not None:
        context.load_cert_chain(shown.certificate, shown.key)
    return context


def paths_of(folder: Path, name: str, made: ServerCertificate) -> tuple[Path, Path]:
    (folder / name).mkdir()
    files = Files(folder / name, made)
    return files.certificate, files.key


def serial_shown(server: ssl.SSLContext, client: ssl.SSLContext, host: str = "localhost") -> int:
    """The serial number of the certificate that a whole handshake showed, both sides being content."""
    return _serial(_shaken(server, client, host)[0])


def serial_asked(server: ssl.SSLContext, client: ssl.SSLContext) -> int:
    """The serial number of the certificate that the client showed."""
    return _serial(_shaken(server, client, "localhost")[1])


def _shaken(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    here = client.wrap_bio(to_client, to_server, server_hostname=host)
    there = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (here, there):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    there.do_handshake()
    there.write(b"x")
    assert here.read(1) == b"x"
    return here, there


def _serial(side: ssl.SSLObject) -> int:
    found = side.getpeercert()
    assert found is not None
    return int(str(found["serialNumber"]), 16)


def serial_of(made: ServerCertificate) -> int:
    return x509.load_pem_x509_certificate(made.certificate).serial_number


def test_a_renewed_certificate_is_shown_to_who_connects_from_then_on(tmp_path: Path) -> None:
    ca = authority_of("a")
    old, new = certificate_of(ca, label="old"), certificate_of(ca, label="new", days=200)
    on_disk = Files(tmp_path, old)
    files = CertificateFiles(on_disk.certificate, on_disk.key)
    server, client = files.context(), client_context(ca)
    assert serial_shown(server, client) == serial_of(old)
    assert 89 < files.days_left <= 90
    files.look()
    on_disk.put(new)
    assert serial_shown(server, client) == serial_of(old), "nobody has looked yet"
    files.look()
    assert serial_shown(server, client) == serial_of(new)
    assert 199 < files.days_left <= 200


@pytest.mark.parametrize("suite", list(Suite))
def test_strict_verifiers_accept_what_every_authority_issues(tmp_path: Path, suite: Suite) -> None:
    ca = authority_of("a", suite=suite)
    made = certificate_of(ca, "医院.example", "10.0.0.7", "::1")
    on_disk = Files(tmp_path, made)
    server = CertificateFiles(on_disk.certificate, on_disk.key).context()
    for host in ("医院.example", "10.0.0.7", "::1"):
        assert serial_shown(server, client_context(ca.for_servers()), host) == serial_of(made)
    with pytest.raises(ssl.SSLCertVerificationError, match=r"[Hh]ostname|IP address"):
        serial_shown(server, client_context(ca.for_servers()), "other.example")
    with pytest.raises(ssl.SSLCertVerificationError):
        serial_shown(server, client_context(authority_of("b")), "::1")


def test_an_sm2_authority_has_a_twin_that_tls_can_check(tmp_path: Path) -> None:
    """TLS stacks do not check SM2, so the twin on P-256 signs; both believed at once are no obstacle."""
    ca = authority_of("a", suite=Suite.SM2)
    twin, own = ca.for_servers().authority(), ca.authority()
    assert (twin.suite, twin.organisation) == (Suite.P256, own.organisation)
    assert (twin.not_before_s, twin.not_after_s) == (own.not_before_s, own.not_after_s)
    assert ca.for_servers().authority().public_key == twin.public_key
    assert ca.for_servers().seed != ca.seed
    made = certificate_of(ca)
    on_disk = Files(tmp_path, made)
    server = CertificateFiles(on_disk.certificate, on_disk.key).context()
    assert serial_shown(server, client_context(ca, ca.for_servers())) == serial_of(made)
    with pytest.raises(ssl.SSLCertVerificationError):
        serial_shown(server, client_context(ca))


def garbage(on_disk: Files, _ca: CertificateAuthority) -> None:
    on_disk.certificate.write_text("-----BEGIN NONSENSE-----")


def another_key(on_disk: Files, ca: CertificateAuthority) -> None:
    on_disk.key.write_bytes(certificate_of(ca, label="another").key)


def expired(on_disk: Files, ca: CertificateAuthority) -> None:
    on_disk.put(certificate_of(ca, label="expired", days=-1, began_days=300))


def open_to_others(on_disk: Files, _ca: CertificateAuthority) -> None:
    on_disk.key.chmod(0o644)
    os.utime(on_disk.key, ns=(1, 1))


def gone(on_disk: Files, _ca: CertificateAuthority) -> None:
    on_disk.certificate.unlink()


def too_large(on_disk: Files, _ca: CertificateAuthority) -> None:
    on_disk.certificate.write_bytes(b"-" * (tls.TLS_FILE_BYTES + 1))


BAD = [garbage, another_key, expired, open_to_others, gone, too_large]


@pytest.mark.parametrize("spoil", BAD)
def test_a_bad_file_is_refused_once_and_the_old_one_stays(
    tmp_path: Path, spoil: Callable[[Files, CertificateAuthority], None], said: list[str]
) -> None:
    ca = authority_of("a")
    good = certificate_of(ca, label="good")
    on_disk = Files(tmp_path, good)
    files = CertificateFiles(on_disk.certificate, on_disk.key)
    server = files.context()
    spoil(on_disk, ca)
    files.look()
    assert said == [], "the other of the two files may be on its way"
    for _ in range(3):
        files.look()
    assert said == ["certificate_refused"]
    assert serial_shown(server, client_context(ca)) == serial_of(good)
    better = certificate_of(ca, label="better")
    on_disk.put(better)
    files.look()
    assert said == ["certificate_refused", "certificate_renewed"]
    assert serial_shown(server, client_context(ca)) == serial_of(better)


@pytest.mark.parametrize("spoil", [garbage, another_key, open_to_others, too_large])
def test_a_node_does_not_start_with_a_bad_file(
    tmp_path: Path, spoil: Callable[[Files, CertificateAuthority], None]
) -> None:
    ca = authority_of("a")
    on_disk = Files(tmp_path, certificate_of(ca))
    spoil(on_disk, ca)
    with pytest.raises(BadSettings):
        CertificateFiles(on_disk.certificate, on_disk.key)


def test_a_node_starts_with_an_expired_certificate_and_nobody_believes_it(tmp_path: Path) -> None:
    ca = authority_of("a")
    on_disk = Files(tmp_path, certificate_of(ca))
    expired(on_disk, ca)
    files = CertificateFiles(on_disk.certificate, on_disk.key)
    assert files.days_left < 0
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        serial_shown(files.context(), client_context(ca))


def test_only_members_are_let_in_and_nobody_after_leaving(tmp_path: Path, said: list[str]) -> None:
    a, b, stranger = authority_of("a"), authority_of("b"), authority_of("stranger")
    members = [a, b]
    for name in ("a", "b", "stranger"):
        (tmp_path / name).mkdir()
    on_disk = Files(tmp_path / "a", certificate_of(a))
    guest = Files(tmp_path / "b", certificate_of(b, label="guest"))
    other = Files(tmp_path / "stranger", certificate_of(stranger, label="other"))
    files = CertificateFiles(
        on_disk.certificate, on_disk.key, authorities=lambda: tuple(one.certificate for one in members)
    )
    asking, open_ = files.context(ask=True), files.context()

    def enters(shown: Files | None, server: ssl.SSLContext = asking) -> bool:
        try:
            return serial_shown(server, client_context(a, shown=shown)) > 0
        except ssl.SSLError:
            return False

    assert (enters(guest), enters(other), enters(None), enters(None, open_)) == (True, False, False, True)
    members.remove(b)
    members.append(stranger)
    garbage(on_disk, a)
    files.look()
    assert "client_authorities_changed" in said, "a bad file must not keep a removed member in"
    assert (enters(guest), enters(other), enters(None)) == (False, True, False)
    members.clear()
    files.look()
    assert not any(enters(one) for one in (guest, other, None)), "without members nobody enters"


def test_asking_needs_to_know_whom_to_believe(tmp_path: Path) -> None:
    on_disk = Files(tmp_path, certificate_of(authority_of("a")))
    with pytest.raises(ValueError, match="believed"):
        CertificateFiles(on_disk.certificate, on_disk.key).context(ask=True)
    for group in ("api", "gatekeeper_api"):
        with pytest.raises(BadSettings, match="require_client_certificate"):
            load_settings(flags={group: {"require_client_certificate": True}}, home=tmp_path)


def test_the_watch_warns_once_a_day_and_shows_the_days(tmp_path: Path, said: list[str]) -> None:
    async def main() -> None:
        clock = stopped_clock()
        async with running(tmp_path, populate=False, clock=clock) as net:
            files = certificate_files(settings_of(tmp_path, net), net.service)
            watch = CertificateWatch(net.service, files)
            watch.look()
            assert said == []
            figures = net.service.metrics.exposition().decode()
            assert f"carechain_tls_certificate_days_left {files.days_left if files else None}" in figures
            assert "carechain_authority_days_left " in figures
            assert watch.authority_days_left() > 30
            clock.now_s += 61 * DAY_S
            for _ in range(3):
                watch.look()
            assert said == ["tls_certificate_ends"]
            clock.now_s += DAY_S
            watch.look()
            assert said == ["tls_certificate_ends"] * 2
            assert certificate_files(Settings(home=tmp_path), net.service) is None

    asyncio.run(main())


def settings_of(home: Path, net: Network) -> Settings:
    """TLS for the node of ``net``, with a certificate that ends 90 days from its clock."""
    began = datetime.fromtimestamp(net.clock.now_s, UTC).replace(microsecond=0)
    made = net.a.authority.issue_server(
        ("localhost",),
        not_before=max(began - timedelta(days=1), NOT_BEFORE),
        not_after=began + timedelta(days=90),
        entropy=entropy_of("server"),
    )
    Files(home, made)
    config = {"tls_certificate": home / "certificate.pem", "tls_key": home / "key.pem"}
    return load_settings(flags={"api": {**config, "require_client_certificate": True}}, home=home)


def test_the_watch_looks_when_told_and_ends_when_asked(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, populate=False) as net:
            watch = CertificateWatch(net.service, None)
            looks = asyncio.Semaphore(0)
            watch.look = looks.release  # type: ignore[method-assign]
            task = asyncio.create_task(watch.run())
            for _ in range(3):
                await looks.acquire()
                watch.look_now()
            watch.stop()
            await task

    asyncio.run(main())


def test_a_hub_shows_gatekeepers_its_renewed_certificate(tmp_path: Path) -> None:
    gatekeeper = CertificateFiles(*paths_of(tmp_path, "gatekeeper", certificate_of(authority_of("b"))))
    before, after = certificate_of(authority_of("hub"), label="2"), certificate_of(authority_of("hub"), label="3")
    own = Files(tmp_path, before)

    def seen(there: ssl.SSLContext) -> int:
        """Which certificate the hub shows where one is asked for."""
        server = gatekeeper.context()
        server.sni_callback = None
        server.verify_mode = ssl.CERT_REQUIRED
        server.load_verify_locations(cadata=authority_of("hub").certificate)
        return serial_asked(server, there)

    async def main() -> None:
        async with running(tmp_path / "home", populate=False) as net:
            (tmp_path / "home" / "config.toml").write_text(
                f'[relay]\nenabled = true\n[relay.gatekeepers]\n"{net.a.id.hex()}" = "https://localhost:9"\n'
            )
            settings = load_settings(home=tmp_path / "home")
            files = CertificateFiles(own.certificate, own.key)
            async with relay_of(settings, net.service, files) as relay:
                assert relay is not None
                (client,) = relay._clients.values()
                context: ssl.SSLContext = client._transport._pool._ssl_context  # type: ignore[attr-defined]
                context.load_verify_locations(cadata=authority_of("b").certificate)
                assert seen(context) == serial_of(before)
                own.put(after)
                files.look()
                assert seen(context) == serial_of(after)

    asyncio.run(main())


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the events that were logged."""
    events: list[str] = []

    class Log:
        def note(self, event: str, **_: object) -> None:
            events.append(event)

        info = warning = error = note

    monkeypatch.setattr(tls, "_log", Log())
    return events
