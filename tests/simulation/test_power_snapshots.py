"""The power fails at every step of a takeover: the ledger is the empty one or the snapshot's, never between.

Goal: the one rename that decides is durable only after everything it relies on, and what comes after can be done again.
Method: as in ``test_power.py``. A node takes over a snapshot, makes two blocks and stops, on real files; for every step
the folder is put together as a disk would have it, and the ledger is opened there, goes on, and is opened again.
"""

from pathlib import Path
from random import Random

import pytest

from carechain.engine.base import ARRIVING_FOLDER
from carechain.engine.session import LEDGER_FOLDER, Session
from carechain.engine.snapshots import Kept, Making, kept_in
from ledgers import SMALL
from power import PowerDisk
from snapshot_ledgers import Given, SharedLife, give, happen, make, node_of, small_chunks, take_over

BLOCKS = 8
LATER = 2


@pytest.mark.parametrize("chance", [None, 1, 2], ids=["nothing", "some", "others"])
def test_power_may_fail_while_a_snapshot_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chance: int | None
) -> None:
    small_chunks(monkeypatch)
    life = SharedLife(6)
    world = life.world
    source = node_of(tmp_path / "a", life.genesis, world.a), world.a
    happen(life, BLOCKS, source)
    kept = make(source[0], tmp_path / "kept")
    later = happen(life, LATER, source)
    heads = {height: source[0].block(height).header.app_hash for height in range(1, BLOCKS + LATER + 1)}
    source[0].close()
    disk, begun, known = recorded(tmp_path, life, kept, later)
    rnd = None if chance is None else Random(chance)
    home = tmp_path / "left" / "home"
    seen = set()
    for step in range(len(disk.events) + 1):
        disk.after_power_failure(step, rnd).write(home.parent)
        with node_of(home, life.genesis, world.d) as session:
            assert session.rebuilt is None
            height = session.head.height
            seen.add(height)
            assert height in (0, BLOCKS, *range(BLOCKS, BLOCKS + LATER + 1))
            assert height >= sum(at <= step for at in known) + BLOCKS * (begun <= step)
            assert session.base_height == (BLOCKS if height else 0)
            assert session.head.app_hash == (heads[height] if height else session.snapshot().root_hash)
            assert not (home / LEDGER_FOLDER / ARRIVING_FOLDER).exists()
            if not height:
                take_over(session, world.d, kept)
            complete(session, life, later)
        with node_of(home, life.genesis, world.d) as session:
            assert session.head.app_hash == heads[BLOCKS + LATER]
    assert seen >= {0, BLOCKS, BLOCKS + LATER}


def recorded(tmp_path: Path, life: SharedLife, kept: Kept, later: list[Given]) -> tuple[PowerDisk, int, list[int]]:
    """A node's life with the snapshot; when it had begun with it, and when each later block was acknowledged."""
    (tmp_path / "disk").mkdir()
    disk = PowerDisk(tmp_path / "disk")
    acknowledged = []
    with pytest.MonkeyPatch.context() as watched:
        disk.watch(watched)
        session = node_of(disk.root / "home", life.genesis, life.world.d, checkpoints=SMALL)
        take_over(session, life.world.d, kept)
        begun = len(disk.events)
        for block in later:
            give(session, life.world.d, life, block)
            acknowledged.append(len(disk.events))
        session.close()
    assert {event[0] for event in disk.events} >= {"rename", "remove", "sync", "commit"}
    return disk, begun, acknowledged


def complete(session: Session, life: SharedLife, later: list[Given]) -> None:
    """The blocks that this node lacks."""
    for block in later[session.head.height - BLOCKS :]:
        give(session, life.world.d, life, block)


@pytest.mark.parametrize("chance", [None, 3], ids=["nothing", "some"])
def test_power_may_fail_while_a_snapshot_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chance: int | None
) -> None:
    """What has its name is whole; what has not is no snapshot."""
    small_chunks(monkeypatch)
    life = SharedLife(6)
    source = node_of(tmp_path / "a", life.genesis, life.world.a), life.world.a
    happen(life, BLOCKS, source)
    (tmp_path / "disk").mkdir()
    disk = PowerDisk(tmp_path / "disk")
    with pytest.MonkeyPatch.context() as watched:
        disk.watch(watched)
        making = Making(disk.root / "snapshots", source[0].capture())
        while making.advance(50):
            pass
    source[0].close()
    (whole,) = kept_in(disk.root / "snapshots")
    names = {one.name: one.read_bytes() for one in whole.folder.iterdir()}
    rnd = None if chance is None else Random(chance)
    left = tmp_path / "left"
    for step in range(len(disk.events) + 1):
        disk.after_power_failure(step, rnd).write(left)
        for one in kept_in(left / "snapshots"):
            assert {file.name: file.read_bytes() for file in one.folder.iterdir()} == names
    assert len(kept_in(left / "snapshots")) == 1
