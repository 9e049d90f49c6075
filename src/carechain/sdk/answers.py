"""What a node answers over HTTP, as both sides write it (API-3): positional state rows in maps with named fields.

Byte strings are byte strings in msgpack; the node's JSON has hexadecimal instead and is meant for people.
"""

from types import GenericAlias
from typing import Any, Final, Generic, TypeVar

import msgspec
from msgspec import Struct

from carechain.chain.questions import (
    AnchorLine,
    AttemptLine,
    CeremonyLine,
    ErasureLine,
    LogLine,
    MayReadAnswer,
    MisdeedLine,
    PatientLine,
    SanctionLine,
    StaffLine,
)
from carechain.chain.receipts import FullReceipt, Receipt
from carechain.chain.versions import VersionLine
from carechain.contracts.access import LogHead, TicketRow
from carechain.contracts.consent.schema import RepresentativeRow, RequestRow, RuleRow
from carechain.contracts.consent.views import GrantView, Reason
from carechain.contracts.governance import AgreementRow, ProposalRow
from carechain.contracts.keyring import KeyRow
from carechain.contracts.membership import MemberRow
from carechain.contracts.recovery import PolicyRow
from carechain.contracts.relationships import RelationRow, SummaryRow
from carechain.contracts.validators import NodeRow, ValidatorRow
from carechain.core.party import Party

RowT = TypeVar("RowT")

MSGPACK: Final = "application/msgpack"


class Status(Struct, frozen=True, kw_only=True):
    """Where the chain stands. ``server`` is the party that a session is opened with.

    ``peers`` is how many nodes this one is connected to, ``validators`` how many decide the order of blocks; ``why``
    says what is wrong when the node should be given no work now.
    """

    chain_id: str
    server: bytes
    height: int
    time_s: int
    app_hash: bytes
    version: str
    engine: str = "embedded"
    peers: int = 0
    validators: int = 0
    ready: bool = True
    why: str = ""


class Refusal(Struct, frozen=True, kw_only=True):
    """Every refusal: number, stable label, and what to do."""

    code: int
    label: str
    reason: str


class Submitted(Struct, frozen=True, kw_only=True):
    """A transaction that is durable on the ledger. ``receipt.code`` 0 means that it did what it asked."""

    tx_id: bytes
    height: int
    index: int
    receipt: Receipt


class Accepted(Struct, frozen=True, kw_only=True):
    """A transaction that waits for its block (``?wait=0``)."""

    tx_id: bytes


class ProvenEntry(Struct, frozen=True, kw_only=True):
    """A state entry with its proof: ``value`` None means that the proof shows its absence."""

    key: bytes
    value: bytes | None
    proof: bytes


class QueryAnswer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Rows of a query with the height, time and app hash they hold for; ``after`` asks for the next page.

    With ``?prove=1``: ``sealed`` is the signed header at that height, and ``proofs`` show state entries under it.
    """

    height: int
    time_s: int
    app_hash: bytes
    rows: tuple[Any, ...]
    after: tuple[Any, ...] | None = None
    sealed: bytes = b""
    proofs: tuple[ProvenEntry, ...] = ()


class Inclusion(Struct, frozen=True, kw_only=True):
    """Transaction and receipt as they are stored, with RFC 6962 audit paths to the roots in the sealed header.

    The header states how many transactions the block has.
    """

    raw: bytes
    receipt: bytes
    tx_path: tuple[bytes, ...]
    receipt_path: tuple[bytes, ...]
    sealed: bytes


class ShownReceipt(Struct, frozen=True, kw_only=True):
    """A receipt as its reader may see it; ``inclusion`` only for those who may see the transaction itself."""

    receipt: FullReceipt
    inclusion: Inclusion | None


class ShownBlock(Struct, frozen=True, kw_only=True):
    """A block as it is stored: sealed header, transactions, receipts."""

    sealed: bytes
    txs: tuple[bytes, ...]
    receipts: tuple[bytes, ...]


class NamedRow(Struct, Generic[RowT], frozen=True):
    """A state row with its id."""

    id: bytes
    row: RowT


ROWS: Final[dict[str, Any]] = {
    "membership.member": NamedRow[MemberRow],
    "membership.members": NamedRow[MemberRow],
    "membership.party": NamedRow[Party],
    "membership.staff": StaffLine,
    "relationships.patients": PatientLine,
    "relationships.relation": RelationRow,
    "relationships.summary": SummaryRow,
    "consent.grants": GrantView,
    "consent.granted_to": GrantView,
    "consent.inbox": NamedRow[RequestRow],
    "consent.rules": NamedRow[RuleRow],
    "consent.representatives": NamedRow[RepresentativeRow],
    "consent.who_can_see": Reason,
    "records.anchor": AnchorLine,
    "records.erasure": ErasureLine,
    "records.history": AnchorLine,
    "records.timeline": AnchorLine,
    "access.may_read": MayReadAnswer,
    "access.ticket": NamedRow[TicketRow],
    "access.log": LogLine,
    "access.log_head": LogHead,
    "recovery.policy": PolicyRow,
    "recovery.pending": AttemptLine,
    "governance.proposals": NamedRow[ProposalRow],
    "governance.agreements": NamedRow[AgreementRow],
    "governance.versions": VersionLine,
    "validators.list": NamedRow[ValidatorRow],
    "validators.nodes": NamedRow[NodeRow],
    "sanctions.list": SanctionLine,
    "keyring.key": KeyRow,
    "keyring.ceremony": CeremonyLine,
    "keyring.misdeeds": MisdeedLine,
}
"""The type of each query's rows."""

_ROW_LISTS: Final = {name: GenericAlias(tuple, (kind, ...)) for name, kind in ROWS.items()}
_answers = msgspec.msgpack.Decoder(QueryAnswer)


def decode_answer(name: str, data: bytes) -> QueryAnswer:
    """A query's answer with typed rows; raises ``msgspec.MsgspecError`` for anything else."""
    answer = _answers.decode(data)
    rows = msgspec.convert(answer.rows, _ROW_LISTS[name], builtin_types=(bytes,))
    return msgspec.structs.replace(answer, rows=rows)
