"""Goal: the FHIR store reads only what a sight shows, writes all or nothing, and its index always says what is stored.

Method: the real repository on SQLite and on PostgreSQL; after each story the index is compared with one that is built
again from the stored resources alone.
"""

import itertools
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import select

from carechain.charts.codes import ChartsCode
from carechain.charts.index_schema import shelves
from carechain.charts.live import ORGANISATION
from carechain.charts.record import Tampered, check
from carechain.charts.repository import Change, Reader, Stored
from carechain.charts.serving import served
from carechain.charts.sight import CUSTODIAN, NOTHING, Sight
from carechain.charts.store import Charts
from carechain.core.rejection import Rejected
from carechain.core.vocabulary import Category, Sensitivity, mask
from fhir_store import ANNA, BERT, FLU, HIV, Ward, about, change, coded, person, sees, up_to

NORMAL = sees(ANNA, scope=up_to(Sensitivity.N))
VISIT = {"reference": "Encounter/e1"}


@pytest.fixture
def ward(database_url: str) -> Iterator[Ward]:
    with Charts.open(database_url) as charts:
        made = Ward(charts)
        made.admit()
        yield made
        assert made.index() == made.rebuilt()


def read(ward: Ward, kind: str, identity: str, sight: Sight = CUSTODIAN, version: int | None = None) -> Stored | None:
    with ward.repository.reading() as reader:
        if version is None:
            return reader.read(sight, kind, identity)
        return reader.vread(sight, kind, identity, version)


def refused(ward: Ward, *changes: Change, allow: Sight = CUSTODIAN) -> ChartsCode:
    with pytest.raises(Rejected) as caught:
        ward.apply(changes, allow)
    assert isinstance(caught.value.code, ChartsCode)
    return caught.value.code


def test_versions_are_counted_and_the_bytes_are_those_that_came(ward: Ward) -> None:
    first, second = (
        b'{ "resourceType":"Basic", "subject":{"reference":"Patient/anna"}, "x": %s }' % n for n in (b"7.50", b"1")
    )
    made = [Change(resource_type="Basic", resource_id="b", body=body) for body in (first, first, second)]
    created, same, updated = (ward.apply([one])[0] for one in made)
    assert [(one.created, one.changed, one.stored.version) for one in (created, same, updated)] == [
        (True, True, 1),
        (False, False, 1),
        (False, True, 2),
    ]
    assert same.stored == created.stored
    assert updated.stored.rid == created.stored.rid
    assert read(ward, "Basic", "b") == updated.stored
    assert read(ward, "Basic", "b", version=1) == created.stored
    assert created.stored.body == first
    assert b'"x": 7.50' in served(created.stored)
    assert json.loads(served(updated.stored))["meta"]["versionId"] == "2"
    assert read(ward, "Basic", "b", version=3) is None
    assert read(ward, "Basic", "none") is None


def test_a_change_meant_for_another_version_is_refused_and_nothing_of_its_transaction_stays(ward: Ward) -> None:
    ward.put(about("Basic", "b"))
    other = change(about("Basic", "other"))
    for wrong in (change(about("Basic", "b", x=1), 2), change(about("Basic", "unknown"), 1)):
        assert refused(ward, other, wrong) is ChartsCode.VERSION_CONFLICT
    assert read(ward, "Basic", "other") is None
    (done,) = ward.apply([change(about("Basic", "b", x=1), 1)])
    assert done.stored.version == 2


def test_a_transaction_sees_what_it_wrote_and_takes_it_back(ward: Ward) -> None:
    def write() -> None:
        with ward.repository.writing(ward.now_us, ward.rng) as writer:
            writer.apply([change(about("Basic", "b"))], CUSTODIAN)
            assert writer.read(sees(ANNA), "Basic", "b") is not None
            writer.apply([change(about("Basic", "b", x=1))], CUSTODIAN)
            assert [one.version for one in writer.history(CUSTODIAN, "Basic", "b", count=9)] == [2, 1]
            writer.apply([change(about("Basic", "b"), 1)], CUSTODIAN)

    with pytest.raises(Rejected):
        write()
    assert read(ward, "Basic", "b") is None


