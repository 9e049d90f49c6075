"""Questionnaires that patients fill in: QuestionnaireResponse as it is, and its score as an Observation (REC-11).

Takes one QuestionnaireResponse, a list of them, or a Bundle with them and their Questionnaires. A score that the form
carries itself is not believed: it is worked out from the answers, by the published rules (:mod:`.scoring`).
"""

import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import BinaryIO, Final

from carechain.sources.bundles import Json, Prepared, prepared
from carechain.sources.imports.base import Item, Skipped, Subject, Unreadable, observation
from carechain.sources.imports.codes import ImportCode
from carechain.sources.imports.documents import read_json
from carechain.sources.imports.scoring import BUILT_IN, Looked, Scoring

_SCORE: Final = "{score}"
_ORDINAL: Final = (
    "http://hl7.org/fhir/StructureDefinition/ordinalValue",
    "http://hl7.org/fhir/StructureDefinition/itemWeight",
)
_ID: Final = re.compile(r"[A-Za-z0-9.\-]{1,64}", re.ASCII)
_LEVELS: Final = 16

NOT_A_RESPONSE: Final = "it is neither a questionnaire nor an answered one"
NOT_DONE: Final = "the form is not completed, so it has no score"
NO_TABLE: Final = "there is no scoring table for this questionnaire, so it has no score"
INCOMPLETE: Final = "an answer is missing or given twice, so the form has no score"
NOT_AN_ANSWER: Final = "an answer is not one of the questionnaire's, so the form has no score"
NO_SCORE: Final = "the scoring table has no score for the sum of the answers"


class Questionnaires:
    """The importer of patient-reported outcome measures; ``tables`` stand before those that are built in."""

    kind = "prom"

    def __init__(self, *, tables: Sequence[Scoring] = ()) -> None:
        self._tables = (*tables, *BUILT_IN)

    def read(self, file: BinaryIO, subject: Subject) -> Iterator[Item]:
        """Each form, then its score."""
        for number, one in enumerate(_resources(read_json(file)), start=1):
            place = f"resource {number}"
            kind = one.get("resourceType")
            if kind == "Questionnaire":
                yield _identified(one, subject)
            elif kind == "QuestionnaireResponse":
                form = _of_subject(one, subject)
                yield form
                yield self._score(one, form, place, subject)
            elif kind != "Patient":
                yield Skipped(reason=NOT_A_RESPONSE, place=place)

    def _score(self, response: Json, form: Prepared, place: str, subject: Subject) -> Item:
        if response.get("status") not in ("completed", "amended"):
            return Skipped(reason=NOT_DONE, place=place)
        answers = _answers(response.get("item"))
        table = self._table_of(response, answers)
        if table is None:
            return Skipped(reason=NO_TABLE, place=place)
        worth = [_worth(answers.get(item, []), table) for item in table.items]
        if any(len(answers.get(item, [])) != 1 for item in table.items):
            return Skipped(reason=INCOMPLETE, place=place)
        known = [one for one in worth if one is not None]
        if len(known) != len(worth):
            return Skipped(reason=NOT_AN_ANSWER, place=place)
        found = table.of_sum(sum(known))
        if found is None:
            return Skipped(reason=NO_SCORE, place=place)
        return _scored(table, found, response, form, subject)

    def _table_of(self, response: Json, answers: dict[str, list[Json]]) -> Scoring | None:
        """The table of the questionnaire that is named; of an unnamed one, that whose items are all there."""
        named = response.get("questionnaire")
        if isinstance(named, str):
            return next((one for one in self._tables if named.partition("|")[0] in one.questionnaires), None)
        return next((one for one in self._tables if set(one.items) <= answers.keys()), None)


