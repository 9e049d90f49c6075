"""Genesis: what a network starts from. Every node must be given the same file; its hash begins the chain."""

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from carechain.chain.replay import REPLAY
from carechain.chain.routing import CONTRACT_TABLES, Contracts
from carechain.contracts import governance, membership, recovery, upgrades, validators
from carechain.contracts.consent import views
from carechain.contracts.consent.schema import TreatmentPolicy
from carechain.contracts.governance import Quorum
from carechain.contracts.recovery import RecoveryRules
from carechain.contracts.upgrades import ContractVersion
from carechain.contracts.validators import FounderNode, FounderSeat, Rotation
from carechain.core.codec import encode
from carechain.core.hashing import tagged
from carechain.core.ids import U63, Hash, PartyId, party_id
from carechain.core.limits import CHAIN_ID_CHARS, CONSORTIUM_ID_BYTES, MEMBERS, NODES_PER_ORGANISATION
from carechain.core.message import Row
from carechain.core.organisation import NewMember
from carechain.core.rejection import Rejected
from carechain.core.suite import Institution
from carechain.state.overlay import Overlay
from carechain.state.table import TableSpec


class Genesis(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The founding members, who makes blocks, the treatment policy, the quorum and the contracts' versions.

    Either ``producers`` sign blocks, each alone (PoA); or the network is a consortium, whose ``validators`` decide the
    order of blocks together. Then ``nodes`` are let in from the start, and ``rotation`` says how seats take turns.
    ``suite`` says what the institutions sign, hash and encrypt with (1: international, 2: SM), for good.
    """

    chain_id: Annotated[str, Meta(min_length=1, max_length=CHAIN_ID_CHARS)]
    time_s: U63
    members: Annotated[tuple[NewMember, ...], Meta(min_length=1, max_length=MEMBERS)]
    producers: Annotated[tuple[PartyId, ...], Meta(max_length=MEMBERS)] = ()
    policy: TreatmentPolicy = TreatmentPolicy()
    quorum: Quorum = Quorum()
    validators: Annotated[tuple[FounderSeat, ...], Meta(max_length=MEMBERS)] = ()
    nodes: Annotated[tuple[FounderNode, ...], Meta(max_length=MEMBERS * NODES_PER_ORGANISATION)] = ()
    rotation: Rotation = Rotation()
    versions: Annotated[tuple[ContractVersion, ...], Meta(max_length=0xFF)] = ()
    suite: Institution = Institution.INTERNATIONAL
    recovery: RecoveryRules = RecoveryRules()

    @property
    def is_consortium(self) -> bool:
        """Whether validators decide the order of blocks together, on an external engine."""
        return bool(self.validators)


class ChainRow(Row, frozen=True):
    """Which chain this state belongs to."""

    chain_id: str
    genesis: Hash


CHAIN: Final = TableSpec(name="chain.identity", prefix=0x01, key=(1,), row=ChainRow, note="the chain this state is of")
TABLES: Final[tuple[TableSpec[Any], ...]] = (CHAIN, REPLAY, *CONTRACT_TABLES)


class BadGenesis(Exception):  # noqa: N818 - describes the file
    """The genesis file cannot start a network."""


def read(data: bytes) -> Genesis:
    """Decode a genesis file (JSON, byte strings in base64); raises :class:`BadGenesis`."""
    try:
        return msgspec.json.decode(data, type=Genesis)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadGenesis(f"not a genesis file: {error}") from None


def write(genesis: Genesis) -> bytes:
    """The genesis file's bytes, indented for people to compare."""
    return msgspec.json.format(msgspec.json.encode(genesis), indent=2) + b"\n"


def genesis_hash(genesis: Genesis) -> bytes:
    """What the first block's header names as its predecessor."""
    return tagged("carechain/genesis/1", encode(genesis))


def apply_genesis(state: Overlay, genesis: Genesis) -> None:
    """Write the founding state; raises :class:`BadGenesis` when the file contradicts itself."""
    _require_sound(genesis)
    contracts = Contracts(state)
    try:
        membership.genesis(contracts.membership, genesis.members, genesis.producers, genesis.time_s, genesis.suite)
    except Rejected as refused:
        raise BadGenesis(f"a member is not acceptable: {refused.code.reason}") from None
    if genesis.is_consortium:
        try:
            validators.genesis(
                contracts.validators,
                seats=genesis.validators,
                nodes=genesis.nodes,
                rotation=genesis.rotation,
                time_s=genesis.time_s,
            )
        except Rejected as refused:
            raise BadGenesis(f"a seat, a node or the rotation is not acceptable: {refused.code.reason}") from None
    views.genesis(contracts.consent.tables, genesis.policy)
    governance.genesis(contracts.governance, genesis.quorum)
    upgrades.genesis(contracts.upgrades, genesis.versions)
    try:
        recovery.genesis(contracts.recovery, genesis.recovery)
    except Rejected as refused:
        raise BadGenesis(f"the waiting times of recovery are not acceptable: {refused.code.reason}") from None
    CHAIN.bind(state).put(0, row=ChainRow(chain_id=genesis.chain_id, genesis=genesis_hash(genesis)))


def _require_sound(genesis: Genesis) -> None:
    founders = [party_id(new.suite, new.public_key) for new in genesis.members]
    seated, connected = (one.member for one in genesis.validators), (one.member for one in genesis.nodes)
    if not all(one in founders for one in (*genesis.producers, *seated, *connected)):
        raise BadGenesis("a block producer, a validator or a node is not one of the members'")
    if bool(genesis.producers) == genesis.is_consortium:
        raise BadGenesis("blocks come either from producers or from validators: name the one or the other")
    if genesis.is_consortium and len(genesis.chain_id.encode()) > CONSORTIUM_ID_BYTES:
        raise BadGenesis(f"the name of a network with validators has at most {CONSORTIUM_ID_BYTES} bytes of UTF-8")
    if not genesis.is_consortium and (genesis.nodes or genesis.rotation != Rotation()):
        raise BadGenesis("nodes and a rotation belong to a network with validators")
    if genesis.quorum.numerator > genesis.quorum.denominator:
        raise BadGenesis("the quorum asks for more votes than there are members")
    if len({one.contract for one in genesis.versions}) != len(genesis.versions):
        raise BadGenesis("a contract has two versions")
