"""The certificate that a node's servers show, whom they ask for one, and its renewal while they serve (LED-12).

A connection is given the newest certificate at its handshake, so a renewed one is used without a restart, and open
connections stay as they are. A file that cannot be used is refused as a whole, and the one in use stays. Where callers
must show a certificate too, it must come from the authority of an organisation that is a member by now.
"""

import asyncio
import os
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import structlog
from cryptography import x509
from msgspec import Struct

from carechain.core.certificate import read_authority
from carechain.core.suite import Institution
from carechain.core.units import DAY_S
from carechain.node.clock import Clock
from carechain.node.ledger import LedgerNode
from carechain.node.settings import BadSettings, Settings, require_private

LOOK_S: Final = 10.0
"""How often the files, and the list of members, are looked at."""
LOOK_AGAIN_S: Final = 1.0
"""How soon files are looked at again that did not fit together."""
WARN_DAYS: Final = 30
"""From so many days before an end on, the log warns once a day."""
TLS_FILE_BYTES: Final = 64 * 1024
_FIELDS: Final = ("st_dev", "st_ino", "st_size", "st_mtime_ns")

Authorities = Callable[[], tuple[bytes, ...]]
"""The certificates (DER) of the authorities whose clients are let in, as the ledger has them now."""
Stamp = tuple[tuple[int, ...], ...]

_log = structlog.get_logger("carechain.tls")


class _Shown(Struct, frozen=True):
    """A certificate in use: the PEM text of the chain with its key, and the last second of its validity (Unix)."""

    pem: bytes
    not_after_s: int

    def __repr__(self) -> str:
        return "_Shown()"


class CertificateFiles:
    """A certificate and its key on the disk, and what servers make of them."""

    def __init__(
        self, certificate: Path, key: Path, *, authorities: Authorities | None = None, clock: Clock = time.time
    ) -> None:
        """Read both files (PEM: the chain, and the private key); ``clock`` gives Unix seconds.

        With ``authorities``, callers can be asked for a certificate. Raises :class:`BadSettings` and ``OSError``, but
        takes a certificate that has expired: a node that takes part without clients is better than none.
        """
        self._paths = (certificate, key)
        self._authorities = authorities
        self._clock = clock
        self._stamp = self._look_at_files()
        self._doubted: Stamp | None = None
        self._shown = self._read()
        self._believed: tuple[bytes, ...] = () if authorities is None else authorities()
        self._open = _server_context(self._shown, None)
        self._asking = _server_context(self._shown, self._believed)
        self._clients: list[ssl.SSLContext] = []

    @property
    def in_doubt(self) -> bool:
        """Whether the files on the disk could not be used and may only be half replaced."""
        return self._doubted is not None and self._doubted != self._stamp

    @property
    def days_left(self) -> float:
        """Days until the certificate in use ends; negative once it has."""
        return (self._shown.not_after_s - self._clock()) / DAY_S

    def context(self, *, ask: bool = False) -> ssl.SSLContext:
        """What a server listens with; with ``ask`` it lets in only who shows a member's certificate."""
        if ask and self._authorities is None:
            raise ValueError("nobody said whose certificates are believed")
        front = _server_context(self._shown, self._believed if ask else None)

        def newest(connection: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _front: ssl.SSLContext) -> None:
            connection.context = self._asking if ask else self._open

        front.sni_callback = newest
        return front

    def show_with(self, client: ssl.SSLContext) -> ssl.SSLContext:
        """Let connections that this node opens with ``client`` show the newest certificate, now and once renewed."""
        _load(client, self._shown)
        self._clients.append(client)
        return client

    def look(self) -> None:
        """Take up what changed on the disk and on the ledger. What cannot be used twice is logged once."""
        stamp = self._look_at_files()
        if stamp != self._stamp:
            self._renew(stamp)
        believed = () if self._authorities is None else self._authorities()
        if believed != self._believed:
            self._believed = believed
            self._asking = _server_context(self._shown, believed)
            _log.info("client_authorities_changed", count=len(believed))

    def _renew(self, stamp: Stamp) -> None:
        try:
            fresh = self._read()
            if fresh.not_after_s <= self._clock() and fresh.not_after_s <= self._shown.not_after_s:
                raise BadSettings("it has expired")  # noqa: TRY301 - the same end as for every other bad file
        except (OSError, BadSettings) as bad:
            self._refuse(stamp, bad)
            return
        self._shown, self._stamp, self._doubted = fresh, stamp, None
        self._open, self._asking = _server_context(fresh, None), _server_context(fresh, self._believed)
        for client in self._clients:
            _load(client, fresh)
        _log.info("certificate_renewed", count=int(self.days_left))

    def _refuse(self, stamp: Stamp, why: Exception) -> None:
        """The two files are replaced one after the other, so what does not fit together may do so at the next look."""
        if stamp != self._doubted:
            self._doubted = stamp
        elif stamp != self._stamp:
            self._stamp = stamp
            _log.error("certificate_refused", kind=type(why).__name__, count=int(self.days_left))

    def _look_at_files(self) -> Stamp:
        """What tells one version of the files from another; nothing where one of them cannot be looked at."""
        try:
            found = [path.stat() for path in self._paths]
        except OSError:
            return ()
        return tuple(tuple(int(getattr(one, field)) for field in _FIELDS) for one in found)

    def _read(self) -> _Shown:
        """Both files as one text, if they belong together; raises :class:`BadSettings`, ``OSError``."""
        certificate, key = self._paths
        pem = _read_bounded(certificate) + b"\n" + _read_bounded(require_private(key))
        try:
            leaf = x509.load_pem_x509_certificates(pem)[0]
        except ValueError:
            raise BadSettings(f"{certificate} holds no certificate in PEM.") from None
        shown = _Shown(pem, int(leaf.not_valid_after_utc.timestamp()))
        try:
            _server_context(shown, None)
        except ssl.SSLError:
            raise BadSettings(
                f"{certificate} and {key} do not belong together, or the key is encrypted. Make new ones with: "
                "carechain keys tls"
            ) from None
        return shown


