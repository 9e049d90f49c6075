"""Goal: an archive gives back what was put in, to whoever has the key, and nothing at all once a byte is not as it was.

Method: archives in memory around every chunk boundary; each of them is then cut, flipped, reordered and mixed with
another; the reader must refuse before it hands out a byte that was not authenticated, and never with another error.
"""

import contextlib
import io
import os
from hashlib import sha256
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carechain.core.codec import encode
from carechain.core.limits import ARCHIVE_CHUNK_BYTES
from carechain.core.rejection import Rejected, RejectionCode
from carechain.node.archive import (
    MAGIC,
    ArchiveCode,
    ArchiveReader,
    ArchiveWriter,
    Opener,
    Password,
    PasswordLock,
    Protection,
    SourceChanged,
    unlock,
)
from carechain.sdk.keyfile import WalletCode
from carechain.sealing.hpke import HpkePrivateKey
from carechain.sealing.symmetric import ScryptCost
from world import entropy_of, seeded

CHEAP: Final = ScryptCost(n=1024, r=1)
PASSWORD: Final = Password("correct horse 口令", CHEAP)
KEY: Final = HpkePrivateKey(seeded("backup", "hpke"))
SEALED_CHUNK: Final = ARCHIVE_CHUNK_BYTES + 16
Files = list[tuple[str, bytes]]


def archive(files: Files, protection: Protection = PASSWORD, *, name: str = "archive") -> bytes:
    out = io.BytesIO()
    writer = ArchiveWriter(out, protection=protection, entropy=entropy_of(name), description=b"what it is")
    for path, content in files:
        writer.add(path, len(content), [content[at : at + 1000] for at in range(0, len(content), 1000)])
    writer.finish()
    return out.getvalue()


def read(data: bytes, opener: Opener = PASSWORD) -> tuple[bytes, Files]:
    file = io.BytesIO(data)
    reader = ArchiveReader(file, unlock(file, opener))
    return reader.description, [(entry.path, b"".join(pieces)) for entry, pieces in reader.files()]


def refused(data: bytes, opener: Opener = PASSWORD) -> RejectionCode:
    with pytest.raises(Rejected) as rejected:
        read(data, opener)
    return rejected.value.code


def content(size: int) -> bytes:
    return seeded("content", size, size=size)


OVERHEAD: Final = len(b"what it is") + 4
"""What stands before the first entry in the first chunk."""


@pytest.mark.parametrize("size", [0, 1, ARCHIVE_CHUNK_BYTES - 1, ARCHIVE_CHUNK_BYTES, ARCHIVE_CHUNK_BYTES + 1, 200_000])
def test_what_went_in_comes_out(size: int) -> None:
    files = [("keys/病历.json", content(size)), ("empty", b""), ("charts/c", content(3))]
    assert read(archive(files)) == (b"what it is", files)


def test_an_archive_that_ends_with_a_full_chunk() -> None:
    for size in range(ARCHIVE_CHUNK_BYTES - 40, ARCHIVE_CHUNK_BYTES):
        files = [("f", content(size))]
        data = archive(files)
        assert read(data)[1] == files
        assert refused(data[:-1]) is ArchiveCode.DAMAGED


def test_a_file_can_be_passed_over() -> None:
    file = io.BytesIO(archive([("a", content(100_000)), ("b", b"b")]))
    reader = ArchiveReader(file, unlock(file, PASSWORD))
    assert [entry.path for entry, _ in reader.files()] == ["a", "b"]


def test_a_recipients_key_opens_what_was_sealed_to_it() -> None:
    files = [("a", content(10))]
    data = archive(files, KEY.public_key)
    assert read(data, KEY) == (b"what it is", files)
    assert refused(data, HpkePrivateKey(seeded("another"))) is ArchiveCode.KEY_WRONG


def test_the_password_is_taken_in_its_composed_form() -> None:
    data = archive([], Password("caf\u00e9", CHEAP))
    assert read(data, Password("cafe\u0301"))[1] == []


# --- refusals -------------------------------------------------------------------------------------------

GOOD: Final = archive([("a", content(150_000)), ("b", b"bb")])
SEALED_TO_KEY: Final = archive([("a", b"a")], KEY.public_key)
OTHER: Final = archive([("a", content(150_000)), ("b", b"bb")], name="another")
START: Final = len(MAGIC) + 4 + int.from_bytes(GOOD[18:20], "big") + 64
"""Where the chunks begin."""


def chunks(data: bytes) -> list[bytes]:
    return [data[at : at + SEALED_CHUNK] for at in range(START, len(data), SEALED_CHUNK)]


