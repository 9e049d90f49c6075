"""Goal: codes, words and labels give the grade the published table says, in either direction.

Method: rows of input and expected grade; the table itself is checked for soundness; the page is compared.
"""

from pathlib import Path

import pytest

from carechain.charts.sensitivity import grade, table
from carechain.charts.sensitivity_doc import render
from carechain.core.vocabulary import Sensitivity

SNOMED = "http://snomed.info/sct"
ICD = "http://hl7.org/fhir/sid/icd-10-cm"
LOINC = "http://loinc.org"
ATC = "http://www.whocc.no/atc"
CONFIDENTIALITY = "http://terminology.hl7.org/CodeSystem/v3-Confidentiality"
ACT = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
N, R, V = Sensitivity.N, Sensitivity.R, Sensitivity.V

BY_CODE = [
    (SNOMED, "38341003", N, ()),
    (SNOMED, "86406008", V, ("HIV",)),
    ("urn:oid:2.16.840.1.113883.6.96", "86406008", V, ("HIV",)),
    (None, "86406008", V, ("HIV",)),
    ("http://local.example", "86406008", N, ()),
    (ICD, "B20", V, ("HIV",)),
    (ICD, "F11.20", V, ("OPIOIDUD",)),
    (ICD, "F1120", V, ("OPIOIDUD",)),
    (ICD, "F17.210", N, ()),
    (ICD, "F10.20", R, ("ETH",)),
    (ICD, "F32.1", R, ("PSY",)),
    (ICD, "T74.11XA", V, ("SDV",)),
    (ICD, "O04.5", V, ("SEX",)),
    (ICD, "Z34.00", R, ("SEX",)),
    (ICD, "A56.01", R, ("STD",)),
    (ICD, "E84.9", R, ("GDIS",)),
    (ICD, "I10", N, ()),
    (None, "F20.0", R, ("PSY",)),
    (None, "other", N, ()),
    (None, "Oral", N, ()),
    (LOINC, "28245-9", V, ("SDV",)),
    (LOINC, "2093-3", N, ()),
    (ATC, "J05AR20", V, ("HIV",)),
    (ATC, "C10AA01", N, ()),
]

BY_WORD = [
    ("HIV status", V),
    ("Hives after eating nuts", N),
    ("Hearing aids", N),
    ("Rapeseed oil allergy", N),
    ("Biktarvy (BICTEGRAVIR/emtricitabine)", V),
    ("艾滋病病毒感染", V),
    ("重度抑郁发作", R),
    ("遭受家庭暴力", V),
    ("高血压", N),
    ("Contraceptive counselling", R),
    ("Depression of the ST segment", N),
]

BY_LABEL = [
    ([(CONFIDENTIALITY, "R")], [], R),
    ([(CONFIDENTIALITY, "L")], [], Sensitivity.L),
    ([(CONFIDENTIALITY, "U")], [(SNOMED, "86406008")], V),
    ([(CONFIDENTIALITY, "V")], [(SNOMED, "38341003")], V),
    ([(CONFIDENTIALITY, "bogus")], [], N),
    ([(ACT, "SDV")], [], V),
    ([(ACT, "PSY"), (CONFIDENTIALITY, "L")], [], R),
    ([(ACT, "UNKNOWN")], [], N),
]


@pytest.mark.parametrize(("system", "code", "expected", "labels"), BY_CODE)
def test_codes(system: str | None, code: str, expected: Sensitivity, labels: tuple[str, ...]) -> None:
    found = grade(codings=[(system, code)], texts=[], security=[])
    assert (found.sensitivity, found.labels) == (expected, labels)


@pytest.mark.parametrize(("text", "expected"), BY_WORD)
def test_words(text: str, expected: Sensitivity) -> None:
    assert grade(codings=[], texts=[text], security=[]).sensitivity is expected
    assert grade(codings=[], texts=["x " * 400 + text], security=[]).sensitivity is expected


@pytest.mark.parametrize(("security", "codings", "expected"), BY_LABEL)
def test_labels_raise_and_never_lower(
    security: list[tuple[str | None, str]], codings: list[tuple[str | None, str]], expected: Sensitivity
) -> None:
    assert grade(codings=codings, texts=[], security=security).sensitivity is expected


def test_the_table_is_sound() -> None:
    """Every rule names a known label and grade, a known system, and something to recognise it by."""
    rules = table()
    ids = [rule.id for rule in rules.rules]
    assert len(set(ids)) == len(ids)
    for rule in rules.rules:
        assert rule.label in rules.labels
        assert rule.sensitivity > N
        assert set(rule.codes) <= set(rules.systems)
        assert rule.codes
        assert all(word == word.lower() for word in rule.words)
    words = [word for rule in rules.rules for word in rule.words]
    assert len(set(words)) == len(words)
    assert all(Sensitivity[one] > N for one in rules.labels.values())


def test_every_code_of_every_rule_is_found_again() -> None:
    rules = table()
    for rule in rules.rules:
        for name, codes in rule.codes.items():
            for code in codes:
                whole = (
                    code if rules.systems[name].match == "code" else (code.replace(".", "") + "00")[: max(3, len(code))]
                )
                found = grade(codings=[(rules.systems[name].urls[0], whole)], texts=[], security=[])
                assert rule.label in found.labels, (rule.id, code)
                assert found.sensitivity >= rule.sensitivity


def test_the_page_is_the_one_generated_from_the_table() -> None:
    page = Path(__file__).parents[3] / "docs" / "concepts" / "sensitivity.md"
    assert page.read_text(encoding="utf-8") == render()
