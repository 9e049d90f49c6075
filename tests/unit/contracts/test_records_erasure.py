"""Goal: only the patient's side orders an erasure, it ends every reading, and receipts say who held what (REC-13).

Method: one row per refusal; then what queries, proofs and invariants show of a record before and after.
"""

import pytest

from carechain.chain.queries import Asker, QueryCode, View, ask
from carechain.chain.questions import AnchorLine, ErasureLine, HistoryPage, OfRecord, TimelinePage
from carechain.contracts import records
from carechain.contracts.records import (
    ConfirmErasure,
    Erase,
    Erased,
    ErasedPart,
    ErasureConfirmed,
    RecordsCode,
    SealedHashes,
    ordered_since,
)
from carechain.contracts.relationships import Leave
from carechain.core.rejection import Rejected, RejectionCode
from carechain.core.vocabulary import ALL_POWERS, Category, Power, Sensitivity
from rejections import Arrange, Attempt, Limits, Rows, check_refused
from world import Signer, World, anchor_of, anything, record_id, scope_of, seeded

rows = Rows()
ROWS = rows
IN_CHARTS = int(ErasedPart.CHART | ErasedPart.SALTS)
X = record_id("x")


def sealed(name: str) -> SealedHashes:
    return SealedHashes(capsule=seeded("capsule", name), object=seeded("object", name))


def erase(world: World, name: str = "x") -> Erase:
    return Erase(pseudonym=world.steve.id, record=record_id(name))


def confirm(world: World, name: str = "x", destroyed: int = IN_CHARTS) -> ConfirmErasure:
    return ConfirmErasure(pseudonym=world.steve.id, record=record_id(name), destroyed=destroyed)


def written(world: World, name: str = "x") -> None:
    world.grant(anything(world.steve, world.carl), by=world.steve)
    world.done(anchor_of(world.steve, name), by=world.carl)


def gone(world: World, name: str = "x") -> None:
    written(world, name)
    world.done(erase(world, name), by=world.steve)


# --- refusals -------------------------------------------------------------------------------------------


@rows.row(RecordsCode.RECORD_ERASED)
def a_new_version_of_an_erased_record(world: World) -> Attempt:
    gone(world)
    return world.carl, anchor_of(world.steve, "x", version=2)


@rows.row(RecordsCode.VERSION_NOT_NEXT)
def an_erased_record_does_not_begin_again(world: World) -> Attempt:
    gone(world)
    return world.carl, anchor_of(world.steve, "x")


@rows.row(RecordsCode.OBJECT_TAKEN)
def the_object_of_another_record(world: World) -> Attempt:
    world.done(anchor_of(world.steve, "x", sealed=sealed("one")), by=world.steve)
    return world.steve, anchor_of(world.steve, "y", sealed=sealed("one"))


@rows.row(RecordsCode.OBJECT_TAKEN)
def the_object_of_another_patient(world: World) -> Attempt:
    """Whoever could name it could have it destroyed."""
    world.done(anchor_of(world.steve, "x", sealed=sealed("one")), by=world.steve)
    mine = SealedHashes(capsule=seeded("my own"), object=sealed("one").object)
    return world.mary, anchor_of(world.mary, "x", sealed=mine)


@rows.row(RecordsCode.MAY_NOT_ERASE)
def by_the_custodian_who_wrote_it(world: World) -> Attempt:
    """A role that may send it, about somebody else's record."""
    written(world)
    return world.mary, erase(world)


@rows.row(RecordsCode.MAY_NOT_ERASE)
def under_the_patients_other_pseudonym(world: World) -> Attempt:
    written(world)
    return world.steve_at_b, erase(world)


@rows.row(RecordsCode.MAY_NOT_ERASE)
def by_a_representative_without_the_power(world: World) -> Attempt:
    written(world)
    return world.appoint("aunt", world.steve, powers=ALL_POWERS & ~int(Power.ERASE)), erase(world)


@rows.row(RecordsCode.MAY_NOT_ERASE)
def by_a_representative_for_a_part(world: World) -> Attempt:
    written(world)
    return world.appoint("aunt", world.steve, scope=scope_of(Category.RESULT, ceiling=Sensitivity.V)), erase(world)


@rows.row(RecordsCode.RECORD_UNKNOWN)
def what_was_never_anchored(world: World) -> Attempt:
    return world.steve, erase(world)


@rows.row(RecordsCode.RECORD_UNKNOWN)
def a_record_of_another_patient(world: World) -> Attempt:
    written(world)
    return world.mary, Erase(pseudonym=world.mary.id, record=X)


@rows.row(RecordsCode.ALREADY_ORDERED)
def a_second_order(world: World) -> Attempt:
    gone(world)
    return world.steve, erase(world)


