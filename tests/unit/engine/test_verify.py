"""``verify`` finds the first thing that is wrong, and says what it is.

Method: a good ledger of twelve blocks, altered by somebody who knows the formats and recomputes every checksum: one
alteration per row, with the kind and the height that must be named. Then random flips of single bits in the log, the
node files and the file of the small tables: opening or verifying must notice, or the bit must be one that nothing is
read from; and a node that starts on a damaged tree and goes on must never sign what others cannot replay.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from random import Random
from shutil import copytree

import lmdb
import pytest
from msgspec.structs import replace

from carechain.chain.genesis import Genesis, genesis_hash
from carechain.chain.header import SealedHeader, decode_sealed, signing_bytes
from carechain.chain.receipts import Receipt, encode_receipt
from carechain.chain.transition import Block
from carechain.contracts.membership import PARTIES_TABLE
from carechain.core.codec import encode
from carechain.core.hashing import ZERO_HASH
from carechain.engine import sealed
from carechain.engine.blocklog import LABEL_BYTES, LOG_NAME, BlockLog, CorruptHistory, StoredBlock, record_head
from carechain.engine.embedded import BlockProducer
from carechain.engine.session import LEDGER_FOLDER, TREE_FOLDER, Session
from carechain.engine.txindex import id_of
from carechain.engine.verify import FirstBad, Part, Verdict, verify_chain
from carechain.state.lmdb_file import INDEX_FILE, INDEX_FOLDER
from carechain.state.log import StoreDamaged
from carechain.state.store import NodeStore
from ledgers import SMALL, Life, engine_at, run

BLOCKS = 12
ALTERED = 5
"""The height of the block that the rows alter: an early one with several transactions."""


@pytest.fixture(scope="module")
def life() -> Life:
    return Life(11)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, life: Life) -> Path:
    home = tmp_path_factory.mktemp("good")
    engine = engine_at(home, life, checkpoints=SMALL)
    run(engine, life, BLOCKS)
    engine.session.close()
    return home


@pytest.fixture
def home(tmp_path: Path, good: Path) -> Path:
    """A copy to alter."""
    return Path(copytree(good, tmp_path / "home"))


def blocks_of(home: Path, genesis: Genesis) -> list[StoredBlock]:
    log = BlockLog.open(home / LEDGER_FOLDER, genesis=genesis_hash(genesis), read_only=True)
    blocks = [block for _, block in log.blocks()]
    log.close()
    return blocks


def write_blocks(home: Path, blocks: list[StoredBlock]) -> None:
    """Put the log together again, with correct checksums, as somebody who means to deceive would."""
    path = home / LEDGER_FOLDER / LOG_NAME
    parts = [path.read_bytes()[:LABEL_BYTES]]
    for height, block in enumerate(blocks, 1):
        payload = encode(block)
        parts += [record_head(height, payload), payload]
    path.write_bytes(b"".join(parts))


def test_a_good_ledger_is_good(home: Path, life: Life) -> None:
    steps: list[tuple[int, int]] = []
    verdict = verify_chain(home, life.genesis, progress=lambda done, of: steps.append((done, of)))
    with Session.open(home, life.genesis) as session:
        head = session.head
        assert verdict == Verdict(ok=True, height=BLOCKS, app_hash=head.app_hash, first_bad=None, torn_bytes=0)
        assert verify_chain(home, life.genesis, store=session._store) == verdict
    assert steps == [(done, BLOCKS) for done in range(1, BLOCKS + 1)]


def test_a_ledger_that_was_only_founded_is_good(tmp_path: Path, life: Life) -> None:
    engine_at(tmp_path, life).session.close()
    assert verify_chain(tmp_path, life.genesis).ok


def test_a_torn_rest_is_no_fault(home: Path, life: Life) -> None:
    path = home / LEDGER_FOLDER / LOG_NAME
    path.write_bytes(path.read_bytes() + b"torn")
    verdict = verify_chain(home, life.genesis)
    assert (verdict.ok, verdict.height, verdict.torn_bytes) == (True, BLOCKS, 4)


# --- altered blocks -------------------------------------------------------------------------------------


def altered_transaction(block: StoredBlock, life: Life) -> StoredBlock:
    raw = bytearray(block.txs[1])
    raw[len(raw) // 2] ^= 1
    return StoredBlock(block.header, (block.txs[0], bytes(raw), *block.txs[2:]), block.receipts)


def other_transaction(block: StoredBlock, life: Life) -> StoredBlock:
    """Well signed, but not what was on the ledger."""
    return StoredBlock(block.header, (*block.txs[:-1], Life(99).founding()[0]), block.receipts)


def removed_transaction(block: StoredBlock, life: Life) -> StoredBlock:
    return StoredBlock(block.header, block.txs[:-1], block.receipts[:-1])


def swapped_transactions(block: StoredBlock, life: Life) -> StoredBlock:
    txs, receipts = block.txs, block.receipts
    return StoredBlock(block.header, (txs[1], txs[0], *txs[2:]), (receipts[1], receipts[0], *receipts[2:]))


def altered_receipt(block: StoredBlock, life: Life) -> StoredBlock:
    forged = encode_receipt(Receipt(505, 0, (), ZERO_HASH))
    return StoredBlock(block.header, block.txs, (forged, *block.receipts[1:]))


def malformed_receipt(block: StoredBlock, life: Life) -> StoredBlock:
    return StoredBlock(block.header, block.txs, (b"\xc1", *block.receipts[1:]))


def missing_receipt(block: StoredBlock, life: Life) -> StoredBlock:
    return StoredBlock(block.header, block.txs, block.receipts[1:])


def altered_header(block: StoredBlock, life: Life) -> StoredBlock:
    sealed = decode_sealed(block.header)
    later = replace(sealed.header, time_s=sealed.header.time_s + 1)
    return StoredBlock(encode(SealedHeader(later, sealed.signature)), block.txs, block.receipts)


def malformed_header(block: StoredBlock, life: Life) -> StoredBlock:
    return StoredBlock(block.header[:-1], block.txs, block.receipts)


def wrong_producer(block: StoredBlock, life: Life) -> StoredBlock:
    return resealed(block, BlockProducer.of(life.world.b.signing))


def stolen_name(block: StoredBlock, life: Life) -> StoredBlock:
    """Signed by another member in the producer's name."""
    header = decode_sealed(block.header).header
    signature = life.world.b.signing.sign(signing_bytes(header))
    return StoredBlock(encode(SealedHeader(header, signature)), block.txs, block.receipts)


