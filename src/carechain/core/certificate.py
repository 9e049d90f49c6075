"""X.509 certificates of organisations and their staff, read strictly (ID-1, ID-9; RFC 5280).

Keys and signatures are of the ledger's suites: Ed25519 (RFC 8410), P-256 (RFC 5480), SM2 with SM3 (GM/T 0006, 0015).
Every node judges the same certificate, so this reader is part of the protocol: it is our own, accepts one
profile in one encoding (DER) and refuses everything else, so that two versions of a general library can never
part two nodes. There is no clock here: validity is returned in seconds and judged by the caller.

Profile of an authority: version 3, self-signed, issuer = subject = ``O=<organisation id in hex>``, basic
constraints (critical) CA with path length 0, key usage (critical) keyCertSign, optionally cRLSign.
Profile of staff: issuer as above, subject ``O=<organisation id in hex>, CN=<party id in hex>``, basic constraints
(critical) not a CA, key usage (critical) digitalSignature, and the roles extension :data:`ROLES_OID` whose value is
an OCTET STRING of two bytes, the big-endian mask of :class:`~carechain.core.vocabulary.Role`.
Both may carry key identifiers; any other extension is refused, since it is where a personal name could travel.
"""

from enum import StrEnum
from typing import Final, NoReturn

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec import Struct

from carechain.core import sm2
from carechain.core.crypto import P256_ORDER, BadSignature, Suite, verify
from carechain.core.der import (
    BIT_STRING,
    BOOLEAN,
    GENERALIZED_TIME,
    INTEGER,
    OCTET_STRING,
    OID,
    SEQUENCE,
    SET,
    TRUE,
    UTC_TIME,
    UTF8_STRING,
    BadDer,
    Reader,
    oid_content,
    positive,
)
from carechain.core.ids import PartyId
from carechain.core.limits import CERTIFICATE_SIZE_BYTES, ID_SIZE, STAFF_ROLES
from carechain.core.units import DAY_S
from carechain.core.vocabulary import ALL_ROLES, subset

ROLES_OID: Final = "2.25.243423551255766523214276952838184484887"
"""The roles extension: an arc made from a random UUID (ITU-T X.667), so no registration authority is needed."""

_VERSION_FIELD: Final = 0xA0
_EXTENSIONS_FIELD: Final = 0xA3

_VERSION_3: Final = bytes.fromhex("020102")
_OID_COMMON_NAME: Final = bytes.fromhex("550403")
_OID_ORGANISATION: Final = bytes.fromhex("55040a")
_OID_BASIC_CONSTRAINTS: Final = bytes.fromhex("551d13")
_OID_KEY_USAGE: Final = bytes.fromhex("551d0f")
_OID_SUBJECT_KEY_ID: Final = bytes.fromhex("551d0e")
_OID_AUTHORITY_KEY_ID: Final = bytes.fromhex("551d23")

_CA_WITH_PATH_LENGTH_0: Final = bytes.fromhex("30060101ff020100")
_NOT_A_CA: Final = bytes.fromhex("3000")
_KEY_CERT_SIGN: Final = (bytes.fromhex("03020204"), bytes.fromhex("03020106"))
_DIGITAL_SIGNATURE: Final = (bytes.fromhex("03020780"),)

ALGORITHM: Final = {
    Suite.ED25519: bytes.fromhex("300506032b6570"),
    Suite.P256: bytes.fromhex("300a06082a8648ce3d040302"),
    Suite.SM2: bytes.fromhex("300a06082a811ccf55018375"),
}
"""What a certificate says of the signature on it: the whole AlgorithmIdentifier."""
KEY_PREFIX: Final = {
    Suite.ED25519: bytes.fromhex("302a300506032b6570032100"),
    Suite.P256: bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004"),
    Suite.SM2: bytes.fromhex("3059301306072a8648ce3d020106082a811ccf5501822d03420004"),
}
"""What stands before a key's 32 bytes, or before the two coordinates of a point."""
UNCOMPRESSED: Final = b"\x04"
_KEY_BYTES: Final = {Suite.ED25519: 32, Suite.P256: 64, Suite.SM2: 64}

_SERIAL_BYTES: Final = 20
_KEY_ID_BYTES: Final = 32
_ROLES_BYTES: Final = 2
_UTC_PIVOT: Final = 50
_GENERALIZED_FROM_YEAR: Final = 2050
_MONTHS: Final = 12
_FEBRUARY: Final = 2
_UTC_DIGITS: Final = 12
_GENERALIZED_DIGITS: Final = 14


_OID_ROLES: Final = oid_content(ROLES_OID)


