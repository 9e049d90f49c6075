"""A researcher's view of a chart: pseudonymised per study, and only what an allow-list names (RES-1).

Ids of patients and providers become HMAC-SHA256 values under a secret that belongs to one study, so records
of one patient still belong together inside a study and never across two. The list of elements is closed:
what it does not name is dropped, with every name, address, identifier, narrative, note, extension,
attachment and contained resource. Clinical dates move by a number of days that is fixed per patient and
study, so intervals survive and calendar dates do not; a birth date becomes a year, and ages above 89 one
age. Rare combinations can still point to a person: the risk gate of RES-2 judges the whole output, not this.
"""

import hmac
import re
from collections.abc import Callable, Iterable
from datetime import date, timedelta
from hashlib import sha256
from typing import Any, Final

import orjson
from msgspec import Struct

from carechain.core.codec import Malformed
from carechain.core.hashing import tagged

Json = dict[str, Any]

SECRET_SIZE: Final = 32
HIGHEST_AGE: Final = 89
SHIFT_SPAN_DAYS: Final = 365

HL7_TABLES: Final = """
    adjudication allergyintolerance-clinical allergyintolerance-verification claim-type condition-category
    condition-clinical condition-ver-status diagnosis-role encounter-type observation-category processpriority v2-0074
    v3-ActCode v3-ObservationInterpretation
"""

_HL7_CODE: Final = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,31}", re.ASCII)
_DIGITS: Final = re.compile(r"\d{2,18}", re.ASCII)
_ICD: Final = re.compile(r"[A-Z]\d[0-9A-Z](?:\.?[0-9A-Z]{1,4})?", re.ASCII)
_UNIT: Final = re.compile(r"[A-Za-z0-9%{\[/][A-Za-z0-9.+*/%_{}\[\]-]{0,31}", re.ASCII)

PUBLIC_SYSTEMS: Final[dict[str, re.Pattern[str]]] = {
    "http://snomed.info/sct": _DIGITS,
    "http://loinc.org": re.compile(r"\d{1,7}-\d", re.ASCII),
    "http://www.nlm.nih.gov/research/umls/rxnorm": _DIGITS,
    "http://hl7.org/fhir/sid/cvx": re.compile(r"\d{1,3}", re.ASCII),
    "http://hl7.org/fhir/sid/icd-10": _ICD,
    "http://hl7.org/fhir/sid/icd-10-cm": _ICD,
    "http://www.whocc.no/atc": re.compile(r"[A-Z](?:\d\d(?:[A-Z](?:[A-Z](?:\d\d)?)?)?)?", re.ASCII),
    **{f"http://terminology.hl7.org/CodeSystem/{name}": _HL7_CODE for name in HL7_TABLES.split()},
}
"""Published terminologies and what their codes look like; a local code can be a person's number, so it goes."""

_STATUS: Final = re.compile(r"[a-z][a-z-]{0,31}", re.ASCII)
_CURRENCY: Final = re.compile(r"[A-Z]{3}", re.ASCII)
_FULL_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d(?:T.*)?", re.ASCII)
_YEAR: Final = re.compile(r"(\d{4})(?:-\d\d)?", re.ASCII)


class Study:
    """One study's pseudonyms. The secret is made for it, kept by the custodian, and destroyed with it."""

    __slots__ = ("_secret",)

    def __init__(self, secret: bytes) -> None:
        """Take the study's 32-byte secret; raises ``ValueError`` for any other length."""
        if len(secret) != SECRET_SIZE:
            raise ValueError("a study secret is 32 bytes")
        self._secret = secret

    def patient(self, patient_key: bytes) -> str:
        """The study's name for a patient: 64 hex digits."""
        return self._token("patient", patient_key)

    def provider(self, custodian: bytes, local_id: str) -> str:
        """The study's name for a practitioner or organisation, as one custodian numbers them."""
        return self._token("provider", custodian, local_id.encode())

    def resource(self, custodian: bytes, patient_key: bytes, local_id: str) -> str:
        """The study's name for one resource of a patient, so that references inside a chart still lead somewhere."""
        return self._token("resource", custodian, patient_key, local_id.encode())

    def shift_days(self, patient_key: bytes) -> int:
        """By how many days this patient's dates move in this study: -182 to 183, never 0."""
        drawn = int(self._token("date-shift", patient_key)[:16], 16) % SHIFT_SPAN_DAYS - SHIFT_SPAN_DAYS // 2
        return drawn or SHIFT_SPAN_DAYS // 2 + 1

    def _token(self, kind: str, *parts: bytes) -> str:
        message = tagged("carechain/study-pseudonym/1", kind.encode(), *parts)
        return hmac.new(self._secret, message, sha256).hexdigest()

    def __repr__(self) -> str:
        return "Study(secret withheld)"


