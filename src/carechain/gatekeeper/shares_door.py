"""The keyholder's HTTP face: ``POST /v1/shares`` behind the gatekeeper application's sessions. It decides nothing.

The body is a :class:`~carechain.sdk.shares.SharesRequest` (msgpack map), the answer a ``SharesAnswer`` (msgpack map). A
refusal is JSON, as at the gatekeeper's other paths; ``TICKET_UNKNOWN``, ``BUSY``, ``LEDGER_STALE`` and
``TOO_MANY_SHARES`` come with ``Retry-After``.
"""

from collections.abc import Callable, Sequence
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from carechain.core.limits import SHARES_REQUEST_BYTES
from carechain.core.rejection import RejectionCode
from carechain.gatekeeper.bodies import bounded_body
from carechain.gatekeeper.keyholder import Keyholder
from carechain.sdk.shares import MSGPACK, SHARES_PATH, KeyholderCode, decode_request

STATUS: Final[dict[RejectionCode, int]] = {
    **dict.fromkeys(KeyholderCode, 403),
    KeyholderCode.REQUEST_MALFORMED: 400,
    KeyholderCode.TOO_MANY_SHARES: 429,
    KeyholderCode.BUSY: 503,
    KeyholderCode.LEDGER_STALE: 503,
    KeyholderCode.TICKET_UNKNOWN: 503,
    KeyholderCode.NO_SHARE: 404,
    KeyholderCode.RECORD_REPEATED: 400,
    KeyholderCode.RECORD_UNKNOWN: 404,
    KeyholderCode.NOT_SEALED: 409,
    KeyholderCode.CAPSULE_NOT_ANCHORED: 409,
    KeyholderCode.CAPSULE_UNSOUND: 409,
    KeyholderCode.BLINDING_REPEATED: 400,
    KeyholderCode.BLINDING_UNSOUND: 400,
    KeyholderCode.BLINDED_TO_NOTHING: 400,
}
"""The HTTP status of each refusal. A replica may be behind the ticket's block, so an unknown ticket is for later."""
_encoder: Final = msgspec.msgpack.Encoder()


def shares_door(keyholder: Keyholder) -> Callable[[Callable[[Request], bytes]], Sequence[Route]]:
    """The routes of a keyholder, as an extension of :func:`carechain.gatekeeper.serve.app`."""

    def routes(who_asks: Callable[[Request], bytes]) -> Sequence[Route]:
        async def shares(request: Request) -> Response:
            requester = who_asks(request)
            wanted = decode_request(await bounded_body(request, SHARES_REQUEST_BYTES))
            answer = await keyholder.release(requester, wanted)
            return Response(_encoder.encode(answer), media_type=MSGPACK, headers={"cache-control": "no-store"})

        return (Route(SHARES_PATH, shares, methods=["POST"]),)

    return routes
