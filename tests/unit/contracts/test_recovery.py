"""Goal: a lost key is replaced by whom the patient trusts, in the open and not at once, and by nobody else (ID-7).

Method: one row per refusal, many of them attacks; then whole recoveries on the real ledger by guardians, by cards, by
the registrar and against an objection, with what must survive, what must be dead, and what a thief tries meanwhile.
"""

import pytest
from msgspec.structs import replace

from carechain.chain.genesis import BadGenesis, apply_genesis
from carechain.chain.queries import Asker, QueryCode, View, ask
from carechain.chain.questions import AttemptLine, OfPseudonym
from carechain.chain.tx import AdmissionCode
from carechain.contracts.consent.schema import Dismiss, Revoke
from carechain.contracts.membership import DismissStaff, KeyRotated, MembershipCode
from carechain.contracts.recovery import (
    Advanced,
    Approve,
    CardKey,
    Ended,
    PolicySet,
    Recovered,
    RecoveryCode,
    RecoveryRules,
    SetPolicy,
    Started,
    Vetoed,
    due_s,
    set_policy,
)
from carechain.contracts.recovery import attempts as module
from carechain.core.context import Ctx
from carechain.core.crypto import Suite
from carechain.core.limits import CONTESTED_WAITS, RECOVERY_OPEN_S, RECOVERY_WAIT_MAX_S
from carechain.core.rejection import Rejected, RejectionCode
from carechain.core.suite import Institution
from carechain.core.vocabulary import Power
from recoveries import (
    WAIT_S,
    approval_of,
    card_of,
    cards_of,
    finish_of,
    guard,
    key_id,
    rotation_of,
    start_of,
    terms_of,
    veto_of,
    with_key_of,
    withdrawal_of,
)
from rejections import Arrange, Attempt, Limits, Rows, check_refused
from world import CHAIN_ID, START_S, Actor, Signer, World, empty_state, fresh, grant_of, seeded

rows = Rows()
ROWS = rows
RULES = RecoveryRules(min_wait_s=10, default_wait_s=WAIT_S)


def new_world() -> World:
    return fresh(recovery=RULES)


def new_key(suite: Suite = Suite.ED25519) -> Actor:
    return Actor("the new key", suite=suite)


def set_terms(world: World, *guardians: Signer, **changed: object) -> Attempt:
    return world.steve, SetPolicy(pseudonym=world.steve.id, terms=terms_of(*guardians, **changed))


# --- refusals: the policy -------------------------------------------------------------------------------


@rows.row(RecoveryCode.PSEUDONYM_UNKNOWN)
def recovery_of_a_member_of_staff(world: World) -> Attempt:
    return world.a, start_of(world.carl, new_key())


@rows.row(RecoveryCode.PSEUDONYM_UNKNOWN)
def recovery_of_nobody(world: World) -> Attempt:
    return world.a, replace(start_of(world.steve, new_key()), pseudonym=bytes(32))


rows.direct.append(RecoveryCode.SENDER_NOT_PATIENT)


@rows.row(RecoveryCode.SENDER_NOT_PATIENT)
def another_patient_sets_the_policy(world: World) -> Attempt:
    return world.mary, SetPolicy(pseudonym=world.steve.id, terms=terms_of(world.b))


@rows.row(MembershipCode.ROLE_MAY_NOT_SEND)
def a_representative_sets_the_policy(world: World) -> Attempt:
    """Whoever acts for the patient does not say who the patient is."""
    return world.appoint("eva", world.steve), SetPolicy(pseudonym=world.steve.id, terms=terms_of(world.b))


@rows.row(RecoveryCode.WAIT_OUT_OF_RANGE)
def hardly_any_waiting_time(world: World) -> Attempt:
    return set_terms(world, world.b, wait_s=RULES.min_wait_s - 1)


@rows.row(RecoveryCode.WAIT_OUT_OF_RANGE)
def a_waiting_time_without_end(world: World) -> Attempt:
    return set_terms(world, world.b, wait_s=RECOVERY_WAIT_MAX_S + 1)


@rows.row(RecoveryCode.GUARDIANS_MALFORMED)
def guardians_out_of_order(world: World) -> Attempt:
    return set_terms(world, guardians=tuple(sorted((world.b.id, world.c.id), reverse=True)), threshold=1)


