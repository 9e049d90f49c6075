"""The charts as a FHIR server needs them: every reading with a sight, every writing one transaction (API-1, API-2).

What a sight does not cover is not read from the database, and nothing that is returned tells it from what does not
exist. Times are microseconds since 1970 UTC. Everything here blocks: call it from a worker thread.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Select, Table, select

from carechain.charts.binding import bind
from carechain.charts.index_schema import index_state, live, shelves
from carechain.charts.listed import listed
from carechain.charts.live import Visible, visible_to
from carechain.charts.outbox import mark_anchored, unanchored
from carechain.charts.reading import batches, is_latest, keys_of
from carechain.charts.record import StoredRecord
from carechain.charts.schema import directory, patients, record_resources, records, resources
from carechain.charts.searching.keys import resource_term
from carechain.charts.sight import Sight
from carechain.charts.store import Charts
from carechain.charts.versions import (
    Stored,
    clinical_versions,
    naming,
    newest,
    newest_named,
    shared_versions,
    stored_of,
)
from carechain.charts.writing import Applied, Change, hidden_among, write

__all__ = ("Applied", "Change", "Reader", "Repository", "Stored", "Writer")

STREAM_ROWS: Final = 200
"""How many rows an export holds at a time."""


class Reader:
    """One snapshot of the charts; ``connection`` is for searches of the same snapshot."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._visible: dict[Sight, Visible] = {}

    def visible(self, sight: Sight) -> Visible:
        """The sight as conditions; worked out once per sight until something is written."""
        known = self._visible.get(sight)
        if known is None:
            known = self._visible[sight] = visible_to(self.connection, sight)
        return known

    def read(self, sight: Sight, resource_type: str, resource_id: str) -> Stored | None:
        """The newest version of a resource; None when there is none, or none to be seen."""
        query = newest_named(self.visible(sight))
        row = self.connection.execute(query, naming(resource_type, resource_id)).one_or_none()
        return None if row is None else stored_of(row)

    def vread(self, sight: Sight, resource_type: str, resource_id: str, version: int) -> Stored | None:
        """One version of a resource; an old one is seen where the newest is, unless its own grade forbids it."""
        named = [live.c[name] == value for name, value in naming(resource_type, resource_id).items()]
        for query, table in self._versions(sight):
            row = self.connection.execute(query.where(*named, table.c.version == version)).one_or_none()
            if row is not None:
                return stored_of(row)
        return None

    def history(
        self,
        sight: Sight,
        resource_type: str | None = None,
        resource_id: str | None = None,
        since_us: int | None = None,
        *,
        count: int,
        after: tuple[int, ...] | None = None,
    ) -> list[Stored]:
        """Versions of one resource, of one type, or of everything, newest first; at most ``count``.

        ``after`` is ``(seq,)`` of the last one of the page before. Ask for one more than is shown to see whether
        there are more.
        """
        found: list[Stored] = []
        for query, table in self._versions(sight):
            wanted = [table.c.seq < after[0]] if after is not None else []
            if resource_type is not None:
                wanted.append(table.c.resource_type == resource_type)
                wanted.append(live.c.resource_type == resource_type)
            if resource_id is not None:
                wanted.append(table.c.resource_id == resource_id)
                wanted.append(live.c.resource_id == resource_id)
            if resource_type is not None and resource_id is not None:
                wanted.append(live.c.key == resource_term(resource_type, resource_id))
            if since_us is not None:
                wanted.append(table.c.updated_us >= since_us)
            # Going down the numbers is right for who sees everything; for others it would be a walk over what is
            # hidden, so the database is kept from it, and sorts the few numbers there are before content is read.
            walks = sight.everything and resource_id is None
            order = table.c.seq.desc() if walks else (table.c.seq + 0).desc()
            chosen = query.with_only_columns(table.c.seq).where(*wanted).order_by(order).limit(count)
            seqs = list(self.connection.execute(chosen).scalars())
            for batch in batches(seqs):
                found += [stored_of(row) for row in self.connection.execute(query.where(listed(table.c.seq, batch)))]
        return sorted(found, key=lambda one: -one.seq)[:count]

    def fetch(self, sight: Sight, rids: Sequence[int]) -> list[Stored]:
        """The newest versions of resources by their numbers, in the order asked for; what is not seen is left out."""
        found: dict[int, Stored] = {}
        for batch in batches(rids):
            for row in self.connection.execute(self._newest(sight).where(listed(live.c.rid, batch))):
                found[row.rid] = stored_of(row)
        return [found[rid] for rid in rids if rid in found]

    def everything(
        self,
        sight: Sight,
        pseudonym: bytes,
        types: Sequence[str] = (),
        since_us: int | None = None,
        *,
        count: int,
        after: tuple[int, ...] | None = None,
    ) -> list[Stored]:
        """What a sight shows of one patient's chart, oldest resource first; ``after`` is ``(rid,)``; no types: all."""
        of_patient = select(shelves.c.shelf).where(shelves.c.pseudonym == pseudonym)
        mine = list(self.connection.execute(of_patient).scalars())
        parts = [listed(live.c.shelf, mine), live.c.rid > (after[0] if after else 0)]
        parts += _narrowed(types, since_us)
        query = self._newest(sight).where(*parts).order_by(live.c.rid).limit(count)
        return [stored_of(row) for row in self.connection.execute(query)]

    def export(self, sight: Sight, types: Sequence[str] = (), since_us: int | None = None) -> Iterator[Stored]:
        """Everything a sight shows, in no order; holds a few rows at a time. Use it up inside the snapshot."""
        query = self._newest(sight).where(*_narrowed(types, since_us))
        rows = self.connection.execute(query, execution_options={"yield_per": STREAM_ROWS})
        try:
            yield from map(stored_of, rows)
        finally:
            rows.close()

    def changes(self, sight: Sight, after_seq: int, count: int) -> list[Stored]:
        """Resources whose newest version came after ``after_seq``, in the order of their coming; at most ``count``."""
        query = self._newest(sight).where(live.c.resource_seq > after_seq).order_by(live.c.resource_seq).limit(count)
        return [stored_of(row) for row in self.connection.execute(query)]

    def last_seq(self) -> int:
        """The highest number a version was given so far: where :meth:`changes` goes on from."""
        return int(self.connection.execute(select(index_state.c.last_seq)).scalar_one())

    def held_in(self, record_id: bytes) -> set[str]:
        """What the newest version of a record holds, as ``Type/id``; whoever is granted the record gets all of it."""
        query = (
            select(record_resources.c.resource_seq)
            .join(records, records.c.seq == record_resources.c.record_seq)
            .where(records.c.record_id == record_id, is_latest())
        )
        return set(keys_of(self.connection, list(self.connection.execute(query).scalars())).values())

    def patient(self, pseudonym: bytes) -> str | None:
        """The id of the Patient resource behind a pseudonym."""
        query = select(patients.c.patient_id).where(patients.c.pseudonym == pseudonym)
        return self.connection.execute(query).scalar_one_or_none() or None

    def pseudonym(self, patient_id: str) -> bytes | None:
        """The pseudonym a patient's chart lies under; a provisional one until the registrar has bound the patient."""
        query = select(patients.c.pseudonym).where(patients.c.patient_id == patient_id)
        return self.connection.execute(query).scalar_one_or_none() if patient_id else None

    def is_bound(self, pseudonym: bytes) -> bool:
        """Whether the pseudonym is the ledger's: False for provisional ones and for the organisation's own chart."""
        query = select(patients.c.bound).where(patients.c.pseudonym == pseudonym)
        return bool(self.connection.execute(query).scalar_one_or_none())

    def _newest(self, sight: Sight) -> Select[Any]:
        return newest(self.visible(sight))

    def _versions(self, sight: Sight) -> tuple[tuple[Select[Any], Table], ...]:
        visible = self.visible(sight)
        return (clinical_versions(visible), resources), (shared_versions(visible), directory)


