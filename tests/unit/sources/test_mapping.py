"""Goal: a mapping file says all it can say, and a wrong one is refused with its query and place, before it is used.

Method: small mappings, one thing wrong in each; templates over rows as drivers give them, with the bytes compared.
"""

import json
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from carechain.charts.bundle import parse
from carechain.core.limits import CONFIG_FILE_BYTES
from carechain.core.rejection import Rejected
from carechain.sources import jsontext
from carechain.sources.base import Unmapped
from carechain.sources.codes import SourceCode
from carechain.sources.examples import read_example
from carechain.sources.sql.mapping import read_mapping
from carechain.sources.template import compile_template

TAIPEI = ZoneInfo("Asia/Taipei")
CODES = {"gender": {"M": "male", "*": "unknown"}, "strict": {"1": "one"}}
HEAD = 'format = 1\ntime_zone = "Asia/Taipei"\npatient_key = "integer"\n'
QUERY = (
    '[[query]]\nid = "{id}"\nkey = "k"\nsql = "{sql}"\n'
    'template = \'\'\'{{"resourceType": "Basic", "id": "{id}-{{k}}"}}\'\'\'\n'
)


def mapping(sql: str = "SELECT k FROM t WHERE p = :patient", *, name: str = "q", head: str = HEAD) -> bytes:
    return (head + QUERY.format(id=name, sql=sql)).encode()


def rendered(template: dict[str, Any], *rows: dict[str, Any]) -> str:
    text = json.dumps({"resourceType": "Basic", "id": "1", **template}, ensure_ascii=False)
    made = compile_template(text, query="q", codes=CODES, zone=TAIPEI).render(rows)
    assert made.startswith(b'{"resourceType":"Basic","id":"1"')
    return made[len(b'{"resourceType":"Basic","id":"1"') : -1].removeprefix(b",").decode()


def test_the_shipped_example_is_read() -> None:
    read = read_mapping(read_example("mapping.toml").encode())
    assert [one.id for one in read.queries] == ["patient", "encounter", "obs", "condition", "drug-order"]
    assert read.patient_key == "integer"


@pytest.mark.parametrize(
    ("value", "place", "expected"),
    [
        ("王小明", "{c}", '"v":"王小明"'),
        ("  spaces \t", "{c}", '"v":"spaces"'),
        ('"quotes"\n', "{c}", '"v":"\\"quotes\\""'),
        ("", "{c}", ""),
        (" ", "{c}", ""),
        (None, "{c}", ""),
        (None, "prefix {c}", ""),
        (5, "{c}", '"v":"5"'),
        (5, "{{{c}}}", '"v":"{5}"'),
        ("x", "a-{c}-{C}", '"v":"a-x-x"'),
        (True, "{c}", '"v":"true"'),
        (Decimal("72.50"), "{c|number}", '"v":72.50'),
        (Decimal("1E+3"), "{c|number}", '"v":1000'),
        (Decimal("-0.10"), "{c|number}", '"v":-0.10'),
        (72.5, "{c|number}", '"v":72.5'),
        (120.0, "{c|number}", '"v":120'),
        (1e300, "{c|number}", '"v":1e+300'),
        (7, "{c|number}", '"v":7'),
        ("61.20", "{c|number}", '"v":61.20'),
        (0, "{c|boolean}", '"v":false'),
        (1, "{c|boolean}", '"v":true'),
        (b"\x01", "{c|boolean}", '"v":true'),
        (True, "{c|boolean}", '"v":true'),
        (date(1980, 2, 29), "{c|date}", '"v":"1980-02-29"'),
        (datetime(1980, 2, 29, 9), "{c|date}", '"v":"1980-02-29"'),  # noqa: DTZ001 - a column without an offset
        ("1980-02-29", "{c|date}", '"v":"1980-02-29"'),
        (datetime(2026, 3, 1, 9), "{c|datetime}", '"v":"2026-03-01T09:00:00+08:00"'),  # noqa: DTZ001
        (datetime(2026, 3, 1, 9, tzinfo=UTC), "{c|datetime}", '"v":"2026-03-01T17:00:00+08:00"'),
        (
            datetime(2026, 3, 1, 9, 0, 0, 1500, tzinfo=timezone(timedelta(hours=-5))),
            "{c|datetime}",
            '"v":"2026-03-01T22:00:00.001500+08:00"',
        ),
        ("2026-03-01 09:00:00", "{c|datetime}", '"v":"2026-03-01T09:00:00+08:00"'),
        (date(2026, 3, 1), "{c|datetime}", '"v":"2026-03-01"'),
        ("M", "{c|code:gender}", '"v":"male"'),
        ("?", "{c|code:gender}", '"v":"unknown"'),
        (1, "{c|code:strict}", '"v":"one"'),
        ("王".encode(), "{c}", '"v":"王"'),
    ],
)
def test_values_are_written_as_the_template_says(value: object, place: str, expected: str) -> None:
    assert rendered({"v": place}, {"c": value}) == expected


