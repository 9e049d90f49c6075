"""A search's conditions as SQL, with the caller's sight in every table reference (API-1, CON-1).

Two ways to say the same condition. ``holds`` asks it of one resource, by the clustered key (rid, param) of the index
tables. ``arms`` lists the resources that meet it, through the index on the value, whose next column is the shelf: so
rows that may not be seen are skipped by the index itself, and what is read grows with what may be seen.

``EXISTS`` carries an ``OFFSET 0``: neither database then turns it into a join, and a result of twenty rows costs twenty
questions however large the tables are.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import (
    BindParameter,
    ColumnElement,
    FromClause,
    Integer,
    Select,
    Table,
    and_,
    bindparam,
    case,
    column,
    exists,
    false,
    func,
    literal_column,
    not_,
    or_,
    select,
    true,
)

from carechain.charts.index_schema import (
    date_index,
    live,
    number_index,
    reference_index,
    string_index,
    token_index,
)
from carechain.charts.listed import NumberList, listed
from carechain.charts.live import Visible
from carechain.charts.resource_types import DIRECTORY
from carechain.charts.searching.comparing import (
    Condition,
    compared,
    in_one_piece,
    itself,
    moment_compared,
    number_compared,
    of_type,
    one_of,
    text_matched,
    unindexed,
)
from carechain.charts.searching.keys import ANY_UNIT, resource_term
from carechain.charts.searching.tree import (
    AllOf,
    Among,
    AnyOf,
    Chain,
    Dates,
    Has,
    Ids,
    IndexTable,
    Node,
    Not,
    Numbers,
    Present,
    References,
    SortKey,
    Strings,
    Tokens,
    Updated,
)

Rid = ColumnElement[int]

TABLES: Final[dict[IndexTable, Table]] = {
    IndexTable.TOKENS: token_index,
    IndexTable.REFERENCES: reference_index,
    IndexTable.STRINGS: string_index,
    IndexTable.DATES: date_index,
    IndexTable.NUMBERS: number_index,
}
_BY_NAME: Final = {table.name: table for table in (live, *TABLES.values())}
_SHELVES: Final[BindParameter[Any]] = bindparam("shelves", type_=NumberList("INTEGER"))
"""The shelves that the caller sees, once for a whole statement; :attr:`Sql.values` has them."""
_SEPARATE_ARMS: Final = 8
"""Values that are each looked up in order; more are looked up together and sorted."""


class Arm(Struct, frozen=True, kw_only=True):
    """A table and conditions under which its rows are resources looked for; ``shelf``, ``day`` and ``rid`` are in it.

    ``source`` is what to select from where that is more than the table (the shelves it is joined to).
    ``ordered``: an index gives the rows by shelf, day and rid. ``repeats``: a resource may come several times.
    """

    table: FromClause
    conditions: tuple[Condition, ...]
    source: FromClause | None = None
    ordered: bool = False
    repeats: bool = False

    @property
    def origin(self) -> FromClause:
        """What to select from."""
        return self.table if self.source is None else self.source

    def rows(self, *more: Condition) -> Select[Any]:
        """Shelf, day and rid of the rows that meet these and further conditions."""
        columns = self.table.c
        return select(columns.shelf, columns.day, columns.rid).select_from(self.origin).where(*self.conditions, *more)

    def sample(self, most: int) -> ColumnElement[int]:
        """How many rows there are, counted up to a bound."""
        bounded = select(literal_column("1")).select_from(self.origin).where(*self.conditions).limit(most).subquery()
        return select(func.count()).select_from(bounded).scalar_subquery()


class Sought(Struct, frozen=True, kw_only=True):
    """A table's rows in a statement: what names their columns, what to select from, and what to ask of it."""

    rows: FromClause
    source: FromClause
    conditions: tuple[Condition, ...]


@lru_cache(maxsize=1_024)
def _alias(name: str, number: int) -> FromClause:
    """A table under one more name. Remembered, since making one takes longer than the rest of a condition."""
    return _BY_NAME[name].alias(f"{name}_{number}")


