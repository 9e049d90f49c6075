"""Goal: an existing id is bound to a pseudonym once, by a registrar, with the patient's proof (ID-3, ID-8, REC-6).

Method: one row per refusal; then the life of a relationship, and what the ledger may learn from two of them.
"""

import pytest

from carechain.chain.queries import Asker, QueryCode, View, ask
from carechain.chain.questions import OfPseudonym
from carechain.chain.tx import build
from carechain.contracts.membership import MembershipCode
from carechain.contracts.records import RecordsCode
from carechain.contracts.relationships import Bind, Leave, PutSummary, RelationshipsCode, leave, patients_of, summary_of
from carechain.core.context import Ctx
from carechain.core.crypto import Suite
from carechain.core.rejection import Rejected, RejectionCode
from carechain.core.suite import Institution
from carechain.sdk.wallet import Pseudonym, binding_proof
from rejections import Arrange, Attempt, Limits, Rows, check_refused
from world import Actor, World, anchor_of, anything, bind_message, wallet_of

rows = Rows()
ROWS = rows


@pytest.fixture(params=list(Institution), ids=lambda one: one.name)
def institution(request: pytest.FixtureRequest) -> Institution:
    found: Institution = request.param
    return found


@rows.row(RelationshipsCode.NOT_A_REGISTRAR)
def not_certified(world: World) -> Attempt:
    return world.e, bind_message(world.wallet("lin").pseudonym(world.e.id), world.e.secret.id_hash("mrn", "9"))


@rows.row(RelationshipsCode.PROOF_INVALID)
def proof_for_another_registrar(world: World) -> Attempt:
    here, elsewhere = world.wallet("lin").pseudonym(world.a.id), world.wallet("lin").pseudonym(world.b.id)
    id_hash = world.a.secret.id_hash("mrn", "9")
    assert here.id != elsewhere.id
    return world.a, bind_message(elsewhere, id_hash)


@rows.row(RelationshipsCode.PROOF_INVALID)
def proof_for_another_id(world: World) -> Attempt:
    patient = world.wallet("lin").pseudonym(world.a.id)
    other = binding_proof(patient, chain_id="world-1", id_hash=world.a.secret.id_hash("mrn", "8"))
    return world.a, bind_message(patient, world.a.secret.id_hash("mrn", "9"), proof=other)


@rows.row(RelationshipsCode.PROOF_INVALID)
def proof_for_another_chain(world: World) -> Attempt:
    patient, id_hash = world.wallet("lin").pseudonym(world.a.id), world.a.secret.id_hash("mrn", "9")
    return world.a, bind_message(patient, id_hash, proof=binding_proof(patient, chain_id="world-2", id_hash=id_hash))


@rows.row(RelationshipsCode.PROOF_INVALID)
def somebody_swaps_the_reading_key(world: World) -> Attempt:
    patient, id_hash = world.wallet("lin").pseudonym(world.a.id), world.a.secret.id_hash("mrn", "9")
    return world.a, bind_message(patient, id_hash, hpke_key=world.carl.hpke.public_key)


@rows.row(RelationshipsCode.PROOF_INVALID)
def unknown_suite(world: World) -> Attempt:
    return world.a, bind_message(world.wallet("lin").pseudonym(world.a.id), bytes(32), suite=9)


@rows.row(RelationshipsCode.ID_ALREADY_BOUND)
def the_id_has_a_pseudonym(world: World) -> Attempt:
    return world.a, bind_message(world.wallet("lin").pseudonym(world.a.id), world.a.secret.id_hash("mrn", "MRN-1"))


@rows.row(RelationshipsCode.ID_ALREADY_BOUND)
def bound_twice_without_leaving(world: World) -> Attempt:
    return world.a, bind_message(world.steve, world.a.secret.id_hash("mrn", "MRN-1"))


@rows.row(RelationshipsCode.ID_ALREADY_BOUND)
def another_person_takes_over_an_id_that_was_left(world: World) -> Attempt:
    world.done(Leave(pseudonym=world.steve.id), by=world.steve)
    return world.a, bind_message(world.wallet("lin").pseudonym(world.a.id), world.a.secret.id_hash("mrn", "MRN-1"))


@rows.row(RelationshipsCode.PSEUDONYM_EXISTS)
def one_pseudonym_for_two_ids(world: World) -> Attempt:
    return world.a, bind_message(world.steve, world.a.secret.id_hash("mrn", "another"))


