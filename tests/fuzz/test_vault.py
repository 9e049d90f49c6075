"""Goal: no bytes from outside make the vault fail in any way but its own: records, roots, ranges, addresses, answers.

Method: random and mutated bytes against every decoder; what is accepted must be exactly what was made.
"""

from collections.abc import Callable
from hashlib import sha256
from typing import TypeVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carechain.core.codec import encode
from carechain.core.limits import DHT_OBJECT_BYTES, DHT_PIECE_BYTES
from carechain.core.rejection import Rejected
from carechain.gatekeeper.objects_door import _range
from carechain.vault.base import parse_address
from carechain.vault.codes import VaultCode
from carechain.vault.kademlia_records import (
    FAN,
    BadRecord,
    Kind,
    Record,
    Root,
    key_of,
    read_record,
    read_root,
    sign_record,
    stored_record,
)
from dht import NETWORK, Member

T = TypeVar("T")
MEMBER = Member("fuzz")
NOW_S = 1_800_000_000


def signed(kind: Kind, address: bytes, body: bytes, time_s: int = NOW_S) -> bytes:
    return sign_record(
        MEMBER.key, network=NETWORK, kind=kind, address=address, body=body, signer=MEMBER.party, time_s=time_s
    )


def taken(raw: bytes, key: bytes, *, network: str = NETWORK) -> Record:
    known = {MEMBER.party: MEMBER.signer}
    return read_record(raw, network=network, key=key, signers=known.get, hashing=sha256, now_s=NOW_S)


BODY = b"a piece"
ADDRESS = sha256(BODY).digest()
PIECE = signed(Kind.PIECE, ADDRESS, BODY)
ROOT = encode(Root(size=2 * DHT_PIECE_BYTES, depth=0, hashes=(ADDRESS, ADDRESS)))


@given(st.binary(max_size=300))
def test_random_records(raw: bytes) -> None:
    for read in (lambda: taken(raw, bytes(20)), lambda: stored_record(raw)):
        with pytest.raises(BadRecord):
            read()


@given(at=st.integers(0, len(PIECE) - 1), flip=st.integers(1, 255))
def test_a_record_with_any_byte_changed_is_refused(at: int, flip: int) -> None:
    altered = PIECE[:at] + bytes([PIECE[at] ^ flip]) + PIECE[at + 1 :]
    with pytest.raises(BadRecord):
        taken(altered, key_of(ADDRESS))


@given(cut=st.integers(0, len(PIECE) - 1), tail=st.binary(min_size=1, max_size=8))
def test_a_record_cut_short_or_extended_is_refused(cut: int, tail: bytes) -> None:
    for raw in (PIECE[:cut], PIECE + tail):
        with pytest.raises(BadRecord):
            taken(raw, key_of(ADDRESS))


ROWS: list[tuple[str, bytes, bytes, str]] = [
    ("another place", PIECE, bytes(20), NETWORK),
    ("another network", PIECE, key_of(ADDRESS), "other"),
    ("a body of another address", signed(Kind.PIECE, bytes(32), BODY), key_of(bytes(32)), NETWORK),
    ("a root that is none", signed(Kind.ROOT, ADDRESS, BODY), key_of(ADDRESS), NETWORK),
    ("taken back with a body", signed(Kind.GONE, ADDRESS, BODY), key_of(ADDRESS), NETWORK),
    ("from the future", signed(Kind.PIECE, ADDRESS, BODY, NOW_S + 31), key_of(ADDRESS), NETWORK),
]


@pytest.mark.parametrize(("why", "raw", "key", "on"), ROWS, ids=[row[0] for row in ROWS])
def test_sound_signatures_on_unsound_records(why: str, raw: bytes, key: bytes, on: str) -> None:
    assert why
    with pytest.raises(BadRecord):
        taken(raw, key, network=on)


def test_sound_records_are_taken() -> None:
    assert taken(PIECE, key_of(ADDRESS)).body == BODY
    assert taken(signed(Kind.GONE, ADDRESS, b""), key_of(ADDRESS)).kind is Kind.GONE
    assert read_root(taken(signed(Kind.ROOT, bytes(32), ROOT), key_of(bytes(32)))).pieces() == 2


@given(
    size=st.integers(-5, DHT_OBJECT_BYTES + 5), depth=st.integers(-1, 2), count=st.integers(0, 181), size_of=st.just(32)
)
def test_roots_have_as_many_hashes_as_they_need(size: int, depth: int, count: int, size_of: int) -> None:
    body = msgspec.msgpack.encode([size, depth, [bytes(size_of)] * count])
    pieces = -(-size // DHT_PIECE_BYTES)
    fits = DHT_PIECE_BYTES < size <= DHT_OBJECT_BYTES and depth in (0, 1) and 1 <= count <= 180
    fits = fits and count == (pieces if depth == 0 else -(-pieces // FAN))
    record = msgspec.structs.replace(taken(PIECE, key_of(ADDRESS)), body=body)
    if fits:
        assert read_root(record).size == size
    else:
        with pytest.raises(BadRecord):
            read_root(record)


@given(st.text(max_size=70))
def test_addresses(text: str) -> None:
    found = parsed(lambda: parse_address(text), VaultCode.ADDRESS_MALFORMED)
    assert found is None or found.hex() == text


@given(
    asked=st.text(max_size=30) | st.from_regex(r"bytes=[0-9]{0,30}-[0-9]{0,30}", fullmatch=True),
    size=st.integers(0, 1 << 40),
)
def test_ranges_lie_inside_the_object_or_are_refused(asked: str, size: int) -> None:
    found = parsed(lambda: _range(asked, size), VaultCode.RANGE_UNUSABLE)
    assert found is None or 0 <= found[0] < found[1] <= size


def parsed(read: Callable[[], T], code: VaultCode) -> T | None:
    """What was read, or None where it was refused with this code and no other."""
    try:
        return read()
    except Rejected as refused:
        if refused.code is not code:
            raise
        return None
