"""Comparing a patient's chart in a source with its pointers: new and changed results make record versions (REC-1).

The chart is split into records as an organisation's own charts are (:mod:`carechain.charts.split`), graded by the same
rules. A changed result is a new version of its record; one that is gone is reported, and its record goes on without it
as long as there is anything left. Nothing of the content is kept.
"""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from carechain.charts.bundle import parse, patient_of
from carechain.charts.dates import day_of_unix
from carechain.charts.facts import NO_DAY, Facts, Resolver, facts_of
from carechain.charts.record import ResourceLeaf, StoredRecord, root_of
from carechain.charts.resource_types import DIRECTORY
from carechain.charts.split import Group, split
from carechain.core.commitment import resource_commitment
from carechain.core.hashing import HASH_SIZE
from carechain.core.limits import RESOURCES_PER_RECORD
from carechain.core.rejection import Rejected, require
from carechain.core.suite import Institution
from carechain.sources.base import Found, Key, Pointer, Source
from carechain.sources.codes import SourceCode
from carechain.sources.pointers import Known, Link, Pointers, known_results, newest_records

_INSERT_POINTER: Final = "INSERT INTO pointers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_INSERT_RECORD: Final = "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_HEAD: Final = b'{"resourceType":"Bundle","type":"collection","entry":['


class Circumstances(Struct, frozen=True, kw_only=True):
    """When (Unix seconds), with what randomness (record ids and salts), and under which suite is compared."""

    now_s: int
    rng: Callable[[int], bytes]
    institution: Institution = Institution.INTERNATIONAL


class Synced(Struct, frozen=True, kw_only=True):
    """What one comparison found.

    ``records`` are new records and new versions, to be anchored; ``added``, ``changed`` and ``deleted`` count results.
    ``gone`` are the records of which the system has nothing any more since the last comparison.
    """

    results: int
    added: int
    changed: int
    deleted: int
    records: tuple[StoredRecord, ...]
    gone: tuple[bytes, ...]


def sync_patient(pointers: Pointers, source: Source, link: Link, how: Circumstances) -> Synced:
    """Compare one linked patient.

    Raises ``Rejected(PATIENT_UNKNOWN)`` when the source has nothing of a patient it never had anything of, and with a
    ``ChartsCode`` when what it has is not acceptable; then nothing has changed. What a source raises is raised.
    """
    found = source.chart(link.patient)
    arrived = _facts_of_all(found)
    with pointers.writing() as connection:
        before = known_results(connection, link.source, link.pseudonym)
        require(found or before, SourceCode.PATIENT_UNKNOWN)
        erased = _erased(connection, link)
        kept = [one for one in arrived if one[1].key not in erased]
        comparison = _Comparison(connection, link, how, before)
        comparison.take(kept)
        records, gone = comparison.version_records()
        connection.execute(
            "UPDATE links SET synced_s = ? WHERE source = ? AND pseudonym = ?",
            (how.now_s, link.source, link.pseudonym),
        )
        return Synced(
            results=len(kept),
            added=comparison.added,
            changed=comparison.changed,
            deleted=comparison.deleted,
            records=tuple(records),
            gone=tuple(gone),
        )


def _facts_of_all(found: Sequence[Found]) -> list[tuple[Found, Facts]]:
    """What the chart needs to know of each result; resources that many patients share are left where they are."""
    if not found:
        return []
    bundle = parse(_HEAD + b",".join(b'{"resource":' + one.body + b"}" for one in found) + b"]}")
    resolver = Resolver(bundle, patient_of(bundle))
    return [
        (one, facts_of(entry, resolver))
        for one, entry in zip(found, bundle.entries, strict=True)
        if entry.resource_type not in DIRECTORY
    ]


def _erased(connection: sqlite3.Connection, link: Link) -> set[str]:
    rows = connection.execute(
        "SELECT resource_type, resource_id FROM erased WHERE source = ? AND pseudonym = ?",
        (link.source, link.pseudonym),
    )
    return {f"{kind}/{name}" for kind, name in rows}


