"""Goal: records are cut so that a ceiling stops what it should, whatever order the resources came in.

Method: small charts as facts, then as bundles; expected groups are written out.
"""

from typing import Any

import pytest

from carechain.charts.facts import NO_DAY, Facts
from carechain.charts.resource_types import CATEGORIES
from carechain.charts.split import Group, split
from carechain.charts.store import Charts
from carechain.core.vocabulary import Category, Sensitivity, mask

N, R, V = Sensitivity.N, Sensitivity.R, Sensitivity.V


def fact(
    key: str, sensitivity: Sensitivity = N, *, refs: tuple[str, ...] = (), encounter: str = "", day: int = 7
) -> Facts:
    kind, _, identity = key.partition("/")
    return Facts(
        resource_type=kind,
        resource_id=identity,
        category=CATEGORIES[kind],
        sensitivity=sensitivity,
        labels=() if sensitivity is N else (sensitivity.name,),
        day=day,
        encounter=encounter,
        references=refs,
        patient_reported=False,
    )


def shape(groups: list[Group]) -> dict[str, tuple[Sensitivity, tuple[str, ...]]]:
    return {group.name: (group.sensitivity, group.members) for group in groups}


def test_a_resource_above_its_encounter_stands_alone_in_the_same_category() -> None:
    chart = [
        fact("Encounter/e"),
        fact("Condition/n", encounter="Encounter/e"),
        fact("Condition/v", V, encounter="Encounter/e"),
    ]
    groups = split(chart)
    assert shape(groups) == {
        "Encounter/e": (N, ("Encounter/e", "Condition/n")),
        "Condition/v": (V, ("Condition/v",)),
    }
    assert {group.category for group in groups} == {Category.ENCOUNTER}


def test_a_sensitive_encounter_keeps_its_own_together() -> None:
    chart = [
        fact("Condition/r", R, encounter="Encounter/e"),
        fact("Encounter/e", R),
        fact("Condition/v", V, encounter="Encounter/e"),
    ]
    assert shape(split(chart)) == {
        "Encounter/e": (R, ("Encounter/e", "Condition/r")),
        "Condition/v": (V, ("Condition/v",)),
    }


def test_what_refers_to_a_sensitive_resource_is_lifted_through_every_step() -> None:
    chart = [
        fact("Encounter/e"),
        fact("Condition/v", V, encounter="Encounter/e"),
        fact("MedicationRequest/m", refs=("Condition/v",), encounter="Encounter/e"),
        fact("Claim/c", refs=("MedicationRequest/m",)),
        fact("ExplanationOfBenefit/x", refs=("Claim/c",)),
        fact("Claim/other", refs=("Encounter/e",)),
    ]
    groups = split(chart)
    assert shape(groups) == {
        "Encounter/e": (N, ("Encounter/e",)),
        "Condition/v": (V, ("Condition/v",)),
        "MedicationRequest/m": (V, ("MedicationRequest/m",)),
        "Claim/c": (V, ("Claim/c", "ExplanationOfBenefit/x")),
        "Claim/other": (N, ("Claim/other",)),
    }
    assert next(group for group in groups if group.name == "Claim/c").labels == ("V",)


def test_a_report_takes_its_results_with_it() -> None:
    chart = [
        fact("Encounter/e"),
        fact("Observation/1", encounter="Encounter/e"),
        fact("Observation/2", encounter="Encounter/e"),
        fact("DiagnosticReport/d", refs=("Observation/1",), encounter="Encounter/e"),
    ]
    assert shape(split(chart)) == {
        "Encounter/e": (N, ("Encounter/e", "Observation/2")),
        "DiagnosticReport/d": (N, ("DiagnosticReport/d", "Observation/1")),
    }


def test_supporting_resources_follow_the_one_that_names_them() -> None:
    chart = [
        fact("Goal/g"),
        fact("Encounter/e"),
        fact("CarePlan/p", V, refs=("Goal/g",), encounter="Encounter/e"),
        fact("Provenance/w", refs=("Goal/g",)),
    ]
    groups = shape(split(chart))
    assert groups["CarePlan/p"] == (V, ("CarePlan/p", "Goal/g", "Provenance/w"))


def test_what_belongs_to_no_encounter_is_gathered_by_category_and_day() -> None:
    chart = [
        fact("Flag/a", day=3),
        fact("Flag/b", day=3),
        fact("Flag/c", day=4),
        fact("Flag/d", day=NO_DAY),
        fact("Flag/v", V, day=3),
    ]
    assert shape(split(chart)) == {
        "category/ENCOUNTER/3": (N, ("Flag/a", "Flag/b")),
        "category/ENCOUNTER/4": (N, ("Flag/c",)),
        "category/ENCOUNTER/undated": (N, ("Flag/d",)),
        "Flag/v": (V, ("Flag/v",)),
    }


