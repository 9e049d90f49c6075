"""Goal: the consent tree does what CON-1, CON-2, CON-4, CON-9 and REC-10 promise.

Method: small stories over a real ledger. Whether somebody may read is always asked with an access request, so what is
tested is the decision and not a table.
"""

import pytest

from carechain.chain.queries import Asker, View, ask
from carechain.chain.questions import GranteePage
from carechain.contracts.consent import grants, views
from carechain.contracts.consent.schema import (
    Answer,
    ConsentCode,
    Extend,
    Granted,
    GrantRow,
    Narrow,
    Renounce,
    Revoke,
    Revoked,
    SetRule,
    Who,
)
from carechain.contracts.membership import DismissStaff
from carechain.contracts.records import RecordsCode
from carechain.core.decision import DecisionCode
from carechain.core.limits import GRANTS_BY_OTHERS_PER_PAIR, GRANTS_PER_PAIR
from carechain.core.rejection import Rejected
from carechain.core.scope import EVERYTHING, Scope
from carechain.core.vocabulary import (
    ALL_PURPOSES,
    Action,
    Category,
    OrganisationKind,
    Power,
    Purpose,
    Role,
    Sensitivity,
    mask,
)
from carechain.state.table import Table
from world import (
    DAY_S,
    LATER_S,
    READ_WRITE_PASS_ON,
    RESULTS,
    START_S,
    TREAT,
    World,
    anchor_of,
    anything,
    grant_of,
    record_id,
    scope_of,
    wallet_of,
)

BOTH = scope_of(Category.RESULT, Category.ENCOUNTER)
ENCOUNTERS = scope_of(Category.ENCOUNTER)


def test_a_grant_opens_exactly_what_it_names(world: World) -> None:
    assert world.decision(world.carl, world.steve) == DecisionCode.NO_GRANT
    world.grant(grant_of(world.steve, world.carl), by=world.steve)
    assert world.decision(world.carl, world.steve) == 0
    assert world.decision(world.carl, world.steve, scope=ENCOUNTERS) == DecisionCode.SCOPE_NOT_COVERED
    restricted = scope_of(Category.RESULT, ceiling=Sensitivity.R)
    assert world.decision(world.carl, world.steve, scope=restricted) == DecisionCode.SCOPE_NOT_COVERED
    assert world.decision(world.carl, world.steve, purpose=Purpose.CAREMGT) == DecisionCode.PURPOSE_NOT_COVERED
    assert world.decision(world.dana, world.steve) == DecisionCode.NO_GRANT
    assert world.decision(world.carl, world.mary) == DecisionCode.NO_GRANT
    assert world.decision(world.carl, world.steve_at_b) == DecisionCode.NO_GRANT
    assert world.broken() == []


def test_a_grant_ends_at_its_expiry_by_block_time(world: World) -> None:
    world.grant(grant_of(world.steve, world.carl, expires_s=START_S + DAY_S), by=world.steve)
    assert world.decision(world.carl, world.steve, at=START_S + DAY_S - 1) == 0
    assert world.decision(world.carl, world.steve, at=START_S + DAY_S) == DecisionCode.GRANT_NOT_LIVE


def test_a_grant_to_an_organisation_serves_its_staff_and_nobody_elses(world: World) -> None:
    world.grant(grant_of(world.steve, world.b), by=world.steve)
    assert world.decision(world.bert, world.steve) == 0
    assert world.decision(world.bina, world.steve) == 0
    assert world.decision(world.carl, world.steve) == DecisionCode.NO_GRANT
    assert world.decision(world.ivan, world.steve, purpose=Purpose.HPAYMT) == DecisionCode.NO_GRANT


def test_other_patients_of_a_granted_organisation_gain_nothing(world: World) -> None:
    """A pseudonym belongs to its hospital, but it is not its staff."""
    world.grant(
        grant_of(world.steve, world.a, scope=EVERYTHING, actions=READ_WRITE_PASS_ON, purposes=ALL_PURPOSES),
        by=world.steve,
    )
    assert world.decision(world.mary, world.steve, purpose=Purpose.PATRQT) == DecisionCode.NO_GRANT
    world.refused(RecordsCode.WRITE_NOT_AUTHORISED, anchor_of(world.steve, "forged"), by=world.mary)


