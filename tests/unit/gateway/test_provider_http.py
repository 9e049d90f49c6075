"""Goal: what the providers make is found over HTTP beside what is stored, with FHIR's statuses and outcomes.

Method: the FHIR server over hospital a's charts with every provider plugged in, asked as Steve, as a grantee, and as a
stranger.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from carechain.gateway.fhir.providing import Operations
from carechain.gateway.providers.audit_events import AuditEventProvider
from carechain.gateway.providers.consents import ConsentProvider
from carechain.gateway.providers.directory import DirectoryProvider
from carechain.gateway.providers.graph import GraphProvider
from carechain.gateway.providers.summary import SummaryProvider
from fhir_world import BASE, SYSTEM, FhirWorld
from house import House
from provider_house import ProviderHouse, valid


@pytest.fixture
def place(tmp_path: Path) -> Iterator[ProviderHouse]:
    house = House(tmp_path)
    yield ProviderHouse(house)
    house.close()


@pytest.fixture
def server(place: ProviderHouse) -> Iterator[FhirWorld]:
    world = place.world
    summary = SummaryProvider(
        ledger=place.ledger,
        charts=place.charts,
        organisation=world.a.id,
        base_url=BASE,
        entropy=os.urandom,
        clock=lambda: world.time_s,
    )
    providers = (
        ConsentProvider(ledger=place.ledger, charts=place.charts),
        AuditEventProvider(ledger=place.ledger, charts=place.charts, audit=place.house.audit),
        DirectoryProvider(ledger=place.ledger),
        Operations({**summary.operations, **GraphProvider(charts=place.charts).operations}),
    )
    with FhirWorld(place.house.folder / "charts.sqlite", providers=providers) as found:
        for name in ("steve", "bert", "ivan"):
            found.callers[name] = place.principal(getattr(world, name))
        yield found


def test_consents_are_served_and_searched(place: ProviderHouse, server: FhirWorld) -> None:
    grant = place.house.may_read.hex()
    shown = server.ask("GET", f"Consent/{grant}", by="steve")
    assert shown.status == 200
    assert valid(shown.body)["id"] == grant
    found = server.ask("GET", "Consent?status=active", by="bert")
    assert (found.status, found.ids) == (200, [f"Consent/{grant}"])
    hidden, unknown = (server.ask("GET", f"Consent/{one}", by="ivan") for one in (grant, "ab" * 32))
    assert hidden.status == unknown.status == 404
    assert hidden.body == unknown.body
    stored = {
        "resourceType": "Consent",
        "id": "on-paper",
        "status": "active",
        "scope": {"text": "treatment"},
        "category": [{"text": "surgery"}],
        "patient": {"reference": f"Patient/{place.patient_id()}"},
        "policyRule": {"text": "hospital rules"},
    }
    assert server.ask("PUT", "Consent/on-paper", stored, by=SYSTEM).status == 201
    assert set(server.ask("GET", "Consent", by="steve").ids) == {
        "Consent/on-paper",
        f"Consent/{grant}",
        f"Consent/{place.house.may_write.hex()}",
    }


def test_audit_events_are_read_and_never_written(place: ProviderHouse, server: FhirWorld) -> None:
    place.house.ticket()
    found = server.ask("GET", "AuditEvent?_sort=-date", by="steve")
    assert found.status == 200
    assert len(found.ids) == 1
    event = server.ask("GET", found.ids[0], by="steve")
    assert event.json["action"] == "E"
    assert server.ask("GET", found.ids[0], by="bert").status == 404
    for method, path in (("PUT", found.ids[0]), ("POST", "AuditEvent")):
        assert server.ask(method, path, event.json, by=SYSTEM).status == 405


def test_a_bad_date_is_an_outcome(place: ProviderHouse, server: FhirWorld) -> None:
    refused = server.ask("GET", "AuditEvent?date=soon", by="steve")
    assert refused.status == 400
    assert refused.issue["severity"] == "error"


def test_operations_answer_with_documents_and_outcomes(place: ProviderHouse, server: FhirWorld) -> None:
    patient = place.patient_id()
    summary = server.ask("GET", f"Patient/{patient}/$summary", by="steve")
    assert summary.status == 200
    assert valid(summary.body)["type"] == "document"
    assert server.readings[-1].count > 1
    graph = server.ask("GET", f"Patient/{patient}/$graph", by="steve")
    assert graph.json["resourceType"] == "Binary"
    for operation in ("$summary", "$graph"):
        assert server.ask("GET", f"Patient/{patient}/{operation}", by="bert").status == 404
    consent = json.dumps({"resourceType": "Consent"}).encode()
    refused = server.ask(
        "POST", "Consent/$to-messages", consent, by="steve", headers={"content-type": "application/fhir+json"}
    )
    assert refused.status == 400
    assert refused.label == "DOCUMENT.CONSENT_SCOPE_UNSUPPORTED"


def test_the_directory_is_public_to_callers(place: ProviderHouse, server: FhirWorld) -> None:
    name = place.world.a.id.hex()
    found = server.ask("GET", "Organization?name=organisation", by="steve")
    assert f"Organization/{name}" in found.ids
    assert server.ask("GET", f"Organization/{name}", by="steve").json["name"] == "Organisation a"
