"""Padding of anchors: whatever a record is and wherever it is kept, its anchor has one size (LED-15)."""

from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from carechain.contracts.records import Anchor
from carechain.core.codec import encode

ANCHOR_BYTES: Final = 256
"""The encoded size of every anchor, sealed or not: more than the longest version, day and resource count need."""
_BIN8_BYTES: Final = 255
"""A longer locator has a longer prefix."""


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
