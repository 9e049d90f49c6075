"""Objects in the distributed store: cut into pieces that fit a datagram, each found by its own hash.

An object of one piece is stored as it is. A larger one has a root at its address, signed by the member that stores it,
with the hashes of its pieces, or of index pieces that hold those. Every piece is verified when it arrives. The root is
not what its address says until the whole object was hashed; where members have left different roots, each is tried.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from itertools import islice
from typing import Final

from carechain.core.codec import encode
from carechain.core.hashing import HASH_SIZE
from carechain.core.limits import DHT_OBJECT_BYTES, DHT_PIECE_BYTES, DHT_PIECES_AT_ONCE, DHT_ROOT_HASHES
from carechain.core.rejection import Rejected, require
from carechain.vault.base import (
    Hashing,
    Source,
    VaultUnavailable,
    address_of,
    address_of_stream,
    pieces_of,
    require_address,
    size_of,
    span,
)
from carechain.vault.codes import VaultCode
from carechain.vault.kademlia_node import DhtNode
from carechain.vault.kademlia_records import FAN, Kind, Record, Root, key_of, read_root, sign_record


class KademliaStore:
    """A vault that the members' nodes keep together."""

    is_near: Final = False
    is_ours: Final = True

    def __init__(self, node: DhtNode, *, minimum: int = 2, name: str = "kademlia") -> None:
        """``minimum`` nodes must have each piece before an object counts as stored."""
        self.name: Final = name
        self._node = node
        self._minimum = minimum
        self._hashing: Hashing = node.seat.hashing

    async def put(self, address: bytes, source: Source, *, replace: bool = False) -> None:
        """As :meth:`carechain.vault.base.Vault.put`; ``VaultUnavailable`` when too few nodes took a piece."""
        size = size_of(source)
        require(size <= DHT_OBJECT_BYTES, VaultCode.OBJECT_TOO_LARGE)
        found = await asyncio.to_thread(address_of, source, self._hashing)
        require(found == require_address(address), VaultCode.CONTENT_DIFFERS)
        if not replace and await self.size(address) == size:
            return
        # Noted first: what is stored only in part can then be taken back.
        await asyncio.to_thread(self._node.file.note_own, address, size)
        if size <= DHT_PIECE_BYTES:
            content = await asyncio.to_thread(lambda: b"".join(pieces_of(source)))
            await self._publish(Kind.PIECE, address, content)
            return
        hashes = await self._put_pieces(pieces_of(source, DHT_PIECE_BYTES))
        depth = 0
        if len(hashes) > DHT_ROOT_HASHES:
            hashes, depth = await self._put_pieces(_index_pieces(hashes)), 1
        root = Root(size=size, depth=depth, hashes=tuple(hashes))
        await self._publish(Kind.ROOT, address, encode(root))

    async def open(self, address: bytes, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """As :meth:`carechain.vault.base.Vault.open`; every piece has its hash, the order is the root's."""
        found = await self._object(address)
        if isinstance(found, bytes):
            first, last = span(start, end, len(found))
            if first < last:
                yield found[first:last]
            return
        first, last = span(start, end, found.size)
        async with aclosing(self._content(found, first, last)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def size(self, address: bytes) -> int | None:
        """As :meth:`carechain.vault.base.Vault.size`; by the root, without asking for every piece."""
        records = await self._records(address)
        for record in records:
            return len(record.body) if record.kind is Kind.PIECE else read_root(record).size
        return None

    async def holds_own(self, address: bytes) -> bool:
        """Whether this member has stored the object: what others did is theirs to take back, and to sign for."""
        if await asyncio.to_thread(self._node.file.is_own, address):
            return True
        own = self._node.seat.party
        return any(one.signer == own for one in await self._records(address))

    async def delete(self, address: bytes) -> bool:
        """Take back what this member stored, pieces first, so that the same call finishes what was cut short.

        Nodes that are away now are told when they publish their copy again. What other members stored stays theirs.
        """
        seat = self._node.seat
        mine = [one for one in await self._records(address) if one.signer == seat.party]
        for record in mine:
            if record.kind is Kind.ROOT:
                root = read_root(record)
                index = await self._index(root)
                await self._each([*index, *(root.hashes if root.depth else ())], self._take_back)
            await self._take_back(address)
        noted = await asyncio.to_thread(self._node.file.forget_own, address)
        return bool(mine) or noted

    async def addresses(self) -> AsyncIterator[bytes]:
        """What this node itself stored: nobody can list what all have."""
        own = self._node.file.own()
        while (address := await asyncio.to_thread(next, own, None)) is not None:
            yield address

    # --- finding --------------------------------------------------------------------------------------------

    async def _records(self, address: bytes) -> list[Record]:
        """Pieces first, because they prove themselves; then the roots, this member's own first."""
        found = await self._node.find(require_address(address))
        pieces = [one for one in found if one.kind is Kind.PIECE]
        if pieces:
            return pieces
        found = await self._node.find(address, everywhere=True)
        own = self._node.seat.party
        roots = [one for one in found if one.kind is Kind.ROOT]
        return sorted(roots, key=lambda one: (one.signer != own, one.signer))

    async def _object(self, address: bytes) -> bytes | Root:
        records = await self._records(address)
        require(records, VaultCode.OBJECT_UNKNOWN)
        if records[0].kind is Kind.PIECE:
            return records[0].body
        roots = list(dict.fromkeys(read_root(one) for one in records))
        if len(roots) == 1:
            return roots[0]
        # Somebody has signed what is not so; then only reading everything tells the roots apart.
        for root in roots:
            try:
                found, _ = await address_of_stream(self._content(root, 0, root.size), self._hashing)
            except OSError:
                continue
            if found == address:
                return root
        raise Rejected(VaultCode.OBJECT_ALTERED)

    async def _content(self, root: Root, first: int, last: int) -> AsyncGenerator[bytes, None]:
        """The bytes of a range, a few pieces ahead."""
        if first == last:
            return
        low, high = first // DHT_PIECE_BYTES, (last - 1) // DHT_PIECE_BYTES
        hashes = await self._index(root, low, high + 1)
        position = low * DHT_PIECE_BYTES
        for batch in _batches(hashes):
            for piece in await asyncio.gather(*map(self._piece, batch)):
                if len(piece) != min(DHT_PIECE_BYTES, root.size - position):
                    raise VaultUnavailable("a piece of the object is not as long as its root says")
                yield piece[max(0, first - position) : last - position]
                position += len(piece)

    async def _index(self, root: Root, low: int = 0, high: int | None = None) -> Sequence[bytes]:
        """The hashes of the pieces ``low`` to ``high``, not included."""
        end = root.pieces() if high is None else high
        if root.depth == 0:
            return root.hashes[low:end]
        wanted = root.hashes[low // FAN : -(-end // FAN)]
        found: list[bytes] = []
        for batch in _batches(wanted):
            for piece in await asyncio.gather(*map(self._piece, batch)):
                found += [piece[at : at + HASH_SIZE] for at in range(0, len(piece), HASH_SIZE)]
        skipped = low // FAN * FAN
        hashes = found[low - skipped : end - skipped]
        if len(hashes) != end - low or any(len(one) != HASH_SIZE for one in hashes):
            raise VaultUnavailable("an index of the object is not as long as its root says")
        return hashes

    async def _piece(self, address: bytes) -> bytes:
        for record in await self._node.find(address):
            if record.kind is Kind.PIECE:
                return record.body
        raise VaultUnavailable("no node that can be reached has a piece of the object")

    # --- storing --------------------------------------------------------------------------------------------

    async def _put_pieces(self, pieces: Iterator[bytes]) -> list[bytes]:
        hashes: list[bytes] = []
        while batch := await asyncio.to_thread(lambda: list(islice(pieces, DHT_PIECES_AT_ONCE))):
            addresses = [address_of(one, self._hashing) for one in batch]
            await asyncio.gather(
                *(self._publish(Kind.PIECE, where, body) for where, body in zip(addresses, batch, strict=True))
            )
            hashes += addresses
        return hashes

    async def _publish(self, kind: Kind, address: bytes, body: bytes) -> None:
        seat = self._node.seat
        raw = sign_record(
            seat.key,
            network=seat.network,
            kind=kind,
            address=address,
            body=body,
            signer=seat.party,
            time_s=seat.clock(),
        )
        kept = await self._node.store(key_of(address), raw)
        if kept < self._minimum:
            raise VaultUnavailable(f"only {kept} of {self._minimum} nodes keep a piece of the object")

    async def _take_back(self, address: bytes) -> None:
        await self._publish(Kind.GONE, address, b"")

    async def _each(self, addresses: Sequence[bytes], work: Callable[[bytes], Awaitable[None]]) -> None:
        for batch in _batches(addresses):
            await asyncio.gather(*map(work, batch))


def _index_pieces(hashes: Sequence[bytes]) -> Iterator[bytes]:
    for at in range(0, len(hashes), FAN):
        yield b"".join(hashes[at : at + FAN])


def _batches(hashes: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    for at in range(0, len(hashes), DHT_PIECES_AT_ONCE):
        yield hashes[at : at + DHT_PIECES_AT_ONCE]
