"""Goal: anchors are versions without gaps, written only by those who may (REC-1, REC-4, REC-5, REC-7, CON-11).

Method: one row per refusal, then the history of a record.
"""

import pytest

from carechain.contracts.consent.schema import Revoke
from carechain.contracts.records import Anchored, RecordsCode, history, latest, timeline
from carechain.contracts.relationships import Leave
from carechain.core.rejection import RejectionCode
from carechain.core.vocabulary import Action, Category, Sensitivity
from rejections import Arrange, Attempt, Limits, Rows, check_refused
from world import (
    READ_WRITE_PASS_ON,
    Actor,
    World,
    anchor_of,
    anything,
    grant_of,
    record_id,
    scope_of,
    seeded,
    wallet_of,
)

rows = Rows()
ROWS = rows


def let_write(world: World) -> bytes:
    return world.grant(grant_of(world.steve, world.carl, actions=int(Action.WRITE)), by=world.steve)


def let_submit(world: World, who: Actor) -> bytes:
    return world.grant(grant_of(world.steve, who, actions=int(Action.SUBMIT)), by=world.steve)


def everything(world: World, who: Actor) -> bytes:
    return world.grant(anything(world.steve, who), by=world.steve)


@rows.row(RecordsCode.PSEUDONYM_UNKNOWN)
def for_nobody(world: World) -> Attempt:
    return world.carl, anchor_of(wallet_of("unbound").pseudonym(world.a.id), "x")


@rows.row(RecordsCode.PSEUDONYM_UNKNOWN)
def for_a_doctor(world: World) -> Attempt:
    return world.carl, anchor_of(world.steve, "x", pseudonym=world.dana.id)


@rows.row(RecordsCode.NOT_THE_CUSTODIAN)
def at_another_hospital(world: World) -> Attempt:
    world.grant(grant_of(world.steve, world.bert, actions=int(Action.WRITE)), by=world.steve)
    return world.bert, anchor_of(world.steve, "x")


@rows.row(RecordsCode.NOT_THE_CUSTODIAN)
def under_the_patients_other_pseudonym(world: World) -> Attempt:
    return world.steve_at_b, anchor_of(world.steve, "x")


@rows.row(RecordsCode.RELATION_CLOSED)
def after_the_patient_left(world: World) -> Attempt:
    let_write(world)
    world.done(Leave(pseudonym=world.steve.id), by=world.steve)
    return world.carl, anchor_of(world.steve, "x")


@rows.row(RecordsCode.WRITE_NOT_AUTHORISED)
def without_a_grant(world: World) -> Attempt:
    return world.carl, anchor_of(world.steve, "x")


@rows.row(RecordsCode.WRITE_NOT_AUTHORISED)
def after_revocation(world: World) -> Attempt:
    world.done(Revoke(pseudonym=world.steve.id, grant_id=let_write(world)), by=world.steve)
    return world.carl, anchor_of(world.steve, "x")


@rows.row(RecordsCode.WRITE_NOT_AUTHORISED)
def another_category(world: World) -> Attempt:
    let_write(world)
    return world.carl, anchor_of(world.steve, "x", category=Category.IMAGE)


@rows.row(RecordsCode.WRITE_NOT_AUTHORISED)
def above_the_ceiling(world: World) -> Attempt:
    let_write(world)
    return world.carl, anchor_of(world.steve, "x", sensitivity=Sensitivity.R)


@rows.row(RecordsCode.WRITE_NOT_AUTHORISED)
def outside_the_days(world: World) -> Attempt:
    scope = scope_of(Category.RESULT, first_day=1, last_day=44_999)
    world.grant(grant_of(world.steve, world.carl, scope=scope, actions=int(Action.WRITE)), by=world.steve)
    return world.carl, anchor_of(world.steve, "x")


@rows.row(RecordsCode.WRITE_NOT_AUTHORISED)
def another_patient_with_the_hospitals_grant(world: World) -> Attempt:
    world.grant(grant_of(world.steve, world.a, actions=READ_WRITE_PASS_ON), by=world.steve)
    return world.mary, anchor_of(world.steve, "x")


