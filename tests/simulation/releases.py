"""Who may be given what, by plain reckoning; and what attackers and bad keyholders do, for the stories of a release."""

import os
from collections import Counter
from collections.abc import Callable
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from carechain.core import group
from carechain.core.quorum import Blinding, ShareStatement, statement_bytes
from carechain.core.vocabulary import Category, Sensitivity
from carechain.sdk.failures import Unreachable
from carechain.sdk.shares import (
    ShareItem,
    SharesAnswer,
    SharesRequest,
    SignedShare,
    open_shares,
    seal_shares,
)
from carechain.sealing.quorum.release import make_share
from sealed_world import Direct, SealedWorld, Written
from world import CHAIN_ID, Actor, scope_of

# --- the model: what was told to the ledger, and nothing else ---------------------------------------------


class Terms(Struct, frozen=True):
    """Categories and the highest grade that somebody may see."""

    categories: frozenset[Category]
    ceiling: Sensitivity

    def scope(self) -> object:
        return scope_of(*sorted(self.categories), ceiling=self.ceiling)

    def cover(self, category: Category, grade: Sensitivity) -> bool:
        return category in self.categories and grade <= self.ceiling

    def include(self, other: "Terms") -> bool:
        return other.categories <= self.categories and other.ceiling <= self.ceiling


class Known(Struct):
    """A record: every version with its grade, newest last."""

    category: Category
    versions: list[Written]
    grades: list[Sensitivity]
    erased: bool = False


class Promise(Struct):
    """A ticket as it was asked for and answered."""

    requester: str
    terms: Terms
    allowed: bool
    expires_s: int
    key_number: int
    revoked: bool = False


class Model:
    """What may be released, by plain reckoning."""

    def __init__(self) -> None:
        self.records: dict[str, Known] = {}
        self.grants: dict[bytes, tuple[str, Terms]] = {}
        self.tickets: dict[bytes, Promise] = {}
        self.key_numbers: Counter[str] = Counter()
        self.holders: set[str] = set()

    def granted(self, requester: str, terms: Terms) -> bool:
        if requester == "steve":
            return True
        return any(who == requester and held.include(terms) for who, held in self.grants.values())

    def may_release(self, ticket: bytes, requester: str, name: str, version: int, now_s: int) -> bool:
        promise, known = self.tickets.get(ticket), self.records.get(name)
        if promise is None or known is None or known.erased:
            return False
        live = promise.allowed and not promise.revoked and now_s < promise.expires_s
        same = promise.requester == requester and promise.key_number == self.key_numbers[requester]
        grades = (known.grades[version - 1], known.grades[-1])
        inside = all(promise.terms.cover(known.category, grade) for grade in grades)
        return live and same and inside and self.granted(requester, promise.terms)


# --- attacks on one item of a request ---------------------------------------------------------------------


class Attempt(Struct, frozen=True):
    """One item of an honest request, and what an attacker has besides."""

    sealed: SealedWorld
    item: ShareItem
    ticket: bytes
    wanted: Written
    other: Written
    requester: Actor
    before: ShareItem


Attack = Callable[[Attempt], ShareItem]


def remade(item: ShareItem, **fields: object) -> ShareItem:
    values = {"record": item.record, "version": item.version, "capsule": item.capsule, "blinding": item.blinding}
    return ShareItem(**values | fields)


def another_records_capsule(one: Attempt) -> ShareItem:
    """A gatekeeper hands out the capsule of a restricted record under the name of a harmless one."""
    return remade(one.item, capsule=one.other.data)


def an_altered_capsule(one: Attempt) -> ShareItem:
    return remade(one.item, capsule=replace(one.wanted.capsule, masked=bytes(32)).encode())


def a_blinding_for_another_record(one: Attempt) -> ShareItem:
    secret = one.sealed.blinding(one.ticket, one.other, one.requester)
    return remade(one.item, blinding=secret.blinding)


def somebody_elses_blinding(one: Attempt) -> ShareItem:
    return remade(one.item, blinding=one.sealed.blinding(one.ticket, one.wanted, one.sealed.world.dana).blinding)


