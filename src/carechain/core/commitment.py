"""The salted commitment to one resource: what a record's Merkle root is made of (REC-1).

The commitment is the institutions' own, so its hash is their suite's. The tree above it is part of the ledger's
structure, and SHA-256 under every suite.
"""

from carechain.core import merkle
from carechain.core.suite import Hasher, Institution


def resource_commitment(salt: bytes, content: bytes, institution: Institution = Institution.INTERNATIONAL) -> bytes:
    """The salted hash of one resource's received bytes; without the 32-byte salt nobody can test a guess against it."""
    return institution.tagged("carechain/resource/1", salt, content)


def resource_leaf(salt: bytes, content: bytes, institution: Institution = Institution.INTERNATIONAL) -> bytes:
    """The leaf hash of one resource in its record's tree."""
    return merkle.leaf_hash(resource_commitment(salt, content, institution))


def begin_commitment(salt: bytes, size: int, institution: Institution = Institution.INTERNATIONAL) -> Hasher:
    """A hasher whose digest is the commitment once it was given the ``size`` bytes of a resource, in any pieces.

    For resources that do not fit in memory; ``OverflowError`` for one of 4 GiB or more, which has no commitment.
    """
    hasher = institution.new_hash()
    tag = b"carechain/resource/1"
    hasher.update(len(tag).to_bytes(1, "big") + tag)
    hasher.update(len(salt).to_bytes(4, "big") + salt + size.to_bytes(4, "big"))
    return hasher
