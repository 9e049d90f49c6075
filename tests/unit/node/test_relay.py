"""Goal: the hub's relay brings a gatekeeper's answer unchanged and nothing else, and tells neither side of the other.

Method: a real gatekeeper behind a real relay on loopback sockets, asked by the project's own client; then servers that
answer in every wrong way, written byte by byte. What an asker gets from those is compared, headers included, with what
it gets for an organisation that nobody configured.
"""

import asyncio
import io
import json
import logging
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import structlog
from starlette.types import Receive, Scope, Send

from carechain.core.limits import OPENING_BODY_BYTES, RELAYS_PER_GATEKEEPER, RELEASE_REQUEST_BYTES
from carechain.core.rejection import Rejected, RejectionCode
from carechain.core.vocabulary import OrganisationKind, Sensitivity
from carechain.gatekeeper.codes import GatekeeperCode, Withheld
from carechain.gatekeeper.fetch import GatekeeperClient, GatekeeperUnreachable, Reader
from carechain.gatekeeper.listen import Listener
from carechain.gatekeeper.serve import app as gatekeeper_app
from carechain.node import relay as relaying
from carechain.node.logs import configure_logs
from carechain.node.refusals import NodeCode
from carechain.node.relay import ANSWER_BYTES, PREFIX, Relay, RelayCode
from carechain.node.settings import BadSettings, RelaySettings, load_settings
from carechain.sdk.authentication import AuthCode
from carechain.sdk.opening import AnchoredRecord
from carechain.sdk.tls import Trust
from house import House
from world import Actor, Organisation

SOMEBODY: Final = "ab" * 32
NOBODY: Final = "cd" * 32
SECRET: Final = "10.11.12.13 gatekeeper.hospital.example"
MSGPACK: Final = {"content-type": "application/msgpack"}
SESSION: Final = f"{PREFIX}{SOMEBODY}/v1/session"


def no_trust(_: bytes) -> ssl.SSLContext:
    """Loopback connections here are not TLS; whoever offered it would not be believed."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@asynccontextmanager
async def hub(gatekeepers: dict[str, str], *, on_a_socket: bool = False) -> AsyncIterator[httpx.AsyncClient]:
    """A hub in front of these addresses, and a client that talks to it: directly, which is quick, or over a socket."""
    async with (
        Relay.open(gatekeepers, context_of=no_trust) as relay,
        asked_of(relay, on_a_socket=on_a_socket) as http,
    ):
        yield http


@asynccontextmanager
async def asked_of(relay: Relay, *, on_a_socket: bool = False) -> AsyncIterator[httpx.AsyncClient]:
    """A client of this relay."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await relay(scope, receive, send)

    if not on_a_socket:
        async with httpx.AsyncClient(base_url="http://hub", transport=httpx.ASGITransport(app)) as http:
            yield http
        return
    listener = Listener(app)
    await listener.start()
    try:
        async with httpx.AsyncClient(base_url=listener.url, trust_env=False, timeout=30) as http:
            yield http
    finally:
        await listener.stop()


