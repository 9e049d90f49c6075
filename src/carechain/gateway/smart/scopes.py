"""SMART scopes, version 2 and 1, as rights on types and as a grant on the ledger (SMART App Launch 2.2, CON-1).

A scope is a wish. What it can become is narrowed three times: by what the app is registered for, by what the patient
or the clinician approves, and at every request by the role table and the live ticket. What this file does not
understand is dropped and the answer's ``scope`` says what was given, as OAuth has it; nothing is ever widened.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Final
from urllib.parse import parse_qsl

from msgspec import Struct

from carechain.charts.resource_types import (
    ANSWERS_TO_CLAIM,
    CATEGORIES,
    DEMOGRAPHICS,
    DIRECTORY,
    PATIENT_AUTHORED,
    R4_TYPES,
    REPORT_PARTS,
    ROOTS,
)
from carechain.core.scope import Scope
from carechain.core.vocabulary import ALL_CATEGORIES, Action, Category, Sensitivity, mask
from carechain.gateway.principal import Rights

SCOPE_CHARS: Final = 4096
SCOPES: Final = 128
"""Scopes in one request."""
ANY_TYPE: Final = "*"
OFFLINE: Final = frozenset({"offline_access", "online_access"})
LAUNCH_PATIENT: Final = "launch/patient"
CONTEXT: Final = frozenset({"launch", LAUNCH_PATIENT, "openid", "fhirUser", "profile"}) | OFFLINE
"""Scopes that are about no resource type and that this server understands."""
_RESOURCE: Final = re.compile(
    r"(?P<who>patient|user|system)/(?P<type>\*|[A-Z][A-Za-z]+)\.(?P<letters>read|write|\*|[cruds]+)(?:\?(?P<query>\S+))?"
)
_VERSION_1: Final = {"read": "rs", "write": "cu", "*": "curs"}
_ORDER: Final = "cruds"
_FILTER_NAME: Final = re.compile(r"(?:[a-z][a-z-]{0,63}|_security|_tag|_profile)(?::(?:not|in|exact|of-type))?")
_READING: Final = frozenset("rs")


class ResourceScope(Struct, frozen=True):
    """One scope about resources. ``letters`` are of ``crus``; ``query`` is a search that narrows it, or empty."""

    who: str
    resource_type: str
    letters: str
    query: str = ""

    @property
    def text(self) -> str:
        """As version 2 writes it."""
        return f"{self.who}/{self.resource_type}.{self.letters}{'?' + self.query if self.query else ''}"


def split(text: str) -> tuple[str, ...]:
    """The scopes of a request in their order, each once; too many give none."""
    if len(text) > SCOPE_CHARS:
        return ()
    found = tuple(dict.fromkeys(text.split()))
    return found if len(found) <= SCOPES else ()


def parse(text: str) -> ResourceScope | None:
    """A scope about resources; None for others and for what cannot be kept to.

    ``d`` is dropped, because nothing is deleted here; a filter takes the letters for writing away, because it narrows
    what is read.
    """
    found = _RESOURCE.fullmatch(text)
    if found is None or (found["type"] != ANY_TYPE and found["type"] not in R4_TYPES):
        return None
    given = _VERSION_1.get(found["letters"], found["letters"])
    if found["letters"] not in _VERSION_1 and not _in_order(given):
        return None
    query = found["query"] or ""
    if query and not _is_filter(query):
        return None
    letters = "".join(one for one in _ORDER if one in given and one != "d" and (not query or one in _READING))
    return ResourceScope(found["who"], found["type"], letters, query) if letters else None


def understood(scopes: Iterable[str]) -> tuple[str, ...]:
    """The scopes that this server can keep to, resource scopes as version 2 writes them where they were changed."""
    kept: list[str] = []
    for one in scopes:
        parsed = parse(one)
        if one in CONTEXT:
            kept.append(one)
        elif parsed is not None:
            kept.append(one if _is_version_1(one) else parsed.text)
    return tuple(dict.fromkeys(kept))


def allowed(scopes: Iterable[str], registered: Iterable[str]) -> tuple[str, ...]:
    """Of ``scopes`` those that lie inside what is registered: the same context scope, or a scope that covers it."""
    outer = tuple(registered)
    wide = [one for one in map(parse, outer) if one is not None]
    kept: list[str] = []
    for one in understood(scopes):
        inner = parse(one)
        if one in outer or (inner is not None and any(_covers(cover, inner) for cover in wide)):
            kept.append(one)
    return tuple(kept)


def of_kind(scopes: Iterable[str], *whose: str) -> tuple[ResourceScope, ...]:
    """The resource scopes whose first word is one of ``whose`` (``patient``, ``user``, ``system``)."""
    return tuple(one for one in map(parse, scopes) if one is not None and one.who in whose)


def rights_of(scopes: Sequence[ResourceScope]) -> dict[str, Rights]:
    """Rights by type; ``"*"`` for every type that is not named. A named type has what ``"*"`` gives besides its own."""
    names = {one.resource_type for one in scopes}
    found: dict[str, Rights] = {}
    for name in names:
        rights = _rights([one for one in scopes if one.resource_type in (name, ANY_TYPE)])
        if rights is not None:
            found[name] = rights
    return found


def categories_of(scopes: Sequence[ResourceScope]) -> int:
    """The mask of record categories in which resources of these types stand: what a grant must name.

    A record holds what belongs together: a lab value stands in its encounter's record or in its report's. So the mask
    is wider than the types; the types are kept to by the rights of the token.
    """
    value = 0
    for one in scopes:
        if one.resource_type == ANY_TYPE:
            return ALL_CATEGORIES
        value |= mask(*_places(one.resource_type))
    return value


def grant_scope(scopes: Sequence[ResourceScope], *, ceiling: Sensitivity = Sensitivity.N) -> Scope | None:
    """The part of a record that a grant for these scopes is about; None where they are about the directory alone."""
    categories = categories_of(scopes)
    return Scope(categories=categories, ceiling=ceiling) if categories else None


def actions_of(scopes: Sequence[ResourceScope]) -> int:
    """What a grant for these scopes permits: reading always, adding for ``c``, changing for ``u``."""
    letters = {letter for one in scopes for letter in one.letters}
    actions = Action.READ
    if "c" in letters:
        actions |= Action.SUBMIT
    if "u" in letters:
        actions |= Action.WRITE
    return int(actions)


def in_words(scopes: Iterable[str]) -> Iterator[str]:
    """What the person who approves reads: one line for each scope."""
    for one in scopes:
        parsed = parse(one)
        if parsed is not None:
            verbs = [word for letters, word in _VERBS.items() if any(letter in parsed.letters for letter in letters)]
            what = "everything" if parsed.resource_type == ANY_TYPE else parsed.resource_type
            yield f"{', '.join(verbs)}: {what}" + (f" (only {parsed.query})" if parsed.query else "")
        elif one in _CONTEXT_WORDS:
            yield _CONTEXT_WORDS[one]


_VERBS: Final[Mapping[str, str]] = {"rs": "read", "c": "add", "u": "change"}
_CONTEXT_WORDS: Final[Mapping[str, str]] = {
    "offline_access": "stay allowed until you end it",
    "online_access": "stay allowed while you use it",
    "openid": "know you again",
    LAUNCH_PATIENT: "know which patient this is about",
}


def _places(resource_type: str) -> tuple[Category, ...]:
    if resource_type in DIRECTORY or resource_type not in CATEGORIES:
        return ()
    found = [CATEGORIES[resource_type]]
    if resource_type not in ROOTS and resource_type not in DEMOGRAPHICS:
        found.append(Category.ENCOUNTER)
    if resource_type in PATIENT_AUTHORED:
        found.append(Category.PATIENT_REPORTED)
    if resource_type in REPORT_PARTS:
        found.append(Category.RESULT)
    if resource_type in ANSWERS_TO_CLAIM:
        found.append(Category.CLAIM)
    return tuple(found)


def _rights(scopes: Sequence[ResourceScope]) -> Rights | None:
    """The letters of all. A filter stands for reading and searching alike, so it never lets more through than asked.

    Filtered scopes that differ in their letters cannot be told apart in the end: then only those with both count.
    """
    plain = {letter for one in scopes if not one.query for letter in one.letters}
    filtered = [one for one in scopes if one.query]
    if len({one.letters for one in filtered}) > 1:
        filtered = [one for one in filtered if set(one.letters) == _READING]
    narrow = {letter for one in filtered for letter in one.letters}
    letters = plain | narrow
    if not letters:
        return None
    filters = () if narrow <= plain else tuple(sorted({one.query for one in filtered}))
    return Rights(
        create="c" in letters, read="r" in letters, update="u" in letters, search="s" in letters, filters=filters
    )


def _covers(outer: ResourceScope, inner: ResourceScope) -> bool:
    return (
        outer.who == inner.who
        and outer.resource_type in (ANY_TYPE, inner.resource_type)
        and set(inner.letters) <= set(outer.letters)
        and outer.query in ("", inner.query)
    )


def _in_order(letters: str) -> bool:
    """Version 2 wants the letters in the order ``cruds``, each at most once."""
    places = [_ORDER.index(one) for one in letters]
    return all(a < b for a, b in pairwise(places))


def _is_version_1(text: str) -> bool:
    found = _RESOURCE.fullmatch(text)
    return found is not None and found["letters"] in _VERSION_1


def _is_filter(query: str) -> bool:
    """Plain search parameters of the type itself: no chains, includes, paging or results."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True, max_num_fields=8)
    except ValueError:
        return False
    return bool(pairs) and all(_FILTER_NAME.fullmatch(name) and value for name, value in pairs)
