"""A growing set of keys that stays in order: what lets an overlay scan a block's writes cheaply."""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from typing import Final

_RUN: Final = 512
"""A run is split above this many keys: insertion moves at most that many pointers."""


class OrderedKeys:
    """Distinct byte strings in ascending order, held in short sorted runs."""

    __slots__ = ("_lasts", "_runs")

    def __init__(self) -> None:
        """Start empty."""
        self._runs: list[list[bytes]] = []
        self._lasts: list[bytes] = []

    def add(self, key: bytes) -> None:
        """Insert ``key``, which must not be there yet."""
        runs, lasts = self._runs, self._lasts
        if not runs:
            runs.append([key])
            lasts.append(key)
            return
        at = min(bisect_left(lasts, key), len(runs) - 1)
        run = runs[at]
        insort(run, key)
        if len(run) > _RUN:
            half = len(run) // 2
            runs[at : at + 1] = [run[:half], run[half:]]
            lasts[at : at + 1] = [run[half - 1], run[-1]]
        else:
            lasts[at] = run[-1]

    def under(self, prefix: bytes, after: bytes | None = None) -> Iterator[bytes]:
        """Keys that start with ``prefix`` and are above ``after``, ascending."""
        runs = self._runs
        above = after is not None and after >= prefix
        edge = after if after is not None and above else prefix
        at = bisect_left(self._lasts, edge)
        if at == len(runs):
            return
        start = (bisect_right if above else bisect_left)(runs[at], edge)
        for index in range(at, len(runs)):
            for key in runs[index][start:]:
                if not key.startswith(prefix):
                    return
                yield key
            start = 0
