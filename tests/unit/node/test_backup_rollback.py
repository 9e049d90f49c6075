"""Goal: a ledger that was cut is exactly the one that stood at that height, and what was cut is not lost.

Method: a real ledger of a few blocks; it is cut at every height, opened again, and compared with what stood there; it
is damaged above the height, cut by a process that dies at each step, and refused where cutting would be wrong.
"""

import asyncio
import shutil
from pathlib import Path
from typing import Final

import pytest

from carechain.chain.genesis import genesis_hash
from carechain.core.rejection import Rejected, RejectionCode
from carechain.engine import rollback
from carechain.engine.base import Base, write_base
from carechain.engine.blocklog import HEAD_BYTES, LABEL_BYTES, BlockLog, CorruptHistory, WrongChain, label_of
from carechain.engine.disk import FileLocked
from carechain.engine.rollback import RollbackCode, loss_above, roll_back
from carechain.engine.session import Head, Session
from node_network import founders, genesis_of
from node_network import running as network_in

GENESIS: Final = genesis_of(founders())
HASH: Final = genesis_hash(GENESIS)


async def _with_blocks(home: Path) -> None:
    async with network_in(home):
        """Enrolments, bindings, grants and anchors are on the ledger."""


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("original")
    asyncio.run(_with_blocks(home))
    return home


@pytest.fixture
def home(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "home"))


def log_of(home: Path) -> bytes:
    return (home / "ledger" / "blocks.log").read_bytes()


def head_of(home: Path) -> Head:
    with Session.open(home, GENESIS) as session:
        return session.head


def tip_of(home: Path) -> int:
    log = BlockLog.open(home / "ledger", genesis=HASH, read_only=True)
    log.release()
    return log.height


def refused(home: Path, height: int, *, genesis: bytes = HASH) -> RejectionCode:
    before = log_of(home)
    codes = []
    for work in (loss_above, roll_back):
        with pytest.raises(Rejected) as rejected:
            work(home / "ledger", height, genesis=genesis)
        codes.append(rejected.value.code)
    assert log_of(home) == before
    assert (home / "ledger" / "tree").exists()
    assert codes[0] is codes[1]
    return codes[0]


def test_every_height_can_be_gone_back_to(home: Path) -> None:
    tip, whole = tip_of(home), log_of(home)
    assert tip > 2
    with Session.open(home, GENESIS) as session:
        blocks = [session.block(height) for height in range(1, tip + 1)]
    for height in range(tip - 1, -1, -1):
        assert not (home / "ledger" / "tree").exists() or head_of(home).height == height + 1
        loss = loss_above(home / "ledger", height, genesis=HASH)
        assert (loss.height, loss.tip, loss.blocks, loss.damaged_at) == (height, height + 1, 1, 0)
        assert loss.txs == len(blocks[height].txs)
        assert loss.first_s == loss.last_s == blocks[height].time_s
        size = len(log_of(home))
        kept = roll_back(home / "ledger", height, genesis=HASH)
        assert not (home / "ledger" / "tree").exists()
        cut = log_of(home)
        assert cut == whole[: len(cut)]
        assert kept.name == f"rolled-back-{height}-1.log"
        assert kept.read_bytes() == label_of(HASH) + whole[len(cut) : size]
        head = head_of(home)
        assert head.height == height
        if height:
            assert head.app_hash == blocks[height - 1].header.app_hash


def test_several_blocks_at_once_and_twice(home: Path) -> None:
    tip, whole = tip_of(home), log_of(home)
    assert loss_above(home / "ledger", 1, genesis=HASH).blocks == tip - 1
    kept = roll_back(home / "ledger", 1, genesis=HASH)
    assert len(kept.read_bytes()) - LABEL_BYTES + len(log_of(home)) == len(whole)
    (home / "ledger" / "blocks.log").write_bytes(whole)
    assert roll_back(home / "ledger", 1, genesis=HASH).name == "rolled-back-1-2.log"
    assert not kept.stat().st_mode & 0o077


def test_the_ledger_can_go_on_from_there(home: Path) -> None:
    roll_back(home / "ledger", 1, genesis=HASH)
    with Session.open(home, GENESIS) as session:
        assert session.head.height == 1
        assert session.block(1).height == 1
    # Opened as a node does, so that its index has to fit.
    log = BlockLog.open(home / "ledger", genesis=HASH)
    assert log.height == 1
    log.close()


