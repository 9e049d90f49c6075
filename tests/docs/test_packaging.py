"""Goal: what is installed is what was tested, on every supported Python, from anywhere.

Method: the locks are compared with pyproject.toml as text, without a resolver or the network; every pin must
carry hashes and name no server or folder of the machine that wrote it.
"""

import ast
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCKS = {
    "run.txt": PROJECT["dependencies"],
    "test.txt": PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"],
    "dev.txt": [
        *PROJECT["dependencies"],
        *PROJECT["optional-dependencies"]["test"],
        *PROJECT["optional-dependencies"]["dev"],
    ],
    "build.txt": [
        line
        for line in (ROOT / "requirements" / "build.in").read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    ],
}


def entries(name: str) -> list[str]:
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8").replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def pins(name: str) -> dict[str, str]:
    found = {}
    for entry in entries(name):
        requirement = Requirement(entry.split("--hash", 1)[0].strip())
        found[canonicalize_name(requirement.name)] = next(iter(requirement.specifier)).version
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_lock_satisfies_the_project(name: str) -> None:
    locked = pins(name)
    unmet = []
    for wanted in map(Requirement, LOCKS[name]):
        version = locked.get(canonicalize_name(wanted.name))
        if version is None or not wanted.specifier.contains(version, prereleases=True):
            unmet.append(f"{wanted} is locked to {version}; run: make lock")
    assert not unmet


@pytest.mark.parametrize("name", LOCKS)
def test_every_pin_is_exact_and_hashed(name: str) -> None:
    for entry in entries(name):
        assert re.match(r"[a-z0-9-]+==\S+ ", entry), entry[:60]
        assert "--hash=sha256:" in entry, entry[:60]


@pytest.mark.parametrize("name", LOCKS)
def test_lock_names_no_place(name: str) -> None:
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
    assert not re.search(r"://|--(?:extra-)?index|--find-links|file:| @ |^-e|\s/\w", text, re.MULTILINE)


def test_locks_agree_with_each_other() -> None:
    everything = pins("dev.txt")
    for name in LOCKS:
        differing = {one for one, version in pins(name).items() if everything.get(one, version) != version}
        assert not differing, name


def test_every_import_is_declared() -> None:
    providers = metadata.packages_distributions()
    declared = {canonicalize_name(Requirement(one).name) for one in PROJECT["dependencies"]}
    undeclared = []
    for path in sorted((ROOT / "src").rglob("*.py")):
        undeclared += [
            f"{path.relative_to(ROOT)} imports {package}"
            for package in sorted(imported(path) - sys.stdlib_module_names - {"carechain"})
            if not declared.intersection(map(canonicalize_name, providers.get(package, [])))
        ]
    assert not undeclared


def imported(path: Path) -> set[str]:
    """The top-level packages that a source file imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {one.name.partition(".")[0] for one in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def test_supported_pythons_are_declared_once() -> None:
    supported = SpecifierSet(PROJECT["requires-python"])
    declared = {one.rsplit(" ", 1)[1] for one in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d+$", one)}
    assert declared == {f"3.{minor}" for minor in range(8, 20) if Version(f"3.{minor}") in supported}


def test_installed_version_is_the_declared_one() -> None:
    assert metadata.version("carechain") == PROJECT["version"]


def test_version_has_a_line_in_the_changelog() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## {re.escape(PROJECT['version'])}\b", changelog, re.MULTILINE)
