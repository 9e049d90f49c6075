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
    without is met where both of its components are met.
    """

    code: str
    resource_type: str
    kind: str
    expression: str
    targets: tuple[str, ...] = ()
    components: tuple[Component, ...] = ()
    leaves: tuple[Leaf, ...] = ()
    groups: tuple[Group, ...] = ()

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
            )
            for code, one in sorted(raw.items())
        }
    )


def search_parameters(resource_type: str) -> Mapping[str, SearchParameter]:
    """The parameters of a resource type by code, those of every resource (``_tag`` and the like) included.

    Empty for a type that is not stored.
    """
    return _parameters(resource_type) if resource_type in _file().parameters else _EMPTY


def compartment_params(resource_type: str) -> tuple[str, ...]:
    """The reference parameters by which a resource belongs to a patient's compartment; empty if it never does."""
    return _file().compartment.get(resource_type, ())
