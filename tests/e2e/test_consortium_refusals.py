"""Goal: a node that cannot run says why in one sentence and exits with 3; it never hangs and leaves no engine behind.

Method: one organisation's home, of a network of one, is spoilt in one way after the other: another network's files, a
port that is taken, engines that are missing, old, silent or broken. And a stranger's node knocks at its door.
"""

import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from carechain.cli import local_network as local
from carechain.engine.cometbft.binary import VERSION
from carechain.engine.cometbft.config import FOLDER, VALIDATOR_KEY
from e2e.consortium import Consortium, holds_for, until

pytestmark = pytest.mark.engine

ONE = "org-1"


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Consortium, Consortium]]:
    """Two networks of one organisation each: neither runs, and both have a few blocks."""
    folder = tmp_path_factory.mktemp("refusals")
    nets = [Consortium(folder / name, validators=1) for name in ("own", "other")]
    try:
        for net in nets:
            net.up()
            net.populate()
            net.stop(ONE)
        yield nets[0], nets[1]
    finally:
        for net in nets:
            net.close()


@pytest.fixture
def net(networks: tuple[Consortium, Consortium]) -> Iterator[Consortium]:
    """A network whose home may be spoilt: it is put back afterwards."""
    net, _ = networks
    kept = net.folder / "kept"
    shutil.copytree(net.home(ONE), kept)
    yield net
    shutil.rmtree(net.home(ONE))
    kept.rename(net.home(ONE))


@pytest.fixture
def other(networks: tuple[Consortium, Consortium]) -> Consortium:
    return networks[1]


def test_a_home_with_another_networks_genesis(net: Consortium, other: Consortium) -> None:
    shutil.copyfile(other.home(ONE) / "genesis.json", net.home(ONE) / "genesis.json")
    assert "another genesis" in net.cannot_run(ONE)


def test_a_home_with_another_networks_engine(net: Consortium, other: Consortium) -> None:
    """The ledger is empty, as after a restore that went wrong, and the engine's data are another network's."""
    shutil.rmtree(net.home(ONE) / "ledger")
    shutil.rmtree(net.home(ONE) / FOLDER / "data")
    shutil.copytree(other.home(ONE) / FOLDER / "data", net.home(ONE) / FOLDER / "data")
    assert "was started from another genesis than this home has" in net.cannot_run(ONE)


def test_a_ledger_ahead_of_its_engine(net: Consortium) -> None:
    """The engine's data were removed and the ledger was not: the engine alone knows why that cannot go on."""
    for one in (net.home(ONE) / FOLDER / "data").iterdir():
        if one.is_dir():
            shutil.rmtree(one)
    assert "The consensus engine ends right after its start" in net.cannot_run(ONE)


@pytest.mark.parametrize("which", ["p2p", "api", "ops", "gatekeeper"])
def test_a_port_that_is_taken(net: Consortium, which: str) -> None:
    port = getattr(net.node(ONE), which)
    with socket.create_server(("127.0.0.1", port)):
        assert net.cannot_run(ONE).startswith(f"Cannot listen at 127.0.0.1:{port}: Address already in use.")


def test_an_engine_that_is_missing(net: Consortium, tmp_path: Path) -> None:
    said = net.cannot_run(ONE, env={"CARECHAIN_COMETBFT": str(tmp_path / "nothing")})
    assert "is not a program" in said
    assert "go install" in said


ENGINES: dict[str, tuple[str, str]] = {
    "old": ("echo 0.38.17", f"is CometBFT 0.38.17; version {VERSION} is needed"),
    "mute": ("true", "does not say which CometBFT it is"),
    "failing": ("exit 4", "cannot be run"),
    "broken": (f'test "$1" = version && echo {VERSION} && exit; echo "no such luck" >&2; exit 7', "no such luck"),
}


@pytest.mark.parametrize("kind", ENGINES)
def test_an_engine_that_is_not_the_right_one(net: Consortium, tmp_path: Path, kind: str) -> None:
    does, says = ENGINES[kind]
    assert says in net.cannot_run(ONE, env={"CARECHAIN_COMETBFT": str(script(tmp_path, does))})


def test_an_engine_that_never_calls(net: Consortium, tmp_path: Path) -> None:
    """It runs and does nothing: the node answers, says that it is not ready, and stops when it is told to."""
    program = script(tmp_path, f'test "$1" = version && echo {VERSION} && exit; exec tail -f "$0"')
    config = net.home(ONE) / "config.toml"
    config.write_text(config.read_text() + f'program = "{program}"\n')
    net.start(ONE)
    status = until(lambda: net.status(ONE), "it answers")
    assert status.height > 0
    until(lambda: (s := net.status(ONE)) is not None and not s.ready, "it says that it is not ready")
    process = local._children[net.node(ONE).pid]
    net.stop(ONE)
    assert process.wait() == 0


def script(folder: Path, does: str) -> Path:
    path = folder / "engine"
    path.write_text(f"#!/bin/sh\n{does}\n")
    path.chmod(0o700)
    return path


def _no_folder(home: Path) -> None:
    """A file stands where the engine's folder has to be."""
    shutil.rmtree(home / FOLDER)
    (home / FOLDER).write_text("no folder")


def _no_data(home: Path) -> None:
    shutil.rmtree(home / FOLDER / "data")
    (home / FOLDER / "data").write_text("no folder")


def _no_ledger(home: Path) -> None:
    shutil.rmtree(home / "ledger")
    (home / "ledger").write_text("no folder")


def _no_key(home: Path) -> None:
    (home / FOLDER / VALIDATOR_KEY).write_text("{}")


@pytest.mark.parametrize("spoil", [_no_folder, _no_data, _no_ledger, _no_key], ids=lambda one: one.__name__)
def test_a_home_that_cannot_be_used(net: Consortium, spoil: Callable[[Path], None]) -> None:
    """Permissions mean nothing to the administrator of a machine, so files stand in the way instead."""
    spoil(net.home(ONE))
    said = net.cannot_run(ONE)
    assert said
    assert "unexpected" not in said


def test_a_node_of_another_network_is_not_let_in(net: Consortium, other: Consortium) -> None:
    """Its engine says another genesis; it is registered nowhere, and would be asked for its network before that."""
    node = net.node(ONE)
    config = other.home(ONE) / "config.toml"
    config.write_text(config.read_text().replace("peers = []", f'peers = ["{node.node_id}@127.0.0.1:{node.p2p}"]'))
    net.start(ONE)
    other.start(ONE)
    net.wait_ready(ONE)
    other.wait_ready(ONE)
    holds_for(3.0, lambda: not net.peers_of(ONE) and not other.peers_of(ONE), "they do not connect")
    net.stop(ONE)
    other.stop(ONE)
