"""Validators: whose nodes are let in, and whose consensus keys decide the order of blocks (LED-3, LED-4, LED-5).

Only ids and keys stand here, never an address: who holds the whole chain still cannot tell where anybody's node is.
"""

from collections.abc import Iterator
from typing import Annotated, Final, Protocol

from msgspec import Meta
from msgspec.structs import replace

from carechain.core.binding import Signature
from carechain.core.context import Ctx
from carechain.core.crypto import SMALL_ORDER, BadSignature, Suite, verify
from carechain.core.evidence import ADDRESS_SIZE, Address
from carechain.core.hashing import digest, tagged
from carechain.core.ids import U16, U32, U63, PartyId
from carechain.core.limits import CONSENSUS_KEYS_PER_ORGANISATION, MEMBERS, NODES_PER_ORGANISATION
from carechain.core.message import Event, Message, Row
from carechain.core.rejection import RejectionCode, present, require
from carechain.state.overlay import Overlay
from carechain.state.table import TableSpec

ConsensusKey = Annotated[bytes, Meta(min_length=32, max_length=32)]
"""An Ed25519 public key that signs votes on blocks."""
Seats = Annotated[int, Meta(ge=0, le=MEMBERS)]
NodeId = Address
"""How an engine names a node: the first 20 bytes of the SHA-256 of its Ed25519 key."""


# --- codes ----------------------------------------------------------------------------------------------


class ValidatorsCode(RejectionCode):
    """Why a node, a key or a seat is rejected."""

    NOT_A_CONSORTIUM = 1601, "The blocks of this network come from fixed producers. Found a consortium instead."
    NODE_TAKEN = 1602, "A node with this key is registered already."
    TOO_MANY_NODES = 1603, "Your organisation has as many nodes as it may have. Retire one first."
    NODE_PROOF_INVALID = 1604, "The node's key has not signed this registration. Use the key of the node itself."
    NODE_UNKNOWN = 1605, "Your organisation has no such node."
    KEY_UNUSABLE = 1606, "Anybody could sign for this key. Make a new one."
    KEY_TAKEN = 1607, "Another organisation has announced this key. Make a new one."
    TOO_MANY_KEYS = 1608, "Your organisation has announced as many consensus keys as it may in its life."
    KEY_PROOF_INVALID = 1609, "The consensus key has not signed this announcement. Use the key of the validator itself."
    NO_KEY_ANNOUNCED = 1610, "The organisation has announced no consensus key. Let it do so first."
    SEAT_UNCHANGED = 1611, "The organisation's seat is like that already."
    LAST_SEAT = 1612, "This is the last seat: without it there would be no more blocks. Seat another first."
    ROTATION_IMPOSSIBLE = 1613, "A rotation needs both a number of blocks and a number of seats, or neither."


# --- messages -------------------------------------------------------------------------------------------


class RegisterNode(Message, frozen=True, tag="validators.register_node"):
    """Let a node of the organisation connect to the others. ``proof`` is the node key's own signature.

    See :func:`node_message`: nobody else can register a node and so keep its owner out.
    """

    node_key: ConsensusKey
    proof: Signature


class RetireNode(Message, frozen=True, tag="validators.retire_node"):
    """Let a node of the organisation connect no longer."""

    node_id: NodeId


class AnnounceKey(Message, frozen=True, tag="validators.announce_key"):
    """Name the key that the organisation's validator votes with; ``proof`` is that key's own signature.

    See :func:`key_message`. A seated organisation keeps its seat and votes with the new key from then on.
    """

    consensus_key: ConsensusKey
    proof: Signature


# --- events ---------------------------------------------------------------------------------------------


class NodeRegistered(Event, frozen=True, tag="validators.node_registered"):
    """A node may connect."""

    organisation: PartyId
    node_id: NodeId


class NodeRetired(Event, frozen=True, tag="validators.node_retired"):
    """A node may connect no longer."""

    organisation: PartyId
    node_id: NodeId


