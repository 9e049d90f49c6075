"""Randomness for a demonstration: streams of bytes that follow from a seed, so that a run can be repeated.

Whoever knows the seed knows every key made from it. Nothing outside the demonstration may use this.
"""

from hashlib import sha256
from threading import Lock


class Drawn:
    """SHA-256 in counter mode under a label; an ``entropy(n)`` for everything that asks for one, from any thread."""

    __slots__ = ("_count", "_label", "_turn")

    def __init__(self, seed: int, *label: str) -> None:
        """The stream named ``label``; streams with different labels share nothing."""
        self._label = "/".join(("carechain/demo", str(seed), *label)).encode()
        self._count = 0
        self._turn = Lock()

    def __call__(self, size: int) -> bytes:
        """The next ``size`` bytes."""
        taken = b""
        while len(taken) < size:
            # Keyholders compute in threads: two that drew the same bytes would sign with the same nonce.
            with self._turn:
                self._count += 1
                number = self._count
            taken += sha256(self._label + number.to_bytes(8, "big")).digest()
        return taken[:size]
