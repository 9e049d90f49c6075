"""FHIR R4's own definitions: search parameters, what they lead to, and the patient compartment (API-1).

The data file is derived from the published definitions by ``make definitions`` and read on demand, one resource type
at a time. A parameter carries JSON paths instead of FHIRPath, so nothing is interpreted while resources are stored.
"""

import gzip
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Final

import msgspec
from msgspec import Struct

from carechain.charts.resource_types import R4_TYPES

RESOURCE_TYPES: Final = R4_TYPES
"""Every resource type that is stored; Bundle, Parameters and OperationOutcome only carry others."""
FILE: Final = "search.json.gz"
UNITED_KINDS: Final = frozenset({"token", "quantity", "composite"})
"""The kinds whose parameters may be answered by others. Nothing is sorted by such a one."""


class Leaf(Struct, frozen=True, array_like=True):
    """Where a value of a parameter stands in the JSON.

    A step is a property's name; ``name?key=value`` takes only the elements whose ``key`` is ``value``. ``type`` is the
    FHIR type found there, or ``deceased`` for the one computed value. ``target`` is the resource type a reference must
    lead to, or empty.
    """

    path: tuple[str, ...]
    type: str
    target: str = ""


class Component(Struct, frozen=True, array_like=True):
    """One part of a composite: the parameter of the same resource type that it is."""

    code: str
    kind: str


class Group(Struct, frozen=True, array_like=True):
    """An element whose own values meet both parts of a composite: its path, and the parts' leaves below it."""

    path: tuple[str, ...]
    sides: tuple[tuple[Leaf, ...], tuple[Leaf, ...]]


class SearchParameter(Struct, frozen=True, kw_only=True):
    """A search parameter of one resource type.

    ``kind`` is token, string, date, number, quantity, reference, uri, composite or special. ``targets`` are the types
    that a reference may lead to from this resource type. A composite with ``groups`` has index rows of its own; one
    without is met where both of its components are met. A parameter with ``parts`` has no rows: it says what these
    others of its type say together (``combo-code`` is ``code`` and ``component-code``).
    """

    code: str
    resource_type: str
    kind: str
    expression: str
    targets: tuple[str, ...] = ()
    components: tuple[Component, ...] = ()
    leaves: tuple[Leaf, ...] = ()
    groups: tuple[Group, ...] = ()
    parts: tuple[str, ...] = ()

    @property
    def is_code(self) -> bool:
        """Whether values are of the type code (gender, status): no system is named, since the element implies it."""
        return bool(self.leaves) and all(leaf.type == "code" for leaf in self.leaves)

    @property
    def is_grouped(self) -> bool:
        """Whether a composite is indexed under its own key."""
        return bool(self.groups)


class _Parameter(Struct, frozen=True, forbid_unknown_fields=True):
    kind: str
    expression: str
    targets: tuple[str, ...] = ()
    components: tuple[Component, ...] = ()
    leaves: tuple[Leaf, ...] = ()
    groups: tuple[Group, ...] = ()


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    parameters: dict[str, msgspec.Raw]
    compartment: dict[str, tuple[str, ...]]


@cache
def _file() -> _File:
    packed = files("carechain.charts").joinpath("data", FILE).read_bytes()
    return msgspec.json.decode(gzip.decompress(packed), type=_File)


_EMPTY: Final[Mapping[str, SearchParameter]] = MappingProxyType({})


@cache
def _parameters(resource_type: str) -> Mapping[str, SearchParameter]:
    raw = msgspec.json.decode(_file().parameters[resource_type], type=dict[str, _Parameter])
    parts = {code: _parts(code, raw) for code in raw}
    return MappingProxyType(
        {
            code: SearchParameter(
                code=code,
                resource_type=resource_type,
                kind=one.kind,
                expression=one.expression,
                targets=one.targets,
                components=one.components,
                leaves=one.leaves,
                groups=one.groups,
                parts=parts[code],
            )
            for code, one in sorted(raw.items())
        }
    )


def _parts(code: str, known: Mapping[str, _Parameter]) -> tuple[str, ...]:
    """The parameters of the same kind that together look at the places that this one looks at, if there are some."""
    whole = _places(known[code], known)
    if known[code].kind not in UNITED_KINDS or len(whole) == 1:
        return ()
    met: set[Leaf | Group] = set()
    found: list[str] = []
    for other, one in sorted(known.items()):
        inside = [[place for place in whole if _includes(own, place)] for own in _places(one, known)]
        if one.kind == known[code].kind and all(inside) and len(inside) < len(whole):
            found.append(other)
            met.update(*inside)
    return tuple(found) if met == whole else ()


def _includes(one: Leaf | Group, other: Leaf | Group) -> bool:
    """Whether a place is another one. A composite on the resource itself may read more than the definition says."""
    if isinstance(one, Leaf) or isinstance(other, Leaf):
        return one == other
    sides = zip(one.sides, other.sides, strict=True)
    return one.path == other.path and all(set(wanted) <= set(found) for found, wanted in sides)


def _places(one: _Parameter, known: Mapping[str, _Parameter]) -> frozenset[Leaf | Group]:
    """Where a parameter's values stand; a composite without groups is one on the resource itself."""
    if one.kind != "composite" or one.groups:
        return frozenset((*one.leaves, *one.groups))
    first, second = ((known[part.code].leaves if part.code in known else ()) for part in one.components)
    return frozenset((Group((), (first, second)),))


def search_parameters(resource_type: str) -> Mapping[str, SearchParameter]:
    """The parameters of a resource type by code, those of every resource (``_tag`` and the like) included.

    Empty for a type that is not stored.
    """
    return _parameters(resource_type) if resource_type in _file().parameters else _EMPTY


def compartment_params(resource_type: str) -> tuple[str, ...]:
    """The reference parameters by which a resource belongs to a patient's compartment; empty if it never does."""
    return _file().compartment.get(resource_type, ())
