"""Deterministic simulation: the embedded ledger on a disk that crashes between any two steps.

Goal: whatever the moment, an acknowledged block is never lost, a block is there whole or not at all, and the chain goes
on to the roots it would have had without any crash. Method: a seed decides the traffic, the step at which all stops,
and what happened there: the process was killed (what it wrote stays, no more durable than it was), the power failed, or
a sync did. The block log lies on a disk in memory that forgets what was not synced: of the last unsynced writes a
prefix survives, of the index any part. The tree lies on a real folder under ``power.py``, which forgets alike. After
each crash everything is opened again; in the end the chain is compared with one that never crashed, block by block.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from shutil import rmtree
from typing import Any

import pytest

from carechain.chain.genesis import genesis_hash
from carechain.chain.transition import Block
from carechain.chain.tx import AdmissionCode, parse
from carechain.core.rejection import Rejected
from carechain.engine.blocklog import BlockLog
from carechain.engine.session import Checkpoints, CommittedBlock, Session
from carechain.engine.txindex import admitted
from carechain.state.log import NodeLog
from carechain.state.store import NodeStore
from ledgers import Life, engine_at
from power import PowerDisk

BLOCKS = 14
FEW_SEEDS = 25
NODE_FILE_BYTES = 4096
"""Small, so that files are begun, emptied and dropped."""


class Stopped(BaseException):
    """The process ends here. Not an Exception: nothing may catch it and go on."""


class Fuse:
    """Burns one step at a time; at the last one all stops."""

    def __init__(self) -> None:
        self.left = -1

    def step(self) -> None:
        if self.left == 0:
            raise Stopped
        self.left -= 1


class SimFile:
    """A file whose unsynced part may be lost. ``ordered``: what survives of unsynced writes is a prefix of them.

    After a sync that failed the system believes that the disk has everything (Linux marks the pages clean): what was
    written is still read, and is never written again by itself.
    """

    def __init__(self, fuse: Fuse, *, ordered: bool) -> None:
        self.fuse = fuse
        self.ordered = ordered
        self.durable = b""
        self.data = bytearray()
        self.unsynced: list[tuple[int, bytes] | int] = []
        self.open = True
        self.next_sync_fails = False

    def require_open(self) -> None:
        if not self.open:
            raise OSError(9, "Bad file descriptor")

    def size(self) -> int:
        self.require_open()
        return len(self.data)

    def read_at(self, offset: int, size: int) -> bytes:
        self.require_open()
        return bytes(self.data[offset : offset + size])

    def write_at(self, offset: int, data: bytes) -> None:
        self.require_open()
        self.fuse.step()
        self.unsynced.append((offset, data))
        self.data = put(self.data, offset, data)
        self.fuse.step()

    def truncate(self, size: int) -> None:
        self.require_open()
        self.fuse.step()
        self.unsynced.append(size)
        del self.data[size:]
        self.fuse.step()

    def sync(self) -> None:
        self.require_open()
        self.fuse.step()
        if self.next_sync_fails:
            self.next_sync_fails = False
            self.unsynced.clear()
            raise OSError(5, "Input/output error")
        self.durable = self.with_changes(self.unsynced)
        self.unsynced.clear()
        self.fuse.step()

    def close(self) -> None:
        """Closing twice is allowed, as for every log file; using a closed file is not."""
        self.open = False

    def with_changes(self, changes: list[tuple[int, bytes] | int]) -> bytes:
        """What the disk has once these changes have reached it."""
        data = bytearray(self.durable)
        for change in changes:
            if isinstance(change, int):
                del data[change:]
            else:
                data = put(data, *change)
        return bytes(data)

    def power_failure(self, rnd: Random) -> None:
        """Keep what was synced, and of the rest what chance leaves."""
        if self.ordered:
            changes = self.unsynced[: rnd.randint(0, len(self.unsynced))]
            if changes and not isinstance(changes[-1], int):
                offset, data = changes[-1]
                changes[-1] = offset, data[: rnd.randint(0, len(data))]
        else:
            changes = [change for change in self.unsynced if rnd.random() < 0.5]
        self.durable = self.with_changes(changes)
        self.data = bytearray(self.durable)
        self.unsynced.clear()


def put(data: bytearray, offset: int, piece: bytes) -> bytearray:
    """The file after a write; a gap before it reads as zeros, as on a real disk."""
    grown = data + bytes(max(0, offset - len(data)))
    grown[offset : offset + len(piece)] = piece
    return grown


class Machine:
    """One node's disk, and the session that runs on it now."""

    def __init__(self, disk: PowerDisk, life: Life, fuse: Fuse) -> None:
        self.disk = disk
        self.life = life
        self.fuse = fuse
        self.records = SimFile(fuse, ordered=True)
        self.index = SimFile(fuse, ordered=False)
        self.session: Session | None = None
        self.store: NodeStore | None = None

    def start(self) -> Session:
        genesis = self.life.genesis
        self.records.open = self.index.open = True
        self.store = NodeStore.open(self.disk.root / "tree", file_bytes=NODE_FILE_BYTES)
        log = BlockLog(records=self.records, index=self.index, genesis=genesis_hash(genesis))
        self.session = Session(log=log, store=self.store, genesis=genesis, checkpoints=Checkpoints(blocks=3, txs=12))
        return self.session

    def stop(self) -> None:
        """The process ends: nothing more is done, and what it had in its own memory is gone."""
        self.fuse.left = -1
        self.session = None
        if self.store is not None:
            self.store.close()

    def fail(self, rnd: Random) -> None:
        """The power fails: the system's memory is gone as well."""
        self.stop()
        self.records.power_failure(rnd)
        self.index.power_failure(rnd)
        self.disk.fail(rnd)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PowerDisk:
    """Where the tree lies."""
    disk = PowerDisk(tmp_path / "disk")
    disk.root.mkdir()
    disk.watch(monkeypatch)
    return disk


