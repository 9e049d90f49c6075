"""Operations on the charts: ``$validate`` and ``Patient/$everything`` (FHIR R4, 3.2)."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from carechain.charts.bundle import strict_json
from carechain.charts.definitions import RESOURCE_TYPES
from carechain.charts.repository import Reader, Stored
from carechain.charts.resource_types import DIRECTORY
from carechain.charts.serving import served
from carechain.charts.validation import validate as find_issues
from carechain.core.limits import FHIR_SUPPORTING
from carechain.core.rejection import Rejected, require
from carechain.gateway.codes import FhirCode
from carechain.gateway.fhir.bundling import Listed, bundle, search_entry
from carechain.gateway.fhir.call import Answer, Call, Site, given
from carechain.gateway.fhir.instances import count_of, full_page, next_link, opened_page, self_link, since_of
from carechain.gateway.fhir.outcome import Issue, all_well, issue_of, nothing_here, outcome
from carechain.gateway.fhir.parameters import Params
from carechain.gateway.fhir.references import references
from carechain.gateway.fhir.rights import Right, readable, require_may
from carechain.gateway.principal import Principal

_EVERYTHING: Final = frozenset({"_type", "_since", "_count", "_page", "_format", "_pretty"})
_parameters_decoder: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_parts_decoder: Final = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])


def operation_params(call: Call) -> Params:
    """An operation's parameters: from the address, and from a Parameters resource where one was sent."""
    if not call.body:
        return call.params
    tree = strict_json(call.body)
    require(isinstance(tree, dict), FhirCode.BODY_MALFORMED)
    if tree.get("resourceType") != "Parameters":
        return call.params
    named = tree.get("parameter", [])
    require(isinstance(named, list) and all(isinstance(one, dict) for one in named), FhirCode.BODY_MALFORMED)
    return [*call.params, *(pair for one in named if (pair := _pair(one)) is not None)]


def _pair(parameter: dict[str, Any]) -> tuple[str, str] | None:
    """A parameter with a simple value."""
    name = parameter.get("name")
    for key, value in parameter.items():
        if key.startswith("value") and isinstance(name, str) and isinstance(value, str | int | float):
            return name, str(value).lower() if isinstance(value, bool) else str(value)
    return None


def validate(call: Call) -> Answer:
    """$validate: an OperationOutcome with every issue; nothing is stored. 200 also when the resource is invalid."""
    resource = _resource_in(call.body)
    tree = strict_json(resource)
    require(isinstance(tree, dict), FhirCode.BODY_MALFORMED)
    expected = call.target.resource_type
    issues = [issue_of(one) for one in find_issues(resource)]
    if expected and tree.get("resourceType") != expected:
        reason = FhirCode.TYPE_MISMATCH
        issues.append(Issue(code="invalid", diagnostics=reason.reason, label=reason.label))
    if any(name == "profile" for name, _ in operation_params(call)):
        text = "Checked against the definitions of FHIR R4. Profiles are not checked by this server."
        issues.append(Issue(severity="warning", code="not-supported", diagnostics=text))
    body = outcome(issues) if issues else all_well("The resource is valid FHIR R4.")
    return Answer(body=body, is_audited=False)


def _resource_in(body: bytes) -> bytes:
    """The resource to validate: the body itself, or the one inside Parameters, with its own bytes."""
    require(body, FhirCode.BODY_MALFORMED)
    try:
        outer = _parameters_decoder.decode(body)
        if bytes(outer.get("resourceType", b"")) != b'"Parameters"':
            return body
        for part in _parts_decoder.decode(bytes(outer.get("parameter", b"[]"))):
            if bytes(part.get("name", b"")) == b'"resource"' and "resource" in part:
                return bytes(part["resource"])
    except (msgspec.DecodeError, RecursionError):
        raise Rejected(FhirCode.BODY_MALFORMED) from None
    return body


def everything(site: Site, reader: Reader, call: Call) -> Answer:
    """Patient/[id]/$everything: what the caller sees of one chart, and the shared resources it refers to, by pages."""
    principal, patient_id = call.principal, call.target.resource_id
    require_may(principal, "Patient", Right.READ)
    params, after = opened_page(site, msgspec.structs.replace(call, params=operation_params(call)))
    require(all(name in _EVERYTHING for name, _ in params), FhirCode.PARAMETER_UNKNOWN)
    types = types_of(params)
    count = count_of(params)
    pseudonym = reader.pseudonym(patient_id)
    if pseudonym is None:
        raise nothing_here()
    since_us = since_of(site, params)

    def listed(place: tuple[int, ...] | None, most: int) -> list[Stored]:
        return reader.everything(principal.sight, pseudonym, types, since_us, count=most, after=place)

    def kept(some: list[Stored]) -> list[Stored]:
        return readable(site, reader, principal, some)

    page, more = full_page(listed, kept, after, count, place_of=lambda one: one.rid)
    if after is None and not page and not _sees(site, reader, principal, patient_id):
        raise nothing_here()
    others = readable(site, reader, principal, _supporting(reader, principal, page, types))
    links = [self_link(site, call, [pair for pair in params if pair[0] not in {"_format", "_pretty"}])]
    if more:
        links.append(next_link(site, call, params, msgspec.msgpack.encode((page[-1].rid,))))
    entries = [search_entry(_listed(site, one, "match")) for one in page]
    entries += [search_entry(_listed(site, one, "include")) for one in others]
    total = len(page) if after is None and not more else None
    return Answer(body=bundle("searchset", entries, links=links, total=total), given=given([*page, *others]))


def _sees(site: Site, reader: Reader, principal: Principal, patient_id: str) -> bool:
    patient = reader.read(principal.sight, "Patient", patient_id)
    return patient is not None and bool(readable(site, reader, principal, [patient]))


def _listed(site: Site, stored: Stored, mode: str) -> Listed:
    return Listed(full_url=site.url(stored.resource_type, stored.resource_id), body=served(stored), mode=mode)


def _supporting(reader: Reader, principal: Principal, page: Sequence[Stored], types: Sequence[str]) -> list[Stored]:
    """The shared resources that a page refers to: practitioners, organisations, places."""
    if not principal.sight.directory and not principal.sight.everything:
        return []
    named: dict[tuple[str, str], None] = {}
    for stored in page:
        for reference in references(stored.body):
            resource_type, _, resource_id = reference.partition("/")
            if resource_type in DIRECTORY and (not types or resource_type in types):
                named[resource_type, resource_id.partition("/")[0]] = None
    found = (reader.read(principal.sight, *name) for name in list(named)[:FHIR_SUPPORTING])
    return [one for one in found if one is not None]


def types_of(params: Params) -> tuple[str, ...]:
    """The types that ``_type`` names; none: all. Raises ``Rejected`` for what is no type."""
    types = tuple(dict.fromkeys(part.strip() for name, value in params if name == "_type" for part in value.split(",")))
    require(all(one in RESOURCE_TYPES for one in types), FhirCode.PARAMETER_INVALID)
    return types
