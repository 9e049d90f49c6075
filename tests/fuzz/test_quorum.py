"""Goal: whatever bytes are given as a capsule, a proof, a complaint or a share, the answer is typed and never yes.

Method: Hypothesis makes random bytes, sound encodings with bytes exchanged, cut or doubled, and structs put together
from real points and scalars in the wrong places; what is not exactly the sound original must be refused.
"""

from collections.abc import Callable, Sequence

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from carechain.core.codec import Malformed, decode_strict, encode
from carechain.core.group import (
    GENERATOR,
    IDENTITY,
    ORDER,
    SECOND,
    BadElement,
    add,
    mul,
    require_point,
    require_scalar,
    sub,
)
from carechain.core.quorum import (
    BadCapsule,
    BadProof,
    Blinding,
    Capsule,
    Complaint,
    Delivery,
    DleqProof,
    KeyProof,
    ReleaseShare,
    ShareStatement,
    blinding_context,
    check_blinding,
    check_capsule,
    check_key_proof,
    check_statement,
    deal_complaint_holds,
    decode_capsule,
    evaluate,
    extract_complaint_holds,
    join_context,
    open_dealt,
    require_commitments,
    reshare_complaint_holds,
)
from carechain.sealing.quorum import dkg
from carechain.sealing.quorum.dealing import CeremonyKey, Recipient
from quorum_ceremony import CHAIN, LABEL, RECORD, SENDER, TICKET, blinded, generate, sealed, seeded, statement

EPOCH = generate(3, 2).done
CAPSULE = sealed(EPOCH)
BLINDED = blinded()
STATEMENT = statement(EPOCH, 1, CAPSULE, BLINDED)
CEREMONY = seeded("ceremony")
DEALER, RECIPIENT = (CeremonyKey(seeded(name), ceremony=CEREMONY) for name in ("dealer", "recipient"))
DEAL = dkg.make_deal(
    seeded("dealer"),
    ceremony=CEREMONY,
    threshold=2,
    dealer=1,
    recipients=[Recipient(index=2, key=RECIPIENT.public)],
)
DELIVERY = Delivery(
    ceremony=CEREMONY,
    dealer=1,
    dealer_key=DEALER.public,
    recipient=2,
    recipient_key=RECIPIENT.public,
    ciphertext=DEAL.ciphertexts[0],
)
ENCODED = CAPSULE.encode()
quick = settings(max_examples=200)

points = st.one_of(
    st.sampled_from(
        [GENERATOR, SECOND, IDENTITY, CAPSULE.r_point, CAPSULE.r_bar, *EPOCH.keys.values(), STATEMENT.share.point]
    ),
    st.binary(min_size=32, max_size=32),
    st.binary(max_size=40),
)
scalars = st.one_of(
    st.sampled_from([bytes(32), CAPSULE.challenge, CAPSULE.response, STATEMENT.share.proof.challenge]),
    st.integers(0, 2**256 - 1).map(lambda value: value.to_bytes(32, "little")),
    st.integers(ORDER - 2, ORDER + 2).map(lambda value: value.to_bytes(32, "little")),
    st.binary(max_size=40),
)
proofs = st.builds(DleqProof, challenge=scalars, response=scalars)


@st.composite
def bent(draw: st.DrawFn, sound: bytes) -> bytes:
    """The sound bytes with a stretch of them exchanged, cut out or doubled."""
    start = draw(st.integers(0, len(sound)))
    end = draw(st.integers(start, min(len(sound), start + 40)))
    middle = draw(st.one_of(st.just(b""), st.just(sound[start:end] * 2), st.binary(max_size=40)))
    return sound[:start] + middle + sound[end:]


@quick
@given(st.one_of(st.binary(max_size=600), bent(ENCODED)))
@example(ENCODED)
def test_bytes_as_a_capsule(data: bytes) -> None:
    try:
        capsule = decode_capsule(data)
        assert capsule.encode() == data
        check_capsule(capsule, LABEL)
    except BadCapsule:
        assert data != ENCODED
        return
    assert data == ENCODED


