"""Block headers: chained by hash, signed by the producer, committing to all of a block (LED-1, LED-3)."""

from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from carechain.chain.receipts import Receipt, encode_receipt
from carechain.core import merkle
from carechain.core.codec import decode_strict, encode
from carechain.core.hashing import tagged
from carechain.core.ids import U8, U32, U63, Hash, PartyId
from carechain.core.limits import CHAIN_ID_CHARS, SIGNATURE_SIZE

HEADER_VERSION: Final = 1
SIGNING_DOMAIN: Final = b"carechain/block/1\x00"


class Header(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """``app_hash`` is the state's root after this block; roots are RFC 6962 trees over bytes as stored.

    ``tx_count`` is how many transactions the block has, and as many receipts: RFC 6962 proves an index only for a known
    number of leaves.
    """

    version: U8 = HEADER_VERSION
    chain_id: Annotated[str, Meta(min_length=1, max_length=CHAIN_ID_CHARS)]
    height: U63
    time_s: U63
    previous: Hash
    tx_count: U32
    tx_root: Hash
    receipt_root: Hash
    app_hash: Hash
    producer: PartyId


class SealedHeader(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A header and the producer's signature over it."""

    header: Header
    signature: Annotated[bytes, Meta(min_length=SIGNATURE_SIZE, max_length=SIGNATURE_SIZE)]


_sealed = msgspec.msgpack.Decoder(SealedHeader)


def header_hash(header: Header) -> bytes:
    """The block's hash: what the next header names as ``previous``."""
    return tagged("carechain/header/1", encode(header))


def signing_bytes(header: Header) -> bytes:
    """What the producer signs."""
    return SIGNING_DOMAIN + encode(header)


def decode_sealed(data: bytes) -> SealedHeader:
    """Strict decoding; raises ``Malformed``."""
    return decode_strict(_sealed, data)


def tx_root(txs: tuple[bytes, ...]) -> bytes:
    """The RFC 6962 root over the transactions' bytes."""
    return merkle.root([merkle.leaf_hash(raw) for raw in txs])


def receipt_root(receipts: list[Receipt]) -> bytes:
    """The RFC 6962 root over the receipts' bytes."""
    return merkle.root([merkle.leaf_hash(encode_receipt(receipt)) for receipt in receipts])
