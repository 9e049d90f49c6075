"""Goal: every refusal of consent is reachable, has its own code, and leaves nothing behind.

Method: one row per code and several for those that guard more than one way; each arranges a world and names what is
refused. What a permitted message does is in the other files of this folder.
"""

import pytest
from msgspec.structs import replace

from carechain.contracts.consent import grants, inbox, representatives
from carechain.contracts.consent.schema import (
    POLICY,
    Answer,
    AnswerRequest,
    Ask,
    Asked,
    ConsentCode,
    Dismiss,
    DropRule,
    Extend,
    Grant,
    Narrow,
    Renounce,
    Revoke,
    SetRule,
    TreatmentPolicy,
    Who,
    Withdraw,
)
from carechain.contracts.membership import DismissStaff
from carechain.core.binding import appointment_message
from carechain.core.context import Ctx
from carechain.core.limits import AUTHOR_GRANT_LIFETIME_S, GRANT_LIFETIME_S, GRANTS_PER_PAIR, REQUEST_LIFETIME_S
from carechain.core.rejection import Rejected, RejectionCode
from carechain.core.scope import EVERYTHING, Scope
from carechain.core.vocabulary import ALL_POWERS, Action, Category, OrganisationKind, Power, Purpose, Sensitivity, mask
from carechain.sdk.wallet import Pseudonym
from carechain.state.overlay import Overlay
from rejections import Arrange, Attempt, Limits, Rows, check_refused
from world import (
    CHAIN_ID,
    DAY_S,
    LATER_S,
    READ_WRITE_PASS_ON,
    RESULTS,
    START_S,
    TREAT,
    YEAR_S,
    Actor,
    World,
    anchor_of,
    anything,
    appoint_message,
    grant_of,
    record_id,
    scope_of,
    seeded,
    wallet_of,
)

rows = Rows()
ROWS = rows
NOBODY = seeded("nobody")
WIDE = scope_of(Category.RESULT, Category.ENCOUNTER)


def ask_of(patient: Pseudonym, **changed: object) -> Ask:
    fields: dict[str, object] = {
        "pseudonym": patient.id,
        "scope": RESULTS,
        "actions": int(Action.READ),
        "purpose": Purpose.TREAT,
        "expires_s": LATER_S,
    }
    return Ask(**fields | changed)


def asked(world: World, *, by: Actor | None = None) -> bytes:
    (event,) = world.done(ask_of(world.steve), by=by or world.bert)
    assert isinstance(event, Asked)
    return event.request_id


def answer_of(world: World, request_id: bytes, **changed: object) -> AnswerRequest:
    fields: dict[str, object] = {
        "pseudonym": world.steve.id,
        "request_id": request_id,
        "approve": True,
        "scope": RESULTS,
        "expires_s": LATER_S,
    }
    return AnswerRequest(**fields | changed)


def rule_of(patient: Pseudonym, **changed: object) -> SetRule:
    fields: dict[str, object] = {
        "pseudonym": patient.id,
        "rule": 1,
        "who": Who(kinds=mask(*OrganisationKind)),
        "purposes": TREAT,
        "scope": EVERYTHING,
        "answer": Answer.DENY,
        "expires_s": LATER_S,
    }
    return SetRule(**fields | changed)


def terms(kind: type[Narrow] | type[Extend], world: World, grant_id: bytes, **changed: object) -> Narrow | Extend:
    fields: dict[str, object] = {
        "pseudonym": world.steve.id,
        "grant_id": grant_id,
        "scope": RESULTS,
        "actions": int(Action.READ),
        "purposes": TREAT,
        "expires_s": LATER_S,
    }
    return kind(**fields | changed)


def with_grantees(grant: Grant, *grantees: bytes) -> Grant:
    return Grant(**{field: getattr(grant, field) for field in grant.__struct_fields__} | {"grantees": grantees})


# --- who and what ---------------------------------------------------------------------------------------


@rows.row(ConsentCode.PSEUDONYM_UNKNOWN)
def grant_for_nobody(world: World) -> Attempt:
    return world.steve, grant_of(unbound(world), world.carl)


@rows.row(ConsentCode.PSEUDONYM_UNKNOWN)
def grant_on_a_doctor(world: World) -> Attempt:
    message = grant_of(world.steve, world.bert)
    fields = {field: getattr(message, field) for field in message.__struct_fields__}
    return world.carl, Grant(**fields | {"pseudonym": world.carl.id})


@rows.row(ConsentCode.PSEUDONYM_UNKNOWN)
def ask_nobody(world: World) -> Attempt:
    return world.bert, ask_of(unbound(world))


def unbound(world: World) -> Pseudonym:
    return wallet_of("unbound").pseudonym(world.a.id)


@rows.row(ConsentCode.SCOPE_MALFORMED)
def no_category(world: World) -> Attempt:
    return world.steve, grant_of(world.steve, world.carl, scope=Scope(categories=0, ceiling=Sensitivity.N))


