"""The durable home of the state tree: node files for the tree, LMDB for everything small around it.

The block log is authoritative; this store is derived from it and brought up to date at checkpoints. Blocks are
applied in memory (:meth:`Snapshot.apply`). A checkpoint writes the new nodes, makes them durable, and then commits
height, root and side tables in one LMDB transaction: after a crash the store is at one checkpoint or the other,
never between. A node made and replaced between two checkpoints never reaches the disk.

One process writes, and from one thread; others may open the store read-only.
"""

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from struct import Struct
from typing import Annotated, Final, Self, TypeVar

import lmdb
import msgspec
from msgspec import Meta

from carechain.core.codec import Malformed, decode_strict, encode
from carechain.core.ids import U63, Hash
from carechain.core.limits import LOWER_CACHE_BYTES, NODE_CACHE_BYTES
from carechain.core.message import Row
from carechain.state import trie
from carechain.state.held import Held
from carechain.state.lmdb_file import DAMAGE, INDEX_FILE, INDEX_FOLDER, fill_up, get, open_index, under
from carechain.state.log import (
    DEFAULT_FILE_BYTES,
    LEAVES,
    NodeLog,
    StoreDamaged,
    Stream,
    all_leaves,
    file_of,
    is_upper,
    make_folder,
    size_of,
    stream_of,
)
from carechain.state.node import (
    EMPTY,
    LEAF,
    REFERENCE_SIZE,
    Branch,
    Node,
    Root,
    leaf_entry,
    leaf_hash,
    read_branch,
    write_reference,
)
from carechain.state.recent import Fetched
from carechain.state.snapshot import Snapshot

T = TypeVar("T")

STORE_VERSION: Final = 2
"""Raised by one whenever the layout on disk changes; each step has a migration below, or else the store is rebuilt.

Version 2 put a checksum behind every node.
"""
Migration = Callable[[lmdb.Transaction, Path], None]
MIGRATIONS: Final[dict[int, Migration]] = {}
"""From version n to n+1, run inside the transaction that also records the new version."""

Side = tuple[str, bytes, bytes | None]
"""Table, key and value (None deletes) of a side entry."""

INITIAL_MAP_BYTES: Final = 64 * 1024 * 1024
SIDE_PAGE_ROWS: Final = 1000
MOVED_BYTES_PER_CHECKPOINT: Final = 1024 * 1024
"""Per stream: about how much a checkpoint copies out of old files in order to drop them."""
DEAD_SHARE: Final = {False: (0.75, 0.6, 0.5), True: (0.6, 0.5, 0.4)}
"""By stream, busy or idle: the share of unused bytes above which old files are emptied."""

_VERSION_KEY: Final = b"version"
_HEAD_KEY: Final = b"head"
_META: Final = b"meta/"
_NUMBER: Final = Struct(">I")
_DEAD_KEY: Final = Struct(">IQ")
_SIZES: Final = Struct(">QQ")


class StoreTooNew(Exception):  # noqa: N818 - names what is wrong with the store
    """The store was written by a newer version of the program; install that version or restore a backup."""


class StoreTooOld(Exception):  # noqa: N818 - names what is wrong with the store
    """The store needs a migration that this program cannot run, or not on a read-only store: rebuild it."""


class StoreLocked(Exception):  # noqa: N818 - names what is wrong with the store
    """Another process has the store open for writing."""


U64 = Annotated[int, Meta(ge=0)]
"""msgpack has no number above 64 bits, so only the sign needs a bound."""


class _Head(Row, frozen=True):
    """What a checkpoint stands for. ``top`` refers to the root node; it is None when the tree is empty."""

    height: U63
    root: Hash
    top: U64 | None
    epoch: U63


_head_decoder = msgspec.msgpack.Decoder(_Head)
_NO_HEAD: Final = _Head(height=0, root=EMPTY.hash, top=None, epoch=0)


