"""An encrypted archive: files in one stream that is written and read in constant memory.

Layout (``docs/operating/backup.md`` has the table)::

    magic (16) ‖ version u16 ‖ lock length u16 ‖ lock ‖ checksum (32) ‖ tag (32) ‖ chunks

The lock says how the random file key is had: from a password by scrypt, or from an HPKE private key. The checksum
needs no key and tells a damaged beginning from a wrong password; the tag is a MAC over all before it under a key
derived from the file key, so a lock that was exchanged is refused before anything is decrypted.

The content is AES-256-GCM in chunks of 64 KiB. A chunk's nonce is its number and whether it is the last one (the STREAM
construction of Hoang, Reyhanitabar, Rogaway and Vizár, CRYPTO 2015), and each archive has its own key, so a chunk that
is missing, moved, altered or from another archive does not open, and neither does an archive that was cut short.

Inside: a description, then for each file its entry and its bytes. This file knows nothing of homes or ledgers.
"""

import hmac
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from typing import Annotated, BinaryIO, Final

import msgspec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from msgspec import Meta, Struct

from carechain.core.codec import Malformed, decode_strict, encode
from carechain.core.hashing import HASH_SIZE, tagged
from carechain.core.ids import U63, Hash
from carechain.core.limits import ARCHIVE_CHUNK_BYTES, ARCHIVE_ENTRY_BYTES, ARCHIVE_PATH_CHARS
from carechain.core.rejection import Rejected, RejectionCode, require
from carechain.sdk.keyfile import WalletCode, is_text
from carechain.sealing import hpke, symmetric
from carechain.sealing.hpke import HpkePrivateKey
from carechain.sealing.symmetric import CannotOpen, ScryptCost

MAGIC: Final = b"carechain backup"
VERSION: Final = 1
_NUMBER_BYTES: Final = 2
_LENGTH_BYTES: Final = 4
_LOCK_BYTES: Final = 1024
_LOCK_TAG: Final = "carechain/archive-lock/1"
_KEYS_INFO: Final = b"carechain/archive/1"
_COUNTER_BYTES: Final = symmetric.GCM_NONCE_SIZE - 1
_SEALED_CHUNK_BYTES: Final = ARCHIVE_CHUNK_BYTES + symmetric.TAG_SIZE

Entropy = Callable[[int], bytes]
"""``entropy(n)`` gives ``n`` fresh random bytes."""


class ArchiveCode(RejectionCode):
    """Why an archive is not opened."""

    NOT_AN_ARCHIVE = 1701, "This file is not a backup of carechain. Check the path."
    NEWER = 1702, "The backup was written by a newer version. Upgrade carechain to read it."
    DAMAGED = 1703, "The backup is damaged, cut short or altered. Nothing was written; use another copy."
    PASSWORD_WRONG = 1704, "The password does not open this backup. Try again."
    NEEDS_PASSWORD = 1705, "This backup opens with a password. Leave --key out."
    NEEDS_KEY = 1706, "This backup is sealed to a key. Name that key's file with --key."
    KEY_WRONG = 1707, "This backup is sealed to another key. Name the file of the right one with --key."


class SourceChanged(Exception):  # noqa: N818 - the state of the environment
    """A file became shorter or longer while it was read; try again."""


class PasswordLock(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True, tag="password"):
    """The file key under a key from a password (RFC 7914)."""

    n: int
    r: int
    p: int
    salt: Annotated[bytes, Meta(min_length=symmetric.SCRYPT_SALT_SIZE, max_length=symmetric.SCRYPT_SALT_SIZE)]
    nonce: Annotated[bytes, Meta(min_length=symmetric.GCM_NONCE_SIZE, max_length=symmetric.GCM_NONCE_SIZE)]
    sealed: Annotated[bytes, Meta(max_length=symmetric.KEY_SIZE + symmetric.TAG_SIZE)]

    def cost(self) -> ScryptCost:
        """The work of one guess."""
        return ScryptCost(n=self.n, r=self.r, p=self.p)

    def context(self) -> bytes:
        """What the wrapped key is bound to."""
        numbers = b"".join(value.to_bytes(8, "big", signed=True) for value in (self.n, self.r, self.p))
        return tagged(_LOCK_TAG, numbers, self.salt)


class KeyLock(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True, tag="key"):
    """The file key sealed to an X25519 public key (RFC 9180)."""

    recipient: Hash
    sealed: Annotated[bytes, Meta(max_length=symmetric.KEY_SIZE + hpke.HPKE_OVERHEAD_BYTES)]


class Password(Struct, frozen=True):
    """Protect, or open, with a password. ``cost`` of None is the default work; tests use less."""

    text: str
    cost: ScryptCost | None = None

    def __repr__(self) -> str:
        return "Password(…)"


Protection = Password | bytes
"""A password, or the 32 bytes of a recipient's HPKE public key."""
Opener = Password | HpkePrivateKey
"""What opens an archive that was protected in the one way or the other."""


