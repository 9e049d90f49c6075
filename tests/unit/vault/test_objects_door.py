"""Goal: the vault's door serves ciphertext to live parties, takes it from the right ones, and searches inside a ticket.

Method: a real hospital with a real door on loopback; other organisations' stores and clients speak to it over HTTP,
and raw requests try what no client of ours would send.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import httpx
import msgspec
import pytest

from carechain.contracts.consent.schema import Revoke
from carechain.contracts.membership import DismissStaff
from carechain.core.rejection import Rejected
from carechain.core.vocabulary import OrganisationKind, Sensitivity
from carechain.gatekeeper import objects_door
from carechain.gatekeeper.codes import GatekeeperCode
from carechain.gatekeeper.listen import Listener
from carechain.gatekeeper.objects_door import STATUS, ObjectsDoor, Policy, PutTokens, SearchAnswer, SearchRequest
from carechain.gatekeeper.serve import app
from carechain.sdk.door import DoorSession
from carechain.sdk.signer import Signer
from carechain.sdk.wallet import Pseudonym
from carechain.vault.base import VaultUnavailable
from carechain.vault.codes import VaultCode
from carechain.vault.folder import FolderStore
from carechain.vault.metering import NOBODY, Metering
from carechain.vault.remote import RemoteStore
from carechain.vault.replicated import Replicated
from carechain.vault.service import VaultService
from carechain.vault.tokens import TokenStore
from house import House
from vaults import check_store, read
from world import Actor, Organisation

T = TypeVar("T")
Caller = Actor | Pseudonym
CONTENT = b"sealed " * 1000
ADDRESS = sha256(CONTENT).digest()
CANARY = "Zanzibar-7741"


class Doorway:
    """Hospital a with a vault behind its door; hospital b may keep 30,000 bytes there."""

    def __init__(self, folder: Path) -> None:
        self.house = House(folder)
        world = self.house.world
        self.world = world
        self.vault = VaultService(
            Replicated([FolderStore(folder / "objects")], copies=1),
            Metering(folder / "vault.sqlite"),
            TokenStore(folder / "tokens.sqlite"),
            organisation=world.a.id,
            clock=self.house.clock,
        )
        self.arriving = folder / "arriving"
        self.arriving.mkdir()
        self.door = ObjectsDoor(
            self.vault,
            ledger=self.house.ledger,
            organisation=world.a.id,
            audit=self.house.audit,
            clock=self.house.clock,
            incoming=self.arriving,
            policy=Policy(partners=frozenset([world.b.id]), quota_bytes=30_000),
        )
        self.http = httpx.AsyncClient()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        served = app(self.house.gatekeeper, clock=self.house.clock, entropy=os.urandom, extensions=[self.door.routes])
        listener = Listener(served)
        await listener.start()
        try:
            async with httpx.AsyncClient(base_url=listener.url, trust_env=False) as self.http:
                yield
        finally:
            await listener.stop()

    def session(self, actor: Caller) -> DoorSession:
        return DoorSession(
            self.http,
            Signer(actor.id, actor.signing),
            chain_id=self.house.ledger.chain_id,
            server=self.world.a.id,
            clock=self.house.clock,
            entropy=os.urandom,
        )

    def store(self, actor: Caller, pseudonym: bytes | None = None) -> RemoteStore:
        return RemoteStore(self.http, self.session(actor), name="a's door", pseudonym=pseudonym)

    async def ask(
        self, method: str, path: str, actor: Caller, *, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> httpx.Response:
        token = await self.session(actor).token()
        return await self.http.request(
            method, path, content=body, headers={"authorization": f"Bearer {token}", **(headers or {})}
        )


@pytest.fixture
def doorway(tmp_path: Path) -> Doorway:
    return Doorway(tmp_path)


def run(doorway: Doorway, work: Callable[[], Awaitable[T]]) -> T:
    async def main() -> T:
        async with doorway.open():
            return await work()

    return asyncio.run(main())


def path_of(address: bytes = ADDRESS) -> str:
    return f"/v1/objects/{address.hex()}"


def test_another_organisations_door_is_a_store_like_any(doorway: Doorway, tmp_path: Path) -> None:
    async def work() -> None:
        await check_store(doorway.store(doorway.world.a), tmp_path, lists=False)
        assert list(doorway.arriving.iterdir()) == []

    run(doorway, work)


def test_who_may_do_what(doorway: Doorway) -> None:
    world = doorway.world
    rows: list[tuple[Caller, bool, bool]] = [
        (world.a, True, True),  # the own organisation
        (world.carl, True, False),  # its staff
        (world.b, True, True),  # a partner
        (world.bert, True, False),  # a partner's staff
        (world.steve, False, False),  # a patient
    ]

    async def work() -> None:
        for actor, may_put, may_delete in rows:
            put = await doorway.ask("PUT", path_of(), actor, body=CONTENT)
            assert (put.status_code, actor) == (204 if may_put else 403, actor)
            if not may_put:
                assert put.json()["code"] == int(VaultCode.MAY_NOT_WRITE)
                await doorway.store(world.a).put(ADDRESS, CONTENT)
            assert await read(doorway.store(actor), ADDRESS) == CONTENT
            gone = await doorway.ask("DELETE", path_of(), actor)
            assert (gone.status_code, actor) == (204 if may_delete else 403, actor)

    run(doorway, work)


def test_nobody_unknown_and_nobody_dismissed_gets_anything(doorway: Doorway) -> None:
    stranger = Organisation("stranger", kind=OrganisationKind.HOSPITAL)

    async def work() -> None:
        with pytest.raises(VaultUnavailable, match="AUTH"):
            await doorway.store(stranger).size(ADDRESS)
        for method in ("GET", "HEAD", "PUT", "DELETE"):
            assert (await doorway.http.request(method, path_of())).status_code == 401
        for path in ("/v1/search", "/v1/tokens"):
            assert (await doorway.http.post(path)).status_code == 401
        bert = doorway.session(doorway.world.bert)
        token = await bert.token()
        doorway.world.done(DismissStaff(party=doorway.world.bert.id), by=doorway.world.b)
        refused = await doorway.http.get(path_of(), headers={"authorization": f"Bearer {token}"})
        assert (refused.status_code, refused.json()["code"]) == (403, int(VaultCode.NOT_LIVE))

    run(doorway, work)


def test_metering_knows_the_own_patients_and_not_the_partners(doorway: Doorway) -> None:
    world, metering = doorway.world, doorway.vault.metering

    async def work() -> None:
        await doorway.store(world.carl, world.steve.id).put(ADDRESS, CONTENT)
        other = b"a copy for b"
        await doorway.store(world.b, world.steve.id).put(sha256(other).digest(), other)

    run(doorway, work)
    known = {one.pseudonym: one.bytes_now for one in metering.usages(0, doorway.house.clock() + 1)}
    assert known == {world.steve.id: len(CONTENT), NOBODY: 12}
    assert (metering.held_bytes(world.a.id), metering.held_bytes(world.b.id)) == (len(CONTENT), 12)


def test_a_partners_quota(doorway: Doorway) -> None:
    async def work() -> None:
        partner = doorway.store(doorway.world.b)
        for size in (20_000, 10_000):
            await partner.put(sha256(bytes(size)).digest(), bytes(size))
        with pytest.raises(Rejected) as full:
            await partner.put(sha256(b"x").digest(), b"x")
        assert full.value.code is VaultCode.QUOTA_EXCEEDED
        assert await partner.delete(sha256(bytes(20_000)).digest())
        await partner.put(sha256(b"x").digest(), b"x")

        async def unannounced() -> AsyncIterator[bytes]:
            for _ in range(100):
                yield bytes(1000)

        token = await doorway.session(doorway.world.b).token()
        answer = await doorway.http.put(
            path_of(sha256(bytes(100_000)).digest()),
            content=unannounced(),
            headers={"authorization": f"Bearer {token}"},
        )
        assert answer.json()["code"] == int(VaultCode.QUOTA_EXCEEDED)
        assert doorway.door._arriving.total() == 0

    run(doorway, work)


def test_what_arrives_at_the_same_time_shares_the_quota(doorway: Doorway) -> None:
    """Each alone would fit; what is too much for both together is refused, not kept."""

    async def slowly(size: int, here: asyncio.Event, other: asyncio.Event) -> AsyncIterator[bytes]:
        yield bytes([size % 251]) * (size // 2)
        here.set()
        await other.wait()
        yield bytes([size % 251]) * (size - size // 2)

    async def work() -> None:
        token = await doorway.session(doorway.world.b).token()
        begun = [asyncio.Event(), asyncio.Event()]
        answers = await asyncio.gather(
            *(
                doorway.http.put(
                    path_of(sha256(bytes([size % 251]) * size).digest()),
                    content=slowly(size, here, other),
                    headers={"authorization": f"Bearer {token}"},
                )
                for size, here, other in ((20_000, begun[0], begun[1]), (20_002, begun[1], begun[0]))
            )
        )
        assert VaultCode.QUOTA_EXCEEDED in [one.json()["code"] for one in answers if one.status_code != 204]
        assert doorway.vault.metering.held_bytes(doorway.world.b.id) <= 30_000
        assert doorway.door._arriving.total() == 0

    run(doorway, work)


RANGES: list[tuple[str, int, bytes | None]] = [
    ("bytes=0-0", 206, CONTENT[:1]),
    ("bytes=10-19", 206, CONTENT[10:20]),
    ("bytes=6990-", 206, CONTENT[6990:]),
    ("bytes=6990-999999", 206, CONTENT[6990:]),
    ("bytes=-5", 206, CONTENT[-5:]),
    ("bytes=-999999", 206, CONTENT),
    ("bytes=7000-", 416, None),
    ("bytes=9-8", 416, None),
    ("bytes=-0", 416, None),
    ("bytes=-", 416, None),
    ("bytes=", 416, None),
    ("bytes=0-1,3-4", 416, None),
    ("bytes=a-b", 416, None),
    ("bytes=" + "9" * 40 + "-", 416, None),
    ("items=0-1", 416, None),
    ("bytes=+1-2", 416, None),
]


def test_ranges(doorway: Doorway) -> None:
    async def work() -> None:
        await doorway.store(doorway.world.a).put(ADDRESS, CONTENT)
        for asked, status, expected in RANGES:
            answer = await doorway.ask("GET", path_of(), doorway.world.bert, headers={"range": asked})
            assert (answer.status_code, asked) == (status, asked)
            if expected is None:
                assert answer.json()["code"] == int(VaultCode.RANGE_UNUSABLE)
            else:
                assert answer.content == expected
                first = CONTENT.rindex(expected) if asked.startswith("bytes=-") else int(asked[6:].split("-")[0])
                assert answer.headers["content-range"] == f"bytes {first}-{first + len(expected) - 1}/{len(CONTENT)}"
        head = await doorway.ask("HEAD", path_of(), doorway.world.bert)
        assert (head.status_code, head.headers["content-length"], head.content) == (200, str(len(CONTENT)), b"")

    run(doorway, work)


def test_what_was_erased_is_gone_for_good(doorway: Doorway) -> None:
    async def work() -> None:
        store = doorway.store(doorway.world.a)
        await store.put(ADDRESS, CONTENT)
        assert await doorway.vault.erase(ADDRESS)
        for method in ("GET", "HEAD", "PUT", "DELETE"):
            answer = await doorway.ask(method, path_of(), doorway.world.a, body=CONTENT if method == "PUT" else b"")
            assert answer.status_code == 410
        assert await store.size(ADDRESS) is None
        with pytest.raises(Rejected) as erased:
            await store.put(ADDRESS, CONTENT)
        assert erased.value.code is VaultCode.OBJECT_ERASED

    run(doorway, work)


def test_an_altered_object_is_withheld(doorway: Doorway, tmp_path: Path) -> None:
    async def work() -> None:
        await doorway.store(doorway.world.a).put(ADDRESS, CONTENT)
        name = ADDRESS.hex()
        (tmp_path / "objects" / name[:2] / name[2:4] / name).write_bytes(CONTENT[:-1] + b"x")
        answer = await doorway.ask("GET", path_of(), doorway.world.bert)
        assert (answer.status_code, answer.json()["code"]) == (409, int(VaultCode.OBJECT_ALTERED))

    run(doorway, work)


@pytest.mark.parametrize("name", ["x", "00", ADDRESS.hex().upper(), ADDRESS.hex() + "0", CANARY * 4, "王" * 64])
def test_addresses_have_one_spelling(doorway: Doorway, name: str) -> None:
    async def work() -> None:
        answer = await doorway.ask("GET", f"/v1/objects/{name}", doorway.world.a)
        assert (answer.status_code, answer.json()["code"]) == (400, int(VaultCode.ADDRESS_MALFORMED))
        assert CANARY not in answer.text

    run(doorway, work)


def test_a_bad_pseudonym_is_refused_and_too_many_at_once_wait(
    doorway: Doorway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        world = doorway.world
        answer = await doorway.ask("PUT", path_of(), world.a, body=CONTENT, headers={"carechain-pseudonym": CANARY})
        assert (answer.status_code, answer.json()["code"]) == (400, int(VaultCode.REQUEST_MALFORMED))
        await doorway.store(world.a).put(ADDRESS, CONTENT)
        monkeypatch.setattr(objects_door, "READS_PER_PARTY", 0)
        monkeypatch.setattr(objects_door, "VAULT_WRITES_AT_ONCE", 0)
        for method in ("GET", "PUT"):
            busy = await doorway.ask(method, path_of(), world.a)
            assert (busy.status_code, busy.json()["code"]) == (503, int(VaultCode.BUSY))
            assert busy.headers["retry-after"]

    run(doorway, work)


def test_who_takes_nothing_loses_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four parties with sixteen connections each that never read would keep everybody else out for ever."""
    monkeypatch.setattr(objects_door, "HTTP_BODY_S", 0)
    closed: list[bool] = []

    async def content() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield bytes(1000)
        finally:
            closed.append(True)

    async def stays() -> dict[str, object]:
        await asyncio.Event().wait()
        return {}

    async def work() -> None:
        for version in ("2.3", "2.4"):
            taken: list[object] = []

            async def takes_three(message: object, taken: list[object] = taken) -> None:
                taken.append(message)
                if len(taken) > 3:
                    await asyncio.Event().wait()

            scope = {"type": "http", "asgi": {"spec_version": version}}
            await objects_door._Content(content())(scope, stays, takes_three)
            assert len(taken) == 4

    asyncio.run(work())
    assert closed == [True, True]