class CertificateFault(StrEnum):
    """Which check a certificate failed; safe to log, since it never repeats the certificate's content."""

    SIZE = "size"
    ENCODING = "encoding"
    PROFILE = "profile"
    NAME = "name"
    KEY = "key"
    VALIDITY = "validity"
    ROLES = "roles"
    ISSUER = "issuer"
    SIGNATURE = "signature"


class BadCertificate(Exception):  # noqa: N818 - names what is wrong with the argument
    """The bytes are not a certificate of this profile, or its signature does not hold."""

    def __init__(self, reason: CertificateFault) -> None:
        super().__init__(reason.value)
        self.reason = reason


class Authority(Struct, frozen=True, kw_only=True):
    """An organisation's certificate authority. Times are Unix seconds; both ends are inside (RFC 5280 4.1.2.5)."""

    organisation: PartyId
    suite: Suite
    public_key: bytes
    not_before_s: int
    not_after_s: int
    serial: int

    @property
    def until_s(self) -> int:
        """The first second after the validity: the ledger names every end by the second that is no longer inside."""
        return self.not_after_s + 1


class StaffCertificate(Struct, frozen=True, kw_only=True):
    """What an organisation says about one of its staff's keys.

    ``party`` is the subject's id as written by the organisation: equal to the hash of the key for a first
    certificate, and the older id after a rotation, which is why the caller and not this reader compares them.
    Times are those of :class:`Authority`: both ends are inside.
    """

    party: PartyId
    organisation: PartyId
    suite: Suite
    public_key: bytes
    roles: int
    not_before_s: int
    not_after_s: int
    serial: int

    @property
    def until_s(self) -> int:
        """The first second after the validity, as a party's row has it."""
        return self.not_after_s + 1


def read_authority(der: bytes) -> Authority:
    """Read and verify a self-signed authority certificate; raises :class:`BadCertificate`."""
    try:
        return _read_authority(der)
    except BadDer:
        raise BadCertificate(CertificateFault.ENCODING) from None


def _read_authority(der: bytes) -> Authority:
    parsed = _parse(der)
    (organisation,) = _name(parsed.subject, _OID_ORGANISATION)
    _check(parsed.issuer == parsed.subject, CertificateFault.ISSUER)
    _constrain(parsed.extensions, basic=_CA_WITH_PATH_LENGTH_0, usages=_KEY_CERT_SIGN)
    _check(not parsed.extensions, CertificateFault.PROFILE)
    _verify(parsed, parsed.suite, parsed.public_key)
    return Authority(
        organisation=organisation,
        suite=parsed.suite,
        public_key=parsed.public_key,
        not_before_s=parsed.not_before_s,
        not_after_s=parsed.not_after_s,
        serial=parsed.serial,
    )


def read_staff(der: bytes, authority_der: bytes) -> StaffCertificate:
    """Read a staff certificate and verify that this authority issued it; raises :class:`BadCertificate`.

    Whether either is valid at some time is for the caller, who knows block time: both must be when the ledger takes
    the staff certificate. An issuer may renew its own certificate under the same key, so the two validity periods
    need not be nested, and staff stay until the end of their own.
    """
    try:
        return _read_staff(der, _read_authority(authority_der))
    except BadDer:
        raise BadCertificate(CertificateFault.ENCODING) from None


def _read_staff(der: bytes, authority: Authority) -> StaffCertificate:
    parsed = _parse(der)
    (issuer,) = _name(parsed.issuer, _OID_ORGANISATION)
    organisation, party = _name(parsed.subject, _OID_ORGANISATION, _OID_COMMON_NAME)
    _check(issuer == organisation == authority.organisation, CertificateFault.ISSUER)
    roles = _roles(parsed.extensions)
    _constrain(parsed.extensions, basic=_NOT_A_CA, usages=_DIGITAL_SIGNATURE)
    _check(not parsed.extensions, CertificateFault.PROFILE)
    _verify(parsed, authority.suite, authority.public_key)
    return StaffCertificate(
        party=party,
        organisation=organisation,
        suite=parsed.suite,
        public_key=parsed.public_key,
        roles=roles,
        not_before_s=parsed.not_before_s,
        not_after_s=parsed.not_after_s,
        serial=parsed.serial,
    )


# --- the parts of a certificate -------------------------------------------------------------------------
class _Extension(Struct, frozen=True):
    critical: bool
    value: bytes


class _Parsed(Struct, kw_only=True):
    """A certificate's fields before any profile is applied; ``extensions`` is emptied as they are consumed."""

    signed: bytes
    algorithm: bytes
    signature: bytes
    serial: int
    issuer: bytes
    subject: bytes
    not_before_s: int
    not_after_s: int
    suite: Suite
    public_key: bytes
    extensions: dict[bytes, _Extension]


