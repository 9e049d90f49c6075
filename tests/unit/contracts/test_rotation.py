"""Goal: a key can be changed by whoever may, the party stays who it is, and the old key is dead at once (ID-7).

Method: one row per refusal; then every kind of party changes its key on the real ledger, and the old key is tried
wherever it counted: in the same block, in a later one, from the memory of verified signatures, for tickets.
"""

import pytest
from msgspec.structs import replace

from carechain.chain.receipts import OK, Receipt, code_named
from carechain.chain.tx import AdmissionCode
from carechain.contracts import membership as module
from carechain.contracts import rotation
from carechain.contracts.access import RequestAccess, still_allowed
from carechain.contracts.consent.schema import ConsentCode, Revoke
from carechain.contracts.membership import (
    DismissStaff,
    KeyRotated,
    MembershipCode,
    RenewStaff,
    SetLapse,
    StaffRenewed,
)
from carechain.contracts.relationships import Bound, Leave, RelationshipsCode
from carechain.core.crypto import Suite
from carechain.core.ids import party_id
from carechain.core.limits import FORMER_KEYS, FORMER_KEYS_S
from carechain.core.message import Message
from carechain.core.rejection import RejectionCode
from carechain.core.suite import Institution
from carechain.core.vocabulary import Purpose, Role
from carechain.sdk.wallet import Pseudonym, binding_proof
from recoveries import proof_of, rotation_of, staff_rotation, with_key_of
from rejections import Arrange, Attempt, Limits, Rows, check_refused
from world import (
    CHAIN_ID,
    RESULTS,
    Actor,
    Signer,
    World,
    appoint_message,
    bind_message,
    enrolment_of,
    fresh,
    grant_of,
    wallet_of,
)

rows = Rows()
ROWS = rows


# --- refusals -------------------------------------------------------------------------------------------


@rows.row(MembershipCode.KEY_OF_STAFF)
def staff_change_their_own_key(world: World) -> Attempt:
    return world.anna, rotation_of(world.anna, Actor("anna's next"))


@rows.row(MembershipCode.TOO_MANY_KEY_CHANGES, limits=((rotation, "KEY_CHANGES_PER_PARTY", 1),))
def once_too_often(world: World) -> Attempt:
    world.done(rotation_of(world.steve, Actor("second")), by=world.steve)
    return with_key_of(world.steve, Actor("second")), rotation_of(world.steve, Actor("third"))


@rows.row(MembershipCode.TOO_MANY_KEY_CHANGES)
def a_member_gets_rid_of_what_it_signed(world: World) -> Attempt:
    """A keyholder that lied changes its key until nobody remembers the one under its lie."""
    member: Signer = world.b
    for number in range(FORMER_KEYS):
        key = Actor(f"key {number}")
        world.done(rotation_of(member, key), by=member)
        member = with_key_of(world.b, key)
    world.wait(FORMER_KEYS_S - 60)
    return member, rotation_of(member, Actor("one too many"))


@rows.row(MembershipCode.KEY_IN_USE)
def somebody_elses_key(world: World) -> Attempt:
    return world.steve, rotation_of(world.steve, world.carl)


@rows.row(MembershipCode.KEY_IN_USE)
def the_present_key(world: World) -> Attempt:
    return world.b, rotation_of(world.b, world.b)


@rows.row(MembershipCode.KEY_IN_USE)
def back_to_the_first_key(world: World) -> Attempt:
    world.done(rotation_of(world.b, Actor("second")), by=world.b)
    return with_key_of(world.b, Actor("second")), rotation_of(world.b, world.b)


@rows.row(MembershipCode.KEY_IN_USE)
def back_to_the_second_key(world: World) -> Attempt:
    world.done(rotation_of(world.b, Actor("second")), by=world.b)
    world.done(rotation_of(world.b, Actor("third")), by=with_key_of(world.b, Actor("second")))
    return with_key_of(world.b, Actor("third")), rotation_of(world.b, Actor("second"))


@rows.row(MembershipCode.KEY_IN_USE)
def a_key_that_another_changed_to(world: World) -> Attempt:
    world.done(rotation_of(world.mary, Actor("marys")), by=world.mary)
    return world.steve, rotation_of(world.steve, Actor("marys"))


@rows.row(MembershipCode.KEY_PROOF_INVALID)
def nobody_has_the_new_key(world: World) -> Attempt:
    return world.steve, rotation_of(world.steve, Actor("next"), proof=bytes(64))


@rows.row(MembershipCode.KEY_PROOF_INVALID)
def the_proof_is_for_another_party(world: World) -> Attempt:
    new = Actor("next")
    return world.steve, rotation_of(world.steve, new, proof=proof_of(new, world.mary.id))


