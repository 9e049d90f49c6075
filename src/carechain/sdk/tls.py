"""Which servers a client believes: the organisations' own authorities vouch for their servers (LED-12).

Every organisation names its certificate authority in the genesis, the same one that certifies its staff. A server
that must be one organisation's is believed on that organisation's word alone; where the address is all that is known,
any member's authority will do, and who answers is then judged by who vouched. Names are always checked, and there is
no switch to stop checking.
"""

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import httpx
from msgspec import Struct

from carechain.chain.genesis import Genesis
from carechain.core.ids import party_id
from carechain.core.limits import ID_SIZE

_ORGANISATION: Final = "organizationName"


class ClientCertificate(Struct, frozen=True):
    """The two PEM files of a certificate to show to servers that ask for one: the chain, and its private key."""

    certificate: Path
    key: Path


class Trust:
    """Authorities by organisation, and what else an operator says is to be believed."""

    def __init__(
        self,
        authorities: Mapping[bytes, bytes],
        *,
        ca_file: Path | None = None,
        certificate: ClientCertificate | None = None,
    ) -> None:
        """``authorities`` are DER certificates by member id; ``ca_file`` (PEM) is believed for every server.

        ``certificate`` is shown to servers that ask.
        """
        self._authorities = dict(authorities)
        self._ca_file = ca_file
        self._certificate = certificate

    @staticmethod
    def of(genesis: Genesis, *, ca_file: Path | None = None, certificate: ClientCertificate | None = None) -> "Trust":
        """The founders' authorities. One that joined or changed its authority later is believed by ``ca_file``."""
        return Trust(
            {party_id(one.suite, one.public_key): one.authority for one in genesis.members},
            ca_file=ca_file,
            certificate=certificate,
        )

    @property
    def has_certificate(self) -> bool:
        """Whether servers that ask for a certificate are shown one."""
        return self._certificate is not None

    def context(self, server: bytes | None) -> ssl.SSLContext:
        """What a connection to ``server`` (None: any member's) is verified with. Raises ``OSError`` for bad files."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        named = self._authorities if server is None else {server: self._authorities.get(server, b"")}
        ders = b"".join(named.values())
        if ders:
            context.load_verify_locations(cadata=ders)
        if self._ca_file is not None:
            context.load_verify_locations(cafile=self._ca_file)
        if self._certificate is not None:
            context.load_cert_chain(self._certificate.certificate, self._certificate.key)
        return context

    def vouches_for_another(self, response: httpx.Response, server: bytes) -> bool:
        """Whether the certificate behind this answer was issued by another member than ``server``.

        Without this, a member could put its own server in the place of another's and pass signed openings on.
        """
        issuer = _issuer(response)
        return issuer is not None and issuer in self._authorities and issuer != server


def system_trust() -> ssl.SSLContext:
    """What this machine believes: for a client that knows no genesis."""
    return ssl.create_default_context()


def no_trust() -> ssl.SSLContext:
    """Believes nobody: for connections that are not TLS, at no cost."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def tls_failure(error: httpx.HTTPError, url: str, *, shown: bool = True) -> str | None:
    """Why TLS did not come about, where that is why a connection failed; None for every other failure.

    ``shown`` is False where no certificate was shown, and the server has not answered before: it may have asked for
    one. A server that is not content with it ends the connection without a word.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"the certificate of {url} is not believed: {cause.verify_message}"
        cause = cause.__cause__ or cause.__context__
    if url.startswith("https://") and not shown and isinstance(error, httpx.RemoteProtocolError | httpx.ReadError):
        return (
            f"{url} ended the connection; it may want a certificate of a member, which an organisation makes with "
            "`carechain keys tls`"
        )
    return None


def peer_certificate(response: httpx.Response) -> dict[str, Any]:
    """The server's verified certificate as :meth:`ssl.SSLSocket.getpeercert` shows it; empty without TLS."""
    stream = response.extensions.get("network_stream")
    connection = None if stream is None else stream.get_extra_info("ssl_object")
    return {} if connection is None else connection.getpeercert() or {}


def _issuer(response: httpx.Response) -> bytes | None:
    """The organisation in the issuer's name, where it is a member id."""
    for relative in peer_certificate(response).get("issuer", ()):
        for attribute, value in relative:
            if attribute == _ORGANISATION and len(value) == 2 * ID_SIZE:
                try:
                    return bytes.fromhex(value)
                except ValueError:
                    return None
    return None
