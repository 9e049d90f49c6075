"""Gathering release shares: as many keyholders as it takes, whoever of them lies, is down or is slow (KEY-1).

A requester asks ``t`` keyholders at once and another one for each that fails, so a sealed record opens as long as
``t`` of them are honest and up. Every share is checked before it is used. One that its maker has signed and that does
not hold is the proof of its maker's fault, ready for the ledger (:meth:`Misbehaved.accusation`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from msgspec import Struct

from carechain.contracts.keyring import Accuse, Holder, KeyRow
from carechain.core.codec import Malformed
from carechain.core.crypto import BadSignature, verify
from carechain.core.limits import SHARES_PER_REQUEST
from carechain.core.party import Party
from carechain.core.quorum import Capsule, ShareStatement, statement_bytes
from carechain.core.rejection import Rejected
from carechain.sdk.failures import Refused, Unreachable
from carechain.sdk.shares import (
    Keyholder,
    KeyholderCode,
    ShareItem,
    SharesAnswer,
    SharesRequest,
    SignedShare,
    open_shares,
)
from carechain.sealing.codes import SealingCode
from carechain.sealing.hpke import CannotOpen, HpkePrivateKey
from carechain.sealing.quorum.release import ENTROPY_SIZE, Asked, BlindingSecret, accept_share, combine

HEDGE_S: Final = 2.0
"""How long the asked ones may all be silent before one more is asked."""
ANSWER_S: Final = 30.0
"""How long a keyholder may take to answer."""
FIRST_PAUSE_S: Final = 0.2
ATTEMPTS: Final = 6
"""How often a keyholder that says *later* is asked again: its ledger may be a few blocks behind."""
_LATER: Final = (
    KeyholderCode.TICKET_UNKNOWN,
    KeyholderCode.LEDGER_STALE,
    KeyholderCode.BUSY,
    KeyholderCode.TOO_MANY_SHARES,
)


class Misbehaved(Struct, frozen=True, kw_only=True):
    """A keyholder signed a share that does not hold. Ids and public points only."""

    holder: bytes
    statement: ShareStatement
    signature: bytes

    def accusation(self) -> Accuse:
        """What names the keyholder on the ledger."""
        return Accuse(statement=self.statement, signature=self.signature)


class Failed(Struct, frozen=True, kw_only=True):
    """A keyholder gave no usable share. ``why`` is the label of a refusal, or says what was wrong with its answer."""

    holder: bytes
    why: str


class NotEnoughShares(Exception):  # noqa: N818 - names what is missing
    """Fewer keyholders than the threshold gave a share that holds. ``failed`` says what became of the others."""

    def __init__(self, failed: Sequence[Failed], *, needed: int, got: int) -> None:
        reasons = ", ".join(dict.fromkeys(one.why for one in failed)) or "no other keyholder is known"
        super().__init__(f"{got} of {needed} shares: {reasons}")
        self.failed = tuple(failed)
        self.needed = needed
        self.got = got


class ToRelease(Struct, frozen=True, kw_only=True):
    """One version of a record whose key is wanted: its capsule, which the caller has compared with the anchor."""

    record: bytes
    version: int
    data: bytes
    capsule: Capsule


Fits = Callable[[ToRelease, bytes], bool]
"""Whether the object of this record was sealed with this key."""
_Keys = dict[tuple[bytes, int], bytes]


class _Asking(Struct, frozen=True):
    """One request, the same to every keyholder, and what the requester alone knows about it."""

    request: SharesRequest
    wanted: Sequence[ToRelease]
    secrets: Sequence[BlindingSecret]
    asked: Sequence[Asked]
    fits: Fits | None

    def __repr__(self) -> str:
        return f"_Asking(items={len(self.wanted)})"


class _Answer(Struct, frozen=True):
    """What one keyholder answered: as many shares as were asked for, by the right number; nothing is proved yet."""

    seat: Holder
    member: Party
    signed: Sequence[SignedShare]


class _UselessAnswer(Exception):  # noqa: N818 - names what is wrong with the answer
    """The answer is not what was asked for; nothing in it convicts anybody."""


class Gatherer:
    """One requester and the keyholders of one epoch."""

    def __init__(
        self,
        *,
        chain_id: str,
        party: bytes,
        hpke: HpkePrivateKey,
        key: KeyRow,
        members: Mapping[bytes, Party],
        holders: Sequence[Keyholder],
        entropy: Callable[[int], bytes],
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """``party`` and ``hpke`` are the requester's; ``key`` and ``members``, the keyholders' parties, the ledger's.

        ``pause(seconds)`` is waited for before a keyholder that said *later* is asked again.
        """
        self._chain_id = chain_id
        self._party = party
        self._hpke = hpke
        self._key = key
        self._members = dict(members)
        self._holders = list({one.party: one for one in holders if key.holder(one.party) is not None}.values())
        self._entropy = entropy
        self._pause = pause
        self._turn = 0
        self._unreliable: set[bytes] = set()
        self.misbehaved: dict[bytes, Misbehaved] = {}
        """Keyholder → the first proof against it: the ledger takes one per epoch."""
        self.failed: list[Failed] = []
        """What went wrong at the last request, also where it succeeded in the end."""

    @property
    def public_key(self) -> bytes:
        """The consortium's public key."""
        return self._key.public_key

    async def keys(self, ticket: bytes, wanted: Sequence[ToRelease], fits: Fits | None = None) -> _Keys:
        """The record keys by (record, version); all of them, or :class:`NotEnoughShares`.

        A record may be named once per call. With ``fits``, which says whether a key is the one that the record's object
        was sealed with, shares are first put together and tried: a false one cannot give a key that fits. Only where
        one does not are the shares checked one by one, to find who lied. Without it every share is checked first.
        """
        found: _Keys = {}
        for at in range(0, len(wanted), SHARES_PER_REQUEST):
            asking = await asyncio.to_thread(self._prepare, ticket, wanted[at : at + SHARES_PER_REQUEST], fits)
            found |= await self._keys(asking)
        return found

    def _prepare(self, ticket: bytes, wanted: Sequence[ToRelease], fits: Fits | None) -> _Asking:
        """A blinding for each record, made for it and forgotten with this request."""
        secrets = [
            BlindingSecret(
                chain_id=self._chain_id,
                ticket=ticket,
                record=one.record,
                version=one.version,
                sender=self._party,
                entropy=self._entropy(ENTROPY_SIZE),
            )
            for one in wanted
        ]
        pairs = list(zip(wanted, secrets, strict=True))
        items = tuple(ShareItem(one.record, one.version, one.data, secret.blinding) for one, secret in pairs)
        holder_keys = {one.index: one.key for one in self._key.holders}
        asked = [
            Asked(
                chain_id=self._chain_id,
                ticket=ticket,
                record=one.record,
                version=one.version,
                epoch=self._key.epoch,
                capsule=one.capsule,
                blinding=secret.blinding,
                holder_keys=holder_keys,
            )
            for one, secret in pairs
        ]
        return _Asking(SharesRequest(ticket=ticket, items=items), wanted, secrets, asked, fits)

    # --- asking -------------------------------------------------------------------------------------------

    async def _keys(self, asking: _Asking) -> _Keys:
        """Ask until as many answers as the threshold says give keys; each failure makes room for another keyholder."""
        answers: list[_Answer] = []
        failed: list[Failed] = []
        waiting = self._in_order()
        running: dict[asyncio.Task[_Answer], Keyholder] = {}
        hedged = 0
        try:
            while True:
                while waiting and len(running) < self._key.threshold - len(answers) + hedged:
                    holder = waiting.pop(0)
                    running[asyncio.create_task(self._from(holder, asking))] = holder
                if not running:
                    raise NotEnoughShares(failed, needed=self._key.threshold, got=len(answers))
                timeout_s = HEDGE_S if waiting else None
                done, _ = await asyncio.wait(running, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
                hedged += not done
                for task in done:
                    party = running.pop(task).party
                    why = _failure(task)
                    if why is None:
                        answers.append(task.result())
                    else:
                        failed.append(Failed(holder=party, why=why))
                if len(answers) >= self._key.threshold:
                    keys = await asyncio.to_thread(self._open, asking, answers, failed)
                    if keys is not None:
                        return keys
        finally:
            self.failed = failed
            self._unreliable = {one.holder for one in failed}
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def _in_order(self) -> list[Keyholder]:
        """Another one begins every time, so that all share the work; those that failed last come last."""
        start, self._turn = self._turn, self._turn + 1
        count = len(self._holders)
        order = [self._holders[(start + number) % count] for number in range(count)]
        return sorted(order, key=lambda one: (one.party in self.misbehaved, one.party in self._unreliable))

    async def _from(self, holder: Keyholder, asking: _Asking) -> _Answer:
        async with asyncio.timeout(ANSWER_S):
            answer = await self._patiently(holder, asking.request)
            return await asyncio.to_thread(self._read, holder, asking, answer)

    async def _patiently(self, holder: Keyholder, request: SharesRequest) -> SharesAnswer:
        for attempt in range(ATTEMPTS):
            try:
                return await holder.shares(request)
            except Rejected as refused:
                if refused.code not in _LATER or attempt == ATTEMPTS - 1:
                    raise
            await self._pause(FIRST_PAUSE_S * 2**attempt)
        raise _UselessAnswer("never asked")

    # --- checking (in a worker thread) --------------------------------------------------------------------

    def _read(self, holder: Keyholder, asking: _Asking, answer: SharesAnswer) -> _Answer:
        """An answer in the form that was asked for; without a key to try, every share in it proved."""
        seat, member = self._key.holder(holder.party), self._members.get(holder.party)
        if seat is None or member is None or answer.epoch != self._key.epoch:
            raise _UselessAnswer("a share of another epoch")
        try:
            signed = open_shares(
                answer,
                chain_id=self._chain_id,
                ticket_id=asking.request.ticket,
                requester=self._party,
                private_key=self._hpke,
            )
        except (CannotOpen, Malformed):
            raise _UselessAnswer("an answer that does not open") from None
        if len(signed) != len(asking.wanted):
            raise _UselessAnswer("another number of shares")
        found = _Answer(seat, member, signed)
        for one in signed:
            share = one.statement.share
            if (share.epoch, share.index) != (self._key.epoch, seat.index):
                raise _UselessAnswer("a share of another epoch or holder")
        if asking.fits is None:
            self._prove(asking, found)
        return found

    def _open(self, asking: _Asking, answers: list[_Answer], failed: list[Failed]) -> _Keys | None:
        """The keys, or None where some answers held false shares: they are taken out, and others are needed.

        Keys that do not fit although every share holds are given all the same: then the object is at fault.
        """
        if asking.fits is None:
            return self._combine(asking, answers)
        keys = self._fitting(asking, answers, asking.fits)
        if keys is not None:
            return keys
        for one in tuple(answers):
            try:
                self._prove(asking, one)
            except (_UselessAnswer, Rejected) as error:
                answers.remove(one)
                failed.append(Failed(holder=one.seat.party, why=_why(error)))
        return self._combine(asking, answers) if len(answers) >= self._key.threshold else None

    def _fitting(self, asking: _Asking, answers: Sequence[_Answer], fits: Fits) -> _Keys | None:
        """The keys from shares that nobody checked, if every one of them fits."""
        try:
            keys = self._combine(asking, answers)
        except Rejected:
            return None
        return keys if all(fits(one, keys[one.record, one.version]) for one in asking.wanted) else None

    def _prove(self, asking: _Asking, answer: _Answer) -> None:
        """Every share of an answer holds; raises :class:`_UselessAnswer` or ``Rejected``, and keeps the evidence."""
        for asked, signed in zip(asking.asked, answer.signed, strict=True):
            self._require_signed(signed, answer.member)
            try:
                accept_share(asked, signed.statement, index=answer.seat.index)
            except Rejected as refused:
                if refused.code is SealingCode.SHARE_FALSE:
                    evidence = Misbehaved(
                        holder=answer.seat.party, statement=signed.statement, signature=signed.signature
                    )
                    self.misbehaved.setdefault(answer.seat.party, evidence)
                raise

    def _require_signed(self, signed: SignedShare, member: Party) -> None:
        try:
            verify(
                suite=member.suite,
                public_key=member.public_key,
                signature=signed.signature,
                message=statement_bytes(self._chain_id, signed.statement),
            )
        except BadSignature:
            raise _UselessAnswer("a share that its maker did not sign") from None

    def _combine(self, asking: _Asking, answers: Sequence[_Answer]) -> _Keys:
        return {
            (one.record, one.version): combine(
                [answer.signed[number].statement.share for answer in answers],
                threshold=self._key.threshold,
                secret=asking.secrets[number],
                public_key=self._key.public_key,
                capsule=one.capsule,
            )
            for number, one in enumerate(asking.wanted)
        }


def _failure(task: "asyncio.Task[_Answer]") -> str | None:
    """Why a keyholder gave nothing, or None. What is a bug here, and not its fault, is raised."""
    error = task.exception()
    return None if error is None else _why(error)


def _why(error: BaseException) -> str:
    if isinstance(error, Rejected):
        return error.code.label
    if isinstance(error, Refused):
        return error.label
    if isinstance(error, Unreachable | TimeoutError):
        return "no answer"
    if isinstance(error, _UselessAnswer):
        return str(error)
    raise error