class KeyAnnounced(Event, frozen=True, tag="validators.key_announced"):
    """An organisation's validator votes with this key."""

    organisation: PartyId
    consensus_key: ConsensusKey


class SeatChanged(Event, frozen=True, tag="validators.seat_changed"):
    """An organisation has a seat among those who decide the order of blocks, or no longer."""

    organisation: PartyId
    seated: bool


class RotationChanged(Event, frozen=True, tag="validators.rotation_changed"):
    """Seats take turns in another way."""

    every_blocks: U32
    active: Seats


# --- tables ---------------------------------------------------------------------------------------------


class Rotation(Row, frozen=True):
    """``active`` seats at a time, and the next ones after so many blocks. Both 0: all seats act all the time."""

    every_blocks: U32 = 0
    active: Seats = 0


class FounderSeat(Row, frozen=True):
    """A seat that the genesis gives to a founder."""

    member: PartyId
    consensus_key: ConsensusKey


class FounderNode(Row, frozen=True):
    """A node of a founder that the others let in from the first block on."""

    member: PartyId
    node_id: NodeId


class NodeRow(Row, frozen=True):
    """A node of an organisation."""

    registered_s: U63


class OwnerRow(Row, frozen=True):
    """The organisation that a node, or the address of a consensus key, belongs to."""

    organisation: PartyId


class ValidatorRow(Row, frozen=True):
    """An organisation's present consensus key. ``keys`` counts how many it has announced for the first time."""

    consensus_key: ConsensusKey
    seated: bool
    keys: U16 = 1


NODES: Final = TableSpec(
    name="validators.nodes",
    prefix=0x70,
    key=(32, ADDRESS_SIZE),
    row=NodeRow,
    note="organisation, node id → since when",
)
NODE_OWNERS: Final = TableSpec(
    name="validators.node_owners", prefix=0x71, key=(ADDRESS_SIZE,), row=OwnerRow, note="node id → organisation"
)
VALIDATORS: Final = TableSpec(
    name="validators.validators", prefix=0x72, key=(32,), row=ValidatorRow, note="organisation → consensus key, seat"
)
ADDRESSES: Final = TableSpec(
    name="validators.addresses",
    prefix=0x73,
    key=(ADDRESS_SIZE,),
    row=OwnerRow,
    note="address of a consensus key, present or past → organisation",
)
ROTATION: Final = TableSpec(
    name="validators.rotation", prefix=0x74, key=(1,), row=Rotation, note="how seats take turns; only in a consortium"
)


class Membership(Protocol):
    """What this contract needs from membership."""

    def is_member(self, organisation: bytes) -> bool:
        """Whether the organisation is a member now."""


