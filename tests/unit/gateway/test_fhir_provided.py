"""Goal: types and operations that come from elsewhere than the charts are served, judged and audited alike (API-1).

Method: two small providers, one whose type is its own alone and one that stands beside the charts. And the
CapabilityStatement says of every type what the server really does with it.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import orjson
import pytest

from carechain.charts.definitions import RESOURCE_TYPES, search_parameters
from carechain.charts.sight import CUSTODIAN
from carechain.charts.validation import validate
from carechain.core.rejection import Rejected
from carechain.gateway.codes import FhirCode
from carechain.gateway.principal import Principal
from carechain.sdk.pcf_codes import DocumentCode
from fhir_world import ALL, READ, FhirWorld, entry, patient, transaction


def _made(resource_type: str, resource_id: str) -> bytes:
    return orjson.dumps({"resourceType": resource_type, "id": resource_id})


class Listed:
    """A provider that has a few resources of one type and one operation."""

    def __init__(self, resource_type: str, ids: Sequence[str], *, writable: bool) -> None:
        self.types = frozenset({resource_type})
        self.writable = writable
        self.ids = list(ids)
        self.is_too_long = False
        self.operations = {
            ("Patient", f"$of-{resource_type.lower()}"): self._operation,
            ("", "$hello"): self._operation,
        }

    async def read(self, principal: Principal, resource_type: str, resource_id: str) -> bytes | None:
        """One of them, for who sees everything."""
        known = principal.sight.everything and resource_id in self.ids
        return _made(resource_type, resource_id) if known else None

    async def search(self, principal: Principal, resource_type: str, params: Sequence[tuple[str, str]]) -> list[bytes]:
        """By id, or all of them."""
        if any(name not in {"_id", "patient"} for name, _ in params):
            raise Rejected(FhirCode.PARAMETER_UNKNOWN)
        if self.is_too_long:
            raise Rejected(DocumentCode.TOO_MANY_MATCHES)
        wanted = [value for name, value in params if name == "_id"]
        ids = [one for one in self.ids if not wanted or one in wanted]
        return [_made(resource_type, one) for one in ids if principal.sight.everything]

    async def _operation(
        self, principal: Principal, resource_id: str, params: Sequence[tuple[str, str]], body: bytes
    ) -> bytes:
        del principal
        said = f"{resource_id} {dict(params).get('word', '')} {len(body) > 0}"
        return orjson.dumps({"resourceType": "Parameters", "parameter": [{"name": "said", "valueString": said}]})


@pytest.fixture
def provided() -> list[Listed]:
    return [
        Listed("AuditEvent", ["a1", "a2"], writable=False),
        Listed("Organization", ["member"], writable=True),
    ]


@pytest.fixture
def world(tmp_path: Path, provided: list[Listed]) -> Iterator[FhirWorld]:
    with FhirWorld(tmp_path / "charts.db", providers=provided) as made:
        yield made


def test_a_type_of_its_own_is_read_and_searched_and_not_written(world: FhirWorld) -> None:
    assert world.get("AuditEvent/a1").json["id"] == "a1"
    assert world.get("AuditEvent/zzz").label == "FHIR.NOT_FOUND"
    assert world.get("AuditEvent/a1/_history").status == 404
    assert world.get("AuditEvent").ids == ["AuditEvent/a1", "AuditEvent/a2"]
    assert world.get("AuditEvent?_id=a2").json["total"] == 1
    assert world.get("AuditEvent?foo=1").label == "FHIR.PARAMETER_UNKNOWN"
    assert world.get("Patient/p/AuditEvent").ids == ["AuditEvent/a1", "AuditEvent/a2"]
    for method, path in (("POST", "AuditEvent"), ("PUT", "AuditEvent/a1"), ("PATCH", "AuditEvent/a1")):
        headers = {"content-type": "application/json-patch+json"} if method == "PATCH" else {}
        refused = world.ask(method, path, {"resourceType": "AuditEvent"}, headers=headers)
        assert (refused.status, refused.label) == (405, "FHIR.READ_ONLY_TYPE")
    refused = world.ask("POST", "", transaction(entry("POST", "AuditEvent", {"resourceType": "AuditEvent"})))
    assert refused.label == "FHIR.READ_ONLY_TYPE"
    assert world.ask("POST", "", transaction(entry("GET", "AuditEvent"))).label == "FHIR.NOT_IN_TRANSACTION"


def test_a_type_beside_the_charts_is_both(world: FhirWorld) -> None:
    world.put({"resourceType": "Organization", "id": "own", "name": "x"})
    assert world.get("Organization/own").status == 200
    assert world.get("Organization/member").status == 200
    assert world.get("Organization/none").label == "FHIR.NOT_FOUND"
    page = world.get("Organization")
    assert page.ids == ["Organization/member", "Organization/own"]
    assert page.json["total"] == 2
    # What the provider cannot judge, it does not match.
    assert world.get("Organization?name=x").ids == ["Organization/own"]
    assert world.get("Organization?_summary=count").json["total"] in {1, 2}


def test_a_refusal_of_the_provider_is_the_answer(world: FhirWorld, provided: list[Listed]) -> None:
    """What the charts have alone would be a part that passes for the whole."""
    world.put({"resourceType": "Organization", "id": "own", "name": "x"})
    provided[1].is_too_long = True
    assert world.get("Organization").label == "DOCUMENT.TOO_MANY_MATCHES"
    assert world.get("Organization/own").status == 200


def test_providers_are_judged_and_audited(world: FhirWorld) -> None:
    world.caller("narrow", CUSTODIAN, {"Patient": READ})
    for path in ("AuditEvent/a1", "AuditEvent", "Organization", "Organization/member"):
        refused = world.get(path, by="narrow")
        assert (refused.status, refused.label) == (403, "FHIR.MAY_NOT")
    world.readings.clear()
    world.get("AuditEvent/a1")
    (reading,) = world.readings
    assert (reading.resource_types, reading.count) == (("AuditEvent",), 1)


def test_operations_are_served(world: FhirWorld) -> None:
    world.put(patient("p1"))
    assert b'"p1 hi False"' in world.get("Patient/p1/$of-auditevent?word=hi").body
    body = {"resourceType": "Parameters", "parameter": [{"name": "word", "valueCode": "ho"}]}
    assert b'" ho True"' in world.ask("POST", "$hello", body).body
    world.caller("narrow", CUSTODIAN, {"Observation": ALL})
    assert world.get("Patient/p1/$of-auditevent", by="narrow").status == 403


# --- the CapabilityStatement -----------------------------------------------------------------------------
def test_the_statement_is_valid_and_complete(world: FhirWorld) -> None:
    answer = world.get("metadata", by="nobody")
    assert answer.status == 200
    assert not [one for one in validate(answer.body) if one.severity in {"fatal", "error"}]
    rest = answer.json["rest"][0]
    described = {one["type"]: one for one in rest["resource"]}
    assert set(described) == set(RESOURCE_TYPES)
    named = {one["name"] for one in described["Observation"]["searchParam"]}
    assert named == set(search_parameters("Observation"))
    assert {one["code"] for one in described["AuditEvent"]["interaction"]} == {"read", "search-type"}
    assert {"name": "hello", "definition": "http://hl7.org/fhir/OperationDefinition/Resource-hello"} in rest[
        "operation"
    ]
    assert world.get("metadata", by="nobody", headers={"accept": "application/fhir+xml"}).status == 406


def test_every_interaction_of_the_statement_is_served(world: FhirWorld) -> None:
    world.put(patient("p1"))
    rest = world.get("metadata").json["rest"][0]
    (described,) = [one for one in rest["resource"] if one["type"] == "Patient"]
    asked = {
        "read": ("GET", "Patient/p1", None),
        "vread": ("GET", "Patient/p1/_history/1", None),
        "update": ("PUT", "Patient/p1", patient("p1")),
        "patch": ("PATCH", "Patient/p1", [{"op": "test", "path": "/id", "value": "p1"}]),
        "history-instance": ("GET", "Patient/p1/_history", None),
        "history-type": ("GET", "Patient/_history", None),
        "create": ("POST", "Patient", patient("x")),
        "search-type": ("GET", "Patient", None),
    }
    assert {one["code"] for one in described["interaction"]} == set(asked)
    for method, path, body in asked.values():
        headers = {"content-type": "application/json-patch+json"} if method == "PATCH" else {}
        assert world.ask(method, path, body, headers=headers).status in {200, 201}
    for operation in described["operation"]:
        url = f"Patient/p1/${operation['name']}"
        served = [world.get(url), world.ask("POST", url, patient("p1")), world.get(f"Patient/${operation['name']}")]
        assert any(one.status != 404 for one in served), operation


def test_every_search_parameter_of_the_statement_is_taken(world: FhirWorld) -> None:
    values = {"date": "2024-01-01", "number": "1", "quantity": "1", "reference": "Patient/p1", "uri": "urn:x"}
    rest = world.get("metadata").json["rest"][0]
    for described in rest["resource"]:
        if described["type"] not in {"Patient", "Observation", "Encounter", "Claim", "MedicationRequest", "Condition"}:
            continue
        for one in described["searchParam"]:
            if one["type"] in {"composite", "special"}:
                continue
            answer = world.get(
                f"{described['type']}?{one['name']}={values.get(one['type'], 'x')}",
                headers={"prefer": "handling=strict"},
            )
            assert answer.status == 200, (described["type"], one, answer.body)
