"""A FHIR Consent read into typed provisions, R4 and R5 alike; nothing that narrows or widens is passed over (CON-10).

R4 says permit or deny in every provision's ``type``. R5 says it once, in ``decision``, and leaves open which way its
nested provisions turn it: those are refused. An element that no rule here reads is refused too, apart from those that
say how the Consent came about (source, policy, verification, performer), which the patient's signature replaces.
"""

import re
from collections.abc import Iterator
from datetime import UTC, tzinfo
from typing import Any, Final

import msgspec
from msgspec import Struct

from carechain.charts.bundle import strict_json
from carechain.charts.dates import day_of
from carechain.charts.searching.values import date_interval
from carechain.core.limits import QUERY_BODY_BYTES, TX_MESSAGES
from carechain.core.rejection import Rejected, RejectionCode, require
from carechain.core.scope import LAST_DAY
from carechain.core.units import DAY_S
from carechain.core.vocabulary import ALL_CATEGORIES, ALL_PURPOSES, Action, Sensitivity, mask
from carechain.sdk.pcf_box import Box
from carechain.sdk.pcf_codes import DocumentCode as Code
from carechain.sdk.pcf_terms import (
    ACT_REASON,
    ACTION,
    CATEGORIES,
    CATEGORY,
    CONFIDENTIALITY,
    CONSENT_ACTION,
    CONSENT_SCOPE,
    GRADES,
    OWN_ACTIONS,
    PARTICIPATION,
    PRIVACY,
    PSEUDONYM,
    PURPOSES,
    RECIPIENT,
    STANDARD_ACTIONS,
    Json,
    id_in,
)

CONSENT_BYTES: Final = QUERY_BODY_BYTES
"""More than a Consent with its narrative needs; a scanned source does not belong into it."""
PROVISIONS: Final = TX_MESSAGES
_US: Final = 1_000_000
_UNIX_EPOCH_DAY: Final = day_of("1970-01-01")
_DAY: Final = re.compile(r"\d{4}(?:-\d\d){0,2}", re.ASCII)
_READ: Final = frozenset(
    {"id", "extension", "type", "period", "actor", "action", "securityLabel", "purpose", "dataPeriod", "data"}
)
_NOT_EXPRESSIBLE: Final = frozenset({"class", "code", "documentType", "resourceType", "expression"})


class Named(Struct, frozen=True, kw_only=True):
    """What a reference names: an address (``Type/id``), or an identifier's system and value."""

    reference: str = ""
    system: str = ""
    value: str = ""


class Provision(Struct, frozen=True, kw_only=True):
    """One provision. ``box`` holds what it says; ``said`` names the parts of the box that it says itself.

    ``begins_s`` and ``ends_s`` (exclusive) are Unix time; None where the period is open.
    """

    permit: bool
    box: Box
    said: frozenset[str]
    recipients: tuple[Named, ...]
    actions: int
    data: tuple[Named, ...]
    begins_s: int | None
    ends_s: int | None
    nested: tuple["Provision", ...] = ()


class Consent(Struct, frozen=True, kw_only=True):
    """A Consent as far as the ledger is concerned."""

    active: bool
    identifiers: tuple[Named, ...]
    patient: Named
    organisations: tuple[Named, ...]
    roots: tuple[Provision, ...]


def read_consent(data: bytes, *, zone: tzinfo = UTC) -> Consent:
    """The Consent in ``data`` (JSON); dates without an offset count in ``zone``. Raises ``Rejected``."""
    require(len(data) <= CONSENT_BYTES, Code.CONSENT_MALFORMED)
    try:
        tree = strict_json(data)
    except Rejected:
        raise Rejected(Code.CONSENT_MALFORMED) from None
    require(isinstance(tree, dict) and tree.get("resourceType") == "Consent", Code.CONSENT_MALFORMED)
    require("modifierExtension" not in tree and "implicitRules" not in tree, Code.MODIFIER_UNKNOWN)
    is_r5 = "decision" in tree or isinstance(tree.get("provision"), list)
    if not is_r5:
        scopes = list(_codings(tree, "scope"))
        require((CONSENT_SCOPE, PRIVACY) in scopes, Code.CONSENT_SCOPE_UNSUPPORTED)
    subjects = _references(tree, "subject" if is_r5 else "patient")
    require(len(subjects) == 1, Code.CONSENT_MALFORMED)
    organisations = _references(tree, "controller") if is_r5 else _references(tree, "organization")
    return Consent(
        active=_text(tree, "status") == "active",
        identifiers=tuple(_identifier(one) for one in _objects(tree, "identifier")),
        patient=subjects[0],
        organisations=organisations,
        roots=_roots_r5(tree, zone) if is_r5 else _roots_r4(tree, zone),
    )


def names_patient(consent: Consent, pseudonym: bytes) -> bool:
    """Whether the Consent may be about this pseudonym: it names it, or says its patient in words of another place."""
    if consent.patient.system == PSEUDONYM:
        return id_in(consent.patient.value) == pseudonym
    return True


