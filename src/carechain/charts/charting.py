"""Resources into charts: keep what is new, split each chart again, version the records that changed.

What goes into several charts is read and written together, since a statement costs as much as some resources do.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, func, select

from carechain.charts.bundle import Entry
from carechain.charts.codes import ChartsCode
from carechain.charts.dates import day_of_unix
from carechain.charts.dialect import add_rows, keep_going, run_many
from carechain.charts.facts import NO_DAY, Facts
from carechain.charts.indexing import Index, Placement
from carechain.charts.reading import Held, Known, is_whole, keys_of, load_charts, load_held
from carechain.charts.record import ResourceLeaf, StoredRecord, Tampered, root_of
from carechain.charts.schema import record_resources, records, resources
from carechain.charts.searching.keys import resource_term
from carechain.charts.split import Group, split
from carechain.core.commitment import resource_commitment
from carechain.core.hashing import HASH_SIZE
from carechain.core.limits import RESOURCES_PER_RECORD
from carechain.core.rejection import require
from carechain.core.suite import Institution

Rng = Callable[[int], bytes]
SECOND_US: Final = 1_000_000
CHARTS_AT_ONCE: Final = 50
"""So many charts are read and held in memory together."""
CHARTS_TOGETHER: Final = 10
"""So many are written in one go; the database puts their rows into its indexes while the next are worked out."""


class Arrival(Struct, frozen=True, kw_only=True):
    """The circumstances of a writing: when (Unix microseconds), randomness, and the suite that is committed with."""

    received_us: int
    rng: Rng
    institution: Institution

    @property
    def received_s(self) -> int:
        """The same moment in Unix seconds."""
        return self.received_us // SECOND_US


class Written(Struct, frozen=True, kw_only=True):
    """What changed in one chart: new records and new versions, the count of the others, and of new resources.

    ``record_seqs`` are the row numbers of ``records``, in their order.
    """

    records: tuple[StoredRecord, ...] = ()
    record_seqs: tuple[int, ...] = ()
    unchanged: int = 0
    new_resources: int = 0


class _Fresh(Struct, frozen=True, kw_only=True):
    """A version that arrived now."""

    entry: Entry
    known: Known
    salt: bytes


class _Version(Struct, frozen=True, kw_only=True):
    """A record's next version, its members, and whether it only keeps what moved elsewhere."""

    record: StoredRecord
    members: tuple[str, ...]
    emptied: bool


class _Revision(Struct, frozen=True, kw_only=True):
    """What becomes of one chart: all of its resources, those that arrived, and the record versions that follow."""

    pseudonym: bytes
    chart: dict[str, Known]
    fresh: dict[str, _Fresh]
    versions: tuple[_Version, ...]
    unchanged: int


Arrivals = Mapping[bytes, Sequence[tuple[Entry, Facts]]]
"""What arrived for each chart, by its pseudonym."""


def write_charts(connection: Connection, arrived: Arrivals, arrival: Arrival, index: Index) -> list[Written]:
    """Add resources to charts whose rows in ``patients`` are there already; the caller flushes the index.

    One result for each chart, in their order. Raises :class:`Tampered` when a record that would get a new version was
    altered.
    """
    written: list[Written] = []
    pseudonyms = list(arrived)
    # Safe to count on from because the writer holds the lock.
    last_record = int(connection.execute(select(func.coalesce(func.max(records.c.seq), 0))).scalar_one())
    for some in _strides(pseudonyms, CHARTS_AT_ONCE):
        charts, held = load_charts(connection, some), load_held(connection, some)
        index.know_shelves(some)
        for few in _strides(some, CHARTS_TOGETHER):
            revisions: list[_Revision] = []
            for one in few:
                chart, records_held = charts.pop(one, {}), held.pop(one, {})
                revisions.append(_revision(connection, one, arrived[one], chart, records_held, arrival, index))
                keep_going(connection)
            _store_resources(connection, revisions, arrival)
            seqs = _store_records(connection, revisions, last_record)
            last_record += sum(map(len, seqs))
            index.place({one.pseudonym: list(_placements(one)) for one in revisions})
            written += (
                Written(
                    records=tuple(version.record for version in one.versions),
                    record_seqs=own,
                    unchanged=one.unchanged,
                    new_resources=len(one.fresh),
                )
                for one, own in zip(revisions, seqs, strict=True)
            )
    return written


