"""The hub's relay: a follower reads another follower's records without learning where they are (LED-4).

In the hub topology a follower knows the hub and nobody else. Its requests to the gatekeeper of another organisation go
to ``/v1/relay/{organisation}/v1/session`` and ``…/v1/release`` of the hub, which passes them to the address that its
operator has configured. ``https://hub/v1/relay/{organisation}`` is therefore used like a gatekeeper's own address.

**What the hub decides: nothing.** The custodian's gatekeeper judges the session and the ticket as if it were asked
directly, and its answer is sealed to the requester's key. The hub sees who asks for which ticket, which it orders on
the ledger anyway, and how large the answer is.

**What passes.** Two paths, one method, the three headers of the protocol, bodies within their bounds. Towards the
gatekeeper nothing says where the asker is. Towards the asker nothing says where the gatekeeper is: a refusal is written
anew from its number, and whatever is not a gatekeeper's answer (a proxy's page, a redirection) becomes the same
"cannot be reached" as an organisation that nobody has configured.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Annotated, Final, Self

import httpx
import msgspec
import structlog
from msgspec import Meta, Struct
from starlette.types import Receive, Scope, Send

from carechain.core.limits import (
    GATEKEEPER_RESPONSE_BYTES,
    ID_SIZE,
    OPENING_BODY_BYTES,
    RELAY_CONNECT_S,
    RELAY_S,
    RELAY_SILENCE_S,
    RELAYS_AT_ONCE,
    RELAYS_PER_GATEKEEPER,
    RELEASE_REQUEST_BYTES,
    SHARES_REQUEST_BYTES,
)
from carechain.core.rejection import Rejected, RejectionCode, require
from carechain.gatekeeper.codes import GatekeeperCode
from carechain.gatekeeper.serve import JSON, MSGPACK, STATUS
from carechain.node.bodies import BodyReader
from carechain.node.ledger import LedgerNode
from carechain.node.refusals import RETRY_AFTER_S, NodeCode
from carechain.node.settings import Settings
from carechain.node.tls import CertificateFiles
from carechain.node.wire import RETRY_LATER, Form, refusal_of, status_of, write
from carechain.sdk.authentication import AuthCode
from carechain.sdk.shares import SHARES_PATH, KeyholderCode
from carechain.sdk.tls import Trust

PREFIX: Final = "/v1/relay/"
ROUTES: Final = {
    "/v1/session": OPENING_BODY_BYTES,
    "/v1/release": RELEASE_REQUEST_BYTES,
    SHARES_PATH: SHARES_REQUEST_BYTES,
}
"""A gatekeeper's paths, with the largest body each takes."""
ANSWER_BYTES: Final = GATEKEEPER_RESPONSE_BYTES + 64 * 1024
_REFUSAL_BYTES: Final = 4096
_OK: Final = 200
_BAD_GATEWAY: Final = 502
_ASKERS_DOING: Final = ("AskerGone", "NotConfigured")
_PASSED_ON: Final = (b"content-type", b"authorization")

_log = structlog.get_logger("carechain.relay")

Headers = list[tuple[bytes, bytes]]
ContextOf = Callable[[bytes], ssl.SSLContext]
"""What a connection to an organisation's server is verified with, by member id."""


class RelayCode(RejectionCode):
    """Why the hub did not bring an answer."""

    UNREACHABLE = 1731, "The hub cannot reach that organisation's gatekeeper now. Try again later."


class _Refusal(Struct):
    code: int
    record: Annotated[str, Meta(max_length=2 * ID_SIZE)] | None = None


