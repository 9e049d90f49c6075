"""A JSON schema of R4 that says what the published one leaves out.

The published schema is draft-06 with a resource list that no validator follows, lets required elements be absent, two
values of a choice stand side by side, lists be empty, and refuses no-break spaces. So the schema is written anew from
the StructureDefinitions; of the published one only the codes of required bindings are taken. Names are the paths of the
StructureDefinitions (``Observation.component``). A place for any resource is named ``Resource``: what stands there is
validated as what it says it is.

Not said here, since a schema cannot: which dates exist, what references lead to (listed beside the definitions), and
invariants between elements. ``charts/validation.py`` does these by hand.
"""

from typing import Any, Final

from tools.definitions.structures import Element, Structures, TypeUse

Json = dict[str, Any]

R4: Final = "4.0.1"
R4B_ONLY: Final = frozenset({"CodeableReference", "RatioRange", "SubscriptionStatus", "MetadataResource"})
ABSTRACT: Final = frozenset({"BackboneElement", "DomainResource", "Resource"})
NO_SPACE: Final = "[^ \\t\\r\\n]"
PRIMITIVES: Final[dict[str, Json]] = {
    "base64Binary": {"type": "string", "pattern": "^[A-Za-z0-9+/=\\s]+$"},
    "boolean": {"type": "boolean"},
    "canonical": {"type": "string", "pattern": f"^{NO_SPACE}+$"},
    "code": {"type": "string", "pattern": f"^{NO_SPACE}+([ \\t\\r\\n]{NO_SPACE}+)*$"},
    "date": {"type": "string"},
    "dateTime": {"type": "string"},
    "decimal": {"type": "number"},
    "id": {"type": "string", "pattern": "^[A-Za-z0-9.-]{1,64}$"},
    "instant": {"type": "string"},
    "integer": {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1},
    "markdown": {"type": "string", "pattern": NO_SPACE},
    "oid": {"type": "string", "pattern": "^urn:oid:[0-2](\\.(0|[1-9][0-9]*))+$"},
    "positiveInt": {"type": "integer", "minimum": 1, "maximum": 2**31 - 1},
    "string": {"type": "string", "pattern": NO_SPACE},
    "time": {"type": "string", "pattern": "^([01][0-9]|2[0-3]):[0-5][0-9]:([0-5][0-9]|60)(\\.[0-9]+)?$"},
    "unsignedInt": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1},
    "uri": {"type": "string", "pattern": f"^{NO_SPACE}+$"},
    "url": {"type": "string", "pattern": f"^{NO_SPACE}+$"},
    "uuid": {"type": "string", "pattern": "^urn:uuid:[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$"},
    "xhtml": {"type": "string"},
}
"""The forms of dates and of xhtml are left to the code that must read them anyway."""
OR_NULL: Final = "?"
"""Ends the name of a primitive in a list, where null stands for a value that has extensions only."""
ANY_RESOURCE: Final[Json] = {"type": "object", "required": ["resourceType"]}


def complete(published: Json, structures: Structures) -> Json:
    """The definitions by name, and for each the targets of its references by property."""
    definitions: Json = {"Resource": ANY_RESOURCE}
    for name, schema in PRIMITIVES.items():
        definitions[name] = schema
        definitions[name + OR_NULL] = schema | {"type": [schema["type"], "null"]}
    targets: dict[str, dict[str, list[str]]] = {}
    resources = [name for name in structures.resources if name not in R4B_ONLY]
    for path in structures.paths():
        root = path.partition(".")[0]
        if path in PRIMITIVES or path in ABSTRACT or root in R4B_ONLY:
            continue
        definitions[path] = _definition(path, structures, published, is_resource=path in resources)
        found = _targets(path, structures)
        if found:
            targets[path] = found
    definitions["Element" + OR_NULL] = {"anyOf": [{"$ref": "#/definitions/Element"}, {"type": "null"}]}
    return {"definitions": definitions, "targets": targets, "resources": resources}


