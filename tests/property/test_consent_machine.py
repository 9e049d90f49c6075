"""Goal: whatever is granted, passed on, narrowed, extended or revoked, nobody reads without a live path (CON-2).

Method: Hypothesis drives the real ledger and a model of plain dictionaries side by side. The model says beforehand
whether each message must succeed; after every step both must agree on who may read what, taking away never let anyone
read more, and every invariant of the contracts holds. Half of the runs have bounds so low that grants meet them.
"""

from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from carechain.chain.receipts import OK, code_named
from carechain.contracts.access import decide
from carechain.contracts.consent import grants as grants_module
from carechain.contracts.consent.schema import Extend, Granted, Narrow, Renounce, Revoke, Revoked
from carechain.contracts.membership import DismissStaff
from carechain.core.decision import Path
from carechain.core.limits import GRANT_DEPTH, GRANTS_BY_OTHERS_PER_PAIR, GRANTS_PER_PAIR
from carechain.core.message import Message
from carechain.core.scope import Scope
from carechain.core.vocabulary import Action, Category, Purpose, Sensitivity, mask
from world import Signer, World, fresh, grant_of

STAFF = {"carl": "a", "dana": "a", "bert": "b", "bina": "b"}
"""Four doctors and their hospitals."""
PURPOSES = (Purpose.TREAT, Purpose.CAREMGT)
TICK_S = 50


@dataclass
class Terms:
    """What a grant permits: sets and numbers, no masks."""

    categories: frozenset[Category]
    ceiling: int
    first_day: int
    last_day: int
    actions: frozenset[Action]
    purposes: frozenset[Purpose]
    expires_s: int

    def inside(self, outer: "Terms") -> bool:
        return (
            self.categories <= outer.categories
            and self.ceiling <= outer.ceiling
            and outer.first_day <= self.first_day
            and self.last_day <= outer.last_day
            and self.actions <= outer.actions
            and self.purposes <= outer.purposes
            and self.expires_s <= outer.expires_s
        )

    def as_fields(self) -> dict[str, object]:
        scope = Scope(
            categories=mask(*self.categories),
            ceiling=Sensitivity(self.ceiling),
            first_day=self.first_day,
            last_day=self.last_day,
        )
        return {
            "scope": scope,
            "actions": sum(self.actions),
            "purposes": mask(*self.purposes),
            "expires_s": self.expires_s,
        }


@dataclass
class Node:
    """One grant of the model."""

    grantor: str
    grantees: set[str]
    parent: bytes | None
    terms: Terms
    ended: bool = False


@dataclass
class Model:
    """The tree, and who has left."""

    nodes: dict[bytes, Node] = field(default_factory=dict)
    left: set[str] = field(default_factory=set)

    def path(self, grant_id: bytes | None) -> list[Node]:
        """From the leaf to the root."""
        path: list[Node] = []
        while grant_id is not None:
            path.append(self.nodes[grant_id])
            grant_id = path[-1].parent
        return path

    def alive(self, grant_id: bytes, now: int) -> bool:
        path = self.path(grant_id)
        return all(
            not node.ended and now < node.terms.expires_s and node.grantor not in self.left for node in path
        ) and all(
            Action.DELEGATE in parent.terms.actions and {child.grantor, STAFF[child.grantor]} & parent.grantees
            for child, parent in pairwise(path)
        )

    def make_room(self, grantees: list[str], bound: int, now: int) -> bool:
        """Whether every grantee may hold one more grant; what is dead is ended where it stands in the way."""
        ended: list[Node] = []
        for one in grantees:
            held = [grant_id for grant_id, node in self.nodes.items() if not node.ended and one in node.grantees]
            if len(held) < bound:
                continue
            dead = [self.nodes[grant_id] for grant_id in held if not self.alive(grant_id, now)]
            for node in dead:
                node.ended = True
            ended += dead
            if len(held) - len(dead) >= bound:
                for node in ended:
                    node.ended = False
                return False
        return True

    def holds(self, who: str, grant_id: bytes) -> bool:
        return bool({who, STAFF.get(who, who)} & self.nodes[grant_id].grantees)

    def may_pass_on(self, who: str, parent: bytes, terms: Terms, now: int) -> bool:
        path = self.path(parent)
        return (
            who in STAFF
            and self.alive(parent, now)
            and self.holds(who, parent)
            and Action.DELEGATE in path[0].terms.actions
            and len(path) < GRANT_DEPTH
            and all(terms.inside(node.terms) for node in path)
        )

    def may_read(self, who: str, wanted: Terms, now: int) -> bool:
        return who not in self.left and any(
            self.holds(who, grant_id)
            and self.alive(grant_id, now)
            and all(wanted.inside(node.terms) for node in self.path(grant_id))
            for grant_id in self.nodes
        )


