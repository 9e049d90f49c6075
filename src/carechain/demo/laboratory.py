"""What the story's laboratory finds: three results as FHIR, one of them restricted. Invented; the codes are real."""

import json
from typing import Any, Final

from msgspec import Struct

from carechain.core.vocabulary import Category, Sensitivity
from carechain.demo.synthetic import LOINC

CATEGORY: Final = Category.RESULT


class Finding(Struct, frozen=True, kw_only=True):
    """One result: what the story calls it, its grade, its FHIR bytes, and the words it is found by."""

    name: str
    sensitivity: Sensitivity
    content: bytes
    words: str


def findings(day: str) -> tuple[Finding, ...]:
    """The results of an ISO date."""
    return (
        _finding("glucose", Sensitivity.N, day, "1558-6", "空腹血糖 Fasting glucose", "7.8 mmol/L", "疑似糖尿病"),
        _finding("haemoglobin", Sensitivity.N, day, "4548-4", "糖化血红蛋白 Haemoglobin A1c", "7.1 %", "三个月后复查"),
        _finding("screening", Sensitivity.R, day, "56888-1", "HIV screening 艾滋病毒筛查", "non-reactive", "阴性"),
    )


def _finding(name: str, sensitivity: Sensitivity, day: str, code: str, text: str, value: str, note: str) -> Finding:
    resource: dict[str, Any] = {
        "resourceType": "Observation",
        "id": f"lab-{name}",
        "status": "final",
        "meta": {"security": [{"code": sensitivity.name}]},
        "code": {"coding": [{"system": LOINC, "code": code}], "text": text},
        "effectiveDateTime": day,
        "valueString": value,
        "note": [{"text": note}],
    }
    return Finding(
        name=name,
        sensitivity=sensitivity,
        content=json.dumps(resource, ensure_ascii=False, separators=(",", ":")).encode(),
        words=f"{code} {text} {value} {note}",
    )