def resealed(block: StoredBlock, by: BlockProducer, **changed: object) -> StoredBlock:
    header = replace(decode_sealed(block.header).header, producer=by.party, **changed)
    return StoredBlock(encode(SealedHeader(header, by.sign(signing_bytes(header)))), block.txs, block.receipts)


def producer_changes(**changed: object) -> Callable[[StoredBlock, Life], StoredBlock]:
    """What a dishonest producer could seal."""
    return lambda block, life: resealed(block, life.producer, **changed)


ALTERATIONS: dict[str, tuple[Callable[[StoredBlock, Life], StoredBlock], Part, str]] = {
    "altered transaction": (altered_transaction, Part.TRANSACTION, "not the one"),
    "other transaction": (other_transaction, Part.TRANSACTION, "not the one"),
    "removed transaction": (removed_transaction, Part.BLOCK, "transactions"),
    "swapped transactions": (swapped_transactions, Part.BLOCK, "transactions"),
    "altered receipt": (altered_receipt, Part.RECEIPT, "not the one"),
    "malformed receipt": (malformed_receipt, Part.BLOCK, "malformed"),
    "missing receipt": (missing_receipt, Part.BLOCK, "one receipt per"),
    "altered header": (altered_header, Part.BLOCK, "signature"),
    "malformed header": (malformed_header, Part.BLOCK, "malformed"),
    "wrong producer": (wrong_producer, Part.BLOCK, "whose signature counts"),
    "stolen name": (stolen_name, Part.BLOCK, "signature"),
    "sealed: other state": (producer_changes(app_hash=ZERO_HASH), Part.STATE, "another state"),
    "sealed: other transactions": (producer_changes(tx_root=ZERO_HASH), Part.BLOCK, "transactions"),
    "sealed: other number of transactions": (producer_changes(tx_count=0), Part.BLOCK, "not as many transactions"),
    "sealed: other receipts": (producer_changes(receipt_root=ZERO_HASH), Part.BLOCK, "receipts"),
    "sealed: other predecessor": (producer_changes(previous=ZERO_HASH), Part.BLOCK, "follow"),
    "sealed: other chain": (producer_changes(chain_id="other-1"), Part.BLOCK, "chain"),
    "sealed: earlier time": (producer_changes(time_s=1), Part.BLOCK, "time"),
    "sealed: other height": (producer_changes(height=ALTERED + 1), Part.BLOCK, "header is that"),
    "sealed: unknown version": (producer_changes(version=9), Part.BLOCK, "version"),
}


@pytest.mark.parametrize("name", ALTERATIONS)
def test_an_altered_block_is_found_and_named(home: Path, life: Life, name: str) -> None:
    alter, kind, reason = ALTERATIONS[name]
    blocks = blocks_of(home, life.genesis)
    before = blocks[ALTERED - 1]
    assert len(before.txs) > 2
    blocks[ALTERED - 1] = alter(before, life)
    write_blocks(home, blocks)
    bad = first_bad(home, life)
    assert (bad.kind, bad.height) == (kind, ALTERED)
    assert reason in bad.reason
    if name == "altered transaction":
        assert bad.key.startswith("1: ")
    if name == "altered receipt":
        tx_id = id_of(before.txs[0])
        assert tx_id is not None
        assert bad.key == f"0: {tx_id.hex()}"


