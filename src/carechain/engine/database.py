"""One small SQLite file, as several parts of a node keep one: synced at every commit, all or nothing, one format.

Each kind of file is a class with its tables and its own errors, so that whoever handles a failure still knows which
file it was. What stands in the files differs; how a file is opened, written and given up does not.
"""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Final, Self, TypeVar

from carechain.core.limits import DATABASE_BUSY_S

T = TypeVar("T")
PRIVATE_FILE: Final = 0o600
PRAGMAS: Final = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON")
"""``secure_delete``: what is deleted is overwritten with zeroes. Its default depends on how SQLite was built."""


class Database:
    """The file. Safe to use from several threads; every write is on disk when the call returns.

    Every method raises ``unavailable`` when the file cannot be used; its text names the file and the driver's
    error class only.
    """

    tables: ClassVar[tuple[str, ...]] = ()
    """The statements that make a new file."""
    version: ClassVar[int] = 1
    pragmas: ClassVar[tuple[str, ...]] = PRAGMAS
    unavailable: ClassVar[type[Exception]] = OSError
    too_new: ClassVar[type[Exception]] = OSError

    def __init__(self, path: Path) -> None:
        """Open or create the file, which nobody but its owner may read; raises ``too_new`` and ``unavailable``."""
        self._lock = threading.Lock()
        self._name = path.name
        with self._environment():
            path.touch(mode=PRIVATE_FILE)
            self._connection = sqlite3.connect(
                path, timeout=DATABASE_BUSY_S, isolation_level=None, check_same_thread=False
            )
        try:
            for pragma in self.pragmas:
                self._select(f"PRAGMA {pragma}")
            self._write(self._prepare)
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open or create the file."""
        return cls(path)

    def close(self) -> None:
        """Let go of the file, when whoever is using it has finished."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _prepare(self) -> None:
        if not self._connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'store_info'").fetchone():
            info = "CREATE TABLE store_info (id INTEGER PRIMARY KEY, version INTEGER NOT NULL)"
            for statement in (info, *self.tables):
                self._connection.execute(statement)
            self._connection.execute("INSERT INTO store_info (id, version) VALUES (1, ?)", (self.version,))
            return
        (found,) = self._connection.execute("SELECT version FROM store_info").fetchone()
        if found > self.version:
            raise self.too_new(f"{self._name} has format {found}, this release reads up to {self.version}")

    def _write(self, work: Callable[[], T]) -> T:
        """One synced transaction, or nothing of it."""
        with self._lock, self._environment():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                result = work()
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")
            return result

    def _execute(self, statement: str, *values: object) -> int:
        """One statement as a transaction; returns how many rows it changed."""
        return self._write(lambda: self._connection.execute(statement, values).rowcount)

    def _select(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock, self._environment():
            return self._connection.execute(query, values).fetchall()

    def _forget_log(self) -> None:
        """Cut the write-ahead log, in which deleted rows may still stand. A busy reader leaves it for later."""
        self._select("PRAGMA wal_checkpoint(TRUNCATE)")

    @contextmanager
    def _environment(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            if isinstance(error, self.too_new):
                raise
            raise self.unavailable(f"{self._name} cannot be used: {type(error).__name__}") from None
