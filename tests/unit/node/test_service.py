"""Goal: what a node acknowledges is durable, what it refuses has the right reason, and it never takes too much.

Method: a real service on a folder of the test's own. Time is a stopped clock; nothing waits for wall time except where
a heartbeat is due, and then the policy makes it due at once.
"""

import asyncio
import io
import json
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from carechain.chain.queries import QueryCode, ask
from carechain.chain.questions import OfTicket, TimelinePage
from carechain.chain.transition import Block
from carechain.chain.tx import AdmissionCode, Tx, parse
from carechain.contracts.records import RecordsCode
from carechain.core.crypto import SigningKey, Suite
from carechain.core.limits import SUBMIT_QUEUE_TXS, TX_LIFETIME_S
from carechain.core.rejection import Rejected, RejectionCode
from carechain.engine import admission as admission_module
from carechain.engine import session as session_module
from carechain.engine import verifier as verifier_module
from carechain.engine.embedded import BatchPolicy
from carechain.engine.session import Checkpoints, Finalized, IllegalOrder
from carechain.engine.verifier import VerifierProcess
from carechain.node import service as service_module
from carechain.node import submissions
from carechain.node import worker as worker_module
from carechain.node.clock import ClockAhead
from carechain.node.logs import configure_logs
from carechain.node.refusals import NodeCode, Overloaded
from carechain.node.service import NodeFailed, NodeService, Outcome, Submitted
from carechain.state.log import StoreDamaged
from node_network import Network, Said, StoppedClock, founders, genesis_of, running, stopped_clock
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
            asyncio.get_running_loop().call_soon(net.clock.wait, 60)
            await group.done
            assert code_of(group.outcomes[0]) is AdmissionCode.EXPIRED
            assert net.service.locate(b"\0" * 32) is None

    asyncio.run(main())


def test_a_quiet_chain_beats(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, policy=BatchPolicy(heartbeat_s=0.001), populate=False) as net:
            app_hash = net.service.app_hash
            async with net.service.subscribe() as blocks:
                net.clock.wait(7)
                async for block in blocks:
                    if block.time_s == START_S + 7:
                        break
            assert block.txs == ()
            assert net.service.app_hash == app_hash

    asyncio.run(main())


async def beats(net: Network, count: int) -> None:
    """Wait for ``count`` blocks more."""
    last = net.service.height + count
    async with net.service.subscribe() as blocks:
        async for block in blocks:
            if block.height == last:
                return


def test_a_quiet_node_writes_its_tree_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with running(tmp_path) as net:
            store = net.service._session._store
            net.service._policy = BatchPolicy(heartbeat_s=0.001)
            await beats(net, 5)
            # It is not quiet for long yet.
            assert store.height == 0
            monkeypatch.setattr(service_module, "QUIET_S", 0.0)
            await beats(net, 2)
            written = store.height
            assert written > 0
            await beats(net, 5)
            # Heartbeats alone leave nothing to write.
            assert store.height == written
            asker = net.service.asker(net.steve.id)
            assert asker is not None
            assert len(ask(net.service.view(), asker, "records.timeline", TimelinePage(net.steve.id)).rows) == 3
            await net.run(anchor_of(net.steve, "more"), by=net.carl)
            await beats(net, 2)
            assert store.height > written

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


def test_a_full_disk_stops_the_node_and_tells_everyone_who_waits(tmp_path: Path) -> None:
    async def main() -> bytes:
        async with running(tmp_path) as net:
            raw = net.sign(anchor_of(net.steve, "lost"), by=net.carl)
            before = resource.getrlimit(resource.RLIMIT_FSIZE)
            # The system itself refuses to let the block log grow by a whole block.
            resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "ledger/blocks.log").stat().st_size + 9, before[1]))
            try:
                with pytest.raises(NodeFailed) as failed:
                    await net.service.submit(raw)
                assert isinstance(failed.value.__cause__, OSError)
                with pytest.raises(NodeFailed):
                    await net.service.stopped()
                with pytest.raises(NodeFailed):
                    await net.service.submit(raw)
                assert not net.service.is_live
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)
            return raw

    async def after(raw: bytes) -> None:
        async with running(tmp_path, populate=False) as net:
            assert isinstance(await net.service.submit(raw), Submitted)

    asyncio.run(after(asyncio.run(main())))


@pytest.mark.parametrize("step", ["check", "ledger"])
def test_a_failure_while_admitting_stops_the_node_and_leaves_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """One by one in this process (``check``) and many in the worker (``ledger``)."""

    async def main() -> None:
        async with running(tmp_path, verify_in_worker=True) as net:

            def damaged(*_: object, **__: object) -> None:
                raise StoreDamaged("a node is not what its parent says")

            monkeypatch.setattr(net.service._session, step, damaged)
            raws = [net.sign(anchor_of(net.steve, f"n{number}"), by=net.carl) for number in range(1 + 9 * len(step))]
            with pytest.raises(NodeFailed):
                await (net.service.submit(raws[0]) if step == "check" else net.service.submit_many(raws))
            assert not net.service.is_live
            with pytest.raises(NodeFailed) as failed:
                await net.service.stopped()
            assert isinstance(failed.value.__cause__, StoreDamaged)
            await net.service.drain()

    asyncio.run(main())
    asyncio.run(starts_again(tmp_path))


