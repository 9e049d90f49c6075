"""Goal: what comes out of a record's contents is what the ledger's anchor stands for, or nothing.

Method: contents of many shapes go through a sealed object and come back; the layout is written once more from its
documentation; a table damages it in every way, one row per code; a resource of 300 MB is checked in little memory.
"""

import io
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from random import Random

import pytest

from carechain.core import merkle
from carechain.core.commitment import begin_commitment, resource_commitment, resource_leaf
from carechain.core.limits import OBJECT_CHUNK_BYTES, RESOURCES_PER_RECORD
from carechain.core.rejection import Rejected
from carechain.core.suite import Institution
from carechain.sealing import contents as contents_module
from carechain.sealing.codes import SealingCode
from carechain.sealing.contents import Contents, ContentsSource, Resource, write_contents
from carechain.sealing.objects import WINDOW_BYTES, ObjectReader, seal_object

KEY = bytes(range(32))
RECORD = b"R" * 32
CHUNK = OBJECT_CHUNK_BYTES
Pairs = list[tuple[bytes, bytes]]


def salt_of(number: int) -> bytes:
    return number.to_bytes(32, "big")


def pairs_of(*sizes: int) -> Pairs:
    return [(salt_of(number), Random(number).randbytes(size)) for number, size in enumerate(sizes)]


def root_of(pairs: Pairs, suite: Institution = Institution.INTERNATIONAL) -> bytes:
    return merkle.root([resource_leaf(salt, content, suite) for salt, content in pairs])


class Plain:
    """Plaintext to be read from any place, in pieces of a size that fits nothing."""

    def __init__(self, data: bytes, piece: int = 37) -> None:
        self.data, self.piece = data, piece

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, start: int, length: int) -> bytes:
        return self.data[start : start + length]

    def chunks(self, start: int = 0, end: int | None = None) -> Iterator[memoryview]:
        end = self.size if end is None else end
        for place in range(start, end, self.piece):
            yield memoryview(self.data)[place : min(end, place + self.piece)]


SHAPES = [(0,), (1,), (100,), (0, 0, 0), (0, 5, 0), (5, 0, 0, 5, 0), (36, 37, 38), (74, 1, 0, 300), tuple(range(40))]


@pytest.mark.parametrize("sizes", SHAPES)
@pytest.mark.parametrize("suite", Institution)
def test_round_trip(sizes: tuple[int, ...], suite: Institution) -> None:
    pairs = pairs_of(*sizes)
    plain, root = write_contents(pairs, suite)
    assert root == root_of(pairs, suite)
    read = Contents(Plain(plain), root, suite)
    assert read.resources() == tuple(pairs)
    assert len(read) == len(sizes)
    assert [read.size(index) for index in range(len(read))] == list(sizes)
    with pytest.raises(IndexError):
        read.read(len(sizes))
    with pytest.raises(IndexError):
        read.salt(-1)


def test_the_layout_is_what_the_documentation_says() -> None:
    pairs = pairs_of(3, 0, 70)
    table = b"".join(salt + struct.pack(">I", len(content)) for salt, content in pairs)
    body = b"".join(content for _, content in pairs)
    assert write_contents(pairs)[0] == b"\x00\x01" + struct.pack(">I", 3) + table + body


@pytest.mark.parametrize("sizes", [(0,), (CHUNK, 1), (WINDOW_BYTES, WINDOW_BYTES + 3, 0, 7)])
def test_through_a_sealed_object(sizes: tuple[int, ...]) -> None:
    """As a record travels: resources are streams, the contents are a stream, the object is read by parts."""
    pairs = pairs_of(*sizes)
    source = ContentsSource([Resource.of(salt, content) for salt, content in pairs])
    out = io.BytesIO()
    seal_object(source, out.write, key=KEY, capsule=b"c", record=RECORD, version=1, size=source.size)
    assert source.root == root_of(pairs)
    read = Contents(ObjectReader(out, KEY, record=RECORD, version=1), source.root)
    assert read.resources() == tuple(pairs)


@pytest.mark.parametrize("suite", Institution)
@pytest.mark.parametrize("size", [0, 1, 1000])
def test_a_commitment_can_be_made_piece_by_piece(suite: Institution, size: int) -> None:
    content = Random(size).randbytes(size)
    hasher = begin_commitment(salt_of(1), size, suite)
    for place in range(0, size, 7):
        hasher.update(content[place : place + 7])
    assert hasher.digest() == resource_commitment(salt_of(1), content, suite)


