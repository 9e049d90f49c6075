"""Goal: a database is read through its registered queries alone, by a user who can do nothing else, wherever it runs.

Method: the shipped example on SQLite, PostgreSQL and MariaDB; the same questions to each, and real attempts to write.
"""

from functools import partial
from pathlib import Path

import orjson
import pytest
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.exc import DBAPIError

from carechain.charts.bundle import parse
from carechain.core.rejection import Rejected
from carechain.sources.base import Pointer, SourceUnavailable, Unmapped
from carechain.sources.codes import SourceCode
from carechain.sources.registry import Sources, SqlSettings
from carechain.sources.sql import source as sql_source
from carechain.sources.sql.mapping import Mapping, read_mapping
from carechain.sources.sql.source import SqlSource
from clinics import MAPPING, OUYANG, PRIVATE, WANG, Clinic

WRITES = (
    "INSERT INTO encounter_type VALUES (9, 'x')",
    "UPDATE obs SET value_numeric = 1",
    "DELETE FROM obs",
    "DROP TABLE drug_order",
    "CREATE TABLE mine (a INTEGER)",
)


TOO_MUCH = {
    "postgresql": (
        ("GRANT INSERT ON obs TO READER", "REVOKE INSERT ON obs FROM READER"),
        ("GRANT UPDATE (status) ON obs TO READER", "REVOKE UPDATE (status) ON obs FROM READER"),
        ("GRANT TRUNCATE ON obs TO READER", "REVOKE TRUNCATE ON obs FROM READER"),
        ("GRANT CREATE ON SCHEMA public TO READER", "REVOKE CREATE ON SCHEMA public FROM READER"),
        ("ALTER ROLE READER CREATEROLE", "ALTER ROLE READER NOCREATEROLE"),
        ("GRANT pg_write_all_data TO READER", "REVOKE pg_write_all_data FROM READER"),
        ("GRANT pg_execute_server_program TO READER", "REVOKE pg_execute_server_program FROM READER"),
        # A right that has to be taken up with SET ROLE is one that the user has.
        (
            (
                "ALTER ROLE READER NOINHERIT; GRANT DELETE ON obs TO helpers_of_the_test; "
                "GRANT helpers_of_the_test TO READER"
            ),
            "REVOKE helpers_of_the_test FROM READER",
        ),
        ("ALTER ROLE READER SUPERUSER", "ALTER ROLE READER NOSUPERUSER"),
    ),
    "mysql": (
        ("GRANT INSERT ON obs TO READER", "REVOKE INSERT ON obs FROM READER"),
        ("GRANT UPDATE (status) ON obs TO READER", "REVOKE UPDATE (status) ON obs FROM READER"),
        ("GRANT CREATE ON *.* TO READER", "REVOKE CREATE ON *.* FROM READER"),
        ("GRANT FILE ON *.* TO READER", "REVOKE FILE ON *.* FROM READER"),
        ("GRANT SELECT ON *.* TO READER WITH GRANT OPTION", "REVOKE SELECT, GRANT OPTION ON *.* FROM READER"),
        # What a role may do is not looked into.
        ("GRANT helpers_of_the_test TO READER", "REVOKE helpers_of_the_test FROM READER"),
    ),
}
"""Rights a reader must not have, each with what takes it away again."""


def test_a_chart_is_fhir_with_every_character_and_digit(clinic: Clinic) -> None:
    source = clinic.source()
    found = source.chart(WANG)
    bodies = [one.body for one in found]
    parse(
        b'{"resourceType":"Bundle","type":"collection","entry":['
        + b",".join(b'{"resource":' + body + b"}" for body in bodies)
        + b"]}"
    )
    trees = {one.pointer: orjson.loads(one.body) for one in found}
    assert len(trees) == 10
    patient = trees[Pointer("patient", 7)]
    assert patient["name"] == [{"family": "王", "given": ["小明"]}, {"family": "Wang", "given": ["Xiaoming"]}]
    assert [one["value"] for one in patient["identifier"]] == ["100007", "A223456781"]
    assert trees[Pointer("obs", 104)]["valueString"] == "頭痛三天，夜間加劇"
    assert trees[Pointer("obs", 101)]["effectiveDateTime"] == "2026-03-01T09:05:00+08:00"
    assert Pointer("obs", 106) not in trees, "the clinic has struck it out"
    if clinic.dialect != "sqlite":
        # SQLite has no decimals; the others keep the digits of theirs.
        weight = next(one for one in found if one.pointer == Pointer("obs", 103))
        assert b'"value":61.20,' in weight.body
    source.close()


def test_reading_again_gives_the_same_bytes_in_any_order(clinic: Clinic) -> None:
    source = clinic.source()
    chart = {one.pointer: one.body for one in source.chart(WANG)}
    again = source.read(WANG, sorted(chart, reverse=True))
    assert {one.pointer: one.body for one in again} == chart
    some = [Pointer("obs", 101), Pointer("obs", 999), Pointer("no-such-query", 1)]
    assert [one.pointer for one in source.read(WANG, some)] == [Pointer("obs", 101)]
    source.close()


