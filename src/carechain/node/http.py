"""The node's HTTP face: submission, queries, receipts, blocks, events (API-3). It decides nothing itself.

A caller is authenticated by a session (:mod:`carechain.sdk.authentication`) and then judged by the same checks as on
the ledger: 401 means that nobody knows who asks, 403 that a check of CON-3 failed. Queries and submissions are
answered by a plain ASGI callable, because they are most of the load; everything else goes through Starlette.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib import metadata
from typing import Any, Final

import orjson
from msgspec import Struct
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from carechain.chain.queries import Asker, QueryCode, ask, decode_args, share_of
from carechain.chain.receipts import FullReceipt, describe, encode_receipt
from carechain.chain.tx import parse
from carechain.core import merkle
from carechain.core.codec import encode
from carechain.core.limits import (
    HEARTBEAT_S,
    HTTP_BODY_BYTES,
    ID_SIZE,
    OPENING_BODY_BYTES,
    QUERY_BODY_BYTES,
    TX_SIZE_BYTES,
)
from carechain.core.party import Party
from carechain.core.rejection import Rejected, RejectionCode, present
from carechain.engine.session import CommittedBlock
from carechain.node.audience import Sight, require_block_reader, require_live, shown, sight_of
from carechain.node.bodies import BodyReader
from carechain.node.feed import FellBehind, Subscription
from carechain.node.ledger import LedgerNode, NodeFailed
from carechain.node.light import LightBlocks, show_inclusion
from carechain.node.openapi import encoded
from carechain.node.refusals import RETRY_AFTER_S, NodeCode
from carechain.node.relay import PREFIX as RELAY_PREFIX
from carechain.node.relay import Relay
from carechain.node.rest import PATHS, PROVE, arguments
from carechain.node.wire import (
    RETRY_LATER,
    Form,
    form_of,
    plain,
    read_arguments,
    read_struct,
    read_transaction,
    read_transactions,
    refusal_of,
    status_of,
    write,
)
from carechain.sdk.answers import (
    Accepted,
    Inclusion,
    ProvenEntry,
    QueryAnswer,
    ShownBlock,
    ShownReceipt,
    Status,
    Submitted,
)
from carechain.sdk.authentication import TOKEN_SIZE, AuthCode, Opening, Service, SessionBook, bearer
from carechain.sdk.light.header import decode_block

_NO_PROOFS: Final[tuple[ProvenEntry, ...]] = ()
_QUERY: Final = "/v1/query/"
_SUBMIT: Final = "/v1/transactions"
_JSON_TX_BYTES: Final = 2 * TX_SIZE_BYTES + 64
_UNAVAILABLE: Final = 503
_OK: Final = 200
_ACCEPTED: Final = 202


def _version() -> str:
    """The program's version, from the installed package; a source tree that was not installed has none."""
    try:
        return metadata.version("carechain")
    except metadata.PackageNotFoundError:
        return "0"


_VERSION: Final = _version()


