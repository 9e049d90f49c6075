"""The session: the legal order of calls, what finalize and commit mean, and where a restart resumes.

Method: an embedded ledger on a real folder, driven with the traffic of ``ledgers.py``; each illegal call is one row; a
restart at every height must give the heads, receipts and refusals of the session that never stopped.
"""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from shutil import copytree, rmtree

import lmdb
import pytest
from msgspec.structs import replace

from carechain.chain.genesis import genesis_hash
from carechain.chain.header import SealedHeader, decode_sealed, signing_bytes
from carechain.chain.receipts import OK, Receipt, encode_receipt
from carechain.chain.transition import Block
from carechain.chain.tx import AdmissionCode, parse
from carechain.contracts.membership import PARTIES_TABLE
from carechain.core.codec import encode
from carechain.core.limits import BLOCK_TXS
from carechain.core.rejection import Rejected
from carechain.engine.blocklog import (
    INDEX_NAME,
    LABEL_BYTES,
    LOG_NAME,
    BlockLog,
    CorruptHistory,
    StoredBlock,
    WrongChain,
    record_head,
)
from carechain.engine.disk import FileLocked
from carechain.engine.embedded import BlockProducer, EmbeddedEngine
from carechain.engine.session import LEDGER_FOLDER, TREE_FOLDER, Checkpoints, IllegalOrder, Session
from carechain.engine.txindex import admitted, side_key
from carechain.engine.verify import verify_chain
from carechain.state.lmdb_file import INDEX_FILE, INDEX_FOLDER
from carechain.state.log import NodeLog, StoreDamaged
from ledgers import SMALL, Life, engine_at, run
from world import anchor_of

NEVER = Checkpoints(blocks=10**9, txs=10**9)


def next_block(session: Session, *txs: bytes, time_s: int | None = None) -> Block:
    head = session.head
    return Block(height=head.height + 1, time_s=head.time_s if time_s is None else time_s, txs=txs)


# --- order ----------------------------------------------------------------------------------------------


def commit_before_finalize(session: Session, life: Life) -> object:
    return session.commit(life.producer)


def commit_twice(session: Session, life: Life) -> object:
    session.finalize(next_block(session))
    session.commit(life.producer)
    return session.commit(life.producer)


def skip_a_height(session: Session, life: Life) -> object:
    return session.finalize(Block(height=session.head.height + 2, time_s=life.time_s, txs=()))


def repeat_a_height(session: Session, life: Life) -> object:
    return session.finalize(Block(height=session.head.height, time_s=life.time_s, txs=()))


def time_back(session: Session, life: Life) -> object:
    return session.finalize(next_block(session, time_s=session.head.time_s - 1))


def too_many(session: Session, life: Life) -> object:
    return session.finalize(next_block(session, *[b"x"] * (BLOCK_TXS + 1)))


def too_large(session: Session, life: Life) -> object:
    return session.finalize(next_block(session, *[bytes(1 << 20)] * 17))


def not_a_producer(session: Session, life: Life) -> object:
    session.finalize(next_block(session))
    return session.commit(BlockProducer.of(life.world.b.signing))


def after_close(session: Session, life: Life) -> object:
    session.close()
    return session.finalize(Block(height=session.head.height + 1, time_s=life.time_s, txs=()))


def check_after_close(session: Session, life: Life) -> object:
    session.close()
    return session.check(life.sign(anchor_of(life.world.steve, "one"), by=life.world.carl))


def checkpoint_abandons(session: Session, life: Life) -> object:
    session.finalize(next_block(session))
    session.checkpoint()
    return session.commit(life.producer)


ILLEGAL: tuple[Callable[[Session, Life], object], ...] = (
    commit_before_finalize,
    commit_twice,
    skip_a_height,
    repeat_a_height,
    time_back,
    too_many,
    too_large,
    not_a_producer,
    after_close,
    check_after_close,
    checkpoint_abandons,
)


@pytest.mark.parametrize("call", ILLEGAL, ids=lambda call: call.__name__)
def test_calls_out_of_order_are_refused(tmp_path: Path, call: Callable[[Session, Life], object]) -> None:
    life = Life()
    engine = engine_at(tmp_path, life)
    run(engine, life, 2)
    with pytest.raises(IllegalOrder):
        call(engine.session, life)
    engine.session.close()


# --- finalize and commit --------------------------------------------------------------------------------


