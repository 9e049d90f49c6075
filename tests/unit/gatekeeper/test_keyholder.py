"""A keyholder gives a share for a committed, live, allowed ticket of the one who asks, and for nothing else.

Goal: every refusal has its code, gives nothing out, and leaves its line in the audit. Method: one row per code over a
real ledger with five keyholders of whom three suffice. What is released is in ``test_keyholder_releases.py``.
"""

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from carechain.chain.routing import Contracts
from carechain.contracts.access import RevokeTicket
from carechain.contracts.consent.schema import Revoke
from carechain.contracts.membership import DismissStaff
from carechain.contracts.records import Erase
from carechain.core import group
from carechain.core.limits import (
    SHARE_REQUESTS,
    STALE_BLOCK_S,
    TICKET_LIFETIME_S,
)
from carechain.core.quorum import (
    Blinding,
    blinding_context,
    label_bytes,
)
from carechain.core.vocabulary import Category, Purpose, Sensitivity
from carechain.gatekeeper.keyholder import RATES, ShareRates
from carechain.gatekeeper.rates import Rate
from carechain.sdk.shares import (
    KeyholderCode,
    SharesRefused,
    SharesRequest,
    decode_request,
)
from carechain.sealing.quorum.proofs import prove_dleq
from house import WorldLedger
from sealed_world import SealedWorld, Share, Written, label_of, rewrite
from world import CHAIN_ID, Signer, anchor_of, anything, record_id, scope_of, seeded

Sent = tuple[Signer, SharesRequest]
Story = Callable[[SealedWorld], Sent]
STORIES: list[tuple[KeyholderCode, Story]] = []


def changed(request: SharesRequest, **fields: object) -> SharesRequest:
    """The same request with the first item altered."""
    first, *others = request.items
    values = {"record": first.record, "version": first.version, "capsule": first.capsule, "blinding": first.blinding}
    return replace(request, items=(type(first)(**values | fields), *others))


def refused(code: KeyholderCode) -> Callable[[Story], Story]:
    def register(story: Story) -> Story:
        STORIES.append((code, story))
        return story

    return register


# --- one row per code -----------------------------------------------------------------------------------


@refused(KeyholderCode.TOO_MANY_SHARES)
def more_than_one_party_gets(sealed: SealedWorld) -> Sent:
    sealed.keyholders["a"] = sealed.keyholder(
        sealed.world.a, rates=ShareRates(party=Rate(per_s=1, burst=1), total=RATES.total)
    )
    written = [sealed.write(name) for name in ("one", "two")]
    return sealed.world.bert, sealed.request(sealed.ticket(), *written)


@refused(KeyholderCode.TOO_MANY_SHARES)
def more_than_all_of_them_get(sealed: SealedWorld) -> Sent:
    sealed.keyholders["a"] = sealed.keyholder(
        sealed.world.a, rates=ShareRates(party=RATES.party, total=Rate(per_s=1, burst=1))
    )
    written = [sealed.write(name) for name in ("one", "two")]
    return sealed.world.bert, sealed.request(sealed.ticket(), *written)


@refused(KeyholderCode.BUSY)
def as_many_requests_as_it_may_serve(sealed: SealedWorld) -> Sent:
    sealed.keyholders["a"]._serving = SHARE_REQUESTS
    return sealed.world.bert, sealed.request(sealed.ticket(), sealed.write("one"))


@refused(KeyholderCode.LEDGER_STALE)
def the_chain_stands_still(sealed: SealedWorld) -> Sent:
    request = sealed.request(sealed.ticket(), sealed.write("one"))
    sealed.skew_s = STALE_BLOCK_S + 1
    return sealed.world.bert, request


@refused(KeyholderCode.LEDGER_STALE)
def the_last_block_comes_from_the_future(sealed: SealedWorld) -> Sent:
    request = sealed.request(sealed.ticket(), sealed.write("one"))
    sealed.skew_s = -STALE_BLOCK_S - 1
    return sealed.world.bert, request


