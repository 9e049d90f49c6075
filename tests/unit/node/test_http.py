"""Goal: the node's HTTP face lets nobody past a check and refuses whatever is malformed with its code.

Method: a real server on a loopback port over a real ledger; each route with each way of being wrong, then a little
fuzzing of every body. Refusals are compared by code number, which is what clients match on.
"""

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect

from carechain.chain.queries import QueryCode
from carechain.chain.questions import MayRead, OfPseudonym, StaffPage, TimelinePage
from carechain.chain.tx import AdmissionCode, parse
from carechain.contracts.access import RequestAccess
from carechain.contracts.membership import DismissStaff
from carechain.core.limits import (
    CLOCK_SKEW_S,
    HTTP_BODY_BYTES,
    OPENING_BODY_BYTES,
    QUERY_BODY_BYTES,
    SESSION_LIFETIME_S,
)
from carechain.core.rejection import RejectionCode
from carechain.core.vocabulary import Category, Purpose
from carechain.node import feed, submissions
from carechain.node.refusals import NodeCode
from carechain.node.wire import plain
from carechain.sdk.answers import QueryAnswer, ShownBlock, ShownReceipt, Status, Submitted
from carechain.sdk.authentication import AuthCode, Service, sign_opening
from carechain.sdk.client import HasKeys
from served_node import JSON, MSGPACK, Served, encode, served
from world import Actor, anchor_of, grant_of, record_id, scope_of


def expect(answer: httpx.Response, status: int, code: RejectionCode) -> None:
    """The refusal has this status and this code, label and reason, in the form that was asked for."""
    as_json = answer.headers["content-type"] == "application/json"
    body = json.loads(answer.content) if as_json else msgspec.msgpack.decode(answer.content)
    assert (answer.status_code, body) == (status, {"code": int(code), "label": code.label, "reason": code.reason})


# --- status and submission ------------------------------------------------------------------------------


