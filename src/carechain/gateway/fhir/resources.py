"""A resource in a request's body: what has to hold before it may be stored (REC-4)."""

from collections.abc import Callable

import orjson
from msgspec import Struct

from carechain.charts.assistant import Valid
from carechain.charts.bundle import Json, strict_json
from carechain.charts.resource_types import R4_TYPES
from carechain.charts.validation import validate
from carechain.core.rejection import require
from carechain.gateway.codes import FhirCode
from carechain.gateway.fhir.outcome import invalid, refusal
from carechain.gateway.fhir.routing import ID


class Draft(Struct, frozen=True, kw_only=True):
    """A valid resource on its way in; ``resource_id`` is its own id, None where it has none."""

    resource_type: str
    resource_id: str | None
    body: bytes

    def __repr__(self) -> str:
        return "Draft()"


def draft(body: bytes, expected_type: str, known: Valid | None = None) -> Draft:
    """Check a resource; ``known`` is what it says it is, where it was validated already.

    Raises ``Rejected`` for its form and ``Problem`` with every issue that validation finds.
    """
    require(body, FhirCode.BODY_MALFORMED)
    if known is not None:
        _require_fitting(known.resource_type, known.resource_id, expected_type)
        return Draft(resource_type=expected_type, resource_id=known.resource_id, body=body)
    tree, own_id = _read(body)
    _require_fitting(tree.get("resourceType", ""), own_id, expected_type)
    # Validation is strict about the JSON too: repeated keys, depth, encoding.
    problem = invalid(validate(body, tree))
    if problem is not None:
        raise problem
    return Draft(resource_type=expected_type, resource_id=own_id, body=body)


def _require_fitting(stated_type: str, own_id: str | None, expected_type: str) -> None:
    require(stated_type == expected_type, FhirCode.TYPE_MISMATCH)
    require(expected_type in R4_TYPES, FhirCode.TYPE_UNKNOWN)
    require(expected_type != "Subscription", FhirCode.SUBSCRIPTION_UNSUPPORTED)
    require(own_id is None or ID.fullmatch(own_id), FhirCode.ID_MALFORMED)


def _read(body: bytes) -> tuple[Json, str | None]:
    """The resource and its own id; raises ``Rejected`` or ``Problem`` for a body without readable type and id."""
    try:
        tree = orjson.loads(body)
    except orjson.JSONDecodeError:
        tree = None
    if isinstance(tree, dict) and type(tree.get("resourceType", "")) is str:
        own_id = tree.get("id")
        if own_id is None or type(own_id) is str:
            return tree, own_id
    require(isinstance(strict_json(body), dict), FhirCode.BODY_MALFORMED)
    raise invalid(validate(body)) or refusal(FhirCode.RESOURCE_INVALID)


def fresh_id(entropy: Callable[[int], bytes]) -> str:
    """A random UUID (version 4) as an id."""
    raw = bytearray(entropy(16))
    raw[6] = raw[6] & 0x0F | 0x40
    raw[8] = raw[8] & 0x3F | 0x80
    digits = raw.hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
