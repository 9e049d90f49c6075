"""Goal: a validator that is proved to lie is named for good and loses its seat, and the network goes on (LED-6).

Method: blocks with evidence and without transactions, on a network with four seats.
"""

import pytest

from carechain.chain.queries import Asker, QueryCode, View, ask
from carechain.chain.questions import SanctionPage
from carechain.chain.replay import REPLAY
from carechain.contracts import sanctions as contract
from carechain.contracts.governance import RemoveMember, SeatValidator, Vote
from carechain.contracts.sanctions import SanctionRow, check_state, sanctions
from carechain.contracts.validators import SeatChanged, active, address_of, validators
from carechain.core.evidence import Evidence, Offence
from carechain.core.rejection import Rejected
from world import Organisation, Signer, World, fresh, seeded


@pytest.fixture
def world() -> World:
    return fresh(validators="abcd")


def lie(organisation: Organisation, *, height: int = 3, number: int = 0) -> Evidence:
    address = address_of(organisation.consensus_key(number).public_key)
    return Evidence(offence=Offence.DOUBLE_VOTE, address=address, height=height, time_s=1_800_000_000)


def recorded(world: World) -> list[tuple[bytes, int, SanctionRow]]:
    return list(sanctions(world.contracts().sanctions))


def seated(world: World) -> set[bytes]:
    return {one for one, row in validators(world.contracts().validators) if row.seated}


def test_a_lie_is_recorded_and_costs_the_seat(world: World) -> None:
    before = world.root_hash
    assert world.block(evidence=(lie(world.b),)) == []
    row = SanctionRow(offence=Offence.DOUBLE_VOTE, time_s=1_800_000_000, recorded_height=world.height, unseated=True)
    assert recorded(world) == [(world.b.id, 3, row)]
    assert seated(world) == {world.a.id, world.c.id, world.d.id}
    assert len(active(world.contracts().validators, world.height)) == 3
    assert world.root_hash != before
    assert not any(key[0] == REPLAY.prefix for key, _ in world.changes)
    assert world.broken() == []


def test_the_same_lie_again_changes_nothing(world: World) -> None:
    world.block(evidence=(lie(world.b), lie(world.b)))
    before = world.root_hash
    world.block(evidence=(lie(world.b),))
    assert world.root_hash == before
    world.block(evidence=(lie(world.b, height=4),))
    assert [height for _, height, _ in recorded(world)] == [3, 4]
    assert [row.unseated for *_, row in recorded(world)] == [True, False]


def test_an_address_that_nobody_announced_is_nobodys(world: World) -> None:
    before = world.root_hash
    stray = Evidence(offence=Offence.DOUBLE_VOTE, address=seeded("stray", size=20), height=1, time_s=1)
    world.block(evidence=(stray,))
    assert world.root_hash == before


def test_a_former_key_still_names_its_organisation(world: World) -> None:
    world.done(world.b.announcement(1), by=world.b)
    world.block(evidence=(lie(world.b, number=0),))
    assert world.b.id not in seated(world)


def test_the_last_seat_stays(world: World) -> None:
    world.block(evidence=tuple(lie(one) for one in (world.a, world.b, world.c)))
    assert seated(world) == {world.d.id}
    world.block(evidence=(lie(world.d),))
    assert seated(world) == {world.d.id}
    unseated = {organisation: row.unseated for organisation, _, row in recorded(world)}
    assert unseated == {world.a.id: True, world.b.id: True, world.c.id: True, world.d.id: False}
    assert world.broken() == []


def test_one_that_left_is_named_all_the_same(world: World) -> None:
    world.propose(RemoveMember(member=world.d.id), ayes=(world.b, world.c, world.d))
    world.block(evidence=(lie(world.d),))
    ((organisation, _, row),) = recorded(world)
    assert organisation == world.d.id
    assert not row.unseated


def test_the_members_may_forgive(world: World) -> None:
    world.block(evidence=(lie(world.b),))
    world.propose(SeatValidator(member=world.b.id, seated=True), ayes=(world.b, world.c, world.d))
    assert world.b.id in seated(world)
    world.block(evidence=(lie(world.b),))
    assert world.b.id in seated(world), "evidence of what was judged already"
    assert len(recorded(world)) == 1


def test_evidence_is_judged_before_the_transactions_of_its_block(world: World) -> None:
    world.done(world.e.announcement(), by=world.e)
    proposal = world.propose(SeatValidator(member=world.e.id, seated=True), ayes=(world.b, world.c))
    raw = world.sign(Vote(proposal=proposal, aye=True), by=world.d)
    (receipt,) = world.block(raw, evidence=(lie(world.d),))
    assert SeatChanged(organisation=world.e.id, seated=True) in receipt.events
    assert seated(world) == {world.a.id, world.b.id, world.c.id, world.e.id}


def test_members_and_the_regulator_read_sanctions_page_by_page(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.block(evidence=tuple(lie(world.b, height=height) for height in range(1, 6)))
    monkeypatch.setattr(contract, "QUERY_PAGE_ROWS", 2)
    monkeypatch.setattr("carechain.chain.queries.QUERY_PAGE_ROWS", 2)
    view = View(snapshot=world.snapshot, height=world.height, time_s=world.time_s)

    def asker(by: Signer) -> Asker:
        party = view.contracts.membership.party(by.id)
        assert party is not None
        return Asker(by.id, party)

    heights: list[int] = []
    after = None
    while True:
        answer = ask(view, asker(world.gita), "sanctions.list", SanctionPage(after))
        assert len(answer.keys()) == len(answer.rows)
        heights += [line.height for line in answer.rows]
        if answer.after is None:
            break
        after = answer.after
    assert heights == [1, 2, 3, 4, 5]
    for by in (world.a, world.anna, world.vera):
        assert ask(view, asker(by), "sanctions.list", SanctionPage()).rows
    for by in (world.carl, world.steve):
        with pytest.raises(Rejected) as refused:
            ask(view, asker(by), "sanctions.list", SanctionPage())
        assert refused.value.code is QueryCode.ROLE_MAY_NOT_ASK


def test_an_offence_that_is_still_to_come_is_noticed(world: World) -> None:
    tables = world.contracts().sanctions
    row = SanctionRow(offence=Offence.DOUBLE_VOTE, time_s=0, recorded_height=3, unseated=False)
    tables.sanctions.put(world.a.id, 4, row=row)
    assert len(check_state(tables)) == 1
