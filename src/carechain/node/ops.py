"""The operations port: is the process alive, may it be given work, and its figures. Never the clients' port."""

from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from carechain.node.ledger import LedgerNode

_UNAVAILABLE: Final = 503


def ops_app(service: LedgerNode) -> Starlette:
    """``/livez``: the process answers. ``/readyz``: blocks are made and timely (else 503). ``/metrics``: Prometheus."""

    async def livez(_: Request) -> Response:
        return PlainTextResponse("alive\n")

    async def readyz(_: Request) -> Response:
        age_s, why = int(service.clock()) - service.time_s, service.why_unready()
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
