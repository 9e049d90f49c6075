"""Goal: members come and go by vote, and agreements between organisations are what both signed (ID-5).

Method: one row per refusal, then votes counted at their edges and the life of an agreement.
"""

import pytest

from carechain.contracts import governance
from carechain.contracts.governance import (
    AcceptAgreement,
    AdmitMember,
    AgreementEnded,
    AgreementMade,
    CertifyRegistrar,
    Closed,
    EndAgreement,
    GovernanceCode,
    OfferAgreement,
    Propose,
    Quorum,
    RemoveMember,
    Standing,
    Vote,
    agreements,
    outcome,
    proposals,
)
from carechain.contracts.membership import MemberAdmitted, MemberRemoved, MembershipCode
from carechain.contracts.relationships import RelationshipsCode
from carechain.core.limits import AGREEMENT_LIFETIME_S, PROPOSAL_LIFETIME_S
from carechain.core.rejection import RejectionCode
from carechain.core.vocabulary import OrganisationKind, Role
from rejections import Arrange, Attempt, Limits, Rows, check_refused
from world import (
    DAY_S,
    LATER_S,
    START_S,
    Actor,
    Organisation,
    World,
    anchor_of,
    bind_message,
    enrolment_of,
    fresh,
    seeded,
    wallet_of,
)

rows = Rows()
ROWS = rows
TERMS = seeded("terms")


def newcomer(label: str = "g") -> Organisation:
    return Organisation(label, kind=OrganisationKind.HOSPITAL, registrar=True)


def offer_to(other: Organisation, *, terms: bytes = TERMS, expires_s: int = LATER_S) -> OfferAgreement:
    return OfferAgreement(other=other.id, terms=terms, expires_s=expires_s)


@rows.row(GovernanceCode.PROPOSAL_NOT_FOUND)
def vote_on_nothing(world: World) -> Attempt:
    return world.b, Vote(proposal=seeded("none"), aye=True)


@rows.row(GovernanceCode.PROPOSAL_CLOSED)
def vote_after_the_decision(world: World) -> Attempt:
    proposal = world.propose(RemoveMember(member=world.f.id), ayes=(world.b, world.c, world.d))
    return world.e, Vote(proposal=proposal, aye=False)


@rows.row(GovernanceCode.PROPOSAL_CLOSED)
def vote_a_month_later(world: World) -> Attempt:
    proposal = world.propose(RemoveMember(member=world.f.id))
    return world.b, Vote(proposal=proposal, aye=True), world.time_s + PROPOSAL_LIFETIME_S


@rows.row(GovernanceCode.ALREADY_VOTED)
def the_proposer_votes_again(world: World) -> Attempt:
    return world.a, Vote(proposal=world.propose(RemoveMember(member=world.f.id)), aye=True)


@rows.row(GovernanceCode.ALREADY_VOTED)
def another_administrator_votes_for_the_same_organisation(world: World) -> Attempt:
    return world.vera, Vote(proposal=world.propose(RemoveMember(member=world.f.id)), aye=False)


@rows.row(GovernanceCode.ALREADY_VOTED)
def a_no_is_not_taken_back(world: World) -> Attempt:
    proposal = world.propose(RemoveMember(member=world.f.id))
    world.done(Vote(proposal=proposal, aye=False), by=world.b)
    return world.b, Vote(proposal=proposal, aye=True)


@rows.row(GovernanceCode.TOO_MANY_PROPOSALS, limits=((governance, "OPEN_PROPOSALS", 2),))
def the_third_of_two_proposals(world: World) -> Attempt:
    for member in (world.e, world.f):
        world.propose(RemoveMember(member=member.id))
    return world.a, Propose(change=RemoveMember(member=world.d.id))


@rows.row(GovernanceCode.TOO_MANY_PROPOSALS, limits=((governance, "PROPOSALS_PER_ORGANISATION", 2),))
def the_third_of_two_of_one_organisation(world: World) -> Attempt:
    for member in (world.e, world.f):
        world.propose(RemoveMember(member=member.id))
    return world.vera, Propose(change=RemoveMember(member=world.d.id))


