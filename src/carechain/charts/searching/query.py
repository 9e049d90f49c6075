"""A FHIR search as it was written, read into a :class:`~carechain.charts.searching.tree.SearchQuery` (API-1).

``parse`` knows every parameter of the R4 definitions and the parameters of the search itself (``_sort``, ``_include``
and so on). What it does not know is refused or, if the caller asked for lenient handling, named as ignored; a value or
modifier that makes no sense is always refused, since leaving it out would answer another question.
"""

from collections.abc import Callable, Sequence
from datetime import tzinfo
from typing import Final

from msgspec.structs import replace

from carechain.charts.definitions import RESOURCE_TYPES, SearchParameter, compartment_params, search_parameters
from carechain.charts.searching.codes import BadParameter, SearchCode, clean_name
from carechain.charts.searching.conditions import ID, Reading, condition
from carechain.charts.searching.keys import param_key, resource_term
from carechain.charts.searching.tree import (
    NEVER,
    AllOf,
    Among,
    AnyOf,
    Chain,
    Has,
    Ids,
    Include,
    IndexTable,
    Node,
    Not,
    Part,
    References,
    SearchQuery,
    SortKey,
    all_of,
    any_of,
)
from carechain.core.limits import (
    SEARCH_CHAINS,
    SEARCH_INCLUDES,
    SEARCH_PAGE,
    SEARCH_PARAMETERS,
    SEARCH_SORT_KEYS,
    SEARCH_VALUES,
)

PASSED_OVER: Final = frozenset({"_format", "_pretty"})
"""About the answer's form: the gateway reads them."""
UNSUPPORTED: Final = frozenset({"_text", "_content", "_list", "_query", "_filter", "_containedType", "_score"})
SUMMARIES: Final = frozenset({"true", "false", "text", "data", "count"})
TOTALS: Final = frozenset({"none", "estimate", "accurate"})
_SORT_TABLES: Final = {
    "date": IndexTable.DATES,
    "string": IndexTable.STRINGS,
    "uri": IndexTable.STRINGS,
    "token": IndexTable.STRINGS,
    "number": IndexTable.NUMBERS,
    "quantity": IndexTable.NUMBERS,
}
_LIVE_COLUMNS: Final = {"_id": "resource_id", "_lastUpdated": "updated_us"}


class _Draft:
    """What has been read of one query so far."""

    def __init__(self, types: tuple[str, ...], *, zone: tzinfo, base_url: str) -> None:
        self.types = types
        self.zone = zone
        self.base_url = base_url
        self.conditions: dict[str, list[Node]] = {one: [] for one in types}
        self.fields: dict[str, object] = {}
        self.includes: list[Include] = []
        self.applied: list[tuple[str, str]] = []
        self.ignored: list[str] = []
        self.chains = 0

    def add_condition(self, name: str, value: str) -> None:
        """A condition must be known to every type that is searched."""
        reading = Reading(zone=self.zone, base_url=self.base_url, parameter=name)
        read = [(one, condition(one, name, value, reading)) for one in self.types]
        self.chains += sum(_chains_in(node) for _, node in read)
        if self.chains > SEARCH_CHAINS:
            raise reading.refuse(SearchCode.CHAIN_TOO_DEEP)
        for resource_type, node in read:
            self.conditions[resource_type].append(node)


def _chains_in(node: Node) -> int:
    """How many references a condition follows."""
    match node:
        case AllOf(nodes) | AnyOf(nodes):
            return sum(map(_chains_in, nodes))
        case Not(inner):
            return _chains_in(inner)
        case Chain() | Has():
            return 1 + _chains_in(node.inner)
        case _:
            return 0


