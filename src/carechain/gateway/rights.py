"""What each role may do with which resource types over FHIR: the second check of CON-3, as a table.

Deny by default: a role that is not named here may do nothing, and a type outside a role's row does not exist for it.
What of a type the caller sees is the third check and comes from tickets alone. Writing stands only with roles that may
anchor a record on the ledger (``records.anchor``), so nothing is stored here that its author could not answer for.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from msgspec import Struct

from carechain.charts.resource_types import CATEGORIES, DIRECTORY
from carechain.core.vocabulary import Category, Role, in_mask
from carechain.gateway.principal import Rights

_C: Final = Category
_ALL: Final = tuple(Category)


class RoleRights(Struct, frozen=True, kw_only=True):
    """One role: the categories of types it reads and writes, and single types it writes besides.

    Every role also reads the shared directory. ``creates`` are types that may be added but not changed.
    """

    reads: tuple[Category, ...] = ()
    writes: tuple[Category, ...] = ()
    creates: tuple[str, ...] = ()


FROM_THE_LEDGER: Final = frozenset({"AuditEvent", "Consent", "Provenance"})
"""Nobody but the custodian's own systems writes these here: consents and the log are made on the ledger."""

ROLE_RIGHTS: Final[dict[Role, RoleRights]] = {
    Role.PATIENT: RoleRights(
        reads=_ALL, creates=("DocumentReference", "MedicationStatement", "Observation", "QuestionnaireResponse")
    ),
    Role.FAMILY_MEMBER: RoleRights(reads=_ALL),
    Role.DOCTOR: RoleRights(
        reads=_ALL,
        writes=(_C.ENCOUNTER, _C.RESULT, _C.DIAGNOSIS, _C.PRESCRIPTION, _C.IMAGE, _C.PATIENT_REPORTED, _C.DOCUMENT),
    ),
    Role.NURSE: RoleRights(
        reads=tuple(one for one in Category if one is not _C.CLAIM),
        writes=(_C.ENCOUNTER, _C.RESULT),
        creates=("AllergyIntolerance", "DocumentReference", "MedicationAdministration"),
    ),
    Role.LAB_TECHNICIAN: RoleRights(
        reads=(_C.DEMOGRAPHICS, _C.ENCOUNTER, _C.RESULT, _C.IMAGE), writes=(_C.RESULT, _C.IMAGE)
    ),
    Role.INSURANCE_AUDITOR: RoleRights(
        reads=(_C.DEMOGRAPHICS, _C.ENCOUNTER, _C.RESULT, _C.AUTHORISATION, _C.DIAGNOSIS, _C.PRESCRIPTION, _C.CLAIM)
    ),
    Role.REGULATOR: RoleRights(reads=_ALL),
    Role.RESEARCHER: RoleRights(),
    Role.EMERGENCY_RESPONDER: RoleRights(reads=tuple(one for one in Category if one is not _C.CLAIM)),
    Role.ORGANISATION_ADMIN: RoleRights(),
    Role.CONSORTIUM_ADMIN: RoleRights(),
    Role.REGISTRAR: RoleRights(),
}

_READ: Final = Rights(read=True, search=True)
_TYPES: Final = {
    category: frozenset(name for name, one in CATEGORIES.items() if one is category) for category in Category
}


@lru_cache(maxsize=1024)
def rights_of(roles: int, *, creates: bool = True, updates: bool = True) -> Mapping[str, Rights]:
    """The rights of a mask of roles by resource type; a type that is missing may not be touched at all.

    ``creates`` and ``updates`` say whether the ledger lets the caller write where it is at present.
    """
    found: dict[str, Rights] = {}
    for role, row in ROLE_RIGHTS.items():
        if in_mask(role, roles):
            for name, rights in _row(row):
                found[name] = _joined(found.get(name, Rights()), rights)
    return MappingProxyType(
        {
            name: Rights(
                create=one.create and creates,
                read=one.read,
                update=one.update and creates and updates,
                search=one.search,
            )
            for name, one in found.items()
        }
    )


def within(rights: Mapping[str, Rights], outer: Mapping[str, Rights]) -> dict[str, Rights]:
    """What both allow. ``rights`` may have ``"*"`` and filters, ``outer`` names its types and has no filters."""
    found: dict[str, Rights] = {}
    for name, limit in outer.items():
        asked = rights.get(name) or rights.get("*")
        if asked is None:
            continue
        both = Rights(
            create=asked.create and limit.create,
            read=asked.read and limit.read,
            update=asked.update and limit.update,
            search=asked.search and limit.search,
            filters=asked.filters,
        )
        if both.create or both.read or both.update or both.search:
            found[name] = both
    return found


def rows() -> Iterator[tuple[str, str, str, str]]:
    """The table for people: role, reads, writes, creates."""
    for role, row in ROLE_RIGHTS.items():
        reads = "everything" if row.reads == _ALL else ", ".join(one.name.lower() for one in row.reads)
        writes = ", ".join(one.name.lower() for one in row.writes)
        yield role.name.lower(), reads or "the directory only", writes or "-", ", ".join(row.creates) or "-"


def _row(row: RoleRights) -> Iterator[tuple[str, Rights]]:
    for name in DIRECTORY:
        yield name, _READ
    for category in row.reads:
        for name in _TYPES[category]:
            yield name, _READ
    for category in row.writes:
        for name in _TYPES[category] - FROM_THE_LEDGER:
            yield name, Rights(create=True, update=True)
    for name in row.creates:
        yield name, Rights(create=True)


def _joined(one: Rights, other: Rights) -> Rights:
    return Rights(
        create=one.create or other.create,
        read=one.read or other.read,
        update=one.update or other.update,
        search=one.search or other.search,
    )
