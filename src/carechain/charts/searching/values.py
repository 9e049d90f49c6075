"""The comparable forms of what resources and queries say: folded text, intervals of time, intervals of numbers.

Both sides of a search go through the same functions, so that a name written full-width, a date without an offset or a
number with fewer digits is found as R4 wants it (API-1, https://hl7.org/fhir/R4/search.html).
"""

import re
from datetime import UTC, date, datetime, timedelta, tzinfo
from decimal import Decimal
from functools import lru_cache
from math import inf, nextafter
from typing import Final
from unicodedata import normalize

from carechain.charts.searching.keys import term

STRING_CHARS: Final = 256
"""Text is compared so far: an index entry of two such texts still fits a page of either database."""
OPEN_US: Final = 2**62
"""Stands for a time that has no bound; the other side is ``-OPEN_US``."""
OPEN_NUMBER: Final = 1.7e308
"""Stands for a number that has no bound; the other side is ``-OPEN_NUMBER``. Infinity is not a value everywhere."""
DATES_REMEMBERED: Final = 16_384
NUMBER_CHARS: Final = 64
_EXPONENT_LIMIT: Final = 307
_SECOND_US: Final = 1_000_000
_MINUTE_US: Final = 60 * _SECOND_US
_DAY_US: Final = 24 * 60 * _MINUTE_US
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_ORDINAL: Final = _EPOCH.toordinal()
_MICROSECOND: Final = timedelta(microseconds=1)
_DIACRITICS: Final = re.compile("[\u0300-\u036f]")
_TIME: Final = re.compile(
    r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:T(\d\d):(\d\d)(?::(\d\d)(?:\.(\d+))?)?(Z|[+-]\d\d:\d\d)?)?)?)?", re.ASCII
)
_NUMBER: Final = re.compile(r"[+-]?\d+(?:\.(\d+))?(?:[eE]([+-]?\d{1,4}))?", re.ASCII)
_MONTHS: Final = 12
_LAST_HOUR: Final = 23
_LAST_MINUTE: Final = 59
_LEAP_SECOND: Final = 60
_LAST_OFFSET_MIN: Final = 14 * 60


def fold(text: str) -> str:
    """The form in which text is compared: full-width and half-width, case, accents and spacing make no difference.

    Only the accents of Latin, Greek and Cyrillic letters are dropped: in Japanese, Thai or Hindi the marks are letters.
    Cut to 256 characters.
    """
    text = text.replace("\0", "")
    # Twice, since case folding undoes some normal forms and stripping an accent may uncover a foldable letter.
    folded = text.lower() if text.isascii() else _bare(_bare(text))
    return " ".join(folded.split())[:STRING_CHARS].rstrip()


def _bare(text: str) -> str:
    return normalize("NFKC", _DIACRITICS.sub("", normalize("NFKD", normalize("NFKC", text).casefold())))


def exact(text: str) -> str:
    """Text as it was written, cut as :func:`fold` cuts; NUL, which PostgreSQL cannot hold, is left out."""
    return text.replace("\0", "")[:STRING_CHARS]


def composite_term(first: int, second: int) -> int:
    """Two values that one element has together; each is a term of ``keys``, or ``ANY_UNIT``.

    In a composite's own rows: token and token (or reference and token) as one token; token and quantity as the unit of
    a number.
    """
    return term(f"k|{first}|{second}")


def of_type_term(system: str, code: str, value: str) -> int:
    """An identifier by its type's coding and its folded value, for ``:of-type``."""
    return term(f"ot|{system}|{code}|{value}")


def fold_identifier(text: str) -> str:
    """An identifier's value without what hands and keyboards vary: full-width digits and letters, outer spaces."""
    return text.strip() if text.isascii() else normalize("NFKC", text).strip()


