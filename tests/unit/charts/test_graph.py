"""Goal: the graph has a node for each resource and concept, and edges only between nodes that are there (REC-11).

Method: a small chart by hand, resources of wrong shapes, and the same resources in any order (hypothesis).
"""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from carechain.charts.graph import Edge, graph, graph_json

Json = dict[str, Any]

SCT = "http://snomed.info/sct"
DIABETES = {"coding": [{"system": SCT, "code": "44054006", "display": "Diabetes"}], "text": "2型糖尿病"}
CHART: list[Json] = [
    {"resourceType": "Patient", "id": "p"},
    {"resourceType": "Encounter", "id": "e", "subject": {"reference": "Patient/p"}, "class": {"code": "AMB"}},
    {
        "resourceType": "Condition",
        "id": "c",
        "subject": {"reference": "Patient/p"},
        "encounter": {"reference": "https://a.example/fhir/Encounter/e"},
        "code": DIABETES,
        "onsetDateTime": "2020-01-01",
    },
    {
        "resourceType": "MedicationRequest",
        "id": "m",
        "subject": {"reference": "Patient/p"},
        "reasonReference": [{"reference": "Condition/c"}, {"reference": "Condition/hidden"}],
        "reasonCode": [DIABETES],
        "contained": [{"resourceType": "Medication", "id": "x"}],
        "medicationReference": {"reference": "#x"},
    },
]


def test_resources_and_concepts_hang_together() -> None:
    found = graph(CHART)
    assert [one.id for one in found.nodes] == [
        "Condition/c",
        "Encounter/e",
        "MedicationRequest/m",
        "Patient/p",
        f"{SCT}|44054006",
        "|AMB",
    ]
    assert set(found.edges) == {
        Edge(source="Encounter/e", target="Patient/p", relation="subject"),
        Edge(source="Condition/c", target="Patient/p", relation="subject"),
        Edge(source="Condition/c", target="Encounter/e", relation="encounter"),
        Edge(source="MedicationRequest/m", target="Patient/p", relation="subject"),
        Edge(source="MedicationRequest/m", target="Condition/c", relation="reasonReference"),
        Edge(source="Condition/c", target=f"{SCT}|44054006", relation="code"),
        Edge(source="MedicationRequest/m", target=f"{SCT}|44054006", relation="reasonCode"),
        Edge(source="Encounter/e", target="|AMB", relation="class"),
    }
    condition = found.nodes[0]
    assert (condition.label, condition.category, condition.date) == ("2型糖尿病", "diagnosis", "2020-01-01")
    assert b"hidden" not in graph_json(CHART)


def test_the_json_names_what_is_there() -> None:
    made = json.loads(graph_json(CHART))
    assert {
        "id": "Patient/p",
        "kind": "resource",
        "type": "Patient",
        "label": "Patient",
        "category": "demographics",
    } in made["nodes"]
    assert made["edges"][0] == {"source": "Condition/c", "target": f"{SCT}|44054006", "relation": "code"}


@given(st.permutations(CHART))
def test_the_order_of_resources_does_not_matter(chart: list[Json]) -> None:
    assert graph(chart) == graph(CHART)


def test_wrong_shapes_give_fewer_nodes_and_no_failure() -> None:
    odd: list[Json] = [
        {"resourceType": "Condition"},
        {"resourceType": "Condition", "id": 7},
        {
            "resourceType": "Condition",
            "id": "a",
            "code": {"coding": [None, 3, {"code": 1}, {"system": 2, "code": "x"}]},
        },
        {"resourceType": "Condition", "id": "b", "code": {"coding": "x"}, "subject": {"reference": ["Patient/p"]}},
        {"resourceType": "Condition", "id": "c", "code": "x", "subject": {"reference": "Condition/c"}},
        {"resourceType": "Condition", "id": "c", "subject": {"reference": "Condition/a"}},
    ]
    found = graph(odd)
    assert [one.id for one in found.nodes] == ["Condition/a", "Condition/b", "Condition/c"]
    assert found.edges == ()


def test_cycles_and_depth_do_no_harm() -> None:
    deep: Json = {"reference": "Condition/b"}
    for _ in range(5_000):
        deep = {"extension": [deep]}
    around: list[Json] = [
        {"resourceType": "Condition", "id": "a", "x": deep},
        {"resourceType": "Condition", "id": "b", "evidence": [{"detail": [{"reference": "Condition/a"}]}]},
    ]
    assert {(one.source, one.target) for one in graph(around).edges} == {
        ("Condition/a", "Condition/b"),
        ("Condition/b", "Condition/a"),
    }