Answering = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server(answer: Answering, context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """A server that answers each connection by hand; it is cut off at the end."""
    tasks: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await answer(reader, writer)
        except (ConnectionError, asyncio.CancelledError, asyncio.IncompleteReadError):
            """The hub has had enough."""
        finally:
            tasks.discard(task)
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    host, port = listening.sockets[0].getsockname()
    try:
        yield f"{'http' if context is None else 'https'}://{host}:{port}"
    finally:
        listening.close()
        for one in tasks:
            one.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def head_of(reader: asyncio.StreamReader) -> dict[str, str]:
    """The request's headers; its body is read too."""
    raw = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    lines = raw.split("\r\n")[1:-2]
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    await reader.readexactly(int(headers.get("content-length", "0")))
    return headers


def saying(*parts: bytes, then: Callable[[], Awaitable[None]] | None = None) -> Answering:
    """Read the request, write these bytes, perhaps wait for something, and close."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        for part in parts:
            writer.write(part)
            await writer.drain()
        if then is not None:
            await then()

    return answer


async def for_ever() -> None:
    await asyncio.Event().wait()


def response(body: bytes = b"", *, status: str = "200 OK", media: str = "application/msgpack", more: str = "") -> bytes:
    length = "" if "encoding: chunked" in more else f"content-length: {len(body)}\r\n"
    return f"HTTP/1.1 {status}\r\ncontent-type: {media}\r\n{length}{more}\r\n".encode() + body


def refusal(code: int, **more: object) -> bytes:
    body = json.dumps({"code": code, "label": SECRET, "reason": SECRET, **more}).encode()
    return response(body, status="403 Forbidden", media="application/json", more=f"server: {SECRET}\r\n")


def ask(answer: Answering, path: str = SESSION, *, body: bytes = b"x", on_a_socket: bool = False) -> httpx.Response:
    """What an asker gets when the gatekeeper behind the hub answers so."""

    async def run() -> httpx.Response:
        async with server(answer) as url, hub({SOMEBODY: url}, on_a_socket=on_a_socket) as http:
            return await http.post(path, content=body, headers=MSGPACK)

    return asyncio.run(run())


def without_date(answer: httpx.Response) -> tuple[int, dict[str, str], bytes]:
    return answer.status_code, {name: value for name, value in answer.headers.items() if name != "date"}, answer.content


@pytest.fixture(scope="module")
def unknown() -> httpx.Response:
    """The answer about an organisation that nobody configured."""

    async def run() -> httpx.Response:
        async with hub({}) as http:
            return await http.post(f"{PREFIX}{NOBODY}/v1/session", content=b"x", headers=MSGPACK)

    return asyncio.run(run())


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logs("debug", stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


# --- a real gatekeeper ----------------------------------------------------------------------------------


def at_the_gatekeeper(house: House, work: Callable[[httpx.AsyncClient, httpx.AsyncClient], Awaitable[None]]) -> None:
    """``work`` with two clients: straight to the gatekeeper, and through the hub."""

    async def run() -> None:
        listener = Listener(gatekeeper_app(house.gatekeeper, clock=house.clock, entropy=os.urandom))
        await listener.start()
        organisation = house.world.a.id.hex()
        try:
            async with (
                hub({organisation: listener.url}, on_a_socket=True) as http,
                httpx.AsyncClient(base_url=listener.url) as direct,
            ):
                relayed = f"{str(http.base_url).rstrip('/')}{PREFIX}{organisation}"
                async with httpx.AsyncClient(base_url=relayed, trust_env=False) as through:
                    await work(direct, through)
        finally:
            await listener.stop()

    asyncio.run(run())


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.close()


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


def test_a_read_through_the_hub_is_a_direct_one(house: House) -> None:
    ticket = house.ticket()
    expected = house.expected(ticket)
    assert len(expected) > 1

    async def work(direct: httpx.AsyncClient, through: httpx.AsyncClient) -> None:
        straight = await client(house, direct).read_all(ticket, expected)
        assert await client(house, through).read_all(ticket, expected) == straight
        assert await client(house, through).read_all(ticket, expected, page=1) == straight
        assert await client(house, through).read(ticket, expected[:1]) == straight[:1]

    at_the_gatekeeper(house, work)


def test_refusals_come_through_with_code_and_record(house: House) -> None:
    ticket = house.ticket()
    hidden = house.of_grade(Sensitivity.V)[0]
    anchored = AnchoredRecord(record_id=hidden.record_id, version=hidden.version, root=hidden.root)

    async def work(direct: httpx.AsyncClient, through: httpx.AsyncClient) -> None:
        with pytest.raises(Withheld) as withheld:
            await client(house, through).read(ticket, [anchored])
        assert (withheld.value.code, withheld.value.record_id) == (GatekeeperCode.OUTSIDE_SCOPE, hidden.record_id)
        who = Organisation("stranger", kind=OrganisationKind.HOSPITAL)
        with pytest.raises(Rejected) as stranger:
            await client(house, through, who).read_all(ticket, ())
        assert stranger.value.code is AuthCode.SIGNATURE_INVALID
        answers = [await one.post("/v1/release", content=b"\xc1", headers=MSGPACK) for one in (direct, through)]
        assert without_date(answers[0]) == without_date(answers[1])

    at_the_gatekeeper(house, work)


def test_the_hub_believes_an_organisations_server_on_its_own_authority_alone(
    tmp_path: Path, unknown: httpx.Response
) -> None:
    """The session of a doctor is not handed to whoever sits at the address now."""
    now = datetime.now(UTC)
    a, b = (Organisation(name, kind=OrganisationKind.HOSPITAL) for name in "ab")
    trust = Trust({one.id: one.authority.certificate for one in (a, b)})

    async def run(vouching: Organisation) -> httpx.Response:
        shown = vouching.authority.issue_server(
            ["127.0.0.1"], not_before=now - timedelta(hours=1), not_after=now + timedelta(days=1), entropy=os.urandom
        )
        (tmp_path / "certificate").write_bytes(shown.certificate)
        (tmp_path / "key").write_bytes(shown.key)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(tmp_path / "certificate", tmp_path / "key")
        async with (
            server(saying(response(b"\xc0")), context) as url,
            Relay.open({a.id.hex(): url}, context_of=trust.context) as relay,
            asked_of(relay) as http,
        ):
            return await http.post(f"{PREFIX}{a.id.hex()}/v1/session", content=b"x", headers=MSGPACK)

    assert asyncio.run(run(a)).status_code == 200
    assert without_date(asyncio.run(run(b))) == without_date(unknown)


# --- what passes ----------------------------------------------------------------------------------------


def test_the_gatekeeper_hears_nothing_about_the_asker() -> None:
    heard: list[dict[str, str]] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await head_of(reader))
        writer.write(response(b"\xc0", more="set-cookie: a=b\r\n"))
        await writer.drain()

    async def run() -> None:
        async with server(answer) as url, hub({SOMEBODY: url}) as http:
            headers = {
                **MSGPACK,
                "authorization": "Bearer 00",
                "x-forwarded-for": "192.0.2.7",
                "forwarded": "for=192.0.2.7",
                "via": "1.1 proxy",
                "cookie": "a=b",
                "origin": "https://asker.example",
                "user-agent": "asker",
            }
            for _ in range(2):
                assert (await http.post(f"{SESSION}?from=192.0.2.7", content=b"x", headers=headers)).content == b"\xc0"
            host = url.removeprefix("http://")
            wanted = {"host": host, "content-length": "1", "authorization": "Bearer 00", **MSGPACK}
            assert heard == [wanted, wanted]

    asyncio.run(run())


def test_an_answer_passes_in_pieces_and_without_foreign_headers() -> None:
    chunked = response(more=f"transfer-encoding: chunked\r\nserver: {SECRET}\r\nlocation: http://{SECRET}/\r\n")
    answer = ask(saying(chunked, b"3\r\nabc\r\n", b"2\r\nde\r\n0\r\n\r\n"))
    assert (answer.status_code, answer.content) == (200, b"abcde")
    assert set(answer.headers) <= {"date", "content-type", "cache-control", "transfer-encoding"}
    assert answer.headers["cache-control"] == "no-store"


def test_a_refusal_is_written_anew_from_its_number() -> None:
    record = "0f" * 32
    answer = ask(saying(refusal(int(GatekeeperCode.OUTSIDE_SCOPE), record=record)))
    code = GatekeeperCode.OUTSIDE_SCOPE
    assert answer.status_code == 403
    assert answer.json() == {"code": int(code), "label": code.label, "reason": code.reason, "record": record}
    assert set(answer.headers) <= {"date", "content-type", "content-length"}
    busy = ask(saying(refusal(int(GatekeeperCode.BUSY))))
    assert (busy.status_code, busy.headers["retry-after"]) == (503, "1")


# --- what does not pass ---------------------------------------------------------------------------------

NOT_A_GATEKEEPER: dict[str, Answering] = {
    "nothing": saying(),
    "not HTTP": saying(b"\x00\x01\x02" * 100),
    "a page": saying(response(SECRET.encode(), media="text/html")),
    "a proxy's page": saying(response(SECRET.encode(), status="502 Bad Gateway", media="text/html")),
    "elsewhere": saying(response(status="307 Temporary Redirect", more=f"location: http://{SECRET}/\r\n")),
    "compressed": saying(response(b"\x1f\x8b", more="content-encoding: gzip\r\n")),
    "a compressed refusal": saying(
        response(b"\x1f\x8b", status="403 Forbidden", media="application/json", more="content-encoding: gzip\r\n")
    ),
    "a refusal that is no JSON": saying(response(b"{", status="403 Forbidden", media="application/json")),
    "a refusal without a number": saying(response(b"{}", status="403 Forbidden", media="application/json")),
    "a refusal nobody knows": saying(refusal(4711)),
    "another service's refusal": saying(refusal(int(NodeCode.TX_UNKNOWN))),
    "unavailable": saying(refusal(0)),
    "a record that is none": saying(refusal(int(GatekeeperCode.OUTSIDE_SCOPE), record=SECRET)),
    "a short record": saying(refusal(int(GatekeeperCode.OUTSIDE_SCOPE), record="00")),
    "a refusal without an end": saying(
        b"HTTP/1.1 403 F\r\ncontent-type: application/json\r\n\r\n" + b" " * 10_000, then=for_ever
    ),
    "too large by its own word": saying(
        response(more="transfer-encoding: identity\r\n").replace(
            b"content-length: 0", b"content-length: %d" % (1 << 40)
        )
    ),
    "cut before the first byte": saying(response(b"abc")[:-3]),
}


@pytest.mark.parametrize("name", NOT_A_GATEKEEPER)
def test_whatever_is_no_gatekeepers_answer_is_as_if_nobody_were_there(
    name: str, unknown: httpx.Response, log: io.StringIO
) -> None:
    answer = ask(NOT_A_GATEKEEPER[name])
    assert without_date(answer) == without_date(unknown)
    assert answer.json()["code"] == int(RelayCode.UNREACHABLE)
    assert SECRET not in log.getvalue()
    assert "127.0.0.1" not in log.getvalue()
    assert "relay_failed" in log.getvalue()


def test_nobody_there(unknown: httpx.Response) -> None:
    async def run() -> httpx.Response:
        async with server(saying()) as url:
            closed = url
        async with hub({SOMEBODY: closed}) as http:
            return await http.post(SESSION, content=b"x", headers=MSGPACK)

    assert without_date(asyncio.run(run())) == without_date(unknown)
    assert unknown.status_code == 502


def test_one_that_is_silent_is_given_up(monkeypatch: pytest.MonkeyPatch, unknown: httpx.Response) -> None:
    monkeypatch.setattr(relaying, "RELAY_SILENCE_S", 0.05)
    assert without_date(ask(saying(then=for_ever))) == without_date(unknown)


def test_one_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes in time, the answer never: once it has begun, being cut off is how the asker learns of it."""
    monkeypatch.setattr(relaying, "RELAY_S", 0.2)

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(response(more="transfer-encoding: chunked\r\n"))
        while True:
            writer.write(b"1\r\nx\r\n")
            await writer.drain()
            await asyncio.sleep(0.01)

    with pytest.raises(httpx.RemoteProtocolError):
        ask(drip, on_a_socket=True)


@pytest.mark.parametrize(
    "begun",
    [response(b"abcdef")[:-3], response(more="transfer-encoding: chunked\r\n") + b"3\r\nabc\r\n"],
    ids=["of a stated length", "in pieces"],
)
def test_an_answer_that_is_cut_short_is_cut_short(begun: bytes) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        ask(saying(begun), on_a_socket=True)


def test_an_endless_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relaying, "ANSWER_BYTES", 100_000)

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(response(more="transfer-encoding: chunked\r\n"))
        while True:
            writer.write(b"1000\r\n" + bytes(0x1000) + b"\r\n")
            await writer.drain()

    with pytest.raises(httpx.RemoteProtocolError):
        ask(pour, on_a_socket=True)
    assert ANSWER_BYTES > 100_000


