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
    WRITTEN_BY_THE_OTHER_SIDE = (
        508,
        "The patient continues the patient's own records and the organisation its own. Anchor a new record instead.",
    )


# --- messages -------------------------------------------------------------------------------------------


class Anchor(Message, frozen=True, tag="records.anchor"):
    """Commit to one version of a record: the Merkle root of its salted resource hashes (RFC 6962 tree).

    ``day`` is the clinical day. ``locator`` is the custodian's own, opaque to everyone else: a sealed pointer, or
    random bytes. A custodian fills it so that all its anchors have one size, which then says nothing (LED-15).
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
    """One version of a record. Its custodian is the organisation of the pseudonym.

    ``sole_author`` says that the author wrote every version up to this one, so nobody has to read them all.
    """

    root: Hash
    resources: U32
    category: Category
    sensitivity: Sensitivity
    day: Day
    author: PartyId
    anchored_s: U63
    sole_author: bool = False


ANCHORS: Final = TableSpec(
    name="records.anchors", prefix=0x40, key=(32, 32, 4), row=AnchorRow, note="pseudonym, record, version → anchor"
)


class RecordsTables:
    """The table of this contract, and what consent may ask of it."""

    __slots__ = ("anchors",)

    def __init__(self, state: Overlay) -> None:
        self.anchors = ANCHORS.bind(state)

    def author_of(self, pseudonym: bytes, record: bytes) -> bytes | None:
        """Who wrote both the record's first and its latest version; None where two parties did.

        Whoever only corrected a record does not speak for what somebody else had written in it.
        """
        first, found = self.anchors.get(pseudonym, record, 1), latest(self, pseudonym, record)
        return found[1].author if found and first and found[1].author == first.author else None


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
    row = AnchorRow(
        root=msg.root,
        resources=msg.resources,
        category=msg.category,
        sensitivity=msg.sensitivity,
        day=msg.day,
        author=ctx.sender,
        anchored_s=ctx.time_s,
        sole_author=sole_author,
    )
    tables.anchors.put(msg.pseudonym, msg.record, msg.version, row=row)
    ctx.emit(Anchored(pseudonym=msg.pseudonym, record=msg.record, version=msg.version))


# --- invariants -----------------------------------------------------------------------------------------


def check_state(tables: RecordsTables, membership: Membership) -> list[str]:
    """Versions are numbered from 1 without gaps and written by one side; every anchor belongs to a pseudonym."""
    broken: list[str] = []
    expected = (b"", b"", 0)
    authors: set[bytes] = set()
    for (pseudonym, record, version), row in tables.anchors.scan():
        following = expected[2] + 1 if expected[:2] == (pseudonym, record) else 1
        if version != following:
            broken.append(f"record {record.hex()} jumps to version {version}")
        authors = {row.author} if version == 1 else authors | {row.author}
        if row.sole_author != (len(authors) == 1):
            broken.append(f"record {record.hex()} miscounts its authors at version {version}")
        if pseudonym in authors and len(authors) > 1:
            broken.append(f"record {record.hex()} was written by both sides")
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


def history(
    tables: RecordsTables, pseudonym: bytes, record: bytes, after: int | None = None
) -> Iterator[tuple[int, AnchorRow]]:
    """A page of one record's versions, oldest first (REC-5)."""
    start = None if after is None else (pseudonym, record, after)
    for (_, _, version), row in tables.anchors.scan(pseudonym, record, after=start, limit=QUERY_PAGE_ROWS):
        yield version, row