@rows.row(ConsentCode.SCOPE_MALFORMED)
def unknown_category(world: World) -> Attempt:
    return world.steve, grant_of(world.steve, world.carl, scope=Scope(categories=1 << 15, ceiling=Sensitivity.N))


@rows.row(ConsentCode.SCOPE_MALFORMED)
def last_day_before_first(world: World) -> Attempt:
    scope = scope_of(Category.RESULT, first_day=9, last_day=8)
    return world.steve, grant_of(world.steve, world.carl, scope=scope)


@rows.row(ConsentCode.SCOPE_MALFORMED)
def records_unsorted(world: World) -> Attempt:
    scope = scope_of(Category.RESULT, records=(b"\x02" * 32, b"\x01" * 32))
    return world.steve, grant_of(world.steve, world.carl, scope=scope)


@rows.row(ConsentCode.SCOPE_MALFORMED)
def records_repeated(world: World) -> Attempt:
    scope = scope_of(Category.RESULT, records=(b"\x01" * 32, b"\x01" * 32))
    return world.steve, rule_of(world.steve, scope=scope)


@rows.row(ConsentCode.SCOPE_MALFORMED)
def representative_without_a_scope(world: World) -> Attempt:
    scope = Scope(categories=0, ceiling=Sensitivity.N)
    return world.steve, appoint_message(Actor("aunt"), world.steve, scope=scope)


@rows.row(ConsentCode.ACTIONS_MALFORMED)
def no_action(world: World) -> Attempt:
    return world.steve, grant_of(world.steve, world.carl, actions=0)


@rows.row(ConsentCode.ACTIONS_MALFORMED)
def unknown_action(world: World) -> Attempt:
    return world.steve, grant_of(world.steve, world.carl, actions=64)


@rows.row(ConsentCode.PURPOSES_MALFORMED)
def no_purpose(world: World) -> Attempt:
    return world.steve, grant_of(world.steve, world.carl, purposes=0)


@rows.row(ConsentCode.PURPOSES_MALFORMED)
def unknown_purpose(world: World) -> Attempt:
    return world.steve, rule_of(world.steve, purposes=1 << 15)


@rows.row(ConsentCode.GRANTEES_MALFORMED)
def grantees_unsorted(world: World) -> Attempt:
    one, two = sorted((world.carl.id, world.bert.id))
    return world.steve, with_grantees(grant_of(world.steve, world.carl), two, one)


@rows.row(ConsentCode.GRANTEES_MALFORMED)
def grantees_repeated(world: World) -> Attempt:
    return world.steve, with_grantees(grant_of(world.steve, world.carl), world.carl.id, world.carl.id)


@rows.row(ConsentCode.GRANTEES_MALFORMED)
def a_grant_to_oneself(world: World) -> Attempt:
    return world.steve, grant_of(world.steve, world.steve)


@rows.row(ConsentCode.EXPIRY_NOT_IN_FUTURE)
def expiry_is_the_blocks_own_second(world: World) -> Attempt:
    return world.steve, grant_of(world.steve, world.carl, expires_s=world.time_s + 1)


@rows.row(ConsentCode.EXPIRY_NOT_IN_FUTURE)
def rule_already_over(world: World) -> Attempt:
    return world.steve, rule_of(world.steve, expires_s=START_S)


@rows.row(ConsentCode.EXPIRY_NOT_IN_FUTURE)
def powers_already_over(world: World) -> Attempt:
    return world.steve, appoint_message(Actor("aunt"), world.steve, expires_s=START_S)


@rows.row(ConsentCode.EXPIRY_TOO_FAR)
def expiry_after_a_hundred_years(world: World) -> Attempt:
    return world.steve, grant_of(world.steve, world.carl, expires_s=world.time_s + 2 + GRANT_LIFETIME_S)


@rows.row(ConsentCode.EXPIRY_TOO_FAR)
def powers_for_a_hundred_years(world: World) -> Attempt:
    return world.steve, appoint_message(Actor("aunt"), world.steve, expires_s=world.time_s + 2 + GRANT_LIFETIME_S)


@rows.row(ConsentCode.GRANTEE_UNKNOWN)
def grant_to_an_unknown_key(world: World) -> Attempt:
    return world.steve, grant_of(world.steve, Actor("stranger"))


@rows.row(ConsentCode.GRANTEE_UNKNOWN)
def grant_to_another_patient(world: World) -> Attempt:
    return world.steve, grant_of(world.steve, world.mary)


@rows.row(ConsentCode.GRANTEE_UNKNOWN)
def grant_to_a_leaver(world: World) -> Attempt:
    world.done(DismissStaff(party=world.carl.id), by=world.a)
    return world.steve, grant_of(world.steve, world.carl)


# --- the tree -------------------------------------------------------------------------------------------


@rows.row(ConsentCode.PARENT_NOT_FOUND)
def no_such_parent(world: World) -> Attempt:
    return world.carl, grant_of(world.steve, world.bert, parent=NOBODY)


@rows.row(ConsentCode.PARENT_NOT_FOUND)
def the_parent_is_another_patients(world: World) -> Attempt:
    parent = world.grant(anything(world.mary, world.carl), by=world.mary)
    return world.carl, grant_of(world.steve, world.bert, parent=parent)


