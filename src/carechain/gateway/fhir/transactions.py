"""Transactions: all entries or none, with references rewritten in the received bytes (FHIR R4, 3.1.0.11, API-1).

The work has two halves. :func:`plan` looks at the entries alone: form, validity, what each one means. :func:`run` does
the rest within one database transaction: it finds out which resources are meant, gives ids, rewrites references,
stores, and answers the reads. Whatever is refused on the way undoes everything.
"""

import re
from base64 import b64decode
from binascii import Error as NotBase64
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Final

import msgspec
from msgspec import Struct

from carechain.charts.assistant import Assistant, Valid
from carechain.charts.bundle import strict_json
from carechain.charts.repository import Applied, Change, Reader, Stored, Writer
from carechain.charts.serving import served
from carechain.core.hashing import tagged
from carechain.core.rejection import Rejected, require
from carechain.gateway.codes import FhirCode
from carechain.gateway.fhir.batches import ORDER
from carechain.gateway.fhir.bundling import bundle, response_entry, response_of
from carechain.gateway.fhir.call import CREATED, OK, Answer, Call, Site, given, merged
from carechain.gateway.fhir.entries import Entry
from carechain.gateway.fhir.matching import criteria, matching
from carechain.gateway.fhir.negotiation import JSON_PATCH
from carechain.gateway.fhir.outcome import Problem, nothing_here, problem_of, refusal
from carechain.gateway.fhir.parameters import Params
from carechain.gateway.fhir.parameters import parse as parse_parameters
from carechain.gateway.fhir.references import rewrite
from carechain.gateway.fhir.resources import Draft, draft, fresh_id
from carechain.gateway.fhir.rights import Right, require_may
from carechain.gateway.fhir.routing import ID, Kind, Target, route
from carechain.gateway.fhir.writing import after_patch, apply, changeable, require_may_patch, require_version
from carechain.gateway.principal import Principal

READS: Final = frozenset(
    {Kind.READ, Kind.VREAD, Kind.SEARCH_TYPE, Kind.COMPARTMENT, Kind.HISTORY_INSTANCE, Kind.HISTORY_TYPE}
)
WRITES: Final = frozenset({Kind.CREATE, Kind.UPDATE, Kind.UPDATE_MATCHING, Kind.PATCH, Kind.PATCH_MATCHING})
_RESTFUL: Final = re.compile(r"(?P<base>https?://.+)/(?P<name>[A-Z][A-Za-z]+/[A-Za-z0-9.\-]{1,64})", re.ASCII)
_CONDITIONAL: Final = re.compile(r"(?P<type>[A-Z][A-Za-z]+)\?(?P<criteria>.+)", re.DOTALL)
_OPAQUE: Final = ("urn:uuid:", "urn:oid:")

ReadEntry = Callable[[Reader, Call], Answer]


class Step(Struct, frozen=True, kw_only=True):
    """An entry and what it means; ``new`` is the resource of a create or update."""

    entry: Entry
    target: Target
    params: Params
    new: Draft | None = None


class Meant(Struct, kw_only=True):
    """Which resource a writing entry is about, once that is known; ``existing`` is what it found there."""

    step: Step
    resource_type: str
    resource_id: str
    existing: Stored | None = None
    is_done: bool = False

    @property
    def key(self) -> str:
        """``Type/id``."""
        return f"{self.resource_type}/{self.resource_id}"


def plan(
    entries: Sequence[Entry], principal: Principal, read_only_types: frozenset[str], assistant: Assistant
) -> list[Step]:
    """What each entry means, in the order in which FHIR has them done. Raises ``Problem`` that names the entry."""
    steps: list[Step] = []
    with closing(assistant.examined([entry.body for entry in entries])) as examined:
        for entry, known in zip(entries, examined, strict=True):
            with about(entry):
                steps.append(_step(entry, principal, read_only_types, known))
    return sorted(steps, key=lambda step: ORDER[step.entry.method])


