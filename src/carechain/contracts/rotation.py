"""Membership, the handlers of key rotation: a party gets another key and stays who it is (ID-7).

A party's id is made from its first key and never changes, so grants, records and roles stay where they are. The old
key is dead from the same transaction on: every signature is judged by the key that the state has. Members, patients and
representatives change their keys themselves; staff are certified, so their organisation changes theirs.
"""

from collections.abc import Callable

from msgspec import Struct

from carechain.contracts.membership import (
    KeysRow,
    MembershipCode,
    MembershipTables,
    StaffRenewed,
    certify,
    own_member,
    read_certificate,
    staff_party,
)
from carechain.contracts.roles import roles_fit
from carechain.core.binding import Signature
from carechain.core.context import Ctx
from carechain.core.crypto import BadSignature, verify
from carechain.core.hashing import tagged
from carechain.core.ids import U8, party_id
from carechain.core.limits import FORMER_KEYS, FORMER_KEYS_S, KEY_CHANGES_PER_PARTY
from carechain.core.message import Message
from carechain.core.organisation import Certificate
from carechain.core.party import HpkeKey, Party, PublicKey
from carechain.core.rejection import require
from carechain.core.vocabulary import PartyKind


class NewKey(Struct, frozen=True, kw_only=True):
    """The keys a party is to have, and the signature by which their holder agrees."""

    suite: int
    public_key: bytes
    hpke_key: bytes
    proof: bytes


# --- messages -------------------------------------------------------------------------------------------


class RotateKey(Message, frozen=True, tag="membership.rotate_key"):
    """Replace the sender's own key: a member's, a patient's or a representative's (ID-7).

    Signed by the old key; ``proof`` is the new key's signature over
    :func:`rotation_message`.
    """

    suite: U8
    public_key: PublicKey
    hpke_key: HpkeKey
    proof: Signature


class RotateStaff(Message, frozen=True, tag="membership.rotate_staff"):
    """Give an enrolled member of staff a new key, by a certificate that names it under the same party id (ID-7).

    ``proof`` is the new key's signature over :func:`rotation_message`.
    """

    certificate: Certificate
    hpke_key: HpkeKey
    proof: Signature


# --- what a new key signs -------------------------------------------------------------------------------


def rotation_message(*, chain_id: str, party: bytes, suite: int, public_key: bytes, hpke_key: bytes) -> bytes:
    """The 32 bytes that a party's new key signs.

    Nobody takes over a key that somebody else holds, and no reading key is slipped in: all that changes is covered.
    """
    return tagged("carechain/rotate/1", chain_id.encode(), party, bytes([suite]), public_key, hpke_key)


# --- predicates -----------------------------------------------------------------------------------------


def proof_holds(ctx: Ctx, party: bytes, new: NewKey) -> bool:
    """Whether the new key signed exactly this change."""
    wanted = rotation_message(
        chain_id=ctx.chain_id, party=party, suite=new.suite, public_key=new.public_key, hpke_key=new.hpke_key
    )
    try:
        verify(suite=new.suite, public_key=new.public_key, signature=new.proof, message=wanted)
    except BadSignature:
        return False
    return True


# --- handlers -------------------------------------------------------------------------------------------


def rotate_key(ctx: Ctx, tables: MembershipTables, owner_acted: Callable[[Ctx, bytes], None], msg: RotateKey) -> None:
    """Put a new key in the place of the sender's own.

    ``owner_acted`` is told of a patient: whoever changes the key has it, which objects to recoveries that run.
    """
    require(ctx.party.kind is not PartyKind.STAFF, MembershipCode.KEY_OF_STAFF)
    new = NewKey(suite=msg.suite, public_key=msg.public_key, hpke_key=msg.hpke_key, proof=msg.proof)
    _replace(ctx, tables, ctx.sender, ctx.party, new)
    if ctx.party.kind is PartyKind.PSEUDONYM:
        owner_acted(ctx, ctx.sender)


def rotate_staff(ctx: Ctx, tables: MembershipTables, msg: RotateStaff) -> None:
    """Give a member of staff another key, and what its certificate says from now on."""
    organisation, member = own_member(ctx, tables)
    # The certificate is about a new key, so nothing but the organisation's word ties it to the party it names.
    certificate = read_certificate(ctx, tables, organisation, msg.certificate, names=lambda _: True)
    require(roles_fit(member.kind, certificate.roles), MembershipCode.ROLE_NOT_FOR_THIS_KIND)
    party = certificate.party
    row = staff_party(tables, organisation, party)
    new = NewKey(suite=certificate.suite, public_key=certificate.public_key, hpke_key=msg.hpke_key, proof=msg.proof)
    _replace(ctx, tables, party, row, new)
    certify(ctx, tables, organisation, certificate)
    ctx.emit(StaffRenewed(organisation=organisation, party=party, roles=certificate.roles))


def _replace(ctx: Ctx, tables: MembershipTables, party: bytes, row: Party, new: NewKey) -> None:
    history = tables.keys.get(party) or KeysRow()
    require(history.changes < KEY_CHANGES_PER_PARTY, MembershipCode.TOO_MANY_KEY_CHANGES)
    if row.kind is PartyKind.MEMBER and len(history.former) == FORMER_KEYS:
        # Many changes one after the other would let a keyholder get rid of the key under what it signed.
        answered_for = ctx.time_s >= history.former[0].until_s + FORMER_KEYS_S
        require(answered_for, MembershipCode.TOO_MANY_KEY_CHANGES)
    require(not tables.key_taken(party_id(new.suite, new.public_key)), MembershipCode.KEY_IN_USE)
    require(proof_holds(ctx, party, new), MembershipCode.KEY_PROOF_INVALID)
    tables.replace_key(ctx, party, row, suite=new.suite, public_key=new.public_key, hpke_key=new.hpke_key)