@refused(KeyholderCode.TICKET_UNKNOWN)
def no_ticket(sealed: SealedWorld) -> Sent:
    return sealed.world.bert, sealed.request(seeded("none"), sealed.write("one"))


@refused(KeyholderCode.TICKET_UNKNOWN)
def the_replica_is_behind_the_tickets_block(sealed: SealedWorld) -> Sent:
    written = sealed.write("one")
    behind = WorldLedger(sealed.world.fork())
    request = sealed.request(sealed.ticket(), written)
    sealed.keyholders["a"] = sealed.keyholder(sealed.world.a, ledger=behind)
    return sealed.world.bert, request


@refused(KeyholderCode.NOT_THE_REQUESTER)
def a_colleague_with_the_doctors_ticket(sealed: SealedWorld) -> Sent:
    bina = sealed.world.bina
    return bina, sealed.request(sealed.ticket(), sealed.write("one"), by=bina)


@refused(KeyholderCode.TICKET_REFUSED)
def a_refused_ticket(sealed: SealedWorld) -> Sent:
    bina = sealed.world.bina
    return bina, sealed.request(sealed.ticket(by=bina), sealed.write("one"), by=bina)


@refused(KeyholderCode.TICKET_REVOKED)
def the_patient_revoked_the_ticket(sealed: SealedWorld) -> Sent:
    request = sealed.request(sealed.ticket(), sealed.write("one"))
    sealed.world.done(RevokeTicket(ticket=request.ticket), by=sealed.world.steve)
    return sealed.world.bert, request


@refused(KeyholderCode.TICKET_EXPIRED)
def the_ticket_is_over(sealed: SealedWorld) -> Sent:
    request = sealed.request(sealed.ticket(), sealed.write("one"))
    sealed.world.wait(TICKET_LIFETIME_S)
    return sealed.world.bert, request


@refused(KeyholderCode.NO_LONGER_ALLOWED)
def the_patient_revoked_the_grant(sealed: SealedWorld) -> Sent:
    request = sealed.request(sealed.ticket(), sealed.write("one"))
    sealed.world.done(Revoke(pseudonym=sealed.world.steve.id, grant_id=sealed.may_read), by=sealed.world.steve)
    return sealed.world.bert, request


@refused(KeyholderCode.NO_LONGER_ALLOWED)
def the_doctor_was_dismissed(sealed: SealedWorld) -> Sent:
    request = sealed.request(sealed.ticket(), sealed.write("one"))
    sealed.world.done(DismissStaff(party=sealed.world.bert.id), by=sealed.world.b)
    return sealed.world.bert, request


@refused(KeyholderCode.PSEUDONYMS_ONLY)
def a_researcher(sealed: SealedWorld) -> Sent:
    world = sealed.world
    world.grant(anything(world.steve, world.rita), by=world.steve)
    ticket = sealed.ticket(by=world.rita, purpose=Purpose.HRESCH)
    return world.rita, sealed.request(ticket, sealed.write("one"), by=world.rita)


@refused(KeyholderCode.NO_SHARE)
def no_keyholder_of_this_epoch(sealed: SealedWorld) -> Sent:
    world = sealed.world
    request = sealed.request(sealed.ticket(), sealed.write("one"))
    sealed.install(epoch=2, members=[world.b, world.c, world.d, world.e, world.f])
    return world.bert, request


@refused(KeyholderCode.NO_SHARE)
def its_file_is_of_the_epoch_before(sealed: SealedWorld) -> Sent:
    old = sealed.secrets["a"].by_epoch[1]
    request = sealed.request(sealed.ticket(), sealed.write("one"))
    sealed.install(epoch=2)
    sealed.secrets["a"].by_epoch = {1: old}
    return sealed.world.bert, request


@refused(KeyholderCode.NO_SHARE)
def its_share_is_not_the_one_on_the_ledger(sealed: SealedWorld) -> Sent:
    """A restored file, say: answering with it would convict an honest keyholder."""
    own = sealed.secrets["a"].by_epoch[1]
    sealed.secrets["a"].by_epoch[1] = Share(1, own.index, group.scalar_add(own.scalar, group.ONE))
    return sealed.world.bert, sealed.request(sealed.ticket(), sealed.write("one"))


