"""Goal: a client signs only for its own network and for one server, whatever the node at its address says it is.

Method: the real client against a made-up node that names what it likes and passes every opening on to a real book of
sessions, as a node in between would.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import msgspec
import pytest

from carechain.chain.tx import parse
from carechain.core.rejection import Rejected
from carechain.sdk.answers import Status
from carechain.sdk.authentication import AuthCode, OpenSession, Service, SessionBook, decode_opening
from carechain.sdk.client import Client, Refused, Unreachable, WrongNode
from world import CHAIN_ID, START_S, World, anchor_of, fresh


class Rogue:
    """A node that says it is whatever it is told to be, and has ``victim`` answer the openings it gets."""

    def __init__(self, world: World, **named: Any) -> None:
        self.world = world
        self.named: dict[str, Any] = {"chain_id": CHAIN_ID, "server": world.a.id, **named}
        self.victim = SessionBook(
            chain_id=CHAIN_ID,
            service=Service.NODE,
            server=world.a.id,
            known=world.contracts().membership.party,
        )
        self.openings = 0
        self.sessions: list[OpenSession] = []

    async def answer(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/status":
            status = Status(height=1, time_s=START_S, app_hash=bytes(32), version="x", **self.named)
            return httpx.Response(200, content=msgspec.msgpack.encode(status))
        if request.url.path != "/v1/session":
            return httpx.Response(502)
        self.openings += 1
        opening = decode_opening(request.content)
        party = self.world.contracts().membership.party(opening.party)
        try:
            session = self.victim.open(opening, party=party, now_s=START_S, token=bytes(32))
        except Rejected as refused:
            body = {"code": int(refused.code), "label": refused.code.label, "reason": refused.code.reason}
            return httpx.Response(401, json=body)
        self.sessions.append(session)
        return httpx.Response(200, content=msgspec.msgpack.encode(session))

    def run(self, work: Callable[[Client], Awaitable[Any]], **settings: Any) -> Any:
        async def main() -> Any:
            async with httpx.AsyncClient(transport=httpx.MockTransport(self.answer)) as http:
                client = Client("http://rogue", self.world.carl, http=http, clock=lambda: float(START_S), **settings)
                return await work(client)

        return asyncio.run(main())


async def open_session(client: Client) -> OpenSession:
    return await client.open_session()


def test_nothing_is_signed_for_another_network() -> None:
    world = fresh()
    rogue = Rogue(world, chain_id="another-chain")

    async def sign(client: Client) -> bytes:
        return await client.sign(anchor_of(world.steve, "r"))

    for work in (open_session, sign):
        with pytest.raises(WrongNode, match="another network"):
            rogue.run(work, genesis=world.genesis)
    assert rogue.openings == 0
    assert parse(rogue.run(sign)).body.chain_id == "another-chain", "without a genesis the node's word is all there is"
    assert parse(Rogue(world).run(sign, genesis=world.genesis)).body.chain_id == CHAIN_ID


def test_nothing_is_signed_for_another_server_than_the_named_one() -> None:
    world = fresh()
    rogue = Rogue(world)

    async def status(client: Client) -> Status:
        return await client.status()

    with pytest.raises(WrongNode, match="another organisation"):
        rogue.run(status, genesis=world.genesis, server=world.b.id)
    with pytest.raises(Refused, match=AuthCode.WRONG_SERVER.label):
        rogue.run(open_session, genesis=world.genesis, server=world.b.id)
    assert rogue.sessions == [], "what was signed for b opens nothing at a"
    assert rogue.run(open_session, genesis=world.genesis, server=world.a.id) == rogue.sessions[0]


def test_what_was_learned_once_is_kept() -> None:
    world = fresh()
    rogue = Rogue(world)

    async def work(client: Client) -> None:
        await client.status()
        for named in ({"server": world.b.id}, {"chain_id": "another-chain"}):
            rogue.named |= named
            with pytest.raises(WrongNode):
                await client.status()
            rogue.named |= {"server": world.a.id, "chain_id": CHAIN_ID}
        assert (await client.status()).server == world.a.id
        assert not issubclass(WrongNode, Unreachable), "trying again does not help"

    rogue.run(work)
