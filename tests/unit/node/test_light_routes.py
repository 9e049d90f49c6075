"""Goal: the node shows what validators signed to anyone, at a bounded cost, and a whole transaction to its audience.

Method: answers of a real engine, recorded (``tests/vectors/light.json``), behind the engine's interface; then the
routes over HTTP at a real node, with each way of having nothing to show.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from carechain.chain.tx import parse
from carechain.core.limits import LIGHT_FETCHES
from carechain.core.rejection import Rejected, RejectionCode
from carechain.engine.cometbft.rpc import EngineRefused, EngineUnreachable
from carechain.gatekeeper.listen import Listener
from carechain.node import light
from carechain.node.http import Api
from carechain.node.light import LightBlocks
from carechain.node.refusals import NodeCode
from carechain.sdk.answers import MSGPACK
from carechain.sdk.authentication import AuthCode, Service, sign_opening
from carechain.sdk.client import HasKeys
from carechain.sdk.light.header import decode_block
from carechain.sdk.light.proofs import LightInclusion
from node_network import Network, running
from world import anchor_of, anything

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "light.json").read_text())
BLOCKS = {int(height): one for height, one in VECTORS["blocks"].items()}
LAST = max(BLOCKS)


class Recorded:
    """The engine's interface as it once answered. ``calls`` are counted; it answers while ``open`` is set."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.calls: list[str] = []
        self.open = asyncio.Event()
        self.open.set()

    async def call(self, method: str, **params: Any) -> Any:
        self.calls.append(method)
        await self.open.wait()
        if self.failure is not None:
            raise self.failure
        block = BLOCKS[int(params["height"])]
        if method == "commit":
            return block["commit"]["result"]
        assert (method, params["per_page"]) == ("validators", "100")
        return block["validators"][int(params["page"]) - 1]["result"]


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def refused(code: RejectionCode) -> Any:
    return pytest.raises(Rejected, check=lambda error: error.code is code)


# --- out of the engine ----------------------------------------------------------------------------------


def test_a_block_is_asked_once_and_kept() -> None:
    async def main() -> None:
        rpc = Recorded()
        blocks = LightBlocks(rpc, lambda: LAST)
        found = await asyncio.gather(*(blocks.at(3) for _ in range(100)))
        assert {decode_block(data).height for data in found} == {3}
        assert rpc.calls == ["commit", "validators"]
        assert decode_block(await blocks.at(0)).height == LAST
        assert await blocks.at(LAST) == await blocks.at(0)
        assert len(rpc.calls) == 4

    run(main())


def test_who_goes_away_takes_nothing_from_the_others() -> None:
    async def main() -> None:
        rpc = Recorded()
        rpc.open.clear()
        blocks = LightBlocks(rpc, lambda: LAST)
        impatient, patient = asyncio.create_task(blocks.at(3)), asyncio.create_task(blocks.at(3))
        await asyncio.sleep(0)
        impatient.cancel()
        rpc.open.set()
        assert decode_block(await patient).height == 3
        assert impatient.cancelled()

    run(main())


def test_the_engine_is_asked_for_few_blocks_at_once() -> None:
    async def main() -> None:
        rpc = Recorded()
        rpc.open.clear()
        blocks = LightBlocks(rpc, lambda: 10_000)
        waiting = [asyncio.create_task(blocks.at(height)) for height in range(1, LIGHT_FETCHES + 1)]
        await asyncio.sleep(0)
        with refused(NodeCode.OVERLOADED):
            await blocks.at(LIGHT_FETCHES + 1)
        rpc.open.set()
        await asyncio.gather(*waiting, return_exceptions=True)
        await blocks.at(1)

    run(main())


def test_what_is_kept_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        rpc = Recorded()
        blocks = LightBlocks(rpc, lambda: LAST)
        monkeypatch.setattr(light, "LIGHT_CACHE_BYTES", 2 * len(await blocks.at(1)) + 100)
        for height in (2, 1, 3, 1):
            await blocks.at(height)
        # The second was asked for longest ago and made room for the third.
        assert rpc.calls.count("commit") == 3
        await blocks.at(2)
        assert rpc.calls.count("commit") == 4

    run(main())


@pytest.mark.parametrize(
    ("rpc", "newest", "height", "code"),
    [
        (None, 5, 1, NodeCode.NO_COMMITS),
        (Recorded(), 0, 0, NodeCode.NO_BLOCK_YET),
        (Recorded(), 5, 6, NodeCode.BLOCK_UNKNOWN),
        (Recorded(EngineRefused("height 3 is not available")), 5, 3, NodeCode.BLOCK_UNKNOWN),
        (Recorded(EngineUnreachable("no answer")), 5, 3, NodeCode.ENGINE_AWAY),
    ],
)
def test_why_there_is_no_block(rpc: Recorded | None, newest: int, height: int, code: NodeCode) -> None:
    async def main() -> None:
        with refused(code):
            await LightBlocks(rpc, lambda: newest).at(height)

    run(main())