@refused(KeyholderCode.RECORD_REPEATED)
def one_record_twice(sealed: SealedWorld) -> Sent:
    written = sealed.write("one")
    return sealed.world.bert, sealed.request(sealed.ticket(), written, written)


@refused(KeyholderCode.RECORD_UNKNOWN)
def no_such_record(sealed: SealedWorld) -> Sent:
    request = sealed.request(sealed.ticket(), sealed.write("one"))
    return sealed.world.bert, changed(request, record=record_id("none"))


@refused(KeyholderCode.RECORD_UNKNOWN)
def no_such_version(sealed: SealedWorld) -> Sent:
    request = sealed.request(sealed.ticket(), sealed.write("one"))
    return sealed.world.bert, changed(request, version=2)


@refused(KeyholderCode.RECORD_UNKNOWN)
def whatever_is_newest(sealed: SealedWorld) -> Sent:
    request = sealed.request(sealed.ticket(), sealed.write("one"))
    return sealed.world.bert, changed(request, version=0)


@refused(KeyholderCode.RECORD_UNKNOWN)
def a_record_of_another_patient(sealed: SealedWorld) -> Sent:
    world = sealed.world
    world.grant(anything(world.mary, world.a), by=world.mary)
    marys = sealed.write("marys", patient=world.mary)
    return world.bert, sealed.request(sealed.ticket(), marys)


@refused(KeyholderCode.RECORD_UNKNOWN)
def an_erased_record(sealed: SealedWorld) -> Sent:
    steve = sealed.world.steve
    request = sealed.request(sealed.ticket(), sealed.write("one"))
    sealed.world.done(Erase(pseudonym=steve.id, record=record_id("one")), by=steve)
    return sealed.world.bert, request


@refused(KeyholderCode.OUTSIDE_SCOPE)
def above_the_ceiling(sealed: SealedWorld) -> Sent:
    return sealed.world.bert, sealed.request(sealed.ticket(), sealed.write("one", sensitivity=Sensitivity.R))


@refused(KeyholderCode.OUTSIDE_SCOPE)
def another_category(sealed: SealedWorld) -> Sent:
    return sealed.world.bert, sealed.request(sealed.ticket(), sealed.write("one", category=Category.IMAGE))


@refused(KeyholderCode.OUTSIDE_SCOPE)
def another_day(sealed: SealedWorld) -> Sent:
    ticket = sealed.ticket(scope=scope_of(Category.RESULT, first_day=45_001))
    return sealed.world.bert, sealed.request(ticket, sealed.write("one"))


@refused(KeyholderCode.OUTSIDE_SCOPE)
def another_record_than_the_ticket_names(sealed: SealedWorld) -> Sent:
    ticket = sealed.ticket(scope=scope_of(Category.RESULT, records=(record_id("two"),)))
    return sealed.world.bert, sealed.request(ticket, sealed.write("one"))


@refused(KeyholderCode.OUTSIDE_SCOPE)
def an_old_version_of_a_record_that_is_graded_higher_now(sealed: SealedWorld) -> Sent:
    old = sealed.write("one")
    sealed.write("one", version=2, sensitivity=Sensitivity.R)
    return sealed.world.bert, sealed.request(sealed.ticket(), old)


@refused(KeyholderCode.OUTSIDE_SCOPE)
def graded_higher_between_ticket_and_request(sealed: SealedWorld) -> Sent:
    old = sealed.write("one")
    request = sealed.request(sealed.ticket(), old)
    sealed.write("one", version=2, sensitivity=Sensitivity.R)
    return sealed.world.bert, request


@refused(KeyholderCode.NOT_SEALED)
def a_record_in_the_custodians_charts(sealed: SealedWorld) -> Sent:
    world = sealed.world
    world.done(anchor_of(world.steve, "chart"), by=world.carl)
    request = sealed.request(sealed.ticket(), sealed.write("one"))
    return world.bert, changed(request, record=record_id("chart"))


