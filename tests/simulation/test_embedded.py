"""Deterministic simulation: the embedded ledger on a disk that crashes between any two steps.

Goal: whatever the moment, an acknowledged block is never lost, a block is there whole or not at all, and the chain goes
on to the roots it would have had without any crash. Method: a seed decides the traffic and the step at which power
fails. The block log lies on a disk in memory that forgets what was not synced: of the last unsynced writes a prefix
survives, of the index any part. The tree lies on a real folder, where the same fuse interrupts its checkpoints. After
each crash everything is opened again; in the end the chain is compared with one that never crashed, block by block.
"""

from collections.abc import Callable
from pathlib import Path
from random import Random
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

BLOCKS = 14
FEW_SEEDS = 40


class PowerFailed(BaseException):
    """The machine stops here. Not an Exception: nothing may catch it and go on."""


class Fuse:
    """Burns one step at a time; at the last one the power fails."""

    def __init__(self) -> None:
        self.left = -1

    def step(self) -> None:
        if self.left == 0:
            raise PowerFailed
        self.left -= 1


class SimFile:
    """A file whose unsynced part may be lost. ``ordered``: what survives of unsynced writes is a prefix of them."""

    def __init__(self, fuse: Fuse, *, ordered: bool) -> None:
        self.fuse = fuse
        self.ordered = ordered
        self.durable = b""
        self.data = bytearray()
        self.unsynced: list[tuple[int, bytes] | int] = []

    def size(self) -> int:
        return len(self.data)

    def read_at(self, offset: int, size: int) -> bytes:
        return bytes(self.data[offset : offset + size])

    def write_at(self, offset: int, data: bytes) -> None:
        self.fuse.step()
        self.unsynced.append((offset, data))
        self.data = put(self.data, offset, data)
        self.fuse.step()

    def truncate(self, size: int) -> None:
        self.fuse.step()
        self.unsynced.append(size)
        del self.data[size:]
        self.fuse.step()

    def sync(self) -> None:
        self.fuse.step()
        self.durable = bytes(self.data)
        self.unsynced.clear()
        self.fuse.step()

    def close(self) -> None:
        """A simulated file has nothing to release."""

    def crash(self, rnd: Random) -> None:
        """Keep what was synced, and of the rest what chance leaves."""
        kept = bytearray(self.durable)
        changes = self.unsynced[: rnd.randint(0, len(self.unsynced))] if self.ordered else self.unsynced
        for number, change in enumerate(changes, 1):
            if not self.ordered and rnd.random() < 0.5:
                continue
            if isinstance(change, int):
                del kept[change:]
                continue
            offset, data = change
            torn = self.ordered and number == len(changes)
            kept = put(kept, offset, data[: rnd.randint(0, len(data))] if torn else data)
        self.data, self.durable = kept, bytes(kept)
        self.unsynced.clear()


def put(data: bytearray, offset: int, piece: bytes) -> bytearray:
    """The file after a write; a gap before it reads as zeros, as on a real disk."""
    grown = data + bytes(max(0, offset - len(data)))
    grown[offset : offset + len(piece)] = piece
    return grown


class Machine:
    """One node's disk, and the session that runs on it now."""

    def __init__(self, folder: Path, life: Life, fuse: Fuse) -> None:
        self.folder = folder
        self.life = life
        self.fuse = fuse
        self.records = SimFile(fuse, ordered=True)
        self.index = SimFile(fuse, ordered=False)
        self.session: Session | None = None
        self.store: NodeStore | None = None

    def start(self) -> Session:
        genesis = self.life.genesis
        self.store = NodeStore.open(self.folder)
        log = BlockLog(records=self.records, index=self.index, genesis=genesis_hash(genesis))
        self.session = Session(log=log, store=self.store, genesis=genesis, checkpoints=Checkpoints(blocks=3, txs=12))
        return self.session

    def fail(self, rnd: Random) -> None:
        """Lose everything that is only in memory."""
        self.fuse.left = -1
        self.session = None
        if self.store is not None:
            self.store.close()
        self.records.crash(rnd)
        self.index.crash(rnd)


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
    tmp_path: Path, fuse: Fuse, simulations: int
) -> None:
    crashes = 0
    for seed in range(simulations or FEW_SEEDS):
        crashes += simulate(tmp_path / str(seed), seed, fuse)
    assert crashes > (simulations or FEW_SEEDS)


def simulate(folder: Path, seed: int, fuse: Fuse) -> int:
    """One life with its crashes; returns how many there were."""
    rnd = Random(seed)
    life = Life(seed)
    machine = Machine(folder / "tree", life, fuse)
    expected = undisturbed(folder / "steady", seed)
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
                acknowledged = session.head.height
                fuse.left = -1
                continue
            block = plan[acknowledged]
            session.finalize(block)
            committed = session.commit(life.producer)
            acknowledged = committed.height
        except PowerFailed:
            crashes += 1
            machine.fail(rnd)
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
def test_a_first_start_that_is_cut_short_starts_again(tmp_path: Path, fuse: Fuse, kept: int) -> None:
    """The genesis is written before the first block, in several steps: any of them may be the last."""
    life = Life()
    machine = Machine(tmp_path / "tree", life, fuse)
    fuse.left = kept // 2
    rnd = Random(kept)
    try:
        machine.start()
    except PowerFailed:
        machine.fail(rnd)
    else:
        assert machine.store is not None
        machine.store.close()
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
