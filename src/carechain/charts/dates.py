"""FHIR dates (R4 datatypes date, dateTime, instant) as clinical days since 1900-01-01."""

import re
from datetime import date
from typing import Final

from carechain.charts.codes import ChartsCode
from carechain.core.rejection import Rejected
from carechain.core.units import DAY_S

EPOCH: Final = date(1900, 1, 1).toordinal()
UNIX_EPOCH: Final = date(1970, 1, 1).toordinal() - EPOCH

_DATE: Final = re.compile(
    r"(?P<year>\d{4})(?:-(?P<month>\d\d)(?:-(?P<day>\d\d)"
    r"(?:T(?:[01]\d|2[0-3]):[0-5]\d(?::(?:[0-5]\d|60)(?:\.\d{1,9})?)?(?:Z|[+-](?:0\d|1[0-4]):[0-5]\d)?)?)?)?",
    re.ASCII,
)


def day_of(text: str) -> int:
    """The clinical day a FHIR date names, as written (the local calendar day of whoever wrote it).

    A date without a day or month counts as its first day; one before 1900 counts as day 0, so that a window
    open to the past still covers it. Raises ``Rejected(IMPOSSIBLE_DATE)`` for anything that is not a date of
    the calendar; the text is not repeated.
    """
    found = _DATE.fullmatch(text)
    if found is None:
        raise Rejected(ChartsCode.IMPOSSIBLE_DATE)
    year, month, day = (int(found[name] or 1) for name in ("year", "month", "day"))
    try:
        return max(0, date(year, month, day).toordinal() - EPOCH)
    except ValueError:
        raise Rejected(ChartsCode.IMPOSSIBLE_DATE) from None


def day_of_unix(time_s: int) -> int:
    """The clinical day of a Unix time in seconds, in UTC."""
    return UNIX_EPOCH + time_s // DAY_S
