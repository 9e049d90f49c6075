"""Taking a snapshot over from other nodes: what is believed, and in which order it is checked (LED-8).

The engine's light client knows the app hash of the snapshot's height from what the validators signed. Everything in
the state follows from it, and so do the ids that could still be sent again, whose digests are in the state. What does
not follow from it is the rest of the header: time, previous block, roots of transactions and receipts, producer. A peer
could lie about these, and this node's chain of headers would then differ from everybody else's. The node compares
what the engine's header of that height says as well (``node/base_check.py``); the rest is believed.

The tree grows in ``ledger/arriving`` chunk by chunk, apart from the ledger's own, and counts for nothing until
:meth:`~carechain.engine.session.Session.begin_at` takes it.
"""

from itertools import pairwise
from pathlib import Path
from shutil import rmtree
from typing import Final, Self

from msgspec import Struct

from carechain.chain.genesis import CHAIN, Genesis, genesis_hash
from carechain.chain.header import HEADER_VERSION
from carechain.chain.replay import Group, WindowMismatch, check_window
from carechain.core.codec import Malformed
from carechain.core.limits import SNAPSHOT_CHUNK_BYTES, SNAPSHOT_METADATA_BYTES
from carechain.engine.base import ARRIVING_FOLDER, Arrived
from carechain.engine.snapshots import (
    FORMAT,
    Chunk,
    Entry,
    Manifest,
    chunk_hash,
    decode_chunk,
    decode_manifest,
    snapshot_hash,
)
from carechain.engine.txindex import TxIndex
from carechain.state.log import sync_folder
from carechain.state.store import NodeStore

WHOLE_STORE_HEIGHT: Final = 0
"""What the growing tree's checkpoints say their height is: the snapshot's own only once it is whole."""


class BadSnapshot(Exception):  # noqa: N818 - names what is wrong with what was offered
    """A snapshot that is not what it says, or not one of this ledger. The sentence never repeats its content."""


class UnknownFormat(Exception):  # noqa: N818 - names what is wrong with what was offered
    """A snapshot of a format that this program does not know."""


class BadChunk(Exception):  # noqa: N818 - names what is wrong with the chunk
    """A chunk that is not the one that the manifest names: somebody else may have the right one."""


class OutOfOrder(Exception):  # noqa: N818 - names what the engine did
    """Not the next chunk: the snapshot has to be begun anew."""


class Offer(Struct, frozen=True, kw_only=True):
    """A snapshot as the engine offers it. ``app_hash`` is the one that the engine has verified for its height."""

    height: int
    format: int
    chunks: int
    hash: bytes
    metadata: bytes
    app_hash: bytes


def read_offer(offer: Offer, genesis: Genesis) -> Manifest:
    """The manifest of a snapshot that can be this ledger's. Raises :class:`UnknownFormat`, :class:`BadSnapshot`."""
    if offer.format != FORMAT:
        raise UnknownFormat(f"format {offer.format}")
    if len(offer.metadata) > SNAPSHOT_METADATA_BYTES or snapshot_hash(offer.metadata) != offer.hash:
        raise BadSnapshot("the manifest is not the one that the snapshot's hash names")
    try:
        manifest = decode_manifest(offer.metadata)
    except Malformed:
        raise BadSnapshot("the manifest is malformed") from None
    header = manifest.header
    if len(manifest.chunks) != offer.chunks:
        raise BadSnapshot("the manifest has another number of chunks")
    if header.version != HEADER_VERSION or header.chain_id != genesis.chain_id or header.height != offer.height:
        raise BadSnapshot("the header is not that of this chain and height")
    if not header.height or header.time_s < genesis.time_s:
        raise BadSnapshot("the header is older than the chain")
    if header.app_hash != offer.app_hash:
        raise BadSnapshot("the header states another state than the validators signed")
    return manifest


