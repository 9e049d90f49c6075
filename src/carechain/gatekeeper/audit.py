"""The gatekeeper's audit: every read, allowed or refused, on disk before it is answered (AUD-1, AUD-3).

One SQLite file per gatekeeper, synced at every commit. An entry holds ids, numbers and codes only. Each carries a
hash over its predecessor's, so an entry altered or removed behind our back breaks the chain at its place. What is to
be reported to the ledger, and with which signed bytes, stands in the same file: a crash between a report and the note
that it was made is repaired by sending the same bytes again.
"""

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from carechain.core.codec import Malformed, decode_strict, encode
from carechain.core.hashing import ZERO_HASH, tagged
from carechain.core.ids import U16, U32, U63, PartyId, RecordId, TicketId
from carechain.core.limits import GATEKEEPER_RECORDS, RELEASE_DIGESTS
from carechain.engine.database import Database


class AuditUnavailable(Exception):  # noqa: N818 - the state of the environment, not of the caller or the program
    """The audit cannot be written or read now: nothing may be released. Names the driver's error class only."""


class AuditDamaged(Exception):  # noqa: N818 - names what is wrong with the file
    """The audit's chain of hashes is broken: somebody or something altered it. Names the first wrong entry."""

    def __init__(self, number: int) -> None:
        super().__init__(f"audit entry {number} does not continue the chain")
        self.number = number


class AuditTooNew(Exception):  # noqa: N818 - names what is wrong with the file
    """The file was written by a newer release; run that release."""


