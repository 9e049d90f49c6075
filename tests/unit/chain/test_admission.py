"""Goal: what is not admitted leaves no trace, and what is admitted cannot be repeated, forged or altered (ID-9).

Method: one row per admission code: bytes that must not be admitted. Then what the id and the signature cover.
"""

from collections.abc import Callable

import pytest

from carechain.chain import replay
from carechain.chain.header import SIGNING_DOMAIN as BLOCK_DOMAIN
from carechain.chain.receipts import OK, code_named, describe
from carechain.chain.replay import REPLAY
from carechain.chain.tx import SIGNING_DOMAIN, AdmissionCode, Body, Envelope, Tx, build, parse, tx_id
from carechain.contracts.access import ReportRelease, RequestAccess, RevokeTicket
from carechain.contracts.consent.schema import Revoke
from carechain.contracts.membership import DismissStaff
from carechain.core.codec import encode
from carechain.core.crypto import P256_ORDER, SigningKey, Suite
from carechain.core.limits import ACCESS_REQUESTS_PER_TX, REPLAY_BUCKET_S, TX_LIFETIME_S, TX_MESSAGES, TX_SIZE_BYTES
from carechain.core.rejection import Rejected
from carechain.core.vocabulary import Purpose, Role
from carechain.sdk.wallet import Pseudonym
from rejections import Rows
from world import (
    CHAIN_ID,
    DAY_S,
    RESULTS,
    START_S,
    Actor,
    World,
    anchor_of,
    bind_message,
    fresh,
    grant_of,
    seeded,
    wallet_of,
)

rows = Rows()
ROWS = rows
Make = Callable[[World], bytes]
CASES: list[tuple[AdmissionCode, Make]] = []


def case(code: AdmissionCode) -> Callable[[Make], Make]:
    def register(make: Make) -> Make:
        CASES.append((code, make))
        rows.direct.append(code)
        return make

    return register


@pytest.fixture
def world() -> World:
    return fresh()


def signed(world: World, **changed: object) -> bytes:
    return world.sign(grant_of(world.steve, world.carl), by=world.steve, **changed)


def wrapped(tx: Tx, *, version: int = 1, body: bytes | None = None, signature: bytes | None = None) -> bytes:
    return encode(Envelope(version, tx.body_bytes if body is None else body, signature or tx.signature))


@case(AdmissionCode.TOO_LARGE)
def one_byte_too_many(_world: World) -> bytes:
    return bytes(TX_SIZE_BYTES + 1)


@case(AdmissionCode.MALFORMED)
def nothing(_world: World) -> bytes:
    return b""


@case(AdmissionCode.MALFORMED)
def cut_short(world: World) -> bytes:
    return signed(world)[:-1]


@case(AdmissionCode.MALFORMED)
def one_byte_more(world: World) -> bytes:
    return signed(world) + b"\x00"


@case(AdmissionCode.MALFORMED)
def a_longer_spelling_of_the_version(world: World) -> bytes:
    raw = signed(world)
    assert raw[:2] == b"\x93\x01"
    return b"\x93\xcc\x01" + raw[2:]


@case(AdmissionCode.MALFORMED)
def a_longer_spelling_inside_the_signed_body(world: World) -> bytes:
    """Signed as it is: the signature holds, the bytes are still not the canonical ones."""
    body = parse(signed(world)).body_bytes
    grown = b"\xdc\x00\x05" + body[1:]
    return encode(Envelope(1, grown, world.steve.signing.sign(SIGNING_DOMAIN + grown)))


@case(AdmissionCode.MALFORMED)
def no_messages(world: World) -> bytes:
    body = encode(Body(CHAIN_ID, world.steve.id, bytes(16), world.time_s + 100, ()))
    return encode(Envelope(1, body, world.steve.signing.sign(SIGNING_DOMAIN + body)))


@case(AdmissionCode.MALFORMED)
def too_many_messages(world: World) -> bytes:
    message = Revoke(pseudonym=world.steve.id, grant_id=bytes(32))
    return world.sign(*([message] * (TX_MESSAGES + 1)), by=world.steve)


