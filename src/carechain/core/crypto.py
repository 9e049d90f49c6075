"""Signatures, one verifier per suite, the same everywhere.

Libraries disagree on edge-case Ed25519 keys (ZIP-215), so a second verifier anywhere would let two nodes
judge one transaction differently. Signatures are 64 bytes in every suite, and nobody but the signer can turn one into
a second valid one: P-256 uses r || s with low s, SM2 r || s as it is (:mod:`carechain.core.sm2` says why).
"""

from enum import IntEnum
from typing import Final

import ed25519_zebra
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from carechain.core import sm2
from carechain.core.limits import SIGNATURE_SIZE

P256_ORDER: Final = 0xFFFFFFFF_00000000_FFFFFFFF_FFFFFFFF_BCE6FAAD_A7179E84_F3B9CAC2_FC632551
SEED_SIZE: Final = 32


class Suite(IntEnum):
    """Signature suites: the byte that stands before a public key."""

    ED25519 = 1
    P256 = 2
    SM2 = 3


PUBLIC_KEY_SIZE: Final[dict[int, int]] = {Suite.ED25519: 32, Suite.P256: 33, Suite.SM2: 33}


SMALL_ORDER: Final = frozenset(
    bytes.fromhex(encoding)
    for encoding in (
        "00" * 32,
        "01" + "00" * 31,
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ec" + "ff" * 30 + "7f",
        "ed" + "ff" * 30 + "7f",
        "ee" + "ff" * 30 + "7f",
    )
)
"""Every encoding of an Ed25519 point of order 1, 2, 4 or 8, its sign bit cleared. ZIP-215 accepts them as keys, and
then anyone can make a signature that holds: nobody may be bound to such a key."""


class BadSignature(Exception):  # noqa: N818 - names what is wrong with the argument
    """The signature does not hold for this key and these bytes, or the key is not a key."""


def verify(*, suite: int, public_key: bytes, signature: bytes, message: bytes) -> None:
    """Check a signature; raises :class:`BadSignature` and returns nothing that could be ignored.

    ``public_key`` is 32 bytes for Ed25519 and a 33-byte compressed point for P-256 and SM2.
    """
    if len(signature) != SIGNATURE_SIZE or len(public_key) != PUBLIC_KEY_SIZE.get(suite, -1):
        raise BadSignature
    if suite == Suite.ED25519:
        _verify_ed25519(public_key, signature, message)
    elif suite == Suite.P256:
        _verify_p256(public_key, signature, message)
    elif not sm2.holds(public_key, signature, message):
        raise BadSignature


def _verify_ed25519(public_key: bytes, signature: bytes, message: bytes) -> None:
    if public_key[:-1] + bytes([public_key[-1] & 0x7F]) in SMALL_ORDER:
        raise BadSignature
    try:
        valid = ed25519_zebra.ed_verify(signature, message, public_key)
    except (ValueError, TypeError):
        raise BadSignature from None
    if not valid:
        raise BadSignature


def _verify_p256(public_key: bytes, signature: bytes, message: bytes) -> None:
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    if not (0 < r < P256_ORDER and 0 < s <= P256_ORDER // 2):
        raise BadSignature
    try:
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), public_key)
        key.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
    except (ValueError, InvalidSignature):
        raise BadSignature from None


class SigningKey:
    """A private signing key made from a 32-byte seed; never printed, never compared."""

    __slots__ = ("_secret", "public_key", "suite")

    def __init__(self, *, suite: Suite, seed: bytes) -> None:
        """Derive the key; raises ``ValueError`` when the seed has the wrong length."""
        if len(seed) != SEED_SIZE:
            raise ValueError("a signing seed is 32 bytes")
        self.suite = suite
        if suite is Suite.ED25519:
            self._secret: bytes | ec.EllipticCurvePrivateKey = seed
            self.public_key = bytes(ed25519_zebra.ed_public_from_secret(seed))
        elif suite is Suite.SM2:
            self._secret = sm2.secret_of(seed)
            self.public_key = sm2.public_key_of(self._secret)
        else:
            scalar = int.from_bytes(seed, "big") % (P256_ORDER - 1) + 1
            private = ec.derive_private_key(scalar, ec.SECP256R1())
            self._secret = private
            self.public_key = private.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)

    def sign(self, message: bytes) -> bytes:
        """A 64-byte signature over ``message``."""
        if isinstance(self._secret, bytes):
            if self.suite is Suite.SM2:
                return sm2.sign(self._secret, self.public_key, message)
            return bytes(ed25519_zebra.ed_sign(self._secret, message))
        r, s = decode_dss_signature(self._secret.sign(message, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + min(s, P256_ORDER - s).to_bytes(32, "big")

    def __repr__(self) -> str:
        return f"SigningKey({self.suite.name}, public_key={self.public_key.hex()})"
