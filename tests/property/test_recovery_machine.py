"""Goal: whatever guardians, registrar, cards, owner and thief do, a key changes only as the rules say (ID-7).

Method: Hypothesis drives the real ledger and a model of plain sets and numbers side by side. The model says beforehand
whether each step must succeed; afterwards both must agree on what runs, when it is due, on the policy in force and on
the one key that signs for the pseudonym. The thief has the owner's key: whatever it signs, the owner might have signed.
"""

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from carechain.chain.receipts import OK, code_named
from carechain.chain.tx import AdmissionCode
from carechain.contracts.recovery import RecoveryRules, SetPolicy, due_s
from carechain.core.limits import CONTESTED_WAITS, RECOVERY_OPEN_S
from carechain.core.message import Message
from recoveries import (
    approval_of,
    card_of,
    cards_of,
    finish_of,
    rotation_of,
    start_of,
    terms_of,
    veto_of,
    with_key_of,
    withdrawal_of,
)
from world import Actor, Signer, World, fresh, grant_of

DEFAULT_S = 100
WAITS_S = (20, 100)
GUARDIANS = ("b", "c", "d", "mary")


@dataclass(frozen=True)
class Policy:
    """Who may recover."""

    guardians: frozenset[str] = frozenset()
    needed: int = 0
    cards: bool = False
    registrar: bool = True
    wait_s: int = DEFAULT_S

    @property
    def overridable(self) -> bool:
        return self.registrar and (bool(self.guardians) or self.cards)


@dataclass
class Try:
    """One attempt."""

    key: Actor
    starter: str
    policy: Policy
    begun_s: int
    yes: set[str] = field(default_factory=set)
    enough_s: int = 0
    objected_s: int = 0

    @property
    def others(self) -> bool:
        guardians = self.yes & self.policy.guardians
        return "cards" in self.yes or (0 < self.policy.needed <= len(guardians))

    @property
    def rank(self) -> int:
        return 2 * self.others + ("registrar" in self.yes)

    def settle(self, now_s: int) -> None:
        if self.rank < (3 if self.objected_s else 1):
            self.enough_s = 0
        elif not self.enough_s:
            self.enough_s = now_s

    @property
    def due_s(self) -> int:
        waits = CONTESTED_WAITS if self.objected_s else 1
        return self.enough_s + waits * self.policy.wait_s if self.enough_s else 0

    def runs(self, now_s: int) -> bool:
        return now_s < (self.due_s or max(self.begun_s, self.objected_s)) + RECOVERY_OPEN_S


