"""What ``record seal`` has to do with a file, and how far it has come: after a kill the same command finishes.

A job is known again by a keyed fingerprint of the content and of what was said about it. Its journal holds a random
seed, from which the record ids and the salts follow, so they are the same ones the next time; and every anchor as soon
as its object is whole. When all of it is on the ledger the seed is overwritten, and only the record ids stay: so the
same command, given once more, changes nothing.

The folder is ``vault/sealing`` in the home, which no backup takes: a large object's key lies there while it is sealed.
"""

import hashlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec
import typer
from msgspec import Struct

from carechain.charts.bundle import Entry, parse, patient_of
from carechain.charts.dates import day_of_unix
from carechain.charts.facts import NO_DAY, Resolver, facts_of
from carechain.charts.resource_types import DIRECTORY
from carechain.charts.sensitivity import grade
from carechain.charts.split import Group, split
from carechain.cli.output import CannotRun
from carechain.contracts.records import Anchor
from carechain.core.codec import decode_strict, encode
from carechain.core.hashing import tagged
from carechain.core.limits import BUNDLE_SIZE_BYTES, ID_SIZE
from carechain.core.rejection import require
from carechain.core.vocabulary import Category, Sensitivity
from carechain.engine.disk import FileLocked, OsFile
from carechain.sdk.sealed import About
from carechain.sdk.searching import IndexSecret, texts_of
from carechain.sealing.codes import SealingCode
from carechain.sealing.contents import RESOURCE_SIZE_BYTES, Resource
from carechain.state.log import make_folder
from carechain.vault.metering import VaultDatabase

FOLDER: Final = "vault/sealing"
JOURNAL_FILE: Final = "sealed.sqlite"
_LOCK_FILE: Final = "lock"
_SEED_SIZE: Final = 32
_PIECE_BYTES: Final = 1 << 20
_NONE: Final = -1
_anchors: Final = msgspec.msgpack.Decoder(Anchor)
_lists: Final = msgspec.msgpack.Decoder(list[tuple[bytes, int]])

Advance = Callable[[int, int], None]


# --- what was asked for ---------------------------------------------------------------------------------


class Asked(Struct, frozen=True, kw_only=True):
    """What the command was told: the file, and what the ledger is to say about it."""

    file: Path
    pseudonym: bytes
    category: Category | None
    sensitivity: Sensitivity | None
    day: int | None
    record: bytes | None
    whole: bool
    words: Path | None
    index: bool


class Item(Struct, frozen=True, kw_only=True):
    """One record to seal: what the ledger will show, its resources, and the texts that it is to be found by."""

    about: About
    resources: Sequence[Resource]
    texts: Sequence[str]

    @property
    def place(self) -> tuple[Category, Sensitivity]:
        """Which index it belongs to."""
        return self.about.category, self.about.sensitivity

    @property
    def size_bytes(self) -> int:
        """Bytes of content."""
        return sum(one.size for one in self.resources)


class Plan(Struct, frozen=True, kw_only=True):
    """The records of one file. ``left_out`` counts a bundle's shared resources, which are about no patient."""

    items: Sequence[Item]
    left_out: int = 0
    usual: Sensitivity | None = None
    """The grade that the words of a single file are usually given, where it is above the one it was given."""


def is_bundle(asked: Asked) -> bool:
    """Whether the file is a FHIR bundle to be divided into records; raises ``OSError``."""
    if asked.whole or asked.file.stat().st_size > BUNDLE_SIZE_BYTES:
        return False
    with asked.file.open("rb") as file:
        if not file.read(_PIECE_BYTES).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
            return False
    try:
        return msgspec.json.decode(asked.file.read_bytes(), type=_Kind).resource_type == "Bundle"
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False


class _Kind(Struct):
    resource_type: str = msgspec.field(name="resourceType", default="")


def require_fitting(asked: Asked, *, bundle: bool) -> None:
    """Refuse what cannot be meant; raises ``typer.BadParameter``."""
    if bundle:
        given = {
            "--category": asked.category,
            "--day": asked.day,
            "--record": asked.record,
            "--words-file": asked.words,
        }
        for option, value in given.items():
            if value is not None:
                raise typer.BadParameter(
                    "each record of a bundle has its own: leave it out, or seal the bundle as one file with --whole",
                    param_hint=option,
                )
        return
    wanted = {"--category": asked.category, "--sensitivity": asked.sensitivity, "--day": asked.day}
    for option, value in wanted.items():
        if value is None:
            raise typer.BadParameter(
                "say it: this file is no FHIR bundle, which would say it itself", param_hint=option
            )
    require(asked.file.stat().st_size <= RESOURCE_SIZE_BYTES, SealingCode.SIZE_OUT_OF_BOUNDS)


