"""Reports of reads reach the ledger exactly once.

Goal: whatever moment a crash chooses, every audited read is counted once in the patient's log. Method: break off at
each step (before sending, after the ledger took it, never admitted in time), go on with a new reporter over the same
file, and count the lines of the log.
"""

import asyncio
import os
import sqlite3
from typing import TYPE_CHECKING

import pytest

from carechain.chain.tx import AdmissionCode
from carechain.contracts.access import EntryKind, LogRow, log_of
from carechain.core.limits import TX_LIFETIME_S
from carechain.core.rejection import Rejected
from carechain.engine import database
from carechain.gatekeeper import reports as reports_module
from carechain.gatekeeper.audit import Audit, reads_digest
from carechain.gatekeeper.release import ReleaseRequest
from carechain.gatekeeper.reports import Reporter
from carechain.node.logs import configure_logs
from carechain.node.service import NodeFailed
from house import House
from node_network import Said

if TYPE_CHECKING:
    from collections.abc import Callable


class Crash(Exception):  # noqa: N818 - stands for the power going
    """The process ends here."""


def crash() -> None:
    raise Crash


def serve(house: House, ticket: bytes) -> None:
    asyncio.run(house.gatekeeper.release(house.world.bert.id, ReleaseRequest(ticket=ticket)))


def released(house: House) -> list[LogRow]:
    lines = log_of(house.ledger.view().contracts.access, house.world.steve.id)
    return [line for _, line in lines if line.kind is EntryKind.RELEASE]


def test_reads_of_one_ticket_make_one_line(house: House) -> None:
    ticket = house.ticket()
    serve(house, ticket)
    serve(house, ticket)
    assert asyncio.run(house.reporter().report()) == 1
    (line,) = released(house)
    entries = house.audit.entries()
    assert line.ticket == ticket
    assert line.actor == house.world.a.id
    assert line.records == sum(len(one.read.records) for one in entries) > 0
    assert line.digest == reads_digest([one.running for one in entries])
    assert asyncio.run(house.reporter().report()) == 0
    assert house.world.broken() == []


def test_a_read_after_a_report_makes_the_next_one(house: House) -> None:
    ticket = house.ticket()
    for _ in range(2):
        serve(house, ticket)
        asyncio.run(house.reporter().report())
    assert len(released(house)) == 2


def test_two_tickets_never_share_a_transaction(house: House) -> None:
    for ticket in (house.ticket(), house.ticket()):
        serve(house, ticket)
    assert asyncio.run(house.reporter().report()) == 2
    assert len(house.ledger.submitted) == 2


def test_a_crash_before_sending_sends_the_same_bytes_later(house: House) -> None:
    serve(house, house.ticket())
    house.ledger.before_submit = crash
    with pytest.raises(Crash):
        asyncio.run(house.reporter().report())
    (noted,) = house.audit.open_reports()
    house.ledger.before_submit = lambda: None
    assert asyncio.run(house.reporter().report()) == 1
    assert house.ledger.submitted == [noted.raw]
    assert len(released(house)) == 1


def test_a_crash_after_the_ledger_took_it_is_noticed(house: House) -> None:
    serve(house, house.ticket())
    settle: Callable[..., None] = house.audit.settle_report
    house.audit.settle_report = lambda *_, **__: crash()  # type: ignore[method-assign]
    with pytest.raises(Crash):
        asyncio.run(house.reporter().report())
    house.audit.settle_report = settle  # type: ignore[method-assign]
    assert len(released(house)) == 1
    assert asyncio.run(house.reporter().report()) == 1
    assert len(released(house)) == 1
    assert house.audit.open_reports() == []


def test_a_report_that_is_on_the_ledger_twice_in_flight_counts_once(house: House) -> None:
    """Another copy of the same bytes gets there first, after the log was looked at."""
    serve(house, house.ticket())
    house.ledger.before_submit = crash
    with pytest.raises(Crash):
        asyncio.run(house.reporter().report())
    (noted,) = house.audit.open_reports()
    house.ledger.before_submit = lambda: house.world.block(noted.raw) and None
    assert asyncio.run(house.reporter().report()) == 1
    assert len(released(house)) == 1


def test_bytes_that_expired_unseen_are_signed_anew(house: House) -> None:
    serve(house, house.ticket())
    house.ledger.before_submit = crash
    with pytest.raises(Crash):
        asyncio.run(house.reporter().report())
    house.world.wait(TX_LIFETIME_S)
    house.ledger.before_submit = lambda: None
    assert asyncio.run(house.reporter().report()) == 1
    assert len(released(house)) == 1


def test_a_report_that_is_not_admitted_stays_open(house: House) -> None:
    serve(house, house.ticket())
    house.ledger.before_submit = lambda: house.world.wait(TX_LIFETIME_S)
    with pytest.raises(Rejected) as refused:
        asyncio.run(house.reporter().report())
    assert refused.value.code is AdmissionCode.EXPIRED
    house.ledger.before_submit = lambda: None
    assert asyncio.run(house.reporter().report()) == 1
    assert len(released(house)) == 1


def test_the_running_reporter_reports_what_is_left_when_it_stops(house: House) -> None:
    async def run() -> None:
        stop = asyncio.Event()
        task = asyncio.create_task(house.reporter().run(stop, every_s=60))
        await house.gatekeeper.release(house.world.bert.id, ReleaseRequest(ticket=ticket))
        stop.set()
        await task

    ticket = house.ticket()
    asyncio.run(run())
    assert len(released(house)) == 1


def test_an_audit_that_cannot_be_used_for_a_while_ends_no_reporting(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program holds the file's lock for longer than the audit waits: the next turn reports."""
    monkeypatch.setattr(database, "DATABASE_BUSY_S", 0.01)
    serve(house, house.ticket())
    said = Said("storage_unavailable")
    configure_logs(stream=said)
    audit = Audit.open(house.folder / "audit.sqlite")
    member = house.world.a
    reporter = Reporter(ledger=house.ledger, audit=audit, key=member.signing, member=member.id, entropy=os.urandom)

    async def run() -> None:
        stop = asyncio.Event()
        other = sqlite3.connect(house.folder / "audit.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        task = asyncio.create_task(reporter.run(stop, every_s=0.001))
        await said.heard.wait()
        other.execute("ROLLBACK")
        other.close()
        assert not task.done()
        stop.set()
        await task

    asyncio.run(run())
    audit.close()
    assert len(released(house)) == 1


def test_a_node_that_failed_ends_the_reporting(house: House) -> None:
    serve(house, house.ticket())

    def failed() -> None:
        raise NodeFailed

    house.ledger.before_submit = failed

    async def run() -> None:
        await house.reporter().run(asyncio.Event(), every_s=0.0)

    with pytest.raises(NodeFailed):
        asyncio.run(run())


def test_a_ledger_without_a_quorum_keeps_no_node_from_stopping(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """No block, no outcome: the report waits in the audit, and is made once when there are blocks again."""
    monkeypatch.setattr(reports_module, "OUTCOME_S", 0.01)
    serve(house, house.ticket())
    submit = house.ledger.submit

    async def unanswered(_raw: bytes) -> object:
        return await asyncio.get_running_loop().create_future()

    async def stopping() -> None:
        stop = asyncio.Event()
        stop.set()
        async with asyncio.timeout(10):
            await house.reporter().run(stop)

    monkeypatch.setattr(house.ledger, "submit", unanswered)
    asyncio.run(stopping())
    assert released(house) == []
    monkeypatch.setattr(house.ledger, "submit", submit)
    assert asyncio.run(house.reporter().report()) == 1
    assert len(released(house)) == 1
