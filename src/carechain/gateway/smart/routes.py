"""The HTTP face of authorisation: forms in, JSON or a redirect out (RFC 6749, 7009, 7662). It decides nothing.

Tokens, codes and secrets stand in bodies and headers of requests, never in a log. A parameter that stands twice is
refused, so that no two readers can take a request for two different ones.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeVar
from urllib.parse import parse_qsl

import msgspec
import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from carechain.core.limits import HTTP_BODY_S, OPENING_BODY_BYTES
from carechain.core.rejection import Rejected, RejectionCode, require
from carechain.gatekeeper.rates import Buckets, Rate
from carechain.gateway.clients import AppsUnavailable
from carechain.gateway.codes import SMART_STATUS, SmartCode
from carechain.gateway.smart import discovery
from carechain.gateway.smart.approving import Answer, Approvals, LaunchRequest
from carechain.gateway.smart.authenticator import GatewayAuthenticator
from carechain.gateway.smart.identity_tokens import IdentityTokens
from carechain.gateway.smart.pages import HEADERS, error_page, waiting_page
from carechain.gateway.smart.server import AuthorisationServer, Redirect, ShownPage, error_of
from carechain.gateway.smart.tokens import approval_code
from carechain.sdk.authentication import TOKEN_SIZE, AuthCode, decode_opening

FORM_BYTES: Final = 64 * 1024
FIELDS: Final = 32
PER_HOST: Final = Rate(per_s=50, burst=500)
"""Requests about authorisation from one address; behind a proxy that is everybody's."""
PER_PARTY: Final = Rate(per_s=1, burst=30)
"""Approval codes that one party may try: with 39 bits in each, guessing comes to nothing."""
HOSTS: Final = 10_000
JSON: Final = "application/json"
MSGPACK: Final = "application/msgpack"
_FORM: Final = "application/x-www-form-urlencoded"
_NO_STORE: Final = {"cache-control": "no-store", "pragma": "no-cache"}
_OPEN: Final = {"access-control-allow-origin": "*", "cache-control": "max-age=300"}
_log = structlog.get_logger("carechain.gateway")
_T = TypeVar("_T")

_answers: Final = msgspec.json.Decoder(Answer)
_launches: Final = msgspec.json.Decoder(LaunchRequest)
Handler = Callable[[Request], Awaitable[Response]]