@rows.row(RecoveryCode.GUARDIANS_MALFORMED)
def a_guardian_counts_twice(world: World) -> Attempt:
    return set_terms(world, guardians=(world.b.id, world.b.id), threshold=2)


@rows.row(RecoveryCode.GUARDIANS_MALFORMED)
def the_patient_guards_itself(world: World) -> Attempt:
    return set_terms(world, world.b, world.steve)


@rows.row(RecoveryCode.THRESHOLD_MALFORMED)
def guardians_of_whom_none_is_needed(world: World) -> Attempt:
    return set_terms(world, world.b, world.c, threshold=0)


@rows.row(RecoveryCode.THRESHOLD_MALFORMED)
def more_than_there_are(world: World) -> Attempt:
    return set_terms(world, world.b, world.c, threshold=3)


@rows.row(RecoveryCode.THRESHOLD_MALFORMED)
def one_of_nobody(world: World) -> Attempt:
    return set_terms(world, threshold=1)


@rows.row(RecoveryCode.GUARDIAN_UNKNOWN)
def a_guardian_who_is_no_party(world: World) -> Attempt:
    return set_terms(world, Actor("nobody"))


@rows.row(RecoveryCode.GUARDIAN_UNKNOWN)
def a_guardian_who_has_left(world: World) -> Attempt:
    world.done(DismissStaff(party=world.bert.id), by=world.b)
    return set_terms(world, world.bert)


@rows.row(RecoveryCode.GUARDIAN_OF_OWN_ORGANISATION)
def the_registrar_as_a_guardian(world: World) -> Attempt:
    """It would be both of the two that an objection asks for."""
    return set_terms(world, world.a)


@rows.row(RecoveryCode.GUARDIAN_OF_OWN_ORGANISATION)
def the_registrars_staff_as_a_guardian(world: World) -> Attempt:
    return set_terms(world, world.carl)


@rows.row(RecoveryCode.CARD_KEY_MALFORMED)
def a_card_key_of_the_wrong_size(world: World) -> Attempt:
    return set_terms(world, card=CardKey(suite=Suite.P256, public_key=bytes(32)))


# --- refusals: starting ---------------------------------------------------------------------------------


@rows.row(RecoveryCode.SENDER_MAY_NOT_RECOVER)
def a_doctor_of_the_organisation(world: World) -> Attempt:
    return world.carl, start_of(world.steve, new_key())


@rows.row(RecoveryCode.SENDER_MAY_NOT_RECOVER)
def another_registrar(world: World) -> Attempt:
    return world.b, start_of(world.steve, new_key())


@rows.row(RecoveryCode.SENDER_MAY_NOT_RECOVER)
def another_patient_of_the_registrar(world: World) -> Attempt:
    return world.mary, start_of(world.steve, new_key())


@rows.row(RecoveryCode.SENDER_MAY_NOT_RECOVER)
def somebody_who_is_no_guardian_any_more(world: World) -> Attempt:
    guard(world, world.steve, world.b, world.c)
    guard(world, world.steve, world.c, world.d)
    return world.b, start_of(world.steve, new_key())


@rows.row(RecoveryCode.REGISTRAR_FORBIDDEN)
def the_patient_forbade_the_registrar(world: World) -> Attempt:
    guard(world, world.steve, world.b, world.c, by_registrar=False)
    return world.rosa, start_of(world.steve, new_key())


@rows.row(RecoveryCode.CARD_PROOF_INVALID)
def cards_of_another_set(world: World) -> Attempt:
    guard(world, world.steve, card=card_of(world.steve))
    return world.bert, start_of(world.steve, new_key(), cards=cards_of(world.steve, seeded("other", size=16)))


@rows.row(RecoveryCode.CARD_PROOF_INVALID)
def the_same_cards_for_another_pseudonym(world: World) -> Attempt:
    guard(world, world.steve, card=card_of(world.steve))
    return world.bert, start_of(world.steve, new_key(), cards=cards_of(world.mary))


@rows.row(RecoveryCode.CARD_PROOF_INVALID)
def cards_where_the_policy_has_none(world: World) -> Attempt:
    return world.bert, start_of(world.steve, new_key(), cards=cards_of(world.steve))


