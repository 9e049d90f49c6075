"""Goal: a bundle is taken apart without changing a byte of what it carries.

Method: awkward but legal JSON (odd spacing, 72.50, escapes, Chinese text) goes in; the exact bytes come out.
"""

import json
from typing import Any

import pytest

from carechain.charts.bundle import parse, patient_of
from carechain.charts.dates import day_of, day_of_unix
from carechain.core.rejection import Rejected

BODY = '{ "resourceType":"Patient",\n\t"id" : "p1", "note": 72.50, "exp": 1E+2,\r\n "name":[{"text":"欧阳\\u5b50涵"}] }'
REQUEST = '{"method":"PUT","url":"Patient/p1"}'
WRAPPED = f'{{"resourceType": "Bundle", "type":"transaction", "entry":[ {{"request":{REQUEST},"resource": {BODY} }} ]}}'


def test_received_bytes_are_kept_exactly() -> None:
    entry = patient_of(parse(WRAPPED.encode()))
    assert entry.body == BODY.encode()
    assert entry.key == "Patient/p1"
    assert entry.tree()["name"][0]["text"] == "欧阳子涵"


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"resource": {"resourceType": "Patient", "id": "a"}, "fullUrl": "urn:uuid:b"}, "a"),
        ({"resource": {"resourceType": "Patient"}, "fullUrl": "urn:uuid:b"}, "b"),
        ({"resource": {"resourceType": "Patient"}, "request": {"method": "PUT", "url": "Patient/c"}}, "c"),
        ({"resource": {"resourceType": "Patient"}, "request": {"method": "PUT", "url": "Patient?identifier=1"}}, None),
    ],
)
def test_a_resource_is_named_by_its_id_else_by_where_it_is_put(entry: dict[str, Any], expected: str | None) -> None:
    asked = {"request": {"method": "POST", "url": "Patient"}, **entry}
    data = json.dumps({"resourceType": "Bundle", "type": "batch", "entry": [asked]}).encode()
    found = parse(data).entries[0].resource_id
    assert (found == expected) if expected else len(found) == 32


def test_a_resource_without_any_name_is_named_by_its_bytes() -> None:
    data = b'{"resourceType":"Bundle","type":"collection","entry":[{"resource":{"resourceType":"Patient"}}]}'
    assert parse(data).entries[0].resource_id == parse(data).entries[0].resource_id
    assert parse(data).entries[0].resource_id != parse(data.replace(b'"Patient"', b'"Patient" ')).entries[0].resource_id


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("1900-01-01", 0),
        ("1900-01-02", 1),
        ("1899-12-31", 0),
        ("1970-01-01T23:59:59.123-05:00", 25567),
        ("1970", 25567),
        ("1970-02", 25598),
        ("2024-02-29T10:00:00Z", 45349),
    ],
)
def test_days_are_counted_from_1900_as_written(text: str, day: int) -> None:
    assert day_of(text) == day


@pytest.mark.parametrize(
    "text", ["", "2023-02-29", "0000", "2023-13", "20230101", "2023-01-01T25:00", "２０２３", "2023-1-1"]
)
def test_what_is_not_a_date_is_refused(text: str) -> None:
    with pytest.raises(Rejected):
        day_of(text)


def test_unix_time_gives_the_day_in_utc() -> None:
    assert day_of_unix(0) == day_of("1970-01-01")
    assert day_of_unix(86_399) == day_of("1970-01-01")
    assert day_of_unix(86_400) == day_of("1970-01-02")
