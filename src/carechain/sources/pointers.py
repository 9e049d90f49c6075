"""Pointers: what the ledger's anchors stand for in a system that keeps its own data (REC-1, REC-2).

For every result: the query and its key, a salt, and the salted hash of the bytes it had when it was seen. For every
record version: its results in their order, and the root that is anchored. No content: what a record says is asked of
the system again at every read. One SQLite file of the organisation's own, because a patient's key there is private.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import msgspec
from msgspec import Struct

from carechain.charts.facts import Facts
from carechain.charts.record import ResourceLeaf, StoredRecord, Tampered
from carechain.charts.schema import ChartsUnavailable
from carechain.core.rejection import Rejected, require
from carechain.core.vocabulary import Category, Sensitivity
from carechain.engine.database import Database
from carechain.sources.base import Key, Pointer
from carechain.sources.codes import SourceCode

_TABLES: Final = (
    """CREATE TABLE links (
        source TEXT NOT NULL, pseudonym BLOB NOT NULL, patient TEXT NOT NULL, synced_s INTEGER,
        PRIMARY KEY (source, pseudonym), UNIQUE (source, patient)
    ) WITHOUT ROWID""",
    """CREATE TABLE pointers (
        seq INTEGER PRIMARY KEY, source TEXT NOT NULL, pseudonym BLOB NOT NULL, query TEXT NOT NULL, key TEXT NOT NULL,
        resource_type TEXT NOT NULL, resource_id TEXT NOT NULL, version INTEGER NOT NULL, first_seq INTEGER NOT NULL,
        salt BLOB NOT NULL, commitment BLOB NOT NULL, facts BLOB NOT NULL, seen_s INTEGER NOT NULL, gone_s INTEGER,
        UNIQUE (source, pseudonym, resource_type, resource_id, version)
    )""",
    """CREATE TABLE records (
        seq INTEGER PRIMARY KEY, source TEXT NOT NULL, pseudonym BLOB NOT NULL, record_id BLOB NOT NULL,
        version INTEGER NOT NULL, group_name TEXT NOT NULL, category INTEGER NOT NULL, sensitivity INTEGER NOT NULL,
        labels TEXT NOT NULL, effective_day INTEGER NOT NULL, root BLOB NOT NULL, received_s INTEGER NOT NULL,
        gone_s INTEGER, UNIQUE (record_id, version)
    )""",
    "CREATE INDEX records_by_patient ON records (source, pseudonym)",
    """CREATE TABLE record_pointers (
        record_seq INTEGER NOT NULL REFERENCES records (seq), position INTEGER NOT NULL,
        pointer_seq INTEGER NOT NULL REFERENCES pointers (seq), PRIMARY KEY (record_seq, position)
    ) WITHOUT ROWID""",
    "CREATE INDEX record_pointers_by_pointer ON record_pointers (pointer_seq)",
    """CREATE TABLE erased (
        source TEXT NOT NULL, pseudonym BLOB NOT NULL, record_id BLOB NOT NULL, resource_type TEXT NOT NULL,
        resource_id TEXT NOT NULL, erased_s INTEGER NOT NULL,
        PRIMARY KEY (source, pseudonym, record_id, resource_type, resource_id)
    ) WITHOUT ROWID""",
)
_NEWEST: Final = "NOT EXISTS (SELECT 1 FROM records n WHERE n.record_id = r.record_id AND n.version > r.version)"
_GONE: Final = (
    f"SELECT pseudonym, record_id, gone_s FROM records r WHERE source = ? AND gone_s IS NOT NULL AND {_NEWEST}"  # noqa: S608
    " ORDER BY gone_s, record_id"
)
_MINE: Final = "SELECT seq FROM records WHERE record_id = ? AND pseudonym = ?"
_INSIDE: Final = f"SELECT pointer_seq FROM record_pointers WHERE record_seq IN ({_MINE})"  # noqa: S608
_BURY: Final = (
    "INSERT OR IGNORE INTO erased SELECT DISTINCT source, pseudonym, ?, resource_type, resource_id, ?"  # noqa: S608
    f" FROM pointers WHERE seq IN ({_INSIDE})"
)
_facts: Final = msgspec.msgpack.Decoder(Facts)


class PointersUnavailable(ChartsUnavailable):
    """The file of pointers cannot be used now. Names the driver's error class only."""


class PointersTooNew(ChartsUnavailable):
    """The file of pointers was written by a newer release; run that release."""


class Link(Struct, frozen=True, kw_only=True):
    """A patient of a source: the key there, the pseudonym here, and when the chart was last compared (Unix seconds)."""

    source: str
    pseudonym: bytes
    patient: Key
    synced_s: int | None

    def __repr__(self) -> str:
        return f"Link(source={self.source!r})"


class Known(Struct, frozen=True, kw_only=True):
    """One result as it was last seen. ``gone_s`` is when it was found to be no longer there."""

    seq: int
    first_seq: int
    pointer: Pointer
    version: int
    salt: bytes
    commitment: bytes
    facts: Facts
    gone_s: int | None = None


