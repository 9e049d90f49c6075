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
            net.clock.now_s += STALE_BLOCK_S + 1
            stale = await get(net, "/readyz")
            assert (stale.status_code, stale.json()["ready"]) == (503, False)
            net.clock.now_s -= STALE_BLOCK_S + 1
            await net.service.finish()
            assert (await get(net, "/readyz")).status_code == 503
            assert (await get(net, "/livez")).status_code == 200
            assert (await get(net, "/v1/status")).status_code == 404

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