def test_revoking_a_node_ends_its_subtree_at_once_and_nothing_else(world: World) -> None:
    root = world.grant(anything(world.steve, world.carl), by=world.steve)
    child = world.grant(anything(world.steve, world.dana, parent=root), by=world.carl)
    world.grant(grant_of(world.steve, world.bert, parent=child), by=world.dana)
    sibling = world.grant(grant_of(world.steve, world.bina, parent=root), by=world.carl)
    assert [world.decision(one, world.steve) for one in (world.carl, world.dana, world.bert, world.bina)] == [0] * 4
    world.done(Revoke(pseudonym=world.steve.id, grant_id=child), by=world.carl)
    assert world.decision(world.dana, world.steve) == DecisionCode.NO_GRANT
    assert world.decision(world.bert, world.steve) == DecisionCode.GRANT_NOT_LIVE
    assert world.decision(world.bina, world.steve) == 0
    world.done(Revoke(pseudonym=world.steve.id, grant_id=root), by=world.steve)
    assert world.decision(world.bina, world.steve) == DecisionCode.GRANT_NOT_LIVE
    assert world.contracts().consent.path_to(world.steve.id, sibling, world.time_s) is None
    assert world.broken() == []


def test_the_patient_may_revoke_any_node(world: World) -> None:
    root = world.grant(anything(world.steve, world.carl), by=world.steve)
    child = world.grant(anything(world.steve, world.dana, parent=root), by=world.carl)
    world.done(Revoke(pseudonym=world.steve.id, grant_id=child), by=world.steve)
    assert world.decision(world.carl, world.steve) == 0
    assert world.decision(world.dana, world.steve) == DecisionCode.NO_GRANT


def test_narrowing_a_root_narrows_what_hangs_below(world: World) -> None:
    root = world.grant(anything(world.steve, world.carl), by=world.steve)
    world.grant(anything(world.steve, world.bert, parent=root), by=world.carl)
    narrowed = Narrow(
        pseudonym=world.steve.id,
        grant_id=root,
        scope=RESULTS,
        actions=int(Action.READ | Action.DELEGATE),
        purposes=TREAT,
        expires_s=LATER_S,
    )
    world.done(narrowed, by=world.steve)
    assert world.decision(world.bert, world.steve) == 0
    assert world.decision(world.bert, world.steve, scope=ENCOUNTERS) == DecisionCode.SCOPE_NOT_COVERED
    assert world.decision(world.bert, world.steve, purpose=Purpose.CAREMGT) == DecisionCode.PURPOSE_NOT_COVERED
    world.refused(RecordsCode.WRITE_NOT_AUTHORISED, anchor_of(world.steve, "late"), by=world.carl)


def test_what_was_passed_on_ends_with_the_right_to_pass_on(world: World) -> None:
    passing = int(Action.READ | Action.WRITE | Action.DELEGATE)
    root = world.grant(anything(world.steve, world.carl), by=world.steve)
    child = world.grant(grant_of(world.steve, world.dana, parent=root, actions=passing), by=world.carl)
    world.grant(grant_of(world.steve, world.bert, parent=child), by=world.dana)
    fields = {"pseudonym": world.steve.id, "grant_id": root, "scope": EVERYTHING, "purposes": ALL_PURPOSES}
    world.done(Narrow(**fields, actions=int(Action.READ | Action.WRITE), expires_s=LATER_S), by=world.steve)
    assert world.decision(world.carl, world.steve) == 0
    assert world.decision(world.dana, world.steve) == DecisionCode.GRANT_NOT_LIVE
    assert world.decision(world.bert, world.steve) == DecisionCode.GRANT_NOT_LIVE
    world.refused(RecordsCode.WRITE_NOT_AUTHORISED, anchor_of(world.steve, "late"), by=world.dana)
    world.refused(ConsentCode.PARENT_NOT_LIVE, grant_of(world.steve, world.bina, parent=child), by=world.dana)
    # The whole path is judged at the moment of use, so giving the right back lets the branch live again.
    world.done(Extend(**fields, actions=READ_WRITE_PASS_ON, expires_s=LATER_S), by=world.steve)
    assert [world.decision(one, world.steve) for one in (world.dana, world.bert)] == [0, 0]


