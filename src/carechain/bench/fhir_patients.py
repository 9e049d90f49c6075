"""What ``bench fhir`` fills the charts with: the synthetic patients of the demonstration, as many as are wanted.

Patient number n is the same on every machine, with ids of its own, so two runs load the same bytes; the hospital and
its doctors are in every bundle and stored once.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec
import orjson
from msgspec import Struct

from carechain.demo.synthetic import LOINC, MRN_SYSTEM, patient

SEED: Final = 5
RARE: Final = "bench-rare"
"""A code that stands in one resource of the first patient and nowhere else."""
LONE_SYSTEM: Final = "https://bench.example/codes"


class Known(Struct, frozen=True, kw_only=True):
    """What the questions need of a loaded patient: ids, and values to search for."""

    patient: str
    number: str
    family: str
    born: str
    observation: str
    encounter: str


class Bundle(Struct, frozen=True, kw_only=True):
    """One patient's transaction, how many resources of their own are in it, and what to ask about them."""

    body: bytes
    resources: int
    known: Known


class _Entries(Struct):
    entry: list[msgspec.Raw]


_entries: Final = msgspec.json.Decoder(_Entries)


def bundles(first: int) -> Iterator[Bundle]:
    """One patient's bundle after the other, without end, from patient ``first`` on."""
    number = first
    while True:
        body = patient(number, SEED)
        yield _bundle(body, orjson.loads(body)["entry"])
        number += 1


def _bundle(body: bytes, entries: list[dict[str, Any]]) -> Bundle:
    by_type: dict[str, dict[str, Any]] = {}
    for entry in entries:
        by_type.setdefault(entry["resource"]["resourceType"], entry["resource"])
    one = by_type["Patient"]
    known = Known(
        patient=one["id"],
        number=f"{MRN_SYSTEM}|{one['identifier'][0]['value']}",
        family=one["name"][0]["family"],
        born=one["birthDate"],
        observation=by_type["Observation"]["id"],
        encounter=by_type["Encounter"]["id"],
    )
    shared = sum(entry["resource"]["resourceType"] in {"Organization", "Practitioner"} for entry in entries)
    return Bundle(body=body, resources=len(entries) - shared, known=known)


def together(several: Sequence[Bundle]) -> bytes:
    """One transaction for several patients, as migrations and feeds send them; what they share is in it once."""
    entries = dict.fromkeys(bytes(entry) for one in several for entry in _entries.decode(one.body).entry)
    return b'{"resourceType":"Bundle","type":"transaction","entry":[' + b",".join(entries) + b"]}"


def lone_patient(patient_id: str) -> bytes:
    """A patient with two observations: one like thousands of others, and one of a code that nobody else has."""
    named = {"resourceType": "Patient", "id": patient_id, "name": [{"family": "Lone"}]}
    entries = [_put(patient_id, named)]
    for code, system in (("8480-6", LOINC), (RARE, LONE_SYSTEM)):
        observation = {
            "resourceType": "Observation",
            "id": f"{patient_id}-{code}",
            "status": "final",
            "code": {"coding": [{"system": system, "code": code}]},
            "subject": {"reference": f"Patient/{patient_id}"},
            "effectiveDateTime": "2025-06-01T09:10:00Z",
        }
        entries.append(_put(observation["id"], observation))
    return orjson.dumps({"resourceType": "Bundle", "type": "transaction", "entry": entries})


def _put(name: object, resource: dict[str, Any]) -> dict[str, Any]:
    return {"resource": resource, "request": {"method": "PUT", "url": f"{resource['resourceType']}/{name}"}}
