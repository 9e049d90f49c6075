"""Goal: an operator gets a home into a file and back with three commands, and each says what it did, or why not.

Method: the commands themselves, in this process, on homes made by ``carechain init`` and on one with a real ledger;
their one JSON object, their exit status, and what lies on the disk afterwards.
"""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from carechain.chain import genesis as founding
from carechain.cli import main
from carechain.cli.backing import app
from carechain.cli.homes import program_version
from carechain.engine.rollback import RollbackCode
from carechain.node import archive
from carechain.node.archive import ArchiveCode
from carechain.node.backup import BackupCode
from carechain.node.home import make_home, open_home
from carechain.sdk import keyfile
from carechain.sealing.symmetric import ScryptCost
from node_network import founders, genesis_of
from node_network import running as network_in


@pytest.fixture(autouse=True)
def _own_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of this machine decides anything, and passwords cost little: their cost is not what is tested."""
    for name in ("CARECHAIN_HOME", "CARECHAIN_PASSWORD_FILE"):
        monkeypatch.delenv(name, raising=False)
    for module in (keyfile, archive):
        monkeypatch.setattr(module, "ScryptCost", lambda **given: ScryptCost(**{"n": 1024, "r": 1, **given}))


@pytest.fixture
def password(tmp_path: Path) -> str:
    return secret(tmp_path / "password", "口令")


def secret(path: Path, text: str) -> str:
    path.write_text(text + "\n", encoding="utf-8")
    path.chmod(0o600)
    return str(path)


def run(*words: str | Path, home: Path, expect: int = 0, program: Any = app) -> dict[str, Any]:
    result = CliRunner().invoke(program, [*map(str, words), "--home", str(home), "--json"])
    assert result.exit_code == expect, (result.stdout, result.stderr)
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def label(found: dict[str, Any]) -> object:
    return found["error"]["label"]


@pytest.fixture
def home(tmp_path: Path, password: str) -> Path:
    """A founder's home in which no node has run yet."""
    made = tmp_path / "医院"
    words = ("init", "--name", "协和医院", "--kind", "hospital", "--password-file", password)
    run(*words, home=made, program=main.app)
    return made


async def _with_blocks(home: Path) -> None:
    async with network_in(home):
        """Enrolments, bindings, grants and anchors are on the ledger."""


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("original")
    make_home(home)
    (home / "genesis.json").write_bytes(founding.write(genesis_of(founders())))
    asyncio.run(_with_blocks(home))
    return home


@pytest.fixture
def with_ledger(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "ledger home"))


# --- backup and restore ---------------------------------------------------------------------------------


def test_a_home_there_and_back(home: Path, tmp_path: Path, password: str) -> None:
    made = run("backup", tmp_path / "b", "--password-file", password, home=home)
    assert made["files"] > 4
    assert (made["height"], made["engine"], made["validator"]) == (0, "embedded", False)
    assert made["file_bytes"] == (tmp_path / "b").stat().st_size
    assert made["program"] == program_version()
    seen = run("restore", tmp_path / "b", "--check", "--password-file", password, home=tmp_path / "new")
    assert seen["restored"] is False
    assert not (tmp_path / "new").exists()
    back = run("restore", tmp_path / "b", "--password-file", password, home=tmp_path / "new")
    assert back["restored"] is True
    assert back["genesis_hash"] == made["genesis_hash"]
    for name in ("genesis.json", "config.toml", "keys/member.json", "keys/authority.json", "keys/registrar.secret"):
        assert (tmp_path / "new" / name).read_bytes() == (home / name).read_bytes()


def test_sealed_to_a_key_that_lies_elsewhere(home: Path, tmp_path: Path, password: str) -> None:
    safe = tmp_path / "safe"
    words = ("keys", "new", "backup", "--genesis", home / "genesis.json", "--public", tmp_path / "public.json")
    run(*words, "--password-file", password, home=safe, program=main.app)
    run("backup", tmp_path / "b", "--to", tmp_path / "public.json", home=home)
    new = tmp_path / "new"
    key = safe / "keys" / "backup.json"
    assert label(run("restore", tmp_path / "b", "--password-file", password, home=new, expect=1)) == "ARCHIVE.NEEDS_KEY"
    other = home / "keys" / "member.json"
    wrong = run("restore", tmp_path / "b", "--key", other, "--password-file", password, home=new, expect=1)
    assert label(wrong) == "ARCHIVE.KEY_WRONG"
    run("restore", tmp_path / "b", "--key", key, "--password-file", password, home=new)
    assert (new / "genesis.json").exists()


