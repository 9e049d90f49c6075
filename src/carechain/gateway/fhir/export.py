"""Bulk export (FHIR Bulk Data Access 2.0): asynchronous by its protocol, streamed from the database in fact.

No file is written, so no copy of anybody's data lies about: the status names a file for every type in which the caller
sees something, and a file is read from the charts while it is sent, with the sight the caller has at that moment. A
grant that was revoked since is revoked here too. What changed after the export began is left out; the next export with
``_since`` brings it. Every part of a stream is in the audit trail before it is sent.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from typing import Final

import orjson
from msgspec import Struct

from carechain.charts.definitions import RESOURCE_TYPES, compartment_params
from carechain.charts.repository import Reader, Stored
from carechain.charts.serving import served
from carechain.core.limits import (
    FHIR_DOWNLOADS,
    FHIR_DOWNLOADS_PER_CALLER,
    FHIR_EXPORT_CHUNK,
    FHIR_EXPORT_MEMBERS,
    FHIR_EXPORT_S,
    FHIR_EXPORTS,
    FHIR_EXPORTS_PER_CALLER,
)
from carechain.core.rejection import Rejected, require
from carechain.gateway.codes import FhirCode
from carechain.gateway.fhir.call import Answer, Call, Given, Site, given
from carechain.gateway.fhir.conditions import US_PER_S, instant
from carechain.gateway.fhir.instances import since_of, visible_one
from carechain.gateway.fhir.negotiation import NDJSON
from carechain.gateway.fhir.operations import operation_params, types_of
from carechain.gateway.fhir.parameters import last, text_of
from carechain.gateway.fhir.resources import fresh_id
from carechain.gateway.fhir.rights import Right, may, readable
from carechain.gateway.fhir.threads import Threads
from carechain.gateway.principal import Principal

_FORMATS: Final = frozenset({NDJSON, "application/ndjson", "ndjson"})
_PARAMETERS: Final = frozenset({"_type", "_since", "_outputFormat", "_format", "_pretty"})
ACCEPTED: Final = 202
Auditing = Callable[[Given], Awaitable[None]]


class Job(Struct, frozen=True, kw_only=True):
    """An export somebody started. ``group`` is the Group's id, empty for others; times are microseconds."""

    caller: tuple[bytes, str]
    request: str
    types: tuple[str, ...]
    since_us: int | None
    began_us: int
    patients_only: bool
    group: str = ""

    @property
    def expires_us(self) -> int:
        """When it is forgotten."""
        return self.began_us + FHIR_EXPORT_S * US_PER_S


