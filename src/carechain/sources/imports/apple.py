"""Apple Health's export: ``export.xml``, or the ZIP file as the phone makes it; a stream of any length (REC-11).

The document type definition is never read: some versions write a broken one, and nothing good hides in one. So there
are no entities, and none can expand. Control characters, which some versions let through, are left out.

Samples that come by the thousand (heart beats, steps) become one resource per day and device, unless every sample is
wanted: a clinician reads days, and a chart of a million beats helps nobody.
"""

import re
import zipfile
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any, BinaryIO, Final
from xml.parsers import expat

from carechain.core.limits import IMPORT_DAYS, IMPORT_PIECE_BYTES
from carechain.sources.bundles import Json
from carechain.sources.imports.apple_types import (
    ACTIVITY,
    GLUCOSE,
    HEALTHKIT,
    HUNDRED,
    PERCENT,
    QUANTITIES,
    SEXUAL_HEALTH,
    SINGLE_STEPS,
    SURVEY,
    UNITS,
    Kind,
)
from carechain.sources.imports.base import LOINC, Bounded, Item, Skipped, Subject, Unreadable, observation, quantity
from carechain.sources.imports.codes import ImportCode

_ROOT: Final = b"<HealthData"
_READ_BYTES: Final = 64 * 1024
_DROPPED: Final = bytes(code for code in range(0x20) if code not in (0x09, 0x0A, 0x0D))
_CHARACTER: Final = re.compile(rb"&#(?:[xX]([0-9a-fA-F]{1,8})|([0-9]{1,9}));")
_LONGEST_CHARACTER: Final = 13
_TIME: Final = re.compile(r"(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d) ([+-]\d\d)(\d\d)", re.ASCII)
_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_NUMBER: Final = re.compile(r"-?\d{1,20}(?:\.\d{1,30})?(?:[eE][+-]?\d{1,2})?", re.ASCII)
_NAME: Final = re.compile(r"[A-Za-z0-9]{1,100}", re.ASCII)
_STATISTICS: Final = "http://terminology.hl7.org/CodeSystem/observation-statistics"
_ACT: Final = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
_MEAN_DIGITS: Final = Decimal("0.001")

Attributes = dict[str, str]

NO_FORM: Final = "this element of the export has no form in FHIR here"
BAD_TIME: Final = "its time is missing or not one"
BAD_NUMBER: Final = "its value is missing or not a number"
BAD_TYPE: Final = "its type is missing or not a name"
DEMOGRAPHICS: Final = "who the patient is comes from the organisation, not from a phone"
CORRELATION: Final = "its parts are imported as samples of their own"
CLINICAL: Final = "records of other organisations are imported from their own files"


class AppleHealth:
    """The importer of Apple Health's exports."""

    kind = "apple-health"

    def __init__(self, *, every_sample: bool = False) -> None:
        self._every_sample = every_sample

    def read(self, file: BinaryIO, subject: Subject) -> Iterator[Item]:
        """The export's samples; sums of days come at the end."""
        if file.read(4) == b"PK\x03\x04":
            file.seek(0)
            yield from self._zipped(file, subject)
        else:
            file.seek(0)
            yield from self._elements(Bounded(file), subject)

    def _zipped(self, file: BinaryIO, subject: Subject) -> Iterator[Item]:
        try:
            with zipfile.ZipFile(file) as archive:
                # The file's name is in the phone's language; the other XML file is the same again as CDA.
                found = [
                    one
                    for one in archive.infolist()
                    if one.filename.lower().endswith(".xml") and not one.filename.lower().endswith("_cda.xml")
                ]
                if not found:
                    raise Unreadable(ImportCode.FILE_MALFORMED)
                with archive.open(max(found, key=lambda one: one.file_size)) as inside:
                    yield from self._elements(Bounded(inside), subject)  # type: ignore[arg-type]
        except (zipfile.BadZipFile, EOFError):
            raise Unreadable(ImportCode.FILE_TRUNCATED) from None
        except (NotImplementedError, RuntimeError, zipfile.LargeZipFile):
            # Encrypted, or packed in a way that exports are not.
            raise Unreadable(ImportCode.FILE_MALFORMED) from None

    def _elements(self, stream: Bounded, subject: Subject) -> Iterator[Item]:
        days = _Days()
        for name, attributes, place in _top_level(stream):
            if name == "Record":
                yield from self._record(attributes, place, subject, days)
            elif name == "Workout":
                yield _workout(attributes, place, subject)
            elif name == "ActivitySummary":
                yield _activity(attributes, place, subject)
            else:
                yield Skipped(reason=_WHY_NOT.get(name, NO_FORM), place=place)
        yield from days.resources(subject)

    def _record(self, sample: Attributes, place: str, subject: Subject, days: "_Days") -> Iterator[Item]:
        named, times = sample.get("type", ""), _times(sample)
        if times is None:
            yield Skipped(reason=BAD_TIME, place=place)
            return
        if not _NAME.fullmatch(named):
            yield Skipped(reason=BAD_TYPE, place=place)
        elif not named.startswith("HKQuantityTypeIdentifier"):
            yield _category_sample(sample, named, times, subject)
        else:
            short = named.removeprefix("HKQuantityTypeIdentifier")
            kind = QUANTITIES.get(short, Kind("", "", ACTIVITY))
            value = _number(sample)
            if value is None:
                yield Skipped(reason=BAD_NUMBER, place=place)
            elif kind.daily and not self._every_sample:
                days.add(short, sample, times[0], value)
            else:
                yield _sample(sample, short, kind, times, value, subject)