def test_status_needs_no_session_and_says_where_the_chain_stands(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as node:
            service = node.net.service
            answer = await node.http.get("/v1/status", headers=MSGPACK)
            status = msgspec.msgpack.decode(answer.content, type=Status)
            assert (status.height, status.app_hash, status.server) == (service.height, service.app_hash, service.server)
            assert (await node.http.get("/v1/status")).json()["app_hash"] == service.app_hash.hex()

    asyncio.run(main())


def test_one_transaction_in_each_form(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as node:
            net = node.net
            raws = [net.sign(anchor_of(net.steve, f"form {number}"), by=net.carl) for number in range(3)]
            for raw, media in zip(raws, ("application/octet-stream", "application/msgpack"), strict=False):
                answer = await node.http.post("/v1/transactions", content=raw, headers={"content-type": media})
                submitted = msgspec.msgpack.decode(answer.content, type=Submitted)
                assert (submitted.tx_id, submitted.receipt.code) == (parse(raw).id, 0)
                assert net.service.locate(submitted.tx_id) == (submitted.height, submitted.index)
            answer = await node.http.post("/v1/transactions", json={"tx": raws[2].hex()})
            assert answer.json()["receipt"]["events"][0]["type"] == "records.anchored"
            assert answer.json()["tx_id"] == parse(raws[2]).id.hex()

    asyncio.run(main())


def test_without_waiting_the_id_comes_at_once_and_the_receipt_later(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as node:
            net = node.net
            raw = net.sign(anchor_of(net.steve, "later"), by=net.carl)
            answer = await node.http.post("/v1/transactions?wait=0", content=raw, headers=MSGPACK)
            assert answer.status_code == 202
            tx_id = msgspec.msgpack.decode(answer.content)["tx_id"]
            async with net.service.subscribe(1) as blocks:
                async for block in blocks:
                    if tx_id in block.tx_ids:
                        break
            headers = {**MSGPACK, **await node.session(net.carl)}
            shown = await node.http.get(f"/v1/transactions/{tx_id.hex()}", headers=headers)
            assert msgspec.msgpack.decode(shown.content, type=ShownReceipt).receipt.tx_id == tx_id

    asyncio.run(main())


def test_a_batch_answers_each_in_order(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as node:
            net = node.net
            raws = [net.sign(anchor_of(net.steve, f"batch {number}"), by=net.carl) for number in range(5)]
            raws[3] = b"junk"
            answer = await node.http.post("/v1/transactions/batch", content=encode(raws), headers=MSGPACK)
            outcomes = msgspec.msgpack.decode(answer.content)
            assert [one.get("code") for one in outcomes] == [None, None, None, AdmissionCode.MALFORMED, None]
            again = await node.http.post("/v1/transactions/batch", json={"txs": [raw.hex() for raw in raws]})
            assert {one["code"] for one in again.json()} == {AdmissionCode.REPLAYED, AdmissionCode.MALFORMED}

    asyncio.run(main())


def test_submissions_that_are_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as node:
            net = node.net
            sent = net.sign(anchor_of(net.steve, "sent"), by=net.carl)
            await net.service.submit(sent)
            stranger = net.sign(anchor_of(net.steve, "s"), by=Actor("stranger"))
            forged = sent[:-1] + bytes([sent[-1] ^ 1])
            rows: list[tuple[str, bytes, dict[str, str], int, RejectionCode]] = [
                ("/v1/transactions", sent, MSGPACK, 409, AdmissionCode.REPLAYED),
                ("/v1/transactions", stranger, MSGPACK, 401, AdmissionCode.UNKNOWN_SIGNER),
                ("/v1/transactions", forged, MSGPACK, 409, AdmissionCode.REPLAYED),
                ("/v1/transactions", b"", MSGPACK, 400, AdmissionCode.MALFORMED),
                ("/v1/transactions", bytes(65537), MSGPACK, 413, NodeCode.BODY_TOO_LARGE),
                ("/v1/transactions", sent, {"content-type": "text/plain"}, 415, NodeCode.MEDIA_TYPE_UNKNOWN),
                ("/v1/transactions", b"[", JSON, 400, NodeCode.BODY_MALFORMED),
                ("/v1/transactions", b'{"tx": 7}', JSON, 400, NodeCode.BODY_MALFORMED),
                ("/v1/transactions", b'{"tx": "zz"}', JSON, 400, NodeCode.BODY_MALFORMED),
                ("/v1/transactions", b'{"tx": "00", "more": 1}', JSON, 400, NodeCode.BODY_MALFORMED),
                ("/v1/transactions?wait=7", sent, MSGPACK, 400, NodeCode.PARAMETER_MALFORMED),
                ("/v1/transactions/batch", encode([sent]), {"content-type": "a/b"}, 415, NodeCode.MEDIA_TYPE_UNKNOWN),
                ("/v1/session", b"\x80", {"content-type": "a/b"}, 415, NodeCode.MEDIA_TYPE_UNKNOWN),
                ("/v1/transactions/batch", b"\xc0", MSGPACK, 400, NodeCode.BODY_MALFORMED),
                ("/v1/transactions/batch", encode([1]), MSGPACK, 400, NodeCode.BODY_MALFORMED),
                ("/v1/transactions/batch", encode([]), MSGPACK, 413, NodeCode.TOO_MANY_TRANSACTIONS),
                ("/v1/transactions/batch", encode([b""] * 20_001), MSGPACK, 413, NodeCode.TOO_MANY_TRANSACTIONS),
                ("/v1/transactions/batch", bytes(HTTP_BODY_BYTES + 1), MSGPACK, 413, NodeCode.BODY_TOO_LARGE),
            ]
            for path, body, headers, status, code in rows:
                expect(await node.http.post(path, content=body, headers=headers), status, code)

    asyncio.run(main())


def test_a_full_queue_asks_for_patience(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with served(tmp_path) as node:
            monkeypatch.setattr(submissions, "SUBMIT_QUEUE_TXS", 0)
            raw = node.net.sign(anchor_of(node.net.steve, "x"), by=node.net.carl)
            for path, body in (("/v1/transactions", raw), ("/v1/transactions/batch", encode([raw]))):
                answer = await node.http.post(path, content=body, headers=MSGPACK)
                expect(answer, 429, NodeCode.OVERLOADED)
                assert int(answer.headers["retry-after"]) > 0

    asyncio.run(main())


def test_a_stopping_node_answers_questions_and_takes_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as node:
            net = node.net
            headers = {**MSGPACK, **await node.session(net.steve)}
            await net.service.finish()
            raw = net.sign(anchor_of(net.steve, "x"), by=net.carl)
            answer = await node.http.post("/v1/transactions", content=raw, headers=MSGPACK)
            expect(answer, 503, NodeCode.STOPPING)
            assert answer.headers["retry-after"]
            query = encode(TimelinePage(net.steve.id))
            assert (
                await node.http.post("/v1/query/records.timeline", content=query, headers=headers)
            ).status_code == 200

    asyncio.run(main())


# --- sessions -------------------------------------------------------------------------------------------


def test_every_path_that_needs_a_session_says_so(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as node:
            tx_id = bytes(32).hex()
            calls = [
                ("POST", "/v1/query/records.timeline"),
                ("POST", "/v1/query/no.such"),
                ("GET", f"/v1/transactions/{tx_id}"),
                ("GET", "/v1/blocks/1"),
                ("GET", "/v1/events"),
                ("DELETE", "/v1/session"),
            ]
            for method, path in calls:
                expect(await node.http.request(method, path), 401, AuthCode.SESSION_MISSING)
                headers = {"authorization": f"Bearer {bytes(32).hex()}"}
                expect(await node.http.request(method, path, headers=headers), 401, AuthCode.SESSION_UNKNOWN)

    asyncio.run(main())


def test_sessions_end(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as node:
            args = encode(TimelinePage(node.net.steve.id))
            path = "/v1/query/records.timeline"
            for ended in (False, True):
                headers = {**MSGPACK, **await node.session(node.net.steve)}
                assert (await node.http.post(path, content=args, headers=headers)).status_code == 200
                if ended:
                    assert (await node.http.delete("/v1/session", headers=headers)).status_code == 204
                else:
                    node.net.clock.wait(SESSION_LIFETIME_S)
                expect(await node.http.post(path, content=args, headers=headers), 401, AuthCode.SESSION_UNKNOWN)

    asyncio.run(main())


def test_openings_that_are_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as node:
            net = node.net
            good = {
                "chain_id": net.service.chain_id,
                "service": Service.NODE,
                "server": net.service.server,
                "party": net.carl.id,
                "time_s": int(net.clock()),
                "nonce": bytes(16),
            }

            async def opened(by: HasKeys = net.carl, **changed: Any) -> httpx.Response:
                opening = sign_opening(by.signing, **{**good, **changed})
                return await node.http.post("/v1/session", content=encode(opening), headers=MSGPACK)

            expect(await opened(chain_id="other"), 400, AuthCode.WRONG_CHAIN)
            expect(await opened(server=bytes(32)), 400, AuthCode.WRONG_SERVER)
            expect(await opened(service=Service.GATEKEEPER), 401, AuthCode.SIGNATURE_INVALID)
            expect(await opened(time_s=int(net.clock()) + CLOCK_SKEW_S + 1), 401, AuthCode.CLOCK_DIFFERS)
            expect(await opened(by=net.bert), 401, AuthCode.SIGNATURE_INVALID)
            expect(await opened(party=record_id("nobody")), 401, AuthCode.SIGNATURE_INVALID)
            assert (await opened()).status_code == 200
            expect(await opened(), 401, AuthCode.NONCE_USED)
            for number in range(1, 64):
                assert (await opened(nonce=number.to_bytes(16, "big"))).status_code == 200
            crowded = await opened(nonce=bytes(15) + b"\xff")
            expect(crowded, 429, AuthCode.TOO_MANY_SESSIONS)
            assert crowded.headers["retry-after"]
            for body, headers in ((b"", MSGPACK), (b"{", JSON), (b'{"chain_id": 1}', JSON), (b"[]", JSON)):
                answer = await node.http.post("/v1/session", content=body, headers=headers)
                assert answer.status_code == 400
            too_large = await node.http.post("/v1/session", content=bytes(OPENING_BODY_BYTES + 1), headers=MSGPACK)
            expect(too_large, 413, NodeCode.BODY_TOO_LARGE)

    asyncio.run(main())


def test_a_session_can_be_opened_in_json(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as node:
            net = node.net
            opening = sign_opening(
                net.steve.signing,
                chain_id=net.service.chain_id,
                service=Service.NODE,
                server=net.service.server,
                party=net.steve.id,
                time_s=int(net.clock()),
                nonce=bytes(16),
            )
            body = {
                field: value.hex() if isinstance(value, bytes) else value
                for field, value in msgspec.structs.asdict(opening).items()
            }
            answer = await node.http.post("/v1/session", json=body)
            headers = {"authorization": f"Bearer {answer.json()['token']}"}
            log = await node.http.post("/v1/query/access.log", json={"pseudonym": net.steve.id.hex()}, headers=headers)
            assert log.json()["rows"] == []

    asyncio.run(main())


# --- queries --------------------------------------------------------------------------------------------


def test_each_check_of_con_3_is_named(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as node:
            net = node.net
            about = TimelinePage(net.steve.id)
            assert (await node.ask(net.bert, "records.timeline", about)).status_code == 200
            expect(await node.ask(net.ivan, "records.timeline", about), 403, QueryCode.NOT_AUTHORISED)
            expect(await node.ask(net.mary, "records.timeline", about), 403, QueryCode.NOT_AUTHORISED)
            staff = StaffPage(net.a.id)
            expect(await node.ask(net.steve, "membership.staff", staff), 403, QueryCode.ROLE_MAY_NOT_ASK)
            expect(await node.ask(net.b, "membership.staff", staff), 403, QueryCode.NOT_AUTHORISED)
            session = await node.session(net.bert)
            await net.run(DismissStaff(party=net.bert.id), by=net.b)
            answer = await node.http.post(
                "/v1/query/records.timeline", content=encode(about), headers={**MSGPACK, **session}
            )
            expect(answer, 403, QueryCode.NOT_A_LIVE_MEMBER)

    asyncio.run(main())


def test_queries_that_are_malformed(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as node:
            net = node.net
            session = await node.session(net.steve)
            path = "/v1/query/records.timeline"
            rows: list[tuple[str, bytes, dict[str, str], int, RejectionCode]] = [
                ("/v1/query/", b"\x80", MSGPACK, 404, QueryCode.QUERY_UNKNOWN),
                ("/v1/query/no.such", b"\x80", MSGPACK, 404, QueryCode.QUERY_UNKNOWN),
                ("/v1/query/no.such", b"{}", JSON, 404, QueryCode.QUERY_UNKNOWN),
                (path, b"", MSGPACK, 400, QueryCode.ARGUMENTS_MALFORMED),
                (path, b"\x80", MSGPACK, 400, QueryCode.ARGUMENTS_MALFORMED),
                (path, encode({"pseudonym": b"short"}), MSGPACK, 400, QueryCode.ARGUMENTS_MALFORMED),
                (path, encode({"pseudonym": bytes(32), "x": 1}), MSGPACK, 400, QueryCode.ARGUMENTS_MALFORMED),
                (path, b"{", JSON, 400, NodeCode.BODY_MALFORMED),
                (path, b'{"pseudonym": "zz"}', JSON, 400, QueryCode.ARGUMENTS_MALFORMED),
                (path, b'{"pseudonym": 1}', JSON, 400, QueryCode.ARGUMENTS_MALFORMED),
                (path, b"[]", JSON, 400, QueryCode.ARGUMENTS_MALFORMED),
                (path, b"[" * 60_000, JSON, 400, NodeCode.BODY_MALFORMED),
                (path, bytes(QUERY_BODY_BYTES + 1), MSGPACK, 413, NodeCode.BODY_TOO_LARGE),
                (path, b"\x80", {"content-type": "text/html"}, 415, NodeCode.MEDIA_TYPE_UNKNOWN),
                (path + "?prove=yes", encode(OfPseudonym(net.steve.id)), MSGPACK, 400, NodeCode.PARAMETER_MALFORMED),
            ]
            for place, body, headers, status, code in rows:
                answer = await node.http.post(place, content=body, headers={**headers, **session})
                expect(answer, status, code)

    asyncio.run(main())


def test_json_and_msgpack_give_the_same_answer(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as node:
            net = node.net
            session = await node.session(net.bert)
            scope = scope_of(Category.RESULT)
            args = MayRead(pseudonym=net.steve.id, requester=net.bert.id, scope=scope, purpose=Purpose.TREAT)
            packed = await node.http.post(
                "/v1/query/access.may_read", content=encode(args), headers={**MSGPACK, **session}
            )
            answer = msgspec.msgpack.decode(packed.content, type=QueryAnswer)
            for scope_as in (
                {"categories": scope.categories, "ceiling": int(scope.ceiling)},
                [scope.categories, int(scope.ceiling), 0, scope.last_day, []],
            ):
                body = {
                    "pseudonym": net.steve.id.hex(),
                    "requester": net.bert.id.hex(),
                    "scope": scope_as,
                    "purpose": 0,
                }
                shown = (await node.http.post("/v1/query/access.may_read", json=body, headers=session)).json()
                assert shown["rows"][0]["decision"] == answer.rows[0]["decision"] == 0
                assert shown["height"] == answer.height

    asyncio.run(main())


def test_proofs_come_on_request_with_the_header_of_the_same_height(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as node:
            plain = await node.ask(node.net.steve, "records.timeline", TimelinePage(node.net.steve.id))
            assert "proofs" not in msgspec.msgpack.decode(plain.content)
            proven = await node.ask(node.net.steve, "records.timeline", TimelinePage(node.net.steve.id), "?prove=1")
            answer = msgspec.msgpack.decode(proven.content, type=QueryAnswer)
            # For each record its anchor, and that nobody ordered it to be erased.
            assert len(answer.rows) == 3
            assert len(answer.proofs) == 6
            assert answer.sealed

    asyncio.run(main())


# --- receipts, blocks, paths ----------------------------------------------------------------------------


def test_a_receipt_is_whole_for_its_signer_and_partial_for_those_it_concerns(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as node:
            net = node.net
            both = net.sign(grant_of(net.steve, net.bert), grant_of(net.steve, net.ivan), by=net.steve)
            tx_id = (await net.service.submit(both)).tx_id

            async def shown_to(who: HasKeys) -> ShownReceipt | None:
                headers = {**MSGPACK, **await node.session(who)}
                answer = await node.http.get(f"/v1/transactions/{tx_id.hex()}", headers=headers)
                if answer.status_code == 404:
                    expect(answer, 404, NodeCode.TX_UNKNOWN)
                    return None
                return msgspec.msgpack.decode(answer.content, type=ShownReceipt)

            for whole in (await shown_to(net.steve), await shown_to(net.gita)):
                assert whole is not None
                assert whole.inclusion is not None
                assert len(whole.receipt.events) == 2
            part = await shown_to(net.bert)
            assert part is not None
            assert (part.inclusion, len(part.receipt.events), part.receipt.signer) == (None, 1, b"")
            assert net.ivan.id not in encode(part)
            assert await shown_to(net.carl) is None
            assert await shown_to(net.mary) is None

    asyncio.run(main())


def test_receipts_and_blocks_that_are_not_there(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as node:
            session = await node.session(node.net.a)
            height = node.net.service.height
            rows: list[tuple[str, int, RejectionCode]] = [
                (f"/v1/transactions/{bytes(32).hex()}", 404, NodeCode.TX_UNKNOWN),
                ("/v1/transactions/abc", 400, NodeCode.PARAMETER_MALFORMED),
                ("/v1/transactions/00ff", 400, NodeCode.PARAMETER_MALFORMED),
                ("/v1/blocks/0", 404, NodeCode.BLOCK_UNKNOWN),
                (f"/v1/blocks/{height + 100}", 404, NodeCode.BLOCK_UNKNOWN),
                ("/v1/blocks/-1", 400, NodeCode.PARAMETER_MALFORMED),
                ("/v1/blocks/9999999999999999999", 400, NodeCode.PARAMETER_MALFORMED),
                ("/v1/blocks/%C2%B2", 400, NodeCode.PARAMETER_MALFORMED),
                ("/v1/events?from=x", 400, NodeCode.PARAMETER_MALFORMED),
                ("/v2/status", 404, NodeCode.PATH_UNKNOWN),
                ("/v1/status/", 404, NodeCode.PATH_UNKNOWN),
                ("/v1/blocks/1/", 404, NodeCode.PATH_UNKNOWN),
                ("/", 404, NodeCode.PATH_UNKNOWN),
                ("/v1/transactions", 405, NodeCode.METHOD_NOT_ALLOWED),
                ("/v1/query/records.timeline", 405, NodeCode.METHOD_NOT_ALLOWED),
                ("/v1/session", 405, NodeCode.METHOD_NOT_ALLOWED),
            ]
            for path, status, code in rows:
                expect(await node.http.get(path, headers=session), status, code)

    asyncio.run(main())


def test_what_is_kept_is_the_same_in_json(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as node:
            net = node.net
            raws = [net.sign(anchor_of(net.steve, f"json {number}"), by=net.carl) for number in range(2)]
            answer = await node.http.post("/v1/transactions/batch", json={"txs": [raw.hex() for raw in raws]})
            first, second = answer.json()
            assert [first["tx_id"], second["tx_id"]] == [parse(raw).id.hex() for raw in raws]
            for path, who, kind in (
                (f"/v1/transactions/{first['tx_id']}", net.carl, ShownReceipt),
                (f"/v1/blocks/{first['height']}", net.a, ShownBlock),
            ):
                session = await node.session(who)
                packed = await node.http.get(path, headers={**session, "accept": "application/msgpack"})
                shown = await node.http.get(path, headers=session)
                assert packed.headers["content-type"] == "application/msgpack"
                assert shown.json() == plain(msgspec.msgpack.decode(packed.content, type=kind))

    asyncio.run(main())


def test_blocks_are_for_members_administrators_and_regulators(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as node:
            net = node.net
            for who in (net.a, net.b, net.anna, net.gita):
                headers = {**MSGPACK, **await node.session(who)}
                answer = await node.http.get("/v1/blocks/2", headers=headers)
                block = msgspec.msgpack.decode(answer.content, type=ShownBlock)
                assert block.txs == net.service.block(2).txs
            for who in (net.carl, net.ivan, net.steve):
                answer = await node.http.get("/v1/blocks/2", headers=await node.session(who))
                expect(answer, 403, QueryCode.ROLE_MAY_NOT_ASK)

    asyncio.run(main())


# --- events ---------------------------------------------------------------------------------------------


async def follow(node: Served, who: HasKeys, until: int, parameters: str = "?from=1") -> list[dict[str, Any]]:
    """The events an asker is shown up to block ``until``."""
    found: list[dict[str, Any]] = []
    headers = await node.session(who)
    async with node.http.stream("GET", f"/v1/events{parameters}", headers=headers, timeout=20) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                data = json.loads(line[6:])
                found += data.get("events", [])
                if data.get("height", data.get("from", 0)) >= until:
                    break
    return found


def test_each_asker_is_streamed_what_concerns_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as node:
            net = node.net
            ask = RequestAccess(pseudonym=net.steve.id, scope=scope_of(Category.RESULT), purpose=Purpose.TREAT)
            await net.run(ask, by=net.bert)
            until = (await net.service.submit(net.sign(anchor_of(net.mary, "mary's"), by=net.carl))).height
            await net.service.finish()
            seen = {name: await follow(node, getattr(net, name), until) for name in ("steve", "mary", "bert", "gita")}
            kinds = {name: [one["type"] for one in events] for name, events in seen.items()}
            assert kinds["steve"].count("records.anchored") == 3
            assert kinds["steve"].count("access.decided") == 1
            assert kinds["bert"].count("access.decided") == 1
            assert kinds["bert"].count("consent.granted") == 1
            assert "records.anchored" not in kinds["bert"]
            assert kinds["mary"] == ["relationships.bound", "consent.granted", "records.anchored"]
            assert len(kinds["gita"]) > len(kinds["steve"]) + len(kinds["mary"])
            text = json.dumps(seen["mary"])
            assert net.steve.id.hex() not in text
            later = await follow(node, net.steve, until, f"?from={until}")
            assert [one["type"] for one in later] == []

    asyncio.run(main())


def test_a_stream_ends_when_the_node_stops_or_the_right_ends(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as node:
            net = node.net
            headers = await node.session(net.bert)
            async with node.http.stream("GET", "/v1/events", headers=headers) as answer:
                lines = answer.aiter_lines()
                assert await anext(lines) == ": follows"
                await net.run(DismissStaff(party=net.bert.id), by=net.b)
                ended = [line async for line in lines if line.startswith("data: ")]
            assert json.loads(ended[-1][6:])["code"] == QueryCode.NOT_A_LIVE_MEMBER
            async with node.http.stream("GET", "/v1/events", headers=await node.session(net.steve)) as answer:
                lines = answer.aiter_lines()
                assert await anext(lines) == ": follows"
                await net.service.finish()
                last = [line async for line in lines if line.startswith("data: ")][-1]
            assert json.loads(last[6:]) == {
                "code": int(NodeCode.STOPPING),
                "label": NodeCode.STOPPING.label,
                "reason": NodeCode.STOPPING.reason,
                "from": net.service.height + 1,
            }

    asyncio.run(main())


def test_streams_are_bounded_and_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opens a stream and is gone before its first byte must not keep its place."""
    monkeypatch.setattr(feed, "EVENT_STREAM_SUBSCRIBERS", 1)

    async def main() -> None:
        async with served(tmp_path) as node:
            headers = await node.session(node.net.steve)
            async with node.http.stream("GET", "/v1/events", headers=headers) as answer:
                assert answer.status_code == 200
                full = await node.http.get("/v1/events", headers=headers)
                expect(full, 503, NodeCode.TOO_MANY_STREAMS)
                assert full.headers["retry-after"]
            await nobody_follows(node)

            async def gone() -> dict[str, str]:
                return {"type": "http.disconnect"}

            async def lost(_: object) -> None:
                raise OSError

            scope = {
                "type": "http",
                "asgi": {"version": "3.0"},
                "method": "GET",
                "path": "/v1/events",
                "query_string": b"",
                "headers": [(b"authorization", headers["authorization"].encode())],
            }
            with contextlib.suppress(OSError, ClientDisconnect):
                await node.api({**scope, "asgi": {"version": "3.0", "spec_version": "2.4"}}, gone, lost)
            await node.api(scope, gone, nothing)
            await nobody_follows(node)

    asyncio.run(main())


async def nothing(_: object) -> None:
    """Send into the void."""


async def nobody_follows(node: Served) -> None:
    """Wait until the server has noticed that its readers are gone; blocks go on meanwhile."""
    async with asyncio.timeout(20):
        while "carechain_event_streams 0.0" not in node.net.service.metrics.exposition().decode():
            await node.http.get("/v1/status")


def test_a_stream_resumes_after_the_last_event_id(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as node:
            net = node.net
            last = (await net.service.submit(net.sign(anchor_of(net.steve, "resumed"), by=net.carl))).height
            await net.service.finish()
            headers = {**await node.session(net.steve), "last-event-id": str(last - 1)}
            async with node.http.stream("GET", "/v1/events", headers=headers) as answer:
                data = [json.loads(line[6:]) async for line in answer.aiter_lines() if line.startswith("data: ")]
            assert [len(one.get("events", [])) for one in data] == [1, 0]
            assert data[0]["height"] == last

    asyncio.run(main())


# --- fuzz -----------------------------------------------------------------------------------------------

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=8) | st.just("00" * 32),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["pseudonym", "scope", "x"]), inner),
    max_leaves=6,
)
BODIES = st.binary(max_size=80) | JSON_VALUES.map(lambda value: json.dumps(value).encode())
PATHS = (
    "/v1/transactions",
    "/v1/transactions/batch",
    "/v1/session",
    "/v1/query/records.timeline",
    "/v1/query/access.may_read",
    "/v1/query/consent.granted_to",
)


def test_no_body_brings_the_server_down(tmp_path: Path) -> None:
    runner = asyncio.Runner()
    context = served(tmp_path)
    node = runner.run(context.__aenter__())
    session = runner.run(node.session(node.net.steve))

    @settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow])
    @given(st.sampled_from(PATHS), BODIES, st.sampled_from([MSGPACK, JSON, {"content-type": "x/y"}]))
    def each(path: str, body: bytes, headers: dict[str, str]) -> None:
        answer = runner.run(node.http.post(path, content=body, headers={**headers, **session}))
        assert answer.status_code < 500
        assert answer.status_code != 200 or path.startswith("/v1/query") or path.endswith("batch")

    try:
        each()
        assert runner.run(node.http.get("/v1/status")).status_code == 200
    finally:
        runner.run(context.__aexit__(None, None, None))
        runner.close()