class RecoveryMachine(RuleBasedStateMachine):
    """Messages about Steve's key from everybody who may have a say, and from some who may not."""

    def __init__(self) -> None:
        super().__init__()
        self.world: World = fresh(recovery=RecoveryRules(min_wait_s=10, default_wait_s=DEFAULT_S))
        self.policy = Policy()
        self.coming: tuple[int, Policy] | None = None
        self.tries: dict[int, Try] = {}
        self.number = 0
        self.keys = 0
        self.steve: Signer = self.world.steve
        self.dead: list[Signer] = []

    # --- helpers ------------------------------------------------------------------------------------------

    @property
    def now_s(self) -> int:
        """The time of the next block."""
        return self.world.time_s + 1

    def signer(self, who: str) -> Signer:
        who = {"registrar": "a", "cards": "f"}.get(who, who)
        found: Signer = self.steve if who == "steve" else getattr(self.world, who)
        return found

    def fresh_key(self) -> Actor:
        self.keys += 1
        return Actor(f"key {self.keys}")

    def send(self, message: Message, by: Signer, *, wanted: bool) -> bool:
        receipt = self.world.run(message, by=by)
        assert (receipt.code == OK) is wanted, (message, code_named(receipt.code))
        return wanted

    def in_force(self) -> Policy:
        return self.coming[1] if self.coming and self.now_s >= self.coming[0] else self.policy

    def running(self) -> dict[int, Try]:
        return {number: one for number, one in self.tries.items() if one.runs(self.now_s)}

    def may(self, who: str, policy: Policy) -> bool:
        return who in policy.guardians or (who == "registrar" and policy.registrar) or (who == "cards" and policy.cards)

    def object_to(self, one: int) -> None:
        held = self.tries[one]
        if not held.policy.overridable:
            del self.tries[one]
            return
        held.objected_s, held.enough_s = self.world.time_s, 0
        held.settle(self.world.time_s)

    @initialize(registrar=st.booleans())
    def begin_with_guardians(self, *, registrar: bool) -> None:
        """Otherwise few runs get as far as two who agree."""
        self.set_policy(guardians={"b", "c"}, needed=2, cards=True, registrar=registrar, wait_s=20, thief=False)
        self.world.wait(DEFAULT_S)

    # --- what happens -------------------------------------------------------------------------------------

    @precondition(lambda self: self.world.height % 4 == 0)
    @rule(
        guardians=st.sets(st.sampled_from(GUARDIANS), max_size=3),
        needed=st.integers(1, 3),
        cards=st.booleans(),
        registrar=st.booleans(),
        wait_s=st.sampled_from(WAITS_S),
        thief=st.booleans(),
    )
    def set_policy(
        self,
        *,
        guardians: set[str],
        needed: int,
        cards: bool,
        registrar: bool,
        wait_s: int,
        thief: bool,
    ) -> None:
        needed = min(needed, len(guardians))
        policy = Policy(frozenset(guardians), needed, cards, registrar, wait_s)
        terms = terms_of(
            *map(self.signer, guardians),
            threshold=needed,
            card=card_of(self.steve) if cards else None,
            by_registrar=registrar,
            wait_s=wait_s,
        )
        if thief and self.dead:
            receipt = self.world.run(SetPolicy(pseudonym=self.steve.id, terms=terms), by=self.dead[-1])
            assert code_named(receipt.code) is AdmissionCode.BAD_SIGNATURE
            return
        now = self.in_force()
        self.send(SetPolicy(pseudonym=self.steve.id, terms=terms), self.steve, wanted=True)
        self.policy, self.coming = now, (self.world.time_s + now.wait_s, policy)

    @rule(who=st.sampled_from(["b", "c", "b", "c", "mary", "registrar", "cards", "e"]))
    def start(self, who: str) -> None:
        policy, key = self.in_force(), self.fresh_key()
        busy = any(one.starter == who for one in self.running().values())
        cards = cards_of(self.steve) if who == "cards" else None
        message = start_of(self.steve, key, attempt=self.number, cards=cards)
        if self.send(message, self.signer(who), wanted=self.may(who, policy) and not busy):
            self.tries = {number: one for number, one in self.tries.items() if one.runs(self.world.time_s)}
            made = Try(key, who, policy, self.world.time_s, {who})
            made.settle(self.world.time_s)
            self.tries[self.number] = made
            self.number += 1

    @precondition(lambda self: self.tries)
    @rule(data=st.data(), who=st.sampled_from([*GUARDIANS, "registrar", "cards"]))
    def approve(self, data: st.DataObject, who: str) -> None:
        number = data.draw(st.sampled_from(sorted(self.tries)))
        one = self.tries[number]
        cards = cards_of(self.steve) if who == "cards" else None
        message = approval_of(self.steve, one.key, attempt=number, cards=cards)
        wanted = one.runs(self.now_s) and self.may(who, one.policy) and who not in one.yes
        if self.send(message, self.signer(who), wanted=wanted):
            one.yes.add(who)
            one.settle(self.world.time_s)

    @precondition(lambda self: self.running())
    @rule(data=st.data())
    def approve_as_one_who_may(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.running())))
        policy = self.tries[number].policy
        voices = [who for who in ("registrar", "cards", *GUARDIANS) if self.may(who, policy)]
        for who in voices[: data.draw(st.integers(1, len(voices)))] if voices else ():
            if who not in self.tries[number].yes:
                cards = cards_of(self.steve) if who == "cards" else None
                message = approval_of(self.steve, self.tries[number].key, attempt=number, cards=cards)
                self.send(message, self.signer(who), wanted=True)
                self.tries[number].yes.add(who)
                self.tries[number].settle(self.world.time_s)

    @precondition(lambda self: self.tries)
    @rule(data=st.data(), who=st.sampled_from([*GUARDIANS, "registrar"]))
    def withdraw(self, data: st.DataObject, who: str) -> None:
        number = data.draw(st.sampled_from(sorted(self.tries)))
        one = self.tries[number]
        wanted = one.runs(self.now_s) and who in one.yes
        if self.send(withdrawal_of(self.steve, number), self.signer(who), wanted=wanted):
            one.yes.discard(who)
            one.settle(self.world.time_s)
            if not one.yes:
                del self.tries[number]

    @precondition(lambda self: self.tries)
    @rule(data=st.data(), who=st.sampled_from(["steve", "steve", "b", "mary"]))
    def veto(self, data: st.DataObject, who: str) -> None:
        number = data.draw(st.sampled_from(sorted(self.tries)))
        one = self.tries[number]
        wanted = one.runs(self.now_s) and who == "steve" and not one.objected_s
        by = self.signer(who)
        receipt = self.world.run(veto_of(self.steve, number), by=by)
        assert (receipt.code == OK) is wanted, code_named(receipt.code)
        if wanted:
            self.object_to(number)

    @precondition(lambda self: self.world.height % 5 == 0)
    @rule()
    def rotate(self) -> None:
        key = self.fresh_key()
        running = self.running()
        self.send(rotation_of(self.steve, key), self.steve, wanted=True)
        self.take(key)
        for number, one in running.items():
            if not one.objected_s:
                self.object_to(number)

    def take(self, key: Actor) -> None:
        self.dead.append(self.steve)
        self.steve = with_key_of(self.steve, key)

    @precondition(lambda self: self.tries)
    @rule(data=st.data(), patience=st.sampled_from([None, -1, 0]))
    def finish(self, *, data: st.DataObject, patience: int | None) -> None:
        number = data.draw(st.sampled_from(sorted(self.tries)))
        one = self.tries[number]
        if patience is not None and one.due_s + patience > self.now_s:
            self.world.block(at=one.due_s + patience - 1)
        rivals = (other for at, other in self.running().items() if at != number and other.enough_s)
        goes_first = all(other.rank <= one.rank for other in rivals)
        wanted = one.runs(self.now_s) and bool(one.enough_s) and self.now_s >= one.due_s and goes_first
        if self.send(finish_of(self.steve, number), self.world.e, wanted=wanted):
            self.take(one.key)
            self.tries = {}
            self.policy, self.coming = one.policy, None

    @rule(seconds=st.sampled_from([5, 20, 100, RECOVERY_OPEN_S]))
    def wait(self, seconds: int) -> None:
        self.world.wait(seconds)

    # --- what must hold -----------------------------------------------------------------------------------

    @invariant()
    def both_agree(self) -> None:
        contracts, now_s = self.world.contracts(), self.world.time_s
        held = {number: due_s(row) for number, row in contracts.recovery.running(self.steve.id, now_s)}
        assert held == {number: one.due_s for number, one in self.tries.items() if one.runs(now_s)}
        terms = contracts.recovery.terms(self.steve.id, self.now_s)
        policy = self.in_force()
        assert (terms.threshold, terms.card is not None, terms.by_registrar, terms.wait_s) == (
            policy.needed,
            policy.cards,
            policy.registrar,
            policy.wait_s,
        )
        party = contracts.membership.party(self.steve.id)
        assert party is not None
        assert party.public_key == self.steve.signing.public_key
        assert self.world.broken() == []

    @invariant()
    def only_the_present_key_signs(self) -> None:
        if not self.dead:
            return
        world = self.world.fork()
        message = grant_of(self.world.steve, self.world.b, expires_s=self.world.time_s + 1000)
        dead = [world.sign(message, by=one) for one in self.dead[-3:]]
        *refused, accepted = world.block(*dead, world.sign(message, by=self.steve))
        assert {one.code for one in refused} == {AdmissionCode.BAD_SIGNATURE}
        assert accepted.code == OK


TestRecovery = RecoveryMachine.TestCase
TestRecovery.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