@rows.row(ConsentCode.PARENT_NOT_LIVE)
def the_parent_was_revoked(world: World) -> Attempt:
    parent = world.grant(anything(world.steve, world.carl), by=world.steve)
    world.done(Revoke(pseudonym=world.steve.id, grant_id=parent), by=world.steve)
    return world.carl, grant_of(world.steve, world.bert, parent=parent)


@rows.row(ConsentCode.PARENT_NOT_LIVE)
def the_root_was_revoked(world: World) -> Attempt:
    root = world.grant(anything(world.steve, world.carl), by=world.steve)
    parent = world.grant(anything(world.steve, world.dana, parent=root), by=world.carl)
    world.done(Revoke(pseudonym=world.steve.id, grant_id=root), by=world.steve)
    return world.dana, grant_of(world.steve, world.bert, parent=parent)


@rows.row(ConsentCode.SENDER_NOT_GRANTOR)
def a_doctor_grants_from_nothing(world: World) -> Attempt:
    return world.carl, grant_of(world.steve, world.bert)


@rows.row(ConsentCode.SENDER_NOT_GRANTOR)
def another_patient_grants(world: World) -> Attempt:
    return world.mary, grant_of(world.steve, world.bert)


@rows.row(ConsentCode.SENDER_NOT_GRANTOR)
def passing_on_what_others_hold(world: World) -> Attempt:
    parent = world.grant(anything(world.steve, world.carl), by=world.steve)
    return world.dana, grant_of(world.steve, world.bert, parent=parent)


@rows.row(ConsentCode.SENDER_NOT_GRANTOR)
def the_patient_under_a_doctors_name(world: World) -> Attempt:
    # The patient's own grants are roots: hung below a doctor's, they would end with it.
    parent = world.grant(anything(world.steve, world.carl), by=world.steve)
    return world.steve, grant_of(world.steve, world.bert, parent=parent)


@rows.row(ConsentCode.SENDER_NOT_GRANTOR)
def a_patient_of_the_granted_organisation_passes_on(world: World) -> Attempt:
    parent = world.grant(anything(world.steve, world.a), by=world.steve)
    return world.mary, grant_of(world.steve, world.bert, parent=parent)


@rows.row(ConsentCode.SENDER_NOT_GRANTOR)
def a_grantee_narrows_its_own_grant(world: World) -> Attempt:
    grant_id = world.grant(anything(world.steve, world.carl), by=world.steve)
    return world.carl, terms(Narrow, world, grant_id)


@rows.row(ConsentCode.SENDER_NOT_GRANTOR)
def a_grantee_extends_its_own_grant(world: World) -> Attempt:
    grant_id = world.grant(grant_of(world.steve, world.carl), by=world.steve)
    return world.carl, terms(Extend, world, grant_id, scope=WIDE)


@rows.row(ConsentCode.SENDER_NOT_GRANTOR)
def a_representative_extends_the_patients_own_grant(world: World) -> Attempt:
    aunt = world.appoint("aunt", world.steve)
    grant_id = world.grant(grant_of(world.steve, world.carl), by=world.steve)
    return aunt, terms(Extend, world, grant_id, scope=WIDE)


@rows.row(ConsentCode.SENDER_NOT_GRANTOR)
def a_colleague_extends_what_the_other_passed_on(world: World) -> Attempt:
    root = world.grant(anything(world.steve, world.a), by=world.steve)
    child = world.grant(grant_of(world.steve, world.bert, parent=root), by=world.carl)
    return world.dana, terms(Extend, world, child, scope=WIDE)


@rows.row(ConsentCode.SENDER_NOT_GRANTOR)
def a_grantee_revokes_its_root(world: World) -> Attempt:
    grant_id = world.grant(anything(world.steve, world.carl), by=world.steve)
    return world.carl, Revoke(pseudonym=world.steve.id, grant_id=grant_id)


@rows.row(ConsentCode.SENDER_NOT_GRANTOR)
def a_representative_without_the_power(world: World) -> Attempt:
    aunt = world.appoint("aunt", world.steve, powers=int(Power.REVOKE))
    return aunt, grant_of(world.steve, world.carl)


@rows.row(ConsentCode.SENDER_NOT_GRANTOR)
def a_representative_of_another_patient(world: World) -> Attempt:
    aunt = world.appoint("aunt", world.mary)
    return aunt, grant_of(world.steve, world.carl)


@rows.row(ConsentCode.SENDER_NOT_GRANTOR)
def a_doctor_answers_for_the_patient(world: World) -> Attempt:
    aunt = world.appoint("aunt", world.steve, powers=int(Power.GRANT))
    return aunt, answer_of(world, asked(world))


@rows.row(ConsentCode.DELEGATION_NOT_ALLOWED)
def passing_on_without_the_right(world: World) -> Attempt:
    parent = world.grant(grant_of(world.steve, world.carl), by=world.steve)
    return world.carl, grant_of(world.steve, world.bert, parent=parent)


