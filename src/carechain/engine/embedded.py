"""The embedded engine: one process orders transactions and signs the blocks (proof of authority, LED-3, LED-7).

Everything here is synchronous and takes the time as an argument; the node's shell owns queue, clock and event loop.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Final, Self

from msgspec import Struct
from msgspec.structs import replace

from carechain.chain.header import Keeper
from carechain.chain.transition import Block
from carechain.core.crypto import SigningKey
from carechain.core.ids import party_id
from carechain.core.limits import BLOCK_SIZE_BYTES, BLOCK_TXS, HEARTBEAT_S
from carechain.engine.session import CommittedBlock, Session
from carechain.engine.txindex import admitted

BATCH_TIMEOUT_S: Final = 0.05
BATCH_TXS: Final = 1_000
BATCH_BYTES: Final = 4 * 1024 * 1024


class BatchPolicy(Struct, frozen=True, kw_only=True):
    """When waiting transactions become a block: enough of them, or the first has waited long enough.

    ``timeout_s`` counts from the arrival of the oldest waiting transaction. If ``eager``, nobody waits after a pause
    as long as that: waiting bounds how often blocks are made, and after a pause there is nothing to bound. Without any
    transaction, an empty block is due ``heartbeat_s`` after the last block, because block time must not stand still.
    """

    timeout_s: float = BATCH_TIMEOUT_S
    eager: bool = True
    txs: int = BATCH_TXS
    size_bytes: int = BATCH_BYTES
    heartbeat_s: float = float(HEARTBEAT_S)

    def __post_init__(self) -> None:
        """Raises ``ValueError`` for settings outside the protocol's bounds."""
        sound = (
            self.timeout_s >= 0
            and 1 <= self.txs <= BLOCK_TXS
            and 1 <= self.size_bytes <= BLOCK_SIZE_BYTES
            and 0 < self.heartbeat_s <= HEARTBEAT_S
        )
        if not sound:
            raise ValueError("batch settings out of range")

    def wait_s(
        self, *, count: int, size_bytes: int, first_arrival_s: float, last_block_s: float, now_s: float
    ) -> float:
        """How long a block can still wait, in seconds; 0 when one is due now.

        ``count`` and ``size_bytes`` are what waits; the three times are of one monotonic clock, and
        ``first_arrival_s`` means nothing while ``count`` is 0.
        """
        if count >= self.txs or size_bytes >= self.size_bytes:
            return 0.0
        due_s = last_block_s + self.heartbeat_s
        if count:
            since_s = min(last_block_s, first_arrival_s) if self.eager else first_arrival_s
            due_s = min(due_s, since_s + self.timeout_s)
        return max(0.0, due_s - now_s)

    def how_many(self, sizes_bytes: Sequence[int]) -> int:
        """How many of the waiting transactions, oldest first, go into the next block: at least one if any waits."""
        most = min(len(sizes_bytes), self.txs)
        within = sum(1 for total in accumulate(sizes_bytes[:most]) if total <= self.size_bytes)
        return max(within, min(most, 1))


class BlockProducer(Struct, frozen=True):
    """A member's key as the signer of blocks: of those it makes, or of its node's copies."""

    party: bytes
    key: SigningKey

    @classmethod
    def of(cls, key: SigningKey) -> Self:
        """The producer whose party id follows from its key."""
        return cls(party_id(key.suite, key.public_key), key)

    @property
    def keeper(self) -> Keeper:
        """The key as a header names it."""
        return Keeper(self.key.suite, self.key.public_key)

    def sign(self, message: bytes) -> bytes:
        """A 64-byte signature over ``message``."""
        return self.key.sign(message)


class EmbeddedEngine:
    """Orders what it is given, in the order it is given."""

    __slots__ = ("_producer", "session")

    def __init__(self, session: Session, producer: BlockProducer) -> None:
        """``producer`` must be one of the genesis' producers; otherwise the first block raises ``IllegalOrder``."""
        self.session = session
        self._producer = producer

    def produce(self, *, time_s: int, txs: Sequence[bytes]) -> CommittedBlock:
        """Make the next block durable and return it; with no ``txs`` it is a heartbeat.

        ``time_s`` is the wall clock; a clock that went back does not take block time with it. Transactions that fail
        admission now (expired, sent twice, signer gone) are left out of the block and returned in ``refused``.
        ``OSError`` ends the session: whether the block is durable shows only when it is opened again.
        """
        session = self.session
        head = session.head
        block = Block(height=head.height + 1, time_s=max(time_s, head.time_s), txs=tuple(txs))
        finalized = session.finalize(block)
        refused = tuple(
            (raw, receipt.code)
            for raw, receipt in zip(block.txs, finalized.receipts, strict=True)
            if not admitted(receipt)
        )
        if refused:
            # What is not admitted changes nothing, so the rest comes out as before.
            kept = tuple(raw for raw, receipt in zip(block.txs, finalized.receipts, strict=True) if admitted(receipt))
            session.finalize(Block(height=block.height, time_s=block.time_s, txs=kept))
            session.signatures.forget([raw for raw, _ in refused])
        committed = session.commit(self._producer)
        return replace(committed, refused=refused) if refused else committed
