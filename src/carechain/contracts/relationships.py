"""Relationships: an existing id at one organisation is bound to a pseudonym there (ID-3, ID-8, REC-6).

The ledger sees a keyed hash that only the registrar can compute, a pseudonym that only the patient's wallet
can derive, and a summary that only the wallet can open. Two relationships of one person share nothing.
"""

from collections.abc import Iterator
from typing import Annotated, Final, Protocol

from msgspec import Meta
from msgspec.structs import replace

from carechain.core.binding import Signature, binding_message
from carechain.core.context import Ctx
from carechain.core.crypto import BadSignature, verify
from carechain.core.ids import U8, U32, U63, Hash, PartyId, party_id
from carechain.core.limits import QUERY_PAGE_ROWS, SUMMARY_BUCKET_BYTES, SUMMARY_SIZE_BYTES
from carechain.core.message import Event, Message, Row
from carechain.core.party import HpkeKey, Party, PublicKey
from carechain.core.rejection import RejectionCode, present, require
from carechain.core.vocabulary import PartyKind, Role, mask
from carechain.state.overlay import Overlay
from carechain.state.table import TableSpec

# --- codes ----------------------------------------------------------------------------------------------


class RelationshipsCode(RejectionCode):
    """Why a relationship is refused."""

    NOT_A_REGISTRAR = 301, "Your organisation is not a certified registrar. Ask the consortium to certify it."
    PROOF_INVALID = 302, "The wallet's proof does not fit this organisation, id hash and keys. Make a new one."
    ID_ALREADY_BOUND = 303, "This id is bound to another pseudonym here. Use the recovery procedure."
    PSEUDONYM_EXISTS = 304, "This pseudonym is in use. Derive another one from the wallet."
    SENDER_NOT_PATIENT = 305, "Only the patient may do this, with this pseudonym's own key."
    SUMMARY_SIZE = 306, "A sealed summary is padded to a multiple of 1 KiB and at most 16 KiB."
    RELATION_CLOSED = 307, "The relationship has been closed by the patient."
    RELATION_UNKNOWN = 308, "No such relationship."
    PROOF_USED = (
        309,
        "The proof has another number than this relationship asks for. Read its number and sign a new one.",
    )


# --- messages -------------------------------------------------------------------------------------------

SealedSummary = Annotated[bytes, Meta(min_length=1, max_length=SUMMARY_SIZE_BYTES)]


class Bind(Message, frozen=True, tag="relationships.bind"):
    """Bind an existing id to a pseudonym: sent by the registrar, proved by the patient's wallet.

    ``id_hash`` is keyed with a secret of this registrar (HMAC-SHA256), so the same id elsewhere differs. ``number`` is
    the relation's ``proofs_used``, 0 where there is no relation yet: a proof opens a relation once.
    """

    id_hash: Hash
    suite: U8
    public_key: PublicKey
    hpke_key: HpkeKey
    proof: Signature
    number: U32 = 0


class PutSummary(Message, frozen=True, tag="relationships.put_summary"):
    """Store the patient's sealed summary of all relationships under one of them (REC-6)."""

    pseudonym: PartyId
    sealed: SealedSummary


class Leave(Message, frozen=True, tag="relationships.leave"):
    """Close the relationship: no new records are accepted until the patient binds it again."""

    pseudonym: PartyId


# --- events ---------------------------------------------------------------------------------------------


class Bound(Event, frozen=True, tag="relationships.bound"):
    """A pseudonym exists at an organisation."""

    organisation: PartyId
    pseudonym: PartyId


class SummaryStored(Event, frozen=True, tag="relationships.summary_stored"):
    """A sealed summary was replaced."""

    pseudonym: PartyId


class Left(Event, frozen=True, tag="relationships.left"):
    """The patient closed a relationship."""

    pseudonym: PartyId


# --- tables ---------------------------------------------------------------------------------------------


class BindingRow(Row, frozen=True):
    """An existing id at an organisation."""

    pseudonym: PartyId
    bound_s: U63


