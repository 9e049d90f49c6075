"""Governance: votes on members, validators and upgrades, and agreements between organisations (ID-5, LED-5, LED-11)."""

from collections.abc import Iterator
from enum import IntEnum
from typing import Annotated, Final, Protocol

from msgspec import Meta, Struct
from msgspec.structs import replace

from carechain.core.context import Ctx
from carechain.core.ids import U8, U32, U63, Hash, PartyId, ProposalId
from carechain.core.keyholders import SetKeyholders
from carechain.core.limits import (
    AGREEMENT_LIFETIME_S,
    MEMBERS,
    OPEN_PROPOSALS,
    PROPOSAL_LIFETIME_S,
    PROPOSALS_PER_ORGANISATION,
)
from carechain.core.message import Event, Message, Row
from carechain.core.organisation import NewMember
from carechain.core.rejection import RejectionCode, present, require
from carechain.state.overlay import Overlay
from carechain.state.table import TableSpec

# --- codes ----------------------------------------------------------------------------------------------


class GovernanceCode(RejectionCode):
    """Why a vote or an agreement is rejected."""

    PROPOSAL_NOT_FOUND = 701, "No such proposal."
    PROPOSAL_CLOSED = 702, "The vote on this proposal is over."
    ALREADY_VOTED = 703, "Your organisation has voted on this proposal."
    TOO_MANY_PROPOSALS = 704, "Too many proposals are open, or without success within 30 days. Vote on those first."
    TARGET_UNKNOWN = 705, "The proposal names no member."
    AGREEMENT_WITH_SELF = 706, "An agreement is between two organisations."
    AGREEMENT_NOT_OFFERED = 707, "The other organisation has not offered these terms."
    AGREEMENT_UNKNOWN = 708, "There is no such agreement."
    EXPIRY_NOT_IN_FUTURE = 709, "The expiry is not after the ledger's time."
    EXPIRY_TOO_FAR = 710, "An agreement lasts at most ten years."
    PRODUCER_STAYS = 711, "This organisation produces the blocks and cannot be removed. Found a network without it."
    AGREEMENT_IN_FORCE = 712, "An agreement is in force between the two. End it before new terms are offered."
    NOT_THE_PROPOSER = 713, "Only the organisation that made the proposal may take it back."


# --- messages -------------------------------------------------------------------------------------------


class AdmitMember(Row, frozen=True, tag="admit_member"):
    """Take an organisation in."""

    new: NewMember


class RemoveMember(Row, frozen=True, tag="remove_member"):
    """Put an organisation out."""

    member: PartyId


class CertifyRegistrar(Row, frozen=True, tag="certify_registrar"):
    """Let an organisation bind existing ids, or no longer (ID-3)."""

    member: PartyId
    registrar: bool


class SeatValidator(Row, frozen=True, tag="seat_validator"):
    """Give an organisation a seat among those who decide the order of blocks, or take it (LED-5)."""

    member: PartyId
    seated: bool


class SetRotation(Row, frozen=True, tag="set_rotation"):
    """Let ``active`` seats act at a time, and the next ones after so many blocks; both 0: all act (LED-5)."""

    every_blocks: U32
    active: Annotated[int, Meta(ge=0, le=MEMBERS)]


class Upgrade(Row, frozen=True, tag="upgrade"):
    """Run the next version of a contract, given by its number, from a height on (LED-11)."""

    contract: U8
    version: Annotated[int, Meta(ge=1, le=0xFFFF)]
    height: U63


Change = AdmitMember | RemoveMember | CertifyRegistrar | SeatValidator | SetRotation | Upgrade | SetKeyholders


class Propose(Message, frozen=True, tag="governance.propose"):
    """Propose a change; the proposer's organisation votes yes with it."""

    change: Change


class Vote(Message, frozen=True, tag="governance.vote"):
    """One organisation's vote. The change happens in the block where the quorum is reached."""

    proposal: ProposalId
    aye: bool


class WithdrawProposal(Message, frozen=True, tag="governance.withdraw_proposal"):
    """Take a proposal back while the vote on it is open. In force from version 2 of this contract on."""

    proposal: ProposalId


class OfferAgreement(Message, frozen=True, tag="governance.offer_agreement"):
    """Offer a business associate agreement: the digest of its terms, which stay off the ledger."""

    other: PartyId
    terms: Hash
    expires_s: U63


