"""Sealing under a key that both sides already have: AES-256-GCM, padding, and keys from passwords.

Nonces are arguments, so that every sealed thing can be made again in a test; the caller takes them from the system's
randomness and never uses one twice with the same key (NIST SP 800-38D section 8).
"""

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from msgspec import Struct

from carechain.core.limits import SCRYPT_MAX_N, SCRYPT_MAX_P, SCRYPT_MAX_R, SCRYPT_MIN_N, SUMMARY_BUCKET_BYTES

KEY_SIZE: Final = 32
GCM_NONCE_SIZE: Final = 12
TAG_SIZE: Final = 16
SCRYPT_SALT_SIZE: Final = 16


_PAD_MARK: Final = 0x80


class CannotOpen(Exception):  # noqa: N818 - names what is wrong with the argument
    """Wrong key, wrong context or altered bytes: authenticated encryption does not tell which."""


class ScryptCost(Struct, frozen=True, kw_only=True):
    """The work of one password guess (RFC 7914): ``128 * n * r`` bytes of memory, ``p`` times over."""

    n: int = 1 << 17
    r: int = 8
    p: int = 1

    def is_acceptable(self) -> bool:
        """Whether the numbers are possible and bounded, so that a forged file cannot exhaust the reader's memory."""
        return (
            SCRYPT_MIN_N <= self.n <= SCRYPT_MAX_N
            and self.n & (self.n - 1) == 0
            and 1 <= self.r <= SCRYPT_MAX_R
            and 1 <= self.p <= SCRYPT_MAX_P
        )


def seal(key: bytes, *, nonce: bytes, plaintext: bytes, context: bytes) -> bytes:
    """AES-256-GCM: ciphertext and a 16-byte tag. ``context`` is authenticated, not contained.

    Raises ``ValueError`` when the key is not 32 or the nonce not 12 bytes long.
    """
    return _cipher(key, nonce).encrypt(nonce, plaintext, context)


def open_sealed(key: bytes, *, nonce: bytes, sealed: bytes, context: bytes) -> bytes:
    """The plaintext; raises :class:`CannotOpen`."""
    cipher = _cipher(key, nonce)
    if len(sealed) < TAG_SIZE:
        raise CannotOpen
    try:
        return cipher.decrypt(nonce, sealed, context)
    except InvalidTag:
        raise CannotOpen from None


def pad(data: bytes, *, bucket_bytes: int = SUMMARY_BUCKET_BYTES, overhead_bytes: int = 0) -> bytes:
    """Pad so that the result plus ``overhead_bytes`` is a whole number of buckets.

    The mark 0x80 and then zeros (ISO/IEC 7816-4): the last byte that is not zero is always the mark, so the padding
    can be taken off in one way only, whatever ``data`` ends with.
    """
    if bucket_bytes <= overhead_bytes:
        raise ValueError("a bucket has to hold more than its overhead")
    marked = len(data) + 1 + overhead_bytes
    return data + bytes([_PAD_MARK]) + bytes(-marked % bucket_bytes)


def unpad(padded: bytes) -> bytes:
    """What :func:`pad` was given; raises :class:`CannotOpen` where there is no mark."""
    stripped = padded.rstrip(b"\x00")
    if not stripped or stripped[-1] != _PAD_MARK:
        raise CannotOpen
    return stripped[:-1]


def key_from_password(password: str, *, salt: bytes, cost: ScryptCost) -> bytes:
    """A 32-byte key by scrypt; raises ``ValueError`` when the salt or the cost is out of bounds.

    The password is taken as its UTF-8 bytes, so Chinese passwords work; normalising its form is for who reads it
    from the keyboard.
    """
    if len(salt) != SCRYPT_SALT_SIZE or not cost.is_acceptable():
        raise ValueError("scrypt salt or cost out of bounds")
    return Scrypt(salt=salt, length=KEY_SIZE, n=cost.n, r=cost.r, p=cost.p).derive(password.encode())


def _cipher(key: bytes, nonce: bytes) -> AESGCM:
    if len(key) != KEY_SIZE or len(nonce) != GCM_NONCE_SIZE:
        raise ValueError("an AES-256-GCM key is 32 bytes and a nonce 12")
    return AESGCM(key)
