"""Goal: every request is decided once and logged, and a ticket serves only while it should (AUD-1, AUD-3).

Method: one row per rejection code, one per decision code (a refused request is a successful transaction), then the life
of a ticket and the arithmetic of the log.
"""

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from carechain.chain.receipts import code_named
from carechain.contracts.access import (
    EMPTY_LOG,
    ROLE_PURPOSES,
    AccessCode,
    EntryKind,
    LogHead,
    ReportRelease,
    ReportShares,
    RequestAccess,
    RevokeTicket,
    SharesReleased,
    log_of,
    running_hash,
    still_allowed,
)
from carechain.contracts.consent.schema import Answer, ConsentCode, Revoke, SetRule, TreatmentPolicy, Who
from carechain.contracts.governance import AcceptAgreement, EndAgreement, OfferAgreement, RemoveMember
from carechain.contracts.membership import DismissStaff, RenewStaff
from carechain.core.decision import DecisionCode, PathKind
from carechain.core.limits import AUTHOR_GRANT_LIFETIME_S, TICKET_LIFETIME_S
from carechain.core.rejection import RejectionCode
from carechain.core.scope import EVERYTHING, Scope
from carechain.core.vocabulary import (
    Action,
    Category,
    OrganisationKind,
    Power,
    Purpose,
    Role,
    Sensitivity,
    in_mask,
    mask,
)
from carechain.sdk.wallet import Pseudonym
from rejections import Arrange, Attempt, Limits, Rows, check_refused
from sealed_world import install_key
from world import (
    DAY_S,
    LAPSE_DAYS,
    LATER_S,
    READ_WRITE_PASS_ON,
    RESULTS,
    START_S,
    TREAT,
    Actor,
    Signer,
    World,
    anchor_of,
    fresh,
    grant_of,
    record_id,
    scope_of,
    seeded,
    wallet_of,
)

rows = Rows()
ROWS = rows
rows.direct.extend(DecisionCode)
"""Decisions are covered by ``DECISIONS`` below, which the last test of this file checks for completeness."""


def request_of(patient: Pseudonym, *, scope: Scope = RESULTS, purpose: Purpose = Purpose.TREAT) -> RequestAccess:
    return RequestAccess(pseudonym=patient.id, scope=scope, purpose=purpose)


def allowed(world: World, *, by: Signer | None = None) -> bytes:
    """A ticket for the doctor Bert of hospital b, or another member of staff, to read Steve's results at hospital a."""
    reader = by or world.bert
    world.grant(grant_of(world.steve, reader), by=world.steve)
    decided = world.request(request_of(world.steve), by=reader)
    assert decided.decision == 0
    return decided.ticket


def refused(world: World) -> bytes:
    decided = world.request(request_of(world.steve), by=world.bert)
    assert decided.decision == DecisionCode.NO_GRANT
    return decided.ticket


def report_of(ticket: bytes, *, records: int = 2) -> ReportRelease:
    return ReportRelease(ticket=ticket, records=records, digest=seeded("reads"))


def shares_of(ticket: bytes, *, records: int = 2) -> ReportShares:
    return ReportShares(ticket=ticket, records=records, digest=seeded("shares"))


# --- rejections -----------------------------------------------------------------------------------------


@rows.row(AccessCode.PSEUDONYM_UNKNOWN)
def nobody_is_asked_for(world: World) -> Attempt:
    return world.carl, request_of(wallet_of("unbound").pseudonym(world.a.id))


@rows.row(AccessCode.PSEUDONYM_UNKNOWN)
def a_doctor_is_asked_for(world: World) -> Attempt:
    return world.carl, RequestAccess(pseudonym=world.dana.id, scope=RESULTS, purpose=Purpose.TREAT)


@rows.row(AccessCode.SCOPE_MALFORMED)
def no_category(world: World) -> Attempt:
    return world.carl, request_of(world.steve, scope=Scope(categories=0, ceiling=Sensitivity.N))


@rows.row(AccessCode.TICKET_NOT_FOUND)
def revoke_no_ticket(world: World) -> Attempt:
    return world.steve, RevokeTicket(ticket=seeded("none"))


