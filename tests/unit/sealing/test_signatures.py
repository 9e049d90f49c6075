"""Goal: the signature suites give the standard's own values and have one valid form each.

Method: RFC 8032 section 7.1 vectors for Ed25519; for P-256 (RFC 6979 key and message) the high-s twin of a valid
signature, which the curve's mathematics accepts, must be refused here.
"""

import pytest

from carechain.core.crypto import P256_ORDER, BadSignature, SigningKey, Suite, verify

RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
]


@pytest.mark.parametrize(("seed", "public", "message", "signature"), RFC_8032)
def test_ed25519_gives_the_rfc_8032_values(seed: str, public: str, message: str, signature: str) -> None:
    key = SigningKey(suite=Suite.ED25519, seed=bytes.fromhex(seed))
    assert key.public_key.hex() == public
    assert key.sign(bytes.fromhex(message)).hex() == signature
    verify(
        suite=Suite.ED25519,
        public_key=key.public_key,
        signature=bytes.fromhex(signature),
        message=bytes.fromhex(message),
    )


def test_p256_key_of_rfc_6979() -> None:
    scalar = 0xC9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721
    key = SigningKey(suite=Suite.P256, seed=(scalar - 1).to_bytes(32, "big"))
    assert key.public_key.hex() == "0360fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb6"


def test_p256_signatures_are_low_s_and_the_high_twin_is_refused() -> None:
    key = SigningKey(suite=Suite.P256, seed=bytes(range(32)))
    for number in range(8):
        message = bytes([number])
        signature = key.sign(message)
        r, s = signature[:32], int.from_bytes(signature[32:], "big")
        assert s <= P256_ORDER // 2
        verify(suite=Suite.P256, public_key=key.public_key, signature=signature, message=message)
        twin = r + (P256_ORDER - s).to_bytes(32, "big")
        with pytest.raises(BadSignature):
            verify(suite=Suite.P256, public_key=key.public_key, signature=twin, message=message)


@pytest.mark.parametrize("suite", list(Suite))
def test_altered_message_key_or_signature_is_refused(suite: Suite) -> None:
    key = SigningKey(suite=suite, seed=bytes(range(32)))
    other = SigningKey(suite=suite, seed=bytes(range(1, 33)))
    signature = key.sign(b"message")
    wrong = [
        (key.public_key, signature, b"massage"),
        (other.public_key, signature, b"message"),
        (key.public_key[:-1], signature, b"message"),
        (key.public_key, signature[:-1], b"message"),
        (key.public_key, bytes(64), b"message"),
        (key.public_key, b"\xff" * 64, b"message"),
    ]
    for public_key, forged, message in wrong:
        with pytest.raises(BadSignature):
            verify(suite=suite, public_key=public_key, signature=forged, message=message)


def test_unknown_suite_is_refused_and_keys_do_not_print_secrets() -> None:
    key = SigningKey(suite=Suite.ED25519, seed=bytes(range(32)))
    with pytest.raises(BadSignature):
        verify(suite=9, public_key=key.public_key, signature=key.sign(b""), message=b"")
    assert bytes(range(32)).hex() not in repr(key)
    with pytest.raises(ValueError, match="32 bytes"):
        SigningKey(suite=Suite.P256, seed=b"short")