REFUSALS: dict[str, tuple[bytes, Opener, RejectionCode]] = {
    "nothing": (b"", PASSWORD, ArchiveCode.NOT_AN_ARCHIVE),
    "another file": (b"PK\x03\x04" * 100, PASSWORD, ArchiveCode.NOT_AN_ARCHIVE),
    "a newer version": (GOOD[:16] + b"\x00\x02" + GOOD[18:], PASSWORD, ArchiveCode.NEWER),
    "version nought": (GOOD[:16] + b"\x00\x00" + GOOD[18:], PASSWORD, ArchiveCode.DAMAGED),
    "a lock that is too long": (GOOD[:18] + b"\xff\xff" + GOOD[20:], PASSWORD, ArchiveCode.DAMAGED),
    "another password": (GOOD, Password("correct horse"), ArchiveCode.PASSWORD_WRONG),
    "no password": (GOOD, Password(""), WalletCode.PASSWORD_UNUSABLE),
    "a key for a password": (GOOD, KEY, ArchiveCode.NEEDS_PASSWORD),
    "a password for a key": (SEALED_TO_KEY, PASSWORD, ArchiveCode.NEEDS_KEY),
    "a flipped bit in the lock": (GOOD[:30] + bytes([GOOD[30] ^ 1]) + GOOD[31:], PASSWORD, ArchiveCode.DAMAGED),
    "another's chunks": (GOOD[:START] + OTHER[START:], PASSWORD, ArchiveCode.DAMAGED),
    "another's lock": (OTHER[:START] + GOOD[START:], PASSWORD, ArchiveCode.DAMAGED),
    "no chunk": (GOOD[:START], PASSWORD, ArchiveCode.DAMAGED),
    "the first chunk only": (GOOD[: START + SEALED_CHUNK], PASSWORD, ArchiveCode.DAMAGED),
    "without the last chunk": (GOOD[: START + 2 * SEALED_CHUNK], PASSWORD, ArchiveCode.DAMAGED),
    "a byte behind": (GOOD + b"\x00", PASSWORD, ArchiveCode.DAMAGED),
    "twice": (GOOD + GOOD, PASSWORD, ArchiveCode.DAMAGED),
    "a chunk twice": (
        GOOD[:START] + b"".join(chunks(GOOD)[at] for at in (0, 1, 1, 2)),
        PASSWORD,
        ArchiveCode.DAMAGED,
    ),
    "chunks exchanged": (GOOD[:START] + b"".join(chunks(GOOD)[at] for at in (1, 0, 2)), PASSWORD, ArchiveCode.DAMAGED),
    "a chunk missing": (GOOD[:START] + b"".join(chunks(GOOD)[at] for at in (0, 2)), PASSWORD, ArchiveCode.DAMAGED),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(name: str) -> None:
    data, opener, code = REFUSALS[name]
    assert refused(data, opener) is code


def test_every_code_has_its_row() -> None:
    codes = {code for _, _, code in REFUSALS.values()} | {ArchiveCode.KEY_WRONG}
    assert codes >= set(ArchiveCode)


def test_a_beginning_made_again_around_another_lock_is_refused() -> None:
    """Who knows a recipient's key can seal to it, but not put its own lock before somebody else's content."""
    mine, theirs = archive([("a", b"a")], KEY.public_key, name="x"), archive([("a", b"a")], KEY.public_key, name="y")
    at = len(MAGIC) + 4 + int.from_bytes(mine[18:20], "big")
    # The first one's lock and checksum with the second one's tag and content.
    assert refused(mine[: at + 32] + theirs[at + 32 :], KEY) is ArchiveCode.DAMAGED


def test_a_forged_cost_exhausts_nobody() -> None:
    packed = encode(PasswordLock(n=1 << 40, r=8, p=1, salt=bytes(16), nonce=bytes(12), sealed=bytes(48)))
    beginning = MAGIC + b"\x00\x01" + len(packed).to_bytes(2, "big") + packed
    assert refused(beginning + sha256(beginning).digest() + bytes(32)) is ArchiveCode.DAMAGED


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_no_cut_and_no_flip_passes(data: st.DataObject) -> None:
    small = SEALED_TO_KEY
    if data.draw(st.booleans()):
        altered = small[: data.draw(st.integers(0, len(small) - 1))]
    else:
        at = data.draw(st.integers(0, len(small) - 1))
        altered = small[:at] + bytes([small[at] ^ (1 << data.draw(st.integers(0, 7)))]) + small[at + 1 :]
    assert isinstance(refused(altered, KEY), ArchiveCode)


@given(st.binary(max_size=300))
@settings(max_examples=150, deadline=None)
def test_whatever_a_sender_seals_ends_in_a_refusal_or_files(inner: bytes) -> None:
    """A key seals for anybody, so the inside is not to be trusted either."""
    out = io.BytesIO()
    writer = ArchiveWriter(out, protection=KEY.public_key, entropy=os.urandom, description=b"")
    writer._put(inner)
    writer.finish()
    with contextlib.suppress(Rejected):
        assert read(out.getvalue(), KEY)[0] == inner[4 : 4 + int.from_bytes(inner[:4], "big")]


def test_a_file_that_changes_meanwhile_is_noticed() -> None:
    for wrong in ([b"ab"], [b"abc", b"d"], []):
        writer = ArchiveWriter(io.BytesIO(), protection=KEY.public_key, entropy=os.urandom, description=b"")
        with pytest.raises(SourceChanged, match="Try again"):
            writer.add("a", 3, wrong)


def test_nothing_secret_in_a_repr() -> None:
    file = io.BytesIO(GOOD)
    unlocked = unlock(file, PASSWORD)
    assert unlocked.key.hex() not in repr(unlocked)
    assert "口令" not in repr(PASSWORD)