class _Comparison:
    """One patient's results and records while they are brought up to date, inside one transaction."""

    def __init__(
        self, connection: sqlite3.Connection, link: Link, how: Circumstances, before: dict[str, Known]
    ) -> None:
        self.added = self.changed = self.deleted = 0
        self._connection = connection
        self._link = link
        self._how = how
        self._results = before

    def take(self, arrived: Sequence[tuple[Found, Facts]]) -> None:
        """Put down what is new, changed or gone."""
        seq = self._last("pointers")
        rows: list[tuple[Any, ...]] = []
        for found, facts in arrived:
            before = self._results.get(facts.key)
            if before is not None and before.gone_s is None and self._is_as_before(found, before):
                self._move(before, found.pointer)
                continue
            seq += 1
            known = self._new(seq, found, facts, before)
            self._results[facts.key] = known
            rows.append(self._row(known))
        self._connection.executemany(_INSERT_POINTER, rows)
        self._note_gone({facts.key for _, facts in arrived})

    def version_records(self) -> tuple[list[StoredRecord], list[bytes]]:
        """Split what is there again; returns new record versions, and the records that have nothing left."""
        live = {key: one for key, one in self._results.items() if one.gone_s is None}
        before = {one.group: one for one in newest_records(self._connection, self._link.source, self._link.pseudonym)}
        groups = split([one.facts for one in live.values()])
        grade_of = {member: group.sensitivity for group in groups for member in group.members}
        named = {group.name for group in groups}
        gone: list[bytes] = []
        for name, record in before.items():
            if name in named:
                continue
            rest = _rest(record, live, grade_of)
            if rest is not None:
                groups.append(rest)
            elif self._close(record):
                gone.append(record.record_id)
        changed = [self._version(group, before.get(group.name), live) for group in groups]
        return [one for one in changed if one is not None], gone

    def _is_as_before(self, found: Found, before: Known) -> bool:
        return resource_commitment(before.salt, found.body, self._how.institution) == before.commitment

    def _move(self, before: Known, pointer: Pointer) -> None:
        """The same bytes under another query or key, after the mapping was changed: only the way to it is new."""
        if before.pointer != pointer:
            moved = replace(before, pointer=pointer)
            self._results[before.facts.key] = moved
            self._connection.execute(
                "UPDATE pointers SET query = ?, key = ? WHERE seq = ?",
                (pointer.query, _written(pointer.key), before.seq),
            )

    def _new(self, seq: int, found: Found, facts: Facts, before: Known | None) -> Known:
        self.added += before is None
        self.changed += before is not None
        salt = self._how.rng(HASH_SIZE)
        return Known(
            seq=seq,
            first_seq=seq if before is None else before.first_seq,
            pointer=found.pointer,
            version=1 if before is None else before.version + 1,
            salt=salt,
            commitment=resource_commitment(salt, found.body, self._how.institution),
            facts=facts,
        )

    def _note_gone(self, there: set[str]) -> None:
        for key, one in self._results.items():
            if key not in there and one.gone_s is None:
                self.deleted += 1
                self._results[key] = replace(one, gone_s=self._how.now_s)
                self._connection.execute("UPDATE pointers SET gone_s = ? WHERE seq = ?", (self._how.now_s, one.seq))

    def _close(self, record: StoredRecord) -> bool:
        """Note that the system has nothing of the record; False when that was noted before."""
        noted = self._connection.execute(
            "UPDATE records SET gone_s = ? WHERE record_id = ? AND version = ? AND gone_s IS NULL",
            (self._how.now_s, record.record_id, record.version),
        )
        return noted.rowcount == 1

    def _version(self, group: Group, old: StoredRecord | None, live: Mapping[str, Known]) -> StoredRecord | None:
        """The record's next version, or None when nothing changed; its category stays, and its grade never falls."""
        if len(group.members) > RESOURCES_PER_RECORD:
            raise Rejected(SourceCode.TOO_MANY_ROWS)
        members = [live[member] for member in group.members]
        day = group.day
        if day == NO_DAY:
            day = day_of_unix(self._how.now_s) if old is None else old.effective_day
        sensitivity = group.sensitivity if old is None else max(old.sensitivity, group.sensitivity)
        root = root_of([one.commitment for one in members])
        if old is not None and (old.root, old.sensitivity, old.effective_day) == (root, sensitivity, day):
            return None
        record = StoredRecord(
            record_id=self._how.rng(HASH_SIZE) if old is None else old.record_id,
            version=1 if old is None else old.version + 1,
            pseudonym=self._link.pseudonym,
            category=group.category if old is None else old.category,
            sensitivity=sensitivity,
            effective_day=day,
            root=root,
            resource_count=len(members),
            resources=tuple(
                ResourceLeaf(
                    resource_type=one.facts.resource_type, resource_id=one.facts.resource_id, commitment=one.commitment
                )
                for one in members
            ),
            labels=group.labels if old is None else tuple(sorted({*old.labels, *group.labels})),
            group=group.name,
            received_s=self._how.now_s,
        )
        self._write(record, members)
        return record

    def _write(self, record: StoredRecord, members: Sequence[Known]) -> None:
        seq = self._last("records") + 1
        self._connection.execute(
            _INSERT_RECORD,
            (
                seq,
                self._link.source,
                record.pseudonym,
                record.record_id,
                record.version,
                record.group,
                int(record.category),
                int(record.sensitivity),
                " ".join(record.labels),
                record.effective_day,
                record.root,
                record.received_s,
                None,
            ),
        )
        self._connection.executemany(
            "INSERT INTO record_pointers VALUES (?, ?, ?)",
            [(seq, position, one.seq) for position, one in enumerate(members)],
        )

    def _row(self, known: Known) -> tuple[Any, ...]:
        return (
            known.seq,
            self._link.source,
            self._link.pseudonym,
            known.pointer.query,
            _written(known.pointer.key),
            known.facts.resource_type,
            known.facts.resource_id,
            known.version,
            known.first_seq,
            known.salt,
            known.commitment,
            msgspec.msgpack.encode(known.facts),
            self._how.now_s,
            None,
        )

    def _last(self, table: str) -> int:
        """The highest row number; safe to count on from because the writer holds the lock."""
        (seq,) = self._connection.execute(f"SELECT coalesce(max(seq), 0) FROM {table}").fetchone()  # noqa: S608
        return int(seq)


def _rest(record: StoredRecord, live: Mapping[str, Known], grade_of: Mapping[str, Any]) -> Group | None:
    """What is left of a record whose results moved elsewhere; None when nothing is. An anchor stands for something."""
    keys = (f"{one.resource_type}/{one.resource_id}" for one in record.resources)
    members = tuple(key for key in keys if key in live)
    if not members:
        return None
    return Group(
        name=record.group,
        category=record.category,
        sensitivity=max(grade_of[member] for member in members),
        labels=tuple(sorted({label for member in members for label in live[member].facts.labels})),
        day=NO_DAY,
        members=members,
    )


def _written(key: Key) -> str:
    return msgspec.json.encode(key).decode()
