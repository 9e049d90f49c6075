"""Block headers: chained by hash, signed by the producer, committing to all of a block (LED-1, LED-3)."""

from collections.abc import Iterable
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from carechain.chain.receipts import Receipt, encode_receipt
from carechain.core import merkle
from carechain.core.codec import decode_strict, encode
from carechain.core.evidence import Evidence
from carechain.core.hashing import tagged
from carechain.core.ids import U8, U32, U63, Hash, PartyId, party_id
from carechain.core.limits import CHAIN_ID_CHARS, EVIDENCE_PER_BLOCK, SIGNATURE_SIZE
from carechain.core.party import PublicKey

HEADER_VERSION: Final = 1
SIGNING_DOMAIN: Final = b"carechain/block/1\x00"


class Header(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """``app_hash`` is the state's root after this block; roots are RFC 6962 trees over bytes as stored.

    ``tx_count`` is how many transactions the block has, and as many receipts: RFC 6962 proves an index only for a known
    number of leaves. ``producer`` is the organisation that put the block together, ``evidence`` what the engine found
    out about validators with it.
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
    evidence: Annotated[tuple[Evidence, ...], Meta(max_length=EVIDENCE_PER_BLOCK)] = ()


class Keeper(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The key of the organisation whose node keeps, and vouches for, this copy of a block."""

    suite: U8
    public_key: PublicKey

    @property
    def party(self) -> bytes:
        """The organisation's id, which follows from its key."""
        return party_id(self.suite, self.public_key)


class SealedHeader(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A header and a signature over it: by the producer where it orders alone, and then ``keeper`` is None.

    In a consortium the validators' signatures decide which block counts; here each node signs its own copy, so that
    nobody but the organisation itself can change what its node has on disk or tells others.
    """

    header: Header
    signature: Annotated[bytes, Meta(min_length=SIGNATURE_SIZE, max_length=SIGNATURE_SIZE)]
    keeper: Keeper | None = None


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
    return merkle.root(receipt_leaves(map(encode_receipt, receipts)))


def receipt_leaves(encoded: Iterable[bytes]) -> list[bytes]:
    """The leaves of that tree, from the receipts' bytes: each also says to an engine what came of a transaction."""
    return [merkle.leaf_hash(one) for one in encoded]
