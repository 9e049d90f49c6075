"""Goal: a checkpoint is all or nothing, snapshots keep still, and what the disk has lost or gained is noticed.

Method: a real store in a temporary folder. The crash test kills a child process with SIGKILL while it writes.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path
from random import Random

import lmdb
import pytest

from carechain.core.limits import STATE_KEY_BYTES
from carechain.state import store as store_module
from carechain.state.audit import BadState, check_tree
from carechain.state.lmdb_file import INDEX_FILE, INDEX_FOLDER
from carechain.state.log import DAMAGED_MARK, StoreDamaged
from carechain.state.proof import verify_absence, verify_presence
from carechain.state.snapshot import Snapshot, SnapshotGone
from carechain.state.store import NodeStore, StoreLocked, StoreTooNew, StoreTooOld, height_on_disk
from carechain.state.trie import Change


def entries(count: int, *, mark: bytes = b"", start: int = 0) -> list[Change]:
    return [(b"key %05d" % number, b"value %d " % number + mark) for number in range(start, start + count)]


def checkpointed(store: NodeStore, snapshot: Snapshot, changes: list[Change], height: int) -> Snapshot:
    return store.checkpoint(height=height, snapshot=snapshot.apply(changes), meta={"chain": b"test"})


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "state"


def test_a_new_store_is_empty(home: Path) -> None:
    with NodeStore.open(home) as store:
        assert (store.height, store.epoch, store.meta()) == (0, 0, {})
        assert store.snapshot().root_hash == bytes(32)
        assert store.snapshot().get(b"a") is None
        assert list(store.snapshot().scan(b"")) == []


def test_reopened_it_is_at_the_last_checkpoint(home: Path) -> None:
    with NodeStore.open(home) as store:
        snapshot = checkpointed(store, store.snapshot(), entries(500), 7)
        root = snapshot.root_hash
        snapshot.apply(entries(9, mark=b"never written"))
    with NodeStore.open(home) as store:
        assert (store.height, store.epoch, store.meta()) == (7, 1, {"chain": b"test"})
        assert store.snapshot().root_hash == root
        assert list(store.snapshot().scan(b"key 001")) == entries(100, start=100)
        assert list(check_tree(store.load, store.snapshot().root)) == entries(500)


def test_everything_deleted_leaves_the_empty_root(home: Path) -> None:
    with NodeStore.open(home) as store:
        snapshot = checkpointed(store, store.snapshot(), entries(50), 1)
        checkpointed(store, snapshot, [(key, None) for key, _ in entries(50)], 2)
    with NodeStore.open(home) as store:
        assert store.snapshot().root_hash == bytes(32)
        checkpointed(store, store.snapshot(), entries(1), 3)
    with NodeStore.open(home) as store:
        assert list(store.snapshot().scan(b"")) == entries(1)


def test_a_snapshot_keeps_still_until_the_second_next_checkpoint(home: Path) -> None:
    with NodeStore.open(home, file_bytes=4096) as store:
        now = checkpointed(store, store.snapshot(), entries(300), 1)
        kept = store.snapshot()
        early, unread = kept.scan(b""), kept.scan(b"")
        next(early)
        now = checkpointed(store, now, entries(300, mark=b"new"), 2)
        assert list(kept.scan(b"")) == entries(300)
        scanning = kept.scan(b"")
        next(scanning)
        now = checkpointed(store, now, entries(300, mark=b"newer"), 3)
        for use in (lambda: kept.get(b"key 00001"), lambda: kept.scan(b""), lambda: list(scanning)):
            with pytest.raises(SnapshotGone):
                use()
        with pytest.raises(SnapshotGone):
            kept.prove(b"key 00001")
        with pytest.raises(SnapshotGone):
            kept.apply([])
        assert list(now.scan(b"")) == entries(300, mark=b"newer")
        # Once files were dropped there is nothing left to fetch: whoever goes on is told why.
        for height in range(4, 9):
            now = store.checkpoint(height=height, snapshot=now.apply(entries(300, mark=b"%d" % height)), idle=True)
        for iterator in (early, unread):
            with pytest.raises(SnapshotGone):
                list(iterator)
        assert not (home / DAMAGED_MARK).exists()


def test_blocks_that_are_never_committed_leave_no_trace(home: Path) -> None:
    with NodeStore.open(home) as store:
        base = checkpointed(store, store.snapshot(), entries(100), 1)
        base.apply([(b"key 00003", None), (b"other", b"block")])
        accepted = base.apply(entries(5, mark=b"kept"))
        again = checkpointed(store, accepted, [], 2)
        assert list(check_tree(store.load, again.root)) == entries(5, mark=b"kept") + entries(95, start=5)


def test_only_what_builds_on_the_last_checkpoint_is_taken(home: Path) -> None:
    with NodeStore.open(home) as store:
        old = store.snapshot()
        checkpointed(store, old, entries(3), 1)
        with pytest.raises(ValueError, match="last checkpoint"):
            store.checkpoint(height=2, snapshot=old.apply(entries(1)))
        assert store.height == 1


def test_old_files_are_emptied_and_dropped(home: Path) -> None:
    with NodeStore.open(home, file_bytes=8192) as store:
        snapshot = checkpointed(store, store.snapshot(), entries(1000), 1)
        for height in range(2, 60):
            start = height * 37 % 900
            snapshot = checkpointed(store, snapshot, entries(100, mark=b"%d" % height, start=start), height)
            assert sum(1 for _ in check_tree(store.load, snapshot.root)) == 1000
        for height in range(60, 90):
            snapshot = store.checkpoint(height=height, snapshot=snapshot, idle=True)
        expected = list(snapshot.scan(b""))
        files = sum(path.stat().st_size for path in home.glob("*.nodes"))
        live = sum(file.size_bytes - file.dead_bytes for file in store._log.files.values())
        assert files < 3 * live
    with NodeStore.open(home) as store:
        assert list(check_tree(store.load, store.snapshot().root)) == expected


def test_the_deepest_possible_tree_is_stored_and_moved(home: Path) -> None:
    whole = bytes(STATE_KEY_BYTES)
    deep: list[Change] = [(whole[:at], b"%d" % at) for at in range(1, len(whole) + 1)]
    deep += [(whole[:at] + bytes([side]), b"side") for at in range(len(whole)) for side in (0x01, 0x10)]
    deep.sort()
    with NodeStore.open(home, file_bytes=1024) as store:
        snapshot = checkpointed(store, store.snapshot(), deep, 1)
        for height in range(2, 12):
            snapshot = checkpointed(store, snapshot, [(deep[-1][0], b"%d" % height)], height)
        assert list(check_tree(store.load, snapshot.root)) == [*deep[:-1], (deep[-1][0], b"11")]


def test_nodes_replaced_between_checkpoints_never_reach_the_disk(home: Path) -> None:
    with NodeStore.open(home) as store:
        snapshot = store.snapshot()
        for mark in range(50):
            snapshot = snapshot.apply(entries(100, mark=b"%d" % mark))
        store.checkpoint(height=50, snapshot=snapshot)
    with NodeStore.open(home.with_name("once")) as once:
        checkpointed(once, once.snapshot(), entries(100, mark=b"49"), 1)
    sizes = [sum(path.stat().st_size for path in folder.glob("*.nodes")) for folder in (home, home.with_name("once"))]
    assert sizes[0] == sizes[1]


def test_proofs_hold_for_stored_and_for_new_nodes(home: Path) -> None:
    with NodeStore.open(home) as store:
        snapshot = checkpointed(store, store.snapshot(), entries(200), 1).apply(entries(1, mark=b"new"))
        for key, value in (*entries(1, mark=b"new"), *entries(199, start=1)):
            verify_presence(snapshot.root_hash, key, value or b"", snapshot.prove(key))
        verify_absence(snapshot.root_hash, b"key 1", snapshot.prove(b"key 1"))


# --- side tables and meta ---------------------------------------------------------------------------------


def test_side_tables_are_committed_with_the_checkpoint(home: Path) -> None:
    rows = [("tx", b"%04d" % number, b"at %d" % number) for number in range(2500)]
    with NodeStore.open(home) as store:
        assert store.side_get("tx", b"0001") is None
        assert list(store.side_scan("tx", b"")) == []
        snapshot = store.checkpoint(height=1, snapshot=store.snapshot(), side=[*rows, ("other", b"0001", b"else")])
        assert store.side_get("tx", b"0001") == b"at 1"
        assert list(store.side_scan("tx", b"")) == [(key, value) for _, key, value in rows]
        scanning = store.side_scan("tx", b"1")
        next(scanning)
        store.checkpoint(height=2, snapshot=snapshot, side=[("tx", b"0001", None), ("tx", b"absent", None)])
        assert len(list(scanning)) == 999
    with NodeStore.open(home) as store:
        assert store.side_get("tx", b"0001") is None
        assert list(store.side_scan("other", b"00")) == [(b"0001", b"else")]


def test_meta_is_kept_until_it_is_set_again(home: Path) -> None:
    with NodeStore.open(home) as store:
        snapshot = store.checkpoint(height=1, snapshot=store.snapshot(), meta={"one": b"1", "two": b"2"})
        store.checkpoint(height=2, snapshot=snapshot, meta={"two": b"zwei", "三": b"3"})
        assert store.meta() == {"one": b"1", "two": b"zwei", "三": b"3"}


def test_the_map_grows_by_itself(home: Path) -> None:
    side = [("blobs", b"%04d" % number, bytes(2000)) for number in range(1000)]
    with NodeStore.open(home, map_bytes=256 * 1024) as store:
        store.checkpoint(height=1, snapshot=store.snapshot().apply(entries(100)), side=side)
        assert len(list(store.side_scan("blobs", b""))) == 1000
        assert list(store.snapshot().scan(b"")) == entries(100)


def test_a_reader_follows_when_the_map_grows(home: Path) -> None:
    with NodeStore.open(home, map_bytes=256 * 1024) as store:
        snapshot = store.checkpoint(height=1, snapshot=store.snapshot(), side=[("blobs", b"first", b"1")])
        program = (
            "import sys; from pathlib import Path; from carechain.state.store import NodeStore\n"
            "store = NodeStore.open(Path(sys.argv[1]), read_only=True, map_bytes=256 * 1024)\n"
            "print(store.side_get('blobs', b'first'), flush=True); sys.stdin.readline()\n"
            "print(store.side_get('blobs', b'0999'))"
        )
        child = start_child(program, home)
        with child:
            assert child.stdin is not None
            assert child.stdout is not None
            assert child.stdout.readline() == b"b'1'\n"
            side = [("blobs", b"%04d" % number, b"%d" % number + bytes(2000)) for number in range(1000)]
            store.checkpoint(height=2, snapshot=snapshot, side=side)
            output, _ = child.communicate(b"\n")
        assert output.startswith(b"b'999")


# --- crashes and damage -----------------------------------------------------------------------------------

_WRITER = """
import sys
from pathlib import Path
from carechain.state.store import NodeStore
store = NodeStore.open(Path(sys.argv[1]), file_bytes=16384)
snapshot, height = store.snapshot(), store.height
while True:
    height += 1
    changes = [(b"key %05d" % (number * 13 % 2000), b"%d" % height) for number in range(height % 7 * 40, 400)]
    side = [("heights", height.to_bytes(8, "big"), b"%d" % height)]
    snapshot = store.checkpoint(height=height, snapshot=snapshot.apply(sorted(changes)), side=side)
    print(height, snapshot.root_hash.hex(), flush=True)
