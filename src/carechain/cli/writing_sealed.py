"""Sealing a file's records: contents, key and capsule, the vault, the search tokens, the ledger; and the key is gone.

In this order, so that a kill anywhere leaves what the same command finishes: an object is noted once it is whole, put
into the vault before anything names it, and anchored last.
"""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from carechain.chain.queries import QueryCode
from carechain.chain.questions import AnchorLine, HistoryPage, OfRecord, TimelinePage
from carechain.cli.acting import Done, Seat
from carechain.cli.doors import Corridor, corridor
from carechain.cli.output import Denied, Desk
from carechain.cli.sealed_jobs import Asked, Item, Job, Plan, SealingJournal, plan, workplace
from carechain.contracts.records import Anchor, RecordsCode, SealedHashes
from carechain.core.limits import RECORD_VERSIONS
from carechain.core.rejection import Rejected
from carechain.core.vocabulary import Category, Sensitivity
from carechain.gatekeeper.anchoring import in_transactions
from carechain.gatekeeper.objects_door import PutTokens
from carechain.sdk.failures import Refused
from carechain.sdk.sealed import About, Consortium, seal_record_file
from carechain.sdk.searching import IndexSecret, index_root
from carechain.sealing.blind_index import BlindIndex, index_record_id
from carechain.sealing.codes import SealingCode
from carechain.sealing.contents import Resource
from carechain.sealing.objects import Source
from carechain.vault.base import size_of
from carechain.vault.remote import RemoteStore

LARGE_BYTES: Final = 8 * 1024 * 1024
"""What is larger is worth a line on standard error before it is stored."""
_MB: Final = 1_000_000
_NO_INDEX_HINT: Final = "Or seal it without an index: --no-index."

Place = tuple[Category, Sensitivity]


class Written(Struct, frozen=True, kw_only=True):
    """What a file became: its records, whether they can be searched, and the transactions that anchored them."""

    items: Sequence[Item]
    objects: Mapping[bytes, SealedHashes]
    searchable: frozenset[bytes]
    left_out: int
    indices: int
    """Index keys that were sealed with it for the first time."""
    done: Sequence[Done]


class _Index(Struct, frozen=True):
    """The index of one category and grade: what makes tokens, and its own record where the ledger has none yet."""

    tokens: BlindIndex
    item: Item | None

    def __repr__(self) -> str:
        return "_Index(…)"


def next_version(seat: Seat, pseudonym: bytes, record: bytes | None) -> int:
    """The version that comes next for a record; 1 for a new one. Raises :class:`Denied` for one that is not there."""
    if record is None:
        return 1
    lines = seat.rows("records.history", AnchorLine, HistoryPage(pseudonym, record))
    if not lines:
        code = RecordsCode.RECORD_UNKNOWN
        raise Denied(code=int(code), label=code.label, reason=code.reason, data={"record": record.hex()})
    if lines[-1].erased is not None:
        raise Rejected(RecordsCode.RECORD_ERASED)
    version = lines[-1].version + 1
    if version > RECORD_VERSIONS:
        raise Rejected(RecordsCode.VERSION_NOT_NEXT)
    return version


