"""Attacks with tickets. Every case: :mod:`attacks.conftest`.

Goal: no keyholder gives a share for anything but a live, allowed ticket of the one who asks, whatever a gatekeeper, a
thief or a former grantee brings. Method: real keyholders on a real ledger; five of five must refuse.
"""

import asyncio
from hashlib import sha256

import pytest

from attacks.cast import remade
from carechain.contracts.access import AccessCode, ReportShares, RevokeTicket
from carechain.contracts.consent.schema import Revoke
from carechain.contracts.membership import DismissStaff
from carechain.contracts.records import SealedHashes
from carechain.contracts.rotation import RotateStaff, rotation_message
from carechain.core.limits import SHARES_PER_PARTY_BURST, SHARES_PER_REQUEST, STALE_BLOCK_S, TICKET_LIFETIME_S
from carechain.core.vocabulary import Category, Purpose, Role, Sensitivity
from carechain.gatekeeper.keyholder import ShareRates
from carechain.gatekeeper.rates import Rate
from carechain.sdk.gathering import NotEnoughShares
from carechain.sdk.shares import KeyholderCode, SharesRefused, SharesRequest
from house import WorldLedger
from sealed_world import CARE, SealedWorld
from world import (
    CHAIN_ID,
    READ_WRITE_PASS_ON,
    Actor,
    Signer,
    anchor_of,
    anything,
    grant_of,
    record_id,
    scope_of,
    seeded,
)


def refused(sealed: SealedWorld, code: KeyholderCode, request: SharesRequest, *, by: Signer | None = None) -> None:
    """No keyholder of five gives a share, and each leaves a line in its audit that says why."""
    who = by or sealed.world.bert
    for label in "abcde":
        with pytest.raises(SharesRefused) as caught:
            sealed.ask(who, request, label)
        assert caught.value.code is code
        last = sealed.audits[label].entries()[-1].read
        assert (last.code, last.requester, last.ticket) == (code, who.id, request.ticket)


# --- whose, and for what ----------------------------------------------------------------------------------


def test_invented_ticket(sealed: SealedWorld) -> None:
    """A number that the ledger never gave."""
    refused(sealed, KeyholderCode.TICKET_UNKNOWN, sealed.request(seeded("invented"), sealed.write("one")))


def test_ticket_of_another_requester(sealed: SealedWorld) -> None:
    """A colleague who knows the number of the doctor's ticket; everybody on the ledger can."""
    bina = sealed.world.bina
    request = sealed.request(sealed.ticket(), sealed.write("one"), by=bina)
    refused(sealed, KeyholderCode.NOT_THE_REQUESTER, request, by=bina)


def test_refused_ticket(sealed: SealedWorld) -> None:
    """The ledger refused the request; the ticket that says so is shown as if it were one."""
    bina = sealed.world.bina
    refused(
        sealed,
        KeyholderCode.TICKET_REFUSED,
        sealed.request(sealed.ticket(by=bina), sealed.write("one"), by=bina),
        by=bina,
    )


def test_expired_ticket(sealed: SealedWorld) -> None:
    """The day after."""
    request = sealed.request(sealed.ticket(), sealed.write("one"))
    sealed.world.wait(TICKET_LIFETIME_S)
    refused(sealed, KeyholderCode.TICKET_EXPIRED, request)


def test_revoked_ticket(sealed: SealedWorld) -> None:
    """The patient ended this one ticket; the grant behind it lives on."""
    request = sealed.request(sealed.ticket(), sealed.write("one"))
    sealed.world.done(RevokeTicket(ticket=request.ticket), by=sealed.world.steve)
    refused(sealed, KeyholderCode.TICKET_REVOKED, request)


def test_ticket_of_another_record(sealed: SealedWorld) -> None:
    """The ticket names one record; the requester asks with it for the one beside it."""
    ticket = sealed.ticket(scope=scope_of(Category.RESULT, records=(record_id("two"),)))
    sealed.write("two")
    refused(sealed, KeyholderCode.OUTSIDE_SCOPE, sealed.request(ticket, sealed.write("one")))


