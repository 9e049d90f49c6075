"""Goal: what is not FHIR R4 is refused with the place and the reason, and what is R4 is not.

Method: a valid resource is broken in one way at a time by hand; each table row says which code must be found where. No
issue may repeat anything of the input.
"""

import copy
import threading
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from carechain.charts import structure
from carechain.charts.codes import ChartsCode
from carechain.charts.rules import RULES
from carechain.charts.validation import ERRORS, ISSUES, InvalidResource, Issue, check, validate
from carechain.core.limits import BUNDLE_NESTING

Json = dict[str, Any]
XHTML = 'xmlns="http://www.w3.org/1999/xhtml"'
LOINC = "http://loinc.org"
TERMINOLOGY = "http://terminology.hl7.org/CodeSystem/"

OBSERVATION: Json = {
    "resourceType": "Observation",
    "id": "o1",
    "meta": {"lastUpdated": "2024-05-01T10:00:00.123+08:00", "profile": ["http://p.example/x"]},
    "text": {"status": "generated", "div": f"<div {XHTML}><p>血红蛋白&nbsp;13</p></div>"},
    "status": "final",
    "category": [{"coding": [{"system": TERMINOLOGY + "observation-category", "code": "laboratory"}]}],
    "code": {"coding": [{"system": LOINC, "code": "718-7"}], "text": "Hb\u00a0"},
    "subject": {"reference": "Patient/p1", "display": "p"},
    "performer": [{"reference": "urn:uuid:6c1c4c2e-8f0c-4c0a-9a59-0e1c7f3f7b0e"}],
    "effectiveDateTime": "2024-05-01",
    "valueQuantity": {"value": 13.5, "unit": "g/dL", "system": "http://unitsofmeasure.org", "code": "g/dL"},
    "referenceRange": [{"low": {"value": 12}, "high": {"value": 16}}],
    "note": [{"text": "ok"}],
}
PATIENT: Json = {
    "resourceType": "Patient",
    "id": "p1",
    "name": [
        {"family": "王", "given": ["小", None], "_given": [None, {"extension": [{"url": "urn:x", "valueCode": "CL"}]}]}
    ],
    "gender": "female",
    "birthDate": "1990-02",
    "_birthDate": {"extension": [{"url": "urn:x", "valueDateTime": "1990-02-03T01:00:00Z"}]},
    "identifier": [{"system": "urn:x", "value": "1", "period": {"start": "2020", "end": "2020-01-01"}}],
    "contained": [{"resourceType": "Organization", "id": "c", "name": "x"}],
    "managingOrganization": {"reference": "#c"},
}
BUNDLE: Json = {
    "resourceType": "Bundle",
    "type": "transaction",
    "entry": [{"fullUrl": "urn:uuid:1", "resource": OBSERVATION, "request": {"method": "POST", "url": "Observation"}}],
}
VALID: dict[str, Json] = {
    "Observation": OBSERVATION,
    "Patient": PATIENT,
    "Bundle": BUNDLE,
    "Condition": {
        "resourceType": "Condition",
        "subject": {"reference": "Patient/p1"},
        "clinicalStatus": {"coding": [{"system": TERMINOLOGY + "condition-clinical", "code": "active"}]},
    },
    "AllergyIntolerance": {
        "resourceType": "AllergyIntolerance",
        "patient": {"reference": "Patient/p1"},
        "clinicalStatus": {"coding": [{"code": "active"}]},
    },
    "Parameters": {"resourceType": "Parameters", "parameter": [{"name": "a", "valueString": "b"}]},
    "Organization": {"resourceType": "Organization", "name": "x"},
    "Group": {
        "resourceType": "Group",
        "type": "person",
        "actual": True,
        "member": [{"entity": {"reference": "Patient/1"}}],
    },
    "List": {"resourceType": "List", "status": "current", "mode": "working"},
    "Composition": {
        "resourceType": "Composition",
        "status": "final",
        "type": {"text": "x"},
        "date": "2024-01-01T00:00:00Z",
        "author": [{"display": "x"}],
        "title": "x",
        "section": [{"title": "x", "entry": [{"reference": "Observation/1"}]}],
    },
    "CarePlan": {
        "resourceType": "CarePlan",
        "status": "active",
        "intent": "plan",
        "subject": {"reference": "Patient/1"},
        "activity": [{"reference": {"reference": "Task/1"}}],
    },
    "Consent": {
        "resourceType": "Consent",
        "status": "active",
        "scope": {"text": "x"},
        "category": [{"text": "x"}],
        "policyRule": {"text": "x"},
    },
    "MedicationRequest": {
        "resourceType": "MedicationRequest",
        "status": "active",
        "intent": "order",
        "medicationCodeableConcept": {"text": "x"},
        "subject": {"reference": "Patient/1"},
        "dosageInstruction": [{"timing": {"repeat": {"frequency": 1, "period": 1, "periodUnit": "d"}}}],
    },
}


