"""A query, held within the caller's rights: also where it only passes through another type (CON-7).

``Observation?patient.name=x`` reads patients' names. So a chain, a ``_has`` and an include need the right to the type
they pass through, and the queries of the caller's scopes are asked of that type too.
"""

import msgspec

from carechain.charts.searching.tree import (
    AllOf,
    AnyOf,
    Chain,
    Has,
    Include,
    Node,
    Not,
    Part,
    SearchQuery,
    all_of,
    any_of,
)
from carechain.core.rejection import Rejected
from carechain.gateway.codes import FhirCode
from carechain.gateway.fhir.call import Site
from carechain.gateway.fhir.rights import Right, filters_of, may, require_may
from carechain.gateway.principal import Principal


def guarded(site: Site, principal: Principal, query: SearchQuery) -> SearchQuery:
    """The query within the caller's rights; raises ``Rejected`` (403) when it needs a right the caller lacks."""
    guard = _Guard(site, principal)
    return msgspec.structs.replace(
        query,
        parts=tuple(guard.part(part) for part in query.parts),
        includes=tuple(include for include in query.includes if guard.follows(include)),
    )


def allowed_parts(principal: Principal, query: SearchQuery) -> SearchQuery:
    """The query over the types that the caller may search, for searches that named no type; 403 when none is left."""
    parts = tuple(part for part in query.parts if may(principal, part.resource_type, Right.SEARCH))
    if not parts:
        raise Rejected(FhirCode.MAY_NOT)
    return msgspec.structs.replace(query, parts=parts)


class _Guard:
    """Remembers what a type's scopes demand while one query is gone through."""

    def __init__(self, site: Site, principal: Principal) -> None:
        self._site = site
        self._principal = principal
        self._demanded: dict[str, Node | None] = {}

    def part(self, part: Part) -> Part:
        require_may(self._principal, part.resource_type, Right.SEARCH)
        demand = self._demand(part.resource_type)
        where = self._node(part.where)
        whole = all_of(where) if demand is None else all_of(where, demand)
        return msgspec.structs.replace(part, where=whole)

    def follows(self, include: Include) -> bool:
        """An include from a type that is not read, or that scopes narrow, would show what they hide."""
        if not may(self._principal, include.source_type, Right.READ):
            return False
        return not (include.iterate and self._principal.may(include.source_type).filters)

    def _node(self, node: Node) -> Node:
        match node:
            case AllOf(nodes):
                return AllOf(tuple(self._node(one) for one in nodes))
            case AnyOf(nodes):
                return AnyOf(tuple(self._node(one) for one in nodes))
            case Not(inner):
                return Not(self._node(inner))
            case Chain():
                return msgspec.structs.replace(node, inner=self._behind(node.resource_type, node.inner))
            case Has():
                return msgspec.structs.replace(node, inner=self._behind(node.source_type, node.inner))
            case _:
                return node

    def _behind(self, resource_type: str, inner: Node) -> Node:
        require_may(self._principal, resource_type, Right.SEARCH)
        demand = self._demand(resource_type)
        inside = self._node(inner)
        return inside if demand is None else all_of(inside, demand)

    def _demand(self, resource_type: str) -> Node | None:
        """What the caller's scopes ask of a resource of the type; None: nothing."""
        if resource_type not in self._demanded:
            filters = filters_of(self._site, self._principal, resource_type)
            wanted = [part.where for query in filters for part in query.parts]
            self._demanded[resource_type] = any_of(*wanted) if wanted else None
        return self._demanded[resource_type]