def test_ticket_of_another_patient(sealed: SealedWorld) -> None:
    """Steve's ticket, Mary's record, once under its own id and once anchored by Steve under the same id."""
    world = sealed.world
    world.grant(anything(world.mary, world.a), by=world.mary)
    marys = sealed.write("marys", patient=world.mary)
    refused(sealed, KeyholderCode.RECORD_UNKNOWN, sealed.request(sealed.ticket(), marys))
    copied = SealedHashes(capsule=sha256(marys.data).digest(), object=seeded("a copy of the object"))
    world.done(anchor_of(world.steve, "marys", sealed=copied), by=world.steve)
    refused(sealed, KeyholderCode.CAPSULE_UNSOUND, sealed.request(sealed.ticket(), marys))


def test_ticket_for_research(sealed: SealedWorld) -> None:
    """A researcher with a grant may see a study's view; a share would be the record as it is."""
    world = sealed.world
    world.grant(anything(world.steve, world.rita), by=world.steve)
    ticket = sealed.ticket(by=world.rita, purpose=Purpose.HRESCH)
    request = sealed.request(ticket, sealed.write("one"), by=world.rita)
    refused(sealed, KeyholderCode.PSEUDONYMS_ONLY, request, by=world.rita)


# --- what has ended ---------------------------------------------------------------------------------------


def test_ticket_after_the_grants_ancestor_died(sealed: SealedWorld) -> None:
    """Steve trusts Dana, who passes on to Nora, who passes on to Bina. Steve takes it back from Dana."""
    world = sealed.world
    parent = world.grant(anything(world.steve, world.dana), by=world.steve)
    root = parent
    for by, to in ((world.dana, world.nora), (world.nora, world.bina)):
        passed_on = grant_of(world.steve, to, parent=parent, scope=CARE, actions=READ_WRITE_PASS_ON)
        parent = world.grant(passed_on, by=by)
    one = sealed.write("one")
    request = sealed.request(sealed.ticket(by=world.bina), one, by=world.bina)
    sealed.ask(world.bina, request)
    world.done(Revoke(pseudonym=world.steve.id, grant_id=root), by=world.steve)
    refused(sealed, KeyholderCode.NO_LONGER_ALLOWED, request, by=world.bina)
    again = sealed.request(sealed.ticket(by=world.bina), one, by=world.bina)
    refused(sealed, KeyholderCode.TICKET_REFUSED, again, by=world.bina)


def test_ticket_of_a_doctor_who_was_dismissed(sealed: SealedWorld) -> None:
    """The grant, the ticket and the key are all as they were; only the hospital has let the doctor go."""
    request = sealed.request(sealed.ticket(), sealed.write("one"))
    sealed.world.done(DismissStaff(party=sealed.world.bert.id), by=sealed.world.b)
    refused(sealed, KeyholderCode.NO_LONGER_ALLOWED, request)


def test_ticket_of_a_stolen_key_after_rotation(sealed: SealedWorld) -> None:
    """The thief has Bert's old keys and his live ticket, which names the old reading key."""
    world = sealed.world
    request = sealed.request(sealed.ticket(), sealed.write("one"))
    new = Actor("bert's new key", organisation=world.b.id)
    wanted = rotation_message(
        chain_id=CHAIN_ID,
        party=world.bert.id,
        suite=new.signing.suite,
        public_key=new.signing.public_key,
        hpke_key=new.hpke.public_key,
    )
    rotated = RotateStaff(
        certificate=world.b.certify(new, Role.DOCTOR, party=world.bert.id),
        hpke_key=new.hpke.public_key,
        proof=new.signing.sign(wanted),
    )
    world.done(rotated, by=world.b)
    refused(sealed, KeyholderCode.NO_LONGER_ALLOWED, request)


# --- grades -----------------------------------------------------------------------------------------------


def test_above_the_ceiling_with_the_gatekeepers_help(sealed: SealedWorld) -> None:
    """The custodian's operator hands out object and capsule of an R record; the grant goes to N. KEY-1, grading."""
    restricted = sealed.write("restricted", sensitivity=Sensitivity.R)
    refused(sealed, KeyholderCode.OUTSIDE_SCOPE, sealed.request(sealed.ticket(), restricted))
    with pytest.raises(NotEnoughShares):
        asyncio.run(sealed.gatherer().keys(sealed.ticket(), [restricted.to_release()]))
    wide = sealed.ticket(scope=scope_of(Category.RESULT, ceiling=Sensitivity.R))
    refused(sealed, KeyholderCode.TICKET_REFUSED, sealed.request(wide, restricted))