@rows.row(RecoveryCode.CARD_PROOF_INVALID)
def cards_joined_for_an_earlier_attempt(world: World) -> Attempt:
    guard(world, world.steve, world.b, world.c, card=card_of(world.steve))
    world.done(start_of(world.steve, Actor("another")), by=world.b)
    old = start_of(world.steve, new_key(), attempt=0, cards=cards_of(world.steve))
    return world.bert, start_of(world.steve, new_key(), attempt=1, card_proof=old.card_proof)


@rows.row(RecoveryCode.CARD_PROOF_INVALID)
def the_courier_swaps_the_new_key(world: World) -> Attempt:
    """Who is handed the signature of the cards cannot use it for a key of its own."""
    guard(world, world.steve, card=card_of(world.steve))
    signed = start_of(world.steve, new_key(), cards=cards_of(world.steve))
    return world.bert, start_of(world.steve, Actor("the courier's"), card_proof=signed.card_proof)


@rows.row(RecoveryCode.ATTEMPT_NUMBER_WRONG)
def an_attempt_that_is_over_is_sent_again(world: World) -> Attempt:
    """The owner objected; the registrar has nothing but what was signed for that attempt."""
    world.done(start_of(world.steve, new_key()), by=world.a)
    world.done(veto_of(world.steve), by=world.steve)
    return world.a, start_of(world.steve, new_key())


@rows.row(RecoveryCode.ATTEMPT_NUMBER_WRONG)
def an_attempt_ahead_of_its_turn(world: World) -> Attempt:
    return world.a, start_of(world.steve, new_key(), attempt=1)


@rows.row(RecoveryCode.PROOF_INVALID)
def the_proof_is_of_an_earlier_attempt(world: World) -> Attempt:
    world.done(start_of(world.steve, new_key()), by=world.a)
    world.done(veto_of(world.steve), by=world.steve)
    return world.a, start_of(world.steve, new_key(), attempt=1, signed_for=0)


@rows.row(RecoveryCode.PROOF_INVALID)
def the_proof_is_for_another_patient(world: World) -> Attempt:
    return world.a, replace(start_of(world.steve, new_key()), pseudonym=world.mary.id)


@rows.row(RecoveryCode.PROOF_INVALID)
def the_proof_is_for_another_chain(world: World) -> Attempt:
    return world.a, start_of(world.steve, new_key(), chain_id="world-2")


@rows.row(RecoveryCode.PROOF_INVALID)
def the_registrar_swaps_the_reading_key(world: World) -> Attempt:
    return world.a, start_of(world.steve, new_key(), hpke_key=world.carl.hpke.public_key)


@rows.row(RecoveryCode.PROOF_INVALID)
def nobody_has_the_new_key(world: World) -> Attempt:
    return world.a, start_of(world.steve, new_key(), proof=bytes(64))


@rows.row(MembershipCode.SUITE_NOT_OF_NETWORK)
def a_key_of_a_suite_that_is_not_used_here(world: World) -> Attempt:
    return world.a, start_of(world.steve, new_key(Suite.SM2))


@rows.row(RecoveryCode.KEY_IN_USE)
def a_key_of_somebody_else(world: World) -> Attempt:
    return world.a, start_of(world.steve, world.carl)


@rows.row(RecoveryCode.KEY_IN_USE)
def the_key_that_was_lost(world: World) -> Attempt:
    lost = Actor("")
    lost.signing, lost.hpke = world.steve.signing, world.steve.hpke
    return world.a, start_of(world.steve, lost)


@rows.row(RecoveryCode.KEY_IN_USE)
def another_recovery_took_the_key(world: World) -> Attempt:
    """Two attempts for one key: the one that ends second finds it taken, by another patient."""
    for patient in (world.steve, world.mary):
        world.done(start_of(patient, new_key()), by=world.a)
    world.wait(WAIT_S)
    world.done(finish_of(world.mary), by=world.a)
    return world.a, finish_of(world.steve)


@rows.row(RecoveryCode.ATTEMPT_RUNNING)
def the_registrar_starts_twice(world: World) -> Attempt:
    """One of its staff has, which is the same."""
    world.done(start_of(world.steve, new_key()), by=world.rosa)
    return world.a, start_of(world.steve, Actor("another"), attempt=1)


@rows.row(RecoveryCode.ATTEMPT_RUNNING)
def a_guardian_starts_twice(world: World) -> Attempt:
    guard(world, world.steve, world.b, world.c)
    world.done(start_of(world.steve, new_key()), by=world.b)
    return world.b, start_of(world.steve, Actor("another"), attempt=1)


