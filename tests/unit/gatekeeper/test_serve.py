"""The gatekeeper over its socket.

Goal: only an authenticated party gets an answer, every refusal is typed with the right status, and no bytes make the
server fail or repeat what it was sent. Method: a real server on loopback, the project's own client, and raw requests
with malformed, oversized and random bodies.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import TypeVar

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from carechain.charts.record import StoredRecord
from carechain.core.limits import RELEASE_REQUEST_BYTES
from carechain.core.rejection import Rejected
from carechain.core.vocabulary import OrganisationKind, Sensitivity
from carechain.gatekeeper.codes import GatekeeperCode, Withheld
from carechain.gatekeeper.fetch import GatekeeperClient, GatekeeperUnreachable, Reader
from carechain.gatekeeper.listen import Listener
from carechain.gatekeeper.release import Release, ReleaseRequest
from carechain.gatekeeper.serve import STATUS, app
from carechain.sdk.authentication import AuthCode
from carechain.sdk.opening import AnchoredRecord, NotBelieved, OpenCode
from carechain.sdk.shares import KeyholderCode
from house import House
from world import Actor, Organisation

T = TypeVar("T")
CANARY = b"Zanzibar-7741"


def with_server(house: House, work: Callable[[httpx.AsyncClient], Awaitable[T]]) -> T:
    async def run() -> T:
        listener = Listener(app(house.gatekeeper, clock=house.clock, entropy=os.urandom))
        await listener.start()
        try:
            async with httpx.AsyncClient(base_url=listener.url) as http:
                return await work(http)
        finally:
            await listener.stop()

    return asyncio.run(run())


def client(house: House, http: httpx.AsyncClient, actor: Actor | None = None) -> GatekeeperClient:
    who = actor or house.world.bert
    return GatekeeperClient(
        http,
        chain_id=house.ledger.chain_id,
        custodian=house.world.a.id,
        reader=Reader(party=who.id, signing=who.signing, hpke=who.hpke),
        clock=house.clock,
        entropy=os.urandom,
    )


def refused_with(house: House, *, body: bytes, path: str = "/v1/release", token: str | None = None) -> httpx.Response:
    async def work(http: httpx.AsyncClient) -> httpx.Response:
        headers = {} if token is None else {"authorization": f"Bearer {token}".encode()}
        if token == "open":
            headers = {"authorization": f"Bearer {await client(house, http)._open_session()}".encode()}
        return await http.post(path, content=body, headers=headers)

    return with_server(house, work)


def test_a_read_over_the_socket(house: House) -> None:
    ticket = house.ticket()
    expected = house.expected(ticket)

    async def work(http: httpx.AsyncClient) -> None:
        requester = client(house, http)
        everything = await requester.read_all(ticket, expected)
        assert [one.record_id for one in everything] == [one.record_id for one in expected]
        assert await requester.read_all(ticket, expected, page=1) == everything
        assert await requester.read(ticket, expected[:1]) == everything[:1]

    with_server(house, work)


def test_a_session_that_ended_is_renewed(house: House) -> None:
    ticket = house.ticket()
    expected = house.expected(ticket)

    async def work(http: httpx.AsyncClient) -> None:
        requester = client(house, http)
        requester._token = "0" * 64
        assert await requester.read_all(ticket, expected)

    with_server(house, work)


def test_a_gatekeeper_that_withholds_is_noticed(house: House) -> None:
    ticket = house.ticket()
    expected = house.expected(ticket)
    hidden = house.of_grade(Sensitivity.V)[0]
    also = tuple(sorted((*expected, anchored(hidden)), key=lambda one: one.record_id))

    async def work(http: httpx.AsyncClient) -> None:
        for page in (100, 1):
            with pytest.raises(NotBelieved) as disbelieved:
                await client(house, http).read_all(ticket, also, page=page)
            assert disbelieved.value.code in (OpenCode.RECORD_MISSING, OpenCode.RECORD_UNEXPECTED)

    with_server(house, work)


def test_a_gatekeeper_that_stops_short_is_noticed(house: House) -> None:
    ticket = house.ticket()
    expected = house.expected(ticket)
    assert len(expected) > 2
    row = house.world.ticket(ticket)
    nothing = house.gatekeeper._seal(ticket, row, [])

    def empty_page(page: Release, number: int) -> Release:
        return page if number == 0 else replace(page, records=(), sealed=nothing)

    def empty_and_the_last(page: Release, number: int) -> Release:
        return replace(empty_page(page, number), after=page.after if number == 0 else None)

    def says_it_is_all(page: Release, _number: int) -> Release:
        return replace(page, after=None)

    def skips_the_rest(page: Release, _number: int) -> Release:
        return replace(page, after=expected[-1].record_id)

    def goes_back(page: Release, _number: int) -> Release:
        return replace(page, after=bytes(32))

    async def read_from(lie: Callable[[Release, int], Release]) -> None:
        pages: list[Release] = []

        async def lying(request: httpx.Request) -> httpx.Response:
            if request.url.path == "/v1/session":
                return httpx.Response(200, content=msgspec.msgpack.encode({"token": "0"}))
            asked = msgspec.msgpack.decode(request.content, type=ReleaseRequest)
            page = await house.gatekeeper.release(house.world.bert.id, replace(asked, limit=1))
            pages.append(page)
            return httpx.Response(200, content=msgspec.msgpack.encode(lie(page, len(pages) - 1)))

        async with httpx.AsyncClient(base_url="http://x", transport=httpx.MockTransport(lying)) as http:
            await client(house, http).read_all(ticket, expected)

    for lie in (empty_page, empty_and_the_last, says_it_is_all, skips_the_rest, goes_back):
        with pytest.raises(NotBelieved) as disbelieved:
            asyncio.run(read_from(lie))
        assert disbelieved.value.code is OpenCode.RECORD_MISSING
    asyncio.run(read_from(lambda page, _: page))


def anchored(record: StoredRecord) -> AnchoredRecord:
    return AnchoredRecord(record_id=record.record_id, version=record.version, root=record.root)


def test_refusals_keep_their_code_and_record(house: House) -> None:
    ticket = house.ticket()
    hidden = house.of_grade(Sensitivity.V)[0]

    async def work(http: httpx.AsyncClient) -> None:
        with pytest.raises(Withheld) as refused:
            await client(house, http).read(ticket, [anchored(hidden)])
        assert (refused.value.code, refused.value.record_id) == (GatekeeperCode.OUTSIDE_SCOPE, hidden.record_id)
        stranger = Organisation("stranger", kind=OrganisationKind.HOSPITAL)
        with pytest.raises(Rejected) as unknown:
            await client(house, http, stranger).read_all(ticket, ())
        assert unknown.value.code is AuthCode.SIGNATURE_INVALID

    with_server(house, work)


@pytest.mark.parametrize("token", [None, "0", "0" * 64, "王"])
def test_without_a_session_nothing_is_answered(house: House, token: str | None) -> None:
    body = msgspec.msgpack.encode(ReleaseRequest(ticket=house.ticket()))
    response = refused_with(house, body=body, token=token)
    assert response.status_code == 401
    assert response.json()["code"] in (int(AuthCode.SESSION_MISSING), int(AuthCode.SESSION_UNKNOWN))


ROWS: list[tuple[str, bytes, int, GatekeeperCode]] = [
    ("empty", b"", 400, GatekeeperCode.REQUEST_MALFORMED),
    ("not msgpack", b"\xc1", 400, GatekeeperCode.REQUEST_MALFORMED),
    ("not a map", msgspec.msgpack.encode([CANARY]), 400, GatekeeperCode.REQUEST_MALFORMED),
    ("a short ticket", msgspec.msgpack.encode({"ticket": CANARY}), 400, GatekeeperCode.REQUEST_MALFORMED),
    (
        "an unknown field",
        msgspec.msgpack.encode({"ticket": bytes(32), CANARY.decode(): 1}),
        400,
        GatekeeperCode.REQUEST_MALFORMED,
    ),
    (
        "no records at all",
        msgspec.msgpack.encode({"ticket": bytes(32), "records": []}),
        400,
        GatekeeperCode.REQUEST_MALFORMED,
    ),
    (
        "a page of nothing",
        msgspec.msgpack.encode({"ticket": bytes(32), "limit": 0}),
        400,
        GatekeeperCode.REQUEST_MALFORMED,
    ),
    (
        "too many records",
        msgspec.msgpack.encode({"ticket": bytes(32), "records": [[bytes(32), 0]] * 501}),
        400,
        GatekeeperCode.REQUEST_MALFORMED,
    ),
    ("too large", CANARY * RELEASE_REQUEST_BYTES, 413, GatekeeperCode.BODY_TOO_LARGE),
    ("an unknown ticket", msgspec.msgpack.encode({"ticket": bytes(32)}), 404, GatekeeperCode.TICKET_UNKNOWN),
]


@pytest.mark.parametrize(("why", "body", "status", "code"), ROWS, ids=[row[0] for row in ROWS])
def test_malformed_requests(house: House, why: str, body: bytes, status: int, code: GatekeeperCode) -> None:
    assert why
    response = refused_with(house, body=body, token="open")
    assert (response.status_code, response.json()["code"]) == (status, int(code))
    assert CANARY not in response.content


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/release"), ("POST", "/v1/nothing"), ("GET", "/")])
def test_unknown_paths_and_methods(house: House, method: str, path: str) -> None:
    async def work(http: httpx.AsyncClient) -> httpx.Response:
        return await http.request(method, path)

    response = with_server(house, work)
    assert response.status_code in (404, 405)
    assert response.json()["code"] == int(GatekeeperCode.PATH_UNKNOWN)


def test_a_failing_disk_answers_try_again(house: House) -> None:
    ticket = house.ticket()
    house.audit.close()
    response = refused_with(house, body=msgspec.msgpack.encode(ReleaseRequest(ticket=ticket)), token="open")
    assert response.status_code == 503
    assert response.headers["retry-after"]
    assert response.json()["label"] == "UNAVAILABLE"


def test_a_broken_opening_is_refused(house: House) -> None:
    response = refused_with(house, body=CANARY, path="/v1/session")
    assert (response.status_code, response.json()["code"]) == (400, int(AuthCode.OPENING_MALFORMED))
    assert CANARY not in response.content


def test_random_bodies_only_ever_meet_typed_refusals(house: House) -> None:
    async def work(http: httpx.AsyncClient) -> None:
        token = await client(house, http)._open_session()
        for path in ("/v1/session", "/v1/release"):
            for body in bodies:
                response = await http.post(path, content=body, headers={"authorization": f"Bearer {token}"})
                assert response.status_code in (400, 404)
                assert response.json()["code"]

    bodies: list[bytes] = []

    @settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        body=st.binary(max_size=200)
        | st.recursive(
            st.none() | st.integers(-(1 << 63), (1 << 64) - 1) | st.binary(max_size=40) | st.text(max_size=20),
            lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
            max_leaves=8,
        ).map(msgspec.msgpack.encode)
    )
    def collect(body: bytes) -> None:
        bodies.append(body)

    collect()
    with_server(house, work)


def test_something_that_is_no_gatekeeper_is_told_apart(house: House) -> None:
    async def nobody() -> None:
        listener = Listener(app(house.gatekeeper, clock=house.clock, entropy=os.urandom))
        url = listener.url
        await listener.start()
        await listener.stop()
        async with httpx.AsyncClient(base_url=url) as http:
            await client(house, http).read_all(bytes(32), ())

    with pytest.raises(GatekeeperUnreachable):
        asyncio.run(nobody())

    async def other(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=b"<html>")

    async def web_page() -> None:
        async with httpx.AsyncClient(base_url="http://x", transport=httpx.MockTransport(other)) as http:
            await client(house, http).read_all(bytes(32), ())

    with pytest.raises(GatekeeperUnreachable):
        asyncio.run(web_page())


def test_every_code_has_a_status() -> None:
    assert {*GatekeeperCode, *KeyholderCode, *AuthCode} <= set(STATUS)
