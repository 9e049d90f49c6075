"""The International Patient Summary: one document Bundle from whatever of a patient's resources is seen (REC-11).

Pure: resources in, a document out. A section that IPS requires and for which nothing is there says so with an
``emptyReason``; other sections are left out. Whether more exists than the reader sees, nothing here tells.
Source: HL7 FHIR International Patient Summary 2.0.
"""

from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from html import escape
from typing import Any, Final

import msgspec
from msgspec import Struct

Json = dict[str, Any]

IPS: Final = "http://hl7.org/fhir/uv/ips/StructureDefinition/"
LOINC: Final = "http://loinc.org"
EMPTY_REASON: Final = "http://terminology.hl7.org/CodeSystem/list-empty-reason"
XHTML: Final = "http://www.w3.org/1999/xhtml"
SECTION_ENTRIES: Final = 200
"""Entries of one section; of more, the latest are taken, and the narrative says how many there were."""
NARRATIVE_CHARS: Final = 120
"""So much of one resource's name stands in the narrative."""

_decoder = msgspec.json.Decoder(float_hook=Decimal)
_encoder = msgspec.json.Encoder(decimal_format="number")


def decode_exact(body: bytes) -> Any:  # noqa: ANN401 - JSON can be anything
    """Parsed JSON whose decimals keep their digits: 72.50 is written as 72.50 again. Raises ``msgspec.DecodeError``."""
    return _decoder.decode(body)


class Part(Struct, frozen=True, kw_only=True):
    """The patient's resources at one organisation: its name, its FHIR address, and its Organization resource.

    Resources that have the same id at two organisations are two resources.
    """

    source: str
    base_url: str
    author: Json
    resources: Sequence[Json]


class Missing(Struct, frozen=True, kw_only=True):
    """A source whose part is not in the document, by name, and why."""

    source: str
    reason: str


class Stamp(Struct, frozen=True, kw_only=True):
    """What makes the document a document: its id (a UUID), when it was made (a FHIR instant), and where."""

    uuid: str
    instant: str
    custodian: Json
    base_url: str


class Section(Struct, frozen=True, kw_only=True):
    """A section of the IPS Composition: its LOINC code, which resources belong to it, and whether it must be there."""

    title: str
    code: str
    display: str
    belongs: Callable[[Json], bool]
    required: bool = False


def _status(tree: Json, key: str) -> set[str]:
    """The codes of a CodeableConcept, or of a plain code."""
    value = tree.get(key)
    if isinstance(value, str):
        return {value}
    concepts = value if isinstance(value, list) else [value]
    return {str(one.get("code")) for concept in concepts if isinstance(concept, dict) for one in codings_of(concept)}


def codings_of(concept: Json) -> list[Json]:
    """The codings of a CodeableConcept; of another organisation's resource anything may stand there."""
    codings = concept.get("coding")
    return [one for one in codings if isinstance(one, dict)] if isinstance(codings, list) else []


def _of(*types: str) -> Callable[[Json], bool]:
    return lambda tree: tree["resourceType"] in types


def _observed(*categories: str) -> Callable[[Json], bool]:
    return lambda tree: tree["resourceType"] == "Observation" and bool(_status(tree, "category") & {*categories})


_PAST: Final = frozenset({"inactive", "remission", "resolved"})
_PREGNANCY: Final = frozenset({"82810-3", "11636-8", "11637-6", "11638-4", "11639-2", "11640-0", "11612-9", "11778-8"})
_TOBACCO_ALCOHOL: Final = frozenset({"72166-2", "74013-4"})


def _is_problem(tree: Json) -> bool:
    return tree["resourceType"] == "Condition" and not _status(tree, "clinicalStatus") & _PAST


def _is_past_problem(tree: Json) -> bool:
    return tree["resourceType"] == "Condition" and bool(_status(tree, "clinicalStatus") & _PAST)


def _is_result(tree: Json) -> bool:
    if tree["resourceType"] == "DiagnosticReport":
        return bool(_status(tree, "category") & {"LAB", "RAD", "PAT", "laboratory", "imaging"})
    return _observed("laboratory", "imaging")(tree) and not _is_pregnancy(tree)


def _is_pregnancy(tree: Json) -> bool:
    return tree["resourceType"] == "Observation" and bool(_status(tree, "code") & _PREGNANCY)


def _is_social(tree: Json) -> bool:
    habits = tree["resourceType"] == "Observation" and bool(_status(tree, "code") & _TOBACCO_ALCOHOL)
    return habits or (_observed("social-history")(tree) and not _is_pregnancy(tree))