def _definition(path: str, structures: Structures, published: Json, *, is_resource: bool) -> Json:
    properties: Json = {"resourceType": {"const": path}} if is_resource else {}
    required: list[str] = ["resourceType"] if is_resource else []
    conditions: list[Json] = []
    enums = _enums(path, published)
    for element in structures.elements(path).values():
        alternatives = []
        for name, use in _alternatives(element):
            properties |= _property(name, use, element, structures, enums.get(name), is_resource=is_resource)
            alternatives.append((name, use is not None and use.code in PRIMITIVES))
        if element.is_choice and path != "Extension":
            conditions.append(_one_of(alternatives, is_required=bool(element.least)))
        elif element.least and alternatives[0][1]:
            conditions.append({"if": {"required": ["_" + element.name]}, "else": {"required": [element.name]}})
        elif element.least:
            required.append(element.name)
    schema: Json = {"type": "object", "properties": properties, "additionalProperties": False, "minProperties": 1}
    if required:
        schema["required"] = required
    if conditions:
        schema["allOf"] = conditions
    return schema


def _alternatives(element: Element) -> list[tuple[str, TypeUse | None]]:
    """The properties an element may be given as; one that repeats another element's content has no type of its own."""
    if element.content is not None:
        return [(element.name, None)]
    return [(name, use) for name, use in element.properties() if use.code not in R4B_ONLY]


def _one_of(alternatives: list[tuple[str, bool]], *, is_required: bool) -> Any:  # noqa: ANN401 - a schema or a boolean
    """At most one of the types of a choice, or exactly one.

    A chain of conditions fails with one error, whereas ``oneOf`` fails with one for every type that it might have been.
    """
    if not alternatives:
        return not is_required
    first, *rest = alternatives
    chain: Json = {"if": _present(first), "else": _one_of(rest, is_required=is_required)}
    return chain | {"then": {"not": {"anyOf": [_present(one) for one in rest]}}} if rest else chain


def _present(alternative: tuple[str, bool]) -> Json:
    """The property is there; a primitive may be there with its extensions only."""
    name, is_primitive = alternative
    if not is_primitive:
        return {"required": [name]}
    return {"anyOf": [{"required": [name]}, {"required": ["_" + name]}]}


def _property(
    name: str,
    use: TypeUse | None,
    element: Element,
    structures: Structures,
    enum: list[str] | None,
    *,
    is_resource: bool,
) -> Json:
    """A property, and beside a primitive the one that holds its extensions."""
    if use is None:
        return {name: _many(f"{element.content}") if element.many else _ref(f"{element.content}")}
    code = "id" if is_resource and name == "id" else use.code
    if code in PRIMITIVES:
        one: Json = {"enum": [*enum, None] if element.many else enum} if enum else _ref(code)
        if not element.many:
            return {name: one, "_" + name: _ref("Element")}
        items = one if enum else _ref(code + OR_NULL)
        extensions = {"type": "array", "minItems": 1, "items": _ref("Element" + OR_NULL)}
        return {name: {"type": "array", "minItems": 1, "items": items}, "_" + name: extensions}
    target = structures.below(element, use)
    target = "Resource" if target in ABSTRACT else target
    return {name: _many(target) if element.many else _ref(target)}


def _ref(name: str) -> Json:
    return {"$ref": f"#/definitions/{name}"}


def _many(name: str) -> Json:
    return {"type": "array", "minItems": 1, "items": _ref(name)}


def _enums(path: str, published: Json) -> dict[str, list[str]]:
    """The codes that required bindings allow, by property."""
    definitions = published["definitions"]
    root, *steps = path.split(".")
    name: str | None = root
    for step in steps:
        below = definitions.get(name, {}).get("properties", {}).get(step, {})
        name = below.get("items", below).get("$ref", "").rpartition("/")[2]
    found = {}
    for key, schema in definitions.get(name, {}).get("properties", {}).items():
        enum = schema.get("items", schema).get("enum")
        if enum:
            found[key] = [*enum, R4] if key == "fhirVersion" and R4 not in enum else enum
    return found


def _targets(path: str, structures: Structures) -> dict[str, list[str]]:
    """Properties that hold references to some types only."""
    return {
        name: sorted(use.targets)
        for element in structures.elements(path).values()
        for name, use in element.properties()
        if use.code == "Reference" and use.targets and "Resource" not in use.targets
    }
