"""Goal: the role table over FHIR denies by default and never reaches beyond the ledger's own role table.

Method: every role, type and right is compared with what the ledger lets the role do; the page for people is compared
with the table.
"""

from pathlib import Path

import pytest

from carechain.charts.resource_types import CATEGORIES, DIRECTORY, R4_TYPES
from carechain.charts.sight import NOTHING
from carechain.contracts.roles import ROLE_MESSAGES
from carechain.core.vocabulary import Category, Role, mask
from carechain.gateway.principal import Principal, Rights
from carechain.gateway.rights import FROM_THE_LEDGER, ROLE_RIGHTS, rights_of, rows

PAGE = Path(__file__).parents[3] / "docs" / "concepts" / "apps.md"


def test_every_role_has_its_row() -> None:
    assert set(ROLE_RIGHTS) == set(Role)


@pytest.mark.parametrize("role", list(Role), ids=lambda role: role.name)
def test_writing_stands_only_with_roles_that_may_anchor(role: Role) -> None:
    writes = any(one.create or one.update for one in rights_of(mask(role)).values())
    assert not writes or "records.anchor" in ROLE_MESSAGES[role]


@pytest.mark.parametrize("role", list(Role), ids=lambda role: role.name)
def test_the_directory_is_read_by_all_and_written_by_none(role: Role) -> None:
    rights = rights_of(mask(role))
    assert all(rights[name] == Rights(read=True, search=True) for name in DIRECTORY)


@pytest.mark.parametrize("role", list(Role), ids=lambda role: role.name)
def test_what_comes_from_the_ledger_is_written_by_none(role: Role) -> None:
    rights = rights_of(mask(role))
    assert not any(rights.get(name, Rights()).create or rights.get(name, Rights()).update for name in FROM_THE_LEDGER)


def test_no_role_may_nothing() -> None:
    assert rights_of(0) == {}
    caller = Principal(party=bytes(32), sight=NOTHING, rights=rights_of(0))
    assert all(caller.may(name) == Rights() for name in R4_TYPES)


def test_those_who_only_check_write_nothing() -> None:
    for role in (Role.INSURANCE_AUDITOR, Role.REGULATOR, Role.EMERGENCY_RESPONDER, Role.FAMILY_MEMBER):
        assert not any(one.create or one.update for one in rights_of(mask(role)).values())
    images = [name for name, category in CATEGORIES.items() if category is Category.IMAGE]
    auditor = rights_of(mask(Role.INSURANCE_AUDITOR))
    assert not any(name in auditor for name in images)


def test_researchers_see_no_charts() -> None:
    assert set(rights_of(mask(Role.RESEARCHER))) == set(DIRECTORY)


def test_without_a_grant_to_write_nothing_is_written() -> None:
    doctor = mask(Role.DOCTOR)
    assert not any(one.create or one.update for one in rights_of(doctor, creates=False, updates=False).values())
    assert not any(one.update for one in rights_of(doctor, creates=True, updates=False).values())
    assert any(one.create for one in rights_of(doctor, creates=True, updates=False).values())


def test_roles_add_up() -> None:
    both = rights_of(mask(Role.LAB_TECHNICIAN, Role.INSURANCE_AUDITOR))
    assert both["Claim"].read
    assert both["Observation"].update
    assert "Claim" not in rights_of(mask(Role.LAB_TECHNICIAN))


def test_the_page_shows_the_table() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for row in rows():
        assert f"| {' | '.join(row)} |" in text