class SmartRoutes:
    """The routes under ``/smart`` and the documents about them."""

    def __init__(
        self,
        *,
        server: AuthorisationServer,
        approvals: Approvals,
        authenticator: GatewayAuthenticator,
        identity: IdentityTokens,
        base: str,
        clock: Callable[[], int],
        entropy: Callable[[int], bytes],
    ) -> None:
        """``base`` is the FHIR server's address; ``clock()`` gives Unix seconds, ``entropy(n)`` random bytes."""
        self._server = server
        self._approvals = approvals
        self._authenticator = authenticator
        self._identity = identity
        self._base = base
        self._root = discovery.root_of(base)
        self._clock = clock
        self._entropy = entropy
        self._hosts = Buckets(PER_HOST, parties=HOSTS)
        self._parties = Buckets(PER_PARTY, parties=HOSTS)
        self._turn = asyncio.Lock()

    def routes(self) -> list[Route]:
        """All of them."""
        fhir = discovery.FHIR
        return [
            Route(discovery.CONFIGURATION, self._configuration, methods=["GET"]),
            Route(fhir + discovery.CONFIGURATION, self._configuration, methods=["GET"]),
            Route(fhir + "/.well-known/openid-configuration", self._openid, methods=["GET"]),
            Route(discovery.JWKS, self._jwks, methods=["GET"]),
            Route(discovery.AUTHORIZE, self._for_browsers(self._authorize), methods=["GET", "POST"]),
            Route(discovery.WAIT, self._for_browsers(self._wait), methods=["GET"]),
            Route(discovery.TOKEN, self._for_apps(self._token), methods=["POST"]),
            Route(discovery.REVOKE, self._for_apps(self._revoke), methods=["POST"]),
            Route(discovery.INTROSPECT, self._for_apps(self._introspect), methods=["POST"]),
            Route(discovery.SESSION, self._for_parties(self._session), methods=["POST"]),
            Route(discovery.APPROVALS, self._for_parties(self._approval), methods=["GET", "POST"]),
            Route(discovery.LAUNCH, self._for_parties(self._launch), methods=["POST"]),
        ]

    # --- documents ----------------------------------------------------------------------------------------

    async def _configuration(self, _: Request) -> Response:
        return _json(discovery.configuration(self._base), headers=_OPEN)

    async def _openid(self, _: Request) -> Response:
        return _json(discovery.openid_configuration(self._base), headers=_OPEN)

    async def _jwks(self, _: Request) -> Response:
        return _json(self._identity.public_keys(), headers=_OPEN)

    # --- browsers -----------------------------------------------------------------------------------------

    async def _authorize(self, request: Request) -> Response:
        form = await _form(request) if request.method == "POST" else _fields(request.url.query)
        return self._to_browser(await self._server.authorize(form))

    async def _wait(self, request: Request) -> Response:
        return self._to_browser(await self._server.collect(_fields(request.url.query).get("handle", "")))

    def _to_browser(self, answer: Redirect | ShownPage) -> Response:
        if isinstance(answer, Redirect):
            # 303: what was posted here is not posted on to the app.
            return RedirectResponse(answer.url, status_code=303, headers=dict(HEADERS))
        return HTMLResponse(waiting_page(answer, self._root), headers=dict(HEADERS))

    # --- apps ---------------------------------------------------------------------------------------------

    async def _token(self, request: Request) -> Response:
        form = await _form(request)
        # One at a time: a code or a refresh token that comes twice at once must not get two answers.
        async with self._turn:
            return _json(await self._server.token(form, _authorization(request)))

    async def _revoke(self, request: Request) -> Response:
        form = await _form(request)
        await asyncio.to_thread(self._server.revoke, form, _authorization(request))
        return Response(status_code=200, headers=_NO_STORE)

    async def _introspect(self, request: Request) -> Response:
        form = await _form(request)
        return _json(await asyncio.to_thread(self._server.introspect, form, _authorization(request)))

    # --- parties of the ledger ----------------------------------------------------------------------------

    async def _session(self, request: Request) -> Response:
        """Open a session as at the node's API (msgpack): it serves there as here."""
        opening = decode_opening(await _body(request, OPENING_BODY_BYTES))
        session = self._authenticator.open_session(opening, self._entropy(TOKEN_SIZE))
        return Response(msgspec.msgpack.encode(session), media_type=MSGPACK, headers=_NO_STORE)

    async def _approval(self, request: Request) -> Response:
        party = self._party(request)
        code = approval_code(str(request.path_params["code"]))
        if request.method == "POST":
            await self._approvals.answer(party, code, await _decoded(request, _answers))
            return Response(status_code=204, headers=_NO_STORE)
        return Response(msgspec.msgpack.encode(self._approvals.shown(code)), media_type=MSGPACK, headers=_NO_STORE)

    async def _launch(self, request: Request) -> Response:
        party = self._party(request)
        launched = await self._approvals.launch(party, await _decoded(request, _launches))
        return Response(msgspec.msgpack.encode(launched), media_type=MSGPACK, headers=_NO_STORE)

    def _party(self, request: Request) -> bytes:
        party = self._authenticator.party(dict(request.headers))
        require(self._parties.take(party, 1, self._clock()), SmartCode.TOO_MANY_REQUESTS)
        return party

    # --- refusing -----------------------------------------------------------------------------------------

    def _for_browsers(self, handler: Handler) -> Handler:
        def refuse(refused: Rejected) -> Response:
            status = SMART_STATUS.get(refused.code, 400)
            # A browser that gets 401 asks its user for a password.
            status = 400 if status == 401 else status  # noqa: PLR2004
            return HTMLResponse(error_page(refused.code.reason), status_code=status, headers=dict(HEADERS))

        return self._guarded(handler, refuse)

    def _for_apps(self, handler: Handler) -> Handler:
        def refuse(refused: Rejected) -> Response:
            error = error_of(refused)
            status = SMART_STATUS.get(refused.code, 400)
            headers = {"www-authenticate": 'Basic realm="carechain"'} if status == 401 else {}  # noqa: PLR2004
            told = {"error": error, "error_description": refused.code.reason}
            return _json(told, status=status, headers={**_NO_STORE, **headers})

        return self._guarded(handler, refuse)

    def _for_parties(self, handler: Handler) -> Handler:
        def refuse(refused: Rejected) -> Response:
            code = refused.code
            status = SMART_STATUS.get(code, _SESSION_STATUS.get(code, 401))
            told = {"code": int(code), "label": code.label, "reason": code.reason}
            return _json(told, status=status)

        return self._guarded(handler, refuse)

    def _guarded(self, handler: Handler, refuse: Callable[[Rejected], Response]) -> Handler:
        async def guarded(request: Request) -> Response:
            host = b"" if request.client is None else request.client.host.encode()
            try:
                require(self._hosts.take(host, 1, self._clock()), SmartCode.TOO_MANY_REQUESTS)
                return await handler(request)
            except Rejected as refused:
                return refuse(refused)
            except AppsUnavailable as unavailable:
                _log.error("storage_unavailable", kind=type(unavailable).__name__, reason=str(unavailable))
                return refuse(Rejected(SmartCode.BUSY))

        return guarded


_SESSION_STATUS: Final[Mapping[RejectionCode, int]] = {AuthCode.OPENING_MALFORMED: 400, AuthCode.TOO_MANY_SESSIONS: 429}


def _json(value: object, *, status: int = 200, headers: Mapping[str, str] = _NO_STORE) -> Response:
    return Response(msgspec.json.encode(value), status_code=status, media_type=JSON, headers=dict(headers))


def _authorization(request: Request) -> str:
    return request.headers.get("authorization", "")


async def _form(request: Request) -> dict[str, str]:
    """The fields of a posted form; raises ``Rejected``."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    require(kind == _FORM, SmartCode.REQUEST_MALFORMED)
    body = await _body(request, FORM_BYTES)
    try:
        return _fields(body.decode("ascii"))
    except UnicodeDecodeError:
        raise Rejected(SmartCode.REQUEST_MALFORMED) from None


def _fields(text: str) -> dict[str, str]:
    """Fields by name, each once (RFC 6749 section 3.1); raises ``Rejected``."""
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=FIELDS, errors="strict") if text else []
    except ValueError:
        raise Rejected(SmartCode.REQUEST_MALFORMED) from None
    fields = dict(pairs)
    require(len(fields) == len(pairs), SmartCode.REQUEST_MALFORMED)
    return fields


async def _decoded(request: Request, decoder: "msgspec.json.Decoder[_T]") -> _T:
    try:
        return decoder.decode(await _body(request, FORM_BYTES))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Rejected(SmartCode.BODY_MALFORMED) from None


async def _body(request: Request, limit_bytes: int) -> bytes:
    """A body within its bound, in time; raises ``Rejected``."""
    parts = bytearray()
    try:
        async with asyncio.timeout(HTTP_BODY_S):
            async for chunk in request.stream():
                parts += chunk
                require(len(parts) <= limit_bytes, SmartCode.BODY_MALFORMED)
    except (TimeoutError, ClientDisconnect):
        raise Rejected(SmartCode.BODY_MALFORMED) from None
    return bytes(parts)
