"""Goal: no bytes make validation or extraction fail in any other way than by saying what is wrong.

Method: arbitrary bytes, arbitrary JSON under known element names, and valid resources damaged at random places; every
issue must be well-formed, and extraction must survive what validation refuses.
"""

import copy
import random
from typing import Any
from zoneinfo import ZoneInfo

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from carechain.charts.definitions import RESOURCE_TYPES
from carechain.charts.narrative import problem
from carechain.charts.searching.extract import Extractor
from carechain.charts.validation import ISSUES, validate

OBSERVATION: dict[str, Any] = {
    "resourceType": "Observation",
    "status": "final",
    "meta": {"tag": [{"system": "urn:t", "code": "x", "display": "X"}], "profile": ["urn:p|1"]},
    "contained": [{"resourceType": "Patient", "id": "p", "name": [{"family": "王", "given": ["小明"]}]}],
    "identifier": [{"system": "urn:i", "value": "1", "type": {"coding": [{"code": "MR"}], "text": "x"}}],
    "category": [{"coding": [{"system": "urn:c", "code": "laboratory"}]}],
    "code": {"coding": [{"system": "http://loinc.org", "code": "718-7"}]},
    "subject": {"reference": "#p", "identifier": {"value": "1"}},
    "effectivePeriod": {"start": "2024-01-01", "end": "2024-01-02T00:00:00Z"},
    "component": [{"code": {"coding": [{"code": "a"}]}, "valueQuantity": {"value": 1.5, "code": "g", "system": "u"}}],
    "extension": [{"url": "urn:x", "valueReference": {"reference": "Patient/1"}}],
}
NAMES = sorted({*OBSERVATION, "text", "div", "reference", "coding", "value", "entry", "resource", "start", "_status"})
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["Patient", "#p"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)
EXTRACTOR = Extractor(ZoneInfo("Asia/Shanghai"), "https://a.example/fhir")


def examined(body: bytes) -> None:
    issues = validate(body)
    assert len(issues) <= ISSUES
    for one in issues:
        assert one.severity in {"fatal", "error", "warning"}
        assert one.code
        assert one.diagnostics


@given(st.binary(max_size=200))
def test_any_bytes(body: bytes) -> None:
    examined(body)
    examined(b'{"resourceType":"Patient",' + body + b"}")


@given(
    st.sampled_from(sorted(RESOURCE_TYPES | {"Bundle", "Parameters"})),
    st.dictionaries(st.sampled_from(NAMES), JSON, max_size=6),
)
def test_any_json(resource_type: str, elements: dict[str, Any]) -> None:
    tree = elements | {"resourceType": resource_type}
    examined(orjson.dumps(tree))
    EXTRACTOR.rows(tree, resource_type)


@given(st.integers(min_value=0, max_value=2**32), JSON)
@settings(max_examples=300)
def test_damaged_resources(seed: int, junk: Any) -> None:
    chance = random.Random(seed)
    tree = copy.deepcopy(OBSERVATION)
    at: Any = tree
    while True:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        key = chance.choice(keys)
        if not isinstance(at[key], dict | list) or not at[key] or chance.random() < 0.3:
            break
        at = at[key]
    at[key] = junk
    examined(orjson.dumps(tree))
    EXTRACTOR.rows(tree, "Observation")


@given(st.text(alphabet="<>/&;=\"'abdivpstyle:xml!-[]?#\x00\u00e9 ", max_size=80))
def test_any_narrative(inside: str) -> None:
    problem(inside)
    problem(f'<div xmlns="http://www.w3.org/1999/xhtml">{inside}</div>')