def wanted(category: Category, ceiling: int, day: int, purpose: Purpose) -> Terms:
    """What one question asks for."""
    return Terms(frozenset({category}), ceiling, day, day, frozenset({Action.READ}), frozenset({purpose}), 0)


PROBES = (
    wanted(Category.RESULT, Sensitivity.N, 5, Purpose.TREAT),
    wanted(Category.RESULT, Sensitivity.V, 5, Purpose.TREAT),
    wanted(Category.IMAGE, Sensitivity.N, 9, Purpose.TREAT),
    wanted(Category.RESULT, Sensitivity.L, 0, Purpose.CAREMGT),
)

_RESULTS, _READING = frozenset({Category.RESULT}), frozenset({Action.READ})
_categories = st.sampled_from([_RESULTS, frozenset({Category.RESULT, Category.IMAGE}), frozenset({Category.IMAGE})])
_actions = st.sampled_from(
    [
        _READING,
        frozenset({Action.READ, Action.DELEGATE}),
        frozenset({Action.READ, Action.WRITE, Action.DELEGATE}),
        frozenset({Action.WRITE}),
    ]
)
_purposes = st.sampled_from([frozenset({Purpose.TREAT}), frozenset(PURPOSES)])
_days = st.sampled_from([(0, 10), (0, 5), (5, 10), (3, 7)])
_ceilings = st.sampled_from([Sensitivity.L, Sensitivity.N, Sensitivity.V])
_lifetimes = st.sampled_from([2, 5, 20, 1000])
Made = bytes | MultipleResults[bytes]
"""The id of a new grant, or nothing for the bundle."""
Draft = tuple[frozenset[Category], Sensitivity, tuple[int, int], frozenset[Action], frozenset[Purpose], int]
_drafts: st.SearchStrategy[Draft] = st.tuples(_categories, _ceilings, _days, _actions, _purposes, _lifetimes)
_people = st.sampled_from(sorted(STAFF))
_senders = st.sampled_from(["steve", *sorted(STAFF)])
_holders = st.sets(st.sampled_from([*sorted(STAFF), "a", "b"]), min_size=1, max_size=3)


