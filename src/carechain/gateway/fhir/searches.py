"""Searching: a type, the whole system, a patient's compartment; pages, includes, totals (FHIR R4, 3.1.1).

The caller's sight stands in every statement, its rights and scopes in the query itself, so a page never shrinks after
it was read and a total counts only what is seen. A search that matches only hidden resources is the search that matches
nothing.
"""

from collections.abc import Sequence
from typing import Final

import orjson
from msgspec import Struct
from msgspec.structs import replace

from carechain.charts.repository import Reader, Stored
from carechain.charts.resource_types import DIRECTORY
from carechain.charts.searching.query import compartment, parse
from carechain.charts.searching.result import Page, count, included, search
from carechain.charts.searching.tree import AllOf, AnyOf, Chain, Has, Node, Not, SearchQuery
from carechain.charts.serving import served
from carechain.core.limits import SEARCH_PAGE
from carechain.gateway.fhir.bundling import Link, Listed, bundle, outcome_entry, search_entry
from carechain.gateway.fhir.call import Answer, Call, Site, given
from carechain.gateway.fhir.guarding import allowed_parts, guarded
from carechain.gateway.fhir.instances import next_link, opened_page, self_link
from carechain.gateway.fhir.outcome import Issue
from carechain.gateway.fhir.paging import PAGE_PARAMETER
from carechain.gateway.fhir.parameters import Params
from carechain.gateway.fhir.rights import readable
from carechain.gateway.fhir.routing import Kind
from carechain.gateway.fhir.subsetting import subset

DEFAULT_PAGE: Final = 20
"""Matches in a page when the caller names no ``_count``."""
IGNORED: Final = Issue(
    severity="warning",
    code="not-supported",
    diagnostics="Parameters that this server does not know were passed over; the self link shows what was understood.",
)


class Asked(Struct, frozen=True, kw_only=True):
    """A search as understood: its query, the parameters that were first sent, and where this page begins."""

    query: SearchQuery
    params: Params
    after: bytes | None


def find(site: Site, reader: Reader, call: Call, extra: Sequence[bytes] = ()) -> Answer:
    """One page of a search. ``extra`` are matches from elsewhere than the charts, shown on the first page."""
    asked = understood(site, call)
    query = asked.query
    visible = reader.visible(call.principal.sight)
    if query.counts_only:
        return _counted(site, call, asked, count(reader.connection, visible, query), len(extra))
    wanted = DEFAULT_PAGE if query.count is None else min(query.count, SEARCH_PAGE)
    found = search(reader.connection, visible, query, Page(count=wanted, after=asked.after))
    matches = reader.fetch(call.principal.sight, list(found.matches))
    others = _included(site, reader, call, query, matches)
    links = [self_link(site, call, list(query.applied))]
    if found.more and found.next is not None:
        links.append(next_link(site, call, asked.params, found.next))
    first = asked.after is None
    total = found.total
    # A number of matches tells of patients, and so does a practitioner that was found by what stands in their charts.
    counted = (total or 0) if _is_clinical(query) else 0
    if len(matches) and _is_clinical(query):
        counted = max(counted, len(matches))
    if first and total is None and not found.more:
        # The page is all there is, so counting costs nothing and tells nothing more.
        total = len(matches)
    more = list(extra) if first else []
    return Answer(
        body=_searchset(
            site,
            query,
            matches=matches,
            others=others,
            extra=more,
            links=links,
            total=None if total is None else total + len(extra),
        ),
        given=replace(given([*matches, *others], *([call.target.resource_type] if more else [])), counted=counted),
    )


def _is_clinical(query: SearchQuery) -> bool:
    """Whether a query asks of patients' resources, were it only on the way to shared ones."""
    waiting: list[Node] = [part.where for part in query.parts]
    types = {part.resource_type for part in query.parts}
    while waiting:
        match waiting.pop():
            case AllOf(nodes) | AnyOf(nodes):
                waiting += nodes
            case Not(inner):
                waiting.append(inner)
            case Chain() as chain:
                types.add(chain.resource_type)
                waiting.append(chain.inner)
            case Has() as has:
                types.add(has.source_type)
                waiting.append(has.inner)
    return not types <= DIRECTORY


def understood(site: Site, call: Call) -> Asked:
    """Read a search within the caller's rights; raises ``Rejected`` (400, 403, 410)."""
    target = call.target
    params, after = opened_page(site, call)
    searched: str | None = target.resource_type
    if target.kind is Kind.COMPARTMENT:
        searched = None if target.member_type == "*" else target.member_type
    elif target.kind is Kind.SEARCH_SYSTEM:
        searched = None
    query = parse(
        searched,
        [(name, value) for name, value in params if name != PAGE_PARAMETER],
        zone=site.zone,
        strict=call.preferences.strict,
        base_url=site.base_url,
    )
    if searched is None and not any(name == "_type" for name, _ in params):
        query = allowed_parts(call.principal, query)
    query = guarded(site, call.principal, query)
    if target.kind is Kind.COMPARTMENT:
        query = compartment(query, target.resource_id)
    return Asked(query=query, params=params, after=after)


def _included(site: Site, reader: Reader, call: Call, query: SearchQuery, matches: Sequence[Stored]) -> list[Stored]:
    """What the matches bring along: seen by the caller, of types it may read, each once and no match again."""
    if not query.includes or not matches:
        return []
    visible = reader.visible(call.principal.sight)
    rids = included(reader.connection, visible, query, [one.rid for one in matches])
    shown = {one.rid for one in matches}
    found = reader.fetch(call.principal.sight, [rid for rid in dict.fromkeys(rids) if rid not in shown])
    return readable(site, reader, call.principal, found)


def _counted(site: Site, call: Call, asked: Asked, stored: int, provided: int) -> Answer:
    links = [self_link(site, call, list(asked.query.applied))]
    counted = stored if _is_clinical(asked.query) else 0
    body = bundle("searchset", (), links=links, total=stored + provided)
    return Answer(body=body, given=replace(given([]), counted=counted))


def _searchset(
    site: Site,
    query: SearchQuery,
    *,
    matches: Sequence[Stored],
    others: Sequence[Stored],
    extra: Sequence[bytes],
    links: Sequence[Link],
    total: int | None,
) -> bytes:
    entries = [_extra_entry(site, query, body) for body in extra]
    entries += [_entry(site, query, one, "match") for one in matches]
    entries += [_entry(site, query, one, "include") for one in others]
    if query.ignored:
        entries.append(outcome_entry([IGNORED]))
    return bundle("searchset", entries, links=links, total=total)


def _entry(site: Site, query: SearchQuery, stored: Stored, mode: str) -> bytes:
    body = subset(served(stored), summary=query.summary, elements=query.elements)
    return search_entry(Listed(full_url=site.url(stored.resource_type, stored.resource_id), body=body, mode=mode))


def _extra_entry(site: Site, query: SearchQuery, body: bytes) -> bytes:
    tree = orjson.loads(body)
    shown = subset(body, summary=query.summary, elements=query.elements)
    return search_entry(Listed(full_url=site.url(tree["resourceType"], tree["id"]), body=shown))


def provided(site: Site, call: Call, bodies: Sequence[bytes]) -> Answer:
    """A page of resources that only a provider knows; it has given all of them."""
    params = [(name, value) for name, value in call.params if name not in {"_format", "_pretty"}]
    plain = SearchQuery(parts=())
    body = bundle(
        "searchset",
        (_extra_entry(site, plain, one) for one in bodies),
        links=[self_link(site, call, params)],
        total=len(bodies),
    )
    shown = given([], call.target.resource_type) if bodies else given([])
    return Answer(body=body, given=shown)
