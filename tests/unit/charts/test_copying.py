"""Goal: rows that were added to PostgreSQL are all there before anything else is asked, or none of them is.

Method: a real server; rows of every column type with their extremes; rows that the server refuses, transactions that
are given up while rows are on their way, and a server that drops the connection meanwhile.
"""

import math
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from sqlalchemy import Column, Engine, Float, Integer, LargeBinary, MetaData, SmallInteger, Table, func, insert, select

from carechain.charts import copying
from carechain.charts.copying import Copying, packed
from carechain.charts.dialect import (
    WRITE_OPTION,
    ChartsUnavailable,
    add_rows,
    environment,
    keep_going,
    open_engine,
)
from carechain.charts.schema import Long, text

_MINE = MetaData()
things = Table(
    "things",
    _MINE,
    Column("number", Long, primary_key=True, autoincrement=False),
    Column("middle", Integer),
    Column("small", SmallInteger),
    Column("real", Float(53)),
    Column("name", text(64)),
    Column("words", text()),
    Column("digest", LargeBinary(32)),
    Column("body", LargeBinary),
)
numbers = Table(
    "numbers",
    _MINE,
    Column("number", Long, primary_key=True, autoincrement=False),
    Column("middle", Integer, nullable=False),
    Column("real", Float(53), nullable=False),
)


@pytest.fixture
def engine(postgresql_url: str) -> Iterator[Engine]:
    opened = open_engine(postgresql_url)
    writer = opened.execution_options(**{WRITE_OPTION: True})
    with writer.begin() as connection:
        _MINE.create_all(connection)
    yield writer
    opened.dispose()


def thing(number: int, **values: Any) -> tuple[Any, ...]:
    given = {"number": number, **values}
    return tuple(given.get(column.name) for column in things.columns)


def count(engine: Engine, table: Table = things) -> int:
    with engine.begin() as connection:
        return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def test_every_type_and_nothing_at_all_arrive_as_they_were(engine: Engine) -> None:
    rows = [
        thing(1),
        thing(-(2**63), middle=-(2**31), small=-(2**15), real=-math.inf, name="", words="", digest=b"", body=b""),
        thing(2**63 - 1, middle=2**31 - 1, small=2**15 - 1, real=1e-300, name="x" * 64, words="王\t\n\\N é" * 999),
        thing(3, digest=bytes(range(32)), body=bytes(range(256)) * 40_000, real=0.1),
    ]
    plain = [(2**40, -5, math.inf), (-1, 7, 0.25)]
    with engine.begin() as connection:
        add_rows(connection, things, rows)
        add_rows(connection, numbers, plain)
        add_rows(connection, numbers, [])
        found = connection.execute(select(things)).all()
    assert sorted(map(tuple, found), key=lambda row: row[0]) == sorted(rows, key=lambda row: row[0])
    with engine.begin() as connection:
        assert sorted(map(tuple, connection.execute(select(numbers)))) == sorted(plain)


def test_what_is_asked_next_sees_all_of_it(engine: Engine) -> None:
    with engine.begin() as connection:
        for start in range(0, 50_000, 10_000):
            add_rows(connection, numbers, [(number, 1, 0.5) for number in range(start, start + 10_000)])
            keep_going(connection)
            total = connection.execute(select(func.count()).select_from(numbers)).scalar_one()
            assert total == start + 10_000
            connection.execute(insert(things).values(number=start))
    assert (count(engine, numbers), count(engine)) == (50_000, 5)


def test_more_than_may_wait_in_memory(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "BUFFERED_BYTES", 100_000)
    with engine.begin() as connection:
        add_rows(connection, things, [thing(number, body=bytes(300_000)) for number in range(40)])
    assert count(engine) == 40


@pytest.mark.parametrize("ending", ["commit", "question", "more rows", "push"])
def test_refused_rows_undo_the_transaction(engine: Engine, ending: str) -> None:
    def write() -> None:
        with environment(), engine.begin() as connection:
            add_rows(connection, numbers, [(number, 1, 0.5) for number in range(5_000)])
            add_rows(connection, things, [thing(1, body=b"secret"), thing(2), thing(1)])
            add_rows(connection, numbers, [(number, 1, 0.5) for number in range(5_000, 9_000)])
            if ending == "question":
                connection.execute(select(func.count()).select_from(things))
            elif ending == "more rows":
                while True:
                    add_rows(connection, things, [thing(7)])
            elif ending == "push":
                while True:
                    keep_going(connection)

    with pytest.raises(ChartsUnavailable) as caught:
        write()
    assert str(caught.value) == "UniqueViolation"
    assert (count(engine), count(engine, numbers)) == (0, 0)
    with engine.begin() as connection:
        add_rows(connection, things, [thing(1)])
    assert count(engine) == 1


def test_a_table_that_is_not_there(engine: Engine) -> None:
    missing = Table("missing", MetaData(), Column("number", Long))

    def write() -> None:
        with environment(), engine.begin() as connection:
            add_rows(connection, missing, [(1,)])

    with pytest.raises(ChartsUnavailable, match="UndefinedTable"):
        write()
    assert count(engine) == 0


def test_a_transaction_that_is_given_up_leaves_nothing(engine: Engine) -> None:
    def write() -> None:
        with engine.begin() as connection:
            add_rows(connection, numbers, [(number, 1, 0.5) for number in range(100_000)])
            add_rows(connection, things, [thing(1), thing(1)])
            raise LookupError

    for _ in range(3):
        with pytest.raises(LookupError):
            write()
    assert (count(engine), count(engine, numbers)) == (0, 0)


def test_a_server_that_goes_away_meanwhile(engine: Engine, postgresql_url: str) -> None:
    def write() -> None:
        with environment(), engine.begin() as connection:
            add_rows(connection, numbers, [(number, 1, 0.5) for number in range(100_000)])
            driver: Any = connection.connection.driver_connection
            with psycopg.connect(postgresql_url.replace("+psycopg", ""), autocommit=True) as other:
                other.execute("SELECT pg_terminate_backend(%s, 10000)", (driver.pgconn.backend_pid,))
            add_rows(connection, things, [thing(1)])

    with pytest.raises(ChartsUnavailable) as caught:
        write()
    assert str(caught.value) in {"AdminShutdown", "OperationalError"}
    assert (count(engine), count(engine, numbers)) == (0, 0)


def test_rows_for_which_there_is_no_room_are_not_lost(postgresql_url: str) -> None:
    with psycopg.connect(postgresql_url.replace("+psycopg", "")) as driver:
        driver.execute("SELECT 1")
        with pytest.raises(psycopg.OperationalError):
            Copying(driver)._put(lambda: 0)


def test_rows_are_not_added_outside_a_transaction(postgresql_url: str) -> None:
    with psycopg.connect(postgresql_url.replace("+psycopg", "")) as driver, pytest.raises(ValueError, match="inside"):
        Copying(driver)


def test_a_type_that_nothing_is_known_of() -> None:
    with pytest.raises(ValueError, match="interval"):
        packed(("bigint", "interval"), [(1, None)])