def first_bad(home: Path, life: Life) -> FirstBad:
    verdict = verify_chain(home, life.genesis)
    assert not verdict.ok
    assert verdict.first_bad is not None
    return verdict.first_bad


@pytest.mark.parametrize("name", ["altered transaction", "altered receipt", "sealed: other state", "stolen name"])
def test_a_restart_refuses_an_altered_block_too(home: Path, life: Life, name: str) -> None:
    blocks = blocks_of(home, life.genesis)
    blocks[ALTERED - 1] = ALTERATIONS[name][0](blocks[ALTERED - 1], life)
    write_blocks(home, blocks)
    with pytest.raises(CorruptHistory) as found:
        Session.open(home, life.genesis, rebuild=True)
    assert found.value.height == ALTERED


def test_blocks_taken_from_the_end_are_missed(home: Path, life: Life) -> None:
    write_blocks(home, blocks_of(home, life.genesis)[:-2])
    bad = first_bad(home, life)
    assert (bad.kind, bad.height) == (Part.BLOCK, BLOCKS - 1)


def test_a_damaged_record_is_found_after_the_good_ones(home: Path, life: Life) -> None:
    path = home / LEDGER_FOLDER / LOG_NAME
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    verdict = verify_chain(home, life.genesis)
    assert verdict.height == BLOCKS - 1
    assert verdict.first_bad is not None
    assert (verdict.first_bad.kind, verdict.first_bad.height) == (Part.BLOCK, BLOCKS)


# --- altered state --------------------------------------------------------------------------------------


def tree_of(home: Path) -> Path:
    return home / LEDGER_FOLDER / TREE_FOLDER


def test_an_altered_state_entry_is_named(home: Path, life: Life) -> None:
    """Somebody makes himself a regulator, in the files behind the node's back."""
    key = PARTIES_TABLE.key_of(life.world.bert.id)
    (path,) = [path for path in tree_of(home).glob("*.nodes") if key in path.read_bytes()]
    data = bytearray(path.read_bytes())
    data[data.rindex(key) + len(key) + 3] ^= 1
    path.write_bytes(data)
    bad = first_bad(home, life)
    assert (bad.kind, bad.height) == (Part.STATE, BLOCKS)
    assert bad.key == PARTIES_TABLE.describe(key)


def test_a_consistent_tree_of_another_state_is_named(home: Path, life: Life) -> None:
    """Somebody uses the program itself to write an entry: the tree fits together, but not with the blocks."""
    key = PARTIES_TABLE.key_of(life.world.bert.id)
    with NodeStore.open(tree_of(home)) as store:
        snapshot = store.snapshot()
        store.checkpoint(height=BLOCKS, snapshot=snapshot.apply([(key, None)]))
    bad = first_bad(home, life)
    assert (bad.kind, bad.height, bad.key) == (Part.STATE, BLOCKS, PARTIES_TABLE.describe(key))
    with pytest.raises(CorruptHistory):
        Session.open(home, life.genesis)


def test_a_missing_index_entry_is_named(home: Path, life: Life) -> None:
    env = lmdb.open(str(tree_of(home) / "index"), max_dbs=32)
    table = env.open_db(b"side/txs")
    with env.begin(write=True) as txn:
        (key, _), *_ = list(txn.cursor(db=table))
        txn.delete(key, db=table)
    env.close()
    bad = first_bad(home, life)
    assert bad.kind is Part.STATE
    assert key[4:16].hex() in bad.key


