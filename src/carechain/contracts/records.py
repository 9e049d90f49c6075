"""Records: the ledger's commitment to what a custodian keeps (REC-1, REC-4, REC-5, REC-7).

An anchor is keyed by pseudonym, record and version, so a patient's index is a range of the state and
reading it does not depend on how large the ledger is. Old versions stay.
"""

from collections.abc import Iterator
from typing import Annotated, Final, Protocol

from msgspec import Meta

from carechain.core.context import Ctx
from carechain.core.ids import U32, U63, Hash, PartyId, RecordId
from carechain.core.limits import LOCATOR_SIZE_BYTES, QUERY_PAGE_ROWS, RECORD_VERSIONS, RESOURCES_PER_RECORD
from carechain.core.message import Event, Message, Row
from carechain.core.party import Party
from carechain.core.rejection import RejectionCode, present, require
from carechain.core.scope import Day
from carechain.core.vocabulary import Category, PartyKind, Sensitivity
from carechain.state.overlay import Overlay
from carechain.state.table import TableSpec

# --- codes ----------------------------------------------------------------------------------------------


class RecordsCode(RejectionCode):
    """Why an anchor is rejected."""

    PSEUDONYM_UNKNOWN = 501, "No such patient pseudonym."
    NOT_THE_CUSTODIAN = 502, "Only the organisation this pseudonym belongs to, or the patient, may add records to it."
    RELATION_CLOSED = 503, "The patient has closed this relationship."
    WRITE_NOT_AUTHORISED = 504, "No live grant lets you write this kind of record for this patient. Ask for one."
    VERSION_NOT_NEXT = 505, "A record's versions are numbered from 1 without gaps. Read the latest and try again."
    CATEGORY_CHANGED = 506, "A new version keeps its record's category. Anchor a new record instead."
    RESOURCE_COUNT = 507, "A record holds 1 to 65536 resources."


# --- messages -------------------------------------------------------------------------------------------


class Anchor(Message, frozen=True, tag="records.anchor"):
    """Commit to one version of a record: the Merkle root of its salted resource hashes (RFC 6962 tree).

    ``day`` is the clinical day. ``locator`` is the custodian's own sealed pointer, opaque to everyone else; it
    also pads anchors to one size, so that a transaction's length says nothing (LED-15).
    """

    pseudonym: PartyId
    record: RecordId
    version: U32
    root: Hash
    resources: U32
    category: Category
    sensitivity: Sensitivity
    day: Day
    locator: Annotated[bytes, Meta(max_length=LOCATOR_SIZE_BYTES)]


# --- events ---------------------------------------------------------------------------------------------


class Anchored(Event, frozen=True, tag="records.anchored"):
    """A version of a record was committed to."""

    pseudonym: PartyId
    record: RecordId
    version: U32


# --- tables ---------------------------------------------------------------------------------------------


class AnchorRow(Row, frozen=True):
    """One version of a record. Its custodian is the organisation of the pseudonym."""

    root: Hash
    resources: U32
    category: Category
    sensitivity: Sensitivity
    day: Day
    author: PartyId
    anchored_s: U63


ANCHORS: Final = TableSpec(
    name="records.anchors", prefix=0x40, key=(32, 32, 4), row=AnchorRow, note="pseudonym, record, version → anchor"
)


class RecordsTables:
    """The table of this contract, and what consent may ask of it."""

    __slots__ = ("anchors",)

    def __init__(self, state: Overlay) -> None:
        self.anchors = ANCHORS.bind(state)

    def author_of(self, pseudonym: bytes, record: bytes) -> bytes | None:
        """Who wrote the record's latest version."""
        found = latest(self, pseudonym, record)
        return found[1].author if found else None


class Membership(Protocol):
    """What this contract needs from membership."""

    def party(self, party: bytes) -> Party | None:
        """The party with this id."""


class Relationships(Protocol):
    """What this contract needs from relationships."""

    def is_open(self, pseudonym: bytes) -> bool:
        """Whether the patient still wants records added."""


