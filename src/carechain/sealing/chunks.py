"""The keys of one sealed object, and its cipher: one chunk at a time, into memory that the caller gives.

From the object's 32-byte key come by HKDF (RFC 5869, with the suite's hash) the key commitment and, with the hash of
header and capsule, the header's tag and the key of the chunks. So another header, or another capsule, means another
chunk key: a nonce cannot meet the same key twice unless everything before the chunks is the same.
"""

from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256, SM3, HashAlgorithm
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from carechain.core.hashing import HASH_SIZE
from carechain.core.suite import NONCE_SIZE, TAG_SIZE, BadChunk, Institution

OBJECT_KEY_SIZE: Final = 32
"""In both suites: it is what a capsule holds, and the cipher's own key is derived from it."""
_FINAL_SIZE: Final = 1
_COUNTER_SIZE: Final = NONCE_SIZE - _FINAL_SIZE
_COMMITMENT_INFO: Final = b"carechain/object-commitment/1"
_HEADER_INFO: Final = b"carechain/object-header/1"
_CHUNKS_INFO: Final = b"carechain/object-chunks/1"
_RESUME_INFO: Final = b"carechain/object-resume/1"


class ChunkCipher(Protocol):
    """An authenticated cipher under one object's chunk key."""

    def seal_into(self, nonce: bytes, plain: memoryview, aad: bytes, out: memoryview) -> None:
        """Write ciphertext and tag to ``out``, which is 16 bytes longer than ``plain``."""

    def open_into(self, nonce: bytes, sealed: memoryview, aad: bytes, out: memoryview) -> None:
        """Write the plaintext to ``out``, 16 bytes shorter than ``sealed``; :class:`~carechain.core.suite.BadChunk`."""


class _Aes:
    """AES-256-GCM without a copy of the data."""

    __slots__ = ("_cipher",)

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def seal_into(self, nonce: bytes, plain: memoryview, aad: bytes, out: memoryview) -> None:
        self._cipher.encrypt_into(nonce, plain, aad, out)

    def open_into(self, nonce: bytes, sealed: memoryview, aad: bytes, out: memoryview) -> None:
        try:
            self._cipher.decrypt_into(nonce, sealed, aad, out)
        except InvalidTag:
            raise BadChunk from None


class _OfSuite:
    """The cipher of a suite for which the library has no call that writes to given memory."""

    __slots__ = ("_key", "_suite")

    def __init__(self, suite: Institution, key: bytes) -> None:
        self._suite = suite
        self._key = key

    def seal_into(self, nonce: bytes, plain: memoryview, aad: bytes, out: memoryview) -> None:
        out[:] = self._suite.seal_chunk(self._key, nonce, bytes(plain), aad)

    def open_into(self, nonce: bytes, sealed: memoryview, aad: bytes, out: memoryview) -> None:
        out[:] = self._suite.open_chunk(self._key, nonce, bytes(sealed), aad)


def chunk_cipher(suite: Institution, key: bytes) -> ChunkCipher:
    """The suite's cipher under ``key``, which is as long as the suite says."""
    return _Aes(key) if suite is Institution.INTERNATIONAL else _OfSuite(suite, key)


def chunk_nonce(index: int, *, final: bool) -> bytes:
    """Chunk number (11 bytes) and whether it is the last one (1 byte): no two chunks of an object share a nonce."""
    return index.to_bytes(_COUNTER_SIZE, "big") + final.to_bytes(_FINAL_SIZE, "big")


def key_commitment(suite: Institution, key: bytes) -> bytes:
    """32 bytes that only this key has: the cipher itself would let one ciphertext open under two keys."""
    return _derive(suite, key, _COMMITMENT_INFO + bytes([suite]), HASH_SIZE)


def header_tag(suite: Institution, key: bytes, prefix_hash: bytes) -> bytes:
    """32 bytes that only who has the key can make for this header and capsule."""
    return _derive(suite, key, _HEADER_INFO + prefix_hash, HASH_SIZE)


def cipher_of_object(suite: Institution, key: bytes, prefix_hash: bytes) -> ChunkCipher:
    """The cipher of one object's chunks."""
    return chunk_cipher(suite, _derive(suite, key, _CHUNKS_INFO + prefix_hash, suite.key_size))


class Fingerprints:
    """16-byte marks of pieces of plaintext, under a key of their own: who has not the key learns nothing from them.

    AES-GMAC (NIST SP 800-38D), several times as fast as a hash. Its marks must stay beside the key they are made with,
    because somebody who sees marks of different data under one number can forge others.
    """

    def __init__(self, key: bytes, prefix_hash: bytes) -> None:
        """For the object with this key, header and capsule."""
        suite = Institution.INTERNATIONAL
        self._cipher = AESGCM(_derive(suite, key, _RESUME_INFO + prefix_hash, suite.key_size))

    def mark(self, number: int, piece: memoryview) -> bytes:
        """The mark of piece ``number``."""
        return self._cipher.encrypt(number.to_bytes(NONCE_SIZE, "big"), b"", piece)


FINGERPRINT_SIZE: Final = TAG_SIZE


def _derive(suite: Institution, key: bytes, info: bytes, size: int) -> bytes:
    if len(key) != OBJECT_KEY_SIZE:
        raise ValueError("an object's key has 32 bytes")
    algorithm: HashAlgorithm = SM3() if suite is Institution.SM else SHA256()
    return HKDF(algorithm=algorithm, length=size, salt=None, info=info).derive(key)