def test_extending_works_within_the_parent_and_reaches_no_further(world: World) -> None:
    root = world.grant(grant_of(world.steve, world.carl, scope=BOTH, actions=READ_WRITE_PASS_ON), by=world.steve)
    child = world.grant(grant_of(world.steve, world.bert, parent=root), by=world.carl)
    wider = Extend(
        pseudonym=world.steve.id,
        grant_id=child,
        scope=BOTH,
        actions=int(Action.READ | Action.WRITE),
        purposes=TREAT,
        expires_s=LATER_S,
    )
    world.done(wider, by=world.carl)
    assert world.decision(world.bert, world.steve, scope=BOTH) == 0


def test_a_lapsed_grant_may_not_be_revived_but_a_live_one_may_be_prolonged(world: World) -> None:
    grant_id = world.grant(grant_of(world.steve, world.carl, expires_s=START_S + DAY_S), by=world.steve)
    prolonged = Extend(
        pseudonym=world.steve.id,
        grant_id=grant_id,
        scope=RESULTS,
        actions=int(Action.READ),
        purposes=TREAT,
        expires_s=START_S + 3 * DAY_S,
    )
    world.done(prolonged, by=world.steve)
    assert world.decision(world.carl, world.steve, at=START_S + 2 * DAY_S) == 0


def test_what_a_leaver_passed_on_ends_with_him(world: World) -> None:
    root = world.grant(anything(world.steve, world.a), by=world.steve)
    world.grant(anything(world.steve, world.bert, parent=root), by=world.carl)
    assert world.decision(world.bert, world.steve) == 0
    world.done(DismissStaff(party=world.carl.id), by=world.anna)
    assert world.decision(world.bert, world.steve) == DecisionCode.GRANT_NOT_LIVE
    assert world.decision(world.dana, world.steve) == 0


def test_writing_is_not_reading_and_submitting_is_adding_without_reading(world: World) -> None:
    world.grant(grant_of(world.steve, world.john, actions=int(Action.SUBMIT)), by=world.steve)
    world.done(anchor_of(world.steve, "lipids"), by=world.john)
    assert world.decision(world.john, world.steve) == DecisionCode.ACTION_NOT_GRANTED
    world.grant(grant_of(world.steve, world.carl), by=world.steve)
    world.refused(RecordsCode.WRITE_NOT_AUTHORISED, anchor_of(world.steve, "more"), by=world.carl)


# --- several grantees, giving up ------------------------------------------------------------------------


def test_a_consultation_serves_clinicians_of_several_hospitals_for_a_while(world: World) -> None:
    """REC-10: one grant, several hospitals, an end."""
    consultation = grant_of(world.steve, world.carl, world.bert, world.bina, scope=BOTH, expires_s=START_S + 7 * DAY_S)
    grant_id = world.grant(consultation, by=world.steve)
    clinicians = (world.carl, world.bert, world.bina)
    assert [world.decision(one, world.steve, scope=BOTH) for one in clinicians] == [0, 0, 0]
    world.done(Renounce(pseudonym=world.steve.id, grant_id=grant_id), by=world.bert)
    assert world.decision(world.bert, world.steve) == DecisionCode.NO_GRANT
    assert [world.decision(one, world.steve) for one in (world.carl, world.bina)] == [0, 0]
    ends = START_S + 7 * DAY_S
    assert [world.decision(one, world.steve, at=ends) for one in clinicians] == [654, 653, 654]
    assert world.broken() == []


def test_the_last_grantee_who_gives_up_ends_the_grant(world: World) -> None:
    root = world.grant(anything(world.steve, world.carl), by=world.steve)
    world.grant(anything(world.steve, world.bert, parent=root), by=world.carl)
    world.done(Renounce(pseudonym=world.steve.id, grant_id=root), by=world.carl)
    assert world.decision(world.carl, world.steve) == DecisionCode.NO_GRANT
    assert world.decision(world.bert, world.steve) == DecisionCode.GRANT_NOT_LIVE
    assert world.broken() == []


