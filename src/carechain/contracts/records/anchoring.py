"""Records, the handler for anchors: who may commit to which version of a record."""

from typing import Protocol

from carechain.contracts.records.schema import (
    Anchor,
    Anchored,
    AnchorRow,
    ObjectRow,
    RecordsCode,
    RecordsTables,
)
from carechain.core.context import Ctx
from carechain.core.limits import RECORD_VERSIONS, RESOURCES_PER_RECORD
from carechain.core.party import Party
from carechain.core.rejection import present, require
from carechain.core.vocabulary import PartyKind


class Membership(Protocol):
    """What this contract needs from membership."""

    def party(self, party: bytes) -> Party | None:
        """The party with this id."""


class Relationships(Protocol):
    """What this contract needs from relationships."""

    def is_open(self, pseudonym: bytes) -> bool:
        """Whether the patient still wants records added."""


class Consent(Protocol):
    """What this contract needs from consent to let somebody write."""

    def may_write(
        self,
        ctx: Ctx,
        *,
        pseudonym: bytes,
        category: int,
        sensitivity: int,
        day: int,
        record: bytes,
        replacing: bool,
    ) -> bool:
        """Whether the sender may add this record, or with ``replacing`` put a version over somebody else's."""


# --- predicates -----------------------------------------------------------------------------------------


def latest(tables: RecordsTables, pseudonym: bytes, record: bytes) -> tuple[int, AnchorRow] | None:
    """The newest version of a record and its anchor, of an erased one too."""
    return tables.latest(pseudonym, record)


# --- handlers -------------------------------------------------------------------------------------------


def anchor(
    ctx: Ctx,
    tables: RecordsTables,
    membership: Membership,
    relationships: Relationships,
    consent: Consent,
    msg: Anchor,
) -> None:
    """Add the next version of a record."""
    patient = present(membership.party(msg.pseudonym), RecordsCode.PSEUDONYM_UNKNOWN)
    require(patient.kind is PartyKind.PSEUDONYM, RecordsCode.PSEUDONYM_UNKNOWN)
    own = ctx.sender == msg.pseudonym
    require(own or ctx.party.organisation == patient.organisation, RecordsCode.NOT_THE_CUSTODIAN)
    require(relationships.is_open(msg.pseudonym), RecordsCode.RELATION_CLOSED)
    previous = tables.anchors.get(msg.pseudonym, msg.record, msg.version - 1) if msg.version > 1 else None
    sole_author = previous is None or (previous.sole_author and previous.author == ctx.sender)
    # A new version takes the place of the old one, so it is judged as what it says and as what it replaces.
    for judged in (msg,) if previous is None else (msg, previous):
        allowed = consent.may_write(
            ctx,
            pseudonym=msg.pseudonym,
            category=judged.category,
            sensitivity=judged.sensitivity,
            day=judged.day,
            record=msg.record,
            replacing=not sole_author,
        )
        require(allowed, RecordsCode.WRITE_NOT_AUTHORISED)
    fresh = 1 <= msg.version <= RECORD_VERSIONS and not tables.anchors.has(msg.pseudonym, msg.record, msg.version)
    require(fresh and (previous is not None or msg.version == 1), RecordsCode.VERSION_NOT_NEXT)
    require(previous is None or previous.category is msg.category, RecordsCode.CATEGORY_CHANGED)
    require(1 <= msg.resources <= RESOURCES_PER_RECORD, RecordsCode.RESOURCE_COUNT)
    same_side = previous is None or (previous.author == msg.pseudonym) == own
    require(same_side, RecordsCode.WRITTEN_BY_THE_OTHER_SIDE)
    # A first version needs no look: only what has an anchor can have been erased.
    require(previous is None or not tables.is_erased(msg.pseudonym, msg.record), RecordsCode.RECORD_ERASED)
    require(_object_is_free(tables, msg), RecordsCode.OBJECT_TAKEN)
    row = AnchorRow(
        root=msg.root,
        resources=msg.resources,
        category=msg.category,
        sensitivity=msg.sensitivity,
        day=msg.day,
        author=ctx.sender,
        anchored_s=ctx.time_s,
        sole_author=sole_author,
        sealed=msg.sealed,
    )
    tables.anchors.put(msg.pseudonym, msg.record, msg.version, row=row)
    if msg.sealed is not None:
        tables.objects.put(msg.sealed.object, row=ObjectRow(pseudonym=msg.pseudonym, record=msg.record))
    ctx.emit(Anchored(pseudonym=msg.pseudonym, record=msg.record, version=msg.version))


def _object_is_free(tables: RecordsTables, msg: Anchor) -> bool:
    """Whether the object, if there is one, is not another record's.

    Two records with one object would let the patient of one have the other's destroyed.
    """
    owner = None if msg.sealed is None else tables.objects.get(msg.sealed.object)
    return owner is None or (owner.pseudonym, owner.record) == (msg.pseudonym, msg.record)
