"""A node that listens on a loopback port, over a real ledger, and sessions at it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import msgspec

from carechain.gatekeeper.listen import Listener
from carechain.node.http import Api
from carechain.sdk.authentication import Service, sign_opening
from carechain.sdk.client import HasKeys
from node_network import Network, running

MSGPACK = {"content-type": "application/msgpack", "accept": "application/msgpack"}
JSON = {"content-type": "application/json"}
encode = msgspec.msgpack.encode


class Served:
    """A network whose node listens, and sessions at it."""

    def __init__(self, net: Network, api: Api, http: httpx.AsyncClient) -> None:
        self.net = net
        self.api = api
        self.http = http

    async def session(self, who: HasKeys) -> dict[str, str]:
        """Headers of a fresh session."""
        self.net.nonces += 1
        opening = sign_opening(
            who.signing,
            chain_id=self.net.service.chain_id,
            service=Service.NODE,
            server=self.net.service.server,
            party=who.id,
            time_s=int(self.net.clock()),
            nonce=self.net.nonces.to_bytes(16, "big"),
        )
        answer = await self.http.post("/v1/session", content=encode(opening), headers=MSGPACK)
        assert answer.status_code == 200, answer.text
        return {"authorization": f"Bearer {msgspec.msgpack.decode(answer.content)['token']}"}

    async def ask(self, who: HasKeys, name: str, args: object, parameters: str = "") -> httpx.Response:
        """One query with a session of its own."""
        headers = {**MSGPACK, **await self.session(who)}
        return await self.http.post(f"/v1/query/{name}{parameters}", content=encode(args), headers=headers)


@asynccontextmanager
async def served(home: Path) -> AsyncIterator[Served]:
    async with running(home) as net:
        api = Api(net.service)
        listener = Listener(api)
        await listener.start()
        try:
            async with httpx.AsyncClient(base_url=listener.url, trust_env=False) as http:
                yield Served(net, api, http)
        finally:
            await listener.stop()