def parse(
    resource_type: str | None,
    params: Sequence[tuple[str, str]],
    *,
    zone: tzinfo,
    strict: bool,
    base_url: str = "",
) -> SearchQuery:
    """The query that names and values (decoded from their URL form) stand for.

    ``resource_type`` is None at system level: then ``_type`` says which types are searched, and without it all are.
    ``zone`` is where dates without an offset count; ``base_url`` is this server's address, under which absolute
    references are its own. Not ``strict``: unknown and unsupported parameters, and empty ones, are left out and named
    in ``ignored``. Raises :class:`~carechain.charts.searching.codes.BadParameter`.
    """
    if len(params) > SEARCH_PARAMETERS:
        raise BadParameter(SearchCode.TOO_MANY_PARAMETERS, "")
    draft = _Draft(_types(resource_type, params), zone=zone, base_url=base_url)
    for name, value in params:
        if name in PASSED_OVER or (name == "_type" and resource_type is None):
            continue
        try:
            _read(draft, name, value)
        except BadParameter as refusal:
            if strict or refusal.code not in _LEFT_OUT:
                raise
            draft.ignored.append(clean_name(name))
        else:
            draft.applied.append((name, value))
    parts = tuple(Part(resource_type=one, where=all_of(*nodes)) for one, nodes in draft.conditions.items())
    if resource_type is None:
        draft.applied = [("_type", value) for name, value in params if name == "_type"] + draft.applied
    query = SearchQuery(
        parts=parts, includes=tuple(draft.includes), applied=tuple(draft.applied), ignored=tuple(draft.ignored)
    )
    return replace(query, **draft.fields)


_LEFT_OUT: Final = frozenset(
    {SearchCode.UNKNOWN_PARAMETER, SearchCode.UNSUPPORTED_PARAMETER, SearchCode.EMPTY_VALUE, SearchCode.CANNOT_SORT}
)


