"""Which pages there are, and their comparison with the files in ``docs/reference``."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from carechain.docs_build import ledger, local
from carechain.node.openapi import encoded

PAGES: Final[Mapping[str, Callable[[], str]]] = MappingProxyType(
    {
        "codes.md": ledger.codes,
        "commands.md": local.commands,
        "events.md": ledger.events,
        "limits.md": local.limits,
        "messages.md": ledger.messages,
        "openapi.json": lambda: encoded().decode() + "\n",
        "queries.md": ledger.queries,
        "roles.md": ledger.roles,
        "settings.md": local.settings,
        "tables.md": ledger.tables,
    }
)
"""File name → the function that renders it. A file in the folder that is not named here is hand-written."""


def render() -> dict[str, str]:
    """Every page by file name."""
    return {name: draw() for name, draw in PAGES.items()}


def write(folder: Path) -> list[str]:
    """Write what differs and return the names written."""
    folder.mkdir(parents=True, exist_ok=True)
    changed = []
    for name, text in render().items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8", newline="\n")
            changed.append(name)
    return changed


def stale(folder: Path) -> list[str]:
    """The names of pages that are missing or differ from the code."""
    return [
        name
        for name, text in render().items()
        if not (folder / name).exists() or (folder / name).read_text(encoding="utf-8") != text
    ]
