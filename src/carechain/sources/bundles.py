"""Resources made here, and the transactions that carry them: stable ids and exact numbers (REC-8, REC-11).

What comes twice must lead to the same bytes under the same id. So ids are hashes of what the source itself calls the
thing, and numbers stay decimals from the source's text to FHIR's.
"""

import uuid
from collections.abc import Iterable
from typing import Any, Final

import msgspec
from msgspec import Struct

from carechain.core.hashing import tagged

Json = dict[str, Any]

_encoder: Final = msgspec.json.Encoder(decimal_format="number")


class Prepared(Struct, frozen=True, kw_only=True):
    """One resource with its id, as the bytes that will be stored."""

    resource_type: str
    resource_id: str
    body: bytes

    def __repr__(self) -> str:
        return "Prepared()"

    @property
    def key(self) -> str:
        """``Type/id``."""
        return f"{self.resource_type}/{self.resource_id}"


def stable_id(kind: str, *parts: str | bytes) -> str:
    """A UUID that depends on nothing but its parts (RFC 9562, version 5's form over SHA-256)."""
    encoded = (part.encode() if isinstance(part, str) else part for part in parts)
    return str(uuid.UUID(bytes=tagged(f"carechain/{kind}/1", *encoded)[:16], version=5))


def prepared(resource: Json) -> Prepared:
    """A resource that has ``resourceType`` and ``id``, encoded; empty elements, which FHIR has not, are left out."""
    return Prepared(
        resource_type=str(resource["resourceType"]),
        resource_id=str(resource["id"]),
        body=_encoder.encode(_without_empty(resource)),
    )


def transaction(resources: Iterable[Prepared]) -> bytes:
    """A FHIR R4 transaction that puts each resource under its id; the resources' bytes stand in it unaltered.

    A resource that comes several times is written once, as it was last.
    """
    last = {one.key: one for one in resources}
    return b'{"resourceType":"Bundle","type":"transaction","entry":[' + b",".join(map(_entry, last.values())) + b"]}"


def _entry(one: Prepared) -> bytes:
    try:
        full_url = str(uuid.UUID(one.resource_id))
    except ValueError:
        full_url = stable_id("full-url", one.key)
    head = f'{{"fullUrl":"urn:uuid:{full_url}","resource":'.encode()
    tail = f',"request":{{"method":"PUT","url":"{one.key}"}}}}'.encode()
    return head + one.body + tail


def _without_empty(value: Any) -> Any:  # noqa: ANN401 - JSON can be anything
    if isinstance(value, dict):
        kept = {name: _without_empty(inner) for name, inner in value.items()}
        return {name: inner for name, inner in kept.items() if inner not in (None, "", [], {})}
    if isinstance(value, list):
        kept_items = [_without_empty(inner) for inner in value]
        return [inner for inner in kept_items if inner not in (None, "", [], {})]
    return value


def concept(code: str, display: str | None = None, *, system: str | None = None, text: str | None = None) -> Json:
    """A CodeableConcept of one coding."""
    return {"coding": [{"system": system, "code": code, "display": display}], "text": text}
