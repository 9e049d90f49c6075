"""Goal: ``init`` makes a whole and private home once; keys, doctor, status and version say what is so.

Method: homes on a temporary disk through the program's own runner, with nothing listening anywhere.
"""

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from carechain.cli.main import app
from carechain.cli.network import home_genesis, read_application


@pytest.fixture(scope="module")
def password(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("secret") / "password"
    path.touch(mode=0o600)
    path.write_text("密码\n", encoding="utf-8")
    return str(path)


def run(home: Path, *words: str, expect: int = 0, env: dict[str, str] | None = None) -> Any:
    result = CliRunner().invoke(app, [*words, "--json", "--home", str(home)], env=env)
    assert result.exit_code == expect, (result.stdout, result.stderr)
    return json.loads(result.stdout) if result.stdout else None


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, password: str) -> Path:
    made = tmp_path_factory.mktemp("homes") / "医院"
    run(made, "init", "--name", "协和医院", "--kind", "hospital", "--chain-id", "c", "--password-file", password)
    return made


def test_a_founder(home: Path) -> None:
    genesis = home_genesis(home)
    assert [one.name for one in genesis.members] == ["协和医院"]
    assert genesis.chain_id == "c"
    assert {one.name for one in (home / "keys").iterdir()} == {"member.json", "authority.json", "registrar.secret"}
    for path in (home, *(home / "keys").iterdir()):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


def test_a_home_is_never_made_twice(home: Path, password: str) -> None:
    before = (home / "genesis.json").read_bytes()
    words = ("init", "--name", "Other", "--kind", "insurer", "--password-file", password)
    assert "already" in run(home, *words, expect=3)["error"]["reason"]
    assert (home / "genesis.json").read_bytes() == before


def test_joining_writes_an_application(home: Path, password: str, tmp_path: Path) -> None:
    joined = tmp_path / "b"
    genesis = str(home / "genesis.json")
    made = run(
        joined,
        *("init", "--name", "B", "--kind", "insurer", "--genesis", genesis),
        *("--no-registrar", "--password-file", password),
    )
    new = read_application(Path(made["application"])).new
    assert (new.name, new.registrar, made["founder"], made["chain_id"]) == ("B", False, False, "c")
    assert not (joined / "keys" / "registrar.secret").exists()
    assert (joined / "genesis.json").read_bytes() == (home / "genesis.json").read_bytes()


@pytest.mark.parametrize(
    "words",
    [
        ("--name", "", "--kind", "hospital"),
        ("--name", "x" * 81, "--kind", "hospital"),
        ("--name", "A", "--kind", "bank"),
        ("--name", "A", "--kind", "hospital", "--chain-id", ""),
        ("--name", "A"),
    ],
)
def test_impossible_homes_are_usage(tmp_path: Path, password: str, words: tuple[str, ...]) -> None:
    assert run(tmp_path / "x", "init", *words, "--password-file", password, expect=2)["error"]["code"] is None
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[1]"])
def test_a_file_that_is_no_genesis(tmp_path: Path, password: str, content: bytes) -> None:
    genesis = tmp_path / "genesis.json"
    genesis.write_bytes(content)
    words = ("init", "--name", "A", "--kind", "hospital", "--genesis", str(genesis), "--password-file", password)
    assert run(tmp_path / "x", *words, expect=3)["error"]["reason"]
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[1]", b'{"kind": 9}'])
def test_a_file_that_is_no_application(home: Path, tmp_path: Path, content: bytes) -> None:
    application = tmp_path / "application.json"
    application.write_bytes(content)
    failed = run(home, "member", "propose-admit", str(application), expect=3)
    assert "not an application" in failed["error"]["reason"]


def test_a_missing_file_is_the_environment(home: Path, tmp_path: Path) -> None:
    failed = run(home, "member", "propose-admit", str(tmp_path / "none"), expect=3)
    assert "none" in failed["error"]["reason"]


def test_keys_are_listed_and_shown(home: Path, password: str) -> None:
    listed = {one["name"]: one for one in run(home, "keys", "list")["keys"]}
    assert {name: one["kind"] for name, one in listed.items()} == {"member": "identity", "authority": "authority"}
    for name in listed:
        shown = run(home, "keys", "show", name, "--password-file", password)
        assert shown["organisation"] == listed["member"]["party"]


