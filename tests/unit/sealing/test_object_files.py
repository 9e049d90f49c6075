"""Goal: a sealing or an opening that is killed anywhere is finished by the same call, and no key meets a nonce twice.

Method: the real code on real files. A process kills itself in the middle; then the power fails after every single
operation on the disk, with nothing, some or other parts of what was not synced surviving, and the call is made again,
with the same source and with one that changed. Every encryption of all attempts is recorded: one (key, nonce) has one
plaintext. Small pieces stand for large ones, so that a few chunks are many pieces.
"""

import io
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from random import Random

import pytest

from carechain.core.limits import OBJECT_CHUNK_BYTES, OBJECT_SIZE_BYTES
from carechain.core.rejection import Rejected
from carechain.core.suite import Institution
from carechain.engine.disk import FileLocked, OsFile
from carechain.sealing import chunks, object_files
from carechain.sealing.codes import SealingCode
from carechain.sealing.object_files import NOTE, OPENING, PART, abandon, open_file, seal_file
from carechain.sealing.objects import ObjectReader, Sealed, address_of, seal_object
from power import PowerDisk

RECORD = b"R" * 32
CHUNK = OBJECT_CHUNK_BYTES
CONTENT = Random(1).randbytes(5 * CHUNK + 100)
CHANGED = CONTENT[: 3 * CHUNK] + b"!" + CONTENT[3 * CHUNK + 1 :]


class Keys:
    """Entropy that never repeats, and capsules that show the key to the test."""

    def __init__(self) -> None:
        self.drawn: list[bytes] = []

    def __call__(self, size: int) -> bytes:
        self.drawn.append(sha256(b"key" + bytes([len(self.drawn)])).digest()[:size])
        return self.drawn[-1]

    @staticmethod
    def capsule(key: bytes) -> bytes:
        return b"capsule of " + key


def seal(target: Path, content: bytes = CONTENT, keys: Keys | None = None, *, version: int = 1) -> Sealed:
    keys = keys or Keys()
    return seal_file(
        lambda: io.BytesIO(content),
        target,
        record=RECORD,
        version=version,
        size=len(content),
        make_capsule=keys.capsule,
        entropy=keys,
    )


def opened(target: Path, sealed: Sealed, *, version: int = 1) -> bytes:
    """The content, after the address and the capsule were seen to be those of the file."""
    data = target.read_bytes()
    assert (sealed.address, sealed.size) == (address_of(data), len(data))
    reader = ObjectReader(data, sealed.capsule.removeprefix(b"capsule of "), record=RECORD, version=version)
    assert reader.capsule == sealed.capsule
    return reader.read(0, reader.size)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_files, "PIECE_BYTES", CHUNK)


Used = dict[tuple[bytes, bytes], bytes]


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> Used:
    """Every (chunk key, nonce) that encrypted something, with what; a second plaintext fails at once."""
    used: Used = {}
    real = chunks.chunk_cipher

    class Watched:
        def __init__(self, key: bytes, cipher: chunks.ChunkCipher) -> None:
            self.key, self.cipher = key, cipher
            self.open_into = cipher.open_into

        def seal_into(self, nonce: bytes, plain: memoryview, aad: bytes, out: memoryview) -> None:
            assert used.setdefault((self.key, nonce), bytes(plain)) == plain, "a nonce met two plaintexts"
            self.cipher.seal_into(nonce, plain, aad, out)

    monkeypatch.setattr(chunks, "chunk_cipher", lambda suite, key: Watched(key, real(suite, key)))
    return used


def left(folder: Path) -> set[str]:
    return {one.name for one in folder.iterdir()}


@pytest.mark.parametrize("size", [0, 1, CHUNK, CHUNK + 1, 5 * CHUNK])
def test_a_file_is_what_a_stream_would_be(tmp_path: Path, small_pieces: None, size: int) -> None:
    target = tmp_path / "object"
    sealed = seal(target, CONTENT[:size])
    assert opened(target, sealed) == CONTENT[:size]
    out = io.BytesIO()
    key = Keys()(32)
    again = seal_object(CONTENT[:size], out.write, key=key, capsule=Keys.capsule(key), record=RECORD, version=1)
    assert (again, out.getvalue()) == (sealed, target.read_bytes())
    assert left(tmp_path) == {"object"}
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


