"""Snapshots: the same bytes on every node, a restored node equals the others, and nothing false is taken over.

Method: nodes of a network with four validators execute the same blocks with different rhythms; snapshots are handed
from one to another as they are, and taken apart, altered and put together again with fitting hashes. Every refusal is
one row and leaves an empty ledger that can still begin.
"""

from collections.abc import Callable
from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest
from msgspec.structs import replace

from carechain.chain.header import header_hash
from carechain.chain.replay import ReplayWindow, WindowMismatch, check_window
from carechain.chain.tx import AdmissionCode, parse
from carechain.core.codec import encode
from carechain.core.rejection import Rejected
from carechain.engine.arrival import (
    Arrival,
    BadChunk,
    BadSnapshot,
    Offer,
    OutOfOrder,
    UnknownFormat,
    read_offer,
)
from carechain.engine.base import ARRIVING_FOLDER, BASE_FILE, read_base
from carechain.engine.blocklog import LOG_NAME, CorruptHistory
from carechain.engine.cometbft.application import Application, Hooks
from carechain.engine.cometbft.messages import Request, Response
from carechain.engine.session import LEDGER_FOLDER, TREE_FOLDER, Checkpoints, IllegalOrder, ResyncNeeded, Session
from carechain.engine.snapshots import (
    FORMAT,
    SNAPSHOTS_FOLDER,
    Chunk,
    Making,
    Manifest,
    Rhythm,
    Snapshots,
    chunk_hash,
    chunk_name,
    kept_in,
    snapshot_hash,
)
from carechain.engine.txindex import admitted
from carechain.engine.verify import verify_chain
from carechain.state.lmdb_file import INDEX_FILE, INDEX_FOLDER
from carechain.state.snapshot import SnapshotGone
from carechain.state.store import NodeStore
from ledgers import SMALL, Life, engine_at, run
from snapshot_ledgers import (
    Forgery,
    SharedLife,
    arrive,
    chunks_of,
    give,
    happen,
    make,
    node_of,
    offer_of,
    offering,
    sealer_of,
    small_chunks,
    take_over,
)
from world import Organisation

NEVER = Checkpoints(blocks=10**9, txs=10**9)
BLOCKS = 14


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    small_chunks(monkeypatch)


class Network:
    """Node a with a history, a snapshot of it, and an empty node d."""

    def __init__(self, tmp_path: Path, *, blocks: int = BLOCKS) -> None:
        self.tmp_path = tmp_path
        self.life = SharedLife(5)
        world = self.life.world
        self.a, self.d = world.a, world.d
        self.node = node_of(tmp_path / "a", world.genesis, self.a, checkpoints=SMALL)
        happen(self.life, blocks, (self.node, self.a))
        self.kept = make(self.node, tmp_path / "kept")
        self.home = tmp_path / "d"
        self.late = node_of(self.home, world.genesis, self.d, checkpoints=SMALL)

    @property
    def folder(self) -> Path:
        return self.home / LEDGER_FOLDER

    @property
    def nodes(self) -> tuple[tuple[Session, Organisation], ...]:
        return (self.node, self.a), (self.late, self.d)

    def reopen(self) -> None:
        self.late.close()
        self.late = node_of(self.home, self.life.genesis, self.d, checkpoints=SMALL)

    def close(self) -> None:
        self.node.close()
        self.late.close()


@pytest.fixture
def network(tmp_path: Path) -> Any:
    made = Network(tmp_path)
    yield made
    made.close()


# --- making ---------------------------------------------------------------------------------------------


