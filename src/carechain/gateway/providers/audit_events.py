"""AuditEvents over FHIR, read-only: a patient's access log, and what this custodian's gatekeeper gave out (AUD-5).

Whoever may read a patient's log on the ledger (the patient, a representative with that power, the custodian's
administrators, a regulator) sees its events, and nobody else does. A search without a patient is about the caller's own
log; an institution names the patient.
"""

import asyncio
import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, tzinfo
from typing import Final

from carechain.chain.questions import LogLine, LogPage, OfPseudonym, OfTicket
from carechain.charts.repository import Reader, Repository
from carechain.contracts.access import EntryKind, TicketRow
from carechain.core.limits import RELEASE_DIGESTS
from carechain.core.rejection import require
from carechain.gatekeeper.audit import Audit, Read
from carechain.gateway.fhir.providing import Handler  # noqa: TC001 - not only a type
from carechain.gateway.principal import Principal
from carechain.gateway.providers.audit_rendering import Around, decision_event, read_event, report_event
from carechain.gateway.providers.ledger import (
    ROWS,
    Caller,
    LedgerView,
    named_patient,
    patients_of,
    shown_patient,
)
from carechain.gateway.providers.matching import matching, within_scopes
from carechain.sdk.pcf_codes import DocumentCode
from carechain.sdk.pcf_writing import numbered_id, read_numbered

PATIENT_PARAMETERS: Final = frozenset({"patient", "patient:Patient", "patient:identifier"})
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,9}")
_LAST_NUMBER: Final = (1 << 32) - 1


class ReadIndex:
    """Which entries of the gatekeeper's audit are about which patient; 8 bytes for every read, made as it goes.

    The audit is kept by ticket and has no patients in it, so a ticket's patient comes from the ledger. It decides
    nothing: whoever asks has passed the ledger's check for that patient before.
    """

    def __init__(self, audit: Audit) -> None:
        self._audit = audit
        self._turn = asyncio.Lock()
        self._after = 0
        self._entries: dict[bytes, array[int]] = {}

    async def catch_up(self, ledger: LedgerView) -> None:
        """Take in what was read since; raises ``AuditUnavailable``, ``AuditDamaged``.

        The file is read in a thread, page by page, and the ledger between the pages here, in the loop that owns it.
        """
        async with self._turn:
            while page := await asyncio.to_thread(self._audit.entries, self._after, RELEASE_DIGESTS):
                tickets = ledger.view().contracts.access
                for entry in page:
                    about = tickets.pseudonym_of(entry.read.ticket)
                    if about is not None:
                        self._entries.setdefault(about, array("Q")).append(entry.number)
                self._after = page[-1].number

    def of(self, pseudonym: bytes) -> Sequence[int]:
        """The numbers of the patient's entries, oldest first."""
        return tuple(self._entries.get(pseudonym, ()))