def test_a_full_disk_is_not_the_callers_fault(doorway: Doorway) -> None:
    async def work() -> None:
        doorway.arriving.rmdir()
        answer = await doorway.ask("PUT", path_of(), doorway.world.a, body=CONTENT)
        assert (answer.status_code, answer.json()["label"]) == (503, "UNAVAILABLE")

    run(doorway, work)


# --- search ---------------------------------------------------------------------------------------------


def token(number: int) -> bytes:
    return sha256(b"token %d" % number).digest()


async def search(
    doorway: Doorway, ticket: bytes, *tokens: bytes, by: Caller, after: bytes | None = None
) -> SearchAnswer:
    request = SearchRequest(ticket=ticket, tokens=tokens, after=after)
    answer = await doorway.ask("POST", "/v1/search", by, body=msgspec.msgpack.encode(request))
    if answer.status_code != 200:
        raise LookupError(answer.json()["code"])
    return msgspec.msgpack.decode(answer.content, type=SearchAnswer)


async def put_tokens(doorway: Doorway, by: Caller, record: bytes, *tokens: bytes) -> int:
    put = PutTokens(pseudonym=doorway.world.steve.id, record=record, tokens=tokens)
    return (await doorway.ask("POST", "/v1/tokens", by, body=msgspec.msgpack.encode(put))).status_code