def test_an_answer_of_the_engine_that_is_none_is_no_block() -> None:
    class Empty(Recorded):
        async def call(self, method: str, **params: Any) -> Any:
            return None if method == "commit" else await super().call(method, **params)

    async def main() -> None:
        blocks = LightBlocks(Empty(), lambda: LAST)
        for _ in range(2):
            with refused(NodeCode.BLOCK_UNKNOWN):
                await blocks.at(3)

    run(main())


# --- over HTTP ------------------------------------------------------------------------------------------


class Served:
    """A node's face, with the recorded engine behind its light blocks unless it has none."""

    def __init__(self, net: Network, http: httpx.AsyncClient) -> None:
        self.net = net
        self.http = http

    async def get(self, path: str, *, by: HasKeys | None = None, accept: str = MSGPACK) -> httpx.Response:
        headers = {"accept": accept}
        if by is not None:
            self.net.nonces += 1
            opening = sign_opening(
                by.signing,
                chain_id=self.net.service.chain_id,
                service=Service.NODE,
                server=self.net.service.server,
                party=by.id,
                time_s=int(self.net.clock()),
                nonce=self.net.nonces.to_bytes(16, "big"),
            )
            sent = {"content-type": MSGPACK}
            answer = await self.http.post("/v1/session", content=msgspec.msgpack.encode(opening), headers=sent)
            headers["authorization"] = f"Bearer {msgspec.msgpack.decode(answer.content)['token']}"
        return await self.http.get(path, headers=headers)


@asynccontextmanager
async def served(home: Path, rpc: Recorded | None) -> AsyncIterator[Served]:
    async with running(home) as net:
        api = Api(net.service)
        if rpc is not None:
            api._light = LightBlocks(rpc, lambda: LAST)
        listener = Listener(api)
        await listener.start()
        try:
            async with httpx.AsyncClient(base_url=listener.url, trust_env=False) as http:
                yield Served(net, http)
        finally:
            await listener.stop()


def expect(answer: httpx.Response, status: int, code: RejectionCode) -> None:
    body = msgspec.msgpack.decode(answer.content)
    assert (answer.status_code, body["code"]) == (status, int(code)), body


def test_an_embedded_node_says_that_there_is_no_commit(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path, None) as node:
            expect(await node.get("/v1/light/1"), 404, NodeCode.NO_COMMITS)
            expect(await node.get(f"/v1/light/inclusion/{bytes(32).hex()}"), 404, NodeCode.NO_COMMITS)

    run(main())


def test_blocks_are_for_anyone_as_bytes_or_for_people(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path, Recorded()) as node:
            answer = await node.get("/v1/light/3")
            assert answer.headers["content-type"] == MSGPACK
            block = decode_block(answer.content)
            shown = (await node.get("/v1/light/3", accept="application/json")).json()
            assert shown["header"]["app_hash"] == block.header.app_hash.hex()
            assert decode_block((await node.get("/v1/light/0")).content).height == LAST
            for path in ("-1", "x", "9" * 19):
                expect(await node.get(f"/v1/light/{path}"), 400, NodeCode.PARAMETER_MALFORMED)
            expect(await node.get(f"/v1/light/{LAST + 1}"), 404, NodeCode.BLOCK_UNKNOWN)
            refused_method = await node.http.post("/v1/light/3")
            assert refused_method.status_code == 405

    run(main())


def test_while_the_engine_is_away_one_is_asked_to_come_back(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path, Recorded(EngineUnreachable("no answer"))) as node:
            answer = await node.get("/v1/light/3")
            expect(answer, 503, NodeCode.ENGINE_AWAY)
            assert int(answer.headers["retry-after"]) > 0

    run(main())


def test_a_transaction_is_shown_whole_to_its_signer_and_to_regulators_only(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path, Recorded()) as node:
            net = node.net
            await net.run(anything(net.steve, net.a), by=net.steve)
            raw = net.sign(anchor_of(net.steve, "r"), by=net.carl)
            await net.run_all([raw])
            path = f"/v1/light/inclusion/{parse(raw).id.hex()}"
            for reader in (net.carl, net.gita):
                shown = msgspec.msgpack.decode((await node.get(path, by=reader)).content, type=LightInclusion)
                assert (shown.raw, shown.height, shown.index) == (raw, net.service.height, 0)
            expect(await node.get(path, by=net.steve), 403, NodeCode.PROOF_IS_NOT_YOURS)
            expect(await node.get(path, by=net.bert), 404, NodeCode.TX_UNKNOWN)
            expect(await node.get(path), 401, AuthCode.SESSION_MISSING)
            expect(await node.get("/v1/light/inclusion/xy", by=net.carl), 400, NodeCode.PARAMETER_MALFORMED)
            unknown = await node.get(f"/v1/light/inclusion/{bytes(32).hex()}", by=net.carl)
            expect(unknown, 404, NodeCode.TX_UNKNOWN)

    run(main())
