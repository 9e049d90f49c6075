"""How a resource's value compares with a query's, as SQL: FHIR's prefixes and modifiers, and what an index can seek.

https://hl7.org/fhir/R4/search.html#prefix
"""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, FromClause, String, and_, literal_column, not_, or_

from carechain.charts.listed import listed
from carechain.charts.searching.tree import Compare, Dates, Match, Node, Numbers, Strings, Updated
from carechain.charts.searching.values import STRING_CHARS, fold

Condition = ColumnElement[bool]
_LAST_CHARACTER: Final = "\U0010ffff"


def compared(
    compare: Compare, low: ColumnElement[Any], high: ColumnElement[Any], query_low: int, query_high: int
) -> Condition:
    """FHIR's prefixes between a resource's interval and the query's; both are closed below and open above."""
    within = and_(low >= query_low, low < query_high, high <= query_high)
    match compare:
        case Compare.EQ:
            return within
        case Compare.NE:
            return not_(within)
        case Compare.GT:
            return high > query_high
        case Compare.LT:
            return low < query_low
        # What stands before the alternatives follows from them, and is what an index can seek.
        case Compare.GE:
            return and_(high > query_low, or_(low >= query_low, high > query_high))
        case Compare.LE:
            return and_(low < query_high, or_(high <= query_high, low < query_low))
        case Compare.SA:
            return low >= query_high
        case Compare.EB:
            return and_(high <= query_low, low < query_low)
        case Compare.AP:
            return and_(low < query_high, high > query_low)


def moment_compared(node: Updated, moment: ColumnElement[int]) -> Condition:
    """As :func:`compared` for a single moment, in a form that an index on it can seek."""
    match node.compare:
        case Compare.EQ | Compare.AP:
            return and_(moment >= node.low_us, moment < node.high_us)
        case Compare.NE:
            return or_(moment < node.low_us, moment >= node.high_us)
        case Compare.GT | Compare.SA:
            return moment >= node.high_us
        case Compare.LT | Compare.EB:
            return moment < node.low_us
        case Compare.GE:
            return moment >= node.low_us
        case Compare.LE:
            return moment < node.high_us


def number_compared(node: Numbers, low: ColumnElement[float], high: ColumnElement[float]) -> Condition:
    """Numbers are points, or ranges of which both ends count; the digits of the query matter for equality only."""
    within = and_(low >= node.low, low < node.high, high < node.high)
    match node.compare:
        case Compare.EQ:
            return within
        case Compare.NE:
            return not_(within)
        case Compare.GT:
            return high > node.value
        case Compare.LT:
            return low < node.value
        case Compare.GE:
            return high >= node.value
        case Compare.LE:
            return low <= node.value
        case Compare.SA:
            return low > node.value
        case Compare.EB:
            return and_(low < node.value, high < node.value)
        case Compare.AP:
            return and_(low < node.high, high >= node.low)


def text_matched(node: Strings, folded: ColumnElement[str], exact: ColumnElement[str]) -> Condition:
    """Whether a text matches: as a whole, by its beginning, or somewhere."""
    if node.match is Match.EXACT:
        # The folded form is what the index has first; it follows from the exact one unless that was cut.
        return (
            and_(folded == fold(node.text), exact == node.text) if len(node.text) < STRING_CHARS else exact == node.text
        )
    if node.match is Match.CONTAINS:
        return folded.contains(node.text, autoescape=True)
    # A range and not LIKE: that is what an index by code points can seek in either database.
    return and_(folded >= node.text, folded < node.text + _LAST_CHARACTER)


def unindexed(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """The column's value, said so that no index on it is tried.

    Without statistics SQLite takes a range of values for narrower than the few rows of one resource.
    """
    nothing: ColumnElement[Any] = literal_column("''" if isinstance(column.type, String) else "0")
    return column.concat(nothing) if isinstance(column.type, String) else column + nothing


def itself(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """The column as an index has it."""
    return column


def of_type(table: FromClause, resource_type: str) -> Condition:
    """Whether a row of ``live`` that was found by its key is of a type; said so that no index by type is tried."""
    return unindexed(table.c.resource_type) == resource_type


def one_of(column: ColumnElement[Any], values: Sequence[Any]) -> Condition:
    """Whether a column has one of some values; a single one is said as an equality."""
    condition: Condition
    if len(values) == 1:
        condition = column == values[0]
    else:
        condition = column.in_(values) if isinstance(column.type, String) else listed(column, values)
    return condition


def in_one_piece(node: Node) -> bool:
    """Whether an index on the value has what a condition asks for as one range."""
    match node:
        case Strings(match=how):
            return how is not Match.CONTAINS
        case Numbers(compare=how):
            return how in {Compare.EQ, Compare.LT, Compare.LE, Compare.SA, Compare.EB, Compare.AP}
        case Dates(compare=how) | Updated(compare=how):
            return how is not Compare.NE
        case _:
            return True
