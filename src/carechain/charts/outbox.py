"""Record versions that were written through the FHIR server and wait to be anchored (REC-1)."""

from collections.abc import Sequence

from sqlalchemy import Connection, delete, select

from carechain.charts.dialect import add_rows
from carechain.charts.reading import load_records
from carechain.charts.record import StoredRecord
from carechain.charts.schema import patients, records, waiting_records


def wait_for_anchor(connection: Connection, record_seqs: Sequence[int]) -> None:
    """Note record versions, by their row numbers, as waiting."""
    add_rows(connection, waiting_records, [(seq,) for seq in record_seqs])


def unanchored(connection: Connection, limit: int) -> list[StoredRecord]:
    """Waiting record versions of bound patients, oldest first; whether the ledger has them is for the caller to see.

    Versions of unbound patients wait until the patient is bound; the organisation's own chart is never anchored.
    """
    query = (
        select(records)
        .join(waiting_records, waiting_records.c.record_seq == records.c.seq)
        .join(patients, patients.c.pseudonym == records.c.pseudonym)
        .where(patients.c.bound == 1)
        .order_by(records.c.seq)
        .limit(limit)
    )
    return load_records(connection, query)


def mark_anchored(connection: Connection, anchored: Sequence[tuple[bytes, int]]) -> None:
    """Take record versions (id, version) off the list; those that are not on it change nothing."""
    for record_id, version in anchored:
        seq = select(records.c.seq).where(records.c.record_id == record_id, records.c.version == version)
        connection.execute(delete(waiting_records).where(waiting_records.c.record_seq.in_(seq)))
