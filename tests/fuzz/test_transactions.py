"""Goal: no bytes, however made, get anything out of the ledger but a typed refusal or a receipt.

Method: noise; valid transactions flipped, cut, grown, spliced and respelled; and well-formed transactions of every
message kind with random contents, signed by everyone. Whatever happens, invariants hold and a refusal changes nothing.
"""

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carechain.chain.receipts import OK, Receipt, code_named, decode_receipt, describe, encode_receipt
from carechain.chain.routing import MESSAGES
from carechain.chain.tx import SIGNING_DOMAIN, AdmissionCode, Envelope, parse
from carechain.contracts.access import RequestAccess
from carechain.contracts.consent.schema import Ask
from carechain.core.codec import Malformed, encode
from carechain.core.limits import TX_SIZE_BYTES
from carechain.core.message import Message, tag_of
from carechain.core.rejection import Rejected
from carechain.core.vocabulary import Purpose
from world import CHAIN_ID, RESULTS, START_S, TREAT, World, anchor_of, anything, fresh, grant_of, seeded

QUIET = settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
_SIGNERS = ("a", "carl", "john", "anna", "vera", "rosa", "rita", "steve", "mary")


def _base() -> World:
    """A world in which the ids that random messages are likely to name lead somewhere."""
    world = fresh()
    world.done(anchor_of(world.steve, "note"), by=world.steve)
    grant_id = world.grant(anything(world.steve, world.carl), by=world.steve)
    decided = world.request(
        RequestAccess(pseudonym=world.steve.id, scope=RESULTS, purpose=Purpose.TREAT), by=world.carl
    )
    ask = Ask(pseudonym=world.steve.id, scope=RESULTS, actions=1, purpose=Purpose.TREAT, expires_s=START_S + 10_000)
    (asked,) = world.done(ask, by=world.bert)
    world.known = [grant_id, decided.ticket, asked.request_id]
    return world


BASE = _base()
IDS = [*BASE.known, *(getattr(BASE, name).id for name in _SIGNERS), seeded("nobody")]
VALID = [
    BASE.sign(grant_of(BASE.steve, BASE.bert), by=BASE.steve),
    BASE.sign(anchor_of(BASE.steve, "next"), anchor_of(BASE.steve, "third"), by=BASE.steve),
    BASE.sign(RequestAccess(pseudonym=BASE.steve.id, scope=RESULTS, purpose=Purpose.TREAT), by=BASE.carl),
]


def feed(raw: bytes) -> Receipt:
    """Apply to a fork: a receipt comes back, or the test fails with whatever was raised."""
    world = BASE.fork()
    before = world.root_hash
    (receipt,) = world.block(raw)
    if receipt.code != OK:
        assert code_named(receipt.code) is not None
        assert world.changed_rows() == []
        assert receipt.events == ()
    if receipt.code // 100 == 1:
        assert world.root_hash == before
    assert decode_receipt(encode_receipt(receipt)) == receipt
    assert describe(raw, receipt, height=world.height, index=0).code == receipt.code
    return receipt


@QUIET
@given(st.binary(max_size=400))
def test_noise(data: bytes) -> None:
    with pytest.raises(Rejected) as refused:
        parse(data)
    assert refused.value.code is AdmissionCode.MALFORMED
    assert feed(data).code == AdmissionCode.MALFORMED


@pytest.mark.parametrize("size", [TX_SIZE_BYTES, TX_SIZE_BYTES + 1, 4 * TX_SIZE_BYTES])
@pytest.mark.parametrize("filler", [b"\x00", b"\x93", b"\x91", b"\xc1", b"\xdd", b"\xff"])
def test_large_noise(filler: bytes, size: int) -> None:
    assert feed(filler * size).code in (AdmissionCode.MALFORMED, AdmissionCode.TOO_LARGE)


@QUIET
@given(st.sampled_from(VALID), st.data())
def test_a_valid_transaction_with_one_bit_flipped(raw: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(raw) * 8 - 1))
    flipped = bytearray(raw)
    flipped[at // 8] ^= 1 << at % 8
    assert feed(bytes(flipped)).code // 100 == 1


@QUIET
@given(st.sampled_from(VALID), st.data())
def test_a_valid_transaction_cut_grown_or_spliced(raw: bytes, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(raw)))
    end = data.draw(st.integers(start, len(raw)))
    middle = data.draw(st.one_of(st.binary(max_size=6), st.sampled_from([raw[:40], VALID[0][5:80], b"\xc0"])))
    spliced = raw[:start] + middle + raw[end:]
    if spliced != raw:
        assert feed(spliced).code // 100 == 1


# --- respelled but signed -------------------------------------------------------------------------------


def _signed(body: bytes, signer: str = "steve") -> bytes:
    return encode(Envelope(1, body, getattr(BASE, signer).signing.sign(SIGNING_DOMAIN + body)))


