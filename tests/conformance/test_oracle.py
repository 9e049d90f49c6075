"""Goal: searches find exactly what FHIR says, in the order that was asked for.

Method: the searches of the recorded conformance runs and hundreds made from the data are asked of the server, on each
database, and answered by an oracle that looks at every resource with the official FHIRPath expressions. Ids must be
the same; where an order was asked for, values must follow it, resources without a value last; pages put together must
be the whole; what ``_include`` and ``_revinclude`` bring must be what the matches are linked with.
"""

from collections import Counter
from collections.abc import Callable
from functools import cmp_to_key
from itertools import pairwise
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest
from msgspec import Struct

from fhir_oracle import Oracle, Unjudged
from fhir_questions import Question, Questions
from fhir_recordings import recorded
from fhir_world import BASE, FhirWorld

SEED = "a question"
MADE = 2
"""Questions about each parameter of each type."""


def find(world: FhirWorld, question: Question, count: int = 1000) -> tuple[list[str], list[str]]:
    """The ids of the matches in order, and ``Type/id`` of what came along, over all pages."""
    url: str | None = f"{question.resource_type}?{urlencode([*question.params, ('_count', str(count))])}"
    matches: list[str] = []
    others: list[str] = []
    while url:
        answer = world.get(url, headers={"prefer": "handling=strict"})
        assert answer.status == 200, (str(question), answer.body)
        for one in answer.json.get("entry", []):
            resource = one["resource"]
            if one["search"]["mode"] == "match":
                matches.append(resource["id"])
            else:
                others.append(f"{resource['resourceType']}/{resource['id']}")
        url = answer.link("next")
    assert len(set(matches)) == len(matches), str(question)
    return matches, others


def wrong(world: FhirWorld, oracle: Oracle, question: Question) -> str:
    """What differs from the oracle's answer; empty if nothing does. Raises ``Unjudged``."""
    expected = oracle.search(question.resource_type, question.params)
    found, _ = find(world, question)
    if set(found) == expected:
        return ""
    return f"{question}: {sorted(set(found) - expected)[:3]} too many, {sorted(expected - set(found))[:3]} missing"


OracleOf = Callable[[FhirWorld], Oracle]


class Asked(Struct):
    """A server, the oracle of what it holds, and questions about that: the same for every database."""

    world: FhirWorld
    oracle: Oracle
    questions: Questions
    made: list[Question]


@pytest.fixture
def asked(loaded_world: FhirWorld, oracle_of: OracleOf, known: dict[int, list[Question]]) -> Asked:
    oracle = oracle_of(loaded_world)
    questions = Questions(oracle, SEED, base_url=BASE)
    if id(oracle) not in known:
        simple = list(questions.all(MADE))
        known[id(oracle)] = [*simple, *questions.reversed_chains(60), *questions.together(simple, 100)]
    return Asked(loaded_world, oracle, questions, known[id(oracle)])


@pytest.fixture(scope="session")
def known() -> dict[int, list[Question]]:
    """The questions about an oracle; oracles live as long as the session."""
    return {}


def test_recorded_searches(reference_world: FhirWorld, oracle_of: OracleOf) -> None:
    oracle = oracle_of(reference_world)
    differing, judged = [], 0
    asked: set[str] = set()
    for request in [*recorded("311"), *recorded("501")]:
        path = request.url.replace("{base}/", "")
        kind, question, query = path.partition("?")
        if not question or request.verb == "post" or path in asked:
            continue
        asked.add(path)
        params = tuple(parse_qsl(query, keep_blank_values=True))
        one = Question(resource_type=kind, params=params, about="recorded")
        expected = oracle.search(kind, params)
        found, others = find(reference_world, one)
        judged += 1
        if set(found) != expected or set(others) != oracle.included(kind, expected, params):
            differing.append(str(one))
    assert not differing
    assert judged > 600


def test_made_searches(asked: Asked) -> None:
    differing: list[str] = []
    judged: Counter[str] = Counter()
    for question in asked.made:
        try:
            said = wrong(asked.world, asked.oracle, question)
        except Unjudged:
            continue
        judged[question.about.partition(" ")[0]] += 1
        if said:
            differing.append(said)
    assert not differing, "\n".join(differing)
    kinds = {"token", "token:not", "token:text", "string", "string:exact", "string:contains", "date", "quantity"}
    assert kinds | {"reference", "reference:Type", "chain", "_has", "composite", "uri", "missing"} <= set(judged)
    assert sum(judged.values()) > 300


def test_orders(asked: Asked) -> None:
    judged, oracle = 0, asked.oracle
    simple = [one for one in asked.made if one.about not in {"_has", "together"}]
    for question in asked.questions.orders(simple, 120):
        try:
            expected = oracle.search(question.resource_type, question.params)
            sort = dict(question.params)["_sort"]
            keys = {one: oracle.sort_keys(question.resource_type, one, sort) for one in expected}
        except Unjudged:
            continue
        found, _ = find(asked.world, question)
        paged, _ = find(asked.world, question, count=max(3, len(expected) // 4))
        assert set(found) == expected, str(question)
        assert paged == found, str(question)
        down = [one.startswith("-") for one in sort.split(",")]
        said = [keys[one] for one in found]
        for before, after in pairwise(said):
            assert compared(before, after, down) <= 0, (str(question), before, after)
        judged += 1
    assert judged > 60


def compared(first: list[Any], second: list[Any], down: list[bool]) -> int:
    """Below 0: the first comes first; 0: either may. A missing value comes last in both directions."""
    for one, other, reverse in zip(first, second, down, strict=True):
        if one == other:
            continue
        if one is None or other is None:
            return 1 if one is None else -1
        return -1 if (one < other) is not reverse else 1
    return 0


def test_the_comparison_itself() -> None:
    rows = [[3, "a"], [None, "a"], [1, "b"], [1, "a"]]
    ordered = sorted(rows, key=cmp_to_key(lambda one, other: compared(one, other, [False, True])))
    assert ordered == [[1, "b"], [1, "a"], [3, "a"], [None, "a"]]


def test_what_is_brought_along(asked: Asked) -> None:
    differing, kinds = [], Counter[str]()
    for question in asked.questions.brought_along(120):
        matches, others = find(asked.world, question)
        expected = asked.oracle.included(question.resource_type, matches, question.params)
        kinds[question.about] += bool(expected)
        if set(others) != expected or len(set(others)) != len(others):
            differing.append(f"{question}: {sorted(set(others) ^ expected)[:4]}")
    assert not differing, "\n".join(differing)
    assert min(kinds["_include"], kinds["_revinclude"]) > 20