def test_finalize_keeps_nothing_and_may_be_repeated(tmp_path: Path) -> None:
    life = Life()
    engine = engine_at(tmp_path, life)
    session = engine.session
    run(engine, life, 1)
    head, size = session.head, (tmp_path / LEDGER_FOLDER / LOG_NAME).stat().st_size
    one, other = life.anchor(), life.anchor()
    first = session.finalize(next_block(session, one))
    again = session.finalize(next_block(session, one))
    assert first == again
    assert first.receipts[0].code == OK
    assert session.head == head
    assert session.snapshot().root_hash == head.app_hash
    assert (tmp_path / LEDGER_FOLDER / LOG_NAME).stat().st_size == size
    session.finalize(next_block(session, other))
    committed = session.commit(life.producer)
    assert committed.txs == (other,)
    assert session.check(one) == session.check(one)
    with pytest.raises(Rejected) as refused:
        session.check(other)
    assert refused.value.code is AdmissionCode.REPLAYED
    session.close()


def test_an_empty_block_leaves_the_app_hash(tmp_path: Path) -> None:
    life = Life()
    engine = engine_at(tmp_path, life)
    run(engine, life, 1)
    before = engine.session.head
    # Long after every replay minute is over, so that pruning would have something to do.
    for seconds in (0, 5, 10_000):
        block = engine.produce(time_s=before.time_s + seconds, txs=())
        assert block.header.app_hash == before.app_hash
    assert engine.session.head.height == before.height + 3
    engine.session.close()


def test_block_time_never_goes_back_with_the_clock(tmp_path: Path) -> None:
    life = Life()
    engine = engine_at(tmp_path, life)
    run(engine, life, 1)
    time_s = engine.session.head.time_s
    assert engine.produce(time_s=time_s - 500, txs=()).time_s == time_s
    engine.session.close()


def test_what_fails_admission_is_left_out_and_changes_nothing(tmp_path: Path) -> None:
    life = Life()
    engine = engine_at(tmp_path, life)
    run(engine, life, 1)
    good, other = life.anchor(), life.anchor()
    rejected = life.sign(anchor_of(life.world.steve, "not his"), by=life.world.bert)
    bad = (b"", good, life.sent[0], other[:-1] + bytes([other[-1] ^ 1]))
    block = engine.produce(time_s=life.time_s, txs=(bad[0], good, *bad[1:], rejected, other))
    assert block.txs == (good, rejected, other)
    assert [raw for raw, _ in block.refused] == list(bad)
    assert [code for _, code in block.refused] == [
        AdmissionCode.MALFORMED,
        AdmissionCode.REPLAYED,
        AdmissionCode.REPLAYED,
        AdmissionCode.BAD_SIGNATURE,
    ]
    assert [receipt.code == OK for receipt in block.receipts] == [True, False, True]
    assert engine.session.block(block.height) == replace(block, refused=())
    engine.session.close()


def test_a_block_of_nothing_but_refusals_is_an_empty_block(tmp_path: Path) -> None:
    life = Life()
    engine = engine_at(tmp_path, life)
    run(engine, life, 1)
    before = engine.session.head
    block = engine.produce(time_s=before.time_s + 10_000, txs=(b"nonsense", life.sent[0]))
    assert block.txs == ()
    assert block.header.app_hash == before.app_hash
    engine.session.close()


def test_check_judges_by_the_time_it_is_given(tmp_path: Path) -> None:
    life = Life()
    engine = engine_at(tmp_path, life)
    run(engine, life, 1)
    raw = life.sign(anchor_of(life.world.steve, "soon"), by=life.world.carl, valid_s=601)
    with pytest.raises(Rejected) as refused:
        engine.session.check(raw)
    assert refused.value.code is AdmissionCode.VALID_TOO_LONG
    signer = engine.session.check(raw, time_s=life.time_s + 1)
    assert signer.public_key == life.world.carl.signing.public_key
    engine.session.close()


def test_the_ledger_keeps_what_check_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    life = Life()
    engine = engine_at(tmp_path, life)
    run(engine, life, 1)
    raw = life.anchor()
    engine.session.check(raw)
    monkeypatch.setattr("carechain.chain.signatures.verify", None)
    assert engine.produce(time_s=life.time_s, txs=(raw,)).receipts[0].code == OK
    engine.session.close()


# --- finding things -------------------------------------------------------------------------------------


