"""Writes that can be taken back: a transaction inside a block over a committed snapshot (DESIGN section 4).

Three layers answer a read, innermost first: what the running transaction wrote, what earlier transactions of
the block wrote, and the committed snapshot. Only the innermost can be rolled back. What a transaction saw of
the world outside itself and what it wrote are kept, because receipts carry a digest of both (LED-9).
"""

from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from heapq import merge
from itertools import islice
from operator import itemgetter
from typing import Final, Protocol

from carechain.core.limits import STATE_KEY_BYTES, STATE_VALUE_BYTES
from carechain.state.ordered import OrderedKeys

_ABSENT: Final = b"\x00"
_PRESENT: Final = b"\x01"
_KEY_OF = itemgetter(0)


class Reader(Protocol):
    """What a query may do: read committed entries in key order, and nothing else."""

    def get(self, key: bytes) -> bytes | None:
        """The value under ``key``, or None."""

    def scan(
        self, prefix: bytes, after: bytes | None = None, limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        """Entries whose key starts with ``prefix``, ascending, those above ``after`` only, at most ``limit``."""


class Writer(Reader, Protocol):
    """A reader that also takes writes: an overlay."""

    def put(self, key: bytes, value: bytes) -> None:
        """Set ``key`` to ``value``."""

    def delete(self, key: bytes) -> None:
        """Remove ``key``; removing what is not there is allowed."""


class NoTransaction(RuntimeError):  # noqa: N818 - names the state the overlay is in
    """``commit`` or ``rollback`` outside a transaction, or ``begin`` inside one: a bug of the caller."""


class Overlay:
    """Buffered writes of one block over a reader, with one level of rollback for the running transaction.

    Outside ``begin`` … ``commit``/``rollback`` reads are not recorded and writes go to the block directly:
    that is what genesis and the block's own housekeeping use.
    """

    __slots__ = ("_base", "_block", "_block_keys", "_inside", "_pending", "_reads", "_writes")

    def __init__(self, base: Reader) -> None:
        """Start an empty block over ``base``, usually a committed snapshot."""
        self._base = base
        self._block: dict[bytes, bytes | None] = {}
        self._block_keys = OrderedKeys()
        # Keys of the block that are not yet in _block_keys: sorted only when a scan needs the order.
        self._pending: list[bytes] = []
        self._inside = False
        self._reads: dict[bytes, bytes | None] = {}
        self._writes: dict[bytes, bytes | None] = {}

    # --- reading ------------------------------------------------------------------------------------------

    def get(self, key: bytes) -> bytes | None:
        """The newest value under ``key``, or None when it is absent or deleted."""
        if not self._inside:
            return self._outer(key)
        writes = self._writes
        if key in writes:
            return writes[key]
        reads = self._reads
        if key in reads:
            return reads[key]
        block = self._block
        value = block[key] if key in block else self._base.get(key)
        reads[key] = value
        return value

    def scan(
        self, prefix: bytes, after: bytes | None = None, limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        """Entries whose key starts with ``prefix``, ascending, those above ``after`` only, at most ``limit``.

        The result is the state at the time of the call: writes made while iterating are not seen. Entries
        are recorded as read when the caller reaches them.
        """
        if not self._inside and not self._block:
            return self._base.scan(prefix, after, limit)
        mine = self._writes if self._inside else {}
        changed = self._changed_under(prefix, after, mine)
        # The transaction may go on writing while the caller iterates, so what it wrote is told apart now.
        return islice(self._merged(prefix, after, changed, frozenset(mine) if self._inside else None), limit)

    def _outer(self, key: bytes) -> bytes | None:
        block = self._block
        return block[key] if key in block else self._base.get(key)

    def _changed_under(
        self, prefix: bytes, after: bytes | None, mine: Mapping[bytes, bytes | None]
    ) -> dict[bytes, bytes | None]:
        """The block's and the transaction's entries in the scanned range, in key order."""
        for key in self._pending:
            self._block_keys.add(key)
        self._pending.clear()
        block = self._block
        changed = {key: block[key] for key in self._block_keys.under(prefix, after)}
        written = [key for key in mine if key.startswith(prefix) and (after is None or key > after)]
        if written:
            changed.update((key, mine[key]) for key in written)
            changed = dict(sorted(changed.items(), key=_KEY_OF))
        return changed

    def _merged(
        self,
        prefix: bytes,
        after: bytes | None,
        changed: Mapping[bytes, bytes | None],
        written: frozenset[bytes] | None,
    ) -> Iterator[tuple[bytes, bytes]]:
        """The base's entries and the changed ones; ``written`` is None when reads are not recorded."""
        below: Iterable[tuple[bytes, bytes | None]] = self._base.scan(prefix, after)
        reads = self._reads
        if changed:
            below = merge((entry for entry in below if entry[0] not in changed), changed.items(), key=_KEY_OF)
        for key, value in below:
            if value is None:
                continue
            if written is not None and key not in written:
                reads.setdefault(key, value)
            yield key, value

    # --- writing ------------------------------------------------------------------------------------------

    def put(self, key: bytes, value: bytes) -> None:
        """Set ``key`` to ``value``.

        Raises ``ValueError`` outside 1..STATE_KEY_BYTES or above STATE_VALUE_BYTES: contracts bound what
        they store, so a breach is a bug and not a refusal.
        """
        if not 0 < len(key) <= STATE_KEY_BYTES:
            raise ValueError(f"a state key has 1..{STATE_KEY_BYTES} bytes, not {len(key)}")
        if len(value) > STATE_VALUE_BYTES:
            raise ValueError(f"a state value has at most {STATE_VALUE_BYTES} bytes, not {len(value)}")
        if self._inside:
            self._writes[key] = value
        else:
            self._to_block(key, value)

    def delete(self, key: bytes) -> None:
        """Remove ``key``; removing what is not there is allowed and changes nothing."""
        if not 0 < len(key) <= STATE_KEY_BYTES:
            raise ValueError(f"a state key has 1..{STATE_KEY_BYTES} bytes, not {len(key)}")
        if self._inside:
            self._writes[key] = None
        else:
            self._to_block(key, None)

    def _to_block(self, key: bytes, value: bytes | None) -> None:
        if key not in self._block:
            self._pending.append(key)
        self._block[key] = value

    # --- the running transaction --------------------------------------------------------------------------

    def begin(self) -> None:
        """Start a transaction: from here reads are recorded and writes can be rolled back."""
        if self._inside:
            raise NoTransaction("a transaction is already running")
        self._inside = True
        self._reads = {}
        self._writes = {}

    def commit(self) -> None:
        """Keep the transaction's writes in the block. Its digests stay readable until the next ``begin``."""
        self._end()
        block = self._block
        self._pending += [key for key in self._writes if key not in block]
        block.update(self._writes)

    def rollback(self) -> None:
        """Forget the transaction's writes. What it read stays readable until the next ``begin``."""
        self._end()
        self._writes = {}

    def _end(self) -> None:
        if not self._inside:
            raise NoTransaction("no transaction is running")
        self._inside = False

    @property
    def reads(self) -> Mapping[bytes, bytes | None]:
        """What the last transaction saw from outside itself: key to value, None for absent."""
        return self._reads

    @property
    def writes(self) -> Mapping[bytes, bytes | None]:
        """What the last transaction wrote: key to value, None for deleted; empty after a rollback."""
        return self._writes

    def read_digest(self) -> bytes:
        """SHA-256 over :attr:`reads`, sorted by key."""
        return entries_digest(self._reads)

    def write_digest(self) -> bytes:
        """SHA-256 over :attr:`writes`, sorted by key."""
        return entries_digest(self._writes)

    # --- the block ----------------------------------------------------------------------------------------

    def changes(self) -> list[tuple[bytes, bytes | None]]:
        """Everything the block changed, sorted by key; None stands for deleted. What the tree is updated with.

        Raises :class:`NoTransaction` while a transaction is running, because its fate is open.
        """
        if self._inside:
            raise NoTransaction("a transaction is still running")
        return sorted(self._block.items(), key=_KEY_OF)


def entries_digest(entries: Mapping[bytes, bytes | None]) -> bytes:
    """SHA-256 over sorted entries: key length (2 bytes), key, then 0, or 1 and the SHA-256 of the value."""
    parts: list[bytes] = []
    for key in sorted(entries):
        value = entries[key]
        parts += (len(key).to_bytes(2, "big"), key)
        if value is None:
            parts.append(_ABSENT)
        else:
            parts += (_PRESENT, sha256(value).digest())
    return sha256(b"".join(parts)).digest()
