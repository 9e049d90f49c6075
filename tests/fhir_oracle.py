"""FHIR search by reading every resource: what a server's answers are compared with.

Written from the R4 search page alone and sharing nothing with the server but the list of search parameters: values are
found by evaluating the official FHIRPath expressions with ``fhirpathpy``, and compared value by value, with exact
decimals and ``datetime``. Slow, and meant to be obvious.

What it does not judge raises :class:`Unjudged`: a generator then leaves the search out.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import Any, Final, TypeAlias

import fhirpathpy
from fhirpathpy.models import models

from carechain.charts.definitions import SearchParameter, search_parameters

Json: TypeAlias = dict[str, Any]
Interval: TypeAlias = tuple[datetime, datetime]

FIRST, LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
_RESOLVES: Final = re.compile(r"\.where\(resolve\(\) is ([A-Za-z]+)\)")
_CASTS: Final = re.compile(r"^\((.+) as (\w+)\)(.*)$|^([^()].*) as (\w+)$")
_DATE: Final = re.compile(
    r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:T(\d\d):(\d\d)(?::(\d\d)(?:\.(\d+))?)?(Z|[+-]\d\d:\d\d)?)?)?)?"
)
_TEXT_PARTS: Final = (
    *("text", "family", "given", "prefix", "suffix"),
    *("line", "city", "district", "state", "postalCode", "country"),
)
_ANY: Final = SearchParameter(code="", resource_type="", kind="", expression="")
"""For a judge that asks nothing of the parameter."""
CONTACTS: Final = frozenset({"phone", "fax", "email", "pager", "url", "sms", "other"})
"""``ContactPoint.system`` is a code and no namespace of the value."""
TEXTS_FOR_TIMES: Final = ("occurrenceString", "performedString")
"""Elements that an official date parameter's expression finds though their type is string: no times."""
CONTROLS: Final = {"_sort", "_count", "_include", "_revinclude", "_total", "_summary", "_elements"}


class Unjudged(Exception):  # noqa: N818 - no error: the oracle has no opinion
    """The oracle does not know what is right here."""


@cache
def _compiled(resource_type: str, expression: str) -> tuple[Callable[[Json], list[Any]], str]:
    """An alternative of an expression, and the type that references found by it must lead to."""
    found = _RESOLVES.search(expression)
    plain = _RESOLVES.sub("", expression).replace("Resource.", f"{resource_type}.").replace(".as(", ".ofType(")
    # ``as`` is for one element; in search parameters it stands for those elements that are of the type.
    plain = _CASTS.sub(lambda cast: f"{cast[1] or cast[4]}.ofType({cast[2] or cast[5]}){cast[3] or ''}", plain)
    return fhirpathpy.compile(plain, models["r4"]), found[1] if found else ""


@cache
def _alternatives(expression: str) -> tuple[str, ...]:
    """The parts between ``|`` outside of parentheses."""
    parts, depth, start = [], 0, 0
    for at, letter in enumerate(expression):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == "|" and not depth:
            parts.append(expression[start:at].strip())
            start = at + 1
    return (*parts, expression[start:].strip())


def as_list(value: Any) -> list[Any]:
    """One or several or none, as FHIR's JSON has it."""
    return value if isinstance(value, list) else [] if value is None else [value]