@pytest.fixture
def fuse(monkeypatch: pytest.MonkeyPatch) -> Fuse:
    """A fuse that also burns at the steps of a checkpoint of the tree."""
    fuse = Fuse()

    def around(method: Callable[..., Any]) -> Callable[..., Any]:
        def stepping(*args: Any, **kwargs: Any) -> Any:
            fuse.step()
            result = method(*args, **kwargs)
            fuse.step()
            return result

        return stepping

    for owner, name in ((NodeStore, "_commit"), (NodeLog, "flush"), (NodeLog, "extend"), (NodeLog, "drop")):
        monkeypatch.setattr(owner, name, around(getattr(owner, name)))
    return fuse


def test_acknowledged_blocks_survive_and_the_roots_are_those_without_crashes(
    tmp_path: Path, disk: PowerDisk, fuse: Fuse, simulations: int
) -> None:
    crashes = 0
    for seed in range(simulations or FEW_SEEDS):
        crashes += simulate(disk, tmp_path / str(seed), seed, fuse)
        rmtree(disk.root)
        disk.root.mkdir()
        disk.events.clear()
    assert crashes > (simulations or FEW_SEEDS)


def simulate(disk: PowerDisk, steady: Path, seed: int, fuse: Fuse) -> int:
    """One life with its crashes; returns how many there were."""
    rnd = Random(seed)
    life = Life(seed)
    machine = Machine(disk, life, fuse)
    expected = undisturbed(steady, seed)
    plan = [Block(height=block.height, time_s=block.time_s, txs=block.txs) for block in expected]
    acknowledged = crashes = 0
    session: Session | None = None
    while acknowledged < BLOCKS:
        if session is None:
            # Now and then the power fails again while the node is starting.
            fuse.left = rnd.choice((-1, -1, rnd.randint(0, 20)))
        elif fuse.left < 0:
            fuse.left = rnd.randint(0, 60)
        try:
            if session is None:
                session = machine.start()
                check_recovered(session, expected, acknowledged)
                # What was found is told to others, so from here on it counts as acknowledged.
                acknowledged = session.head.height
                fuse.left = -1
                continue
            machine.records.next_sync_fails = rnd.random() < 0.05
            session.finalize(plan[acknowledged])
            acknowledged = session.commit(life.producer).height
        except Stopped:
            crashes += 1
            (machine.stop if rnd.random() < 0.4 else partial(machine.fail, rnd))()
            session = None
        except OSError:
            # The node ends, and somebody starts it again, as it says.
            crashes += 1
            machine.stop()
            session = None
    fuse.left = -1
    assert session is not None
    assert [session.block(height) for height in range(1, BLOCKS + 1)] == expected
    for block in expected:
        check_found(session, block)
    session.close()
    return crashes


def undisturbed(folder: Path, seed: int) -> list[CommittedBlock]:
    """The same life without any crash."""
    life = Life(seed)
    engine = engine_at(folder, life)
    session = engine.session
    blocks = []
    for height in range(1, BLOCKS + 1):
        # What fails admission stays in: a validator may be handed such a block, and must give it receipts.
        session.finalize(Block(height=height, time_s=life.time_s, txs=tuple(life.next_block())))
        blocks.append(session.commit(life.producer))
    session.close()
    return blocks


