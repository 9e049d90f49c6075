"""The FHIR R4 server as an ASGI application: who asks, what is meant, the audit, the answer (API-1).

It authenticates by what it was given, routes, and sends. Every refusal is an OperationOutcome. An answer that
gives out health data is in the audit trail, durably, before its first byte is sent; where that is not possible, nothing
is given out (AUD-1).
"""

import asyncio
import secrets
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing, nullcontext
from functools import partial
from importlib import metadata
from pathlib import PurePath
from typing import Any, Final, Protocol
from zoneinfo import ZoneInfo

import structlog
from msgspec import Struct
from msgspec.structs import replace
from starlette.types import Receive, Scope, Send

from carechain.charts.record import Tampered
from carechain.charts.repository import Repository
from carechain.charts.schema import ChartsUnavailable
from carechain.core.limits import (
    BUNDLE_SIZE_BYTES,
    FHIR_BUNDLES_AT_ONCE,
    FHIR_PART_S,
    FHIR_REQUESTS_AT_ONCE,
    HTTP_BODY_BYTES,
)
from carechain.core.rejection import Rejected, require
from carechain.gatekeeper.audit import AuditUnavailable
from carechain.gateway.codes import FhirCode
from carechain.gateway.fhir.call import NOT_MODIFIED, REFUSED_AND_NOTED, Answer, Call, Given, Site
from carechain.gateway.fhir.capabilities import capability_statement
from carechain.gateway.fhir.dispatch import Dispatch
from carechain.gateway.fhir.negotiation import (
    FHIR_JSON_UTF8,
    preferences,
    pretty,
    require_form,
    require_json_wanted,
    require_patch_type,
    require_resource_type,
)
from carechain.gateway.fhir.outcome import Problem, not_authenticated, outcome, problem_of, refusal
from carechain.gateway.fhir.paging import KEY_SIZE, Pages
from carechain.gateway.fhir.parameters import Params, last, parse
from carechain.gateway.fhir.providing import Provider
from carechain.gateway.fhir.routing import Kind, Target, route
from carechain.gateway.fhir.threads import Threads
from carechain.gateway.principal import Authenticator, Principal, Reading, ReadingAudit
from carechain.node.bodies import BodyReader
from carechain.node.refusals import NodeCode

_log = structlog.get_logger("carechain.fhir")
US_PER_S: Final = 1_000_000
RETRY_AFTER_S: Final = 1
NOT_SPOKEN: Final = 1003
"""What a web socket is closed with (RFC 6455, section 7.4.1): event streams are HTTP here."""
_BODY: Final = frozenset({"POST", "PUT", "PATCH"})
_ALWAYS: Final = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))
_PATCHES: Final = frozenset({Kind.PATCH, Kind.PATCH_MATCHING})


class _ReadBody(Protocol):
    """Reads the request's body, at most so long."""

    async def __call__(self, limit_bytes: int) -> bytes: ...


class _Request(Struct, frozen=True, kw_only=True):
    """What came over HTTP, the body apart."""

    method: str
    path: str
    query: bytes
    headers: Mapping[str, str]


