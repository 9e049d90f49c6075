"""Opening sealed records with a ticket: objects from the vault, shares from the keyholders, belief from the ledger."""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
import typer
from msgspec import Struct

from carechain.chain.queries import QueryCode
from carechain.chain.questions import AnchorLine, OfEpoch, OfParty, OfTicket, TimelinePage
from carechain.cli.acting import KnownParty, KnownTicket, Seat, refused_ticket
from carechain.cli.doors import Corridor, corridor
from carechain.cli.output import CannotRun, Denied, Desk
from carechain.contracts.access import TicketRow
from carechain.contracts.keyring import KeyringCode, KeyRow
from carechain.core.limits import SHARES_PER_REQUEST
from carechain.core.party import Party
from carechain.gatekeeper.fetch import newest_of
from carechain.sdk.gathering import Gatherer, Misbehaved, NotEnoughShares
from carechain.sdk.sealed import Objects, SealedReader
from carechain.sdk.searching import is_index
from carechain.sdk.shares import KeyholderCode
from carechain.sealing.contents import Contents
from carechain.vault.codes import VaultCode
from carechain.vault.remote import RemoteStore

LARGE_BYTES: Final = 8 * 1024 * 1024
"""A larger object is opened where it was fetched to, on the disk."""
BATCH_BYTES: Final = 64 * 1024 * 1024
"""So much of smaller ones is opened together in memory."""
SIZES_AT_ONCE: Final = 16
_SNIFFED_BYTES: Final = 256
_DICOM_AT: Final = 128
_FILE_MODE: Final = 0o600
_NOT_FOR_GOOD: Final = (
    KeyholderCode.TICKET_UNKNOWN.label,
    KeyholderCode.LEDGER_STALE.label,
    KeyholderCode.BUSY.label,
    KeyholderCode.TOO_MANY_SHARES.label,
    KeyholderCode.NO_SHARE.label,
)
"""What says something about the keyholder, and nothing about the request."""


# --- what the ledger shows ------------------------------------------------------------------------------


class Shown(Struct, frozen=True, kw_only=True):
    """What the ledger shows through a ticket: its row, and the newest version of every sealed record it covers."""

    ticket: bytes
    row: TicketRow
    lines: Sequence[AnchorLine]
    beside: frozenset[bytes] = frozenset()
    """Records that are shown and not covered, or not sealed."""


def shown_through(seat: Seat, ticket: bytes) -> Shown:
    """The sealed records under a ticket, proved; a ticket that says no is refused with the check that failed."""
    row = seat.row("access.ticket", KnownTicket, OfTicket(ticket)).row
    if row.decision:
        raise refused_ticket(row.decision, {"ticket": ticket.hex()})
    lines = seat.rows("records.timeline", AnchorLine, TimelinePage(row.pseudonym, ticket), prove=True)
    newest = {(one.record_id, one.version) for one in newest_of(lines, row.scope)}
    sealed = [one for one in lines if (one.record, one.version) in newest and one.anchor.sealed is not None]
    covered = {one.record for one in sealed}
    return Shown(ticket=ticket, row=row, lines=sealed, beside=frozenset(one.record for one in lines) - covered)


def chosen(shown: Shown, records: Sequence[bytes] | None) -> list[AnchorLine]:
    """The named records, or all of them but the index keys, which nobody reads.

    Raises :class:`Denied`: a record outside the ticket's scope, one that is not sealed, one that is not there.
    """
    if records is None:
        return [one for one in shown.lines if not is_index(shown.row.pseudonym, one)]
    by_record = {one.record: one for one in shown.lines}
    for record in records:
        if record not in by_record:
            code = KeyholderCode.OUTSIDE_SCOPE if record in shown.beside else QueryCode.NOT_FOUND
            reason = f"{code.reason} Or it is not sealed: `carechain record get` reads those."
            raise Denied(code=int(code), label=code.label, reason=reason, data={"record": record.hex()})
    return [by_record[record] for record in dict.fromkeys(records)]


def key_in_force(seat: Seat) -> KeyRow:
    """The consortium's key, proved; raises :class:`Denied` where there is none yet."""
    try:
        return seat.row("keyring.key", KeyRow, OfEpoch())
    except Denied as denied:
        if denied.code != QueryCode.NOT_FOUND:
            raise
        reason = "The consortium has no key to seal to yet. Let the members vote: carechain keyholders propose."
        raise Denied(code=denied.code, label=denied.label, reason=reason) from None