@rows.row(MembershipCode.KEY_PROOF_INVALID)
def the_proof_is_for_another_chain(world: World) -> Attempt:
    new = Actor("next")
    return world.steve, rotation_of(world.steve, new, proof=proof_of(new, world.steve.id, chain_id="world-2"))


@rows.row(MembershipCode.KEY_PROOF_INVALID)
def somebody_swaps_the_reading_key(world: World) -> Attempt:
    return world.steve, rotation_of(world.steve, Actor("next"), hpke_key=world.carl.hpke.public_key)


@rows.row(MembershipCode.KEY_PROOF_INVALID)
def a_suite_that_nobody_has(world: World) -> Attempt:
    return world.steve, rotation_of(world.steve, Actor("next"), suite=99)


@rows.row(MembershipCode.KEY_PROOF_INVALID)
def the_staff_key_did_not_agree(world: World) -> Attempt:
    return world.a, replace(staff_rotation(world.a, world.carl, Actor("carl's next")), proof=bytes(64))


@rows.row(MembershipCode.KEY_IN_USE)
def a_colleagues_key(world: World) -> Attempt:
    return world.a, staff_rotation(world.a, world.carl, world.dana)


@rows.row(MembershipCode.STAFF_UNKNOWN)
def staff_of_another_organisation(world: World) -> Attempt:
    return world.a, staff_rotation(world.a, world.bert, Actor("bert's next"))


@rows.row(MembershipCode.STAFF_UNKNOWN)
def a_patient_is_no_staff(world: World) -> Attempt:
    """The organisation cannot use its authority to get hold of a pseudonym."""
    patient = Actor("", organisation=world.a.id)
    patient.id = world.steve.id
    return world.a, staff_rotation(world.a, patient, Actor("next"))


@rows.row(MembershipCode.STAFF_UNKNOWN)
def the_members_own_key_is_no_staff(world: World) -> Attempt:
    """Staff who run the authority cannot take over the organisation's own key."""
    return world.anna, staff_rotation(world.a, world.a, Actor("next"))


@rows.row(MembershipCode.STAFF_LEFT)
def staff_who_left(world: World) -> Attempt:
    world.done(DismissStaff(party=world.carl.id), by=world.a)
    return world.a, staff_rotation(world.a, world.carl, Actor("carl's next"))


@rows.row(MembershipCode.ROLE_NOT_FOR_THIS_KIND)
def a_role_that_hospitals_do_not_have(world: World) -> Attempt:
    return world.a, staff_rotation(world.a, world.carl, Actor("carl's next"), Role.INSURANCE_AUDITOR)


@rows.row(MembershipCode.CERTIFICATE_INVALID)
def another_authority_signed(world: World) -> Attempt:
    return world.a, staff_rotation(world.b, world.carl, Actor("carl's next"))


@rows.row(MembershipCode.ROLE_MAY_NOT_SEND)
def a_doctor_changes_a_colleagues_key(world: World) -> Attempt:
    return world.carl, staff_rotation(world.a, world.dana, Actor("dana's next"))


@rows.row(MembershipCode.CERTIFICATE_INVALID)
def renewal_of_a_key_that_is_dead(world: World) -> Attempt:
    """The certificate names the right party and the key that it no longer has."""
    world.done(staff_rotation(world.a, world.carl, Actor("carl's next")), by=world.a)
    return world.a, RenewStaff(certificate=world.a.certify(world.carl, Role.DOCTOR))


@rows.row(MembershipCode.CERTIFICATE_INVALID)
def renewal_names_another_key(world: World) -> Attempt:
    return world.a, RenewStaff(certificate=world.a.certify(Actor("other"), Role.DOCTOR, party=world.carl.id))


@rows.row(MembershipCode.PARTY_EXISTS)
def a_changed_key_is_enrolled_again(world: World) -> Attempt:
    new = Actor("carl's next", organisation=world.a.id)
    world.done(staff_rotation(world.a, world.carl, new), by=world.a)
    return world.a, enrolment_of(new, world.a.certify(new, Role.DOCTOR))


@rows.row(ConsentCode.REPRESENTATIVE_EXISTS)
def a_changed_key_is_appointed(world: World) -> Attempt:
    new = Actor("marys")
    world.done(rotation_of(world.mary, new), by=world.mary)
    return world.steve, appoint_message(new, world.steve)


