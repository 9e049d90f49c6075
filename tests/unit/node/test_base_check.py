"""A node that began with a snapshot compares its header with what the validators signed.

Method: the answers of real engines' RPC, recorded in ``vectors/light.json``, are served over loopback; the node's own
engine is one that knows the header above. Only a server whose header has the hash named there counts.
"""

import asyncio
import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from msgspec.structs import replace

from carechain.chain.header import Header
from carechain.engine.cometbft.rpc import EngineUnreachable
from carechain.node.base_check import SnapshotRefuted, confirm_base, same_block
from carechain.sdk.light.fetch import read_rpc
from carechain.sdk.light.header import header_hash

BLOCKS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "vectors" / "light.json").read_text())["blocks"]
HEIGHT = 3
SIGNED = read_rpc(
    json.dumps(BLOCKS[str(HEIGHT)]["commit"]).encode(),
    [json.dumps(page).encode() for page in BLOCKS[str(HEIGHT)]["validators"]],
).header
ZERO = bytes(32)
OWN = Header(
    chain_id=SIGNED.chain_id,
    height=HEIGHT,
    time_s=SIGNED.time.seconds,
    previous=ZERO,
    tx_count=0,
    tx_root=ZERO,
    receipt_root=ZERO,
    app_hash=ZERO,
    producer=ZERO,
)


class OwnEngine:
    """The engine below the node: it has the block above, or nothing yet."""

    def __init__(self, named: str | None) -> None:
        self.named = named

    async def call(self, method: str, **params: Any) -> Any:
        assert (method, params) == ("header", {"height": str(HEIGHT + 1)})
        if self.named is None:
            raise EngineUnreachable("not yet")
        return {"header": {"last_block_id": {"hash": self.named}}}


def asked(header: Header, *, named: str | None, shows: int = HEIGHT) -> bool:
    """What comes of comparing ``header`` with a server that shows the block at ``shows``."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = urlsplit((await reader.readline()).split()[1].decode())
        while (await reader.readline()).strip():
            pass
        recorded = BLOCKS[str(shows)]
        page = int(parse_qs(target.query).get("page", ["1"])[0])
        found = recorded["commit"] if target.path == "/commit" else recorded["validators"][page - 1]
        body = json.dumps(found).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def main() -> bool:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            return await confirm_base(header, OwnEngine(named), [f"127.0.0.1:{port}"])  # type: ignore[arg-type]

    return asyncio.run(main())


NAMED = header_hash(SIGNED).hex().upper()


def test_the_signed_block_confirms_the_snapshot() -> None:
    assert asked(OWN, named=NAMED)


@pytest.mark.parametrize("change", [{"time_s": OWN.time_s + 1}, {"time_s": 4_102_444_800}, {"chain_id": "elsewhere"}])
def test_another_time_or_chain_refutes_it(change: dict[str, Any]) -> None:
    with pytest.raises(SnapshotRefuted, match="carechain resync"):
        asked(replace(OWN, **change), named=NAMED)


def test_nothing_is_decided_by_whoever_shows_another_block() -> None:
    assert not asked(OWN, named=NAMED, shows=HEIGHT + 1)
    assert not asked(OWN, named="00" * 32)


def test_nothing_is_decided_while_the_own_engine_lacks_the_block_above() -> None:
    assert not asked(OWN, named=None)
    assert not asked(OWN, named="not a hash")


@pytest.mark.parametrize(
    ("change", "fits"),
    [({}, True), ({"time_s": 4_102_444_800}, False), ({"height": 1}, False), ({"chain_id": "elsewhere"}, False)],
)
def test_both_speak_of_one_block(change: dict[str, Any], *, fits: bool) -> None:
    assert same_block(replace(OWN, **change), SIGNED) is fits