def a_blinding_used_before(one: Attempt) -> ShareItem:
    return remade(one.item, blinding=one.before.blinding)


def a_rogue_point(one: Attempt) -> ShareItem:
    """Q = R' - R without a proof of its own: the share would be one of another record's R'."""
    q_point = group.sub(one.other.capsule.r_point, one.wanted.capsule.r_point)
    q_bar = group.sub(one.other.capsule.r_bar, one.wanted.capsule.r_bar)
    return remade(one.item, blinding=Blinding(q_point=q_point, q_bar=q_bar, proof=one.item.blinding.proof))


def another_version(one: Attempt) -> ShareItem:
    return remade(one.item, version=one.item.version + 1)


ATTACKS: Final[tuple[Attack, ...]] = (
    another_records_capsule,
    an_altered_capsule,
    a_blinding_for_another_record,
    somebody_elses_blinding,
    a_blinding_used_before,
    a_rogue_point,
    another_version,
)


# --- keyholders that are bad ------------------------------------------------------------------------------


class Bad(Direct):
    """A keyholder whose operator does one of these things with what the honest program computed."""

    WAYS: Final = ("down", "refuses", "garbage", "garbage", "other record", "replayed", "wrong epoch")
    PROVABLE: Final = ("garbage",)

    def __init__(
        self, sealed: SealedWorld, label: str, requester: Actor, way: str, heard: dict[str, list[SignedShare]]
    ) -> None:
        super().__init__(sealed.keyholders[label], requester.id)
        self.sealed = sealed
        self.label = label
        self.requester_keys = requester
        self.way = way
        self.heard = heard

    async def shares(self, request: SharesRequest) -> SharesAnswer:
        if self.way == "down":
            raise Unreachable("ConnectError")
        answer = await super().shares(request)
        if self.way == "refuses":
            raise Unreachable("ReadError")
        who = self.requester_keys
        signed = list(
            open_shares(answer, chain_id=CHAIN_ID, ticket_id=request.ticket, requester=who.id, private_key=who.hpke)
        )
        genuine = signed
        if self.way == "other record":
            signed = signed[1:] + signed[:1] if len(signed) > 1 else [self.of_another_point(signed[0])]
        elif self.way == "replayed":
            signed = self.heard.get(self.label) or [self.of_another_point(one) for one in signed]
        elif self.way == "garbage":
            signed = [self.false(one) for one in signed]
        self.heard[self.label] = genuine
        epoch = answer.epoch + (self.way == "wrong epoch")
        sealed = seal_shares(
            signed,
            chain_id=CHAIN_ID,
            ticket_id=request.ticket,
            requester=who.id,
            epoch=epoch,
            hpke_key=who.hpke.public_key,
            entropy=os.urandom,
        )
        return replace(answer, epoch=epoch, sealed=sealed)

    def false(self, signed: SignedShare) -> SignedShare:
        """A share that does not hold."""
        share = signed.statement.share
        wrong = replace(share, point=group.add(share.point, group.GENERATOR))
        return self.signed(replace(signed.statement, share=wrong))

    def of_another_point(self, signed: SignedShare) -> SignedShare:
        """A share that holds, of something nobody asked about: useless, and no proof of anything."""
        old = signed.statement
        secret = self.sealed.secrets[self.label].share(old.share.epoch)
        assert secret is not None
        combined = group.add(old.combined, group.GENERATOR)
        share = make_share(
            secret,
            holder_key=group.base_mul(secret.scalar),
            chain_id=CHAIN_ID,
            ticket=old.ticket,
            record=old.record,
            version=old.version,
            combined=combined,
            entropy=os.urandom(32),
        )
        return self.signed(replace(old, combined=combined, share=share))

    def signed(self, statement: ShareStatement) -> SignedShare:
        key = getattr(self.sealed.world, self.label).signing
        return SignedShare(statement, key.sign(statement_bytes(CHAIN_ID, statement)))