def test_a_pointer_leads_to_no_other_patient(clinic: Clinic) -> None:
    source = clinic.source()
    assert source.read(OUYANG, [Pointer("obs", 101)]) == []
    source.close()


def test_patients_are_listed(clinic: Clinic) -> None:
    source = clinic.source()
    assert source.patients() == [7, 8, 9]
    assert source.chart(4711) == []
    source.close()


def test_a_key_is_a_value_and_never_a_part_of_a_statement(clinic: Clinic) -> None:
    """Neither a patient's key nor a result's can say anything to the database."""
    as_text = MAPPING.replace(b'patient_key = "integer"', b'patient_key = "text"')
    as_text = as_text.replace(
        b"= :patient", b"= CAST(:patient AS CHAR(40))" if clinic.dialect == "mysql" else b"= :patient"
    )
    source = clinic.source(as_text)
    for key in ("7 OR 1=1", "7'; DROP TABLE obs; --", "7) UNION SELECT * FROM person --"):
        try:
            assert source.chart(key) == [] or clinic.dialect == "mysql"
        except SourceUnavailable:
            assert clinic.dialect == "postgresql", "a text that is no number is refused there"
    numbers = clinic.source()
    assert numbers.read(WANG, [Pointer("encounter", 31)])
    evil = [Pointer("encounter", "31) OR (1=1"), Pointer("encounter", ":patient")]
    try:
        assert numbers.read(WANG, evil) in ([], numbers.read(WANG, [Pointer("encounter", 31)]))
    except SourceUnavailable:
        assert clinic.dialect == "postgresql"
    assert len(numbers.chart(WANG)) == 10, "nothing was dropped"
    with pytest.raises(Rejected) as refused:
        numbers.chart("7")
    assert refused.value.code is SourceCode.PATIENT_KEY_MALFORMED
    source.close()
    numbers.close()


def test_nothing_can_be_written_through_a_source(clinic: Clinic) -> None:
    """The engine a source is opened with, used for what this program never does; also with the rights of the owner."""
    for source in (clinic.source(), SqlSource.open(clinic.url, password=None, mapping=_mapping())):
        for statement in WRITES:
            with source._engine.connect() as connection, pytest.raises(DBAPIError):
                connection.execute(text(statement))
        source.close()
    source = clinic.source()
    assert len(source.chart(WANG)) == 10
    source.close()


def test_the_readers_own_connection_cannot_write(server_clinic: Clinic) -> None:
    """Without anything of this program in between: the database refuses its user."""
    engine = create_engine(server_clinic.url_of_reader(), poolclass=NullPool)
    for statement in WRITES:
        with engine.connect() as connection, pytest.raises(DBAPIError, match=r"(?i)denied|owner"):
            connection.execute(text(statement))
    engine.dispose()


def test_a_user_who_may_do_more_is_refused(server_clinic: Clinic) -> None:
    source = server_clinic.source()
    source.check()
    source.close()
    server_clinic.do("CREATE ROLE helpers_of_the_test")
    try:
        for grant, revoke in TOO_MUCH[server_clinic.dialect]:
            server_clinic.grant(grant)
            source = server_clinic.source()
            for attempt in (source.check, source.patients, partial(source.chart, WANG)):
                with pytest.raises(Rejected) as refused:
                    attempt()
                assert refused.value.code is SourceCode.USER_MAY_WRITE, grant
            source.close()
            server_clinic.grant(revoke)
        source = server_clinic.source()
        source.check()
        source.close()
    finally:
        if server_clinic.dialect == "postgresql":
            server_clinic.do("DROP OWNED BY helpers_of_the_test")
        server_clinic.do("DROP ROLE helpers_of_the_test")


def test_the_owner_is_refused(server_clinic: Clinic) -> None:
    source = SqlSource.open(server_clinic.url, password=None, mapping=_mapping())
    with pytest.raises(Rejected) as refused:
        source.check()
    assert refused.value.code is SourceCode.USER_MAY_WRITE
    source.close()


def test_what_a_query_does_not_select_is_named(clinic: Clinic) -> None:
    for change, code, place in (
        ((b"e.encounter_datetime, ", b""), SourceCode.COLUMN_MISSING, "encounter_datetime"),
        ((b'key = "encounter_id"', b'key = "visit_id"'), SourceCode.KEY_MISSING, "visit_id"),
    ):
        source = clinic.source(MAPPING.replace(*change))
        for attempt in (source.check, partial(source.chart, WANG)):
            with pytest.raises(Unmapped) as refused:
                attempt()
            assert (refused.value.code, refused.value.query, refused.value.place) == (code, "encounter", place)
        source.close()