def test_what_is_the_same_thing_twice_in_one_transaction_is_refused(ward: Ward) -> None:
    assert refused(ward, change(about("Basic", "b")), change(about("Basic", "b"))) is ChartsCode.DUPLICATE_RESOURCE


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"resourceType":"Basic","id":', ChartsCode.NOT_JSON),
        (b'["resourceType"]', ChartsCode.ENTRY_MALFORMED),
        (b'{"resourceType":"Flag"}', ChartsCode.REQUEST_URL_MISMATCH),
        (b'{"resourceType":"Basic","created":"2024-02-31"}', ChartsCode.IMPOSSIBLE_DATE),
        (b'{"resourceType":"Basic","id":"a","id":"a"}', ChartsCode.DUPLICATE_KEY),
    ],
)
def test_what_is_not_a_resource_is_refused(ward: Ward, body: bytes, code: ChartsCode) -> None:
    assert refused(ward, Change(resource_type="Basic", resource_id="b", body=body)) is code


# What a sight shows


def chart_of_all_kinds(ward: Ward) -> list[tuple[str, str]]:
    """Resources of two patients, of several categories, grades and days, a shared one and one of nobody."""
    trees = [
        about("Encounter", "e1", period={"start": "2024-05-06"}),
        about("Condition", "flu", code=coded(FLU), encounter=VISIT),
        about("Condition", "hiv", code=coded(HIV), encounter=VISIT),
        about("Observation", "o1", effectiveDateTime="2024-01-01"),
        about("Observation", "o2", effectiveDateTime="2024-06-01"),
        about("Immunization", "i1", occurrenceDateTime="1890-06-01"),
        about("Observation", "berts", "bert", effectiveDateTime="2024-06-01"),
        about("Condition", "berts-hiv", "bert", code=coded(HIV)),
        {"resourceType": "Practitioner", "id": "house"},
        {"resourceType": "Group", "id": "everybody", "type": "person", "actual": True},
    ]
    ward.put(*trees)
    return [(one["resourceType"], one["id"]) for one in [*trees, person("anna"), person("bert")]]


def test_a_sight_shows_what_the_scope_covers_and_nothing_else(ward: Ward) -> None:
    """Every scope of a grid, against the ledger's own rule over the stored records."""
    names = chart_of_all_kinds(ward)
    everything = {f"{kind}/{one}" for kind, one in names}
    records = [(one, who) for who in (ANNA, BERT) for one in ward.charts.records_of(who)]
    day = next(one.effective_day for one, _ in records if one.group == "Encounter/e1")
    some = tuple(sorted(one.record_id for one, _ in records[::2]))
    grid = itertools.product(
        Sensitivity,
        (0xFFFF & 0x3FF, mask(Category.RESULT, Category.ENCOUNTER)),
        ((0, day), (day, day + 99)),
        ((), some),
    )
    for ceiling, categories, (first, last), single in grid:
        scope = up_to(ceiling, categories=categories, first_day=first, last_day=last, records=single)
        covered = {
            f"{leaf.resource_type}/{leaf.resource_id}"
            for record, who in records
            for leaf in record.resources
            if who == ANNA
            and scope.covers(
                category=record.category,
                sensitivity=record.sensitivity,
                day=record.effective_day,
                record=record.record_id,
            )
        }
        assert ward.names(sees(ANNA, scope=scope), names) == covered | {"Practitioner/house"}
    assert ward.names(CUSTODIAN, names) == everything
    assert ward.names(NOTHING, names) == set()
    assert ward.names(Sight(), names) == {"Practitioner/house"}
    assert ward.names(sees(ANNA, BERT), names) == everything - {"Group/everybody"}
    assert ward.names(sees(ORGANISATION), names) == {"Practitioner/house"}


def everything_read(reader: Reader, sight: Sight) -> list[Stored]:
    return [
        *reader.history(sight, count=99),
        *reader.history(sight, "Condition", count=99),
        *reader.history(sight, "Condition", "hiv", count=99),
        *reader.everything(sight, ANNA, count=99),
        *reader.everything(sight, BERT, count=99),
        *reader.export(sight),
        *reader.changes(sight, 0, 99),
        *reader.fetch(sight, range(99)),
    ]


def test_every_way_of_reading_keeps_to_the_sight(ward: Ward) -> None:
    names = chart_of_all_kinds(ward)
    for sight in (NORMAL, sees(BERT), NOTHING, CUSTODIAN):
        with ward.repository.reading() as reader:
            found = {f"{one.resource_type}/{one.resource_id}" for one in everything_read(reader, sight)}
        assert found == ward.names(sight, names)


