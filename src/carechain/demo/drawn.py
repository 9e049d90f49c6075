"""Randomness for a demonstration: streams of bytes that follow from a seed, so that a run can be repeated.

Whoever knows the seed knows every key made from it. Nothing outside the demonstration may use this.
"""

from hashlib import sha256


class Drawn:
    """SHA-256 in counter mode under a label; an ``entropy(n)`` for everything that asks for one."""

    __slots__ = ("_count", "_label")

    def __init__(self, seed: int, *label: str) -> None:
        """The stream named ``label``; streams with different labels share nothing."""
        self._label = "/".join(("carechain/demo", str(seed), *label)).encode()
        self._count = 0

    def __call__(self, size: int) -> bytes:
        """The next ``size`` bytes."""
        taken = b""
        while len(taken) < size:
            self._count += 1
            taken += sha256(self._label + self._count.to_bytes(8, "big")).digest()
        return taken[:size]
