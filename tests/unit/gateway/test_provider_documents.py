"""Goal: $summary and $graph tell of a patient what the caller sees of the chart, and nothing of the rest (REC-11).

Method: a synthetic chart with normal and very restricted records, asked by callers with narrower and wider sight and
scopes; the document is valid R4, every reference of its Composition leads to an entry, and figures keep their digits.
"""

import base64
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from carechain.charts.sight import Sight, of_patient
from carechain.core.rejection import Rejected
from carechain.core.scope import Scope
from carechain.core.vocabulary import ALL_CATEGORIES, Category, Sensitivity
from carechain.gatekeeper.across import NO_ANSWER, Missing
from carechain.gatekeeper.audit import AuditUnavailable
from carechain.gateway.codes import FhirCode
from carechain.gateway.principal import Principal, Reading, Rights
from carechain.gateway.providers.graph import GraphProvider
from carechain.gateway.providers.summary import SummaryProvider
from carechain.gateway.remote_bundle import remote_bundle
from house import House
from provider_house import ProviderHouse, valid
from world import scope_of

BASE = "https://a.example/fhir"
SUMMARY = ("Patient", "$summary")
GRAPH = ("Patient", "$graph")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[ProviderHouse]:
    house = House(tmp_path)
    yield ProviderHouse(house)
    house.close()


class Trail:
    """An audit trail that can be read, and be full."""

    def __init__(self) -> None:
        self.noted: list[Reading] = []
        self.works = True

    async def note(self, reading: Reading) -> None:
        if not self.works:
            raise AuditUnavailable("full")
        self.noted.append(reading)


class Elsewhere:
    """``$remote-read`` as hospital b answers with a result of its own, and insurer c does not."""

    def __init__(self, place: ProviderHouse) -> None:
        self.world = place.world
        self.asked: list[list[tuple[str, str]]] = []

    async def __call__(self, _principal: Principal, _id: str, params: Sequence[tuple[str, str]], _body: bytes) -> bytes:
        self.asked.append(list(params))
        missing = Missing(
            organisation=self.world.c.id, pseudonym=self.world.steve.id, label=NO_ANSWER, reason="It did not answer."
        )
        bundle = json.loads(remote_bundle((), (missing,), base_url=BASE))
        bundle["entry"].insert(0, {"fullUrl": f"{self.root}/Observation/1", "resource": 0, "search": {"mode": "match"}})
        observation = (
            '{"resourceType": "Observation", "id": "1", "status": "final", "subject": {"reference": "Patient/9"},'
            ' "category": [{"coding": [{"code": "laboratory"}]}], "code": {"text": "血糖"},'
            ' "effectiveDateTime": "2026-01-02", "valueQuantity": {"value": 72.50, "unit": "mg/dL"}}'
        )
        return json.dumps(bundle).replace('"resource": 0', f'"resource": {observation}').encode()

    @property
    def root(self) -> str:
        return f"{BASE}/remote/{self.world.b.id.hex()}"


def summaries(
    place: ProviderHouse, remote: Elsewhere | None = None, *, readings: Trail | None = None
) -> SummaryProvider:
    return SummaryProvider(
        ledger=place.ledger,
        charts=place.charts,
        organisation=place.world.a.id,
        base_url=BASE,
        entropy=os.urandom,
        clock=lambda: 1_800_000_000.5,
        remote=remote,
        readings=readings,
    )


def document(
    place: ProviderHouse, principal: Principal, remote: Elsewhere | None = None, *params: tuple[str, str]
) -> dict[str, Any]:
    body = place.call(summaries(place, remote), principal, SUMMARY, *params, resource_id=place.patient_id())
    tree = valid(body)
    composition = tree["entry"][0]["resource"]
    addresses = {one["fullUrl"] for one in tree["entry"]}
    assert len(addresses) == len(tree["entry"])
    named = [composition["subject"], composition["custodian"], *composition["author"]]
    named += [entry for section in composition["section"] for entry in section.get("entry", [])]
    assert {one["reference"] for one in named} <= addresses
    return tree


def shown(tree: dict[str, Any]) -> set[str]:
    return {f"{one['resource']['resourceType']}/{one['resource']['id']}" for one in tree["entry"]}


def test_the_summary_is_a_document_of_what_the_patient_sees(place: ProviderHouse) -> None:
    tree = document(place, place.principal(place.world.steve))
    assert tree["type"] == "document"
    titles = [one["title"] for one in tree["entry"][0]["resource"]["section"]]
    assert titles[:3] == ["Problem List", "Allergies and Intolerances", "Medication Summary"]
    assert f"Patient/{place.patient_id()}" in shown(tree)
    assert any(name.startswith("Condition/") for name in shown(tree))


def test_a_narrower_sight_makes_a_smaller_document(place: ProviderHouse) -> None:
    steve = place.world.steve
    everything = shown(document(place, place.principal(steve)))
    normal = of_patient(steve.id, Scope(categories=ALL_CATEGORIES, ceiling=Sensitivity.N))
    less = shown(document(place, place.principal(place.world.bert, sight=normal)))
    with place.charts.reading() as reader:
        seen = {f"{one.resource_type}/{one.resource_id}" for one in reader.everything(normal, steve.id, count=10_000)}
    assert {one for one in less if not one.startswith(("Composition/", "Organization/"))} < everything | seen
    hidden = {one for one in everything - seen if not one.startswith(("Composition/", "Organization/"))}
    assert hidden
    assert not hidden & less


