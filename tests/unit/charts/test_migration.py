"""Goal: files of every older format, and another time zone, end with the index that the same resources have today.

Method: charts are written with this release, taken back to an older format by removing what later ones added, opened.
"""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import inspect, update

from carechain.charts.dialect import POSTGRESQL, WRITE_OPTION, open_engine
from carechain.charts.index_schema import date_index
from carechain.charts.record import check
from carechain.charts.schema import SCHEMA_VERSION, store_info
from carechain.charts.sight import CUSTODIAN
from carechain.charts.store import Charts
from fhir_store import ANNA, FLU, HIV, Ward, about, coded
from older_charts import ADDED_IN_4, to_format

HOUR_US = 3_600_000_000


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    path = tmp_path / "charts.db"
    with Charts.open(path) as charts:
        ward = Ward(charts)
        ward.admit()
        visit = {"encounter": {"reference": "Encounter/e1"}}
        ward.put(about("Encounter", "e1"), about("Condition", "c", code=coded(HIV), **visit))
        ward.put(about("Condition", "c", code=coded(FLU), **visit), {"resourceType": "Organization", "id": "o"})
        ward.put({"resourceType": "Organization", "id": "o", "name": "咸宁中心医院"})
    return path


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION))
def test_an_older_file_gains_the_index(filled: Path, version: int) -> None:
    with Charts.open(filled) as charts:
        ward = Ward(charts)
        before, records = ward.index(), charts.records_of(ANNA)
        with ward.repository.writing(ward.now_us, ward.rng) as writer:
            # What waits for its anchor is known since the third format.
            waiting = writer.unanchored(99) if version >= 3 else []
    to_older(filled, version)
    with Charts.open(filled) as charts:
        ward = Ward(charts)
        after = ward.index()
        # Shared resources were not counted with the others before: they come last now.
        assert {name: row["place"][:5] for name, row in after.items() if row["place"][0]} == {
            name: row["place"][:5] for name, row in before.items() if row["place"][0]
        }
        assert {name: {**row, "place": None} for name, row in after.items()} == {
            name: {**row, "place": None} for name, row in before.items()
        }
        assert after == ward.rebuilt()
        assert charts.records_of(ANNA) == records
        for record in records:
            check(charts.read(record.record_id), record.root)
        with ward.repository.reading() as reader:
            assert [one.version for one in reader.history(CUSTODIAN, "Organization", "o", count=9)] == [2, 1]
            assert reader.is_bound(ANNA)
            assert [one.version for one in reader.history(CUSTODIAN, "Condition", count=9)] == [2, 1]
        with ward.repository.writing(ward.now_us, ward.rng) as writer:
            assert writer.unanchored(99) == waiting
        (done,) = ward.put(about("Condition", "c", code=coded(HIV)))
        assert done.stored.version == 3


def test_the_third_format_on_either_database(database_url: str) -> None:
    with Charts.open(database_url) as charts:
        ward = Ward(charts)
        ward.admit()
        ward.put(about("Condition", "c"), {"resourceType": "Organization", "id": "o"})
        ward.put(about("Condition", "c", code=coded(FLU)))
        before = ward.index()
    engine = open_engine(database_url)
    with engine.execution_options(**{WRITE_OPTION: True}).begin() as connection:
        for statement in ADDED_IN_4:
            connection.exec_driver_sql(statement)
        if engine.dialect.name == POSTGRESQL:
            connection.exec_driver_sql("ALTER TABLE resources ADD FOREIGN KEY (pseudonym) REFERENCES patients")
        connection.execute(update(store_info).values(version=3))
    engine.dispose()
    with Charts.open(database_url) as charts:
        ward = Ward(charts)
        assert ward.index() == before == ward.rebuilt()
        with ward.repository.reading() as reader:
            assert [one.version for one in reader.history(CUSTODIAN, "Condition", "c", count=9)] == [2, 1]
            assert reader.read(CUSTODIAN, "Organization", "o") is not None
        with charts.snapshot() as connection:
            assert inspect(connection).get_foreign_keys("resources") == []


def to_older(path: Path, version: int) -> None:
    # Older formats had no microseconds; what was received in whole seconds is the same in all.
    with closing(sqlite3.connect(path)) as connection, connection:
        assert connection.execute("SELECT count(*) FROM resources WHERE updated_us % 1000000").fetchone() == (0,)
    to_format(path, version)


def test_an_interrupted_step_leaves_the_file_as_it_was(filled: Path) -> None:
    to_older(filled, 2)
    with closing(sqlite3.connect(filled)) as connection, connection:
        connection.execute("UPDATE resources SET facts = x'00' WHERE resource_id = 'c'")
    with pytest.raises(Exception, match="cannot be read"):
        Charts.open(filled)
    with closing(sqlite3.connect(filled)) as connection, connection:
        assert connection.execute("SELECT version FROM store_info").fetchone() == (2,)
        assert connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'live'").fetchone() == (0,)


def test_another_time_zone_builds_the_index_again_and_is_remembered(database_url: str) -> None:
    with Charts.open(database_url) as charts:
        ward = Ward(charts)
        ward.admit()
        ward.put(about("Observation", "o", effectiveDateTime="2024-05-06"))
        in_utc = ward.index()["Observation/o"][date_index.name]
    with Charts.open(database_url, zone=ZoneInfo("Asia/Shanghai")) as charts:
        moved = Ward(charts).index()["Observation/o"][date_index.name]
        pairs = zip(sorted(moved), sorted(in_utc), strict=True)
        assert {(utc[1] - local[1]) / HOUR_US for local, utc in pairs} == {8.0}
    with Charts.open(database_url) as charts:
        ward = Ward(charts)
        ward.put(about("Observation", "p", effectiveDateTime="2024-05-06"))
        index = ward.index()
        assert index["Observation/p"][date_index.name] == moved
        assert index == ward.rebuilt()


def test_reading_records_loads_no_search_definitions() -> None:
    """The command line opens charts in programs that search nothing."""
    loaded = "print('carechain.charts.definitions' in sys.modules)"
    code = f"import sys, carechain.charts.store, carechain.charts.repository; {loaded}"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert ran.stdout.strip() == "False"
