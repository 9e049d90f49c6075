"""Goal: a restored home is the one that was backed up, minus what must not come back, and is there whole or not at all.

Method: a home with a real ledger, real databases with a writer at work, an engine's folder and everything that has to
be left out; it is backed up and restored, and compared file by file. Every way of going wrong must leave no trace.
"""

import asyncio
import json
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import msgspec
import pytest

from carechain.chain import genesis as founding
from carechain.charts.store import Charts
from carechain.core.codec import encode
from carechain.core.rejection import Rejected, RejectionCode
from carechain.engine.blocklog import CorruptHistory, record_head
from carechain.engine.session import Session
from carechain.gatekeeper.audit import Audit
from carechain.node import backup as backing
from carechain.node.archive import ArchiveCode, ArchiveWriter, Password, SourceChanged
from carechain.node.backup import BackupCode, CannotBackUp, Manifest, back_up, is_left_out
from carechain.node.home import HomeUnusable, make_home
from carechain.node.restore import RESTORED_MARK, check, restore
from carechain.sealing.hpke import HpkePrivateKey
from carechain.sealing.symmetric import ScryptCost
from node_network import founders, genesis_of
from node_network import running as network_in
from world import seeded

CHEAP: Final = ScryptCost(n=1024, r=1)
PASSWORD: Final = Password("口令", CHEAP)
KEY: Final = HpkePrivateKey(seeded("backup", "hpke"))
NOW_S: Final = 1_900_000_000

LEFT_OUT: Final = {
    "home.lock",
    "running.json",
    ".backup/0.sqlite",
    "keys/.member.json-abc.tmp",
    "ledger/blocks.index",
    "ledger/rolled-back-3-1.log",
    "ledger-set-aside-1/blocks.log",
    "ledger-set-aside-1/tree/data.mdb",
    "ledger/tree/nodes",
    "cometbft/data/priv_validator_state.json",
    "cometbft/data/blockstore.db/000001.log",
    "cometbft/engine.log",
    "cometbft/RESTORED",
}


async def _with_blocks(home: Path) -> None:
    async with network_in(home):
        """Enrolments, bindings, grants and anchors are on the ledger."""


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An embedded node's home that is not running."""
    home = tmp_path_factory.mktemp("original") / "医院"
    make_home(home)
    (home / "genesis.json").write_bytes(founding.write(genesis_of(founders())))
    asyncio.run(_with_blocks(home))
    Charts.open(home / "charts" / "charts.sqlite").close()
    Audit.open(home / "audit" / "audit.sqlite").close()
    for name, text in {
        "config.toml": "[api]\nport = 0\n",
        "keys/member.json": "{}",
        "keys/口令": "secret",
        "tls/key.pem": "PEM",
        "book.json": "{}",
    }.items():
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_text(text, encoding="utf-8")
    for name in LEFT_OUT:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("left out", encoding="utf-8")
    return home


@pytest.fixture
def home(original: Path, tmp_path: Path) -> Path:
    """A copy to play with."""
    return Path(shutil.copytree(original, tmp_path / "home"))


def make(home: Path, out: Path) -> Manifest:
    return back_up(home, out, protection=PASSWORD, program="0.0", now_s=NOW_S, entropy=os.urandom).manifest


def put_back(file: Path, home: Path) -> Manifest:
    return restore(file, home, opener=PASSWORD, now_s=NOW_S + 60)


def files_of(folder: Path) -> dict[str, bytes]:
    return {one.relative_to(folder).as_posix(): one.read_bytes() for one in sorted(folder.rglob("*")) if one.is_file()}


def refused(work: Callable[[], object]) -> RejectionCode:
    with pytest.raises(Rejected) as rejected:
        work()
    return rejected.value.code


@contextmanager
def nothing_new(folder: Path) -> Iterator[None]:
    before = sorted(one for one in folder.rglob("*"))
    yield
    assert sorted(one for one in folder.rglob("*")) == before


# --- there and back -------------------------------------------------------------------------------------


def test_a_restored_home_is_the_one_that_was_backed_up(home: Path, tmp_path: Path) -> None:
    before = files_of(home)
    manifest = make(home, tmp_path / "b")
    assert check(tmp_path / "b", opener=PASSWORD) == manifest
    assert put_back(tmp_path / "b", tmp_path / "new") == manifest
    after = files_of(tmp_path / "new")
    databases = {"charts/charts.sqlite", "audit/audit.sqlite"}
    expected = {name: data for name, data in before.items() if name not in LEFT_OUT and "tree/" not in name}
    assert set(after) == set(expected)
    assert {name: after[name] for name in after if name not in databases} == {
        name: data for name, data in expected.items() if name not in databases
    }
    assert manifest.chain_id == genesis_of(founders()).chain_id
    assert (manifest.engine, manifest.validator, manifest.created_s) == (False, False, NOW_S)
    for one in (tmp_path / "new").rglob("*"):
        assert not one.stat().st_mode & 0o077, one
    assert not (tmp_path / "b").stat().st_mode & 0o077


