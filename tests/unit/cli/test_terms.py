"""Goal: options say what messages mean, and what does not is a usage error, never a guess.

Method: rows of text and value; Hypothesis feeds the parsers anything.
"""

from collections.abc import Callable
from contextlib import suppress
from datetime import date, timedelta

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from carechain.cli import terms
from carechain.core.scope import EVERYTHING, LAST_DAY, Scope
from carechain.core.vocabulary import (
    ALL_CATEGORIES,
    ALL_PURPOSES,
    Action,
    Category,
    OrganisationKind,
    Purpose,
    Role,
    Sensitivity,
    mask,
)

PARSERS: list[Callable[[str], object]] = [
    terms.categories,
    terms.purposes,
    terms.purpose,
    terms.roles,
    terms.organisation_kind,
    terms.ceiling,
    terms.actions,
    terms.day,
    terms.identifier,
]


@pytest.mark.parametrize(
    ("parser", "text", "value"),
    [
        (terms.categories, "all", ALL_CATEGORIES),
        (terms.categories, "encounter, RESULT", mask(Category.ENCOUNTER, Category.RESULT)),
        (terms.categories, "patient-reported", mask(Category.PATIENT_REPORTED)),
        (terms.purposes, "all", ALL_PURPOSES),
        (terms.purposes, "treat,hpaymt", mask(Purpose.TREAT, Purpose.HPAYMT)),
        (terms.purpose, "HRESCH", Purpose.HRESCH),
        (terms.roles, "doctor,registrar", mask(Role.DOCTOR, Role.REGISTRAR)),
        (terms.organisation_kind, "hospital", OrganisationKind.HOSPITAL),
        (terms.ceiling, "v", Sensitivity.V),
        (terms.actions, "read,delegate", int(Action.READ | Action.DELEGATE)),
        (terms.day, "1900-01-01", 0),
        (terms.day, "1970-01-01", 25_567),
        (terms.identifier, "AB" * 32, bytes([0xAB]) * 32),
    ],
)
def test_values(parser: Callable[[str], object], text: str, value: object) -> None:
    assert parser(text) == value


@pytest.mark.parametrize(
    ("parser", "text"),
    [
        (terms.categories, ""),
        (terms.categories, "encounter,"),
        (terms.purposes, "cure"),
        (terms.roles, "patient"),
        (terms.roles, "doctor,family_member"),
        (terms.organisation_kind, "bank"),
        (terms.ceiling, "X"),
        (terms.actions, "read,eat"),
        (terms.day, "2026-02-30"),
        (terms.day, "1899-12-31"),
        (terms.day, "yesterday"),
        (terms.identifier, "ab"),
        (terms.identifier, "zz" * 32),
    ],
)
def test_refused(parser: Callable[[str], object], text: str) -> None:
    with pytest.raises(typer.BadParameter):
        parser(text)


@given(st.sampled_from(PARSERS), st.text(max_size=80))
def test_anything_else_is_a_usage_error(parser: Callable[[str], object], text: str) -> None:
    with suppress(typer.BadParameter):
        parser(text)


@given(st.dates(min_value=date(1900, 1, 1)))
def test_dates_come_back(one: date) -> None:
    day = terms.day(one.isoformat())
    assert date(1900, 1, 1) + timedelta(days=day) == one
    assert terms.clinical_date(day) == one.isoformat()


def test_an_open_end_is_empty() -> None:
    assert terms.clinical_date(LAST_DAY) == ""


def test_records_are_sorted_once() -> None:
    two, one = bytes([2]) * 32, bytes([1]) * 32
    scope = terms.Within(categories=1, ceiling=Sensitivity.N, records=[two, one, two]).scope()
    assert scope.records == (one, two)
    assert scope.is_well_formed()


@pytest.mark.parametrize(
    ("first", "last", "records"),
    [(2, 1, None), (None, None, [bytes([0, number]) * 16 for number in range(33)])],
)
def test_impossible_scopes(first: int | None, last: int | None, records: list[bytes] | None) -> None:
    with pytest.raises(typer.BadParameter):
        terms.Within(categories=1, ceiling=Sensitivity.N, first_day=first, last_day=last, records=records).scope()


@pytest.mark.parametrize(
    ("scope", "words"),
    [
        (EVERYTHING, "all categories up to V"),
        (
            Scope(categories=mask(Category.RESULT), ceiling=Sensitivity.N, first_day=1),
            "result up to N; 1900-01-02 to …",
        ),
        (Scope(categories=1, ceiling=Sensitivity.U, records=(bytes(32),)), "demographics up to U; 1 named records"),
    ],
)
def test_a_scope_in_words(scope: Scope, words: str) -> None:
    assert terms.scope_text(scope) == words
    assert terms.scope_data(scope)["ceiling"] == scope.ceiling.name


def test_a_moment_is_utc() -> None:
    assert terms.moment(0) == "1970-01-01 00:00:00"