def _strides(pseudonyms: Sequence[bytes], length: int) -> Iterator[Sequence[bytes]]:
    for start in range(0, len(pseudonyms), length):
        yield pseudonyms[start : start + length]


def _revision(
    connection: Connection,
    pseudonym: bytes,
    arrived: Sequence[tuple[Entry, Facts]],
    chart: dict[str, Known],
    held: dict[str, Held],
    arrival: Arrival,
    index: Index,
) -> _Revision:
    """Split a chart again with what arrived in it."""
    fresh = _take_in(chart, arrived, arrival, index)
    if not fresh:
        return _Revision(pseudonym=pseudonym, chart=chart, fresh=fresh, versions=(), unchanged=len(held))
    groups = split([known.facts for known in chart.values()])
    kept = _emptied(connection, held, groups, chart)
    work = [(group, False) for group in groups] + [(group, True) for group in kept]
    versions: list[_Version] = []
    for group, emptied in work:
        old = held.get(group.name)
        record = _next_version(pseudonym, group, old, chart, arrival)
        if record is None:
            continue
        # A new version must not lend its fresh root to content that was altered under the old one.
        if old is not None and not is_whole(connection, old, arrival.institution):
            raise Tampered("the resources of a stored record do not lead to its root")
        versions.append(_Version(record=record, members=group.members, emptied=emptied))
    unchanged = len(work) - len(versions)
    return _Revision(pseudonym=pseudonym, chart=chart, fresh=fresh, versions=tuple(versions), unchanged=unchanged)


def _take_in(
    chart: dict[str, Known], arrived: Sequence[tuple[Entry, Facts]], arrival: Arrival, index: Index
) -> dict[str, _Fresh]:
    """Bring ``chart`` up to date with the resources whose bytes are new; returns these."""
    fresh: dict[str, _Fresh] = {}
    for entry, facts in arrived:
        digest = sha256(entry.body).digest()
        before = chart.get(entry.key)
        if before is not None and before.sha256 == digest:
            continue
        salt = arrival.rng(HASH_SIZE)
        known = Known(
            seq=index.next_seq(),
            version=1 if before is None else before.version + 1,
            sha256=digest,
            commitment=resource_commitment(salt, entry.body, arrival.institution),
            facts=facts,
            updated_us=arrival.received_us,
            grade=int(facts.sensitivity),
        )
        chart[entry.key] = known
        fresh[entry.key] = _Fresh(entry=entry, known=known, salt=salt)
    return fresh


def _emptied(
    connection: Connection, held: dict[str, Held], groups: Sequence[Group], chart: dict[str, Known]
) -> list[Group]:
    """Records whose resources all moved elsewhere keep them: an anchor always stands for something."""
    named = {group.name for group in groups}
    left = [record for name, record in held.items() if name not in named]
    if not left:
        return []
    sensitivity_of = {member: group.sensitivity for group in groups for member in group.members}
    keys = keys_of(connection, [seq for record in left for seq in record.members])
    kept: list[Group] = []
    for record in left:
        members = tuple(keys.get(seq, "") for seq in record.members)
        if not members or any(member not in chart for member in members):
            raise Tampered("a stored record names resources that are not there")
        kept.append(
            Group(
                name=record.group,
                category=record.category,
                sensitivity=max(sensitivity_of[member] for member in members),
                labels=tuple(sorted({label for member in members for label in chart[member].facts.labels})),
                day=NO_DAY,
                members=members,
            )
        )
    return kept


