"""The tables of an organisation's charts, their format version, and the connection to them.

Every row about a resource or a record is written once: corrections are new versions. The API offers no update (but of
what is derived, and of the pseudonym when a patient is bound), and no delete but the erasure that a patient ordered
(:mod:`carechain.charts.erasing`); what is changed behind its back is found by the hashes the ledger holds.
"""

from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Column,
    Dialect,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    UniqueConstraint,
)
from sqlalchemy.types import TypeEngine

from carechain.charts.dialect import ChartsUnavailable, environment, open_engine

__all__ = (
    "METADATA",
    "SCHEMA_VERSION",
    "Bytes",
    "ChartsUnavailable",
    "Long",
    "StoreTooNew",
    "directory",
    "environment",
    "erased_records",
    "open_engine",
    "patients",
    "record_resources",
    "records",
    "resources",
    "store_info",
    "text",
    "waiting_records",
)

SCHEMA_VERSION: Final = 4
METADATA: Final = MetaData()

Long: Final = BigInteger().with_variant(Integer, "sqlite")
"""64 bits on every database. SQLite's integers all have them, and there a primary key of that name is the row's own."""


def text(size: int | None = None) -> TypeEngine[str]:
    """Text that is compared by code point on every database, whatever language it was set up for."""
    return String(size).with_variant(String(size, collation="C"), "postgresql")


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
    Column("patient_id", text(64), nullable=False, unique=True),
    Column("mrn", String),
    Column("name", String),
    Column("bound", Integer, nullable=False, server_default="1"),
)
"""``bound``: whether the pseudonym is the one the registrar put on the ledger, and not a provisional one."""

resources = Table(
    "resources",
    METADATA,
    Column("seq", Long, primary_key=True, autoincrement=False),
    Column("pseudonym", Bytes(32), nullable=False),
    Column("resource_type", text(64), nullable=False),
    Column("resource_id", text(64), nullable=False),
    Column("version", Integer, nullable=False),
    Column("sha256", Bytes(32), nullable=False),
    Column("salt", Bytes(32), nullable=False),
    Column("commitment", Bytes(32), nullable=False),
    Column("facts", Bytes, nullable=False),
    Column("received_s", Long, nullable=False),
    Column("updated_us", Long, nullable=False, server_default="0"),
    Column("grade", SmallInteger, nullable=False, server_default="5"),
    Column("key", Long, nullable=False, server_default="0"),
    Column("body", Bytes, nullable=False),
    UniqueConstraint("pseudonym", "resource_type", "resource_id", "version"),
)
"""``grade`` is derived: the highest of any record that this very version stands or stood in. ``key`` is the number that
stands for type and id in the index (see :mod:`carechain.charts.index_schema`)."""
resources_by_type = Index("resources_by_type", resources.c.resource_type, resources.c.seq)

records = Table(
    "records",
    METADATA,
    Column("seq", Long, primary_key=True, autoincrement=False),
    Column("record_id", Bytes(32), nullable=False),
    Column("version", Integer, nullable=False),
    Column("pseudonym", Bytes(32), nullable=False),
    Column("group_name", text(160), nullable=False),
    Column("category", Integer, nullable=False),
    Column("sensitivity", Integer, nullable=False),
    Column("labels", String, nullable=False),
    Column("effective_day", Integer, nullable=False),
    Column("root", Bytes(32), nullable=False),
    Column("resource_count", Integer, nullable=False),
    Column("received_s", Long, nullable=False),
    UniqueConstraint("record_id", "version"),
    Index("records_by_patient", "pseudonym", "effective_day"),
)

record_resources = Table(
    "record_resources",
    METADATA,
    Column("record_seq", Long, primary_key=True, autoincrement=False),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("resource_seq", Long, nullable=False),
)
"""Here and in the tables above there are no foreign keys: a row is written in one transaction with what it names, by
the one writer, and checking it cost PostgreSQL as much as writing the resource itself. A record that lost a member no
longer leads to its root, and every reader checks that."""
record_resources_by_resource = Index("record_resources_by_resource", record_resources.c.resource_seq)

directory = Table(
    "directory",
    METADATA,
    Column("resource_type", text(64), primary_key=True),
    Column("resource_id", text(64), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("sha256", Bytes(32), nullable=False),
    Column("received_s", Long, nullable=False),
    Column("updated_us", Long, nullable=False, server_default="0"),
    Column("seq", Long, nullable=False, server_default="0"),
    Column("key", Long, nullable=False, server_default="0"),
    Column("body", Bytes, nullable=False),
)
"""``seq`` is of the same counter as that of ``resources``, and ``key`` the same as there."""
directory_by_seq = Index("directory_by_seq", directory.c.seq, unique=True)

erased_records = Table(
    "erased_records",
    METADATA,
    Column("record_id", Bytes(32), primary_key=True),
    Column("pseudonym", Bytes(32), nullable=False),
    Column("erased_s", Long, nullable=False),
    Column("overwritten", Integer, nullable=False),
)
"""The tombstones: that a record was erased, and whether its bytes were dealt with too, as far as they can be."""

waiting_records = Table(
    "waiting_records",
    METADATA,
    Column("record_seq", Long, primary_key=True, autoincrement=False),
)
"""Record versions that the FHIR server wrote and that are not known to be on the ledger."""


class StoreTooNew(Exception):  # noqa: N818 - names what is wrong with the file
    """The file was written by a newer release; run that release."""
