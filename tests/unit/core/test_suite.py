"""Goal: the SM suite gives the standards' own values, and every node judges an SM2 signature alike (KEY-6).

Method: known answers from the standards, each by two libraries (OpenSSL through ``cryptography``, GmSSL through
``gmssl_pyx``). Then SM2's edge cases, which libraries treat differently, are put to the verifier with the library and
without, beside a third implementation of the standard's formulas that is written out here.
"""

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import gmssl_pyx
import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import SM4
from cryptography.hazmat.primitives.ciphers.modes import ECB
from hypothesis import given, settings
from hypothesis import strategies as st

from carechain.core import sm2
from carechain.core.commitment import resource_commitment, resource_leaf
from carechain.core.crypto import SigningKey, Suite
from carechain.core.hashing import tagged
from carechain.core.merkle import leaf_hash
from carechain.core.suite import NONCE_SIZE, TAG_SIZE, BadChunk, Institution

VECTORS: Final[dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "vectors" / "sm.json").read_text(encoding="utf-8")
)
INSTITUTIONS = pytest.mark.parametrize("suite", list(Institution), ids=lambda one: one.name)
N = sm2.ORDER
P = 0xFFFFFFFEFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF00000000FFFFFFFFFFFFFFFF
A = P - 3
B = 0x28E9FA9E9D9F5E344D5A9E4BCF6509A7F39789F515AB8F92DDBCBD414D940E93
G = (
    0x32C4AE2C1F1981195F9904466A39C9948FE30BBFF2660BE1715A4589334C74C7,
    0xBC3736A2F4F6779C59BDCEE36B692153D0A9877CC62A474002DF32E52139F0A0,
)
MESSAGE = "给医生的许可".encode()
KEY = SigningKey(suite=Suite.SM2, seed=bytes(range(32)))
SECRET = int.from_bytes(sm2.secret_of(bytes(range(32))), "big")


def hexed(*names: str, of: dict[str, str]) -> list[bytes]:
    return [bytes.fromhex(of[name]) for name in names]


# --- known answers --------------------------------------------------------------------------------------
@pytest.mark.parametrize("case", VECTORS["sm3"], ids=lambda one: one["source"])
def test_sm3(case: dict[str, str]) -> None:
    message, digest = hexed("message", "digest", of=case)
    assert Institution.SM.digest(message) == digest
    assert gmssl_pyx.sm3_hash(message) == digest


def test_sm4() -> None:
    key, plaintext, ciphertext = hexed("key", "plaintext", "ciphertext", of=VECTORS["sm4"])
    assert Cipher(SM4(key), ECB()).encryptor().update(plaintext) == ciphertext  # noqa: S305 - the standard's example


def test_sm4_gcm() -> None:
    names = ("key", "nonce", "aad", "plaintext", "ciphertext", "tag")
    key, nonce, aad, plaintext, ciphertext, tag = hexed(*names, of=VECTORS["sm4_gcm"])
    assert Institution.SM.seal_chunk(key, nonce, plaintext, aad) == ciphertext + tag
    assert gmssl_pyx.sm4_gcm_encrypt(key, nonce, aad, plaintext) == (ciphertext, tag)
    assert Institution.SM.open_chunk(key, nonce, ciphertext + tag, aad) == plaintext


def test_sm2(verifier: None) -> None:
    case = VECTORS["sm2"]
    secret, point, r, s = hexed("private_key", "public_key", "r", "s", of=case)
    message = case["message"].encode()
    assert sm2.holds(sm2.compressed(point), r + s, message)
    der = encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))
    assert gmssl_pyx.sm2_verify(point, message, der, case["signer_id"].encode())
    assert made(int.from_bytes(secret, "big"), int(case["nonce"], 16), message) == r + s
    assert digest_of(point, message) == int(case["digest"], 16)


def test_an_sm2_key_from_its_secret() -> None:
    secret, point = hexed("private_key", "public_key", of=VECTORS["sm2"])
    assert sm2.public_key_of(secret) == sm2.compressed(point)