def _parse(der: bytes) -> _Parsed:
    _check(0 < len(der) <= CERTIFICATE_SIZE_BYTES, CertificateFault.SIZE)
    outer = Reader(der)
    certificate = Reader(outer.take(SEQUENCE))
    outer.finish()
    signed = certificate.whole(SEQUENCE)
    algorithm = certificate.whole(SEQUENCE)
    signature = certificate.take(BIT_STRING)
    certificate.finish()
    _check(signature[:1] == b"\x00", CertificateFault.ENCODING)

    fields = Reader(Reader(signed).take(SEQUENCE))
    _check(fields.take(_VERSION_FIELD) == _VERSION_3, CertificateFault.PROFILE)
    serial = fields.take(INTEGER)
    _check(fields.whole(SEQUENCE) == algorithm, CertificateFault.PROFILE)
    issuer = fields.whole(SEQUENCE)
    validity = Reader(fields.take(SEQUENCE))
    not_before_s, not_after_s = _time(validity), _time(validity)
    validity.finish()
    _check(not_before_s < not_after_s, CertificateFault.VALIDITY)
    subject = fields.whole(SEQUENCE)
    suite, public_key = _public_key(fields.whole(SEQUENCE))
    extensions = _extensions(fields.take(_EXTENSIONS_FIELD))
    fields.finish()
    return _Parsed(
        signed=signed,
        algorithm=algorithm,
        signature=signature[1:],
        serial=positive(serial, _SERIAL_BYTES),
        issuer=issuer,
        subject=subject,
        not_before_s=not_before_s,
        not_after_s=not_after_s,
        suite=suite,
        public_key=public_key,
        extensions=extensions,
    )


def _name(encoded: bytes, *attributes: bytes) -> list[bytes]:
    """The ids of a distinguished name that has exactly these attributes in this order."""
    names = Reader(Reader(encoded).take(SEQUENCE))
    ids: list[bytes] = []
    for attribute in attributes:
        relative = Reader(names.take(SET))
        pair = Reader(relative.take(SEQUENCE))
        relative.finish()
        _check(pair.take(OID) == attribute, CertificateFault.NAME)
        ids.append(_hex_id(pair.take(UTF8_STRING)))
        pair.finish()
    names.finish()
    return ids


def _hex_id(text: bytes) -> bytes:
    """An id from its lower-case hexadecimal form, the only text a name may hold."""
    well_formed = len(text) == 2 * ID_SIZE and all(symbol in b"0123456789abcdef" for symbol in text)
    _check(well_formed, CertificateFault.NAME)
    return bytes.fromhex(text.decode("ascii"))


def _public_key(encoded: bytes) -> tuple[Suite, bytes]:
    """The suite and the key as the ledger writes it: 32 bytes, or a 33-byte compressed point."""
    suite = next((one for one, prefix in KEY_PREFIX.items() if encoded.startswith(prefix)), None)
    if suite is None or len(encoded) != len(KEY_PREFIX[suite]) + _KEY_BYTES[suite]:
        _refuse(CertificateFault.KEY)
    key = encoded[len(KEY_PREFIX[suite]) :]
    return suite, key if suite is Suite.ED25519 else _point(suite, key)


def _point(suite: Suite, coordinates: bytes) -> bytes:
    """The curve equation has to be checked before the point is shortened to one coordinate and a sign."""
    try:
        if suite is Suite.SM2:
            return sm2.compressed(coordinates)
        point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), UNCOMPRESSED + coordinates)
    except ValueError:
        _refuse(CertificateFault.KEY)
    return point.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)


def _extensions(encoded: bytes) -> dict[bytes, _Extension]:
    outer = Reader(encoded)
    listed = Reader(outer.take(SEQUENCE))
    outer.finish()
    found: dict[bytes, _Extension] = {}
    while listed.more():
        one = Reader(listed.take(SEQUENCE))
        oid = one.take(OID)
        critical = one.peek() == BOOLEAN
        if critical:
            _check(one.take(BOOLEAN) == TRUE, CertificateFault.ENCODING)
        value = one.take(OCTET_STRING)
        one.finish()
        _check(oid not in found, CertificateFault.PROFILE)
        found[oid] = _Extension(critical, value)
    return found


def _constrain(extensions: dict[bytes, _Extension], *, basic: bytes, usages: tuple[bytes, ...]) -> None:
    """Consume the two mandatory extensions and the two optional key identifiers."""
    constraints = extensions.pop(_OID_BASIC_CONSTRAINTS, None)
    usage = extensions.pop(_OID_KEY_USAGE, None)
    _check(constraints == _Extension(critical=True, value=basic), CertificateFault.PROFILE)
    _check(usage is not None and usage.critical and usage.value in usages, CertificateFault.PROFILE)
    subject_key = extensions.pop(_OID_SUBJECT_KEY_ID, None)
    if subject_key is not None:
        _check_key_id(subject_key, Reader(subject_key.value), OCTET_STRING)
    authority_key = extensions.pop(_OID_AUTHORITY_KEY_ID, None)
    if authority_key is not None:
        outer = Reader(authority_key.value)
        inner = Reader(outer.take(SEQUENCE))
        outer.finish()
        _check_key_id(authority_key, inner, 0x80)