@case(AdmissionCode.MALFORMED)
def an_unknown_message(world: World) -> bytes:
    return _with_message(world, ["consent.take_over", world.steve.id])


@case(AdmissionCode.MALFORMED)
def a_message_with_a_field_too_many(world: World) -> bytes:
    return _with_message(world, ["consent.revoke", world.steve.id, bytes(32), 1])


@case(AdmissionCode.MALFORMED)
def a_message_with_a_short_id(world: World) -> bytes:
    return _with_message(world, ["consent.revoke", world.steve.id, bytes(31)])


@case(AdmissionCode.MALFORMED)
def an_event_is_no_message(world: World) -> bytes:
    return _with_message(world, ["consent.revoked", world.steve.id, bytes(32)])


@case(AdmissionCode.MALFORMED)
def a_short_signature(world: World) -> bytes:
    tx = parse(signed(world))
    return encode([1, tx.body_bytes, tx.signature[:63]])


@case(AdmissionCode.VERSION_UNKNOWN)
def version_two(world: World) -> bytes:
    return wrapped(parse(signed(world)), version=2)


@case(AdmissionCode.WRONG_CHAIN)
def for_another_network(world: World) -> bytes:
    return signed(world, chain_id="world-2")


@case(AdmissionCode.SEVERAL_PSEUDONYMS)
def two_patients_in_one_transaction(world: World) -> bytes:
    return world.sign(anchor_of(world.steve, "x"), anchor_of(world.mary, "y"), by=world.carl)


@case(AdmissionCode.SEVERAL_PSEUDONYMS)
def tickets_about_two_patients(world: World) -> bytes:
    """A ticket names no patient, but everyone may look up whose it is once the two stand side by side."""
    return world.sign(*(RevokeTicket(ticket=one) for one in _tickets(world)), by=world.bert)


@case(AdmissionCode.SEVERAL_PSEUDONYMS)
def reports_about_two_patients(world: World) -> bytes:
    reports = (ReportRelease(ticket=one, records=1, digest=bytes(32)) for one in _tickets(world))
    return world.sign(*reports, by=world.a)


@case(AdmissionCode.SEVERAL_PSEUDONYMS)
def a_ticket_of_one_patient_and_the_name_of_another(world: World) -> bytes:
    steves, _ = _tickets(world)
    return world.sign(RevokeTicket(ticket=steves), _request(world.mary), by=world.bert)


@case(AdmissionCode.TOO_MANY_REQUESTS)
def one_request_too_many(world: World) -> bytes:
    return world.sign(*[_request(world.steve)] * (ACCESS_REQUESTS_PER_TX + 1), by=world.bert)


def _request(patient: Pseudonym) -> RequestAccess:
    return RequestAccess(pseudonym=patient.id, scope=RESULTS, purpose=Purpose.TREAT)


def _tickets(world: World) -> tuple[bytes, bytes]:
    """Bert's tickets for Steve and for Mary."""
    for patient in (world.steve, world.mary):
        world.grant(grant_of(patient, world.bert), by=patient)
    steves, marys = (world.request(_request(patient), by=world.bert) for patient in (world.steve, world.mary))
    return steves.ticket, marys.ticket


@case(AdmissionCode.EXPIRED)
def valid_until_the_blocks_own_second(world: World) -> bytes:
    return signed(world, valid_until_s=world.time_s + 1)


@case(AdmissionCode.VALID_TOO_LONG)
def valid_for_a_second_too_long(world: World) -> bytes:
    return signed(world, valid_until_s=world.time_s + 1 + TX_LIFETIME_S + 1)


@case(AdmissionCode.REPLAYED)
def the_same_bytes_again(world: World) -> bytes:
    raw = signed(world)
    assert world.block(raw)[0].code == OK
    return raw


@case(AdmissionCode.REPLAYED)
def rejected_and_sent_again(world: World) -> bytes:
    raw = world.sign(Revoke(pseudonym=world.steve.id, grant_id=bytes(32)), by=world.steve)
    assert world.block(raw)[0].code != OK
    return raw


@case(AdmissionCode.UNKNOWN_SIGNER)
def a_stranger(world: World) -> bytes:
    return world.sign(grant_of(world.steve, world.carl), by=Actor("stranger"))


