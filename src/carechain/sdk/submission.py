"""One signed transaction until its outcome is known, over whichever nodes answer (API-6).

The same bytes may go to several nodes, several times: the ledger takes them once. So sending again is always safe, and
what must never happen is to call a transaction refused that may be on the ledger, because its sender would then sign
another one. A refusal is final only where it follows from the bytes alone, or where no other node can have taken them.
"""

from typing import Final, Self

import msgspec

from carechain.chain.receipts import Receipt
from carechain.chain.tx import AdmissionCode, parse
from carechain.sdk.answers import ShownReceipt, Submitted
from carechain.sdk.failures import Refused, Unreachable, WrongNode, graver
from carechain.sdk.nodes import Link, Links, Patience

RAW: Final = "application/octet-stream"
TX_UNKNOWN: Final = "NODE.TX_UNKNOWN"
_OVERLOADED: Final = "NODE.OVERLOADED"
_ABOUT_THE_BYTES: Final = frozenset(
    {
        AdmissionCode.TOO_LARGE,
        AdmissionCode.MALFORMED,
        AdmissionCode.VERSION_UNKNOWN,
        AdmissionCode.WRONG_CHAIN,
        AdmissionCode.SEVERAL_PSEUDONYMS,
        AdmissionCode.TOO_MANY_REQUESTS,
    }
)
"""No node can take such bytes."""


async def fetch_receipt(link: Link, tx_id: bytes, *, timeout_s: float) -> ShownReceipt:
    """The receipt as one node shows it; raises :class:`Refused` labelled :data:`TX_UNKNOWN` where it has none."""
    data = await link.ask("GET", f"/v1/transactions/{tx_id.hex()}", timeout_s=timeout_s)
    try:
        return msgspec.msgpack.decode(data, type=ShownReceipt)
    except msgspec.MsgspecError:
        raise Unreachable("the node's answer cannot be read: client and node do not fit") from None


