"""Goal: rights begin with a certificate and end at once with a leaver, an expiry or disuse (ID-1, ID-2, ID-6, ID-9).

Method: stories over a real ledger with certificates issued by the organisations' own authorities.
"""

import datetime as dt

import msgspec
import pytest

from carechain.chain.genesis import BadGenesis, Genesis, apply_genesis, genesis_hash, read, write
from carechain.contracts.access import RequestAccess
from carechain.contracts.consent.schema import Renounce
from carechain.contracts.membership import (
    MEMBER_ROLES,
    DismissStaff,
    MemberAuthorityReplaced,
    MembershipCode,
    RenewStaff,
    ReplaceAuthority,
    SetLapse,
    StaffEnrolled,
    staff_of,
)
from carechain.core.crypto import Suite
from carechain.core.decision import DecisionCode
from carechain.core.suite import Institution
from carechain.core.vocabulary import Purpose, Role, mask
from world import DAY_S, LAPSE_DAYS, NOT_AFTER, START_S, World, empty_state, enrolment_of, fresh, grant_of


@pytest.fixture(params=list(Institution), ids=lambda one: one.name)
def institution(request: pytest.FixtureRequest) -> Institution:
    found: Institution = request.param
    return found


def renew(world: World, *roles: Role, end_s: int | None = None) -> RenewStaff:
    dates = {} if end_s is None else {"not_after": dt.datetime.fromtimestamp(end_s, dt.UTC)}
    return RenewStaff(certificate=world.a.certify(world.carl, *roles, **dates))


def test_enrolment_says_who_in_which_roles(world: World) -> None:
    newcomer = world.actor("王医生", organisation=world.a.id)
    certificate = world.a.certify(newcomer, Role.DOCTOR, Role.RESEARCHER)
    (event,) = world.done(enrolment_of(newcomer, certificate), by=world.anna)
    roles = mask(Role.DOCTOR, Role.RESEARCHER)
    assert event == StaffEnrolled(organisation=world.a.id, party=newcomer.id, roles=roles)
    listed = {party: row.roles for party, _, row in staff_of(world.contracts().membership, world.a.id)}
    assert listed[newcomer.id] == roles
    assert world.bert.id not in listed


@pytest.mark.parametrize("institution", [Institution.INTERNATIONAL])
def test_a_p256_key_works_like_any_other(world: World) -> None:
    doctor = world.enrol(world.a, "paula", Role.DOCTOR, suite=Suite.P256)
    world.grant(grant_of(world.steve, doctor), by=world.steve)
    assert world.decision(doctor, world.steve) == 0


def test_a_leaver_loses_access_in_the_same_block(world: World) -> None:
    """ID-6, ID-9: dismissal and request in one block, in that order."""
    world.grant(grant_of(world.steve, world.carl), by=world.steve)
    assert world.decision(world.carl, world.steve) == 0
    scope = grant_of(world.steve, world.carl).scope
    asking = RequestAccess(pseudonym=world.steve.id, scope=scope, purpose=Purpose.TREAT)
    _, receipt = world.block(
        world.sign(DismissStaff(party=world.carl.id), by=world.anna), world.sign(asking, by=world.carl)
    )
    assert receipt.events[0].decision == DecisionCode.REQUESTER_NOT_LIVE


def test_rights_lapse_after_exactly_the_set_days_and_every_use_starts_the_count_again(world: World) -> None:
    world.grant(grant_of(world.steve, world.carl, expires_s=START_S + 5 * 365 * DAY_S), by=world.steve)
    assert world.decision(world.carl, world.steve, at=START_S + LAPSE_DAYS * DAY_S) == 0
    assert world.decision(world.carl, world.steve, at=START_S + 2 * LAPSE_DAYS * DAY_S) == 0
    lapsed = world.decision(world.carl, world.steve, at=START_S + (3 * LAPSE_DAYS + 1) * DAY_S)
    assert lapsed == DecisionCode.REQUESTER_NOT_LIVE
    # Asking in vain is no use of rights: they stay lapsed until the organisation renews them.
    next_day = START_S + (3 * LAPSE_DAYS + 2) * DAY_S
    assert world.decision(world.carl, world.steve, at=next_day) == DecisionCode.REQUESTER_NOT_LIVE
    world.done(renew(world, Role.DOCTOR), by=world.a)
    assert world.decision(world.carl, world.steve) == 0


def test_a_rejected_transaction_is_no_use_of_rights(world: World) -> None:
    missing = Renounce(pseudonym=world.steve.id, grant_id=bytes(32))
    world.run(missing, by=world.carl, at=START_S + (LAPSE_DAYS - 1) * DAY_S)
    late = START_S + (LAPSE_DAYS + 1) * DAY_S
    world.refused(MembershipCode.RIGHTS_LAPSED, missing, by=world.carl, at=late)


def test_the_lapse_period_is_the_organisations_own(world: World) -> None:
    world.done(SetLapse(days=3), by=world.b)
    world.grant(grant_of(world.steve, world.carl, world.bert), by=world.steve)
    at = START_S + 5 * DAY_S
    assert world.decision(world.bert, world.steve, at=at) == DecisionCode.REQUESTER_NOT_LIVE
    assert world.decision(world.carl, world.steve, at=at) == 0


def test_members_and_patients_never_lapse(world: World) -> None:
    at = START_S + 3 * 365 * DAY_S
    world.done(SetLapse(days=3), by=world.b, at=at)
    world.grant(grant_of(world.steve, world.b, expires_s=at + 10 * DAY_S), by=world.steve)