def test_an_old_version_is_hidden_by_its_own_grade_and_by_where_the_newest_lies(ward: Ward) -> None:
    ward.put(about("Condition", "c", code=coded(HIV)))
    ward.put(about("Condition", "c", code=coded(FLU), recordedDate="2024-01-01"))
    ward.put(about("Condition", "d", code=coded(FLU)))
    ward.put(about("Condition", "d", code=coded(HIV)))
    with ward.repository.reading() as reader:
        shown = {
            who: {(one.resource_id, one.version) for one in reader.history(sight, "Condition", count=9)}
            for who, sight in (("normal", NORMAL), ("all", sees(ANNA)))
        }
        assert reader.vread(NORMAL, "Condition", "d", 1) is None
        assert reader.vread(NORMAL, "Condition", "c", 1) is None
    assert shown["all"] == {("c", 1), ("c", 2), ("d", 1), ("d", 2)}
    assert shown["normal"] <= {("c", 2)}


def test_history_comes_in_pages_newest_first(ward: Ward) -> None:
    for number in range(5):
        ward.put(about("Basic", "b", x=number), {"resourceType": "Practitioner", "id": "p", "x": number})
    with ward.repository.reading() as reader:
        whole = reader.history(sees(ANNA), count=99)
        pages: list[Stored] = []
        while page := reader.history(sees(ANNA), count=3, after=(pages[-1].seq,) if pages else None):
            pages += page
        since = reader.history(sees(ANNA), since_us=ward.now_us, count=99)
        one = reader.history(sees(ANNA), "Basic", "b", count=2)
    assert pages == whole
    assert [each.seq for each in whole] == sorted((each.seq for each in whole), reverse=True)
    assert {(each.resource_type, each.version) for each in since} == {("Basic", 5), ("Practitioner", 5)}
    assert [each.version for each in one] == [5, 4]
    assert all(each.record is not None for each in one)


def test_everything_of_a_patient_comes_in_pages_and_by_type(ward: Ward) -> None:
    chart_of_all_kinds(ward)
    with ward.repository.reading() as reader:
        whole = reader.everything(sees(ANNA, BERT), ANNA, count=99)
        pages: list[Stored] = []
        while page := reader.everything(sees(ANNA, BERT), ANNA, count=2, after=(pages[-1].rid,) if pages else None):
            pages += page
        results = reader.everything(sees(ANNA), ANNA, ["Observation"], count=99)
        assert reader.everything(sees(ANNA), ANNA, since_us=ward.now_us + 1, count=99) == []
    assert pages == whole
    assert len(whole) == 7
    assert [one.resource_id for one in results] == ["o1", "o2"]


def test_changes_go_on_where_they_stopped(ward: Ward) -> None:
    with ward.repository.reading() as reader:
        start = reader.last_seq()
    ward.put(about("Basic", "b"), about("Basic", "c", "bert"))
    ward.put(about("Basic", "b", x=1), {"resourceType": "Location", "id": "l"})
    with ward.repository.reading() as reader:
        found = reader.changes(sees(ANNA), start, 99)
        assert reader.changes(sees(ANNA), start, 1) == found[:1]
        assert reader.changes(sees(ANNA), reader.last_seq(), 99) == []
    assert [(one.resource_id, one.version) for one in found] == [("b", 2), ("l", 1)]


def test_what_is_fetched_keeps_the_order_asked_for(ward: Ward) -> None:
    applied = ward.put(*(about("Basic", f"b{number}") for number in range(5)))
    rids = [one.stored.rid for one in applied][::-1]
    with ward.repository.reading() as reader:
        assert [one.rid for one in reader.fetch(sees(ANNA), [*rids, 9_999])] == rids


# Whose chart


def medicine(patient: str) -> dict[str, Any]:
    return about("MedicationRequest", patient, patient, medicationReference={"reference": "Medication/m"})


def provenance(**elements: Any) -> dict[str, Any]:
    return {"resourceType": "Provenance", "id": "p", "target": [{"reference": "Basic/b"}], **elements}


