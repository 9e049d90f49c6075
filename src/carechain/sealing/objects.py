"""The sealed object: a record's contents under one key, in chunks, with its capsule (KEY-1, REC-3, REC-9).

Layout (``docs/internals/objects.md`` has the table and test vectors)::

    header (133) ‖ capsule ‖ header tag (32) ‖ chunks

A chunk is 64 KiB of content under the suite's cipher and its 16-byte tag; only the last one may be shorter. Its nonce
is its number and whether it is the last one (the STREAM construction of Hoang, Reyhanitabar, Rogaway and Vizár,
CRYPTO 2015); its associated data is the hash of header and capsule. So an object that is altered, cut, extended or put
together from others does not open, a part of it can be read without the rest, and memory does not grow with it.

The address is the suite's hash over all bytes. Nothing here draws randomness: whoever seals brings a key that never
sealed anything else.
"""

import io
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from hmac import compare_digest
from typing import Final, Protocol

from msgspec import Struct

from carechain.core.hashing import HASH_SIZE
from carechain.core.ids import Hash, RecordId
from carechain.core.limits import CAPSULE_SIZE_BYTES, ID_SIZE, OBJECT_CHUNK_BYTES, OBJECT_SIZE_BYTES
from carechain.core.rejection import Rejected, require
from carechain.core.suite import TAG_SIZE, BadChunk, Institution
from carechain.sealing.chunks import chunk_nonce, cipher_of_object, header_tag, key_commitment
from carechain.sealing.codes import SealingCode

MAGIC: Final = b"carechain object"
FORMAT: Final = 1
_HEADER: Final = struct.Struct(">16sHBIQ32sI32s32sH")
HEADER_SIZE: Final = _HEADER.size
HEADER_TAG_SIZE: Final = HASH_SIZE
SEALED_CHUNK_BYTES: Final = OBJECT_CHUNK_BYTES + TAG_SIZE
_FORMAT_END: Final = len(MAGIC) + 2
_VERSIONS: Final = 1 << 32
_WINDOW_CHUNKS: Final = 8
WINDOW_BYTES: Final = _WINDOW_CHUNKS * OBJECT_CHUNK_BYTES
"""So much is read, encrypted, hashed and written at a time: it stays in the processor's cache from step to step."""
_DIAGNOSED_CHUNKS: Final = 4096
"""A chunk that does not open is looked for in so many other places; one that is farther away counts as altered."""


class Readable(Protocol):
    """Where bytes come from, in order: a file opened for reading in binary, or ``io.BytesIO``."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill the beginning of ``buffer``; how many bytes, 0 at the end."""


class Seekable(Readable, Protocol):
    """A source that can be read from any place."""

    def seek(self, offset: int, whence: int = ..., /) -> int:
        """Go there; the new place from the beginning."""


class Source(Readable, Protocol):
    """A content from its beginning; closed when it has been read."""

    def close(self) -> None:
        """Release it."""


Write = Callable[[memoryview], object]
"""Takes all bytes it is given, and is done with them when it returns: the method of a buffered file or of BytesIO."""


