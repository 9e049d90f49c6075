"""How sensitive a resource is: documented code lists together with the labels it came with (REC-4, CON-1).

The rules are data (``data/sensitivity.json``) and are printed in ``docs/concepts/sensitivity.md``. The
highest grade of every rule that matches wins. A security label can raise a grade, never lower it below what
the rules say; a resource that no rule and no label speaks of is N (normal). Codes are matched wherever they
stand in the resource, contained resources included; words only in short text elements (display, text,
description and the like), never in narrative or attachments, so free text needs a label to be graded.
"""

import re
from collections.abc import Iterable
from functools import cache, lru_cache
from importlib.resources import files
from typing import Final

import msgspec
from msgspec import Struct

from carechain.core.vocabulary import Sensitivity

TEXT_KEYS: Final = frozenset({"conclusion", "description", "display", "summary", "text", "title", "valueString"})
CONFIDENTIALITY: Final = "v3-Confidentiality"
DISPLAY_CACHE: Final = 16_384
CACHED_CHARS: Final = 256

_SHAPE: Final = re.compile(r"[A-Z]\d[0-9A-Z]")
"""How ICD-10 and ATC codes begin; keeps a stray word without a system from matching a short prefix."""


class System(Struct, frozen=True, forbid_unknown_fields=True):
    """A code system: its addresses in FHIR, and whether its codes match whole or by their beginning."""

    title: str
    match: str
    urls: tuple[str, ...]


class Rule(Struct, frozen=True, forbid_unknown_fields=True):
    """One line of the table: a v3-ActCode sensitivity label, its grade, and what it is recognised by."""

    id: str
    label: str
    grade: str
    why: str
    codes: dict[str, dict[str, str]]
    words: tuple[str, ...] = ()

    @property
    def sensitivity(self) -> Sensitivity:
        """The grade as a number."""
        return Sensitivity[self.grade]


class Table(Struct, frozen=True, forbid_unknown_fields=True):
    """The whole rule file."""

    systems: dict[str, System]
    labels: dict[str, str]
    rules: tuple[Rule, ...]


class Grade(Struct, frozen=True, array_like=True):
    """A grade and the sorted labels that gave it."""

    sensitivity: Sensitivity
    labels: tuple[str, ...]


@cache
def table() -> Table:
    """The rules that come with the package."""
    text = files("carechain.charts").joinpath("data", "sensitivity.json").read_bytes()
    return msgspec.json.decode(text, type=Table)


class _Index(Struct, frozen=True):
    """The table turned round for look-up: system address and code to the numbers of the rules."""

    system_of: dict[str, str]
    whole: dict[str, dict[str, tuple[int, ...]]]
    prefixes: dict[str, dict[str, tuple[int, ...]]]
    words: dict[str, int]
    pattern: re.Pattern[str]


@cache
def _index() -> _Index:
    rules = table()
    whole: dict[str, dict[str, tuple[int, ...]]] = {}
    prefixes: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, system in rules.systems.items():
        codes: dict[str, tuple[int, ...]] = {}
        for number, rule in enumerate(rules.rules):
            for code in rule.codes.get(name, {}):
                key = code.replace(".", "") if system.match == "prefix" else code
                codes[key] = (*codes.get(key, ()), number)
        (prefixes if system.match == "prefix" else whole)[name] = codes
    words = {word: number for number, rule in enumerate(rules.rules) for word in rule.words}
    longest_first = sorted(words, key=len, reverse=True)
    whole_words = "|".join(re.escape(word) for word in longest_first if word.isascii() and word[-1] != "*")
    stems = "|".join(re.escape(word[:-1]) for word in longest_first if word[-1] == "*")
    other = "|".join(re.escape(word) for word in longest_first if not word.isascii())
    return _Index(
        system_of={url: name for name, system in rules.systems.items() for url in system.urls},
        whole=whole,
        prefixes=prefixes,
        words={word.removesuffix("*"): number for word, number in words.items()},
        pattern=re.compile(rf"(?<![a-z0-9])(?:(?:{whole_words})(?![a-z0-9])|(?:{stems}))|(?:{other})"),
    )


def grade(
    *,
    codings: Iterable[tuple[str | None, str]],
    texts: Iterable[str],
    security: Iterable[tuple[str | None, str]],
) -> Grade:
    """Grade a resource by its codings ``(system, code)``, short texts and ``meta.security`` codings.

    A coding without a system is looked up in every system: leaving it out must not hide anything.
    """
    rules = table().rules
    hit = {number for coding in codings for number in _by_code(*coding)}
    for text in texts:
        hit.update(_by_words(text) if len(text) <= CACHED_CHARS else _find_words(text))
    given = [rules[number].sensitivity for number in hit]
    labels = {rules[number].label for number in hit}
    for system, code in security:
        if system is not None and system.endswith(CONFIDENTIALITY):
            given += [Sensitivity[code]] if code in Sensitivity.__members__ else []
        elif code in table().labels:
            given.append(Sensitivity[table().labels[code]])
            labels.add(code)
    return Grade(max(given, default=Sensitivity.N), tuple(sorted(labels)))


@lru_cache(DISPLAY_CACHE)
def _by_code(system: str | None, code: str) -> tuple[int, ...]:
    index = _index()
    names = [index.system_of.get(system)] if system is not None else [*index.system_of.values()]
    hit: list[int] = []
    for name in dict.fromkeys(names):
        if name in index.whole:
            hit += index.whole[name].get(code, ())
        elif name in index.prefixes and _SHAPE.match(code):
            plain = code.replace(".", "")
            for length in range(1, len(plain) + 1):
                hit += index.prefixes[name].get(plain[:length], ())
    return tuple(hit)


def _find_words(text: str) -> tuple[int, ...]:
    index = _index()
    return tuple(index.words[found] for found in index.pattern.findall(text.lower()))


_by_words = lru_cache(DISPLAY_CACHE)(_find_words)
