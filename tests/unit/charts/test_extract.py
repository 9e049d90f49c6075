"""Goal: each data type is found by everything R4 lets one ask of it.

Method: one small resource per case, and the exact rows it must give (or must not give) for a parameter.
"""

from collections.abc import Iterable
from datetime import UTC
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from carechain.charts.definitions import RESOURCE_TYPES, search_parameters
from carechain.charts.searching.extract import COMPOSITE_TERMS, Extractor, IndexRows
from carechain.charts.searching.keys import (
    ANY_UNIT,
    code_term,
    coding_term,
    param_key,
    reference_term,
    system_term,
    unit_term,
    uri_term,
)
from carechain.charts.searching.values import (
    OPEN_NUMBER,
    OPEN_US,
    composite_term,
    date_interval,
    of_type_term,
)

ZONE = ZoneInfo("Asia/Shanghai")
LOINC = "http://loinc.org"
UCUM = "http://unitsofmeasure.org"
BASE = "https://care.example/fhir"


def rows(resource_type: str, **elements: Any) -> IndexRows:
    return Extractor(ZONE, BASE).rows({"resourceType": resource_type, **elements}, resource_type)


def of(table: Iterable[tuple[Any, ...]], resource_type: str, code: str) -> set[Any]:
    key = param_key(resource_type, code)
    found = {row[1:] for row in table if row[0] == key}
    return {row[0] if len(row) == 1 else row for row in found}


def test_a_concept_is_found_by_code_system_and_words() -> None:
    found = rows(
        "Observation", code={"coding": [{"system": LOINC, "code": "718-7", "display": "Hb"}], "text": "血红蛋白"}
    )
    expected = {code_term("718-7"), coding_term(LOINC, "718-7"), system_term(LOINC)}
    assert of(found.tokens, "Observation", "code") == expected
    assert not of(found.tokens, "Observation", "combo-code"), "code and component-code say it together"
    assert of(found.strings, "Observation", "code:text") == {("hb", "Hb"), ("血红蛋白", "血红蛋白")}
    assert not of(found.strings, "Observation", "code")


def test_a_coding_without_a_system_says_so() -> None:
    found = rows("Observation", code={"coding": [{"code": "x"}]})
    assert of(found.tokens, "Observation", "code") == {code_term("x"), coding_term("", "x")}


def test_codes_and_booleans_are_tokens() -> None:
    found = rows("Patient", gender="female", active=True)
    assert of(found.tokens, "Patient", "gender") == {code_term("female")}
    assert code_term("true") in of(found.tokens, "Patient", "active")


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({}, "false"),
        ({"deceasedBoolean": False}, "false"),
        ({"deceasedBoolean": True}, "true"),
        ({"deceasedDateTime": "2020-01-01"}, "true"),
    ],
)
def test_deceased_is_known_of_everyone(elements: dict[str, Any], expected: str) -> None:
    found = of(rows("Patient", **elements).tokens, "Patient", "deceased")
    assert code_term(expected) in found
    assert code_term("true" if expected == "false" else "false") not in found


def test_an_identifier_is_found_by_value_system_and_kind() -> None:
    kind = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "MR"}], "text": "病历号"}
    found = rows("Patient", identifier=[{"system": "urn:h", "value": " １２３Ａ ", "type": kind}])
    assert of(found.tokens, "Patient", "identifier") == {
        code_term("123A"),
        coding_term("urn:h", "123A"),
        system_term("urn:h"),
    }
    assert of(found.tokens, "Patient", "identifier:of-type") == {
        of_type_term("http://terminology.hl7.org/CodeSystem/v2-0203", "MR", "123A")
    }
    assert of(found.strings, "Patient", "identifier:text") == {("病历号", "病历号")}


def test_contact_points_are_told_apart() -> None:
    found = rows("Patient", telecom=[{"system": "email", "value": "a@b.example"}, {"system": "phone", "value": "123"}])
    assert code_term("a@b.example") in of(found.tokens, "Patient", "email")
    assert code_term("123") not in of(found.tokens, "Patient", "email")
    assert {code_term("123"), coding_term("phone", "123")} <= of(found.tokens, "Patient", "telecom")


def test_a_han_name_is_found_whole_and_in_parts() -> None:
    found = rows("Patient", name=[{"family": "王", "given": ["小", "明"], "text": "王 小明"}])
    folded = {row[0] for row in of(found.strings, "Patient", "name")}
    assert folded >= {"王", "小", "明", "王小明", "小明王", "王 小明"}
    assert {row[0] for row in of(found.strings, "Patient", "family")} == {"王"}
    assert {row[0] for row in of(found.strings, "Patient", "given")} == {"小", "明"}


def test_a_latin_name_is_found_in_both_orders() -> None:
    found = rows("Patient", name=[{"family": "Müller", "given": ["Anna", "Eva"]}])
    assert of(found.strings, "Patient", "name") >= {
        ("muller", "Müller"),
        ("anna eva muller", "Anna Eva Müller"),
        ("muller anna eva", "Müller Anna Eva"),
    }


