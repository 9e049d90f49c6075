"""Goal: an event reaches those it concerns and nobody else; an event without a rule reaches regulators only.

Method: the pure functions over a world in memory; a table of events against everybody in it.
"""

import pytest

from carechain.chain.queries import Asker, QueryCode, View, ask
from carechain.chain.questions import LogPage
from carechain.chain.receipts import OK, Receipt, describe
from carechain.chain.routing import EVENTS
from carechain.contracts.access import ReportRelease, ReportShares, RequestAccess, RevokeTicket
from carechain.contracts.consent.schema import Answer, AnswerRequest, Ask, Revoke, SetRule, Who
from carechain.contracts.governance import AcceptAgreement, OfferAgreement, Propose, RemoveMember
from carechain.contracts.membership import DismissStaff, ReplaceAuthority
from carechain.contracts.records import ConfirmErasure, Erase, ErasedPart
from carechain.contracts.recovery import SetPolicy
from carechain.contracts.relationships import Leave, PutSummary
from carechain.core.limits import SUMMARY_BUCKET_BYTES
from carechain.core.message import Event, tag_of
from carechain.core.rejection import Rejected
from carechain.core.vocabulary import Action, Category, Power, Purpose, mask
from carechain.node.audience import RULES, Sight, require_block_reader, require_live, sees, shown, sight_of
from ceremonies import Player, make_key
from recoveries import rotation_of, staff_rotation, start_of, terms_of
from world import (
    DAY_S,
    LATER_S,
    RESULTS,
    Actor,
    World,
    anchor_of,
    anything,
    fresh,
    grant_of,
    record_id,
    scope_of,
)

EVERYBODY = ("steve", "mary", "carl", "anna", "rosa", "bert", "bina", "ivan", "gita", "rita", "a", "b", "c", "vera")


class Unknown(Event, frozen=True, tag="test.unknown"):
    """An event nobody wrote a rule for."""


def view_of(world: World) -> View:
    return View(snapshot=world.snapshot, height=world.height, time_s=world.time_s)


def asker_of(world: World, name: str) -> Asker:
    who = getattr(world, name)
    party = world.contracts().membership.party(who.id)
    assert party is not None
    return Asker(who.id, party)


def audience(world: World, event: Event) -> set[str]:
    view = view_of(world)
    return {name for name in EVERYBODY if sees(view, asker_of(world, name), event)} - {"gita"}


@pytest.fixture
def world() -> World:
    world = fresh()
    world.grant(anything(world.steve, world.a), by=world.steve)
    return world


def test_every_event_has_a_rule_and_a_new_one_is_hidden(world: World) -> None:
    assert set(RULES) == set(EVENTS), "say in node/audience.py whom the new event concerns"
    assert audience(world, Unknown()) == set()
    assert sees(view_of(world), asker_of(world, "gita"), Unknown())


def test_the_regulator_sees_every_kind(world: World) -> None:
    (event,) = world.done(anchor_of(world.steve, "r"), by=world.carl)
    assert sees(view_of(world), asker_of(world, "gita"), event)


def test_records_reach_the_patient_and_the_custodian(world: World) -> None:
    (event,) = world.done(anchor_of(world.steve, "r"), by=world.carl)
    assert audience(world, event) == {"steve", "carl", "anna", "a"}


def test_a_representative_is_told_of_records_it_may_read(world: World) -> None:
    (event,) = world.done(anchor_of(world.steve, "r"), by=world.carl)
    reader = world.appoint("reader", world.steve, powers=int(Power.READ_RECORDS))
    blind = world.appoint("blind", world.steve, powers=int(Power.GRANT))
    elsewhere = world.appoint("other", world.steve, powers=int(Power.READ_RECORDS), scope=scope_of(Category.IMAGE))
    view, parties = view_of(world), world.contracts().membership
    told = [
        sees(view, Asker(one.id, party), event)
        for one in (reader, blind, elsewhere)
        if (party := parties.party(one.id)) is not None
    ]
    assert told == [True, False, False]


def test_an_erasure_and_its_receipts_reach_who_reads_the_log(world: World) -> None:
    world.done(anchor_of(world.steve, "r"), by=world.carl)
    (order,) = world.done(Erase(pseudonym=world.steve.id, record=record_id("r")), by=world.steve)
    (receipt,) = world.done(
        ConfirmErasure(pseudonym=world.steve.id, record=record_id("r"), destroyed=int(ErasedPart.CHART)), by=world.a
    )
    assert audience(world, order) == audience(world, receipt) == {"steve", "anna", "a"}


