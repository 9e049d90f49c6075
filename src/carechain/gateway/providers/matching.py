"""Searching among resources that are made when asked for: FHIR's own rules, without a database.

The same parser and the same extraction as for stored resources, so a parameter means the same for both. What would need
other resources (chained parameters, ``_has``, ``_lastUpdated``) matches nothing here.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, tzinfo
from typing import Any, Final

import msgspec
from msgspec import Struct

from carechain.charts.searching.extract import Extractor
from carechain.charts.searching.query import parse
from carechain.charts.searching.rows import IndexRows
from carechain.charts.searching.tree import (
    AllOf,
    AnyOf,
    Compare,
    Dates,
    Ids,
    IndexTable,
    Match,
    Node,
    Not,
    Present,
    References,
    SortKey,
    Strings,
    Tokens,
)
from carechain.gateway.fhir.parameters import parse as parse_parameters
from carechain.gateway.principal import Principal


class _Candidate(Struct, frozen=True):
    resource_id: str
    body: bytes
    rows: IndexRows


def matching(
    bodies: Iterable[bytes],
    resource_type: str,
    params: Sequence[tuple[str, str]],
    *,
    zone: tzinfo = UTC,
    strict: bool = False,
) -> list[bytes]:
    """The resources (FHIR JSON of one type) that the parameters match, in their order or in that of ``_sort``.

    Raises ``BadParameter`` for values that cannot be read; unless ``strict``, unknown parameters are passed over, as
    the gateway's own strict or lenient handling has dealt with them.
    """
    query = parse(resource_type, params, zone=zone, strict=strict)
    extractor = Extractor(zone)
    found = []
    for body in bodies:
        tree = msgspec.json.decode(body)
        candidate = _Candidate(tree["id"], body, extractor.rows(tree, resource_type))
        if all(holds(part.where, candidate.resource_id, candidate.rows) for part in query.parts):
            found.append(candidate)
    for key in reversed(query.sort):
        # Sorting is stable, so the least important key goes first; what has no value stands last either way.
        having = [one for one in found if _sort_value(key, one) is not None]
        having.sort(key=lambda one: _sort_value(key, one), reverse=key.descending)
        found = having + [one for one in found if _sort_value(key, one) is None]
    return [one.body for one in found]


def within_scopes(
    principal: Principal, resource_type: str, bodies: Iterable[bytes], *, zone: tzinfo = UTC
) -> list[bytes]:
    """Those of the resources that the caller's scopes let it read: every one, or those that match one of their queries.

    A scope's query with a parameter that is not known opens nothing: it raises ``BadParameter``.
    """
    rights = principal.may(resource_type)
    listed = list(bodies) if rights.read or rights.search else []
    if not rights.filters:
        return listed
    kept: set[bytes] = set()
    for text in rights.filters:
        kept.update(matching(listed, resource_type, parse_parameters(text.encode()), zone=zone, strict=True))
    return [one for one in listed if one in kept]


def holds(node: Node, resource_id: str, rows: IndexRows) -> bool:
    """Whether a condition holds for a resource with these index rows."""
    match node:
        case AllOf(nodes):
            return all(holds(one, resource_id, rows) for one in nodes)
        case AnyOf(nodes):
            return any(holds(one, resource_id, rows) for one in nodes)
        case Not(inner):
            return not holds(inner, resource_id, rows)
        case Tokens(param, values):
            return any(key == param and value in values for key, value in rows.tokens)
        case References(param, targets):
            return any(key == param and target in targets for key, target in rows.references)
        case Strings(param):
            return any(key == param and _texts_match(node, folded, exact) for key, folded, exact in rows.strings)
        case Dates(param):
            return any(key == param and _COMPARED[node.compare](node, low, high) for key, low, high in rows.dates)
        case Present(present):
            return any(any(row[0] == param for row in _rows(rows, table)) for table, param in present)
        case Ids(ids):
            return resource_id in ids
        case _:
            return False


def _texts_match(node: Strings, folded: str, exact: str) -> bool:
    match node.match:
        case Match.EXACT:
            return exact == node.text
        case Match.CONTAINS:
            return node.text in folded
        case Match.STARTS:
            return folded.startswith(node.text)


def _within(node: Dates, low: int, high: int) -> bool:
    return node.low_us <= low < node.high_us and high <= node.high_us


_COMPARED: Final[dict[Compare, Callable[[Dates, int, int], bool]]] = {
    Compare.EQ: _within,
    Compare.NE: lambda node, low, high: not _within(node, low, high),
    Compare.GT: lambda node, _, high: high > node.high_us,
    Compare.LT: lambda node, low, _: low < node.low_us,
    Compare.GE: lambda node, low, high: low >= node.low_us or high > node.high_us,
    Compare.LE: lambda node, low, high: high <= node.high_us or low < node.low_us,
    Compare.SA: lambda node, low, _: low >= node.high_us,
    Compare.EB: lambda node, low, high: high <= node.low_us and low < node.low_us,
    Compare.AP: lambda node, low, high: low < node.high_us and high > node.low_us,
}


def _rows(rows: IndexRows, table: IndexTable) -> Sequence[tuple[Any, ...]]:
    tables: dict[IndexTable, Sequence[tuple[Any, ...]]] = {
        IndexTable.TOKENS: rows.tokens,
        IndexTable.REFERENCES: rows.references,
        IndexTable.STRINGS: rows.strings,
        IndexTable.DATES: rows.dates,
        IndexTable.NUMBERS: rows.numbers,
    }
    return tables[table]


def _sort_value(key: SortKey, one: _Candidate) -> Any:  # noqa: ANN401 - comparable within one key
    if key.table is None:
        return one.resource_id if key.column == "resource_id" else None
    values = [row[1] for row in _rows(one.rows, key.table) if row[0] == key.param]
    if not values:
        return None
    return max(values) if key.descending else min(values)
