"""Goal: a folder holds whole objects under their own hash or nothing, whatever happens while it is written.

Method: the check that every store passes, for both hashes; then files altered, left over and cut short by hand, and
writers stopped at every system call that makes an object durable.
"""

import asyncio
import fcntl
import os
from hashlib import sha256
from pathlib import Path

import pytest

from carechain.core.suite import Institution
from carechain.vault.base import Hashing
from carechain.vault.folder import INCOMING, FolderStore
from vaults import check_store, listed, read

CONTENT = b"ciphertext " * 100_000
ADDRESS = sha256(CONTENT).digest()


def place_of(root: Path, address: bytes = ADDRESS) -> Path:
    name = address.hex()
    return root / name[:2] / name[2:4] / name


@pytest.mark.parametrize("hashing", [sha256, Institution.SM.new_hash], ids=["sha256", "sm3"])
def test_it_does_what_every_store_does(tmp_path: Path, hashing: Hashing) -> None:
    asyncio.run(check_store(FolderStore(tmp_path / "库", hashing=hashing), tmp_path, hashing=hashing))


def test_objects_survive_the_process_and_lie_where_their_address_says(tmp_path: Path) -> None:
    asyncio.run(FolderStore(tmp_path).put(ADDRESS, CONTENT))
    assert place_of(tmp_path).read_bytes() == CONTENT
    assert place_of(tmp_path).stat().st_mode & 0o077 == 0
    assert asyncio.run(read(FolderStore(tmp_path), ADDRESS)) == CONTENT


def test_what_dead_writers_left_is_swept_and_what_live_ones_write_is_not(tmp_path: Path) -> None:
    FolderStore(tmp_path)
    dead, alive = tmp_path / INCOMING / "dead", tmp_path / INCOMING / "alive"
    dead.write_bytes(b"half")
    with alive.open("wb") as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        store = FolderStore(tmp_path)
        assert [one.name for one in (tmp_path / INCOMING).iterdir()] == ["alive"]
        assert asyncio.run(listed(store)) == []


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_is_cut_short_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    store = FolderStore(tmp_path)

    def lost(*_: object, **__: object) -> None:
        raise OSError(5, "the disk is gone")

    with monkeypatch.context() as broken:
        broken.setattr(os if call == "fsync" else Path, call, lost)
        with pytest.raises(OSError, match="the disk is gone"):
            asyncio.run(store.put(ADDRESS, CONTENT))
    assert asyncio.run(store.size(ADDRESS)) is None
    assert list((tmp_path / INCOMING).iterdir()) == []
    asyncio.run(store.put(ADDRESS, CONTENT))
    assert asyncio.run(read(store, ADDRESS)) == CONTENT


def test_an_altered_file_is_written_anew(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    asyncio.run(store.put(ADDRESS, CONTENT))
    for altered in (CONTENT[:-1], b"x" + CONTENT[1:], b""):
        place_of(tmp_path).write_bytes(altered)
        asyncio.run(store.put(ADDRESS, CONTENT))
        assert asyncio.run(read(store, ADDRESS)) == CONTENT


def test_foreign_files_are_not_listed(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    asyncio.run(store.put(ADDRESS, CONTENT))
    folder = place_of(tmp_path).parent
    for name in ("README", "0" * 64, ADDRESS.hex().upper() + "x"):
        (folder / name).write_bytes(b"")
    (tmp_path / "zz").mkdir()
    (tmp_path / "ab").write_bytes(b"")
    assert asyncio.run(listed(store)) == [ADDRESS]


def test_many_writers_of_one_object_leave_one(tmp_path: Path) -> None:
    async def together() -> None:
        stores = [FolderStore(tmp_path) for _ in range(8)]
        await asyncio.gather(*(one.put(ADDRESS, CONTENT, replace=True) for one in stores))

    asyncio.run(together())
    assert place_of(tmp_path).read_bytes() == CONTENT
    assert list((tmp_path / INCOMING).iterdir()) == []
