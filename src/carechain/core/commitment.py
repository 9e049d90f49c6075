"""The salted commitment to one resource: what a record's Merkle root is made of (REC-1)."""

from carechain.core import merkle
from carechain.core.hashing import tagged


def resource_commitment(salt: bytes, content: bytes) -> bytes:
    """The salted hash of one resource's received bytes; without the 32-byte salt nobody can test a guess against it."""
    return tagged("carechain/resource/1", salt, content)


def resource_leaf(salt: bytes, content: bytes) -> bytes:
    """The leaf hash of one resource in its record's tree."""
    return merkle.leaf_hash(resource_commitment(salt, content))