def _types(resource_type: str | None, params: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    if resource_type is not None:
        if resource_type not in RESOURCE_TYPES:
            raise BadParameter(SearchCode.UNKNOWN_TYPE, "")
        return (resource_type,)
    named = [one for name, value in params if name == "_type" for one in value.split(",")]
    if any(one not in RESOURCE_TYPES for one in named):
        raise BadParameter(SearchCode.UNKNOWN_TYPE, "_type")
    return tuple(sorted(set(named) or RESOURCE_TYPES))


def _read(draft: _Draft, name: str, value: str) -> None:
    if not value:
        raise BadParameter(SearchCode.EMPTY_VALUE, name)
    if name in UNSUPPORTED:
        raise BadParameter(SearchCode.UNSUPPORTED_PARAMETER, name)
    reader = _CONTROLS.get(name.partition(":")[0])
    if reader is None:
        draft.add_condition(name, value)
    else:
        reader(draft, name, value)


# --- parameters of the search itself --------------------------------------------------------------------
def _count(draft: _Draft, name: str, value: str) -> None:
    if not (value.isascii() and value.isdigit()) or len(value) > 9:  # noqa: PLR2004 - fits any integer
        raise BadParameter(SearchCode.BAD_VALUE, name)
    draft.fields["count"] = min(int(value), SEARCH_PAGE)


def _one_of(field: str, allowed: frozenset[str]) -> "_Control":
    def read(draft: _Draft, name: str, value: str) -> None:
        if value not in allowed:
            raise BadParameter(SearchCode.BAD_VALUE, name)
        draft.fields[field] = value

    return read


def _elements(draft: _Draft, name: str, value: str) -> None:
    names = tuple(dict.fromkeys(one.strip().rpartition(".")[2] for one in value.split(",")))
    if len(names) > SEARCH_VALUES or not all(one.isascii() and one.isalnum() for one in names):
        raise BadParameter(SearchCode.BAD_VALUE, name)
    draft.fields["elements"] = names


def _contained(draft: _Draft, name: str, value: str) -> None:
    del draft
    # The default. Contained resources are not searched: they have no identity of their own.
    if value != "false":
        raise BadParameter(SearchCode.UNSUPPORTED_PARAMETER, name)


def _sort(draft: _Draft, name: str, value: str) -> None:
    codes = value.split(",")
    if len(codes) > SEARCH_SORT_KEYS or len(draft.types) != 1:
        raise BadParameter(SearchCode.CANNOT_SORT, name)
    draft.fields["sort"] = tuple(sort_key(draft.types[0], code.strip()) for code in codes)


def sort_key(resource_type: str, code: str) -> SortKey:
    """The key that ``date`` or ``-date`` stands for. Tokens are sorted by their printed text."""
    descending, plain = code.startswith("-"), code.removeprefix("-")
    if column := _LIVE_COLUMNS.get(plain):
        return SortKey(column=column, descending=descending)
    parameter = search_parameters(resource_type).get(plain)
    table = _SORT_TABLES.get(parameter.kind) if parameter else None
    if parameter is None or table is None or parameter.parts:
        raise BadParameter(SearchCode.CANNOT_SORT, "_sort")
    suffix = ":text" if parameter.kind == "token" else ""
    return SortKey(table=table, param=param_key(resource_type, plain + suffix), descending=descending)


def _include(draft: _Draft, name: str, value: str) -> None:
    base, _, modifier = name.partition(":")
    # ``recurse`` is what ``iterate`` was called before R4.
    if modifier not in {"", "iterate", "recurse"}:
        raise BadParameter(SearchCode.UNSUPPORTED_MODIFIER, name)
    if len(draft.includes) >= SEARCH_INCLUDES:
        raise BadParameter(SearchCode.TOO_MANY_PARAMETERS, name)
    reverse = base == "_revinclude"
    for include in _include_of(draft, name, value, reverse=reverse):
        draft.includes.append(replace(include, iterate=bool(modifier)))


def _include_of(draft: _Draft, name: str, value: str, *, reverse: bool) -> list[Include]:
    if value == "*" and not reverse:
        return [Include(source_type=one, params=_reference_keys(one)) for one in draft.types]
    source_type, _, rest = value.partition(":")
    code, _, target_type = rest.partition(":")
    known = search_parameters(source_type)
    if not known or (target_type and target_type not in RESOURCE_TYPES):
        raise BadParameter(SearchCode.BAD_INCLUDE, name)
    if code == "*":
        keys = _reference_keys(source_type)
    elif code in known and known[code].kind == "reference":
        keys = (param_key(source_type, code),)
    else:
        raise BadParameter(SearchCode.BAD_INCLUDE, name)
    return [Include(source_type=source_type, params=keys, target_type=target_type, reverse=reverse)]


def _reference_keys(resource_type: str) -> tuple[int, ...]:
    known: Sequence[SearchParameter] = tuple(search_parameters(resource_type).values())
    return tuple(param_key(resource_type, one.code) for one in known if one.kind == "reference")


_Control = Callable[[_Draft, str, str], None]
_CONTROLS: Final[dict[str, _Control]] = {
    "_count": _count,
    "_summary": _one_of("summary", SUMMARIES),
    "_total": _one_of("total", TOTALS),
    "_elements": _elements,
    "_contained": _contained,
    "_sort": _sort,
    "_include": _include,
    "_revinclude": _include,
}


# --- queries made narrower ------------------------------------------------------------------------------
def narrowed(query: SearchQuery, rids: Sequence[int]) -> SearchQuery:
    """The query over some rows only: whether what was read or is about to be written matches it."""
    return _with(query, lambda _: Among(tuple(rids)))


def restrict(query: SearchQuery, filters: Sequence[SearchQuery]) -> SearchQuery:
    """The query over resources that any of the filters matches too (a SMART scope's ``?category=laboratory``).

    A filter says nothing about types that it does not search: those it does not let through. No filter at all: nothing
    is taken away.
    """
    if not filters:
        return query
    return _with(
        query,
        lambda resource_type: any_of(
            *(part.where for one in filters for part in one.parts if part.resource_type == resource_type)
        ),
    )


def compartment(query: SearchQuery, patient_id: str) -> SearchQuery:
    """The query over the resources of one patient's compartment; nothing of types that have no place in one."""
    if not ID.fullmatch(patient_id):
        return _with(query, lambda _: NEVER)
    target = resource_term("Patient", patient_id)

    def belongs(resource_type: str) -> Node:
        links = [
            References(param_key(resource_type, code), (target,))
            for code in compartment_params(resource_type)
            if code in search_parameters(resource_type)
        ]
        return any_of(*([*links, Ids((patient_id,))] if resource_type == "Patient" else links))

    return _with(query, belongs)


def _with(query: SearchQuery, more: Callable[[str], Node]) -> SearchQuery:
    return replace(
        query,
        parts=tuple(replace(part, where=all_of(part.where, more(part.resource_type))) for part in query.parts),
    )