def test_refusals_exit_with_one_and_their_code(home: Path, tmp_path: Path, password: str) -> None:
    run("backup", tmp_path / "b", "--password-file", password, home=home)
    again = run("backup", tmp_path / "b", "--password-file", password, home=home, expect=1)
    assert again["error"]["code"] == int(BackupCode.FILE_EXISTS)
    full = run("restore", tmp_path / "b", "--password-file", password, home=home, expect=1)
    assert full["error"]["code"] == int(BackupCode.HOME_NOT_EMPTY)
    other = secret(tmp_path / "other", "another")
    wrong = run("restore", tmp_path / "b", "--password-file", other, home=tmp_path / "new", expect=1)
    assert wrong["error"]["code"] == int(ArchiveCode.PASSWORD_WRONG)
    data = bytearray((tmp_path / "b").read_bytes())
    data[-1] ^= 1
    (tmp_path / "bad").write_bytes(data)
    for words in ((), ("--check",)):
        bad = run("restore", tmp_path / "bad", *words, "--password-file", password, home=tmp_path / "new", expect=1)
        assert bad["error"]["code"] == int(ArchiveCode.DAMAGED)
    assert not (tmp_path / "new").exists()


def test_what_the_environment_lacks_exits_with_three(home: Path, tmp_path: Path, password: str) -> None:
    for words, where in (
        (("backup", tmp_path / "b"), tmp_path / "nowhere"),
        (("backup", tmp_path / "no" / "folder" / "b"), home),
        (("restore", tmp_path / "nothing"), tmp_path / "new"),
    ):
        found = run(*words, "--password-file", password, home=where, expect=3)
        assert found["ok"] is False
    assert not (tmp_path / "b").exists()


def test_files_outside_of_the_home_are_named(home: Path, tmp_path: Path, password: str) -> None:
    (home / "config.toml").write_text(f'password_file = "{password}"\n', encoding="utf-8")
    made = run("backup", tmp_path / "b", "--password-file", password, home=home)
    assert made["outside"] == [f"{password} (password_file), which lies outside of the home"]
    authorities = tmp_path / "authorities.pem"
    authorities.write_text("")
    (home / "config.toml").write_text(f'[relay]\nca_file = "{authorities}"\n')
    made = run("backup", tmp_path / "hub", "--password-file", password, home=home)
    assert made["outside"] == [f"{authorities} (relay.ca_file), which lies outside of the home"]


def test_settings_that_cannot_be_read_stop_no_backup(home: Path, tmp_path: Path, password: str) -> None:
    (home / "config.toml").write_text("[nonsense]\n", encoding="utf-8")
    made = run("backup", tmp_path / "b", "--password-file", password, home=home)
    assert "nobody looked" in made["outside"][0]


def test_a_restored_validator_is_warned_about(home: Path, tmp_path: Path, password: str) -> None:
    config = home / "cometbft" / "config"
    config.mkdir(parents=True)
    (config / "priv_validator_key.json").write_text("{}", encoding="utf-8")
    run("backup", tmp_path / "b", "--password-file", password, home=home)
    back = run("restore", tmp_path / "b", "--password-file", password, home=tmp_path / "new")
    assert (back["engine"], back["validator"]) == ("cometbft", True)
    assert any("--resume-validator" in one for one in back["warnings"])
    assert (tmp_path / "new" / "cometbft" / "RESTORED").exists()


# --- rollback -------------------------------------------------------------------------------------------


def test_without_yes_the_loss_is_shown_and_nothing_changes(with_ledger: Path) -> None:
    log = with_ledger / "ledger" / "blocks.log"
    before = log.read_bytes()
    shown = run("rollback", "--to", "1", home=with_ledger, expect=1)
    assert shown["error"]["code"] == int(RollbackCode.NOT_CONFIRMED)
    assert (shown["to"], shown["blocks"]) == (1, shown["tip"] - 1)
    assert shown["transactions"] > 0
    assert shown["first_s"] > 0
    assert log.read_bytes() == before


def test_with_yes_the_blocks_are_cut_and_kept(with_ledger: Path) -> None:
    done = run("rollback", "--to", "1", "--yes", home=with_ledger)
    assert Path(done["kept"]).exists()
    beyond = run("rollback", "--to", "1", "--yes", home=with_ledger, expect=1)
    assert beyond["error"]["code"] == int(RollbackCode.NOT_BELOW_TIP)


def test_no_rollback_under_a_running_node(with_ledger: Path) -> None:
    with open_home(with_ledger):
        found = run("rollback", "--to", "1", "--yes", home=with_ledger, expect=3)
    assert "Stop it first" in found["error"]["reason"]


def test_no_ledger_yet(home: Path) -> None:
    assert "no ledger yet" in run("rollback", "--to", "0", home=home, expect=3)["error"]["reason"]


def test_a_height_below_nought_is_a_matter_of_usage(with_ledger: Path) -> None:
    result = CliRunner().invoke(app, ["rollback", "--to", "-1", "--home", str(with_ledger)])
    assert result.exit_code == 2