@rows.row(AccessCode.TICKET_NOT_FOUND)
def report_on_no_ticket(world: World) -> Attempt:
    return world.anna, report_of(seeded("none"))


@rows.row(AccessCode.TICKET_REFUSED)
def report_on_a_refused_ticket(world: World) -> Attempt:
    return world.anna, report_of(refused(world))


@rows.row(AccessCode.TICKET_REFUSED)
def revoke_a_refused_ticket(world: World) -> Attempt:
    return world.steve, RevokeTicket(ticket=refused(world))


@rows.row(AccessCode.TICKET_ENDED)
def revoked_twice(world: World) -> Attempt:
    ticket = allowed(world)
    world.done(RevokeTicket(ticket=ticket), by=world.steve)
    return world.steve, RevokeTicket(ticket=ticket)


@rows.row(AccessCode.TICKET_ENDED)
def revoked_after_its_end(world: World) -> Attempt:
    ticket = allowed(world)
    return world.steve, RevokeTicket(ticket=ticket), world.time_s + TICKET_LIFETIME_S


@rows.row(AccessCode.SENDER_MAY_NOT_REVOKE)
def a_colleague_revokes(world: World) -> Attempt:
    return world.bina, RevokeTicket(ticket=allowed(world))


@rows.row(AccessCode.SENDER_MAY_NOT_REVOKE)
def another_patient_revokes(world: World) -> Attempt:
    return world.mary, RevokeTicket(ticket=allowed(world))


@rows.row(AccessCode.SENDER_MAY_NOT_REVOKE)
def a_representative_who_may_only_look_revokes(world: World) -> Attempt:
    powers = int(Power.READ_LOG | Power.READ_RECORDS | Power.GRANT | Power.ANSWER | Power.RULES)
    return world.appoint("aunt", world.steve, powers=powers), RevokeTicket(ticket=allowed(world))


@rows.row(AccessCode.ASKED_IN_VAIN_TODAY)
def a_leaver_asks_again_on_the_same_day(world: World) -> Attempt:
    world.done(DismissStaff(party=world.bert.id), by=world.b)
    assert world.decision(world.bert, world.steve) == DecisionCode.REQUESTER_NOT_LIVE
    return world.bert, request_of(world.steve)


@rows.row(AccessCode.ASKED_IN_VAIN_TODAY)
def a_leaver_asks_about_another_patient_on_the_same_day(world: World) -> Attempt:
    world.done(DismissStaff(party=world.bert.id), by=world.b)
    assert world.decision(world.bert, world.steve) == DecisionCode.REQUESTER_NOT_LIVE
    return world.bert, request_of(world.mary)


@rows.row(AccessCode.SENDER_NOT_CUSTODIAN)
def the_requesters_hospital_reports(world: World) -> Attempt:
    return world.b, report_of(allowed(world))


@rows.row(AccessCode.NOTHING_RELEASED)
def a_report_of_nothing(world: World) -> Attempt:
    return world.anna, report_of(allowed(world), records=0)


@rows.row(AccessCode.TICKET_NOT_FOUND)
def a_keyholder_reports_on_no_ticket(world: World) -> Attempt:
    install_key(world, [world.c, world.d, world.e])
    return world.c, shares_of(seeded("none"))


@rows.row(AccessCode.SENDER_NOT_KEYHOLDER)
def the_custodian_reports_shares_and_holds_none(world: World) -> Attempt:
    install_key(world, [world.c, world.d, world.e])
    return world.a, shares_of(allowed(world))


@rows.row(AccessCode.SENDER_NOT_KEYHOLDER)
def shares_are_reported_before_there_is_a_key(world: World) -> Attempt:
    return world.a, shares_of(allowed(world))


@rows.row(AccessCode.SENDER_NOT_KEYHOLDER)
def a_holder_of_two_epochs_ago_reports(world: World) -> Attempt:
    install_key(world, [world.c, world.d, world.e], epoch=1)
    for epoch in (2, 3):
        install_key(world, [world.b, world.d, world.e], epoch=epoch)
    return world.c, shares_of(allowed(world))