@rows.row(RelationshipsCode.PROOF_USED)
def the_registrar_uses_the_first_proof_again(world: World) -> Attempt:
    """The patient left and signed nothing since."""
    world.done(Leave(pseudonym=world.steve.id), by=world.steve)
    return world.a, bind_message(world.steve, world.a.secret.id_hash("mrn", "MRN-1"))


@rows.row(RelationshipsCode.PROOF_USED)
def the_registrar_uses_the_second_proof_again(world: World) -> Attempt:
    again = bind_message(world.steve, world.a.secret.id_hash("mrn", "MRN-1"), number=1)
    world.done(Leave(pseudonym=world.steve.id), by=world.steve)
    world.done(again, by=world.a)
    world.done(Leave(pseudonym=world.steve.id), by=world.steve)
    return world.a, again


@rows.row(RelationshipsCode.PROOF_USED)
def a_proof_ahead_of_its_turn(world: World) -> Attempt:
    return world.a, bind_message(
        world.wallet("lin").pseudonym(world.a.id), world.a.secret.id_hash("mrn", "9"), number=1
    )


@rows.row(RelationshipsCode.PROOF_INVALID)
def the_number_is_not_the_one_that_was_signed(world: World) -> Attempt:
    id_hash = world.a.secret.id_hash("mrn", "MRN-1")
    world.done(Leave(pseudonym=world.steve.id), by=world.steve)
    first = binding_proof(world.steve, chain_id="world-1", id_hash=id_hash)
    return world.a, bind_message(world.steve, id_hash, number=1, proof=first)


@rows.row(RelationshipsCode.SENDER_NOT_PATIENT)
def another_patient_leaves_for_steve(world: World) -> Attempt:
    return world.mary, Leave(pseudonym=world.steve.id)


@rows.row(RelationshipsCode.SENDER_NOT_PATIENT)
def another_patient_overwrites_the_summary(world: World) -> Attempt:
    return world.mary, PutSummary(pseudonym=world.steve.id, sealed=bytes(1024))


@rows.row(RelationshipsCode.SUMMARY_SIZE)
def not_padded(world: World) -> Attempt:
    return world.steve, PutSummary(pseudonym=world.steve.id, sealed=bytes(1000))


@rows.row(RelationshipsCode.RELATION_CLOSED)
def left_twice(world: World) -> Attempt:
    world.done(Leave(pseudonym=world.steve.id), by=world.steve)
    return world.steve, Leave(pseudonym=world.steve.id)


