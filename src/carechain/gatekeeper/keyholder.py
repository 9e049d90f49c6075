"""A keyholder: its share of a record's key goes to the holder of a live ticket, and to nobody else (KEY-1, AUD-3).

The order is the promise (DESIGN section 7). The ticket, what allowed it and the records are read from the
organisation's own replica at its own latest height, never from what is shown; every check is made before a share is
computed; all of it is looked at again when the shares are ready, because a patient may have revoked meanwhile; and the
audit entry is on disk before the requester has a byte. Whatever a gatekeeper does, a ticket's grade ceiling holds here.

A keyholder that is behind the ticket's block knows no such ticket: it says ``TICKET_UNKNOWN``, which means try again.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from threading import Lock
from typing import Final, Protocol

import structlog
from msgspec import Struct

from carechain.chain.queries import View
from carechain.contracts.access import TicketRow
from carechain.contracts.records import AnchorRow
from carechain.core import group
from carechain.core.crypto import SigningKey
from carechain.core.hashing import tagged
from carechain.core.limits import (
    CAPSULES_CHECKED,
    SHARE_PARTIES,
    SHARE_REQUESTS,
    SHARES_AT_ONCE,
    SHARES_BURST,
    SHARES_PER_PARTY_BURST,
    SHARES_PER_PARTY_PER_S,
    SHARES_PER_S,
)
from carechain.core.quorum import (
    BadCapsule,
    BadProof,
    Label,
    ShareStatement,
    blinding_context,
    check_blinding,
    check_capsule,
    decode_capsule,
    label_bytes,
    statement_bytes,
)
from carechain.gatekeeper.audit import Audit, Read
from carechain.gatekeeper.codes import GatekeeperCode
from carechain.gatekeeper.decide import Deny, Door, Moment, Wanted, decide_ticket, record_gap
from carechain.gatekeeper.ledger import LATEST, Decision, LedgerReader, read_decision, read_wanted
from carechain.gatekeeper.rates import Bucket, Buckets, Rate
from carechain.sdk.shares import (
    KeyholderCode,
    ShareItem,
    SharesAnswer,
    SharesRefused,
    SharesRequest,
    SignedShare,
    seal_shares,
)
from carechain.sealing.quorum.release import ENTROPY_SIZE, HolderShare, make_share

ITEMS_AT_ONCE: Final = 25
"""Shares between two looks at the ledger: some milliseconds, in which the event loop gets its turn."""
_log = structlog.get_logger("carechain.keyholder")

_TICKET_CODES: Final = {
    GatekeeperCode.LEDGER_STALE: KeyholderCode.LEDGER_STALE,
    GatekeeperCode.TICKET_UNKNOWN: KeyholderCode.TICKET_UNKNOWN,
    GatekeeperCode.NOT_THE_REQUESTER: KeyholderCode.NOT_THE_REQUESTER,
    GatekeeperCode.TICKET_REFUSED: KeyholderCode.TICKET_REFUSED,
    GatekeeperCode.TICKET_REVOKED: KeyholderCode.TICKET_REVOKED,
    GatekeeperCode.TICKET_EXPIRED: KeyholderCode.TICKET_EXPIRED,
    GatekeeperCode.NO_LONGER_ALLOWED: KeyholderCode.NO_LONGER_ALLOWED,
    GatekeeperCode.PSEUDONYMS_ONLY: KeyholderCode.PSEUDONYMS_ONLY,
    GatekeeperCode.RECORD_UNKNOWN: KeyholderCode.RECORD_UNKNOWN,
    GatekeeperCode.OUTSIDE_SCOPE: KeyholderCode.OUTSIDE_SCOPE,
}
"""Ticket and scope are judged by the gatekeeper's own decision; a keyholder only says it with its own numbers."""


class HolderSecrets(Protocol):
    """Where the organisation keeps its shares."""

    def share(self, epoch: int) -> HolderShare | None:
        """The share of this epoch; None where there is none (any more)."""


class ShareRates(Struct, frozen=True, kw_only=True):
    """How many shares one requester gets, and how many all of them together."""

    party: Rate
    total: Rate


RATES: Final = ShareRates(
    party=Rate(per_s=SHARES_PER_PARTY_PER_S, burst=SHARES_PER_PARTY_BURST),
    total=Rate(per_s=SHARES_PER_S, burst=SHARES_BURST),
)


# --- the decision (pure) --------------------------------------------------------------------------------


