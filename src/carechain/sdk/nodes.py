"""The nodes a client may use: one connection and one session each, and whose turn it is (LED-14, API-6).

The first node's organisation is the client's own: requests go round over its nodes, and to other organisations' only
when none of them can be used. A node that does not answer is set aside for a pause that grows with every failure; when
the pause is over it is asked how it is before it is given work again. Nobody is given up for good: where all are set
aside they are tried all the same.
"""

import asyncio
import contextlib
import ssl
import time
from asyncio import timeout as deadline
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import httpx
import msgspec
from msgspec import Struct

from carechain.core.limits import HTTP_ANSWER_BYTES, NONCE_SIZE
from carechain.sdk.answers import MSGPACK, Status
from carechain.sdk.authentication import AuthCode, OpenSession, Service, sign_opening
from carechain.sdk.failures import Refused, Unreachable, WrongNode, refusal_in
from carechain.sdk.signer import Signer
from carechain.sdk.tls import Trust, no_trust, system_trust, tls_failure

REQUEST_S: Final = 30.0
"""How long the only node may take to answer."""
ANSWER_S: Final = 10.0
"""How long one of several may take: then another one is asked."""
CONNECT_S: Final = 5.0
PROBE_S: Final = 2.0
"""How long a node that failed may take to say that it is back."""
SESSION_MARGIN_S: Final = 30
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 2.0
FIRST_ASIDE_S: Final = 0.5
LONGEST_ASIDE_S: Final = 30.0
_DOUBLINGS: Final = 6
_REFUSED: Final = 400
_NEVER_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)


class Node(Struct, frozen=True):
    """Where a node answers, and whose it is: the member id of its organisation, where that is known beforehand."""

    url: str
    server: bytes | None = None

    @staticmethod
    def of(node: "str | Node", server: bytes | None = None) -> "Node":
        """From an address; ``server`` is for addresses that do not name one. Raises ``ValueError``."""
        named = node if isinstance(node, Node) else Node(node, server)
        try:
            url = httpx.URL(named.url)
        except httpx.InvalidURL:
            raise ValueError("this is not an address") from None
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError("an address begins with http:// or https:// and names a host")
        return Node(named.url.rstrip("/"), named.server)


class Caller:
    """What all of a client's connections share: who calls, on which network, and the ledger's time."""

    __slots__ = ("block_s", "block_seen_s", "chain_id", "clock", "entropy", "signer", "trust")

    def __init__(
        self,
        signer: Signer,
        *,
        chain_id: str | None,
        trust: Trust | None,
        entropy: Callable[[int], bytes],
        clock: Callable[[], float],
    ) -> None:
        """``chain_id`` None: the first answer's is taken and kept. ``clock`` gives Unix seconds."""
        self.signer = signer
        self.chain_id = chain_id
        self.trust = trust
        self.entropy = entropy
        self.clock = clock
        self.block_s = 0
        self.block_seen_s = float("-inf")

    def note_block_time(self, time_s: int) -> None:
        """A node told its block time, Unix seconds."""
        self.block_s = max(self.block_s, time_s)
        self.block_seen_s = time.monotonic()