def test_the_note_is_private_and_small_contents_have_none(tmp_path: Path, small_pieces: None) -> None:
    """What is beside the object while it is sealed: nothing that others can read, and no key of a small content."""
    seen = []

    class Looking(io.BytesIO):
        def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
            if (note := tmp_path / f"object{NOTE}").exists():
                seen.append((stat.S_IMODE(note.stat().st_mode), keys.drawn[0] in note.read_bytes()))
            return super().readinto(buffer)

    for size, has_key in [(CHUNK, False), (CHUNK + 1, True)]:
        keys = Keys()
        seal_file(
            lambda size=size: Looking(CONTENT[:size]),  # type: ignore[misc]
            tmp_path / "object",
            record=RECORD,
            version=1,
            size=size,
            make_capsule=keys.capsule,
            entropy=keys,
        )
        assert set(seen) == {(0o600, has_key)}
        seen.clear()
        (tmp_path / "object").unlink()


class Stopped(Exception):  # noqa: N818 - what happens
    """Stands for a kill at a place in the source."""


def stop_at(content: bytes, place: int) -> Callable[[], io.BytesIO]:
    class Stopping(io.BytesIO):
        def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
            if self.tell() >= place:
                raise Stopped
            return super().readinto(buffer)

    return lambda: Stopping(content)


def stopped(target: Path, keys: Keys, place: int = 3 * CHUNK) -> None:
    with pytest.raises(Stopped):
        seal_file(
            stop_at(CONTENT, place),
            target,
            record=RECORD,
            version=1,
            size=len(CONTENT),
            make_capsule=keys.capsule,
            entropy=keys,
        )


def test_it_goes_on_with_the_same_key(tmp_path: Path, small_pieces: None, used: Used) -> None:
    keys, target = Keys(), tmp_path / "object"
    stopped(target, keys)
    assert left(tmp_path) == {f"object{NOTE}", f"object{PART}"}
    written = (tmp_path / f"object{PART}").read_bytes()
    sealed = seal(target, keys=keys)
    assert len(keys.drawn) == 1
    assert target.read_bytes().startswith(written)
    assert len(written) > 2 * CHUNK
    assert sealed == seal(tmp_path / "undisturbed")
    assert left(tmp_path) == {"object", "undisturbed"}


def test_what_stands_there_is_not_written_again(
    tmp_path: Path, small_pieces: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, target = Keys(), tmp_path / "object"
    stopped(target, keys)
    before = (tmp_path / f"object{PART}").stat().st_size
    places: list[int] = []
    real = OsFile.write_at

    def write_at(self: OsFile, offset: int, data: bytes) -> None:
        places.append(offset)
        real(self, offset, data)

    with monkeypatch.context() as watched:
        watched.setattr(OsFile, "write_at", write_at)
        seal(target, keys=keys)
    assert min(place for place in places if place > CHUNK) == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[: CHUNK // 2],
        lambda _: b"",
        lambda data: data[:CHUNK] + bytes(CHUNK) + data[2 * CHUNK :],
        lambda data: bytes(len(data)),
    ],
)
def test_a_damaged_part_is_mended(tmp_path: Path, small_pieces: None, damage: Callable[[bytes], bytes]) -> None:
    keys, target = Keys(), tmp_path / "object"
    stopped(target, keys)
    part = tmp_path / f"object{PART}"
    part.write_bytes(damage(part.read_bytes()))
    assert opened(target, seal(target, keys=keys)) == CONTENT
    assert len(keys.drawn) == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda data: data[:40],
        lambda data: data[:20] + b"\x00" + data[21:],
        lambda data: bytes(len(data)),
        lambda data: data[:-16],
        lambda data: data[:-1] + b"\x00",
    ],
)
def test_a_note_that_lost_something_is_not_believed(
    tmp_path: Path,
    small_pieces: None,
    used: Used,
    damage: Callable[[bytes], bytes],
) -> None:
    """What was written may then go beyond what was noted, so another key is drawn."""
    keys, target = Keys(), tmp_path / "object"
    stopped(target, keys)
    note = tmp_path / f"object{NOTE}"
    note.write_bytes(damage(note.read_bytes()))
    assert opened(target, seal(target, keys=keys)) == CONTENT
    assert len(keys.drawn) == 2
    assert left(tmp_path) == {"object"}