class AcceptAgreement(Message, frozen=True, tag="governance.accept_agreement"):
    """Accept exactly the terms that the other organisation offered."""

    other: PartyId
    terms: Hash


class EndAgreement(Message, frozen=True, tag="governance.end_agreement"):
    """End an agreement, or withdraw an offer."""

    other: PartyId


# --- events ---------------------------------------------------------------------------------------------


class Proposed(Event, frozen=True, tag="governance.proposed"):
    """A vote is open."""

    proposal: ProposalId
    by: PartyId


class Closed(Event, frozen=True, tag="governance.closed"):
    """A vote is over."""

    proposal: ProposalId
    passed: bool


class ProposalWithdrawn(Event, frozen=True, tag="governance.proposal_withdrawn"):
    """A vote is over, because the proposer's organisation took the proposal back."""

    proposal: ProposalId


class AgreementMade(Event, frozen=True, tag="governance.agreement_made"):
    """Two organisations agreed."""

    one: PartyId
    other: PartyId


class AgreementEnded(Event, frozen=True, tag="governance.agreement_ended"):
    """An agreement or an offer ended."""

    one: PartyId
    other: PartyId


# --- tables ---------------------------------------------------------------------------------------------


class Standing(IntEnum):
    """Where a proposal is. Data: see ``PROPOSAL_TRANSITIONS``."""

    OPEN = 1
    PASSED = 2
    FAILED = 3
    WITHDRAWN = 4


PROPOSAL_TRANSITIONS: Final = (
    ("open", "governance.vote", "passed"),
    ("open", "governance.vote", "failed"),
    ("open", "governance.withdraw_proposal", "withdrawn"),
    ("open", "the ledger's time", "expired"),
)
"""The life of a proposal."""


class Quorum(Row, frozen=True):
    """The share of live members whose yes passes a change: at least ``numerator / denominator``."""

    numerator: Annotated[int, Meta(ge=1, le=100)] = 2
    denominator: Annotated[int, Meta(ge=1, le=100)] = 3


class ProposalRow(Row, frozen=True):
    """A proposal and the organisations that have voted."""

    change: Change
    proposer: PartyId
    closes_s: U63
    standing: Standing
    ayes: Annotated[tuple[PartyId, ...], Meta(max_length=MEMBERS)]
    noes: Annotated[tuple[PartyId, ...], Meta(max_length=MEMBERS)]


class AgreementRow(Row, frozen=True):
    """An agreement between two organisations, keyed with the smaller id first. ``accepted_s`` 0: only offered."""

    offered_by: PartyId
    terms: Hash
    offered_s: U63
    expires_s: U63
    accepted_s: U63 = 0


QUORUM: Final = TableSpec(name="governance.quorum", prefix=0x60, key=(1,), row=Quorum, note="the share that passes")
PROPOSALS: Final = TableSpec(
    name="governance.proposals", prefix=0x61, key=(32,), row=ProposalRow, note="proposal → votes"
)
AGREEMENTS: Final = TableSpec(
    name="governance.agreements", prefix=0x62, key=(32, 32), row=AgreementRow, note="two organisations → agreement"
)


class GovernanceTables:
    """The tables of this contract, and what consent may ask of it."""

    __slots__ = ("agreements", "proposals", "quorum_table")

    def __init__(self, state: Overlay) -> None:
        self.quorum_table = QUORUM.bind(state)
        self.proposals = PROPOSALS.bind(state)
        self.agreements = AGREEMENTS.bind(state)

    def in_force(self, one: bytes, other: bytes, time_s: int) -> bool:
        """Whether a business associate agreement stands between two organisations."""
        row = self.agreements.get(*_pair(one, other))
        return row is not None and bool(row.accepted_s) and time_s < row.expires_s


class Membership(Protocol):
    """What this contract needs from membership."""

    def live_members(self) -> Iterator[tuple[bytes, object]]:
        """Every organisation that is a member now."""

    def is_member(self, organisation: bytes) -> bool:
        """Whether the organisation is a member now."""

    def is_producer(self, organisation: bytes) -> bool:
        """Whether the organisation produces blocks."""

    def require_admissible(self, new: NewMember, time_s: int) -> None:
        """Refuse a candidate that could not be admitted now."""

    def admit(self, ctx: Ctx, new: NewMember) -> None:
        """Take an organisation in."""

    def remove(self, ctx: Ctx, organisation: bytes) -> None:
        """Put an organisation out."""

    def certify_registrar(self, organisation: bytes, *, registrar: bool) -> None:
        """Change whether an organisation may bind existing ids."""


