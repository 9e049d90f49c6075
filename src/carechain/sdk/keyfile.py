"""The encrypted key file: one documented JSON format for wallets, identities and certificate authorities.

Layout (UTF-8, binary fields in base64; ``docs/internals/keys.md`` has the table)::

    {"format": "carechain-keys", "version": 1, "kind": "wallet",
     "kdf": {"name": "scrypt", "n": 131072, "r": 8, "p": 1, "salt": "..."},
     "cipher": "AES-256-GCM", "nonce": "...", "ciphertext": "...", "checksum": "..."}

The checksum needs no password. It is what tells a damaged file from a wrong password, which authenticated encryption
alone cannot. It protects against accidents only; a forger who recomputes it still fails the authentication.
Everything that names a person lies inside the ciphertext, which is padded so that its length says little.
"""

import os
import tempfile
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

from carechain.core.hashing import tagged
from carechain.core.ids import Hash
from carechain.core.limits import KEY_LABEL_CHARS, WALLET_FILE_BYTES
from carechain.core.rejection import Rejected, RejectionCode, require
from carechain.sealing import symmetric
from carechain.sealing.symmetric import CannotOpen, ScryptCost
from carechain.state.log import sync_folder

FORMAT: Final = "carechain-keys"
VERSION: Final = 1
PRIVATE_MODE: Final = 0o600
PADDING_BUCKET_BYTES: Final = 1024

Kind = Literal["wallet", "identity", "authority", "keyholder"]
Entropy = Callable[[int], bytes]
"""``entropy(n)`` gives ``n`` fresh random bytes: the system's in production, a seeded stream in tests."""


class WalletCode(RejectionCode):
    """Why a wallet, a key file or a registrar's secret refuses."""

    FILE_TOO_LARGE = 1101, "A key file is at most 1 MiB. Check that the path names a key file."
    FILE_DAMAGED = 1102, "The key file is damaged or is not a key file. Restore it from a backup."
    FILE_NEWER = 1103, "The key file was written by a newer version. Upgrade carechain to read it."
    FILE_OF_ANOTHER_KIND = 1104, "The key file holds keys of another kind. Give the path of the right one."
    PASSWORD_WRONG = 1105, "The password does not open this key file. Try again."
    PASSWORD_UNUSABLE = 1106, "Give a password of at least one character, in valid UTF-8."
    FILE_EXISTS = 1107, "A file with this name exists. Choose another name; keys are never overwritten by new ones."
    LABEL_INVALID = 1108, "Choose a label of at most 80 characters without control characters."
    TOO_MANY_RELATIONS = 1109, "The wallet is full. Use a second wallet for further relations."
    SUMMARY_TOO_LARGE = 1110, "The summary of all relations exceeds 16 KiB. Shorten some labels."
    SUMMARY_UNREADABLE = 1111, "The summary was not made by this wallet for this pseudonym, or was altered."
    SECRET_DAMAGED = 1112, "The registrar's secret file must hold 64 hexadecimal digits. Restore it from a backup."
    SECRET_OPEN_TO_OTHERS = 1113, "Others can read the registrar's secret file. Set its mode to 0600."
    ID_EMPTY = 1114, "The existing id and the system it comes from must not be empty."
    ID_TOO_LONG = 1115, "The existing id and the system it comes from have at most 256 characters each."
    ID_NOT_TEXT = 1116, "The existing id or the system it comes from is not valid Unicode text."
    RELATION_UNKNOWN = 1117, "The wallet knows no relationship under this pseudonym."
    PSEUDONYM_OWN = 1118, "This wallet made the pseudonym and has its keys. Recover a lost key into a new wallet."


