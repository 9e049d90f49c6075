"""Small arithmetic on measurements: percentiles, and the one yardstick every rate is held against."""

from collections.abc import Sequence
from hashlib import shake_256
from math import ceil
from time import perf_counter
from typing import Final

from carechain.core.crypto import SEED_SIZE, SigningKey, Suite, verify

_YARDSTICK_KEYS: Final = 50
_YARDSTICK_SIGNATURES: Final = 2_000
_YARDSTICK_MESSAGE_BYTES: Final = 530
"""About what is signed of a 600-byte transaction."""


def percentile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` (0 to 1) of all values do not exceed (nearest rank); ``ValueError`` without values."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    return ordered[max(0, ceil(share * len(ordered)) - 1)]


def milliseconds(seconds: float) -> float:
    """Milliseconds, to the microsecond."""
    return round(seconds * 1000, 3)


def verifications_per_s() -> float:
    """Ed25519 verifications a second on one core, by the ledger's own verifier, now: rates are read as its multiples.

    The best of three rounds, because whatever else runs on the machine can only slow one down.
    """
    keys = [SigningKey(suite=Suite.ED25519, seed=_drawn(number, SEED_SIZE)) for number in range(_YARDSTICK_KEYS)]
    cases = []
    for number in range(_YARDSTICK_SIGNATURES):
        key, message = keys[number % len(keys)], _drawn(number, _YARDSTICK_MESSAGE_BYTES)
        cases.append((key.public_key, key.sign(message), message))
    best_s = min(_round_s(cases) for _ in range(3))
    return len(cases) / best_s


def _round_s(cases: list[tuple[bytes, bytes, bytes]]) -> float:
    started = perf_counter()
    for public_key, signature, message in cases:
        verify(suite=Suite.ED25519, public_key=public_key, signature=signature, message=message)
    return perf_counter() - started


def _drawn(number: int, size: int) -> bytes:
    return shake_256(number.to_bytes(4, "big")).digest(size)
