"""Records: codes, messages, events and tables."""

from enum import IntFlag
from typing import Annotated, Final

from msgspec import Meta

from carechain.core.ids import U8, U32, U63, Hash, PartyId, RecordId
from carechain.core.limits import LOCATOR_SIZE_BYTES, RECORD_VERSIONS
from carechain.core.message import Event, Message, Row
from carechain.core.rejection import RejectionCode
from carechain.core.scope import Day
from carechain.core.vocabulary import Category, Sensitivity
from carechain.state.overlay import Overlay
from carechain.state.table import TableSpec

# --- codes ----------------------------------------------------------------------------------------------


class RecordsCode(RejectionCode):
    """Why an anchor, an order to erase or a receipt is rejected."""

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
    RECORD_ERASED = 509, "This record was erased and takes no new version. Anchor a new record instead."
    OBJECT_TAKEN = 510, "This sealed object belongs to another record. Seal the content again, with a new key."
    MAY_NOT_ERASE = (
        511,
        "Only the patient, or a representative who may erase and whose scope is everything, orders an erasure.",
    )
    RECORD_UNKNOWN = 512, "The patient has no record with this id."
    ALREADY_ORDERED = 513, "The erasure of this record has been ordered already. See who has given a receipt."
    ERASURE_UNKNOWN = 514, "Nobody has ordered the erasure of this record: there is nothing to confirm."
    RECEIPT_MALFORMED = (
        515,
        "A receipt names what was destroyed: at least one part, and known parts only. Who held nothing sends none.",
    )
    ALREADY_CONFIRMED = 516, "Your organisation has given its receipt for this record."


# --- messages -------------------------------------------------------------------------------------------


class SealedHashes(Row, frozen=True):
    """What binds a sealed record's object and the capsule of its key to the anchor (REC-3).

    ``capsule`` is the SHA-256 of the capsule's bytes; ``object`` is the object's address, the hash of all its bytes.
    """

    capsule: Hash
    object: Hash


class Anchor(Message, frozen=True, tag="records.anchor"):
    """Commit to one version of a record: the Merkle root of its salted resource hashes (RFC 6962 tree).

    ``day`` is the clinical day. ``locator`` is the custodian's own, opaque to everyone else: a sealed pointer, or
    random bytes. A custodian fills it so that all its anchors have one size, which then says nothing (LED-15).
    ``sealed`` is None for a record that stays in the custodian's own charts.
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
    sealed: SealedHashes | None = None


class Erase(Message, frozen=True, tag="records.erase"):
    """Order the erasure of a record in all its versions, wherever it is kept. It cannot be taken back (REC-13)."""

    pseudonym: PartyId
    record: RecordId


class ErasedPart(IntFlag):
    """What of an erased record an organisation held and has destroyed."""

    OBJECT = 1
    """The sealed object in its vault."""
    CAPSULE = 2
    """The capsule with the sealed key, without which no quorum opens what is left elsewhere."""
    SALTS = 4
    """The salts, without which nobody can test a guess against the anchor."""
    CHART = 8
    """The content in its own charts."""
    TOKENS = 16
    """The record's entries in the blind index."""


ALL_PARTS: Final = int(ErasedPart.OBJECT | ErasedPart.CAPSULE | ErasedPart.SALTS | ErasedPart.CHART | ErasedPart.TOKENS)


class ConfirmErasure(Message, frozen=True, tag="records.confirm_erasure"):
    """An organisation's signed receipt: what it held of an erased record and has destroyed (REC-13).

    ``destroyed`` is a mask of :class:`ErasedPart`. An organisation that held nothing gives no receipt.
    """

    pseudonym: PartyId
    record: RecordId
    destroyed: U8


# --- events ---------------------------------------------------------------------------------------------


class Anchored(Event, frozen=True, tag="records.anchored"):
    """A version of a record was committed to."""

    pseudonym: PartyId
    record: RecordId
    version: U32


class Erased(Event, frozen=True, tag="records.erased"):
    """The erasure of a record was ordered: from this block on it is unknown to every door."""

    pseudonym: PartyId
    record: RecordId