def test_a_search_finds_what_the_ticket_covers_and_nothing_else(doorway: Doorway) -> None:
    house, world = doorway.house, doorway.world
    open_ones = [one.record_id for one in house.expected(house.ticket())]
    hidden = house.of_grade(Sensitivity.V)[0].record_id

    async def work() -> None:
        for record in (*open_ones, hidden):
            assert await put_tokens(doorway, world.carl, record, token(1), record) == 200
        assert await put_tokens(doorway, world.carl, sha256(b"no such record").digest(), token(1)) == 200
        ticket = house.ticket()
        found = await search(doorway, ticket, token(1), by=world.bert)
        assert found.records == tuple(sorted(open_ones))
        assert found.after is None
        assert (await search(doorway, ticket, token(1), open_ones[0], by=world.bert)).records == (open_ones[0],)
        assert (await search(doorway, ticket, hidden, by=world.bert)).records == ()
        assert (await search(doorway, ticket, token(2), by=world.bert)).records == ()
        before = len(house.audit.entries(limit=200))
        with pytest.raises(LookupError, match=str(int(GatekeeperCode.NOT_THE_REQUESTER))):
            await search(doorway, ticket, token(1), by=world.carl)
        with pytest.raises(LookupError, match=str(int(GatekeeperCode.TICKET_UNKNOWN))):
            await search(doorway, bytes(32), token(1), by=world.bert)
        world.done(Revoke(pseudonym=world.steve.id, grant_id=house.may_read), by=world.steve)
        with pytest.raises(LookupError, match=str(int(GatekeeperCode.NO_LONGER_ALLOWED))):
            await search(doorway, ticket, token(1), by=world.bert)
        codes = [one.read.code for one in house.audit.entries(limit=200)][before:]
        assert codes == [905, 903, 909]
        assert house.audit.unreported() is None

    run(doorway, work)