SECTIONS: Final = (
    Section(
        title="Problem List",
        code="11450-4",
        display="Problem list - Reported",
        belongs=_is_problem,
        required=True,
    ),
    Section(
        title="Allergies and Intolerances",
        code="48765-2",
        display="Allergies and adverse reactions Document",
        belongs=_of("AllergyIntolerance"),
        required=True,
    ),
    Section(
        title="Medication Summary",
        code="10160-0",
        display="History of Medication use Narrative",
        belongs=_of("MedicationStatement", "MedicationRequest"),
        required=True,
    ),
    Section(
        title="Immunizations",
        code="11369-6",
        display="History of Immunization note",
        belongs=_of("Immunization"),
    ),
    Section(
        title="Results",
        code="30954-2",
        display="Relevant diagnostic tests/laboratory data note",
        belongs=_is_result,
    ),
    Section(
        title="History of Procedures",
        code="47519-4",
        display="History of Procedures Document",
        belongs=_of("Procedure"),
    ),
    Section(
        title="Device Use",
        code="46264-8",
        display="History of medical device use",
        belongs=_of("DeviceUseStatement"),
    ),
    Section(title="Vital Signs", code="8716-3", display="Vital signs note", belongs=_observed("vital-signs")),
    Section(title="Social History", code="29762-2", display="Social history note", belongs=_is_social),
    Section(
        title="History of Pregnancy",
        code="10162-6",
        display="History of pregnancies Narrative",
        belongs=_is_pregnancy,
    ),
    Section(
        title="History of Past Problems",
        code="11348-0",
        display="History of Past illness note",
        belongs=_is_past_problem,
    ),
    Section(title="Plan of Care", code="18776-5", display="Plan of care note", belongs=_of("CarePlan")),
    Section(title="Alerts", code="104605-1", display="Alert", belongs=_of("Flag")),
)
"""What the document tells, in its order. Resources in no section are not part of it."""

_DEAD: Final = frozenset({"entered-in-error", "cancelled", "not-done"})
_DATES: Final = (
    ("effectiveDateTime",),
    ("effectivePeriod", "start"),
    ("performedDateTime",),
    ("performedPeriod", "start"),
    ("occurrenceDateTime",),
    ("authoredOn",),
    ("dateAsserted",),
    ("onsetDateTime",),
    ("recordedDate",),
    ("issued",),
    ("period", "start"),
    ("date",),
)
_CALLED: Final = ("code", "medicationCodeableConcept", "vaccineCode", "title", "description")


def summary(patient: Json, parts: Sequence[Part], stamp: Stamp, *, missing: Iterable[Missing] = ()) -> bytes:
    """The document as a Bundle (JSON), about the Patient resource ``patient`` at ``stamp.base_url``.

    Every reference of the Composition leads to an entry; what else is referred to and is not in the document keeps
    its reference. Resources are taken as they are.
    """
    entries = _Entries()
    subject = entries.add(patient, stamp.base_url)
    custodian = entries.add(stamp.custodian, stamp.base_url)
    absent = tuple(missing)
    authors = [custodian, *(entries.add(part.author, part.base_url) for part in parts)]
    sections = [found for one in SECTIONS if (found := _section(one, parts, entries, absent)) is not None]
    for part in parts:
        entries.add_referred(part)
    composition: Json = {
        "resourceType": "Composition",
        "id": stamp.uuid,
        "meta": {"profile": [IPS + "Composition-uv-ips"]},
        "text": _narrative("International Patient Summary", _missing_lines(absent)),
        "status": "final",
        "type": {"coding": [{"system": LOINC, "code": "60591-5", "display": "Patient summary Document"}]},
        "subject": subject,
        "date": stamp.instant,
        "author": [{"reference": one} for one in dict.fromkeys(one["reference"] for one in authors)],
        "title": "International Patient Summary",
        "custodian": custodian,
        "section": sections,
    }
    first = {"fullUrl": _address(stamp.base_url, composition), "resource": composition}
    document = {
        "resourceType": "Bundle",
        "id": stamp.uuid,
        "meta": {"profile": [IPS + "Bundle-uv-ips"]},
        "identifier": {"system": "urn:ietf:rfc:3986", "value": f"urn:uuid:{stamp.uuid}"},
        "type": "document",
        "timestamp": stamp.instant,
        "entry": [first, *entries.entries.values()],
    }
    return _encoder.encode(document)


class _Entries:
    """The document's entries by address, each resource once."""

    def __init__(self) -> None:
        self.entries: dict[str, Json] = {}

    def add(self, resource: Json, base_url: str) -> Json:
        """Put a resource into the document; returns the reference to it."""
        address = _address(base_url, resource)
        self.entries.setdefault(address, {"fullUrl": address, "resource": resource})
        return {"reference": address}

    def add_referred(self, part: Part) -> None:
        """Add what entries of this part refer to and the part holds: a medication, a specimen, a practitioner."""
        at_hand = {_address(part.base_url, one): one for one in part.resources if isinstance(one.get("id"), str)}
        waiting = [one["resource"] for address, one in self.entries.items() if address in at_hand]
        while waiting:
            for name in references(waiting.pop()):
                address = f"{part.base_url.rstrip('/')}/{name}"
                if address in at_hand and address not in self.entries and not name.startswith("Encounter/"):
                    self.add(at_hand[address], part.base_url)
                    waiting.append(at_hand[address])


