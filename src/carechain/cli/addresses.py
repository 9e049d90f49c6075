"""Where a command's nodes answer, whose they are, and which certificates are believed there."""

import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import typer

from carechain.chain.genesis import Genesis
from carechain.cli.keyring import MEMBER_KEY, Keyring
from carechain.cli.network import APPLICATION_FILE, read_application
from carechain.cli.output import CannotRun
from carechain.core.ids import party_id
from carechain.sdk.nodes import Node
from carechain.sdk.tls import ClientCertificate, Trust

TLS_FOLDER: Final = "tls"
CERTIFICATE_FILE: Final = "certificate.pem"
TLS_KEY_FILE: Final = "key.pem"
AUTHORITY_FILE: Final = "authority.pem"
_HINT: Final = "--node"
_ANYWHERE: Final = {"//0.0.0.0:": "//127.0.0.1:", "//[::]:": "//[::1]:"}


def split_addresses(given: Sequence[str] | None) -> list[str]:
    """Every address of an option that may be repeated, and may hold several separated by commas."""
    return [one.strip() for text in given or () for one in text.split(",") if one.strip()]


def address_of(text: str) -> str:
    """The address in ``URL`` or ``ORGANISATION=URL``."""
    return _parts(text)[1]


def nodes_of(given: Sequence[str], *, own: bytes | None, keys: Keyring) -> list[Node]:
    """Nodes from what was typed: a plain address is the own organisation's, others' are ``ORGANISATION=URL``."""
    nodes = []
    for text in given:
        organisation, url = _parts(text)
        server = own if organisation is None else keys.party(organisation, hint=_HINT)
        try:
            nodes.append(Node.of(url, server))
        except ValueError as wrong:
            raise typer.BadParameter(f"{url!r}: {wrong}", param_hint=_HINT) from None
    return nodes


def serving_member(genesis: Genesis, keys: Keyring) -> bytes | None:
    """Whose a node is of which only the address is known.

    Where one organisation produces the blocks it also serves them. Elsewhere every member's node serves, and an
    organisation goes to its own; a patient's home has none of its own, so the node says whose it is, and over TLS its
    certificate has to agree.
    """
    if len(genesis.producers) == 1:
        return genesis.producers[0]
    return own_member(keys)


def own_member(keys: Keyring) -> bytes | None:
    """The member id of the organisation whose home this is; None for a person's."""
    return keys.book().get(MEMBER_KEY) if keys.path_of(MEMBER_KEY).is_file() else None


def own_authority(home: Path, genesis: Genesis, own: bytes) -> bytes | None:
    """The certificate (DER) of this organisation's authority: as last used for TLS, as founded, or as applied with."""
    file = home / TLS_FOLDER / AUTHORITY_FILE
    if file.is_file():
        return read_authority_file(file)
    for founder in genesis.members:
        if party_id(founder.suite, founder.public_key) == own:
            return founder.authority
    applied = home / APPLICATION_FILE
    return read_application(applied).new.authority if applied.is_file() else None


def trust_of(home: Path, genesis: Genesis, *, ca_file: Path | None = None) -> Trust:
    """What a home believes: the founders' authorities, its own one as it is now, and ``ca_file``.

    The home's own certificate is shown where one is asked for. Raises :class:`CannotRun` for a file that is none.
    """
    folder = home / TLS_FOLDER
    authorities = {party_id(one.suite, one.public_key): one.authority for one in genesis.members}
    own = own_member(Keyring(home))
    own_certificate = None if own is None else own_authority(home, genesis, own)
    if own is not None and own_certificate is not None:
        authorities[own] = own_certificate
    shown = (folder / CERTIFICATE_FILE, folder / TLS_KEY_FILE)
    has_certificate = all(one.is_file() for one in shown)
    trust = Trust(authorities, ca_file=ca_file, certificate=ClientCertificate(*shown) if has_certificate else None)
    try:
        trust.context(own)
    except OSError as error:
        named = f"{ca_file} or the files in {folder}" if ca_file else f"a file in {folder}"
        raise CannotRun(
            f"{named} cannot be used for TLS ({type(error).__name__}): make a certificate with `carechain keys tls`"
        ) from None
    return trust


def read_authority_file(path: Path) -> bytes:
    """The certificate (DER) in a PEM file; raises :class:`CannotRun`."""
    try:
        return ssl.PEM_cert_to_DER_cert(path.read_text(encoding="ascii"))
    except (ValueError, UnicodeDecodeError):
        raise CannotRun(f"{path} holds no certificate in PEM") from None


def reachable(url: str) -> str:
    """An address to connect to: a server that listens everywhere is reached on this machine by loopback."""
    for anywhere, here in _ANYWHERE.items():
        url = url.replace(anywhere, here)
    return url


def _parts(text: str) -> tuple[str | None, str]:
    """Organisation and address: an equals sign in front of the address names whose it is."""
    name, separator, url = text.partition("=")
    return (name, url) if separator and "://" not in name else (None, text)
