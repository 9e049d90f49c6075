"""Replay protection without sequence numbers: an id is refused until its own validity has passed.

The ids stay outside the state tree, because there are many and they are short-lived. Inside it stands, per
minute of expiry, how many there are and a hash running over them, so a node that takes over a snapshot can
check the ids it was given.
"""

from typing import Final

from carechain.core.hashing import ZERO_HASH, tagged
from carechain.core.ids import U32, Hash
from carechain.core.limits import REPLAY_BUCKET_S, REPLAY_IDS
from carechain.core.message import Row
from carechain.state.overlay import Overlay
from carechain.state.table import TableSpec


class ReplayRow(Row, frozen=True):
    """The ids that expire within one minute: their number, and the hash over them in ledger order."""

    count: U32
    running: Hash


REPLAY: Final = TableSpec(
    name="chain.replay", prefix=0x02, key=(8,), row=ReplayRow, note="minute of expiry → digest of the ids"
)


class ReplayWindow:
    """The ids of transactions that could still be sent again."""

    __slots__ = ("_buckets", "_ids", "_new")

    def __init__(self) -> None:
        self._ids: set[bytes] = set()
        self._buckets: dict[int, list[bytes]] = {}
        self._new: dict[int, list[bytes]] = {}

    def __contains__(self, tx_id: bytes) -> bool:
        return tx_id in self._ids

    @property
    def is_full(self) -> bool:
        """Whether no further id fits: admission then refuses, the same on every node."""
        return len(self._ids) >= REPLAY_IDS

    def add(self, tx_id: bytes, valid_until_s: int) -> None:
        """Remember an id of the block being made."""
        self._ids.add(tx_id)
        self._new.setdefault(valid_until_s // REPLAY_BUCKET_S, []).append(tx_id)

    def abandon(self) -> None:
        """Forget the ids of a block that was finalised but not committed."""
        for ids in self._new.values():
            self._ids.difference_update(ids)
        self._new.clear()

    def close_block(self, state: Overlay) -> None:
        """Write the digests of the minutes that gained ids."""
        table = REPLAY.bind(state)
        for minute in sorted(self._new):
            ids = self._new[minute]
            row = table.get(minute) or ReplayRow(count=0, running=ZERO_HASH)
            running = tagged("carechain/replay/1", row.running, *ids)
            table.put(minute, row=ReplayRow(count=row.count + len(ids), running=running))

    def drop_expired(self, state: Overlay, time_s: int) -> None:
        """Remove the digests of minutes that are over; called only in blocks that carry transactions."""
        table = REPLAY.bind(state)
        for (minute,), _ in list(table.scan()):
            if (minute + 1) * REPLAY_BUCKET_S > time_s:
                break
            table.delete(minute)

    def commit(self, time_s: int) -> None:
        """Keep the block's ids, and forget those that can no longer be admitted."""
        for minute, ids in self._new.items():
            self._buckets.setdefault(minute, []).extend(ids)
        self._new.clear()
        for minute in [one for one in self._buckets if (one + 1) * REPLAY_BUCKET_S <= time_s]:
            self._ids.difference_update(self._buckets.pop(minute))
