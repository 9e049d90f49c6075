"""The tables that searches run on: the newest version of every resource, and what its search parameters say.

Everything here is derived from the stored resources and can be built again. ``shelf`` stands for one patient, category
and grade together: what a caller may see is a set of shelves (and days), and since it stands in every index row beside
the value, a row that may not be seen is never read (API-1).

``param`` is :func:`carechain.charts.searching.keys.param_key`, ``value``, ``target`` and ``unit`` are
:func:`carechain.charts.searching.keys.term`; times are microseconds since 1970 UTC; ``day`` is the record's clinical
day since 1900-01-01. ``rid`` is a resource's own number for as long as it lives and grows with every new resource;
``resource_seq`` is the number of its newest version, in ``resources`` or, for shared resources, in ``directory``: one
counter numbers both.
"""

from typing import Any, Final

from sqlalchemy import Column, Float, Index, Integer, LargeBinary, SmallInteger, Table, UniqueConstraint

from carechain.charts.schema import METADATA, Bytes, Long, text

DIRECTORY_SHELF: Final = 0
"""Shared resources: no patient, no grade."""

shelves = Table(
    "shelves",
    METADATA,
    Column("shelf", Integer, primary_key=True, autoincrement=False),
    Column("pseudonym", Bytes(32), nullable=False),
    Column("category", SmallInteger, nullable=False),
    Column("grade", SmallInteger, nullable=False),
    UniqueConstraint("pseudonym", "category", "grade"),
)

index_state = Table(
    "index_state",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("last_seq", Long, nullable=False),
    Column("last_rid", Long, nullable=False),
    Column("last_shelf", Integer, nullable=False, server_default="0"),
    Column("zone", text(64), nullable=False),
)
"""The one row of the counters (nothing is numbered twice, not even after an erasure), and the index's time zone.
``last_shelf`` counts on from ``DIRECTORY_SHELF``."""

live = Table(
    "live",
    METADATA,
    Column("rid", Long, primary_key=True, autoincrement=False),
    Column("resource_type", text(64), nullable=False),
    Column("resource_id", text(64), nullable=False),
    Column("key", Long, nullable=False),
    Column("shelf", Integer, nullable=False),
    Column("day", Integer, nullable=False),
    Column("record_id", LargeBinary(32)),
    Column("version", Integer, nullable=False),
    Column("updated_us", Long, nullable=False),
    Column("resource_seq", Long, nullable=False),
    Index("live_by_type", "resource_type", "shelf", "day", "rid"),
    Index("live_by_time", "resource_type", "updated_us", "rid"),
    Index("live_by_key", "key", "shelf"),
    Index("live_by_seq", "resource_seq"),
    Index("live_by_shelf", "shelf", "rid"),
)
"""No type and id stands here twice: the one writer sees to it. They are sought by ``key``, which is what references
have too (:func:`carechain.charts.searching.keys.resource_term`). Ids and keys have no order, so each index on them
costs a page for every resource that is written; there is this one only. What a record holds is asked of the records."""


def _index_table(name: str, *values: Column[Any]) -> Table:
    """Clustered by resource, so that writing appends; searched through the covering index on the value."""
    value_names = [column.name for column in values]
    return Table(
        name,
        METADATA,
        Column("rid", Long, primary_key=True, autoincrement=False),
        Column("param", Integer, primary_key=True, autoincrement=False),
        *values,
        Column("shelf", Integer, nullable=False),
        Column("day", Integer, nullable=False),
        Index(f"{name}_by_value", "param", *value_names, "shelf", "day", "rid"),
        sqlite_with_rowid=False,
    )


token_index = _index_table("token_index", Column("value", Long, primary_key=True, autoincrement=False))
reference_index = _index_table("reference_index", Column("target", Long, primary_key=True, autoincrement=False))
string_index = _index_table(
    "string_index", Column("folded", text(), primary_key=True), Column("exact", text(), primary_key=True)
)
date_index = _index_table(
    "date_index",
    Column("low_us", Long, primary_key=True, autoincrement=False),
    Column("high_us", Long, primary_key=True, autoincrement=False),
)
date_index_by_end = Index(
    "date_index_by_end", *(date_index.c[name] for name in ("param", "high_us", "low_us", "shelf", "day", "rid"))
)
"""``ge`` and ``gt`` ask for what ends after a moment; whatever began before it would otherwise be walked."""

number_index = _index_table(
    "number_index",
    Column("unit", Long, primary_key=True, autoincrement=False),
    Column("low", Float(53), primary_key=True),
    Column("high", Float(53), primary_key=True),
)
INDEX_TABLES: Final = (token_index, reference_index, string_index, date_index, number_index)
