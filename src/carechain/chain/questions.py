"""What queries are asked with, and the rows of their answers that are not rows of the state."""

from typing import Any

from msgspec import Struct

from carechain.contracts import access, records
from carechain.contracts.keyring import CeremonyRow, Misdeed, MisdeedRow
from carechain.contracts.recovery import AttemptRow
from carechain.contracts.sanctions import SanctionRow
from carechain.core.decision import Path
from carechain.core.ids import U8, U32, U63, Hash, PartyId, RecordId, TicketId
from carechain.core.party import Party
from carechain.core.scope import Scope
from carechain.core.vocabulary import Purpose

# --- arguments ------------------------------------------------------------------------------------------


class NoArgs(Struct, frozen=True, forbid_unknown_fields=True):
    """No arguments."""


class OfOrganisation(Struct, frozen=True, forbid_unknown_fields=True):
    """About an organisation."""

    organisation: PartyId


class OfParty(Struct, frozen=True, forbid_unknown_fields=True):
    """About a party."""

    party: PartyId


class OfPseudonym(Struct, frozen=True, forbid_unknown_fields=True):
    """About a patient's pseudonym."""

    pseudonym: PartyId


class GrantPage(Struct, frozen=True, forbid_unknown_fields=True):
    """A page of grants, from after the given grant."""

    pseudonym: PartyId
    after: PartyId | None = None


class GranteePage(Struct, frozen=True, forbid_unknown_fields=True):
    """A page of what a grantee holds, from after the given pseudonym."""

    grantee: PartyId
    after: PartyId | None = None


class OfRecord(Struct, frozen=True, forbid_unknown_fields=True):
    """About a record; with a ticket, seen through that ticket."""

    pseudonym: PartyId
    record: RecordId
    ticket: TicketId | None = None


class TimelinePage(Struct, frozen=True, forbid_unknown_fields=True):
    """A page of a patient's anchors, from after the given record and version; with a ticket, seen through it."""

    pseudonym: PartyId
    ticket: TicketId | None = None
    after: tuple[RecordId, U32] | None = None


class HistoryPage(Struct, frozen=True, forbid_unknown_fields=True):
    """A page of a record's versions, from after the given one; with a ticket, seen through that ticket."""

    pseudonym: PartyId
    record: RecordId
    ticket: TicketId | None = None
    after: U32 | None = None


class StaffPage(Struct, frozen=True, forbid_unknown_fields=True):
    """A page of an organisation's staff list, from after the given party."""

    organisation: PartyId
    after: PartyId | None = None


class PatientPage(Struct, frozen=True, forbid_unknown_fields=True):
    """A page of an organisation's patients, from after the given id hash."""

    organisation: PartyId
    after: Hash | None = None


class OfTicket(Struct, frozen=True, forbid_unknown_fields=True):
    """About a ticket."""

    ticket: TicketId


class MayRead(Struct, frozen=True, forbid_unknown_fields=True):
    """Would this request be allowed now? Leaves no trace, gives no ticket."""

    pseudonym: PartyId
    requester: PartyId
    scope: Scope
    purpose: Purpose


class LogPage(Struct, frozen=True, forbid_unknown_fields=True):
    """A page of a patient's access log, from after the given line."""

    pseudonym: PartyId
    after: U32 | None = None


class SanctionPage(Struct, frozen=True, forbid_unknown_fields=True):
    """A page of sanctions, from after the given organisation and height."""

    after: tuple[PartyId, U63] | None = None


class OfEpoch(Struct, frozen=True, forbid_unknown_fields=True):
    """About the consortium key as it was in an epoch; None: as it is now."""

    epoch: U32 | None = None


class MisdeedPage(Struct, frozen=True, forbid_unknown_fields=True):
    """A page of what keyholders were caught at, from after the given member, epoch and kind."""

    after: tuple[PartyId, U32, U8] | None = None


# --- rows that are not state rows -----------------------------------------------------------------------


class Named(Struct, frozen=True):
    """A state row with its id."""

    id: bytes
    row: Any


class StaffLine(Struct, frozen=True):
    """A line of the staff list."""

    id: bytes
    enrolled_s: int
    left_s: int
    party: Party


class PatientLine(Struct, frozen=True):
    """A patient of an organisation."""

    id_hash: bytes
    pseudonym: bytes
    bound_s: int
    left_s: int


class AnchorLine(Struct, frozen=True):
    """One version of a record; with the order to erase it, if there is one: then the anchor is all that is left."""

    record: bytes
    version: int
    anchor: records.AnchorRow
    erased: records.ErasureRow | None = None


class ReceiptLine(Struct, frozen=True):
    """One organisation's receipt for what it destroyed of a record."""

    organisation: bytes
    receipt: records.ReceiptRow


class ErasureLine(Struct, frozen=True):
    """The erasure of one record: the order, and the receipts by organisation."""

    record: bytes
    order: records.ErasureRow
    receipts: tuple[ReceiptLine, ...]


class AttemptLine(Struct, frozen=True):
    """A recovery that runs, by its number."""

    number: int
    attempt: AttemptRow


class LogLine(Struct, frozen=True):
    """One line of an access log."""

    number: int
    line: access.LogRow


class MayReadAnswer(Struct, frozen=True):
    """``decision`` 0 means allowed, and ``path`` by what; otherwise the DecisionCode and its sentence."""

    decision: int
    reason: str
    path: Path | None


class SanctionLine(Struct, frozen=True):
    """One offence: whose, and at which height."""

    organisation: bytes
    height: int
    row: SanctionRow


class CeremonyLine(Struct, frozen=True):
    """A ceremony, and the organisations that its present round waits for."""

    id: bytes
    row: CeremonyRow
    waits_for: tuple[bytes, ...]


class MisdeedLine(Struct, frozen=True):
    """What a keyholder was caught at, in which epoch."""

    holder: bytes
    epoch: int
    kind: Misdeed
    row: MisdeedRow
