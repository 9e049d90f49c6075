"""A home in one encrypted file, made while its node runs: everything a node needs and cannot derive (LED-8).

Whatever lies in the home is taken, except what is derived, temporary or must never come back: see :func:`is_left_out`.
So a file that a later version adds is in its backups too.

**One moment.** Files are small and replaced as a whole. A database is copied by SQLite's own backup inside one read
transaction. The block log is taken up to the end of its last whole block. They are looked at in the order audit,
block log, charts: then every report that the audit believes to be on the ledger is, and every record that is anchored
is in the charts. The other way round a restored node would miss records that the ledger promises.

**The signing state of a validator is left out** (``priv_validator_state.json``): an old one, or none, lets a validator
vote twice at one height, which is an offence. :mod:`carechain.node.restore` leaves a mark instead.
"""

import fcntl
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path, PurePosixPath
from shutil import rmtree
from tempfile import mkstemp
from typing import Annotated, Final
from urllib.parse import quote

import msgspec
from msgspec import Meta, Struct

from carechain.chain.genesis import Genesis, genesis_hash
from carechain.core.codec import Malformed, decode_strict, encode
from carechain.core.ids import U63, Hash
from carechain.core.limits import ARCHIVE_PATH_CHARS, BACKUP_FILES, CHAIN_ID_CHARS, DATABASE_BUSY_S
from carechain.core.rejection import Rejected, RejectionCode, require
from carechain.engine.base import BASE_FILE
from carechain.engine.blocklog import LOG_NAME, BlockLog
from carechain.engine.cometbft.config import FOLDER as ENGINE_FOLDER
from carechain.engine.cometbft.config import VALIDATOR_KEY
from carechain.engine.sealed import read_header
from carechain.engine.session import LEDGER_FOLDER
from carechain.node.archive import ArchiveCode, ArchiveWriter, Entropy, Protection
from carechain.node.home import Home, HomeUnusable
from carechain.state.log import sync_folder

BLOCK_LOG: Final = f"{LEDGER_FOLDER}/{LOG_NAME}"
BASE: Final = f"{LEDGER_FOLDER}/{BASE_FILE}"
"""Where the log begins, if not with the first block."""
_ENGINE_CONFIG: Final = f"{ENGINE_FOLDER}/{VALIDATOR_KEY.parent.as_posix()}"
VALIDATOR_KEY_PATH: Final = f"{ENGINE_FOLDER}/{VALIDATOR_KEY.as_posix()}"
STAGING: Final = ".backup"
LEDGER_ASIDE: Final = "ledger-set-aside-"
"""How the folder's name begins in which a copy of the ledger that was given up is kept as evidence."""
_AUDIT: Final = "audit/"
_VAULT: Final = "vault"
_VAULT_BOOKS: Final = frozenset({"vault/vault.sqlite", "vault/tokens.sqlite"})
_LOCAL: Final = frozenset({"home.lock", "running.json", STAGING})
_SQLITE: Final = b"SQLite format 3\x00"
_SIDE_FILES: Final = ("-wal", "-shm", "-journal")
_PAGES: Final = 4096
_PIECE_BYTES: Final = 256 * 1024

Progress = Callable[[int, int], None]
"""Called with how many bytes are done and how many there are."""


class BackupCode(RejectionCode):
    """Why a backup is not made or not put back."""

    FILE_EXISTS = 1711, "A file with this name exists. Choose another name; backups are never overwritten."
    HOME_NOT_EMPTY = 1712, "The folder is not empty. Restore into a new one; a home is never overwritten."
    ALREADY_RUNNING = 1713, "Another backup of this home is being made. Wait until it is done."
    TOO_MANY_FILES = 1714, "A home with more than 100000 files cannot be backed up. Move out what is not the node's."


class CannotBackUp(Exception):  # noqa: N818 - the state of the environment
    """A file of the home cannot be taken into a backup; says which, and what to do."""


