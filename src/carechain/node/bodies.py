"""Reading the bodies of requests: bounded in size and in time, at no cost where the body is already there.

A timer for every request would cost as much as looking up its answer, so one watches over all reads in flight: it
wakes when the oldest may be too late. A read that is over by then has left nothing but an entry to skip.
"""

import asyncio

from starlette.types import Receive

from carechain.core.limits import HTTP_BODY_S
from carechain.core.rejection import Rejected
from carechain.node.refusals import NodeCode


class BodyReader:
    """Reads bodies on one event loop."""

    __slots__ = ("_late", "_reading", "_timer")

    def __init__(self) -> None:
        """Nothing is read yet."""
        # By the task that reads, oldest first, since when on the loop's clock.
        self._reading: dict[asyncio.Task[object], float] = {}
        self._late: set[asyncio.Task[object]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def read(self, receive: Receive, headers: dict[bytes, bytes], limit_bytes: int) -> bytes:
        """A body of at most ``limit_bytes``, arrived within :data:`HTTP_BODY_S`; raises :class:`Rejected`."""
        declared = headers.get(b"content-length")
        if declared is not None and (len(declared) > len(str(limit_bytes)) or int(declared) > limit_bytes):
            raise Rejected(NodeCode.BODY_TOO_LARGE)
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a body is read by a task")
        self._watch(task)
        try:
            return await _joined(receive, limit_bytes)
        except asyncio.CancelledError:
            # Cancelled for being late, and by nobody else besides: then it ends as a refusal (as asyncio.timeout does).
            if task in self._late and task.uncancel() == 0:
                raise Rejected(NodeCode.BODY_MALFORMED) from None
            raise
        finally:
            del self._reading[task]
            self._late.discard(task)

    def _watch(self, task: "asyncio.Task[object]") -> None:
        loop = asyncio.get_running_loop()
        self._reading[task] = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(HTTP_BODY_S, self._look)

    def _look(self) -> None:
        """End the reads that are too late, and come back when the next may be."""
        loop = asyncio.get_running_loop()
        self._timer = None
        for task, since_s in self._reading.items():
            due_s = since_s + HTTP_BODY_S
            if due_s > loop.time():
                self._timer = loop.call_at(due_s, self._look)
                return
            if task not in self._late:
                self._late.add(task)
                task.cancel()


async def _joined(receive: Receive, limit_bytes: int) -> bytes:
    message = await receive()
    parts: list[bytes] = []
    size_bytes = 0
    while True:
        if message["type"] == "http.disconnect":
            raise Rejected(NodeCode.BODY_MALFORMED)
        part: bytes = message.get("body", b"")
        size_bytes += len(part)
        if size_bytes > limit_bytes:
            raise Rejected(NodeCode.BODY_TOO_LARGE)
        if not message.get("more_body"):
            return b"".join((*parts, part)) if parts else bytes(part)
        parts.append(part)
        message = await receive()
