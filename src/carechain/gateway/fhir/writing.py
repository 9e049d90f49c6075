"""Creating, updating and patching one resource, conditionally too (FHIR R4, 3.1.0.4 to 3.1.0.9).

Only the custodian's own systems choose ids: for anybody else a PUT to an id that is hidden and one to an id that does
not exist are the same 404. What is deleted elsewhere is corrected or erased here.
"""

from carechain.charts.codes import ChartsCode
from carechain.charts.repository import Applied, Change, Stored, Writer
from carechain.charts.serving import served
from carechain.core.rejection import Rejected, require
from carechain.gateway.codes import FhirCode
from carechain.gateway.fhir.call import CREATED, OK, Answer, Call, Site, given, resource_headers
from carechain.gateway.fhir.conditions import if_match
from carechain.gateway.fhir.matching import criteria, matching
from carechain.gateway.fhir.outcome import all_well, nothing_here
from carechain.gateway.fhir.patching import patched
from carechain.gateway.fhir.resources import Draft, draft, fresh_id
from carechain.gateway.fhir.rights import Right, may, readable, require_may
from carechain.gateway.principal import Principal


def create(site: Site, writer: Writer, call: Call, new: Draft) -> Answer:
    """POST: a fresh id; with If-None-Exist nothing when one visible resource matches already.

    Some clients put the criteria into the address, as in a conditional update. Passing them over would make the very
    duplicate that they are there to prevent.
    """
    require_may(call.principal, new.resource_type, Right.CREATE)
    condition = call.headers.get("if-none-exist")
    asked = _criteria_of(call)
    if condition is not None or asked:
        wanted = [*asked, *criteria(condition or "")]
        existing = matching(site, writer, call.principal, new.resource_type, wanted)
        if existing is not None:
            return written(site, call, Applied(stored=existing, created=False, changed=False))
    return written(site, call, _stored(writer, call.principal, new, fresh_id(site.entropy), create=True))


def update(site: Site, writer: Writer, call: Call, new: Draft) -> Answer:
    """PUT to an id."""
    target = call.target
    require(new.resource_id is not None and new.resource_id == target.resource_id, FhirCode.ID_MISMATCH)
    return _put(site, writer, call, new, target.resource_id)


def update_matching(site: Site, writer: Writer, call: Call, new: Draft) -> Answer:
    """PUT with criteria: updates the one match, creates when there is none."""
    require_may(call.principal, new.resource_type, Right.UPDATE)
    existing = matching(site, writer, call.principal, new.resource_type, _criteria_of(call))
    if existing is not None:
        require(new.resource_id in {None, existing.resource_id}, FhirCode.ID_MISMATCH)
        return _put(site, writer, call, new, existing.resource_id)
    if new.resource_id is not None:
        return _put(site, writer, call, new, new.resource_id)
    require_may(call.principal, new.resource_type, Right.CREATE)
    require(if_match(call.headers.get("if-match")) is None, FhirCode.VERSION_CONFLICT)
    return written(site, call, _stored(writer, call.principal, new, fresh_id(site.entropy), create=True))


def patch(site: Site, writer: Writer, call: Call) -> Answer:
    """PATCH to an id, with a JSON Patch of the resource as it is served."""
    target = call.target
    require_may_patch(call.principal, target.resource_type)
    stored = changeable(site, writer, call.principal, target.resource_type, target.resource_id)
    if stored is None:
        raise nothing_here()
    return _patch(site, writer, call, stored)


def patch_matching(site: Site, writer: Writer, call: Call) -> Answer:
    """PATCH with criteria: exactly one resource must match."""
    require_may_patch(call.principal, call.target.resource_type)
    stored = matching(site, writer, call.principal, call.target.resource_type, _criteria_of(call))
    if stored is None:
        raise nothing_here()
    return _patch(site, writer, call, stored)


def changeable(site: Site, writer: Writer, principal: Principal, resource_type: str, resource_id: str) -> Stored | None:
    """The newest version, if the caller sees it: by its sight, and by its scopes where they let it read at all."""
    stored = writer.read(principal.sight, resource_type, resource_id)
    if stored is None or not may(principal, resource_type, Right.READ):
        return stored
    return stored if readable(site, writer, principal, [stored]) else None


def require_may_patch(principal: Principal, resource_type: str) -> None:
    """Raise ``Rejected`` (403) unless the caller may update and read: what comes of a patch tells what was there."""
    require_may(principal, resource_type, Right.UPDATE)
    require_may(principal, resource_type, Right.READ)


def after_patch(stored: Stored, steps: bytes) -> Draft:
    """The resource after a patch, checked like any other; type and id stay."""
    new = draft(patched(served(stored), steps), stored.resource_type)
    require(new.resource_id == stored.resource_id, FhirCode.ID_MISMATCH)
    return new


def require_version(stored: Stored | None, headers_if_match: str | None, headers_if_none_match: str | None) -> None:
    """Raise ``Rejected`` (412) unless the conditions on the present version hold."""
    named = if_match(headers_if_match)
    require(named is None or (stored is not None and stored.version == named), FhirCode.VERSION_CONFLICT)
    require(stored is None or headers_if_none_match is None or headers_if_none_match.strip() != "*",
            FhirCode.VERSION_CONFLICT)  # fmt: skip


def apply(writer: Writer, principal: Principal, changes: list[Change]) -> list[Applied]:
    """Store changes within the caller's sight; what it opens nothing for is 403, whether it exists or not."""
    try:
        return writer.apply(changes, principal.sight)
    except Rejected as rejected:
        if rejected.code is ChartsCode.NOT_VISIBLE:
            raise Rejected(FhirCode.OUT_OF_SIGHT) from None
        raise


def _criteria_of(call: Call) -> list[tuple[str, str]]:
    return [(name, value) for name, value in call.params if name not in {"_format", "_pretty"}]


def _put(site: Site, writer: Writer, call: Call, new: Draft, resource_id: str) -> Answer:
    principal = call.principal
    require_may(principal, new.resource_type, Right.UPDATE)
    stored = changeable(site, writer, principal, new.resource_type, resource_id)
    if stored is None:
        require(principal.sight.everything, FhirCode.CREATE_BY_PUT)
        require_may(principal, new.resource_type, Right.CREATE)
    require_version(stored, call.headers.get("if-match"), call.headers.get("if-none-match"))
    return written(site, call, _stored(writer, principal, new, resource_id, create=False))


def _patch(site: Site, writer: Writer, call: Call, stored: Stored) -> Answer:
    require_version(stored, call.headers.get("if-match"), None)
    new = after_patch(stored, call.body)
    return written(site, call, _stored(writer, call.principal, new, stored.resource_id, create=False))


def _stored(writer: Writer, principal: Principal, new: Draft, resource_id: str, *, create: bool) -> Applied:
    change = Change(
        resource_type=new.resource_type, resource_id=resource_id, body=new.body, create=create, is_valid=True
    )
    return apply(writer, principal, [change])[0]


def written(site: Site, call: Call, applied: Applied) -> Answer:
    """The answer to a write, in the form that Prefer asks for; whole where it does not say."""
    stored = applied.stored
    location = f"{site.url(stored.resource_type, stored.resource_id)}/_history/{stored.version}"
    match call.preferences.returns:
        case "minimal":
            body = b""
        case "OperationOutcome":
            body = all_well("Stored." if applied.changed else "Nothing had to be changed.")
        case _:
            body = served(stored)
    return Answer(
        status=CREATED if applied.created else OK,
        body=body,
        headers={**resource_headers(stored), "location": location},
        given=given([stored]),
    )