class Manifest(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """What a backup says of itself, first of all and encrypted. Times are Unix seconds, the height's by its block.

    ``height`` is 0 where no node has run yet. ``engine`` says that an engine of several organisations orders the
    blocks, ``validator`` that its signing key is inside.
    """

    program: Annotated[str, Meta(max_length=CHAIN_ID_CHARS)]
    chain_id: Annotated[str, Meta(max_length=CHAIN_ID_CHARS)]
    genesis: Hash
    created_s: U63
    height: U63
    block_time_s: U63
    engine: bool
    validator: bool
    files: Annotated[int, Meta(ge=0, le=BACKUP_FILES)]
    size_bytes: U63


class BackedUp(Struct, frozen=True, kw_only=True):
    """A finished backup: what it says of itself and how large the file is."""

    manifest: Manifest
    file_bytes: int


class _Source(Struct, frozen=True, kw_only=True):
    """One file to take: its name inside, where its bytes are now, and how many of them belong to it."""

    name: str
    path: Path
    size_bytes: int

    def pieces(self) -> Iterator[bytes]:
        """The bytes; of a file that became longer meanwhile one byte more, so that it is noticed.

        The block log alone may grow: what is behind its last whole block then does not belong to this backup.
        """
        left = self.size_bytes if self.name == BLOCK_LOG else self.size_bytes + 1
        with self.path.open("rb") as file:
            while left and (piece := file.read(min(left, _PIECE_BYTES))):
                left -= len(piece)
                yield piece


_manifests: Final = msgspec.msgpack.Decoder(Manifest)


def read_manifest(description: bytes) -> Manifest:
    """The manifest in an archive's description; raises ``Rejected``."""
    try:
        return decode_strict(_manifests, description)
    except Malformed:
        raise Rejected(ArchiveCode.DAMAGED) from None


def back_up(
    home: Path,
    out: Path,
    *,
    protection: Protection,
    program: str,
    now_s: int,
    entropy: Entropy,
    progress: Progress | None = None,
) -> BackedUp:
    """Write a backup of ``home`` to the new file ``out``, also while its node runs; durable when it returns.

    ``program`` is this version, ``now_s`` Unix time. Raises ``Rejected`` with a :class:`BackupCode`,
    :class:`HomeUnusable` when this is no home, ``CorruptHistory`` when the block log is damaged,
    :class:`CannotBackUp`, ``SourceChanged`` and ``OSError``. A file that was not finished is taken away again.
    """
    if not home.is_dir():
        raise HomeUnusable(f"{home} is not there.")
    require(not out.exists(), BackupCode.FILE_EXISTS)
    genesis = Home(home).genesis()
    with _staging(home) as staging:
        sources, height, time_s = _captured(home, genesis, staging, leave_out=out)
        names = {one.name for one in sources}
        manifest = Manifest(
            program=program,
            chain_id=genesis.chain_id,
            genesis=genesis_hash(genesis),
            created_s=now_s,
            height=height,
            block_time_s=time_s,
            engine=any(name.startswith(f"{_ENGINE_CONFIG}/") for name in names),
            validator=VALIDATOR_KEY_PATH in names,
            files=len(sources),
            size_bytes=sum(one.size_bytes for one in sources),
        )
        size = _write(out, manifest, sources, protection=protection, entropy=entropy, progress=progress)
    return BackedUp(manifest=manifest, file_bytes=size)


# --- what is in a backup --------------------------------------------------------------------------------


def is_left_out(name: str) -> bool:
    """Whether a file of the home, by its path with ``/``, is not the backup's: derived, temporary, or dangerous.

    Of the engine's folder only its configuration is taken, which holds its keys: its data come again from other nodes,
    and the signing state must not.
    """
    path = PurePosixPath(name)
    if path.parts[0] in _LOCAL or (path.name.startswith(".") and path.suffix == ".tmp"):
        return True
    if path.parts[0].startswith(LEDGER_ASIDE):
        return True
    if path.parts[0] == _VAULT:
        # Objects can be more than any backup holds, and their other copies are their backup. The books are taken.
        return name not in _VAULT_BOOKS
    if path.parts[0] == LEDGER_FOLDER:
        return name not in (BLOCK_LOG, BASE)
    return path.parts[0] == ENGINE_FOLDER and not name.startswith(f"{_ENGINE_CONFIG}/")


def _listed(home: Path) -> list[str]:
    """Every file of the home that belongs into a backup, in order. Links are followed: what they lead to is needed."""
    found: list[str] = []
    seen: set[tuple[int, int]] = set()
    for folder, folders, files in os.walk(home, followlinks=True, onerror=_raise):
        place = Path(folder).stat()
        if (place.st_dev, place.st_ino) in seen:
            folders.clear()
            continue
        seen.add((place.st_dev, place.st_ino))
        within = Path(folder).relative_to(home)
        folders[:] = sorted(one for one in folders if _is_entered((within / one).as_posix()))
        for file in files:
            name = (within / file).as_posix()
            if not is_left_out(name) and stat.S_ISREG((home / name).stat().st_mode):
                found.append(_usable(name))
        require(len(found) <= BACKUP_FILES, BackupCode.TOO_MANY_FILES)
    return sorted(found)


def _raise(error: OSError) -> None:
    raise error


def _is_entered(folder: str) -> bool:
    """Derived folders can be large and change while they are listed, so they are not even looked into."""
    return folder in (LEDGER_FOLDER, ENGINE_FOLDER, _VAULT) or not is_left_out(f"{folder}/file")


def _usable(name: str) -> str:
    """The name, if an archive can hold it."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise CannotBackUp(f"the name of {name!r} is not UTF-8: rename the file or take it out of the home") from None
    if len(name) > ARCHIVE_PATH_CHARS:
        raise CannotBackUp(f"a path below the home is too long: {name[:80]}…")
    return name


# --- one moment -----------------------------------------------------------------------------------------


@contextmanager
def _staging(home: Path) -> Iterator[Path]:
    """A private folder for copies of databases, one backup at a time; what an earlier one left there is removed."""
    folder = home / STAGING
    folder.mkdir(mode=0o700, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Rejected(BackupCode.ALREADY_RUNNING) from None
        _empty(folder)
        try:
            yield folder
        finally:
            _empty(folder)
    finally:
        os.close(handle)


def _empty(folder: Path) -> None:
    for one in folder.iterdir():
        if one.is_dir():
            rmtree(one)
        else:
            one.unlink()


def _captured(home: Path, genesis: Genesis, staging: Path, *, leave_out: Path) -> tuple[list[_Source], int, int]:
    """Everything as of one moment, with the height and the time of its last block."""
    names = [name for name in _listed(home) if (home / name).resolve() != leave_out.resolve()]
    databases = [name for name in names if name != BLOCK_LOG and _is_database(home / name)]
    beside = {f"{name}{side}" for name in databases for side in _SIDE_FILES}
    copies: dict[str, Path] = {}

    def copy(name: str) -> None:
        copies[name] = staging / f"{len(copies)}.sqlite"
        _copy_database(home / name, copies[name], name=name)

    for name in databases:
        if name.startswith(_AUDIT):
            copy(name)
    log_bytes, height, time_s = _whole_blocks(home, genesis) if BLOCK_LOG in names else (0, 0, 0)
    for name in databases:
        if name not in copies:
            copy(name)
    sources = []
    for name in names:
        if name in beside:
            continue
        path = copies.get(name, home / name)
        size = log_bytes if name == BLOCK_LOG else path.stat().st_size
        sources.append(_Source(name=name, path=path, size_bytes=size))
    return sources, height, time_s


def _whole_blocks(home: Path, genesis: Genesis) -> tuple[int, int, int]:
    """How many bytes of the block log are whole blocks, their height and time. Every block's checksum is looked at."""
    log = BlockLog.open(home / LEDGER_FOLDER, genesis=genesis_hash(genesis), read_only=True)
    try:
        time_s = genesis.time_s
        for height, stored in log.blocks():
            if height == log.height:
                time_s = read_header(height, stored).header.time_s
        return log.size_bytes, log.height, time_s
    finally:
        log.release()


def _is_database(path: Path) -> bool:
    """Whether a file is SQLite's; one whose first page is still in its journal has no content of its own yet."""
    with path.open("rb") as file:
        start = file.read(len(_SQLITE))
    return start == _SQLITE or (not start and path.with_name(f"{path.name}-wal").exists())


def _copy_database(source: Path, target: Path, *, name: str) -> None:
    """A whole, checked copy of a database that may be in use; as it was at one moment."""
    try:
        with (
            closing(_connect(source, mode="rw")) as live,
            closing(_connect(target, mode="rwc")) as copy,
        ):
            copy.execute("PRAGMA synchronous=OFF")
            # Inside one read transaction nothing that is written meanwhile makes the copy start again.
            live.execute("BEGIN")
            live.execute("SELECT count(*) FROM sqlite_master").fetchone()
            live.backup(copy, pages=_PAGES)
            found = copy.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        raise CannotBackUp(f"the database {name} cannot be read ({type(error).__name__})") from None
    if found != ("ok",):
        raise CannotBackUp(f"the database {name} is damaged: restore it before you rely on a new backup")


def _connect(path: Path, *, mode: str) -> sqlite3.Connection:
    uri = f"file:{quote(str(path.absolute()))}?mode={mode}"
    return sqlite3.connect(uri, uri=True, timeout=DATABASE_BUSY_S, isolation_level=None)


# --- writing --------------------------------------------------------------------------------------------


def _write(
    out: Path,
    manifest: Manifest,
    sources: list[_Source],
    *,
    protection: Protection,
    entropy: Entropy,
    progress: Progress | None,
) -> int:
    """Write the file beside its name, and give it the name once it is whole and durable; returns its size."""
    # The name is taken first and exchanged last: unlike a hard link, every file system can do that.
    try:
        os.close(os.open(out, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        raise Rejected(BackupCode.FILE_EXISTS) from None
    handle, name = mkstemp(dir=out.parent, prefix=f".{out.name}-", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            writer = ArchiveWriter(file, protection=protection, entropy=entropy, description=encode(manifest))
            done = 0
            for one in sources:
                writer.add(one.name, one.size_bytes, _counted(one.pieces(), done, manifest.size_bytes, progress))
                done += one.size_bytes
            writer.finish()
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        temporary.replace(out)
    except BaseException:
        temporary.unlink(missing_ok=True)
        out.unlink(missing_ok=True)
        raise
    sync_folder(out.parent)
    return size


def _counted(pieces: Iterator[bytes], done: int, total: int, progress: Progress | None) -> Iterator[bytes]:
    for piece in pieces:
        yield piece
        done += len(piece)
        if progress is not None:
            progress(done, total)
