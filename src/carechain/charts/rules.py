"""Invariants of R4 between the elements of one object, which a JSON schema cannot say (API-1).

A rule is named as R4 names it and looks at an object of a form that the schema may not have confirmed yet, so it takes
nothing for granted. https://hl7.org/fhir/R4/ lists them with each resource and type.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC
from typing import Any, Final, NamedTuple

from carechain.charts.searching.values import date_interval

Json = dict[str, Any]
ACTIVE: Final = frozenset({"active", "recurrence", "relapse"})


class Rule(NamedTuple):
    """R4's name of the rule, what to do, and whether an object breaks it."""

    name: str
    text: str
    is_broken: Callable[[Json], bool]


def _objects(value: object) -> list[Json]:
    return [one for one in value if type(one) is dict] if type(value) is list else []


def _object(value: object) -> Json:
    return value if type(value) is dict else {}


def _has(tree: Json, stem: str) -> bool:
    """Whether a choice such as ``value[x]`` is given, in whatever type."""
    return any(key.startswith((stem, "_" + stem)) and key.lstrip("_")[len(stem) :][:1].isupper() for key in tree)


def _given(tree: Json, *names: str) -> bool:
    return any(name in tree or "_" + name in tree for name in names)


def _needs(first: str, *others: str) -> Callable[[Json], bool]:
    """Broken where ``first`` is given without any of ``others``."""
    return lambda tree: _given(tree, first) and not _given(tree, *others, "extension")


def _one_of(*names: str) -> Callable[[Json], bool]:
    """Broken where none is given."""
    return lambda tree: not _given(tree, *names)


def _not_both(first: str, second: str) -> Callable[[Json], bool]:
    return lambda tree: _given(tree, first) and _given(tree, second)


def _codes(concept: object) -> set[str]:
    return {code for coding in _objects(_object(concept).get("coding")) if type(code := coding.get("code")) is str}


def _codings(concept: object) -> set[tuple[object, object]]:
    pairs = ((coding.get("system"), coding.get("code")) for coding in _objects(_object(concept).get("coding")))
    return {(system, code) for system, code in pairs if type(code) is str and type(system) in (str, type(None))}


def _ends_before_start(period: Json) -> bool:
    start, end = period.get("start"), period.get("end")
    if type(start) is not str or type(end) is not str:
        return False
    try:
        return date_interval(start, UTC)[0] >= date_interval(end, UTC)[1]
    except ValueError:
        return False  # Which of the two is no date is said where the dates are.


def _is_upside_down(span: Json) -> bool:
    low, high = _object(span.get("low")), _object(span.get("high"))
    if low.get("code") != high.get("code") or low.get("unit") != high.get("unit"):
        return False
    least, most = low.get("value"), high.get("value")
    return isinstance(least, int | float) and isinstance(most, int | float) and least > most


def _is_negative(name: str) -> Callable[[Json], bool]:
    return lambda tree: type(tree.get(name)) in (int, float) and tree[name] < 0


def _is_half_ratio(ratio: Json) -> bool:
    return _given(ratio, "numerator") != _given(ratio, "denominator")


def _repeats_component(observation: Json) -> bool:
    if "component" not in observation or not _has(observation, "value"):
        return False
    codings = _codings(observation.get("code"))
    return any(codings & _codings(one.get("code")) for one in _objects(observation.get("component")))


def _abated_but_active(condition: Json) -> bool:
    return _has(condition, "abatement") and bool(_codes(condition.get("clinicalStatus")) & ACTIVE)


def _is_error(tree: Json) -> bool:
    return "entered-in-error" in _codes(tree.get("verificationStatus"))


def _is_not_one_or_other(extension: Json) -> bool:
    values = {key.lstrip("_") for key in extension if key.startswith(("value", "_value"))}
    return len(values) + ("extension" in extension) != 1


def _wrong_parameter(parameter: Json) -> bool:
    return _has(parameter, "value") + ("resource" in parameter) + ("part" in parameter) > 1


# --- bundles ---------------------------------------------------------------------------------------------
REQUESTS: Final = frozenset({"batch", "history", "transaction"})
RESPONSES: Final = frozenset({"batch-response", "history", "transaction-response"})


def _entries(bundle: Json) -> list[Json]:
    return _objects(bundle.get("entry"))


def _entries_need(name: str, types: frozenset[str]) -> Callable[[Json], bool]:
    """Broken where entries of these bundle types lack a part, or others have it."""
    return lambda bundle: any((name in one) != (bundle.get("type") in types) for one in _entries(bundle))


def _repeats_full_url(bundle: Json) -> bool:
    if bundle.get("type") == "history":
        return False
    seen = set()
    for entry in _entries(bundle):
        url = entry.get("fullUrl")
        version = _object(_object(entry.get("resource")).get("meta")).get("versionId")
        if type(url) is str:
            key = (url, version if type(version) is str else None)
            if key in seen:
                return True
            seen.add(key)
    return False


def _first_is_not(bundle_type: str, resource_type: str) -> Callable[[Json], bool]:
    def is_broken(bundle: Json) -> bool:
        entries = _entries(bundle)
        first = _object(entries[0].get("resource")) if entries else {}
        return bundle.get("type") == bundle_type and first.get("resourceType") != resource_type

    return is_broken


def _document_lacks(name: str, *parts: str) -> Callable[[Json], bool]:
    def is_broken(bundle: Json) -> bool:
        value = bundle.get(name)
        return bundle.get("type") == "document" and (value is None or any(part not in _object(value) for part in parts))

    return is_broken


