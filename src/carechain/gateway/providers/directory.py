"""The consortium's directory over FHIR: who is a member, who works there, and where to reach it (ID-4).

Organizations are the members. Practitioners and PractitionerRoles are staff by their party ids: the ledger knows no
names, so a name is found only in the directory entries that an organisation stores itself, beside these. A staff list
is its own organisation's; of anybody else a caller finds whom it can name by id. Endpoints and HealthcareServices say
where a member's records can be asked for.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, tzinfo
from typing import Any, Final

import msgspec

from carechain.chain.questions import NoArgs, OfOrganisation, OfParty, StaffPage
from carechain.contracts.membership import MemberRow
from carechain.core.party import Party
from carechain.core.vocabulary import OrganisationKind, PartyKind, Role
from carechain.gateway.fhir.providing import Handler  # noqa: TC001 - not only a type
from carechain.gateway.principal import Principal
from carechain.gateway.providers.ledger import Caller, LedgerView
from carechain.gateway.providers.matching import matching, within_scopes
from carechain.sdk.pcf_terms import PARTY, Json, coding, concept, id_in, identifier
from carechain.sdk.pcf_writing import moment

ORGANISATION_TYPE: Final = "http://terminology.hl7.org/CodeSystem/organization-type"
MEMBER_KIND: Final = "urn:carechain:organisation-kind"
ROLE: Final = "urn:carechain:role"
SERVICE: Final = "urn:carechain:service"
STAFF_ROWS: Final = 10_000
_KINDS: Final = {
    OrganisationKind.HOSPITAL: "prov",
    OrganisationKind.INSURER: "ins",
    OrganisationKind.GOVERNMENT: "govt",
}
_SCT: Final = "http://snomed.info/sct"
_ROLE_CODES: Final = {
    Role.DOCTOR: (_SCT, "158965000"),
    Role.NURSE: (_SCT, "106292003"),
    Role.LAB_TECHNICIAN: (_SCT, "159282002"),
}
"""Roles for which a code is widely known; every role has the ledger's own code besides."""


class DirectoryProvider:
    """The directory made from the ledger, beside the entries that are stored."""

    types: Final = frozenset({"Organization", "Practitioner", "PractitionerRole", "Endpoint", "HealthcareService"})
    writable: Final = True

    def __init__(self, *, ledger: LedgerView, addresses: Mapping[bytes, str] | None = None, zone: tzinfo = UTC) -> None:
        """``addresses`` are the FHIR base URLs that members have published, by member."""
        self._ledger = ledger
        self._addresses = addresses or {}
        self._zone = zone
        self.operations: Final[Mapping[tuple[str, str], Handler]] = {}

    async def read(self, principal: Principal, resource_type: str, resource_id: str) -> bytes | None:
        """The entry of a member or of somebody who works for one."""
        party = id_in(resource_id)
        if party is None or not principal.sight.directory:
            return None
        caller = Caller(self._ledger.view(), principal)
        found = self._about(caller, resource_type, party)
        return next(iter(within_scopes(principal, resource_type, found, zone=self._zone)), None)

    async def search(self, principal: Principal, resource_type: str, params: Sequence[tuple[str, str]]) -> list[bytes]:
        """The matches by id; of staff, the caller's own organisation's and whom the search names by id."""
        if not principal.sight.directory:
            return []
        # The ledger is only read in the loop that owns it, so this does not go to a thread.
        return self._search(principal, resource_type, params)

    def _search(self, principal: Principal, resource_type: str, params: Sequence[tuple[str, str]]) -> list[bytes]:
        caller = Caller(self._ledger.view(), principal)
        parties = dict.fromkeys(sorted({*_named(params), *self._listed(caller, resource_type)}))
        bodies = (body for party in parties for body in self._about(caller, resource_type, party))
        readable = within_scopes(principal, resource_type, bodies, zone=self._zone)
        return matching(readable, resource_type, params, zone=self._zone)

    def _listed(self, caller: Caller, resource_type: str) -> Iterator[bytes]:
        """Every party that the caller may list, of the kind that such a resource is about."""
        if resource_type not in ("Practitioner", "PractitionerRole"):
            yield from (one.id for one in caller.rows("membership.members", NoArgs()))
        elif caller.party is not None:
            own = StaffPage(caller.party.organisation)
            yield from (one.id for one in caller.rows("membership.staff", own, most=STAFF_ROWS))

    def _about(self, caller: Caller, resource_type: str, party: bytes) -> Iterator[bytes]:
        if resource_type in ("Practitioner", "PractitionerRole"):
            rows, _ = caller.page("membership.party", OfParty(party))
            if rows and rows[0].row.kind is PartyKind.STAFF:
                live = caller.view.contracts.membership.standing(rows[0].row, caller.view.time_s) is None
                made = practitioner if resource_type == "Practitioner" else practitioner_role
                yield msgspec.json.encode(made(party, rows[0].row, live=live))
            return
        rows, _ = caller.page("membership.member", OfOrganisation(party))
        if not rows:
            return
        address = self._addresses.get(party)
        if resource_type == "Organization":
            yield msgspec.json.encode(organization(party, rows[0].row, has_endpoint=address is not None))
        elif address is not None:
            made_at = endpoint if resource_type == "Endpoint" else healthcare_service
            yield msgspec.json.encode(made_at(party, rows[0].row, address))


