"""No signature is verified twice on one node: a bounded memory of what held.

The memory's key covers suite, public key, signature and message, and the public key is looked up in the
state at execution, so a rotated key never inherits what its predecessor signed.
"""

from hashlib import sha256

from carechain.chain.tx import Tx
from carechain.core.crypto import verify
from carechain.core.limits import SIGNATURE_CACHE


class SignatureCache:
    """Verified signatures and decoded transactions, the oldest half dropped when full."""

    __slots__ = ("_held", "_parsed")

    def __init__(self) -> None:
        self._held: dict[bytes, None] = {}
        self._parsed: dict[bytes, Tx] = {}

    def check(self, *, suite: int, public_key: bytes, signature: bytes, message: bytes) -> None:
        """Verify, or remember having verified; raises ``BadSignature``."""
        key = fingerprint(suite, public_key, signature, message)
        if key not in self._held:
            verify(suite=suite, public_key=public_key, signature=signature, message=message)
            self.remember(key)

    def holds(self, key: bytes) -> bool:
        """Whether the signature with this fingerprint is known to hold."""
        return key in self._held

    def remember(self, key: bytes) -> None:
        """Note that the signature with this fingerprint held."""
        _make_room(self._held)
        self._held[key] = None

    def parsed(self, raw: bytes) -> Tx | None:
        """The decoded form of a transaction that was checked before."""
        return self._parsed.get(raw)

    def keep_parsed(self, tx: Tx) -> None:
        """Keep a decoded transaction until its block."""
        _make_room(self._parsed)
        self._parsed[tx.raw] = tx

    def forget(self, txs: tuple[bytes, ...]) -> None:
        """Drop the decoded forms of transactions that are on the ledger now."""
        for raw in txs:
            self._parsed.pop(raw, None)


def fingerprint(suite: int, public_key: bytes, signature: bytes, message: bytes) -> bytes:
    """SHA-256 over everything a verification depends on. Key and signature lengths are fixed by the suite."""
    return sha256(bytes([suite]) + public_key + signature + message).digest()


def _make_room(memory: "dict[bytes, None] | dict[bytes, Tx]") -> None:
    """Drop the older half: dictionaries keep the order of insertion."""
    if len(memory) >= SIGNATURE_CACHE:
        for key in list(memory)[: SIGNATURE_CACHE // 2]:
            del memory[key]