class ConsentMachine(RuleBasedStateMachine):
    """Messages about Steve's consent, from Steve, four doctors and two administrators."""

    grants: Bundle = Bundle("grants")

    def __init__(self) -> None:
        super().__init__()
        self.world: World = fresh()
        self.model = Model()
        self.allowed: dict[tuple[str, int], bool] = {}
        self.only_less = False
        self.bound, self.bound_of_others = GRANTS_PER_PAIR, GRANTS_BY_OTHERS_PER_PAIR
        self.patched = pytest.MonkeyPatch()

    @initialize(crowded=st.booleans())
    def begin(self, crowded: bool) -> None:  # noqa: FBT001 - drawn
        if crowded:
            self.bound, self.bound_of_others = 4, 2
            self.patched.setattr(grants_module, "GRANTS_PER_PAIR", self.bound)
            self.patched.setattr(grants_module, "GRANTS_BY_OTHERS_PER_PAIR", self.bound_of_others)
        self.allowed = self._who_may_read()

    def teardown(self) -> None:
        self.patched.undo()

    # --- helpers --------------------------------------------------------------------------------------------

    @property
    def now(self) -> int:
        """The time of the next block."""
        return self.world.time_s + 1

    def _signer(self, name: str) -> Signer:
        signer: Signer = getattr(self.world, name)
        return signer

    def _send(self, message: Message, by: str, *, expected: bool) -> tuple[object, ...]:
        receipt = self.world.run(message, by=self._signer(by))
        assert (receipt.code == OK) == expected, (code_named(receipt.code), message)
        if not expected:
            assert self.world.changed_rows() == []
        return receipt.events

    def _names(self, holders: set[str]) -> list[Signer]:
        return [self._signer(one) for one in holders]

    def _room(self, to: set[str], bound: int) -> bool:
        return self.model.make_room(sorted(to, key=lambda one: self._signer(one).id), bound, self.now)

    def _terms(self, draft: Draft) -> Terms:
        categories, ceiling, days, actions, purposes, lifetime = draft
        return Terms(categories, ceiling, *days, actions, purposes, self.now + TICK_S * lifetime)

    def _who_may_read(self) -> dict[tuple[str, int], bool]:
        contracts, found = self.world.contracts(), {}
        for who in STAFF:
            signer = self._signer(who)
            party = contracts.membership.party(signer.id)
            for number, probe in enumerate(PROBES):
                outcome = decide(
                    contracts.membership,
                    contracts.consent,
                    pseudonym=self.world.steve.id,
                    requester=signer.id,
                    party=party,
                    scope=probe.as_fields()["scope"],
                    purpose=min(probe.purposes),
                    time_s=self.world.time_s,
                )
                found[who, number] = isinstance(outcome, Path)
        return found

    # --- giving ---------------------------------------------------------------------------------------------

    @rule(target=grants, to=_holders, draft=_drafts)
    def grant(self, to, draft):  # noqa: ANN001, ANN201 - drawn
        return self._grant(to, self._terms(draft))

    def _grant(self, to: set[str], terms: Terms) -> Made:
        message = grant_of(self.world.steve, *self._names(to), **terms.as_fields())
        expected = not to & self.model.left and self._room(to, self.bound)
        events = self._send(message, "steve", expected=expected)
        return self._remember(events, Node("steve", set(to), None, terms))

    @rule(target=grants, parent=grants, by=_senders, to=_holders, draft=_drafts)
    def pass_on(self, parent, by, to, draft):  # noqa: ANN001, ANN201 - drawn
        return self._pass_on(parent, by, to, self._terms(draft))

    @rule(target=grants, parent=grants, to=_holders, a=_actions)
    def pass_on_as_entitled(self, parent, to, a):  # noqa: ANN001, ANN201 - drawn
        """A holder passes on exactly what its path has: most of these succeed, so that trees grow."""
        path = self.model.path(parent)
        terms = [node.terms for node in path]
        cut = Terms(
            frozenset.intersection(*(one.categories for one in terms)),
            min(one.ceiling for one in terms),
            max(one.first_day for one in terms),
            min(one.last_day for one in terms),
            a & frozenset.intersection(*(one.actions for one in terms)),
            frozenset.intersection(*(one.purposes for one in terms)),
            min(one.expires_s for one in terms),
        )
        holders = [who for who in sorted(STAFF) if self.model.holds(who, parent) and who not in self.model.left]
        possible = cut.categories and cut.actions and cut.purposes and cut.first_day <= cut.last_day
        if not holders or not possible or cut.expires_s <= self.now:
            return multiple()
        return self._pass_on(parent, holders[0], to, cut)

    @rule(target=grants, by=_people, to=_people, draft=_drafts)
    def grant_and_pass_on(self, by, to, draft):  # noqa: ANN001, ANN201 - drawn
        """Often enough that taking the root's rights away finds something below it."""
        terms = self._terms(draft)
        terms = replace(terms, actions=terms.actions | {Action.READ, Action.DELEGATE})
        root = self._grant({by, "a"}, terms)
        if not isinstance(root, bytes):
            return root
        below = self._pass_on(root, by, {to}, terms)
        return multiple(root, below) if isinstance(below, bytes) else root

    @rule(to=_people, lifetime=st.sampled_from([1, 2, 1000]), times=st.integers(1, 3))
    def grant_the_same_again(self, to, lifetime, times):  # noqa: ANN001, ANN201 - drawn
        """Several grants to one person, so that bounds are met in short runs."""
        for _ in range(times):
            terms = self._terms((_RESULTS, Sensitivity.N, (0, 10), _READING, frozenset(PURPOSES), lifetime))
            self._grant({to}, terms)

    def _pass_on(self, parent: bytes, by: str, to: set[str], terms: Terms) -> Made:
        expected = (
            not to & self.model.left
            and by not in self.model.left
            and self.model.may_pass_on(by, parent, terms, self.now)
            and self._room(to, self.bound_of_others)
        )
        message = grant_of(self.world.steve, *self._names(to), parent=parent, **terms.as_fields())
        return self._remember(self._send(message, by, expected=expected), Node(by, set(to), parent, terms))

    def _remember(self, events: tuple[object, ...], node: Node) -> Made:
        for event in events:
            if isinstance(event, Granted):
                self.model.nodes[event.grant_id] = node
                return event.grant_id
            # What was ended to make room comes first, and was dead in the model too.
            assert isinstance(event, Revoked)
            assert self.model.nodes[event.grant_id].ended
        return multiple()

    @rule(grant_id=grants, by=_senders, draft=_drafts)
    def extend(self, grant_id, by, draft):  # noqa: ANN001, ANN201 - drawn
        node = self.model.nodes[grant_id]
        old, drawn = node.terms, self._terms(draft)
        terms = Terms(
            drawn.categories | old.categories,
            max(drawn.ceiling, old.ceiling),
            min(drawn.first_day, old.first_day),
            max(drawn.last_day, old.last_day),
            drawn.actions | old.actions,
            drawn.purposes | old.purposes,
            max(drawn.expires_s, old.expires_s),
        )
        running = not node.ended and self.now < old.expires_s
        entitled = by == node.grantor and by not in self.model.left
        within = node.parent is None or self.model.may_pass_on(by, node.parent, terms, self.now)
        message = Extend(pseudonym=self.world.steve.id, grant_id=grant_id, **terms.as_fields())
        if self._send(message, by, expected=running and entitled and within):
            node.terms = terms

    # --- taking away ----------------------------------------------------------------------------------------

    @rule(grant_id=grants, by=_senders, draft=_drafts)
    def narrow(self, grant_id, by, draft):  # noqa: ANN001, ANN201 - drawn
        node, terms = self.model.nodes[grant_id], self._terms(draft)
        running = not node.ended and self.now < node.terms.expires_s
        entitled = by in ("steve", node.grantor) and by not in self.model.left
        message = Narrow(pseudonym=self.world.steve.id, grant_id=grant_id, **terms.as_fields())
        if self._send(message, by, expected=running and entitled and terms.inside(node.terms)):
            node.terms = terms
        self.only_less = True

    @rule(below=grants)
    def take_the_right_to_pass_on(self, below):  # noqa: ANN001, ANN201 - drawn
        """From the grant above ``below``, which ends with it; from a root, for what may hang there."""
        grant_id = self.model.nodes[below].parent or below
        node = self.model.nodes[grant_id]
        terms = replace(node.terms, actions=node.terms.actions - {Action.DELEGATE})
        running = not node.ended and self.now < terms.expires_s
        message = Narrow(pseudonym=self.world.steve.id, grant_id=grant_id, **terms.as_fields())
        if self._send(message, "steve", expected=running and bool(terms.actions)):
            node.terms = terms
        self.only_less = True

    @rule(grant_id=consumes(grants), by=_senders)
    def revoke(self, grant_id, by):  # noqa: ANN001, ANN201 - drawn
        node = self.model.nodes[grant_id]
        expected = not node.ended and by in ("steve", node.grantor) and by not in self.model.left
        if self._send(Revoke(pseudonym=self.world.steve.id, grant_id=grant_id), by, expected=expected):
            node.ended = True
            below = [one for one in self.model.nodes if node in self.model.path(one)]
            assert not any(self.model.alive(one, self.world.time_s) for one in below)
        self.only_less = True

    @rule(grant_id=grants, by=_people)
    def renounce(self, grant_id, by):  # noqa: ANN001, ANN201 - drawn
        self._renounce(grant_id, by, by, live=by not in self.model.left)

    @rule(grant_id=grants)
    def give_up_what_was_passed_on(self, grant_id):  # noqa: ANN001, ANN201 - drawn
        """The grantor of a grant renounces the one it hangs from."""
        node = self.model.nodes[grant_id]
        if node.parent is not None:
            self._renounce(node.parent, node.grantor, node.grantor, live=node.grantor not in self.model.left)

    @rule(grant_id=grants, organisation=st.sampled_from(["a", "b"]))
    def renounce_for_an_organisation(self, grant_id, organisation):  # noqa: ANN001, ANN201 - drawn
        self._renounce(grant_id, organisation, organisation, live=True)

    def _renounce(self, grant_id: bytes, by: str, leaving: str, *, live: bool) -> None:
        node = self.model.nodes[grant_id]
        expected = live and not node.ended and leaving in node.grantees
        if self._send(Renounce(pseudonym=self.world.steve.id, grant_id=grant_id), by, expected=expected):
            if len(node.grantees) == 1:
                node.ended = True
            else:
                node.grantees.discard(leaving)
        self.only_less = True

    @precondition(lambda self: len(self.model.left) < 2)
    @rule(who=_people)
    def dismiss(self, who):  # noqa: ANN001, ANN201 - drawn
        expected = who not in self.model.left
        organisation = self._signer(STAFF[who])
        receipt = self.world.run(DismissStaff(party=self._signer(who).id), by=organisation)
        assert (receipt.code == OK) == expected
        self.model.left.add(who)
        self.only_less = True

    @rule(ticks=st.integers(1, 6))
    def wait(self, ticks):  # noqa: ANN001, ANN201 - drawn
        self.world.wait(ticks * TICK_S)
        self.only_less = True

    # --- what always holds ----------------------------------------------------------------------------------

    @invariant()
    def the_ledger_and_the_model_agree(self) -> None:
        now_allowed = self._who_may_read()
        expected = {
            (who, number): self.model.may_read(who, probe, self.world.time_s)
            for who in STAFF
            for number, probe in enumerate(PROBES)
        }
        assert now_allowed == expected
        if self.only_less:
            assert not [pair for pair, allowed in now_allowed.items() if allowed and not self.allowed.get(pair)]
        self.allowed, self.only_less = now_allowed, False

    @invariant()
    def the_state_is_sound(self) -> None:
        assert self.world.broken() == []
        head = self.world.contracts().consent.tables.heads.get(self.world.steve.id)
        assert (head.grants if head else 0) == sum(not node.ended for node in self.model.nodes.values())


TestConsent = ConsentMachine.TestCase
TestConsent.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