def test_a_delegator_who_gives_up_leaves_nothing_passed_on(world: World) -> None:
    """Others still hold the grant; what hangs below it by the one who gave up is dead."""
    root = world.grant(anything(world.steve, world.carl, world.dana), by=world.steve)
    world.grant(grant_of(world.steve, world.bert, parent=root), by=world.carl)
    world.grant(grant_of(world.steve, world.bina, parent=root), by=world.dana)
    world.done(Renounce(pseudonym=world.steve.id, grant_id=root), by=world.carl)
    assert world.decision(world.bert, world.steve) == DecisionCode.GRANT_NOT_LIVE
    assert [world.decision(one, world.steve) for one in (world.dana, world.bina)] == [0, 0]


def test_an_administrator_gives_up_the_organisations_rights(world: World) -> None:
    """CON-4: an organisation may give up its own rights and never widen them."""
    grant_id = world.grant(grant_of(world.steve, world.a, world.b), by=world.steve)
    world.done(Renounce(pseudonym=world.steve.id, grant_id=grant_id), by=world.anna)
    assert world.decision(world.carl, world.steve) == DecisionCode.NO_GRANT
    assert world.decision(world.bert, world.steve) == 0


# --- lists ----------------------------------------------------------------------------------------------


def test_both_lists_name_the_same_grants(world: World) -> None:
    """CON-4: the patient sees all who have access, the organisation all its patients."""
    one = world.grant(grant_of(world.steve, world.b), by=world.steve)
    two = world.grant(grant_of(world.mary, world.b, world.carl), by=world.mary)
    three = world.grant(grant_of(world.steve, world.b, expires_s=START_S + DAY_S), by=world.steve)
    world.wait(2 * DAY_S)
    coverage, now = world.contracts().consent, world.time_s
    held = {
        (pseudonym, view.grant_id): view.live
        for pseudonym, page in views.granted_to(coverage, world.b.id, now)[0]
        for view in page
    }
    assert held == {(world.steve.id, one): True, (world.mary.id, two): True, (world.steve.id, three): False}
    given = {view.grant_id: view.live for view in views.grants_of(coverage, world.steve.id, now)}
    assert given == {one: True, three: False}
    world.done(Revoke(pseudonym=world.steve.id, grant_id=one), by=world.steve)
    coverage = world.contracts().consent
    left = {view.grant_id for _, page in views.granted_to(coverage, world.b.id, now)[0] for view in page}
    assert left == {two, three}
    # The patient still sees what was revoked.
    assert {view.grant_id: view.live for view in views.grants_of(coverage, world.steve.id, now)} == {
        one: False,
        three: False,
    }


def test_lists_come_in_pages(world: World) -> None:
    ids = [world.grant(grant_of(world.steve, world.carl), by=world.steve) for _ in range(5)]
    coverage = world.contracts().consent
    ordered = sorted(ids)
    page = views.grants_of(coverage, world.steve.id, world.time_s, ordered[1])
    assert [view.grant_id for view in page] == ordered[2:]
    assert views.granted_to(coverage, world.carl.id, world.time_s, world.steve.id) == ([], None)


def test_many_long_paths_make_short_pages_that_lose_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    patients = [world.steve, world.mary, *(world.bind(wallet_of(f"p{n}"), world.a, f"P-{n}") for n in range(3))]
    given = {world.grant(grant_of(one, world.b), by=one) for one in patients}
    view = View(snapshot=world.snapshot, height=world.height, time_s=world.time_s)
    asker = Asker(world.bert.id, view.contracts.membership.party(world.bert.id))
    whole = ask(view, asker, "consent.granted_to", GranteePage(world.b.id))
    assert {one.grant_id for one in whole.rows} == given
    assert whole.after is None
    monkeypatch.setattr(views, "QUERY_SCAN_ROWS", 6)
    pages, after, found = 0, None, []
    while pages == 0 or after is not None:
        page = ask(view, asker, "consent.granted_to", GranteePage(world.b.id, after))
        found += [one.grant_id for one in page.rows]
        after = None if page.after is None else page.after[0]
        pages += 1
    assert found == [one.grant_id for one in whole.rows]
    assert pages == 3


