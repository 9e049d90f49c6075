"""Which records have which search tokens: the vault's half of the blind index (KEY-4).

Tokens are 32 bytes made under a key that the vault does not have. It learns which records of one pseudonym share a
token, and which tokens are searched together: nothing else. One SQLite file.
"""

from collections.abc import Collection

from carechain.core.hashing import HASH_SIZE
from carechain.core.limits import SEARCH_SCAN_RECORDS, TOKENS_PER_RECORD, TOKENS_PER_SEARCH
from carechain.core.rejection import require
from carechain.vault.codes import VaultCode
from carechain.vault.metering import VaultDatabase


class TokenStore(VaultDatabase):
    """Tokens by pseudonym and record."""

    tables = (
        """CREATE TABLE tokens (
            pseudonym BLOB NOT NULL, token BLOB NOT NULL, record BLOB NOT NULL, PRIMARY KEY (pseudonym, token, record)
        ) WITHOUT ROWID""",
        "CREATE INDEX tokens_record ON tokens (pseudonym, record)",
    )

    def put(self, pseudonym: bytes, record: bytes, tokens: Collection[bytes]) -> None:
        """Replace a record's tokens; raises ``Rejected``."""
        found = sorted(set(tokens))
        require(len(found) <= TOKENS_PER_RECORD, VaultCode.TOO_MANY_TOKENS)
        require(all(len(one) == HASH_SIZE for one in (pseudonym, record, *found)), VaultCode.REQUEST_MALFORMED)

        def write() -> None:
            self._connection.execute("DELETE FROM tokens WHERE pseudonym = ? AND record = ?", (pseudonym, record))
            self._connection.executemany(
                "INSERT INTO tokens VALUES (?, ?, ?)", [(pseudonym, token, record) for token in found]
            )

        self._write(write)

    def delete(self, pseudonym: bytes, record: bytes) -> bool:
        """Destroy a record's tokens, in the file too; says whether there were any."""
        found = self._execute("DELETE FROM tokens WHERE pseudonym = ? AND record = ?", pseudonym, record) > 0
        self._forget_log()
        return found

    def holds(self, pseudonym: bytes, record: bytes) -> bool:
        """Whether the record has tokens here."""
        query = "SELECT 1 FROM tokens WHERE pseudonym = ? AND record = ? LIMIT 1"
        return bool(self._select(query, pseudonym, record))

    def search(self, pseudonym: bytes, tokens: Collection[bytes], *, after: bytes = b"") -> list[bytes]:
        """The records, in ascending order behind ``after``, that have every one of the tokens; no token finds nothing.

        Raises ``Rejected``: ``TOO_MANY_TOKENS``, and ``SEARCH_TOO_WIDE`` for more than ``SEARCH_SCAN_RECORDS``.
        """
        wanted = sorted(set(tokens))
        require(len(wanted) <= TOKENS_PER_SEARCH, VaultCode.TOO_MANY_TOKENS)
        require(all(len(one) == HASH_SIZE for one in (pseudonym, *wanted)), VaultCode.REQUEST_MALFORMED)
        if not wanted:
            return []
        places = ", ".join("?" * len(wanted))
        rows = self._select(
            f"SELECT record FROM tokens WHERE pseudonym = ? AND token IN ({places}) AND record > ?"  # noqa: S608 - marks
            " GROUP BY record HAVING count(*) = ? ORDER BY record LIMIT ?",
            pseudonym,
            *wanted,
            after,
            len(wanted),
            SEARCH_SCAN_RECORDS + 1,
        )
        require(len(rows) <= SEARCH_SCAN_RECORDS, VaultCode.SEARCH_TOO_WIDE)
        return [bytes(record) for (record,) in rows]
