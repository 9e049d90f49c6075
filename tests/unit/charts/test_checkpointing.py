"""Goal: what a large transaction wrote reaches the file itself while the charts are open, and a failure is heard of."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from carechain.charts.checkpointing import ROWS, Checkpointing
from carechain.charts.schema import ChartsUnavailable
from carechain.charts.sight import CUSTODIAN
from carechain.charts.store import Charts
from fhir_store import Ward, about

MANY = 3_000


@contextmanager
def ward(path: Path) -> Iterator[Ward]:
    with Charts.open(path) as charts:
        made = Ward(charts)
        made.admit()
        yield made


def in_the_file_alone(path: Path) -> int:
    """What is there without the write-ahead log."""
    alone = shutil.copy(path, path.with_name("alone.db"))
    with closing(sqlite3.connect(alone)) as connection:
        return int(connection.execute("SELECT count(*) FROM live WHERE resource_type = 'Observation'").fetchone()[0])


def test_a_large_transaction_is_written_back_while_the_charts_are_open(tmp_path: Path) -> None:
    path = tmp_path / "charts.db"
    with ward(path) as made:
        made.put(*(about("Observation", f"o{number}") for number in range(MANY)))
        made.charts._checkpointing.close()
        assert in_the_file_alone(path) == MANY


def test_a_small_one_waits_in_the_log(tmp_path: Path) -> None:
    path = tmp_path / "charts.db"
    with ward(path) as made:
        made.put(about("Observation", "o"))
        made.charts._checkpointing.close()
        with pytest.raises(sqlite3.DatabaseError):
            in_the_file_alone(path)


def test_writing_goes_on_while_a_reader_keeps_the_log(tmp_path: Path) -> None:
    with ward(tmp_path / "charts.db") as made, made.repository.reading() as reader:
        before = reader.last_seq()
        for part in range(3):
            made.put(*(about("Observation", f"o{part}-{number}") for number in range(MANY)))
        assert reader.last_seq() == before
        assert reader.read(CUSTODIAN, "Observation", "o0-0") is None


def test_a_failure_is_told_to_the_next_writer_once(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'nowhere' / 'charts.db'}")
    checkpointing = Checkpointing(engine)
    checkpointing.require_sound()
    checkpointing.committed(ROWS - 1)
    checkpointing.require_sound()
    checkpointing.committed(1)
    checkpointing.close()
    checkpointing.committed(ROWS)
    with pytest.raises(ChartsUnavailable):
        checkpointing.require_sound()
    checkpointing.require_sound()
