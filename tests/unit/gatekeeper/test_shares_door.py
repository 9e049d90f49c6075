"""A keyholder over its socket.

Goal: shares come through as they were made, and every refusal keeps its code, its record and the right status. Method:
a real server on loopback, the project's own client, and raw requests.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable

import httpx
import msgspec
import pytest

from carechain.charts.store import Charts
from carechain.core.limits import (
    SHARES_REQUEST_BYTES,
)
from carechain.core.vocabulary import Sensitivity
from carechain.gatekeeper.audit import Audit
from carechain.gatekeeper.codes import GatekeeperCode
from carechain.gatekeeper.listen import Listener
from carechain.gatekeeper.release import Gatekeeper
from carechain.gatekeeper.serve import STATUS, app
from carechain.gatekeeper.shares_door import STATUS as SHARES_STATUS
from carechain.gatekeeper.shares_door import shares_door
from carechain.sdk.authentication import AuthCode
from carechain.sdk.door import DoorSession
from carechain.sdk.failures import Unreachable
from carechain.sdk.shares import (
    SHARES_PATH,
    KeyholderClient,
    KeyholderCode,
    SharesRefused,
    SharesRequest,
)
from carechain.sdk.signer import Signer
from sealed_world import SealedWorld
from world import CHAIN_ID, seeded

# --- over the socket ------------------------------------------------------------------------------------


def over_http(sealed: SealedWorld, work: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
    """Hospital a's door with its keyholder, on a loopback socket."""

    async def run(charts: Charts, audit: Audit) -> None:
        world = sealed.world
        door = Gatekeeper(
            organisation=world.a.id,
            ledger=sealed.ledger,
            charts=charts,
            audit=audit,
            clock=sealed.clock,
            entropy=os.urandom,
        )
        extensions = (shares_door(sealed.keyholders["a"]),)
        listener = Listener(app(door, clock=sealed.clock, entropy=os.urandom, extensions=extensions))
        await listener.start()
        try:
            async with httpx.AsyncClient(base_url=listener.url) as http:
                await work(http)
        finally:
            await listener.stop()

    with Charts.open(sealed.folder / "charts.sqlite") as charts, Audit.open(sealed.folder / "reads.sqlite") as audit:
        asyncio.run(run(charts, audit))


def client(sealed: SealedWorld, http: httpx.AsyncClient) -> KeyholderClient:
    bert = sealed.world.bert
    holder = sealed.world.a.id
    session = DoorSession(
        http,
        Signer(bert.id, bert.signing),
        chain_id=CHAIN_ID,
        server=holder,
        clock=sealed.clock,
        entropy=os.urandom,
    )
    return KeyholderClient(http, session, holder=holder)


def test_shares_over_the_socket(sealed: SealedWorld) -> None:
    written, ticket = sealed.write("one"), sealed.ticket()

    async def work(http: httpx.AsyncClient) -> None:
        requester = client(sealed, http)
        (signed,) = sealed.opened(await requester.shares(sealed.request(ticket, written)), ticket)
        assert signed.statement.record == written.record
        requester._session._token = "0" * 64
        assert await requester.shares(sealed.request(ticket, written))
        assert len([line for line in sealed.audits["a"].entries() if not line.read.code]) == 2

    over_http(sealed, work)


def test_refusals_over_the_socket_keep_their_code_and_say_when_to_come_again(sealed: SealedWorld) -> None:
    hidden, ticket = sealed.write("hidden", sensitivity=Sensitivity.V), sealed.ticket()

    async def work(http: httpx.AsyncClient) -> None:
        requester = client(sealed, http)
        with pytest.raises(SharesRefused) as caught:
            await requester.shares(sealed.request(ticket, hidden))
        assert (caught.value.code, caught.value.record_id) == (KeyholderCode.OUTSIDE_SCOPE, hidden.record)
        headers = {"authorization": f"Bearer {requester._session._token}"}
        body = msgspec.msgpack.encode(sealed.request(seeded("none"), hidden))
        response = await http.post(SHARES_PATH, content=body, headers=headers)
        assert (response.status_code, response.json()["code"]) == (503, KeyholderCode.TICKET_UNKNOWN)
        assert response.headers["retry-after"] == "1"
        for content, status, code in (
            (b"\xc1", 400, KeyholderCode.REQUEST_MALFORMED),
            (b"x" * (SHARES_REQUEST_BYTES + 1), 413, GatekeeperCode.BODY_TOO_LARGE),
        ):
            response = await http.post(SHARES_PATH, content=content, headers=headers)
            assert (response.status_code, response.json()["code"]) == (status, code)
        response = await http.post(SHARES_PATH, content=body)
        assert (response.status_code, response.json()["code"]) == (401, AuthCode.SESSION_MISSING)

    over_http(sealed, work)


def test_what_is_no_keyholder_is_unreachable(sealed: SealedWorld) -> None:
    request = sealed.request(sealed.ticket(), sealed.write("one"))

    def answers(session: bytes, shares: bytes) -> httpx.MockTransport:
        return httpx.MockTransport(
            lambda asked: httpx.Response(200, content=session if asked.url.path == "/v1/session" else shares)
        )

    session = msgspec.msgpack.encode({"token": "0", "party": seeded("x"), "expires_s": 1})
    for transport in (answers(b"", b""), answers(session, b"\xc1"), answers(session, b"x" * 3 * SHARES_REQUEST_BYTES)):

        async def work(transport: httpx.MockTransport = transport) -> None:
            async with httpx.AsyncClient(base_url="http://x", transport=transport) as http:
                await client(sealed, http).shares(request)

        with pytest.raises(Unreachable):
            asyncio.run(work())
    with pytest.raises(Unreachable):
        asyncio.run(_nobody_listens(sealed, request))


async def _nobody_listens(sealed: SealedWorld, request: SharesRequest) -> None:
    async with httpx.AsyncClient(base_url="http://127.0.0.1:1") as http:
        await client(sealed, http).shares(request)


def test_every_code_has_a_status_that_fits() -> None:
    assert set(SHARES_STATUS) == set(KeyholderCode)
    assert all(STATUS[code] == status for code, status in SHARES_STATUS.items())
