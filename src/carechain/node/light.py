"""What a node shows to those who do not trust it: blocks with their validators' signatures, and paths to them (LED-10).

``GET /v1/light/{height}`` needs no session: headers, votes and consensus keys are for anyone, and say nothing about
anybody. So it is bounded: each block is asked of the engine once at a time, few are asked for at once, and the answers
are kept. The node checks nothing here and need not be believed; :mod:`carechain.sdk.light` does the checking.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

import orjson

from carechain.chain.receipts import encode_receipt
from carechain.core.limits import LIGHT_CACHE_BYTES, LIGHT_FETCHES
from carechain.core.rejection import Rejected
from carechain.engine.cometbft.rpc import EngineRefused, EngineUnreachable
from carechain.engine.session import CommittedBlock
from carechain.node.audience import Sight
from carechain.node.consortium import ConsortiumService
from carechain.node.ledger import LedgerNode
from carechain.node.refusals import NodeCode, Overloaded
from carechain.sdk.light.fetch import PAGE_VALIDATORS, make_answer, pages_of
from carechain.sdk.light.proofs import LightInclusion, make_inclusion
from carechain.sdk.proofs import NotProven


class Rpc(Protocol):
    """The part of the engine's own interface that is needed here."""

    async def call(self, method: str, **params: Any) -> Any:  # noqa: ANN401 - JSON
        """The result of a method; raises ``EngineUnreachable``, ``EngineRefused``."""
        ...


class LightBlocks:
    """Light blocks out of the engine. Belongs to one event loop."""

    def __init__(self, rpc: Rpc | None, newest: Callable[[], int]) -> None:
        """``rpc`` is None where a producer makes the blocks; ``newest`` gives the height of the last committed one."""
        self._rpc = rpc
        self._newest = newest
        self._kept: dict[int, bytes] = {}
        """By height; the one that was asked for last stands at the end."""
        self._kept_bytes = 0
        self._under_way: dict[int, asyncio.Task[bytes]] = {}

    @staticmethod
    def of(service: LedgerNode) -> "LightBlocks":
        """Those of a node, whichever engine it has."""
        rpc = service.rpc if isinstance(service, ConsortiumService) else None
        return LightBlocks(rpc, lambda: service.height)

    def require(self) -> Rpc:
        """The engine's interface; raises :class:`Rejected` where no validators sign the blocks."""
        if self._rpc is None:
            raise Rejected(NodeCode.NO_COMMITS)
        return self._rpc

    async def at(self, height: int) -> bytes:
        """The light block at ``height``, 0 for the newest, as :func:`~carechain.sdk.light.header.encode_block` has it.

        Raises :class:`Rejected`; :class:`Overloaded` while the engine is away, or has been asked for enough.
        """
        rpc, newest = self.require(), self._newest()
        if not newest:
            raise Overloaded(NodeCode.NO_BLOCK_YET)
        height = height or newest
        if height > newest:
            raise Rejected(NodeCode.BLOCK_UNKNOWN)
        kept = self._kept.pop(height, None)
        if kept is not None:
            self._kept[height] = kept
            return kept
        # One that asks and goes away takes nothing from others that wait for the same block.
        return await asyncio.shield(self._fetched(rpc, height))

    def _fetched(self, rpc: Rpc, height: int) -> "asyncio.Task[bytes]":
        task = self._under_way.get(height)
        if task is None:
            if len(self._under_way) >= LIGHT_FETCHES:
                raise Overloaded
            task = self._under_way[height] = asyncio.create_task(self._fetch(rpc, height), name="light block")
            task.add_done_callback(lambda done: self._note(height, done))
        return task

    async def _fetch(self, rpc: Rpc, height: int) -> bytes:
        try:
            commit = _result(await rpc.call("commit", height=str(height)))
            pages = [await self._page(rpc, height, 1)]
            for number in range(2, pages_of(pages[0]) + 1):
                pages.append(await self._page(rpc, height, number))  # noqa: PERF401 - an await belongs into a loop
            return make_answer(commit, pages)
        except (EngineRefused, NotProven):
            # The engine has pruned it, or began with a later one.
            raise Rejected(NodeCode.BLOCK_UNKNOWN) from None
        except EngineUnreachable:
            raise Overloaded(NodeCode.ENGINE_AWAY) from None

    @staticmethod
    async def _page(rpc: Rpc, height: int, number: int) -> bytes:
        found = await rpc.call("validators", height=str(height), page=str(number), per_page=str(PAGE_VALIDATORS))
        return _result(found)

    def _note(self, height: int, done: "asyncio.Task[bytes]") -> None:
        del self._under_way[height]
        if done.cancelled() or done.exception() is not None:
            return
        data = self._kept[height] = done.result()
        self._kept_bytes += len(data)
        while self._kept_bytes > LIGHT_CACHE_BYTES:
            oldest = next(iter(self._kept))
            self._kept_bytes -= len(self._kept.pop(oldest))


def _result(found: object) -> bytes:
    """A result as the engine writes it, for the strict reader of its answers."""
    return orjson.dumps({"result": found})


def show_inclusion(block: CommittedBlock, index: int, sight: Sight) -> LightInclusion:
    """A transaction and its receipt with their paths to the validators' headers, for whoever may see it whole."""
    if sight is not Sight.WHOLE:
        raise Rejected(NodeCode.PROOF_IS_NOT_YOURS)
    receipts = [encode_receipt(receipt) for receipt in block.receipts]
    return make_inclusion(height=block.height, index=index, txs=block.txs, receipts=receipts)