# --- values -------------------------------------------------------------------------------------------
def interval_of(text: str) -> Interval:
    """What a FHIR date or time covers, closed below and open above; without an offset it counts in UTC."""
    found = _DATE.fullmatch(text)
    if found is None:
        raise Unjudged(text)
    year, month, day, hour, minute, second, fraction, offset = found.groups()
    if hour is None:
        low = datetime(int(year), int(month or 1), int(day or 1), tzinfo=UTC)
        if day:
            return low, low + timedelta(days=1)
        months = low.year * 12 + low.month - 1 + (1 if month else 12)
        return low, datetime(months // 12, months % 12 + 1, 1, tzinfo=UTC)
    micros = int((fraction or "0")[:6].ljust(6, "0"))
    zone = "+00:00" if offset in {None, "Z"} else offset
    low = datetime.fromisoformat(f"{year}-{month}-{day}T{hour}:{minute}:{second or '00'}{zone}").astimezone(UTC)
    if second is None:
        width = timedelta(minutes=1)
    elif fraction is None:
        width = timedelta(seconds=1)
    else:
        width = timedelta(microseconds=10 ** (6 - len(fraction[:6])))
    low += timedelta(microseconds=micros)
    return low, low + width


def date_values(value: Any) -> list[Interval]:
    """The times of a date, dateTime, instant or Period."""
    if isinstance(value, str):
        return [interval_of(value)]
    if isinstance(value, dict) and ({"start", "end"} & set(value)):
        low = interval_of(value["start"])[0] if "start" in value else FIRST
        return [(low, interval_of(value["end"])[1] if "end" in value else LAST)]
    raise Unjudged("a time of another form")


def compare_dates(prefix: str, query: Interval, target: Interval) -> bool:
    """R4 search, "prefixes", with ranges on both sides."""
    (q_low, q_high), (low, high) = query, target
    contains = q_low <= low and high <= q_high
    match prefix:
        case "eq":
            return contains
        case "ne":
            return not contains
        case "gt":
            return high > q_high
        case "lt":
            return low < q_low
        case "ge":
            return high > q_high or contains
        case "le":
            return low < q_low or contains
        case "sa":
            return low >= q_high
        case "eb":
            return high <= q_low
    raise Unjudged(prefix)


def compare_numbers(prefix: str, text: str, value: Decimal) -> bool:
    """R4 search, "number": precision matters for equality only."""
    query = Decimal(text)
    if "e" in text.lower():
        raise Unjudged("an exponent")
    half = Decimal((0, (5,), int(query.as_tuple().exponent) - 1))
    match prefix:
        case "eq":
            return query - half <= value < query + half
        case "ne":
            return not query - half <= value < query + half
        case "gt" | "sa":
            return value > query
        case "lt" | "eb":
            return value < query
        case "ge":
            return value >= query
        case "le":
            return value <= query
    raise Unjudged(prefix)


def prefixed(text: str) -> tuple[str, str]:
    """The prefix (``eq`` where none is written) and the rest."""
    return (text[:2], text[2:]) if text[:2] in {"eq", "ne", "gt", "lt", "ge", "le", "sa", "eb", "ap"} else ("eq", text)


def codings(value: Any) -> list[tuple[str, str]]:
    """System and code of a concept, coding, identifier, code or boolean."""
    if isinstance(value, bool):
        return [("", "true" if value else "false")]
    if isinstance(value, str):
        return [("", value)]
    if "coding" in value:
        return [pair for one in value["coding"] for pair in codings(one)]
    if value.get("system", "") in CONTACTS:
        return [("", value["value"])] if "value" in value else []
    code = value.get("code", value.get("value"))
    return [(value.get("system", ""), code)] if isinstance(code, str) else []


def folded(text: str) -> str:
    """Case, accents and spacing make no difference."""
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    return " ".join("".join(one for one in plain if not unicodedata.combining(one)).split())


def texts(value: Any) -> list[str]:
    """The strings of a name, an address or a string."""
    if isinstance(value, str):
        return [value]
    return [text for part in _TEXT_PARTS for text in as_list(value.get(part))]


def reference_of(value: Any) -> str:
    """The address in a Reference, without a version; a canonical as it is."""
    literal = value if isinstance(value, str) else value.get("reference", "")
    return str(literal).partition("/_history/")[0]


def leads_somewhere(value: Any) -> bool:
    """Whether a reference has a value to search by: an address outside of the resource, or an identifier.

    R4 leaves open what ``:missing`` says of a reference that is only displayed or contained.
    """
    return not isinstance(value, dict) or "identifier" in value or reference_of(value)[:1] not in {"", "#"}


class Oracle:
    """Everything that a server holds, searched by looking at each resource."""

    def __init__(self, resources: Iterable[Json], *, base_url: str) -> None:
        """``resources`` have ids and are the newest versions; ``base_url`` is where they are served."""
        self.base_url = base_url
        self.by_type: dict[str, dict[str, Json]] = defaultdict(dict)
        for one in resources:
            self.by_type[one["resourceType"]][one["id"]] = one
        self._values: dict[tuple[str, str, str], list[Any]] = {}

    # --- what a resource says -------------------------------------------------------------------------
    def values(self, resource: Json, parameter: SearchParameter) -> list[Any]:
        """The elements that a parameter's expression finds."""
        key = (resource["resourceType"], resource["id"], parameter.code)
        if key not in self._values:
            self._values[key] = self._evaluated(resource, parameter)
        return self._values[key]

    @staticmethod
    def _evaluated(resource: Json, parameter: SearchParameter) -> list[Any]:
        found: list[Any] = []
        if parameter.kind == "date":
            resource = {name: value for name, value in resource.items() if name not in TEXTS_FOR_TIMES}
        for alternative in _alternatives(parameter.expression):
            evaluate, target = _compiled(resource["resourceType"], alternative)
            leads = f"{target}/" if target else ""
            found += [value for value in evaluate(resource) if not leads or reference_of(value).startswith(leads)]
        return found

    # --- searches -------------------------------------------------------------------------------------
    def search(self, resource_type: str, params: Sequence[tuple[str, str]]) -> set[str]:
        """The ids of the matches."""
        conditions = [(name, value) for name, value in params if name not in CONTROLS]
        return {
            one["id"]
            for one in self.by_type[resource_type].values()
            if all(self.matches(one, name, value) for name, value in conditions)
        }

    def included(self, resource_type: str, ids: Iterable[str], params: Sequence[tuple[str, str]]) -> set[str]:
        """``Type/id`` of what ``_include`` and ``_revinclude`` (without ``:iterate``) add to these matches."""
        matched = {f"{resource_type}/{one}" for one in ids}
        found: set[str] = set()
        links = [(name, value) for name, value in params if name in {"_include", "_revinclude"}]
        for name, value in links:
            source, code, target = (*value.split(":"), "")[:3]
            if name == "_include":
                matching = (key.partition("/")[2] for key in matched if source == resource_type)
                for reference in (one for identity in matching for one in self.references(source, identity, code)):
                    kind, _, identity = reference.partition("/")
                    if identity in self.by_type[kind] and target in {"", kind}:
                        found.add(reference)
            else:
                found |= {
                    f"{source}/{one}"
                    for one in self.by_type[source]
                    if matched & set(self.references(source, one, code))
                }
        return found - matched

    def references(self, resource_type: str, identity: str, code: str) -> list[str]:
        """What a resource refers to by a parameter."""
        parameter = search_parameters(resource_type)[code]
        return [reference_of(one) for one in self.values(self.by_type[resource_type][identity], parameter)]

    def matches(self, resource: Json, name: str, value: str) -> bool:
        """Whether a resource meets ``name=value``."""
        resource_type = resource["resourceType"]
        if name.startswith("_has:"):
            _, source, code, rest = name.split(":", 3)
            own = f"{resource_type}/{resource['id']}"
            return any(
                own in self.references(source, one, code) and self.matches(other, rest, value)
                for one, other in self.by_type[source].items()
            )
        head, dot, rest = name.partition(".")
        code, _, modifier = head.partition(":")
        parameter = search_parameters(resource_type)[code]
        if dot:
            return self._chained(resource, parameter, modifier, rest, value)
        if parameter.kind == "composite":
            return any(self._composite(resource, parameter, one) for one in value.split(","))
        found = self.values(resource, parameter)
        if parameter.kind == "reference":
            value = value.replace(f"{self.base_url}/", "")
            found = [one for one in found if leads_somewhere(one)]
        if modifier == "missing":
            return (not found) is (value == "true")
        if modifier == "not":
            return not any(self._meets(parameter, "", one, found) for one in value.split(","))
        return any(self._meets(parameter, modifier, one, found) for one in value.split(","))

    def _chained(self, resource: Json, parameter: SearchParameter, modifier: str, rest: str, value: str) -> bool:
        for reference in (reference_of(one) for one in self.values(resource, parameter)):
            kind, _, identity = reference.partition("/")
            if kind not in parameter.targets or modifier not in {"", kind}:
                continue
            target = self.by_type[kind].get(identity)
            known = rest.startswith("_has:") or re.split(r"[.:]", rest)[0] in search_parameters(kind)
            if target is not None and known and self.matches(target, rest, value):
                return True
        return False

    def _meets(self, parameter: SearchParameter, modifier: str, text: str, found: Sequence[Any]) -> bool:
        judge = _JUDGES.get(parameter.kind)
        if judge is None:
            raise Unjudged(parameter.kind)
        return any(judge(parameter, modifier, text, one) for one in found)

    def _composite(self, resource: Json, parameter: SearchParameter, text: str) -> bool:
        """Observation's composites of a code and a value; both in the same component where one is meant."""
        first, second = text.split("$")
        places: list[Json] = []
        if not parameter.code.startswith("component-"):
            places.append(resource)
        if parameter.code.startswith(("component-", "combo-")):
            places += resource.get("component", [])
        if resource["resourceType"] != "Observation":
            raise Unjudged(parameter.code)
        for place in places:
            coded = "code" in place and _token(_ANY, "", first, place["code"])
            if coded and _value_meets(parameter.components[1].kind, second, place):
                return True
        return False

    # --- order ----------------------------------------------------------------------------------------
    def sort_keys(self, resource_type: str, identity: str, sort: str) -> list[Any]:
        """What a resource is sorted by for each key of ``_sort``: its least value upwards, its greatest downwards.

        A period counts by its start. R4 leaves both to the server.
        """
        resource = self.by_type[resource_type][identity]
        keys = []
        for code in sort.split(","):
            down, plain = code.startswith("-"), code.removeprefix("-")
            parameter = search_parameters(resource_type)[plain]
            said = [one for value in self.values(resource, parameter) for one in _sortable(parameter, value)]
            keys.append((max if down else min)(said) if said else None)
        return keys


def _value_meets(kind: str, text: str, place: Mapping[str, Any]) -> bool:
    if kind == "quantity":
        quantity = place.get("valueQuantity")
        return quantity is not None and _quantity(_ANY, "", text, quantity)
    if kind == "token":
        concept = place.get("valueCodeableConcept")
        return concept is not None and _token(_ANY, "", text, concept)
    raise Unjudged(kind)


def _sortable(parameter: SearchParameter, value: Any) -> list[Any]:
    if parameter.kind == "date":
        return [one[0] for one in date_values(value)]
    if parameter.kind == "string":
        return [folded(one) for one in texts(value)]
    if parameter.kind == "token" and parameter.code == "_id":
        return [value]
    raise Unjudged("sorting by other kinds")


# --- one value against one element ----------------------------------------------------------------------
def _token(parameter: SearchParameter, modifier: str, text: str, value: Any) -> bool:
    del parameter
    if modifier == "text":
        said = [value.get("text"), *(one.get("display") for one in value.get("coding", [value]))]
        return any(folded(one).startswith(folded(text)) for one in said if one)
    if modifier == "of-type":
        system, code, identifier = text.split("|")
        return (system, code) in codings(value.get("type", {})) and value.get("value") == identifier
    if modifier:
        raise Unjudged(modifier)
    system, bar, code = text.rpartition("|")
    for own_system, own_code in codings(value):
        # A code has no system beside it: the element implies one.
        implied = isinstance(value, str) and code
        if (not bar or implied or own_system == system) and code in {"", own_code}:
            return True
    return False


def _string(parameter: SearchParameter, modifier: str, text: str, value: Any) -> bool:
    del parameter
    said = texts(value)
    match modifier:
        case "":
            return any(folded(one).startswith(folded(text)) for one in said)
        case "exact":
            return text in said
        case "contains":
            return any(folded(text) in folded(one) for one in said)
    raise Unjudged(modifier)


def _date(parameter: SearchParameter, modifier: str, text: str, value: Any) -> bool:
    del parameter
    if modifier:
        raise Unjudged(modifier)
    prefix, rest = prefixed(text)
    return any(compare_dates(prefix, interval_of(rest.replace(" ", "+")), one) for one in date_values(value))


def _quantity(parameter: SearchParameter, modifier: str, text: str, value: Any) -> bool:
    del parameter
    if modifier or (isinstance(value, dict) and ("value" not in value or "comparator" in value)):
        raise Unjudged("a quantity of another form")
    number, _, unit = text.partition("|")
    prefix, rest = prefixed(number)
    plain = value["value"] if isinstance(value, dict) else value
    if unit:
        system, _, code = unit.partition("|")
        if system and (value.get("system"), value.get("code")) != (system, code):
            return False
        if code not in {value.get("code"), value.get("unit")}:
            return False
    return compare_numbers(prefix, rest, Decimal(str(plain)))


def _reference(parameter: SearchParameter, modifier: str, text: str, value: Any) -> bool:
    if modifier == "identifier":
        return isinstance(value, dict) and "identifier" in value and _token(parameter, "", text, value["identifier"])
    named = reference_of(value)
    if modifier:
        return named == f"{modifier}/{text}"
    return named == text or any(named == f"{target}/{text}" for target in parameter.targets)


def _uri(parameter: SearchParameter, modifier: str, text: str, value: Any) -> bool:
    del parameter
    if modifier == "below":
        return str(value).startswith(text)
    if modifier:
        raise Unjudged(modifier)
    return text in {value, str(value).partition("|")[0]}


_JUDGES: Final = {
    "token": _token,
    "string": _string,
    "date": _date,
    "number": _quantity,
    "quantity": _quantity,
    "reference": _reference,
    "uri": _uri,
}
