"""ORU^R01 as DiagnosticReport with its Observations, ORM^O01 as ServiceRequest (HL7 2.5.1 chapters 4 and 7)."""

from collections import Counter
from typing import Final

from msgspec import Struct

from carechain.sources.bundles import Json, Prepared, prepared, stable_id
from carechain.sources.hl7v2.message import Composite, Message, Refused, Segment
from carechain.sources.hl7v2.observations import ENCAPSULATED, IMAGING, LABORATORY, attachment, observation
from carechain.sources.hl7v2.patients import Identity
from carechain.sources.hl7v2.values import V2_TABLES, Place, clinician, concept, moment, scope_of
from carechain.sources.imports.codes import ImportCode

_REPORT_STATUS: Final = {
    "F": "final",
    "C": "corrected",
    "P": "preliminary",
    "R": "preliminary",
    "A": "partial",
    "I": "registered",
    "S": "registered",
    "O": "registered",
    "X": "cancelled",
}
"""Table 0123."""
_ORDER_CONTROL: Final = {
    "NW": "active",
    "XO": "active",
    "RO": "active",
    "OK": "active",
    "CA": "revoked",
    "OC": "revoked",
    "CR": "revoked",
    "DC": "revoked",
    "OD": "revoked",
    "HD": "on-hold",
    "OH": "on-hold",
    "RL": "active",
}
"""Table 0119, as far as it says what becomes of an order."""
_ORDER_STATUS: Final = {
    "A": "active",
    "IP": "active",
    "SC": "active",
    "CM": "completed",
    "CA": "revoked",
    "DC": "revoked",
    "HD": "on-hold",
    "ER": "entered-in-error",
}
"""Table 0038, for ORC-1 = SC (the status changed)."""
_PRIORITY: Final = {"S": "stat", "A": "asap", "R": "routine", "T": "urgent"}


class Around(Struct, frozen=True, kw_only=True):
    """What every resource of a message shares."""

    identity: Identity
    subject: Json
    place: Place
    facility: str
    visit: Json | None


class _Group:
    """One OBR with what follows it."""

    def __init__(self, request: Segment, order: Segment | None) -> None:
        self.request = request
        self.order = order
        self.results: list[tuple[Segment, list[Segment]]] = []
        self.notes: list[Segment] = []


def _groups(message: Message) -> list[_Group]:
    """OBR by OBR, with the ORC before it. Raises ``Rejected(SEGMENT_MISSING)`` when there is none."""
    found: list[_Group] = []
    order: Segment | None = None
    for one in message.segments:
        if one.name == "ORC":
            order = one
        elif one.name == "OBR":
            found.append(_Group(one, order))
            order = None
        elif one.name == "OBX":
            if not found:
                raise Refused(ImportCode.SEGMENT_MISSING, "OBR")
            found[-1].results.append((one, []))
        elif one.name == "NTE" and found:
            last = found[-1]
            (last.results[-1][1] if last.results else last.notes).append(one)
    if not found:
        raise Refused(ImportCode.SEGMENT_MISSING, "OBR")
    return found


def _number(group: _Group, field: int) -> Composite:
    """An order number, which stands in OBR or in the ORC before it."""
    own = group.request.first(field)
    return own if own.text(1) or group.order is None else group.order.first(field)


def _numbered(group: _Group, around: Around) -> tuple[str, list[Json]]:
    """What tells an order apart, and its identifiers: the filler's number, else the placer's."""
    placer, filler = _number(group, 2), _number(group, 3)
    named = filler if filler.text(1) else placer
    if not named.text(1):
        raise group.request.refused(ImportCode.FIELD_MISSING, 3)
    identifiers: list[Json] = [
        {"type": {"coding": [{"system": V2_TABLES + "0203", "code": kind}]}, "value": one.text(1)}
        for kind, one in (("PLAC", placer), ("FILL", filler))
        if one.text(1)
    ]
    return f"{scope_of(named, 2) or around.facility}\n{named.text(1)}", identifiers


def reports(message: Message, around: Around) -> list[Prepared]:
    """The results of an ORU message."""
    return [one for group in _groups(message) for one in _report(group, around)]


