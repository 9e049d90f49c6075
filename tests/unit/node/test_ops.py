"""Goal: an operator learns whether the node is alive, ready and how it fares, and learns nothing about anybody.

Method: the ops application called in process, beside a real node that is made ready, stale and stopped.
"""

import asyncio
from pathlib import Path

import httpx

from carechain.core.limits import STALE_BLOCK_S
from carechain.node.http import Api
from carechain.node.ops import ops_app
from node_network import Network, running
from world import anchor_of


async def get(net: Network, path: str) -> httpx.Response:
    transport = httpx.ASGITransport(ops_app(net.service))
    async with httpx.AsyncClient(transport=transport, base_url="http://ops") as http:
        return await http.get(path)


def test_ready_while_blocks_are_recent(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as net:
            ready = await get(net, "/readyz")
            assert (ready.status_code, ready.json()["ready"], ready.json()["height"]) == (200, True, net.service.height)
            net.clock.wait(STALE_BLOCK_S + 1)
            stale = await get(net, "/readyz")
            assert (stale.status_code, stale.json()["ready"]) == (503, False)
            net.clock.wait(-STALE_BLOCK_S - 1)
            await net.service.finish()
            assert (await get(net, "/readyz")).status_code == 503
            assert (await get(net, "/livez")).status_code == 200
            assert (await get(net, "/v1/status")).status_code == 404

    asyncio.run(main())


def test_why_a_node_is_not_ready(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as net:

            async def why(*, moved_s: float, passed_s: float = 0) -> str:
                net.clock.now_s += moved_s
                net.clock.passed_s += passed_s
                answer = await get(net, "/readyz")
                net.clock.now_s -= moved_s
                net.clock.passed_s -= passed_s
                assert (answer.status_code == 200) == answer.json()["ready"] == (not answer.json()["why"])
                return str(answer.json()["why"])

            assert await why(moved_s=0) == ""
            assert "too old" in await why(moved_s=STALE_BLOCK_S + 1, passed_s=STALE_BLOCK_S + 1)
            assert "clock jumped" in await why(moved_s=1e9)
            # As after a start whose clock is behind the chain: either of the two clocks may be the wrong one.
            behind = await why(moved_s=-STALE_BLOCK_S - 1)
            assert "this machine's clock" in behind
            assert "the producer" in behind
            assert await why(moved_s=-STALE_BLOCK_S) == ""
            await net.service.finish()
            assert "makes no blocks" in await why(moved_s=0)

    asyncio.run(main())


def test_metrics_count_and_identify_nobody(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as net:
            Api(net.service)
            await net.service.submit(net.sign(anchor_of(net.steve, "r1"), by=net.carl))
            text = (await get(net, "/metrics")).text
            for name in (
                f"carechain_height {float(net.service.height)}",
                'carechain_transactions_total{outcome="OK"} 13.0',
                'carechain_transactions_total{outcome="RECORDS.VERSION_NOT_NEXT"} 1.0',
                "carechain_queue_transactions 0.0",
                "carechain_block_seconds_bucket",
                "carechain_verify_fallback_checks 0.0",
                "carechain_sessions 0.0",
                "carechain_event_streams 0.0",
            ):
                assert name in text, name
            for party in (net.steve, net.carl, net.a):
                assert party.id.hex() not in text

    asyncio.run(main())