class _Unreachable(Exception):  # noqa: N818 - the state of the environment
    """What came is no answer of a gatekeeper, or nothing came. ``kind`` is a class name, fit for the log."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


_refusals = msgspec.json.Decoder(_Refusal)
_KNOWN: Final[dict[int, RejectionCode]] = {int(code): code for code in (*GatekeeperCode, *KeyholderCode, *AuthCode)}


class Relay:
    """Passes requests on to the gatekeepers of configured organisations. Belongs to one loop; see :meth:`open`."""

    def __init__(self, clients: Mapping[str, httpx.AsyncClient]) -> None:
        """``clients`` by member id in hexadecimal, each with a gatekeeper's address as its base URL."""
        self._clients = dict(clients)
        self._busy = dict.fromkeys(clients, 0)
        self._bodies = BodyReader()

    @classmethod
    @asynccontextmanager
    async def open(cls, gatekeepers: Mapping[str, str], *, context_of: ContextOf) -> AsyncIterator[Self]:
        """A relay to ``gatekeepers``: addresses by member id in hexadecimal; its connections end with it."""
        async with AsyncExitStack() as stack:
            clients = {
                organisation: await stack.enter_async_context(_client(url, context_of(bytes.fromhex(organisation))))
                for organisation, url in gatekeepers.items()
            }
            yield cls(clients)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> int:
        """Answer one HTTP request whose path begins with :data:`PREFIX`; returns the status, for the figures."""
        try:
            return await self._answer(scope, receive, send)
        except Rejected as refused:
            return await _refuse(send, refused.code)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> int:
        organisation, path = _parts(scope["path"])
        require(path in ROUTES, NodeCode.PATH_UNKNOWN)
        require(scope["method"] == "POST", NodeCode.METHOD_NOT_ALLOWED)
        headers = dict(scope["headers"])
        body = await self._bodies.read(receive, headers, ROUTES[path])
        # Before anybody looks who is asked for: how full the hub is says nothing about an organisation.
        require(sum(self._busy.values()) < RELAYS_AT_ONCE, NodeCode.OVERLOADED)
        answering = _Answering(send)
        try:
            client = self._free(organisation)
            self._busy[organisation] += 1
            try:
                async with asyncio.timeout(RELAY_S):
                    await _while_asked(receive, _pass_on(client, path, body, headers, answering), answering)
            finally:
                self._busy[organisation] -= 1
        except (_Unreachable, TimeoutError) as lost:
            kind = lost.kind if isinstance(lost, _Unreachable) else type(lost).__name__
            # What strangers can bring about at will is not to fill the log.
            say = _log.debug if kind in _ASKERS_DOING else _log.warning
            say("relay_failed", kind=kind)
            if not answering.begun:
                raise Rejected(RelayCode.UNREACHABLE) from None
            # Half an answer is out: ending without the rest closes the connection, and the asker sees that it is cut.
        return answering.status

    def _free(self, organisation: str) -> httpx.AsyncClient:
        """The way to a gatekeeper that has room for another request; unknown and crowded ones answer alike."""
        client = self._clients.get(organisation)
        if client is None:
            raise _Unreachable("NotConfigured")
        if self._busy[organisation] >= RELAYS_PER_GATEKEEPER:
            raise _Unreachable("Crowded")
        return client


@asynccontextmanager
async def relay_of(
    settings: Settings, node: LedgerNode, certificates: CertificateFiles | None
) -> AsyncIterator[Relay | None]:
    """The relay that the settings ask for; None where this node is no hub.

    Gatekeepers are believed on the authorities that the ledger has at this moment for their organisations, and see this
    node's own certificate, the newest one. Raises ``OSError`` for certificates that cannot be read.
    """
    wanted = settings.relay
    if not wanted.enabled:
        yield None
        return
    authorities = node.view().contracts.membership.authorities
    rows = {one: authorities.get(one) for one in map(bytes.fromhex, wanted.gatekeepers)}
    trust = Trust(
        {organisation: row.certificate for organisation, row in rows.items() if row is not None},
        ca_file=None if wanted.ca_file is None else settings.path(wanted.ca_file),
    )

    def context_of(organisation: bytes) -> ssl.SSLContext:
        believing = trust.context(organisation)
        return believing if certificates is None else certificates.show_with(believing)

    async with Relay.open(wanted.gatekeepers, context_of=context_of) as relay:
        yield relay


class _Answering:
    """The asker's end of one exchange."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.begun = False
        self.ended = False
        self.status = _OK

    async def begin(self, headers: Headers) -> None:
        self.begun = True
        await self._send({"type": "http.response.start", "status": _OK, "headers": headers})

    async def piece(self, data: bytes, *, more: bool) -> None:
        self.ended = not more
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def refuse(self, code: RejectionCode, record: str | None) -> None:
        self.begun = self.ended = True
        self.status = await _refuse(self._send, code, record)


def _client(url: str, context: ssl.SSLContext) -> httpx.AsyncClient:
    """A client that follows nobody elsewhere, and takes neither proxies nor credentials from its surroundings."""
    timeout = httpx.Timeout(RELAY_SILENCE_S, connect=RELAY_CONNECT_S, pool=RELAY_CONNECT_S)
    limits = httpx.Limits(max_connections=RELAYS_PER_GATEKEEPER, max_keepalive_connections=RELAYS_PER_GATEKEEPER)
    return httpx.AsyncClient(
        base_url=url, verify=context, timeout=timeout, limits=limits, trust_env=False, follow_redirects=False
    )


def _parts(path: str) -> tuple[str, str]:
    """The organisation and the gatekeeper's path in a relay's path."""
    organisation, slash, rest = path.removeprefix(PREFIX).partition("/")
    return organisation, slash + rest


async def _while_asked(receive: Receive, work: Coroutine[None, None, None], answering: _Answering) -> None:
    """Do the work as long as the asker is there: nobody else's place is kept for an answer that nobody takes."""
    working, gone = asyncio.create_task(work), asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        # Having the whole answer counts as gone too.
        if not working.done() and not answering.ended:
            raise _Unreachable("AskerGone")
        await working
    finally:
        for one in (working, gone):
            one.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        """The body was read already; what else may come is of no interest."""


