"""The tables of an organisation's charts, their format version, and the connection to them.

Every row about a resource or a record is written once: corrections are new versions. The API offers no update, and
no delete but the erasure that a patient ordered (:mod:`carechain.charts.erasing`); what is changed behind its back is
found by the hashes the ledger holds.
"""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from sqlalchemy import (
    Column,
    Connection,
    Dialect,
    Engine,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    create_engine,
    event,
    insert,
    inspect,
    select,
    update,
)
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from carechain.core.limits import DATABASE_BUSY_S

SCHEMA_VERSION: Final = 2
_PRAGMAS: Final = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON")
"""``secure_delete``: freed space is overwritten with zeroes. Its default depends on how SQLite was built."""

METADATA: Final = MetaData()


class Bytes(LargeBinary):
    """A byte column that survives being overwritten with another type behind our back.

    SQLite keeps whatever it is given; an altered value has to reach the hash check instead of breaking the
    driver's conversion.
    """

    cache_ok = True

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], bytes]:
        """Turn whatever stands in the column into bytes."""
        del dialect, coltype
        return _as_bytes


def _as_bytes(value: object) -> bytes:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    return b"" if value is None else str(value).encode(errors="replace")


store_info = Table(
    "store_info", METADATA, Column("id", Integer, primary_key=True), Column("version", Integer, nullable=False)
)

patients = Table(
    "patients",
    METADATA,
    Column("pseudonym", Bytes(32), primary_key=True),
    Column("patient_id", String(64), nullable=False, unique=True),
    Column("mrn", String),
    Column("name", String),
)

resources = Table(
    "resources",
    METADATA,
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("pseudonym", Bytes(32), ForeignKey("patients.pseudonym"), nullable=False),
    Column("resource_type", String(64), nullable=False),
    Column("resource_id", String(64), nullable=False),
    Column("version", Integer, nullable=False),
    Column("sha256", Bytes(32), nullable=False),
    Column("salt", Bytes(32), nullable=False),
    Column("commitment", Bytes(32), nullable=False),
    Column("facts", Bytes, nullable=False),
    Column("received_s", Integer, nullable=False),
    Column("body", Bytes, nullable=False),
    UniqueConstraint("pseudonym", "resource_type", "resource_id", "version"),
)

records = Table(
    "records",
    METADATA,
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("record_id", Bytes(32), nullable=False),
    Column("version", Integer, nullable=False),
    Column("pseudonym", Bytes(32), ForeignKey("patients.pseudonym"), nullable=False),
    Column("group_name", String(160), nullable=False),
    Column("category", Integer, nullable=False),
    Column("sensitivity", Integer, nullable=False),
    Column("labels", String, nullable=False),
    Column("effective_day", Integer, nullable=False),
    Column("root", Bytes(32), nullable=False),
    Column("resource_count", Integer, nullable=False),
    Column("received_s", Integer, nullable=False),
    UniqueConstraint("record_id", "version"),
    Index("records_by_patient", "pseudonym", "effective_day"),
)

record_resources = Table(
    "record_resources",
    METADATA,
    Column("record_seq", Integer, ForeignKey("records.seq"), primary_key=True, autoincrement=False),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("resource_seq", Integer, ForeignKey("resources.seq"), nullable=False),
)
record_resources_by_resource = Index("record_resources_by_resource", record_resources.c.resource_seq)

directory = Table(
    "directory",
    METADATA,
    Column("resource_type", String(64), primary_key=True),
    Column("resource_id", String(64), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("sha256", Bytes(32), nullable=False),
    Column("received_s", Integer, nullable=False),
    Column("body", Bytes, nullable=False),
)

erased_records = Table(
    "erased_records",
    METADATA,
    Column("record_id", Bytes(32), primary_key=True),
    Column("pseudonym", Bytes(32), nullable=False),
    Column("erased_s", Integer, nullable=False),
    Column("overwritten", Integer, nullable=False),
)
"""The tombstones: that a record was erased, and whether its bytes are gone from the file too."""


def _add_erasure(connection: Connection) -> None:
    erased_records.create(connection)
    # Whether a resource is held by another record too would otherwise be a walk over all of them.
    record_resources_by_resource.create(connection)


MIGRATIONS: Final[Mapping[int, Callable[[Connection], None]]] = {1: _add_erasure}
"""From the version a step starts at to the step."""


class ChartsUnavailable(Exception):  # noqa: N818 - the state of the environment, not of the caller or the program
    """The database cannot be used now: disk, lock, corruption. Names the driver's error class only."""


class StoreTooNew(Exception):  # noqa: N818 - names what is wrong with the file
    """The file was written by a newer release; run that release."""


@contextlib.contextmanager
def environment() -> Iterator[None]:
    """Turn a database failure into :class:`ChartsUnavailable`, whose text holds no statement and no values."""
    try:
        yield
    except DBAPIError as error:
        raise ChartsUnavailable(type(error.orig).__name__) from None
    except SQLAlchemyError as error:
        raise ChartsUnavailable(type(error).__name__) from None


def open_engine(path: Path) -> Engine:
    """An engine on one SQLite file: WAL, full sync (an acknowledged bundle survives a power cut)."""
    engine = create_engine(f"sqlite:///{path}", hide_parameters=True, connect_args={"timeout": DATABASE_BUSY_S})

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
        writes = connection.get_execution_options().get("carechain_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def prepare(
    engine: Engine,
    *,
    version: int = SCHEMA_VERSION,
    migrations: Mapping[int, Callable[[Connection], None]] = MIGRATIONS,
) -> None:
    """Create the tables of a new file, or bring an older one forward step by step, all or nothing.

    Raises :class:`StoreTooNew`, and ``LookupError`` when a step is missing.
    """
    with environment(), engine.execution_options(carechain_write=True).begin() as connection:
        if not inspect(connection).has_table(store_info.name):
            METADATA.create_all(connection)
            connection.execute(insert(store_info).values(id=1, version=version))
            return
        found = connection.execute(select(store_info.c.version)).scalar_one()
        if found > version:
            raise StoreTooNew(f"the file has format {found}, this release reads up to {version}")
        for start in range(found, version):
            migrations[start](connection)
        if found < version:
            connection.execute(update(store_info).values(version=version))


def cut_write_ahead_log(engine: Engine) -> None:
    """Write everything into the file itself and cut the write-ahead log to nothing, so that no old page is left in it.

    Waits for readers, as long as a database is waited for at all; raises :class:`ChartsUnavailable` after that.
    """
    connection = engine.raw_connection()
    try:
        busy = connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    except sqlite3.Error as error:
        raise ChartsUnavailable(type(error).__name__) from None
    finally:
        connection.close()
    if busy:
        raise ChartsUnavailable("the charts were being read all the time")