def _roots_r4(tree: Json, zone: tzinfo) -> tuple[Provision, ...]:
    require("decision" not in tree, Code.CONSENT_MALFORMED)
    roots = _objects(tree, "provision")
    require(len(roots) <= 1, Code.CONSENT_MALFORMED)
    found = tuple(_provision(one, zone, None, 0) for one in roots)
    require(sum(1 + len(one.nested) for one in found) <= PROVISIONS, Code.TOO_MANY_PROVISIONS)
    return found


def _roots_r5(tree: Json, zone: tzinfo) -> tuple[Provision, ...]:
    decision = _text(tree, "decision")
    require(decision in ("permit", "deny"), Code.CONSENT_MALFORMED)
    roots = _objects(tree, "provision")
    require(len(roots) <= PROVISIONS, Code.TOO_MANY_PROVISIONS)
    require(all("provision" not in one for one in roots), Code.EXCEPTIONS_UNCLEAR)
    whole = tree.get("period")
    grantees = _references(tree, "grantee")
    found = []
    for one in roots:
        require("type" not in one, Code.CONSENT_MALFORMED)
        limited = {**one, "period": whole} if whole is not None and "period" not in one else one
        provision = _provision(limited, zone, decision == "permit", 0)
        found.append(msgspec.structs.replace(provision, recipients=provision.recipients or grantees))
    return tuple(found)


def _provision(tree: Json, zone: tzinfo, permit: bool | None, depth: int) -> Provision:  # noqa: FBT001 - None: it says so itself
    require("modifierExtension" not in tree, Code.MODIFIER_UNKNOWN)
    require(depth < 2, Code.PROVISION_TOO_DEEP)  # noqa: PLR2004 - the root and one level below it
    require(not tree.keys() & _NOT_EXPRESSIBLE, Code.ELEMENT_UNSUPPORTED)
    require(tree.keys() <= _READ | {"provision"}, Code.CONSENT_MALFORMED)
    if permit is None:
        kind = _text(tree, "type")
        require(kind in ("permit", "deny"), Code.CONSENT_MALFORMED)
        permit = kind == "permit"
    box, said = _box(tree, permit=permit)
    begins_s, ends_s = _period(tree, zone)
    return Provision(
        permit=permit,
        box=box,
        said=said,
        recipients=tuple(_recipient(one) for one in _objects(tree, "actor")),
        actions=_actions(tree),
        data=tuple(_instance(one) for one in _objects(tree, "data")),
        begins_s=begins_s,
        ends_s=ends_s,
        nested=tuple(_provision(one, zone, None, depth + 1) for one in _objects(tree, "provision")),
    )


def _box(tree: Json, *, permit: bool) -> tuple[Box, frozenset[str]]:
    said: set[str] = {name for name in ("purpose", "dataPeriod", "period") if name in tree}
    purposes = _purposes(tree)
    categories, grades = _labels(tree)
    if categories:
        said.add("categories")
    if grades:
        said.add("grades")
    first_day, last_day = _days(tree)
    return Box(
        categories=categories or ALL_CATEGORIES,
        purposes=purposes,
        first_day=first_day,
        last_day=last_day,
        # Whoever is cleared for a grade is cleared for those below it; to deny a grade is to deny those above it.
        lowest=Sensitivity.U if permit or not grades else min(grades),
        highest=max(grades) if permit and grades else Sensitivity.V,
    ), frozenset(said)


def _purposes(tree: Json) -> int:
    if "purpose" not in tree:
        return ALL_PURPOSES
    found = [PURPOSES.get(code) if system == ACT_REASON else None for system, code in _bare_codings(tree, "purpose")]
    require(found and None not in found, Code.PURPOSE_UNKNOWN)
    return mask(*(one for one in found if one is not None))


def _labels(tree: Json) -> tuple[int, list[Sensitivity]]:
    """The categories (0: none named) and the grades that the security labels name.

    Labels of one kind are alternatives, labels of different kinds narrow each other (HL7 Healthcare Privacy and
    Security Classification System).
    """
    categories, grades = 0, []
    for system, code in _bare_codings(tree, "securityLabel"):
        if system == CONFIDENTIALITY and code in GRADES:
            grades.append(GRADES[code])
        elif system == CATEGORY and code in CATEGORIES:
            categories |= 1 << CATEGORIES[code]
        else:
            raise Rejected(Code.LABEL_UNSUPPORTED)
    return categories, grades


def _actions(tree: Json) -> int:
    if "action" not in tree:
        return int(Action.READ)
    found = 0
    for one in _objects(tree, "action"):
        known = {
            *(STANDARD_ACTIONS.get(code) for system, code in _concept(one) if system == CONSENT_ACTION),
            *(OWN_ACTIONS.get(code) for system, code in _concept(one) if system == ACTION),
        }
        require(len(known) == 1 and None not in known, Code.ACTION_UNKNOWN)
        found |= int(known.pop() or 0)
    require(found, Code.ACTION_UNKNOWN)
    return found


