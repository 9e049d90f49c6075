"""Goal: whoever types a command line that the documentation shows gets past the program's own parser.

Method: every line of a ``sh`` or ``console`` block that calls the program is parsed by the real command, with its
types and required options, and nothing is run. Shell variables and substitutions stand for ids. The steps that
README.md shows are looked up in the demonstration.
"""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from carechain.cli.main import app
from carechain.demo.run import STEPS

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(sh|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CALL = {
    "sh": re.compile(r"^(?:\.venv/bin/)?carechain (.+)$", re.MULTILINE),
    "console": re.compile(r"^\$ (?:\.venv/bin/)?carechain (.+)$", re.MULTILINE),
}
SUBSTITUTED = re.compile(r"\$\([^)]*\)|\$\w+")
AFTER = re.compile(r" +(?:[|#>&]|2>).*")
STEP = re.compile(r"^✓ ([a-z-]+)  height \d+", re.MULTILINE)


def shown() -> list[tuple[str, str]]:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    return [
        (page.relative_to(ROOT).as_posix(), call)
        for page in sorted(pages)
        for language, block in BLOCK.findall(page.read_text(encoding="utf-8"))
        for call in CALL[language].findall(block)
    ]


FENCED = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(("page", "call"), shown())
def test_a_shown_command_line_parses(page: str, call: str) -> None:
    words = shlex.split(AFTER.sub("", SUBSTITUTED.sub("00" * 32, call)))
    command: Any = get_command(app)
    while hasattr(command, "commands"):
        assert words[0] in command.commands, page
        command = command.commands[words.pop(0)]
    command.make_context(call, words)


def test_there_are_such_lines() -> None:
    assert {"docs/start/tour.md", "docs/start/README.md"} <= {page for page, _ in shown()}


def test_the_readme_tells_steps_of_the_demo_in_their_order() -> None:
    runs = [STEP.findall(block) for block in FENCED.findall((ROOT / "README.md").read_text(encoding="utf-8"))]
    told = [run for run in runs if run]
    # One run of the demo with one producer, one across several nodes.
    assert len(told) == 2
    for run in told:
        assert run == [name for name, _ in STEPS if name in run]