@rows.row(RecordsCode.WRITE_NOT_AUTHORISED)
def a_graver_record_is_replaced_from_below_its_grade(world: World) -> Attempt:
    """John may write normal results. The very restricted one he replaces was never his to touch."""
    world.grant(grant_of(world.steve, world.john, actions=int(Action.WRITE)), by=world.steve)
    everything(world, world.carl)
    world.done(anchor_of(world.steve, "psy", sensitivity=Sensitivity.V), by=world.carl)
    return world.john, anchor_of(world.steve, "psy", version=2)


@rows.row(RecordsCode.WRITE_NOT_AUTHORISED)
def a_record_of_another_time_is_moved_into_the_window(world: World) -> Attempt:
    scope = scope_of(Category.RESULT, first_day=45_000)
    world.grant(grant_of(world.steve, world.john, scope=scope, actions=int(Action.WRITE)), by=world.steve)
    everything(world, world.carl)
    world.done(anchor_of(world.steve, "old", day=100), by=world.carl)
    return world.john, anchor_of(world.steve, "old", version=2)


@rows.row(RecordsCode.WRITE_NOT_AUTHORISED)
def to_submit_is_not_to_replace(world: World) -> Attempt:
    let_submit(world, world.john)
    let_write(world)
    world.done(anchor_of(world.steve, "x"), by=world.carl)
    return world.john, anchor_of(world.steve, "x", version=2)


@rows.row(RecordsCode.WRITE_NOT_AUTHORISED)
def own_again_but_corrected_by_another_before(world: World) -> Attempt:
    """John began the record, Carl corrected it: what stands there now is not John's alone."""
    let_submit(world, world.john)
    let_write(world)
    world.done(anchor_of(world.steve, "x"), by=world.john)
    world.done(anchor_of(world.steve, "x", version=2), by=world.carl)
    return world.john, anchor_of(world.steve, "x", version=3)


@rows.row(RecordsCode.WRITE_NOT_AUTHORISED)
def own_record_that_its_author_graded_out_of_reach(world: World) -> Attempt:
    reach = scope_of(Category.RESULT, ceiling=Sensitivity.V)
    wide = world.grant(grant_of(world.steve, world.john, scope=reach, actions=int(Action.SUBMIT)), by=world.steve)
    let_submit(world, world.john)
    world.done(anchor_of(world.steve, "x", sensitivity=Sensitivity.V), by=world.john)
    world.done(Revoke(pseudonym=world.steve.id, grant_id=wide), by=world.steve)
    return world.john, anchor_of(world.steve, "x", version=2)


@rows.row(RecordsCode.WRITTEN_BY_THE_OTHER_SIDE)
def the_patient_replaces_the_hospitals_record(world: World) -> Attempt:
    let_write(world)
    world.done(anchor_of(world.steve, "x"), by=world.carl)
    return world.steve, anchor_of(world.steve, "x", version=2, root=seeded("mine"))


@rows.row(RecordsCode.WRITTEN_BY_THE_OTHER_SIDE)
def a_doctor_replaces_the_patients_record(world: World) -> Attempt:
    let_write(world)
    world.done(anchor_of(world.steve, "x"), by=world.steve)
    return world.carl, anchor_of(world.steve, "x", version=2)


@rows.row(RecordsCode.VERSION_NOT_NEXT)
def version_zero(world: World) -> Attempt:
    return world.steve, anchor_of(world.steve, "x", version=0)


@rows.row(RecordsCode.VERSION_NOT_NEXT)
def the_first_is_two(world: World) -> Attempt:
    return world.steve, anchor_of(world.steve, "x", version=2)


@rows.row(RecordsCode.VERSION_NOT_NEXT)
def the_same_version_again(world: World) -> Attempt:
    world.done(anchor_of(world.steve, "x"), by=world.steve)
    return world.steve, anchor_of(world.steve, "x", root=seeded("forged"))


@rows.row(RecordsCode.VERSION_NOT_NEXT)
def a_gap(world: World) -> Attempt:
    world.done(anchor_of(world.steve, "x"), by=world.steve)
    return world.steve, anchor_of(world.steve, "x", version=3)


@rows.row(RecordsCode.VERSION_NOT_NEXT)
def the_largest_number(world: World) -> Attempt:
    return world.steve, anchor_of(world.steve, "x", version=0xFFFF_FFFF)


@rows.row(RecordsCode.CATEGORY_CHANGED)
def a_result_becomes_an_image(world: World) -> Attempt:
    world.done(anchor_of(world.steve, "x"), by=world.steve)
    return world.steve, anchor_of(world.steve, "x", version=2, category=Category.IMAGE)