@rows.row(GovernanceCode.TARGET_UNKNOWN)
def remove_nobody(world: World) -> Attempt:
    return world.a, Propose(change=RemoveMember(member=seeded("nobody")))


@rows.row(GovernanceCode.TARGET_UNKNOWN)
def certify_nobody(world: World) -> Attempt:
    return world.a, Propose(change=CertifyRegistrar(member=world.carl.id, registrar=True))


@rows.row(GovernanceCode.TARGET_UNKNOWN)
def agree_with_nobody(world: World) -> Attempt:
    return world.a, OfferAgreement(other=seeded("nobody"), terms=TERMS, expires_s=LATER_S)


@rows.row(GovernanceCode.AGREEMENT_WITH_SELF)
def agree_with_oneself(world: World) -> Attempt:
    return world.a, offer_to(world.a)


@rows.row(GovernanceCode.AGREEMENT_NOT_OFFERED)
def accept_nothing(world: World) -> Attempt:
    return world.b, AcceptAgreement(other=world.a.id, terms=TERMS)


@rows.row(GovernanceCode.AGREEMENT_NOT_OFFERED)
def accept_ones_own_offer(world: World) -> Attempt:
    world.done(offer_to(world.b), by=world.a)
    return world.a, AcceptAgreement(other=world.b.id, terms=TERMS)


@rows.row(GovernanceCode.AGREEMENT_NOT_OFFERED)
def accept_other_terms(world: World) -> Attempt:
    world.done(offer_to(world.b), by=world.a)
    return world.b, AcceptAgreement(other=world.a.id, terms=seeded("other terms"))


@rows.row(GovernanceCode.AGREEMENT_NOT_OFFERED)
def accept_too_late(world: World) -> Attempt:
    world.done(offer_to(world.b, expires_s=START_S + DAY_S), by=world.a)
    return world.b, AcceptAgreement(other=world.a.id, terms=TERMS), START_S + DAY_S


@rows.row(GovernanceCode.AGREEMENT_NOT_OFFERED)
def accepted_twice(world: World) -> Attempt:
    world.done(offer_to(world.b), by=world.a)
    world.done(AcceptAgreement(other=world.a.id, terms=TERMS), by=world.b)
    return world.b, AcceptAgreement(other=world.a.id, terms=TERMS)


@rows.row(GovernanceCode.AGREEMENT_UNKNOWN)
def end_nothing(world: World) -> Attempt:
    return world.a, EndAgreement(other=world.b.id)


@rows.row(GovernanceCode.AGREEMENT_UNKNOWN)
def a_third_party_ends_it(world: World) -> Attempt:
    world.done(offer_to(world.b), by=world.a)
    return world.c, EndAgreement(other=world.b.id)


@rows.row(GovernanceCode.EXPIRY_NOT_IN_FUTURE)
def an_agreement_already_over(world: World) -> Attempt:
    return world.a, offer_to(world.b, expires_s=START_S)


@rows.row(GovernanceCode.EXPIRY_TOO_FAR)
def an_agreement_for_eleven_years(world: World) -> Attempt:
    return world.a, offer_to(world.b, expires_s=world.time_s + 2 + AGREEMENT_LIFETIME_S)


@rows.row(GovernanceCode.PRODUCER_STAYS)
def remove_who_produces_the_blocks(world: World) -> Attempt:
    return world.b, Propose(change=RemoveMember(member=world.a.id))


@rows.row(GovernanceCode.AGREEMENT_IN_FORCE)
def offer_other_terms_against_an_agreement(world: World) -> Attempt:
    world.done(offer_to(world.b), by=world.a)
    world.done(AcceptAgreement(other=world.a.id, terms=TERMS), by=world.b)
    return world.b, offer_to(world.a, terms=seeded("other terms"))


@rows.row(GovernanceCode.AGREEMENT_IN_FORCE)
def offer_the_same_terms_against_an_agreement(world: World) -> Attempt:
    world.done(offer_to(world.b), by=world.a)
    world.done(AcceptAgreement(other=world.a.id, terms=TERMS), by=world.b)
    return world.a, offer_to(world.b)


