"""The ABCI socket: length-prefixed requests in, responses out, in order, on each of the engine's connections.

Every frame is an unsigned LEB128 length and one message. The engine opens four connections (queries, snapshots,
mempool, consensus) and says on none which it is. A connection that sends what is not a request is closed and the
others go on; the engine ends itself when it loses one, and is started again by whoever watches it.
"""

import asyncio
import os
from collections import deque
from pathlib import Path
from typing import Any, Final, Protocol

import structlog
from google.protobuf.message import DecodeError

from carechain.core.limits import ABCI_FRAME_BYTES
from carechain.engine.cometbft.messages import Request, Response

_log = structlog.get_logger("carechain.engine")
_LENGTH_BYTES: Final = 5
_BURST_BYTES: Final = 64 * 1024
"""Answers are sent together up to about this size."""
_PRIVATE: Final = 0o600


class BadFrame(Exception):  # noqa: N818 - names what came in
    """Bytes that are no frame, or no request."""


class Halted(Exception):  # noqa: N818 - names what the application did
    """The application cannot go on: no further request is answered."""


class Answering(Protocol):
    """What answers requests."""

    def answer(self, kind: str, request: Any, response: Any) -> None:  # noqa: ANN401 - messages made at run time
        """Fill in ``response`` for a ``request`` of a kind such as ``check_tx``; raises :class:`Halted`."""


class Connection(asyncio.Protocol):
    """One connection of the engine."""

    def __init__(self, application: Answering) -> None:
        self._application = application
        self._received = bytearray()
        self._waiting: deque[bytes] = deque()
        """Requests that came together; more are not read before these are answered."""
        self._taken = True
        """Whether the other side takes what it is sent."""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The engine connected."""
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Answer every request that is whole by now."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        self._received += data
        try:
            self._waiting.extend(take_frames(self._received))
            self._answer_waiting(transport)
        except BadFrame as bad:
            _log.error("abci_connection_refused", reason=str(bad))
            transport.close()
        except Halted:
            # Without an answer the engine waits or ends; what it must not get is a wrong one.
            transport.close()

    def pause_writing(self) -> None:
        """Answers pile up, because the other side does not read them: it is not listened to until it does."""
        self._taken = False
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Answers are taken again."""
        self._taken = True
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
            self.data_received(b"")

    def _answer_waiting(self, transport: asyncio.Transport) -> None:
        while self._waiting and self._taken:
            burst = bytearray()
            while self._waiting and len(burst) < _BURST_BYTES:
                burst += self._answer(self._waiting.popleft())
            transport.write(burst)

    def _answer(self, frame: bytes) -> bytes:
        try:
            request = Request.FromString(frame)
        except DecodeError:
            raise BadFrame("not a request") from None
        kind = request.WhichOneof("value")
        if kind is None:
            raise BadFrame("a request of an unknown kind")
        response = Response()
        getattr(response, kind).SetInParent()
        self._application.answer(kind, getattr(request, kind), getattr(response, kind))
        return frame_of(response.SerializeToString())


def take_frames(received: bytearray) -> list[bytes]:
    """Take the whole frames off the front of ``received``; raises :class:`BadFrame` for a length beyond bounds."""
    frames: list[bytes] = []
    at = 0
    while (found := _length(received, at)) is not None:
        length, start = found
        if length > ABCI_FRAME_BYTES:
            raise BadFrame(f"a frame of {length} bytes")
        if start + length > len(received):
            break
        frames.append(bytes(received[start : start + length]))
        at = start + length
    del received[:at]
    return frames


def _length(received: bytearray, at: int) -> tuple[int, int] | None:
    """A frame's length and where its message begins; None while the length is not whole."""
    value = shift = 0
    for index, byte in enumerate(received[at : at + _LENGTH_BYTES], at + 1):
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the last byte of a LEB128 number
            return value, index
        shift += 7
    if len(received) - at >= _LENGTH_BYTES:
        raise BadFrame("a length of more than five bytes")
    return None


def frame_of(message: bytes) -> bytes:
    """A message with its length before it."""
    length = len(message)
    head = bytearray()
    while length > 0x7F:  # noqa: PLR2004 - seven bits at a time
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head) + message


async def serve(path: Path, application: Answering) -> asyncio.Server:
    """Listen at a unix socket that only this user can open. Raises ``OSError``."""
    mask = os.umask(0o777 & ~_PRIVATE)
    try:
        return await asyncio.get_running_loop().create_unix_server(lambda: Connection(application), path=str(path))
    finally:
        os.umask(mask)
