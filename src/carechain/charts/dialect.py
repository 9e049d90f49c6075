"""What differs between the two databases charts can lie in: SQLite (one file) and PostgreSQL (one database).

Both give the same promises: an acknowledged write survives a power cut, one writer at a time, a reader sees one moment.
"""

import contextlib
import select
import sqlite3
import time
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal

from sqlalchemy import URL, Connection, Dialect, Engine, Table, create_engine, event
from sqlalchemy.exc import DBAPIError, InvalidatePoolError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.types import TypeEngine

from carechain.charts.copying import CopyFailed, Copying, packed
from carechain.core.limits import DATABASE_BUSY_S

POSTGRESQL: Final = "postgresql"
WRITE_OPTION: Final = "carechain_write"
_PRAGMAS: Final = (
    "page_size=8192",
    "journal_mode=WAL",
    "synchronous=FULL",
    "foreign_keys=ON",
    "secure_delete=ON",
    "wal_autocheckpoint=32768",
)
"""``secure_delete``: freed space is overwritten with zeroes; its default depends on how SQLite was built.
``page_size`` is for new files. ``wal_autocheckpoint`` is in pages, and the last resort: see
:mod:`carechain.charts.checkpointing`."""
_READER_CACHE: Final = "PRAGMA cache_size=-16384"
_WRITER_CACHE: Final = "PRAGMA cache_size=-131072"
"""In KiB. What a large transaction touches fits into the writer's, so its pages are written once; there is one writer,
and what it has too much of goes with its transaction."""
_PREPARED: Final = 500
"""Statements that a PostgreSQL connection keeps ready; each that is pushed out costs a journey."""
_RESTED_S: Final = 5
_USED_S: Final = "carechain_used_s"
_COPYING: Final = "carechain_copying"
_WRITER_LOCK: Final = 0x6361_7265_6368_6169
"""The number of the advisory lock that the one writer to a PostgreSQL database holds."""


class ChartsUnavailable(Exception):  # noqa: N818 - the state of the environment, not of the caller or the program
    """The database cannot be used now: disk, lock, corruption. Names the driver's error class only."""


@contextlib.contextmanager
def environment() -> Iterator[None]:
    """Turn a database failure into :class:`ChartsUnavailable`, whose text holds no statement and no values."""
    try:
        yield
    except DBAPIError as error:
        raise ChartsUnavailable(type(error.orig).__name__) from None
    except CopyFailed as failed:
        raise ChartsUnavailable(str(failed)) from None
    except SQLAlchemyError as error:
        raise ChartsUnavailable(type(error).__name__) from None


def open_engine(place: Path | str) -> Engine:
    """An engine on a SQLite file (a path), or on a PostgreSQL database (``postgresql+psycopg://…``).

    Raises :class:`ChartsUnavailable` for an address that is neither.
    """
    if isinstance(place, Path):
        return _sqlite(f"sqlite:///{place}")
    if place.startswith("sqlite:///"):
        return _sqlite(place)
    if not place.startswith("postgresql+psycopg://"):
        raise ChartsUnavailable("charts lie in a SQLite file or in a postgresql+psycopg:// database")
    with environment():
        return _postgresql(place)


def _sqlite(url: str) -> Engine:
    engine = create_engine(url, hide_parameters=True, connect_args={"timeout": DATABASE_BUSY_S})

    @event.listens_for(engine, "connect")
    def _prepare(connection: sqlite3.Connection, _record: object) -> None:
        # SQLAlchemy opens the transactions here, so that a writer takes its lock at the start.
        connection.isolation_level = None
        # Text that is not UTF-8 any more was altered on disk; reading it must lead to a failed check, not a crash.
        connection.text_factory = lambda raw: raw.decode(errors="replace")
        try:
            for pragma in _PRAGMAS:
                connection.execute(f"PRAGMA {pragma}")
        except sqlite3.Error:
            # Not yet the pool's, so nobody else would close it.
            connection.close()
            raise

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = _writes(connection)
        driver: Any = connection.connection.driver_connection
        driver.execute(_WRITER_CACHE if writes else _READER_CACHE)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def glancing(engine: Engine) -> Engine:
    """For questions that follow a key and take one statement each, so that they need no transaction around them.

    SQLite does with the engine there is. In PostgreSQL beginning, ending and planning cost a read some 0.3 ms, so these
    have connections that do none of it.
    """
    if engine.dialect.name != POSTGRESQL:
        return engine
    return _postgresql_connections(engine.url, "force_generic_plan", isolation_level="AUTOCOMMIT")