@pytest.mark.parametrize(("code", "arrange", "limits"), rows.params())
def test_refused(
    code: RejectionCode, arrange: Arrange, limits: Limits, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_refused(world, code, arrange, limits, monkeypatch)


rows.direct.append(RelationshipsCode.RELATION_UNKNOWN)


def test_the_handler_itself_refuses_who_was_never_bound(world: World) -> None:
    """Only bound pseudonyms have the patient's role, so a transaction cannot get here."""
    party = world.contracts().membership.party(world.steve.id)
    assert party is not None
    ctx = Ctx(chain_id="world-1", height=1, time_s=1, tx_id=bytes(32), sender=bytes(32), party=party, events=[])
    with pytest.raises(Rejected) as refused:
        leave(ctx, world.contracts().relationships, Leave(pseudonym=bytes(32)))
    assert refused.value.code is RelationshipsCode.RELATION_UNKNOWN


def test_one_id_at_two_registrars_shows_two_unequal_values(world: World) -> None:
    at_a, at_b = _patients(world, world.a.id), _patients(world, world.b.id)
    assert set(at_a.values()) == {world.steve.id, world.mary.id}
    assert set(at_b.values()) == {world.steve_at_b.id}
    assert not at_a.keys() & at_b.keys()
    assert world.steve.id != world.steve_at_b.id
    assert world.steve.hpke.public_key != world.steve_at_b.hpke.public_key


def _patients(world: World, organisation: bytes) -> dict[bytes, bytes]:
    found = patients_of(world.contracts().relationships, organisation)
    return {id_hash: row.pseudonym for id_hash, row, _ in found}


def test_the_ledger_never_holds_the_id(world: World) -> None:
    stored = b"".join(key + value for key, value in world.snapshot.scan(b""))
    assert stored
    assert b"MRN-1" not in stored


def test_leaving_closes_the_relationship_and_binding_again_opens_it(world: World) -> None:
    world.grant(anything(world.steve, world.carl), by=world.steve)
    world.done(anchor_of(world.steve, "before"), by=world.carl)
    world.done(Leave(pseudonym=world.steve.id), by=world.steve)
    world.refused(RecordsCode.RELATION_CLOSED, anchor_of(world.steve, "after"), by=world.carl)
    world.refused(RecordsCode.RELATION_CLOSED, anchor_of(world.steve, "after"), by=world.steve)
    # What was granted before stays granted, and the patient still reads.
    assert world.decision(world.carl, world.steve) == 0
    number = world.contracts().relationships.proofs_used(world.steve.id)
    world.done(bind_message(world.steve, world.a.secret.id_hash("mrn", "MRN-1"), number=number), by=world.rosa)
    world.done(anchor_of(world.steve, "after"), by=world.carl)
    assert world.broken() == []


def test_the_number_of_the_next_proof_is_shown_to_the_patient_and_the_registrar(world: World) -> None:
    view = View(snapshot=world.snapshot, height=world.height, time_s=world.time_s)

    def shown(who: Actor | Pseudonym, patient: Pseudonym) -> int:
        party = view.contracts.membership.party(who.id)
        assert party is not None
        (row,) = ask(view, Asker(who.id, party), "relationships.relation", OfPseudonym(patient.id)).rows
        return int(row.proofs_used)

    assert [shown(who, world.steve) for who in (world.steve, world.rosa, world.anna, world.a)] == [1] * 4
    for stranger in (world.mary, world.steve_at_b, world.b):
        with pytest.raises(Rejected) as refused:
            shown(stranger, world.steve)
        assert refused.value.code is QueryCode.NOT_AUTHORISED


def test_the_other_relationship_of_the_same_person_is_untouched(world: World) -> None:
    world.done(Leave(pseudonym=world.steve.id), by=world.steve)
    assert not world.contracts().relationships.is_open(world.steve.id)
    assert world.contracts().relationships.is_open(world.steve_at_b.id)
    world.done(anchor_of(world.steve_at_b, "diary"), by=world.steve_at_b)


def test_a_summary_is_replaced_whole(world: World) -> None:
    world.done(PutSummary(pseudonym=world.steve.id, sealed=b"\x01" * 2048), by=world.steve)
    world.done(PutSummary(pseudonym=world.steve.id, sealed=b"\x02" * 1024), by=world.steve)
    stored = summary_of(world.contracts().relationships, world.steve.id)
    assert stored is not None
    assert stored.sealed == b"\x02" * 1024
    assert summary_of(world.contracts().relationships, world.mary.id) is None


def test_a_p256_wallet_binds_and_signs(world: World) -> None:
    patient = world.bind(wallet_of("王芳", suite=Suite.P256), world.a, "国-7")
    world.done(anchor_of(patient, "diary"), by=patient)


def test_what_a_patients_wallet_signs_with_is_the_patients_choice(world: World, institution: Institution) -> None:
    """KEY-6: a patient's device need not know SM2 in an SM network; elsewhere SM2 is not taken at all."""
    for number, suite in enumerate(Suite):
        patient = wallet_of("王芳", suite=suite).pseudonym(world.a.id)
        binding = bind_message(patient, world.a.secret.id_hash("mrn", f"国-{number}"))
        if institution.admits_patient(suite):
            world.done(binding, by=world.a)
            world.done(anchor_of(patient, f"diary {number}"), by=patient)
        else:
            assert (institution, suite) == (Institution.INTERNATIONAL, Suite.SM2)
            world.refused(MembershipCode.SUITE_NOT_OF_NETWORK, binding, by=world.a)


def test_a_bound_key_cannot_be_enrolled_elsewhere_by_its_proof_alone(world: World) -> None:
    """The registrar's signature is needed too: a proof by itself is not a transaction of anyone."""
    patient = world.wallet("lin").pseudonym(world.a.id)
    stranger = Actor("stranger")
    raw = build(
        key=stranger.signing,
        sender=world.a.id,
        chain_id="world-1",
        nonce=bytes(16),
        valid_until_s=world.time_s + 100,
        messages=(bind_message(patient, world.a.secret.id_hash("mrn", "9")),),
    )
    (receipt,) = world.block(raw)
    assert receipt.code == 111
    assert isinstance(bind_message(patient, bytes(32)), Bind)