class View(Struct, frozen=True, kw_only=True):
    """Whose resources are shown, to which study. ``as_of_year`` is the year ages are reckoned at.

    ``patient_key`` is what the study links one patient's records by (for one custodian, the pseudonym);
    ``custodian`` keeps two organisations' local numbers apart.
    """

    study: Study
    patient_key: bytes
    custodian: bytes
    as_of_year: int

    def show(self, resources: Iterable[bytes]) -> list[bytes]:
        """The researcher's version of each resource whose type is on the list; the others are left out.

        Raises :class:`Malformed` for what is not a JSON object; nothing of it is repeated.
        """
        shown = (self._resource(one) for one in resources)
        return [orjson.dumps(one, option=orjson.OPT_SORT_KEYS) for one in shown if one is not None]

    def _resource(self, body: bytes) -> Json | None:
        try:
            tree = orjson.loads(body)
        except orjson.JSONDecodeError:
            raise Malformed("not JSON") from None
        if not isinstance(tree, dict):
            raise Malformed("not an object")
        kind = tree.get("resourceType")
        allowed = ALLOWED.get(kind) if isinstance(kind, str) else None
        if allowed is None:
            return None
        local_id = tree.get("id")
        patient = self.study.patient(self.patient_key)
        named = self.study.resource(self.custodian, self.patient_key, local_id) if isinstance(local_id, str) else None
        shown = {"resourceType": kind, "id": patient if kind == "Patient" else named}
        return {key: value for key, value in {**shown, **_pick(self, tree, allowed)}.items() if value is not None}


Keep = Callable[[View, Any], Any]
"""Turns one received value into what may be shown, or None."""


def _pick(view: View, tree: Json, allowed: dict[str, Keep]) -> Json:
    kept = {key: keep(view, tree[key]) for key, keep in allowed.items() if key in tree}
    return {key: value for key, value in kept.items() if value not in (None, [], {})}


def _many(keep: Keep) -> Keep:
    def kept(view: View, value: Any) -> Any:  # noqa: ANN401 - received JSON
        found = [keep(view, one) for one in value] if isinstance(value, list) else []
        return [one for one in found if one not in (None, {}, [])]

    return kept


def _part(allowed: dict[str, Keep]) -> Keep:
    def kept(view: View, value: Any) -> Any:  # noqa: ANN401 - received JSON
        return _pick(view, value, allowed) if isinstance(value, dict) else None

    return kept


def _matching(pattern: re.Pattern[str]) -> Keep:
    def kept(_: View, value: Any) -> Any:  # noqa: ANN401 - received JSON
        return value if isinstance(value, str) and pattern.fullmatch(value) else None

    return kept


def _number(_: View, value: Any) -> Any:  # noqa: ANN401 - received JSON
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _boolean(_: View, value: Any) -> Any:  # noqa: ANN401 - received JSON
    return value if isinstance(value, bool) else None


def _coding(_: View, value: Any) -> Json | None:  # noqa: ANN401 - received JSON
    if not isinstance(value, dict):
        return None
    system, code = value.get("system"), value.get("code")
    pattern = PUBLIC_SYSTEMS.get(system) if isinstance(system, str) else None
    if pattern is None or not isinstance(code, str) or not pattern.fullmatch(code):
        return None
    return {"system": system, "code": code}


def _day(view: View, value: Any) -> str | None:  # noqa: ANN401 - received JSON
    """A whole date moves by the patient's shift; a date without a day keeps its year only."""
    if not isinstance(value, str):
        return None
    if _FULL_DATE.fullmatch(value):
        try:
            return (
                date.fromisoformat(value[:10]) + timedelta(days=view.study.shift_days(view.patient_key))
            ).isoformat()
        except (ValueError, OverflowError):
            return None
    found = _YEAR.fullmatch(value)
    return found[1] if found else None


def _birth_year(view: View, value: Any) -> str | None:  # noqa: ANN401 - received JSON
    if not isinstance(value, str) or not value[:4].isascii() or not value[:4].isdigit():
        return None
    return f"{max(int(value[:4]), view.as_of_year - HIGHEST_AGE - 1):04d}"


def _patient(view: View, _: Any) -> Json:  # noqa: ANN401 - received JSON
    return {"reference": f"Patient/{view.study.patient(view.patient_key)}"}


def _provider(view: View, value: Any) -> Json | None:  # noqa: ANN401 - received JSON
    local_id = _local_id(value)
    if isinstance(value, dict) and str(value.get("reference")).startswith("Patient/"):
        return _patient(view, value)
    return None if local_id is None else {"reference": f"Practitioner/{view.study.provider(view.custodian, local_id)}"}


