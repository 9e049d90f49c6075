"""The verifier process as the event loop uses it: watched while it lives, given up on when it does not answer.

Whatever happens to it, every batch that was handed over gets its verdicts: what it owes is verified in this process.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from carechain.engine.admission import Admission, Verdict
from carechain.engine.session import Session
from carechain.engine.verifier import VerifierProcess

START_AGAIN_S: Final = 30.0
"""A lost worker is started again this long after its start at the soonest: one that cannot live shall cost little."""

_log = structlog.get_logger("carechain.node")


class Worker:
    """Checks batches of transactions; verdicts are there to :meth:`collect` whenever ``arrived`` is called.

    Belongs to one event loop.
    """

    def __init__(self, session: Session, arrived: Callable[[], None]) -> None:
        """``session`` stays the caller's. ``arrived`` must call :meth:`collect`."""
        self._session = session
        self._arrived = arrived
        self._batches: dict[int, Sequence[bytes]] = {}
        self._watched: int | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._lost_checks = 0
        self._started_s = 0.0
        self.verifier: VerifierProcess | None = None
        self._admission: Admission | None = None

    @property
    def fallback_checks(self) -> int:
        """How many signatures were verified in this process although the worker should have done it."""
        return self._lost_checks + (self.verifier.inline_checks if self.verifier else 0)

    def start(self) -> None:
        """Start the process and watch it. Raises ``OSError`` where the system refuses."""
        loop = asyncio.get_running_loop()
        self._started_s = loop.time()
        self.verifier = VerifierProcess.start()
        self._admission = Admission(self._session, self.verifier)
        self._watched = self.verifier.fileno()
        loop.add_reader(self._watched, self._arrived)

    def submit(self, raws: Sequence[bytes], *, time_s: int) -> bool:
        """Hand over a batch to be judged as of ``time_s``; False without a worker. Collect afterwards."""
        if self._admission is None:
            return False
        self._batches[self._admission.submit(raws, time_s=time_s)] = raws
        return True

    def collect(self) -> list[tuple[Sequence[bytes], list[Verdict]]]:
        """Finished batches: their transactions, and a verdict for each. Never waits for the process."""
        if self._admission is None or self.verifier is None:
            return []
        finished = [(self._batches.pop(number), verdicts) for number, verdicts in self._admission.collect()]
        if not self.verifier.alive:
            self._lost()
        self._watch_for_silence(self.verifier.patience_left_s())
        return finished

    def tend(self) -> None:
        """Start a lost worker again, when it is time for that; one that cannot be started now is tried again later."""
        if self._watched is not None or self.verifier is None:
            return
        if asyncio.get_running_loop().time() - self._started_s < START_AGAIN_S:
            return
        self._end()
        try:
            self.start()
        except OSError as error:
            _log.warning("verifier_not_started", exc_info=error)
        else:
            _log.info("verifier_started")

    def close(self) -> None:
        """End the process; batches that were not collected are forgotten."""
        self.unwatch()
        self._batches.clear()
        if self.verifier is not None:
            self._end()
        self.verifier = self._admission = None

    def unwatch(self) -> None:
        """Look at the process no more: a descriptor whose end is not read keeps an event loop turning."""
        if self._watched is not None:
            asyncio.get_running_loop().remove_reader(self._watched)
            self._watched = None
        self._stop_timer()

    def _lost(self) -> None:
        if self._watched is not None:
            _log.error("verifier_lost")
        self.unwatch()

    def _watch_for_silence(self, patience_s: float | None) -> None:
        """A process that is stuck makes nothing readable, so a timer asks for its verdicts as well."""
        if patience_s is None:
            self._stop_timer()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(patience_s, self._silent)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _silent(self) -> None:
        self._timer = None
        self._arrived()

    def _end(self) -> None:
        """Let go of a process whose batches have all been collected."""
        if self.verifier is not None:
            self._lost_checks += self.verifier.inline_checks
            self.verifier.inline_checks = 0
            self.verifier.close()