@case(AdmissionCode.BAD_SIGNATURE)
def signed_with_another_key(world: World) -> bytes:
    return _signed_by(world.mary.signing, sender=world.steve.id, world=world)


@case(AdmissionCode.BAD_SIGNATURE)
def a_flipped_signature_bit(world: World) -> bytes:
    tx = parse(signed(world))
    return wrapped(tx, signature=bytes([tx.signature[0] ^ 1]) + tx.signature[1:])


@case(AdmissionCode.BAD_SIGNATURE)
def a_changed_body(world: World) -> bytes:
    tx = parse(signed(world))
    fields = {field: getattr(tx.body, field) for field in tx.body.__struct_fields__}
    return wrapped(tx, body=encode(Body(**fields | {"nonce": seeded("nonce", size=16)})))


@case(AdmissionCode.BAD_SIGNATURE)
def signed_as_if_it_were_a_block(world: World) -> bytes:
    body = parse(signed(world)).body_bytes
    return encode(Envelope(1, body, world.steve.signing.sign(BLOCK_DOMAIN + body)))


@case(AdmissionCode.BAD_SIGNATURE)
def signed_without_a_domain(world: World) -> bytes:
    body = parse(signed(world)).body_bytes
    return encode(Envelope(1, body, world.steve.signing.sign(body)))


@case(AdmissionCode.BAD_SIGNATURE)
def high_s(world: World) -> bytes:
    """P-256 signatures come in pairs; only the one with the low half is taken."""
    doctor = world.enrol(world.a, "paula", Role.DOCTOR, suite=Suite.P256)
    tx = parse(world.sign(Revoke(pseudonym=world.steve.id, grant_id=bytes(32)), by=doctor))
    s = int.from_bytes(tx.signature[32:], "big")
    return wrapped(tx, signature=tx.signature[:32] + (P256_ORDER - s).to_bytes(32, "big"))


def _with_message(world: World, message: list[object]) -> bytes:
    body = encode([CHAIN_ID, world.steve.id, bytes(16), world.time_s + 100, [message]])
    return encode(Envelope(1, body, world.steve.signing.sign(SIGNING_DOMAIN + body)))


def _signed_by(key: SigningKey, *, sender: bytes, world: World) -> bytes:
    return build(
        key=key,
        sender=sender,
        chain_id=CHAIN_ID,
        nonce=bytes(16),
        valid_until_s=world.time_s + 100,
        messages=(grant_of(world.steve, world.carl),),
    )


@pytest.mark.parametrize(("code", "make"), CASES, ids=lambda value: getattr(value, "__name__", str(value)))
def test_what_is_not_admitted_leaves_no_trace(code: AdmissionCode, make: Make, world: World) -> None:
    raw = make(world)
    before = world.root_hash
    (receipt,) = world.block(raw)
    assert code_named(receipt.code) is code
    assert world.changes == []
    assert world.root_hash == before
    described = describe(raw, receipt, height=world.height, index=0)
    assert described.label == code.label
    assert described.signer == b"" or len(described.signer) == 32


rows.direct.append(AdmissionCode.REPLAY_WINDOW_FULL)