@rows.row(ConsentCode.TREE_TOO_DEEP)
def the_ninth_level(world: World) -> Attempt:
    holders, parent = (world.carl, world.bert), world.grant(anything(world.steve, world.carl), by=world.steve)
    for depth in range(1, 8):
        to, by = holders[depth % 2], holders[(depth - 1) % 2]
        parent = world.grant(anything(world.steve, to, parent=parent), by=by)
    return world.bert, grant_of(world.steve, world.carl, parent=parent)


@rows.row(ConsentCode.WIDER_THAN_PARENT)
def a_wider_scope_than_the_parent(world: World) -> Attempt:
    parent = world.grant(grant_of(world.steve, world.carl, actions=READ_WRITE_PASS_ON), by=world.steve)
    return world.carl, grant_of(world.steve, world.bert, parent=parent, scope=WIDE)


@rows.row(ConsentCode.WIDER_THAN_PARENT)
def more_actions_than_the_parent(world: World) -> Attempt:
    parent = world.grant(grant_of(world.steve, world.carl, actions=int(Action.READ | Action.DELEGATE)), by=world.steve)
    return world.carl, grant_of(world.steve, world.bert, parent=parent, actions=int(Action.WRITE))


@rows.row(ConsentCode.WIDER_THAN_PARENT)
def more_purposes_than_the_parent(world: World) -> Attempt:
    parent = world.grant(grant_of(world.steve, world.carl, actions=READ_WRITE_PASS_ON), by=world.steve)
    return world.carl, grant_of(world.steve, world.bert, parent=parent, purposes=mask(Purpose.HRESCH))


@rows.row(ConsentCode.WIDER_THAN_PARENT)
def longer_than_the_parent(world: World) -> Attempt:
    parent = world.grant(grant_of(world.steve, world.carl, actions=READ_WRITE_PASS_ON), by=world.steve)
    return world.carl, grant_of(world.steve, world.bert, parent=parent, expires_s=LATER_S + 1)


@rows.row(ConsentCode.WIDER_THAN_PARENT)
def wider_than_the_narrowed_root(world: World) -> Attempt:
    root = world.grant(anything(world.steve, world.carl), by=world.steve)
    parent = world.grant(anything(world.steve, world.dana, parent=root), by=world.carl)
    world.done(terms(Narrow, world, root, actions=READ_WRITE_PASS_ON), by=world.steve)
    return world.dana, grant_of(world.steve, world.bert, parent=parent, scope=WIDE)


@rows.row(ConsentCode.WIDER_THAN_PARENT)
def extended_beyond_the_parent(world: World) -> Attempt:
    parent = world.grant(grant_of(world.steve, world.carl, actions=READ_WRITE_PASS_ON), by=world.steve)
    child = world.grant(grant_of(world.steve, world.bert, parent=parent), by=world.carl)
    return world.carl, terms(Extend, world, child, scope=WIDE)


@rows.row(ConsentCode.WIDER_THAN_POWERS)
def a_representative_grants_beyond_its_part(world: World) -> Attempt:
    aunt = world.appoint("aunt", world.steve, scope=RESULTS)
    return aunt, grant_of(world.steve, world.carl, scope=WIDE)


@rows.row(ConsentCode.WIDER_THAN_POWERS)
def a_representative_replaces_a_denial_it_could_not_drop(world: World) -> Attempt:
    aunt = world.appoint("aunt", world.steve, scope=RESULTS)
    world.done(rule_of(world.steve, rule=1, answer=Answer.DENY), by=world.steve)
    return aunt, rule_of(world.steve, rule=1, answer=Answer.ALLOW, scope=RESULTS)


@rows.row(ConsentCode.WIDER_THAN_POWERS)
def a_representative_drops_a_wider_rule(world: World) -> Attempt:
    aunt = world.appoint("aunt", world.steve, scope=RESULTS)
    world.done(rule_of(world.steve, rule=1, answer=Answer.DENY), by=world.steve)
    return aunt, DropRule(pseudonym=world.steve.id, rule=1)


@rows.row(ConsentCode.TOO_MANY_GRANTS, limits=((grants, "GRANTS_PER_PSEUDONYM", 2),))
def the_third_of_two_grants(world: World) -> Attempt:
    for grantee in (world.carl, world.dana):
        world.grant(grant_of(world.steve, grantee), by=world.steve)
    return world.steve, grant_of(world.steve, world.bert)


@rows.row(ConsentCode.TOO_MANY_GRANTS_TO_GRANTEE)
def the_thirty_third_grant_to_one_doctor(world: World) -> Attempt:
    world.done(*(grant_of(world.steve, world.carl) for _ in range(GRANTS_PER_PAIR)), by=world.steve)
    return world.steve, grant_of(world.steve, world.bert, world.carl)


@rows.row(ConsentCode.ROOM_KEPT_FOR_PATIENT, limits=((grants, "GRANTS_BY_OTHERS_PER_PAIR", 2),))
def a_delegate_fills_more_than_half_of_a_pair(world: World) -> Attempt:
    parent = world.grant(anything(world.steve, world.carl), by=world.steve)
    passed_on = grant_of(world.steve, world.bert, parent=parent)
    world.done(passed_on, passed_on, by=world.carl)
    return world.carl, passed_on


