"""Fields of a message, event or row as their author wrote them.

At run time ``GrantId`` and ``PartyId`` are one and the same type, so the names a reader wants are only in
the source. They are read from there, with the default and the sentence that stands below or beside a field.
"""

import ast
import inspect
from textwrap import dedent
from typing import Any

from msgspec import Struct


class Field(Struct, frozen=True, kw_only=True):
    """One field: its name, its type and default as written (no default: empty), and what is said about it."""

    name: str
    type: str
    default: str
    note: str


def fields_of(kind: type[Any]) -> list[Field]:
    """The annotated fields of ``kind`` and its bases, in wire order; raises ``OSError`` without its source."""
    found: list[Field] = []
    for base in reversed(kind.__mro__):
        if base.__module__.startswith("carechain.") and inspect.get_annotations(base):
            found += _own_fields(base)
    return found


def _own_fields(kind: type[Any]) -> list[Field]:
    source = dedent(inspect.getsource(kind))
    definition = ast.parse(source).body[0]
    if not isinstance(definition, ast.ClassDef):
        raise TypeError(f"{kind.__qualname__} is not defined by a class statement")
    lines = source.splitlines()
    found = []
    for place, node in enumerate(definition.body):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.append(
                Field(
                    name=node.target.id,
                    type=ast.unparse(node.annotation),
                    default=ast.unparse(node.value) if node.value else "",
                    note=_docstring_after(definition.body, place) or _comment_beside(lines, node),
                )
            )
    return found


def _docstring_after(body: list[ast.stmt], place: int) -> str:
    following = body[place + 1] if place + 1 < len(body) else None
    if (
        isinstance(following, ast.Expr)
        and isinstance(following.value, ast.Constant)
        and isinstance(following.value.value, str)
    ):
        return inspect.cleandoc(following.value.value).replace("``", "`")
    return ""


def _comment_beside(lines: list[str], node: ast.AnnAssign) -> str:
    last = lines[(node.end_lineno or node.lineno) - 1].encode()
    after = last[node.end_col_offset or 0 :].decode().strip()
    return after[1:].strip() if after.startswith("#") and "noqa" not in after else ""