def check_recovered(session: Session, expected: list[CommittedBlock], acknowledged: int) -> None:
    """Everything acknowledged is there; the one block that was on its way is there whole or not at all."""
    height = session.head.height
    assert acknowledged <= height <= acknowledged + 1
    for block in expected[:height]:
        assert session.block(block.height) == block
    if height:
        last = expected[height - 1]
        assert session.head.app_hash == last.header.app_hash == session.snapshot().root_hash
        for raw, receipt in zip(last.txs, last.receipts, strict=True):
            if admitted(receipt) and parse(raw).body.valid_until_s > session.head.time_s:
                with pytest.raises(Rejected) as refused:
                    session.check(raw)
                assert refused.value.code is AdmissionCode.REPLAYED


def check_found(session: Session, block: CommittedBlock) -> None:
    for index, (tx_id, receipt) in enumerate(zip(block.tx_ids, block.receipts, strict=True)):
        if tx_id is not None and admitted(receipt):
            assert session.locate(tx_id) == (block.height, index)


@pytest.mark.parametrize("kept", range(24))
def test_a_first_start_that_is_cut_short_starts_again(tmp_path: Path, disk: PowerDisk, fuse: Fuse, kept: int) -> None:
    """The genesis is written before the first block, in several steps: any of them may be the last."""
    life = Life()
    machine = Machine(disk, life, fuse)
    fuse.left = kept // 2
    rnd = Random(kept)
    try:
        machine.start()
    except Stopped:
        machine.fail(rnd)
    else:
        machine.stop()
    fuse.left = -1
    session = machine.start()
    assert session.head.height == 0
    assert session.snapshot().root_hash == undisturbed_genesis(tmp_path / "steady", life)
    session.close()


def undisturbed_genesis(folder: Path, life: Life) -> bytes:
    engine = engine_at(folder, life)
    app_hash = engine.session.head.app_hash
    engine.session.close()
    return app_hash


def fill(machine: Machine, session: Session, blocks: int) -> list[int]:
    """Acknowledge so many blocks; returns their heights."""
    heights = []
    for _ in range(blocks):
        life = machine.life
        session.finalize(Block(height=session.head.height + 1, time_s=life.time_s, txs=tuple(life.next_block())))
        heights.append(session.commit(life.producer).height)
    return heights


class NothingMore(Random):
    """Chance at its worst: of what was not synced nothing survives."""

    def randint(self, a: int, b: int) -> int:
        return min(a, b)

    def random(self) -> float:
        return 1.0


def test_a_block_found_after_a_kill_is_durable_before_anybody_hears_of_it(disk: PowerDisk, fuse: Fuse) -> None:
    """Killed between write and sync: the restart serves the block, checkpoints it, and then the power fails."""
    machine = Machine(disk, Life(1), fuse)
    session = machine.start()
    fill(machine, session, 2)
    session.finalize(Block(height=3, time_s=machine.life.time_s, txs=tuple(machine.life.next_block())))
    fuse.left = 2  # The steps of the write; the next is the sync's.
    with pytest.raises(Stopped):
        session.commit(machine.life.producer)
    machine.stop()
    assert machine.records.unsynced
    session = machine.start()
    assert session.head.height == 3
    assert not machine.records.unsynced
    session.close()
    machine.fail(NothingMore())
    session = machine.start()
    assert session.head.height == 3
    session.close()


def test_a_failed_sync_takes_no_later_block_with_it(disk: PowerDisk, fuse: Fuse) -> None:
    """The restart reads the block from the system's memory; the disk never had it."""
    machine = Machine(disk, Life(1), fuse)
    session = machine.start()
    fill(machine, session, 1)
    machine.records.next_sync_fails = True
    with pytest.raises(OSError, match="Input/output"):
        fill(machine, session, 1)
    machine.stop()
    session = machine.start()
    assert session.head.height == 2
    assert fill(machine, session, 2) == [3, 4]
    machine.fail(NothingMore())
    session = machine.start()
    assert session.head.height == 4
    session.close()


def test_a_failed_sync_of_the_first_bytes_is_made_up_for_too(disk: PowerDisk, fuse: Fuse) -> None:
    machine = Machine(disk, Life(1), fuse)
    machine.records.next_sync_fails = True
    with pytest.raises(OSError, match="Input/output"):
        machine.start()
    machine.stop()
    session = machine.start()
    assert machine.records.durable
    fill(machine, session, 1)
    machine.fail(NothingMore())
    session = machine.start()
    assert session.head.height == 1
    session.close()
