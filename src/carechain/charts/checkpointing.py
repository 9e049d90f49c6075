"""SQLite's write-ahead log goes back into the file beside the writers, so that none of them waits for it.

What is committed lies safely in the log; sooner or later its pages are written to their places in the file. SQLite lets
the commit do that which finds the log long, and after a large transaction this takes longer than the commit itself.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from sqlalchemy import Engine

from carechain.charts.dialect import write_back

ROWS: Final = 10_000
"""So many changed rows are worth it. Where less is changed at a time, SQLite itself sees when the log has grown."""


class Checkpointing:
    """Writes the log of one SQLite file back; close it before the engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="charts-checkpoint")
        self._running: Future[bool] | None = None

    def committed(self, rows: int) -> None:
        """A transaction is over that changed so many rows."""
        if rows >= ROWS and (self._running is None or self._running.done()):
            self._running = self._thread.submit(write_back, self._engine, "PASSIVE")

    def require_sound(self) -> None:
        """Raise ``ChartsUnavailable`` if the last one failed; whoever writes next has to know that the disk is full."""
        if self._running is not None and self._running.done():
            ended, self._running = self._running, None
            ended.result()

    def close(self) -> None:
        """Let a running one come to its end."""
        self._thread.shutdown()
