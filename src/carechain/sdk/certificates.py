"""An organisation's own certificate authority: issues the X.509 certificates of its staff and servers (ID-1, LED-12).

Certificates are built with the ``cryptography`` library and read back with :mod:`carechain.core.certificate`, the
reader every node uses, before anyone sees them: what leaves here is known to be accepted. They carry ids and roles;
names stay in the organisation's own directory. Dates and randomness are arguments.
"""

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from msgspec import Struct

from carechain.core.certificate import ROLES_OID, Authority, read_authority, read_staff
from carechain.core.codec import Malformed, decode_strict, encode
from carechain.core.crypto import P256_ORDER, SEED_SIZE, Suite
from carechain.core.hashing import digest
from carechain.core.ids import PartyId
from carechain.core.rejection import Rejected
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
_KEY_ID_SIZE: Final = 20
_SERVER_NAME: Final = "node"
"""The common name of every server: who it is says the organisation's id, where it is say the alternative names."""
_ROLES_DER_PREFIX: Final = bytes.fromhex("0402")
_PrivateKey = Ed25519PrivateKey | ec.EllipticCurvePrivateKey
_PublicKey = Ed25519PublicKey | ec.EllipticCurvePublicKey


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
        builder = (
            _builder(
                _staff_key(suite, public_key),
                issuer=_name(self.organisation),
                subject=_name(self.organisation, party),
                entropy=entropy,
            )
            .not_valid_before(_whole_seconds(not_before))
            .not_valid_after(_whole_seconds(not_after))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(self._names_its_key(), critical=False)
            .add_extension(_roles_extension(roles), critical=False)
        )
        certificate = _sign(builder, _private_key(self.suite, self.seed))
        read_staff(certificate, self.certificate)
        return certificate

    def issue_server(
        self, hosts: Sequence[str], *, not_before: datetime, not_after: datetime, entropy: Entropy
    ) -> ServerCertificate:
        """A certificate for the organisation's servers, with a fresh P-256 key; also shown as a client (LED-12).

        ``hosts`` are the names and IP addresses that clients use. The key is on P-256 whatever the authority's own
        suite is, since not every TLS stack takes the others. Raises ``ValueError`` for no host or one that is none,
        and for an end after the authority's own.
        """
        if _whole_seconds(not_after) > datetime.fromtimestamp(self.authority().not_after_s, UTC):
            raise ValueError("a server's certificate cannot outlive its authority")
        if not hosts:
            raise ValueError("a server's certificate names at least one host")
        key = _private_key(Suite.P256, entropy(SEED_SIZE))
        public_key = key.public_key()
        purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = (
            _builder(
                public_key, issuer=_name(self.organisation), subject=_server_name(self.organisation), entropy=entropy
            )
            .not_valid_before(_whole_seconds(not_before))
            .not_valid_after(_whole_seconds(not_after))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(x509.SubjectAlternativeName([_host(one) for one in hosts]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier(_key_id(public_key)), critical=False)
            .add_extension(self._names_its_key(), critical=False)
        )
        certificate = _sign(builder, _private_key(self.suite, self.seed))
        return ServerCertificate(
            certificate=x509.load_der_x509_certificate(certificate).public_bytes(Encoding.PEM),
            key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        )

    def _names_its_key(self) -> x509.AuthorityKeyIdentifier:
        """What strict verifiers want in whatever the authority issues (RFC 5280 section 4.2.1.1)."""
        own = x509.load_der_x509_certificate(self.certificate).extensions
        try:
            named = own.get_extension_for_class(x509.SubjectKeyIdentifier).value
        except x509.ExtensionNotFound:
            named = x509.SubjectKeyIdentifier(_key_id(_private_key(self.suite, self.seed).public_key()))
        return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(named)

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
    private_key = _private_key(suite, seed)
    public_key = private_key.public_key()
    name = _name(organisation)
    builder = (
        _builder(public_key, issuer=name, subject=name, entropy=entropy)
        .not_valid_before(_whole_seconds(not_before))
        .not_valid_after(_whole_seconds(not_after))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier(_key_id(public_key)), critical=False)
    )
    certificate = _sign(builder, private_key)
    read_authority(certificate)
    return CertificateAuthority(organisation=organisation, suite=suite, seed=seed, certificate=certificate)


def _private_key(suite: Suite, seed: bytes) -> _PrivateKey:
    """The key that :class:`~carechain.core.crypto.SigningKey` makes of the same seed, as the library's object."""
    if suite is Suite.ED25519:
        return Ed25519PrivateKey.from_private_bytes(seed)
    return ec.derive_private_key(int.from_bytes(seed, "big") % (P256_ORDER - 1) + 1, ec.SECP256R1())


def _staff_key(suite: Suite, public_key: bytes) -> _PublicKey:
    if suite is Suite.ED25519:
        return Ed25519PublicKey.from_public_bytes(public_key)
    return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), public_key)


def _builder(
    public_key: _PublicKey, *, issuer: x509.Name, subject: x509.Name, entropy: Entropy
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(subject)
        .public_key(public_key)
        .serial_number(_serial(entropy(_SERIAL_SIZE)))
    )


def _serial(random: bytes) -> int:
    """Positive and always eight bytes long, with 62 random bits (RFC 5280 section 4.1.2.2 allows twenty bytes)."""
    return int.from_bytes(random, "big") >> 2 | 1 << 62


def _name(organisation: bytes, party: bytes | None = None) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation.hex())]
    if party is not None:
        attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, party.hex()))
    return x509.Name(attributes)


def _server_name(organisation: bytes) -> x509.Name:
    """No staff's name: the ledger's reader wants a party's id in its place, so a server can never be enrolled."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation.hex()),
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


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _roles_extension(roles: int) -> x509.UnrecognizedExtension:
    """The role mask as a DER OCTET STRING of two bytes; raises ``ValueError`` when it does not fit."""
    if not 0 <= roles <= 0xFFFF:  # noqa: PLR2004 - two bytes
        raise ValueError("a role mask has 16 bits")
    return x509.UnrecognizedExtension(
        x509.ObjectIdentifier(ROLES_OID), _ROLES_DER_PREFIX + roles.to_bytes(len(_ROLES_DER_PREFIX), "big")
    )


def _key_id(public_key: _PublicKey) -> bytes:
    """The leftmost 160 bits of SHA-256 over the key (RFC 7093 section 2, method 1)."""
    if isinstance(public_key, Ed25519PublicKey):
        return digest(public_key.public_bytes_raw())[:_KEY_ID_SIZE]
    return digest(public_key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))[:_KEY_ID_SIZE]


def _sign(builder: x509.CertificateBuilder, private_key: _PrivateKey) -> bytes:
    algorithm = None if isinstance(private_key, Ed25519PrivateKey) else SHA256()
    return builder.sign(private_key, algorithm).public_bytes(Encoding.DER)


def _whole_seconds(moment: datetime) -> datetime:
    """X.509 counts whole seconds in UTC; a date without a zone would be somebody's guess."""
    if moment.tzinfo is None:
        raise ValueError("certificate dates need a time zone")
    return moment.astimezone(UTC).replace(microsecond=0)