# --- keyholders -----------------------------------------------------------------------------------------


class Quorum(Struct, frozen=True, kw_only=True):
    """The keyholders of the epoch in force: their keys on the ledger, and where those answer whose address is known."""

    key: KeyRow
    members: Mapping[bytes, Party]
    doors: Mapping[bytes, str]

    @property
    def without_address(self) -> list[bytes]:
        """Keyholders that cannot be asked from here."""
        return [one.party for one in self.key.holders if not one.left_s and one.party not in self.doors]


def quorum_of(seat: Seat, doors: Mapping[bytes, str]) -> Quorum:
    """Who may be asked; raises :class:`CannotRun` where too few addresses are known."""
    key = key_in_force(seat)
    live = [one.party for one in key.holders if not one.left_s]
    known = {party: doors[party] for party in live if party in doors}
    quorum = Quorum(
        key=key,
        members={party: seat.row("membership.party", KnownParty, OfParty(party)).row for party in known},
        doors=known,
    )
    if len(known) < key.threshold:
        missing = " ".join(one.hex() for one in quorum.without_address)
        raise CannotRun(
            f"{key.threshold} keyholders are needed and the addresses of {len(known)} are known. Give others with "
            f"--keyholder PARTY=URL, or note them with `carechain keyholders address PARTY URL`: {missing}"
        )
    return quorum


class Trouble:
    """Which keyholders lied and which gave nothing, over all that one command asked for."""

    def __init__(self) -> None:
        self.lied: dict[bytes, Misbehaved] = {}
        self.failed: dict[bytes, str] = {}

    def note(self, gatherer: Gatherer) -> None:
        """Take down what the last request met with."""
        self.lied |= gatherer.misbehaved
        self.failed |= {one.holder: one.why for one in gatherer.failed}

    def data(self, quorum: Quorum, accused: Mapping[bytes, str]) -> dict[str, object]:
        """As JSON."""
        return {
            "epoch": quorum.key.epoch,
            "threshold": quorum.key.threshold,
            "lied": [
                {"holder": one.hex(), **({"accused": accused[one]} if one in accused else {})} for one in self.lied
            ],
            "failed": [{"holder": one.hex(), "why": why} for one, why in self.failed.items() if one not in self.lied],
            "no_address": [one.hex() for one in quorum.without_address],
        }

    def tell(self, desk: Desk, name_of: Callable[[bytes], str], *, accusing: bool) -> None:
        """A line for each on standard error."""
        hint = "" if accusing else "; put it on the ledger with --accuse"
        for holder in self.lied:
            desk.say(f"keyholder {name_of(holder)} signed a share that is false{hint}")
        for holder, why in self.failed.items():
            if holder not in self.lied:
                desk.say(f"keyholder {name_of(holder)} gave no share: {why}")


def accuse(seat: Seat, lied: Mapping[bytes, Misbehaved]) -> dict[bytes, str]:
    """Name on the ledger who signed a false share; the transaction's id, or why there is none, by keyholder."""
    said = {}
    for holder, evidence in lied.items():
        try:
            said[holder] = seat.submit(evidence.accusation()).tx_id.hex()
        except Denied as denied:
            if denied.code != KeyringCode.ALREADY_CAUGHT:
                raise
            said[holder] = denied.label
    return said


def not_enough(error: NotEnoughShares, about: Mapping[str, object]) -> Exception:
    """Too few shares as the command line's own: a refusal where keyholders refused, else the environment's fault."""
    final = {one.why for one in error.failed} - set(_NOT_FOR_GOOD)
    for code in KeyholderCode:
        if code.label in final:
            return Denied(code=int(code), label=code.label, reason=code.reason, data=about)
    reasons = "; ".join(f"{one.holder.hex()}: {one.why}" for one in error.failed)
    return CannotRun(
        f"{error.got} of {error.needed} keyholders gave a share that holds ({reasons or 'no other is known'}). "
        "Try again later, or give others' addresses with --keyholder PARTY=URL."
    )


# --- opening --------------------------------------------------------------------------------------------