@pytest.mark.parametrize(
    ("value", "place", "code"),
    [
        ("seven", "{c|number}", SourceCode.VALUE_UNREADABLE),
        (Decimal("NaN"), "{c|number}", SourceCode.VALUE_UNREADABLE),
        (float("inf"), "{c|number}", SourceCode.VALUE_UNREADABLE),
        (True, "{c|number}", SourceCode.VALUE_UNREADABLE),
        ("perhaps", "{c|boolean}", SourceCode.VALUE_UNREADABLE),
        ("soon", "{c|date}", SourceCode.VALUE_UNREADABLE),
        ("2026-02-30 00:00:00", "{c|datetime}", SourceCode.VALUE_UNREADABLE),
        (b"\xff\xfe", "{c}", SourceCode.VALUE_UNREADABLE),
        ("2", "{c|code:strict}", SourceCode.VALUE_UNKNOWN),
    ],
)
def test_what_does_not_fit_is_refused_with_the_place_and_without_the_value(
    value: object, place: str, code: SourceCode
) -> None:
    with pytest.raises(Unmapped) as refused:
        rendered({"deep": [{"v": place}]}, {"c": value})
    assert (refused.value.code, refused.value.query, refused.value.place) == (code, "q", "deep[0].v")
    assert str(refused.value) == code.label


def test_what_has_nothing_to_say_is_left_out() -> None:
    template = {"a": {"b": {"c": "{x}"}}, "l": [{"d": "{x}"}, "{y}"], "w": {"$when": "x", "unit": "kg"}, "k": "here"}
    assert rendered(template, {"x": None, "y": None}) == '"k":"here"'
    assert rendered(template, {"x": 1, "y": 2}) == (
        '"a":{"b":{"c":"1"}},"l":[{"d":"1"},"2"],"w":{"unit":"kg"},"k":"here"'
    )


def test_joined_rows_are_told_apart_and_said_once_in_one_order() -> None:
    template = {"names": [{"$each": "n", "v": "{n}"}], "ids": [{"$each": "i", "v": "{i}", "of": "{kind}"}]}
    rows = [{"n": n, "i": i, "kind": f"k{i}"} for n in ("b", "a") for i in (2, 1, None)]
    expected = '"names":[{"v":"a"},{"v":"b"}],"ids":[{"v":"1","of":"k1"},{"v":"2","of":"k2"}]'
    assert rendered(template, *rows) == expected
    assert rendered(template, *reversed(rows)) == expected


def test_rows_of_one_result_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(Unmapped) as refused:
        rendered({"v": "{c}"}, {"c": 1}, {"c": 2})
    assert (refused.value.code, refused.value.place) == (SourceCode.AMBIGUOUS_ROWS, "v")


def test_constants_keep_their_numbers() -> None:
    text = '{"resourceType": "Basic", "id": "1", "n": 72.50, "t": true, "l": [1.0, false]}'
    made = compile_template(text, query="q", codes={}, zone=TAIPEI).render([{}])
    assert made == b'{"resourceType":"Basic","id":"1","n":72.50,"t":true,"l":[1.0,false]}'


