"""A 16-ary Merkle radix trie over ordered keys: batch update, lookup and ordered scan, without any I/O.

``state/node.py`` says what the nodes are and why the tree's shape follows from its entries alone. Versions
share what they have in common: an update makes new nodes along the changed paths and never alters an old one,
so every root that was ever returned stays readable as long as its stored nodes are.
"""

from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from itertools import pairwise

from carechain.core.hashing import HASH_SIZE
from carechain.state.node import (
    BRANCH,
    BRANCH_HEAD_SIZE,
    EMPTY,
    LEAF,
    LEAF_HEAD_SIZE,
    REFERENCE_SIZE,
    Branch,
    Load,
    Node,
    Root,
    branch_head,
    common,
    first_child,
    leaf_entry,
    leaf_key,
    make_leaf,
    read_branch,
    read_branch_head,
    read_reference,
    spell,
)

Change = tuple[bytes, bytes | None]
"""A key and its new value; None removes it."""
Grown = tuple[Node, bytes]
"""A node and its hash."""
_Item = tuple[bytes, Node, bytes]
"""A leaf on its way into a new branch: its spelling, the node, its hash."""
_Passed = tuple[int, int, int, int, bytes, tuple[Node, ...]]
"""A branch passed on the way down: bitmap, skip length, where the child's hash is, which child, preimage, children."""


def apply(load: Load, root: Root, changes: Sequence[Change]) -> Root:
    """The tree after ``changes``, which are sorted by key without repetition.

    Raises ``ValueError`` for changes out of order or an empty key. Removing an absent key changes nothing.
    """
    if not changes:
        return root
    keys = [key for key, _ in changes]
    if not keys[0] or any(one >= other for one, other in pairwise(keys)):
        raise ValueError("changes must be sorted by key, each key once, no key empty")
    update = _Update(load, changes, [spell(key) for key in keys])
    grown = update.under(root.node, root.hash, 0, 0, len(changes))
    dead = (*root.dead, update.dead) if update.dead else root.dead
    return Root(EMPTY.node, EMPTY.hash, dead) if grown is None else Root(*grown, dead)


def get(load: Load, root: Root, key: bytes) -> bytes | None:
    """The value under ``key``, or None."""
    node = root.node
    if node is None:
        return None
    symbols = spell(key)
    depth = 0
    while not isinstance(node, bytes):
        if isinstance(node, int):
            stored = load(node)
            if stored[0] == LEAF:
                node = stored
                break
            _, bitmap, skip_size = read_branch_head(stored)
            kids = None
        else:
            bitmap, skip_size, stored, kids = node
        depth += skip_size
        if depth >= len(symbols):
            return None
        bit = 1 << symbols[depth]
        if not bitmap & bit:
            return None
        index = (bitmap & (bit - 1)).bit_count()
        if kids is None:
            end = BRANCH_HEAD_SIZE + skip_size + HASH_SIZE * bitmap.bit_count()
            (node,) = read_reference(stored, end + REFERENCE_SIZE * index)
        else:
            node = kids[index]
        depth += 1
    # Skip segments were not compared on the way down: the leaf holds the whole key.
    return leaf_value(node, key)


def leaf_value(stored: bytes, key: bytes) -> bytes | None:
    """The value of a stored leaf if it is the leaf of ``key``, else None."""
    end = LEAF_HEAD_SIZE + len(key)
    return stored[end:] if stored[LEAF_HEAD_SIZE:end] == key and stored[1:3] == len(key).to_bytes(2, "big") else None


