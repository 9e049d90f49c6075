"""Goal: the access log and the gatekeeper's reads are AuditEvents for who may read the log, and nobody else (AUD-5).

Method: allowed and refused requests, a release through the gatekeeper and its report; asked by patient, representative,
regulator, administrator, the reader himself and a stranger; every event is checked against R4's definitions.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from carechain.contracts.access import RevokeTicket
from carechain.contracts.consent.schema import Answer, SetRule, Who
from carechain.core.scope import EVERYTHING
from carechain.core.vocabulary import Power, Purpose, Sensitivity, mask
from carechain.gatekeeper.release import Asked, ReleaseRequest
from carechain.gateway.providers.audit_events import AuditEventProvider
from carechain.gateway.providers.audit_rendering import DECISION
from house import House
from provider_house import ProviderHouse
from world import LATER_S


@pytest.fixture
def place(tmp_path: Path) -> Iterator[ProviderHouse]:
    house = House(tmp_path)
    yield ProviderHouse(house)
    house.close()


@pytest.fixture
def events(place: ProviderHouse) -> AuditEventProvider:
    return AuditEventProvider(ledger=place.ledger, charts=place.charts, audit=place.house.audit)


def subtypes(found: list[dict[str, Any]]) -> list[str]:
    return [one["subtype"][0]["code"] for one in found]


def read_a_record(place: ProviderHouse) -> bytes:
    """Bert reads one record through the gatekeeper, with a new ticket; the custodian reports it."""
    ticket = place.house.ticket()
    (record, *_) = place.house.of_grade(Sensitivity.N)
    asked = ReleaseRequest(ticket=ticket, records=(Asked(record.record_id, record.version),))
    asyncio.run(place.house.gatekeeper.release(place.world.bert.id, asked))
    asyncio.run(place.house.reporter().report())
    return ticket


def test_a_decision_cites_the_consent_that_allowed_it(place: ProviderHouse, events: AuditEventProvider) -> None:
    world = place.world
    ticket = place.house.ticket()
    (found,) = place.search(events, world.steve, "AuditEvent")
    assert found["meta"]["profile"] == [
        "https://profiles.ihe.net/ITI/BALP/StructureDefinition/IHE.BasicAudit.AuthZconsent"
    ]
    assert found["outcome"] == "0"
    patient, consent = found["entity"]
    assert patient["what"]["reference"] == f"Patient/{place.patient_id()}"
    assert consent["what"] == {"reference": f"Consent/{place.house.may_read.hex()}"}
    client, user, organisation, authorizer = found["agent"]
    assert user["who"]["reference"] == f"Practitioner/{world.bert.id.hex()}"
    assert user["policy"] == [f"urn:carechain:ticket:{ticket.hex()}"]
    assert user["purposeOfUse"][0]["coding"][0]["code"] == "TREAT"
    assert user["role"][0]["coding"][0]["code"] == "doctor"
    assert organisation["who"]["reference"] == f"Organization/{world.b.id.hex()}"
    assert [one["requestor"] for one in (client, user, organisation, authorizer)] == [False, True, False, False]


def test_a_refusal_says_why_and_cites_no_consent(place: ProviderHouse, events: AuditEventProvider) -> None:
    world = place.world
    place.house.ticket(by=world.ivan, purpose=Purpose.HPAYMT)
    (found,) = place.search(events, world.steve, "AuditEvent", outcome="8")
    assert found["outcomeDesc"].startswith("Check 3, authorised")
    assert found["entity"][1]["what"]["identifier"] == {"system": DECISION, "value": "DECISION.NO_GRANT"}
    assert place.search(events, world.steve, "AuditEvent", outcome="0") == []


def test_a_standing_rule_and_a_denial_are_cited_too(place: ProviderHouse, events: AuditEventProvider) -> None:
    world = place.world
    for number, answer in ((1, Answer.ALLOW), (2, Answer.DENY)):
        rule = SetRule(
            pseudonym=world.steve.id,
            rule=number,
            who=Who(party=(world.bina, world.bert)[number - 1].id),
            purposes=mask(Purpose.TREAT),
            scope=EVERYTHING,
            answer=answer,
            expires_s=LATER_S,
        )
        world.done(rule, by=world.steve)
    place.house.ticket(by=world.bina)
    place.house.ticket(by=world.bert)
    denied, allowed = place.search(events, world.steve, "AuditEvent")
    assert allowed["entity"][1]["what"]["reference"].endswith(".r1")
    assert denied["entity"][1]["what"]["identifier"]["value"] == "DECISION.DENIED_BY_PATIENT"


def test_a_read_through_the_gatekeeper_shows_the_records(place: ProviderHouse, events: AuditEventProvider) -> None:
    world = place.world
    ticket = read_a_record(place)
    world.done(RevokeTicket(ticket=ticket), by=world.steve)
    found = place.search(events, world.steve, "AuditEvent")
    assert sorted(subtypes(found)) == ["AuthZ-Consent", "read", "released", "ticket-revoked"]
    by_subtype = dict(zip(subtypes(found), found, strict=True))
    read = by_subtype["read"]
    assert read["meta"]["profile"][0].endswith("PatientRead")
    assert read["id"].endswith(".g1")
    (record, *_) = place.house.of_grade(Sensitivity.N)
    assert read["entity"][1]["what"]["identifier"]["value"] == record.record_id.hex()
    released = by_subtype["released"]
    assert released["entity"][1]["detail"][0] == {"type": "records", "valueString": "1"}
    without_audit = AuditEventProvider(ledger=place.ledger, charts=place.charts)
    assert "read" not in subtypes(place.search(without_audit, world.steve, "AuditEvent"))


def test_who_may_read_the_log_reads_the_events(place: ProviderHouse, events: AuditEventProvider) -> None:
    world = place.world
    read_a_record(place)
    own = [one["id"] for one in place.search(events, world.steve, "AuditEvent")]
    assert len(own) == 3
    for reader in (world.anna, world.gita):
        assert place.search(events, reader, "AuditEvent") == []
        found = place.search(events, reader, "AuditEvent", patient=world.steve.id.hex())
        assert [one["id"] for one in found] == own
        # They see no Patient here, so no id of one.
        assert all("reference" not in one["entity"][0]["what"] for one in found)
    guardian = world.appoint("mum", world.steve, powers=int(Power.READ_LOG))
    assert [one["id"] for one in place.search(events, guardian, "AuditEvent")] == own
    powerless = world.appoint("uncle", world.steve, powers=int(Power.GRANT))
    assert place.search(events, powerless, "AuditEvent") == []
    for stranger in (world.bert, world.mary, world.ivan, world.carl):
        assert place.search(events, stranger, "AuditEvent", patient=world.steve.id.hex()) == []
        for name in own:
            assert place.read(events, stranger, "AuditEvent", name) is None


def test_reading_one_by_one_gives_the_same(place: ProviderHouse, events: AuditEventProvider) -> None:
    world = place.world
    read_a_record(place)
    found = place.search(events, world.steve, "AuditEvent")
    for one in found:
        assert place.read(events, world.steve, "AuditEvent", one["id"]) == one
    start = found[0]["id"].rpartition(".")[0]
    for wrong in ("9", "g9", "g0", "01", "-1", "", "x", "g", "99999999999", "4294967296", "²"):
        assert place.read(events, world.steve, "AuditEvent", f"{start}.{wrong}") is None
    assert place.read(events, world.steve, "AuditEvent", "x") is None


def test_search_parameters(place: ProviderHouse, events: AuditEventProvider) -> None:
    world = place.world
    read_a_record(place)
    place.house.ticket(by=world.ivan, purpose=Purpose.HPAYMT)

    def found(**params: str) -> list[str]:
        return subtypes(place.search(events, world.steve, "AuditEvent", **params))

    assert len(found()) == 4
    assert found(action="R") == ["released", "read"]
    assert found(action="E") == ["AuthZ-Consent", "AuthZ-Consent"]
    assert found(agent=f"Practitioner/{world.bert.id.hex()}") == ["read", "AuthZ-Consent"]
    assert found(entity=f"Consent/{place.house.may_read.hex()}") == ["AuthZ-Consent"]
    assert found(subtype="released") == ["released"]
    assert found(patient=place.patient_id(), outcome="8") == ["AuthZ-Consent"]
    assert found(date="ge2027-01-01", action="R") == ["released", "read"]
    assert found(date="gt2100") == []
    assert found(**{"entity-role": "1", "subtype": "read"}) == ["read"]
    assert found(_sort="date")[-2:] == ["released", "AuthZ-Consent"]


def test_the_index_of_reads_grows_as_reads_are_made(place: ProviderHouse, events: AuditEventProvider) -> None:
    world = place.world
    read_a_record(place)
    assert len(place.search(events, world.steve, "AuditEvent", subtype="read")) == 1
    read_a_record(place)
    assert len(place.search(events, world.steve, "AuditEvent", subtype="read")) == 2
