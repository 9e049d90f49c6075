"""The engine as a child: found or missed with a sentence that helps, started, watched, and never left behind.

Goal: an engine that ends comes up again, each time after a longer wait, until that makes no sense; a restart that was
asked for comes at once; stopping waits for the end, whatever the engine thinks of it; it does not outlive this program;
its log stays small. Method: small programs that behave like an engine in one respect each.
"""

import asyncio
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from carechain.engine.cometbft import binary, process
from carechain.engine.cometbft.binary import EngineMissing, find_cometbft, version_of
from carechain.engine.cometbft.process import LOG_FILE, EngineKeepsEnding, EngineProcess

PATIENCE_S = 30.0

IDLE = """
import signal, sys
print("up", sys.argv[1:], flush=True)
signal.pause()
"""
STUBBORN = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
while True:
    signal.pause()
"""
FAILING = """
import sys
print("cannot open the store", flush=True)
sys.exit(3)
"""
CHATTY = """
import signal
print("x" * 20_000, flush=True)
print("up", flush=True)
signal.pause()
"""


def program(folder: Path, source: str) -> Path:
    """An executable that runs ``source``."""
    path = folder / "engine"
    path.write_text(f"#!{sys.executable}\n{source}", encoding="utf-8")
    path.chmod(0o700)
    return path


class Watched:
    """An engine process over one of the programs; ``pauses`` are the waits before each further start."""

    def __init__(self, folder: Path, source: str, patch: pytest.MonkeyPatch, **settings: Any) -> None:
        self.home = folder / "home"
        self.home.mkdir()
        self.pauses: list[float] = []
        self.gave_up: list[BaseException] = []
        self.ended = asyncio.Event()
        self.engine = EngineProcess(program(folder, source), self.home, gave_up=self.note, **settings)
        paused = self.engine._paused

        async def noted(seconds: float) -> bool:
            self.pauses.append(seconds)
            return await paused(0.0)

        patch.setattr(self.engine, "_paused", noted)

    def note(self, error: BaseException) -> None:
        """It makes no sense any more."""
        self.gave_up.append(error)
        self.ended.set()

    async def up(self, starts: int = 1) -> int:
        """Wait for so many starts and the last one's first word; returns its pid."""
        await until(lambda: self.engine.starts >= starts and self.log().count("up") >= starts)
        assert self.engine.pid is not None
        return self.engine.pid

    def log(self) -> str:
        """The engine's output so far."""
        path = self.home / LOG_FILE
        return path.read_text() if path.exists() else ""


async def until(condition: Callable[[], bool]) -> None:
    """Look until it holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in another program
            await asyncio.sleep(0.01)


def is_gone(pid: int) -> bool:
    """Whether there is no such process any more."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


# --- starting and stopping ------------------------------------------------------------------------------


def test_it_is_started_with_its_home_and_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        watched = Watched(tmp_path, IDLE, monkeypatch, environment={"LANG": "C"})
        watched.engine.start()
        pid = await watched.up()
        assert f"'start', '--home', '{watched.home}'" in watched.log()
        assert watched.engine.starts == 1
        await watched.engine.stop()
        assert is_gone(pid)
        assert watched.engine.pid is None
        await watched.engine.stop()
        assert watched.pauses == []
        assert watched.gave_up == []

    asyncio.run(run())


@pytest.mark.parametrize("paused", [False, True], ids=["ignores the signal", "is suspended"])
def test_stopping_ends_it_whatever_it_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, paused: bool) -> None:
    monkeypatch.setattr(process, "STOP_S", 0.2)

    async def run() -> None:
        watched = Watched(tmp_path, IDLE if paused else STUBBORN, monkeypatch)
        watched.engine.start()
        pid = await watched.up()
        if paused:
            os.kill(pid, signal.SIGSTOP)
        await watched.engine.stop()
        assert is_gone(pid)

    asyncio.run(run())


def test_stopping_what_never_started_is_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.run(Watched(tmp_path, IDLE, monkeypatch).engine.stop())


def test_stopping_does_not_wait_for_the_next_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        watched = Watched(tmp_path, FAILING, monkeypatch)
        waiting = asyncio.Event()

        async def long(_seconds: float) -> bool:
            waiting.set()
            return await EngineProcess._paused(watched.engine, PATIENCE_S)

        monkeypatch.setattr(watched.engine, "_paused", long)
        watched.engine.start()
        await waiting.wait()
        began_s = time.monotonic()
        await watched.engine.stop()
        assert time.monotonic() - began_s < PATIENCE_S / 2
        assert watched.engine.starts == 1

    asyncio.run(run())


# --- starting again -------------------------------------------------------------------------------------


