"""The institutional suite: which signature, hash and cipher a network's organisations use (KEY-6).

It is chosen once, in the genesis. ``INTERNATIONAL`` is Ed25519, SHA-256 and AES-256-GCM; ``SM`` is SM2, SM3 and SM4-GCM
(GB/T 32918, GB/T 32905, GB/T 32907; RFC 8998). It decides about what organisations sign, commit to and seal. The
ledger's own structure, the group of the quorum and HPKE are the same under both: docs/concepts/algorithms.md says why.
"""

from enum import IntEnum
from hashlib import sha256
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import SM4
from cryptography.hazmat.primitives.ciphers.modes import GCM
from cryptography.hazmat.primitives.hashes import SM3, Hash

from carechain.core.crypto import Suite

NONCE_SIZE: Final = 12
TAG_SIZE: Final = 16
AES_KEY_SIZE: Final = 32
SM4_KEY_SIZE: Final = 16


class BadChunk(Exception):  # noqa: N818 - names what is wrong with the argument
    """The bytes were not sealed under this key, nonce and associated data."""


class Hasher(Protocol):
    """What :mod:`hashlib` has and both suites offer; 32 bytes in either."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """Take more bytes in."""

    def digest(self) -> bytes:
        """The hash of everything so far; more may follow."""

    def copy(self) -> "Hasher":
        """A second hasher that has taken in the same bytes."""


class Institution(IntEnum):
    """The suites a network can be founded with; the number goes into the genesis and into sealed objects."""

    INTERNATIONAL = 1
    SM = 2

    @property
    def signature(self) -> Suite:
        """What members, their staff and their authorities sign with."""
        return Suite.SM2 if self is Institution.SM else Suite.ED25519

    def admits(self, suite: int) -> bool:
        """Whether an organisation, its authority and its staff may sign with this suite."""
        return suite == Suite.SM2 if self is Institution.SM else suite in (Suite.ED25519, Suite.P256)

    def admits_patient(self, suite: int) -> bool:
        """Whether patients and their representatives may: what their devices have is not the institutions' to choose.

        SM2 is taken in SM networks alone, so that others do not depend on one more verifier.
        """
        return suite in (Suite.ED25519, Suite.P256) or self.admits(suite)

    @property
    def key_size(self) -> int:
        """Bytes of a key of the cipher."""
        return SM4_KEY_SIZE if self is Institution.SM else AES_KEY_SIZE

    def new_hash(self) -> Hasher:
        """A fresh SHA-256 or SM3."""
        return _Sm3(Hash(SM3())) if self is Institution.SM else sha256()

    def digest(self, data: bytes) -> bytes:
        """The 32-byte hash of ``data``."""
        hasher = self.new_hash()
        hasher.update(data)
        return hasher.digest()

    def tagged(self, tag: str, *parts: bytes) -> bytes:
        """The suite's hash over a tag and length-prefixed parts, as :func:`carechain.core.hashing.tagged` lays out."""
        hasher = self.new_hash()
        hasher.update(len(tag).to_bytes(1, "big") + tag.encode("ascii"))
        for part in parts:
            hasher.update(len(part).to_bytes(4, "big"))
            hasher.update(part)
        return hasher.digest()

    def seal_chunk(self, key: bytes, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:
        """Ciphertext and 16-byte tag. A nonce (12 bytes) must never serve twice under one key.

        Raises ``ValueError`` where key or nonce have another size.
        """
        self._require_sizes(key, nonce)
        if self is Institution.INTERNATIONAL:
            return AESGCM(key).encrypt(nonce, plaintext, aad)
        encryptor = Cipher(SM4(key), GCM(nonce)).encryptor()
        encryptor.authenticate_additional_data(aad)
        return encryptor.update(plaintext) + encryptor.finalize() + encryptor.tag

    def open_chunk(self, key: bytes, nonce: bytes, sealed: bytes, aad: bytes) -> bytes:
        """The plaintext; raises :class:`BadChunk` before any of it is returned, ``ValueError`` for impossible sizes."""
        self._require_sizes(key, nonce)
        if len(sealed) < TAG_SIZE:
            raise BadChunk
        try:
            if self is Institution.INTERNATIONAL:
                return AESGCM(key).decrypt(nonce, sealed, aad)
            decryptor = Cipher(SM4(key), GCM(nonce, sealed[-TAG_SIZE:])).decryptor()
            decryptor.authenticate_additional_data(aad)
            return decryptor.update(sealed[:-TAG_SIZE]) + decryptor.finalize()
        except InvalidTag:
            raise BadChunk from None

    def _require_sizes(self, key: bytes, nonce: bytes) -> None:
        if len(key) != self.key_size or len(nonce) != NONCE_SIZE:
            raise ValueError("the key or the nonce has another size than the cipher's")


class _Sm3:
    """SM3 with :mod:`hashlib`'s habits. Not every Python's own OpenSSL has it; the library's always does."""

    __slots__ = ("_hash",)

    def __init__(self, state: Hash) -> None:
        self._hash = state

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        self._hash.update(data)

    def digest(self) -> bytes:
        return self._hash.copy().finalize()

    def copy(self) -> "_Sm3":
        return _Sm3(self._hash.copy())