@rows.row(ConsentCode.ROOM_KEPT_FOR_PATIENT, limits=((grants, "GRANTS_BY_OTHERS_PER_PSEUDONYM", 1),))
def a_delegate_fills_more_than_half_of_a_pseudonym(world: World) -> Attempt:
    parent = world.grant(anything(world.steve, world.carl), by=world.steve)
    return world.carl, grant_of(world.steve, world.bert, parent=parent)


@rows.row(ConsentCode.ROOM_KEPT_FOR_PATIENT, limits=((grants, "GRANTS_BY_OTHERS_PER_PAIR", 1),))
def a_requester_fills_more_than_half_through_a_rule(world: World) -> Attempt:
    world.done(rule_of(world.steve, answer=Answer.ALLOW), by=world.steve)
    world.done(ask_of(world.steve), by=world.bert)
    return world.bert, ask_of(world.steve)


@rows.row(ConsentCode.GRANT_NOT_FOUND)
def revoke_nothing(world: World) -> Attempt:
    return world.steve, Revoke(pseudonym=world.steve.id, grant_id=NOBODY)


@rows.row(ConsentCode.GRANT_NOT_FOUND)
def narrow_nothing(world: World) -> Attempt:
    return world.steve, terms(Narrow, world, NOBODY)


@rows.row(ConsentCode.GRANT_NOT_FOUND)
def renounce_nothing(world: World) -> Attempt:
    return world.carl, Renounce(pseudonym=world.steve.id, grant_id=NOBODY)


@rows.row(ConsentCode.GRANT_ENDED)
def revoked_twice(world: World) -> Attempt:
    grant_id = world.grant(grant_of(world.steve, world.carl), by=world.steve)
    world.done(Revoke(pseudonym=world.steve.id, grant_id=grant_id), by=world.steve)
    return world.steve, Revoke(pseudonym=world.steve.id, grant_id=grant_id)


@rows.row(ConsentCode.GRANT_ENDED)
def extended_after_its_end(world: World) -> Attempt:
    grant_id = world.grant(grant_of(world.steve, world.carl, expires_s=START_S + DAY_S), by=world.steve)
    return world.steve, terms(Extend, world, grant_id), START_S + DAY_S


@rows.row(ConsentCode.GRANT_ENDED)
def renounced_after_revocation(world: World) -> Attempt:
    grant_id = world.grant(grant_of(world.steve, world.carl), by=world.steve)
    world.done(Revoke(pseudonym=world.steve.id, grant_id=grant_id), by=world.steve)
    return world.carl, Renounce(pseudonym=world.steve.id, grant_id=grant_id)


@rows.row(ConsentCode.NOT_NARROWER)
def narrowing_adds_a_category(world: World) -> Attempt:
    grant_id = world.grant(grant_of(world.steve, world.carl), by=world.steve)
    return world.steve, terms(Narrow, world, grant_id, scope=WIDE)


@rows.row(ConsentCode.NOT_NARROWER)
def narrowing_lifts_the_single_records(world: World) -> Attempt:
    scope = scope_of(Category.RESULT, records=(seeded("r"),))
    grant_id = world.grant(grant_of(world.steve, world.carl, scope=scope), by=world.steve)
    return world.steve, terms(Narrow, world, grant_id)


@rows.row(ConsentCode.NOT_NARROWER)
def narrowing_adds_time(world: World) -> Attempt:
    grant_id = world.grant(grant_of(world.steve, world.carl), by=world.steve)
    return world.steve, terms(Narrow, world, grant_id, expires_s=LATER_S + 1)


@rows.row(ConsentCode.NOT_WIDER)
def extending_takes_time_away(world: World) -> Attempt:
    grant_id = world.grant(grant_of(world.steve, world.carl), by=world.steve)
    return world.steve, terms(Extend, world, grant_id, expires_s=LATER_S - 1)


@rows.row(ConsentCode.SENDER_NOT_GRANTEE)
def renouncing_for_somebody_else(world: World) -> Attempt:
    grant_id = world.grant(grant_of(world.steve, world.carl), by=world.steve)
    return world.dana, Renounce(pseudonym=world.steve.id, grant_id=grant_id)


@rows.row(ConsentCode.SENDER_NOT_GRANTEE)
def an_administrator_renounces_a_colleagues_own_grant(world: World) -> Attempt:
    grant_id = world.grant(grant_of(world.steve, world.carl), by=world.steve)
    return world.anna, Renounce(pseudonym=world.steve.id, grant_id=grant_id)


@rows.row(ConsentCode.SENDER_NOT_GRANTEE)
def a_doctor_renounces_for_the_hospital(world: World) -> Attempt:
    grant_id = world.grant(grant_of(world.steve, world.a), by=world.steve)
    return world.carl, Renounce(pseudonym=world.steve.id, grant_id=grant_id)


# --- the inbox ------------------------------------------------------------------------------------------


