"""Goal: the repository keeps exact bytes and every version, all or nothing, and alteration behind its back shows.

Method: bundles through the public API; tampering through a plain SQLite connection; every check by hash.
"""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import text

from carechain.charts import ingest as ingest_module
from carechain.charts.migrations import prepare
from carechain.charts.record import check, check_resource, root_of
from carechain.charts.schema import SCHEMA_VERSION, environment, open_engine
from carechain.charts.store import Charts, ChartsCode, ChartsUnavailable, StoredRecord, StoreTooNew, Tampered
from carechain.core.commitment import resource_commitment
from carechain.core.rejection import Rejected
from carechain.core.suite import Institution
from carechain.core.vocabulary import Category, Sensitivity


@pytest.fixture(params=list(Institution), ids=lambda one: one.name)
def institution(request: pytest.FixtureRequest) -> Institution:
    found: Institution = request.param
    return found


@contextlib.contextmanager
def behind_its_back(path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(path)
    with contextlib.closing(connection), connection:
        yield connection


def named(records: tuple[StoredRecord, ...], group: str) -> StoredRecord:
    return next(one for one in records if one.group == group)


def test_what_is_read_is_what_was_received_and_leads_to_the_root(desk: Any, charts: Charts) -> None:
    found = desk.post(desk.pack(*desk.visit(), {**desk.PATIENT, "name": [{"text": "王 雪梅"}]}))
    for record in found.records:
        content = charts.read(record.record_id)
        assert content.record == record == charts.record(record.record_id)
        assert content.sensitivity is record.sensitivity
        check(content, record.root, charts.institution)
        for part, leaf in zip(content.resources, record.resources, strict=True):
            assert resource_commitment(part.salt, part.body, charts.institution) == leaf.commitment
            check_resource(part, count=record.resource_count, root=record.root, institution=charts.institution)
        assert root_of([leaf.commitment for leaf in record.resources]) == record.root
        assert len(record.record_id) == len(record.root) == 32
    salts = [part.salt for one in found.records for part in charts.read(one.record_id).resources]
    assert len(set(salts)) == len(salts)


def test_decimals_and_spacing_survive_the_database(desk: Any, charts: Charts) -> None:
    data = desk.pack({**desk.PATIENT, "extension": [{"url": "u", "valueDecimal": "@"}]}).replace(b'"@"', b" 72.50 ")
    found = desk.post(data)
    assert b'"valueDecimal":  72.50 }' in charts.read(found.records[0].record_id).resources[0].body


def test_chinese_names_and_numbers_are_kept_for_staff(desk: Any, charts: Charts) -> None:
    name = {"family": "欧阳", "given": ["子涵"]}
    identifier = [{"value": "first"}, {"type": {"coding": [{"code": "MR"}]}, "value": "H-1"}]
    desk.send({**desk.PATIENT, "name": [name], "identifier": identifier})
    known = charts.local_patient(desk.PSEUDONYM)
    assert known is not None
    assert (known.patient_id, known.mrn, known.name) == ("pat-1", "H-1", "欧阳子涵")
    desk.send({**desk.PATIENT, "name": [{"family": "Doe", "given": ["Jo", "M"]}]})
    known = charts.local_patient(desk.PSEUDONYM)
    assert known is not None
    assert (known.mrn, known.name) == (None, "Jo M Doe")


def test_the_same_bundle_again_changes_nothing(desk: Any) -> None:
    first = desk.send(*desk.visit())
    again = desk.send(*desk.visit(), received_s=desk.RECEIVED_S + 90_000)
    assert again.records == ()
    assert again.new_resources == 0
    assert again.unchanged == len(first.records) == 5


def test_a_correction_is_a_new_version_and_the_old_one_stays(desk: Any, charts: Charts) -> None:
    first = named(desk.send(*desk.visit()).records, "Encounter/e1")
    corrected = desk.about("Condition", "c-flu", code=desk.coded("195662009"), encounter={"reference": "Encounter/e1"})
    result = desk.send(corrected, received_s=desk.RECEIVED_S + 5)
    assert [(one.group, one.version, one.record_id) for one in result.records] == [("Encounter/e1", 2, first.record_id)]
    assert charts.history(first.record_id) == (first, result.records[0])
    old, new = charts.read(first.record_id, 1), charts.read(first.record_id)
    check(old, first.root, charts.institution)
    check(new, result.records[0].root, charts.institution)
    assert b"6142004" in old.resources[1].body
    assert b"195662009" in new.resources[1].body
    assert new.resources[1].version == 2
    with pytest.raises(Tampered):
        check(new, first.root, charts.institution)


def test_a_later_bundle_adds_to_its_encounter(desk: Any) -> None:
    first = named(desk.send(*desk.visit()).records, "Encounter/e1")
    later = desk.send(desk.about("Procedure", "p", encounter={"reference": "Encounter/e1"}))
    assert [(one.record_id, one.version, one.resource_count) for one in later.records] == [(first.record_id, 2, 3)]


def test_a_chart_in_two_bundles_is_cut_like_one_in_one(desk: Any, another_desk: Callable[[], Any]) -> None:
    other = another_desk()
    visit = desk.visit()
    desk.send(*visit)
    other.send(visit[4])
    other.send(*visit[:4])
    mine = {one.group: (one.sensitivity, one.category) for one in desk.charts.records_of(desk.PSEUDONYM)}
    theirs = {one.group: (one.sensitivity, one.category) for one in other.charts.records_of(desk.PSEUDONYM)}
    assert mine == theirs


def test_a_correction_that_makes_something_sensitive_lifts_what_refers_to_it(desk: Any, charts: Charts) -> None:
    visit = desk.visit()
    visit[2] = {**visit[2], "code": desk.coded("38341003")}
    first = desk.send(*visit)
    assert {one.sensitivity for one in first.records} == {Sensitivity.N}
    result = desk.send({**visit[2], "code": desk.coded("86406008")})
    raised = {one.group: one.sensitivity for one in result.records}
    assert raised == {
        "Encounter/e1": Sensitivity.N,
        "Condition/c-hiv": Sensitivity.V,
        "MedicationRequest/m-hiv": Sensitivity.V,
        "Claim/cl1": Sensitivity.V,
    }
    encounter = named(result.records, "Encounter/e1")
    assert charts.read(encounter.record_id).sensitivity is Sensitivity.N
    assert charts.read(encounter.record_id, 1).record.sensitivity is Sensitivity.N
    assert charts.read(encounter.record_id, 1).sensitivity is Sensitivity.V


def test_a_grade_never_falls_and_a_record_is_never_emptied(desk: Any, charts: Charts) -> None:
    visit = desk.visit()
    first = desk.send(*visit)
    result = desk.send({**visit[2], "code": desk.coded("38341003")})
    assert named(result.records, "Encounter/e1").resource_count == 4
    alone = charts.record(named(first.records, "Condition/c-hiv").record_id)
    assert (alone.version, alone.sensitivity, alone.resource_count) == (2, Sensitivity.V, 1)
    check(charts.read(alone.record_id), alone.root, charts.institution)
    assert charts.record(named(first.records, "Claim/cl1").record_id).sensitivity is Sensitivity.V


def test_a_refused_bundle_leaves_nothing(desk: Any, charts: Charts, monkeypatch: pytest.MonkeyPatch) -> None:
    """The failure comes last, when every resource has been written; the transaction takes them back."""
    before = desk.send(desk.about("Basic", "b"))

    def fail(*_: object) -> None:
        raise Rejected(ChartsCode.TOO_MANY_RESOURCES)

    monkeypatch.setattr(ingest_module, "store_directory", fail)
    with pytest.raises(Rejected):
        desk.send(*desk.visit())
    monkeypatch.undo()
    assert {one.record_id for one in charts.records_of(desk.PSEUDONYM)} == {one.record_id for one in before.records}
    assert desk.send(*desk.visit()).new_resources == 5


def test_pages_follow_each_other_without_gap_or_overlap(desk: Any, charts: Charts) -> None:
    flags = [desk.about("Flag", f"f{n}", period={"start": f"2024-01-{n % 5 + 1:02d}"}) for n in range(12)]
    tasks = [desk.about("Task", f"t{n}", authoredOn=f"2024-02-{n + 1:02d}") for n in range(7)]
    desk.send(*flags, *tasks)
    everything = charts.records_of(desk.PSEUDONYM)
    seen: list[StoredRecord] = []
    after = None
    while page := charts.search(desk.PSEUDONYM, ceiling=Sensitivity.V, limit=5, after=after):
        seen += page
        after = (page[-1].effective_day, page[-1].record_id)
    assert tuple(seen) == everything
    window = charts.search(
        desk.PSEUDONYM, ceiling=Sensitivity.V, first_day=seen[1].effective_day, last_day=seen[3].effective_day
    )
    assert window == everything[1:4]
    assert charts.search(b"q" * 32, ceiling=Sensitivity.V) == ()


TAMPERING = [
    "UPDATE resources SET body = CAST(replace(CAST(body AS TEXT), '6142004', '6142005') AS BLOB)",
    "UPDATE resources SET body = replace(CAST(body AS TEXT), '6142004', '6142005')",
    "UPDATE resources SET body = CAST(body AS TEXT) || x'ff'",
    "UPDATE resources SET body = 5",
    "UPDATE resources SET salt = zeroblob(32)",
    "DELETE FROM record_resources WHERE position = 0",
    "UPDATE record_resources SET position = 9 - position",
    "UPDATE record_resources SET resource_seq = 1",
    "DELETE FROM record_resources",
]


@pytest.mark.parametrize("statement", TAMPERING)
def test_alteration_behind_its_back_is_detected(desk: Any, charts: Charts, path: Path, statement: str) -> None:
    record = named(desk.send(*desk.visit()).records, "Encounter/e1")
    check(charts.read(record.record_id), record.root, charts.institution)
    with behind_its_back(path) as connection:
        connection.execute(statement)
    with pytest.raises(Tampered):
        check(charts.read(record.record_id), record.root, charts.institution)


def test_any_flipped_byte_of_a_stored_body_is_detected(desk: Any, charts: Charts, path: Path) -> None:
    record = desk.send().records[0]
    body = charts.read(record.record_id).resources[0].body
    for position in range(len(body)):
        flipped = body[:position] + bytes([body[position] ^ 1]) + body[position + 1 :]
        with behind_its_back(path) as connection:
            connection.execute("UPDATE resources SET body = ?", (flipped,))
        with pytest.raises(Tampered):
            check(charts.read(record.record_id), record.root, charts.institution)


def test_a_new_root_does_not_help_against_the_ledgers(desk: Any, charts: Charts, path: Path) -> None:
    """Whoever alters the file consistently still cannot alter the root that the ledger has."""
    record = desk.send().records[0]
    part = charts.read(record.record_id).resources[0]
    forged = part.body.replace(b"Doe", b"Roe")
    root = root_of([resource_commitment(part.salt, forged, charts.institution)])
    with behind_its_back(path) as connection:
        connection.execute("UPDATE resources SET body = ?, sha256 = ?", (forged, sha256(forged).digest()))
        connection.execute("UPDATE records SET root = ?", (root,))
    check(charts.read(record.record_id), root, charts.institution)
    with pytest.raises(Tampered):
        check(charts.read(record.record_id), record.root, charts.institution)


def test_altered_content_gets_no_new_version(desk: Any, path: Path) -> None:
    desk.send(*desk.visit())
    with behind_its_back(path) as connection:
        connection.execute("UPDATE resources SET body = x'7b7d' WHERE resource_id = 'c-flu'")
    with pytest.raises(Tampered):
        desk.send(desk.about("Procedure", "p", encounter={"reference": "Encounter/e1"}))


@pytest.mark.parametrize(
    "statement",
    ["UPDATE records SET sensitivity = 77", "UPDATE records SET category = 'x'", "UPDATE resources SET facts = x'00'"],
)
def test_nonsense_in_a_row_is_tampering_not_a_crash(desk: Any, charts: Charts, path: Path, statement: str) -> None:
    desk.send(*desk.visit())
    with behind_its_back(path) as connection:
        connection.execute(statement)
    with pytest.raises(Tampered):
        desk.send(desk.about("Procedure", "p", encounter={"reference": "Encounter/e1"}))


def test_a_part_of_a_record_checks_alone_and_only_in_its_place(desk: Any, charts: Charts) -> None:
    record = named(desk.send(*desk.visit()).records, "Encounter/e1")
    first, second = charts.read(record.record_id).resources
    moved = msgspec.structs.replace(first, index=1)
    for part in (moved, msgspec.structs.replace(first, path=second.path), msgspec.structs.replace(first, path=())):
        with pytest.raises(Tampered):
            check_resource(part, count=2, root=record.root, institution=charts.institution)


def test_directory_bundles(desk: Any, charts: Charts) -> None:
    organisation = {"resourceType": "Organization", "id": "o", "name": "咸宁中心医院"}
    place = {"resourceType": "Location", "id": "l"}
    data = desk.bundle({"resource": organisation}, {"resource": place})
    assert charts.ingest_directory(bundle=data, received_s=1) == 2
    assert charts.ingest_directory(bundle=data, received_s=2) == 2
    changed = desk.bundle({"resource": {**organisation, "active": True}})
    assert charts.ingest_directory(bundle=changed, received_s=3) == 1
    assert b"active" in charts.shared("Organization", "o")
    assert charts.shared("Location", "l")


def test_the_chart_is_there_after_reopening(desk: Any, charts: Charts, path: Path) -> None:
    records = desk.send(*desk.visit()).records
    charts.close()
    with Charts.open(path) as again:
        assert {one.record_id for one in again.records_of(desk.PSEUDONYM)} == {one.record_id for one in records}


def test_a_newer_file_is_refused_and_an_older_one_brought_forward(path: Path) -> None:
    Charts.open(path).close()
    engine = open_engine(path)
    with pytest.raises(LookupError):
        prepare(engine, version=SCHEMA_VERSION + 1)
    steps = {SCHEMA_VERSION: lambda connection: connection.execute(text("CREATE TABLE added (id INTEGER)"))}
    prepare(engine, version=SCHEMA_VERSION + 1, migrations=steps)
    prepare(engine, version=SCHEMA_VERSION + 1, migrations=steps)
    with engine.begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM added")).scalar_one() == 0
    engine.dispose()
    with pytest.raises(StoreTooNew):
        Charts.open(path)


def test_a_broken_file_is_the_environments_failure_and_says_nothing_of_its_content(path: Path) -> None:
    path.write_bytes(b"Canary4711" * 1000)
    with pytest.raises(ChartsUnavailable) as caught:
        Charts.open(path)
    assert "Canary" not in str(caught.value)


def test_a_failed_statement_does_not_show_its_values(charts: Charts) -> None:
    with pytest.raises(ChartsUnavailable) as caught, environment(), charts._engine.begin() as connection:
        connection.execute(text("INSERT INTO patients VALUES (:a, :b)"), {"a": "Canary4711", "b": "x"})
    assert "Canary" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_what_stays_local_is_not_in_an_anchor() -> None:
    """An anchor is built from these fields of a stored record; none of them is text."""
    anchored = {"record_id": bytes, "version": int, "root": bytes, "resource_count": int, "effective_day": int}
    hints = {field.name: field.type for field in msgspec.structs.fields(StoredRecord)}
    assert all(hints[name] is kind for name, kind in anchored.items())
    assert (hints["category"], hints["sensitivity"]) == (Category, Sensitivity)
