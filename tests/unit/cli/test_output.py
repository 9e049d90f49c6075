"""Goal: every way a command can end has its own exit status, one sentence, and at most one object on stdout.

Method: a throw-away program registers commands that succeed, refuse, fail and crash in every known way, and is run
in-process through Typer's runner.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from carechain.cli.output import (
    CannotRun,
    Denied,
    Desk,
    Exit,
    Report,
    command,
    default_home,
    lines,
    sub_app,
    table,
    tables,
)
from carechain.contracts.consent.schema import ConsentCode
from carechain.core.rejection import Rejected

NAME = "王小明 [bold]"


def program(work: Callable[[], Report]) -> typer.Typer:
    app = sub_app("A program for tests.")

    @command(app, "act")
    def act(_: Desk) -> Report:
        """Do the thing."""
        return work()

    @command(app, "other")
    def other(_: Desk) -> Report:
        """A second command, so that the first keeps its name."""
        return work()

    return app


def run(work: Callable[[], Report], *options: str) -> Result:
    return CliRunner().invoke(program(work), ["act", *options])


def raising(error: BaseException) -> Callable[[], Report]:
    def work() -> Report:
        raise error

    return work


def told() -> Report:
    return Report(data={"name": NAME, "path": Path("/a")}, show=lines(f"hello {NAME}"))


def test_done_prints_text_for_people() -> None:
    result = run(told)
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"hello {NAME}\n", "")


def test_done_prints_one_object_for_programs() -> None:
    result = run(told, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {"name": NAME, "path": "/a"}
    assert result.stdout.count("\n") == 1


def test_a_report_may_carry_a_refusal() -> None:
    result = run(lambda: Report(data={"ok": False}, show=lines("no"), status=Exit.REFUSED), "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (1, {"ok": False})


@pytest.mark.parametrize(
    ("error", "status", "code", "label", "words"),
    [
        (Rejected(ConsentCode.NOT_NARROWER), 1, 420, "CONSENT.NOT_NARROWER", "Narrowing may only take away."),
        (Denied(code=653, label="DECISION.NO_GRANT", reason="Ask."), 1, 653, "DECISION.NO_GRANT", "Ask."),
        (CannotRun("do this first"), 3, None, None, "do this first"),
        (FileNotFoundError(2, "No such file", "/x/y"), 3, None, None, "No such file: /x/y"),
        (OSError(28, "No space left on device"), 3, None, None, "No space left on device"),
        (ZeroDivisionError("secret"), 3, None, None, "an unexpected failure (ZeroDivisionError)"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_failures(error: Exception, status: int, code: int | None, label: str | None, words: str) -> None:
    for options in ((), ("--json",)):
        result = run(raising(error), *options)
        assert result.exit_code == status
        assert words in result.stderr
        assert "Traceback" not in result.stderr
        assert "secret" not in result.output
        if not options:
            assert result.stdout == ""
            assert str(code) in result.stderr or code is None
    shown = json.loads(result.stdout)
    assert shown["ok"] is False
    assert (shown["error"]["code"], shown["error"]["label"]) == (code, label)


def test_a_refusal_keeps_its_data() -> None:
    denied = Denied(code=1, label="A.B", reason="No.", data={"ticket": "ff"})
    assert json.loads(run(raising(denied), "--json").stdout)["ticket"] == "ff"


def test_the_trace_is_shown_on_request_only() -> None:
    result = run(raising(ZeroDivisionError("x")), "--debug")
    assert result.exit_code == 3
    assert "Traceback" in result.stderr


def test_an_unknown_option_is_usage() -> None:
    result = run(told, "--nonsense")
    assert result.exit_code == 2
    assert result.stdout == ""


def test_markup_in_a_name_stays_text() -> None:
    result = run(lambda: Report(data={}, show=tables(table("", ("name",), [(NAME,)]))))
    assert NAME in result.stdout


def test_ids_are_not_broken() -> None:
    ids = [one * 64 for one in "abc"]
    result = run(lambda: Report(data={}, show=tables(table("", ("a", "b", "c"), [ids]))))
    assert all(one in result.stdout.replace("\n", "") for one in ids)


def test_the_home_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CARECHAIN_HOME", str(tmp_path))
    assert default_home() == tmp_path
    monkeypatch.delenv("CARECHAIN_HOME")
    assert default_home() == Path.home() / ".carechain"