def test_a_failure_over_verdicts_stops_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with running(tmp_path, verify_in_worker=True) as net:

            def broken() -> None:
                raise KeyError("a verdict that nobody asked for")

            monkeypatch.setattr(net.service._worker, "collect", broken)
            with pytest.raises(NodeFailed):
                await net.service.submit_many([net.sign(anchor_of(net.steve, f"n{n}"), by=net.carl) for n in range(9)])
            with pytest.raises(NodeFailed):
                await net.service.stopped()

    asyncio.run(main())


async def starts_again(home: Path) -> None:
    async with running(home, populate=False) as net:
        assert net.service.is_live


# --- the worker -----------------------------------------------------------------------------------------


async def some_of(net: Network, names: str) -> list[Outcome]:
    """Send twenty of which the eighth is forged; returns the outcomes."""
    raws = [net.sign(anchor_of(net.steve, f"{names}{number}"), by=net.carl) for number in range(20)]
    raws[7] = raws[7][:-1] + bytes([raws[7][-1] ^ 1])
    outcomes = await net.service.submit_many(raws)
    assert [code_of(one) for one in outcomes if isinstance(one, Rejected)] == [AdmissionCode.BAD_SIGNATURE]
    assert isinstance(outcomes[7], Rejected)
    return outcomes


def kill(verifier: VerifierProcess) -> None:
    """Kill the process; on return it is dead, and nobody has noticed yet."""
    os.kill(verifier._process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, verifier._process.pid, os.WEXITED | os.WNOWAIT)


@pytest.mark.parametrize("noticed_by", ["the loop", "handing over"])
def test_a_dead_verifier_is_noticed_and_nothing_unverified_passes(tmp_path: Path, noticed_by: str) -> None:
    async def main() -> None:
        async with running(tmp_path, verify_in_worker=True) as net:
            worker = net.service._worker
            verifier = worker.verifier
            assert verifier is not None
            handle = verifier.fileno()
            kill(verifier)
            if noticed_by == "the loop":
                await beats_until(net, lambda: not verifier.alive)
            for name in "de":
                await some_of(net, name)
            assert verifier.inline_checks > 0
            # A descriptor at its end that is still watched would keep the loop turning.
            assert not asyncio.get_running_loop().remove_reader(handle)
            assert worker.verifier is verifier
            exposed = net.service.metrics.exposition().decode()
            assert f"carechain_verify_fallback_checks {float(verifier.inline_checks)}" in exposed

    asyncio.run(main())


async def beats_until(net: Network, reached: Callable[[], bool]) -> None:
    net.service._policy = BatchPolicy(timeout_s=0.0, heartbeat_s=0.001)
    while not reached():
        await beats(net, 1)


def test_a_lost_verifier_is_started_again_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with running(tmp_path, verify_in_worker=True) as net:
            worker = net.service._worker
            lost = worker.verifier
            assert lost is not None
            kill(lost)
            await some_of(net, "d")
            missed = worker.fallback_checks
            assert missed > 0
            monkeypatch.setattr(worker_module, "START_AGAIN_S", 0.0)

            def refused(**_: object) -> None:
                raise OSError(11, "Resource temporarily unavailable")

            with monkeypatch.context() as poor:
                poor.setattr(VerifierProcess, "start", refused)
                await beats_until(net, lambda: True)
                worker.tend()
                await some_of(net, "e")
            missed = worker.fallback_checks
            await beats_until(net, lambda: worker._watched is not None)
            assert worker.verifier is not lost
            await some_of(net, "f")
            assert worker.fallback_checks == missed

    asyncio.run(main())


def test_a_verifier_that_is_stuck_holds_up_neither_clients_nor_the_drain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with running(tmp_path, verify_in_worker=True) as net:
            monkeypatch.setattr(verifier_module, "VERIFIER_PATIENCE_S", 0.02)
            verifier = net.service._worker.verifier
            assert verifier is not None
            os.kill(verifier._process.pid, signal.SIGSTOP)
            waiting = asyncio.ensure_future(some_of(net, "s"))
            await asyncio.sleep(0)
            await net.service.finish()
            await waiting
            assert not verifier.alive
            assert net.service._worker.fallback_checks == 20

    asyncio.run(main())


# --- errors in the program ------------------------------------------------------------------------------


