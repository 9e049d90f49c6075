"""A lean HTTP/1.1 client: keep-alive connections that each send the next request as soon as the last is answered.

A benchmark's client shares the machine with the server it measures, so whatever it burns is missing there. This one
writes prepared bytes and reads only a status and a length. It is for loads of its own making, not for strangers.
"""

import asyncio
from array import array
from collections.abc import Iterator, Sequence
from time import perf_counter
from typing import Final, cast

import uvloop
from msgspec import Struct

_END_OF_HEAD: Final = b"\r\n\r\n"
_LENGTH: Final = b"content-length:"
_STATUS: Final = slice(9, 12)
_OK: Final = b"200"
_HEAD_BYTES: Final = 64 * 1024


class LoadFailed(Exception):  # noqa: N818 - names what became of the run
    """The server refused, closed, or answered something that is not HTTP/1.1 with a length: no figure comes of it."""


class Load(Struct, frozen=True):
    """What a run gave: seconds per request in order of completion, seconds of the whole run, the last answer's body."""

    latencies_s: "array[float]"
    seconds: float
    last_body: bytes

    @property
    def per_s(self) -> float:
        """Answers a second over the whole run."""
        return len(self.latencies_s) / self.seconds


def request(
    method: str, path: str, *, body: bytes = b"", token: str | None = None, media: str = "application/msgpack"
) -> bytes:
    """The bytes of one request to a server on this machine."""
    lines = [f"{method} {path} HTTP/1.1", "host: localhost", f"content-length: {len(body)}"]
    if body:
        lines.append(f"content-type: {media}")
    if token is not None:
        lines.append(f"authorization: Bearer {token}")
    lines.append(f"accept: {media}")
    return "\r\n".join(lines).encode() + _END_OF_HEAD + body


def run_load(host: str, port: int, requests: Sequence[bytes], *, connections: int) -> Load:
    """Send every request once over ``connections`` keep-alive connections, each one at a time.

    All connections are open before the clock starts. Raises :class:`LoadFailed` on any answer but 200, and
    ``OSError`` when the server cannot be reached.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(host, port, requests, connections))


def run_loads(loads: "Sequence[tuple[tuple[str, int], Sequence[bytes]]]", *, connections: int) -> Load:
    """As :func:`run_load`, at several servers at once, each with requests and ``connections`` of its own."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run_all(loads, connections))


async def _run_all(loads: "Sequence[tuple[tuple[str, int], Sequence[bytes]]]", connections: int) -> Load:
    began = perf_counter()
    all_of = await asyncio.gather(*(_run(*address, requests, connections) for address, requests in loads))
    latencies_s = array("d", [one for load in all_of for one in load.latencies_s])
    return Load(latencies_s, perf_counter() - began, all_of[-1].last_body)


def fetch(host: str, port: int, one: bytes) -> bytes:
    """The body of the answer to a single request; raises as :func:`run_load`."""
    return run_load(host, port, (one,), connections=1).last_body


async def _run(host: str, port: int, requests: Sequence[bytes], connections: int) -> Load:
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    shared = _Shared(iter(requests), len(requests), done)
    opened: list[_Connection] = []
    try:
        for _ in range(min(connections, len(requests))):
            _, connection = await loop.create_connection(lambda: _Connection(shared), host, port)
            opened.append(connection)
        started = perf_counter()
        for connection in opened:
            connection.send_next()
        await done
        seconds = perf_counter() - started
    finally:
        shared.ending = True
        for connection in opened:
            connection.close()
    return Load(shared.latencies_s, seconds, shared.last_body)


class _Shared:
    """What the connections of one run have in common: the requests left, and what came back."""

    __slots__ = ("done", "ending", "last_body", "latencies_s", "left", "waiting")

    def __init__(self, requests: Iterator[bytes], count: int, done: "asyncio.Future[None]") -> None:
        self.left = requests
        self.waiting = count
        self.done = done
        self.latencies_s = array("d")
        self.last_body = b""
        self.ending = False

    def answered(self, seconds: float, body: bytes) -> None:
        self.latencies_s.append(seconds)
        self.waiting -= 1
        if not self.waiting and not self.done.done():
            self.last_body = body
            self.done.set_result(None)

    def fail(self, reason: str) -> None:
        if not self.done.done():
            self.done.set_exception(LoadFailed(reason))


class _Connection(asyncio.Protocol):
    """One keep-alive connection in a closed loop."""

    __slots__ = ("_head_bytes", "_received", "_sent_at", "_shared", "_transport", "_waits", "_wanted")

    def __init__(self, shared: _Shared) -> None:
        self._shared = shared
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._wanted = 0
        self._head_bytes = 0
        self._sent_at = 0.0
        self._waits = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not derive from asyncio's, so this cannot be asked at run time.
        self._transport = cast("asyncio.Transport", transport)

    def send_next(self) -> None:
        following = next(self._shared.left, None)
        self._waits = following is not None
        if following is not None and self._transport is not None:
            self._sent_at = perf_counter()
            self._transport.write(following)

    def data_received(self, data: bytes) -> None:
        self._received = self._received + data if self._received else data
        if not self._wanted and not self._read_head():
            return
        if len(self._received) < self._wanted:
            return
        body = self._received[self._head_bytes :] if self._shared.waiting == 1 else b""
        self._received, self._wanted = b"", 0
        self._shared.answered(perf_counter() - self._sent_at, body)
        self.send_next()

    def _read_head(self) -> bool:
        """Learn from a complete head how long the whole answer is; False while the head is still coming in."""
        end = self._received.find(_END_OF_HEAD)
        if end < 0:
            if len(self._received) > _HEAD_BYTES:
                self._shared.fail("the answer's head does not end")
            return False
        head = self._received[:end].lower()
        if head[_STATUS] != _OK:
            self._shared.fail(f"the server answered {head[_STATUS].decode('ascii', 'replace')}")
            return False
        at = head.find(_LENGTH)
        if at < 0:
            self._shared.fail("the answer states no length")
            return False
        length = head[at + len(_LENGTH) :].partition(b"\r\n")[0]
        self._head_bytes = end + len(_END_OF_HEAD)
        self._wanted = self._head_bytes + int(length)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        # One that has nothing left to ask may be closed while others still wait for their answers.
        if self._waits and not self._shared.ending:
            self._shared.fail(f"the server closed a connection ({type(exc).__name__ if exc else 'end of stream'})")

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