BUNDLE: Final = (
    Rule(
        "bdl-1",
        "Only searches and histories have a total.",
        lambda one: "total" in one and one.get("type") not in {"searchset", "history"},
    ),
    Rule(
        "bdl-2",
        "Only searches have entry.search.",
        lambda one: one.get("type") != "searchset" and any("search" in entry for entry in _entries(one)),
    ),
    Rule(
        "bdl-3",
        "Entries of a batch, transaction or history have a request, and others have none.",
        _entries_need("request", REQUESTS),
    ),
    Rule(
        "bdl-4",
        "Entries of a response or history have a response, and others have none.",
        _entries_need("response", RESPONSES),
    ),
    Rule(
        "bdl-5",
        "An entry has a resource unless it has a request or response.",
        lambda one: any(not _given(entry, "resource", "request", "response") for entry in _entries(one)),
    ),
    Rule("bdl-7", "A fullUrl stands for one resource only.", _repeats_full_url),
    Rule(
        "bdl-8",
        "A fullUrl names no version.",
        lambda one: any("/_history/" in str(entry.get("fullUrl")) for entry in _entries(one)),
    ),
    Rule(
        "bdl-9", "A document has an identifier with system and value.", _document_lacks("identifier", "system", "value")
    ),
    Rule("bdl-10", "A document has a timestamp.", _document_lacks("timestamp")),
    Rule("bdl-11", "A document begins with a Composition.", _first_is_not("document", "Composition")),
    Rule("bdl-12", "A message begins with a MessageHeader.", _first_is_not("message", "MessageHeader")),
)

QUANTITY: Final = (Rule("qty-3", "A coded unit needs its system.", _needs("code", "system")),)
RULES: Final[Mapping[str, Iterable[Rule]]] = {
    "Age": QUANTITY,
    "AllergyIntolerance": (
        Rule(
            "ait-1",
            "clinicalStatus is given unless the entry is an error.",
            lambda one: not _is_error(one) and not _given(one, "clinicalStatus"),
        ),
        Rule(
            "ait-2",
            "An entry made in error has no clinicalStatus.",
            lambda one: _is_error(one) and _given(one, "clinicalStatus"),
        ),
    ),
    "Attachment": (Rule("att-1", "Data needs its contentType.", _needs("data", "contentType")),),
    "Bundle": BUNDLE,
    "CarePlan.activity": (Rule("cpl-3", "Give a detail or a reference, not both.", _not_both("detail", "reference")),),
    "Composition.section": (
        Rule("cmp-1", "A section has text, entries or sections.", _one_of("text", "entry", "section")),
        Rule("cmp-2", "Only a section without entries has an emptyReason.", _not_both("emptyReason", "entry")),
    ),
    "Condition": (
        Rule("con-4", "What has abated is not active.", _abated_but_active),
        Rule(
            "con-5",
            "An entry made in error has no clinicalStatus.",
            lambda one: _is_error(one) and _given(one, "clinicalStatus"),
        ),
    ),
    "Consent": (Rule("ppc-1", "Name a policy or a policyRule.", _one_of("policy", "policyRule")),),
    "ContactPoint": (Rule("cpt-2", "A value needs its system.", _needs("value", "system")),),
    "Duration": QUANTITY,
    "Extension": (Rule("ext-1", "An extension has either one value or extensions.", _is_not_one_or_other),),
    "Group": (
        Rule(
            "grp-1", "Only an actual group has members.", lambda one: "member" in one and one.get("actual") is not True
        ),
    ),
    "List": (Rule("lst-1", "Only an empty list has an emptyReason.", _not_both("emptyReason", "entry")),),
    "Observation": (
        Rule(
            "obs-6",
            "Give a value or dataAbsentReason, not both.",
            lambda one: "dataAbsentReason" in one and _has(one, "value"),
        ),
        Rule("obs-7", "An observation with a value has no component of its own code.", _repeats_component),
    ),
    "Observation.referenceRange": (
        Rule("obs-3", "A reference range has low, high or text.", _one_of("low", "high", "text")),
    ),
    "Organization": (Rule("org-1", "An organization has an identifier or a name.", _one_of("identifier", "name")),),
    "Parameters.parameter": (Rule("inv-1", "A parameter has one of value, resource and parts.", _wrong_parameter),),
    "Patient.contact": (
        Rule(
            "pat-1",
            "A contact has a name, telecom, address or organization.",
            _one_of("name", "telecom", "address", "organization"),
        ),
    ),
    "Period": (Rule("per-1", "A period ends after it starts.", _ends_before_start),),
    "Quantity": QUANTITY,
    "Range": (Rule("rng-2", "The low end is not above the high end.", _is_upside_down),),
    "Ratio": (Rule("rat-1", "A ratio has both numbers or none.", _is_half_ratio),),
    "Timing.repeat": (
        Rule("tim-1", "A duration needs its unit.", _needs("duration", "durationUnit")),
        Rule("tim-2", "A period needs its unit.", _needs("period", "periodUnit")),
        Rule("tim-4", "A duration is not negative.", _is_negative("duration")),
        Rule("tim-5", "A period is not negative.", _is_negative("period")),
        Rule("tim-6", "periodMax needs a period.", _needs("periodMax", "period")),
        Rule("tim-7", "durationMax needs a duration.", _needs("durationMax", "duration")),
        Rule("tim-8", "countMax needs a count.", _needs("countMax", "count")),
        Rule("tim-10", "Give timeOfDay or when, not both.", _not_both("timeOfDay", "when")),
    ),
}
"""By the definition they are about; data types apply wherever the type stands."""