class RelationRow(Row, frozen=True):
    """From the pseudonym back to its binding. ``left_s`` is 0 while the relationship is open.

    ``proofs_used`` counts the bindings made, and the next proof carries it. So a registrar that keeps a proof cannot
    use it again after the patient has left.
    """

    id_hash: Hash
    left_s: U63 = 0
    proofs_used: U32 = 1


class SummaryRow(Row, frozen=True):
    """A patient's sealed summary: only the wallet opens it."""

    sealed: SealedSummary
    updated_s: U63


BINDINGS: Final = TableSpec(
    name="relationships.bindings", prefix=0x20, key=(32, 32), row=BindingRow, note="organisation, id hash → pseudonym"
)
RELATIONS: Final = TableSpec(
    name="relationships.relations", prefix=0x21, key=(32,), row=RelationRow, note="pseudonym → id hash"
)
SUMMARIES: Final = TableSpec(
    name="relationships.summaries", prefix=0x22, key=(32,), row=SummaryRow, note="pseudonym → sealed summary"
)


class RelationshipsTables:
    """The tables of this contract."""

    __slots__ = ("bindings", "relations", "summaries")

    def __init__(self, state: Overlay) -> None:
        self.bindings = BINDINGS.bind(state)
        self.relations = RELATIONS.bind(state)
        self.summaries = SUMMARIES.bind(state)

    def is_open(self, pseudonym: bytes) -> bool:
        """Whether the patient still wants records added to this relationship."""
        relation = self.relations.get(pseudonym)
        return relation is not None and not relation.left_s

    def proofs_used(self, pseudonym: bytes) -> int:
        """How many binding proofs of the pseudonym were used: the number of the next one."""
        relation = self.relations.get(pseudonym)
        return relation.proofs_used if relation is not None else 0


class Membership(Protocol):
    """What this contract needs from membership."""

    def party(self, party: bytes) -> Party | None:
        """The party with this id."""

    def put_party(self, party: bytes, row: Party) -> None:
        """Add or replace a party."""

    def key_taken(self, key_id: bytes) -> bool:
        """Whether a key is, or once was, some party's."""

    def is_registrar(self, organisation: bytes) -> bool:
        """Whether the organisation may bind existing ids now."""


# --- predicates -----------------------------------------------------------------------------------------


def proof_holds(ctx: Ctx, organisation: bytes, msg: Bind) -> bool:
    """Whether the wallet signed exactly this binding."""
    wanted = binding_message(
        chain_id=ctx.chain_id,
        organisation=organisation,
        id_hash=msg.id_hash,
        suite=msg.suite,
        public_key=msg.public_key,
        hpke_key=msg.hpke_key,
        number=msg.number,
    )
    try:
        verify(suite=msg.suite, public_key=msg.public_key, signature=msg.proof, message=wanted)
    except BadSignature:
        return False
    return True


# --- handlers -------------------------------------------------------------------------------------------


def bind(ctx: Ctx, tables: RelationshipsTables, membership: Membership, msg: Bind) -> None:
    """Create a relationship, or open the same one again after the patient had left (REC-6).

    A pseudonym keeps its id when its key is changed or recovered, and then only the present key opens it again.
    """
    organisation = ctx.party.organisation
    require(membership.is_registrar(organisation), RelationshipsCode.NOT_A_REGISTRAR)
    require(proof_holds(ctx, organisation, msg), RelationshipsCode.PROOF_INVALID)
    binding = tables.bindings.get(organisation, msg.id_hash)
    pseudonym = party_id(msg.suite, msg.public_key) if binding is None else binding.pseudonym
    used = tables.proofs_used(pseudonym)
    opened = RelationRow(id_hash=msg.id_hash, proofs_used=used + 1)
    if binding is not None:
        known = present(membership.party(pseudonym), RelationshipsCode.RELATION_UNKNOWN)
        same_patient = (known.suite, known.public_key) == (msg.suite, msg.public_key)
        require(same_patient and not tables.is_open(pseudonym), RelationshipsCode.ID_ALREADY_BOUND)
        require(msg.number == used, RelationshipsCode.PROOF_USED)
        tables.relations.put(pseudonym, row=opened)
        membership.put_party(pseudonym, replace(known, hpke_key=msg.hpke_key))
    else:
        require(not membership.key_taken(pseudonym), RelationshipsCode.PSEUDONYM_EXISTS)
        require(msg.number == used, RelationshipsCode.PROOF_USED)
        tables.bindings.put(organisation, msg.id_hash, row=BindingRow(pseudonym=pseudonym, bound_s=ctx.time_s))
        tables.relations.put(pseudonym, row=opened)
        membership.put_party(
            pseudonym,
            Party(
                kind=PartyKind.PSEUDONYM,
                suite=msg.suite,
                public_key=msg.public_key,
                hpke_key=msg.hpke_key,
                organisation=organisation,
                roles=mask(Role.PATIENT),
                valid_from_s=0,
            ),
        )
    ctx.emit(Bound(organisation=organisation, pseudonym=pseudonym))


