"""Goal: the documentation says what the program does.

Method: the generated pages are rendered again and compared; every message, code, event, table, setting and
command is then looked up by name in them; the rest of the Markdown is read for links, commands and row ids.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from carechain.core.rejection import RejectionCode
from carechain.docs_build.pages import PAGES, render

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
AREAS = {"ID": 9, "CON": 12, "REC": 14, "EMG": 4, "KEY": 6, "AUD": 6, "RES": 10, "ECO": 8, "LED": 15, "API": 7}
"""Areas of the requirements and the highest row of each."""

FENCE = re.compile(r"^(```|~~~).*?^\1\s*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)")
ROW_ID = re.compile(r"\b([A-Z]{2,4})-(\d+)(?![\d-])")
SHELL = re.compile(r"^\s*(?:\$ )?(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?(?P<call>(?:carechain|make)\b.*)$", re.MULTILINE)
INLINE = re.compile(r"`(?P<call>(?:carechain|make) [^`\n]+)`")
RESERVED = re.compile(r"[.…\[\]|<>]|^[A-Z]")


def markdown_files() -> list[Path]:
    folders = (ROOT.glob("*.md"), (ROOT / "docs").rglob("*.md"))
    return sorted(path for folder in folders for path in folder)


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def rendered() -> dict[str, str]:
    return render()


@pytest.mark.parametrize("name", sorted(PAGES))
def test_page_matches_the_code(name: str, rendered: dict[str, str]) -> None:
    assert name in sorted(rendered), "its subject does not exist"
    path = REFERENCE / name
    assert path.exists(), "run: make docs"
    assert path.read_text(encoding="utf-8") == rendered[name], "run: make docs"


def test_rendering_twice_gives_the_same(rendered: dict[str, str]) -> None:
    assert render() == rendered


@pytest.mark.parametrize("path", markdown_files(), ids=named)
def test_relative_links_lead_somewhere(path: Path) -> None:
    broken = []
    for target in LINK.findall(FENCE.sub("", path.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        place = (path.parent / file).resolve() if file else path
        if not place.exists() or (anchor and place.suffix == ".md" and anchor not in anchors(place)):
            broken.append(target)
    assert not broken


def anchors(path: Path) -> set[str]:
    """The anchors that renderers make of a file's headings."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", markdown_files(), ids=named)
def test_tests_that_are_named_exist(path: Path) -> None:
    missing = []
    for file, test in re.findall(r"`(tests/[\w/.]+)(?:::(\w+))?`", path.read_text(encoding="utf-8")):
        place = ROOT / file
        if not place.exists() or (test and f"def {test}(" not in place.read_text(encoding="utf-8")):
            missing.append(f"{file}::{test}")
    assert not missing


@pytest.mark.parametrize("path", markdown_files(), ids=named)
def test_row_ids_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    wrong = [
        f"{area}-{number}"
        for area, number in ROW_ID.findall(text)
        if area in AREAS and (number.startswith("0") or int(number) > AREAS[area])
    ]
    assert not wrong


@pytest.mark.parametrize("path", markdown_files(), ids=named)
def test_make_targets_exist(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    unknown = []
    for words in calls(path, "make"):
        unknown += [word for word in words if re.fullmatch(r"[a-z][a-z-]*", word) and word not in targets]
    assert not unknown


@pytest.mark.parametrize("path", markdown_files(), ids=named)
def test_commands_and_options_exist(path: Path) -> None:
    wrong = [" ".join(words) for words in calls(path, "carechain") if not is_command(words)]
    assert not wrong


def calls(path: Path, program: str) -> Iterator[list[str]]:
    """The words after ``program`` in code blocks and inline code; comments and pipes end a call."""
    text = path.read_text(encoding="utf-8")
    blocks = "\n".join(match.group() for match in FENCE.finditer(text))
    found = [match["call"] for match in SHELL.finditer(blocks)]
    found += [match["call"] for match in INLINE.finditer(FENCE.sub("", text))]
    for call in found:
        words = re.split(r"\s[#|&;>]|\s\\$|;", call, maxsplit=1)[0].split()
        if words[0] == program:
            yield words[1:]


def is_command(words: list[str]) -> bool:
    """Whether the words name a command, and its options are ones it has."""
    command = command_tree()
    options = {"--help"}
    for word in words:
        children = getattr(command, "commands", {})
        if word.startswith("--"):
            options.update(name for one in command.params for name in (*one.opts, *one.secondary_opts))
            if word.partition("=")[0] not in options:
                return False
        elif children and word in children:
            command = children[word]
        elif children and not RESERVED.search(word):
            return False
    return True


def command_tree() -> Any:
    from typer.main import get_command  # noqa: PLC0415 - as above

    from carechain.cli.main import app  # noqa: PLC0415 - only these tests need the whole program

    return get_command(app)


def test_code_numbers_are_unique_and_in_their_hundred(rendered: dict[str, str]) -> None:
    assert "codes.md" in sorted(rendered)  # Rendering has imported every module that defines codes.
    kinds = [kind for kind in RejectionCode.__subclasses__() if kind.__module__.startswith("carechain.")]
    numbers = Counter(int(one) for kind in kinds for one in kind)
    assert [number for number, count in numbers.items() if count > 1] == []
    for kind in kinds:
        assert len({int(one) // 100 for one in kind}) == 1, kind.__name__
        assert all(one.reason.endswith(".") for one in kind), kind.__name__
    labels = Counter(one.label for kind in kinds for one in kind)
    assert [label for label, count in labels.items() if count > 1] == []
