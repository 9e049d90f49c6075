"""Goal: what everybody checks about the quorum key refuses whatever is not exactly what it claims to be.

Method: sound proofs, deals, capsules, blindings and shares, and each with one thing changed: a point, a scalar, a word
of its context, who is meant. Complaints are judged for dealers that lied and for dealers that did not.
"""

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from carechain.core.group import (
    GENERATOR,
    IDENTITY,
    ONE,
    ORDER,
    SECOND,
    ZERO,
    BadElement,
    add,
    base_mul,
    hash_to_point,
    hash_to_scalar,
    mul,
    scalar_from_int,
    scalar_negate,
    sub,
)
from carechain.core.limits import CAPSULE_SIZE_BYTES
from carechain.core.quorum import (
    BadCapsule,
    BadProof,
    Blinding,
    CapsuleFlaw,
    Complaint,
    Delivery,
    DleqProof,
    KeyProof,
    blinding_context,
    check_blinding,
    check_capsule,
    check_dleq,
    check_feldman,
    check_key_proof,
    check_pedersen,
    check_share,
    check_statement,
    combined_point,
    complaint_context,
    deal_complaint_holds,
    decode_capsule,
    default_threshold,
    evaluate,
    extract_complaint_holds,
    join_context,
    label_bytes,
    lagrange,
    mask_dealt,
    open_complaint,
    open_dealt,
    pad_of,
    pedersen,
    rebuild_commitments,
    require_commitments,
    reshare_complaint_holds,
    share_context,
    statement_bytes,
    threshold_fits,
    weigh_commitments,
)
from carechain.sealing.quorum import dkg, resharing
from carechain.sealing.quorum.dealing import CeremonyKey, Polynomial, Received, Recipient
from carechain.sealing.quorum.proofs import prove_dleq, prove_key
from quorum_ceremony import (
    CHAIN,
    LABEL,
    RECORD,
    SENDER,
    TICKET,
    Lie,
    altered,
    blinded,
    generate,
    lied,
    sealed,
    seeded,
    statement,
)

EPOCH = generate(4, 3).done
CAPSULE = sealed(EPOCH)
BLINDED = blinded()
CONTEXT = seeded("context")
SECRET = hash_to_scalar("test/secret")
BASE = hash_to_point("test/base")
VALUE1, VALUE2 = base_mul(SECRET), mul(SECRET, BASE)
PROOF = prove_dleq(
    SECRET, context=CONTEXT, base1=GENERATOR, value1=VALUE1, base2=BASE, value2=VALUE2, entropy=seeded("entropy")
)
NOT_A_POINT = bytes.fromhex("01" + "00" * 31)
NOT_A_SCALAR = ORDER.to_bytes(32, "little")


# --- proofs -----------------------------------------------------------------------------------------------


def dleq(**changed: Any) -> None:
    words: dict[str, Any] = {
        "context": CONTEXT,
        "base1": GENERATOR,
        "value1": VALUE1,
        "base2": BASE,
        "value2": VALUE2,
        "proof": PROOF,
    }
    check_dleq(**(words | changed))


def test_a_proof_of_equal_logarithms_holds() -> None:
    dleq()


@pytest.mark.parametrize(
    "changed",
    [
        {"context": seeded("other")},
        {"context": b""},
        {"base1": SECOND},
        {"base2": SECOND},
        {"value1": VALUE2},
        {"value2": VALUE1},
        {"base1": BASE, "value1": VALUE2, "base2": GENERATOR, "value2": VALUE1},
        *({name: point} for name in ("base1", "value1", "base2", "value2") for point in (IDENTITY, NOT_A_POINT)),
        {"value1": base_mul(scalar_from_int(2)), "value2": mul(scalar_from_int(2), BASE)},
        {"proof": replace(PROOF, challenge=altered(PROOF.challenge))},
        {"proof": replace(PROOF, response=altered(PROOF.response))},
        {"proof": replace(PROOF, challenge=ZERO)},
        {"proof": replace(PROOF, response=ZERO)},
        {"proof": DleqProof(challenge=PROOF.response, response=PROOF.challenge)},
        {"proof": replace(PROOF, challenge=NOT_A_SCALAR)},
        {"proof": replace(PROOF, response=NOT_A_SCALAR)},
    ],
)
def test_a_proof_with_anything_changed_does_not_hold(changed: dict[str, Any]) -> None:
    with pytest.raises(BadProof):
        dleq(**changed)