# --- the standard's formulas, once more -----------------------------------------------------------------
Point = tuple[int, int] | None


def add(one: Point, other: Point) -> Point:
    if one is None or other is None:
        return one or other
    (x1, y1), (x2, y2) = one, other
    if x1 == x2 and (y1 + y2) % P == 0:
        return None
    slope = (3 * x1 * x1 + A) * pow(2 * y1, -1, P) if one == other else (y2 - y1) * pow(x2 - x1, -1, P)
    x = (slope * slope - x1 - x2) % P
    return x, (slope * (x1 - x) - y1) % P


def times(factor: int, point: Point) -> Point:
    total: Point = None
    for bit in f"{factor % N:b}":
        total = add(total, total)
        if bit == "1":
            total = add(total, point)
    return total


def octets(point: Point) -> bytes:
    assert point is not None
    return point[0].to_bytes(32, "big") + point[1].to_bytes(32, "big")


def digest_of(point: bytes, message: bytes) -> int:
    curve = VECTORS["sm2"]["signer_id"].encode() + A.to_bytes(32, "big")
    curve += B.to_bytes(32, "big") + octets(G) + point
    owner = gmssl_pyx.sm3_hash(b"\x00\x80" + curve)
    return int.from_bytes(gmssl_pyx.sm3_hash(owner + message), "big")


def made(secret: int, nonce: int, message: bytes) -> bytes:
    met = times(nonce, G)
    assert met is not None
    r = (digest_of(octets(times(secret, G)), message) + met[0]) % N
    return pair(r, pow(1 + secret, -1, N) * (nonce - r * secret) % N)


def pair(r: int, s: int) -> bytes:
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def by_the_book(public_key: bytes, signature: bytes, message: bytes) -> bool:
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    if not (0 < r < N and 0 < s < N) or (r + s) % N == 0:
        return False
    point = sm2.uncompressed(public_key)
    met = add(times(s, G), times(r + s, (int.from_bytes(point[:32], "big"), int.from_bytes(point[32:], "big"))))
    return met is not None and (digest_of(point, message) + met[0]) % N == r