def job_id(asked: Asked, secret: IndexSecret, *, bundle: bool, advance: Advance) -> bytes:
    """The same 32 bytes for the same content with the same labels; they tell nobody else what it was."""
    said = (
        _NONE if asked.category is None else int(asked.category),
        _NONE if asked.sensitivity is None else int(asked.sensitivity),
        _NONE if asked.day is None else asked.day,
        int(bundle),
        int(asked.index),
    )
    words = b"" if asked.words is None else _digest(asked.words, lambda _done, _total: None)
    parts = (asked.pseudonym, encode(said), _digest(asked.file, advance), words, asked.record or b"")
    return secret.fingerprint(*parts)


def plan(asked: Asked, job: "Job", *, bundle: bool) -> Plan:
    """The records of the file: the same ones every time for the same job. Raises ``Rejected`` and ``OSError``."""
    return _plan_bundle(asked, job) if bundle else _plan_file(asked, job)


def _plan_file(asked: Asked, job: "Job") -> Plan:
    size = asked.file.stat().st_size
    texts: list[str] = []
    if asked.index and size <= BUNDLE_SIZE_BYTES:
        texts += texts_of(asked.file.read_bytes())
    if asked.index and asked.words is not None:
        texts.append(_words_in(asked.words))
    if asked.category is None or asked.sensitivity is None or asked.day is None:
        raise TypeError("a file without labels")
    about = About(
        pseudonym=asked.pseudonym,
        record=asked.record or job.record_id(0),
        version=job.version,
        category=asked.category,
        sensitivity=asked.sensitivity,
        day=asked.day,
    )
    file = asked.file
    resource = Resource(salt=job.salt(about.record, 0), size=size, open=lambda: file.open("rb"))
    usual = grade(codings=(), texts=texts, security=()).sensitivity
    item = Item(about=about, resources=(resource,), texts=texts)
    return Plan(items=(item,), usual=usual if usual > asked.sensitivity else None)


def _plan_bundle(asked: Asked, job: "Job") -> Plan:
    bundle = parse(asked.file.read_bytes())
    resolver = Resolver(bundle, patient_of(bundle))
    entries = {one.key: one for one in bundle.entries if one.resource_type not in DIRECTORY}
    groups = split([facts_of(one, resolver) for one in entries.values()])
    items = [_item(asked, job, number, group, entries) for number, group in enumerate(groups)]
    return Plan(items=items, left_out=len(bundle.entries) - len(entries))


def _item(asked: Asked, job: "Job", number: int, group: Group, entries: dict[str, Entry]) -> Item:
    record = job.record_id(number)
    bodies = [entries[key].body for key in group.members]
    about = About(
        pseudonym=asked.pseudonym,
        record=record,
        version=1,
        category=group.category,
        sensitivity=group.sensitivity if asked.sensitivity is None else max(group.sensitivity, asked.sensitivity),
        day=day_of_unix(job.began_s) if group.day == NO_DAY else group.day,
    )
    resources = [Resource.of(job.salt(record, at), body) for at, body in enumerate(bodies)]
    return Item(
        about=about, resources=resources, texts=[text for body in bodies for text in texts_of(body)] * asked.index
    )