def test_a_wallet_is_made_for_this_network(home: Path, password: str) -> None:
    run(home, "keys", "new", "钱包", "--kind", "wallet", "--password-file", password)
    shown = run(home, "keys", "show", "钱包", "--password-file", password)
    assert (shown["chain_id"], shown["relations"]) == ("c", [])
    again = run(home, "keys", "new", "钱包", "--kind", "wallet", "--password-file", password, expect=1)
    assert again["error"]["label"] == "WALLET.FILE_EXISTS"
    (home / "keys" / "钱包.json").unlink()


def test_a_home_of_ones_own_has_the_network(home: Path, tmp_path: Path, password: str) -> None:
    genesis = str(home / "genesis.json")
    words = ("keys", "new", "--kind", "wallet", "--password-file", password)
    missing = run(tmp_path, *words, "first", expect=3)
    assert "--genesis" in missing["error"]["reason"]
    for name in ("first", "second"):
        run(tmp_path, *words, name, "--genesis", genesis)
    assert (tmp_path / "genesis.json").read_bytes() == (home / "genesis.json").read_bytes()
    other = tmp_path / "other"
    run(other, "init", "--name", "B", "--kind", "insurer", "--chain-id", "d", "--password-file", password)
    refused = run(tmp_path, *words, "third", "--genesis", str(other / "genesis.json"), expect=3)
    assert "another network" in refused["error"]["reason"]


def test_an_organisation_is_no_patient(home: Path, password: str) -> None:
    refused = run(home, "inbox", "--as", "member", "--password-file", password, expect=2)
    assert "member is not a wallet" in refused["error"]["reason"]


def test_a_party_gets_a_name(home: Path) -> None:
    run(home, "keys", "name", "hospital-b", "ab" * 32)
    assert json.loads((home / "book.json").read_bytes())["hospital-b"] == "ab" * 32
    assert run(home, "keys", "name", "x", "ab", expect=2)["error"]["code"] is None


def test_the_doctor_of_a_good_home(home: Path) -> None:
    settings = {f"CARECHAIN_{group}__PORT": "0" for group in ("API", "OPS", "GATEKEEPER_API", "FHIR")}
    checks = {one["name"]: one for one in run(home, "doctor", env=settings)["checks"]}
    assert [one for one in checks.values() if not one["ok"]] == []
    assert {"home", "keys", "organisation", "genesis", "settings", "ledger", "api port"} <= set(checks)


def test_the_doctor_of_no_home(tmp_path: Path) -> None:
    found = run(tmp_path / "none", "doctor", expect=3)
    assert [one["name"] for one in found["checks"] if not one["ok"]] == ["home"]


@pytest.mark.parametrize(
    ("setting", "value"), [("CARECHAIN_API__PORT", "many"), ("CARECHAIN_LOG__LEVEL", "loud")], ids=["port", "level"]
)
def test_the_doctor_names_a_wrong_setting(home: Path, setting: str, value: str) -> None:
    found = run(home, "doctor", expect=3, env={setting: value})
    (wrong,) = [one for one in found["checks"] if not one["ok"]]
    assert wrong["name"] == "settings"
    assert setting.rpartition("__")[2].lower() in wrong["note"]
    assert value not in wrong["note"]


def test_the_doctor_names_an_open_key(home: Path) -> None:
    key = home / "keys" / "member.json"
    key.chmod(0o644)
    try:
        found = run(home, "doctor", expect=3, env={"CARECHAIN_API__PORT": "0"})
        assert any("member.json" in one["note"] for one in found["checks"] if not one["ok"])
    finally:
        key.chmod(0o600)


def test_the_apps_of_no_home(tmp_path: Path) -> None:
    failed = run(tmp_path / "none", "app", "list", expect=3)
    assert "carechain init" in failed["error"]["reason"]
    assert not (tmp_path / "none").exists()


def test_a_node_that_does_not_run(home: Path) -> None:
    failed = run(home, "status", "--node", "http://127.0.0.1:1", expect=3)
    assert "carechain start" in failed["error"]["reason"]
    assert run(home, "status", "--node", "not a url", expect=3)["ok"] is False


def test_starting_with_a_wrong_password(home: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.touch(mode=0o600)
    wrong.write_text("guess", encoding="utf-8")
    refused = run(home, "start", "--password-file", str(wrong), expect=1)
    assert refused["error"]["label"] == "WALLET.PASSWORD_WRONG"


def test_version(home: Path) -> None:
    assert {"carechain", "python", "transaction", "block", "home"} <= set(run(home, "version"))
