"""Goal: a key file opens with its password only, survives a crash, and every way it can be wrong has its own code.

Method: one row per :class:`WalletCode` of the file, on real files in a temporary folder; a damaged file is told from a
wrong password by flipping every byte of the payload fields.
"""

import base64
import json
import stat
from pathlib import Path
from typing import Any

import pytest

from carechain.core.limits import WALLET_FILE_BYTES
from carechain.core.rejection import Rejected
from carechain.sdk.keyfile import (
    Entropy,
    WalletCode,
    check_label,
    decode_key_file,
    encode_key_file,
    read_bounded,
    write_private_file,
)
from carechain.sealing.symmetric import ScryptCost

PASSWORD = "密码 correct horse"


@pytest.fixture
def data(entropy: Entropy, cheap: ScryptCost) -> bytes:
    return encode_key_file(b"payload", kind="wallet", password=PASSWORD, entropy=entropy, cost=cheap)


def changed(data: bytes, **fields: Any) -> bytes:
    return json.dumps({**json.loads(data), **fields}).encode()


def refusal(data: bytes, password: str = PASSWORD) -> WalletCode:
    with pytest.raises(Rejected) as caught:
        decode_key_file(data, kind="wallet", password=password)
    assert isinstance(caught.value.code, WalletCode)
    return caught.value.code


def test_round_trip_and_visible_fields(data: bytes) -> None:
    assert decode_key_file(data, kind="wallet", password=PASSWORD) == b"payload"
    seen = json.loads(data)
    assert list(seen) == ["format", "version", "kind", "kdf", "cipher", "nonce", "ciphertext", "checksum"]
    assert seen["kdf"]["name"] == "scrypt"
    assert len(base64.b64decode(seen["ciphertext"])) == 1024 + 16


def test_one_password_in_two_unicode_forms(entropy: Entropy, cheap: ScryptCost) -> None:
    data = encode_key_file(b"x", kind="wallet", password="pa\u0308ss", entropy=entropy, cost=cheap)
    assert decode_key_file(data, kind="wallet", password="p\u00e4ss") == b"x"


def test_default_password_work_is_the_recommended_one() -> None:
    assert (ScryptCost().n, ScryptCost().r, ScryptCost().p) == (131_072, 8, 1)


def test_each_refusal(data: bytes) -> None:
    good = json.loads(data)
    assert refusal(data + b" " * WALLET_FILE_BYTES) is WalletCode.FILE_TOO_LARGE
    assert refusal(data, "wrong") is WalletCode.PASSWORD_WRONG
    assert refusal(data, "") is WalletCode.PASSWORD_UNUSABLE
    assert refusal(data, "\udcff") is WalletCode.PASSWORD_UNUSABLE
    assert refusal(changed(data, version=2, future={"x": 1})) is WalletCode.FILE_NEWER
    with pytest.raises(Rejected) as caught:
        decode_key_file(data, kind="identity", password=PASSWORD)
    assert caught.value.code is WalletCode.FILE_OF_ANOTHER_KIND
    damaged = [
        b"",
        b"null",
        b"[]",
        b"\xff\xfe",
        b"[" * 5000,
        data[:-20],
        changed(data, format="other"),
        changed(data, version=0),
        changed(data, version="1"),
        changed(data, extra=1),
        changed(data, cipher="none"),
        changed(data, kind="identity"),
        changed(data, nonce=base64.b64encode(bytes(11)).decode()),
        changed(data, nonce=base64.b64encode(bytes(12)).decode()),
        changed(data, ciphertext=""),
        changed(data, checksum=base64.b64encode(bytes(32)).decode()),
        changed(data, kdf={**good["kdf"], "n": 2048}),
        changed(data, kdf={**good["kdf"], "n": 1 << 70}),
        changed(data, kdf={**good["kdf"], "name": "argon2"}),
        json.dumps({name: value for name, value in good.items() if name != "nonce"}).encode(),
    ]
    for wrong in damaged:
        assert refusal(wrong) is WalletCode.FILE_DAMAGED


def test_every_altered_byte_of_the_contents_is_damage_and_not_a_wrong_password(data: bytes) -> None:
    good = json.loads(data)
    for field in ("nonce", "ciphertext", "checksum"):
        raw = base64.b64decode(good[field])
        for at in range(len(raw)):
            altered = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
            wrong = changed(data, **{field: base64.b64encode(altered).decode()})
            assert refusal(wrong) is WalletCode.FILE_DAMAGED


def test_unbounded_password_work_is_refused_even_with_a_right_checksum(
    entropy: Entropy, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A forger can compute the checksum; the bound on the work has to hold by itself.
    monkeypatch.setattr("carechain.sdk.keyfile._key", lambda *_: bytes(32))
    forged = encode_key_file(b"x", kind="wallet", password=PASSWORD, entropy=entropy, cost=ScryptCost(n=1 << 30, r=8))
    assert refusal(forged) is WalletCode.FILE_DAMAGED


def test_empty_password_is_refused_when_writing(entropy: Entropy, cheap: ScryptCost) -> None:
    with pytest.raises(Rejected) as caught:
        encode_key_file(b"x", kind="wallet", password="", entropy=entropy, cost=cheap)
    assert caught.value.code is WalletCode.PASSWORD_UNUSABLE


def test_a_payload_beyond_the_bound_is_refused(entropy: Entropy, cheap: ScryptCost) -> None:
    with pytest.raises(Rejected) as caught:
        encode_key_file(bytes(WALLET_FILE_BYTES), kind="wallet", password=PASSWORD, entropy=entropy, cost=cheap)
    assert caught.value.code is WalletCode.FILE_TOO_LARGE


def test_files_are_private_whole_and_never_overwritten_by_new_keys(tmp_path: Path) -> None:
    path = tmp_path / "王小明.keys"
    write_private_file(path, b"first", replace=False)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(Rejected) as caught:
        write_private_file(path, b"second", replace=False)
    assert caught.value.code is WalletCode.FILE_EXISTS
    assert path.read_bytes() == b"first"
    write_private_file(path, b"third", replace=True)
    assert path.read_bytes() == b"third"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    taken = tmp_path / "folder"
    (taken / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="folder"):
        write_private_file(taken, b"x", replace=True)
    assert [one.name for one in tmp_path.iterdir()] == ["folder"]


def test_reading_is_bounded_and_a_missing_file_is_the_environments(tmp_path: Path) -> None:
    path = tmp_path / "big"
    path.write_bytes(bytes(WALLET_FILE_BYTES + 1))
    with pytest.raises(Rejected) as caught:
        read_bounded(path)
    assert caught.value.code is WalletCode.FILE_TOO_LARGE
    with pytest.raises(FileNotFoundError):
        read_bounded(tmp_path / "none")


@pytest.mark.parametrize("label", ["", "市立医院", "Dr. Ångström", "x" * 80])
def test_labels_in_any_script_are_taken(label: str) -> None:
    check_label(label)


@pytest.mark.parametrize("label", ["x" * 81, "a\nb", "\x1b[31m", "a\u202eb", "\ud800"])
def test_labels_that_break_a_terminal_are_refused(label: str) -> None:
    with pytest.raises(Rejected) as caught:
        check_label(label)
    assert caught.value.code is WalletCode.LABEL_INVALID
