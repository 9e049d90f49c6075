"""Synthetic patients as FHIR R4 transaction bundles: a pure function of seed and index.

Nobody is described. Codes are real, people and numbers are drawn from a SHA-256 counter stream, so a bundle is
the same on every machine and in every Python release. Every third patient has a Chinese name; every fourth
one, from the fourth on, has a story that must not be shown under a normal ceiling.
"""

import json
import re
from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from hashlib import sha256
from typing import Any, Final, TypeVar
from uuid import UUID

from msgspec import Struct

T = TypeVar("T")
Json = dict[str, Any]

SNOMED: Final = "http://snomed.info/sct"
LOINC: Final = "http://loinc.org"
RXNORM: Final = "http://www.nlm.nih.gov/research/umls/rxnorm"
UCUM: Final = "http://unitsofmeasure.org"
TERMINOLOGY: Final = "http://terminology.hl7.org/CodeSystem"
ACT_CODE: Final = f"{TERMINOLOGY}/v3-ActCode"
CONFIDENTIALITY: Final = f"{TERMINOLOGY}/v3-Confidentiality"
MRN_SYSTEM: Final = "https://hospital.example/mrn"

LAST_VISIT: Final = date(2025, 12, 19)
VISIT_YEARS: Final = 6
CHINESE_EVERY: Final = 3
SENSITIVE_EVERY: Final = 4

GIVEN: Final = ("Ada", "Boris", "Clara", "Dmitri", "Elena", "Farid", "Greta", "Hugo", "Ines", "Jonas", "Leila", "Milo")
FAMILY: Final = ("Abbott", "Bauer", "Castillo", "Duval", "Eriksen", "Fischer", "Grant", "Hassan", "Ivanov", "Novak")
HAN_FAMILY: Final = ("王", "李", "张", "刘", "陈", "杨", "赵", "黄", "周", "吴", "欧阳")
HAN_GIVEN: Final = ("伟", "芳", "娜", "敏", "静", "丽华", "建国", "晓明", "雪梅", "志强", "子涵", "雨桐")
CITIES: Final = ("Springfield", "Riverton", "Lakeside", "Hillford")
HAN_CITIES: Final = ("咸宁", "武汉", "重庆", "杭州")


class Problem(Struct, frozen=True):
    """A condition with what is prescribed for it: SNOMED CT and RxNorm codes with our own wording."""

    code: str
    text: str
    drug: str
    drug_text: str


class Story(Struct, frozen=True):
    """One sensitive chapter of a chart; ``label`` is sent as an explicit security label when not empty."""

    problem: Problem
    test: str
    test_text: str
    finding: str
    label: str


ROUTINE: Final = (
    Problem("38341003", "Hypertension", "314076", "Lisinopril 10 mg tablet"),
    Problem("44054006", "Type 2 diabetes", "860975", "Metformin 500 mg tablet"),
    Problem("55822004", "High blood lipids", "314231", "Simvastatin 10 mg tablet"),
    Problem("195662009", "Acute viral pharyngitis", "313782", "Paracetamol 325 mg tablet"),
    Problem("444814009", "Viral sinusitis", "313782", "Paracetamol 325 mg tablet"),
    Problem("195967001", "Asthma", "745679", "Salbutamol inhaler"),
    Problem("239873007", "Osteoarthritis of the knee", "849574", "Naproxen 220 mg tablet"),
)
STORIES: Final = (
    Story(
        Problem("86406008", "HIV infection", "1999667", "Bictegravir combination tablet"),
        "25836-8",
        "HIV 1 RNA",
        "Not detected under treatment",
        "",
    ),
    Story(
        Problem("370143000", "Major depressive disorder", "312938", "Sertraline 100 mg tablet"),
        "44261-6",
        "PHQ-9 total score",
        "Moderate, improving",
        "",
    ),
    Story(
        Problem("75544000", "Opioid dependence", "351267", "Buprenorphine and naloxone 8 mg tablet"),
        "82667-7",
        "DAST-10 total score",
        "Lower than at the last visit",
        "",
    ),
    # Nothing in this one's codes gives it away: only the label does.
    Story(
        Problem("125605004", "Fracture of the forearm", "313782", "Paracetamol 325 mg tablet"),
        "48767-8",
        "Annotation comment",
        "Was hurt at home and asks that nobody there be told",
        "SDV",
    ),
)
VITALS: Final = (
    ("8480-6", "Systolic blood pressure", "mm[Hg]", 105, 165),
    ("29463-7", "Body weight", "kg", 48, 110),
    ("8867-4", "Heart rate", "/min", 55, 98),
)
LIPIDS: Final = (
    ("2093-3", "Total cholesterol", 140, 260),
    ("2571-8", "Triglycerides", 60, 240),
    ("18262-6", "LDL cholesterol", 60, 180),
    ("2085-9", "HDL cholesterol", 30, 80),
)
VACCINES: Final = (
    ("140", "Influenza, seasonal"),
    ("113", "Tetanus and diphtheria, adult"),
    ("43", "Hepatitis B, adult"),
)


