"""The nodes of the state trie: their bytes, their hashes, and why a proof over them is sound.

**Symbols.** A key is spelled as its hexadecimal digits, each 1..16, followed by the end symbol 0. The end
symbol stands nowhere else, so no spelling is a prefix of another even where one key is a prefix of another
key; and because 0 sorts first, spellings sort as their keys do.

**Leaf.** ``hash = SHA-256(0x00 ‖ key length, 2 bytes ‖ key ‖ SHA-256(value))``. It does not depend on where
the leaf hangs, so splitting or joining branches never re-hashes a leaf.

**Branch.** ``hash = SHA-256(0x01 ‖ bitmap, 4 bytes ‖ skip length, 2 bytes ‖ skip symbols ‖ child hashes)``.
Bit *s* of the bitmap says that there is a child under symbol *s*; the child hashes follow in symbol order. The
skip segment is what all keys below share from here on: it is relative, so a subtree does not depend on its depth.
A branch has at least two children. The tree over nothing has the hash of 32 zero bytes.

**Canonical form.** Each branch stands exactly where two of its keys part, so the shape and the root hash follow
from the set of entries alone, whatever the order of the changes that led there.

**Soundness.** The first byte keeps leaves and branches apart, and all other fields are fixed in width or
preceded by their length (the bitmap gives the number of hashes), so two different nodes have different
preimages: whoever makes two nodes with one hash has broken SHA-256. Given a root hash, the node reached by
following a key's symbols is therefore unique, and there are only four ways for that walk to end: at the leaf
of the key (present), or at a leaf of another key, at a branch whose skip segment leaves the key, or at a branch
without a child under the next symbol (each of them: absent). A presence proof and an absence proof for one key
under one root would have to show two different nodes at one place. A skip segment cannot hide an entry either:
it is part of the hash, and an entry that left it midway would have given the tree a branch there.

**Stored bytes.** A branch is stored as its preimage followed by one 8-byte reference per child; a leaf as
``0x00 ‖ key length, 2 bytes ‖ value length, 4 bytes ‖ key ‖ value``. References never enter a hash.
"""

from collections.abc import Callable
from hashlib import sha256
from struct import Struct
from typing import Final, NamedTuple, TypeAlias

from carechain.core.hashing import HASH_SIZE, ZERO_HASH

LEAF: Final = 0
BRANCH: Final = 1
SYMBOLS: Final = 17
REFERENCE_SIZE: Final = 8

_SPELLING: Final = bytes.maketrans(b"0123456789abcdef", bytes(range(1, SYMBOLS)))
_END: Final = b"\x00"

_LEAF_HEAD: Final = Struct(">BHI")
_LEAF_PREIMAGE_HEAD: Final = Struct(">BH")
_BRANCH_HEAD: Final = Struct(">BIH")
BRANCH_HEAD_SIZE: Final = _BRANCH_HEAD.size
LEAF_HEAD_SIZE: Final = _LEAF_HEAD.size
_REFERENCES: Final = tuple(Struct(f">{count}Q") for count in range(SYMBOLS + 1))

read_branch_head: Final = _BRANCH_HEAD.unpack_from
"""(1, bitmap, skip length) of a stored branch."""
branch_head: Final = _BRANCH_HEAD.pack
read_reference: Final = _REFERENCES[1].unpack_from
write_reference: Final = _REFERENCES[1].pack_into
NO_REFERENCE: Final = bytes(REFERENCE_SIZE)
_NONE_NEW: Final[dict[int, "Node"]] = {}

Branch: TypeAlias = tuple[int, int, bytes, bytes, dict[int, "Node"]]
"""A branch in memory: bitmap, skip length, hash preimage, stored references, and the new children by symbol.

A new child overrides the reference at its place, so changing one child of sixteen touches neither the others nor their
references. A branch is never changed once it is part of a tree, its dictionary included.
"""
Node: TypeAlias = int | bytes | Branch
"""A stored node by its reference, a new leaf by its stored bytes, or a new branch."""
Load: TypeAlias = Callable[[int], bytes]
"""Fetches the stored bytes of a node by its reference."""


