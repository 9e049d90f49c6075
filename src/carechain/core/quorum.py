"""The quorum key, as far as everybody can check it: proofs, dealt shares, capsules, blindings and release shares.

Nothing here holds a secret and nothing draws randomness, so contracts, keyholders, requesters and auditors run the same
code. The protocol, with its sources and what it does not protect against, is written down in
``docs/internals/quorum.md``; the secret side is ``carechain.sealing.quorum``.

Notation: G is ``group.GENERATOR``, H is ``group.SECOND``; holders have indices 1 to n, and t of them open a capsule.
Every proof is bound to a context: 32 bytes from a hash with its own tag for each kind of proof, over everything that
the proof is about besides its points. So no proof passes for one of another kind, place or ceremony.
"""

from collections.abc import Sequence
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Final

from msgspec import Meta, Struct, msgpack

from carechain.core.codec import Malformed, decode_strict, encode
from carechain.core.group import (
    GENERATOR,
    IDENTITY,
    ORDER,
    SECOND,
    ZERO,
    BadElement,
    Point,
    Scalar,
    add,
    base_mul,
    hash_to_scalar,
    mul,
    require_point,
    require_scalar,
    same,
    scalar_add,
    scalar_from_int,
    scalar_mul,
    sub,
    weighted_sum,
    wide_hash,
)
from carechain.core.hashing import tagged
from carechain.core.ids import U8, U32, Hash, PartyId, RecordId, TicketId
from carechain.core.limits import CAPSULE_SIZE_BYTES, CHAIN_ID_CHARS
from carechain.core.scope import Day

DEALT_SIZE: Final = 64
CAPSULE_VERSION: Final = 1
LAST_INDEX: Final = 0xFF

Dealt = Annotated[bytes, Meta(min_length=DEALT_SIZE, max_length=DEALT_SIZE)]
"""A dealt pair of scalars under its one-time pad."""


class BadProof(Exception):  # noqa: N818 - names what is wrong with the argument
    """The proof does not hold for these points in this context, or one of them is not what it should be."""


class CapsuleFlaw(StrEnum):
    """What is wrong with a capsule."""

    FORM = "form"
    VERSION = "version"
    LABEL = "label"
    PROOF = "proof"


class BadCapsule(Exception):  # noqa: N818 - names what is wrong with the argument
    """The capsule is not to be used; ``flaw`` says why and repeats nothing of it."""

    def __init__(self, flaw: CapsuleFlaw) -> None:
        super().__init__(flaw.value)
        self.flaw = flaw


# --- proofs -----------------------------------------------------------------------------------------------