def patients(count: int, seed: int) -> Iterator[bytes]:
    """The bundles of ``count`` patients, one at a time."""
    return (patient(index, seed) for index in range(count))


def patient(index: int, seed: int) -> bytes:
    """The bundle of patient number ``index``: UTF-8 JSON, 25 to 60 resources, the same for the same arguments."""
    return _Chart(_Draw(f"carechain/synthetic/{seed}/{index}"), index).write()


class _Draw:
    """Numbers from a seed by SHA-256 in counter mode; small, portable and not for secrets."""

    def __init__(self, seed: str) -> None:
        self._seed = seed.encode()
        self._count = 0

    def block(self) -> bytes:
        self._count += 1
        return sha256(self._seed + self._count.to_bytes(8, "big")).digest()

    def between(self, low: int, high: int) -> int:
        """Uniform in [low, high]; the bias of 64 bits over small ranges does not matter here."""
        return low + int.from_bytes(self.block()[:8], "big") % (high - low + 1)

    def one_of(self, options: Sequence[T]) -> T:
        return options[self.between(0, len(options) - 1)]

    def uuid(self) -> str:
        return str(UUID(bytes=self.block()[:16], version=4))


class _Chart:
    """One patient's bundle in the making."""

    def __init__(self, draw: _Draw, index: int) -> None:
        self.draw = draw
        self.index = index
        self.entries: list[Json] = []
        self.doctor = ""
        self.hospital = ""

    def write(self) -> bytes:
        self.hospital, self.doctor = self._shared()
        self.patient = self._patient()
        self.coverage = self._coverage()
        days = sorted(self.draw.between(0, 365 * VISIT_YEARS) for _ in range(self.draw.between(3, 5)))
        for position, back in enumerate(days):
            day = LAST_VISIT - timedelta(days=back)
            encounter = self._visit(day, self.draw.one_of(ROUTINE))
            if position == 0:
                self._lipid_panel(day, encounter)
            if position == 1 and self.index % SENSITIVE_EVERY == SENSITIVE_EVERY - 1:
                self._chapter(day, encounter, STORIES[self.index // SENSITIVE_EVERY % len(STORIES)])
        bundle = {"resourceType": "Bundle", "type": "transaction", "entry": self.entries}
        text = json.dumps(bundle, ensure_ascii=False, separators=(",", ":"))
        return _MONEY_MARK.sub(r"\1", text).encode()

    def add(self, resource: Json) -> str:
        """Add a resource under a new id; returns the reference its siblings use."""
        identity = self.draw.uuid()
        return self._put(identity, resource)

    def _put(self, identity: str, resource: Json) -> str:
        kind = resource["resourceType"]
        full_url = f"urn:uuid:{identity}"
        named = {"resourceType": kind, "id": identity, **resource}
        self.entries.append({"fullUrl": full_url, "resource": named, "request": {"method": "POST", "url": kind}})
        return full_url

    def _shared(self) -> tuple[str, str]:
        """The hospital and its doctor are the same resources in every bundle that names them."""
        number = self.draw.between(1, 4)
        fixed = _Draw(f"carechain/synthetic/doctor/{number}")
        hospital = {"resourceType": "Organization", "active": True, "name": "Harbour General Hospital"}
        name = {"family": FAMILY[-number], "given": [GIVEN[-number]], "prefix": ["Dr."]}
        doctor = {"resourceType": "Practitioner", "active": True, "name": [name]}
        hospital_id = _Draw("carechain/synthetic/hospital").uuid()
        return self._put(hospital_id, hospital), self._put(fixed.uuid(), doctor)

    def _patient(self) -> str:
        chinese = self.index % CHINESE_EVERY == 1
        if chinese:
            family, given = self.draw.one_of(HAN_FAMILY), self.draw.one_of(HAN_GIVEN)
            name: Json = {"use": "official", "text": family + given, "family": family, "given": [given]}
        else:
            name = {"use": "official", "family": self.draw.one_of(FAMILY), "given": [self.draw.one_of(GIVEN)]}
        number = f"H{self.draw.between(10_000_000, 99_999_999)}"
        kind = {"coding": [{"system": f"{TERMINOLOGY}/v2-0203", "code": "MR"}]}
        born = date(1935, 1, 1) + timedelta(days=self.draw.between(0, 365 * 70))
        city = self.draw.one_of(HAN_CITIES if chinese else CITIES)
        return self.add(
            {
                "resourceType": "Patient",
                "identifier": [{"type": kind, "system": MRN_SYSTEM, "value": number}],
                "name": [name],
                "telecom": [{"system": "phone", "value": f"555-{self.draw.between(1000, 9999)}"}],
                "gender": self.draw.one_of(("female", "male")),
                "birthDate": born.isoformat(),
                "address": [{"city": city, "country": "CN" if chinese else "US"}],
            }
        )

    def _coverage(self) -> str:
        return self.add(
            {
                "resourceType": "Coverage",
                "status": "active",
                "subscriberId": f"S{self.draw.between(100_000, 999_999)}",
                "beneficiary": {"reference": self.patient},
                "payor": [{"display": "Meadow Mutual"}],
            }
        )

    def _visit(self, day: date, problem: Problem) -> str:
        encounter = self.add(
            {
                "resourceType": "Encounter",
                "status": "finished",
                "class": {"system": ACT_CODE, "code": "AMB"},
                "type": [_concept(SNOMED, "185349003", "Check-up visit")],
                "subject": {"reference": self.patient},
                "participant": [{"individual": {"reference": self.doctor}}],
                "period": {"start": f"{day}T09:00:00Z", "end": f"{day}T09:25:00Z"},
                "serviceProvider": {"reference": self.hospital},
            }
        )
        condition = self._condition(day, encounter, problem, {})
        self._prescription(day, encounter, condition, problem, {})
        for code, text, unit, low, high in VITALS:
            value = {"value": self.draw.between(low, high), "unit": unit, "system": UCUM, "code": unit}
            self._observation(day, encounter, (code, text), {"valueQuantity": value}, "vital-signs", {})
        if self.draw.between(0, 1):
            self._immunization(day, encounter)
        self._claim(day, encounter, condition, "Office visit", {})
        return encounter

    def _chapter(self, day: date, encounter: str, story: Story) -> None:
        """The sensitive part of a visit, with the claim that would give it away."""
        labels = [{"system": ACT_CODE, "code": story.label}, {"system": CONFIDENTIALITY, "code": "V"}]
        meta = {"meta": {"security": labels}} if story.label else {}
        condition = self._condition(day, encounter, story.problem, meta)
        self._prescription(day, encounter, condition, story.problem, meta)
        self._observation(
            day, encounter, (story.test, story.test_text), {"valueString": story.finding}, "laboratory", meta
        )
        self._claim(day, encounter, condition, "Extended visit", meta)

    def _condition(self, day: date, encounter: str, problem: Problem, meta: Json) -> str:
        return self.add(
            {
                "resourceType": "Condition",
                **meta,
                "clinicalStatus": _concept(f"{TERMINOLOGY}/condition-clinical", "active", ""),
                "verificationStatus": _concept(f"{TERMINOLOGY}/condition-ver-status", "confirmed", ""),
                "code": _concept(SNOMED, problem.code, problem.text),
                "subject": {"reference": self.patient},
                "encounter": {"reference": encounter},
                "recordedDate": day.isoformat(),
            }
        )

    def _prescription(self, day: date, encounter: str, condition: str, problem: Problem, meta: Json) -> None:
        self.add(
            {
                "resourceType": "MedicationRequest",
                **meta,
                "status": "active",
                "intent": "order",
                "medicationCodeableConcept": _concept(RXNORM, problem.drug, problem.drug_text),
                "subject": {"reference": self.patient},
                "encounter": {"reference": encounter},
                "authoredOn": day.isoformat(),
                "requester": {"reference": self.doctor},
                "reasonReference": [{"reference": condition}],
            }
        )

    def _observation(
        self, day: date, encounter: str, test: tuple[str, str], value: Json, category: str, meta: Json
    ) -> str:
        return self.add(
            {
                "resourceType": "Observation",
                **meta,
                "status": "final",
                "category": [_concept(f"{TERMINOLOGY}/observation-category", category, "")],
                "code": _concept(LOINC, *test),
                "subject": {"reference": self.patient},
                "encounter": {"reference": encounter},
                "effectiveDateTime": f"{day}T09:10:00Z",
                **value,
            }
        )

    def _immunization(self, day: date, encounter: str) -> None:
        self.add(
            {
                "resourceType": "Immunization",
                "status": "completed",
                "vaccineCode": _concept("http://hl7.org/fhir/sid/cvx", *self.draw.one_of(VACCINES)),
                "patient": {"reference": self.patient},
                "encounter": {"reference": encounter},
                "occurrenceDateTime": day.isoformat(),
            }
        )

    def _lipid_panel(self, day: date, encounter: str) -> None:
        results = []
        for code, text, low, high in LIPIDS:
            value = {"value": self.draw.between(low, high), "unit": "mg/dL", "system": UCUM, "code": "mg/dL"}
            results.append(self._observation(day, encounter, (code, text), {"valueQuantity": value}, "laboratory", {}))
        self.add(
            {
                "resourceType": "DiagnosticReport",
                "status": "final",
                "category": [_concept(f"{TERMINOLOGY}/v2-0074", "LAB", "Laboratory")],
                "code": _concept(LOINC, "57698-3", "Lipid panel"),
                "subject": {"reference": self.patient},
                "encounter": {"reference": encounter},
                "effectiveDateTime": f"{day}T09:10:00Z",
                "result": [{"reference": result} for result in results],
            }
        )

    def _claim(self, day: date, encounter: str, condition: str, service: str, meta: Json) -> None:
        price = _money(self.draw.between(40, 240), self.draw.one_of((0, 25, 50, 75)))
        diagnosis = [{"sequence": 1, "diagnosisReference": {"reference": condition}}]
        item = {"sequence": 1, "productOrService": {"text": service}, "encounter": [{"reference": encounter}]}
        common = {
            "status": "active",
            "type": _concept(f"{TERMINOLOGY}/claim-type", "professional", ""),
            "use": "claim",
            "patient": {"reference": self.patient},
            "billablePeriod": {"start": day.isoformat(), "end": day.isoformat()},
            "created": day.isoformat(),
            "provider": {"reference": self.hospital},
            "diagnosis": diagnosis,
            "insurance": [{"focal": True, "coverage": {"reference": self.coverage}}],
            "item": [item],
        }
        numbered = {**common, "insurance": [{"sequence": 1, **common["insurance"][0]}]}  # type: ignore[index]
        priority = _concept(f"{TERMINOLOGY}/processpriority", "normal", "")
        claim = self.add({"resourceType": "Claim", **meta, **numbered, "priority": priority, "total": price})
        answer = {"claim": {"reference": claim}, "insurer": {"display": "Meadow Mutual"}, "outcome": "complete"}
        amount = {"category": _concept(f"{TERMINOLOGY}/adjudication", "submitted", ""), "amount": price}
        self.add({"resourceType": "ExplanationOfBenefit", **meta, **common, **answer, "total": [amount]})


_MONEY_MARK: Final = re.compile(r'"\ue000(\d+\.\d\d)"')
"""Amounts keep their two decimals (72.50, not 72.5); a private-use character marks them until the text is written."""


def _money(whole: int, cents: int) -> Json:
    return {"value": f"\ue000{whole}.{cents:02d}", "currency": "USD"}


def _concept(system: str, code: str, text: str) -> Json:
    return {"coding": [{"system": system, "code": code, **({"display": text} if text else {})}]}
