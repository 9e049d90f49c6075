"""From an interaction to what does it: charts, providers, operations (API-1)."""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final, Protocol

import orjson

from carechain.charts.repository import Reader, Writer
from carechain.charts.searching.codes import BadParameter
from carechain.core.rejection import Rejected, require
from carechain.gateway.codes import FhirCode
from carechain.gateway.fhir import batches, entries, export, instances, operations, searches, transactions, writing
from carechain.gateway.fhir.call import Answer, Call, Given, Site
from carechain.gateway.fhir.events import Bell, Events
from carechain.gateway.fhir.outcome import Problem, nothing_here
from carechain.gateway.fhir.paging import PAGE_PARAMETER
from carechain.gateway.fhir.parameters import last
from carechain.gateway.fhir.providing import Handler, Provider
from carechain.gateway.fhir.resources import Draft, draft
from carechain.gateway.fhir.rights import Right, require_may
from carechain.gateway.fhir.routing import Kind, not_allowed
from carechain.gateway.fhir.subsetting import subset_of_params
from carechain.gateway.fhir.threads import Threads
from carechain.gateway.principal import Principal

Reads = Callable[[Site, Reader, Call], Answer]
Writes = Callable[[Site, Writer, Call, Draft], Answer]
Auditing = Callable[[Given], Awaitable[None]]
Known = Callable[[], Awaitable[Principal]]
NOT_FOUND: Final = 404

READING: Final[Mapping[Kind, Reads]] = {
    Kind.READ: instances.read,
    Kind.VREAD: instances.vread,
    Kind.HISTORY_INSTANCE: instances.history,
    Kind.HISTORY_TYPE: instances.history,
    Kind.HISTORY_SYSTEM: instances.history,
    Kind.SEARCH_TYPE: searches.find,
    Kind.SEARCH_SYSTEM: searches.find,
    Kind.COMPARTMENT: searches.find,
}
"""The interactions that read the charts, each from one snapshot."""

WRITING: Final[Mapping[Kind, Writes]] = {
    Kind.CREATE: writing.create,
    Kind.UPDATE: writing.update,
    Kind.UPDATE_MATCHING: writing.update_matching,
}
"""The interactions that bring a resource."""

PATCHING: Final[Mapping[Kind, Callable[[Site, Writer, Call], Answer]]] = {
    Kind.PATCH: writing.patch,
    Kind.PATCH_MATCHING: writing.patch_matching,
}

ON_CHARTS: Final[Mapping[str, Reads]] = {"$received": instances.received, "$meta": instances.meta}
"""Operations on any stored resource."""
_EXPORTED: Final = frozenset({"", "Patient", "Group"})


class Answering(Protocol):
    """How one interaction is answered."""

    async def __call__(self, call: Call) -> Answer:
        """Raises ``Rejected`` or ``Problem``."""


