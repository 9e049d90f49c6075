"""Which pseudonym a patient's chart lies under, and moving it when the registrar has bound the patient (ID-4).

A patient that no relationship on the ledger names yet has a provisional pseudonym made from the local id: it stands in
this organisation's database only and is never anchored.
"""

from typing import Final

from sqlalchemy import Connection, delete, exists, insert, select, update

from carechain.charts.codes import ChartsCode
from carechain.charts.index_schema import live, shelves
from carechain.charts.schema import patients, records, resources
from carechain.core.hashing import HASH_SIZE, tagged
from carechain.core.rejection import require

_MOVING: Final = "?"
"""Stands for the id of the patient that is being moved; no FHIR id looks like it."""


def provisional(patient_id: str) -> bytes:
    """The pseudonym of a patient that is not bound yet."""
    return tagged("carechain/charts/unbound/1", patient_id.encode())


def bind(connection: Connection, patient_id: str, pseudonym: bytes) -> bool:
    """File a patient under the ledger's pseudonym; True when a chart moved.

    Unknown patients are noted, so that what arrives about them later is filed right. Raises ``Rejected``:
    BAD_PSEUDONYM,
    PATIENT_HAS_OTHER_PSEUDONYM, PSEUDONYM_HAS_OTHER_PATIENT.
    """
    require(len(pseudonym) == HASH_SIZE, ChartsCode.BAD_PSEUDONYM)
    here = connection.execute(select(patients).where(patients.c.pseudonym == pseudonym)).one_or_none()
    known = connection.execute(select(patients).where(patients.c.patient_id == patient_id)).one_or_none()
    fixed = known is not None and known.pseudonym != pseudonym and known.bound
    require(not fixed, ChartsCode.PATIENT_HAS_OTHER_PSEUDONYM)
    require(here is None or here.patient_id == patient_id, ChartsCode.PSEUDONYM_HAS_OTHER_PATIENT)
    if known is None:
        connection.execute(insert(patients).values(pseudonym=pseudonym, patient_id=patient_id, bound=1))
        return False
    if known.pseudonym == pseudonym:
        connection.execute(update(patients).where(patients.c.pseudonym == pseudonym).values(bound=1))
        return False
    _move(connection, known.pseudonym, pseudonym)
    return True


def _move(connection: Connection, old: bytes, new: bytes) -> None:
    """Give a chart another pseudonym; its shelves keep their numbers, so no index row changes."""
    of_old = connection.execute(select(patients).where(patients.c.pseudonym == old)).one()
    connection.execute(update(patients).where(patients.c.pseudonym == old).values(patient_id=_MOVING))
    connection.execute(
        insert(patients).values(pseudonym=new, patient_id=of_old.patient_id, mrn=of_old.mrn, name=of_old.name, bound=1)
    )
    # Left over from a chart that was erased: nothing stands on them.
    unused = ~exists().where(live.c.shelf == shelves.c.shelf)
    connection.execute(delete(shelves).where(shelves.c.pseudonym == new, unused))
    for table in (resources, records, shelves):
        connection.execute(update(table).where(table.c.pseudonym == old).values(pseudonym=new))
    connection.execute(delete(patients).where(patients.c.pseudonym == old))
