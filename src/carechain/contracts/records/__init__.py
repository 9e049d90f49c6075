"""Records: the ledger's commitment to what a custodian keeps, and its erasure (REC-1, REC-4, REC-5, REC-7, REC-13).

An anchor is keyed by pseudonym, record and version, so a patient's index is a range of the state and
reading it does not depend on how large the ledger is. Old versions stay; an erased record keeps its anchors, which
say nothing any more once the salts are gone.

Read in this order: ``schema`` (codes, messages, events, tables) · ``anchoring`` and ``erasure`` (predicates, handlers)
· ``views`` (invariants, queries).
"""

from carechain.contracts.records.anchoring import Consent, Membership, Relationships, anchor, latest
from carechain.contracts.records.erasure import Deputies, confirm_erasure, erase
from carechain.contracts.records.schema import (
    ALL_PARTS,
    ANCHORS,
    ERASURE_QUEUE,
    ERASURES,
    OBJECTS,
    RECEIPTS,
    Anchor,
    Anchored,
    AnchorRow,
    ConfirmErasure,
    Erase,
    Erased,
    ErasedPart,
    ErasureConfirmed,
    ErasureRow,
    ObjectRow,
    QueueRow,
    ReceiptRow,
    RecordsCode,
    RecordsTables,
    SealedHashes,
)
from carechain.contracts.records.views import check_state, erased_in, history, ordered_since, receipts_of, timeline

__all__ = [
    "ALL_PARTS",
    "ANCHORS",
    "ERASURES",
    "ERASURE_QUEUE",
    "OBJECTS",
    "RECEIPTS",
    "Anchor",
    "AnchorRow",
    "Anchored",
    "ConfirmErasure",
    "Consent",
    "Deputies",
    "Erase",
    "Erased",
    "ErasedPart",
    "ErasureConfirmed",
    "ErasureRow",
    "Membership",
    "ObjectRow",
    "QueueRow",
    "ReceiptRow",
    "RecordsCode",
    "RecordsTables",
    "Relationships",
    "SealedHashes",
    "anchor",
    "check_state",
    "confirm_erasure",
    "erase",
    "erased_in",
    "history",
    "latest",
    "ordered_since",
    "receipts_of",
    "timeline",
]
