"""Receipts: what became of one ordered transaction (LED-9).

Stored is only what cannot be worked out from the transaction again: the code, the events, and digests of
what was read and written. Keys and values of the sets are hashed, so nothing private is repeated.
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from carechain.chain.routing import CONTRACT_CODES, AnyEvent
from carechain.chain.tx import AdmissionCode, parse
from carechain.core.codec import decode_strict, encode
from carechain.core.hashing import ZERO_HASH, digest
from carechain.core.ids import U8, U16, Hash
from carechain.core.message import tag_of
from carechain.core.rejection import Rejected, RejectionCode

OK: Final = 0
CODES: Final[tuple[type[RejectionCode], ...]] = (AdmissionCode, *CONTRACT_CODES)
_BY_NUMBER: Final[dict[int, RejectionCode]] = {int(code): code for group in CODES for code in group}


class Receipt(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """``code`` 0 is done; otherwise the check that failed, in message number ``message``."""

    code: U16
    message: U8 = 0
    events: Annotated[tuple[AnyEvent, ...], Meta(max_length=1024)] = ()
    reads: Hash = ZERO_HASH
    writes: Hash = ZERO_HASH


class FullReceipt(Struct, frozen=True, kw_only=True):
    """A receipt with everything LED-9 asks for: what a person or an auditor is shown."""

    tx_id: bytes
    height: int
    index: int
    contract: str
    messages: tuple[str, ...]
    request: bytes
    code: int
    label: str
    reason: str
    failed_message: int
    events: tuple[AnyEvent, ...]
    reads: bytes
    writes: bytes
    signer: bytes


_receipts = msgspec.msgpack.Decoder(Receipt)


def encode_receipt(receipt: Receipt) -> bytes:
    """The stored bytes of a receipt; their RFC 6962 root stands in the block's header."""
    return encode(receipt)


def decode_receipt(data: bytes) -> Receipt:
    """The inverse; raises ``Malformed``."""
    return decode_strict(_receipts, data)


def code_named(number: int) -> RejectionCode | None:
    """The rejection code with this number; None for 0 and for numbers nobody owns."""
    return _BY_NUMBER.get(number)


def describe(raw: bytes, receipt: Receipt, *, height: int, index: int) -> FullReceipt:
    """Complete a stored receipt from its transaction. Bytes that were never a transaction have no id but their hash."""
    code = code_named(receipt.code)
    try:
        tx = parse(raw)
        tags = tuple(tag_of(type(msg)) for msg in tx.body.messages)
        tx_id, request, signer = tx.id, digest(tx.body_bytes), tx.body.sender
    except Rejected:
        tags, tx_id, request, signer = (), digest(raw), digest(raw), b""
    return FullReceipt(
        tx_id=tx_id,
        height=height,
        index=index,
        contract=tags[0].partition(".")[0] if tags else "",
        messages=tags,
        request=request,
        code=receipt.code,
        label=code.label if code else "OK",
        reason=code.reason if code else "Done.",
        failed_message=receipt.message,
        events=receipt.events,
        reads=receipt.reads,
        writes=receipt.writes,
        signer=signer,
    )