def test_every_node_makes_the_same_bytes(tmp_path: Path) -> None:
    """Whatever its checkpoints, whether it was restarted, and however much happened while the snapshot was made."""
    life = SharedLife(3)
    world = life.world
    a, b, c = (
        (node_of(tmp_path / one.label, life.genesis, one, checkpoints=when), one)
        for one, when in zip((world.a, world.b, world.c), (NEVER, SMALL, Checkpoints(blocks=1, txs=1)), strict=True)
    )
    happen(life, 9, a, b, c)
    c[0].close()
    c = node_of(tmp_path / "c", life.genesis, world.c, checkpoints=NEVER), world.c
    slow = Making(tmp_path / "slow", b[0].capture())
    captured = [make(one[0], tmp_path / f"kept-{one[1].label}") for one in (a, c)]
    steps = 0
    while slow.advance(10):
        happen(life, 1, a, b, c)
        b[0].checkpoint(idle=True)
        steps += 1
    assert steps > 5
    (slowly,) = kept_in(tmp_path / "slow")
    first = captured[0]
    assert first.chunks > 2
    for one in (slowly, captured[1]):
        assert (one.height, one.format, one.hash, one.metadata) == (9, FORMAT, first.hash, first.metadata)
        assert chunks_of(one) == chunks_of(first)
    for session, _ in (a, b, c):
        session.close()


def test_snapshots_are_made_at_multiples_and_few_are_kept(tmp_path: Path) -> None:
    life = SharedLife(4)
    node = node_of(tmp_path, life.genesis, life.world.a, checkpoints=SMALL), life.world.a
    folder = tmp_path / LEDGER_FOLDER
    (folder / SNAPSHOTS_FOLDER / f"3-{FORMAT}.making").mkdir(parents=True)
    snapshots = Snapshots(folder, Rhythm(every_blocks=3, keep=2))
    assert not (folder / SNAPSHOTS_FOLDER / f"3-{FORMAT}.making").exists()
    for _ in range(10):
        happen(life, 1, node)
        if snapshots.is_due(node[0].head.height):
            snapshots.begin(node[0].capture())
            assert snapshots.making == node[0].head.height
            with pytest.raises(ValueError, match="one"):
                snapshots.begin(node[0].capture())
        while snapshots.advance():
            pass
    assert [one.height for one in snapshots.kept] == [9, 6]
    assert snapshots.kept == Snapshots(folder).kept == kept_in(folder / SNAPSHOTS_FOLDER)
    assert sorted(one.name for one in (folder / SNAPSHOTS_FOLDER).iterdir()) == ["6-1", "9-1"]
    assert not Snapshots(tmp_path / "never", Rhythm(every_blocks=0)).is_due(9)
    assert not snapshots.is_due(9)
    node[0].close()


def test_a_damaged_snapshot_is_not_handed_out(tmp_path: Path) -> None:
    network = Network(tmp_path)
    folder = tmp_path / "served"
    make(network.node, folder / SNAPSHOTS_FOLDER)
    snapshots = Snapshots(folder)
    height, (kept,) = network.node.head.height, snapshots.kept
    assert [snapshots.chunk(height, FORMAT, at) for at in range(kept.chunks)] == chunks_of(kept)
    for place in ((height + 1, FORMAT, 0), (height, FORMAT + 1, 0), (height, FORMAT, kept.chunks)):
        assert snapshots.chunk(*place) == b""
    data = bytearray((kept.folder / chunk_name(1)).read_bytes())
    data[-1] ^= 1
    (kept.folder / chunk_name(1)).write_bytes(data)
    assert snapshots.chunk(height, FORMAT, 0) != b""
    assert snapshots.chunk(height, FORMAT, 1) == b""
    assert snapshots.kept == ()
    manifest = kept.folder / "manifest"
    for content in (b"", manifest.read_bytes()[:-1], manifest.read_bytes()[1:]):
        manifest.write_bytes(content)
        assert kept_in(folder / SNAPSHOTS_FOLDER) == ()
    network.close()


def test_one_that_cannot_be_finished_is_given_up(tmp_path: Path) -> None:
    network = Network(tmp_path)
    snapshots = Snapshots(network.node.folder or tmp_path)
    snapshots.begin(network.node.capture())
    assert snapshots.advance(5)
    network.node.close()
    with pytest.raises(SnapshotGone):
        snapshots.advance(1_000)
    assert snapshots.making is None
    assert not snapshots.advance()
    assert [*(network.tmp_path / "a" / LEDGER_FOLDER / SNAPSHOTS_FOLDER).iterdir()] == []
    # Reading a closed store would have been taken for damage.
    node = node_of(tmp_path / "a", network.life.genesis, network.a)
    assert node.rebuilt is None
    snapshots.begin(node.capture())
    snapshots.give_up()
    assert snapshots.making is None
    node.close()
    network.late.close()


