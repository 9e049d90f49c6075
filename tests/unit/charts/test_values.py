"""Goal: a query and a resource mean the same by the same text, number or date.

Method: tables of forms and what they stand for, computed by hand; properties over generated text and dates.
"""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carechain.charts.searching.values import (
    STRING_CHARS,
    composite_term,
    date_interval,
    exact,
    fold,
    fold_identifier,
    number_interval,
)

SHANGHAI = ZoneInfo("Asia/Shanghai")
BERLIN = ZoneInfo("Europe/Berlin")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
HOUR_US = 3_600_000_000


def us(*parts: int) -> int:
    return (datetime(*parts, tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)  # type: ignore[misc,arg-type]


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("Müller", "muller"),
        ("  Anna \t Maria\n", "anna maria"),
        ("Ｗａｎｇ", "wang"),
        ("王小明", "王小明"),
        ("Straße", "strasse"),
        ("ÅNGSTRÖM", "angstrom"),
        ("Ἀθήνα", "αθηνα"),
        ("ﾃｽﾄ", "テスト"),
        ("がぎ", "がぎ"),  # The voicing mark is part of the letter.
        ("กำ", "กํา"),  # As NFKC writes it; no vowel is lost.
        ("a\0b", "ab"),
        ("", ""),
    ],
)
def test_text_is_folded(text: str, folded: str) -> None:
    assert fold(text) == folded


@given(st.text(max_size=600))
def test_folding_twice_changes_nothing(text: str) -> None:
    once = fold(text)
    assert fold(once) == once
    assert len(once) <= STRING_CHARS
    assert "\0" not in once + exact(text)


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=80))
def test_case_makes_no_difference(text: str) -> None:
    assert fold(text.casefold()) == fold(text)


def test_identifiers_lose_width_and_outer_spaces_only() -> None:
    assert fold_identifier(" １１０１０１ＡＢ ") == "110101AB"
    assert fold_identifier("ab-12 x") == "ab-12 x"


def test_the_parts_of_a_composite_are_ordered() -> None:
    assert composite_term(1, 23) != composite_term(12, 3)
    assert composite_term(1, 2) != composite_term(2, 1)


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("2024", us(2024, 1, 1), us(2025, 1, 1)),
        ("2024-02", us(2024, 2, 1), us(2024, 3, 1)),
        ("2024-12", us(2024, 12, 1), us(2025, 1, 1)),
        ("2024-02-29", us(2024, 2, 29), us(2024, 3, 1)),
        ("2024-05-01T10:30", us(2024, 5, 1, 10, 30), us(2024, 5, 1, 10, 31)),
        ("2024-05-01T10:30:05", us(2024, 5, 1, 10, 30, 5), us(2024, 5, 1, 10, 30, 6)),
        ("2024-05-01T10:30:05.25", us(2024, 5, 1, 10, 30, 5, 250_000), us(2024, 5, 1, 10, 30, 5, 260_000)),
        ("2024-05-01T10:30:05.1234567Z", us(2024, 5, 1, 10, 30, 5, 123_456), us(2024, 5, 1, 10, 30, 5, 123_457)),
        ("2024-05-01T10:30:00+08:00", us(2024, 5, 1, 2, 30), us(2024, 5, 1, 2, 30, 1)),
        ("2024-05-01T10:30:00-05:30", us(2024, 5, 1, 16, 0), us(2024, 5, 1, 16, 0, 1)),
        ("2016-12-31T23:59:60Z", us(2017, 1, 1), us(2017, 1, 1, 0, 0, 1)),
        ("2016-12-31T23:59:60", us(2017, 1, 1), us(2017, 1, 1, 0, 0, 1)),
    ],
)
def test_a_date_covers_what_it_leaves_open(text: str, low: int, high: int) -> None:
    assert date_interval(text, UTC) == (low, high)


def test_a_date_without_offset_is_the_local_one() -> None:
    assert date_interval("2024-05-01", SHANGHAI) == (us(2024, 4, 30, 16), us(2024, 5, 1, 16))
    assert date_interval("2024-05-01T00:30:00", SHANGHAI)[0] == us(2024, 4, 30, 16, 30)
    assert date_interval("2024-05-01T00:30:00Z", SHANGHAI)[0] == us(2024, 5, 1, 0, 30)


@pytest.mark.parametrize(("day", "hours"), [("2024-03-31", 23), ("2024-10-27", 25), ("2024-06-01", 24)])
def test_a_local_day_has_the_hours_it_had(day: str, hours: int) -> None:
    low, high = date_interval(day, BERLIN)
    assert high - low == hours * HOUR_US


def test_the_ends_of_the_calendar_are_dates() -> None:
    for text in ("0001", "0001-01-01", "9999", "9999-12", "9999-12-31", "9999-12-31T23:59:59.999Z"):
        for zone in (UTC, SHANGHAI, ZoneInfo("America/New_York")):
            low, high = date_interval(text, zone)
            assert low < high


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2024-13",
        "2024-02-30",
        "2023-02-29",
        "2024-5-1",
        "24-05-01",
        "0000-01-01",
        "2024-05-01T",
        "2024-05-01T24:00",
        "2024-05-01T10:60",
        "2024-05-01T10:30:61",
        "2024-05-01T10:30+08:00:00",
        "2024-05-01T10:30:00+15:00",
        "2024-05-01T10:30:00+08:60",
        "2024-05-01 10:30",
        "2024-05-01Z",
        "２０２４",
        "2024\n",
    ],
)
def test_what_is_no_date_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - datetime words its own
        date_interval(text, UTC)


@given(st.integers(min_value=-2_000_000_000, max_value=7_000_000_000), st.sampled_from([SHANGHAI, BERLIN]))
def test_a_moment_lies_in_its_own_day(time_s: int, zone: ZoneInfo) -> None:
    moment = datetime.fromtimestamp(time_s, zone)
    low, high = date_interval(moment.date().isoformat(), zone)
    second, _ = date_interval(moment.isoformat(), zone)
    assert low <= second < high
    year_low, year_high = date_interval(f"{moment.year:04}", zone)
    assert year_low <= low < high <= year_high


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("100", 99.5, 100.5),
        ("100.00", 99.995, 100.005),
        ("1e2", 95.0, 105.0),  # R4's own example.
        ("1.00e2", 99.5, 100.5),
        ("-5.4", -5.45, -5.35),
        ("0", -0.5, 0.5),
        ("0.0", -0.05, 0.05),
        ("+7", 6.5, 7.5),
    ],
)
def test_a_number_covers_half_a_unit_of_its_last_digit(text: str, low: float, high: float) -> None:
    assert number_interval(text) == (low, high)


def test_more_digits_than_a_double_has_still_cover_the_value() -> None:
    low, high = number_interval("72.500000000000000000000001")
    assert low == 72.5
    assert high > low


@pytest.mark.parametrize("text", ["", "abc", "1,5", "0x10", "nan", "inf", "1e400", "1e", ".5", "1" * 65, "１", "1\n"])
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a number|beyond a double"):
        number_interval(text)