class AuditEventProvider:
    """AuditEvents, which are nobody's to write: the ledger and the gatekeeper make them."""

    types: Final = frozenset({"AuditEvent"})
    writable: Final = False

    def __init__(
        self, *, ledger: LedgerView, charts: Repository, audit: Audit | None = None, zone: tzinfo = UTC
    ) -> None:
        """``audit`` is the gatekeeper's, where it runs beside this; ``zone`` is where dates without an offset count."""
        self._ledger = ledger
        self._charts = charts
        self._audit = audit
        self._reads = None if audit is None else ReadIndex(audit)
        self._zone = zone
        self.operations: Final[Mapping[tuple[str, str], Handler]] = {}

    async def read(self, principal: Principal, resource_type: str, resource_id: str) -> bytes | None:  # noqa: ARG002 - one type
        """One event of a log that the caller may read."""
        # The ledger is only read in the loop that owns it, so nothing of this goes to a thread.
        body = self._read(principal, resource_id)
        readable = [] if body is None else within_scopes(principal, "AuditEvent", [body], zone=self._zone)
        return next(iter(readable), None)

    async def search(self, principal: Principal, resource_type: str, params: Sequence[tuple[str, str]]) -> list[bytes]:
        """The matches, newest first. Raises ``TOO_MANY_MATCHES`` for a log longer than one answer holds."""
        if self._reads is not None:
            await self._reads.catch_up(self._ledger)
        return self._search(principal, resource_type, params)

    def _read(self, principal: Principal, resource_id: str) -> bytes | None:
        found = read_numbered(resource_id)
        if found is None:
            return None
        pseudonym, rest = found
        caller = Caller(self._ledger.view(), principal)
        if not caller.may("access.log_head", OfPseudonym(pseudonym)):
            return None
        number = rest.removeprefix("g")
        if not _NUMBER.fullmatch(number) or int(number) > _LAST_NUMBER:
            return None
        with self._charts.reading() as reader:
            events = _Events(caller, reader, pseudonym, self._ledger.chain_id)
            if rest.startswith("g"):
                return self._gatekeeper_event(events, int(number))
            after = int(number) - 1 if int(number) else None
            rows, _ = caller.page("access.log", LogPage(pseudonym, after))
            return events.of_line(rows[0]) if rows and rows[0].number == int(number) else None

    def _search(self, principal: Principal, resource_type: str, params: Sequence[tuple[str, str]]) -> list[bytes]:
        caller = Caller(self._ledger.view(), principal)
        with self._charts.reading() as reader:
            others = [(name, value) for name, value in params if name not in PATIENT_PARAMETERS]
            named = {named_patient(reader, principal, value) for name, value in params if name in PATIENT_PARAMETERS}
            if None in named or len(named) > 1:
                return []
            found: list[tuple[int, bytes]] = []
            for pseudonym in patients_of(caller, next(iter(named), None)):
                if caller.may("access.log_head", OfPseudonym(pseudonym)):
                    found += self._events(caller, reader, pseudonym)
        require(len(found) <= ROWS, DocumentCode.TOO_MANY_MATCHES)
        # Sorting keeps the order of equals: of one second, what came later stands first too.
        found.reverse()
        found.sort(key=lambda one: one[0], reverse=True)
        readable = within_scopes(principal, resource_type, (body for _, body in found), zone=self._zone)
        return matching(readable, resource_type, others, zone=self._zone)

    def _events(self, caller: Caller, reader: Reader, pseudonym: bytes) -> Iterator[tuple[int, bytes]]:
        """Every event of one patient with its time."""
        events = _Events(caller, reader, pseudonym, self._ledger.chain_id)
        for line in caller.rows("access.log", LogPage(pseudonym)):
            yield line.line.at_s, events.of_line(line)
        if self._reads is not None and self._audit is not None:
            numbers = self._reads.of(pseudonym)
            require(len(numbers) <= ROWS, DocumentCode.TOO_MANY_MATCHES)
            for number in numbers:
                (entry,) = self._audit.entries(number - 1, 1)
                yield entry.read.at_s, events.of_read(number, entry.read)

    def _gatekeeper_event(self, events: "_Events", number: int) -> bytes | None:
        if self._audit is None or not number:
            return None
        found = self._audit.entries(number - 1, 1)
        if not found or found[0].number != number or not events.is_about(found[0].read.ticket):
            return None
        return events.of_read(number, found[0].read)


class _Events:
    """The events of one patient for one caller."""

    def __init__(self, caller: Caller, reader: Reader, pseudonym: bytes, chain_id: str) -> None:
        self._caller = caller
        self._chain_id = chain_id
        self._pseudonym = pseudonym
        self._patient_id = shown_patient(reader, caller.principal, pseudonym)
        self._custodian = caller.custodian(pseudonym) or pseudonym
        self._tickets: dict[bytes, TicketRow | None] = {}

    def of_line(self, shown: LogLine) -> bytes:
        """The event of one line of the log."""
        line = shown.line
        event_id = numbered_id(self._pseudonym, shown.number)
        around = self._around(line.actor)
        if line.kind is EntryKind.REQUEST:
            return decision_event(event_id, line, self._ticket(line.ticket), around)
        return report_event(event_id, line, around)

    def of_read(self, number: int, read: Read) -> bytes:
        """The event of one entry of the gatekeeper's audit."""
        ticket = self._ticket(read.ticket)
        if ticket is None:
            raise KeyError("the ticket of an entry that was found by it")
        event_id = f"{numbered_id(self._pseudonym, number).rpartition('.')[0]}.g{number}"
        return read_event(event_id, read, ticket, self._around(read.requester))

    def is_about(self, ticket: bytes) -> bool:
        """Whether a ticket is about this patient, and the caller may see it."""
        row = self._ticket(ticket)
        return row is not None and row.pseudonym == self._pseudonym

    def _ticket(self, ticket: bytes) -> TicketRow | None:
        if ticket not in self._tickets:
            rows, _ = self._caller.page("access.ticket", OfTicket(ticket))
            self._tickets[ticket] = rows[0].row if rows else None
        return self._tickets[ticket]

    def _around(self, actor: bytes) -> Around:
        party = self._caller.view.contracts.membership.party(actor)
        return Around(
            pseudonym=self._pseudonym,
            patient_id=self._patient_id,
            chain_id=self._chain_id,
            custodian=self._custodian,
            actor_kind=None if party is None else party.kind,
            roles=0 if party is None else party.roles,
        )
