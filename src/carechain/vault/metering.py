"""What is stored for whom, how large, since when and until when: the measure that rent is paid by.

One SQLite file. It knows addresses, pseudonyms, organisations and sizes, never what is in an object. It also remembers
which addresses were erased, so that these are not taken again, and how far a scrub has come.
"""

from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from carechain.core.hashing import ZERO_HASH
from carechain.core.limits import QUERY_PAGE_ROWS
from carechain.engine.database import Database
from carechain.vault.base import VaultUnavailable

NOBODY: Final = ZERO_HASH
"""The pseudonym under which copies for other organisations stand: whose they are is not told along."""


class StoreTooNew(OSError):  # noqa: N818 - names what is wrong with the file
    """The file was written by a newer release; run that release."""


class Usage(Struct, frozen=True, kw_only=True):
    """What one pseudonym used in a span of time: byte-seconds, and objects that were there at some moment of it."""

    pseudonym: bytes
    byte_seconds: int
    objects: int
    bytes_now: int


class VaultDatabase(Database):
    """A file of the vault's."""

    unavailable = VaultUnavailable
    too_new = StoreTooNew


class Metering(VaultDatabase):
    """The books of one vault. Times are Unix seconds, sizes bytes."""

    tables = (
        """CREATE TABLE holdings (
            address BLOB NOT NULL, pseudonym BLOB NOT NULL, party BLOB NOT NULL, size INTEGER NOT NULL,
            from_s INTEGER NOT NULL, to_s INTEGER
        )""",
        "CREATE UNIQUE INDEX holdings_live ON holdings (address, pseudonym, party) WHERE to_s IS NULL",
        "CREATE INDEX holdings_pseudonym ON holdings (pseudonym, from_s)",
        "CREATE INDEX holdings_party ON holdings (party, size) WHERE to_s IS NULL",
        "CREATE TABLE erased (address BLOB PRIMARY KEY, at_s INTEGER NOT NULL) WITHOUT ROWID",
        "CREATE TABLE progress (name TEXT PRIMARY KEY, state BLOB NOT NULL) WITHOUT ROWID",
    )

    def begin(self, address: bytes, *, pseudonym: bytes, party: bytes, size: int, now_s: int) -> bool:
        """From now on the object is held for this pseudonym and organisation; False when it was already."""
        changed = self._execute(
            "INSERT OR IGNORE INTO holdings (address, pseudonym, party, size, from_s) VALUES (?, ?, ?, ?, ?)",
            address,
            pseudonym,
            party,
            size,
            now_s,
        )
        return changed > 0

    def end(self, address: bytes, *, now_s: int, party: bytes | None = None) -> bool:
        """The object is held no more, for ``party`` or for anybody; says whether it was."""
        changed = self._execute(
            "UPDATE holdings SET to_s = max(?, from_s) WHERE address = ? AND to_s IS NULL AND (? IS NULL OR party = ?)",
            now_s,
            address,
            party,
            party,
        )
        return changed > 0

    def erase(self, address: bytes, *, now_s: int) -> None:
        """Remember that this object was erased, and end what was held."""

        def write() -> None:
            self._connection.execute("INSERT OR IGNORE INTO erased VALUES (?, ?)", (address, now_s))
            self._connection.execute(
                "UPDATE holdings SET to_s = max(?, from_s) WHERE address = ? AND to_s IS NULL", (now_s, address)
            )

        self._write(write)

    def is_erased(self, address: bytes) -> bool:
        """Whether the object was erased."""
        return bool(self._select("SELECT 1 FROM erased WHERE address = ?", address))

    def is_held(self, address: bytes, party: bytes | None = None) -> bool:
        """Whether the object is held, for this organisation or for anybody."""
        return bool(
            self._select(
                "SELECT 1 FROM holdings WHERE address = ? AND to_s IS NULL AND (? IS NULL OR party = ?) LIMIT 1",
                address,
                party,
                party,
            )
        )

    def held_bytes(self, party: bytes) -> int:
        """What an organisation has stored here now."""
        ((total,),) = self._select(
            "SELECT coalesce(sum(size), 0) FROM holdings WHERE party = ? AND to_s IS NULL", party
        )
        return int(total)

    def live(self, after: bytes = b"") -> Iterator[tuple[bytes, int]]:
        """Every address that is held, with its size, in ascending order; read in pages."""
        while page := self._select(
            "SELECT address, max(size) FROM holdings WHERE to_s IS NULL AND address > ?"
            " GROUP BY address ORDER BY address LIMIT ?",
            after,
            QUERY_PAGE_ROWS,
        ):
            yield from ((bytes(address), int(size)) for address, size in page)
            after = page[-1][0]

    def usage(self, pseudonym: bytes, from_s: int, to_s: int) -> int:
        """Byte-seconds of one pseudonym within ``from_s`` (included) and ``to_s`` (not included).

        An object counts once, also where several organisations wrote it.
        """
        return self._usage(pseudonym, from_s, to_s).byte_seconds

    def usages(self, from_s: int, to_s: int, after: bytes = b"") -> Iterator[Usage]:
        """What each pseudonym used, in the order of pseudonyms; those that used nothing are left out."""
        while page := self._select(
            "SELECT DISTINCT pseudonym FROM holdings WHERE pseudonym > ? AND from_s < ? AND coalesce(to_s, ?) > ?"
            " ORDER BY pseudonym LIMIT ?",
            after,
            to_s,
            to_s,
            from_s,
            QUERY_PAGE_ROWS,
        ):
            yield from (self._usage(bytes(pseudonym), from_s, to_s) for (pseudonym,) in page)
            after = page[-1][0]

    def _usage(self, pseudonym: bytes, from_s: int, to_s: int) -> Usage:
        rows = self._select(
            "SELECT address, size, max(from_s, ?), min(coalesce(to_s, ?), ?), to_s FROM holdings"
            " WHERE pseudonym = ? AND from_s < ? AND coalesce(to_s, ?) > ? ORDER BY address, from_s",
            from_s,
            to_s,
            to_s,
            pseudonym,
            to_s,
            to_s,
            from_s,
        )
        # Python's integers: a terabyte for ten years is more byte-seconds than the database can add up.
        total, now, seen, last, until = 0, 0, 0, b"", 0
        counted_now = b""
        for address, size, begins, ends, ended in rows:
            if address != last:
                seen, last, until = seen + 1, address, from_s
            total += size * max(0, ends - max(begins, until))
            until = max(until, ends)
            if ended is None and counted_now != address:
                now, counted_now = now + size, address
        return Usage(pseudonym=pseudonym, byte_seconds=total, objects=seen, bytes_now=now)

    def totals(self) -> tuple[int, int, int]:
        """How many objects are held, their bytes, and how many addresses were erased."""
        ((objects, size),) = self._select(
            "SELECT count(*), coalesce(sum(size), 0) FROM"
            " (SELECT max(size) AS size FROM holdings WHERE to_s IS NULL GROUP BY address)"
        )
        ((erased,),) = self._select("SELECT count(*) FROM erased")
        return int(objects), int(size), int(erased)

    def progress(self, name: str) -> bytes | None:
        """What a long work noted last, to go on from."""
        found = self._select("SELECT state FROM progress WHERE name = ?", name)
        return bytes(found[0][0]) if found else None

    def note_progress(self, name: str, state: bytes | None) -> None:
        """Note how far a long work has come; None when it is done."""
        if state is None:
            self._execute("DELETE FROM progress WHERE name = ?", name)
        else:
            self._execute("INSERT OR REPLACE INTO progress VALUES (?, ?)", name, state)