# --- the asker's side -----------------------------------------------------------------------------------

PATHS: dict[str, tuple[str, str, RejectionCode]] = {
    "no organisation": ("POST", PREFIX, NodeCode.PATH_UNKNOWN),
    "no path": ("POST", f"{PREFIX}{SOMEBODY}", NodeCode.PATH_UNKNOWN),
    "an empty path": ("POST", f"{PREFIX}{SOMEBODY}/", NodeCode.PATH_UNKNOWN),
    "another path": ("POST", f"{PREFIX}{SOMEBODY}/v1/status", NodeCode.PATH_UNKNOWN),
    "the node's own": ("POST", f"{PREFIX}{SOMEBODY}/v1/transactions", NodeCode.PATH_UNKNOWN),
    "metrics": ("POST", f"{PREFIX}{SOMEBODY}/metrics", NodeCode.PATH_UNKNOWN),
    "a slash too many": ("POST", f"{PREFIX}{SOMEBODY}/v1/session/", NodeCode.PATH_UNKNOWN),
    "a slash more": ("POST", f"{PREFIX}{SOMEBODY}//v1/session", NodeCode.PATH_UNKNOWN),
    "upwards": ("POST", f"{PREFIX}{SOMEBODY}/v1/release/%2e%2e/session", NodeCode.PATH_UNKNOWN),
    "hidden upwards": ("POST", f"{PREFIX}{SOMEBODY}/v1/%2e%2e/metrics", NodeCode.PATH_UNKNOWN),
    "a query in the path": ("POST", f"{PREFIX}{SOMEBODY}/v1/session%3fa=b", NodeCode.PATH_UNKNOWN),
    "in capitals": ("POST", f"{PREFIX}{SOMEBODY}/v1/SESSION", NodeCode.PATH_UNKNOWN),
    "reading": ("GET", SESSION, NodeCode.METHOD_NOT_ALLOWED),
    "deleting": ("DELETE", SESSION, NodeCode.METHOD_NOT_ALLOWED),
}


