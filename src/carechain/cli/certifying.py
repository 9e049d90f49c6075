"""Certificates from an organisation's own authority, valid from now on by the wall clock."""

import secrets
import socket
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import typer
from cryptography import x509
from msgspec import Struct

from carechain.cli.acting import Desktop, Done
from carechain.cli.addresses import AUTHORITY_FILE, CERTIFICATE_FILE, TLS_FOLDER, TLS_KEY_FILE
from carechain.cli.homes import CONFIG_FILE, TLS_LINES
from carechain.cli.keyring import AUTHORITY_KEY
from carechain.cli.output import CannotRun
from carechain.cli.public_key import Acceptance, Offer, PublicHalf, accept, public_half
from carechain.contracts.membership import ReplaceAuthority
from carechain.core.crypto import Suite
from carechain.core.vocabulary import PartyKind
from carechain.node.home import replace_file
from carechain.sdk.certificates import CertificateAuthority
from carechain.sdk.identity import Identity
from carechain.sdk.keyfile import write_private_file
from carechain.state.log import make_folder

SERVER_DAYS: Final = 365
_TOLERANCE: Final = timedelta(hours=1)
"""Certificates begin so much earlier than now, since clocks differ."""
_THIS_MACHINE: Final = ("localhost", "127.0.0.1", "::1")


class Issued(Struct, frozen=True, kw_only=True):
    """A server's certificate in a home: its files, the hosts it names, and the first second after its end (Unix)."""

    certificate: Path
    key: Path
    hosts: tuple[str, ...]
    until_s: int


def identity_for(desktop: Desktop, name: str) -> Identity:
    """The key to certify: one of this home, or a new one under that name."""
    if desktop.keys.path_of(name).exists():
        if desktop.keys.kind_of(name) != "identity":
            raise typer.BadParameter("this name belongs to a wallet or an authority; choose another", param_hint="NAME")
        return desktop.keys.identity(name, desktop.password)
    organisation = desktop.authority().organisation
    return desktop.keys.add_identity(
        name,
        kind=PartyKind.STAFF,
        organisation=organisation,
        password=desktop.password,
        suite=desktop.genesis.suite.signature,
    )


def accepted_here(desktop: Desktop, name: str, *, roles: int, days: int) -> Acceptance:
    """A certificate for a key of this home, accepted at once."""
    identity = identity_for(desktop, name)
    certificate, _ = issue(desktop, public_half(identity), roles=roles, days=days)
    return accept(identity, offer_of(desktop, certificate))


def offer_of(desktop: Desktop, certificate: bytes) -> Offer:
    """The certificate with what its key has to sign."""
    return Offer(
        chain_id=desktop.genesis.chain_id,
        organisation=desktop.authority().organisation,
        certificate=certificate,
    )


def issue(
    desktop: Desktop, half: PublicHalf, *, roles: int, days: int, party: bytes | None = None
) -> tuple[bytes, int]:
    """A certificate (DER) and the first second after its end (Unix), as the ledger will have it.

    It begins an hour back, since clocks differ, and never outlives the authority's own certificate.
    """
    authority = desktop.authority()
    now, end = _validity(authority, days)
    certificate = authority.issue(
        party or half.party,
        suite=Suite(half.suite),
        public_key=half.public_key,
        roles=roles,
        not_before=now - _TOLERANCE,
        not_after=end,
        entropy=secrets.token_bytes,
    )
    return certificate, int(end.timestamp()) + 1


def issue_for_servers(home: Path, authority: CertificateAuthority, hosts: Sequence[str], *, days: int) -> Issued:
    """A new certificate and key for this home's servers, in place of those that are there; never beyond the authority.

    Without ``hosts`` it names those of the certificate that is there, else this machine. A running node takes it up by
    itself. Raises :class:`CannotRun` and ``OSError``.
    """
    folder = home / TLS_FOLDER
    named = tuple(dict.fromkeys([*(hosts or _hosts_now(folder) or (socket.gethostname(),)), *_THIS_MACHINE]))
    now, end = _validity(authority, days)
    try:
        made = authority.issue_server(named, not_before=now - _TOLERANCE, not_after=end, entropy=secrets.token_bytes)
    except ValueError as wrong:
        raise typer.BadParameter(f"{', '.join(named)}: {wrong}", param_hint="--host") from None
    make_folder(folder)
    issued = Issued(
        certificate=folder / CERTIFICATE_FILE,
        key=folder / TLS_KEY_FILE,
        hosts=named,
        until_s=int(end.timestamp()) + 1,
    )
    keep_authority_file(home, authority)
    write_private_file(issued.key, made.key, replace=True)
    write_private_file(issued.certificate, made.certificate, replace=True)
    return issued


def serve_with_it(home: Path) -> None:
    """Switch TLS on in a configuration file as `carechain init` writes it."""
    file = home / CONFIG_FILE
    text = file.read_text(encoding="utf-8")
    for line in TLS_LINES:
        text = text.replace(f"# {line}\n", f"{line}\n", 1)
    replace_file(file, text.encode())


def keep_authority_file(home: Path, authority: CertificateAuthority) -> None:
    """What signs the servers' certificates, in PEM: for this home's own commands and for whoever must believe it."""
    make_folder(home / TLS_FOLDER)
    text = ssl.DER_cert_to_PEM_cert(authority.for_servers().certificate)
    write_private_file(home / TLS_FOLDER / AUTHORITY_FILE, text.encode("ascii"), replace=True)


def renew_authority(desktop: Desktop, *, days: int) -> tuple[Done, int]:
    """Give the organisation's authority, with the same key, a new validity, on the ledger and in this home.

    Returns where that stands and the first second after the new end (Unix).
    """
    now = datetime.now(UTC).replace(microsecond=0)
    renewed = desktop.authority().renewed(
        not_before=now - _TOLERANCE, not_after=now + timedelta(days=days), entropy=secrets.token_bytes
    )
    with desktop.seat(desktop.member()) as seat:
        done = seat.submit(ReplaceAuthority(renewed.certificate))
    # The key is the same, so a crash between the two leaves both certificates good for what was issued.
    renewed.save(
        desktop.keys.path_of(AUTHORITY_KEY),
        password=desktop.password,
        entropy=secrets.token_bytes,
        replace_existing=True,
    )
    keep_authority_file(desktop.desk.home, renewed)
    return done, renewed.authority().until_s


def _validity(authority: CertificateAuthority, days: int) -> tuple[datetime, datetime]:
    """Now, and the last second of a certificate for so many days; raises :class:`CannotRun` where none is left."""
    now = datetime.now(UTC).replace(microsecond=0)
    end = min(now + timedelta(days=days), datetime.fromtimestamp(authority.authority().not_after_s, UTC))
    if end <= now:
        raise CannotRun("the organisation's authority has expired: renew it with `carechain keys renew-authority`")
    return now, end


def _hosts_now(folder: Path) -> tuple[str, ...]:
    """The hosts that the present certificate names, but for this machine's own names."""
    file = folder / CERTIFICATE_FILE
    if not file.is_file():
        return ()
    try:
        certificate = x509.load_pem_x509_certificate(file.read_bytes())
        named = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        raise CannotRun(f"{file} is damaged: remove it, and name the hosts with --host") from None
    return tuple(str(one.value) for one in named if str(one.value) not in _THIS_MACHINE)
