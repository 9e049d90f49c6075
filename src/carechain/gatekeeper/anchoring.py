"""From what the charts stored to the messages that anchor it, in transactions within their bounds (REC-1, LED-15)."""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from carechain.charts.record import StoredRecord
from carechain.contracts.records import Anchor
from carechain.core.codec import encode
from carechain.core.limits import TX_MESSAGES, TX_SIZE_BYTES
from carechain.core.message import Message

_ENVELOPE_BYTES: Final = 1024
"""More than envelope, chain id, sender, nonce and signature need."""
ANCHOR_BYTES: Final = 256
"""The encoded size of every anchor: more than the longest version, day and resource count need."""
_BIN8_BYTES: Final = 255
"""A longer locator has a longer prefix."""


def anchor_of(record: StoredRecord, *, entropy: Callable[[int], bytes]) -> Anchor:
    """The ledger's commitment to one record version. Ids, a root and grades: nothing of the content.

    Charts find a record by its id and need no pointer, so the locator is random bytes that bring every anchor to
    :data:`ANCHOR_BYTES`: neither a transaction's length nor the locator tells one record from another (LED-15).
    ``entropy(n)`` gives ``n`` random bytes.
    """
    bare = _anchor(record, locator=b"")
    padding_bytes = ANCHOR_BYTES - len(encode(bare))
    if not 0 < padding_bytes <= _BIN8_BYTES:
        raise ValueError("an anchor does not fit its one size")
    return _anchor(record, locator=entropy(padding_bytes))


def _anchor(record: StoredRecord, *, locator: bytes) -> Anchor:
    return Anchor(
        pseudonym=record.pseudonym,
        record=record.record_id,
        version=record.version,
        root=record.root,
        resources=record.resource_count,
        category=record.category,
        sensitivity=record.sensitivity,
        day=record.effective_day,
        locator=locator,
    )


def in_transactions(messages: Iterable[Message]) -> Iterator[tuple[Message, ...]]:
    """The messages in their order, cut so that each part fits one transaction (all about one pseudonym)."""
    part: list[Message] = []
    size_bytes = _ENVELOPE_BYTES
    for message in messages:
        own_bytes = len(encode(message))
        if part and (len(part) == TX_MESSAGES or size_bytes + own_bytes > TX_SIZE_BYTES):
            yield tuple(part)
            part, size_bytes = [], _ENVELOPE_BYTES
        part.append(message)
        size_bytes += own_bytes
    if part:
        yield tuple(part)
