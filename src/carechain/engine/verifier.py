"""A second process that verifies signatures while this one executes blocks.

Batches go out over one pipe and verdicts come back over another; nothing else is shared. The worker sees public
keys, signatures and signed bytes, never a secret. When it dies, what it owed is verified here: a signature that was
not verified is never taken for one that holds. A worker that gives no verdict for :data:`VERIFIER_PATIENCE_S` is killed
and counts as dead. The worker ends when its pipe does, so it cannot outlive this process.

A signature verification holds Python's global lock, which is why this is a process and not a thread.
"""

import os
import select
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, BinaryIO, Final, Self

import msgspec
from msgspec import Meta, Struct

from carechain.core.codec import encode
from carechain.core.crypto import BadSignature, verify
from carechain.core.ids import U8
from carechain.core.limits import SIGNATURE_SIZE, TX_SIZE_BYTES, VERIFIER_PATIENCE_S, VERIFIER_WAITING_BYTES
from carechain.engine.worker_process import end_worker, handle_of, start_worker

if TYPE_CHECKING:
    import subprocess

FRAME_BYTES: Final = 128 * 1024
"""Batches are cut into frames of about this many bytes, far less than a pipe holds."""

_LENGTH_BYTES: Final = 4
_READ_BYTES: Final = 256 * 1024


class Check(Struct, frozen=True, array_like=True):
    """One signature to verify."""

    suite: U8
    public_key: Annotated[bytes, Meta(max_length=64)]
    signature: Annotated[bytes, Meta(max_length=SIGNATURE_SIZE)]
    message: Annotated[bytes, Meta(max_length=2 * TX_SIZE_BYTES)]


class _Frame(Struct):
    """Checks the worker was given, the batch they belong to, and whether the batch ends with them."""

    number: int
    checks: Sequence[Check]
    last: bool


_checks = msgspec.msgpack.Decoder(list[Check])


def holds(check: Check) -> bool:
    """Whether the signature holds: the one way to verify, on both sides of the pipe."""
    try:
        verify(suite=check.suite, public_key=check.public_key, signature=check.signature, message=check.message)
    except BadSignature:
        return False
    return True