class NodeStore:
    """Checkpoints of the state tree, and side tables committed together with them."""

    def __init__(self, path: Path, *, env: lmdb.Environment, log: NodeLog, lock: int | None) -> None:
        """Use :meth:`open`."""
        self._path = path
        self._env = env
        self._log = log
        self._lock = lock
        self._main = env.open_db(b"main", create=lock is not None)
        self._files = env.open_db(b"files", create=lock is not None)
        self._dead = env.open_db(b"dead", create=lock is not None)
        self._side: dict[str, lmdb._Database] = {}
        self._forgotten: list[int] = []
        self._held: list[Held] = []
        self._head = _NO_HEAD
        # Upper branches apart, since every read passes some of them: the many below must not push them out.
        self._below = Fetched(log.load, wanted=lambda _: True, room_bytes=LOWER_CACHE_BYTES)
        self._upper = Fetched(self._fetch, wanted=is_upper, room_bytes=NODE_CACHE_BYTES)
        self.load_recent = self._upper.__getitem__

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        read_only: bool = False,
        map_bytes: int = INITIAL_MAP_BYTES,
        file_bytes: int = DEFAULT_FILE_BYTES,
    ) -> Self:
        """Open the store in the folder ``path``, which is made if it is not there.

        ``map_bytes`` and ``file_bytes`` are starting sizes; both grow. Raises :class:`StoreTooNew`,
        :class:`StoreTooOld`, :class:`StoreLocked`, :class:`StoreDamaged`, or ``OSError`` and ``lmdb.Error`` for
        what the disk refuses.
        """
        lock = None
        if not read_only:
            make_folder(path / INDEX_FOLDER)
            lock = _lock(path / "lock")
        log = NodeLog(path, file_bytes=file_bytes, writable=not read_only)
        env: lmdb.Environment | None = None
        try:
            env = open_index(path / INDEX_FOLDER, read_only=read_only, map_bytes=map_bytes)
            store = cls(path, env=env, log=log, lock=lock)
            store._check_version()
            store._resume()
        except BaseException as error:
            _release(log, env, lock)
            if isinstance(error, DAMAGE):
                raise StoreDamaged("the file of the small tables cannot be read") from error
            raise
        return store

    def close(self) -> None:
        """Release files and locks. What was applied since the last checkpoint is only in the block log."""
        for held in tuple(self._held):
            held.release()
        lock, self._lock = self._lock, None
        _release(self._log, self._env, lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- opening ------------------------------------------------------------------------------------------

    def _check_version(self) -> None:
        raw = self._read(lambda txn: get(txn, _VERSION_KEY, self._main))
        found = STORE_VERSION if raw is None else _NUMBER.unpack(raw)[0]
        if found > STORE_VERSION:
            raise StoreTooNew(f"the store has version {found}, this program knows {STORE_VERSION}")
        if self._lock is None:
            if found < STORE_VERSION:
                raise StoreTooOld(f"the store has version {found}: open it once for writing")
            return
        missing = [version for version in range(found, STORE_VERSION) if version not in MIGRATIONS]
        if missing:
            raise StoreTooOld(f"no migration from store version {missing[0]}")
        if raw is None or found < STORE_VERSION:
            self._commit(lambda txn: self._migrate(txn, found))

    def _migrate(self, txn: lmdb.Transaction, found: int) -> None:
        for version in range(found, STORE_VERSION):
            MIGRATIONS[version](txn, self._path)
        txn.put(_VERSION_KEY, _NUMBER.pack(STORE_VERSION), db=self._main)

    def _resume(self) -> None:
        def read(txn: lmdb.Transaction) -> tuple[bytes | None, list[tuple[int, int, int]]]:
            files = txn.cursor(db=self._files)
            return get(txn, _HEAD_KEY, self._main), [(*_NUMBER.unpack(one), *_SIZES.unpack(row)) for one, row in files]

        raw, sizes = self._read(read)
        if raw is not None:
            try:
                self._head = decode_strict(_head_decoder, raw)
            except Malformed:
                raise StoreDamaged("the last checkpoint cannot be read") from None
        self._log.adopt(sizes)
        # Whoever only reads goes through all nodes anyway, and names the one that is wrong.
        if self._lock is not None and self._head.top is not None and self._top_hash(self._head.top) != self._head.root:
            raise StoreDamaged("the top node is not that of the last checkpoint")

    def _top_hash(self, top: int) -> bytes:
        stored = self.load(top)
        if stored[0] == LEAF:
            key, value = leaf_entry(stored)
            return leaf_hash(key, sha256(value).digest())
        return sha256(read_branch(stored)[2]).digest()

    # --- reading ------------------------------------------------------------------------------------------

    @property
    def height(self) -> int:
        """The height of the last checkpoint; 0 before the first."""
        return self._head.height

    @property
    def epoch(self) -> int:
        """How many checkpoints were written."""
        return self._head.epoch

    def snapshot(self) -> Snapshot:
        """The state as of the last checkpoint."""
        return Snapshot(self, Root(self._head.top, self._head.root))

    def hold(self, snapshot: Snapshot) -> Held:
        """Keep a snapshot that is readable now readable until it is released, or the store is closed."""
        held = Held(self, snapshot, self._let_go)
        self._held.append(held)
        return held

    def _let_go(self, held: Held) -> None:
        if held in self._held:
            self._held.remove(held)

    def meta(self) -> dict[str, bytes]:
        """What the last checkpoint was told to remember."""

        def read(txn: lmdb.Transaction) -> dict[str, bytes]:
            cursor = txn.cursor(db=self._main)
            return {key[len(_META) :].decode(): value for key, value in under(cursor, _META)}

        return self._read(read)

    def side_get(self, table: str, key: bytes) -> bytes | None:
        """An entry of a side table as of the last checkpoint."""
        db = self._side_table(table, create=False)
        return None if db is None else self._read(lambda txn: get(txn, key, db))

    def side_count(self, table: str) -> int:
        """How many entries a side table had at the last checkpoint."""
        db = self._side_table(table, create=False)
        return 0 if db is None else self._read(lambda txn: int(txn.stat(db)["entries"]))

    def side_scan(self, table: str, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Entries of a side table whose key starts with ``prefix``, ascending.

        Rows are fetched a thousand at a time and no transaction stays open between, so a checkpoint may pass
        while the caller iterates.
        """
        db = self._side_table(table, create=False)
        start = prefix

        def read(txn: lmdb.Transaction) -> list[tuple[bytes, bytes]]:
            return list(under(txn.cursor(db=db), prefix, start, SIDE_PAGE_ROWS))

        while db is not None:
            page = self._read(read)
            yield from page
            if len(page) < SIDE_PAGE_ROWS:
                return
            start = page[-1][0] + b"\x00"

    def _side_table(self, table: str, *, create: bool) -> "lmdb._Database | None":
        db = self._side.get(table)
        if db is None:
            name = b"side/" + table.encode()

            def attempt() -> "lmdb._Database | None":
                try:
                    return self._env.open_db(name, create=create)
                except (lmdb.NotFoundError, lmdb.ReadonlyError):
                    return None

            db = self._growing(attempt)
            if db is None:
                return None
            self._side[table] = db
        return db

    def load(self, reference: int) -> bytes:
        """The stored bytes of a node that is about to be replaced: taken from where a read left it, and not kept."""
        return self._upper.get(reference) or self._below.get(reference) or self._log.load(reference)

    def _fetch(self, reference: int) -> bytes:
        return self._log.load(reference) if is_upper(reference) else self._below[reference]

    def condemn(self, reason: str) -> StoreDamaged:
        """The error to raise where the store turns out to be wrong; the next start will rebuild it."""
        return self._log.condemn(reason)

    def _read(self, action: Callable[[lmdb.Transaction], T]) -> T:
        """What ``action`` makes of one read transaction."""
        try:
            with self._reading() as txn:
                return action(txn)
        except DAMAGE as error:
            raise self.condemn("the file of the small tables cannot be read") from error

    def _reading(self) -> lmdb.Transaction:
        try:
            return self._env.begin(buffers=False)
        except lmdb.MapResizedError:
            # Another process enlarged the map; zero adopts the size it has now.
            self._env.set_mapsize(0)
            return self._env.begin(buffers=False)

    # --- writing ------------------------------------------------------------------------------------------

    def checkpoint(
        self,
        *,
        height: int,
        snapshot: Snapshot,
        meta: Mapping[str, bytes] | None = None,
        side: Iterable[Side] = (),
        idle: bool = False,
    ) -> Snapshot:
        """Make ``snapshot`` durable as the state at ``height``, together with ``meta`` and ``side``.

        ``idle`` says that nothing is pressing, so that more old files may be emptied.

        Returns the snapshot to go on from; the one given, and those before it, stay readable until the next
        checkpoint but must not be built on. ``ValueError`` if ``snapshot`` does not build on the last checkpoint.
        When the disk fails the store is closed and the error raised: reopened, it is at the last checkpoint.
        """
        if snapshot.epoch != self.epoch:
            raise ValueError("the snapshot does not build on the last checkpoint")
        try:
            return self._checkpoint(height, snapshot, meta or {}, side, idle=idle)
        except BaseException:
            self.close()
            raise

    def _checkpoint(
        self, height: int, snapshot: Snapshot, meta: Mapping[str, bytes], side: Iterable[Side], *, idle: bool
    ) -> Snapshot:
        root = snapshot.root
        dead = _by_file(root.dead)
        root, emptied = self._emptied(root, dead, idle=idle)
        top = None if root.node is None else self._store(root.node)
        for number in emptied:
            self._log.forget(number)
            dead.pop(number, None)
        for number, references in dead.items():
            self._log.files[number].dead_bytes += sum(map(size_of, references))
            self._upper.drop(references)
        changed = {*self._log.flush(), *dead}
        head = _Head(height=height, root=root.hash, top=top, epoch=self.epoch + 1)
        rows = sorted(side, key=lambda row: row[:2])
        tables = {table: self._side_table(table, create=True) for table in {row[0] for row in rows}}

        def write(txn: lmdb.Transaction) -> None:
            self._write_files(txn, changed, dead, emptied)
            for name, value in meta.items():
                txn.put(_META + name.encode(), value, db=self._main)
            for table, key, side_value in rows:
                if side_value is None:
                    txn.delete(key, db=tables[table])
                else:
                    txn.put(key, side_value, db=tables[table])
            txn.put(_HEAD_KEY, encode(head), db=self._main)

        self._commit(write)
        self._head = head
        if not self._held:
            for number in self._forgotten:
                self._log.drop(number)
            self._forgotten.clear()
        self._forgotten += emptied
        return snapshot.on(Root(top, root.hash))

    def _write_files(
        self, txn: lmdb.Transaction, changed: Iterable[int], dead: Mapping[int, list[int]], emptied: Iterable[int]
    ) -> None:
        for number in sorted(changed):
            file = self._log.files[number]
            txn.put(_NUMBER.pack(number), _SIZES.pack(file.size_bytes, file.dead_bytes), db=self._files)
        for number, references in sorted(dead.items()):
            row = b"".join(reference.to_bytes(8, "big") for reference in references)
            txn.put(_DEAD_KEY.pack(number, self.epoch), row, db=self._dead)
        for number in emptied:
            key = _NUMBER.pack(number)
            txn.delete(key, db=self._files)
            for dead_key in [key for key, _ in under(txn.cursor(db=self._dead), key)]:
                txn.delete(dead_key, db=self._dead)

    def _store(self, node: Node) -> int:
        """Append what is new at and below ``node``, children first; returns the reference of ``node``."""
        add_leaf, add_upper, add_lower = self._log.leaves.add, self._log.upper.add, self._log.lower.add
        keep = self._upper.keep

        def store(branch: Branch) -> int:
            bitmap, _, image, references, fresh = branch
            buffer = bytearray(references)
            for symbol, kid in fresh.items():
                if isinstance(kid, tuple):
                    reference = store(kid)
                elif isinstance(kid, bytes):
                    reference = add_leaf(kid)
                else:
                    reference = kid
                write_reference(buffer, REFERENCE_SIZE * (bitmap & ((1 << symbol) - 1)).bit_count(), reference)
            stored = bytes(image + buffer)
            if all_leaves(buffer):
                return add_lower(stored)
            # The next block passes here again, under its new reference.
            reference = add_upper(stored)
            keep(reference, stored)
            return reference

        if isinstance(node, tuple):
            return store(node)
        return add_leaf(node) if isinstance(node, bytes) else node

    def _commit(self, write: Callable[[lmdb.Transaction], None]) -> None:
        def attempt() -> None:
            with self._env.begin(write=True) as txn:
                write(txn)

        self._growing(attempt)
        fill_up(self._env, self._path / INDEX_FOLDER)

    def _growing(self, attempt: Callable[[], T]) -> T:
        """Repeat ``attempt`` with twice the map whenever LMDB's map is full."""
        while True:
            try:
                return attempt()
            except lmdb.MapFullError:
                self._env.set_mapsize(2 * self._env.info()["map_size"])
            except DAMAGE as error:
                raise self.condemn("the file of the small tables cannot be written") from error

    # --- emptying old files -------------------------------------------------------------------------------

    def _emptied(self, root: Root, dead: dict[int, list[int]], *, idle: bool) -> tuple[Root, list[int]]:
        """Move what is in use out of the files that hold least of it; returns the root and the emptied files.

        ``dead`` gains what the move replaced. Hashes do not change.
        """
        shares = DEAD_SHARE[idle]
        streams = self._log.streams
        numbers = [number for stream in streams for number in self._sparse(stream, dead, shares[stream.kind])]
        if not numbers:
            return root, []
        live: set[int] = set()
        keys: set[bytes] = set()
        for number in numbers:
            for reference, stored in self._log.live(number, self._dead_in(number) | set(dead.get(number, ()))):
                live.add(reference)
                keys.add(trie.some_key(self.load, stored))
        chosen = frozenset(numbers)
        leaves = any(stream_of(number) == LEAVES for number in numbers)

        def unwanted(reference: int) -> bool | None:
            number = file_of(reference)
            return number in chosen or (False if leaves or stream_of(number) != LEAVES else None)

        moved = trie.relocate(self.load, root, sorted(keys), unwanted)
        fresh = [reference for batch in moved.dead[len(root.dead) :] for reference in batch]
        if {reference for reference in fresh if file_of(reference) in chosen} != live:
            raise self.condemn("nodes said to be in use are not part of the tree")
        for number, references in _by_file([fresh]).items():
            dead.setdefault(number, []).extend(references)
        return moved, numbers

    def _sparse(self, stream: Stream, dead: Mapping[int, list[int]], share: float) -> list[int]:
        """The files to empty now: those with the smallest share in use, while the stream has too much unused."""
        files = self._log.files
        unused = {
            number: file.dead_bytes + sum(map(size_of, dead.get(number, ())))
            for number, file in files.items()
            if stream_of(number) == stream.kind
        }
        total = sum(files[number].size_bytes for number in unused)
        waste = sum(unused.values())
        room = MOVED_BYTES_PER_CHECKPOINT
        chosen: list[int] = []
        closed = [number for number in unused if number != stream.active]
        for number in sorted(closed, key=lambda one: (files[one].size_bytes - unused[one]) / files[one].size_bytes):
            room -= files[number].size_bytes - unused[number]
            if waste <= share * total or (chosen and room < 0):
                break
            chosen.append(number)
            total -= files[number].size_bytes
            waste -= unused[number]
        return chosen

    def _dead_in(self, number: int) -> set[int]:
        joined = self._read(
            lambda txn: b"".join(row for _, row in under(txn.cursor(db=self._dead), _NUMBER.pack(number)))
        )
        return {int.from_bytes(joined[at : at + 8], "big") for at in range(0, len(joined), 8)}


def _by_file(batches: Iterable[list[int]]) -> dict[int, list[int]]:
    grouped: dict[int, list[int]] = {}
    for batch in batches:
        for reference in batch:
            grouped.setdefault(file_of(reference), []).append(reference)
    return grouped


def height_on_disk(path: Path) -> int | None:
    """The height of the last checkpoint of a store that is not open; None where not even that can be read.

    For a store that is too damaged or too old to be opened. Raises ``OSError`` and ``lmdb.Error`` for what the disk
    refuses.
    """
    if not (path / INDEX_FOLDER / INDEX_FILE).exists():
        return None
    env: lmdb.Environment | None = None
    try:
        env = open_index(path / INDEX_FOLDER, read_only=True, map_bytes=INITIAL_MAP_BYTES)
        main = env.open_db(b"main", create=False)
        with env.begin() as txn:
            raw = get(txn, _HEAD_KEY, main)
        return None if raw is None else decode_strict(_head_decoder, raw).height
    except (StoreDamaged, Malformed, *DAMAGE):
        return None
    finally:
        if env is not None:
            env.close()


def _release(log: NodeLog, env: lmdb.Environment | None, lock: int | None) -> None:
    log.close()
    if env is not None:
        env.close()
    if lock is not None:
        os.close(lock)


def _lock(path: Path) -> int:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise StoreLocked(f"{path.parent} is in use by another process") from None
    return handle
