"""Goal: an organisation's certificates say exactly what the profile allows, and nothing else passes (ID-1, ID-9).

Method: certificates are issued by the SDK, read by the ledger's own reader and cross-checked with the ``cryptography``
library. Then every bit is flipped, every length cut, and foreign certificates built with the library violate the
profile one rule at a time.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import gmssl_pyx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from carechain.core import sm2
from carechain.core.certificate import (
    ALGORITHM,
    KEY_PREFIX,
    ROLES_OID,
    BadCertificate,
    CertificateFault,
    read_authority,
    read_staff,
)
from carechain.core.crypto import SigningKey, Suite
from carechain.core.der import BIT_STRING, SEQUENCE, Reader, integer, value_of
from carechain.core.ids import party_id
from carechain.core.limits import CERTIFICATE_SIZE_BYTES
from carechain.core.rejection import Rejected
from carechain.core.vocabulary import Role, mask
from carechain.sdk.certificates import CertificateAuthority
from carechain.sdk.keyfile import Entropy, WalletCode, encode_key_file
from carechain.sealing.symmetric import ScryptCost

START, END = datetime(2026, 1, 1, tzinfo=UTC), datetime(2031, 1, 1, tzinfo=UTC)
HOSPITAL, CLINIC = b"A" * 32, b"B" * 32
ROLES = mask(Role.DOCTOR, Role.ORGANISATION_ADMIN)
STAFF = SigningKey(suite=Suite.ED25519, seed=bytes(range(32)))
PARTY = party_id(STAFF.suite, STAFF.public_key)


def authority(entropy: Entropy, organisation: bytes = HOSPITAL, suite: Suite = Suite.ED25519) -> CertificateAuthority:
    return CertificateAuthority.create(organisation, not_before=START, not_after=END, entropy=entropy, suite=suite)


def issue(ca: CertificateAuthority, entropy: Entropy, key: SigningKey = STAFF, roles: int = ROLES) -> bytes:
    return ca.issue(
        party_id(key.suite, key.public_key),
        suite=key.suite,
        public_key=key.public_key,
        roles=roles,
        not_before=START,
        not_after=START + timedelta(days=365),
        entropy=entropy,
    )


def fault(read: Callable[[], object]) -> CertificateFault:
    with pytest.raises(BadCertificate) as caught:
        read()
    assert str(caught.value) == caught.value.reason.value
    return caught.value.reason


# --- what is issued -------------------------------------------------------------------------------------
@pytest.mark.parametrize("authority_suite", list(Suite))
@pytest.mark.parametrize("staff_suite", list(Suite))
def test_issued_certificates_say_what_they_should(entropy: Entropy, authority_suite: Suite, staff_suite: Suite) -> None:
    ca = authority(entropy, suite=authority_suite)
    key = SigningKey(suite=staff_suite, seed=bytes(range(32)))
    # Eight of each, since an ECDSA signature takes the high or the low form by chance.
    for _ in range(8):
        der = issue(ca, entropy, key)
        read = read_staff(der, ca.certificate)
        assert (read.party, read.organisation) == (party_id(staff_suite, key.public_key), HOSPITAL)
        assert (read.suite, read.public_key, read.roles) == (staff_suite, key.public_key, ROLES)
        assert read.not_before_s == int(START.timestamp())
        assert read.not_after_s == int(START.timestamp()) + 365 * 86_400
    top = ca.authority()
    assert (top.organisation, top.suite) == (HOSPITAL, authority_suite)
    assert top.public_key == SigningKey(suite=authority_suite, seed=ca.seed).public_key
    assert (top.not_before_s, top.not_after_s) == (int(START.timestamp()), int(END.timestamp()))


@pytest.mark.parametrize("suite", [Suite.ED25519, Suite.P256])
def test_the_library_agrees(entropy: Entropy, suite: Suite) -> None:
    ca = authority(entropy, suite=suite)
    top, staff = (x509.load_der_x509_certificate(der) for der in (ca.certificate, issue(ca, entropy)))
    staff.verify_directly_issued_by(top)
    top.verify_directly_issued_by(top)
    assert staff.serial_number == read_staff(issue_bytes(staff), ca.certificate).serial
    assert [one.value for one in staff.subject] == [HOSPITAL.hex(), PARTY.hex()]
    assert top.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    roles = staff.extensions.get_extension_for_oid(x509.ObjectIdentifier(ROLES_OID))
    assert isinstance(roles.value, x509.UnrecognizedExtension)
    assert roles.value.value == b"\x04\x02" + ROLES.to_bytes(2, "big")


@pytest.mark.parametrize("staff_suite", list(Suite))
def test_another_library_agrees_on_sm2(entropy: Entropy, staff_suite: Suite) -> None:
    """The fields are read by one library, and the signatures, with the standard's signer id, by another."""
    ca = authority(entropy, suite=Suite.SM2)
    key = SigningKey(suite=staff_suite, seed=bytes(range(32)))
    signed_by = sm2.uncompressed(ca.authority().public_key)
    for der, name in ((ca.certificate, HOSPITAL), (issue(ca, entropy, key), party_id(key.suite, key.public_key))):
        read = x509.load_der_x509_certificate(der)
        assert read.signature_algorithm_oid.dotted_string == "1.2.156.10197.1.501"
        assert list(read.subject)[-1].value == name.hex()
        assert gmssl_pyx.sm2_verify(signed_by, read.tbs_certificate_bytes, read.signature)
    own = x509.load_der_x509_certificate(ca.certificate)
    named = x509.load_der_x509_certificate(issue(ca, entropy, key)).extensions
    issuer_key = named.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    assert issuer_key == own.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest


