"""Bundles put together from bytes that are already JSON: no resource is parsed to be listed (FHIR R4, 2.36).

A Bundle has no id and no time of its own, so that an answer in which everything is hidden and one that found nothing
are the same bytes.
"""

from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any, Final

import orjson
from msgspec import Struct

from carechain.charts.repository import Stored
from carechain.charts.serving import served
from carechain.gateway.fhir.conditions import etag, instant
from carechain.gateway.fhir.outcome import Issue, outcome

_FIRST_VERSION: Final = 1


class Link(Struct, frozen=True):
    """A link of a Bundle."""

    relation: str
    url: str


class Listed(Struct, frozen=True, kw_only=True):
    """One entry of a searchset: the address and the bytes of a resource, and why it is there."""

    full_url: str
    body: bytes
    mode: str = "match"


def bundle(
    bundle_type: str, entries: Iterable[bytes], *, links: Sequence[Link] = (), total: int | None = None
) -> bytes:
    """A Bundle from entries that are JSON objects in bytes."""
    head: dict[str, Any] = {"resourceType": "Bundle", "type": bundle_type}
    if total is not None:
        head["total"] = total
    if links:
        head["link"] = [{"relation": link.relation, "url": link.url} for link in links]
    listed = b",".join(entries)
    start = orjson.dumps(head)[:-1]
    return b'%b,"entry":[%b]}' % (start, listed) if listed else start + b"}"


def search_entry(listed: Listed) -> bytes:
    """An entry of a searchset."""
    mode = listed.mode.encode()
    if not listed.full_url:
        return b'{"resource":%b,"search":{"mode":"%b"}}' % (listed.body, mode)
    return b'{"fullUrl":%b,"resource":%b,"search":{"mode":"%b"}}' % (orjson.dumps(listed.full_url), listed.body, mode)


def outcome_entry(issues: Sequence[Issue]) -> bytes:
    """The entry that tells what was passed over in a search."""
    return search_entry(Listed(full_url="", body=outcome(issues), mode="outcome"))


def history_entry(base_url: str, stored: Stored) -> bytes:
    """An entry of a history: the version, and the request that made it."""
    first = stored.version == _FIRST_VERSION
    name = f"{stored.resource_type}/{stored.resource_id}"
    request = {"method": "POST" if first else "PUT", "url": stored.resource_type if first else name}
    response = response_of(HTTPStatus.CREATED if first else HTTPStatus.OK, stored=stored)
    return b'{"fullUrl":%b,"resource":%b,"request":%b,"response":%b}' % (
        orjson.dumps(f"{base_url}/{name}"),
        served(stored),
        orjson.dumps(request),
        orjson.dumps(response),
    )


def response_of(status: int, *, stored: Stored | None = None, location: str = "") -> dict[str, str]:
    """The response element of an entry."""
    response = {"status": f"{status} {HTTPStatus(status).phrase}"}
    if location:
        response["location"] = location
    if stored is not None:
        response |= {"etag": etag(stored.version), "lastModified": instant(stored.updated_us)}
    return response


def response_entry(
    response: dict[str, str], *, full_url: str = "", resource: bytes = b"", issues: bytes = b""
) -> bytes:
    """An entry of a transaction's or a batch's answer; ``issues`` is an OperationOutcome."""
    inner = orjson.dumps(response)
    if issues:
        inner = b'%b,"outcome":%b}' % (inner[:-1], issues)
    parts = [b'"fullUrl":%b' % orjson.dumps(full_url)] if full_url else []
    if resource:
        parts.append(b'"resource":' + resource)
    parts.append(b'"response":' + inner)
    return b"{%b}" % b",".join(parts)
