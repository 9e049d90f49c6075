"""Reading one resource: read, vread, history, the received bytes, meta (FHIR R4, 3.1.0.1 to 3.1.0.13).

What the caller may not see and what does not exist leave by the same line, ``nothing_here``.
"""

from base64 import b64encode
from collections.abc import Callable
from hashlib import sha256
from typing import Final

import msgspec
import orjson

from carechain.charts.repository import Reader, Stored
from carechain.charts.searching.values import date_interval
from carechain.charts.serving import served
from carechain.core.limits import FHIR_PAGE, FHIR_PAGE_LINK_S
from carechain.core.rejection import Rejected
from carechain.gateway.codes import FhirCode
from carechain.gateway.fhir.bundling import Link, bundle, history_entry
from carechain.gateway.fhir.call import NOT_MODIFIED, Answer, Call, Site, given, resource_answer, resource_headers
from carechain.gateway.fhir.conditions import US_PER_S, is_unchanged, version_of
from carechain.gateway.fhir.outcome import nothing_here
from carechain.gateway.fhir.paging import PAGE_PARAMETER, Place
from carechain.gateway.fhir.parameters import Params, last, text_of
from carechain.gateway.fhir.rights import Right, readable, readable_versions, require_all_types, require_may
from carechain.gateway.fhir.subsetting import subset_of_params
from carechain.gateway.principal import Principal

DEFAULT_COUNT: Final = 50


def visible_one(site: Site, reader: Reader, principal: Principal, resource_type: str, resource_id: str) -> Stored:
    """The newest version of a resource that the caller may read; raises ``Problem`` (404) otherwise."""
    stored = reader.read(principal.sight, resource_type, resource_id)
    if stored is None or not readable(site, reader, principal, [stored]):
        raise nothing_here()
    return stored


def read(site: Site, reader: Reader, call: Call) -> Answer:
    """The newest version, or 304 when the caller has it."""
    target = call.target
    require_may(call.principal, target.resource_type, Right.READ)
    stored = visible_one(site, reader, call.principal, target.resource_type, target.resource_id)
    return answered(call, stored)


def answered(call: Call, stored: Stored) -> Answer:
    """A resource, whole or the part asked for; 304 when the caller has this version."""
    if is_unchanged(call.headers, stored.version, stored.updated_us):
        return Answer(status=NOT_MODIFIED, headers=resource_headers(stored))
    answer = resource_answer(stored)
    body = subset_of_params(answer.body, call.params)
    return answer if body is answer.body else msgspec.structs.replace(answer, body=body)


def vread(site: Site, reader: Reader, call: Call) -> Answer:
    """One version. An old one is seen only where the newest is."""
    target = call.target
    require_may(call.principal, target.resource_type, Right.READ)
    visible_one(site, reader, call.principal, target.resource_type, target.resource_id)
    version = version_of(target.version)
    if version is None:
        raise nothing_here()
    return answered(call, _version(site, reader, call, version))


def _version(site: Site, reader: Reader, call: Call, version: int) -> Stored:
    """One version of a resource whose newest one is seen; raises ``Problem`` (404)."""
    target, principal = call.target, call.principal
    stored = reader.vread(principal.sight, target.resource_type, target.resource_id, version)
    if stored is None or not readable_versions(site, reader, principal, [stored]):
        raise nothing_here()
    return stored


def received(site: Site, reader: Reader, call: Call) -> Answer:
    """The exact stored bytes with their digest (RFC 3230), to check against the ledger's anchor."""
    target = call.target
    require_may(call.principal, target.resource_type, Right.READ)
    stored = visible_one(site, reader, call.principal, target.resource_type, target.resource_id)
    wanted = last(call.params, "versionId")
    if wanted is not None:
        version = version_of(wanted)
        if version is None:
            raise nothing_here()
        stored = _version(site, reader, call, version)
    digest = b64encode(sha256(stored.body).digest()).decode()
    return Answer(
        body=stored.body, headers={**resource_headers(stored), "digest": f"sha-256={digest}"}, given=given([stored])
    )


def meta(site: Site, reader: Reader, call: Call) -> Answer:
    """The resource's meta as Parameters."""
    target = call.target
    require_may(call.principal, target.resource_type, Right.READ)
    stored = visible_one(site, reader, call.principal, target.resource_type, target.resource_id)
    tree = orjson.loads(served(stored))
    body = {"resourceType": "Parameters", "parameter": [{"name": "return", "valueMeta": tree.get("meta", {})}]}
    return Answer(body=orjson.dumps(body), given=given([stored]))


