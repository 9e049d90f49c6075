"""Goal: every request is decided as patient, policy and consortium have it at that second (CON-3, CON-6, ID-6).

Method: Hypothesis changes grants, standing rules, representatives, agreements, staff and time on the real ledger and in
a model of plain dictionaries. For each request the model names the decision code by itself; ledger, log and open
tickets must agree with it after every step, and "who can see" leaves nobody out whom the model lets read.
"""

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from carechain.chain.receipts import OK
from carechain.contracts.access import EMPTY_LOG, RequestAccess, RevokeTicket, decide, still_allowed
from carechain.contracts.consent.schema import (
    Answer,
    Dismiss,
    DropRule,
    Granted,
    Revoke,
    SetRule,
    TreatmentPolicy,
    Who,
)
from carechain.contracts.consent.views import who_can_see
from carechain.contracts.governance import AcceptAgreement, EndAgreement, OfferAgreement
from carechain.contracts.membership import DismissStaff, RenewStaff
from carechain.core.decision import Path
from carechain.core.message import Message
from carechain.core.scope import Scope
from carechain.core.vocabulary import (
    Action,
    Category,
    OrganisationKind,
    Power,
    Purpose,
    Role,
    Sensitivity,
    mask,
)
from world import DAY_S, LAPSE_DAYS, Actor, Signer, World, appoint_message, fresh, grant_of, seeded

ALLOWED, NOT_LIVE, ROLE, DENIED, NO_GRANT, DEAD, ACTION, PURPOSE, SCOPE = 0, 650, 651, 652, 653, 654, 655, 656, 657
IN_VAIN = 609
TREAT, PAYMENT, RESEARCH, OWN = Purpose.TREAT, Purpose.HPAYMT, Purpose.HRESCH, Purpose.PATRQT
FAMILY = Purpose.FAMRQT
FAR_S = 100 * 365 * DAY_S


@dataclass(frozen=True)
class Person:
    """What the model knows of a requester, written down independently of the ledger's tables."""

    organisation: str
    kind: OrganisationKind
    role: Role
    purposes: frozenset[Purpose]


HOSPITAL, INSURER, GOVERNMENT = OrganisationKind.HOSPITAL, OrganisationKind.INSURER, OrganisationKind.GOVERNMENT
STAFF = {
    "carl": Person("a", HOSPITAL, Role.DOCTOR, frozenset({TREAT, PAYMENT})),
    "nora": Person("a", HOSPITAL, Role.NURSE, frozenset({TREAT})),
    "bert": Person("b", HOSPITAL, Role.DOCTOR, frozenset({TREAT, PAYMENT})),
    "ivan": Person("c", INSURER, Role.INSURANCE_AUDITOR, frozenset({PAYMENT})),
    "rita": Person("f", GOVERNMENT, Role.RESEARCHER, frozenset({RESEARCH})),
    "rosa": Person("a", HOSPITAL, Role.REGISTRAR, frozenset()),
}
REQUESTERS = [*STAFF, "steve", "mary", "aunt"]


@dataclass(frozen=True)
class Area:
    """A part of the record: categories, ceiling, days."""

    categories: frozenset[Category]
    ceiling: Sensitivity
    first_day: int
    last_day: int

    def holds(self, inner: "Area") -> bool:
        return (
            inner.categories <= self.categories
            and inner.ceiling <= self.ceiling
            and self.first_day <= inner.first_day <= inner.last_day <= self.last_day
        )

    def touches(self, other: "Area") -> bool:
        days = max(self.first_day, other.first_day) <= min(self.last_day, other.last_day)
        return bool(self.categories & other.categories) and days

    def scope(self) -> Scope:
        return Scope(
            categories=mask(*self.categories),
            ceiling=self.ceiling,
            first_day=self.first_day,
            last_day=self.last_day,
        )


@dataclass(frozen=True)
class Given:
    """A grant, a rule or a representative's powers, in the model's words."""

    area: Area
    expires_s: int
    purposes: frozenset[Purpose] = frozenset()
    actions: frozenset[Action] = frozenset()
    holders: frozenset[str] = frozenset()
    answer: Answer = Answer.ASK
    who: tuple[str | None, str | None, OrganisationKind | None, Role | None] = (None, None, None, None)
    powers: frozenset[Power] = frozenset()


