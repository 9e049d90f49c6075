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
    """``/livez``: the process answers. ``/readyz``: blocks are made and recent (else 503). ``/metrics``: Prometheus."""

    async def livez(_: Request) -> Response:
        return PlainTextResponse("alive\n")

    async def readyz(_: Request) -> Response:
        # A clock that went back makes the last block look young, never old.
        age_s = int(service.clock()) - service.time_s
        ready = service.is_live and age_s <= STALE_BLOCK_S
        body = {"ready": ready, "height": service.height, "block_age_s": age_s}
        return JSONResponse(body, status_code=200 if ready else _UNAVAILABLE)

    async def metrics(_: Request) -> Response:
        return Response(service.metrics.exposition(), headers={"content-type": CONTENT_TYPE_LATEST})

    return Starlette(
        routes=[
            Route("/livez", livez, methods=["GET"]),
            Route("/readyz", readyz, methods=["GET"]),
            Route("/metrics", metrics, methods=["GET"]),
        ]
    )
