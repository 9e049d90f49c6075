"""A client of one node: sessions, submission that never happens twice, queries with proofs, events (API-3).

A lost answer leaves open whether a transaction was ordered. The client never signs a second one for the same purpose:
it sends the same bytes again, which the ledger takes at most once, and learns the outcome by the transaction's id.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any, Final, Protocol, Self, TypeVar

import httpx
import msgspec
from msgspec import Struct

from carechain.chain.genesis import Genesis
from carechain.chain.queries import QUERIES
from carechain.chain.questions import LogLine, LogPage, OfPseudonym
from carechain.chain.receipts import OK, FullReceipt, Receipt, code_named
from carechain.chain.tx import AdmissionCode, build, parse
from carechain.core.crypto import SigningKey
from carechain.core.limits import NONCE_SIZE, TX_LIFETIME_S
from carechain.core.message import Message
from carechain.sdk.answers import (
    MSGPACK,
    QueryAnswer,
    Refusal,
    ShownReceipt,
    Status,
    Submitted,
    decode_answer,
)
from carechain.sdk.authentication import AuthCode, OpenSession, Service, sign_opening
from carechain.sdk.identity import Identity
from carechain.sdk.proofs import Network, NotProven, verify_answer, verify_inclusion
from carechain.sdk.verify_log import CompleteLog, verify_log

T = TypeVar("T")

VALID_S: Final = TX_LIFETIME_S // 2
"""How long beyond block time a transaction is made valid: the other half is room for a block time known late."""
BLOCK_TIME_AGE_S: Final = 60.0
SESSION_MARGIN_S: Final = 30
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 2.0
REQUEST_S: Final = 30.0
_UNAUTHENTICATED: Final = 401
_TOO_MANY: Final = 429
_UNAVAILABLE: Final = 503
_REFUSED: Final = 400
RAW: Final = "application/octet-stream"


class Refused(Exception):  # noqa: N818 - the node's answer, not a fault of the client
    """A node or the ledger said no: the code's number, its stable label, and what to do."""

    def __init__(self, *, code: int, label: str, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(f"{label} ({code}): {reason}")
        self.code = code
        self.label = label
        self.reason = reason
        self.retry_after_s = retry_after_s


class Unreachable(Exception):  # noqa: N818 - names the state of the network
    """The node did not answer. ``tx_id`` names a transaction whose outcome is open: ask for it by ``wait``."""

    def __init__(self, reason: str, *, tx_id: bytes | None = None) -> None:
        super().__init__(reason)
        self.tx_id = tx_id


class WrongNode(NotProven):
    """Another node or network answers than the one this client is for. Nothing was signed; check the address."""


class HasKeys(Protocol):
    """A wallet's pseudonym, or anything else with an id and a signing key."""

    @property
    def id(self) -> bytes:
        """The party's id."""

    @property
    def signing(self) -> SigningKey:
        """Its ledger key."""


class Signer(Struct, frozen=True):
    """Who a client acts as."""

    party: bytes
    key: SigningKey

    @staticmethod
    def of(keys: "HasKeys | Identity | Signer") -> "Signer":
        """From a pseudonym of a wallet, or an identity of a member, staff or representative."""
        if isinstance(keys, Signer):
            return keys
        return Signer(keys.party, keys.signing_key()) if isinstance(keys, Identity) else Signer(keys.id, keys.signing)


class Client:
    """One party at one node. Use it as ``async with Client(url, signer) as client``."""

    def __init__(
        self,
        url: str,
        signer: "HasKeys | Identity | Signer",
        *,
        genesis: Genesis | None = None,
        server: bytes | None = None,
        http: httpx.AsyncClient | None = None,
        entropy: Callable[[int], bytes] = secrets.token_bytes,
        clock: Callable[[], float] = time.time,
        give_up_s: float = REQUEST_S,
    ) -> None:
        """``genesis`` is needed to check proofs and names the only network that anything is signed for.

        ``server`` is the party id of the node's organisation. Without it the first answer's is taken and kept, so
        give it where the address alone does not prove who answers: a node could pass a signed opening on to the
        server it named. ``http`` may bring its own TLS settings and stays the caller's.
        """
        self.signer: Final = Signer.of(signer)
        self.network: Final = None if genesis is None else Network.of(genesis)
        self._url = url.rstrip("/")
        self._owns_http = http is None
        self._http = http or httpx.AsyncClient(timeout=httpx.Timeout(REQUEST_S), trust_env=False)
        self._entropy = entropy
        self._clock = clock
        self._give_up_s = give_up_s
        self._session: OpenSession | None = None
        self._chain_id = None if self.network is None else self.network.chain_id
        self._server = server
        self._block_s = 0
        self._block_seen_s = float("-inf")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Release the connections; the session ends by itself."""
        if self._owns_http:
            await self._http.aclose()

    # --- the chain ----------------------------------------------------------------------------------------

    async def status(self) -> Status:
        """Where the chain stands at this node; raises :class:`WrongNode`."""
        status = msgspec.msgpack.decode(await self._send("GET", "/v1/status", signed_in=False), type=Status)
        if self._chain_id not in (None, status.chain_id):
            raise WrongNode("the node is one of another network; check its address")
        if self._server not in (None, status.server):
            raise WrongNode("the node is another organisation's than it must be; check its address")
        self._chain_id, self._server = status.chain_id, status.server
        self._note_block_time(status.time_s)
        return status

    async def _signed_for(self) -> tuple[str, bytes]:
        """The network and the server that things are signed for: as the caller gave them, or the first answer did."""
        if self._chain_id is not None and self._server is not None:
            return self._chain_id, self._server
        status = await self.status()
        return status.chain_id, status.server

    async def block_time_s(self) -> int:
        """The node's block time, at most a minute old."""
        if time.monotonic() - self._block_seen_s > BLOCK_TIME_AGE_S:
            await self.status()
        return self._block_s

    def _note_block_time(self, time_s: int) -> None:
        self._block_s = max(self._block_s, time_s)
        self._block_seen_s = time.monotonic()

    # --- submitting ---------------------------------------------------------------------------------------

    async def sign(self, *messages: Message, nonce: bytes | None = None) -> bytes:
        """The bytes of a transaction with these messages, signed and valid for about five minutes."""
        chain_id, _ = await self._signed_for()
        return build(
            key=self.signer.key,
            sender=self.signer.party,
            chain_id=chain_id,
            nonce=nonce or self._entropy(NONCE_SIZE),
            valid_until_s=await self.block_time_s() + VALID_S,
            messages=messages,
        )

    async def submit(self, *messages: Message, nonce: bytes | None = None) -> Submitted:
        """Sign and order a transaction; returns when it is durable.

        Raises :class:`Refused` when it was not admitted or its receipt says that a check failed, and
        :class:`Unreachable` with the transaction's id when the outcome stays unknown.
        """
        submitted = await self.send(await self.sign(*messages, nonce=nonce))
        code = submitted.receipt.code
        if code != OK:
            named = code_named(code)
            raise Refused(code=code, label=named.label if named else str(code), reason=named.reason if named else "")
        return submitted

    async def send(self, raw: bytes) -> Submitted:
        """Order a signed transaction, whatever its receipt says; sent again until an outcome is known.

        Raises :class:`Refused` when it is not admitted, :class:`Unreachable` after ``give_up_s``.
        """
        tx_id = parse(raw).id
        patience = _Patience(self._give_up_s)
        while True:
            try:
                answer = await self._send("POST", "/v1/transactions", raw, media=RAW, signed_in=False)
                return msgspec.msgpack.decode(answer, type=Submitted)
            except Refused as refused:
                settled = refused.code == AdmissionCode.REPLAYED
                if settled or (refused.code == AdmissionCode.EXPIRED and patience.retried):
                    known = await self._outcome(tx_id)
                    if known is not None:
                        return known
                if refused.retry_after_s is None or not await patience.pause(refused.retry_after_s):
                    raise
            except Unreachable as lost:
                if not await patience.pause():
                    raise Unreachable(str(lost), tx_id=tx_id) from lost

    async def send_many(self, raws: list[bytes]) -> list[Submitted | Refused]:
        """Order many at once; one outcome for each, in order. Raises :class:`Refused`, :class:`Unreachable`."""
        body = msgspec.msgpack.encode(raws)
        answer = await self._send("POST", "/v1/transactions/batch", body, signed_in=False)
        outcomes: list[Submitted | Refused] = []
        for one in msgspec.msgpack.decode(answer, type=list[msgspec.Raw]):
            fields = msgspec.msgpack.decode(one)
            if "tx_id" in fields:
                outcomes.append(msgspec.msgpack.decode(one, type=Submitted))
            else:
                outcomes.append(Refused(**fields))
        return outcomes

    async def receipt(self, tx_id: bytes) -> ShownReceipt:
        """The receipt of a transaction as far as this party may see it; raises :class:`Refused`."""
        answer = await self._send("GET", f"/v1/transactions/{tx_id.hex()}")
        return msgspec.msgpack.decode(answer, type=ShownReceipt)

    async def proven_receipt(self, tx_id: bytes) -> FullReceipt:
        """The receipt of an own transaction, proven against the genesis' block producers; raises ``NotProven``."""
        return verify_inclusion(await self.receipt(tx_id), tx_id, self._require_network())

    async def wait(self, tx_id: bytes) -> Submitted:
        """The outcome of a transaction of this party, once it is on the ledger.

        Raises :class:`Unreachable` when it is not there after ``give_up_s``: it may still come until it expires.
        """
        patience = _Patience(self._give_up_s)
        while True:
            try:
                known = await self._outcome(tx_id)
            except Unreachable:
                known = None
            if known is not None:
                return known
            if not await patience.pause():
                raise Unreachable("the transaction is not on the ledger yet", tx_id=tx_id)

    async def _outcome(self, tx_id: bytes) -> Submitted | None:
        try:
            full = (await self.receipt(tx_id)).receipt
        except Refused as refused:
            if refused.label == "NODE.TX_UNKNOWN":
                return None
            raise
        receipt = Receipt(full.code, full.failed_message, full.events, full.reads, full.writes)
        return Submitted(tx_id=tx_id, height=full.height, index=full.index, receipt=receipt)

    # --- asking -------------------------------------------------------------------------------------------

    async def query(self, name: str, args: Struct, *, prove: bool = False) -> QueryAnswer:
        """Ask; with ``prove`` the answer is checked against the genesis' block producers before it is returned.

        A proven answer has no computed fields: grants come as :class:`~carechain.sdk.answers.NamedRow`.
        ``args`` is the struct that the query takes. Raises :class:`Refused`, :class:`Unreachable`, ``NotProven``.
        """
        if not isinstance(args, QUERIES[name].args):
            raise TypeError(f"{name} takes {QUERIES[name].args.__name__}")
        path = f"/v1/query/{name}?prove=1" if prove else f"/v1/query/{name}"
        data = await self._send("POST", path, msgspec.msgpack.encode(args))
        try:
            answer = decode_answer(name, data)
        except msgspec.MsgspecError:
            raise Unreachable("the node's answer cannot be read: client and node do not fit") from None
        self._note_block_time(answer.time_s)
        if prove:
            proven = verify_answer(name, args, answer, self._require_network())
            return msgspec.structs.replace(answer, rows=proven.rows)
        return answer

    async def rows(self, name: str, args: Any, *, prove: bool = False) -> list[Any]:  # noqa: ANN401 - any query's
        """All rows of a query, page after page."""
        rows: list[Any] = []
        while True:
            answer = await self.query(name, args, prove=prove)
            rows.extend(answer.rows)
            if answer.after is None:
                return rows
            after = answer.after if len(answer.after) > 1 else answer.after[0]
            args = msgspec.structs.replace(args, after=after)

    async def access_log(self, pseudonym: bytes) -> CompleteLog:
        """The whole access log of a pseudonym, proven complete; raises ``NotProven``, :class:`Refused`."""
        network = self._require_network()
        lines: list[LogLine] = []
        while True:
            last = lines[-1].number if lines else None
            lines += await self.rows("access.log", LogPage(pseudonym=pseudonym, after=last))
            head = await self.query("access.log_head", OfPseudonym(pseudonym), prove=True)
            # A line that came in between is fetched too; a log shorter than it was is no log.
            if not head.rows or head.rows[0].count <= len(lines):
                return verify_log(pseudonym, lines, head, network)

    async def events(self, from_height: int | None = None) -> AsyncIterator[dict[str, Any]]:
        """What the node streams: objects with ``kind`` (events, beat or end) and the fields of the reference.

        Raises :class:`Refused`, :class:`Unreachable`.
        """
        path = "/v1/events" if from_height is None else f"/v1/events?from={from_height}"
        try:
            async with AsyncExitStack() as open_until_read:
                response = await self._stream(path, open_until_read)
                kind = ""
                async for line in response.aiter_lines():
                    if line.startswith("event: "):
                        kind = line.removeprefix("event: ")
                    elif line.startswith("data: "):
                        yield {"kind": kind, **msgspec.json.decode(line.removeprefix("data: "))}
        except httpx.HTTPError as error:
            raise Unreachable(f"{type(error).__name__}: the event stream broke") from None

    async def _stream(self, path: str, until: AsyncExitStack) -> httpx.Response:
        """An answer that is read as it comes; signs in again once if the node has forgotten the session."""
        for forgotten_before in (False, True):
            headers = {"authorization": f"Bearer {await self._token()}"}
            request = self._http.stream("GET", self._url + path, headers=headers, timeout=httpx.Timeout(REQUEST_S))
            response = await until.enter_async_context(request)
            if response.status_code < _REFUSED:
                break
            refused = _refused(response, await response.aread())
            if forgotten_before or refused.code != AuthCode.SESSION_UNKNOWN:
                raise refused
            self._session = None
        return response

    # --- sessions and transport ---------------------------------------------------------------------------

    async def _token(self) -> str:
        session = self._session
        if session is None or session.expires_s - SESSION_MARGIN_S <= self._clock():
            session = self._session = await self.open_session()
        return session.token

    async def open_session(self) -> OpenSession:
        """Sign in at the node; done by itself when a request needs it."""
        chain_id, server = await self._signed_for()
        opening = sign_opening(
            self.signer.key,
            chain_id=chain_id,
            service=Service.NODE,
            server=server,
            party=self.signer.party,
            time_s=int(self._clock()),
            nonce=self._entropy(NONCE_SIZE),
        )
        answer = await self._send("POST", "/v1/session", msgspec.msgpack.encode(opening), signed_in=False)
        return msgspec.msgpack.decode(answer, type=OpenSession)

    async def _send(
        self, method: str, path: str, body: bytes = b"", *, media: str = MSGPACK, signed_in: bool = True
    ) -> bytes:
        """One request, answered with a body; signs in again once if the node has forgotten the session."""
        try:
            return await self._once(method, path, body, media, signed_in=signed_in)
        except Refused as refused:
            if not signed_in or refused.code != AuthCode.SESSION_UNKNOWN:
                raise
        self._session = None
        return await self._once(method, path, body, media, signed_in=True)

    async def _once(self, method: str, path: str, body: bytes, media: str, *, signed_in: bool) -> bytes:
        headers = {"content-type": media, "accept": MSGPACK}
        if signed_in:
            headers["authorization"] = f"Bearer {await self._token()}"
        try:
            response = await self._http.request(method, self._url + path, content=body, headers=headers)
        except httpx.HTTPError as error:
            raise Unreachable(f"{type(error).__name__}: no answer from the node") from None
        if response.status_code >= _REFUSED:
            raise _refused(response, response.content)
        return response.content

    def _require_network(self) -> Network:
        if self.network is None:
            raise NotProven("proofs need the network's genesis: give it to the client")
        return self.network


class _Patience:
    """How often and how long to try again: pauses that double, until a time is up."""

    def __init__(self, give_up_s: float) -> None:
        self._until_s = time.monotonic() + give_up_s
        self._next_s = FIRST_PAUSE_S
        self.retried = False

    async def pause(self, at_least_s: float = 0.0) -> bool:
        """Wait before the next attempt; False when the time is up."""
        self.retried = True
        pause_s = max(self._next_s, at_least_s)
        if time.monotonic() + pause_s > self._until_s:
            return False
        self._next_s = min(2 * self._next_s, LONGEST_PAUSE_S)
        await asyncio.sleep(pause_s)
        return True


def _refused(response: httpx.Response, body: bytes) -> Refused:
    """The refusal in an answer's body; an answer without one comes from something that is not a node."""
    retry = response.headers.get("retry-after", "")
    retry_after_s = float(retry) if retry.isdigit() and response.status_code in (_TOO_MANY, _UNAVAILABLE) else None
    as_json = response.headers.get("content-type", "").startswith("application/json")
    try:
        refusal = msgspec.json.decode(body, type=Refusal) if as_json else msgspec.msgpack.decode(body, type=Refusal)
    except msgspec.MsgspecError:
        return Refused(
            code=response.status_code,
            label=f"HTTP.{response.status_code}",
            reason="The answer is not a node's. Check the address.",
            retry_after_s=retry_after_s,
        )
    return Refused(code=refusal.code, label=refusal.label, reason=refusal.reason, retry_after_s=retry_after_s)


class SyncClient:
    """The same client for programs without an event loop. Use it as ``with SyncClient(url, signer) as client``."""

    def __init__(
        self,
        url: str,
        signer: "HasKeys | Identity | Signer",
        *,
        genesis: Genesis | None = None,
        server: bytes | None = None,
        give_up_s: float = REQUEST_S,
    ) -> None:
        """As :class:`Client`."""
        self._runner = asyncio.Runner()
        self._client = Client(url, signer, genesis=genesis, server=server, give_up_s=give_up_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the connections and the loop."""
        self._run(self._client.close())
        self._runner.close()

    @property
    def signer(self) -> Signer:
        """Who this client acts as."""
        return self._client.signer

    def status(self) -> Status:
        """See :meth:`Client.status`."""
        return self._run(self._client.status())

    def sign(self, *messages: Message, nonce: bytes | None = None) -> bytes:
        """See :meth:`Client.sign`."""
        return self._run(self._client.sign(*messages, nonce=nonce))

    def submit(self, *messages: Message, nonce: bytes | None = None) -> Submitted:
        """See :meth:`Client.submit`."""
        return self._run(self._client.submit(*messages, nonce=nonce))

    def send(self, raw: bytes) -> Submitted:
        """See :meth:`Client.send`."""
        return self._run(self._client.send(raw))

    def send_many(self, raws: list[bytes]) -> list[Submitted | Refused]:
        """See :meth:`Client.send_many`."""
        return self._run(self._client.send_many(raws))

    def receipt(self, tx_id: bytes) -> ShownReceipt:
        """See :meth:`Client.receipt`."""
        return self._run(self._client.receipt(tx_id))

    def proven_receipt(self, tx_id: bytes) -> FullReceipt:
        """See :meth:`Client.proven_receipt`."""
        return self._run(self._client.proven_receipt(tx_id))

    def wait(self, tx_id: bytes) -> Submitted:
        """See :meth:`Client.wait`."""
        return self._run(self._client.wait(tx_id))

    def query(self, name: str, args: Struct, *, prove: bool = False) -> QueryAnswer:
        """See :meth:`Client.query`."""
        return self._run(self._client.query(name, args, prove=prove))

    def rows(self, name: str, args: Struct, *, prove: bool = False) -> list[Any]:
        """See :meth:`Client.rows`."""
        return self._run(self._client.rows(name, args, prove=prove))

    def access_log(self, pseudonym: bytes) -> CompleteLog:
        """See :meth:`Client.access_log`."""
        return self._run(self._client.access_log(pseudonym))

    def _run(self, call: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(call)