def test_the_ledger_goes_on_where_the_backup_was_made(home: Path, tmp_path: Path) -> None:
    manifest = make(home, tmp_path / "b")
    put_back(tmp_path / "b", tmp_path / "new")
    genesis = genesis_of(founders())
    shutil.rmtree(home / "ledger" / "tree")
    with Session.open(home, genesis) as old, Session.open(tmp_path / "new", genesis) as new:
        assert new.head == old.head
        assert (new.head.height, new.head.time_s) == (manifest.height, manifest.block_time_s)
        assert manifest.height > 0


def test_charts_and_audit_open_again(home: Path, tmp_path: Path) -> None:
    make(home, tmp_path / "b")
    put_back(tmp_path / "b", tmp_path / "new")
    with Charts.open(tmp_path / "new" / "charts" / "charts.sqlite"):
        pass
    with Audit.open(tmp_path / "new" / "audit" / "audit.sqlite"):
        pass


def test_a_recipients_key_instead_of_a_password(home: Path, tmp_path: Path) -> None:
    back_up(home, tmp_path / "b", protection=KEY.public_key, program="0.0", now_s=NOW_S, entropy=os.urandom)
    assert refused(lambda: check(tmp_path / "b", opener=PASSWORD)) is ArchiveCode.NEEDS_KEY
    restore(tmp_path / "b", tmp_path / "new", opener=KEY, now_s=NOW_S)
    assert (tmp_path / "new" / "keys" / "member.json").read_text(encoding="utf-8") == "{}"


def test_progress_ends_with_everything(home: Path, tmp_path: Path) -> None:
    said: list[tuple[int, int]] = []
    made = back_up(
        home,
        tmp_path / "b",
        protection=PASSWORD,
        program="0.0",
        now_s=NOW_S,
        entropy=os.urandom,
        progress=lambda done, total: said.append((done, total)),
    )
    assert said[-1] == (made.manifest.size_bytes, made.manifest.size_bytes)
    assert made.file_bytes == (tmp_path / "b").stat().st_size
    said.clear()
    restore(
        tmp_path / "b",
        tmp_path / "new",
        opener=PASSWORD,
        now_s=NOW_S,
        progress=lambda done, total: said.append((done, total)),
    )
    assert said[-1] == (made.manifest.size_bytes, made.manifest.size_bytes)


def test_what_is_left_out() -> None:
    assert all(is_left_out(name) for name in LEFT_OUT)
    taken = ("keys/member.json", "ledger/blocks.log", "cometbft/config/node_key.json", "charts/charts.sqlite", "x/y")
    assert not any(is_left_out(name) for name in taken)


def test_links_are_followed_once(home: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "data").write_text("far", encoding="utf-8")
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "elsewhere")
    (home / "moved").symlink_to(tmp_path / "elsewhere")
    make(home, tmp_path / "b")
    put_back(tmp_path / "b", tmp_path / "new")
    assert (tmp_path / "new" / "moved" / "data").read_text(encoding="utf-8") == "far"
    assert not (tmp_path / "new" / "moved").is_symlink()
    assert not (tmp_path / "new" / "moved" / "loop").exists()


def test_a_backup_into_the_home_does_not_hold_itself(home: Path) -> None:
    make(home, home / "first")
    second = make(home, home / "second")
    assert second.files == make(home, home / "third").files - 1


# --- while the node runs --------------------------------------------------------------------------------