async def _pass_on(
    client: httpx.AsyncClient, path: str, body: bytes, headers: dict[bytes, bytes], answering: _Answering
) -> None:
    """Ask the gatekeeper and stream its answer; raises :class:`_Unreachable`."""
    # Built by hand: a client's own headers would tell the gatekeeper more than it needs.
    passed = [(name, headers[name]) for name in _PASSED_ON if name in headers]
    request = client.build_request("POST", path, content=body)
    request.headers = httpx.Headers(
        [(b"host", request.headers["host"].encode("ascii")), (b"content-length", b"%d" % len(body)), *passed]
    )
    try:
        response = await client.send(request, stream=True)
        try:
            await _bring(response, answering)
        finally:
            await response.aclose()
    except httpx.HTTPError as error:
        raise _Unreachable(type(error).__name__) from None


async def _bring(response: httpx.Response, answering: _Answering) -> None:
    media = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    plain = "content-encoding" not in response.headers
    if response.status_code != _OK:
        if media != JSON or not plain:
            raise _Unreachable("NotAGatekeeper")
        await answering.refuse(*await _refusal_in(response))
        return
    if media != MSGPACK or not plain:
        raise _Unreachable("NotAGatekeeper")
    declared = response.headers.get("content-length")
    if declared is not None and (not declared.isdigit() or int(declared) > ANSWER_BYTES):
        raise _Unreachable("TooLarge")
    headers = [(b"content-type", MSGPACK.encode()), (b"cache-control", b"no-store")]
    if declared is not None:
        headers.append((b"content-length", declared.encode("ascii")))
    await _stream(response, headers, answering)


async def _stream(response: httpx.Response, headers: Headers, answering: _Answering) -> None:
    """Piece by piece; the first piece is awaited before the answer begins, so that an early failure has a status."""
    size = 0
    async for piece in response.aiter_raw():
        size += len(piece)
        if size > ANSWER_BYTES:
            raise _Unreachable("TooLarge")
        if not answering.begun:
            await answering.begin(headers)
        await answering.piece(piece, more=True)
    if not answering.begun:
        await answering.begin(headers)
    await answering.piece(b"", more=False)


async def _refusal_in(response: httpx.Response) -> tuple[RejectionCode, str | None]:
    """The gatekeeper's refusal, by its number; its words are this program's own, so no foreign text passes."""
    data = bytearray()
    async for piece in response.aiter_raw():
        data += piece
        if len(data) > _REFUSAL_BYTES:
            raise _Unreachable("TooLarge")
    try:
        refusal = _refusals.decode(bytes(data))
        record = bytes.fromhex(refusal.record) if refusal.record else None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError):
        raise _Unreachable("NotAGatekeeper") from None
    code = _KNOWN.get(refusal.code)
    if code is None or (record is not None and len(record) != ID_SIZE):
        raise _Unreachable("NotAGatekeeper")
    return code, None if record is None else record.hex()


async def _refuse(send: Send, code: RejectionCode, record: str | None = None) -> int:
    status = _BAD_GATEWAY if code is RelayCode.UNREACHABLE else STATUS.get(code) or status_of(code)
    refusal = refusal_of(code)
    body = write(Form.JSON, refusal)
    if record is not None:
        fields = {"code": refusal.code, "label": refusal.label, "reason": refusal.reason, "record": record}
        body = msgspec.json.encode(fields)
    headers = [(b"content-type", JSON.encode()), (b"content-length", b"%d" % len(body))]
    if status in RETRY_LATER:
        headers.append((b"retry-after", b"%d" % RETRY_AFTER_S))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
    return status
