"""Goal: a record of a source is exactly what was anchored or is refused; every change there is noticed (REC-1, REC-2).

Method: the clinic's database on SQLite, PostgreSQL and MariaDB in front of a real gatekeeper, on the small world's
ledger: Bert at hospital b asks with a ticket for what hospital a anchored. Rows are changed by the clinic itself.
"""

import asyncio
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from msgspec import DecodeError, ValidationError, msgpack

from carechain.charts.codes import ChartsCode
from carechain.charts.record import StoredRecord, Tampered, check
from carechain.charts.schema import ChartsUnavailable
from carechain.charts.store import Charts
from carechain.contracts.records import Erase, ErasedPart, receipts_of
from carechain.core.rejection import Rejected
from carechain.core.vocabulary import Category, Sensitivity
from carechain.gatekeeper.anchoring import anchor_of, in_transactions
from carechain.gatekeeper.codes import GatekeeperCode, Withheld
from carechain.gatekeeper.erasing import Eraser, Holdings, Swept
from carechain.gatekeeper.erasure_journal import ErasureJournal
from carechain.gatekeeper.release import Asked, Gatekeeper, Release, ReleaseRequest
from carechain.sdk.opening import OpenedRecord, open_records
from carechain.sources.base import Pointer, SourceUnavailable
from carechain.sources.codes import SourceCode
from carechain.sources.pointers import Pointers, PointersTooNew
from carechain.sources.reader import SourceReader
from carechain.sources.registry import Sources
from carechain.sources.syncing import Circumstances, Synced, sync_patient
from clinics import OUYANG, PRIVATE, WANG, Clinic
from house import House
from world import grant_of, scope_of

ALL = scope_of(*Category)


class Front:
    """Hospital a with a clinic's database behind its gatekeeper; Steve is the clinic's patient Wang."""

    def __init__(self, house: House, clinic: Clinic, home: Path) -> None:
        self.house = house
        self.clinic = clinic
        self.sources = clinic.add_to(home)
        self.pointers = Pointers.open(self.sources.pointers)
        self.reader = SourceReader(charts=house.charts, sources=self.sources)
        self.pointers.link("clinic", house.world.steve.id, WANG)
        self.gatekeeper = Gatekeeper(
            organisation=house.world.a.id,
            ledger=house.ledger,
            charts=self.reader,
            audit=house.audit,
            clock=house.clock,
            entropy=os.urandom,
        )
        house.world.grant(grant_of(house.world.steve, house.world.bert, scope=ALL), by=house.world.steve)

    def compare(self, *, anchor: bool = True) -> Synced:
        """Compare with the clinic, and anchor what that finds."""
        link = self.pointers.linked("clinic", self.house.world.steve.id)
        how = Circumstances(now_s=self.house.world.time_s, rng=os.urandom)
        synced = sync_patient(self.pointers, self.sources.source("clinic"), link, how)
        if anchor:
            for messages in in_transactions(anchor_of(one, entropy=os.urandom) for one in synced.records):
                self.house.world.done(*messages, by=self.house.world.carl)
        return synced

    def record_of(self, key: str) -> StoredRecord:
        """The newest version of the record that a result is in."""
        found = self.pointers.records_of("clinic", self.house.world.steve.id)
        return next(
            one for one in found if key in [f"{leaf.resource_type}/{leaf.resource_id}" for leaf in one.resources]
        )

    def ask(self, *asked: Asked, ticket: bytes | None = None) -> Release:
        """Bert's request through the gatekeeper."""
        request = ReleaseRequest(ticket=ticket or self.house.ticket(scope=ALL), records=asked or None)
        return asyncio.run(self.gatekeeper.release(self.house.world.bert.id, request))

    def read(self, *records: StoredRecord) -> tuple[OpenedRecord, ...]:
        """What Bert reads, opened with his key and checked against his own view of the ledger."""
        ticket = self.house.ticket(scope=ALL)
        answer = self.ask(*(Asked(one.record_id, one.version) for one in records), ticket=ticket)
        wanted = {one.record_id for one in records}
        return open_records(
            answer.sealed,
            chain_id=self.house.ledger.chain_id,
            ticket_id=ticket,
            requester=self.house.world.bert.id,
            private_key=self.house.world.bert.hpke,
            expected=[one for one in self.house.expected(ticket) if one.record_id in wanted],
        )

    def refusal(self, record: StoredRecord, version: int = 0) -> GatekeeperCode:
        with pytest.raises(Withheld) as refused:
            self.ask(Asked(record.record_id, version))
        assert isinstance(refused.value.code, GatekeeperCode)
        return refused.value.code

    def close(self) -> None:
        self.reader.close()
        self.pointers.close()


