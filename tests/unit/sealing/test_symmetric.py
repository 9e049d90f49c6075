"""Goal: symmetric sealing binds its context, padding is unambiguous, password keys follow RFC 7914 within bounds.

Method: the AES-256-GCM vector of the GCM specification (test case 16), scrypt against another binding and a pinned
value, round trips with data that looks like padding, and refusal of every altered bit.
"""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carechain.sealing.symmetric import CannotOpen, ScryptCost, key_from_password, open_sealed, pad, seal, unpad

KEY, NONCE = bytes(range(32)), bytes(range(12))


def test_aes_256_gcm_vector() -> None:
    sealed = seal(
        bytes.fromhex("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308"),
        nonce=bytes.fromhex("cafebabefacedbaddecaf888"),
        plaintext=bytes.fromhex(
            "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
            "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
        ),
        context=bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2"),
    )
    assert sealed.hex() == (
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
        "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662"
        "76fc6ece0f4e1768cddf8853bb2d551b"
    )


def test_wrong_key_nonce_context_or_any_altered_bit_is_refused() -> None:
    sealed = seal(KEY, nonce=NONCE, plaintext=b"data", context=b"here")
    assert open_sealed(KEY, nonce=NONCE, sealed=sealed, context=b"here") == b"data"
    wrong = [
        (bytes(32), NONCE, sealed, b"here"),
        (KEY, bytes(12), sealed, b"here"),
        (KEY, NONCE, sealed, b"there"),
        *((KEY, NONCE, sealed[:size], b"here") for size in range(len(sealed))),
    ]
    for bit in range(8 * len(sealed)):
        altered = bytearray(sealed)
        altered[bit // 8] ^= 1 << bit % 8
        wrong.append((KEY, NONCE, bytes(altered), b"here"))
    for key, nonce, data, context in wrong:
        with pytest.raises(CannotOpen):
            open_sealed(key, nonce=nonce, sealed=data, context=context)


def test_wrong_sizes_are_the_callers_bug() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        seal(b"short", nonce=NONCE, plaintext=b"", context=b"")
    with pytest.raises(ValueError, match="nonce"):
        seal(KEY, nonce=b"short", plaintext=b"", context=b"")
    with pytest.raises(ValueError, match="bucket"):
        pad(b"", bucket_bytes=16, overhead_bytes=16)


@given(st.binary(max_size=200), st.integers(17, 64), st.integers(0, 16))
def test_padding_fills_whole_buckets_and_comes_off_in_one_way(data: bytes, bucket: int, overhead: int) -> None:
    padded = pad(data, bucket_bytes=bucket, overhead_bytes=overhead)
    assert (len(padded) + overhead) % bucket == 0
    assert len(padded) - len(data) <= bucket
    assert unpad(padded) == data


@pytest.mark.parametrize("tail", [b"", b"\x80", b"\x00", b"\x80\x00\x00", b"\x00\x80"])
def test_data_that_looks_like_padding_survives(tail: bytes) -> None:
    assert unpad(pad(b"x" + tail, bucket_bytes=16)) == b"x" + tail


@pytest.mark.parametrize("bad", [b"", bytes(16), b"data", b"data\x81\x00"])
def test_missing_padding_is_refused(bad: bytes) -> None:
    with pytest.raises(CannotOpen):
        unpad(bad)


def test_password_keys_are_scrypt_over_the_utf_8_password() -> None:
    key = key_from_password("密码 pässword", salt=bytes(16), cost=ScryptCost(n=1024, r=8, p=1))
    assert key == hashlib.scrypt("密码 pässword".encode(), salt=bytes(16), n=1024, r=8, p=1, dklen=32)
    assert key.hex() == "ec3568f89e1799ccfe5ce2f4bd9d8593869dc04abcc10fa7f7a3b6822dd37b8c"


@pytest.mark.parametrize(
    "cost",
    [
        ScryptCost(n=512),
        ScryptCost(n=1025),
        ScryptCost(n=1 << 19),
        ScryptCost(n=1024, r=0),
        ScryptCost(n=1024, r=9),
        ScryptCost(n=1024, p=0),
        ScryptCost(n=1024, p=5),
        ScryptCost(n=-1024),
    ],
)
def test_unbounded_or_impossible_password_work_is_refused(cost: ScryptCost) -> None:
    assert not cost.is_acceptable()
    with pytest.raises(ValueError, match="bounds"):
        key_from_password("x", salt=bytes(16), cost=cost)