def changed(resource: Json, path: str, value: object) -> Json:
    """A copy with one element set; ``path`` is dotted, numbers being positions."""
    copied = copy.deepcopy(resource)
    at: Any = copied
    *steps, last = (int(step) if step.isdigit() else step for step in path.split("."))
    for step in steps:
        at = at[step] if isinstance(step, int) else at.setdefault(step, {})
    at[last] = value
    return copied


def without(resource: Json, name: str) -> Json:
    return {key: value for key, value in resource.items() if key != name}


def issues(resource: object) -> tuple[Issue, ...]:
    return validate(orjson.dumps(resource))


def errors(resource: object) -> list[tuple[str, str]]:
    return [(one.code, one.location) for one in issues(resource) if one.severity in ERRORS]


@pytest.mark.parametrize("name", VALID)
def test_valid_resources_are_valid(name: str) -> None:
    assert issues(VALID[name]) == ()
    check(orjson.dumps(VALID[name], option=orjson.OPT_INDENT_2))


STRUCTURE: dict[str, tuple[Json, str, str]] = {
    "an unknown element": (changed(OBSERVATION, "foo", 1), "structure", "Observation"),
    "an unknown element below": (changed(OBSERVATION, "code.foo", 1), "structure", "Observation.code"),
    "a missing element": (without(OBSERVATION, "code"), "required", "Observation.code"),
    "a missing primitive": (without(OBSERVATION, "status"), "required", "Observation.status"),
    "a missing element below": (
        changed(OBSERVATION, "note.0", {"time": "2024-01-01T00:00:00Z"}),
        "required",
        "Observation.note[0].text",
    ),
    "a code that is none": (changed(OBSERVATION, "status", "finished"), "code-invalid", "Observation.status"),
    "a list that should be one": (
        changed(OBSERVATION, "subject", [{"reference": "Patient/1"}]),
        "structure",
        "Observation.subject",
    ),
    "one that should be a list": (changed(OBSERVATION, "category", {"text": "x"}), "structure", "Observation.category"),
    "a number as text": (
        changed(OBSERVATION, "valueQuantity.value", "13.5"),
        "structure",
        "Observation.valueQuantity.value",
    ),
    "text as a number": (changed(OBSERVATION, "code.text", 5), "structure", "Observation.code.text"),
    "a truth as text": (changed(PATIENT, "active", "true"), "structure", "Patient.active"),
    "two values of a choice": (changed(OBSERVATION, "valueString", "x"), "structure", "Observation"),
    "a value of a type that is not in the choice": (
        changed(without(OBSERVATION, "valueQuantity"), "valueUri", "urn:x"),
        "structure",
        "Observation",
    ),
    "no value of a required choice": (
        without(VALID["MedicationRequest"], "medicationCodeableConcept"),
        "required",
        "MedicationRequest",
    ),
    "an empty list": (changed(OBSERVATION, "performer", []), "structure", "Observation.performer"),
    "an empty object": (changed(OBSERVATION, "subject", {}), "structure", "Observation.subject"),
    "empty text": (changed(OBSERVATION, "code.text", ""), "value", "Observation.code.text"),
    "blank text": (changed(OBSERVATION, "code.text", " \n"), "value", "Observation.code.text"),
    "null": (changed(OBSERVATION, "subject", None), "structure", "Observation.subject"),
    "null in a list of objects": (changed(OBSERVATION, "performer", [None]), "structure", "Observation.performer[0]"),
    "an id with a space": (changed(OBSERVATION, "id", "a b"), "value", "Observation.id"),
    "an id of 65 letters": (changed(OBSERVATION, "id", "a" * 65), "value", "Observation.id"),
    "a code with outer spaces": (
        changed(OBSERVATION, "code.coding.0.code", " x"),
        "value",
        "Observation.code.coding[0].code",
    ),
    "an address with a space": (
        changed(OBSERVATION, "code.coding.0.system", "http://a b"),
        "value",
        "Observation.code.coding[0].system",
    ),
    "a fraction for a count": (
        changed(PATIENT, "multipleBirthInteger", 1.5),
        "structure",
        "Patient.multipleBirthInteger",
    ),
    "a rank of zero": (
        changed(PATIENT, "telecom", [{"system": "phone", "value": "1", "rank": 0}]),
        "value",
        "Patient.telecom[0].rank",
    ),
    "a count beyond 32 bits": (
        changed(PATIENT, "multipleBirthInteger", 2**31),
        "value",
        "Patient.multipleBirthInteger",
    ),
    "data that is not base64": (
        changed(PATIENT, "photo", [{"contentType": "image/png", "data": "?"}]),
        "value",
        "Patient.photo[0].data",
    ),
    "an extension with nothing": (
        changed(OBSERVATION, "extension", [{"url": "urn:x"}]),
        "invariant",
        "Observation.extension[0]",
    ),
    "an extension with both": (
        changed(
            OBSERVATION,
            "extension",
            [{"url": "urn:x", "valueCode": "a", "extension": [{"url": "y", "valueCode": "a"}]}],
        ),
        "invariant",
        "Observation.extension[0]",
    ),
    "an extension without its address": (
        changed(OBSERVATION, "extension", [{"valueCode": "a"}]),
        "required",
        "Observation.extension[0].url",
    ),
    "a type that R4 has not": ({"resourceType": "Observatory"}, "structure", ""),
    "no type": ({"id": "x"}, "structure", ""),
    "another entry's type": (
        changed(BUNDLE, "entry.0.resource.resourceType", "X"),
        "structure",
        "Bundle.entry[0].resource",
    ),
    "a broken resource in a bundle": (
        changed(BUNDLE, "entry.0.resource.status", "x"),
        "code-invalid",
        "Bundle.entry[0].resource.status",
    ),
    "a broken contained resource": (changed(PATIENT, "contained.0.name", 1), "structure", "Patient.contained[0].name"),
    "an unknown method": (
        changed(BUNDLE, "entry.0.request.method", "STEAL"),
        "code-invalid",
        "Bundle.entry[0].request.method",
    ),
}