# --- damage ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [5, HEAD_BYTES + 5])
def test_damage_above_the_height_goes_with_it(home: Path, where: int) -> None:
    """In the head of block 3, or in its payload."""
    data = bytearray(log_of(home))
    end = loss_above(home / "ledger", 2, genesis=HASH)
    start = len(data) - end.size_bytes
    data[start + where] ^= 1
    (home / "ledger" / "blocks.log").write_bytes(data)
    with pytest.raises(CorruptHistory):
        for _ in _blocks(home):
            pass
    loss = loss_above(home / "ledger", 1, genesis=HASH)
    assert (loss.damaged_at, loss.blocks, loss.size_bytes > end.size_bytes) == (3, 1, True)
    roll_back(home / "ledger", 2, genesis=HASH)
    assert head_of(home).height == 2


def _blocks(home: Path) -> list[int]:
    log = BlockLog.open(home / "ledger", genesis=HASH, read_only=True)
    try:
        return [height for height, _ in log.blocks()]
    finally:
        log.release()


def test_damage_below_the_height_is_named(home: Path) -> None:
    data = bytearray(log_of(home))
    data[LABEL_BYTES + 3] ^= 1
    (home / "ledger" / "blocks.log").write_bytes(data)
    with pytest.raises(CorruptHistory, match="block 1"):
        roll_back(home / "ledger", 2, genesis=HASH)
    assert log_of(home) == bytes(data)


def test_a_torn_rest_is_cut_too(home: Path) -> None:
    tip, whole = tip_of(home), log_of(home)
    (home / "ledger" / "blocks.log").write_bytes(whole + b"torn")
    roll_back(home / "ledger", tip, genesis=HASH)
    assert log_of(home) == whole


# --- refusals -------------------------------------------------------------------------------------------


def test_nothing_above_the_height(home: Path) -> None:
    tip = tip_of(home)
    for height in (tip, tip + 1, 1_000_000):
        assert refused(home, height) is RollbackCode.NOT_BELOW_TIP


def with_base(home: Path, height: int) -> None:
    """Make the ledger one that took over a snapshot at ``height``: a base, and only the blocks after it."""
    with Session.open(home, GENESIS) as session:
        sealed = session.block(height).sealed
    whole = log_of(home)
    start = len(whole) - loss_above(home / "ledger", height, genesis=HASH).size_bytes
    base = Base(genesis=HASH, sealed=sealed, window=())
    write_base(home / "ledger", base)
    (home / "ledger" / "blocks.log").write_bytes(label_of(HASH, base) + whole[start:])
    (home / "ledger" / "blocks.index").unlink()


def test_a_state_that_cannot_be_made_again(home: Path) -> None:
    """The tree is at the tip, and the blocks before the base are not there to make an earlier one."""
    with_base(home, 1)
    for height in (0, 1, 2):
        assert refused(home, height) is RollbackCode.NO_STATE


def test_a_tree_that_is_not_ahead_stays(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tip = tip_of(home)
    with_base(home, 1)
    monkeypatch.setattr(rollback, "height_on_disk", lambda _: 2)
    assert loss_above(home / "ledger", 2, genesis=HASH).blocks == tip - 2
    roll_back(home / "ledger", 2, genesis=HASH)
    assert (home / "ledger" / "tree").exists()
    assert _blocks(home) == [2]


def test_every_code_has_its_test() -> None:
    assert set(RollbackCode) == {RollbackCode.NOT_BELOW_TIP, RollbackCode.NOT_CONFIRMED, RollbackCode.NO_STATE}


def test_another_networks_log(home: Path) -> None:
    with pytest.raises(WrongChain):
        roll_back(home / "ledger", 1, genesis=bytes(32))
    assert (home / "ledger" / "tree").exists()


def test_a_log_that_a_node_has_open(home: Path) -> None:
    with Session.open(home, GENESIS), pytest.raises(FileLocked):
        roll_back(home / "ledger", 1, genesis=HASH)


# --- crashes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["_keep", "_drop_derived", "truncate"])
def test_a_crash_at_each_step_leaves_the_whole_ledger(home: Path, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step is done and then the process is gone."""
    before = head_of(home)
    whole = log_of(home)

    class Gone(BaseException):
        pass

    def gone(*_: object, **__: object) -> None:
        raise Gone

    if step == "truncate":
        monkeypatch.setattr("carechain.engine.disk.OsFile.truncate", gone)
    else:
        real = getattr(rollback, step)

        def done_and_gone(*args: object, **named: object) -> None:
            real(*args, **named)
            raise Gone

        monkeypatch.setattr(rollback, step, done_and_gone)
    with pytest.raises(Gone):
        roll_back(home / "ledger", 1, genesis=HASH)
    monkeypatch.undo()
    assert log_of(home) == whole
    assert head_of(home) == before
    roll_back(home / "ledger", 1, genesis=HASH)
    assert head_of(home).height == 1
