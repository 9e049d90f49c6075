"""Conditional interactions: which resource the criteria mean, as far as the caller sees (FHIR R4, 3.1.0.4.3).

A resource that is hidden from the caller is not matched, so creating ``If-None-Exist`` tells nothing of it.
"""

from typing import Final

from carechain.charts.repository import Reader, Stored
from carechain.charts.searching.query import parse
from carechain.charts.searching.result import Page, search
from carechain.charts.searching.tree import ALWAYS
from carechain.core.rejection import Rejected, require
from carechain.gateway.codes import FhirCode
from carechain.gateway.fhir.call import Site
from carechain.gateway.fhir.guarding import guarded
from carechain.gateway.fhir.parameters import Params
from carechain.gateway.fhir.parameters import parse as parse_parameters
from carechain.gateway.fhir.rights import Right, require_may
from carechain.gateway.principal import Principal

_ONE_TOO_MANY: Final = 2


def criteria(text: str) -> Params:
    """The parameters of conditional criteria: ``Type?a=b``, ``?a=b`` or ``a=b``."""
    _, mark, query = text.partition("?")
    return parse_parameters((query if mark else text).encode())


def matching(site: Site, reader: Reader, principal: Principal, resource_type: str, params: Params) -> Stored | None:
    """The one visible resource that meets the criteria, None when there is none.

    Raises ``Rejected``: MULTIPLE_MATCHES (412), CRITERIA_MISSING (412), what the search refuses (400), MAY_NOT (403).
    """
    require_may(principal, resource_type, Right.SEARCH)
    params = [(name, value) for name, value in params if name not in {"_format", "_pretty"}]
    require(params, FhirCode.CRITERIA_MISSING)
    require(not any(name in _NOT_CRITERIA for name, _ in params), FhirCode.PARAMETER_INVALID)
    query = parse(resource_type, params, zone=site.zone, strict=True, base_url=site.base_url)
    require(all(part.where != ALWAYS for part in query.parts), FhirCode.CRITERIA_MISSING)
    query = guarded(site, principal, query)
    found = search(reader.connection, reader.visible(principal.sight), query, Page(count=_ONE_TOO_MANY))
    if len(found.matches) > 1:
        raise Rejected(FhirCode.MULTIPLE_MATCHES)
    stored = reader.fetch(principal.sight, list(found.matches))
    return stored[0] if stored else None


_NOT_CRITERIA: Final = frozenset(
    {"_count", "_sort", "_include", "_revinclude", "_summary", "_elements", "_total", "_page"}
)
"""Parameters that shape an answer; in criteria they would be a mistake of the caller."""
