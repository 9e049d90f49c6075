"""Goal: a role may send exactly the messages that the role table lists (ID-2, the second check of CON-3).

Method: for every role a party that holds only this role, for every message a well-formed instance; all pairs are sent.
A listed message may still be refused for other reasons, but never because of the role.
"""

from functools import cache

import pytest

from carechain.chain.receipts import code_named
from carechain.chain.routing import MESSAGES
from carechain.chain.versions import LATEST
from carechain.contracts import keyring
from carechain.contracts.access import ReportRelease, ReportShares, RequestAccess, RevokeTicket
from carechain.contracts.consent.schema import (
    Answer,
    AnswerRequest,
    Ask,
    Dismiss,
    DropRule,
    Extend,
    Narrow,
    Renounce,
    Revoke,
    SetRule,
    Who,
    Withdraw,
)
from carechain.contracts.governance import (
    AcceptAgreement,
    EndAgreement,
    OfferAgreement,
    Propose,
    RemoveMember,
    Vote,
    WithdrawProposal,
)
from carechain.contracts.membership import (
    DismissStaff,
    MembershipCode,
    RenewStaff,
    ReplaceAuthority,
    SetLapse,
)
from carechain.contracts.records import ConfirmErasure, Erase
from carechain.contracts.recovery import SetPolicy
from carechain.contracts.relationships import Leave, PutSummary
from carechain.contracts.roles import ROLES, may_ask, may_send, roles_fit
from carechain.contracts.validators import AnnounceKey, RegisterNode, RetireNode
from carechain.core.message import Message, tag_of
from carechain.core.quorum import DleqProof, KeyProof, ReleaseShare, ShareStatement
from carechain.core.vocabulary import OrganisationKind, Purpose, Role, mask
from recoveries import (
    approval_of,
    finish_of,
    rotation_of,
    staff_rotation,
    start_of,
    terms_of,
    veto_of,
    withdrawal_of,
)
from world import (
    LATER_S,
    RESULTS,
    TREAT,
    Actor,
    Signer,
    World,
    anchor_of,
    appoint_message,
    bind_message,
    enrolment_of,
    fresh,
    grant_of,
    seeded,
    wallet_of,
)

ALONE = {
    Role.DOCTOR: "carl",
    Role.NURSE: "nora",
    Role.LAB_TECHNICIAN: "john",
    Role.INSURANCE_AUDITOR: "ivan",
    Role.REGULATOR: "gita",
    Role.RESEARCHER: "rita",
    Role.EMERGENCY_RESPONDER: "ella",
    Role.ORGANISATION_ADMIN: "anna",
    Role.CONSORTIUM_ADMIN: "vera",
    Role.REGISTRAR: "rosa",
    Role.PATIENT: "steve",
}
READ_ONLY = (Role.INSURANCE_AUDITOR, Role.REGULATOR, Role.RESEARCHER)
ADDS_TO_A_RECORD_OR_WIDENS_CONSENT = ("records.anchor", "consent.grant", "consent.extend", "consent.set_rule")


@cache
def _world() -> World:
    world = fresh(versions=LATEST)
    world.appoint("aunt", world.steve)
    return world


def holder(world: World, role: Role) -> Signer:
    if role is Role.FAMILY_MEMBER:
        return Actor("aunt", organisation=world.steve.id)
    signer: Signer = getattr(world, ALONE[role])
    return signer


def samples(world: World) -> dict[type[Message], Message]:
    steve, some = world.steve, seeded("some id")
    terms = {"scope": RESULTS, "actions": 1, "purposes": TREAT, "expires_s": LATER_S}
    newcomer = Actor("newcomer", organisation=world.a.id)
    certificate = world.a.certify(newcomer, Role.DOCTOR)
    messages: tuple[Message, ...] = (
        enrolment_of(newcomer, certificate),
        RenewStaff(certificate=certificate),
        DismissStaff(party=some),
        SetLapse(days=30),
        ReplaceAuthority(certificate=world.a.authority.certificate),
        bind_message(wallet_of("lin").pseudonym(world.a.id), some),
        PutSummary(pseudonym=steve.id, sealed=bytes(1024)),
        Leave(pseudonym=steve.id),
        rotation_of(steve, newcomer),
        staff_rotation(world.a, world.carl, newcomer),
        SetPolicy(pseudonym=steve.id, terms=terms_of(world.b)),
        start_of(steve, newcomer),
        approval_of(steve, newcomer),
        withdrawal_of(steve),
        veto_of(steve),
        finish_of(steve),
        grant_of(steve, world.bert),
        Narrow(pseudonym=steve.id, grant_id=some, **terms),
        Extend(pseudonym=steve.id, grant_id=some, **terms),
        Revoke(pseudonym=steve.id, grant_id=some),
        Renounce(pseudonym=steve.id, grant_id=some),
        Ask(pseudonym=steve.id, scope=RESULTS, actions=1, purpose=Purpose.TREAT, expires_s=LATER_S),
        AnswerRequest(pseudonym=steve.id, request_id=some, approve=True, scope=RESULTS, expires_s=LATER_S),
        Withdraw(pseudonym=steve.id, request_id=some),
        SetRule(
            pseudonym=steve.id,
            rule=1,
            who=Who(kinds=mask(*OrganisationKind)),
            purposes=TREAT,
            scope=RESULTS,
            answer=Answer.ALLOW,
            expires_s=LATER_S,
        ),
        DropRule(pseudonym=steve.id, rule=1),
        appoint_message(Actor("uncle"), steve),
        Dismiss(pseudonym=steve.id, representative=some),
        anchor_of(steve, "sample"),
        Erase(pseudonym=steve.id, record=some),
        ConfirmErasure(pseudonym=steve.id, record=some, destroyed=1),
        RequestAccess(pseudonym=steve.id, scope=RESULTS, purpose=Purpose.TREAT),
        ReportRelease(ticket=some, records=1, digest=some),
        ReportShares(ticket=some, records=1, digest=some),
        RevokeTicket(ticket=some),
        Propose(change=RemoveMember(member=world.f.id)),
        Vote(proposal=some, aye=True),
        OfferAgreement(other=world.b.id, terms=some, expires_s=LATER_S),
        AcceptAgreement(other=world.b.id, terms=some),
        EndAgreement(other=world.b.id),
        WithdrawProposal(proposal=some),
        RegisterNode(node_key=some, proof=bytes(64)),
        RetireNode(node_id=some[:20]),
        AnnounceKey(consensus_key=some, proof=bytes(64)),
        *ceremony_samples(some),
    )
    return {type(message): message for message in messages}