def fails_over(net: Network, poison: set[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Executing a block with one of ``poison`` in it is an error in the program."""
    genuine = net.service._session.finalize

    def finalize(block: Block) -> Finalized:
        if poison & set(block.txs):
            raise KeyError("an error in the program")
        return genuine(block)

    monkeypatch.setattr(net.service._session, "finalize", finalize)


@pytest.mark.parametrize("places", [[0], [11], [29], [3, 4, 20], list(range(30))])
def test_a_transaction_that_cannot_be_executed_is_left_out_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, places: list[int]
) -> None:
    said = io.StringIO()

    async def main() -> None:
        async with running(tmp_path) as net:
            raws = [net.sign(anchor_of(net.steve, f"n{number}"), by=net.carl) for number in range(30)]
            fails_over(net, {raws[place] for place in places}, monkeypatch)
            configure_logs(stream=said)
            outcomes = await net.service.submit_many(raws)
            assert [n for n, one in enumerate(outcomes) if isinstance(one, Rejected)] == places
            assert {code_of(outcomes[place]) for place in places} == {NodeCode.NOT_EXECUTABLE}
            kept = [one for one in outcomes if isinstance(one, Submitted)]
            assert [(one.height, one.index) for one in kept] == sorted((one.height, one.index) for one in kept)
            named = [json.loads(line) for line in said.getvalue().splitlines()]
            assert [line["tx_id"] for line in named] == [parse(raws[place]).id.hex() for place in places]
            assert all(line["exception"].startswith("KeyError at ") for line in named)
            # Sent again it is refused again, and the node goes on.
            with pytest.raises(Rejected) as refused:
                await net.service.submit(raws[places[0]])
            assert refused.value.code is NodeCode.NOT_EXECUTABLE
            assert net.service.is_live

    asyncio.run(main())
    asyncio.run(starts_again(tmp_path))


def test_an_error_that_is_no_transactions_stops_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with running(tmp_path) as net:

            def finalize(_: Block) -> None:
                raise KeyError("an error in the program")

            monkeypatch.setattr(net.service._session, "finalize", finalize)
            with pytest.raises(NodeFailed) as failed:
                await net.service.submit(net.sign(anchor_of(net.steve, "n"), by=net.carl))
            assert isinstance(failed.value.__cause__, KeyError)
            with pytest.raises(NodeFailed):
                await net.service.stopped()

    asyncio.run(main())


@pytest.mark.parametrize("count", [1, 20])
def test_an_error_over_one_submission_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    async def main() -> None:
        async with running(tmp_path, verify_in_worker=True) as net:
            raws = [net.sign(anchor_of(net.steve, f"n{number}"), by=net.carl) for number in range(count)]
            poison = raws[count // 2]

            def fussy(raw: bytes) -> Tx:
                if raw == poison:
                    raise KeyError("an error in the program")
                return parse(raw)

            for module in (session_module, admission_module):
                monkeypatch.setattr(module, "parse", fussy)
            outcomes = await net.service.submit_many(raws)
            assert code_of(outcomes.pop(count // 2)) is NodeCode.NOT_EXECUTABLE
            assert all(isinstance(one, Submitted) for one in outcomes)
            assert net.service.is_live

    asyncio.run(main())


# --- the clock ------------------------------------------------------------------------------------------

FORTY_YEARS_S = 40 * 365 * 86_400


def test_a_clock_that_jumps_ahead_makes_no_block_until_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "LOOK_AGAIN_S", 0.001)
    said = Said("clock_jumped")

    async def main() -> None:
        async with running(tmp_path) as net:
            configure_logs(stream=said)
            net.service._policy = BatchPolicy(timeout_s=0.0, heartbeat_s=0.001)
            await beats(net, 1)
            raw = net.sign(anchor_of(net.steve, "waits"), by=net.carl)
            waiting = net.service.enqueue([raw])
            net.clock.now_s += FORTY_YEARS_S
            before = net.service.height
            with pytest.raises(Overloaded) as refused:
                await net.service.submit(raw)
            assert refused.value.code is NodeCode.CLOCK_JUMPED
            await said.heard.wait()
            assert net.service.clock_jumped
            assert (net.service.height, net.service.time_s) == (before, START_S)
            assert not waiting.done.done()
            net.clock.now_s -= FORTY_YEARS_S
            await waiting.done
            assert isinstance(waiting.outcomes[0], Submitted)
            assert net.service.time_s == START_S

    asyncio.run(main())


def test_a_node_whose_clock_jumped_still_drains(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as net:
            group = net.service.enqueue([net.sign(anchor_of(net.steve, "last"), by=net.carl)])
            net.clock.now_s += FORTY_YEARS_S
            await net.service.drain()
            assert isinstance(group.outcomes[0], Submitted)
            assert net.service.time_s == START_S

    asyncio.run(main())


def test_a_start_far_ahead_of_the_last_block_needs_a_word(tmp_path: Path) -> None:
    async def grown() -> int:
        async with running(tmp_path) as net:
            return net.service.height

    async def start(clock: StoppedClock, **accept: int) -> int:
        members = founders()
        service = NodeService.open(
            tmp_path, genesis_of(members), members["a"].signing, verify_in_worker=False, clock=clock
        )
        try:
            await service.start(**accept)
            return service.height
        finally:
            await service.drain()

    height = asyncio.run(grown())
    with pytest.raises(ClockAhead):
        asyncio.run(start(stopped_clock(START_S + 91 * 86_400)))
    assert asyncio.run(start(stopped_clock(START_S + 91 * 86_400), accept_gap_days=91)) == height + 1


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
