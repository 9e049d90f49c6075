"""Believing a node's answer only as far as it is proven (LED-10): state entries, and a transaction's inclusion.

Everything is checked against an app hash that is believed for a reason: because a block producer that the genesis
names sealed it (:class:`Network`), or because the validators of a consortium signed it (:mod:`carechain.sdk.light`).
The client works out by itself which state keys the shown rows must stand under, so a node cannot prove something else
than it shows. What is proven is that each shown row is on the ledger as shown; that a record's latest version is the
latest; and for the access log (:mod:`carechain.sdk.verify_log`) that no row is missing. What the node computed, such
as whether a grant is live, is not proven and not handed on.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Final, Protocol

from msgspec import Struct

from carechain.chain.genesis import Genesis
from carechain.chain.header import HEADER_VERSION, Header, decode_sealed, signing_bytes
from carechain.chain.receipts import FullReceipt, decode_receipt, describe
from carechain.chain.tx import parse
from carechain.contracts import access, membership, records, recovery, relationships
from carechain.contracts.consent import schema as consent
from carechain.contracts.consent.views import GrantView
from carechain.contracts.keyring import schema as keys
from carechain.core import merkle
from carechain.core.codec import Malformed, encode
from carechain.core.crypto import BadSignature, verify
from carechain.core.rejection import Rejected
from carechain.engine.sealed import Sealers
from carechain.sdk.answers import NamedRow, QueryAnswer, ShownReceipt
from carechain.state import proof as state_proof

Entry = tuple[bytes, bytes | None]
"""A state key and the value it must have; None: it must be absent."""


class NotProven(Exception):  # noqa: N818 - names what is wrong with the answer
    """An answer's proof does not show what the answer says. Do not believe it; ask another node."""


class Believed(Struct, frozen=True, kw_only=True):
    """The state after block ``height``, whose time is ``time_s`` (Unix seconds), as a client has reason to believe."""

    height: int
    time_s: int
    app_hash: bytes


class Trust(Protocol):
    """Why a client believes a state: the one step that differs between the engines."""

    def believe(self, answer: QueryAnswer) -> Believed:
        """The state that the answer is about; raises :class:`NotProven` when there is no reason to believe in it."""
        ...


class Network(Struct, frozen=True, kw_only=True):
    """What a client must know beforehand to believe a header: the chain's name and whose seal counts.

    That is the genesis' block producers (``producers``: party id to suite and public key) where there are any. In a
    consortium it is the one organisation ``keeper`` that vouches for its own copy, as a member's staff may take their
    own node's word; with neither, only the validators' signatures prove anything.
    """

    chain_id: str
    producers: dict[bytes, tuple[int, bytes]]
    keeper: bytes | None = None

    @staticmethod
    def of(genesis: Genesis, keeper: bytes | None = None) -> "Network":
        """As the genesis file has them; ``keeper`` counts only where no producer is named."""
        sealers = Sealers.of(genesis, keeper)
        return Network(chain_id=genesis.chain_id, producers=sealers.producers, keeper=sealers.keeper)

    def counts(self, sealed: bytes) -> bool:
        """Whether the header says it is sealed by somebody whose seal counts; that it is, is for others to check."""
        try:
            return Sealers(self.producers, self.keeper).key_of(decode_sealed(sealed)) is not None
        except Malformed:
            return False

    def believe(self, answer: QueryAnswer) -> Believed:
        """The state in the answer's sealed header; raises :class:`NotProven`."""
        header = verify_header(answer.sealed, self)
        return Believed(height=header.height, time_s=header.time_s, app_hash=header.app_hash)


class Proven(Struct, frozen=True, kw_only=True):
    """What was proven, at a height and its block time (Unix seconds). Compare the time with your clock.

    ``rows`` are the answer's but for what the node computed: grants come as :class:`NamedRow` without ``live``.
    """

    height: int
    time_s: int
    rows: tuple[Any, ...]


def verify_header(sealed: bytes, network: Network) -> Header:
    """The header, if somebody sealed it whose seal counts in the network; raises :class:`NotProven`."""
    try:
        decoded = decode_sealed(sealed)
    except Malformed:
        raise NotProven("the sealed header is malformed") from None
    header = decoded.header
    if header.version != HEADER_VERSION:
        raise NotProven("the header's version is unknown")
    if header.chain_id != network.chain_id:
        raise NotProven("the header is of another network")
    key = Sealers(network.producers, network.keeper).key_of(decoded)
    if key is None:
        raise NotProven("nobody sealed the header whose seal counts in the network")
    try:
        verify(suite=key[0], public_key=key[1], signature=decoded.signature, message=signing_bytes(header))
    except BadSignature:
        raise NotProven("the signature over the header does not hold") from None
    return header


