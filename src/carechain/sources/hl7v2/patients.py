"""Who a message is about: PID as a Patient, and which of its identifiers tells patients apart (HL7 2.5.1 ch. 3)."""

import json
from decimal import Decimal
from typing import Final

from msgspec import Struct

from carechain.sources.bundles import Json, Prepared, prepared, stable_id
from carechain.sources.hl7v2.message import NULL, Composite, Message, Refused, Segment
from carechain.sources.hl7v2.values import (
    V2_TABLES,
    Place,
    address,
    date_of,
    identifier,
    moment,
    person_name,
    scope_of,
    telecom,
)
from carechain.sources.imports.codes import ImportCode

GENDERS: Final = {"M": "male", "F": "female", "O": "other", "A": "other", "N": "other", "U": "unknown", "": None}
_KINDS: Final = ("MR", "PI", "PT", "")
"""Identifier types (table 0203) by which patients are told apart, best first."""


class Identity(Struct, frozen=True, kw_only=True):
    """The identifier that tells a patient apart at this organisation: the authority's name and the value."""

    authority: str
    value: str

    def __repr__(self) -> str:
        return "Identity()"

    def patient_id(self) -> str:
        """The id of the Patient, while the charts know of no other."""
        return stable_id("hl7-patient", self.authority, self.value)


def identity_of(segment: Segment, field: int, place: Place) -> Identity:
    """The identifier in a list of them (PID-3, MRG-1). Raises ``Rejected(PATIENT_UNIDENTIFIED)``."""
    found = [one for one in segment.repetitions(field) if one.text(1) and _counts(one, place)]
    for kind in _KINDS:
        for one in found:
            if one.text(5) == kind:
                return Identity(authority=scope_of(one, 4), value=one.text(1))
    raise segment.refused(ImportCode.PATIENT_UNIDENTIFIED, field)


def _counts(one: Composite, place: Place) -> bool:
    return not place.authority or scope_of(one, 4) == place.authority


def demographics(message: Message, place: Place) -> Json:
    """What PID says of the patient: elements by name; None for what it says to delete.

    An element that PID is silent about is missing, so that what is known already stays.
    """
    pid = message.required("PID")
    gender = pid.text(8)
    if gender not in GENDERS:
        raise pid.refused(ImportCode.VALUE_UNKNOWN, 8)
    said: Json = {
        "identifier": [found for one in pid.repetitions(3) if (found := identifier(one, place))],
        "name": _unless_null(pid, 5, [found for one in pid.repetitions(5) if (found := person_name(one))]),
        "birthDate": _unless_null(pid, 7, date_of(pid, 7, place)),
        "gender": _unless_null(pid, 8, GENDERS[gender]),
        "address": _unless_null(pid, 11, [found for one in pid.repetitions(11) if (found := address(one))]),
        "telecom": _telecoms(pid),
        "maritalStatus": _unless_null(pid, 16, _marital(pid)),
        **_death(pid, place),
    }
    return {name: value for name, value in said.items() if value not in ("", [])}


_ABSENT: Final[list[object]] = []


def _unless_null(segment: Segment, field: int, value: object) -> object:
    """None deletes; what is empty says nothing."""
    if segment.is_null(field):
        return None
    return value or _ABSENT


def _telecoms(pid: Segment) -> object:
    if pid.raw(13) == NULL and pid.raw(14) in ("", NULL):
        return None
    found = [(one, use) for field, use in ((13, "home"), (14, "work")) for one in pid.repetitions(field)]
    return [made for one, use in found if (made := telecom(one, use))]


def _marital(pid: Segment) -> Json | None:
    status = pid.text(16)
    if not status:
        return None
    return {"coding": [{"system": V2_TABLES + "0002", "code": status, "display": pid.text(16, 2) or None}]}


def _death(pid: Segment, place: Place) -> Json:
    died = moment(pid, 29, place)
    if died:
        return {"deceasedDateTime": died, "deceasedBoolean": None}
    if pid.text(30) == "Y":
        return {"deceasedBoolean": True, "deceasedDateTime": None}
    return {"deceasedBoolean": False, "deceasedDateTime": None} if pid.text(30) == "N" else {}


def patient(patient_id: str, said: Json, before: Prepared | None) -> Prepared:
    """The Patient with what a message says, over what was known; numbers that were known keep their digits."""
    tree: Json = {"resourceType": "Patient", "id": patient_id}
    if before is not None:
        tree = json.loads(before.body, parse_float=Decimal)
    known = tree.get("identifier")
    changed = {name: value for name, value in said.items() if name != "identifier"}
    if "deceasedDateTime" in tree and said.get("deceasedBoolean") is True:
        # The time is known already; that it happened says less.
        changed = {name: value for name, value in changed.items() if not name.startswith("deceased")}
    merged = {**tree, **changed, "identifier": _united(known if isinstance(known, list) else [], said)}
    made = prepared(merged)
    return before if before is not None and _same(before, made) else made


def _united(known: list[Json], said: Json) -> list[Json]:
    """Identifiers that were known and those that are new, each once by system, authority and value."""
    found: dict[tuple[object, ...], Json] = {}
    for one in [*known, *said.get("identifier", [])]:
        if isinstance(one, dict):
            assigner = one.get("assigner")
            shown = assigner.get("display") if isinstance(assigner, dict) else None
            found.setdefault((one.get("system") or shown, one.get("value")), one)
    return list(found.values())


def _same(before: Prepared, made: Prepared) -> bool:
    """Whether nothing changed; then the bytes as received stay."""
    left, right = (json.loads(one.body, parse_float=Decimal) for one in (before, made))
    return bool(left == right)


def merged_away(message: Message, place: Place) -> Identity:
    """The identifier that a merge (A40) gives up. Raises ``Rejected``."""
    found = message.find("MRG")
    if found is None:
        raise Refused(ImportCode.SEGMENT_MISSING, "MRG")
    return identity_of(found, 1, place)