@rows.row(ConsentCode.REQUEST_NOT_FOUND)
def answer_nothing(world: World) -> Attempt:
    return world.steve, answer_of(world, NOBODY)


@rows.row(ConsentCode.REQUEST_NOT_FOUND)
def answered_twice(world: World) -> Attempt:
    request_id = asked(world)
    world.done(answer_of(world, request_id, approve=False), by=world.steve)
    return world.steve, answer_of(world, request_id)


@rows.row(ConsentCode.REQUEST_NOT_FOUND)
def withdraw_nothing(world: World) -> Attempt:
    return world.bert, Withdraw(pseudonym=world.steve.id, request_id=NOBODY)


@rows.row(ConsentCode.REQUEST_EXPIRED)
def answered_after_three_months(world: World) -> Attempt:
    request_id = asked(world)
    return world.steve, answer_of(world, request_id), world.time_s + REQUEST_LIFETIME_S


@rows.row(ConsentCode.REQUEST_EXISTS)
def the_fifth_request_of_one_doctor(world: World) -> Attempt:
    world.done(*(ask_of(world.steve) for _ in range(4)), by=world.bert)
    return world.bert, ask_of(world.steve)


@rows.row(ConsentCode.INBOX_FULL, limits=((inbox, "PENDING_REQUESTS_PER_PSEUDONYM", 3),))
def the_inbox_is_full(world: World) -> Attempt:
    world.done(*(ask_of(world.steve) for _ in range(3)), by=world.bert)
    return world.carl, ask_of(world.steve)


@rows.row(ConsentCode.ORGANISATION_ASKS_TOO_MUCH, limits=((inbox, "PENDING_REQUESTS_PER_ORGANISATION", 3),))
def the_fourth_request_of_one_hospital(world: World) -> Attempt:
    world.done(*(ask_of(world.steve) for _ in range(3)), by=world.bert)
    world.done(ask_of(world.steve), by=world.carl)
    return world.bina, ask_of(world.steve)


@rows.row(ConsentCode.ANSWER_WIDER_THAN_REQUEST)
def approving_more_than_was_asked(world: World) -> Attempt:
    return world.steve, answer_of(world, asked(world), scope=WIDE)


@rows.row(ConsentCode.ANSWER_WIDER_THAN_REQUEST)
def approving_for_longer_than_was_asked(world: World) -> Attempt:
    return world.steve, answer_of(world, asked(world), expires_s=LATER_S + 1)


@rows.row(ConsentCode.SENDER_NOT_REQUESTER)
def withdrawing_a_colleagues_request(world: World) -> Attempt:
    return world.bina, Withdraw(pseudonym=world.steve.id, request_id=asked(world))


@rows.row(ConsentCode.RULE_MALFORMED)
def a_denial_that_stops_below_v(world: World) -> Attempt:
    return world.steve, rule_of(world.steve, scope=RESULTS)


@rows.row(ConsentCode.RULE_MALFORMED)
def a_rule_about_an_unknown_kind(world: World) -> Attempt:
    return world.steve, rule_of(world.steve, who=Who(kinds=1 << 9))


@rows.row(ConsentCode.RULE_MALFORMED)
def a_rule_about_an_unknown_role(world: World) -> Attempt:
    return world.steve, rule_of(world.steve, who=Who(roles=1 << 15))


@rows.row(ConsentCode.RULE_NOT_FOUND)
def drop_no_rule(world: World) -> Attempt:
    return world.steve, DropRule(pseudonym=world.steve.id, rule=7)


@rows.row(ConsentCode.TOO_MANY_RULES)
def the_sixty_fifth_rule(world: World) -> Attempt:
    world.done(*(rule_of(world.steve, rule=number) for number in range(64)), by=world.steve)
    return world.steve, rule_of(world.steve, rule=64)


# --- authors within the policy --------------------------------------------------------------------------

SOON_S = START_S + 30 * DAY_S


def author_grant(world: World, *grantees: Actor, **changed: object) -> Attempt:
    """Carl's grant on the one result he wrote, where authors may grant within the policy."""
    policy = TreatmentPolicy(enabled=True, authors_may_grant=True)
    overlay = Overlay(world.snapshot)
    POLICY.bind(overlay).put(0, row=policy)
    world.snapshot = world.snapshot.apply(overlay.changes())
    world.grant(grant_of(world.steve, world.carl, scope=EVERYTHING, actions=int(Action.WRITE)), by=world.steve)
    world.done(anchor_of(world.steve, "rec"), by=world.carl)
    fields = {"scope": scope_of(Category.RESULT, records=(record_id("rec"),)), "expires_s": SOON_S} | changed
    return world.carl, grant_of(world.steve, *grantees, **fields)


@rows.row(ConsentCode.OUTSIDE_POLICY)
def an_author_lets_an_insurer_in(world: World) -> Attempt:
    return author_grant(world, world.ivan, purposes=mask(Purpose.HPAYMT))


