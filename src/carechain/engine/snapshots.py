"""Snapshots for state sync: the state at one height as numbered chunks, the same bytes on every node (LED-8).

**Format 1.** A *manifest* says what the snapshot is: the header of its height without anybody's signature, how many
state entries and transaction ids it has, and each chunk's hash. It is the metadata that the engine passes on; the
snapshot's hash is a hash of it. A *chunk* is a list of ids that could still be sent again (minute by minute, in ledger
order, grouped by block as the state's digests are) and a list of state entries in key order. Ids come first. A chunk is
full when the next item would take it above ``SNAPSHOT_CHUNK_BYTES``, so all nodes cut in the same places. Nothing is
compressed, because releases of compression libraries differ in their output.

**Making one does not stop the node.** Header and ids are taken when the block is committed, and the state is held
(:class:`~carechain.state.store.Held`): checkpoints go on, only files that they emptied stay until the snapshot is
written. The state is then read in slices, between other work. All nodes do this at multiples of one number of heights.

**Kept** in ``ledger/snapshots/<height>-<format>/``; a folder gets its name once it is whole and durable.
"""

from collections.abc import Generator, Iterable, Iterator
from itertools import islice
from pathlib import Path
from shutil import rmtree
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from carechain.chain.header import Header
from carechain.chain.replay import Group
from carechain.core.codec import Malformed, decode_strict, encode
from carechain.core.hashing import HASH_SIZE, tagged
from carechain.core.ids import U63, Hash
from carechain.core.limits import (
    REPLAY_IDS,
    SNAPSHOT_CHUNK_BYTES,
    SNAPSHOT_CHUNKS,
    SNAPSHOT_METADATA_BYTES,
    SNAPSHOT_SLICE_ENTRIES,
    SNAPSHOTS_KEPT,
    STATE_KEY_BYTES,
    STATE_VALUE_BYTES,
)
from carechain.engine.disk import OsFile
from carechain.state.held import Held
from carechain.state.log import make_folder, sync_folder

FORMAT: Final = 1
SNAPSHOTS_FOLDER: Final = "snapshots"
MANIFEST: Final = "manifest"
_MAKING: Final = ".making"
_ITEM_BYTES: Final = 16
"""More than what stands around one key, value or list of ids in a chunk."""
_ID_BYTES: Final = HASH_SIZE + 2
_NAME_PARTS: Final = 2

Key = Annotated[bytes, Meta(min_length=1, max_length=STATE_KEY_BYTES)]
Value = Annotated[bytes, Meta(max_length=STATE_VALUE_BYTES)]
Entry = tuple[Key, Value]


