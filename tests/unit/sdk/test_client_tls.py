"""Goal: over TLS a client signs in at the organisation that answered first, and at nobody who takes its place later.

Method: one real TLS address whose connections end after each answer. Organisation a answers the first one; then a
second member, whose authority vouches for the same host name, answers in its place and passes signed openings on.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from carechain.sdk import nodes
from carechain.sdk.answers import Status
from carechain.sdk.authentication import OpenSession
from carechain.sdk.certificates import CertificateAuthority
from carechain.sdk.client import Client, Trust, Unreachable, WrongNode
from world import CHAIN_ID, Actor, entropy_of, seeded

NOW = datetime.now(UTC).replace(microsecond=0)
A, ROGUE = seeded("organisation a"), seeded("organisation m")


def authority_of(organisation: bytes) -> CertificateAuthority:
    return CertificateAuthority.create(
        organisation,
        not_before=NOW - timedelta(days=1),
        not_after=NOW + timedelta(days=30),
        entropy=entropy_of(organisation.hex()),
    )


AUTHORITIES = {one: authority_of(one) for one in (A, ROGUE)}


def shown_by(organisation: bytes, folder: Path) -> ssl.SSLContext:
    made = AUTHORITIES[organisation].issue_server(
        ["localhost"], not_before=NOW - timedelta(hours=1), not_after=NOW + timedelta(days=9), entropy=entropy_of("s")
    )
    file = folder / f"{organisation.hex()}.pem"
    file.write_bytes(made.certificate + made.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


async def closed(writer: asyncio.StreamWriter) -> None:
    """Close as far as the other side lets us."""
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


class Address:
    """Answers each connection once, as whichever organisation ``turns`` has for it; the last one stays."""

    def __init__(self, folder: Path, turns: list[bytes]) -> None:
        self.turns = turns
        self.contexts = {one: shown_by(one, folder) for one in set(turns)}
        self.asked: list[tuple[bytes, str]] = []
        self.url = ""

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self.contexts[self.turns[0]]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        who = self.turns[0] if len(self.turns) == 1 else self.turns.pop(0)
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.asked.append((who, head.split(" ")[1]))
        status = Status(chain_id=CHAIN_ID, server=A, height=1, time_s=0, app_hash=bytes(32), version="x")
        session = OpenSession(token="00", party=Actor("carl").id, expires_s=2_000_000_000)
        body = msgspec.msgpack.encode(session if "/v1/session" in head else status)
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        await closed(writer)

    def run(self, work: Callable[[Client], Awaitable[object]]) -> None:
        async def main() -> None:
            front = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            front.sni_callback = self._choose
            async with await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=front) as server:
                port = server.sockets[0].getsockname()[1]
                trust = Trust({one: authority.certificate for one, authority in AUTHORITIES.items()})
                async with Client(f"https://localhost:{port}", Actor("carl"), trust=trust, give_up_s=0.0) as client:
                    await work(client)

        asyncio.run(main())


async def sign_in(client: Client) -> object:
    return await client.open_session()


def test_a_session_is_opened_at_the_one_that_answered_first(tmp_path: Path) -> None:
    address = Address(tmp_path, [A])
    address.run(sign_in)
    assert address.asked == [(A, "/v1/status"), (A, "/v1/session")]


def test_nothing_signed_reaches_a_member_that_takes_anothers_place_after_the_first_answer(tmp_path: Path) -> None:
    address = Address(tmp_path, [A, ROGUE])
    with pytest.raises(Unreachable, match="not believed"):
        address.run(sign_in)
    assert address.asked == [(A, "/v1/status")]


def test_a_member_that_says_it_is_another_is_found_out_although_it_closes_the_connection(tmp_path: Path) -> None:
    address = Address(tmp_path, [ROGUE])
    with pytest.raises(WrongNode, match="certificate says another"):
        address.run(sign_in)
    assert address.asked == [(ROGUE, "/v1/status")]


def test_an_answer_that_never_ends_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    del tmp_path
    monkeypatch.setattr(nodes, "REQUEST_S", 0.2)
    ended = asyncio.Event()

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
        with suppress(OSError):
            while not ended.is_set():
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.02)
        await closed(writer)

    async def main() -> None:
        async with (
            await asyncio.start_server(drip, "127.0.0.1", 0) as server,
            Client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", Actor("carl"), give_up_s=0.0) as client,
            asyncio.timeout(10),
        ):
            try:
                with pytest.raises(Unreachable):
                    await client.status()
            finally:
                ended.set()
            await asyncio.sleep(0.1)

    asyncio.run(main())
