"""From what the charts stored to the messages that anchor it, in transactions within their bounds (REC-1, LED-15)."""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from msgspec.structs import replace

from carechain.charts.record import StoredRecord
from carechain.contracts.records import Anchor
from carechain.core.codec import encode
from carechain.core.limits import TX_MESSAGES, TX_SIZE_BYTES
from carechain.core.message import Message

_ENVELOPE_BYTES: Final = 1024
"""More than envelope, chain id, sender, nonce and signature need."""
ANCHOR_BYTES: Final = 256
"""The encoded size of every anchor, sealed or not: more than the longest version, day and resource count need."""
_BIN8_BYTES: Final = 255
"""A longer locator has a longer prefix."""


def anchor_of(record: StoredRecord, *, entropy: Callable[[int], bytes]) -> Anchor:
    """The ledger's commitment to one record version. Ids, a root and grades: nothing of the content."""
    return padded(_bare(record), entropy=entropy)


def padded(anchor: Anchor, *, entropy: Callable[[int], bytes]) -> Anchor:
    """The anchor with a locator that brings it to :data:`ANCHOR_BYTES`, whatever it had before.

    Charts find a record by its id and vaults an object by its address, so no pointer is needed and the locator is
    random bytes: neither a transaction's length nor the locator tells one record from another (LED-15). The two hashes
    of a sealed record take the place of padding, so that who sees the length alone does not learn which records are
    sealed. Members see it in the anchor itself, and must: it says who is asked for the content.
    ``entropy(n)`` gives ``n`` random bytes. Raises ``ValueError`` for an anchor of no possible size.
    """
    padding_bytes = ANCHOR_BYTES - len(encode(replace(anchor, locator=b"")))
    if not 0 < padding_bytes <= _BIN8_BYTES:
        raise ValueError("an anchor does not fit its one size")
    return replace(anchor, locator=entropy(padding_bytes))


def _bare(record: StoredRecord) -> Anchor:
    return Anchor(
        pseudonym=record.pseudonym,
        record=record.record_id,
        version=record.version,
        root=record.root,
        resources=record.resource_count,
        category=record.category,
        sensitivity=record.sensitivity,
        day=record.effective_day,
        locator=b"",
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
