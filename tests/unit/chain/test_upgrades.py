"""Goal: every node changes its rules at the same block; one that lacks the rules stops instead of guessing (LED-11).

Method: one network under the first version of governance votes for the second; the same blocks are applied again from
the genesis; a program that lacks a version is had by taking it from the list of those this one knows.
"""

from typing import Any

import pytest

from carechain.chain import versions
from carechain.chain.receipts import OK, Receipt, code_named
from carechain.chain.transition import Ledger, admit
from carechain.chain.tx import AdmissionCode, parse
from carechain.chain.versions import KNOWN, LATEST, UpgradeNeeded, overview
from carechain.contracts.governance import GovernanceCode, RemoveMember, Upgrade, Vote, WithdrawProposal
from carechain.contracts.upgrades import ContractVersion
from carechain.core.rejection import Rejected
from carechain.core.vocabulary import Contract
from carechain.state.overlay import Overlay
from rejections import Rows
from world import CHAIN_ID, World, fresh

rows = Rows()
ROWS = rows
rows.direct.append(AdmissionCode.NOT_IN_FORCE)

VOTE = Vote(proposal=bytes(32), aye=True)
TO_TWO = {"contract": int(Contract.GOVERNANCE), "version": 2}


@pytest.fixture
def world() -> World:
    return fresh()


def admitting(world: World, height: int | None) -> Ledger:
    return Ledger(
        chain_id=CHAIN_ID,
        state=Overlay(world.snapshot),
        replay=world.replay,
        signatures=world.signatures,
        height=height,
    )


def vote_for_two(world: World, *, notice: int = 20) -> int:
    height = world.height + notice
    world.propose(Upgrade(**TO_TWO, height=height), ayes=(world.b, world.c, world.d))
    return height


def up_to(world: World, height: int) -> None:
    while world.height < height:
        world.wait(1)


def test_a_message_of_the_next_version_is_refused_with_its_reason_and_leaves_what_a_stranger_leaves(
    world: World,
) -> None:
    proposal = world.propose(RemoveMember(member=world.f.id))
    raw = world.sign(WithdrawProposal(proposal=proposal), by=world.a)
    with pytest.raises(Rejected) as refused:
        admit(admitting(world, world.height + 1), parse(raw), world.time_s)
    assert refused.value.code is AdmissionCode.NOT_IN_FORCE
    # A program of before the upgrade cannot read the message: on the ledger both must come to one receipt.
    assert world.block(raw) == [Receipt(int(AdmissionCode.MALFORMED))]
    assert world.changes == []
    assert parse(raw).id not in world.replay


def test_the_reason_comes_before_every_other(world: World) -> None:
    """What an older program cannot read it cannot check further, whatever else is wrong with it."""
    message = WithdrawProposal(proposal=bytes(32))
    for raw in (
        world.sign(message, by=world.a, chain_id="other"),
        world.sign(message, by=world.a, valid_until_s=1),
        world.sign(VOTE, message, by=world.a),
    ):
        assert world.block(raw) == [Receipt(int(AdmissionCode.MALFORMED))]


def test_the_rules_change_at_the_height_and_not_before(world: World) -> None:
    proposal = world.propose(RemoveMember(member=world.f.id), ayes=(world.b,))
    height = vote_for_two(world)
    up_to(world, height - 2)
    # The last block of the first version: a vote stands as it is, and nothing is taken back.
    txs = (
        world.sign(Vote(proposal=proposal, aye=False), by=world.b),
        world.sign(WithdrawProposal(proposal=proposal), by=world.a),
    )
    found = [receipt.code for receipt in world.block(*txs)]
    assert world.height == height - 1
    assert found == [GovernanceCode.ALREADY_VOTED, AdmissionCode.MALFORMED]
    # The first block of the second: the very same bytes that were refused are taken now.
    again = (world.sign(Vote(proposal=proposal, aye=False), by=world.b), txs[1])
    assert [receipt.code for receipt in world.block(*again)] == [OK, OK]
    assert world.height == height
    assert world.broken() == []