@rows.row(ConsentCode.OUTSIDE_POLICY)
def an_author_lets_another_hospital_in_without_an_agreement(world: World) -> Attempt:
    return author_grant(world, world.bert)


@rows.row(ConsentCode.OUTSIDE_POLICY)
def an_author_lets_one_in_beside_an_entitled_one(world: World) -> Attempt:
    return author_grant(world, world.dana, world.bert)


@rows.row(ConsentCode.OUTSIDE_POLICY)
def an_author_lets_a_role_in_that_the_policy_does_not(world: World) -> Attempt:
    return author_grant(world, world.john)


@rows.row(ConsentCode.OUTSIDE_POLICY)
def an_author_lets_a_whole_organisation_in(world: World) -> Attempt:
    return author_grant(world, world.a)


@rows.row(ConsentCode.OUTSIDE_POLICY)
def an_author_grants_for_another_purpose(world: World) -> Attempt:
    return author_grant(world, world.dana, purposes=TREAT | mask(Purpose.HRESCH))


@rows.row(ConsentCode.OUTSIDE_POLICY)
def an_author_grants_above_the_policys_ceiling(world: World) -> Attempt:
    scope = scope_of(Category.RESULT, ceiling=Sensitivity.R, records=(record_id("rec"),))
    return author_grant(world, world.dana, scope=scope)


@rows.row(ConsentCode.OUTSIDE_POLICY)
def an_author_grants_more_than_reading(world: World) -> Attempt:
    return author_grant(world, world.dana, actions=READ_WRITE_PASS_ON)


@rows.row(ConsentCode.SENDER_NOT_GRANTOR)
def an_author_grants_beyond_single_records(world: World) -> Attempt:
    return author_grant(world, world.dana, scope=RESULTS)


@rows.row(ConsentCode.AUTHOR_GRANT_TOO_LONG)
def an_author_grants_for_more_than_ninety_days(world: World) -> Attempt:
    return author_grant(world, world.dana, expires_s=START_S + AUTHOR_GRANT_LIFETIME_S + DAY_S)


# --- representatives ------------------------------------------------------------------------------------


@rows.row(ConsentCode.OUTLIVES_POWERS)
def a_representative_grants_beyond_its_time(world: World) -> Attempt:
    aunt = world.appoint("aunt", world.steve, expires_s=SOON_S)
    return aunt, grant_of(world.steve, world.carl, expires_s=SOON_S + 1)


@rows.row(ConsentCode.OUTLIVES_POWERS)
def a_representative_extends_beyond_its_time(world: World) -> Attempt:
    aunt = world.appoint("aunt", world.steve, expires_s=SOON_S)
    grant_id = world.grant(grant_of(world.steve, world.carl, expires_s=SOON_S), by=aunt)
    return aunt, terms(Extend, world, grant_id, expires_s=SOON_S + 1)


@rows.row(ConsentCode.OUTLIVES_POWERS)
def a_representative_approves_beyond_its_time(world: World) -> Attempt:
    aunt = world.appoint("aunt", world.steve, expires_s=SOON_S)
    return aunt, answer_of(world, asked(world), expires_s=SOON_S + 1)


@rows.row(ConsentCode.OUTLIVES_POWERS)
def a_representative_sets_a_rule_beyond_its_time(world: World) -> Attempt:
    aunt = world.appoint("aunt", world.steve, expires_s=SOON_S)
    return aunt, rule_of(world.steve, answer=Answer.ALLOW, expires_s=(1 << 63) - 1)


@rows.row(ConsentCode.REPRESENTATIVE_EXISTS)
def one_key_for_two_patients(world: World) -> Attempt:
    aunt = world.appoint("aunt", world.mary)
    return world.steve, appoint_message(aunt, world.steve)


@rows.row(ConsentCode.REPRESENTATIVE_EXISTS)
def a_doctor_as_representative(world: World) -> Attempt:
    return world.steve, appoint_message(world.carl, world.steve)


@rows.row(ConsentCode.REPRESENTATIVE_EXISTS)
def a_dismissed_key_comes_back(world: World) -> Attempt:
    aunt = world.appoint("aunt", world.steve)
    world.done(Dismiss(pseudonym=world.steve.id, representative=aunt.id), by=world.steve)
    return world.steve, appoint_message(aunt, world.steve)


@rows.row(ConsentCode.REPRESENTATIVE_NOT_FOUND)
def dismiss_nobody(world: World) -> Attempt:
    return world.steve, Dismiss(pseudonym=world.steve.id, representative=NOBODY)


@rows.row(ConsentCode.REPRESENTATIVE_NOT_FOUND)
def dismissed_twice(world: World) -> Attempt:
    aunt = world.appoint("aunt", world.steve)
    world.done(Dismiss(pseudonym=world.steve.id, representative=aunt.id), by=world.steve)
    return world.steve, Dismiss(pseudonym=world.steve.id, representative=aunt.id)


@rows.row(ConsentCode.REPRESENTATIVE_PROOF_INVALID)
def accepted_for_another_patient(world: World) -> Attempt:
    return world.steve, appoint_message(Actor("aunt"), world.steve, proof=accepted(Actor("aunt"), world.mary))