APPOINTMENT = {
    "resourceType": "Appointment",
    "id": "a",
    "participant": [{"actor": {"reference": "Patient/bert"}}],
}
GROUP = {
    "resourceType": "Group",
    "id": "g",
    "member": [{"entity": {"reference": f"Patient/{one}"}} for one in ("anna", "bert")],
}
MEDICATION = {"resourceType": "Medication", "id": "m"}
BINARY = {"resourceType": "Binary", "id": "y"}
BERTS = about("Basic", "b", "bert")
FULL_ADDRESS = about("Basic", "b", subject={"reference": "http://here/fhir/Patient/bert"})

PLACES: list[tuple[str, list[dict[str, Any]], str, str]] = [
    ("its subject", [BERTS], "Basic/b", "bert"),
    ("a full address", [FULL_ADDRESS], "Basic/b", "bert"),
    ("the only patient it names", [APPOINTMENT], "Appointment/a", "bert"),
    ("two patients", [GROUP], "Group/g", ""),
    ("nobody", [MEDICATION], "Medication/m", ""),
    ("who refers to it", [MEDICATION, medicine("anna")], "Medication/m", "anna"),
    ("who refers to it, of two", [MEDICATION, medicine("anna"), medicine("bert")], "Medication/m", ""),
    ("what it refers to", [BERTS, provenance()], "Provenance/p", "bert"),
    ("at second hand", [BERTS, BINARY, provenance(entity=[{"what": {"reference": "Binary/y"}}])], "Binary/y", "bert"),
    ("an unknown patient", [about("Basic", "b", "stranger")], "Basic/b", "stranger"),
]


@pytest.mark.parametrize(("trees", "name", "owner"), [row[1:] for row in PLACES], ids=[row[0] for row in PLACES])
def test_a_resource_lies_in_the_chart_it_belongs_to(
    ward: Ward, trees: list[dict[str, Any]], name: str, owner: str
) -> None:
    ward.put(*trees)
    owners: set[str] = set()
    with ward.repository.reading() as reader:
        for who in ("anna", "bert", "stranger"):
            pseudonym = reader.pseudonym(who)
            chart = reader.everything(CUSTODIAN, pseudonym, count=99) if pseudonym is not None else []
            owners |= {who for one in chart if f"{one.resource_type}/{one.resource_id}" == name}
    assert owners == ({owner} if owner else set())


def test_what_was_filed_before_is_found_by_reference(ward: Ward) -> None:
    ward.put(about("Basic", "b", "bert"))
    ward.put({"resourceType": "Provenance", "id": "p", "target": [{"reference": "Basic/b"}]})
    assert read(ward, "Provenance", "p", sees(BERT)) is not None
    assert read(ward, "Provenance", "p", sees(ANNA)) is None


def test_a_resource_does_not_change_its_chart(ward: Ward) -> None:
    ward.put(about("Basic", "b"))
    assert refused(ward, change(about("Basic", "b", "bert"))) is ChartsCode.CHART_CHANGED
    ward.put({"resourceType": "Basic", "id": "b"})
    assert read(ward, "Basic", "b", sees(ANNA)) is not None