@dataclass
class Model:
    """Everything a decision depends on."""

    grants: dict[bytes, Given] = field(default_factory=dict)
    rules: dict[int, Given] = field(default_factory=dict)
    aunt: Given | None = None
    aunt_dismissed: bool = False
    agreed_until_s: int = 0
    dismissed: set[str] = field(default_factory=set)
    last_used_day: dict[str, int] = field(default_factory=dict)
    last_vain_day: dict[str, int] = field(default_factory=dict)

    def is_live(self, who: str, now: int) -> bool:
        if who == "aunt":
            return self.aunt is not None and not self.aunt_dismissed and now < self.aunt.expires_s
        if who not in STAFF:
            return True
        return who not in self.dismissed and now // DAY_S - self.last_used_day[who] <= LAPSE_DAYS

    def decide(self, who: str, area: Area, purpose: Purpose, now: int, *, policy: bool) -> int:
        if not self.is_live(who, now):
            return NOT_LIVE
        if who == "aunt":
            return self._aunts_part(area, purpose)
        if who in ("steve", "mary"):
            return ROLE if purpose is not OWN else ALLOWED if who == "steve" else NO_GRANT
        if purpose not in STAFF[who].purposes:
            return ROLE
        answers = [
            one.answer
            for one in self.rules.values()
            if self._is_about(one, who, purpose, now) and one.area.touches(area)
        ]
        if Answer.DENY in answers:
            return DENIED
        nearest = max((self._gap(one, area, purpose, now) for one in self._held(who)), default=NO_GRANT)
        if any(self._gap(one, area, purpose, now) == ALLOWED for one in self._held(who)):
            return ALLOWED
        if Answer.ASK not in answers and (
            any(
                one.answer is Answer.ALLOW and self._is_about(one, who, purpose, now) and one.area.holds(area)
                for one in self.rules.values()
            )
            or (policy and self._policy(who, area, purpose, now))
        ):
            return ALLOWED
        return nearest

    def _aunts_part(self, area: Area, purpose: Purpose) -> int:
        assert self.aunt is not None
        if purpose is not FAMILY:
            return ROLE
        if Power.READ_RECORDS not in self.aunt.powers:
            return ACTION
        return ALLOWED if self.aunt.area.holds(area) else SCOPE

    def _held(self, who: str) -> list[Given]:
        return [one for one in self.grants.values() if one.holders & {who, STAFF[who].organisation}]

    @staticmethod
    def _gap(one: Given, area: Area, purpose: Purpose, now: int) -> int:
        if now >= one.expires_s:
            return DEAD
        if Action.READ not in one.actions:
            return ACTION
        if purpose not in one.purposes:
            return PURPOSE
        return ALLOWED if one.area.holds(area) else SCOPE

    @staticmethod
    def _is_about(one: Given, who: str, purpose: Purpose, now: int) -> bool:
        party, organisation, kind, role = one.who
        person = STAFF[who]
        return (
            now < one.expires_s
            and purpose in one.purposes
            and party in (None, who, person.organisation)
            and organisation in (None, person.organisation)
            and kind in (None, person.kind)
            and role in (None, person.role)
        )

    def reads_by_grant(self, who: str, area: Area, now: int) -> bool:
        """Whether some grant lets ``who`` read, for a purpose of its role that no denial takes away."""
        return self.is_live(who, now) and any(
            self._gap(one, area, purpose, now) == ALLOWED
            for one in self._held(who)
            for purpose in STAFF[who].purposes
            if not any(
                rule.answer is Answer.DENY and self._is_about(rule, who, purpose, now) and rule.area.touches(area)
                for rule in self.rules.values()
            )
        )

    def _policy(self, who: str, area: Area, purpose: Purpose, now: int) -> bool:
        person = STAFF[who]
        return (
            purpose in (TREAT, PAYMENT)
            and person.kind is HOSPITAL
            and person.role in (Role.DOCTOR, Role.NURSE)
            and area.ceiling <= Sensitivity.N
            and (person.organisation == "a" or now < self.agreed_until_s)
        )


PROBES = (
    Area(frozenset({Category.RESULT}), Sensitivity.N, 2, 2),
    Area(frozenset({Category.IMAGE}), Sensitivity.V, 5, 5),
)
"""What single records are like; each lies in some of the areas below."""