class ValidatorsTables:
    """The tables of this contract, and what governance and sanctions may ask of it."""

    __slots__ = ("addresses", "node_owners", "nodes", "rotation", "validators")

    def __init__(self, state: Overlay) -> None:
        self.nodes = NODES.bind(state)
        self.node_owners = NODE_OWNERS.bind(state)
        self.validators = VALIDATORS.bind(state)
        self.addresses = ADDRESSES.bind(state)
        self.rotation = ROTATION.bind(state)

    def organisation_at(self, address: bytes) -> bytes | None:
        """See :func:`organisation_of`."""
        return organisation_of(self, address)

    def is_seated(self, organisation: bytes) -> bool:
        """Whether the organisation has a seat."""
        row = self.validators.get(organisation)
        return row is not None and row.seated

    def require_seat(self, organisation: bytes, *, seated: bool) -> ValidatorRow:
        """Refuse to give or take a seat where that cannot be done now."""
        require_consortium(self)
        row = present(self.validators.get(organisation), ValidatorsCode.NO_KEY_ANNOUNCED)
        require(row.seated is not seated, ValidatorsCode.SEAT_UNCHANGED)
        require(seated or not _is_last(self, organisation), ValidatorsCode.LAST_SEAT)
        return row

    def seat(self, ctx: Ctx, organisation: bytes, *, seated: bool) -> None:
        """Give or take a seat: called by governance once the vote has passed (LED-5)."""
        row = self.require_seat(organisation, seated=seated)
        self.validators.put(organisation, row=replace(row, seated=seated))
        ctx.emit(SeatChanged(organisation=organisation, seated=seated))

    def require_dispensable(self, organisation: bytes) -> None:
        """Refuse to go on without an organisation that holds the last seat."""
        require(not _is_last(self, organisation), ValidatorsCode.LAST_SEAT)

    def vacate(self, ctx: Ctx, organisation: bytes) -> None:
        """Take the seat of an organisation that is put out, if it has one: called by governance (ID-5)."""
        if self.is_seated(organisation):
            self.seat(ctx, organisation, seated=False)

    def strip(self, organisation: bytes) -> bool:
        """Take the seat of an offender, unless it is the last; says whether it lost one. Called by sanctions (LED-6).

        No event says so, because evidence comes with the block and not with a transaction: the sanction is the record.
        """
        row = self.validators.get(organisation)
        if row is None or not row.seated or _is_last(self, organisation):
            return False
        self.validators.put(organisation, row=replace(row, seated=False))
        return True

    def require_rotation(self, *, every_blocks: int, active: int) -> None:
        """Refuse a rotation that means nothing."""
        require_consortium(self)
        require(bool(every_blocks) == bool(active), ValidatorsCode.ROTATION_IMPOSSIBLE)

    def rotate(self, ctx: Ctx, *, every_blocks: int, active: int) -> None:
        """Let seats take turns in another way: called by governance once the vote has passed (LED-5)."""
        self.require_rotation(every_blocks=every_blocks, active=active)
        self.rotation.put(0, row=Rotation(every_blocks=every_blocks, active=active))
        ctx.emit(RotationChanged(every_blocks=every_blocks, active=active))


# --- predicates -----------------------------------------------------------------------------------------


def address_of(public_key: bytes) -> bytes:
    """The 20 bytes by which an engine names an Ed25519 key, of a validator or of a node."""
    return digest(public_key)[:ADDRESS_SIZE]


def key_message(*, chain_id: str, organisation: bytes, consensus_key: bytes) -> bytes:
    """The 32 bytes a consensus key signs to vote for ``organisation`` on this chain and for nobody else."""
    return tagged("carechain/consensus-key/1", chain_id.encode(), organisation, consensus_key)


def node_message(*, chain_id: str, organisation: bytes, node_key: bytes) -> bytes:
    """The 32 bytes a node's key signs to be a node of ``organisation`` on this chain and of nobody else."""
    return tagged("carechain/node-key/1", chain_id.encode(), organisation, node_key)


def node_owner(tables: ValidatorsTables, node_id: bytes) -> bytes | None:
    """The organisation that registered this node."""
    row = tables.node_owners.get(node_id)
    return None if row is None else row.organisation


def organisation_of(tables: ValidatorsTables, address: bytes) -> bytes | None:
    """The organisation that has, or once had, the consensus key with this address (20 bytes)."""
    row = tables.addresses.get(address)
    return None if row is None else row.organisation


def admits(tables: ValidatorsTables, membership: Membership, node_id: bytes) -> bool:
    """Whether a node may connect: a live member registered it. Nobody else's node is let in."""
    owner = node_owner(tables, node_id)
    return owner is not None and membership.is_member(owner)


def active(tables: ValidatorsTables, height: int) -> tuple[bytes, ...]:
    """The consensus keys that should decide the order of the block at ``height``, sorted; each has one vote.

    Follows from the state and the height alone and writes nothing: a turn of the rotation is no change of the state.
    Empty where blocks come from fixed producers.
    """
    seats = [row.consensus_key for _, row in tables.validators.scan() if row.seated]
    return tuple(sorted(_acting(seats, tables.rotation.get(0) or Rotation(), height)))


