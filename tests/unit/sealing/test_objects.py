"""Goal: a sealed object gives back what was sealed, in any part, and every defect is refused under its own code.

Method: contents of every size around the edges of chunks and windows go through both suites; the format is written once
more from its documentation and compared byte by byte; then a table damages an object in every way there is, one row per
code. A last test seals and opens an object of 500 MB in a process of its own and looks at its memory.
"""

import io
import random
import struct
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from carechain.core.hashing import tagged
from carechain.core.limits import OBJECT_CHUNK_BYTES, OBJECT_SIZE_BYTES
from carechain.core.rejection import Rejected
from carechain.core.suite import Institution
from carechain.sealing.codes import SealingCode
from carechain.sealing.objects import (
    HEADER_SIZE,
    HEADER_TAG_SIZE,
    SEALED_CHUNK_BYTES,
    WINDOW_BYTES,
    ChunkSealer,
    ObjectReader,
    Sealed,
    Sealer,
    address_of,
    read_prefix,
    require_address,
    seal_object,
)

KEY = bytes(range(32))
RECORD = b"R" * 32
CAPSULE = b"a capsule for the keyholders"
PREFIX = HEADER_SIZE + len(CAPSULE) + HEADER_TAG_SIZE
MEMORY_BYTES = 96 * 1024 * 1024


def content_of(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def seal(
    content: bytes,
    *,
    key: bytes = KEY,
    record: bytes = RECORD,
    version: int = 1,
    capsule: bytes = CAPSULE,
    suite: Institution = Institution.INTERNATIONAL,
) -> bytes:
    out = io.BytesIO()
    sealed = seal_object(content, out.write, key=key, capsule=capsule, record=record, version=version, suite=suite)
    assert sealed == Sealed(address=suite.digest(out.getvalue()), size=len(out.getvalue()), capsule=capsule)
    return out.getvalue()


def reader(
    data: bytes, key: bytes = KEY, *, record: bytes = RECORD, version: int = 1, suite: Institution | None = None
) -> ObjectReader:
    return ObjectReader(data, key, record=record, version=version, suite=suite or Institution.INTERNATIONAL)


def opened(data: bytes) -> bytes:
    return b"".join(bytes(piece) for piece in reader(data).chunks())


CHUNK = OBJECT_CHUNK_BYTES
SIZES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, WINDOW_BYTES, WINDOW_BYTES + 1, 2 * WINDOW_BYTES + 5]