class SealingWriter:
    """Carries out one job."""

    def __init__(
        self,
        desk: Desk,
        seat: Seat,
        *,
        journal: SealingJournal,
        secret: IndexSecret,
        consortium: Consortium,
        door: tuple[bytes, str],
    ) -> None:
        """``door`` is the own organisation's: its member id, and where its gatekeeper answers."""
        self._desk = desk
        self._seat = seat
        self._journal = journal
        self._secret = secret
        self._consortium = consortium
        self._door = door

    def run(self, asked: Asked, job: Job, *, bundle: bool) -> Written:
        """Do what is left of the job. Raises ``Rejected``, :class:`Denied` and ``OSError``."""
        planned = plan(asked, job, bundle=bundle)
        self._warn(planned, asked)
        indices = self._indices(asked, planned) if asked.index else {}
        tokens = _tokens(planned.items, indices)
        noted = self._journal.anchors(job.id)
        anchored = self._anchored(asked.pseudonym, noted)
        new = [one.item for one in indices.values() if one.item is not None]
        waiting = [one for one in (*new, *planned.items) if _version(one) not in anchored]
        with workplace(self._desk.home, job.id) as folder:
            asyncio.run(self._store(job, waiting, noted, tokens, folder))
            noted = self._journal.anchors(job.id)
            done = self._anchor([noted[one.about.record] for one in waiting], {one.about.record for one in new})
            self._journal.finish(job.id, [_version(one) for one in planned.items])
        return Written(
            items=planned.items,
            objects={record: one.sealed for record, one in noted.items() if one.sealed is not None},
            searchable=frozenset(tokens),
            left_out=planned.left_out,
            indices=len(new),
            done=done,
        )

    def _warn(self, planned: Plan, asked: Asked) -> None:
        if planned.usual is not None and asked.sensitivity is not None:
            self._desk.say(
                f"the words in this file are usually graded {planned.usual.name}; "
                f"it is sealed as {asked.sensitivity.name}, as you said"
            )

    # --- what the ledger has ------------------------------------------------------------------------------

    def _anchored(self, pseudonym: bytes, noted: Mapping[bytes, Anchor]) -> set[tuple[bytes, int]]:
        """Which versions are on the ledger already; asked only where an earlier run may have sent some."""
        if not noted:
            return set()
        lines = self._seat.rows("records.timeline", AnchorLine, TimelinePage(pseudonym))
        roots = {(one.record, one.version): one.anchor.root for one in lines}
        return {(one.record, one.version) for one in noted.values() if roots.get((one.record, one.version)) == one.root}

    def _indices(self, asked: Asked, planned: Plan) -> dict[Place, _Index]:
        """The index of every category and grade in which there is something to find, as far as it is our own."""
        found = {}
        for place in sorted({one.place for one in planned.items if one.texts}):
            index = self._index(asked.pseudonym, place, day=max(one.about.day for one in planned.items))
            if index is None:
                self._desk.say(
                    f"{place[0].name.lower()} of grade {place[1].name} is not indexed: "
                    "somebody else made its index, or it was erased"
                )
            else:
                found[place] = index
        return found

    def _index(self, pseudonym: bytes, place: Place, *, day: int) -> _Index | None:
        category, sensitivity = place
        salt, key = self._secret.index(
            chain_id=self._seat.chain_id, pseudonym=pseudonym, category=category, sensitivity=sensitivity
        )
        record = index_record_id(pseudonym, category, sensitivity)
        known = self._line(pseudonym, record)
        if known is not None:
            ours = known.anchor.root == index_root(salt, key, self._seat.institution)
            return _Index(BlindIndex(key), None) if ours and known.erased is None else None
        about = About(
            pseudonym=pseudonym, record=record, version=1, category=category, sensitivity=sensitivity, day=day
        )
        return _Index(BlindIndex(key), Item(about=about, resources=(Resource.of(salt, key),), texts=()))

    def _line(self, pseudonym: bytes, record: bytes) -> AnchorLine | None:
        try:
            return self._seat.row("records.anchor", AnchorLine, OfRecord(pseudonym, record))
        except Denied as denied:
            if denied.code == QueryCode.NOT_FOUND:
                return None
            raise

    # --- sealing and storing ------------------------------------------------------------------------------

    async def _store(
        self,
        job: Job,
        items: Sequence[Item],
        noted: Mapping[bytes, Anchor],
        tokens: Mapping[bytes, tuple[bytes, ...]],
        folder: Path,
    ) -> None:
        total = sum(one.size_bytes for one in items)
        member, url = self._door
        async with corridor(self._seat) as doors:
            with self._desk.progress("sealing") as advance:
                counted = _Counter(advance, total)
                for item in items:
                    await self._store_one(doors, job, item, noted.get(item.about.record), folder, counted)
                    put = tokens.get(item.about.record)
                    if put is not None:
                        door = await doors.door(member, url)
                        await _told(door.put_tokens(_put_tokens(item.about, put)))

    async def _store_one(
        self, doors: Corridor, job: Job, item: Item, noted: Anchor | None, folder: Path, counted: "_Counter"
    ) -> None:
        """Seal one record and put its object into the vault, as far as that was not done before."""
        vault = await doors.vault(*self._door, pseudonym=item.about.pseudonym)
        file = folder / f"{item.about.record.hex()}.sealed"
        if noted is not None and noted.sealed is not None and not file.exists():
            if await vault.size(noted.sealed.object) is not None:
                return
            self._journal.unnote(job.id, item.about.record)
            noted = None
        if noted is None:
            noted = await asyncio.to_thread(self._seal, item, file, counted)
            self._journal.note(job.id, noted)
        await self._put(vault, noted, file)

    def _seal(self, item: Item, file: Path, counted: "_Counter") -> Anchor:
        """The anchor of a new object in ``file``; one that nobody noted before the kill is sealed anew."""
        resources = [replace(one, open=counted.opening(one.open)) for one in item.resources]

        def sealed() -> Anchor:
            return seal_record_file(
                resources, file, about=item.about, consortium=self._consortium, entropy=secrets.token_bytes
            )[0]

        try:
            return sealed()
        except Rejected as refused:
            if refused.code is not SealingCode.ALREADY_SEALED:
                raise
            file.unlink()
            return sealed()

    async def _put(self, vault: RemoteStore, anchor: Anchor, file: Path) -> None:
        if anchor.sealed is None:
            raise TypeError("the anchor of a sealed record names its object")
        size = size_of(file)
        if size > LARGE_BYTES:
            self._desk.say(f"sealed; storing {size / _MB:.1f} MB")
        await vault.put(anchor.sealed.object, file)
        # It lies in the vault durably; a copy here would only wait to be forgotten.
        await asyncio.to_thread(file.unlink)

    # --- anchoring ----------------------------------------------------------------------------------------

    def _anchor(self, anchors: Iterable[Anchor], indices: set[bytes]) -> list[Done]:
        """Index keys first, each for itself: another process may have been faster, with the same key."""
        records = []
        done = []
        for anchor in anchors:
            if anchor.record not in indices:
                records.append(anchor)
                continue
            try:
                done.append(self._seat.submit(anchor))
            except Denied as denied:
                known = self._line(anchor.pseudonym, anchor.record)
                if denied.code != RecordsCode.VERSION_NOT_NEXT or known is None or known.anchor.root != anchor.root:
                    raise
        parts = list(in_transactions(records))
        with self._desk.progress("anchoring") as advance:
            for number, part in enumerate(parts, start=1):
                done.append(self._seat.submit(*part))
                advance(number, len(parts))
        return done


