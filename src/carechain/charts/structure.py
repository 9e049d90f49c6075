"""The structure of R4 resources: a JSON schema per type, and what of a type needs a look that a schema cannot give.

Both come from ``data/schema.json.gz``, which ``make definitions`` derives from the published definitions. Nothing is
read before the first validation, and a type is compiled when its first resource comes.
"""

import gzip
from functools import cache
from importlib.resources import files
from threading import Lock
from typing import Any, Final, NamedTuple

import jsonschema_rs
import msgspec
import orjson
from msgspec import Struct

from carechain.charts.rules import RULES

Json = dict[str, Any]

FILE: Final = "schema.json.gz"
ANY_RESOURCE: Final = "Resource"
READ_STRINGS: Final = frozenset({"date", "dateTime", "instant", "url", "xhtml"})
"""Primitives whose strings are read further than their schema does."""
LOOKED_AT: Final = frozenset({ANY_RESOURCE, "Reference"})
EXTENDING: Final = frozenset({"Element", "Extension"})
"""Where extensions stand."""
_REF: Final = "#/definitions/"


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    """Schemas by definition name, the targets of each definition's references by property, and the resource types."""

    definitions: dict[str, msgspec.Raw]
    targets: dict[str, dict[str, frozenset[str]]]
    resources: frozenset[str]


class Step(NamedTuple):
    """A property worth going into: what stands there, and what it may refer to if it is a restricted reference."""

    definition: str
    is_object: bool
    targets: frozenset[str]


_validators: Final[dict[str, jsonschema_rs.Draft7Validator]] = {}
_compiling: Final = Lock()


@cache
def _file() -> _File:
    packed = files("carechain.charts").joinpath("data", FILE).read_bytes()
    return msgspec.json.decode(gzip.decompress(packed), type=_File)


@cache
def _definition(name: str) -> Json:
    schema: Json = orjson.loads(bytes(_file().definitions[name]))
    return schema


def is_resource_type(name: object) -> bool:
    """Whether this is a resource type of R4, those that only carry others included."""
    return type(name) is str and name in _file().resources


def validator(resource_type: str) -> jsonschema_rs.Draft7Validator:
    """The compiled schema of a resource type; resources inside it are objects with a ``resourceType``, no more."""
    known = _validators.get(resource_type)
    if known is None:
        with _compiling:
            known = _validators.get(resource_type) or _compiled(resource_type)
            _validators[resource_type] = known
    return known


def _compiled(resource_type: str) -> jsonschema_rs.Draft7Validator:
    return jsonschema_rs.Draft7Validator(
        {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "$ref": _REF + resource_type,
            "definitions": _reachable(resource_type),
        }
    )


def _reachable(start: str) -> Json:
    """The definitions a type needs, and no others: a tenth of all of them."""
    reached: Json = {}
    waiting = [start]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached[name] = _definition(name)
            waiting += _references(reached[name])
    return reached


def _references(schema: object) -> list[str]:
    if isinstance(schema, dict):
        own = [schema["$ref"].removeprefix(_REF)] if isinstance(schema.get("$ref"), str) else []
        return own + [name for value in schema.values() for name in _references(value)]
    if isinstance(schema, list):
        return [name for value in schema for name in _references(value)]
    return []


@cache
def all_steps(definition: str) -> dict[str, Step]:
    """The properties of a definition that lead to objects or to strings that are read further."""
    targets = _file().targets.get(definition, {})
    found = {}
    for name, schema in _definition(definition).get("properties", {}).items():
        referred = schema.get("items", schema).get("$ref", "").removeprefix(_REF).removesuffix("?")
        is_object = bool(referred) and _definition(referred).get("type") == "object"
        if is_object or referred in READ_STRINGS:
            found[name] = Step(referred, is_object, targets.get(name, frozenset()))
    return found


@cache
def plain_steps(definition: str) -> dict[str, Step]:
    """The properties of a definition that lead to something to look at in a resource without extensions.

    That is a tenth of :func:`all_steps`, since dates and references may stand in any element's extensions.
    """
    return {
        name: step
        for name, step in all_steps(definition).items()
        if not step.is_object or (step.definition not in EXTENDING and _is_looked_at(step.definition))
    }


@cache
def _is_looked_at(definition: str) -> bool:
    """Whether a definition has something to look at, in itself or below, or goes on without end."""
    reached: set[str] = set()
    waiting = [definition]
    while waiting:
        name = waiting.pop()
        if name in RULES or name in LOOKED_AT:
            return True
        for step in all_steps(name).values():
            if not step.is_object or step.definition == definition:
                return True
            if step.definition not in reached and step.definition not in EXTENDING:
                reached.add(step.definition)
                waiting.append(step.definition)
    return False
