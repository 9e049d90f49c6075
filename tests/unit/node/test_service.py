"""Goal: what a node acknowledges is durable, what it refuses has the right reason, and it never takes too much.

Method: a real service on a folder of the test's own. Time is a stopped clock; nothing waits for wall time except where
a heartbeat is due, and then the policy makes it due at once.
"""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from carechain.chain.queries import OfTicket, QueryCode, TimelinePage, ask
from carechain.chain.tx import AdmissionCode
from carechain.contracts.records import RecordsCode
from carechain.core.crypto import SigningKey, Suite
from carechain.core.limits import SUBMIT_QUEUE_TXS, TX_LIFETIME_S
from carechain.core.rejection import Rejected, RejectionCode
from carechain.engine.embedded import BatchPolicy
from carechain.engine.session import Checkpoints, IllegalOrder
from carechain.node import submissions
from carechain.node.refusals import NodeCode, Overloaded
from carechain.node.service import NodeFailed, NodeService, Submitted
from node_network import founders, genesis_of, running, stopped_clock
from world import START_S, Actor, anchor_of, record_id


def test_a_transaction_is_durable_when_it_is_acknowledged(tmp_path: Path) -> None:
    async def before() -> tuple[Submitted, bytes]:
        async with running(tmp_path) as net:
            submitted = await net.service.submit(net.sign(anchor_of(net.steve, "new"), by=net.carl))
            assert net.service.height == submitted.height
            assert net.service.block(submitted.height).txs[submitted.index]
            return submitted, net.service.app_hash

    async def after(submitted: Submitted) -> bytes:
        async with running(tmp_path, populate=False) as net:
            assert net.service.locate(submitted.tx_id) == (submitted.height, submitted.index)
            return net.service.app_hash

    submitted, app_hash = asyncio.run(before())
    assert submitted.receipt.code == 0
    assert asyncio.run(after(submitted)) == app_hash


@pytest.mark.parametrize("in_worker", [False, True])
def test_many_keep_their_order_and_each_has_its_own_outcome(tmp_path: Path, *, in_worker: bool) -> None:
    async def main() -> None:
        async with running(tmp_path, verify_in_worker=in_worker) as net:
            good = [net.sign(anchor_of(net.steve, f"n{number}"), by=net.carl) for number in range(40)]
            stranger = Actor("stranger")
            forged = net.sign(
                anchor_of(net.steve, "forged"), by=net.carl, key=SigningKey(suite=Suite.ED25519, seed=bytes(32))
            )
            raws = [*good[:20], b"junk", forged, net.sign(anchor_of(net.steve, "s"), by=stranger), *good[20:]]
            outcomes = await net.service.submit_many(raws)
            assert [code_of(one) for one in outcomes[20:23]] == [
                AdmissionCode.MALFORMED,
                AdmissionCode.BAD_SIGNATURE,
                AdmissionCode.UNKNOWN_SIGNER,
            ]
            kept = [one for one in outcomes if isinstance(one, Submitted)]
            assert [one.receipt.code for one in kept] == [0] * 40
            assert [(one.height, one.index) for one in kept] == sorted((one.height, one.index) for one in kept)

    asyncio.run(main())