@contextmanager
def about(entry: Entry) -> Iterator[None]:
    """Whatever is refused inside is refused about this entry, and names its place."""
    try:
        yield
    except Rejected as rejected:
        raise problem_of(rejected).at(entry.place) from None
    except Problem as problem:
        raise problem.at(entry.place) from None


def _step(entry: Entry, principal: Principal, read_only_types: frozenset[str], known: Valid | None) -> Step:
    path, _, query = entry.url.partition("?")
    target = route(entry.method, path)
    params = parse_parameters(query.encode())
    if params and target.kind is Kind.CREATE:
        raise Rejected(FhirCode.ENTRY_MALFORMED)
    if target.kind in READS:
        require(target.resource_type not in read_only_types, FhirCode.NOT_IN_TRANSACTION)
        return Step(entry=entry, target=target, params=params)
    require(target.kind in WRITES, FhirCode.NOT_IN_TRANSACTION)
    require(target.resource_type not in read_only_types, FhirCode.READ_ONLY_TYPE)
    require_may(principal, target.resource_type, Right.CREATE if target.kind is Kind.CREATE else Right.UPDATE)
    if target.kind in {Kind.PATCH, Kind.PATCH_MATCHING}:
        require_may_patch(principal, target.resource_type)
        return Step(entry=entry, target=target, params=params)
    new = draft(entry.body, target.resource_type, known)
    if target.kind is Kind.UPDATE:
        require(new.resource_id in {None, target.resource_id}, FhirCode.ID_MISMATCH)
    return Step(entry=entry, target=target, params=params, new=new)


def run(site: Site, writer: Writer, call: Call, steps: Sequence[Step], read_entry: ReadEntry) -> Answer:
    """Do the steps within one transaction. Raises ``Problem`` or ``Rejected``; leave the transaction then."""
    meant = _meanings(site, writer, call.principal, [step for step in steps if step.target.kind in WRITES])
    _require_distinct(meant)
    changes = _changes(site, writer, call.principal, meant)
    applied = apply(writer, call.principal, [change for _, change in changes])
    for result in applied:
        if result.changed and not result.created:
            # A POST of a known urn:uuid with other bytes corrects what is there.
            require_may(call.principal, result.stored.resource_type, Right.UPDATE)
    by_position: dict[int, bytes] = {}
    given_out = [given(result.stored for result in applied)]
    for (one, _), result in zip(changes, applied, strict=True):
        by_position[one.step.entry.position] = _written_entry(site, call, result)
    for one in meant:
        if one.is_done and one.existing is not None:
            same = Applied(stored=one.existing, created=False, changed=False)
            by_position[one.step.entry.position] = _written_entry(site, call, same)
    by_position |= _twins(meant, by_position)
    for step in steps:
        if step.target.kind in READS:
            answer = _read(step, writer, call, read_entry)
            by_position[step.entry.position] = response_entry(response_of(answer.status), resource=answer.body)
            given_out.append(answer.given)
    body = bundle("transaction-response", (by_position[position] for position in sorted(by_position)))
    return Answer(body=body, given=merged(given_out))


def _meanings(site: Site, writer: Writer, principal: Principal, steps: Sequence[Step]) -> list[Meant]:
    """Which resource every writing entry is about: found by its criteria, named, or new."""
    meant: list[Meant] = []
    by_criteria: dict[tuple[str, str], Meant] = {}
    for step in steps:
        with about(step.entry):
            meant.append(_meaning(site, writer, principal, step, by_criteria))
    fresh = [one for one in meant if one.step.target.kind is Kind.CREATE and not one.is_done]
    hidden = writer.hidden(principal.sight, [(one.resource_type, one.resource_id) for one in fresh])
    for one in fresh:
        if (one.resource_type, one.resource_id) in hidden:
            one.resource_id = fresh_id(site.entropy)
    return meant


