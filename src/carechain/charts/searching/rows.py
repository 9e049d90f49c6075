"""The rows of the index tables that one resource makes (API-1)."""

from msgspec import Struct


class IndexRows(Struct, kw_only=True, array_like=True):
    """The rows of one resource, without repetition; the columns of each table that follow ``rid``.

    tokens: (param, value); references: (param, target); strings: (param, folded, exact); dates: (param, low_us,
    high_us), half-open; numbers: (param, unit, low, high), a plain number having ``low == high``.
    """

    tokens: list[tuple[int, int]]
    references: list[tuple[int, int]]
    strings: list[tuple[int, str, str]]
    dates: list[tuple[int, int, int]]
    numbers: list[tuple[int, int, float, float]]

    def __repr__(self) -> str:
        return "IndexRows()"
