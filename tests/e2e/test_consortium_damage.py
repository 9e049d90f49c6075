"""Goal: crashes inside a block, disks that fill up and files that are damaged cost a node of four nothing for good.

Method: CometBFT crashes itself at each of its own fail points, alone and together with the node; a limit of the system
keeps files from growing; bytes of a stopped node's files are changed or removed. The others go on meanwhile, and
afterwards all have equal blocks with everything that was acknowledged in them once.
"""

import os
import resource
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from carechain.engine.cometbft.binary import EngineMissing, find_cometbft
from carechain.engine.cometbft.config import FOLDER, VALIDATOR_STATE
from e2e.consortium import Consortium, until

pytestmark = pytest.mark.engine

FAIL_POINTS = 11
"""Two where the engine notes its own votes, five in finishing a block, four in executing it."""
IN_A_ROW = 4
WRAPPER = """#!/bin/sh
# CometBFT, which crashes at the fail point whose number is the first in $0.next; with $0.both the node is killed too.
if [ "$1" = start ] && [ -s "$0.next" ]; then
    FAIL_TEST_INDEX=$(head -n 1 "$0.next")
    export FAIL_TEST_INDEX
    tail -n +2 "$0.next" > "$0.rest" && mv "$0.rest" "$0.next"
    {program} "$@"
    [ -e "$0.both" ] && kill -9 $PPID
    exit 1
fi
exec {program} "$@"
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consortium]:
    net = Consortium(tmp_path_factory.mktemp("damage"), settings="propose_wait_ms = 1000\n")
    try:
        for name in net.names:
            wrap(net, name)
        net.up()
        net.populate()
        yield net
    finally:
        net.close()


@pytest.fixture
def net(shared: Consortium) -> Consortium:
    shared.start(*(name for name in shared.names if not shared.is_running(name)))
    shared.wait_ready()
    return shared


def wrap(net: Consortium, name: str) -> None:
    """Let the node run the engine through a script, which can be told to let it crash."""
    try:
        program = find_cometbft()
    except EngineMissing as missing:
        pytest.skip(str(missing))
    path = net.home(name) / "engine.sh"
    path.write_text(WRAPPER.replace("{program}", str(program)))
    path.chmod(0o700)
    config = net.home(name) / "config.toml"
    config.write_text(config.read_text() + f'program = "{path}"\n')


def test_the_engine_crashes_at_each_of_its_fail_points(net: Consortium) -> None:
    """At one node the engine alone, several times in a row; at another the node with it; two others go on writing."""
    alone, both, *others = Random(1).sample(net.names, len(net.names))
    (net.home(both) / "engine.sh.both").touch()
    with net.load(*others) as load:
        for index in range(FAIL_POINTS):
            if index % IN_A_ROW == 0:
                # An engine that ends at once too often would be given up: each node has a few crashes in its life.
                crash_at(net, alone, *range(index, min(index + IN_A_ROW, FAIL_POINTS)))
            crash_at(net, both, index)
            until(lambda: not net.is_running(both), f"the node and its engine crash at {index}")
            until(lambda: said(net, alone, index), f"the engine crashes at {index}")  # noqa: B023 - called at once
            assert said(net, both, index)
        (net.home(both) / "engine.sh.both").unlink()
        net.start(both)
        load.more(5)
        net.reach(max(map(net.height, net.names)))
    net.agree()


def crash_at(net: Consortium, name: str, *indexes: int) -> None:
    """Start a node anew; its engine crashes at these fail points, one after the other."""
    if net.is_running(name):
        net.kill(name)
    # Only now: an engine that its node starts at the last moment would be armed, and its script's child outlive it.
    (net.home(name) / "engine.sh.next").write_text("".join(f"{index}\n" for index in indexes))
    net.start(name)


def said(net: Consortium, name: str, index: int) -> bool:
    return f"*** fail-test {index} ***" in net.engine_log(name)


def test_a_full_disk_stops_one_node_with_a_sentence(net: Consortium) -> None:
    victim, *others = Random(2).sample(net.names, len(net.names))
    log = net.home(victim) / "ledger/blocks.log"
    with net.load(*others) as load:
        load.more(5)
        room = log.stat().st_size + 10_000
        resource.prlimit(net.node(victim).pid, resource.RLIMIT_FSIZE, (room, room))
        assert net.ended(victim).startswith("No block can be made any more: OSError. Check the disk")
        assert log.stat().st_size <= room
        load.more(10)
        net.start(victim)
        net.reach(max(map(net.height, others)), victim)
    net.agree()


def test_an_engine_that_cannot_write_is_started_again(net: Consortium) -> None:
    victim, *others = Random(3).sample(net.names, len(net.names))
    engine = net.engine_of(victim)
    assert engine is not None
    with net.load(*others) as load:
        load.more(5)
        resource.prlimit(engine, resource.RLIMIT_FSIZE, (0, 0))
        before = net.height(victim)
        until(lambda: net.engine_of(victim) not in (None, engine), "there is another engine")
        load.more(5)
        net.reach(max(map(net.height, others)), victim)
    assert net.height(victim) > before + 5
    net.agree()


def test_a_damaged_log_is_refused_and_fetched_from_the_others(net: Consortium) -> None:
    victim, *others = Random(4).sample(net.names, len(net.names))
    net.write(others[0], "before the damage")
    height = net.agree()
    net.stop(victim)
    home = net.home(victim)
    spoil(home / "ledger/blocks.log", -40)
    said = net.cannot_run(victim)
    assert said.startswith("The ledger is damaged at ")
    assert "carechain verify" in said
    verdict = net.command("verify", "--home", str(home), expect=1)
    assert verdict["ok"] is False
    # What the validator has signed stays: it must not sign otherwise.
    signed = (home / FOLDER / VALIDATOR_STATE).read_bytes()
    net.command("resync", "--yes", "--home", str(home))
    assert not (home / "ledger").exists()
    assert (home / FOLDER / VALIDATOR_STATE).read_bytes() == signed
    net.start(victim)
    net.reach(height, victim)
    net.wait_ready(victim)
    net.agree()
    net.whole(victim)


def test_a_damaged_tree_is_made_again_from_the_log(net: Consortium) -> None:
    victim, *others = Random(5).sample(net.names, len(net.names))
    net.write(others[0], "before the tree is damaged")
    net.agree()
    net.stop(victim)
    tree = net.home(victim) / "ledger/tree"
    for one in tree.glob("*.nodes"):
        spoil(one, one.stat().st_size // 2)
    spoil(tree / "index/data.mdb", 10)
    net.start(victim)
    net.wait_ready(victim)
    net.write(victim, "after the tree was made again")
    net.agree()
    assert "the state tree is rebuilt" in net.log(victim)


def test_a_killed_node_with_a_torn_log_loses_nothing_for_good(net: Consortium) -> None:
    """The end of the log is missing, as after a power cut on a disk that lied: the engine replays those blocks."""
    victim, *others = Random(6).sample(net.names, len(net.names))
    for number in range(3):
        net.write(others[0], f"before the power cut {number}")
    net.agree()
    net.kill(victim)
    log = net.home(victim) / "ledger/blocks.log"
    os.truncate(log, log.stat().st_size - 100)
    net.start(victim)
    net.wait_ready(victim)
    net.write(victim, "after the power cut")
    net.agree()


def spoil(path: Path, offset: int) -> None:
    """Turn the bits of eight bytes over."""
    data = bytearray(path.read_bytes())
    at = offset % len(data)
    data[at : at + 8] = bytes(byte ^ 0xFF for byte in data[at : at + 8])
    path.write_bytes(data)
