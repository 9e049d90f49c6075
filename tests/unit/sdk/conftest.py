"""What the wallet and client tests share: repeatable entropy and cheap password work."""

import hashlib
from collections.abc import Callable

import pytest

from carechain.sealing.symmetric import ScryptCost


@pytest.fixture
def entropy() -> Callable[[int], bytes]:
    """A stream of bytes that is the same in every run and never repeats within one."""
    calls = iter(range(1_000_000))

    def take(size: int) -> bytes:
        return hashlib.shake_256(next(calls).to_bytes(4, "big")).digest(size)

    return take


@pytest.fixture
def cheap() -> ScryptCost:
    return ScryptCost(n=1024, r=1)