@pytest.mark.parametrize(("code", "arrange", "limits"), rows.params())
def test_refused(
    code: RejectionCode, arrange: Arrange, limits: Limits, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_refused(world, code, arrange, limits, monkeypatch)


# --- votes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ayes", "noes", "members", "expected"),
    [
        (3, 0, 6, Standing.OPEN),
        (4, 0, 6, Standing.PASSED),
        (3, 2, 6, Standing.OPEN),
        (3, 3, 6, Standing.FAILED),
        (0, 2, 6, Standing.OPEN),
        (0, 3, 6, Standing.FAILED),
        (1, 0, 1, Standing.PASSED),
        (2, 0, 3, Standing.PASSED),
        (1, 1, 3, Standing.OPEN),
        (5, 0, 7, Standing.PASSED),
        (4, 2, 7, Standing.OPEN),
        (4, 3, 7, Standing.FAILED),
    ],
)
def test_two_thirds_counted_exactly(ayes: int, noes: int, members: int, expected: Standing) -> None:
    assert outcome(ayes=ayes, noes=noes, members=members, quorum=Quorum()) is expected


def test_every_count_is_decided_once_all_have_voted() -> None:
    for members in range(1, 12):
        for ayes in range(members + 1):
            for quorum in (Quorum(), Quorum(numerator=1, denominator=2), Quorum(numerator=1, denominator=1)):
                decided = outcome(ayes=ayes, noes=members - ayes, members=members, quorum=quorum)
                assert decided is not Standing.OPEN
                assert (decided is Standing.PASSED) == (ayes * quorum.denominator >= quorum.numerator * members)


def test_a_member_is_admitted_and_works(world: World) -> None:
    g = newcomer()
    proposal = world.propose(AdmitMember(new=g.as_new()), ayes=(world.b, world.c))
    assert not world.contracts().membership.is_member(g.id)
    events = world.done(Vote(proposal=proposal, aye=True), by=world.d)
    assert events == (MemberAdmitted(member=g.id), Closed(proposal=proposal, passed=True))
    doctor = world.enrol(g, "gus", Role.DOCTOR)
    patient = world.bind(wallet_of("lin"), g, "1")
    world.done(anchor_of(patient, "diary"), by=patient)
    assert world.decision(doctor, patient) == 653
    assert world.broken() == []


def test_a_vote_that_can_no_longer_pass_is_closed(world: World) -> None:
    proposal = world.propose(RemoveMember(member=world.f.id))
    for member in (world.d, world.e):
        assert world.done(Vote(proposal=proposal, aye=False), by=member) == ()
    assert world.done(Vote(proposal=proposal, aye=False), by=world.f) == (Closed(proposal=proposal, passed=False),)
    assert dict(proposals(world.contracts().governance))[proposal].standing is Standing.FAILED
    assert world.contracts().membership.is_member(world.f.id)


def test_staff_with_the_role_vote_for_their_organisation(world: World) -> None:
    (opened,) = world.done(Propose(change=RemoveMember(member=world.f.id)), by=world.vera)
    assert opened.by == world.a.id
    for member in (world.b, world.c, world.d):
        world.done(Vote(proposal=opened.proposal, aye=True), by=member)
    assert not world.contracts().membership.is_member(world.f.id)


def test_votes_of_members_who_left_do_not_count(world: World) -> None:
    """Six members, four needed. After one voter's removal five are left and four are needed still."""
    proposal = world.propose(CertifyRegistrar(member=world.e.id, registrar=True), ayes=(world.b, world.f))
    events = []
    removal = world.propose(RemoveMember(member=world.f.id), ayes=(world.b, world.c))
    events += world.done(Vote(proposal=removal, aye=True), by=world.d)
    assert MemberRemoved(member=world.f.id) in events
    assert world.done(Vote(proposal=proposal, aye=True), by=world.c) == ()
    assert world.done(Vote(proposal=proposal, aye=True), by=world.d) == (Closed(proposal=proposal, passed=True),)
    assert world.contracts().membership.is_registrar(world.e.id)


