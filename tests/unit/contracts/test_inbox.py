"""Goal: a request is answered by the patient or by a standing rule and never grants more than was asked (CON-5).

Method: stories over a real ledger; the answer is judged by an access request afterwards.
"""

from carechain.contracts.access import RequestAccess
from carechain.contracts.consent.schema import (
    Answer,
    Answered,
    AnswerRequest,
    Ask,
    Asked,
    ConsentCode,
    DropRule,
    SetRule,
    Who,
    Withdraw,
)
from carechain.contracts.consent.views import inbox_of, rules_of
from carechain.core.decision import DecisionCode, PathKind
from carechain.core.limits import REQUEST_LIFETIME_S
from carechain.core.scope import EVERYTHING, Scope
from carechain.core.vocabulary import (
    ALL_CATEGORIES,
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
from carechain.sdk.wallet import Pseudonym
from world import LATER_S, RESULTS, TREAT, World, grant_of, scope_of

ONE_YEAR_OF_RESULTS = scope_of(Category.RESULT, first_day=45_000, last_day=45_365)


def ask_of(patient: Pseudonym, *, purpose: Purpose = Purpose.TREAT, actions: Action = Action.READ) -> Ask:
    return Ask(pseudonym=patient.id, scope=RESULTS, actions=int(actions), purpose=purpose, expires_s=LATER_S)


def rule_of(
    patient: Pseudonym,
    answer: Answer,
    *,
    number: int = 1,
    who: Who | None = None,
    purposes: int = TREAT,
    scope: Scope = EVERYTHING,
) -> SetRule:
    return SetRule(
        pseudonym=patient.id,
        rule=number,
        who=who or Who(kinds=mask(*OrganisationKind)),
        purposes=purposes,
        scope=scope,
        answer=answer,
        expires_s=LATER_S,
    )


def answered(world: World, request_id: bytes, *, approve: bool = True, scope: Scope = RESULTS) -> AnswerRequest:
    return AnswerRequest(
        pseudonym=world.steve.id, request_id=request_id, approve=approve, scope=scope, expires_s=LATER_S
    )


def waiting(world: World) -> list[bytes]:
    return [one for one, _ in inbox_of(world.contracts().consent.tables, world.steve.id, world.time_s)]


def test_an_approval_grants_what_was_asked(world: World) -> None:
    (event,) = world.done(ask_of(world.steve), by=world.bert)
    assert isinstance(event, Asked)
    assert waiting(world) == [event.request_id]
    assert world.decision(world.bert, world.steve) == DecisionCode.NO_GRANT
    granted, closed = world.done(answered(world, event.request_id), by=world.steve)
    assert isinstance(closed, Answered)
    assert closed.answer is Answer.ALLOW
    assert closed.grant_id == granted.grant_id
    assert waiting(world) == []
    assert world.decision(world.bert, world.steve) == 0
    assert world.broken() == []


def test_an_approval_may_narrow(world: World) -> None:
    (event,) = world.done(ask_of(world.steve), by=world.bert)
    world.done(answered(world, event.request_id, scope=ONE_YEAR_OF_RESULTS), by=world.steve)
    assert world.decision(world.bert, world.steve, scope=ONE_YEAR_OF_RESULTS) == 0
    assert world.decision(world.bert, world.steve) == DecisionCode.SCOPE_NOT_COVERED


def test_a_denial_leaves_nothing_and_so_does_a_withdrawal(world: World) -> None:
    (first,) = world.done(ask_of(world.steve), by=world.bert)
    world.done(answered(world, first.request_id, approve=False), by=world.steve)
    (second,) = world.done(ask_of(world.steve), by=world.bert)
    world.done(Withdraw(pseudonym=world.steve.id, request_id=second.request_id), by=world.bert)
    assert waiting(world) == []
    assert world.decision(world.bert, world.steve) == DecisionCode.NO_GRANT


def test_expired_requests_make_room(world: World) -> None:
    world.done(*(ask_of(world.steve) for _ in range(4)), by=world.bert)
    world.wait(REQUEST_LIFETIME_S - 10)
    assert len(waiting(world)) == 4
    world.wait(10)
    assert waiting(world) == []
    world.done(ask_of(world.steve), by=world.bert)
    assert len(waiting(world)) == 1


def test_one_organisation_leaves_room_in_the_inbox_for_others(world: World) -> None:
    asking = [world.enrol(world.d, f"auditor {n}", Role.INSURANCE_AUDITOR) for n in range(17)]
    message = ask_of(world.steve, purpose=Purpose.HPAYMT)
    for one in asking[:16]:
        world.done(*(message for _ in range(4)), by=one)
    world.refused(ConsentCode.ORGANISATION_ASKS_TOO_MUCH, message, by=asking[16])
    world.done(ask_of(world.steve), by=world.bert)
    world.done(message, by=world.ivan)
    assert len(waiting(world)) == 66


def test_a_standing_rule_says_yes(world: World) -> None:
    rule = rule_of(world.steve, Answer.ALLOW, who=Who(organisation=world.b.id), scope=RESULTS)
    world.done(rule, by=world.steve)
    # Without asking, the rule is itself a path.
    assert world.decision(world.bert, world.steve) == 0
    granted, closed = world.done(ask_of(world.steve), by=world.bert)
    assert isinstance(closed, Answered)
    assert closed.answer is Answer.ALLOW
    world.done(DropRule(pseudonym=world.steve.id, rule=1), by=world.steve)
    # What was granted by the rule is a grant like any other and outlives the rule; the rule's own path does not.
    assert world.decision(world.bert, world.steve) == 0
    assert world.decision(world.bina, world.steve) == DecisionCode.NO_GRANT
    row = world.contracts().consent.tables.grants.get(world.steve.id, granted.grant_id)
    assert row is not None
    assert row.grantor == world.steve.id


def test_a_rule_says_yes_only_to_reading_and_only_to_all_of_it(world: World) -> None:
    world.done(rule_of(world.steve, Answer.ALLOW, scope=RESULTS), by=world.steve)
    (event,) = world.done(ask_of(world.steve, actions=Action.READ | Action.WRITE), by=world.bert)
    assert isinstance(event, Asked)
    wider = Ask(
        pseudonym=world.steve.id,
        scope=scope_of(Category.RESULT, Category.IMAGE),
        actions=int(Action.READ),
        purpose=Purpose.TREAT,
        expires_s=LATER_S,
    )
    (event,) = world.done(wider, by=world.bert)
    assert isinstance(event, Asked)
    longer = Ask(
        pseudonym=world.steve.id,
        scope=RESULTS,
        actions=int(Action.READ),
        purpose=Purpose.TREAT,
        expires_s=LATER_S + 1,
    )
    (event,) = world.done(longer, by=world.bert)
    assert isinstance(event, Asked)


def test_research_asks_and_treatment_by_my_hospital_may(world: World) -> None:
    """The example of CON-5."""
    mine = rule_of(world.steve, Answer.ALLOW, number=1, who=Who(organisation=world.a.id, roles=mask(Role.DOCTOR)))
    research = rule_of(world.steve, Answer.ASK, number=2, purposes=mask(Purpose.HRESCH))
    world.done(mine, research, by=world.steve)
    assert world.decision(world.carl, world.steve) == 0
    assert world.decision(world.nora, world.steve) == DecisionCode.NO_GRANT
    assert world.decision(world.rita, world.steve, purpose=Purpose.HRESCH) == DecisionCode.NO_GRANT
    (event,) = world.done(ask_of(world.steve, purpose=Purpose.HRESCH), by=world.rita)
    assert isinstance(event, Asked)


def test_deny_beats_ask_beats_allow(world: World) -> None:
    allow = rule_of(world.steve, Answer.ALLOW, number=1, who=Who(kinds=mask(OrganisationKind.HOSPITAL)))
    ask = rule_of(world.steve, Answer.ASK, number=2, who=Who(organisation=world.b.id))
    deny = rule_of(world.steve, Answer.DENY, number=3, who=Who(party=world.bina.id))
    world.done(allow, ask, deny, by=world.steve)
    assert world.decision(world.carl, world.steve) == 0
    assert world.decision(world.bert, world.steve) == DecisionCode.NO_GRANT
    assert world.decision(world.bina, world.steve) == DecisionCode.DENIED_BY_PATIENT
    (event,) = world.done(ask_of(world.steve), by=world.bina)
    assert isinstance(event, Answered)
    assert event.answer is Answer.DENY
    assert [number for number, _ in rules_of(world.contracts().consent.tables, world.steve.id)] == [1, 2, 3]


def test_a_rule_that_names_an_organisation_as_its_party_is_about_its_staff(world: World) -> None:
    world.grant(grant_of(world.steve, world.b), by=world.steve)
    world.done(rule_of(world.steve, Answer.DENY, who=Who(party=world.b.id)), by=world.steve)
    assert world.decision(world.bert, world.steve) == DecisionCode.DENIED_BY_PATIENT
    (event,) = world.done(ask_of(world.steve), by=world.bert)
    assert isinstance(event, Answered)
    assert event.answer is Answer.DENY
    assert world.decision(world.carl, world.steve) == DecisionCode.NO_GRANT
    world.done(rule_of(world.steve, Answer.ALLOW, who=Who(party=world.a.id)), by=world.steve)
    assert world.decision(world.carl, world.steve) == 0
    assert world.decision(world.mary, world.steve, purpose=Purpose.PATRQT) == DecisionCode.NO_GRANT


def test_a_denial_stops_a_grant_also_where_it_touches_only_part(world: World) -> None:
    world.grant(grant_of(world.steve, world.carl, scope=EVERYTHING), by=world.steve)
    only_images = Scope(categories=mask(Category.IMAGE), ceiling=Sensitivity.V)
    world.done(rule_of(world.steve, Answer.DENY, who=Who(party=world.carl.id), scope=only_images), by=world.steve)
    assert world.decision(world.carl, world.steve, scope=EVERYTHING) == DecisionCode.DENIED_BY_PATIENT
    without = Scope(categories=ALL_CATEGORIES & ~mask(Category.IMAGE), ceiling=Sensitivity.V)
    assert world.decision(world.carl, world.steve, scope=without) == 0


def test_a_rule_about_an_organisation_does_not_let_its_other_patients_in(world: World) -> None:
    for who in (
        Who(organisation=world.a.id),
        Who(kinds=mask(OrganisationKind.HOSPITAL)),
        Who(kinds=mask(*OrganisationKind)),
    ):
        world.done(rule_of(world.steve, Answer.ALLOW, who=who, purposes=ALL_PURPOSES), by=world.steve)
        assert world.decision(world.mary, world.steve, purpose=Purpose.PATRQT) == DecisionCode.NO_GRANT
        assert world.decision(world.steve_at_b, world.steve, purpose=Purpose.PATRQT) == DecisionCode.NO_GRANT


def test_the_path_of_an_allowed_request_names_the_rule(world: World) -> None:
    world.done(rule_of(world.steve, Answer.ALLOW, number=700), by=world.steve)
    from_rule = world.ticket(_request(world))
    assert from_rule.path is not None
    assert (from_rule.path.kind, from_rule.path.rule) == (PathKind.RULE, 700)


def _request(world: World) -> bytes:
    return world.request(
        RequestAccess(pseudonym=world.steve.id, scope=RESULTS, purpose=Purpose.TREAT), by=world.bert
    ).ticket


def test_a_representative_answers_within_its_part(world: World) -> None:
    aunt = world.appoint("aunt", world.steve, powers=int(Power.ANSWER), scope=ONE_YEAR_OF_RESULTS)
    (event,) = world.done(ask_of(world.steve), by=world.bert)
    world.refused(ConsentCode.WIDER_THAN_POWERS, answered(world, event.request_id), by=aunt)
    world.done(answered(world, event.request_id, scope=ONE_YEAR_OF_RESULTS), by=aunt)
    assert world.decision(world.bert, world.steve, scope=ONE_YEAR_OF_RESULTS) == 0
