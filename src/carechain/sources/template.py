"""Templates: how rows of a query become one FHIR resource, and always the same bytes for the same rows (REC-4, API-1).

A template is JSON. In its texts ``{column}`` stands for a value of the row, ``{column|kind}`` for one that is written
as a date, a date and time, a number or yes/no, and ``{column|code:table}`` for one that is looked up in a table of
codes; ``{{`` and ``}}`` are braces. What is empty in the row is left out, and so is an object or a list that has
nothing left. An object with ``"$when": "column"`` is left out where that column is empty. An object in a list with
``"$each": "column"`` is there once for every different value of that column among the rows of a result.

Values are never guessed at: what does not fit is refused with the query and the place, never with the value.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final, TypeVar
from zoneinfo import ZoneInfo

from msgspec import Struct

from carechain.sources.base import Unmapped
from carechain.sources.codes import SourceCode
from carechain.sources.jsontext import Number, write

Row = Mapping[str, Any]
"""A row's values by column name in small letters."""
Codes = Mapping[str, Mapping[str, str]]
"""Tables of codes by name: what the system says to what FHIR says; ``*`` stands for everything else."""

_T = TypeVar("_T")
_EACH: Final = "$each"
_WHEN: Final = "$when"
_OTHERS: Final = "*"
_PLACEHOLDER: Final = re.compile(
    r"\{\{|\}\}|\{(?P<column>[A-Za-z_]\w*)(?:\|(?P<kind>[a-z]+)(?::(?P<table>[\w-]+))?)?\}|[{}]"
)
_NUMBER: Final = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?", re.ASCII)
_YES_NO: Final = {
    "1": True,
    "0": False,
    "true": True,
    "false": False,
    "t": True,
    "f": False,
    "\x01": True,
    "\x00": False,
}
_EXACT_WHOLE: Final = 2.0**53


class _Unfit(Exception):  # noqa: N818 - names what is wrong with a value
    """A value is not what the template says; where that was is known one level up."""

    def __init__(self, why: SourceCode) -> None:
        super().__init__(why.label)
        self.why = why


class _Absent:
    """What a part of a template is when there is nothing to say."""


_ABSENT: Final = _Absent()
_Rendered = Any
_Node = Callable[["_Scope"], _Rendered]


class _Scope(Struct, frozen=True):
    """The rows a part of a template speaks of, and where it stands."""

    query: str
    rows: Sequence[Row]

    def value(self, column: str, place: str) -> Any:  # noqa: ANN401 - whatever the database has
        """The one value of a column among the rows; None where it is empty."""
        found = [self._plain(row, column, place) for row in self.rows]
        first = found[0]
        if any(one != first for one in found[1:]):
            raise Unmapped(SourceCode.AMBIGUOUS_ROWS, self.query, place)
        return first

    def _plain(self, row: Row, column: str, place: str) -> object:
        try:
            return _plain(row[column])
        except UnicodeDecodeError:
            raise Unmapped(SourceCode.VALUE_UNREADABLE, self.query, place) from None

    def parts(self, column: str, place: str) -> list["_Scope"]:
        """The rows apart by the values of a column, in the order of these values; rows without one are left out."""
        groups: dict[str, list[Row]] = {}
        for row in self.rows:
            value = self._plain(row, column, place)
            if value is not None:
                groups.setdefault(f"{type(value).__name__}:{value}", []).append(row)
        return [_Scope(self.query, groups[name]) for name in sorted(groups)]


class Template:
    """A compiled template of one query. Safe to use from several threads."""

    def __init__(self, node: _Node, columns: frozenset[str], query: str) -> None:
        self.columns = columns
        """The columns it needs, in small letters."""
        self._node = node
        self._query = query

    def render(self, rows: Sequence[Row]) -> bytes:
        """The resource that the rows of one result stand for. Raises :class:`Unmapped`."""
        tree = self._node(_Scope(self._query, rows))
        return write({} if tree is _ABSENT else tree)


