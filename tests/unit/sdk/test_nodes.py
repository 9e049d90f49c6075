"""Goal: a client goes on with the next node, reads its own writes, and never calls refused what may be on the ledger.

Method: made-up nodes at names of their own, each with a height and a script of answers, so that a node can be behind,
lose an answer, or judge by an older state. Pauses are as long as in earnest, but time is the test's.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx
import msgspec
import pytest

from carechain.chain.questions import NoArgs
from carechain.chain.receipts import FullReceipt, Receipt
from carechain.chain.tx import AdmissionCode, parse
from carechain.core.rejection import RejectionCode
from carechain.node.refusals import NodeCode
from carechain.sdk import nodes
from carechain.sdk.answers import QueryAnswer, ShownReceipt, Status, Submitted
from carechain.sdk.authentication import AuthCode, OpenSession
from carechain.sdk.client import Client, Node, Refused, Unreachable, WrongNode
from carechain.sdk.nodes import Caller, Links
from carechain.sdk.signer import Signer
from world import CHAIN_ID, START_S, Actor, anchor_of, seeded, wallet_of

OWN, OTHER = seeded("organisation a"), seeded("organisation b")
CARL = Actor("carl")
LOST, DOWN, PROXY = "lost", "down", "proxy"
Answer = Submitted | RejectionCode | str


class Made:
    """A node that answers by a script; the last answer of a script is given again and again."""

    def __init__(self, height: int = 5, *, server: bytes = OWN) -> None:
        self.height = height
        self.server = server
        self.orders: list[Answer] = []
        self.rows: list[RejectionCode | str | None] = [None]
        self.receipts: dict[bytes, int] = {}
        self.asked: list[str] = []
        self.grows = 0

    def takes(self, height: int) -> "Made":
        """The next order is on the ledger at this height."""
        self.orders.append(f"at {height}")
        return self

    def answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        self.asked.append(path)
        self.height += self.grows
        if path == "/v1/status":
            return packed(
                Status(
                    chain_id=CHAIN_ID,
                    server=self.server,
                    height=self.height,
                    time_s=START_S,
                    app_hash=bytes(32),
                    version="x",
                )
            )
        if path == "/v1/session":
            return packed(OpenSession(token="00", party=CARL.id, expires_s=START_S + 600))
        if request.method == "GET":
            return self._receipt(bytes.fromhex(path.rpartition("/")[2]))
        if path == "/v1/transactions":
            return self._order(request)
        said = self.rows[0] if len(self.rows) == 1 else self.rows.pop(0)
        if said is not None:
            return failing(said, request)
        return packed(QueryAnswer(height=self.height, time_s=START_S, app_hash=bytes(32), rows=()))

    def _receipt(self, tx_id: bytes) -> httpx.Response:
        height = self.receipts.get(tx_id)
        if height is None or height > self.height:
            return failing(NodeCode.TX_UNKNOWN, None)
        fields: dict[str, Any] = dict.fromkeys(("label", "reason", "contract"), "")
        fields |= {
            "messages": (),
            "events": (),
            "request": b"",
            "reads": bytes(32),
            "writes": bytes(32),
            "signer": CARL.id,
        }
        full = FullReceipt(tx_id=tx_id, height=height, index=0, code=0, failed_message=0, **fields)
        return packed(ShownReceipt(receipt=full, inclusion=None))

    def _order(self, request: httpx.Request) -> httpx.Response:
        tx_id = parse(request.content).id
        said = self.orders[0] if len(self.orders) == 1 else self.orders.pop(0)
        if isinstance(said, str) and said.startswith("at "):
            height = int(said.removeprefix("at "))
            self.receipts[tx_id], self.height = height, max(self.height, height)
            return packed(Submitted(tx_id=tx_id, height=height, index=0, receipt=Receipt(0)))
        return failing(said, request)


def packed(value: Any) -> httpx.Response:
    return httpx.Response(200, content=msgspec.msgpack.encode(value))


def failing(said: Any, request: httpx.Request | None) -> httpx.Response:
    if said == LOST:
        raise httpx.ReadError("cut", request=request)
    if said == DOWN:
        raise httpx.ConnectError("nobody", request=request)
    if said == PROXY:
        return httpx.Response(502, text="bad gateway")
    body = {"code": int(said), "label": said.label, "reason": said.reason}
    later = said in (NodeCode.STOPPING, NodeCode.OVERLOADED)
    return httpx.Response(503 if later else 400, json=body, headers={"retry-after": "1"} if later else {})


class Clock:
    """Monotonic time that passes only in pauses."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s

    async def sleep(self, for_s: float) -> None:
        self.now_s += for_s


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    time = Clock()
    monkeypatch.setattr(nodes, "time", time)
    monkeypatch.setattr("carechain.sdk.client.time", time)

    class Loop:
        sleep = staticmethod(time.sleep)

    monkeypatch.setattr(nodes, "asyncio", Loop)
    return time


