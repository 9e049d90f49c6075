"""Attacks on keys that are replaced: recovery, cards and rotation. Every case: :mod:`attacks.conftest`.

Goal: nobody gets a patient's key whom the patient did not trust with it, and not unseen; what a key had opened it opens
no more once it is replaced. Method: real policies, attempts and objections on the ledger, and real keyholders after it.
"""

import pytest
from msgspec.structs import replace

from carechain.chain.tx import AdmissionCode
from carechain.contracts.membership import MembershipCode
from carechain.contracts.recovery import RecoveryCode, RecoveryRules, SetPolicy, Vetoed
from carechain.contracts.rotation import RotateKey, rotation_message
from carechain.core.limits import CONTESTED_WAITS
from carechain.core.rejection import Rejected
from carechain.core.vocabulary import Power, Purpose
from carechain.sdk.recovery_cards import CardsCode, card_key, join_cards, make_cards
from carechain.sdk.shares import KeyholderCode, SharesRefused, open_shares
from carechain.sealing.hpke import CannotOpen
from recoveries import (
    CARD_SECRET,
    WAIT_S,
    approval_of,
    card_of,
    cards_of,
    finish_of,
    guard,
    start_of,
    terms_of,
    veto_of,
    with_key_of,
)
from sealed_world import SealedWorld
from world import CHAIN_ID, Actor, Signer, World, fresh, grant_of, seeded


@pytest.fixture
def world() -> World:
    return fresh(recovery=RecoveryRules(min_wait_s=10, default_wait_s=WAIT_S))


@pytest.fixture
def thief() -> Actor:
    """The key that the attacker wants to put in the patient's place."""
    return Actor("the thief's key")


def running(world: World) -> list[object]:
    return list(world.contracts().recovery.running(world.steve.id, world.time_s))


def still_steves(world: World, thief: Actor) -> None:
    """The patient's key is what it was, and the thief's signs for nobody."""
    party = world.contracts().membership.party(world.steve.id)
    assert party is not None
    assert party.public_key == world.steve.signing.public_key
    receipt = world.run(grant_of(world.steve, world.bert), by=with_key_of(world.steve, thief))
    assert receipt.code == AdmissionCode.BAD_SIGNATURE
    world.done(grant_of(world.steve, world.carl), by=world.steve)


def rotation_of(party: Signer, key: Actor, *, named: bytes | None = None, chain_id: str = CHAIN_ID) -> RotateKey:
    wanted = rotation_message(
        chain_id=chain_id,
        party=party.id if named is None else named,
        suite=key.signing.suite,
        public_key=key.signing.public_key,
        hpke_key=key.hpke.public_key,
    )
    return RotateKey(
        suite=key.signing.suite,
        public_key=key.signing.public_key,
        hpke_key=key.hpke.public_key,
        proof=key.signing.sign(wanted),
    )


# --- who recovers -----------------------------------------------------------------------------------------


def test_recovery_by_a_rogue_registrar_vetoed(world: World, thief: Actor) -> None:
    """The clerk at the desk says that Steve lost his key. He did not: he sees the notice and objects."""
    world.done(start_of(world.steve, thief), by=world.rosa)
    world.refused(RecoveryCode.STILL_WAITING, finish_of(world.steve), by=world.rosa, at=world.time_s + WAIT_S - 2)
    (vetoed,) = world.done(veto_of(world.steve), by=world.steve)
    assert vetoed == Vetoed(pseudonym=world.steve.id, attempt=0, ended=True)
    world.refused(RecoveryCode.ATTEMPT_UNKNOWN, finish_of(world.steve), by=world.rosa, at=world.time_s + 10 * WAIT_S)
    still_steves(world, thief)


def test_recovery_by_a_registrar_whom_the_patient_excluded(world: World, thief: Actor) -> None:
    """The patient trusts two guardians and forbade the hospital to recover anything."""
    guard(world, world.steve, world.b, world.c, by_registrar=False)
    for who in (world.rosa, world.a):
        world.refused(RecoveryCode.REGISTRAR_FORBIDDEN, start_of(world.steve, thief), by=who)
    still_steves(world, thief)


def test_recovery_by_the_registrar_of_another_hospital(world: World, thief: Actor) -> None:
    """It registers patients, also this one under another pseudonym, and has no word in this one."""
    for who in (world.b, world.c, world.carl, world.bert, world.mary, world.steve_at_b):
        world.refused(RecoveryCode.SENDER_MAY_NOT_RECOVER, start_of(world.steve, thief), by=who)
    still_steves(world, thief)