class Validators(Protocol):
    """What this contract needs from validators."""

    def require_seat(self, organisation: bytes, *, seated: bool) -> object:
        """Refuse to give or take a seat where that cannot be done now."""

    def seat(self, ctx: Ctx, organisation: bytes, *, seated: bool) -> None:
        """Give or take a seat."""

    def require_dispensable(self, organisation: bytes) -> None:
        """Refuse to go on without an organisation that holds the last seat."""

    def vacate(self, ctx: Ctx, organisation: bytes) -> None:
        """Take the seat of an organisation, if it has one."""

    def require_rotation(self, *, every_blocks: int, active: int) -> None:
        """Refuse a rotation that means nothing."""

    def rotate(self, ctx: Ctx, *, every_blocks: int, active: int) -> None:
        """Let seats take turns in another way."""


class Upgrades(Protocol):
    """What this contract needs from upgrades."""

    def require_possible(self, ctx: Ctx, *, contract: int, version: int, height: int) -> None:
        """Refuse what does not follow the version in force, or leaves the operators no time."""

    def schedule(self, ctx: Ctx, *, contract: int, version: int, height: int) -> None:
        """Let a version come into force."""


class Keyholders(Protocol):
    """What this contract needs from the keyring."""

    def require_possible(self, new: SetKeyholders) -> None:
        """Refuse keyholders that could not finish a ceremony now."""

    def appoint(self, ctx: Ctx, new: SetKeyholders) -> None:
        """Open the ceremony that gives them their shares."""

    def require_dispensable(self, organisation: bytes) -> None:
        """Refuse to go on without a keyholder where too few would remain."""

    def vacate(self, ctx: Ctx, organisation: bytes) -> None:
        """Count an organisation as a keyholder no longer, if it is one."""


class Powers(Struct, frozen=True):
    """What votes can change: the contracts that a passed proposal is carried out by."""

    membership: Membership
    validators: Validators
    upgrades: Upgrades
    keyholders: Keyholders


# --- predicates -----------------------------------------------------------------------------------------


def outcome(*, ayes: int, noes: int, members: int, quorum: Quorum) -> Standing:
    """Passed once the quorum says yes, failed once it no longer can, open between the two."""
    if ayes * quorum.denominator >= quorum.numerator * members:
        return Standing.PASSED
    if (members - noes) * quorum.denominator < quorum.numerator * members:
        return Standing.FAILED
    return Standing.OPEN


# --- handlers -------------------------------------------------------------------------------------------


def propose(ctx: Ctx, tables: GovernanceTables, powers: Powers, msg: Propose) -> None:
    """Open a vote, with the proposer's organisation in favour."""
    _require_possible(ctx, powers, msg.change)
    _require_room(ctx, tables)
    proposal = ctx.new_id("proposal")
    row = ProposalRow(
        change=msg.change,
        proposer=ctx.party.organisation,
        closes_s=ctx.time_s + PROPOSAL_LIFETIME_S,
        standing=Standing.OPEN,
        ayes=(ctx.party.organisation,),
        noes=(),
    )
    ctx.emit(Proposed(proposal=proposal, by=ctx.party.organisation))
    _settle(ctx, tables, powers, proposal, row)


def vote(ctx: Ctx, tables: GovernanceTables, powers: Powers, msg: Vote) -> None:
    """Add an organisation's vote and carry the change out if it decides."""
    row = _open_proposal(ctx, tables, msg.proposal)
    voter = ctx.party.organisation
    require(voter not in row.ayes and voter not in row.noes, GovernanceCode.ALREADY_VOTED)
    _count(ctx, tables, powers, msg, row)


def vote_or_change(ctx: Ctx, tables: GovernanceTables, powers: Powers, msg: Vote) -> None:
    """As :func:`vote`, from version 2 on: while the vote is open an organisation may change its own."""
    row = _open_proposal(ctx, tables, msg.proposal)
    voter = ctx.party.organisation
    require(voter not in (row.ayes if msg.aye else row.noes), GovernanceCode.ALREADY_VOTED)
    ayes, noes = (tuple(one for one in votes if one != voter) for votes in (row.ayes, row.noes))
    _count(ctx, tables, powers, msg, replace(row, ayes=ayes, noes=noes))