class Submission:
    """One transaction on its way."""

    def __init__(self, links: Links, tx_id: bytes, raw: bytes = b"", *, at_least: int = 0) -> None:
        """``raw`` are its signed bytes, where it is to be sent; ``at_least`` a height that the ledger has reached."""
        self._links = links
        self._tx_id = tx_id
        self._raw = raw
        self._at_least = at_least
        self._may_have_it: set[Link] = set()
        """Nodes that the bytes went to and that gave no answer."""

    @classmethod
    def of(cls, links: Links, raw: bytes, *, at_least: int = 0) -> Self:
        """From signed bytes; raises ``Rejected`` for what is no transaction."""
        return cls(links, parse(raw).id, raw, at_least=at_least)

    # --- sending ------------------------------------------------------------------------------------------

    async def settle(self, patience: Patience) -> Submitted:
        """Send the bytes, to one node after the other, until the outcome is known.

        Raises :class:`Refused` when it is certain that the ledger does not have it, :class:`Unreachable` with the
        id when the outcome is open at the end, :class:`WrongNode` when only such answered.
        """
        while True:
            failure: Exception | None = None
            wait_s = 0.0
            for link in self._links.in_turn():
                try:
                    await self._links.make_sure(link)
                    return await self._send(link)
                except (Unreachable, WrongNode) as lost:
                    link.set_aside()
                    failure = graver(failure, lost)
                except Refused as refused:
                    known = await self._judge(link, refused, patience)
                    if known is not None:
                        return known
                    wait_s = max(wait_s, refused.retry_after_s or 0.0)
                    failure = graver(failure, refused)
            if not await patience.pause(wait_s):
                raise self._given_up(failure)

    async def _send(self, link: Link) -> Submitted:
        try:
            data = await link.ask(
                "POST", "/v1/transactions", self._raw, media=RAW, signed_in=False, timeout_s=self._links.answer_s
            )
            submitted = msgspec.msgpack.decode(data, type=Submitted)
        except Unreachable as lost:
            if lost.sent:
                self._may_have_it.add(link)
            raise
        except msgspec.MsgspecError:
            self._may_have_it.add(link)
            raise Unreachable("the node's answer cannot be read: client and node do not fit") from None
        link.is_well()
        link.height = max(link.height, submitted.height)
        return submitted

    async def _judge(self, link: Link, refused: Refused, patience: Patience) -> Submitted | None:
        """What a refusal means: the outcome after all, None to go on, or raised again where it is final."""
        if refused.is_passing:
            if may_have_taken(refused):
                self._may_have_it.add(link)
            link.set_aside(refused.retry_after_s)
            return None
        link.is_well()
        if refused.code in _ABOUT_THE_BYTES:
            raise refused
        if refused.code == AdmissionCode.REPLAYED:
            return await self._replayed(patience)
        if refused.code == AdmissionCode.EXPIRED:
            # Block time never goes back: what is not on the ledger of a node that says this can never get there.
            known = await self._known()
            if known is None and await self._lacks(link):
                raise refused
            self._may_have_it.add(link)
            return known
        if self._may_have_it:
            known = await self._known()
            if known is not None:
                return known
        if await link.is_behind(self._at_least) or self._may_have_it - {link}:
            return None
        raise refused

    def _given_up(self, failure: Exception | None) -> Exception:
        """How it ends without an outcome: open, unless nothing can have been taken."""
        if self._may_have_it or not isinstance(failure, Refused | WrongNode):
            sent = bool(self._may_have_it)
            return Unreachable(str(failure or "no node answered"), tx_id=self._tx_id, sent=sent)
        return failure

    # --- learning -----------------------------------------------------------------------------------------

    async def wait(self, patience: Patience) -> Submitted:
        """The outcome once some node has it on its ledger; raises :class:`Unreachable` with the id, :class:`Refused`.

        Where there are several nodes a refusal may come from one that is behind, and the others are waited for.
        """
        while True:
            known: Submitted | None = None
            try:
                known = await self._look()
            except Unreachable:
                pass
            except Refused as refused:
                if len(self._links) == 1 and not refused.is_passing:
                    raise
            if known is not None:
                return known
            if not await patience.pause():
                raise Unreachable("the transaction is not on the ledger yet", tx_id=self._tx_id)

    async def found(self, refused: Refused, link: Link, patience: Patience) -> Submitted | Refused:
        """What became of a transaction that ``link`` refused after another node may have taken it.

        Raises :class:`Unreachable` with the id when that stays open.
        """
        if refused.code == AdmissionCode.REPLAYED:
            return await self._replayed(patience)
        known = await self._known()
        if known is not None:
            return known
        if refused.code == AdmissionCode.EXPIRED and await self._lacks(link):
            return refused
        raise Unreachable(f"the outcome is open: {refused}", tx_id=self._tx_id)

    async def _replayed(self, patience: Patience) -> Submitted:
        """The outcome of what is on the ledger; raises :class:`Unreachable` with the id where nobody shows it."""
        try:
            return await self.wait(patience)
        except (Refused, WrongNode) as hidden:
            # As for a signer who is a member no more: no answer, and yet the last thing to do is to sign another one.
            raise Unreachable(
                f"the transaction is on the ledger, and its outcome is not shown: {hidden}", tx_id=self._tx_id
            ) from None

    async def _lacks(self, link: Link) -> bool:
        """Whether this very node says that its ledger does not have the transaction; its silence says nothing."""
        try:
            await fetch_receipt(link, self._tx_id, timeout_s=self._links.answer_s)
        except Refused as refused:
            return refused.label == TX_UNKNOWN
        except (Unreachable, WrongNode):
            return False
        return False

    async def _known(self) -> Submitted | None:
        """The outcome, if some node that can be asked has it."""
        try:
            return await self._look()
        except (Refused, Unreachable, WrongNode):
            return None

    async def _look(self) -> Submitted | None:
        """The outcome at any node; None where one says that it has none. Raises what else they all say."""
        failure: Exception | None = None
        unknown = False
        for link in self._links.in_turn():
            try:
                await self._links.make_sure(link)
                full = (await fetch_receipt(link, self._tx_id, timeout_s=self._links.answer_s)).receipt
            except Refused as refused:
                if refused.label == TX_UNKNOWN:
                    unknown = True
                else:
                    failure = graver(failure, refused)
            except (Unreachable, WrongNode) as lost:
                link.set_aside()
                failure = graver(failure, lost)
            else:
                link.is_well()
                link.height = max(link.height, full.height)
                receipt = Receipt(full.code, full.failed_message, full.events, full.reads, full.writes)
                return Submitted(tx_id=self._tx_id, height=full.height, index=full.index, receipt=receipt)
        if failure is not None and not unknown:
            raise failure
        return None


def may_have_taken(refused: Refused) -> bool:
    """Whether somebody who said so may have taken the bytes all the same.

    A proxy may have passed them on before it failed, and so may a node that says that it is stopping.
    """
    return refused.is_passing and refused.label != _OVERLOADED


def is_about_the_bytes(refused: Refused) -> bool:
    """Whether no node can ever take what was refused so."""
    return refused.code in _ABOUT_THE_BYTES