def _link(kind: str) -> Keep:
    def kept(view: View, value: Any) -> Json | None:  # noqa: ANN401 - received JSON
        local_id = _local_id(value)
        if local_id is None:
            return None
        return {"reference": f"{kind}/{view.study.resource(view.custodian, view.patient_key, local_id)}"}

    return kept


def _local_id(value: Any) -> str | None:  # noqa: ANN401 - received JSON
    """The id inside a reference, the same for ``Type/id`` and ``urn:uuid:id``."""
    reference = value.get("reference") if isinstance(value, dict) else None
    if not isinstance(reference, str) or reference.startswith("#") or "?" in reference:
        return None
    return reference.removeprefix("urn:uuid:").partition("/_history/")[0].rpartition("/")[2] or None


_status: Final = _matching(_STATUS)
_concept: Final = _part({"coding": _many(_coding)})
_concepts: Final = _many(_concept)
_period: Final = _part({"start": _day, "end": _day})
_quantity: Final = _part({"value": _number, "code": _matching(_UNIT), "comparator": _matching(re.compile("[<>]=?"))})
_money: Final = _part({"value": _number, "currency": _matching(_CURRENCY)})
_value: Final[dict[str, Keep]] = {
    "code": _concept,
    "valueQuantity": _quantity,
    "valueCodeableConcept": _concept,
    "valueInteger": _number,
    "valueBoolean": _boolean,
    "interpretation": _concepts,
}
_encounter: Final = _link("Encounter")
_diagnosis: Final = _many(_part({"diagnosisReference": _link("Condition"), "diagnosisCodeableConcept": _concept}))
_billed: Final[dict[str, Keep]] = {
    "status": _status,
    "type": _concept,
    "use": _status,
    "patient": _patient,
    "provider": _provider,
    "created": _day,
    "billablePeriod": _period,
    "diagnosis": _diagnosis,
    "item": _many(_part({"productOrService": _concept, "encounter": _many(_encounter), "net": _money})),
}

ALLOWED: Final[dict[str, dict[str, Keep]]] = {
    "Patient": {
        "gender": _status,
        "birthDate": _birth_year,
        "deceasedBoolean": _boolean,
    },
    "Encounter": {
        "status": _status,
        "class": _coding,
        "type": _concepts,
        "subject": _patient,
        "participant": _many(_part({"individual": _provider})),
        "period": _period,
        "reasonCode": _concepts,
        "serviceProvider": _provider,
    },
    "Condition": {
        "clinicalStatus": _concept,
        "verificationStatus": _concept,
        "category": _concepts,
        "severity": _concept,
        "code": _concept,
        "subject": _patient,
        "encounter": _encounter,
        "onsetDateTime": _day,
        "abatementDateTime": _day,
        "recordedDate": _day,
        "asserter": _provider,
    },
    "Observation": {
        "status": _status,
        "category": _concepts,
        "subject": _patient,
        "encounter": _encounter,
        "effectiveDateTime": _day,
        "effectivePeriod": _period,
        "performer": _many(_provider),
        **_value,
        "component": _many(_part(_value)),
    },
    "DiagnosticReport": {
        "status": _status,
        "category": _concepts,
        "code": _concept,
        "subject": _patient,
        "encounter": _encounter,
        "effectiveDateTime": _day,
        "performer": _many(_provider),
        "result": _many(_link("Observation")),
        "conclusionCode": _concepts,
    },
    "MedicationRequest": {
        "status": _status,
        "intent": _status,
        "medicationCodeableConcept": _concept,
        "subject": _patient,
        "encounter": _encounter,
        "authoredOn": _day,
        "requester": _provider,
        "reasonCode": _concepts,
        "reasonReference": _many(_link("Condition")),
    },
    "Immunization": {
        "status": _status,
        "vaccineCode": _concept,
        "patient": _patient,
        "encounter": _encounter,
        "occurrenceDateTime": _day,
    },
    "Procedure": {
        "status": _status,
        "code": _concept,
        "subject": _patient,
        "encounter": _encounter,
        "performedDateTime": _day,
        "performedPeriod": _period,
        "reasonCode": _concepts,
        "reasonReference": _many(_link("Condition")),
    },
    "AllergyIntolerance": {
        "clinicalStatus": _concept,
        "code": _concept,
        "patient": _patient,
        "recordedDate": _day,
    },
    "Claim": {**_billed, "total": _money},
    "ExplanationOfBenefit": {
        **_billed,
        "outcome": _status,
        "claim": _link("Claim"),
        "total": _many(_part({"category": _concept, "amount": _money})),
    },
}
"""The whole list: resource type, element, and what of it is kept."""