class Started(Protocol):
    """An ASGI application that can be closed."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""

    async def aclose(self) -> None:
        """Stop its threads."""


def fhir_app(  # noqa: PLR0913 - what the gateway plugs in
    *,
    repository: Repository,
    authenticator: Authenticator,
    audit: ReadingAudit,
    base_url: str,
    zone: ZoneInfo,
    providers: Sequence[Provider] = (),
    security: Mapping[str, Any] | None = None,
    entropy: Callable[[int], bytes] = secrets.token_bytes,
    clock: Callable[[], float] = time.time,
    page_secret: bytes | None = None,
) -> Started:
    """The FHIR server of one organisation; close it with ``aclose``.

    ``base_url`` is the public address without a slash at its end; ``zone`` is where dates without an offset count;
    ``security`` goes into the CapabilityStatement. ``page_secret`` (32 bytes) makes page links outlive the process and
    be good at its twins; without it they end with the process.
    """
    site = Site(
        repository=repository,
        base_url=base_url,
        zone=zone,
        pages=Pages(page_secret or entropy(KEY_SIZE), entropy),
        entropy=entropy,
        clock_us=lambda: int(clock() * US_PER_S),
    )
    return FhirServer(site, authenticator, audit, tuple(providers), dict(security or {}))


class FhirServer:
    """One server; see :func:`fhir_app`."""

    def __init__(
        self,
        site: Site,
        authenticator: Authenticator,
        audit: ReadingAudit,
        providers: tuple[Provider, ...],
        security: Mapping[str, Any],
    ) -> None:
        self._site = site
        self._authenticator = authenticator
        self._audit = audit
        self._bodies = BodyReader()
        self._threads = Threads(site)
        self._dispatch = Dispatch(site, self._threads, providers)
        self._in_hand = 0
        self._bundles = asyncio.Semaphore(FHIR_BUNDLES_AT_ONCE)
        self._statement = partial(
            capability_statement,
            base_url=site.base_url,
            version=_version(),
            providers=providers,
            security=security,
            began_us=site.clock_us(),
        )
        self._made: bytes = b""

    async def aclose(self) -> None:
        """Finish what is being done and stop the threads."""
        await self._threads.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request; other kinds of connections are none of this server's."""
        if scope["type"] != "http":
            await send({"type": f"{scope['type']}.close", "code": NOT_SPOKEN})
            return
        headers = _headers(scope)
        path = str(scope["path"]).removeprefix(str(scope.get("root_path", "")))
        request = _Request(method=scope["method"], path=path, query=scope.get("query_string", b""), headers=headers)
        self._in_hand += 1
        try:
            answer = await self._answered(request, partial(self._read_body, receive, headers))
        finally:
            self._in_hand -= 1
        await _send(answer, send, is_head=scope["method"] == "HEAD")

    async def _read_body(self, receive: Receive, headers: Mapping[str, str], limit_bytes: int) -> bytes:
        require(headers.get("content-encoding", "identity") == "identity", FhirCode.MEDIA_TYPE_UNSUPPORTED)
        length = headers.get("content-length")
        require(length is None or (length.isascii() and length.isdigit()), FhirCode.BODY_MALFORMED)
        declared = {} if length is None else {b"content-length": length.encode()}
        try:
            body = await self._bodies.read(receive, declared, limit_bytes)
            # Whatever reads it afterwards may take it that text is text.
            body.decode()
        except Rejected as rejected:
            too_large = rejected.code is NodeCode.BODY_TOO_LARGE
            raise Rejected(FhirCode.BODY_TOO_LARGE if too_large else FhirCode.BODY_MALFORMED) from None
        except UnicodeDecodeError:
            raise Rejected(FhirCode.BODY_MALFORMED) from None
        return body

    async def _answered(self, request: "_Request", read_body: "_ReadBody") -> Answer:
        """The answer, whatever happens; only a cancelled request and the end of the program get out of here."""
        if self._in_hand > FHIR_REQUESTS_AT_ONCE:
            return _refused(refusal(FhirCode.BUSY, headers={"retry-after": str(RETRY_AFTER_S)}))
        try:
            return await self._answer(request, read_body)
        except Problem as problem:
            return _refused(problem)
        except Rejected as rejected:
            return _refused(problem_of(rejected))
        except (ChartsUnavailable, AuditUnavailable, Tampered, OSError) as failure:
            _log.warning("fhir_unavailable", kind=type(failure).__name__, at=_where(failure))
            return _refused(refusal(FhirCode.STORE_UNAVAILABLE, headers={"retry-after": str(RETRY_AFTER_S)}))
        except Exception as bug:  # noqa: BLE001 - the last line of defence
            # A bug in one request must not end the server; what was being written was undone.
            _log.error("fhir_failed", kind=type(bug).__name__, at=_where(bug))
            return _refused(refusal(FhirCode.INTERNAL))

    async def _answer(self, request: "_Request", read_body: "_ReadBody") -> Answer:
        target = route(request.method, request.path)
        params = parse(request.query)
        require_json_wanted(request.headers, params)
        if target.kind is Kind.CAPABILITIES:
            return _shaped(await self._capabilities(), params)
        principal = await self._principal(request.headers)
        # A whole bundle may be large, so few of them are in memory at a time; the others wait before they are read.
        async with self._bundles if target.kind is Kind.BUNDLE else nullcontext():
            return await self._called(request, read_body, target, params, principal)

    async def _called(
        self, request: "_Request", read_body: "_ReadBody", target: Target, params: Params, principal: Principal
    ) -> Answer:
        """The answer to an interaction of a known caller, with its audit."""
        body = b""
        if request.method in _BODY:
            body = await read_body(BUNDLE_SIZE_BYTES if target.kind is Kind.BUNDLE else HTTP_BODY_BYTES)
            params = _with_form(request, target, params, body)
        call = Call(
            principal=principal,
            method=request.method,
            target=target,
            params=params,
            headers=request.headers,
            preferences=preferences(request.headers, params),
            body=body,
        )
        try:
            answer = await self._dispatch.answer(
                call, audit=partial(self._note, call), known=partial(self._principal, request.headers)
            )
        except (Problem, Rejected) as refused:
            problem = refused if isinstance(refused, Problem) else problem_of(refused)
            if problem.status in REFUSED_AND_NOTED:
                await self._note(call, Given(), refused=problem.number)
            raise problem from None
        if answer.is_audited:
            await self._note(call, answer.given)
        if answer.refused:
            await self._note(call, Given(), refused=answer.refused)
        return _shaped(answer, params)

    async def _principal(self, headers: Mapping[str, str]) -> Principal:
        try:
            return await self._authenticator.principal(headers)
        except Rejected as rejected:
            raise not_authenticated(rejected) from None

    async def _capabilities(self) -> Answer:
        if not self._made:
            self._made = await self._threads.work(self._statement)
        return Answer(body=self._made, is_audited=False)

    async def _note(self, call: Call, given: Given, *, refused: int = 0) -> None:
        """Durable when it returns; raises where it cannot be, and then nothing is sent."""
        types = given.resource_types or ({call.target.resource_type} - {""})
        await self._audit.note(
            Reading(
                principal=call.principal,
                interaction=call.target.operation or call.target.kind.value,
                resource_types=tuple(sorted(types)),
                records=tuple(sorted(given.records)),
                count=given.count,
                counted=given.counted,
                refused=refused,
            )
        )


