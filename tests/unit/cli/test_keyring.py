"""Goal: keys are found by name or path, passwords come from private files, and names lead to the right ids.

Method: key files on a temporary disk; every way of asking for a key that is not there.
"""

import os
from pathlib import Path

import pytest
import typer

from carechain.cli.keyring import BOOK_FILE, Keyring
from carechain.cli.output import CannotRun
from carechain.core.rejection import Rejected
from carechain.core.vocabulary import PartyKind
from carechain.sdk.keyfile import WalletCode

PASSWORD = "一个 password"


@pytest.fixture
def keys(tmp_path: Path) -> Keyring:
    return Keyring(tmp_path)


def test_an_identity_by_name_and_by_path(keys: Keyring) -> None:
    made = keys.add_identity("李医生", kind=PartyKind.STAFF, organisation=None, password=PASSWORD)
    path = keys.path_of("李医生")
    assert path.stat().st_mode & 0o777 == 0o600
    assert keys.identity("李医生", PASSWORD) == made
    assert keys.identity(str(path), PASSWORD) == made
    assert keys.kind_of("李医生") == "identity"
    assert keys.party("李医生", hint="--to") == made.party
    assert keys.name_of(made.party) == "李医生"
    with pytest.raises(Rejected) as refused:
        keys.add_identity("李医生", kind=PartyKind.STAFF, organisation=None, password=PASSWORD)
    assert refused.value.code is WalletCode.FILE_EXISTS


def test_a_wallet_never_enters_the_address_book(keys: Keyring, tmp_path: Path) -> None:
    keys.add_wallet("mine", chain_id="c", password=PASSWORD)
    name, wallet = keys.wallet(None, PASSWORD)
    assert name == "mine"
    changed, relation = wallet.with_relation(bytes(32), label="家", since_day=1)
    keys.keep_wallet(name, changed, password=PASSWORD)
    assert keys.relation(keys.wallet(name, PASSWORD)[1], None) == relation
    assert not (tmp_path / BOOK_FILE).exists()
    assert [(one.name, one.kind, one.party) for one in keys.listing()] == [("mine", "wallet", None)]


def test_which_wallet_must_be_said_when_it_is_not_clear(keys: Keyring) -> None:
    with pytest.raises(typer.BadParameter):
        keys.only_wallet()
    for name in ("one", "two"):
        keys.add_wallet(name, chain_id="c", password=PASSWORD)
    with pytest.raises(typer.BadParameter):
        keys.only_wallet()


def test_which_relationship_must_be_said_when_it_is_not_clear(keys: Keyring) -> None:
    wallet = keys.add_wallet("mine", chain_id="c", password=PASSWORD)
    with pytest.raises(CannotRun):
        keys.relation(wallet, None)
    for organisation in (b"a" * 32, b"b" * 32):
        wallet, _ = wallet.with_relation(organisation, label="", since_day=1)
    with pytest.raises(typer.BadParameter):
        keys.relation(wallet, None)
    assert keys.relation(wallet, b"b" * 32).organisation == b"b" * 32
    with pytest.raises(CannotRun):
        keys.relation(wallet, b"c" * 32)


@pytest.mark.parametrize("name", ["", ".hidden", "a" * 65, "a b", "-x"])
def test_impossible_names(keys: Keyring, name: str) -> None:
    with pytest.raises(typer.BadParameter):
        keys.path_of(name)


@pytest.mark.parametrize("name", ["member", "keys/none.json"])
def test_a_missing_key_is_the_environment(keys: Keyring, name: str) -> None:
    with pytest.raises(CannotRun, match="no key file"):
        keys.identity(name, PASSWORD)


def test_a_file_that_holds_no_key(keys: Keyring, tmp_path: Path) -> None:
    keys.prepare()
    keys.path_of("odd").write_text("{}", encoding="utf-8")
    with pytest.raises(CannotRun, match="not a key file"):
        keys.listing()


@pytest.mark.parametrize("content", [b"[]", b'{"a": "zz"}', b"\xff"])
def test_a_damaged_address_book(keys: Keyring, tmp_path: Path, content: bytes) -> None:
    (tmp_path / BOOK_FILE).write_bytes(content)
    with pytest.raises(CannotRun, match="damaged"):
        keys.book()


@pytest.mark.parametrize("text", ["nobody", "ab" * 31, "zz" * 32])
def test_an_unknown_party_is_usage(keys: Keyring, text: str) -> None:
    with pytest.raises(typer.BadParameter):
        keys.party(text, hint="--to")


def test_a_password_file(keys: Keyring, tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.touch(mode=0o600)
    path.write_text(f"{PASSWORD}\r\n", encoding="utf-8")
    assert keys.password(path) == PASSWORD


@pytest.mark.parametrize(
    ("content", "mode"), [(b"open", 0o644), (b"\xff", 0o600), (b"x" * 5000, 0o600)], ids=["open", "binary", "large"]
)
def test_a_password_file_that_is_refused(keys: Keyring, tmp_path: Path, content: bytes, mode: int) -> None:
    path = tmp_path / "password"
    path.write_bytes(content)
    path.chmod(mode)
    with pytest.raises(CannotRun):
        keys.password(path)


def test_nobody_to_ask_for_the_password(keys: Keyring, monkeypatch: pytest.MonkeyPatch) -> None:
    with Path(os.devnull).open(encoding="utf-8") as nobody:
        monkeypatch.setattr("sys.stdin", nobody)
        with pytest.raises(typer.BadParameter):
            keys.password(None)
