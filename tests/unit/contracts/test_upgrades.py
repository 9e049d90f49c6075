"""Goal: an upgrade is voted in one version at a time, with notice, by rules that rest on the state alone (LED-11).

Method: one row per refusal, then what is in force at which height, and what the second version of governance changes.
"""

import pytest

from carechain.chain.queries import Asker, View, ask
from carechain.chain.questions import NoArgs
from carechain.chain.versions import KNOWN, LATEST, VersionLine
from carechain.contracts.governance import (
    CertifyRegistrar,
    Closed,
    GovernanceCode,
    ProposalWithdrawn,
    Propose,
    RemoveMember,
    Standing,
    Upgrade,
    Vote,
    WithdrawProposal,
    proposals,
)
from carechain.contracts.upgrades import UpgradesCode, UpgradeVoted, VersionRow, check_state
from carechain.core.limits import OPEN_PROPOSALS, PROPOSAL_LIFETIME_S, UPGRADE_NOTICE_BLOCKS
from carechain.core.rejection import RejectionCode
from carechain.core.vocabulary import FOUNDING_CONTRACTS, Contract
from rejections import Arrange, Attempt, Limits, Rows, check_refused
from world import World, fresh, seeded

rows = Rows()
ROWS = rows
GOVERNANCE = int(Contract.GOVERNANCE)


@pytest.fixture
def world() -> World:
    return fresh(versions=LATEST)


def to(contract: int, version: int, height: int) -> Propose:
    return Propose(change=Upgrade(contract=contract, version=version, height=height))


@rows.row(UpgradesCode.NOT_THE_NEXT_VERSION)
def the_version_in_force(world: World) -> Attempt:
    return world.a, to(GOVERNANCE, 2, world.height + 100)


@rows.row(UpgradesCode.NOT_THE_NEXT_VERSION)
def a_version_left_out(world: World) -> Attempt:
    return world.a, to(Contract.RECORDS, 3, world.height + 100)


@rows.row(UpgradesCode.NOT_THE_NEXT_VERSION)
def a_new_contract_begins_with_its_first_version(world: World) -> Attempt:
    return world.a, to(200, 2, world.height + 100)


@rows.row(UpgradesCode.TOO_SOON)
def too_little_notice(world: World) -> Attempt:
    return world.a, to(Contract.RECORDS, 2, world.height + 1 + UPGRADE_NOTICE_BLOCKS - 1)


@rows.row(UpgradesCode.TOO_SOON)
def too_little_notice_once_it_passes(world: World) -> Attempt:
    height = world.height + 1 + UPGRADE_NOTICE_BLOCKS
    proposal = world.propose(Upgrade(contract=Contract.RECORDS, version=2, height=height), ayes=(world.b, world.c))
    return world.d, Vote(proposal=proposal, aye=True)


@rows.row(GovernanceCode.NOT_THE_PROPOSER)
def take_back_anothers_proposal(world: World) -> Attempt:
    return world.b, WithdrawProposal(proposal=world.propose(RemoveMember(member=world.f.id)))


@rows.row(GovernanceCode.PROPOSAL_NOT_FOUND)
def take_back_nothing(world: World) -> Attempt:
    return world.a, WithdrawProposal(proposal=seeded("none"))


@rows.row(GovernanceCode.PROPOSAL_CLOSED)
def take_back_what_has_passed(world: World) -> Attempt:
    proposal = world.propose(RemoveMember(member=world.f.id), ayes=(world.b, world.c, world.d))
    return world.a, WithdrawProposal(proposal=proposal)


@rows.row(GovernanceCode.PROPOSAL_CLOSED)
def take_back_what_has_expired(world: World) -> Attempt:
    proposal = world.propose(RemoveMember(member=world.f.id))
    return world.a, WithdrawProposal(proposal=proposal), world.time_s + PROPOSAL_LIFETIME_S


@rows.row(GovernanceCode.PROPOSAL_CLOSED)
def vote_on_what_was_taken_back(world: World) -> Attempt:
    proposal = world.propose(RemoveMember(member=world.f.id))
    world.done(WithdrawProposal(proposal=proposal), by=world.a)
    return world.b, Vote(proposal=proposal, aye=True)


