"""``carechain resync`` sets the ledger aside and keeps what must never be lost.

Method: the real command on a founder's home whose ledger and engine folder hold files; what is left is compared.
"""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from carechain.cli.local_network import PASSWORD_FILE, make
from carechain.cli.main import app
from carechain.contracts.validators import Rotation
from carechain.engine.cometbft.config import VALIDATOR_STATE
from carechain.node.home import open_home


@pytest.fixture
def home(tmp_path: Path) -> Path:
    make(tmp_path, chain_id="small", validators=1, followers=0, hub=False, rotation=Rotation())
    made = tmp_path / "org-1"
    (made / "ledger" / "blocks.log").write_bytes(b"damaged")
    for one in ("blockstore.db", "cs.wal"):
        (made / "cometbft" / "data" / one).mkdir()
        (made / "cometbft" / "data" / one / "file").write_bytes(b"old")
    return made


def run(home: Path, *words: str) -> tuple[int, dict[str, object]]:
    result = CliRunner().invoke(app, ["resync", "--home", str(home), "--json", *words])
    return result.exit_code, json.loads(result.stdout)


def test_without_yes_nothing_changes(home: Path) -> None:
    before = sorted(home.rglob("*"))
    status, said = run(home)
    assert (status, said["done"]) == (0, False)
    assert sorted(home.rglob("*")) == before


def test_the_ledger_is_set_aside_and_the_signing_state_stays(home: Path) -> None:
    signed = (home / "cometbft" / VALIDATOR_STATE).read_bytes()
    for number in (1, 2):
        status, said = run(home, "--yes")
        assert (status, said["done"]) == (0, True)
        assert said["set_aside"] == str(home / f"ledger-set-aside-{number}")
        assert [one.name for one in (home / "cometbft" / "data").iterdir()] == [VALIDATOR_STATE.name]
        assert (home / "cometbft" / VALIDATOR_STATE).read_bytes() == signed
        assert not (home / "ledger").exists()
        (home / "ledger").mkdir()
    assert (home / "ledger-set-aside-1" / "blocks.log").read_bytes() == b"damaged"
    assert (home.parent / PASSWORD_FILE).exists()


def test_a_running_node_is_left_alone(home: Path) -> None:
    with open_home(home):
        status, said = run(home, "--yes")
    assert status == 3
    assert "Another node is running" in json.dumps(said)
    assert (home / "ledger" / "blocks.log").exists()
