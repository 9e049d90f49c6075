"""Goal: ``verify`` finds a good ledger good and names what is wrong with a bad one; ``inspect`` reads beside it.

Method: a home made by ``init`` gets a real ledger from the embedded engine; copies of it are altered on the disk.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from carechain.chain.tx import build
from carechain.cli.main import app
from carechain.cli.network import home_genesis
from carechain.contracts.membership import SetLapse
from carechain.engine.blocklog import LOG_NAME
from carechain.engine.embedded import BlockProducer, EmbeddedEngine
from carechain.engine.session import Session
from carechain.sdk.identity import Identity

BLOCKS = 5


def run(home: Path, *words: str, expect: int = 0) -> Any:
    result = CliRunner().invoke(app, [*words, "--json", "--home", str(home)])
    assert result.exit_code == expect, (result.stdout, result.stderr)
    return json.loads(result.stdout) if result.stdout else None


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose ledger holds one transaction per block."""
    folder = tmp_path_factory.mktemp("ledger")
    password = folder / "password"
    password.touch(mode=0o600)
    password.write_text("password", encoding="utf-8")
    home = folder / "home"
    run(home, "init", "--name", "协和医院", "--kind", "hospital", "--password-file", str(password))
    identity = Identity.load(home / "keys" / "member.json", password="password")
    genesis = home_genesis(home)
    with Session.open(home, genesis) as session:
        engine = EmbeddedEngine(session, BlockProducer.of(identity.signing_key()))
        for number in range(1, BLOCKS + 1):
            time_s = genesis.time_s + number
            raw = build(
                key=identity.signing_key(),
                sender=identity.party,
                chain_id=genesis.chain_id,
                nonce=bytes([number]) * 16,
                valid_until_s=time_s + 60,
                messages=(SetLapse(days=number),),
            )
            engine.produce(time_s=time_s, txs=[raw])
    return home


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copy"))


def test_a_good_ledger(made: Path) -> None:
    verdict = run(made, "verify")
    assert (verdict["ok"], verdict["height"], verdict["first_bad"]) == (True, BLOCKS, None)
    assert len(verdict["app_hash"]) == 64


def test_an_altered_log_is_named(copy: Path) -> None:
    log = copy / "ledger" / LOG_NAME
    content = bytearray(log.read_bytes())
    content[len(content) // 2] ^= 1
    log.write_bytes(content)
    verdict = run(copy, "verify", expect=1)
    assert verdict["ok"] is False
    assert verdict["first_bad"]["kind"] in {"block", "transaction", "receipt"}
    assert 1 <= verdict["first_bad"]["height"] <= BLOCKS
    assert verdict["first_bad"]["reason"]
    said = CliRunner().invoke(app, ["verify", "--home", str(copy)])
    assert (said.exit_code, f"WRONG at height {verdict['first_bad']['height']}" in said.stdout) == (1, True)


def test_an_altered_state_is_named(copy: Path) -> None:
    name = "协和医院".encode()
    altered = 0
    for path in (copy / "ledger" / "tree").rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        if name in content:
            path.write_bytes(content.replace(name, name[::-1]))
            altered += 1
    assert altered
    verdict = run(copy, "verify", expect=1)
    assert verdict["first_bad"]["kind"] == "state"
    assert "membership.members" in verdict["first_bad"]["key"]


def test_another_network_s_ledger_is_the_environment(made: Path, copy: Path) -> None:
    genesis = json.loads((copy / "genesis.json").read_bytes())
    genesis["time_s"] += 1
    (copy / "genesis.json").write_text(json.dumps(genesis), encoding="utf-8")
    assert run(copy, "verify", expect=3)["error"]["reason"]


def test_a_home_without_a_ledger_is_the_environment(copy: Path, tmp_path: Path) -> None:
    shutil.rmtree(copy / "ledger")
    for words in (("verify",), ("inspect", "block", "1")):
        assert "no ledger yet" in run(copy, *words, expect=3)["error"]["reason"]
        assert "carechain init" in run(tmp_path / "nothing", *words, expect=3)["error"]["reason"]


def test_inspecting_blocks_and_transactions(made: Path) -> None:
    block = run(made, "inspect", "block", "3")
    (only,) = block["transactions"]
    assert (block["height"], only["messages"], only["code"]) == (3, ["membership.set_lapse"], 0)
    receipt = run(made, "inspect", "tx", only["tx"])["receipt"]
    assert (receipt["height"], receipt["index"], receipt["signer"]) == (3, 0, only["signer"])
    assert run(made, "inspect", "block", str(BLOCKS + 1), expect=1)["error"]["label"] == "NODE.BLOCK_UNKNOWN"
    assert run(made, "inspect", "tx", "00" * 32, expect=1)["error"]["label"] == "NODE.TX_UNKNOWN"


def test_inspecting_state(made: Path) -> None:
    assert "membership.members" in {one["table"] for one in run(made, "inspect", "state")["tables"]}
    shown = run(made, "inspect", "state", "membership.members")
    assert shown["height"] == BLOCKS
    (member,) = shown["rows"]
    assert (member["row"]["name"], member["row"]["lapse_days"]) == ("协和医院", BLOCKS)
    again = run(made, "inspect", "state", "membership.members", "--key", member["key"][0])
    assert again["rows"] == [member]
    assert run(made, "inspect", "state", "membership.members", "--key", "00" * 32)["rows"] == []


@pytest.mark.parametrize(
    "words",
    [
        ("state", "no.such_table"),
        ("state", "membership.members", "--key", "xy"),
        ("state", "membership.members", "--key", "00"),
        ("state", "membership.members", "--key", "00" * 32, "--key", "00" * 32),
        ("block", "0"),
        ("block", "x"),
        ("tx", "x"),
    ],
    ids=" ".join,
)
def test_bad_input_is_usage(made: Path, words: tuple[str, ...]) -> None:
    assert run(made, "inspect", *words, expect=2)["error"]["code"] is None