@pytest.mark.parametrize("changed", [0, 1, 2])
def test_another_source_gets_another_key(tmp_path: Path, small_pieces: None, used: Used, changed: int) -> None:
    keys, target = Keys(), tmp_path / "object"
    stopped(target, keys)
    other = bytearray(CONTENT)
    other[changed * CHUNK + 5] ^= 1
    assert opened(target, seal(target, bytes(other), keys)) == other
    assert len(keys.drawn) == 2


def test_what_was_never_read_may_change(tmp_path: Path, small_pieces: None, used: Used) -> None:
    keys, target = Keys(), tmp_path / "object"
    stopped(target, keys)
    other = CONTENT[:-1] + b"!"
    assert opened(target, seal(target, other, keys)) == other
    assert len(keys.drawn) == 1


def test_another_job_under_the_same_name_starts_anew(tmp_path: Path, small_pieces: None, used: Used) -> None:
    keys, target = Keys(), tmp_path / "object"
    stopped(target, keys)
    assert opened(target, seal(target, keys=keys, version=2), version=2) == CONTENT
    assert len(keys.drawn) == 2


def test_an_object_is_not_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "object"
    seal(target)
    before = target.read_bytes()
    with pytest.raises(Rejected) as refused:
        seal(target, CHANGED)
    assert refused.value.code is SealingCode.ALREADY_SEALED
    assert target.read_bytes() == before
    assert left(tmp_path) == {"object"}


def test_a_file_put_beside_an_unfinished_object_is_left_alone(tmp_path: Path, small_pieces: None) -> None:
    keys, target = Keys(), tmp_path / "object"
    stopped(target, keys)
    target.write_bytes(b"mine")
    with pytest.raises(Rejected) as refused:
        seal(target, keys=keys)
    assert refused.value.code is SealingCode.ALREADY_SEALED
    assert target.read_bytes() == b"mine"
    target.unlink()
    assert opened(target, seal(target, keys=keys)) == CONTENT
    assert len(keys.drawn) == 1


def test_one_at_a_time(tmp_path: Path, small_pieces: None) -> None:
    target = tmp_path / "object"

    def meanwhile() -> io.BytesIO:
        with pytest.raises(FileLocked):
            seal(target)
        return io.BytesIO(CONTENT)

    keys = Keys()
    sealed = seal_file(
        meanwhile,
        target,
        record=RECORD,
        version=1,
        size=len(CONTENT),
        make_capsule=keys.capsule,
        entropy=keys,
    )
    assert opened(target, sealed) == CONTENT


@pytest.mark.parametrize("size", [0, 10, 3 * CHUNK, 6 * CHUNK, OBJECT_SIZE_BYTES + 1])
def test_a_wrong_size_leaves_nothing(tmp_path: Path, small_pieces: None, size: int) -> None:
    keys = Keys()
    with pytest.raises(Rejected) as refused:
        seal_file(
            lambda: io.BytesIO(CONTENT),
            tmp_path / "object",
            record=RECORD,
            version=1,
            size=size,
            make_capsule=keys.capsule,
            entropy=keys,
        )
    assert refused.value.code in (SealingCode.SOURCE_SIZE_WRONG, SealingCode.SIZE_OUT_OF_BOUNDS)
    assert left(tmp_path) == set()