class _Kdf(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    name: Literal["scrypt"] = "scrypt"
    n: int
    r: int
    p: int
    salt: Annotated[bytes, Meta(min_length=symmetric.SCRYPT_SALT_SIZE, max_length=symmetric.SCRYPT_SALT_SIZE)]

    def cost(self) -> ScryptCost:
        return ScryptCost(n=self.n, r=self.r, p=self.p)


class _File(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    format: Literal["carechain-keys"] = FORMAT
    version: Literal[1] = VERSION
    kind: Kind
    kdf: _Kdf
    cipher: Literal["AES-256-GCM"] = "AES-256-GCM"
    nonce: Annotated[bytes, Meta(min_length=symmetric.GCM_NONCE_SIZE, max_length=symmetric.GCM_NONCE_SIZE)]
    ciphertext: Annotated[bytes, Meta(min_length=symmetric.TAG_SIZE)]
    checksum: Hash = bytes(32)


class _Version(Struct, frozen=True):
    """The two fields every version of the format has."""

    format: str
    version: Annotated[int, Meta(ge=1)]


_file_decoder = msgspec.json.Decoder(_File)
_version_decoder = msgspec.json.Decoder(_Version)


def encode_key_file(
    payload: bytes, *, kind: Kind, password: str, entropy: Entropy, cost: ScryptCost | None = None
) -> bytes:
    """The bytes of a key file holding ``payload``; raises :class:`~carechain.core.rejection.Rejected`.

    ``cost`` of None is the default work; tests use less.
    """
    require(is_text(password), WalletCode.PASSWORD_UNUSABLE)
    work = cost or ScryptCost()
    kdf = _Kdf(n=work.n, r=work.r, p=work.p, salt=entropy(symmetric.SCRYPT_SALT_SIZE))
    nonce = entropy(symmetric.GCM_NONCE_SIZE)
    ciphertext = symmetric.seal(
        _key(password, kdf),
        nonce=nonce,
        plaintext=symmetric.pad(payload, bucket_bytes=PADDING_BUCKET_BYTES),
        context=_context(kind, kdf),
    )
    bare = _File(kind=kind, kdf=kdf, nonce=nonce, ciphertext=ciphertext)
    file = msgspec.structs.replace(bare, checksum=_checksum(bare))
    data = msgspec.json.format(msgspec.json.encode(file), indent=2) + b"\n"
    require(len(data) <= WALLET_FILE_BYTES, WalletCode.FILE_TOO_LARGE)
    return data


def decode_key_file(data: bytes, *, kind: Kind, password: str) -> bytes:
    """The payload of a key file's bytes; raises :class:`~carechain.core.rejection.Rejected`, one code per cause."""
    require(len(data) <= WALLET_FILE_BYTES, WalletCode.FILE_TOO_LARGE)
    try:
        stamp = _version_decoder.decode(data)
        require(stamp.format == FORMAT, WalletCode.FILE_DAMAGED)
        require(stamp.version <= VERSION, WalletCode.FILE_NEWER)
        file = _file_decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Rejected(WalletCode.FILE_DAMAGED) from None
    require(file.kdf.cost().is_acceptable() and file.checksum == _checksum(file), WalletCode.FILE_DAMAGED)
    require(file.kind == kind, WalletCode.FILE_OF_ANOTHER_KIND)
    require(is_text(password), WalletCode.PASSWORD_UNUSABLE)
    try:
        padded = symmetric.open_sealed(
            _key(password, file.kdf), nonce=file.nonce, sealed=file.ciphertext, context=_context(kind, file.kdf)
        )
    except CannotOpen:
        raise Rejected(WalletCode.PASSWORD_WRONG) from None
    try:
        return symmetric.unpad(padded)
    except CannotOpen:
        raise Rejected(WalletCode.FILE_DAMAGED) from None


def write_private_file(path: Path, data: bytes, *, replace: bool) -> None:
    """Write ``data`` with mode 0600 so that a crash leaves the old file or the new one, never a part.

    Without ``replace`` an existing file is left alone and ``FILE_EXISTS`` raised. ``OSError`` is the disk's.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), PRIVATE_MODE)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            temporary.replace(path)
        else:
            _link_new(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def is_open_to_others(mode: int) -> bool:
    """Whether a file of this mode can be read or written by more than its owner: no place for a secret."""
    return bool(mode & 0o077)


def read_bounded(path: Path) -> bytes:
    """A key file's bytes; never reads more than the bound. Raises ``OSError`` when the file cannot be read."""
    with path.open("rb") as file:
        data = file.read(WALLET_FILE_BYTES + 1)
    require(len(data) <= WALLET_FILE_BYTES, WalletCode.FILE_TOO_LARGE)
    return data


def is_text(value: str) -> bool:
    """Whether ``value`` is not empty and can be written as UTF-8: an undecodable command line or JSON escape cannot."""
    return bool(value) and not any("\ud800" <= symbol <= "\udfff" for symbol in value)


def check_label(label: str) -> None:
    """Refuse a display label that is too long or would break a terminal; Chinese and other scripts are fine."""
    fits = len(label) <= KEY_LABEL_CHARS and not any(unicodedata.category(symbol)[0] == "C" for symbol in label)
    require(fits, WalletCode.LABEL_INVALID)


def _key(password: str, kdf: _Kdf) -> bytes:
    """Composed form first (RFC 8265 section 4.2), so one password typed on two systems gives one key."""
    return symmetric.key_from_password(unicodedata.normalize("NFC", password), salt=kdf.salt, cost=kdf.cost())


def _numbers(kdf: _Kdf) -> bytes:
    return b"".join(value.to_bytes(8, "big", signed=True) for value in (kdf.n, kdf.r, kdf.p))


def _context(kind: Kind, kdf: _Kdf) -> bytes:
    return tagged("carechain/keyfile/1", kind.encode(), _numbers(kdf), kdf.salt)


def _checksum(file: _File) -> bytes:
    return tagged(
        "carechain/keyfile-checksum/1",
        file.kind.encode(),
        _numbers(file.kdf),
        file.kdf.salt,
        file.nonce,
        file.ciphertext,
    )


def _link_new(temporary: Path, path: Path) -> None:
    """A hard link fails where the name is taken, in one step, unlike asking first and renaming after."""
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        raise Rejected(WalletCode.FILE_EXISTS) from None