# --- edge cases of SM2 ----------------------------------------------------------------------------------
@pytest.fixture(params=["GmSSL", "without GmSSL"])
def verifier(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The two ways of checking must not be told apart."""
    if request.param == "without GmSSL":
        monkeypatch.setattr(sm2, "_gmssl", None)


SIGNATURES = [KEY.sign(bytes([number])) for number in range(8)]


def test_all_three_agree_on_what_is_signed(verifier: None) -> None:
    for number, signature in enumerate(SIGNATURES):
        message = bytes([number])
        assert sm2.holds(KEY.public_key, signature, message)
        assert by_the_book(KEY.public_key, signature, message)
        assert not sm2.holds(KEY.public_key, signature, message + b"\x00")
        assert not by_the_book(KEY.public_key, signature, message + b"\x00")


def edges() -> list[tuple[int, int]]:
    r, s = (int.from_bytes(half, "big") for half in (SIGNATURES[0][:32], SIGNATURES[0][32:]))
    numbers = (0, 1, 2, N - 2, N - 1, N, N + 1, P - 1, P, (1 << 256) - 1, r, s, N - r, N - s, (r + s) % N)
    return [(one, other) for one in numbers for other in numbers if (one, other) != (r, s)]


def test_no_other_pair_of_numbers_holds(verifier: None) -> None:
    for r, s in edges():
        assert not sm2.holds(KEY.public_key, pair(r, s), b"\x00"), (r, s)


def test_a_signer_cannot_use_the_point_at_infinity(verifier: None) -> None:
    """GmSSL takes its x for 0, the standard has none: a signer who knows d can reach it with r = e."""
    e = digest_of(sm2.uncompressed(KEY.public_key), MESSAGE) % N
    s = -e * SECRET * pow(1 + SECRET, -1, N) % N
    assert add(times(s, G), times(e + s, times(SECRET, G))) is None
    assert not sm2.holds(KEY.public_key, pair(e, s), MESSAGE)
    assert not by_the_book(KEY.public_key, pair(e, s), MESSAGE)


def test_the_twin_of_a_signature_gives_the_secret_away(verifier: None) -> None:
    """Why nobody but the signer can make a second signature of a first: both together are the private key."""
    signature = made(SECRET, 7, MESSAGE)
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    twin = (-s - 2 * r * SECRET * pow(1 + SECRET, -1, N)) % N
    assert sm2.holds(KEY.public_key, pair(r, s), MESSAGE)
    assert sm2.holds(KEY.public_key, pair(r, twin), MESSAGE)
    ratio = -(s + twin) * pow(2 * r, -1, N) % N
    assert ratio * pow(1 - ratio, -1, N) % N == SECRET


def _not_on_the_curve(key: bytes) -> bytes:
    return next(bytes([2]) + x.to_bytes(32, "big") for x in range(1, 99) if pow(x**3 + A * x + B, P // 2, P) != 1)


BAD_KEYS: dict[str, Callable[[bytes], bytes]] = {
    "uncompressed": lambda key: b"\x04" + key[1:],
    "hybrid": lambda key: b"\x06" + key[1:],
    "infinity": lambda _: bytes(33),
    "x is the field": lambda key: key[:1] + P.to_bytes(32, "big"),
    "x beyond the field": lambda key: key[:1] + b"\xff" * 32,
    "not on the curve": _not_on_the_curve,
    "-G, for which every s would do": lambda _: bytes([3 - G[1] % 2]) + G[0].to_bytes(32, "big"),
    "the other y": lambda key: bytes([key[0] ^ 1]) + key[1:],
}


@pytest.mark.parametrize("alter", BAD_KEYS.values(), ids=BAD_KEYS)
def test_what_is_no_key_signs_nothing(verifier: None, alter: Callable[[bytes], bytes]) -> None:
    assert not sm2.holds(alter(KEY.public_key), SIGNATURES[0], b"\x00")


def test_points_of_certificates_are_checked_too() -> None:
    point = sm2.uncompressed(KEY.public_key)
    assert sm2.compressed(point) == KEY.public_key
    assert len(sm2.compressed(octets(G))) == 33
    for wrong in (bytes(64), b"\xff" * 64, point[:32] + bytes(32), point[:63] + bytes([point[63] ^ 1])):
        with pytest.raises(ValueError, match=r"curve|compressed"):
            sm2.compressed(wrong)


@settings(max_examples=30, deadline=None)
@given(st.binary(min_size=32, max_size=32))
def test_public_keys_are_those_of_the_curve(seed: bytes) -> None:
    secret = sm2.secret_of(seed)
    assert 0 < int.from_bytes(secret, "big") < N - 1
    assert sm2.uncompressed(sm2.public_key_of(secret)) == octets(times(int.from_bytes(secret, "big"), G))


def test_the_smallest_and_the_largest_secret() -> None:
    for secret in (1, 2, N - 3, N - 2):
        assert sm2.uncompressed(sm2.public_key_of(secret.to_bytes(32, "big"))) == octets(times(secret, G))
    assert sm2.secret_of(bytes(32)) == (1).to_bytes(32, "big")
    assert sm2.secret_of((N - 3).to_bytes(32, "big")) == (N - 2).to_bytes(32, "big")
    assert sm2.secret_of((N - 2).to_bytes(32, "big")) == (1).to_bytes(32, "big")


def test_no_number_is_used_twice() -> None:
    """Each signature draws its own random number: r is fresh even for the same message."""
    assert len({KEY.sign(MESSAGE)[:32] for _ in range(50)}) == 50


def test_without_the_library_nothing_is_signed_and_the_error_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sm2, "_gmssl", None)
    with pytest.raises(sm2.Sm2Unavailable, match="gmssl-pyx"):
        KEY.sign(MESSAGE)
    with pytest.raises(sm2.Sm2Unavailable):
        SigningKey(suite=Suite.SM2, seed=bytes(32))


# --- hash and cipher ------------------------------------------------------------------------------------
def test_what_each_institution_uses() -> None:
    assert [one.signature for one in Institution] == [Suite.ED25519, Suite.SM2]
    assert [one.key_size for one in Institution] == [32, 16]
    for one, staff, patients in (
        (Institution.INTERNATIONAL, [True, True, False], [True, True, False]),
        (Institution.SM, [False, False, True], [True, True, True]),
    ):
        assert [one.admits(suite) for suite in Suite] == staff
        assert [one.admits_patient(suite) for suite in Suite] == patients
    assert not any(one.admits(9) or one.admits_patient(9) for one in Institution)


@INSTITUTIONS
def test_a_hash_in_parts_is_the_hash_of_the_whole(suite: Institution) -> None:
    hasher = suite.new_hash()
    hasher.update(b"one")
    branch = hasher.copy()
    hasher.update(memoryview(b"two"))
    assert hasher.digest() == hasher.digest() == suite.digest(b"onetwo")
    assert branch.digest() == suite.digest(b"one")
    assert len(hasher.digest()) == 32


def test_the_institutions_hashes_differ_and_the_international_one_is_the_ledgers() -> None:
    assert Institution.INTERNATIONAL.digest(MESSAGE) == sha256(MESSAGE).digest()
    assert Institution.INTERNATIONAL.tagged("a/1", b"x", b"") == tagged("a/1", b"x", b"")
    assert Institution.SM.tagged("a/1", b"x", b"") != tagged("a/1", b"x", b"")
    assert Institution.SM.tagged("a/1", b"x", b"") == gmssl_pyx.sm3_hash(b"\x03a/1\x00\x00\x00\x01x\x00\x00\x00\x00")


@INSTITUTIONS
def test_a_commitment_is_the_institutions_and_the_tree_is_the_ledgers(suite: Institution) -> None:
    salt = bytes(range(32))
    commitment = resource_commitment(salt, MESSAGE, suite)
    assert commitment == suite.tagged("carechain/resource/1", salt, MESSAGE)
    assert resource_leaf(salt, MESSAGE, suite) == leaf_hash(commitment)
    assert (resource_leaf(salt, MESSAGE) == leaf_hash(commitment)) is (suite is Institution.INTERNATIONAL)


@INSTITUTIONS
@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 65_536])
def test_what_was_sealed_opens_and_nothing_else(suite: Institution, size: int) -> None:
    key, nonce, content = bytes(range(suite.key_size)), bytes(range(NONCE_SIZE)), bytes(size)
    sealed = suite.seal_chunk(key, nonce, content, b"about")
    assert len(sealed) == size + TAG_SIZE
    assert suite.open_chunk(key, nonce, sealed, b"about") == content
    flipped = bytearray(sealed)
    flipped[size // 2] ^= 1
    for wrong_key, wrong_nonce, wrong, about in (
        (bytes(suite.key_size), nonce, sealed, b"about"),
        (key, bytes(NONCE_SIZE), sealed, b"about"),
        (key, nonce, bytes(flipped), b"about"),
        (key, nonce, sealed[:-1], b"about"),
        (key, nonce, sealed[: TAG_SIZE - 1], b"about"),
        (key, nonce, b"", b"about"),
        (key, nonce, sealed, b"other"),
    ):
        with pytest.raises(BadChunk):
            suite.open_chunk(wrong_key, wrong_nonce, wrong, about)


@INSTITUTIONS
def test_other_sizes_of_key_and_nonce_are_a_mistake_of_the_caller(suite: Institution) -> None:
    for key, nonce in ((bytes(suite.key_size - 1), bytes(12)), (bytes(48 - suite.key_size), bytes(12))):
        with pytest.raises(ValueError, match="size"):
            suite.seal_chunk(key, nonce, b"", b"")
    for size in (0, 11, 13, 16):
        with pytest.raises(ValueError, match="size"):
            suite.open_chunk(bytes(suite.key_size), bytes(size), bytes(TAG_SIZE), b"")
