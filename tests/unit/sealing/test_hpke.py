"""Goal: what is sealed is RFC 9180 HPKE, opens for the right key and context only, and never opens altered.

Method: an independent implementation of the RFC's base mode, written from its text on top of HKDF and checked against
the published vector for DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM, opens what the library sealed and seals
what the library opens. Then every bit of sealed bytes is flipped and every length cut.
"""

import hashlib
import hmac
import os

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from carechain.sealing.hpke import (
    HPKE_OVERHEAD_BYTES,
    LARGE_OVERHEAD_BYTES,
    CannotOpen,
    HpkePrivateKey,
    open_large,
    open_sealed,
    seal,
    seal_large,
)

KEY = HpkePrivateKey(bytes(range(32)))
OTHER = HpkePrivateKey(bytes(range(1, 33)))
INFO = b"a context"

# The published vector: mode base, KEM 0x0020, KDF 0x0001, AEAD 0x0002, first encryption.
VECTOR = {
    "info": "4f6465206f6e2061204772656369616e2055726e",
    "skRm": "497b4502664cfea5d5af0b39934dac72242a74f8480451e1aee7d6a53320333d",
    "pkRm": "430f4b9859665145a6b1ba274024487bd66f03a2dd577d7753c68d7d7d00c00c",
    "skEm": "179d4b53b6365c45b600c4163b61d95cbc2f4d9e36f1695558dce265ab8bab11",
    "enc": "6c93e09869df3402d7bf231bf540fadd35cd56be14f97178f0954db94b7fc256",
    "key": "f50b0609186798729ed0564b36ef2ef8044f1f9d05636874d1f46c819c7a669f",
    "base_nonce": "151d9929e2449747889bc923",
    "aad": "436f756e742d30",
    "pt": "4265617574792069732074727574682c20747275746820626561757479",
    "ct": "e5d84cd531cfb583096e7cfa9641bd3079cf3a91cda813c52deb5f512be9931980a41de125a925cdad859d5b7a",
}


def extract(salt: bytes, suite_id: bytes, label: bytes, ikm: bytes) -> bytes:
    return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite_id + label + ikm, hashlib.sha256)


def expand(prk: bytes, suite_id: bytes, label: bytes, info: bytes, size: int) -> bytes:
    labelled = size.to_bytes(2, "big") + b"HPKE-v1" + suite_id + label + info
    block, result, counter = b"", b"", 1
    while len(result) < size:
        block = hmac.digest(prk, block + labelled + bytes([counter]), hashlib.sha256)
        result += block
        counter += 1
    return result[:size]


def schedule(shared_point: bytes, enc: bytes, recipient: bytes, info: bytes) -> tuple[bytes, bytes]:
    """Key and nonce of the first message, RFC 9180 sections 4.1 and 5.1."""
    kem_id, hpke_id = b"KEM\x00\x20", b"HPKE\x00\x20\x00\x01\x00\x02"
    shared = expand(extract(b"", kem_id, b"eae_prk", shared_point), kem_id, b"shared_secret", enc + recipient, 32)
    context = b"\x00" + extract(b"", hpke_id, b"psk_id_hash", b"") + extract(b"", hpke_id, b"info_hash", info)
    secret = extract(shared, hpke_id, b"secret", b"")
    return expand(secret, hpke_id, b"key", context, 32), expand(secret, hpke_id, b"base_nonce", context, 12)


def independent_seal(recipient: bytes, info: bytes, plaintext: bytes) -> bytes:
    ephemeral = X25519PrivateKey.generate()
    enc = ephemeral.public_key().public_bytes_raw()
    point = ephemeral.exchange(X25519PublicKey.from_public_bytes(recipient))
    key, nonce = schedule(point, enc, recipient, info)
    return enc + AESGCM(key).encrypt(nonce, plaintext, b"")


def test_independent_implementation_gives_the_published_vector() -> None:
    value = {name: bytes.fromhex(text) for name, text in VECTOR.items()}
    ephemeral = X25519PrivateKey.from_private_bytes(value["skEm"])
    assert ephemeral.public_key().public_bytes_raw() == value["enc"]
    assert HpkePrivateKey(value["skRm"]).public_key == value["pkRm"]
    point = ephemeral.exchange(X25519PublicKey.from_public_bytes(value["pkRm"]))
    key, nonce = schedule(point, value["enc"], value["pkRm"], value["info"])
    assert (key, nonce) == (value["key"], value["base_nonce"])
    assert AESGCM(key).encrypt(nonce, value["pt"], value["aad"]) == value["ct"]


