"""Re-hash a whole state tree: what ``verify`` does, and how damage on the disk is found and named."""

from collections.abc import Iterator
from hashlib import sha256
from struct import error as StructError  # noqa: N812 - the standard library's spelling of a class

from carechain.core.hashing import HASH_SIZE, ZERO_HASH
from carechain.state.log import StoreDamaged
from carechain.state.node import (
    BRANCH,
    BRANCH_HEAD_SIZE,
    LEAF,
    SYMBOLS,
    Branch,
    Load,
    Node,
    Root,
    children,
    leaf_entry,
    leaf_hash,
    read_branch,
    spell,
    stored_size,
)

_DIGITS = "0123456789abcdef"


class BadState(Exception):  # noqa: N818 - names what is wrong with the argument
    """A node is not what its parent's hash says, or the tree is not in canonical form.

    ``place`` is the hexadecimal beginning of the keys concerned: all there is to say about where the damage is.
    """

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(f"{reason} at {place or 'the root'}")
        self.place = place
        self.reason = reason


def check_tree(load: Load, root: Root) -> Iterator[tuple[bytes, bytes]]:
    """Every entry in key order, each returned only after all nodes above it were found right.

    Raises :class:`BadState` at the first node whose hash or form is wrong; reads every node once.
    """
    if root.node is None:
        if root.hash != ZERO_HASH:
            raise BadState("", "a tree without nodes has another hash")
        return
    waiting: list[tuple[Node, bytes, bytes]] = [(root.node, root.hash, b"")]
    while waiting:
        node, known, path = waiting.pop()
        opened = _opened(load, node, path)
        if isinstance(opened, bytes):
            key, value = leaf_entry(opened)
            if leaf_hash(key, sha256(value).digest()) != known or not spell(key).startswith(path):
                raise BadState(_place(path), "wrong leaf")
            yield key, value
            continue
        bitmap, skip_size, image, _, _ = opened
        if sha256(image).digest() != known:
            raise BadState(_place(path), "wrong branch")
        hashes_at = BRANCH_HEAD_SIZE + skip_size
        path += image[BRANCH_HEAD_SIZE:hashes_at]
        below = children(opened)
        if len(below) == 1:
            raise BadState(_place(path), "a branch with one child")
        symbols = [symbol for symbol in range(SYMBOLS) if bitmap >> symbol & 1]
        for index in reversed(range(len(below))):
            at = hashes_at + HASH_SIZE * index
            waiting.append((below[index], image[at : at + HASH_SIZE], path + bytes([symbols[index]])))


def _opened(load: Load, node: Node, path: bytes) -> bytes | Branch:
    if not isinstance(node, int):
        return node
    try:
        stored = load(node)
        if stored[:1] not in (bytes([LEAF]), bytes([BRANCH])) or stored_size(stored, 0) != len(stored):
            raise BadState(_place(path), "not a node")
        return stored if stored[0] == LEAF else read_branch(stored)
    except StoreDamaged as damaged:
        raise BadState(_place(path), str(damaged)) from None
    except StructError:
        raise BadState(_place(path), "not a node") from None


def _place(path: bytes) -> str:
    return "".join(_DIGITS[symbol - 1] for symbol in path if symbol)
