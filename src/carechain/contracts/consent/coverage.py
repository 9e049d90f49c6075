"""Consent, the predicates: what covers a request. The third check of CON-3 is :meth:`Coverage.cover`."""

from collections.abc import Iterator
from typing import Protocol

from msgspec import Struct

from carechain.contracts.consent.schema import (
    Answer,
    ConsentCode,
    ConsentTables,
    GrantRow,
    RepresentativeRow,
    RuleRow,
    Who,
)
from carechain.core.context import Ctx
from carechain.core.decision import DecisionCode, Path, PathKind
from carechain.core.limits import GRANT_DEPTH
from carechain.core.party import Party
from carechain.core.scope import Scope
from carechain.core.vocabulary import ALL_PURPOSES, Action, PartyKind, Power, Purpose, in_mask, subset

GrantPath = tuple[tuple[bytes, GrantRow], ...]
"""Grant ids and rows from the root to the leaf."""
Walked = dict[bytes, GrantPath | None]
"""The paths one decision has walked at one patient. A later decision starts anew: the state may have changed."""


class Membership(Protocol):
    """What consent needs from membership."""

    def party(self, party: bytes) -> Party | None:
        """The party with this id."""

    def put_party(self, party: bytes, row: Party) -> None:
        """Add or replace a party."""

    def key_taken(self, key_id: bytes) -> bool:
        """Whether a key is, or once was, some party's."""

    def has_left(self, party: Party) -> bool:
        """Whether the party was revoked, or its organisation is no longer a member."""

    def kind_of(self, organisation: bytes) -> int | None:
        """The organisation's kind, while it is a member."""


class Records(Protocol):
    """What consent needs from records."""

    def author_of(self, pseudonym: bytes, record: bytes) -> bytes | None:
        """Who wrote both the record's first and its latest version; None where two parties did."""


class Agreements(Protocol):
    """What consent needs from governance."""

    def in_force(self, one: bytes, other: bytes, time_s: int) -> bool:
        """Whether a business associate agreement stands between two organisations."""


def is_live(row: GrantRow, time_s: int) -> bool:
    """Live until its expiry, by block time, unless revoked. Says nothing about the path above."""
    return not row.revoked_s and time_s < row.expires_s


def matches(who: Who, requester: bytes, party: Party, kind: int | None) -> bool:
    """Whether a standing rule is about this requester: every field that is set must match.

    Nobody but its staff acts for an organisation, so a rule whose party is an organisation is about its staff.
    """
    acting_for = party.organisation if party.kind is PartyKind.STAFF else requester
    return (
        who.party in (None, requester, acting_for)
        and (who.organisation is None or who.organisation == party.organisation)
        and (not who.kinds or (kind is not None and in_mask(kind, who.kinds)))
        and (not who.roles or bool(party.roles & who.roles))
    )


def matches_all_staff(who: Who, organisation: bytes, kind: int | None) -> bool:
    """Whether a standing rule is sure to be about everyone who works for an organisation, whatever their roles."""
    return (
        who.party in (None, organisation)
        and who.organisation in (None, organisation)
        and (not who.kinds or (kind is not None and in_mask(kind, who.kinds)))
        and not who.roles
    )


class Sight(Struct, frozen=True):
    """What somebody sees of a patient's records: inside all ``scopes``, for a purpose that no denial takes away."""

    scopes: tuple[Scope, ...]
    purposes: int = ALL_PURPOSES
    denials: tuple[RuleRow, ...] = ()

    def covers(self, *, category: int, sensitivity: int, day: int, record: bytes) -> bool:
        """Whether one record is seen."""
        for scope in self.scopes:
            if not scope.covers(category=category, sensitivity=sensitivity, day=day, record=record):
                return False
        left = self.purposes
        for denial in self.denials:
            if denial.scope.covers(category=category, sensitivity=sensitivity, day=day, record=record):
                left &= ~denial.purposes
        return left != 0