class Link:
    """One node: its connection, its session, the greatest height it has shown, and how it has been doing."""

    def __init__(self, node: Node, caller: Caller, http: httpx.AsyncClient | None) -> None:
        """``http`` stays the caller's; without one a connection is made that believes what ``caller`` trusts."""
        self.url: Final = node.url
        self.height = 0
        self.failures = 0
        self._aside_until_s = float("-inf")
        self._server = node.server
        self._caller = caller
        self._given_http = http
        self._http = http
        self._before: httpx.AsyncClient | None = None
        """The connection from before it was known whose node it is; what is under way there may end."""
        self._session: OpenSession | None = None

    # --- how it is doing ----------------------------------------------------------------------------------

    @property
    def aside_until_s(self) -> float:
        """Until when it is given no work while others can be (monotonic seconds); in the past for a healthy one."""
        return self._aside_until_s

    def set_aside(self, at_least_s: float | None = None) -> None:
        """It failed: the next attempt comes after a pause that doubles each time."""
        pause_s = min(FIRST_ASIDE_S * 2 ** min(self.failures, _DOUBLINGS), LONGEST_ASIDE_S)
        self.failures += 1
        self._aside_until_s = time.monotonic() + max(pause_s, at_least_s or 0.0)

    def is_well(self) -> None:
        """It answered."""
        self.failures = 0
        self._aside_until_s = float("-inf")

    async def close(self) -> None:
        """Release the connection, where it is the link's own."""
        if self._given_http is not None:
            return
        for one in (self._before, self._http):
            if one is not None:
                await one.aclose()

    # --- who it is ----------------------------------------------------------------------------------------

    async def status(self, *, timeout_s: float = REQUEST_S) -> Status:
        """Where the chain stands at this node; raises :class:`WrongNode`, :class:`Unreachable`, :class:`Refused`."""
        response, data = await self._exchange("GET", "/v1/status", b"", {"accept": MSGPACK}, timeout_s)
        try:
            status = msgspec.msgpack.decode(data, type=Status)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise WrongNode(f"what answers at {self.url} is not a node; check the address") from None
        caller = self._caller
        if caller.chain_id not in (None, status.chain_id):
            raise WrongNode("the node is one of another network; check its address")
        if self._server not in (None, status.server):
            raise WrongNode("the node is another organisation's than it must be; check its address")
        if caller.trust is not None and caller.trust.vouches_for_another(response, status.server):
            raise WrongNode("the node says it is one organisation's, and its certificate says another's")
        if self._server is None:
            self._believe_only(status.server)
        caller.chain_id = status.chain_id
        caller.note_block_time(status.time_s)
        self.height = max(self.height, status.height)
        return status

    def _believe_only(self, server: bytes) -> None:
        """From now on only this organisation's certificate will do.

        Any member's was believed to ask whose node it is. If that were to last, another member could take its place
        at the next connection, and pass on what is signed for this one.
        """
        self._server = server
        if self._given_http is None and self._caller.trust is not None and self.url.startswith("https://"):
            self._before, self._http = self._http, None

    async def is_behind(self, height: int) -> bool:
        """Whether what it judged may be judged by a state before ``height``; learns how far it is meanwhile."""
        if self.height >= height:
            return False
        with contextlib.suppress(Unreachable, Refused, WrongNode):
            await self.status(timeout_s=ANSWER_S)
        return True

    async def open_session(self) -> OpenSession:
        """Sign in; done by itself when a request needs it."""
        caller = self._caller
        chain_id, server = caller.chain_id, self._server
        if chain_id is None or server is None:
            status = await self.status()
            chain_id, server = status.chain_id, status.server
        opening = sign_opening(
            caller.signer.key,
            chain_id=chain_id,
            service=Service.NODE,
            server=server,
            party=caller.signer.party,
            time_s=int(caller.clock()),
            nonce=caller.entropy(NONCE_SIZE),
        )
        answer = await self.ask("POST", "/v1/session", msgspec.msgpack.encode(opening), signed_in=False)
        return msgspec.msgpack.decode(answer, type=OpenSession)

    async def authorisation(self) -> dict[str, str]:
        """The header that carries the session's token; a session is opened where none is left."""
        session = self._session
        if session is None or session.expires_s - SESSION_MARGIN_S <= self._caller.clock():
            session = self._session = await self.open_session()
        return {"authorization": f"Bearer {session.token}"}

    def forget_session(self) -> None:
        """The node knows the session no more."""
        self._session = None

    # --- asking -------------------------------------------------------------------------------------------

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        media: str = MSGPACK,
        signed_in: bool = True,
        timeout_s: float = REQUEST_S,
    ) -> bytes:
        """One request, answered with a body; signs in again once if the node has forgotten the session."""
        headers = {"content-type": media, "accept": MSGPACK}
        if not signed_in:
            return (await self._exchange(method, path, body, headers, timeout_s))[1]
        try:
            return (await self._exchange(method, path, body, headers | await self.authorisation(), timeout_s))[1]
        except Refused as refused:
            if refused.code != AuthCode.SESSION_UNKNOWN:
                raise
        self.forget_session()
        return (await self._exchange(method, path, body, headers | await self.authorisation(), timeout_s))[1]

    async def light_block(self, height: int) -> bytes:
        """A block with its validators' signatures, 0 for the newest; a node that does not answer is set aside."""
        try:
            return await self.ask("GET", f"/v1/light/{height}", signed_in=False, timeout_s=ANSWER_S)
        except Unreachable:
            self.set_aside()
            raise

    async def _exchange(
        self, method: str, path: str, body: bytes, headers: dict[str, str], timeout_s: float
    ) -> tuple[httpx.Response, bytes]:
        """The answer and its body. It begins within ``timeout_s``; one that goes on for longer again is none."""
        timeout = httpx.Timeout(timeout_s, connect=min(CONNECT_S, timeout_s))
        data = bytearray()
        try:
            async with (
                deadline(2 * timeout_s),
                self.http.stream(method, self.url + path, content=body, headers=headers, timeout=timeout) as response,
            ):
                async for piece in response.aiter_bytes():
                    data += piece
                    if len(data) > HTTP_ANSWER_BYTES:
                        raise Unreachable(f"the answer of the node at {self.url} is too large")
        except httpx.HTTPError as error:
            raise self.lost(error) from None
        except TimeoutError:
            raise Unreachable(f"the answer of the node at {self.url} does not end") from None
        if response.status_code >= _REFUSED:
            raise refusal_in(response, bytes(data))
        return response, bytes(data)

    def lost(self, error: httpx.HTTPError) -> Unreachable:
        """Why there was no answer, as one sentence."""
        sent = not isinstance(error, _NEVER_SENT)
        trust = self._caller.trust
        shown = self.height > 0 or (trust is not None and trust.has_certificate)
        reason = tls_failure(error, self.url, shown=shown)
        return Unreachable(reason or f"{type(error).__name__}: no answer from the node at {self.url}", sent=sent)

    @property
    def http(self) -> httpx.AsyncClient:
        """The connection, made when it is first needed. Raises ``OSError`` for certificate files that are none."""
        if self._http is None:
            self._http = httpx.AsyncClient(verify=self._verify(), trust_env=False)
        return self._http

    def _verify(self) -> ssl.SSLContext:
        if self.url.startswith("http://"):
            return no_trust()
        return system_trust() if self._caller.trust is None else self._caller.trust.context(self._server)