def test_grants_reach_both_sides(world: World) -> None:
    to_person = world.done(grant_of(world.steve, world.bert), by=world.steve)[0]
    assert audience(world, to_person) == {"steve", "bert"}
    to_organisation = world.done(grant_of(world.steve, world.b), by=world.steve)[0]
    assert audience(world, to_organisation) == {"steve", "b", "bert", "bina"}
    revoked = world.done(Revoke(pseudonym=world.steve.id, grant_id=to_person.grant_id), by=world.steve)[0]
    assert audience(world, revoked) == {"steve", "bert"}
    passed_on = world.grant(anything(world.steve, world.bert), by=world.steve)
    below = world.done(anything(world.steve, world.ivan, parent=passed_on), by=world.bert)[0]
    assert audience(world, below) == {"steve", "ivan"}
    ended = world.done(Revoke(pseudonym=world.steve.id, grant_id=below.grant_id), by=world.bert)[0]
    assert audience(world, ended) == {"steve", "ivan", "bert"}


def test_a_grantee_is_not_told_who_else_was_granted_the_same(world: World) -> None:
    granted = world.done(grant_of(world.steve, world.bert, world.ivan, world.c), by=world.steve)[0]
    assert audience(world, granted) == {"steve", "bert", "ivan", "c"}
    view = view_of(world)

    def told(name: str) -> set[bytes]:
        part = shown(view, asker_of(world, name), granted)
        return set() if part is None else set(part.grantees)

    everyone = {world.bert.id, world.ivan.id, world.c.id}
    assert told("steve") == told("gita") == everyone
    assert told("bert") == {world.bert.id}
    assert told("ivan") == {world.ivan.id, world.c.id}
    assert told("c") == {world.c.id}
    assert told("carl") == told("mary") == set()


def test_requests_and_their_answers(world: World) -> None:
    wish = Ask(
        pseudonym=world.steve.id, scope=RESULTS, actions=int(Action.READ), purpose=Purpose.TREAT, expires_s=LATER_S
    )
    asked = world.done(wish, by=world.bert)[0]
    assert audience(world, asked) == {"steve", "bert"}
    answer = AnswerRequest(
        pseudonym=world.steve.id, request_id=asked.request_id, approve=True, scope=RESULTS, expires_s=LATER_S
    )
    events = world.done(answer, by=world.steve)
    assert all(audience(world, event) == {"steve", "bert"} for event in events)
    rule = SetRule(
        pseudonym=world.steve.id,
        rule=1,
        who=Who(party=world.bina.id),
        purposes=mask(Purpose.TREAT),
        scope=RESULTS,
        answer=Answer.ALLOW,
        expires_s=LATER_S,
    )
    assert audience(world, world.done(rule, by=world.steve)[0]) == {"steve"}


def test_tickets_reach_requester_patient_and_custodian(world: World) -> None:
    world.grant(grant_of(world.steve, world.bert), by=world.steve)
    decided = world.request(
        RequestAccess(pseudonym=world.steve.id, scope=RESULTS, purpose=Purpose.TREAT), by=world.bert
    )
    concerned = {"steve", "bert", "anna", "a"}
    assert decided.decision == 0
    assert audience(world, decided) == concerned
    for name in EVERYBODY:
        try:
            ask(view_of(world), asker_of(world, name), "access.log", LogPage(world.steve.id))
        except Rejected:
            assert name in ("bert", "gita") or name not in concerned, "who may not read the log sees none of its lines"
    released = world.done(ReportRelease(ticket=decided.ticket, records=1, digest=record_id("d")), by=world.a)[0]
    revoked = world.done(RevokeTicket(ticket=decided.ticket), by=world.steve)[0]
    assert audience(world, released) == audience(world, revoked) == concerned


def test_shares_reach_who_reads_the_log_and_the_requester(world: World) -> None:
    """Not the keyholder itself: it reads no log, and knows what it reported."""
    make_key(world, [Player(one) for one in (world.b, world.c)])
    wish = RequestAccess(pseudonym=world.steve.id, scope=RESULTS, purpose=Purpose.TREAT)
    ticket = world.request(wish, by=world.carl).ticket
    (shares,) = world.done(ReportShares(ticket=ticket, records=1, digest=record_id("d")), by=world.c)
    assert audience(world, shares) == {"steve", "anna", "a", "carl"}


