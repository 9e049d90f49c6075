"""Which interaction an address and a method mean (FHIR R4, 3.1.0). Pure; ids are checked for form only."""

import re
from collections.abc import Mapping
from enum import Enum
from functools import lru_cache
from typing import Final
from urllib.parse import unquote

from msgspec import Struct

from carechain.charts.resource_types import R4_TYPES
from carechain.core.rejection import Rejected
from carechain.gateway.codes import FhirCode
from carechain.gateway.fhir.outcome import Problem, refusal

ID: Final = re.compile(r"[A-Za-z0-9.\-]{1,64}", re.ASCII)
_SEGMENT: Final = re.compile(r"[A-Za-z0-9.\-_$*]{1,80}", re.ASCII)
_OPERATION: Final = re.compile(r"\$[a-z][a-zA-Z0-9\-]{0,40}", re.ASCII)
SEGMENTS: Final = 5
_CARRIERS: Final = frozenset({"Bundle", "OperationOutcome", "Parameters"})
"""Types that only carry others: validated, never stored."""


class Kind(Enum):
    """The interactions, in FHIR's own names where it has one."""

    CAPABILITIES = "capabilities"
    BUNDLE = "transaction"
    SEARCH_SYSTEM = "search-system"
    SEARCH_TYPE = "search-type"
    COMPARTMENT = "search-compartment"
    HISTORY_SYSTEM = "history-system"
    HISTORY_TYPE = "history-type"
    HISTORY_INSTANCE = "history-instance"
    READ = "read"
    VREAD = "vread"
    CREATE = "create"
    UPDATE = "update"
    PATCH = "patch"
    UPDATE_MATCHING = "update-conditional"
    PATCH_MATCHING = "patch-conditional"
    OPERATION = "operation"
    EXPORT_STATUS = "export-status"
    EXPORT_CANCEL = "export-cancel"
    EXPORT_FILE = "export-file"


class Target(Struct, frozen=True, kw_only=True):
    """What a request is about. ``member_type`` is the type searched in a compartment (``*``: every type)."""

    kind: Kind
    resource_type: str = ""
    resource_id: str = ""
    version: str = ""
    operation: str = ""
    member_type: str = ""


_SYSTEM: Final[Mapping[str, Mapping[str, Kind]]] = {
    "": {"GET": Kind.SEARCH_SYSTEM, "POST": Kind.BUNDLE},
    "metadata": {"GET": Kind.CAPABILITIES},
    "_search": {"POST": Kind.SEARCH_SYSTEM},
    "_history": {"GET": Kind.HISTORY_SYSTEM},
}
_ON_TYPE: Final = {
    "GET": Kind.SEARCH_TYPE,
    "POST": Kind.CREATE,
    "PUT": Kind.UPDATE_MATCHING,
    "PATCH": Kind.PATCH_MATCHING,
}
_ON_INSTANCE: Final = {"GET": Kind.READ, "PUT": Kind.UPDATE, "PATCH": Kind.PATCH}
_ON_COMPARTMENT: Final = {"GET": Kind.COMPARTMENT}
_ON_OPERATION: Final = {"GET": Kind.OPERATION, "POST": Kind.OPERATION}
EXPORT_STATUS: Final = "$export-status"
EXPORT_FILE: Final = "$export-file"


@lru_cache(maxsize=1_024)
def route(method: str, path: str) -> Target:
    """The interaction of a method on a path below the base; HEAD is GET. Raises ``Rejected`` or ``Problem``.

    Remembered, since the entries of a bundle name the same few.
    """
    segments = [one for one in path.strip("/").split("/") if one]
    if len(segments) > SEGMENTS or "//" in path:
        raise Rejected(FhirCode.PATH_UNKNOWN)
    segments = [unquote(segment) if "%" in segment else segment for segment in segments]
    if not all(_SEGMENT.fullmatch(segment) for segment in segments):
        raise Rejected(FhirCode.PATH_UNKNOWN)
    method = "GET" if method == "HEAD" else method
    first = segments[0] if segments else ""
    if first in {EXPORT_STATUS, EXPORT_FILE}:
        return _export(method, segments)
    if len(segments) <= 1 and first in _SYSTEM:
        return Target(kind=_pick(method, _SYSTEM[first]))
    if first.startswith("$"):
        return _operation(method, segments, 1)
    if first not in R4_TYPES and not (first in _CARRIERS and segments[1:] == ["$validate"]):
        raise Rejected(FhirCode.TYPE_UNKNOWN if first[:1].isupper() and first.isalpha() else FhirCode.PATH_UNKNOWN)
    return _on_type(method, segments)


