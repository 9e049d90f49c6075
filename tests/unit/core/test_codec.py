"""Goal: what is hashed or signed has one encoding, ids separate their domains, and every code has its own number.

Method: equal values spelled in other ways are refused; Hypothesis decodes anything and expects either the same bytes
back or one typed refusal.
"""

import importlib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

import carechain
from carechain.core.binding import appointment_message, binding_message, enrolment_message
from carechain.core.codec import Malformed, decode_strict, encode
from carechain.core.decision import DecisionCode
from carechain.core.hashing import digest, tagged
from carechain.core.ids import derived_id, party_id
from carechain.core.message import Event, Message, tag_of
from carechain.core.rejection import Rejected, RejectionCode, present, require
from carechain.core.scope import EVERYTHING, Scope


class Sample(Message, frozen=True, tag="test.sample"):
    number: int
    text: str
    data: bytes
    scope: Scope
    maybe: bytes | None


_decoder = msgspec.msgpack.Decoder(Sample)
SAMPLE = Sample(number=5, text="名", data=b"\x01", scope=EVERYTHING, maybe=None)
CANONICAL = encode(SAMPLE)


def test_the_canonical_bytes_read_back() -> None:
    assert decode_strict(_decoder, CANONICAL) == SAMPLE


def _spell(old: bytes, new: bytes) -> bytes:
    assert old in CANONICAL
    return CANONICAL.replace(old, new, 1)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        CANONICAL[:-1],
        CANONICAL + b"\x00",
        b"\xdc\x00\x06" + CANONICAL[1:],
        _spell(b"\x05", b"\xcc\x05"),
        _spell(b"\x05", b"\xcb\x40\x14\x00\x00\x00\x00\x00\x00"),
        _spell(b"\xc4\x01\x01", b"\xc5\x00\x01\x01"),
        _spell(b"\xc4\x01\x01", b"\xa1\x01"),
        _spell("名".encode(), b"\xff\xfe\xfd"),
        _spell(b"\xa3" + "名".encode(), b"\xd9\x03" + "名".encode()),
        encode(["test.other", 5, "", b"", EVERYTHING, None]),
        encode(["test.sample", 5, "", b"", EVERYTHING]),
        encode(["test.sample", 5, "", b"", EVERYTHING, None, None]),
        encode({"number": 5}),
        b"\x91" * 5000,
    ],
)
def test_other_spellings_are_refused(data: bytes) -> None:
    with pytest.raises(Malformed) as refused:
        decode_strict(_decoder, data)
    assert "名" not in str(refused.value)


@given(st.binary(max_size=200))
def test_any_bytes_are_canonical_or_malformed(data: bytes) -> None:
    decoder = msgspec.msgpack.Decoder()
    try:
        value = decode_strict(decoder, data)
    except Malformed:
        return
    assert encode(value) == data


# --- hashing --------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=8), max_size=4), st.lists(st.binary(max_size=8), max_size=4))
def test_different_parts_have_different_hashes(one: list[bytes], two: list[bytes]) -> None:
    assert (tagged("t", *one) == tagged("t", *two)) == (one == two)


def test_tags_separate_domains() -> None:
    assert tagged("a", b"bc") != tagged("ab", b"c")
    assert len({tagged("a"), tagged("b"), tagged("a", b""), digest(b"")}) == 4


def test_ids_differ_by_kind_transaction_message_and_suite() -> None:
    tx, key = bytes(32), bytes(32)
    ids = {derived_id("grant", tx, 0), derived_id("grant", tx, 1), derived_id("ticket", tx, 0), party_id(1, key)}
    assert len(ids | {party_id(2, key), derived_id("grant", digest(tx), 0)}) == 6


def test_what_a_wallet_signs_covers_every_field() -> None:
    fields: dict[str, object] = {
        "chain_id": "x",
        "organisation": bytes(32),
        "id_hash": bytes(32),
        "suite": 1,
        "public_key": bytes(32),
        "hpke_key": bytes(32),
        "number": 0,
    }
    other = {"chain_id": "y", "suite": 2, "number": 1} | {
        name: digest(b"other") for name in ("organisation", "id_hash", "public_key", "hpke_key")
    }
    bindings = {binding_message(**fields)} | {binding_message(**fields | {name: other[name]}) for name in fields}
    assert len(bindings) == 8
    pick = {name: fields[name] for name in ("chain_id", "suite", "public_key", "hpke_key")} | {
        "pseudonym": bytes(32),
        "powers": 1,
        "scope": EVERYTHING,
        "expires_s": 1,
    }
    changed = other | {
        "pseudonym": digest(b"other"),
        "powers": 3,
        "scope": replace(EVERYTHING, last_day=1),
        "expires_s": 2,
    }
    appointments = {appointment_message(**pick)} | {
        appointment_message(**pick | {name: changed[name]}) for name in pick
    }
    assert len(appointments) == 9
    assert not bindings & appointments
    held = {name: fields[name] for name in ("chain_id", "organisation", "hpke_key")} | {"certificate": b"one"}
    differing = other | {"certificate": b"other"}
    enrolments = {enrolment_message(**held)} | {enrolment_message(**held | {name: differing[name]}) for name in held}
    assert len(enrolments) == 5
    assert not enrolments & (bindings | appointments)


# --- codes and tags -------------------------------------------------------------------------------------

HUNDREDS = {
    "AdmissionCode": 1,
    "MembershipCode": 2,
    "RelationshipsCode": 3,
    "ConsentCode": 4,
    "RecordsCode": 5,
    "AccessCode": 6,
    "DecisionCode": 6,
    "GovernanceCode": 7,
    "QueryCode": 8,
    "GatekeeperCode": 9,
    "ChartsCode": 10,
    "WalletCode": 11,
}


def _all_codes() -> list[type[RejectionCode]]:
    package = Path(carechain.__path__[0])
    for file in sorted(package.rglob("*.py")):
        if "(RejectionCode)" in file.read_text("utf-8"):
            importlib.import_module(".".join(("carechain", *file.relative_to(package).with_suffix("").parts)))
    return RejectionCode.__subclasses__()


def test_every_code_of_the_whole_package_has_its_own_number_in_its_own_hundred() -> None:
    groups = [group for group in _all_codes() if group.__module__.startswith("carechain.")]
    assert {"AdmissionCode", "ConsentCode", "DecisionCode"} <= {group.__name__ for group in groups}
    numbers: dict[int, str] = {}
    for group in groups:
        for code in group:
            assert numbers.setdefault(int(code), code.label) == code.label
            assert group.__name__ not in HUNDREDS or int(code) // 100 == HUNDREDS[group.__name__]
    labels = [code.label for group in groups for code in group]
    assert len(labels) == len(set(labels))


def test_a_rejection_says_its_label_and_nothing_else() -> None:
    with pytest.raises(Rejected) as refused:
        require(condition=False, code=DecisionCode.NO_GRANT)
    assert str(refused.value) == "DECISION.NO_GRANT"
    with pytest.raises(Rejected):
        present(None, DecisionCode.NO_GRANT)
    assert present(0, DecisionCode.NO_GRANT) == 0


def test_a_struct_without_a_tag_is_no_message() -> None:
    assert tag_of(Sample) == "test.sample"
    with pytest.raises(TypeError):
        tag_of(Event)