@pytest.mark.parametrize("name", STRUCTURE)
def test_what_the_structure_forbids(name: str) -> None:
    resource, code, location = STRUCTURE[name]
    assert (code, location) in errors(resource)


STRINGS: dict[str, tuple[Json, str, str]] = {
    "a day that is not": (
        changed(OBSERVATION, "effectiveDateTime", "2023-02-29"),
        "value",
        "Observation.effectiveDateTime",
    ),
    "a month that is not": (changed(PATIENT, "birthDate", "1990-13"), "value", "Patient.birthDate"),
    "a date written otherwise": (changed(PATIENT, "birthDate", "03/02/1990"), "value", "Patient.birthDate"),
    "a date with a time": (changed(PATIENT, "birthDate", "1990-01-01T00:00:00Z"), "value", "Patient.birthDate"),
    "a time without seconds": (
        changed(OBSERVATION, "effectiveDateTime", "2024-05-01T10:00Z"),
        "value",
        "Observation.effectiveDateTime",
    ),
    "an instant without offset": (changed(OBSERVATION, "issued", "2024-05-01T10:00:00"), "value", "Observation.issued"),
    "an hour that is not": (changed(OBSERVATION, "issued", "2024-05-01T25:00:00Z"), "value", "Observation.issued"),
    "a day that is not, in an extension": (
        changed(OBSERVATION, "subject.extension", [{"url": "urn:x", "valueDate": "2024-02-30"}]),
        "value",
        "Observation.subject.extension[0].valueDate",
    ),
    "a reference to the wrong type": (
        changed(OBSERVATION, "subject.reference", "Medication/1"),
        "value",
        "Observation.subject",
    ),
    "an absolute one to the wrong type": (
        changed(OBSERVATION, "subject.reference", "https://a.example/fhir/Medication/1"),
        "value",
        "Observation.subject",
    ),
    "a stated wrong type": (
        changed(OBSERVATION, "subject", {"type": "Medication", "display": "x"}),
        "value",
        "Observation.subject",
    ),
    "a reference to no type": (changed(OBSERVATION, "subject.reference", "Patients/1"), "value", "Observation.subject"),
    "a reference that is none": (changed(OBSERVATION, "subject.reference", "p1"), "value", "Observation.subject"),
    "a reference that runs": (
        changed(OBSERVATION, "subject.reference", "javascript:alert(1)"),
        "value",
        "Observation.subject",
    ),
    "a reference upwards": (
        changed(OBSERVATION, "subject.reference", "../../etc/passwd"),
        "value",
        "Observation.subject",
    ),
    "a contained one that is not there": (
        changed(OBSERVATION, "subject.reference", "#p"),
        "invariant",
        "Observation.subject",
    ),
    "an attachment that runs": (changed(PATIENT, "photo", [{"url": " javascript:x"}]), "value", "Patient.photo[0].url"),
}


