"""Goal: founding a consortium and joining one by command give homes that a node can be started from.

Method: homes on a temporary disk through the program's own runner; what was written is loaded as the node loads it.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from carechain.chain.versions import KNOWN, LATEST
from carechain.cli.main import app
from carechain.cli.network import home_genesis, read_application
from carechain.core.vocabulary import Contract
from carechain.node.settings import load_settings

PEER = f"{'ab' * 20}@节点.example:26656"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a password, and the applications of two founders."""
    folder = tmp_path_factory.mktemp("peering")
    (folder / "password").touch(mode=0o600)
    (folder / "password").write_text("密码\n", encoding="utf-8")
    for name, kind in (("a", "hospital"), ("b", "insurer")):
        run(folder, name, "consortium", "apply", "--name", f"{name} 医院", "--kind", kind)
    return folder


def run(folder: Path, home: str, *words: str, expect: int = 0) -> Any:
    secret = () if words[:2] in (("consortium", "found"), ("consortium", "join")) else ("--password-file",)
    given = (*words, *secret, *((str(folder / "password"),) if secret else ()))
    result = CliRunner().invoke(app, [*given, "--json", "--home", str(folder / home)])
    assert result.exit_code == expect, (result.stdout, result.stderr)
    return json.loads(result.stdout)


def found(folder: Path, out: str, *words: str, expect: int = 0) -> Any:
    applications = [str(folder / name / "application.json") for name in "ab"]
    target = str(folder / out)
    return run(folder, "a", "consortium", "found", *applications, "--out", target, *words, expect=expect)


@pytest.fixture(scope="module")
def genesis(folder: Path) -> Path:
    found(folder, "genesis.json")
    return folder / "genesis.json"


def test_a_network_begins_with_the_latest_versions_or_with_those_that_are_named(folder: Path, genesis: Path) -> None:
    run(folder, "a", "consortium", "join", str(genesis))
    assert home_genesis(folder / "a").versions == LATEST
    older = found(folder, "older.json", "--versions", "governance=1")
    assert older["versions"] == {}
    same = found(folder, "same.json", "--versions", f"Governance={KNOWN[Contract.GOVERNANCE]}, consent=1")
    assert same["versions"] == {"governance": KNOWN[Contract.GOVERNANCE]}


@pytest.mark.parametrize("versions", ["governance", "governance=", "governance=0", "governance=99", "x=1", "", "=1"])
def test_versions_that_cannot_be(folder: Path, genesis: Path, versions: str) -> None:
    assert genesis.exists()
    found(folder, "never.json", "--versions", versions, expect=2)
    assert not (folder / "never.json").exists()


def test_who_joins_a_consortium_gets_a_node_that_knows_its_peers(folder: Path, genesis: Path) -> None:
    words = ("init", "--name", "C", "--kind", "hospital", "--genesis", str(genesis))
    made = run(folder, "c", *words, "--peer", PEER, "--peer", PEER.replace("ab", "cd"), "--listen", "0.0.0.0:26700")
    settings = load_settings(home=folder / "c").consensus
    assert settings.peers == (PEER, PEER.replace("ab", "cd"))
    assert (settings.host, settings.port) == ("0.0.0.0", 26700)  # noqa: S104 - nothing listens in this test
    assert made["node"] == read_application(Path(made["application"])).node_id.hex()
    assert (folder / "c/cometbft/config/node_key.json").exists()


def test_an_address_of_ipv6_is_written_with_brackets(folder: Path, genesis: Path) -> None:
    words = ("init", "--name", "G", "--kind", "hospital", "--genesis", str(genesis), "--listen", "[::1]:26701")
    run(folder, "g", *words)
    settings = load_settings(home=folder / "g").consensus
    assert (settings.host, settings.port) == ("::1", 26701)


def test_a_network_of_one_producer_has_no_engine(folder: Path) -> None:
    made = run(folder, "d", "init", "--name", "D", "--kind", "hospital", "--chain-id", "d")
    assert made["node"] is None
    assert "[consensus]" not in (folder / "d/config.toml").read_text(encoding="utf-8")
    words = ("init", "--name", "E", "--kind", "hospital", "--genesis", str(folder / "d/genesis.json"))
    assert run(folder, "e", *words)["node"] is None
    assert "[consensus]" not in (folder / "e/config.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "words",
    [
        ("--peer", PEER),
        ("--genesis", "GENESIS", "--peer", "ab@host:1"),
        ("--genesis", "GENESIS", "--peer", PEER.replace("ab", "AB")),
        ("--genesis", "GENESIS", "--peer", PEER.removesuffix(":26656")),
        ("--genesis", "GENESIS", "--listen", "26656"),
        ("--genesis", "GENESIS", "--listen", "host:65536"),
        ("--genesis", "GENESIS", "--listen", "host:"),
    ],
)
def test_addresses_that_are_none(folder: Path, genesis: Path, words: tuple[str, ...]) -> None:
    named = [str(genesis) if word == "GENESIS" else word for word in words]
    run(folder, "never", "init", "--name", "F", "--kind", "hospital", *named, expect=2)
    assert not (folder / "never").exists()
