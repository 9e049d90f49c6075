"""The few Markdown forms that the generated pages use."""

import inspect
import re
from collections.abc import Iterable, Sequence

GENERATED = "<!-- Generated from the code by `make docs`; edits here are lost. -->"


def page(title: str, introduction: str, sections: Iterable[str]) -> str:
    """One whole file, ending in a single newline."""
    return "\n\n".join((GENERATED, f"# {title}", introduction.strip(), *sections)).rstrip() + "\n"


def heading(level: int, text: str) -> str:
    """A heading of the given level."""
    return f"{'#' * level} {text}"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; a cell may hold any text, as bars are escaped and line ends become spaces."""
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    lines += [f"| {' | '.join(_cell(one) for one in row)} |" for row in rows]
    return "\n".join(lines)


def code(text: str) -> str:
    """Inline code; of an empty text, nothing."""
    return f"`{text}`" if text else ""


def prose(documented: object) -> str:
    """The docstring of a class, function or module as Markdown: roles and double backticks become code."""
    return tidy(inspect.getdoc(documented) or "")


def tidy(text: str) -> str:
    """Docstring markup as Markdown, and the control characters of a command's help taken out."""
    text = re.sub(r":[a-z]+:`~?([^`]+)`", r"`\1`", text)
    return text.replace("``", "`").replace("\b", "").replace("\f", "")


def summary(documented: object) -> str:
    """The first paragraph of a docstring on one line."""
    return " ".join(prose(documented).split("\n\n", 1)[0].split())


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
