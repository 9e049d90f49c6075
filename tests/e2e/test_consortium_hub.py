"""Goal: the followers of a hub have the whole chain and their own way in, and learn nothing of where each other is.

Method: a hub and two followers, started by the command. All that a follower's engine and node keep and log is searched
for the other's port and node id, and its engine is asked whom it knows. Then the hub goes away and comes back.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from carechain.chain.questions import NoArgs
from e2e.consortium import HEAL_S, Consortium, left_of, until

pytestmark = pytest.mark.engine

HUB, ONE, TWO = "org-1", "org-2", "org-3"


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consortium]:
    net = Consortium(tmp_path_factory.mktemp("hub"), validators=1, followers=2, hub=True)
    try:
        net.testnet("up")
        net.populate()
        yield net
    finally:
        net.close()


def test_followers_submit_through_their_own_nodes_and_have_everything(net: Consortium) -> None:
    for name in net.names:
        net.write(name, f"written at {name}")
    net.agree()
    net.everywhere(net.acknowledged[-3:])
    status = {name: net.status(name) for name in net.names}
    assert {one.validators for one in status.values() if one} == {1}
    assert {name: len(net.peers_of(name)) for name in net.names} == {HUB: 2, ONE: 1, TWO: 1}


@pytest.mark.parametrize(("reader", "other"), [(ONE, TWO), (TWO, ONE)])
def test_a_follower_learns_nothing_of_where_another_is(net: Consortium, reader: str, other: str) -> None:
    net.agree()
    known = net.ask_engine(reader, "net_info")["peers"]
    assert [one["node_info"]["id"] for one in known] == [net.node(HUB).node_id]
    ports = {net.node(other).p2p, net.node(other).api, net.node(other).gatekeeper}
    trace = re.compile(rb"(?<!\d)(" + b"|".join(b"%d" % port for port in ports) + rb")(?!\d)")
    assert trace.search(read(net.home(other) / "config.toml"))
    assert [str(path) for path in net.home(reader).rglob("*") if path.is_file() and trace.search(read(path))] == []
    # The node's id is no address: the genesis names it, and the ledger knows whose it is. The engine has not met it.
    for path in (net.home(reader) / "cometbft").rglob("*"):
        if path.is_file() and path.suffix in (".json", ".log", ".toml"):
            assert net.node(other).node_id.encode() not in read(path), path


def test_without_the_hub_followers_answer_and_go_on_when_it_is_back(net: Consortium) -> None:
    net.agree()
    net.kill(HUB)
    before = {name: net.height(name) for name in (ONE, TWO)}
    for name in (ONE, TWO):
        until(lambda n=name: not net.peers_of(n), f"{name} sees nobody")
        # Questions are answered from its own copy.
        assert len(net.at(name).rows("validators.list", NoArgs())) == 1
    net.start(HUB)
    until(lambda: net.height(HUB) > max(before.values()), "the hub goes on")
    for name, height in before.items():
        until(lambda n=name, h=height: net.height(n) > h, f"{name} goes on", within_s=HEAL_S)
    net.write(TWO, "after the hub came back")
    net.agree()


def test_down_leaves_nothing_running(net: Consortium) -> None:
    assert net.testnet("down")["killed"] == []
    assert left_of(net.folder) == []
    net.testnet("up")
    net.agree()


def read(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""
