"""What several members gave, as one FHIR Bundle: each resource with its proof and its provenance (API-1, REC-2).

Resources stand in the Bundle byte for byte as they were anchored, so the proof beside each can be checked by whoever
receives the Bundle: :func:`proofs_in` reads them back. A member whose records are missing is named in an
OperationOutcome entry; the Bundle never passes for whole when it is not.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import orjson
from msgspec import Struct

from carechain.core import merkle
from carechain.core.commitment import resource_leaf
from carechain.core.merkle import BadProof
from carechain.core.suite import Institution
from carechain.gatekeeper.across import Given, Missing
from carechain.gateway.fhir.outcome import CODE_SYSTEM
from carechain.sdk.opening import OpenedRecord

Json = dict[str, Any]

PROOF: Final = "urn:carechain:fhir:anchor-proof"
"""The extension of a Provenance that holds the proof of its target."""
MEMBER: Final = "urn:carechain:member"
PARTY: Final = "urn:carechain:party"
RECORD: Final = "urn:carechain:record"
TICKET: Final = "urn:carechain:ticket"
_DATA_OPERATION: Final = "http://terminology.hl7.org/CodeSystem/v3-DataOperation"
_AGENT: Final = "http://terminology.hl7.org/CodeSystem/provenance-participant-type"
_DECISIONS: Final = "DECISION."
"""How the labels of the ledger's refusals begin."""


class Proof(Struct, frozen=True, kw_only=True):
    """Where a resource stands under an anchored root. ``root``, ``salt`` and the path's hashes are 32 bytes."""

    record: bytes
    version: int
    root: bytes
    index: int
    count: int
    salt: bytes
    path: tuple[bytes, ...]
    ticket: bytes
    height: int

    def check(self, content: bytes, institution: Institution = Institution.INTERNATIONAL) -> None:
        """Check a resource's exact bytes against ``root``, which the ledger must have; raises :class:`BadProof`."""
        merkle.check(
            leaf=resource_leaf(self.salt, content, institution),
            index=self.index,
            count=self.count,
            path=list(self.path),
            expected_root=self.root,
        )


def remote_bundle(
    given: Sequence[Given],
    missing: Sequence[Missing],
    *,
    base_url: str,
    wanted: Callable[[Given, bytes], bool] = lambda _given, _content: True,
) -> bytes:
    """The Bundle (type searchset) of what ``wanted(member, resource)`` lets through, JSON bytes.

    Full URLs are ``{base_url}/remote/{member}/{Type}/{id}``, so that relative references inside lead to the resources
    of the same member and not to the reader's own.
    """
    entries: list[msgspec.Raw] = []
    matches = 0
    for member in given:
        root = f"{base_url}/remote/{member.organisation.hex()}"
        for record in member.records:
            for index, content in enumerate(record.resources):
                if not wanted(member, content):
                    continue
                head = orjson.loads(content)
                url = f"{root}/{head['resourceType']}/{head.get('id', '')}"
                matches += 1
                entries.append(_entry(url, content, "match"))
                provenance = orjson.dumps(_provenance(member, record, index, url))
                entries.append(
                    _entry(f"{root}/Provenance/{record.record_id.hex()[:32]}-{index}", provenance, "include")
                )
    entries += [_entry("", orjson.dumps(_outcome(one)), "outcome") for one in missing]
    head = {"resourceType": "Bundle", "type": "searchset", "total": matches, "entry": entries}
    if missing:
        # Whoever counts must not take a part for the whole.
        del head["total"]
    return msgspec.json.encode(head)


def proofs_in(bundle: bytes) -> Iterator[tuple[bytes, Proof]]:
    """Each resource of a Bundle with its proof: the exact bytes, and where they stand.

    Raises ``BadProof`` for a match without a proof and ``msgspec.MsgspecError`` for what is not such a Bundle.
    """
    entries = msgspec.json.decode(bundle, type=_Bundle).entry
    proofs: dict[str, Proof] = {}
    for entry in entries:
        if entry.search.mode == "include":
            found = orjson.loads(bytes(entry.resource))
            proofs[found["target"][0]["reference"]] = _read(found)
    for entry in entries:
        if entry.search.mode == "match":
            if entry.fullUrl not in proofs:
                raise BadProof("a resource has no proof")
            yield bytes(entry.resource), proofs[entry.fullUrl]


