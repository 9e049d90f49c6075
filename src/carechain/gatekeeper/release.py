"""A release: decide on the committed ticket, read the charts, check them against the ledger, seal, audit, answer.

The order is the promise (REC-2, KEY-2, AUD-3). Nothing is read before the ledger allowed it; nothing is sealed that
differs from its anchor; the decision is looked at again when the reading is done, because a patient may have revoked
it or had a record erased meanwhile; and the audit entry is on disk before the caller has a byte.
"""

import asyncio
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Annotated, Final, Protocol

import structlog
from msgspec import Meta, Struct
from msgspec.structs import replace

from carechain.charts.record import RecordContent, Tampered, check
from carechain.contracts.access import TicketRow
from carechain.core.ids import U32, RecordId, TicketId
from carechain.core.limits import GATEKEEPER_RECORDS, GATEKEEPER_RESPONSE_BYTES, RELEASES_AT_ONCE
from carechain.core.rejection import Rejected
from carechain.core.suite import Institution
from carechain.gatekeeper.audit import Audit, Read
from carechain.gatekeeper.codes import GatekeeperCode, Withheld
from carechain.gatekeeper.decide import Allow, Deny, Door, Moment, Wanted, decide, record_gap
from carechain.gatekeeper.ledger import (
    LATEST,
    Decision,
    LedgerReader,
    in_scope,
    read_decision,
    read_wanted,
    still_there,
)
from carechain.gatekeeper.study import seal_view
from carechain.research.pseudonym import Study
from carechain.sealing.package import PackageTooLarge, SealedRecord, SealedResource, build_package

_RESOURCE_OVERHEAD_BYTES: Final = 64
_RECORD_OVERHEAD_BYTES: Final = 128
_HASH_BYTES: Final = 34
_log = structlog.get_logger("carechain.gatekeeper")

Seal = Callable[[TicketRow, Sequence[RecordContent]], bytes]
_INCIDENTS: Final = (GatekeeperCode.RECORD_ALTERED, GatekeeperCode.RECORD_MISSING)


