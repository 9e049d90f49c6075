"""HL7 v2 data types as FHIR's: times, codes, identifiers, names, addresses, numbers."""

import re
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Final
from zoneinfo import ZoneInfo

from msgspec import Struct

from carechain.sources.bundles import Json
from carechain.sources.hl7v2.message import Composite, Segment
from carechain.sources.imports.codes import ImportCode

V2_TABLES: Final = "http://terminology.hl7.org/CodeSystem/v2-"
SYSTEMS: Final = {
    "LN": "http://loinc.org",
    "LOINC": "http://loinc.org",
    "SCT": "http://snomed.info/sct",
    "SNM": "http://snomed.info/sct",
    "I10": "http://hl7.org/fhir/sid/icd-10",
    "ICD10": "http://hl7.org/fhir/sid/icd-10",
    "I10C": "http://hl7.org/fhir/sid/icd-10-cm",
    "I9C": "http://hl7.org/fhir/sid/icd-9-cm",
    "UCUM": "http://unitsofmeasure.org",
    "RXNORM": "http://www.nlm.nih.gov/research/umls/rxnorm",
    "CVX": "http://hl7.org/fhir/sid/cvx",
    "NDC": "http://hl7.org/fhir/sid/ndc",
}
"""Table 0396 where FHIR has a URI for it; a local code keeps its code and text and has no system."""

_TIME: Final = re.compile(
    r"(?P<year>\d{4})(?:(?P<month>\d\d)(?:(?P<day>\d\d)(?:(?P<hour>\d\d)(?:(?P<minute>\d\d)(?:(?P<second>\d\d)"
    r"(?:\.(?P<fraction>\d{1,4}))?)?)?)?)?)?(?P<offset>[+-]\d{4})?",
    re.ASCII,
)
_NUMBER: Final = re.compile(r"[+-]?(?:\d{1,30}(?:\.\d{0,30})?|\.\d{1,30})", re.ASCII)
_URI: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:[!-~]{1,200}", re.ASCII)
_OID: Final = re.compile(r"[0-2](?:\.\d{1,20}){1,30}", re.ASCII)
_NAME_USE: Final = {"L": "official", "D": "usual", "M": "maiden", "N": "nickname", "A": "usual", "S": "anonymous"}
_ADDRESS_USE: Final = {"H": "home", "B": "work", "O": "work", "C": "temp", "M": "home", "L": "home", "P": "home"}


class Place(Struct, frozen=True, kw_only=True):
    """What the messages of one sender leave unsaid.

    ``zone`` is that of times without an offset; ``authorities`` gives the URI of an assigning authority's name;
    ``authority`` (empty: any) is the one whose identifiers tell patients apart here.
    """

    zone: ZoneInfo
    authorities: Mapping[str, str] = {}
    authority: str = ""


def moment(segment: Segment, field: int, place: Place, *, component: int = 1) -> str | None:
    """A time stamp (TS, DTM) as a FHIR dateTime, as exact as it was sent; None where the field is empty."""
    return moment_of(segment.text(field, component), segment, field, place)


def moment_of(text: str, segment: Segment, field: int, place: Place) -> str | None:
    """As :func:`moment`, for a text that stands in ``field``. Raises ``Rejected(FIELD_MALFORMED)``."""
    if not text:
        return None
    found = _TIME.fullmatch(text)
    if found is None:
        raise segment.refused(ImportCode.FIELD_MALFORMED, field)
    parts = {name: int(found[name] or least) for name, least in _LEAST.items()}
    try:
        local = datetime(**parts, tzinfo=place.zone)
        offset = found["offset"] or local.strftime("%z")
        # The offset's own digits are checked by reading the whole back.
        datetime.fromisoformat(f"{local:%Y-%m-%dT%H:%M:%S}{offset[:3]}:{offset[3:5]}")
    except ValueError:
        raise segment.refused(ImportCode.FIELD_MALFORMED, field) from None
    if found["month"] is None:
        return found["year"]
    if found["day"] is None:
        return f"{found['year']}-{found['month']}"
    day = f"{found['year']}-{found['month']}-{found['day']}"
    if found["hour"] is None:
        return day
    fraction = f".{found['fraction']}" if found["fraction"] else ""
    clock = f"{parts['hour']:02}:{parts['minute']:02}:{parts['second']:02}{fraction}"
    return f"{day}T{clock}{offset[:3]}:{offset[3:5]}"


_LEAST: Final = {"year": 1, "month": 1, "day": 1, "hour": 0, "minute": 0, "second": 0}


def date_of(segment: Segment, field: int, place: Place) -> str | None:
    """A time stamp as a FHIR date: the calendar day as sent."""
    found = moment(segment, field, place)
    return None if found is None else found[:10]