@rows.row(RecoveryCode.ATTEMPT_RUNNING)
def the_cards_start_twice(world: World) -> Attempt:
    guard(world, world.steve, card=card_of(world.steve))
    world.done(start_of(world.steve, new_key(), cards=cards_of(world.steve)), by=world.bert)
    return world.bina, start_of(world.steve, Actor("another"), attempt=1, cards=cards_of(world.steve))


@rows.row(RecoveryCode.TOO_MANY_ATTEMPTS, limits=((module, "RECOVERIES_PER_PSEUDONYM", 1),))
def too_many_at_once(world: World) -> Attempt:
    guard(world, world.steve, world.b, world.c)
    world.done(start_of(world.steve, new_key()), by=world.b)
    return world.c, start_of(world.steve, Actor("another"), attempt=1)


# --- refusals: agreeing, objecting, finishing -----------------------------------------------------------


def started(world: World, by: Signer, *guardians: Signer, **changed: object) -> None:
    guard(world, world.steve, *(guardians or (world.b, world.c, world.d)), **changed)
    world.done(start_of(world.steve, new_key()), by=by)


@rows.row(RecoveryCode.ATTEMPT_UNKNOWN)
def an_attempt_that_nobody_started(world: World) -> Attempt:
    return world.steve, veto_of(world.steve)


@rows.row(RecoveryCode.ATTEMPT_UNKNOWN)
def it_was_finished_before(world: World) -> Attempt:
    world.done(start_of(world.steve, new_key()), by=world.a)
    world.done(finish_of(world.steve), by=world.a, at=world.time_s + WAIT_S)
    return world.a, finish_of(world.steve)


@rows.row(RecoveryCode.ATTEMPT_LAPSED)
def nobody_finished_it_for_a_month(world: World) -> Attempt:
    """The owner may have found the key long since, and not thought of an old notice."""
    world.done(start_of(world.steve, new_key()), by=world.a)
    return world.a, finish_of(world.steve), world.time_s + WAIT_S + RECOVERY_OPEN_S


@rows.row(RecoveryCode.ATTEMPT_LAPSED)
def nobody_agreed_for_a_month(world: World) -> Attempt:
    started(world, world.b)
    return world.c, approval_of(world.steve, new_key()), world.time_s + RECOVERY_OPEN_S


@rows.row(RecoveryCode.KEY_DIFFERS)
def a_guardian_agrees_to_another_key(world: World) -> Attempt:
    """Its node showed it the key of the patient, and the ledger has that of a thief."""
    started(world, world.b)
    return world.c, Approve(pseudonym=world.steve.id, attempt=0, key=key_id(Actor("the patient's")))


@rows.row(RecoveryCode.SENDER_MAY_NOT_RECOVER)
def somebody_who_is_no_guardian(world: World) -> Attempt:
    started(world, world.b)
    return world.e, approval_of(world.steve, new_key())


@rows.row(RecoveryCode.SENDER_MAY_NOT_RECOVER)
def a_guardian_who_was_named_later(world: World) -> Attempt:
    """A change of the policy does not touch what runs."""
    started(world, world.b)
    guard(world, world.steve, world.e, world.f)
    return world.e, approval_of(world.steve, new_key())


@rows.row(RecoveryCode.REGISTRAR_FORBIDDEN)
def the_forbidden_registrar_agrees(world: World) -> Attempt:
    started(world, world.b, by_registrar=False)
    return world.a, approval_of(world.steve, new_key())


@rows.row(RecoveryCode.ALREADY_APPROVED)
def a_guardian_agrees_twice(world: World) -> Attempt:
    started(world, world.b)
    return world.b, approval_of(world.steve, new_key())


@rows.row(RecoveryCode.ALREADY_APPROVED)
def the_registrar_agrees_twice(world: World) -> Attempt:
    started(world, world.a)
    return world.rosa, approval_of(world.steve, new_key())


@rows.row(RecoveryCode.NOT_APPROVED)
def a_guardian_who_did_not_agree_withdraws(world: World) -> Attempt:
    started(world, world.b)
    return world.c, withdrawal_of(world.steve)