class Entry(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """One file: its path inside the archive, parts separated by ``/``, and how many bytes follow."""

    path: Annotated[str, Meta(min_length=1, max_length=ARCHIVE_PATH_CHARS)]
    size_bytes: U63


class Unlocked(Struct, frozen=True):
    """An archive whose lock is open: the key of its content and where that begins. The repr shows no secret."""

    key: bytes
    offset: int

    def __repr__(self) -> str:
        return f"Unlocked(offset={self.offset})"


_locks = msgspec.msgpack.Decoder(PasswordLock | KeyLock)
_entries = msgspec.msgpack.Decoder(Entry)


# --- the lock -------------------------------------------------------------------------------------------


def _locked(file_key: bytes, protection: Protection, entropy: Entropy) -> PasswordLock | KeyLock:
    if not isinstance(protection, Password):
        sealed = hpke.seal(protection, _LOCK_TAG.encode(), file_key)
        return KeyLock(recipient=protection, sealed=sealed)
    work = protection.cost or ScryptCost()
    salt, nonce = entropy(symmetric.SCRYPT_SALT_SIZE), entropy(symmetric.GCM_NONCE_SIZE)
    bare = PasswordLock(n=work.n, r=work.r, p=work.p, salt=salt, nonce=nonce, sealed=b"")
    sealed = symmetric.seal(_password_key(protection, bare), nonce=nonce, plaintext=file_key, context=bare.context())
    return msgspec.structs.replace(bare, sealed=sealed)


def _password_key(password: Password, lock: PasswordLock) -> bytes:
    """Composed form first (RFC 8265 section 4.2), so one password typed on two systems gives one key."""
    require(is_text(password.text), WalletCode.PASSWORD_UNUSABLE)
    text = unicodedata.normalize("NFC", password.text)
    return symmetric.key_from_password(text, salt=lock.salt, cost=lock.cost())


def _file_key(lock: PasswordLock | KeyLock, opener: Opener) -> bytes:
    if isinstance(lock, KeyLock):
        if isinstance(opener, Password):
            raise Rejected(ArchiveCode.NEEDS_KEY)
        require(lock.recipient == opener.public_key, ArchiveCode.KEY_WRONG)
        try:
            return opener.open(info=_LOCK_TAG.encode(), sealed=lock.sealed)
        except CannotOpen:
            raise Rejected(ArchiveCode.DAMAGED) from None
    if not isinstance(opener, Password):
        raise Rejected(ArchiveCode.NEEDS_PASSWORD)
    require(lock.cost().is_acceptable(), ArchiveCode.DAMAGED)
    try:
        key = _password_key(opener, lock)
        return symmetric.open_sealed(key, nonce=lock.nonce, sealed=lock.sealed, context=lock.context())
    except CannotOpen:
        raise Rejected(ArchiveCode.PASSWORD_WRONG) from None


def _derived(file_key: bytes, beginning: bytes) -> tuple[bytes, bytes]:
    """The keys of the content and of the tag: they belong to this very beginning and to no other."""
    info = _KEYS_INFO + sha256(beginning).digest()
    both = HKDF(algorithm=SHA256(), length=2 * symmetric.KEY_SIZE, salt=None, info=info).derive(file_key)
    return both[: symmetric.KEY_SIZE], both[symmetric.KEY_SIZE :]


def unlock(file: BinaryIO, opener: Opener) -> Unlocked:
    """Read the beginning of an archive and open its lock; raises :class:`Rejected` with an :class:`ArchiveCode`."""
    beginning = _exactly(file, len(MAGIC), ArchiveCode.NOT_AN_ARCHIVE)
    require(beginning == MAGIC, ArchiveCode.NOT_AN_ARCHIVE)
    numbers = _exactly(file, 2 * _NUMBER_BYTES)
    version = int.from_bytes(numbers[:_NUMBER_BYTES], "big")
    length = int.from_bytes(numbers[_NUMBER_BYTES:], "big")
    require(version <= VERSION, ArchiveCode.NEWER)
    require(version == VERSION and length <= _LOCK_BYTES, ArchiveCode.DAMAGED)
    packed = _exactly(file, length)
    beginning += numbers + packed
    require(_exactly(file, HASH_SIZE) == sha256(beginning).digest(), ArchiveCode.DAMAGED)
    tag = _exactly(file, HASH_SIZE)
    try:
        lock = decode_strict(_locks, packed)
    except Malformed:
        raise Rejected(ArchiveCode.DAMAGED) from None
    key, tag_key = _derived(_file_key(lock, opener), beginning)
    require(hmac.compare_digest(tag, _tag(tag_key, beginning)), ArchiveCode.DAMAGED)
    return Unlocked(key, len(beginning) + 2 * HASH_SIZE)


def _tag(key: bytes, beginning: bytes) -> bytes:
    return hmac.digest(key, beginning, "sha256")


def _exactly(file: BinaryIO, size: int, code: ArchiveCode = ArchiveCode.DAMAGED) -> bytes:
    data = file.read(size)
    require(len(data) == size, code)
    return data


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(_COUNTER_BYTES, "big") + (b"\x01" if last else b"\x00")


# --- writing --------------------------------------------------------------------------------------------


class ArchiveWriter:
    """Writes an archive to ``out``; what is not finished with :meth:`finish` cannot be read."""

    __slots__ = ("_key", "_number", "_out", "_waiting")

    def __init__(self, out: BinaryIO, *, protection: Protection, entropy: Entropy, description: bytes) -> None:
        """Write the beginning. ``description`` is the caller's, of at most ``ARCHIVE_ENTRY_BYTES``.

        Raises :class:`Rejected` for an unusable password, ``ValueError`` for an unusable key, ``OSError``.
        """
        file_key = entropy(symmetric.KEY_SIZE)
        packed = encode(_locked(file_key, protection, entropy))
        beginning = MAGIC + b"".join(value.to_bytes(_NUMBER_BYTES, "big") for value in (VERSION, len(packed))) + packed
        self._key, tag_key = _derived(file_key, beginning)
        self._out = out
        self._number = 0
        self._waiting = bytearray()
        out.write(beginning + sha256(beginning).digest() + _tag(tag_key, beginning))
        self._frame(description)

    def add(self, path: str, size_bytes: int, content: Iterable[bytes]) -> None:
        """Add a file; raises :class:`SourceChanged` when ``content`` is not ``size_bytes`` long, and ``OSError``."""
        self._frame(encode(Entry(path=path, size_bytes=size_bytes)))
        written = 0
        for piece in content:
            written += len(piece)
            if written > size_bytes:
                break
            self._put(piece)
        if written != size_bytes:
            raise SourceChanged(f"{path} changed while it was read. Try again.")

    def finish(self) -> None:
        """Write what waits as the last chunk."""
        self._seal(bytes(self._waiting), last=True)
        self._waiting.clear()

    def _frame(self, data: bytes) -> None:
        if len(data) > ARCHIVE_ENTRY_BYTES:
            raise ValueError("an entry is too large for an archive")
        self._put(len(data).to_bytes(_LENGTH_BYTES, "big") + data)

    def _put(self, data: bytes) -> None:
        self._waiting += data
        # The last chunk is only known at the end, so a full one waits until something follows it.
        while len(self._waiting) > ARCHIVE_CHUNK_BYTES:
            self._seal(bytes(self._waiting[:ARCHIVE_CHUNK_BYTES]), last=False)
            del self._waiting[:ARCHIVE_CHUNK_BYTES]

    def _seal(self, chunk: bytes, *, last: bool) -> None:
        nonce = _nonce(self._number, last=last)
        self._out.write(symmetric.seal(self._key, nonce=nonce, plaintext=chunk, context=b""))
        self._number += 1


# --- reading --------------------------------------------------------------------------------------------


class ArchiveReader:
    """Reads an archive once from its beginning; every byte it hands out was authenticated before."""

    __slots__ = ("_file", "_key", "_next", "_number", "_rest", "description")

    def __init__(self, file: BinaryIO, unlocked: Unlocked) -> None:
        """Go to the content of a seekable ``file``; raises :class:`Rejected` when it is damaged."""
        file.seek(unlocked.offset)
        self._file = file
        self._key = unlocked.key
        self._number = 0
        self._rest = b""
        self._next = file.read(_SEALED_CHUNK_BYTES)
        self._advance()
        self.description = self._frame()

    def files(self) -> Iterator[tuple[Entry, Iterator[bytes]]]:
        """Every file with its bytes in pieces; the pieces of one end before the next is given.

        Raises :class:`Rejected` at the first thing that is wrong; reaching the end means that the archive is whole.
        """
        while self._rest or self._next:
            try:
                entry = decode_strict(_entries, self._frame())
            except Malformed:
                raise Rejected(ArchiveCode.DAMAGED) from None
            pieces = self._pieces(entry.size_bytes)
            yield entry, pieces
            for _ in pieces:
                """What the caller did not want is read nevertheless: the next entry stands behind it."""

    def _pieces(self, size: int) -> Iterator[bytes]:
        while size:
            if not self._rest:
                self._advance()
            piece, self._rest = self._rest[:size], self._rest[size:]
            size -= len(piece)
            yield piece

    def _frame(self) -> bytes:
        length = int.from_bytes(self._take(_LENGTH_BYTES), "big")
        require(length <= ARCHIVE_ENTRY_BYTES, ArchiveCode.DAMAGED)
        return self._take(length)

    def _take(self, size: int) -> bytes:
        return b"".join(self._pieces(size))

    def _advance(self) -> None:
        """Open the next chunk; only the one that nothing follows may be the last, and only the last may be short."""
        sealed, self._next = self._next, self._file.read(_SEALED_CHUNK_BYTES)
        nonce = _nonce(self._number, last=not self._next)
        self._number += 1
        try:
            self._rest = symmetric.open_sealed(self._key, nonce=nonce, sealed=sealed, context=b"")
        except CannotOpen:
            raise Rejected(ArchiveCode.DAMAGED) from None
        # An empty chunk would let a reader that waits for bytes go round for ever; none is ever needed.
        require(self._rest, ArchiveCode.DAMAGED)