@refused(KeyholderCode.CAPSULE_NOT_ANCHORED)
def the_capsule_of_another_record(sealed: SealedWorld) -> Sent:
    one, two = sealed.write("one"), sealed.write("two")
    return sealed.world.bert, changed(sealed.request(sealed.ticket(), one), capsule=two.data)


@refused(KeyholderCode.CAPSULE_NOT_ANCHORED)
def an_altered_capsule(sealed: SealedWorld) -> Sent:
    one = sealed.write("one")
    altered = one.data[:-1] + bytes([one.data[-1] ^ 1])
    return sealed.world.bert, changed(sealed.request(sealed.ticket(), one), capsule=altered)


@refused(KeyholderCode.CAPSULE_UNSOUND)
def a_capsule_that_a_writer_took_from_another_record(sealed: SealedWorld) -> Sent:
    """A dishonest writer anchors a copy of a restricted record's capsule under a harmless label, to have it opened."""
    secret = sealed.write("secret", sensitivity=Sensitivity.V)
    decoy = sealed.write("decoy", data=secret.data)
    return sealed.world.bert, sealed.request(sealed.ticket(), decoy)


@refused(KeyholderCode.CAPSULE_UNSOUND)
def a_capsule_with_its_label_exchanged(sealed: SealedWorld) -> Sent:
    """The same, with the label's hash in the capsule exchanged too: the proof covers it."""
    secret = sealed.write("secret", sensitivity=Sensitivity.V)
    forged = replace(secret.capsule, label=label_bytes(label_of(sealed.world.steve.id, "decoy")))
    return sealed.world.bert, sealed.request(sealed.ticket(), sealed.write("decoy", data=forged.encode()))


@refused(KeyholderCode.CAPSULE_UNSOUND)
def bytes_that_are_no_capsule(sealed: SealedWorld) -> Sent:
    return sealed.world.bert, sealed.request(sealed.ticket(), sealed.write("one", data=b"no capsule"))


@refused(KeyholderCode.BLINDING_REPEATED)
def one_blinding_for_two_records(sealed: SealedWorld) -> Sent:
    request = sealed.request(sealed.ticket(), sealed.write("one"), sealed.write("two"))
    return sealed.world.bert, changed(request, blinding=request.items[1].blinding)


@refused(KeyholderCode.BLINDING_UNSOUND)
def a_blinding_made_for_another_record(sealed: SealedWorld) -> Sent:
    one, two = sealed.write("one"), sealed.write("two")
    ticket = sealed.ticket()
    other = sealed.blinding(ticket, two).blinding
    return sealed.world.bert, changed(sealed.request(ticket, one), blinding=other)


@refused(KeyholderCode.BLINDING_UNSOUND)
def a_blinding_made_for_an_older_ticket(sealed: SealedWorld) -> Sent:
    one = sealed.write("one")
    older = sealed.blinding(sealed.ticket(), one).blinding
    return sealed.world.bert, changed(sealed.request(sealed.ticket(), one), blinding=older)


@refused(KeyholderCode.BLINDING_UNSOUND)
def a_blinding_that_somebody_else_made(sealed: SealedWorld) -> Sent:
    one, ticket = sealed.write("one"), sealed.ticket()
    theirs = sealed.blinding(ticket, one, sealed.world.bina).blinding
    return sealed.world.bert, changed(sealed.request(ticket, one), blinding=theirs)


@refused(KeyholderCode.BLINDING_UNSOUND)
def a_point_chosen_without_knowing_its_logarithm(sealed: SealedWorld) -> Sent:
    """Q = R' - R would make the share one of another record's R'; nobody can prove to know its logarithm."""
    one, secret = sealed.write("one"), sealed.write("secret", sensitivity=Sensitivity.V)
    request = sealed.request(sealed.ticket(), one)
    rogue = group.sub(secret.capsule.r_point, one.capsule.r_point)
    rogue_bar = group.sub(secret.capsule.r_bar, one.capsule.r_bar)
    blinding = Blinding(q_point=rogue, q_bar=rogue_bar, proof=request.items[0].blinding.proof)
    return sealed.world.bert, changed(request, blinding=blinding)