def test_a_resource_of_four_gigabytes_has_no_commitment() -> None:
    with pytest.raises(OverflowError):
        begin_commitment(salt_of(1), 1 << 32)


# --- every defect under its own code --------------------------------------------------------------------------

PAIRS = pairs_of(10, 0, 300, 25)
PLAIN, ROOT = write_contents(PAIRS)
Damage = Callable[[bytes], bytes]


def replaced(place: int, new: bytes) -> Damage:
    return lambda data: data[:place] + new + data[place + len(new) :]


def exchanged(_: bytes) -> bytes:
    return write_contents([PAIRS[1], PAIRS[0], *PAIRS[2:]])[0]


def moved_border(data: bytes) -> bytes:
    """One byte more for the first resource, one less for the third: the sum is right."""
    return replaced(6 + 2 * 36 + 32, struct.pack(">I", 299))(replaced(6 + 32, struct.pack(">I", 11))(data))


ROWS: list[tuple[SealingCode, str, Damage]] = [
    (SealingCode.CONTENTS_CUT, "nothing", lambda _: b""),
    (SealingCode.CONTENTS_CUT, "in the count", lambda data: data[:5]),
    (SealingCode.CONTENTS_CUT, "in the list", lambda data: data[:100]),
    (SealingCode.CONTENTS_FORMAT_UNKNOWN, "a later one", replaced(0, b"\x00\x02")),
    (SealingCode.CONTENTS_COUNT_WRONG, "none", replaced(2, bytes(4))),
    (SealingCode.CONTENTS_COUNT_WRONG, "too many", replaced(2, struct.pack(">I", RESOURCES_PER_RECORD + 1))),
    (SealingCode.CONTENTS_COUNT_WRONG, "far too many", replaced(2, b"\xff" * 4)),
    (SealingCode.CONTENTS_SIZE_WRONG, "a byte less", lambda data: data[:-1]),
    (SealingCode.CONTENTS_SIZE_WRONG, "a byte more", lambda data: data + b"\x00"),
    (SealingCode.CONTENTS_SIZE_WRONG, "a size that lies", replaced(6 + 32, b"\xff" * 4)),
    (SealingCode.CONTENTS_NOT_ANCHORED, "a resource", replaced(len(PLAIN) - 1, b"\xff")),
    (SealingCode.CONTENTS_NOT_ANCHORED, "a salt", replaced(6, b"\xff")),
    (SealingCode.CONTENTS_NOT_ANCHORED, "another order", exchanged),
    (SealingCode.CONTENTS_NOT_ANCHORED, "another border", moved_border),
    (SealingCode.CONTENTS_NOT_ANCHORED, "one left out", lambda _: write_contents(PAIRS[:-1])[0]),
    (SealingCode.CONTENTS_NOT_ANCHORED, "one more", lambda _: write_contents([*PAIRS, PAIRS[0]])[0]),
    (SealingCode.CONTENTS_NOT_ANCHORED, "another record's", lambda _: write_contents(pairs_of(10, 0, 300, 26))[0]),
]


@pytest.mark.parametrize(("code", "damage"), [pytest.param(c, d, id=f"{c.name}-{n}") for c, n, d in ROWS])
def test_every_defect_has_its_code(code: SealingCode, damage: Damage) -> None:
    with pytest.raises(Rejected) as refused:
        Contents(Plain(damage(PLAIN)), ROOT)
    assert refused.value.code is code


def test_every_code_has_a_row() -> None:
    assert {code for code, *_ in ROWS} == {code for code in SealingCode if 2140 <= int(code) < 2150}


def test_another_anchor() -> None:
    with pytest.raises(Rejected) as refused:
        Contents(Plain(PLAIN), bytes(32))
    assert refused.value.code is SealingCode.CONTENTS_NOT_ANCHORED


def test_what_changes_after_it_was_checked_is_refused_where_it_is_read() -> None:
    plain = Plain(PLAIN)
    read = Contents(plain, ROOT)
    plain.data = PLAIN[:-1] + b"\xff"
    assert read.read(0) == PAIRS[0][1]
    with pytest.raises(Rejected) as refused:
        read.read(3)
    assert refused.value.code is SealingCode.CONTENTS_NOT_ANCHORED


# --- what is to be sealed ---------------------------------------------------------------------------------------


