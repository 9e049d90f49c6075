"""Goal: whatever lies in a key file, reading it gives the keys or one of the documented refusals.

Method: Hypothesis makes bytes, JSON documents and mutations of a real file; nothing but ``Rejected`` with a
:class:`WalletCode` may come out, and a mutated file never gives other keys than the original.
"""

import hashlib
import json
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from carechain.core.certificate import BadCertificate, read_authority
from carechain.core.rejection import Rejected
from carechain.sdk.keyfile import WalletCode
from carechain.sdk.wallet import Wallet
from carechain.sealing.symmetric import ScryptCost

PASSWORD = "密码"
WALLET, _ = Wallet(seed=bytes(range(32)), chain_id="test").with_relation(b"A" * 32, label="医院", since_day=45_000)
FILE = WALLET.to_bytes(
    password=PASSWORD, entropy=lambda size: hashlib.shake_256(b"fuzz").digest(size), cost=ScryptCost(n=1024, r=1)
)
PLAIN = json.loads(FILE)

documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def read(data: bytes) -> Wallet | None:
    try:
        return Wallet.from_bytes(data, password=PASSWORD)
    except Rejected as refused:
        if not isinstance(refused.code, WalletCode):
            raise
        return None


@quick
@given(st.binary(max_size=4096))
@example(b"")
@example(FILE)
def test_any_bytes(data: bytes) -> None:
    read(data)


@quick
@given(documents)
def test_any_json(document: Any) -> None:
    read(json.dumps(document).encode())


@quick
@given(st.sampled_from(sorted(PLAIN)), documents)
@example("kdf", {**PLAIN["kdf"], "n": 1 << 70})
@example("kdf", {**PLAIN["kdf"], "salt": "AA"})
@example("version", 2)
def test_any_field_replaced(field: str, value: Any) -> None:
    assert read(json.dumps({**PLAIN, field: value}).encode()) in (None, WALLET)


@quick
@given(st.sampled_from(["n", "r", "p", "name", "salt"]), documents)
def test_any_password_parameter_replaced(field: str, value: Any) -> None:
    assert read(json.dumps({**PLAIN, "kdf": {**PLAIN["kdf"], field: value}}).encode()) in (None, WALLET)


@quick
@given(st.integers(0, len(FILE) - 1), st.integers(0, 255))
def test_any_byte_replaced(position: int, byte: int) -> None:
    assert read(FILE[:position] + bytes([byte]) + FILE[position + 1 :]) in (None, WALLET)


@quick
@given(st.integers(0, len(FILE)), st.integers(0, len(FILE)))
def test_any_piece_cut_out(start: int, end: int) -> None:
    assert read(FILE[:start] + FILE[end:]) in (None, WALLET)


@quick
@given(st.binary(max_size=600))
@example(bytes.fromhex("3080"))
@example(bytes.fromhex("30820000"))
def test_any_bytes_as_a_certificate(data: bytes) -> None:
    try:
        read_authority(data)
    except BadCertificate:
        return
    raise AssertionError("random bytes were taken for a signed certificate")