@pytest.mark.parametrize("name", STRINGS)
def test_what_strings_may_not_say(name: str) -> None:
    resource, code, location = STRINGS[name]
    assert (code, location) in errors(resource)


RULE_BREAKERS: dict[str, tuple[Json, str]] = {
    "ait-1": (without(VALID["AllergyIntolerance"], "clinicalStatus"), "AllergyIntolerance"),
    "ait-2": (
        changed(VALID["AllergyIntolerance"], "verificationStatus", {"coding": [{"code": "entered-in-error"}]}),
        "AllergyIntolerance",
    ),
    "att-1": (changed(PATIENT, "photo", [{"data": "aGk="}]), "Patient.photo[0]"),
    "cmp-1": (changed(VALID["Composition"], "section", [{"title": "x"}]), "Composition.section[0]"),
    "cmp-2": (changed(VALID["Composition"], "section.0.emptyReason", {"text": "x"}), "Composition.section[0]"),
    "con-4": (changed(VALID["Condition"], "abatementDateTime", "2024"), "Condition"),
    "con-5": (
        changed(VALID["Condition"], "verificationStatus", {"coding": [{"code": "entered-in-error"}]}),
        "Condition",
    ),
    "cpl-3": (changed(VALID["CarePlan"], "activity.0.detail", {"status": "scheduled"}), "CarePlan.activity[0]"),
    "cpt-2": (changed(PATIENT, "telecom", [{"value": "1"}]), "Patient.telecom[0]"),
    "grp-1": (VALID["Group"] | {"actual": False}, "Group"),
    "ext-1": (
        changed(OBSERVATION, "code.extension", [{"url": "x", "valueCode": "a", "_valueString": {"id": "x"}}]),
        "Observation.code.extension[0]",
    ),
    "inv-1": (
        changed(VALID["Parameters"], "parameter.0.part", [{"name": "x", "valueCode": "y"}]),
        "Parameters.parameter[0]",
    ),
    "lst-1": (
        VALID["List"] | {"emptyReason": {"text": "x"}, "entry": [{"item": {"reference": "Patient/1"}}]},
        "List",
    ),
    "obs-3": (
        changed(OBSERVATION, "referenceRange.0", {"age": {"low": {"value": 1}}}),
        "Observation.referenceRange[0]",
    ),
    "obs-6": (changed(OBSERVATION, "dataAbsentReason", {"text": "x"}), "Observation"),
    "obs-7": (
        changed(OBSERVATION, "component", [{"code": {"coding": [{"system": LOINC, "code": "718-7"}]}}]),
        "Observation",
    ),
    "org-1": ({"resourceType": "Organization", "active": True}, "Organization"),
    "pat-1": (changed(PATIENT, "contact", [{"gender": "male"}]), "Patient.contact[0]"),
    "per-1": (
        changed(PATIENT, "identifier.0.period", {"start": "2021", "end": "2020-12-31"}),
        "Patient.identifier[0].period",
    ),
    "ppc-1": (without(VALID["Consent"], "policyRule"), "Consent"),
    "qty-3": (changed(OBSERVATION, "valueQuantity", {"value": 1, "code": "g"}), "Observation.valueQuantity"),
    "rat-1": (
        changed(without(OBSERVATION, "valueQuantity"), "valueRatio", {"numerator": {"value": 1}}),
        "Observation.valueRatio",
    ),
    "rng-2": (
        changed(OBSERVATION, "referenceRange.0", {"age": {"low": {"value": 2}, "high": {"value": 1}}}),
        "Observation.referenceRange[0].age",
    ),
    "bdl-1": (changed(BUNDLE, "total", 1), "Bundle"),
    "bdl-2": (changed(BUNDLE, "entry.0.search", {"mode": "match"}), "Bundle"),
    "bdl-3": (changed(BUNDLE, "entry.0", {"resource": OBSERVATION}), "Bundle"),
    "bdl-4": (changed(BUNDLE, "entry.0.response", {"status": "200"}), "Bundle"),
    "bdl-5": (changed(BUNDLE | {"type": "collection"}, "entry.0", {"fullUrl": "urn:uuid:1"}), "Bundle"),
    "bdl-7": (BUNDLE | {"entry": [*BUNDLE["entry"], *BUNDLE["entry"]]}, "Bundle"),
    "bdl-8": (changed(BUNDLE, "entry.0.fullUrl", "http://a.example/Observation/1/_history/2"), "Bundle"),
    "bdl-9": (changed(BUNDLE, "type", "document"), "Bundle"),
    "bdl-10": (changed(BUNDLE, "type", "document"), "Bundle"),
    "bdl-11": (changed(BUNDLE, "type", "document"), "Bundle"),
    "bdl-12": (changed(BUNDLE, "type", "message"), "Bundle"),
    "dom-2": (
        changed(PATIENT, "contained.0.contained", [{"resourceType": "Patient", "id": "d"}]),
        "Patient.contained[0]",
    ),
    "dom-3": (without(PATIENT, "managingOrganization"), "Patient.contained[0]"),
    "dom-4": (changed(PATIENT, "contained.0.meta", {"versionId": "1"}), "Patient.contained[0]"),
    "dom-5": (changed(PATIENT, "contained.0.meta", {"security": [{"code": "R"}]}), "Patient.contained[0]"),
    "ref-1": (changed(PATIENT, "managingOrganization.reference", "#d"), "Patient.managingOrganization"),
} | {
    name: (
        changed(VALID["MedicationRequest"], "dosageInstruction.0.timing.repeat", repeat),
        "MedicationRequest.dosageInstruction[0].timing.repeat",
    )
    for name, repeat in {
        "tim-1": {"duration": 1},
        "tim-2": {"period": 1},
        "tim-4": {"duration": -1, "durationUnit": "h"},
        "tim-5": {"period": -1, "periodUnit": "d"},
        "tim-6": {"periodMax": 1},
        "tim-7": {"durationMax": 1},
        "tim-8": {"countMax": 2},
        "tim-10": {"timeOfDay": ["10:00:00"], "when": ["MORN"]},
    }.items()
}