_WHY_NOT: Final = {"Me": DEMOGRAPHICS, "Correlation": CORRELATION, "ClinicalRecord": CLINICAL}


# --- the stream -----------------------------------------------------------------------------------------


def _top_level(stream: Bounded) -> Iterator[tuple[str, Attributes, str]]:
    """Name, attributes and place of each child of the root, as soon as it begins."""
    waiting: list[tuple[str, Attributes, str]] = []
    state = {"depth": 0, "seen": 0}
    parser = expat.ParserCreate("utf-8")
    parser.buffer_text = False

    def start(name: str, attributes: Attributes) -> None:
        state["depth"] += 1
        state["seen"] = parser.CurrentByteIndex
        if state["depth"] == 2 and name != "ExportDate":  # noqa: PLR2004 - the root's children
            waiting.append((name, attributes, f"line {parser.CurrentLineNumber}"))

    def end(_name: str) -> None:
        state["depth"] -= 1
        state["seen"] = parser.CurrentByteIndex

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    fed, line = 0, 0
    for piece, final, dropped_lines in _clean(stream):
        line = dropped_lines
        try:
            parser.Parse(piece, final)
        except expat.ExpatError as error:
            place = f"line {error.lineno + line}"
            truncated = final and error.code in _CUT_OFF
            raise Unreadable(ImportCode.FILE_TRUNCATED if truncated else ImportCode.FILE_MALFORMED, place) from None
        fed += len(piece)
        if fed - state["seen"] > IMPORT_PIECE_BYTES:
            raise Unreadable(ImportCode.FILE_TOO_LARGE, f"line {parser.CurrentLineNumber + line}")
        for name, attributes, place in waiting:
            yield name, attributes, place if not line else f"line {int(place.split()[1]) + line}"
        waiting.clear()


_CUT_OFF: Final = frozenset(
    expat.errors.codes[one]
    for one in (
        expat.errors.XML_ERROR_NO_ELEMENTS,
        expat.errors.XML_ERROR_UNCLOSED_TOKEN,
        expat.errors.XML_ERROR_PARTIAL_CHAR,
        "asynchronous entity",
        "unclosed CDATA section",
    )
    if one in expat.errors.codes
)


def _clean(stream: Bounded) -> Iterator[tuple[bytes, bool, int]]:
    """The document from its root on, without what XML forbids; with how many lines were left out before it."""
    head = b""
    while (begin := _root(head)) < 0:
        piece = stream.read(_READ_BYTES)
        if not piece:
            raise Unreadable(ImportCode.FILE_TRUNCATED if _may_become(head) else ImportCode.FILE_MALFORMED)
        head += piece
        if len(head) > IMPORT_PIECE_BYTES:
            raise Unreadable(ImportCode.FILE_MALFORMED)
    lines, rest = head.count(b"\n", 0, begin), head[begin:]
    while piece := stream.read(_READ_BYTES):
        rest += piece
        # A character reference may be cut in two here: its beginning waits for the next piece.
        cut = rest.rfind(b"&", max(0, len(rest) - _LONGEST_CHARACTER))
        cut = len(rest) if cut < 0 or b";" in rest[cut:] else cut
        yield _permitted(rest[:cut]), False, lines
        rest = rest[cut:]
    yield _permitted(rest), True, lines


