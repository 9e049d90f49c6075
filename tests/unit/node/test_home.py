"""Goal: a home is used by one process, of a layout this program knows, and says plainly what is wrong with it.

Method: folders made and spoiled in a temporary place.
"""

import os
import resource
from pathlib import Path
from typing import Any

import pytest

from carechain.chain import genesis as founding
from carechain.node import home as home_module
from carechain.node.home import HOME_VERSION, HomeUnusable, Running, make_home, open_home, replace_file, running
from node_network import founders, genesis_of


def version(path: Path) -> str:
    return (path / "home.version").read_text().strip()


def test_a_made_home_opens(tmp_path: Path) -> None:
    path = tmp_path / "医院"
    make_home(path)
    make_home(path)
    assert version(path) == str(HOME_VERSION)
    assert {one.name for one in path.iterdir() if one.is_dir()} == {"keys", "ledger", "charts", "audit"}
    assert (path / "keys").stat().st_mode & 0o077 == 0
    with open_home(path) as home:
        assert home.charts.parent.is_dir()
        assert home.audit.parent.is_dir()


def test_a_folder_without_a_version_is_completed(tmp_path: Path) -> None:
    with open_home(tmp_path) as home:
        assert version(home.path) == str(HOME_VERSION)


def test_two_nodes_cannot_share_a_home(tmp_path: Path) -> None:
    with open_home(tmp_path), pytest.raises(HomeUnusable, match="Another node"), open_home(tmp_path):
        pass
    with open_home(tmp_path):
        pass


def test_a_newer_layout_and_nonsense_are_refused(tmp_path: Path) -> None:
    for text, said in ((str(HOME_VERSION + 1), "newer"), ("x", "number"), ("9" * 30, "number")):
        (tmp_path / "home.version").write_text(text)
        with pytest.raises(HomeUnusable, match=said), open_home(tmp_path):
            pass


def test_an_older_layout_is_migrated_step_by_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_home(tmp_path)
    steps: list[int] = []
    monkeypatch.setattr(home_module, "HOME_VERSION", HOME_VERSION + 2)
    monkeypatch.setattr(
        home_module,
        "MIGRATIONS",
        {HOME_VERSION + step: lambda _path, step=step: steps.append(step) for step in range(2)},
    )
    with open_home(tmp_path):
        assert steps == [0, 1]
    assert version(tmp_path) == str(HOME_VERSION + 2)


def test_a_missing_home_or_genesis(tmp_path: Path) -> None:
    with pytest.raises(HomeUnusable, match="carechain init"), open_home(tmp_path / "none"):
        pass
    with open_home(tmp_path) as home:
        with pytest.raises(HomeUnusable, match=r"genesis\.json is missing"):
            home.genesis()
        (tmp_path / "genesis.json").write_text("{}")
        with pytest.raises(HomeUnusable, match="not a genesis"):
            home.genesis()
        genesis = genesis_of(founders())
        (tmp_path / "genesis.json").write_bytes(founding.write(genesis))
        assert home.genesis() == genesis


def test_a_running_node_says_where_it_listens(tmp_path: Path) -> None:
    said = Running(pid=os.getpid(), api="http://127.0.0.1:1", ops="http://127.0.0.1:2")
    assert running(tmp_path) is None
    with open_home(tmp_path) as home:
        home.announce(said)
        assert running(tmp_path) == said
        home.retire()
        home.retire()
    assert running(tmp_path) is None
    (tmp_path / "running.json").write_text("{")
    assert running(tmp_path) is None


def assert_replaced(done: list[tuple[str, str]], name: str) -> None:
    """The content is durable before it gets the name, and then the name."""
    (step, temporary), *rest = done
    assert step == "sync"
    assert temporary.startswith(f"new/home/.{name}-")
    assert rest == [("name", f"new/home/{name}"), ("sync", "new/home")]


def test_the_names_of_a_new_home_are_durable_before_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every folder is synced after the names it got, and a file before it takes its name."""
    path = tmp_path / "new" / "home"
    done: list[tuple[str, str]] = []
    fsync, mkdir, rename = os.fsync, Path.mkdir, Path.replace

    def note(what: str, where: str | Path) -> None:
        done.append((what, os.path.relpath(where, tmp_path)))

    def noted_fsync(handle: int) -> None:
        note("sync", Path(f"/proc/self/fd/{handle}").readlink())
        fsync(handle)

    def noted_mkdir(self: Path, *args: Any, **named: Any) -> None:
        note("make", self)
        mkdir(self, *args, **named)

    def noted_rename(self: Path, target: Path) -> Path:
        note("name", target)
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "mkdir", noted_mkdir)
    monkeypatch.setattr(Path, "replace", noted_rename)
    make_home(path)
    assert done[:4] == [("make", "new"), ("sync", "."), ("make", "new/home"), ("sync", "new")]
    for name in ("keys", "ledger", "charts", "audit"):
        at = done.index(("make", f"new/home/{name}"))
        assert done[at + 1] == ("sync", "new/home")
    assert_replaced(done[-3:], "home.version")
    done.clear()
    replace_file(path / "genesis.json", b"{}")
    assert_replaced(done, "genesis.json")
    assert (path / "genesis.json").read_bytes() == b"{}"
    assert (path / "genesis.json").stat().st_mode & 0o077 == 0
    assert not [one for one in path.iterdir() if one.name.startswith(".")]


def test_a_file_that_cannot_be_written_whole_leaves_the_old_one(tmp_path: Path) -> None:
    file = tmp_path / "genesis.json"
    replace_file(file, b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            replace_file(file, bytes(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert file.read_bytes() == b"old"