class Read(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """One attempt to read. ``code`` is 0 when ``records`` (id, version) were released, else a GatekeeperCode.

    ``at_s`` is Unix time, ``height`` the block whose state decided. In a refusal ``records`` names what it is about.
    """

    at_s: U63
    height: U63
    requester: PartyId
    ticket: TicketId
    code: U16
    records: Annotated[tuple[tuple[RecordId, U32], ...], Meta(max_length=GATEKEEPER_RECORDS)]


class Numbered(Struct, frozen=True, kw_only=True):
    """An audit entry with its number, counted from 1, and the chain's value after it."""

    number: int
    read: Read
    running: bytes


class Batch(Struct, frozen=True, kw_only=True):
    """Reads under one ticket that the ledger does not know of yet: how many records, and the digest over the reads."""

    ticket: bytes
    numbers: tuple[int, ...]
    records: int
    digest: bytes


class Report(Struct, frozen=True, kw_only=True):
    """A report that is on its way: the signed bytes, and until when (block time) they could be admitted."""

    id: int
    ticket: bytes
    records: int
    digest: bytes
    valid_until_s: int
    raw: bytes


_reads = msgspec.msgpack.Decoder(Read)


def running_hash(previous: bytes, entry: bytes) -> bytes:
    """The chain's next value over an entry's bytes."""
    return tagged("carechain/audit/1", previous, entry)


def reads_digest(running: list[bytes]) -> bytes:
    """What a report anchors: a hash over the chain's values after each of the reported reads, in their order."""
    return tagged("carechain/reads/1", *running)


class Audit(Database):
    """The file; every method raises :class:`AuditUnavailable` when it cannot be used."""

    tables = (
        """CREATE TABLE reports (
            id INTEGER PRIMARY KEY, ticket BLOB NOT NULL, records INTEGER NOT NULL, digest BLOB NOT NULL,
            valid_until_s INTEGER NOT NULL, raw BLOB NOT NULL, settled INTEGER NOT NULL, code INTEGER NOT NULL
        )""",
        """CREATE TABLE reads (
            seq INTEGER PRIMARY KEY, ticket BLOB NOT NULL, released INTEGER NOT NULL, entry BLOB NOT NULL,
            running BLOB NOT NULL, report INTEGER REFERENCES reports (id)
        )""",
        "CREATE INDEX reads_unreported ON reads (ticket, seq) WHERE report IS NULL AND released > 0",
        "CREATE INDEX reports_open ON reports (id) WHERE settled = 0",
    )
    unavailable = AuditUnavailable
    too_new = AuditTooNew

    def append(self, read: Read) -> int:
        """Write one entry; returns its number. Only after this may the read be answered."""
        entry = encode(read)
        released = len(read.records) if not read.code else 0

        def write() -> int:
            last = self._connection.execute("SELECT seq, running FROM reads ORDER BY seq DESC LIMIT 1").fetchone()
            number, previous = (last[0] + 1, last[1]) if last else (1, ZERO_HASH)
            self._connection.execute(
                "INSERT INTO reads (seq, ticket, released, entry, running) VALUES (?, ?, ?, ?, ?)",
                (number, read.ticket, released, entry, running_hash(previous, entry)),
            )
            return int(number)

        return self._write(write)

    def entries(self, after: int = 0, limit: int = RELEASE_DIGESTS) -> list[Numbered]:
        """A page of entries, oldest first; raises :class:`AuditDamaged` for one that cannot be read."""
        rows = self._select("SELECT seq, entry, running FROM reads WHERE seq > ? ORDER BY seq LIMIT ?", after, limit)
        return [
            Numbered(number=number, read=_decoded(number, entry), running=running) for number, entry, running in rows
        ]

    def check(self) -> int:
        """Recompute the chain; returns how many entries there are. Raises :class:`AuditDamaged` at the first wrong."""
        running, number = ZERO_HASH, 0
        while page := self._select(
            "SELECT seq, ticket, released, entry, running FROM reads WHERE seq > ? ORDER BY seq LIMIT ?",
            number,
            RELEASE_DIGESTS,
        ):
            for seq, ticket, released, entry, written in page:
                number += 1
                read = _decoded(number, entry)
                running = running_hash(running, entry)
                counted = len(read.records) if not read.code else 0
                if (seq, ticket, released, written) != (number, read.ticket, counted, running):
                    raise AuditDamaged(number)
        return number

    def unreported(self) -> Batch | None:
        """The oldest ticket's released reads that belong to no report yet, at most ``RELEASE_DIGESTS`` of them."""
        first = self._select("SELECT ticket FROM reads WHERE report IS NULL AND released > 0 ORDER BY seq LIMIT 1")
        if not first:
            return None
        rows = self._select(
            "SELECT seq, released, running FROM reads WHERE report IS NULL AND released > 0 AND ticket = ?"
            " ORDER BY seq LIMIT ?",
            first[0][0],
            RELEASE_DIGESTS,
        )
        return Batch(
            ticket=first[0][0],
            numbers=tuple(number for number, _, _ in rows),
            records=sum(released for _, released, _ in rows),
            digest=reads_digest([running for _, _, running in rows]),
        )

    def begin_report(self, batch: Batch, *, raw: bytes, valid_until_s: int) -> Report:
        """Note which bytes will report which reads, before they are sent."""

        def write() -> int:
            cursor = self._connection.execute(
                "INSERT INTO reports (ticket, records, digest, valid_until_s, raw, settled, code)"
                " VALUES (?, ?, ?, ?, ?, 0, 0)",
                (batch.ticket, batch.records, batch.digest, valid_until_s, raw),
            )
            number = int(cursor.lastrowid or 0)
            self._connection.executemany(
                "UPDATE reads SET report = ? WHERE seq = ?", [(number, one) for one in batch.numbers]
            )
            return number

        return Report(
            id=self._write(write),
            ticket=batch.ticket,
            records=batch.records,
            digest=batch.digest,
            valid_until_s=valid_until_s,
            raw=raw,
        )

    def renew_report(self, report: Report, *, raw: bytes, valid_until_s: int) -> Report:
        """Replace the bytes of a report whose validity has passed without its getting onto the ledger."""
        self._write(
            lambda: self._connection.execute(
                "UPDATE reports SET raw = ?, valid_until_s = ? WHERE id = ?", (raw, valid_until_s, report.id)
            )
        )
        return msgspec.structs.replace(report, raw=raw, valid_until_s=valid_until_s)

    def settle_report(self, report: Report, *, code: int) -> None:
        """Note what the ledger said to a report: 0, or why it will not take it."""
        self._write(
            lambda: self._connection.execute("UPDATE reports SET settled = 1, code = ? WHERE id = ?", (code, report.id))
        )

    def open_reports(self) -> list[Report]:
        """Reports whose outcome is not known, oldest first."""
        rows = self._select(
            "SELECT id, ticket, records, digest, valid_until_s, raw FROM reports WHERE settled = 0 ORDER BY id"
        )
        return [
            Report(id=number, ticket=ticket, records=records, digest=digest, valid_until_s=until_s, raw=raw)
            for number, ticket, records, digest, until_s, raw in rows
        ]


def _decoded(number: int, entry: object) -> Read:
    try:
        return decode_strict(_reads, entry if isinstance(entry, bytes) else b"")
    except Malformed:
        raise AuditDamaged(number) from None
