"""Search parameters from their published FHIRPath expressions to JSON paths that need no FHIRPath at run time.

The published expressions use a small part of FHIRPath: paths, unions, ``as``, ``where(name = 'value')``,
``where(resolve() is Type)`` and one ``exists() and … != false``. Anything else stops the build.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from tools.definitions.structures import PROFILE, Structures

Json = dict[str, Any]

US_CORE: Final = "http://hl7.org/fhir/us/core/StructureDefinition/"
OWN_EXPRESSIONS: Final[dict[str, str]] = {
    # Values of these extensions stand in codings below them; the published expressions drop the coding's system.
    "us-core-race": f"(Patient.extension.where(url='{US_CORE}us-core-race').extension.value as Coding)",
    "us-core-ethnicity": f"(Patient.extension.where(url='{US_CORE}us-core-ethnicity').extension.value as Coding)",
    "us-core-patient-gender-identity": (
        f"(Patient.extension.where(url='{US_CORE}us-core-genderIdentity').value as CodeableConcept)"
    ),
    "us-core-condition-asserted-date": (
        f"(Condition.extension.where(url='{PROFILE}condition-assertedDate').value as dateTime)"
    ),
}
DECEASED: Final = "Patient.deceased.exists() and Patient.deceased != false"
DECEASED_TYPE: Final = "deceased"
"""The one computed value: true with a deceased[x] other than false, false without one."""

TYPES_OF_KIND: Final = {
    "token": "CodeableConcept Coding Identifier ContactPoint code boolean string id uri deceased",
    "string": "string markdown HumanName Address CodeableConcept Coding",
    "date": "date dateTime instant Period Timing",
    "number": "integer decimal positiveInt unsignedInt Range",
    "quantity": "Quantity Age Duration Count Distance Money Range SampledData",
    "reference": "Reference canonical uri",
    "uri": "uri canonical url oid uuid",
    "special": "",
}
"""Which types a kind of parameter finds something in; other branches of a choice are left out."""
SWAPPED_COMPONENTS: Final = {"relationship": {"relatesto": "target", "relation": "code"}}
"""DocumentReference's composite was published with its two expressions exchanged."""
COMPONENTS: Final = 2
NOT_STORED: Final = frozenset({"Bundle", "OperationOutcome", "Parameters", "SubscriptionStatus"})
"""Carry other resources or answers, or are of R4B; charts hold none of them, so nothing is searched in them."""
UNSUPPORTED_CODES: Final = frozenset({"_text", "_content", "_query"})
"""Without an expression; the server says that it does not know them."""

_STEP: Final = re.compile(
    r"""\.?(?:
      where\(resolve\(\)\s+is\s+(?P<target>\w+)\)
    | where\((?P<key>\w+)\s*=\s*'(?P<value>[^']*)'\)
    | as\((?P<as>\w+)\)
    | (?P<name>\w+)(?:\[(?P<index>\d+)\])?
    )""",
    re.VERBOSE,
)
_CAST: Final = re.compile(r"\((?P<path>[^()]*(?:\([^()]*\)[^()]*)*)\s+as\s+(?P<type>\w+)\)(?P<rest>.*)")


class Leaf(NamedTuple):
    """Where a value stands (JSON names, ``name?key=value`` for a filter), its type, and what it must refer to."""

    path: tuple[str, ...]
    type: str
    target: str = ""


class Found(NamedTuple):
    """A place that an expression has come to: the JSON path, where its elements are, its type and targets."""

    path: tuple[str, ...]
    below: str
    type: str
    targets: tuple[str, ...]
    target: str = ""


class Walker:
    """Evaluates expressions over the definitions instead of over resources."""

    def __init__(self, structures: Structures) -> None:
        self._structures = structures

    def places(self, expression: str, start: Found) -> list[Found]:
        """Every place an expression may lead to from ``start``; alternatives about other types lead nowhere."""
        found: list[Found] = []
        for alternative in _alternatives(expression):
            found += self._alternative(alternative, start)
        return list(dict.fromkeys(found))

    def _alternative(self, expression: str, start: Found) -> list[Found]:
        if expression == DECEASED:
            return [Found((), "", DECEASED_TYPE, ())] if start.type == "Patient" else []
        cast = _CAST.fullmatch(expression)
        if cast:
            inner = _of_type(self._path(cast["path"], [start]), cast["type"])
            return self._path(cast["rest"].removeprefix("."), inner)
        return self._path(
            expression.removeprefix("(").removesuffix(")") if expression[0] == "(" else expression, [start]
        )

    def _path(self, expression: str, places: list[Found]) -> list[Found]:
        at, first = 0, True
        while at < len(expression) and places:
            match = _STEP.match(expression, at)
            if match is None:
                raise ValueError(f"not understood: {expression}")
            at = match.end()
            if first and match["name"] and match["name"][0].isupper():
                places = [one for one in places if match["name"] in (one.type, "Resource", "DomainResource")]
            else:
                places = self._step(match, places)
            first = False
        return places

    def _step(self, match: re.Match[str], places: list[Found]) -> list[Found]:
        if match["target"]:
            return [
                one._replace(target=match["target"])
                for one in places
                if not one.targets or {match["target"], "Resource"} & set(one.targets)
            ]
        if match["key"]:
            filtered = f"?{match['key']}={match['value']}"
            return [one._replace(path=(*one.path[:-1], one.path[-1] + filtered)) for one in places]
        if match["as"]:
            return _of_type(places, match["as"])
        found: list[Found] = []
        for one in places:
            element = self._structures.find(one.below, match["name"])
            if element is None:
                continue
            if element.content is not None:
                found.append(Found((*one.path, match["name"]), element.content, "BackboneElement", ()))
            for name, use in element.properties():
                step = f"{name}#{match['index']}" if match["index"] else name
                found.append(Found((*one.path, step), self._structures.below(element, use), use.code, use.targets))
        return found


