"""OBX as Observation: the value in its own type, with unit, range, flags and status (HL7 2.5.1 section 7.4.2)."""

import base64
import binascii
import re
from typing import Final

from carechain.sources.bundles import Json
from carechain.sources.hl7v2.message import Composite, Segment
from carechain.sources.hl7v2.values import Place, concept, moment_of, number
from carechain.sources.imports.codes import ImportCode

_CATEGORIES: Final = "http://terminology.hl7.org/CodeSystem/observation-category"
_INTERPRETATIONS: Final = "http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation"
_ABSENT: Final = "http://terminology.hl7.org/CodeSystem/data-absent-reason"
_UCUM: Final = "http://unitsofmeasure.org"
LABORATORY: Final = frozenset(
    {"LAB", "CH", "HM", "MB", "BLB", "IMM", "TX", "SR", "SP", "CP", "MCB", "MYC", "OSL", "VR"}
)
IMAGING: Final = frozenset({"RAD", "RUS", "CT", "CUS", "NMR", "NMS", "VUS", "XRC", "OUS", "MR"})
"""Table 0074, by what FHIR calls a category."""
_FLAGS: Final = frozenset(
    {"L", "H", "LL", "HH", "N", "A", "AA", "U", "D", "B", "W", "S", "R", "I", "POS", "NEG", "IND"}
)
STATUS: Final = {
    "F": "final",
    "": "final",
    "U": "final",
    "C": "corrected",
    "P": "preliminary",
    "R": "preliminary",
    "S": "preliminary",
    "B": "preliminary",
    "I": "registered",
    "O": "registered",
    "N": "registered",
    "X": "cancelled",
    "D": "entered-in-error",
    "W": "entered-in-error",
}
"""Table 0085."""
_TEXT: Final = ("ST", "TX", "FT", "ID", "IS", "")
_CODED: Final = ("CE", "CWE", "CNE", "CF")
_TIMES: Final = ("DT", "TS", "DTM")
ENCAPSULATED: Final = "ED"
_COMPARATORS: Final = {"<": "<", "<=": "<=", ">": ">", ">=": ">=", "=": None, "": None}
_RANGE: Final = re.compile(r"\s*(\d{1,12}(?:\.\d{1,12})?)\s*(?:-|~|–|to)\s*(\d{1,12}(?:\.\d{1,12})?)\s*")
_CLOCK: Final = re.compile(r"([01]\d|2[0-3])([0-5]\d)([0-5]\d)?", re.ASCII)
_MEDIA: Final = {
    "PDF": "application/pdf",
    "JPEG": "image/jpeg",
    "JPG": "image/jpeg",
    "PNG": "image/png",
    "TIFF": "image/tiff",
}
_MIME: Final = re.compile(r"[a-z]{1,20}/[a-z0-9.+\-]{1,60}", re.ASCII)


def observation(obx: Segment, *, section: str, effective: str | None, place: Place) -> Json:
    """What an OBX says, without id, subject and context."""
    what = concept(obx.first(3))
    if what is None:
        raise obx.refused(ImportCode.FIELD_MISSING, 3)
    status = STATUS.get(obx.text(11))
    if status is None:
        raise obx.refused(ImportCode.VALUE_UNKNOWN, 11)
    return {
        "status": status,
        "category": _category(section),
        "code": what,
        "effectiveDateTime": moment_of(obx.text(14), obx, 14, place) or effective,
        **_value(obx, what, place),
        "interpretation": _interpretation(obx),
        "referenceRange": _reference_range(obx),
        "method": concept(obx.first(17)),
        "performer": [{"display": obx.text(23)}] if obx.text(23) else [],
    }


def _category(section: str) -> list[Json]:
    name = "laboratory" if section in LABORATORY else "imaging" if section in IMAGING else None
    return [{"coding": [{"system": _CATEGORIES, "code": name}]}] if name else []