def scan(load: Load, root: Root, prefix: bytes, after: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
    """Entries whose key starts with ``prefix``, ascending, only those above ``after``."""
    if root.node is None:
        return
    start = spell(prefix)[:-1]
    # Everything in the result is spelled at or above this edge: subtrees below it are passed over unread.
    edge = start if after is None or after < prefix else spell(after)
    waiting: list[tuple[Node, int, bool]] = [(root.node, 0, True)]
    while waiting:
        node, depth, on_edge = waiting.pop()
        opened = _open(load, node)
        if not isinstance(opened, bytes):
            waiting += _wanted(opened, depth, start, edge if on_edge else b"")
            continue
        key, value = leaf_entry(opened)
        if key.startswith(prefix) and (after is None or key > after):
            yield key, value


def _wanted(branch: Branch, depth: int, start: bytes, edge: bytes) -> list[tuple[Node, int, bool]]:
    """The children worth visiting, the lowest last: spelled under ``start`` and not below ``edge``."""
    bitmap, skip_size, image, kids = branch
    skip = image[BRANCH_HEAD_SIZE : BRANCH_HEAD_SIZE + skip_size]
    bound = edge[depth : depth + skip_size]
    if not skip.startswith(start[depth : depth + skip_size]) or skip[: len(bound)] < bound:
        return []
    on_edge = skip == bound
    depth += skip_size
    lowest = edge[depth] if on_edge and depth < len(edge) else -1
    if depth < len(start):
        only = 1 << start[depth]
        wanted = [(start[depth], kids[(bitmap & (only - 1)).bit_count()])] if bitmap & only else []
    else:
        wanted = list(zip(_symbols(bitmap), kids, strict=True))
    return [(kid, depth + 1, symbol == lowest) for symbol, kid in reversed(wanted) if symbol >= lowest]


def relocate(load: Load, root: Root, keys: Sequence[bytes], unwanted: Callable[[int], bool]) -> Root:
    """The same tree with every unwanted stored node on the paths of ``keys`` turned into a new one.

    ``keys`` are sorted, without repetition, and present. No hash changes: this is how a store empties old files.
    """
    if root.node is None or not keys:
        return root
    move = _Move(load, [spell(key) for key in keys], unwanted)
    node = move.under(root.node, 0, 0, len(keys))
    return Root(node, root.hash, (*root.dead, move.dead) if move.dead else root.dead)


def some_key(load: Load, stored: bytes) -> bytes:
    """The lowest key at or below a stored node all of whose children are stored."""
    while stored[0] != LEAF:
        stored = load(first_child(stored))
    return leaf_key(stored)


def _open(load: Load, node: Node) -> bytes | Branch:
    if isinstance(node, int):
        stored = load(node)
        return stored if stored[0] == LEAF else read_branch(stored)
    return node


def _symbols(bitmap: int) -> list[int]:
    return [symbol for symbol in range(bitmap.bit_length()) if bitmap >> symbol & 1]


class _Update:
    """One batch of sorted changes on its way down the tree."""

    __slots__ = ("changes", "dead", "load", "spelled")

    def __init__(self, load: Load, changes: Sequence[Change], spelled: list[bytes]) -> None:
        self.load = load
        self.changes = changes
        self.spelled = spelled
        self.dead: list[int] = []

    def under(self, node: Node | None, known: bytes, depth: int, low: int, high: int) -> Grown | None:
        """Apply changes ``low`` to ``high`` to the subtree ``node`` with hash ``known`` at ``depth``."""
        if node is None:
            return _grow(self.items(low, high), depth)
        if high - low == 1 and self.changes[low][1] is not None:
            return self.put(node, known, depth, low)
        opened = _open(self.load, node)
        if isinstance(opened, bytes):
            return self.beside_leaf(node, opened, known, depth, low, high)
        if isinstance(node, int):
            self.dead.append(node)
        return self.in_branch(opened, depth, low, high)

    def items(self, low: int, high: int) -> list[_Item]:
        """New leaves for the changes that set a value."""
        return [
            (self.spelled[index], *make_leaf(key, value))
            for index, (key, value) in enumerate(self.changes[low:high], low)
            if value is not None
        ]

    def beside_leaf(self, node: Node, stored: bytes, known: bytes, depth: int, low: int, high: int) -> Grown | None:
        """Changes that meet a single leaf: it is replaced or removed, or a branch grows around it."""
        key = leaf_key(stored)
        items = self.items(low, high)
        if any(changed == key for changed, _ in self.changes[low:high]):
            if isinstance(node, int):
                self.dead.append(node)
        else:
            items.append((spell(key), node, known))
            items.sort(key=lambda item: item[0])
        return _grow(items, depth)

    def in_branch(self, branch: Branch, depth: int, low: int, high: int) -> Grown | None:
        """Changes inside a branch."""
        bitmap, skip_size, preimage, old_kids = branch
        kids = list(old_kids)
        spelled = self.spelled
        if skip_size:
            skip = preimage[BRANCH_HEAD_SIZE : BRANCH_HEAD_SIZE + skip_size]
            first, last = spelled[low], spelled[high - 1]
            if not (first.startswith(skip, depth) and last.startswith(skip, depth)):
                shared = min(_shared(skip, first, depth), _shared(skip, last, depth))
                lower, lower_hash = _shortened(branch, shared + 1)
                bitmap, skip_size, kids = 1 << skip[shared], shared, [lower]
                preimage = branch_head(BRANCH, bitmap, shared) + skip[:shared] + lower_hash
            depth += skip_size
        hashes_at = BRANCH_HEAD_SIZE + skip_size
        image = bytearray(preimage)
        start = low
        while start < high:
            symbol = spelled[start][depth]
            stop = start + 1
            while stop < high and spelled[stop][depth] == symbol:
                stop += 1
            bit = 1 << symbol
            index = (bitmap & (bit - 1)).bit_count()
            at = hashes_at + HASH_SIZE * index
            if bitmap & bit:
                known = bytes(image[at : at + HASH_SIZE])
                grown = self.under(kids[index], known, depth + 1, start, stop)
                if grown is None:
                    del kids[index], image[at : at + HASH_SIZE]
                    bitmap ^= bit
                else:
                    kids[index], image[at : at + HASH_SIZE] = grown
            else:
                grown = self.under(None, b"", depth + 1, start, stop)
                if grown is not None:
                    kids.insert(index, grown[0])
                    image[at:at] = grown[1]
                    bitmap |= bit
            start = stop
        return self.settle(bitmap, skip_size, image, kids)

    def settle(self, bitmap: int, skip_size: int, image: bytearray, kids: list[Node]) -> Grown | None:
        """The branch as it came out: nothing if it is empty, and its only child in place of it if it has one."""
        if len(kids) > 1:
            image[:BRANCH_HEAD_SIZE] = branch_head(BRANCH, bitmap, skip_size)
            preimage = bytes(image)
            return (bitmap, skip_size, preimage, tuple(kids)), sha256(preimage).digest()
        if not kids:
            return None
        only = kids[0]
        opened = _open(self.load, only)
        hashes_at = BRANCH_HEAD_SIZE + skip_size
        if isinstance(opened, bytes):
            return only, bytes(image[hashes_at:])
        if isinstance(only, int):
            self.dead.append(only)
        prefix = bytes(image[BRANCH_HEAD_SIZE:hashes_at]) + bytes([bitmap.bit_length() - 1])
        inner, inner_skip, preimage, inner_kids = opened
        size = len(prefix) + inner_skip
        preimage = branch_head(BRANCH, inner, size) + prefix + preimage[BRANCH_HEAD_SIZE:]
        return (inner, size, preimage, inner_kids), sha256(preimage).digest()

    def put(self, node: Node, known: bytes, depth: int, index: int) -> Grown:
        """Set one key below ``node``: the common case far from the root, so it walks instead of recursing."""
        key, value = self.changes[index]
        symbols = self.spelled[index]
        new: Node
        new, new_hash = make_leaf(key, value)  # type: ignore[arg-type]
        passed: list[_Passed] = []
        while True:
            if isinstance(node, int):
                stored = self.load(node)
                if stored[0] == LEAF:
                    if leaf_value(stored, key) is not None:
                        self.dead.append(node)
                    else:
                        new, new_hash = _pair(symbols, new, new_hash, (spell(leaf_key(stored)), node, known), depth)
                    break
                self.dead.append(node)
                bitmap, skip_size, image, kids = read_branch(stored)
            elif isinstance(node, bytes):
                if leaf_value(node, key) is None:
                    new, new_hash = _pair(symbols, new, new_hash, (spell(leaf_key(node)), node, known), depth)
                break
            else:
                bitmap, skip_size, image, kids = node
            at = BRANCH_HEAD_SIZE
            if skip_size:
                at += skip_size
                skip = image[BRANCH_HEAD_SIZE:at]
                if not symbols.startswith(skip, depth):
                    shared = _shared(skip, symbols, depth)
                    lower, lower_hash = _shortened((bitmap, skip_size, image, kids), shared + 1)
                    new, new_hash = _fork(
                        skip[:shared], (skip[shared], lower, lower_hash), (symbols[depth + shared], new, new_hash)
                    )
                    break
                depth += skip_size
            bit = 1 << symbols[depth]
            place = (bitmap & (bit - 1)).bit_count()
            at += HASH_SIZE * place
            if not bitmap & bit:
                bitmap |= bit
                image = branch_head(BRANCH, bitmap, skip_size) + image[BRANCH_HEAD_SIZE:at] + new_hash + image[at:]
                new, new_hash = (bitmap, skip_size, image, kids[:place] + (new,) + kids[place:]), sha256(image).digest()
                break
            passed.append((bitmap, skip_size, at, place, image, kids))
            known = image[at : at + HASH_SIZE]
            node = kids[place]
            depth += 1
        return _rehashed(passed, new, new_hash)


class _Move:
    """Stored nodes on the way out of files that are to be dropped."""

    __slots__ = ("dead", "load", "spelled", "unwanted")

    def __init__(self, load: Load, spelled: list[bytes], unwanted: Callable[[int], bool]) -> None:
        self.load = load
        self.spelled = spelled
        self.unwanted = unwanted
        self.dead: list[int] = []

    def under(self, node: Node, depth: int, low: int, high: int) -> Node:
        """``node`` itself if nothing below has to move, otherwise a new node in its place."""
        stale = isinstance(node, int) and self.unwanted(node)
        opened = _open(self.load, node)
        if isinstance(opened, bytes):
            fresh: Node = opened
            moved = stale
        else:
            bitmap, skip_size, image, old_kids = opened
            kids = list(old_kids)
            moved = self.children(bitmap, depth + skip_size, kids, low, high) or stale
            fresh = (bitmap, skip_size, image, tuple(kids))
        if not moved:
            return node
        if isinstance(node, int):
            self.dead.append(node)
        return fresh

    def children(self, bitmap: int, depth: int, kids: list[Node], low: int, high: int) -> bool:
        """Replace in ``kids`` what moves; whether anything did."""
        moved = False
        while low < high:
            symbol = self.spelled[low][depth]
            stop = low + 1
            while stop < high and self.spelled[stop][depth] == symbol:
                stop += 1
            place = (bitmap & ((1 << symbol) - 1)).bit_count()
            fresh = self.under(kids[place], depth + 1, low, stop)
            if fresh is not kids[place]:
                kids[place] = fresh
                moved = True
            low = stop
        return moved


def _rehashed(passed: list[_Passed], node: Node, known: bytes) -> Grown:
    """The top of the passed branches once ``node`` with hash ``known`` stands below them."""
    for bitmap, skip_size, at, place, old_image, kids in reversed(passed):
        image = old_image[:at] + known + old_image[at + HASH_SIZE :]
        node = (bitmap, skip_size, image, kids[:place] + (node,) + kids[place + 1 :])
        known = sha256(image).digest()
    return node, known


def _shared(skip: bytes, symbols: bytes, depth: int) -> int:
    """How many symbols of ``skip`` the spelling follows from ``depth`` on."""
    return common(skip, symbols[depth : depth + len(skip)], 0)


def _shortened(branch: Branch, cut: int) -> Grown:
    """The branch without the first ``cut`` symbols of its skip segment."""
    bitmap, skip_size, image, kids = branch
    image = branch_head(BRANCH, bitmap, skip_size - cut) + image[BRANCH_HEAD_SIZE + cut :]
    return (bitmap, skip_size - cut, image, kids), sha256(image).digest()


def _fork(skip: bytes, one: tuple[int, Node, bytes], other: tuple[int, Node, bytes]) -> Grown:
    """A branch over two children, each given as (symbol, node, hash)."""
    if one[0] > other[0]:
        one, other = other, one
    bitmap = 1 << one[0] | 1 << other[0]
    image = branch_head(BRANCH, bitmap, len(skip)) + skip + one[2] + other[2]
    return (bitmap, len(skip), image, (one[1], other[1])), sha256(image).digest()


def _pair(symbols: bytes, node: Node, known: bytes, old: _Item, depth: int) -> Grown:
    """A branch over a new leaf and an old one."""
    at = common(symbols, old[0], depth)
    return _fork(symbols[depth:at], (symbols[at], node, known), (old[0][at], old[1], old[2]))


def _grow(items: list[_Item], depth: int) -> Grown | None:
    """The subtree over sorted leaves that agree in everything before ``depth``."""
    if not items:
        return None
    if len(items) == 1:
        return items[0][1], items[0][2]
    first = items[0][0]
    at = common(first, items[-1][0], depth)
    bitmap = 0
    kids: list[Node] = []
    hashes: list[bytes] = []
    start = 0
    while start < len(items):
        symbol = items[start][0][at]
        stop = start + 1
        while stop < len(items) and items[stop][0][at] == symbol:
            stop += 1
        grown = _grow(items[start:stop], at + 1)
        if grown is not None:
            kids.append(grown[0])
            hashes.append(grown[1])
            bitmap |= 1 << symbol
        start = stop
    image = branch_head(BRANCH, bitmap, at - depth) + first[depth:at] + b"".join(hashes)
    return (bitmap, at - depth, image, tuple(kids)), sha256(image).digest()
