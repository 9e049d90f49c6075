"""The requester's side of a read: open a gatekeeper's answer and believe only what the ledger confirms (REC-2, REC-5).

The requester names the records it expects with the roots it read from the ledger. Every resource is checked against
its root, and a record counts only when all resources of the anchored tree are there: a proof for each index 0 … n-1
fixes n, because no tree with another number of leaves has the same root.
"""

from collections.abc import Sequence

from msgspec import Struct

from carechain.core import merkle
from carechain.core.codec import Malformed
from carechain.core.commitment import resource_leaf
from carechain.core.ids import Hash, RecordId
from carechain.core.merkle import BadProof
from carechain.core.rejection import Rejected, RejectionCode
from carechain.core.suite import Institution
from carechain.sealing.hpke import CannotOpen, HpkePrivateKey
from carechain.sealing.package import SealedRecord, SealedResource, unseal_package


class OpenCode(RejectionCode):
    """Why an answer is not believed, in the order the checks are made."""

    CANNOT_OPEN = 1131, "The answer is not sealed to this key for this ticket, or was altered. Ask again."
    NOT_A_PACKAGE = 1132, "The answer is not a package of records. Report the custodian's software."
    WRONG_TICKET = 1133, "The answer belongs to another ticket. Report the custodian."
    RECORD_UNEXPECTED = 1134, "The answer holds a record that was not asked for. Report the custodian."
    RECORD_REPEATED = 1135, "The answer holds one record twice. Report the custodian."
    VERSION_DIFFERS = 1136, "The answer holds another version than the ledger names. Ask again, then report it."
    RESOURCE_REPEATED = 1137, "A resource of the record is there twice or out of order. Report the custodian."
    RESOURCE_ALTERED = 1138, "A resource differs from what was anchored on the ledger. Do not use it; report it."
    RESOURCE_MISSING = 1139, "A resource of the record is missing. Ask again, then report the custodian."
    RECORD_MISSING = 1140, "A record that was asked for is missing. Ask again, then report the custodian."


class NotBelieved(Rejected):
    """A refused answer: the code, and which record and resource it is about where that is known.

    Both are ids and positions, never content.
    """

    def __init__(self, code: RejectionCode, *, record_id: bytes | None = None, index: int | None = None) -> None:
        super().__init__(code)
        self.record_id = record_id
        self.index = index


class AnchoredRecord(Struct, frozen=True, kw_only=True):
    """What the ledger says about one record that was asked for; ``root`` is the root of its salted resource hashes."""

    record_id: RecordId
    version: int
    root: Hash


class ResourceProof(Struct, frozen=True, kw_only=True):
    """What shows, beside its bytes, that a resource is under a record's root: its salt and its audit path."""

    salt: bytes
    path: tuple[Hash, ...]

    def __repr__(self) -> str:
        return "ResourceProof()"


class OpenedRecord(Struct, frozen=True, kw_only=True):
    """A verified record: the exact bytes of all its resources, in the order of the anchor, with a proof for each."""

    record_id: RecordId
    version: int
    root: Hash
    resources: tuple[bytes, ...]
    proofs: tuple[ResourceProof, ...] = ()

    def __repr__(self) -> str:
        return f"OpenedRecord(record_id={self.record_id.hex()}, version={self.version})"


def open_records(
    sealed: bytes,
    *,
    chain_id: str,
    ticket_id: bytes,
    requester: bytes,
    private_key: HpkePrivateKey,
    expected: Sequence[AnchoredRecord],
    institution: Institution = Institution.INTERNATIONAL,
) -> tuple[OpenedRecord, ...]:
    """Open and verify an answer; all of ``expected``, in that order, or nothing.

    ``institution`` is the network's suite. Raises :class:`NotBelieved` naming the first check that failed.
    """
    try:
        answer = unseal_package(
            sealed, chain_id=chain_id, ticket_id=ticket_id, requester=requester, private_key=private_key
        )
    except CannotOpen:
        raise NotBelieved(OpenCode.CANNOT_OPEN) from None
    except Malformed:
        raise NotBelieved(OpenCode.NOT_A_PACKAGE) from None
    if answer.ticket_id != ticket_id:
        raise NotBelieved(OpenCode.WRONG_TICKET)
    anchors = {one.record_id: one for one in expected}
    opened: dict[bytes, OpenedRecord] = {}
    for record in answer.records:
        anchor = anchors.get(record.record_id)
        if anchor is None:
            raise NotBelieved(OpenCode.RECORD_UNEXPECTED, record_id=record.record_id)
        if record.record_id in opened:
            raise NotBelieved(OpenCode.RECORD_REPEATED, record_id=record.record_id)
        opened[record.record_id] = verify_record(record, anchor, institution)
    for one in expected:
        if one.record_id not in opened:
            raise NotBelieved(OpenCode.RECORD_MISSING, record_id=one.record_id)
    return tuple(opened[one.record_id] for one in expected)


def verify_record(
    record: SealedRecord, anchor: AnchoredRecord, institution: Institution = Institution.INTERNATIONAL
) -> OpenedRecord:
    """Check one record against its anchor; also what a gatekeeper runs on itself before it answers.

    Raises :class:`NotBelieved`.
    """
    if (record.record_id, record.version) != (anchor.record_id, anchor.version):
        raise NotBelieved(OpenCode.VERSION_DIFFERS, record_id=record.record_id)
    for position, resource in enumerate(record.resources):
        if position > 0 and resource.index <= record.resources[position - 1].index:
            raise NotBelieved(OpenCode.RESOURCE_REPEATED, record_id=record.record_id, index=resource.index)
        _verify_resource(record, resource, anchor.root, institution)
    # Indices rise and each lies below the count, so as many resources as the count are exactly all of them.
    if len(record.resources) != record.count:
        raise NotBelieved(OpenCode.RESOURCE_MISSING, record_id=record.record_id)
    return OpenedRecord(
        record_id=record.record_id,
        version=record.version,
        root=anchor.root,
        resources=tuple(one.content for one in record.resources),
        proofs=tuple(ResourceProof(salt=one.salt, path=tuple(one.path)) for one in record.resources),
    )


def _verify_resource(record: SealedRecord, resource: SealedResource, root: bytes, institution: Institution) -> None:
    try:
        merkle.check(
            leaf=resource_leaf(resource.salt, resource.content, institution),
            index=resource.index,
            count=record.count,
            path=list(resource.path),
            expected_root=root,
        )
    except BadProof:
        raise NotBelieved(OpenCode.RESOURCE_ALTERED, record_id=record.record_id, index=resource.index) from None
