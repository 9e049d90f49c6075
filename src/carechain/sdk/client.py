"""A client of the ledger: submission that never happens twice, proven answers, whichever node is up (API-3, API-6).

A lost answer leaves open whether a transaction was ordered. The client never signs a second one for the same purpose:
it sends the same bytes again, to the same node or to another, which the ledger takes at most once, and learns the
outcome by the transaction's id. What was acknowledged to it is seen by its later questions, whichever node answers.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, Self, TypeVar

import httpx
import msgspec
from msgspec import Struct

from carechain.chain.genesis import Genesis
from carechain.chain.queries import QUERIES
from carechain.chain.questions import LogLine, LogPage, OfPseudonym
from carechain.chain.receipts import OK, FullReceipt, code_named
from carechain.chain.tx import build
from carechain.core.limits import NONCE_SIZE, TX_LIFETIME_S
from carechain.core.message import Message
from carechain.sdk.answers import QueryAnswer, ShownReceipt, Status, Submitted, decode_answer
from carechain.sdk.authentication import OpenSession
from carechain.sdk.failures import Refused, Unreachable, WrongNode, graver
from carechain.sdk.following import follow
from carechain.sdk.identity import Identity
from carechain.sdk.light.client import LightClient, Source, TrustFile, trust_of_genesis
from carechain.sdk.light.proofs import Settled
from carechain.sdk.nodes import REQUEST_S, Caller, Link, Links, Node, Patience
from carechain.sdk.proofs import Network, NotProven, verify_answer, verify_inclusion
from carechain.sdk.signer import HasKeys, Signer
from carechain.sdk.submission import TX_UNKNOWN, Submission, fetch_receipt, is_about_the_bytes, may_have_taken
from carechain.sdk.tls import Trust
from carechain.sdk.verify_log import CompleteLog, verify_log

__all__ = ["Client", "HasKeys", "Node", "Refused", "Signer", "SyncClient", "Trust", "Unreachable", "WrongNode"]

T = TypeVar("T")

VALID_S: Final = TX_LIFETIME_S // 2
"""How long beyond block time a transaction is made valid: the other half is room for a block time known late."""
BLOCK_TIME_AGE_S: Final = 60.0
BEHIND_S: Final = 10.0
"""How long a question waits for some node to reach the height that it must be answered at."""


class Client:
    """One party at one or several nodes. Use it as ``async with Client(nodes, signer) as client``."""

    def __init__(  # noqa: PLR0913 - all but two are named, and have a use of their own
        self,
        nodes: str | Node | Sequence[str | Node],
        signer: HasKeys | Identity | Signer,
        *,
        genesis: Genesis | None = None,
        server: bytes | None = None,
        trust: Trust | None = None,
        keeper: bytes | None = None,
        light: TrustFile | None = None,
        http: httpx.AsyncClient | None = None,
        entropy: Callable[[int], bytes] = secrets.token_bytes,
        clock: Callable[[], float] = time.time,
        give_up_s: float = REQUEST_S,
    ) -> None:
        """``nodes`` are addresses: first one's own organisation's, which share the work, then others' to fall back on.

        ``genesis`` is needed to check proofs, names the only network that anything is signed for, and says which
        authorities vouch for servers; ``trust`` says that in its place. ``server`` is the member id of the
        organisation whose the plain addresses are. Without it the first answer's is taken and kept, so give it where
        the address alone does not prove who answers: a node could pass a signed opening on to the server it named.
        ``http`` may bring its own TLS settings and stays the caller's. In a consortium, proofs are checked against the
        validators' signatures, from the genesis on or from what the file ``light`` holds; what ``keeper``, an own
        organisation's node, has sealed is taken at its word. Raises ``ValueError`` for what is no address.
        """
        self.signer: Final = Signer.of(signer)
        self.network: Final = None if genesis is None else Network.of(genesis, keeper)
        self._caller = Caller(
            self.signer,
            chain_id=None if genesis is None else genesis.chain_id,
            trust=trust or (None if genesis is None else Trust.of(genesis)),
            entropy=entropy,
            clock=clock,
        )
        listed = [nodes] if isinstance(nodes, str | Node) else nodes
        self._links = Links([Node.of(one, server) for one in listed], self._caller, http)
        self._give_up_s = give_up_s
        self._genesis = genesis
        self._trust_file = light
        self._light: LightClient | None = None
        self._acknowledged = 0
        """The height of the last transaction that was acknowledged here: no later answer may be older."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Release the connections; sessions end by themselves."""
        await self._links.close()

    # --- the chain ----------------------------------------------------------------------------------------

    async def status(self) -> Status:
        """Where the chain stands at a node; raises :class:`WrongNode`, :class:`Unreachable`."""
        return await self._anywhere(lambda link: link.status(timeout_s=self._links.answer_s))

    async def open_session(self) -> OpenSession:
        """Sign in at a node; done by itself when a request needs it."""
        return await self._anywhere(lambda link: link.open_session())

    async def block_time_s(self) -> int:
        """The nodes' block time, at most a minute old."""
        if time.monotonic() - self._caller.block_seen_s > BLOCK_TIME_AGE_S:
            await self.status()
        return self._caller.block_s

    # --- submitting ---------------------------------------------------------------------------------------

    async def sign(self, *messages: Message, nonce: bytes | None = None) -> bytes:
        """The bytes of a transaction with these messages, signed and valid for about five minutes."""
        valid_until_s = await self.block_time_s() + VALID_S
        return build(
            key=self.signer.key,
            sender=self.signer.party,
            chain_id=self._caller.chain_id or (await self.status()).chain_id,
            nonce=nonce or self._caller.entropy(NONCE_SIZE),
            valid_until_s=valid_until_s,
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
        """Order a signed transaction, whatever its receipt says; the same bytes go out until an outcome is known.

        Raises :class:`Refused` when it is certain that it was not admitted, :class:`Unreachable` with the
        transaction's id when ``give_up_s`` have passed and the outcome is open.
        """
        return self._note(await self._submission(raw).settle(Patience(self._give_up_s)))

    async def send_many(self, raws: list[bytes]) -> list[Submitted | Refused]:
        """Order many at once; one outcome for each, in order. Raises :class:`Refused`, :class:`Unreachable`.

        A node that does not answer is followed by the next; what the lost one had ordered is then found by its id.
        """
        body = msgspec.msgpack.encode(raws)
        lost, answered = False, None

        async def order(link: Link) -> list[Submitted | Refused]:
            nonlocal lost, answered
            try:
                answered, data = link, await link.ask("POST", "/v1/transactions/batch", body, signed_in=False)
                return _outcomes(data)
            except Unreachable as gone:
                lost = lost or gone.sent
                raise
            except Refused as refused:
                lost = lost or may_have_taken(refused)
                raise

        try:
            outcomes = await self._anywhere(order)
        except Refused as refused:
            if not lost:
                raise
            raise Unreachable(f"the outcome of the batch is open: {refused}") from None
        if lost and answered is not None:
            patience = Patience(self._give_up_s)
            outcomes = [
                await self._submission(raw).found(one, answered, patience)
                if isinstance(one, Refused) and not is_about_the_bytes(one)
                else one
                for raw, one in zip(raws, outcomes, strict=True)
            ]
        for one in outcomes:
            if isinstance(one, Submitted):
                self._note(one)
        return outcomes

    async def receipt(self, tx_id: bytes) -> ShownReceipt:
        """The receipt of a transaction as far as this party may see it; raises :class:`Refused`.

        A node that does not have it may only be behind, so all are asked.
        """
        return await self._anywhere(
            lambda link: fetch_receipt(link, tx_id, timeout_s=self._links.answer_s), elsewhere=TX_UNKNOWN
        )

    async def proven_receipt(self, tx_id: bytes) -> FullReceipt:
        """The receipt of an own transaction, proven by the block's producer or its validators; raises ``NotProven``."""
        network = self._require_network()
        if network.producers or network.keeper is not None:
            shown = await self.receipt(tx_id)
            if shown.inclusion is None or network.counts(shown.inclusion.sealed):
                return verify_inclusion(shown, tx_id, network)
        path = f"/v1/light/inclusion/{tx_id.hex()}"
        data = await self._anywhere(
            lambda link: link.ask("GET", path, timeout_s=self._links.answer_s), elsewhere=TX_UNKNOWN
        )
        return await self.light.prove(data, tx_id)

    async def wait(self, tx_id: bytes) -> Submitted:
        """The outcome of a transaction of this party, once it is on the ledger.

        Raises :class:`Unreachable` when it is not there after ``give_up_s``: it may still come until it expires.
        """
        return self._note(await Submission(self._links, tx_id).wait(Patience(self._give_up_s)))

    def _submission(self, raw: bytes) -> Submission:
        return Submission.of(self._links, raw, at_least=self._acknowledged)

    def _note(self, submitted: Submitted) -> Submitted:
        self._acknowledged = max(self._acknowledged, submitted.height)
        return submitted

    # --- asking -------------------------------------------------------------------------------------------

    async def query(self, name: str, args: Struct, *, prove: bool = False, at_least: int = 0) -> QueryAnswer:
        """Ask; with ``prove`` the answer is checked against the producer's seal or the validators' signatures.

        A proven answer has no computed fields: grants come as :class:`~carechain.sdk.answers.NamedRow`.
        ``args`` is the struct that the query takes. The answer is of the height ``at_least`` or later, and never
        older than what was acknowledged to this client; a node that is behind is waited for or left for another.
        Raises :class:`Refused`, :class:`Unreachable`, ``NotProven``.
        """
        if not isinstance(args, QUERIES[name].args):
            raise TypeError(f"{name} takes {QUERIES[name].args.__name__}")
        path = f"/v1/query/{name}?prove=1" if prove else f"/v1/query/{name}"
        body = msgspec.msgpack.encode(args)

        async def ask(link: Link) -> QueryAnswer:
            data = await link.ask("POST", path, body, timeout_s=self._links.answer_s)
            try:
                answer = decode_answer(name, data)
            except msgspec.MsgspecError:
                raise Unreachable("the node's answer cannot be read: client and node do not fit") from None
            link.height = max(link.height, answer.height)
            self._caller.note_block_time(answer.time_s)
            return answer

        answer = await self._anywhere(ask, at_least=max(at_least, self._acknowledged))
        if prove:
            answer, why = await self._believe(answer)
            return msgspec.structs.replace(answer, rows=verify_answer(name, args, answer, why).rows)
        return answer

    async def _believe(self, answer: QueryAnswer) -> tuple[QueryAnswer, Network | Settled]:
        """The answer, at the height that it is proven for, with the reason to believe in its state."""
        network = self._require_network()
        if network.producers or (network.keeper is not None and network.counts(answer.sealed)):
            return answer, network
        return await self.light.believe(answer, at_least=self._acknowledged)

    @property
    def light(self) -> LightClient:
        """What the validators signed, for a client of a consortium; raises ``NotProven`` elsewhere."""
        if self._light is None:
            if self._genesis is None:
                raise NotProven("proofs need the network's genesis: give it to the client")
            file, founded = self._trust_file, trust_of_genesis(self._genesis)
            self._light = LightClient(
                (file and file.read(founded.chain_id)) or founded,
                lambda: [Source(one.url, one.light_block) for one in self._links.in_turn()],
                clock=self._caller.clock,
                genesis=founded,
                keep=None if file is None else file.keep,
            )
        return self._light

    async def rows(self, name: str, args: Any, *, prove: bool = False) -> list[Any]:  # noqa: ANN401 - any query's
        """All rows of a query, page after page; none is of an earlier height than the one before."""
        return (await self._all_rows(name, args, prove=prove))[0]

    async def _all_rows(
        self,
        name: str,
        args: Any,  # noqa: ANN401 - any query's
        *,
        prove: bool,
        at_least: int = 0,
    ) -> tuple[list[Any], int]:
        rows: list[Any] = []
        height = at_least
        while True:
            answer = await self.query(name, args, prove=prove, at_least=height)
            rows.extend(answer.rows)
            height = answer.height
            if answer.after is None:
                return rows, height
            after = answer.after if len(answer.after) > 1 else answer.after[0]
            args = msgspec.structs.replace(args, after=after)

    async def access_log(self, pseudonym: bytes) -> CompleteLog:
        """The whole access log of a pseudonym, proven complete; raises ``NotProven``, :class:`Refused`."""
        lines: list[LogLine] = []
        height, more_announced = 0, False
        while True:
            page = LogPage(pseudonym=pseudonym, after=lines[-1].number if lines else None)
            more, height = await self._all_rows("access.log", page, prove=False, at_least=height)
            lines += more
            head = await self.query("access.log_head", OfPseudonym(pseudonym), prove=True, at_least=height)
            # A line that came in between is fetched too. A log shorter than it was is no log, nor is one of which the
            # node goes on to announce lines that it does not show.
            if not head.rows or head.rows[0].count <= len(lines) or (more_announced and not more):
                return verify_log(pseudonym, lines, *await self._believe(head))
            height, more_announced = max(height, head.height), True

    def events(self, from_height: int | None = None) -> AsyncIterator[dict[str, Any]]:
        """What a node streams: objects with ``kind`` (events, beat or end) and the fields of the reference.

        A stream that breaks goes on at another node, without a gap. Raises :class:`Refused`, :class:`Unreachable`.
        """
        return follow(self._links, from_height)

    async def _anywhere(
        self, ask: Callable[[Link], Awaitable[T]], *, at_least: int = 0, elsewhere: str | None = None
    ) -> T:
        """What the first node answers that can be used and has reached ``at_least``.

        A refusal is a node's judgement and ends the search, unless the node is behind and may judge differently soon,
        or the refusal is called ``elsewhere``. Raises the gravest of the failures when no node can be used.
        """
        patience = Patience(min(BEHIND_S, self._give_up_s))
        while True:
            behind = False
            failure: Exception | None = None
            for link in self._links.in_turn():
                try:
                    return await self._at(link, ask, at_least, elsewhere)
                except _NotHere as other:
                    behind = behind or other.why is None
                    failure = failure if other.why is None else graver(failure, other.why)
            if not behind and failure is not None:
                raise failure
            if not await patience.pause():
                raise Unreachable(f"no node has reached height {at_least} yet")

    async def _at(self, link: Link, ask: Callable[[Link], Awaitable[T]], at_least: int, elsewhere: str | None) -> T:
        """What this node answers; raises :class:`_NotHere` where another one should be asked."""
        try:
            await self._links.make_sure(link)
            answer = await ask(link)
        except (Unreachable, WrongNode) as lost:
            link.set_aside()
            raise _NotHere(lost) from None
        except Refused as refused:
            if refused.is_passing:
                link.set_aside(refused.retry_after_s)
            if refused.is_passing or refused.label == elsewhere:
                raise _NotHere(refused) from None
            if await link.is_behind(at_least):
                raise _NotHere(None) from None
            raise
        link.is_well()
        if link.height < at_least:
            raise _NotHere(None)
        return answer

    def _require_network(self) -> Network:
        if self.network is None:
            raise NotProven("proofs need the network's genesis: give it to the client")
        return self.network


class _NotHere(Exception):  # noqa: N818 - says where to look
    """Another node is to be asked: this one failed, or is behind (``why`` None)."""

    def __init__(self, why: Exception | None) -> None:
        super().__init__()
        self.why = why


def _outcomes(data: bytes) -> list[Submitted | Refused]:
    """The outcomes of a batch; raises :class:`Unreachable` for what is no node's answer."""
    outcomes: list[Submitted | Refused] = []
    try:
        for one in msgspec.msgpack.decode(data, type=list[msgspec.Raw]):
            fields = msgspec.msgpack.decode(one)
            if "tx_id" in fields:
                outcomes.append(msgspec.msgpack.decode(one, type=Submitted))
            else:
                outcomes.append(Refused(**fields))
    except (msgspec.MsgspecError, TypeError):
        raise Unreachable("the node's answer cannot be read: client and node do not fit") from None
    return outcomes


class SyncClient:
    """The same client for programs without an event loop. Use it as ``with SyncClient(nodes, signer) as client``."""

    def __init__(
        self,
        nodes: str | Node | Sequence[str | Node],
        signer: HasKeys | Identity | Signer,
        *,
        genesis: Genesis | None = None,
        server: bytes | None = None,
        trust: Trust | None = None,
        keeper: bytes | None = None,
        light: TrustFile | None = None,
        give_up_s: float = REQUEST_S,
    ) -> None:
        """As :class:`Client`."""
        self._client = Client(
            nodes, signer, genesis=genesis, server=server, trust=trust, keeper=keeper, light=light, give_up_s=give_up_s
        )
        self._runner = asyncio.Runner()

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
