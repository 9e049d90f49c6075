"""Sealing into a file and opening into a file so that a kill costs nothing: the same command finishes (REC-9).

**Sealing.** What is written goes to ``<name>.part``; the name itself appears when the object is whole and on the disk.
A content of more than one piece (8 MiB) has a note beside it, ``<name>.sealing``, mode 0600: the key, the capsule, and
for every piece its fingerprint under that key, on the disk before the first byte of the piece is encrypted. Started
again, the source is read from its beginning, and a piece is encrypted only if it has the fingerprint that was noted. So
no (key, nonce) ever meets two plaintexts, whatever was lost or altered meanwhile: the same pieces give the same bytes,
and another source gets another key. When the object is whole, the note is overwritten and removed, and the key is gone.

A smaller content has no note, so its key is never on a disk; killed, it starts anew under another key.

**Opening.** Plaintext goes to ``<name>.opening``, mode 0600. What stands there from before is compared with what the
object says, never believed, and the name appears when everything was authenticated.
"""

from collections.abc import Callable
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Final, Self

import msgspec
from msgspec import Meta, Struct

from carechain.core.codec import Malformed, decode_strict, encode
from carechain.core.hashing import HASH_SIZE
from carechain.core.ids import U32, U63, RecordId
from carechain.core.limits import CAPSULE_SIZE_BYTES, OBJECT_CHUNK_BYTES
from carechain.core.rejection import Rejected, require
from carechain.core.suite import TAG_SIZE, Institution
from carechain.engine.disk import OsFile
from carechain.sealing.chunks import FINGERPRINT_SIZE, OBJECT_KEY_SIZE, Fingerprints
from carechain.sealing.codes import SealingCode
from carechain.sealing.objects import (
    WINDOW_BYTES,
    ChunkSealer,
    ObjectReader,
    Sealed,
    Sealer,
    Seekable,
    Source,
    pieces,
)
from carechain.state.log import sync_folder

PIECE_BYTES: Final = 16 * WINDOW_BYTES
"""What is fingerprinted, and noted with one sync of the disk, at a time: a whole number of windows."""
PART: Final = ".part"
NOTE: Final = ".sealing"
OPENING: Final = ".opening"
_LENGTH_BYTES: Final = 2


class _SourceChanged(Exception):  # noqa: N818 - the state of the environment
    """A piece is not the one that was noted."""


