"""Routing: which contract handles which message, and what each contract may ask of the others.

This is the only file that knows all contracts. Everything that lists messages, events, tables, codes or
roles, the documentation included, takes them from here.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Union

from msgspec import Struct

from carechain.chain.versions import KNOWN, in_force, require_known
from carechain.contracts import (
    access,
    governance,
    keyring,
    membership,
    records,
    recovery,
    relationships,
    rotation,
    sanctions,
    upgrades,
    validators,
)
from carechain.contracts.consent import grants, inbox, representatives, views
from carechain.contracts.consent import schema as consent
from carechain.contracts.consent.coverage import Coverage
from carechain.contracts.keyring import schema as keys
from carechain.core.context import Ctx
from carechain.core.decision import DecisionCode
from carechain.core.message import Event, Message, tag_of
from carechain.core.rejection import RejectionCode
from carechain.core.vocabulary import Contract
from carechain.state.overlay import Overlay
from carechain.state.table import TableSpec

MESSAGES: Final[tuple[type[Message], ...]] = (
    membership.EnrolStaff,
    membership.RenewStaff,
    membership.DismissStaff,
    membership.SetLapse,
    membership.ReplaceAuthority,
    rotation.RotateKey,
    rotation.RotateStaff,
    relationships.Bind,
    relationships.PutSummary,
    relationships.Leave,
    consent.Grant,
    consent.Narrow,
    consent.Extend,
    consent.Revoke,
    consent.Renounce,
    consent.Ask,
    consent.AnswerRequest,
    consent.Withdraw,
    consent.SetRule,
    consent.DropRule,
    consent.Appoint,
    consent.Dismiss,
    records.Anchor,
    records.Erase,
    records.ConfirmErasure,
    access.RequestAccess,
    access.ReportRelease,
    access.ReportShares,
    access.RevokeTicket,
    governance.Propose,
    governance.Vote,
    governance.OfferAgreement,
    governance.AcceptAgreement,
    governance.EndAgreement,
    governance.WithdrawProposal,
    validators.RegisterNode,
    validators.RetireNode,
    validators.AnnounceKey,
    recovery.SetPolicy,
    recovery.Start,
    recovery.Approve,
    recovery.Withdraw,
    recovery.Veto,
    recovery.Finish,
    keys.Join,
    keys.Deal,
    keys.Judge,
    keys.Extract,
    keys.Check,
    keys.Expose,
    keys.CloseRound,
    keys.LoseShare,
    keys.Accuse,
)

EVENTS: Final[tuple[type[Event], ...]] = (
    membership.MemberAdmitted,
    membership.MemberRemoved,
    membership.MemberAuthorityReplaced,
    membership.StaffEnrolled,
    membership.StaffRenewed,
    membership.StaffDismissed,
    membership.KeyRotated,
    relationships.Bound,
    relationships.SummaryStored,
    relationships.Left,
    consent.Granted,
    consent.Changed,
    consent.Revoked,
    consent.Asked,
    consent.Answered,
    consent.Withdrawn,
    consent.RuleChanged,
    consent.Appointed,
    consent.Dismissed,
    records.Anchored,
    records.Erased,
    records.ErasureConfirmed,
    access.Decided,
    access.Released,
    access.SharesReleased,
    access.TicketRevoked,
    governance.Proposed,
    governance.Closed,
    governance.AgreementMade,
    governance.AgreementEnded,
    governance.ProposalWithdrawn,
    validators.NodeRegistered,
    validators.NodeRetired,
    validators.KeyAnnounced,
    validators.SeatChanged,
    validators.RotationChanged,
    upgrades.UpgradeVoted,
    recovery.PolicySet,
    recovery.Started,
    recovery.Advanced,
    recovery.Vetoed,
    recovery.Ended,
    recovery.Recovered,
    keys.CeremonyOpened,
    keys.RoundOpened,
    keys.Convicted,
    keys.CeremonyDone,
    keys.CeremonyFailed,
    keys.HolderCaught,
    keys.HolderLeft,
)

CONTRACT_TABLES: Final[tuple[TableSpec[Any], ...]] = (
    membership.MEMBERS_TABLE,
    membership.PARTIES_TABLE,
    membership.AUTHORITIES_TABLE,
    membership.STAFF_TABLE,
    membership.KEYS_TABLE,
    membership.USED_KEYS_TABLE,
    membership.SUITE_TABLE,
    relationships.BINDINGS,
    relationships.RELATIONS,
    relationships.SUMMARIES,
    consent.GRANTS,
    consent.HELD,
    consent.REQUESTS,
    consent.RULES,
    consent.REPRESENTATIVES,
    consent.POLICY,
    consent.HEADS,
    consent.STANDING,
    records.ANCHORS,
    records.ERASURES,
    records.RECEIPTS,
    records.OBJECTS,
    records.ERASURE_QUEUE,
    access.TICKETS,
    access.LOG,
    access.LOG_HEADS,
    access.ATTEMPTS,
    governance.QUORUM,
    governance.PROPOSALS,
    governance.AGREEMENTS,
    upgrades.VERSIONS,
    validators.NODES,
    validators.NODE_OWNERS,
    validators.VALIDATORS,
    validators.ADDRESSES,
    validators.ROTATION,
    sanctions.SANCTIONS,
    recovery.POLICIES,
    recovery.ATTEMPTS,
    recovery.RULES,
    keys.KEYS,
    keys.CURRENT,
    keys.CEREMONIES,
    keys.JOINS,
    keys.DEALS,
    keys.JUDGEMENTS,
    keys.EXTRACTIONS,
    keys.EXPOSURES,
    keys.MISDEEDS,
)

CONTRACT_CODES: Final[tuple[type[RejectionCode], ...]] = (
    membership.MembershipCode,
    relationships.RelationshipsCode,
    consent.ConsentCode,
    records.RecordsCode,
    access.AccessCode,
    DecisionCode,
    governance.GovernanceCode,
    validators.ValidatorsCode,
    upgrades.UpgradesCode,
    recovery.RecoveryCode,
    keys.KeyringCode,
)

if TYPE_CHECKING:
    AnyMessage = Message
    AnyEvent = Event
else:
    AnyMessage = Union[MESSAGES]  # noqa: UP007 - the members are data here
    AnyEvent = Union[EVENTS]  # noqa: UP007 - as above


class Route(Struct, frozen=True):
    """How one kind of message is handled.

    ``gated`` routes pass the first two checks of CON-3 before the handler runs. The access request is not
    gated: it makes those checks itself, because failing them must give a ticket and not a rejection.
    """

    tag: str
    handle: Callable[[Ctx, Any], None]
    gated: bool = True


Handlers = dict[type[Message], Callable[[Ctx, Any], None]]


class Contracts:
    """Every contract's tables over one state, and the routes into their handlers.

    ``routes`` holds what is in force: the newest that this program has, until :meth:`enter` says at which height.
    """

    __slots__ = (
        "_later",
        "_routes",
        "access",
        "consent",
        "governance",
        "keyring",
        "membership",
        "records",
        "recovery",
        "relationships",
        "routes",
        "sanctions",
        "upgrades",
        "validators",
    )

    def __init__(self, state: Overlay) -> None:
        self.membership = membership.MembershipTables(state)
        self.relationships = relationships.RelationshipsTables(state)
        self.records = records.RecordsTables(state)
        self.governance = governance.GovernanceTables(state)
        self.access = access.AccessTables(state)
        self.validators = validators.ValidatorsTables(state)
        self.sanctions = sanctions.SanctionsTables(state)
        self.upgrades = upgrades.UpgradesTables(state)
        self.recovery = recovery.RecoveryTables(state)
        self.keyring = keyring.KeyringTables(state)
        self.consent = Coverage(
            tables=consent.ConsentTables(state),
            membership=self.membership,
            records=self.records,
            agreements=self.governance,
        )
        self._routes = _routed(self._first_versions())
        self._later = self._later_versions()
        self.routes = self._in_force(KNOWN)

    def enter(self, height: int) -> None:
        """Put in force what the votes say for the block at ``height``; raises ``UpgradeNeeded``.

        Once per block and outside any transaction, so that no transaction's read set holds the versions.
        """
        require_known(self.upgrades, height)
        self.expect(height)

    def expect(self, height: int) -> None:
        """As :meth:`enter`, for admission before the block: whether this program can make it shows when it is made."""
        self.routes = self._in_force(in_force(self.upgrades, height))

    def check_state(self) -> list[str]:
        """Every contract's broken invariants; shared by tests, the simulator and ``carechain verify``."""
        return [
            *membership.check_state(self.membership),
            *relationships.check_state(self.relationships, self.membership),
            *views.check_state(self.consent.tables),
            *records.check_state(self.records, self.membership),
            *access.check_state(self.access),
            *governance.check_state(self.governance),
            *upgrades.check_state(self.upgrades),
            *validators.check_state(self.validators, self.membership),
            *sanctions.check_state(self.sanctions),
            *recovery.check_state(self.recovery, self.membership),
            *keyring.check_state(self.keyring),
        ]

    def _in_force(self, versions: Mapping[int, int]) -> dict[type[Message], Route]:
        routes = self._routes
        for (contract, since), changed in self._later.items():
            if versions.get(contract, 1) >= since:
                routes = routes | changed
        return routes

    def _first_versions(self) -> Handlers:
        members, relations, coverage = self.membership, self.relationships, self.consent
        recoveries = self.recovery
        anchors, tickets, votes = self.records, self.access, self.governance
        seats, powers, ring = self.validators, self._powers(), self.keyring
        return {
            membership.EnrolStaff: lambda ctx, msg: membership.enrol_staff(ctx, members, msg),
            membership.RenewStaff: lambda ctx, msg: membership.renew_staff(ctx, members, msg),
            membership.DismissStaff: lambda ctx, msg: membership.dismiss_staff(ctx, members, msg),
            membership.SetLapse: lambda ctx, msg: membership.set_lapse(ctx, members, msg),
            membership.ReplaceAuthority: lambda ctx, msg: membership.replace_authority(ctx, members, msg),
            rotation.RotateKey: lambda ctx, msg: rotation.rotate_key(ctx, members, self._owner_acted, msg),
            rotation.RotateStaff: lambda ctx, msg: rotation.rotate_staff(ctx, members, msg),
            relationships.Bind: lambda ctx, msg: relationships.bind(ctx, relations, members, msg),
            relationships.PutSummary: lambda ctx, msg: relationships.put_summary(ctx, relations, msg),
            relationships.Leave: lambda ctx, msg: relationships.leave(ctx, relations, msg),
            consent.Grant: lambda ctx, msg: grants.grant(ctx, coverage, msg),
            consent.Narrow: lambda ctx, msg: grants.narrow(ctx, coverage, msg),
            consent.Extend: lambda ctx, msg: grants.extend(ctx, coverage, msg),
            consent.Revoke: lambda ctx, msg: grants.revoke(ctx, coverage, msg),
            consent.Renounce: lambda ctx, msg: grants.renounce(ctx, coverage, msg),
            consent.Ask: lambda ctx, msg: inbox.ask(ctx, coverage, msg),
            consent.AnswerRequest: lambda ctx, msg: inbox.answer_request(ctx, coverage, msg),
            consent.Withdraw: lambda ctx, msg: inbox.withdraw(ctx, coverage, msg),
            consent.SetRule: lambda ctx, msg: inbox.set_rule(ctx, coverage, msg),
            consent.DropRule: lambda ctx, msg: inbox.drop_rule(ctx, coverage, msg),
            consent.Appoint: lambda ctx, msg: representatives.appoint(ctx, coverage, msg),
            consent.Dismiss: lambda ctx, msg: representatives.dismiss(ctx, coverage, msg),
            records.Anchor: lambda ctx, msg: records.anchor(ctx, anchors, members, relations, coverage, msg),
            records.Erase: lambda ctx, msg: records.erase(ctx, anchors, coverage, msg),
            records.ConfirmErasure: lambda ctx, msg: records.confirm_erasure(ctx, anchors, msg),
            access.RequestAccess: lambda ctx, msg: access.request_access(ctx, tickets, members, coverage, msg),
            access.ReportRelease: lambda ctx, msg: access.report_release(ctx, tickets, msg),
            access.ReportShares: lambda ctx, msg: access.report_shares(ctx, tickets, ring, msg),
            access.RevokeTicket: lambda ctx, msg: access.revoke_ticket(ctx, tickets, coverage, msg),
            governance.Propose: lambda ctx, msg: governance.propose(ctx, votes, powers, msg),
            governance.Vote: lambda ctx, msg: governance.vote(ctx, votes, powers, msg),
            governance.OfferAgreement: lambda ctx, msg: governance.offer_agreement(ctx, votes, members, msg),
            governance.AcceptAgreement: lambda ctx, msg: governance.accept_agreement(ctx, votes, msg),
            governance.EndAgreement: lambda ctx, msg: governance.end_agreement(ctx, votes, msg),
            validators.RegisterNode: lambda ctx, msg: validators.register_node(ctx, seats, msg),
            validators.RetireNode: lambda ctx, msg: validators.retire_node(ctx, seats, msg),
            validators.AnnounceKey: lambda ctx, msg: validators.announce_key(ctx, seats, msg),
            recovery.SetPolicy: lambda ctx, msg: recovery.set_policy(ctx, recoveries, members, msg),
            recovery.Start: lambda ctx, msg: recovery.start(ctx, recoveries, members, msg),
            recovery.Approve: lambda ctx, msg: recovery.approve(ctx, recoveries, members, msg),
            recovery.Withdraw: lambda ctx, msg: recovery.withdraw(ctx, recoveries, members, msg),
            recovery.Veto: lambda ctx, msg: recovery.veto(ctx, recoveries, coverage, msg),
            recovery.Finish: lambda ctx, msg: recovery.finish(ctx, recoveries, members, msg),
            keys.Join: lambda ctx, msg: keyring.join(ctx, ring, msg),
            keys.Deal: lambda ctx, msg: keyring.deal(ctx, ring, msg),
            keys.Judge: lambda ctx, msg: keyring.judge(ctx, ring, msg),
            keys.Extract: lambda ctx, msg: keyring.extract(ctx, ring, msg),
            keys.Check: lambda ctx, msg: keyring.check(ctx, ring, msg),
            keys.Expose: lambda ctx, msg: keyring.expose(ctx, ring, msg),
            keys.CloseRound: lambda ctx, msg: keyring.close_round(ctx, ring, msg),
            keys.LoseShare: lambda ctx, msg: keyring.lose_share(ctx, ring, msg),
            keys.Accuse: lambda ctx, msg: keyring.accuse(ctx, ring, members, tickets, msg),
        }

    def _later_versions(self) -> dict[tuple[Contract, int], dict[type[Message], Route]]:
        """Contract and version → what it added and what it handles otherwise than the version before it.

        A version that was released never changes: old blocks are executed again by the handlers of their time.
        """
        votes, powers = self.governance, self._powers()
        return {
            (Contract.GOVERNANCE, 2): _routed(
                {
                    governance.Vote: lambda ctx, msg: governance.vote_or_change(ctx, votes, powers, msg),
                    governance.WithdrawProposal: lambda ctx, msg: governance.withdraw_proposal(ctx, votes, msg),
                }
            ),
        }

    def _owner_acted(self, ctx: Ctx, pseudonym: bytes) -> None:
        recovery.owner_acted(ctx, self.recovery, pseudonym)

    def _powers(self) -> governance.Powers:
        return governance.Powers(
            membership=self.membership,
            validators=self.validators,
            upgrades=self.upgrades,
            keyholders=keyring.Keyholders(self.keyring, self.membership),
        )


def _routed(handlers: Handlers) -> dict[type[Message], Route]:
    return {
        kind: Route(tag_of(kind), handle, gated=kind is not access.RequestAccess) for kind, handle in handlers.items()
    }
