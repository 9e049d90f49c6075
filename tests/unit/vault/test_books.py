"""Goal: metering adds up to the second, whatever is stored twice or gone, and tokens find records and nothing else.

Method: figures worked out by hand, a model of sets compared with the store for random histories, bounds lowered to be
reached, and the files opened again and by a newer format.
"""

import sqlite3
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carechain.core.rejection import Rejected
from carechain.vault import tokens as tokens_module
from carechain.vault.base import VaultUnavailable
from carechain.vault.codes import VaultCode
from carechain.vault.metering import Metering, StoreTooNew, Usage
from carechain.vault.tokens import TokenStore

A, B, C = (bytes([number]) * 32 for number in (1, 2, 3))
ONE, TWO = b"p" * 32, b"q" * 32


@pytest.fixture
def metering(tmp_path: Path) -> Metering:
    return Metering(tmp_path / "vault.sqlite")


def test_byte_seconds_by_hand(metering: Metering) -> None:
    assert metering.begin(A, pseudonym=ONE, party=C, size=10, now_s=100)
    assert not metering.begin(A, pseudonym=ONE, party=C, size=10, now_s=150)
    assert metering.begin(B, pseudonym=ONE, party=C, size=1, now_s=200)
    assert metering.begin(C, pseudonym=TWO, party=C, size=7, now_s=100)
    assert metering.end(A, now_s=300)
    assert not metering.end(A, now_s=400)
    # From 100 to 300 ten bytes, from 200 on one.
    for from_s, to_s, expected in ((0, 100, 0), (0, 101, 10), (0, 300, 2100), (150, 250, 1050), (300, 1300, 1000)):
        assert metering.usage(ONE, from_s, to_s) == expected
    assert metering.held_bytes(C) == 8
    assert list(metering.live()) == [(B, 1), (C, 7)]
    assert list(metering.usages(0, 1000)) == [
        Usage(pseudonym=ONE, byte_seconds=2800, objects=2, bytes_now=1),
        Usage(pseudonym=TWO, byte_seconds=6300, objects=1, bytes_now=7),
    ]
    assert list(metering.usages(0, 100)) == []


def test_an_object_that_two_organisations_stored_counts_once_for_the_patient(metering: Metering) -> None:
    metering.begin(A, pseudonym=ONE, party=B, size=10, now_s=0)
    metering.begin(A, pseudonym=ONE, party=C, size=10, now_s=50)
    metering.end(A, now_s=100, party=B)
    assert metering.usage(ONE, 0, 200) == 2000
    assert (metering.held_bytes(B), metering.held_bytes(C)) == (0, 10)
    assert metering.is_held(A)
    assert not metering.is_held(A, B)
    assert metering.totals() == (1, 10, 0)


def test_more_byte_seconds_than_the_database_can_add_up(metering: Metering) -> None:
    tib, ten_years_s = 1 << 40, 315_360_000
    for number in range(3):
        metering.begin(bytes([number]) * 32, pseudonym=ONE, party=C, size=tib, now_s=0)
    assert metering.usage(ONE, 0, ten_years_s) == 3 * tib * ten_years_s > 2**63


def test_a_clock_that_went_back_takes_nothing_away(metering: Metering) -> None:
    metering.begin(A, pseudonym=ONE, party=C, size=10, now_s=100)
    metering.end(A, now_s=50)
    assert metering.usage(ONE, 0, 1000) == 0


def test_erasing_ends_the_metering_and_is_remembered(metering: Metering, tmp_path: Path) -> None:
    metering.begin(A, pseudonym=ONE, party=C, size=10, now_s=0)
    metering.erase(A, now_s=10)
    metering.erase(A, now_s=20)
    metering.erase(B, now_s=20)
    metering.close()
    with Metering(tmp_path / "vault.sqlite") as again:
        assert (again.is_erased(A), again.is_erased(B), again.is_erased(C)) == (True, True, False)
        assert again.usage(ONE, 0, 100) == 100
        assert again.totals() == (0, 0, 2)


def test_a_newer_file_and_a_broken_one_are_told(tmp_path: Path) -> None:
    path = tmp_path / "vault.sqlite"
    Metering(path).close()
    with sqlite3.connect(path) as file:
        file.execute("UPDATE store_info SET version = 2")
    file.close()
    with pytest.raises(StoreTooNew, match="format 2"):
        Metering(path)
    path.write_bytes(b"not a database, though long enough to be looked at as one" * 20)
    with pytest.raises(VaultUnavailable, match="DatabaseError"):
        Metering(path)