@pytest.mark.parametrize(
    "template",
    [
        "not json",
        "[]",
        '{"resourceType": "Basic"}',
        '{"id": "{k}"}',
        '{"resourceType": "Basic", "id": "1", "id": "2"}',
        '{"resourceType": "Basic", "id": "1", "v": null}',
        '{"resourceType": "Basic", "id": "1", "v": "{open"}',
        '{"resourceType": "Basic", "id": "1", "v": "close}"}',
        '{"resourceType": "Basic", "id": "1", "v": "{c|shout}"}',
        '{"resourceType": "Basic", "id": "1", "v": "{c|code:none}"}',
        '{"resourceType": "Basic", "id": "1", "v": "{c|code}"}',
        '{"resourceType": "Basic", "id": "1", "v": "{c|number:gender}"}',
        '{"resourceType": "Basic", "id": "1", "v": {"$when": "a b", "x": 1}}',
        '{"resourceType": "Basic", "id": "1", "v": [{"$each": 7, "x": 1}]}',
        "[" * 100_000,
    ],
)
def test_a_template_that_cannot_be_understood_is_refused(template: str) -> None:
    with pytest.raises(Unmapped) as refused:
        compile_template(template, query="q", codes=CODES, zone=TAIPEI)
    assert refused.value.code is SourceCode.TEMPLATE_MALFORMED


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"format = 2",
        mapping(head=HEAD.replace("Taipei", "Atlantis")),
        mapping(head=HEAD.replace("Asia/Taipei", "../../etc/passwd")),
        mapping(head=HEAD.replace("integer", "uuid")),
        mapping(head=HEAD + 'surprise = "1"\n'),
        mapping(name="no spaces"),
        HEAD.encode(),
        b"#" * (CONFIG_FILE_BYTES + 1),
    ],
)
def test_a_file_that_does_not_fit_is_refused(data: bytes) -> None:
    with pytest.raises(Rejected) as refused:
        read_mapping(data)
    assert refused.value.code is SourceCode.MAPPING_MALFORMED


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM t WHERE p = :patient",
        "UPDATE t SET p = :patient",
        "SELECT k FROM t WHERE p = :patient; DROP TABLE t",
        "/* SELECT */ INSERT INTO t VALUES (:patient)",
        "-- SELECT\\nDROP TABLE t",
        "",
    ],
)
def test_a_query_only_reads(sql: str) -> None:
    with pytest.raises(Unmapped) as refused:
        read_mapping(mapping(sql))
    assert (refused.value.code, refused.value.query) == (SourceCode.QUERY_NOT_READING, "q")


@pytest.mark.parametrize("sql", ["SELECT k FROM t", "SELECT k FROM t WHERE p = :patient AND x = :more"])
def test_a_query_binds_the_patient_and_nothing_else(sql: str) -> None:
    with pytest.raises(Unmapped) as refused:
        read_mapping(mapping(sql))
    assert refused.value.code is SourceCode.QUERY_PARAMETERS


def test_the_list_of_patients_binds_nothing() -> None:
    with pytest.raises(Unmapped) as refused:
        read_mapping(mapping(head=f'{HEAD}[patients]\nsql = "SELECT p FROM t WHERE p = :patient"\n'))  # noqa: S608
    assert (refused.value.code, refused.value.query) == (SourceCode.QUERY_PARAMETERS, "patients")


def test_casts_and_comments_are_no_parameters() -> None:
    sql = "-- the key\\nWITH x AS (SELECT k::text AS k FROM t WHERE p = :patient) SELECT k FROM x"
    assert len(read_mapping(mapping(sql)).queries) == 1


def test_two_queries_with_one_id_are_refused() -> None:
    twice = mapping() + QUERY.format(id="q", sql="SELECT k FROM t WHERE p = :patient").encode()
    with pytest.raises(Rejected) as refused:
        read_mapping(twice)
    assert refused.value.code is SourceCode.QUERY_REPEATED


def test_json_keeps_the_text_of_numbers() -> None:
    data = '{"a":[72.50,1E5,-0,{"b":"王\\n"}],"c":true,"d":null}'
    assert (
        jsontext.write(jsontext.read(data.encode())) == '{"a":[72.50,1E5,-0,{"b":"王\\n"}],"c":true,"d":null}'.encode()
    )
    for broken in (b'{"a":1,"a":2}', b"[NaN]", b"\xff", b""):
        with pytest.raises(ValueError, match=r"."):
            jsontext.read(broken)


def test_what_is_rendered_is_acceptable_to_the_charts() -> None:
    body = compile_template('{"resourceType": "Patient", "id": "{k}"}', query="q", codes={}, zone=TAIPEI).render(
        [{"k": 1}]
    )
    parse(b'{"resourceType":"Bundle","type":"collection","entry":[{"resource":' + body + b"}]}")
