"""Goal: Fitbit's answers become Observations in the wearer's own zone; what cannot be is named with its place.

Method: the answers of the test data, and answers written here, broken in one place each.
"""

import json
from typing import Any

import pytest

from carechain.sources.imports.base import Unreadable
from carechain.sources.imports.codes import ImportCode
from carechain.sources.imports.fitbit import NO_DATE_INSIDE, NO_FORM, NO_OBJECT, NO_TIME, NO_VALUE, Fitbit
from carechain.sources.imports.kinds import kind_of
from imports import codes, file_of, read, sample

FILES = {
    "activities-date-empty-activities-list": 0,
    "activities-date-multiple-in-activities-list": 3,
    "activities-date-single-in-activities-list": 1,
    "activities-heart-1d-1m-intraday": 6,
    "activities-steps-1d-1m-intraday": 4,
    "activities-steps-timeseries": 3,
    "body-log-weight": 8,
    "sleep-date-empty-sleep-list": 0,
    "sleep-date-range-empty-sleep-list": 0,
    "sleep-date-range": 2,
    "sleep-date": 2,
}


@pytest.mark.parametrize(("name", "count"), FILES.items())
def test_the_answers_of_the_test_data(name: str, count: int) -> None:
    data = sample("fitbit", f"fitbit-{name}.json").read_bytes()
    assert kind_of(file_of(data)) == "fitbit"
    made, _ = read(Fitbit(), data)
    assert len(made) == count
    again, _ = read(Fitbit(), data)
    assert made == again


def test_times_are_the_wearers_own_and_numbers_keep_their_digits() -> None:
    (weight, bmi), skipped = read(
        Fitbit(), '{"weight":[{"bmi":21.50,"date":"2015-05-13","logId":1,"time":"18:28:59","weight":56.70}]}'
    )
    assert skipped == []
    assert weight["effectiveDateTime"] == "2015-05-13T18:28:59+08:00"
    assert "29463-7" in codes([weight])
    assert bmi["valueQuantity"]["value"] == 21.5


@pytest.mark.parametrize(
    ("answer", "reason", "place"),
    [
        ({"weight": [{"weight": 1, "date": "2015-02-30", "time": "10:00:00"}]}, NO_TIME, "weight, entry 1"),
        ({"weight": [{"date": "2015-02-20", "time": "10:00:00", "weight": "heavy"}]}, NO_VALUE, "weight, entry 1"),
        ({"activities-steps": [{"dateTime": "2015-02-20", "value": True}]}, NO_VALUE, "activities-steps, entry 1"),
        ({"activities-steps": [{"dateTime": "x", "value": "1"}]}, NO_TIME, "activities-steps, entry 1"),
        ({"activities-steps": [7]}, NO_OBJECT, "activities-steps, entry 1"),
        ({"sleep": [{}]}, NO_TIME, "sleep, entry 1"),
        ({"sleep": [], "summary": {}}, NO_DATE_INSIDE, "summary"),
        ({"sleep": [], "badges<Canary>": []}, NO_FORM, "a part with another name"),
        ({"activities-heart": [{"dateTime": "2015-02-20"}]}, NO_VALUE, "activities-heart, entry 1"),
        ({"activities-steps": [], "activities-steps-intraday": {}}, NO_TIME, "activities-steps-intraday"),
        ({"activities": [{"name": "Run"}]}, NO_TIME, "activities, entry 1"),
    ],
)
def test_what_is_skipped_is_named(answer: dict[str, Any], reason: str, place: str) -> None:
    made, skipped = read(Fitbit(), answer)
    assert made == []
    assert [(one.reason, one.place) for one in skipped] == [(reason, place)]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b'{"weight":[{"weight":', ImportCode.FILE_TRUNCATED),
        (b'{"weight":[{"date":"2015', ImportCode.FILE_TRUNCATED),
        (b'{"weight":[}', ImportCode.FILE_MALFORMED),
        (b'{"weight":[{"weight":NaN}]}', ImportCode.FILE_MALFORMED),
        (b'{"weight":[],"weight":[]}', ImportCode.FILE_MALFORMED),
        (b'{"weight":[{"weight":' + b"9" * 5000 + b"}]}", ImportCode.FILE_MALFORMED),
        (b"[" * 100_000, ImportCode.FILE_MALFORMED),
        (b'{"weight":' + b"[" * 90 + b"]" * 90 + b"}", ImportCode.FILE_MALFORMED),
        (b'{"other":[]}', ImportCode.FILE_MALFORMED),
        (b"\xff\xfe{", ImportCode.NOT_TEXT),
    ],
)
def test_a_broken_file_is_refused(content: bytes, code: ImportCode) -> None:
    with pytest.raises(Unreadable) as refused:
        list(read(Fitbit(), content))
    assert refused.value.code is code


def test_kinds_that_are_not_known() -> None:
    for content in (b"", b"hello", json.dumps({"a": 1}).encode(), b"\x00\x01"):
        with pytest.raises(Unreadable) as refused:
            kind_of(file_of(content))
        assert refused.value.code is ImportCode.KIND_UNKNOWN
