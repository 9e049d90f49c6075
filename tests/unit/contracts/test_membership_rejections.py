"""Goal: every refusal of membership is reachable, has its own code, and leaves nothing behind.

Method: one row per code; a row arranges a world and names the message that must be refused. Networks of both suites.
"""

import datetime as dt

import pytest

from carechain.contracts import membership
from carechain.contracts.consent.schema import Ask, Renounce
from carechain.contracts.governance import AdmitMember, CertifyRegistrar, Propose, RemoveMember, Vote
from carechain.contracts.membership import (
    DismissStaff,
    EnrolStaff,
    MembershipCode,
    RenewStaff,
    ReplaceAuthority,
    SetLapse,
    set_lapse,
)
from carechain.core.context import Ctx
from carechain.core.crypto import Suite
from carechain.core.organisation import NewMember
from carechain.core.rejection import Rejected, RejectionCode
from carechain.core.scope import EVERYTHING
from carechain.core.suite import Institution
from carechain.core.vocabulary import Action, OrganisationKind, Purpose, Role
from carechain.sdk.certificates import CertificateAuthority
from rejections import Arrange, Attempt, Limits, Rows, check_refused
from world import (
    DAY_S,
    LAPSE_DAYS,
    NOT_AFTER,
    NOT_BEFORE,
    START_S,
    Actor,
    Organisation,
    World,
    anything,
    enrolment_of,
    entropy_of,
    grant_of,
)

rows = Rows()
ROWS = rows


@pytest.fixture(params=list(Institution), ids=lambda one: one.name)
def institution(request: pytest.FixtureRequest) -> Institution:
    found: Institution = request.param
    return found


def ask(world: World) -> Ask:
    return Ask(
        pseudonym=world.steve.id,
        scope=EVERYTHING,
        actions=int(Action.READ),
        purpose=Purpose.TREAT,
        expires_s=world.time_s + 10 * 366 * DAY_S,
    )


def enrolment(organisation: Organisation, actor: Actor, *roles: Role, **dates: dt.datetime) -> EnrolStaff:
    return enrolment_of(actor, organisation.certify(actor, *roles, **dates), organisation=organisation.id)


def moment(seconds: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)


@rows.row(MembershipCode.CERTIFICATE_REVOKED)
def a_leaver_asks(world: World) -> Attempt:
    world.done(DismissStaff(party=world.carl.id), by=world.a)
    return world.carl, ask(world)


@rows.row(MembershipCode.CERTIFICATE_NOT_YET_VALID)
def the_certificate_begins_tomorrow(world: World) -> Attempt:
    newcomer = world.actor("newcomer", organisation=world.a.id)
    return world.a, enrolment(world.a, newcomer, Role.DOCTOR, not_before=moment(START_S + DAY_S))


@rows.row(MembershipCode.CERTIFICATE_NOT_YET_VALID)
def a_renewed_certificate_begins_later_than_its_use(world: World) -> Attempt:
    # A renewal is refused before its time as well, so that rights never begin in the future.
    later = world.a.certify(world.carl, Role.DOCTOR, not_before=moment(START_S + DAY_S))
    return world.a, RenewStaff(certificate=later)


@rows.row(MembershipCode.CERTIFICATE_EXPIRED)
def the_certificate_ended_before_enrolment(world: World) -> Attempt:
    newcomer = world.actor("newcomer", organisation=world.a.id)
    return world.a, enrolment(world.a, newcomer, Role.DOCTOR, not_after=moment(world.time_s))


@rows.row(MembershipCode.CERTIFICATE_EXPIRED)
def the_second_after_the_certificates_last(world: World) -> Attempt:
    newcomer = world.actor("newcomer", organisation=world.a.id)
    world.done(enrolment(world.a, newcomer, Role.DOCTOR, not_after=moment(START_S + DAY_S)), by=world.a)
    return newcomer, ask(world), START_S + DAY_S + 1


