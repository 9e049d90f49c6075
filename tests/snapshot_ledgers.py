"""Ledgers of several organisations without an engine between them, and snapshots handed from one to another.

Goal: tests of snapshots need nodes that executed the same blocks, each with its own seal. Method: the traffic of
``ledgers.py`` in a network with four validators; a block is given to every session as the engine would give it.
"""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest

from carechain.chain.genesis import Genesis
from carechain.chain.transition import Block
from carechain.core.codec import encode
from carechain.engine import arrival as arrival_module
from carechain.engine import snapshots as snapshots_module
from carechain.engine.arrival import Arrival, Offer
from carechain.engine.base import Arrived
from carechain.engine.embedded import BlockProducer
from carechain.engine.session import Checkpoints, CommittedBlock, Session
from carechain.engine.snapshots import (
    FORMAT,
    Chunk,
    Kept,
    Making,
    Manifest,
    chunk_hash,
    chunk_name,
    decode_chunk,
    decode_manifest,
    snapshot_hash,
)
from ledgers import Life
from world import Organisation, World

PIECE_BYTES = 6 * 1024
"""A chunk size at which a short life gives several chunks."""


@cache
def _validated() -> World:
    return World(validators="abcd")


class SharedLife(Life):
    """What happens on the ledger of several organisations."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.world = _validated().fork()


def small_chunks(patch: pytest.MonkeyPatch) -> None:
    """Cut snapshots into small pieces."""
    for module in (snapshots_module, arrival_module):
        patch.setattr(module, "SNAPSHOT_CHUNK_BYTES", PIECE_BYTES)


def node_of(
    home: Path, genesis: Genesis, organisation: Organisation, *, checkpoints: Checkpoints | None = None
) -> Session:
    """The session of one organisation's node."""
    return Session.open(home, genesis, keeper=organisation.id, checkpoints=checkpoints)


def sealer_of(organisation: Organisation) -> BlockProducer:
    """Who signs that node's copies."""
    return BlockProducer.of(organisation.signing)


Given = tuple[int, list[bytes]]
"""A block's time and transactions."""


def give(session: Session, organisation: Organisation, life: SharedLife, given: Given) -> CommittedBlock:
    """Let one node execute the next block, put together by hospital b."""
    time_s, txs = given
    block = Block(height=session.head.height + 1, time_s=time_s, txs=tuple(txs))
    session.finalize(block)
    return session.commit(sealer_of(organisation), producer=life.world.b.id)


def happen(life: SharedLife, blocks: int, *nodes: tuple[Session, Organisation]) -> list[Given]:
    """Let ``blocks`` blocks happen on all nodes; returns what was in them."""
    happened = []
    for _ in range(blocks):
        txs = life.next_block()
        happened.append((life.time_s, txs))
        for session, organisation in nodes:
            give(session, organisation, life, happened[-1])
    return happened


def make(session: Session, folder: Path) -> Kept:
    """A snapshot of the session's last block, made at once."""
    making = Making(folder, session.capture())
    while making.advance(100):
        pass
    (kept,) = (one for one in snapshots_module.kept_in(folder) if one.height == session.head.height)
    return kept


def chunks_of(kept: Kept) -> list[bytes]:
    """The chunks' bytes."""
    return [(kept.folder / chunk_name(index)).read_bytes() for index in range(kept.chunks)]


def offer_of(kept: Kept, app_hash: bytes | None = None) -> Offer:
    """The snapshot as the engine offers it."""
    known = decode_manifest(kept.metadata).header.app_hash
    return offering(kept.metadata, kept.height, kept.chunks, known if app_hash is None else app_hash)


def offering(metadata: bytes, height: int, chunks: int, app_hash: bytes) -> Offer:
    return Offer(
        height=height,
        format=FORMAT,
        chunks=chunks,
        hash=snapshot_hash(metadata),
        metadata=metadata,
        app_hash=app_hash,
    )


class Forgery:
    """A snapshot taken apart, to be changed and put together again so that all its hashes fit."""

    def __init__(self, kept: Kept) -> None:
        self.manifest = decode_manifest(kept.metadata)
        self.chunks = [decode_chunk(data) for data in chunks_of(kept)]
        self.app_hash = self.manifest.header.app_hash

    def put_together(self) -> tuple[Offer, list[bytes]]:
        data = [encode(chunk) for chunk in self.chunks]
        manifest = Manifest(
            header=self.manifest.header,
            entries=self.manifest.entries,
            ids=self.manifest.ids,
            chunks=tuple(map(chunk_hash, data)),
        )
        return offering(encode(manifest), manifest.header.height, len(data), self.app_hash), data

    def recount(self) -> None:
        """State the numbers that there are now."""
        self.manifest = Manifest(
            header=self.manifest.header,
            entries=sum(len(one.entries) for one in self.chunks),
            ids=sum(len(ids) for one in self.chunks for _, ids in one.ids),
            chunks=self.manifest.chunks,
        )

    def with_entries(self, index: int, entries: Iterable[tuple[bytes, bytes]]) -> None:
        self.chunks[index] = Chunk(self.chunks[index].ids, tuple(entries))


def arrive(folder: Path, genesis: Genesis, offer: Offer, chunks: Iterable[bytes]) -> Arrived:
    """Bring a snapshot in, whole."""
    arrival = Arrival.begin(folder, genesis, offer)
    try:
        for index, data in enumerate(chunks):
            arrival.add(index, data)
        return arrival.finish()
    except BaseException:
        arrival.give_up()
        raise


def take_over(session: Session, organisation: Organisation, kept: Kept) -> None:
    """Let an empty node begin with a snapshot."""
    assert session.folder is not None
    arrived = arrive(session.folder, session.genesis, offer_of(kept), chunks_of(kept))
    session.begin_at(arrived, sealer_of(organisation))
