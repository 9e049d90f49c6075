"""The audit of reads.

Goal: an entry is on disk before append returns, nothing can be altered or removed unnoticed, and what was not yet
reported survives a restart. Method: a real file, opened again, opened by a second process's eyes (a second
connection), and altered with plain SQL.
"""

import sqlite3
from pathlib import Path

import pytest
from msgspec.structs import replace

from carechain.core.limits import RELEASE_DIGESTS
from carechain.gatekeeper.audit import Audit, AuditDamaged, AuditTooNew, AuditUnavailable, Read, reads_digest
from carechain.gatekeeper.codes import GatekeeperCode

TICKET, OTHER_TICKET, REQUESTER, RECORD = (bytes([number]) * 32 for number in range(1, 5))
SERVED = Read(at_s=1, height=2, requester=REQUESTER, ticket=TICKET, code=0, records=((RECORD, 1),))
REFUSED = replace(SERVED, code=int(GatekeeperCode.OUTSIDE_SCOPE))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.sqlite"


def alter(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(statement)
    connection.close()


def test_entries_are_numbered_and_outlive_the_process(path: Path) -> None:
    with Audit.open(path) as audit:
        assert [audit.append(SERVED), audit.append(REFUSED)] == [1, 2]
        seen = sqlite3.connect(path)
        assert seen.execute("SELECT count(*) FROM reads").fetchone() == (2,)
        seen.close()
    with Audit.open(path) as audit:
        assert [one.read for one in audit.entries()] == [SERVED, REFUSED]
        assert [one.number for one in audit.entries(after=1)] == [2]
        assert audit.append(SERVED) == 3
        assert audit.check() == 3


@pytest.mark.parametrize(
    ("statement", "number"),
    [
        ("UPDATE reads SET entry = (SELECT entry FROM reads WHERE seq = 3) WHERE seq = 2", 2),
        ("UPDATE reads SET entry = x'00' WHERE seq = 2", 2),
        ("UPDATE reads SET entry = 'text' WHERE seq = 2", 2),
        ("UPDATE reads SET running = zeroblob(32) WHERE seq = 1", 1),
        ("UPDATE reads SET released = 7 WHERE seq = 3", 3),
        ("UPDATE reads SET ticket = zeroblob(32) WHERE seq = 3", 3),
        ("DELETE FROM reads WHERE seq = 2", 2),
        ("DELETE FROM reads WHERE seq = 1", 1),
    ],
)
def test_what_is_altered_or_removed_is_found_at_its_place(path: Path, statement: str, number: int) -> None:
    with Audit.open(path) as audit:
        for read in (SERVED, REFUSED, SERVED):
            audit.append(read)
    alter(path, statement)
    with Audit.open(path) as audit, pytest.raises(AuditDamaged) as damaged:
        audit.check()
    assert damaged.value.number == number


def test_only_released_reads_are_to_be_reported_ticket_by_ticket(path: Path) -> None:
    with Audit.open(path) as audit:
        assert audit.unreported() is None
        other = replace(SERVED, ticket=OTHER_TICKET, records=((RECORD, 1), (REQUESTER, 2)))
        for read in (REFUSED, SERVED, other, SERVED, replace(SERVED, records=())):
            audit.append(read)
        running = [one.running for one in audit.entries()]
        first = audit.unreported()
        assert first is not None
        assert (first.ticket, first.numbers, first.records) == (TICKET, (2, 4), 2)
        assert first.digest == reads_digest([running[1], running[3]])
        audit.begin_report(first, raw=b"signed", valid_until_s=9)
        second = audit.unreported()
        assert second is not None
        assert (second.ticket, second.numbers, second.records) == (OTHER_TICKET, (3,), 2)
        audit.begin_report(second, raw=b"signed too", valid_until_s=9)
        assert audit.unreported() is None


def test_a_report_is_bounded(path: Path) -> None:
    with Audit.open(path) as audit:
        for _ in range(RELEASE_DIGESTS + 1):
            audit.append(SERVED)
        batch = audit.unreported()
        assert batch is not None
        assert len(batch.numbers) == RELEASE_DIGESTS


def test_open_reports_survive_until_they_are_settled(path: Path) -> None:
    with Audit.open(path) as audit:
        audit.append(SERVED)
        batch = audit.unreported()
        assert batch is not None
        begun = audit.begin_report(batch, raw=b"signed", valid_until_s=9)
    with Audit.open(path) as audit:
        assert audit.open_reports() == [begun]
        renewed = audit.renew_report(begun, raw=b"signed again", valid_until_s=99)
        assert audit.open_reports() == [renewed]
        audit.settle_report(renewed, code=0)
        assert audit.open_reports() == []


def test_a_newer_format_is_refused(path: Path) -> None:
    Audit.open(path).close()
    alter(path, "UPDATE store_info SET version = 2")
    with pytest.raises(AuditTooNew):
        Audit.open(path)


def test_a_disk_that_fails_is_the_environments_failure(path: Path) -> None:
    audit = Audit.open(path)
    audit.close()
    with pytest.raises(AuditUnavailable) as failure:
        audit.append(SERVED)
    assert str(failure.value) == f"{path.name} cannot be used: ProgrammingError"
    path.unlink()
    path.mkdir()
    with pytest.raises(AuditUnavailable):
        Audit.open(path)
