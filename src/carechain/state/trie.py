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
    NO_REFERENCE,
    REFERENCE_SIZE,
    Branch,
    Load,
    Node,
    Root,
    branch_head,
    child,
    children,
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
_Passed = tuple[Branch, int, int]
"""A branch passed on the way down, the symbol of the child taken, and where that child's hash is."""


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
    grown = update.under(root.node, root.hash, 0, 0, 0, len(changes))
    dead = (*root.dead, update.dead) if update.dead else root.dead
    return Root(EMPTY.node, EMPTY.hash, dead) if grown is None else Root(*grown, dead)


def get(load: Load, root: Root, key: bytes) -> bytes | None:
    """The value under ``key``, or None."""
    if root.node is None:
        return None
    end = _descend(load, root.node, spell(key))
    # Skip segments were not compared on the way down: the leaf holds the whole key.
    return leaf_value(end, key) if isinstance(end, bytes) else None


def _descend(load: Load, node: Node, symbols: bytes) -> Node | None:
    """Where the way along ``symbols`` ends: at a leaf (its bytes), at the branch that uses them up, or nowhere (None).

    Skip segments are passed over, not compared: the caller looks at a leaf it finds.
    """
    depth = 0
    while not isinstance(node, bytes):
        if isinstance(node, int):
            stored = load(node)
            if stored[0] == LEAF:
                return stored
            _, bitmap, skip_size = read_branch_head(stored)
            at, fresh = BRANCH_HEAD_SIZE + skip_size + HASH_SIZE * bitmap.bit_count(), None
        else:
            bitmap, skip_size, _, stored, fresh = node
            at = 0
        depth += skip_size
        if depth >= len(symbols):
            break
        symbol = symbols[depth]
        bit = 1 << symbol
        if not bitmap & bit:
            return None
        if fresh is not None and symbol in fresh:
            node = fresh[symbol]
        else:
            (node,) = read_reference(stored, at + REFERENCE_SIZE * (bitmap & (bit - 1)).bit_count())
        depth += 1
    return node


def leaf_value(stored: bytes, key: bytes) -> bytes | None:
    """The value of a stored leaf if it is the leaf of ``key``, else None."""
    end = LEAF_HEAD_SIZE + len(key)
    return stored[end:] if stored[LEAF_HEAD_SIZE:end] == key and stored[1:3] == len(key).to_bytes(2, "big") else None