@rows.row(RelationshipsCode.PSEUDONYM_EXISTS)
def a_changed_key_is_bound(world: World) -> Attempt:
    taken = wallet_of("lin").pseudonym(world.a.id)
    new = Actor("")
    new.signing, new.hpke = taken.signing, taken.hpke
    world.done(rotation_of(world.mary, new), by=world.mary)
    return world.a, bind_message(taken, world.a.secret.id_hash("mrn", "9"))


@rows.row(RelationshipsCode.ID_ALREADY_BOUND)
def the_dead_key_opens_a_relation_again(world: World) -> Attempt:
    id_hash = world.a.secret.id_hash("mrn", "MRN-1")
    world.done(rotation_of(world.steve, Actor("next")), by=world.steve)
    world.done(Leave(pseudonym=world.steve.id), by=with_key_of(world.steve, Actor("next")))
    return world.a, bind_message(world.steve, id_hash, number=1)


@rows.row(MembershipCode.SUITE_NOT_OF_NETWORK)
def a_suite_that_the_network_does_not_use(world: World) -> Attempt:
    return world.steve, rotation_of(world.steve, Actor("next", suite=Suite.SM2))


@pytest.mark.parametrize(("code", "arrange", "limits"), rows.params())
def test_refused(code: RejectionCode, arrange: Arrange, limits: Limits, monkeypatch: pytest.MonkeyPatch) -> None:
    check_refused(fresh(), code, arrange, limits, monkeypatch)


# --- who may, with what ---------------------------------------------------------------------------------


@pytest.mark.parametrize("suite", [Suite.ED25519, Suite.P256])
@pytest.mark.parametrize("who", ["steve", "representative"])
def test_patients_and_representatives_change_their_keys(who: str, suite: Suite) -> None:
    world = fresh()
    party: Signer = world.steve if who == "steve" else world.appoint("eva", world.steve)
    new = Actor("next", suite=suite)
    events = world.done(rotation_of(party, new), by=party)
    assert events == (KeyRotated(party=party.id),)
    row = world.contracts().membership.party(party.id)
    assert row is not None
    assert (row.suite, row.public_key, row.hpke_key) == (suite, new.signing.public_key, new.hpke.public_key)
    message = grant_of(world.steve, world.carl)
    dead_everywhere(world, message, old=party, new=with_key_of(party, new))


def test_a_member_changes_its_key() -> None:
    world = fresh()
    new = Actor("next")
    world.done(rotation_of(world.b, new), by=world.b)
    dead_everywhere(world, SetLapse(days=30), old=world.b, new=with_key_of(world.b, new))
    (former,) = world.contracts().membership.former_keys(world.b.id)
    assert former.public_key == world.b.signing.public_key


def test_staff_get_another_key_and_stay_who_they_are() -> None:
    world = fresh()
    grant = world.grant(grant_of(world.steve, world.carl), by=world.steve)
    assert world.decision(world.carl, world.steve) == OK
    new = Actor("carl's next", organisation=world.a.id)
    events = world.done(staff_rotation(world.a, world.carl, new, Role.DOCTOR, Role.NURSE), by=world.anna)
    assert [type(one) for one in events] == [KeyRotated, StaffRenewed]
    carl = with_key_of(world.carl, new)
    assert world.decision(carl, world.steve) == OK, "what was granted to Carl is his"
    row = world.contracts().membership.party(carl.id)
    assert row is not None
    assert row.has_role(Role.NURSE)
    # From now on certificates are renewed for the key that he has.
    renewed = world.a.certify(new, Role.DOCTOR, party=world.carl.id)
    world.done(RenewStaff(certificate=renewed), by=world.a)
    world.done(Revoke(pseudonym=world.steve.id, grant_id=grant), by=world.steve)
    assert world.broken() == []


def dead_everywhere(world: World, message: Message, *, old: Signer, new: Signer) -> None:
    """The new key is good; the old one, nowhere."""
    receipts = world.block(world.sign(message, by=old), world.sign(message, by=new))
    assert [code_named(one.code) for one in receipts] == [AdmissionCode.BAD_SIGNATURE, None]
    assert world.broken() == []


def test_the_old_key_is_dead_in_the_same_block() -> None:
    world = fresh()
    new = Actor("next")
    message = grant_of(world.steve, world.carl)
    receipts = world.block(
        world.sign(message, by=world.steve),
        world.sign(rotation_of(world.steve, new), by=world.steve),
        world.sign(message, by=world.steve),
        world.sign(message, by=with_key_of(world.steve, new)),
    )
    assert [code_named(one.code) for one in receipts] == [None, None, AdmissionCode.BAD_SIGNATURE, None]