def play(work: Callable[[Client], Awaitable[Any]], *made: Made, give_up_s: float = 30.0, turn: int = 0) -> Any:
    """Run ``work`` with a client of these nodes; the first request goes to number ``turn``."""
    addresses = [Node(f"http://n{number}", one.server) for number, one in enumerate(made)]

    def answer(request: httpx.Request) -> httpx.Response:
        return made[int(request.url.host.removeprefix("n"))].answer(request)

    async def main() -> Any:
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
            client = Client(
                addresses,
                CARL,
                http=http,
                clock=lambda: float(START_S),
                entropy=bytes,
                give_up_s=give_up_s,
            )
            client._caller.chain_id = CHAIN_ID
            client._caller.note_block_time(START_S)
            client._links._turn = turn
            return await work(client)

    return asyncio.run(main())


def message() -> Any:
    return anchor_of(wallet_of("steve").pseudonym(OWN), "r")


async def order(client: Client) -> Submitted:
    return await client.send(await client.sign(message()))


async def ask(client: Client) -> QueryAnswer:
    return await client.query("membership.members", NoArgs())


# --- whose turn it is -----------------------------------------------------------------------------------


def links_of(*servers: bytes | None) -> Links:
    caller = Caller(Signer.of(CARL), chain_id=CHAIN_ID, trust=None, entropy=bytes, clock=lambda: START_S)
    return Links([Node(f"http://n{number}", one) for number, one in enumerate(servers)], caller, None)


def order_of(links: Links) -> str:
    return "".join(link.url[-1] for link in links.in_turn())


def test_own_nodes_take_turns_and_others_stand_behind() -> None:
    links = links_of(OWN, OTHER, OWN, OWN)
    assert [order_of(links) for _ in range(4)] == ["0231", "2301", "3021", "0231"]


def test_a_failed_node_is_last_for_a_pause_that_grows_and_is_forgiven(clock: Clock) -> None:
    links = links_of(OWN, OWN, OTHER)
    first = next(iter(links.in_turn()))
    pauses = []
    for _ in range(9):
        first.set_aside()
        assert order_of(links)[-1] == "0"
        pauses.append(first.aside_until_s - clock.now_s)
        clock.now_s = first.aside_until_s
        assert order_of(links)[-1] == "2"
    assert pauses[:4] == [0.5, 1.0, 2.0, 4.0]
    assert pauses[-1] == nodes.LONGEST_ASIDE_S
    first.is_well()
    first.set_aside(7.0)
    assert first.aside_until_s - clock.now_s == 7.0, "as long as the node asked for"


def test_when_all_are_set_aside_the_soonest_due_is_tried_first() -> None:
    links = links_of(None, None)
    first, second = links.in_turn()
    first.set_aside()
    first.set_aside()
    second.set_aside()
    assert order_of(links) == "10"


@pytest.mark.parametrize("address", ["", "node:8710", "ftp://node", "http://", "http://[::1", "https:///v1"])
def test_what_is_no_address_is_refused_before_anything_is_sent(address: str) -> None:
    with pytest.raises(ValueError, match="address"):
        Client(address, CARL)
    with pytest.raises(ValueError, match="at least one"):
        Client([], CARL)


def test_a_node_that_failed_is_asked_how_it_is_before_it_gets_work(clock: Clock) -> None:
    one, two = Made(), Made()
    one.rows = [DOWN, None]

    async def work(client: Client) -> None:
        await ask(client)
        clock.now_s += 60
        one.asked.clear()
        await ask(client)
        await ask(client)

    play(work, one, two)
    assert one.asked[:2] == ["/v1/status", "/v1/query/membership.members"]


# --- submitting -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [LOST, DOWN, PROXY, NodeCode.STOPPING, NodeCode.OVERLOADED])
def test_another_node_takes_what_one_does_not(failure: Answer) -> None:
    one, two = Made(), Made().takes(9)
    one.orders = [failure]
    assert play(order, one, two).height == 9


@pytest.mark.parametrize(
    "code",
    [
        AdmissionCode.UNKNOWN_SIGNER,
        AdmissionCode.BAD_SIGNATURE,
        AdmissionCode.VALID_TOO_LONG,
        AdmissionCode.REPLAY_WINDOW_FULL,
        NodeCode.NOT_EXECUTABLE,
    ],
)
@pytest.mark.parametrize("failure", [LOST, PROXY, NodeCode.STOPPING])
def test_a_refusal_is_not_final_while_another_node_may_have_it(code: RejectionCode, failure: Answer) -> None:
    one, two = Made(), Made()
    one.orders, two.orders = [failure], [code]
    with pytest.raises(Unreachable) as open_end:
        play(order, one, two)
    assert open_end.value.tx_id is not None
    assert open_end.value.sent