def test_demographics_stand_apart() -> None:
    chart = [fact("Patient/p", day=NO_DAY), fact("RelatedPerson/r", day=NO_DAY), fact("Encounter/e")]
    assert shape(split(chart))["demographics"] == (N, ("Patient/p", "RelatedPerson/r"))


def test_circles_and_long_chains_of_references_end() -> None:
    circle = [fact("Provenance/a", refs=("Provenance/b",)), fact("Provenance/b", refs=("Provenance/a",))]
    chain = [fact(f"Provenance/{n}", refs=(f"Provenance/{n + 1}",)) for n in range(5_000)]
    assert sum(len(group.members) for group in split(circle)) == 2
    assert sum(len(group.members) for group in split(chain)) == 5_000
    lifted = split([*chain, fact("Provenance/5000", V)])
    assert {group.sensitivity for group in lifted} == {V}


def test_grades_do_not_depend_on_the_order_of_arrival() -> None:
    chart = [
        fact("Encounter/e"),
        fact("Condition/v", V, encounter="Encounter/e"),
        fact("MedicationRequest/m", refs=("Condition/v",), encounter="Encounter/e"),
        fact("Claim/c", refs=("MedicationRequest/m",)),
    ]
    forward = {group.name: group.sensitivity for group in split(chart)}
    assert {group.name: group.sensitivity for group in split(chart[::-1])} == forward


def test_a_ceiling_has_something_to_stop(desk: Any) -> None:
    desk.send(*desk.visit())
    below = desk.charts.search(desk.PSEUDONYM, ceiling=R)
    everything = desk.charts.search(desk.PSEUDONYM, ceiling=V)
    assert {one.group for one in below} == {"demographics", "Encounter/e1"}
    assert {one.group for one in everything} - {one.group for one in below} == {
        "Condition/c-hiv",
        "MedicationRequest/m-hiv",
        "Claim/cl1",
    }
    shown = b"".join(part.body for one in below for part in desk.charts.read(one.record_id).resources)
    assert b"86406008" not in shown
    assert b"c-hiv" not in shown


def test_days_come_from_the_chart_and_never_from_a_birth_date(desk: Any) -> None:
    found = desk.send({**desk.PATIENT, "birthDate": "1980-01-02"}, *desk.visit())
    days = {one.group: one.effective_day for one in found.records}
    assert days["Encounter/e1"] == 45416
    assert days["Condition/c-hiv"] == 45417
    assert days["demographics"] == 25567 + desk.RECEIVED_S // 86_400


@pytest.mark.parametrize(
    ("resource_type", "elements", "category"),
    [
        ("AllergyIntolerance", {}, Category.DIAGNOSIS),
        ("MedicationStatement", {}, Category.PRESCRIPTION),
        ("ImagingStudy", {}, Category.IMAGE),
        ("Consent", {}, Category.AUTHORISATION),
        ("DocumentReference", {}, Category.DOCUMENT),
        ("Coverage", {"beneficiary": {"reference": "Patient/pat-1"}}, Category.CLAIM),
        ("Observation", {}, Category.RESULT),
        ("Observation", {"performer": [{"reference": "Patient/pat-1"}]}, Category.PATIENT_REPORTED),
        ("QuestionnaireResponse", {"source": {"reference": "Patient/pat-1"}}, Category.PATIENT_REPORTED),
        ("QuestionnaireResponse", {"author": {"reference": "Practitioner/d"}}, Category.ENCOUNTER),
    ],
)
def test_categories(desk: Any, resource_type: str, elements: dict[str, Any], category: Category) -> None:
    found = desk.send(desk.about(resource_type, "x", **elements))
    assert [one.category for one in found.records] == [Category.DEMOGRAPHICS, category]
    wanted = desk.charts.search(desk.PSEUDONYM, ceiling=N, categories=mask(category))
    assert [one.record_id for one in wanted] == [found.records[1].record_id]


def test_shared_resources_stay_outside_the_records(desk: Any, charts: Charts) -> None:
    doctor = {"resourceType": "Practitioner", "id": "d", "name": [{"family": "Savem"}]}
    found = desk.send(doctor)
    assert (found.resources, found.directory, len(found.records)) == (1, 1, 1)
    assert b"Savem" in charts.shared("Practitioner", "d")
