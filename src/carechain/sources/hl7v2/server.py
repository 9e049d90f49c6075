"""The MLLP server: sockets, time limits and threads around :class:`~carechain.sources.hl7v2.feed.Feed`.

One message is answered before the next one of its connection is read. MLLP knows no passwords: who may connect is
decided by address, and by certificate where TLS is on.
"""

import asyncio
import contextlib
import ipaddress
import ssl
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from socket import socket
from typing import Final

import structlog
from msgspec import Struct

from carechain.core.limits import HL7_CONNECTIONS, HL7_FRAME_S, HL7_IDLE_S
from carechain.core.rejection import Rejected
from carechain.sources.hl7v2.feed import Feed
from carechain.sources.hl7v2.mllp import Deframer, framed
from carechain.sources.imports.codes import ImportCode

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_READ_BYTES: Final = 64 * 1024
_log = structlog.get_logger("carechain.hl7")


class Patience(Struct, frozen=True, kw_only=True):
    """How long a message may take from its first byte to its last, and how long a connection may say nothing."""

    frame_s: float = HL7_FRAME_S
    idle_s: float = HL7_IDLE_S


class Server:
    """Takes messages on a listening socket and files them, until :meth:`stop`."""

    def __init__(
        self,
        feed: Feed,
        *,
        allowed: Sequence[Network],
        tls: ssl.SSLContext | None = None,
        patience: Patience | None = None,
        connections: int = HL7_CONNECTIONS,
    ) -> None:
        self._feed = feed
        self._allowed = tuple(allowed)
        self._tls = tls
        self._patience = patience or Patience()
        self._connections = connections
        self._open: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._arrived = asyncio.Event()
        self._failure: BaseException | None = None
        # Receiving and filing have a thread each: a long filing keeps no sender waiting for its acknowledgement.
        self._receiver = ThreadPoolExecutor(1, thread_name_prefix="hl7-receive")
        self._filer = ThreadPoolExecutor(1, thread_name_prefix="hl7-file")

    def stop(self) -> None:
        """Take no more messages, answer those that have arrived, and return from :meth:`run`."""
        self._stopping.set()
        self._arrived.set()

    async def run(self, listening: socket) -> None:
        """Serve until stopped. Raises what made it impossible to keep or file messages."""
        filing = asyncio.create_task(self._file(), name="carechain HL7 filing")
        server = await asyncio.start_server(self._connected, sock=listening, ssl=self._tls, limit=_READ_BYTES)
        try:
            async with self._serving(server):
                stopping = asyncio.create_task(self._stopping.wait())
                await asyncio.wait({stopping, filing}, return_when=asyncio.FIRST_COMPLETED)
                stopping.cancel()
        finally:
            self.stop()
            await asyncio.wait({filing})
            for pool in (self._receiver, self._filer):
                pool.shutdown()
        filing.result()
        if self._failure is not None:
            raise self._failure

    @asynccontextmanager
    async def _serving(self, server: asyncio.Server) -> AsyncIterator[None]:
        try:
            yield
        finally:
            server.close()
            self._stopping.set()
            if self._open:
                await asyncio.wait(self._open)

    async def _file(self) -> None:
        """File what waits, at the start what was left by the run before, then whatever arrives."""
        loop = asyncio.get_running_loop()
        while True:
            self._arrived.clear()
            while (outcome := await loop.run_in_executor(self._filer, self._feed.file_next)) is not None:
                if outcome.code is not None:
                    _log.warning("message not filed", code=outcome.code.label)
                if self._stopping.is_set():
                    return
            if self._stopping.is_set():
                return
            await self._arrived.wait()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or self._stopping.is_set() or not self._may_connect(writer):
            writer.transport.abort()
            return
        self._open.add(task)
        try:
            with contextlib.suppress(OSError):
                await self._converse(reader, writer)
        except Exception as failure:  # noqa: BLE001 - the journal's failure must end the server, not one connection
            self._failure = failure
            self.stop()
        finally:
            self._open.discard(task)
            # Unsent bytes are not waited for: a sender that reads nothing would hold its place for ever.
            writer.close() if writer.transport.get_write_buffer_size() == 0 else writer.transport.abort()

    def _may_connect(self, writer: asyncio.StreamWriter) -> bool:
        peer = writer.get_extra_info("peername")
        address = ipaddress.ip_address(str(peer[0]).partition("%")[0]) if peer else None
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        allowed = address is not None and any(address in one for one in self._allowed)
        if not allowed:
            _log.warning("connection refused", code=ImportCode.SENDER_NOT_ALLOWED.label)
        return allowed and len(self._open) < self._connections

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Message by message, until the sender goes, is too slow, or sends what is no MLLP."""
        frames = Deframer()
        while True:
            try:
                message = await self._next(reader, frames)
            except Rejected as refused:
                # The stream has lost its place: say why, and hang up.
                await self._say(writer, self._feed.answer(None, refused))
                return
            if message is None:
                return
            loop = asyncio.get_running_loop()
            answer = await loop.run_in_executor(self._receiver, self._feed.receive, message)
            self._arrived.set()
            if answer is not None and not await self._say(writer, answer):
                return

    async def _next(self, reader: asyncio.StreamReader, frames: Deframer) -> bytes | None:
        """The next whole message; None at the end, and when the sender takes too long. Raises ``Rejected``."""
        deadline: float | None = None
        loop = asyncio.get_running_loop()
        while (message := frames.next()) is None:
            if frames.in_message and deadline is None:
                deadline = loop.time() + self._patience.frame_s
            left = self._patience.idle_s if deadline is None else deadline - loop.time()
            data = await self._read(reader, left)
            if not data:
                return None
            frames.feed(data)
        return message

    async def _read(self, reader: asyncio.StreamReader, left_s: float) -> bytes:
        """Bytes, or none when there are no more, in time, before the server is stopped."""
        reading = asyncio.ensure_future(reader.read(_READ_BYTES))
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({reading, stopping}, timeout=max(0.0, left_s), return_when=asyncio.FIRST_COMPLETED)
            return reading.result() if reading.done() else b""
        finally:
            stopping.cancel()
            if not reading.done():
                reading.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await reading

    async def _say(self, writer: asyncio.StreamWriter, answer: bytes | None) -> bool:
        """Send an acknowledgement; False when the sender does not take it."""
        if answer is not None:
            writer.write(framed(answer))
        try:
            await asyncio.wait_for(writer.drain(), self._patience.frame_s)
        except TimeoutError:
            return False
        return True