@pytest.mark.parametrize("name", PATHS)
def test_only_a_gatekeepers_paths_pass(name: str) -> None:
    method, path, code = PATHS[name]

    async def nobody_may_come(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise AssertionError("the gatekeeper was asked")

    async def run() -> httpx.Response:
        async with server(nobody_may_come) as url, hub({SOMEBODY: url}) as http:
            return await http.request(method, path)

    answer = asyncio.run(run())
    assert answer.json()["code"] == int(code)
    assert answer.status_code == (405 if code is NodeCode.METHOD_NOT_ALLOWED else 404)


@pytest.mark.parametrize(
    ("path", "limit"), [("/v1/session", OPENING_BODY_BYTES), ("/v1/release", RELEASE_REQUEST_BYTES)]
)
def test_a_body_stays_within_the_gatekeepers_bound(path: str, limit: int) -> None:
    fits = ask(saying(response(b"\xc0")), f"{PREFIX}{SOMEBODY}{path}", body=bytes(limit))
    assert fits.status_code == 200
    large = ask(saying(response(b"\xc0")), f"{PREFIX}{SOMEBODY}{path}", body=bytes(limit + 1))
    assert (large.status_code, large.json()["code"]) == (413, int(NodeCode.BODY_TOO_LARGE))


def test_capitals_in_the_organisation_are_another_organisation(unknown: httpx.Response) -> None:
    answer = ask(saying(response(b"\xc0")), f"{PREFIX}{SOMEBODY.upper()}/v1/session")
    assert without_date(answer) == without_date(unknown)


def test_one_that_hangs_keeps_nobody_from_the_others_and_no_place_once_the_askers_are_gone(
    unknown: httpx.Response,
) -> None:
    other = "ef" * 32
    arrived = asyncio.Semaphore(0)
    left = asyncio.Semaphore(0)
    hangs = True

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        if not hangs:
            writer.write(response(b"\xc0"))
            await writer.drain()
            return
        arrived.release()
        await reader.read()
        left.release()

    async def run() -> None:
        nonlocal hangs
        async with (
            server(hang) as hanging,
            server(saying(response(b"\xc0"))) as well,
            hub({SOMEBODY: hanging, other: well}, on_a_socket=True) as http,
        ):
            asking = [
                asyncio.create_task(http.post(SESSION, content=b"x", headers=MSGPACK))
                for _ in range(RELAYS_PER_GATEKEEPER)
            ]
            for _ in asking:
                await arrived.acquire()
            crowded = await http.post(SESSION, content=b"x", headers=MSGPACK)
            assert without_date(crowded) == without_date(unknown)
            assert (await http.post(f"{PREFIX}{other}/v1/session", content=b"x", headers=MSGPACK)).status_code == 200
            hangs = False
            for one in asking:
                one.cancel()
            for _ in asking:
                await left.acquire()
            assert (await http.post(SESSION, content=b"x", headers=MSGPACK)).status_code == 200

    asyncio.run(run())


def test_a_full_hub_says_so_whoever_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relaying, "RELAYS_AT_ONCE", 0)
    for organisation in (SOMEBODY, NOBODY):
        answer = ask(saying(response(b"\xc0")), f"{PREFIX}{organisation}/v1/session")
        assert (answer.status_code, answer.json()["code"]) == (429, int(NodeCode.OVERLOADED))
        assert answer.headers["retry-after"] == "1"