def _loose(value: object, data: st.DataObject) -> bytes:
    """Valid msgpack of the same value with lengths and integers spelled longer here and there."""
    if isinstance(value, (list, tuple)):
        head = data.draw(st.sampled_from(["short", "long"]))
        size = len(value)
        prefix = b"\xdd" + size.to_bytes(4, "big") if head == "long" or size > 15 else bytes([0x90 | size])
        return prefix + b"".join(_loose(one, data) for one in value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0 and data.draw(st.booleans()):
        return b"\xcf" + value.to_bytes(8, "big")
    return msgspec.msgpack.encode(value)


@QUIET
@given(st.sampled_from(VALID), st.data())
def test_a_second_spelling_of_a_signed_body_is_refused(raw: bytes, data: st.DataObject) -> None:
    """Two encodings of one transaction would be two ids: only the canonical one is read."""
    body = parse(raw).body_bytes
    respelled = _loose(msgspec.msgpack.decode(body), data)
    if respelled != body:
        assert feed(_signed(respelled)).code == AdmissionCode.MALFORMED


_scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(max_size=8), st.binary(max_size=40)
)
_anything = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)


@QUIET
@given(st.sampled_from(MESSAGES), st.lists(_anything, max_size=10))
def test_a_known_tag_with_wrong_fields_is_malformed_or_judged(kind: type[Message], fields: list[object]) -> None:
    body = msgspec.msgpack.encode([CHAIN_ID, BASE.steve.id, bytes(16), START_S + 300, [[tag_of(kind), *fields]]])
    feed(_signed(body))


@QUIET
@given(st.integers(0, 70), st.sampled_from([b"\xdc", b"\xdd"]))
def test_lists_that_claim_more_than_they_hold(count: int, head: bytes) -> None:
    size = 2 if head == b"\xdc" else 4
    claimed = head + (0xFFFF if size == 2 else 0xFFFF_FFFF).to_bytes(size, "big") + b"\xc0" * count
    body = (
        b"\x95"
        + b"".join(msgspec.msgpack.encode(one) for one in (CHAIN_ID, BASE.steve.id, bytes(16), START_S))
        + claimed
    )
    assert feed(_signed(body)).code == AdmissionCode.MALFORMED


# --- well-formed and random -----------------------------------------------------------------------------

_ids = st.sampled_from(IDS)
_interesting_s = st.sampled_from([0, START_S, START_S + 100, START_S + 10**6, 2**63 - 1])


def _value(annotation: msgspec.inspect.Type) -> st.SearchStrategy[object]:  # noqa: C901 - one line per wire type
    inspect = msgspec.inspect
    match annotation:
        case inspect.BytesType(min_length=32, max_length=32):
            return _ids
        case inspect.BytesType(min_length=low, max_length=high):
            return st.binary(min_size=low or 0, max_size=min(high or 64, (low or 0) + 40))
        case inspect.IntType(ge=low, le=high):
            bounds = st.integers(low or 0, high if high is not None else 2**63 - 1)
            return (
                bounds
                | st.integers(low or 0, min(high or 8, 8))
                | (_interesting_s if high and high > 2**32 else bounds)
            )
        case inspect.StrType():
            return st.text(min_size=1, max_size=20)
        case inspect.BoolType():
            return st.booleans()
        case inspect.NoneType():
            return st.none()
        case inspect.EnumType(cls=enum):
            return st.sampled_from(list(enum))
        case inspect.VarTupleType(item_type=item, max_length=high):
            return st.lists(_value(item), min_size=1, max_size=min(high or 4, 4)).map(
                lambda chosen: tuple(sorted(dict.fromkeys(chosen), key=encode))
            )
        case inspect.UnionType(types=types):
            return st.one_of([_value(one) for one in types])
        case inspect.StructType(cls=cls, fields=fields):
            return st.fixed_dictionaries({field.name: _value(field.type) for field in fields}).map(lambda kw: cls(**kw))
        case _:
            raise TypeError(annotation)


_messages = {kind: _value(msgspec.inspect.type_info(kind)) for kind in MESSAGES}


@settings(max_examples=600, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.data())
def test_well_formed_messages_of_every_kind_from_everyone(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(MESSAGES))
    message = data.draw(_messages[kind])
    signer = getattr(BASE, data.draw(st.sampled_from(_SIGNERS)))
    at = data.draw(st.sampled_from([BASE.time_s + 1, BASE.time_s + 5_000, START_S + 200 * 86_400]))
    world = BASE.fork()
    receipt = world.run(message, by=signer, at=at)
    if receipt.code != OK:
        assert code_named(receipt.code) is not None
        assert world.changed_rows() == []
    assert receipt.code // 100 != 1 or code_named(receipt.code) is AdmissionCode.MALFORMED
    assert world.broken() == []


@QUIET
@given(st.binary(max_size=300))
def test_receipts_decode_strictly(data: bytes) -> None:
    try:
        receipt = decode_receipt(data)
    except Malformed:
        return
    assert encode_receipt(receipt) == data


def test_the_starting_point_is_sound() -> None:
    assert BASE.broken() == []
    assert all(feed(raw).code == OK for raw in VALID)
    assert TREAT
