"""What the tests of the gateway's providers share: hospital a as callers of the FHIR server see it.

Method: the house of :mod:`house` with its real charts, ledger and audit; a principal is made as the gateway makes it,
for any actor, with a sight of everything of Steve's chart unless told otherwise.
"""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from carechain.charts.repository import Repository
from carechain.charts.sight import NOTHING, Sight, of_patient
from carechain.charts.validation import validate
from carechain.core.vocabulary import PartyKind
from carechain.gateway.principal import Principal, Rights
from house import House

EVERY_RIGHT: Mapping[str, Rights] = {"*": Rights(create=True, read=True, update=True, search=True)}


class ProviderHouse:
    """Hospital a and those who call it."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.world = house.world
        self.ledger = house.ledger
        self.charts = Repository(house.charts)

    def principal(
        self, actor: Any, *, sight: Sight | None = None, rights: Mapping[str, Rights] = EVERY_RIGHT, patient: str = ""
    ) -> Principal:
        """Somebody as the gateway knows him once he has proved who he is; only Steve sees the chart unless told."""
        shown = of_patient(self.world.steve.id) if actor.id == self.world.steve.id else NOTHING
        return Principal(
            party=actor.id, sight=shown if sight is None else sight, rights=rights, patient=patient, system=False
        )

    def patient_id(self) -> str:
        """The id of Steve's Patient resource."""
        with self.charts.reading() as reader:
            found = reader.patient(self.world.steve.id)
        assert found is not None
        return found

    def kind(self, party: bytes) -> PartyKind:
        row = self.world.contracts().membership.party(party)
        assert row is not None
        return row.kind

    def search(self, provider: Any, actor: Any, resource_type: str, /, **params: str) -> list[dict[str, Any]]:
        """The matches, parsed; every one is valid FHIR R4."""
        return self.search_as(provider, self.principal(actor), resource_type, *params.items())

    def search_as(
        self, provider: Any, principal: Principal, resource_type: str, *params: tuple[str, str]
    ) -> list[dict[str, Any]]:
        bodies = asyncio.run(provider.search(principal, resource_type, params))
        return [valid(body) for body in bodies]

    def read(self, provider: Any, actor: Any, resource_type: str, resource_id: str) -> dict[str, Any] | None:
        """A resource, parsed and valid; None where the caller gets none."""
        body = asyncio.run(provider.read(self.principal(actor), resource_type, resource_id))
        return None if body is None else valid(body)

    def call(
        self,
        provider: Any,
        principal: Principal,
        name: tuple[str, str],
        *params: tuple[str, str],
        resource_id: str = "",
        body: bytes = b"",
    ) -> bytes:
        """What an operation gives."""
        found: bytes = asyncio.run(provider.operations[name](principal, resource_id, params, body))
        return found


def valid(body: bytes) -> dict[str, Any]:
    """The parsed resource, once R4's definitions have nothing against it."""
    wrong = [one for one in validate(body) if one.severity != "warning"]
    assert wrong == [], (wrong, body.decode())
    tree: dict[str, Any] = json.loads(body)
    return tree