class Dispatch:
    """Finds what answers a call. The caller is authenticated; the audit is whoever calls' to write."""

    def __init__(self, site: Site, threads: Threads, providers: tuple[Provider, ...]) -> None:
        self._site = site
        self._threads = threads
        self._bell = Bell()
        self._exports = export.Exports(site, threads)
        self._events = Events(site, threads, self._bell)
        self._by_type: dict[str, Provider] = {name: one for one in providers for name in one.types}
        self._operations: dict[tuple[str, str], Handler] = {
            key: handler for one in providers for key, handler in one.operations.items()
        }
        self._alone = frozenset(name for one in providers if not one.writable for name in one.types)

    async def answer(self, call: Call, *, audit: Auditing, known: Known) -> Answer:
        """Do what is asked; ``audit`` is for streams, ``known`` authenticates the caller again."""
        match call.target.kind:
            case Kind.BUNDLE:
                return await self._bundle(call, audit=audit, known=known)
            case Kind.OPERATION:
                return await self._operation(call, audit=audit, known=known)
            case Kind.EXPORT_STATUS:
                return await self._exports.status(call)
            case Kind.EXPORT_CANCEL:
                return await self._exports.cancel(call)
            case Kind.EXPORT_FILE:
                return await self._exports.file(call, audit)
            case kind if kind in READING:
                return await self._read(call, READING[kind])
            case _:
                return await self._write(call)

    # --- reading ------------------------------------------------------------------------------------------
    async def _read(self, call: Call, reads: Reads) -> Answer:
        target = call.target
        searched = target.member_type if target.kind is Kind.COMPARTMENT else target.resource_type
        provider = self._by_type.get(searched)
        # A scope with a query is a second question about the resource, and must be answered about the same version.
        is_one_question = target.kind is Kind.READ and not call.principal.may(searched).filters
        from_charts = self._threads.glance if is_one_question else self._threads.read
        if provider is None:
            return await from_charts(lambda reader: reads(self._site, reader, call))
        if target.kind in {Kind.SEARCH_TYPE, Kind.COMPARTMENT}:
            return await self._search_provided(call, provider, searched)
        if searched not in self._alone:
            try:
                return await from_charts(lambda reader: reads(self._site, reader, call))
            except Problem as problem:
                if problem.status != NOT_FOUND or target.kind is not Kind.READ:
                    raise
        require_may(call.principal, searched, Right.READ)
        body = await provider.read(call.principal, searched, target.resource_id) if target.kind is Kind.READ else None
        if body is None:
            raise nothing_here()
        return Answer(
            body=subset_of_params(body, call.params),
            given=Given(resource_types=frozenset({searched}), count=1),
        )

    async def _search_provided(self, call: Call, provider: Provider, searched: str) -> Answer:
        require_may(call.principal, searched, Right.SEARCH)
        params = [(name, value) for name, value in call.params if name not in {"_format", "_pretty"}]
        if call.target.kind is Kind.COMPARTMENT:
            params.append(("patient", f"Patient/{call.target.resource_id}"))
        if searched in self._alone:
            return searches.provided(self._site, call, await provider.search(call.principal, searched, params))
        extra: list[bytes] = []
        if last(call.params, PAGE_PARAMETER) is None:
            try:
                extra = await provider.search(call.principal, searched, params)
            except Rejected as refused:
                # It takes fewer parameters than the charts do; what it cannot judge, it does not match. Any other
                # refusal is the answer: a part must not pass for the whole.
                if not isinstance(refused, BadParameter) and refused.code is not FhirCode.PARAMETER_UNKNOWN:
                    raise
                extra = []
        return await self._threads.read(lambda reader: searches.find(self._site, reader, call, extra))

    # --- writing ------------------------------------------------------------------------------------------
    async def _write(self, call: Call) -> Answer:
        target = call.target
        require(target.resource_type not in self._alone, FhirCode.READ_ONLY_TYPE)
        if target.kind in PATCHING:
            patches = PATCHING[target.kind]
            answer = await self._threads.write(lambda writer: patches(self._site, writer, call))
        else:
            writes = WRITING[target.kind]
            right = Right.CREATE if target.kind is Kind.CREATE else Right.UPDATE
            require_may(call.principal, target.resource_type, right)
            new = await self._threads.work(lambda: draft(call.body, target.resource_type))
            answer = await self._threads.write(lambda writer: writes(self._site, writer, call, new))
        self._bell.ring()
        return answer

    async def _bundle(self, call: Call, *, audit: Auditing, known: Known) -> Answer:
        bundle_type, listed = await self._threads.work(lambda: entries.read(call.body, self._site.base_url))
        if bundle_type == "batch":
            return await batches.run(call, listed, partial(self.answer, audit=audit, known=known))
        assistant = self._site.repository.charts.assistant
        steps = await self._threads.work(lambda: transactions.plan(listed, call.principal, self._alone, assistant))
        answer = await self._threads.write(
            lambda writer: transactions.run(self._site, writer, call, steps, self._read_entry)
        )
        self._bell.ring()
        return answer

    def _read_entry(self, reader: Reader, call: Call) -> Answer:
        """A reading entry of a transaction, from what the transaction itself sees."""
        return READING[call.target.kind](self._site, reader, call)

    # --- operations ---------------------------------------------------------------------------------------
    async def _operation(self, call: Call, *, audit: Auditing, known: Known) -> Answer:
        target = call.target
        match target.operation:
            case "$validate":
                if call.method != "POST":
                    raise not_allowed(call.method, ("POST",))
                return await self._threads.work(lambda: operations.validate(call))
            case "$everything" if target.resource_type == "Patient" and target.resource_id:
                return await self._threads.read(lambda reader: operations.everything(self._site, reader, call))
            case "$export" if target.resource_type in _EXPORTED and bool(target.resource_id) == (
                target.resource_type == "Group"
            ):
                return await self._exports.begin(call)
            case "$events" if not target.resource_type:
                if call.method not in {"GET", "HEAD"}:
                    raise not_allowed(call.method, ("GET",))
                return await self._events.stream(call, audit, known)
            case name if name in ON_CHARTS and target.resource_id and target.resource_type not in self._alone:
                return await self._threads.read(lambda reader: ON_CHARTS[name](self._site, reader, call))
        handler = self._operations.get((target.resource_type, target.operation))
        if handler is None:
            raise Rejected(FhirCode.OPERATION_UNKNOWN)
        return await self._provided(call, handler)

    async def _provided(self, call: Call, handler: Handler) -> Answer:
        target = call.target
        if target.resource_type:
            require_may(call.principal, target.resource_type, Right.READ)
        params = operations.operation_params(call)
        body = await handler(call.principal, target.resource_id, params, call.body)
        return Answer(body=body, given=_given_by(body, target.resource_type))


def _given_by(body: bytes, resource_type: str) -> Given:
    """What a resource from a provider gives out: itself, or the entries of the Bundle that it is."""
    tree = orjson.loads(body)
    listed = [entry.get("resource", {}) for entry in tree.get("entry", [])] if isinstance(tree, dict) else []
    types = {str(one.get("resourceType", "")) for one in listed} | {resource_type}
    return Given(resource_types=frozenset(types - {""}), count=max(len(listed), 1))