@rows.row(ConsentCode.REPRESENTATIVE_PROOF_INVALID)
def accepted_with_fewer_powers(world: World) -> Attempt:
    proof = accepted(Actor("aunt"), world.steve, powers=int(Power.READ_LOG))
    return world.steve, appoint_message(Actor("aunt"), world.steve, proof=proof)


@rows.row(ConsentCode.REPRESENTATIVE_PROOF_INVALID)
def accepted_for_a_smaller_part(world: World) -> Attempt:
    proof = accepted(Actor("aunt"), world.steve, scope=RESULTS)
    return world.steve, appoint_message(Actor("aunt"), world.steve, proof=proof)


@rows.row(ConsentCode.REPRESENTATIVE_PROOF_INVALID)
def accepted_for_a_shorter_time(world: World) -> Attempt:
    proof = accepted(Actor("aunt"), world.steve, expires_s=LATER_S - 1)
    return world.steve, appoint_message(Actor("aunt"), world.steve, proof=proof)


@rows.row(ConsentCode.REPRESENTATIVE_PROOF_INVALID)
def accepted_by_the_patient_in_the_others_name(world: World) -> Attempt:
    message = appoint_message(Actor("aunt"), world.steve)
    return world.steve, replace(message, proof=world.steve.signing.sign(signed_by(Actor("aunt"), world.steve)))


@rows.row(ConsentCode.REPRESENTATIVE_PROOF_INVALID)
def a_colleagues_public_key_without_acceptance(world: World) -> Attempt:
    return world.steve, appoint_message(world.carl, world.steve, proof=bytes(64))


def signed_by(actor: Actor, patient: Pseudonym, **changed: object) -> bytes:
    fields: dict[str, object] = {
        "chain_id": CHAIN_ID,
        "pseudonym": patient.id,
        "suite": actor.signing.suite,
        "public_key": actor.signing.public_key,
        "hpke_key": actor.hpke.public_key,
        "powers": ALL_POWERS,
        "scope": EVERYTHING,
        "expires_s": LATER_S,
    }
    return appointment_message(**fields | changed)


def accepted(actor: Actor, patient: Pseudonym, **changed: object) -> bytes:
    """What the representative agreed to, whatever the patient then sends."""
    return actor.signing.sign(signed_by(actor, patient, **changed))


@rows.row(ConsentCode.POWERS_MALFORMED)
def no_power(world: World) -> Attempt:
    return world.steve, appoint_message(Actor("aunt"), world.steve, powers=0)


@rows.row(ConsentCode.POWERS_MALFORMED)
def unknown_power(world: World) -> Attempt:
    return world.steve, appoint_message(Actor("aunt"), world.steve, powers=ALL_POWERS + 1)


@rows.row(ConsentCode.TOO_MANY_REPRESENTATIVES, limits=((representatives, "REPRESENTATIVES_PER_PSEUDONYM", 2),))
def the_third_of_two_representatives(world: World) -> Attempt:
    for label in ("aunt", "uncle"):
        world.appoint(label, world.steve)
    return world.steve, appoint_message(Actor("cousin"), world.steve)


@rows.row(ConsentCode.SENDER_NOT_PATIENT)
def another_patient_appoints(world: World) -> Attempt:
    return world.mary, appoint_message(Actor("aunt"), world.steve)


@rows.row(ConsentCode.SENDER_NOT_PATIENT)
def another_patient_dismisses(world: World) -> Attempt:
    aunt = world.appoint("aunt", world.steve)
    return world.mary, Dismiss(pseudonym=world.steve.id, representative=aunt.id)


@pytest.mark.parametrize(("code", "arrange", "limits"), rows.params())
def test_refused(
    code: RejectionCode, arrange: Arrange, limits: Limits, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_refused(world, code, arrange, limits, monkeypatch)


rows.direct.append(ConsentCode.ONLY_STAFF_MAY_ASK)
rows.direct.append(ConsentCode.TOO_MANY_ROWS)  # of a query: see test_consent_tree


def test_the_handler_itself_lets_only_staff_ask(world: World) -> None:
    """No role of a patient or of an organisation's own key lists the message; the handler does not rely on that."""
    contracts = world.contracts()
    party = contracts.membership.party(world.mary.id)
    assert party is not None
    ctx = Ctx(
        chain_id=CHAIN_ID, height=1, time_s=START_S, tx_id=bytes(32), sender=world.mary.id, party=party, events=[]
    )
    with pytest.raises(Rejected) as refused:
        inbox.ask(ctx, contracts.consent, ask_of(world.steve))
    assert refused.value.code is ConsentCode.ONLY_STAFF_MAY_ASK


def test_expiry_bounds_are_exact(world: World) -> None:
    world.grant(grant_of(world.steve, world.carl, expires_s=world.time_s + 2), by=world.steve)
    world.grant(grant_of(world.steve, world.carl, expires_s=world.time_s + 1 + GRANT_LIFETIME_S), by=world.steve)
    assert YEAR_S * 90 < GRANT_LIFETIME_S