class CertificateWatch:
    """Looks after certificates while a node runs: renewal, figures, warnings."""

    def __init__(self, node: LedgerNode, files: CertificateFiles | None) -> None:
        """``files`` is None where the node's servers speak no TLS: its authority's end is watched all the same."""
        self._node = node
        self._files = files
        self._wake = asyncio.Event()
        self._closing = False
        self._warned_day: dict[str, int] = {}
        self._known_authority: tuple[bytes, int] = (b"", 0)
        gauge = node.metrics.gauge
        gauge(
            "authority_days_left",
            "Days until the organisation's certificate authority ends.",
            self.authority_days_left,
        )
        if files is not None:
            gauge("tls_certificate_days_left", "Days until the servers' certificate ends.", lambda: files.days_left)

    async def run(self) -> None:
        """Look every :data:`LOOK_S` seconds, and at once when told; returns after :meth:`stop`."""
        while not self._closing:
            self.look()
            self._wake.clear()
            in_doubt = self._files is not None and self._files.in_doubt
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_AGAIN_S if in_doubt else LOOK_S):
                    await self._wake.wait()

    def look_now(self) -> None:
        """Do not wait for the next look: the operator has said that something is new (SIGHUP)."""
        self._wake.set()

    def stop(self) -> None:
        """Return from :meth:`run`."""
        self._closing = True
        self._wake.set()

    def look(self) -> None:
        """One look at everything."""
        if self._files is not None:
            self._files.look()
            self._warn("tls_certificate_ends", self._files.days_left)
        self._warn("authority_ends", self.authority_days_left())

    def authority_days_left(self) -> float:
        """Days until the authority that the ledger has for this organisation ends; not a number before it has one."""
        row = self._node.view().contracts.membership.authorities.get(self._node.server)
        if row is None:
            return float("nan")
        if self._known_authority[0] != row.certificate:
            self._known_authority = (row.certificate, read_authority(row.certificate).until_s)
        return (self._known_authority[1] - self._node.clock()) / DAY_S

    def _warn(self, event: str, days_left: float) -> None:
        today = int(self._node.clock() // DAY_S)
        if days_left < WARN_DAYS and self._warned_day.get(event) != today:
            self._warned_day[event] = today
            _log.warning(event, count=int(days_left))


def certificate_files(settings: Settings, node: LedgerNode) -> CertificateFiles | None:
    """The files that the settings name, for clients of whoever is a member; None without TLS.

    Raises :class:`BadSettings` and ``OSError``.
    """
    certificate, key = settings.api.tls_certificate, settings.api.tls_key
    if certificate is None or key is None:
        return None
    groups = (settings.api, settings.gatekeeper_api, settings.fhir)
    asking = any(group.require_client_certificate for group in groups)
    if asking and node.genesis.suite is Institution.SM:
        raise BadSettings(
            "In a network with the SM suite no client can show a certificate that TLS would check against the ledger. "
            "Set require_client_certificate to false: every request is signed all the same."
        )
    return CertificateFiles(
        settings.path(certificate),
        settings.path(key),
        authorities=(lambda: _live_authorities(node)) if asking else None,
        clock=node.clock,
    )


def _live_authorities(node: LedgerNode) -> tuple[bytes, ...]:
    """The authorities of all who are members at the last block."""
    membership = node.view().contracts.membership
    rows = (membership.authorities.get(organisation) for organisation, _ in membership.live_members())
    return tuple(row.certificate for row in rows if row is not None)


def _server_context(shown: _Shown, believed: tuple[bytes, ...] | None) -> ssl.SSLContext:
    """A server's context; with ``believed`` (DER), for callers with a certificate from one of these. May be none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # With 1.3 a caller's certificate is encrypted on its way, and no session is resumed past a changed list.
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    if believed is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        if believed:
            context.load_verify_locations(cadata=b"".join(believed))
    _load(context, shown)
    return context


def _load(context: ssl.SSLContext, shown: _Shown) -> None:
    with _as_file(shown.pem) as path:
        context.load_cert_chain(path)


@contextmanager
def _as_file(data: bytes) -> Iterator[str]:
    """A file that only this process sees: the library reads keys from paths, and the bytes were judged already."""
    if hasattr(os, "memfd_create"):
        handle = os.memfd_create("carechain-tls", os.MFD_CLOEXEC)
        try:
            with os.fdopen(os.dup(handle), "wb") as file:
                file.write(data)
            yield f"/proc/self/fd/{handle}"
        finally:
            os.close(handle)
        return
    with tempfile.NamedTemporaryFile(prefix="carechain-") as named:
        named.write(data)
        named.flush()
        yield named.name


def _read_bounded(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(TLS_FILE_BYTES + 1)
    if len(data) > TLS_FILE_BYTES:
        raise BadSettings(f"{path} is too large for a certificate or a key.")
    return data