def issue_bytes(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def test_certificates_are_small(entropy: Entropy) -> None:
    ca = authority(entropy)
    assert len(ca.certificate) < 410
    assert len(issue(ca, entropy)) < 520


def test_dates_are_read_as_the_calendar_has_them(entropy: Entropy) -> None:
    last = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    for moment in (
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(1999, 12, 31, 23, 59, 59, tzinfo=UTC),
        datetime(2000, 2, 29, 12, 30, 1, tzinfo=UTC),
        datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC),
        datetime(2050, 1, 1, tzinfo=UTC),
        datetime(2100, 3, 1, tzinfo=UTC),
        datetime(2400, 2, 29, 1, 2, 3, tzinfo=UTC),
    ):
        ca = CertificateAuthority.create(HOSPITAL, not_before=moment, not_after=last, entropy=entropy)
        assert ca.authority().not_before_s == int(moment.timestamp())
        assert ca.authority().not_after_s == int(last.timestamp())


def test_other_time_zones_mean_the_same_moment_and_none_is_refused(entropy: Entropy) -> None:
    east = datetime.fromisoformat("2026-01-01T08:00:00.9+08:00")
    ca = CertificateAuthority.create(HOSPITAL, not_before=east, not_after=END, entropy=entropy)
    assert ca.authority().not_before_s == int(START.timestamp())
    with pytest.raises(ValueError, match="time zone"):
        CertificateAuthority.create(HOSPITAL, not_before=START.replace(tzinfo=None), not_after=END, entropy=entropy)


def test_what_must_not_be_issued_is_not(entropy: Entropy) -> None:
    ca = authority(entropy)
    assert fault(lambda: issue(ca, entropy, roles=0)) is CertificateFault.ROLES
    with pytest.raises(ValueError, match="16 bits"):
        issue(ca, entropy, roles=1 << 16)
    with pytest.raises(ValueError, match="outlive"):
        ca.issue(
            PARTY,
            suite=STAFF.suite,
            public_key=STAFF.public_key,
            roles=ROLES,
            not_before=START,
            not_after=END + timedelta(seconds=1),
            entropy=entropy,
        )
    with pytest.raises(ValueError, match=r".*"):
        ca.issue(
            PARTY, suite=Suite.P256, public_key=bytes(33), roles=ROLES, not_before=START, not_after=END, entropy=entropy
        )


def test_the_authority_survives_its_file(tmp_path: Path, entropy: Entropy, cheap: ScryptCost) -> None:
    ca = authority(entropy)
    ca.save(tmp_path / "ca.keys", password="pw", entropy=entropy, cost=cheap)
    assert CertificateAuthority.load(tmp_path / "ca.keys", password="pw") == ca
    assert repr(ca.seed) not in repr(ca)
    data = encode_key_file(b"\x90", kind="authority", password="pw", entropy=entropy, cost=cheap)
    with pytest.raises(Rejected) as caught:
        CertificateAuthority.from_bytes(data, password="pw")
    assert caught.value.code is WalletCode.FILE_DAMAGED