def _address(base_url: str, resource: Json) -> str:
    return f"{base_url.rstrip('/')}/{resource['resourceType']}/{resource['id']}"


def _section(section: Section, parts: Sequence[Part], entries: _Entries, missing: Sequence[Missing]) -> Json | None:
    seen: dict[str, tuple[Json, Part]] = {}
    for part in parts:
        for one in part.resources:
            alive = not (_status(one, "status") | _status(one, "verificationStatus")) & _DEAD
            if alive and isinstance(one.get("id"), str) and section.belongs(one):
                seen.setdefault(_address(part.base_url, one), (one, part))
    head: Json = {
        "title": section.title,
        "code": {"coding": [{"system": LOINC, "code": section.code, "display": section.display}]},
    }
    if not seen:
        return _empty(section, head, missing) if section.required else None
    latest_first = sorted(seen.values(), key=lambda one: date_of(one[0]), reverse=True)
    shown = latest_first[:SECTION_ENTRIES]
    lines = [_line(resource, part.source) for resource, part in shown]
    if len(latest_first) > len(shown):
        lines.append(f"{len(latest_first) - len(shown)} older ones are not in this document.")
    return {
        **head,
        "text": _narrative(section.title, lines),
        "entry": [entries.add(resource, part.base_url) for resource, part in shown],
    }


def _empty(section: Section, head: Json, missing: Sequence[Missing]) -> Json:
    words = "Nothing is recorded in what this reader may see."
    reason = {"system": EMPTY_REASON, "code": "unavailable", "display": "Unavailable"}
    return {
        **head,
        "text": _narrative(section.title, [words, *_missing_lines(missing)]),
        "emptyReason": {"coding": [reason], "text": words},
    }


def references(node: object) -> list[str]:
    """Every relative reference (``Type/id``) in a resource, in document order."""
    found: list[str] = []
    stack: list[object] = [node]
    while stack:
        one = stack.pop()
        if isinstance(one, dict):
            reference = one.get("reference")
            if isinstance(reference, str):
                found.append(reference)
            stack.extend(reversed(list(one.values())))
        elif isinstance(one, list):
            stack.extend(reversed(one))
    return found


def date_of(resource: Json) -> str:
    """The resource's clinical date as it was written; empty where it has none."""
    for path in _DATES:
        value: object = resource
        for step in path:
            value = value.get(step) if isinstance(value, dict) else None
        if isinstance(value, str):
            return value
    return ""


def name_of(resource: Json) -> str:
    """What people would call the resource: the text or the first display of its code; its type where it has none."""
    for key in _CALLED:
        value = resource.get(key)
        if isinstance(value, str):
            return value
        if isinstance(value, dict):
            texts = [value.get("text"), *(one.get("display") for one in codings_of(value))]
            named = next((one for one in texts if isinstance(one, str) and one), None)
            if named is not None:
                return named
    return str(resource["resourceType"])


def _line(resource: Json, source: str) -> str:
    name = name_of(resource)
    short = name if len(name) <= NARRATIVE_CHARS else name[: NARRATIVE_CHARS - 1] + "…"
    return " · ".join(one for one in (short, _value(resource), date_of(resource)[:10], source) if one)


def _value(resource: Json) -> str:
    quantity = resource.get("valueQuantity")
    if isinstance(quantity, dict) and "value" in quantity:
        return f"{quantity['value']} {quantity.get('unit') or quantity.get('code') or ''}".strip()
    text = resource.get("valueString")
    return text[:NARRATIVE_CHARS] if isinstance(text, str) else ""


def _missing_lines(missing: Sequence[Missing]) -> list[str]:
    return [f"Not included: {one.source} ({one.reason})." for one in missing]


def _narrative(title: str, lines: Sequence[str]) -> Json:
    """A generated narrative; everything that comes from a resource is escaped."""
    items = "".join(f"<li>{_clean(one)}</li>" for one in lines)
    body = f"<ul>{items}</ul>" if items else ""
    return {"status": "generated", "div": f'<div xmlns="{XHTML}"><p>{_clean(title)}</p>{body}</div>'}


def _clean(text: str) -> str:
    """Escaped, and without the control characters that XHTML does not know."""
    return escape("".join(one for one in text if one >= " " or one in "\t\n"))
