"""Goal: whatever bytes arrive at the feed, the answer is an acknowledgement, it repeats nothing, and only AA stores.

Method: Hypothesis draws random bytes, random segments, and good messages with one mutation; a canary rides along. An
independent parser must be able to read every answer.
"""

from zoneinfo import ZoneInfo

import hl7
from hypothesis import given
from hypothesis import strategies as st

from carechain.core.rejection import Rejected
from carechain.sources.hl7v2.acknowledgement import answer
from carechain.sources.hl7v2.mapping import translate
from carechain.sources.hl7v2.message import Message
from carechain.sources.hl7v2.mllp import Deframer
from carechain.sources.hl7v2.values import Place
from hl7_messages import CHINESE, admission, header, message, order, result

CANARY = "Canary4711"
PLACE = Place(zone=ZoneInfo("UTC"))
GOOD = [message(*one) for one in (admission(name=f"{CANARY}^X"), admission(name=CHINESE), result(), order())]
PIECES = st.sampled_from(
    [
        b"|",
        b"^",
        b"~",
        b"\\",
        b"&",
        b"\r",
        b"\n",
        b"\x00",
        b"\xff",
        b"\x1c",
        b'""',
        b"MSH",
        b"\\X0D\\",
        b"\\X",
        b"\xe4\xb8",
        b"9" * 50,
    ]
)
FIELDS = st.text(alphabet='|^~\\&"0123456789ABZaz中 .-+:\t', max_size=30)
NAMES = st.sampled_from(["PID", "PV1", "OBR", "OBX", "ORC", "NTE", "MRG", "DG1", "AL1", "MSH", "ZZZ"])


def taken(data: bytes) -> bool:
    """Whether a message is acknowledged positively; the answer is checked either way."""
    read: Message | None = None
    refusal: Rejected | None = None
    try:
        read = Message.parse(data)
        translate(read, PLACE)
    except Rejected as caught:
        refusal = caught
    assert refusal is None or (refusal.__cause__ is None and CANARY not in repr(refusal))
    said = answer(read, refusal, now_s=0, number="1")
    if said is None:
        return refusal is None
    parsed = hl7.parse(said.decode("ascii"))
    assert str(parsed["MSA"][0][1])[1] == ("A" if refusal is None else str(parsed["MSA"][0][1])[1])
    if read is None or CANARY not in read.header.text(10) + read.header.text(3) + read.header.text(4):
        assert CANARY.encode() not in said
    return refusal is None


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    assert not taken(data)


@given(st.binary(max_size=200))
def test_any_bytes_behind_a_header(data: bytes) -> None:
    taken(header("ADT^A01").encode() + b"\r" + data)


@given(st.sampled_from(["ADT^A01", "ADT^A40", "ORU^R01", "ORM^O01"]), st.lists(st.tuples(NAMES, FIELDS), max_size=8))
def test_any_segments(kind: str, segments: list[tuple[str, str]]) -> None:
    taken(message(header(kind), *(f"{name}|{fields}" for name, fields in segments)))


@given(st.sampled_from(GOOD), st.data())
def test_one_mutation(good: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(good)))
    cut = data.draw(st.integers(0, 12))
    taken(good[:at] + data.draw(PIECES | st.binary(max_size=4)) + good[at + cut :])


@given(st.lists(st.binary(max_size=50), max_size=20))
def test_any_stream_is_frames_or_a_refusal(pieces: list[bytes]) -> None:
    frames = Deframer(64)
    refusal: Rejected | None = None
    try:
        for piece in pieces:
            frames.feed(piece)
            while (one := frames.next()) is not None:
                assert len(one) <= 64
    except Rejected as refused:
        refusal = refused
    assert refusal is None or refusal.__cause__ is None
