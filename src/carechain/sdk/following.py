"""Following committed events, from one node to the next: server-sent events as objects, without gaps (API-3, API-6)."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from typing import Any, Final

import httpx
import msgspec

from carechain.sdk.authentication import AuthCode
from carechain.sdk.failures import Refused, Unreachable, WrongNode, graver, refusal_in
from carechain.sdk.nodes import Link, Links

_REFUSED: Final = 400
_STOPPING: Final = "NODE.STOPPING"


class _Reader:
    """How far a reader is: from which height to go on, how much was told, and whether that was all."""

    __slots__ = ("ended", "start", "told")

    def __init__(self, start: int | None) -> None:
        self.start = start
        self.told = 0
        self.ended = False


async def follow(links: Links, from_height: int | None) -> AsyncGenerator[dict[str, Any], None]:
    """What a node streams from a height on (None: from now); a stream that breaks goes on at another node.

    A height that was told is not told again. Raises :class:`Refused`, :class:`Unreachable`, :class:`WrongNode`.
    """
    reader = _Reader(from_height)
    while True:
        told, failure = reader.told, None
        for link in links.in_turn():
            try:
                async with aclosing(_follow_at(link, links, reader)) as messages:
                    async for message in messages:
                        yield message
                if reader.ended:
                    return
                failure = graver(failure, Unreachable(f"the event stream of {link.url} broke"))
            except (Unreachable, WrongNode) as lost:
                failure = graver(failure, lost)
            except Refused as refused:
                if not refused.is_passing:
                    raise
                failure = graver(failure, refused)
            link.set_aside()
        if reader.told == told and failure is not None:
            raise failure


async def _follow_at(link: Link, links: Links, reader: _Reader) -> AsyncGenerator[dict[str, Any], None]:
    """The messages of one node, until it stops or the stream breaks; notes how far the reader is."""
    await links.make_sure(link)
    if reader.start is None and len(links) > 1:
        # From here on every height counts, whichever node tells of it.
        reader.start = (await link.status(timeout_s=links.answer_s)).height + 1
    path = "/v1/events" if reader.start is None else f"/v1/events?from={reader.start}"
    try:
        async with AsyncExitStack() as open_until_read:
            response = await _open(link, path, links.answer_s, open_until_read)
            link.is_well()
            kind = ""
            async for line in response.aiter_lines():
                if line.startswith("event: "):
                    kind = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    message = {"kind": kind, **msgspec.json.decode(line.removeprefix("data: "))}
                    ended = kind == "end"
                    if ended and len(links) > 1 and message.get("label") == _STOPPING:
                        # The node's end and not the reader's: another one goes on with the same blocks.
                        return
                    reader.ended = ended
                    reader.told += 1
                    reader.start = reader.start if ended else int(message["height"]) + 1
                    yield message
    except httpx.HTTPError as error:
        raise link.lost(error) from None
    except (msgspec.MsgspecError, KeyError, TypeError, ValueError):
        raise Unreachable(f"the event stream of {link.url} cannot be read") from None


async def _open(link: Link, path: str, timeout_s: float, until: AsyncExitStack) -> httpx.Response:
    """An answer that is read as it comes; signs in again once if the node has forgotten the session."""
    for forgotten_before in (False, True):
        request = link.http.stream(
            "GET", link.url + path, headers=await link.authorisation(), timeout=httpx.Timeout(timeout_s)
        )
        response = await until.enter_async_context(request)
        if response.status_code < _REFUSED:
            break
        refused = refusal_in(response, await response.aread())
        if forgotten_before or refused.code != AuthCode.SESSION_UNKNOWN:
            raise refused
        link.forget_session()
    return response