class Consent(Protocol):
    """What this contract needs from consent."""

    def may_write(
        self,
        *,
        pseudonym: bytes,
        author: bytes,
        party: Party,
        category: int,
        sensitivity: int,
        day: int,
        record: bytes,
        time_s: int,
    ) -> bool:
        """Whether the author may add this record."""


# --- predicates -----------------------------------------------------------------------------------------


def latest(tables: RecordsTables, pseudonym: bytes, record: bytes) -> tuple[int, AnchorRow] | None:
    """The newest version of a record and its anchor.

    Versions have no gaps, so the last one is found by doubling and then halving: two reads for most records.
    """
    present_at, missing_at = 0, 1
    while missing_at <= RECORD_VERSIONS and tables.anchors.has(pseudonym, record, missing_at):
        present_at, missing_at = missing_at, missing_at * 2
    while missing_at - present_at > 1:
        middle = (present_at + missing_at) // 2
        if tables.anchors.has(pseudonym, record, middle):
            present_at = middle
        else:
            missing_at = middle
    row = tables.anchors.get(pseudonym, record, present_at) if present_at else None
    return None if row is None else (present_at, row)


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
    allowed = consent.may_write(
        pseudonym=msg.pseudonym,
        author=ctx.sender,
        party=ctx.party,
        category=msg.category,
        sensitivity=msg.sensitivity,
        day=msg.day,
        record=msg.record,
        time_s=ctx.time_s,
    )
    require(allowed, RecordsCode.WRITE_NOT_AUTHORISED)
    previous = tables.anchors.get(msg.pseudonym, msg.record, msg.version - 1) if msg.version > 1 else None
    fresh = 1 <= msg.version <= RECORD_VERSIONS and not tables.anchors.has(msg.pseudonym, msg.record, msg.version)
    require(fresh and (previous is not None or msg.version == 1), RecordsCode.VERSION_NOT_NEXT)
    require(previous is None or previous.category is msg.category, RecordsCode.CATEGORY_CHANGED)
    require(1 <= msg.resources <= RESOURCES_PER_RECORD, RecordsCode.RESOURCE_COUNT)
    row = AnchorRow(
        root=msg.root,
        resources=msg.resources,
        category=msg.category,
        sensitivity=msg.sensitivity,
        day=msg.day,
        author=ctx.sender,
        anchored_s=ctx.time_s,
    )
    tables.anchors.put(msg.pseudonym, msg.record, msg.version, row=row)
    ctx.emit(Anchored(pseudonym=msg.pseudonym, record=msg.record, version=msg.version))


# --- invariants -----------------------------------------------------------------------------------------


def check_state(tables: RecordsTables, membership: Membership) -> list[str]:
    """Versions are numbered from 1 without gaps, and every anchor belongs to a pseudonym."""
    broken: list[str] = []
    expected = (b"", b"", 0)
    for (pseudonym, record, version), _ in tables.anchors.scan():
        following = expected[2] + 1 if expected[:2] == (pseudonym, record) else 1
        if version != following:
            broken.append(f"record {record.hex()} jumps to version {version}")
        party = membership.party(pseudonym)
        if party is None or party.kind is not PartyKind.PSEUDONYM:
            broken.append(f"record {record.hex()} belongs to nobody")
        expected = (pseudonym, record, version)
    return broken


# --- queries --------------------------------------------------------------------------------------------


def timeline(
    tables: RecordsTables, pseudonym: bytes, after: tuple[bytes, int] | None = None, limit: int = QUERY_PAGE_ROWS
) -> Iterator[tuple[bytes, int, AnchorRow]]:
    """A page of the patient's anchors, every version, in order of record id and version (REC-7)."""
    start = None if after is None else (pseudonym, *after)
    for (_, record, version), row in tables.anchors.scan(pseudonym, after=start, limit=limit):
        yield record, version, row


def history(tables: RecordsTables, pseudonym: bytes, record: bytes) -> Iterator[tuple[int, AnchorRow]]:
    """Every version of one record, oldest first (REC-5)."""
    for (_, _, version), row in tables.anchors.scan(pseudonym, record, limit=QUERY_PAGE_ROWS):
        yield version, row
