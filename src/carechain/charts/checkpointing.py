"""SQLite's write-ahead log goes back into the file beside the writers, so that none of them waits for it.

What is committed lies safely in the log; sooner or later its pages are written to their places in the file. SQLite lets
the commit do that which finds the log long, and after a large transaction this takes longer than the commit itself.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Final

from sqlalchemy import Engine

from carechain.charts.dialect import write_back

ROWS: Final = 10_000
"""After so many changed rows, in one transaction or in many, it is worth it."""


class Checkpointing:
    """Writes the log of one SQLite file back; close it before the engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="charts-checkpoint")
        self._running: Future[bool] | None = None
        self._counting = Lock()
        self._rows = 0

    def committed(self, rows: int) -> None:
        """A transaction is over that changed so many rows."""
        with self._counting:
            self._rows += rows
            # One that failed stays until somebody was told.
            is_free = self._running is None or (self._running.done() and self._running.exception() is None)
            if self._rows >= ROWS and is_free:
                self._rows = 0
                self._running = self._thread.submit(write_back, self._engine, "PASSIVE")

    def require_sound(self) -> None:
        """Raise ``ChartsUnavailable`` if the last one failed; whoever writes next has to know that the disk is full."""
        with self._counting:
            if self._running is None or not self._running.done():
                return
            ended, self._running = self._running, None
        ended.result()

    def close(self) -> None:
        """Let a running one come to its end."""
        self._thread.shutdown()