def test_an_engine_that_was_killed_comes_up_again_each_time_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "QUICK_S", 0.0)

    async def run() -> None:
        watched = Watched(tmp_path, IDLE, monkeypatch)
        watched.engine.start()
        for start in range(1, 8):
            os.kill(await watched.up(start), signal.SIGKILL)
        await watched.up(8)
        await watched.engine.stop()
        assert watched.pauses == sorted(watched.pauses)
        assert len(set(watched.pauses)) > 3
        assert watched.pauses[0] >= process.FIRST_PAUSE_S
        assert watched.pauses[-1] == process.LONGEST_PAUSE_S
        assert watched.gave_up == []

    asyncio.run(run())


def test_an_engine_that_ran_well_comes_up_again_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "STEADY_S", -1.0)
    monkeypatch.setattr(process, "QUICK_S", 0.0)

    async def run() -> None:
        watched = Watched(tmp_path, IDLE, monkeypatch)
        watched.engine.start()
        for start in range(1, 5):
            os.kill(await watched.up(start), signal.SIGKILL)
        await watched.up(5)
        await watched.engine.stop()
        assert set(watched.pauses) == {process.FIRST_PAUSE_S}

    asyncio.run(run())


def test_an_engine_that_never_comes_up_is_given_up_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        watched = Watched(tmp_path, FAILING, monkeypatch)
        watched.engine.start()
        async with asyncio.timeout(PATIENCE_S):
            await watched.ended.wait()
        (failure,) = watched.gave_up
        assert isinstance(failure, EngineKeepsEnding)
        assert "cannot open the store" in str(failure)
        assert watched.engine.starts == process.QUICK_ENDS
        await watched.engine.stop()

    asyncio.run(run())


def test_a_restart_that_was_asked_for_comes_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        watched = Watched(tmp_path, IDLE, monkeypatch)
        watched.engine.start()
        first = await watched.up()
        watched.engine.restart()
        watched.engine.restart()
        second = await watched.up(2)
        assert first != second
        assert is_gone(first)
        assert watched.pauses == [0.0]
        await watched.engine.stop()
        assert watched.engine.starts == 2

    asyncio.run(run())


def test_a_restart_asked_for_while_it_is_down_is_one_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        watched = Watched(tmp_path, IDLE, monkeypatch)
        paused = watched.engine._paused

        async def asked(seconds: float) -> bool:
            watched.engine.restart()
            return await paused(seconds)

        monkeypatch.setattr(watched.engine, "_paused", asked)
        watched.engine.start()
        os.kill(await watched.up(), signal.SIGKILL)
        pid = await watched.up(2)
        assert not watched.engine._again.is_set(), "it would be ended again at once"
        assert not is_gone(pid)
        assert watched.engine.starts == 2
        await watched.engine.stop()

    asyncio.run(run())


def test_what_a_killed_engine_left_behind_is_cleared_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        socket = tmp_path / "rpc"
        watched = Watched(tmp_path, IDLE, monkeypatch, sockets=(socket, tmp_path / "never made"))
        socket.touch()
        watched.engine.start()
        await watched.up()
        assert not socket.exists()
        await watched.engine.stop()

    asyncio.run(run())


def test_a_program_that_is_gone_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        watched = Watched(tmp_path, IDLE, monkeypatch)
        path, away = tmp_path / "engine", tmp_path / "away"
        watched.engine.start()
        pid = await watched.up()
        path.rename(away)
        os.kill(pid, signal.SIGKILL)
        await until(lambda: process.LONGEST_PAUSE_S in watched.pauses)
        assert watched.engine.pid is None
        away.rename(path)
        await watched.up(2)
        await watched.engine.stop()

    asyncio.run(run())


def test_a_first_start_that_is_refused_is_the_callers_to_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        watched = Watched(tmp_path, IDLE, monkeypatch)
        (tmp_path / "engine").unlink()
        with pytest.raises(FileNotFoundError):
            watched.engine.start()
        await watched.engine.stop()

    asyncio.run(run())


# --- the end of this program ----------------------------------------------------------------------------

PARENT = """
import asyncio, sys
from pathlib import Path
from carechain.engine.cometbft.process import EngineProcess

async def run():
    engine = EngineProcess(Path(sys.argv[1]), Path(sys.argv[2]), gave_up=print)
    engine.start()
    print(engine.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(run())
"""


def test_the_engine_does_not_outlive_a_node_that_was_killed(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, program(tmp_path, STUBBORN), tmp_path], stdout=subprocess.PIPE, text=True
    )
    try:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        handle = os.pidfd_open(child)
        parent.send_signal(signal.SIGKILL)
        parent.wait(PATIENCE_S)
        ended, _, _ = select.select([handle], [], [], PATIENCE_S)
        os.close(handle)
        assert ended
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()


# --- the log --------------------------------------------------------------------------------------------