def compile_template(text: str, *, query: str, codes: Codes, zone: ZoneInfo) -> Template:
    """Read a template. ``zone`` is where times without an offset were written.

    Raises :class:`Unmapped` with ``TEMPLATE_MALFORMED`` and the place.
    """
    compiler = _Compiler(query, codes, zone)
    try:
        tree = json.loads(text, object_pairs_hook=_once, parse_float=Number, parse_int=Number)
    except (ValueError, RecursionError):
        raise Unmapped(SourceCode.TEMPLATE_MALFORMED, query) from None
    if (
        not isinstance(tree, dict)
        or not isinstance(tree.get("resourceType"), str)
        or not isinstance(tree.get("id"), str)
    ):
        raise Unmapped(SourceCode.TEMPLATE_MALFORMED, query, "resourceType and id")
    node = compiler.node(tree, "")
    return Template(node, frozenset(compiler.columns), query)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) != len(pairs):
        raise ValueError("a key stands twice")
    return tree


class _Compiler:
    def __init__(self, query: str, codes: Codes, zone: ZoneInfo) -> None:
        self.columns: set[str] = set()
        self._query = query
        self._codes = codes
        self._zone = zone

    def node(self, tree: object, place: str) -> _Node:
        if isinstance(tree, dict):
            return self._object(tree, place)
        if isinstance(tree, list):
            return self._list(tree, place)
        if isinstance(tree, str) and not isinstance(tree, Number):
            return self._text(tree, place)
        if tree is None:
            raise self._malformed(place)
        return lambda _: tree

    def _object(self, tree: dict[str, Any], place: str) -> _Node:
        when = self._condition(tree.get(_WHEN), place)
        fields = [
            (name, self.node(value, f"{place}.{name}" if place else name))
            for name, value in tree.items()
            if name not in (_WHEN, _EACH)
        ]

        def render(scope: _Scope) -> _Rendered:
            if when is not None and scope.value(when, place) is None:
                return _ABSENT
            rendered = ((name, field(scope)) for name, field in fields)
            return {name: value for name, value in rendered if value is not _ABSENT} or _ABSENT

        return render

    def _list(self, items: list[Any], place: str) -> _Node:
        nodes = [self._item(one, f"{place}[{number}]") for number, one in enumerate(items)]

        def render(scope: _Scope) -> _Rendered:
            found = [one for node in nodes for one in node(scope) if one is not _ABSENT]
            return _each_once(found) or _ABSENT

        return render

    def _item(self, tree: object, place: str) -> Callable[[_Scope], Iterable[_Rendered]]:
        node = self.node(tree, place)
        each = self._condition(tree.get(_EACH), place) if isinstance(tree, dict) else None
        if each is None:
            return lambda scope: (node(scope),)
        return lambda scope: [node(part) for part in scope.parts(each, place)]

    def _condition(self, column: object, place: str) -> str | None:
        if column is None:
            return None
        if not isinstance(column, str) or not column.isidentifier():
            raise self._malformed(place)
        self.columns.add(column.lower())
        return column.lower()

    def _text(self, text: str, place: str) -> _Node:
        parts: list[str | _Node] = []
        at = 0
        for found in _PLACEHOLDER.finditer(text):
            parts.append(text[at : found.start()])
            parts.append(self._placeholder(found, place))
            at = found.end()
        parts.append(text[at:])
        parts = [one for one in parts if one != ""]
        if len(parts) == 1 and not isinstance(parts[0], str):
            return parts[0]
        if all(isinstance(one, str) for one in parts):
            constant = "".join(one for one in parts if isinstance(one, str))
            return lambda _: constant

        def render(scope: _Scope) -> _Rendered:
            said = [one if isinstance(one, str) else one(scope) for one in parts]
            return _ABSENT if any(one is _ABSENT for one in said) else "".join(map(_as_text, said))

        return render

    def _placeholder(self, found: "re.Match[str]", place: str) -> str | _Node:
        if found[0] in ("{{", "}}"):
            return found[0][0]
        if found["column"] is None:
            raise self._malformed(place)
        column, kind = found["column"].lower(), found["kind"] or "text"
        write_as = self._kind(kind, found["table"], place)
        self.columns.add(column)

        def render(scope: _Scope) -> _Rendered:
            value = scope.value(column, place)
            if value is None:
                return _ABSENT
            try:
                return write_as(value)
            except _Unfit as unfit:
                raise Unmapped(unfit.why, scope.query, place) from None

        return render

    def _kind(self, kind: str, table: str | None, place: str) -> Callable[[Any], _Rendered]:
        if kind == "code" and table is not None and table in self._codes:
            codes = self._codes[table]
            return lambda value: _coded(value, codes)
        kinds: dict[str, Callable[[Any], _Rendered]] = {
            "boolean": _yes_no,
            "date": _date,
            "datetime": lambda value: _moment(value, self._zone),
            "number": _number,
            "text": lambda value: _text_of(value, self._zone),
        }
        if kind not in kinds or table is not None:
            raise self._malformed(place)
        return kinds[kind]

    def _malformed(self, place: str) -> Unmapped:
        return Unmapped(SourceCode.TEMPLATE_MALFORMED, self._query, place)


