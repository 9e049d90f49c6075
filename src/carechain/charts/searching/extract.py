"""What a resource says to each of its search parameters, as rows of the index tables (API-1).

Everything that can be worked out before a resource is seen is worked out once per resource type: which properties to
look at, what is found there, and the numbers of the parameters. Values that come again and again (codes, units, their
displays) are turned into rows once and remembered.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import tzinfo
from functools import partial
from typing import Any, Final

from carechain.charts.definitions import Group, Leaf, SearchParameter, search_parameters
from carechain.charts.searching import found
from carechain.charts.searching.found import Json, Keys
from carechain.charts.searching.keys import param_key, reference_term, uri_term
from carechain.charts.searching.paths import Node, values_at
from carechain.charts.searching.rows import IndexRows
from carechain.charts.searching.values import STRING_CHARS, composite_term, exact, fold

FROM_LIVE: Final = frozenset({"_id", "_lastUpdated"})
"""These two are columns of the ``live`` table."""
COMPOSITE_TERMS: Final = 32
"""So many values of each side of a composite are paired: what is stored must not grow with their product."""


class Extractor:
    """Makes index rows; for one thread at a time, since a walk collects into the extractor itself.

    ``zone`` is where dates without an offset count; ``base_url`` the address of this server, whose absolute references
    mean the same as relative ones.
    """

    def __init__(self, zone: tzinfo, base_url: str = "") -> None:
        self._zone = zone
        self._base = base_url.rstrip("/") + "/" if base_url else ""
        self._roots: dict[str, Node] = {}
        self._tokens: list[tuple[int, int]] = []
        self._references: list[tuple[int, int]] = []
        self._strings: list[tuple[int, str, str]] = []
        self._dates: list[tuple[int, int, int]] = []
        self._numbers: list[tuple[int, int, float, float]] = []

    def rows(self, tree: Json, resource_type: str) -> IndexRows:
        """The rows of a parsed resource; empty for a type without parameters. Parts of a wrong shape give none."""
        root = self._roots.get(resource_type)
        if root is None:
            root = self._roots[resource_type] = self._compile(resource_type)
        collected = (self._tokens, self._references, self._strings, self._dates, self._numbers)
        for rows in collected:
            rows.clear()
        root.visit(tree)
        return IndexRows(
            tokens=list(dict.fromkeys(self._tokens)),
            references=list(dict.fromkeys(self._references)),
            strings=list(dict.fromkeys(self._strings)),
            dates=list(dict.fromkeys(self._dates)),
            numbers=list(dict.fromkeys(self._numbers)),
        )

    # --- once per resource type ------------------------------------------------------------------------
    def _compile(self, resource_type: str) -> Node:
        """Lay the paths together; parameters that find the same type at the same place share one reading of it."""
        root = Node()
        shared: dict[tuple[tuple[str, ...], str, str, str], list[SearchParameter]] = {}
        for parameter in search_parameters(resource_type).values():
            if parameter.code in FROM_LIVE or parameter.parts:
                continue
            for leaf in parameter.leaves:
                read_as = found.IMPLIED if parameter.is_code else leaf.type
                shared.setdefault((leaf.path, parameter.kind, read_as, leaf.target), []).append(parameter)
            for group in parameter.groups:
                node = root.reach(group.path)
                node.emits = (*node.emits, self._composite(parameter, group))
        for (path, kind, fhir_type, target), parameters in shared.items():
            node = root.reach(path)
            node.emits = (*node.emits, self._emitter(kind, fhir_type, target, Keys.of(parameters)))
        return root

    def _emitter(self, kind: str, fhir_type: str, target: str, keys: Keys) -> Callable[[Any], None]:
        if kind == "token":
            return partial(self._token, keys, found.TOKENS[fhir_type])
        if kind == "string":
            return partial(self._string, keys, found.STRINGS[fhir_type])
        if kind == "date":
            return partial(self._date, keys, found.DATES[fhir_type])
        if kind in {"number", "quantity"}:
            return partial(self._quantity, keys, found.QUANTITIES[fhir_type])
        if kind == "uri":
            return partial(self._uri, keys)
        return partial(self._reference if fhir_type == "Reference" else self._canonical, keys, target)

    # --- for every value -------------------------------------------------------------------------------
    def _token(self, keys: Keys, read: found.TokenReader, value: Any) -> None:  # noqa: ANN401 - any JSON
        tokens, texts = read(keys, value)
        self._tokens += tokens
        if texts:
            self._strings += texts

    def _string(self, keys: Keys, read: found.StringReader, value: Any) -> None:  # noqa: ANN401 - any JSON
        for text in read(value):
            if text:
                folded, whole = fold(text), exact(text)
                self._strings += [(param, folded, whole) for param in keys.params]

    def _date(self, keys: Keys, read: found.DateReader, value: Any) -> None:  # noqa: ANN401 - any JSON
        for low_us, high_us in read(value, self._zone):
            self._dates += [(param, low_us, high_us) for param in keys.params]

    def _quantity(self, keys: Keys, read: found.QuantityReader, value: Any) -> None:  # noqa: ANN401 - any JSON
        quantity = read(value)
        if quantity is not None:
            units, low, high = quantity
            self._numbers += [(param, unit, low, high) for param in keys.params for unit in units]

    def _uri(self, keys: Keys, value: Any) -> None:  # noqa: ANN401 - any JSON
        if type(value) is str:
            for uri in {value: None, value.partition("|")[0]: None}:
                term, text = uri_term(uri), uri[:STRING_CHARS].replace("\0", "")
                self._tokens += [(param, term) for param in keys.params]
                self._strings += [(param, text, text) for param in keys.params]

    def _canonical(self, keys: Keys, _: str, value: Any) -> None:  # noqa: ANN401 - any JSON
        if type(value) is str:
            for uri in {value: None, value.partition("|")[0]: None}:
                term = reference_term(uri.removeprefix(self._base) if self._base else uri)
                self._references += [(param, term) for param in keys.params]

    def _reference(self, keys: Keys, target: str, value: Any) -> None:  # noqa: ANN401 - any JSON
        if type(value) is not dict:
            return
        literal = value.get("reference")
        if type(literal) is str and literal and literal[0] != "#":
            named = found.unversioned(literal.removeprefix(self._base) if self._base else literal)
            if not target or found.names_type(named, value.get("type"), target):
                term = reference_term(named)
                self._references += [(param, term) for param in keys.params]
        identifier = value.get("identifier")
        if type(identifier) is dict and (not target or value.get("type") in (None, target)):
            self._tokens += found.identifier_tokens(keys.identifiers, identifier)

    # --- composites ------------------------------------------------------------------------------------
    def _composite(self, parameter: SearchParameter, group: Group) -> Callable[[Any], None]:
        param = param_key(parameter.resource_type, parameter.code)
        first, second = group.sides
        firsts = partial(self._terms, first)
        if parameter.components[1].kind == "quantity":
            return partial(self._token_quantity, param, firsts, second)
        return partial(self._token_token, param, firsts, partial(self._terms, second))

    def _terms(self, leaves: Sequence[Leaf], value: Any) -> Iterable[int]:  # noqa: ANN401 - any JSON
        """The terms by which a query may name one side."""
        terms: dict[int, None] = {}
        for leaf in leaves:
            for one in values_at(value, leaf.path):
                if leaf.type == "Reference":
                    literal = one.get("reference") if type(one) is dict else None
                    if type(literal) is str:
                        named = literal.removeprefix(self._base) if self._base else literal
                        terms[reference_term(found.unversioned(named))] = None
                else:
                    terms |= dict.fromkeys(found.pairable_terms(leaf.type, one))
        return list(terms)[:COMPOSITE_TERMS]

    def _token_token(
        self,
        param: int,
        first: Callable[[Any], Iterable[int]],
        second: Callable[[Any], Iterable[int]],
        value: Any,  # noqa: ANN401
    ) -> None:
        seconds = second(value)
        if seconds:
            self._tokens += [(param, composite_term(a, b)) for a in first(value) for b in seconds]

    def _token_quantity(
        self,
        param: int,
        first: Callable[[Any], Iterable[int]],
        leaves: Sequence[Leaf],
        value: Any,  # noqa: ANN401
    ) -> None:
        quantities = [found.QUANTITIES[leaf.type](one) for leaf in leaves for one in values_at(value, leaf.path)]
        present = [one for one in quantities[:COMPOSITE_TERMS] if one is not None]
        if present:
            self._numbers += [
                (param, composite_term(a, unit), low, high)
                for a in first(value)
                for units, low, high in present
                for unit in units
            ]
