"""Tables of refusals: one row per rejection code, each a function that arranges a world and names what is refused.

A row is registered with :class:`Rows` under its code; ``limits`` lowers a protocol bound for this row, so that reaching
it takes a few messages instead of thousands. ``tests/unit/contracts/test_rejection_coverage.py`` fails for any code
without a row.
"""

from collections.abc import Callable
from types import ModuleType

import pytest

from carechain.core.message import Message
from carechain.core.rejection import RejectionCode
from world import Signer, World

Limits = tuple[tuple[ModuleType, str, int], ...]
Attempt = tuple[Signer, Message] | tuple[Signer, Message, int]
"""Who sends what, and at which block time if not a second after the last block."""
Arrange = Callable[[World], Attempt]


class Rows:
    """The rows of one contract."""

    def __init__(self) -> None:
        self.rows: list[tuple[RejectionCode, str, Arrange, Limits]] = []
        self.direct: list[RejectionCode] = []
        """Codes that the two gates before a handler make unreachable; their tests call the handler itself."""

    def row(self, code: RejectionCode, *, limits: Limits = ()) -> Callable[[Arrange], Arrange]:
        """Register a row."""

        def register(arrange: Arrange) -> Arrange:
            self.rows.append((code, arrange.__name__, arrange, limits))
            return arrange

        return register

    def params(self) -> list[object]:
        """The rows as pytest wants them."""
        return [
            pytest.param(code, arrange, limits, id=f"{code.label}-{name}") for code, name, arrange, limits in self.rows
        ]

    def covered(self) -> set[RejectionCode]:
        """Every code with a row or with a test of its own."""
        return {code for code, *_ in self.rows} | set(self.direct)


def check_refused(
    world: World, code: RejectionCode, arrange: Arrange, limits: Limits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arrange, send, and see exactly this code, no event, no change of state, and every invariant intact."""
    attempt = arrange(world)
    for module, name, value in limits:
        monkeypatch.setattr(module, name, value)
    sender, message = attempt[0], attempt[1]
    world.refused(code, message, by=sender, at=attempt[2] if len(attempt) > 2 else None)
    assert world.broken() == []