def test_renewal_changes_roles_and_end_but_not_the_party(world: World) -> None:
    world.done(renew(world, Role.NURSE, end_s=START_S + DAY_S), by=world.a)
    party = world.contracts().membership.party(world.carl.id)
    assert party is not None
    # X.509 names the last second of validity, the ledger the first one after it.
    assert (party.roles, party.valid_until_s) == (mask(Role.NURSE), START_S + DAY_S + 1)
    assert party.hpke_key == world.carl.hpke.public_key


def test_a_certificate_and_its_authority_are_valid_through_their_last_second(world: World) -> None:
    """RFC 5280 section 4.1.2.5: both ends are inside, for staff and for the authority alike."""
    last_s = START_S + DAY_S
    end = dt.datetime.fromtimestamp(last_s, dt.UTC)
    ending = world.a.another_authority(not_after=end)
    world.done(ReplaceAuthority(certificate=ending.certificate), by=world.a)
    newcomer = world.actor("newcomer", organisation=world.a.id)
    certificate = world.a.with_authority(ending).certify(newcomer, Role.DOCTOR, not_after=end)
    world.done(enrolment_of(newcomer, certificate), by=world.a, at=last_s)
    assert world.decision(newcomer, world.steve, at=last_s) == DecisionCode.NO_GRANT
    assert world.decision(newcomer, world.steve, at=last_s + 1) == DecisionCode.REQUESTER_NOT_LIVE


def test_an_expired_authority_is_replaced_and_staff_stay_until_their_own_end(world: World) -> None:
    """Expiry strands nobody: the organisation's own key names the next authority, also after the old one's end."""
    end_s = START_S + DAY_S
    short = world.a.another_authority(not_after=dt.datetime.fromtimestamp(end_s, dt.UTC))
    world.done(ReplaceAuthority(certificate=short.certificate), by=world.a)
    world.grant(grant_of(world.steve, world.carl), by=world.steve)
    newcomer = world.actor("newcomer", organisation=world.a.id)
    certificate = world.a.certify(newcomer, Role.DOCTOR)
    world.refused(MembershipCode.CERTIFICATE_INVALID, enrolment_of(newcomer, certificate), by=world.anna)
    assert world.decision(world.carl, world.steve, at=end_s + 1) == 0
    again = ReplaceAuthority(certificate=world.a.authority.certificate)
    assert world.done(again, by=world.a) == (MemberAuthorityReplaced(member=world.a.id),)
    world.done(enrolment_of(newcomer, certificate), by=world.anna)
    assert world.broken() == []


def test_an_administrator_who_dismisses_herself_ends_the_transaction_there(world: World) -> None:
    """Standing is judged again before every message of one transaction, and all of it is taken back."""
    world.refused(
        MembershipCode.CERTIFICATE_REVOKED, DismissStaff(party=world.anna.id), SetLapse(days=3), by=world.anna
    )
    world.done(DismissStaff(party=world.anna.id), by=world.anna)


def test_an_organisations_own_key_has_the_two_administrators_roles(world: World) -> None:
    assert mask(Role.ORGANISATION_ADMIN, Role.CONSORTIUM_ADMIN) == MEMBER_ROLES
    party = world.contracts().membership.party(world.a.id)
    assert party is not None
    assert party.roles == MEMBER_ROLES


# --- genesis --------------------------------------------------------------------------------------------


def _with(genesis: Genesis, **changed: object) -> Genesis:
    return Genesis(**{field: getattr(genesis, field) for field in genesis.__struct_fields__} | changed)


def test_a_genesis_file_reads_back_and_its_hash_covers_all_of_it() -> None:
    genesis = fresh().genesis
    assert read(write(genesis)) == genesis
    for changed in ({"chain_id": "other"}, {"time_s": 1}, {"producers": (fresh().b.id,)}):
        assert genesis_hash(_with(genesis, **changed)) != genesis_hash(genesis)


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b"[]", b'{"chain_id": ""}', b"{" * 5000])
def test_what_is_not_a_genesis_file_is_refused(data: bytes) -> None:
    with pytest.raises(BadGenesis):
        read(data)


def test_the_suite_is_chosen_once_and_founders_must_have_it() -> None:
    """KEY-6: the hash of the genesis covers the suite, the state shows it, and no founder signs with another."""
    for suite, other in ((Institution.INTERNATIONAL, Institution.SM), (Institution.SM, Institution.INTERNATIONAL)):
        world = fresh(institution=suite)
        assert world.contracts().membership.institution() is suite
        changed = _with(world.genesis, suite=other)
        assert genesis_hash(changed) != genesis_hash(world.genesis)
        with pytest.raises(BadGenesis, match="signature suite"):
            apply_genesis(empty_state(), changed)


def test_a_genesis_file_without_a_suite_is_international() -> None:
    fields = msgspec.json.decode(write(fresh().genesis))
    del fields["suite"]
    assert read(msgspec.json.encode(fields)) == fresh().genesis
    with pytest.raises(BadGenesis):
        read(msgspec.json.encode(fields | {"suite": 3}))


def test_a_genesis_that_contradicts_itself_is_refused() -> None:
    world = fresh()
    one = world.genesis.members[0]
    wrong = type(one)(**{field: getattr(one, field) for field in one.__struct_fields__} | {"authority": b"\x00"})
    late = {"time_s": int(NOT_AFTER.timestamp()) + 1}  # Every authority has expired by then.
    for changed in ({"producers": (world.carl.id,)}, {"members": (one, one)}, {"members": (wrong,)}, late):
        with pytest.raises(BadGenesis):
            apply_genesis(empty_state(), _with(world.genesis, **changed))