def test_databases_are_copied_whole_while_somebody_writes(home: Path, tmp_path: Path) -> None:
    """Two rows that are always written together are never seen apart."""
    database = home / "charts" / "pairs.sqlite"
    stop = threading.Event()
    with closing(sqlite3.connect(database, isolation_level=None)) as first:
        first.execute("PRAGMA journal_mode=WAL")
        first.execute("CREATE TABLE pairs (side TEXT, number INTEGER, filler BLOB)")

    def write() -> None:
        with closing(sqlite3.connect(database, isolation_level=None, timeout=30)) as writer:
            number = 0
            while not stop.is_set():
                writer.execute("BEGIN IMMEDIATE")
                for side in "lr":
                    writer.execute("INSERT INTO pairs VALUES (?, ?, ?)", (side, number, bytes(2000)))
                writer.execute("COMMIT")
                number += 1

    writing = threading.Thread(target=write)
    writing.start()
    try:
        for turn in range(3):
            make(home, tmp_path / f"b{turn}")
    finally:
        stop.set()
        writing.join()
    for turn in range(3):
        put_back(tmp_path / f"b{turn}", tmp_path / f"new{turn}")
        restored = tmp_path / f"new{turn}" / "charts" / "pairs.sqlite"
        with closing(sqlite3.connect(restored)) as found:
            sides = [
                found.execute("SELECT count(*), coalesce(max(number), -1) FROM pairs WHERE side = ?", side).fetchone()
                for side in "lr"
            ]
        assert sides[0] == sides[1]


def test_what_is_not_a_whole_block_yet_is_not_taken(home: Path, tmp_path: Path) -> None:
    whole = make(home, tmp_path / "whole")
    log = home / "ledger" / "blocks.log"
    payload = bytes(1000)
    with log.open("ab") as file:
        file.write(record_head(whole.height + 1, payload) + payload[:500])
    torn = make(home, tmp_path / "torn")
    assert (torn.height, torn.size_bytes) == (whole.height, whole.size_bytes)