def test_a_rejected_transaction_leaves_a_receipt(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as net:
            submitted = await net.service.submit(net.sign(anchor_of(net.steve, "r1"), by=net.carl))
            assert submitted.receipt.code == RecordsCode.VERSION_NOT_NEXT
            assert net.service.locate(submitted.tx_id) == (submitted.height, submitted.index)

    asyncio.run(main())


def test_what_fails_admission_leaves_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as net:
            now_s = net.service.time_s
            sent = net.sign(anchor_of(net.steve, "once"), by=net.carl)
            await net.service.submit(sent)
            height = net.service.height
            rows: list[tuple[bytes, RejectionCode]] = [
                (b"", AdmissionCode.MALFORMED),
                (bytes(70_000), AdmissionCode.TOO_LARGE),
                (sent, AdmissionCode.REPLAYED),
                (net.sign(anchor_of(net.steve, "x"), by=net.carl, valid_until_s=now_s), AdmissionCode.EXPIRED),
                (
                    net.sign(anchor_of(net.steve, "y"), by=net.carl, valid_until_s=now_s + TX_LIFETIME_S + 1),
                    AdmissionCode.VALID_TOO_LONG,
                ),
                (
                    net.sign(anchor_of(net.steve, "z"), anchor_of(net.mary, "z"), by=net.carl),
                    AdmissionCode.SEVERAL_PSEUDONYMS,
                ),
            ]
            for raw, code in rows:
                with pytest.raises(Rejected) as refused:
                    await net.service.submit(raw)
                assert refused.value.code is code
            assert net.service.height == height
            assert b'code="ADMISSION.REPLAYED"} 1.0' in net.service.metrics.exposition()

    asyncio.run(main())


def test_the_same_bytes_share_one_outcome(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as net:
            raw = net.sign(anchor_of(net.steve, "twin"), by=net.carl)
            first, second, (third, fourth) = await asyncio.gather(
                net.service.submit(raw), net.service.submit(raw), net.service.submit_many([raw, raw])
            )
            assert first == second == third == fourth

    asyncio.run(main())


def test_an_invalid_twin_does_not_spoil_the_genuine_one(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as net:
            raw = net.sign(anchor_of(net.steve, "mine"), by=net.carl)
            spoiled = raw[:-1] + bytes([raw[-1] ^ 1])
            bad, good = await net.service.submit_many([spoiled, raw])
            assert code_of(bad) is AdmissionCode.BAD_SIGNATURE
            assert isinstance(good, Submitted)

    asyncio.run(main())


def test_a_full_queue_takes_nothing_of_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submissions, "SUBMIT_QUEUE_TXS", 10)

    async def main() -> None:
        async with running(tmp_path) as net:
            net.service._policy = BatchPolicy(timeout_s=3600, txs=7)
            raws = [net.sign(anchor_of(net.steve, f"q{number}"), by=net.carl) for number in range(11)]
            waiting = net.service.enqueue(raws[:4])
            with pytest.raises(Overloaded) as refused:
                await net.service.submit_many(raws[4:])
            assert refused.value.code is NodeCode.OVERLOADED
            assert refused.value.retry_after_s > 0
            outcomes = await net.service.submit_many(raws[4:7])
            await waiting.done
            assert all(isinstance(one, Submitted) for one in [*waiting.outcomes, *outcomes])

    asyncio.run(main())


def test_bytes_are_bounded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with running(tmp_path) as net:
            raw = net.sign(anchor_of(net.steve, "wide", locator=bytes(500)), by=net.carl)
            monkeypatch.setattr(submissions, "SUBMIT_QUEUE_BYTES", len(raw) - 1)
            with pytest.raises(Overloaded):
                await net.service.submit(raw)

    asyncio.run(main())


def test_more_than_may_ever_wait_is_refused_for_good(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, populate=False) as net:
            with pytest.raises(Rejected) as refused:
                await net.service.submit_many([b""] * (SUBMIT_QUEUE_TXS + 1))
            assert refused.value.code is NodeCode.TOO_MANY_TRANSACTIONS

    asyncio.run(main())


def test_a_transaction_that_expires_while_it_waits_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, policy=BatchPolicy(timeout_s=0.0, txs=10)) as net:
            raw = net.sign(anchor_of(net.steve, "late"), by=net.carl, valid_until_s=net.service.time_s + 5)
            group = net.service.enqueue([raw])
            asyncio.get_running_loop().call_soon(setattr, net.clock, "now_s", net.clock.now_s + 60)
            await group.done
            assert code_of(group.outcomes[0]) is AdmissionCode.EXPIRED
            assert net.service.locate(b"\0" * 32) is None

    asyncio.run(main())


def test_a_quiet_chain_beats(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, policy=BatchPolicy(heartbeat_s=0.001), populate=False) as net:
            app_hash = net.service.app_hash
            async with net.service.subscribe() as blocks:
                net.clock.now_s += 7
                async for block in blocks:
                    if block.time_s == START_S + 7:
                        break
            assert block.txs == ()
            assert net.service.app_hash == app_hash

    asyncio.run(main())


def test_a_quiet_node_writes_its_tree(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as net:
            assert net.service._session._store.height == 0
            net.service._policy = BatchPolicy(heartbeat_s=0.001)
            quiet = net.service.height + 2
            async with net.service.subscribe() as blocks:
                async for block in blocks:
                    if block.height == quiet:
                        break
            assert net.service._session._store.height >= quiet - 1
            asker = net.service.asker(net.steve.id)
            assert asker is not None
            assert len(ask(net.service.view(), asker, "records.timeline", TimelinePage(net.steve.id)).rows) == 3

    asyncio.run(main())


def test_block_time_never_goes_back(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as net:
            before_s = net.service.time_s
            net.clock.now_s -= 1000
            await net.run(anchor_of(net.steve, "past"), by=net.carl)
            assert net.service.time_s == before_s

    asyncio.run(main())


def test_draining_finishes_what_was_taken_and_takes_nothing_new(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, policy=BatchPolicy(timeout_s=0.0)) as net:
            net.service._policy = BatchPolicy(timeout_s=3600)  # Everything waits from here on.
            group = net.service.enqueue([net.sign(anchor_of(net.steve, "last"), by=net.carl)])
            drained = asyncio.ensure_future(net.service.drain())
            await group.done
            assert isinstance(group.outcomes[0], Submitted)
            await drained
            assert not net.service.is_live
            with pytest.raises(Overloaded) as refused:
                await net.service.submit(net.sign(anchor_of(net.steve, "no"), by=net.carl))
            assert refused.value.code is NodeCode.STOPPING
            await net.service.stopped()

    asyncio.run(main())


def test_a_failing_disk_stops_the_node_and_tells_everyone_who_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with running(tmp_path) as net:
            raw = net.sign(anchor_of(net.steve, "lost"), by=net.carl)

            def full(**_: object) -> None:
                raise OSError(28, "No space left on device")

            monkeypatch.setattr(type(net.service._engine), "produce", full)
            with pytest.raises(NodeFailed):
                await net.service.submit(raw)
            with pytest.raises(NodeFailed):
                await net.service.stopped()
            with pytest.raises(NodeFailed):
                await net.service.submit(raw)
            assert not net.service.is_live

    asyncio.run(main())


def test_a_dead_verifier_is_noticed_and_nothing_unverified_passes(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, verify_in_worker=True) as net:
            verifier = net.service._verifier
            assert verifier is not None
            os.kill(verifier._process.pid, signal.SIGKILL)
            raws = [net.sign(anchor_of(net.steve, f"d{number}"), by=net.carl) for number in range(20)]
            raws[7] = raws[7][:-1] + bytes([raws[7][-1] ^ 1])
            for _ in range(2):
                outcomes = await net.service.submit_many(raws)
                assert code_of(outcomes[7]) is AdmissionCode.BAD_SIGNATURE
            assert verifier.inline_checks > 0
            assert b"carechain_verify_fallback_checks" in net.service.metrics.exposition()

    asyncio.run(main())


def test_a_key_that_may_not_make_blocks_cannot_start(tmp_path: Path) -> None:
    async def main() -> None:
        members = founders()
        service = NodeService.open(
            tmp_path, genesis_of(members), members["b"].signing, verify_in_worker=False, clock=stopped_clock()
        )
        with pytest.raises(IllegalOrder):
            await service.start()
        await service.drain()

    asyncio.run(main())


def test_a_view_stands_still_and_is_shared_until_the_next_block(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, checkpoints=Checkpoints(blocks=2, txs=2)) as net:
            view = net.service.view()
            assert net.service.view() is view
            asker = net.service.asker(net.steve.id)
            assert asker is not None
            assert net.service.asker(record_id("nobody")) is None
            await net.run(anchor_of(net.steve, "later"), by=net.carl)
            assert len(ask(view, asker, "records.timeline", TimelinePage(net.steve.id)).rows) == 3
            fresh = net.service.view()
            assert fresh is not view
            assert len(ask(fresh, asker, "records.timeline", TimelinePage(net.steve.id)).rows) == 4
            with pytest.raises(Rejected) as refused:
                ask(fresh, asker, "access.ticket", OfTicket(record_id("none")))
            assert refused.value.code is QueryCode.NOT_AUTHORISED

    asyncio.run(main())


def code_of(outcome: object) -> RejectionCode:
    assert isinstance(outcome, Rejected)
    return outcome.code