def test_older_version_of_a_regraded_record(sealed: SealedWorld) -> None:
    """Version 1 was N and is now known to be too much: version 2 is R. The old capsule must not open any more."""
    old = sealed.write("one")
    request = sealed.request(sealed.ticket(), old)
    sealed.ask(sealed.world.bert, request)
    new = sealed.write("one", version=2, sensitivity=Sensitivity.R)
    for written in (old, new):
        refused(sealed, KeyholderCode.OUTSIDE_SCOPE, sealed.request(request.ticket, written))


def test_newer_version_under_a_lower_grade(sealed: SealedWorld) -> None:
    """A custodian writes a harmless version 2 over an R record: version 1 keeps the grade it was sealed under."""
    restricted = sealed.write("one", sensitivity=Sensitivity.R)
    sealed.write("one", version=2)
    refused(sealed, KeyholderCode.OUTSIDE_SCOPE, sealed.request(sealed.ticket(), restricted))


def test_version_zero_as_a_wildcard(sealed: SealedWorld) -> None:
    """At a gatekeeper version 0 asks for the newest; a capsule, a label and a proof are about one version."""
    request = sealed.request(sealed.ticket(), sealed.write("one"))
    refused(sealed, KeyholderCode.RECORD_UNKNOWN, remade(request, version=0))


# --- the keyholder's own ledger ---------------------------------------------------------------------------


def test_keyholder_behind_the_ledger_shown_a_ticket(sealed: SealedWorld) -> None:
    """Its replica has not seen the block. It believes what it has, not what it is shown: try again later."""
    one = sealed.write("one")
    behind = WorldLedger(sealed.world.fork())
    request = sealed.request(sealed.ticket(), one)
    for label in "abcde":
        sealed.keyholders[label] = sealed.keyholder(getattr(sealed.world, label), ledger=behind)
    refused(sealed, KeyholderCode.TICKET_UNKNOWN, request)


def test_stale_chain_that_keeps_a_ticket_alive(sealed: SealedWorld) -> None:
    """Who stops the chain stops block time, by which tickets expire; or sends a block from the future."""
    request = sealed.request(sealed.ticket(), sealed.write("one"))
    for skew_s in (STALE_BLOCK_S + 1, -STALE_BLOCK_S - 1):
        sealed.skew_s = skew_s
        refused(sealed, KeyholderCode.LEDGER_STALE, request)


def test_rate_limit_exhausted_by_a_stranger(sealed: SealedWorld) -> None:
    """A live party without a ticket asks as much as it can; the doctor in a hurry gets the share all the same."""
    world = sealed.world
    rates = ShareRates(
        party=Rate(per_s=1, burst=2 * SHARES_PER_REQUEST), total=Rate(per_s=1, burst=2 * SHARES_PER_REQUEST)
    )
    sealed.keyholders["a"] = sealed.keyholder(world.a, rates=rates)
    one, ticket = sealed.write("one"), sealed.ticket()
    codes = []
    flood = sealed.request(ticket, one, by=world.gita)
    for _ in range(2 * SHARES_PER_REQUEST + 5):
        with pytest.raises(SharesRefused) as caught:
            sealed.ask(world.gita, flood)
        codes.append(caught.value.code)
    assert codes[0] is KeyholderCode.NOT_THE_REQUESTER
    assert codes[-1] is KeyholderCode.TOO_MANY_SHARES
    lines = len(sealed.audits["a"].entries(limit=SHARES_PER_PARTY_BURST))
    assert lines <= 2 * SHARES_PER_REQUEST, "what is refused for its rate fills no disk"
    assert sealed.ask(world.bert, sealed.request(ticket, one)).epoch == 1


def test_false_report_of_shares_in_a_patients_log(sealed: SealedWorld) -> None:
    """A member without a share writes into the log that it released some, to hide who did, or to frighten."""
    ticket = sealed.ticket()
    report = ReportShares(ticket=ticket, records=1, digest=seeded("digest"))
    sealed.world.refused(AccessCode.SENDER_NOT_KEYHOLDER, report, by=sealed.world.f)