def test_a_signature_that_was_verified_before_the_change_does_not_count_after_it() -> None:
    """Queues verify before they order: what they remember is about a key, and the key comes from the state."""
    world = fresh()
    waiting = world.sign(grant_of(world.steve, world.carl), by=world.steve)
    dry_run = world.fork()
    (accepted,) = dry_run.block(waiting)
    assert accepted.code == OK
    assert dry_run.signatures is world.signatures, "the memory of verified signatures is shared"
    world.done(rotation_of(world.steve, Actor("next")), by=world.steve)
    (refused,) = world.block(waiting)
    assert refused == Receipt(int(AdmissionCode.BAD_SIGNATURE))


def test_later_messages_of_the_transaction_that_changes_the_key_still_count() -> None:
    """They were signed by the key that was good when the transaction began, and all of it or none of it happens."""
    world = fresh()
    world.done(rotation_of(world.steve, Actor("next")), grant_of(world.steve, world.carl), by=world.steve)
    assert world.decision(world.carl, world.steve) == OK


def test_a_ticket_ends_with_the_key_it_names() -> None:
    world = fresh()
    world.grant(grant_of(world.steve, world.carl), by=world.steve)
    asked = RequestAccess(pseudonym=world.steve.id, scope=RESULTS, purpose=Purpose.TREAT)
    decided = world.request(asked, by=world.carl)
    ticket = world.ticket(decided.ticket)
    contracts = world.contracts()
    assert still_allowed(contracts.membership, contracts.consent, ticket, world.time_s)
    world.done(staff_rotation(world.a, world.carl, Actor("carl's next")), by=world.a)
    contracts = world.contracts()
    assert not still_allowed(contracts.membership, contracts.consent, ticket, world.time_s)


def test_a_relation_that_was_left_is_opened_again_with_the_present_key() -> None:
    world = fresh()
    id_hash = world.a.secret.id_hash("mrn", "MRN-1")
    next_key = Actor("next")
    world.done(rotation_of(world.steve, next_key), by=world.steve)
    steve = with_key_of(world.steve, next_key)
    world.done(Leave(pseudonym=steve.id), by=steve)
    now = Pseudonym(id=steve.id, organisation=world.a.id, counter=0, signing=next_key.signing, hpke=next_key.hpke)
    proof = binding_proof(now, chain_id=CHAIN_ID, id_hash=id_hash, number=1)
    events = world.done(bind_message(now, id_hash, number=1, proof=proof), by=world.a)
    assert events == (Bound(organisation=world.a.id, pseudonym=world.steve.id),)
    assert world.broken() == []


def test_a_member_changes_its_key_again_when_it_has_answered_for_the_first() -> None:
    world = fresh()
    member: Signer = world.b
    for number in range(FORMER_KEYS):
        key = Actor(f"key {number}")
        world.done(rotation_of(member, key), by=member)
        member = with_key_of(world.b, key)
    world.wait(FORMER_KEYS_S)
    world.done(rotation_of(member, Actor("another")), by=member)


def test_only_the_last_few_keys_are_kept_and_none_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FORMER_KEYS", 2)
    world = fresh()
    steve: Signer = world.steve
    keys = [Actor(f"key {number}") for number in range(4)]
    for key in keys:
        world.done(rotation_of(steve, key), by=steve)
        steve = with_key_of(world.steve, key)
    tables = world.contracts().membership
    former = [one.public_key for one in tables.former_keys(steve.id)]
    assert former == [keys[1].signing.public_key, keys[2].signing.public_key]
    assert all(tables.key_taken(party_id(Suite.ED25519, key.signing.public_key)) for key in keys)
    history = tables.keys.get(steve.id)
    assert history is not None
    assert history.changes == 4
    assert world.broken() == []


def test_in_a_network_of_the_sm_suite() -> None:
    """Organisations have SM2 keys before and after; patients what their devices have."""
    world = fresh(institution=Institution.SM)
    changes = ((world.b, Suite.SM2), (world.steve, Suite.SM2), (world.mary, Suite.P256))
    for number, (party, suite) in enumerate(changes):
        new = Actor(f"next {number}", suite=suite)
        world.done(rotation_of(party, new), by=party)
        row = world.contracts().membership.party(party.id)
        assert row is not None
        assert row.public_key == new.signing.public_key
    refused = rotation_of(world.c, Actor("next", suite=Suite.ED25519))
    world.refused(MembershipCode.SUITE_NOT_OF_NETWORK, refused, by=world.c)
    world.done(staff_rotation(world.a, world.carl, Actor("carl's next", suite=Suite.SM2)), by=world.a)
    assert world.broken() == []