@rows.row(MembershipCode.ORGANISATION_NOT_A_MEMBER)
def staff_of_a_removed_member(world: World) -> Attempt:
    world.propose(RemoveMember(member=world.b.id), ayes=(world.c, world.d, world.e))
    return world.bert, ask(world)


@rows.row(MembershipCode.ORGANISATION_NOT_A_MEMBER)
def a_removed_member_itself(world: World) -> Attempt:
    world.propose(RemoveMember(member=world.b.id), ayes=(world.c, world.d, world.e))
    return world.b, SetLapse(days=3)


@rows.row(MembershipCode.RIGHTS_LAPSED)
def unused_for_too_long(world: World) -> Attempt:
    return world.carl, ask(world), START_S + (LAPSE_DAYS + 1) * DAY_S


@rows.row(MembershipCode.ROLE_MAY_NOT_SEND)
def a_technician_passes_on(world: World) -> Attempt:
    parent = world.grant(anything(world.steve, world.john), by=world.steve)
    return world.john, grant_of(world.steve, world.bert, parent=parent)


@rows.row(MembershipCode.CERTIFICATE_INVALID)
def another_authority_signed(world: World) -> Attempt:
    newcomer = world.actor("newcomer", organisation=world.a.id)
    return world.a, enrolment(world.b, newcomer, Role.DOCTOR)


@rows.row(MembershipCode.CERTIFICATE_INVALID)
def not_a_certificate(world: World) -> Attempt:
    return world.a, EnrolStaff(certificate=b"\x30\x00", hpke_key=bytes(32), proof=bytes(64))


@rows.row(MembershipCode.CERTIFICATE_INVALID)
def the_subject_is_not_the_key(world: World) -> Attempt:
    newcomer = world.actor("newcomer", organisation=world.a.id)
    stolen = world.a.certify(newcomer, Role.DOCTOR, party=world.carl.id)
    return world.a, enrolment_of(newcomer, stolen)


@rows.row(MembershipCode.CERTIFICATE_INVALID)
def a_renewal_names_someone_else(world: World) -> Attempt:
    return world.a, RenewStaff(certificate=world.a.certify(world.carl, Role.DOCTOR, party=world.dana.id))


@rows.row(MembershipCode.ROLE_NOT_FOR_THIS_KIND)
def an_insurer_enrols_a_doctor(world: World) -> Attempt:
    return world.c, enrolment(world.c, world.actor("newcomer", organisation=world.c.id), Role.DOCTOR)


@rows.row(MembershipCode.ROLE_NOT_FOR_THIS_KIND)
def staff_cannot_be_enrolled_as_a_patient(world: World) -> Attempt:
    return world.a, enrolment(world.a, world.actor("newcomer", organisation=world.a.id), Role.DOCTOR, Role.PATIENT)


@rows.row(MembershipCode.PARTY_EXISTS)
def enrolled_twice(world: World) -> Attempt:
    return world.a, enrolment(world.a, world.carl, Role.DOCTOR)


@rows.row(MembershipCode.ENROLMENT_PROOF_INVALID)
def a_member_enrols_a_candidates_key_to_keep_it_out(world: World) -> Attempt:
    """What the candidate signed, its own application's key included, says nothing about working for hospital b."""
    candidate = world.organisation("g", kind=OrganisationKind.HOSPITAL)
    certificate = world.b.certify(candidate, Role.DOCTOR)
    return world.b, enrolment_of(candidate, certificate, organisation=candidate.id)


@rows.row(MembershipCode.ENROLMENT_PROOF_INVALID)
def somebody_else_signed_the_enrolment(world: World) -> Attempt:
    newcomer = world.actor("newcomer", organisation=world.a.id)
    certificate = world.a.certify(newcomer, Role.DOCTOR)
    by_carl = enrolment_of(world.carl, certificate)
    return world.a, EnrolStaff(certificate=certificate, hpke_key=newcomer.hpke.public_key, proof=by_carl.proof)