def _root(head: bytes) -> int:
    """Where the root element begins. The document type definition names it too, but never after ``<``."""
    begin = head.find(_ROOT)
    return (
        begin if begin >= 0 and head[begin + len(_ROOT) : begin + len(_ROOT) + 1] in (b" ", b">", b"\n", b"\r") else -1
    )


def _may_become(head: bytes) -> bool:
    """Whether what there is could be the beginning of an export."""
    return head.lstrip(b"\xef\xbb\xbf \r\n").startswith((b"<?xml", b"<!DOCTYPE HealthData"))


def _permitted(piece: bytes) -> bytes:
    return _CHARACTER.sub(_character, piece.translate(None, _DROPPED))


def _character(found: re.Match[bytes]) -> bytes:
    code = int(found[1], 16) if found[1] else int(found[2])
    forbidden = (code < 0x20 and code not in (0x09, 0x0A, 0x0D)) or 0xD800 <= code <= 0xDFFF or code > 0x10FFFF  # noqa: PLR2004
    return b"" if forbidden or code in (0xFFFE, 0xFFFF) else found[0]


# --- samples --------------------------------------------------------------------------------------------


def _times(sample: Attributes) -> tuple[str, str] | None:
    start, end = (_moment(sample.get(name, "")) for name in ("startDate", "endDate"))
    return None if start is None else (start, end or start)


def _moment(text: str) -> str | None:
    found = _TIME.fullmatch(text)
    if found is None:
        return None
    moment = f"{found[1]}T{found[2]}{found[3]}:{found[4]}"
    try:
        datetime.fromisoformat(moment)
    except ValueError:
        return None
    return moment


def _number(sample: Attributes, name: str = "value") -> Decimal | None:
    text = sample.get(name, "")
    if not _NUMBER.fullmatch(text):
        return None
    try:
        value = Decimal(text)
    except InvalidOperation:
        return None
    return value * HUNDRED if sample.get("unit") == PERCENT and name == "value" else value


def _unit(text: str) -> tuple[str, str | None]:
    """A unit as it is shown, and as UCUM has it. Glucose comes with the mass of a mole in the middle."""
    shown = re.sub(r"mmol<[0-9.]{1,30}>", "mmol", text)
    return shown, UNITS.get(shown)


def _code(short: str, kind: Kind, unit: str, *, daily: bool) -> Json:
    loinc, display = (kind.loinc, kind.display)
    if short == "BloodGlucose" and unit in GLUCOSE:
        loinc, display = GLUCOSE[unit]
    if short == "StepCount" and not daily:
        loinc, display = SINGLE_STEPS
    codings: list[Json] = [{"system": LOINC, "code": loinc, "display": display}] if loinc else []
    return {
        "coding": [*codings, {"system": HEALTHKIT, "code": f"HKQuantityTypeIdentifier{short}"}],
        "text": display or short,
    }


def _when(times: tuple[str, str]) -> Json:
    start, end = times
    return {"effectiveDateTime": start} if start == end else {"effectivePeriod": {"start": start, "end": end}}


def _sample(
    sample: Attributes, short: str, kind: Kind, times: tuple[str, str], value: Decimal, subject: Subject
) -> Item:
    shown, ucum = _unit(sample.get("unit", ""))
    source = sample.get("sourceName", "")
    return observation(
        subject,
        resource_id=subject.id_of("apple-sample", short, source, *times, shown, sample.get("value", "")),
        category=kind.category,
        code=_code(short, kind, shown, daily=False),
        when=_when(times),
        device=source,
        valueQuantity=quantity(value, shown, ucum),
    )


def _category_sample(sample: Attributes, named: str, times: tuple[str, str], subject: Subject) -> Item:
    """A sample that is a choice, such as a stage of sleep."""
    value, source = sample.get("value", ""), sample.get("sourceName", "")
    short = re.sub("^HK(?:Category|Data)TypeIdentifier", "", named)
    said = {"coding": [{"system": HEALTHKIT, "code": value}]} if _NAME.fullmatch(value) else {"text": value}
    labels = [{"system": _ACT, "code": "SEX"}] if short in SEXUAL_HEALTH else []
    return observation(
        subject,
        resource_id=subject.id_of("apple-sample", named, source, *times, value),
        category=SURVEY if labels else ACTIVITY,
        code={"coding": [{"system": HEALTHKIT, "code": named}], "text": short},
        when=_when(times),
        device=source,
        valueCodeableConcept=said if value else None,
        meta={"security": labels} if labels else None,
    )


