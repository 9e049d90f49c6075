"""Options in the field's words: categories, grades, dates, purposes and actions, turned into what messages carry.

Every parser raises ``typer.BadParameter``, which ends in exit status 2; the sentence names what may stand there.
"""

import re
from datetime import UTC, date, datetime
from enum import IntEnum
from typing import Annotated, Any, Final, TypeVar

import typer

from carechain.cli.output import OptionGroup
from carechain.core.limits import ID_SIZE, SCOPE_RECORDS
from carechain.core.scope import LAST_DAY, Scope
from carechain.core.units import DAY_S
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

Kind = TypeVar("Kind", bound=IntEnum)

_FIRST_DATE: Final = date(1900, 1, 1)
_ACTIONS: Final = {one.name.lower(): int(one) for one in Action if one.name}
_ID: Final = re.compile(rf"[0-9a-fA-F]{{{2 * ID_SIZE}}}")
PRIVATE_ROLES: Final = (Role.PATIENT, Role.FAMILY_MEMBER)
"""Roles that no certificate gives: they come with a pseudonym or an appointment."""


def _member(kind: type[Kind], text: str) -> Kind:
    wanted = text.strip().upper().replace("-", "_")
    for one in kind:
        if one.name == wanted:
            return one
    raise typer.BadParameter(f"{text!r} is none of: {', '.join(one.name.lower() for one in kind)}")


def _members(kind: type[Kind], text: str) -> tuple[Kind, ...]:
    return tuple(_member(kind, part) for part in text.split(","))


def categories(text: str) -> int:
    """A mask of categories from ``encounter,result`` or ``all``."""
    return ALL_CATEGORIES if text.strip().lower() == "all" else mask(*_members(Category, text))


def purposes(text: str) -> int:
    """A mask of purposes from ``TREAT,HPAYMT`` or ``all``."""
    return ALL_PURPOSES if text.strip().lower() == "all" else mask(*_members(Purpose, text))


def purpose(text: str) -> Purpose:
    """One purpose of use."""
    return _member(Purpose, text)


def roles(text: str) -> int:
    """A mask of staff roles from ``doctor,registrar``."""
    found = _members(Role, text)
    if any(one in PRIVATE_ROLES for one in found):
        raise typer.BadParameter("patients and family members are not staff; use `patient register`")
    return mask(*found)


def organisation_kind(text: str) -> OrganisationKind:
    """One of the three kinds of member."""
    return _member(OrganisationKind, text)


def ceiling(text: str) -> Sensitivity:
    """A confidentiality grade."""
    return _member(Sensitivity, text)


def actions(text: str) -> int:
    """A mask of actions from ``read,write,delegate``."""
    value = 0
    for part in text.split(","):
        found = _ACTIONS.get(part.strip().lower())
        if found is None:
            raise typer.BadParameter(f"{part!r} is none of: {', '.join(_ACTIONS)}")
        value |= found
    return value


def day(text: str) -> int:
    """A clinical day (days since 1900-01-01) from a date such as ``2026-11-21``."""
    try:
        found = date.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter("write a date as 2026-11-21") from None
    if found < _FIRST_DATE:
        raise typer.BadParameter("clinical days begin with 1900-01-01")
    return (found - _FIRST_DATE).days


def identifier(text: str) -> bytes:
    """A 32-byte id from 64 hexadecimal digits."""
    if not _ID.fullmatch(text.strip()):
        raise typer.BadParameter("an id has 64 hexadecimal digits")
    return bytes.fromhex(text.strip())


def clinical_date(days: int) -> str:
    """A clinical day as a date, empty for an open end."""
    return "" if days >= LAST_DAY else date.fromordinal(_FIRST_DATE.toordinal() + days).isoformat()


def moment(time_s: int) -> str:
    """A ledger time as people write it, in UTC."""
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M:%S")


def names(kind: type[IntEnum], bits: int) -> list[str]:
    """The members of a mask by name."""
    return [one.name.lower() for one in kind if bits >> one & 1]


def action_names(bits: int) -> list[str]:
    """The actions of a mask by name."""
    return [name for name, bit in _ACTIONS.items() if bits & bit]