def test_a_block_beyond_the_bounds_is_found_though_its_producer_signed_it(
    home: Path, life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replay refuses such a block, so verifying must as well."""
    with monkeypatch.context() as generous, Session.open(home, life.genesis) as session:
        generous.setattr(sealed, "BLOCK_SIZE_BYTES", 1 << 30)
        txs = tuple(bytes([number]) * (1 << 20) for number in range(17))
        session.finalize(Block(height=BLOCKS + 1, time_s=session.head.time_s, txs=txs))
        session.commit(life.producer)
    bad = first_bad(home, life)
    assert (bad.kind, bad.height) == (Part.BLOCK, BLOCKS + 1)
    assert "larger" in bad.reason
    for rebuild in (False, True):
        with pytest.raises(CorruptHistory) as found:
            Session.open(home, life.genesis, rebuild=rebuild)
        assert found.value.height == BLOCKS + 1


# --- flipped bits ---------------------------------------------------------------------------------------


def flip(path: Path, rnd: Random) -> None:
    data = bytearray(path.read_bytes())
    used = [at for at, one in enumerate(data) if one]
    data[rnd.choice(used)] ^= 1 << rnd.randrange(8)
    path.write_bytes(data)


@pytest.mark.parametrize("seed", range(60))
def test_a_flipped_bit_anywhere_in_log_or_node_files_is_noticed(home: Path, good: Path, life: Life, seed: int) -> None:
    """All of the log is covered. Node files also hold nodes out of use: there the tree must read as before."""
    rnd = Random(seed)
    files = sorted(tree_of(home).glob("*.nodes")) if seed % 3 == 0 else [home / LEDGER_FOLDER / LOG_NAME]
    path = rnd.choice(files)
    flip(path, rnd)
    try:
        verdict = verify_chain(home, life.genesis)
    except Exception as refused:  # noqa: BLE001 - the label's own refusals
        assert type(refused).__name__ in ("WrongChain", "LogTooNew")  # noqa: PT017 - whichever the bit makes it
        return
    if verdict.ok:
        assert path.suffix == ".nodes"
        assert entries_of(home) == entries_of(good)


_VERIFY = """
import sys
from pathlib import Path
from carechain.engine.verify import verify_chain
from ledgers import Life
verdict = verify_chain(Path(sys.argv[1]), Life(11).genesis)
print("good" if verdict.ok else verdict.first_bad.kind)
"""
_START = """
import sys
from pathlib import Path
from carechain.engine.session import Session
from carechain.state.log import StoreDamaged
from ledgers import Life, engine_at
life = Life(11)
for _ in range(2):
    try:
        engine = engine_at(Path(sys.argv[1]), life)
        head = engine.session.head
        ids = [one for height in range(1, head.height + 1) for one in engine.session.block(height).tx_ids]
        found = sum(engine.session.locate(one) is not None for one in ids if one)
        engine.produce(time_s=head.time_s, txs=())
        engine.session.close()
        print("good", found)
    except StoreDamaged:
        engine.session._end()
        print("damaged")
"""


@pytest.mark.parametrize("seed", range(8))
def test_the_file_of_small_tables_does_no_harm_when_it_is_damaged(home: Path, life: Life, seed: int) -> None:
    """LMDB has no checksums. So: no block is wrong, no process dies, and the second start at the latest goes on.

    A flipped bit in an entry of the transaction index can make that transaction unknown; then ``verify`` says so.
    """
    rnd = Random(seed)
    path = tree_of(home) / INDEX_FOLDER / INDEX_FILE
    if seed % 4 == 3:
        os.truncate(path, rnd.randrange(path.stat().st_size))
    else:
        flip(path, rnd)
    (verdict,) = child(_VERIFY, home)
    assert verdict in ("good", "state")
    *_, last, found = child(_START, home)
    expected = sum(1 for block in blocks_of(home, life.genesis)[:BLOCKS] for raw in block.txs if id_of(raw))
    assert last == "good"
    assert int(found) == expected or (int(found) == expected - 1 and verdict == "state")
    assert first_wrong_block(home, life) is None


def child(program: str, home: Path) -> list[str]:
    """What a process of its own prints: damage may end it."""
    done = subprocess.run(
        [sys.executable, "-c", program, str(home)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def first_wrong_block(home: Path, life: Life) -> FirstBad | None:
    """Verify the log alone: whether what was signed is what everybody else will compute."""
    tree = tree_of(home)
    aside = tree.rename(tree.with_name("aside"))
    try:
        return verify_chain(home, life.genesis).first_bad
    finally:
        aside.rename(tree)


@pytest.mark.parametrize("seed", range(40))
def test_no_block_is_ever_built_on_a_flipped_bit_of_the_tree(home: Path, life: Life, seed: int) -> None:
    """A node starts on the damaged tree and makes blocks: what it signs, everybody else must be able to replay."""
    rnd = Random(seed)
    flip(rnd.choice(sorted(tree_of(home).glob("*.nodes"))), rnd)
    twin = deepcopy(life)
    made = 0
    for _ in range(2):
        engine = engine_at(home, twin, checkpoints=SMALL)
        try:
            made += len(run(engine, twin, 6))
            engine.session.close()
            break
        except StoreDamaged:
            engine.session._end()
    height = engine.session.head.height
    assert height >= BLOCKS + made - 1
    assert first_wrong_block(home, life) is None
    with Session.open(home, life.genesis, rebuild=True) as session:
        assert session.head.height == height
    assert verify_chain(home, life.genesis).ok


def entries_of(home: Path) -> list[tuple[bytes, bytes]]:
    with NodeStore.open(tree_of(home), read_only=True) as store:
        return list(store.snapshot().scan(b""))
