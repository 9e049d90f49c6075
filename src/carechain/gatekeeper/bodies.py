"""Reading what is sent to the organisation's doors: never more than a request may be."""

from starlette.requests import Request

from carechain.gatekeeper.codes import GatekeeperCode, Withheld


async def bounded_body(request: Request, limit_bytes: int) -> bytes:
    """The body, as long as it stays within the bound: what is longer is not read to its end.

    Raises :class:`Withheld` with ``BODY_TOO_LARGE``.
    """
    parts = bytearray()
    async for chunk in request.stream():
        parts += chunk
        if len(parts) > limit_bytes:
            raise Withheld(GatekeeperCode.BODY_TOO_LARGE)
    return bytes(parts)