def test_a_search_comes_in_pages(doorway: Doorway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects_door, "SEARCH_RECORDS", 1)
    house, world = doorway.house, doorway.world
    expected = sorted(one.record_id for one in house.expected(house.ticket()))

    async def work() -> None:
        for record in expected:
            await put_tokens(doorway, world.carl, record, token(1))
        ticket, found, after = house.ticket(), list[bytes](), None
        while True:
            page = await search(doorway, ticket, token(1), by=world.bert, after=after)
            found += page.records
            after = page.after
            if after is None:
                break
        assert found == expected

    run(doorway, work)


def test_tokens_come_from_the_own_staff_only(doorway: Doorway) -> None:
    async def work() -> None:
        for actor, status in (
            (doorway.world.b, 403),
            (doorway.world.bert, 403),
            (doorway.world.steve, 403),
            (doorway.world.a, 200),
        ):
            assert await put_tokens(doorway, actor, token(0), token(1)) == status

    run(doorway, work)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        msgspec.msgpack.encode({"ticket": bytes(32), "tokens": []}),
        msgspec.msgpack.encode({"ticket": bytes(32), "tokens": [bytes(32)] * 33}),
        msgspec.msgpack.encode({"ticket": bytes(32), "tokens": [bytes(31)]}),
        msgspec.msgpack.encode({"ticket": bytes(32), "tokens": [bytes(32)], CANARY: 1}),
    ],
)
def test_malformed_searches(doorway: Doorway, body: bytes) -> None:
    async def work() -> None:
        for path in ("/v1/search", "/v1/tokens"):
            answer = await doorway.ask("POST", path, doorway.world.carl, body=body)
            assert (answer.status_code, answer.json()["code"]) == (400, int(VaultCode.REQUEST_MALFORMED))
            assert CANARY not in answer.text

    run(doorway, work)