def _on_type(method: str, segments: list[str]) -> Target:
    resource_type, rest = segments[0], segments[1:]
    match rest:
        case []:
            return Target(kind=_pick(method, _ON_TYPE), resource_type=resource_type)
        case ["_search"]:
            return Target(kind=_pick(method, {"POST": Kind.SEARCH_TYPE}), resource_type=resource_type)
        case ["_history"]:
            return Target(kind=_pick(method, {"GET": Kind.HISTORY_TYPE}), resource_type=resource_type)
        case [name, *_] if name.startswith("$"):
            return _operation(method, segments, 2)
        case [name, *_] if not ID.fullmatch(name):
            raise Rejected(FhirCode.PATH_UNKNOWN)
        case _:
            return _on_instance(method, segments)


def _on_instance(method: str, segments: list[str]) -> Target:
    resource_type, resource_id, *rest = segments
    at = Target(kind=Kind.READ, resource_type=resource_type, resource_id=resource_id)
    match rest:
        case []:
            return _with(at, _pick(method, _ON_INSTANCE))
        case ["_history"]:
            return _with(at, _pick(method, {"GET": Kind.HISTORY_INSTANCE}))
        case ["_history", version] if ID.fullmatch(version):
            return _with(at, _pick(method, {"GET": Kind.VREAD}), version=version)
        case [name] if name.startswith("$"):
            return _operation(method, segments, 3)
        case [member] if resource_type == "Patient" and (member in R4_TYPES or member == "*"):
            return _with(at, _pick(method, _ON_COMPARTMENT), member_type=member)
        case [member, "_search"] if resource_type == "Patient" and member in R4_TYPES:
            return _with(at, _pick(method, {"POST": Kind.COMPARTMENT}), member_type=member)
        case _:
            raise Rejected(FhirCode.PATH_UNKNOWN)


def _operation(method: str, segments: list[str], length: int) -> Target:
    name = segments[length - 1]
    if len(segments) != length or not _OPERATION.fullmatch(name):
        raise Rejected(FhirCode.OPERATION_UNKNOWN)
    return Target(
        kind=_pick(method, _ON_OPERATION),
        resource_type=segments[0] if length > 1 else "",
        resource_id=segments[1] if length > len(("type", name)) else "",
        operation=name,
    )


def _export(method: str, segments: list[str]) -> Target:
    """The addresses an export is followed and fetched at."""
    match segments:
        case ["$export-status", job] if ID.fullmatch(job):
            kind = _pick(method, {"GET": Kind.EXPORT_STATUS, "DELETE": Kind.EXPORT_CANCEL})
            return Target(kind=kind, resource_id=job)
        case ["$export-file", job, name] if ID.fullmatch(job) and name.removesuffix(".ndjson") in R4_TYPES:
            kind = _pick(method, {"GET": Kind.EXPORT_FILE})
            return Target(kind=kind, resource_id=job, member_type=name.removesuffix(".ndjson"))
        case _:
            raise Rejected(FhirCode.PATH_UNKNOWN)


def _with(target: Target, kind: Kind, *, version: str = "", member_type: str = "") -> Target:
    return Target(
        kind=kind,
        resource_type=target.resource_type,
        resource_id=target.resource_id,
        version=version,
        member_type=member_type,
    )


def _pick(method: str, kinds: Mapping[str, Kind]) -> Kind:
    kind = kinds.get(method)
    if kind is None:
        raise not_allowed(method, tuple(kinds))
    return kind


def not_allowed(method: str, methods: tuple[str, ...]) -> Problem:
    """405 with the methods that are allowed; a DELETE is told what to do instead."""
    allow = ", ".join((*methods, "HEAD") if "GET" in methods else methods)
    code = FhirCode.NOT_DELETED if method == "DELETE" else FhirCode.METHOD_NOT_ALLOWED
    return refusal(code, headers={"allow": allow})