@rows.row(AccessCode.TICKET_REFUSED)
def shares_of_a_refused_ticket(world: World) -> Attempt:
    install_key(world, [world.c, world.d, world.e])
    return world.c, shares_of(refused(world))


@rows.row(AccessCode.NOTHING_RELEASED)
def shares_of_nothing(world: World) -> Attempt:
    install_key(world, [world.c, world.d, world.e])
    return world.c, shares_of(allowed(world), records=0)


@pytest.mark.parametrize(("code", "arrange", "limits"), rows.params())
def test_refused(
    code: RejectionCode, arrange: Arrange, limits: Limits, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_refused(world, code, arrange, limits, monkeypatch)


# --- decisions ------------------------------------------------------------------------------------------

Story = Callable[[World], tuple[Signer, RequestAccess]]


def a_leaver(world: World) -> tuple[Signer, RequestAccess]:
    world.grant(grant_of(world.steve, world.bert), by=world.steve)
    world.done(DismissStaff(party=world.bert.id), by=world.b)
    return world.bert, request_of(world.steve)


def staff_of_a_removed_member(world: World) -> tuple[Signer, RequestAccess]:
    world.grant(grant_of(world.steve, world.bert), by=world.steve)
    world.propose(RemoveMember(member=world.b.id), ayes=(world.c, world.d, world.e))
    return world.bert, request_of(world.steve)


def unused_rights(world: World) -> tuple[Signer, RequestAccess]:
    world.grant(grant_of(world.steve, world.bert), by=world.steve)
    world.wait((LAPSE_DAYS + 1) * DAY_S)
    return world.bert, request_of(world.steve)


def the_organisations_own_key(world: World) -> tuple[Signer, RequestAccess]:
    world.grant(grant_of(world.steve, world.b), by=world.steve)
    return world.b, request_of(world.steve)


def a_doctor_for_research(world: World) -> tuple[Signer, RequestAccess]:
    world.grant(grant_of(world.steve, world.bert, purposes=mask(Purpose.HRESCH)), by=world.steve)
    return world.bert, request_of(world.steve, purpose=Purpose.HRESCH)


def a_denied_doctor(world: World) -> tuple[Signer, RequestAccess]:
    world.grant(grant_of(world.steve, world.bert), by=world.steve)
    deny = SetRule(
        pseudonym=world.steve.id,
        rule=0,
        who=Who(organisation=world.b.id),
        purposes=TREAT,
        scope=EVERYTHING,
        answer=Answer.DENY,
        expires_s=LATER_S,
    )
    world.done(deny, by=world.steve)
    return world.bert, request_of(world.steve)


def a_stranger(world: World) -> tuple[Signer, RequestAccess]:
    return world.bert, request_of(world.steve)


def an_expired_grant(world: World) -> tuple[Signer, RequestAccess]:
    world.grant(grant_of(world.steve, world.bert, expires_s=START_S + DAY_S), by=world.steve)
    world.wait(DAY_S)
    return world.bert, request_of(world.steve)


def write_only(world: World) -> tuple[Signer, RequestAccess]:
    world.grant(grant_of(world.steve, world.bert, actions=int(Action.WRITE)), by=world.steve)
    return world.bert, request_of(world.steve)


def another_purpose(world: World) -> tuple[Signer, RequestAccess]:
    world.grant(grant_of(world.steve, world.bert), by=world.steve)
    return world.bert, request_of(world.steve, purpose=Purpose.HOPERAT)


def a_higher_ceiling(world: World) -> tuple[Signer, RequestAccess]:
    world.grant(grant_of(world.steve, world.bert), by=world.steve)
    return world.bert, request_of(world.steve, scope=scope_of(Category.RESULT, ceiling=Sensitivity.V))


DECISIONS: tuple[tuple[DecisionCode, Story], ...] = (
    (DecisionCode.REQUESTER_NOT_LIVE, a_leaver),
    (DecisionCode.REQUESTER_NOT_LIVE, staff_of_a_removed_member),
    (DecisionCode.REQUESTER_NOT_LIVE, unused_rights),
    (DecisionCode.ROLE_MAY_NOT_REQUEST, the_organisations_own_key),
    (DecisionCode.ROLE_MAY_NOT_REQUEST, a_doctor_for_research),
    (DecisionCode.DENIED_BY_PATIENT, a_denied_doctor),
    (DecisionCode.NO_GRANT, a_stranger),
    (DecisionCode.GRANT_NOT_LIVE, an_expired_grant),
    (DecisionCode.ACTION_NOT_GRANTED, write_only),
    (DecisionCode.PURPOSE_NOT_COVERED, another_purpose),
    (DecisionCode.SCOPE_NOT_COVERED, a_higher_ceiling),
)


@pytest.mark.parametrize(("code", "story"), DECISIONS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_a_refusal_is_a_successful_transaction_in_the_patients_log(
    code: DecisionCode, story: Story, world: World
) -> None:
    requester, message = story(world)
    before = world.contracts().access.log_heads.get(world.steve.id) or EMPTY_LOG
    decided = world.request(message, by=requester)
    assert code_named(decided.decision) is code
    assert decided.expires_s == world.time_s
    ticket = world.ticket(decided.ticket)
    assert (ticket.decision, ticket.path, ticket.custodian) == (code, None, world.a.id)
    tables = world.contracts().access
    (number, line), *_ = reversed(list(log_of(tables, world.steve.id)))
    assert number == before.count
    assert (line.kind, line.ticket, line.actor, line.decision) == (
        EntryKind.REQUEST,
        decided.ticket,
        requester.id,
        code,
    )
    assert not still_allowed(world.contracts().membership, world.contracts().consent, ticket, world.time_s)
    assert world.broken() == []


def test_every_decision_code_has_a_story() -> None:
    assert {code for code, _ in DECISIONS} == set(DecisionCode)


def test_the_checks_are_made_in_their_order(world: World) -> None:
    """A dismissed doctor who asks for research against a denial is told of the first check, then of the second."""
    deny = SetRule(
        pseudonym=world.steve.id,
        rule=0,
        who=Who(kinds=mask(*OrganisationKind)),
        purposes=mask(Purpose.HRESCH, Purpose.TREAT),
        scope=EVERYTHING,
        answer=Answer.DENY,
        expires_s=LATER_S,
    )
    world.done(deny, by=world.steve)
    assert world.decision(world.bert, world.steve, purpose=Purpose.TREAT) == DecisionCode.DENIED_BY_PATIENT
    assert world.decision(world.bert, world.steve, purpose=Purpose.HRESCH) == DecisionCode.ROLE_MAY_NOT_REQUEST
    world.done(DismissStaff(party=world.bert.id), by=world.b)
    assert world.decision(world.bert, world.steve, purpose=Purpose.HRESCH) == DecisionCode.REQUESTER_NOT_LIVE


def test_a_dead_key_leaves_one_line_a_day_and_no_more(world: World) -> None:
    """Its attempt is in the log; it cannot fill the state (ADR 0004). A day later it is told, and noted, once more."""
    world.done(DismissStaff(party=world.bert.id), by=world.b)
    for at in (START_S + DAY_S, START_S + 2 * DAY_S):
        assert world.decision(world.bert, world.steve, at=at) == DecisionCode.REQUESTER_NOT_LIVE
        for patient in (world.steve, world.mary):
            world.refused(AccessCode.ASKED_IN_VAIN_TODAY, request_of(patient), by=world.bert)
    tables = world.contracts().access
    assert [line.decision for _, line in log_of(tables, world.steve.id)] == [DecisionCode.REQUESTER_NOT_LIVE] * 2
    assert len(list(tables.attempts.scan())) == 1
    # Others are not counted with it, and those who are live may ask in vain as often as they like.
    assert [world.decision(world.bina, world.steve) for _ in range(3)] == [DecisionCode.NO_GRANT] * 3
    assert world.broken() == []


def test_several_requests_of_a_dead_key_in_one_transaction_are_none(world: World) -> None:
    world.done(DismissStaff(party=world.bert.id), by=world.b)
    world.refused(AccessCode.ASKED_IN_VAIN_TODAY, *[request_of(world.steve)] * 2, by=world.bert)
    assert world.decision(world.bert, world.steve) == DecisionCode.REQUESTER_NOT_LIVE


def test_a_key_that_lapsed_and_was_renewed_asks_as_before(world: World) -> None:
    world.wait((LAPSE_DAYS + 1) * DAY_S)
    assert world.decision(world.bert, world.steve) == DecisionCode.REQUESTER_NOT_LIVE
    world.done(RenewStaff(certificate=world.b.certify(world.bert, Role.DOCTOR)), by=world.b)
    assert [world.decision(world.bert, world.steve) for _ in range(2)] == [DecisionCode.NO_GRANT] * 2


def test_of_several_grants_the_nearest_miss_is_named(world: World) -> None:
    world.grant(grant_of(world.steve, world.bert, actions=int(Action.WRITE)), by=world.steve)
    assert world.decision(world.bert, world.steve) == DecisionCode.ACTION_NOT_GRANTED
    world.grant(grant_of(world.steve, world.bert, purposes=mask(Purpose.HPAYMT)), by=world.steve)
    assert world.decision(world.bert, world.steve) == DecisionCode.PURPOSE_NOT_COVERED
    world.grant(grant_of(world.steve, world.bert, scope=scope_of(Category.IMAGE)), by=world.steve)
    assert world.decision(world.bert, world.steve) == DecisionCode.SCOPE_NOT_COVERED


def test_two_halves_do_not_make_a_whole(world: World) -> None:
    """A request must lie inside one path: grants are not added up."""
    for category in (Category.RESULT, Category.IMAGE):
        world.grant(grant_of(world.steve, world.bert, scope=scope_of(category)), by=world.steve)
    both = scope_of(Category.RESULT, Category.IMAGE)
    assert world.decision(world.bert, world.steve, scope=both) == DecisionCode.SCOPE_NOT_COVERED


@pytest.mark.parametrize("role", list(Role), ids=lambda role: role.name)
@pytest.mark.parametrize("purpose", list(Purpose), ids=lambda purpose: purpose.name)
def test_the_role_table_of_purposes_is_the_second_check(role: Role, purpose: Purpose) -> None:
    world = _world_with_every_role()
    listed = in_mask(purpose, ROLE_PURPOSES.get(role, 0))
    decision = world.fork().decision(_holder(world, role), world.steve, purpose=purpose)
    assert (decision != DecisionCode.ROLE_MAY_NOT_REQUEST) == listed


def _world_with_every_role() -> World:
    world = fresh()
    world.appoint("aunt", world.steve)
    return world


def _holder(world: World, role: Role) -> Signer:
    by_role: dict[Role, Signer] = {
        Role.PATIENT: world.steve,
        Role.DOCTOR: world.carl,
        Role.NURSE: world.nora,
        Role.LAB_TECHNICIAN: world.john,
        Role.INSURANCE_AUDITOR: world.ivan,
        Role.REGULATOR: world.gita,
        Role.RESEARCHER: world.rita,
        Role.EMERGENCY_RESPONDER: world.ella,
        Role.ORGANISATION_ADMIN: world.anna,
        Role.CONSORTIUM_ADMIN: world.vera,
        Role.REGISTRAR: world.rosa,
    }
    return by_role.get(role) or Actor("aunt", organisation=world.steve.id)


# --- tickets --------------------------------------------------------------------------------------------


def test_an_allowed_ticket_names_the_whole_path(world: World) -> None:
    root = world.grant(grant_of(world.steve, world.carl, actions=READ_WRITE_PASS_ON), by=world.steve)
    leaf = world.grant(grant_of(world.steve, world.bert, parent=root), by=world.carl)
    decided = world.request(request_of(world.steve), by=world.bert)
    ticket = world.ticket(decided.ticket)
    assert ticket.path is not None
    assert (ticket.path.kind, ticket.path.grants) == (PathKind.GRANT, (root, leaf))
    assert (ticket.requester, ticket.organisation, ticket.hpke_key) == (
        world.bert.id,
        world.b.id,
        world.bert.hpke.public_key,
    )
    assert ticket.expires_s == world.time_s + TICKET_LIFETIME_S


def test_the_patient_reads_own_records_and_is_logged_too(world: World) -> None:
    decided = world.request(request_of(world.steve, scope=EVERYTHING, purpose=Purpose.PATRQT), by=world.steve)
    path = world.ticket(decided.ticket).path
    assert path is not None
    assert path.kind is PathKind.OWNER
    assert (world.contracts().access.log_heads.get(world.steve.id) or EMPTY_LOG).count == 1


def _live(world: World, ticket: bytes, at: int | None = None) -> bool:
    contracts = world.contracts()
    when = world.time_s if at is None else at
    return still_allowed(contracts.membership, contracts.consent, world.ticket(ticket), when)


def test_a_ticket_ends_by_itself(world: World) -> None:
    ticket = allowed(world)
    expires_s = world.ticket(ticket).expires_s
    assert _live(world, ticket, expires_s - 1)
    assert not _live(world, ticket, expires_s)


@pytest.mark.parametrize("who", ["steve", "bert", "aunt"])
def test_a_ticket_is_revoked_by_patient_requester_or_representative(who: str, world: World) -> None:
    aunt = world.appoint("aunt", world.steve, powers=int(Power.REVOKE))
    ticket = allowed(world)
    world.done(RevokeTicket(ticket=ticket), by=aunt if who == "aunt" else getattr(world, who))
    assert not _live(world, ticket)
    kinds = [line.kind for _, line in log_of(world.contracts().access, world.steve.id)]
    assert kinds == [EntryKind.REQUEST, EntryKind.REVOCATION]


def test_a_ticket_dies_with_what_allowed_it(world: World) -> None:
    """The gatekeeper's second look: revoked consent, a leaver or a removed member end open tickets at once."""
    for ending in (
        lambda one, grant_id: one.done(Revoke(pseudonym=one.steve.id, grant_id=grant_id), by=one.steve),
        lambda one, _: one.done(DismissStaff(party=one.bert.id), by=one.b),
        lambda one, _: one.propose(RemoveMember(member=one.b.id), ayes=(one.c, one.d, one.e)),
    ):
        fork = world.fork()
        grant_id = fork.grant(grant_of(fork.steve, fork.bert), by=fork.steve)
        ticket = fork.request(request_of(fork.steve), by=fork.bert).ticket
        assert _live(fork, ticket)
        ending(fork, grant_id)
        assert not _live(fork, ticket)


def test_releases_are_reported_by_the_custodian_also_late(world: World) -> None:
    ticket = allowed(world)
    world.done(report_of(ticket, records=3), by=world.anna)
    world.done(report_of(ticket, records=1), by=world.a, at=world.time_s + 10 * TICKET_LIFETIME_S)
    lines = [line for _, line in log_of(world.contracts().access, world.steve.id)]
    assert [(line.kind, line.records) for line in lines] == [
        (EntryKind.REQUEST, 0),
        (EntryKind.RELEASE, 3),
        (EntryKind.RELEASE, 1),
    ]
    assert lines[1].digest == seeded("reads")


def test_keyholders_report_their_shares_into_the_log_each_for_itself_and_also_late(world: World) -> None:
    """A holder that a resharing left out may still report what it had released before."""
    install_key(world, [world.c, world.d, world.e], epoch=1)
    ticket = allowed(world)
    (event,) = world.done(shares_of(ticket, records=3), by=world.c)
    assert event == SharesReleased(ticket=ticket, pseudonym=world.steve.id, holder=world.c.id, records=3)
    install_key(world, [world.b, world.d, world.e], epoch=2)
    world.done(shares_of(ticket, records=1), by=world.c, at=world.time_s + 10 * TICKET_LIFETIME_S)
    world.done(shares_of(ticket, records=4), by=world.b)
    lines = [line for _, line in log_of(world.contracts().access, world.steve.id)][1:]
    assert [(line.kind, line.organisation, line.records) for line in lines] == [
        (EntryKind.KEY_SHARES, world.c.id, 3),
        (EntryKind.KEY_SHARES, world.c.id, 1),
        (EntryKind.KEY_SHARES, world.b.id, 4),
    ]
    assert lines[0].digest == seeded("shares")
    assert world.contracts().access.log_heads.get(world.steve.id) == _head_over(
        [line for _, line in log_of(world.contracts().access, world.steve.id)]
    )


def test_a_ticket_ends_when_the_key_it_names_is_the_requesters_no_more(world: World) -> None:
    """Lost and recovered, or rotated: what is released under an older ticket would go to whoever has the old key."""
    decided = world.request(request_of(world.steve, scope=EVERYTHING, purpose=Purpose.PATRQT), by=world.steve)
    assert _live(world, decided.ticket)
    tables = world.contracts()
    party = tables.membership.party(world.steve.id)
    assert party is not None
    tables.membership.put_party(world.steve.id, replace(party, hpke_key=seeded("another key")))
    ticket = world.ticket(decided.ticket)
    assert not still_allowed(tables.membership, tables.consent, ticket, world.time_s)
    tables.membership.put_party(world.steve.id, replace(party, public_key=seeded("another signing key")))
    assert still_allowed(tables.membership, tables.consent, ticket, world.time_s)


# --- the log --------------------------------------------------------------------------------------------


def test_the_running_hash_shows_a_shown_log_complete(world: World) -> None:
    ticket = allowed(world)
    world.decision(world.bina, world.steve)
    world.done(report_of(ticket), by=world.anna)
    world.decision(world.carl, world.mary)
    tables = world.contracts().access
    lines = [line for _, line in log_of(tables, world.steve.id)]
    head = tables.log_heads.get(world.steve.id)
    assert head == _head_over(lines)
    assert head != _head_over(lines[:-1])
    assert head != _head_over([lines[1], lines[0], lines[2]])
    assert tables.log_heads.get(world.mary.id) == _head_over([line for _, line in log_of(tables, world.mary.id)])


def _head_over(lines: list[object]) -> LogHead:
    running = EMPTY_LOG.running
    for line in lines:
        running = running_hash(running, line)
    return LogHead(count=len(lines), running=running)


def test_the_log_comes_in_pages(world: World) -> None:
    for _ in range(3):
        world.decision(world.bert, world.steve)
    tables = world.contracts().access
    assert [number for number, _ in log_of(tables, world.steve.id, 0)] == [1, 2]


def test_two_requests_in_one_transaction_make_two_tickets(world: World) -> None:
    one, two = world.done(request_of(world.steve), request_of(world.steve), by=world.bert)
    assert one.ticket != two.ticket
    assert world.broken() == []


# --- the treatment policy -------------------------------------------------------------------------------


def test_the_policy_is_off_unless_the_genesis_says_so(world: World) -> None:
    assert world.decision(world.carl, world.steve) == DecisionCode.NO_GRANT


def test_the_policy_serves_covered_entities_under_an_agreement() -> None:
    """CON-6 with ID-5: within the custodian at once, elsewhere only while an agreement is in force."""
    world = fresh(policy=TreatmentPolicy(enabled=True))
    assert world.decision(world.carl, world.steve) == 0
    assert world.decision(world.nora, world.steve) == 0
    assert world.decision(world.john, world.steve) == DecisionCode.NO_GRANT
    assert world.decision(world.carl, world.steve, purpose=Purpose.CAREMGT) == DecisionCode.NO_GRANT
    restricted = scope_of(Category.RESULT, ceiling=Sensitivity.R)
    assert world.decision(world.carl, world.steve, scope=restricted) == DecisionCode.NO_GRANT
    assert world.decision(world.bert, world.steve) == DecisionCode.NO_GRANT
    terms = seeded("terms")
    world.done(OfferAgreement(other=world.b.id, terms=terms, expires_s=START_S + 30 * DAY_S), by=world.a)
    assert world.decision(world.bert, world.steve) == DecisionCode.NO_GRANT
    world.done(AcceptAgreement(other=world.a.id, terms=terms), by=world.b)
    assert world.decision(world.bert, world.steve) == 0
    assert world.decision(world.bert, world.steve, at=START_S + 30 * DAY_S) == DecisionCode.NO_GRANT


def test_ending_the_agreement_ends_the_policy_between_the_two() -> None:
    world = fresh(policy=TreatmentPolicy(enabled=True))
    terms = seeded("terms")
    world.done(OfferAgreement(other=world.a.id, terms=terms, expires_s=LATER_S), by=world.b)
    world.done(AcceptAgreement(other=world.b.id, terms=terms), by=world.a)
    decided = world.request(request_of(world.steve), by=world.bert)
    path = world.ticket(decided.ticket).path
    assert path is not None
    assert path.kind is PathKind.POLICY
    world.done(EndAgreement(other=world.a.id), by=world.b)
    assert world.decision(world.bert, world.steve) == DecisionCode.NO_GRANT
    assert not _live(world, decided.ticket)


def test_a_patients_directive_narrows_the_policy() -> None:
    world = fresh(policy=TreatmentPolicy(enabled=True))
    for answer, expected in ((Answer.DENY, DecisionCode.DENIED_BY_PATIENT), (Answer.ASK, DecisionCode.NO_GRANT)):
        rule = SetRule(
            pseudonym=world.steve.id,
            rule=1,
            who=Who(party=world.carl.id),
            purposes=TREAT,
            scope=EVERYTHING,
            answer=answer,
            expires_s=LATER_S,
        )
        world.done(rule, by=world.steve)
        assert world.decision(world.carl, world.steve) == expected
        assert world.decision(world.dana, world.steve) == 0


def test_the_policy_may_do_without_agreements() -> None:
    world = fresh(policy=TreatmentPolicy(enabled=True, agreement_required=False))
    assert world.decision(world.bert, world.steve) == 0
    # Insurers and ministries are not covered entities of this policy, and patients are nobody's staff.
    assert world.decision(world.ivan, world.steve, purpose=Purpose.HPAYMT) == DecisionCode.NO_GRANT
    assert world.decision(world.mary, world.steve, purpose=Purpose.PATRQT) == DecisionCode.NO_GRANT


def test_authors_grant_on_what_they_wrote_where_the_policy_lets_them() -> None:
    for authors_may in (True, False):
        policy = TreatmentPolicy(enabled=True, agreement_required=False, authors_may_grant=authors_may)
        world = fresh(policy=policy)
        world.grant(grant_of(world.steve, world.carl, actions=int(Action.WRITE)), by=world.steve)
        world.done(anchor_of(world.steve, "note"), anchor_of(world.steve, "second"), by=world.carl)
        world.done(anchor_of(world.steve, "diary"), by=world.steve)
        mine = scope_of(Category.RESULT, records=(record_id("note"),))
        soon = world.time_s + AUTHOR_GRANT_LIFETIME_S
        grant = grant_of(world.steve, world.bert, scope=mine, expires_s=soon)
        if authors_may:
            world.grant(grant, by=world.carl)
            assert world.decision(world.bert, world.steve, scope=mine) == 0
        else:
            world.refused(ConsentCode.SENDER_NOT_GRANTOR, grant, by=world.carl)
        foreign = scope_of(Category.RESULT, records=tuple(sorted((record_id("note"), record_id("diary")))))
        world.refused(ConsentCode.SENDER_NOT_GRANTOR, grant_of(world.steve, world.bert, scope=foreign), by=world.carl)
        world.refused(ConsentCode.SENDER_NOT_GRANTOR, grant_of(world.steve, world.bert), by=world.carl)
        delegating = grant_of(world.steve, world.bert, scope=mine, actions=READ_WRITE_PASS_ON, expires_s=soon)
        code = ConsentCode.OUTSIDE_POLICY if authors_may else ConsentCode.SENDER_NOT_GRANTOR
        world.refused(code, delegating, by=world.carl)
