"""Goal: a signature holds for one key and one message in one form, in every suite.

Method: keys from fixed seeds; signatures altered in every way that a lax verifier lets through.
"""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carechain.core.crypto import P256_ORDER, PUBLIC_KEY_SIZE, BadSignature, SigningKey, Suite, verify

MESSAGE = "给医生的许可".encode()
SM2_ORDER = 0xFFFFFFFEFFFFFFFFFFFFFFFFFFFFFFFF7203DF6B21C6052B53BBF40939D54123
ED25519_ORDER = 2**252 + 27742317777372353535851937790883648493


@pytest.fixture(params=list(Suite), ids=lambda suite: suite.name)
def key(request: pytest.FixtureRequest) -> SigningKey:
    return SigningKey(suite=request.param, seed=bytes(range(32)))


HONEST = [SigningKey(suite=suite, seed=bytes(range(32))) for suite in Suite]


def holds(key: SigningKey, signature: bytes, message: bytes = MESSAGE, public_key: bytes | None = None) -> bool:
    try:
        verify(suite=key.suite, public_key=public_key or key.public_key, signature=signature, message=message)
    except BadSignature:
        return False
    return True


def test_sign_and_verify(key: SigningKey) -> None:
    signature = key.sign(MESSAGE)
    assert len(signature) == 64
    assert len(key.public_key) == PUBLIC_KEY_SIZE[key.suite]
    assert holds(key, signature)
    assert not holds(key, signature, MESSAGE + b"\x00")


def test_every_flipped_bit_is_noticed(key: SigningKey) -> None:
    signature = key.sign(MESSAGE)
    for at in range(64):
        flipped = signature[:at] + bytes([signature[at] ^ (1 << at % 8)]) + signature[at + 1 :]
        assert not holds(key, flipped)


@pytest.mark.parametrize("size", [0, 63, 65, 128])
def test_signatures_have_one_length(key: SigningKey, size: int) -> None:
    assert not holds(key, (key.sign(MESSAGE) * 2)[:size])


def test_keys_have_one_length_and_suite(key: SigningKey) -> None:
    signature = key.sign(MESSAGE)
    for public_key in (b"", key.public_key[:-1], key.public_key + b"\x00", bytes(32), bytes(33), b"\xff" * 33):
        assert not holds(key, signature, public_key=public_key or b"\x00")
    other = Suite.P256 if key.suite is Suite.SM2 else Suite.SM2
    for suite in (0, 4, 255, other):
        with pytest.raises(BadSignature):
            verify(suite=suite, public_key=key.public_key, signature=signature, message=MESSAGE)


def test_p256_takes_only_the_low_half_of_s_and_no_zero() -> None:
    key = SigningKey(suite=Suite.P256, seed=bytes(range(32)))
    for number in range(20):
        message = bytes([number])
        signature = key.sign(message)
        s = int.from_bytes(signature[32:], "big")
        assert 0 < s <= P256_ORDER // 2
        assert holds(key, signature, message)
        assert not holds(key, signature[:32] + (P256_ORDER - s).to_bytes(32, "big"), message)
        assert not holds(key, bytes(32) + signature[32:], message)
        assert not holds(key, signature[:32] + bytes(32), message)


def test_sm2_takes_either_half_of_s_and_nothing_but_what_was_signed() -> None:
    key = SigningKey(suite=Suite.SM2, seed=bytes(range(32)))
    halves = set()
    for number in range(40):
        message = bytes([number])
        signature = key.sign(message)
        r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
        halves.add(s > SM2_ORDER // 2)
        for altered_r, altered_s in ((r, SM2_ORDER - s), (SM2_ORDER - r, s), (s, r), (0, s), (r, 0), (r, SM2_ORDER)):
            assert not holds(key, altered_r.to_bytes(32, "big") + altered_s.to_bytes(32, "big"), message)
    assert halves == {False, True}


def test_ed25519_takes_only_reduced_s() -> None:
    key = SigningKey(suite=Suite.ED25519, seed=bytes(range(32)))
    signature = key.sign(MESSAGE)
    s = int.from_bytes(signature[32:], "little")
    assert not holds(key, signature[:32] + (s + ED25519_ORDER).to_bytes(32, "little"))


@pytest.mark.parametrize("suite", [Suite.P256, Suite.SM2])
def test_an_uncompressed_point_is_no_key(suite: Suite) -> None:
    key = SigningKey(suite=suite, seed=bytes(range(32)))
    assert not holds(key, key.sign(MESSAGE), public_key=b"\x04" + key.public_key[1:])
    flipped = bytes([key.public_key[0] ^ 1]) + key.public_key[1:]
    assert not holds(key, key.sign(MESSAGE), public_key=flipped)


@given(st.sampled_from(list(Suite)), st.binary(max_size=40), st.binary(max_size=70), st.binary(max_size=40))
def test_noise_is_refused_and_never_more(suite: Suite, public_key: bytes, signature: bytes, message: bytes) -> None:
    with pytest.raises(BadSignature):
        verify(suite=suite, public_key=public_key, signature=signature, message=message)


@given(st.sampled_from(list(Suite)), st.binary(min_size=33, max_size=33), st.binary(min_size=64, max_size=64))
def test_noise_of_the_right_size_raises_nothing_but_the_one_refusal(suite: Suite, key: bytes, signature: bytes) -> None:
    """Not always refused: under ZIP 215 a few degenerate Ed25519 keys accept degenerate signatures."""
    with contextlib.suppress(BadSignature):
        verify(suite=suite, public_key=key[: PUBLIC_KEY_SIZE[suite]], signature=signature, message=MESSAGE)


@given(st.binary(min_size=64, max_size=64))
def test_no_noise_signs_for_an_honest_key(noise: bytes) -> None:
    for key in HONEST:
        assert not holds(key, noise)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_seed_has_32_bytes(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        SigningKey(suite=Suite.ED25519, seed=bytes(size))


def test_a_key_is_not_printed(key: SigningKey) -> None:
    assert bytes(range(32)).hex() not in repr(key)
