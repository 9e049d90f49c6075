"""Where a transaction stands: from its id to height and index.

Entries since the last checkpoint are in memory; older ones are keys of a side table, written with the checkpoint.
A key is a shelf, the first 12 bytes of the id, then height and index, and has no value: two ids that begin alike
simply give two candidates, and the caller compares whole ids. Only admitted transactions are found, because what
fails admission may be sent again and stand in several blocks.

A shelf takes half a million transactions, then the next one begins. Ids are random, so a checkpoint touches most
pages of the shelf it writes to, and without shelves it would rewrite more and more as the ledger grows. A look-up
asks one shelf after another, the newest first, at a few microseconds each.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
from msgspec import Struct

from carechain.chain.receipts import Receipt
from carechain.chain.tx import AdmissionCode, Envelope, tx_id
from carechain.core.ids import U63, Nonce, PartyId
from carechain.core.limits import BLOCK_TXS
from carechain.state.store import NodeStore, Side

SIDE_TABLE: Final = "txs"
COUNT: Final = "txs"
"""The name under which the store remembers how many transactions are in the table."""
_SHELF_BITS: Final = 19
_SHELF_BYTES: Final = 4
_ID_BYTES: Final = 12
_HEIGHT_BYTES: Final = 6
_INDEX_BYTES: Final = 2
_ADMISSION: Final = frozenset(int(code) for code in AdmissionCode)


class _BodyStart(Struct, array_like=True):
    """The first fields of a body; the messages after them are not decoded."""

    chain_id: str
    sender: PartyId
    nonce: Nonce
    valid_until_s: U63


_envelopes = msgspec.msgpack.Decoder(Envelope)
_starts = msgspec.msgpack.Decoder(_BodyStart)


def admitted(receipt: Receipt) -> bool:
    """Whether the transaction passed admission, however it fared then."""
    return receipt.code not in _ADMISSION


def id_of(raw: bytes) -> bytes | None:
    """A transaction's id from its bytes; None for bytes that are no transaction."""
    try:
        return tx_id(_envelopes.decode(raw).body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def id_and_validity(raw: bytes) -> tuple[bytes, int]:
    """The id and ``valid_until_s`` of a transaction that was admitted, so its form is known to be good."""
    body = _envelopes.decode(raw).body
    return tx_id(body), _starts.decode(body).valid_until_s


class TxIndex:
    """The transactions of one node's ledger."""

    __slots__ = ("_recent", "_store", "_written")

    def __init__(self, store: NodeStore) -> None:
        """The index whose older part is in ``store``; raises ``StoreDamaged`` when that cannot be right."""
        self._store = store
        self._recent: dict[bytes, tuple[int, int]] = {}
        self._written = int.from_bytes(store.meta().get(COUNT, b""), "big")
        if self._written > store.height * BLOCK_TXS:
            # Look-ups go by this number, so a wrong one must not be tried out.
            raise store.condemn("the transaction index states more transactions than there can be")

    def complete(self) -> bool:
        """Whether the store has as many entries as it remembers to have been given."""
        return self._store.side_count(SIDE_TABLE) == self._written

    def add(self, height: int, tx_ids: Sequence[bytes | None], receipts: Sequence[Receipt]) -> None:
        """Note the admitted transactions of a block."""
        recent = self._recent
        for index, (one, receipt) in enumerate(zip(tx_ids, receipts, strict=True)):
            if one is not None and receipt.code not in _ADMISSION:
                recent[one] = height, index

    def candidates(self, tx_id: bytes) -> Iterator[tuple[int, int]]:
        """Places (height, index) where the transaction may stand; the caller compares ids."""
        place = self._recent.get(tx_id)
        if place is not None:
            yield place
            return
        for shelf in range(self._written >> _SHELF_BITS, -1, -1):
            for key, _ in self._store.side_scan(SIDE_TABLE, side_prefix(shelf, tx_id)):
                yield place_in(key)

    def unwritten(self) -> list[Side]:
        """The side-table entries of everything since the last checkpoint."""
        shelf = self._written >> _SHELF_BITS
        return [(SIDE_TABLE, side_key(shelf, one, *place), b"") for one, place in self._recent.items()]

    def meta(self) -> dict[str, bytes]:
        """What the store has to remember with :meth:`unwritten`."""
        return {COUNT: (self._written + len(self._recent)).to_bytes(8, "big")}

    def written(self) -> None:
        """The entries are in the store now."""
        self._written += len(self._recent)
        self._recent.clear()


def side_prefix(shelf: int, tx_id: bytes) -> bytes:
    """What the side-table keys of one transaction on one shelf begin with."""
    return shelf.to_bytes(_SHELF_BYTES, "big") + tx_id[:_ID_BYTES]


def side_key(shelf: int, tx_id: bytes, height: int, index: int) -> bytes:
    """The side-table key of one transaction."""
    return side_prefix(shelf, tx_id) + height.to_bytes(_HEIGHT_BYTES, "big") + index.to_bytes(_INDEX_BYTES, "big")


def place_in(key: bytes) -> tuple[int, int]:
    """Height and index of a side-table key."""
    place = key[_SHELF_BYTES + _ID_BYTES :]
    return int.from_bytes(place[:_HEIGHT_BYTES], "big"), int.from_bytes(place[_HEIGHT_BYTES:], "big")
