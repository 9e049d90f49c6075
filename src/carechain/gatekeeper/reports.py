"""Reports: what the gatekeeper served goes into the patients' logs on the ledger, in batches, exactly once (AUD-3).

A report counts the records released under one ticket and carries a digest over the audited reads. Its signed bytes
are noted durably before they are sent, so after a crash the same transaction is sent again: the ledger takes it once.
Bytes whose validity has passed are signed anew only when the ledger's time is past it and the patient's log does not
show the digest; from then on the old bytes can never be admitted.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from carechain.chain.queries import View
from carechain.chain.receipts import OK
from carechain.chain.tx import AdmissionCode, build
from carechain.contracts.access import EntryKind, ReportRelease, ReportShares
from carechain.core.crypto import SigningKey
from carechain.core.limits import NONCE_SIZE, TX_LIFETIME_S
from carechain.core.rejection import Rejected
from carechain.gatekeeper.audit import Audit, AuditUnavailable, Report
from carechain.gatekeeper.ledger import LedgerReader

REPORT_VALID_S: Final = TX_LIFETIME_S // 2
REPORT_EVERY_S: Final = 5
OUTCOME_S: Final = 10
"""How long an outcome is waited for: without a quorum there is none, and the node must be able to stop."""
_log = structlog.get_logger("carechain.gatekeeper")


_MESSAGES: Final[dict[EntryKind, type[ReportRelease | ReportShares]]] = {
    EntryKind.RELEASE: ReportRelease,
    EntryKind.KEY_SHARES: ReportShares,
}


class Reporter:
    """Submits an organisation's reports of what stands in one of its audits, signed with its member key."""

    def __init__(
        self,
        *,
        ledger: LedgerReader,
        audit: Audit,
        key: SigningKey,
        member: bytes,
        entropy: Callable[[int], bytes],
        kind: EntryKind = EntryKind.RELEASE,
    ) -> None:
        """``member`` is the organisation's party id and ``key`` its signing key; ``entropy(n)`` gives random bytes.

        ``kind`` says what the audit is of: a gatekeeper's releases, or a keyholder's ``KEY_SHARES``.
        """
        self._ledger = ledger
        self._audit = audit
        self._key = key
        self._member = member
        self._entropy = entropy
        self._kind = kind
        self._turn = asyncio.Lock()

    async def report(self) -> int:
        """Settle what is open from before, then report everything audited so far; returns how many were settled.

        Raises ``Rejected`` when the ledger does not admit a report now, and ``TimeoutError`` when it does not say what
        became of one; it stays open and is tried again.
        """
        async with self._turn:
            settled = 0
            for report in await asyncio.to_thread(self._audit.open_reports):
                settled += await self._resume(report)
            while batch := await asyncio.to_thread(self._audit.unreported):
                raw, until_s = self._sign(batch.ticket, batch.records, batch.digest)
                report = await asyncio.to_thread(self._audit.begin_report, batch, raw=raw, valid_until_s=until_s)
                settled += await self._send(report)
            return settled

    async def run(self, stop: asyncio.Event, *, every_s: float = REPORT_EVERY_S) -> None:
        """Report at intervals until ``stop`` is set, and once more then.

        A ledger that admits no report now, or an audit that cannot be used now, is tried again at the next turn.
        Anything else is raised: watch whatever runs this, because reads that nobody reports look like none.
        """
        while not stop.is_set():
            try:
                await asyncio.wait_for(stop.wait(), every_s)
            except TimeoutError:
                await self._report_or_log()
        await self._report_or_log()

    async def _report_or_log(self) -> None:
        """A report that cannot be made now waits in the audit; only the reason is worth a line."""
        try:
            await self.report()
        except Rejected as refused:
            _log.warning("report_postponed", code=int(refused.code), label=refused.code.label)
        except TimeoutError:
            _log.warning("report_postponed", reason="the ledger makes no block")
        except AuditUnavailable as unavailable:
            _log.error("storage_unavailable", kind=type(unavailable).__name__, reason=str(unavailable))

    async def _resume(self, report: Report) -> int:
        view = self._ledger.view()
        if self._is_in_log(view, report):
            await asyncio.to_thread(self._audit.settle_report, report, code=OK)
            return 1
        if view.time_s >= report.valid_until_s:
            raw, until_s = self._sign(report.ticket, report.records, report.digest)
            report = await asyncio.to_thread(self._audit.renew_report, report, raw=raw, valid_until_s=until_s)
        return await self._send(report)

    async def _send(self, report: Report) -> int:
        try:
            async with asyncio.timeout(OUTCOME_S):
                code = (await self._ledger.submit(report.raw)).receipt.code
        except Rejected as refused:
            if refused.code is not AdmissionCode.REPLAYED or not self._is_in_log(self._ledger.view(), report):
                raise
            code = OK
        if code != OK:
            _log.error("report_refused", code=code, ticket=report.ticket.hex())
        await asyncio.to_thread(self._audit.settle_report, report, code=code)
        return 1

    def _sign(self, ticket: bytes, records: int, digest: bytes) -> tuple[bytes, int]:
        """One ticket per transaction: two patients' tickets in one would link them."""
        until_s = self._ledger.view().time_s + REPORT_VALID_S
        raw = build(
            key=self._key,
            sender=self._member,
            chain_id=self._ledger.chain_id,
            nonce=self._entropy(NONCE_SIZE),
            valid_until_s=until_s,
            messages=(_MESSAGES[self._kind](ticket=ticket, records=records, digest=digest),),
        )
        return raw, until_s

    def _is_in_log(self, view: View, report: Report) -> bool:
        return is_in_log(view, report, kind=self._kind, member=self._member)


def is_in_log(view: View, report: Report, *, kind: EntryKind, member: bytes) -> bool:
    """Whether the patient's log already shows this report. Lines older than the ticket cannot, so they are not read.

    Who reported it counts: keyholders that were asked the same at the same second have the same digest to report.
    """
    access = view.contracts.access
    ticket = access.tickets.get(report.ticket)
    head = access.log_heads.get(ticket.pseudonym) if ticket is not None else None
    if ticket is None or head is None:
        return False
    for number in range(head.count - 1, -1, -1):
        line = access.log.get(ticket.pseudonym, number)
        if line is None or line.at_s < ticket.decided_s:
            return False
        if (line.kind, line.actor, line.ticket, line.digest) == (kind, member, report.ticket, report.digest):
            return True
    return False
