"""Where a ledger begins that took over a snapshot instead of executing all blocks: the *base*.

A base is the sealed header of the snapshot's height and the ids that could still be sent again then; the state at that
height is the tree. It lies in ``ledger/base``, begins with a checksum, and is never changed: the block log's label
carries its digest, and the first block in the log is the one after it.

**One moment decides.** The snapshot's tree is built in ``ledger/arriving``, whole and synced. Then the base is renamed
into place: from that moment on the ledger is the snapshot's. What is left to do is done by :func:`settle_arrival`, also
after a crash: the old tree goes, the new one takes its place.
"""

from hashlib import sha256
from pathlib import Path
from shutil import rmtree
from typing import Final

import msgspec
from msgspec import Struct

from carechain.chain.header import Header, SealedHeader
from carechain.chain.replay import Group
from carechain.core.codec import Malformed, decode_strict, encode
from carechain.core.hashing import HASH_SIZE
from carechain.core.ids import U8, Hash
from carechain.engine.disk import OsFile
from carechain.state.log import sync_folder
from carechain.state.store import height_on_disk

BASE_FILE: Final = "base"
ARRIVING_FOLDER: Final = "arriving"
BASE_VERSION: Final = 1
_UNFINISHED: Final = "base.new"


class BadBase(Exception):  # noqa: N818 - names what is wrong with the file
    """The file that says where the ledger begins is damaged."""


class Base(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """What a ledger knows of everything up to and with the height at which it begins.

    ``genesis`` is the hash of the network's; ``window`` is :meth:`~carechain.chain.replay.ReplayWindow.groups` as of
    that height.
    """

    version: U8 = BASE_VERSION
    genesis: Hash
    sealed: SealedHeader
    window: tuple[Group, ...]

    @property
    def header(self) -> Header:
        """The header of the last block that is not in the log."""
        return self.sealed.header

    @property
    def height(self) -> int:
        """That block's height."""
        return self.header.height


class Arrived(Struct, frozen=True, kw_only=True):
    """A snapshot that is checked and whole on the disk: its tree lies in ``arriving`` of the ledger's folder."""

    header: Header
    window: tuple[Group, ...]


_bases = msgspec.msgpack.Decoder(Base)


def digest_of(base: Base) -> bytes:
    """What the log's label says of its base."""
    return sha256(encode(base)).digest()


def read_base(folder: Path) -> Base | None:
    """The base in a ledger's folder, None where the log begins with the first block. Raises :class:`BadBase`."""
    try:
        content = (folder / BASE_FILE).read_bytes()
    except FileNotFoundError:
        return None
    check, payload = content[:HASH_SIZE], content[HASH_SIZE:]
    if sha256(payload).digest() != check:
        raise BadBase("the file fails its checksum")
    try:
        base = decode_strict(_bases, payload)
    except Malformed:
        raise BadBase("the file is not a base") from None
    if base.version != BASE_VERSION:
        raise BadBase(f"the base has the unknown version {base.version}")
    return base


def write_base(folder: Path, base: Base) -> None:
    """Make ``base`` the one of the ledger in ``folder``, at once and durably; raises ``OSError``."""
    payload = encode(base)
    unfinished = folder / _UNFINISHED
    file = OsFile(unfinished)
    try:
        file.truncate(0)
        file.write_at(0, sha256(payload).digest() + payload)
        file.sync()
    finally:
        file.close()
    unfinished.replace(folder / BASE_FILE)
    sync_folder(folder)


def installed_tree(folder: Path, tree: Path, base: Base | None) -> Path:
    """Where the tree that belongs to ``base`` is: in its place, or still where it arrived."""
    arriving = folder / ARRIVING_FOLDER
    return arriving if base is not None and height_on_disk(arriving) == base.height else tree


def settle_arrival(folder: Path, tree: Path, base: Base | None) -> None:
    """Finish what :func:`write_base` has begun, or throw away a snapshot that was still arriving.

    Only for whoever holds the log's lock, with no store open below ``folder``. Raises ``OSError``.
    """
    arriving = folder / ARRIVING_FOLDER
    if not arriving.exists():
        return
    if installed_tree(folder, tree, base) == arriving:
        if tree.exists():
            rmtree(tree)
        arriving.rename(tree)
    else:
        rmtree(arriving)
    sync_folder(folder)