def test_guardian_minority(world: World, thief: Actor) -> None:
    """One guardian of three, of whom two are needed, and never mind how often it says so."""
    guard(world, world.steve, world.b, world.c, world.d, by_registrar=False)
    world.done(start_of(world.steve, thief), by=world.b)
    world.refused(RecoveryCode.ALREADY_APPROVED, approval_of(world.steve, thief), by=world.b)
    world.refused(RecoveryCode.ATTEMPT_RUNNING, start_of(world.steve, thief, attempt=1), by=world.b)
    world.refused(RecoveryCode.SENDER_MAY_NOT_RECOVER, approval_of(world.steve, thief), by=world.e)
    world.refused(RecoveryCode.NOT_ENOUGH_APPROVALS, finish_of(world.steve), by=world.b, at=world.time_s + WAIT_S + 1)
    still_steves(world, thief)


def test_guardians_approve_one_key_and_get_another(world: World, thief: Actor) -> None:
    """A guardian starts with its own key, and hopes that the others approve the number and not the key."""
    patients = Actor("the patient's new key")
    guard(world, world.steve, world.b, world.c, by_registrar=False)
    world.done(start_of(world.steve, thief), by=world.b)
    world.refused(RecoveryCode.KEY_DIFFERS, approval_of(world.steve, patients), by=world.c)
    still_steves(world, thief)


def test_registrar_and_one_guardian_against_the_owner(world: World, thief: Actor) -> None:
    """Together with one guardian of two that are needed the registrar counts alone, and an objection ends that."""
    guard(world, world.steve, world.b, world.c)
    world.done(start_of(world.steve, thief), by=world.rosa)
    world.done(approval_of(world.steve, thief), by=world.b)
    world.done(veto_of(world.steve), by=world.steve)
    late = world.time_s + CONTESTED_WAITS * WAIT_S + 1
    world.refused(RecoveryCode.NOT_ENOUGH_APPROVALS, finish_of(world.steve), by=world.rosa, at=late)
    still_steves(world, thief)


def test_thief_of_the_key_puts_the_guardians_out(world: World, thief: Actor) -> None:
    """With the stolen key it names itself guardian; the old policy holds for one more waiting time."""
    guard(world, world.steve, world.b, world.c)
    stolen = with_key_of(world.steve, world.steve)
    world.done(SetPolicy(pseudonym=world.steve.id, terms=terms_of(world.e, wait_s=10)), by=stolen)
    world.refused(RecoveryCode.SENDER_MAY_NOT_RECOVER, start_of(world.steve, thief), by=world.e)
    owner = Actor("the owner's new key")
    world.done(start_of(world.steve, owner), by=world.b)
    world.done(approval_of(world.steve, owner), by=world.c)
    world.done(finish_of(world.steve), by=world.gita, at=world.time_s + WAIT_S + 1)
    assert world.contracts().recovery.terms(world.steve.id, world.time_s) == terms_of(world.b, world.c)


# --- what is signed ---------------------------------------------------------------------------------------


def test_replayed_recovery_start(world: World, thief: Actor) -> None:
    """A vetoed attempt is sent again as it was, with the number of the next one, and for another patient."""
    first = start_of(world.steve, thief)
    world.done(first, by=world.rosa)
    world.done(veto_of(world.steve), by=world.steve)
    world.refused(RecoveryCode.ATTEMPT_NUMBER_WRONG, first, by=world.rosa)
    world.refused(RecoveryCode.PROOF_INVALID, replace(first, attempt=1), by=world.rosa)
    world.refused(RecoveryCode.PROOF_INVALID, replace(first, pseudonym=world.mary.id), by=world.rosa)
    other = Actor("another reading key")
    slipped = replace(start_of(world.steve, thief, attempt=1), hpke_key=other.hpke.public_key)
    world.refused(RecoveryCode.PROOF_INVALID, slipped, by=world.rosa)
    elsewhere = start_of(world.steve, thief, attempt=1, chain_id="world-2")
    world.refused(RecoveryCode.PROOF_INVALID, elsewhere, by=world.rosa)
    assert running(world) == []


def test_recovery_to_somebody_elses_key(world: World) -> None:
    """Steve's pseudonym would then be signed for by Mary, by a doctor, or by a key that was given up long ago."""
    for other in (world.mary, world.carl, world.b, world.steve):
        world.refused(RecoveryCode.KEY_IN_USE, start_of(world.steve, with_key_of(world.steve, other)), by=world.rosa)
    retired, second = Actor("retired"), Actor("second")
    world.done(rotation_of(world.mary, retired), by=world.mary)
    world.done(rotation_of(world.mary, second), by=with_key_of(world.mary, retired))
    world.refused(RecoveryCode.KEY_IN_USE, start_of(world.steve, retired), by=world.rosa)
    unwilling = replace(start_of(world.steve, Actor("x")), public_key=Actor("y").signing.public_key)
    world.refused(RecoveryCode.PROOF_INVALID, unwilling, by=world.rosa)