"""


def start_child(program: str, home: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", program, str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
    )


def test_killed_while_writing_it_reopens_at_a_whole_checkpoint(home: Path) -> None:
    shown: dict[int, str] = {}
    for checkpoints in (3, 11, 20):
        with start_child(_WRITER, home) as child:
            assert child.stdout is not None
            for _ in range(checkpoints):
                height, root = child.stdout.readline().split()
                shown[int(height)] = root.decode()
            child.send_signal(signal.SIGKILL)
            for line in child.stdout:
                height, root = line.split()
                shown[int(height)] = root.decode()
        with NodeStore.open(home) as store:
            # The kill may fall between the commit and the child's line about it, so at most one is not shown.
            assert store.height - max(shown) in (0, 1)
            assert store.snapshot().root_hash.hex() == shown.get(store.height, store.snapshot().root_hash.hex())
            sum(1 for _ in check_tree(store.load, store.snapshot().root))
            assert [int(value) for _, value in store.side_scan("heights", b"")] == list(range(1, store.height + 1))
            shown[store.height] = store.snapshot().root_hash.hex()


def test_what_was_written_after_the_checkpoint_is_cut_off(home: Path) -> None:
    with NodeStore.open(home) as store:
        checkpointed(store, store.snapshot(), entries(50), 1)
    for path in home.glob("*.nodes"):
        with path.open("ab") as file:
            file.write(b"torn")
    (home / "upper-000098.nodes").write_bytes(b"begun")
    with NodeStore.open(home) as store:
        snapshot = checkpointed(store, store.snapshot(), entries(50, mark=b"new"), 2)
        assert list(check_tree(store.load, snapshot.root)) == entries(50, mark=b"new")
    assert not (home / "upper-000098.nodes").exists()


def node_files(home: Path) -> list[Path]:
    return sorted(home.glob("*.nodes"))


def test_a_file_that_became_shorter_is_refused(home: Path) -> None:
    with NodeStore.open(home) as store:
        checkpointed(store, store.snapshot(), entries(50), 1)
    os.truncate(node_files(home)[0], 10)
    with pytest.raises(StoreDamaged, match="too early"):
        NodeStore.open(home)


def test_a_file_that_is_gone_is_refused(home: Path) -> None:
    with NodeStore.open(home) as store:
        checkpointed(store, store.snapshot(), entries(50), 1)
    node_files(home)[0].unlink()
    with pytest.raises(StoreDamaged, match="missing"):
        NodeStore.open(home)


def test_every_altered_byte_that_a_hash_covers_is_found(home: Path) -> None:
    with NodeStore.open(home) as store:
        checkpointed(store, store.snapshot(), entries(6), 1)
    for path in node_files(home):
        whole = path.read_bytes()
        for at in range(len(whole)):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
            with NodeStore.open(home, read_only=True) as store, pytest.raises(BadState):
                list(check_tree(store.load, store.snapshot().root))
        path.write_bytes(whole)


def read_all(home: Path) -> None:
    with NodeStore.open(home, read_only=True) as store:
        for key, _ in entries(3):
            store.snapshot().get(key)


def test_no_flipped_bit_of_a_node_is_ever_read(home: Path) -> None:
    """Whoever comes upon the node is told, without going through the tree."""
    with NodeStore.open(home) as store:
        checkpointed(store, store.snapshot(), entries(3), 1)
    for path in node_files(home):
        whole = path.read_bytes()
        for position in range(8 * len(whole)):
            damaged = bytearray(whole)
            damaged[position // 8] ^= 1 << position % 8
            path.write_bytes(damaged)
            with pytest.raises(StoreDamaged):
                read_all(home)
        path.write_bytes(whole)


def test_a_node_in_the_place_of_another_is_not_taken_for_it(home: Path) -> None:
    """Two leaves of one size, exchanged: each has a checksum that fits, but not here."""
    with NodeStore.open(home) as store:
        checkpointed(store, store.snapshot(), [(b"key a", b"one"), (b"key b", b"two")], 1)
    (path,) = [path for path in node_files(home) if path.name.startswith("leaves")]
    data = path.read_bytes()
    half = len(data) // 2
    path.write_bytes(data[half:] + data[:half])
    with NodeStore.open(home) as store, pytest.raises(StoreDamaged, match="checksum"):
        store.snapshot().get(b"key a")


def test_damage_once_found_keeps_the_store_from_being_used_again(home: Path) -> None:
    with NodeStore.open(home) as store:
        checkpointed(store, store.snapshot(), entries(50), 1)
    leaves = next(path for path in node_files(home) if path.name.startswith("leaves"))
    whole = leaves.read_bytes()
    leaves.write_bytes(bytes(len(whole)))
    with NodeStore.open(home, read_only=True) as reader, pytest.raises(StoreDamaged, match="checksum"):
        list(reader.snapshot().scan(b""))
    assert not (home / DAMAGED_MARK).exists()
    with NodeStore.open(home) as store, pytest.raises(StoreDamaged, match="checksum"):
        store.snapshot().get(b"key 00007")
    leaves.write_bytes(whole)
    with pytest.raises(StoreDamaged, match="earlier"):
        NodeStore.open(home)
    assert height_on_disk(home) == 1
    with NodeStore.open(home, read_only=True) as reader:
        assert list(reader.snapshot().scan(b"")) == entries(50)


def test_damage_in_a_file_that_is_emptied_stops_the_checkpoint(home: Path) -> None:
    """Also where it hits nodes out of use: their lengths say where the others begin."""
    with NodeStore.open(home, file_bytes=1024) as store:
        now = checkpointed(store, store.snapshot(), entries(200), 1)
        for path in node_files(home):
            data = bytearray(path.read_bytes())
            data[20] ^= 1
            path.write_bytes(data)

        def go_on(now: Snapshot) -> None:
            for height in range(2, 30):
                now = store.checkpoint(height=height, snapshot=now.apply(entries(190, mark=b"%d" % height)), idle=True)

        with pytest.raises(StoreDamaged):
            go_on(now)


@pytest.mark.parametrize("kept", [0, 1, 4096, 8192, 0.5, -1], ids=str)
def test_a_shortened_file_of_small_tables_is_damage(home: Path, kept: float) -> None:
    """LMDB would end the process on touching a page that is gone."""
    with NodeStore.open(home) as store:
        side = [("blobs", b"%04d" % number, bytes(500)) for number in range(100)]
        store.checkpoint(height=1, snapshot=store.snapshot().apply(entries(50)), side=side)
    path = home / INDEX_FOLDER / INDEX_FILE
    size = path.stat().st_size
    os.truncate(path, int(kept * size) if kept == 0.5 else int(kept) % size)
    with pytest.raises(StoreDamaged):
        NodeStore.open(home, read_only=True)
    assert height_on_disk(home) is None
    if kept:
        with pytest.raises(StoreDamaged):
            NodeStore.open(home)


def test_the_file_of_small_tables_has_all_its_pages_after_each_commit(home: Path) -> None:
    """LMDB may leave out the last ones; then a shorter file would look damaged."""
    rnd = Random(3)
    with NodeStore.open(home) as store:
        now = store.snapshot()
        for height in range(1, 60):
            side = [
                ("blobs", b"%02d" % rnd.randrange(60), rnd.choice((None, bytes(rnd.randrange(9000)))))
                for _ in range(40)
            ]
            now = store.checkpoint(height=height, snapshot=now, side={row[1]: row for row in side}.values())
            info = store._env.info()
            size = (home / INDEX_FOLDER / INDEX_FILE).stat().st_size
            assert size >= (info["last_pgno"] + 1) * store._env.stat()["psize"]


def test_a_failing_disk_closes_the_store_at_the_last_checkpoint(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with NodeStore.open(home) as store:
        snapshot = checkpointed(store, store.snapshot(), entries(50), 1)
        with monkeypatch.context() as disk:
            disk.setattr(os, "pwrite", fail)
            with pytest.raises(OSError, match="No space"):
                checkpointed(store, snapshot, entries(50, mark=b"new"), 2)
        with NodeStore.open(home) as reopened:
            assert reopened.height == 1
            assert list(check_tree(reopened.load, reopened.snapshot().root)) == entries(50)


# --- versions and locks -----------------------------------------------------------------------------------


def test_a_newer_store_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as newer:
        newer.setattr(store_module, "STORE_VERSION", store_module.STORE_VERSION + 1)
        NodeStore.open(home).close()
    for read_only in (False, True):
        with pytest.raises(StoreTooNew, match="this program knows"):
            NodeStore.open(home, read_only=read_only)


def test_an_older_store_is_migrated_forward_step_by_step(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with NodeStore.open(home) as store:
        checkpointed(store, store.snapshot(), entries(5), 1)
    version = store_module.STORE_VERSION
    monkeypatch.setattr(store_module, "STORE_VERSION", version + 2)
    with pytest.raises(StoreTooOld, match="no migration"):
        NodeStore.open(home)
    assert height_on_disk(home) == 1
    steps: list[int] = []

    def first(txn: lmdb.Transaction, path: Path) -> None:
        assert path == home
        steps.append(1)

    def failing(txn: lmdb.Transaction, path: Path) -> None:
        raise OSError("in the middle")

    def second(txn: lmdb.Transaction, path: Path) -> None:
        steps.append(2)

    monkeypatch.setitem(store_module.MIGRATIONS, version, first)
    monkeypatch.setitem(store_module.MIGRATIONS, version + 1, failing)
    with pytest.raises(StoreTooOld, match="open it once for writing"):
        NodeStore.open(home, read_only=True)
    with pytest.raises(OSError, match="in the middle"):
        NodeStore.open(home)
    monkeypatch.setitem(store_module.MIGRATIONS, version + 1, second)
    with NodeStore.open(home) as store:
        assert list(store.snapshot().scan(b"")) == entries(5)
    assert steps == [1, 1, 2]
    with NodeStore.open(home):
        assert steps == [1, 1, 2]


def test_one_writer_and_any_number_of_readers(home: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from carechain.state.store import NodeStore, StoreLocked\n"
        "try: NodeStore.open(Path(sys.argv[1]))\n"
        "except StoreLocked: print('locked')\n"
        "print(NodeStore.open(Path(sys.argv[1]), read_only=True).height)"
    )
    with NodeStore.open(home) as store:
        checkpointed(store, store.snapshot(), entries(5), 4)
        with pytest.raises(StoreLocked):
            NodeStore.open(home)
        with start_child(program, home) as child:
            output, _ = child.communicate()
        assert output.split() == [b"locked", b"4"]
    NodeStore.open(home).close()