def test_every_rule_is_broken_below() -> None:
    assert {rule.name for rules in RULES.values() for rule in rules} <= RULE_BREAKERS.keys()


@pytest.mark.parametrize("name", RULE_BREAKERS)
def test_what_invariants_forbid(name: str) -> None:
    resource, location = RULE_BREAKERS[name]
    found = [one for one in issues(resource) if one.diagnostics.startswith(name + ":")]
    assert [(one.code, one.location) for one in found[:1]] == [("invariant", location)]


@pytest.mark.parametrize(
    "inside",
    [
        "<script>alert(1)</script>",
        '<p onclick="x()">a</p>',
        '<P xmlns="http://www.w3.org/1999/xhtml">a</P>',
        '<a href="javascript:x">a</a>',
        '<a href=" java&#10;script:x">a</a>',
        '<a href="JAVASCRIPT&#58;x">a</a>',
        '<a href="data:text/html;base64,AAAA">a</a>',
        '<img src="data:image/svg+xml;base64,AAAA"/>',
        '<img src="x" onerror="y"/>',
        "<iframe/>a",
        '<object data="x"/>a',
        "<form>a</form>",
        "<style>a</style>",
        '<link href="x"/>a',
        '<svg xmlns="http://www.w3.org/2000/svg"><script/></svg>a',
        '<p style="background:url(http://x)">a</p>',
        '<p style="width:expression(x)">a</p>',
        '<p style="behavior:x">a</p>',
        "<?php x ?>a",
        "<p>a",
        "",
        "  ",
        "&undefined;",
    ],
)
def test_a_narrative_that_runs_or_says_nothing_is_refused(inside: str) -> None:
    resource = changed(OBSERVATION, "text.div", f"<div {XHTML}>{inside}</div>")
    assert ("invalid", "Observation.text.div") in errors(resource)


