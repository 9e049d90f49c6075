"""Goal: after an erasure neither the file nor its write-ahead log has a byte of the record; nothing else is touched.

Method: real bundles in a real file; every salt, commitment and stretch of content of the erased record is then searched
in the raw bytes on the disk, also after a crash between the two steps.
"""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from carechain.charts import store as store_module
from carechain.charts.record import StoredRecord, check
from carechain.charts.schema import ChartsUnavailable, open_engine
from carechain.charts.store import Charts, ChartsCode
from carechain.core.rejection import Rejected
from carechain.demo import synthetic
from older_charts import to_format

ERASED_S = 1_760_000_500
STRETCH = 48


def on_disk(path: Path) -> bytes:
    return b"".join(one.read_bytes() for one in sorted(path.parent.glob(f"{path.name}*")))


def traces(charts: Charts, record_id: bytes) -> set[bytes]:
    """What must be gone: salts, commitments, and every stretch of the content of all versions."""
    found = {record_id}
    for version in charts.history(record_id):
        content = charts.read(record_id, version.version)
        for part, leaf in zip(content.resources, version.resources, strict=True):
            found |= {part.salt, leaf.commitment}
            found |= {part.body[at : at + STRETCH] for at in range(0, len(part.body) - STRETCH, STRETCH)}
    return found


def contents(charts: Charts, records: list[StoredRecord]) -> bytes:
    """Everything that stays, in one piece: what resources say in the same words is not a trace of the erased one."""
    parts = [
        part
        for one in records
        for version in charts.history(one.record_id)
        for part in charts.read(one.record_id, version.version).resources
    ]
    return b"\0".join(part.body + part.salt for part in parts)


def named(records: tuple[StoredRecord, ...], group: str) -> StoredRecord:
    return next(one for one in records if one.group == group)


@pytest.fixture
def full(charts: Charts, path: Path) -> tuple[Charts, Path]:
    """Several synthetic patients, each in a file of some pages."""
    for number in range(4):
        charts.ingest(
            pseudonym=bytes([number]) * 32,
            bundle=synthetic.patient(number, seed=1),
            received_s=1_760_000_000,
            rng=os.urandom,
        )
    return charts, path


def test_no_byte_of_it_is_left_on_the_disk_and_everything_else_reads_as_before(full: tuple[Charts, Path]) -> None:
    charts, path = full
    mine = bytes([1]) * 32
    going, *staying = charts.records_of(mine)
    others = [one for number in (0, 2, 3) for one in charts.records_of(bytes([number]) * 32)]
    gone = traces(charts, going.record_id)
    kept = contents(charts, [*staying, *others])
    own = [trace for trace in gone - {going.record_id} if trace not in kept]
    before = on_disk(path)
    assert len(own) > 10
    assert all(trace in before for trace in own)
    assert charts.erase(mine, going.record_id, erased_s=ERASED_S)
    left = on_disk(path)
    assert [trace for trace in own if trace in left] == []
    for one in (*staying, *others):
        check(charts.read(one.record_id), one.root)
    assert charts.records_of(mine) == tuple(staying)


def test_all_versions_go_together(desk: Any, charts: Charts, path: Path) -> None:
    (first,) = (one for one in desk.send(*desk.visit()[:1]).records if one.group == "Encounter/e1")
    changed = {**desk.visit()[0], "status": "finished and corrected by somebody else"}
    desk.send(changed)
    assert charts.record(first.record_id).version == 2
    gone = traces(charts, first.record_id)
    assert charts.erase(desk.PSEUDONYM, first.record_id, erased_s=ERASED_S)
    left = on_disk(path)
    assert [trace for trace in gone - {first.record_id} if trace in left] == []
    for version in (None, 1, 2):
        with pytest.raises(Rejected) as refused:
            charts.read(first.record_id, version)
        assert refused.value.code is ChartsCode.RECORD_NOT_FOUND


def test_another_pseudonym_cannot_name_it(desk: Any, charts: Charts) -> None:
    """Record ids stand on the ledger for every member to see: an order counts for its own patient's record only."""
    (record, *_) = desk.send(*desk.visit()).records
    assert not charts.erase(b"q" * 32, record.record_id, erased_s=ERASED_S)
    assert charts.held_among([(b"q" * 32, record.record_id)]) == set()
    check(charts.read(record.record_id), record.root)


def test_erasing_again_or_what_is_not_there_is_nothing(desk: Any, charts: Charts) -> None:
    (record, *_) = desk.send(*desk.visit()).records
    about = (desk.PSEUDONYM, record.record_id)
    assert charts.held_among([about, (desk.PSEUDONYM, b"?" * 32)]) == {about}
    assert charts.erase(*about, erased_s=ERASED_S)
    assert charts.held_among([about]) == set()
    assert not charts.erase(*about, erased_s=ERASED_S)
    assert not charts.erase(desk.PSEUDONYM, b"?" * 32, erased_s=ERASED_S)