def history(site: Site, reader: Reader, call: Call) -> Answer:
    """Versions of one resource, of a type or of everything, newest first, page by page."""
    target, principal = call.target, call.principal
    if target.resource_id:
        require_may(principal, target.resource_type, Right.READ)
        visible_one(site, reader, principal, target.resource_type, target.resource_id)
    elif target.resource_type:
        require_may(principal, target.resource_type, Right.READ)
        require_may(principal, target.resource_type, Right.SEARCH)
    else:
        require_all_types(principal, Right.READ)
    params, after = opened_page(site, call)
    count = count_of(params)
    since_us = since_of(site, params)
    named = (target.resource_type or None, target.resource_id or None)

    def listed(place: tuple[int, ...] | None, most: int) -> list[Stored]:
        return reader.history(principal.sight, *named, since_us, count=most, after=place)

    def kept(some: list[Stored]) -> list[Stored]:
        return readable_versions(site, reader, principal, some)

    shown, more = full_page(listed, kept, after, count, place_of=lambda one: one.seq)
    links = [self_link(site, call, params)]
    if more:
        links.append(next_link(site, call, params, msgspec.msgpack.encode((shown[-1].seq,))))
    total = len(shown) if after is None and not more else None
    body = bundle("history", (history_entry(site.base_url, one) for one in shown), links=links, total=total)
    return Answer(body=body, given=given(shown, *([target.resource_type] if target.resource_type else [])))


def full_page(
    listed: Callable[[tuple[int, ...] | None, int], list[Stored]],
    kept: Callable[[list[Stored]], list[Stored]],
    after: bytes | None,
    count: int,
    *,
    place_of: Callable[[Stored], int],
) -> tuple[list[Stored], bool]:
    """A page of ``count`` of what is kept of a listing, and whether there is more of that.

    What rights and scopes take away leaves no gap and makes no next link: else pages would tell how much it is.
    """
    page: list[Stored] = []
    most, place = count + 1, None if after is None else msgspec.msgpack.decode(after, type=tuple[int])
    while len(page) <= count:
        some = listed(place, most)
        page += kept(some)
        if len(some) < most:
            break
        most, place = FHIR_PAGE, (place_of(some[-1]),)
    return page[:count], len(page) > count


def opened_page(site: Site, call: Call) -> tuple[Params, bytes | None]:
    """The parameters a listing was first asked with, and where it goes on; raises ``Rejected`` for a strange link."""
    token = last(call.params, PAGE_PARAMETER)
    if token is None:
        return call.params, None
    place = site.pages.place(call.principal, token, site.clock_us() // US_PER_S)
    if _place_of(call) != (place.kind, place.resource_type, place.resource_id, place.member_type):
        raise Rejected(FhirCode.PAGE_UNKNOWN)
    return place.params, place.after


def _place_of(call: Call) -> tuple[str, str, str, str]:
    target = call.target
    return target.kind.value + target.operation, target.resource_type, target.resource_id, target.member_type


def next_link(site: Site, call: Call, params: Params, after: bytes) -> Link:
    """The link to the next page: one opaque parameter and nothing else."""
    expires_s = site.clock_us() // US_PER_S + FHIR_PAGE_LINK_S
    token = site.pages.link(call.principal, Place(*_place_of(call), params, after, expires_s))
    return Link("next", f"{address(site, call)}?{PAGE_PARAMETER}={token}")


def self_link(site: Site, call: Call, params: Params) -> Link:
    """The link that says what was understood of the question."""
    query = text_of(params)
    return Link("self", f"{address(site, call)}?{query}" if query else address(site, call))


def address(site: Site, call: Call) -> str:
    """The address of the listing, without parameters."""
    target = call.target
    path = [part for part in (target.resource_type, target.resource_id, target.member_type, target.operation) if part]
    if target.kind.value.startswith("history"):
        path.append("_history")
    return "/".join((site.base_url, *path))


def count_of(params: Params) -> int:
    """How many entries a page of a listing may have; raises ``Rejected``."""
    text = last(params, "_count")
    if text is None:
        return DEFAULT_COUNT
    if not (text.isascii() and text.isdigit() and len(text) < len(str(FHIR_PAGE**2))):
        raise Rejected(FhirCode.PARAMETER_INVALID)
    return min(max(int(text), 1), FHIR_PAGE)


def since_of(site: Site, params: Params) -> int | None:
    """The moment that ``_since`` names, in microseconds since 1970; raises ``Rejected``."""
    text = last(params, "_since")
    if text is None:
        return None
    try:
        return date_interval(text.replace(" ", "+"), site.zone)[0]
    except ValueError:
        raise Rejected(FhirCode.PARAMETER_INVALID) from None
