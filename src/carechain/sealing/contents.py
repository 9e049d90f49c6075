"""The contents of a sealed record: every resource with its salt, so that who opens it can check it against the anchor.

Layout, numbers with the most significant byte first::

    format u16 = 1 ‖ count u32 ‖ count x (salt (32) ‖ size u32) ‖ the resources' bytes, one after the other

The order is the anchor's. The resources' bytes are exactly those that were received, so they lead to the Merkle root
on the ledger (REC-1); where they do not, nothing is given out. Both ways stream: a resource of hundreds of megabytes
needs no more memory than a small one.
"""

import io
import struct
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol

from msgspec import Struct

from carechain.core import merkle
from carechain.core.commitment import begin_commitment
from carechain.core.limits import RESOURCES_PER_RECORD
from carechain.core.rejection import require
from carechain.core.suite import Hasher, Institution
from carechain.sealing.codes import SealingCode
from carechain.sealing.objects import Source
from carechain.sealing.package import SALT_SIZE

FORMAT: Final = 1
_HEAD: Final = struct.Struct(">HI")
_ENTRY: Final = struct.Struct(f">{SALT_SIZE}sI")
RESOURCE_SIZE_BYTES: Final = 0xFFFF_FFFF
"""A larger resource has no commitment: its size would not fit what is hashed."""


class Resource(Struct, frozen=True, kw_only=True):
    """One resource to be sealed: its 32-byte salt, its size, and how to read it from its beginning."""

    salt: bytes
    size: int
    open: Callable[[], Source]

    @staticmethod
    def of(salt: bytes, content: bytes) -> "Resource":
        """A resource that is in memory."""
        return Resource(salt=salt, size=len(content), open=lambda: io.BytesIO(content))

    def __repr__(self) -> str:
        return f"Resource(size={self.size})"


class ContentsSource:
    """The contents of a record as a stream of known size, for sealing; it computes the record's root on the way.

    Compare :attr:`root` with the anchor before the key is dropped: nobody could read what does not lead to it.
    """

    def __init__(self, resources: Sequence[Resource], suite: Institution = Institution.INTERNATIONAL) -> None:
        """In the order of the anchor. Raises ``Rejected(CONTENTS_COUNT_WRONG)``, ``ValueError`` for salts and sizes."""
        require(0 < len(resources) <= RESOURCES_PER_RECORD, SealingCode.CONTENTS_COUNT_WRONG)
        if any(len(one.salt) != SALT_SIZE or not 0 <= one.size <= RESOURCE_SIZE_BYTES for one in resources):
            raise ValueError("a salt has 32 bytes and a resource less than 4 GiB")
        table = b"".join(_ENTRY.pack(one.salt, one.size) for one in resources)
        self._head = memoryview(_HEAD.pack(FORMAT, len(resources)) + table)
        self._suite = suite
        self._resources = resources
        self.size = len(self._head) + sum(one.size for one in resources)
        self._leaves: list[bytes] = []
        self._reading: tuple[Source, Hasher] | None = None
        self._left = 0

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill ``buffer`` as far as the contents go; ``SOURCE_SIZE_WRONG`` where a resource has another size."""
        place = min(len(buffer), len(self._head))
        buffer[:place] = self._head[:place]
        self._head = self._head[place:]
        while place < len(buffer) and (reading := self._current()) is not None:
            source, hasher = reading
            got = source.readinto(buffer[place : place + min(self._left, len(buffer) - place)]) or 0
            require(got > 0, SealingCode.SOURCE_SIZE_WRONG)
            hasher.update(buffer[place : place + got])
            place += got
            self._left -= got
        if not self._left:
            # The last resource is finished with its last byte, so that the root is there when the contents are.
            self._current()
        return place

    @property
    def root(self) -> bytes:
        """The root over the resources that were read; ``ValueError`` before the last one was."""
        if len(self._leaves) != len(self._resources):
            raise ValueError("the contents have not been read to their end")
        return merkle.root(self._leaves)

    def close(self) -> None:
        """Release the resource that is being read."""
        if self._reading is not None:
            self._reading[0].close()
            self._reading = None

    def _current(self) -> tuple[Source, Hasher] | None:
        """The resource with bytes left, after those that end here; None when all are read."""
        while not self._left:
            if self._reading is not None:
                source, hasher = self._reading
                require(not source.readinto(memoryview(bytearray(1))), SealingCode.SOURCE_SIZE_WRONG)
                self._leaves.append(merkle.leaf_hash(hasher.digest()))
                self.close()
            if self._head or len(self._leaves) == len(self._resources):
                return None
            one = self._resources[len(self._leaves)]
            self._reading = (one.open(), begin_commitment(one.salt, one.size, self._suite))
            self._left = one.size
        return self._reading


def write_contents(
    resources: Sequence[tuple[bytes, bytes]], suite: Institution = Institution.INTERNATIONAL
) -> tuple[bytes, bytes]:
    """The contents of a small record, of ``(salt, content)`` in the anchor's order, and their root."""
    source = ContentsSource([Resource.of(salt, content) for salt, content in resources], suite)
    buffer = bytearray(source.size)
    source.readinto(memoryview(buffer))
    return bytes(buffer), source.root


