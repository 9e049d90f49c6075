"""What a node of the distributed store keeps for others, in one SQLite file that outlives the process.

It replaces the library's storage in memory. Room is bounded, in all and per member that stores, so no member can fill
it. What is acknowledged is synced to the disk; records that arrive together share one sync.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from kademlia.storage import IStorage

from carechain.core.limits import DHT_RECORDS_PER_KEY, QUERY_PAGE_ROWS
from carechain.vault.kademlia_records import BadRecord, Kind, Record, key_of, stored_record
from carechain.vault.metering import VaultDatabase

_OVERHEAD_BYTES: Final = 256
"""What a row takes beside the record."""
_PEERS: Final = 64


class Kept(NamedTuple):
    """Whether a record is kept now; if not because it was taken back, the record that says so."""

    ok: bool
    gone: bytes | None = None


class RecordFile(VaultDatabase):
    """The file."""

    tables = (
        """CREATE TABLE records (
            id INTEGER PRIMARY KEY, key BLOB NOT NULL, signer BLOB NOT NULL, kind INTEGER NOT NULL,
            time_s INTEGER NOT NULL, kept_s INTEGER NOT NULL, raw BLOB NOT NULL, UNIQUE (key, signer)
        )""",
        "CREATE INDEX records_kept ON records (kept_s)",
        "CREATE TABLE peers (host TEXT NOT NULL, port INTEGER NOT NULL, PRIMARY KEY (host, port)) WITHOUT ROWID",
        "CREATE TABLE own (address BLOB PRIMARY KEY, size INTEGER NOT NULL) WITHOUT ROWID",
    )

    def __init__(self, path: Path, *, capacity_bytes: int, signer_bytes: int) -> None:
        """Open or create the file; ``signer_bytes`` is what one member may have of ``capacity_bytes``."""
        super().__init__(path)
        self._capacity = capacity_bytes
        self._share = signer_bytes
        rows = self._select("SELECT signer, sum(length(raw) + ?) FROM records GROUP BY signer", _OVERHEAD_BYTES)
        self._used = {bytes(signer): int(used) for signer, used in rows}

    @property
    def used_bytes(self) -> int:
        """What is taken of the capacity."""
        return sum(self._used.values())

    def keep(self, records: Sequence[tuple[Record, bytes]], now_s: int) -> list[Kept]:
        """Keep checked records, all in one synced transaction; says of each what became of it."""

        def write() -> tuple[list[Kept], dict[bytes, int]]:
            used = dict(self._used)
            return [self._keep(record, raw, now_s, used) for record, raw in records], used

        kept, self._used = self._write(write)
        return kept

    def _keep(self, record: Record, raw: bytes, now_s: int, used: dict[bytes, int]) -> Kept:
        key = key_of(record.address)
        found = self._connection.execute("SELECT signer, time_s, kind, raw FROM records WHERE key = ?", (key,))
        others = {bytes(signer): row for signer, *row in found}
        old = others.get(record.signer)
        if old is not None and (old[0], old[1] == Kind.GONE) >= (record.time_s, record.kind is Kind.GONE):
            if old[1] == Kind.GONE and record.kind is not Kind.GONE:
                return Kept(ok=False, gone=bytes(old[2]))
            self._connection.execute(
                "UPDATE records SET kept_s = ? WHERE key = ? AND signer = ?", (now_s, key, record.signer)
            )
            return Kept(ok=True)
        if old is None and len(others) >= DHT_RECORDS_PER_KEY:
            return Kept(ok=False)
        freed = 0 if old is None else len(old[2]) + _OVERHEAD_BYTES
        grown = len(raw) + _OVERHEAD_BYTES - freed
        mine = used.get(record.signer, 0) + grown
        if grown > 0 and (mine > self._share or sum(used.values()) + grown > self._capacity):
            return Kept(ok=False)
        self._connection.execute(
            "INSERT OR REPLACE INTO records (key, signer, kind, time_s, kept_s, raw) VALUES (?, ?, ?, ?, ?, ?)",
            (key, record.signer, record.kind, record.time_s, now_s, raw),
        )
        used[record.signer] = mine
        return Kept(ok=True)

    def values(self, key: bytes) -> list[bytes]:
        """The records of a key that hold something, at most ``DHT_RECORDS_PER_KEY``."""
        rows = self._select("SELECT raw FROM records WHERE key = ? AND kind != ? ORDER BY id", key, int(Kind.GONE))
        return [bytes(raw) for (raw,) in rows[:DHT_RECORDS_PER_KEY]]

    def older_than(self, kept_s: int) -> Iterator[tuple[int, bytes, bytes]]:
        """Every record last confirmed before ``kept_s``: its number, key and bytes; read in pages."""
        after = 0
        while page := self._select(
            "SELECT id, key, raw FROM records WHERE kept_s < ? AND id > ? ORDER BY id LIMIT ?",
            kept_s,
            after,
            QUERY_PAGE_ROWS,
        ):
            yield from ((int(number), bytes(key), bytes(raw)) for number, key, raw in page)
            after = page[-1][0]

    def confirm(self, number: int, now_s: int) -> None:
        """The record was published again just now."""
        self._execute("UPDATE records SET kept_s = ? WHERE id = ?", now_s, number)

    def drop(self, number: int, signer: bytes, size: int) -> None:
        """Forget a record that belongs to nobody any more."""
        if self._execute("DELETE FROM records WHERE id = ?", number):
            self._used[signer] = max(0, self._used.get(signer, 0) - size - _OVERHEAD_BYTES)

    def count(self) -> int:
        """How many records are kept."""
        return int(self._select("SELECT count(*) FROM records")[0][0])

    # --- what this node itself must not forget --------------------------------------------------------------

    def peers(self) -> list[tuple[str, int]]:
        """Where other nodes were when this one last looked."""
        return [(str(host), int(port)) for host, port in self._select("SELECT host, port FROM peers")]

    def note_peers(self, peers: Sequence[tuple[str, int]]) -> None:
        """Remember where other nodes are; none at all leaves what is remembered."""
        if not peers:
            return

        def write() -> None:
            self._connection.execute("DELETE FROM peers")
            self._connection.executemany("INSERT OR IGNORE INTO peers VALUES (?, ?)", peers[:_PEERS])

        self._write(write)

    def note_own(self, address: bytes, size: int) -> None:
        """This node stores the object in the network."""
        self._execute("INSERT OR IGNORE INTO own VALUES (?, ?)", address, size)

    def forget_own(self, address: bytes) -> bool:
        """The object was taken back; says whether this node had stored it."""
        return self._execute("DELETE FROM own WHERE address = ?", address) > 0

    def is_own(self, address: bytes) -> bool:
        """Whether this node has stored the object, or has begun to."""
        return bool(self._select("SELECT 1 FROM own WHERE address = ?", address))

    def own(self) -> Iterator[bytes]:
        """What this node stored, in ascending order; read in pages."""
        after = b""
        while page := self._select(
            "SELECT address FROM own WHERE address > ? ORDER BY address LIMIT ?", after, QUERY_PAGE_ROWS
        ):
            yield from (bytes(address) for (address,) in page)
            after = page[-1][0]


class PersistentStorage(IStorage):
    """The file as the library sees it: keys of 20 bytes, and signed records as values."""

    def __init__(self, file: RecordFile, clock: Callable[[], int]) -> None:
        self.file: Final = file
        self._clock = clock

    def __setitem__(self, key: bytes, value: bytes) -> None:
        """Keep a record that was checked; one that is of another key is not."""
        try:
            record = stored_record(value)
        except BadRecord:
            return
        if key_of(record.address) == key:
            self.file.keep([(record, value)], self._clock())

    def __getitem__(self, key: bytes) -> bytes:
        """One record of a key; raises ``KeyError``."""
        value = self.get(key)
        if value is None:
            raise KeyError(key)
        return value

    def get(self, key: bytes, default: bytes | None = None) -> bytes | None:
        """One record of a key."""
        values = self.file.values(key)
        return values[0] if values else default

    def iter_older_than(self, seconds_old: int) -> Iterator[tuple[bytes, bytes]]:
        """The records that were not confirmed for so long."""
        return ((key, raw) for _, key, raw in self.file.older_than(self._clock() - seconds_old))

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        """Every record."""
        return ((key, raw) for _, key, raw in self.file.older_than(self._clock() + 1))
