"""What a keyholder releases, and what happens between its decision and its answer.

Goal: a share is right, signed, sealed to the key that the ticket names, audited before it is answered and reported;
what changes on the ledger meanwhile is in time; rates and memory are bounded. Method: a real ledger and real audits,
with the world made to move at the moment a share is computed.
"""

import asyncio
from collections.abc import Callable

import msgspec
import pytest
from msgspec.structs import replace

from carechain.contracts.access import EntryKind
from carechain.contracts.consent.schema import Revoke
from carechain.contracts.records import Erase
from carechain.core.crypto import verify
from carechain.core.limits import (
    SHARES_AT_ONCE,
    SHARES_PER_REQUEST,
    SHARES_REQUEST_BYTES,
)
from carechain.core.quorum import (
    BadCapsule,
    check_statement,
    combined_point,
    statement_bytes,
)
from carechain.core.vocabulary import Sensitivity
from carechain.gatekeeper import keyholder as keyholder_module
from carechain.gatekeeper.audit import AuditUnavailable, reads_digest
from carechain.gatekeeper.keyholder import RATES, ShareRates, SoundCapsules
from carechain.gatekeeper.rates import Bucket, Buckets, Rate
from carechain.sdk.shares import (
    KeyholderCode,
    SharesAnswer,
    SharesRefused,
    decode_request,
    open_shares,
)
from carechain.sealing.hpke import CannotOpen
from sealed_world import SealedWorld
from world import CHAIN_ID, record_id, seeded

# --- what is released -----------------------------------------------------------------------------------


def test_a_share_is_right_signed_and_sealed_to_the_key_the_ticket_names(sealed: SealedWorld) -> None:
    written, ticket = [sealed.write(name) for name in ("one", "two")], sealed.ticket()
    request = sealed.request(ticket, *written)
    answer = sealed.ask(sealed.world.bert, request)
    seat = sealed.key.holder(sealed.world.a.id)
    assert seat is not None
    shares = sealed.opened(answer, ticket)
    for signed, one, item in zip(shares, written, request.items, strict=True):
        statement = signed.statement
        assert (statement.ticket, statement.record, statement.version) == (ticket, one.record, one.version)
        assert statement.combined == combined_point(one.capsule, item.blinding)
        assert (statement.share.epoch, statement.share.index) == (1, seat.index)
        check_statement(CHAIN_ID, statement, holder_key=seat.key)
        a = sealed.world.a
        verify(
            suite=a.signing.suite,
            public_key=a.signing.public_key,
            signature=signed.signature,
            message=statement_bytes(CHAIN_ID, statement),
        )
    bina = sealed.world.bina
    with pytest.raises(CannotOpen):
        open_shares(answer, chain_id=CHAIN_ID, ticket_id=ticket, requester=bina.id, private_key=bina.hpke)
    altered = answer.sealed[:-1] + bytes([answer.sealed[-1] ^ 1])
    for other in (replace(answer, epoch=2), replace(answer, sealed=altered)):
        with pytest.raises(CannotOpen):
            sealed.opened(other, ticket)
    with pytest.raises(CannotOpen):
        sealed.opened(answer, seeded("another ticket"))


def test_both_versions_of_a_record_open_each_with_its_own_capsule(sealed: SealedWorld) -> None:
    old, new = sealed.write("one"), sealed.write("one", version=2)
    ticket = sealed.ticket()
    for one in (old, new):
        (signed,) = sealed.opened(sealed.ask(sealed.world.bert, sealed.request(ticket, one)), ticket)
        assert signed.statement.version == one.version


def test_the_holder_of_the_next_epoch_answers_with_its_new_share(sealed: SealedWorld) -> None:
    written, ticket = sealed.write("one"), sealed.ticket()
    sealed.ask(sealed.world.bert, sealed.request(ticket, written))
    sealed.install(epoch=2)
    (signed,) = sealed.opened(sealed.ask(sealed.world.bert, sealed.request(ticket, written)), ticket)
    seat = sealed.key.holder(sealed.world.a.id)
    assert seat is not None
    check_statement(CHAIN_ID, signed.statement, holder_key=seat.key)
    assert signed.statement.share.epoch == 2