@pytest.fixture
def front(clinic: Clinic, tmp_path: Path) -> Iterator[Front]:
    (tmp_path / "house").mkdir()
    house = House(tmp_path / "house")
    opened = Front(house, clinic, tmp_path / "home")
    yield opened
    opened.close()
    house.close()


def test_rows_become_records_that_are_read_with_a_ticket(front: Front) -> None:
    synced = front.compare()
    assert (synced.results, synced.added, synced.changed, synced.deleted) == (10, 10, 0, 0)
    assert {one.category for one in synced.records} == {Category.DEMOGRAPHICS, Category.ENCOUNTER}
    opened = front.read(*synced.records)
    said = [orjson.loads(body) for record in opened for body in record.resources]
    assert len(said) == 10
    assert {"頭痛三天，夜間加劇"} <= {one.get("valueString") for one in said}
    assert any(one.get("name", [{}])[0].get("family") == "王" for one in said)
    own = {one.body for one in front.sources.source("clinic").chart(WANG)}
    assert {body for record in opened for body in record.resources} == own


def test_charts_and_sources_stand_behind_one_door(front: Front) -> None:
    front.compare()
    ticket = front.house.ticket(scope=ALL)
    answer = front.ask(ticket=ticket)
    served = {record for record, _ in answer.records}
    from_charts = {one.record_id for one in front.house.records if one.sensitivity <= ALL.ceiling}
    from_clinic = {one.record_id for one in front.pointers.records_of("clinic", front.house.world.steve.id)}
    assert from_clinic <= served
    assert served - from_clinic <= from_charts
    assert served & from_charts


def test_comparing_again_changes_nothing(front: Front) -> None:
    front.compare()
    again = front.compare()
    assert (again.added, again.changed, again.deleted, again.records, again.gone) == (0, 0, 0, (), ())


def test_an_altered_row_is_withheld_until_it_is_a_new_version(front: Front) -> None:
    front.compare()
    record = front.record_of("Observation/obs-101")
    front.clinic.do("UPDATE obs SET value_numeric = 133 WHERE obs_id = 101")
    content = front.reader.read(record.record_id)
    with pytest.raises(Tampered):
        check(content, record.root)
    assert front.refusal(record) is GatekeeperCode.RECORD_ALTERED
    other = front.record_of("Patient/7")
    assert front.read(other), "a record whose rows are as they were is served"

    synced = front.compare()
    assert (synced.added, synced.changed, synced.deleted) == (0, 1, 0)
    assert [(one.record_id, one.version) for one in synced.records] == [(record.record_id, 2)]
    (opened,) = front.read(*synced.records)
    values = {orjson.loads(one)["id"]: orjson.loads(one).get("valueQuantity") for one in opened.resources}
    assert values["obs-101"]["value"] == 133
    assert front.refusal(record, version=1) is GatekeeperCode.RECORD_MISSING, "the clinic keeps no old values"
    with pytest.raises(Rejected) as refused:
        front.reader.read(record.record_id, 1)
    assert refused.value.code is SourceCode.VERSION_NOT_KEPT


def test_a_row_that_is_changed_back_is_what_was_anchored(front: Front) -> None:
    front.compare()
    record = front.record_of("Observation/obs-101")
    front.clinic.do("UPDATE obs SET status = 'AMENDED' WHERE obs_id = 101")
    assert front.refusal(record) is GatekeeperCode.RECORD_ALTERED
    front.clinic.do("UPDATE obs SET status = 'FINAL' WHERE obs_id = 101")
    assert front.read(record)
    assert front.compare().records == ()