class Plan(Struct, frozen=True, kw_only=True):
    """How a record version is read: the source, the patient there, and its results in the anchored order."""

    record: StoredRecord
    source: str
    patient: Key
    members: tuple[Known, ...]
    newest: bool
    sensitivity: Sensitivity
    """The highest grade known today for anything inside."""


class Pointers(Database):
    """The file; every method raises :class:`PointersUnavailable` when it cannot be used."""

    tables = _TABLES
    unavailable = PointersUnavailable
    too_new = PointersTooNew

    # --- links --------------------------------------------------------------------------------------------

    def link(self, source: str, pseudonym: bytes, patient: Key) -> None:
        """Say that a pseudonym is a patient of a source; again changes nothing. Raises ``Rejected(PATIENT_LINKED)``."""
        with self.writing() as connection:
            found = connection.execute(
                "SELECT pseudonym, patient FROM links WHERE source = ? AND (pseudonym = ? OR patient = ?)",
                (source, pseudonym, _written(patient)),
            ).fetchall()
            require(all(one == (pseudonym, _written(patient)) for one in found), SourceCode.PATIENT_LINKED)
            if not found:
                connection.execute("INSERT INTO links VALUES (?, ?, ?, NULL)", (source, pseudonym, _written(patient)))

    def links(self, source: str) -> list[Link]:
        """The linked patients of a source."""
        rows = self._select("SELECT pseudonym, patient, synced_s FROM links WHERE source = ? ORDER BY patient", source)
        return [
            Link(source=source, pseudonym=pseudonym, patient=_key(patient), synced_s=synced_s)
            for pseudonym, patient, synced_s in rows
        ]

    def linked(self, source: str, pseudonym: bytes) -> Link:
        """One of them; raises ``Rejected(NOT_LINKED)``."""
        found = next((one for one in self.links(source) if one.pseudonym == pseudonym), None)
        if found is None:
            raise Rejected(SourceCode.NOT_LINKED)
        return found

    # --- reading ------------------------------------------------------------------------------------------

    def holds(self, record_id: bytes) -> bool:
        """Whether the record is one of a source."""
        return bool(self._select("SELECT 1 FROM records WHERE record_id = ? LIMIT 1", record_id))

    def plan(self, record_id: bytes, version: int | None = None) -> Plan:
        """How to read a record, in its newest version unless one is named.

        Raises ``Rejected(RESULT_GONE)`` when there is no such version, ``Tampered`` for a row that makes no sense.
        """
        with self.reading() as connection:
            rows = connection.execute(
                f"SELECT r.*, {_NEWEST} FROM records r WHERE r.record_id = ? AND (? IS NULL OR r.version = ?)"  # noqa: S608
                " ORDER BY r.version DESC LIMIT 1",
                (record_id, version, version),
            ).fetchall()
            if not rows:
                raise Rejected(SourceCode.RESULT_GONE)
            row = rows[0]
            members = _members(connection, row[0])
            patient = connection.execute(
                "SELECT patient FROM links WHERE source = ? AND pseudonym = ?", (row[1], row[2])
            ).fetchone()
            if patient is None:
                raise Rejected(SourceCode.NOT_LINKED)
            record = _record(row, members)
            newest = bool(row[-1])
            today = record.sensitivity if newest else _grade_today(connection, record, row[1], members)
            return Plan(
                record=record,
                source=row[1],
                patient=_key(patient[0]),
                members=tuple(members),
                newest=newest,
                sensitivity=today,
            )

    def records_of(self, source: str, pseudonym: bytes) -> list[StoredRecord]:
        """The newest version of each of a patient's records from a source, in the order in which they were found."""
        with self.reading() as connection:
            return newest_records(connection, source, pseudonym)

    def history(self, record_id: bytes) -> list[StoredRecord]:
        """Every version of a record, oldest first."""
        with self.reading() as connection:
            rows = connection.execute("SELECT * FROM records WHERE record_id = ? ORDER BY version", (record_id,))
            return [_record(row, _members(connection, row[0])) for row in rows.fetchall()]

    def gone(self, source: str) -> list[tuple[bytes, bytes, int]]:
        """Records of which the system has nothing any more: pseudonym, record id, and since when (Unix seconds)."""
        return self._select(_GONE, source)

    # --- erasing ------------------------------------------------------------------------------------------

    def held_among(self, named: Sequence[tuple[bytes, bytes]]) -> set[tuple[bytes, bytes]]:
        """Of which of these records (pseudonym, record id) there are pointers."""
        with self.reading() as connection:
            return {
                (pseudonym, record_id)
                for pseudonym, record_id in named
                if connection.execute(
                    "SELECT 1 FROM records WHERE record_id = ? AND pseudonym = ?", (record_id, pseudonym)
                ).fetchone()
            }

    def erase(self, pseudonym: bytes, record_id: bytes, *, erased_s: int) -> bool:
        """Forget a record's pointers and salts, and never point to its results again; False when there was nothing.

        Without the salt nobody can show that what the system says is what was anchored. The system's own data is the
        system's to erase.
        """
        with self.writing() as connection:
            of = (record_id, pseudonym)
            found = connection.execute(_MINE, of).fetchall()
            if not found:
                return False
            connection.execute(_BURY, (record_id, erased_s, *of))
            seqs = connection.execute(_INSIDE, of).fetchall()
            connection.executemany("DELETE FROM record_pointers WHERE record_seq = ?", found)
            connection.executemany("DELETE FROM records WHERE seq = ?", found)
            connection.executemany(
                "DELETE FROM pointers WHERE seq = ?"
                " AND NOT EXISTS (SELECT 1 FROM record_pointers p WHERE p.pointer_seq = seq)",
                set(seqs),
            )
        self._forget_log()
        return True

    # --- the connection -----------------------------------------------------------------------------------

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """One moment of the file."""
        with self._transaction("BEGIN"):
            yield self._connection

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One change of the file, wholly or not at all."""
        with self._transaction("BEGIN IMMEDIATE"):
            yield self._connection

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[None]:
        with self._lock, self._environment():
            self._connection.execute(begin)
            try:
                yield
            except BaseException:
                self._connection.rollback()
                raise
            self._connection.commit()


def newest_records(connection: sqlite3.Connection, source: str, pseudonym: bytes) -> list[StoredRecord]:
    """As :meth:`Pointers.records_of`, inside the caller's transaction."""
    rows = connection.execute(
        f"SELECT * FROM records r WHERE source = ? AND pseudonym = ? AND {_NEWEST} ORDER BY seq",  # noqa: S608
        (source, pseudonym),
    ).fetchall()
    return [_record(row, _members(connection, row[0])) for row in rows]