def _value(obx: Segment, what: Json, place: Place) -> Json:
    kind = obx.text(2)
    if kind in _TEXT:
        text = obx.whole(5).strip()
        return {"valueString": text} if text else _absent()
    values = obx.repetitions(5)
    if not values:
        return _absent()
    made = [_typed(one, kind, obx, place) for one in values]
    if len(made) == 1:
        return made[0]
    # FHIR has one value; several are components under the same code.
    return {"component": [{"code": what, **one} for one in made]}


def _absent() -> Json:
    return {"dataAbsentReason": {"coding": [{"system": _ABSENT, "code": "unknown"}]}}


def _typed(value: Composite, kind: str, obx: Segment, place: Place) -> Json:
    if kind == "NM":
        return {"valueQuantity": {"value": number(value.text(1), obx, 5), **unit(obx)}}
    if kind == "SN":
        return _structured(value, obx)
    if kind in _CODED:
        found = concept(value)
        return {"valueCodeableConcept": found} if found else _absent()
    if kind in _TIMES:
        return {"valueDateTime": moment_of(value.text(1), obx, 5, place)}
    if kind == "TM":
        clock = _CLOCK.fullmatch(value.text(1)[:6])
        if clock is None:
            raise obx.refused(ImportCode.FIELD_MALFORMED, 5)
        return {"valueTime": f"{clock[1]}:{clock[2]}:{clock[3] or '00'}"}
    raise obx.refused(ImportCode.VALUE_UNKNOWN, 2)


def _structured(value: Composite, obx: Segment) -> Json:
    """SN: a comparison, a range or a ratio."""
    comparator, first, separator, second = (value.text(part) for part in (1, 2, 3, 4))
    if comparator not in _COMPARATORS or separator not in ("", "-", ":", "/"):
        raise obx.refused(ImportCode.FIELD_MALFORMED, 5)
    low: Json = {"value": number(first, obx, 5), **unit(obx)}
    if not separator:
        return {"valueQuantity": {**low, "comparator": _COMPARATORS[comparator]}}
    high: Json = {"value": number(second, obx, 5), **unit(obx)}
    if separator == "-":
        return {"valueRange": {"low": low, "high": high}}
    return {"valueRatio": {"numerator": {"value": low["value"]}, "denominator": {"value": high["value"]}}}


def unit(obx: Segment) -> Json:
    """OBX-6: a UCUM unit with its code where the sender says that it is one."""
    said = obx.first(6)
    code = said.text(1)
    if not code:
        return {}
    shown = said.text(2) or code
    return {"unit": shown, "system": _UCUM, "code": code} if said.text(3) == "UCUM" else {"unit": shown}


def _interpretation(obx: Segment) -> list[Json]:
    found: list[Json] = []
    for one in obx.repetitions(8):
        flag = one.text(1)
        found.append({"coding": [{"system": _INTERPRETATIONS, "code": flag}]} if flag in _FLAGS else {"text": flag})
    return found


def _reference_range(obx: Segment) -> list[Json]:
    text = obx.whole(7).strip()
    if not text:
        return []
    bounds = _RANGE.fullmatch(text)
    if bounds is None:
        return [{"text": text}]
    low, high = ({"value": number(part, obx, 7), **unit(obx)} for part in bounds.groups())
    return [{"low": low, "high": high, "text": text}]


def attachment(obx: Segment) -> Json:
    """An encapsulated document (ED) as an Attachment. Raises ``Rejected(FIELD_MALFORMED)``."""
    value = obx.first(5)
    kind, subtype, encoding, data = (value.text(part) for part in (2, 3, 4, 5))
    shown = f"{kind}/{subtype}".lower()
    media = _MEDIA.get(subtype.upper()) or (shown if _MIME.fullmatch(shown) else "application/octet-stream")
    packed = "".join(data.split())
    if encoding.upper() not in ("BASE64", "") or not packed:
        raise obx.refused(ImportCode.FIELD_MALFORMED, 5)
    try:
        base64.b64decode(packed, validate=True)
    except (binascii.Error, ValueError):
        raise obx.refused(ImportCode.FIELD_MALFORMED, 5) from None
    return {"contentType": media, "data": packed, "title": obx.text(3, 2) or None}