def put_summary(ctx: Ctx, tables: RelationshipsTables, msg: PutSummary) -> None:
    """Replace the sealed summary. Its size is rounded up so that it does not count the relationships."""
    require(ctx.sender == msg.pseudonym, RelationshipsCode.SENDER_NOT_PATIENT)
    require(len(msg.sealed) % SUMMARY_BUCKET_BYTES == 0, RelationshipsCode.SUMMARY_SIZE)
    tables.summaries.put(msg.pseudonym, row=SummaryRow(sealed=msg.sealed, updated_s=ctx.time_s))
    ctx.emit(SummaryStored(pseudonym=msg.pseudonym))


def leave(ctx: Ctx, tables: RelationshipsTables, msg: Leave) -> None:
    """Close a relationship; consents, records and the log stay readable to the patient."""
    require(ctx.sender == msg.pseudonym, RelationshipsCode.SENDER_NOT_PATIENT)
    relation = present(tables.relations.get(msg.pseudonym), RelationshipsCode.RELATION_UNKNOWN)
    require(not relation.left_s, RelationshipsCode.RELATION_CLOSED)
    tables.relations.put(msg.pseudonym, row=replace(relation, left_s=ctx.time_s))
    ctx.emit(Left(pseudonym=msg.pseudonym))


# --- invariants -----------------------------------------------------------------------------------------


def check_state(tables: RelationshipsTables, membership: Membership) -> list[str]:
    """One pseudonym per id and organisation, and each pseudonym is a party of that organisation."""
    broken: list[str] = []
    for (organisation, id_hash), binding in tables.bindings.scan():
        party = membership.party(binding.pseudonym)
        if party is None or party.kind is not PartyKind.PSEUDONYM or party.organisation != organisation:
            broken.append(f"pseudonym {binding.pseudonym.hex()} is not a party of its organisation")
        relation = tables.relations.get(binding.pseudonym)
        if relation is None or relation.id_hash != id_hash:
            broken.append(f"pseudonym {binding.pseudonym.hex()} does not lead back to its binding")
        elif not relation.proofs_used:
            broken.append(f"pseudonym {binding.pseudonym.hex()} was bound without a proof")
    return broken


# --- queries --------------------------------------------------------------------------------------------


def patients_of(
    tables: RelationshipsTables, organisation: bytes, after: bytes | None = None
) -> Iterator[tuple[bytes, BindingRow, int]]:
    """A page of the pseudonyms bound at the organisation by id hash, and when each left (0: it has not)."""
    start = None if after is None else (organisation, after)
    for (_, id_hash), binding in tables.bindings.scan(organisation, after=start, limit=QUERY_PAGE_ROWS):
        relation = tables.relations.get(binding.pseudonym)
        yield id_hash, binding, relation.left_s if relation else 0


def relation_of(tables: RelationshipsTables, pseudonym: bytes) -> RelationRow | None:
    """The relationship: whether it is open, and the number of the next binding proof."""
    return tables.relations.get(pseudonym)


def summary_of(tables: RelationshipsTables, pseudonym: bytes) -> SummaryRow | None:
    """The patient's sealed summary."""
    return tables.summaries.get(pseudonym)