def test_a_full_replay_window_admits_nothing_until_ids_expire(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.wait(TX_LIFETIME_S + 61)
    monkeypatch.setattr(replay, "REPLAY_IDS", 1)
    assert world.block(signed(world))[0].code == OK
    (receipt,) = world.block(signed(world))
    assert code_named(receipt.code) is AdmissionCode.REPLAY_WINDOW_FULL
    assert world.changes == []
    world.wait(TX_LIFETIME_S + 61)
    assert world.block(signed(world))[0].code == OK


# --- what the id and the signature cover ----------------------------------------------------------------


def test_the_id_covers_the_body_alone(world: World) -> None:
    tx = parse(signed(world))
    again = parse(wrapped(tx, signature=bytes(64)))
    assert again.id == tx.id == tx_id(tx.body_bytes)
    assert parse(signed(world)).id != tx.id


def test_a_second_valid_signature_makes_no_second_transaction(world: World) -> None:
    """ECDSA signs the same body differently each time; the id stays and the second is a replay."""
    doctor = world.enrol(world.a, "paula", Role.DOCTOR, suite=Suite.P256)
    raw = world.sign(Revoke(pseudonym=world.steve.id, grant_id=bytes(32)), by=doctor)
    tx = parse(raw)
    other = wrapped(tx, signature=doctor.signing.sign(SIGNING_DOMAIN + tx.body_bytes))
    assert other != raw
    first, second = world.block(raw, other)
    assert code_named(second.code) is AdmissionCode.REPLAYED
    assert first.code != second.code


def test_exact_bounds_of_validity_are_admitted(world: World) -> None:
    now = world.time_s + 1
    shortest, longest = signed(world, valid_until_s=now + 1), signed(world, valid_until_s=now + TX_LIFETIME_S)
    assert [one.code for one in world.block(shortest, longest)] == [OK, OK]


def test_one_signer_submits_in_parallel_and_in_any_order(world: World) -> None:
    raws = [signed(world) for _ in range(5)]
    assert [one.code for one in world.block(*reversed(raws))] == [OK] * 5


def test_a_replay_inside_one_block_is_refused(world: World) -> None:
    raw = signed(world)
    one, two = world.block(raw, raw)
    assert (one.code, code_named(two.code)) == (OK, AdmissionCode.REPLAYED)


@pytest.mark.parametrize("lifetime_s", [2, 45, 61, 119, TX_LIFETIME_S])
def test_ids_are_forgotten_only_after_they_can_no_longer_be_admitted(lifetime_s: int, world: World) -> None:
    """Second by second: the ids at hand are always those that the digests in the state count."""
    raw = signed(world, valid_until_s=world.time_s + 1 + lifetime_s)
    until_s = parse(raw).body.valid_until_s
    assert world.block(raw)[0].code == OK
    while world.time_s < until_s + 62:
        step = 1 if abs(world.time_s + 1 - until_s) < 3 else 7
        (receipt,) = world.block(raw, at=world.time_s + step)
        code = AdmissionCode.EXPIRED if world.time_s >= until_s else AdmissionCode.REPLAYED
        assert code_named(receipt.code) is code
        digests = {minute: row.count for (minute,), row in REPLAY.bind(world.snapshot).scan()}
        assert (parse(raw).id in world.replay) == (until_s // REPLAY_BUCKET_S in digests)
    assert parse(raw).id not in world.replay


def test_abandoned_blocks_leave_no_ids(world: World) -> None:
    raw = signed(world)
    ids = parse(raw).id
    world.replay.add(ids, world.time_s + 100)
    assert ids in world.replay
    world.replay.abandon()
    assert ids not in world.replay
    assert world.block(raw)[0].code == OK


def test_a_dismissed_key_is_still_admitted_and_then_refused_by_name(world: World) -> None:
    """Admission looks at form and signature only; who may do what is decided on the ledger, with a receipt."""
    world.done(DismissStaff(party=world.carl.id), by=world.a)
    (receipt,) = world.block(world.sign(grant_of(world.steve, world.bert), by=world.carl))
    assert receipt.code == 201
    assert world.changes != []
    assert world.changed_rows() == []


def test_policy_is_never_looked_at_by_admission(world: World) -> None:
    """A hundred years from now, for nobody, by nobody entitled: well-formed is enough to be ordered."""
    far = world.time_s + 50 * 365 * DAY_S
    raw = world.sign(anchor_of(world.steve, "x"), by=world.mary, valid_until_s=far + 10)
    assert world.block(raw, at=far)[0].code == 504
    assert far > START_S


def test_parse_says_why_without_repeating_the_input() -> None:
    with pytest.raises(Rejected) as refused:
        parse(b"MRN-1 Steve Apple")
    assert str(refused.value) == "ADMISSION.MALFORMED"


def test_several_bindings_in_one_transaction_are_the_registrars_business(world: World) -> None:
    """A registrar's batch links nothing that its own list does not hold already."""
    batch = [
        bind_message(wallet_of(name).pseudonym(world.a.id), world.a.secret.id_hash("mrn", name))
        for name in ("lin", "陈", "ng")
    ]
    world.done(*batch, by=world.rosa)
    assert world.broken() == []
