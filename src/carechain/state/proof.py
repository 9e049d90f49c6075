"""Proofs that an entry of the state has a value, or that there is none (LED-10).

A proof lists the branches from the root to where the key's walk ends. Each carries all child hashes but the one
on the path; the verifier computes that one from below and ends at the root hash. ``state/node.py`` says why
this is sound. Verification raises :class:`BadProof` and returns nothing that could be ignored.
"""

from hashlib import sha256
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from carechain.core.codec import Malformed, decode_strict, encode
from carechain.core.hashing import HASH_SIZE, ZERO_HASH
from carechain.core.ids import Hash
from carechain.core.limits import PROOF_SIZE_BYTES, STATE_KEY_BYTES
from carechain.state.node import (
    BRANCH,
    BRANCH_HEAD_SIZE,
    LEAF,
    SYMBOLS,
    Branch,
    Load,
    Node,
    Root,
    branch_head,
    child,
    leaf_entry,
    leaf_hash,
    read_branch,
    spell,
)

_STEPS: Final = 2 * STATE_KEY_BYTES + 1
"""No walk passes more branches than a key has symbols."""

Skip = Annotated[bytes, Meta(max_length=_STEPS)]
Bitmap = Annotated[int, Meta(ge=0, lt=1 << SYMBOLS)]
Key = Annotated[bytes, Meta(min_length=1, max_length=STATE_KEY_BYTES)]


class BadProof(Exception):  # noqa: N818 - names what is wrong with the argument
    """The proof does not show what it is said to show under this root."""


class BranchStep(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A branch on the way: skip segment, bitmap, and the child hashes, at the end of the walk all of them."""

    skip: Skip
    bitmap: Bitmap
    hashes: Annotated[bytes, Meta(max_length=SYMBOLS * HASH_SIZE)]


class LeafEnd(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The leaf a walk ends at: its key and the SHA-256 of its value."""

    key: Key
    value_hash: Hash


class Proof(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The branches passed, root first, each without the hash of the child on the path; then where the walk ends.

    It ends at a leaf, or, when ``leaf`` is None, at the last branch listed; without any branch the tree is empty.
    """

    steps: Annotated[tuple[BranchStep, ...], Meta(max_length=_STEPS)]
    leaf: LeafEnd | None

    def to_bytes(self) -> bytes:
        """The canonical encoding."""
        return encode(self)


_decoder = msgspec.msgpack.Decoder(Proof)


def decode_proof(data: bytes) -> Proof:
    """A proof from its canonical encoding; raises :class:`BadProof` for anything else."""
    if len(data) > PROOF_SIZE_BYTES:
        raise BadProof("too large")
    try:
        return decode_strict(_decoder, data)
    except Malformed as error:
        raise BadProof(str(error)) from None


def prove(load: Load, root: Root, key: bytes) -> Proof:
    """The proof for ``key``: of its value if it has one, otherwise of its absence."""
    steps: list[BranchStep] = []
    node = root.node
    symbols = spell(key)
    depth = 0
    while node is not None:
        opened = _open(load, node)
        if isinstance(opened, bytes):
            found, value = leaf_entry(opened)
            return Proof(tuple(steps), LeafEnd(found, sha256(value).digest()))
        bitmap, skip_size, image, _, _ = opened
        hashes_at = BRANCH_HEAD_SIZE + skip_size
        skip, hashes = image[BRANCH_HEAD_SIZE:hashes_at], image[hashes_at:]
        depth += skip_size
        if not symbols.startswith(skip, depth - skip_size) or not bitmap >> symbols[depth] & 1:
            steps.append(BranchStep(skip, bitmap, hashes))
            break
        place = (bitmap & ((1 << symbols[depth]) - 1)).bit_count()
        at = HASH_SIZE * place
        steps.append(BranchStep(skip, bitmap, hashes[:at] + hashes[at + HASH_SIZE :]))
        node = child(opened, symbols[depth])
        depth += 1
    return Proof(tuple(steps), None)


def _open(load: Load, node: Node) -> bytes | Branch:
    if isinstance(node, int):
        stored = load(node)
        return stored if stored[0] == LEAF else read_branch(stored)
    return node


def verify_presence(root_hash: bytes, key: bytes, value: bytes, proof: Proof) -> None:
    """Check that ``key`` has ``value`` under ``root_hash``; raises :class:`BadProof`."""
    leaf = proof.leaf
    if leaf is None or leaf.key != key or leaf.value_hash != sha256(value).digest():
        raise BadProof("the leaf is not of this key and value")
    _climb(root_hash, key, proof.steps, leaf_hash(leaf.key, leaf.value_hash))


def verify_absence(root_hash: bytes, key: bytes, proof: Proof) -> None:
    """Check that there is no ``key`` under ``root_hash``; raises :class:`BadProof`."""
    if proof.leaf is not None:
        if proof.leaf.key == key:
            raise BadProof("the leaf is the key's own")
        _climb(root_hash, key, proof.steps, leaf_hash(proof.leaf.key, proof.leaf.value_hash))
    elif proof.steps:
        last = proof.steps[-1]
        depth = sum(len(step.skip) + 1 for step in proof.steps[:-1])
        symbols = spell(key)
        if symbols.startswith(last.skip, depth):
            at = depth + len(last.skip)
            if at >= len(symbols):
                raise BadProof("a branch stands behind the end of the key")
            if last.bitmap >> symbols[at] & 1:
                raise BadProof("the branch has a child for the key")
        _climb(root_hash, key, proof.steps[:-1], _branch_hash(last, last.hashes))
    elif root_hash != ZERO_HASH:
        raise BadProof("the tree is not empty")


def _climb(root_hash: bytes, key: bytes, steps: tuple[BranchStep, ...], known: bytes) -> None:
    """Hash upward from the end of the walk, at each branch along the key's own symbols."""
    symbols = spell(key)
    depth = sum(len(step.skip) + 1 for step in steps)
    for step in reversed(steps):
        depth -= len(step.skip) + 1
        at = depth + len(step.skip)
        if at >= len(symbols) or not symbols.startswith(step.skip, depth) or not step.bitmap >> symbols[at] & 1:
            raise BadProof("a branch is not on the way to the key")
        before = HASH_SIZE * (step.bitmap & ((1 << symbols[at]) - 1)).bit_count()
        known = _branch_hash(step, step.hashes[:before] + known + step.hashes[before:])
    if known != root_hash:
        raise BadProof("does not lead to the root")


def _branch_hash(step: BranchStep, hashes: bytes) -> bytes:
    count = step.bitmap.bit_count()
    if count < 2 or len(hashes) != HASH_SIZE * count:  # noqa: PLR2004 - a branch has at least two children
        raise BadProof("not a branch")
    return sha256(branch_head(BRANCH, step.bitmap, len(step.skip)) + step.skip + hashes).digest()
