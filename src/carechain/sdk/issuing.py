"""Writes the certificates that :mod:`carechain.core.certificate` reads: the same profile from the other side.

General libraries make no SM2 certificates, so these are put together here, byte for byte in the same way for every
suite. Nothing that leaves an authority was not read back first by the reader that all nodes use.
"""

from datetime import UTC, datetime
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec import Struct

from carechain.core import der, sm2
from carechain.core.certificate import ALGORITHM, KEY_PREFIX, ROLES_OID, UNCOMPRESSED
from carechain.core.crypto import SigningKey, Suite
from carechain.core.hashing import digest

_KEY_ID_SIZE: Final = 20
_VERSION_FIELD: Final = 0xA0
_EXTENSIONS_FIELD: Final = 0xA3
_KEY_ID_FIELD: Final = 0x80
_VERSION_3: Final = 2
_UTC_FROM_YEAR: Final = 1950
_GENERALIZED_FROM_YEAR: Final = 2050
_NO_UNUSED_BITS: Final = b"\x00"

_COMMON_NAME: Final = "2.5.4.3"
_ORGANISATION: Final = "2.5.4.10"
_SUBJECT_KEY_ID: Final = "2.5.29.14"
_KEY_USAGE: Final = "2.5.29.15"
_BASIC_CONSTRAINTS: Final = "2.5.29.19"
_AUTHORITY_KEY_ID: Final = "2.5.29.35"
_KEY_CERT_SIGN: Final = b"\x02\x04"
_DIGITAL_SIGNATURE: Final = b"\x07\x80"


class Terms(Struct, frozen=True, kw_only=True):
    """What a certificate says besides the names and keys: a positive serial number and the validity, to the second."""

    serial: int
    not_before: datetime
    not_after: datetime


def authority_certificate(key: SigningKey, organisation: bytes, terms: Terms) -> bytes:
    """An organisation's self-signed authority (DER)."""
    extensions = (
        _extension(
            _BASIC_CONSTRAINTS, der.value_of(der.BOOLEAN, der.TRUE), der.value_of(der.INTEGER, b"\x00"), critical=True
        ),
        _usage(_KEY_CERT_SIGN),
        _extension_of(_SUBJECT_KEY_ID, der.value_of(der.OCTET_STRING, key_id(key.suite, key.public_key))),
    )
    name = _name(organisation)
    return _signed(key, terms, issuer=name, subject=name, key_info=_key_info(key.suite, key.public_key), own=extensions)


def staff_certificate(
    authority: SigningKey,
    organisation: bytes,
    terms: Terms,
    *,
    party: bytes,
    suite: Suite,
    public_key: bytes,
    roles: int,
) -> bytes:
    """A member of staff's certificate (DER); raises ``ValueError`` for what is no key and for too wide a role mask."""
    if not 0 <= roles <= 0xFFFF:  # noqa: PLR2004 - two bytes
        raise ValueError("a role mask has 16 bits")
    issuer_id = key_id(authority.suite, authority.public_key)
    extensions = (
        _extension(_BASIC_CONSTRAINTS, critical=True),
        _usage(_DIGITAL_SIGNATURE),
        _extension(_AUTHORITY_KEY_ID, der.value_of(_KEY_ID_FIELD, issuer_id)),
        _extension_of(ROLES_OID, der.value_of(der.OCTET_STRING, roles.to_bytes(2, "big"))),
    )
    return _signed(
        authority,
        terms,
        issuer=_name(organisation),
        subject=_name(organisation, party),
        key_info=_key_info(suite, public_key),
        own=extensions,
    )


def key_id(suite: Suite, public_key: bytes) -> bytes:
    """The leftmost 160 bits of SHA-256 over the key (RFC 7093 section 2, method 1)."""
    return digest(_key_bits(suite, public_key))[:_KEY_ID_SIZE]


def _signed(
    key: SigningKey, terms: Terms, *, issuer: bytes, subject: bytes, key_info: bytes, own: tuple[bytes, ...]
) -> bytes:
    algorithm = ALGORITHM[key.suite]
    content = der.value_of(
        der.SEQUENCE,
        der.value_of(_VERSION_FIELD, der.integer(_VERSION_3)),
        der.integer(terms.serial),
        algorithm,
        issuer,
        der.value_of(der.SEQUENCE, _time(terms.not_before), _time(terms.not_after)),
        subject,
        key_info,
        der.value_of(_EXTENSIONS_FIELD, der.value_of(der.SEQUENCE, *own)),
    )
    signature = key.sign(content)
    if key.suite is not Suite.ED25519:
        r, s = (der.integer(int.from_bytes(half, "big")) for half in (signature[:32], signature[32:]))
        signature = der.value_of(der.SEQUENCE, r, s)
    return der.value_of(der.SEQUENCE, content, algorithm, der.value_of(der.BIT_STRING, _NO_UNUSED_BITS, signature))


def _key_info(suite: Suite, public_key: bytes) -> bytes:
    """The SubjectPublicKeyInfo; raises ``ValueError`` for what is no key."""
    bits = _key_bits(suite, public_key)
    return KEY_PREFIX[suite] + (bits if suite is Suite.ED25519 else bits.removeprefix(UNCOMPRESSED))


def _key_bits(suite: Suite, public_key: bytes) -> bytes:
    """The key as X.509 has it: as it is, or the point with both its coordinates."""
    if suite is Suite.ED25519:
        return public_key
    if suite is Suite.SM2:
        return UNCOMPRESSED + sm2.uncompressed(public_key)
    point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), public_key)
    return point.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def _name(organisation: bytes, party: bytes | None = None) -> bytes:
    pairs = [(_ORGANISATION, organisation)] + ([] if party is None else [(_COMMON_NAME, party)])
    return der.value_of(der.SEQUENCE, *(_attribute(dotted, value) for dotted, value in pairs))


def _attribute(dotted: str, value: bytes) -> bytes:
    text = der.value_of(der.UTF8_STRING, value.hex().encode("ascii"))
    return der.value_of(der.SET, der.value_of(der.SEQUENCE, _oid(dotted), text))


def _time(moment: datetime) -> bytes:
    """UTCTime until 2049, GeneralizedTime from 2050 (RFC 5280 section 4.1.2.5)."""
    utc = moment.astimezone(UTC)
    if utc.year < _UTC_FROM_YEAR:
        raise ValueError("certificates know no date before 1950")
    text = f"{utc:%Y%m%d%H%M%S}Z"
    if utc.year < _GENERALIZED_FROM_YEAR:
        return der.value_of(der.UTC_TIME, text[2:].encode("ascii"))
    return der.value_of(der.GENERALIZED_TIME, text.encode("ascii"))


def _usage(bits: bytes) -> bytes:
    return _extension_of(_KEY_USAGE, der.value_of(der.BIT_STRING, bits), critical=True)


def _extension(dotted: str, *parts: bytes, critical: bool = False) -> bytes:
    return _extension_of(dotted, der.value_of(der.SEQUENCE, *parts), critical=critical)


def _extension_of(dotted: str, value: bytes, *, critical: bool = False) -> bytes:
    flag = der.value_of(der.BOOLEAN, der.TRUE) if critical else b""
    return der.value_of(der.SEQUENCE, _oid(dotted), flag, der.value_of(der.OCTET_STRING, value))


def _oid(dotted: str) -> bytes:
    return der.value_of(der.OID, der.oid_content(dotted))
