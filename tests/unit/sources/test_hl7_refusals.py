"""Goal: what cannot be taken is refused to its sender with the right code and place, and stores nothing.

Method: one row per rejection code of the feed; an independent parser reads the acknowledgements.
"""

from collections.abc import Iterator
from pathlib import Path
from secrets import token_bytes
from zoneinfo import ZoneInfo

import hl7
import pytest

from carechain.charts.store import Charts
from carechain.sources.hl7v2 import message as message_module
from carechain.sources.hl7v2.acknowledgement import answer
from carechain.sources.hl7v2.feed import Feed, NobodyRegistered
from carechain.sources.hl7v2.journal import Journal
from carechain.sources.hl7v2.message import Message, Refused
from carechain.sources.hl7v2.values import Place
from carechain.sources.imports.codes import ImportCode
from carechain.sources.intake import ChartsIntake
from hl7_messages import CHINESE, admission, header, message, order, pid, result

CANARY = "Jobs"


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "hl7.sqlite", limit=2) as opened:
        yield opened


@pytest.fixture
def feed(tmp_path: Path, journal: Journal) -> Iterator[Feed]:
    with Charts.open(tmp_path / "charts.sqlite") as charts:
        yield feed_on(journal, charts)


def feed_on(journal: Journal, charts: Charts, charset: str = "utf_8") -> Feed:
    return Feed(
        journal=journal,
        intake=ChartsIntake(charts, rng=token_bytes),
        registry=NobodyRegistered(),
        place=Place(zone=ZoneInfo("UTC")),
        charset=charset,
        clock=lambda: 1_700_000_000,
        entropy=bytes,
    )


def swapped(segments: tuple[str, ...], old: str, new: str) -> bytes:
    return message(*(one.replace(old, new) for one in segments))


ROWS: list[tuple[ImportCode, bytes, str, str, str]] = [
    (ImportCode.NOT_HL7, b"", "AR", "100", ""),
    (ImportCode.NOT_HL7, b"GET / HTTP/1.1\r\n\r\n", "AR", "100", ""),
    (ImportCode.NOT_HL7, b"MSH|^~\\&\x00", "AR", "100", ""),
    (ImportCode.NOT_HL7, b"MSH|||||Jobs|||", "AR", "100", ""),
    (ImportCode.NOT_HL7, message(header("ADT^A01"), "<script>Jobs</script>"), "AR", "100", ""),
    (ImportCode.NOT_HL7, message(*admission(), *admission()), "AR", "100", ""),
    (ImportCode.CHARSET_UNSUPPORTED, message(*admission(charset="ISO IR87")), "AE", "103", "MSH^1^18"),
    (ImportCode.NOT_IN_CHARSET, message(*admission(name=CHINESE), codec="gb18030"), "AE", "102", ""),
    (ImportCode.NOT_IN_CHARSET, message(*admission(name=CHINESE, charset="ASCII")), "AE", "102", ""),
    (ImportCode.NOT_IN_CHARSET, message(*admission(name="Jobs\x07")), "AE", "102", ""),
    (ImportCode.MESSAGE_TYPE_UNSUPPORTED, message(header("SIU^S12"), pid()), "AR", "200", "MSH^1^9"),
    (ImportCode.EVENT_UNSUPPORTED, message(header("ADT^A99"), pid()), "AR", "201", "MSH^1^9"),
    (ImportCode.PROCESSING_ID_UNSUPPORTED, swapped(admission(), "|P|2.5.1", "|T|2.5.1"), "AR", "202", "MSH^1^11"),
    (ImportCode.VERSION_UNSUPPORTED, swapped(admission(), "|P|2.5.1", "|P|3.0"), "AR", "203", "MSH^1^12"),
    (ImportCode.SEGMENT_MISSING, message(header("ADT^A01")), "AE", "100", "PID^1"),
    (ImportCode.SEGMENT_MISSING, message(header("ORU^R01"), pid()), "AE", "100", "OBR^1"),
    (ImportCode.SEGMENT_MISSING, message(header("ADT^A40"), pid()), "AE", "100", "MRG^1"),
    (ImportCode.FIELD_MISSING, swapped(admission(), "|M1|P", "||P"), "AE", "101", "MSH^1^10"),
    (ImportCode.FIELD_MISSING, swapped(result(), "P9|F9", "|"), "AE", "101", "OBR^1^3"),
    (ImportCode.FIELD_MALFORMED, swapped(result(), "72.50", "1e5"), "AE", "102", "OBX^1^5"),
    (ImportCode.FIELD_MALFORMED, swapped(result(), "JVBERi0xLjQK", "!!"), "AE", "102", "OBX^5^5"),
    (ImportCode.FIELD_MALFORMED, swapped(admission(), "19550224", "19550231"), "AE", "102", "PID^1^7"),
    (ImportCode.FIELD_MALFORMED, message(header("ADT^A40"), pid(), "MRG|4711^^^WEST^MR"), "AE", "102", "MRG^1^1"),
    (ImportCode.VALUE_UNKNOWN, swapped(result(), "|N|||F|||2", "|N|||Q|||2"), "AE", "103", "OBX^1^11"),
    (ImportCode.VALUE_UNKNOWN, swapped(result(), "OBX|1|NM", "OBX|1|ZZ"), "AE", "103", "OBX^1^2"),
    (ImportCode.VALUE_UNKNOWN, swapped(order(), "ORC|NW", "ORC|ZZ"), "AE", "103", "ORC^1^1"),
    (ImportCode.VALUE_UNKNOWN, swapped(admission(), "PV1|1|I", "PV1|1|Q"), "AE", "103", "PV1^1^2"),
    (
        ImportCode.PATIENT_UNIDENTIFIED,
        swapped(admission(), "4711^^^WEST^MR~110101195502240011^^^CN^NI", ""),
        "AE",
        "204",
        "PID^1^3",
    ),
]