def test_a_sealing_can_be_given_up(tmp_path: Path, small_pieces: None) -> None:
    keys, target = Keys(), tmp_path / "object"
    stopped(target, keys)
    abandon(target)
    assert left(tmp_path) == set()


def test_the_job_shows_no_key() -> None:
    job = object_files._Job(
        suite=Institution.INTERNATIONAL, record=RECORD, version=1, size=1, key=b"K" * 32, capsule=b""
    )
    assert "K" not in repr(job)


_KILLED = """
import io, os, signal, sys
from pathlib import Path
from random import Random
from carechain.sealing.object_files import seal_file

class Killing(io.BytesIO):
    def readinto(self, buffer):
        if self.tell() >= 24_000_000:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().readinto(buffer)

seal_file(lambda: Killing(Random(1).randbytes(30_000_000)), Path(sys.argv[1]), record=b"R" * 32, version=1,
          size=30_000_000, make_capsule=lambda key: b"capsule of " + key, entropy=os.urandom)
"""


def test_a_killed_process_is_finished_by_the_next(tmp_path: Path) -> None:
    target = tmp_path / "object"
    ran = subprocess.run([sys.executable, "-c", _KILLED, str(target)], check=False)
    assert ran.returncode == -signal.SIGKILL
    part = tmp_path / f"object{PART}"
    assert part.stat().st_size > 16_000_000
    written = part.read_bytes()
    keys = Keys()
    content = Random(1).randbytes(30_000_000)
    sealed = seal(target, content, keys)
    assert keys.drawn == []
    assert target.read_bytes().startswith(written)
    assert opened(target, sealed) == content
    assert left(tmp_path) == {"object"}


# --- the power fails at every step ----------------------------------------------------------------------------


class Recorded:
    """A sealing, what it did to the disk, and after which operations it had encrypted how much."""

    def __init__(self, folder: Path, keys: Keys, used: Used) -> None:
        folder.mkdir()
        self.disk = PowerDisk(folder)
        self.encrypted: list[tuple[int, Used]] = []
        note = self.disk.note

        def noted(kind: str, path: Path, *rest: object) -> None:
            self.encrypted.append((len(self.disk.events), dict(used)))
            note(kind, path, *rest)

        with pytest.MonkeyPatch.context() as watched:
            watched.setattr(self.disk, "note", noted)
            self.disk.watch(watched)
            self.sealed = seal(folder / "object", keys=keys)
        assert {event[0] for event in self.disk.events} >= {"make", "write", "cut", "sync", "rename", "remove"}

    def encrypted_by(self, step: int) -> Used:
        """What had been encrypted when the operation after ``step`` others was about to happen."""
        return next((known for at, known in self.encrypted if at == step), self.encrypted[-1][1])


@pytest.mark.parametrize("content", [CONTENT, CHANGED], ids=["same", "changed"])
@pytest.mark.parametrize("chance", [None, 1, 2, 3], ids=["nothing", "some", "others", "more"])
def test_power_may_fail_at_every_step(
    tmp_path: Path, small_pieces: None, used: Used, chance: int | None, content: bytes
) -> None:
    keys = Keys()
    first = Recorded(tmp_path / "disk", keys, used)
    rnd = None if chance is None else Random(chance)
    home = tmp_path / "left"
    same, others, codes = 0, 0, set()
    for step in range(len(first.disk.events) + 1):
        first.disk.after_power_failure(step, rnd).write(home)
        used.clear()
        used.update(first.encrypted_by(step))
        try:
            sealed = seal(home / "object", content, keys)
        except Rejected as error:
            # The object was whole and its key gone: what is there is the first one.
            codes.add(error.code)
            assert opened(home / "object", first.sealed) == CONTENT
            continue
        assert opened(home / "object", sealed) == content
        assert left(home) == {"object"}
        same, others = same + (sealed == first.sealed), others + (sealed != first.sealed)
    assert codes == {SealingCode.ALREADY_SEALED}
    assert others > 0
    assert (same > 0) is (content is CONTENT)


# --- opening ----------------------------------------------------------------------------------------------------