def test_a_scalar_has_one_encoding_in_a_proof() -> None:
    unreduced = (int.from_bytes(PROOF.response, "little") + ORDER).to_bytes(32, "little")
    assert base_mul(unreduced) == base_mul(PROOF.response), "the library would take it"
    with pytest.raises(BadProof):
        dleq(proof=replace(PROOF, response=unreduced))


def test_unequal_logarithms_cannot_be_proved_with_either() -> None:
    other = mul(scalar_from_int(5), BASE)
    for secret in (SECRET, scalar_from_int(5)):
        proof = prove_dleq(
            secret, context=CONTEXT, base1=GENERATOR, value1=VALUE1, base2=BASE, value2=other, entropy=b""
        )
        with pytest.raises(BadProof):
            dleq(value2=other, proof=proof)


def key_proof(secret: bytes = SECRET, key: bytes = VALUE1, context: bytes = CONTEXT) -> KeyProof:
    return prove_key(secret, context=context, key=key, entropy=seeded("entropy"))


def test_a_proof_of_possession_holds() -> None:
    check_key_proof(context=CONTEXT, key=VALUE1, proof=key_proof())


@pytest.mark.parametrize(
    ("key", "proof", "context"),
    [
        (VALUE2, key_proof(), CONTEXT),
        (VALUE1, key_proof(), seeded("other")),
        (IDENTITY, key_proof(ZERO, IDENTITY), CONTEXT),
        (NOT_A_POINT, key_proof(), CONTEXT),
        (VALUE1, replace(key_proof(), challenge=ZERO), CONTEXT),
        (VALUE1, replace(key_proof(), response=NOT_A_SCALAR), CONTEXT),
        (VALUE1, KeyProof(challenge=PROOF.challenge, response=PROOF.response), CONTEXT),
    ],
)
def test_a_proof_of_possession_is_of_this_key_here(key: bytes, proof: KeyProof, context: bytes) -> None:
    with pytest.raises(BadProof):
        check_key_proof(context=context, key=key, proof=proof)


def test_a_rogue_key_made_from_anothers_cannot_be_proved() -> None:
    """Attack: join with b·G - B, so that the sum of both keys is one's own."""
    ceremony = seeded("ceremony")
    honest, mine = CeremonyKey(seeded("honest"), ceremony=ceremony), hash_to_scalar("test/mine")
    rogue = sub(base_mul(mine), honest.public)
    context = join_context(ceremony=ceremony, party=seeded("me"))
    with pytest.raises(BadProof):
        check_key_proof(context=context, key=rogue, proof=key_proof(mine, rogue, context))


def test_anothers_key_with_its_proof_is_of_no_use() -> None:
    ceremony = seeded("ceremony")
    key = CeremonyKey(seeded("honest"), ceremony=ceremony)
    proof = key.prove(seeded("you"))
    check_key_proof(context=join_context(ceremony=ceremony, party=seeded("you")), key=key.public, proof=proof)
    for context in (
        join_context(ceremony=ceremony, party=seeded("me")),
        join_context(ceremony=seeded("later"), party=seeded("you")),
    ):
        with pytest.raises(BadProof):
            check_key_proof(context=context, key=key.public, proof=proof)


# --- shared secrets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("holders", "threshold"), [(1, 1), (2, 1), (3, 1), (4, 3), (5, 3), (6, 3), (7, 5), (10, 7), (32, 21)]
)
def test_the_threshold_that_is_proposed(holders: int, threshold: int) -> None:
    assert default_threshold(holders) == threshold
    assert threshold_fits(holders, threshold)


@pytest.mark.parametrize("holders", range(1, 33))
def test_the_thresholds_that_fit(holders: int) -> None:
    bad = (holders - 1) // 3
    fitting = [threshold for threshold in range(-1, holders + 3) if threshold_fits(holders, threshold)]
    assert fitting == list(range(bad + 1, holders - bad + 1))


@pytest.mark.parametrize(("holders", "threshold"), [(0, 0), (0, 1), (-3, 1), (256, 100)])
def test_no_threshold_fits_an_impossible_number_of_holders(holders: int, threshold: int) -> None:
    assert not threshold_fits(holders, threshold)


