"""A block log that begins at a base: heights, index and label, and what happens where base and log do not fit.

Method: logs of small blocks on real files beside a base written by the same functions as a ledger's; each mismatch is
one row.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from carechain.chain.header import Header, Keeper, SealedHeader
from carechain.engine.base import (
    ARRIVING_FOLDER,
    BASE_FILE,
    BadBase,
    Base,
    installed_tree,
    read_base,
    settle_arrival,
    write_base,
)
from carechain.engine.blocklog import (
    INDEX_NAME,
    LABEL_BYTES,
    LOG_NAME,
    BlockLog,
    CorruptHistory,
    LogTooNew,
    StoredBlock,
    WrongChain,
    label_of,
)
from carechain.state.store import NodeStore

GENESIS = bytes(range(32))
BASE_HEIGHT = 1_000


def base_at(height: int = BASE_HEIGHT, genesis: bytes = GENESIS) -> Base:
    header = Header(
        chain_id="test",
        height=height,
        time_s=5,
        previous=bytes(32),
        tx_count=0,
        tx_root=bytes(32),
        receipt_root=bytes(32),
        app_hash=bytes(32),
        producer=bytes(32),
    )
    sealed = SealedHeader(header, bytes(64), Keeper(1, bytes(32)))
    return Base(genesis=genesis, sealed=sealed, window=((7, (bytes(32), b"\x01" * 32)), (8, (b"\x02" * 32,))))


def block(height: int) -> StoredBlock:
    return StoredBlock(b"header %d" % height, (b"tx" * (height % 7),), (b"ok",))


def filled(folder: Path, blocks: int) -> None:
    """A log that begins at the base, with so many blocks."""
    log = BlockLog.open(folder, genesis=GENESIS)
    write_base(folder, base_at())
    log.begin_at(base_at())
    for height in range(BASE_HEIGHT + 1, BASE_HEIGHT + blocks + 1):
        log.append(height, block(height))
    log.close()


def reopened(folder: Path, *, read_only: bool = False) -> BlockLog:
    return BlockLog.open(folder, genesis=GENESIS, read_only=read_only)


def test_heights_go_on_from_the_base(tmp_path: Path) -> None:
    filled(tmp_path, 9)
    for read_only in (False, True):
        log = reopened(tmp_path, read_only=read_only)
        assert (log.base, log.base_height, log.height) == (base_at(), BASE_HEIGHT, BASE_HEIGHT + 9)
        heights = range(BASE_HEIGHT + 1, BASE_HEIGHT + 10)
        assert list(log.blocks()) == [(height, block(height)) for height in heights]
        assert [log.read(height) for height in heights] == [block(height) for height in heights]
        assert [height for height, _ in log.blocks(BASE_HEIGHT + 8)] == [BASE_HEIGHT + 8, BASE_HEIGHT + 9]
        assert list(log.blocks(BASE_HEIGHT + 10)) == []
        for height in (0, 1, BASE_HEIGHT, BASE_HEIGHT + 10):
            with pytest.raises(IndexError):
                log.read(height)
        for first in (0, 1, BASE_HEIGHT):
            with pytest.raises(IndexError):
                next(log.blocks(first))
        log.close()
    log = reopened(tmp_path)
    with pytest.raises(ValueError, match="next"):
        log.append(BASE_HEIGHT + 9, block(1))
    with pytest.raises(ValueError, match="elsewhere"):
        log.begin_at(base_at(BASE_HEIGHT + 9))
    log.close()
    assert (tmp_path / INDEX_NAME).stat().st_size == 9 * 8


@pytest.mark.parametrize(
    "index",
    [
        b"",
        b"\x00" * 8,
        b"\xff" * 72,
        b"\x00" * 8_000,
        LABEL_BYTES.to_bytes(8, "big"),
        LABEL_BYTES.to_bytes(8, "big") * 9,
    ],
    ids=["none", "short", "beyond", "as if from the first block", "one", "all the same"],
)
def test_the_index_is_made_again(tmp_path: Path, index: bytes) -> None:
    filled(tmp_path, 9)
    (tmp_path / INDEX_NAME).write_bytes(index)
    log = reopened(tmp_path)
    assert [log.read(height) for height, _ in log.blocks()] == [block(BASE_HEIGHT + at) for at in range(1, 10)]
    log.append(BASE_HEIGHT + 10, block(BASE_HEIGHT + 10))
    log.close()
    assert reopened_height(tmp_path) == BASE_HEIGHT + 10


def reopened_height(folder: Path) -> int:
    log = reopened(folder)
    log.close()
    return log.height


def test_a_torn_first_block_is_cut_off(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    whole = (tmp_path / LOG_NAME).read_bytes()
    for size in range(LABEL_BYTES + 1, len(whole)):
        (tmp_path / LOG_NAME).write_bytes(whole[:size])
        log = reopened(tmp_path)
        assert (log.height, log.torn_bytes) == (BASE_HEIGHT, size - LABEL_BYTES)
        log.settle()
        log.close()
        assert (tmp_path / LOG_NAME).read_bytes() == whole[:LABEL_BYTES]


@pytest.mark.parametrize(
    "left", [b"", b"carechain", b"\x55" * LABEL_BYTES, label_of(GENESIS), label_of(GENESIS, base_at(3))]
)
def test_an_empty_log_takes_the_label_of_its_base(tmp_path: Path, left: bytes) -> None:
    """Whatever a crash left of the label: the base was durable first."""
    write_base(tmp_path, base_at())
    (tmp_path / LOG_NAME).write_bytes(left)
    reader = reopened(tmp_path, read_only=True)
    assert (reader.height, list(reader.blocks())) == (BASE_HEIGHT, [])
    reader.close()
    assert reopened_height(tmp_path) == BASE_HEIGHT
    assert (tmp_path / LOG_NAME).read_bytes() == label_of(GENESIS, base_at())


def without_base(folder: Path) -> None:
    (folder / BASE_FILE).unlink()


def another_base(folder: Path) -> None:
    write_base(folder, replace(base_at(), window=()))


def base_of_another_network(folder: Path) -> None:
    write_base(folder, base_at(genesis=bytes(32)))


def base_of_a_later_version(folder: Path) -> None:
    write_base(folder, replace(base_at(), version=2))


def flipped_base(folder: Path) -> None:
    data = bytearray((folder / BASE_FILE).read_bytes())
    data[40] ^= 1
    (folder / BASE_FILE).write_bytes(data)


def empty_base(folder: Path) -> None:
    (folder / BASE_FILE).write_bytes(b"")


def log_from_the_first(folder: Path) -> None:
    data = (folder / LOG_NAME).read_bytes()
    (folder / LOG_NAME).write_bytes(label_of(GENESIS) + data[LABEL_BYTES:])


def log_of_a_later_version(folder: Path) -> None:
    from carechain.engine import blocklog  # noqa: PLC0415 - only this row needs its inside

    body = blocklog._LABEL.pack(blocklog._MAGIC, 3, GENESIS)
    data = (folder / LOG_NAME).read_bytes()
    (folder / LOG_NAME).write_bytes(body + blocklog._checksum(body) + data[LABEL_BYTES:])


def records_of_the_first(folder: Path) -> None:
    """Records that begin at height 1 behind the label of a base."""
    other = folder / "other"
    other.mkdir()
    log = BlockLog.open(other, genesis=GENESIS)
    log.append(1, block(1))
    log.close()
    data = (other / LOG_NAME).read_bytes()
    (folder / LOG_NAME).write_bytes(label_of(GENESIS, base_at()) + data[LABEL_BYTES:])


@pytest.mark.parametrize(
    ("harm", "error", "reason"),
    [
        (without_base, CorruptHistory, "missing"),
        (another_base, CorruptHistory, "not the one"),
        (base_of_another_network, WrongChain, "another network"),
        (base_of_a_later_version, CorruptHistory, "version"),
        (flipped_base, CorruptHistory, "checksum"),
        (empty_base, CorruptHistory, "checksum"),
        (log_from_the_first, CorruptHistory, "begins with the first"),
        (log_of_a_later_version, LogTooNew, "version 3"),
        (records_of_the_first, CorruptHistory, "says that it is block 1"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_base_and_log_belong_together(
    tmp_path: Path, harm: Callable[[Path], None], error: type[Exception], reason: str
) -> None:
    filled(tmp_path, 2)
    harm(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file() and path.name != INDEX_NAME}
    with pytest.raises(error, match=reason):
        reopened(tmp_path)
    assert {path: path.read_bytes() for path in before} == before


def test_a_base_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_base(tmp_path) is None
    write_base(tmp_path, base_at())
    assert read_base(tmp_path) == base_at()
    data = (tmp_path / BASE_FILE).read_bytes()
    for at in range(len(data)):
        (tmp_path / BASE_FILE).write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(BadBase):
            read_base(tmp_path)


def test_an_arrival_is_settled_one_way_or_the_other(tmp_path: Path) -> None:
    """Moved into place where the base says so; thrown away where nothing was decided, or something else."""
    tree = tmp_path / "tree"
    for base, height, moved in (
        (None, BASE_HEIGHT, False),
        (base_at(), 0, False),
        (base_at(), BASE_HEIGHT - 1, False),
        (base_at(), BASE_HEIGHT, True),
    ):
        for place, at in ((tree, 1), (tmp_path / ARRIVING_FOLDER, height)):
            with NodeStore.open(place) as store:
                store.checkpoint(height=at, snapshot=store.snapshot().apply([(b"key", b"%d" % (at + store.epoch))]))
        assert (installed_tree(tmp_path, tree, base) == tmp_path / ARRIVING_FOLDER) is moved
        for _ in range(2):
            settle_arrival(tmp_path, tree, base)
            assert not (tmp_path / ARRIVING_FOLDER).exists()
            with NodeStore.open(tree) as store:
                assert store.height == (height if moved else 1)
