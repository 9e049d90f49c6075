"""JSON whose numbers stay as they were written, in one fixed form: what is committed to must not drift by a blank.

A library that reads 72.50 writes 72.5. Here a number is its text. Objects keep their order, nothing is put between, and
characters stand for themselves in UTF-8.
"""

import json
from typing import Any


class Number(str):
    """A number as its JSON text."""

    __slots__ = ()


def read(data: bytes) -> Any:  # noqa: ANN401 - JSON can be anything
    """Parse JSON of bounded size with its numbers as they were written.

    Raises ``ValueError`` (also for a key that stands twice) and ``RecursionError``.
    """
    return json.loads(
        data.decode(), parse_float=Number, parse_int=Number, parse_constant=_refuse, object_pairs_hook=_once
    )


def write(tree: object) -> bytes:
    """The one form of a tree of objects, lists, texts, truth values and :class:`Number`."""
    return "".join(_pieces(tree)).encode()


def _pieces(tree: object) -> list[str]:
    if isinstance(tree, Number):
        return [tree]
    if isinstance(tree, dict):
        inside = [
            piece
            for name, value in tree.items()
            for piece in (",", json.dumps(name, ensure_ascii=False), ":", *_pieces(value))
        ]
        return ["{", *inside[1:], "}"]
    if isinstance(tree, list):
        inside = [piece for value in tree for piece in (",", *_pieces(value))]
        return ["[", *inside[1:], "]"]
    return [json.dumps(tree, ensure_ascii=False)]


def _refuse(_: str) -> None:
    raise ValueError("not a number of JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) != len(pairs):
        raise ValueError("a key stands twice")
    return tree