def test_weights_give_the_value_at_zero_and_elsewhere() -> None:
    # 5 + 3z + 2z²
    points = {index: scalar_from_int(5 + 3 * index + 2 * index**2) for index in (2, 5, 9)}
    for at in (0, 1, 7):
        total = sum(
            int.from_bytes(lagrange(list(points), index, at), "little") * int.from_bytes(value, "little")
            for index, value in points.items()
        )
        assert total % ORDER == 5 + 3 * at + 2 * at**2
    assert lagrange([4], 4) == ONE
    assert lagrange([1, 2], 1, 2) == ZERO


@pytest.mark.parametrize(("indices", "index"), [([1, 1], 1), ([0, 1], 1), ([1, 256], 1), ([1, 2], 3), ([], 1)])
def test_weights_are_for_distinct_indices_from_1(indices: list[int], index: int) -> None:
    with pytest.raises(ValueError, match="ind"):
        lagrange(indices, index)


def test_commitments_evaluate_to_the_image_of_the_value() -> None:
    polynomial = Polynomial(seeded("seed"), ceremony=seeded("c"), threshold=4, use=b"test")
    images = polynomial.images()
    for index in (1, 2, 17, 255):
        assert evaluate(images, index) == base_mul(polynomial.value(index))
        assert check_feldman(images, index, polynomial.value(index))
        assert not check_feldman(images, index, polynomial.value(index % 255 + 1))
    for index in (0, 256, -1):
        with pytest.raises(ValueError, match="1 to 255"):
            evaluate(images, index)


def test_commitments_chosen_to_cancel_stand_for_zero() -> None:
    """Attack: a dealer aims for the identity, where careless code divides by nothing or takes a share for proved."""
    cancelling = (mul(scalar_from_int(-2), BASE), BASE)
    assert evaluate(cancelling, 2) == IDENTITY
    assert evaluate(cancelling, 1) != IDENTITY
    assert check_feldman((base_mul(scalar_from_int(-2)), GENERATOR), 2, ZERO)
    assert not check_feldman((base_mul(scalar_from_int(-2)), GENERATOR), 2, ONE)
    assert check_pedersen((base_mul(scalar_from_int(-2)), GENERATOR), 2, ZERO, ZERO)
    # In the middle of the evaluation, too: C2·2 + C1 = 0, and then C0.
    assert evaluate((BASE, mul(scalar_from_int(-2), BASE), BASE), 2) == BASE


def test_a_holder_whose_key_is_the_identity_can_prove_no_share() -> None:
    share = statement(EPOCH, 1, CAPSULE, BLINDED).share
    with pytest.raises(BadProof):
        check_statement(CHAIN, statement(EPOCH, 1, CAPSULE, BLINDED), holder_key=IDENTITY)
    context = share_context(chain_id=CHAIN, ticket=TICKET, record=RECORD, version=1, epoch=1, index=1)
    with pytest.raises(BadProof):
        check_share(
            replace(share, point=IDENTITY),
            context=context,
            combined=combined_point(CAPSULE, BLINDED.blinding),
            holder_key=IDENTITY,
        )


@pytest.mark.parametrize(
    "commitments", [(), (BASE,), (BASE, BASE, BASE), (BASE, IDENTITY), (NOT_A_POINT, BASE), (BASE, b"short")]
)
def test_commitments_are_as_many_points_as_the_threshold(commitments: tuple[bytes, ...]) -> None:
    require_commitments((BASE, GENERATOR), 2)
    with pytest.raises(BadElement):
        require_commitments(commitments, 2)


def test_a_polynomial_is_rebuilt_from_as_many_values_as_it_has_coefficients() -> None:
    polynomial = Polynomial(seeded("seed"), ceremony=seeded("c"), threshold=3, use=b"test")
    assert rebuild_commitments([(index, polynomial.value(index)) for index in (6, 1, 3)]) == polynomial.images()
    assert rebuild_commitments([(1, ONE), (2, ONE)]) == (GENERATOR, IDENTITY), "a constant"
    with pytest.raises(ValueError, match="distinct"):
        rebuild_commitments([(1, ONE), (1, ZERO)])