def test_a_bundle_and_a_transaction_make_the_same_records(ward: Ward) -> None:
    trees = [
        about("Encounter", "e1", period={"start": "2024-05-06"}),
        about("Condition", "hiv", code=coded(HIV), encounter=VISIT),
        about("MedicationRequest", "m", reasonReference=[{"reference": "Condition/hiv"}], encounter=VISIT),
    ]
    ward.put(*trees)
    told = json.dumps(trees).replace("Patient/anna", "Patient/carl").replace("hiv", "hiv2").replace("e1", "e2")
    entries = [{"resource": one} for one in (person("carl"), *json.loads(told.replace('"m"', '"m2"')))]
    bundle = json.dumps({"resourceType": "Bundle", "type": "collection", "entry": entries})
    ward.charts.ingest(pseudonym=b"c" * 32, bundle=bundle.encode(), received_s=ward.now_us // 1_000_000, rng=ward.rng)

    def shape(who: bytes) -> list[tuple[Any, ...]]:
        found = ward.charts.records_of(who)
        return sorted(
            (one.category, one.sensitivity, one.labels, tuple(leaf.resource_type for leaf in one.resources))
            for one in found
        )

    assert shape(ANNA) == shape(b"c" * 32)


# What may be written


def test_what_is_hidden_cannot_be_changed_and_what_is_open_can(ward: Ward) -> None:
    ward.put(
        about("Condition", "hiv", code=coded(HIV)),
        about("Condition", "flu", code=coded(FLU)),
        about("Basic", "berts", "bert"),
    )
    for hidden in (about("Condition", "hiv", code=coded(FLU)), about("Basic", "berts", "bert", x=1)):
        assert refused(ward, change(hidden), allow=NORMAL) is ChartsCode.NOT_VISIBLE
        assert refused(ward, change(hidden, 1), allow=NORMAL) is ChartsCode.NOT_VISIBLE
    (done,) = ward.put(about("Condition", "flu", code=coded(FLU), x=1), allow=NORMAL)
    assert done.stored.version == 2
    with ward.repository.writing(ward.now_us, ward.rng) as writer:
        taken = writer.hidden(
            NORMAL, [("Condition", "hiv"), ("Condition", "flu"), ("Basic", "berts"), ("Basic", "free")]
        )
        assert taken == {("Condition", "hiv"), ("Basic", "berts")}
        assert writer.hidden(CUSTODIAN, [("Condition", "hiv")]) == set()


RESULTS = up_to(Sensitivity.V, categories=mask(Category.RESULT))
ONE_RECORD = up_to(Sensitivity.V, records=(b"r" * 32,))
FILING: list[tuple[str, dict[str, Any], Sight]] = [
    ("another patient's", about("Basic", "b", "bert"), sees(ANNA)),
    ("a patient nobody knows", about("Basic", "b", "stranger"), sees(ANNA)),
    ("a new patient", person("dora"), sees(ANNA)),
    ("a shared resource", {"resourceType": "Practitioner", "id": "p"}, sees(ANNA)),
    ("about nobody", {"resourceType": "Medication", "id": "m"}, sees(ANNA)),
    ("above the ceiling", about("Condition", "c", code=coded(HIV)), NORMAL),
    ("of another category", about("Condition", "c"), sees(ANNA, scope=RESULTS)),
    ("of another day", about("Basic", "b", created="2024-01-01"), sees(ANNA, scope=up_to(Sensitivity.V, last_day=9))),
    ("with sight of single records", about("Basic", "b"), sees(ANNA, scope=ONE_RECORD)),
    ("with no sight", about("Basic", "b"), NOTHING),
]


@pytest.mark.parametrize(("tree", "allow"), [row[1:] for row in FILING], ids=[row[0] for row in FILING])
def test_nothing_is_filed_where_the_sight_opens_nothing(ward: Ward, tree: dict[str, Any], allow: Sight) -> None:
    assert refused(ward, change(tree), allow=allow) is ChartsCode.NOT_VISIBLE
    assert read(ward, tree["resourceType"], tree["id"]) is None


def test_what_the_sight_opens_is_filed(ward: Ward) -> None:
    (done,) = ward.put(about("Condition", "c", code=coded(FLU)), allow=NORMAL)
    assert done.created
    assert read(ward, "Condition", "c", NORMAL) == done.stored


# Binding, anchoring


def test_an_unbound_patient_moves_with_the_whole_chart_when_bound(ward: Ward) -> None:
    ward.put(person("dora", name=[{"text": "朵拉"}]), about("Condition", "c", "dora", code=coded(HIV)))
    dora = b"d" * 32
    with ward.repository.reading() as reader:
        before = reader.pseudonym("dora")
        assert before is not None
        assert not reader.is_bound(before)
        assert reader.read(sees(dora), "Condition", "c") is None
    with ward.repository.writing(ward.now_us, ward.rng) as writer:
        assert {one.pseudonym for one in writer.unanchored(99)} == {ANNA, BERT}
        assert writer.bind("dora", dora)
        assert not writer.bind("dora", dora)
        assert writer.read(sees(dora), "Condition", "c") is not None
    with ward.repository.reading() as reader:
        assert reader.pseudonym("dora") == dora
        assert reader.patient(dora) == "dora"
        assert reader.patient(before) is None
        assert reader.is_bound(dora)
    known = ward.charts.local_patient(dora)
    assert known is not None
    assert known.name == "朵拉"
    for record in ward.charts.records_of(dora):
        check(ward.charts.read(record.record_id), record.root)
    ward.put(about("Condition", "c", "dora", code=coded(FLU)))
    assert len(ward.charts.history(ward.charts.records_of(dora)[-1].record_id)) >= 1


def test_a_bundle_for_a_pseudonym_binds_too(ward: Ward) -> None:
    ward.put(about("Basic", "b", "dora"))
    bundle = json.dumps({"resourceType": "Bundle", "type": "collection", "entry": [{"resource": person("dora")}]})
    ward.charts.ingest(pseudonym=b"d" * 32, bundle=bundle.encode(), received_s=1, rng=ward.rng)
    assert read(ward, "Basic", "b", sees(b"d" * 32)) is not None
    with pytest.raises(Rejected) as caught:
        ward.charts.ingest(pseudonym=b"e" * 32, bundle=bundle.encode(), received_s=1, rng=ward.rng)
    assert caught.value.code is ChartsCode.PATIENT_HAS_OTHER_PSEUDONYM


@pytest.mark.parametrize(
    ("patient", "pseudonym", "code"),
    [
        ("anna", b"e" * 32, ChartsCode.PATIENT_HAS_OTHER_PSEUDONYM),
        ("dora", ANNA, ChartsCode.PSEUDONYM_HAS_OTHER_PATIENT),
        ("dora", b"short", ChartsCode.BAD_PSEUDONYM),
    ],
)
def test_a_wrong_binding_is_refused(ward: Ward, patient: str, pseudonym: bytes, code: ChartsCode) -> None:
    with pytest.raises(Rejected) as caught:
        ward.charts.bind(patient, pseudonym)
    assert caught.value.code is code


def test_a_patient_that_is_bound_before_anything_arrives_is_filed_right(ward: Ward) -> None:
    assert not ward.charts.bind("dora", b"d" * 32)
    ward.put(about("Basic", "b", "dora"))
    assert read(ward, "Basic", "b", sees(b"d" * 32)) is not None


def test_record_versions_wait_until_they_are_said_to_be_anchored(ward: Ward) -> None:
    ward.put(about("Encounter", "e1"))
    ward.put(about("Encounter", "e1", x=1), {"resourceType": "Medication", "id": "nobodys"})
    with ward.repository.writing(ward.now_us, ward.rng) as writer:
        waiting = writer.unanchored(99)
        assert writer.unanchored(1) == waiting[:1]
        mine = [(one.record_id, one.version) for one in waiting if one.group == "Encounter/e1"]
        assert [version for _, version in mine] == [1, 2]
        writer.mark_anchored([*mine, (b"?" * 32, 1)])
        left = writer.unanchored(99)
    assert left == [one for one in waiting if one.group != "Encounter/e1"]
    assert all(one.pseudonym != ORGANISATION for one in waiting)


# Moving, erasing, altering


def test_a_record_that_becomes_more_sensitive_takes_its_resources_with_it(ward: Ward) -> None:
    ward.put(about("Encounter", "e1"), about("Basic", "b", encounter=VISIT))
    assert read(ward, "Basic", "b", NORMAL) is not None
    ward.put(about("Encounter", "e1", reasonCode=[coded(HIV)]))
    assert read(ward, "Encounter", "e1", NORMAL) is None
    assert read(ward, "Basic", "b", NORMAL) is None
    assert read(ward, "Basic", "b", sees(ANNA)) is not None


def test_a_loose_result_that_joins_an_encounter_moves(ward: Ward) -> None:
    loose = about("Observation", "o", effectiveDateTime="2024-05-06")
    (before,) = ward.put(loose)
    _, after = ward.put(about("Encounter", "e1"), {**loose, "encounter": VISIT})
    assert before.stored.record is not None
    assert after.stored.record is not None
    assert before.stored.record[0] != after.stored.record[0]


@pytest.mark.parametrize("which", [0, 1])
def test_what_is_erased_is_in_no_index_and_what_stays_is_found_where_it_stays(ward: Ward, which: int) -> None:
    loose = about("Observation", "o", effectiveDateTime="2024-05-06")
    (first,) = ward.put(loose)
    _, second = ward.put(about("Encounter", "e1"), {**loose, "encounter": VISIT})
    record = (first, second)[which].stored.record
    assert record is not None
    assert ward.charts.erase(ANNA, record[0], erased_s=1)
    left = read(ward, "Observation", "o")
    assert left is not None
    assert left.record is not None
    assert left.record[0] != record[0]
    assert ward.charts.erase(ANNA, left.record[0], erased_s=1)
    assert read(ward, "Observation", "o") is None
    with ward.repository.writing(ward.now_us, ward.rng) as writer:
        assert record[0] not in {one.record_id for one in writer.unanchored(99)}
        assert writer.history(CUSTODIAN, "Observation", count=9) == []


def test_a_chart_that_is_erased_whole_leaves_no_row(ward: Ward) -> None:
    chart_of_all_kinds(ward)
    for record in ward.charts.records_of(ANNA):
        ward.charts.erase(ANNA, record.record_id, erased_s=1)
    assert not [name for name, row in ward.index().items() if row["place"][0] and row["place"][0][0] == ANNA]
    assert ward.charts.local_patient(ANNA) is None


def test_numbers_are_not_given_twice_after_an_erasure(ward: Ward) -> None:
    (first,) = ward.put(about("Basic", "b"))
    assert first.stored.record is not None
    ward.charts.erase(ANNA, first.stored.record[0], erased_s=1)
    (second,) = ward.put(about("Basic", "b"))
    assert second.stored.seq > first.stored.seq
    assert second.stored.rid > first.stored.rid


def test_no_shelf_gets_the_number_of_one_that_went(ward: Ward) -> None:
    """Who reads without a snapshot asks for shelves first and for what stands on them then."""

    def numbers() -> set[int]:
        with ward.charts.snapshot() as connection:
            return set(connection.execute(select(shelves.c.shelf)).scalars())

    ward.put(person("dora"))
    ward.put(about("Condition", "b", "bert", code=coded(HIV)))
    for record in ward.charts.records_of(BERT):
        ward.charts.erase(BERT, record.record_id, erased_s=1)
    before = numbers()
    with ward.repository.writing(ward.now_us, ward.rng) as writer:
        writer.bind("dora", BERT)
    assert max(before) not in numbers()
    ward.put(person("emma"))
    assert max(numbers()) > max(before)


def test_altered_content_gets_no_new_version(ward: Ward) -> None:
    ward.put(about("Encounter", "e1"), about("Basic", "b", encounter=VISIT))
    with ward.charts.transaction() as connection:
        connection.exec_driver_sql("UPDATE resources SET salt = commitment WHERE resource_id = 'b'")
    with pytest.raises(Tampered):
        ward.put(about("Basic", "c", encounter=VISIT))


def test_two_writers_wait_for_each_other(ward: Ward) -> None:
    failures: list[BaseException] = []

    def write(name: str) -> None:
        try:
            for number in range(5):
                ward.put(about("Basic", f"{name}{number}"), about("Basic", "shared", x=f"{name}{number}"))
        except BaseException as failure:
            failures.append(failure)
            raise

    writers = [threading.Thread(target=write, args=(name,)) for name in "xy"]
    for one in writers:
        one.start()
    for one in writers:
        one.join()
    assert not failures
    with ward.repository.reading() as reader:
        assert [one.version for one in reader.history(CUSTODIAN, "Basic", "shared", count=99)] == list(range(10, 0, -1))


def test_the_same_name_in_two_charts_is_found_in_the_first(ward: Ward) -> None:
    """Bundles for two patients may bring the same medicine; each chart keeps its own, searches find the first."""
    medicine = {"resourceType": "Medication", "id": "m"}
    for who, name in ((ANNA, "anna"), (BERT, "bert")):
        entries = [{"resource": one} for one in (person(name), medicine)]
        bundle = json.dumps({"resourceType": "Bundle", "type": "collection", "entry": entries})
        ward.charts.ingest(pseudonym=who, bundle=bundle.encode(), received_s=1, rng=ward.rng)
    assert read(ward, "Medication", "m", sees(ANNA)) is not None
    assert read(ward, "Medication", "m", sees(BERT)) is None
    held = [leaf for one in ward.charts.records_of(BERT) for leaf in one.resources]
    assert "Medication" in {leaf.resource_type for leaf in held}


def test_text_that_a_database_cannot_hold_is_stored_all_the_same(ward: Ward) -> None:
    body = b'{"resourceType":"Patient","id":"zoe","name":[{"text":"Z\\u0000oe"}],"gender":"\\u0000"}'
    ward.apply([Change(resource_type="Patient", resource_id="zoe", body=body)])
    assert read(ward, "Patient", "zoe") is not None
