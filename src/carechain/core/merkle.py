"""The Merkle tree of RFC 6962 section 2.1: transaction roots and the roots of a record's resources."""

from collections.abc import Iterator
from hashlib import sha256

from carechain.core.hashing import HASH_SIZE


class BadProof(Exception):  # noqa: N818 - names what is wrong with the argument
    """A proof does not lead from the leaf to the root."""


def leaf_hash(data: bytes) -> bytes:
    """The hash of one leaf: a zero byte keeps leaves apart from inner nodes."""
    return sha256(b"\x00" + data).digest()


def root(leaf_hashes: list[bytes]) -> bytes:
    """The tree head over ``leaf_hashes``; of an empty list, the hash of nothing.

    Pairing neighbours level by level and carrying an odd last one up gives the tree of the RFC, whose left
    part always holds the largest power of two below the count.
    """
    if not leaf_hashes:
        return sha256(b"").digest()
    level = leaf_hashes
    while len(level) > 1:
        level = _above(level)
    return level[0]


def prove(leaf_hashes: list[bytes], index: int) -> list[bytes]:
    """The audit path of leaf ``index``: sibling hashes from the leaf upward."""
    if not 0 <= index < len(leaf_hashes):
        raise IndexError(index)
    return _path(_levels(leaf_hashes), index)


def prove_all(leaf_hashes: list[bytes]) -> list[list[bytes]]:
    """The audit path of every leaf, in one pass over the tree."""
    levels = _levels(leaf_hashes)
    return [_path(levels, index) for index in range(len(leaf_hashes))]


def _above(level: list[bytes]) -> list[bytes]:
    paired = [sha256(b"\x01" + level[i] + level[i + 1]).digest() for i in range(0, len(level) - 1, 2)]
    if len(level) % 2:
        paired.append(level[-1])
    return paired


def _levels(leaf_hashes: list[bytes]) -> list[list[bytes]]:
    levels = [leaf_hashes]
    while len(levels[-1]) > 1:
        levels.append(_above(levels[-1]))
    return levels


def _path(levels: list[list[bytes]], index: int) -> list[bytes]:
    path: list[bytes] = []
    for level in levels[:-1]:
        sibling = index ^ 1
        if sibling < len(level):
            path.append(level[sibling])
        index //= 2
    return path


def check(*, leaf: bytes, index: int, count: int, path: list[bytes], expected_root: bytes) -> None:
    """Verify that ``leaf`` (a leaf hash) stands at ``index`` of ``count`` under ``expected_root``.

    Raises :class:`BadProof`.
    """
    if not 0 <= index < count:
        raise BadProof("index outside the tree")
    steps = iter(path)
    node, position, last = leaf, index, count - 1
    while last > 0:
        if position % 2:
            node = sha256(b"\x01" + _next(steps) + node).digest()
        elif position < last:
            node = sha256(b"\x01" + node + _next(steps)).digest()
        position //= 2
        last //= 2
    if next(steps, None) is not None:
        raise BadProof("path too long")
    if node != expected_root:
        raise BadProof("does not lead to the root")


def _next(steps: Iterator[bytes]) -> bytes:
    sibling = next(steps, None)
    if sibling is None or len(sibling) != HASH_SIZE:
        raise BadProof("path too short")
    return sibling