_categories = st.sampled_from(
    [frozenset({Category.RESULT}), frozenset({Category.RESULT, Category.IMAGE}), frozenset({Category.IMAGE})]
)
_areas = st.builds(
    lambda categories, ceiling, days: Area(categories, ceiling, *days),
    _categories,
    st.sampled_from([Sensitivity.L, Sensitivity.N, Sensitivity.V]),
    st.sampled_from([(0, 10), (0, 4), (3, 10), (2, 3)]),
)
_purposes = st.sampled_from(
    [frozenset({TREAT}), frozenset({PAYMENT}), frozenset({RESEARCH}), frozenset({TREAT, PAYMENT, RESEARCH, OWN})]
)
_one_purpose = st.sampled_from([TREAT, TREAT, PAYMENT, RESEARCH, OWN, FAMILY])
_lifetimes = st.sampled_from([2, 400, 10 * DAY_S, FAR_S])
_holders = st.sets(st.sampled_from([*STAFF, "a", "b"]), min_size=1, max_size=2).map(frozenset)
_who = st.sampled_from(
    [
        (None, None, None, None),
        ("carl", None, None, None),
        (None, "a", None, None),
        (None, "b", None, Role.DOCTOR),
        ("b", None, None, None),
        ("a", None, None, Role.NURSE),
        (None, None, HOSPITAL, None),
        (None, None, None, Role.NURSE),
        (None, None, GOVERNMENT, None),
    ]
)


