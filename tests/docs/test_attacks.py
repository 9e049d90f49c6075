"""Goal: every attack that is named has a test, and every attack that is tested is named; no reference leads nowhere.

Method: the tests in ``tests/attacks`` are read as source, and compared with the list at the head of that folder and
with ``docs/concepts/security.md``; every test that this page points to is looked up.
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ATTACKS = ROOT / "tests" / "attacks"
PAGE = (ROOT / "docs" / "concepts" / "security.md").read_text(encoding="utf-8")
CASE = re.compile(r"`(test_\w+)`")
REFERENCE = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
FEWEST = 25


def cases_in(path: Path) -> dict[str, str | None]:
    """The tests of a file, each with its docstring."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [one for one in tree.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {one.name: ast.get_docstring(one) for one in functions if one.name.startswith("test_")}


def by_file() -> dict[str, dict[str, str | None]]:
    """File → its cases."""
    return {path.name: cases_in(path) for path in sorted(ATTACKS.glob("test_attack_*.py"))}


def all_cases() -> list[str]:
    return [name for cases in by_file().values() for name in cases]


def test_there_are_enough_and_each_is_told() -> None:
    cases = all_cases()
    assert len(cases) >= FEWEST
    assert len(set(cases)) == len(cases), "a name means one attack"
    assert [name for found in by_file().values() for name, text in found.items() if not text] == []


def test_the_list_at_the_head_of_the_folder_names_every_case() -> None:
    head = ast.get_docstring(ast.parse((ATTACKS / "conftest.py").read_text(encoding="utf-8")))
    assert head is not None
    listed = re.findall(r"^- ``(test_\w+)``$", head, re.MULTILINE)
    assert sorted(listed) == sorted(all_cases())


def test_the_page_names_every_case_under_its_file() -> None:
    _, _, named = PAGE.partition("## Named attacks\n")
    named, _, _ = named.partition("\n## ")
    for section in named.split("### ")[1:]:
        (file,) = {Path(path).name for path, _ in REFERENCE.findall(section)}
        assert sorted(CASE.findall(section)) == sorted(by_file()[file]), file
    assert sorted(CASE.findall(named)) == sorted(all_cases())
    assert f"{len(all_cases())} in all" in " ".join(named.split())


@pytest.mark.parametrize("reference", sorted(set(REFERENCE.findall(PAGE))), ids="::".join)
def test_what_the_page_points_to_is_there(reference: tuple[str, str]) -> None:
    path, name = reference
    assert (ROOT / path).is_file()
    assert not name or name in cases_in(ROOT / path)
