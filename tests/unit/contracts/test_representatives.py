"""Goal: family and guardians act for a patient in exactly the part they were given (CON-8).

Method: one representative per power; each tries everything a representative could do, within and beyond its scope.
"""

import pytest

from carechain.chain.receipts import OK, code_named
from carechain.contracts.access import RequestAccess, RevokeTicket
from carechain.contracts.consent.schema import (
    Answer,
    AnswerRequest,
    Ask,
    Asked,
    ConsentCode,
    Dismiss,
    DropRule,
    Narrow,
    Revoke,
    SetRule,
    Who,
)
from carechain.contracts.consent.views import representatives_of
from carechain.contracts.membership import MembershipCode
from carechain.core.decision import DecisionCode, PathKind
from carechain.core.limits import REPRESENTATIVES_PER_PSEUDONYM
from carechain.core.message import Message
from carechain.core.scope import EVERYTHING
from carechain.core.vocabulary import Category, OrganisationKind, Power, Purpose, mask
from world import (
    DAY_S,
    LATER_S,
    RESULTS,
    START_S,
    TREAT,
    Actor,
    World,
    appoint_message,
    grant_of,
    scope_of,
)

BOTH = scope_of(Category.RESULT, Category.ENCOUNTER)


def attempts(world: World) -> dict[str, tuple[Power, Message]]:
    """Something to try for every power, all within results."""
    grant_id = world.grant(grant_of(world.steve, world.carl, scope=BOTH), by=world.steve)
    other = world.grant(grant_of(world.steve, world.carl, scope=BOTH), by=world.steve)
    (asked,) = world.done(
        Ask(pseudonym=world.steve.id, scope=RESULTS, actions=1, purpose=Purpose.TREAT, expires_s=LATER_S),
        by=world.bert,
    )
    assert isinstance(asked, Asked)
    return {
        "grant": (Power.GRANT, grant_of(world.steve, world.bina)),
        "narrow": (
            Power.REVOKE,
            Narrow(
                pseudonym=world.steve.id,
                grant_id=other,
                scope=RESULTS,
                actions=1,
                purposes=TREAT,
                expires_s=LATER_S,
            ),
        ),
        "revoke": (Power.REVOKE, Revoke(pseudonym=world.steve.id, grant_id=grant_id)),
        "answer": (
            Power.ANSWER,
            AnswerRequest(
                pseudonym=world.steve.id,
                request_id=asked.request_id,
                approve=True,
                scope=RESULTS,
                expires_s=LATER_S,
            ),
        ),
        "rule": (
            Power.RULES,
            SetRule(
                pseudonym=world.steve.id,
                rule=1,
                who=Who(kinds=mask(*OrganisationKind)),
                purposes=TREAT,
                scope=RESULTS,
                answer=Answer.ASK,
                expires_s=LATER_S,
            ),
        ),
    }


@pytest.mark.parametrize("power", list(Power), ids=lambda power: power.name)
def test_each_power_permits_its_own_acts_and_no_other(power: Power, world: World) -> None:
    aunt = world.appoint("aunt", world.steve, powers=int(power), scope=BOTH)
    for needed, message in attempts(world).values():
        receipt = world.fork().run(message, by=aunt)
        if needed is power:
            assert receipt.code == OK, code_named(receipt.code)
        else:
            assert code_named(receipt.code) is ConsentCode.SENDER_NOT_GRANTOR
    reads = world.decision(aunt, world.steve, purpose=Purpose.FAMRQT)
    assert reads == (0 if power is Power.READ_RECORDS else DecisionCode.ACTION_NOT_GRANTED)


def test_reading_stays_inside_the_part(world: World) -> None:
    aunt = world.appoint("aunt", world.steve, powers=int(Power.READ_RECORDS), scope=RESULTS)
    asking = RequestAccess(pseudonym=world.steve.id, scope=RESULTS, purpose=Purpose.FAMRQT)
    path = world.ticket(world.request(asking, by=aunt).ticket).path
    assert path is not None
    assert path.kind is PathKind.REPRESENTATIVE
    assert world.decision(aunt, world.steve, scope=BOTH, purpose=Purpose.FAMRQT) == DecisionCode.SCOPE_NOT_COVERED
    assert world.decision(aunt, world.mary, purpose=Purpose.FAMRQT) == DecisionCode.NO_GRANT
    assert world.decision(aunt, world.steve_at_b, purpose=Purpose.FAMRQT) == DecisionCode.NO_GRANT


def test_powers_end_with_their_time(world: World) -> None:
    aunt = world.appoint("aunt", world.steve, expires_s=START_S + DAY_S)
    world.refused(MembershipCode.CERTIFICATE_EXPIRED, grant_of(world.steve, world.carl), by=aunt, at=START_S + DAY_S)