class Api:
    """The ASGI application of one node."""

    def __init__(
        self,
        service: LedgerNode,
        *,
        token_entropy: Callable[[int], bytes] = secrets.token_bytes,
        relay: Relay | None = None,
    ) -> None:
        """Serve ``service``; ``token_entropy`` makes session tokens, ``relay`` reaches others' gatekeepers at a hub."""
        self.sessions: Final = SessionBook(
            chain_id=service.chain_id, service=Service.NODE, server=service.server, known=self._known
        )
        self._service = service
        self._entropy = token_entropy
        self._bodies = BodyReader()
        self._relay = relay
        self._light = LightBlocks.of(service)
        self._rest = Starlette(
            routes=[
                Route("/v1/status", self._guarded("status", self._status), methods=["GET"]),
                Route("/v1/session", self._guarded("session", self._session), methods=["POST", "DELETE"]),
                Route("/v1/transactions/batch", self._guarded("batch", self._batch), methods=["POST"]),
                Route("/v1/transactions/{id}", self._guarded("receipt", self._receipt), methods=["GET"]),
                Route("/v1/blocks/{height}", self._guarded("block", self._block), methods=["GET"]),
                Route("/v1/light/inclusion/{id}", self._guarded("inclusion", self._inclusion), methods=["GET"]),
                Route("/v1/light/{height}", self._guarded("light", self._light_block), methods=["GET"]),
                Route("/v1/events", self._guarded("events", self._events), methods=["GET"]),
                Route("/v1/openapi.json", self._openapi, methods=["GET"]),
                *(Route(path, self._guarded("query", self._resource(name))) for path, name in PATHS.items()),
            ],
            exception_handlers={404: self._no_path, 405: self._no_method},
        )
        # A path with a slash too many is unknown, like any other.
        self._rest.router.redirect_slashes = False
        service.metrics.gauge("sessions", "Open client sessions.", lambda: len(self.sessions))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and scope["method"] == "POST":
            path: str = scope["path"]
            if path.startswith(_QUERY):
                await self._answer("query", self._query, scope, receive, send)
                return
            if path == _SUBMIT:
                await self._answer("submit", self._submit, scope, receive, send)
                return
        elif scope["type"] == "http" and (scope["path"] == _SUBMIT or scope["path"].startswith(_QUERY)):
            await _refusal(Form.JSON, NodeCode.METHOD_NOT_ALLOWED)(scope, receive, send)
            return
        if self._relay is not None and scope["type"] == "http" and scope["path"].startswith(RELAY_PREFIX):
            self._service.metrics.answered("relay", await self._relay(scope, receive, send))
            return
        await self._rest(scope, receive, send)

    # --- the hot paths ------------------------------------------------------------------------------------

    async def _answer(
        self,
        route: str,
        handle: Callable[[Scope, Receive, dict[bytes, bytes], Form], Awaitable[tuple[int, Any]]],
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        headers = dict(scope["headers"])
        form = Form.JSON
        try:
            form = form_of(headers.get(b"content-type", b""))
            status, value = await handle(scope, receive, headers, form)
            body = write(form, value)
        except Rejected as refused:
            status, body = status_of(refused.code), write(form, refusal_of(refused.code))
        except NodeFailed:
            status, body = _UNAVAILABLE, write(form, refusal_of(NodeCode.STOPPING))
        self._service.metrics.answered(route, status)
        fields = [(b"content-type", _media(form)), (b"content-length", b"%d" % len(body))]
        if status in RETRY_LATER:
            fields.append((b"retry-after", b"%d" % RETRY_AFTER_S))
        await send({"type": "http.response.start", "status": status, "headers": fields})
        await send({"type": "http.response.body", "body": body})

    async def _query(
        self, scope: Scope, receive: Receive, headers: dict[bytes, bytes], form: Form
    ) -> tuple[int, QueryAnswer]:
        party = self._party(headers)
        body = await self._bodies.read(receive, headers, QUERY_BODY_BYTES)
        name = scope["path"][len(_QUERY) :]
        args = read_arguments(form, body, name) if form is Form.JSON else decode_args(name, body)
        return _OK, self._answer_to(party, name, args, prove=_flag(scope["query_string"], b"prove"))

    def _answer_to(self, party: bytes, name: str, args: Struct, *, prove: bool) -> QueryAnswer:
        """The answer to a query; nothing in here waits, so all of it is about one height."""
        service = self._service
        view = service.view()
        asker = present(service.asker(party), QueryCode.NOT_A_LIVE_MEMBER)
        answer = ask(view, asker, name, args)
        sealed, proofs = b"", _NO_PROOFS
        if prove:
            header, entries = service.prove(answer.keys())
            sealed, proofs = encode(header), tuple(entries)
        return QueryAnswer(
            height=view.height,
            time_s=view.time_s,
            app_hash=service.app_hash,
            rows=answer.rows,
            after=answer.after,
            sealed=sealed,
            proofs=proofs,
        )

    async def _submit(
        self, scope: Scope, receive: Receive, headers: dict[bytes, bytes], form: Form
    ) -> tuple[int, Submitted | Accepted]:
        limit = _JSON_TX_BYTES if form is Form.JSON else TX_SIZE_BYTES
        raw = read_transaction(form, await self._bodies.read(receive, headers, limit))
        if _flag(scope["query_string"], b"wait", default=True):
            return _OK, await self._service.submit(raw)
        tx_id = parse(raw).id
        self._service.enqueue((raw,))
        return _ACCEPTED, Accepted(tx_id=tx_id)

    def _known(self, party: bytes) -> Party | None:
        asker = self._service.asker(party)
        return None if asker is None else asker.party

    def _party(self, headers: dict[bytes, bytes]) -> bytes:
        authorization = headers.get(b"authorization")
        return self.sessions.require_party(
            None if authorization is None else authorization.decode("latin-1"), int(self._service.clock())
        )

    # --- the rest -----------------------------------------------------------------------------------------

    def _guarded(
        self, route: str, handle: Callable[[Request, dict[bytes, bytes], Form], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """Turn refusals into answers. ``form`` is the body's; without one, JSON unless msgpack is accepted."""

        async def guarded(request: Request) -> Response:
            headers = dict(request.scope["headers"])
            form = Form.MSGPACK if headers.get(b"accept", b"").startswith(Form.MSGPACK.value) else Form.JSON
            try:
                if request.method == "POST":
                    form = form_of(headers.get(b"content-type", b""))
                response = await handle(request, headers, form)
            except Rejected as refused:
                response = _refusal(form, refused.code)
            except NodeFailed:
                response = _refusal(form, NodeCode.STOPPING)
            self._service.metrics.answered(route, response.status_code)
            return response

        return guarded

    def _resource(self, name: str) -> Callable[[Request, dict[bytes, bytes], Form], Awaitable[Response]]:
        """Answers the query of this name, asked with a path and a query string."""

        async def resource(request: Request, headers: dict[bytes, bytes], form: Form) -> Response:
            party = self._party(headers)
            args = arguments(name, request.path_params, request.query_params.multi_items())
            prove = _flag(request.scope["query_string"], PROVE.encode())
            return _response(form, self._answer_to(party, name, args, prove=prove))

        return resource

    async def _openapi(self, _request: Request) -> Response:
        return Response(encoded(), media_type=_media(Form.JSON).decode())

    async def _status(self, _request: Request, _headers: dict[bytes, bytes], form: Form) -> Response:
        service = self._service
        engine, why = service.engine, service.why_unready()
        return _response(
            form,
            Status(
                engine=engine.name,
                peers=engine.peers,
                validators=engine.validators,
                ready=not why,
                why=why,
                chain_id=service.chain_id,
                server=service.server,
                height=service.height,
                time_s=service.time_s,
                app_hash=service.app_hash,
                version=_VERSION,
            ),
        )

    async def _session(self, request: Request, headers: dict[bytes, bytes], form: Form) -> Response:
        if request.method == "DELETE":
            self._party(headers)
            self.sessions.end(bearer(headers[b"authorization"].decode("latin-1")))
            return Response(status_code=204)
        body = await self._bodies.read(request.receive, headers, OPENING_BODY_BYTES)
        opening = read_struct(form, body, Opening, AuthCode.OPENING_MALFORMED)
        asker = self._service.asker(opening.party)
        session = self.sessions.open(
            opening,
            party=None if asker is None else asker.party,
            organisation=None if asker is None else share_of(self._service.view(), asker.party),
            now_s=int(self._service.clock()),
            token=self._entropy(TOKEN_SIZE),
        )
        return _response(form, session)

    async def _batch(self, request: Request, headers: dict[bytes, bytes], form: Form) -> Response:
        raws = read_transactions(form, await self._bodies.read(request.receive, headers, HTTP_BODY_BYTES))
        if not raws:
            raise Rejected(NodeCode.TOO_MANY_TRANSACTIONS)
        outcomes = await self._service.submit_many(raws)
        return _response(form, [refusal_of(one.code) if isinstance(one, Rejected) else one for one in outcomes])

    async def _receipt(self, request: Request, headers: dict[bytes, bytes], form: Form) -> Response:
        asker, block, index, sight = self._find(request, headers)
        full = describe(block.txs[index], block.receipts[index], height=block.height, index=index)
        if sight is Sight.WHOLE:
            return _response(form, ShownReceipt(receipt=full, inclusion=prove_inclusion(block, index)))
        view = self._service.view()
        own = tuple(part for event in full.events if (part := shown(view, asker, event)) is not None)
        return _response(form, ShownReceipt(receipt=_without_transaction(full, own), inclusion=None))

    async def _inclusion(self, request: Request, headers: dict[bytes, bytes], form: Form) -> Response:
        self._light.require()
        _, block, index, sight = self._find(request, headers)
        return _response(form, show_inclusion(block, index, sight))

    def _find(self, request: Request, headers: dict[bytes, bytes]) -> tuple[Asker, CommittedBlock, int, Sight]:
        """Who asks, the named transaction's block and place, and how much of it the asker sees: more than nothing."""
        party = self._party(headers)
        tx_id = _id(request.path_params["id"])
        view = self._service.view()
        asker = require_live(view, self._service.asker(party))
        height, index = present(self._service.locate(tx_id), NodeCode.TX_UNKNOWN)
        block = self._service.block(height)
        full = describe(block.txs[index], block.receipts[index], height=height, index=index)
        sight = sight_of(view, asker, full)
        if sight is Sight.NOTHING:
            # The same answer as for an id that does not exist: whether it does is nobody else's business.
            raise Rejected(NodeCode.TX_UNKNOWN)
        return asker, block, index, sight

    async def _light_block(self, request: Request, _headers: dict[bytes, bytes], form: Form) -> Response:
        data = await self._light.at(_number(request.path_params["height"]))
        return Response(data, media_type=_media(form).decode()) if form is Form.MSGPACK else _shown_light(data)

    async def _block(self, request: Request, headers: dict[bytes, bytes], form: Form) -> Response:
        party = self._party(headers)
        view = self._service.view()
        require_block_reader(require_live(view, self._service.asker(party)))
        height = _number(request.path_params["height"])
        if not self._service.base_height < height <= self._service.height:
            raise Rejected(NodeCode.BLOCK_UNKNOWN)
        block = self._service.block(height)
        return _response(
            form,
            ShownBlock(
                sealed=encode(block.sealed),
                txs=block.txs,
                receipts=tuple(encode_receipt(receipt) for receipt in block.receipts),
            ),
        )

    async def _events(self, request: Request, headers: dict[bytes, bytes], _form: Form) -> Response:
        asker = self._require_stream(headers)
        resumed = headers.get(b"last-event-id")
        start = _number(resumed.decode("latin-1")) + 1 if resumed else None
        if start is None and "from" in request.query_params:
            start = _number(request.query_params["from"])
        blocks = self._service.subscribe(start, by=asker.id)
        return _EventStream(self._stream(headers, blocks), blocks)

    def _require_stream(self, headers: dict[bytes, bytes]) -> Asker:
        """Who follows, checked again at every block: a session or a right that ends, ends the stream."""
        return require_live(self._service.view(), self._service.asker(self._party(headers)))

    async def _stream(self, headers: dict[bytes, bytes], blocks: Subscription) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        said_s = loop.time()
        yield b": follows\n\n"
        try:
            async for block in blocks:
                asker = self._require_stream(headers)
                message = _events_of(self._service, asker, block)
                if message is None and loop.time() - said_s >= HEARTBEAT_S / 2:
                    message = _sse("beat", {"height": block.height, "time_s": block.time_s}, block.height)
                if message is not None:
                    said_s = loop.time()
                    yield message
            yield _ended(NodeCode.STOPPING, blocks.height)
        except FellBehind as late:
            yield _ended(late.code, late.height)
        except Rejected as refused:
            yield _ended(refused.code, blocks.height - 1)

    async def _no_path(self, _request: Request, _error: Exception) -> Response:
        return _refusal(Form.JSON, NodeCode.PATH_UNKNOWN)

    async def _no_method(self, _request: Request, _error: Exception) -> Response:
        return _refusal(Form.JSON, NodeCode.METHOD_NOT_ALLOWED)


class _EventStream(StreamingResponse):
    """Server-sent events about the blocks of a subscription, which ends with the answer, even with one not begun."""

    def __init__(self, messages: AsyncIterator[bytes], blocks: Subscription) -> None:
        """``messages`` are made from ``blocks``."""
        super().__init__(
            messages,
            media_type="text/event-stream",
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )
        self._blocks = blocks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream until the blocks or the reader end."""
        async with self._blocks:
            await super().__call__(scope, receive, send)


def prove_inclusion(block: CommittedBlock, index: int) -> Inclusion:
    """A transaction and its receipt with their paths to the block's roots (RFC 6962 section 2.1.1)."""
    receipts = [encode_receipt(receipt) for receipt in block.receipts]
    return Inclusion(
        raw=block.txs[index],
        receipt=receipts[index],
        tx_path=tuple(merkle.prove([merkle.leaf_hash(raw) for raw in block.txs], index)),
        receipt_path=tuple(merkle.prove([merkle.leaf_hash(one) for one in receipts], index)),
        sealed=encode(block.sealed),
    )


def _without_transaction(full: FullReceipt, events: tuple[Any, ...]) -> FullReceipt:
    """What someone the transaction concerns may know: that it happened, and its own events."""
    return FullReceipt(
        tx_id=full.tx_id,
        height=full.height,
        index=full.index,
        contract=full.contract,
        messages=(),
        request=b"",
        code=full.code,
        label=full.label,
        reason=full.reason,
        failed_message=full.failed_message,
        events=events,
        reads=b"",
        writes=b"",
        signer=b"",
    )


def _events_of(service: LedgerNode, asker: Asker, block: CommittedBlock) -> bytes | None:
    view = service.view()
    events = [
        {"index": index, "tx_id": (block.tx_ids[index] or b"").hex(), **plain(part)}
        for index, receipt in enumerate(block.receipts)
        for event in receipt.events
        if (part := shown(view, asker, event)) is not None
    ]
    if not events:
        return None
    return _sse("events", {"height": block.height, "time_s": block.time_s, "events": events}, block.height)


def _ended(code: RejectionCode, height: int) -> bytes:
    """The last message of a stream: why it ended and from where to go on."""
    return _sse("end", {**plain(refusal_of(code)), "from": height}, None)


def _sse(kind: str, data: dict[str, Any], number: int | None) -> bytes:
    identity = b"" if number is None else b"id: %d\n" % number
    return identity + b"event: " + kind.encode() + b"\ndata: " + orjson.dumps(data) + b"\n\n"


def _flag(query_string: bytes, name: bytes, *, default: bool = False) -> bool:
    """A yes-or-no parameter: ``name=1`` or ``name=0``; raises :class:`Rejected` for other values."""
    if not query_string:
        return default
    for pair in query_string.split(b"&"):
        key, _, value = pair.partition(b"=")
        if key == name:
            if value not in (b"0", b"1"):
                raise Rejected(NodeCode.PARAMETER_MALFORMED)
            return value == b"1"
    return default


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):  # noqa: PLR2004 - fits 63 bits
        raise Rejected(NodeCode.PARAMETER_MALFORMED)
    return int(text)


def _id(text: str) -> bytes:
    try:
        found = bytes.fromhex(text)
    except ValueError:
        raise Rejected(NodeCode.PARAMETER_MALFORMED) from None
    if len(found) != ID_SIZE:
        raise Rejected(NodeCode.PARAMETER_MALFORMED)
    return found


def _media(form: Form) -> bytes:
    return Form.JSON.value if form is Form.JSON else Form.MSGPACK.value


def _response(form: Form, value: object, status: int = _OK) -> Response:
    return Response(write(form, value), status_code=status, media_type=_media(form).decode())


def _shown_light(data: bytes) -> Response:
    """A light block for people; programs check the bytes."""
    return _response(Form.JSON, decode_block(data))


def _refusal(form: Form, code: RejectionCode) -> Response:
    response = _response(form, refusal_of(code), status_of(code))
    if response.status_code in RETRY_LATER:
        response.headers["retry-after"] = str(RETRY_AFTER_S)
    return response
