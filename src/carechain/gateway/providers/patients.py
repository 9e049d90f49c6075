"""What a caller sees of one patient, for operations that need the whole of it: bounded, and read in one snapshot."""

from collections.abc import Sequence
from datetime import UTC, tzinfo
from typing import Any, Final

from msgspec import Struct

from carechain.charts.repository import Reader, Stored
from carechain.charts.serving import served
from carechain.charts.summary import decode_exact
from carechain.core.rejection import present, require
from carechain.gateway.codes import FhirCode
from carechain.gateway.principal import Principal, Reading
from carechain.gateway.providers.matching import within_scopes
from carechain.sdk.pcf_codes import DocumentCode
from carechain.sdk.pcf_terms import PSEUDONYM, identifier

Json = dict[str, Any]

RESOURCES: Final = 5_000
"""The most resources of one patient that a document or a graph is made from."""
ABSENT: Final = "http://hl7.org/fhir/StructureDefinition/data-absent-reason"
_PAGE: Final = 500


class Seen(Struct, frozen=True, kw_only=True):
    """The Patient, everything else that a caller sees of it by type, and in which records all of that lies."""

    pseudonym: bytes
    patient: Json
    resources: list[Json]
    records: frozenset[tuple[bytes, int]]

    def reading(self, principal: Principal, operation: str) -> Reading:
        """For the audit: that all of this was given out."""
        types = sorted({str(one["resourceType"]) for one in (self.patient, *self.resources)})
        return Reading(
            principal=principal,
            interaction=operation,
            resource_types=tuple(types),
            records=tuple(sorted(self.records)),
            count=1 + len(self.resources),
        )


def patient_id_of(principal: Principal, resource_id: str, params: Sequence[tuple[str, str]]) -> str:
    """The Patient an operation is about: the one it is called on, the one it names, or the caller's own.

    Raises ``NOT_FOUND`` where there is none of these.
    """
    named = [value.removeprefix("Patient/") for name, value in params if name == "patient"]
    found = resource_id or (named[0] if len(named) == 1 else principal.patient)
    require(found, FhirCode.NOT_FOUND)
    return found


def visible_patient(reader: Reader, principal: Principal, patient_id: str, *, zone: tzinfo = UTC) -> Seen:
    """The Patient resource and everything else that the caller sees of that patient, by type.

    What the caller's rights and scopes do not let it read is left out; for a Patient that it does not see stands a
    nameless one. Raises ``NOT_FOUND`` where it sees nothing of the patient, and ``TOO_MANY_MATCHES``.
    """
    stored = reader.read(principal.sight, "Patient", patient_id)
    patient = _readable(principal, "Patient", [] if stored is None else [stored], zone)
    pseudonym = present(reader.pseudonym(patient_id), FhirCode.NOT_FOUND)
    seen: list[Stored] = []
    after: tuple[int, ...] | None = None
    while True:
        page = reader.everything(principal.sight, pseudonym, (), None, count=_PAGE, after=after)
        seen += (one for one in page if one.resource_type != "Patient")
        require(len(seen) <= RESOURCES, DocumentCode.TOO_MANY_MATCHES)
        if len(page) < _PAGE:
            break
        after = (page[-1].rid,)
    by_type: dict[str, list[Stored]] = {}
    for one in seen:
        by_type.setdefault(one.resource_type, []).append(one)
    others = [one for kind, listed in by_type.items() for one in _readable(principal, kind, listed, zone)]
    readable = patient + others
    require(readable, FhirCode.NOT_FOUND)
    return Seen(
        pseudonym=pseudonym,
        patient=_tree(patient[0]) if patient else nameless(patient_id, pseudonym),
        resources=[_tree(one) for one in others],
        records=frozenset(one.record for one in readable if one.record is not None),
    )


def nameless(patient_id: str, pseudonym: bytes) -> Json:
    """A Patient for whoever sees records and not the person: the id that the records refer to, and nothing else."""
    masked = {"extension": [{"url": ABSENT, "valueCode": "masked"}]}
    return {
        "resourceType": "Patient",
        "id": patient_id,
        "identifier": [identifier(PSEUDONYM, pseudonym.hex())],
        "name": [masked],
        "_birthDate": masked,
    }


def directory_of(reader: Reader, principal: Principal, names: Sequence[str]) -> list[Json]:
    """The shared resources among ``Type/id`` names that the caller may read."""
    found = []
    for name in names:
        kind, _, resource_id = name.partition("/")
        stored = reader.read(principal.sight, kind, resource_id) if principal.may(kind).read else None
        if stored is not None:
            found += [_tree(one) for one in _readable(principal, kind, [stored], UTC)]
    return found


def _readable(principal: Principal, resource_type: str, listed: Sequence[Stored], zone: tzinfo) -> list[Stored]:
    """The resources of one type as far as rights and scopes let the caller read them."""
    if not principal.may(resource_type).read:
        return []
    by_body = {served(one): one for one in listed}
    return [by_body[body] for body in within_scopes(principal, resource_type, by_body, zone=zone)]


def _tree(stored: Stored) -> Json:
    """The resource as it is served; its decimals keep their digits."""
    tree: Json = decode_exact(served(stored))
    return tree