class ErasureConfirmed(Event, frozen=True, tag="records.erasure_confirmed"):
    """An organisation gave its receipt for what it destroyed of a record."""

    pseudonym: PartyId
    record: RecordId
    organisation: PartyId
    destroyed: U8


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
    sealed: SealedHashes | None = None


class ErasureRow(Row, frozen=True):
    """The order to erase a record in all its versions: whose, when (block time) and at which height."""

    ordered_by: PartyId
    ordered_s: U63
    ordered_height: U63


class ReceiptRow(Row, frozen=True):
    """One organisation's receipt: what it destroyed (mask of ``ErasedPart``), who signed for it, and when."""

    destroyed: U8
    signed_by: PartyId
    confirmed_s: U63
    confirmed_height: U63


class ObjectRow(Row, frozen=True):
    """The one record that a sealed object belongs to, in one or several of its versions."""

    pseudonym: PartyId
    record: RecordId


class QueueRow(Row, frozen=True):
    """Nothing but its key: orders by height, so that whoever keeps records finds the new ones without reading all."""


ANCHORS: Final = TableSpec(
    name="records.anchors", prefix=0x40, key=(32, 32, 4), row=AnchorRow, note="pseudonym, record, version → anchor"
)
ERASURES: Final = TableSpec(
    name="records.erasures", prefix=0x41, key=(32, 32), row=ErasureRow, note="pseudonym, record → order to erase it"
)
RECEIPTS: Final = TableSpec(
    name="records.erasure_receipts",
    prefix=0x42,
    key=(32, 32, 32),
    row=ReceiptRow,
    note="pseudonym, record, organisation → what it destroyed",
)
OBJECTS: Final = TableSpec(
    name="records.objects", prefix=0x43, key=(32,), row=ObjectRow, note="address of a sealed object → its record"
)
ERASURE_QUEUE: Final = TableSpec(
    name="records.erasure_queue",
    prefix=0x44,
    key=(8, 32, 32),
    row=QueueRow,
    note="height of the order, pseudonym, record → nothing more",
)


class RecordsTables:
    """The tables of this contract, and what consent, gatekeepers and vaults may ask of them."""

    __slots__ = ("anchors", "erasures", "objects", "queue", "receipts")

    def __init__(self, state: Overlay) -> None:
        self.anchors = ANCHORS.bind(state)
        self.erasures = ERASURES.bind(state)
        self.receipts = RECEIPTS.bind(state)
        self.objects = OBJECTS.bind(state)
        self.queue = ERASURE_QUEUE.bind(state)

    def is_erased(self, pseudonym: bytes, record: bytes) -> bool:
        """Whether the record was ordered to be erased: from then on it is as good as unknown to every door."""
        return self.erasures.has(pseudonym, record)

    def is_erased_object(self, address: bytes) -> bool:
        """Whether a sealed object belongs to an erased record: a vault then neither serves it nor takes it again."""
        row = self.objects.get(address)
        return row is not None and self.is_erased(row.pseudonym, row.record)

    def author_of(self, pseudonym: bytes, record: bytes) -> bytes | None:
        """Who wrote both the record's first and its latest version; None where two parties did.

        Whoever only corrected a record does not speak for what somebody else had written in it.
        """
        first, found = self.anchors.get(pseudonym, record, 1), self.latest(pseudonym, record)
        return found[1].author if found and first and found[1].author == first.author else None

    def latest(self, pseudonym: bytes, record: bytes) -> tuple[int, AnchorRow] | None:
        """The newest version of a record and its anchor.

        Versions have no gaps, so the last one is found by doubling and then halving: two reads for most records.
        """
        present_at, missing_at = 0, 1
        while missing_at <= RECORD_VERSIONS and self.anchors.has(pseudonym, record, missing_at):
            present_at, missing_at = missing_at, missing_at * 2
        while missing_at - present_at > 1:
            middle = (present_at + missing_at) // 2
            if self.anchors.has(pseudonym, record, middle):
                present_at = middle
            else:
                missing_at = middle
        row = self.anchors.get(pseudonym, record, present_at) if present_at else None
        return None if row is None else (present_at, row)
