"""A second process that looks through resources while this one stores them (API-1, REC-4).

What can be said of a resource from its bytes alone is half of the work of storing it: whether it is valid, what places
and grades it, what it says to searches. Python does one thing at a time in a process, so of a large transaction this
process does a part and the assistant the rest, with the same functions (:mod:`carechain.charts.assisting`). It has no
database, no keys and no network: resources go out over one pipe, what was found comes back over another.

Nothing depends on it. It is started when the first large transaction comes, works for one transaction at a time, and
whatever it does not answer is looked at here: while it starts, while another transaction has it, when it has died or
said nothing for ``ASSISTANT_PATIENCE_S`` and was killed. It ends when its pipe does, so it cannot outlive this process.
"""

import os
import select
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from itertools import repeat
from threading import Lock
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import msgspec
import structlog
from msgspec import Struct

from carechain.charts.facts import Content
from carechain.charts.searching.rows import IndexRows
from carechain.core.limits import ASSISTANT_PATIENCE_S
from carechain.engine.worker_process import end_worker, handle_of, start_worker

if TYPE_CHECKING:
    import subprocess

FEWEST: Final = 200
"""Fewer resources in a transaction are looked at sooner than they are sent."""
RESTART_S: Final = 30
ROWS_AT_ONCE: Final = 128
"""After so many resources the assistant sends what it found for searches."""
LENGTH_BYTES: Final = 4
_READ_BYTES: Final = 1024 * 1024
READY: Final = b"ready"
_FEWEST_CORES: Final = 2

_log = structlog.get_logger("carechain.charts")
T = TypeVar("T")


class Valid(Struct, frozen=True, array_like=True):
    """What a valid resource says it is; without an id of its own None."""

    resource_type: str
    resource_id: str | None


class Arriving(NamedTuple):
    """A valid resource on its way into the charts."""

    resource_type: str
    resource_id: str
    body: bytes


class Examine(Struct, tag=True, array_like=True):
    """Answered by one list of ``Valid``, None for what is not."""

    bodies: Sequence[bytes]


class Describe(Struct, tag=True, array_like=True):
    """Answered by the contents from ``contents_from`` on, in one list, and then by the rows of all, in many.

    None stands for what is refused, or means something else here than where the database is.
    """

    zone: str
    contents_from: int
    resources: Sequence[Arriving]


_valid: Final = msgspec.msgpack.Decoder(list[Valid | None])
_contents: Final = msgspec.msgpack.Decoder(list[Content | None])
_rows: Final = msgspec.msgpack.Decoder(list[IndexRows | None])
_encoder: Final = msgspec.msgpack.Encoder()


class _Lost(Exception):  # noqa: N818 - names what became of the assistant; never leaves this module
    """The assistant is gone, or says nothing."""


class Described:
    """What the assistant finds in the resources of one transaction: taken as it comes, None where it says nothing."""

    def __init__(self, talk: "_Talk | None", resources: Sequence[Arriving], contents_from: int) -> None:
        self._talk = talk
        self._names = [(one.resource_type, one.resource_id) for one in resources] if talk else []
        self._contents_from = contents_from
        self._contents: list[Content | None] | None = None
        self._rows: dict[tuple[str, str], IndexRows | None] = {}
        self._told = 0

    def content(self, position: int) -> Content | None:
        """What places and grades the resource at this position."""
        if self._talk is None or position < self._contents_from:
            return None
        found = self._all_contents(self._talk)
        return found[position - self._contents_from] if found else None

    def rows(self, name: tuple[str, str]) -> IndexRows | None:
        """What the resource with this type and id says to searches; asked for once."""
        while name not in self._rows and self._told < len(self._names) and self._talk is not None:
            self._all_contents(self._talk)
            some = self._talk.take(_rows)
            if some is None:
                return None
            self._rows.update(zip(self._names[self._told :], some, strict=False))
            self._told += len(some)
        return self._rows.pop(name, None)

    def _all_contents(self, talk: "_Talk") -> list[Content | None]:
        """They are the first answer, and are taken before any other."""
        if self._contents is None:
            self._contents = talk.take(_contents) or []
        return self._contents


NOBODY: Final = Described(None, (), 0)
"""Says nothing of anything."""