def test_nothing_can_be_captured_before_the_first_block(network: Network) -> None:
    with pytest.raises(IllegalOrder):
        network.late.capture()


# --- taking over ----------------------------------------------------------------------------------------


def test_a_late_node_equals_the_others(network: Network) -> None:
    """State, proofs, refusals of what was sent before, every later block; also after restarts at any point."""
    node, late, life = network.node, network.late, network.life
    take_over(late, network.d, network.kept)
    assert (late.head, late.base_height) == (node.head, BLOCKS)
    assert [*late.snapshot().scan(b"")] == [*node.snapshot().scan(b"")]
    key = next(iter(node.snapshot().scan(b"")))[0]
    assert late.snapshot().prove(key).to_bytes() == node.snapshot().prove(key).to_bytes()
    sealed = late.sealed_head()
    assert sealed is not None
    assert sealed.header == node.block(BLOCKS).header
    assert sealed.keeper == sealer_of(network.d).keeper
    assert not late.may_begin_at or late.head.height == late.base_height
    for step in range(12):
        if step % 3 == 0:
            network.reopen()
            late = network.late
            assert late.rebuilt is None
        assert late.capture().window == node.capture().window
        for raw in life.sent[-40:]:
            assert answer(node, raw) == answer(late, raw)
        happen(life, 1, *network.nodes)
        assert late.head == node.head
    newest = late.head.height
    assert late.block(newest).header == node.block(newest).header
    tx_id = next(one for block in range(newest, BLOCKS, -1) for one in late.block(block).tx_ids if one)
    assert late.locate(tx_id) == node.locate(tx_id)


def test_what_lies_before_the_snapshot_is_not_there(network: Network) -> None:
    late = network.late
    take_over(late, network.d, network.kept)
    happen(network.life, 2, *network.nodes)
    for height in (0, 1, BLOCKS):
        with pytest.raises(IndexError):
            late.block(height)
    old = next(one for one in network.node.block(1).tx_ids if one)
    assert network.node.locate(old) is not None
    assert late.locate(old) is None
    assert late.receipt(old) is None


def test_ids_from_before_the_snapshot_are_refused_also_in_blocks(network: Network) -> None:
    node, late, life = network.node, network.late, network.life
    take_over(late, network.d, network.kept)
    raw = next(
        raw
        for height in range(BLOCKS, 0, -1)
        for raw, receipt in zip(node.block(height).txs, node.block(height).receipts, strict=True)
        if admitted(receipt) and parse(raw).body.valid_until_s > life.time_s
    )
    assert answer(late, raw) is AdmissionCode.REPLAYED
    (receipt,) = give(late, network.d, life, (life.time_s, [raw])).receipts
    assert receipt.code == int(AdmissionCode.REPLAYED)


def answer(session: Session, raw: bytes) -> object:
    try:
        return session.check(raw)
    except Rejected as refused:
        return refused.code


def test_a_snapshot_of_a_restored_node_is_the_same(network: Network) -> None:
    take_over(network.late, network.d, network.kept)
    again = make(network.late, network.tmp_path / "again")
    assert (again.hash, chunks_of(again)) == (network.kept.hash, chunks_of(network.kept))
    happen(network.life, 3, *network.nodes)
    pair = [make(one, network.tmp_path / f"more-{who.label}") for one, who in network.nodes]
    assert pair[0].hash == pair[1].hash


def test_only_a_ledger_without_blocks_takes_one_over(network: Network) -> None:
    late, life = network.late, network.life
    take_over(late, network.d, network.kept)
    # The engine may have been stopped before it noted that: it then starts over, perhaps with a newer snapshot.
    assert late.may_begin_at
    happen(life, 1, (network.node, network.a))
    newer = make(network.node, network.tmp_path / "newer")
    take_over(late, network.d, newer)
    network.reopen()
    late = network.late
    assert late.head == network.node.head
    happen(life, 1, *network.nodes)
    assert not late.may_begin_at
    arrived = arrive(network.tmp_path / "elsewhere", life.genesis, offer_of(newer), chunks_of(newer))
    with pytest.raises(IllegalOrder):
        late.begin_at(arrived, sealer_of(network.d))
    assert late.head == network.node.head