def verify_answer(name: str, args: Any, answer: QueryAnswer, trust: Trust) -> Proven:  # noqa: ANN401 - any query's
    """Check every row of an answer that was asked for with ``prove``; raises :class:`NotProven`.

    ``trust`` says why its state is believed: a :class:`Network`, or the ``Settled`` of :mod:`carechain.sdk.light`.
    ``args`` are the query's arguments and ``answer`` has typed rows. A query about one thing has exactly one row. A
    query whose rows are computed and not stored (who can see, may read, lists) cannot be proven.
    """
    entries_of = PROVABLE.get(name)
    if entries_of is None:
        raise NotProven(f"the answer to {name} is computed and has no proof")
    if name in ABOUT_ONE and len(answer.rows) != 1:
        raise NotProven(f"the answer to {name} is one row, and this is not one")
    believed = trust.believe(answer)
    if (believed.height, believed.time_s, believed.app_hash) != (answer.height, answer.time_s, answer.app_hash):
        raise NotProven("the answer and its header are not of one block")
    try:
        entries = entries_of(args, answer.rows)
    except (TypeError, ValueError):
        # An id or a number that no key has room for: the node's doing, as the arguments were made to fit.
        raise NotProven("a row cannot be on the ledger") from None
    # Rows stand in the order of their keys, so none can be shown twice.
    if any(one[0] >= other[0] for one, other in pairwise(entries)):
        raise NotProven("a row is there twice or out of order")
    verify_entries(entries, answer, believed.app_hash)
    rows = tuple(NamedRow(one.grant_id, one.grant) if isinstance(one, GrantView) else one for one in answer.rows)
    return Proven(height=believed.height, time_s=believed.time_s, rows=rows)


def verify_entries(entries: Sequence[Entry], answer: QueryAnswer, app_hash: bytes) -> None:
    """Check that the answer's proofs show exactly these entries under ``app_hash``; raises :class:`NotProven`."""
    proofs = {one.key: one.proof for one in answer.proofs}
    for key, value in entries:
        encoded = proofs.get(key)
        if encoded is None:
            raise NotProven("a row has no proof")
        verify_entry(app_hash, key, value, encoded)


def verify_entry(app_hash: bytes, key: bytes, value: bytes | None, proof: bytes) -> None:
    """Check that the state under ``app_hash`` has ``value`` under ``key``; None: that it has nothing there.

    ``proof`` is the encoding of :class:`carechain.state.proof.Proof`. Raises :class:`NotProven`.
    """
    try:
        decoded = state_proof.decode_proof(proof)
        if value is None:
            state_proof.verify_absence(app_hash, key, decoded)
        else:
            state_proof.verify_presence(app_hash, key, value, decoded)
    except state_proof.BadProof as bad:
        raise NotProven(str(bad)) from None


def verify_inclusion(shown: ShownReceipt, tx_id: bytes, network: Network) -> FullReceipt:
    """The receipt, worked out again from proven bytes; raises :class:`NotProven`.

    Both the transaction and its receipt must lead to the roots of one header, and the transaction have this id. The
    number of transactions comes from the header: with another one, the same path would prove another index.
    """
    inclusion = shown.inclusion
    if inclusion is None:
        raise NotProven("the receipt came without its transaction")
    header = verify_header(inclusion.sealed, network)
    index = shown.receipt.index
    _lead_to(inclusion.raw, index, header.tx_count, inclusion.tx_path, header.tx_root)
    _lead_to(inclusion.receipt, index, header.tx_count, inclusion.receipt_path, header.receipt_root)
    try:
        proven = describe(inclusion.raw, decode_receipt(inclusion.receipt), height=header.height, index=index)
        same_id = parse(inclusion.raw).id == tx_id
    except (Malformed, Rejected):
        raise NotProven("the transaction or its receipt is malformed") from None
    if not same_id or proven != shown.receipt:
        raise NotProven("the proven transaction is another one than the receipt says")
    return proven


def _lead_to(data: bytes, index: int, count: int, path: tuple[bytes, ...], root: bytes) -> None:
    try:
        merkle.check(leaf=merkle.leaf_hash(data), index=index, count=count, path=list(path), expected_root=root)
    except merkle.BadProof as bad:
        raise NotProven(str(bad)) from None


# --- which entries a query's rows stand for -------------------------------------------------------------


def _asked(shown: bytes, wanted: bytes | None) -> bytes:
    """The id that stands beside a row, which must be the one that was asked about, where one was."""
    if wanted is not None and shown != wanted:
        raise NotProven("a row is about something else than was asked")
    return shown


def _member(args: Any, rows: Any) -> list[Entry]:  # noqa: ANN401 - the query's own types
    return [(membership.MEMBERS_TABLE.key_of(_asked(one.id, args.organisation)), encode(one.row)) for one in rows]


def _party(args: Any, rows: Any) -> list[Entry]:  # noqa: ANN401
    return [(membership.PARTIES_TABLE.key_of(_asked(one.id, args.party)), encode(one.row)) for one in rows]


def _summary(args: Any, rows: Any) -> list[Entry]:  # noqa: ANN401
    return [(relationships.SUMMARIES.key_of(args.pseudonym), encode(one)) for one in rows]