# --- what is refused ------------------------------------------------------------------------------------
@pytest.mark.parametrize("suite", list(Suite))
def test_every_altered_bit_and_every_cut_is_refused(entropy: Entropy, suite: Suite) -> None:
    ca = authority(entropy, suite=suite)
    der = issue(ca, entropy)
    # Of every byte all bits, or one of them where checking takes long.
    for bit in range(0, 8 * len(der), 9 if suite is Suite.SM2 else 1):
        altered = bytearray(der)
        altered[bit // 8] ^= 1 << bit % 8
        fault(lambda wrong=bytes(altered): read_staff(wrong, ca.certificate))  # type: ignore[misc]
    for size in range(len(der)):
        fault(lambda wrong=der[:size]: read_staff(wrong, ca.certificate))  # type: ignore[misc]
    for size in range(len(ca.certificate)):
        fault(lambda wrong=ca.certificate[:size]: read_authority(wrong))  # type: ignore[misc]
    assert fault(lambda: read_staff(der + b"\x00", ca.certificate)) is CertificateFault.ENCODING


def test_size_is_bounded(entropy: Entropy) -> None:
    ca = authority(entropy)
    assert fault(lambda: read_authority(bytes(CERTIFICATE_SIZE_BYTES + 1))) is CertificateFault.SIZE
    assert fault(lambda: read_staff(b"", ca.certificate)) is CertificateFault.SIZE


def test_another_authority_is_refused(entropy: Entropy) -> None:
    ca = authority(entropy)
    der = issue(ca, entropy)
    assert fault(lambda: read_staff(der, authority(entropy).certificate)) is CertificateFault.SIGNATURE
    assert fault(lambda: read_staff(der, authority(entropy, CLINIC).certificate)) is CertificateFault.ISSUER
    for suite in (Suite.P256, Suite.SM2):
        other = authority(entropy, suite=suite)
        assert fault(lambda ca=other: read_staff(der, ca.certificate)) is CertificateFault.SIGNATURE  # type: ignore[misc]


def test_the_two_kinds_are_not_confused(entropy: Entropy) -> None:
    ca = authority(entropy)
    der = issue(ca, entropy)
    assert fault(lambda: read_authority(der)) in {CertificateFault.ENCODING, CertificateFault.NAME}
    assert fault(lambda: read_staff(ca.certificate, ca.certificate)) is CertificateFault.ENCODING
    assert fault(lambda: read_staff(der, der)) is CertificateFault.ENCODING


class Foreign:
    """A certificate built with the library, right in everything but what a test changes."""

    def __init__(self, ca: CertificateAuthority) -> None:
        self.authority = ca
        self.key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey = ed25519.Ed25519PrivateKey.from_private_bytes(
            ca.seed
        )
        self.public: ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey = ed25519.Ed25519PublicKey.from_public_bytes(
            STAFF.public_key
        )
        self.issuer = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, HOSPITAL.hex())]
        self.subject = [*self.issuer, x509.NameAttribute(NameOID.COMMON_NAME, PARTY.hex())]
        self.dates = (START, END)
        self.extensions: list[tuple[x509.ExtensionType, bool]] = [
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (usage(), True),
            (roles(ROLES.to_bytes(2, "big")), False),
        ]

    def build(self, algorithm: SHA256 | SHA384 | None = None) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .issuer_name(x509.Name(self.issuer))
            .subject_name(x509.Name(self.subject))
            .public_key(self.public)
            .serial_number(1)
            .not_valid_before(self.dates[0])
            .not_valid_after(self.dates[1])
        )
        for extension, critical in self.extensions:
            builder = builder.add_extension(extension, critical=critical)
        built = builder.sign(self.key, algorithm).public_bytes(Encoding.DER)
        return signed_with_sm2(built, self.authority.seed) if self.authority.suite is Suite.SM2 else built


def signed_with_sm2(certificate: bytes, seed: bytes) -> bytes:
    """The same certificate, said to be signed with SM2 and so signed: the library itself cannot."""
    old, new = ALGORITHM[Suite.ED25519], ALGORITHM[Suite.SM2]
    fields = Reader(Reader(certificate).take(SEQUENCE)).take(SEQUENCE)
    content = value_of(SEQUENCE, fields.replace(old, new, 1))
    signature = SigningKey(suite=Suite.SM2, seed=seed).sign(content)
    r, s = (integer(int.from_bytes(half, "big")) for half in (signature[:32], signature[32:]))
    return value_of(SEQUENCE, content, new, value_of(BIT_STRING, b"\x00", value_of(SEQUENCE, r, s)))


