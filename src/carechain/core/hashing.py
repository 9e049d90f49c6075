"""SHA-256 with domain separation (FIPS 180-4); the only hash below the engine."""

from hashlib import sha256

HASH_SIZE = 32
ZERO_HASH = bytes(HASH_SIZE)


def digest(data: bytes) -> bytes:
    """Plain SHA-256 of ``data``: 32 bytes."""
    return sha256(data).digest()


def tagged(tag: str, *parts: bytes) -> bytes:
    """SHA-256 over a tag and length-prefixed parts, so that no two different inputs share one encoding."""
    hasher = sha256(len(tag).to_bytes(1, "big") + tag.encode("ascii"))
    for part in parts:
        hasher.update(len(part).to_bytes(4, "big"))
        hasher.update(part)
    return hasher.digest()