def test_a_dismissed_representative_acts_no_more_but_what_was_granted_stays(world: World) -> None:
    aunt = world.appoint("aunt", world.steve)
    world.grant(grant_of(world.steve, world.carl), by=aunt)
    world.done(Dismiss(pseudonym=world.steve.id, representative=aunt.id), by=world.steve)
    world.refused(MembershipCode.CERTIFICATE_REVOKED, grant_of(world.steve, world.bert), by=aunt)
    assert world.decision(aunt, world.steve, purpose=Purpose.FAMRQT) == DecisionCode.REQUESTER_NOT_LIVE
    assert world.decision(world.carl, world.steve) == 0
    ((who, row),) = representatives_of(world.contracts().consent.tables, world.steve.id)
    assert who == aunt.id
    assert row.dismissed_s
    assert world.broken() == []


def test_what_a_representative_sets_ends_no_later_than_the_appointment(world: World) -> None:
    until_s = START_S + DAY_S
    aunt = world.appoint("aunt", world.steve, expires_s=until_s)
    world.refused(ConsentCode.OUTLIVES_POWERS, grant_of(world.steve, world.carl), by=aunt)
    world.grant(grant_of(world.steve, world.carl, expires_s=until_s), by=aunt)
    assert world.decision(world.carl, world.steve, at=until_s - 1) == 0
    assert world.decision(world.carl, world.steve, at=until_s) == DecisionCode.GRANT_NOT_LIVE


def test_appointing_costs_the_same_however_many_once_acted(world: World) -> None:
    """Rows of ended representatives go with the next appointment; their keys stay taken."""
    first = world.appoint("first", world.steve, expires_s=START_S + DAY_S)
    for number in range(REPRESENTATIVES_PER_PSEUDONYM + 4):
        actor = world.appoint(f"aunt {number}", world.steve)
        world.done(Dismiss(pseudonym=world.steve.id, representative=actor.id), by=world.steve)
    kept = [who for who, _ in representatives_of(world.contracts().consent.tables, world.steve.id)]
    assert sorted(kept) == sorted((first.id, actor.id))
    world.wait(DAY_S)
    last = world.appoint("last", world.steve)
    assert [who for who, _ in representatives_of(world.contracts().consent.tables, world.steve.id)] == [last.id]
    again = appoint_message(actor, world.steve)
    world.refused(ConsentCode.REPRESENTATIVE_EXISTS, again, by=world.steve)
    # A key that acts already accepts anew, and is refused all the same: it serves one appointment.
    unasked = appoint_message(actor, world.steve, proof=bytes(64))
    world.refused(ConsentCode.REPRESENTATIVE_PROOF_INVALID, unasked, by=world.steve)


def test_a_representative_cannot_appoint_or_dismiss(world: World) -> None:
    aunt = world.appoint("aunt", world.steve)
    uncle = world.appoint("uncle", world.steve)
    world.refused(MembershipCode.ROLE_MAY_NOT_SEND, Dismiss(pseudonym=world.steve.id, representative=uncle.id), by=aunt)


def test_two_representatives_manage_each_others_grants_within_their_powers(world: World) -> None:
    aunt = world.appoint("aunt", world.steve)
    uncle = world.appoint("uncle", world.steve, powers=int(Power.REVOKE))
    grant_id = world.grant(grant_of(world.steve, world.carl), by=aunt)
    world.done(Revoke(pseudonym=world.steve.id, grant_id=grant_id), by=uncle)
    assert world.decision(world.carl, world.steve) == DecisionCode.NO_GRANT


def test_a_representative_ends_a_ticket_and_drops_a_rule_of_its_part(world: World) -> None:
    aunt = world.appoint("aunt", world.steve, powers=int(Power.RULES | Power.REVOKE), scope=RESULTS)
    rule = attempts(world)["rule"][1]
    world.done(rule, by=aunt)
    world.done(DropRule(pseudonym=world.steve.id, rule=1), by=aunt)
    decided = world.request(
        RequestAccess(pseudonym=world.steve.id, scope=RESULTS, purpose=Purpose.TREAT), by=world.carl
    )
    assert decided.decision == 0
    world.done(RevokeTicket(ticket=decided.ticket), by=aunt)


def test_one_person_is_not_seen_to_represent_two_patients(world: World) -> None:
    """A representative uses a key of its own for each patient, so nothing on the ledger links them."""
    for_steve = world.appoint("aunt of steve", world.steve)
    for_mary = world.appoint("aunt of mary", world.mary)
    assert for_steve.id != for_mary.id
    assert isinstance(for_mary, Actor)
    assert EVERYTHING.is_well_formed()