def test_both_implementations_read_each_other() -> None:
    assert open_sealed(KEY, INFO, independent_seal(KEY.public_key, INFO, b"hello")) == b"hello"
    sealed = seal(KEY.public_key, INFO, b"hello")
    point = X25519PrivateKey.from_private_bytes(bytes(range(32))).exchange(
        X25519PublicKey.from_public_bytes(sealed[:32])
    )
    key, nonce = schedule(point, sealed[:32], KEY.public_key, INFO)
    assert AESGCM(key).decrypt(nonce, sealed[32:], b"") == b"hello"


@pytest.mark.parametrize("size", [0, 1, 32, 70_000])
def test_round_trip(size: int) -> None:
    plaintext = os.urandom(size)
    sealed = seal(KEY.public_key, INFO, plaintext)
    assert len(sealed) == size + HPKE_OVERHEAD_BYTES
    assert open_sealed(KEY, INFO, sealed) == plaintext
    large = seal_large(KEY.public_key, info=INFO, plaintext=plaintext, entropy=os.urandom)
    assert len(large) == size + LARGE_OVERHEAD_BYTES
    assert open_large(KEY, info=INFO, sealed=large) == plaintext


def test_wrong_key_and_wrong_context_are_refused() -> None:
    sealed = seal(KEY.public_key, INFO, b"x")
    large = seal_large(KEY.public_key, info=INFO, plaintext=b"x", entropy=os.urandom)
    for key, info in ((OTHER, INFO), (KEY, INFO + b"\x00"), (KEY, b"")):
        with pytest.raises(CannotOpen):
            open_sealed(key, info, sealed)
        with pytest.raises(CannotOpen):
            open_large(key, info=info, sealed=large)


def test_a_wrapped_key_is_not_a_message() -> None:
    large = seal_large(KEY.public_key, info=INFO, plaintext=b"x", entropy=os.urandom)
    with pytest.raises(CannotOpen):
        open_sealed(KEY, INFO, large[1:81])


def test_every_altered_bit_is_refused() -> None:
    sealed = seal(KEY.public_key, INFO, b"four")
    large = seal_large(KEY.public_key, info=INFO, plaintext=b"four", entropy=os.urandom)
    for at in range(8 * len(sealed)):
        with pytest.raises(CannotOpen):
            open_sealed(KEY, INFO, flipped(sealed, at))
    for at in range(8 * len(large)):
        with pytest.raises(CannotOpen):
            open_large(KEY, info=INFO, sealed=flipped(large, at))


def test_every_cut_and_an_extension_are_refused() -> None:
    sealed = seal(KEY.public_key, INFO, b"four")
    large = seal_large(KEY.public_key, info=INFO, plaintext=b"four", entropy=os.urandom)
    for wrong in [*(sealed[:size] for size in range(len(sealed))), sealed + b"\x00"]:
        with pytest.raises(CannotOpen):
            open_sealed(KEY, INFO, wrong)
    for wrong in [*(large[:size] for size in range(len(large))), large + b"\x00"]:
        with pytest.raises(CannotOpen):
            open_large(KEY, info=INFO, sealed=wrong)


def test_unusable_recipient_keys_are_refused() -> None:
    with pytest.raises(ValueError, match="32"):
        seal(b"short", INFO, b"x")
    with pytest.raises(ValueError, match=r".*"):
        seal(bytes(32), INFO, b"x")
    with pytest.raises(ValueError, match="32 bytes"):
        HpkePrivateKey(b"short")
    with pytest.raises(CannotOpen):
        open_sealed(KEY, INFO, bytes(64))


def test_private_key_does_not_print_its_secret() -> None:
    assert bytes(range(32)).hex() not in repr(KEY)


def flipped(data: bytes, bit: int) -> bytes:
    altered = bytearray(data)
    altered[bit // 8] ^= 1 << bit % 8
    return bytes(altered)
