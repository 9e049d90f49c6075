"""Goal: whoever holds a session when the party's key is changed or recovered holds nothing from then on (ID-7).

Method: a real node's HTTP face and a real gatekeeper's, each with a session that was opened by the old key; the key is
changed on the ledger, and the next request of the old session meets a refusal, while the new key opens its own.
"""

import asyncio
import secrets
from pathlib import Path

import httpx
import msgspec

from carechain.chain.questions import TimelinePage
from carechain.gatekeeper.codes import GatekeeperCode
from carechain.gatekeeper.listen import Listener
from carechain.gatekeeper.release import ReleaseRequest
from carechain.gatekeeper.serve import app as gatekeeper_app
from carechain.node.http import Api
from carechain.sdk.authentication import AuthCode, OpenSession, Service, sign_opening
from carechain.sdk.client import HasKeys
from house import House
from node_network import running
from recoveries import rotation_of, staff_rotation, with_key_of
from world import CHAIN_ID, Actor

MSGPACK = {"content-type": "application/msgpack", "accept": "application/msgpack"}


async def opened(
    http: httpx.AsyncClient, who: HasKeys, *, chain_id: str, service: Service, server: bytes, time_s: int
) -> httpx.Response:
    """An attempt to open a session."""
    opening = sign_opening(
        who.signing,
        chain_id=chain_id,
        service=service,
        server=server,
        party=who.id,
        time_s=time_s,
        nonce=secrets.token_bytes(16),
    )
    return await http.post("/v1/session", content=msgspec.msgpack.encode(opening), headers=MSGPACK)


def bearer(answer: httpx.Response) -> dict[str, str]:
    return {**MSGPACK, "authorization": f"Bearer {msgspec.msgpack.decode(answer.content, type=OpenSession).token}"}


def code_of(answer: httpx.Response) -> int:
    is_json = answer.headers["content-type"] == "application/json"
    return int((answer.json() if is_json else msgspec.msgpack.decode(answer.content))["code"])


def test_a_session_at_the_node_ends_with_the_key(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as net:
            listener = Listener(Api(net.service))
            await listener.start()
            at = {
                "chain_id": net.service.chain_id,
                "service": Service.NODE,
                "server": net.service.server,
                "time_s": int(net.clock()),
            }
            try:
                async with httpx.AsyncClient(base_url=listener.url, trust_env=False) as http:
                    old = bearer(await opened(http, net.steve, **at))  # type: ignore[arg-type]
                    args = msgspec.msgpack.encode(TimelinePage(net.steve.id))
                    path = "/v1/query/records.timeline"
                    assert (await http.post(path, content=args, headers=old)).status_code == 200
                    key = Actor("steve's next")
                    rotation = rotation_of(net.steve, key, chain_id=net.service.chain_id)
                    await net.run(rotation, by=net.steve)
                    ended = await http.post(path, content=args, headers=old)
                    assert (ended.status_code, code_of(ended)) == (401, AuthCode.SESSION_UNKNOWN)
                    dead = await opened(http, net.steve, **at)  # type: ignore[arg-type]
                    assert code_of(dead) == AuthCode.SIGNATURE_INVALID
                    new = bearer(await opened(http, with_key_of(net.steve, key), **at))  # type: ignore[arg-type]
                    assert (await http.post(path, content=args, headers=new)).status_code == 200
            finally:
                await listener.stop()

    asyncio.run(main())


def test_a_session_at_the_gatekeeper_and_a_ticket_end_with_the_key(tmp_path: Path) -> None:
    house = House(tmp_path)
    world = house.world
    ticket = msgspec.msgpack.encode(ReleaseRequest(ticket=house.ticket()))

    async def main() -> None:
        app = gatekeeper_app(house.gatekeeper, clock=house.clock, entropy=secrets.token_bytes)
        transport = httpx.ASGITransport(app=app)
        at = {"chain_id": CHAIN_ID, "service": Service.GATEKEEPER, "server": world.a.id, "time_s": house.clock()}
        async with httpx.AsyncClient(transport=transport, base_url="http://house") as http:
            old = bearer(await opened(http, world.bert, **at))  # type: ignore[arg-type]
            assert (await http.post("/v1/release", content=ticket, headers=old)).status_code == 200
            key = Actor("bert's next")
            world.done(staff_rotation(world.b, world.bert, key), by=world.b)
            ended = await http.post("/v1/release", content=ticket, headers=old)
            assert (ended.status_code, code_of(ended)) == (401, AuthCode.SESSION_UNKNOWN)
            # The same person with the new key has to ask anew: the ticket names the old one.
            new = bearer(await opened(http, with_key_of(world.bert, key), **at))  # type: ignore[arg-type]
            refused = await http.post("/v1/release", content=ticket, headers=new)
            assert code_of(refused) == GatekeeperCode.NO_LONGER_ALLOWED

    try:
        asyncio.run(main())
    finally:
        house.close()