def test_what_concerns_one_organisation(world: World) -> None:
    left = world.done(Leave(pseudonym=world.steve.id), by=world.steve)[0]
    assert audience(world, left) == {"steve", "anna", "rosa", "a"}
    stored = world.done(PutSummary(pseudonym=world.mary.id, sealed=bytes(SUMMARY_BUCKET_BYTES)), by=world.mary)[0]
    assert audience(world, stored) == {"mary"}
    dismissed = world.done(DismissStaff(party=world.bina.id), by=world.b)[0]
    assert audience(world, dismissed) == {"bina", "b"}


def test_a_recovery_reaches_its_owner_its_guardians_and_the_registrar(world: World) -> None:
    (policy,) = world.done(
        SetPolicy(pseudonym=world.steve.id, terms=terms_of(world.bert, wait_s=DAY_S)), by=world.steve
    )
    assert audience(world, policy) == {"steve", "anna", "rosa", "a"}, "a guardian counts when the policy does"
    world.wait(3 * DAY_S)
    assert audience(world, policy) == {"steve", "anna", "rosa", "a", "bert"}
    for event in world.done(start_of(world.steve, Actor("new")), by=world.bert):
        assert audience(world, event) == {"steve", "anna", "rosa", "a", "bert"}


def test_a_changed_key_reaches_whom_it_concerns(world: World) -> None:
    (patients,) = world.done(rotation_of(world.steve, Actor("next")), by=world.steve)
    assert audience(world, patients) == {"steve"}
    eva = world.appoint("eva", world.mary)
    (representatives,) = world.done(rotation_of(eva, Actor("eva's next")), by=eva)
    assert audience(world, representatives) == {"mary"}
    staffs, _ = world.done(staff_rotation(world.b, world.bert, Actor("bert's next")), by=world.b)
    assert audience(world, staffs) == {"bert", "b"}
    (members,) = world.done(rotation_of(world.c, Actor("c's next")), by=world.c)
    assert audience(world, members) == set(EVERYBODY) - {"gita"}


def test_what_concerns_the_consortium(world: World) -> None:
    proposed = world.done(Propose(change=RemoveMember(member=world.d.id)), by=world.a)[0]
    assert audience(world, proposed) == {"a", "b", "c", "anna", "vera"}
    world.done(OfferAgreement(other=world.b.id, terms=record_id("t"), expires_s=LATER_S), by=world.a)
    made = world.done(AcceptAgreement(other=world.a.id, terms=record_id("t")), by=world.b)[0]
    assert audience(world, made) == {"a", "b", "c", "anna", "vera"}
    successor = ReplaceAuthority(certificate=world.b.another_authority().certificate)
    (replaced,) = world.done(successor, by=world.b)
    assert audience(world, replaced) == set(EVERYBODY) - {"gita"}
    admitted = RULES[next(kind for kind in EVENTS if tag_of(kind) == "membership.member_admitted")]
    assert admitted(view_of(world), asker_of(world, "mary"), Unknown())


def test_a_receipt_is_whole_only_for_signer_and_regulator(world: World) -> None:
    raw = world.sign(grant_of(world.steve, world.bert), by=world.steve)
    (receipt,) = world.block(raw)
    assert receipt.code == OK
    full = describe(raw, receipt, height=world.height, index=0)
    view = view_of(world)
    sight = {name: sight_of(view, asker_of(world, name), full) for name in EVERYBODY}
    assert {name for name, one in sight.items() if one is Sight.WHOLE} == {"steve", "gita"}
    assert {name for name, one in sight.items() if one is Sight.OWN_EVENTS} == {"bert"}
    refused = describe(raw, Receipt(code=415), height=world.height, index=0)
    assert sight_of(view, asker_of(world, "bert"), refused) is Sight.NOTHING


def test_only_the_living_are_asked_further(world: World) -> None:
    bert = asker_of(world, "bert")
    assert require_live(view_of(world), bert) is bert
    world.done(DismissStaff(party=world.bert.id), by=world.b)
    for gone in (None, asker_of(world, "bert")):
        with pytest.raises(Rejected) as rejected:
            require_live(view_of(world), gone)
        assert rejected.value.code is QueryCode.NOT_A_LIVE_MEMBER


def test_who_reads_raw_blocks(world: World) -> None:
    readers = set()
    for name in EVERYBODY:
        try:
            require_block_reader(asker_of(world, name))
        except Rejected:
            continue
        readers.add(name)
    assert readers == {"a", "b", "c", "anna", "gita"}