def test_admission_looks_at_the_height_of_the_next_block(world: World) -> None:
    height = vote_for_two(world)
    raw = world.sign(WithdrawProposal(proposal=bytes(32)), by=world.a)
    assert admit(admitting(world, height), parse(raw), world.time_s)
    assert admit(admitting(world, None), parse(raw), world.time_s), "without a height: what this program knows"
    with pytest.raises(Rejected):
        admit(admitting(world, height - 1), parse(raw), world.time_s)


def test_the_same_blocks_from_the_genesis_give_the_same_roots() -> None:
    world, blocks = fresh(), []
    start = world.fork()
    original = world.block

    def kept(*txs: bytes, **how: Any) -> list[Receipt]:
        receipts = original(*txs, **how)
        blocks.append((txs, world.time_s, receipts, world.root_hash))
        return receipts

    world.block = kept  # type: ignore[method-assign]
    proposal = world.propose(RemoveMember(member=world.f.id))
    up_to(world, vote_for_two(world, notice=15) - 1)
    world.run(WithdrawProposal(proposal=proposal), by=world.a)
    world.run(Vote(proposal=proposal, aye=True), by=world.b)
    world.propose(Upgrade(contract=int(Contract.RECORDS), version=2, height=world.height + 20))
    for txs, time_s, receipts, root in blocks:
        assert start.block(*txs, at=time_s) == receipts
        assert start.root_hash == root
    codes = [code_named(receipt.code) for _, _, receipts, _ in blocks for receipt in receipts if receipt.code]
    assert codes == [GovernanceCode.PROPOSAL_CLOSED]


def test_no_transaction_reads_the_versions(world: World) -> None:
    """They are read once per block, so a transaction's read digest is the same with and without a vote to come."""
    other = world.fork()
    vote_for_two(world)
    up_to(other, world.height)
    message = RemoveMember(member=world.f.id)
    for one in (world, other):
        one.nonces = 1_000
    assert world.propose(message) == other.propose(message)


def test_a_program_without_the_version_stops_at_the_height_and_not_before(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    height = vote_for_two(world)
    monkeypatch.setattr(versions, "KNOWN", dict.fromkeys(Contract, 1))
    (line,) = [one for one in overview(world.contracts().upgrades, world.height) if one.contract == "governance"]
    assert not line.known, "an operator sees early what to install"
    assert line.from_height == height
    up_to(world, height - 2)
    assert world.run(VOTE, by=world.a).code == GovernanceCode.PROPOSAL_NOT_FOUND
    before = world.root_hash
    with pytest.raises(UpgradeNeeded, match="contract governance runs version 2") as needed:
        world.run(VOTE, by=world.a)
    assert (needed.value.contract, needed.value.version, needed.value.from_height) == ("governance", 2, height)
    assert world.root_hash == before
    admitting(world, height)  # Nothing is executed: whoever only asks is not stopped.


def test_an_empty_block_asks_for_no_version(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    height = vote_for_two(world)
    monkeypatch.setattr(versions, "KNOWN", dict.fromkeys(Contract, 1))
    before = world.root_hash
    up_to(world, height + 3)
    assert world.root_hash == before


def test_a_genesis_from_the_future_is_not_guessed_at() -> None:
    with pytest.raises(UpgradeNeeded, match="contract number 99 runs version 1"):
        fresh(versions=(ContractVersion(contract=99, version=1),))


def test_a_network_that_is_founded_now_begins_with_all_this_program_has() -> None:
    world = fresh(versions=LATEST)
    proposal = world.propose(RemoveMember(member=world.f.id))
    world.done(WithdrawProposal(proposal=proposal), by=world.a)
    assert all(line.known and not line.next_version for line in overview(world.contracts().upgrades, world.height))
    assert {line.contract: line.version for line in overview(world.contracts().upgrades, 0)} == {
        Contract(one).name.lower(): version for one, version in KNOWN.items()
    }
