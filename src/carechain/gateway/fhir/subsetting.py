"""Parts of resources: ``_summary`` and ``_elements`` (FHIR R4, 3.1.1.5.8). What is cut is marked as SUBSETTED.

Numbers are carried as decimals and keep their digits. ``_summary=true`` keeps the top-level elements that the
definitions mark as part of the summary.
"""

from collections.abc import Sequence
from decimal import Decimal
from functools import cache
from importlib.resources import files
from typing import Any, Final

import msgspec

from carechain.core.rejection import Rejected
from carechain.gateway.codes import FhirCode

SUMMARIES: Final = ("true", "text", "data", "count", "false")
ALWAYS: Final = frozenset({"id", "meta", "resourceType"})
SUBSETTED: Final = {
    "system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue",
    "code": "SUBSETTED",
    "display": "subsetted",
}
_decoder: Final = msgspec.json.Decoder(float_hook=Decimal)
_encoder: Final = msgspec.json.Encoder(decimal_format="number")


@cache
def _table() -> dict[str, dict[str, list[str]]]:
    raw = files("carechain.gateway.fhir").joinpath("summary_elements.json").read_bytes()
    return msgspec.json.decode(raw, type=dict[str, dict[str, list[str]]])


def summary_elements(resource_type: str) -> frozenset[str]:
    """The top-level elements of a type that belong to its summary."""
    return frozenset(_table()["summary"].get(resource_type, ()))


def mandatory_elements(resource_type: str) -> frozenset[str]:
    """The top-level elements without which a resource of the type is not valid."""
    return frozenset(_table()["mandatory"].get(resource_type, ()))


def subset(body: bytes, *, summary: str = "false", elements: Sequence[str] = ()) -> bytes:
    """The part of a resource that was asked for; the same object when that is all of it."""
    if summary in {"false", "count"} and not elements:
        return body
    tree: dict[str, Any] = _decoder.decode(body)
    resource_type = str(tree["resourceType"])
    if elements:
        wanted = {one.rpartition(".")[2] if one.startswith(f"{resource_type}.") else one for one in elements}
        named = {name.partition(".")[0] for name in wanted}
        # A choice is asked for by its stem: ``value`` is valueQuantity, valueString and so on.
        kept = named | {f"{name}[x]" for name in named} | mandatory_elements(resource_type)
    elif summary == "true":
        kept = set(summary_elements(resource_type))
    elif summary == "text":
        kept = {"text"} | mandatory_elements(resource_type)
    else:
        kept = set(tree) - {"text"}
    part = {
        name: value
        for name, value in tree.items()
        if name in ALWAYS or name.removeprefix("_") in kept or _is_choice(name.removeprefix("_"), kept)
    }
    meta = dict(part.get("meta") or {})
    meta["tag"] = [*(meta.get("tag") or []), SUBSETTED]
    part["meta"] = meta
    return _encoder.encode(part)


def _is_choice(name: str, kept: set[str]) -> bool:
    """Whether ``valueQuantity`` is wanted because ``value`` or ``value[x]`` is."""
    return any(name[at].isupper() and f"{name[:at]}[x]" in kept for at in range(1, len(name)))


def subset_of_params(body: bytes, params: Sequence[tuple[str, str]]) -> bytes:
    """The part of a resource that the parameters ask for; raises ``Rejected`` for a value that is none."""
    summary = next((value for name, value in reversed(params) if name == "_summary"), "false")
    if summary not in SUMMARIES:
        raise Rejected(FhirCode.PARAMETER_INVALID)
    elements = [part.strip() for name, value in params if name == "_elements" for part in value.split(",")]
    return subset(body, summary=summary, elements=[one for one in elements if one])
