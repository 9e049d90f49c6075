"""A folder's name is durable when ``make_folder`` returns, also when somebody else began to make it and was stopped.

Method: the system calls are recorded by ``power.py``, and the power fails right afterwards.
"""

from pathlib import Path

import pytest

from carechain.engine.disk import OsFile
from carechain.state.log import make_folder
from power import PowerDisk


@pytest.fixture
def disk(tmp_path: Path) -> PowerDisk:
    return PowerDisk(tmp_path)


def test_all_that_was_missing_survives(disk: PowerDisk) -> None:
    with pytest.MonkeyPatch.context() as patch:
        disk.watch(patch)
        make_folder(disk.root / "a" / "b" / "c")
    made = [disk.root / name for name in ("a", "a/b", "a/b/c")]
    assert disk.after_power_failure().folders == made
    assert [one.stat().st_mode & 0o777 for one in made] == [0o700] * 3


def test_a_name_made_by_another_is_synced_all_the_same(disk: PowerDisk) -> None:
    folder = disk.root / "ledger"
    with pytest.MonkeyPatch.context() as patch:
        disk.watch(patch)
        folder.mkdir()
        (folder / "log").touch()
        disk.note("make", folder / "log")
        make_folder(folder)
        OsFile(folder / "log").close()
    survivors = disk.after_power_failure()
    assert (survivors.folders, list(survivors.files)) == ([folder], [folder / "log"])