def test_where_one_producer_orders_no_snapshot_is_taken_over(tmp_path: Path) -> None:
    life = Life()
    engine = engine_at(tmp_path / "a", life)
    run(engine, life, 3)
    kept = make(engine.session, tmp_path / "kept")
    engine.session.close()
    with Session.open(tmp_path / "b", life.genesis) as late:
        arrived = arrive(tmp_path / "b" / LEDGER_FOLDER, life.genesis, offer_of(kept), chunks_of(kept))
        with pytest.raises(IllegalOrder):
            late.begin_at(arrived, life.producer)
        assert late.head.height == 0


# --- what is refused ------------------------------------------------------------------------------------


def _header(**change: Any) -> Callable[[Forgery], None]:
    def alter(forgery: Forgery) -> None:
        forgery.manifest = replace(forgery.manifest, header=replace(forgery.manifest.header, **change))

    return alter


OFFERS: dict[str, tuple[Callable[[Offer], Offer], type[Exception]]] = {
    "another format": (lambda one: replace(one, format=2), UnknownFormat),
    "another hash": (lambda one: replace(one, hash=bytes(32)), BadSnapshot),
    "another app hash": (lambda one: replace(one, app_hash=bytes(32)), BadSnapshot),
    "no app hash": (lambda one: replace(one, app_hash=b""), BadSnapshot),
    "another height": (lambda one: replace(one, height=one.height + 1), BadSnapshot),
    "another number of chunks": (lambda one: replace(one, chunks=one.chunks + 1), BadSnapshot),
    "no metadata": (lambda one: renamed(one, b""), BadSnapshot),
    "cut metadata": (lambda one: renamed(one, one.metadata[:-1]), BadSnapshot),
    "longer metadata": (lambda one: renamed(one, one.metadata + b"\x00"), BadSnapshot),
    "endless metadata": (lambda one: renamed(one, bytes(4_000_001)), BadSnapshot),
    "nested metadata": (lambda one: renamed(one, b"\x91" * 100_000), BadSnapshot),
}


def renamed(offer: Offer, metadata: bytes) -> Offer:
    return replace(offer, metadata=metadata, hash=snapshot_hash(metadata))


@pytest.mark.parametrize("name", OFFERS)
def test_an_offer_that_cannot_be_right_is_refused(network: Network, name: str) -> None:
    alter, error = OFFERS[name]
    with pytest.raises(error):
        Arrival.begin(network.folder, network.life.genesis, alter(offer_of(network.kept)))
    still_empty(network)


@pytest.mark.parametrize(
    "change",
    [{"chain_id": "elsewhere"}, {"version": 2}, {"time_s": 1}, {"height": 0}, {"app_hash": bytes(32)}],
    ids=lambda change: next(iter(change)),
)
def test_a_header_of_another_chain_is_refused(network: Network, change: dict[str, Any]) -> None:
    forgery = Forgery(network.kept)
    _header(**change)(forgery)
    with pytest.raises(BadSnapshot):
        read_offer(forgery.put_together()[0], network.life.genesis)


def flipped(chunks: list[bytes]) -> None:
    chunks[1] = chunks[1][:-1] + bytes([chunks[1][-1] ^ 1])


def emptied(chunks: list[bytes]) -> None:
    chunks[0] = b""


def swapped(chunks: list[bytes]) -> None:
    chunks[0], chunks[1] = chunks[1], chunks[0]


def doubled(chunks: list[bytes]) -> None:
    chunks[1] = chunks[0]


def enormous(chunks: list[bytes]) -> None:
    chunks[0] = bytes(10 * 1024 * 1024)


def left_out(chunks: list[bytes]) -> None:
    del chunks[1]