@rows.row(RecordsCode.ERASURE_UNKNOWN)
def a_receipt_for_what_nobody_erased(world: World) -> Attempt:
    written(world)
    return world.a, confirm(world)


@rows.row(RecordsCode.RECEIPT_MALFORMED)
def a_receipt_for_nothing(world: World) -> Attempt:
    """Who held nothing has nothing to confirm: such a receipt could not be told from one of a holder."""
    gone(world)
    return world.a, confirm(world, destroyed=0)


@rows.row(RecordsCode.RECEIPT_MALFORMED)
def a_receipt_for_a_part_that_does_not_exist(world: World) -> Attempt:
    gone(world)
    return world.a, confirm(world, destroyed=32)


@rows.row(RecordsCode.ALREADY_CONFIRMED)
def a_second_receipt(world: World) -> Attempt:
    gone(world)
    world.done(confirm(world), by=world.a)
    return world.a, confirm(world, destroyed=int(ErasedPart.OBJECT))


@rows.row(RecordsCode.ALREADY_CONFIRMED)
def a_second_receipt_by_another_of_the_organisation(world: World) -> Attempt:
    gone(world)
    world.done(confirm(world), by=world.a)
    return world.anna, confirm(world)


@pytest.mark.parametrize(("code", "arrange", "limits"), rows.params())
def test_refused(
    code: RejectionCode, arrange: Arrange, limits: Limits, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_refused(world, code, arrange, limits, monkeypatch)


# --- what an order does ---------------------------------------------------------------------------------


def view_of(world: World) -> View:
    return View(snapshot=world.snapshot, height=world.height, time_s=world.time_s)


def asked(world: World, who: Signer, name: str, args: object) -> tuple[object, ...]:
    party = world.contracts().membership.party(who.id)
    assert party is not None
    return ask(view_of(world), Asker(who.id, party), name, args).rows  # type: ignore[arg-type]


def test_an_order_stands_with_who_gave_it_and_when(world: World) -> None:
    written(world)
    events = world.done(erase(world), by=world.steve)
    assert events == (Erased(pseudonym=world.steve.id, record=X),)
    order = world.contracts().records.erasures.get(world.steve.id, X)
    assert order is not None
    assert (order.ordered_by, order.ordered_s, order.ordered_height) == (world.steve.id, world.time_s, world.height)
    assert world.broken() == []


def test_a_closed_relationship_does_not_stand_in_the_way(world: World) -> None:
    written(world)
    world.done(Leave(pseudonym=world.steve.id), by=world.steve)
    world.done(erase(world), by=world.steve)
    assert world.contracts().records.is_erased(world.steve.id, X)


def test_a_representative_for_everything_may_order_it(world: World) -> None:
    written(world)
    aunt = world.appoint("aunt", world.steve, powers=int(Power.ERASE))
    world.done(erase(world), by=aunt)
    order = world.contracts().records.erasures.get(world.steve.id, X)
    assert order is not None
    assert order.ordered_by == aunt.id
    (line,) = asked(world, aunt, "records.erasure", OfRecord(world.steve.id, X))
    assert isinstance(line, ErasureLine)


def test_one_record_id_at_two_patients_is_erased_for_one(world: World) -> None:
    world.done(anchor_of(world.steve, "x"), by=world.steve)
    world.done(anchor_of(world.mary, "x"), by=world.mary)
    world.done(erase(world), by=world.steve)
    tables = world.contracts().records
    assert (tables.is_erased(world.steve.id, X), tables.is_erased(world.mary.id, X)) == (True, False)


def test_a_sealed_object_follows_its_record_through_all_versions(world: World) -> None:
    world.done(
        anchor_of(world.steve, "x", sealed=sealed("one")),
        anchor_of(world.steve, "x", version=2, sealed=sealed("two")),
        anchor_of(world.steve, "x", version=3, sealed=sealed("two"), root=seeded("regraded")),
        anchor_of(world.steve, "y", sealed=sealed("other")),
        by=world.steve,
    )
    tables = world.contracts().records
    row = tables.anchors.get(world.steve.id, X, 2)
    assert row is not None
    assert row.sealed == sealed("two")
    assert not any(tables.is_erased_object(sealed(name).object) for name in ("one", "two", "other"))
    world.done(erase(world), by=world.steve)
    tables = world.contracts().records
    assert [tables.is_erased_object(sealed(name).object) for name in ("one", "two", "other")] == [True, True, False]
    assert not tables.is_erased_object(seeded("unknown"))
    assert world.broken() == []


def test_the_patient_still_sees_the_dead_anchor_and_nobody_can_see_the_record(world: World) -> None:
    gone(world)
    world.done(anchor_of(world.steve, "y"), by=world.carl)
    lines = asked(world, world.steve, "records.timeline", TimelinePage(world.steve.id))
    shown = {line.record: line.erased is not None for line in lines if isinstance(line, AnchorLine)}
    assert shown == {X: True, record_id("y"): False}
    for name, args in (
        ("records.anchor", OfRecord(world.steve.id, X)),
        ("records.history", HistoryPage(world.steve.id, X)),
    ):
        (line,) = asked(world, world.steve, name, args)
        assert isinstance(line, AnchorLine)
        assert line.erased is not None
    assert asked(world, world.steve, "consent.who_can_see", OfRecord(world.steve.id, X)) == ()
    assert asked(world, world.steve, "consent.who_can_see", OfRecord(world.steve.id, record_id("y"))) != ()


def test_a_grantee_is_no_longer_shown_that_there_was_something(world: World) -> None:
    written(world)
    world.grant(anything(world.steve, world.bert), by=world.steve)
    page = TimelinePage(world.steve.id)
    assert len(asked(world, world.bert, "records.timeline", page)) == 1
    world.done(erase(world), by=world.steve)
    assert asked(world, world.bert, "records.timeline", page) == ()
    with pytest.raises(Rejected) as refused:
        asked(world, world.bert, "records.anchor", OfRecord(world.steve.id, X))
    assert refused.value.code is QueryCode.NOT_AUTHORISED


def test_the_erased_of_a_page_are_found_in_one_range(world: World) -> None:
    names = [f"r{number}" for number in range(8)]
    world.done(*(anchor_of(world.steve, name) for name in names), by=world.steve)
    world.done(anchor_of(world.mary, "r0"), by=world.mary)
    for name in names[::2]:
        world.done(erase(world, name), by=world.steve)
    tables = world.contracts().records
    ids = sorted(record_id(name) for name in names)
    erased = {record_id(name) for name in names[::2]}
    for first, last in ((0, 7), (1, 4), (3, 3), (2, 6)):
        expected = {one for one in ids[first : last + 1] if one in erased}
        assert set(records.erased_in(tables, world.steve.id, ids[first], ids[last])) == expected
    assert records.erased_in(tables, world.mary.id, ids[0], ids[-1]) == {}


def test_orders_are_found_by_height(world: World) -> None:
    for name in ("x", "y", "z"):
        world.done(anchor_of(world.steve, name), by=world.steve)
    heights = []
    for name in ("y", "z", "x"):
        world.done(erase(world, name), by=world.steve)
        heights.append((world.height, world.steve.id, record_id(name)))
    tables = world.contracts().records
    assert list(ordered_since(tables, 0)) == heights
    assert list(ordered_since(tables, heights[0][0])) == heights[1:]
    assert list(ordered_since(tables, world.height)) == []


# --- receipts -------------------------------------------------------------------------------------------


def test_every_holder_gives_one_receipt_for_what_it_held(world: World) -> None:
    gone(world)
    event = world.done(confirm(world), by=world.a)
    assert event == (
        ErasureConfirmed(pseudonym=world.steve.id, record=X, organisation=world.a.id, destroyed=IN_CHARTS),
    )
    copy = int(ErasedPart.OBJECT | ErasedPart.CAPSULE)
    world.done(confirm(world, destroyed=copy), by=world.b)
    (line,) = asked(world, world.steve, "records.erasure", OfRecord(world.steve.id, X))
    assert isinstance(line, ErasureLine)
    destroyed = {one.organisation: one.receipt.destroyed for one in line.receipts}
    assert destroyed == {world.a.id: IN_CHARTS, world.b.id: copy}
    assert {one.receipt.signed_by for one in line.receipts} == {world.a.id, world.b.id}
    assert world.broken() == []


def test_receipts_are_shown_to_who_reads_the_log_alone(world: World) -> None:
    gone(world)
    about = OfRecord(world.steve.id, X)
    blind = world.appoint("blind", world.steve, powers=int(Power.READ_RECORDS))
    for allowed in (world.steve, world.gita, world.a):
        assert len(asked(world, allowed, "records.erasure", about)) == 1
    for denied, code in ((world.b, QueryCode.NOT_AUTHORISED), (world.mary, QueryCode.NOT_AUTHORISED)):
        with pytest.raises(Rejected) as refused:
            asked(world, denied, "records.erasure", about)
        assert refused.value.code is code
    with pytest.raises(Rejected):
        asked(world, blind, "records.erasure", about)


def test_there_is_nothing_to_show_of_what_was_not_erased(world: World) -> None:
    written(world)
    with pytest.raises(Rejected) as refused:
        asked(world, world.steve, "records.erasure", OfRecord(world.steve.id, X))
    assert refused.value.code is QueryCode.NOT_FOUND
