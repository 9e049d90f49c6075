"""Anchors for what comes in through the FHIR server, signed and sent in the background: each version once (REC-1).

The charts keep a list of record versions that the ledger has not; this takes from it, submits, and strikes off what
the ledger took. After a crash the ledger is asked first, so nothing is anchored twice. What is refused, for example
because the patient's grant to write has ended, waits and is tried again ever more rarely; it holds nothing else up.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Final, Protocol

import structlog
from msgspec import Struct

from carechain.chain.queries import View
from carechain.chain.receipts import OK, code_named
from carechain.chain.tx import build
from carechain.charts.record import StoredRecord
from carechain.charts.schema import ChartsUnavailable
from carechain.core.limits import NONCE_SIZE, TX_LIFETIME_S
from carechain.core.message import Message
from carechain.core.rejection import Rejected
from carechain.gatekeeper.anchoring import anchor_of, in_transactions
from carechain.gatekeeper.ledger import LedgerReader
from carechain.sdk.identity import Identity

EVERY_S: Final = 2.0
"""How often the list is looked at."""
BATCH: Final = 500
"""Record versions looked at in one turn."""
OUTCOME_S: Final = 10
RETRY_FIRST_S: Final = 30
RETRY_LAST_S: Final = 3600
POSTPONED: Final = 10_000
"""Refused versions that are remembered; what is beyond is tried at every turn."""
_log = structlog.get_logger("carechain.gateway")
_Version = tuple[bytes, int]


class Charts(Protocol):
    """What this needs of the charts. Both block; both raise ``ChartsUnavailable``."""

    def unanchored(self, limit: int) -> list[StoredRecord]:
        """Record versions of bound patients that wait, oldest first."""

    def strike_off(self, anchored: Sequence[_Version]) -> None:
        """The ledger has these: they wait no longer."""


class _Waits(Struct, frozen=True):
    """When a refused version is tried again, and how long it has waited last (seconds)."""

    until_s: int
    waited_s: int


class Outbox:
    """Anchors what the charts list, as one member of staff."""

    def __init__(
        self,
        *,
        charts: Charts,
        ledger: LedgerReader,
        identity: Identity,
        clock: Callable[[], int],
        entropy: Callable[[int], bytes],
    ) -> None:
        """``identity`` is enrolled staff whose role may anchor; ``clock()`` gives Unix seconds."""
        self._charts = charts
        self._ledger = ledger
        self._identity = identity
        self._clock = clock
        self._entropy = entropy
        self._postponed: dict[_Version, _Waits] = {}
        self.waiting = 0
        """Record versions that the last turn found waiting, as far as it looked."""

    async def run(self, stop: asyncio.Event, *, every_s: float = EVERY_S) -> None:
        """Anchor at intervals until ``stop`` is set. What cannot be done now is tried again at the next turn."""
        while not stop.is_set():
            try:
                await asyncio.wait_for(stop.wait(), every_s)
            except TimeoutError:
                await self._turn_or_log(stop)

    async def _turn_or_log(self, stop: asyncio.Event) -> None:
        try:
            while await self.turn() and not stop.is_set():
                pass
        except Rejected as refused:
            _log.warning("anchoring_postponed", label=refused.code.label)
        except TimeoutError:
            _log.warning("anchoring_postponed", reason="the ledger makes no block")
        except ChartsUnavailable as unavailable:
            _log.error("storage_unavailable", kind=type(unavailable).__name__, reason=str(unavailable))

    async def turn(self) -> int:
        """Anchor a batch; returns how many versions were struck off.

        Raises ``Rejected`` when the ledger admits nothing now, ``TimeoutError`` and ``ChartsUnavailable``.
        """
        waiting = await asyncio.to_thread(self._charts.unanchored, BATCH + len(self._postponed))
        self.waiting = len(waiting)
        view, now_s = self._ledger.view(), self._clock()
        done = [_name(one) for one in waiting if _is_anchored(view, one)]
        left = [one for one in waiting if _name(one) not in set(done) and self._is_due(one, now_s)]
        for _, records in groupby(sorted(left, key=_order), key=lambda one: one.pseudonym):
            # A transaction is about one patient: two in one would link them.
            done += await self._anchor(list(records))
        if done:
            await asyncio.to_thread(self._charts.strike_off, done)
            for one in done:
                self._postponed.pop(one, None)
        return len(done)

    async def _anchor(self, records: list[StoredRecord]) -> list[_Version]:
        """Of one patient's records those that the ledger took. Where several are refused, each is tried by itself."""
        done: list[_Version] = []
        for part in _parts(records, self._entropy):
            code = await self._submit([message for _, message in part])
            if code == OK:
                done += [_name(record) for record, _ in part]
            elif len(part) == 1:
                self._postpone(part[0][0], code)
            else:
                for record, message in part:
                    code = await self._submit([message])
                    if code == OK:
                        done.append(_name(record))
                    else:
                        self._postpone(record, code)
        return done

    async def _submit(self, messages: Sequence[Message]) -> int:
        raw = build(
            key=self._identity.signing_key(),
            sender=self._identity.party,
            chain_id=self._ledger.chain_id,
            nonce=self._entropy(NONCE_SIZE),
            valid_until_s=self._ledger.view().time_s + TX_LIFETIME_S // 2,
            messages=tuple(messages),
        )
        async with asyncio.timeout(OUTCOME_S):
            return (await self._ledger.submit(raw)).receipt.code

    def _is_due(self, record: StoredRecord, now_s: int) -> bool:
        waits = self._postponed.get(_name(record))
        return waits is None or now_s >= waits.until_s

    def _postpone(self, record: StoredRecord, code: int) -> None:
        name = _name(record)
        before = self._postponed.get(name)
        if before is None and len(self._postponed) >= POSTPONED:
            return
        waited_s = RETRY_FIRST_S if before is None else min(RETRY_LAST_S, 2 * before.waited_s)
        self._postponed[name] = _Waits(self._clock() + waited_s, waited_s)
        known = code_named(code)
        _log.warning(
            "anchor_refused",
            record=record.record_id.hex(),
            label=str(code) if known is None else known.label,
            seconds=waited_s,
        )


def _name(record: StoredRecord) -> _Version:
    return record.record_id, record.version


def _order(record: StoredRecord) -> tuple[bytes, bytes, int]:
    """A version comes after the one before it."""
    return record.pseudonym, record.record_id, record.version


def _is_anchored(view: View, record: StoredRecord) -> bool:
    """Whether the ledger has this version already, be it from before a crash or by another's hand."""
    row = view.contracts.records.anchors.get(record.pseudonym, record.record_id, record.version)
    return row is not None and row.root == record.root


def _parts(
    records: Sequence[StoredRecord], entropy: Callable[[int], bytes]
) -> Iterator[list[tuple[StoredRecord, Message]]]:
    """Records with their messages, cut so that each part fits a transaction."""
    messages = [anchor_of(one, entropy=entropy) for one in records]
    paired = iter(zip(records, messages, strict=True))
    for part in in_transactions(messages):
        yield [next(paired) for _ in part]
