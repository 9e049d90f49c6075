"""The engine as a child process: started, watched, started again, and never left behind.

When the engine ends by itself it is started again, each time after a longer pause. When this program ends, however
it ends, the system ends the engine with it.
"""

import asyncio
import ctypes
import os
import shutil
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

LOG_FILE: Final = "engine.log"
LOG_BYTES: Final = 8 * 1024 * 1024
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 15.0
STEADY_S: Final = 30.0
"""An engine that ran for so long is started again at once."""
STOP_S: Final = 15.0
LAST_LINES: Final = 5
_PR_SET_PDEATHSIG: Final = 1

QUICK_S: Final = 5.0
QUICK_ENDS: Final = 5
"""An engine that ends so often within seconds of its start will not be helped by another one."""

_log = structlog.get_logger("carechain.engine")
_libc: Final = ctypes.CDLL(None, use_errno=True)


class EngineKeepsEnding(Exception):  # noqa: N818 - names what the engine does
    """The engine ends again and again right after its start; the sentence has its last words."""


def _die_with(parent: int) -> None:
    """Runs in the child before the engine: the system ends it when this program is gone."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        # It was gone before the system had been asked.
        os._exit(1)


class EngineProcess:
    """Keeps one engine running. Belongs to one event loop."""

    def __init__(
        self,
        program: Path,
        home: Path,
        *,
        gave_up: Callable[[BaseException], None],
        sockets: Sequence[Path] = (),
        folder: Path | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        """``home`` is the engine's folder; its output goes to ``engine.log`` there, two files of bounded size.

        ``gave_up`` is told, once, when starting it again makes no sense any more. ``sockets`` are the paths that the
        engine listens at: one that was killed leaves them behind, and the next could not listen there. ``folder`` is
        the one that it is started in.
        """
        self._gave_up = gave_up
        self._program = program.absolute()
        self._home = home.absolute()
        self._folder = folder
        self._sockets = sockets
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._running: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._again = asyncio.Event()
        self.starts = 0
        """How often it was started."""

    @property
    def pid(self) -> int | None:
        """The engine's process, while there is one."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the engine and go on watching it. Raises ``OSError`` where the first start is refused."""
        self._launch()
        self._running = asyncio.create_task(self._watch(), name="carechain engine")

    async def stop(self) -> None:
        """End the engine and wait for it; may be repeated."""
        self._stopping.set()
        if self._running is not None:
            await self._running
            self._running = None

    def restart(self) -> None:
        """End the engine; it comes up again with the settings that are on disk then."""
        self._again.set()

    def last_words(self) -> list[str]:
        """The last lines of its output."""
        with suppress(OSError):
            data = (self._home / LOG_FILE).read_bytes()[-4096:]
            return list(deque(data.decode("utf-8", "replace").splitlines(), LAST_LINES))
        return []

    def trim_log(self) -> None:
        """Begin its output anew when it has become too long; the last part is kept beside it.

        The engine appends to the same open file as long as it runs, so the file is emptied and not replaced. Raises
        ``OSError``.
        """
        path = self._home / LOG_FILE
        if path.exists() and path.stat().st_size > LOG_BYTES:
            shutil.copyfile(path, path.with_suffix(".log.1"))
            os.truncate(path, 0)

    def _launch(self) -> None:
        self.trim_log()
        # It starts with the settings that were asked for, so there is nothing left to start again for.
        self._again.clear()
        for socket in self._sockets:
            socket.unlink(missing_ok=True)
        parent = os.getpid()
        with (self._home / LOG_FILE).open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - the operator's own program
                [self._program, "start", "--home", self._home],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(self._environment or {})},
                preexec_fn=lambda: _die_with(parent),  # noqa: PLW1509 - calls nothing but the system
            )
        self.starts += 1

    async def _watch(self) -> None:
        pause_s = FIRST_PAUSE_S
        quick_ends = 0
        while not self._stopping.is_set():
            began_s = time.monotonic()
            status = await self._ended()
            self._process = None
            if self._stopping.is_set():
                return
            if self._again.is_set():
                self._again.clear()
                pause_s = 0.0
            else:
                quick_ends = quick_ends + 1 if time.monotonic() - began_s < QUICK_S else 0
                if quick_ends >= QUICK_ENDS:
                    said = "; ".join(self.last_words()[-1:]) or "nothing"
                    self._gave_up(
                        EngineKeepsEnding(f"The consensus engine ends right after its start. It said: {said}")
                    )
                    return
                _log.error("engine_ended", status=status, last_words=self.last_words())
                pause_s = FIRST_PAUSE_S if time.monotonic() - began_s > STEADY_S else min(pause_s * 2, LONGEST_PAUSE_S)
            while not await self._paused(pause_s):
                try:
                    self._launch()
                    break
                except OSError as error:
                    _log.error("engine_not_started", exc_info=error)
                    pause_s = LONGEST_PAUSE_S
            pause_s = max(pause_s, FIRST_PAUSE_S)

    async def _paused(self, seconds: float) -> bool:
        """Wait; True when asked to stop meanwhile."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        return self._stopping.is_set()

    async def _ended(self) -> int:
        """Wait for the engine's end, and bring it about when asked to."""
        process = self._process
        if process is None:
            raise RuntimeError("the engine was not started")
        loop = asyncio.get_running_loop()
        handle = os.pidfd_open(process.pid)
        ended = asyncio.Event()
        loop.add_reader(handle, ended.set)
        asked = [asyncio.create_task(one.wait()) for one in (self._stopping, self._again, ended)]
        try:
            await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            if not ended.is_set():
                process.terminate()
                with suppress(TimeoutError):
                    async with asyncio.timeout(STOP_S):
                        await ended.wait()
                if not ended.is_set():
                    process.kill()
                    await ended.wait()
        finally:
            for one in asked:
                one.cancel()
            loop.remove_reader(handle)
            os.close(handle)
        return process.wait()