class Links:
    """A client's nodes and whose turn it is."""

    def __init__(self, nodes: Sequence[Node], caller: Caller, http: httpx.AsyncClient | None) -> None:
        """The first of ``nodes`` says which organisation's are the client's own. Raises ``ValueError`` for none."""
        if not nodes:
            raise ValueError("a client needs the address of at least one node")
        self._own = [Link(one, caller, http) for one in nodes if one.server == nodes[0].server]
        self._others = [Link(one, caller, http) for one in nodes if one.server != nodes[0].server]
        # Programs that live for one question must not all put it to the same node.
        self._turn = caller.entropy(1)[0] if len(self._own) > 1 else 0

    def __len__(self) -> int:
        return len(self._own) + len(self._others)

    @property
    def answer_s(self) -> float:
        """How long a node may take to answer."""
        return REQUEST_S if len(self) == 1 else ANSWER_S

    @property
    def addresses(self) -> str:
        """What to name when nobody answers."""
        return ", ".join(link.url for link in (*self._own, *self._others))

    def in_turn(self) -> Iterator[Link]:
        """Every node once: own ones in turn, then others', then those set aside, the soonest due first."""
        first, self._turn = self._turn % len(self._own), self._turn + 1
        candidates = [*self._own[first:], *self._own[:first], *self._others]
        now_s = time.monotonic()
        healthy = [link for link in candidates if link.aside_until_s <= now_s]
        aside = sorted((link for link in candidates if link not in healthy), key=lambda link: link.aside_until_s)
        yield from healthy
        yield from aside

    async def make_sure(self, link: Link) -> None:
        """Ask a node that failed before whether it is back, so that no request waits long for one that is not."""
        if link.failures and len(self) > 1:
            await link.status(timeout_s=PROBE_S)

    async def close(self) -> None:
        """Release all connections."""
        for link in (*self._own, *self._others):
            await link.close()


class Patience:
    """How often and how long to try again: pauses that double, until a time is up."""

    def __init__(self, give_up_s: float) -> None:
        """Counts from now."""
        self._until_s = time.monotonic() + give_up_s
        self._next_s = FIRST_PAUSE_S

    async def pause(self, at_least_s: float = 0.0) -> bool:
        """Wait before the next attempt; False when the time is up."""
        pause_s = max(self._next_s, at_least_s)
        if time.monotonic() + pause_s > self._until_s:
            return False
        self._next_s = min(2 * self._next_s, LONGEST_PAUSE_S)
        await asyncio.sleep(pause_s)
        return True