class Manifest(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """What a snapshot is. ``chunks`` are the hashes of its chunks, in order."""

    header: Header
    entries: U63
    ids: Annotated[int, Meta(ge=0, le=REPLAY_IDS)]
    chunks: Annotated[tuple[Hash, ...], Meta(min_length=1, max_length=SNAPSHOT_CHUNKS)]


class Chunk(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A piece of a snapshot."""

    ids: tuple[Group, ...]
    entries: tuple[Entry, ...]


class Capture(Struct, frozen=True, kw_only=True):
    """All that a snapshot is made of, as of one height. ``state`` is to be released in the end."""

    header: Header
    window: tuple[Group, ...]
    state: Held


class Kept(Struct, frozen=True, kw_only=True):
    """A snapshot that is whole on the disk. ``metadata`` is its encoded manifest."""

    height: int
    format: int
    chunks: int
    hash: bytes
    metadata: bytes
    folder: Path

    @property
    def size_bytes(self) -> int:
        """How much its chunks take on the disk."""
        return sum(one.stat().st_size for one in self.folder.iterdir())


class Rhythm(Struct, frozen=True, kw_only=True):
    """When snapshots are made: at every multiple of so many blocks (0: never); and how many are kept."""

    every_blocks: Annotated[int, Meta(ge=0)] = 10_000
    keep: Annotated[int, Meta(ge=1, le=SNAPSHOTS_KEPT)] = 2


_manifests = msgspec.msgpack.Decoder(Manifest)
_chunks = msgspec.msgpack.Decoder(Chunk)


# --- the format -----------------------------------------------------------------------------------------


def snapshot_hash(metadata: bytes) -> bytes:
    """The hash by which the engine names a snapshot."""
    return tagged("carechain/snapshot/1", metadata)


def chunk_hash(data: bytes) -> bytes:
    """The hash of a chunk's bytes."""
    return tagged("carechain/snapshot-chunk/1", data)


def decode_manifest(metadata: bytes) -> Manifest:
    """Strict decoding; raises ``Malformed``."""
    return decode_strict(_manifests, metadata)


def decode_chunk(data: bytes) -> Chunk:
    """Strict decoding; raises ``Malformed``."""
    return decode_strict(_chunks, data)


class _Cutter:
    """Collects items and says when a chunk is full."""

    def __init__(self) -> None:
        self.ids: list[Group] = []
        self.entries: list[Entry] = []
        self.size_bytes = 0

    def add_ids(self, group: Group) -> bytes | None:
        full = self._make_room(_ITEM_BYTES + _ID_BYTES * len(group[1]))
        self.ids.append(group)
        return full

    def add_entry(self, entry: Entry) -> bytes | None:
        full = self._make_room(_ITEM_BYTES + len(entry[0]) + len(entry[1]))
        self.entries.append(entry)
        return full

    def take(self) -> bytes:
        """The chunk so far, and begin the next."""
        data = encode(Chunk(tuple(self.ids), tuple(self.entries)))
        self.ids, self.entries, self.size_bytes = [], [], 0
        return data

    def _make_room(self, size_bytes: int) -> bytes | None:
        full = self.take() if self.size_bytes + size_bytes + _ITEM_BYTES > SNAPSHOT_CHUNK_BYTES else None
        self.size_bytes += size_bytes
        return full


# --- making ---------------------------------------------------------------------------------------------


class Making:
    """One snapshot on its way to the disk."""

    def __init__(self, folder: Path, capture: Capture) -> None:
        """``folder`` is where snapshots are kept. Nothing is written yet."""
        self.height: Final = capture.header.height
        self._place = folder / f"{self.height}-{FORMAT}"
        self._unfinished = folder / f"{self._place.name}{_MAKING}"
        self._capture = capture
        self._hashes: list[bytes] = []
        self._steps = self._run()

    def advance(self, entries: int) -> bool:
        """Take the next ``entries`` items in; False once the snapshot is whole. Raises ``OSError``, ``SnapshotGone``.

        After an error the rest is given up.
        """
        try:
            if sum(1 for _ in islice(self._steps, entries)) == entries:
                return True
        except BaseException:
            self.give_up()
            raise
        self._capture.state.release()
        return False

    def give_up(self) -> None:
        """Leave nothing behind."""
        self._steps.close()
        self._capture.state.release()
        rmtree(self._unfinished, ignore_errors=True)

    def _run(self) -> Generator[None]:
        """One step per item."""
        capture, cutter = self._capture, _Cutter()
        if self._unfinished.exists():
            rmtree(self._unfinished)
        make_folder(self._unfinished)
        entries = 0
        for group in capture.window:
            self._write(cutter.add_ids(group))
            yield
        for entry in capture.state.snapshot.scan(b""):
            self._write(cutter.add_entry(entry))
            entries += 1
            yield
        self._write(cutter.take())
        ids = sum(len(group[1]) for group in capture.window)
        manifest = Manifest(header=capture.header, entries=entries, ids=ids, chunks=tuple(self._hashes))
        metadata = encode(manifest)
        self._write_file(MANIFEST, snapshot_hash(metadata) + metadata)
        sync_folder(self._unfinished)
        if self._place.exists():
            rmtree(self._place)
        self._unfinished.rename(self._place)
        sync_folder(self._place.parent)

    def _write(self, data: bytes | None) -> None:
        if data is not None:
            self._write_file(chunk_name(len(self._hashes)), data)
            self._hashes.append(chunk_hash(data))

    def _write_file(self, name: str, data: bytes) -> None:
        file = OsFile(self._unfinished / name)
        try:
            file.write_at(0, data)
            file.sync()
        finally:
            file.close()


def chunk_name(index: int) -> str:
    """The file of a chunk."""
    return f"chunk-{index:06d}"


# --- keeping --------------------------------------------------------------------------------------------


class Snapshots:
    """The snapshots of one ledger: those that are whole, and the one being made. One thread."""

    def __init__(self, folder: Path, rhythm: Rhythm | None = None) -> None:
        """``folder`` is the ledger's. What an earlier process left unfinished is removed. Raises ``OSError``."""
        self._folder = folder / SNAPSHOTS_FOLDER
        self._rhythm = rhythm or Rhythm()
        self._making: Making | None = None
        make_folder(self._folder)
        for one in self._folder.glob(f"*{_MAKING}"):
            rmtree(one)
        self._kept = kept_in(self._folder)

    @property
    def kept(self) -> tuple[Kept, ...]:
        """Those that are whole, the newest first."""
        return self._kept

    @property
    def making(self) -> int | None:
        """The height of the one being made."""
        return None if self._making is None else self._making.height

    def is_due(self, height: int) -> bool:
        """Whether a snapshot of this height is to be made; it is left out while an earlier one is not finished."""
        every = self._rhythm.every_blocks
        return bool(every) and height % every == 0 and self._making is None and height not in self._heights()

    def begin(self, capture: Capture) -> None:
        """Start making one; :meth:`advance` does the work. Raises ``ValueError`` while another is being made."""
        if self._making is not None:
            raise ValueError("one snapshot at a time")
        self._making = Making(self._folder, capture)

    def advance(self, entries: int = SNAPSHOT_SLICE_ENTRIES) -> bool:
        """Go on making one; whether there is more to do. After an ``OSError`` or ``SnapshotGone`` it is given up."""
        making = self._making
        if making is None:
            return False
        try:
            more = making.advance(entries)
        except BaseException:
            self._making = None
            raise
        if not more:
            self._making = None
            self._drop_old()
        return more

    def give_up(self) -> None:
        """Stop making one: before the ledger is closed."""
        if self._making is not None:
            self._making.give_up()
            self._making = None

    def chunk(self, height: int, form: int, index: int) -> bytes:
        """A chunk's bytes; none where there is no such chunk, or it is not what was written any more."""
        found = next((one for one in self._kept if (one.height, one.format) == (height, form)), None)
        if found is None or not 0 <= index < found.chunks:
            return b""
        try:
            data = (found.folder / chunk_name(index)).read_bytes()
        except OSError:
            # What others ask for must not end this node, whatever its disk says.
            data = b""
        if chunk_hash(data) != decode_manifest(found.metadata).chunks[index]:
            # Nobody is to be served from a damaged one, nor this node to be taken for a liar.
            self._kept = tuple(one for one in self._kept if one is not found)
            return b""
        return data

    def _heights(self) -> set[int]:
        return {one.height for one in self._kept}

    def _drop_old(self) -> None:
        self._kept = kept_in(self._folder)
        for old in self._kept[self._rhythm.keep :]:
            rmtree(old.folder)
        self._kept = self._kept[: self._rhythm.keep]


def kept_in(folder: Path) -> tuple[Kept, ...]:
    """The whole snapshots in ``folder``, the newest first; what is none, or is damaged, is passed over."""
    found = (_kept_at(one) for one in folder.iterdir()) if folder.is_dir() else ()
    return tuple(sorted(_present(found), key=lambda one: one.height, reverse=True))


def _present(found: Iterable[Kept | None]) -> Iterator[Kept]:
    return (one for one in found if one is not None)


def _kept_at(folder: Path) -> Kept | None:
    parts = folder.name.split("-")
    if len(parts) != _NAME_PARTS or parts[1] != str(FORMAT):
        return None
    try:
        with (folder / MANIFEST).open("rb") as file:
            content = file.read(HASH_SIZE + SNAPSHOT_METADATA_BYTES + 1)
        manifest = decode_manifest(content[HASH_SIZE:])
    except (OSError, Malformed):
        return None
    metadata = content[HASH_SIZE:]
    if snapshot_hash(metadata) != content[:HASH_SIZE] or str(manifest.header.height) != parts[0]:
        return None
    return Kept(
        height=manifest.header.height,
        format=FORMAT,
        chunks=len(manifest.chunks),
        hash=content[:HASH_SIZE],
        metadata=metadata,
        folder=folder,
    )