def test_who_can_see_names_every_reason_and_what_a_revocation_changes(world: World) -> None:
    """CON-9: the answer agrees with the decisions, before and after."""
    world.done(anchor_of(world.steve, "lipids"), by=world.steve)
    root = world.grant(anything(world.steve, world.carl), by=world.steve)
    child = world.grant(anything(world.steve, world.bert, parent=root), by=world.carl)
    leaf = world.grant(grant_of(world.steve, world.bina, parent=child), by=world.bert)
    world.grant(grant_of(world.steve, world.dana, scope=ENCOUNTERS), by=world.steve)
    world.grant(grant_of(world.steve, world.john, actions=int(Action.SUBMIT)), by=world.steve)
    aunt = world.appoint("aunt", world.steve)
    world.appoint("uncle", world.steve, powers=int(Power.REVOKE))
    world.appoint("cousin", world.steve, scope=ENCOUNTERS)
    rule = SetRule(
        pseudonym=world.steve.id,
        rule=3,
        who=Who(organisation=world.b.id),
        purposes=TREAT,
        scope=RESULTS,
        answer=Answer.ALLOW,
        expires_s=LATER_S,
    )
    world.done(rule, by=world.steve)

    reasons = _who_can_see(world)
    by_grant = {one.grant_id: one for one in reasons if one.because == "grant"}
    assert {one: reason.who for one, reason in by_grant.items()} == {
        root: (world.carl.id,),
        child: (world.bert.id,),
        leaf: (world.bina.id,),
    }
    assert set(by_grant[root].ends_with) == {child, leaf}
    assert by_grant[child].ends_with == (leaf,)
    assert by_grant[leaf].ends_with == ()
    assert [one.who for one in reasons if one.because == "representative"] == [(aunt.id,)]
    assert [(one.who, one.number) for one in reasons if one.because == "rule:allow"] == [((world.b.id,), 3)]
    assert not [one for one in reasons if one.because == "policy"]

    world.done(Revoke(pseudonym=world.steve.id, grant_id=child), by=world.steve)
    assert {one.grant_id for one in _who_can_see(world) if one.because == "grant"} == {root}


def test_who_can_see_follows_a_denial_that_hits_all_of_an_organisation(world: World) -> None:
    """The patient is told what the decisions will be, whichever way the denial names the organisation."""
    world.done(anchor_of(world.steve, "lipids"), by=world.steve)
    world.grant(grant_of(world.steve, world.b), by=world.steve)
    for who in (
        Who(party=world.b.id),
        Who(organisation=world.b.id),
        Who(kinds=mask(OrganisationKind.HOSPITAL)),
        Who(party=world.b.id, organisation=world.b.id, kinds=mask(OrganisationKind.HOSPITAL)),
        Who(),
    ):
        told = world.fork()
        told.done(_denial(told, who), by=told.steve)
        assert [one.because for one in _who_can_see(told)] == ["rule:deny"]
        assert told.decision(told.bert, told.steve) == DecisionCode.DENIED_BY_PATIENT


def test_who_can_see_hides_nobody_behind_a_denial_that_hits_some(world: World) -> None:
    world.done(anchor_of(world.steve, "lipids"), by=world.steve)
    world.grant(grant_of(world.steve, world.b), by=world.steve)
    for who in (
        Who(organisation=world.b.id, roles=mask(Role.ORGANISATION_ADMIN)),
        Who(organisation=world.b.id, roles=mask(Role.NURSE)),
        Who(party=world.bina.id),
        Who(party=world.a.id),
        Who(kinds=mask(OrganisationKind.INSURER)),
    ):
        told = world.fork()
        told.done(_denial(told, who), by=told.steve)
        assert [(one.because, one.who) for one in _who_can_see(told) if one.because == "grant"] == [
            ("grant", (told.b.id,))
        ]
        assert told.decision(told.bert, told.steve) == 0