@pytest.mark.parametrize("harm", [flipped, emptied, swapped, doubled, enormous, left_out])
def test_a_chunk_that_the_manifest_does_not_name_is_asked_for_again(
    network: Network, harm: Callable[[list[bytes]], None]
) -> None:
    right = chunks_of(network.kept)
    wrong = list(right)
    harm(wrong)
    arrival = Arrival.begin(network.folder, network.life.genesis, offer_of(network.kept))
    for index, data in enumerate(right):
        if index < len(wrong) and wrong[index] != data:
            with pytest.raises(BadChunk):
                arrival.add(index, wrong[index])
        for other in (index + 1, index - 1):
            with pytest.raises(OutOfOrder):
                arrival.add(other, data)
        arrival.add(index, data)
    with pytest.raises(OutOfOrder):
        arrival.add(len(right), right[0])
    network.late.begin_at(arrival.finish(), sealer_of(network.d))
    assert network.late.head == network.node.head


def other_value(forgery: Forgery) -> None:
    key, value = forgery.chunks[-1].entries[-1]
    forgery.with_entries(-1, [*forgery.chunks[-1].entries[:-1], (key, value + b"\x00")])


def one_entry_less(forgery: Forgery) -> None:
    forgery.with_entries(-1, forgery.chunks[-1].entries[:-1])
    forgery.recount()


def one_entry_more(forgery: Forgery) -> None:
    forgery.with_entries(-1, [*forgery.chunks[-1].entries, (b"\xff" * 40, b"")])
    forgery.recount()


def fewer_than_stated(forgery: Forgery) -> None:
    forgery.with_entries(-1, forgery.chunks[-1].entries[:-1])


def more_than_stated(forgery: Forgery) -> None:
    forgery.with_entries(-1, [*forgery.chunks[-1].entries, (b"\xff" * 40, b"")])


def out_of_order(forgery: Forgery) -> None:
    forgery.with_entries(-1, reversed(forgery.chunks[-1].entries))


def the_same_twice(forgery: Forgery) -> None:
    forgery.with_entries(-1, [forgery.chunks[-1].entries[0], *forgery.chunks[-1].entries])
    forgery.recount()


def chunks_out_of_order(forgery: Forgery) -> None:
    forgery.chunks[-2:] = reversed(forgery.chunks[-2:])


def ids_behind_entries(forgery: Forgery) -> None:
    forgery.chunks[-1] = Chunk(forgery.chunks[0].ids[:1], forgery.chunks[-1].entries)
    forgery.recount()


def without_ids(forgery: Forgery) -> None:
    forgery.chunks = [Chunk((), one.entries) for one in forgery.chunks]
    forgery.recount()


def one_id_less(forgery: Forgery) -> None:
    (minute, ids), *rest = forgery.chunks[0].ids
    forgery.chunks[0] = Chunk(((minute, ids[1:]), *rest), forgery.chunks[0].entries)
    forgery.recount()


def other_groups(forgery: Forgery) -> None:
    """The same ids, but as if one block had brought those of two."""
    groups = list(forgery.chunks[0].ids)
    at = next(at for at in range(len(groups) - 1) if groups[at][0] == groups[at + 1][0])
    groups[at : at + 2] = [(groups[at][0], groups[at][1] + groups[at + 1][1])]
    forgery.chunks[0] = Chunk(tuple(groups), forgery.chunks[0].entries)


def an_empty_group(forgery: Forgery) -> None:
    groups = forgery.chunks[0].ids
    forgery.chunks[0] = Chunk(((groups[0][0], ()), *groups), forgery.chunks[0].entries)


def more_ids_than_stated(forgery: Forgery) -> None:
    groups = forgery.chunks[0].ids
    forgery.chunks[0] = Chunk((*groups, groups[-1]), forgery.chunks[0].entries)


def later_time(forgery: Forgery) -> None:
    """With another time other ids are still alive."""
    _header(time_s=forgery.manifest.header.time_s + 400)(forgery)


FORGERIES = (
    other_value,
    one_entry_less,
    one_entry_more,
    fewer_than_stated,
    more_than_stated,
    out_of_order,
    the_same_twice,
    chunks_out_of_order,
    ids_behind_entries,
    without_ids,
    one_id_less,
    other_groups,
    an_empty_group,
    more_ids_than_stated,
    later_time,
)


@pytest.mark.parametrize("forge", FORGERIES)
def test_false_content_is_refused_although_its_hashes_fit(network: Network, forge: Callable[[Forgery], None]) -> None:
    forgery = Forgery(network.kept)
    forge(forgery)
    offer, chunks = forgery.put_together()
    with pytest.raises(BadSnapshot):
        arrive(network.folder, network.life.genesis, offer, chunks)
    still_empty(network)


