"""What the caller's role and scopes leave of what its sight shows (CON-3, CON-7): the second check, on every path.

Sight stands in the database's statements. Rights are about resource types and, with SMART's scopes v2, about queries
that a resource must match (``Observation.rs?category=laboratory``); those are asked of the database as well.
"""

from collections import defaultdict
from collections.abc import Sequence
from enum import Enum

from carechain.charts.repository import Reader, Stored
from carechain.charts.searching.query import narrowed, parse, restrict
from carechain.charts.searching.result import Page, search
from carechain.charts.searching.tree import SearchQuery
from carechain.charts.serving import served
from carechain.core.rejection import Rejected
from carechain.gateway.codes import FhirCode
from carechain.gateway.fhir.call import Site
from carechain.gateway.fhir.parameters import parse as parse_parameters
from carechain.gateway.principal import Principal
from carechain.gateway.providers.matching import within_scopes


class Right(Enum):
    """The rights, as they are named in :class:`carechain.gateway.principal.Rights`."""

    CREATE = "create"
    READ = "read"
    UPDATE = "update"
    SEARCH = "search"


def may(principal: Principal, resource_type: str, right: Right) -> bool:
    """Whether the caller has a right on a type."""
    held: bool = getattr(principal.may(resource_type), right.value)
    return held


def require_may(principal: Principal, resource_type: str, right: Right) -> None:
    """Raise ``Rejected`` (403) unless the caller has the right; says nothing about what exists."""
    if not may(principal, resource_type, right):
        raise Rejected(FhirCode.MAY_NOT)


def require_all_types(principal: Principal, right: Right) -> None:
    """Raise ``Rejected`` (403) unless the caller has a right on every type, without narrowing."""
    every = [principal.may("*"), *principal.rights.values()]
    if not all(getattr(rights, right.value) and not rights.filters for rights in every):
        raise Rejected(FhirCode.MAY_NOT)


def filters_of(site: Site, principal: Principal, resource_type: str) -> tuple[SearchQuery, ...]:
    """The queries of which a resource of the type must match one; none: no narrowing.

    Parsed strictly: a scope with a parameter that is not known opens nothing, and raises ``Rejected``.
    """
    return tuple(
        parse(
            resource_type,
            parse_parameters(text.encode()),
            zone=site.zone,
            strict=True,
            base_url=site.base_url,
        )
        for text in principal.may(resource_type).filters
    )


def readable(site: Site, reader: Reader, principal: Principal, listed: Sequence[Stored]) -> list[Stored]:
    """Those of the resources whose type the caller may read and that match its scopes' queries; in the same order."""
    by_type: dict[str, list[int]] = defaultdict(list)
    for one in listed:
        by_type[one.resource_type].append(one.rid)
    kept: set[int] = set()
    for resource_type, rids in by_type.items():
        if may(principal, resource_type, Right.READ):
            kept.update(_matching(site, reader, principal, resource_type, rids))
    return [one for one in listed if one.rid in kept]


def readable_versions(site: Site, reader: Reader, principal: Principal, listed: Sequence[Stored]) -> list[Stored]:
    """As :func:`readable` for any versions: an old one must match the scopes' queries itself, like the newest."""
    kept = readable(site, reader, principal, listed)
    by_type: dict[str, dict[bytes, int]] = defaultdict(dict)
    for one in kept:
        if principal.may(one.resource_type).filters:
            by_type[one.resource_type][served(one)] = one.seq
    hidden: set[int] = set()
    for resource_type, versions in by_type.items():
        shown = within_scopes(principal, resource_type, versions, zone=site.zone)
        hidden.update(set(versions.values()) - {versions[body] for body in shown})
    return [one for one in kept if one.seq not in hidden]


def _matching(site: Site, reader: Reader, principal: Principal, resource_type: str, rids: list[int]) -> list[int]:
    filters = filters_of(site, principal, resource_type)
    if not filters:
        return rids
    everything = parse(resource_type, [], zone=site.zone, strict=True, base_url=site.base_url)
    query = narrowed(restrict(everything, filters), sorted(set(rids)))
    found = search(reader.connection, reader.visible(principal.sight), query, Page(count=len(rids)))
    return list(found.matches)