@rows.row(MembershipCode.ENROLMENT_PROOF_INVALID)
def the_key_agreed_to_another_certificate(world: World) -> Attempt:
    newcomer = world.actor("newcomer", organisation=world.a.id)
    agreed = enrolment(world.a, newcomer, Role.NURSE)
    certificate = world.a.certify(newcomer, Role.DOCTOR)
    return world.a, EnrolStaff(certificate=certificate, hpke_key=agreed.hpke_key, proof=agreed.proof)


@rows.row(MembershipCode.ENROLMENT_PROOF_INVALID)
def somebody_swaps_the_reading_key(world: World) -> Attempt:
    newcomer = world.actor("newcomer", organisation=world.a.id)
    agreed = enrolment(world.a, newcomer, Role.DOCTOR)
    swapped = world.carl.hpke.public_key
    return world.a, EnrolStaff(certificate=agreed.certificate, hpke_key=swapped, proof=agreed.proof)


@rows.row(MembershipCode.PARTY_EXISTS)
def enrolled_by_a_second_employer(world: World) -> Attempt:
    return world.b, enrolment(world.b, world.carl, Role.DOCTOR)


@rows.row(MembershipCode.STAFF_UNKNOWN)
def somebody_elses_staff(world: World) -> Attempt:
    return world.a, DismissStaff(party=world.bert.id)


@rows.row(MembershipCode.STAFF_UNKNOWN)
def a_patient_is_not_staff(world: World) -> Attempt:
    return world.a, DismissStaff(party=world.steve.id)


@rows.row(MembershipCode.STAFF_LEFT)
def a_leaver_is_renewed(world: World) -> Attempt:
    world.done(DismissStaff(party=world.carl.id), by=world.a)
    return world.a, RenewStaff(certificate=world.a.certify(world.carl, Role.DOCTOR))


@rows.row(MembershipCode.LAPSE_OUT_OF_RANGE)
def lapse_of_no_days(world: World) -> Attempt:
    return world.a, SetLapse(days=0)


@rows.row(MembershipCode.LAPSE_OUT_OF_RANGE)
def lapse_of_eleven_years(world: World) -> Attempt:
    return world.a, SetLapse(days=3651)


def last_vote(world: World, change: object) -> tuple[Organisation, Vote]:
    """The vote that would carry the change."""
    proposal = world.propose(change, ayes=(world.b, world.c))
    return world.d, Vote(proposal=proposal, aye=True)


@rows.row(MembershipCode.MEMBER_EXISTS)
def a_member_is_admitted_again(world: World) -> Attempt:
    return world.a, Propose(change=AdmitMember(new=world.b.as_new()))


@rows.row(MembershipCode.TOO_MANY_MEMBERS, limits=((membership, "MEMBERS", 6),))
def the_consortium_is_full(world: World) -> Attempt:
    return last_vote(world, AdmitMember(new=world.organisation("g", kind=OrganisationKind.HOSPITAL).as_new()))


@rows.row(MembershipCode.MEMBER_UNKNOWN)
def removed_by_two_proposals(world: World) -> Attempt:
    vote = last_vote(world, RemoveMember(member=world.f.id))
    world.propose(RemoveMember(member=world.f.id), ayes=(world.b, world.c, world.e))
    return vote


@rows.row(MembershipCode.MEMBER_UNKNOWN)
def certified_after_removal(world: World) -> Attempt:
    vote = last_vote(world, CertifyRegistrar(member=world.f.id, registrar=True))
    world.propose(RemoveMember(member=world.f.id), ayes=(world.b, world.c, world.e))
    return vote


@rows.row(MembershipCode.AUTHORITY_INVALID)
def the_authority_is_another_organisations(world: World) -> Attempt:
    g, h = (world.organisation(label, kind=OrganisationKind.HOSPITAL) for label in "gh")
    return (world.a, Propose(change=AdmitMember(new=_with(g, authority=h.authority.certificate))))