@lru_cache(maxsize=DATES_REMEMBERED)
def date_interval(text: str, zone: tzinfo) -> tuple[int, int]:
    """What a FHIR date, dateTime or instant covers: [low, high) in microseconds since 1970 UTC.

    A value without an offset counts in ``zone``, so ``2024-03-10`` is the local day and may have 23 or 25 hours. A
    fraction covers its last digit, to the microsecond. Raises ValueError for what is not a date.
    """
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError("not a FHIR date")
    year, month, day, hour, minute, second, fraction, offset = match.groups()
    if hour is None:
        return _days(int(year), int(month) if month else None, int(day) if day else None, zone)
    whole_us, width_us = _clock_us(int(hour), int(minute), second, fraction)
    ordinal = date(int(year), int(month), int(day)).toordinal()
    if offset is None:
        # The wall clock's own arithmetic: a leap second or a fraction is added after the zone has been applied.
        low_us = _us(datetime(int(year), int(month), int(day), int(hour), int(minute), tzinfo=zone))
        low_us += whole_us - (int(hour) * 60 + int(minute)) * _MINUTE_US
    else:
        low_us = (ordinal - _EPOCH_ORDINAL) * _DAY_US + whole_us - _offset_us(offset)
    return low_us, low_us + width_us


def _clock_us(hour: int, minute: int, second: str | None, fraction: str | None) -> tuple[int, int]:
    """Microseconds since midnight, and how many microseconds the written precision covers."""
    seconds = int(second) if second else 0
    if hour > _LAST_HOUR or minute > _LAST_MINUTE or seconds > _LEAP_SECOND:
        raise ValueError("not a time of day")
    whole_us = (hour * 60 + minute) * _MINUTE_US + seconds * _SECOND_US
    if second is None:
        return whole_us, _MINUTE_US
    if fraction is None:
        return whole_us, _SECOND_US
    digits = fraction[:6]
    width_us = 10 ** (6 - len(digits))
    return whole_us + int(digits) * width_us, width_us


def _offset_us(offset: str) -> int:
    if offset == "Z":
        return 0
    minutes = int(offset[1:3]) * 60 + int(offset[4:])
    if minutes > _LAST_OFFSET_MIN or int(offset[4:]) > _LAST_MINUTE:
        raise ValueError("not an offset")
    return (-minutes if offset[0] == "-" else minutes) * _MINUTE_US


def _days(year: int, month: int | None, day: int | None, zone: tzinfo) -> tuple[int, int]:
    """The interval of a year, a month or a day in the zone."""
    first = date(year, month or 1, day or 1)
    if day:
        after = first.toordinal() + 1
    elif month and month < _MONTHS:
        after = date(year, month + 1, 1).toordinal()
    else:
        after = date(year, _MONTHS, 31).toordinal() + 1
    low_us = _us(datetime(first.year, first.month, first.day, tzinfo=zone))
    if after > date.max.toordinal():
        return low_us, (after - _EPOCH_ORDINAL) * _DAY_US
    return low_us, _us(datetime.fromordinal(after).replace(tzinfo=zone))


def _us(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


def number_interval(text: str) -> tuple[float, float]:
    """What a number in a query stands for: [low, high), half a unit of its last digit to both sides.

    ``100`` is [99.5, 100.5), ``100.00`` is [99.995, 100.005), ``1.00e2`` as ``100``. R4 gives ``1e2`` as [95, 105): a
    single digit before an exponent counts as two. Raises ValueError for what is not a number or beyond a double.
    """
    match = _NUMBER.fullmatch(text)
    if match is None or len(text) > NUMBER_CHARS:
        raise ValueError("not a number")
    fraction, exponent = match.groups()
    value = Decimal(text)
    if value and abs(value.adjusted()) > _EXPONENT_LIMIT:
        raise ValueError("beyond a double")
    last_digit = int(exponent or 0) - len(fraction or "")
    if exponent and not fraction:
        last_digit -= 1
    half = Decimal((0, (5,), last_digit - 1))
    low, high = float(value - half), float(value + half)
    # More digits than a double has: the neighbourhood shrinks to the value itself.
    return (low, high) if low < high else (low, nextafter(low, inf))