def withdraw_proposal(ctx: Ctx, tables: GovernanceTables, msg: WithdrawProposal) -> None:
    """Take an open proposal back: any administrator of the organisation that made it. From version 2 on."""
    row = _open_proposal(ctx, tables, msg.proposal)
    require(row.proposer == ctx.party.organisation, GovernanceCode.NOT_THE_PROPOSER)
    tables.proposals.put(msg.proposal, row=replace(row, standing=Standing.WITHDRAWN))
    ctx.emit(ProposalWithdrawn(proposal=msg.proposal))


def offer_agreement(ctx: Ctx, tables: GovernanceTables, membership: Membership, msg: OfferAgreement) -> None:
    """Offer terms. An offer replaces an earlier one that was not accepted, or whose time is over.

    While an agreement is in force there is nothing to offer: reads by the other organisation rest on it, so only
    :class:`EndAgreement` ends it, with an event that says so.
    """
    one = ctx.party.organisation
    require(one != msg.other, GovernanceCode.AGREEMENT_WITH_SELF)
    require(membership.is_member(msg.other), GovernanceCode.TARGET_UNKNOWN)
    require(msg.expires_s > ctx.time_s, GovernanceCode.EXPIRY_NOT_IN_FUTURE)
    require(msg.expires_s - ctx.time_s <= AGREEMENT_LIFETIME_S, GovernanceCode.EXPIRY_TOO_FAR)
    require(not tables.in_force(one, msg.other, ctx.time_s), GovernanceCode.AGREEMENT_IN_FORCE)
    row = AgreementRow(offered_by=one, terms=msg.terms, offered_s=ctx.time_s, expires_s=msg.expires_s)
    tables.agreements.put(*_pair(one, msg.other), row=row)


def accept_agreement(ctx: Ctx, tables: GovernanceTables, msg: AcceptAgreement) -> None:
    """Put an offered agreement in force."""
    one = ctx.party.organisation
    row = present(tables.agreements.get(*_pair(one, msg.other)), GovernanceCode.AGREEMENT_NOT_OFFERED)
    offered = row.offered_by == msg.other and row.terms == msg.terms and not row.accepted_s
    require(offered and ctx.time_s < row.expires_s, GovernanceCode.AGREEMENT_NOT_OFFERED)
    tables.agreements.put(*_pair(one, msg.other), row=replace(row, accepted_s=ctx.time_s))
    ctx.emit(AgreementMade(one=one, other=msg.other))


def end_agreement(ctx: Ctx, tables: GovernanceTables, msg: EndAgreement) -> None:
    """End an agreement from either side."""
    one = ctx.party.organisation
    require(tables.agreements.has(*_pair(one, msg.other)), GovernanceCode.AGREEMENT_UNKNOWN)
    tables.agreements.delete(*_pair(one, msg.other))
    ctx.emit(AgreementEnded(one=one, other=msg.other))


def _require_room(ctx: Ctx, tables: GovernanceTables) -> None:
    """Bound the proposals. They leave the state when their time is over, however they ended; events keep them.

    What an organisation took back or lost goes on counting against it till then. Otherwise one administrator could make
    so many that going through them takes the whole network minutes, or keep all places from the others.
    """
    still_open = own = 0
    for (proposal,), row in list(tables.proposals.scan()):
        if ctx.time_s >= row.closes_s:
            tables.proposals.delete(proposal)
            continue
        still_open += row.standing is Standing.OPEN
        own += row.proposer == ctx.party.organisation and row.standing is not Standing.PASSED
    full = still_open >= OPEN_PROPOSALS or own >= PROPOSALS_PER_ORGANISATION
    require(not full, GovernanceCode.TOO_MANY_PROPOSALS)


def _open_proposal(ctx: Ctx, tables: GovernanceTables, proposal: bytes) -> ProposalRow:
    row = present(tables.proposals.get(proposal), GovernanceCode.PROPOSAL_NOT_FOUND)
    require(row.standing is Standing.OPEN and ctx.time_s < row.closes_s, GovernanceCode.PROPOSAL_CLOSED)
    return row


def _count(ctx: Ctx, tables: GovernanceTables, powers: Powers, msg: Vote, row: ProposalRow) -> None:
    voter = ctx.party.organisation
    voted = replace(row, ayes=(*row.ayes, voter)) if msg.aye else replace(row, noes=(*row.noes, voter))
    _settle(ctx, tables, powers, msg.proposal, voted)