class DleqProof(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """Two points have one and the same logarithm to two bases, and the prover knows it (Chaum and Pedersen 1992)."""

    challenge: Scalar
    response: Scalar


class KeyProof(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """The prover knows the logarithm of a point to the base G (Schnorr 1991)."""

    challenge: Scalar
    response: Scalar


def dleq_challenge(context: bytes, statement: Sequence[bytes], commitments: Sequence[bytes]) -> bytes:
    """The challenge over everything public: context, (base1, value1, base2, value2) and the two commitments."""
    return hash_to_scalar("carechain/dleq/1", context, *statement, *commitments)


def key_challenge(context: bytes, key: bytes, commitment: bytes) -> bytes:
    """The challenge of a :class:`KeyProof`, over everything public."""
    return hash_to_scalar("carechain/key-proof/1", context, GENERATOR, key, commitment)


def check_dleq(*, context: bytes, base1: bytes, value1: bytes, base2: bytes, value2: bytes, proof: DleqProof) -> None:
    """Raise :class:`BadProof` unless value1 = x·base1 and value2 = x·base2 for one x that the prover knew.

    Every point is multiplied by a scalar that is not zero, so bytes that encode no point, and the identity, are
    refused on the way. Costs four multiplications and two additions.
    """
    try:
        first = _commitment(base1, value1, proof.challenge, proof.response)
        second = _commitment(base2, value2, proof.challenge, proof.response)
    except BadElement:
        raise BadProof from None
    if not same(dleq_challenge(context, (base1, value1, base2, value2), (first, second)), proof.challenge):
        raise BadProof


def check_key_proof(*, context: bytes, key: bytes, proof: KeyProof) -> None:
    """Raise :class:`BadProof` unless whoever made the proof knew the logarithm of ``key``."""
    try:
        commitment = _commitment(GENERATOR, key, proof.challenge, proof.response)
    except BadElement:
        raise BadProof from None
    if not same(key_challenge(context, key, commitment), proof.challenge):
        raise BadProof


def _commitment(base: bytes, value: bytes, challenge: bytes, response: bytes) -> bytes:
    """What the prover must have committed to: response·base - challenge·value."""
    require_scalar(challenge, nonzero=True)
    require_scalar(response, nonzero=True)
    answer = base_mul(response) if base == GENERATOR else mul(response, base)
    return sub(answer, mul(challenge, value))


# --- shared secrets ---------------------------------------------------------------------------------------


def default_threshold(holders: int) -> int:
    """2f + 1 of n, where f = (n - 1) // 3 are allowed to be bad."""
    return 2 * ((holders - 1) // 3) + 1


def threshold_fits(holders: int, threshold: int) -> bool:
    """Whether f bad holders can neither open anything (f < t) nor keep the others from it (t <= n - f)."""
    bad = (holders - 1) // 3
    return 1 <= holders <= LAST_INDEX and bad + 1 <= threshold <= holders - bad


def lagrange(indices: Sequence[int], index: int, at: int = 0) -> bytes:
    """The weight of ``index`` when a polynomial known at ``indices`` is evaluated at ``at``.

    Raises ``ValueError`` where the indices are not distinct numbers from 1 to 255, or ``index`` is none of them.
    """
    return _lagrange(tuple(indices), index, at)


@lru_cache(maxsize=4096)
def _lagrange(indices: tuple[int, ...], index: int, at: int) -> bytes:
    _require_indices(indices)
    if index not in indices:
        raise ValueError("this index has no part in the sum")
    above = below = 1
    for other in indices:
        if other != index:
            above = above * (at - other) % ORDER
            below = below * (index - other) % ORDER
    return scalar_from_int(above * pow(below, -1, ORDER))


def _require_indices(indices: Sequence[int]) -> None:
    if len(dict.fromkeys(indices)) != len(indices) or not all(1 <= one <= LAST_INDEX for one in indices):
        raise ValueError("indices are distinct numbers from 1 to 255")


def require_commitments(commitments: Sequence[bytes], threshold: int) -> None:
    """Raise :class:`BadElement` unless these are ``threshold`` points: what a deal or an extraction must bring."""
    if len(commitments) != threshold:
        raise BadElement
    for commitment in commitments:
        require_point(commitment)


def evaluate(commitments: Sequence[bytes], index: int) -> bytes:
    """The sum of index^k · commitments[k]: the public image of a polynomial's value at ``index``.

    The commitments are points that went through :func:`require_commitments`. Whoever chose them may have aimed for the
    identity, so the result may be ``IDENTITY``, which stands for the value zero.
    """
    if not 1 <= index <= LAST_INDEX:
        raise ValueError("indices are numbers from 1 to 255")
    at, total = scalar_from_int(index), IDENTITY
    for commitment in reversed(commitments):
        total = commitment if total == IDENTITY else add(total if index == 1 else mul(at, total), commitment)
    return total


def add_commitments(dealt: Sequence[Sequence[bytes]]) -> tuple[bytes, ...]:
    """The commitments to the sum of several dealers' polynomials, all of one length; one may be ``IDENTITY``."""
    one = scalar_from_int(1)
    return tuple(weighted_sum([one] * len(dealt), column) for column in zip(*dealt, strict=True))


def weigh_commitments(dealt: Sequence[tuple[int, Sequence[bytes]]]) -> tuple[bytes, ...]:
    """The commitments to the polynomial that a resharing gives: each dealer's, times its weight at zero.

    ``dealt`` names (index of the old holder, its commitments). Where each first commitment is the old holder's key, the
    first of the result is the old public key.
    """
    indices = [index for index, _ in dealt]
    weights = [lagrange(indices, index) for index in indices]
    return tuple(weighted_sum(weights, column) for column in zip(*(row for _, row in dealt), strict=True))


def rebuild_commitments(shares: Sequence[tuple[int, bytes]]) -> tuple[bytes, ...]:
    """The Feldman commitments of the only polynomial of degree len(shares) - 1 through (index, value).

    What replaces the word of a dealer that fell silent or lied after it had dealt. One may be ``IDENTITY``.
    """
    indices = [index for index, _ in shares]
    _require_indices(indices)
    total = [ZERO] * len(shares)
    for index, value in shares:
        factors = [ZERO] * len(shares)
        factors[0] = scalar_mul(value, _inverse_of_differences(index, indices))
        for other in indices:
            if other != index:
                factors = _times_linear(factors, other)
        total = [scalar_add(a, b) for a, b in zip(total, factors, strict=True)]
    return tuple(IDENTITY if coefficient == ZERO else base_mul(coefficient) for coefficient in total)


def _inverse_of_differences(index: int, indices: Sequence[int]) -> bytes:
    product = 1
    for other in indices:
        if other != index:
            product = product * (index - other) % ORDER
    return scalar_from_int(pow(product, -1, ORDER))


def _times_linear(factors: list[bytes], root: int) -> list[bytes]:
    """The polynomial times (z - root), cut to the same number of factors: the highest one was zero."""
    minus = scalar_from_int(-root)
    shifted = [ZERO, *factors[:-1]]
    return [scalar_add(scalar_mul(minus, kept), moved) for kept, moved in zip(factors, shifted, strict=True)]


# --- dealing ----------------------------------------------------------------------------------------------


def join_context(*, ceremony: bytes, party: bytes) -> bytes:
    """What a proof of a one-ceremony key is bound to: without it a key could be made from somebody else's."""
    return tagged("carechain/ceremony-join/1", ceremony, party)


def pad_of(*, ceremony: bytes, dealer: int, recipient: int, shared: bytes) -> bytes:
    """The 64-byte pad of one dealt pair; ``shared`` is the product of both one-ceremony keys (Diffie-Hellman).

    A pad is used once: a dealer deals one pair to one recipient in one ceremony, always the same.
    """
    return wide_hash("carechain/dealt-pad/1", ceremony, bytes([dealer]), bytes([recipient]), shared)


def mask_dealt(pair: bytes, pad: bytes) -> bytes:
    """A pair of scalars (64 bytes) under its pad, and back."""
    return bytes(a ^ b for a, b in zip(pair, pad, strict=True))


def open_dealt(ciphertext: bytes, pad: bytes) -> tuple[bytes, bytes] | None:
    """The dealt pair (s, s'), or None where it is not two scalars: then the dealer is to be complained about."""
    pair = mask_dealt(ciphertext, pad)
    try:
        return require_scalar(pair[:32]), require_scalar(pair[32:])
    except BadElement:
        return None


def pedersen(value: bytes, blind: bytes) -> bytes:
    """value·G + blind·H: says nothing about ``value``, and nobody can open it to another (Pedersen 1991)."""
    return weighted_sum((value, blind), (GENERATOR, SECOND))


def check_pedersen(commitments: Sequence[bytes], index: int, value: bytes, blind: bytes) -> bool:
    """Whether the dealt pair is what the dealer committed to for this index."""
    return same(pedersen(value, blind), evaluate(commitments, index))


def check_feldman(commitments: Sequence[bytes], index: int, value: bytes) -> bool:
    """Whether the dealt value is what the dealer committed to for this index (Feldman 1987)."""
    return same(IDENTITY if value == ZERO else base_mul(value), evaluate(commitments, index))


class Complaint(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """A recipient shows everybody what the dealer ``dealer`` sent it.

    ``shared`` is the product of their one-ceremony keys, which opens the pair on the ledger; ``proof`` shows that.
    """

    dealer: U8
    shared: Point
    proof: DleqProof


class Delivery(Struct, frozen=True, kw_only=True):
    """One dealt pair as the ledger has it: both indices, both one-ceremony keys, and the ciphertext."""

    ceremony: bytes
    dealer: int
    dealer_key: bytes
    recipient: int
    recipient_key: bytes
    ciphertext: bytes


def complaint_context(*, ceremony: bytes, dealer: int, recipient: int) -> bytes:
    """What the proof of a complaint is bound to."""
    return tagged("carechain/complaint/1", ceremony, bytes([dealer]), bytes([recipient]))


def open_complaint(complaint: Complaint, delivery: Delivery) -> tuple[bytes, bytes] | None:
    """The pair that a complaint opens, or None where it is not two scalars.

    Raises :class:`BadProof` where ``shared`` is not proved, or the complaint is about another dealer.
    """
    if complaint.dealer != delivery.dealer:
        raise BadProof
    dealer, recipient = delivery.dealer, delivery.recipient
    check_dleq(
        context=complaint_context(ceremony=delivery.ceremony, dealer=dealer, recipient=recipient),
        base1=GENERATOR,
        value1=delivery.recipient_key,
        base2=delivery.dealer_key,
        value2=complaint.shared,
        proof=complaint.proof,
    )
    pad = pad_of(ceremony=delivery.ceremony, dealer=dealer, recipient=recipient, shared=complaint.shared)
    return open_dealt(delivery.ciphertext, pad)


def deal_complaint_holds(complaint: Complaint, delivery: Delivery, commitments: Sequence[bytes]) -> bool:
    """Judging deals of a key generation: the opened pair is not what the Pedersen commitments say."""
    try:
        pair = open_complaint(complaint, delivery)
    except BadProof:
        return False
    return pair is None or not check_pedersen(commitments, delivery.recipient, *pair)


def extract_complaint_holds(
    complaint: Complaint, delivery: Delivery, commitments: Sequence[bytes], extracted: Sequence[bytes]
) -> bool:
    """Checking extractions: the opened pair fits the Pedersen commitments, and not the extracted ones.

    A pair that never fitted the Pedersen commitments was to be complained about when deals were judged.
    """
    try:
        pair = open_complaint(complaint, delivery)
    except BadProof:
        return False
    return (
        pair is not None
        and check_pedersen(commitments, delivery.recipient, *pair)
        and not check_feldman(extracted, delivery.recipient, pair[0])
    )


def reshare_complaint_holds(complaint: Complaint, delivery: Delivery, commitments: Sequence[bytes]) -> bool:
    """Judging deals of a resharing: the opened value is not what the Feldman commitments say, or s' is not zero."""
    try:
        pair = open_complaint(complaint, delivery)
    except BadProof:
        return False
    return pair is None or pair[1] != ZERO or not check_feldman(commitments, delivery.recipient, pair[0])


# --- capsules ---------------------------------------------------------------------------------------------


class Label(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """What a capsule is bound to: the policy under which it opens. Read from the anchor, never from a request."""

    chain_id: Annotated[str, Meta(min_length=1, max_length=CHAIN_ID_CHARS)]
    pseudonym: PartyId
    record: RecordId
    version: U32
    category: U8
    sensitivity: U8
    day: Day


def label_bytes(label: Label) -> bytes:
    """32 bytes that stand for the label."""
    return tagged(
        "carechain/capsule-label/1",
        label.chain_id.encode(),
        label.pseudonym,
        label.record,
        label.version.to_bytes(4, "big"),
        bytes([label.category, label.sensitivity]),
        label.day.to_bytes(4, "big"),
    )


class Capsule(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """A record key encrypted to the consortium key (TDH2, Shoup and Gennaro 2002).

    R = r·G and R' = r·H; ``masked`` is the key under a pad from r·X; ``label`` is :func:`label_bytes`. The proof shows
    that whoever made the capsule knew r, and binds it to the label: nothing in it can be changed or reused.
    """

    version: U8
    label: Hash
    r_point: Point
    r_bar: Point
    masked: Annotated[bytes, Meta(min_length=32, max_length=32)]
    challenge: Scalar
    response: Scalar

    def encode(self) -> bytes:
        """The bytes whose SHA-256 the anchor holds."""
        return encode(self)


_CAPSULE: Final = msgpack.Decoder(Capsule)


def decode_capsule(data: bytes) -> Capsule:
    """The capsule that ``data`` encodes, in the one form there is; raises :class:`BadCapsule`. Proves nothing yet."""
    if len(data) > CAPSULE_SIZE_BYTES:
        raise BadCapsule(CapsuleFlaw.FORM)
    try:
        capsule = decode_strict(_CAPSULE, data)
    except Malformed:
        raise BadCapsule(CapsuleFlaw.FORM) from None
    if capsule.version != CAPSULE_VERSION:
        raise BadCapsule(CapsuleFlaw.VERSION)
    return capsule


def capsule_context(*, version: int, label: bytes, masked: bytes) -> bytes:
    """What a capsule's proof is bound to besides R and R'."""
    return tagged("carechain/capsule-proof/1", bytes([version]), label, masked)


def check_capsule(capsule: Capsule, label: Label) -> None:
    """Raise :class:`BadCapsule` unless the capsule was made for this label by somebody who knew what is in it."""
    if capsule.label != label_bytes(label):
        raise BadCapsule(CapsuleFlaw.LABEL)
    try:
        check_dleq(
            context=capsule_context(version=capsule.version, label=capsule.label, masked=capsule.masked),
            base1=GENERATOR,
            value1=capsule.r_point,
            base2=SECOND,
            value2=capsule.r_bar,
            proof=DleqProof(challenge=capsule.challenge, response=capsule.response),
        )
    except BadProof:
        raise BadCapsule(CapsuleFlaw.PROOF) from None


# --- release ----------------------------------------------------------------------------------------------


class Blinding(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """What a requester hides a released key behind: Q = q·G and Q' = q·H for a q that is used for one record only.

    Without the proof a requester could choose Q as a function of another record's R, and be given that one's key.
    """

    q_point: Point
    q_bar: Point
    proof: DleqProof


def blinding_context(*, chain_id: str, ticket: bytes, record: bytes, version: int, sender: bytes) -> bytes:
    """What a blinding is bound to: nobody else's, and none of another ticket, record or version, will do."""
    return tagged("carechain/blinding/1", chain_id.encode(), ticket, record, version.to_bytes(4, "big"), sender)


def check_blinding(blinding: Blinding, *, context: bytes) -> None:
    """Raise :class:`BadProof` unless the requester knows q; ``context`` is :func:`blinding_context`."""
    check_dleq(
        context=context,
        base1=GENERATOR,
        value1=blinding.q_point,
        base2=SECOND,
        value2=blinding.q_bar,
        proof=blinding.proof,
    )


def combined_point(capsule: Capsule, blinding: Blinding) -> bytes:
    """R + Q, which keyholders multiply; raises :class:`BadElement` where it is the identity."""
    combined = add(capsule.r_point, blinding.q_point)
    if combined == IDENTITY:
        raise BadElement
    return combined


class ReleaseShare(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """One keyholder's part: ``point`` is its share times (R + Q); the proof compares it with the holder's key."""

    epoch: U32
    index: U8
    point: Point
    proof: DleqProof


class ShareStatement(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """What a keyholder puts its signature to: this is my share of ``combined`` (R + Q), for this ticket and record."""

    ticket: TicketId
    record: RecordId
    version: U32
    combined: Point
    share: ReleaseShare


def share_context(*, chain_id: str, ticket: bytes, record: bytes, version: int, epoch: int, index: int) -> bytes:
    """What the proof of a release share is bound to."""
    return tagged(
        "carechain/release-share/1",
        chain_id.encode(),
        ticket,
        record,
        version.to_bytes(4, "big"),
        epoch.to_bytes(4, "big"),
        bytes([index]),
    )


def check_share(share: ReleaseShare, *, context: bytes, combined: bytes, holder_key: bytes) -> None:
    """Raise :class:`BadProof` unless the share is the holder's; ``context`` is :func:`share_context`."""
    check_dleq(
        context=context, base1=GENERATOR, value1=holder_key, base2=combined, value2=share.point, proof=share.proof
    )


def check_statement(chain_id: str, statement: ShareStatement, *, holder_key: bytes) -> None:
    """Raise :class:`BadProof` unless the share is right; ``holder_key`` is that of the share's epoch and index."""
    context = share_context(
        chain_id=chain_id,
        ticket=statement.ticket,
        record=statement.record,
        version=statement.version,
        epoch=statement.share.epoch,
        index=statement.share.index,
    )
    check_share(statement.share, context=context, combined=statement.combined, holder_key=holder_key)


def statement_bytes(chain_id: str, statement: ShareStatement) -> bytes:
    """The 32 bytes that the keyholder's member key signs."""
    return tagged("carechain/share-statement/1", chain_id.encode(), encode(statement))