def _check_key_id(extension: _Extension, reader: Reader, tag: int) -> None:
    """A key identifier is short and never critical; nothing is looked up by it."""
    _check(0 < len(reader.take(tag)) <= _KEY_ID_BYTES and not extension.critical, CertificateFault.PROFILE)
    reader.finish()


def _roles(extensions: dict[bytes, _Extension]) -> int:
    """The role mask: at least one known role and at most ``STAFF_ROLES``. Not critical, so TLS stacks accept it."""
    extension = extensions.pop(_OID_ROLES, None)
    if extension is None or extension.critical:
        _refuse(CertificateFault.ROLES)
    reader = Reader(extension.value)
    content = reader.take(OCTET_STRING)
    reader.finish()
    roles = int.from_bytes(content, "big")
    known = len(content) == _ROLES_BYTES and roles > 0 and subset(roles, ALL_ROLES)
    _check(known and roles.bit_count() <= STAFF_ROLES, CertificateFault.ROLES)
    return roles


def _verify(parsed: _Parsed, suite: Suite, public_key: bytes) -> None:
    _check(parsed.algorithm == ALGORITHM[suite], CertificateFault.SIGNATURE)
    signature = parsed.signature if suite is Suite.ED25519 else _fixed_width(suite, parsed.signature)
    try:
        verify(suite=suite, public_key=public_key, signature=signature, message=parsed.signed)
    except BadSignature:
        _refuse(CertificateFault.SIGNATURE)


def _fixed_width(suite: Suite, signature: bytes) -> bytes:
    """A signature of two numbers as ``r || s``, on P-256 with low s.

    Common CA software writes either of the two values of s that are valid on P-256. A certificate is known by its
    content, never by its signature bytes, so both are taken here, unlike in a transaction.
    """
    outer = Reader(signature)
    pair = Reader(outer.take(SEQUENCE))
    outer.finish()
    r, s = positive(pair.take(INTEGER), 33), positive(pair.take(INTEGER), 33)
    pair.finish()
    order = sm2.ORDER if suite is Suite.SM2 else P256_ORDER
    _check(r < order and s < order, CertificateFault.SIGNATURE)
    low = s if suite is Suite.SM2 else min(s, P256_ORDER - s)
    return r.to_bytes(32, "big") + low.to_bytes(32, "big")


def _time(reader: Reader) -> int:
    """Unix seconds of a validity date: UTCTime until 2049, GeneralizedTime from 2050 (RFC 5280 section 4.1.2.5)."""
    short = reader.peek() == UTC_TIME
    text = reader.take(UTC_TIME if short else GENERALIZED_TIME)
    digits = _UTC_DIGITS if short else _GENERALIZED_DIGITS
    well_formed = len(text) == digits + 1 and text.endswith(b"Z") and all(0x30 <= one <= 0x39 for one in text[:-1])  # noqa: PLR2004 - '0' and '9'
    _check(well_formed, CertificateFault.VALIDITY)
    year = int(text[: digits - 10])
    if short:
        year += 2000 if year < _UTC_PIVOT else 1900
    _check(short or year >= _GENERALIZED_FROM_YEAR, CertificateFault.VALIDITY)
    month, day, hour, minute, second = (int(text[at : at + 2]) for at in range(digits - 10, digits, 2))
    in_range = 1 <= month <= _MONTHS and 1 <= day <= _days_of(year, month) and hour < 24 and minute < 60 and second < 60  # noqa: PLR2004 - a clock
    _check(in_range, CertificateFault.VALIDITY)
    seconds = _days_since_1970(year, month, day) * DAY_S + hour * 3600 + minute * 60 + second
    _check(seconds >= 0, CertificateFault.VALIDITY)
    return seconds


def _is_leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def _days_of(year: int, month: int) -> int:
    if month == _FEBRUARY and _is_leap(year):
        return 29
    return (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)[month - 1]


def _days_since_1970(year: int, month: int, day: int) -> int:
    """Days in the Gregorian calendar, counted with integers so that no clock module is needed."""
    before = year - 1
    days = before * 365 + before // 4 - before // 100 + before // 400 - 719_162
    return days + sum(_days_of(year, earlier) for earlier in range(1, month)) + day - 1


def _check(condition: object, reason: CertificateFault) -> None:
    if not condition:
        _refuse(reason)


def _refuse(reason: CertificateFault) -> NoReturn:
    raise BadCertificate(reason) from None