class _Search(Struct):
    mode: str


class _Entry(Struct):
    search: _Search
    resource: msgspec.Raw
    fullUrl: str = ""  # noqa: N815 - the name in FHIR


class _Bundle(Struct):
    entry: tuple[_Entry, ...] = ()


def _entry(url: str, content: bytes, mode: str) -> msgspec.Raw:
    named = {"fullUrl": url} if url else {}
    return msgspec.Raw(msgspec.json.encode({**named, "resource": msgspec.Raw(content), "search": {"mode": mode}}))


def _provenance(member: Given, record: OpenedRecord, index: int, url: str) -> Json:
    line = member.line_of(record)
    recorded = datetime.fromtimestamp(line.anchor.anchored_s, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "resourceType": "Provenance",
        "id": f"{record.record_id.hex()[:32]}-{index}",
        "extension": [_proof(member, record, index)],
        "target": [{"reference": url}],
        "recorded": recorded,
        "activity": {"coding": [{"system": _DATA_OPERATION, "code": "CREATE" if record.version == 1 else "UPDATE"}]},
        "agent": [
            _agent("custodian", MEMBER, member.organisation),
            _agent("author", PARTY, line.anchor.author),
        ],
        "entity": [
            {"role": "source", "what": {"identifier": {"system": RECORD, "value": record.record_id.hex()}}},
        ],
    }


def _agent(role: str, system: str, party: bytes) -> Json:
    return {
        "type": {"coding": [{"system": _AGENT, "code": role}]},
        "who": {"identifier": {"system": system, "value": party.hex()}},
    }


def _proof(member: Given, record: OpenedRecord, index: int) -> Json:
    proof = record.proofs[index]
    parts: list[Json] = [
        {"url": "record", "valueString": record.record_id.hex()},
        {"url": "version", "valuePositiveInt": record.version},
        {"url": "root", "valueString": record.root.hex()},
        {"url": "index", "valueUnsignedInt": index},
        {"url": "count", "valuePositiveInt": len(record.resources)},
        {"url": "salt", "valueString": proof.salt.hex()},
        *({"url": "path", "valueString": one.hex()} for one in proof.path),
        {"url": "ticket", "valueString": member.ticket.hex()},
        {"url": "height", "valueUnsignedInt": member.height},
    ]
    return {"url": PROOF, "extension": parts}


def _read(provenance: Json) -> Proof:
    try:
        (found,) = [one for one in provenance["extension"] if one["url"] == PROOF]
        named: dict[str, Any] = {}
        path: list[bytes] = []
        for part in found["extension"]:
            value = next(one for key, one in part.items() if key.startswith("value"))
            if part["url"] == "path":
                path.append(bytes.fromhex(value))
            else:
                named[part["url"]] = bytes.fromhex(value) if isinstance(value, str) else value
        return Proof(path=tuple(path), **named)
    except (KeyError, ValueError, TypeError, StopIteration):
        raise BadProof("a provenance has no proof of ours") from None


def _outcome(missing: Missing) -> Json:
    """A member that gave nothing: which one, and why. Its label and sentence hold nothing of the patient."""
    # A ticket alone says nothing: the ledger may have allowed the request, and the gatekeeper not have answered.
    refused = missing.label.startswith(_DECISIONS)
    issue: Json = {
        "severity": "warning",
        "code": "forbidden" if refused else "incomplete",
        "details": {
            "coding": [{"system": CODE_SYSTEM, "code": missing.label}],
            "text": missing.reason,
        },
        "diagnostics": f"Nothing from member {missing.organisation.hex()}.",
    }
    return {"resourceType": "OperationOutcome", "issue": [issue]}
