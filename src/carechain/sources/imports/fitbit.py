"""Answers of Fitbit's Web API as they are saved: daily figures, weight, sleep, exercise (REC-11).

Fitbit's times are the wearer's own and name no offset: they count in the zone of the import. Units are metric, as the
API answers unless another locale was asked for.
"""

import re
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any, BinaryIO, Final

from carechain.sources.bundles import Json
from carechain.sources.imports.base import LOINC, Item, Skipped, Subject, Unreadable, observation, quantity
from carechain.sources.imports.codes import ImportCode
from carechain.sources.imports.documents import read_json

FITBIT: Final = "https://dev.fitbit.com/build/reference/web-api"
"""The system of codes that LOINC has no match for: Fitbit's own names."""
DEVICE: Final = "Fitbit"
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_CLOCK: Final = re.compile(r"\d\d:\d\d(?::\d\d(?:\.\d{1,3})?)?", re.ASCII)
_NUMBER: Final = re.compile(r"-?\d{1,20}(?:\.\d{1,20})?", re.ASCII)
_NAME: Final = re.compile(r"[A-Za-z\-]{1,40}", re.ASCII)

DAILY: Final[dict[str, tuple[str, str, str, str]]] = {
    "steps": ("41950-7", "Number of steps in 24 hour Measured", "steps", "{steps}"),
    "calories": ("41981-2", "Calories burned", "kcal", "kcal"),
    "activityCalories": ("", "Calories burned in activity", "kcal", "kcal"),
    "distance": ("", "Distance", "km", "km"),
    "floors": ("", "Floors climbed", "floors", "{floors}"),
    "elevation": ("", "Elevation", "m", "m"),
    "minutesSedentary": ("", "Minutes sedentary", "min", "min"),
    "minutesLightlyActive": ("", "Minutes lightly active", "min", "min"),
    "minutesFairlyActive": ("", "Minutes fairly active", "min", "min"),
    "minutesVeryActive": ("", "Minutes very active", "min", "min"),
}
"""What ``activities-…`` counts by day: LOINC, name, unit and its UCUM code."""
KNOWN: Final = frozenset(
    {"activities", "weight", "fat", "sleep", "activities-heart"} | {f"activities-{one}" for one in DAILY}
)

NO_TIME: Final = "its date or time is missing or not one"
NO_VALUE: Final = "its value is missing or not a number"
NO_OBJECT: Final = "it is not an object"
NO_DATE_INSIDE: Final = "a summary without a date cannot be told from another day's"
NO_FORM: Final = "this part of the answer has no form in FHIR here"


class Fitbit:
    """The importer of Fitbit's answers."""

    kind = "fitbit"

    def read(self, file: BinaryIO, subject: Subject) -> Iterator[Item]:
        """The resources of one answer."""
        tree = read_json(file)
        if not isinstance(tree, dict) or not KNOWN & tree.keys():
            raise Unreadable(ImportCode.FILE_MALFORMED)
        dates = _dates(tree)
        for name, value in tree.items():
            if name in ("goals", "summary"):
                yield Skipped(reason=NO_DATE_INSIDE if name == "summary" else NO_FORM, place=name)
            elif name.endswith("-intraday"):
                yield from _intraday(name, value, dates, subject)
            else:
                yield from _listed(name, value, subject)


def _listed(name: str, value: object, subject: Subject) -> Iterator[Item]:
    make = _MAKERS.get(name) or (_daily if name.removeprefix("activities-") in DAILY else None)
    if make is None or not isinstance(value, list):
        yield Skipped(reason=NO_FORM, place=name if _NAME.fullmatch(name) else "a part with another name")
        return
    for number, one in enumerate(value, start=1):
        place = f"{name}, entry {number}"
        if isinstance(one, dict):
            yield from make(name, one, place, subject)
        else:
            yield Skipped(reason=NO_OBJECT, place=place)


def _dates(tree: Json) -> dict[str, str]:
    """The one day that each intraday part belongs to: it stands in the part beside it."""
    found: dict[str, str] = {}
    for name, value in tree.items():
        if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
            day = value[0].get("dateTime")
            if isinstance(day, str) and _is_day(day):
                found[f"{name}-intraday"] = day
    return found


