"""Goal: members vote delegates in and out, and the delegates that have a seat take turns at deciding (LED-5).

Method: five organisations with seats of which four act for five blocks at a time, and one without. While writers go on,
a delegate is voted out and the sixth organisation in. For every height the engine's own validators are compared with a
model of turns, and the block's producer must be one of them. Then a delegate fails, and the rotation is voted off.
"""

from collections.abc import Iterator
from typing import Final

import pytest

from carechain.contracts.validators import Rotation
from e2e.changing import Changing, step
from e2e.consortium import until

pytestmark = pytest.mark.engine

EVERY: Final = 5
ACTIVE: Final = 4
ACTS_AFTER: Final = 2
"""The engine acts two blocks later on what the ledger says."""


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Changing]:
    rotation = Rotation(every_blocks=EVERY, active=ACTIVE)
    net = Changing(tmp_path_factory.mktemp("elected") / "net", validators=5, followers=1, rotation=rotation)
    try:
        net.testnet("up")
        net.populate()
        yield net
    finally:
        net.close()


def turn(net: Changing, seats: set[str], height: int) -> set[str]:
    """Whose turn it is after the block at ``height``: so many seats in the order of ids, beginning one further on."""
    order = sorted(seats, key=lambda name: net.member(name).party)
    if len(order) <= ACTIVE:
        return set(order)
    first = height // EVERY % len(order)
    return {order[(first + place) % len(order)] for place in range(ACTIVE)}


def decide(net: Changing, *words: str, votes: int) -> int:
    """A proposal of the first organisation that others vote for until it has passed; the height at which it has."""
    proposal = net.carechain("org-1", "validator", *words)["proposal"]
    return net.pass_vote(proposal, *net.names[1:votes])


@step()
def test_delegates_take_turns_and_are_voted_in_and_out(net: Changing) -> None:
    seats = {1: set(net.names[:5])}
    """From which block on who has a seat."""
    member = {name: net.member(name).party.hex() for name in net.names}
    refused = net.carechain("org-1", "validator", "propose-seat", member["org-6"], expect=1)
    assert refused["error"]["label"] == "VALIDATORS.NO_KEY_ANNOUNCED"
    with net.load("org-1", "org-2", "org-3", "org-6") as load:
        until(lambda: net.height("org-1") >= 3 * EVERY, "some turns")
        out = decide(net, "propose-unseat", member["org-5"], votes=4)
        seats[out] = seats[1] - {"org-5"}
        load.more(5)
        net.carechain("org-6", "validator", "announce")
        seated = decide(net, "propose-seat", member["org-6"], votes=4)
        seats[seated] = seats[out] | {"org-6"}
        until(lambda: net.height("org-1") >= seated + 6 * EVERY, "everybody has had turns")
    top = net.agree()
    producers = net.producers()
    sets = []
    for height in range(1, top + 1):
        before = max(0, height - ACTS_AFTER)
        known = seats[max(one for one in seats if one <= max(1, before))]
        acting = net.acting(height)
        assert acting == turn(net, known, before), height
        assert len(acting) == ACTIVE
        assert producers[height - 1] in acting
        sets.append(frozenset(acting))
    assert len(set(sets)) > ACTIVE
    # A turn of five blocks is long enough for each of the four to propose.
    assert set(producers[: out + ACTS_AFTER]) == set(net.names[:5])
    assert "org-5" not in producers[out + ACTS_AFTER :]
    assert "org-6" not in producers[: seated + ACTS_AFTER]
    assert set(producers[seated + ACTS_AFTER :]) == seats[seated]
    net.everywhere(load.acknowledged[-20:])


@step(after=test_delegates_take_turns_and_are_voted_in_and_out)
def test_turns_go_on_without_one_delegate_and_end_by_vote(net: Changing) -> None:
    net.kill("org-2")
    with net.load("org-1", "org-3", "org-6") as load:
        # What it proposed before its end may still become a block.
        first = net.height("org-1") + 2
        until(lambda: net.height("org-1") > first + 2 * EVERY, "turns go on")
        last = net.height("org-1")
        net.start("org-2")
        net.wait_ready("org-2")
        load.more(5)
    net.agree()
    assert "org-2" not in net.producers()[first:last]
    over = decide(net, "propose-rotation", "--every", "0", "--active", "0", votes=4)
    net.reach(over + ACTS_AFTER)
    assert net.acting(over + ACTS_AFTER) == {"org-1", "org-2", "org-3", "org-4", "org-6"}
    net.write("org-5", "the one that was voted out writes as before")
    net.agree()