class OpenedFile(Struct, frozen=True, kw_only=True):
    """One resource: its size, and the file it was written to, or its bytes where none was asked for."""

    size_bytes: int
    path: Path | None = None
    content: bytes = b""


class Unsealed(Struct, frozen=True, kw_only=True):
    """One record, every resource checked against the ledger."""

    line: AnchorLine
    files: Sequence[OpenedFile]


Then = Callable[[Corridor, Sequence[Unsealed]], Awaitable[None]]


class Unsealer:
    """Opens records one after the other for one ticket, and notes which keyholders made trouble."""

    def __init__(self, seat: Seat, shown: Shown, quorum: Quorum, trouble: Trouble, desk: Desk) -> None:
        self._seat = seat
        self._shown = shown
        self._quorum = quorum
        self._trouble = trouble
        self._desk = desk

    def run(
        self, lines: Sequence[AnchorLine], *, vault_url: str, out: Path | None = None, then: Then | None = None
    ) -> list[Unsealed]:
        """All of these, or the first reason why not; with ``out`` they are written there, else kept in memory.

        ``then`` is done with them while the doors are open. Raises ``NotBelieved``, ``NotEnoughShares``, ``Rejected``
        and ``OSError``.
        """
        return asyncio.run(self._run(lines, vault_url, out, then))

    async def _run(
        self, lines: Sequence[AnchorLine], vault_url: str, out: Path | None, then: Then | None
    ) -> list[Unsealed]:
        async with corridor(self._seat) as doors:
            vault = await doors.vault(self._shown.row.custodian, vault_url)
            sizes = await _sizes(vault, lines)
            if out is None:
                _require_small(sizes)
            with self._desk.progress("fetching") as advance:
                reader = await self._reader(doors, _Watched(vault, advance, sum(sizes.values())))
                opened: list[Unsealed] = []
                for part in _parts(lines, sizes):
                    opened += await self._part(reader, part, sizes, out)
            if then is not None:
                await then(doors, opened)
        return opened

    async def _reader(self, doors: Corridor, objects: Objects) -> SealedReader:
        seat, actor = self._seat, self._seat.actor
        gatherer = Gatherer(
            chain_id=seat.chain_id,
            party=actor.party,
            hpke=actor.hpke,
            key=self._quorum.key,
            members=self._quorum.members,
            holders=await doors.keyholders(self._quorum.doors),
            entropy=secrets.token_bytes,
        )
        return SealedReader(chain_id=seat.chain_id, gatherer=gatherer, objects=objects, suite=seat.institution)

    async def _part(
        self, reader: SealedReader, part: Sequence[AnchorLine], sizes: Mapping[bytes, int], out: Path | None
    ) -> list[Unsealed]:
        try:
            if sizes[part[0].record] > LARGE_BYTES:
                return [await self._large(reader, part[0], out)]
            opened = await reader.read(self._shown.ticket, self._shown.row.pseudonym, part)
        finally:
            self._trouble.note(reader.gatherer)
        found = []
        for line, record in zip(part, opened, strict=True):
            if out is None:
                files = [OpenedFile(size_bytes=len(one), content=one) for one in record.resources]
            else:
                writer = _Writer(out, line)
                files = [writer.write(number, [memoryview(one)]) for number, one in enumerate(record.resources)]
            found.append(Unsealed(line=line, files=files))
        return found

    async def _large(self, reader: SealedReader, line: AnchorLine, out: Path | None) -> Unsealed:
        if out is None:
            raise TypeError("a large record has no place")
        writer = _Writer(out, line)
        with await reader.open_large(self._shown.ticket, self._shown.row.pseudonym, line, writer.fetched) as opened:
            files = await asyncio.to_thread(writer.write_all, opened.contents)
        writer.fetched.unlink(missing_ok=True)
        return Unsealed(line=line, files=files)


async def _sizes(vault: RemoteStore, lines: Sequence[AnchorLine]) -> dict[bytes, int]:
    """Bytes of each record's object; raises :class:`Denied` for one that the vault does not have."""
    room = asyncio.Semaphore(SIZES_AT_ONCE)

    async def size(line: AnchorLine) -> int:
        if line.anchor.sealed is None:
            raise TypeError("not a sealed record")
        async with room:
            found = await vault.size(line.anchor.sealed.object)
        if found is None:
            code = VaultCode.OBJECT_UNKNOWN
            raise Denied(code=int(code), label=code.label, reason=code.reason, data={"record": line.record.hex()})
        return found

    asking = [asyncio.create_task(size(one)) for one in lines]
    try:
        found = await asyncio.gather(*asking)
    finally:
        for one in asking:
            one.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    return {line.record: one for line, one in zip(lines, found, strict=True)}


