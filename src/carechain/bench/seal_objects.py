"""The object part of ``bench seal``: how fast content is sealed and opened, against the library's own cipher and hash.

Every rate is of the same content in the same run, in turns, so that whatever else the machine does hits all alike; the
best of several rounds counts, because a disturbance can only slow one down. MB are 10⁶ bytes.

``python -m carechain.bench.seal_objects FOLDER BYTES`` seals and opens a large object, killed in between, in a process
of its own: that is where its memory is measured.
"""

import io
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, Final

import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from carechain.core.suite import Institution
from carechain.sealing.object_files import NOTE, open_file, seal_file
from carechain.sealing.objects import SEALED_CHUNK_BYTES, WINDOW_BYTES, ChunkSealer, ObjectReader, seal_object

CONTENT_BYTES: Final = 100_000_000
LARGE_BYTES: Final = 500_000_000
ROUNDS: Final = 7
_MB: Final = 1_000_000
_MIB: Final = 1024 * 1024
_TAG: Final = 16
_KEY: Final = bytes(range(32))
_RECORD: Final = bytes(32)
_CAPSULE: Final = bytes(200)
_PIECE: Final = 64 * 1024


def run_objects(
    *,
    content_bytes: int = CONTENT_BYTES,
    large_bytes: int = LARGE_BYTES,
    rounds: int = ROUNDS,
    folder: Path | None = None,
) -> dict[str, Any]:
    """Measure; ``folder`` is where the large object is written (its disk is part of those two figures).

    ``raw_mb_s`` and ``sha256_mb_s`` are the yardsticks. ``encrypt_ratio`` is encryption alone to raw AES-256-GCM,
    ``seal_ratio`` encryption with the address to the slower of raw AES-256-GCM and SHA-256.
    """
    content = os.urandom(content_bytes)
    works = _works(content)
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            started = perf_counter()
            work()
            seconds[name].append(perf_counter() - started)
    best = {name: content_bytes / _MB / min(took) for name, took in seconds.items()}
    raw = max(best["raw"], best["raw in pieces"])
    return {
        "content_mb": round(content_bytes / _MB, 1),
        "raw_mb_s": round(raw, 1),
        "sha256_mb_s": round(best["sha256"], 1),
        "encrypt_mb_s": round(best["encrypt"], 1),
        "seal_mb_s": round(best["seal"], 1),
        "open_mb_s": round(best["open"], 1),
        "sm_seal_mb_s": round(_sm_rate(content[: content_bytes // 20]), 1),
        "encrypt_ratio": round(best["encrypt"] / raw, 3),
        "seal_ratio": round(best["seal"] / min(raw, best["sha256"]), 3),
        "large": run_large(large_bytes, folder),
    }


def _works(content: bytes) -> dict[str, Callable[[], object]]:
    """What is timed. Memory that is written to was touched before: the system's work for new pages is not measured."""
    whole = memoryview(content)
    cipher = AESGCM(_KEY)
    out = memoryview(bytearray(len(content) + _TAG))
    piece_out = memoryview(bytearray(_PIECE + _TAG))
    window_out = memoryview(bytearray(WINDOW_BYTES // _PIECE * SEALED_CHUNK_BYTES))
    sealed = io.BytesIO()
    seal_object(content, sealed.write, key=_KEY, capsule=_CAPSULE, record=_RECORD, version=1)

    def raw_in_pieces() -> None:
        for place in range(0, len(content), _PIECE):
            piece = whole[place : place + _PIECE]
            cipher.encrypt_into(place.to_bytes(12, "big"), piece, None, piece_out[: len(piece) + _TAG])

    def encrypt() -> None:
        chunks = ChunkSealer(
            key=_KEY, capsule=_CAPSULE, record=_RECORD, version=1, size=len(content), suite=Institution.INTERNATIONAL
        )
        for place in range(0, len(content), WINDOW_BYTES):
            chunks.seal(whole[place : place + WINDOW_BYTES], window_out)

    def opened() -> None:
        for _ in ObjectReader(sealed, _KEY, record=_RECORD, version=1).chunks():
            pass

    return {
        "raw": lambda: cipher.encrypt_into(bytes(12), content, None, out),
        "raw in pieces": raw_in_pieces,
        "sha256": lambda: sha256(content),
        "encrypt": encrypt,
        "seal": lambda: seal_object(content, _drop, key=_KEY, capsule=_CAPSULE, record=_RECORD, version=1),
        "open": opened,
    }


def _drop(_: memoryview) -> None:
    """Where a sealed object goes when only the sealing counts."""


def _sm_rate(content: bytes) -> float:
    """MB a second under the other suite: SM4-GCM and SM3, for which this machine may have no instructions."""
    started = perf_counter()
    seal_object(content, _drop, key=_KEY, capsule=_CAPSULE, record=_RECORD, version=1, suite=Institution.SM)
    return len(content) / _MB / (perf_counter() - started)


def run_large(size: int = LARGE_BYTES, folder: Path | None = None) -> dict[str, Any]:
    """Seal an object of ``size`` bytes into a file, killed half-way and called again, then open it into a file.

    Each step runs in a process of its own; ``peak_mb`` (MiB) is the most that any of them held. ``resumed`` says that
    the second call went on with the first one's key, and ``same`` that what was opened is what was sealed.
    """
    with TemporaryDirectory(dir=folder) as name:
        killed = subprocess.run([*_command(name, size), "kill"], check=False)  # noqa: S603 - this module
        begun = _key_noted(Path(name))
        done = subprocess.run(_command(name, size), check=True, capture_output=True)  # noqa: S603 - this module
    told: dict[str, Any] = msgspec.json.decode(done.stdout)
    drawn = bytes.fromhex(told.pop("drawn"))
    return {
        "mb": round(size / _MB, 1),
        "killed": killed.returncode == -signal.SIGKILL,
        "resumed": begun and not drawn,
        **told,
    }


def _command(folder: str, size: int) -> list[str]:
    return [sys.executable, "-m", __name__, folder, str(size)]


def _key_noted(folder: Path) -> bool:
    return (folder / f"object{NOTE}").exists()


class _Content:
    """A content that repeats itself, for sealing without a source on the disk; it may kill the process on the way."""

    _PATTERN: Final = bytes(range(251)) * (WINDOW_BYTES // 251)

    def __init__(self, size: int, kill_at: int | None = None) -> None:
        self._left = size
        self._kill_at = kill_at
        self._hash = sha256()

    def readinto(self, buffer: memoryview, /) -> int:
        if self._kill_at is not None and self._left <= self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        size = min(len(buffer), self._left, len(self._PATTERN))
        buffer[:size] = self._PATTERN[:size]
        self._hash.update(buffer[:size])
        self._left -= size
        return size

    def digest(self) -> bytes:
        return self._hash.digest()

    def close(self) -> None:
        self._left = 0


def _peak_mib() -> float:
    """The most memory this process has held."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _MIB
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def main(folder: str, size: str, kill: str = "") -> int:
    """Seal, or go on sealing, a content of ``size`` bytes, and open it; prints one JSON object."""
    place, count = Path(folder), int(size)
    drawn: list[bytes] = []
    contents: list[_Content] = []

    def source() -> _Content:
        contents.append(_Content(count, count // 2 if kill else None))
        return contents[-1]

    def entropy(wanted: int) -> bytes:
        drawn.append(os.urandom(wanted))
        return drawn[-1]

    started = perf_counter()
    sealed = seal_file(
        source,
        place / "object",
        record=_RECORD,
        version=1,
        size=count,
        # The key stands in the capsule here, because nobody else is there who could keep it.
        make_capsule=lambda key: key,
        entropy=entropy,
    )
    sealed_s = perf_counter() - started
    started = perf_counter()
    with (place / "object").open("rb", buffering=0) as file:
        open_file(file, place / "plain", sealed.capsule, record=_RECORD, version=1)
    opened_s = perf_counter() - started
    with (place / "plain").open("rb") as plain:
        same = _hash_of(plain) == contents[-1].digest()
    told = {
        "peak_mb": round(_peak_mib(), 1),
        "seal_file_mb_s": round(count / _MB / sealed_s, 1),
        "open_file_mb_s": round(count / _MB / opened_s, 1),
        "same": same,
        "drawn": b"".join(drawn).hex(),
    }
    sys.stdout.write(msgspec.json.encode(told).decode() + "\n")
    return 0


def _hash_of(file: io.BufferedReader) -> bytes:
    hasher = sha256()
    while piece := file.read(WINDOW_BYTES):
        hasher.update(piece)
    return hasher.digest()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
