"""Goal: questionnaires are kept and scored by the published rules, and by nothing that the form says of its own score.

Method: every severity's bounds as they are published (Kroenke 2001, Spitzer 2006), answers in each form they come in,
and each way in which a form has no score.
"""

from typing import Any

import pytest

from carechain.sources.imports.base import Unreadable
from carechain.sources.imports.codes import ImportCode
from carechain.sources.imports.kinds import kind_of
from carechain.sources.imports.prom import (
    INCOMPLETE,
    NO_SCORE,
    NO_TABLE,
    NOT_A_RESPONSE,
    NOT_AN_ANSWER,
    NOT_DONE,
    Questionnaires,
)
from carechain.sources.imports.scoring import FREQUENCY, GAD_7, PHQ_9, Scoring, read_scoring
from imports import SUBJECT, file_of, read

CODES = {worth: code for code, worth in FREQUENCY.items()}


def form(table: Scoring, answers: list[int], **changed: Any) -> dict[str, Any]:
    items = [
        {"linkId": f"/{item}", "answer": [{"valueCoding": {"system": "http://loinc.org", "code": CODES[worth]}}]}
        for item, worth in zip(table.items, answers, strict=False)
    ]
    return {
        "resourceType": "QuestionnaireResponse",
        "id": "r1",
        "questionnaire": table.questionnaires[0] + "|2.74",
        "status": "completed",
        "authored": "2024-05-01T10:00:00+08:00",
        "item": [{"linkId": "group", "item": items}],
        **changed,
    }


def spread(total: int, items: int) -> list[int]:
    return [min(3, max(0, total - 3 * number)) for number in range(items)]


@pytest.mark.parametrize(
    ("table", "total", "band"),
    [
        *((PHQ_9, total, "minimal") for total in (0, 4)),
        *((PHQ_9, total, "mild") for total in (5, 9)),
        *((PHQ_9, total, "moderate") for total in (10, 14)),
        *((PHQ_9, total, "moderately severe") for total in (15, 19)),
        *((PHQ_9, total, "severe") for total in (20, 27)),
        *((GAD_7, total, "minimal") for total in (0, 4)),
        *((GAD_7, total, "mild") for total in (5, 9)),
        *((GAD_7, total, "moderate") for total in (10, 14)),
        *((GAD_7, total, "severe") for total in (15, 21)),
    ],
)
def test_scores_are_as_published(table: Scoring, total: int, band: str) -> None:
    (kept, score), skipped = read(Questionnaires(), form(table, spread(total, len(table.items))))
    assert skipped == []
    assert kept["subject"] == SUBJECT.reference
    assert score["valueQuantity"]["value"] == total
    assert score["interpretation"] == [{"text": band}]
    assert score["code"]["coding"][0]["code"] == {"PHQ-9": "44261-6", "GAD-7": "70274-6"}[table.name]
    assert score["method"]["text"] == table.source
    assert score["derivedFrom"] == [{"reference": "QuestionnaireResponse/r1"}]


def test_answers_come_as_codes_numbers_or_ordinals() -> None:
    one = form(GAD_7, [0] * 7)
    items = one["item"][0]["item"]
    items[0]["answer"] = [{"valueInteger": 3}]
    items[1]["answer"] = [{"valueDecimal": 2}]
    items[2]["answer"] = [
        {
            "valueCoding": {
                "code": "own",
                "extension": [{"url": "http://hl7.org/fhir/StructureDefinition/ordinalValue", "valueDecimal": 1}],
            }
        }
    ]
    made, _ = read(Questionnaires(), one)
    assert made[1]["valueQuantity"]["value"] == 6


