"""Whether bytes are a FHIR R4 resource: JSON with one meaning, the structure, and what a structure cannot say (API-1).

The structure is checked with a JSON schema per resource type (:mod:`carechain.charts.structure`). By hand come dates
that do not exist, invariants (:mod:`carechain.charts.rules`), what references lead to, contained resources and
narratives. A resource inside another is validated as what it says it is. No issue repeats anything of the input, the
names of unknown elements included.
"""

import re
from datetime import UTC
from itertools import islice
from typing import Any, Final, TypeAlias

import jsonschema_rs
import orjson
from msgspec import Struct

from carechain.charts import narrative
from carechain.charts.bundle import repeats_a_key
from carechain.charts.codes import ChartsCode
from carechain.charts.rules import RULES
from carechain.charts.searching.values import date_interval
from carechain.charts.structure import ANY_RESOURCE, Step, all_steps, is_resource_type, plain_steps, validator
from carechain.core.limits import BUNDLE_NESTING
from carechain.core.rejection import Rejected

Json = dict[str, Any]

ISSUES: Final = 100
"""More are not listed: who gets a hundred has enough to do."""
EXPLAINED_BYTES: Final = 1024 * 1024
LISTED: Final = 100
"""In a larger resource, so many items of each list are looked at for what is wrong with them."""
ENUM_LISTED: Final = 20
ERRORS: Final = frozenset({"error", "fatal"})

_DATE: Final = re.compile(r"\d{4}(?:-\d\d(?:-\d\d)?)?", re.ASCII)
_DATE_TIME: Final = re.compile(
    r"\d{4}(?:-\d\d(?:-\d\d(?:T\d\d:\d\d:\d\d(?:\.\d+)?(?P<offset>Z|[+-]\d\d:\d\d)?)?)?)?", re.ASCII
)
_WITH_TIME: Final = 11
_INSTANT: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)", re.ASCII)
_ID: Final = r"[A-Za-z0-9.\-]{1,64}"
_RELATIVE: Final = re.compile(rf"([A-Za-z]+)(?:/{_ID}(?:/_history/{_ID})?|\?[!-~]*)", re.ASCII)
_ABSOLUTE: Final = re.compile(rf"https?://.*?/([A-Za-z]+)/{_ID}(?:/_history/{_ID})?", re.ASCII)
_SCHEME: Final = re.compile(r"(?!javascript:|vbscript:|data:)[a-z][a-z0-9+.\-]*:[^\s\x00-\x20]+", re.IGNORECASE)
_RUNS: Final = re.compile(r"[\x00-\x20]*(?:javascript|vbscript)\s*:", re.IGNORECASE)
_LOCAL: Final = re.compile(rb'"#([A-Za-z0-9.\-]{1,64})"')
_ESCAPE: Final = re.compile(rb"\\(?:([bf]|u00(?!09|0[aAdD])[01])|.)")


class Issue(Struct, frozen=True, kw_only=True):
    """One finding: severity (fatal, error, warning), FHIR's IssueType code, where, and what to do about it."""

    severity: str
    code: str
    location: str
    diagnostics: str


class InvalidResource(Rejected):
    """A resource that may not be stored, with what is wrong with it; nothing of it is repeated."""

    def __init__(self, issues: tuple[Issue, ...]) -> None:
        super().__init__(ChartsCode.INVALID_RESOURCE)
        self.issues = issues


_Place: TypeAlias = "tuple[_Place | None, str, int]"
"""Where in the tree: a chain of names and positions in lists (-1: not in one), written out only when needed."""


def validate(body: bytes, tree: Json | None = None) -> tuple[Issue, ...]:
    """Everything that is wrong with a resource, at most ``ISSUES`` findings; empty if it is valid.

    A warning does not make it invalid; see :func:`check`. ``tree``: ``body`` as orjson reads it, where that was done.
    """
    try:
        tree = orjson.loads(body) if tree is None else tree
    except orjson.JSONDecodeError:
        return (_fatal("This is not JSON in UTF-8."),)
    if type(tree) is not dict:
        return (_fatal("A resource is a JSON object."),)
    try:
        is_repeating = repeats_a_key(body, tree)
    except TypeError:
        return (Issue(severity="error", code="too-long", location="", diagnostics="This is nested too deeply."),)
    examination = _Examination()
    examination.resource(tree, body, (None, "", -1), 0)
    issues = examination.issues
    if not any(one.severity in ERRORS for one in issues):
        if b"\\" in body and any(found[1] for found in _ESCAPE.finditer(body)):
            examination.add(
                "value", None, "Text may hold no control characters but tab, carriage return and line feed."
            )
        if is_repeating:
            examination.add("structure", None, "An object has the same key twice; which one counts would be a guess.")
    return tuple(issues[:ISSUES])


