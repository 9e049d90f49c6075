"""Versions of resources as rows: what is selected for one, and what it means."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from msgspec import Struct
from sqlalchemy import ColumnElement, Connection, Row, Select, and_, bindparam, func, or_, select

from carechain.charts.index_schema import DIRECTORY_SHELF, live, shelves
from carechain.charts.live import Visible
from carechain.charts.reading import batches
from carechain.charts.schema import directory, record_resources, records, resources
from carechain.charts.searching.keys import resource_term


class Stored(Struct, frozen=True, kw_only=True):
    """One version of one resource, as it was stored.

    ``body`` is what was committed to, without what the server adds: see :func:`carechain.charts.serving.served`.
    ``record`` is the id and version of the newest record version that holds it, None for shared resources. ``rid`` is
    the resource's number in the index, ``seq`` the version's place in the history of everything. ``updated_us`` is in
    Unix microseconds.
    """

    resource_type: str
    resource_id: str
    version: int
    updated_us: int
    body: bytes
    record: tuple[bytes, int] | None
    rid: int
    seq: int

    def __repr__(self) -> str:
        return f"Stored(rid={self.rid}, version={self.version})"


def stored_of(row: Row[Any]) -> Stored:
    """A selected row as a version."""
    return Stored(
        resource_type=row.resource_type,
        resource_id=row.resource_id,
        version=row.version,
        updated_us=row.updated_us,
        body=row.body,
        record=(row.record_id, row.record_version) if row.record_id else None,
        rid=row.rid,
        seq=row.seq,
    )


def newest(visible: Visible) -> Select[Any]:
    """The newest versions that are seen."""
    return _as_seen(_all_newest(), visible)


def newest_named(visible: Visible) -> Select[Any]:
    """The newest version, if it is seen, of what the parameters of :func:`naming` name."""
    return _as_seen(_named_newest(), visible)


def _as_seen(query: Select[Any], visible: Visible) -> Select[Any]:
    seen = visible.of(live.c.shelf, live.c.day, live.c.record_id)
    return query if seen is None else query.where(seen)


def naming(resource_type: str, resource_id: str) -> dict[str, str | int]:
    """A resource's columns in ``live`` by which it is found, and their values."""
    return {
        "key": resource_term(resource_type, resource_id),
        "resource_type": resource_type,
        "resource_id": resource_id,
    }


@cache
def _named_newest() -> Select[Any]:
    return _all_newest().where(*(live.c[name] == bindparam(name) for name in naming("", "")))


@cache
def _all_newest() -> Select[Any]:
    """Put together once: every read and every page of a search begins with it.

    What stands beside a row is asked for it by itself and not joined: for a few rows a join takes PostgreSQL longer to
    plan than to run.
    """
    version = select(records.c.version).where(records.c.record_id == live.c.record_id)
    bodies = (
        select(table.c.body).where(table.c.seq == live.c.resource_seq).scalar_subquery()
        for table in (resources, directory)
    )
    return select(
        live.c.rid,
        live.c.resource_type,
        live.c.resource_id,
        live.c.version,
        live.c.updated_us,
        live.c.resource_seq.label("seq"),
        live.c.record_id,
        version.order_by(records.c.version.desc()).limit(1).scalar_subquery().label("record_version"),
        func.coalesce(*bodies, type_=resources.c.body.type).label("body"),
    )


def clinical_versions(visible: Visible) -> Select[Any]:
    """All versions of patients' resources that are seen: where the newest is, unless their own grade forbids it."""
    holding = (
        select(func.max(record_resources.c.record_seq))
        .where(record_resources.c.resource_seq == resources.c.seq)
        .scalar_subquery()
    )
    held = records.alias("held")
    query = (
        select(
            live.c.rid,
            resources.c.resource_type,
            resources.c.resource_id,
            resources.c.version,
            resources.c.updated_us,
            resources.c.seq,
            held.c.record_id,
            held.c.version.label("record_version"),
            resources.c.body,
        )
        .select_from(resources)
        .join(live, _same_name(resources))
        .join(shelves, and_(shelves.c.shelf == live.c.shelf, shelves.c.pseudonym == resources.c.pseudonym))
        .outerjoin(held, held.c.seq == holding)
    )
    if visible.everything:
        return query
    place = (live.c.shelf, live.c.day, live.c.record_id)
    now, ever = visible.of(*place), visible.of_version(*place, resources.c.grade)
    # The newest version is in the record whose grade was judged; what else may hold it does not matter.
    seen = or_(and_(resources.c.seq == live.c.resource_seq, *_given(now)), *_given(ever))
    return query.where(resources.c.pseudonym.in_(visible.patients), seen)


def _given(condition: ColumnElement[bool] | None) -> list[ColumnElement[bool]]:
    return [] if condition is None else [condition]


def _same_name(table: Any) -> ColumnElement[bool]:  # noqa: ANN401 - either of two tables
    return and_(*(live.c[name] == table.c[name] for name in naming("", "")))


def shared_versions(visible: Visible) -> Select[Any]:
    """All versions of shared resources, where these are seen."""
    query = (
        select(
            live.c.rid,
            directory.c.resource_type,
            directory.c.resource_id,
            directory.c.version,
            directory.c.updated_us,
            directory.c.seq,
            live.c.record_id,
            live.c.version.label("record_version"),
            directory.c.body,
        )
        .select_from(directory)
        .join(live, _same_name(directory))
        .where(live.c.shelf == DIRECTORY_SHELF)
    )
    seen = visible.of(live.c.shelf, live.c.day, live.c.record_id)
    return query if seen is None else query.where(seen)


def newest_records(connection: Connection, record_ids: Sequence[bytes]) -> dict[bytes, int]:
    """The newest version of each of these records."""
    found: dict[bytes, int] = {}
    columns = (records.c.record_id, func.max(records.c.version))
    for batch in batches(sorted(set(record_ids))):
        query = select(*columns).where(records.c.record_id.in_(batch)).group_by(records.c.record_id)
        found.update((record_id, version) for record_id, version in connection.execute(query))
    return found