def _period(tree: Json, zone: tzinfo) -> tuple[int | None, int | None]:
    if "period" not in tree:
        return None, None
    period = tree["period"]
    require(isinstance(period, dict) and period.keys() <= {"start", "end", "id"}, Code.PERIOD_MALFORMED)
    begins_s, ends_s = (_moment(period, name, zone) for name in ("start", "end"))
    require(begins_s is None or ends_s is None or begins_s < ends_s, Code.PERIOD_MALFORMED)
    return begins_s, ends_s


def _moment(period: Json, name: str, zone: tzinfo) -> int | None:
    """The first second of a start, and the first second after an end: FHIR counts the whole of what is named."""
    if name not in period:
        return None
    text = period[name]
    require(isinstance(text, str), Code.PERIOD_MALFORMED)
    try:
        low_us, high_us = date_interval(text, zone)
    except (ValueError, OverflowError):
        raise Rejected(Code.PERIOD_MALFORMED) from None
    return -(-low_us // _US) if name == "start" else high_us // _US


def _days(tree: Json) -> tuple[int, int]:
    if "dataPeriod" not in tree:
        return 0, LAST_DAY
    period = tree["dataPeriod"]
    require(isinstance(period, dict) and period.keys() <= {"start", "end", "id"}, Code.PERIOD_MALFORMED)
    for text in (period[name] for name in ("start", "end") if name in period):
        require(isinstance(text, str) and _DAY.fullmatch(text), Code.DATA_PERIOD_NOT_DAYS)
    try:
        first = day_of(period["start"]) if "start" in period else 0
        high_us = date_interval(period["end"], UTC)[1] if "end" in period else None
    except (Rejected, ValueError, OverflowError):
        raise Rejected(Code.PERIOD_MALFORMED) from None
    last = LAST_DAY if high_us is None else max(0, high_us // _US // DAY_S - 1 + _UNIX_EPOCH_DAY)
    require(first <= last, Code.PERIOD_MALFORMED)
    return first, last


def _recipient(tree: Json) -> Named:
    require("modifierExtension" not in tree, Code.MODIFIER_UNKNOWN)
    role = tree.get("role")
    codes = list(_concept(role)) if isinstance(role, dict) else []
    require((PARTICIPATION, RECIPIENT) in codes, Code.ACTOR_ROLE_UNSUPPORTED)
    return _named(tree.get("reference"), Code.ACTOR_UNKNOWN)


def _instance(tree: Json) -> Named:
    require("modifierExtension" not in tree, Code.MODIFIER_UNKNOWN)
    require(_text(tree, "meaning") == "instance", Code.DATA_MEANING_UNSUPPORTED)
    return _named(tree.get("reference"), Code.DATA_NOT_A_RECORD)


# --- FHIR's shapes --------------------------------------------------------------------------------------


def _text(tree: Json, name: str) -> str:
    value = tree.get(name)
    require(isinstance(value, str), Code.CONSENT_MALFORMED)
    return str(value)


def _objects(tree: Json, name: str) -> list[Json]:
    """The objects under a name, whether it holds one or a list of them."""
    if name not in tree:
        return []
    value = tree[name]
    found: list[Any] = value if isinstance(value, list) else [value]
    # An empty list is not FHIR, and read as nothing said it would widen a permission.
    require(found and all(isinstance(one, dict) for one in found), Code.CONSENT_MALFORMED)
    return found


def _bare_codings(tree: Json, name: str) -> Iterator[tuple[str, str]]:
    for one in _objects(tree, name):
        yield _coding(one)


def _coding(tree: Json) -> tuple[str, str]:
    system, code = tree.get("system", ""), tree.get("code")
    require(isinstance(system, str) and isinstance(code, str), Code.CONSENT_MALFORMED)
    return str(system), str(code)


def _codings(tree: Json, name: str) -> Iterator[tuple[str, str]]:
    for one in _objects(tree, name):
        yield from _concept(one)


def _concept(tree: Json) -> Iterator[tuple[str, str]]:
    yield from _bare_codings(tree, "coding")


def _references(tree: Json, name: str) -> tuple[Named, ...]:
    return tuple(_named(one, Code.CONSENT_MALFORMED) for one in _objects(tree, name))


def _named(tree: object, code: RejectionCode) -> Named:
    """What a Reference names. Where it has an identifier of ours that counts, since an address is a place's own."""
    if not isinstance(tree, dict):
        raise Rejected(code)
    reference, logical = tree.get("reference", ""), tree.get("identifier")
    require(isinstance(reference, str), Code.CONSENT_MALFORMED)
    by_id = _identifier(logical) if isinstance(logical, dict) else Named()
    require(reference or by_id.value, code)
    return Named(reference=reference, system=by_id.system, value=by_id.value)


def _identifier(tree: Json) -> Named:
    system, value = tree.get("system", ""), tree.get("value", "")
    require(isinstance(system, str) and isinstance(value, str), Code.CONSENT_MALFORMED)
    return Named(system=system, value=value)
