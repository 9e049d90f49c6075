"""Replay protection without sequence numbers: an id is refused until its own validity has passed.

The ids stay outside the state tree, because there are many and they are short-lived. Inside it stands, per
minute of expiry, how many there are and a hash running over them, so a node that takes over a snapshot can
check the ids it was given.
"""

from collections.abc import Iterable, Iterator
from typing import Annotated, Final

from msgspec import Meta

from carechain.core.hashing import ZERO_HASH, tagged
from carechain.core.ids import U32, U63, Hash
from carechain.core.limits import BLOCK_TXS, REPLAY_BUCKET_S, REPLAY_IDS
from carechain.core.message import Row
from carechain.state.overlay import Overlay, Reader
from carechain.state.table import TableSpec


class ReplayRow(Row, frozen=True):
    """The ids that expire within one minute: their number, and the hash over them in ledger order."""

    count: U32
    running: Hash


REPLAY: Final = TableSpec(
    name="chain.replay", prefix=0x02, key=(8,), row=ReplayRow, note="minute of expiry → digest of the ids"
)


Group = tuple[U63, Annotated[tuple[Hash, ...], Meta(max_length=BLOCK_TXS)]]
"""A minute of expiry, and the ids that one block added to it: what the running hash takes in at once."""


class WindowMismatch(Exception):  # noqa: N818 - names what is wrong with the ids
    """The ids are not those whose digest the state has."""


class ReplayWindow:
    """The ids of transactions that could still be sent again."""

    __slots__ = ("_block", "_buckets", "_ids", "_new")

    def __init__(self) -> None:
        self._ids: set[bytes] = set()
        """Of committed blocks."""
        self._block: set[bytes] = set()
        """Of the block being made."""
        self._buckets: dict[int, list[list[bytes]]] = {}
        self._new: dict[int, list[bytes]] = {}

    def __contains__(self, tx_id: bytes) -> bool:
        return tx_id in self._ids or tx_id in self._block

    @property
    def is_full(self) -> bool:
        """Whether no further id fits: admission then refuses, the same on every node."""
        return len(self._ids) + len(self._block) >= REPLAY_IDS

    def committed(self) -> "ReplayWindow":
        """The same without the block being made: a view for admission, which goes along and is not added to.

        Who asks while a block waits for its commit must not hear that its transaction is on the ledger already.
        """
        view = ReplayWindow()
        view._ids = self._ids
        return view

    def add(self, tx_id: bytes, valid_until_s: int) -> None:
        """Remember an id of the block being made."""
        self._block.add(tx_id)
        self._new.setdefault(valid_until_s // REPLAY_BUCKET_S, []).append(tx_id)

    def abandon(self) -> None:
        """Forget the ids of a block that was finalised but not committed."""
        self._block.clear()
        self._new.clear()

    def close_block(self, state: Overlay) -> None:
        """Write the digests of the minutes that gained ids."""
        table = REPLAY.bind(state)
        for minute in sorted(self._new):
            ids = self._new[minute]
            row = table.get(minute) or ReplayRow(count=0, running=ZERO_HASH)
            table.put(minute, row=ReplayRow(count=row.count + len(ids), running=_running(row, ids)))

    def drop_expired(self, state: Overlay, time_s: int) -> None:
        """Remove the digests of minutes that are over; called only in blocks that carry transactions."""
        table = REPLAY.bind(state)
        for (minute,), _ in list(table.scan()):
            if not is_over(minute, time_s):
                break
            table.delete(minute)

    def commit(self, time_s: int) -> None:
        """Keep the block's ids, and forget those that can no longer be admitted."""
        for minute, ids in self._new.items():
            self._buckets.setdefault(minute, []).append(ids)
        self._new.clear()
        self._ids |= self._block
        self._block.clear()
        for minute in [one for one in self._buckets if is_over(one, time_s)]:
            self._ids.difference_update(*self._buckets.pop(minute))

    def groups(self) -> tuple[Group, ...]:
        """The ids of committed blocks, minute by minute and in each in ledger order: the same on every node."""
        return tuple((minute, tuple(ids)) for minute in sorted(self._buckets) for ids in self._buckets[minute])

    def take_over(self, groups: Iterable[Group]) -> None:
        """Remember the ids that a snapshot, or the base of a log, has beside the state."""
        for minute, ids in groups:
            self._ids.update(ids)
            self._buckets.setdefault(minute, []).append(list(ids))


def is_over(minute: int, time_s: int) -> bool:
    """Whether nothing that expires within this minute can be admitted any more."""
    return (minute + 1) * REPLAY_BUCKET_S <= time_s


def check_window(groups: Iterable[Group], state: Reader, time_s: int) -> None:
    """Check ids that came with a state as of ``time_s`` against its digests. Raises :class:`WindowMismatch`.

    Digests of minutes that are over are not looked at: they stay until the next block with transactions.
    """
    rows: dict[int, ReplayRow] = {}
    last = 0
    for minute, ids in groups:
        if minute < last or is_over(minute, time_s) or not ids:
            raise WindowMismatch("ids out of order, or of a minute that is over")
        last = minute
        row = rows.get(minute) or ReplayRow(count=0, running=ZERO_HASH)
        rows[minute] = ReplayRow(count=row.count + len(ids), running=_running(row, ids))
    if rows != dict(_live_rows(state, time_s)):
        raise WindowMismatch("the ids do not have the digest that the state has")


def _live_rows(state: Reader, time_s: int) -> Iterator[tuple[int, ReplayRow]]:
    for (minute,), row in REPLAY.bind(state).scan():
        if isinstance(minute, int) and not is_over(minute, time_s):
            yield minute, row


def _running(row: ReplayRow, ids: Iterable[bytes]) -> bytes:
    """The hash over the ids of a minute once these were added."""
    return tagged("carechain/replay/1", row.running, *ids)