def test_a_session_that_ended_is_renewed(doorway: Doorway) -> None:
    async def work() -> None:
        session = doorway.session(doorway.world.a)
        session._token = "0" * 64
        store = RemoteStore(doorway.http, session, name="a's door")
        await store.put(ADDRESS, CONTENT)
        session._token = "0" * 64
        assert await read(store, ADDRESS) == CONTENT

    run(doorway, work)


def test_what_answers_wrongly_is_not_believed() -> None:
    class Always:
        async def token(self) -> str:
            return "0"

        def ended(self) -> None:
            return None

    def answering(status: int, body: bytes, headers: dict[str, str] | None = None) -> RemoteStore:
        transport = httpx.MockTransport(lambda _: httpx.Response(status, content=body, headers=headers))
        return RemoteStore(httpx.AsyncClient(base_url="http://x", transport=transport), Always(), name="x")

    async def work() -> None:
        for store in (answering(401, b""), answering(500, b"<html>"), answering(503, b'{"code": 2012}')):
            with pytest.raises(VaultUnavailable):
                await store.put(ADDRESS, CONTENT)
        for status in (401, 403, 500):
            with pytest.raises(VaultUnavailable):
                await answering(status, b"").size(ADDRESS)
        with pytest.raises(VaultUnavailable):
            await read(answering(200, b"short", {"content-length": "5"}), ADDRESS, 0, 3)

    asyncio.run(work())


def test_every_code_has_a_status() -> None:
    assert set(VaultCode) == set(STATUS)