def _next_version(
    pseudonym: bytes, group: Group, old: Held | None, chart: dict[str, Known], arrival: Arrival
) -> StoredRecord | None:
    """The record's next version, or None when nothing changed.

    The category stays what it was, and the grade never falls: old versions stay readable under it.
    """
    require(len(group.members) <= RESOURCES_PER_RECORD, ChartsCode.TOO_MANY_RESOURCES)
    day = group.day
    if day == NO_DAY:
        day = day_of_unix(arrival.received_s) if old is None else old.effective_day
    sensitivity = group.sensitivity if old is None else max(old.sensitivity, group.sensitivity)
    members = [chart[member] for member in group.members]
    if old is not None and (old.sensitivity, old.effective_day) == (sensitivity, day):
        # The same versions in the same order have the same root: most records of a chart end here.
        if old.members == tuple(member.seq for member in members):
            return None
        if old.root == root_of([member.commitment for member in members]):
            return None
    commitments = [member.commitment for member in members]
    leaves = (
        ResourceLeaf(
            resource_type=member.facts.resource_type,
            resource_id=member.facts.resource_id,
            commitment=member.commitment,
        )
        for member in members
    )
    return StoredRecord(
        record_id=arrival.rng(HASH_SIZE) if old is None else old.record_id,
        version=1 if old is None else old.version + 1,
        pseudonym=pseudonym,
        category=group.category if old is None else old.category,
        sensitivity=sensitivity,
        effective_day=day,
        root=root_of(commitments),
        resource_count=len(commitments),
        resources=tuple(leaves),
        labels=group.labels if old is None else tuple(sorted({*old.labels, *group.labels})),
        group=group.name,
        received_s=arrival.received_s,
    )


def _store_resources(connection: Connection, revisions: Sequence[_Revision], arrival: Arrival) -> None:
    """Write what arrived under the grade of the records it stands in, and raise the grade of what stands there too."""
    rows: list[tuple[Any, ...]] = []
    raised: list[tuple[int, int]] = []
    for one in revisions:
        grades: dict[str, int] = {}
        for version in one.versions:
            grade = int(version.record.sensitivity)
            for member in version.members:
                grades[member] = max(grades.get(member, 0), grade)
        for key, arrived in one.fresh.items():
            known, entry = arrived.known, arrived.entry
            identity = (known.seq, one.pseudonym, entry.resource_type, entry.resource_id, known.version)
            secrets = (known.sha256, arrived.salt, known.commitment, msgspec.msgpack.encode(known.facts))
            grade = grades.get(key, known.grade)
            times = (arrival.received_s, arrival.received_us)
            rows.append(
                (*identity, *secrets, *times, grade, resource_term(entry.resource_type, entry.resource_id), entry.body)
            )
        raised += [
            (grade, one.chart[key].seq)
            for key, grade in grades.items()
            if key not in one.fresh and one.chart[key].grade < grade
        ]
    add_rows(connection, resources, rows)
    run_many(connection, "UPDATE resources SET grade = ? WHERE seq = ?", raised)


def _store_records(connection: Connection, revisions: Sequence[_Revision], last: int) -> list[tuple[int, ...]]:
    """Write the record versions, numbered on from ``last``; returns the row numbers of each revision's."""
    rows: list[tuple[Any, ...]] = []
    members: list[tuple[int, int, int]] = []
    seqs: list[tuple[int, ...]] = []
    for one in revisions:
        first = last + 1 + len(rows)
        seqs.append(tuple(range(first, first + len(one.versions))))
        for seq, version in zip(seqs[-1], one.versions, strict=True):
            rows.append(_record_row(version.record, seq))
            members += [(seq, position, one.chart[member].seq) for position, member in enumerate(version.members)]
    add_rows(connection, records, rows)
    add_rows(connection, record_resources, members)
    return seqs


def _record_row(record: StoredRecord, seq: int) -> tuple[Any, ...]:
    return (
        seq,
        record.record_id,
        record.version,
        record.pseudonym,
        record.group,
        int(record.category),
        int(record.sensitivity),
        " ".join(record.labels),
        record.effective_day,
        record.root,
        record.resource_count,
        record.received_s,
    )


def _placements(revision: _Revision) -> Iterator[Placement]:
    """Where every resource of a changed record lies now; a record that was emptied holds nothing that lies in it."""
    for one in revision.versions:
        if one.emptied:
            continue
        for key in one.members:
            arrived = revision.fresh.get(key)
            yield placement(revision.chart[key], one.record, None if arrived is None else arrived.entry.body)


def placement(known: Known, record: StoredRecord | Held, body: bytes | None) -> Placement:
    """A resource's newest version in its record."""
    return Placement(
        resource_type=known.facts.resource_type,
        resource_id=known.facts.resource_id,
        version=known.version,
        seq=known.seq,
        updated_us=known.updated_us,
        record_id=record.record_id,
        category=int(record.category),
        grade=int(record.sensitivity),
        day=record.effective_day,
        body=body,
    )
