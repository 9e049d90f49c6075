"""Keeping the index true to the resources, inside the transaction that writes them (API-1).

An :class:`Index` gathers what one transaction changes and writes it in few statements. The numbers of shelves,
resources and versions are given out here: there is one writer, so they are counted and not asked for.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final
from zoneinfo import ZoneInfo

import orjson
from msgspec import Struct
from sqlalchemy import Connection, Table, bindparam, delete, func, insert, select, update

from carechain.charts.assistant import NOBODY
from carechain.charts.bundle import Json
from carechain.charts.dialect import add_rows, keep_going, rows_together, run_many
from carechain.charts.index_schema import DIRECTORY_SHELF, INDEX_TABLES, index_state, live, shelves
from carechain.charts.reading import batches
from carechain.charts.resource_types import R4_TYPES
from carechain.charts.schema import directory, resources
from carechain.charts.searching.keys import resource_term
from carechain.charts.searching.rows import IndexRows

DEFAULT_ZONE: Final = "UTC"
_URN_UUID: Final = b'"urn:uuid:'
NO_DAY: Final = 0
"""Shared resources have no clinical day."""
NAMES_KNOWN: Final = 50_000
"""So many resources are remembered, so that a large load does not fill the memory."""


Extract = Callable[[Json, str], IndexRows]


@lru_cache(maxsize=4)
def extraction(zone: str) -> Extract:
    """The extraction for dates of a time zone; ``ZoneInfoNotFoundError`` for a zone that the system does not know."""
    # The definitions take time and memory that a program which only reads records should not spend.
    from carechain.charts.searching.extract import Extractor  # noqa: PLC0415

    return Extractor(ZoneInfo(zone)).rows


class Placement(Struct, frozen=True, kw_only=True):
    """Where the newest version of a resource lies: its record, and the record's category, grade and clinical day.

    ``body`` is None where only the place may have changed.
    """

    resource_type: str
    resource_id: str
    version: int
    seq: int
    updated_us: int
    record_id: bytes | None
    category: int
    grade: int
    day: int
    body: bytes | None

    @property
    def name(self) -> tuple[str, str]:
        """Type and id."""
        return self.resource_type, self.resource_id


class Lying(Struct, frozen=True):
    """A row of ``live``, and whose shelf it stands on (empty: a shared resource)."""

    rid: int
    resource_type: str
    resource_id: str
    shelf: int
    day: int
    record_id: bytes | None
    version: int
    seq: int
    updated_us: int
    pseudonym: bytes

    @property
    def name(self) -> tuple[str, str]:
        """Type and id."""
        return self.resource_type, self.resource_id


def lying(connection: Connection, names: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Lying]:
    """The live rows of resources by type and id."""
    wanted = {resource_term(kind, identity): (kind, identity) for kind, identity in names}
    columns = (
        live.c.rid,
        live.c.resource_type,
        live.c.resource_id,
        live.c.shelf,
        live.c.day,
        live.c.record_id,
        live.c.version,
        live.c.resource_seq.label("seq"),
        live.c.updated_us,
        shelves.c.pseudonym,
    )
    base = select(*columns).select_from(live).outerjoin(shelves, shelves.c.shelf == live.c.shelf)
    found: dict[tuple[str, str], Lying] = {}
    for batch in batches(list(wanted)):
        for row in connection.execute(base.where(live.c.key.in_(batch))):
            # By place and not by name: this runs for every resource that is written.
            columns_of: tuple[Any, ...] = tuple(row)
            one = Lying(*columns_of)
            found[one.name] = one
    return found


class Index:
    """What one transaction changes in the index; all of it is written when :meth:`flush` returns."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._known: dict[tuple[str, str], Lying | None] = {}
        state = connection.execute(select(index_state)).one()
        self.zone = str(state.zone)
        # What is known already of the resources that come now; whoever knows something sets it.
        self.described = NOBODY
        self._rows_together = rows_together(connection)
        self._last_seq, self._last_rid = int(state.last_seq), int(state.last_rid)
        self._last_shelf = int(state.last_shelf)
        self._shelves: dict[bytes, dict[tuple[int, int], int]] = {}
        self._new_shelves: list[tuple[Any, ...]] = []
        self._live: list[tuple[Any, ...]] = []
        self._moved: list[tuple[Any, ...]] = []
        self._renewed: list[tuple[Any, ...]] = []
        self._added: set[tuple[str, str]] = set()
        self._shared: dict[str, str] = {}
        self._placing: dict[str, str] = {}
        self._gone: list[int] = []
        self._outdated: list[int] = []
        self._rows: tuple[list[tuple[Any, ...]], ...] = tuple([] for _ in INDEX_TABLES)

    def next_seq(self) -> int:
        """A number for a new version of a resource, never given before."""
        self._last_seq += 1
        return self._last_seq

    def know(self, names: Iterable[tuple[str, str]]) -> None:
        """Types and ids of shared resources that come with the charts, before they are put: see :meth:`_named`."""
        self._shared.update((identity, kind) for kind, identity in names)

    def lying(self, names: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Lying]:
        """The live rows of resources as this transaction has left them so far; asked of the database once."""
        wanted = list(names)
        unknown = [name for name in wanted if name not in self._known]
        if unknown:
            self._known |= dict.fromkeys(unknown) | lying(self._connection, unknown)
        return {name: row for name in wanted if (row := self._known[name]) is not None}

    def place(self, charts: Mapping[bytes, Sequence[Placement]]) -> None:
        """Newest versions in patients' charts, by pseudonym, each resource once.

        A resource whose type and id are those of a resource in another chart stays out of the index: the first one
        keeps the name. (Only bundles sent for a patient can bring that about, see :meth:`Charts.ingest`.)
        """
        every = [one for placements in charts.values() for one in placements]
        before = self.lying(one.name for one in every)
        bodies = self._bodies(resources, every, before)
        self.know_shelves(charts)
        for pseudonym, placements in charts.items():
            self._placing = {one.resource_id: one.resource_type for one in placements}
            for one in placements:
                old = before.get(one.name)
                if one.name in self._added or (old is not None and old.pseudonym != pseudonym):
                    continue
                shelf = self._shelf(pseudonym, one.category, one.grade)
                if old is None:
                    self._add(one, shelf, pseudonym, bodies)
                else:
                    self._change(one, shelf, old)
            keep_going(self._connection)
        self._store_shelves()
        self._spill()

    def put_shared(self, placements: Sequence[Placement]) -> None:
        """Newest versions of shared resources, each once."""
        before = self.lying(one.name for one in placements)
        bodies = self._bodies(directory, placements, before)
        self.know(one.name for one in placements)
        for one in placements:
            old = before.get(one.name)
            if old is None:
                self._add(one, DIRECTORY_SHELF, b"", bodies)
            elif not old.pseudonym:
                self._change(one, DIRECTORY_SHELF, old)
        self._spill()

    def drop(self, rids: Iterable[int]) -> None:
        """Resources that are no longer there."""
        self._gone += rids

    def flush(self) -> None:
        """Write what was gathered, and the counters."""
        self._write()
        self._forget()
        counted = {"last_seq": self._last_seq, "last_rid": self._last_rid, "last_shelf": self._last_shelf}
        self._connection.execute(update(index_state).values(counted))

    def _write(self) -> None:
        connection = self._connection
        for batch in batches(self._gone + self._outdated):
            for table in INDEX_TABLES:
                connection.execute(delete(table).where(table.c.rid.in_(batch)))
        for batch in batches(self._gone):
            connection.execute(delete(live).where(live.c.rid.in_(batch)))
        if self._renewed:
            columns = ("shelf", "day", "record_id", "version", "updated_us", "resource_seq")
            renewal = (
                update(live).where(live.c.rid == bindparam("of")).values({n: bindparam(f"to_{n}") for n in columns})
            )
            names = [f"to_{name}" for name in columns] + ["of"]
            connection.execute(renewal, [dict(zip(names, values, strict=True)) for values in self._renewed])
        for table in INDEX_TABLES:
            run_many(connection, f"UPDATE {table.name} SET shelf = ?, day = ? WHERE rid = ?", self._moved)  # noqa: S608 - names of our own tables
        add_rows(connection, live, self._live)
        for table, rows in zip(INDEX_TABLES, self._rows, strict=True):
            add_rows(connection, table, rows)
            rows.clear()
        for done in (self._gone, self._outdated, self._renewed, self._moved, self._live):
            done.clear()

    def _forget(self) -> None:
        self._added.clear()
        self._known.clear()

    def _spill(self) -> None:
        if sum(map(len, self._rows)) > self._rows_together:
            self._write()
            if len(self._known) > NAMES_KNOWN:
                self._forget()

    def _add(self, one: Placement, shelf: int, pseudonym: bytes, bodies: Mapping[int, bytes]) -> None:
        self._last_rid += 1
        self._note(one, self._last_rid, shelf, pseudonym)
        self._added.add(one.name)
        key = resource_term(*one.name)
        self._live.append(
            (
                self._last_rid,
                one.resource_type,
                one.resource_id,
                key,
                shelf,
                one.day,
                one.record_id,
                one.version,
                one.updated_us,
                one.seq,
            )
        )
        told = None if one.body is None else self.described.rows(one.name)
        found = told or self._rows_in(one.resource_type, one.body or bodies[one.seq])
        self._describe(self._last_rid, shelf, one.day, found)

    def _change(self, one: Placement, shelf: int, old: Lying) -> None:
        if (shelf, one.day, one.record_id, one.seq) == (old.shelf, old.day, old.record_id, old.seq):
            return
        self._note(one, old.rid, shelf, old.pseudonym)
        self._renewed.append((shelf, one.day, one.record_id, one.version, one.updated_us, one.seq, old.rid))
        if one.seq != old.seq and one.body is not None:
            self._outdated.append(old.rid)
            found = self.described.rows(one.name) or self._rows_in(one.resource_type, one.body)
            self._describe(old.rid, shelf, one.day, found)
        elif (shelf, one.day) != (old.shelf, old.day):
            self._moved.append((shelf, one.day, old.rid))

    def _note(self, one: Placement, rid: int, shelf: int, pseudonym: bytes) -> None:
        """What the live row will be."""
        kind, identity = one.name
        self._known[one.name] = Lying(
            rid, kind, identity, shelf, one.day, one.record_id, one.version, one.seq, one.updated_us, pseudonym
        )

    def _describe(self, rid: int, shelf: int, day: int, found: IndexRows) -> None:
        """The index rows of one resource."""
        tokens, references, strings, dates, numbers = self._rows
        tokens += [(rid, param, value, shelf, day) for param, value in found.tokens]
        references += [(rid, param, target, shelf, day) for param, target in found.references]
        strings += [(rid, param, folded, exact, shelf, day) for param, folded, exact in found.strings]
        dates += [(rid, param, low, high, shelf, day) for param, low, high in found.dates]
        numbers += [(rid, param, unit, low, high, shelf, day) for param, unit, low, high in found.numbers]

    def _rows_in(self, resource_type: str, body: bytes) -> IndexRows:
        """What a resource says to searches."""
        tree = orjson.loads(body)
        if _URN_UUID in body:
            self._name(tree)
        return extraction(self.zone)(tree, resource_type)

    def _name(self, tree: Json) -> None:
        """Replace references by urn:uuid, which a bundle's bytes keep, by the type and id they stand for."""
        stack: list[Any] = [tree]
        while stack:
            node = stack.pop()
            if isinstance(node, list):
                stack += node
            elif isinstance(node, dict):
                target = node.get("reference")
                if isinstance(target, str) and target.startswith("urn:uuid:"):
                    node["reference"] = self._named(target)
                stack += node.values()

    def _named(self, urn: str) -> str:
        """What a urn:uuid stands for: a resource with that id that comes now or is there; itself where none is."""
        identity = urn.removeprefix("urn:uuid:")
        kind = self._placing.get(identity) or self._shared.get(identity)
        if kind is None:
            keys = [resource_term(one, identity) for one in sorted(R4_TYPES)]
            kind = self._connection.execute(select(live.c.resource_type).where(live.c.key.in_(keys)).limit(1)).scalar()
            if kind is not None:
                # Many resources of one bundle name the same few: their patient, their doctor.
                self._shared[identity] = kind
        return urn if kind is None else f"{kind}/{identity}"

    def _bodies(
        self, table: Table, placements: Sequence[Placement], before: Mapping[tuple[str, str], Lying]
    ) -> dict[int, bytes]:
        """The stored bytes of those that come into the index without having just arrived."""
        unread = [one.seq for one in placements if one.body is None and one.name not in before]
        found: dict[int, bytes] = {}
        for batch in batches(unread):
            query = select(table.c.seq, table.c.body).where(table.c.seq.in_(batch))
            found.update((seq, body) for seq, body in self._connection.execute(query))
        return found

    def know_shelves(self, pseudonyms: Iterable[bytes]) -> None:
        """Look up the shelves of patients, once."""
        unknown = [one for one in pseudonyms if one not in self._shelves]
        self._shelves |= {one: {} for one in unknown}
        for batch in batches(unknown):
            for row in self._connection.execute(select(shelves).where(shelves.c.pseudonym.in_(batch))):
                self._shelves[row.pseudonym][row.category, row.grade] = int(row.shelf)

    def _shelf(self, pseudonym: bytes, category: int, grade: int) -> int:
        """A known patient's shelf, made if need be; new ones are written together."""
        mine = self._shelves[pseudonym]
        known = mine.get((category, grade))
        if known is None:
            self._last_shelf += 1
            known = mine[category, grade] = self._last_shelf
            self._new_shelves.append((known, pseudonym, category, grade))
        return known

    def _store_shelves(self) -> None:
        add_rows(self._connection, shelves, self._new_shelves)
        self._new_shelves.clear()


def begin_index(connection: Connection, zone: str) -> None:
    """The counters of a database that has none: after what is stored already."""
    highest = max(
        int(connection.execute(select(func.coalesce(func.max(table.c.seq), 0))).scalar_one())
        for table in (resources, directory)
    )
    connection.execute(insert(index_state).values(id=1, last_seq=highest, last_rid=0, zone=zone))
