"""An organisation's part in the ceremonies of the consortium key, sent by its node as soon as it is due (KEY-3).

Each time the ledger has a new block, the runner looks what its organisation has to say and says it. It remembers
nothing beyond :class:`~carechain.node.keyholder_store.KeyholderStore`: after a crash anywhere it looks again, makes the
same message from the same seed, and the ledger shows whether that was said already.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

import structlog

from carechain.chain.queries import View
from carechain.chain.receipts import OK, code_named
from carechain.chain.tx import build
from carechain.contracts.keyring.schema import CeremonyRow, CloseRound, Phase
from carechain.contracts.keyring.views import CeremonyView, ceremony_view
from carechain.core.crypto import SigningKey
from carechain.core.limits import NONCE_SIZE, TX_LIFETIME_S
from carechain.core.message import Message
from carechain.core.rejection import Rejected
from carechain.gatekeeper.ledger import LedgerReader
from carechain.node.keyholder_store import HolderSecret, KeyholderFileUnusable, KeyholderStore
from carechain.sealing.quorum.participant import NotOurSecret, Participant, Secrets

__all__ = ["CeremonyRunner", "FollowedLedger", "HolderSecret", "KeyholderFileUnusable", "KeyholderStore"]

OUTCOME_S: Final = 10
"""How long an outcome is waited for: without a quorum there is none, and the node must be able to stop."""
CLOSE_APART_S: Final = 2
"""A round that is over is closed by the first participant; each next one waits so much longer in case it is down."""
_log = structlog.get_logger("carechain.keyholder")


class FollowedLedger(LedgerReader, Protocol):
    """The organisation's own replica of the ledger, which also tells when there is a new block."""

    async def reached(self, height: int) -> None:
        """Wait until the block at ``height`` is here."""


class CeremonyRunner:
    """Takes part for one organisation, with its member key."""

    def __init__(
        self,
        *,
        ledger: FollowedLedger,
        key: SigningKey,
        member: bytes,
        store: KeyholderStore,
        entropy: Callable[[int], bytes],
    ) -> None:
        """``member`` is the organisation's party id and ``key`` its signing key; ``entropy(n)`` gives random bytes."""
        self._ledger = ledger
        self._key = key
        self._member = member
        self._store = store
        self._entropy = entropy
        self._given_up: tuple[bytes, Phase] | None = None
        """The round in which the ledger refused what was sent: the same bytes would be refused again.

        The round must be closed all the same: what was refused may have been said already, by bytes sent earlier.
        """

    async def run(self, stop: asyncio.Event) -> None:
        """Take part whenever there is something to say, until ``stop`` is set; what is finished then is kept.

        Raises ``OSError`` when the file with the secrets cannot be written.
        """
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                height = self._ledger.view().height
                while await self.step() and not stop.is_set():
                    pass
                block = asyncio.create_task(self._ledger.reached(height + 1))
                await asyncio.wait({stopping, block}, return_when=asyncio.FIRST_COMPLETED)
                if block.done():
                    block.result()
                else:
                    block.cancel()
                    await asyncio.wait({block})
            await self._settle(self._ledger.view())
        finally:
            stopping.cancel()

    async def step(self) -> bool:
        """Do what is due at the ledger's present height; whether something was sent that the ledger took."""
        view = self._ledger.view()
        await self._settle(view)
        tables = view.contracts.keyring
        found = tables.under_way()
        if found is None:
            return False
        ceremony, row = found
        message = await self._due(view, ceremony, row)
        return message is not None and await self._send(ceremony, row, message)

    async def _due(self, view: View, ceremony: bytes, row: CeremonyRow) -> Message | None:
        seen = ceremony_view(view.contracts.keyring, ceremony)
        if seen is None or self._member not in (*seen.dealers.values(), *row.holders):
            return None
        seed = self._store.seed(ceremony)
        if seed is None and row.phase is Phase.JOIN and self._member not in seen.joins:
            seed = await asyncio.to_thread(self._store.begin, ceremony, height=view.height)
        share = self._store.share(row.from_epoch)
        message = None
        if seed is not None and (ceremony, row.phase) != self._given_up:
            try:
                secrets = Secrets(seed=seed, share=None if share is None else share.scalar)
                message = Participant(seen, party=self._member, secrets=secrets).next_message()
            except NotOurSecret:
                _log.warning("ceremony_of_another_home", ceremony=ceremony.hex())
                self._given_up = (ceremony, row.phase)
        return message or self._closing(view, seen.dealers, ceremony, row)

    def _closing(self, view: View, dealers: dict[int, bytes], ceremony: bytes, row: CeremonyRow) -> Message | None:
        """The end of a round whose time is over, if it is this participant's turn to see to it."""
        everyone = tuple(dict.fromkeys((*row.holders, *dealers.values())))
        waits_s = CLOSE_APART_S * everyone.index(self._member)
        over = view.time_s >= row.round_opened_s + row.round_s + waits_s
        return CloseRound(ceremony=ceremony) if over else None

    async def _settle(self, view: View) -> None:
        """Keep what came of ceremonies that are over, and forget their secrets and the shares of earlier epochs."""
        tables = view.contracts.keyring
        for ceremony in self._store.begun(view.height):
            seen = ceremony_view(tables, ceremony)
            if seen is None or not seen.row.is_open:
                share = None if seen is None else self._share_of(seen)
                await asyncio.to_thread(self._store.settle, ceremony, share)
        if self._store.has_before(tables.epoch()):
            await asyncio.to_thread(self._store.forget_before, tables.epoch())

    def _share_of(self, seen: CeremonyView) -> HolderSecret | None:
        """The organisation's share of what a finished ceremony made, if it is a holder."""
        epoch, seed = seen.row.epoch, self._store.seed(seen.ceremony)
        own = None if seen.result is None else seen.result.holder(self._member)
        if seed is None or own is None:
            return None
        try:
            scalar = Participant(seen, party=self._member, secrets=Secrets(seed=seed)).final_share()
        except NotOurSecret:
            scalar = None
        if scalar is None:
            _log.error("no_share", epoch=epoch, reason="what was dealt to this home does not make its share")
            return None
        _log.info("share_kept", epoch=epoch)
        return HolderSecret(epoch=epoch, index=own.index, scalar=scalar)

    async def _send(self, ceremony: bytes, row: CeremonyRow, message: Message) -> bool:
        """Send one message; what cannot be sent now is made again at the next block."""
        raw = build(
            key=self._key,
            sender=self._member,
            chain_id=self._ledger.chain_id,
            nonce=self._entropy(NONCE_SIZE),
            valid_until_s=self._ledger.view().time_s + TX_LIFETIME_S // 2,
            messages=(message,),
        )
        try:
            async with asyncio.timeout(OUTCOME_S):
                code = (await self._ledger.submit(raw)).receipt.code
        except Rejected as refused:
            _log.warning("ceremony_postponed", code=int(refused.code), label=refused.code.label)
            return False
        except TimeoutError:
            _log.warning("ceremony_postponed", reason="the ledger makes no block")
            return False
        if code != OK:
            known = code_named(code)
            _log.warning("ceremony_refused", code=code, label=None if known is None else known.label)
            if not isinstance(message, CloseRound):
                self._given_up = (ceremony, row.phase)
            return False
        return True
