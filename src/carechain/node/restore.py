"""Putting a backup back: all of it into a new home, or nothing (LED-8).

The whole file is read and checked once before anything is written. Then it is unpacked beside the new home, made
durable, looked at, and moved into place in one step. A restored home differs from the one that was backed up:

- It has no state tree; the first start executes the block log again.
- What was erased stays erased: the charts of the backup may be from before somebody's order was carried out. Where the
  node makes the blocks alone, every order in its block log is carried out on them again before the home is there at
  all; a node among several does so at its first start, by the ledger of the others, before its doors open.
- Where an engine of several organisations orders the blocks, it begins without blocks and takes them from the others:
  the engine's own block store is not in the backup, and the engine refuses a ledger that is ahead of its store. The log
  of the backup lies beside, as ``ledger/restored-HEIGHT.log``, for whoever wants to compare. And if the home signs for
  a validator, :data:`RESTORED_MARK` says that nobody knows what that key has signed since.
"""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from shutil import disk_usage, rmtree
from tempfile import mkdtemp
from typing import BinaryIO, Final

import msgspec
from msgspec import Struct

from carechain.chain.genesis import genesis_hash
from carechain.chain.receipts import decode_receipt
from carechain.charts.schema import ChartsUnavailable, StoreTooNew
from carechain.charts.store import Charts
from carechain.contracts.records import Erased, ErasedPart
from carechain.core.codec import Malformed
from carechain.core.message import tag_of
from carechain.core.rejection import Rejected, require
from carechain.engine.blocklog import BlockLog, CorruptHistory, WrongChain
from carechain.engine.cometbft.config import FOLDER as ENGINE_FOLDER
from carechain.engine.session import LEDGER_FOLDER
from carechain.gatekeeper.erasure_journal import ErasureJournal, JournalTooNew, JournalUnavailable
from carechain.node.archive import ArchiveCode, ArchiveReader, Opener, Unlocked, unlock
from carechain.node.backup import (
    BASE,
    BLOCK_LOG,
    VALIDATOR_KEY_PATH,
    BackupCode,
    Manifest,
    Progress,
    is_left_out,
    read_manifest,
)
from carechain.node.home import CHARTS_FILE, Home, HomeUnusable, make_home, replace_file
from carechain.node.settings import BadSettings, load_settings
from carechain.state.log import make_folder, sync_folder

RESTORED_MARK: Final = f"{ENGINE_FOLDER}/RESTORED"
"""While this file is in a home, its validator's key must not sign: it may have signed later than the backup knows."""
_STAGING_SUFFIX: Final = ".restoring"
_ERASED: Final = tag_of(Erased).encode()
_ASIDE: Final = {BLOCK_LOG: ".log", BASE: ".base"}


class RestoredMark(Struct, frozen=True, kw_only=True):
    """What the mark says, as JSON. Times are Unix seconds."""

    backed_up_s: int
    restored_s: int
    height: int


def check(file: Path, *, opener: Opener, progress: Progress | None = None) -> Manifest:
    """Whether a backup is whole and can be opened; writes nothing.

    Raises ``Rejected`` with an :class:`~carechain.node.archive.ArchiveCode` or for the key, and ``OSError``.
    """
    with file.open("rb") as stream:
        return _checked(stream, unlock(stream, opener), progress)


def restore(file: Path, home: Path, *, opener: Opener, now_s: int, progress: Progress | None = None) -> Manifest:
    """Make ``home`` of a backup; durable when it returns.

    Raises what :func:`check` raises, ``Rejected`` with ``BackupCode.HOME_NOT_EMPTY``, and ``OSError``; then nothing of
    the home is there.
    """
    place = home.resolve()
    require(not place.exists() or (place.is_dir() and not any(place.iterdir())), BackupCode.HOME_NOT_EMPTY)
    with file.open("rb") as stream:
        unlocked = unlock(stream, opener)
        manifest = _checked(stream, unlocked, progress)
        make_folder(place.parent)
        _require_room(place.parent, manifest.size_bytes)
        staging = Path(mkdtemp(dir=place.parent, prefix=f".{place.name}-", suffix=_STAGING_SUFFIX))
        try:
            _unpack(stream, unlocked, staging, manifest, progress)
            _complete(staging, manifest, now_s)
            # Takes the place of an empty folder too, in one step.
            staging.rename(place)
        except BaseException:
            rmtree(staging, ignore_errors=True)
            raise
    sync_folder(place.parent)
    return manifest


def _require_room(folder: Path, size: int) -> None:
    if disk_usage(folder).free < size:
        raise HomeUnusable(f"{folder} has less room than the {size} bytes of the backup. Choose another disk.")


# --- checking -------------------------------------------------------------------------------------------