def usage(**changed: bool) -> x509.KeyUsage:
    names = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign crl_sign"
        " encipher_only decipher_only"
    )
    values = {**dict.fromkeys(names.split(), False), "digital_signature": True, **changed}
    return x509.KeyUsage(**values)


def roles(value: bytes) -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(ROLES_OID), bytes([4, len(value)]) + value)


def _unknown_extension(one: Foreign) -> None:
    one.extensions.append((x509.SubjectAlternativeName([x509.RFC822Name("carl@example.org")]), False))


def _personal_name(one: Foreign) -> None:
    one.subject[1] = x509.NameAttribute(NameOID.COMMON_NAME, "Carl Savem 王小明")


def _extra_name(one: Foreign) -> None:
    one.subject.append(x509.NameAttribute(NameOID.SURNAME, "Savem"))


def _upper_case_name(one: Foreign) -> None:
    one.subject[1] = x509.NameAttribute(NameOID.COMMON_NAME, PARTY.hex().upper())


def _other_organisation(one: Foreign) -> None:
    one.subject[0] = x509.NameAttribute(NameOID.ORGANIZATION_NAME, CLINIC.hex())


def _is_a_ca(one: Foreign) -> None:
    one.extensions[0] = (x509.BasicConstraints(ca=True, path_length=None), True)


def _constraints_not_critical(one: Foreign) -> None:
    one.extensions[0] = (x509.BasicConstraints(ca=False, path_length=None), False)


def _no_constraints(one: Foreign) -> None:
    del one.extensions[0]


def _wide_usage(one: Foreign) -> None:
    one.extensions[1] = (usage(key_agreement=True), True)


def _no_usage(one: Foreign) -> None:
    del one.extensions[1]


def _no_roles(one: Foreign) -> None:
    del one.extensions[2]


def _critical_roles(one: Foreign) -> None:
    one.extensions[2] = (one.extensions[2][0], True)


def _unknown_role(one: Foreign) -> None:
    one.extensions[2] = (roles(b"\x80\x00"), False)


def _empty_roles(one: Foreign) -> None:
    one.extensions[2] = (roles(b"\x00\x00"), False)


def _long_roles(one: Foreign) -> None:
    one.extensions[2] = (roles(b"\x00\x00\x04"), False)


def _too_many_roles(one: Foreign) -> None:
    one.extensions[2] = (roles(b"\x07\xff"), False)


def _ends_as_it_starts(one: Foreign) -> None:
    one.dates = (START, START)


def _before_1970(one: Foreign) -> None:
    one.dates = (datetime(1969, 12, 31, tzinfo=UTC), END)


def _other_curve(one: Foreign) -> None:
    one.public = ec.generate_private_key(ec.SECP384R1()).public_key()


def _long_key_identifier(one: Foreign) -> None:
    one.extensions.append((x509.SubjectKeyIdentifier(bytes(33)), False))


VIOLATIONS = [
    (_unknown_extension, CertificateFault.PROFILE),
    (_personal_name, CertificateFault.NAME),
    (_extra_name, CertificateFault.ENCODING),
    (_upper_case_name, CertificateFault.NAME),
    (_other_organisation, CertificateFault.ISSUER),
    (_is_a_ca, CertificateFault.PROFILE),
    (_constraints_not_critical, CertificateFault.PROFILE),
    (_no_constraints, CertificateFault.PROFILE),
    (_wide_usage, CertificateFault.PROFILE),
    (_no_usage, CertificateFault.PROFILE),
    (_no_roles, CertificateFault.ROLES),
    (_critical_roles, CertificateFault.ROLES),
    (_unknown_role, CertificateFault.ROLES),
    (_empty_roles, CertificateFault.ROLES),
    (_long_roles, CertificateFault.ROLES),
    (_too_many_roles, CertificateFault.ROLES),
    (_ends_as_it_starts, CertificateFault.VALIDITY),
    (_before_1970, CertificateFault.VALIDITY),
    (_other_curve, CertificateFault.KEY),
    (_long_key_identifier, CertificateFault.PROFILE),
]


@pytest.mark.parametrize("suite", [Suite.ED25519, Suite.SM2])
@pytest.mark.parametrize(("violate", "reason"), VIOLATIONS, ids=lambda one: getattr(one, "__name__", str(one)))
def test_each_rule_of_the_profile(
    entropy: Entropy, violate: Callable[[Foreign], None], reason: CertificateFault, suite: Suite
) -> None:
    ca = authority(entropy, suite=suite)
    foreign = Foreign(ca)
    assert read_staff(foreign.build(), ca.certificate).party == PARTY
    violate(foreign)
    assert fault(lambda: read_staff(foreign.build(), ca.certificate)) is reason