class _Job(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """What is being sealed: with the same job, and the same content, the object is the same. The repr shows no key."""

    suite: Institution
    record: RecordId
    version: U32
    size: U63
    key: Annotated[bytes, Meta(min_length=OBJECT_KEY_SIZE, max_length=OBJECT_KEY_SIZE)]
    capsule: Annotated[bytes, Meta(max_length=CAPSULE_SIZE_BYTES)]

    def __repr__(self) -> str:
        return "_Job(…)"


_decoder = msgspec.msgpack.Decoder(_Job)


class _Note:
    """The private file that lets a sealing go on: the job with a checksum, then a fingerprint for every piece.

    Opening it takes the lock of this sealing, also where nothing will be noted.
    """

    def __init__(self, path: Path) -> None:
        """Raises :class:`~carechain.engine.disk.FileLocked` while another process seals to the same name."""
        self._path = path
        self._file = OsFile(path)
        self._start = 0
        self._noted = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def job(self) -> _Job | None:
        """What was being sealed; None where nothing was, or it was not noted whole: then nothing was encrypted."""
        raw = self._file.read_at(0, self._file.size())
        end = _LENGTH_BYTES + int.from_bytes(raw[:_LENGTH_BYTES], "big")
        self._start = end + HASH_SIZE
        if len(raw) < self._start or sha256(raw[:end]).digest() != raw[end : self._start]:
            return None
        self._noted = (len(raw) - self._start) // FINGERPRINT_SIZE
        try:
            return decode_strict(_decoder, raw[_LENGTH_BYTES:end])
        except Malformed:
            return None

    def begin(self, job: _Job) -> None:
        """Forget what was noted, and note ``job`` for good."""
        raw = encode(job)
        raw = len(raw).to_bytes(_LENGTH_BYTES, "big") + raw
        self.wipe()
        self._file.write_at(0, raw + sha256(raw).digest())
        self._file.sync()
        self._start, self._noted = len(raw) + HASH_SIZE, 0

    @property
    def noted(self) -> int:
        """How many pieces may have been encrypted."""
        return self._noted

    def settle(self, number: int, fingerprint: bytes) -> None:
        """See that piece ``number`` is the one that was noted, or note it for good: then it may be encrypted."""
        place = self._start + number * FINGERPRINT_SIZE
        if number < self._noted:
            if self._file.read_at(place, FINGERPRINT_SIZE) != fingerprint:
                raise _SourceChanged
            return
        self._file.write_at(place, fingerprint)
        self._file.sync()
        self._noted = number + 1

    def wipe(self) -> None:
        """Overwrite what the note holds, then empty it. A disk that copies what it changes may keep the old bytes."""
        size = self._file.size()
        if not size:
            return
        self._file.write_at(0, bytes(size))
        self._file.sync()
        self._file.truncate(0)
        self._file.sync()

    def remove(self) -> None:
        """Overwrite it and take it from the folder."""
        self.wipe()
        self._path.unlink(missing_ok=True)


class _Part:
    """The unfinished file: bytes that already stand where they belong are not written again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = OsFile(path)
        self.size = self._file.size()
        self._place = 0

    def write(self, data: bytes | memoryview) -> None:
        """Put ``data`` after what was written last."""
        if self._place >= self.size or self._file.read_at(self._place, len(data)) != data:
            self._file.write_at(self._place, bytes(data))
        self._place += len(data)

    def restart(self) -> None:
        """Drop everything."""
        self._file.truncate(0)
        self.size = self._place = 0

    def finish(self, target: Path) -> None:
        """Cut what stands behind, and give the file its name once it is on the disk."""
        self._file.truncate(self._place)
        self._file.sync()
        self._file.close()
        self.path.rename(target)
        sync_folder(target.parent)

    def close(self) -> None:
        """Release the file; what it holds stays for the next time."""
        self._file.close()


def seal_file(
    open_source: Callable[[], Source],
    target: Path,
    *,
    record: bytes,
    version: int,
    size: int,
    make_capsule: Callable[[bytes], bytes],
    entropy: Callable[[int], bytes],
    suite: Institution = Institution.INTERNATIONAL,
) -> Sealed:
    """Seal a content of ``size`` bytes into the new file ``target``; after a kill, make the same call again.

    ``open_source`` gives the content from its beginning, the same bytes every time. ``make_capsule(key)`` seals the
    32-byte key, drawn from ``entropy``, for the keyholders; a sealing that goes on keeps the capsule it began with.
    Raises ``Rejected`` (``ALREADY_SEALED`` leaves the file alone), ``OSError``, and
    :class:`~carechain.engine.disk.FileLocked` while another process seals to the same name.
    """
    part_path = target.with_name(target.name + PART)
    with _Note(target.with_name(target.name + NOTE)) as note:
        job = note.job()
        if target.exists():
            if job is None:
                note.remove()
            # Beside an unfinished object, the file is somebody else's.
            require(job is not None and not part_path.exists(), SealingCode.ALREADY_SEALED)
            # Killed between the name and the end: it is read through once more, which costs little and is sure.
            target.rename(part_path)
        with closing(_Part(part_path)) as part:
            if job is not None and (job.suite, job.record, job.version, job.size) == (suite, record, version, size):
                try:
                    return _sealed(open_source, target, part, note, job)
                except _SourceChanged:
                    part.restart()
            key = entropy(OBJECT_KEY_SIZE)
            job = _Job(suite=suite, record=record, version=version, size=size, key=key, capsule=make_capsule(key))
            part.restart()
            if size > PIECE_BYTES:
                note.begin(job)
            else:
                note.wipe()
            return _sealed(open_source, target, part, note, job)


def _sealed(open_source: Callable[[], Source], target: Path, part: _Part, note: _Note, job: _Job) -> Sealed:
    """Seal from the beginning, in the same way every time. Raises :class:`_SourceChanged` before harm is done."""
    try:
        chunks = ChunkSealer(
            key=job.key, capsule=job.capsule, record=job.record, version=job.version, size=job.size, suite=job.suite
        )
        if part.size > _reachable(chunks, note.noted):
            # The note is behind what was written, which no order of writing gives: a disk that breaks its word.
            raise _SourceChanged
        fingerprints = Fingerprints(job.key, chunks.prefix_hash)
        with closing(open_source()) as source:
            sealer = Sealer(chunks)
            part.write(chunks.prefix)
            for number, piece in enumerate(pieces(source, job.size, PIECE_BYTES)):
                if job.size > PIECE_BYTES:
                    note.settle(number, fingerprints.mark(number, piece))
                sealer.seal(piece, part.write)
            sealed = sealer.finish()
    except Rejected:
        # It would be the same next time: a size that is impossible, or not the source's.
        part.path.unlink()
        note.remove()
        raise
    part.finish(target)
    note.remove()
    sync_folder(target.parent)
    return sealed


def _reachable(chunks: ChunkSealer, noted: int) -> int:
    """The most bytes that a sealing with so many noted pieces can have written."""
    plain = min(noted * PIECE_BYTES, chunks.header.size_bytes)
    return chunks.header.prefix_size + plain + -(-plain // OBJECT_CHUNK_BYTES) * TAG_SIZE


def abandon(target: Path) -> None:
    """Give up a sealing that will not go on: overwrite its note, with the key, and remove what was written."""
    with _Note(target.with_name(target.name + NOTE)) as note:
        target.with_name(target.name + PART).unlink(missing_ok=True)
        note.remove()
        sync_folder(target.parent)


def open_file(
    source: bytes | Seekable,
    target: Path,
    key: bytes,
    *,
    record: bytes,
    version: int,
    suite: Institution = Institution.INTERNATIONAL,
) -> int:
    """Open an object into the new file ``target`` (mode 0600); how many bytes. After a kill, call it again.

    A file that already holds exactly the content is left as it is. Raises ``Rejected`` (2101–2119, or
    ``ALREADY_OPENED`` for a file with anything else), ``OSError``, and :class:`~carechain.engine.disk.FileLocked`.
    """
    reader = ObjectReader(source, key, record=record, version=version, suite=suite)
    if target.exists():
        require(_holds(target, reader), SealingCode.ALREADY_OPENED)
        return reader.size
    with closing(_Part(target.with_name(target.name + OPENING))) as part:
        for piece in reader.chunks():
            part.write(piece)
        part.finish(target)
    return reader.size


def _holds(path: Path, reader: ObjectReader) -> bool:
    """Whether a file is the content, to the last byte."""
    if path.stat().st_size != reader.size:
        return False
    with path.open("rb") as file:
        return all(file.read(len(piece)) == piece for piece in reader.chunks())
