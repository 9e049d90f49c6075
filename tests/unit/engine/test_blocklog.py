"""The block log keeps what was acknowledged, cuts off only what was not, and names what is damaged.

Method: logs of small blocks on real files; the tail is cut at every byte, every bit of the last records and random
bits elsewhere are flipped, the index is deleted, shortened and filled with nonsense.
"""

from pathlib import Path
from random import Random

import pytest

from carechain.engine.blocklog import (
    HEAD_BYTES,
    INDEX_NAME,
    LABEL_BYTES,
    LOG_NAME,
    BlockLog,
    CorruptHistory,
    LogTooNew,
    StoredBlock,
    WrongChain,
    label_of,
    read_head,
    record_head,
)
from carechain.engine.disk import FileLocked

GENESIS = bytes(range(32))


def block(height: int) -> StoredBlock:
    return StoredBlock(b"header %d" % height, (b"tx" * height, b"more"), (b"ok", b"no"))


def filled(folder: Path, blocks: int) -> list[int]:
    """A closed log with so many blocks; returns where each record ends, the label's end first."""
    log = BlockLog.open(folder, genesis=GENESIS)
    ends = [log.size_bytes]
    for height in range(1, blocks + 1):
        log.append(height, block(height))
        ends.append(log.size_bytes)
    log.close()
    return ends


def reopened(folder: Path) -> BlockLog:
    return BlockLog.open(folder, genesis=GENESIS)


def test_blocks_come_back_as_they_were(tmp_path: Path) -> None:
    filled(tmp_path, 20)
    log = reopened(tmp_path)
    assert log.height == 20
    assert [log.read(height) for height in range(1, 21)] == [block(height) for height in range(1, 21)]
    assert list(log.blocks(18)) == [(height, block(height)) for height in (18, 19, 20)]
    assert list(log.blocks(21)) == []
    for height in (0, 21, -1):
        with pytest.raises(IndexError):
            log.read(height)
    log.close()


def test_only_the_next_height_is_taken(tmp_path: Path) -> None:
    log = BlockLog.open(tmp_path, genesis=GENESIS)
    for height in (0, 2):
        with pytest.raises(ValueError, match="next"):
            log.append(height, block(1))
    log.append(1, block(1))
    log.close()
    reader = BlockLog.open(tmp_path, genesis=GENESIS, read_only=True)
    with pytest.raises(ValueError, match="next"):
        reader.append(2, block(2))
    reader.close()


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    log = BlockLog.open(tmp_path, genesis=GENESIS)
    with pytest.raises(FileLocked):
        BlockLog.open(tmp_path, genesis=GENESIS)
    BlockLog.open(tmp_path, genesis=GENESIS, read_only=True).close()
    log.close()


def test_a_tail_cut_anywhere_loses_only_what_was_cut(tmp_path: Path) -> None:
    ends = filled(tmp_path, 4)
    whole = (tmp_path / LOG_NAME).read_bytes()
    for size in range(LABEL_BYTES, len(whole)):
        (tmp_path / LOG_NAME).write_bytes(whole[:size])
        log = reopened(tmp_path)
        complete = sum(1 for end in ends[1:] if end <= size)
        assert log.height == complete
        assert log.torn_bytes == size - ends[complete]
        assert [log.read(height) for height in range(1, complete + 1)] == [block(at + 1) for at in range(complete)]
        assert (tmp_path / LOG_NAME).stat().st_size == size, "opening destroys nothing"
        with pytest.raises(CorruptHistory, match="ends here"):
            log.settle(at_least=complete + 1)
        assert (tmp_path / LOG_NAME).stat().st_size == size
        log.settle(at_least=complete)
        assert (tmp_path / LOG_NAME).stat().st_size == ends[complete]
        log.append(complete + 1, block(complete + 1))
        assert log.read(complete + 1) == block(complete + 1)
        log.close()


def test_a_log_cut_inside_its_label_never_held_a_block(tmp_path: Path) -> None:
    for size in (0, 1, LABEL_BYTES - 1):
        (tmp_path / LOG_NAME).write_bytes(label_of(GENESIS)[:size])
        log = reopened(tmp_path)
        assert log.height == 0
        log.close()
        assert (tmp_path / LOG_NAME).read_bytes() == label_of(GENESIS)