def _meaning(
    site: Site, writer: Writer, principal: Principal, step: Step, by_criteria: dict[tuple[str, str], Meant]
) -> Meant:
    target, entry = step.target, step.entry
    resource_type = target.resource_type
    match target.kind:
        case Kind.CREATE:
            return _created(site, writer, principal, step, by_criteria)
        case Kind.UPDATE_MATCHING | Kind.PATCH_MATCHING:
            existing = matching(site, writer, principal, resource_type, step.params)
        case _:
            existing = changeable(site, writer, principal, resource_type, target.resource_id)
    if existing is None and step.new is None:
        raise nothing_here()
    require_version(existing, entry.if_match, entry.if_none_match)
    own_id = None if step.new is None else step.new.resource_id
    named = target.resource_id or own_id
    if existing is not None:
        require(own_id in {None, existing.resource_id}, FhirCode.ID_MISMATCH)
        return Meant(step=step, resource_type=resource_type, resource_id=existing.resource_id, existing=existing)
    require_may(principal, resource_type, Right.CREATE)
    require(not named or principal.sight.everything, FhirCode.CREATE_BY_PUT)
    return Meant(step=step, resource_type=resource_type, resource_id=named or _id_for(site, principal, entry))


def _created(
    site: Site, writer: Writer, principal: Principal, step: Step, by_criteria: dict[tuple[str, str], Meant]
) -> Meant:
    entry, resource_type = step.entry, step.target.resource_type
    if entry.if_none_exist is None:
        return Meant(step=step, resource_type=resource_type, resource_id=_id_for(site, principal, entry))
    twin = by_criteria.get((resource_type, entry.if_none_exist))
    if twin is not None:
        # The same criteria twice in one transaction would make the duplicate that they are there to prevent.
        return Meant(step=step, resource_type=resource_type, resource_id=twin.resource_id, is_done=True)
    existing = matching(site, writer, principal, resource_type, criteria(entry.if_none_exist))
    one = Meant(
        step=step,
        resource_type=resource_type,
        resource_id=_id_for(site, principal, entry) if existing is None else existing.resource_id,
        existing=existing,
        is_done=existing is not None,
    )
    by_criteria[resource_type, entry.if_none_exist] = one
    return one


def _id_for(site: Site, principal: Principal, entry: Entry) -> str:
    """The id of a new resource: from its urn:uuid, so that the same transaction twice is stored once.

    The custodian's own systems get the uuid itself. For anybody else it is mixed with who they are, so that a uuid
    that is taken by something hidden cannot be told from a free one.
    """
    name = entry.full_url.removeprefix("urn:uuid:") if entry.full_url.startswith("urn:uuid:") else ""
    if not ID.fullmatch(name):
        return fresh_id(site.entropy)
    if principal.sight.everything:
        return name
    mixed = tagged("carechain/fhir/id/1", principal.party, principal.client_id.encode(), name.encode())
    return fresh_id(lambda size: mixed[:size])


def _require_distinct(meant: Sequence[Meant]) -> None:
    """No resource twice among what is written (FHIR R4, 3.1.0.11.2), and no fullUrl twice among the entries."""
    seen: set[str] = set()
    urls: set[str] = set()
    for one in meant:
        entry = one.step.entry
        if (one.key in seen and not one.is_done) or (entry.full_url and entry.full_url in urls):
            raise refusal(FhirCode.ENTRY_REPEATED).at(entry.place)
        seen.add(one.key)
        urls.add(entry.full_url)


def _changes(site: Site, writer: Writer, principal: Principal, meant: Sequence[Meant]) -> list[tuple[Meant, Change]]:
    """What is to be stored, its references replaced by what they stand for."""
    names = {one.step.entry.full_url: one.key for one in meant if one.step.entry.full_url}
    resolver = _Resolver(site, writer, principal, names)
    changes: list[tuple[Meant, Change]] = []
    for one in meant:
        if one.is_done:
            continue
        with about(one.step.entry):
            body = _body_of(one, resolver)
        change = Change(resource_type=one.resource_type, resource_id=one.resource_id, body=body, is_valid=True)
        changes.append((one, change))
    return changes