@refused(KeyholderCode.BLINDING_UNSOUND)
def points_that_are_none(sealed: SealedWorld) -> Sent:
    request = sealed.request(sealed.ticket(), sealed.write("one"))
    blinding = replace(request.items[0].blinding, q_point=b"\xff" * 32)
    return sealed.world.bert, changed(request, blinding=blinding)


@refused(KeyholderCode.BLINDED_TO_NOTHING)
def a_writer_who_undoes_its_own_capsule(sealed: SealedWorld) -> Sent:
    """Only who knows r of the capsule can prove Q = -R. It has the key anyway, and still gets no x·0."""
    one, ticket = sealed.write("one"), sealed.ticket()
    entropy, public_key = seeded("capsule", "one", 1), sealed.key.public_key
    r = group.hash_to_scalar("carechain/capsule-secret/1", entropy, one.key, public_key, one.capsule.label)
    assert group.base_mul(r) == one.capsule.r_point
    blinding = blinding_with(group.scalar_negate(r), ticket, one, sealed.world.bert)
    return sealed.world.bert, changed(sealed.request(ticket, one), blinding=blinding)


@refused(KeyholderCode.KEY_UNUSABLE)
def a_reading_key_that_nothing_can_be_sealed_to(sealed: SealedWorld) -> Sent:
    world = sealed.world
    request = sealed.request(sealed.ticket(), sealed.write("one"))

    def unusable(contracts: Contracts) -> None:
        ticket, party = contracts.access.tickets.get(request.ticket), contracts.membership.party(world.bert.id)
        assert ticket is not None
        assert party is not None
        contracts.access.tickets.put(request.ticket, row=replace(ticket, hpke_key=bytes(32)))
        contracts.membership.put_party(world.bert.id, replace(party, hpke_key=bytes(32)))

    rewrite(world, unusable)
    return world.bert, request


def blinding_with(q: bytes, ticket: bytes, written: Written, by: Signer) -> Blinding:
    """A blinding with a q of one's choice, and its proof."""
    context = blinding_context(
        chain_id=CHAIN_ID, ticket=ticket, record=written.record, version=written.version, sender=by.id
    )
    q_point, q_bar = group.base_mul(q), group.mul(q, group.SECOND)
    proof = prove_dleq(
        q,
        context=context,
        base1=group.GENERATOR,
        value1=q_point,
        base2=group.SECOND,
        value2=q_bar,
        entropy=seeded("proof"),
    )
    return Blinding(q_point=q_point, q_bar=q_bar, proof=proof)


@pytest.mark.parametrize(("code", "story"), [pytest.param(*one, id=one[1].__name__) for one in STORIES])
def test_refused(code: KeyholderCode, story: Story, sealed: SealedWorld) -> None:
    """With its code, nothing given out, and a line in the audit for whatever was looked at."""
    by, request = story(sealed)
    with pytest.raises(SharesRefused) as caught:
        sealed.ask(by, request)
    assert caught.value.code is code
    lines = [one.read for one in sealed.audits["a"].entries()]
    if code in (KeyholderCode.TOO_MANY_SHARES, KeyholderCode.BUSY):
        assert lines == []
    else:
        assert [(line.code, line.requester, line.ticket) for line in lines] == [(code, by.id, request.ticket)]
        about = () if caught.value.record_id is None else ((caught.value.record_id, 0),)
        assert lines[0].records == about
    assert sealed.audits["a"].unreported() is None


def test_every_code_has_a_story() -> None:
    assert {code for code, _ in STORIES} | {KeyholderCode.REQUEST_MALFORMED} == set(KeyholderCode)


@pytest.mark.parametrize("data", [b"", b"\x80", b"\xc1", b"\x81\xa6ticket\xc4\x00", b"\x91" * 2000], ids=range(5))
def test_what_is_no_request_is_malformed(data: bytes) -> None:
    with pytest.raises(SharesRefused) as caught:
        decode_request(data)
    assert caught.value.code is KeyholderCode.REQUEST_MALFORMED