def judge_ticket(decision: Decision, requester: bytes, moment: Moment) -> TicketRow:
    """The ticket, if it may be served to this requester now; raises :class:`SharesRefused`.

    Any keyholder serves any custodian's records, and the records as they are: so research gets no share.
    """
    ticket = decision.ticket
    verdict = decide_ticket(
        ticket=ticket,
        requester=requester,
        custodian=b"" if ticket is None else ticket.custodian,
        roles=decision.roles,
        path_is_live=decision.path_is_live,
        moment=moment,
        door=Door.RECORDS,
    )
    if isinstance(verdict, Deny):
        raise SharesRefused(_TICKET_CODES[verdict.code])
    return verdict.ticket


def judge_record(ticket: TicketRow, wanted: Wanted, capsule: bytes) -> AnchorRow:
    """The anchor of the record's version, if the ticket covers it and this is its capsule; raises ``SharesRefused``.

    The version asked for and the newest must both lie inside the ticket's scope: where a correction has raised the
    grade, the older version is not opened under its older grade.
    """
    gap = record_gap(ticket, wanted)
    if gap is not None:
        raise SharesRefused(_TICKET_CODES[gap], record_id=wanted.record_id)
    anchor = wanted.anchor
    if anchor is None or anchor.sealed is None:
        raise SharesRefused(KeyholderCode.NOT_SEALED, record_id=wanted.record_id)
    if sha256(capsule).digest() != anchor.sealed.capsule:
        raise SharesRefused(KeyholderCode.CAPSULE_NOT_ANCHORED, record_id=wanted.record_id)
    return anchor


def label_of(chain_id: str, pseudonym: bytes, record: bytes, version: int, anchor: AnchorRow) -> Label:
    """What the capsule of this version must be bound to: made from the ledger's row, not from what anybody says."""
    return Label(
        chain_id=chain_id,
        pseudonym=pseudonym,
        record=record,
        version=version,
        category=anchor.category,
        sensitivity=anchor.sensitivity,
        day=anchor.day,
    )


class SoundCapsules:
    """Capsules whose proof held for their label, so that the next reader's request need not check it again."""

    def __init__(self, room: int = CAPSULES_CHECKED) -> None:
        """Keep at most ``room`` of them, those used last."""
        self._room = room
        self._points: OrderedDict[bytes, bytes] = OrderedDict()
        self._lock = Lock()

    def point(self, data: bytes, label: Label) -> bytes:
        """The point R of a capsule that is sound for ``label``; raises ``BadCapsule``."""
        name = tagged("carechain/sound-capsule/1", sha256(data).digest(), label_bytes(label))
        with self._lock:
            known = self._points.get(name)
            if known is not None:
                self._points.move_to_end(name)
                return known
        capsule = decode_capsule(data)
        check_capsule(capsule, label)
        with self._lock:
            self._points[name] = capsule.r_point
            if len(self._points) > self._room:
                self._points.popitem(last=False)
        return capsule.r_point


# --- the service ----------------------------------------------------------------------------------------


class _Judged(Struct, frozen=True):
    """One item that passed the ledger's checks; what remains is arithmetic."""

    item: ShareItem
    label: Label


class _Seat(Struct, frozen=True):
    """The organisation's place in the present epoch, its share proved to be the one the ledger names."""

    secret: HolderShare
    key: bytes

    @property
    def epoch(self) -> int:
        return self.secret.epoch

    def __repr__(self) -> str:
        return f"_Seat(epoch={self.epoch})"


