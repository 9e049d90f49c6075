"""The eraser's journal: what was found of an erased record, on disk before any of it is destroyed (REC-13).

Afterwards nobody could tell: the stores hold nothing any more. So a crash between destroying and the receipt would
leave the patient without one. The journal holds ids and a mask, nothing of the content. One SQLite file.
"""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from msgspec import Struct

from carechain.core.limits import DATABASE_BUSY_S

JOURNAL_VERSION: Final = 1
_PRIVATE_FILE: Final = 0o600
_PRAGMAS: Final = ("journal_mode=WAL", "synchronous=FULL")
_TABLES: Final = (
    "CREATE TABLE store_info (id INTEGER PRIMARY KEY, version INTEGER NOT NULL)",
    """CREATE TABLE erasures (
        pseudonym BLOB NOT NULL, record BLOB NOT NULL, held INTEGER NOT NULL, destroyed INTEGER NOT NULL,
        settled INTEGER NOT NULL, PRIMARY KEY (pseudonym, record)
    ) WITHOUT ROWID""",
    "CREATE INDEX erasures_open ON erasures (pseudonym, record) WHERE settled = 0",
)


class JournalUnavailable(Exception):  # noqa: N818 - the state of the environment, not of the caller or the program
    """The eraser's journal cannot be used now: nothing is destroyed. Names the driver's error class only."""


class JournalTooNew(Exception):  # noqa: N818 - names what is wrong with the file
    """The eraser's journal was written by a newer release; run that release."""


class Noted(Struct, frozen=True, kw_only=True):
    """One erased record: the mask of what was found of it, and whether all of that is destroyed."""

    pseudonym: bytes
    record: bytes
    held: int
    destroyed: bool


class ErasureJournal:
    """The file. Safe to use from several threads; every write is on disk when the call returns.

    Every method raises :class:`JournalUnavailable` when the file cannot be used.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open or create the file; raises :class:`JournalTooNew` and :class:`JournalUnavailable`."""
        with _environment():
            path.touch(mode=_PRIVATE_FILE)
            connection = sqlite3.connect(path, timeout=DATABASE_BUSY_S, isolation_level=None, check_same_thread=False)
            try:
                for pragma in _PRAGMAS:
                    connection.execute(f"PRAGMA {pragma}")
                journal = cls(connection)
                journal._prepare()
            except BaseException:
                connection.close()
                raise
        return journal

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def begin(self, pseudonym: bytes, record: bytes, held: int) -> None:
        """Note what was found, before it is destroyed; what was found at an earlier attempt counts too."""
        self._write(
            "INSERT INTO erasures VALUES (?, ?, ?, 0, 0)"
            " ON CONFLICT (pseudonym, record) DO UPDATE SET held = held | excluded.held, destroyed = 0",
            (pseudonym, record, held),
        )

    def finish(self, pseudonym: bytes, record: bytes) -> None:
        """Everything that was found is destroyed."""
        self._write("UPDATE erasures SET destroyed = 1 WHERE pseudonym = ? AND record = ?", (pseudonym, record))

    def settle(self, pseudonym: bytes, record: bytes) -> None:
        """The ledger has the organisation's receipt."""
        self._write("UPDATE erasures SET settled = 1 WHERE pseudonym = ? AND record = ?", (pseudonym, record))

    def unfinished(self) -> list[Noted]:
        """What is not yet known to be destroyed in all its parts."""
        return self._noted("destroyed = 0")

    def without_receipt(self) -> list[Noted]:
        """What is destroyed and not yet confirmed on the ledger."""
        return self._noted("destroyed = 1 AND settled = 0")

    def _noted(self, condition: str) -> list[Noted]:
        query = f"SELECT pseudonym, record, held, destroyed FROM erasures WHERE {condition}"  # noqa: S608 - ours
        with _environment(), self._lock:
            rows = self._connection.execute(query).fetchall()
        return [
            Noted(pseudonym=pseudonym, record=record, held=held, destroyed=bool(destroyed))
            for pseudonym, record, held, destroyed in rows
        ]

    def _write(self, statement: str, values: tuple[Any, ...]) -> None:
        with _environment(), self._lock:
            self._connection.execute(statement, values)

    def _prepare(self) -> None:
        with _transaction(self._connection):
            tables = self._connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'store_info'").fetchone()
            if not tables[0]:
                for statement in _TABLES:
                    self._connection.execute(statement)
                self._connection.execute("INSERT INTO store_info VALUES (1, ?)", (JOURNAL_VERSION,))
                return
            (found,) = self._connection.execute("SELECT version FROM store_info").fetchone()
            if found > JOURNAL_VERSION:
                raise JournalTooNew(f"the journal has format {found}, this release reads up to {JOURNAL_VERSION}")


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


@contextmanager
def _environment() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise JournalUnavailable(type(error).__name__) from None