def test_a_row_without_a_key_is_refused(clinic: Clinic) -> None:
    source = clinic.source(MAPPING.replace(b"SELECT e.encounter_id,", b"SELECT NULL AS encounter_id,"))
    with pytest.raises(Unmapped) as refused:
        source.chart(WANG)
    assert refused.value.code is SourceCode.KEY_MISSING
    source.close()


def test_more_rows_than_a_chart_may_have_are_refused(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_source._run, "__defaults__", (3,))
    source = clinic.source()
    with pytest.raises(Unmapped) as refused:
        source.chart(WANG)
    assert refused.value.code is SourceCode.TOO_MANY_ROWS
    source.close()


def test_a_database_that_fails_says_nothing_of_what_it_holds(clinic: Clinic) -> None:
    source = clinic.source(MAPPING.replace(b"FROM encounter e", b"FROM no_such_table e"))
    with pytest.raises(SourceUnavailable) as failed:
        source.chart(WANG)
    assert failed.value.__cause__ is None
    assert not [word for word in ("no_such_table", "SELECT", "7", *PRIVATE) if word in str(failed.value)]
    source.close()


def test_nobody_at_the_address(tmp_path: Path) -> None:
    source = SqlSource.open(f"sqlite:///{tmp_path / 'none.sqlite'}", password=None, mapping=_mapping())
    with pytest.raises(SourceUnavailable):
        source.chart(WANG)
    assert not (tmp_path / "none.sqlite").exists(), "nothing is made where a database is missing"
    source.close()


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("oracle://host/db", SourceCode.DIALECT_UNKNOWN),
        ("frob://host/db", SourceCode.DIALECT_UNKNOWN),
        ("postgresql+frob://host/db", SourceCode.DIALECT_UNKNOWN),
        ("mssql+pyodbc://host/db", SourceCode.DRIVER_MISSING),
        ("not an address", SourceCode.SETTINGS_MALFORMED),
    ],
)
def test_an_address_that_cannot_be_used(url: str, code: SourceCode) -> None:
    with pytest.raises(Rejected) as refused:
        SqlSource.open(url, password=None, mapping=_mapping())
    assert refused.value.code is code


def test_a_source_is_put_down_once_and_only_if_it_works(clinic: Clinic, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with Sources(home) as sources:
        for name in ("", "Clinic", "../x", "a" * 33):
            with pytest.raises(Rejected) as refused:
                sources.add(name, clinic.settings(), mapping=MAPPING)
            assert refused.value.code is SourceCode.BAD_NAME
        with pytest.raises(SourceUnavailable):
            sources.add("clinic", clinic.settings(), mapping=MAPPING.replace(b"FROM obs", b"FROM nothing"))
        assert sources.names() == []
        sources.add("clinic", clinic.settings(), mapping=MAPPING)
        assert sources.names() == ["clinic"]
        assert sources.settings("clinic") == clinic.settings()
        assert len(sources.source("clinic").chart(WANG)) == 10
        with pytest.raises(Rejected) as refused:
            sources.add("clinic", clinic.settings(), mapping=MAPPING)
        assert refused.value.code is SourceCode.NAME_TAKEN
        with pytest.raises(Rejected) as refused:
            sources.source("other")
        assert refused.value.code is SourceCode.SOURCE_UNKNOWN
        settings = home / "sources" / "clinic.source.toml"
        assert settings.stat().st_mode & 0o077 == 0
        sources.mapping_file("clinic").write_bytes(MAPPING.replace(b'id = "drug-order"', b'id = "orders"'))
        assert "orders" in sources.source("clinic").check().queries, "a changed mapping is taken up at once"
        settings.write_text('kind = "carrier pigeon"\n', encoding="utf-8")
        with pytest.raises(Rejected) as refused:
            sources.source("clinic")
        assert refused.value.code is SourceCode.SETTINGS_MALFORMED


def test_a_password_stays_in_a_private_file(server_clinic: Clinic, tmp_path: Path) -> None:
    with Sources(tmp_path / "home") as sources:
        with pytest.raises(Rejected) as refused:
            sources.add("clinic", SqlSettings(url=server_clinic.url), mapping=MAPPING)
        assert refused.value.code is SourceCode.PASSWORD_IN_ADDRESS
        assert server_clinic.password_file is not None
        server_clinic.password_file.chmod(0o644)
        with pytest.raises(SourceUnavailable, match="0600"):
            sources.add("clinic", server_clinic.settings(), mapping=MAPPING)
    assert server_clinic.password_file.read_text(encoding="utf-8").strip() not in repr(server_clinic.source())


def test_no_list_without_a_query(clinic: Clinic) -> None:
    source = clinic.source(
        MAPPING.replace(b'[patients]\nsql = "SELECT patient_id FROM patient WHERE voided = 0"\n', b"")
    )
    with pytest.raises(Rejected) as refused:
        source.patients()
    assert refused.value.code is SourceCode.CANNOT_LIST
    source.close()


def _mapping() -> Mapping:
    return read_mapping(MAPPING)
