"""Attacks on signatures and suites. Every case: :mod:`attacks.conftest`.

Goal: a signature is for one key, one suite and one message in one form; a network keeps to its suite. Method: real keys
of every suite, altered as the algebra of each allows; networks founded with either suite.
"""

from itertools import permutations

import pytest

from carechain.chain.tx import AdmissionCode
from carechain.contracts.governance import AdmitMember, Propose
from carechain.contracts.membership import MembershipCode
from carechain.core.crypto import P256_ORDER, BadSignature, SigningKey, Suite, verify
from carechain.core.rejection import Rejected
from carechain.core.sm2 import ORDER as SM2_ORDER
from carechain.core.suite import Institution
from carechain.core.vocabulary import OrganisationKind, Role
from carechain.sealing.codes import SealingCode
from carechain.sealing.objects import ObjectReader, seal_object
from world import Actor, Organisation, anything, enrolment_of, fresh, record_id, seeded

ED25519_ORDER = 2**252 + 27742317777372353535851937790883648493
MESSAGE = "给医生的许可".encode()


def key_of(suite: Suite) -> SigningKey:
    return SigningKey(suite=suite, seed=seeded("suite key"))


def refused(suite: int, public_key: bytes, signature: bytes, message: bytes = MESSAGE) -> None:
    with pytest.raises(BadSignature):
        verify(suite=suite, public_key=public_key, signature=signature, message=message)


def test_suite_confusion_of_a_signature() -> None:
    """One seed, three suites: a signature of one, shown as another's, with either key, holds nowhere."""
    for made, shown in permutations(Suite, 2):
        signature = key_of(made).sign(MESSAGE)
        refused(shown, key_of(made).public_key, signature)
        refused(shown, key_of(shown).public_key, signature)
        refused(made, key_of(shown).public_key, signature)


def test_suite_confusion_of_a_party_on_the_ledger() -> None:
    """The sender's suite is the ledger's: a transaction under the same seed in another suite is not its signature."""
    world = fresh()
    for suite in (Suite.P256, Suite.SM2):
        other = Actor("steve in another suite", suite=suite)
        other.id = world.steve.id
        receipt = world.run(anything(world.steve, world.bert), by=other)
        assert receipt.code == AdmissionCode.BAD_SIGNATURE


def test_member_of_the_other_suite_let_in() -> None:
    """An organisation with keys of the wrong suite would be one that some nodes cannot judge."""
    for institution, suite in ((Institution.SM, Suite.ED25519), (Institution.INTERNATIONAL, Suite.SM2)):
        world = fresh(institution=None if institution is Institution.INTERNATIONAL else institution)
        stranger = Organisation("g", kind=OrganisationKind.HOSPITAL, suite=suite)
        world.refused(
            MembershipCode.SUITE_NOT_OF_NETWORK, Propose(change=AdmitMember(new=stranger.as_new())), by=world.a
        )
        nurse = Actor("nurse", organisation=world.a.id, suite=suite)
        receipt = world.run(enrolment_of(nurse, world.a.certify(nurse, Role.NURSE)), by=world.a)
        assert receipt.code != 0
        assert world.contracts().membership.party(nurse.id) is None


def test_signature_malleability_of_sm2() -> None:
    """Every second form of (r, s) that ECDSA's algebra would allow, sums that vanish, and numbers out of range."""
    key = key_of(Suite.SM2)
    for number in range(10):
        message = MESSAGE + bytes([number])
        signature = key.sign(message)
        verify(suite=Suite.SM2, public_key=key.public_key, signature=signature, message=message)
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
        for other_r, other_s in (
            (r, SM2_ORDER - s),
            (SM2_ORDER - r, s),
            (SM2_ORDER - r, SM2_ORDER - s),
            (s, r),
            (r, (-s - r) % SM2_ORDER),
            (r, SM2_ORDER - r),
            (r, 0),
            (0, s),
            (r, s + SM2_ORDER),
            (r + SM2_ORDER, s),
        ):
            if max(other_r, other_s) < 1 << 256:
                refused(Suite.SM2, key.public_key, other_r.to_bytes(32, "big") + other_s.to_bytes(32, "big"), message)
    other_half = bytes([key.public_key[0] ^ 1]) + key.public_key[1:]
    refused(Suite.SM2, other_half, key.sign(MESSAGE))


def test_signature_malleability_of_p256_and_ed25519() -> None:
    """The high half of s; s plus the order. Either would give one transaction two ids."""
    p256, ed25519 = key_of(Suite.P256), key_of(Suite.ED25519)
    signature = p256.sign(MESSAGE)
    s = int.from_bytes(signature[32:], "big")
    refused(Suite.P256, p256.public_key, signature[:32] + (P256_ORDER - s).to_bytes(32, "big"))
    signature = ed25519.sign(MESSAGE)
    s = int.from_bytes(signature[32:], "little")
    refused(Suite.ED25519, ed25519.public_key, signature[:32] + (s + ED25519_ORDER).to_bytes(32, "little"))


def test_key_for_which_anything_is_signed() -> None:
    """Ed25519 keys of small order, and SM2's excluded key, under which a signature fits many messages."""
    for public_key in (bytes(32), b"\x01" + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f", b"\x01" + bytes(30) + b"\x80"):
        refused(Suite.ED25519, public_key, b"\x01" + bytes(63))
        refused(Suite.ED25519, public_key, bytes(64))
    base_x = "32c4ae2c1f1981195f9904466a39c9948fe30bbff2660be1715a4589334c74c7"
    for form in ("02", "03"):
        public_key = bytes.fromhex(form + base_x)
        refused(Suite.SM2, public_key, b"\x01" * 64)


def test_object_of_the_other_suite() -> None:
    """An object sealed under SM4 in a network of AES, and the suite's number in a sound one exchanged."""
    record, key = record_id("one"), seeded("key")
    for made, shown in permutations(Institution, 2):
        out = bytearray()
        seal_object(b"content", out.extend, key=key, capsule=b"capsule", record=record, version=1, suite=made)
        with pytest.raises(Rejected) as caught:
            ObjectReader(bytes(out), key, record=record, version=1, suite=shown)
        assert caught.value.code is SealingCode.OTHER_SUITE
        out[18] = int(shown)
        with pytest.raises(Rejected) as caught:
            ObjectReader(bytes(out), key, record=record, version=1, suite=shown)
        assert caught.value.code in (SealingCode.KEY_WRONG, SealingCode.CAPSULE_ALTERED)