@pytest.mark.parametrize(
    "div",
    [
        "<div>a</div>",
        f"<p {XHTML}>a</p>",
        "plain",
        f'<!DOCTYPE div [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><div {XHTML}>&b;</div>',
        f'<!DOCTYPE div SYSTEM "file:///etc/passwd"><div {XHTML}>a</div>',
    ],
)
def test_a_narrative_that_is_not_one_div_is_refused(div: str) -> None:
    assert ("invalid", "Observation.text.div") in errors(changed(OBSERVATION, "text.div", div))


def test_a_harmless_narrative_is_kept() -> None:
    inside = (
        '<table class="g" style="color: red"><tbody><tr><td colspan="2">&eacute;&lt;&#8212;</td></tr></tbody></table>'
        '<a name="x"/><a href="https://a.example/?a=1&amp;b=2">x</a><a href="#c">c</a><a href="mailto:a@b.cn">m</a>'
        '<img src="data:image/png;base64,AAAA" alt="x"/><img src="a/b.png"/>'
    )
    assert issues(changed(OBSERVATION, "text.div", f"<div {XHTML}>{inside}</div>")) == ()


def test_a_time_without_offset_is_a_warning() -> None:
    resource = changed(OBSERVATION, "effectiveDateTime", "2024-05-01T10:00:00")
    (found,) = issues(resource)
    assert (found.severity, found.location) == ("warning", "Observation.effectiveDateTime")
    check(orjson.dumps(resource))


def test_a_conditional_reference_is_one() -> None:
    assert issues(changed(OBSERVATION, "subject.reference", "Patient?identifier=urn:x|1")) == ()


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'"Patient"', b"\xff\xfe", b'{"resourceType":"Patient","id":"\xff"}', b"{} {}", b"NaN"],
)
def test_what_is_no_json_object_is_fatal(body: bytes) -> None:
    (found,) = validate(body)
    assert (found.severity, found.code) == ("fatal", "structure")


@pytest.mark.parametrize(
    "body",
    [
        b'{"resourceType":"Patient","gender":"male","gender":"female"}',
        b'{"resourceType":"Patient","gender" : "male","gender":"female"}',
        b'{"resourceType":"Patient","name":[{"text":"a\\":","text":"b"}]}',
        b'{"resourceType":"Patient","name":[{"text":"a","\\u0074ext":"b \\" : x"}]}',
    ],
)
def test_a_repeated_key_is_found(body: bytes) -> None:
    (found,) = validate(body)
    assert (found.code, found.severity) == ("structure", "error")