def test_a_score_that_the_form_carries_is_not_believed() -> None:
    one = form(PHQ_9, [1] * 9)
    one["item"].append({"linkId": "44261-6", "answer": [{"valueInteger": 0}]})
    made, _ = read(Questionnaires(), one)
    assert made[1]["valueQuantity"]["value"] == 9


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (form(PHQ_9, [1] * 8), INCOMPLETE),
        (form(PHQ_9, [1] * 9, status="in-progress"), NOT_DONE),
        (form(PHQ_9, [1] * 9, questionnaire="http://example.org/q"), NO_TABLE),
        (form(PHQ_9, [1] * 8, questionnaire=None), NO_TABLE),
        (
            form(PHQ_9, [1] * 9, item=[{"linkId": one, "answer": [{"valueInteger": 4}]} for one in PHQ_9.items]),
            NOT_AN_ANSWER,
        ),
        (
            form(PHQ_9, [1] * 9, item=[{"linkId": one, "answer": [{"valueBoolean": True}]} for one in PHQ_9.items]),
            NOT_AN_ANSWER,
        ),
        (
            form(PHQ_9, [1] * 9, item=[{"linkId": one, "answer": [{"valueInteger": 1}] * 2} for one in PHQ_9.items]),
            INCOMPLETE,
        ),
    ],
)
def test_a_form_without_a_score_is_kept_all_the_same(one: dict[str, Any], reason: str) -> None:
    kept, skipped = [], []
    for item in Questionnaires().read(file_of(one), SUBJECT):
        (skipped if hasattr(item, "reason") else kept).append(item)
    assert len(kept) == 1
    assert [item.reason for item in skipped] == [reason]


def test_bundles_lists_and_what_does_not_belong_there() -> None:
    bundle = {
        "resourceType": "Bundle",
        "type": "collection",
        "entry": [
            {"resource": {"resourceType": "Questionnaire", "id": "q", "status": "active", "url": "http://x.org/q"}},
            {"resource": form(GAD_7, [1] * 7)},
        ],
    }
    assert kind_of(file_of(bundle)) == "prom"
    made, skipped = read(Questionnaires(), bundle)
    assert [one["resourceType"] for one in made] == ["Questionnaire", "QuestionnaireResponse", "Observation"]
    assert skipped == []
    _, skipped = read(Questionnaires(), [{"resourceType": "Condition"}])
    assert [one.reason for one in skipped] == [NOT_A_RESPONSE]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (form(PHQ_9, [1] * 9, subject={"reference": "Patient/other"}), ImportCode.PATIENT_CHANGED),
        ([1], ImportCode.FILE_MALFORMED),
        ([], ImportCode.FILE_MALFORMED),
        (b'{"resourceType":"QuestionnaireResponse"', ImportCode.FILE_TRUNCATED),
    ],
)
def test_what_is_refused(content: object, code: ImportCode) -> None:
    with pytest.raises(Unreadable) as refused:
        read(Questionnaires(), content)
    assert refused.value.code is code


TABLE = """
name = "Example 4a"
source = "made up"
questionnaires = ["http://example.org/q/example-4a"]
items = ["EX1", "EX2"]
least = 1
greatest = 5
score = {system = "http://example.org/scores", code = "T", display = "T-score"}
[[lookup]]
sum = 2
score = 36.30
error = 5.4
"""


def test_a_table_from_a_file_looks_the_sum_up() -> None:
    table = read_scoring(TABLE.encode())

    def answered(*worth: int) -> dict[str, Any]:
        items = [{"linkId": f"EX{n}", "answer": [{"valueInteger": one}]} for n, one in enumerate(worth, start=1)]
        return form(table, [], item=items)

    made, _ = read(Questionnaires(tables=(table,)), answered(1, 1))
    assert made[1]["valueQuantity"]["value"] == 36.3
    assert made[1]["component"][0]["valueQuantity"]["value"] == 5.4
    _, skipped = read(Questionnaires(tables=(table,)), answered(5, 5))
    assert [one.reason for one in skipped] == [NO_SCORE]


@pytest.mark.parametrize(
    "text",
    [
        "name = 1",
        TABLE.replace("least = 1", "least = 9"),
        TABLE.replace("sum = 2", "sum = 99"),
        TABLE + "x = 1",
        "\x00",
    ],
)
def test_a_broken_table_is_refused(text: str) -> None:
    with pytest.raises(Unreadable) as refused:
        read_scoring(text.encode())
    assert refused.value.code is ImportCode.COLUMNS_MALFORMED