def number(text: str, segment: Segment, field: int) -> Decimal:
    """A number (NM), with the digits it was sent with. Raises ``Rejected(FIELD_MALFORMED)``."""
    if not _NUMBER.fullmatch(text):
        raise segment.refused(ImportCode.FIELD_MALFORMED, field)
    try:
        return Decimal(text.rstrip(".") if text.endswith(".") else text)
    except InvalidOperation:
        raise segment.refused(ImportCode.FIELD_MALFORMED, field) from None


def concept(coded: Composite) -> Json | None:
    """A coded element (CE, CWE, CNE): both codings it may carry, and its original text."""
    codings = [_coding(coded, first) for first in (1, 4)]
    text = coded.text(9) or (coded.text(2) if not coded.text(1) else "")
    found: Json = {"coding": [one for one in codings if one], "text": text or None}
    return found if found["coding"] or text else None


def _coding(coded: Composite, first: int) -> Json | None:
    code, display, name = (coded.text(first + step) for step in range(3))
    if not code:
        return None
    return {"system": system_of(name), "code": code, "display": display or None}


def system_of(name: str) -> str | None:
    """The URI of a coding system that table 0396 names, a v2 table included."""
    if re.fullmatch(r"HL7\d{4}", name):
        return V2_TABLES + name[3:]
    return SYSTEMS.get(name.upper())


def identifier(value: Composite, place: Place) -> Json | None:
    """An extended identifier (CX) with its authority's URI, where one is known, and its type."""
    if not value.text(1):
        return None
    kind = value.text(5)
    return {
        "type": {"coding": [{"system": V2_TABLES + "0203", "code": kind}]} if kind else None,
        "system": authority(value, 4, place),
        "value": value.text(1),
        "assigner": {"display": value.text(4)} if value.text(4) else None,
    }


def authority(value: Composite, component: int, place: Place) -> str | None:
    """The URI of an assigning authority (HD): configured, or its own OID or URI."""
    name, universal, kind = (value.text(component, part) for part in (1, 2, 3))
    if name in place.authorities:
        return place.authorities[name]
    if kind == "ISO" and _OID.fullmatch(universal):
        return f"urn:oid:{universal}"
    if kind in ("URI", "URL") and _URI.fullmatch(universal):
        return universal
    return None


def scope_of(value: Composite, component: int) -> str:
    """An authority as it tells two equal values apart: its name, or its universal id."""
    return value.text(component, 1) or value.text(component, 2)


def person_name(name: Composite) -> Json | None:
    """A person's name (XPN). A Chinese one is written family first and without a space."""
    family, given, further, suffix, prefix = (name.text(part) for part in (1, 2, 3, 4, 5))
    if not (family or given):
        return None
    together = family + given
    written = together if _is_han(together) else " ".join(filter(None, (given, further, family)))
    return {
        "use": _NAME_USE.get(name.text(7)),
        "text": written,
        "family": family,
        "given": [one for one in (given, further) if one],
        "prefix": [prefix] if prefix else [],
        "suffix": [suffix] if suffix else [],
    }


def _is_han(text: str) -> bool:
    return bool(text) and all("\u3400" <= char <= "\u9fff" or "\U00020000" <= char <= "\U0003134f" for char in text)


def address(value: Composite) -> Json | None:
    """An address (XAD)."""
    lines = [line for line in (value.text(1), value.text(2)) if line]
    found: Json = {
        "line": lines,
        "city": value.text(3),
        "state": value.text(4),
        "postalCode": value.text(5),
        "country": value.text(6),
        "district": value.text(9),
    }
    return {"use": _ADDRESS_USE.get(value.text(7)), **found} if any(found.values()) else None


def telecom(value: Composite, use: str) -> Json | None:
    """A telephone number or mail address (XTN)."""
    if value.text(4):
        return {"system": "email", "value": value.text(4), "use": use}
    phone = value.text(12) or value.text(1) or " ".join(filter(None, (value.text(5), value.text(6), value.text(7))))
    mobile = value.text(3) == "CP"
    return {"system": "phone", "value": phone, "use": "mobile" if mobile else use} if phone else None


def clinician(value: Composite) -> Json | None:
    """A clinician (XCN) by name and number: no Practitioner is made of what a message says in passing."""
    shown = " ".join(filter(None, (value.text(6), value.text(3), value.text(2))))
    if _is_han(value.text(2) + value.text(3)):
        shown = value.text(2) + value.text(3)
    number_ = value.text(1)
    if not (shown or number_):
        return None
    return {"identifier": {"value": number_} if number_ else None, "display": shown or None}
