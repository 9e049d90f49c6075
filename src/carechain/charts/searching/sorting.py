"""The order of a result and the place in it where the next page begins.

Without ``_sort`` the order is that of the indexes: shelf, clinical day, then row, the last first, so that among one
patient's records of a kind the newest comes first. With ``_sort``, resources without a value come last in both
directions, and the row number decides between equals.

A page begins behind a place and not after a number of rows: what is written or hidden meanwhile shifts nothing, and
page ten costs what page one costs.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Final

import msgspec
from msgspec import Struct
from sqlalchemy import ColumnElement, FromClause, UnaryExpression, and_, or_, tuple_

from carechain.charts.searching.codes import BadParameter, SearchCode
from carechain.charts.searching.tree import SearchQuery

Key = int | float | str

DIGEST_SIZE: Final = 8


class Place(Struct, frozen=True, array_like=True):
    """The last resource of a page: which part of the query it is from, and the values it is ordered by.

    ``keys`` hold values of the resource, so a place must be encrypted before it leaves the server.
    """

    query: bytes
    part: int
    keys: tuple[Key, ...]


def digest(query: SearchQuery) -> bytes:
    """What a place belongs to: the conditions and the order, not the page size or what is included."""
    said = msgspec.msgpack.encode((query.parts, query.sort))
    return blake2b(said, digest_size=DIGEST_SIZE).digest()


def write_place(query: SearchQuery, part: int, keys: Sequence[Key]) -> bytes:
    """The token of the next page."""
    return msgspec.msgpack.encode(Place(query=digest(query), part=part, keys=tuple(keys)))


def read_place(query: SearchQuery, token: bytes) -> Place:
    """Where the next page begins. Raises ``BadParameter(BAD_PAGE)`` for a token of another query."""
    try:
        place = msgspec.msgpack.decode(token, type=Place)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise BadParameter(SearchCode.BAD_PAGE, "") from None
    # By shelf, day and row; or each key's rank and value, and the row.
    expected = 2 * len(query.sort) + 1 if query.sort else 3
    if place.query != digest(query) or len(place.keys) != expected or not 0 <= place.part < len(query.parts):
        raise BadParameter(SearchCode.BAD_PAGE, "")
    return place


def natural_order(table: FromClause) -> tuple[UnaryExpression[Any], ...]:
    """Shelf, day and row of a table, the last first."""
    return table.c.shelf.desc(), table.c.day.desc(), table.c.rid.desc()


def behind(table: FromClause, place: Place | None) -> tuple[ColumnElement[bool], ...]:
    """What comes after the place in the natural order; everything without a place."""
    if place is None:
        return ()
    shelf, day, rid = place.keys
    return (tuple_(table.c.shelf, table.c.day, table.c.rid) < tuple_(shelf, day, rid),)


def behind_sorted(
    columns: Sequence[ColumnElement[Any]], descending: Sequence[bool], keys: Sequence[Key]
) -> ColumnElement[bool]:
    """What comes after the keys where each column has a direction of its own."""
    steps = []
    for place, (column, down, key) in enumerate(zip(columns, descending, keys, strict=True)):
        equal = [one == value for one, value in zip(columns[:place], keys[:place], strict=True)]
        steps.append(and_(*equal, column < key if down else column > key))
    return or_(*steps)
