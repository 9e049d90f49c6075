"""An organisation's own FHIR repository, on one SQLite file or in a PostgreSQL database (REC-1, REC-4, REC-5).

Bytes are kept as received; history is append-only; one bundle is one transaction. Time and randomness are
arguments. What :meth:`Charts.read` returns is what the database says now: :func:`check` it against the root
on the ledger before it is served or believed.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, Engine, and_, or_, select

from carechain.charts.assistant import Assistant
from carechain.charts.binding import bind
from carechain.charts.bundle import parse
from carechain.charts.charting import SECOND_US, Arrival
from carechain.charts.checkpointing import Checkpointing
from carechain.charts.codes import ChartsCode
from carechain.charts.dialect import WRITE_OPTION, forget_deleted, glancing, rows_changed
from carechain.charts.erasing import delete_record, held_among, note_overwritten
from carechain.charts.index_schema import INDEX_TABLES, live
from carechain.charts.indexing import Index
from carechain.charts.ingest import ingest_bundle, store_directory
from carechain.charts.migrations import choose_zone, prepare
from carechain.charts.reading import find_record, is_latest, load_records, read_content
from carechain.charts.rebuilding import refresh_chart
from carechain.charts.record import (
    IngestResult,
    LocalPatient,
    RecordContent,
    ResourceContent,
    ResourceLeaf,
    StoredRecord,
    Tampered,
    check,
    check_resource,
)
from carechain.charts.resource_types import DIRECTORY
from carechain.charts.schema import (
    ChartsUnavailable,
    StoreTooNew,
    directory,
    environment,
    open_engine,
    patients,
    record_resources,
    records,
    resources,
)
from carechain.core.hashing import HASH_SIZE
from carechain.core.limits import QUERY_PAGE_ROWS
from carechain.core.rejection import Rejected, require
from carechain.core.scope import LAST_DAY
from carechain.core.suite import Institution
from carechain.core.vocabulary import ALL_CATEGORIES, Category, Sensitivity, in_mask

__all__ = (
    "Charts",
    "ChartsCode",
    "ChartsUnavailable",
    "IngestResult",
    "LocalPatient",
    "RecordContent",
    "ResourceContent",
    "ResourceLeaf",
    "StoreTooNew",
    "StoredRecord",
    "Tampered",
    "check",
    "check_resource",
)

PAGE_ROWS: Final = QUERY_PAGE_ROWS
_WITH_CONTENT: Final = (resources, records, record_resources, patients, live, *INDEX_TABLES)
"""What an erasure takes rows from."""


class Charts:
    """The repository. Safe to use from several threads; one writer at a time.

    Every method raises :class:`ChartsUnavailable` when the database cannot be used, and ``Rejected`` with a
    :class:`ChartsCode` when the caller asked for something it cannot have.
    """

    def __init__(self, engine: Engine, institution: Institution) -> None:
        self.institution = institution
        self._engine = engine
        self._writer = engine.execution_options(**{WRITE_OPTION: True})
        self._glancing = glancing(engine)
        self._checkpointing = Checkpointing(engine)
        self.assistant = Assistant()

    @classmethod
    def open(
        cls,
        place: Path | str,
        institution: Institution = Institution.INTERNATIONAL,
        *,
        zone: ZoneInfo | None = None,
    ) -> Self:
        """Open or create the charts at ``place``; an older format is brought forward, a newer one refused.

        ``place`` is the path of a SQLite file, or the ``postgresql+psycopg://`` address of a database of their own.
        ``institution`` is the suite of the network that the records are anchored on: it never changes. ``zone`` is
        where dates without an offset count for searches; another one than before builds the index again, None keeps
        what it is (UTC at first). Raises :class:`StoreTooNew` and :class:`ChartsUnavailable`.
        """
        engine = open_engine(place)
        try:
            prepare(engine)
            if zone is not None:
                choose_zone(engine, str(zone))
        except BaseException:
            engine.dispose()
            raise
        return cls(engine, institution)

    def close(self) -> None:
        """Let go of every connection."""
        self.assistant.close()
        self._checkpointing.close()
        self._glancing.dispose()
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """A connection that sees one moment and writes nothing."""
        with environment(), self._engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def glance(self) -> Iterator[Connection]:
        """A connection whose statements each see a moment of their own, and find what they want by a key."""
        with environment(), self._glancing.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Connection]:
        """The one writer's connection; an exception takes back everything."""
        self._checkpointing.require_sound()
        with environment():
            with self._writer.begin() as connection:
                before = rows_changed(connection)
                yield connection
                changed = rows_changed(connection) - before
            self._checkpointing.committed(changed)

    def arrival(self, *, now_us: int, rng: Callable[[int], bytes]) -> Arrival:
        """The circumstances of something that is written now (Unix microseconds)."""
        return Arrival(received_us=now_us, rng=rng, institution=self.institution)

    def ingest(
        self,
        *,
        pseudonym: bytes,
        bundle: bytes,
        received_s: int,
        rng: Callable[[int], bytes],
        waits: bool = False,
    ) -> IngestResult:
        """Add one FHIR R4 bundle to a patient's chart, wholly or not at all.

        ``pseudonym`` is the patient's 32-byte pseudonym at this organisation; ``rng(n)`` returns n random
        bytes (record ids and salts). Known bytes change nothing; a changed resource makes a new version of
        its record. With ``waits`` the node anchors what is new, for callers that do not anchor themselves.
        Raises :class:`Tampered` when a record that would get a new version was altered.
        """
        require(len(pseudonym) == HASH_SIZE, ChartsCode.BAD_PSEUDONYM)
        parsed = parse(bundle)
        arrival = self.arrival(now_us=received_s * SECOND_US, rng=rng)
        with self.transaction() as connection:
            return ingest_bundle(connection, parsed, pseudonym, arrival, Index(connection), waits=waits)

    def ingest_directory(self, *, bundle: bytes, received_s: int) -> int:
        """Keep a bundle of shared resources (organisations, practitioners, places); returns their count."""
        parsed = parse(bundle)
        shared_only = all(entry.resource_type in DIRECTORY for entry in parsed.entries)
        require(shared_only, ChartsCode.DIRECTORY_ONLY)
        arrival = self.arrival(now_us=received_s * SECOND_US, rng=bytes)
        with self.transaction() as connection:
            index = Index(connection)
            count = store_directory(connection, parsed.entries, arrival, index)
            index.flush()
            return count

    def bind(self, patient_id: str, pseudonym: bytes) -> bool:
        """File a patient under the pseudonym the registrar bound; True when a chart was there and moved.

        From then on the patient's records are anchored. Raises ``Rejected``: BAD_PSEUDONYM,
        PATIENT_HAS_OTHER_PSEUDONYM, PSEUDONYM_HAS_OTHER_PATIENT.
        """
        with self.transaction() as connection:
            return bind(connection, patient_id, pseudonym)

    def read(self, record_id: bytes, version: int | None = None) -> RecordContent:
        """A record with its resources' bytes, salts and audit paths; the newest version unless one is named."""
        with self.snapshot() as connection:
            return read_content(connection, record_id, version, self.institution)

    def record(self, record_id: bytes, version: int | None = None) -> StoredRecord:
        """A record's description without its content."""
        with self.snapshot() as connection:
            return find_record(connection, record_id, version)

    def history(self, record_id: bytes) -> tuple[StoredRecord, ...]:
        """Every version of a record, oldest first; raises ``Rejected(RECORD_NOT_FOUND)`` when there is none."""
        query = select(records).where(records.c.record_id == record_id).order_by(records.c.version)
        with self.snapshot() as connection:
            found = tuple(load_records(connection, query))
        require(found, ChartsCode.RECORD_NOT_FOUND)
        return found

    def records_of(self, pseudonym: bytes) -> tuple[StoredRecord, ...]:
        """The newest version of each of a patient's records, by clinical day; for the custodian's own use."""
        query = (
            select(records)
            .where(records.c.pseudonym == pseudonym, is_latest())
            .order_by(records.c.effective_day, records.c.record_id)
        )
        with self.snapshot() as connection:
            return tuple(load_records(connection, query))

    def search(
        self,
        pseudonym: bytes,
        *,
        ceiling: Sensitivity,
        categories: int = ALL_CATEGORIES,
        first_day: int = 0,
        last_day: int = LAST_DAY,
        limit: int = PAGE_ROWS,
        after: tuple[int, bytes] | None = None,
    ) -> tuple[StoredRecord, ...]:
        """A page of a patient's newest record versions inside a scope, by clinical day and record id.

        ``categories`` is a bit mask; days are since 1900-01-01; ``after`` is the ``(effective_day,
        record_id)`` of the last row of the page before. The ceiling is part of the query, so that nothing
        above it shows in counts or pages. Raises ``Rejected(BAD_SEARCH)``.
        """
        sound = 0 < categories <= ALL_CATEGORIES and 0 <= first_day <= last_day and 0 < limit <= PAGE_ROWS
        require(sound, ChartsCode.BAD_SEARCH)
        wanted = [int(category) for category in Category if in_mask(category, categories)]
        query = (
            select(records)
            .where(records.c.pseudonym == pseudonym, is_latest(), records.c.category.in_(wanted))
            .where(records.c.sensitivity <= int(ceiling), records.c.effective_day.between(first_day, last_day))
            .order_by(records.c.effective_day, records.c.record_id)
            .limit(limit)
        )
        if after is not None:
            day, record_id = after
            same_day = and_(records.c.effective_day == day, records.c.record_id > record_id)
            query = query.where(or_(records.c.effective_day > day, same_day))
        with self.snapshot() as connection:
            return tuple(load_records(connection, query))

    def held_among(self, named: Sequence[tuple[bytes, bytes]]) -> set[tuple[bytes, bytes]]:
        """Of which of these records (pseudonym, record id) the file has anything, be it only bytes not overwritten."""
        with self.snapshot() as connection:
            return held_among(connection, named)

    def erase(self, pseudonym: bytes, record_id: bytes, *, erased_s: int) -> bool:
        """Destroy a patient's record in all its versions, with its salts; False when there was nothing.

        When it returns, a SQLite file and its write-ahead log have no byte of it. In PostgreSQL no statement reaches it
        any more, but bytes stay in free space and in the write-ahead log until the server uses these again. What other
        resources say about it, copies and backups, and what a disk keeps of overwritten blocks are not reached.
        ``erased_s`` is Unix time. Raises :class:`ChartsUnavailable` also when somebody reads for too long; then do it
        again.
        """
        with self.transaction() as connection:
            if delete_record(connection, pseudonym, record_id, erased_s=erased_s):
                refresh_chart(connection, Index(connection), pseudonym)
            if not held_among(connection, [(pseudonym, record_id)]):
                return False
        forget_deleted(self._engine, _WITH_CONTENT)
        with self.transaction() as connection:
            note_overwritten(connection)
        return True

    def unbound(self, after: str, limit: int) -> list[tuple[str, str]]:
        """Patients whom no registrar has bound, with the existing id that is known of each, by local id."""
        query = (
            select(patients.c.patient_id, patients.c.mrn)
            .where(patients.c.bound == 0, patients.c.mrn.is_not(None), patients.c.patient_id > after)
            .order_by(patients.c.patient_id)
            .limit(limit)
        )
        with self.snapshot() as connection:
            return [(row.patient_id, row.mrn) for row in connection.execute(query)]

    def local_patient(self, pseudonym: bytes) -> LocalPatient | None:
        """Who a pseudonym is, for the organisation's own staff; None when it has no chart here."""
        with self.snapshot() as connection:
            row = connection.execute(select(patients).where(patients.c.pseudonym == pseudonym)).one_or_none()
        if row is None:
            return None
        return LocalPatient(pseudonym=row.pseudonym, patient_id=row.patient_id, mrn=row.mrn, name=row.name)

    def shared(self, resource_type: str, resource_id: str) -> bytes:
        """The newest bytes of a shared resource (Practitioner, Organization, …); ``Rejected`` when unknown."""
        query = (
            select(directory.c.body)
            .where(directory.c.resource_type == resource_type, directory.c.resource_id == resource_id)
            .order_by(directory.c.version.desc())
            .limit(1)
        )
        with self.snapshot() as connection:
            body = connection.execute(query).scalar_one_or_none()
        if body is None:
            raise Rejected(ChartsCode.RECORD_NOT_FOUND)
        return bytes(body)