def drained(source: ContentsSource, piece: int = 50) -> bytes:
    parts = []
    buffer = bytearray(piece)
    while got := source.readinto(memoryview(buffer)):
        parts.append(bytes(buffer[:got]))
    return b"".join(parts)


@pytest.mark.parametrize("piece", [1, 36, 50, 10_000])
def test_a_stream_in_any_pieces(piece: int) -> None:
    source = ContentsSource([Resource.of(salt, content) for salt, content in PAIRS])
    assert drained(source, piece) == PLAIN
    assert source.root == ROOT
    assert source.size == len(PLAIN)


@pytest.mark.parametrize("actual", [9, 11])
@pytest.mark.parametrize("place", [0, 1])
def test_a_resource_of_another_size_than_said(actual: int, place: int) -> None:
    resources = [Resource.of(salt_of(1), bytes(10)), Resource.of(salt_of(2), bytes(10))]
    resources[place] = Resource(salt=salt_of(3), size=10, open=lambda: io.BytesIO(bytes(actual)))
    with pytest.raises(Rejected) as refused:
        drained(ContentsSource(resources))
    assert refused.value.code is SealingCode.SOURCE_SIZE_WRONG


def test_resources_are_closed() -> None:
    streams = [io.BytesIO(bytes(10)), io.BytesIO(bytes(10)), io.BytesIO(bytes(10))]
    resources = [Resource(salt=salt_of(0), size=10, open=lambda one=one: one) for one in streams]  # type: ignore[misc]
    source = ContentsSource(resources)
    source.readinto(memoryview(bytearray(6 + 3 * 36 + 15)))
    source.close()
    assert [one.closed for one in streams] == [True, True, False]
    with pytest.raises(ValueError, match="end"):
        _ = source.root


@pytest.mark.parametrize("count", [0, RESOURCES_PER_RECORD + 1])
def test_a_number_of_resources_that_no_record_has(count: int) -> None:
    with pytest.raises(Rejected) as refused:
        ContentsSource([Resource.of(salt_of(0), b"")] * count)
    assert refused.value.code is SealingCode.CONTENTS_COUNT_WRONG


def test_the_most_resources_a_record_may_have() -> None:
    pairs = [(salt_of(number), b"") for number in range(RESOURCES_PER_RECORD)]
    plain, root = write_contents(pairs)
    assert len(Contents(Plain(plain, WINDOW_BYTES), root)) == RESOURCES_PER_RECORD


@pytest.mark.parametrize("size", [-1, contents_module.RESOURCE_SIZE_BYTES + 1])
def test_a_programs_mistake_is_no_refusal(size: int) -> None:
    with pytest.raises(ValueError, match="salt"):
        ContentsSource([Resource(salt=salt_of(0), size=size, open=io.BytesIO)])
    with pytest.raises(ValueError, match="salt"):
        ContentsSource([Resource.of(b"short", b"")])


class Repeated:
    """One large resource, never in memory."""

    def __init__(self, size: int) -> None:
        self.left = size

    def readinto(self, buffer: memoryview, /) -> int:
        size = min(len(buffer), self.left)
        buffer[:size] = bytes(size)
        self.left -= size
        return size

    def close(self) -> None:
        self.left = 0


def test_a_large_resource_takes_little_memory() -> None:
    """Contents are written, and checked, in pieces: what is allocated stays far below the size."""
    size = 100_000_000

    class Streamed(Plain):
        def __init__(self) -> None:
            super().__init__(b"")
            self.head = drained(ContentsSource([Resource.of(salt_of(0), b"")]))[:38] + struct.pack(">I", size)

        @property
        def size(self) -> int:
            return 42 + size

        def read(self, start: int, length: int) -> bytes:
            return self.head[start : start + length]

        def chunks(self, start: int = 0, end: int | None = None) -> Iterator[memoryview]:
            piece = memoryview(bytes(WINDOW_BYTES))
            left = (self.size if end is None else end) - start
            while left:
                yield piece[: min(left, WINDOW_BYTES)]
                left -= min(left, WINDOW_BYTES)

    tracemalloc.start()
    source = ContentsSource([Resource(salt=salt_of(0), size=size, open=lambda: Repeated(size))])
    buffer = memoryview(bytearray(WINDOW_BYTES))
    while source.readinto(buffer):
        pass
    Contents(Streamed(), source.root)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * WINDOW_BYTES