def test_a_value_that_the_mapping_does_not_know_is_an_alteration(front: Front) -> None:
    front.compare()
    record = front.record_of("Observation/obs-101")
    front.clinic.do("UPDATE obs SET status = 'FORGED' WHERE obs_id = 101")
    assert front.refusal(record) is GatekeeperCode.RECORD_ALTERED
    with pytest.raises(Rejected) as refused:
        front.compare()
    assert refused.value.code is SourceCode.VALUE_UNKNOWN
    assert front.pointers.records_of("clinic", front.house.world.steve.id), "a refused comparison has changed nothing"


def test_a_deleted_row_is_withheld_and_then_reported(front: Front) -> None:
    front.compare()
    record = front.record_of("Observation/obs-104")
    front.clinic.do("DELETE FROM obs WHERE obs_id = 104")
    assert front.refusal(record) is GatekeeperCode.RECORD_ALTERED
    synced = front.compare()
    assert (synced.added, synced.changed, synced.deleted, synced.gone) == (0, 0, 1, ())
    assert [(one.record_id, one.version) for one in synced.records] == [(record.record_id, 2)]
    (opened,) = front.read(*synced.records)
    assert "obs-104" not in {orjson.loads(one)["id"] for one in opened.resources}


def test_a_record_of_which_nothing_is_left_is_reported_once_and_stays_listed(front: Front) -> None:
    front.compare()
    record = front.record_of("Encounter/enc-32")
    # A clinic that never deletes strikes out instead; for its queries that is the same.
    front.clinic.do("UPDATE obs SET voided = 1 WHERE encounter_id = 32")
    front.clinic.do("UPDATE encounter SET voided = 1 WHERE encounter_id = 32")
    assert front.refusal(record) is GatekeeperCode.RECORD_MISSING
    synced = front.compare()
    assert synced.deleted == 2
    assert synced.gone == (record.record_id,)
    assert synced.records == (), "an anchor with nothing behind it cannot be made"
    assert front.compare().gone == ()
    assert [(one[0], one[1]) for one in front.pointers.gone("clinic")] == [
        (front.house.world.steve.id, record.record_id)
    ]
    assert front.refusal(record) is GatekeeperCode.RECORD_MISSING

    front.clinic.do("UPDATE encounter SET voided = 0 WHERE encounter_id = 32")
    back = front.compare()
    assert [(one.record_id, one.version) for one in back.records] == [(record.record_id, 2)]
    assert front.pointers.gone("clinic") == []
    assert front.read(*back.records)


def test_a_new_row_goes_into_its_encounters_record(front: Front) -> None:
    front.compare()
    record = front.record_of("Encounter/enc-31")
    front.clinic.do(
        "INSERT INTO obs (obs_id, person_id, concept_id, encounter_id, obs_datetime, value_numeric)"
        " VALUES (120, 7, 5088, 31, '2026-03-01 09:30:00', 36.8)"
    )
    assert front.read(record), "what is new is not yet a part of it"
    synced = front.compare()
    assert (synced.added, [(one.record_id, one.version) for one in synced.records]) == (1, [(record.record_id, 2)])


def test_sensitive_rows_stand_apart(front: Front) -> None:
    """Ouyang has an HIV disease on record, which nobody labelled."""
    front.pointers.link("clinic", b"o" * 32, OUYANG)
    link = next(one for one in front.pointers.links("clinic") if one.patient == OUYANG)
    how = Circumstances(now_s=front.house.world.time_s, rng=os.urandom)
    synced = sync_patient(front.pointers, front.sources.source("clinic"), link, how)
    grades = {one.sensitivity for one in synced.records}
    assert max(grades) > Sensitivity.N
    sensitive = [one for one in synced.records if one.sensitivity > Sensitivity.N]
    assert [[leaf.resource_id for leaf in one.resources] for one in sensitive] == [["cond-203"]]


def test_nothing_of_the_content_is_kept(front: Front) -> None:
    front.compare()
    for path in (front.sources.pointers.parent).iterdir():
        if "mapping" not in path.name:
            content = path.read_bytes()
            assert not [word for word in PRIVATE if word.encode() in content], path.name


def test_a_database_that_is_away_is_the_environment(front: Front) -> None:
    front.compare()
    record = front.record_of("Patient/7")
    front.clinic.do("ALTER TABLE person_name RENAME TO away")
    with pytest.raises(SourceUnavailable):
        front.ask(Asked(record.record_id))
    front.clinic.do("ALTER TABLE away RENAME TO person_name")
    assert front.read(record)