class Assistant:
    """One organisation's assistant; safe to use from several threads. Close it when the charts are closed.

    On a machine with a single core there is none. ``lost`` counts those that died or were killed.
    """

    def __init__(
        self, *, patience_s: float = ASSISTANT_PATIENCE_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._patience_s = patience_s
        self._clock = clock
        self._lent = Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_ready = False
        self._not_before_s = clock() if len(os.sched_getaffinity(0)) >= _FEWEST_CORES else float("inf")
        self.lost = 0

    def examined(self, bodies: Sequence[bytes]) -> Generator[Valid | None, None, None]:
        """For each resource, in order, what it says it is if it is known to be valid; None: examine it yourself.

        Close it, if you do not use it up.
        """
        with self._talking(len(bodies)) as talk:
            half = len(bodies) // 2
            if talk is not None:
                talk.ask(Examine(bodies[half:]), answers=1)
            yield from repeat(None, half)
            told = None if talk is None else talk.take(_valid)
            yield from told or repeat(None, len(bodies) - half)

    @contextmanager
    def describing(self, zone: str, resources: Sequence[Arriving]) -> Iterator[Described]:
        """Have the resources of one transaction described, as far as the assistant is there.

        ``zone`` is where dates without an offset count. It tells of the second half of the contents: look at the first.
        """
        with self._talking(len(resources)) as talk:
            half = len(resources) // 2
            if talk is not None:
                talk.ask(Describe(zone, half, resources), answers=1 + -(-len(resources) // ROWS_AT_ONCE))
            yield Described(talk, resources, half)

    def close(self) -> None:
        """End the assistant."""
        self._not_before_s = float("inf")
        with self._lent:
            if self._process is not None:
                if not self._is_ready:
                    # It is still starting, for a program that is over already.
                    self._process.kill()
                end_worker(self._process)
                self._process = None

    @contextmanager
    def _talking(self, resources: int) -> Iterator["_Talk | None"]:
        """The assistant for one job; None where it is not worth it, not ready, or has another one."""
        if resources < FEWEST or not self._lent.acquire(blocking=False):
            yield None
            return
        try:
            process = self._process or self._start()
            if process is None:
                yield None
                return
            talk = _Talk(process, self._patience_s)
            if not self._is_ready:
                self._is_ready = talk.is_readable() and talk.receive() == READY
            try:
                yield talk if self._is_ready else None
            finally:
                # What was asked for and not taken must not be the answer to the next job.
                talk.finish()
                if talk.is_lost:
                    self._bury(process)
        finally:
            self._lent.release()

    def _start(self) -> "subprocess.Popen[bytes] | None":
        if self._clock() < self._not_before_s:
            return None
        self._not_before_s = self._clock() + RESTART_S
        try:
            # What ends it may be named with a value, and values are health data: what it writes is not kept.
            process = start_worker("carechain.charts.assisting", is_mute=True)
        except OSError as error:
            _log.warning("charts_assistant_not_started", kind=type(error).__name__)
            return None
        self._process, self._is_ready = process, False
        return process

    def _bury(self, process: "subprocess.Popen[bytes]") -> None:
        process.kill()
        end_worker(process)
        self._process = None
        self.lost += 1
        _log.error("charts_assistant_lost", status=process.returncode)


class _Talk:
    """One job: what is asked, and the answers that are still to come."""

    def __init__(self, process: "subprocess.Popen[bytes]", patience_s: float) -> None:
        self._input, self._output = handle_of(process.stdin), handle_of(process.stdout)
        self._patience_ms = patience_s * 1000
        self._owed = 0
        self._received = bytearray()
        self.is_lost = False

    def ask(self, job: Examine | Describe, *, answers: int) -> None:
        """Hand over a job; the assistant reads all of it before it answers."""
        data = _encoder.encode(job)
        self._owed = answers
        self._trying(self._send, len(data).to_bytes(LENGTH_BYTES, "big") + data)

    def take(self, decoder: "msgspec.msgpack.Decoder[T]") -> T | None:
        """The next answer; None when the assistant is lost."""
        data = self.receive()
        return None if data is None else self._trying(lambda: decoder.decode(data))

    def receive(self) -> bytes | None:
        """The next answer's bytes; None when the assistant is lost."""
        self._owed -= 1
        return self._trying(self._next_answer)

    def finish(self) -> None:
        """Let the assistant come to the end of the job."""
        while self._owed > 0 and not self.is_lost:
            self.receive()

    def is_readable(self) -> bool:
        """Whether something has come, if only the end."""
        return _is_ready(self._output, select.POLLIN, 0)

    def _trying(self, doing: Callable[..., T], *values: bytes) -> T | None:
        if self.is_lost:
            return None
        try:
            return doing(*values)
        except (_Lost, OSError, msgspec.DecodeError):
            # Whatever it was, this job ends without the assistant, and it is buried.
            self.is_lost = True
            return None

    def _send(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            if not _is_ready(self._input, select.POLLOUT, self._patience_ms):
                raise _Lost
            left = left[os.write(self._input, left) :]

    def _next_answer(self) -> bytes:
        length = int.from_bytes(self._exactly(LENGTH_BYTES), "big")
        return self._exactly(length)

    def _exactly(self, size: int) -> bytes:
        while len(self._received) < size:
            if not _is_ready(self._output, select.POLLIN, self._patience_ms):
                raise _Lost
            data = os.read(self._output, _READ_BYTES)
            if not data:
                raise _Lost
            self._received += data
        found = bytes(self._received[:size])
        del self._received[:size]
        return found


def _is_ready(handle: int, event: int, wait_ms: float) -> bool:
    waiting = select.poll()
    waiting.register(handle, event)
    return bool(waiting.poll(wait_ms))