def test_who_can_see_does_not_show_rules_about_nobody(world: World) -> None:
    world.done(anchor_of(world.steve, "lipids"), by=world.steve)
    world.done(DismissStaff(party=world.bina.id), by=world.b)
    nobody = (
        Who(party=world.mary.id),
        Who(party=record_id("no party")),
        Who(party=world.bina.id),
        Who(party=world.bert.id, organisation=world.a.id),
        Who(party=world.bert.id, roles=mask(Role.NURSE)),
        Who(party=world.a.id, organisation=world.b.id),
        Who(organisation=world.a.id, kinds=mask(OrganisationKind.INSURER)),
        Who(organisation=world.bert.id),
        Who(roles=mask(Role.PATIENT)),
    )
    world.done(*(_denial(world, who, number) for number, who in enumerate(nobody)), by=world.steve)
    assert _who_can_see(world) == []
    somebody = (Who(party=world.bert.id, organisation=world.b.id, roles=mask(Role.DOCTOR)), Who(roles=mask(Role.NURSE)))
    world.done(*(_denial(world, who, 40 + number) for number, who in enumerate(somebody)), by=world.steve)
    assert [one.number for one in _who_can_see(world)] == [40, 41]


def test_who_can_see_says_no_rather_than_look_without_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for one in (world.carl, world.dana, world.bert):
        world.grant(grant_of(world.steve, one), by=world.steve)
    gone = world.grant(grant_of(world.steve, world.bina), by=world.steve)
    world.done(Revoke(pseudonym=world.steve.id, grant_id=gone), by=world.steve)
    # Three grants and their three grantees; what was revoked is not looked at.
    monkeypatch.setattr(views, "QUERY_SCAN_ROWS", 6)
    assert len(_who_can_see(world)) == 3
    monkeypatch.setattr(views, "QUERY_SCAN_ROWS", 5)
    with pytest.raises(Rejected) as refused:
        _who_can_see(world)
    assert refused.value.code is ConsentCode.TOO_MANY_ROWS


def _denial(world: World, who: Who, number: int = 1) -> SetRule:
    return SetRule(
        pseudonym=world.steve.id,
        rule=number,
        who=who,
        purposes=ALL_PURPOSES,
        scope=EVERYTHING,
        answer=Answer.DENY,
        expires_s=LATER_S,
    )


def _who_can_see(world: World) -> list[views.Reason]:
    return views.who_can_see(
        world.contracts().consent,
        pseudonym=world.steve.id,
        record=record_id("lipids"),
        category=Category.RESULT,
        sensitivity=Sensitivity.N,
        day=45_000,
        time_s=world.time_s,
    )


def test_counters_follow_the_live_grants(world: World) -> None:
    ids = [world.grant(grant_of(world.steve, world.carl, world.bert), by=world.steve) for _ in range(3)]
    world.done(Revoke(pseudonym=world.steve.id, grant_id=ids[0]), by=world.steve)
    world.done(Renounce(pseudonym=world.steve.id, grant_id=ids[1]), by=world.carl)
    head = world.contracts().consent.tables.heads.get(world.steve.id)
    assert head is not None
    assert head.grants == 2


# --- bounds and what they cost --------------------------------------------------------------------------


def test_what_is_dead_makes_room_for_new_grants(world: World) -> None:
    """Expired, or cut off above: neither counts against the pair for good."""
    soon = world.time_s + 100
    world.done(*(grant_of(world.steve, world.carl, expires_s=soon) for _ in range(GRANTS_PER_PAIR - 1)), by=world.steve)
    stays = world.grant(grant_of(world.steve, world.carl), by=world.steve)
    world.refused(ConsentCode.TOO_MANY_GRANTS_TO_GRANTEE, grant_of(world.steve, world.carl), by=world.steve)
    world.wait(100)
    *ended, granted = world.done(grant_of(world.steve, world.carl), by=world.steve)
    assert isinstance(granted, Granted)
    assert len(ended) == GRANTS_PER_PAIR - 1
    assert all(isinstance(one, Revoked) for one in ended)
    tables = world.contracts().consent.tables
    held, head = tables.held.get(world.carl.id, world.steve.id), tables.heads.get(world.steve.id)
    assert held is not None
    assert head is not None
    assert held.grants == (stays, granted.grant_id)
    assert head.grants == 2
    assert world.broken() == []