def test_what_another_record_holds_too_stays_with_that_one(desk: Any, charts: Charts) -> None:
    """A loose result that later joins an encounter is in both records; erasing one leaves the other whole."""
    result = desk.about("Observation", "o1", code=desk.coded("718-7"), effectiveDateTime="2024-05-06")
    loose = next(one for one in desk.send(result).records if one.resources[0].resource_id == "o1")
    joined = {**result, "encounter": {"reference": "Encounter/e1"}}
    visit = named(desk.send(desk.visit()[0], joined).records, "Encounter/e1")
    shared = {part.salt for part in charts.read(loose.record_id).resources} & {
        part.salt for part in charts.read(visit.record_id).resources
    }
    assert charts.erase(desk.PSEUDONYM, loose.record_id, erased_s=ERASED_S)
    check(charts.read(visit.record_id), visit.root)
    assert shared <= {part.salt for part in charts.read(visit.record_id).resources}
    assert charts.erase(desk.PSEUDONYM, visit.record_id, erased_s=ERASED_S)


def test_the_chart_goes_on_after_an_erasure(desk: Any, charts: Charts) -> None:
    """What arrives again is a new record under a new id, and corrections of the others still work."""
    first = named(desk.send(*desk.visit()).records, "Encounter/e1")
    charts.erase(desk.PSEUDONYM, first.record_id, erased_s=ERASED_S)
    again = named(desk.send(*desk.visit()).records, "Encounter/e1")
    assert again.record_id != first.record_id
    assert again.version == 1
    check(charts.read(again.record_id), again.root)
    corrected = desk.send({**desk.visit()[0], "status": "finished"}, *desk.visit()[1:])
    assert named(corrected.records, "Encounter/e1").version == 2


def test_who_the_patient_is_goes_with_the_last_resource_that_says_it(desk: Any, charts: Charts, path: Path) -> None:
    person = {**desk.PATIENT, "name": [{"text": "王 雪梅"}], "identifier": [{"value": "MRN-884422"}]}
    found = desk.post(desk.pack(*desk.visit(), person)).records
    about_her = next(one for one in found if any(leaf.resource_type == "Patient" for leaf in one.resources))
    charts.erase(desk.PSEUDONYM, about_her.record_id, erased_s=ERASED_S)
    known = charts.local_patient(desk.PSEUDONYM)
    if known is not None:
        assert (known.name, known.mrn) == (None, None)
    assert "王 雪梅".encode() not in on_disk(path)
    assert b"MRN-884422" not in on_disk(path)
    for one in charts.records_of(desk.PSEUDONYM):
        charts.erase(desk.PSEUDONYM, one.record_id, erased_s=ERASED_S)
    assert charts.local_patient(desk.PSEUDONYM) is None


def test_a_crash_before_the_log_was_cut_is_made_good(
    desk: Any, charts: Charts, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows are gone, their bytes are not: the file still counts as holding the record."""
    (record, *_) = desk.send(*desk.visit()).records
    about = (desk.PSEUDONYM, record.record_id)
    gone = traces(charts, record.record_id) - {record.record_id}

    def fails(*_: object) -> None:
        raise ChartsUnavailable("power cut")

    with monkeypatch.context() as broken:
        broken.setattr(store_module, "forget_deleted", fails)
        with pytest.raises(ChartsUnavailable):
            charts.erase(*about, erased_s=ERASED_S)
    assert any(trace in on_disk(path) for trace in gone)
    with Charts.open(path) as reopened:
        assert reopened.held_among([about]) == {about}
        assert reopened.erase(*about, erased_s=ERASED_S)
        assert reopened.held_among([about]) == set()
    left = on_disk(path)
    assert not any(trace in left for trace in gone)


def test_a_reader_that_does_not_end_delays_it_and_is_said(
    desk: Any, charts: Charts, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (record, *_) = desk.send(*desk.visit()).records
    about = (desk.PSEUDONYM, record.record_id)
    monkeypatch.setattr("carechain.charts.dialect.DATABASE_BUSY_S", 0)
    with Charts.open(path) as hasty, closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM resources").fetchone()
        with pytest.raises(ChartsUnavailable):
            hasty.erase(*about, erased_s=ERASED_S)
        reader.execute("COMMIT")
        assert hasty.erase(*about, erased_s=ERASED_S)


def test_every_connection_overwrites_what_it_deletes(path: Path) -> None:
    """How SQLite was built decides the default; what is said explicitly holds everywhere."""
    engine = open_engine(path)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA secure_delete").scalar() == 1
    engine.dispose()


def test_a_file_of_the_first_format_gains_what_erasing_needs(desk: Any, charts: Charts, path: Path) -> None:
    (record, *_) = desk.send(*desk.visit()).records
    charts.close()
    to_format(path, 1)
    with Charts.open(path) as newer:
        assert newer.erase(desk.PSEUDONYM, record.record_id, erased_s=ERASED_S)