@rows.row(RecoveryCode.SENDER_MAY_NOT_VETO)
def a_representative_who_may_only_look(world: World) -> Attempt:
    eva = world.appoint("eva", world.steve, powers=int(Power.READ_LOG))
    world.done(start_of(world.steve, new_key()), by=world.a)
    return eva, veto_of(world.steve)


@rows.row(RecoveryCode.SENDER_MAY_NOT_VETO)
def another_patient_objects(world: World) -> Attempt:
    world.done(start_of(world.steve, new_key()), by=world.a)
    return world.mary, veto_of(world.steve)


@rows.row(RecoveryCode.VETOED_ALREADY)
def the_second_objection(world: World) -> Attempt:
    """A thief could begin the longer waiting time again and again."""
    started(world, world.b)
    world.done(veto_of(world.steve), by=world.steve)
    return world.steve, veto_of(world.steve)


@rows.row(RecoveryCode.NOT_ENOUGH_APPROVALS)
def guardians_below_the_threshold(world: World) -> Attempt:
    started(world, world.b)
    return world.b, finish_of(world.steve), world.time_s + 2 * WAIT_S


@rows.row(RecoveryCode.NOT_ENOUGH_APPROVALS)
def a_guardian_was_dismissed_meanwhile(world: World) -> Attempt:
    """Its key was stolen, say, and the thief agreed with it."""
    started(world, world.b, world.b, world.bert)
    world.done(approval_of(world.steve, new_key()), by=world.bert)
    world.done(DismissStaff(party=world.bert.id), by=world.b)
    return world.b, finish_of(world.steve), world.time_s + 2 * WAIT_S


@rows.row(RecoveryCode.NOT_ENOUGH_APPROVALS)
def guardians_alone_against_an_objection(world: World) -> Attempt:
    started(world, world.b)
    world.done(approval_of(world.steve, new_key()), by=world.c)
    world.done(veto_of(world.steve), by=world.steve)
    return world.b, finish_of(world.steve), world.time_s + 2 * CONTESTED_WAITS * WAIT_S


@rows.row(RecoveryCode.NOT_ENOUGH_APPROVALS)
def the_registrar_alone_against_an_objection(world: World) -> Attempt:
    started(world, world.a)
    world.done(veto_of(world.steve), by=world.steve)
    return world.a, finish_of(world.steve), world.time_s + 2 * CONTESTED_WAITS * WAIT_S


@rows.row(RecoveryCode.STILL_WAITING)
def a_second_too_early(world: World) -> Attempt:
    world.done(start_of(world.steve, new_key()), by=world.a)
    return world.a, finish_of(world.steve), world.time_s + WAIT_S - 1


@rows.row(RecoveryCode.STILL_WAITING)
def the_waiting_time_begins_with_the_last_who_is_needed(world: World) -> Attempt:
    """Otherwise one guardian could start, and the others agree when the notice is forgotten."""
    started(world, world.b)
    world.wait(WAIT_S)
    world.done(approval_of(world.steve, new_key()), by=world.c)
    return world.b, finish_of(world.steve), world.time_s + WAIT_S - 1


@rows.row(RecoveryCode.STILL_WAITING)
def an_objection_at_the_last_moment(world: World) -> Attempt:
    started(world, world.b)
    for one in (world.c, world.a):
        world.done(approval_of(world.steve, new_key()), by=one)
    world.wait(WAIT_S - 2)
    world.done(veto_of(world.steve), by=world.steve)
    return world.b, finish_of(world.steve), world.time_s + CONTESTED_WAITS * WAIT_S - 1


@rows.row(RecoveryCode.STRONGER_ATTEMPT)
def the_registrar_races_the_guardians(world: World) -> Attempt:
    """A rogue registrar has waited longer; what the guardians stand by goes first."""
    started(world, world.a)
    mine = Actor("the patient's own")
    world.done(start_of(world.steve, mine, attempt=1), by=world.b)
    world.done(approval_of(world.steve, mine, attempt=1), by=world.c)
    return world.a, finish_of(world.steve), world.time_s + WAIT_S - 1


@rows.row(MembershipCode.CERTIFICATE_REVOKED)
def a_dismissed_guardian_agrees(world: World) -> Attempt:
    started(world, world.b, world.b, world.bert)
    world.done(DismissStaff(party=world.bert.id), by=world.b)
    return world.bert, approval_of(world.steve, new_key())