class Arrival:
    """A snapshot on its way in. Use :meth:`begin`, :meth:`add` until it says that it is whole, then :meth:`finish`."""

    def __init__(self, *, place: Path, manifest: Manifest, genesis: Genesis, store: NodeStore) -> None:
        """See :meth:`begin`."""
        self._place = place
        self._manifest = manifest
        self._genesis = genesis
        self._store = store
        self._state = store.snapshot()
        self._next = 0
        self._window: list[Group] = []
        self._ids = 0
        self._entries = 0
        self._last_key = b""

    @classmethod
    def begin(cls, folder: Path, genesis: Genesis, offer: Offer) -> Self:
        """Make room in the ledger's folder for a snapshot that was offered.

        Raises :class:`UnknownFormat`, :class:`BadSnapshot`, and what the disk raises.
        """
        manifest = read_offer(offer, genesis)
        place = folder / ARRIVING_FOLDER
        if place.exists():
            rmtree(place)
        store = NodeStore.open(place)
        sync_folder(folder)
        return cls(place=place, manifest=manifest, genesis=genesis, store=store)

    @property
    def height(self) -> int:
        """The snapshot's height."""
        return self._manifest.header.height

    @property
    def is_whole(self) -> bool:
        """Whether all chunks are there."""
        return self._next == len(self._manifest.chunks)

    def add(self, index: int, data: bytes) -> None:
        """Take in the next chunk; nothing changes where it is refused.

        Raises :class:`OutOfOrder`, :class:`BadChunk`, :class:`BadSnapshot`, and what the disk raises.
        """
        if index != self._next or self.is_whole:
            raise OutOfOrder(f"chunk {index} where {self._next} is next")
        if len(data) > SNAPSHOT_CHUNK_BYTES or chunk_hash(data) != self._manifest.chunks[index]:
            raise BadChunk(f"chunk {index} is not the one that the manifest names")
        try:
            chunk = decode_chunk(data)
        except Malformed:
            raise BadSnapshot(f"chunk {index} is malformed") from None
        self._check(chunk)
        if chunk.entries:
            self._state = self._store.checkpoint(height=WHOLE_STORE_HEIGHT, snapshot=self._state.apply(chunk.entries))
        self._window += chunk.ids
        self._next += 1

    def _check(self, chunk: Chunk) -> None:
        """Order and number: the hash of the whole tells the rest."""
        if chunk.ids and self._entries:
            raise BadSnapshot("ids behind entries")
        if not _ascending(self._last_key, chunk.entries):
            raise BadSnapshot("the entries are not in the order of their keys")
        self._ids += sum(len(ids) for _, ids in chunk.ids)
        self._entries += len(chunk.entries)
        if self._ids > self._manifest.ids or self._entries > self._manifest.entries:
            raise BadSnapshot("there is more than the manifest says")
        if chunk.entries:
            self._last_key = chunk.entries[-1][0]

    def finish(self) -> Arrived:
        """Check the whole, and make it durable. Raises :class:`BadSnapshot` and what the disk raises.

        The tree then waits in its folder, and nothing is open any more.
        """
        manifest, header = self._manifest, self._manifest.header
        if not self.is_whole or (self._ids, self._entries) != (manifest.ids, manifest.entries):
            raise BadSnapshot("there is less than the manifest says")
        if self._state.root_hash != header.app_hash:
            raise BadSnapshot("the entries do not have the root that the validators signed")
        row = CHAIN.bind(self._state).get(0)
        if row is None or row.genesis != genesis_hash(self._genesis):
            raise BadSnapshot("the state was started from another genesis")
        try:
            check_window(self._window, self._state, header.time_s)
        except WindowMismatch:
            raise BadSnapshot("the ids do not have the digests that the state has") from None
        meta = TxIndex(self._store).meta()
        self._store.checkpoint(height=header.height, snapshot=self._state, meta=meta)
        self._store.close()
        return Arrived(header=header, window=tuple(self._window))

    def give_up(self) -> None:
        """Throw away what came; may be repeated."""
        self._store.close()
        if self._place.exists():
            rmtree(self._place)


def _ascending(last: bytes, entries: tuple[Entry, ...]) -> bool:
    return not entries or (last < entries[0][0] and all(one[0] < other[0] for one, other in pairwise(entries)))