@rows.row(MembershipCode.AUTHORITY_INVALID)
def the_authority_is_noise(world: World) -> Attempt:
    return (
        world.a,
        Propose(
            change=AdmitMember(new=_with(world.organisation("g", kind=OrganisationKind.HOSPITAL), authority=b"\x00"))
        ),
    )


@rows.row(MembershipCode.AUTHORITY_INVALID)
def replaced_by_another_organisations_authority(world: World) -> Attempt:
    return world.a, ReplaceAuthority(certificate=world.b.authority.certificate)


@rows.row(MembershipCode.AUTHORITY_NOT_YET_VALID)
def admitted_with_an_authority_that_begins_tomorrow(world: World) -> Attempt:
    return world.a, Propose(change=AdmitMember(new=_candidate(world, not_before=moment(START_S + DAY_S))))


@rows.row(MembershipCode.AUTHORITY_NOT_YET_VALID)
def replaced_by_one_that_begins_tomorrow(world: World) -> Attempt:
    later = world.a.another_authority(not_before=moment(START_S + DAY_S))
    return world.a, ReplaceAuthority(certificate=later.certificate)


@rows.row(MembershipCode.AUTHORITY_EXPIRED)
def admitted_with_an_expired_authority(world: World) -> Attempt:
    return world.a, Propose(change=AdmitMember(new=_candidate(world, not_after=moment(world.time_s))))


@rows.row(MembershipCode.AUTHORITY_EXPIRED)
def the_authority_expires_during_the_vote(world: World) -> Attempt:
    vote = last_vote(world, AdmitMember(new=_candidate(world, not_after=moment(START_S + DAY_S))))
    return (*vote, START_S + DAY_S + 1)


@rows.row(MembershipCode.AUTHORITY_EXPIRED)
def replaced_by_an_expired_one(world: World) -> Attempt:
    former = world.a.another_authority(not_after=moment(world.time_s))
    return world.a, ReplaceAuthority(certificate=former.certificate)


def ends_tomorrow(world: World) -> None:
    """Hospital a's authority ends in a day; under the same key it goes on issuing certificates that end later."""
    world.a = world.a.with_authority(world.a.another_authority())
    short = world.a.another_authority(not_after=moment(START_S + DAY_S))
    world.done(ReplaceAuthority(certificate=short.certificate), by=world.a)


@rows.row(MembershipCode.AUTHORITY_EXPIRED)
def enrolled_after_the_authoritys_end(world: World) -> Attempt:
    ends_tomorrow(world)
    message = enrolment(world.a, world.actor("newcomer", organisation=world.a.id), Role.DOCTOR)
    return world.a, message, START_S + DAY_S + 1


@rows.row(MembershipCode.AUTHORITY_EXPIRED)
def renewed_after_the_authoritys_end(world: World) -> Attempt:
    ends_tomorrow(world)
    return world.a, RenewStaff(certificate=world.a.certify(world.carl, Role.DOCTOR)), START_S + DAY_S + 1


@rows.row(MembershipCode.SENDER_NOT_MEMBER_KEY)
def an_administrator_replaces_the_authority(world: World) -> Attempt:
    return world.anna, ReplaceAuthority(certificate=world.a.another_authority().certificate)


@rows.row(MembershipCode.MEMBER_KEY_INVALID)
def the_key_has_another_suites_length(world: World) -> Attempt:
    g = world.organisation("g", kind=OrganisationKind.HOSPITAL)
    other = Suite.P256 if g.signing.suite is Suite.ED25519 else Suite.ED25519
    return world.a, Propose(change=AdmitMember(new=_with(g, suite=other)))


@rows.row(MembershipCode.MEMBER_KEY_INVALID)
def the_suite_is_unknown(world: World) -> Attempt:
    return (
        world.a,
        Propose(change=AdmitMember(new=_with(world.organisation("g", kind=OrganisationKind.HOSPITAL), suite=200))),
    )