def _narrowed(types: Sequence[str], since_us: int | None) -> list[ColumnElement[bool]]:
    """The conditions for some types, and for what changed at or after a moment."""
    parts: list[ColumnElement[bool]] = []
    if types:
        parts.append(live.c.resource_type.in_(types))
    if since_us is not None:
        parts.append(live.c.updated_us >= since_us)
    return parts


class Writer(Reader):
    """One transaction: it sees what it wrote, and nobody else does before it is over."""

    def __init__(self, connection: Connection, charts: Charts, now_us: int, rng: Callable[[int], bytes]) -> None:
        super().__init__(connection)
        self._charts = charts
        self._now_us = now_us
        self._rng = rng

    def hidden(self, allow: Sight, names: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        """Those of the names (type, id) that are taken by what ``allow`` does not show: a POST needs other ids then."""
        return hidden_among(self.connection, self.visible(allow), names)

    def apply(self, changes: Sequence[Change], allow: Sight) -> list[Applied]:
        """Create and update resources, of whatever patients, in the order given; all of them or none.

        Raises ``Rejected``: DUPLICATE_RESOURCE; VERSION_CONFLICT when ``if_match`` is not the newest version;
        NOT_VISIBLE when a resource that ``allow`` does not show would be changed, or something filed where ``allow``
        opens nothing (to be answered like what does not exist); CHART_CHANGED when a resource would become another
        patient's; and what :mod:`carechain.charts.bundle` refuses. ``Tampered`` when a record that would get a new
        version was altered. Leave the transaction by an exception after any of them.
        """
        visible = self.visible(allow)
        # New shelves may come to be.
        self._visible.clear()
        return write(
            self.connection,
            changes,
            allow=allow,
            visible=visible,
            arrival=self._charts.arrival(now_us=self._now_us, rng=self._rng),
            assistant=self._charts.assistant,
        )

    def bind(self, patient_id: str, pseudonym: bytes) -> bool:
        """Move a patient's chart to the pseudonym that the registrar bound; see :meth:`Charts.bind`."""
        self._visible.clear()
        return bind(self.connection, patient_id, pseudonym)

    def unanchored(self, limit: int) -> list[StoredRecord]:
        """Record versions of bound patients that were written here and not yet marked, oldest first."""
        return unanchored(self.connection, limit)

    def mark_anchored(self, anchored: Sequence[tuple[bytes, int]]) -> None:
        """Record versions (id, version) that the ledger has: they are not handed out again."""
        mark_anchored(self.connection, anchored)


class Repository:
    """The charts of one organisation, for the FHIR server and for importers."""

    def __init__(self, charts: Charts) -> None:
        self.charts = charts

    @contextlib.contextmanager
    def reading(self) -> Iterator[Reader]:
        """A snapshot: nothing that is written meanwhile shows. Raises ``ChartsUnavailable``."""
        with self.charts.snapshot() as connection:
            yield Reader(connection)

    @contextlib.contextmanager
    def glancing(self) -> Iterator[Reader]:
        """For one :meth:`Reader.read`, faster than in a snapshot.

        What a sight opens is asked first and the resource then. Meanwhile the resource may go to where the sight does
        not reach, and is not found; nothing can come to where it reaches that it should not see, because no shelf
        changes its category or grade, and no number is given to two shelves. Raises ``ChartsUnavailable``.
        """
        with self.charts.glance() as connection:
            yield Reader(connection)

    @contextlib.contextmanager
    def writing(self, now_us: int, rng: Callable[[int], bytes]) -> Iterator[Writer]:
        """A transaction, one at a time; durable when the context ends, undone when it ends by an exception.

        ``now_us`` becomes ``meta.lastUpdated``; ``rng(n)`` returns n random bytes. Raises ``ChartsUnavailable``.
        """
        with self.charts.transaction() as connection:
            yield Writer(connection, self.charts, now_us, rng)