@pytest.mark.parametrize("clinic", ["sqlite"], indirect=True)
class TestPointers:
    """What does not depend on the database."""

    @pytest.mark.parametrize(
        "body",
        [
            {"ticket": b"t" * 32, "sql": "SELECT 1"},
            {"ticket": b"t" * 32, "records": [[b"r" * 32, 0, "SELECT 1"]]},
            {"ticket": b"t" * 32, "records": [["SELECT * FROM obs", 0]]},
            {"ticket": b"t" * 32, "query": "obs", "parameters": {"patient": 8}},
        ],
    )
    def test_a_requester_can_send_no_sql(self, front: Front, body: dict[str, object]) -> None:
        """A request names records by 32 bytes; there is no place in it for anything else."""
        del front
        with pytest.raises((ValidationError, DecodeError)):
            msgpack.decode(msgpack.encode(body), type=ReleaseRequest)

    def test_a_link_is_one_patient_and_one_pseudonym(self, front: Front) -> None:
        steve = front.house.world.steve.id
        front.pointers.link("clinic", steve, WANG)
        for pseudonym, patient in ((steve, OUYANG), (b"x" * 32, WANG)):
            with pytest.raises(Rejected) as refused:
                front.pointers.link("clinic", pseudonym, patient)
            assert refused.value.code is SourceCode.PATIENT_LINKED
        front.pointers.link("clinic", b"x" * 32, "7")
        with pytest.raises(Rejected) as refused:
            front.pointers.linked("clinic", b"y" * 32)
        assert refused.value.code is SourceCode.NOT_LINKED

    def test_a_patient_whom_the_clinic_does_not_know(self, front: Front) -> None:
        front.pointers.link("clinic", b"x" * 32, 4711)
        link = front.pointers.linked("clinic", b"x" * 32)
        with pytest.raises(Rejected) as refused:
            sync_patient(front.pointers, front.sources.source("clinic"), link, Circumstances(now_s=1, rng=os.urandom))
        assert refused.value.code is SourceCode.PATIENT_UNKNOWN

    def test_rows_without_their_patient_are_refused_whole(self, front: Front) -> None:
        front.compare()
        front.clinic.do("UPDATE person SET voided = 1 WHERE person_id = 7")
        before = front.pointers.records_of("clinic", front.house.world.steve.id)
        with pytest.raises(Rejected) as refused:
            front.compare()
        assert refused.value.code is ChartsCode.NO_PATIENT
        assert front.pointers.records_of("clinic", front.house.world.steve.id) == before

    def test_a_mapping_that_moves_a_result_makes_no_version(self, front: Front) -> None:
        front.compare()
        record = front.record_of("Observation/obs-101")
        file = front.sources.mapping_file("clinic")
        file.write_bytes(file.read_bytes().replace(b'id = "obs"', b'id = "observations"'))
        assert front.refusal(record) is GatekeeperCode.RECORD_ALTERED
        assert front.compare().records == ()
        assert front.read(record)

    def test_erasing_forgets_the_pointers_for_good(self, front: Front) -> None:
        front.compare()
        record = front.record_of("Encounter/enc-32")
        steve = front.house.world.steve.id
        named = [(steve, record.record_id)]
        salts = [one.salt for one in front.pointers.plan(record.record_id).members]
        assert front.pointers.held_among([*named, (steve, b"n" * 32)]) == set(named)
        assert not front.pointers.erase(b"x" * 32, record.record_id, erased_s=1)
        assert front.pointers.erase(steve, record.record_id, erased_s=1)
        assert front.pointers.held_among(named) == set()
        assert not front.pointers.erase(steve, record.record_id, erased_s=1)
        stored = b"".join(path.read_bytes() for path in front.sources.pointers.parent.glob("pointers*"))
        assert not [one for one in salts if one in stored], "the file has no byte of a salt"
        again = front.compare()
        assert (again.added, again.records) == (0, ()), "erased results are never pointed to again"
        assert front.refusal(record) is GatekeeperCode.RECORD_MISSING

    def test_a_patients_order_destroys_the_salts_and_is_signed_for(self, front: Front, tmp_path: Path) -> None:
        front.compare()
        world, record = front.house.world, front.record_of("Encounter/enc-32")
        salts = [one.salt for one in front.pointers.plan(record.record_id).members]
        with ErasureJournal.open(tmp_path / "erasures.sqlite") as journal:
            eraser = Eraser(
                ledger=front.house.ledger,
                journal=journal,
                key=world.a.signing,
                member=world.a.id,
                clock=front.house.clock,
                entropy=os.urandom,
                holdings=Holdings(charts=front.house.charts, pointers=front.reader),
            )
            assert asyncio.run(eraser.carry_out()) == Swept()
            world.done(Erase(pseudonym=world.steve.id, record=record.record_id), by=world.steve)
            assert asyncio.run(eraser.carry_out()) == Swept(destroyed=1, receipts=1)
            assert asyncio.run(eraser.carry_out(everything=True)) == Swept()
        ((_, receipt),) = receipts_of(front.house.ledger.view().contracts.records, world.steve.id, record.record_id)
        assert receipt.destroyed == int(ErasedPart.SALTS), "the rows are the clinic's, and no receipt says otherwise"
        stored = b"".join(path.read_bytes() for path in front.sources.pointers.parent.glob("pointers*"))
        assert not [one for one in salts if one in stored]
        assert front.refusal(record) is GatekeeperCode.RECORD_UNKNOWN
        assert front.compare().records == (), "what is erased does not come back with the next comparison"

    def test_an_old_version_is_graded_as_its_results_are_today(self, front: Front) -> None:
        front.compare()
        record = front.record_of("Encounter/enc-31")
        # Another row of the same record makes a version; nothing of the first one has changed.
        front.clinic.do("UPDATE conditions SET condition_coded = 138405 WHERE condition_id = 201")
        front.compare(anchor=False)
        assert front.pointers.plan(record.record_id, 1).sensitivity > record.sensitivity

    def test_an_altered_file_of_pointers_is_noticed(self, front: Front) -> None:
        front.compare()
        record = front.record_of("Encounter/enc-31")
        with sqlite3.connect(front.sources.pointers) as file:
            file.execute("UPDATE pointers SET salt = zeroblob(32)")
        assert front.refusal(record) is GatekeeperCode.RECORD_ALTERED
        with sqlite3.connect(front.sources.pointers) as file:
            file.execute("UPDATE pointers SET facts = x'00'")
        file.close()
        assert front.refusal(record) is GatekeeperCode.RECORD_ALTERED
        with sqlite3.connect(front.sources.pointers) as file:
            file.execute("UPDATE records SET category = 77")
        file.close()
        assert front.refusal(record) is GatekeeperCode.RECORD_ALTERED

    def test_a_newer_file_is_left_alone(self, front: Front) -> None:
        with sqlite3.connect(front.sources.pointers) as file:
            file.execute("UPDATE store_info SET version = 99")
        file.close()
        with pytest.raises(PointersTooNew):
            Pointers.open(front.sources.pointers)

    def test_a_file_that_is_no_database(self, front: Front, tmp_path: Path) -> None:
        del front
        (tmp_path / "broken").write_bytes(b"not a database, though long enough to look like one" * 50)
        with pytest.raises(ChartsUnavailable):
            Pointers.open(tmp_path / "broken")

    def test_a_home_without_sources_is_left_as_it_is(self, front: Front, tmp_path: Path) -> None:
        record = front.house.records[0]
        with Charts.open(tmp_path / "house" / "charts.sqlite") as charts:
            (tmp_path / "plain").mkdir()
            with SourceReader(charts=charts, sources=Sources(tmp_path / "plain")) as reader:
                assert reader.read(record.record_id).record == record
            assert list((tmp_path / "plain").iterdir()) == []

    def test_what_is_not_there(self, front: Front) -> None:
        with pytest.raises(Rejected) as refused:
            front.pointers.plan(b"n" * 32)
        assert refused.value.code is SourceCode.RESULT_GONE
        assert repr(front.pointers.links("clinic")[0]) == "Link(source='clinic')"
        assert Pointer("a", 1) < Pointer("b", 0)