def _checked(stream: BinaryIO, unlocked: Unlocked, progress: Progress | None) -> Manifest:
    """Read all of it, and see that it holds what it says and only what may be in a home."""
    reader = ArchiveReader(stream, unlocked)
    manifest = read_manifest(reader.description)
    names: set[str] = set()
    folders: set[str] = set()
    done = 0
    for entry, pieces in reader.files():
        name = _safe(entry.path)
        # A key seals for anybody, so what a backup holds is not believed just because it opens.
        require(name not in names and len(names) < manifest.files, ArchiveCode.DAMAGED)
        names.add(name)
        folders.update(one.as_posix() for one in PurePosixPath(name).parents)
        for piece in pieces:
            done += len(piece)
            if progress is not None:
                progress(done, manifest.size_bytes)
    whole = len(names) == manifest.files and done == manifest.size_bytes
    agrees = manifest.validator == (VALIDATOR_KEY_PATH in names) and (BLOCK_LOG in names or not manifest.height)
    # Without an engine that brings the state, a log that does not begin with the first block is of no use.
    usable = manifest.engine or BASE not in names
    require(whole and agrees and usable and not names & folders, ArchiveCode.DAMAGED)
    return manifest


def _safe(name: str) -> str:
    """A path that stays inside the home, in its only spelling, and is not one of those a backup never holds."""
    path = PurePosixPath(name)
    plain = path.as_posix() == name and not path.is_absolute() and "\x00" not in name
    require(plain and path.parts and ".." not in path.parts and not is_left_out(name), ArchiveCode.DAMAGED)
    return name


# --- writing --------------------------------------------------------------------------------------------


def _unpack(stream: BinaryIO, unlocked: Unlocked, staging: Path, manifest: Manifest, progress: Progress | None) -> None:
    """Write every file, for its owner only, durable with its name."""
    done = 0
    for entry, pieces in ArchiveReader(stream, unlocked).files():
        target = staging / _place_of(_safe(entry.path), manifest)
        make_folder(target.parent)
        _write(target, pieces)
        done += entry.size_bytes
        if progress is not None:
            progress(done, manifest.size_bytes)
    for folder in _folders(staging):
        sync_folder(folder)


def _place_of(name: str, manifest: Manifest) -> str:
    """Where a file goes: the engine must find no block that its own store does not have."""
    if manifest.engine and name in _ASIDE:
        return f"{LEDGER_FOLDER}/restored-{manifest.height}{_ASIDE[name]}"
    return name


def _write(target: Path, pieces: Iterator[bytes]) -> None:
    handle = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def _folders(top: Path) -> Iterator[Path]:
    for folder, _, _ in os.walk(top, topdown=False):
        yield Path(folder)


def _complete(staging: Path, manifest: Manifest, now_s: int) -> None:
    """Make it a home, mark it, and see that what is in it is what the manifest says."""
    make_home(staging)
    if manifest.validator:
        mark = RestoredMark(backed_up_s=manifest.created_s, restored_s=now_s, height=manifest.height)
        replace_file(staging / RESTORED_MARK, msgspec.json.encode(mark) + b"\n")
    try:
        found = genesis_hash(Home(staging).genesis())
    except HomeUnusable:
        raise Rejected(ArchiveCode.DAMAGED) from None
    require(found == manifest.genesis, ArchiveCode.DAMAGED)
    if manifest.engine or not (staging / BLOCK_LOG).exists():
        return
    try:
        log = BlockLog.open(staging / LEDGER_FOLDER, genesis=found, read_only=True)
    except (CorruptHistory, WrongChain):
        raise Rejected(ArchiveCode.DAMAGED) from None
    try:
        require(log.height == manifest.height and not log.torn_bytes, ArchiveCode.DAMAGED)
        _erase_again(staging, log, now_s)
    finally:
        log.release()


def _erase_again(staging: Path, log: BlockLog, now_s: int) -> None:
    """Carry out the orders in the log on the charts, and note for the first start what it has to give receipts for."""
    if not (staging / CHARTS_FILE).exists() or _keeps_charts(staging):
        return
    try:
        orders = list(dict.fromkeys(_orders(log)))
        if not orders:
            return
        with Charts.open(staging / CHARTS_FILE) as charts, ErasureJournal.open(Home(staging).erasures) as journal:
            for pseudonym, record in sorted(charts.held_among(orders)):
                journal.begin(pseudonym, record, int(ErasedPart.CHART | ErasedPart.SALTS))
                charts.erase(pseudonym, record, erased_s=now_s)
        sync_folder((staging / CHARTS_FILE).parent)
    except (CorruptHistory, Malformed):
        raise Rejected(ArchiveCode.DAMAGED) from None
    except (ChartsUnavailable, JournalTooNew, JournalUnavailable, StoreTooNew) as unusable:
        raise HomeUnusable(f"The charts in the backup cannot be used ({unusable}). Nothing was restored.") from None


def _keeps_charts(home: Path) -> bool:
    """Whether the home's settings say so; where they cannot be read, the first start will judge."""
    try:
        return load_settings(home=home).erasure.keep_charts
    except BadSettings:
        return True


def _orders(log: BlockLog) -> Iterator[tuple[bytes, bytes]]:
    """Every erasure that was accepted: pseudonym and record. A receipt that does not name the event is not decoded."""
    for _, stored in log.blocks():
        for receipt in stored.receipts:
            if _ERASED in receipt:
                for event in decode_receipt(receipt).events:
                    if isinstance(event, Erased):
                        yield event.pseudonym, event.record