def founding_keys(seats: tuple[FounderSeat, ...], rotation: Rotation) -> tuple[bytes, ...]:
    """What :func:`active` gives at height 0, from the genesis alone: the validators an engine starts with."""
    keys = {seat.member: seat.consensus_key for seat in seats}
    return tuple(sorted(_acting([keys[member] for member in sorted(keys)], rotation, 0)))


def require_consortium(tables: ValidatorsTables) -> None:
    """Refuse in a network whose blocks come from fixed producers."""
    require(tables.rotation.has(0), ValidatorsCode.NOT_A_CONSORTIUM)


def _acting(seats: list[bytes], rotation: Rotation, height: int) -> list[bytes]:
    """The window of seats, in the order of their organisations, whose turn it is at ``height``."""
    if not rotation.every_blocks or not 0 < rotation.active < len(seats):
        return seats
    first = height // rotation.every_blocks % len(seats)
    return [seats[(first + place) % len(seats)] for place in range(rotation.active)]


def _is_last(tables: ValidatorsTables, organisation: bytes) -> bool:
    """Whether the organisation has a seat and nobody else has."""
    return tables.is_seated(organisation) and sum(1 for _, row in tables.validators.scan() if row.seated) == 1


def _is_signed(public_key: bytes, signature: bytes, message: bytes) -> bool:
    try:
        verify(suite=Suite.ED25519, public_key=public_key, signature=signature, message=message)
    except BadSignature:
        return False
    return True


# --- handlers -------------------------------------------------------------------------------------------


def register_node(ctx: Ctx, tables: ValidatorsTables, msg: RegisterNode) -> None:
    """Let a node connect."""
    organisation = ctx.party.organisation
    require_consortium(tables)
    _require_room(tables, organisation, address_of(msg.node_key))
    wanted = node_message(chain_id=ctx.chain_id, organisation=organisation, node_key=msg.node_key)
    require(_is_signed(msg.node_key, msg.proof, wanted), ValidatorsCode.NODE_PROOF_INVALID)
    node_id = address_of(msg.node_key)
    _put_node(tables, organisation, node_id, ctx.time_s)
    ctx.emit(NodeRegistered(organisation=organisation, node_id=node_id))


def retire_node(ctx: Ctx, tables: ValidatorsTables, msg: RetireNode) -> None:
    """Let a node connect no longer. Another's node and no node at all are refused alike."""
    organisation = ctx.party.organisation
    require(tables.nodes.has(organisation, msg.node_id), ValidatorsCode.NODE_UNKNOWN)
    tables.nodes.delete(organisation, msg.node_id)
    tables.node_owners.delete(msg.node_id)
    ctx.emit(NodeRetired(organisation=organisation, node_id=msg.node_id))


def announce_key(ctx: Ctx, tables: ValidatorsTables, msg: AnnounceKey) -> None:
    """Name the organisation's consensus key. It gives no seat: only a vote does."""
    organisation = ctx.party.organisation
    require_consortium(tables)
    _require_free(tables, organisation, msg.consensus_key)
    wanted = key_message(chain_id=ctx.chain_id, organisation=organisation, consensus_key=msg.consensus_key)
    require(_is_signed(msg.consensus_key, msg.proof, wanted), ValidatorsCode.KEY_PROOF_INVALID)
    _put_key(tables, organisation, msg.consensus_key)
    ctx.emit(KeyAnnounced(organisation=organisation, consensus_key=msg.consensus_key))


def _require_room(tables: ValidatorsTables, organisation: bytes, node_id: bytes) -> None:
    require(not tables.node_owners.has(node_id), ValidatorsCode.NODE_TAKEN)
    nodes = sum(1 for _ in tables.nodes.scan(organisation))
    require(nodes < NODES_PER_ORGANISATION, ValidatorsCode.TOO_MANY_NODES)


def _put_node(tables: ValidatorsTables, organisation: bytes, node_id: bytes, time_s: int) -> None:
    tables.nodes.put(organisation, node_id, row=NodeRow(registered_s=time_s))
    tables.node_owners.put(node_id, row=OwnerRow(organisation=organisation))


