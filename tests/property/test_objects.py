"""Goal: whatever is sealed comes back in any part, and whatever is changed in an object never opens as something else.

Method: Hypothesis draws sizes around the edges of chunks, ranges, kills and edits. A changed object may still give the
parts that the change did not touch, exactly as they were, and nothing else; a killed sealing gives the undisturbed
object; a text is found by every phrase cut out of it.
"""

import io
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carechain.core.limits import OBJECT_CHUNK_BYTES
from carechain.core.rejection import Rejected
from carechain.core.suite import Institution
from carechain.sealing import object_files
from carechain.sealing.blind_index import BlindIndex
from carechain.sealing.codes import SealingCode
from carechain.sealing.contents import Contents, ContentsSource, Resource
from carechain.sealing.object_files import seal_file
from carechain.sealing.objects import SEALED_CHUNK_BYTES, ObjectReader, Sealed, read_prefix, seal_object

KEY = bytes(range(32))
RECORD = b"R" * 32
CHUNK = OBJECT_CHUNK_BYTES
PATTERN = bytes(range(251)) * (1 + 4 * CHUNK // 251)
"""No two chunks of it are equal, because 251 is prime."""
some = settings(max_examples=60, deadline=None)

near_chunks = st.builds(lambda count, off: max(0, count * CHUNK + off), st.integers(0, 3), st.integers(-3, 3))
sizes = st.one_of(near_chunks, st.integers(0, 3 * CHUNK + 100))


def seal(content: bytes, suite: Institution = Institution.INTERNATIONAL) -> bytes:
    out = io.BytesIO()
    seal_object(content, out.write, key=KEY, capsule=b"capsule", record=RECORD, version=3, suite=suite)
    return out.getvalue()


def reader(data: bytes, suite: Institution = Institution.INTERNATIONAL) -> ObjectReader:
    return ObjectReader(data, KEY, record=RECORD, version=3, suite=suite)


@some
@given(sizes, st.sampled_from(Institution), st.data())
def test_any_range_of_any_content(size: int, suite: Institution, data: st.DataObject) -> None:
    content = PATTERN[:size]
    reading = reader(seal(content, suite), suite)
    for _ in range(3):
        start = data.draw(st.integers(0, size))
        length = data.draw(st.integers(0, size - start))
        assert reading.read(start, length) == content[start : start + length]


edits = st.tuples(st.sampled_from(["flip", "cut", "insert", "remove", "swap", "copy"]), st.integers(0), st.integers(0))


def edited(data: bytes, kind: str, first: int, second: int) -> bytes:
    """``data`` with one change; chunks are swapped and copied as wholes."""
    place = first % len(data)
    if kind == "flip":
        return data[:place] + bytes([data[place] ^ (1 << second % 8)]) + data[place + 1 :]
    if kind == "cut":
        return data[:place]
    if kind == "insert":
        return data[:place] + bytes([second % 256]) + data[place:]
    if kind == "remove":
        return data[:place] + data[place + 1 + second % 100 :]
    start = read_prefix(data)[0].prefix_size
    chunks = [data[at : at + SEALED_CHUNK_BYTES] for at in range(start, len(data), SEALED_CHUNK_BYTES)]
    one, other = first % len(chunks), second % len(chunks)
    if kind == "swap":
        chunks[one], chunks[other] = chunks[other], chunks[one]
    else:
        chunks[one] = chunks[other]
    return data[:start] + b"".join(chunks)


@some
@given(sizes, edits)
def test_a_changed_object_never_opens_as_something_else(size: int, edit: tuple[str, int, int]) -> None:
    content = PATTERN[:size]
    sealed = seal(content)
    changed = edited(sealed, *edit)
    whole = b""
    try:
        reading = reader(changed)
        for number in range(reading.header.chunks):
            start = number * CHUNK
            piece = reading.read(start, min(CHUNK, size - start))
            assert piece == content[start : start + CHUNK]
            whole += piece
        # A chunk of no bytes is authenticated by chunks() only.
        list(reading.chunks())
    except Rejected as refused:
        if changed == sealed or not isinstance(refused.code, SealingCode):
            raise
        return
    assert (whole, changed) == (content, sealed)


class Killed(Exception):  # noqa: N818 - what happens
    """Stands for a kill in the middle of a sealing."""


@settings(max_examples=25, deadline=None)
@given(near_chunks, st.lists(st.integers(0, 4 * CHUNK), max_size=3))
def test_a_sealing_killed_any_number_of_times(size: int, kills: list[int]) -> None:
    content = PATTERN[:size]
    drawn: list[bytes] = []

    def entropy(count: int) -> bytes:
        drawn.append(bytes([len(drawn)]) * count)
        return drawn[-1]

    def attempt(target: Path, kill: int) -> Sealed:
        class Source(io.BytesIO):
            def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
                if self.tell() >= kill:
                    raise Killed
                return super().readinto(buffer)

        return seal_file(
            lambda: Source(content),
            target,
            record=RECORD,
            version=3,
            size=size,
            make_capsule=lambda key: key,
            entropy=entropy,
        )

    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(object_files, "PIECE_BYTES", CHUNK)
        target = Path(folder) / "object"
        for kill in kills:
            if kill <= size:
                with pytest.raises(Killed):
                    attempt(target, kill)
        sealed = attempt(target, size + 1)
        undisturbed = io.BytesIO()
        again = seal_object(
            content, undisturbed.write, key=sealed.capsule, capsule=sealed.capsule, record=RECORD, version=3
        )
        assert (again, undisturbed.getvalue()) == (sealed, target.read_bytes())
        assert [one.name for one in Path(folder).iterdir()] == ["object"]
        if size > CHUNK:
            assert len(drawn) == 1


@some
@given(st.lists(st.integers(0, 3 * CHUNK // 2), min_size=1, max_size=6))
def test_contents_come_back(sizes: list[int]) -> None:
    pairs = [(number.to_bytes(32, "big"), PATTERN[number : number + size]) for number, size in enumerate(sizes)]
    source = ContentsSource([Resource.of(salt, content) for salt, content in pairs])
    out = io.BytesIO()
    seal_object(source, out.write, key=KEY, capsule=b"c", record=RECORD, version=3, size=source.size)
    assert Contents(reader(out.getvalue()), source.root).resources() == tuple(pairs)


INDEX = BlindIndex(KEY)
chinese = st.text(st.sampled_from("糖尿病高血压患者服用２型。， aB9"), min_size=1, max_size=30)


@some
@given(chinese, st.data())
def test_a_text_is_found_by_every_run_cut_out_of_its_chinese(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text) - 1))
    phrase = text[start : data.draw(st.integers(start + 1, len(text)))]
    if any(symbol in "aB9２" for symbol in phrase):
        return
    try:
        wanted = INDEX.search_tokens(phrase)
    except Rejected as refused:
        if refused.code is not SealingCode.NOTHING_TO_SEARCH:
            raise
        return
    assert set(wanted) <= set(INDEX.tokens(RECORD, [text]))


@some
@given(st.lists(st.text(max_size=40), max_size=5))
def test_any_text_is_found_by_itself_and_indexed_alike(texts: list[str]) -> None:
    tokens = INDEX.tokens(RECORD, texts)
    assert tokens == INDEX.tokens(RECORD, texts[::-1])
    assert len(tokens).bit_count() == 1
    for text in texts:
        try:
            assert set(INDEX.search_tokens(text)) <= set(tokens)
        except Rejected as refused:
            if refused.code not in (SealingCode.NOTHING_TO_SEARCH, SealingCode.TOO_MANY_WORDS):
                raise