def _named(params: Sequence[tuple[str, str]]) -> Iterator[bytes]:
    """The parties that a search names by id, in whichever parameter."""
    for _, value in params:
        for one in value.split(","):
            party = id_in(one.rpartition("|")[2].rpartition("/")[2])
            if party is not None:
                yield party


def organization(party: bytes, member: MemberRow, *, has_endpoint: bool) -> Json:
    """A member of the consortium."""
    return {
        "resourceType": "Organization",
        "id": party.hex(),
        "identifier": [identifier(PARTY, party.hex())],
        "active": not member.removed_s,
        "type": [
            {"coding": [coding(ORGANISATION_TYPE, _KINDS[member.kind]), coding(MEMBER_KIND, member.kind.name.lower())]}
        ],
        "name": member.name,
        **({"endpoint": [{"reference": f"Endpoint/{party.hex()}"}]} if has_endpoint else {}),
    }


def practitioner(party: bytes, row: Party, *, live: bool) -> Json:
    """Somebody who works for a member, by pseudonym."""
    return {
        "resourceType": "Practitioner",
        "id": party.hex(),
        "identifier": [
            {
                **identifier(PARTY, party.hex()),
                "assigner": {"reference": f"Organization/{row.organisation.hex()}"},
            }
        ],
        "active": live,
    }


def practitioner_role(party: bytes, row: Party, *, live: bool) -> Json:
    """What somebody may do for a member, from when until when (by certificate)."""
    period = {"start": moment(row.valid_from_s)}
    if row.valid_until_s:
        # The certificate ends before its last second is over, and FHIR counts the named second in.
        period["end"] = moment(row.valid_until_s - 1)
    return {
        "resourceType": "PractitionerRole",
        "id": party.hex(),
        "identifier": [identifier(PARTY, party.hex())],
        "active": live,
        "period": period,
        "practitioner": {"reference": f"Practitioner/{party.hex()}"},
        "organization": {"reference": f"Organization/{row.organisation.hex()}"},
        "code": [_role(role) for role in Role if row.has_role(role)],
    }


def _role(role: Role) -> Json:
    known = [coding(*_ROLE_CODES[role])] if role in _ROLE_CODES else []
    return {"coding": [coding(ROLE, role.name.lower().replace("_", "-")), *known]}


def endpoint(party: bytes, member: MemberRow, address: str) -> Json:
    """Where a member's FHIR server is."""
    return {
        "resourceType": "Endpoint",
        "id": party.hex(),
        "identifier": [identifier(PARTY, party.hex())],
        "status": "off" if member.removed_s else "active",
        "connectionType": coding("http://terminology.hl7.org/CodeSystem/endpoint-connection-type", "hl7-fhir-rest"),
        "name": member.name,
        "managingOrganization": {"reference": f"Organization/{party.hex()}"},
        "payloadType": [{"text": "FHIR R4 resources, as far as a patient's consent goes"}],
        "payloadMimeType": ["application/fhir+json"],
        "address": address,
    }


def healthcare_service(party: bytes, member: MemberRow, address: str) -> Json:
    """What a member offers through the consortium: to ask for records."""
    service: dict[str, Any] = {
        "resourceType": "HealthcareService",
        "id": party.hex(),
        "identifier": [identifier(PARTY, party.hex())],
        "active": not member.removed_s,
        "providedBy": {"reference": f"Organization/{party.hex()}"},
        "type": [concept(SERVICE, "records")],
        "name": f"Records of {member.name}",
        "comment": f"Answers at {address} to who has the patient's consent.",
        "endpoint": [{"reference": f"Endpoint/{party.hex()}"}],
    }
    return service