def _require_free(tables: ValidatorsTables, organisation: bytes, consensus_key: bytes) -> None:
    small = consensus_key[:-1] + bytes([consensus_key[-1] & 0x7F])
    require(small not in SMALL_ORDER, ValidatorsCode.KEY_UNUSABLE)
    owner = tables.organisation_at(address_of(consensus_key))
    require(owner is None or owner == organisation, ValidatorsCode.KEY_TAKEN)
    row = tables.validators.get(organisation)
    room = owner is not None or row is None or row.keys < CONSENSUS_KEYS_PER_ORGANISATION
    require(room, ValidatorsCode.TOO_MANY_KEYS)


def _put_key(tables: ValidatorsTables, organisation: bytes, consensus_key: bytes) -> None:
    address = address_of(consensus_key)
    new = not tables.addresses.has(address)
    row = tables.validators.get(organisation)
    seated, keys = (False, 0) if row is None else (row.seated, row.keys)
    tables.addresses.put(address, row=OwnerRow(organisation=organisation))
    tables.validators.put(organisation, row=ValidatorRow(consensus_key=consensus_key, seated=seated, keys=keys + new))


# --- invariants -----------------------------------------------------------------------------------------


def check_state(tables: ValidatorsTables, membership: Membership) -> list[str]:
    """Nodes and owners name each other, every key's address names its organisation, and somebody makes the blocks."""
    broken = [
        f"node {node_id.hex()} is not its organisation's"
        for (organisation, node_id), _ in tables.nodes.scan()
        if node_owner(tables, node_id) != organisation
    ]
    broken.extend(
        f"node {node_id.hex()} has an owner that does not list it"
        for (node_id,), row in tables.node_owners.scan()
        if not tables.nodes.has(row.organisation, node_id)
    )
    seats = 0
    for (organisation,), row in tables.validators.scan():
        if tables.organisation_at(address_of(row.consensus_key)) != organisation:
            broken.append(f"the consensus key of {organisation.hex()} is somebody else's")
        if row.seated and not membership.is_member(organisation):
            broken.append(f"{organisation.hex()} has a seat and is no member")
        seats += row.seated
    if tables.rotation.has(0) != bool(seats):
        broken.append("a consortium has no seat, or a network that is none has one")
    return broken


# --- genesis --------------------------------------------------------------------------------------------


def genesis(
    tables: ValidatorsTables,
    *,
    seats: tuple[FounderSeat, ...],
    nodes: tuple[FounderNode, ...],
    rotation: Rotation,
    time_s: int,
) -> None:
    """The founders' seats and nodes. Raises ``Rejected`` where two share a key, or the rotation means nothing."""
    tables.rotation.put(0, row=rotation)
    tables.require_rotation(every_blocks=rotation.every_blocks, active=rotation.active)
    for seat in seats:
        require(not tables.validators.has(seat.member), ValidatorsCode.SEAT_UNCHANGED)
        _require_free(tables, seat.member, seat.consensus_key)
        _put_key(tables, seat.member, seat.consensus_key)
        row = present(tables.validators.get(seat.member), ValidatorsCode.NO_KEY_ANNOUNCED)
        tables.validators.put(seat.member, row=replace(row, seated=True))
    for node in nodes:
        _require_room(tables, node.member, node.node_id)
        _put_node(tables, node.member, node.node_id, time_s)


# --- queries --------------------------------------------------------------------------------------------


def validators(tables: ValidatorsTables) -> Iterator[tuple[bytes, ValidatorRow]]:
    """Every organisation that has announced a consensus key, seated or not."""
    for (organisation,), row in tables.validators.scan():
        yield organisation, row


def nodes_of(tables: ValidatorsTables, organisation: bytes) -> Iterator[tuple[bytes, NodeRow]]:
    """The nodes of one organisation."""
    for (_, node_id), row in tables.nodes.scan(organisation):
        yield node_id, row
