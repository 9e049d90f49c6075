"""The CapabilityStatement, made from the same definitions that searching and validating use (FHIR R4, 2.36).

It says what this server does and, where that is less than FHIR allows, that too.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Final

import orjson

from carechain.charts.definitions import RESOURCE_TYPES, search_parameters
from carechain.gateway.fhir.conditions import US_PER_S, instant
from carechain.gateway.fhir.providing import Provider

OPERATION: Final = "http://hl7.org/fhir/OperationDefinition/"
SYSTEM_OPERATIONS: Final[Mapping[str, str]] = {
    "export": "http://hl7.org/fhir/uv/bulkdata/OperationDefinition/export",
    "validate": f"{OPERATION}Resource-validate",
}
TYPE_OPERATIONS: Final[Mapping[str, Mapping[str, str]]] = {
    "Patient": {
        "everything": f"{OPERATION}Patient-everything",
        "export": "http://hl7.org/fhir/uv/bulkdata/OperationDefinition/patient-export",
    },
    "Group": {"export": "http://hl7.org/fhir/uv/bulkdata/OperationDefinition/group-export"},
}
INSTANCE_OPERATIONS: Final[Mapping[str, str]] = {
    "validate": f"{OPERATION}Resource-validate",
    "meta": f"{OPERATION}Resource-meta",
}
OWN_OPERATIONS: Final[Mapping[str, str]] = {
    "$received": "the exact stored bytes of a resource with their digest, to check them against the ledger",
    "$events": "a stream of events that name changed resources by id",
}
"""Operations without a definition in FHIR, told in words."""
STORED: Final = (
    "read",
    "vread",
    "update",
    "patch",
    "history-instance",
    "history-type",
    "create",
    "search-type",
)
READ_ONLY: Final = ("read", "search-type")
SYSTEM: Final = ("transaction", "batch", "search-system", "history-system")
NOTES: Final = (
    "Every caller sees what its consent tickets or its scopes allow and nothing else: on every page, in every include, "
    "count, history and export. What is hidden and what does not exist give the same answer. Nothing can be deleted "
    "over FHIR: correct to entered-in-error, or have the patient order an erasure. Only the organisation's own systems "
    "choose ids with PUT. Unknown search parameters are passed over unless Prefer: handling=strict is sent. JSON only."
)


def capability_statement(
    *,
    base_url: str,
    version: str,
    providers: Sequence[Provider],
    security: Mapping[str, Any],
    began_us: int,
) -> bytes:
    """The statement in FHIR JSON; ``began_us`` is when the server started, in microseconds since 1970."""
    alone = frozenset(name for one in providers if not one.writable for name in one.types)
    operations = [(kind, name.removeprefix("$")) for one in providers for kind, name in one.operations]
    statement = {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": instant(began_us // US_PER_S * US_PER_S),
        "publisher": "carechain",
        "kind": "instance",
        "software": {"name": "carechain", "version": version},
        "implementation": {"description": "carechain FHIR R4 server", "url": base_url},
        "fhirVersion": "4.0.1",
        "format": ["application/fhir+json", "json"],
        "patchFormat": ["application/json-patch+json"],
        "instantiates": ["http://hl7.org/fhir/uv/bulkdata/CapabilityStatement/bulk-data"],
        "rest": [
            {
                "mode": "server",
                "documentation": NOTES + " Own operations: " + _own() + ".",
                **({"security": dict(security)} if security else {}),
                "resource": [
                    _resource(name, is_stored=name not in alone, extra=_provided(operations, name))
                    for name in sorted(RESOURCE_TYPES)
                ],
                "interaction": [{"code": code} for code in SYSTEM],
                "operation": _operations({**SYSTEM_OPERATIONS, **_provided(operations, "")}),
                "compartment": ["http://hl7.org/fhir/CompartmentDefinition/patient"],
            }
        ],
    }
    return orjson.dumps(statement)


def _own() -> str:
    return "; ".join(f"{name}, {text}" for name, text in OWN_OPERATIONS.items())


def _provided(operations: Iterable[tuple[str, str]], resource_type: str) -> dict[str, str]:
    """Operations that are plugged in; they are named in the form of FHIR's own."""
    return {
        name: f"{OPERATION}{resource_type or 'Resource'}-{name}" for kind, name in operations if kind == resource_type
    }


def _operations(named: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "definition": definition} for name, definition in sorted(named.items())]


def _resource(name: str, *, is_stored: bool, extra: Mapping[str, str]) -> dict[str, Any]:
    parameters = search_parameters(name).values()
    references = [one.code for one in parameters if one.kind == "reference"]
    described: dict[str, Any] = {
        "type": name,
        "interaction": [{"code": code} for code in (STORED if is_stored else READ_ONLY)],
        "versioning": "versioned" if is_stored else "no-version",
        "readHistory": is_stored,
        "updateCreate": is_stored,
        "conditionalCreate": is_stored,
        "conditionalRead": "full-support" if is_stored else "not-supported",
        "conditionalUpdate": is_stored,
        "conditionalDelete": "not-supported",
        "referencePolicy": ["literal", "logical", "local"],
    }
    if is_stored:
        described["searchInclude"] = ["*", *(f"{name}:{code}" for code in references)]
        described["searchRevInclude"] = _reverse().get(name, [])
    searchable = [{"name": one.code, "type": one.kind} for one in parameters if one.kind != "special"]
    described["searchParam"] = searchable
    described["operation"] = _operations(
        {**(INSTANCE_OPERATIONS if is_stored else {}), **TYPE_OPERATIONS.get(name, {}), **extra}
    )
    return {key: value for key, value in described.items() if value != []}


@cache
def _reverse() -> dict[str, list[str]]:
    """The reference parameters that lead to each type, as ``Source:code``."""
    found: dict[str, list[str]] = {}
    for source in sorted(RESOURCE_TYPES):
        for one in search_parameters(source).values():
            if one.kind == "reference":
                for target in one.targets:
                    found.setdefault(target, []).append(f"{source}:{one.code}")
    return found