@pytest.mark.parametrize(
    "data",
    [b"", b"\x92\x90", b"\x92\x90\x91\x92\xc4\x00\xc4\x00", b"\x91" * 5_000, b"\x92\x90\x90\x00"],
    ids=["nothing", "cut", "empty key", "nested", "longer"],
)
def test_a_chunk_that_is_none_is_refused(network: Network, data: bytes) -> None:
    right = Forgery(network.kept).manifest
    manifest = encode(Manifest(header=right.header, entries=1, ids=0, chunks=(chunk_hash(data),)))
    offer = offering(manifest, right.header.height, 1, right.header.app_hash)
    with pytest.raises(BadSnapshot):
        arrive(network.folder, network.life.genesis, offer, [data])
    still_empty(network)


def test_an_unfinished_snapshot_does_not_count(network: Network) -> None:
    arrival = Arrival.begin(network.folder, network.life.genesis, offer_of(network.kept))
    arrival.add(0, chunks_of(network.kept)[0])
    with pytest.raises(BadSnapshot):
        arrival.finish()
    arrival.give_up()
    arrival.give_up()
    still_empty(network)


def still_empty(network: Network) -> None:
    """The ledger is as it was, and a right snapshot is still taken over."""
    network.reopen()
    assert network.late.head.height == 0
    assert not (network.folder / ARRIVING_FOLDER).exists()
    take_over(network.late, network.d, network.kept)
    assert network.late.head == network.node.head


def test_ids_are_compared_with_the_digests_of_the_state(network: Network) -> None:
    node = network.node
    capture = node.capture()
    check_window(capture.window, node.snapshot(), node.head.time_s)
    with pytest.raises(WindowMismatch):
        check_window(tuple(reversed(capture.window)), node.snapshot(), node.head.time_s)
    with pytest.raises(WindowMismatch):
        check_window(capture.window, node.snapshot(), node.head.time_s + 10_000)
    check_window((), node.snapshot(), node.head.time_s + 10_000)
    window = ReplayWindow()
    window.take_over(capture.window)
    assert window.groups() == capture.window
    capture.state.release()


# --- a ledger with a base -------------------------------------------------------------------------------


def test_verify_begins_where_the_ledger_does(network: Network) -> None:
    late, life = network.late, network.life
    take_over(late, network.d, network.kept)
    late.close()
    found = verify_chain(network.home, life.genesis, keeper=network.d.id)
    assert (found.ok, found.height, found.base, found.executed_from) == (True, BLOCKS, BLOCKS, BLOCKS)
    network.late = node_of(network.home, life.genesis, network.d, checkpoints=NEVER)
    happen(life, 4, *network.nodes)
    network.late.checkpoint()
    happen(life, 3, *network.nodes)
    found = verify_chain(network.home, life.genesis, keeper=network.d.id, store=network.late._store)
    assert (found.ok, found.height, found.executed_from) == (True, BLOCKS + 7, BLOCKS + 4)
    assert found.app_hash == network.node.head.app_hash