def _is_day(text: object) -> bool:
    if not isinstance(text, str) or not _DATE.fullmatch(text):
        return False
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _moment(day: object, clock: object, subject: Subject) -> str | None:
    """A local day and time as a FHIR dateTime in the import's zone."""
    if not isinstance(clock, str) or not _CLOCK.fullmatch(clock) or not _is_day(day):
        return None
    try:
        found = datetime.fromisoformat(f"{day}T{clock}").replace(tzinfo=subject.zone)
    except ValueError:
        return None
    return found.isoformat()


def _number(value: object) -> Decimal | int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | Decimal):
        return value
    return Decimal(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else None


def _code(name: str, loinc: str, display: str) -> Json:
    known = [{"system": LOINC, "code": loinc, "display": display}] if loinc else []
    return {"coding": [*known, {"system": FITBIT, "code": name}], "text": display}


def _daily(name: str, entry: Json, place: str, subject: Subject) -> Iterator[Item]:
    short = name.removeprefix("activities-")
    loinc, display, unit, ucum = DAILY[short]
    day, value = entry.get("dateTime"), _number(entry.get("value"))
    if not _is_day(day):
        yield Skipped(reason=NO_TIME, place=place)
    elif value is None:
        yield Skipped(reason=NO_VALUE, place=place)
    else:
        yield observation(
            subject,
            resource_id=subject.id_of("fitbit-day", short, str(day)),
            category="activity",
            code=_code(name, loinc, display),
            when={"effectiveDateTime": day},
            device=DEVICE,
            valueQuantity=quantity(value, unit, ucum),
        )


def _heart(name: str, entry: Json, place: str, subject: Subject) -> Iterator[Item]:
    """A day's heart: at rest, and the minutes in each zone. Older answers have the zones beside the value."""
    day, inside = entry.get("dateTime"), entry.get("value")
    body = inside if isinstance(inside, dict) else entry
    if not _is_day(day):
        yield Skipped(reason=NO_TIME, place=place)
        return
    resting = _number(body.get("restingHeartRate"))
    if resting is not None:
        yield observation(
            subject,
            resource_id=subject.id_of("fitbit-resting-heart", str(day)),
            category="vital-signs",
            code=_code(name, "40443-4", "Heart rate --resting"),
            when={"effectiveDateTime": day},
            device=DEVICE,
            valueQuantity=quantity(resting, "/min", "/min"),
        )
    zones = [one for one in body.get("heartRateZones") or [] if isinstance(one, dict)]
    parts = [
        {"code": {"text": f"Minutes: {one['name']}"}, "valueQuantity": quantity(minutes, "min", "min")}
        for one in zones
        if isinstance(one.get("name"), str) and (minutes := _number(one.get("minutes"))) is not None
    ]
    if parts:
        yield observation(
            subject,
            resource_id=subject.id_of("fitbit-heart-zones", str(day)),
            category="activity",
            code=_code(name, "", "Heart rate zones"),
            when={"effectiveDateTime": day},
            device=DEVICE,
            component=parts,
        )
    if resting is None and not parts:
        yield Skipped(reason=NO_VALUE, place=place)


def _intraday(name: str, value: object, dates: dict[str, str], subject: Subject) -> Iterator[Item]:
    """Samples of one day, each a resource."""
    short = name.removeprefix("activities-").removesuffix("-intraday")
    day = dates.get(name)
    dataset = value.get("dataset") if isinstance(value, dict) else None
    if day is None or not isinstance(dataset, list) or (short != "heart" and short not in DAILY):
        yield Skipped(reason=NO_TIME if day is None else NO_FORM, place=name if _NAME.fullmatch(name) else "intraday")
        return
    for number, one in enumerate(dataset, start=1):
        place = f"{name}, entry {number}"
        entry = one if isinstance(one, dict) else {}
        when, measured = _moment(day, entry.get("time"), subject), _number(entry.get("value"))
        if when is None:
            yield Skipped(reason=NO_TIME, place=place)
        elif measured is None:
            yield Skipped(reason=NO_VALUE, place=place)
        elif short == "heart":
            yield _sample(name, when, measured, ("8867-4", "Heart rate", "/min", "/min"), "vital-signs", subject)
        else:
            _loinc, display, unit, ucum = DAILY[short]
            single = "55423-8" if short == "steps" else ""
            yield _sample(
                name, when, measured, (single, display if not single else "Steps", unit, ucum), "activity", subject
            )


def _sample(
    name: str, when: str, value: object, what: tuple[str, str, str, str], category: str, subject: Subject
) -> Item:
    loinc, display, unit, ucum = what
    return observation(
        subject,
        resource_id=subject.id_of("fitbit-sample", name, when),
        category=category,
        code=_code(name, loinc, display),
        when={"effectiveDateTime": when},
        device=DEVICE,
        valueQuantity=quantity(value, unit, ucum),
    )


def _weight(name: str, entry: Json, place: str, subject: Subject) -> Iterator[Item]:
    """A weighing: weight, body mass index and fat, as far as there are."""
    when = _moment(entry.get("date"), entry.get("time"), subject)
    if when is None:
        yield Skipped(reason=NO_TIME, place=place)
        return
    parts = (
        ("weight", "29463-7", "Body weight", "kg", "kg"),
        ("bmi", "39156-5", "Body mass index (BMI) [Ratio]", "kg/m2", "kg/m2"),
        ("fat", "41982-0", "Percentage of body fat Measured", "%", "%"),
    )
    found = [(part, value) for part in parts if (value := _number(entry.get(part[0]))) is not None]
    if not found:
        yield Skipped(reason=NO_VALUE, place=place)
    for (field, loinc, display, unit, ucum), value in found:
        yield observation(
            subject,
            resource_id=subject.id_of("fitbit-body", field, when),
            category="vital-signs",
            code=_code(f"{name}.{field}", loinc, display),
            when={"effectiveDateTime": when},
            device=DEVICE,
            valueQuantity=quantity(value, unit, ucum),
        )


def _sleep(name: str, entry: Json, place: str, subject: Subject) -> Iterator[Item]:
    """A night: how long, and how many minutes in each stage."""
    start, end = (_joined(entry.get(field), subject) for field in ("startTime", "endTime"))
    if start is None:
        yield Skipped(reason=NO_TIME, place=place)
        return
    asleep = _number(entry.get("minutesAsleep"))
    levels = entry.get("levels")
    stages = levels.get("summary") if isinstance(levels, dict) else None
    parts = [
        {"code": {"text": f"Minutes: {stage}"}, "valueQuantity": quantity(minutes, "min", "min")}
        for stage, inside in (stages.items() if isinstance(stages, dict) else ())
        if _NAME.fullmatch(stage)
        and isinstance(inside, dict)
        and (minutes := _number(inside.get("minutes"))) is not None
    ]
    yield observation(
        subject,
        resource_id=subject.id_of("fitbit-sleep", start),
        category="activity",
        code=_code(name, "93832-4", "Sleep duration"),
        when={"effectivePeriod": {"start": start, "end": end}},
        device=DEVICE,
        valueQuantity=None if asleep is None else quantity(asleep, "min", "min"),
        component=parts,
    )


def _joined(text: object, subject: Subject) -> str | None:
    day, _, clock = text.partition("T") if isinstance(text, str) else ("", "", "")
    return _moment(day, clock, subject)


def _exercise(name: str, entry: Json, place: str, subject: Subject) -> Iterator[Item]:
    """An exercise that was logged."""
    start = _moment(entry.get("startDate"), entry.get("startTime"), subject)
    what = entry.get("name") or entry.get("activityParentName")
    if start is None or not isinstance(what, str):
        yield Skipped(reason=NO_TIME, place=place)
        return
    length = _number(entry.get("duration"))
    parts: tuple[tuple[Any, str, str, Json], ...] = (
        (
            None if length is None else Decimal(length) / 1000,
            "s",
            "s",
            {"coding": [{"system": LOINC, "code": "55411-3"}]},
        ),
        (_number(entry.get("distance")), "km", "km", {"text": "Distance"}),
        (_number(entry.get("steps")), "steps", "{steps}", {"coding": [{"system": LOINC, "code": "55423-8"}]}),
        (_number(entry.get("calories")), "kcal", "kcal", {"coding": [{"system": LOINC, "code": "41981-2"}]}),
    )
    yield observation(
        subject,
        resource_id=subject.id_of("fitbit-exercise", start, what),
        category="activity",
        code={"coding": [{"system": FITBIT, "code": name}], "text": what},
        when={"effectiveDateTime": start},
        device=DEVICE,
        component=[
            {"code": code, "valueQuantity": quantity(value, unit, ucum)}
            for value, unit, ucum, code in parts
            if value is not None
        ],
    )


_MAKERS: Final = {"activities-heart": _heart, "weight": _weight, "sleep": _sleep, "activities": _exercise}