def _resources(tree: object) -> list[Json]:
    """What the file holds. Raises :class:`Unreadable`."""
    if isinstance(tree, dict) and tree.get("resourceType") == "Bundle":
        entries = tree.get("entry")
        tree = (
            [one.get("resource") if isinstance(one, dict) else None for one in entries]
            if isinstance(entries, list)
            else []
        )
    found = tree if isinstance(tree, list) else [tree]
    kept = [one for one in found if isinstance(one, dict)]
    if not kept or len(kept) != len(found):
        raise Unreadable(ImportCode.FILE_MALFORMED)
    return kept


def _identified(resource: Json, subject: Subject) -> Prepared:
    given = resource.get("id")
    sound = isinstance(given, str) and _ID.fullmatch(given)
    url = resource.get("url")
    name = url if isinstance(url, str) else prepared({**resource, "id": "x"}).body.hex()
    return prepared({**resource, "id": given if sound else subject.id_of("questionnaire", name)})


def _of_subject(response: Json, subject: Subject) -> Prepared:
    """The form as it came, with the chart's patient where it names none. Raises ``Rejected(PATIENT_CHANGED)``."""
    for field in ("subject", "source"):
        named = response.get(field)
        reference = named.get("reference") if isinstance(named, dict) else None
        if field == "subject" and reference is not None and reference != subject.patient.key:
            raise Unreadable(ImportCode.PATIENT_CHANGED)
    given = response.get("id")
    form = {**response, "subject": subject.reference, "source": response.get("source") or subject.reference}
    if not (isinstance(given, str) and _ID.fullmatch(given)):
        form["id"] = "x"
        form["id"] = subject.id_of("questionnaire-response", prepared(form).body.hex())
    return prepared(form)


def _answers(items: object, depth: int = 0) -> dict[str, list[Json]]:
    """The answers of all items by the code at the end of their linkId, groups opened."""
    found: dict[str, list[Json]] = {}
    if not isinstance(items, list) or depth > _LEVELS:
        return found
    for item in items:
        if not isinstance(item, dict):
            continue
        given = item.get("answer")
        name = item.get("linkId")
        if isinstance(name, str) and isinstance(given, list):
            found.setdefault(name.rpartition("/")[2], []).extend(one for one in given if isinstance(one, dict))
        for code, answers in _answers(item.get("item"), depth + 1).items():
            found.setdefault(code, []).extend(answers)
    return found


def _worth(answers: list[Json], table: Scoring) -> int | None:
    """What the one answer counts; None when it is none of the questionnaire's."""
    answer = answers[0] if len(answers) == 1 else {}
    coding = answer.get("valueCoding")
    number: object = answer.get("valueInteger", answer.get("valueDecimal"))
    if isinstance(coding, dict):
        number = table.answers.get(str(coding.get("code")), _ordinal(coding))
    if isinstance(number, bool) or not isinstance(number, int | Decimal):
        return None
    return int(number) if number == int(number) and table.least <= number <= table.greatest else None


def _ordinal(coding: Json) -> object:
    extensions = coding.get("extension")
    for one in extensions if isinstance(extensions, list) else []:
        if isinstance(one, dict) and one.get("url") in _ORDINAL:
            return one.get("valueDecimal")
    return None


def _scored(table: Scoring, found: Looked, response: Json, form: Prepared, subject: Subject) -> Prepared:
    authored = response.get("authored")
    band = table.band_of(found.score)
    error = (
        [{"code": {"text": "Standard error"}, "valueQuantity": {"value": found.error, "unit": "score"}}]
        if found.error is not None
        else []
    )
    return observation(
        subject,
        resource_id=subject.id_of("score", form.resource_id, table.score.code),
        category="survey",
        code={
            "coding": [{"system": table.score.system, "code": table.score.code, "display": table.score.display}],
            "text": table.name,
        },
        when={"effectiveDateTime": authored} if isinstance(authored, str) else {},
        valueQuantity={"value": found.score, "unit": "score", "system": "http://unitsofmeasure.org", "code": _SCORE},
        interpretation=[{"text": band}] if band else [],
        method={"text": table.source},
        derivedFrom=[{"reference": form.key}],
        component=error,
    )
