"""Messages between receipt and filing, on disk: an acknowledged message survives whatever happens to the process.

A message is in the file, synced, before its sender hears AA. When it has been filed its text is overwritten; a
fingerprint keyed with this journal's own salt stays, so that the same message sent again is acknowledged and not filed
again. What the charts refuse stays, with the code, until an operator has it filed again or drops it.
"""

import secrets
from enum import IntEnum
from hashlib import blake2b
from pathlib import Path

from msgspec import Struct

from carechain.core.limits import HL7_REMEMBERED, HL7_WAITING
from carechain.core.rejection import Rejected, RejectionCode
from carechain.engine.database import Database
from carechain.sources.imports.codes import ImportCode

_SALT_BYTES = 32


class JournalUnavailable(Exception):  # noqa: N818 - names the state of affairs
    """The journal of the HL7 feed cannot be used: check the disk, and that only one node works on this home."""


class JournalTooNew(Exception):  # noqa: N818 - names the state of affairs
    """The journal of the HL7 feed was written by a newer version of carechain. Install that version."""


class State(IntEnum):
    """What became of a message."""

    WAITING = 0
    FILED = 1
    REFUSED = 2


class Waiting(Struct, frozen=True, kw_only=True):
    """A message to be filed; ``received_s`` is Unix time."""

    seq: int
    received_s: int
    body: bytes

    def __repr__(self) -> str:
        return f"Waiting(seq={self.seq})"


class Kept(Struct, frozen=True, kw_only=True):
    """A message that was refused when it was to be filed."""

    seq: int
    received_s: int
    code: int


class Counts(Struct, frozen=True, kw_only=True):
    """How many messages are in which state; of those filed, as many as are remembered."""

    waiting: int
    filed: int
    refused: int


class Journal(Database):
    """The file; every method raises :class:`JournalUnavailable` when it cannot be used."""

    tables = (
        "CREATE TABLE secret (salt BLOB NOT NULL)",
        """CREATE TABLE messages (
            seq INTEGER PRIMARY KEY AUTOINCREMENT, fingerprint BLOB NOT NULL UNIQUE, received_s INTEGER NOT NULL,
            state INTEGER NOT NULL, code INTEGER NOT NULL DEFAULT 0, body BLOB
        )""",
        "CREATE INDEX messages_by_state ON messages (state, seq)",
    )
    # No write-ahead log: it would keep a filed message's text after the table has overwritten it.
    pragmas = ("journal_mode=TRUNCATE", "synchronous=EXTRA", "secure_delete=ON")
    unavailable = JournalUnavailable
    too_new = JournalTooNew

    def __init__(self, path: Path, *, limit: int = HL7_WAITING) -> None:
        """Open or make the journal, for at most ``limit`` waiting messages."""
        super().__init__(path)
        self._limit = limit
        try:
            self._salt = self._write(self._own_salt)
        except BaseException:
            self.close()
            raise

    def _own_salt(self) -> bytes:
        self._connection.execute(
            "INSERT INTO secret SELECT ? WHERE NOT EXISTS (SELECT 1 FROM secret)", (secrets.token_bytes(_SALT_BYTES),)
        )
        return bytes(self._connection.execute("SELECT salt FROM secret").fetchone()[0])

    def add(self, body: bytes, *, received_s: int) -> bool:
        """Keep a message durably; False when it is known already. Raises ``Rejected(FEED_FULL)``."""
        mark = blake2b(body, key=self._salt, digest_size=32).digest()

        def write() -> bool:
            if self._connection.execute("SELECT 1 FROM messages WHERE fingerprint = ?", (mark,)).fetchone():
                return False
            waiting = "SELECT count(*) FROM messages WHERE state = ?"
            if self._connection.execute(waiting, (State.WAITING,)).fetchone()[0] >= self._limit:
                raise Rejected(ImportCode.FEED_FULL)
            self._connection.execute(
                "INSERT INTO messages (fingerprint, received_s, state, body) VALUES (?, ?, ?, ?)",
                (mark, received_s, State.WAITING, body),
            )
            return True

        return self._write(write)

    def next(self) -> Waiting | None:
        """The oldest message that waits."""
        query = "SELECT seq, received_s, body FROM messages WHERE state = ? ORDER BY seq LIMIT 1"
        rows = self._select(query, State.WAITING)
        return Waiting(seq=rows[0][0], received_s=rows[0][1], body=bytes(rows[0][2])) if rows else None

    def filed(self, seq: int) -> None:
        """A message is in the charts: its text goes."""

        def write() -> None:
            self._connection.execute("UPDATE messages SET state = ?, body = NULL WHERE seq = ?", (State.FILED, seq))
            old = (State.FILED, seq - HL7_REMEMBERED)
            self._connection.execute("DELETE FROM messages WHERE state = ? AND seq <= ?", old)

        self._write(write)

    def refused(self, seq: int, code: RejectionCode) -> None:
        """The charts refuse a message: it stays, and those behind it go on."""
        self._execute("UPDATE messages SET state = ?, code = ? WHERE seq = ?", State.REFUSED, int(code), seq)

    def retry(self) -> int:
        """Have refused messages filed again; returns how many."""
        return self._execute("UPDATE messages SET state = ?, code = 0 WHERE state = ?", State.WAITING, State.REFUSED)

    def drop(self, seq: int) -> bool:
        """Give up a refused message and its text; False when there is none with this number."""
        return self._execute("DELETE FROM messages WHERE state = ? AND seq = ?", State.REFUSED, seq) > 0

    def kept(self, *, after: int = 0, limit: int = 200) -> list[Kept]:
        """Refused messages with a number above ``after``, in order."""
        query = "SELECT seq, received_s, code FROM messages WHERE state = ? AND seq > ? ORDER BY seq LIMIT ?"
        rows = self._select(query, State.REFUSED, after, limit)
        return [Kept(seq=seq, received_s=received_s, code=code) for seq, received_s, code in rows]

    def counts(self) -> Counts:
        """How many messages are in which state."""
        found = dict(self._select("SELECT state, count(*) FROM messages GROUP BY state"))
        return Counts(
            waiting=found.get(State.WAITING, 0), filed=found.get(State.FILED, 0), refused=found.get(State.REFUSED, 0)
        )