def known_results(connection: sqlite3.Connection, source: str, pseudonym: bytes) -> dict[str, Known]:
    """The newest version of every result of a patient, by ``Type/id``, in the order in which they first came."""
    rows = connection.execute(
        "SELECT * FROM pointers p WHERE source = ? AND pseudonym = ? AND NOT EXISTS (SELECT 1 FROM pointers n"
        " WHERE n.source = p.source AND n.pseudonym = p.pseudonym AND n.resource_type = p.resource_type"
        " AND n.resource_id = p.resource_id AND n.version > p.version) ORDER BY first_seq",
        (source, pseudonym),
    ).fetchall()
    found = [_known(row) for row in rows]
    return {one.facts.key: one for one in found}


def _members(connection: sqlite3.Connection, record_seq: int) -> list[Known]:
    rows = connection.execute(
        "SELECT p.* FROM pointers p JOIN record_pointers r ON r.pointer_seq = p.seq WHERE r.record_seq = ?"
        " ORDER BY r.position",
        (record_seq,),
    ).fetchall()
    return [_known(row) for row in rows]


def _grade_today(
    connection: sqlite3.Connection, record: StoredRecord, source: str, members: Sequence[Known]
) -> Sensitivity:
    """An old version may hold what has since been found to be more sensitive."""
    inside = {one.facts.key for one in members}
    newest = newest_records(connection, source, record.pseudonym)
    grades = [
        one.sensitivity
        for one in newest
        if one.record_id == record.record_id
        or any(f"{leaf.resource_type}/{leaf.resource_id}" in inside for leaf in one.resources)
    ]
    return max([record.sensitivity, *grades])


def _known(row: Sequence[Any]) -> Known:
    try:
        facts = _facts.decode(row[11])
        return Known(
            seq=row[0],
            first_seq=row[8],
            pointer=Pointer(row[3], _key(row[4])),
            version=row[7],
            salt=row[9],
            commitment=row[10],
            facts=facts,
            gone_s=row[13],
        )
    except (msgspec.MsgspecError, UnicodeDecodeError, TypeError):
        raise Tampered("what is stored about a result cannot be read") from None


def _record(row: Sequence[Any], members: Sequence[Known]) -> StoredRecord:
    try:
        category, sensitivity = Category(row[6]), Sensitivity(row[7])
    except ValueError:
        raise Tampered("a stored record has an unknown category or grade") from None
    return StoredRecord(
        record_id=row[3],
        version=row[4],
        pseudonym=row[2],
        category=category,
        sensitivity=sensitivity,
        effective_day=row[9],
        root=row[10],
        resource_count=len(members),
        resources=tuple(
            ResourceLeaf(
                resource_type=one.facts.resource_type, resource_id=one.facts.resource_id, commitment=one.commitment
            )
            for one in members
        ),
        labels=tuple(str(row[8]).split()),
        group=row[5],
        received_s=row[11],
    )


def _written(key: Key) -> str:
    """A key as text that keeps numbers and texts apart."""
    return msgspec.json.encode(key).decode()


def _key(text: str) -> Key:
    return msgspec.json.decode(text, type=int | str)