def test_weighed_commitments_share_what_the_dealers_shared() -> None:
    constant = Polynomial(seeded("old"), ceremony=seeded("c"), threshold=2, use=b"test")
    dealt = [
        (
            index,
            Polynomial(
                seeded("new", index), ceremony=seeded("c"), threshold=3, use=b"test", constant=constant.value(index)
            ).images(),
        )
        for index in (4, 2)
    ]
    assert weigh_commitments(dealt)[0] == constant.images()[0]
    assert len(weigh_commitments(dealt)) == 3


# --- dealing ----------------------------------------------------------------------------------------------


def test_a_pad_is_of_one_pair_only() -> None:
    words: dict[str, Any] = {"ceremony": seeded("c"), "dealer": 1, "recipient": 2, "shared": BASE}
    changed = (
        {"ceremony": seeded("d")},
        {"dealer": 3},
        {"recipient": 3},
        {"dealer": 2, "recipient": 1},
        {"shared": P2},
    )
    pads = [pad_of(**words), *(pad_of(**(words | change)) for change in changed)]
    assert len(dict.fromkeys(pads)) == len(pads)
    assert all(len(pad) == 64 for pad in pads)


P2 = mul(scalar_from_int(2), BASE)


def test_a_pair_that_is_not_two_scalars_does_not_open() -> None:
    pad = pad_of(ceremony=seeded("c"), dealer=1, recipient=2, shared=BASE)
    assert open_dealt(mask_dealt(ZERO + ONE, pad), pad) == (ZERO, ONE)
    assert open_dealt(mask_dealt(NOT_A_SCALAR + ONE, pad), pad) is None
    assert open_dealt(mask_dealt(ONE + NOT_A_SCALAR, pad), pad) is None


def test_a_pedersen_commitment_takes_zero() -> None:
    assert pedersen(ZERO, ZERO) == IDENTITY
    assert pedersen(ONE, ZERO) == GENERATOR
    assert pedersen(ZERO, ONE) == SECOND
    assert pedersen(ONE, scalar_negate(ONE)) == sub(GENERATOR, SECOND)


class Dealt:
    """One pair, from dealer 1 to recipient 2, and everything about it."""

    def __init__(self, lie: Lie | None = None, *, kind: str = "dkg") -> None:
        self.ceremony = seeded("dealt")
        self.dealer = CeremonyKey(seeded("dealer"), ceremony=self.ceremony)
        self.recipient = CeremonyKey(seeded("recipient"), ceremony=self.ceremony)
        recipients = [Recipient(index=2, key=self.recipient.public)]
        if kind == "dkg":
            deal = dkg.make_deal(seeded("dealer"), ceremony=self.ceremony, threshold=3, dealer=1, recipients=recipients)
        else:
            deal = resharing.make_deal(
                seeded("dealer"),
                ceremony=self.ceremony,
                threshold=3,
                share=SECRET,
                dealer=1,
                recipients=recipients,
            )
        deal = lied(deal, lie, 0)
        self.commitments = deal.commitments
        self.extracted = dkg.extract(seeded("dealer"), ceremony=self.ceremony, threshold=3)
        self.received = Received(
            dealer=1, key=self.dealer.public, commitments=deal.commitments, ciphertext=deal.ciphertexts[0]
        )
        self.delivery = Delivery(
            ceremony=self.ceremony,
            dealer=1,
            dealer_key=self.dealer.public,
            recipient=2,
            recipient_key=self.recipient.public,
            ciphertext=deal.ciphertexts[0],
        )
        self.complaint = self.recipient.complain(self.received, recipient=2)


@pytest.mark.parametrize("lie", [Lie.FALSE_PAIR, Lie.NO_SCALARS])
def test_a_complaint_about_a_false_pair_holds(lie: Lie) -> None:
    case = Dealt(lie)
    assert deal_complaint_holds(case.complaint, case.delivery, case.commitments)
    assert not extract_complaint_holds(case.complaint, case.delivery, case.commitments, case.extracted)
    again = Dealt(lie, kind="resharing")
    assert reshare_complaint_holds(again.complaint, again.delivery, again.commitments)


