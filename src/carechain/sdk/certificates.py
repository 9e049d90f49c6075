"""An organisation's own certificate authority: issues the X.509 certificates of its staff and servers (ID-1, LED-12).

Certificates for the ledger are written by :mod:`carechain.sdk.issuing` and read back with
:mod:`carechain.core.certificate`, the reader every node uses, before anyone sees them: what leaves here is known to be
accepted. They carry ids and roles; names stay in the organisation's own directory. Those of servers are for common TLS
stacks and built with the ``cryptography`` library. Dates and randomness are arguments.
"""

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from msgspec import Struct

from carechain.core.certificate import Authority, read_authority, read_staff
from carechain.core.codec import Malformed, decode_strict, encode
from carechain.core.crypto import P256_ORDER, SEED_SIZE, SigningKey, Suite
from carechain.core.ids import PartyId
from carechain.core.rejection import Rejected
from carechain.sdk.issuing import Terms, authority_certificate, key_id, staff_certificate
from carechain.sdk.keyfile import (
    Entropy,
    WalletCode,
    decode_key_file,
    encode_key_file,
    read_bounded,
    write_private_file,
)
from carechain.sdk.wallet import Seed
from carechain.sealing.symmetric import ScryptCost

_SERIAL_SIZE: Final = 8
_SERVER_NAME: Final = "node"
"""The common name of every server: who it is says the organisation's id, where it is say the alternative names."""
_TWIN_LABEL: Final = b"carechain/authority-for-servers/1"
_SIGNS: Final = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


class ServerCertificate(Struct, frozen=True):
    """What a server shows and the key it shows it with: two PEM files. The repr shows no secret."""

    certificate: bytes
    key: bytes

    def __repr__(self) -> str:
        return "ServerCertificate()"