class AccessMachine(RuleBasedStateMachine):
    """Requests about Steve's record from everyone who could ask."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.policy = False
        self.world: World = fresh()
        self.aunt = Actor("aunt", organisation=self.world.steve.id)
        self.tickets: dict[bytes, tuple[str, Area, Purpose, int]] = {}
        self.lines = 0

    @initialize(policy=st.booleans())
    def begin(self, policy: bool) -> None:  # noqa: FBT001 - drawn
        self.policy = policy
        self.world = fresh(policy=TreatmentPolicy(enabled=policy))
        self.model.last_used_day = dict.fromkeys(STAFF, self.world.time_s // DAY_S)

    @property
    def now(self) -> int:
        """The time of the next block."""
        return self.world.time_s + 1

    def _signer(self, name: str) -> Signer:
        signer: Signer = self.aunt if name == "aunt" else getattr(self.world, name)
        return signer

    def _by_steve(self, message: Message, *, expected: bool = True) -> tuple[object, ...]:
        receipt = self.world.run(message, by=self.world.steve)
        assert (receipt.code == OK) == expected
        return receipt.events

    # --- what decisions depend on ---------------------------------------------------------------------------

    @rule(
        area=_areas,
        purposes=_purposes,
        holders=_holders,
        lifetime=_lifetimes,
        actions=st.sampled_from([{Action.READ}, {Action.READ, Action.WRITE}, {Action.WRITE}]).map(frozenset),
    )
    def grant(self, area, purposes, holders, lifetime, actions):  # noqa: ANN001, ANN201 - drawn
        expires_s = min(self.now + lifetime, self.now + FAR_S)
        message = grant_of(
            self.world.steve,
            *(self._signer(one) for one in holders),
            scope=area.scope(),
            actions=sum(actions),
            purposes=mask(*purposes),
            expires_s=expires_s,
        )
        events = self._by_steve(message, expected=not holders & self.model.dismissed)
        for event in events:
            assert isinstance(event, Granted)
            self.model.grants[event.grant_id] = Given(
                area, expires_s, purposes=purposes, actions=actions, holders=holders
            )

    @rule(data=st.data())
    def revoke(self, data):  # noqa: ANN001, ANN201 - drawn
        if self.model.grants:
            grant_id = data.draw(st.sampled_from(sorted(self.model.grants)))
            self._by_steve(Revoke(pseudonym=self.world.steve.id, grant_id=grant_id))
            del self.model.grants[grant_id]

    @rule(
        number=st.integers(0, 3),
        area=_areas,
        purposes=_purposes,
        answer=st.sampled_from(list(Answer)),
        who=_who,
        lifetime=_lifetimes,
    )
    def set_rule(self, number, area, purposes, answer, who, lifetime):  # noqa: ANN001, ANN201 - drawn
        party, organisation, kind, role = who
        message = SetRule(
            pseudonym=self.world.steve.id,
            rule=number,
            who=Who(
                party=self._signer(party).id if party else None,
                organisation=self._signer(organisation).id if organisation else None,
                kinds=mask(kind) if kind else 0,
                roles=mask(role) if role else 0,
            ),
            purposes=mask(*purposes),
            scope=area.scope(),
            answer=answer,
            expires_s=self.now + lifetime,
        )
        whole = answer is not Answer.DENY or area.ceiling is Sensitivity.V
        named = answer is not Answer.ALLOW or message.who != Who()
        if self._by_steve(message, expected=whole and named):
            self.model.rules[number] = Given(area, message.expires_s, purposes=purposes, answer=answer, who=who)

    @rule(number=st.integers(0, 3))
    def drop_rule(self, number):  # noqa: ANN001, ANN201 - drawn
        self._by_steve(DropRule(pseudonym=self.world.steve.id, rule=number), expected=number in self.model.rules)
        self.model.rules.pop(number, None)

    @rule(area=_areas, lifetime=_lifetimes, powers=st.sampled_from([Power.READ_RECORDS, Power.GRANT]))
    def appoint(self, area, lifetime, powers):  # noqa: ANN001, ANN201 - drawn
        message = appoint_message(
            self.aunt,
            self.world.steve,
            powers=int(powers),
            scope=area.scope(),
            expires_s=self.now + lifetime,
        )
        if self._by_steve(message, expected=self.model.aunt is None):
            self.model.aunt = Given(area, message.expires_s, powers=frozenset({powers}))

    @rule()
    def dismiss_the_aunt(self) -> None:
        expected = self.model.aunt is not None and not self.model.aunt_dismissed
        message = Dismiss(pseudonym=self.world.steve.id, representative=self.aunt.id)
        self._by_steve(message, expected=expected)
        self.model.aunt_dismissed = self.model.aunt is not None

    @rule(lifetime=_lifetimes)
    def agree(self, lifetime):  # noqa: ANN001, ANN201 - drawn
        expires_s = self.now + min(lifetime, DAY_S * 365)
        offer = OfferAgreement(other=self.world.b.id, terms=seeded("terms"), expires_s=expires_s)
        in_force = self.now < self.model.agreed_until_s
        assert (self.world.run(offer, by=self.world.a).code == OK) == (not in_force)
        if in_force:
            return
        self.world.done(
            AcceptAgreement(other=self.world.a.id, terms=seeded("terms")), by=self.world.b, at=self.world.time_s
        )
        self.model.agreed_until_s = expires_s

    @rule()
    def end_the_agreement(self) -> None:
        if self.model.agreed_until_s:
            self.world.done(EndAgreement(other=self.world.b.id), by=self.world.a)
            self.model.agreed_until_s = 0

    @rule(who=st.sampled_from(["bert", "nora"]))
    def leave(self, who):  # noqa: ANN001, ANN201 - drawn
        receipt = self.world.run(DismissStaff(party=self._signer(who).id), by=self._signer(STAFF[who].organisation))
        assert (receipt.code == OK) == (who not in self.model.dismissed)
        self.model.dismissed.add(who)

    @rule(who=st.sampled_from(sorted(STAFF)))
    def renew(self, who):  # noqa: ANN001, ANN201 - drawn
        organisation = getattr(self.world, STAFF[who].organisation)
        certificate = organisation.certify(self._signer(who), STAFF[who].role)
        receipt = self.world.run(RenewStaff(certificate=certificate), by=organisation)
        assert (receipt.code == OK) == (who not in self.model.dismissed)
        if receipt.code == OK:
            self.model.last_used_day[who] = self.world.time_s // DAY_S

    @rule(seconds=st.sampled_from([1, 399, 500, 901, DAY_S, 40 * DAY_S, (LAPSE_DAYS + 1) * DAY_S]))
    def wait(self, seconds):  # noqa: ANN001, ANN201 - drawn
        self.world.wait(seconds)

    # --- requests -------------------------------------------------------------------------------------------

    @rule(who=st.sampled_from(REQUESTERS), area=_areas, purpose=_one_purpose)
    def request(self, who, area, purpose):  # noqa: ANN001, ANN201 - drawn
        self._ask(who, area, purpose)

    def _ask(self, who: str, area: Area, purpose: Purpose) -> None:
        message = RequestAccess(pseudonym=self.world.steve.id, scope=area.scope(), purpose=purpose)
        if who == "aunt" and self.model.aunt is None:
            assert self.world.run(message, by=self.aunt).code == 110
            return
        expected = self.model.decide(who, area, purpose, self.now, policy=self.policy)
        today = self.now // DAY_S
        if expected == NOT_LIVE and self.model.last_vain_day.get(who) == today:
            assert self.world.run(message, by=self._signer(who)).code == IN_VAIN
            return
        decided = self.world.request(message, by=self._signer(who))
        assert decided.decision == expected
        self.lines += 1
        if expected == NOT_LIVE:
            self.model.last_vain_day[who] = today
        if who in STAFF and expected != NOT_LIVE:
            self.model.last_used_day[who] = self.world.time_s // DAY_S
        if expected == ALLOWED:
            assert decided.expires_s == self.world.time_s + 900
            self.tickets[decided.ticket] = (who, area, purpose, decided.expires_s)

    @rule(area=_areas)
    def the_aunt_asks(self, area):  # noqa: ANN001, ANN201 - drawn
        """Often enough that representatives are met in every short run."""
        self._ask("aunt", area, FAMILY)

    @rule(data=st.data())
    def revoke_a_ticket(self, data):  # noqa: ANN001, ANN201 - drawn
        if self.tickets:
            ticket = data.draw(st.sampled_from(sorted(self.tickets)))
            in_time = self.now < self.tickets[ticket][3]
            self._by_steve(RevokeTicket(ticket=ticket), expected=in_time)
            if in_time:
                del self.tickets[ticket]
                self.lines += 1

    # --- what always holds ----------------------------------------------------------------------------------

    @invariant()
    def open_tickets_serve_exactly_while_they_would_be_given_again(self) -> None:
        contracts, now = self.world.contracts(), self.world.time_s
        for ticket, (who, area, purpose, expires_s) in self.tickets.items():
            again = self.model.decide(who, area, purpose, now, policy=self.policy) == ALLOWED
            served = still_allowed(contracts.membership, contracts.consent, self.world.ticket(ticket), now)
            assert served == (again and now < expires_s)

    @invariant()
    def every_single_record_is_decided_alike(self) -> None:
        contracts, now = self.world.contracts(), self.world.time_s
        for who, person in STAFF.items():
            party = contracts.membership.party(self._signer(who).id)
            assert party is not None
            for area in PROBES:
                for purpose in person.purposes:
                    outcome = decide(
                        contracts.membership,
                        contracts.consent,
                        pseudonym=self.world.steve.id,
                        requester=self._signer(who).id,
                        party=party,
                        scope=area.scope(),
                        purpose=purpose,
                        time_s=now,
                    )
                    expected = self.model.decide(who, area, purpose, now, policy=self.policy)
                    assert (ALLOWED if isinstance(outcome, Path) else outcome) == expected

    @invariant()
    def who_can_see_leaves_nobody_out(self) -> None:
        """Everybody whom a grant lets read is named with it, for oneself or for the organisation."""
        now = self.world.time_s
        for area in PROBES:
            shown = who_can_see(
                self.world.contracts().consent,
                pseudonym=self.world.steve.id,
                record=seeded("record"),
                category=min(area.categories),
                sensitivity=area.ceiling,
                day=area.first_day,
                time_s=now,
            )
            named = {one for reason in shown if reason.because == "grant" for one in reason.who}
            openly = any(reason.because in ("rule:allow", "policy") for reason in shown)
            for who, person in STAFF.items():
                if any(
                    self.model.decide(who, area, one, now, policy=self.policy) == ALLOWED for one in person.purposes
                ):
                    ids = {self._signer(who).id, self._signer(person.organisation).id}
                    assert ids & named or openly
                if self.model.reads_by_grant(who, area, now):
                    assert {self._signer(who).id, self._signer(person.organisation).id} & named

    @invariant()
    def the_log_has_every_request_and_the_state_is_sound(self) -> None:
        head = self.world.contracts().access.log_heads.get(self.world.steve.id) or EMPTY_LOG
        assert head.count == self.lines
        assert self.world.broken() == []


TestAccess = AccessMachine.TestCase
TestAccess.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