def test_the_log_is_looked_at_after_the_audit_and_before_the_charts(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    copy, whole = backing._copy_database, backing._whole_blocks

    def copied(source: Path, target: Path, *, name: str) -> None:
        order.append(name)
        copy(source, target, name=name)

    def measured(home: Path, genesis: founding.Genesis) -> tuple[int, int, int]:
        order.append("log")
        return whole(home, genesis)

    monkeypatch.setattr(backing, "_copy_database", copied)
    monkeypatch.setattr(backing, "_whole_blocks", measured)
    make(home, tmp_path / "b")
    assert order == ["audit/audit.sqlite", "log", "charts/charts.sqlite"]


def test_one_backup_at_a_time(home: Path, tmp_path: Path) -> None:
    with backing._staging(home):
        assert refused(lambda: make(home, tmp_path / "b")) is BackupCode.ALREADY_RUNNING
    assert not (tmp_path / "b").exists()
    make(home, tmp_path / "b")
    assert list((home / ".backup").iterdir()) == []


# --- an engine's home -----------------------------------------------------------------------------------


@pytest.fixture
def validator(home: Path) -> Path:
    config = home / "cometbft" / "config"
    config.mkdir(parents=True)
    for name in ("node_key.json", "priv_validator_key.json", "config.toml", "genesis.json"):
        (config / name).write_text(name, encoding="utf-8")
    return home


def test_a_validator_comes_back_marked_and_without_its_signing_state(validator: Path, tmp_path: Path) -> None:
    manifest = make(validator, tmp_path / "b")
    assert (manifest.engine, manifest.validator) == (True, True)
    put_back(tmp_path / "b", tmp_path / "new")
    new = files_of(tmp_path / "new")
    assert not [name for name in new if "priv_validator_state" in name]
    assert new["cometbft/config/priv_validator_key.json"] == b"priv_validator_key.json"
    assert json.loads(new[RESTORED_MARK]) == {
        "backed_up_s": NOW_S,
        "restored_s": NOW_S + 60,
        "height": manifest.height,
    }


def test_an_engine_finds_no_block_that_its_store_does_not_have(validator: Path, tmp_path: Path) -> None:
    manifest = make(validator, tmp_path / "b")
    put_back(tmp_path / "b", tmp_path / "new")
    ledger = files_of(tmp_path / "new" / "ledger")
    assert ledger == {f"restored-{manifest.height}.log": (validator / "ledger" / "blocks.log").read_bytes()}


def test_where_the_log_begins_lies_beside_it(validator: Path, tmp_path: Path) -> None:
    assert not is_left_out("ledger/base")
    stated = msgspec.structs.replace(TRUE, engine=True, files=3, size_bytes=len(GENESIS) + 6, height=7)
    with (tmp_path / "b").open("wb") as file:
        writer = ArchiveWriter(file, protection=PASSWORD, entropy=os.urandom, description=encode(stated))
        for path, data in (("genesis.json", GENESIS), ("ledger/base", b"abc"), ("ledger/blocks.log", b"def")):
            writer.add(path, len(data), [data])
        writer.finish()
    put_back(tmp_path / "b", tmp_path / "new")
    assert files_of(tmp_path / "new" / "ledger") == {"restored-7.base": b"abc", "restored-7.log": b"def"}


def test_a_follower_is_not_marked(validator: Path, tmp_path: Path) -> None:
    (validator / "cometbft" / "config" / "priv_validator_key.json").unlink()
    manifest = make(validator, tmp_path / "b")
    assert (manifest.engine, manifest.validator) == (True, False)
    put_back(tmp_path / "b", tmp_path / "new")
    assert not (tmp_path / "new" / RESTORED_MARK).exists()


# --- backing up fails -----------------------------------------------------------------------------------


def test_a_file_that_exists_stays(home: Path, tmp_path: Path) -> None:
    (tmp_path / "b").write_text("mine", encoding="utf-8")
    assert refused(lambda: make(home, tmp_path / "b")) is BackupCode.FILE_EXISTS
    assert (tmp_path / "b").read_text(encoding="utf-8") == "mine"


def test_what_is_no_home(tmp_path: Path) -> None:
    for name in ("nowhere", "empty"):
        if name == "empty":
            (tmp_path / name).mkdir()
        with pytest.raises(HomeUnusable):
            make(tmp_path / name, tmp_path / "b")
        assert not (tmp_path / "b").exists()


def test_a_damaged_block_is_named_and_nothing_is_written(home: Path, tmp_path: Path) -> None:
    log = home / "ledger" / "blocks.log"
    data = bytearray(log.read_bytes())
    data[200] ^= 1
    log.write_bytes(data)
    with pytest.raises(CorruptHistory, match="block 1"):
        make(home, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_a_damaged_database_is_named(home: Path, tmp_path: Path) -> None:
    charts = home / "charts" / "charts.sqlite"
    data = bytearray(charts.read_bytes())
    data[4096:8192] = bytes(4096)
    charts.write_bytes(data)
    with pytest.raises(CannotBackUp, match=r"charts/charts\.sqlite"):
        make(home, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_a_name_that_is_not_text_is_named(home: Path, tmp_path: Path) -> None:
    os.close(os.open(os.fsencode(home) + b"/\xff", os.O_CREAT | os.O_WRONLY))
    with pytest.raises(CannotBackUp, match="UTF-8"):
        make(home, tmp_path / "b")


def test_a_path_that_is_too_long_is_named(home: Path, tmp_path: Path) -> None:
    deep = home.joinpath(*["x" * 200] * 6)
    deep.mkdir(parents=True)
    (deep / "f").touch()
    with pytest.raises(CannotBackUp, match="too long"):
        make(home, tmp_path / "b")


def test_too_many_files(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backing, "BACKUP_FILES", 3)
    assert refused(lambda: make(home, tmp_path / "b")) is BackupCode.TOO_MANY_FILES


def test_a_file_that_changes_while_it_is_read(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    captured = backing._captured

    def then_it_grows(*args: object, **named: object) -> object:
        found = captured(*args, **named)  # type: ignore[arg-type]
        with (home / "config.toml").open("a", encoding="utf-8") as file:
            file.write("# more\n")
        return found

    monkeypatch.setattr(backing, "_captured", then_it_grows)
    (tmp_path / "disk").mkdir()
    with pytest.raises(SourceChanged, match=r"config\.toml"):
        make(home, tmp_path / "disk" / "b")
    assert list((tmp_path / "disk").iterdir()) == []


def test_a_full_disk_leaves_no_half_backup(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_self: ArchiveWriter) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ArchiveWriter, "finish", full)
    (tmp_path / "disk").mkdir()
    with pytest.raises(OSError, match="No space"):
        make(home, tmp_path / "disk" / "b")
    assert list((tmp_path / "disk").iterdir()) == []


# --- restoring fails ------------------------------------------------------------------------------------


def test_a_folder_that_is_not_empty_stays(home: Path, tmp_path: Path) -> None:
    make(home, tmp_path / "b")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "mine").write_text("mine", encoding="utf-8")
    with nothing_new(tmp_path):
        assert refused(lambda: put_back(tmp_path / "b", tmp_path / "new")) is BackupCode.HOME_NOT_EMPTY
        assert refused(lambda: put_back(tmp_path / "b", tmp_path / "b")) is BackupCode.HOME_NOT_EMPTY


def test_an_empty_folder_becomes_the_home(home: Path, tmp_path: Path) -> None:
    make(home, tmp_path / "b")
    (tmp_path / "new").mkdir()
    put_back(tmp_path / "b", tmp_path / "new")
    assert (tmp_path / "new" / "genesis.json").exists()


def test_a_cut_or_altered_backup_leaves_no_trace(home: Path, tmp_path: Path) -> None:
    make(home, tmp_path / "b")
    good = (tmp_path / "b").read_bytes()
    altered = bytearray(good)
    altered[-100] ^= 1
    for data in (good[:-1], good[: len(good) // 2], bytes(altered)):
        (tmp_path / "bad").write_bytes(data)
        with nothing_new(tmp_path):
            assert refused(lambda: put_back(tmp_path / "bad", tmp_path / "new")) is ArchiveCode.DAMAGED


def test_a_disk_that_fails_half_way_leaves_no_trace(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(home, tmp_path / "b")
    written = 0
    real = os.fsync

    def fsync(handle: int) -> None:
        nonlocal written
        written += 1
        if written > 5:
            raise OSError(5, "Input/output error")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with nothing_new(tmp_path), pytest.raises(OSError, match="Input/output"):
        put_back(tmp_path / "b", tmp_path / "new")
    assert written > 5


def test_too_little_room(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(home, tmp_path / "b")
    monkeypatch.setattr("carechain.node.restore.disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))  # type: ignore[attr-defined]
    with nothing_new(tmp_path), pytest.raises(HomeUnusable, match="less room"):
        put_back(tmp_path / "b", tmp_path / "new")


GENESIS: Final = founding.write(genesis_of(founders()))
TRUE: Final = Manifest(
    program="0",
    chain_id="c",
    genesis=founding.genesis_hash(genesis_of(founders())),
    created_s=1,
    height=0,
    block_time_s=1,
    engine=False,
    validator=False,
    files=1,
    size_bytes=len(GENESIS),
)
FORGED: dict[str, tuple[list[tuple[str, bytes]], dict[str, object]]] = {
    "above the home": ([("../evil", b"")], {}),
    "an absolute path": ([("/evil", b"")], {}),
    "above in the middle": ([("keys/../../evil", b"")], {}),
    "another spelling": ([("keys//evil", b"")], {}),
    "a dot": ([("./evil", b"")], {}),
    "the folder itself": ([(".", b"")], {}),
    "no text": ([("ev\x00il", b"")], {}),
    "a signing state": ([("cometbft/data/priv_validator_state.json", b"{}")], {}),
    "a derived file": ([("ledger/tree/x", b"")], {}),
    "twice the same": ([("a", b""), ("a", b"")], {}),
    "a file as a folder": ([("a", b""), ("a/b", b"")], {}),
    "fewer files than stated": ([], {"files": 3}),
    "more files than stated": ([("a", b"")], {"files": 1}),
    "another size": ([], {"size_bytes": 7}),
    "a validator without a key": ([], {"validator": True}),
    "a key without a validator": ([("cometbft/config/priv_validator_key.json", b"{}")], {}),
    "a height without a log": ([], {"height": 3}),
    "a beginning without an engine": ([("ledger/base", b"")], {}),
    "another network": ([], {"genesis": bytes(32)}),
    "a log that is none": ([("ledger/blocks.log", b"x" * 100)], {}),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_backup_that_somebody_made_up_leaves_no_trace(name: str, tmp_path: Path) -> None:
    """A recipient's public key is no secret, so anybody can seal anything to it."""
    added, fields = FORGED[name]
    files = [("genesis.json", GENESIS), *added]
    stated = {
        **{field: getattr(TRUE, field) for field in Manifest.__struct_fields__},
        "files": len(files),
        "size_bytes": sum(len(data) for _, data in files),
        **fields,
    }
    with (tmp_path / "b").open("wb") as file:
        description = encode(Manifest(**stated))
        writer = ArchiveWriter(file, protection=KEY.public_key, entropy=os.urandom, description=description)
        for path, data in files:
            writer.add(path, len(data), [data] if data else [])
        writer.finish()
    with nothing_new(tmp_path):
        code = refused(lambda: restore(tmp_path / "b", tmp_path / "new", opener=KEY, now_s=1))
    assert code is ArchiveCode.DAMAGED


def test_a_description_that_is_none(tmp_path: Path) -> None:
    with (tmp_path / "b").open("wb") as file:
        ArchiveWriter(file, protection=KEY.public_key, entropy=os.urandom, description=b"\xc1").finish()
    assert refused(lambda: check(tmp_path / "b", opener=KEY)) is ArchiveCode.DAMAGED


def test_every_code_has_its_test() -> None:
    assert set(BackupCode) == {
        BackupCode.FILE_EXISTS,
        BackupCode.HOME_NOT_EMPTY,
        BackupCode.ALREADY_RUNNING,
        BackupCode.TOO_MANY_FILES,
    }
