"""A FHIR search among resources that are in nobody's charts: those another member gave for a ticket (API-1).

They are indexed in memory, in the same tables and by the same code as the charts, so a search finds among them exactly
what it would find if they were stored. Nothing is kept.
"""

from collections.abc import Sequence
from datetime import tzinfo
from typing import Any
from zoneinfo import ZoneInfo

import orjson
from sqlalchemy import Connection, create_engine, insert
from sqlalchemy.pool import StaticPool

from carechain.charts.index_schema import INDEX_TABLES, live, shelves
from carechain.charts.indexing import NO_DAY, extraction
from carechain.charts.live import ALL
from carechain.charts.schema import METADATA
from carechain.charts.searching.keys import resource_term
from carechain.charts.searching.query import parse
from carechain.charts.searching.result import Page, search

_SHELF = 1


def found_among(
    resources: Sequence[bytes], resource_type: str, params: Sequence[tuple[str, str]], *, zone: ZoneInfo
) -> set[int]:
    """The positions of the resources that a search finds; resources without an id are found by none.

    Raises ``Rejected`` with a ``SearchCode`` for parameters that do not hold; unknown ones are refused.
    """
    query = parse(resource_type, params, zone=zone, strict=True)
    engine = create_engine("sqlite://", poolclass=StaticPool)
    try:
        with engine.begin() as connection:
            METADATA.create_all(connection, tables=[shelves, live, *INDEX_TABLES])
            _index(connection, resources, zone)
            found = search(connection, ALL, query, Page(count=len(resources)))
    finally:
        engine.dispose()
    return set(found.matches)


def _index(connection: Connection, resources: Sequence[bytes], zone: tzinfo) -> None:
    extract = extraction(str(zone))
    placed: list[dict[str, Any]] = []
    rows: list[list[tuple[Any, ...]]] = [[] for _ in INDEX_TABLES]
    for rid, content in enumerate(resources):
        tree = orjson.loads(content)
        kind, identity = tree["resourceType"], tree.get("id")
        if not isinstance(identity, str):
            continue
        placed.append(
            {
                "rid": rid,
                "resource_type": kind,
                "resource_id": identity,
                "key": resource_term(kind, identity),
                "shelf": _SHELF,
                "day": NO_DAY,
                "version": 1,
                "updated_us": 0,
                "resource_seq": rid,
            }
        )
        said = extract(tree, kind)
        tables: Sequence[Sequence[tuple[Any, ...]]] = (
            said.tokens,
            said.references,
            said.strings,
            said.dates,
            said.numbers,
        )
        for own, values in zip(rows, tables, strict=True):
            own += [(rid, *value, _SHELF, NO_DAY) for value in values]
    if placed:
        connection.execute(insert(live), placed)
    for table, values in zip(INDEX_TABLES, rows, strict=True):
        if values:
            marks = ", ".join("?" * len(table.columns))
            connection.exec_driver_sql(f"INSERT INTO {table.name} VALUES ({marks})", values)  # noqa: S608 - ours