@lru_cache(maxsize=1_024)
def _lateral(name: str, columns: tuple[str, ...], number: int) -> tuple[FromClause, FromClause]:
    """A table's rows by values of some columns and then by shelf, and what to select them from; remembered likewise.

    The values are parameters of the statement: :func:`_parameter`.
    """
    table = _alias(name, number)
    numbers: FromClause = func.unnest(_SHELVES).table_valued(column("shelf", Integer)).render_derived(f"by_{number}")
    rows = (
        select(table.c.shelf, table.c.day, table.c.rid)
        .where(*(table.c[one] == bindparam(_parameter(one, number)) for one in columns))
        .where(table.c.shelf == numbers.c.shelf)
        .correlate(numbers)
        .offset(0)
        .lateral(f"found_{number}")
    )
    return rows, numbers.join(rows, true())


def _parameter(name: str, number: int) -> str:
    return f"sought_{name}_{number}"


class Sql:
    """Conditions for one sight; holds no connection.

    ``values`` are parameters that the statements must be executed with.
    """

    def __init__(self, visible: Visible, *, laterally: bool) -> None:
        """``visible`` is the caller's sight in the snapshot that the statements will run in.

        ``laterally``: each shelf is sought by a lateral join of its own. PostgreSQL needs it: it takes a list of
        shelves for a filter where it believes a value to be rare, and then walks what is hidden. SQLite has no such
        joins, and needs none.
        """
        self.visible = visible
        self._aliases = 0
        self._shelves = tuple(dict.fromkeys(one for opening in visible.openings for one in opening.shelves))
        self.values: dict[str, Any] = {_SHELVES.key: self._shelves} if self._shelves else {}
        self._laterally = laterally and not visible.everything and len(self._shelves) > 1
        self._windowed = any(
            opening.first_day is not None or opening.last_day is not None or opening.records
            for opening in visible.openings
        )

    def alias(self, table: Table) -> FromClause:
        """The table under a name that no other table of this search has."""
        self._aliases += 1
        return _alias(table.name, self._aliases)

    # --- the sight ----------------------------------------------------------------------------------
    def seen(self, table: FromClause) -> tuple[Condition, ...]:
        """What makes a row of the table one that the caller may see; nothing for a sight of everything."""
        if self.visible.everything:
            return ()
        if not self._shelves:
            return (false(),)
        # The plain list comes first and alone, so that the index can seek the shelves whatever else is said of them.
        parts: list[Condition] = [listed(table.c.shelf, _SHELVES)]
        if self._windowed:
            parts.extend(self._window(table))
        return tuple(parts)

    def _window(self, table: FromClause) -> list[Condition]:
        if "record_id" in table.c:
            held = self.visible.of(table.c.shelf, table.c.day, table.c.record_id)
            return [] if held is None else [held]
        found = self.visible.of(table.c.shelf, table.c.day)
        parts = [] if found is None else [found]
        if self.visible.needs_record:
            place = self.alias(live)
            rid: Rid = table.c.rid
            parts.append(_exists(select(literal_column("1")).where(place.c.rid == rid, *self.seen(place)), rid))
        return parts

    def sought(self, table: FromClause, conditions: Sequence[Condition], *outer: FromClause) -> Sought:
        """Rows of a table by a value and then by shelf, as the caller may see them: where from, and which.

        ``outer`` are the tables of the enclosing statement that the conditions name.
        """
        if not self._laterally:
            return Sought(rows=table, source=table, conditions=(*conditions, *self.seen(table)))
        numbers: FromClause = func.unnest(_SHELVES).table_valued(column("shelf", Integer)).render_derived()
        window = self._window(table) if self._windowed else []
        rows = (
            select(table.c.shelf, table.c.day, table.c.rid)
            .where(*conditions, table.c.shelf == numbers.c.shelf, *window)
            .correlate(numbers, *outer)
            .offset(0)
            .lateral()
        )
        return Sought(rows=rows, source=numbers.join(rows, true()), conditions=())

    def scans(self, resource_type: str) -> bool:
        """Whether ranges of values may be walked: only where they hold nothing hidden, else hidden rows cost time."""
        return self.visible.everything or resource_type in DIRECTORY

    # --- asked of one resource ----------------------------------------------------------------------
    def holds(self, node: Node, rid: Rid) -> Condition:
        """Whether the condition holds for the resource of a row."""
        match node:
            case AllOf(nodes):
                return and_(true(), *(self.holds(one, rid) for one in nodes))
            case AnyOf(nodes):
                return or_(false(), *(self.holds(one, rid) for one in nodes))
            case Not(inner):
                return not_(self.holds(inner, rid))
            case Present(rows):
                return or_(false(), *(self._row(self.alias(TABLES[table]), param, rid) for table, param in rows))
            case Among(rids):
                return listed(rid, rids) if rids else false()
            case Ids() | Updated():
                place = self.alias(live)
                return _exists(
                    select(literal_column("1")).where(
                        place.c.rid == rid, *self._of_live(node, place), *self.seen(place)
                    ),
                    rid,
                )
            case Chain():
                return self._chained(node, rid)
            case Has():
                return self._referred(node, rid)
            case Tokens() | References() | Strings() | Dates() | Numbers():
                table, condition = self._leaf(node, unindexed)
                return self._row(table, node.param, rid, condition)

    def _row(self, table: FromClause, param: int, rid: Rid, *more: Condition) -> Condition:
        found: Select[Any] = select(literal_column("1")).select_from(table)
        return _exists(found.where(table.c.rid == rid, table.c.param == param, *more, *self.seen(table)), rid)

    def _leaf(
        self, node: Tokens | References | Strings | Dates | Numbers, form: Callable[[ColumnElement[Any]], Any]
    ) -> tuple[FromClause, Condition]:
        """The index table of a condition on a value, and the condition; ``form`` is how ranges name a column."""
        match node:
            case Tokens():
                table = self.alias(token_index)
                return table, one_of(table.c.value, node.values) if node.values else false()
            case References():
                table = self.alias(reference_index)
                return table, one_of(table.c.target, node.targets) if node.targets else false()
            case Strings():
                table = self.alias(string_index)
                return table, text_matched(node, form(table.c.folded), form(table.c.exact))
            case Dates():
                table = self.alias(date_index)
                low, high = form(table.c.low_us), form(table.c.high_us)
                return table, compared(node.compare, low, high, node.low_us, node.high_us)
            case Numbers():
                table = self.alias(number_index)
                number = number_compared(node, form(table.c.low), form(table.c.high))
                return table, and_(table.c.unit == node.unit, number)

    def _of_live(self, node: Ids | Updated, place: FromClause) -> tuple[Condition, ...]:
        if isinstance(node, Ids):
            return (one_of(place.c.resource_id, node.ids) if node.ids else false(),)
        return (moment_compared(node, place.c.updated_us),)

    def _chained(self, node: Chain, rid: Rid) -> Condition:
        # One question inside the other, not a join: the order in which the tables are read is then given.
        link, target = self.alias(reference_index), self.alias(live)
        key: Rid = link.c.target
        leads: Select[Any] = select(literal_column("1")).where(
            target.c.key == key,
            of_type(target, node.resource_type),
            *self.seen(target),
            self.holds(node.inner, target.c.rid),
        )
        return self._row(link, node.param, rid, _exists(leads, key))

    def _referred(self, node: Has, rid: Rid) -> Condition:
        link, target = self.alias(reference_index), self.alias(live)
        key: Rid = target.c.key
        links = self.sought(link, (link.c.param == node.param, link.c.target == key), target)
        refers: Select[Any] = (
            select(literal_column("1"))
            .select_from(links.source)
            .where(*links.conditions, self.holds(node.inner, links.rows.c.rid))
        )
        found: Select[Any] = select(literal_column("1")).where(
            target.c.rid == rid,
            of_type(target, node.resource_type),
            *self.seen(target),
            _exists(refers, key),
        )
        return _exists(found, rid)

    # --- listed through an index --------------------------------------------------------------------
    def all_of_type(self, resource_type: str) -> Arm:
        """Every resource of a type, in order."""
        return self._by(live, resource_type=resource_type)

    def _by(self, table: Table, **values: str | int) -> Arm:
        """The resources with some values in columns of a table."""
        if self._laterally and not self._windowed:
            self._aliases += 1
            number = self._aliases
            rows, source = _lateral(table.name, tuple(values), number)
            self.values |= {_parameter(name, number): value for name, value in values.items()}
            return Arm(table=rows, source=source, conditions=())
        one = self.alias(table)
        return self._arm(one, *(one.c[name] == value for name, value in values.items()))

    def _arm(self, table: FromClause, *conditions: Condition, repeats: bool = False) -> Arm:
        """What an index has by a value and then by shelf, day and row."""
        place = self.sought(table, conditions)
        return Arm(
            table=place.rows,
            source=place.source,
            conditions=place.conditions,
            ordered=not repeats and place.rows is table,
            repeats=repeats,
        )

    def arms(self, node: Node, resource_type: str) -> tuple[Arm, ...] | None:
        """The resources that meet a condition on a value, by seeking it; None where no index can be sought."""
        match node:
            case Tokens(param, values):
                return self._equal(token_index, "value", param, values)
            case References(param, targets):
                return self._equal(reference_index, "target", param, targets)
            case Ids(ids):
                place = self.alias(live)
                keys = [resource_term(resource_type, one) for one in ids]
                by_key = (listed(place.c.key, keys), place.c.resource_type == resource_type)
                named = (*by_key, *self._of_live(node, place), *self.seen(place))
                return (Arm(table=place, conditions=named),) if ids else ()
            case Among(rids):
                place = self.alias(live)
                named = (place.c.resource_type == resource_type, listed(place.c.rid, rids), *self.seen(place))
                return (Arm(table=place, conditions=named),) if rids else ()
            case AnyOf(nodes):
                return self._alternatives(nodes, resource_type)
            case AllOf(nodes):
                return self._together(nodes, resource_type)
            case _:
                return None

    def _equal(self, table: Table, value: str, param: int, values: tuple[int, ...]) -> tuple[Arm, ...]:
        groups: list[tuple[int, ...]] = [values] if values else []
        if self.visible.everything and len(values) <= _SEPARATE_ARMS:
            groups = [(one,) for one in values]
        arms = []
        for group in groups:
            if len(group) == 1:
                arms.append(self._by(table, **{"param": param, value: group[0]}))
                continue
            one = self.alias(table)
            arms.append(self._arm(one, one.c.param == param, one_of(one.c[value], group), repeats=True))
        return tuple(arms)

    def _alternatives(self, nodes: Sequence[Node], resource_type: str) -> tuple[Arm, ...] | None:
        arms: list[Arm] = []
        for node in nodes:
            some = self.arms(node, resource_type)
            if some is None:
                return None
            arms.extend(some)
        return tuple(arms)

    def _together(self, nodes: Sequence[Node], resource_type: str) -> tuple[Arm, ...] | None:
        for place, node in enumerate(nodes):
            arms = self.arms(node, resource_type)
            if arms is not None:
                others = [one for at, one in enumerate(nodes) if at != place]
                return tuple(self.with_conditions(arm, others) for arm in arms)
        return None

    def with_conditions(self, arm: Arm, nodes: Sequence[Node]) -> Arm:
        """The arm's resources that meet further conditions."""
        asked = tuple(self.holds(node, arm.table.c.rid) for node in nodes)
        return replace(arm, conditions=arm.conditions + asked)

    def range_arms(self, node: Node, resource_type: str, *, sought: bool = False) -> tuple[Arm, ...] | None:
        """The resources that meet a condition on a range of values, by walking it; None where that is no use.

        ``sought``: only where the index has the range in one piece, so that counting it up to a bound costs little.
        """
        if not self.scans(resource_type) or (sought and not in_one_piece(node)):
            return None
        match node:
            case Strings() | Dates() | Numbers():
                table, condition = self._leaf(node, itself)
                conditions = (table.c.param == node.param, condition, *self.seen(table))
                return (Arm(table=table, conditions=conditions, repeats=True),)
            case Updated():
                place = self.alias(live)
                changed = (place.c.resource_type == resource_type, *self._of_live(node, place), *self.seen(place))
                return (Arm(table=place, conditions=changed),)
            case AnyOf(nodes):
                parts = [self.range_arms(one, resource_type, sought=sought) for one in nodes]
                return None if None in parts else tuple(arm for part in parts if part for arm in part)
            case _:
                return None

    # --- sorted -------------------------------------------------------------------------------------
    def sort_value(self, key: SortKey, rid: Rid) -> ColumnElement[Any]:
        """The value that a resource is sorted by: its smallest when ascending, its greatest when descending."""
        pick = func.max if key.descending else func.min
        if key.table is None:
            place = self.alias(live)
            found = select(place.c[key.column]).where(place.c.rid == rid, *self.seen(place))
            return found.correlate(_table_of(rid)).scalar_subquery()
        table = self.alias(TABLES[key.table])
        best = select(pick(table.c[sort_columns(key)[0]])).where(
            table.c.rid == rid, table.c.param == key.param, *_plain_unit(key, table), *self.seen(table)
        )
        return best.correlate(_table_of(rid)).scalar_subquery()

    def sorted_arm(self, key: SortKey, resource_type: str) -> Arm:
        """Every resource that has a value to sort by, once, from the index that has the values in order."""
        if key.table is None:
            return self.all_of_type(resource_type)
        table, other = self.alias(TABLES[key.table]), self.alias(TABLES[key.table])
        first, second = sort_columns(key)
        mine = (table.c[first], table.c[second])
        theirs = (unindexed(other.c[first]), unindexed(other.c[second]))
        before = [a > b if key.descending else a < b for a, b in zip(theirs, mine, strict=True)]
        better: Select[Any] = select(literal_column("1")).where(
            other.c.rid == table.c.rid,
            other.c.param == key.param,
            *_plain_unit(key, other),
            or_(before[0], and_(theirs[0] == mine[0], before[1])),
            *self.seen(other),
        )
        once = not_(_exists(better, table.c.rid))
        conditions = (table.c.param == key.param, *_plain_unit(key, table), *self.seen(table), once)
        return Arm(table=table, conditions=conditions)


def _plain_unit(key: SortKey, table: FromClause) -> tuple[Condition, ...]:
    return (table.c.unit == ANY_UNIT,) if key.table is IndexTable.NUMBERS else ()


def sort_columns(key: SortKey) -> tuple[str, str]:
    """The columns of the key's table that hold the value to sort by, and what tells equal ones apart."""
    match key.table:
        case IndexTable.DATES:
            return "low_us", "high_us"
        case IndexTable.NUMBERS:
            return "low", "high"
        case IndexTable.STRINGS:
            return "folded", "exact"
        case _:
            return key.column, "rid"


def _table_of(rid: Rid) -> FromClause:
    table: FromClause = rid.table
    return table


def _exists(found: Select[Any], rid: Rid) -> Condition:
    return exists(found.correlate(_table_of(rid)).limit(1).offset(0))


def rank_of_missing(value: ColumnElement[Any]) -> ColumnElement[int]:
    """0 for a value, 1 for none: resources without one come last, in both directions."""
    return case((value.is_(None), 1), else_=0)
