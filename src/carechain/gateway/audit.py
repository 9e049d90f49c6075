"""What the FHIR server gave out, on disk before it is sent: once per request, however much it holds (AUD-1, AUD-3).

Readings under a ticket go into the gatekeeper's own audit, so their digests are reported into the patient's log on the
ledger like every other release. What no ticket stands behind (the organisation's own systems, the shared directory)
goes into a file of the same kind, ``audit/fhir.sqlite``: each entry carries a hash over its predecessor's. Ids, numbers
and codes only.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Protocol

import msgspec
from msgspec import Meta, Struct

from carechain.core.codec import Malformed, decode_strict, encode
from carechain.core.hashing import ZERO_HASH
from carechain.core.ids import U16, U32, U63, PartyId, RecordId
from carechain.core.limits import GATEKEEPER_RECORDS, RELEASE_DIGESTS
from carechain.engine.database import Database
from carechain.gatekeeper.audit import Audit, AuditDamaged, AuditTooNew, AuditUnavailable, Read, running_hash
from carechain.gatekeeper.ledger import LedgerReader
from carechain.gateway.principal import Reading

OWN_AUDIT_FILE: Final = Path("audit") / "fhir.sqlite"
"""In the home."""
_RECORDS: Final = 10_000
"""Records named in one entry; of a larger export the number is kept."""


class OwnReading(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """One answered request without a ticket. ``code`` is 0, or the number of the refusal; ``at_s`` is Unix time."""

    at_s: U63
    height: U63
    party: PartyId
    client_id: Annotated[str, Meta(max_length=64)]
    interaction: Annotated[str, Meta(max_length=64)]
    types: Annotated[tuple[str, ...], Meta(max_length=256)]
    records: Annotated[tuple[tuple[RecordId, U32], ...], Meta(max_length=_RECORDS)]
    count: U32
    code: U16


class NumberedReading(Struct, frozen=True, kw_only=True):
    """An entry with its number, counted from 1, and the chain's value after it."""

    number: int
    reading: OwnReading
    running: bytes


_entries: Final = msgspec.msgpack.Decoder(OwnReading)


class OwnAudit(Database):
    """The file of what was read without a ticket."""

    tables = ("CREATE TABLE readings (seq INTEGER PRIMARY KEY, entry BLOB NOT NULL, running BLOB NOT NULL)",)
    unavailable = AuditUnavailable
    too_new = AuditTooNew

    def append(self, reading: OwnReading) -> int:
        """Write one entry; returns its number. Only after this may the request be answered."""
        entry = encode(reading)

        def write() -> int:
            last = self._connection.execute("SELECT seq, running FROM readings ORDER BY seq DESC LIMIT 1").fetchone()
            number, previous = (last[0] + 1, last[1]) if last else (1, ZERO_HASH)
            values = (number, entry, running_hash(previous, entry))
            self._connection.execute("INSERT INTO readings VALUES (?, ?, ?)", values)
            return int(number)

        return self._write(write)

    def entries(self, after: int = 0, limit: int = RELEASE_DIGESTS) -> list[NumberedReading]:
        """A page of entries, oldest first; raises ``AuditDamaged`` for one that cannot be read."""
        return [
            NumberedReading(number=number, reading=_decoded(number, entry), running=running)
            for number, entry, running in self._page(after, limit)
        ]

    def check(self) -> int:
        """Recompute the chain; returns how many entries there are. Raises ``AuditDamaged`` at the first wrong one."""
        running, number = ZERO_HASH, 0
        while page := self._page(number, RELEASE_DIGESTS):
            for seq, entry, written in page:
                number += 1
                _decoded(number, entry)
                running = running_hash(running, entry)
                if (seq, written) != (number, running):
                    raise AuditDamaged(number)
        return number

    def _page(self, after: int, limit: int) -> list[tuple[Any, ...]]:
        page = "SELECT seq, entry, running FROM readings WHERE seq > ? ORDER BY seq LIMIT ?"
        return self._select(page, after, limit)


class Owners(Protocol):
    """What the audit needs of the charts."""

    def owners(self, records: Sequence[bytes]) -> dict[bytes, bytes]:
        """The pseudonym in whose chart each record stands."""


class GatewayAudit:
    """The :class:`~carechain.gateway.principal.ReadingAudit` of a node's FHIR server."""

    def __init__(
        self,
        *,
        audit: Audit,
        own: OwnAudit,
        ledger: LedgerReader,
        owners: Owners,
        clock: Callable[[], int],
    ) -> None:
        """``audit`` is the gatekeeper's, which is reported to the ledger; ``clock()`` gives Unix seconds."""
        self._audit = audit
        self._own = own
        self._ledger = ledger
        self._owners = owners
        self._clock = clock

    async def note(self, reading: Reading) -> None:
        """Write it down; on disk when it returns. Raises ``AuditUnavailable``: then nothing may be given out."""
        view = self._ledger.view()
        tickets = {one: view.contracts.access.pseudonym_of(one) for one in reading.principal.tickets}
        await asyncio.to_thread(self._write, reading, tickets, view.height)

    def _write(self, reading: Reading, tickets: dict[bytes, bytes | None], height: int) -> None:
        at_s = self._clock()
        records = tuple(dict.fromkeys(reading.records))
        wants_ticket = bool(tickets) and (bool(records) or bool(reading.refused) or bool(reading.counted))
        if not wants_ticket:
            self._own.append(_own(reading, records, at_s=at_s, height=height))
            return
        for ticket, part in self._shared_out(tickets, records):
            for page in _pages(part):
                self._audit.append(
                    Read(
                        at_s=at_s,
                        height=height,
                        requester=reading.principal.party,
                        ticket=ticket,
                        code=reading.refused,
                        records=page,
                    )
                )

    def _shared_out(
        self, tickets: dict[bytes, bytes | None], records: Sequence[tuple[bytes, int]]
    ) -> Iterator[tuple[bytes, Sequence[tuple[bytes, int]]]]:
        """Each record under a ticket for its own patient: what one patient's log says must not be about another."""
        first = {pseudonym: ticket for ticket, pseudonym in reversed(tickets.items())}
        if len(first) == 1:
            yield next(iter(tickets)), records
            return
        if not records:
            # A refusal, or a number of matches: it may be about each of them.
            yield from ((ticket, ()) for ticket in first.values())
            return
        owners = self._owners.owners([record for record, _ in records])
        for pseudonym, ticket in first.items():
            part = [one for one in records if owners.get(one[0]) == pseudonym]
            if part:
                yield ticket, part
        strays = [one for one in records if owners.get(one[0]) not in first]
        if strays:
            raise AuditUnavailable("a record belongs to no patient of the tickets")


def _own(reading: Reading, records: tuple[tuple[bytes, int], ...], *, at_s: int, height: int) -> OwnReading:
    return OwnReading(
        at_s=at_s,
        height=height,
        party=reading.principal.party,
        client_id=reading.principal.client_id,
        interaction=reading.interaction[:64],
        types=tuple(sorted(set(reading.resource_types)))[:256],
        records=records[:_RECORDS],
        count=reading.count,
        code=reading.refused,
    )


def _pages(records: Sequence[tuple[bytes, int]]) -> Iterator[tuple[tuple[bytes, int], ...]]:
    for start in range(0, max(1, len(records)), GATEKEEPER_RECORDS):
        yield tuple(records[start : start + GATEKEEPER_RECORDS])


def _decoded(number: int, entry: object) -> OwnReading:
    try:
        return decode_strict(_entries, entry if isinstance(entry, bytes) else b"")
    except Malformed:
        raise AuditDamaged(number) from None
