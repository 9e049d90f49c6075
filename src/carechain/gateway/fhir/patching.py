"""JSON Patch on a resource (RFC 6902), keeping the digits of every number.

A patched resource is written anew, so its spacing and the order that the patch makes are the server's; numbers are
carried as decimals and keep the form they had (72.50 stays 72.50).
"""

import copy
from decimal import Decimal
from typing import Any, Final

import msgspec

from carechain.charts.bundle import strict_json
from carechain.core.limits import FHIR_PATCH_STEPS, HTTP_BODY_BYTES
from carechain.core.rejection import Rejected, require
from carechain.gateway.codes import FhirCode

_encoder: Final = msgspec.json.Encoder(decimal_format="number")
_decoder: Final = msgspec.json.Decoder(float_hook=Decimal)
_MISSING: Final = object()
Tree = Any


def patched(body: bytes, patch: bytes) -> bytes:
    """The resource after the patch; all of it or nothing.

    Raises ``Rejected`` with PATCH_MALFORMED for what is no patch and PATCH_FAILED for one that does not fit.
    """
    try:
        strict_json(patch)
        steps = _decoder.decode(patch)
    except (Rejected, msgspec.DecodeError):
        raise Rejected(FhirCode.PATCH_MALFORMED) from None
    require(isinstance(steps, list) and 0 < len(steps) <= FHIR_PATCH_STEPS, FhirCode.PATCH_MALFORMED)
    tree = _decoder.decode(body)
    for step in steps:
        tree = _apply(tree, step)
        _require_bounded(step, tree)
    require(isinstance(tree, dict), FhirCode.PATCH_FAILED)
    after = _encoder.encode(tree)
    require(len(after) <= HTTP_BODY_BYTES, FhirCode.PATCH_FAILED)
    return after


def _require_bounded(step: dict[str, Any], tree: Tree) -> None:
    """A few copies of the whole into itself would fill the memory; they are measured one by one."""
    if step["op"] == "copy":
        require(len(_encoder.encode(tree)) <= HTTP_BODY_BYTES, FhirCode.PATCH_FAILED)


def _apply(tree: Tree, step: object) -> Tree:
    if not isinstance(step, dict):
        raise Rejected(FhirCode.PATCH_MALFORMED)
    path = _pointer(step, "path")
    match step.get("op"):
        case "add":
            return _added(tree, path, _value(step))
        case "remove":
            return _removed(tree, path)[0]
        case "replace":
            return _replaced(tree, path, _value(step))
        case "move":
            source = _pointer(step, "from")
            require(source != path[: len(source)] or source == path, FhirCode.PATCH_FAILED)
            rest, moved = _removed(tree, source)
            return _added(rest, path, moved)
        case "copy":
            return _added(tree, path, copy.deepcopy(_at(tree, _pointer(step, "from"))))
        case "test":
            require(_same(_at(tree, path), _value(step)), FhirCode.PATCH_FAILED)
            return tree
        case _:
            raise Rejected(FhirCode.PATCH_MALFORMED)


def _value(step: dict[str, Any]) -> Tree:
    value = step.get("value", _MISSING)
    require(value is not _MISSING, FhirCode.PATCH_MALFORMED)
    return value


def _pointer(step: dict[str, Any], name: str) -> list[str]:
    """The parts of a JSON pointer (RFC 6901)."""
    text = step.get(name)
    if not isinstance(text, str) or (text and not text.startswith("/")):
        raise Rejected(FhirCode.PATCH_MALFORMED)
    parts = text.split("/")[1:]
    require(all("~" not in part.replace("~0", "").replace("~1", "") for part in parts), FhirCode.PATCH_MALFORMED)
    return [part.replace("~1", "/").replace("~0", "~") for part in parts]


def _at(tree: Tree, path: list[str]) -> Tree:
    for part in path:
        if isinstance(tree, dict):
            require(part in tree, FhirCode.PATCH_FAILED)
            tree = tree[part]
        elif isinstance(tree, list):
            tree = tree[_index(part, len(tree) - 1)]
        else:
            raise Rejected(FhirCode.PATCH_FAILED)
    return tree


def _index(part: str, most: int) -> int:
    """A list index without leading zeros, at most ``most``."""
    require(part.isascii() and part.isdigit() and (part == "0" or part[0] != "0"), FhirCode.PATCH_FAILED)
    require(len(part) <= len(str(HTTP_BODY_BYTES)) and int(part) <= most, FhirCode.PATCH_FAILED)
    return int(part)


def _added(tree: Tree, path: list[str], value: Tree) -> Tree:
    if not path:
        return value
    parent, last = _at(tree, path[:-1]), path[-1]
    if isinstance(parent, dict):
        parent[last] = value
    elif isinstance(parent, list):
        parent.insert(len(parent) if last == "-" else _index(last, len(parent)), value)
    else:
        raise Rejected(FhirCode.PATCH_FAILED)
    return tree


def _removed(tree: Tree, path: list[str]) -> tuple[Tree, Tree]:
    """The tree without what stood at the path, and that."""
    require(path, FhirCode.PATCH_FAILED)
    gone = _at(tree, path)
    parent, last = _at(tree, path[:-1]), path[-1]
    del parent[last if isinstance(parent, dict) else int(last)]
    return tree, gone


def _replaced(tree: Tree, path: list[str], value: Tree) -> Tree:
    if not path:
        return value
    _at(tree, path)
    parent, last = _at(tree, path[:-1]), path[-1]
    parent[last if isinstance(parent, dict) else int(last)] = value
    return tree


def _same(left: Tree, right: Tree) -> bool:
    """Equal as RFC 6902 says: numbers by value, and true is not 1."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(value, right[key]) for key, value in left.items())
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(_same(a, b) for a, b in zip(left, right, strict=True))
    if isinstance(left, int | Decimal) and isinstance(right, int | Decimal):
        return left == right
    return type(left) is type(right) and bool(left == right)
