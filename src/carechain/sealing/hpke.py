"""HPKE in base mode: X25519, HKDF-SHA256, AES-256-GCM (RFC 9180; KEM 0x0020, KDF 0x0001, AEAD 0x0002).

Context is bound in ``info``, which enters the key schedule: a sealed message opened under any other context fails as
if the key were wrong. The sender is not authenticated; what is sealed here is checked against the ledger instead.
"""

from collections.abc import Callable
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from carechain.core.hashing import tagged
from carechain.sealing import symmetric
from carechain.sealing.symmetric import CannotOpen

__all__ = [
    "ENCAPSULATED_SIZE",
    "HPKE_OVERHEAD_BYTES",
    "LARGE_OVERHEAD_BYTES",
    "CannotOpen",
    "HpkePrivateKey",
    "open_large",
    "open_sealed",
    "seal",
    "seal_large",
]

X25519_KEY_SIZE: Final = 32
ENCAPSULATED_SIZE: Final = 32
HPKE_OVERHEAD_BYTES: Final = ENCAPSULATED_SIZE + symmetric.TAG_SIZE

_LARGE_VERSION: Final = b"\x01"
_WRAPPED_SIZE: Final = symmetric.KEY_SIZE + HPKE_OVERHEAD_BYTES
_HEADER_SIZE: Final = len(_LARGE_VERSION) + _WRAPPED_SIZE
LARGE_OVERHEAD_BYTES: Final = _HEADER_SIZE + symmetric.TAG_SIZE
_ONLY_NONCE: Final = bytes(symmetric.GCM_NONCE_SIZE)

_suite = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class HpkePrivateKey:
    """An X25519 key made from a 32-byte seed, which is the private scalar before clamping (RFC 7748 section 5).

    Never printed, never compared. ``public_key`` is the 32 bytes that parties publish on the ledger.
    """

    __slots__ = ("_secret", "public_key")

    def __init__(self, seed: bytes) -> None:
        """Derive the key; raises ``ValueError`` when the seed has the wrong length."""
        if len(seed) != X25519_KEY_SIZE:
            raise ValueError("an HPKE seed is 32 bytes")
        self._secret = X25519PrivateKey.from_private_bytes(seed)
        self.public_key = self._secret.public_key().public_bytes_raw()

    def open(self, *, info: bytes, sealed: bytes) -> bytes:
        """The plaintext that was sealed to this key under ``info``; raises :class:`CannotOpen`."""
        if len(sealed) < HPKE_OVERHEAD_BYTES:
            raise CannotOpen
        try:
            return _suite.decrypt(sealed, self._secret, info)
        except (InvalidTag, ValueError):
            raise CannotOpen from None

    def __repr__(self) -> str:
        return f"HpkePrivateKey(public_key={self.public_key.hex()})"


def seal(recipient_public: bytes, info: bytes, plaintext: bytes) -> bytes:
    """``enc || ciphertext || tag``: 48 bytes longer than ``plaintext``.

    Raises ``ValueError`` when the recipient's key has the wrong length or gives an all-zero shared secret
    (RFC 9180 section 7.1.4). The ephemeral key comes from the operating system: HPKE must never repeat one.
    """
    return _suite.encrypt(plaintext, X25519PublicKey.from_public_bytes(recipient_public), info)


def open_sealed(private_key: HpkePrivateKey, info: bytes, sealed: bytes) -> bytes:
    """What :func:`seal` was given; raises :class:`CannotOpen`."""
    return private_key.open(info=info, sealed=sealed)


def seal_large(recipient_public: bytes, *, info: bytes, plaintext: bytes, entropy: Callable[[int], bytes]) -> bytes:
    """Seal data under a fresh key that HPKE wraps: the wrapped key stays 80 bytes however much data there is.

    Layout: version 0x01 ‖ wrapped key (80) ‖ AES-256-GCM ciphertext and tag. The data key is used once, so its nonce
    is all zero; the header and ``info`` are the associated data. ``entropy(n)`` gives ``n`` random bytes.
    """
    data_key = entropy(symmetric.KEY_SIZE)
    header = _LARGE_VERSION + seal(recipient_public, _wrap_info(info), data_key)
    return header + symmetric.seal(
        data_key, nonce=_ONLY_NONCE, plaintext=plaintext, context=_data_context(header, info)
    )


def open_large(private_key: HpkePrivateKey, *, info: bytes, sealed: bytes) -> bytes:
    """What :func:`seal_large` was given; raises :class:`CannotOpen`. The caller bounds the size."""
    header, body = sealed[:_HEADER_SIZE], sealed[_HEADER_SIZE:]
    if len(header) != _HEADER_SIZE or not header.startswith(_LARGE_VERSION):
        raise CannotOpen
    data_key = private_key.open(info=_wrap_info(info), sealed=header[len(_LARGE_VERSION) :])
    if len(data_key) != symmetric.KEY_SIZE:
        raise CannotOpen
    return symmetric.open_sealed(data_key, nonce=_ONLY_NONCE, sealed=body, context=_data_context(header, info))


def _wrap_info(info: bytes) -> bytes:
    """Keeps a wrapped key apart from anything sealed directly under the same ``info``."""
    return tagged("carechain/wrap/1", info)


def _data_context(header: bytes, info: bytes) -> bytes:
    return tagged("carechain/wrapped-data/1", header, info)