def _postgresql_connections(url: str | URL, plans: str, **options: Any) -> Engine:  # noqa: ANN401 - as create_engine has them
    settings = ("synchronous_commit=on", "timezone=UTC", f"lock_timeout={DATABASE_BUSY_S}s", "jit=off")
    session = " ".join(f"-c {one}" for one in (*settings, f"plan_cache_mode={plans}"))
    connecting = {"connect_timeout": DATABASE_BUSY_S, "options": session}
    engine = create_engine(url, hide_parameters=True, connect_args=connecting, **options)
    _test_rested(engine)

    @event.listens_for(engine, "connect")
    def _prepare(driver: Any, _record: object) -> None:  # noqa: ANN401 - the driver's own
        driver.prepared_max = _PREPARED

    return engine


def _postgresql(url: str) -> Engine:
    from psycopg import IsolationLevel  # noqa: PLC0415 - whoever keeps charts in SQLite does without it

    # A prepared statement's generic plan does not know how many shelves a sight has, and walks whole indexes.
    engine = _postgresql_connections(url, "force_custom_plan")
    _copy_first(engine)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        driver: Any = connection.connection.driver_connection
        if driver.autocommit:
            return
        writes = _writes(connection)
        # These go along with the driver's BEGIN: asking for them, or setting them, would be a journey each.
        wanted = (None, None) if writes else (IsolationLevel.REPEATABLE_READ, True)
        if (driver.isolation_level, driver.read_only) != wanted:
            driver.isolation_level, driver.read_only = wanted
        if writes:
            # Each statement of a writer sees what was committed before it got the lock.
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITER_LOCK})")

    return engine


def _copy_first(engine: Engine) -> None:
    """Rows that were added have arrived before anything else is asked, and before the transaction ends."""

    def finish(connection: Connection, *_: object) -> None:
        copying = connection.info.get(_COPYING)
        if copying is not None:
            copying.finish()

    def commit(connection: Connection) -> None:
        finish(connection)
        connection.info.pop(_COPYING, None)

    def rollback(connection: Connection) -> None:
        copying = connection.info.pop(_COPYING, None)
        if copying is not None:
            # Whatever became of the rows, they are undone.
            with contextlib.suppress(CopyFailed):
                copying.abandon()

    event.listen(engine, "before_cursor_execute", finish)
    event.listen(engine, "commit", commit)
    event.listen(engine, "rollback", rollback)


def _test_rested(engine: Engine) -> None:
    """Before it is used again, ask a connection for a sign of life: if it rested, or if its server has sent something.

    A server that ends says so on every connection; asking each time would be a journey for every request.
    """

    @event.listens_for(engine, "checkin")
    def _note(_driver: object, record: ConnectionPoolEntry) -> None:
        record.info[_USED_S] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def _test(driver: Any, record: ConnectionPoolEntry, _given: object) -> None:  # noqa: ANN401 - the driver's own
        if _USED_S not in record.info:
            return
        waiting = select.poll()
        waiting.register(driver.fileno(), select.POLLIN)
        if time.monotonic() - record.info[_USED_S] < _RESTED_S and not waiting.poll(0):
            return
        try:
            engine.dialect.do_ping(driver)
        except engine.dialect.loaded_dbapi.Error:
            raise InvalidatePoolError from None


def _writes(connection: Connection) -> bool:
    return bool(connection.get_execution_options().get(WRITE_OPTION, False))


