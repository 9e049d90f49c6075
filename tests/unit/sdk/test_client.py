"""Goal: a client submits once whatever the network does, believes only what is proven, and says what went wrong.

Method: the real client against a real server on loopback. A middleman between the two drops answers, forgets
sessions or alters bodies, which is all that a network or a lying node can do.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from msgspec.structs import replace

from carechain.chain.header import SealedHeader, decode_sealed
from carechain.chain.queries import QUERIES, QueryCode
from carechain.chain.questions import (
    GrantPage,
    HistoryPage,
    LogPage,
    NoArgs,
    OfOrganisation,
    OfParty,
    OfPseudonym,
    OfRecord,
    OfTicket,
    TimelinePage,
)
from carechain.chain.tx import AdmissionCode, parse
from carechain.contracts.access import RequestAccess
from carechain.contracts.records import RecordsCode
from carechain.core.codec import encode
from carechain.core.crypto import SigningKey, Suite
from carechain.core.vocabulary import PartyKind, Purpose
from carechain.gatekeeper.listen import Listener
from carechain.node.http import Api
from carechain.sdk.answers import ROWS, ProvenEntry, QueryAnswer
from carechain.sdk.authentication import AuthCode
from carechain.sdk.client import Client, HasKeys, Refused, Signer, SyncClient, Unreachable
from carechain.sdk.identity import new_identity
from carechain.sdk.proofs import PROVABLE, NotProven, verify_answer, verify_header, verify_inclusion
from carechain.sdk.verify_log import head_of, verify_log
from node_network import Network, running
from world import RESULTS, Actor, anchor_of, grant_of, record_id

Middleman = Callable[[httpx.Request, Callable[[httpx.Request], Awaitable[httpx.Response]]], Awaitable[httpx.Response]]


class Between(httpx.AsyncBaseTransport):
    """A transport that lets ``middleman`` decide what becomes of each request."""

    def __init__(self) -> None:
        self.inner = httpx.AsyncHTTPTransport()
        self.middleman: Middleman | None = None
        self.sent: list[tuple[str, str]] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.sent.append((request.method, request.url.path))
        if self.middleman is None:
            return await self.inner.handle_async_request(request)
        return await self.middleman(request, self.inner.handle_async_request)

    async def aclose(self) -> None:
        await self.inner.aclose()


class Office:
    """A served network and its clients."""

    def __init__(self, net: Network, api: Api, url: str) -> None:
        self.net = net
        self.api = api
        self.url = url
        self.between = Between()
        self.http = httpx.AsyncClient(transport=self.between, timeout=10)

    def client(self, who: HasKeys, *, give_up_s: float = 10.0) -> Client:
        return Client(
            self.url,
            who,
            genesis=self.net.service.genesis,
            http=self.http,
            clock=self.net.clock,
            give_up_s=give_up_s,
        )


@asynccontextmanager
async def office(home: Path) -> AsyncIterator[Office]:
    async with running(home) as net:
        api = Api(net.service)
        listener = Listener(api)
        await listener.start()
        there = Office(net, api, listener.url)
        try:
            yield there
        finally:
            await there.http.aclose()
            await listener.stop()


# --- submitting -----------------------------------------------------------------------------------------


def test_a_submission_is_signed_sent_and_durable(tmp_path: Path) -> None:
    async def main() -> None:
        async with office(tmp_path) as there:
            carl = there.client(there.net.carl)
            submitted = await carl.submit(anchor_of(there.net.steve, "one"))
            assert there.net.service.locate(submitted.tx_id) == (submitted.height, submitted.index)
            assert await carl.wait(submitted.tx_id) == submitted
            raw = await carl.sign(anchor_of(there.net.steve, "two"), nonce=bytes(16))
            assert parse(raw).body.nonce == bytes(16)

    asyncio.run(main())


def test_what_the_ledger_rejects_and_what_it_does_not_admit_are_both_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with office(tmp_path) as there:
            with pytest.raises(Refused) as rejected:
                await there.client(there.net.carl).submit(anchor_of(there.net.steve, "r1"))
            code = RecordsCode.VERSION_NOT_NEXT
            assert (rejected.value.code, rejected.value.label, rejected.value.reason) == (code, code.label, code.reason)
            with pytest.raises(Refused) as unknown:
                await there.client(Actor("stranger")).submit(anchor_of(there.net.steve, "r9"))
            assert unknown.value.code == AdmissionCode.UNKNOWN_SIGNER

    asyncio.run(main())


def test_a_lost_answer_is_learned_and_nothing_is_submitted_twice(tmp_path: Path) -> None:
    async def main() -> None:
        async with office(tmp_path) as there:
            lost: list[bytes] = []

            async def drop_first_answer(request: httpx.Request, go: Any) -> httpx.Response:
                answer = await go(request)
                if request.url.path == "/v1/transactions" and not lost:
                    lost.append(await answer.aread())
                    raise httpx.ReadError("cut")
                return answer

            there.between.middleman = drop_first_answer
            before = there.net.service.view().contracts.consent.tables.heads.get(there.net.steve.id)
            submitted = await there.client(there.net.steve).submit(grant_of(there.net.steve, there.net.ivan))
            after = there.net.service.view().contracts.consent.tables.heads.get(there.net.steve.id)
            assert before is not None
            assert after is not None
            assert after.grants == before.grants + 1
            assert msgspec.msgpack.decode(lost[0])["tx_id"] == submitted.tx_id
            assert ("GET", f"/v1/transactions/{submitted.tx_id.hex()}") in there.between.sent

    asyncio.run(main())


def test_a_lost_request_is_sent_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with office(tmp_path) as there:
            tries: list[int] = []

            async def drop_first_request(request: httpx.Request, go: Any) -> httpx.Response:
                if request.url.path == "/v1/transactions" and not tries:
                    tries.append(1)
                    raise httpx.ConnectError("no route")
                return await go(request)

            there.between.middleman = drop_first_request
            submitted = await there.client(there.net.carl).submit(anchor_of(there.net.steve, "again"))
            assert submitted.receipt.code == 0

    asyncio.run(main())


def test_giving_up_names_the_open_transaction_and_waiting_finds_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with office(tmp_path) as there:

            async def drop_answers(request: httpx.Request, go: Any) -> httpx.Response:
                answer = await go(request)
                if request.url.path == "/v1/transactions":
                    raise httpx.ReadError("cut")
                return answer

            carl = there.client(there.net.carl, give_up_s=0.0)
            await carl.status()
            there.between.middleman = drop_answers
            with pytest.raises(Unreachable) as lost:
                await carl.submit(anchor_of(there.net.steve, "open"))
            assert lost.value.tx_id is not None
            found = await carl.wait(lost.value.tx_id)
            assert found.tx_id == lost.value.tx_id
            with pytest.raises(Unreachable):
                await carl.wait(record_id("never sent"))

    asyncio.run(main())


def test_back_pressure_is_waited_out(tmp_path: Path) -> None:
    async def main() -> None:
        async with office(tmp_path) as there:
            busy: list[int] = []

            async def busy_once(request: httpx.Request, go: Any) -> httpx.Response:
                if request.url.path == "/v1/transactions" and not busy:
                    busy.append(1)
                    body = {"code": 1305, "label": "NODE.OVERLOADED", "reason": "."}
                    return httpx.Response(429, json=body, headers={"retry-after": "0"})
                return await go(request)

            there.between.middleman = busy_once
            assert await there.client(there.net.carl).submit(anchor_of(there.net.steve, "patient"))
            busy.clear()
            with pytest.raises(Refused) as refused:
                await there.client(there.net.carl, give_up_s=0).submit(anchor_of(there.net.steve, "impatient"))
            assert refused.value.label == "NODE.OVERLOADED"

    asyncio.run(main())


def test_many_have_their_outcomes_in_order(tmp_path: Path) -> None:
    async def main() -> None:
        async with office(tmp_path) as there:
            carl = there.client(there.net.carl)
            raws = [await carl.sign(anchor_of(there.net.steve, f"m{number}")) for number in range(3)]
            first, junk, last = await carl.send_many([raws[0], b"junk", raws[2]])
            assert isinstance(junk, Refused)
            assert junk.code == AdmissionCode.MALFORMED
            assert not isinstance(first, Refused)
            assert not isinstance(last, Refused)
            assert (first.tx_id, last.tx_id) == (parse(raws[0]).id, parse(raws[2]).id)

    asyncio.run(main())


# --- sessions -------------------------------------------------------------------------------------------


def test_a_session_is_opened_once_and_renewed_when_it_ends(tmp_path: Path) -> None:
    async def main() -> None:
        async with office(tmp_path) as there:
            steve = there.client(there.net.steve)
            for _ in range(3):
                await steve.query("records.timeline", TimelinePage(there.net.steve.id))
            assert there.between.sent.count(("POST", "/v1/session")) == 1
            there.net.clock.wait(590)
            await steve.query("records.timeline", TimelinePage(there.net.steve.id))
            assert there.between.sent.count(("POST", "/v1/session")) == 2
            for token in list(there.api.sessions._sessions):
                there.api.sessions.end(token)
            await steve.query("records.timeline", TimelinePage(there.net.steve.id))
            assert there.between.sent.count(("POST", "/v1/session")) == 3

    asyncio.run(main())


def test_a_stranger_has_no_session(tmp_path: Path) -> None:
    async def main() -> None:
        async with office(tmp_path) as there:
            with pytest.raises(Refused) as refused:
                await there.client(Actor("stranger")).query("membership.members", NoArgs())
            assert refused.value.code == AuthCode.SIGNATURE_INVALID

    asyncio.run(main())


def test_refusals_of_queries_carry_their_code(tmp_path: Path) -> None:
    async def main() -> None:
        async with office(tmp_path) as there:
            with pytest.raises(Refused) as refused:
                await there.client(there.net.mary).query("access.log", LogPage(there.net.steve.id))
            assert (refused.value.code, refused.value.label) == (803, "QUERY.NOT_AUTHORISED")
            with pytest.raises(TypeError):
                await there.client(there.net.mary).query("access.log", OfTicket(bytes(32)))

    asyncio.run(main())


def test_what_is_not_a_node_is_said_to_be_none(tmp_path: Path) -> None:
    async def main() -> None:
        async with office(tmp_path) as there:

            async def other_server(request: httpx.Request, _go: Any) -> httpx.Response:
                return httpx.Response(404, text="<html>no</html>", request=request)

            there.between.middleman = other_server
            with pytest.raises(Refused, match="not a node's"):
                await there.client(there.net.steve).status()

    asyncio.run(main())


def test_every_way_to_name_a_signer(entropy: Callable[[int], bytes]) -> None:
    identity = new_identity(kind=PartyKind.STAFF, entropy=entropy)
    actor = Actor("carl")
    assert Signer.of(identity).party == identity.party
    assert Signer.of(actor) == Signer(actor.id, actor.signing)
    assert Signer.of(Signer.of(actor)) == Signer.of(actor)


# --- proofs ---------------------------------------------------------------------------------------------


def test_every_query_has_typed_rows_and_every_stored_row_a_proof() -> None:
    assert set(ROWS) == set(QUERIES)
    assert set(PROVABLE) < set(QUERIES)


def test_answers_are_proven(tmp_path: Path) -> None:
    async def main() -> None:
        async with office(tmp_path) as there:
            net = there.net
            decided = (
                await net.run(RequestAccess(pseudonym=net.steve.id, scope=RESULTS, purpose=Purpose.TREAT), by=net.bert)
            )[0]
            steve = there.client(net.steve)
            rows: list[tuple[str, Any, int]] = [
                ("membership.member", OfOrganisation(net.a.id), 1),
                ("membership.party", OfParty(net.bert.id), 1),
                ("consent.grants", GrantPage(net.steve.id), 2),
                ("records.anchor", OfRecord(net.steve.id, record_id("r1")), 1),
                ("records.history", HistoryPage(net.steve.id, record_id("r1")), 1),
                ("records.timeline", TimelinePage(net.steve.id), 3),
                ("access.ticket", OfTicket(decided.ticket), 1),
                ("access.log_head", OfPseudonym(net.steve.id), 1),
            ]
            for name, args, count in rows:
                answer = await steve.query(name, args, prove=True)
                assert len(answer.rows) == count, name
            mary = there.client(net.mary)
            empty = await mary.query("access.log_head", OfPseudonym(net.mary.id), prove=True)
            assert empty.proofs[0].value is None
            with pytest.raises(NotProven, match="computed"):
                await steve.query("membership.members", NoArgs(), prove=True)
            stranger_to_genesis = Client(there.url, net.steve, http=there.http, clock=net.clock)
            with pytest.raises(NotProven, match="genesis"):
                await stranger_to_genesis.query("records.timeline", TimelinePage(net.steve.id), prove=True)

    asyncio.run(main())


def test_what_a_lying_node_changes_is_not_believed(tmp_path: Path) -> None:
    async def main() -> None:
        async with office(tmp_path) as there:
            net, args = there.net, TimelinePage(there.net.steve.id)
            client = there.client(net.steve)
            network = client.network
            assert network is not None
            good = await client.query("records.timeline", args, prove=True)
            verify_answer("records.timeline", args, good, network)
            await net.run(anchor_of(net.steve, "newer"), by=net.carl)
            later = await client.query("records.timeline", args, prove=True)
            row = good.rows[0]
            forger = SigningKey(suite=Suite.ED25519, seed=bytes(32))
            sealed = decode_sealed(good.sealed)
            lies: list[QueryAnswer] = [
                replace(good, rows=(replace(row, anchor=replace(row.anchor, root=bytes(32))), *good.rows[1:])),
                replace(good, rows=(replace(row, version=2), *good.rows[1:])),
                replace(good, proofs=good.proofs[1:]),
                replace(good, proofs=later.proofs),
                replace(good, sealed=later.sealed),
                replace(good, height=good.height + 1),
                replace(good, time_s=good.time_s + 1),
                replace(good, app_hash=bytes(32)),
                replace(good, sealed=b""),
                replace(good, sealed=encode(SealedHeader(sealed.header, forger.sign(b"x")))),
                replace(
                    good, sealed=encode(SealedHeader(replace(sealed.header, app_hash=bytes(32)), sealed.signature))
                ),
                replace(good, proofs=tuple(replace(one, proof=one.proof[:-1]) for one in good.proofs)),
                replace(
                    good, proofs=tuple(ProvenEntry(key=one.key, value=one.value, proof=b"") for one in good.proofs)
                ),
            ]
            for lie in lies:
                with pytest.raises(NotProven):
                    verify_answer("records.timeline", args, lie, network)
            with pytest.raises(NotProven):
                verify_answer("records.timeline", TimelinePage(net.mary.id), good, network)
            for name, about, wrong in (
                ("membership.member", OfOrganisation(net.a.id), {"id": net.b.id}),
                ("membership.party", OfParty(net.steve.id), {"id": net.mary.id}),
                ("records.history", HistoryPage(net.steve.id, row.record), {"record": bytes(32)}),
            ):
                true = await client.query(name, about, prove=True)
                lie = replace(true, rows=(replace(true.rows[0], **wrong), *true.rows[1:]))
                with pytest.raises(NotProven, match="something else"):
                    verify_answer(name, about, lie, network)
            with pytest.raises(NotProven, match="another network"):
                verify_header(good.sealed, replace(network, chain_id="other"))
            with pytest.raises(NotProven, match="seal counts"):
                verify_header(good.sealed, replace(network, producers={}))

    asyncio.run(main())


def test_a_receipt_is_proven_and_a_changed_one_is_not(tmp_path: Path) -> None:
    async def main() -> None:
        async with office(tmp_path) as there:
            net = there.net
            carl = there.client(net.carl)
            raws = [await carl.sign(anchor_of(net.steve, f"p{number}")) for number in range(5)]
            await carl.send_many(raws)
            for raw in raws:
                full = await carl.proven_receipt(parse(raw).id)
                assert full.signer == net.carl.id
            shown = await carl.receipt(parse(raws[2]).id)
            inclusion, network = shown.inclusion, carl.network
            assert inclusion is not None
            assert network is not None
            tx_id = parse(raws[2]).id
            lies = [
                replace(shown, inclusion=None),
                replace(shown, receipt=replace(shown.receipt, code=501)),
                replace(shown, receipt=replace(shown.receipt, index=shown.receipt.index + 1)),
                replace(shown, receipt=replace(shown.receipt, events=())),
                replace(shown, inclusion=replace(inclusion, raw=raws[1])),
                replace(shown, inclusion=replace(inclusion, raw=b"junk")),
                replace(shown, inclusion=replace(inclusion, tx_path=inclusion.tx_path[1:])),
                replace(shown, inclusion=replace(inclusion, receipt_path=(bytes(32),) * 3)),
                replace(shown, inclusion=replace(inclusion, receipt=inclusion.receipt[:-1])),
            ]
            for lie in lies:
                with pytest.raises(NotProven):
                    verify_inclusion(lie, tx_id, network)
            with pytest.raises(NotProven):
                verify_inclusion(shown, parse(raws[1]).id, network)

    asyncio.run(main())


def test_pages_are_followed_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("carechain.chain.queries.QUERY_PAGE_ROWS", 2)
    monkeypatch.setattr("carechain.contracts.records.views.QUERY_PAGE_ROWS", 2)

    async def main() -> None:
        async with office(tmp_path) as there:
            monkeypatch.setattr("carechain.contracts.records.timeline.__defaults__", (None, 2))
            rows = await there.client(there.net.steve).rows(
                "records.timeline", TimelinePage(there.net.steve.id), prove=True
            )
            assert {one.record for one in rows} == {record_id(name) for name in ("r1", "r2", "r3")}
            assert there.between.sent.count(("POST", "/v1/query/records.timeline")) == 2

    asyncio.run(main())


def test_the_access_log_is_proven_complete(tmp_path: Path) -> None:
    async def main() -> None:
        async with office(tmp_path) as there:
            net = there.net
            ask = RequestAccess(pseudonym=net.steve.id, scope=RESULTS, purpose=Purpose.TREAT)
            for who in (net.bert, net.ivan, net.bert):
                await net.run(ask, by=who)
            steve = there.client(net.steve)
            log = await steve.access_log(net.steve.id)
            assert [line.line.actor for line in log.lines] == [net.bert.id, net.ivan.id, net.bert.id]
            assert (log.height, log.time_s) == (net.service.height, net.service.time_s)
            assert (await there.client(net.mary).access_log(net.mary.id)).lines == ()
            head = await steve.query("access.log_head", OfPseudonym(net.steve.id), prove=True)
            network = steve.network
            assert network is not None
            lines = log.lines
            hidden = replace(lines[1], line=replace(lines[1].line, decision=0))
            for shown in (lines[:2], lines[1:], (), (*lines, lines[0]), lines[::-1], (lines[0], hidden, lines[2])):
                with pytest.raises(NotProven):
                    verify_log(net.steve.id, shown, head, network)
            with pytest.raises(NotProven):
                verify_log(net.mary.id, lines, head, network)
            assert head_of(lines) == head.rows[0]

    asyncio.run(main())


def test_a_line_that_comes_while_the_log_is_read_is_fetched_too(tmp_path: Path) -> None:
    async def main() -> None:
        async with office(tmp_path) as there:
            net = there.net
            ask = RequestAccess(pseudonym=net.steve.id, scope=RESULTS, purpose=Purpose.TREAT)
            await net.run(ask, by=net.bert)
            slipped: list[int] = []

            async def slip_in(request: httpx.Request, go: Any) -> httpx.Response:
                if request.url.path == "/v1/query/access.log_head" and not slipped:
                    slipped.append(1)
                    await net.run(ask, by=net.ivan)
                return await go(request)

            there.between.middleman = slip_in
            assert len((await there.client(net.steve).access_log(net.steve.id)).lines) == 2

    asyncio.run(main())


# --- events and the synchronous face --------------------------------------------------------------------


def test_events_are_followed(tmp_path: Path) -> None:
    async def main() -> None:
        async with office(tmp_path) as there:
            net = there.net
            await net.service.finish()
            seen = [one async for one in there.client(net.mary).events(1)]
            assert [one["kind"] for one in seen if one["kind"] != "beat"][-1] == "end"
            assert any("events" in one for one in seen)
            forgetful = there.client(net.mary)
            await forgetful.query("records.timeline", TimelinePage(net.mary.id))
            for token in list(there.api.sessions._sessions):
                there.api.sessions.end(token)
            assert [one["kind"] async for one in forgetful.events(1)][-1] == "end"
            with pytest.raises(Refused) as refused:
                _ = [one async for one in there.client(net.mary).events(-1)]
            assert refused.value.label == "NODE.PARAMETER_MALFORMED"

    asyncio.run(main())


def test_a_program_without_a_loop_uses_the_same_client(tmp_path: Path) -> None:
    ready, done = threading.Event(), threading.Event()
    found: dict[str, Any] = {}

    async def serve() -> None:
        async with office(tmp_path) as there:
            there.net.clock.now_s = time.time()
            found.update(url=there.url, net=there.net)
            ready.set()
            await asyncio.to_thread(done.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(30)
        net: Network = found["net"]
        with SyncClient(found["url"], net.carl, genesis=net.service.genesis) as carl:
            assert carl.signer.party == net.carl.id
            assert carl.status().chain_id == net.service.chain_id
            submitted = carl.submit(anchor_of(net.steve, "sync"))
            assert carl.wait(submitted.tx_id) == submitted
            assert carl.receipt(submitted.tx_id).receipt == carl.proven_receipt(submitted.tx_id)
            raw = carl.sign(anchor_of(net.steve, "more"))
            assert carl.send(raw).tx_id == parse(raw).id
            assert isinstance(carl.send_many([raw])[0], Refused)
            rows = carl.rows("records.timeline", TimelinePage(net.steve.id))
            assert len(rows) == len(carl.query("records.timeline", TimelinePage(net.steve.id)).rows) == 5
            with pytest.raises(Refused) as refused:
                carl.access_log(net.steve.id)
            assert refused.value.code == QueryCode.ROLE_MAY_NOT_ASK
    finally:
        done.set()
        thread.join()


def test_no_node_is_unreachable() -> None:
    with SyncClient("http://127.0.0.1:9", Actor("carl"), give_up_s=0) as client, pytest.raises(Unreachable):
        client.status()