def test_transactions_are_found_by_id_before_and_after_a_checkpoint(tmp_path: Path) -> None:
    life = Life()
    engine = engine_at(tmp_path, life, checkpoints=SMALL)
    blocks = run(engine, life, 12)
    session = engine.session
    for _ in range(2):
        for block in blocks:
            assert session.block(block.height) == replace(block, refused=())
            for index, (tx_id, receipt) in enumerate(zip(block.tx_ids, block.receipts, strict=True)):
                assert tx_id is not None
                assert session.locate(tx_id) == (block.height, index)
                full = session.receipt(tx_id)
                assert full is not None
                assert (full.height, full.index, full.code, full.tx_id) == (block.height, index, receipt.code, tx_id)
        session.checkpoint()
    assert session.locate(bytes(32)) is None
    assert session.receipt(bytes(32)) is None
    tx_id = blocks[0].tx_ids[0]
    assert tx_id is not None
    assert session.locate(tx_id[:12] + bytes(20)) is None
    with pytest.raises(IndexError):
        session.block(session.head.height + 1)
    session.close()


def test_a_snapshot_stays_while_blocks_pass(tmp_path: Path) -> None:
    life = Life()
    engine = engine_at(tmp_path, life, checkpoints=NEVER)
    run(engine, life, 1)
    snapshot, before = engine.session.snapshot(), engine.session.head.app_hash
    entries = list(snapshot.scan(b""))
    run(engine, life, 6)
    engine.session.checkpoint()
    assert list(snapshot.scan(b"")) == entries
    assert snapshot.root_hash == before != engine.session.head.app_hash
    engine.session.close()


# --- restart --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clean", [True, False], ids=["closed", "killed"])
def test_a_restart_after_every_block_changes_nothing(tmp_path: Path, *, clean: bool) -> None:
    steady_life, life = Life(3), Life(3)
    steady = engine_at(tmp_path / "steady", steady_life)
    expected = run(steady, steady_life, 16)
    steady.session.close()
    for want in expected:
        engine = engine_at(tmp_path / "restarted", life, checkpoints=SMALL)
        (got,) = run(engine, life, 1)
        assert got == want
        if clean:
            engine.session.close()
        else:
            engine.session._end()


def test_replayed_transactions_are_refused_after_a_restart_as_before(tmp_path: Path) -> None:
    life = Life()
    engine = engine_at(tmp_path, life, checkpoints=SMALL)
    blocks = run(engine, life, 30)
    ids = engine.session._replay._ids.copy()
    time_s = engine.session.head.time_s
    engine.session.close()
    engine = engine_at(tmp_path, life)
    session = engine.session
    assert session._replay._ids == ids
    sent = [(raw, receipt) for block in blocks for raw, receipt in zip(block.txs, block.receipts, strict=True)]
    live = [raw for raw, receipt in sent if admitted(receipt) and parse(raw).body.valid_until_s > time_s]
    assert live
    for raw in live:
        with pytest.raises(Rejected) as refused:
            session.check(raw)
        assert refused.value.code is AdmissionCode.REPLAYED
    session.close()


def test_the_tree_can_be_thrown_away(tmp_path: Path) -> None:
    life = Life()
    engine = engine_at(tmp_path, life, checkpoints=SMALL)
    run(engine, life, 10)
    head = engine.session.head
    engine.session.close()
    steps: list[tuple[int, int]] = []
    session = Session.open(tmp_path, life.genesis, rebuild=True, progress=lambda done, of: steps.append((done, of)))
    assert session.head == head
    assert steps == [(done, 10) for done in range(1, 11)]
    session.close()
    rmtree(tmp_path / LEDGER_FOLDER / TREE_FOLDER)
    with Session.open(tmp_path, life.genesis) as session:
        assert session.head == head


def empty_nodes(tree: Path) -> None:
    for path in tree.glob("*.nodes"):
        path.write_bytes(b"")


def no_small_tables(tree: Path) -> None:
    os.truncate(tree / INDEX_FOLDER / INDEX_FILE, 4096)


def older_layout(tree: Path) -> None:
    put_small(tree, b"version", (1).to_bytes(4, "big"))


def other_root(tree: Path) -> None:
    """One bit of the root that the last checkpoint states."""
    env = lmdb.open(str(tree / INDEX_FOLDER), max_dbs=32)
    table = env.open_db(b"main")
    with env.begin(write=True) as txn:
        head = bytearray(txn.get(b"head", db=table))
        head[10] ^= 1
        txn.put(b"head", bytes(head), db=table)
    env.close()