def _body_of(one: Meant, resolver: "_Resolver") -> bytes:
    if one.step.new is not None:
        restful = _RESTFUL.fullmatch(one.step.entry.full_url)
        base = restful["base"] if restful else ""
        body = one.step.new.body
        # Without a base only a urn can stand for an entry.
        others = b'"' if base else b'"urn:'
        return rewrite(body, lambda key, value: resolver.target(key, value, base), others=others)
    if one.existing is None:
        raise nothing_here()
    return after_patch(one.existing, _patch_in(one.step.entry.body)).body


def _patch_in(body: bytes) -> bytes:
    """The JSON Patch that a Binary carries (FHIR R4, 3.1.0.9.1)."""
    tree = strict_json(body)
    require(
        isinstance(tree, dict)
        and tree.get("resourceType") == "Binary"
        and tree.get("contentType") == JSON_PATCH
        and isinstance(tree.get("data"), str),
        FhirCode.PATCH_MALFORMED,
    )
    try:
        return b64decode(tree["data"], validate=True)
    except (NotBase64, ValueError):
        raise Rejected(FhirCode.PATCH_MALFORMED) from None


class _Resolver:
    """What an address inside a transaction stands for; every condition is looked up once."""

    def __init__(self, site: Site, reader: Reader, principal: Principal, names: dict[str, str]) -> None:
        self._site = site
        self._reader = reader
        self._principal = principal
        self._names = names
        self._conditional: dict[str, str] = {}

    def target(self, key: str, value: str, base: str) -> str | None:
        """The replacement of an address, None to leave it; raises ``Rejected`` for one that leads nowhere."""
        known = self._names.get(value) or (self._names.get(f"{base}/{value}") if base else None)
        if known is not None or key != "reference":
            return known
        require(not value.startswith(_OPAQUE), FhirCode.REFERENCE_UNRESOLVED)
        asked = _CONDITIONAL.fullmatch(value)
        return None if asked is None else self._matching(asked["type"], asked["criteria"])

    def _matching(self, resource_type: str, text: str) -> str:
        asked = f"{resource_type}?{text}"
        if asked not in self._conditional:
            stored = matching(self._site, self._reader, self._principal, resource_type, criteria(f"?{text}"))
            if stored is None:
                raise Rejected(FhirCode.REFERENCE_UNRESOLVED)
            self._conditional[asked] = f"{stored.resource_type}/{stored.resource_id}"
        return self._conditional[asked]


def _written_entry(site: Site, call: Call, applied: Applied) -> bytes:
    stored = applied.stored
    location = f"{stored.resource_type}/{stored.resource_id}/_history/{stored.version}"
    response = response_of(CREATED if applied.created else OK, stored=stored, location=location)
    full_url = site.url(stored.resource_type, stored.resource_id)
    body = served(stored) if call.preferences.returns == "representation" else b""
    return response_entry(response, full_url=full_url, resource=body)


def _twins(meant: Sequence[Meant], answered: dict[int, bytes]) -> dict[int, bytes]:
    """The answers of entries that were the same creation as another entry."""
    first = {one.key: one.step.entry.position for one in reversed(meant) if one.step.entry.position in answered}
    return {
        one.step.entry.position: answered[first[one.key]]
        for one in meant
        if one.step.entry.position not in answered and one.key in first
    }


def _read(step: Step, writer: Writer, call: Call, read_entry: ReadEntry) -> Answer:
    inner = msgspec.structs.replace(
        call, method=step.entry.method, target=step.target, params=step.params, headers=step.entry.headers(), body=b""
    )
    with about(step.entry):
        return read_entry(writer, inner)