class Header(Struct, frozen=True, kw_only=True):
    """What stands at an object's beginning for everybody to see: no secret, and of the content its size only."""

    suite: Institution
    size_bytes: int
    record: RecordId
    version: int
    commitment: Hash
    capsule_hash: Hash
    capsule_size: int

    @property
    def chunks(self) -> int:
        """How many chunks follow; an empty content has one, empty."""
        return max(1, -(-self.size_bytes // OBJECT_CHUNK_BYTES))

    @property
    def prefix_size(self) -> int:
        """Where the chunks begin."""
        return HEADER_SIZE + self.capsule_size + HEADER_TAG_SIZE

    @property
    def object_size(self) -> int:
        """Bytes of the whole object."""
        return self.prefix_size + self.size_bytes + self.chunks * TAG_SIZE

    def sealed_size(self, index: int) -> int:
        """Bytes of chunk ``index`` with its tag."""
        return min(OBJECT_CHUNK_BYTES, self.size_bytes - index * OBJECT_CHUNK_BYTES) + TAG_SIZE

    def encode(self) -> bytes:
        """The header's 133 bytes, numbers with the most significant byte first."""
        return _HEADER.pack(
            MAGIC,
            FORMAT,
            self.suite,
            OBJECT_CHUNK_BYTES,
            self.size_bytes,
            self.record,
            self.version,
            self.commitment,
            self.capsule_hash,
            self.capsule_size,
        )


class Sealed(Struct, frozen=True, kw_only=True):
    """A whole object: its address (the hash of its bytes), its size, and the capsule in it."""

    address: Hash
    size: int
    capsule: bytes


class ChunkSealer:
    """The chunks of one object, encrypted window by window into memory that is given; no hash, no output."""

    def __init__(
        self, *, key: bytes, capsule: bytes, record: bytes, version: int, size: int, suite: Institution
    ) -> None:
        """``size`` is the content's. Raises ``Rejected`` where it or the capsule is out of bounds."""
        require(0 <= size <= OBJECT_SIZE_BYTES, SealingCode.SIZE_OUT_OF_BOUNDS)
        require(0 < len(capsule) <= CAPSULE_SIZE_BYTES, SealingCode.CAPSULE_SIZE_WRONG)
        if len(record) != ID_SIZE or not 0 <= version < _VERSIONS:
            raise ValueError("a record id has 32 bytes and a version at most 4")
        self.header = Header(
            suite=suite,
            size_bytes=size,
            record=record,
            version=version,
            commitment=key_commitment(suite, key),
            capsule_hash=suite.digest(capsule),
            capsule_size=len(capsule),
        )
        self.capsule = capsule
        self.prefix_hash = _prefix_hash(suite, self.header.encode(), capsule)
        self.prefix = self.header.encode() + capsule + header_tag(suite, key, self.prefix_hash)
        self._cipher = cipher_of_object(suite, key, self.prefix_hash)
        self._next = 0

    def seal(self, plain: memoryview, out: memoryview) -> memoryview:
        """Encrypt the next chunks; the part of ``out`` that was filled.

        ``plain`` is a whole number of chunks unless it is the content's end; a chunk cannot be sealed twice.
        """
        place = 0
        for start in range(0, len(plain) or 1, OBJECT_CHUNK_BYTES):
            piece = plain[start : start + OBJECT_CHUNK_BYTES]
            size = len(piece) + TAG_SIZE
            if self._next >= self.header.chunks or size != self.header.sealed_size(self._next):
                raise ValueError("not the content that was announced")
            nonce = chunk_nonce(self._next, final=self._next == self.header.chunks - 1)
            # Counted before the work: whatever happens during it, this nonce is used up.
            self._next += 1
            self._cipher.seal_into(nonce, piece, self.prefix_hash, out[place : place + size])
            place += size
        return out[:place]

    @property
    def complete(self) -> bool:
        """Whether every chunk has been sealed."""
        return self._next == self.header.chunks


class Sealer:
    """Seals one object from pieces of content, and hashes it on the way, each window while it is still in the cache.

    All in one thread: a second one for the hash gains a fifth on an idle machine, and loses as much on a busy one.
    """

    def __init__(self, chunks: ChunkSealer) -> None:
        """For an object of which nothing has been written yet; its prefix is the caller's to write."""
        self.chunks = chunks
        self._hasher = chunks.header.suite.new_hash()
        self._hasher.update(chunks.prefix)
        count = min(chunks.header.chunks, _WINDOW_CHUNKS)
        self._sealed = memoryview(bytearray(min(chunks.header.size_bytes, WINDOW_BYTES) + count * TAG_SIZE))

    def seal(self, piece: memoryview, write: Write) -> None:
        """Seal the next piece, a whole number of chunks unless it is the last one."""
        for start in range(0, len(piece) or 1, WINDOW_BYTES):
            sealed = self.chunks.seal(piece[start : start + WINDOW_BYTES], self._sealed)
            self._hasher.update(sealed)
            write(sealed)

    def finish(self) -> Sealed:
        """What was sealed, once all of it was."""
        if not self.chunks.complete:
            raise ValueError("the content has not been sealed to its end")
        return Sealed(address=self._hasher.digest(), size=self.chunks.header.object_size, capsule=self.chunks.capsule)


def seal_object(
    source: bytes | memoryview | Readable,
    write: Write,
    *,
    key: bytes,
    capsule: bytes,
    record: bytes,
    version: int,
    size: int | None = None,
    suite: Institution = Institution.INTERNATIONAL,
) -> Sealed:
    """Seal ``source`` and hand the object to ``write`` in order, in constant memory.

    ``key`` is 32 random bytes that seal this object only; ``capsule`` holds it for the keyholders. ``size`` is the
    content's in bytes and may be left out for bytes. Raises :class:`~carechain.core.rejection.Rejected`
    (``SOURCE_SIZE_WRONG`` when the source is shorter or longer: what was written then is no object). A large file
    that should survive a crash is sealed by :func:`carechain.sealing.object_files.seal_file`.
    """
    if isinstance(source, bytes | memoryview):
        size = len(source) if size is None else size
        require(size == len(source), SealingCode.SOURCE_SIZE_WRONG)
    elif size is None:
        raise ValueError("the size of a stream has to be said")
    chunks = ChunkSealer(key=key, capsule=capsule, record=record, version=version, size=size, suite=suite)
    sealer = Sealer(chunks)
    write(memoryview(chunks.prefix))
    if isinstance(source, bytes | memoryview):
        sealer.seal(memoryview(source), write)
    else:
        for piece in pieces(source, size, WINDOW_BYTES):
            sealer.seal(piece, write)
    return sealer.finish()


def pieces(source: Readable, size: int, piece_bytes: int) -> Iterator[memoryview]:
    """The ``size`` bytes of a source, each piece in the same memory; ``SOURCE_SIZE_WRONG`` if there are more or fewer.

    An empty source gives one empty piece.
    """
    buffer = memoryview(bytearray(min(size, piece_bytes)))
    left = size
    while True:
        piece = buffer[: min(left, piece_bytes)]
        require(_fill(source, piece) == len(piece), SealingCode.SOURCE_SIZE_WRONG)
        left -= len(piece)
        if not left:
            # Before the last piece is used, so that nothing is finished that turns out to be only a part.
            require(not source.readinto(memoryview(bytearray(1))), SealingCode.SOURCE_SIZE_WRONG)
        yield piece
        if not left:
            return


def read_prefix(source: bytes | Seekable) -> tuple[Header, bytes]:
    """An object's header and capsule, for which no key is needed; they are as authentic as the object's address.

    Raises ``Rejected`` with 2101–2109, of which ``OTHER_SUITE`` is not asked here.
    """
    found, capsule, _ = _read_prefix(as_source(source))
    return found, capsule


class ObjectReader:
    """Reads an object with its key, from any place, in constant memory; gives out only what was authenticated.

    Not for use from two threads at once.
    """

    def __init__(
        self,
        source: bytes | Seekable,
        key: bytes,
        *,
        record: bytes,
        version: int,
        suite: Institution = Institution.INTERNATIONAL,
    ) -> None:
        """Check everything but the chunks: the form, whose object it is, the key, the header, the length.

        Raises ``Rejected`` with 2101–2116.
        """
        self._source = as_source(source)
        self.header, self.capsule, tag = _read_prefix(self._source, suite)
        header = self.header
        require(header.record == record, SealingCode.OTHER_RECORD)
        require(header.version == version, SealingCode.OTHER_VERSION)
        require(compare_digest(header.commitment, key_commitment(suite, key)), SealingCode.KEY_WRONG)
        self._prefix_hash = _prefix_hash(suite, header.encode(), self.capsule)
        require(compare_digest(tag, header_tag(suite, key, self._prefix_hash)), SealingCode.HEADER_ALTERED)
        self._require_extent(self._source.seek(0, os.SEEK_END))
        self._cipher = cipher_of_object(suite, key, self._prefix_hash)
        window = min(header.chunks, _WINDOW_CHUNKS)
        self._sealed = memoryview(bytearray(min(header.object_size, window * SEALED_CHUNK_BYTES)))
        self._plain = memoryview(bytearray(min(header.size_bytes, window * OBJECT_CHUNK_BYTES)))

    @property
    def size(self) -> int:
        """Bytes of content."""
        return self.header.size_bytes

    def read(self, start: int, length: int) -> bytes:
        """``length`` bytes of content from ``start``; ``OUTSIDE_CONTENT`` where there are not so many."""
        require(start >= 0 and length >= 0, SealingCode.OUTSIDE_CONTENT)
        # Copied one by one, because a piece is only good until the next.
        return b"".join(bytes(piece) for piece in self.chunks(start, start + length))

    def chunks(self, start: int = 0, end: int | None = None) -> Iterator[memoryview]:
        """The content from ``start`` to ``end``, in pieces of up to 512 KiB.

        A piece is valid until the next one is asked for: they share their memory. Every chunk that the range touches is
        authenticated as a whole before any of it comes out, and of an empty content the one chunk that it has.
        Raises ``Rejected`` with 2114 and 2117–2120.
        """
        end = self.size if end is None else end
        require(0 <= start <= end <= self.size, SealingCode.OUTSIDE_CONTENT)
        index = start // OBJECT_CHUNK_BYTES
        while start < end or (index == 0 and not self.size):
            count = min(_WINDOW_CHUNKS, -(-max(1, end) // OBJECT_CHUNK_BYTES) - index)
            opened = self._open(index, count)
            offset = index * OBJECT_CHUNK_BYTES
            yield opened[start - offset : end - offset]
            start = offset + len(opened)
            index += count

    def _open(self, first: int, count: int) -> memoryview:
        """The content of ``count`` chunks from ``first``, in this reader's own memory."""
        header = self.header
        sizes = [header.sealed_size(index) for index in range(first, first + count)]
        run = self._sealed[: sum(sizes)]
        self._source.seek(header.prefix_size + first * SEALED_CHUNK_BYTES)
        # The length was right a moment ago: somebody is cutting the file while it is read.
        require(_fill(self._source, run) == len(run), SealingCode.CUT_INSIDE_CHUNK)
        place = written = 0
        for index, size in enumerate(sizes, first):
            sealed, out = run[place : place + size], self._plain[written : written + size - TAG_SIZE]
            if not self._opens_as(index, sealed, out):
                raise Rejected(self._defect(index, bytes(sealed)))
            place += size
            written += size - TAG_SIZE
        return self._plain[:written]

    def _opens_as(self, index: int, sealed: memoryview, out: memoryview) -> bool:
        nonce = chunk_nonce(index, final=index == self.header.chunks - 1)
        try:
            self._cipher.open_into(nonce, sealed, self._prefix_hash, out)
        except BadChunk:
            return False
        return True

    def _defect(self, index: int, found: bytes) -> SealingCode:
        """What became of chunk ``index``, in whose place ``found`` stands."""
        scratch = memoryview(bytearray(OBJECT_CHUNK_BYTES))
        for other in self._near(index):
            size = self.header.sealed_size(other)
            if size > len(found) or not self._opens_as(other, memoryview(found)[:size], scratch[: size - TAG_SIZE]):
                continue
            sealed = memoryview(bytearray(size))
            self._source.seek(self.header.prefix_size + other * SEALED_CHUNK_BYTES)
            at_home = _fill(self._source, sealed) == size and self._opens_as(other, sealed, scratch[: size - TAG_SIZE])
            return SealingCode.CHUNK_REPEATED if at_home else SealingCode.CHUNK_MOVED
        return SealingCode.CHUNK_ALTERED

    def _near(self, index: int) -> Sequence[int]:
        """Other chunks that could stand in this one's place, not more than a bounded number."""
        first = max(0, min(index - _DIAGNOSED_CHUNKS // 2, self.header.chunks - _DIAGNOSED_CHUNKS))
        last = min(self.header.chunks, first + _DIAGNOSED_CHUNKS)
        return [other for other in range(first, last) if other != index]

    def _require_extent(self, actual: int) -> None:
        """Judged by an authentic header only: the length that it states is the sealer's."""
        require(actual <= self.header.object_size, SealingCode.EXTENDED)
        if actual == self.header.object_size:
            return
        between = (actual - self.header.prefix_size) % SEALED_CHUNK_BYTES == 0
        raise Rejected(SealingCode.CUT_BETWEEN_CHUNKS if between else SealingCode.CUT_INSIDE_CHUNK)


def address_of(source: bytes | Readable, suite: Institution = Institution.INTERNATIONAL) -> bytes:
    """The address of an object, read from where the source stands to its end, in constant memory."""
    hasher = suite.new_hash()
    buffer = memoryview(bytearray(WINDOW_BYTES))
    stream: Readable = io.BytesIO(source) if isinstance(source, bytes) else source
    while size := stream.readinto(buffer):
        hasher.update(buffer[:size])
    return hasher.digest()


def require_address(source: bytes | Readable, address: bytes, suite: Institution = Institution.INTERNATIONAL) -> None:
    """See that a source is the object with this address; raises ``Rejected(OTHER_ADDRESS)``."""
    require(address_of(source, suite) == address, SealingCode.OTHER_ADDRESS)


def as_source(source: bytes | Seekable) -> Seekable:
    """Bytes as something to read from; a file as it is."""
    return io.BytesIO(source) if isinstance(source, bytes) else source


def _prefix_hash(suite: Institution, header: bytes, capsule: bytes) -> bytes:
    return suite.tagged("carechain/object/1", header, capsule)


def _read_prefix(source: Seekable, suite: Institution | None = None) -> tuple[Header, bytes, bytes]:
    """Header, capsule and header tag, as far as they can be judged without a key; ``suite`` is the one it must have."""
    source.seek(0)
    raw = _taken(source, HEADER_SIZE)
    require(raw[: len(MAGIC)] == MAGIC, SealingCode.NOT_AN_OBJECT)
    require(len(raw) >= _FORMAT_END, SealingCode.HEADER_CUT)
    require(int.from_bytes(raw[len(MAGIC) : _FORMAT_END], "big") == FORMAT, SealingCode.FORMAT_UNKNOWN)
    require(len(raw) == HEADER_SIZE, SealingCode.HEADER_CUT)
    _, _, stated, chunk_size, size, record, version, commitment, capsule_hash, capsule_size = _HEADER.unpack(raw)
    require(stated in {int(one) for one in Institution}, SealingCode.SUITE_UNKNOWN)
    require(suite in (None, stated), SealingCode.OTHER_SUITE)
    require(chunk_size == OBJECT_CHUNK_BYTES, SealingCode.CHUNK_SIZE_WRONG)
    require(size <= OBJECT_SIZE_BYTES, SealingCode.SIZE_OUT_OF_BOUNDS)
    require(0 < capsule_size <= CAPSULE_SIZE_BYTES, SealingCode.CAPSULE_SIZE_WRONG)
    rest = _taken(source, capsule_size + HEADER_TAG_SIZE)
    require(len(rest) == capsule_size + HEADER_TAG_SIZE, SealingCode.HEADER_CUT)
    header = Header(
        suite=Institution(stated),
        size_bytes=size,
        record=record,
        version=version,
        commitment=commitment,
        capsule_hash=capsule_hash,
        capsule_size=capsule_size,
    )
    capsule, tag = rest[:capsule_size], rest[capsule_size:]
    require(header.suite.digest(capsule) == capsule_hash, SealingCode.CAPSULE_ALTERED)
    return header, capsule, tag


def _taken(source: Readable, size: int) -> bytes:
    """Up to ``size`` bytes: fewer only where the source ends."""
    buffer = bytearray(size)
    return bytes(buffer[: _fill(source, memoryview(buffer))])


def _fill(source: Readable, buffer: memoryview) -> int:
    """Read until ``buffer`` is full or the source ends; how many bytes. A pipe may give few at a time."""
    place = 0
    while place < len(buffer) and (size := source.readinto(buffer[place:])):
        place += size
    return place
