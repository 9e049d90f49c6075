"""The LMDB file of a store: opening it safely, and reading it.

LMDB has no checksums, and a page that the file does not have ends the process (SIGBUS). So the file's length is
compared with what LMDB believes before anything is read, and what LMDB finds wrong later counts as damage.
"""

from collections.abc import Iterator
from pathlib import Path
from struct import error as StructError  # noqa: N812 - the standard library's spelling of a class
from typing import Final

import lmdb

from carechain.state.log import StoreDamaged, sync_folder

DATABASES: Final = 19
"""At most so many tables: three of the store's own, and the side tables."""
INDEX_FOLDER: Final = "index"
INDEX_FILE: Final = "data.mdb"
DAMAGE: Final = (
    lmdb.BadTxnError,
    lmdb.BadValsizeError,
    lmdb.CorruptedError,
    lmdb.CursorFullError,
    lmdb.IncompatibleError,
    lmdb.InvalidError,
    lmdb.InvalidParameterError,
    lmdb.NotFoundError,
    lmdb.PageFullError,
    lmdb.PageNotFoundError,
    lmdb.PanicError,
    lmdb.VersionMismatchError,
    StructError,
    UnicodeDecodeError,
)
"""What reading raises when the file of the small tables is not what LMDB or this module wrote."""


def open_index(folder: Path, *, read_only: bool, map_bytes: int) -> lmdb.Environment:
    """Open the LMDB file of the store in ``folder``; raises :class:`StoreDamaged` when it has become shorter."""
    file = folder / INDEX_FILE
    if read_only and not (file.exists() and file.stat().st_size):
        # LMDB would begin a new file here, if it could write.
        raise StoreDamaged("the file of the small tables is missing or empty")
    env = lmdb.open(
        str(folder),
        map_size=map_bytes,
        max_dbs=DATABASES,
        mode=0o600,
        readonly=read_only,
        create=not read_only,
        readahead=False,
    )
    if _missing_bytes(env, folder) > 0:
        # LMDB would not notice: touching a page that is not there ends the process.
        env.close()
        raise StoreDamaged("the file of the small tables ends too early")
    if not read_only:
        sync_folder(folder)
    return env


def _missing_bytes(env: lmdb.Environment, folder: Path) -> int:
    """How much shorter the file is than the pages that LMDB has given out."""
    pages = env.info()["last_pgno"] + 1
    return int(pages * env.stat()["psize"] - (folder / INDEX_FILE).stat().st_size)


def fill_up(env: lmdb.Environment, folder: Path) -> None:
    """Give the file the length its pages call for: the last ones may have been given out and never written."""
    missing = _missing_bytes(env, folder)
    if missing > 0:
        file = folder / INDEX_FILE
        with file.open("r+b") as whole:
            whole.truncate(file.stat().st_size + missing)


def get(txn: lmdb.Transaction, key: bytes, db: "lmdb._Database") -> bytes | None:
    """The value under a key, or None."""
    value = txn.get(key, db=db)
    return None if value is None else bytes(value)


def under(
    cursor: lmdb.Cursor, prefix: bytes, start: bytes | None = None, limit: int | None = None
) -> Iterator[tuple[bytes, bytes]]:
    """Entries of an LMDB table whose key starts with ``prefix``, from ``start`` on."""
    found = cursor.set_range(start or prefix)
    while found and limit != 0:
        key, value = map(bytes, cursor.item())
        if not key.startswith(prefix):
            return
        yield key, value
        limit = None if limit is None else limit - 1
        found = cursor.next()
