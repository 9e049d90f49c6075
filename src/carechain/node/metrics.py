"""Figures about one node for Prometheus. Labels are codes and fixed names, never ids: a metric identifies nobody."""

from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from carechain.chain.receipts import OK, Receipt, code_named

_BLOCK_SECONDS: Final = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Metrics:
    """The figures of one node, in a registry of their own so that several nodes can share a process."""

    def __init__(self) -> None:
        """Start at zero."""
        self.registry: Final = CollectorRegistry()
        self._transactions = Counter(
            "carechain_transactions",
            "Transactions on the ledger since the start, by the outcome in their receipt.",
            ("outcome",),
            registry=self.registry,
        )
        self._refused = Counter(
            "carechain_refused_submissions",
            "Submissions that were not admitted since the start, by code.",
            ("code",),
            registry=self.registry,
        )
        self._blocks = Histogram(
            "carechain_block_seconds",
            "Time to execute a block and make it durable.",
            buckets=_BLOCK_SECONDS,
            registry=self.registry,
        )
        self._requests = Counter(
            "carechain_requests",
            "HTTP answers since the start, by route and status.",
            ("route", "status"),
            registry=self.registry,
        )
        self._answered: dict[tuple[str, int], Counter] = {}

    def gauge(self, name: str, about: str, read: Callable[[], float]) -> None:
        """Add a figure that is read when it is asked for."""
        Gauge(f"carechain_{name}", about, registry=self.registry).set_function(read)

    def block(self, receipts: Iterable[Receipt], seconds: float) -> None:
        """A block was made."""
        self._blocks.observe(seconds)
        counts: dict[int, int] = {}
        for receipt in receipts:
            counts[receipt.code] = counts.get(receipt.code, 0) + 1
        for number, count in counts.items():
            self._transactions.labels(_label(number)).inc(count)

    def refused(self, number: int) -> None:
        """A submission was not admitted."""
        self._refused.labels(_label(number)).inc()

    def answered(self, route: str, status: int) -> None:
        """An HTTP request was answered. ``route`` is the pattern, not the path, which may hold an id."""
        key = (route, status)
        counter = self._answered.get(key)
        if counter is None:
            counter = self._answered[key] = self._requests.labels(route, str(status))
        counter.inc()

    def exposition(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)


def _label(number: int) -> str:
    code = code_named(number)
    return code.label if code else "OK" if number == OK else str(number)