def _report(group: _Group, around: Around) -> list[Prepared]:
    request = group.request
    what = concept(request.first(4))
    if what is None:
        raise request.refused(ImportCode.FIELD_MISSING, 4)
    number, identifiers = _numbered(group, around)
    own = (around.identity.authority, around.identity.value, number, request.text(4))
    began, ended = moment(request, 7, around.place), moment(request, 8, around.place)
    made = _observations(group, around, own, began)
    issued = moment(request, 22, around.place)
    report = prepared(
        {
            "resourceType": "DiagnosticReport",
            "id": stable_id("hl7-report", *own),
            "identifier": identifiers,
            "status": _status(group),
            "category": _section(request.text(24)),
            "code": what,
            "subject": around.subject,
            "encounter": around.visit,
            **({"effectivePeriod": {"start": began, "end": ended}} if ended else {"effectiveDateTime": began}),
            "issued": issued if issued and "T" in issued else None,
            "resultsInterpreter": [found for one in request.repetitions(32) if (found := clinician(one))],
            "result": [{"reference": one.key} for one in made],
            "conclusion": "\n".join(text for one in group.notes if (text := one.whole(3))) or None,
            "presentedForm": [attachment(obx) for obx, _ in group.results if obx.text(2) == ENCAPSULATED],
        }
    )
    return [*made, report]


def _status(group: _Group) -> str:
    said = group.request.text(25)
    if not said:
        return "final" if all(obx.text(11) in ("F", "C", "U", "") for obx, _ in group.results) else "preliminary"
    status = _REPORT_STATUS.get(said)
    if status is None:
        raise group.request.refused(ImportCode.VALUE_UNKNOWN, 25)
    return status


def _section(section: str) -> list[Json]:
    known = section in LABORATORY or section in IMAGING
    system = V2_TABLES + "0074" if known else None
    return [{"coding": [{"system": system, "code": section}]}] if section else []


def _observations(group: _Group, around: Around, own: tuple[str, ...], began: str | None) -> list[Prepared]:
    made: list[Prepared] = []
    repeated: Counter[tuple[str, str]] = Counter()
    for obx, notes in group.results:
        if obx.text(2) == ENCAPSULATED:
            continue
        named = (obx.text(3) or obx.text(3, 2), obx.text(4))
        repeated[named] += 1
        content = observation(obx, section=group.request.text(24), effective=began, place=around.place)
        made.append(
            prepared(
                {
                    "resourceType": "Observation",
                    "id": stable_id("hl7-result", *own, *named, str(repeated[named])),
                    **content,
                    "subject": around.subject,
                    "encounter": around.visit,
                    "note": [{"text": text} for one in notes if (text := one.whole(3).strip())],
                }
            )
        )
    return made


def orders(message: Message, around: Around) -> list[Prepared]:
    """The orders of an ORM message."""
    return [_order(group, around) for group in _groups(message)]


def _order(group: _Group, around: Around) -> Prepared:
    request, order = group.request, group.order
    if order is None:
        raise Refused(ImportCode.SEGMENT_MISSING, "ORC")
    control = order.required(1)
    known = _ORDER_STATUS.get(order.text(5)) if control == "SC" else _ORDER_CONTROL.get(control)
    if known is None:
        raise order.refused(ImportCode.VALUE_UNKNOWN, 5 if control == "SC" else 1)
    what = concept(request.first(4))
    if what is None:
        raise request.refused(ImportCode.FIELD_MISSING, 4)
    placer = _number(group, 2)
    named = placer if placer.text(1) else _number(group, 3)
    number, identifiers = _numbered(group, around)
    if placer.text(1):
        # The filler's number is not known yet when the order is placed.
        number = f"{scope_of(named, 2) or around.facility}\n{named.text(1)}"
    place = around.place
    requester = [found for one in (*order.repetitions(12), *request.repetitions(16)) if (found := clinician(one))]
    return prepared(
        {
            "resourceType": "ServiceRequest",
            "id": stable_id("hl7-order", around.identity.authority, around.identity.value, number, request.text(4)),
            "identifier": identifiers,
            "status": known,
            "intent": "order",
            "category": _section(request.text(24)),
            "priority": _PRIORITY.get(request.text(27, 6) or request.text(5)),
            "code": what,
            "subject": around.subject,
            "encounter": around.visit,
            "occurrenceDateTime": moment(request, 27, place, component=4) or moment(request, 6, place),
            "authoredOn": moment(order, 9, place),
            "requester": requester[0] if requester else None,
            "reasonCode": [found for one in request.repetitions(31) if (found := concept(one))],
            "note": [{"text": text} for one in group.notes if (text := one.whole(3).strip())],
        }
    )