@pytest.mark.parametrize("failure", [DOWN, NodeCode.OVERLOADED])
def test_a_refusal_is_final_where_no_other_node_can_have_it(failure: Answer) -> None:
    one, two = Made(), Made()
    one.orders, two.orders = [failure], [AdmissionCode.UNKNOWN_SIGNER]
    with pytest.raises(Refused, match="UNKNOWN_SIGNER"):
        play(order, one, two)


def test_a_refusal_by_the_only_node_is_final() -> None:
    one = Made()
    one.orders = [LOST, AdmissionCode.UNKNOWN_SIGNER]
    with pytest.raises(Refused, match="UNKNOWN_SIGNER"):
        play(order, one)


@pytest.mark.parametrize(
    "code",
    [
        AdmissionCode.TOO_LARGE,
        AdmissionCode.MALFORMED,
        AdmissionCode.VERSION_UNKNOWN,
        AdmissionCode.WRONG_CHAIN,
        AdmissionCode.SEVERAL_PSEUDONYMS,
        AdmissionCode.TOO_MANY_REQUESTS,
    ],
)
def test_a_refusal_of_the_bytes_is_final(code: RejectionCode) -> None:
    one, two = Made(), Made()
    one.orders, two.orders = [LOST], [code]
    with pytest.raises(Refused, match=code.label):
        play(order, one, two)


def test_replayed_means_that_it_is_there_and_is_waited_for_at_a_node_behind() -> None:
    one, two = Made(), Made(height=5)
    one.orders, one.rows = [LOST], [DOWN]
    two.orders = [AdmissionCode.REPLAYED]

    async def work(client: Client) -> Submitted:
        raw = await client.sign(message())
        one.answer = gone  # type: ignore[method-assign]
        two.receipts[parse(raw).id] = 9
        two.grows = 1
        return await client.send(raw)

    def gone(request: httpx.Request) -> httpx.Response:
        return failing(LOST if request.url.path == "/v1/transactions" else DOWN, request)

    found = play(work, one, two)
    assert (found.height, found.receipt.code) == (9, 0)


@pytest.mark.parametrize("known", [True, False])
def test_expired_is_final_unless_it_is_there(*, known: bool) -> None:
    one, two = Made(), Made(height=9)
    one.orders, two.orders = [LOST], [AdmissionCode.EXPIRED]

    async def work(client: Client) -> Submitted:
        raw = await client.sign(message())
        if known:
            two.receipts[parse(raw).id] = 8
        return await client.send(raw)

    if known:
        assert play(work, one, two).height == 8
    else:
        with pytest.raises(Refused, match="EXPIRED"):
            play(work, one, two)


@pytest.mark.parametrize("shown", [True, False])
def test_expired_is_not_final_while_the_node_that_says_so_does_not_say_that_it_lacks_it(*, shown: bool) -> None:
    behind, ahead = Made(), Made(height=9)
    behind.orders, ahead.orders = [DOWN], [AdmissionCode.EXPIRED]
    plain, asked = ahead.answer, []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "GET" and request.url.path.startswith("/v1/transactions/"):
            asked.append(request)
            if not shown or len(asked) < 4:
                return failing(LOST, request)
        return plain(request)

    async def work(client: Client) -> Submitted:
        raw = await client.sign(message())
        ahead.receipts[parse(raw).id] = 8
        ahead.answer = answer  # type: ignore[method-assign]
        return await client.send(raw)

    if shown:
        assert play(work, behind, ahead).height == 8
    else:
        with pytest.raises(Unreachable) as open_end:
            play(work, behind, ahead)
        assert open_end.value.tx_id is not None
        assert open_end.value.sent


def test_replayed_is_never_a_refusal_even_where_the_outcome_is_not_shown() -> None:
    one = Made(height=9)
    one.orders = [AdmissionCode.REPLAYED]
    plain = one.answer

    def answer(request: httpx.Request) -> httpx.Response:
        return failing(AuthCode.SIGNATURE_INVALID, request) if request.url.path == "/v1/session" else plain(request)

    one.answer = answer  # type: ignore[method-assign]
    with pytest.raises(Unreachable, match="on the ledger") as open_end:
        play(order, one)
    assert open_end.value.tx_id is not None