def test_a_removed_member_loses_staff_votes_and_registry_but_its_patients_keep_their_rights(world: World) -> None:
    world.propose(RemoveMember(member=world.b.id), ayes=(world.c, world.d, world.e))
    world.refused(MembershipCode.ORGANISATION_NOT_A_MEMBER, offer_to(world.a), by=world.b)
    late = Actor("late", organisation=world.b.id)
    enrolment = enrolment_of(late, world.b.certify(late, Role.DOCTOR))
    world.refused(MembershipCode.ORGANISATION_NOT_A_MEMBER, enrolment, by=world.b)
    world.done(anchor_of(world.steve_at_b, "diary"), by=world.steve_at_b)
    assert [one for one, _ in world.contracts().membership.live_members()] == sorted(
        member.id for member in (world.a, world.c, world.d, world.e, world.f)
    )
    # A member that was put out does not slip in again under the same key.
    world.refused(MembershipCode.MEMBER_EXISTS, Propose(change=AdmitMember(new=world.b.as_new())), by=world.a)


def test_the_registry_is_certified_and_taken_away_by_vote(world: World) -> None:
    world.propose(CertifyRegistrar(member=world.a.id, registrar=False), ayes=(world.b, world.c, world.d))
    patient = wallet_of("lin").pseudonym(world.a.id)
    binding = bind_message(patient, world.a.secret.id_hash("mrn", "9"))
    world.refused(RelationshipsCode.NOT_A_REGISTRAR, binding, by=world.rosa)
    world.propose(CertifyRegistrar(member=world.a.id, registrar=True), ayes=(world.b, world.c, world.d))
    world.done(binding, by=world.rosa)


def test_the_quorum_is_the_geneses() -> None:
    world = fresh(quorum=Quorum(numerator=1, denominator=6))
    proposal = world.propose(RemoveMember(member=world.f.id))
    assert dict(proposals(world.contracts().governance))[proposal].standing is Standing.PASSED


# --- agreements -----------------------------------------------------------------------------------------


def _in_force(world: World) -> bool:
    tables = world.contracts().governance
    assert tables.in_force(world.a.id, world.b.id, world.time_s) == tables.in_force(
        world.b.id, world.a.id, world.time_s
    )
    return tables.in_force(world.a.id, world.b.id, world.time_s)


def test_the_life_of_an_agreement(world: World) -> None:
    assert not _in_force(world)
    world.done(offer_to(world.b, expires_s=START_S + DAY_S), by=world.a)
    assert not _in_force(world)
    assert world.done(AcceptAgreement(other=world.a.id, terms=TERMS), by=world.b) == (
        AgreementMade(one=world.b.id, other=world.a.id),
    )
    assert _in_force(world)
    assert len(list(agreements(world.contracts().governance))) == 1
    world.block(at=START_S + DAY_S)
    assert not _in_force(world)


@pytest.mark.parametrize("ender", ["a", "b"])
def test_either_side_ends_an_agreement(ender: str, world: World) -> None:
    world.done(offer_to(world.b), by=world.a)
    world.done(AcceptAgreement(other=world.a.id, terms=TERMS), by=world.b)
    other = world.b if ender == "a" else world.a
    (event,) = world.done(EndAgreement(other=other.id), by=getattr(world, ender))
    assert isinstance(event, AgreementEnded)
    assert not _in_force(world)


def test_a_new_offer_replaces_an_offer_or_an_agreement_that_is_over(world: World) -> None:
    world.done(offer_to(world.b), by=world.a)
    world.done(offer_to(world.b, terms=seeded("better terms"), expires_s=START_S + DAY_S), by=world.a)
    world.done(AcceptAgreement(other=world.a.id, terms=seeded("better terms")), by=world.b)
    assert _in_force(world)
    world.done(offer_to(world.a, terms=seeded("other terms")), by=world.b, at=START_S + DAY_S)
    assert not _in_force(world)
    world.done(AcceptAgreement(other=world.b.id, terms=seeded("other terms")), by=world.a)
    assert _in_force(world)
    assert world.broken() == []
