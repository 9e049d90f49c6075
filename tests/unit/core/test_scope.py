"""Goal: scopes compare as sets of records do, so that narrowing never widens (CON-1, CON-2).

Method: Hypothesis draws scopes and records from a small universe and compares ``contains``, ``covers`` and ``meets``
with what they say about single records.
"""

import itertools

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from carechain.core.scope import EVERYTHING, LAST_DAY, Scope
from carechain.core.vocabulary import (
    ALL_ACTIONS,
    ALL_CATEGORIES,
    ALL_POWERS,
    ALL_PURPOSES,
    ALL_ROLES,
    Action,
    Category,
    Power,
    Purpose,
    Role,
    Sensitivity,
    in_mask,
    mask,
    subset,
)

RECORDS = tuple(bytes([number]) * 32 for number in range(3))
UNIVERSE = [
    {"category": category, "sensitivity": sensitivity, "day": day, "record": record}
    for category, sensitivity, day, record in itertools.product(
        (Category.ENCOUNTER, Category.RESULT), (Sensitivity.L, Sensitivity.N, Sensitivity.V), range(4), RECORDS
    )
]


@st.composite
def scopes(draw: st.DrawFn) -> Scope:
    first = draw(st.integers(0, 3))
    return Scope(
        categories=draw(st.sampled_from([mask(Category.ENCOUNTER), mask(Category.RESULT), 0b110, ALL_CATEGORIES])),
        ceiling=draw(st.sampled_from([Sensitivity.L, Sensitivity.N, Sensitivity.V])),
        first_day=first,
        last_day=draw(st.one_of(st.integers(first, 3), st.just(LAST_DAY))),
        records=tuple(sorted(draw(st.sets(st.sampled_from(RECORDS), max_size=3)))),
    )


def inside(scope: Scope) -> set[int]:
    return {number for number, record in enumerate(UNIVERSE) if scope.covers(**record)}


@given(scopes(), scopes())
def test_containing_a_scope_is_covering_all_its_records(outer: Scope, inner: Scope) -> None:
    if outer.contains(inner):
        assert inside(inner) <= inside(outer)
        assert not inside(inner) or outer.meets(inner)


@given(scopes(), scopes(), scopes())
def test_containing_is_an_order(one: Scope, two: Scope, three: Scope) -> None:
    assert one.contains(one)
    if one.contains(two) and two.contains(three):
        assert one.contains(three)
    if one.contains(two) and two.contains(one):
        assert one == two


@given(scopes(), scopes())
def test_meeting_is_symmetric_and_misses_no_shared_record(one: Scope, two: Scope) -> None:
    assert one.meets(two) == two.meets(one)
    if inside(one) & inside(two):
        assert one.meets(two)


@given(scopes())
def test_everything_contains_all_and_meets_all(scope: Scope) -> None:
    assert scope.is_well_formed()
    assert EVERYTHING.contains(scope)
    assert EVERYTHING.meets(scope)
    assume(scope != EVERYTHING)
    assert not scope.contains(EVERYTHING)


def test_a_single_record_scope_never_contains_an_unbounded_one() -> None:
    bounded = Scope(categories=2, ceiling=Sensitivity.V, records=(RECORDS[0],))
    unbounded = Scope(categories=2, ceiling=Sensitivity.V)
    assert unbounded.contains(bounded)
    assert not bounded.contains(unbounded)


@pytest.mark.parametrize(
    "scope",
    [
        Scope(categories=0, ceiling=Sensitivity.N),
        Scope(categories=ALL_CATEGORIES + 1, ceiling=Sensitivity.N),
        Scope(categories=2, ceiling=Sensitivity.N, first_day=2, last_day=1),
        Scope(categories=2, ceiling=Sensitivity.N, records=(RECORDS[1], RECORDS[0])),
        Scope(categories=2, ceiling=Sensitivity.N, records=(RECORDS[0], RECORDS[0])),
    ],
)
def test_malformed_scopes_are_told(scope: Scope) -> None:
    assert not scope.is_well_formed()


@given(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF))
def test_masks_are_sets(one: int, two: int) -> None:
    members = [{bit for bit in range(16) if in_mask(bit, value)} for value in (one, two)]
    assert subset(one, two) == (members[0] <= members[1])


def test_the_whole_of_each_vocabulary() -> None:
    for everything, members in ((ALL_PURPOSES, Purpose), (ALL_CATEGORIES, Category), (ALL_ROLES, Role)):
        assert everything == mask(*members)
    for everything, flags in ((ALL_ACTIONS, Action), (ALL_POWERS, Power)):
        assert everything == sum(flags)