@quick
@given(
    st.builds(
        Capsule,
        version=st.integers(0, 255),
        label=st.one_of(st.just(CAPSULE.label), st.binary(min_size=32, max_size=32)),
        r_point=points,
        r_bar=points,
        masked=st.binary(min_size=32, max_size=32),
        challenge=scalars,
        response=scalars,
    )
)
def test_a_capsule_of_pieces(capsule: Capsule) -> None:
    try:
        check_capsule(capsule, LABEL)
    except BadCapsule:
        return
    raise AssertionError("nobody can have made this")


@quick
@given(st.builds(Blinding, q_point=points, q_bar=points, proof=proofs))
def test_a_blinding_of_pieces(blinding: Blinding) -> None:
    context = blinding_context(chain_id=CHAIN, ticket=TICKET, record=RECORD, version=1, sender=SENDER)
    try:
        check_blinding(blinding, context=context)
    except BadProof:
        return
    raise AssertionError("nobody can have made this")


@quick
@given(
    st.builds(
        ShareStatement,
        ticket=st.just(TICKET),
        record=st.just(RECORD),
        version=st.integers(0, 2**32 - 1),
        combined=points,
        share=st.builds(
            ReleaseShare,
            epoch=st.integers(0, 2**32 - 1),
            index=st.integers(0, 255),
            point=points,
            proof=st.one_of(proofs, st.just(STATEMENT.share.proof)),
        ),
    ),
    points,
)
def test_a_share_of_pieces(told: ShareStatement, holder_key: bytes) -> None:
    try:
        check_statement(CHAIN, told, holder_key=holder_key)
    except BadProof:
        return
    assert (told, holder_key) == (STATEMENT, EPOCH.keys[1])


@quick
@given(bent(encode(STATEMENT)))
def test_bytes_as_a_statement(data: bytes) -> None:
    try:
        told = decode_strict(msgspec.msgpack.Decoder(ShareStatement), data)
        check_statement(CHAIN, told, holder_key=EPOCH.keys[1])
    except (Malformed, BadProof):
        return
    assert told == STATEMENT


@quick
@given(st.builds(Complaint, dealer=st.integers(0, 255), shared=points, proof=proofs))
def test_a_complaint_of_pieces_holds_against_nobody(complaint: Complaint) -> None:
    assert not deal_complaint_holds(complaint, DELIVERY, DEAL.commitments)
    assert not extract_complaint_holds(complaint, DELIVERY, DEAL.commitments, (GENERATOR, SECOND))
    assert not reshare_complaint_holds(complaint, DELIVERY, (GENERATOR, SECOND))


@quick
@given(points, st.builds(KeyProof, challenge=scalars, response=scalars))
def test_a_key_of_pieces_is_nobodys(key: bytes, proof: KeyProof) -> None:
    try:
        check_key_proof(context=join_context(ceremony=CEREMONY, party=SENDER), key=key, proof=proof)
    except BadProof:
        return
    raise AssertionError("nobody can have made this")


@quick
@given(st.binary(min_size=64, max_size=64), st.binary(min_size=64, max_size=64))
def test_bytes_as_a_dealt_pair(ciphertext: bytes, pad: bytes) -> None:
    pair = open_dealt(ciphertext, pad)
    if pair is not None:
        assert all(require_scalar(one) == one for one in pair)


@quick
@given(st.lists(points, max_size=4), st.integers(1, 255))
def test_points_as_commitments(commitments: Sequence[bytes], index: int) -> None:
    try:
        require_commitments(commitments, 2)
    except BadElement:
        return
    evaluate(commitments, index)


@quick
@given(st.one_of(st.binary(max_size=40), points), st.one_of(st.binary(max_size=40), scalars))
def test_bytes_as_elements(point: bytes, scalar: bytes) -> None:
    uses: tuple[Callable[[], bytes], ...] = (
        lambda: require_point(point),
        lambda: require_scalar(scalar),
        lambda: add(point, GENERATOR),
        lambda: sub(GENERATOR, point),
        lambda: mul(scalar, point),
    )
    for use in uses:
        try:
            result = use()
        except BadElement:
            continue
        assert len(result) == 32