@rows.row(MembershipCode.SUITE_NOT_OF_NETWORK)
def the_member_signs_with_another_suite(world: World) -> Attempt:
    g = Organisation("g", kind=OrganisationKind.HOSPITAL, suite=_another_suite(world))
    return world.a, Propose(change=AdmitMember(new=g.as_new()))


@rows.row(MembershipCode.SUITE_NOT_OF_NETWORK)
def the_members_authority_signs_with_another_suite(world: World) -> Attempt:
    g = world.organisation("g", kind=OrganisationKind.HOSPITAL)
    return world.a, Propose(change=AdmitMember(new=_with(g, authority=_authority_of_another_suite(world, g))))


@rows.row(MembershipCode.SUITE_NOT_OF_NETWORK)
def the_new_authority_signs_with_another_suite(world: World) -> Attempt:
    return world.a, ReplaceAuthority(certificate=_authority_of_another_suite(world, world.a))


@rows.row(MembershipCode.SUITE_NOT_OF_NETWORK)
def the_member_of_staff_signs_with_another_suite(world: World) -> Attempt:
    newcomer = Actor("newcomer", organisation=world.a.id, suite=_another_suite(world))
    return world.a, enrolment(world.a, newcomer, Role.DOCTOR)


def _another_suite(world: World) -> Suite:
    return Suite.ED25519 if world.institution is Institution.SM else Suite.SM2


def _authority_of_another_suite(world: World, organisation: Organisation) -> bytes:
    return CertificateAuthority.create(
        organisation.id,
        not_before=NOT_BEFORE,
        not_after=NOT_AFTER,
        entropy=entropy_of("another suite"),
        suite=_another_suite(world),
    ).certificate


def _candidate(world: World, **dates: dt.datetime) -> NewMember:
    """Hospital g with an authority that is valid as given."""
    g = world.organisation("g", kind=OrganisationKind.HOSPITAL)
    return _with(g, authority=g.another_authority(**dates).certificate)


def _with(organisation: Organisation, **changed: object) -> NewMember:
    new = organisation.as_new()
    return type(new)(**{field: getattr(new, field) for field in new.__struct_fields__} | changed)


@pytest.mark.parametrize(("code", "arrange", "limits"), rows.params())
def test_refused(
    code: RejectionCode, arrange: Arrange, limits: Limits, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_refused(world, code, arrange, limits, monkeypatch)


rows.direct.append(MembershipCode.SENDER_NOT_OF_ORGANISATION)


def test_the_handler_itself_refuses_a_stranger(world: World) -> None:
    """The gates stop a removed member earlier; the handler does not rely on that."""
    world.propose(RemoveMember(member=world.b.id), ayes=(world.c, world.d, world.e))
    members = world.contracts().membership
    party = members.party(world.b.id)
    assert party is not None
    ctx = Ctx(
        chain_id="world-1", height=1, time_s=world.time_s, tx_id=bytes(32), sender=world.b.id, party=party, events=[]
    )
    with pytest.raises(Rejected) as refused:
        set_lapse(ctx, members, SetLapse(days=3))
    assert refused.value.code is MembershipCode.SENDER_NOT_OF_ORGANISATION


def test_of_several_faults_the_first_check_speaks(world: World) -> None:
    """Order is precedence: a revoked key of a removed organisation is told about the key."""
    world.done(DismissStaff(party=world.bert.id), by=world.b)
    world.propose(RemoveMember(member=world.b.id), ayes=(world.c, world.d, world.e))
    world.refused(
        MembershipCode.CERTIFICATE_REVOKED, Renounce(pseudonym=world.steve.id, grant_id=bytes(32)), by=world.bert
    )


def test_validity_bounds(world: World) -> None:
    assert NOT_BEFORE.timestamp() < START_S < NOT_AFTER.timestamp()