def add_rows(connection: Connection, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert many rows, given as values in the order of the table's columns, as fast as the driver can."""
    if not rows:
        return
    names = ", ".join(f'"{column.name}"' for column in table.columns)
    if connection.dialect.name != POSTGRESQL:
        places = marks(len(table.columns))
        connection.exec_driver_sql(f'INSERT INTO "{table.name}" ({names}) VALUES ({places})', list(rows))  # noqa: S608 - names of our own tables
        return
    copying = connection.info.get(_COPYING)
    if copying is None:
        driver: Any = connection.connection.driver_connection
        copying = connection.info[_COPYING] = Copying(driver)
    types = tuple(_wire_type(column.type, connection.dialect) for column in table.columns)
    # In binary, because as text every byte of a resource would travel as two.
    copying.add(f'COPY "{table.name}" ({names}) FROM STDIN (FORMAT BINARY)', packed(types, rows))


def rows_together(connection: Connection) -> int:
    """How many index rows are gathered before they are added.

    PostgreSQL puts them into its indexes while the next are made; SQLite does that best with many of a table at once.
    """
    return 4_000 if connection.dialect.name == POSTGRESQL else 50_000


def keep_going(connection: Connection) -> None:
    """Give rows that were added a push; whoever makes many of them does so now and then."""
    copying = connection.info.get(_COPYING)
    if copying is not None:
        copying.push()


@lru_cache(maxsize=64)
def _wire_type(kind: TypeEngine[Any], dialect: Dialect) -> str:
    """What PostgreSQL calls a column's type, without its length and language."""
    name = kind.compile(dialect).partition("(")[0].partition(" ")[0].lower()
    return "float8" if name == "float" else name


def run_many(connection: Connection, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Run one statement with ``?`` marks for many rows of values, as fast as the driver can."""
    if not rows:
        return
    if connection.dialect.name == POSTGRESQL:
        statement = statement.replace("?", "%s")
    connection.exec_driver_sql(statement, list(rows))


def select_rows(connection: Connection, statement: str, values: tuple[Any, ...]) -> Sequence[Sequence[Any]]:
    """The rows of a statement with ``?`` marks as the driver has them: for thousands of rows of a few columns.

    SQLite hands out whatever stands in a column: check what matters.
    """
    if connection.dialect.name == POSTGRESQL:
        statement = statement.replace("?", "%s")
    return connection.exec_driver_sql(statement, values).all()


def rows_changed(connection: Connection) -> int:
    """How many rows were changed through a SQLite connection since it was opened; 0 for PostgreSQL."""
    driver: Any = connection.connection.driver_connection
    return 0 if connection.dialect.name == POSTGRESQL else int(driver.total_changes)


def marks(number: int) -> str:
    """So many places for values in a list: ``?, ?``."""
    return ", ".join("?" * number)


def forget_deleted(engine: Engine, tables: Sequence[Table]) -> None:
    """Let go of what committed transactions deleted; how far that reaches is the database's.

    SQLite: the write-ahead log is written back and cut to nothing, so that no old page is left in it (the file itself
    was overwritten by ``secure_delete``). Waits for readers, as long as a database is waited for at all.

    PostgreSQL: dead rows are vacuumed out of ``tables`` and their indexes, so that no statement reaches them. Their
    bytes stay in free space of the data files, and in the write-ahead log, until PostgreSQL uses the space again.

    Raises :class:`ChartsUnavailable`.
    """
    if engine.dialect.name == POSTGRESQL:
        with environment(), engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for table in tables:
                connection.exec_driver_sql(f'VACUUM (INDEX_CLEANUP ON) "{table.name}"')
        return
    if not write_back(engine, "TRUNCATE"):
        raise ChartsUnavailable("the charts were being read all the time")


def write_back(engine: Engine, mode: Literal["PASSIVE", "TRUNCATE"]) -> bool:
    """Bring a SQLite file's write-ahead log back into the file; ``PASSIVE`` waits for nobody, ``TRUNCATE`` for readers.

    False when somebody kept a part of it. Raises :class:`ChartsUnavailable`.
    """
    try:
        with environment(), contextlib.closing(engine.raw_connection()) as raw:
            busy = raw.cursor().execute(f"PRAGMA wal_checkpoint({mode})").fetchone()[0]
    except sqlite3.Error as error:
        raise ChartsUnavailable(type(error).__name__) from None
    return not busy
