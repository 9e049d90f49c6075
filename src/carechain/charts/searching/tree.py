"""A parsed search: conditions as a tree, already in the numbers and folded texts of the index tables.

Nothing here knows SQL or the wording of a query. Every leaf is about rows of one index table that belong to the
resource in question; ``param`` is :func:`carechain.charts.searching.keys.param_key`.
"""

from enum import StrEnum
from typing import Final, TypeAlias

from msgspec import Struct


class Compare(StrEnum):
    """FHIR's prefixes; how they compare two intervals stands in :mod:`carechain.charts.searching.sql`."""

    EQ = "eq"
    NE = "ne"
    GT = "gt"
    LT = "lt"
    GE = "ge"
    LE = "le"
    SA = "sa"
    EB = "eb"
    AP = "ap"


class Match(StrEnum):
    """How text is compared."""

    STARTS = "starts"
    EXACT = "exact"
    CONTAINS = "contains"


class IndexTable(StrEnum):
    """Which index table the rows of a parameter stand in."""

    TOKENS = "tokens"
    REFERENCES = "references"
    STRINGS = "strings"
    DATES = "dates"
    NUMBERS = "numbers"


class Tokens(Struct, frozen=True, tag=True):
    """Has one of the values."""

    param: int
    values: tuple[int, ...]


class References(Struct, frozen=True, tag=True):
    """Refers to one of the targets."""

    param: int
    targets: tuple[int, ...]


class Strings(Struct, frozen=True, tag=True):
    """Has a text that matches; ``text`` is folded except for an exact match."""

    param: int
    match: Match
    text: str


class Dates(Struct, frozen=True, tag=True):
    """Has a time that compares so with [low, high), microseconds since 1970 UTC."""

    param: int
    compare: Compare
    low_us: int
    high_us: int


class Numbers(Struct, frozen=True, tag=True):
    """Has a number of the unit that compares so with ``value``, whose written precision covers [low, high)."""

    param: int
    unit: int
    compare: Compare
    value: float
    low: float
    high: float


class Present(Struct, frozen=True, tag=True):
    """Has any value in one of the index tables, by table and parameter."""

    rows: tuple[tuple[IndexTable, int], ...]


class Ids(Struct, frozen=True, tag=True):
    """Has one of the logical ids."""

    ids: tuple[str, ...]


class Updated(Struct, frozen=True, tag=True):
    """Was last changed at a time that compares so with [low, high), microseconds since 1970 UTC."""

    compare: Compare
    low_us: int
    high_us: int


class Among(Struct, frozen=True, tag=True):
    """Is one of these rows of ``live``: what another statement has found."""

    rids: tuple[int, ...]


class Chain(Struct, frozen=True, tag=True):
    """Refers to a resource of the type for which the inner condition holds."""

    param: int
    resource_type: str
    inner: "Node"


class Has(Struct, frozen=True, tag=True):
    """Is referred to by a resource of the source type for which the inner condition holds; FHIR's ``_has``.

    ``param`` is the reference parameter of the source type; ``resource_type`` the type that is referred to.
    """

    param: int
    source_type: str
    resource_type: str
    inner: "Node"


class Not(Struct, frozen=True, tag=True):
    """The inner condition does not hold."""

    inner: "Node"


class AnyOf(Struct, frozen=True, tag=True):
    """At least one holds; none of nothing does."""

    nodes: tuple["Node", ...]


class AllOf(Struct, frozen=True, tag=True):
    """Every one holds; all of nothing do."""

    nodes: tuple["Node", ...] = ()


Node: TypeAlias = (
    Tokens
    | References
    | Strings
    | Dates
    | Numbers
    | Present
    | Ids
    | Updated
    | Among
    | Chain
    | Has
    | Not
    | AnyOf
    | AllOf
)

NEVER: Final = AnyOf(())
ALWAYS: Final = AllOf(())


def all_of(*nodes: Node) -> AllOf:
    """Every node, without conjunctions inside conjunctions."""
    flat: list[Node] = []
    for node in nodes:
        flat.extend(node.nodes if isinstance(node, AllOf) else (node,))
    return AllOf(tuple(flat))


def any_of(*nodes: Node) -> Node:
    """Any of the nodes; a single one stands for itself, and tokens or references of one parameter become one leaf."""
    flat: list[Node] = []
    for node in nodes:
        flat.extend(node.nodes if isinstance(node, AnyOf) else (node,))
    merged: list[Node] = []
    places: dict[tuple[type, int], int] = {}
    for node in flat:
        if not isinstance(node, Tokens | References):
            merged.append(node)
            continue
        place = places.setdefault((type(node), node.param), len(merged))
        if place == len(merged):
            merged.append(node)
        else:
            merged[place] = _joined(merged[place], node)
    return merged[0] if len(merged) == 1 else AnyOf(tuple(merged))


def _joined(first: Node, second: Node) -> Node:
    if isinstance(first, Tokens) and isinstance(second, Tokens):
        return Tokens(first.param, tuple(dict.fromkeys(first.values + second.values)))
    if isinstance(first, References) and isinstance(second, References):
        return References(first.param, tuple(dict.fromkeys(first.targets + second.targets)))
    raise TypeError("only tokens with tokens and references with references")


class SortKey(Struct, frozen=True, kw_only=True):
    """One key of ``_sort``: by the values of an index table, or of ``live`` itself where ``column`` names one."""

    table: IndexTable | None = None
    param: int = 0
    column: str = ""
    descending: bool = False


class Include(Struct, frozen=True, kw_only=True):
    """One ``_include`` (the resources referred to) or ``_revinclude`` (those that refer).

    ``params`` are the reference parameters of ``source_type`` to follow (all of them for ``*``); ``target_type`` is
    empty for any. ``iterate``: also from what was included.
    """

    source_type: str
    params: tuple[int, ...]
    target_type: str = ""
    reverse: bool = False
    iterate: bool = False


class Part(Struct, frozen=True, kw_only=True):
    """What is searched for among the resources of one type."""

    resource_type: str
    where: AllOf = ALWAYS


class SearchQuery(Struct, frozen=True, kw_only=True):
    """A whole query. Several parts (system level) are answered one type after the other.

    ``count`` is None where the caller named none; ``total`` says whether the number of matches was asked for.
    ``applied`` are the parameters as understood, for the self link; ``ignored`` the names that were not.
    """

    parts: tuple[Part, ...]
    sort: tuple[SortKey, ...] = ()
    includes: tuple[Include, ...] = ()
    count: int | None = None
    summary: str = "false"
    elements: tuple[str, ...] = ()
    total: str = "none"
    applied: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ()

    @property
    def counts_only(self) -> bool:
        """Whether only the number of matches is wanted."""
        return self.summary == "count" or self.count == 0