def _settle(ctx: Ctx, tables: GovernanceTables, powers: Powers, proposal: bytes, row: ProposalRow) -> None:
    """Count only the votes of organisations that are still members."""
    members = [organisation for organisation, _ in powers.membership.live_members()]
    quorum = tables.quorum_table.get(0) or Quorum()
    standing = outcome(
        ayes=sum(1 for one in members if one in row.ayes),
        noes=sum(1 for one in members if one in row.noes),
        members=len(members),
        quorum=quorum,
    )
    tables.proposals.put(proposal, row=replace(row, standing=standing))
    if standing is Standing.PASSED:
        _carry_out(ctx, powers, row.change)
    if standing is not Standing.OPEN:
        ctx.emit(Closed(proposal=proposal, passed=standing is Standing.PASSED))


def _carry_out(ctx: Ctx, powers: Powers, change: Change) -> None:
    """Do what was voted for. Each contract checks once more, because much may have happened since the proposal."""
    membership, validators = powers.membership, powers.validators
    match change:
        case AdmitMember(new=new):
            membership.admit(ctx, new)
        case RemoveMember(member=member):
            validators.vacate(ctx, member)
            powers.keyholders.vacate(ctx, member)
            membership.remove(ctx, member)
        case CertifyRegistrar(member=member, registrar=registrar):
            membership.certify_registrar(member, registrar=registrar)
        case SeatValidator(member=member, seated=seated):
            require(membership.is_member(member), GovernanceCode.TARGET_UNKNOWN)
            validators.seat(ctx, member, seated=seated)
        case SetRotation(every_blocks=every_blocks, active=active):
            validators.rotate(ctx, every_blocks=every_blocks, active=active)
        case Upgrade(contract=contract, version=version, height=height):
            powers.upgrades.schedule(ctx, contract=contract, version=version, height=height)
        case SetKeyholders():
            powers.keyholders.appoint(ctx, change)


def _require_possible(ctx: Ctx, powers: Powers, change: Change) -> None:
    """Refuse what could not be carried out now, or would stop the network: somebody has to make its blocks."""
    membership, validators = powers.membership, powers.validators
    match change:
        case AdmitMember(new=new):
            membership.require_admissible(new, ctx.time_s)
        case RemoveMember(member=member):
            require(membership.is_member(member), GovernanceCode.TARGET_UNKNOWN)
            require(not membership.is_producer(member), GovernanceCode.PRODUCER_STAYS)
            validators.require_dispensable(member)
            powers.keyholders.require_dispensable(member)
        case CertifyRegistrar(member=member):
            require(membership.is_member(member), GovernanceCode.TARGET_UNKNOWN)
        case SeatValidator(member=member, seated=seated):
            require(membership.is_member(member), GovernanceCode.TARGET_UNKNOWN)
            validators.require_seat(member, seated=seated)
        case SetRotation(every_blocks=every_blocks, active=active):
            validators.require_rotation(every_blocks=every_blocks, active=active)
        case Upgrade(contract=contract, version=version, height=height):
            powers.upgrades.require_possible(ctx, contract=contract, version=version, height=height)
        case SetKeyholders():
            powers.keyholders.require_possible(change)


def _pair(one: bytes, other: bytes) -> tuple[bytes, bytes]:
    return (one, other) if one < other else (other, one)


# --- invariants -----------------------------------------------------------------------------------------


def check_state(tables: GovernanceTables) -> list[str]:
    """No organisation votes twice, and agreements are keyed in one order."""
    broken = [
        f"proposal {proposal.hex()} counts a vote twice"
        for (proposal,), row in tables.proposals.scan()
        if len({*row.ayes, *row.noes}) != len(row.ayes) + len(row.noes)
    ]
    broken.extend(
        f"agreement {one.hex()} is keyed in the wrong order"
        for (one, other), row in tables.agreements.scan()
        if one >= other or row.offered_by not in (one, other)
    )
    return broken


# --- genesis --------------------------------------------------------------------------------------------


def genesis(tables: GovernanceTables, quorum: Quorum) -> None:
    """Set the quorum."""
    tables.quorum_table.put(0, row=quorum)


# --- queries --------------------------------------------------------------------------------------------


def proposals(tables: GovernanceTables) -> Iterator[tuple[bytes, ProposalRow]]:
    """Every proposal, closed ones included."""
    for (proposal,), row in tables.proposals.scan():
        yield proposal, row


def agreements(tables: GovernanceTables) -> Iterator[tuple[bytes, bytes, AgreementRow]]:
    """Every agreement and open offer."""
    for (one, other), row in tables.agreements.scan():
        yield one, other, row