def check(body: bytes) -> None:
    """Raise :class:`InvalidResource` unless the resource is valid; warnings pass."""
    issues = validate(body)
    if any(one.severity in ERRORS for one in issues):
        raise InvalidResource(issues)


def _fatal(text: str) -> Issue:
    return Issue(severity="fatal", code="structure", location="", diagnostics=text)


class _Examination:
    """One walk over a resource and those inside it, collecting issues."""

    def __init__(self) -> None:
        self.issues: list[Issue] = []
        self._root = ""
        self._is_too_deep = False
        self._steps = plain_steps
        self._contained: frozenset[str] = frozenset()

    def add(self, code: str, place: "_Place | None", text: str, severity: str = "error") -> None:
        """Note an issue, unless there are enough."""
        if len(self.issues) < ISSUES:
            location = self._location(place)
            self.issues.append(Issue(severity=severity, code=code, location=location, diagnostics=text))

    def _location(self, place: "_Place | None") -> str:
        names: list[str] = []
        while place is not None and place[0] is not None:
            place, name, position = place
            names.append(name if position < 0 else f"{name}[{position}]")
        return ".".join([self._root, *reversed(names)])

    # --- objects ---------------------------------------------------------------------------------------
    def resource(self, tree: Json, body: bytes, place: _Place, depth: int) -> None:
        """A resource, on its own or inside another; ``body`` is its JSON in some form."""
        if len(self.issues) >= ISSUES:
            return
        resource_type = tree.get("resourceType")
        if not is_resource_type(resource_type):
            self.add("structure", place, "resourceType is not a resource type of R4.")
            return
        resource_type = str(resource_type)
        self._root = self._root or resource_type
        outer = self._contained, self._steps
        is_contained = place[1] == "contained"
        if not is_contained:
            self._contained = _contained_ids(tree)
        is_extended = b'xtension"' in body or (b"\\" in body and b"\\u" in body)
        self._steps = all_steps if is_extended else plain_steps
        self._object(tree, resource_type, place, depth)
        # What is too deep for this walk would be for the schema's as well.
        if not self._is_too_deep:
            self._structure(tree, resource_type, place, len(body))
            self._check_contained(tree, place, is_contained=is_contained)
        self._contained, self._steps = outer

    def _object(self, tree: Json, definition: str, place: _Place, depth: int) -> None:
        if depth > BUNDLE_NESTING:
            self._is_too_deep = True
            self.add("too-long", place, "This is nested too deeply.")
            return
        known = self._steps(definition)
        for name, value in tree.items():
            step = known.get(name)
            if step is None:
                continue
            if type(value) is list:
                for index, one in enumerate(value):
                    self._value(one, step, (place, name, index), depth + 2)
            else:
                self._value(value, step, (place, name, -1), depth + 1)
        for rule in RULES.get(definition, ()):
            if rule.is_broken(tree):
                self.add("invariant", place, f"{rule.name}: {rule.text}")

    def _value(self, value: object, step: Step, place: _Place, depth: int) -> None:
        if step.is_object:
            if type(value) is not dict:
                return
            if step.definition == ANY_RESOURCE:
                self.resource(value, orjson.dumps(value), place, depth)
                return
            self._object(value, step.definition, place, depth)
            if step.definition == "Reference":
                self._reference(value, step.targets, place)
        elif type(value) is str:
            self._string(value, step.definition, place)

    # --- strings ---------------------------------------------------------------------------------------
    def _string(self, value: str, definition: str, place: _Place) -> None:
        if definition == "xhtml":
            found = narrative.problem(value)
            if found is not None:
                self.add("invalid", place, f"The narrative has {found}.")
        elif definition == "url":
            if _RUNS.match(value):
                self.add("value", place, "This address could run something.")
        else:
            self._date(value, definition, place)

    def _date(self, value: str, definition: str, place: _Place) -> None:
        form = {"date": _DATE, "dateTime": _DATE_TIME}.get(definition, _INSTANT).fullmatch(value)
        if form is None:
            self.add("value", place, f"This is not a {definition} as R4 writes it.")
            return
        try:
            date_interval(value, UTC)
        except ValueError:
            self.add("value", place, "This date does not exist.")
            return
        if definition == "dateTime" and len(value) >= _WITH_TIME and form["offset"] is None:
            text = "A time needs its offset; this one is taken as the repository's local time."
            self.add("value", place, text, severity="warning")

    # --- references and contained resources --------------------------------------------------------------
    def _reference(self, reference: Json, targets: frozenset[str], place: _Place) -> None:
        literal, stated = reference.get("reference"), reference.get("type")
        if type(stated) is str and targets and is_resource_type(stated) and stated not in targets:
            self.add("value", place, "The stated type is not one that may be referred to here.")
        if type(literal) is not str:
            return
        if literal.startswith("#"):
            if len(literal) > 1 and literal[1:] not in self._contained:
                self.add("invariant", place, "ref-1: There is no contained resource of this id.")
            return
        found = _RELATIVE.fullmatch(literal) or _ABSOLUTE.fullmatch(literal)
        if found is None:
            if not _SCHEME.fullmatch(literal):
                self.add("value", place, "A reference is Type/id, an absolute address or #id.")
        elif not is_resource_type(found[1]):
            if found.re is _RELATIVE:
                self.add("value", place, "The reference's type is not a resource type of R4.")
        elif targets and found[1] not in targets:
            self.add("value", place, "The reference's type is not one that may be referred to here.")

    def _check_contained(self, tree: Json, place: _Place, *, is_contained: bool) -> None:
        if is_contained and "contained" in tree:
            self.add("invariant", place, "dom-2: A contained resource contains no others.")
        meta = tree.get("meta")
        if is_contained and type(meta) is dict:
            if "versionId" in meta or "lastUpdated" in meta:
                self.add("invariant", place, "dom-4: A contained resource has no version and no time of its own.")
            if "security" in meta:
                self.add("invariant", place, "dom-5: A contained resource has no security label of its own.")
        contained = tree.get("contained")
        if is_contained or type(contained) is not list:
            return
        referred = {found[1].decode() for found in _LOCAL.finditer(orjson.dumps(tree))}
        for index, one in enumerate(contained):
            name = one.get("id") if type(one) is dict else None
            if type(name) is str and name not in referred and b'"#"' not in orjson.dumps(one):
                self.add("invariant", (place, "contained", index), "dom-3: Nothing refers to this resource.")

    # --- structure ---------------------------------------------------------------------------------------
    def _structure(self, tree: Json, resource_type: str, place: _Place, size_bytes: int) -> None:
        schema = validator(resource_type)
        if schema.is_valid(tree):
            return
        # Every error is made before the first is seen, so of what could hold a million only the beginning is looked at.
        errors = schema.iter_errors(tree if size_bytes <= EXPLAINED_BYTES else _beginning(tree))
        before = len(self.issues)
        for error in islice(errors, ISSUES):
            at = place
            for step in error.instance_path:
                at = (at[0], at[1], step) if type(step) is int else (at, str(step), -1)
            self.add(*_explained(error, at))
        if len(self.issues) == before:
            text = f"Something beyond the first {LISTED} items of a list is not valid; send less to have it named."
            self.add("structure", place, text)


