"""The gatekeeper's HTTP face: open a session, ask for records. It decides nothing (ARCHITECTURE step 6).

``POST /v1/session`` takes a signed opening (msgpack map, :mod:`carechain.sdk.authentication`) and answers a token.
``POST /v1/release`` with ``Authorization: Bearer <token>`` takes a :class:`ReleaseRequest` (msgpack map) and answers
a :class:`Release`. A refusal is JSON: ``code``, ``label``, ``reason`` and, where one record is to blame, ``record``.
Other doors of the same organisation add their routes as an :data:`Extension` and share the sessions.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import msgspec
import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from carechain.chain.queries import share_of
from carechain.charts.schema import ChartsUnavailable
from carechain.core.limits import RELEASE_REQUEST_BYTES
from carechain.core.rejection import Rejected, RejectionCode
from carechain.gatekeeper.audit import AuditUnavailable
from carechain.gatekeeper.bodies import bounded_body
from carechain.gatekeeper.codes import GatekeeperCode, Withheld
from carechain.gatekeeper.objects_door import STATUS as OBJECTS_STATUS
from carechain.gatekeeper.release import Gatekeeper, ReleaseRequest
from carechain.gatekeeper.shares_door import STATUS as SHARES_STATUS
from carechain.sdk.authentication import TOKEN_SIZE, AuthCode, Service, SessionBook, decode_opening
from carechain.sdk.shares import SharesRefused

MSGPACK: Final = "application/msgpack"
JSON: Final = "application/json"
RETRY_AFTER_S: Final = 1
_log = structlog.get_logger("carechain.gatekeeper")

STATUS: Final[dict[RejectionCode, int]] = {
    **dict.fromkeys(AuthCode, 401),
    AuthCode.OPENING_MALFORMED: 400,
    AuthCode.TOO_MANY_SESSIONS: 429,
    **dict.fromkeys(GatekeeperCode, 403),
    GatekeeperCode.REQUEST_MALFORMED: 400,
    GatekeeperCode.LEDGER_STALE: 503,
    GatekeeperCode.TICKET_UNKNOWN: 404,
    GatekeeperCode.TOO_MANY_RECORDS: 413,
    GatekeeperCode.RECORD_REPEATED: 400,
    GatekeeperCode.RECORD_UNKNOWN: 404,
    GatekeeperCode.RECORD_ALTERED: 409,
    GatekeeperCode.RECORD_MISSING: 410,
    GatekeeperCode.ANSWER_TOO_LARGE: 413,
    GatekeeperCode.BUSY: 503,
    GatekeeperCode.BODY_TOO_LARGE: 413,
    GatekeeperCode.PATH_UNKNOWN: 404,
    **SHARES_STATUS,
    **OBJECTS_STATUS,
}
"""The HTTP status of each refusal: 401 not authenticated, 403 not allowed, 5xx and 429 try again later."""
_LATER: Final = (429, 503)

Authenticate = Callable[[Request], bytes]
"""The party whose session a request belongs to; raises ``Rejected`` with an :class:`AuthCode`."""
Extension = Callable[[Authenticate], Sequence[Route]]
"""Routes of another door of this organisation, made with the way to know who asks."""

_requests = msgspec.msgpack.Decoder(ReleaseRequest)
_encoder = msgspec.msgpack.Encoder()


def app(
    gatekeeper: Gatekeeper,
    *,
    clock: Callable[[], int],
    entropy: Callable[[int], bytes],
    on_close: Callable[[], None] | None = None,
    extensions: Sequence[Extension] = (),
) -> Starlette:
    """The ASGI application of one gatekeeper; ``clock`` and ``entropy`` are for its sessions.

    ``on_close`` runs when the server has stopped, for what belongs to the same life, such as the audit's file.
    """
    face = _Face(gatekeeper, clock=clock, entropy=entropy)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        if on_close is not None:
            on_close()

    return Starlette(
        routes=[
            Route("/v1/session", face.session, methods=["POST"]),
            Route("/v1/release", face.release, methods=["POST"]),
            *(route for extension in extensions for route in extension(face.requester)),
        ],
        exception_handlers={
            Rejected: _refused,
            HTTPException: _no_such_path,
            AuditUnavailable: _unavailable,
            ChartsUnavailable: _unavailable,
            OSError: _unavailable,
        },
        lifespan=lifespan,
    )


class _Face:
    """Bytes in, bytes out."""

    def __init__(self, gatekeeper: Gatekeeper, *, clock: Callable[[], int], entropy: Callable[[int], bytes]) -> None:
        self._gatekeeper = gatekeeper
        self._clock = clock
        self._entropy = entropy
        self._sessions = SessionBook(
            chain_id=gatekeeper.ledger.chain_id,
            service=Service.GATEKEEPER,
            server=gatekeeper.organisation,
            known=lambda party: gatekeeper.ledger.view().contracts.membership.party(party),  # noqa: PLW0108 - the latest view
        )

    async def session(self, request: Request) -> Response:
        opening = decode_opening(await bounded_body(request, RELEASE_REQUEST_BYTES))
        view = self._gatekeeper.ledger.view()
        party = view.contracts.membership.party(opening.party)
        session = self._sessions.open(
            opening,
            party=party,
            organisation=None if party is None else share_of(view, party),
            now_s=self._clock(),
            token=self._entropy(TOKEN_SIZE),
        )
        return Response(_encoder.encode(session), media_type=MSGPACK)

    def requester(self, request: Request) -> bytes:
        return self._sessions.require_party(request.headers.get("authorization"), self._clock())

    async def release(self, request: Request) -> Response:
        requester = self.requester(request)
        try:
            wanted = _requests.decode(await bounded_body(request, RELEASE_REQUEST_BYTES))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise Withheld(GatekeeperCode.REQUEST_MALFORMED) from None
        answer = await self._gatekeeper.release(requester, wanted)
        return Response(_encoder.encode(answer), media_type=MSGPACK, headers={"cache-control": "no-store"})


async def _refused(_: Request, error: Exception) -> Response:
    if not isinstance(error, Rejected):
        raise error
    record = error.record_id if isinstance(error, Withheld | SharesRefused) else None
    return _refusal(error.code, record)


async def _no_such_path(_: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    return _refusal(GatekeeperCode.PATH_UNKNOWN, None, status=error.status_code)


async def _unavailable(_: Request, error: Exception) -> Response:
    """The disk's failure is not the caller's: nothing was released, and the operator's log says what failed."""
    _log.error("storage_unavailable", kind=type(error).__name__, reason=str(error))
    body = {"code": 0, "label": "UNAVAILABLE", "reason": "The gatekeeper's storage cannot be used now. Try again."}
    return Response(
        msgspec.json.encode(body), status_code=503, media_type=JSON, headers={"retry-after": str(RETRY_AFTER_S)}
    )


def _refusal(code: RejectionCode, record: bytes | None, status: int | None = None) -> Response:
    body: dict[str, object] = {"code": int(code), "label": code.label, "reason": code.reason}
    if record is not None:
        body["record"] = record.hex()
    status = STATUS.get(code, 403) if status is None else status
    headers = {"retry-after": str(RETRY_AFTER_S)} if status in _LATER else None
    return Response(msgspec.json.encode(body), status_code=status, media_type=JSON, headers=headers)
