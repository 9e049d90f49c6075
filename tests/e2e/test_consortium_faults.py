"""Goal: a consortium of four keeps working, and every promise, through the faults that machines and networks have.

Method: four real nodes with their engines, every peer link through a proxy of the test's own. Writers submit all the
time; processes are killed, paused and cut off, at moments drawn with fixed seeds. After each fault all nodes have equal
blocks, hence equal app hashes at equal heights; everything that was acknowledged is there exactly once; and ten seconds
after the fault is mended there is progress.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from random import Random

import pytest

from carechain.core.limits import STALE_BLOCK_S
from e2e.consortium import HEAL_S, Consortium, Load, children_of, holds_for, is_alive, until
from world import anchor_of

pytestmark = pytest.mark.engine

PAUSE_S = 10.0
QUIET_S = 40.0
"""Longer than the age at which a node calls its last block old."""
QUICK = "propose_wait_ms = 1000\n"
"""A proposer that is away costs the others a second and not three: the tests are shorter."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consortium]:
    net = Consortium(tmp_path_factory.mktemp("faults") / "网络", wired=True, settings=QUICK)
    try:
        net.testnet("up")
        net.populate()
        yield net
    finally:
        net.close()


@pytest.fixture
def net(shared: Consortium) -> Consortium:
    """The network, whole: each test leaves it as it found it, and this makes sure that one that failed does too."""
    assert shared.wires is not None
    shared.wires.mend()
    shared.start(*(name for name in shared.names if not shared.is_running(name)))
    shared.wait_ready()
    return shared


def progress(net: Consortium, *names: str) -> None:
    """Within the time that the issue grants, each of these nodes has a block that it had not."""
    before = {name: net.height(name) for name in names or net.names}
    began_s = time.monotonic()
    for name, height in before.items():
        until(lambda n=name, h=height: net.height(n) > h, f"{name} goes on", within_s=HEAL_S)
    print(f"progress everywhere after {time.monotonic() - began_s:.1f} s")  # noqa: T201 - measured


def test_a_killed_node_leaves_nothing_and_catches_up(net: Consortium) -> None:
    victim = Random(1).choice(net.names)
    others = [name for name in net.names if name != victim]
    with net.load(*others) as load:
        load.more(10)
        node, engine = net.node(victim).pid, net.engine_of(victim)
        assert engine is not None
        net.kill(victim)
        assert not is_alive(node)
        assert not is_alive(engine)
        load.more(20)
        net.start(victim)
        net.wait_ready(victim)
        load.more(5)
    net.agree()
    net.everywhere(load.acknowledged)


def test_a_killed_engine_is_started_again(net: Consortium) -> None:
    victim = Random(2).choice(net.names)
    node, engine = net.node(victim).pid, net.engine_of(victim)
    assert engine is not None
    with net.load() as load:
        load.more(5)
        os.kill(engine, signal.SIGKILL)
        again = until(lambda: next((one for one in children_of(node) if one != engine), None), "another engine")
        load.more(5)
        net.reach(max(map(net.height, net.names)), victim)
    assert net.node(victim).pid == node
    assert net.is_running(victim)
    assert is_alive(again)
    progress(net)
    net.agree()


def test_a_paused_node_is_not_missed_and_catches_up(net: Consortium) -> None:
    victim = Random(3).choice(net.names)
    others = [name for name in net.names if name != victim]
    with net.load(*others) as load:
        load.more(5)
        net.send(signal.SIGSTOP, victim)
        for_a_while(load)
        net.send(signal.SIGCONT, victim)
        progress(net)
    net.agree()
    net.everywhere(load.acknowledged, victim)