class VerifierProcess:
    """One worker. Single-threaded: submit, watch :meth:`fileno` for reading, collect.

    A worker that is stuck makes nothing readable, so collect also once :meth:`patience_left_s` have passed.
    ``inline_checks`` counts the signatures that had to be verified in this process.
    """

    __slots__ = (
        "_clock",
        "_finished",
        "_frames",
        "_next",
        "_outgoing",
        "_partial",
        "_process",
        "_received",
        "_since_s",
        "_waiting_bytes",
        "inline_checks",
    )

    def __init__(self, process: "subprocess.Popen[bytes]", clock: Callable[[], float]) -> None:
        """Use :meth:`start`."""
        self._process = process
        self._clock = clock
        # Since when the worker has had something to answer and has not answered anything.
        self._since_s = clock()
        self._frames: deque[_Frame] = deque()
        self._outgoing: deque[memoryview] = deque()
        self._received = bytearray()
        self._partial: list[bool] = []
        self._finished: deque[tuple[int, list[bool]]] = deque()
        self._next = 0
        self._waiting_bytes = 0
        self.inline_checks = 0

    @classmethod
    def start(cls, *, clock: Callable[[], float] = time.monotonic) -> Self:
        """Start the worker; ``clock`` is monotonic, in seconds. Raises ``OSError`` where the system refuses."""
        return cls(start_worker("carechain.engine.verifier"), clock)

    @property
    def alive(self) -> bool:
        """Whether the worker is still there, as far as is known; a dead one is noticed by the next call."""
        return self._process.stdin is not None and not self._process.stdin.closed

    def fileno(self) -> int:
        """The descriptor that becomes readable when verdicts, or the worker's end, can be collected.

        It stays readable after the end, so stop watching it once :attr:`alive` is false.
        """
        return handle_of(self._process.stdout)

    def submit(self, checks: Sequence[Check]) -> int:
        """Hand over a batch, never blocking; returns the number that :meth:`collect` will give it.

        A batch that could not be handed over is verified at once, without any sign on :meth:`fileno`: collect after
        submitting.
        """
        number = self._next
        self._next += 1
        if not checks or not self.alive or self._waiting_bytes > VERIFIER_WAITING_BYTES:
            self._in_line(number, checks)
            return number
        start = size = 0
        for end, check in enumerate(checks, 1):
            size += len(check.message)
            if size >= FRAME_BYTES or end == len(checks):
                part = checks[start:end]
                data = encode(part)
                self._frames.append(_Frame(number, part, end == len(checks)))
                self._outgoing.append(memoryview(len(data).to_bytes(_LENGTH_BYTES, "big") + data))
                self._waiting_bytes += len(data)
                start, size = end, 0
        self._write()
        return number

    def patience_left_s(self) -> float | None:
        """In how many seconds :meth:`collect` will give up on the worker unless it answers; None: it owes nothing."""
        return max(0.0, self._since_s + VERIFIER_PATIENCE_S - self._clock()) if self._frames else None

    def collect(self) -> list[tuple[int, list[bool]]]:
        """Finished batches as (number, one verdict per check), never waiting for the worker.

        A worker that has been owing verdicts for too long is given up first.
        """
        self._write()
        # What has come in counts before the time is looked at: this process may be the one that was held up.
        self._read()
        if self.patience_left_s() == 0.0:
            self.give_up()
        finished = list(self._finished)
        self._finished.clear()
        return finished

    def wait(self) -> list[tuple[int, list[bool]]]:
        """Finished batches; waits for one if any is on its way, but no longer than the worker is given."""
        finished = self.collect()
        while not finished and self._frames:
            writing = [handle_of(self._process.stdin)] if self._outgoing else []
            select.select([self.fileno()], writing, [], self.patience_left_s())
            finished = self.collect()
        return finished

    def give_up(self) -> None:
        """Kill the worker, whatever state it is in, and verify here what it owes: collect afterwards."""
        if self.alive:
            self._process.kill()
            self._bury()

    def close(self) -> None:
        """End the worker. Batches not collected yet are forgotten."""
        self._frames.clear()
        self._outgoing.clear()
        end_worker(self._process)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self) -> None:
        """Push what waits into the pipe as far as it takes it."""
        outgoing = self._outgoing
        while outgoing and self.alive:
            try:
                written = os.write(handle_of(self._process.stdin), outgoing[0])
            except BlockingIOError:
                return
            except BrokenPipeError:
                self._bury()
                return
            self._waiting_bytes -= written
            if len(outgoing) == len(self._frames):
                # This belongs to the oldest frame: until now there was nothing that the worker could have answered.
                self._since_s = self._clock()
            if written == len(outgoing[0]):
                outgoing.popleft()
            else:
                outgoing[0] = outgoing[0][written:]

    def _read(self) -> None:
        """Take in verdicts: one byte each, in the order of the checks."""
        while self.alive:
            try:
                data = os.read(self.fileno(), _READ_BYTES)
            except BlockingIOError:
                break
            if not data:
                self._bury()
                return
            self._received += data
            self._since_s = self._clock()
        self._settle()

    def _settle(self) -> None:
        received = self._received
        while self._frames and len(received) >= len(self._frames[0].checks):
            frame = self._frames.popleft()
            count = len(frame.checks)
            self._deliver(frame, [verdict == 1 for verdict in received[:count]])
            del received[:count]

    def _deliver(self, frame: _Frame, verdicts: list[bool]) -> None:
        self._partial += verdicts
        if frame.last:
            self._finished.append((frame.number, self._partial))
            self._partial = []

    def _bury(self) -> None:
        """The worker is gone: verify here what it owes, in the order it was owed."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.poll()
        self._outgoing.clear()
        self._waiting_bytes = 0
        self._settle()
        self._received.clear()
        while self._frames:
            frame = self._frames.popleft()
            self.inline_checks += len(frame.checks)
            self._deliver(frame, [holds(check) for check in frame.checks])

    def _in_line(self, number: int, checks: Sequence[Check]) -> None:
        self.inline_checks += len(checks)
        self._finished.append((number, [holds(check) for check in checks]))


def serve(requests: BinaryIO, verdicts: BinaryIO) -> None:
    """The worker's loop: one frame in, one byte per check out, until the pipe ends."""
    while True:
        length = requests.read(_LENGTH_BYTES)
        if len(length) < _LENGTH_BYTES:
            return
        data = requests.read(int.from_bytes(length, "big"))
        try:
            verdicts.write(bytes(holds(check) for check in _checks.decode(data)))
            verdicts.flush()
        except BrokenPipeError:
            return


if __name__ == "__main__":
    # The node drains on these signals and may still need verdicts; the end of the pipe ends the worker.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    serve(sys.stdin.buffer, sys.stdout.buffer)
