"""Goal: no node can keep a light client waiting for ever, whatever it sends.

Method: a server that sends its answer a byte at a time, without end, beside the client's own deadline.
"""

import asyncio
from contextlib import suppress

import httpx
import pytest

from carechain.sdk.failures import Unreachable
from carechain.sdk.light.client import source_at


def test_a_node_that_drips_is_left() -> None:
    ended = asyncio.Event()

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
        with suppress(OSError):
            while not ended.is_set():
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.02)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    async def main() -> None:
        async with (
            await asyncio.start_server(drip, "127.0.0.1", 0) as server,
            httpx.AsyncClient(trust_env=False) as http,
            asyncio.timeout(5),
        ):
            port = server.sockets[0].getsockname()[1]
            try:
                with pytest.raises(Unreachable, match="does not end"):
                    await source_at(f"http://127.0.0.1:{port}", http, timeout_s=0.2).fetch(1)
            finally:
                ended.set()
            await asyncio.sleep(0.1)

    asyncio.run(main())
