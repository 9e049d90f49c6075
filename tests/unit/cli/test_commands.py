"""Goal: every command is there, explains itself, and has the options that scripts rely on; help stays quick.

Method: the command tree is walked; the help of each command is printed in-process, and one child process shows which
modules the program has to load for it.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from carechain.cli.main import app
from carechain.node.settings import Settings

PROMISED = {
    (): "demo init start status doctor verify version grant revoke request ask inbox answer who-can-see log",
    ("inspect",): "block tx state",
    ("keys",): "new list",
    ("member",): "propose-admit propose-remove vote list",
    ("staff",): "enrol renew dismiss list",
    ("patient",): "register list",
    ("record",): "add get list history",
    ("bench",): "saturate write read growth healthchain",
}
LATER: list[str] = []
HEAVY = ["httpx", "sqlalchemy", "lmdb", "cryptography", "starlette", "uvicorn", "rich", "ed25519_zebra"]


def walk(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    children = getattr(command, "commands", {})
    if not children:
        yield path, command
    for name, child in children.items():
        yield from walk(child, (*path, name))


COMMANDS = dict(walk(get_command(app)))


def test_every_promised_command_exists() -> None:
    promised = {(*group, name) for group, names in PROMISED.items() for name in names.split()}
    assert promised <= set(COMMANDS)
    assert not set(LATER) & {path[0] for path in COMMANDS}


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, [*path, "--help"])
    assert result.exit_code == 0
    for option in ("--json", "--home", "--debug"):
        assert option in result.stdout
    assert COMMANDS[path].help


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_parameter_is_explained(path: tuple[str, ...]) -> None:
    assert [one.name for one in COMMANDS[path].params if not one.help and one.name != "help"] == []


def test_no_variable_of_an_option_is_a_table_of_the_settings() -> None:
    # A node that is started in the same shell would take the option's value for the table.
    given = [one.envvar for command in COMMANDS.values() for one in command.params if one.envvar]
    named = {name.upper() for one in given for name in ([one] if isinstance(one, str) else one)}
    tables = {name for name, field in Settings.model_fields.items() if hasattr(field.annotation, "model_fields")}
    assert "CARECHAIN_FHIR_SERVER" in named
    assert not named & {f"CARECHAIN_{table.upper()}" for table in tables}


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_no_secret_is_an_argument(path: tuple[str, ...]) -> None:
    named = {option for one in COMMANDS[path].params for option in one.opts}
    assert not named & {"--password", "--id", "--mrn", "--secret", "--seed-phrase"}


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_an_unknown_option_is_usage(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, [*path, "--no-such-option"])
    assert (result.exit_code, result.stdout) == (2, "")
    result = CliRunner().invoke(app, [*path, "--no-such-option", "--json"])
    assert result.exit_code == 2
    shown = json.loads(result.stdout)
    assert shown["ok"] is False
    assert "--no-such-option" in shown["error"]["reason"]


def test_a_prompt_that_nobody_answers_is_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("carechain.cli.keyring._ask_password", nobody)
    words = ["init", "--name", "A", "--kind", "hospital", "--home", str(tmp_path / "a"), "--json"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 3
    assert json.loads(result.stdout)["ok"] is False
    assert not (tmp_path / "a").exists()


def nobody(*_: object, **__: object) -> str:
    raise typer.Abort


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_a_list_of_commands_shows_whole_sentences(path: tuple[str, ...]) -> None:
    shown = COMMANDS[path].short_help
    assert shown.endswith(".")
    assert "..." not in shown


def test_a_missing_choice_is_named_in_words() -> None:
    result = CliRunner().invoke(app, ["init", "--name", "A"])
    assert result.exit_code == 2
    assert "--kind" in result.stderr
    assert "hospital" in CliRunner().invoke(app, ["init", "--name", "A", "--kind", "bank"]).stderr
    assert "Choose from" not in result.stderr


def test_the_package_is_the_program() -> None:
    finished = subprocess.run([sys.executable, "-m", "carechain", "--help"], capture_output=True, check=True)
    assert finished.stdout.decode().startswith("Usage: carechain ")


def test_the_program_says_what_the_statuses_mean() -> None:
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    assert "0 done, 1 refused" in " ".join(result.stdout.split())


def test_help_loads_nothing_heavy() -> None:
    program = f"import sys, carechain.cli.main; print([one for one in {HEAVY!r} if one in sys.modules])"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert finished.stdout.decode().strip() == "[]"
