"""Token buckets: how much one party, and all of them together, may take in how short a time (pure: time is given)."""

from collections import OrderedDict
from typing import Annotated

from msgspec import Meta, Struct

_Positive = Annotated[int, Meta(ge=1)]


class Rate(Struct, frozen=True, kw_only=True):
    """At most ``burst`` at once, refilled by ``per_s`` every second."""

    per_s: _Positive
    burst: _Positive


class Bucket:
    """What is left of one rate."""

    __slots__ = ("_left", "_rate", "_seen_s")

    def __init__(self, rate: Rate, now_s: int) -> None:
        """Full at the time ``now_s`` (Unix seconds)."""
        self._rate = rate
        self._left = rate.burst
        self._seen_s = now_s

    def take(self, amount: int, now_s: int) -> bool:
        """Take ``amount`` if it is there, else nothing.

        A clock that goes back refills nothing, and from there on as ever: one that was a day ahead for a moment must
        not keep everybody waiting for a day.
        """
        self._refill(now_s)
        if amount > self._left:
            return False
        self._left -= amount
        return True

    def is_full(self, now_s: int) -> bool:
        """Whether forgetting this bucket would change nothing."""
        self._refill(now_s)
        return self._left == self._rate.burst

    def _refill(self, now_s: int) -> None:
        passed_s = max(0, now_s - self._seen_s)
        self._left = min(self._rate.burst, self._left + passed_s * self._rate.per_s)
        self._seen_s = now_s


class Buckets:
    """One bucket per party, for at most ``parties`` of them."""

    __slots__ = ("_buckets", "_parties", "_rate")

    def __init__(self, rate: Rate, *, parties: int) -> None:
        """Everybody starts with a full bucket."""
        self._rate = rate
        self._parties = parties
        self._buckets: OrderedDict[bytes, Bucket] = OrderedDict()

    def take(self, party: bytes, amount: int, now_s: int) -> bool:
        """Take ``amount`` for ``party``, or nothing.

        A newcomer takes the place of whoever has been away longest and has a full bucket again. Where all places are
        in use it gets nothing: forgetting a bucket that is in use would fill it.
        """
        bucket = self._buckets.get(party)
        if bucket is None:
            if not self._make_room(now_s):
                return False
            bucket = self._buckets[party] = Bucket(self._rate, now_s)
        self._buckets.move_to_end(party)
        return bucket.take(amount, now_s)

    def _make_room(self, now_s: int) -> bool:
        if len(self._buckets) < self._parties:
            return True
        oldest = next(iter(self._buckets))
        if not self._buckets[oldest].is_full(now_s):
            return False
        del self._buckets[oldest]
        return True