def nonsense_count(tree: Path) -> None:
    """What says on how many shelves to look would keep a look-up busy for ever."""
    put_small(tree, b"meta/txs", (1 << 60).to_bytes(8, "big"))


def index_entry_lost(tree: Path) -> None:
    env = lmdb.open(str(tree / INDEX_FOLDER), max_dbs=32)
    table = env.open_db(b"side/txs")
    with env.begin(write=True) as txn:
        txn.delete(next(iter(txn.cursor(db=table)))[0], db=table)
    env.close()


def put_small(tree: Path, key: bytes, value: bytes) -> None:
    env = lmdb.open(str(tree / INDEX_FOLDER), max_dbs=32)
    with env.begin(write=True) as txn:
        txn.put(key, value, db=env.open_db(b"main", txn=txn))
    env.close()


TREE_DAMAGES = (empty_nodes, no_small_tables, older_layout, other_root, nonsense_count, index_entry_lost, rmtree)


@pytest.mark.parametrize("damage", TREE_DAMAGES, ids=lambda one: one.__name__)
def test_a_tree_that_cannot_be_used_is_rebuilt_from_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    life = Life()
    engine = engine_at(tmp_path, life, checkpoints=SMALL)
    run(engine, life, 6)
    head = engine.session.head
    engine.session.close()
    damage(tmp_path / LEDGER_FOLDER / TREE_FOLDER)
    caplog.set_level(logging.WARNING, logger="carechain.engine")
    steps: list[tuple[int, int]] = []
    with Session.open(tmp_path, life.genesis, progress=lambda done, of: steps.append((done, of))) as session:
        assert session.head == head
        assert session.rebuilt
        assert "rebuilt from the block log" in caplog.text
    assert steps == [(done, 6) for done in range(1, 7)]
    caplog.clear()
    with Session.open(tmp_path, life.genesis) as session:
        assert (session.head, session.rebuilt, caplog.text) == (head, None, "")
    assert verify_chain(tmp_path, life.genesis).ok