@pytest.mark.parametrize(("code", "arrange", "limits"), rows.params())
def test_refused(code: RejectionCode, arrange: Arrange, limits: Limits, monkeypatch: pytest.MonkeyPatch) -> None:
    check_refused(new_world(), code, arrange, limits, monkeypatch)


def test_the_handler_itself_asks_who_sets_a_policy() -> None:
    """The role table lets patients through only; the handler does not rely on that."""
    world = new_world()
    party = world.contracts().membership.party(world.a.id)
    assert party is not None
    ctx = Ctx(chain_id=CHAIN_ID, height=1, time_s=START_S, tx_id=bytes(32), sender=world.a.id, party=party)
    contracts = world.contracts()
    message = SetPolicy(pseudonym=world.steve.id, terms=terms_of(world.b))
    with pytest.raises(Rejected) as refused:
        set_policy(ctx, contracts.recovery, contracts.membership, message)
    assert refused.value.code is RecoveryCode.SENDER_NOT_PATIENT


def test_waiting_times_that_contradict_each_other_found_no_network() -> None:
    genesis = replace(fresh().genesis, recovery=RecoveryRules(min_wait_s=100, default_wait_s=99))
    with pytest.raises(BadGenesis, match="waiting time"):
        apply_genesis(empty_state(), genesis)


# --- whole recoveries -----------------------------------------------------------------------------------


def recovered(world: World, key: Actor, *, by: Signer, attempt: int = 0, after_s: int = WAIT_S) -> Actor:
    """Finish, and see the new key live and the old one dead; returns the patient with the new key."""
    events = world.done(finish_of(world.steve, attempt), by=by, at=world.time_s + after_s)
    assert events == (KeyRotated(party=world.steve.id), Recovered(pseudonym=world.steve.id, attempt=attempt))
    steve = with_key_of(world.steve, key)
    receipts = world.block(
        world.sign(grant_of(world.steve, world.bina), by=world.steve),
        world.sign(grant_of(world.steve, world.bina), by=steve),
    )
    assert [one.code for one in receipts] == [AdmissionCode.BAD_SIGNATURE, 0]
    assert world.broken() == []
    return steve


@pytest.mark.parametrize("suite", list(Suite))
def test_guardians_recover_a_key(suite: Suite) -> None:
    institution = Institution.SM if suite is Suite.SM2 else Institution.INTERNATIONAL
    world, key = fresh(recovery=RULES, institution=institution), new_key(suite)
    grant = world.grant(grant_of(world.steve, world.carl), by=world.steve)
    guard(world, world.steve, world.b, world.ivan, world.mary)
    begun = world.done(start_of(world.steve, key), by=world.mary)
    assert begun == (
        Started(pseudonym=world.steve.id, attempt=0, starter=world.mary.id),
        Advanced(pseudonym=world.steve.id, attempt=0, due_s=0),
    )
    (advanced,) = world.done(approval_of(world.steve, key), by=world.ivan)
    assert advanced == Advanced(pseudonym=world.steve.id, attempt=0, due_s=world.time_s + WAIT_S)
    steve = recovered(world, key, by=world.gita)
    # What the patient had given and was given goes on; the pseudonym is who it was.
    assert world.decision(world.carl, world.steve) == 0
    world.done(Revoke(pseudonym=steve.id, grant_id=grant), by=steve)
    assert world.decision(world.carl, world.steve) != 0


def test_cards_recover_a_key_through_any_courier() -> None:
    world, key = new_world(), new_key()
    guard(world, world.steve, card=card_of(world.steve), by_registrar=False)
    world.done(start_of(world.steve, key, cards=cards_of(world.steve)), by=world.bina)
    recovered(world, key, by=world.bina)


def test_the_registrar_recovers_a_key_where_nothing_was_set() -> None:
    world, key = new_world(), new_key()
    world.done(start_of(world.steve, key), by=world.rosa)
    recovered(world, key, by=world.rosa)


def test_a_representative_keeps_its_powers() -> None:
    world, key = new_world(), new_key()
    eva = world.appoint("eva", world.steve)
    world.done(start_of(world.steve, key), by=world.a)
    steve = recovered(world, key, by=world.a)
    world.done(grant_of(world.steve, world.carl), by=eva)
    world.done(Dismiss(pseudonym=steve.id, representative=eva.id), by=steve)


