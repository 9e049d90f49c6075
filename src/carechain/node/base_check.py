"""After a start from a snapshot: whether the header it began with is the one that the validators signed (LED-8).

The state follows from what the engine's light client has verified; the rest of that header came from a peer. The
engine itself does not have the block either, only the one above it, which names its hash. So the header is fetched from
where the trust came from, must have that hash, and then says what time it was.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

import httpx

from carechain.chain.header import Header
from carechain.core.limits import LIGHT_JSON_BYTES
from carechain.engine.cometbft.rpc import EngineRpc, EngineUnreachable
from carechain.sdk.light.fetch import pages_of, read_rpc
from carechain.sdk.light.header import Header as SignedHeader
from carechain.sdk.light.header import LightBlock, header_hash
from carechain.sdk.proofs import NotProven

PAGE: Final = 100
_TIMEOUT_S: Final = 10.0
_SERVER_S: Final = 30.0
"""How long one server may take in all, however slowly it speaks."""


class SnapshotRefuted(Exception):  # noqa: N818 - names what was found out
    """The snapshot's header is not the one that the validators signed: a peer lied, or was another program."""

    def __init__(self) -> None:
        super().__init__(
            "The snapshot that this ledger began with states another block than the validators signed. Run `carechain "
            "resync` and start again, without [state_sync] if it happens once more: then all blocks are fetched."
        )


async def confirm_base(header: Header, rpc: EngineRpc, servers: Sequence[str]) -> bool:
    """Whether the header was compared: False while nobody who could answer does. Raises :class:`SnapshotRefuted`."""
    try:
        above = (await rpc.call("header", height=str(header.height + 1)))["header"]
        expected = bytes.fromhex(above["last_block_id"]["hash"])
    except (EngineUnreachable, KeyError, TypeError, ValueError):
        return False
    async with httpx.AsyncClient(timeout=_TIMEOUT_S, trust_env=False) as http:
        for server in servers:
            try:
                async with asyncio.timeout(_SERVER_S):
                    signed = await _signed(http, server, header.height)
            except (httpx.HTTPError, NotProven, TimeoutError):
                continue
            if header_hash(signed.header) != expected:
                # Not this chain's block: what such a server says counts for nothing.
                continue
            if not same_block(header, signed.header):
                raise SnapshotRefuted
            return True
    return False


def same_block(header: Header, signed: SignedHeader) -> bool:
    """Whether both speak of one block, as far as both say it: chain, height, and time in whole seconds."""
    found = (signed.chain_id, signed.height, signed.time.seconds)
    return found == (header.chain_id, header.height, header.time_s)


async def _signed(http: httpx.AsyncClient, server: str, height: int) -> LightBlock:
    base = server if "://" in server else f"http://{server}"
    commit = await _get(http, f"{base}/commit?height={height}")
    pages = [await _get(http, f"{base}/validators?height={height}&per_page={PAGE}&page=1")]
    for number in range(2, pages_of(pages[0]) + 1):
        pages.append(await _get(http, f"{base}/validators?height={height}&per_page={PAGE}&page={number}"))  # noqa: PERF401 - one after the other
    return read_rpc(commit, pages)


async def _get(http: httpx.AsyncClient, url: str) -> bytes:
    data = bytearray()
    async with http.stream("GET", url) as response:
        async for part in response.aiter_bytes():
            data += part
            if len(data) > LIGHT_JSON_BYTES:
                raise NotProven("the answer is too large")
    return bytes(data)