def test_the_log_is_bounded_while_it_runs_and_at_every_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "LOG_BYTES", 10_000)

    async def run() -> None:
        watched = Watched(tmp_path, CHATTY, monkeypatch)
        watched.engine.start()
        await watched.up()
        log, older = watched.home / LOG_FILE, watched.home / "engine.log.1"
        watched.engine.trim_log()
        assert log.stat().st_size == 0
        assert older.read_text().endswith("up\n")
        watched.engine.trim_log()
        assert older.stat().st_size > process.LOG_BYTES
        for start in range(2, 5):
            watched.engine.restart()
            await until(lambda start=start: watched.engine.starts == start and "up" in watched.log())
        assert log.stat().st_size < 3 * process.LOG_BYTES
        assert watched.engine.last_words()[-1] == "up"
        await watched.engine.stop()
        assert sorted(path.name for path in watched.home.iterdir()) == ["engine.log", "engine.log.1"]

    asyncio.run(run())


def test_last_words_of_an_engine_that_said_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(tmp_path, IDLE, monkeypatch)
    assert watched.engine.last_words() == []
    (watched.home / LOG_FILE).write_bytes(b"\xff\xfe\n" * 9_000 + "最后\n".encode())
    assert watched.engine.last_words()[-1] == "最后"
    assert len(watched.engine.last_words()) <= process.LAST_LINES


# --- finding it -----------------------------------------------------------------------------------------


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine on which no engine can be found."""
    monkeypatch.delenv(binary.VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "prefix"))
    for folder in ("bin", "prefix/bin"):
        (tmp_path / folder).mkdir(parents=True)
    return tmp_path


def says(folder: Path, words: str, name: str = "cometbft", *, status: int = 0) -> Path:
    """A program that prints ``words`` when asked for its version."""
    path = folder / name
    path.write_text(f"#!/bin/sh\nprintf '{words}'\nexit {status}\n")
    path.chmod(0o700)
    return path


def missing(configured: Path | None = None) -> str:
    """Why no engine was found; the sentence always says how to get one."""
    with pytest.raises(EngineMissing) as refused:
        find_cometbft(configured)
    assert "make engine" in str(refused.value)
    assert binary.VERSION in str(refused.value)
    return str(refused.value)


def test_no_engine_anywhere(nowhere: Path) -> None:
    assert "not on this machine" in missing()


def test_it_is_found_in_the_order_of_who_says_so(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_path = says(nowhere / "bin", f"{binary.VERSION}\\n")
    assert find_cometbft() == on_path
    beside = says(nowhere / "prefix/bin", f"v{binary.VERSION}+abc\\n")
    assert find_cometbft() == beside
    named = says(nowhere, "0.39.99\\n", "named")
    monkeypatch.setenv(binary.VARIABLE, str(named))
    assert find_cometbft() == named
    configured = says(nowhere, "CometBFT 0.39.0\\n", "configured")
    assert find_cometbft(configured) == configured


def test_what_is_named_must_be_there(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another engine on the path is not silently taken instead."""
    says(nowhere / "bin", f"{binary.VERSION}\\n")
    assert "is not a program" in missing(nowhere / "absent")
    assert "is not a program" in missing(nowhere)
    plain = nowhere / "plain"
    plain.write_text("no program")
    assert "is not a program" in missing(plain)
    monkeypatch.setenv(binary.VARIABLE, str(nowhere / "absent"))
    assert "is not a program" in missing()


@pytest.mark.parametrize("words", ["0.38.19", "0.40.0", "1.0.1", "0.3.9", "10.39.4"])
def test_another_version_does_not_fit(nowhere: Path, words: str) -> None:
    assert f"is CometBFT {words}" in missing(says(nowhere, words))


@pytest.mark.parametrize("words", ["", "no version", "\\377\\376", "0.39"])
def test_a_program_that_is_something_else(nowhere: Path, words: str) -> None:
    assert "does not say which CometBFT it is" in missing(says(nowhere, words))


def test_a_program_that_cannot_be_run(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "cannot be run" in missing(says(nowhere, binary.VERSION, status=1))
    garbage = nowhere / "garbage"
    garbage.write_bytes(b"\x7fELF nothing")
    garbage.chmod(0o700)
    assert "cannot be run" in missing(garbage)
    monkeypatch.setattr(binary, "_ANSWER_S", 0.1)
    hanging = nowhere / "hanging"
    hanging.write_text(f"#!{sys.executable}\nimport signal\nsignal.pause()\n")
    hanging.chmod(0o700)
    assert "cannot be run" in missing(hanging)


def test_the_version_is_what_the_program_says(nowhere: Path) -> None:
    assert version_of(says(nowhere, "CometBFT v0.39.4+deadbeef\\n")) == "0.39.4"