@rows.row(GovernanceCode.ALREADY_VOTED)
def the_same_vote_again(world: World) -> Attempt:
    return world.a, Vote(proposal=world.propose(RemoveMember(member=world.f.id)), aye=True)


@pytest.mark.parametrize(("code", "arrange", "limits"), rows.params())
def test_refused(
    code: RejectionCode, arrange: Arrange, limits: Limits, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_refused(world, code, arrange, limits, monkeypatch)


# --- what is in force -----------------------------------------------------------------------------------


def in_force(world: World, contract: int, height: int) -> int:
    return world.contracts().upgrades.row_of(contract).at(height)


def test_an_upgrade_comes_into_force_at_its_height(world: World) -> None:
    height = world.height + 30
    proposal = world.propose(Upgrade(contract=Contract.RECORDS, version=2, height=height), ayes=(world.b, world.c))
    assert in_force(world, Contract.RECORDS, height) == 1
    events = world.done(Vote(proposal=proposal, aye=True), by=world.d)
    voted = UpgradeVoted(contract=Contract.RECORDS, version=2, height=height)
    assert events == (voted, Closed(proposal=proposal, passed=True))
    assert [in_force(world, Contract.RECORDS, one) for one in (height - 1, height, height + 1)] == [1, 2, 2]
    assert world.broken() == []


def test_the_members_may_choose_another_height(world: World) -> None:
    first, second = world.height + 30, world.height + 60
    for height in (first, second):
        upgrade = Upgrade(contract=Contract.RECORDS, version=2, height=height)
        world.propose(upgrade, ayes=(world.b, world.c, world.d))
    assert in_force(world, Contract.RECORDS, first) == 1
    assert in_force(world, Contract.RECORDS, second) == 2
    assert world.broken() == []


def test_a_version_that_came_into_force_meanwhile_is_not_voted_in_again() -> None:
    """The second proposal's height is still to come, so its deciding vote is refused."""
    world = fresh()
    near, far = world.height + 20, world.height + 100
    slow = world.propose(Upgrade(contract=GOVERNANCE, version=2, height=far), ayes=(world.b, world.c))
    world.propose(Upgrade(contract=GOVERNANCE, version=2, height=near), ayes=(world.b, world.c, world.d))
    while world.height < near:
        world.wait(1)
    world.refused(UpgradesCode.NOT_THE_NEXT_VERSION, Vote(proposal=slow, aye=True), by=world.d)
    assert in_force(world, GOVERNANCE, far) == 2


def test_a_contract_that_this_program_does_not_have_can_be_voted_in(world: World) -> None:
    """Which programs run must not decide a vote: they differ while nodes are updated."""
    height = world.height + 30
    world.propose(Upgrade(contract=200, version=1, height=height), ayes=(world.b, world.c, world.d))
    assert [in_force(world, 200, one) for one in (height - 1, height)] == [0, 1]
    assert world.broken() == []


def test_founding_contracts_stand_at_one_unless_the_genesis_says_otherwise() -> None:
    plain = fresh()
    assert [in_force(plain, one, 0) for one in Contract] == [1] * FOUNDING_CONTRACTS
    assert in_force(plain, FOUNDING_CONTRACTS + 1, 0) == 0
    latest = fresh(versions=LATEST)
    assert {one: in_force(latest, one, 0) for one in Contract} == KNOWN


def test_the_query_shows_now_and_to_come(world: World) -> None:
    height = world.height + 40
    world.propose(Upgrade(contract=200, version=1, height=height), ayes=(world.b, world.c, world.d))
    world.propose(Upgrade(contract=GOVERNANCE, version=3, height=height), ayes=(world.b, world.c, world.d))

    def shown(at: int) -> dict[str, VersionLine]:
        view = View(snapshot=world.snapshot, height=at, time_s=world.time_s)
        party = view.contracts.membership.party(world.vera.id)
        assert party is not None
        return {
            line.contract: line for line in ask(view, Asker(world.vera.id, party), "governance.versions", NoArgs()).rows
        }

    now, then = shown(world.height), shown(height)
    assert len(now) == FOUNDING_CONTRACTS + 1
    assert now["records"] == VersionLine(contract="records", version=1, next_version=0, from_height=0, known=True)
    assert now["governance"] == VersionLine(
        contract="governance", version=2, next_version=3, from_height=height, known=False
    )
    assert then["governance"] == VersionLine(
        contract="governance", version=3, next_version=0, from_height=0, known=False
    )
    assert now["number 200"].version == 0
    assert then["number 200"].version == 1


def test_invariants_notice_a_version_left_out(world: World) -> None:
    tables = world.contracts().upgrades
    assert check_state(tables) == []
    tables.versions.put(4, row=VersionRow(version=1, next_version=3, from_height=9))
    assert len(check_state(tables)) == 1


# --- the second version of governance -------------------------------------------------------------------


def test_an_organisation_takes_its_proposal_back(world: World) -> None:
    proposal = world.propose(RemoveMember(member=world.f.id), ayes=(world.b, world.c))
    # Whoever administers for the organisation may, not only who signed the proposal.
    assert world.done(WithdrawProposal(proposal=proposal), by=world.vera) == (ProposalWithdrawn(proposal=proposal),)
    assert dict(proposals(world.contracts().governance))[proposal].standing is Standing.WITHDRAWN
    assert world.contracts().membership.is_member(world.f.id)
    assert world.broken() == []


def test_a_withdrawn_proposal_makes_room(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("carechain.contracts.governance.OPEN_PROPOSALS", 1)
    assert OPEN_PROPOSALS > 1
    proposal = world.propose(RemoveMember(member=world.f.id))
    world.refused(GovernanceCode.TOO_MANY_PROPOSALS, Propose(change=RemoveMember(member=world.e.id)), by=world.b)
    world.done(WithdrawProposal(proposal=proposal), by=world.a)
    world.propose(RemoveMember(member=world.e.id))


def test_taking_back_makes_no_room_for_ever_more(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever proposes goes through all that is kept: one administrator must not be able to pile proposals up."""
    monkeypatch.setattr("carechain.contracts.governance.PROPOSALS_PER_ORGANISATION", 2)
    for _ in range(2):
        proposal = world.propose(RemoveMember(member=world.f.id))
        world.done(WithdrawProposal(proposal=proposal), by=world.vera)
    one_more = Propose(change=RemoveMember(member=world.f.id))
    world.refused(GovernanceCode.TOO_MANY_PROPOSALS, one_more, by=world.vera)
    world.done(one_more, by=world.b)
    world.done(one_more, by=world.a, at=world.time_s + PROPOSAL_LIFETIME_S)
    assert len(dict(proposals(world.contracts().governance))) == 1


def test_what_passed_counts_against_nobody(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("carechain.contracts.governance.PROPOSALS_PER_ORGANISATION", 1)
    for registrar in (False, True, False):
        change = CertifyRegistrar(member=world.a.id, registrar=registrar)
        world.propose(change, ayes=(world.b, world.c, world.d))


def test_an_open_vote_may_be_changed(world: World) -> None:
    proposal = world.propose(RemoveMember(member=world.f.id), ayes=(world.b,))
    world.done(Vote(proposal=proposal, aye=False), by=world.b)
    row = dict(proposals(world.contracts().governance))[proposal]
    assert (row.ayes, row.noes) == ((world.a.id,), (world.b.id,))
    world.done(Vote(proposal=proposal, aye=True), by=world.b)
    world.done(Vote(proposal=proposal, aye=True), by=world.c)
    assert world.done(Vote(proposal=proposal, aye=True), by=world.d)[-1] == Closed(proposal=proposal, passed=True)
    assert world.broken() == []


def test_a_changed_vote_may_decide(world: World) -> None:
    proposal = world.propose(RemoveMember(member=world.f.id), ayes=(world.b,))
    for member in (world.c, world.d):
        world.done(Vote(proposal=proposal, aye=False), by=member)
    assert world.done(Vote(proposal=proposal, aye=False), by=world.b) == (Closed(proposal=proposal, passed=False),)