def test_key_identifiers_are_allowed_in_any_order(entropy: Entropy) -> None:
    ca = authority(entropy)
    foreign = Foreign(ca)
    foreign.extensions.insert(0, (x509.SubjectKeyIdentifier(bytes(20)), False))
    foreign.extensions.insert(0, (x509.AuthorityKeyIdentifier(bytes(20), None, None), False))
    assert read_staff(foreign.build(), ca.certificate).party == PARTY


def test_only_the_suites_own_hash_is_taken(entropy: Entropy) -> None:
    ca = authority(entropy, suite=Suite.P256)
    foreign = Foreign(ca)
    scalar = int.from_bytes(ca.seed, "big") % (ORDER - 1) + 1
    foreign.key = ec.derive_private_key(scalar, ec.SECP256R1())
    assert read_staff(foreign.build(SHA256()), ca.certificate).party == PARTY
    assert fault(lambda: read_staff(foreign.build(SHA384()), ca.certificate)) is CertificateFault.SIGNATURE


ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def test_an_sm2_key_is_a_point_of_its_curve_and_its_signature_in_range(entropy: Entropy) -> None:
    ca = authority(entropy, suite=Suite.SM2)
    key = SigningKey(suite=Suite.SM2, seed=bytes(range(32)))
    der = issue(ca, entropy, key)
    point = sm2.uncompressed(key.public_key)
    for wrong in (bytes(64), point[:32] + bytes(32), point[:63] + bytes([point[63] ^ 1]), b"\xff" * 64):
        assert fault(lambda wrong=wrong: read_staff(der.replace(point, wrong), ca.certificate)) is CertificateFault.KEY  # type: ignore[misc]
    p256_prefix, sm2_prefix = KEY_PREFIX[Suite.P256], KEY_PREFIX[Suite.SM2]
    assert fault(lambda: read_staff(der.replace(sm2_prefix, p256_prefix), ca.certificate)) is CertificateFault.KEY
    outer = Reader(Reader(der).take(SEQUENCE))
    content, algorithm = outer.whole(SEQUENCE), outer.whole(SEQUENCE)
    for r, s in ((1, sm2.ORDER), (sm2.ORDER, 1), (1, sm2.ORDER - 1)):
        signature = value_of(BIT_STRING, b"\x00", value_of(SEQUENCE, integer(r), integer(s)))
        forged = value_of(SEQUENCE, content, algorithm, signature)
        assert fault(lambda forged=forged: read_staff(forged, ca.certificate)) is CertificateFault.SIGNATURE  # type: ignore[misc]


def test_an_authority_that_did_not_sign_itself_is_refused(entropy: Entropy) -> None:
    ca = authority(entropy)
    foreign = Foreign(ca)
    foreign.subject = foreign.issuer
    foreign.extensions = [
        (x509.BasicConstraints(ca=True, path_length=0), True),
        (usage(digital_signature=False, key_cert_sign=True, crl_sign=True), True),
    ]
    assert fault(lambda: read_authority(foreign.build())) is CertificateFault.SIGNATURE
    foreign.public = foreign.key.public_key()
    assert read_authority(foreign.build()).organisation == HOSPITAL
    foreign.issuer = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, CLINIC.hex())]
    assert fault(lambda: read_authority(foreign.build())) is CertificateFault.ISSUER
    foreign.issuer = foreign.subject
    foreign.extensions[0] = (x509.BasicConstraints(ca=True, path_length=1), True)
    assert fault(lambda: read_authority(foreign.build())) is CertificateFault.PROFILE


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("170d", "180d"),
        ("3236303130313030303030305a", "3236313330313030303030305a"),
        ("3236303130313030303030305a", "3236303233303030303030305a"),
        ("3236303130313030303030305a", "3236303130313234303030305a"),
        ("3236303130313030303030305a", "32363031303130303030302b5a"),
        ("0101ff", "010101"),
        ("a003020102", "a003020101"),
    ],
)
def test_signed_but_badly_encoded_fields_are_refused(entropy: Entropy, right: str, wrong: str) -> None:
    ca = authority(entropy)
    der = issue(ca, entropy).hex()
    assert right in der
    reason = fault(lambda: read_staff(bytes.fromhex(der.replace(right, wrong, 1)), ca.certificate))
    assert reason is not CertificateFault.SIGNATURE