class Root(NamedTuple):
    """One version of the tree: its top node (None when empty), its hash, and which stored nodes it replaced.

    ``dead`` lists, block by block, the references no longer used since the last checkpoint.
    """

    node: Node | None
    hash: bytes
    dead: tuple[list[int], ...] = ()


EMPTY: Final = Root(None, ZERO_HASH)


def spell(key: bytes) -> bytes:
    """The key's symbols: one byte per hexadecimal digit (1..16), then the end symbol 0."""
    return key.hex().encode().translate(_SPELLING) + _END


def common(one: bytes, other: bytes, start: int) -> int:
    """The first position from ``start`` on where the two differ, or the length of the shorter."""
    end = min(len(one), len(other))
    difference = int.from_bytes(one[start:end], "big") ^ int.from_bytes(other[start:end], "big")
    return end - (difference.bit_length() + 7) // 8


def leaf_hash(key: bytes, value_hash: bytes) -> bytes:
    """The hash of the leaf of ``key`` whose value has the SHA-256 ``value_hash``."""
    return sha256(_LEAF_PREIMAGE_HEAD.pack(LEAF, len(key)) + key + value_hash).digest()


def make_leaf(key: bytes, value: bytes) -> tuple[bytes, bytes]:
    """The stored bytes and the hash of a leaf."""
    preimage = _LEAF_PREIMAGE_HEAD.pack(LEAF, len(key)) + key + sha256(value).digest()
    return _LEAF_HEAD.pack(LEAF, len(key), len(value)) + key + value, sha256(preimage).digest()


def leaf_key(stored: bytes) -> bytes:
    """The key of a stored leaf."""
    return stored[LEAF_HEAD_SIZE : LEAF_HEAD_SIZE + int.from_bytes(stored[1:3], "big")]


def leaf_entry(stored: bytes) -> tuple[bytes, bytes]:
    """The key and the value of a stored leaf."""
    end = LEAF_HEAD_SIZE + int.from_bytes(stored[1:3], "big")
    return stored[LEAF_HEAD_SIZE:end], stored[end:]


def read_branch(stored: bytes) -> Branch:
    """A stored branch, taken apart."""
    _, bitmap, skip_size = read_branch_head(stored)
    end = BRANCH_HEAD_SIZE + skip_size + HASH_SIZE * bitmap.bit_count()
    return bitmap, skip_size, stored[:end], stored[end:], _NONE_NEW


def children(branch: Branch) -> list[Node]:
    """The children of a branch in order of their symbols."""
    bitmap, _, _, references, fresh = branch
    below: list[Node] = list(_REFERENCES[bitmap.bit_count()].unpack(references))
    for symbol, node in fresh.items():
        below[(bitmap & ((1 << symbol) - 1)).bit_count()] = node
    return below


def child(branch: Branch, symbol: int) -> Node:
    """The child under a symbol that the bitmap has."""
    bitmap, _, _, references, fresh = branch
    if symbol in fresh:
        return fresh[symbol]
    (reference,) = read_reference(references, REFERENCE_SIZE * (bitmap & ((1 << symbol) - 1)).bit_count())
    return int(reference)


def first_child(stored: bytes) -> int:
    """The reference of the lowest child of a stored branch."""
    _, bitmap, skip_size = read_branch_head(stored)
    (reference,) = read_reference(stored, BRANCH_HEAD_SIZE + skip_size + HASH_SIZE * bitmap.bit_count())
    return int(reference)


def stored_size(data: bytes, at: int) -> int:
    """How many bytes the stored node that begins at ``data[at]`` has."""
    if data[at] == LEAF:
        _, key_size, value_size = _LEAF_HEAD.unpack_from(data, at)
        size: int = LEAF_HEAD_SIZE + key_size + value_size
        return size
    _, bitmap, skip_size = read_branch_head(data, at)
    return BRANCH_HEAD_SIZE + int(skip_size) + (HASH_SIZE + REFERENCE_SIZE) * int(bitmap).bit_count()