@pytest.mark.parametrize("who", ["steve", "eva"])
def test_an_objection_ends_what_the_registrar_tries_alone(who: str) -> None:
    world = new_world()
    eva = world.appoint("eva", world.steve, powers=int(Power.REVOKE))
    world.done(start_of(world.steve, new_key()), by=world.a)
    (vetoed,) = world.done(veto_of(world.steve), by=world.steve if who == "steve" else eva)
    assert vetoed == Vetoed(pseudonym=world.steve.id, attempt=0, ended=True)
    world.refused(RecoveryCode.ATTEMPT_UNKNOWN, finish_of(world.steve), by=world.a, at=world.time_s + WAIT_S)
    assert world.broken() == []


def test_an_objection_cannot_be_overridden_where_the_patient_forbade_the_registrar() -> None:
    world = new_world()
    started(world, world.b, by_registrar=False)
    world.done(approval_of(world.steve, new_key()), by=world.c)
    (vetoed,) = world.done(veto_of(world.steve), by=world.steve)
    assert vetoed == Vetoed(pseudonym=world.steve.id, attempt=0, ended=True)


@pytest.mark.parametrize("order", ["the registrar last", "the guardians last", "all before the objection"])
def test_guardians_and_registrar_together_get_past_a_thief(order: str) -> None:
    """The thief has the key: it objects, changes the key, the policy, and names itself a guardian."""
    world, key = new_world(), new_key()
    thief = Actor("the thief's key")
    started(world, world.b)
    voices = [world.c, world.a] if order != "the guardians last" else [world.a, world.c]
    if order == "all before the objection":
        for one in voices:
            world.done(approval_of(world.steve, key), by=one)
    rotated = rotation_of(world.steve, thief)
    events = world.done(rotated, by=world.steve)
    assert Vetoed(pseudonym=world.steve.id, attempt=0, ended=False) in events
    robbed = with_key_of(world.steve, thief)
    world.refused(RecoveryCode.VETOED_ALREADY, veto_of(world.steve), by=robbed)
    world.done(SetPolicy(pseudonym=world.steve.id, terms=terms_of(world.e, by_registrar=False)), by=robbed)
    if order != "all before the objection":
        for one in voices:
            world.done(approval_of(world.steve, key), by=one)
    world.done(rotation_of(world.steve, Actor("the thief's second")), by=robbed)
    (attempt,) = [row for _, row in world.contracts().recovery.running(world.steve.id, world.time_s)]
    assert due_s(attempt) - attempt.since_s == CONTESTED_WAITS * WAIT_S
    world.refused(RecoveryCode.STILL_WAITING, finish_of(world.steve), by=world.b, at=due_s(attempt) - 1)
    recovered(world, key, by=world.b, after_s=1)
    receipt = world.run(veto_of(world.steve), by=with_key_of(world.steve, Actor("the thief's second")))
    assert receipt.code == AdmissionCode.BAD_SIGNATURE
    # The thief's policy had come into force meanwhile, and is gone: the guardians are who they were.
    policy = world.contracts().recovery.terms(world.steve.id, world.time_s)
    assert policy == terms_of(world.b, world.c, world.d)


def test_an_owner_who_changes_the_key_ends_what_the_registrar_tries() -> None:
    world = new_world()
    world.done(start_of(world.steve, new_key()), by=world.a)
    events = world.done(rotation_of(world.steve, Actor("second")), by=world.steve)
    assert Vetoed(pseudonym=world.steve.id, attempt=0, ended=True) in events
    assert list(world.contracts().recovery.running(world.steve.id, world.time_s)) == []


def test_guardians_think_again() -> None:
    """They see that the owner has the key after all: without them the attempt is worth nothing, and then over."""
    world, key = new_world(), new_key()
    started(world, world.b)
    world.done(approval_of(world.steve, key), by=world.c)
    (advanced,) = world.done(withdrawal_of(world.steve), by=world.c)
    assert advanced == Advanced(pseudonym=world.steve.id, attempt=0, due_s=0)
    world.wait(WAIT_S)
    # The waiting time begins anew when they agree again.
    (advanced,) = world.done(approval_of(world.steve, key), by=world.c)
    assert advanced == Advanced(pseudonym=world.steve.id, attempt=0, due_s=world.time_s + WAIT_S)
    world.done(withdrawal_of(world.steve), by=world.c)
    assert world.done(withdrawal_of(world.steve), by=world.b) == (Ended(pseudonym=world.steve.id, attempt=0),)
    assert world.broken() == []