def seconds(days: int) -> int:
    """Whole days in seconds."""
    return days * DAY_S


CategoriesOption = Annotated[
    int, typer.Option("--categories", parser=categories, metavar="LIST", help="Categories, by comma, or `all`.")
]
CeilingOption = Annotated[
    Sensitivity,
    typer.Option("--ceiling", parser=ceiling, metavar="GRADE", help="Highest confidentiality grade: U L M N R V."),
]
FromOption = Annotated[
    int | None, typer.Option("--from", parser=day, metavar="DATE", help="First clinical day, for example 2026-01-31.")
]
ToOption = Annotated[int | None, typer.Option("--to-day", parser=day, metavar="DATE", help="Last clinical day.")]
RecordsOption = Annotated[
    list[bytes] | None,
    typer.Option("--record", parser=identifier, metavar="ID", help="Only this record; may be repeated."),
]
ActionsOption = Annotated[
    int, typer.Option("--actions", parser=actions, metavar="LIST", help="What is permitted: read, write, delegate …")
]
PurposesOption = Annotated[
    int, typer.Option("--purposes", parser=purposes, metavar="LIST", help="Purposes of use, by comma, or `all`.")
]
PurposeOption = Annotated[
    Purpose, typer.Option("--purpose", parser=purpose, metavar="CODE", help="Purpose of use, for example TREAT.")
]
DaysOption = Annotated[int, typer.Option("--days", min=1, max=36_500, help="How many days it lasts.")]
RolesOption = Annotated[
    int, typer.Option("--roles", parser=roles, metavar="LIST", help="Roles of the certificate, by comma.")
]
SomeRolesOption = Annotated[
    int | None, typer.Option("--roles", parser=roles, metavar="LIST", help="Roles of the certificate, by comma.")
]


def typed(text: str) -> Any:  # noqa: ANN401 - stands for whatever the option's parser makes of it
    """A default as a person would type it: typer parses defaults like everything else."""
    return text


class Permitting(OptionGroup, frozen=True):
    """What a grant permits, for which purposes, for how long."""

    actions: ActionsOption = typed("read")
    purposes: PurposesOption = typed("TREAT")
    days: DaysOption = 365


class Within(OptionGroup, frozen=True):
    """Which part of a record set a grant or a request is about."""

    categories: CategoriesOption
    ceiling: CeilingOption = typed("N")
    first_day: FromOption = None
    last_day: ToOption = None
    records: RecordsOption = None

    def scope(self) -> Scope:
        """The scope; records are put in order, so nobody has to sort ids by hand."""
        chosen = tuple(sorted(set(self.records or ())))
        if len(chosen) > SCOPE_RECORDS:
            raise typer.BadParameter(f"name at most {SCOPE_RECORDS} records", param_hint="--record")
        first, last = self.first_day or 0, LAST_DAY if self.last_day is None else self.last_day
        if first > last:
            raise typer.BadParameter("the first day is after the last", param_hint="--from")
        return Scope(categories=self.categories, ceiling=self.ceiling, first_day=first, last_day=last, records=chosen)


def scope_data(scope: Scope) -> dict[str, object]:
    """A scope as JSON."""
    return {
        "categories": names(Category, scope.categories),
        "ceiling": scope.ceiling.name,
        "first_day": clinical_date(scope.first_day) if scope.first_day else None,
        "last_day": clinical_date(scope.last_day) or None,
        "records": [one.hex() for one in scope.records],
    }


def scope_text(scope: Scope) -> str:
    """A scope in words."""
    what = "all categories" if scope.categories == ALL_CATEGORIES else ", ".join(names(Category, scope.categories))
    parts = [f"{what} up to {scope.ceiling.name}"]
    if scope.first_day or scope.last_day != LAST_DAY:
        parts.append(
            f"{clinical_date(scope.first_day) if scope.first_day else '…'} to {clinical_date(scope.last_day) or '…'}"
        )
    if scope.records:
        parts.append(f"{len(scope.records)} named records")
    return "; ".join(parts)