def _each_once(items: list[_T]) -> list[_T]:
    """Joined rows repeat what they have in common; a list says it once."""
    return list({write(one): one for one in items}.values())


def _plain(value: object) -> object:
    """A value as Python has it; None for what FHIR knows no empty form of."""
    if isinstance(value, bytes | bytearray | memoryview):
        value = bytes(value).decode()
    if isinstance(value, str):
        return value.strip(" \t\r\n") or None
    return value


def _as_text(value: object) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def _text_of(value: object, zone: ZoneInfo) -> str:
    if isinstance(value, datetime):
        return _moment(value, zone)
    if isinstance(value, bool):
        return _as_text(value)
    if isinstance(value, Decimal | float):
        return str(_number(value))
    return value.isoformat() if isinstance(value, date) else str(value)


def _coded(value: object, codes: Mapping[str, str]) -> str:
    found = codes.get(_as_text(value), codes.get(_OTHERS))
    if found is None:
        raise _Unfit(SourceCode.VALUE_UNKNOWN)
    return found


def _yes_no(value: object) -> bool:
    found = _YES_NO.get(_as_text(value).lower())
    if found is None:
        raise _Unfit(SourceCode.VALUE_UNREADABLE)
    return found


def _number(value: object) -> Number:
    """As exact as the database has it: 72.50 stays 72.50 where the column is a decimal."""
    if isinstance(value, Decimal) and value.is_finite():
        return Number(format(value, "f"))
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT_WHOLE:
        return Number(str(int(value)))
    text = "" if isinstance(value, bool) else repr(value) if isinstance(value, float) else str(value)
    if _NUMBER.fullmatch(text) is None:
        raise _Unfit(SourceCode.VALUE_UNREADABLE)
    return Number(text)


def _date(value: object) -> str:
    if isinstance(value, datetime):
        return value.date().isoformat()
    if isinstance(value, date):
        return value.isoformat()
    return _parsed(value).date().isoformat()


def _moment(value: object, zone: ZoneInfo) -> str:
    """A FHIR dateTime; what has no offset was written in ``zone``, and what has one is shown there."""
    if isinstance(value, date) and not isinstance(value, datetime):
        return value.isoformat()
    moment = value if isinstance(value, datetime) else _parsed(value)
    local = moment.replace(tzinfo=zone) if moment.tzinfo is None else moment.astimezone(zone)
    return local.isoformat(timespec="microseconds" if local.microsecond else "seconds")


def _parsed(value: object) -> datetime:
    """Where dates are texts, as in SQLite."""
    try:
        return datetime.fromisoformat(str(value))
    except ValueError:
        raise _Unfit(SourceCode.VALUE_UNREADABLE) from None
