"""Release: what a keyholder computes for a record, and how a requester puts t answers together.

The keyholder multiplies R + Q and not R: what it sends hides the released key from everyone who does not know q, itself
and its own operator included (the idea of CALYPSO's on-chain secrets, Kokoris-Kogias et al. 2020).
"""

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from msgspec import Struct

from carechain.core.group import (
    GENERATOR,
    IDENTITY,
    SECOND,
    BadElement,
    base_mul,
    hash_to_scalar,
    mul,
    sub,
    weighted_sum,
)
from carechain.core.quorum import (
    BadCapsule,
    BadProof,
    Blinding,
    Capsule,
    CapsuleFlaw,
    Label,
    ReleaseShare,
    ShareStatement,
    blinding_context,
    check_capsule,
    check_statement,
    combined_point,
    decode_capsule,
    lagrange,
    share_context,
)
from carechain.core.rejection import Rejected, require
from carechain.sealing.codes import SealingCode
from carechain.sealing.quorum.capsule import open_with
from carechain.sealing.quorum.proofs import prove_dleq

ENTROPY_SIZE: Final = 32

_CAPSULE_CODES: Final = {
    CapsuleFlaw.FORM: SealingCode.CAPSULE_FORM,
    CapsuleFlaw.VERSION: SealingCode.CAPSULE_NEWER,
    CapsuleFlaw.LABEL: SealingCode.CAPSULE_OTHER_LABEL,
    CapsuleFlaw.PROOF: SealingCode.CAPSULE_UNPROVED,
}


# --- keyholder --------------------------------------------------------------------------------------------


class HolderShare(Protocol):
    """A keyholder's share of the consortium key in one epoch. Whatever implements it shows no secret when printed."""

    @property
    def epoch(self) -> int:
        """Which epoch's."""

    @property
    def index(self) -> int:
        """At which index it is a share, from 1."""

    @property
    def scalar(self) -> bytes:
        """The share itself: 32 bytes, not zero."""


def make_share(
    secret: HolderShare,
    *,
    holder_key: bytes,
    chain_id: str,
    ticket: bytes,
    record: bytes,
    version: int,
    combined: bytes,
    entropy: bytes,
) -> ReleaseShare:
    """The release share of ``combined`` (R + Q), with its proof: three multiplications, one of them of the base.

    ``holder_key`` is the public key of ``secret`` as the ledger has it; ``entropy`` is 32 random bytes. The caller has
    checked everything that allows the release. Raises :class:`~carechain.core.group.BadElement` where ``combined`` is
    not a point.
    """
    point = mul(secret.scalar, combined)
    proof = prove_dleq(
        secret.scalar,
        context=share_context(
            chain_id=chain_id,
            ticket=ticket,
            record=record,
            version=version,
            epoch=secret.epoch,
            index=secret.index,
        ),
        base1=GENERATOR,
        value1=holder_key,
        base2=combined,
        value2=point,
        entropy=entropy,
    )
    return ReleaseShare(epoch=secret.epoch, index=secret.index, point=point, proof=proof)


# --- requester --------------------------------------------------------------------------------------------


class BlindingSecret:
    """The q of one blinding, and the blinding. Used for one record and forgotten; shows its public part only."""

    __slots__ = ("_secret", "blinding")

    def __init__(
        self, *, chain_id: str, ticket: bytes, record: bytes, version: int, sender: bytes, entropy: bytes
    ) -> None:
        """Make a fresh one from 32 random bytes; raises ``ValueError`` for another length.

        Ticket, record, version and sender go in beside the entropy: no two records ever share a q.
        """
        if len(entropy) != ENTROPY_SIZE:
            raise ValueError("a blinding is made from 32 random bytes")
        context = blinding_context(chain_id=chain_id, ticket=ticket, record=record, version=version, sender=sender)
        self._secret = hash_to_scalar("carechain/blinding-secret/1", entropy, context)
        q_point, q_bar = base_mul(self._secret), mul(self._secret, SECOND)
        proof = prove_dleq(
            self._secret,
            context=context,
            base1=GENERATOR,
            value1=q_point,
            base2=SECOND,
            value2=q_bar,
            entropy=entropy,
        )
        self.blinding = Blinding(q_point=q_point, q_bar=q_bar, proof=proof)

    def __repr__(self) -> str:
        return f"BlindingSecret(q_point={self.blinding.q_point.hex()})"

    def taken_off(self, released: bytes, *, public_key: bytes) -> bytes:
        """x·R from x·(R + Q): without q nobody can."""
        return sub(released, mul(self._secret, public_key))