def test_a_delegate_leaves_room_for_the_patient(world: World) -> None:
    root = world.grant(anything(world.steve, world.carl), by=world.steve)
    passed_on = (grant_of(world.steve, world.bert, parent=root) for _ in range(GRANTS_BY_OTHERS_PER_PAIR))
    world.done(*passed_on, by=world.carl)
    world.refused(ConsentCode.ROOM_KEPT_FOR_PATIENT, grant_of(world.steve, world.bert, parent=root), by=world.carl)
    own = GRANTS_PER_PAIR - GRANTS_BY_OTHERS_PER_PAIR
    world.done(*(grant_of(world.steve, world.bert) for _ in range(own)), by=world.steve)
    world.refused(ConsentCode.TOO_MANY_GRANTS_TO_GRANTEE, grant_of(world.steve, world.bert), by=world.steve)
    # The patient ends the branch, and with that what the delegate had filled is free again.
    world.done(Revoke(pseudonym=world.steve.id, grant_id=root), by=world.steve)
    world.done(grant_of(world.steve, world.bert), by=world.steve)
    assert world.broken() == []


def test_a_shared_ancestor_is_walked_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    holders, parent = (world.carl, world.dana), world.grant(anything(world.steve, world.carl), by=world.steve)
    for depth in range(1, 7):
        to, by = holders[depth % 2], holders[(depth - 1) % 2]
        parent = world.grant(anything(world.steve, to, parent=parent), by=by)
    leaves = [grant_of(world.steve, world.bert, parent=parent) for _ in range(GRANTS_BY_OTHERS_PER_PAIR)]
    world.done(*leaves, by=world.carl)
    read: list[bytes] = []
    whole = Table.get

    def counted(table: Table[GrantRow], *parts: bytes) -> GrantRow | None:
        if table.spec is grants_table:
            read.append(parts[1])
        return whole(table, *parts)

    coverage = world.contracts().consent
    grants_table = coverage.tables.grants.spec
    party = coverage.membership.party(world.bert.id)
    assert party is not None
    monkeypatch.setattr(Table, "get", counted)
    coverage.cover(
        pseudonym=world.steve.id,
        requester=world.bert.id,
        party=party,
        scope=Scope(categories=mask(Category.CLAIM), ceiling=Sensitivity.N),
        purpose=Purpose.TREAT,
        action=Action.READ,
        time_s=world.time_s,
    )
    assert len(read) == len(set(read)) == len(leaves) + 7


def test_the_bound_of_a_pseudonym_keeps_half_for_the_patient(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grants, "GRANTS_PER_PSEUDONYM", 4)
    monkeypatch.setattr(grants, "GRANTS_BY_OTHERS_PER_PSEUDONYM", 2)
    root = world.grant(anything(world.steve, world.carl), by=world.steve)
    world.grant(grant_of(world.steve, world.dana, parent=root), by=world.carl)
    world.refused(ConsentCode.ROOM_KEPT_FOR_PATIENT, grant_of(world.steve, world.nora, parent=root), by=world.carl)
    world.done(grant_of(world.steve, world.nora), grant_of(world.steve, world.bert), by=world.steve)
    world.refused(ConsentCode.TOO_MANY_GRANTS, grant_of(world.steve, world.bina), by=world.steve)


def test_single_records_and_days_bound_a_grant(world: World) -> None:
    scope = scope_of(Category.RESULT, first_day=44_000, last_day=45_000, records=(record_id("one"),))
    world.grant(grant_of(world.steve, world.carl, scope=scope), by=world.steve)
    assert world.decision(world.carl, world.steve, scope=scope) == 0
    assert world.decision(world.carl, world.steve) == DecisionCode.SCOPE_NOT_COVERED
    other = scope_of(Category.RESULT, first_day=44_000, last_day=45_000, records=(record_id("two"),))
    assert world.decision(world.carl, world.steve, scope=other) == DecisionCode.SCOPE_NOT_COVERED
    longer = scope_of(Category.RESULT, first_day=44_000, last_day=45_001, records=(record_id("one"),))
    assert world.decision(world.carl, world.steve, scope=longer) == DecisionCode.SCOPE_NOT_COVERED
    assert mask(Category.RESULT) == scope.categories
