"""Bundles of a transaction or batch from bytes: every resource keeps the bytes it arrived with (API-1, REC-4)."""

import re
from typing import Final

import msgspec
from msgspec import Struct

from carechain.charts.bundle import strict_json, without
from carechain.core.limits import BUNDLE_ENTRIES, FHIR_ENTRY_URL_CHARS, FULL_URL_CHARS
from carechain.core.rejection import Rejected, require
from carechain.gateway.codes import FhirCode

_FULL_URL: Final = re.compile(r"(?:urn:uuid:|urn:oid:|https?://)[!-~]+|[A-Z][A-Za-z]+/[A-Za-z0-9.\-]{1,64}", re.ASCII)
"""FHIR wants it absolute; ``Type/id`` is common all the same, and clear: what the entry is called in its bundle."""
METHODS: Final = ("DELETE", "POST", "PUT", "PATCH", "GET", "HEAD")
TYPES: Final = frozenset({"transaction", "batch"})
_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH"})


class Entry(Struct, frozen=True, kw_only=True):
    """One entry: what to do, and the resource's bytes if there is one. ``position`` counts from 0."""

    position: int
    method: str
    url: str
    full_url: str = ""
    body: bytes = b""
    if_match: str | None = None
    if_none_match: str | None = None
    if_modified_since: str | None = None
    if_none_exist: str | None = None

    def __repr__(self) -> str:
        return f"Entry({self.position})"

    @property
    def place(self) -> str:
        """Where it stands, like FHIRPath."""
        return f"Bundle.entry[{self.position}]"

    def headers(self) -> dict[str, str]:
        """The request's headers, as a request of its own would have them."""
        named = {
            "if-match": self.if_match,
            "if-none-match": self.if_none_match,
            "if-modified-since": self.if_modified_since,
            "if-none-exist": self.if_none_exist,
        }
        return {name: value for name, value in named.items() if value is not None}


class _Request(Struct):
    method: str
    url: str
    ifMatch: str | None = None  # noqa: N815 - FHIR's names
    ifNoneMatch: str | None = None  # noqa: N815
    ifModifiedSince: str | None = None  # noqa: N815
    ifNoneExist: str | None = None  # noqa: N815


class _Entry(Struct):
    request: _Request
    fullUrl: str = ""  # noqa: N815
    resource: msgspec.Raw = msgspec.Raw()


_outer_decoder: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_entries_decoder: Final = msgspec.json.Decoder(list[msgspec.Raw])
_entry_decoder: Final = msgspec.json.Decoder(_Entry)


def read(body: bytes, base_url: str = "") -> tuple[str, list[Entry]]:
    """The bundle's type and its entries, whose urls may be absolute below ``base_url``.

    Raises ``Rejected`` for what is neither transaction nor batch, or misshapen.
    """
    try:
        outer = _outer_decoder.decode(body)
        raw = bytes(outer.get("entry", b"[]"))
        raws = _entries_decoder.decode(raw)
    except msgspec.ValidationError:
        raise Rejected(FhirCode.BUNDLE_UNSUPPORTED) from None
    except (msgspec.DecodeError, RecursionError):
        raise Rejected(FhirCode.BODY_MALFORMED) from None
    # Without its entries the bundle is small, and a repeated key in it still shows.
    rest = strict_json(without(body, raw, b"[]"))
    require(isinstance(rest, dict) and rest.get("resourceType") == "Bundle", FhirCode.BUNDLE_UNSUPPORTED)
    require(rest.get("type") in TYPES, FhirCode.BUNDLE_UNSUPPORTED)
    require(len(raws) <= BUNDLE_ENTRIES, FhirCode.TOO_MANY_ENTRIES)
    return str(rest["type"]), [_entry(position, bytes(one), base_url) for position, one in enumerate(raws)]


def _entry(position: int, raw: bytes, base_url: str) -> Entry:
    try:
        entry = _entry_decoder.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        raise Rejected(FhirCode.ENTRY_MALFORMED) from None
    # Around its resource an entry is small, and a repeated key still shows; the resource is validated by itself.
    body = bytes(entry.resource)
    strict_json(without(raw, body, b"0") if body else raw)
    request = entry.request
    require(request.method in METHODS and len(request.url) <= FHIR_ENTRY_URL_CHARS, FhirCode.ENTRY_MALFORMED)
    if entry.fullUrl:
        require(len(entry.fullUrl) <= FULL_URL_CHARS and _FULL_URL.fullmatch(entry.fullUrl), FhirCode.ENTRY_MALFORMED)
    require(bool(body) == (request.method in _WITH_BODY) or request.method == "POST", FhirCode.ENTRY_MALFORMED)
    require(not body or body.startswith(b"{"), FhirCode.ENTRY_MALFORMED)
    return Entry(
        position=position,
        method=request.method,
        url=request.url.removeprefix(f"{base_url}/") if base_url else request.url,
        full_url=entry.fullUrl,
        body=body,
        if_match=request.ifMatch,
        if_none_match=request.ifNoneMatch,
        if_modified_since=request.ifModifiedSince,
        if_none_exist=request.ifNoneExist,
    )