@pytest.mark.parametrize("where", ["tree", "block", "base", "label"])
def test_verify_finds_what_is_damaged(network: Network, where: str) -> None:
    take_over(network.late, network.d, network.kept)
    happen(network.life, 3, *network.nodes)
    network.late.close()
    path = {
        "tree": max((network.folder / TREE_FOLDER).glob("leaves*"), key=lambda one: one.stat().st_size),
        "block": network.folder / LOG_NAME,
        "base": network.folder / BASE_FILE,
        "label": network.folder / LOG_NAME,
    }[where]
    data = bytearray(path.read_bytes())
    data[20 if where == "label" else len(data) // 2] ^= 1
    path.write_bytes(data)
    found = verify_chain(network.home, network.life.genesis, keeper=network.d.id)
    assert found.first_bad is not None
    assert not found.ok


def test_verify_wants_the_state_where_blocks_cannot_give_it(network: Network) -> None:
    take_over(network.late, network.d, network.kept)
    happen(network.life, 3, *network.nodes)
    network.late.close()
    rmtree(network.folder / TREE_FOLDER)
    found = verify_chain(network.home, network.life.genesis, keeper=network.d.id)
    assert found.first_bad is not None
    assert "not here" in found.first_bad.reason
    other = verify_chain(network.home, network.life.genesis, keeper=network.a.id)
    assert other.first_bad is not None
    assert "sealed" in other.first_bad.reason


def loses_tree(folder: Path) -> None:
    rmtree(folder / TREE_FOLDER)


def damages_tree(folder: Path) -> None:
    (folder / TREE_FOLDER / INDEX_FOLDER / INDEX_FILE).write_bytes(b"nonsense" * 4096)


@pytest.mark.parametrize("harm", [loses_tree, damages_tree])
def test_a_state_that_blocks_cannot_give_has_to_be_fetched_again(
    network: Network, harm: Callable[[Path], None]
) -> None:
    take_over(network.late, network.d, network.kept)
    happen(network.life, 3, *network.nodes)
    network.late.close()
    harm(network.folder)
    for rebuild in (False, True):
        with pytest.raises(ResyncNeeded, match="carechain resync"):
            Session.open(network.home, network.life.genesis, keeper=network.d.id, rebuild=rebuild)


def test_a_base_is_believed_only_with_this_nodes_signature(network: Network) -> None:
    take_over(network.late, network.d, network.kept)
    network.late.close()
    with pytest.raises(CorruptHistory, match="sealed"):
        node_of(network.home, network.life.genesis, network.a)
    base = read_base(network.folder)
    assert base is not None
    assert header_hash(base.header) == network.node.head.block_hash
    (network.folder / BASE_FILE).unlink()
    with pytest.raises(CorruptHistory, match="missing"):
        node_of(network.home, network.life.genesis, network.d)


# --- through the engine's interface ---------------------------------------------------------------------


class Wire:
    """A node's application, asked with the engine's own messages."""

    def __init__(self, session: Session, organisation: Organisation, snapshots: Snapshots | None = None) -> None:
        self.session = session
        self.arrived = 0
        hooks = Hooks(
            committed=lambda _: None,
            refused=lambda *_: None,
            failed=lambda _: None,
            knows_peer=lambda _: False,
            arrived=self._note,
        )
        self.application = Application(session, sealer_of(organisation), hooks, snapshots=snapshots)

    def _note(self) -> None:
        self.arrived += 1

    def ask(self, kind: str, **fields: Any) -> Any:
        request, response = Request(), Response()
        filled = getattr(request, kind)
        filled.SetInParent()
        for name, value in fields.items():
            if name == "snapshot":
                filled.snapshot.CopyFrom(value)
            else:
                setattr(filled, name, value)
        self.application.answer(kind, filled, getattr(response, kind))
        return getattr(response, kind)

    def next_block(self, life: SharedLife) -> None:
        request, response = Request(), Response()
        asked = request.finalize_block
        asked.txs.extend(life.next_block())
        asked.height, asked.time.seconds = self.session.head.height + 1, life.time_s
        asked.proposer_address = bytes(20)
        self.application.answer("finalize_block", asked, response.finalize_block)
        self.ask("commit")

    def offer(self, snapshot: Any, app_hash: bytes) -> int:
        return int(self.ask("offer_snapshot", snapshot=snapshot, app_hash=app_hash).result)

    def chunk(self, index: int, data: bytes, sender: str = "peer") -> Any:
        return self.ask("apply_snapshot_chunk", index=index, chunk=data, sender=sender)


def test_a_snapshot_travels_over_the_interface(network: Network) -> None:
    snapshots = Snapshots(network.tmp_path / "a" / LEDGER_FOLDER, Rhythm(every_blocks=1))
    node = Wire(network.node, network.a, snapshots)
    late = Wire(network.late, network.d, Snapshots(network.folder))
    assert not node.ask("list_snapshots").snapshots
    node.next_block(network.life)
    while snapshots.advance(50):
        pass
    (listed,) = node.ask("list_snapshots").snapshots
    assert (listed.height, listed.format) == (BLOCKS + 1, FORMAT)
    app_hash = network.node.head.app_hash
    assert late.chunk(0, b"").result == 5
    assert late.offer(listed, bytes(32)) == 5
    assert late.offer(listed, app_hash) == 1
    fetched = [
        node.ask("load_snapshot_chunk", height=listed.height, format=listed.format, chunk=index).chunk
        for index in range(listed.chunks)
    ]
    assert node.ask("load_snapshot_chunk", height=listed.height, format=listed.format, chunk=listed.chunks).chunk == b""
    refused = late.chunk(0, fetched[1], "liar")
    assert (refused.result, list(refused.refetch_chunks), list(refused.reject_senders)) == (3, [0], ["liar"])
    assert late.chunk(1, fetched[1]).result == 4
    assert late.offer(listed, app_hash) == 1
    for index, data in enumerate(fetched):
        assert late.arrived == 0
        assert late.chunk(index, data).result == 1
    assert late.arrived == 1
    info = late.ask("info")
    assert (info.last_block_height, info.last_block_app_hash) == (BLOCKS + 1, app_hash)
    # Until it has executed a block the engine may offer again; then no more.
    assert late.offer(listed, app_hash) == 1
    happen(network.life, 1, *network.nodes)
    assert late.offer(listed, app_hash) == 3


def test_what_is_under_way_is_given_up_at_the_end(network: Network) -> None:
    snapshots = Snapshots(network.tmp_path / "a" / LEDGER_FOLDER, Rhythm(every_blocks=1))
    node, late = Wire(network.node, network.a, snapshots), Wire(network.late, network.d)
    node.next_block(network.life)
    assert snapshots.making == BLOCKS + 1
    listed = Request().offer_snapshot.snapshot
    kept = network.kept
    listed.height, listed.format, listed.chunks = kept.height, kept.format, kept.chunks
    listed.hash, listed.metadata = kept.hash, kept.metadata
    assert late.offer(listed, offer_of(kept).app_hash) == 1
    for _ in range(2):
        node.application.close()
        late.application.close()
    assert snapshots.making is None
    assert not (network.folder / ARRIVING_FOLDER).exists()


def test_whoever_vouches_for_a_false_snapshot_is_named(network: Network) -> None:
    forgery = Forgery(network.kept)
    other_value(forgery)
    offer, chunks = forgery.put_together()
    late = Wire(network.late, network.d)
    listed = Request().offer_snapshot.snapshot
    listed.height, listed.format, listed.chunks = offer.height, offer.format, offer.chunks
    listed.hash, listed.metadata = offer.hash, offer.metadata
    assert late.offer(listed, offer.app_hash) == 1
    answers = [late.chunk(index, data, f"peer {index % 2}") for index, data in enumerate(chunks)]
    assert [one.result for one in answers] == [1] * (len(chunks) - 1) + [5]
    assert list(answers[-1].reject_senders) == ["peer 0", "peer 1"]
    listed.format = FORMAT + 1
    assert late.offer(listed, offer.app_hash) == 4
    still_empty(network)


def test_a_held_snapshot_outlives_checkpoints_that_empty_files(tmp_path: Path) -> None:
    """What it needs stays on the disk until it is released, and goes then."""
    with NodeStore.open(tmp_path / "tree", file_bytes=1024) as store:
        keys = [number.to_bytes(4, "big") for number in range(200)]
        state = store.checkpoint(height=1, snapshot=store.snapshot().apply([(key, b"old" * 9) for key in keys]))
        held = store.hold(state)
        for height in range(2, 12):
            changed = [(key, b"%d" % height * 20) for key in keys]
            state = store.checkpoint(height=height, snapshot=state.apply(changed), idle=True)
        files = len([*(tmp_path / "tree").glob("*.nodes")])
        assert [*held.snapshot.scan(b"")] == [(key, b"old" * 9) for key in keys]
        held.release()
        held.release()
        with pytest.raises(SnapshotGone):
            held.snapshot.get(keys[0])
        state = store.checkpoint(height=12, snapshot=state.apply([(keys[0], b"x")]), idle=True)
        assert len([*(tmp_path / "tree").glob("*.nodes")]) < files
        last = store.hold(state)
    with pytest.raises(SnapshotGone):
        next(last.snapshot.scan(b""))