@pytest.mark.parametrize(("code", "data", "verdict", "error", "where"), ROWS)
def test_a_refused_message_is_told_why_and_leaves_nothing(
    code: ImportCode, data: bytes, verdict: str, error: str, where: str, feed: Feed, journal: Journal
) -> None:
    answered = feed.receive(data)
    assert answered is not None
    assert CANARY.encode() not in answered
    said = hl7.parse(answered.decode("ascii"))
    assert str(said["MSA"][0][1]) == verdict
    assert str(said["ERR"][0][3][0][0]) == error
    assert str(said["ERR"][0][2]) == where
    assert str(said["ERR"][0][5][0][0]) == str(int(code))
    assert journal.counts().waiting == 0
    assert feed.file_next() is None


def test_too_large_and_too_many(feed: Feed, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message_module, "HL7_MESSAGE_BYTES", 500)
    said = feed.receive(message(*result())) or b""
    assert b"MSA|AR|\r" in said
    assert b"2601" in said
    monkeypatch.setattr(message_module, "HL7_MESSAGE_BYTES", 50_000)
    monkeypatch.setattr(message_module, "HL7_SEGMENTS", 3)
    assert b"2604" in (feed.receive(message(*result())) or b"")
    assert journal.counts().waiting == 0


def test_a_full_journal_refuses_for_now_but_knows_what_it_has(feed: Feed, journal: Journal) -> None:
    for number in range(2):
        assert b"MSA|AA|" in (feed.receive(message(*admission(control=f"C{number}"))) or b"")
    full = feed.receive(message(*admission(control="C3"))) or b""
    assert b"MSA|AR|C3" in full
    assert b"2616" in full
    assert b"MSA|AA|C0" in (feed.receive(message(*admission(control="C0"))) or b"")
    assert journal.counts().waiting == 2


def test_the_same_message_again_is_acknowledged_and_not_filed_again(feed: Feed, journal: Journal) -> None:
    for _ in range(2):
        assert b"MSA|AA|M1" in (feed.receive(message(*admission())) or b"")
    assert feed.file_next() is not None
    assert feed.file_next() is None
    assert b"MSA|AA|M1" in (feed.receive(message(*admission())) or b"")
    assert feed.file_next() is None
    assert journal.counts().filed == 1


@pytest.mark.parametrize(
    ("mode", "taken", "refused"), [("AL", b"MSA|CA|", b"MSA|CR|"), ("ER", None, b"MSA|CR|"), ("NE", None, None)]
)
def test_accept_acknowledgements_come_as_they_are_asked_for(
    mode: str, taken: bytes | None, refused: bytes | None
) -> None:
    good = Message.parse(message(*admission(mode=mode)))
    for refusal, expected in ((None, taken), (Refused(ImportCode.FEED_FULL), refused)):
        said = answer(good, refusal, now_s=0, number="1")
        assert said is None if expected is None else expected in (said or b"")


def test_a_default_character_set_can_be_named(tmp_path: Path, journal: Journal) -> None:
    with Charts.open(tmp_path / "c.sqlite") as charts:
        feed = feed_on(journal, charts, charset="gb18030")
        assert b"MSA|AA|" in (feed.receive(message(*admission(name=CHINESE, charset=""), codec="gb18030")) or b"")


def test_every_code_of_the_feed_has_a_row() -> None:
    covered = {row[0] for row in ROWS}
    elsewhere = {
        ImportCode.MESSAGE_TOO_LARGE,
        ImportCode.TOO_MANY_SEGMENTS,
        ImportCode.FEED_FULL,
        ImportCode.FRAME_MALFORMED,
        ImportCode.SENDER_NOT_ALLOWED,
    }
    assert {one for one in ImportCode if one < ImportCode.KIND_UNKNOWN} == covered | elsewhere
