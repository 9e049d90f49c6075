"""Goal: only members' nodes are let in, and only seated keys decide the order of blocks (LED-3, LED-4, LED-5).

Method: one row per refusal on a network with four seats; then the life of nodes, keys and seats, the turns of the
rotation counted by hand, and a genesis that contradicts itself.
"""

import pytest

from carechain.chain.genesis import BadGenesis, Genesis, apply_genesis, genesis_hash, read, write
from carechain.chain.queries import Asker, QueryCode, View, ask
from carechain.chain.questions import NoArgs, OfOrganisation
from carechain.contracts import validators
from carechain.contracts.governance import Closed, Propose, RemoveMember, SeatValidator, SetRotation, Vote
from carechain.contracts.upgrades import ContractVersion
from carechain.contracts.validators import (
    AnnounceKey,
    FounderNode,
    FounderSeat,
    KeyAnnounced,
    NodeRegistered,
    NodeRetired,
    RegisterNode,
    RetireNode,
    Rotation,
    RotationChanged,
    SeatChanged,
    ValidatorsCode,
    active,
    address_of,
    admits,
    check_state,
    founding_keys,
    node_message,
    node_owner,
    organisation_of,
)
from carechain.core.crypto import SMALL_ORDER, SigningKey, Suite
from carechain.core.rejection import Rejected, RejectionCode
from rejections import Arrange, Attempt, Limits, Rows, check_refused
from world import Organisation, Signer, World, empty_state, fresh, seeded

rows = Rows()
ROWS = rows
rows.direct.append(ValidatorsCode.NOT_A_CONSORTIUM)


@pytest.fixture
def world() -> World:
    return fresh(validators="abcd")


def keys_of(*organisations: Organisation, number: int = 0) -> tuple[bytes, ...]:
    return tuple(sorted(one.consensus_key(number).public_key for one in organisations))


def acting(world: World, height: int = 0) -> tuple[bytes, ...]:
    return active(world.contracts().validators, height)


def tampered(signature: bytes) -> bytes:
    return signature[:-1] + bytes([signature[-1] ^ 1])


# --- refusals -------------------------------------------------------------------------------------------


@rows.row(ValidatorsCode.NODE_TAKEN)
def a_node_twice(world: World) -> Attempt:
    return world.a, world.a.registration(0)


@rows.row(ValidatorsCode.NODE_TAKEN)
def another_organisations_node(world: World) -> Attempt:
    """Its key would have to sign; but even then a node has one owner."""
    return world.b, world.b.registration(0, key=world.a.node_key())


@rows.row(ValidatorsCode.TOO_MANY_NODES, limits=((validators, "NODES_PER_ORGANISATION", 2),))
def the_third_of_two_nodes(world: World) -> Attempt:
    world.done(world.a.registration(1), by=world.a)
    return world.a, world.a.registration(2)


@rows.row(ValidatorsCode.NODE_PROOF_INVALID)
def a_node_that_did_not_sign(world: World) -> Attempt:
    good = world.a.registration(1)
    return world.a, RegisterNode(node_key=good.node_key, proof=tampered(good.proof))


@rows.row(ValidatorsCode.NODE_PROOF_INVALID)
def a_node_that_signed_for_somebody_else(world: World) -> Attempt:
    return world.b, world.a.registration(1)


@rows.row(ValidatorsCode.NODE_PROOF_INVALID)
def a_node_that_signed_for_another_network(world: World) -> Attempt:
    key = world.a.node_key(1)
    wanted = node_message(chain_id="other", organisation=world.a.id, node_key=key.public_key)
    return world.a, RegisterNode(node_key=key.public_key, proof=key.sign(wanted))


@rows.row(ValidatorsCode.NODE_PROOF_INVALID)
def a_consensus_key_as_a_node(world: World) -> Attempt:
    """What a consensus key signs to be announced registers no node."""
    announced = world.a.announcement(1)
    return world.a, RegisterNode(node_key=announced.consensus_key, proof=announced.proof)


@rows.row(ValidatorsCode.NODE_UNKNOWN)
def retire_nothing(world: World) -> Attempt:
    return world.a, RetireNode(node_id=seeded("none", size=20))


@rows.row(ValidatorsCode.NODE_UNKNOWN)
def retire_another_organisations_node(world: World) -> Attempt:
    return world.a, RetireNode(node_id=world.b.node_id)


