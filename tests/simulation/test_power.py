"""The power fails at every step: the whole folder, with nothing on the disk that was not synced.

Goal: every sync is there and in its place; without any one of them some step below would lose what was acknowledged or
need a rebuild. Method: an embedded ledger runs on real files while ``power.py`` records what it does to them. Then for
every step the folder is put together as a disk would have it that kept only what it had to, or by chance some more, and
the ledger is opened there. Separately, the order of the steps themselves is asserted.
"""

from pathlib import Path
from random import Random

import pytest

from carechain.engine.blocklog import INDEX_NAME, LOG_NAME
from carechain.engine.embedded import EmbeddedEngine
from carechain.engine.session import LEDGER_FOLDER, TREE_FOLDER, CommittedBlock, Session
from carechain.state.lmdb_file import INDEX_FILE, INDEX_FOLDER
from carechain.state.store import NodeStore
from ledgers import SMALL, Life
from power import Event, PowerDisk

BLOCKS = 9
SMALL_FILES = 1024


def recorded(tmp_path: Path, patch: pytest.MonkeyPatch) -> tuple[PowerDisk, Life, list[tuple[int, CommittedBlock]]]:
    """A ledger's first blocks, checkpoints and clean stop; with each block the step at which it was acknowledged."""
    small_files(patch)
    life = Life(4)
    (tmp_path / "disk").mkdir()
    disk = PowerDisk(tmp_path / "disk")
    acknowledged = []
    with pytest.MonkeyPatch.context() as watched:
        disk.watch(watched)
        session = Session.open(disk.root / "home", life.genesis, checkpoints=SMALL)
        engine = EmbeddedEngine(session, life.producer)
        for _ in range(BLOCKS):
            block = engine.produce(time_s=life.time_s, txs=life.next_block())
            acknowledged.append((len(disk.events), block))
            if block.height % 2 == 0:
                session.checkpoint(idle=True)
        session.close()
    return disk, life, acknowledged


def small_files(patch: pytest.MonkeyPatch) -> None:
    """Node files so small that a short life begins, empties and drops some."""
    open_store = NodeStore.open

    def opened(path: Path, *, read_only: bool = False) -> NodeStore:
        return open_store(path, read_only=read_only, file_bytes=SMALL_FILES)

    patch.setattr(NodeStore, "open", opened)


@pytest.mark.parametrize("chance", [None, 1], ids=["nothing", "some"])
def test_power_may_fail_after_any_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chance: int | None) -> None:
    disk, life, acknowledged = recorded(tmp_path, monkeypatch)
    rnd = None if chance is None else Random(chance)
    assert {event[0] for event in disk.events} >= {"make", "folder", "write", "cut", "sync", "commit"}
    home = tmp_path / "left" / "home"
    for step in range(len(disk.events) + 1):
        disk.after_power_failure(step, rnd).write(home.parent)
        known = [block for at, block in acknowledged if at <= step]
        with Session.open(home, life.genesis) as session:
            # A tree that has to be rebuilt is one that was not synced before something that was relied on it.
            assert session.rebuilt is None
            assert len(known) <= session.head.height <= len(known) + 1
            assert [session.block(block.height).header for block in known] == [block.header for block in known]
            assert all(session.locate(tx_id) for block in known for tx_id in block.tx_ids if tx_id)


def test_what_is_relied_on_is_synced_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of steps, spelled out: name, label, record; and nodes before the commit that refers to them."""
    disk, _, acknowledged = recorded(tmp_path, monkeypatch)
    events = disk.events
    home = disk.root / "home"
    ledger = home / LEDGER_FOLDER
    log, tree = ledger / LOG_NAME, ledger / TREE_FOLDER
    first_record = next(at for at, event in enumerate(events) if event[:2] == ("write", log) and event[2])
    for folder in (disk.root, home, ledger):
        assert ("sync", folder) in events[:first_record], folder
    for end, block in acknowledged:
        # The last thing before an acknowledgement that concerns the log is its sync; the index is only noted after it.
        steps = [event[0] for event in events[:end] if event[1] == log]
        assert steps[-2:] == ["write", "sync"], block.height
    assert [event[0] for event in events if event[1] == ledger / INDEX_NAME][-1] == "sync"
    commits = [at for at, event in enumerate(events) if event[0] == "commit"]
    assert len(commits) > BLOCKS // 3
    assert all(events[at][1] == tree / INDEX_FOLDER / INDEX_FILE for at in commits)
    for at in commits:
        assert unsynced_nodes(events[:at], tree) == set()
    dropped = [at for at, event in enumerate(events) if event[0] == "remove" and event[1].parent == tree]
    assert dropped
    for at in dropped:
        # Between the commit that leaves a file out and its removal nothing else happens to the tree.
        assert last_of_tree(events[:at], tree)[0] in ("commit", "remove")


def unsynced_nodes(events: list[Event], tree: Path) -> set[Path]:
    """Node files written since their last sync, or whose names were made since the folder's."""
    loose: set[Path] = set()
    names: set[Path] = set()
    for kind, path, *_ in events:
        if path == tree and kind == "sync":
            names.clear()
        elif path.suffix == ".nodes":
            if kind == "make":
                names.add(path)
            elif kind in ("write", "cut"):
                loose.add(path)
            elif kind == "sync":
                loose.discard(path)
    return loose | names


def last_of_tree(events: list[Event], tree: Path) -> Event:
    return next(event for event in reversed(events) if event[1].is_relative_to(tree))