def test_a_complaint_about_a_sound_pair_does_not_hold() -> None:
    case = Dealt()
    assert not deal_complaint_holds(case.complaint, case.delivery, case.commitments)
    assert not extract_complaint_holds(case.complaint, case.delivery, case.commitments, case.extracted)
    again = Dealt(kind="resharing")
    assert not reshare_complaint_holds(again.complaint, again.delivery, again.commitments)


def test_a_complaint_about_another_polynomials_public_part_holds() -> None:
    case = Dealt()
    other = dkg.extract(seeded("other"), ceremony=case.ceremony, threshold=3)
    assert extract_complaint_holds(case.complaint, case.delivery, case.commitments, other)
    # The public part is the right one in all places but one.
    mixed = (*case.extracted[:2], other[2])
    assert extract_complaint_holds(case.complaint, case.delivery, case.commitments, mixed)


def test_a_resharing_with_a_second_scalar_is_complained_about() -> None:
    case = Dealt(kind="resharing")
    pair = bytearray(case.delivery.ciphertext)
    pair[32] ^= 1
    complaint = replace(case.delivery, ciphertext=bytes(pair))
    assert reshare_complaint_holds(case.complaint, complaint, case.commitments)


@pytest.mark.parametrize(
    "bend",
    [
        lambda c: replace(c, dealer=3),
        lambda c: replace(c, shared=IDENTITY),
        lambda c: replace(c, shared=NOT_A_POINT),
        lambda c: replace(c, shared=add(c.shared, GENERATOR)),
        lambda c: replace(c, proof=replace(c.proof, response=altered(c.proof.response))),
        lambda c: replace(c, proof=replace(c.proof, challenge=ZERO)),
        lambda c: replace(c, proof=PROOF),
    ],
)
@pytest.mark.parametrize("lie", [None, Lie.FALSE_PAIR])
def test_a_complaint_without_its_proof_never_holds(bend: Callable[[Complaint], Complaint], lie: Lie | None) -> None:
    """Attack: claim another shared point, under which any dealer's pair looks false."""
    case, again = Dealt(lie), Dealt(lie, kind="resharing")
    other = dkg.extract(seeded("other"), ceremony=case.ceremony, threshold=3)
    assert not deal_complaint_holds(bend(case.complaint), case.delivery, case.commitments)
    assert not extract_complaint_holds(bend(case.complaint), case.delivery, case.commitments, other)
    assert not reshare_complaint_holds(bend(again.complaint), again.delivery, again.commitments)
    with pytest.raises(BadProof):
        open_complaint(bend(case.complaint), case.delivery)


@pytest.mark.parametrize(
    "change",
    [
        {"ceremony": seeded("other")},
        {"recipient": 3},
        {"recipient_key": BASE},
        {"dealer_key": BASE},
        {"dealer": 2},
    ],
)
def test_a_complaint_is_about_one_pair(change: dict[str, Any]) -> None:
    case = Dealt(Lie.FALSE_PAIR)
    assert not deal_complaint_holds(case.complaint, replace(case.delivery, **change), case.commitments)


def test_the_contexts_of_different_things_differ() -> None:
    words: dict[str, Any] = {"chain_id": CHAIN, "ticket": TICKET, "record": RECORD, "version": 1}
    contexts = [
        join_context(ceremony=TICKET, party=RECORD),
        complaint_context(ceremony=TICKET, dealer=1, recipient=1),
        blinding_context(**words, sender=SENDER),
        share_context(**words, epoch=1, index=1),
        share_context(**words, epoch=1, index=2),
        share_context(**words, epoch=2, index=1),
        share_context(**(words | {"version": 2}), epoch=1, index=1),
        share_context(**(words | {"ticket": SENDER}), epoch=1, index=1),
        share_context(**(words | {"record": SENDER}), epoch=1, index=1),
        share_context(**(words | {"chain_id": "other"}), epoch=1, index=1),
    ]
    assert len(dict.fromkeys(contexts)) == len(contexts)


# --- capsules ---------------------------------------------------------------------------------------------


def test_a_capsule_holds_for_its_label() -> None:
    check_capsule(CAPSULE, LABEL)
    assert decode_capsule(CAPSULE.encode()) == CAPSULE
    assert len(CAPSULE.encode()) < CAPSULE_SIZE_BYTES


