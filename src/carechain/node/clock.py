"""Block time from two clocks, so that a wall clock that jumps cannot take the chain with it.

Block time never goes back, so one block from the future makes every later one wait for it: what expires by block
time (certificates, grants, transactions) has expired for good. The wall clock is therefore believed only as far as a
second clock, which counts the time that passes and which nobody sets, agrees with it.
"""

import time
from collections.abc import Callable
from typing import Final

from carechain.core.limits import CLOCK_SKEW_S
from carechain.core.units import DAY_S

Clock = Callable[[], float]

ACCEPT_GAP_DAYS: Final = 90
"""How far the wall clock may be ahead of the last block when a node starts, unless its operator says otherwise."""
_TAKEN_UP: Final = 0.01
"""A clock that was set ahead by less than the skew is followed, by this share of the time that passes.

Without it such steps would add up over months; much faster, and many small steps would be a jump.
"""


class ClockAhead(Exception):  # noqa: N818 - the state of the environment
    """The wall clock is so far ahead of the last block that it may be wrong; the sentence says what to do."""


def uptime_s() -> float:
    """Seconds since some moment; goes on while the machine sleeps and is never set."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class BlockClock:
    """Gives block times; belongs to one node that runs."""

    __slots__ = ("_believed_s", "_passed", "_seen_s", "_wall")

    def __init__(self, *, wall: Clock, passed: Clock) -> None:
        """``wall`` is Unix time and may be set; ``passed`` counts seconds and may not. Both are believed now."""
        self._wall = wall
        self._passed = passed
        self._believed_s = wall()
        self._seen_s = passed()

    @property
    def ahead_s(self) -> float:
        """How far the wall clock is ahead of what it should show after the time that has passed, in seconds."""
        return self._wall() - self._expected_s()

    def jumped(self, head_s: int) -> bool:
        """Whether the wall clock is so far ahead that no block after one of time ``head_s`` may bear its time."""
        return self._wall() > max(self._expected_s() + CLOCK_SKEW_S, head_s)

    def time_s(self, head_s: int) -> int:
        """The time of a block after one of time ``head_s``; when the wall clock jumped, by the time that has passed."""
        return max(head_s, int(self._expected_s() if self.jumped(head_s) else self._wall()))

    def made_block(self) -> None:
        """A block was made: a wall clock that is a little ahead is followed.

        One that went back is not: block time does not go back either, and once the clock is right again it
        must not look as if it had jumped.
        """
        seen_s = self._passed()
        elapsed_s = seen_s - self._seen_s
        expected_s = self._believed_s + elapsed_s
        self._believed_s = min(max(self._wall(), expected_s), expected_s + elapsed_s * _TAKEN_UP)
        self._seen_s = seen_s

    def _expected_s(self) -> float:
        return self._believed_s + self._passed() - self._seen_s


def require_near(*, wall_s: float, head_s: int, accept_gap_days: int) -> None:
    """Raise :class:`ClockAhead` when the wall clock is further ahead of the last block than is believed unasked."""
    gap_s = wall_s - head_s
    if gap_s > accept_gap_days * DAY_S:
        raise ClockAhead(
            f"This machine's clock is {int(gap_s // DAY_S)} days ahead of the last block, and a block made by a wrong "
            "clock cannot be taken back. Look at the clock. If it is right and nothing ran for so long, start once "
            "with --accept-gap-days and a larger figure."
        )