def test_every_flipped_bit_of_the_last_record_is_refused_and_never_cut_off(tmp_path: Path) -> None:
    ends = filled(tmp_path, 3)
    path = tmp_path / LOG_NAME
    whole = path.read_bytes()
    for position in range(ends[2] * 8, ends[3] * 8):
        damaged = bytearray(whole)
        damaged[position // 8] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(CorruptHistory) as found:
            reopened(tmp_path)
        assert found.value.height == 3
        assert path.read_bytes() == damaged


def test_any_flipped_bit_is_found_by_reading_through(tmp_path: Path) -> None:
    filled(tmp_path, 8)
    path = tmp_path / LOG_NAME
    whole = path.read_bytes()
    rnd = Random(5)
    for _ in range(300):
        damaged = bytearray(whole)
        position = rnd.randrange(len(whole) * 8)
        damaged[position // 8] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises((CorruptHistory, WrongChain, LogTooNew)):
            read_through(tmp_path)


def read_through(folder: Path) -> None:
    log = BlockLog.open(folder, genesis=GENESIS, read_only=True)
    try:
        for _ in log.blocks():
            pass
    finally:
        log.close()


def test_a_reader_tells_what_comes_before_the_damage(tmp_path: Path) -> None:
    ends = filled(tmp_path, 5)
    path = tmp_path / LOG_NAME
    damaged = bytearray(path.read_bytes())
    damaged[ends[3]] ^= 1
    path.write_bytes(damaged)
    log = BlockLog.open(tmp_path, genesis=GENESIS, read_only=True)
    seen = []
    with pytest.raises(CorruptHistory) as found:
        seen.extend(height for height, _ in log.blocks())
    assert found.value.height == 4
    log.close()


def test_a_record_of_another_height_is_refused(tmp_path: Path) -> None:
    ends = filled(tmp_path, 3)
    path = tmp_path / LOG_NAME
    whole = path.read_bytes()
    path.write_bytes(whole[: ends[1]] + whole[ends[2] :])
    with pytest.raises(CorruptHistory) as found:
        reopened(tmp_path)
    assert found.value.height == 2


def test_bytes_after_the_last_record_that_are_no_head_are_refused(tmp_path: Path) -> None:
    filled(tmp_path, 2)
    path = tmp_path / LOG_NAME
    path.write_bytes(path.read_bytes() + bytes(HEAD_BYTES))
    with pytest.raises(CorruptHistory) as found:
        reopened(tmp_path)
    assert found.value.height == 3


def test_a_payload_that_is_no_block_is_refused(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    path = tmp_path / LOG_NAME
    path.write_bytes(path.read_bytes() + record_head(2, b"nonsense") + b"nonsense")
    with pytest.raises(CorruptHistory, match="not a block"):
        reopened(tmp_path)


def index_damages() -> dict[str, bytes]:
    return {
        "missing": b"",
        "shortened": (LABEL_BYTES).to_bytes(8, "big"),
        "half an entry": b"\x00\x00",
        "a hole inside": LABEL_BYTES.to_bytes(8, "big") + bytes(8 * 18),
        "nonsense": b"\xff" * 160,
        "too long": b"\x01" * 8 * 40,
    }


@pytest.mark.parametrize("kind", sorted(index_damages()))
def test_the_index_is_rebuilt_when_it_does_not_fit(tmp_path: Path, kind: str) -> None:
    filled(tmp_path, 20)
    index = tmp_path / INDEX_NAME
    whole = index.read_bytes()
    index.write_bytes(index_damages()[kind])
    log = reopened(tmp_path)
    assert log.height == 20
    assert [log.read(height) for height in range(1, 21)] == [block(height) for height in range(1, 21)]
    log.close()
    assert index.read_bytes() == whole


def test_a_hole_in_the_middle_of_the_index_is_found_when_it_is_used(tmp_path: Path) -> None:
    filled(tmp_path, 20)
    index = tmp_path / INDEX_NAME
    whole = index.read_bytes()
    index.write_bytes(whole[:40] + bytes(24) + whole[64:])
    log = reopened(tmp_path)
    assert log.read(7) == block(7)
    log.close()
    assert index.read_bytes() == whole


def test_a_head_that_rots_while_the_log_is_open_costs_only_its_own_block(tmp_path: Path) -> None:
    """Also where the index has a hole as well: looking for a good block must not make others unknown."""
    ends = filled(tmp_path, 12)
    log = reopened(tmp_path)
    with (tmp_path / LOG_NAME).open("r+b") as file:
        file.seek(ends[4] + 3)
        file.write(b"\xff")
    with (tmp_path / INDEX_NAME).open("r+b") as file:
        file.seek(8 * 8)
        file.write(bytes(8))
    for damaged in (5, 9):
        with pytest.raises(CorruptHistory) as found:
            log.read(damaged)
        assert found.value.height == 5
    assert [log.read(height) for height in (4, 6, 12)] == [block(4), block(6), block(12)]
    log.append(13, block(13))
    assert (log.height, log.read(13)) == (13, block(13))
    log.close()


def test_closing_twice_closes_once(tmp_path: Path) -> None:
    log = reopened(tmp_path)
    log.append(1, block(1))
    log.release()
    log.release()
    with pytest.raises(OSError, match="Bad file descriptor"):
        log.append(2, block(2))
    log = reopened(tmp_path)
    assert log.height == 1
    log.close()
    log.release()


def test_another_network_and_a_newer_version_are_told_apart(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    with pytest.raises(WrongChain):
        BlockLog.open(tmp_path, genesis=bytes(32))
    path = tmp_path / LOG_NAME
    whole = path.read_bytes()
    newer = label_of_version(3)
    path.write_bytes(newer + whole[LABEL_BYTES:])
    with pytest.raises(LogTooNew):
        reopened(tmp_path)
    path.write_bytes(label_of_version(0) + whole[LABEL_BYTES:])
    with pytest.raises(CorruptHistory, match="version"):
        reopened(tmp_path)


def label_of_version(version: int) -> bytes:
    from carechain.engine import blocklog  # noqa: PLC0415 - only this test needs its inside

    body = blocklog._LABEL.pack(blocklog._MAGIC, version, GENESIS)
    return body + blocklog._checksum(body)


def test_a_head_states_what_it_covers() -> None:
    head = record_head(7, b"payload")
    assert read_head(head) is not None
    assert read_head(head)[:2] == (7, 7)
    assert read_head(head[:-1]) is None