def test_cards_of_another_pseudonym(world: World, thief: Actor) -> None:
    """One set of cards for all of a person's pseudonyms, but what they sign for one is nothing to the other."""
    guard(world, world.steve, card=card_of(world.steve), by_registrar=False)
    for cards in (
        cards_of(world.mary),
        cards_of(world.steve_at_b),
        cards_of(world.steve, secret=seeded("other cards", size=16)),
        card_key(CARD_SECRET, chain_id="world-2", pseudonym=world.steve.id),
    ):
        world.refused(RecoveryCode.CARD_PROOF_INVALID, start_of(world.steve, thief, cards=cards), by=world.bina)
    signed = start_of(world.steve, Actor("the patient's"), cards=cards_of(world.steve))
    taken = replace(start_of(world.steve, thief), card_proof=signed.card_proof)
    world.refused(RecoveryCode.CARD_PROOF_INVALID, taken, by=world.bina)
    still_steves(world, thief)


def test_fewer_cards_than_needed() -> None:
    """Two cards of three that are needed, one of them twice, and one of another set."""
    cards = make_cards(CARD_SECRET, needed=3, cards=5)
    others = make_cards(CARD_SECRET, needed=3, cards=5)
    for some in (cards[:2], (*cards[:2], cards[1]), (*cards[:2], others[2]), (*cards[:2], "abandon " * 20)):
        with pytest.raises(Rejected) as caught:
            join_cards(some)
        assert isinstance(caught.value.code, CardsCode)
        assert not [word for card in cards for word in card.split()[4:] if word in str(caught.value)]
    assert join_cards(cards[2:]) == CARD_SECRET


def test_representative_takes_over_the_key(world: World, thief: Actor) -> None:
    """Whoever acts for the patient with every power there is may object, and neither rotate nor recover."""
    aunt = world.appoint("aunt", world.steve)
    world.refused(RecoveryCode.SENDER_MAY_NOT_RECOVER, start_of(world.steve, thief), by=aunt)
    policy = SetPolicy(pseudonym=world.steve.id, terms=terms_of(world.b))
    world.refused(MembershipCode.ROLE_MAY_NOT_SEND, policy, by=aunt)
    # What she rotates is her own key.
    world.done(rotation_of(aunt, Actor("aunt's second")), by=aunt)
    still_steves(world, thief)
    # Who may not take anything back for the patient does not object either.
    world.done(start_of(world.steve, thief), by=world.rosa)
    uncle = world.appoint("uncle", world.steve, powers=int(Power.ERASE))
    world.refused(RecoveryCode.SENDER_MAY_NOT_VETO, veto_of(world.steve), by=uncle)


# --- rotation ---------------------------------------------------------------------------------------------


def test_rotation_to_a_key_that_did_not_agree(world: World, thief: Actor) -> None:
    """Somebody takes a key that another holds, replays a proof of another party or network, or slips a key in."""
    victim = Actor("a key of somebody else's")
    honest = rotation_of(world.mary, victim)
    world.refused(MembershipCode.KEY_PROOF_INVALID, honest, by=world.steve)
    foreign = rotation_of(world.steve, victim, chain_id="world-2")
    world.refused(MembershipCode.KEY_PROOF_INVALID, foreign, by=world.steve)
    slipped = replace(rotation_of(world.steve, victim), hpke_key=thief.hpke.public_key)
    world.refused(MembershipCode.KEY_PROOF_INVALID, slipped, by=world.steve)
    taken = rotation_of(world.steve, with_key_of(world.steve, world.mary))
    world.refused(MembershipCode.KEY_IN_USE, taken, by=world.steve)


def test_old_key_after_recovery(sealed: SealedWorld) -> None:
    """A thief has Steve's phone and takes a ticket in the last second. Then the phone opens nothing any more."""
    world, one = sealed.world, sealed.write("one")
    new = Actor("Steve's new phone")
    world.done(start_of(world.steve, new), by=world.rosa)
    (_, attempt), *_others = world.contracts().recovery.running(world.steve.id, world.time_s)
    world.wait(attempt.terms.wait_s)
    stolen = sealed.ticket(by=world.steve, purpose=Purpose.PATRQT)
    request = sealed.request(stolen, one, by=world.steve)
    sealed.ask(world.steve, request)
    world.done(finish_of(world.steve), by=world.rosa)
    for label in "abcde":
        with pytest.raises(SharesRefused) as caught:
            sealed.ask(world.steve, request, label)
        assert caught.value.code is KeyholderCode.NO_LONGER_ALLOWED
    robbed = with_key_of(world.steve, world.steve)
    assert world.run(grant_of(world.steve, world.bert), by=robbed).code == AdmissionCode.BAD_SIGNATURE
    # Everything that was there before opens with the new key, and with it alone.
    owner = with_key_of(world.steve, new)
    ticket = sealed.ticket(by=owner, purpose=Purpose.PATRQT)
    answer = sealed.ask(owner, sealed.request(ticket, one, by=owner))
    assert open_shares(answer, chain_id=CHAIN_ID, ticket_id=ticket, requester=owner.id, private_key=new.hpke)
    with pytest.raises(CannotOpen):
        open_shares(answer, chain_id=CHAIN_ID, ticket_id=ticket, requester=owner.id, private_key=world.steve.hpke)