def _with_form(request: _Request, target: Target, params: Params, body: bytes) -> Params:
    """The parameters, with those of a search's form; checks the body's declared type (415)."""
    if target.kind in _PATCHES:
        require_patch_type(request.headers)
    elif request.method == "POST" and request.path.rstrip("/").endswith("/_search"):
        if not body:
            return params
        require_form(request.headers)
        return [*params, *parse(body)]
    elif target.kind is not Kind.OPERATION or body:
        require_resource_type(request.headers)
    return params


def _headers(scope: Scope) -> dict[str, str]:
    """Header values by name in lower case; repeated headers are joined with commas."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _refused(problem: Problem) -> Answer:
    return Answer(status=problem.status, body=outcome(problem.issues), headers=problem.headers, is_audited=False)


def _shaped(answer: Answer, params: Params) -> Answer:
    """The answer as it was asked for: with line breaks where that was wanted."""
    if last(params, "_pretty") == "true" and answer.body and answer.media_type == FHIR_JSON_UTF8:
        return replace(answer, body=pretty(answer.body))
    return answer


async def _send(answer: Answer, send: Send, *, is_head: bool) -> None:
    headers = [(name.encode(), value.encode("latin-1")) for name, value in answer.headers.items()]
    headers += _ALWAYS
    if answer.stream is not None:
        headers.append((b"content-type", answer.media_type.encode()))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await _send_stream(answer, send, is_head=is_head)
        return
    if answer.body:
        headers.append((b"content-type", answer.media_type.encode()))
    if answer.status != NOT_MODIFIED:
        headers.append((b"content-length", str(len(answer.body)).encode()))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if is_head else answer.body})


async def _send_stream(answer: Answer, send: Send, *, is_head: bool) -> None:
    """Part by part. A reader that takes none for too long is left; a stream that breaks off is never ended as whole."""
    if answer.stream is None or is_head:
        await send({"type": "http.response.body", "body": b""})
        return
    async with aclosing(answer.stream) as parts:
        async for part in parts:
            async with asyncio.timeout(FHIR_PART_S):
                await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def _where(failure: BaseException) -> list[str]:
    """The lines a failure came through. Its text and the values on its way may be somebody's health data."""
    frames = traceback.extract_tb(failure.__traceback__)
    return [f"{PurePath(frame.filename).name}:{frame.lineno}" for frame in frames]


def _version() -> str:
    """The program's version, from the installed package; a source tree that was not installed has none."""
    try:
        return metadata.version("carechain")
    except metadata.PackageNotFoundError:
        return "0"