LABEL_CHANGES: tuple[dict[str, Any], ...] = (
    {"chain_id": "quorum-tesu"},
    {"chain_id": "医院"},
    {"pseudonym": seeded("x")},
    {"record": seeded("x")},
    {"pseudonym": LABEL.record, "record": LABEL.pseudonym},
    {"version": 2},
    {"category": 3},
    {"sensitivity": 2},
    {"category": LABEL.sensitivity, "sensitivity": LABEL.category},
    {"day": 45_001},
)


@pytest.mark.parametrize("change", LABEL_CHANGES)
def test_a_capsule_under_another_label_is_refused(change: dict[str, Any]) -> None:
    other = replace(LABEL, **change)
    assert label_bytes(other) != label_bytes(LABEL)
    with pytest.raises(BadCapsule) as refused:
        check_capsule(CAPSULE, other)
    assert refused.value.flaw is CapsuleFlaw.LABEL
    # And with the label's bytes exchanged, the proof no longer holds.
    with pytest.raises(BadCapsule) as refused:
        check_capsule(replace(CAPSULE, label=label_bytes(other)), other)
    assert refused.value.flaw is CapsuleFlaw.PROOF


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"masked": altered(CAPSULE.masked)},
        {"r_point": BASE},
        {"r_bar": BASE},
        {"r_point": IDENTITY, "r_bar": IDENTITY},
        {"r_point": NOT_A_POINT},
        {"r_point": CAPSULE.r_bar, "r_bar": CAPSULE.r_point},
        {"challenge": altered(CAPSULE.challenge)},
        {"response": altered(CAPSULE.response)},
        {"challenge": ZERO},
        {"response": NOT_A_SCALAR},
    ],
)
def test_an_altered_capsule_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadCapsule) as refused:
        check_capsule(replace(CAPSULE, **change), LABEL)
    assert refused.value.flaw is CapsuleFlaw.PROOF


def test_a_capsule_made_from_anothers_is_refused() -> None:
    """Attack: add what one knows to somebody else's R, keep the mask, and ask for it under one's own label."""
    more = hash_to_scalar("test/more")
    shifted = replace(
        CAPSULE, r_point=add(CAPSULE.r_point, base_mul(more)), r_bar=add(CAPSULE.r_bar, mul(more, SECOND))
    )
    proof = prove_dleq(
        more,
        context=seeded("any"),
        base1=GENERATOR,
        value1=shifted.r_point,
        base2=SECOND,
        value2=shifted.r_bar,
        entropy=b"",
    )
    for capsule in (shifted, replace(shifted, challenge=proof.challenge, response=proof.response)):
        with pytest.raises(BadCapsule):
            check_capsule(capsule, LABEL)


@pytest.mark.parametrize(
    ("data", "flaw"),
    [
        (b"", CapsuleFlaw.FORM),
        (CAPSULE.encode()[:-1], CapsuleFlaw.FORM),
        (CAPSULE.encode() + b"\x00", CapsuleFlaw.FORM),
        (bytes(CAPSULE_SIZE_BYTES + 1), CapsuleFlaw.FORM),
        (b"\xdc\x00\x07" + CAPSULE.encode()[1:], CapsuleFlaw.FORM),
        (replace(CAPSULE, masked=bytes(31)).encode(), CapsuleFlaw.FORM),
        (replace(CAPSULE, r_point=bytes(33)).encode(), CapsuleFlaw.FORM),
        (replace(CAPSULE, version=2).encode(), CapsuleFlaw.VERSION),
        (replace(CAPSULE, version=0).encode(), CapsuleFlaw.VERSION),
    ],
)
def test_a_capsule_has_one_form(data: bytes, flaw: CapsuleFlaw) -> None:
    with pytest.raises(BadCapsule) as refused:
        decode_capsule(data)
    assert refused.value.flaw is flaw


# --- release ----------------------------------------------------------------------------------------------


WORDS: dict[str, Any] = {"chain_id": CHAIN, "ticket": TICKET, "record": RECORD, "version": 1, "sender": SENDER}


@pytest.mark.parametrize(
    "change",
    [
        {"chain_id": "other"},
        {"ticket": seeded("x")},
        {"record": seeded("x")},
        {"version": 2},
        {"sender": seeded("x")},
        {"ticket": RECORD, "record": TICKET},
    ],
)
def test_a_blinding_is_for_one_ticket_record_version_and_sender(change: dict[str, Any]) -> None:
    check_blinding(BLINDED.blinding, context=blinding_context(**WORDS))
    with pytest.raises(BadProof):
        check_blinding(BLINDED.blinding, context=blinding_context(**(WORDS | change)))