class _Counter:
    """Adds up what was read of all contents, for the progress bar."""

    def __init__(self, advance: Callable[[int, int], None], total: int) -> None:
        self._advance = advance
        self._total = total
        self._done = 0

    def opening(self, opener: Callable[[], Source]) -> Callable[[], Source]:
        """The same source, counted."""
        return lambda: _Counted(opener(), self)

    def add(self, size: int) -> None:
        self._done += size
        self._advance(min(self._done, self._total), self._total)


class _Counted:
    def __init__(self, source: Source, counter: _Counter) -> None:
        self._source = source
        self._counter = counter

    def readinto(self, buffer: memoryview, /) -> int | None:
        got = self._source.readinto(buffer)
        self._counter.add(got or 0)
        return got

    def close(self) -> None:
        self._source.close()


def _version(item: Item) -> tuple[bytes, int]:
    return item.about.record, item.about.version


def _put_tokens(about: About, tokens: tuple[bytes, ...]) -> PutTokens:
    return PutTokens(pseudonym=about.pseudonym, record=about.record, tokens=tokens)


def _tokens(items: Sequence[Item], indices: Mapping[Place, _Index]) -> dict[bytes, tuple[bytes, ...]]:
    """The tokens of every record that can be searched; a text that is too long refuses all before anything is done."""
    try:
        return {
            one.about.record: indices[one.place].tokens.tokens(one.about.record, one.texts)
            for one in items
            if one.texts and one.place in indices
        }
    except Rejected as refused:
        code = refused.code
        raise Denied(code=int(code), label=code.label, reason=f"{code.reason} {_NO_INDEX_HINT}") from None


async def _told(asking: Awaitable[None]) -> None:
    """A door's refusal as the command line's."""
    try:
        await asking
    except Refused as refused:
        raise Denied(code=refused.code, label=refused.label, reason=refused.reason) from None


def began_s() -> int:
    """When a job begins (Unix seconds): the day of what has none of its own."""
    return int(time.time())
