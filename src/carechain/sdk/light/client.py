"""A light client: believes what validators signed, whoever shows it, and keeps what it came to believe (LED-10).

It starts from the genesis, from a trust file or from a block whose hash was heard elsewhere, goes on from there, and
asks every node it knows of whether it has the same blocks. Nodes only bring the bytes: one that alters, mixes up or
withholds something is found out, and the next one is asked. Clock and bytes come in as arguments.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Final

import httpx
import msgspec
from msgspec import Struct

from carechain.chain.genesis import Genesis
from carechain.chain.receipts import FullReceipt
from carechain.contracts.validators import founding_keys
from carechain.core.limits import LIGHT_BLOCK_BYTES, LIGHT_FRESH_S, LIGHT_KNOWN, LIGHT_SETTLE_S
from carechain.sdk.answers import MSGPACK, QueryAnswer
from carechain.sdk.failures import Refused, Unreachable, refusal_in
from carechain.sdk.keyfile import write_private_file
from carechain.sdk.light.header import LightBlock, decode_block
from carechain.sdk.light.proofs import LightInclusion, Settled, settle, verify_inclusion
from carechain.sdk.light.trust import TRUST_FILE_BYTES, read_trust, write_trust
from carechain.sdk.light.verify import (
    DEFAULT_RULES,
    Forked,
    Rules,
    Trusted,
    TrustedGenesis,
    TrustedHeader,
    TrustExpired,
    catch_up_async,
    compare,
    genesis_trust,
    pin,
    verify_commit,
)
from carechain.sdk.nodes import REQUEST_S, Patience
from carechain.sdk.proofs import NotProven
from carechain.sdk.tls import tls_failure

WITNESS_S: Final = 2.0
"""How long another node may take to say whether it has the same block."""
_BLOCK_UNKNOWN: Final = "NODE.BLOCK_UNKNOWN"
NEWEST: Final = 0
"""In place of a height."""

_inclusions = msgspec.msgpack.Decoder(LightInclusion)


class Source(Struct, frozen=True):
    """A node that shows light blocks: what to call it, and ``GET /v1/light/{height}`` at it.

    ``fetch`` raises :class:`Unreachable` and :class:`Refused`.
    """

    name: str
    fetch: Callable[[int], Awaitable[bytes]]


def source_at(url: str, http: httpx.AsyncClient, *, timeout_s: float = REQUEST_S) -> Source:
    """The node at this address, for those who only verify and need no key; ``http`` says which servers it believes."""

    async def fetch(height: int) -> bytes:
        path = f"{url.rstrip('/')}/v1/light/{height}"
        try:
            async with (
                asyncio.timeout(2 * timeout_s),
                http.stream("GET", path, headers={"accept": MSGPACK}, timeout=timeout_s) as response,
            ):
                data = bytearray()
                async for part in response.aiter_bytes():
                    data += part
                    if len(data) > LIGHT_BLOCK_BYTES:
                        raise NotProven("the light block is too large")
                if response.is_success:
                    return bytes(data)
                raise refusal_in(response, bytes(data))
        except httpx.HTTPError as error:
            why = tls_failure(error, url)
            raise Unreachable(why or f"{type(error).__name__}: no answer from the node at {url}") from None
        except TimeoutError:
            raise Unreachable(f"the answer of the node at {url} does not end") from None

    return Source(url, fetch)


class TrustFile:
    """Where the last believed header is kept, for the next time."""

    def __init__(self, path: Path) -> None:
        """``path`` need not exist yet; its folder must."""
        self.path: Final = path
        self._height = 0

    def read(self, chain_id: str) -> TrustedHeader | None:
        """The header in the file, None where there is none. Raises :class:`NotProven`, ``OSError``."""
        try:
            with self.path.open("rb") as file:
                data = file.read(TRUST_FILE_BYTES + 1)
        except FileNotFoundError:
            return None
        trusted = read_trust(data, chain_id=chain_id)
        self._height = trusted.height
        return trusted

    def keep(self, trusted: TrustedHeader) -> None:
        """Write a later header than the one in the file, so that a crash leaves the one or the other."""
        if trusted.height > self._height:
            write_private_file(self.path, write_trust(trusted), replace=True)
            self._height = trusted.height


def trust_of_genesis(genesis: Genesis) -> TrustedGenesis:
    """Trust that begins with the validators a consortium was founded with; raises :class:`NotProven` for none."""
    keys = founding_keys(genesis.validators, genesis.rotation)
    if not keys:
        raise NotProven("this network's blocks are signed by a producer: there is no commit to verify")
    return genesis_trust(chain_id=genesis.chain_id, time_s=genesis.time_s, keys=keys)


class LightClient:
    """Goes by validators' signatures alone. Belongs to one event loop."""

    def __init__(
        self,
        trusted: Trusted,
        sources: Callable[[], Iterable[Source]],
        *,
        clock: Callable[[], float],
        genesis: TrustedGenesis | None = None,
        keep: Callable[[TrustedHeader], None] | None = None,
        rules: Rules = DEFAULT_RULES,
        fresh_s: int = LIGHT_FRESH_S,
        settle_s: float = LIGHT_SETTLE_S,
    ) -> None:
        """``sources`` gives the nodes to ask, best first; ``clock`` Unix seconds; ``keep`` is told every new head.

        ``genesis`` is believed besides ``trusted``, as long as it is young enough: old blocks are soon found from it.
        ``fresh_s`` is how old a state may be that is taken for the present one, ``settle_s`` how long a block that is
        not there yet is waited for.
        """
        self.signatures = 0
        """How many signatures of validators were checked."""
        self.looking_at = 0
        """The height of the block that was asked for last: the first bad one, once something is not proven."""
        self._starts: tuple[Trusted, ...] = (trusted,) if genesis is None else (trusted, genesis)
        self._chain_id = trusted.chain_id
        self._sources = sources
        self._clock = clock
        self._keep = keep
        self._rules = rules
        self._fresh_s = fresh_s
        self._settle_s = settle_s
        self._known: dict[int, TrustedHeader] = {}
        """Believed headers by height; the one that was used last stands at the end."""
        self._head: Trusted = trusted
        self._lock = asyncio.Lock()
        if isinstance(trusted, TrustedHeader):
            self._known[trusted.height] = trusted
            self.signatures = _votes(trusted.block)

    @property
    def trusted(self) -> Trusted:
        """The highest header that is believed."""
        return self._head

    async def pin(self, height: int, expected_hash: bytes) -> TrustedHeader:
        """Go on from the block of this hash, which was heard elsewhere; raises :class:`NotProven`."""

        async def find(source: Source) -> TrustedHeader:
            block = await self._fetch(source, height)
            return pin(block, chain_id=self._chain_id, height=height, expected_hash=expected_hash)

        async with self._lock:
            pinned = await self._from_any(find)
            self._starts, self._head = (pinned,), pinned
            self._known = {pinned.height: pinned}
            if self._keep is not None:
                self._keep(pinned)
        return pinned

    # --- headers ------------------------------------------------------------------------------------------

    async def newest(self) -> TrustedHeader:
        """The newest block that a node shows and the validators signed.

        Raises :class:`NotProven`, also when that block is so old that newer ones must be withheld or the network
        stands still, and :class:`Forked`; :class:`Unreachable` and :class:`Refused` when no node shows any.
        """
        shown = await asyncio.gather(*(self._shown(source) for source in self._sources()), return_exceptions=True)
        failure: Exception | None = None
        blocks: list[LightBlock] = []
        for one in shown:
            if isinstance(one, LightBlock):
                blocks.append(one)
            elif isinstance(one, NotProven | Refused | Unreachable):
                failure = _graver(failure, one)
            else:
                raise one
        # Whoever claims the most is believed if that holds, so a node that stays behind hides nothing.
        for block in sorted(blocks, key=lambda one: -one.height):
            try:
                header = await self._newest(block)
            except (Forked, TrustExpired):
                raise
            except (NotProven, Refused, Unreachable) as doubt:
                failure = _graver(failure, doubt)
                continue
            self._require_fresh(header.time.seconds)
            return header
        raise failure or Unreachable("there is no node to ask")

    async def _newest(self, block: LightBlock) -> TrustedHeader:
        """A block that a node shows as its newest, believed; raises :class:`NotProven` and as :meth:`at`."""
        if block.height < self._head.height and block.height not in self._known:
            raise NotProven(
                f"the newest block shown is {block.height}, below {self._head.height}, which is believed already: the "
                "node is behind, withholds blocks, or has others"
            )
        header = await self.at(block.height)
        _require_same(header, block)
        return header

    async def _shown(self, source: Source) -> LightBlock:
        return decode_block(await source.fetch(NEWEST))

    async def at(self, height: int) -> TrustedHeader:
        """The block at ``height``, which must be there; raises :class:`NotProven`, and what the last node said."""
        async with self._lock:
            known = self._known.pop(height, None)
            if known is None:
                known = await self._walk(height)
            self._known[height] = known
            while len(self._known) > LIGHT_KNOWN:
                del self._known[next(iter(self._known))]
            return known

    async def _walk(self, height: int) -> TrustedHeader:
        """The way to a height through the first node that shows a good one, compared with what the others have."""
        start = self._nearest(height)
        if height > start.height and self._is_old(start):
            raise TrustExpired("the trusted header is too old to vouch for others")

        async def find(source: Source) -> TrustedHeader:
            header = await self._catch_up(start, height, source)
            if height > start.height:
                await self._compare(start, header, besides=source)
            return header

        header = await self._from_any(find)
        if header.height > self._head.height:
            self._head = header
            if self._keep is not None:
                self._keep(header)
        return header

    def _nearest(self, height: int) -> Trusted:
        """Where to begin: right above if that is known, since it names this block; else below, else above."""
        above = [one for one in self._known if one > height]
        if height + 1 in self._known:
            return self._known[height + 1]
        below = [one for one in (*self._starts, *self._known.values()) if one.height < height and not self._is_old(one)]
        if below or not above:
            return max(below, key=lambda one: one.height, default=self._head)
        return self._known[min(above)]

    def _is_old(self, trusted: Trusted) -> bool:
        return trusted.time.seconds + self._rules.trusting_period_s <= int(self._clock())

    async def _catch_up(self, start: Trusted, height: int, source: Source) -> TrustedHeader:
        async def fetch(wanted: int) -> LightBlock:
            return await self._fetch(source, wanted)

        return await catch_up_async(start, height, fetch, now_s=int(self._clock()), rules=self._rules)

    async def _fetch(self, source: Source, height: int) -> LightBlock:
        self.looking_at = height
        block = decode_block(await source.fetch(height))
        self.signatures += _votes(block)
        return block

    async def _from_any(self, find: Callable[[Source], Awaitable[TrustedHeader]]) -> TrustedHeader:
        """What the first node leads to; the gravest failure when none does.

        A fork and a start that is too old are the same through every node.
        """
        failure: Exception | None = None
        for source in self._sources():
            try:
                return await find(source)
            except (Forked, TrustExpired):
                raise
            except (NotProven, Refused, Unreachable) as doubt:
                failure = _graver(failure, doubt)
        raise failure or Unreachable("there is no node to ask")

    async def _compare(self, start: Trusted, header: TrustedHeader, *, besides: Source) -> None:
        """Ask all other nodes for the same block; raises :class:`Forked` where one proves another.

        A node that is away, is behind or shows something unproven is no witness.
        """
        witnesses = [one for one in self._sources() if one.name != besides.name]

        async def ask(witness: Source) -> TrustedHeader | None:
            try:
                async with asyncio.timeout(WITNESS_S):
                    block = decode_block(await witness.fetch(header.height))
                    if block.header == header.block.header:
                        return None
                    return await self._catch_up(start, header.height, witness)
            except (NotProven, Refused, Unreachable, TimeoutError):
                return None

        for other in await asyncio.gather(*map(ask, witnesses)):
            if other is not None:
                compare([header, other])

    # --- what a header is about -----------------------------------------------------------------------------

    async def settle(self, height: int) -> Settled:
        """Block ``height`` with the one above it, which is waited for; raises :class:`NotProven` and as :meth:`at`."""
        above = await self._awaited(height + 1)
        return settle(await self.at(height), above)

    async def _awaited(self, height: int) -> TrustedHeader:
        patience = Patience(self._settle_s)
        while True:
            try:
                return await self.at(height)
            except Refused as refused:
                if not refused.is_passing and refused.label != _BLOCK_UNKNOWN:
                    raise
                if await patience.pause(refused.retry_after_s or 0.0):
                    continue
                if refused.is_passing:
                    raise
            raise NotProven(f"no node shows block {height}: the network stands still, or it is withheld")

    async def believe(self, answer: QueryAnswer, *, at_least: int = 0) -> tuple[QueryAnswer, Settled]:
        """The answer with the height and time that its state is proven for, and why: for ``verify_answer``.

        A header says what came of the block below it. Where the answer's state is already the one that its own block
        began with, nothing need be waited for: it is proven for the block below, unless that is below ``at_least``.
        Raises :class:`NotProven`, also for a state too old to be the present one, and as :meth:`at`.
        """
        if answer.height < max(at_least, 1):
            raise NotProven("the answer is of an earlier block than it must be")
        below = answer.height - 1
        if answer.height + 1 not in self._known and below >= max(at_least, 1):
            above = await self._awaited(answer.height)
            settled = settle(await self.at(below), above)
            if settled.app_hash == answer.app_hash:
                self._require_fresh(settled.block.time.seconds)
                time_s = settled.block.time.seconds
                return msgspec.structs.replace(answer, height=below, time_s=time_s), settled
        settled = await self.settle(answer.height)
        self._require_fresh(settled.block.time.seconds)
        return answer, settled

    async def prove(self, shown: bytes, tx_id: bytes) -> FullReceipt:
        """The receipt of a transaction out of ``GET /v1/light/inclusion/{id}``; raises :class:`NotProven`."""
        try:
            inclusion = _inclusions.decode(shown)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise NotProven("what should show the transaction is malformed") from None
        if inclusion.height < 1:
            raise NotProven("the transaction is shown in no block")
        return verify_inclusion(await self.settle(inclusion.height), inclusion, tx_id)

    def _require_fresh(self, time_s: int) -> None:
        age_s = int(self._clock()) - time_s
        if age_s > self._fresh_s:
            raise NotProven(
                f"the newest block shown is {age_s} s old: the network stands still, or newer blocks are withheld"
            )


def _votes(block: LightBlock) -> int:
    return sum(one is not None for one in block.commit.signatures)


def _require_same(believed: TrustedHeader, shown: LightBlock) -> None:
    """A block that is shown for a believed header's height must be that one.

    Raises :class:`Forked` where those who signed it had a third of the believed block's votes, :class:`NotProven` else.
    """
    if shown.header == believed.block.header:
        return
    signers = verify_commit(shown, chain_id=believed.chain_id)
    power = sum(one.power for one in believed.validators)
    if 3 * sum(one.power for one in believed.validators if one.public_key in signers) > power:
        raise Forked(believed.block, shown)
    raise NotProven("the block is not the one that is believed at its height")


def _graver(known: Exception | None, new: Exception) -> Exception:
    """Which failure to tell when no node led anywhere. One that lacks a block may get it: that goes before a lie."""
    return new if known is None or _weight(new) > _weight(known) else known


def _weight(failure: Exception) -> int:
    if isinstance(failure, Refused):
        return 1 if failure.is_foreign else 3
    return 2 if isinstance(failure, NotProven) else 0
