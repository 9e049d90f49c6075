"""What charts hand out: a stored record, its content, and the check of one against the other (REC-1, REC-2).

A resource is committed to with a salt (:mod:`carechain.core.commitment`), which keeps a guessable resource from
being guessed. The leaves of a record's Merkle tree are the leaf
hashes (RFC 6962) of these commitments, in the record's order, and the root is what the ledger anchors.
"""

from msgspec import Struct

from carechain.core import merkle
from carechain.core.commitment import resource_leaf
from carechain.core.hashing import HASH_SIZE
from carechain.core.suite import Institution
from carechain.core.vocabulary import Category, Sensitivity


class Tampered(Exception):  # noqa: N818 - names what is wrong with the data
    """What the repository returned is not what was anchored. The message never repeats content."""


class ResourceLeaf(Struct, frozen=True, kw_only=True):
    """One resource of a record: FHIR type, logical id, and its 32-byte commitment."""

    resource_type: str
    resource_id: str
    commitment: bytes


class StoredRecord(Struct, frozen=True, kw_only=True):
    """One version of one record, with everything an anchor needs.

    ``record_id``, ``pseudonym`` and ``root`` are 32 bytes; ``version`` counts from 1; ``effective_day`` is in
    days since 1900-01-01; ``received_s`` in Unix seconds. ``group`` (what the record was built around, for
    example ``Encounter/<id>``), ``labels`` and ``resources`` stay with the custodian: they must not be
    written to the ledger.
    """

    record_id: bytes
    version: int
    pseudonym: bytes
    category: Category
    sensitivity: Sensitivity
    effective_day: int
    root: bytes
    resource_count: int
    resources: tuple[ResourceLeaf, ...]
    labels: tuple[str, ...]
    group: str
    received_s: int


class ResourceContent(Struct, frozen=True, kw_only=True):
    """One resource as received, with its salt, its place in the record and the audit path to the root."""

    resource_type: str
    resource_id: str
    version: int
    body: bytes
    salt: bytes
    index: int
    path: tuple[bytes, ...]

    def __repr__(self) -> str:
        return f"ResourceContent(index={self.index})"


class RecordContent(Struct, frozen=True, kw_only=True):
    """A record version as the database has it now, altered or not: :func:`check` tells.

    ``record`` is the stored description (its ``root`` is the repository's own claim, not the ledger's).
    ``sensitivity`` is the highest grade known today for anything inside, so that a resource whose grade was
    raised by a later correction is not served under its old grade.
    """

    record: StoredRecord
    sensitivity: Sensitivity
    resources: tuple[ResourceContent, ...]


class IngestResult(Struct, frozen=True, kw_only=True):
    """What one bundle changed.

    ``records`` holds new records and new versions only, in a stable order; ``unchanged`` counts the records
    of this patient that stayed as they were. ``resources`` counts the patient's resources in the bundle,
    ``new_resources`` those whose bytes were not yet known, ``directory`` the shared ones (practitioners,
    organisations, places).
    """

    records: tuple[StoredRecord, ...]
    unchanged: int
    resources: int
    new_resources: int
    directory: int


class LocalPatient(Struct, frozen=True, kw_only=True):
    """Who a pseudonym is, for the organisation's own staff; it never leaves the organisation."""

    pseudonym: bytes
    patient_id: str
    mrn: str | None
    name: str | None


def root_of(commitments: list[bytes]) -> bytes:
    """The record root over commitments in the record's order."""
    return merkle.root([merkle.leaf_hash(one) for one in commitments])


def check(content: RecordContent, root: bytes, institution: Institution = Institution.INTERNATIONAL) -> None:
    """Check that ``content`` is exactly what ``root`` (the ledger's) was anchored for.

    Recomputes every commitment from the bytes, then the root, and each audit path against it, so that a
    custodian can check before it serves and a requester after it opened. ``institution`` is the network's suite.
    Raises :class:`Tampered`.
    """
    leaves = [resource_leaf(one.salt, one.body, institution) for one in content.resources]
    if len(root) != HASH_SIZE or not leaves or merkle.root(leaves) != root:
        raise Tampered("the resources do not lead to the anchored root")
    for position, one in enumerate(content.resources):
        if one.index != position:
            raise Tampered("the resources are not in the anchored order")
        check_resource(one, count=len(leaves), root=root, institution=institution)


def check_resource(
    resource: ResourceContent, *, count: int, root: bytes, institution: Institution = Institution.INTERNATIONAL
) -> None:
    """Check one resource alone against the anchored root of its record. Raises :class:`Tampered`."""
    try:
        merkle.check(
            leaf=resource_leaf(resource.salt, resource.body, institution),
            index=resource.index,
            count=count,
            path=list(resource.path),
            expected_root=root,
        )
    except merkle.BadProof:
        raise Tampered("a resource's path does not lead to the anchored root") from None