def _workout(workout: Attributes, place: str, subject: Subject) -> Item:
    named, times = workout.get("workoutActivityType", ""), _times(workout)
    if times is None:
        return Skipped(reason=BAD_TIME, place=place)
    if not _NAME.fullmatch(named):
        return Skipped(reason=BAD_TYPE, place=place)
    source = workout.get("sourceName", "")
    parts = (
        ("duration", "durationUnit", {"coding": [{"system": LOINC, "code": "55411-3"}], "text": "Exercise duration"}),
        ("totalDistance", "totalDistanceUnit", {"text": "Distance"}),
        (
            "totalEnergyBurned",
            "totalEnergyBurnedUnit",
            {"coding": [{"system": LOINC, "code": "41981-2"}], "text": "Energy"},
        ),
    )
    return observation(
        subject,
        resource_id=subject.id_of("apple-workout", named, source, *times),
        category=ACTIVITY,
        code={"coding": [{"system": HEALTHKIT, "code": named}], "text": named.removeprefix("HKWorkoutActivityType")},
        when=_when(times),
        device=source,
        component=[
            {"code": code, "valueQuantity": quantity(value, *_unit(workout.get(unit, "")))}
            for name, unit, code in parts
            if (value := _number(workout, name)) is not None
        ],
    )


def _activity(summary: Attributes, place: str, subject: Subject) -> Item:
    """A day's rings."""
    day = summary.get("dateComponents", "")
    if not _DAY.fullmatch(day) or _moment(f"{day} 00:00:00 +0000") is None:
        return Skipped(reason=BAD_TIME, place=place)
    parts = (
        ("activeEnergyBurned", "activeEnergyBurnedUnit", "", "Active energy"),
        ("appleExerciseTime", "", "min", "Exercise time"),
        ("appleStandHours", "", "hr", "Hours with standing"),
    )
    return observation(
        subject,
        resource_id=subject.id_of("apple-activity", day),
        category=ACTIVITY,
        code={"coding": [{"system": HEALTHKIT, "code": "HKActivitySummary"}], "text": "Activity of the day"},
        when={"effectiveDateTime": day},
        component=[
            {"code": {"text": text}, "valueQuantity": quantity(value, *_unit(unit or summary.get(unit_name, "")))}
            for name, unit_name, unit, text in parts
            if (value := _number(summary, name)) is not None
        ],
    )


class _Days:
    """Sums by kind, device, unit and day; at most ``IMPORT_DAYS`` of them."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str, str, str], list[Any]] = {}

    def add(self, short: str, sample: Attributes, start: str, value: Decimal) -> None:
        """Count a sample in; the day is that of its beginning, where the device was."""
        key = (short, sample.get("sourceName", ""), sample.get("unit", ""), start[:10])
        known = self._sums.get(key)
        if known is None:
            if len(self._sums) >= IMPORT_DAYS:
                raise Unreadable(ImportCode.FILE_TOO_LARGE)
            self._sums[key] = [1, value, value, value]
            return
        known[0] += 1
        known[1] += value
        known[2] = min(known[2], value)
        known[3] = max(known[3], value)

    def resources(self, subject: Subject) -> Iterator[Item]:
        """One Observation for each day, device and kind."""
        for (short, source, unit, day), (count, total, least, greatest) in self._sums.items():
            kind = QUANTITIES[short]
            shown, ucum = _unit(unit)
            value = total if kind.daily == "sum" else (total / count).quantize(_MEAN_DIGITS)
            parts = [("count", Decimal(count), "", "1")]
            if kind.daily == "mean":
                parts += [("minimum", least, shown, ucum or ""), ("maximum", greatest, shown, ucum or "")]
            method = "sum" if kind.daily == "sum" else "average"
            yield observation(
                subject,
                resource_id=subject.id_of("apple-day", short, source, unit, day),
                category=kind.category,
                code=_code(short, kind, shown, daily=True),
                when={"effectiveDateTime": day},
                device=source,
                valueQuantity=quantity(value, shown, ucum),
                method={"coding": [{"system": _STATISTICS, "code": method}]},
                component=[
                    {
                        "code": {"coding": [{"system": _STATISTICS, "code": name}]},
                        "valueQuantity": quantity(number, named, code),
                    }
                    for name, number, named, code in parts
                ],
            )