@rows.row(ValidatorsCode.KEY_UNUSABLE)
def a_key_that_anybody_signs_for(world: World) -> Attempt:
    return world.a, AnnounceKey(consensus_key=min(SMALL_ORDER), proof=bytes(64))


@rows.row(ValidatorsCode.KEY_UNUSABLE)
def the_same_with_its_sign_turned(world: World) -> Attempt:
    key = sorted(SMALL_ORDER)[1]
    return world.a, AnnounceKey(consensus_key=key[:-1] + bytes([key[-1] | 0x80]), proof=bytes(64))


@rows.row(ValidatorsCode.KEY_TAKEN)
def another_organisations_key(world: World) -> Attempt:
    return world.e, world.e.announcement(key=world.a.consensus_key())


@rows.row(ValidatorsCode.KEY_TAKEN)
def another_organisations_former_key(world: World) -> Attempt:
    """Else old evidence would name the wrong one."""
    world.done(world.a.announcement(1), by=world.a)
    return world.e, world.e.announcement(key=world.a.consensus_key())


@rows.row(ValidatorsCode.TOO_MANY_KEYS, limits=((validators, "CONSENSUS_KEYS_PER_ORGANISATION", 2),))
def the_third_of_two_keys(world: World) -> Attempt:
    world.done(world.a.announcement(1), by=world.a)
    return world.a, world.a.announcement(2)


@rows.row(ValidatorsCode.KEY_PROOF_INVALID)
def a_key_that_did_not_sign(world: World) -> Attempt:
    good = world.e.announcement()
    return world.e, AnnounceKey(consensus_key=good.consensus_key, proof=tampered(good.proof))


@rows.row(ValidatorsCode.KEY_PROOF_INVALID)
def a_key_that_signed_for_somebody_else(world: World) -> Attempt:
    return world.f, world.e.announcement()


@rows.row(ValidatorsCode.KEY_PROOF_INVALID)
def what_is_no_key(world: World) -> Attempt:
    return world.e, AnnounceKey(consensus_key=b"\xff" * 32, proof=bytes(64))


@rows.row(ValidatorsCode.NO_KEY_ANNOUNCED)
def a_seat_without_a_key(world: World) -> Attempt:
    return world.a, Propose(change=SeatValidator(member=world.e.id, seated=True))


@rows.row(ValidatorsCode.SEAT_UNCHANGED)
def a_second_seat(world: World) -> Attempt:
    return world.a, Propose(change=SeatValidator(member=world.b.id, seated=True))


@rows.row(ValidatorsCode.SEAT_UNCHANGED)
def take_no_seat(world: World) -> Attempt:
    world.done(world.e.announcement(), by=world.e)
    return world.a, Propose(change=SeatValidator(member=world.e.id, seated=False))


@rows.row(ValidatorsCode.SEAT_UNCHANGED)
def two_proposals_for_one_seat(world: World) -> Attempt:
    """What was right when it was proposed is looked at again when it passes."""
    world.done(world.e.announcement(), by=world.e)
    first, second = (world.propose(SeatValidator(member=world.e.id, seated=True)) for _ in range(2))
    for member in (world.b, world.c, world.d):
        world.done(Vote(proposal=first, aye=True), by=member)
    for member in (world.b, world.c):
        world.done(Vote(proposal=second, aye=True), by=member)
    return world.d, Vote(proposal=second, aye=True)


def _one_seat_left(world: World) -> None:
    for member in (world.b, world.c, world.d):
        world.propose(SeatValidator(member=member.id, seated=False), ayes=(world.b, world.c, world.d))


@rows.row(ValidatorsCode.LAST_SEAT)
def take_the_last_seat(world: World) -> Attempt:
    _one_seat_left(world)
    return world.b, Propose(change=SeatValidator(member=world.a.id, seated=False))


@rows.row(ValidatorsCode.LAST_SEAT)
def remove_who_has_the_last_seat(world: World) -> Attempt:
    _one_seat_left(world)
    return world.b, Propose(change=RemoveMember(member=world.a.id))


@rows.row(ValidatorsCode.LAST_SEAT)
def remove_who_has_the_last_seat_by_now(world: World) -> Attempt:
    removal = world.propose(RemoveMember(member=world.a.id), ayes=(world.b, world.c))
    _one_seat_left(world)
    return world.d, Vote(proposal=removal, aye=True)