class PlainReader(Protocol):
    """Authenticated content to be read from any place; :class:`~carechain.sealing.objects.ObjectReader` is one."""

    @property
    def size(self) -> int:
        """Bytes of content."""

    def read(self, start: int, length: int) -> bytes:
        """``length`` bytes from ``start``."""

    def chunks(self, start: int = 0, end: int | None = None) -> Iterator[memoryview]:
        """The same in pieces, each valid until the next one is asked for."""


class Contents:
    """The contents of an opened record, every resource checked against the anchor before the first can be read."""

    def __init__(self, reader: PlainReader, root: bytes, suite: Institution = Institution.INTERNATIONAL) -> None:
        """Read everything once and compare it with ``root``, the ledger's. Raises ``Rejected`` with 2140–2144."""
        self._reader = reader
        self._suite = suite
        self._table, self._starts = _table_of(reader)
        leaves = [merkle.leaf_hash(commitment) for commitment in self._commitments()]
        require(merkle.root(leaves) == root, SealingCode.CONTENTS_NOT_ANCHORED)
        self._leaves = leaves

    def __len__(self) -> int:
        return len(self._starts) - 1

    def salt(self, index: int) -> bytes:
        """The salt of a resource."""
        return self._entry(index)[0]

    def size(self, index: int) -> int:
        """Bytes of a resource."""
        return self._entry(index)[1]

    def read(self, index: int) -> bytes:
        """A resource as it was received."""
        return b"".join(bytes(piece) for piece in self.chunks(index))

    def chunks(self, index: int) -> Iterator[memoryview]:
        """A resource in pieces, each valid until the next one is asked for.

        It is compared once more, at its end, because the object may lie in a file that changed since it was checked.
        """
        salt, size = self._entry(index)
        hasher = begin_commitment(salt, size, self._suite)
        for piece in self._reader.chunks(self._starts[index], self._starts[index + 1]):
            hasher.update(piece)
            yield piece
        require(merkle.leaf_hash(hasher.digest()) == self._leaves[index], SealingCode.CONTENTS_NOT_ANCHORED)

    def resources(self) -> tuple[tuple[bytes, bytes], ...]:
        """All resources as ``(salt, content)``, for records that fit in memory."""
        return tuple((self.salt(index), self.read(index)) for index in range(len(self)))

    def _entry(self, index: int) -> tuple[bytes, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        salt, size = _ENTRY.unpack_from(self._table, index * _ENTRY.size)
        return salt, size

    def _commitments(self) -> Iterator[bytes]:
        """The commitment of every resource, in one pass over the content."""
        index, start = 0, self._starts[0]
        hasher = begin_commitment(*self._entry(0), self._suite)
        for piece in self._reader.chunks(start):
            place = 0
            while place < len(piece):
                taken = min(len(piece) - place, self._starts[index + 1] - start)
                hasher.update(piece[place : place + taken])
                place, start = place + taken, start + taken
                while start == self._starts[index + 1] and index + 1 < len(self):
                    yield hasher.digest()
                    index += 1
                    hasher = begin_commitment(*self._entry(index), self._suite)
        yield hasher.digest()
        # Resources without a byte at the end, when no piece came that could have passed them.
        yield from (begin_commitment(*self._entry(rest), self._suite).digest() for rest in range(index + 1, len(self)))


def _table_of(reader: PlainReader) -> tuple[bytes, "array[int]"]:
    """The list of resources, and where each begins; one number more, for the end of the last."""
    require(reader.size >= _HEAD.size, SealingCode.CONTENTS_CUT)
    number, count = _HEAD.unpack(reader.read(0, _HEAD.size))
    require(number == FORMAT, SealingCode.CONTENTS_FORMAT_UNKNOWN)
    require(0 < count <= RESOURCES_PER_RECORD, SealingCode.CONTENTS_COUNT_WRONG)
    end = _HEAD.size + count * _ENTRY.size
    require(reader.size >= end, SealingCode.CONTENTS_CUT)
    table = reader.read(_HEAD.size, count * _ENTRY.size)
    starts = array("Q", [end])
    for _, size in _ENTRY.iter_unpack(table):
        starts.append(starts[-1] + size)
    require(starts[-1] == reader.size, SealingCode.CONTENTS_SIZE_WRONG)
    return table, starts