def test_every_part_of_an_address_is_found() -> None:
    found = rows("Patient", address=[{"line": ["Ａ路 1"], "city": "北京", "postalCode": "100000", "use": "home"}])
    assert {row[0] for row in of(found.strings, "Patient", "address")} == {"a路 1", "北京", "100000"}
    assert {row[0] for row in of(found.strings, "Patient", "address-city")} == {"北京"}
    assert of(found.tokens, "Patient", "address-use") == {code_term("home")}


def test_dates_without_offset_are_local() -> None:
    found = rows("Observation", effectiveDateTime="2024-05-01")
    assert of(found.dates, "Observation", "date") == {date_interval("2024-05-01", ZONE)}


def test_a_period_may_be_open() -> None:
    start, _ = date_interval("2024-05-01", ZONE)
    _, end = date_interval("2024-05-03", ZONE)
    for period, expected in [
        ({"start": "2024-05-01", "end": "2024-05-03"}, {(start, end)}),
        ({"start": "2024-05-01"}, {(start, OPEN_US)}),
        ({"end": "2024-05-03"}, {(-OPEN_US, end)}),
        ({}, set()),
        ({"start": "someday"}, set()),
    ]:
        assert of(rows("Encounter", period=period).dates, "Encounter", "date") == expected


def test_a_timing_counts_by_its_events_and_bounds() -> None:
    timing = {"event": ["2024-05-01", "2024-06-01"], "repeat": {"boundsPeriod": {"start": "2024-05-01"}}}
    found = of(rows("Observation", effectiveTiming=timing).dates, "Observation", "date")
    assert len(found) == 3
    assert (date_interval("2024-05-01", ZONE)[0], OPEN_US) in found


def test_a_quantity_is_found_by_each_name_of_its_unit() -> None:
    found = rows("Observation", valueQuantity={"value": 72.5, "unit": "kilos", "system": UCUM, "code": "kg"})
    units = {ANY_UNIT, unit_term(UCUM, "kg"), unit_term("", "kg"), unit_term("", "kilos")}
    assert of(found.numbers, "Observation", "value-quantity") == {(unit, 72.5, 72.5) for unit in units}


@pytest.mark.parametrize(
    ("quantity", "low", "high"),
    [
        ({"value": 5, "comparator": "<"}, -OPEN_NUMBER, 5.0),
        ({"value": 5, "comparator": ">="}, 5.0, OPEN_NUMBER),
        ({"value": 5}, 5.0, 5.0),
    ],
)
def test_a_comparator_opens_a_quantity(quantity: dict[str, Any], low: float, high: float) -> None:
    found = rows("Observation", valueQuantity=quantity)
    assert of(found.numbers, "Observation", "value-quantity") == {(ANY_UNIT, low, high)}


def test_ranges_money_and_samples_are_quantities() -> None:
    onset = rows("Condition", onsetRange={"low": {"value": 3, "unit": "a"}})
    assert (ANY_UNIT, 3.0, OPEN_NUMBER) in of(onset.numbers, "Condition", "onset-age")
    invoice = rows("Invoice", totalNet={"value": 10.5, "currency": "CNY"})
    assert (unit_term("urn:iso:std:iso:4217", "CNY"), 10.5, 10.5) in of(invoice.numbers, "Invoice", "totalnet")
    sampled = {"origin": {"value": 10}, "factor": 2, "data": "1 E 3 U -1", "period": 1, "dimensions": 1}
    found = rows("Observation", valueSampledData=sampled)
    assert of(found.numbers, "Observation", "value-quantity") == {(ANY_UNIT, 8.0, 16.0)}
    risk = rows("RiskAssessment", prediction=[{"probabilityDecimal": 0.25}])
    assert of(risk.numbers, "RiskAssessment", "probability") == {(ANY_UNIT, 0.25, 0.25)}


def test_references_are_found_by_what_they_name() -> None:
    for literal, named in [
        ("Patient/1", "Patient/1"),
        ("Patient/1/_history/3", "Patient/1"),
        (f"{BASE}/Patient/1", "Patient/1"),
        ("https://elsewhere.example/fhir/Patient/1", "https://elsewhere.example/fhir/Patient/1"),
    ]:
        found = rows("Observation", subject={"reference": literal})
        for code in ("subject", "patient"):
            assert of(found.references, "Observation", code) == {reference_term(named)}, literal


def test_a_reference_must_lead_to_the_type_asked_for() -> None:
    group = rows("Observation", subject={"reference": "Group/1"})
    assert of(group.references, "Observation", "subject") == {reference_term("Group/1")}
    assert not of(group.references, "Observation", "patient")
    named = rows("Observation", subject={"reference": "urn:uuid:1", "type": "Patient"})
    assert of(named.references, "Observation", "patient") == {reference_term("urn:uuid:1")}
    assert not rows("Observation", subject={"reference": "#p"}).references


