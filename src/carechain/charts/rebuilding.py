"""The index made again from the stored resources: after an erasure, for another time zone, for older files."""

from collections.abc import Iterable

from sqlalchemy import Connection, delete, select

from carechain.charts.charting import placement
from carechain.charts.index_schema import INDEX_TABLES, live, shelves
from carechain.charts.indexing import NO_DAY, Index, Placement
from carechain.charts.reading import batches, load_chart, load_held
from carechain.charts.schema import directory, patients
from carechain.charts.split import split


def placements_of(connection: Connection, pseudonym: bytes) -> list[Placement]:
    """Where every resource of a chart lies: in the record that splitting names, else in one that holds it.

    A resource that no record holds any more lies nowhere.
    """
    chart = load_chart(connection, pseudonym)
    held = load_held(connection, [pseudonym]).get(pseudonym, {})
    holding = {seq: record for record in held.values() for seq in record.members}
    placed: list[Placement] = []
    for group in split([known.facts for known in chart.values()]):
        own = held.get(group.name)
        inside = set(own.members) if own is not None else set()
        for key in group.members:
            known = chart[key]
            record = own if known.seq in inside else holding.get(known.seq)
            if record is not None:
                placed.append(placement(known, record, None))
    return placed


def refresh_chart(connection: Connection, index: Index, pseudonym: bytes) -> None:
    """Make the index say again what the chart has, after something was taken out of it."""
    placed = placements_of(connection, pseudonym)
    staying = {(one.resource_type, one.resource_id) for one in placed}
    mine = select(live.c.rid, live.c.resource_type, live.c.resource_id).join(shelves, shelves.c.shelf == live.c.shelf)
    rows = connection.execute(mine.where(shelves.c.pseudonym == pseudonym)).all()
    index.drop([row.rid for row in rows if (row.resource_type, row.resource_id) not in staying])
    index.place({pseudonym: placed})
    index.flush()


def rebuild(connection: Connection, index: Index) -> None:
    """The whole index from nothing; holds one chart at a time."""
    for table in (*INDEX_TABLES, live):
        connection.execute(delete(table))
    shared = list(_shared(connection))
    index.know(one.name for one in shared)
    for pseudonym in list(connection.execute(select(patients.c.pseudonym).order_by(patients.c.pseudonym)).scalars()):
        index.place({pseudonym: placements_of(connection, pseudonym)})
    for batch in batches(shared):
        index.put_shared(batch)
    index.flush()


def _shared(connection: Connection) -> Iterable[Placement]:
    newest: dict[tuple[str, str], Placement] = {}
    columns = (
        directory.c.resource_type,
        directory.c.resource_id,
        directory.c.version,
        directory.c.seq,
        directory.c.updated_us,
    )
    for row in connection.execute(select(*columns).order_by(directory.c.version)):
        newest[row.resource_type, row.resource_id] = Placement(
            resource_type=row.resource_type,
            resource_id=row.resource_id,
            version=row.version,
            seq=row.seq,
            updated_us=row.updated_us,
            record_id=None,
            category=0,
            grade=0,
            day=NO_DAY,
            body=None,
        )
    return newest.values()