def _require_small(sizes: Mapping[bytes, int]) -> None:
    for record, size in sizes.items():
        if size > LARGE_BYTES:
            raise typer.BadParameter(f"record {record.hex()} is large: say where to write it", param_hint="--out")


def _parts(lines: Sequence[AnchorLine], sizes: Mapping[bytes, int]) -> Iterator[list[AnchorLine]]:
    """Small records together, each large one alone."""
    part: list[AnchorLine] = []
    held = 0
    for line in lines:
        size = sizes[line.record]
        if size > LARGE_BYTES:
            yield [line]
            continue
        if part and (held + size > BATCH_BYTES or len(part) == SHARES_PER_REQUEST):
            yield part
            part, held = [], 0
        part.append(line)
        held += size
    if part:
        yield part


class _Watched:
    """Objects that tell how much of them has come."""

    def __init__(self, objects: Objects, advance: Callable[[int, int], None], total: int) -> None:
        self._objects = objects
        self._advance = advance
        self._total = total
        self._done = 0

    async def open(self, address: bytes, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        self._done += start
        async for chunk in self._objects.open(address, start, end):
            self._done += len(chunk)
            self._advance(self._done, self._total)
            yield chunk


# --- writing --------------------------------------------------------------------------------------------


class _Writer:
    """One record's folder, ``<record>-<version>``; a file has its name once it is whole and on the disk."""

    def __init__(self, out: Path, line: AnchorLine) -> None:
        out.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = out / f"{line.record.hex()}-{line.version}"
        self.fetched: Final = out / f".{self._folder.name}.sealed"
        """Where a large object is fetched to; a fetch that was cut short goes on there."""

    def write_all(self, contents: Contents) -> list[OpenedFile]:
        """Every resource, in constant memory."""
        return [self.write(number, contents.chunks(number)) for number in range(len(contents))]

    def write(self, number: int, pieces: Iterator[memoryview] | Sequence[memoryview]) -> OpenedFile:
        """One resource; a file of an earlier opening is replaced."""
        self._folder.mkdir(exist_ok=True, mode=0o700)
        temporary = self._folder / f".{number:05d}.part"
        start, size = b"", 0
        with _private(temporary) as handle:
            for piece in pieces:
                start = start or bytes(piece[:_SNIFFED_BYTES])
                _write_whole(handle, piece)
                size += len(piece)
            os.fsync(handle)
        path = self._folder / f"{number:05d}{ending_of(start)}"
        temporary.rename(path)
        return OpenedFile(size_bytes=size, path=path)


@contextmanager
def _private(path: Path) -> Iterator[int]:
    path.unlink(missing_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE)
    try:
        yield handle
    except BaseException:
        # Nothing that did not hold stays on the disk.
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)


def _write_whole(handle: int, piece: memoryview) -> None:
    while piece:
        piece = piece[os.write(handle, piece) :]


def ending_of(start: bytes) -> str:
    """What a file's name ends with, by its first bytes; a convenience that nothing relies on."""
    known = {b"%PDF": ".pdf", b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"{": ".json", b"[": ".json"}
    if start[_DICOM_AT : _DICOM_AT + 4] == b"DICM":
        return ".dcm"
    return next((ending for magic, ending in known.items() if start.lstrip().startswith(magic)), ".bin")


# --- showing --------------------------------------------------------------------------------------------


def file_data(file: OpenedFile) -> dict[str, object]:
    """A resource as JSON: where it is, or its content where that is JSON, byte for byte."""
    if file.path is not None:
        return {"size_bytes": file.size_bytes, "file": str(file.path)}
    return {"size_bytes": file.size_bytes, **({"content": msgspec.Raw(file.content)} if is_json(file.content) else {})}


def is_json(content: bytes) -> bool:
    """Whether the bytes can stand in a JSON object as they are."""
    try:
        msgspec.json.decode(content)
        content.decode()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True