def scan(load: Load, root: Root, prefix: bytes, after: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
    """Entries whose key starts with ``prefix``, ascending, only those above ``after``."""
    if root.node is None:
        return
    if after is None or after < prefix:
        # Whatever lies below shares the way there, so the first leaf tells whether it begins with the prefix.
        top = _descend(load, root.node, spell(prefix)[:-1])
        after, waiting = b"", [] if top is None else [top]
    else:
        waiting = _above(load, root.node, spell(after))
    while waiting:
        opened = _open(load, waiting.pop())
        if isinstance(opened, bytes):
            key, value = leaf_entry(opened)
            if key <= after:
                continue
            if not key.startswith(prefix):
                return
            yield key, value
        else:
            waiting += reversed(children(opened))


def _above(load: Load, node: Node, edge: bytes) -> list[Node]:
    """The subtrees, highest first, of all keys spelled above ``edge``; the lowest may be a leaf that is not."""
    found: list[Node] = []
    depth = 0
    while not isinstance(opened := _open(load, node), bytes):
        bitmap, skip_size, image, _, _ = opened
        skip = image[BRANCH_HEAD_SIZE : BRANCH_HEAD_SIZE + skip_size]
        bound = edge[depth : depth + skip_size]
        if skip != bound:
            # All of it lies on one side of the edge.
            return [*found, node] if skip > bound else found
        depth += skip_size
        below = children(opened)
        lower = (bitmap & ((1 << edge[depth]) - 1)).bit_count()
        is_there = bitmap >> edge[depth] & 1
        found += reversed(below[lower + is_there :])
        if not is_there:
            return found
        node = below[lower]
        depth += 1
    return [*found, node]


def relocate(load: Load, root: Root, keys: Sequence[bytes], unwanted: Callable[[int], bool | None]) -> Root:
    """The same tree with every unwanted stored node on the paths of ``keys`` turned into a new one.

    ``keys`` are sorted, without repetition, and present. ``unwanted`` answers None for a node that is to stay and
    has nothing below it that must move. No hash changes: this is how a store empties old files.
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


class _Update:
    """One batch of sorted changes on its way down the tree."""

    __slots__ = ("changes", "dead", "load", "spelled")

    def __init__(self, load: Load, changes: Sequence[Change], spelled: list[bytes]) -> None:
        self.load = load
        self.changes = changes
        self.spelled = spelled
        self.dead: list[int] = []

    def under(
        self, node: Node | None, above: bytes | bytearray, at: int, depth: int, low: int, high: int
    ) -> Grown | None:
        """Apply changes ``low`` to ``high`` to the subtree ``node`` at ``depth``.

        Its hash stands in ``above`` at ``at``: cut out only where it is needed, beside a leaf.
        """
        if node is None:
            return _grow(self.items(low, high), depth)
        if high - low == 1 and self.changes[low][1] is not None:
            return self.put(node, above, at, depth, low)
        opened = _open(self.load, node)
        if isinstance(opened, bytes):
            return self.beside_leaf(node, opened, bytes(above[at : at + HASH_SIZE]), depth, low, high)
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
        bitmap, skip_size, preimage, references, fresh = self.met(branch, depth, low, high)
        spelled = self.spelled
        fresh = fresh.copy()
        image = bytearray(preimage)
        hashes_at = BRANCH_HEAD_SIZE + skip_size
        depth += skip_size
        start = low
        while start < high:
            symbol = spelled[start][depth]
            stop = start + 1
            while stop < high and spelled[stop][depth] == symbol:
                stop += 1
            bit = 1 << symbol
            place = (bitmap & (bit - 1)).bit_count()
            at = hashes_at + HASH_SIZE * place
            if bitmap & bit:
                if symbol in fresh:
                    node = fresh[symbol]
                else:
                    (node,) = read_reference(references, REFERENCE_SIZE * place)
                grown = self.under(node, image, at, depth + 1, start, stop)
                if grown is None:
                    del image[at : at + HASH_SIZE]
                    references = references[: REFERENCE_SIZE * place] + references[REFERENCE_SIZE * (place + 1) :]
                    fresh.pop(symbol, None)
                    bitmap ^= bit
                else:
                    fresh[symbol], image[at : at + HASH_SIZE] = grown
            else:
                grown = self.under(None, b"", 0, depth + 1, start, stop)
                if grown is not None:
                    fresh[symbol], image[at:at] = grown
                    references = _widened(references, place)
                    bitmap |= bit
            start = stop
        return self.settle(bitmap, skip_size, image, references, fresh)

    def met(self, branch: Branch, depth: int, low: int, high: int) -> Branch:
        """The branch where the changes meet it: itself, or one over it where they leave its skip segment."""
        _, skip_size, image, _, _ = branch
        skip = image[BRANCH_HEAD_SIZE : BRANCH_HEAD_SIZE + skip_size]
        first, last = self.spelled[low], self.spelled[high - 1]
        if first.startswith(skip, depth) and last.startswith(skip, depth):
            return branch
        shared = min(_shared(skip, first, depth), _shared(skip, last, depth))
        lower, lower_hash = _shortened(branch, shared + 1)
        symbol = skip[shared]
        image = branch_head(BRANCH, 1 << symbol, shared) + skip[:shared] + lower_hash
        return 1 << symbol, shared, image, NO_REFERENCE, {symbol: lower}

    def settle(
        self, bitmap: int, skip_size: int, image: bytearray, references: bytes, fresh: dict[int, Node]
    ) -> Grown | None:
        """The branch as it came out: nothing if it is empty, and its only child in place of it if it has one."""
        if not bitmap:
            return None
        image[:BRANCH_HEAD_SIZE] = branch_head(BRANCH, bitmap, skip_size)
        preimage = bytes(image)
        branch = (bitmap, skip_size, preimage, references, fresh)
        if bitmap & (bitmap - 1):
            return branch, sha256(preimage).digest()
        symbol = bitmap.bit_length() - 1
        only = child(branch, symbol)
        opened = _open(self.load, only)
        hashes_at = BRANCH_HEAD_SIZE + skip_size
        if isinstance(opened, bytes):
            return only, preimage[hashes_at:]
        if isinstance(only, int):
            self.dead.append(only)
        prefix = preimage[BRANCH_HEAD_SIZE:hashes_at] + bytes([symbol])
        bitmap, skip_size, preimage, references, fresh = opened
        skip_size += len(prefix)
        preimage = branch_head(BRANCH, bitmap, skip_size) + prefix + preimage[BRANCH_HEAD_SIZE:]
        return (bitmap, skip_size, preimage, references, fresh), sha256(preimage).digest()

    def put(self, node: Node, above: bytes | bytearray, at: int, depth: int, index: int) -> Grown:
        """Set one key below ``node``: the common case far from the root, so it walks instead of recursing."""
        symbols = self.spelled[index]
        passed: list[_Passed] = []
        while True:
            if isinstance(node, int):
                stored = self.load(node)
                if stored[0] == LEAF:
                    break
                self.dead.append(node)
                branch = read_branch(stored)
            elif isinstance(node, bytes):
                stored = node
                break
            else:
                branch = node
            bitmap, skip_size, image, references, fresh = branch
            below = BRANCH_HEAD_SIZE + skip_size
            if skip_size:
                if not symbols.startswith(image[BRANCH_HEAD_SIZE:below], depth):
                    return _rehashed(passed, *self.over(branch, depth, index))
                depth += skip_size
            symbol = symbols[depth]
            bit = 1 << symbol
            place = (bitmap & (bit - 1)).bit_count()
            above, at = image, below + HASH_SIZE * place
            if not bitmap & bit:
                return _rehashed(passed, *self.added(branch, place, at, symbol, index))
            passed.append((branch, symbol, at))
            if symbol in fresh:
                node = fresh[symbol]
            else:
                (node,) = read_reference(references, REFERENCE_SIZE * place)
            depth += 1
        known = bytes(above[at : at + HASH_SIZE])
        return _rehashed(passed, *self.instead(node, stored, known, depth, index))

    def leaf(self, index: int) -> Grown:
        """The new leaf of a change that sets a value."""
        key, value = self.changes[index]
        return make_leaf(key, value or b"")

    def instead(self, node: Node, stored: bytes, known: bytes, depth: int, index: int) -> Grown:
        """One value set where a leaf is: the leaf is replaced, or the two part ways."""
        if leaf_value(stored, self.changes[index][0]) is None:
            return _pair(self.spelled[index], *self.leaf(index), (spell(leaf_key(stored)), node, known), depth)
        if isinstance(node, int):
            self.dead.append(node)
        return self.leaf(index)

    def over(self, branch: Branch, depth: int, index: int) -> Grown:
        """One value set that leaves a branch's skip segment: a branch over the two."""
        symbols = self.spelled[index]
        skip = branch[2][BRANCH_HEAD_SIZE : BRANCH_HEAD_SIZE + branch[1]]
        shared = _shared(skip, symbols, depth)
        lower = (skip[shared], *_shortened(branch, shared + 1))
        return _fork(skip[:shared], lower, (symbols[depth + shared], *self.leaf(index)))

    def added(self, branch: Branch, place: int, at: int, symbol: int, index: int) -> Grown:
        """One value set where a branch has no child yet."""
        bitmap, skip_size, image, references, fresh = branch
        leaf, known = self.leaf(index)
        bitmap |= 1 << symbol
        image = branch_head(BRANCH, bitmap, skip_size) + image[BRANCH_HEAD_SIZE:at] + known + image[at:]
        return (bitmap, skip_size, image, _widened(references, place), {**fresh, symbol: leaf}), sha256(image).digest()


class _Move:
    """Stored nodes on the way out of files that are to be dropped."""

    __slots__ = ("dead", "load", "spelled", "unwanted")

    def __init__(self, load: Load, spelled: list[bytes], unwanted: Callable[[int], bool | None]) -> None:
        self.load = load
        self.spelled = spelled
        self.unwanted = unwanted
        self.dead: list[int] = []

    def under(self, node: Node, depth: int, low: int, high: int) -> Node:
        """``node`` itself if nothing here or below has to move, otherwise a new node in its place."""
        stale: bool | None = False
        opened: bytes | Branch
        if isinstance(node, int):
            stale = self.unwanted(node)
            if stale is None:
                return node
            stored = self.load(node)
            opened = stored if stored[0] == LEAF else read_branch(stored)
        else:
            opened = node
        if not isinstance(opened, bytes):
            bitmap, skip_size, image, references, fresh = opened
            moved = self.below(opened, depth + skip_size, low, high)
            if moved:
                opened = (bitmap, skip_size, image, references, {**fresh, **moved})
            stale = stale or bool(moved)
        if not stale:
            return node
        if isinstance(node, int):
            self.dead.append(node)
        return opened

    def below(self, branch: Branch, depth: int, low: int, high: int) -> dict[int, Node]:
        """The children that become new nodes, by symbol."""
        moved: dict[int, Node] = {}
        while low < high:
            symbol = self.spelled[low][depth]
            stop = low + 1
            while stop < high and self.spelled[stop][depth] == symbol:
                stop += 1
            node = child(branch, symbol)
            fresh = self.under(node, depth + 1, low, stop)
            if fresh is not node:
                moved[symbol] = fresh
            low = stop
        return moved


def _rehashed(passed: list[_Passed], node: Node, known: bytes) -> Grown:
    """The top of the passed branches once ``node`` with hash ``known`` stands below them."""
    for (bitmap, skip_size, old_image, references, fresh), symbol, at in reversed(passed):
        image = old_image[:at] + known + old_image[at + HASH_SIZE :]
        node = (bitmap, skip_size, image, references, {**fresh, symbol: node} if fresh else {symbol: node})
        known = sha256(image).digest()
    return node, known


def _widened(references: bytes, place: int) -> bytes:
    """The references with room for one more at ``place``."""
    at = REFERENCE_SIZE * place
    return references[:at] + NO_REFERENCE + references[at:]


def _shared(skip: bytes, symbols: bytes, depth: int) -> int:
    """How many symbols of ``skip`` the spelling follows from ``depth`` on."""
    return common(skip, symbols[depth : depth + len(skip)], 0)


def _shortened(branch: Branch, cut: int) -> Grown:
    """The branch without the first ``cut`` symbols of its skip segment."""
    bitmap, skip_size, image, references, fresh = branch
    image = branch_head(BRANCH, bitmap, skip_size - cut) + image[BRANCH_HEAD_SIZE + cut :]
    return (bitmap, skip_size - cut, image, references, fresh), sha256(image).digest()


def _fork(skip: bytes, one: tuple[int, Node, bytes], other: tuple[int, Node, bytes]) -> Grown:
    """A branch over two children, each given as (symbol, node, hash)."""
    if one[0] > other[0]:
        one, other = other, one
    bitmap = 1 << one[0] | 1 << other[0]
    image = branch_head(BRANCH, bitmap, len(skip)) + skip + one[2] + other[2]
    fresh = {one[0]: one[1], other[0]: other[1]}
    return (bitmap, len(skip), image, 2 * NO_REFERENCE, fresh), sha256(image).digest()


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
    fresh: dict[int, Node] = {}
    hashes: list[bytes] = []
    start = 0
    while start < len(items):
        symbol = items[start][0][at]
        stop = start + 1
        while stop < len(items) and items[stop][0][at] == symbol:
            stop += 1
        grown = _grow(items[start:stop], at + 1)
        if grown is not None:
            fresh[symbol] = grown[0]
            hashes.append(grown[1])
            bitmap |= 1 << symbol
        start = stop
    image = branch_head(BRANCH, bitmap, at - depth) + first[depth:at] + b"".join(hashes)
    return (bitmap, at - depth, image, len(hashes) * NO_REFERENCE, fresh), sha256(image).digest()