@pytest.mark.parametrize("how", ["cut", "hold"])
def test_a_leader_that_is_cut_off_does_not_stop_the_others(net: Consortium, how: str) -> None:
    """``cut``: connections break. ``hold``: nothing arrives any more, and nobody is told."""
    wires = net.wires
    assert wires is not None
    net.write(net.names[0], f"before {how}")
    net.agree()
    owners = {net.member(name).party: name for name in net.names}
    leader = owners[net.headers[-1].producer]
    others = [name for name in net.names if name != leader]
    with net.load(*others) as load:
        load.more(5)
        from_height = net.height(others[0])
        (wires.cut if how == "cut" else wires.hold)(leader)
        for_a_while(load)
        assert how == "hold" or net.peers_of(leader) == set()
        # Turns go round, so the one that is away was to propose at least once meanwhile.
        cut_height = net.height(leader)
        until(lambda: net.height(others[0]) > cut_height + 2 * len(net.names), "the others go on")
        assert net.height(leader) <= from_height + 2
        # What the one that is cut off takes in is not lost, and is there once it is back.
        with net.client(leader, by=net.carl) as client:
            raw = client.sign(anchor_of(net.steve, f"meanwhile {how}"))
            waiting = threading.Thread(target=lambda: net.acknowledged.append(client.send(raw).tx_id))
            waiting.start()
            wires.mend()
            progress(net)
            waiting.join()
    net.agree()
    assert not any(
        owners[one.producer] == leader for one in net.headers[from_height + 2 : cut_height + 2 * len(net.names)]
    )


def test_two_of_four_down_stop_it_and_lose_nothing(net: Consortium) -> None:
    down = Random(5).sample(net.names, 2)
    left = [name for name in net.names if name not in down]
    with net.load(*left) as load:
        load.more(5)
        # Writers stop first: what they have not heard of would count as lost otherwise.
    net.kill(*down)
    height = net.agree(*left)
    with net.client(left[0], by=net.carl) as client:
        raw = client.sign(anchor_of(net.steve, "while two are down"))
        waiting = threading.Thread(target=lambda: net.acknowledged.append(client.send(raw).tx_id))
        waiting.start()
        for name in left:
            status = until(lambda n=name: (s := net.status(n)) is not None and not s.ready and s, f"{name} says so")
            assert "more than two thirds of the 4 validators must be there" in status.why
            assert "Nothing is lost" in status.why
        assert all(net.height(name) <= height + 1 for name in left)
        shown = {one["name"]: one for one in net.testnet("status", expect=3)["nodes"]}
        assert [shown[name]["why"] for name in down] == ["it does not run"] * 2
        assert all("two thirds" in shown[name]["why"] for name in left)
        assert waiting.is_alive()
        net.start(down[0])
        until(lambda: not waiting.is_alive(), "what waited is acknowledged")
        waiting.join()
    net.start(down[1])
    net.wait_ready()
    progress(net)
    net.agree()


def test_killed_at_any_moment_ten_times(net: Consortium) -> None:
    rnd = Random(7)
    with net.load() as load:
        for _ in range(10):
            victim = rnd.choice(net.names)
            load.more(rnd.randint(1, 6))
            engine = net.engine_of(victim)
            if rnd.random() < 0.3 and engine is not None:
                os.kill(engine, signal.SIGKILL)
            else:
                net.kill(victim)
                net.start(victim)
            net.reach(max(map(net.height, net.names)), victim)
    progress(net)
    net.agree()
    net.everywhere(load.acknowledged[-20:])


def test_after_a_quiet_while_a_write_is_taken_at_once(net: Consortium) -> None:
    """Hours cannot be waited for; what they would spoil, the age of the last block, is kept young by empty blocks."""
    oldest_s = 0.0

    def young() -> bool:
        nonlocal oldest_s
        oldest_s = max(oldest_s, *(time.time() - status.time_s for status in map(net.status, net.names) if status))
        return oldest_s < STALE_BLOCK_S

    holds_for(QUIET_S, young, "the last block is young")
    began_s = time.monotonic()
    for name in net.names:
        net.write(name, f"after the quiet, at {name}")
    took_s = time.monotonic() - began_s
    print(f"idle for {QUIET_S:.0f} s: the last block was {oldest_s:.1f} s old at most")  # noqa: T201 - measured
    print(f"then four writes, one at each node, in {took_s:.2f} s")  # noqa: T201 - measured
    net.agree()


def for_a_while(load: Load) -> None:
    """As long as a pause is to last, and writes are acknowledged meanwhile."""
    end_s = time.monotonic() + PAUSE_S
    while time.monotonic() < end_s:
        load.more(1)