def _beginning(value: Any) -> Any:  # noqa: ANN401 - any JSON
    """A copy in which no list is longer than ``LISTED``."""
    if type(value) is dict:
        return {name: _beginning(one) for name, one in value.items()}
    return [_beginning(one) for one in value[:LISTED]] if type(value) is list else value


def _contained_ids(tree: Json) -> frozenset[str]:
    contained = tree.get("contained")
    trees = contained if type(contained) is list else ()
    return frozenset(one["id"] for one in trees if type(one) is dict and type(one.get("id")) is str)


def _explained(error: jsonschema_rs.ValidationError, place: _Place) -> tuple[str, _Place, str]:
    """FHIR's code, the place and a sentence for a schema error; of the input it takes the place only."""
    kind, details = error.kind.name, error.kind.as_dict()
    if kind == "additionalProperties":
        return "structure", place, "There is an element that R4 does not know here."
    if kind == "required":
        return "required", (place, str(details["property"]), -1), "This element is required."
    if kind == "not":
        return "structure", place, "An element with a choice of types is given in two of them."
    if kind == "falseSchema":
        return "required", place, "An element with a choice of types is required and not given."
    if kind == "enum":
        options = [str(one) for one in details["options"] if one is not None]
        listed = f" One of: {', '.join(options)}." if len(options) <= ENUM_LISTED else ""
        return "code-invalid", place, f"This code is not one that R4 allows here.{listed}"
    if kind == "type":
        return "structure", place, f"This must be of type {' or '.join(details['types'])}."
    if kind in {"minItems", "minProperties"}:
        return "structure", place, "A list or element must not be empty."
    return "value", place, "This value does not have the form that R4 gives its type."