# --- submitting many ------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [LOST, PROXY, NodeCode.STOPPING, "garbage"])
@pytest.mark.parametrize("known", [True, False])
def test_what_a_node_took_of_a_batch_before_it_failed_is_not_called_refused(failure: Answer, *, known: bool) -> None:
    one, two = Made(height=9), Made(height=9)

    async def work(client: Client) -> list[Submitted | Refused]:
        raw = await client.sign(message())
        if known:
            two.receipts[parse(raw).id] = 8
        said = AdmissionCode.REPLAYED if known else AdmissionCode.UNKNOWN_SIGNER
        refused = {"code": int(said), "label": said.label, "reason": said.reason}
        for made, batch in ((one, failure), (two, [refused])):
            made.answer = batching(made.answer, batch)  # type: ignore[method-assign]
        return await client.send_many([raw])

    def batching(plain: Any, batch: Any) -> Any:
        def answer(request: httpx.Request) -> httpx.Response:
            if request.url.path != "/v1/transactions/batch":
                return plain(request)  # type: ignore[no-any-return]
            if batch == "garbage":
                return packed("x")
            return packed(batch) if isinstance(batch, list) else failing(batch, request)

        return answer

    if known:
        (found,) = play(work, one, two)
        assert isinstance(found, Submitted)
        assert found.height == 8
    else:
        with pytest.raises(Unreachable) as open_end:
            play(work, one, two)
        assert open_end.value.tx_id is not None


def test_a_batch_that_no_node_answers_for_is_open_and_not_refused() -> None:
    one = Made()
    one.rows = [NodeCode.STOPPING]

    async def work(client: Client) -> Any:
        return await client.send_many([await client.sign(message())])

    with pytest.raises(Unreachable, match="open"):
        play(work, one)


def test_a_node_behind_what_was_acknowledged_does_not_judge() -> None:
    ahead, behind = Made().takes(50), Made(height=9)
    behind.orders = [AdmissionCode.UNKNOWN_SIGNER]

    async def work(client: Client) -> int:
        await order(client)
        client._links._turn = 1
        return (await order(client)).height

    assert play(work, ahead, behind) == 50
    assert "/v1/status" in behind.asked


def test_only_wrong_nodes_are_told_as_such() -> None:
    one = Made(server=OTHER)
    one.rows = [DOWN]
    down = Made()
    down.answer = lambda request: failing(DOWN, request)  # type: ignore[method-assign]

    async def work(client: Client) -> Status:
        client._links._others[0]._server = seeded("somebody else")
        return await client.status()

    with pytest.raises(WrongNode):
        play(work, down, one)


# --- reading one's own writes ---------------------------------------------------------------------------


def test_an_answer_is_never_older_than_what_was_acknowledged() -> None:
    writer, behind = Made().takes(20), Made(height=19)

    async def work(client: Client) -> QueryAnswer:
        await order(client)
        client._links._turn = 1
        return await ask(client)

    assert play(work, writer, behind).height == 20
    assert "/v1/query/membership.members" in behind.asked


def test_a_refusal_by_a_node_behind_is_no_answer() -> None:
    writer, behind = Made().takes(20), Made(height=19)
    behind.rows = [NodeCode.PATH_UNKNOWN]

    async def work(client: Client) -> QueryAnswer:
        await order(client)
        client._links._turn = 1
        return await ask(client)

    assert play(work, writer, behind).height == 20
    behind.height = 20
    with pytest.raises(Refused, match="PATH_UNKNOWN"):
        play(ask, behind)


def test_nodes_that_are_behind_are_waited_for_but_not_for_ever(clock: Clock) -> None:
    writer, behind = Made().takes(20), Made(height=10)
    behind.grows = 1

    async def work(client: Client) -> QueryAnswer:
        await order(client)
        writer.answer = lambda request: failing(DOWN, request)  # type: ignore[method-assign]
        return await ask(client)

    assert play(work, writer, behind).height >= 20
    slow = Made(height=10)
    writer = Made().takes(20)
    began_s = clock.now_s
    with pytest.raises(Unreachable, match="height 20"):
        play(work, writer, slow)
    assert clock.now_s - began_s <= 11


def test_a_receipt_is_looked_for_at_every_node() -> None:
    one, two = Made(), Made(height=9)

    async def work(client: Client) -> ShownReceipt:
        two.receipts[seeded("tx")] = 9
        return await client.receipt(seeded("tx"))

    assert play(work, one, two).receipt.height == 9
    two.receipts.clear()

    async def unknown(client: Client) -> ShownReceipt:
        return await client.receipt(seeded("other"))

    with pytest.raises(Refused, match="TX_UNKNOWN"):
        play(unknown, one, two)