def test_a_reference_by_identifier_is_a_token() -> None:
    found = rows("Observation", subject={"identifier": {"system": "urn:h", "value": "7"}})
    assert coding_term("urn:h", "7") in of(found.tokens, "Observation", "subject:identifier")
    assert not found.references


def test_canonicals_are_found_with_and_without_version() -> None:
    found = rows("QuestionnaireResponse", questionnaire="http://q.example/phq9|1.0")
    assert of(found.references, "QuestionnaireResponse", "questionnaire") == {
        reference_term("http://q.example/phq9|1.0"),
        reference_term("http://q.example/phq9"),
    }


def test_what_meta_says_is_found() -> None:
    meta = {
        "profile": ["http://p.example/a"],
        "tag": [{"system": "urn:t", "code": "x"}],
        "security": [{"code": "R"}],
        "source": "urn:s",
        "lastUpdated": "2024-01-01T00:00:00Z",
    }
    found = rows("Organization", id="o", meta=meta)
    assert of(found.tokens, "Organization", "_profile") == {uri_term("http://p.example/a")}
    assert of(found.strings, "Organization", "_profile") == {("http://p.example/a", "http://p.example/a")}
    assert coding_term("urn:t", "x") in of(found.tokens, "Organization", "_tag")
    assert code_term("R") in of(found.tokens, "Organization", "_security")
    assert of(found.tokens, "Organization", "_source") == {uri_term("urn:s")}
    assert not of(found.tokens, "Organization", "_id")
    assert not found.dates


def test_components_are_paired_within_themselves() -> None:
    def component(code: str, value: float) -> dict[str, Any]:
        return {"code": {"coding": [{"system": LOINC, "code": code}]}, "valueQuantity": {"value": value}}

    found = rows("Observation", component=[component("8480-6", 120), component("8462-4", 80)])
    pairs = of(found.numbers, "Observation", "component-code-value-quantity")
    assert (composite_term(coding_term(LOINC, "8480-6"), ANY_UNIT), 120.0, 120.0) in pairs
    assert (composite_term(code_term("8462-4"), ANY_UNIT), 80.0, 80.0) in pairs
    assert (composite_term(code_term("8480-6"), ANY_UNIT), 80.0, 80.0) not in pairs
    assert not of(found.numbers, "Observation", "code-value-quantity")
    assert not of(found.numbers, "Observation", "combo-code-value-quantity")


def test_two_tokens_of_one_element_are_paired() -> None:
    context = {"code": {"code": "focus"}, "valueCodeableConcept": {"coding": [{"code": "a"}]}}
    found = of(rows("Library", useContext=[context]).tokens, "Library", "context-type-value")
    assert composite_term(code_term("focus"), code_term("a")) in found
    related = {"code": "replaces", "target": {"reference": "DocumentReference/1"}}
    found = of(rows("DocumentReference", relatesTo=[related]).tokens, "DocumentReference", "relationship")
    assert composite_term(reference_term("DocumentReference/1"), code_term("replaces")) in found


def test_pairs_are_bounded() -> None:
    codings = [{"code": f"c{number}"} for number in range(1000)]
    component = {"code": {"coding": codings}, "valueCodeableConcept": {"coding": codings}}
    found = of(rows("Observation", component=[component]).tokens, "Observation", "component-code-value-concept")
    assert 0 < len(found) <= COMPOSITE_TERMS**2


def test_extensions_of_us_core_are_found() -> None:
    race = {
        "url": "http://hl7.org/fhir/us/core/StructureDefinition/us-core-race",
        "extension": [{"url": "ombCategory", "valueCoding": {"system": "urn:oid:2.16", "code": "2028-9"}}],
    }
    other = {"url": "urn:other", "extension": [{"url": "x", "valueCoding": {"code": "no"}}]}
    found = of(rows("Patient", extension=[race, other]).tokens, "Patient", "race")
    assert found == {code_term("2028-9"), coding_term("urn:oid:2.16", "2028-9"), system_term("urn:oid:2.16")}


def test_rows_do_not_repeat_and_do_not_stay() -> None:
    extractor = Extractor(UTC)
    twice = {"category": [{"coding": [{"code": "a"}]}, {"coding": [{"code": "a"}]}]}
    first = extractor.rows(twice, "Observation")
    assert len(first.tokens) == len(set(first.tokens))
    assert extractor.rows({}, "Observation").tokens == []
    assert first.tokens


@pytest.mark.parametrize("junk", [None, True, 5, "x", [], {}, [[{}]], {"coding": "x"}, [{"coding": [None, 3]}], [None]])
def test_wrong_shapes_give_no_rows_and_no_error(junk: object) -> None:
    extractor = Extractor(ZONE)
    for resource_type in sorted(RESOURCE_TYPES):
        names = {
            leaf.path[0].partition("?")[0]
            for one in search_parameters(resource_type).values()
            for leaf in one.leaves
            if leaf.path
        }
        extractor.rows(dict.fromkeys(names, junk), resource_type)


def test_rows_show_nothing_when_printed() -> None:
    assert repr(rows("Patient", name=[{"family": "Secret"}])) == "IndexRows()"
