"""Sealed records from end to end: seal what one cannot read again, and open what a ticket covers (KEY-1, REC-3).

**Sealing** takes no secret of anybody's, only the consortium's public key: a laboratory seals a record, anchors it, and
has nothing left with which it could open it. The record key lives in one function call.

**Opening** fetches the object, compares its capsule with the anchor, gathers shares of the capsule's key from the
keyholders, and believes the content only when every resource leads to the root on the ledger. Nothing on the way has to
be trusted: neither the vault, nor the gatekeeper, nor fewer than ``t`` keyholders.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from io import BufferedReader, BufferedWriter, BytesIO
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

from msgspec import Struct

from carechain.chain.questions import AnchorLine
from carechain.contracts.records import Anchor, SealedHashes
from carechain.core.limits import GATEKEEPER_RESPONSE_BYTES, SHARES_PER_REQUEST
from carechain.core.quorum import Label
from carechain.core.rejection import Rejected, require
from carechain.core.scope import Day
from carechain.core.suite import Institution
from carechain.core.vocabulary import Category, Sensitivity
from carechain.sdk.gathering import Gatherer, ToRelease
from carechain.sdk.opening import NotBelieved, OpenedRecord
from carechain.sdk.padding import padded
from carechain.sealing.chunks import OBJECT_KEY_SIZE, key_commitment
from carechain.sealing.codes import SealingCode
from carechain.sealing.contents import Contents, ContentsSource, Resource
from carechain.sealing.object_files import seal_file
from carechain.sealing.objects import Header, ObjectReader, Sealed, read_prefix, seal_object
from carechain.sealing.quorum.capsule import ENTROPY_SIZE, seal_key
from carechain.sealing.quorum.release import read_capsule
from carechain.vault.base import verified

FETCHES_AT_ONCE: Final = 16
READ_BYTES: Final = 4 * GATEKEEPER_RESPONSE_BYTES
"""The most that the objects of one batch may take in memory."""
_HASHED_BYTES: Final = 1 << 20


class About(Struct, frozen=True, kw_only=True):
    """What is sealed, as the ledger will show it: whose record, which version, category, grade and clinical day."""

    pseudonym: bytes
    record: bytes
    version: int
    category: Category
    sensitivity: Sensitivity
    day: Day

    def label(self, chain_id: str) -> Label:
        """What the capsule is bound to."""
        return Label(
            chain_id=chain_id,
            pseudonym=self.pseudonym,
            record=self.record,
            version=self.version,
            category=self.category,
            sensitivity=self.sensitivity,
            day=self.day,
        )


class Consortium(Struct, frozen=True, kw_only=True):
    """For whom is sealed: the network, the consortium's public key of the present epoch, and the network's suite."""

    chain_id: str
    public_key: bytes
    suite: Institution = Institution.INTERNATIONAL


# --- sealing --------------------------------------------------------------------------------------------


def seal_record(
    resources: Sequence[tuple[bytes, bytes]], *, about: About, consortium: Consortium, entropy: Callable[[int], bytes]
) -> tuple[Anchor, bytes]:
    """The anchor to put on the ledger and the object to put into a vault, of a record that fits in memory.

    ``resources`` are (32-byte salt, received bytes) in the anchor's order; ``entropy(n)`` gives fresh random bytes.
    Raises ``Rejected`` with a ``SealingCode``, and ``BadElement`` where the public key is not a point. The key is gone
    when this returns.
    """
    source = ContentsSource([Resource.of(salt, content) for salt, content in resources], consortium.suite)
    key = entropy(OBJECT_KEY_SIZE)
    out = BytesIO()
    sealed = seal_object(
        source,
        out.write,
        key=key,
        capsule=_capsule(key, about, consortium, entropy),
        record=about.record,
        version=about.version,
        size=source.size,
        suite=consortium.suite,
    )
    return _anchor(about, source.root, len(resources), sealed, entropy), out.getvalue()


def seal_record_file(
    resources: Sequence[Resource],
    target: Path,
    *,
    about: About,
    consortium: Consortium,
    entropy: Callable[[int], bytes],
) -> tuple[Anchor, Sealed]:
    """As :func:`seal_record`, into the new file ``target``, in constant memory; after a kill, make the same call again.

    The salts must be the same ones then. Raises as :func:`carechain.sealing.object_files.seal_file`; a file of that
    name that is whole already is refused with ``ALREADY_SEALED``: unless its anchor is on the ledger, remove it and
    seal anew.
    """
    sources: list[ContentsSource] = []

    def opened() -> ContentsSource:
        sources.append(ContentsSource(resources, consortium.suite))
        return sources[-1]

    sealed = seal_file(
        opened,
        target,
        record=about.record,
        version=about.version,
        size=opened().size,
        make_capsule=lambda key: _capsule(key, about, consortium, entropy),
        entropy=entropy,
        suite=consortium.suite,
    )
    return _anchor(about, sources[-1].root, len(resources), sealed, entropy), sealed


def _capsule(key: bytes, about: About, consortium: Consortium, entropy: Callable[[int], bytes]) -> bytes:
    label = about.label(consortium.chain_id)
    return seal_key(consortium.public_key, label=label, key=key, entropy=entropy(ENTROPY_SIZE)).encode()


def _anchor(about: About, root: bytes, count: int, sealed: Sealed, entropy: Callable[[int], bytes]) -> Anchor:
    bare = Anchor(
        pseudonym=about.pseudonym,
        record=about.record,
        version=about.version,
        root=root,
        resources=count,
        category=about.category,
        sensitivity=about.sensitivity,
        day=about.day,
        locator=b"",
        sealed=SealedHashes(capsule=sha256(sealed.capsule).digest(), object=sealed.address),
    )
    return padded(bare, entropy=entropy)


# --- opening --------------------------------------------------------------------------------------------


class Objects(Protocol):
    """Where the requester gets objects from: its own vault, or another organisation's through its door."""

    def open(self, address: bytes, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """The stored bytes from ``start`` on; nothing of them need be right."""


class TooMuchAtOnce(Exception):  # noqa: N818 - names what is wrong with the argument
    """The objects do not fit in memory together. Read fewer records at a time, or the large ones by ``open_large``."""


class _Fetched(Struct, frozen=True):
    """An object that is at hand, and what the anchor says it must be."""

    line: AnchorLine
    source: bytes | BufferedReader
    header: Header
    release: ToRelease


class OpenedObject:
    """A large record, opened where its object lies: a context manager. ``contents`` reads its resources in pieces."""

    def __init__(self, file: BufferedReader, contents: Contents) -> None:
        """Made by :meth:`SealedReader.open_large`."""
        self._file = file
        self.contents: Final = contents

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


class SealedReader:
    """Opens what a ticket covers. Who lied on the way stands in ``gatherer.misbehaved``."""

    def __init__(
        self,
        *,
        chain_id: str,
        gatherer: Gatherer,
        objects: Objects,
        suite: Institution = Institution.INTERNATIONAL,
    ) -> None:
        """``gatherer`` knows the requester and the keyholders; ``objects`` need not be trusted."""
        self.gatherer: Final = gatherer
        self._chain_id = chain_id
        self._objects = objects
        self._suite = suite

    async def read(self, ticket: bytes, pseudonym: bytes, lines: Sequence[AnchorLine]) -> tuple[OpenedRecord, ...]:
        """The records of these anchors, each verified, in their order; all of them or none.

        ``lines`` are what the ledger shows through the ticket, one version of a record at most. For records that fit in
        memory. Raises :class:`NotBelieved` naming the record and what is wrong with it, ``NotEnoughShares``,
        :class:`TooMuchAtOnce`, ``ValueError`` for a record that is named twice, and what ``objects`` raises.
        """
        if len({line.record for line in lines}) != len(lines):
            raise ValueError("a record is read once at a time")
        opened: list[OpenedRecord] = []
        for at in range(0, len(lines), SHARES_PER_REQUEST):
            opened += await self._read(ticket, pseudonym, lines[at : at + SHARES_PER_REQUEST])
        return tuple(opened)

    async def open_large(self, ticket: bytes, pseudonym: bytes, line: AnchorLine, at: Path) -> OpenedObject:
        """One record of any size, in constant memory; its object is fetched into the file ``at``, and stays there.

        What of it is there already, from a fetch that was broken off, is not fetched again. Raises as :meth:`read`.
        """
        with _about(line):
            await self._fetch_file(line, at)
            file = await asyncio.to_thread(at.open, "rb")
        try:
            fetched = self._expected(pseudonym, line, file)
            keys = await self.gatherer.keys(ticket, [fetched.release], self._fits({line.record: fetched}))
            return OpenedObject(file, await asyncio.to_thread(self._contents, fetched, _key_of(keys, fetched)))
        except BaseException:
            file.close()
            raise

    async def _read(self, ticket: bytes, pseudonym: bytes, lines: Sequence[AnchorLine]) -> list[OpenedRecord]:
        batch = _Batch()
        fetching = [asyncio.create_task(self._fetch(line, batch)) for line in lines]
        try:
            objects = await asyncio.gather(*fetching)
        finally:
            # Where one failed, the others are not worth waiting for.
            for task in fetching:
                task.cancel()
            await asyncio.gather(*fetching, return_exceptions=True)
        pairs = zip(lines, objects, strict=True)
        fetched = await asyncio.to_thread(
            lambda: {line.record: self._expected(pseudonym, line, data) for line, data in pairs}
        )
        keys = await self.gatherer.keys(ticket, [one.release for one in fetched.values()], self._fits(fetched))
        return await asyncio.to_thread(self._opened, fetched, keys)

    def _opened(self, fetched: Mapping[bytes, _Fetched], keys: Mapping[tuple[bytes, int], bytes]) -> list[OpenedRecord]:
        opened = []
        for one in fetched.values():
            contents = self._contents(one, _key_of(keys, one))
            opened.append(
                OpenedRecord(
                    record_id=one.line.record,
                    version=one.line.version,
                    root=one.line.anchor.root,
                    resources=tuple(content for _, content in contents.resources()),
                )
            )
        return opened

    def _contents(self, fetched: _Fetched, key: bytes) -> Contents:
        line = fetched.line
        with _about(line):
            reader = ObjectReader(fetched.source, key, record=line.record, version=line.version, suite=self._suite)
            return Contents(reader, line.anchor.root, self._suite)

    # --- fetching -----------------------------------------------------------------------------------------

    async def _fetch(self, line: AnchorLine, batch: "_Batch") -> bytes:
        """The whole object, proved to be the one the anchor names."""
        data = bytearray()
        async with batch.room:
            with _about(line):
                address = _sealed(line).object
                async for chunk in verified(self._objects.open(address), address, self._suite.new_hash):
                    batch.take(len(chunk))
                    data += chunk
        return bytes(data)

    async def _fetch_file(self, line: AnchorLine, at: Path) -> None:
        """The same into a file; a part that is there is kept, and proved with the rest. What is wrong is removed."""
        address = _sealed(line).object
        file = await asyncio.to_thread(at.open, "ab")
        try:
            async for chunk in self._objects.open(address, file.tell()):
                await asyncio.to_thread(file.write, chunk)
            await asyncio.to_thread(self._settle, file, at, address)
        except Rejected:
            await asyncio.to_thread(at.unlink)
            raise
        finally:
            file.close()

    def _settle(self, file: BufferedWriter, path: Path, address: bytes) -> None:
        """On the disk, and what it should be."""
        file.flush()
        os.fsync(file.fileno())
        hasher = self._suite.new_hash()
        with path.open("rb") as written:
            while piece := written.read(_HASHED_BYTES):
                hasher.update(piece)
        require(hasher.digest() == address, SealingCode.OTHER_ADDRESS)

    def _expected(self, pseudonym: bytes, line: AnchorLine, source: bytes | BufferedReader) -> _Fetched:
        """The object with its capsule, which is the anchored one and bound to what the ledger says of the record."""
        with _about(line):
            row = line.anchor
            header, data = read_prefix(source)
            require(sha256(data).digest() == _sealed(line).capsule, SealingCode.CAPSULE_ALTERED)
            about = About(
                pseudonym=pseudonym,
                record=line.record,
                version=line.version,
                category=row.category,
                sensitivity=row.sensitivity,
                day=row.day,
            )
            # For a capsule without a proof keyholders refuse everything that is asked for with it.
            capsule = read_capsule(data, about.label(self._chain_id))
        release = ToRelease(record=line.record, version=line.version, data=data, capsule=capsule)
        return _Fetched(line, source, header, release)

    def _fits(self, fetched: Mapping[bytes, _Fetched]) -> Callable[[ToRelease, bytes], bool]:
        def fits(one: ToRelease, key: bytes) -> bool:
            return fetched[one.record].header.commitment == key_commitment(self._suite, key)

        return fits


def _sealed(line: AnchorLine) -> SealedHashes:
    if line.anchor.sealed is None:
        raise Rejected(SealingCode.NOT_AN_OBJECT)
    return line.anchor.sealed


def _key_of(keys: Mapping[tuple[bytes, int], bytes], fetched: _Fetched) -> bytes:
    return keys[fetched.release.record, fetched.release.version]


class _Batch:
    """How many objects are fetched at once, and how much of them is in memory."""

    __slots__ = ("_left", "room")

    def __init__(self) -> None:
        self.room = asyncio.Semaphore(FETCHES_AT_ONCE)
        self._left = READ_BYTES

    def take(self, size_bytes: int) -> None:
        self._left -= size_bytes
        if self._left < 0:
            raise TooMuchAtOnce


@contextmanager
def _about(line: AnchorLine) -> Iterator[None]:
    """Whatever is wrong in here is wrong with this record."""
    try:
        yield
    except Rejected as refused:
        raise NotBelieved(refused.code, record_id=line.record) from None