def _alternatives(expression: str) -> list[str]:
    """The parts of a union, parentheses respected."""
    parts, depth, start = [], 0, 0
    for at, letter in enumerate(expression):
        depth += (letter == "(") - (letter == ")")
        if letter == "|" and depth == 0:
            parts.append(expression[start:at].strip())
            start = at + 1
    return [*parts, expression[start:].strip()]


def _of_type(places: Iterable[Found], name: str) -> list[Found]:
    return [one for one in places if one.type.lower() == name.lower()]


def compile_all(parameters: Sequence[Json], structures: Structures) -> dict[str, dict[str, Json]]:
    """For every resource type its parameters, with the names that ``charts/definitions.py`` reads them by."""
    by_url = {one["url"]: one for one in parameters}
    walker = Walker(structures)
    searched = [name for name in structures.resources if name not in NOT_STORED]
    compiled: dict[str, dict[str, Json]] = {name: {} for name in searched}
    for parameter in sorted(parameters, key=lambda one: one["id"]):
        expression = OWN_EXPRESSIONS.get(parameter["id"]) or parameter.get("expression", "")
        if parameter["code"] in UNSUPPORTED_CODES:
            continue
        common = {"Resource", "DomainResource"} & set(parameter["base"])
        for resource_type in searched if common else parameter["base"]:
            if resource_type in NOT_STORED:
                continue
            one = _compile(parameter, expression, resource_type, walker, by_url)
            if one is not None:
                compiled[resource_type].setdefault(parameter["code"], one)
    return compiled


def _compile(
    parameter: Json, expression: str, resource_type: str, walker: Walker, by_url: dict[str, Json]
) -> Json | None:
    root = Found((), resource_type, resource_type, ())
    kind: str = parameter["type"]
    places = walker.places(expression, root)
    # Of an expression over many types, what stands here is what concerns this one.
    own = [one for one in _alternatives(expression) if walker.places(one, root)]
    compiled: Json = {"kind": kind, "expression": " | ".join(own)}
    if kind == "composite":
        return _composite(parameter, compiled, places, walker, by_url)
    leaves = [Leaf(one.path, one.type, one.target) for one in places if one.type in TYPES_OF_KIND[kind].split()]
    if not leaves and kind != "special":
        raise ValueError(f"{resource_type}.{parameter['code']}: nothing of {[one.type for one in places]} is searched")
    compiled["leaves"] = [list(leaf) if leaf.target else [leaf.path, leaf.type] for leaf in leaves]
    if kind == "reference":
        compiled["targets"] = _targets(parameter, places)
    return compiled


def _targets(parameter: Json, places: Sequence[Found]) -> list[str]:
    """What the parameter may lead to from this type: published targets that the elements allow."""
    published = set(parameter.get("target", ())) - NOT_STORED
    allowed: set[str] = set()
    for one in places:
        allowed |= {one.target} if one.target else set(one.targets)
    allowed -= NOT_STORED
    if not allowed or "Resource" in allowed:
        return sorted(published)
    return sorted(allowed & published) or sorted(allowed)


def _composite(
    parameter: Json, compiled: Json, places: Sequence[Found], walker: Walker, by_url: dict[str, Json]
) -> Json | None:
    """Parts that must be met by the same element. On the resource itself that is no more than both parts."""
    components = parameter["component"]
    if len(components) != COMPONENTS:
        return None
    named = [by_url[one["definition"]] for one in components]
    compiled["components"] = [[one["code"], one["type"]] for one in named]
    if all(one.path == () for one in places):
        return compiled
    swapped = SWAPPED_COMPONENTS.get(parameter["code"], {})
    groups = []
    for place in places:
        sides = []
        for component, definition in zip(components, named, strict=True):
            expression = swapped.get(definition["code"], component["expression"])
            found = walker.places(expression, place)
            wanted = TYPES_OF_KIND[definition["type"]].split()
            depth = len(place.path)
            sides.append([[one.path[depth:], one.type] for one in found if one.type in wanted])
        groups.append([place.path, sides])
    compiled["groups"] = groups
    return compiled


def compartment(definition: Json, compiled: dict[str, dict[str, Json]]) -> dict[str, list[str]]:
    """The parameters by which each type belongs to a patient; published names that are no parameters are left out."""
    return {
        one["code"]: [code for code in one["param"] if code in compiled.get(one["code"], {})]
        for one in definition["resource"]
        if "param" in one
    }