class Coverage:
    """The decisions of consent over its tables and the few reads it needs from other contracts."""

    __slots__ = ("agreements", "membership", "records", "tables")

    def __init__(
        self, *, tables: ConsentTables, membership: Membership, records: Records, agreements: Agreements
    ) -> None:
        self.tables = tables
        self.membership = membership
        self.records = records
        self.agreements = agreements

    def path_to(self, pseudonym: bytes, grant_id: bytes, time_s: int, walked: Walked | None = None) -> GrantPath | None:
        """The grants from the root to ``grant_id`` if every one of them is live; None otherwise.

        A grantor who has left, or who has given up the grant it passed on from, no longer holds anything to pass
        on, so what hangs below is dead; so is what hangs below a grant that no longer permits passing on. With
        ``walked``, an ancestor that several grants share is walked once.
        """
        known: Walked = {} if walked is None else walked
        climbed: list[tuple[bytes, GrantRow]] = []
        current: bytes | None = grant_id
        while current is not None and current not in known:
            row = self.tables.grants.get(pseudonym, current)
            if row is None or not is_live(row, time_s) or len(climbed) >= GRANT_DEPTH:
                known[current] = None
            else:
                climbed.append((current, row))
                current = row.parent
        above = () if current is None else known[current]
        for one, row in reversed(climbed):
            above = self._lengthened(pseudonym, above, one, row)
            known[one] = above
        return above

    def _lengthened(
        self, pseudonym: bytes, above: GrantPath | None, grant_id: bytes, row: GrantRow
    ) -> GrantPath | None:
        """The path ``above`` with one more grant below it, unless its grantor had nothing to pass on."""
        if above is None or len(above) >= GRANT_DEPTH:
            return None
        if row.grantor != pseudonym:
            grantor = self.membership.party(row.grantor)
            if grantor is None or (grantor.kind is PartyKind.STAFF and self.membership.has_left(grantor)):
                return None
            if above and not any(one in above[-1][1].grantees for one in (row.grantor, grantor.organisation)):
                return None
        if above and not above[-1][1].actions & Action.DELEGATE:
            return None
        return (*above, (grant_id, row))

    def representative(self, pseudonym: bytes, who: bytes, time_s: int) -> RepresentativeRow | None:
        """The live powers of ``who`` over ``pseudonym`` (CON-8)."""
        row = self.tables.representatives.get(pseudonym, who)
        return row if row is not None and not row.dismissed_s and time_s < row.expires_s else None

    def represents(self, pseudonym: bytes, who: bytes, time_s: int) -> bool:
        """Whether ``who`` is a live representative of the patient."""
        return self.representative(pseudonym, who, time_s) is not None

    def refuses_to_act(
        self, ctx: Ctx, pseudonym: bytes, power: Power, scope: Scope | None = None, expires_s: int = 0
    ) -> ConsentCode | None:
        """None for the patient, or for a representative with this power (over this scope, until then); else why not.

        What a representative sets ends with the appointment at the latest: nobody gives away time it does not have.
        """
        if ctx.sender == pseudonym:
            return None
        row = self.representative(pseudonym, ctx.sender, ctx.time_s)
        if row is None or not row.powers & power:
            return ConsentCode.SENDER_NOT_GRANTOR
        if scope is not None and not row.scope.contains(scope):
            return ConsentCode.WIDER_THAN_POWERS
        return ConsentCode.OUTLIVES_POWERS if expires_s > row.expires_s else None

    def cover(
        self,
        *,
        pseudonym: bytes,
        requester: bytes,
        party: Party,
        scope: Scope,
        purpose: Purpose,
        action: Action,
        time_s: int,
    ) -> Path | DecisionCode:
        """The path that lets the requester do this, or the reason why there is none.

        The patient comes first, then the patient's denials, then grants, then standing rules, then the
        treatment policy. A denial stops everything it touches, also when it touches only part of the request.
        """
        if requester == pseudonym:
            return Path(kind=PathKind.OWNER)
        if party.kind is PartyKind.REPRESENTATIVE:
            return self._representative_covers(pseudonym, requester, scope, action, time_s)
        if party.kind is PartyKind.PSEUDONYM:
            # A rule about an organisation means its staff, never the other patients registered there.
            return DecisionCode.NO_GRANT
        rules = self.rules_about(pseudonym, requester, party, purpose, time_s)
        if any(rule.answer is Answer.DENY and rule.scope.meets(scope) for _, rule in rules):
            return DecisionCode.DENIED_BY_PATIENT
        by_grant = self._grant_covers(pseudonym, requester, party, scope, purpose, action, time_s)
        if isinstance(by_grant, Path) or action is not Action.READ:
            return by_grant
        if any(rule.answer is Answer.ASK and rule.scope.meets(scope) for _, rule in rules):
            return by_grant
        for number, rule in rules:
            if rule.answer is Answer.ALLOW and rule.scope.contains(scope):
                return Path(kind=PathKind.RULE, rule=number)
        if self.policy_covers(pseudonym, party, scope, 1 << purpose, time_s):
            return Path(kind=PathKind.POLICY)
        return by_grant

    def rules_about(
        self, pseudonym: bytes, requester: bytes, party: Party, purpose: Purpose, time_s: int
    ) -> list[tuple[int, RuleRow]]:
        """The patient's live standing rules about this requester and purpose, by number."""
        kind = self.membership.kind_of(party.organisation)
        return [
            (number, rule)
            for (_, number), rule in self.tables.rules.scan(pseudonym)
            if time_s < rule.expires_s and in_mask(purpose, rule.purposes) and matches(rule.who, requester, party, kind)
        ]

    def denials_about(self, pseudonym: bytes, requester: bytes, party: Party, time_s: int) -> tuple[RuleRow, ...]:
        """The patient's live denials that are about this requester, whatever the purpose."""
        kind = self.membership.kind_of(party.organisation)
        return tuple(
            rule
            for _, rule in self.tables.rules.scan(pseudonym)
            if rule.answer is Answer.DENY and time_s < rule.expires_s and matches(rule.who, requester, party, kind)
        )

    def sights(self, pseudonym: bytes, requester: bytes, party: Party, time_s: int) -> tuple[Sight, ...]:
        """What each live grant lets the requester read, with the patient's denials taken off."""
        denials = self.denials_about(pseudonym, requester, party, time_s)
        found: list[Sight] = []
        for path in self._paths_for(pseudonym, requester, party, time_s):
            if path is not None and all(row.actions & Action.READ for _, row in path):
                purposes = ALL_PURPOSES
                for _, row in path:
                    purposes &= row.purposes
                found.append(Sight(tuple(row.scope for _, row in path), purposes, denials))
        return tuple(found)

    def policy_covers(self, pseudonym: bytes, party: Party, scope: Scope, purposes: int, time_s: int) -> bool:
        """Whether the treatment policy of the genesis lets this person read for all these purposes (CON-6)."""
        policy = self.tables.policy()
        kind = self.membership.kind_of(party.organisation)
        patient = self.membership.party(pseudonym)
        if not policy.enabled or party.kind is not PartyKind.STAFF or kind is None or patient is None:
            return False
        custodian = patient.organisation
        return (
            subset(purposes, policy.purposes)
            and in_mask(kind, policy.kinds)
            and bool(party.roles & policy.roles)
            and policy.scope.contains(scope)
            and (
                not policy.agreement_required
                or party.organisation == custodian
                or self.agreements.in_force(custodian, party.organisation, time_s)
            )
        )

    def may_write(
        self,
        ctx: Ctx,
        *,
        pseudonym: bytes,
        category: int,
        sensitivity: int,
        day: int,
        record: bytes,
        replacing: bool,
    ) -> bool:
        """Whether the sender may add this record: the patient, or a live grant with write or submit (CON-11).

        To submit is to add what is one's own: ``replacing`` what somebody else wrote takes a grant with write.
        """
        if ctx.sender == pseudonym:
            return True
        needed = Action.WRITE if replacing else Action.WRITE | Action.SUBMIT
        return any(
            all(
                row.actions & needed
                and row.scope.covers(category=category, sensitivity=sensitivity, day=day, record=record)
                for _, row in path
            )
            for path in self._paths_for(pseudonym, ctx.sender, ctx.party, ctx.time_s)
            if path is not None
        )

    def _representative_covers(
        self, pseudonym: bytes, who: bytes, scope: Scope, action: Action, time_s: int
    ) -> Path | DecisionCode:
        row = self.representative(pseudonym, who, time_s)
        if row is None:
            return DecisionCode.NO_GRANT
        if action is not Action.READ or not row.powers & Power.READ_RECORDS:
            return DecisionCode.ACTION_NOT_GRANTED
        return Path(kind=PathKind.REPRESENTATIVE) if row.scope.contains(scope) else DecisionCode.SCOPE_NOT_COVERED

    def _grant_covers(
        self,
        pseudonym: bytes,
        requester: bytes,
        party: Party,
        scope: Scope,
        purpose: Purpose,
        action: Action,
        time_s: int,
    ) -> Path | DecisionCode:
        nearest = DecisionCode.NO_GRANT
        for path in self._paths_for(pseudonym, requester, party, time_s):
            failed = _first_gap(path, scope, purpose, action)
            if failed is None and path is not None:
                return Path(kind=PathKind.GRANT, grants=tuple(one for one, _ in path))
            nearest = max(nearest, failed or nearest)
        return nearest

    def _paths_for(self, pseudonym: bytes, holder: bytes, party: Party, time_s: int) -> Iterator[GrantPath | None]:
        """The path of every grant the holder has, through its organisation or by itself; None where it is dead."""
        walked: Walked = {}
        grantees = (party.organisation, holder) if party.kind is PartyKind.STAFF else (holder,)
        for grantee in grantees:
            held = self.tables.held.get(grantee, pseudonym)
            for grant_id in held.grants if held else ():
                yield self.path_to(pseudonym, grant_id, time_s, walked)


def _first_gap(path: GrantPath | None, scope: Scope, purpose: Purpose, action: Action) -> DecisionCode | None:
    if path is None:
        return DecisionCode.GRANT_NOT_LIVE
    for _, row in path:
        if not row.actions & action:
            return DecisionCode.ACTION_NOT_GRANTED
        if not in_mask(purpose, row.purposes):
            return DecisionCode.PURPOSE_NOT_COVERED
        if not row.scope.contains(scope):
            return DecisionCode.SCOPE_NOT_COVERED
    return None