def read_capsule(data: bytes, label: Label) -> Capsule:
    """The capsule in ``data``, proved to be made for ``label``; raises ``Rejected`` with the code of its flaw."""
    try:
        capsule = decode_capsule(data)
        check_capsule(capsule, label)
    except BadCapsule as bad:
        raise Rejected(_CAPSULE_CODES[bad.flaw]) from None
    return capsule


class Asked(Struct, frozen=True, kw_only=True):
    """What a requester asked all keyholders for, with the holders' public keys of the epoch, by index."""

    chain_id: str
    ticket: bytes
    record: bytes
    version: int
    epoch: int
    capsule: Capsule
    blinding: Blinding
    holder_keys: Mapping[int, bytes]


def accept_share(asked: Asked, statement: ShareStatement, *, index: int) -> ReleaseShare:
    """The share in the statement of holder ``index``, if it answers what was asked and holds.

    Raises ``Rejected``. Only with ``SHARE_FALSE`` does the signed statement itself convict its maker
    (``keyring.accuse``); the other codes mean that it answered something else.
    """
    share = statement.share
    about = (statement.ticket, statement.record, statement.version)
    require(about == (asked.ticket, asked.record, asked.version), SealingCode.SHARE_OF_ANOTHER_REQUEST)
    require(share.epoch == asked.epoch, SealingCode.SHARE_OF_ANOTHER_EPOCH)
    require(share.index == index and index in asked.holder_keys, SealingCode.SHARE_OF_ANOTHER_HOLDER)
    try:
        combined = combined_point(asked.capsule, asked.blinding)
    except BadElement:
        raise Rejected(SealingCode.BLINDED_TO_NOTHING) from None
    require(statement.combined == combined, SealingCode.SHARE_OF_ANOTHER_POINT)
    try:
        check_statement(asked.chain_id, statement, holder_key=asked.holder_keys[index])
    except BadProof:
        raise Rejected(SealingCode.SHARE_FALSE) from None
    return share


def combine(
    shares: Sequence[ReleaseShare],
    *,
    threshold: int,
    secret: BlindingSecret,
    public_key: bytes,
    capsule: Capsule,
) -> bytes:
    """The 32-byte record key from shares that :func:`accept_share` let through; the first ``threshold`` are used.

    Raises ``Rejected`` where they are too few, not of one epoch, or one holder's twice.
    """
    require(all(share.epoch == shares[0].epoch for share in shares), SealingCode.SHARES_OF_DIFFERENT_EPOCHS)
    indices = [share.index for share in shares]
    require(len(dict.fromkeys(indices)) == len(indices), SealingCode.SHARE_REPEATED)
    require(len(shares) >= threshold >= 1, SealingCode.TOO_FEW_SHARES)
    chosen, used = indices[:threshold], shares[:threshold]
    try:
        released = weighted_sum([lagrange(chosen, index) for index in chosen], [share.point for share in used])
        shared = secret.taken_off(released, public_key=public_key)
    except BadElement:
        raise Rejected(SealingCode.SHARE_FALSE) from None
    require(shared != IDENTITY, SealingCode.BLINDED_TO_NOTHING)
    return open_with(capsule, public_key=public_key, shared=shared)