@pytest.mark.parametrize("size", SIZES)
def test_round_trip(size: int) -> None:
    content = content_of(size)
    data = seal(content)
    assert opened(data) == content
    assert reader(data).size == size
    assert len(data) == PREFIX + size + 16 * max(1, -(-size // CHUNK))
    header, capsule = read_prefix(data)
    assert (header.record, header.version, header.size_bytes, capsule) == (RECORD, 1, size, CAPSULE)
    assert (header.object_size, header.prefix_size) == (len(data), PREFIX)


@pytest.mark.parametrize("size", [0, 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_round_trip_with_the_other_suite(size: int) -> None:
    content = content_of(size)
    data = seal(content, suite=Institution.SM)
    assert reader(data, suite=Institution.SM).read(0, size) == content
    with pytest.raises(Rejected) as refused:
        reader(data, bytes(32), suite=Institution.SM)
    assert refused.value.code is SealingCode.KEY_WRONG
    damaged = data[:-1] + bytes([data[-1] ^ 1])
    with pytest.raises(Rejected) as refused:
        list(reader(damaged, suite=Institution.SM).chunks())
    assert refused.value.code is SealingCode.CHUNK_ALTERED


def test_an_empty_content_is_authenticated_too() -> None:
    data = seal(b"")
    damaged = data[:-1] + bytes([data[-1] ^ 1])
    with pytest.raises(Rejected) as refused:
        list(reader(damaged).chunks())
    assert refused.value.code is SealingCode.CHUNK_ALTERED


@pytest.mark.parametrize("size", [1, 2 * CHUNK, 2 * WINDOW_BYTES + 5])
def test_any_part_can_be_read_without_the_rest(size: int) -> None:
    content = content_of(size)
    reading = reader(seal(content))
    edges = sorted({0, 1, size // 2, max(0, size - 1), size, *(e for e in (CHUNK - 1, CHUNK, CHUNK + 1) if e <= size)})
    for start in edges:
        for end in (one for one in edges if one >= start):
            assert reading.read(start, end - start) == content[start:end]


def test_a_part_that_is_sound_opens_though_another_is_damaged() -> None:
    content = content_of(5 * CHUNK)
    data = bytearray(seal(content))
    data[PREFIX + 2 * SEALED_CHUNK_BYTES] ^= 1
    reading = reader(bytes(data))
    assert reading.read(0, 2 * CHUNK) == content[: 2 * CHUNK]
    assert reading.read(3 * CHUNK, 2 * CHUNK) == content[3 * CHUNK :]
    with pytest.raises(Rejected):
        reading.read(2 * CHUNK - 1, 2)


@pytest.mark.parametrize(("start", "length"), [(-1, 1), (0, -1), (0, 11), (10, 1), (11, 0)])
def test_a_range_outside_the_content(start: int, length: int) -> None:
    with pytest.raises(Rejected) as refused:
        reader(seal(b"0123456789")).read(start, length)
    assert refused.value.code is SealingCode.OUTSIDE_CONTENT


class Dripping(io.BytesIO):
    """A source that gives a few bytes at a time, as a pipe may."""

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        return super().readinto(buffer[:9973])


@pytest.mark.parametrize("size", [0, 1, 3 * CHUNK, WINDOW_BYTES + 1])
def test_a_stream_gives_the_object_that_bytes_give(size: int) -> None:
    content = content_of(size)
    out = io.BytesIO()
    seal_object(Dripping(content), out.write, key=KEY, capsule=CAPSULE, record=RECORD, version=1, size=size)
    assert out.getvalue() == seal(content)
    assert ObjectReader(Dripping(out.getvalue()), KEY, record=RECORD, version=1).read(0, size) == content


@pytest.mark.parametrize("said", [0, 99, 101, 2 * CHUNK, WINDOW_BYTES + 1])
@pytest.mark.parametrize("source_of", [io.BytesIO, bytes])
def test_a_source_of_another_size_is_refused(said: int, source_of: Callable[[bytes], bytes | io.BytesIO]) -> None:
    source = source_of(content_of(100))
    with pytest.raises(Rejected) as refused:
        seal_object(source, lambda _: None, key=KEY, capsule=CAPSULE, record=RECORD, version=1, size=said)
    assert refused.value.code is SealingCode.SOURCE_SIZE_WRONG


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"size": OBJECT_SIZE_BYTES + 1}, SealingCode.SIZE_OUT_OF_BOUNDS),
        ({"capsule": b""}, SealingCode.CAPSULE_SIZE_WRONG),
        ({"capsule": bytes(513)}, SealingCode.CAPSULE_SIZE_WRONG),
    ],
)
def test_what_no_object_can_have_is_not_sealed(change: dict[str, object], code: SealingCode) -> None:
    arguments = {"key": KEY, "capsule": CAPSULE, "record": RECORD, "version": 1, "size": 0, **change}
    with pytest.raises(Rejected) as refused:
        seal_object(io.BytesIO(), lambda _: None, **arguments)  # type: ignore[arg-type]
    assert refused.value.code is code


@pytest.mark.parametrize(
    "change", [{"key": bytes(31)}, {"record": bytes(31)}, {"version": 1 << 32}, {"version": -1}, {"size": None}]
)
def test_a_programs_mistake_is_no_refusal(change: dict[str, object]) -> None:
    arguments = {"key": KEY, "capsule": CAPSULE, "record": RECORD, "version": 1, "size": 0, **change}
    with pytest.raises(ValueError, match="has"):
        seal_object(io.BytesIO(), lambda _: None, **arguments)  # type: ignore[arg-type]


def test_a_chunk_is_never_sealed_twice() -> None:
    """What would use a nonce again, or leave a gap, is a bug of the caller and stops."""
    out = memoryview(bytearray(SEALED_CHUNK_BYTES))
    sealer = ChunkSealer(
        key=KEY, capsule=CAPSULE, record=RECORD, version=1, size=CHUNK + 1, suite=Institution.INTERNATIONAL
    )
    with pytest.raises(ValueError, match="announced"):
        sealer.seal(memoryview(bytes(5)), out)
    sealer.seal(memoryview(bytes(CHUNK)), out)
    sealer.seal(memoryview(bytes(1)), out)
    with pytest.raises(ValueError, match="announced"):
        sealer.seal(memoryview(bytes(1)), out)


def test_an_unfinished_object_has_no_address() -> None:
    chunks = ChunkSealer(
        key=KEY, capsule=CAPSULE, record=RECORD, version=1, size=CHUNK + 1, suite=Institution.INTERNATIONAL
    )
    sealer = Sealer(chunks)
    sealer.seal(memoryview(bytes(CHUNK)), lambda _: None)
    with pytest.raises(ValueError, match="end"):
        sealer.finish()


def test_what_the_writer_raises_reaches_the_caller() -> None:
    def full(_: object) -> None:
        raise OSError(28, "no space")

    with pytest.raises(OSError, match="no space"):
        seal_object(bytes(3 * WINDOW_BYTES), full, key=KEY, capsule=CAPSULE, record=RECORD, version=1)


# --- the format, once more, from its documentation ------------------------------------------------------------


def derive(key: bytes, info: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(key)


def by_hand(content: bytes, *, size: int | None = None, chunks: int | None = None) -> bytes:
    """An object as the documentation says; ``size`` and ``chunks`` let a dishonest sealer state another length."""
    header = struct.pack(
        ">16sHBIQ32sI32s32sH",
        b"carechain object",
        1,
        1,
        65536,
        len(content) if size is None else size,
        RECORD,
        1,
        derive(KEY, b"carechain/object-commitment/1\x01"),
        sha256(CAPSULE).digest(),
        len(CAPSULE),
    )
    prefix_hash = tagged("carechain/object/1", header, CAPSULE)
    cipher = AESGCM(derive(KEY, b"carechain/object-chunks/1" + prefix_hash))
    pieces = [content[place : place + 65536] for place in range(0, len(content) or 1, 65536)]
    last = (len(pieces) if chunks is None else chunks) - 1
    sealed = [
        cipher.encrypt(index.to_bytes(11, "big") + bytes([index == last]), piece, prefix_hash)
        for index, piece in enumerate(pieces)
    ]
    return header + CAPSULE + derive(KEY, b"carechain/object-header/1" + prefix_hash) + b"".join(sealed)


@pytest.mark.parametrize("size", [0, 1, CHUNK, 2 * CHUNK + 7])
def test_the_format_is_what_the_documentation_says(size: int) -> None:
    assert seal(content_of(size)) == by_hand(content_of(size))


def test_another_header_or_capsule_means_another_chunk_key() -> None:
    """A key that is used again by mistake meets no nonce twice, unless all before the chunks is the same."""
    base = seal(bytes(100))[PREFIX:]
    others = [
        seal(bytes(100), version=2)[PREFIX:],
        seal(bytes(100), record=b"S" * 32)[PREFIX:],
        seal(bytes(100), capsule=CAPSULE[::-1])[PREFIX:],
        seal(bytes(101))[PREFIX:],
    ]
    assert all(one[:100] != base[:100] for one in others)


# --- every defect under its own code --------------------------------------------------------------------------

CONTENT = content_of(4 * CHUNK + 100)
DATA = seal(CONTENT)
Damage = Callable[[bytes], bytes]


def chunks_of(data: bytes) -> tuple[bytes, list[bytes]]:
    places = range(PREFIX, len(data), SEALED_CHUNK_BYTES)
    return data[:PREFIX], [data[place : place + SEALED_CHUNK_BYTES] for place in places]


def replaced(place: int, new: bytes) -> Damage:
    return lambda data: data[:place] + new + data[place + len(new) :]


def flipped(place: int) -> Damage:
    return lambda data: data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def rearranged(*order: int) -> Damage:
    def change(data: bytes) -> bytes:
        prefix, chunks = chunks_of(data)
        return prefix + b"".join(chunks[index] for index in order)

    return change


def other_object(data: bytes) -> bytes:
    """A chunk in its right place, under the same key, but of the record's next version."""
    prefix, chunks = chunks_of(data)
    chunks[1] = chunks_of(seal(CONTENT, version=2))[1][1]
    return prefix + b"".join(chunks)


ROWS: list[tuple[SealingCode, str, Damage]] = [
    (SealingCode.NOT_AN_OBJECT, "nothing", lambda _: b""),
    (SealingCode.NOT_AN_OBJECT, "something else", lambda _: b"%PDF-1.7 " * 100),
    (SealingCode.NOT_AN_OBJECT, "magic", flipped(3)),
    (SealingCode.HEADER_CUT, "before the format", lambda data: data[:17]),
    (SealingCode.HEADER_CUT, "in the header", lambda data: data[: HEADER_SIZE - 1]),
    (SealingCode.HEADER_CUT, "in the capsule", lambda data: data[: HEADER_SIZE + 3]),
    (SealingCode.HEADER_CUT, "in the header's tag", lambda data: data[: PREFIX - 1]),
    (SealingCode.FORMAT_UNKNOWN, "a later one", replaced(16, b"\x00\x02")),
    (SealingCode.FORMAT_UNKNOWN, "a later one with a short header", lambda data: data[:16] + b"\x00\x02"),
    (SealingCode.SUITE_UNKNOWN, "none", replaced(18, b"\x00")),
    (SealingCode.SUITE_UNKNOWN, "too high", replaced(18, b"\x09")),
    (SealingCode.CHUNK_SIZE_WRONG, "twice", replaced(19, (2 * CHUNK).to_bytes(4, "big"))),
    (SealingCode.SIZE_OUT_OF_BOUNDS, "a length that lies beyond all bounds", replaced(23, b"\xff" * 8)),
    (SealingCode.CAPSULE_SIZE_WRONG, "none", replaced(HEADER_SIZE - 2, b"\x00\x00")),
    (SealingCode.CAPSULE_SIZE_WRONG, "a length that lies", replaced(HEADER_SIZE - 2, b"\xff\xff")),
    (SealingCode.CAPSULE_ALTERED, "one bit", flipped(HEADER_SIZE)),
    (SealingCode.CAPSULE_ALTERED, "another of the same size", replaced(HEADER_SIZE, CAPSULE[::-1])),
    (SealingCode.CAPSULE_ALTERED, "its hash", flipped(HEADER_SIZE - 3)),
    (SealingCode.CAPSULE_ALTERED, "its size", replaced(HEADER_SIZE - 2, (len(CAPSULE) - 1).to_bytes(2, "big"))),
    (SealingCode.OTHER_SUITE, "the other one", replaced(18, b"\x02")),
    (SealingCode.OTHER_RECORD, "another record's object", lambda _: seal(CONTENT, record=b"S" * 32)),
    (SealingCode.OTHER_RECORD, "the id in the header", flipped(31)),
    (SealingCode.OTHER_VERSION, "another version's object", lambda _: seal(CONTENT, version=2)),
    (SealingCode.OTHER_VERSION, "the version in the header", flipped(66)),
    (SealingCode.KEY_WRONG, "sealed under another key", lambda _: seal(CONTENT, key=bytes(32))),
    (SealingCode.KEY_WRONG, "the commitment", flipped(67)),
    (SealingCode.HEADER_ALTERED, "a length that lies by one byte", flipped(30)),
    (SealingCode.HEADER_ALTERED, "the tag", flipped(PREFIX - 1)),
    (
        SealingCode.HEADER_ALTERED,
        "another capsule with its hash",
        lambda data: replaced(HEADER_SIZE - 34, sha256(CAPSULE[::-1]).digest())(
            replaced(HEADER_SIZE, CAPSULE[::-1])(data)
        ),
    ),
    (SealingCode.CUT_INSIDE_CHUNK, "by one byte", lambda data: data[:-1]),
    (SealingCode.CUT_INSIDE_CHUNK, "within the first chunk", lambda data: data[: PREFIX + 1]),
    (SealingCode.CUT_INSIDE_CHUNK, "an honest header, a shorter content", lambda _: by_hand(CONTENT, size=CHUNK * 5)),
    (SealingCode.CUT_BETWEEN_CHUNKS, "the last chunk", rearranged(0, 1, 2, 3)),
    (SealingCode.CUT_BETWEEN_CHUNKS, "all chunks", lambda data: data[:PREFIX]),
    (SealingCode.EXTENDED, "by one byte", lambda data: data + b"\x00"),
    (SealingCode.EXTENDED, "a chunk again", rearranged(0, 1, 2, 3, 3, 4)),
    (SealingCode.EXTENDED, "an honest header, a longer content", lambda _: by_hand(CONTENT, size=CHUNK)),
    (SealingCode.CHUNK_REPEATED, "in another's place", rearranged(0, 1, 1, 3, 4)),
    (SealingCode.CHUNK_REPEATED, "in the first's place", rearranged(3, 1, 2, 3, 4)),
    (SealingCode.CHUNK_MOVED, "two exchanged", rearranged(0, 2, 1, 3, 4)),
    (SealingCode.CHUNK_MOVED, "all turned round", rearranged(3, 0, 1, 2, 4)),
    (SealingCode.CHUNK_MOVED, "the last one forward", rearranged(0, 1, 4, 3, 2)),
    (SealingCode.CHUNK_ALTERED, "one bit of the first", flipped(PREFIX)),
    (SealingCode.CHUNK_ALTERED, "one bit of a tag", flipped(PREFIX + SEALED_CHUNK_BYTES - 1)),
    (SealingCode.CHUNK_ALTERED, "one bit of the last", flipped(len(DATA) - 1)),
    (SealingCode.CHUNK_ALTERED, "from another version under the same key", other_object),
    (SealingCode.CHUNK_ALTERED, "another is called the last", lambda _: by_hand(CONTENT, chunks=2)),
]


@pytest.mark.parametrize(("code", "damage"), [pytest.param(c, d, id=f"{c.name}-{n}") for c, n, d in ROWS])
def test_every_defect_has_its_code(code: SealingCode, damage: Damage) -> None:
    damaged = damage(DATA)
    assert damaged != DATA
    with pytest.raises(Rejected) as refused:
        opened(damaged)
    assert refused.value.code is code


def test_other_full_chunks_in_the_last_place() -> None:
    """When all chunks are full the last one moves like any other."""
    data = seal(content_of(3 * CHUNK))
    for order, code in [((2, 1, 0), SealingCode.CHUNK_MOVED), ((0, 1, 1), SealingCode.CHUNK_REPEATED)]:
        with pytest.raises(Rejected) as refused:
            opened(rearranged(*order)(data))
        assert refused.value.code is code


def test_a_wrong_key_is_told_before_anything_is_decrypted() -> None:
    with pytest.raises(Rejected) as refused:
        reader(DATA, bytes(32))
    assert refused.value.code is SealingCode.KEY_WRONG


def test_a_file_that_is_cut_while_it_is_read() -> None:
    stream = io.BytesIO(DATA)
    reading = ObjectReader(stream, KEY, record=RECORD, version=1)
    stream.truncate(len(DATA) - 1)
    with pytest.raises(Rejected) as refused:
        reading.read(4 * CHUNK, 100)
    assert refused.value.code is SealingCode.CUT_INSIDE_CHUNK


def test_an_address_names_one_object() -> None:
    assert address_of(DATA) == sha256(DATA).digest() == address_of(Dripping(DATA))
    require_address(DATA, sha256(DATA).digest())
    with pytest.raises(Rejected) as refused:
        require_address(DATA + b"\x00", sha256(DATA).digest())
    assert refused.value.code is SealingCode.OTHER_ADDRESS


def test_every_code_of_an_object_has_a_row() -> None:
    rows = {code for code, *_ in ROWS}
    elsewhere = {
        SealingCode.OUTSIDE_CONTENT,
        SealingCode.OTHER_ADDRESS,
        SealingCode.SOURCE_SIZE_WRONG,
        SealingCode.ALREADY_SEALED,  # tests/unit/sealing/test_object_files.py
        SealingCode.ALREADY_OPENED,
    }
    assert rows | elsewhere == {code for code in SealingCode if int(code) < 2140}


_LARGE = """
import sys
from pathlib import Path
from carechain.sealing.object_files import open_file, seal_file

class Zeros:
    def __init__(self, size): self.left = size
    def readinto(self, buffer):
        size = min(len(buffer), self.left)
        self.left -= size
        buffer[:size] = bytes(size)
        return size
    def close(self): pass

folder, size = Path(sys.argv[1]), int(sys.argv[2])
def keep(key):
    kept.append(key)
    return b"capsule"
kept = []
sealed = seal_file(lambda: Zeros(size), folder / "object", record=bytes(32), version=1, size=size,
                   make_capsule=keep, entropy=lambda n: bytes(n))
with (folder / "object").open("rb", buffering=0) as file:
    assert open_file(file, folder / "plain", kept[0], record=bytes(32), version=1) == size
# Not getrusage: that begins with the memory of whoever started this process.
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_object(tmp_path: Path) -> None:
    """Sealed into a file that survives a kill and opened again: the whole process stays within 96 MB."""
    ran = subprocess.run(
        [sys.executable, "-c", _LARGE, str(tmp_path), str(500_000_000)], capture_output=True, check=True, text=True
    )
    assert int(ran.stdout) * 1024 < MEMORY_BYTES
