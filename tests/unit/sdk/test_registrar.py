"""Goal: an existing id becomes a keyed hash that two registrars never share and no spelling changes (ID-3).

Method: the HMAC is recomputed by hand; spellings that people type are compared; the secret's file is damaged and
opened to others.
"""

import hashlib
import hmac
from pathlib import Path

import pytest

from carechain.core.rejection import Rejected
from carechain.sdk.keyfile import Entropy, WalletCode
from carechain.sdk.registrar import RegistrarSecret, normalised

SECRET = RegistrarSecret(bytes(range(32)))


def refusal(path: Path) -> object:
    with pytest.raises(Rejected) as caught:
        RegistrarSecret.load(path)
    return caught.value.code


def test_the_hash_is_the_documented_one() -> None:
    text = b"carechain/id-hash/1" + b"\x00\x00\x00\x03mrn" + b"\x00\x00\x00\x06a-0042"
    assert SECRET.id_hash("MRN", "A-0042") == hmac.digest(bytes(range(32)), text, hashlib.sha256)


def test_one_id_at_two_registrars_is_unequal() -> None:
    assert SECRET.id_hash("mrn", "42") != RegistrarSecret(bytes(32)).id_hash("mrn", "42")


@pytest.mark.parametrize(
    "spelling",
    [
        "110101 19900307 123x",
        "11010119900307123X",
        " 110101\u300019900307\t123X\n",
        "１１０１０１１９９００３０７１２３Ｘ",
        "110101\u200b19900307123X",
    ],
)
def test_spellings_of_one_id_are_equal(spelling: str) -> None:
    assert SECRET.id_hash("cn-id", spelling) == SECRET.id_hash("CN-ID", "11010119900307123x")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("a", "bc"), ("ab", "c")),
        (("mrn", "7"), ("ssn", "7")),
        (("mrn", "007"), ("mrn", "7")),
        (("m", "1-1"), ("m", "11")),
    ],
)
def test_different_ids_stay_different(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert SECRET.id_hash(*one) != SECRET.id_hash(*other)


def test_normalising_twice_changes_nothing() -> None:
    for text in ("Straße", "İ-1", "ﬁ９", "王 小明"):
        assert normalised(normalised(text)) == normalised(text)


@pytest.mark.parametrize(
    ("system", "value", "code"),
    [
        ("", "1", WalletCode.ID_EMPTY),
        ("mrn", " \u3000\u200b", WalletCode.ID_EMPTY),
        ("mrn", "1" * 257, WalletCode.ID_TOO_LONG),
        ("m" * 257, "1", WalletCode.ID_TOO_LONG),
        ("mrn", "1\ud800", WalletCode.ID_NOT_TEXT),
    ],
)
def test_impossible_ids_are_refused_without_being_repeated(system: str, value: str, code: WalletCode) -> None:
    with pytest.raises(Rejected) as caught:
        SECRET.id_hash(system, value)
    assert caught.value.code is code
    assert "1" * 257 not in str(caught.value)


def test_secret_file(tmp_path: Path, entropy: Entropy) -> None:
    path = tmp_path / "registrar.secret"
    made = RegistrarSecret.create(path, entropy=entropy)
    assert path.stat().st_mode & 0o777 == 0o600
    assert RegistrarSecret.load(path).id_hash("mrn", "42") == made.id_hash("mrn", "42")
    with pytest.raises(Rejected) as caught:
        RegistrarSecret.create(path, entropy=entropy)
    assert caught.value.code is WalletCode.FILE_EXISTS
    path.chmod(0o640)
    assert refusal(path) is WalletCode.SECRET_OPEN_TO_OTHERS
    path.chmod(0o600)
    for wrong in (b"", b"ab" * 31, b"ab" * 33, b"AB" * 32, b"ab" * 32 + b"\n\n", b"\xff" * 64):
        path.write_bytes(wrong)
        assert refusal(path) is WalletCode.SECRET_DAMAGED
    with pytest.raises(FileNotFoundError):
        RegistrarSecret.load(tmp_path / "none")


def test_secret_is_not_printed_and_has_one_size() -> None:
    assert "0" not in repr(SECRET)
    with pytest.raises(ValueError, match="32 bytes"):
        RegistrarSecret(b"short")