def _relation(args: Any, rows: Any) -> list[Entry]:  # noqa: ANN401
    return [(relationships.RELATIONS.key_of(args.pseudonym), encode(one)) for one in rows]


def _grants(args: Any, rows: Any) -> list[Entry]:  # noqa: ANN401
    return [
        (consent.GRANTS.key_of(_asked(one.pseudonym, args.pseudonym), one.grant_id), encode(one.grant)) for one in rows
    ]


def _anchor(args: Any, rows: Any) -> list[Entry]:  # noqa: ANN401
    """Versions have no gaps, so the absence of the next one makes this one the latest."""
    nothing_later = ((records.ANCHORS.key_of(args.pseudonym, args.record, one.version + 1), None) for one in rows)
    return [*_versions(args, rows), *nothing_later, *_erasures(args, rows)]


def _anchors(args: Any, rows: Any) -> list[Entry]:  # noqa: ANN401
    return [*_versions(args, rows), *_erasures(args, rows)]


def _versions(args: Any, rows: Any) -> list[Entry]:  # noqa: ANN401
    wanted = getattr(args, "record", None)
    return [
        (records.ANCHORS.key_of(args.pseudonym, _asked(one.record, wanted), one.version), encode(one.anchor))
        for one in rows
    ]


def _erasures(args: Any, rows: Any) -> list[Entry]:  # noqa: ANN401
    """Whether each record was erased: the same for all of its versions, or the rows contradict each other."""
    orders: dict[bytes, bytes | None] = {}
    for one in rows:
        order = _order(one.erased)
        if orders.setdefault(one.record, order) != order:
            raise NotProven("a record is shown as erased and as not erased")
    return [(records.ERASURES.key_of(args.pseudonym, record), order) for record, order in orders.items()]


def _order(order: records.ErasureRow | None) -> bytes | None:
    return None if order is None else encode(order)


def _erasure(args: Any, rows: Any) -> list[Entry]:  # noqa: ANN401
    """The order and each receipt shown. That no receipt is missing is not proven, and nobody gains by hiding one."""
    (line,) = rows
    order = (records.ERASURES.key_of(args.pseudonym, _asked(line.record, args.record)), encode(line.order))
    receipts = (
        (records.RECEIPTS.key_of(args.pseudonym, args.record, one.organisation), encode(one.receipt))
        for one in line.receipts
    )
    return [order, *receipts]


def _ticket(args: Any, rows: Any) -> list[Entry]:  # noqa: ANN401
    return [(access.TICKETS.key_of(_asked(one.id, args.ticket)), encode(one.row)) for one in rows]


def _log_head(args: Any, rows: Any) -> list[Entry]:  # noqa: ANN401
    key = access.LOG_HEADS.key_of(args.pseudonym)
    return [(key, None if one == access.EMPTY_LOG else encode(one)) for one in rows]


def _key(args: Any, rows: Any) -> list[Entry]:  # noqa: ANN401
    """The key of the epoch asked for; where none was, also that its epoch is the one in force."""
    (row,) = rows
    if args.epoch is not None and row.epoch != args.epoch:
        raise NotProven("a row is about something else than was asked")
    entries: list[Entry] = [(keys.KEYS.key_of(row.epoch), encode(row))]
    if args.epoch is None:
        entries.append((keys.CURRENT.key_of(0), encode(keys.CurrentRow(epoch=row.epoch))))
    return entries


def _recovery_policy(args: Any, rows: Any) -> list[Entry]:  # noqa: ANN401
    key = recovery.POLICIES.key_of(args.pseudonym)
    return [(key, None if one == recovery.NO_POLICY else encode(one)) for one in rows]


def _recoveries(args: Any, rows: Any) -> list[Entry]:  # noqa: ANN401
    return [(recovery.ATTEMPTS.key_of(args.pseudonym, one.number), encode(one.attempt)) for one in rows]


PROVABLE: Final[dict[str, Callable[[Any, Any], list[Entry]]]] = {
    "membership.member": _member,
    "membership.party": _party,
    "relationships.relation": _relation,
    "relationships.summary": _summary,
    "consent.grants": _grants,
    "records.anchor": _anchor,
    "records.erasure": _erasure,
    "records.history": _anchors,
    "records.timeline": _anchors,
    "access.ticket": _ticket,
    "keyring.key": _key,
    "access.log_head": _log_head,
    "recovery.policy": _recovery_policy,
    "recovery.pending": _recoveries,
}
"""The queries whose rows are state entries."""
ABOUT_ONE: Final = frozenset(
    {
        "membership.member",
        "membership.party",
        "relationships.relation",
        "relationships.summary",
        "records.anchor",
        "records.erasure",
        "access.ticket",
        "keyring.key",
        "access.log_head",
        "recovery.policy",
    }
)
"""Those of them whose answer is one row; where there is none, the node refuses instead."""