class Exports:
    """The exports of one server, kept in memory: an export that is lost by a restart is started again."""

    def __init__(self, site: Site, threads: Threads) -> None:
        self._site = site
        self._threads = threads
        self._jobs: dict[str, Job] = {}
        self._downloads: dict[tuple[bytes, str], int] = {}

    async def begin(self, call: Call) -> Answer:
        """Kick-off at the system, at Patient or at one Group: 202 with the address to follow."""
        require(call.preferences.respond_async, FhirCode.EXPORT_UNSUPPORTED)
        params = operation_params(call)
        require(all(name in _PARAMETERS for name, _ in params), FhirCode.PARAMETER_UNKNOWN)
        require((last(params, "_outputFormat") or NDJSON).replace(" ", "+") in _FORMATS, FhirCode.EXPORT_UNSUPPORTED)
        principal, target = call.principal, call.target
        if target.resource_type == "Group":
            await self._threads.read(
                lambda reader: visible_one(self._site, reader, principal, "Group", target.resource_id)
            )
        now_us = self._site.clock_us()
        job = Job(
            caller=_caller(principal),
            request=self._address(call, params),
            types=types_of(params) or tuple(sorted(RESOURCE_TYPES)),
            since_us=since_of(self._site, params),
            began_us=now_us,
            patients_only=bool(target.resource_type),
            group=target.resource_id,
        )
        self._forget(now_us)
        require(len(self._jobs) < FHIR_EXPORTS, FhirCode.TOO_MANY_EXPORTS)
        mine = sum(one.caller == job.caller for one in self._jobs.values())
        require(mine < FHIR_EXPORTS_PER_CALLER, FhirCode.TOO_MANY_EXPORTS)
        name = fresh_id(self._site.entropy)
        self._jobs[name] = job
        location = f"{self._site.base_url}/$export-status/{name}"
        return Answer(status=ACCEPTED, headers={"content-location": location}, is_audited=False)

    async def status(self, call: Call) -> Answer:
        """The manifest: one file for every type in which the caller sees something."""
        job = self._job(call)
        types = await self._threads.read(lambda reader: self._types_with_any(reader, call.principal, job))
        name = call.target.resource_id
        manifest = {
            "transactionTime": instant(job.began_us),
            "request": job.request,
            "requiresAccessToken": True,
            "output": [
                {"type": one, "url": f"{self._site.base_url}/$export-file/{name}/{one}.ndjson"} for one in types
            ],
            "error": [],
        }
        return Answer(
            body=orjson.dumps(manifest), media_type="application/json", given=Given(resource_types=frozenset(types))
        )

    async def cancel(self, call: Call) -> Answer:
        """Forget an export."""
        self._job(call)
        del self._jobs[call.target.resource_id]
        return Answer(status=ACCEPTED, is_audited=False)

    async def file(self, call: Call, audit: Auditing) -> Answer:
        """One type as newline-delimited JSON, streamed."""
        job, resource_type = self._job(call), call.target.member_type
        require(resource_type in job.types and self._may(call.principal, job, resource_type), FhirCode.EXPORT_UNKNOWN)
        require(sum(self._downloads.values()) < FHIR_DOWNLOADS, FhirCode.BUSY)
        require(self._downloads.get(job.caller, 0) < FHIR_DOWNLOADS_PER_CALLER, FhirCode.TOO_MANY_EXPORTS)
        stream = self._lines(call.principal, job, resource_type, audit)
        return Answer(media_type=NDJSON, stream=stream, is_audited=False)

    async def _lines(
        self, principal: Principal, job: Job, resource_type: str, audit: Auditing
    ) -> AsyncGenerator[bytes, None]:
        """Parts of the file; the snapshot is open until the last one is taken, or the reader is too slow."""
        self._downloads[job.caller] = self._downloads.get(job.caller, 0) + 1
        held = ExitStack()
        try:
            reader = await self._threads.work(lambda: held.enter_context(self._site.repository.reading()))
            rows = self._rows(reader, principal, job, resource_type)
            while True:
                part, is_last = await self._threads.work(lambda: self._part(reader, principal, rows))
                if part:
                    await audit(given(part))
                    yield b"".join(served(one) + b"\n" for one in part)
                if is_last:
                    return
        finally:
            self._downloads[job.caller] -= 1
            if not self._downloads[job.caller]:
                del self._downloads[job.caller]
            await self._threads.work(held.close)

    def _part(self, reader: Reader, principal: Principal, rows: Iterator[Stored]) -> tuple[list[Stored], bool]:
        listed = list(islice(rows, FHIR_EXPORT_CHUNK))
        return readable(self._site, reader, principal, listed), len(listed) < FHIR_EXPORT_CHUNK

    def _rows(self, reader: Reader, principal: Principal, job: Job, resource_type: str) -> Iterator[Stored]:
        rows = (
            self._of_group(reader, principal, job, resource_type)
            if job.group
            else reader.export(principal.sight, [resource_type], job.since_us)
        )
        return (one for one in rows if one.updated_us <= job.began_us)

    def _of_group(self, reader: Reader, principal: Principal, job: Job, resource_type: str) -> Iterator[Stored]:
        for pseudonym in self._members(reader, principal, job.group):
            after: tuple[int, ...] | None = None
            while page := reader.everything(
                principal.sight, pseudonym, [resource_type], job.since_us, count=FHIR_EXPORT_CHUNK, after=after
            ):
                yield from page
                after = (page[-1].rid,)

    def _members(self, reader: Reader, principal: Principal, group: str) -> list[bytes]:
        """The pseudonyms of a group's patients, as far as the caller sees the group."""
        stored = visible_one(self._site, reader, principal, "Group", group)
        tree = orjson.loads(stored.body)
        named = [
            str(one.get("entity", {}).get("reference", "")) for one in tree.get("member", [])[:FHIR_EXPORT_MEMBERS]
        ]
        ids = [name.removeprefix("Patient/") for name in named if name.startswith("Patient/")]
        found = (reader.pseudonym(one) for one in dict.fromkeys(ids))
        return [one for one in found if one is not None]

    def _types_with_any(self, reader: Reader, principal: Principal, job: Job) -> list[str]:
        return [
            one for one in job.types if self._may(principal, job, one) and self._has_any(reader, principal, job, one)
        ]

    def _has_any(self, reader: Reader, principal: Principal, job: Job, resource_type: str) -> bool:
        rows = self._rows(reader, principal, job, resource_type)
        while listed := list(islice(rows, FHIR_EXPORT_CHUNK)):
            if readable(self._site, reader, principal, listed):
                return True
        return False

    def _may(self, principal: Principal, job: Job, resource_type: str) -> bool:
        if job.patients_only and resource_type != "Patient" and not compartment_params(resource_type):
            return False
        return may(principal, resource_type, Right.READ) and may(principal, resource_type, Right.SEARCH)

    def _job(self, call: Call) -> Job:
        self._forget(self._site.clock_us())
        job = self._jobs.get(call.target.resource_id)
        if job is None or job.caller != _caller(call.principal):
            raise Rejected(FhirCode.EXPORT_UNKNOWN)
        return job

    def _forget(self, now_us: int) -> None:
        self._jobs = {name: job for name, job in self._jobs.items() if now_us < job.expires_us}

    def _address(self, call: Call, params: Sequence[tuple[str, str]]) -> str:
        path = "/".join(part for part in (call.target.resource_type, call.target.resource_id) if part)
        query = text_of(list(params))
        return "/".join(part for part in (self._site.base_url, path, "$export") if part) + (
            f"?{query}" if query else ""
        )


def _caller(principal: Principal) -> tuple[bytes, str]:
    return principal.party, principal.client_id