def test_a_blinding_chosen_as_a_function_of_another_records_capsule_cannot_be_proved() -> None:
    """Attack: with Q = R2 - R1 + q·G the shares of record 1 would be those of record 2, which no ticket covers."""
    other = sealed(EPOCH, label=replace(LABEL, record=seeded("2")), entropy=seeded("2"))
    q = hash_to_scalar("test/q")
    q_point = add(sub(other.r_point, CAPSULE.r_point), base_mul(q))
    q_bar = add(sub(other.r_bar, CAPSULE.r_bar), mul(q, SECOND))
    assert add(CAPSULE.r_point, q_point) == add(other.r_point, base_mul(q))
    context = blinding_context(**WORDS)
    own = prove_dleq(q, context=context, base1=GENERATOR, value1=q_point, base2=SECOND, value2=q_bar, entropy=b"")
    taken = DleqProof(challenge=other.challenge, response=other.response)
    for proof in (own, taken, BLINDED.blinding.proof):
        with pytest.raises(BadProof):
            check_blinding(Blinding(q_point=q_point, q_bar=q_bar, proof=proof), context=context)


def test_a_capsules_proof_is_none_of_a_blinding() -> None:
    """Attack: show the capsule's own R as Q, with the proof that its writer gave."""
    copied = Blinding(
        q_point=CAPSULE.r_point,
        q_bar=CAPSULE.r_bar,
        proof=DleqProof(challenge=CAPSULE.challenge, response=CAPSULE.response),
    )
    with pytest.raises(BadProof):
        check_blinding(copied, context=blinding_context(**WORDS))


def test_a_blinding_that_cancels_the_capsule_is_refused() -> None:
    cancelling = replace(BLINDED.blinding, q_point=sub(IDENTITY, CAPSULE.r_point))
    with pytest.raises(BadElement):
        combined_point(CAPSULE, cancelling)


def test_a_share_holds_for_its_holder_only() -> None:
    sound = statement(EPOCH, 2, CAPSULE, BLINDED)
    check_statement(CHAIN, sound, holder_key=EPOCH.keys[2])
    with pytest.raises(BadProof):
        check_statement(CHAIN, sound, holder_key=EPOCH.keys[1])


@pytest.mark.parametrize(
    "bend",
    [
        lambda s: replace(s, ticket=seeded("x")),
        lambda s: replace(s, record=seeded("x")),
        lambda s: replace(s, version=2),
        lambda s: replace(s, combined=BASE),
        lambda s: replace(s, combined=IDENTITY),
        lambda s: replace(s, share=replace(s.share, epoch=2)),
        lambda s: replace(s, share=replace(s.share, index=1)),
        lambda s: replace(s, share=replace(s.share, point=BASE)),
        lambda s: replace(s, share=replace(s.share, point=IDENTITY)),
        lambda s: replace(s, share=replace(s.share, point=NOT_A_POINT)),
        lambda s: replace(s, share=replace(s.share, proof=PROOF)),
        lambda s: replace(s, share=replace(s.share, proof=replace(s.share.proof, challenge=ZERO))),
    ],
)
def test_an_altered_share_is_false_and_has_another_signature(bend: Callable[[Any], Any]) -> None:
    sound = statement(EPOCH, 2, CAPSULE, BLINDED)
    with pytest.raises(BadProof):
        check_statement(CHAIN, bend(sound), holder_key=EPOCH.keys[2])
    assert statement_bytes(CHAIN, bend(sound)) != statement_bytes(CHAIN, sound)


def test_a_share_is_of_one_chain() -> None:
    sound = statement(EPOCH, 2, CAPSULE, BLINDED)
    with pytest.raises(BadProof):
        check_statement("other", sound, holder_key=EPOCH.keys[2])
    assert statement_bytes("other", sound) != statement_bytes(CHAIN, sound)


def test_the_exceptions_repeat_nothing() -> None:
    for flaw in CapsuleFlaw:
        assert str(BadCapsule(flaw)) == flaw.value