def test_the_registrar_thinks_again() -> None:
    world = new_world()
    world.done(start_of(world.steve, new_key()), by=world.rosa)
    assert world.done(withdrawal_of(world.steve), by=world.a) == (Ended(pseudonym=world.steve.id, attempt=0),)


def test_a_hostile_guardian_cannot_keep_the_others_from_theirs() -> None:
    world, key = new_world(), new_key()
    started(world, world.d)
    mine = Actor("the patient's")
    world.done(start_of(world.steve, mine, attempt=1), by=world.b)
    world.done(approval_of(world.steve, mine, attempt=1), by=world.c)
    assert key_id(key) != key_id(mine)
    recovered(world, mine, by=world.b, attempt=1)
    assert list(world.contracts().recovery.running(world.steve.id, world.time_s)) == [], "all others are over"


def test_cards_are_added_to_what_the_registrar_started() -> None:
    """Together they get past an objection."""
    world, key = new_world(), new_key()
    guard(world, world.steve, card=card_of(world.steve))
    world.done(start_of(world.steve, key), by=world.a)
    world.done(veto_of(world.steve), by=world.steve)
    world.done(approval_of(world.steve, key, cards=cards_of(world.steve)), by=world.bina)
    recovered(world, key, by=world.a, after_s=CONTESTED_WAITS * WAIT_S)


def test_a_policy_counts_after_the_waiting_time_of_the_one_before() -> None:
    """A thief cannot first of all put the guardians out."""
    world = new_world()
    guard(world, world.steve, world.b, world.c)
    (event,) = world.done(SetPolicy(pseudonym=world.steve.id, terms=terms_of(world.e, wait_s=10)), by=world.steve)
    assert event == PolicySet(pseudonym=world.steve.id, from_s=world.time_s + WAIT_S)
    tables = world.contracts().recovery
    assert tables.terms(world.steve.id, world.time_s + WAIT_S - 1) == terms_of(world.b, world.c)
    assert tables.terms(world.steve.id, world.time_s + WAIT_S) == terms_of(world.e, wait_s=10)
    world.refused(RecoveryCode.SENDER_MAY_NOT_RECOVER, start_of(world.steve, new_key()), by=world.e)
    world.done(start_of(world.steve, new_key()), by=world.b)


def test_attempts_that_lapsed_make_room() -> None:
    world = new_world()
    started(world, world.b)
    world.wait(RECOVERY_OPEN_S)
    world.done(start_of(world.steve, Actor("another"), attempt=1), by=world.b)
    assert [number for number, _ in world.contracts().recovery.running(world.steve.id, world.time_s)] == [1]
    assert world.broken() == []


# --- who is told ----------------------------------------------------------------------------------------


def asked(world: World, name: str, by: Signer) -> tuple[object, ...]:
    view = View(snapshot=world.snapshot, height=world.height, time_s=world.time_s)
    party = view.contracts.membership.party(by.id)
    assert party is not None
    return ask(view, Asker(by.id, party), name, OfPseudonym(pseudonym=world.steve.id)).rows


@pytest.mark.parametrize("name", ["recovery.pending", "recovery.policy"])
def test_those_concerned_see_what_runs_and_nobody_else(name: str) -> None:
    world = new_world()
    eva = world.appoint("eva", world.steve, powers=int(Power.READ_LOG))
    started(world, world.b)
    for one in (world.steve, eva, world.b, world.rosa, world.a):
        assert len(asked(world, name, one)) == 1
    for other in (world.mary, world.e, world.bert, world.gita, world.carl):
        with pytest.raises(Rejected) as refused:
            asked(world, name, other)
        assert refused.value.code is QueryCode.NOT_AUTHORISED


def test_the_notice_shows_who_agreed_and_when_it_is_due() -> None:
    world = new_world()
    started(world, world.b)
    world.done(approval_of(world.steve, new_key()), by=world.c)
    (line,) = asked(world, "recovery.pending", world.steve)
    assert isinstance(line, AttemptLine)
    assert set(line.attempt.guardians) == {world.b.id, world.c.id}
    assert due_s(line.attempt) == world.time_s + WAIT_S
    world.wait(WAIT_S + RECOVERY_OPEN_S)
    assert asked(world, "recovery.pending", world.steve) == ()
