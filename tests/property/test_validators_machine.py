"""Goal: whatever members vote, announce or do wrong, somebody makes the blocks, and all agree who it is (LED-5).

Method: Hypothesis moves keys, seats, turns, members and evidence on the real ledger and in a model of plain
dictionaries. The model names the code of every refusal and the validators of every height by itself.
"""

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from carechain.chain.receipts import OK
from carechain.contracts.governance import (
    GovernanceCode,
    Propose,
    Quorum,
    RemoveMember,
    SeatValidator,
    SetRotation,
)
from carechain.contracts.membership import MembershipCode
from carechain.contracts.sanctions import sanctions
from carechain.contracts.validators import RetireNode, ValidatorsCode, active, address_of, admits, organisation_of
from carechain.core.evidence import Evidence, Offence
from carechain.core.message import Message
from world import Organisation, World, fresh

LABELS = "abcdef"
FOUNDERS = "abcd"
KEYS = 3
TURNS = 12
"""Heights at which the model's validators are compared: more than any window needs to come round."""

labels = st.sampled_from(LABELS)
numbers = st.integers(0, KEYS - 1)


@dataclass
class Model:
    """What should be so: present key by label, everybody's keys ever, seats, turns, members, nodes, offences."""

    present: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FOUNDERS, 0))
    ever: set[tuple[str, int]] = field(default_factory=lambda: {(one, 0) for one in FOUNDERS})
    seated: set[str] = field(default_factory=lambda: set(FOUNDERS))
    members: set[str] = field(default_factory=lambda: set(LABELS))
    nodes: set[tuple[str, int]] = field(default_factory=lambda: {(one, 0) for one in LABELS})
    offences: dict[tuple[str, int], bool] = field(default_factory=dict)
    every: int = 0
    count: int = 0

    def acting(self, order: list[str], height: int) -> set[str]:
        """Whose turn it is, with ``order`` the labels as the ledger sorts their organisations."""
        seats = [one for one in order if one in self.seated]
        if not self.every or self.count >= len(seats):
            return set(seats)
        first = (height // self.every) % len(seats)
        return {(seats + seats)[first + place] for place in range(self.count)}

    def seat(self, label: str, *, seated: bool) -> int:
        """The code of a proposal for or against a seat, and what it does."""
        if label not in self.members:
            return int(GovernanceCode.TARGET_UNKNOWN)
        if label not in self.present:
            return int(ValidatorsCode.NO_KEY_ANNOUNCED)
        if (label in self.seated) is seated:
            return int(ValidatorsCode.SEAT_UNCHANGED)
        if self.seated == {label}:
            return int(ValidatorsCode.LAST_SEAT)
        (self.seated.add if seated else self.seated.remove)(label)
        return OK

    def remove(self, label: str) -> int:
        """The code of a proposal to put a member out, and what it does."""
        if label not in self.members:
            return int(GovernanceCode.TARGET_UNKNOWN)
        if self.seated == {label}:
            return int(ValidatorsCode.LAST_SEAT)
        self.members.remove(label)
        self.seated.discard(label)
        return OK


class ValidatorsMachine(RuleBasedStateMachine):
    """Six organisations, four of them with a seat. One yes passes a vote, so that each step is one message."""

    @initialize()
    def start(self) -> None:
        self.world: World = fresh(validators=FOUNDERS, quorum=Quorum(numerator=1, denominator=6))
        self.model = Model()
        self.order = sorted(LABELS, key=lambda label: self.organisation(label).id)

    def organisation(self, label: str) -> Organisation:
        found: Organisation = getattr(self.world, label)
        return found

    def send(self, by: str, message: Message, expected: int) -> None:
        """A sender that is no member any more is refused before anything else is looked at."""
        wanted = expected if by in self.model.members else int(MembershipCode.ORGANISATION_NOT_A_MEMBER)
        assert self.world.run(message, by=self.organisation(by)).code == wanted

    def vote(self, change: object, expected: int) -> None:
        """Whoever is still a member proposes, which is enough to pass."""
        by = min(self.model.members)
        assert self.world.run(Propose(change=change), by=self.organisation(by)).code == expected

    # --- what may happen ------------------------------------------------------------------------------------

    @rule(label=labels, number=numbers)
    def announces(self, label: str, number: int) -> None:
        self.send(label, self.organisation(label).announcement(number), OK)
        if label in self.model.members:
            self.model.present[label] = number
            self.model.ever.add((label, number))

    @rule(label=labels, other=labels, number=numbers)
    def announces_anothers_key(self, label: str, other: str, number: int) -> None:
        if label == other:
            return
        taken = (other, number) in self.model.ever
        if not taken:
            return  # It would own the key from then on, and the model would need one more dimension.
        key = self.organisation(other).consensus_key(number)
        self.send(label, self.organisation(label).announcement(key=key), int(ValidatorsCode.KEY_TAKEN))

    @rule(label=labels, seated=st.booleans())
    def seats(self, label: str, *, seated: bool) -> None:
        change = SeatValidator(member=self.organisation(label).id, seated=seated)
        self.vote(change, self.model.seat(label, seated=seated))

    @rule(every=st.integers(0, 3), count=st.integers(0, 5))
    def turns(self, every: int, count: int) -> None:
        possible = bool(every) == bool(count)
        self.vote(
            SetRotation(every_blocks=every, active=count),
            OK if possible else int(ValidatorsCode.ROTATION_IMPOSSIBLE),
        )
        if possible:
            self.model.every, self.model.count = every, count

    @rule(label=labels)
    def leaves(self, label: str) -> None:
        by = min(self.model.members)
        expected = self.model.remove(label)
        receipt = self.world.run(
            Propose(change=RemoveMember(member=self.organisation(label).id)), by=self.organisation(by)
        )
        assert receipt.code == expected

    @rule(label=labels, number=numbers, height=st.integers(1, 3))
    def lies(self, label: str, number: int, height: int) -> None:
        address = address_of(self.organisation(label).consensus_key(number).public_key)
        self.world.block(
            evidence=(Evidence(offence=Offence.DOUBLE_VOTE, address=address, height=height, time_s=height),)
        )
        if (label, number) in self.model.ever and (label, height) not in self.model.offences:
            loses = label in self.model.seated and len(self.model.seated) > 1
            self.model.offences[label, height] = loses
            if loses:
                self.model.seated.remove(label)

    @rule(label=labels, number=numbers)
    def registers(self, label: str, number: int) -> None:
        taken = (label, number) in self.model.nodes
        self.send(label, self.organisation(label).registration(number), int(ValidatorsCode.NODE_TAKEN) if taken else OK)
        if label in self.model.members:
            self.model.nodes.add((label, number))

    @rule(label=labels, owner=labels, number=numbers)
    def retires(self, label: str, owner: str, number: int) -> None:
        node = address_of(self.organisation(owner).node_key(number).public_key)
        own = label == owner and (owner, number) in self.model.nodes
        self.send(label, RetireNode(node_id=node), OK if own else int(ValidatorsCode.NODE_UNKNOWN))
        if own and label in self.model.members:
            self.model.nodes.remove((owner, number))

    @rule()
    def nothing_happens(self) -> None:
        """An empty block may begin a new turn, and changes nothing all the same."""
        before = self.world.root_hash
        self.world.wait(5)
        assert self.world.root_hash == before

    # --- what must hold -------------------------------------------------------------------------------------

    @invariant()
    def the_validators_are_the_models(self) -> None:
        tables = self.world.contracts().validators
        for height in range(TURNS):
            expected = self.model.acting(self.order, height)
            assert expected, "somebody makes the blocks"
            keys = [self.organisation(one).consensus_key(self.model.present[one]).public_key for one in expected]
            assert active(tables, height) == tuple(sorted(keys))

    @invariant()
    def nodes_addresses_and_sanctions_are_the_models(self) -> None:
        contracts = self.world.contracts()
        for label in LABELS:
            organisation = self.organisation(label)
            for number in range(KEYS):
                node = address_of(organisation.node_key(number).public_key)
                wanted = (label, number) in self.model.nodes and label in self.model.members
                assert admits(contracts.validators, contracts.membership, node) == wanted
                address = address_of(organisation.consensus_key(number).public_key)
                known = organisation.id if (label, number) in self.model.ever else None
                assert organisation_of(contracts.validators, address) == known
        found = {(one, height): row.unseated for one, height, row in sanctions(contracts.sanctions)}
        assert found == {
            (self.organisation(one).id, height): lost for (one, height), lost in self.model.offences.items()
        }

    @invariant()
    def the_state_is_sound(self) -> None:
        assert self.world.broken() == []


TestValidators = ValidatorsMachine.TestCase
TestValidators.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