# --- tokens ---------------------------------------------------------------------------------------------


def token(number: int) -> bytes:
    return sha256(b"token %d" % number).digest()


def record(number: int) -> bytes:
    return sha256(b"record %d" % number).digest()


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    return TokenStore(tmp_path / "tokens.sqlite")


def test_every_token_must_be_there_and_patients_do_not_mix(store: TokenStore) -> None:
    store.put(ONE, record(1), [token(1), token(2), token(2)])
    store.put(ONE, record(2), [token(2), token(3)])
    store.put(TWO, record(3), [token(1), token(2)])
    assert store.search(ONE, [token(2)]) == sorted([record(1), record(2)])
    assert store.search(ONE, [token(1), token(2), token(1)]) == [record(1)]
    assert store.search(ONE, [token(1), token(3)]) == []
    assert store.search(ONE, []) == []
    store.put(ONE, record(1), [token(9)])
    assert store.search(ONE, [token(1)]) == []
    assert store.holds(ONE, record(1))
    assert store.delete(ONE, record(1))
    assert not store.delete(ONE, record(1))
    assert not store.holds(ONE, record(1))
    assert store.search(TWO, [token(1)]) == [record(3)]


def test_bounds_and_forms(store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens_module, "TOKENS_PER_RECORD", 3)
    monkeypatch.setattr(tokens_module, "TOKENS_PER_SEARCH", 2)
    monkeypatch.setattr(tokens_module, "SEARCH_SCAN_RECORDS", 2)

    def refused(code: VaultCode) -> "pytest.RaisesExc[Rejected]":
        return pytest.RaisesExc(Rejected, check=lambda error: error.code is code)

    with refused(VaultCode.TOO_MANY_TOKENS):
        store.put(ONE, record(1), [token(number) for number in range(4)])
    with refused(VaultCode.TOO_MANY_TOKENS):
        store.search(ONE, [token(number) for number in range(3)])
    for bad in ((ONE[:-1], record(1), [token(1)]), (ONE, b"", [token(1)]), (ONE, record(1), [b"short"])):
        with refused(VaultCode.REQUEST_MALFORMED):
            store.put(*bad)
    with refused(VaultCode.REQUEST_MALFORMED):
        store.search(ONE, [b"short"])
    for number in range(2):
        store.put(ONE, record(number), [token(1)])
    found = store.search(ONE, [token(1)])
    assert store.search(ONE, [token(1)], after=found[0]) == found[1:]
    store.put(ONE, record(2), [token(1)])
    with refused(VaultCode.SEARCH_TOO_WIDE):
        store.search(ONE, [token(1)])


@settings(max_examples=30)
@given(
    history=st.lists(
        st.tuples(st.sampled_from([ONE, TWO]), st.integers(0, 4), st.sets(st.integers(0, 5), max_size=4)), max_size=15
    ),
    asked=st.sets(st.integers(0, 5), min_size=1, max_size=3),
)
def test_as_a_model_of_sets(
    tmp_path_factory: pytest.TempPathFactory, history: list[tuple[bytes, int, set[int]]], asked: set[int]
) -> None:
    model: dict[tuple[bytes, bytes], set[int]] = {}
    with TokenStore(tmp_path_factory.mktemp("tokens") / "tokens.sqlite") as store:
        for pseudonym, number, tokens in history:
            store.put(pseudonym, record(number), [token(one) for one in tokens])
            model[pseudonym, record(number)] = tokens
        for pseudonym in (ONE, TWO):
            expected = sorted(where for (who, where), have in model.items() if who == pseudonym and asked <= have)
            assert store.search(pseudonym, [token(one) for one in asked]) == expected


def test_deleted_tokens_are_gone_from_the_files(tmp_path: Path) -> None:
    doomed = sha256(b"doomed").digest()
    with TokenStore(tmp_path / "tokens.sqlite") as store:
        store.put(bytes(32), bytes(32), [doomed])
        before = b"".join(one.read_bytes() for one in tmp_path.iterdir())
        assert store.delete(bytes(32), bytes(32))
        assert doomed in before
        assert not any(doomed in one.read_bytes() for one in tmp_path.iterdir())