class Keyholder:
    """One organisation's door to its share of the consortium key."""

    def __init__(
        self,
        *,
        organisation: bytes,
        signing: SigningKey,
        ledger: LedgerReader,
        secrets: HolderSecrets,
        audit: Audit,
        clock: Callable[[], int],
        entropy: Callable[[int], bytes],
        rates: ShareRates = RATES,
    ) -> None:
        """``organisation`` is the member's id and ``signing`` its key, ``audit`` a file of this keyholder's own.

        ``clock()`` is Unix time in whole seconds, ``entropy(n)`` gives fresh random bytes.
        """
        self.organisation = organisation
        self.ledger = ledger
        self.audit = audit
        self._signing = signing
        self._secrets = secrets
        self._clock = clock
        self._entropy = entropy
        self._of_party = Buckets(rates.party, parties=SHARE_PARTIES)
        self._of_all = Bucket(rates.total, clock())
        self._capsules = SoundCapsules()
        self._seat: _Seat | None = None
        self._missed_epoch = 0
        self._serving = 0
        self._computing = asyncio.Semaphore(SHARES_AT_ONCE)

    async def release(self, requester: bytes, request: SharesRequest) -> SharesAnswer:
        """Answer one request of an authenticated party, or raise :class:`SharesRefused`.

        Raises ``AuditUnavailable`` when the disk fails: then nothing is released.
        """
        self._require_rate(self._of_party.take(requester, len(request.items), self._clock()))
        if self._serving >= SHARE_REQUESTS:
            raise SharesRefused(KeyholderCode.BUSY)
        self._serving += 1
        try:
            return await self._release(requester, request)
        finally:
            self._serving -= 1

    async def _release(self, requester: bytes, request: SharesRequest) -> SharesAnswer:
        decision = read_decision(self.ledger.view(), request.ticket)
        try:
            self._require_live(decision, requester)
            # Only who has a live ticket can use up what there is for everybody.
            self._require_rate(self._of_all.take(len(request.items), self._clock()))
            _require_distinct(request.items)
            async with self._computing:
                seat, shares = await self._shares(requester, request)
            ticket = self._require_live(read_decision(self.ledger.view(), request.ticket), requester)
            sealed = await asyncio.to_thread(self._seal, request.ticket, ticket, seat.epoch, shares)
            decision = await self._look_again(requester, request, seat.epoch)
        except SharesRefused as refused:
            if refused.code is not KeyholderCode.TOO_MANY_SHARES:
                about = () if refused.record_id is None else ((refused.record_id, LATEST),)
                await self._note(requester, request.ticket, decision, code=int(refused.code), records=about)
            raise
        served = tuple((one.record, one.version) for one in request.items)
        await self._note(requester, request.ticket, decision, code=0, records=served)
        return SharesAnswer(epoch=seat.epoch, height=decision.height, sealed=sealed)

    async def _shares(self, requester: bytes, request: SharesRequest) -> tuple[_Seat, list[SignedShare]]:
        """The shares, computed by a worker thread in stretches, each after a fresh look at the ledger."""
        shares: list[SignedShare] = []
        seat = self._seat_at(self.ledger.view())
        for stretch in _stretches(request.items):
            judged = self._judge(self.ledger.view(), requester, request.ticket, stretch)
            shares += await asyncio.to_thread(self._compute, seat, requester, request.ticket, judged)
        return seat, shares

    async def _look_again(self, requester: bytes, request: SharesRequest, epoch: int) -> Decision:
        """What was true when a share was computed must be true when all of them leave. Returns the last decision."""
        view = self.ledger.view()
        for stretch in _stretches(request.items):
            self._judge(view, requester, request.ticket, stretch)
            await asyncio.sleep(0)
            view = self.ledger.view()
        if self._seat_at(view).epoch != epoch:
            raise SharesRefused(KeyholderCode.NO_SHARE)
        decision = read_decision(view, request.ticket)
        self._require_live(decision, requester)
        return decision

    # --- what the ledger says -----------------------------------------------------------------------------

    def _require_live(self, decision: Decision, requester: bytes) -> TicketRow:
        return judge_ticket(decision, requester, Moment(block_s=decision.block_s, wall_s=self._clock()))

    def _judge(self, view: View, requester: bytes, ticket_id: bytes, items: Sequence[ShareItem]) -> list[_Judged]:
        ticket = self._require_live(read_decision(view, ticket_id), requester)
        found = read_wanted(view, ticket.pseudonym, [(one.record, one.version) for one in items])
        judged = []
        for item, wanted in zip(items, found, strict=True):
            # Zero asks a gatekeeper for whatever is newest; a label and a proof are about one version.
            if item.version == LATEST:
                raise SharesRefused(KeyholderCode.RECORD_UNKNOWN, record_id=item.record)
            anchor = judge_record(ticket, wanted, item.capsule)
            label = label_of(self.ledger.chain_id, ticket.pseudonym, item.record, item.version, anchor)
            judged.append(_Judged(item, label))
        return judged

    def _seat_at(self, view: View) -> _Seat:
        """The organisation's own share of the present epoch; raises :class:`SharesRefused` where it has none.

        A share that does not lead to the key on the ledger would convict this organisation of lying: a file from an
        old backup, say. It is checked once per epoch, and never used.
        """
        key = view.contracts.keyring.current()
        held = None if key is None else key.holder(self.organisation)
        if key is None or held is None:
            raise SharesRefused(KeyholderCode.NO_SHARE)
        seat = self._seat
        if seat is not None and (seat.epoch, seat.key) == (key.epoch, held.key):
            return seat
        self._seat = None
        secret = self._secrets.share(key.epoch)
        if secret is None:
            if self._missed_epoch != key.epoch:
                # A holder that cannot answer is not noticed by anybody until one too many cannot.
                self._missed_epoch = key.epoch
                _log.error("key_share_missing", epoch=key.epoch)
            raise SharesRefused(KeyholderCode.NO_SHARE)
        if (secret.epoch, secret.index) != (key.epoch, held.index) or not group.same(
            group.base_mul(secret.scalar), held.key
        ):
            _log.error("key_share_unusable", epoch=key.epoch)
            raise SharesRefused(KeyholderCode.NO_SHARE)
        self._seat = _Seat(secret, held.key)
        return self._seat

    # --- arithmetic (in a worker thread) ------------------------------------------------------------------

    def _compute(self, seat: _Seat, requester: bytes, ticket_id: bytes, judged: Sequence[_Judged]) -> list[SignedShare]:
        return [self._share(seat, requester, ticket_id, one) for one in judged]

    def _share(self, seat: _Seat, requester: bytes, ticket_id: bytes, judged: _Judged) -> SignedShare:
        item, chain_id = judged.item, self.ledger.chain_id
        try:
            point = self._capsules.point(item.capsule, judged.label)
        except BadCapsule:
            raise SharesRefused(KeyholderCode.CAPSULE_UNSOUND, record_id=item.record) from None
        context = blinding_context(
            chain_id=chain_id, ticket=ticket_id, record=item.record, version=item.version, sender=requester
        )
        try:
            check_blinding(item.blinding, context=context)
            combined = group.add(point, item.blinding.q_point)
        except (BadProof, group.BadElement):
            raise SharesRefused(KeyholderCode.BLINDING_UNSOUND, record_id=item.record) from None
        if combined == group.IDENTITY:
            raise SharesRefused(KeyholderCode.BLINDED_TO_NOTHING, record_id=item.record)
        share = make_share(
            seat.secret,
            holder_key=seat.key,
            chain_id=chain_id,
            ticket=ticket_id,
            record=item.record,
            version=item.version,
            combined=combined,
            entropy=self._entropy(ENTROPY_SIZE),
        )
        statement = ShareStatement(
            ticket=ticket_id, record=item.record, version=item.version, combined=combined, share=share
        )
        return SignedShare(statement, self._signing.sign(statement_bytes(chain_id, statement)))

    def _seal(self, ticket_id: bytes, ticket: TicketRow, epoch: int, shares: Sequence[SignedShare]) -> bytes:
        try:
            return seal_shares(
                shares,
                chain_id=self.ledger.chain_id,
                ticket_id=ticket_id,
                requester=ticket.requester,
                epoch=epoch,
                hpke_key=ticket.hpke_key,
                entropy=self._entropy,
            )
        except ValueError:
            raise SharesRefused(KeyholderCode.KEY_UNUSABLE) from None

    # --- bookkeeping --------------------------------------------------------------------------------------

    async def _note(
        self,
        requester: bytes,
        ticket_id: bytes,
        decision: Decision,
        *,
        code: int,
        records: tuple[tuple[bytes, int], ...],
    ) -> None:
        read = Read(
            at_s=self._clock(),
            height=decision.height,
            requester=requester,
            ticket=ticket_id,
            code=code,
            records=records,
        )
        await asyncio.to_thread(self.audit.append, read)

    @staticmethod
    def _require_rate(within: bool) -> None:  # noqa: FBT001 - the answer of a bucket
        if not within:
            raise SharesRefused(KeyholderCode.TOO_MANY_SHARES)


def _require_distinct(items: Sequence[ShareItem]) -> None:
    """Two shares under one blinding give away their difference, so a keyholder makes no two in one answer."""
    records: set[bytes] = set()
    points: set[bytes] = set()
    for one in items:
        if one.record in records:
            raise SharesRefused(KeyholderCode.RECORD_REPEATED, record_id=one.record)
        if one.blinding.q_point in points:
            raise SharesRefused(KeyholderCode.BLINDING_REPEATED, record_id=one.record)
        records.add(one.record)
        points.add(one.blinding.q_point)


def _stretches(items: Sequence[ShareItem]) -> Iterator[Sequence[ShareItem]]:
    return (items[at : at + ITEMS_AT_ONCE] for at in range(0, len(items), ITEMS_AT_ONCE))