@rows.row(ValidatorsCode.ROTATION_IMPOSSIBLE)
def nobody_takes_turns(world: World) -> Attempt:
    return world.a, Propose(change=SetRotation(every_blocks=10, active=0))


@rows.row(ValidatorsCode.ROTATION_IMPOSSIBLE)
def turns_without_end(world: World) -> Attempt:
    return world.a, Propose(change=SetRotation(every_blocks=0, active=2))


@pytest.mark.parametrize(("code", "arrange", "limits"), rows.params())
def test_refused(
    code: RejectionCode, arrange: Arrange, limits: Limits, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_refused(world, code, arrange, limits, monkeypatch)


def test_where_one_organisation_makes_the_blocks_there_are_no_validators() -> None:
    world = fresh()
    attempts = (
        (world.a, world.a.registration(0)),
        (world.a, world.a.announcement()),
        (world.b, Propose(change=SeatValidator(member=world.a.id, seated=True))),
        (world.b, Propose(change=SetRotation(every_blocks=1, active=1))),
    )
    for by, message in attempts:
        world.refused(ValidatorsCode.NOT_A_CONSORTIUM, message, by=by)
    assert acting(world) == ()
    assert world.broken() == []


# --- nodes ----------------------------------------------------------------------------------------------


def test_a_node_comes_and_goes(world: World) -> None:
    node = address_of(world.e.node_key(1).public_key)
    assert not admits(world.contracts().validators, world.contracts().membership, node)
    events = world.done(world.e.registration(1), by=world.e)
    assert events == (NodeRegistered(organisation=world.e.id, node_id=node),)
    contracts = world.contracts()
    assert node_owner(contracts.validators, node) == world.e.id
    assert admits(contracts.validators, contracts.membership, node)
    assert world.done(RetireNode(node_id=node), by=world.e) == (NodeRetired(organisation=world.e.id, node_id=node),)
    contracts = world.contracts()
    assert node_owner(contracts.validators, node) is None
    assert not admits(contracts.validators, contracts.membership, node)
    world.done(world.e.registration(1), by=world.e)
    assert world.broken() == []


def test_a_removed_members_nodes_are_let_in_no_longer(world: World) -> None:
    contracts = world.contracts()
    assert admits(contracts.validators, contracts.membership, world.f.node_id)
    world.propose(RemoveMember(member=world.f.id), ayes=(world.b, world.c, world.d))
    contracts = world.contracts()
    assert not admits(contracts.validators, contracts.membership, world.f.node_id)
    assert node_owner(contracts.validators, world.f.node_id) == world.f.id


def test_an_organisation_sees_its_own_nodes_and_no_others(world: World) -> None:
    """LED-4: a follower does not learn of other nodes."""
    world.done(world.a.registration(1), by=world.anna)
    view = View(snapshot=world.snapshot, height=world.height, time_s=world.time_s)

    def asker(by: Signer) -> Asker:
        party = view.contracts.membership.party(by.id)
        assert party is not None
        return Asker(by.id, party)

    answer = ask(view, asker(world.anna), "validators.nodes", OfOrganisation(world.a.id))
    assert {one.id for one in answer.rows} == {world.a.node_id, address_of(world.a.node_key(1).public_key)}
    assert len(answer.keys()) == 2
    for by, wanted in ((world.anna, world.b), (world.b, world.a)):
        with pytest.raises(Rejected) as refused:
            ask(view, asker(by), "validators.nodes", OfOrganisation(wanted.id))
        assert refused.value.code is QueryCode.NOT_AUTHORISED
    for by in (world.carl, world.vera, world.gita, world.steve):
        with pytest.raises(Rejected) as refused:
            ask(view, asker(by), "validators.nodes", OfOrganisation(world.a.id))
        assert refused.value.code is QueryCode.ROLE_MAY_NOT_ASK
    listed = ask(view, asker(world.gita), "validators.list", NoArgs())
    assert {one.id for one in listed.rows if one.row.seated} == {one.id for one in (world.a, world.b, world.c, world.d)}


# --- keys and seats -------------------------------------------------------------------------------------


def test_a_key_gives_no_seat_and_a_vote_does(world: World) -> None:
    founders = (world.a, world.b, world.c, world.d)
    key = world.e.consensus_key().public_key
    assert world.done(world.e.announcement(), by=world.e) == (KeyAnnounced(organisation=world.e.id, consensus_key=key),)
    assert acting(world) == keys_of(*founders)
    proposal = world.propose(SeatValidator(member=world.e.id, seated=True), ayes=(world.b, world.c))
    events = world.done(Vote(proposal=proposal, aye=True), by=world.d)
    assert events == (SeatChanged(organisation=world.e.id, seated=True), Closed(proposal=proposal, passed=True))
    assert acting(world) == keys_of(*founders, world.e)
    world.propose(SeatValidator(member=world.a.id, seated=False), ayes=(world.b, world.c, world.d))
    assert acting(world) == keys_of(world.b, world.c, world.d, world.e)
    assert world.broken() == []


def test_a_seated_validator_changes_its_key_and_may_go_back(world: World) -> None:
    old, new = (world.a.consensus_key(number).public_key for number in (0, 1))
    world.done(world.a.announcement(1), by=world.anna)
    assert new in acting(world)
    assert old not in acting(world)
    for key in (old, new):
        assert organisation_of(world.contracts().validators, address_of(key)) == world.a.id
    world.done(world.a.announcement(0), by=world.a)
    assert old in acting(world)
    row = world.contracts().validators.validators.get(world.a.id)
    assert row is not None
    assert row.keys == 2, "a key announced again is no new one"
    assert world.broken() == []


def test_a_removed_member_loses_its_seat_in_the_same_block(world: World) -> None:
    proposal = world.propose(RemoveMember(member=world.d.id), ayes=(world.b, world.c))
    events = world.done(Vote(proposal=proposal, aye=True), by=world.e)
    assert SeatChanged(organisation=world.d.id, seated=False) in events
    assert acting(world) == keys_of(world.a, world.b, world.c)
    assert organisation_of(world.contracts().validators, address_of(keys_of(world.d)[0])) == world.d.id
    assert world.broken() == []


def test_nobody_seats_an_organisation_that_left_meanwhile(world: World) -> None:
    world.done(world.e.announcement(), by=world.e)
    seating = world.propose(SeatValidator(member=world.e.id, seated=True), ayes=(world.b,))
    world.propose(RemoveMember(member=world.e.id), ayes=(world.b, world.c, world.d))
    world.done(Vote(proposal=seating, aye=True), by=world.c)
    receipt = world.run(Vote(proposal=seating, aye=True), by=world.d)
    assert receipt.code != 0
    assert acting(world) == keys_of(world.a, world.b, world.c, world.d)


# --- turns ----------------------------------------------------------------------------------------------


def test_seats_take_turns(world: World) -> None:
    proposal = world.propose(SetRotation(every_blocks=10, active=3), ayes=(world.b, world.c))
    assert world.done(Vote(proposal=proposal, aye=True), by=world.d)[0] == RotationChanged(every_blocks=10, active=3)
    seats = sorted((world.a, world.b, world.c, world.d), key=lambda one: one.id)
    for height, places in ((0, (0, 1, 2)), (9, (0, 1, 2)), (10, (1, 2, 3)), (20, (2, 3, 0)), (39, (3, 0, 1))):
        assert acting(world, height) == keys_of(*(seats[place] for place in places)), height
    assert acting(world, 40) == acting(world, 0)
    before = world.root_hash
    for _ in range(25):
        world.wait(5)
    assert world.root_hash == before, "a turn is no change of the state"


@pytest.mark.parametrize("count", [4, 5, 1024])
def test_as_many_at_a_time_as_there_are_seats_means_all(world: World, count: int) -> None:
    world.propose(SetRotation(every_blocks=1, active=count), ayes=(world.b, world.c, world.d))
    assert acting(world, 7) == keys_of(world.a, world.b, world.c, world.d)
    world.propose(SetRotation(every_blocks=0, active=0), ayes=(world.b, world.c, world.d))
    assert acting(world, 8) == keys_of(world.a, world.b, world.c, world.d)


def test_an_engine_starts_with_the_validators_of_height_zero() -> None:
    world = fresh(validators="abcd", rotation=Rotation(every_blocks=3, active=2))
    assert founding_keys(world.genesis.validators, world.genesis.rotation) == acting(world, 0)
    assert len(acting(world, 0)) == 2
    plain = fresh(validators="abcd")
    assert founding_keys(plain.genesis.validators, plain.genesis.rotation) == acting(plain, 0)


# --- genesis --------------------------------------------------------------------------------------------


def changed(genesis: Genesis, **fields: object) -> Genesis:
    return Genesis(**{field: getattr(genesis, field) for field in genesis.__struct_fields__} | fields)


def test_a_consortiums_genesis_reads_back_and_its_hash_covers_seats_nodes_turns_and_versions(world: World) -> None:
    found = world.genesis
    assert found.is_consortium
    assert not fresh().genesis.is_consortium
    assert read(write(found)) == found
    for fields in (
        {"validators": found.validators[:3]},
        {"nodes": found.nodes[:1]},
        {"rotation": Rotation(every_blocks=1, active=1)},
        {"versions": (ContractVersion(contract=6, version=2),)},
    ):
        assert genesis_hash(changed(found, **fields)) != genesis_hash(found)


def _bad_geneses() -> list[tuple[str, dict[str, object]]]:
    world = fresh(validators="abcd")
    a, b = world.a.seat(), world.b.seat()
    small = min(SMALL_ORDER)
    turns = Rotation(every_blocks=1, active=1)
    seventeen = tuple(FounderNode(member=world.a.id, node_id=seeded("node", one, size=20)) for one in range(17))
    return [
        ("both producers and validators", {"producers": (world.a.id,)}),
        ("neither", {"validators": ()}),
        ("a seat for a stranger", {"validators": (FounderSeat(member=world.carl.id, consensus_key=a.consensus_key),)}),
        ("a node of a stranger", {"nodes": (FounderNode(member=world.carl.id, node_id=bytes(20)),)}),
        ("two seats", {"validators": (a, FounderSeat(member=world.a.id, consensus_key=b.consensus_key))}),
        ("one key for two", {"validators": (a, FounderSeat(member=world.b.id, consensus_key=a.consensus_key))}),
        ("a key of small order", {"validators": (FounderSeat(member=world.a.id, consensus_key=small),)}),
        ("one node for two", {"nodes": (world.genesis.nodes[0], world.genesis.nodes[0])}),
        ("too many nodes", {"nodes": seventeen}),
        ("turns without end", {"rotation": Rotation(every_blocks=0, active=2)}),
        ("nodes without validators", {"validators": (), "producers": (world.a.id,)}),
        ("turns without validators", {"validators": (), "nodes": (), "producers": (world.a.id,), "rotation": turns}),
        ("a contract twice", {"versions": (ContractVersion(contract=6, version=2),) * 2}),
    ]


@pytest.mark.parametrize(("why", "fields"), _bad_geneses(), ids=lambda one: one if isinstance(one, str) else "")
def test_a_genesis_that_contradicts_itself_is_refused(world: World, why: str, fields: dict[str, object]) -> None:
    with pytest.raises(BadGenesis):
        apply_genesis(empty_state(), changed(world.genesis, **fields))


# --- invariants -----------------------------------------------------------------------------------------


def test_invariants_notice_what_is_wrong(world: World) -> None:
    contracts = world.contracts()
    tables, membership = contracts.validators, contracts.membership
    assert check_state(tables, membership) == []
    tables.node_owners.delete(world.a.node_id)
    tables.nodes.delete(world.b.id, world.b.node_id)
    tables.addresses.delete(address_of(world.c.consensus_key().public_key))
    found = check_state(tables, membership)
    assert len(found) == 3
    for (organisation,), row in list(tables.validators.scan()):
        tables.validators.put(organisation, row=type(row)(consensus_key=row.consensus_key, seated=False))
    assert any("no seat" in one for one in check_state(tables, membership))


def test_a_seat_of_nobody_is_noticed(world: World) -> None:
    contracts = world.contracts()
    key = SigningKey(suite=Suite.ED25519, seed=seeded("stray")).public_key
    stray = seeded("nobody")
    contracts.validators.addresses.put(address_of(key), row=validators.OwnerRow(organisation=stray))
    contracts.validators.validators.put(stray, row=validators.ValidatorRow(consensus_key=key, seated=True))
    assert any("no member" in one for one in check_state(contracts.validators, contracts.membership))