def ceremony_samples(some: bytes) -> tuple[Message, ...]:
    proof = DleqProof(challenge=some, response=some)
    share = ReleaseShare(epoch=1, index=1, point=some, proof=proof)
    statement = ShareStatement(ticket=some, record=some, version=1, combined=some, share=share)
    return (
        keyring.Join(ceremony=some, key=some, proof=KeyProof(challenge=some, response=some)),
        keyring.Deal(ceremony=some, commitments=(some,), shares=(bytes(64),)),
        keyring.Judge(ceremony=some, complaints=()),
        keyring.Extract(ceremony=some, commitments=(some,)),
        keyring.Check(ceremony=some, complaints=()),
        keyring.Expose(ceremony=some, shares=()),
        keyring.CloseRound(ceremony=some),
        keyring.LoseShare(epoch=1),
        keyring.Accuse(statement=statement, signature=bytes(64)),
    )


@pytest.mark.parametrize("kind", MESSAGES, ids=tag_of)
@pytest.mark.parametrize("role", list(Role), ids=lambda role: role.name)
def test_a_role_may_send_exactly_what_is_listed(role: Role, kind: type[Message]) -> None:
    world = _world().fork()
    receipt = world.run(samples(world)[kind], by=holder(world, role))
    blocked = code_named(receipt.code) is MembershipCode.ROLE_MAY_NOT_SEND
    listed = tag_of(kind) in ROLES[role].messages
    if kind is RequestAccess:
        # Whoever may not ask for records gets a refused ticket and a line in the patient's log instead.
        assert receipt.code == 0
    else:
        assert blocked == (not listed)
    if blocked:
        assert world.changed_rows() == []


def test_there_is_a_sample_of_every_message() -> None:
    assert samples(_world()).keys() == set(MESSAGES)


def test_the_table_names_only_messages_that_exist_and_every_message_has_a_sender() -> None:
    listed = {tag for rights in ROLES.values() for tag in rights.messages}
    assert listed == {tag_of(kind) for kind in MESSAGES}
    assert set(ROLES) == set(Role)
    for rights in ROLES.values():
        assert len(set(rights.messages)) == len(rights.messages)
        assert len(set(rights.queries)) == len(rights.queries)


@pytest.mark.parametrize("role", READ_ONLY, ids=lambda role: role.name)
def test_auditors_regulators_and_researchers_only_read(role: Role) -> None:
    """CON-3, said again here so that a slip in the table is noticed."""
    assert not set(ROLES[role].messages) & set(ADDS_TO_A_RECORD_OR_WIDENS_CONSENT)


@pytest.mark.parametrize(
    "role", [Role.ORGANISATION_ADMIN, Role.CONSORTIUM_ADMIN, Role.REGISTRAR], ids=lambda one: one.name
)
def test_administrators_cannot_ask_for_records(role: Role) -> None:
    assert "access.request" not in ROLES[role].messages
    assert "records.anchor" not in ROLES[role].messages


def test_what_nobody_lists_nobody_may_send_or_ask() -> None:
    party = _world().contracts().membership.party(_world().a.id)
    assert party is not None
    assert not may_send(party, "membership.rule_the_world")
    assert not may_ask(party, "membership.everything")


@pytest.mark.parametrize("kind", list(OrganisationKind), ids=lambda kind: kind.name)
def test_organisations_give_only_the_roles_of_their_kind(kind: OrganisationKind) -> None:
    for role in Role:
        assert roles_fit(kind, mask(role)) == (kind in ROLES[role].kinds)
    assert not roles_fit(kind, 0)
    assert not roles_fit(kind, mask(Role.ORGANISATION_ADMIN, Role.PATIENT))
