"""Goal: whatever bytes arrive, the answer is a chart or a typed refusal, and the refusal repeats none of them.

Method: Hypothesis draws random bytes, random JSON, and good bundles with one mutation; a canary rides along.
"""

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carechain.charts.bundle import parse
from carechain.charts.store import Charts
from carechain.core.rejection import Rejected
from carechain.demo import synthetic

CANARY = "Canary4711"
GOOD = synthetic.patient(3, 1)
PIECES = st.sampled_from(
    [
        b'"',
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"\\",
        b"\x00",
        b"\xff",
        b"\\ud800",
        b"null",
        b"1e999",
        b"-",
        b"NaN",
        b"/",
    ]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(CANARY)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from(
    [
        *("resourceType", "id", "meta", "security", "subject", "patient", "encounter", "context", "reference", "code"),
        *("coding", "system", "period", "start", "authoredOn", "name", "given", "identifier", "value", "text"),
        *("display", "contained", "performer", "url"),
    ]
)
VALUES = TREES | st.sampled_from(["Patient", "Encounter", "Patient/p", "urn:uuid:p", "2024-01-01", "2024-13-01", "#x"])
RESOURCES = st.recursive(
    st.dictionaries(KEYS, VALUES, max_size=6),
    lambda inner: st.dictionaries(KEYS, inner | st.lists(inner, max_size=3) | VALUES, max_size=6),
    max_leaves=8,
)


def silent(refusal: Rejected) -> bool:
    """Neither the refusal nor what it came from repeats the canary or drags the input along."""
    hidden = refusal.__cause__ is None and (refusal.__context__ is None or refusal.__suppress_context__)
    return hidden and CANARY not in repr(refusal)


def refused_or_read(data: bytes) -> None:
    refusal = None
    try:
        parse(data)
    except Rejected as caught:
        refusal = caught
    assert refusal is None or silent(refusal)


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    refused_or_read(data)


@given(TREES)
def test_any_json(tree: Any) -> None:
    refused_or_read(json.dumps(tree).encode())
    refused_or_read(json.dumps({"resourceType": "Bundle", "type": "batch", "entry": [tree]}).encode())


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 40), PIECES | st.binary(max_size=4))
def test_a_good_bundle_with_one_wound(position: int, cut: int, piece: bytes) -> None:
    refused_or_read(GOOD[:position] + piece + GOOD[position + cut :])


@given(st.integers(0, len(GOOD)))
def test_a_good_bundle_cut_short(length: int) -> None:
    refused_or_read(GOOD[:length])


@pytest.fixture(scope="module")
def charts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Charts]:
    with Charts.open(tmp_path_factory.mktemp("fuzz") / "charts.db") as opened:
        yield opened


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from(["Encounter", "Condition", "Observation", "Claim", "Provenance"]), RESOURCES),
        max_size=4,
    )
)
def test_odd_resources_of_a_patient(charts: Charts, drawn: list[tuple[str, dict[str, Any]]]) -> None:
    """Resources that are valid JSON but make little sense go all the way into the chart, or are refused."""
    odd = [{"resource": {**tree, "resourceType": kind}} for kind, tree in drawn]
    entries = [{"resource": {"resourceType": "Patient", "id": "p"}}, *odd]
    data = json.dumps({"resourceType": "Bundle", "type": "collection", "entry": entries}).encode()
    refusal = None
    try:
        charts.ingest(pseudonym=b"p" * 32, bundle=data, received_s=1, rng=os.urandom)
    except Rejected as caught:
        refusal = caught
    assert refusal is None or silent(refusal)