def test_a_hub_that_cannot_bring_it_is_an_unreachable_gatekeeper_to_the_client(house: House) -> None:
    async def run() -> None:
        async with hub({}, on_a_socket=True) as http:
            base = f"{str(http.base_url).rstrip('/')}{PREFIX}{house.world.a.id.hex()}"
            async with httpx.AsyncClient(base_url=base, trust_env=False) as through:
                with pytest.raises(GatekeeperUnreachable):
                    await client(house, through).read_all(bytes(32), ())

    asyncio.run(run())


# --- settings -------------------------------------------------------------------------------------------

GOOD: Final = (
    "https://a.example",
    "https://10.0.0.1:8712/door",
    "http://127.0.0.1:8712",
    "http://[::1]:1/",
    "http://localhost:2",
)
BAD: Final = (
    "http://a.example",
    "http://127.0.0.1.evil.example/",
    "https:///door",
    "https://user@a.example",
    "https://a.example/?to=b",
    "https://a.example/#b",
    "https://a.example:99999",
    "https://a.example:0",
    "https://[::",
    "ftp://a.example",
    "a.example:8712",
)


def settings_of(home: Path, organisation: str, url: str) -> RelaySettings:
    (home / "config.toml").write_text(f'[relay.gatekeepers]\n"{organisation}" = "{url}"\n', encoding="utf-8")
    return load_settings(home=home).relay


@pytest.mark.parametrize("url", GOOD)
def test_addresses_that_can_be_configured(url: str, tmp_path: Path) -> None:
    relay = settings_of(tmp_path, SOMEBODY, url)
    assert (relay.enabled, relay.gatekeepers) == (False, {SOMEBODY: url})

    async def run() -> None:
        async with hub(relay.gatekeepers):
            """The client takes it too."""

    asyncio.run(run())


@pytest.mark.parametrize(
    ("organisation", "url"), [*((SOMEBODY, url) for url in BAD), (SOMEBODY.upper(), GOOD[0]), ("ab", GOOD[0])]
)
def test_what_cannot_be_configured_is_not_repeated(organisation: str, url: str, tmp_path: Path) -> None:
    with pytest.raises(BadSettings) as refused:
        settings_of(tmp_path, organisation, url)
    assert "relay.gatekeepers" in str(refused.value)
    assert url not in str(refused.value)
