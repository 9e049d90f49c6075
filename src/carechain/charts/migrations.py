"""Bringing charts to the format of this release: step by step, all or nothing."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from sqlalchemy import Column, Connection, Engine, Index, Table, func, insert, inspect, select, update
from sqlalchemy.schema import CreateColumn

from carechain.charts.dialect import POSTGRESQL, WRITE_OPTION, environment, run_many
from carechain.charts.index_schema import DIRECTORY_SHELF, INDEX_TABLES, index_state, live, shelves
from carechain.charts.indexing import DEFAULT_ZONE, begin_index
from carechain.charts.indexing import Index as ResourceIndex
from carechain.charts.rebuilding import rebuild
from carechain.charts.schema import (
    METADATA,
    SCHEMA_VERSION,
    StoreTooNew,
    directory,
    directory_by_seq,
    erased_records,
    patients,
    record_resources,
    record_resources_by_resource,
    records,
    resources,
    resources_by_type,
    store_info,
    waiting_records,
)
from carechain.charts.searching.keys import resource_term

Step = Callable[[Connection], None]
SECOND_US: Final = 1_000_000


def _add_column(connection: Connection, column: Column[Any]) -> None:
    known = {one["name"] for one in inspect(connection).get_columns(column.table.name)}
    if column.name not in known:
        spelled = CreateColumn(column).compile(dialect=connection.dialect)
        connection.exec_driver_sql(f"ALTER TABLE {column.table.name} ADD COLUMN {spelled}")


def _add_index(connection: Connection, index: Index, table: Table) -> None:
    if index.name not in {one["name"] for one in inspect(connection).get_indexes(table.name)}:
        index.create(connection)


def _add_erasure(connection: Connection) -> None:
    """From 1 to 2."""
    erased_records.create(connection, checkfirst=True)
    # Whether a resource is held by another record too would otherwise be a walk over all of them.
    _add_index(connection, record_resources_by_resource, record_resources)


def _add_search(connection: Connection) -> None:
    """From 2 to 3: times to the microsecond, one count for all versions, the search index."""
    for column in (
        resources.c.updated_us,
        resources.c.grade,
        directory.c.updated_us,
        directory.c.seq,
        patients.c.bound,
    ):
        _add_column(connection, column)
    for table in (resources, directory):
        connection.execute(update(table).values(updated_us=table.c.received_s * SECOND_US))
    _grade_versions(connection)
    _number_directory(connection)
    _add_index(connection, resources_by_type, resources)
    _add_index(connection, directory_by_seq, directory)
    METADATA.create_all(connection, tables=[index_state, shelves, live, *INDEX_TABLES, waiting_records])
    begin_index(connection, DEFAULT_ZONE)
    rebuild(connection, ResourceIndex(connection))


def _add_keys(connection: Connection) -> None:
    """From 3 to 4: resources have the number that stands for their type and id, and ``live`` is sought by it alone.

    PostgreSQL lets go of foreign keys. SQLite cannot, and there they cost little.
    """
    for table in (resources, directory):
        _add_column(connection, table.c.key)
        named = connection.execute(select(table.c.seq, table.c.resource_type, table.c.resource_id)).all()
        keys = [(resource_term(kind, identity), seq) for seq, kind, identity in named]
        run_many(connection, f"UPDATE {table.name} SET key = ? WHERE seq = ?", keys)  # noqa: S608 - our own names
    _add_column(connection, index_state.c.last_shelf)
    highest = select(func.coalesce(func.max(shelves.c.shelf), DIRECTORY_SHELF)).scalar_subquery()
    connection.execute(update(index_state).values(last_shelf=highest))
    names = ", ".join(column.name for column in live.columns)
    connection.exec_driver_sql(f"CREATE TABLE live_before AS SELECT {names} FROM live")  # noqa: S608 - our own names
    live.drop(connection)
    live.create(connection)
    connection.exec_driver_sql(f"INSERT INTO live ({names}) SELECT {names} FROM live_before")  # noqa: S608 - our own names
    connection.exec_driver_sql("DROP TABLE live_before")
    if connection.dialect.name == POSTGRESQL:
        for table in (resources, records, waiting_records, record_resources):
            for one in inspect(connection).get_foreign_keys(table.name):
                connection.exec_driver_sql(f'ALTER TABLE {table.name} DROP CONSTRAINT "{one["name"]}"')


def _grade_versions(connection: Connection) -> None:
    """Every version gets the highest grade of the records that hold or held it; one that none holds keeps the top."""
    holding = (
        select(func.max(records.c.sensitivity))
        .join(record_resources, record_resources.c.record_seq == records.c.seq)
        .where(record_resources.c.resource_seq == resources.c.seq)
    )
    connection.execute(update(resources).values(grade=func.coalesce(holding.scalar_subquery(), 5)))


def _number_directory(connection: Connection) -> None:
    """Shared resources were not counted; they come after everything that was."""
    seq = int(connection.execute(select(func.coalesce(func.max(resources.c.seq), 0))).scalar_one())
    key = (directory.c.resource_type, directory.c.resource_id, directory.c.version)
    for one in connection.execute(select(*key).order_by(directory.c.received_s, *key)).all():
        seq += 1
        same = (key[0] == one.resource_type, key[1] == one.resource_id, key[2] == one.version)
        connection.execute(update(directory).where(*same).values(seq=seq))


MIGRATIONS: Final[Mapping[int, Step]] = {1: _add_erasure, 2: _add_search, 3: _add_keys}
"""From the version a step starts at to the step."""


def prepare(engine: Engine, *, version: int = SCHEMA_VERSION, migrations: Mapping[int, Step] = MIGRATIONS) -> None:
    """Create the tables of a new database, or bring an older one forward step by step, all or nothing.

    Raises :class:`StoreTooNew`, and ``LookupError`` when a step is missing.
    """
    with environment(), engine.execution_options(**{WRITE_OPTION: True}).begin() as connection:
        if not inspect(connection).has_table(store_info.name):
            METADATA.create_all(connection)
            connection.execute(insert(store_info).values(id=1, version=version))
            begin_index(connection, DEFAULT_ZONE)
            return
        found = connection.execute(select(store_info.c.version)).scalar_one()
        if found > version:
            raise StoreTooNew(f"the file has format {found}, this release reads up to {version}")
        for start in range(found, version):
            migrations[start](connection)
        if found < version:
            connection.execute(update(store_info).values(version=version))


def choose_zone(engine: Engine, zone: str) -> None:
    """Build the index again if it was built for another time zone (an IANA name)."""
    with environment(), engine.connect() as connection, connection.begin():
        if connection.execute(select(index_state.c.zone)).scalar_one() == zone:
            return
    with environment(), engine.execution_options(**{WRITE_OPTION: True}).begin() as connection:
        connection.execute(update(index_state).values(zone=zone))
        rebuild(connection, ResourceIndex(connection))