class CertificateAuthority(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """An organisation's authority: its key's seed and its self-signed certificate (DER), saved as a key file."""

    organisation: PartyId
    suite: Suite
    seed: Seed
    certificate: bytes

    def __repr__(self) -> str:
        return f"CertificateAuthority(organisation={self.organisation.hex()})"

    @staticmethod
    def create(
        organisation: bytes,
        *,
        not_before: datetime,
        not_after: datetime,
        entropy: Entropy,
        suite: Suite = Suite.ED25519,
    ) -> "CertificateAuthority":
        """A new authority with a fresh key; dates are time-zone aware and count in whole seconds.

        Raises :class:`~carechain.core.certificate.BadCertificate` where the dates do not fit the profile.
        """
        return _self_signed(
            organisation, suite, entropy(SEED_SIZE), not_before=not_before, not_after=not_after, entropy=entropy
        )

    def renewed(self, *, not_before: datetime, not_after: datetime, entropy: Entropy) -> "CertificateAuthority":
        """The same authority and key with another validity: what it issued stays good under both certificates."""
        return _self_signed(
            self.organisation, self.suite, self.seed, not_before=not_before, not_after=not_after, entropy=entropy
        )

    def authority(self) -> Authority:
        """The authority as the ledger reads it."""
        return read_authority(self.certificate)

    def issue(
        self,
        party: bytes,
        *,
        suite: Suite,
        public_key: bytes,
        roles: int,
        not_before: datetime,
        not_after: datetime,
        entropy: Entropy,
    ) -> bytes:
        """A staff certificate (DER) that binds ``public_key`` to this organisation, ``roles`` (a mask) and a validity.

        ``party`` is the party id: ``party_id(suite, public_key)`` for a first certificate. Raises ``ValueError``
        for an impossible key or an end after the authority's own, and ``BadCertificate`` for what the profile refuses.
        """
        if _whole_seconds(not_after) > datetime.fromtimestamp(self.authority().not_after_s, UTC):
            raise ValueError("a staff certificate cannot outlive its authority")
        certificate = staff_certificate(
            self._signing(),
            self.organisation,
            _terms(not_before, not_after, entropy),
            party=party,
            suite=suite,
            public_key=public_key,
            roles=roles,
        )
        read_staff(certificate, self.certificate)
        return certificate

    def issue_server(
        self, hosts: Sequence[str], *, not_before: datetime, not_after: datetime, entropy: Entropy
    ) -> ServerCertificate:
        """A certificate for the organisation's servers, with a fresh P-256 key; also shown as a client (LED-12).

        ``hosts`` are the names and IP addresses that clients use. The key is on P-256 whatever the authority's own
        suite is, since not every TLS stack takes the others; :meth:`for_servers` is who signs. Raises ``ValueError``
        for no host or one that is none, and for an end after the authority's own.
        """
        if _whole_seconds(not_after) > datetime.fromtimestamp(self.authority().not_after_s, UTC):
            raise ValueError("a server's certificate cannot outlive its authority")
        if not hosts:
            raise ValueError("a server's certificate names at least one host")
        issuer = self.for_servers()
        key = _p256_key(entropy(SEED_SIZE))
        public_key = key.public_key()
        purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = (
            x509.CertificateBuilder()
            .issuer_name(x509.Name([_organisation_name(self.organisation)]))
            .subject_name(_server_name(self.organisation))
            .public_key(public_key)
            .serial_number(_serial(entropy(_SERIAL_SIZE)))
            .not_valid_before(_whole_seconds(not_before))
            .not_valid_after(_whole_seconds(not_after))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_SIGNS, critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(x509.SubjectAlternativeName([_host(one) for one in hosts]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier(_key_id(public_key)), critical=False)
            .add_extension(issuer.names_its_key(), critical=False)
        )
        signing = _private_key(issuer.suite, issuer.seed)
        certificate = builder.sign(signing, None if isinstance(signing, Ed25519PrivateKey) else SHA256())
        return ServerCertificate(
            certificate=certificate.public_bytes(Encoding.PEM),
            key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        )

    def for_servers(self) -> "CertificateAuthority":
        """Who signs the servers' certificates: this authority or, since TLS stacks do not check SM2, its twin on P-256.

        The twin has the same name and validity, and a key of its own that follows from the seed. It is not on the
        ledger: whoever connects has to be given its certificate.
        """
        if self.suite is not Suite.SM2:
            return self
        own = self.authority()
        drawn = HKDF(algorithm=SHA256(), length=SEED_SIZE + _SERIAL_SIZE, salt=None, info=_TWIN_LABEL).derive(self.seed)
        return _self_signed(
            self.organisation,
            Suite.P256,
            drawn[:SEED_SIZE],
            not_before=datetime.fromtimestamp(own.not_before_s, UTC),
            not_after=datetime.fromtimestamp(own.not_after_s, UTC),
            entropy=lambda _: drawn[SEED_SIZE:],
        )

    def names_its_key(self) -> x509.AuthorityKeyIdentifier:
        """What strict verifiers want in whatever the authority issues (RFC 5280 section 4.2.1.1)."""
        named = key_id(self.suite, self._signing().public_key)
        return x509.AuthorityKeyIdentifier(named, authority_cert_issuer=None, authority_cert_serial_number=None)

    def _signing(self) -> SigningKey:
        return SigningKey(suite=self.suite, seed=self.seed)

    def to_bytes(self, *, password: str, entropy: Entropy, cost: ScryptCost | None = None) -> bytes:
        """The authority as an encrypted key file."""
        return encode_key_file(encode(self), kind="authority", password=password, entropy=entropy, cost=cost)

    @staticmethod
    def from_bytes(data: bytes, *, password: str) -> "CertificateAuthority":
        """An authority from a key file's bytes; raises :class:`~carechain.core.rejection.Rejected`."""
        payload = decode_key_file(data, kind="authority", password=password)
        try:
            return decode_strict(_decoder, payload)
        except Malformed:
            raise Rejected(WalletCode.FILE_DAMAGED) from None

    def save(
        self,
        path: Path,
        *,
        password: str,
        entropy: Entropy,
        replace_existing: bool = False,
        cost: ScryptCost | None = None,
    ) -> None:
        """Write the key file with mode 0600, atomically; a first save refuses to overwrite."""
        data = self.to_bytes(password=password, entropy=entropy, cost=cost)
        write_private_file(path, data, replace=replace_existing)

    @staticmethod
    def load(path: Path, *, password: str) -> "CertificateAuthority":
        """Read an authority; raises ``Rejected`` for what is wrong with it and ``OSError`` when it cannot be read."""
        return CertificateAuthority.from_bytes(read_bounded(path), password=password)


_decoder = msgspec.msgpack.Decoder(CertificateAuthority)


def _self_signed(
    organisation: bytes, suite: Suite, seed: bytes, *, not_before: datetime, not_after: datetime, entropy: Entropy
) -> CertificateAuthority:
    """An authority with the key of ``seed``; read back before anyone sees it."""
    key = SigningKey(suite=suite, seed=seed)
    certificate = authority_certificate(key, organisation, _terms(not_before, not_after, entropy))
    read_authority(certificate)
    return CertificateAuthority(organisation=organisation, suite=suite, seed=seed, certificate=certificate)


def _terms(not_before: datetime, not_after: datetime, entropy: Entropy) -> Terms:
    return Terms(
        serial=_serial(entropy(_SERIAL_SIZE)),
        not_before=_whole_seconds(not_before),
        not_after=_whole_seconds(not_after),
    )


def _private_key(suite: Suite, seed: bytes) -> Ed25519PrivateKey | ec.EllipticCurvePrivateKey:
    """The key that :class:`~carechain.core.crypto.SigningKey` makes of the same seed, as the TLS library's object."""
    if suite is Suite.ED25519:
        return Ed25519PrivateKey.from_private_bytes(seed)
    return _p256_key(seed)


def _p256_key(seed: bytes) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int.from_bytes(seed, "big") % (P256_ORDER - 1) + 1, ec.SECP256R1())


def _serial(random: bytes) -> int:
    """Positive and always eight bytes long, with 62 random bits (RFC 5280 section 4.1.2.2 allows twenty bytes)."""
    return int.from_bytes(random, "big") >> 2 | 1 << 62


def _organisation_name(organisation: bytes) -> x509.NameAttribute[str]:
    return x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation.hex())


def _server_name(organisation: bytes) -> x509.Name:
    """No staff's name: the ledger's reader wants a party's id in its place, so a server can never be enrolled."""
    return x509.Name(
        [
            _organisation_name(organisation),
            x509.NameAttribute(NameOID.COMMON_NAME, _SERVER_NAME),
        ]
    )


def _host(text: str) -> x509.GeneralName:
    """A host's name, in the form that DNS has for it, or an IP address; raises ``ValueError``."""
    try:
        return x509.IPAddress(ipaddress.ip_address(text.strip("[]")))
    except ValueError:
        pass
    name = text.encode("idna").decode("ascii")
    if not name or not all(part and part.replace("-", "").replace("_", "").isalnum() for part in name.split(".")):
        raise ValueError("this is neither a host's name nor an IP address")
    return x509.DNSName(name)


def _key_id(public_key: ec.EllipticCurvePublicKey) -> bytes:
    return key_id(Suite.P256, public_key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint))


def _whole_seconds(moment: datetime) -> datetime:
    """X.509 counts whole seconds in UTC; a date without a zone would be somebody's guess."""
    if moment.tzinfo is None:
        raise ValueError("certificate dates need a time zone")
    return moment.astimezone(UTC).replace(microsecond=0)