def _words_in(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise CannotRun(f"{path} is not UTF-8 text") from None


def _digest(path: Path, advance: Advance) -> bytes:
    hasher, done, total = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            hasher.update(piece)
            done += len(piece)
            advance(done, total)
    return hasher.digest()


# --- how far it has come --------------------------------------------------------------------------------


class Job(Struct, frozen=True, kw_only=True):
    """One sealing under way, or done: then ``sealed`` names its records and the seed is gone. The repr shows none."""

    id: bytes
    seed: bytes
    began_s: int
    version: int
    sealed: tuple[tuple[bytes, int], ...] | None = None

    def record_id(self, number: int) -> bytes:
        """The id of the job's record with this number."""
        return tagged("carechain/sealed-record/1", self.seed, number.to_bytes(4, "big"))

    def salt(self, record: bytes, number: int) -> bytes:
        """The salt of one resource of a record."""
        return tagged("carechain/sealed-salt/1", self.seed, record, number.to_bytes(4, "big"))

    def __repr__(self) -> str:
        return f"Job({self.id.hex()})"


class SealingJournal(VaultDatabase):
    """All jobs of a home. What is deleted is overwritten."""

    tables = (
        """CREATE TABLE jobs (
            id BLOB PRIMARY KEY, seed BLOB NOT NULL, began_s INTEGER NOT NULL, version INTEGER NOT NULL, sealed BLOB
        ) WITHOUT ROWID""",
        """CREATE TABLE anchors (
            job BLOB NOT NULL, record BLOB NOT NULL, anchor BLOB NOT NULL, PRIMARY KEY (job, record)
        ) WITHOUT ROWID""",
    )

    def job(self, job: bytes) -> Job | None:
        """What is known about a job."""
        rows = self._select("SELECT seed, began_s, version, sealed FROM jobs WHERE id = ?", job)
        if not rows:
            return None
        seed, began_s, version, sealed = rows[0]
        done = None if sealed is None else tuple(_lists.decode(sealed))
        return Job(id=job, seed=bytes(seed), began_s=began_s, version=version, sealed=done)

    def begin(self, job: bytes, *, began_s: int, version: int) -> Job:
        """A new job with a seed of its own; durable on return."""
        seed = secrets.token_bytes(_SEED_SIZE)
        self._execute("INSERT INTO jobs VALUES (?, ?, ?, ?, NULL)", job, seed, began_s, version)
        return Job(id=job, seed=seed, began_s=began_s, version=version)

    def anchors(self, job: bytes) -> dict[bytes, Anchor]:
        """The anchors of objects that are whole, by record."""
        rows = self._select("SELECT record, anchor FROM anchors WHERE job = ?", job)
        return {bytes(record): decode_strict(_anchors, bytes(raw)) for record, raw in rows}

    def note(self, job: bytes, anchor: Anchor) -> None:
        """An object is whole; durable on return."""
        self._execute("INSERT OR REPLACE INTO anchors VALUES (?, ?, ?)", job, anchor.record, encode(anchor))

    def unnote(self, job: bytes, record: bytes) -> None:
        """The object is gone and nothing names it: it is sealed anew."""
        self._execute("DELETE FROM anchors WHERE job = ? AND record = ?", job, record)

    def finish(self, job: bytes, sealed: Sequence[tuple[bytes, int]]) -> None:
        """All of it is on the ledger; the seed is overwritten."""

        def write() -> None:
            done = encode(list(sealed))
            self._connection.execute("UPDATE jobs SET seed = ?, sealed = ? WHERE id = ?", (b"", done, job))
            self._connection.execute("DELETE FROM anchors WHERE job = ?", (job,))

        self._write(write)
        self._forget_log()

    def forget(self, job: bytes) -> None:
        """The same content is to become a record once more."""
        self._execute("DELETE FROM jobs WHERE id = ? AND sealed IS NOT NULL", job)


@contextmanager
def journal_of(home: Path) -> Iterator[SealingJournal]:
    """The journal of a home; raises :class:`CannotRun` where no vault has begun, and ``OSError``."""
    folder = home / FOLDER
    if not folder.parent.is_dir():
        raise CannotRun(f"{folder.parent} is missing: the vault begins when the organisation's node first runs")
    make_folder(folder)
    with SealingJournal(folder / JOURNAL_FILE) as journal:
        yield journal


@contextmanager
def workplace(home: Path, job: bytes) -> Iterator[Path]:
    """The folder of one job, which no other process works on meanwhile; raises :class:`CannotRun`.

    What is left in it stays there for the next time; an empty one is removed.
    """
    folder = home / FOLDER / job[: ID_SIZE // 2].hex()
    make_folder(folder)
    try:
        lock = OsFile(folder / _LOCK_FILE)
    except FileLocked:
        raise CannotRun("another process is sealing this very file: wait for its end") from None
    try:
        yield folder
        if all(one.name == _LOCK_FILE for one in folder.iterdir()):
            (folder / _LOCK_FILE).unlink(missing_ok=True)
            with suppress(OSError):
                # Somebody else has begun here in this very moment.
                folder.rmdir()
    finally:
        lock.close()
