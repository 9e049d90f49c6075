"""What a stored block must show by itself: its bounds, a header that follows the last, its producer's signature.

Recovery and ``verify`` share these checks.
"""

from collections.abc import Sequence

from msgspec import Struct

from carechain.chain.genesis import Genesis
from carechain.chain.header import (
    HEADER_VERSION,
    Header,
    SealedHeader,
    decode_sealed,
    receipt_root,
    signing_bytes,
    tx_root,
)
from carechain.chain.receipts import Receipt, decode_receipt
from carechain.core.codec import Malformed
from carechain.core.crypto import BadSignature, verify
from carechain.core.ids import party_id
from carechain.core.limits import BLOCK_SIZE_BYTES, BLOCK_TXS
from carechain.engine.blocklog import CorruptHistory, StoredBlock


class Sealers(Struct, frozen=True):
    """Whose signature under a block counts: the genesis' producers (LED-3), or the one organisation that keeps it."""

    producers: dict[bytes, tuple[int, bytes]]
    """Party id of each producer to its suite and public key, as the genesis has them; empty in a consortium."""
    keeper: bytes | None = None

    @classmethod
    def of(cls, genesis: Genesis, keeper: bytes | None = None) -> "Sealers":
        """For a network, and in a consortium for the copy that the organisation ``keeper`` has."""
        founders = {party_id(new.suite, new.public_key): (new.suite, new.public_key) for new in genesis.members}
        known = {producer: founders[producer] for producer in genesis.producers if producer in founders}
        return cls(known, None if known else keeper)

    def key_of(self, sealed: SealedHeader) -> tuple[int, bytes] | None:
        """Suite and public key of the signature, or None when nobody who counts claims to have made it."""
        if sealed.keeper is None:
            return self.producers.get(sealed.header.producer)
        if self.keeper is None or sealed.keeper.party != self.keeper:
            return None
        return sealed.keeper.suite, sealed.keeper.public_key


def read_header(height: int, stored: StoredBlock) -> SealedHeader:
    """The block's header, which must be of this height and number of transactions. Raises :class:`CorruptHistory`."""
    try:
        sealed = decode_sealed(stored.header)
    except Malformed:
        raise CorruptHistory(height, "the header is malformed") from None
    if sealed.header.height != height:
        raise CorruptHistory(height, f"the header is that of block {sealed.header.height}")
    if sealed.header.tx_count != len(stored.txs):
        raise CorruptHistory(height, "there are not as many transactions as the header states")
    return sealed


def read_receipts(height: int, stored: StoredBlock) -> tuple[Receipt, ...]:
    """The block's receipts, one per transaction. Raises :class:`CorruptHistory`."""
    if len(stored.receipts) != len(stored.txs):
        raise CorruptHistory(height, "there is not one receipt per transaction")
    try:
        return tuple(decode_receipt(data) for data in stored.receipts)
    except Malformed:
        raise CorruptHistory(height, "a receipt is malformed") from None


def beyond_bounds(txs: Sequence[bytes]) -> bool:
    """Whether a block of these transactions is larger than a block may be."""
    return len(txs) > BLOCK_TXS or sum(map(len, txs)) > BLOCK_SIZE_BYTES


def check_header(sealed: SealedHeader, *, chain_id: str, previous: bytes, time_s: int, sealers: Sealers) -> None:
    """Check that the header follows the block with hash ``previous`` and time ``time_s``, and who signed it.

    Raises :class:`CorruptHistory`. The roots are for the caller, who executes the block.
    """
    check_follows(sealed.header, previous=previous, time_s=time_s)
    check_signed(sealed, chain_id=chain_id, sealers=sealers)


def check_follows(header: Header, *, previous: bytes, time_s: int) -> None:
    """Check that the header follows the block with hash ``previous`` and time ``time_s``.

    Raises :class:`CorruptHistory`.
    """
    if header.previous != previous:
        raise CorruptHistory(header.height, "the block does not follow the one before it")
    if header.time_s < time_s:
        raise CorruptHistory(header.height, "block time goes back")


def check_signed(sealed: SealedHeader, *, chain_id: str, sealers: Sealers) -> None:
    """Check the header's version and chain, and that somebody signed it whose signature counts.

    Raises :class:`CorruptHistory`.
    """
    header = sealed.header
    if header.version != HEADER_VERSION:
        raise CorruptHistory(header.height, "the header's version is unknown")
    if header.chain_id != chain_id:
        raise CorruptHistory(header.height, "the block is of another chain")
    key = sealers.key_of(sealed)
    if key is None:
        raise CorruptHistory(header.height, "nobody sealed it whose signature counts here")
    suite, public_key = key
    try:
        verify(suite=suite, public_key=public_key, signature=sealed.signature, message=signing_bytes(header))
    except BadSignature:
        raise CorruptHistory(header.height, "the signature over the header does not hold") from None


def check_contents(header: Header, stored: StoredBlock) -> tuple[Receipt, ...]:
    """Check transactions and receipts against the roots that the header states; returns the receipts.

    Raises :class:`CorruptHistory`.
    """
    if beyond_bounds(stored.txs):
        raise CorruptHistory(header.height, "the block is larger than a block may be")
    if tx_root(stored.txs) != header.tx_root:
        raise CorruptHistory(header.height, "the transactions are not those that the header states")
    receipts = read_receipts(header.height, stored)
    if receipt_root(list(receipts)) != header.receipt_root:
        raise CorruptHistory(header.height, "the receipts are not those that the header states")
    return receipts