@pytest.mark.parametrize("damage", [empty_nodes, older_layout], ids=lambda one: one.__name__)
def test_a_log_shorter_than_a_checkpoint_is_refused_whatever_the_tree_is_like(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    """Rebuilding would forget the only witness, and cutting the torn end the only rest."""
    life = Life()
    engine = engine_at(tmp_path, life)
    run(engine, life, 5)
    engine.session.close()
    ledger = tmp_path / LEDGER_FOLDER
    damage(ledger / TREE_FOLDER)
    os.truncate(ledger / LOG_NAME, (ledger / LOG_NAME).stat().st_size - 1)
    before = contents(ledger)
    for _ in range(2):
        with pytest.raises(CorruptHistory, match="checkpoint reaches further") as found:
            engine_at(tmp_path, life)
        assert found.value.height == 5
    after = contents(ledger)
    # The index of offsets is derived, and LMDB notes its readers.
    assert {path: data for path, data in after.items() if path.name not in (INDEX_NAME, "lock.mdb")} == {
        path: data for path, data in before.items() if path.name not in (INDEX_NAME, "lock.mdb")
    }


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_damage_met_while_running_is_never_executed_on_and_mended_by_a_restart(tmp_path: Path) -> None:
    """A leaf rots on the disk. The block that needs it is not made; the next start makes a new tree."""
    life = Life()
    engine = engine_at(tmp_path, life)
    run(engine, life, 4)
    engine.session.close()
    key = PARTIES_TABLE.key_of(life.world.carl.id)
    for path in (tmp_path / LEDGER_FOLDER / TREE_FOLDER).glob("leaves*"):
        data = bytearray(path.read_bytes())
        data[data.rindex(key) + len(key) + 3] ^= 1
        path.write_bytes(data)
    engine = engine_at(tmp_path, life)
    assert engine.session.rebuilt is None
    height, raw = engine.session.head.height, life.anchor()
    raw = life.sign(anchor_of(life.world.steve, "after the flip"), by=life.world.carl)
    with pytest.raises(StoreDamaged, match="checksum"):
        engine.produce(time_s=life.time_s, txs=(raw,))
    engine.session._end()
    engine = engine_at(tmp_path, life)
    assert engine.session.rebuilt == "damage was found in it earlier"
    assert engine.session.head.height == height
    assert engine.produce(time_s=life.time_s, txs=(raw,)).receipts[0].code == OK
    engine.session.close()
    assert verify_chain(tmp_path, life.genesis).ok


def test_a_place_that_does_not_exist_is_damage_and_no_missing_block(tmp_path: Path) -> None:
    life = Life()
    engine = engine_at(tmp_path, life)
    blocks = run(engine, life, 4)
    engine.session.close()
    tx_id = blocks[0].tx_ids[0]
    assert tx_id is not None
    env = lmdb.open(str(tmp_path / LEDGER_FOLDER / TREE_FOLDER / INDEX_FOLDER), max_dbs=32)
    table = env.open_db(b"side/txs")
    with env.begin(write=True) as txn:
        txn.delete(side_key(0, tx_id, 1, 0), db=table)
        txn.put(side_key(0, tx_id, 77, 0), b"", db=table)
    env.close()
    with Session.open(tmp_path, life.genesis) as session, pytest.raises(StoreDamaged, match="place"):
        session.locate(tx_id)
    with Session.open(tmp_path, life.genesis) as session:
        assert session.rebuilt
        assert session.locate(tx_id) == (1, 0)


def forged_head(blocks: list[StoredBlock], life: Life) -> int:
    """The head with another time, signed by nobody."""
    header = decode_sealed(blocks[-1].header).header
    later = replace(header, time_s=header.time_s + 3)
    blocks[-1] = replace(blocks[-1], header=encode(SealedHeader(later, bytes(64))))
    return len(blocks)


def head_of_another_signer(blocks: list[StoredBlock], life: Life) -> int:
    header = decode_sealed(blocks[-1].header).header
    signature = life.world.b.signing.sign(signing_bytes(header))
    blocks[-1] = replace(blocks[-1], header=encode(SealedHeader(header, signature)))
    return len(blocks)


def nonsense_transactions(blocks: list[StoredBlock], life: Life) -> int:
    at = max(at for at, block in enumerate(blocks) if block.txs)
    blocks[at] = replace(blocks[at], txs=(b"\xc1",) * len(blocks[at].txs))
    return at + 1


def nonsense_receipts(blocks: list[StoredBlock], life: Life) -> int:
    at = max(at for at, block in enumerate(blocks) if block.txs)
    blocks[at] = replace(blocks[at], receipts=(b"\xc1",) * len(blocks[at].txs))
    return at + 1


def other_receipts(blocks: list[StoredBlock], life: Life) -> int:
    """An admitted transaction passed off as refused could be sent again."""
    at = max(at for at, block in enumerate(blocks) if block.txs)
    refused = encode_receipt(Receipt(AdmissionCode.EXPIRED, 0, (), bytes(32)))
    blocks[at] = replace(blocks[at], receipts=(refused,) * len(blocks[at].txs))
    return at + 1


def block_left_out(blocks: list[StoredBlock], life: Life) -> int:
    """A block of the window resealed by its producer, so that the next one does not follow it."""
    header = decode_sealed(blocks[-2].header).header
    other = replace(header, receipt_root=bytes(32)) if blocks[-2].txs else replace(header, app_hash=bytes(32))
    blocks[-2] = replace(blocks[-2], header=encode(SealedHeader(other, life.producer.sign(signing_bytes(other)))))
    return len(blocks)


FORGERIES = (
    forged_head,
    head_of_another_signer,
    nonsense_transactions,
    nonsense_receipts,
    other_receipts,
    block_left_out,
)


@pytest.mark.parametrize("forge", FORGERIES, ids=lambda one: one.__name__)
def test_nothing_is_built_on_a_forged_head_or_window(
    tmp_path: Path, forge: Callable[[list[StoredBlock], Life], int]
) -> None:
    """All blocks are below the checkpoint, so none is executed again; what was signed is looked at all the same."""
    life = Life(11)
    engine = engine_at(tmp_path, life)
    run(engine, life, 12)
    engine.session.close()
    path = tmp_path / LEDGER_FOLDER / LOG_NAME
    log = BlockLog.open(path.parent, genesis=genesis_hash(life.genesis), read_only=True)
    blocks = [block for _, block in log.blocks()]
    log.close()
    height = forge(blocks, life)
    payloads = [encode(block) for block in blocks]
    records = [record_head(at, payload) + payload for at, payload in enumerate(payloads, 1)]
    path.write_bytes(path.read_bytes()[:LABEL_BYTES] + b"".join(records))
    with pytest.raises(CorruptHistory) as found:
        engine_at(tmp_path, life)
    assert found.value.height == height


def test_an_opening_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fills while a start writes a checkpoint: what is told is that, and not what became of it."""
    life = Life()
    engine = engine_at(tmp_path, life)
    run(engine, life, 6)
    engine.session._end()

    def full(_: NodeLog) -> list[int]:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(NodeLog, "flush", full)
        with pytest.raises(OSError, match="No space"):
            engine_at(tmp_path, life, checkpoints=Checkpoints(blocks=2, txs=4))
    engine_at(tmp_path, life).session.close()


def test_another_genesis_is_refused(tmp_path: Path) -> None:
    life = Life()
    engine_at(tmp_path, life).session.close()
    other = replace(life.genesis, chain_id="other-1")
    with pytest.raises(WrongChain):
        Session.open(tmp_path, other)
    (tmp_path / LEDGER_FOLDER / LOG_NAME).unlink()
    with pytest.raises(WrongChain):
        Session.open(tmp_path, other)


def test_a_second_process_is_kept_out(tmp_path: Path) -> None:
    life = Life()
    engine = engine_at(tmp_path, life)
    for rebuild in (False, True):
        with pytest.raises(FileLocked):
            engine_at(tmp_path, life, rebuild=rebuild)
    run(engine, life, 2)
    engine.session.close()


def test_an_acknowledged_block_that_is_gone_is_missed(tmp_path: Path) -> None:
    """A cut tail below a checkpoint is not torn: the block it held was acknowledged."""
    life = Life()
    engine = engine_at(tmp_path, life)
    run(engine, life, 5)
    engine.session.close()
    path = tmp_path / LEDGER_FOLDER / LOG_NAME
    whole = path.read_bytes()
    for cut in (1, 100, len(whole) // 2):
        path.write_bytes(whole[:-cut])
        with pytest.raises(CorruptHistory) as found:
            engine_at(tmp_path, life)
        assert "checkpoint" in found.value.reason
        path.write_bytes(whole)
    with Session.open(tmp_path, life.genesis) as session:
        assert session.head.height == 5


def test_an_engine_without_the_right_key_makes_no_block(tmp_path: Path) -> None:
    life = Life()
    engine = engine_at(tmp_path, life)
    stranger = EmbeddedEngine(engine.session, BlockProducer.of(life.world.b.signing))
    with pytest.raises(IllegalOrder):
        stranger.produce(time_s=life.time_s, txs=())
    assert engine.produce(time_s=life.time_s, txs=()).height == 1
    engine.session.close()


def test_a_full_disk_ends_the_session_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    life = Life()
    engine = engine_at(tmp_path, life)
    run(engine, life, 3)
    head = engine.session.head

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("carechain.engine.disk.OsFile.sync", full)
        with pytest.raises(OSError, match="No space"):
            engine.produce(time_s=life.time_s, txs=(life.anchor(),))
    with pytest.raises(IllegalOrder):
        engine.session.check(life.anchor())
    with Session.open(tmp_path, life.genesis) as session:
        assert head.height <= session.head.height <= head.height + 1
        assert session.block(head.height).header.app_hash == head.app_hash


def test_a_copy_of_the_folder_goes_on_alike(tmp_path: Path) -> None:
    life, twin = Life(9), Life(9)
    engine = engine_at(tmp_path / "one", life)
    run(engine, life, 4)
    run(engine_at(tmp_path / "scratch", twin), twin, 4)
    engine.session.close()
    copytree(tmp_path / "one", tmp_path / "two")
    engine, other = engine_at(tmp_path / "one", life), engine_at(tmp_path / "two", twin)
    assert run(engine, life, 4) == run(other, twin, 4)
    engine.session.close()
    other.session.close()


def test_the_index_is_searched_shelf_by_shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With tiny shelves every checkpoint begins a new one; all are found, and a restart knows how many there are."""
    monkeypatch.setattr("carechain.engine.txindex._SHELF_BITS", 2)
    life = Life()
    engine = engine_at(tmp_path, life, checkpoints=SMALL)
    blocks = run(engine, life, 12)
    engine.session.close()
    with Session.open(tmp_path, life.genesis) as session:
        shelves = {key[:4] for key, _ in session._store.side_scan("txs", b"")}
        assert len(shelves) > 2
        for block in blocks:
            for index, tx_id in enumerate(block.tx_ids):
                assert tx_id is not None
                assert session.locate(tx_id) == (block.height, index)
        assert session._index._written == sum(len(block.txs) for block in blocks)
