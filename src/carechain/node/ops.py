"""The operations port: is the process alive, may it be given work, and its figures. Never the clients' port."""

from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from carechain.core.limits import STALE_BLOCK_S
from carechain.node.service import NodeService

_UNAVAILABLE: Final = 503


def ops_app(service: NodeService) -> Starlette:
    """``/livez``: the process answers. ``/readyz``: blocks are made and timely (else 503). ``/metrics``: Prometheus."""

    async def livez(_: Request) -> Response:
        return PlainTextResponse("alive\n")

    async def readyz(_: Request) -> Response:
        age_s, why = int(service.clock()) - service.time_s, why_unready(service)
        body = {"ready": not why, "height": service.height, "block_age_s": age_s, "why": why}
        return JSONResponse(body, status_code=_UNAVAILABLE if why else 200)

    async def metrics(_: Request) -> Response:
        return Response(service.metrics.exposition(), headers={"content-type": CONTENT_TYPE_LATEST})

    return Starlette(
        routes=[
            Route("/livez", livez, methods=["GET"]),
            Route("/readyz", readyz, methods=["GET"]),
            Route("/metrics", metrics, methods=["GET"]),
        ]
    )


def why_unready(service: NodeService) -> str:
    """Why a node should be given no work now, and what to look at; empty when it may be."""
    age_s = int(service.clock()) - service.time_s
    if not service.is_live:
        return "It makes no blocks: it is stopping, or has failed, and then the log says why."
    if service.clock_jumped:
        return "This machine's clock jumped ahead. Set it right; if it is right, start the node again."
    if age_s > STALE_BLOCK_S:
        return "The last block is too old: look at the disk and at the load of this machine."
    if age_s < -STALE_BLOCK_S:
        return (
            "The last block's time is ahead of this machine's clock. Look at this machine's clock first; if it is "
            "right, the clock of the producer was wrong when the block was made, and block time waits for the present."
        )
    return ""