@rows.row(RecordsCode.RESOURCE_COUNT)
def no_resources(world: World) -> Attempt:
    return world.steve, anchor_of(world.steve, "x", resources=0)


@rows.row(RecordsCode.RESOURCE_COUNT)
def too_many_resources(world: World) -> Attempt:
    return world.steve, anchor_of(world.steve, "x", resources=65_537)


@pytest.mark.parametrize(("code", "arrange", "limits"), rows.params())
def test_refused(
    code: RejectionCode, arrange: Arrange, limits: Limits, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_refused(world, code, arrange, limits, monkeypatch)


def test_old_versions_stay_readable(world: World) -> None:
    """REC-5: a correction is a new version."""
    let_write(world)
    world.done(anchor_of(world.steve, "x"), by=world.carl)
    corrected = anchor_of(world.steve, "x", version=2, root=seeded("corrected"), resources=4)
    assert world.done(corrected, by=world.carl) == (
        Anchored(pseudonym=world.steve.id, record=record_id("x"), version=2),
    )
    tables = world.contracts().records
    versions = list(history(tables, world.steve.id, record_id("x")))
    assert [(number, row.resources, row.author) for number, row in versions] == [
        (1, 3, world.carl.id),
        (2, 4, world.carl.id),
    ]
    assert latest(tables, world.steve.id, record_id("x")) == versions[-1]
    assert latest(tables, world.steve.id, record_id("y")) is None
    assert world.broken() == []


def test_a_correction_may_come_from_somebody_else_and_raise_the_sensitivity(world: World) -> None:
    everything(world, world.carl)
    everything(world, world.dana)
    world.done(anchor_of(world.steve, "x"), by=world.carl)
    world.done(anchor_of(world.steve, "x", version=2, sensitivity=Sensitivity.V), by=world.dana)
    tables = world.contracts().records
    assert [row.author for _, row in history(tables, world.steve.id, record_id("x"))] == [world.carl.id, world.dana.id]


def test_to_submit_is_enough_for_further_versions_of_what_is_ones_own(world: World) -> None:
    let_submit(world, world.john)
    world.done(*(anchor_of(world.steve, "x", version=number) for number in (1, 2, 3)), by=world.john)
    assert all(row.sole_author for _, row in history(world.contracts().records, world.steve.id, record_id("x")))
    assert world.broken() == []


def test_the_author_is_who_wrote_the_first_and_the_latest_version(world: World) -> None:
    """CON-6: whoever only corrected a record grants nothing of it."""
    everything(world, world.carl)
    everything(world, world.dana)
    authors = []
    for version, who in enumerate((world.carl, world.carl, world.dana, world.carl), 1):
        world.done(anchor_of(world.steve, "x", version=version), by=who)
        authors.append(world.contracts().records.author_of(world.steve.id, record_id("x")))
    assert authors == [world.carl.id, world.carl.id, None, world.carl.id]
    assert world.contracts().records.author_of(world.steve.id, record_id("y")) is None
    assert world.broken() == []


def test_the_timeline_is_one_range_of_the_state_in_pages(world: World) -> None:
    """REC-7: reading one patient's index touches nothing of another's."""
    for number in range(5):
        world.done(
            anchor_of(world.steve, f"r{number}"), anchor_of(world.steve, f"r{number}", version=2), by=world.steve
        )
    world.done(anchor_of(world.mary, "hers"), by=world.mary)
    tables = world.contracts().records
    whole = [(record, version) for record, version, _ in timeline(tables, world.steve.id)]
    assert whole == sorted((record_id(f"r{number}"), version) for number in range(5) for version in (1, 2))
    pages: list[tuple[bytes, int]] = []
    while page := [(one, version) for one, version, _ in timeline(tables, world.steve.id, _last(pages), limit=3)]:
        pages += page
    assert pages == whole


def _last(pages: list[tuple[bytes, int]]) -> tuple[bytes, int] | None:
    return pages[-1] if pages else None


def test_one_record_id_at_two_patients_is_two_records(world: World) -> None:
    world.done(anchor_of(world.steve, "x"), by=world.steve)
    world.done(anchor_of(world.mary, "x"), by=world.mary)
    assert world.broken() == []
