"""From what the charts stored to the messages that anchor it, in transactions within their bounds (REC-1, LED-15)."""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from carechain.charts.record import StoredRecord
from carechain.contracts.records import Anchor
from carechain.core.codec import encode
from carechain.core.limits import TX_MESSAGES, TX_SIZE_BYTES
from carechain.core.message import Message
from carechain.sdk.padding import padded

_ENVELOPE_BYTES: Final = 1024
"""More than envelope, chain id, sender, nonce and signature need."""


def anchor_of(record: StoredRecord, *, entropy: Callable[[int], bytes]) -> Anchor:
    """The ledger's commitment to one record version. Ids, a root and grades: nothing of the content."""
    return padded(_bare(record), entropy=entropy)


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