@pytest.fixture
def sealed_file(tmp_path: Path) -> Path:
    target = tmp_path / "object"
    seal(target)
    return target


KEY = Keys()(32)


def open_it(source: Path | io.BytesIO, target: Path, key: bytes = KEY) -> int:
    stream = source if isinstance(source, io.BytesIO) else io.BytesIO(source.read_bytes())
    return open_file(stream, target, key, record=RECORD, version=1)


def test_opening_gives_the_content(tmp_path: Path, sealed_file: Path) -> None:
    plain = tmp_path / "plain"
    assert open_it(sealed_file, plain) == len(CONTENT)
    assert plain.read_bytes() == CONTENT
    assert stat.S_IMODE(plain.stat().st_mode) == 0o600
    assert left(tmp_path) == {"object", "plain"}


@pytest.mark.parametrize(
    "there", [b"", CONTENT[:1000], CONTENT[:CHUNK] + b"?" * CHUNK, CONTENT + b"more", bytes(len(CONTENT))]
)
def test_opening_goes_on_and_believes_nothing(tmp_path: Path, sealed_file: Path, there: bytes) -> None:
    (tmp_path / f"plain{OPENING}").write_bytes(there)
    open_it(sealed_file, tmp_path / "plain")
    assert (tmp_path / "plain").read_bytes() == CONTENT
    assert left(tmp_path) == {"object", "plain"}


def test_a_defect_leaves_no_file(tmp_path: Path, sealed_file: Path) -> None:
    """What came before the defect is sound and stays for a better copy; the name does not appear."""
    data = bytearray(sealed_file.read_bytes())
    data[-1] ^= 1
    with pytest.raises(Rejected) as refused:
        open_it(io.BytesIO(bytes(data)), tmp_path / "plain")
    assert refused.value.code is SealingCode.CHUNK_ALTERED
    assert left(tmp_path) <= {"object", f"plain{OPENING}"}
    open_it(sealed_file, tmp_path / "plain")
    assert (tmp_path / "plain").read_bytes() == CONTENT


def test_a_wrong_key_makes_no_file(tmp_path: Path, sealed_file: Path) -> None:
    with pytest.raises(Rejected) as refused:
        open_it(sealed_file, tmp_path / "plain", bytes(32))
    assert refused.value.code is SealingCode.KEY_WRONG
    assert left(tmp_path) == {"object"}


def test_opening_twice_is_once_and_never_overwrites(tmp_path: Path, sealed_file: Path) -> None:
    plain = tmp_path / "plain"
    open_it(sealed_file, plain)
    open_it(sealed_file, plain)
    for other in (b"mine", CHANGED):
        plain.write_bytes(other)
        with pytest.raises(Rejected) as refused:
            open_it(sealed_file, plain)
        assert refused.value.code is SealingCode.ALREADY_OPENED
        assert plain.read_bytes() == other


@pytest.mark.parametrize("chance", [None, 1, 2], ids=["nothing", "some", "others"])
def test_power_may_fail_while_opening(tmp_path: Path, sealed_file: Path, chance: int | None) -> None:
    (tmp_path / "disk").mkdir()
    disk = PowerDisk(tmp_path / "disk")
    data = io.BytesIO(sealed_file.read_bytes())
    with pytest.MonkeyPatch.context() as watched:
        disk.watch(watched)
        open_it(data, disk.root / "plain")
    rnd = None if chance is None else Random(chance)
    home = tmp_path / "left"
    for step in range(len(disk.events) + 1):
        disk.after_power_failure(step, rnd).write(home)
        open_it(data, home / "plain")
        assert (home / "plain").read_bytes() == CONTENT
        assert left(home) == {"plain"}


def test_a_source_on_the_disk_is_read_as_it_is(tmp_path: Path, sealed_file: Path) -> None:
    descriptor = os.open(sealed_file, os.O_RDONLY)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        assert open_file(file, tmp_path / "plain", KEY, record=RECORD, version=1) == len(CONTENT)
