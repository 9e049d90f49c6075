"""No signature is verified twice on one node: a bounded memory of what held.

The memory's key covers suite, public key, signature and message, and the public key is looked up in the
state at execution, so a rotated key never inherits what its predecessor signed.
"""

from collections.abc import Mapping, Sequence
from hashlib import sha256

from carechain.chain.tx import Tx
from carechain.core.crypto import verify
from carechain.core.limits import SIGNATURE_CACHE, SUBMIT_QUEUE_BYTES


class SignatureCache:
    """Verified signatures and decoded transactions, the oldest half dropped when full.

    Decoded transactions are bounded by their bytes as well, since one may be a hundred times as large as another.
    """

    __slots__ = ("_held", "_parsed", "_parsed_bytes")

    def __init__(self) -> None:
        self._held: dict[bytes, None] = {}
        self._parsed: dict[bytes, Tx] = {}
        self._parsed_bytes = 0

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
        if len(self._held) >= SIGNATURE_CACHE:
            for oldest in _older_half(self._held):
                del self._held[oldest]
        self._held[key] = None

    def parsed(self, raw: bytes) -> Tx | None:
        """The decoded form of a transaction that was checked before."""
        return self._parsed.get(raw)

    def keep_parsed(self, tx: Tx) -> None:
        """Keep a decoded transaction until its block."""
        if tx.raw in self._parsed:
            return
        if len(self._parsed) >= SIGNATURE_CACHE or self._parsed_bytes >= SUBMIT_QUEUE_BYTES:
            self.forget(_older_half(self._parsed))
        self._parsed[tx.raw] = tx
        self._parsed_bytes += len(tx.raw)

    def forget(self, txs: Sequence[bytes]) -> None:
        """Drop the decoded forms of transactions that are on the ledger now, or never will be."""
        for raw in txs:
            if self._parsed.pop(raw, None) is not None:
                self._parsed_bytes -= len(raw)


def fingerprint(suite: int, public_key: bytes, signature: bytes, message: bytes) -> bytes:
    """SHA-256 over everything a verification depends on. Key and signature lengths are fixed by the suite."""
    return sha256(bytes([suite]) + public_key + signature + message).digest()


def _older_half(memory: Mapping[bytes, object]) -> list[bytes]:
    """The keys that were inserted first: dictionaries keep the order of insertion."""
    return list(memory)[: (len(memory) + 1) // 2]