class Asked(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One record by id; version 0 asks for the newest."""

    record: RecordId
    version: U32 = LATEST


class ReleaseRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a requester sends. Without ``records`` it asks for the newest version of everything the ticket covers.

    ``after`` continues such a reading behind the last record of the page before; ``limit`` bounds a page.
    """

    ticket: TicketId
    records: Annotated[tuple[Asked, ...], Meta(min_length=1, max_length=GATEKEEPER_RECORDS)] | None = None
    after: RecordId | None = None
    limit: Annotated[int, Meta(ge=1, le=GATEKEEPER_RECORDS)] = GATEKEEPER_RECORDS


class Release(Struct, frozen=True, kw_only=True):
    """The answer: what is in it, the package sealed to the requester, and where the next page begins (None: the end).

    ``records`` are (id, version); ``height`` is the block whose state allowed it.
    """

    records: tuple[tuple[RecordId, U32], ...]
    sealed: bytes
    after: RecordId | None
    height: int


class ChartReader(Protocol):
    """What a gatekeeper needs of the custodian's charts."""

    def read(self, record_id: bytes, version: int | None = None) -> RecordContent:
        """A record as the charts have it now; raises ``Rejected`` for none, ``Tampered`` for an unreadable one."""


class Gatekeeper:
    """The door of one custodian."""

    def __init__(
        self,
        *,
        organisation: bytes,
        ledger: LedgerReader,
        charts: ChartReader,
        audit: Audit,
        clock: Callable[[], int],
        entropy: Callable[[int], bytes],
    ) -> None:
        """``clock()`` is Unix time in whole seconds and ``entropy(n)`` gives fresh random bytes."""
        self.organisation = organisation
        self.ledger = ledger
        self.audit = audit
        self._charts = charts
        self._clock = clock
        self._entropy = entropy
        self._serving = 0

    async def release(self, requester: bytes, request: ReleaseRequest) -> Release:
        """Serve one request of an authenticated party, or raise :class:`Withheld`.

        Raises ``AuditUnavailable`` and ``ChartsUnavailable`` when the disk fails: then nothing is released.
        """

        def seal(ticket: TicketRow, contents: Sequence[RecordContent]) -> bytes:
            return self._seal(request.ticket, ticket, [_sealed_record(one) for one in contents])

        return await self._serve(requester, request, Door.RECORDS, seal)

    async def show_study(self, requester: bytes, request: ReleaseRequest, *, study: Study, as_of_year: int) -> Release:
        """As :meth:`release`, for research: a study's pseudonymised view instead of the records (RES-1).

        What is sealed is for :func:`carechain.gatekeeper.study.open_view`. The study's secret stays with the custodian.
        """

        def seal(ticket: TicketRow, contents: Sequence[RecordContent]) -> bytes:
            return seal_view(
                chain_id=self.ledger.chain_id,
                ticket_id=request.ticket,
                ticket=ticket,
                bodies=[one.body for content in contents for one in content.resources],
                study=study,
                as_of_year=as_of_year,
                entropy=self._entropy,
            )

        return await self._serve(requester, request, Door.STUDY, seal)

    async def _serve(self, requester: bytes, request: ReleaseRequest, door: Door, seal: Seal) -> Release:
        if self._serving >= RELEASES_AT_ONCE:
            raise Withheld(GatekeeperCode.BUSY)
        self._serving += 1
        try:
            return await self._release(requester, request, door, seal)
        finally:
            self._serving -= 1

    async def _release(self, requester: bytes, request: ReleaseRequest, door: Door, seal: Seal) -> Release:
        view = self.ledger.view()
        decision = read_decision(view, request.ticket)
        try:
            ticket = self._require(decision, requester, (), door)
            if request.records is None:
                found = list(islice(in_scope(view, ticket, request.after), request.limit + 1))
                page, more = found[: request.limit], len(found) > request.limit
            else:
                page = list(read_wanted(view, ticket.pseudonym, [(one.record, one.version) for one in request.records]))
                more = False
            self._require(decision, requester, page, door)
            institution = view.contracts.membership.institution()
            whole = request.records is not None
            contents = await asyncio.to_thread(self._read, ticket, page, institution, whole=whole)
            sealed = await asyncio.to_thread(seal, ticket, contents)
            view = self.ledger.view()
            decision = read_decision(view, request.ticket)
            self._require(decision, requester, still_there(view, ticket.pseudonym, page[: len(contents)]), door)
        except Withheld as withheld:
            await self._note_refusal(withheld, requester, request, decision)
            raise
        served = tuple((one.record.record_id, one.record.version) for one in contents)
        await self._note(requester, request.ticket, decision, code=0, records=served)
        more = more or len(contents) < len(page)
        return Release(records=served, sealed=sealed, after=served[-1][0] if more else None, height=decision.height)

    def _require(self, decision: Decision, requester: bytes, wanted: Sequence[Wanted], door: Door) -> TicketRow:
        verdict: Allow | Deny = decide(
            ticket=decision.ticket,
            requester=requester,
            custodian=self.organisation,
            roles=decision.roles,
            door=door,
            path_is_live=decision.path_is_live,
            moment=Moment(block_s=decision.block_s, wall_s=self._clock()),
            wanted=wanted,
        )
        if isinstance(verdict, Deny):
            raise Withheld(verdict.code, record_id=verdict.record_id)
        return verdict.ticket

    def _read(
        self, ticket: TicketRow, wanted: Sequence[Wanted], institution: Institution, *, whole: bool
    ) -> list[RecordContent]:
        """The checked records, as many as fit one answer; with ``whole`` all of them or nothing."""
        contents: list[RecordContent] = []
        room = GATEKEEPER_RESPONSE_BYTES
        for one in wanted:
            content = self._checked(ticket, one, institution)
            room -= _size(content)
            if room < 0 and not contents:
                raise Withheld(GatekeeperCode.ANSWER_TOO_LARGE, record_id=one.record_id)
            if room < 0 and whole:
                raise Withheld(GatekeeperCode.TOO_MANY_RECORDS)
            if room < 0:
                break
            contents.append(content)
        return contents

    def _checked(self, ticket: TicketRow, wanted: Wanted, institution: Institution) -> RecordContent:
        """What the charts have, if it is exactly what the ledger anchored and still as sensitive as it was."""
        if wanted.anchor is None:
            raise Withheld(GatekeeperCode.RECORD_UNKNOWN, record_id=wanted.record_id)
        try:
            content = self._charts.read(wanted.record_id)
            if content.record.version != wanted.version:
                content = self._charts.read(wanted.record_id, wanted.version)
            check(content, wanted.anchor.root, institution)
        except Tampered:
            raise Withheld(GatekeeperCode.RECORD_ALTERED, record_id=wanted.record_id) from None
        except Rejected:
            raise Withheld(GatekeeperCode.RECORD_MISSING, record_id=wanted.record_id) from None
        if content.record.version != wanted.version:
            raise Withheld(GatekeeperCode.RECORD_ALTERED, record_id=wanted.record_id)
        gap = record_gap(ticket, replace(wanted, grade_today=content.sensitivity))
        if gap is not None:
            raise Withheld(gap, record_id=wanted.record_id)
        return content

    def _seal(self, ticket_id: bytes, ticket: TicketRow, records: Sequence[SealedRecord]) -> bytes:
        try:
            return build_package(
                chain_id=self.ledger.chain_id,
                ticket_id=ticket_id,
                requester=ticket.requester,
                requester_hpke_key=ticket.hpke_key,
                records=records,
                entropy=self._entropy,
            )
        except PackageTooLarge:
            raise Withheld(GatekeeperCode.TOO_MANY_RECORDS) from None
        except ValueError:
            raise Withheld(GatekeeperCode.KEY_UNUSABLE) from None

    async def _note_refusal(
        self, withheld: Withheld, requester: bytes, request: ReleaseRequest, decision: Decision
    ) -> None:
        about = () if withheld.record_id is None else ((withheld.record_id, LATEST),)
        await self._note(requester, request.ticket, decision, code=int(withheld.code), records=about)
        if withheld.code in _INCIDENTS and withheld.record_id is not None:
            _log.error("integrity_incident", code=int(withheld.code), record=withheld.record_id.hex())

    async def _note(
        self,
        requester: bytes,
        ticket: bytes,
        decision: Decision,
        *,
        code: int,
        records: tuple[tuple[bytes, int], ...],
    ) -> None:
        read = Read(
            at_s=self._clock(),
            height=decision.height,
            requester=requester,
            ticket=ticket,
            code=code,
            records=records,
        )
        await asyncio.to_thread(self.audit.append, read)


def _sealed_record(content: RecordContent) -> SealedRecord:
    """The audit paths are the charts' own; :func:`carechain.charts.record.check` has walked each to the root."""
    return SealedRecord(
        record_id=content.record.record_id,
        version=content.record.version,
        count=len(content.resources),
        resources=tuple(
            SealedResource(index=one.index, salt=one.salt, content=one.body, path=one.path) for one in content.resources
        ),
    )


def _size(content: RecordContent) -> int:
    """What the record takes in an answer, rather more than less."""
    return _RECORD_OVERHEAD_BYTES + sum(
        len(one.body) + _HASH_BYTES * len(one.path) + _RESOURCE_OVERHEAD_BYTES for one in content.resources
    )
