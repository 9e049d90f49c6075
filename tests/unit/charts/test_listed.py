"""Many numbers as one parameter, on both databases.

Goal: a list of numbers finds what the numbers find one by one, seeks the index, and makes the same statement however
long it is. Method: rows written directly; the statement as compiled, and the plan made for it.
"""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, insert, not_, select

from carechain.charts.index_schema import token_index
from carechain.charts.listed import listed
from carechain.charts.schema import METADATA

VALUES = (-(2**63), -1, 0, 7, 2**31, 2**63 - 1)
ROWS = [
    {"rid": rid, "param": 1, "value": value, "shelf": rid % 3, "day": 0} for rid, value in enumerate(VALUES, start=1)
]


@pytest.mark.parametrize(
    "numbers",
    [(), (7,), (7, 7), (-1, 0, 8), VALUES, tuple(range(1_000))],
    ids=["none", "one", "twice", "some", "all", "many"],
)
def test_a_list_finds_what_its_numbers_find(database_url: str, numbers: tuple[int, ...]) -> None:
    engine = create_engine(database_url)
    METADATA.create_all(engine, tables=[token_index])
    with engine.begin() as connection:
        connection.execute(insert(token_index), ROWS)
        found = select(token_index.c.value).where(listed(token_index.c.value, numbers))
        others = select(token_index.c.value).where(not_(listed(token_index.c.value, numbers)))
        assert set(connection.execute(found).scalars()) == set(VALUES) & set(numbers)
        assert set(connection.execute(others).scalars()) == set(VALUES) - set(numbers)
    engine.dispose()


def test_a_list_seeks_the_index_on_value_and_shelf(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'plan'}")
    METADATA.create_all(engine, tables=[token_index])
    table = token_index.alias("t")
    query = select(table.c.rid).where(table.c.param == 1, table.c.value == 7, listed(table.c.shelf, (1, 2)))
    with engine.connect() as connection:
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {_written(query, engine)}").all()
    engine.dispose()
    assert any("token_index_by_value (param=? AND value=? AND shelf=?)" in row[3] for row in plan), plan


def _written(query: Any, engine: Any) -> str:
    statement = str(query.compile(engine))
    for value in ("1", "7", "'[1,2]'"):
        statement = statement.replace("?", value, 1)
    return statement


@pytest.mark.parametrize("numbers", [(1,), tuple(range(300))])
def test_a_statement_is_the_same_however_many_numbers(postgresql_url: str, numbers: tuple[int, ...]) -> None:
    engine = create_engine(postgresql_url)
    columns = token_index.c
    statement = str(
        select(columns.rid).where(listed(columns.value, numbers), listed(columns.shelf, numbers)).compile(engine)
    )
    engine.dispose()
    assert "value = ANY (%(numbers_1)s::BIGINT[])" in statement
    assert "shelf = ANY (%(numbers_2)s::INTEGER[])" in statement