def test_nothing_that_is_printed_shows_a_share_of_the_key(sealed: SealedWorld) -> None:
    written, ticket = sealed.write("one"), sealed.ticket()
    sealed.ask(sealed.world.bert, sealed.request(ticket, written))
    scalar = sealed.secrets["a"].by_epoch[1].scalar
    holder = sealed.keyholders["a"]
    shown = repr(holder._seat) + repr(vars(holder))
    assert scalar.hex() not in shown
    assert repr(scalar) not in shown


# --- the audit ------------------------------------------------------------------------------------------


def test_an_audit_that_cannot_be_written_releases_nothing(sealed: SealedWorld) -> None:
    request = sealed.request(sealed.ticket(), sealed.write("one"))
    sealed.audits["a"].close()
    with pytest.raises(AuditUnavailable):
        sealed.ask(sealed.world.bert, request)


def test_the_audit_has_the_records_before_the_answer(sealed: SealedWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    written, ticket = [sealed.write(name) for name in ("one", "two")], sealed.ticket()
    audit, order = sealed.audits["a"], []
    append = audit.append
    monkeypatch.setattr(audit, "append", lambda read: order.append("audited") or append(read))
    sealed.ask(sealed.world.bert, sealed.request(ticket, *written))
    order.append("answered")
    assert order == ["audited", "answered"]
    (line,) = [one.read for one in audit.entries()]
    assert (line.code, line.records) == (0, tuple((one.record, 1) for one in written))
    assert line.height == sealed.world.height


def test_keyholders_report_into_the_patients_log_each_its_own(sealed: SealedWorld) -> None:
    """Two that were asked the same at the same second have the same digest; neither takes the other's for its own."""
    ticket = sealed.ticket()
    request = sealed.request(ticket, sealed.write("one"), sealed.write("two"))
    for label in ("a", "b"):
        sealed.ask(sealed.world.bert, request, label)
    first, second = (reads_digest([one.running for one in sealed.audits[label].entries()]) for label in ("a", "b"))
    assert first == second
    assert asyncio.run(sealed.reporter("a").report()) == 1
    batch = sealed.audits["b"].unreported()
    assert batch is not None
    crashed = sealed.reporter("b")
    raw, until_s = crashed._sign(batch.ticket, batch.records, batch.digest)
    sealed.audits["b"].begin_report(batch, raw=raw, valid_until_s=until_s)
    assert asyncio.run(sealed.reporter("b").report()) == 1
    lines = [line for line in sealed.log() if line.kind is EntryKind.KEY_SHARES]
    assert [(line.actor, line.records, line.ticket) for line in lines] == [
        (sealed.world.a.id, 2, ticket),
        (sealed.world.b.id, 2, ticket),
    ]
    assert sealed.world.broken() == []


# --- between decision and answer ------------------------------------------------------------------------

Meanwhile = Callable[[SealedWorld], object]


def revokes(sealed: SealedWorld) -> None:
    sealed.world.done(Revoke(pseudonym=sealed.world.steve.id, grant_id=sealed.may_read), by=sealed.world.steve)


def erases(sealed: SealedWorld) -> None:
    steve = sealed.world.steve
    sealed.world.done(Erase(pseudonym=steve.id, record=record_id("one")), by=steve)


def grades_higher(sealed: SealedWorld) -> None:
    sealed.write("one", version=2, sensitivity=Sensitivity.V)


def key_is_shared_anew(sealed: SealedWorld) -> None:
    sealed.install(epoch=2)


@pytest.mark.parametrize(
    ("meanwhile", "code"),
    [
        (revokes, KeyholderCode.NO_LONGER_ALLOWED),
        (erases, KeyholderCode.RECORD_UNKNOWN),
        (grades_higher, KeyholderCode.OUTSIDE_SCOPE),
        (key_is_shared_anew, KeyholderCode.NO_SHARE),
    ],
)
def test_what_changes_while_shares_are_computed_is_in_time(
    meanwhile: Meanwhile, code: KeyholderCode, sealed: SealedWorld
) -> None:
    request = sealed.request(sealed.ticket(), sealed.write("one"))
    happened: list[object] = []

    def entropy(size: int) -> bytes:
        if not happened:
            happened.append(meanwhile)
            meanwhile(sealed)
        return seeded("entropy", size=size)

    sealed.keyholders["a"] = sealed.keyholder(sealed.world.a, entropy=entropy)
    with pytest.raises(SharesRefused) as caught:
        sealed.ask(sealed.world.bert, request)
    assert happened
    assert caught.value.code is code
    assert sealed.audits["a"].unreported() is None


def test_a_large_request_leaves_the_event_loop_its_turns(sealed: SealedWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """No stretch of shares, and no look at the ledger, keeps the loop longer than its own few records take."""
    monkeypatch.setattr(keyholder_module, "ITEMS_AT_ONCE", 1)
    written = [sealed.write(f"record {number}") for number in range(6)]
    request = sealed.request(sealed.ticket(), *written)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def run() -> None:
        other = asyncio.create_task(others())
        await sealed.keyholders["a"].release(sealed.world.bert.id, request)
        other.cancel()

    asyncio.run(run())
    assert turns > 2 * len(written)


def test_more_requests_than_are_computed_at_once_wait_for_their_turn(sealed: SealedWorld) -> None:
    ticket = sealed.ticket()
    requests = [sealed.request(ticket, sealed.write(f"record {number}")) for number in range(2 * SHARES_AT_ONCE + 1)]

    async def run() -> list[SharesAnswer]:
        holder = sealed.keyholders["a"]
        return await asyncio.gather(*(holder.release(sealed.world.bert.id, one) for one in requests))

    assert len(asyncio.run(run())) == len(requests)
    assert sealed.keyholders["a"]._serving == 0


# --- rates and memory -----------------------------------------------------------------------------------


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    bucket = Bucket(Rate(per_s=2, burst=5), 100)
    assert [bucket.take(3, 100), bucket.take(3, 100), bucket.take(2, 100)] == [True, False, True]
    assert not bucket.take(1, 100)
    assert bucket.take(2, 101)
    assert not bucket.take(1, 101)
    assert not bucket.is_full(103)
    assert bucket.is_full(1000)
    assert not bucket.take(6, 10_000)


def test_a_clock_that_was_far_ahead_for_a_moment_keeps_nobody_waiting() -> None:
    bucket = Bucket(Rate(per_s=2, burst=5), 100)
    assert bucket.take(5, 90_000)
    assert not bucket.take(1, 101)
    assert bucket.take(2, 102)
    assert not bucket.take(1, 102)


def test_one_partys_use_is_not_anothers_and_no_bucket_in_use_is_forgotten() -> None:
    buckets = Buckets(Rate(per_s=1, burst=2), parties=2)
    assert buckets.take(b"a", 2, 0)
    assert not buckets.take(b"a", 1, 0)
    assert buckets.take(b"b", 1, 0)
    assert not buckets.take(b"c", 1, 0)
    assert not buckets.take(b"a", 1, 0)
    assert buckets.take(b"c", 2, 2)
    assert not buckets.take(b"c", 1, 2)


def test_requests_without_a_live_ticket_use_up_nothing_of_the_others(sealed: SealedWorld) -> None:
    world = sealed.world
    sealed.keyholders["a"] = sealed.keyholder(
        world.a, rates=ShareRates(party=RATES.party, total=Rate(per_s=1, burst=1))
    )
    written = sealed.write("one")
    for _ in range(3):
        with pytest.raises(SharesRefused):
            sealed.ask(world.bina, sealed.request(seeded("none"), written, by=world.bina))
    assert sealed.ask(world.bert, sealed.request(sealed.ticket(), written))


def test_a_capsule_is_proved_once_and_forgotten_in_its_turn(
    sealed: SealedWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    proved: list[bytes] = []
    check = keyholder_module.check_capsule
    monkeypatch.setattr(
        keyholder_module, "check_capsule", lambda capsule, label: proved.append(label.record) or check(capsule, label)
    )
    one, two = sealed.write("one"), sealed.write("two")
    capsules = SoundCapsules(room=1)
    for written in (one, one, two, one):
        assert capsules.point(written.data, written.label) == written.capsule.r_point
    assert proved == [one.record, two.record, one.record]
    with pytest.raises(BadCapsule):
        capsules.point(one.data, two.label)


def test_a_request_holds_as_many_records_as_the_limit_says(sealed: SealedWorld) -> None:
    item = sealed.request(sealed.ticket(), sealed.write("one")).items[0]
    for count, fits in ((SHARES_PER_REQUEST, True), (SHARES_PER_REQUEST + 1, False), (0, False)):
        data = msgspec.msgpack.encode({"ticket": seeded("ticket"), "items": [item] * count})
        if fits:
            assert len(decode_request(data).items) == count
            assert len(data) < SHARES_REQUEST_BYTES
        else:
            with pytest.raises(SharesRefused):
                decode_request(data)
