"""Goal: whatever is taken for an object, a note or a record's contents, reading ends in content or a typed refusal.

Method: Hypothesis makes bytes, and edits of sound ones; nothing but ``Rejected`` with a :class:`SealingCode` may come
out, in bounded memory, and what does come out is what was sealed.
"""

import io
import struct
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from carechain.core.rejection import Rejected
from carechain.sealing import object_files
from carechain.sealing.blind_index import BlindIndex
from carechain.sealing.codes import SealingCode
from carechain.sealing.contents import Contents, PlainReader, write_contents
from carechain.sealing.object_files import NOTE, PART, seal_file
from carechain.sealing.objects import HEADER_SIZE, MAGIC, ObjectReader, read_prefix, seal_object
from carechain.sealing.words import asked, keywords, normalised

KEY = bytes(range(32))
RECORD = b"R" * 32
CONTENT = b"content " * 20
quick = settings(max_examples=150, deadline=None)


def sealed(content: bytes) -> bytes:
    out = io.BytesIO()
    seal_object(content, out.write, key=KEY, capsule=b"capsule", record=RECORD, version=1)
    return out.getvalue()


OBJECT = sealed(CONTENT)


def read(data: bytes) -> bytes | None:
    try:
        read_prefix(data)
    except Rejected as refused:
        if not isinstance(refused.code, SealingCode):
            raise
    try:
        reading = ObjectReader(data, KEY, record=RECORD, version=1)
        return b"".join(bytes(piece) for piece in reading.chunks())
    except Rejected as refused:
        if not isinstance(refused.code, SealingCode):
            raise
        return None


@quick
@given(st.binary(max_size=600))
@example(b"")
@example(MAGIC)
@example(OBJECT)
def test_any_bytes(data: bytes) -> None:
    assert read(data) in (None, CONTENT)


@quick
@given(st.binary(max_size=400))
def test_any_bytes_behind_the_magic(data: bytes) -> None:
    assert read(MAGIC + b"\x00\x01" + data) is None


@quick
@given(st.integers(0, len(OBJECT) - 1), st.binary(max_size=12))
def test_any_bytes_replaced(place: int, new: bytes) -> None:
    data = OBJECT[:place] + new + OBJECT[place + len(new) :]
    assert read(data) == (CONTENT if data == OBJECT else None)


@quick
@given(st.integers(0, len(OBJECT)), st.integers(0, len(OBJECT)), st.binary(max_size=40))
def test_any_piece_cut_out_and_put_in(start: int, end: int, new: bytes) -> None:
    data = OBJECT[:start] + new + OBJECT[end:]
    assert read(data) == (CONTENT if data == OBJECT else None)


@quick
@given(
    st.integers(0, 3),
    st.integers(0, 255),
    st.integers(0, 1 << 32).map(lambda n: n % (1 << 32)),
    st.integers(0, (1 << 64) - 1),
    st.integers(0, 0xFFFF),
)
def test_any_numbers_in_the_header(number: int, suite: int, chunk: int, size: int, capsule: int) -> None:
    """Lengths that lie cost no memory: nothing is allocated before the key has confirmed them."""
    fields = struct.pack(">16sHBIQ", MAGIC, number, suite, chunk, size)
    data = fields + OBJECT[len(fields) : HEADER_SIZE - 2] + struct.pack(">H", capsule) + OBJECT[HEADER_SIZE:]
    assert read(data) in (None, CONTENT)


PLAIN, ROOT = write_contents([(bytes(32), b"one"), (bytes(range(32)), b""), (b"S" * 32, b"three" * 9)])


def contents(data: bytes) -> tuple[tuple[bytes, bytes], ...] | None:
    reader: PlainReader = ObjectReader(sealed(data), KEY, record=RECORD, version=1)
    try:
        return Contents(reader, ROOT).resources()
    except Rejected as refused:
        if not isinstance(refused.code, SealingCode):
            raise
        return None


WHOLE = contents(PLAIN)


@quick
@given(st.binary(max_size=300))
@example(PLAIN)
@example(b"\x00\x01\x00\x01\x00\x00")
def test_any_bytes_as_contents(data: bytes) -> None:
    assert contents(data) == (WHOLE if data == PLAIN else None)


@quick
@given(st.integers(0, len(PLAIN)), st.integers(0, len(PLAIN)), st.binary(max_size=40))
def test_contents_with_any_piece_replaced(start: int, end: int, new: bytes) -> None:
    data = PLAIN[:start] + new + PLAIN[end:]
    assert contents(data) == (WHOLE if data == PLAIN else None)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300), st.binary(max_size=700))
def test_any_bytes_beside_an_unfinished_object(note: bytes, part: bytes) -> None:
    """Whatever a crash, or somebody, left there: the sealing finishes with a sound object and nothing beside it."""
    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(object_files, "PIECE_BYTES", 64)
        folder = Path(name)
        (folder / f"object{NOTE}").write_bytes(note)
        (folder / f"object{PART}").write_bytes(part)
        seal_file(
            lambda: io.BytesIO(CONTENT[:64]),
            folder / "object",
            record=RECORD,
            version=1,
            size=64,
            make_capsule=lambda _: b"capsule",
            entropy=lambda _: KEY,
        )
        assert read((folder / "object").read_bytes()) == CONTENT[:64]
        assert [one.name for one in folder.iterdir()] == ["object"]


@quick
@given(st.text(max_size=200))
@example("\ud800")
@example("ﷺ" * 50)
@example("\u200b\u00ad")
def test_any_text(text: str) -> None:
    assert normalised(normalised(text)) == normalised(text)
    words = set(keywords(text))
    assert all(words)
    assert set(asked(text)) <= words
    assert len(BlindIndex(KEY).tokens(RECORD, [text])) >= len(words)
