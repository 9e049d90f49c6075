"""Connections to PostgreSQL that are used again.

Goal: a connection that the server ended meanwhile is replaced without anybody noticing, and one that did something else
is a reader's or a writer's again. Method: the server told to end its connections; transactions asked what they are.
"""

from sqlalchemy import text

from carechain.charts.dialect import WRITE_OPTION, open_engine
from carechain.charts.repository import Repository
from carechain.charts.sight import CUSTODIAN
from carechain.charts.store import Charts


def test_connections_that_the_server_ended_are_replaced(postgresql_url: str) -> None:
    with Charts.open(postgresql_url) as charts:
        repository = Repository(charts)
        with repository.reading() as reader:
            assert reader.read(CUSTODIAN, "Patient", "nobody") is None
        other = open_engine(postgresql_url)
        with other.connect() as connection:
            own = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
            ended = text(f"{own} WHERE datname = current_database() AND pid <> pg_backend_pid()")
            assert connection.execute(ended).all()
        other.dispose()
        with repository.reading() as reader:
            assert reader.read(CUSTODIAN, "Patient", "nobody") is None


def test_a_connection_is_a_readers_or_a_writers_whatever_it_was_before(postgresql_url: str) -> None:
    engine = open_engine(postgresql_url)
    writer, alone = engine.execution_options(**{WRITE_OPTION: True}), engine.execution_options()
    said = text("SELECT current_setting('transaction_isolation'), current_setting('transaction_read_only')")
    expected = {engine: ("repeatable read", "on"), writer: ("read committed", "off")}
    for one in (engine, writer, engine, alone, engine, alone, writer, engine):
        if one is alone:
            with one.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.execute(said)
            continue
        with one.begin() as connection:
            assert tuple(connection.execute(said).one()) == expected[one]
    engine.dispose()
