"""The eraser's journal: what was found of an erased record, on disk before any of it is destroyed (REC-13).

Afterwards nobody could tell: the stores hold nothing any more. So a crash between destroying and the receipt would
leave the patient without one. The journal holds ids and a mask, nothing of the content. One SQLite file.
"""

from msgspec import Struct

from carechain.engine.database import Database


class JournalUnavailable(Exception):  # noqa: N818 - the state of the environment, not of the caller or the program
    """The eraser's journal cannot be used now: nothing is destroyed. Names the driver's error class only."""


class JournalTooNew(Exception):  # noqa: N818 - names what is wrong with the file
    """The eraser's journal was written by a newer release; run that release."""


class Noted(Struct, frozen=True, kw_only=True):
    """One erased record: the mask of what was found of it, and whether all of that is destroyed."""

    pseudonym: bytes
    record: bytes
    held: int
    destroyed: bool


class ErasureJournal(Database):
    """The file; every method raises :class:`JournalUnavailable` when it cannot be used."""

    tables = (
        """CREATE TABLE erasures (
            pseudonym BLOB NOT NULL, record BLOB NOT NULL, held INTEGER NOT NULL, destroyed INTEGER NOT NULL,
            settled INTEGER NOT NULL, PRIMARY KEY (pseudonym, record)
        ) WITHOUT ROWID""",
        "CREATE INDEX erasures_open ON erasures (pseudonym, record) WHERE settled = 0",
    )
    unavailable = JournalUnavailable
    too_new = JournalTooNew

    def begin(self, pseudonym: bytes, record: bytes, held: int) -> None:
        """Note what was found, before it is destroyed; what was found at an earlier attempt counts too."""
        self._execute(
            "INSERT INTO erasures VALUES (?, ?, ?, 0, 0)"
            " ON CONFLICT (pseudonym, record) DO UPDATE SET held = held | excluded.held, destroyed = 0",
            pseudonym,
            record,
            held,
        )

    def finish(self, pseudonym: bytes, record: bytes) -> None:
        """Everything that was found is destroyed."""
        self._execute("UPDATE erasures SET destroyed = 1 WHERE pseudonym = ? AND record = ?", pseudonym, record)

    def settle(self, pseudonym: bytes, record: bytes) -> None:
        """The ledger has the organisation's receipt."""
        self._execute("UPDATE erasures SET settled = 1 WHERE pseudonym = ? AND record = ?", pseudonym, record)

    def unfinished(self) -> list[Noted]:
        """What is not yet known to be destroyed in all its parts."""
        return self._noted("destroyed = 0")

    def without_receipt(self) -> list[Noted]:
        """What is destroyed and not yet confirmed on the ledger."""
        return self._noted("destroyed = 1 AND settled = 0")

    def _noted(self, condition: str) -> list[Noted]:
        query = f"SELECT pseudonym, record, held, destroyed FROM erasures WHERE {condition}"  # noqa: S608 - ours
        rows = self._select(query)
        return [
            Noted(pseudonym=pseudonym, record=record, held=held, destroyed=bool(destroyed))
            for pseudonym, record, held, destroyed in rows
        ]
