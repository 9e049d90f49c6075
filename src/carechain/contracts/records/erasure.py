"""Records, the handlers for erasure: the patient's order, and the receipts of those who carried it out (REC-13).

The order is a tombstone that stays. It ends every reading of the record at once, because every door looks at it, and
tells whoever keeps something of the record to destroy it. What they destroyed they sign for.
"""

from typing import Protocol

from carechain.contracts.records.schema import (
    ALL_PARTS,
    ConfirmErasure,
    Erase,
    Erased,
    ErasureConfirmed,
    ErasureRow,
    QueueRow,
    ReceiptRow,
    RecordsCode,
    RecordsTables,
)
from carechain.core.context import Ctx
from carechain.core.rejection import RejectionCode, require
from carechain.core.scope import EVERYTHING, Scope
from carechain.core.vocabulary import Power


class Deputies(Protocol):
    """What this contract needs from consent to know who acts for a patient."""

    def refuses_to_act(self, ctx: Ctx, pseudonym: bytes, power: Power, scope: Scope) -> RejectionCode | None:
        """None for the patient, or for a representative with this power over this scope; else why not."""


# --- handlers -------------------------------------------------------------------------------------------


def erase(ctx: Ctx, tables: RecordsTables, deputies: Deputies, msg: Erase) -> None:
    """Order the erasure of a record in all its versions. A relationship that was closed does not stand in the way.

    A representative must be appointed for everything: a part of the record is not seen by whoever sees less, and what
    is destroyed for somebody must not be more than what that person was trusted with.
    """
    refused = deputies.refuses_to_act(ctx, msg.pseudonym, Power.ERASE, EVERYTHING)
    require(refused is None, RecordsCode.MAY_NOT_ERASE)
    require(tables.anchors.has(msg.pseudonym, msg.record, 1), RecordsCode.RECORD_UNKNOWN)
    require(not tables.is_erased(msg.pseudonym, msg.record), RecordsCode.ALREADY_ORDERED)
    order = ErasureRow(ordered_by=ctx.sender, ordered_s=ctx.time_s, ordered_height=ctx.height)
    tables.erasures.put(msg.pseudonym, msg.record, row=order)
    tables.queue.put(ctx.height, msg.pseudonym, msg.record, row=QueueRow())
    ctx.emit(Erased(pseudonym=msg.pseudonym, record=msg.record))


def confirm_erasure(ctx: Ctx, tables: RecordsTables, msg: ConfirmErasure) -> None:
    """Take an organisation's receipt, once. That a member signs for its organisation is the role table's to say."""
    organisation = ctx.party.organisation
    require(tables.is_erased(msg.pseudonym, msg.record), RecordsCode.ERASURE_UNKNOWN)
    require(0 < msg.destroyed <= ALL_PARTS, RecordsCode.RECEIPT_MALFORMED)
    given = tables.receipts.has(msg.pseudonym, msg.record, organisation)
    require(not given, RecordsCode.ALREADY_CONFIRMED)
    receipt = ReceiptRow(
        destroyed=msg.destroyed, signed_by=ctx.sender, confirmed_s=ctx.time_s, confirmed_height=ctx.height
    )
    tables.receipts.put(msg.pseudonym, msg.record, organisation, row=receipt)
    ctx.emit(
        ErasureConfirmed(pseudonym=msg.pseudonym, record=msg.record, organisation=organisation, destroyed=msg.destroyed)
    )
