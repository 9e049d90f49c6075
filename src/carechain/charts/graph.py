"""The patient's knowledge graph: resources and the concepts they speak of as nodes, and what links them (REC-11).

Pure: resources in, JSON out. Only what the reader sees is in it, and an edge stands only between two nodes that are:
a reference to something hidden gives neither a node nor an edge. Two observations of one code meet in the code's node,
so a diagnosis, its medicines and its measurements hang together without anybody having linked them.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec
from msgspec import Struct

from carechain.charts.resource_types import CATEGORIES
from carechain.charts.summary import codings_of, date_of, name_of

Json = dict[str, Any]

LABEL_CHARS: Final = 200
CODED: Final = (
    "code",
    "medicationCodeableConcept",
    "vaccineCode",
    "category",
    "reasonCode",
    "bodySite",
    "valueCodeableConcept",
    "type",
    "class",
)
"""Elements whose codings become concepts. Statuses and other workflow codes say nothing about the patient."""
_RELATIVE: Final = re.compile(
    r"(?:https?://[!-~]*/)?(?P<name>[A-Z][A-Za-z]+/[A-Za-z0-9.\-]{1,64})(?:/_history/[!-~]+)?"
)


class Node(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A resource (``Type/id``) or a concept (``system|code``). ``date`` is as it was written; ``kind`` says which."""

    id: str
    kind: str
    type: str
    label: str
    category: str = ""
    date: str = ""
    system: str = ""
    code: str = ""


class Edge(Struct, frozen=True, kw_only=True):
    """From one node to another; ``relation`` is the FHIR element that links them, without list positions."""

    source: str
    target: str
    relation: str


class Graph(Struct, frozen=True, kw_only=True):
    """Nodes and edges, each once, in an order that depends on the resources alone."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]


def graph(resources: Iterable[Json]) -> Graph:
    """The graph of resources (each with ``resourceType`` and ``id``); of one named twice the first counts."""
    known: dict[str, Json] = {}
    for one in resources:
        if isinstance(one.get("id"), str):
            known.setdefault(f"{one['resourceType']}/{one['id']}", one)
    nodes: dict[str, Node] = {name: _resource_node(name, one) for name, one in known.items()}
    edges: dict[Edge, None] = {}
    for name, one in known.items():
        for relation, target in _references(one):
            if target in known and target != name:
                edges[Edge(source=name, target=target, relation=relation)] = None
        for relation, coding in _codings(one):
            concept = _concept_node(coding)
            if concept is not None:
                nodes.setdefault(concept.id, concept)
                edges[Edge(source=name, target=concept.id, relation=relation)] = None
    ordered = sorted(edges, key=lambda edge: (edge.source, edge.relation, edge.target))
    return Graph(nodes=tuple(nodes[name] for name in sorted(nodes)), edges=tuple(ordered))


def graph_json(resources: Iterable[Json]) -> bytes:
    """The graph as JSON: ``{"nodes": […], "edges": […]}``."""
    return msgspec.json.encode(graph(resources))


def _resource_node(name: str, resource: Json) -> Node:
    kind = str(resource["resourceType"])
    category = CATEGORIES.get(kind)
    return Node(
        id=name,
        kind="resource",
        type=kind,
        label=name_of(resource)[:LABEL_CHARS],
        category="" if category is None else category.name.lower(),
        date=date_of(resource),
    )


def _concept_node(coding: Json) -> Node | None:
    system, code, display = coding.get("system", ""), coding.get("code"), coding.get("display")
    if not isinstance(system, str) or not isinstance(code, str):
        return None
    label = display if isinstance(display, str) and display else code
    return Node(
        id=f"{system}|{code}", kind="concept", type="Concept", label=label[:LABEL_CHARS], system=system, code=code
    )


def _references(resource: Json) -> Iterator[tuple[str, str]]:
    """Every reference of a resource: the element it stands in, and ``Type/id``."""
    stack: list[tuple[str, object]] = [("", resource)]
    while stack:
        path, node = stack.pop()
        if isinstance(node, list):
            stack.extend((path, one) for one in node)
        elif isinstance(node, dict):
            found = _RELATIVE.fullmatch(node["reference"]) if isinstance(node.get("reference"), str) else None
            if found is not None:
                yield path, found["name"]
            stack.extend((f"{path}.{key}" if path else key, value) for key, value in node.items() if key != "contained")


def _codings(resource: Json) -> Iterator[tuple[str, Json]]:
    for element in CODED:
        value = resource.get(element)
        for concept in value if isinstance(value, list) else [value]:
            if not isinstance(concept, dict):
                continue
            for coding in codings_of(concept) if "coding" in concept else [concept]:
                yield element, coding
