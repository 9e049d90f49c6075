"""Erasing one record from the charts: its rows, its salts, and what the file still has of them (REC-13).

``DELETE`` alone only forgets where the bytes are. They go in two steps: every connection has ``secure_delete`` on, so
SQLite writes zeroes over what it frees; then the write-ahead log, which still has the old pages, is written back and
cut to nothing. A tombstone stays behind and says whether the second step was reached, so that a crash between the two
is made good by doing it again.

PostgreSQL has no such switch: its second step is a vacuum, after which no statement reaches the rows. Their bytes stay
in free space of the data files, and in the write-ahead log, until the server uses that space again; measured on 30
resources, a vacuum left nearly all of them in the data files, and rewriting the table (``VACUUM FULL``, for the
operator, as it stops everything) nearly none, but the write-ahead log kept them.
"""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, delete, exists, insert, select, true, update

from carechain.charts.reading import batches
from carechain.charts.schema import erased_records, patients, record_resources, records, resources, waiting_records

_PATIENT: Final = "Patient"


Named = tuple[bytes, bytes]
"""A record: its patient's pseudonym, and its id."""


def held_among(connection: Connection, named: Sequence[Named]) -> set[Named]:
    """Those of the records of which anything is here: rows, or bytes that were not overwritten yet."""
    found: set[Named] = set()
    for batch in batches([record_id for _, record_id in named]):
        for table, more in ((records, true()), (erased_records, erased_records.c.overwritten == 0)):
            rows = connection.execute(
                select(table.c.pseudonym, table.c.record_id).where(table.c.record_id.in_(batch), more).distinct()
            )
            found.update((pseudonym, record_id) for pseudonym, record_id in rows)
    return found.intersection(named)


def delete_record(connection: Connection, pseudonym: bytes, record_id: bytes, *, erased_s: int) -> bool:
    """Delete every version of a patient's record inside the caller's transaction; False when there was none.

    A resource that another record of the patient holds too stays, as part of that one: it was not ordered to go. When
    the last Patient resource goes, so do the name and number that staff see, and with the last record the patient.
    """
    mine = (records.c.record_id == record_id, records.c.pseudonym == pseudonym)
    versions = list(connection.execute(select(records.c.seq).where(*mine)).scalars())
    if not versions:
        return False
    held = select(record_resources.c.resource_seq).where(record_resources.c.record_seq.in_(versions)).distinct()
    inside = list(connection.execute(held).scalars())
    for batch in batches(versions):
        connection.execute(delete(record_resources).where(record_resources.c.record_seq.in_(batch)))
        connection.execute(delete(waiting_records).where(waiting_records.c.record_seq.in_(batch)))
        connection.execute(delete(records).where(records.c.seq.in_(batch)))
    elsewhere = exists().where(record_resources.c.resource_seq == resources.c.seq)
    for batch in batches(inside):
        connection.execute(delete(resources).where(resources.c.seq.in_(batch), ~elsewhere))
    _forget_patient(connection, pseudonym)
    connection.execute(delete(erased_records).where(erased_records.c.record_id == record_id))
    tombstone = {"record_id": record_id, "pseudonym": pseudonym, "erased_s": erased_s, "overwritten": 0}
    connection.execute(insert(erased_records).values(**tombstone))
    return True


def note_overwritten(connection: Connection) -> None:
    """Nothing of what was deleted before is in the file any more."""
    connection.execute(update(erased_records).where(erased_records.c.overwritten == 0).values(overwritten=1))


def _forget_patient(connection: Connection, pseudonym: bytes) -> None:
    """Let go of who the pseudonym is, as far as nothing that is left says it."""
    own = resources.c.pseudonym == pseudonym
    if not connection.execute(select(exists().where(own))).scalar_one():
        connection.execute(delete(patients).where(patients.c.pseudonym == pseudonym))
    elif not connection.execute(select(exists().where(own, resources.c.resource_type == _PATIENT))).scalar_one():
        connection.execute(update(patients).where(patients.c.pseudonym == pseudonym).values(name=None, mrn=None))