def test_scopes_leave_out_types_and_what_does_not_match(place: ProviderHouse) -> None:
    steve = place.world.steve
    rights = {"Patient": Rights(read=True), "Condition": Rights(read=True, filters=("code=nothing-has-this",))}
    tree = document(place, place.principal(steve, rights=rights))
    assert {one.partition("/")[0] for one in shown(tree)} == {"Composition", "Organization", "Patient"}
    for section in tree["entry"][0]["resource"]["section"]:
        assert section["emptyReason"]["coding"][0]["code"] == "unavailable"


def test_who_sees_results_and_not_the_person_gets_them_without_a_name(place: ProviderHouse) -> None:
    sight = of_patient(place.world.steve.id, scope_of(Category.RESULT, Category.ENCOUNTER))
    tree = document(place, place.principal(place.world.bert, sight=sight))
    (patient,) = [one["resource"] for one in tree["entry"] if one["resource"]["resourceType"] == "Patient"]
    assert patient["id"] == place.patient_id()
    assert patient["name"] == [patient["_birthDate"]]
    assert {"name", "_birthDate", "resourceType", "id", "identifier"} == set(patient)


def test_every_record_in_a_document_is_audited_before_it_is_given_out(place: ProviderHouse) -> None:
    sight = of_patient(place.world.steve.id, scope_of(Category.RESULT, Category.ENCOUNTER))
    principal = place.principal(place.world.bert, sight=sight)
    with place.charts.reading() as reader:
        seen = reader.everything(sight, place.world.steve.id, count=10_000)
    trail = Trail()
    for provider, name in (
        (summaries(place, readings=trail), SUMMARY),
        (GraphProvider(charts=place.charts, readings=trail), GRAPH),
    ):
        place.call(provider, principal, name, resource_id=place.patient_id())
        noted = trail.noted.pop()
        assert (noted.principal, noted.interaction) == (principal, name[1])
        assert set(noted.records) == {one.record for one in seen}
        trail.works = False
        with pytest.raises(AuditUnavailable):
            place.call(provider, principal, name, resource_id=place.patient_id())
        trail.works = True


def test_other_members_parts_are_joined_and_missing_ones_named(place: ProviderHouse) -> None:
    remote, steve = Elsewhere(place), place.principal(place.world.steve)
    sources = ("source", "the patient at b"), ("source", "the patient at c")
    tree = document(place, steve, remote, *sources)
    assert remote.asked == [[*sources]]
    assert f"{remote.root}/Observation/1" in {one["fullUrl"] for one in tree["entry"]}
    composition = tree["entry"][0]["resource"]
    assert "Organisation c (It did not answer.)" in composition["text"]["div"]
    (results,) = [one for one in composition["section"] if one["title"] == "Results"]
    assert "血糖 · 72.50 mg/dL · 2026-01-02 · Organisation b" in results["text"]["div"]
    body = place.call(summaries(place, remote), steve, SUMMARY, *sources, resource_id=place.patient_id())
    assert b'"value":72.50,' in body


def test_nobody_else_is_asked_unless_the_patient_is_named_there(place: ProviderHouse) -> None:
    remote, steve = Elsewhere(place), place.principal(place.world.steve)
    document(place, steve, remote)
    assert remote.asked == []
    with pytest.raises(Rejected) as refused:
        document(place, steve, None, ("source", "the patient at b"))
    assert refused.value.code is FhirCode.OPERATION_UNKNOWN


def test_who_sees_no_patient_gets_no_document(place: ProviderHouse) -> None:
    world = place.world
    for provider, name in ((summaries(place), SUMMARY), (GraphProvider(charts=place.charts), GRAPH)):
        for principal in (
            place.principal(world.mary),
            place.principal(world.bert, sight=Sight()),
            place.principal(world.steve, rights={}),
        ):
            with pytest.raises(Rejected) as refused:
                place.call(provider, principal, name, resource_id=place.patient_id())
            assert refused.value.code is FhirCode.NOT_FOUND
        with pytest.raises(Rejected) as refused:
            place.call(provider, place.principal(world.steve), name)
        assert refused.value.code is FhirCode.NOT_FOUND


def test_the_patient_may_be_named_or_be_the_apps_own(place: ProviderHouse) -> None:
    steve, name = place.world.steve, place.patient_id()
    graph = GraphProvider(charts=place.charts)
    direct = place.call(graph, place.principal(steve), GRAPH, resource_id=name)
    assert place.call(graph, place.principal(steve), GRAPH, ("patient", f"Patient/{name}")) == direct
    assert place.call(graph, place.principal(steve, patient=name), GRAPH) == direct


def test_the_graph_has_no_edge_to_what_is_hidden(place: ProviderHouse) -> None:
    steve = place.world.steve
    graph = GraphProvider(charts=place.charts)

    def drawn(principal: Principal) -> dict[str, Any]:
        binary = valid(place.call(graph, principal, GRAPH, resource_id=place.patient_id()))
        found: dict[str, Any] = json.loads(base64.b64decode(binary["data"]))
        return found

    whole = drawn(place.principal(steve))
    normal = of_patient(steve.id, Scope(categories=ALL_CATEGORIES, ceiling=Sensitivity.N))
    part = drawn(place.principal(steve, sight=normal))
    for one in (whole, part):
        names = {node["id"] for node in one["nodes"]}
        assert len(names) == len(one["nodes"])
        assert {edge["source"] for edge in one["edges"]} | {edge["target"] for edge in one["edges"]} <= names
    assert len(part["nodes"]) < len(whole["nodes"])
    with place.charts.reading() as reader:
        seen = {f"{one.resource_type}/{one.resource_id}" for one in reader.everything(normal, steve.id, count=10_000)}
    assert {node["id"] for node in part["nodes"] if node["kind"] == "resource"} == seen
