"""Running a search: which way through the indexes, one page of rows, what belongs with them, how many there are.

The way is chosen by counting, up to a bound, what each condition alone would let through of what the caller may see.
Hidden rows are in none of these counts: a search that matches only hidden rows takes the steps of one that matches
nothing.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from msgspec import Struct
from sqlalchemy import (
    ColumnElement,
    Connection,
    Executable,
    Result,
    Select,
    Subquery,
    func,
    literal_column,
    select,
    true,
    union,
)

from carechain.charts.dialect import POSTGRESQL
from carechain.charts.index_schema import live, reference_index
from carechain.charts.listed import listed
from carechain.charts.live import Visible
from carechain.charts.searching.comparing import of_type
from carechain.charts.searching.sorting import (
    Key,
    Place,
    behind,
    behind_sorted,
    natural_order,
    read_place,
    write_place,
)
from carechain.charts.searching.sql import Arm, Sql, rank_of_missing, sort_columns
from carechain.charts.searching.tree import (
    AllOf,
    Among,
    AnyOf,
    Chain,
    Has,
    Include,
    IndexTable,
    Node,
    Not,
    Part,
    References,
    SearchQuery,
    SortKey,
    all_of,
    any_of,
)
from carechain.core.limits import (
    SEARCH_DENSE,
    SEARCH_INCLUDE_ROUNDS,
    SEARCH_INCLUDED,
    SEARCH_RESOLVED,
)

DEFAULT_COUNT: Final = 50
_LATER: Final = 5
"""How much further a walk goes that found a part of its page at the beginning."""
_MANY_TYPES: Final = 8
_NO_VALUE: Final[dict[IndexTable | None, Key]] = {
    IndexTable.DATES: 0,
    IndexTable.NUMBERS: 0.0,
    IndexTable.STRINGS: "",
}


class Page(Struct, frozen=True, kw_only=True):
    """How many matches, and behind which place: ``after`` is ``Found.next`` of the page before."""

    count: int = DEFAULT_COUNT
    after: bytes | None = None


class Found(Struct, frozen=True, kw_only=True):
    """One page: rows of ``live`` in order, whether there are more, the next page's place, and the total if asked for.

    ``next`` holds values that the result is sorted by: encrypt it before it leaves the server.
    """

    matches: list[int]
    more: bool
    next: bytes | None = None
    total: int | None = None


class _Way(Struct, frozen=True, kw_only=True):
    """How to come by the resources: arms to walk, and the conditions to ask of what they give."""

    arms: tuple[Arm, ...]
    asked: tuple[Node, ...]
    dense: bool = False

    @property
    def is_single(self) -> bool:
        """Whether one arm gives every resource once."""
        return len(self.arms) == 1 and not self.arms[0].repeats


def search(connection: Connection, visible: Visible, query: SearchQuery, page: Page) -> Found:
    """One page of the matches that may be seen. Raises ``BadParameter(BAD_PAGE)`` for a token of another query."""
    runner = _Runner(connection, visible)
    total = None
    if query.total != "none" or query.counts_only:
        total = count(connection, visible, query)
    if query.counts_only or not page.count:
        return Found(matches=[], more=False, total=total)
    place = read_place(query, page.after) if page.after is not None else None
    rows: list[tuple[int, tuple[Key, ...]]] = []
    for number in runner.present(query.parts, place.part if place else 0):
        begin = place if place and place.part == number else None
        found = runner.page(query, query.parts[number], begin, page.count + 1 - len(rows))
        rows.extend((number, keys) for keys in found)
        if len(rows) > page.count:
            break
    more = len(rows) > page.count
    rows = rows[: page.count]
    following = write_place(query, *rows[-1]) if more else None
    return Found(matches=[int(keys[-1]) for _, keys in rows], more=more, next=following, total=total)


def count(connection: Connection, visible: Visible, query: SearchQuery) -> int:
    """How many matches may be seen; counted in full, so only for who asks for it."""
    runner = _Runner(connection, visible)
    return sum(runner.count(query.parts[number]) for number in runner.present(query.parts, 0))


def included(connection: Connection, visible: Visible, query: SearchQuery, rids: Sequence[int]) -> list[int]:
    """The rows that ``_include`` and ``_revinclude`` add to a page of matches, without the matches, as far as seen.

    At most ``SEARCH_INCLUDED``; ``:iterate`` goes on for ``SEARCH_INCLUDE_ROUNDS`` rounds.
    """
    runner = _Runner(connection, visible)
    known = dict.fromkeys(rids)
    added: list[int] = []
    edge, includes = list(rids), list(query.includes)
    for _ in range(SEARCH_INCLUDE_ROUNDS):
        if not edge or not includes:
            break
        fresh = [rid for rid in runner.linked(includes, edge) if rid not in known]
        edge = fresh[: SEARCH_INCLUDED - len(added)]
        added.extend(edge)
        known.update(dict.fromkeys(edge))
        includes = [one for one in includes if one.iterate]
    return added


class _Runner:
    """Statements of one search in one snapshot under one sight."""

    def __init__(self, connection: Connection, visible: Visible) -> None:
        self.connection = connection
        self.sql = Sql(visible, laterally=connection.dialect.name == POSTGRESQL)
        self.nothing = visible.nothing

    def present(self, parts: Sequence[Part], first: int) -> Sequence[int]:
        """The places, from the first on, of the parts whose types have anything to be seen; asked only if many."""
        places = range(first, len(parts))
        if self.nothing or len(places) < _MANY_TYPES:
            return places
        wholes = [self.sql.all_of_type(parts[place].resource_type).sample(1) for place in places]
        counted = self._execute(select(*wholes)).one()
        return [place for place, size in zip(places, counted, strict=True) if size]

    # --- the way ------------------------------------------------------------------------------------
    def way(self, part: Part, *, weighs: bool = False) -> _Way | None:
        """The way that walks the fewest rows; None where some condition lets nothing through.

        ``weighs``: it matters whether the rows are many (to sort them all, say), even if there is no choice.
        """
        if self.nothing:
            return None
        where = self.resolved(part.where)
        ways = self._ways(where, lambda node: self.sql.arms(node, part.resource_type))
        if any(not way.arms for way in ways):
            return None
        if not ways:
            ways.append(_Way(arms=(self.sql.all_of_type(part.resource_type),), asked=where.nodes))
        ways += self._ways(where, lambda node: self.sql.range_arms(node, part.resource_type, sought=True))
        if len(ways) == 1 and not weighs and not self._ranged(ways[0], part):
            return ways[0]
        return self._fewest(ways)

    def _ways(self, where: AllOf, arms_of: Callable[[Node], tuple[Arm, ...] | None]) -> list[_Way]:
        """A way for every condition that can be walked, with the others to be asked."""
        ways = []
        for place, node in enumerate(where.nodes):
            arms = arms_of(node)
            if arms is not None:
                others = tuple(one for at, one in enumerate(where.nodes) if at != place)
                ways.append(_Way(arms=arms, asked=others))
        return ways

    def _fewest(self, ways: Sequence[_Way]) -> _Way | None:
        samples = [arm.sample(SEARCH_DENSE) for way in ways for arm in way.arms]
        counted = iter(self._execute(select(*samples)).one())
        sizes = [sum(next(counted) for _ in way.arms) for way in ways]
        best = min(range(len(ways)), key=sizes.__getitem__)
        if not sizes[best]:
            return None
        return _Way(arms=ways[best].arms, asked=ways[best].asked, dense=sizes[best] >= SEARCH_DENSE)

    def _ranged(self, way: _Way, part: Part) -> bool:
        return any(self.sql.range_arms(node, part.resource_type) for node in way.asked)

    def by_range(self, part: Part) -> _Way | None:
        """The way through the narrowest range of values, for where those are few and single values many."""
        ways = self._ways(self.resolved(part.where), lambda node: self.sql.range_arms(node, part.resource_type) or None)
        return ways[0] if len(ways) == 1 else self._fewest(ways) if ways else None

    # --- chains looked up first ---------------------------------------------------------------------
    def resolved(self, node: AllOf) -> AllOf:
        """The conditions with chains replaced by what they lead to, where that is little."""
        return all_of(*(self._resolve(one) for one in node.nodes))

    def _resolve(self, node: Node) -> Node:
        match node:
            case AllOf():
                return self.resolved(node)
            case AnyOf(nodes):
                return any_of(*(self._resolve(one) for one in nodes))
            case Not(inner):
                return Not(self._resolve(inner))
            case Chain():
                return self._resolve_chain(node)
            case Has():
                return self._resolve_has(node)
            case _:
                return node

    def _resolve_chain(self, node: Chain) -> Node:
        inner = all_of(self._resolve(node.inner))
        part = Part(resource_type=node.resource_type, where=inner)
        way = self.way(part)
        if way is None:
            return References(node.param, ())
        found = self._some(way, part, SEARCH_RESOLVED + 1)
        place = self.sql.alias(live)
        keys = select(place.c.key).join(found, found.c.rid == place.c.rid).where(*self.sql.seen(place))
        targets = tuple(self._execute(keys).scalars())
        if len(targets) > SEARCH_RESOLVED:
            return Chain(node.param, node.resource_type, inner)
        return References(node.param, targets)

    def _resolve_has(self, node: Has) -> Node:
        inner = all_of(self._resolve(node.inner))
        part = Part(resource_type=node.source_type, where=inner)
        way = self.way(part, weighs=True)
        if way is None:
            return Among(())
        if way.dense and not way.asked:
            return Has(node.param, node.source_type, node.resource_type, inner)
        found = self._some(way, part, SEARCH_DENSE)
        link, target = self.sql.alias(reference_index), self.sql.alias(live)
        linked = found.outerjoin(link, (link.c.rid == found.c.rid) & (link.c.param == node.param))
        # A row for every source keeps their number countable; those that refer to nobody seen have none beside them.
        named = (target.c.key == link.c.target) & of_type(target, node.resource_type)
        for condition in (*self.sql.seen(link), *self.sql.seen(target)):
            named &= condition
        pairs = select(found.c.rid, target.c.rid).select_from(linked.outerjoin(target, named))
        rows: list[Any] = list(self._execute(pairs))
        rids = tuple(dict.fromkeys(row[1] for row in rows if row[1] is not None))
        if len({row[0] for row in rows}) >= SEARCH_DENSE or len(rids) > SEARCH_RESOLVED:
            return Has(node.param, node.source_type, node.resource_type, inner)
        return Among(rids)

    def _some(self, way: _Way, part: Part, most: int) -> Subquery:
        """Some matches of a part, in no order, as a table to join."""
        if way.dense and (other := self.by_range(part)):
            way = other
        return self._rids(way).limit(most).subquery()

    def _rids(self, way: _Way) -> Select[Any]:
        """The rows of the way, each once."""
        arms = [self.sql.with_conditions(arm, way.asked) for arm in way.arms]
        listed = [select(arm.table.c.rid).select_from(arm.origin).where(*arm.conditions) for arm in arms]
        if len(listed) == 1:
            # A union of one would not take away what repeats.
            return listed[0].distinct() if arms[0].repeats else listed[0]
        together = union(*listed).subquery()
        return select(together.c.rid)

    # --- one page -----------------------------------------------------------------------------------
    def page(self, query: SearchQuery, part: Part, place: Place | None, most: int) -> list[tuple[Key, ...]]:
        """At most so many matches of a part behind the place, as the keys they are ordered by; the row is the last."""
        way = self.way(part, weighs=bool(query.sort))
        if way is None:
            return []
        if query.sort:
            return self._sorted_page(query.sort, part, way, place, most)
        if way.dense and way.is_single and way.arms[0].ordered and self._ranged(way, part):
            found = self._beginning(way, place, most, SEARCH_DENSE)
            if _LATER * len(found) >= most > len(found):
                found = self._beginning(way, place, most, _LATER * SEARCH_DENSE)
            if len(found) == most:
                return found
            way = self.by_range(part) or way
        return self._natural_page(way, place, most)

    def _natural_page(self, way: _Way, place: Place | None, most: int) -> list[tuple[Key, ...]]:
        arms = [self.sql.with_conditions(arm, way.asked) for arm in way.arms]
        pages = [
            (arm.rows(*behind(arm.table, place)).distinct() if arm.repeats else arm.rows(*behind(arm.table, place)))
            .order_by(*natural_order(arm.table))
            .limit(most)
            for arm in arms
        ]
        if len(pages) == 1:
            return self._run(pages[0])
        tables = [one.subquery() for one in pages]
        together = union(*(select(one.c.shelf, one.c.day, one.c.rid) for one in tables)).subquery()
        return self._run(
            select(together.c.shelf, together.c.day, together.c.rid).order_by(*natural_order(together)).limit(most)
        )

    def _beginning(self, way: _Way, place: Place | None, most: int, walked: int) -> list[tuple[Key, ...]]:
        """The page, if enough is found among the first rows of the way; a rare range would walk all of them."""
        arm = way.arms[0]
        first = arm.rows(*behind(arm.table, place)).order_by(*natural_order(arm.table)).limit(walked).subquery()
        conditions = [self.sql.holds(node, first.c.rid) for node in way.asked]
        return self._run(
            select(first.c.shelf, first.c.day, first.c.rid)
            .where(*conditions)
            .order_by(*natural_order(first))
            .limit(most)
        )

    def _sorted_page(
        self, sort: Sequence[SortKey], part: Part, way: _Way, place: Place | None, most: int
    ) -> list[tuple[Key, ...]]:
        if way.dense and len(sort) == 1 and self.sql.scans(part.resource_type):
            found = self._walk_sorted(sort[0], part, place, most)
            if len(found) == most:
                return found
            # Only what has no value is left, or little more than it: the whole rest is sorted.
        rows = self._rids(way).subquery()
        values = [self.sql.sort_value(key, rows.c.rid) for key in sort]
        # The offset keeps the databases from working out a value again wherever it is named.
        valued = select(rows.c.rid, *(value.label(f"v{at}") for at, value in enumerate(values))).offset(0).subquery()
        columns: list[ColumnElement[Any]] = []
        for at, key in enumerate(sort):
            value = valued.c[f"v{at}"]
            columns += [rank_of_missing(value), func.coalesce(value, _NO_VALUE.get(key.table, 0))]
            if key.column == "resource_id":
                columns[-1] = value
        columns.append(valued.c.rid)
        descending = [down for key in sort for down in (False, key.descending)] + [True]
        ordered = [column.desc() if down else column for column, down in zip(columns, descending, strict=True)]
        statement = select(*columns).order_by(*ordered).limit(most)
        if place:
            statement = statement.where(behind_sorted(columns, descending, place.keys))
        return self._run(statement)

    def _walk_sorted(self, key: SortKey, part: Part, place: Place | None, most: int) -> list[tuple[Key, ...]]:
        """The page by walking the sort's own index and asking each resource: for where many match."""
        if place and place.keys[0]:
            return []
        arm = self.sql.with_conditions(self.sql.sorted_arm(key, part.resource_type), self.resolved(part.where).nodes)
        value, rid = arm.table.c[sort_columns(key)[0]], arm.table.c.rid
        conditions = list(arm.conditions)
        if place:
            last = place.keys[1]
            conditions += [
                value <= last if key.descending else value >= last,
                behind_sorted((value, rid), (key.descending, True), place.keys[1:]),
            ]
        order = (value.desc() if key.descending else value, rid.desc())
        return self._run(select(literal_column("0"), value, rid).where(*conditions).order_by(*order).limit(most))

    def _execute(self, statement: Executable) -> Result[Any]:
        return self.connection.execute(statement, self.sql.values)

    def _run(self, statement: Select[Any]) -> list[tuple[Key, ...]]:
        return [tuple(row) for row in self._execute(statement)]

    # --- counting -----------------------------------------------------------------------------------
    def count(self, part: Part) -> int:
        """All matches of a part."""
        way = self.way(part)
        if way is None:
            return 0
        if way.dense and (other := self.by_range(part)):
            way = other
        return int(self._execute(select(func.count()).select_from(self._rids(way).subquery())).scalar_one())

    # --- includes -----------------------------------------------------------------------------------
    def linked(self, includes: Sequence[Include], rids: Sequence[int]) -> list[int]:
        """What some rows refer to, or what refers to them, by the includes; each once, in the order of the includes."""
        found: dict[int, None] = {}
        for one in includes:
            statement = self._referring(one, rids) if one.reverse else self._referred(one, rids)
            found.update(dict.fromkeys(self._execute(statement.limit(SEARCH_INCLUDED)).scalars()))
        return list(found)

    def _referred(self, include: Include, rids: Sequence[int]) -> Select[Any]:
        link, end = self.sql.alias(reference_index), self.sql.alias(live)
        asked = [listed(link.c.rid, rids), link.c.param.in_(include.params), *self.sql.seen(link), *self.sql.seen(end)]
        if include.target_type:
            asked.append(of_type(end, include.target_type))
        joined = link.join(end, end.c.key == link.c.target)
        return select(end.c.rid).distinct().select_from(joined).where(*asked).order_by(end.c.rid)

    def _referring(self, include: Include, rids: Sequence[int]) -> Select[Any]:
        link, end = self.sql.alias(reference_index), self.sql.alias(live)
        asked = [listed(end.c.rid, rids), *self.sql.seen(end)]
        if include.target_type:
            asked.append(of_type(end, include.target_type))
        named = (link.c.target == end.c.key, link.c.param.in_(include.params))
        links = self.sql.sought(link, named, end)
        rid = links.rows.c.rid
        joined = end.join(links.source, true())
        return select(rid).distinct().select_from(joined).where(*asked, *links.conditions).order_by(rid)
