"""Goal: no block bears the time of a clock that jumped, and no clock that is right is mistaken for one that did.

Method: two clocks that the test moves. A wall clock may be set; the other only counts. Rows of what an operator or a
time service does to the wall clock, and any sequence of such things as a property.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carechain.core.limits import CLOCK_SKEW_S
from carechain.core.units import DAY_S
from carechain.node.clock import ACCEPT_GAP_DAYS, BlockClock, ClockAhead, require_near, uptime_s
from node_network import StoppedClock, stopped_clock

YEAR_S = 365 * DAY_S


class Chain:
    """Blocks by a block clock: the head's time, and no block while the clock is not believed."""

    def __init__(self) -> None:
        self.clock: StoppedClock = stopped_clock()
        self.block_clock = BlockClock(wall=self.clock, passed=self.clock.passed)
        self.head_s = int(self.clock())

    @property
    def jumped(self) -> bool:
        return self.block_clock.jumped(self.head_s)

    def beat(self, times: int = 1) -> int:
        for _ in range(times):
            self.clock.wait(5)
            if not self.jumped:
                self.head_s = self.block_clock.time_s(self.head_s)
                self.block_clock.made_block()
        return self.head_s


def test_block_time_is_the_wall_clock() -> None:
    chain = Chain()
    assert chain.beat(100) == int(chain.clock())


@pytest.mark.parametrize("by_s", [CLOCK_SKEW_S + 1, 3600, 40 * YEAR_S])
def test_a_jump_ahead_makes_no_block_until_the_clock_is_back(by_s: int) -> None:
    chain = Chain()
    before_s = chain.beat(3)
    chain.clock.now_s += by_s
    assert chain.beat(5) == before_s
    assert chain.block_clock.ahead_s == by_s
    # What has to be made nevertheless gets the time that has passed.
    assert chain.block_clock.time_s(chain.head_s) == before_s + 25
    chain.clock.now_s -= by_s
    assert chain.beat() == int(chain.clock())


def test_a_small_step_ahead_is_followed() -> None:
    chain = Chain()
    chain.clock.now_s += CLOCK_SKEW_S
    assert chain.beat() == int(chain.clock())
    assert not chain.jumped


def test_small_steps_are_no_way_to_jump() -> None:
    chain = Chain()
    for _ in range(10):
        chain.clock.now_s += CLOCK_SKEW_S - 1
        chain.beat()
    assert chain.jumped
    assert chain.block_clock.ahead_s > CLOCK_SKEW_S


def test_small_steps_far_apart_are_followed() -> None:
    chain = Chain()
    for _ in range(4):
        chain.clock.now_s += CLOCK_SKEW_S - 1
        assert chain.beat(1000) == int(chain.clock())


def test_a_clock_that_went_back_and_forth_is_believed() -> None:
    chain = Chain()
    before_s = chain.beat()
    chain.clock.now_s -= 3600
    assert chain.beat(5) == before_s
    chain.clock.now_s += 3600
    assert chain.beat() == int(chain.clock()) > before_s


def test_a_long_sleep_of_the_machine_is_no_jump() -> None:
    chain = Chain()
    chain.beat()
    chain.clock.wait(30 * DAY_S)
    assert chain.beat() == int(chain.clock())


steps = st.lists(st.tuples(st.sampled_from(["wait", "set"]), st.integers(-4000, 4000)), max_size=40)


@given(steps)
def test_block_time_is_never_far_ahead_of_the_time_that_passed(moves: list[tuple[str, int]]) -> None:
    chain = Chain()
    start_s = chain.head_s
    for kind, by_s in moves:
        if kind == "wait":
            chain.clock.wait(abs(by_s))
        else:
            chain.clock.now_s += by_s
        before_s = chain.head_s
        chain.beat()
        assert before_s <= chain.head_s <= start_s + chain.clock.passed() * 1.01 + CLOCK_SKEW_S


def test_a_start_far_ahead_of_the_last_block_needs_a_word() -> None:
    gap_s = ACCEPT_GAP_DAYS * DAY_S
    require_near(wall_s=gap_s, head_s=0, accept_gap_days=ACCEPT_GAP_DAYS)
    require_near(wall_s=0, head_s=gap_s * 2, accept_gap_days=ACCEPT_GAP_DAYS)
    with pytest.raises(ClockAhead, match=r"91 days ahead.*--accept-gap-days"):
        require_near(wall_s=gap_s + DAY_S, head_s=0, accept_gap_days=ACCEPT_GAP_DAYS)
    require_near(wall_s=gap_s + DAY_S, head_s=0, accept_gap_days=ACCEPT_GAP_DAYS + 1)


def test_the_second_clock_goes_on() -> None:
    first_s = uptime_s()
    assert 0 < first_s <= uptime_s()