@pytest.mark.parametrize(
    "body",
    [
        b'{"resourceType" :"Patient","name":[{"text":"x \\":y\\": "}]}',
        b'{"resourceType":"Patient","name":[{"text":"\\u0022: \\\\\\" :"}]}',
        b'{"resourceType":"Patient","name":[{"text":"tab\\u0009, \\\\u0001"}]}',
    ],
)
def test_keys_are_not_mistaken(body: bytes) -> None:
    assert validate(body) == ()


@pytest.mark.parametrize("letter", [rb"\u0000", rb"\u0008", rb"\b", rb"\u001F", rb"\\\u0001", rb"\f"])
def test_control_characters_are_refused(letter: bytes) -> None:
    (found,) = validate(b'{"resourceType":"Patient","name":[{"text":"a' + letter + b'b"}]}')
    assert found.code == "value"


@pytest.mark.parametrize("depth", [2, 80])
def test_deep_nesting_is_refused(depth: int) -> None:
    extension: Json = {"url": "urn:x", "valueCode": "a"}
    for _ in range(BUNDLE_NESTING // 2 + depth):
        extension = {"url": "urn:x", "extension": [extension]}
    found = issues({"resourceType": "Patient", "extension": [extension]})
    assert [one.code for one in found] == ["too-long"]


def test_deep_nesting_of_what_nobody_reads_is_refused() -> None:
    item: Json = {"linkId": "x", "type": "group"}
    for _ in range(BUNDLE_NESTING):
        item = {"linkId": "x", "type": "group", "item": [item]}
    found = issues({"resourceType": "Questionnaire", "status": "draft", "item": [item]})
    assert "too-long" in {one.code for one in found}


@pytest.mark.parametrize("depth", [70, 240, 300, 1000, 2000])
@pytest.mark.parametrize("name", ["name", "unknown", "contained"])
def test_nesting_without_end_is_refused(name: str, depth: int) -> None:
    deep = b"[" * depth + b"]" * depth
    assert validate(
        b'{"resourceType":"Patient","contained":[{"resourceType":"Patient"}],"' + name.encode() + b'":' + deep + b"}"
    )
    bundle = (
        b'{"resourceType":"Bundle","type":"collection","entry":[{"resource":{"resourceType":"Patient","x":'
        + deep
        + b"}}]}"
    )
    assert validate(bundle)


def test_there_is_an_end_to_what_is_listed() -> None:
    assert len(issues({"resourceType": "Patient", "name": [{"x": 1}] * 10_000})) == ISSUES


def test_of_a_huge_resource_the_beginning_is_explained() -> None:
    name = {"text": "x" * 100}
    many: Json = {"resourceType": "Patient", "name": [name] * 20_000}
    assert issues(many) == ()
    many["name"][50] = {"text": 1}
    assert errors(many) == [("structure", "Patient.name[50].text")]
    many["name"][50], many["name"][15_000] = name, {"text": 1}
    assert errors(many) == [("structure", "Patient")]


def test_nothing_of_the_input_is_repeated() -> None:
    secret = "Zhang-SECRET"
    broken = [
        changed(OBSERVATION, secret, 1),
        changed(OBSERVATION, "status", secret),
        changed(OBSERVATION, "subject.reference", secret),
        changed(OBSERVATION, "effectiveDateTime", secret),
        changed(OBSERVATION, "text.div", f"<div {XHTML}><{secret}/></div>"),
        changed(OBSERVATION, "extension", [{"url": secret}]),
        changed(OBSERVATION, "valueQuantity.value", secret),
        changed(OBSERVATION, "resourceType", secret),
    ]
    for resource in broken:
        found = issues(resource)
        assert found
        assert secret not in repr(found)


def test_a_refusal_carries_its_issues() -> None:
    with pytest.raises(InvalidResource) as refused:
        check(orjson.dumps(changed(OBSERVATION, "status", "x")))
    assert refused.value.code is ChartsCode.INVALID_RESOURCE
    assert refused.value.issues[0].location == "Observation.status"


def test_threads_may_validate_at_once() -> None:
    structure._validators.clear()
    results: list[object] = []

    def work(resource: Json) -> Callable[[], None]:
        return lambda: results.append(issues(resource))

    threads = [threading.Thread(target=work(one)) for one in VALID.values() for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [()] * len(threads)
