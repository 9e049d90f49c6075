"""Goal: whatever is typed as a recovery card or handed over as a request file meets a typed refusal, never a trace.

Method: Hypothesis makes text, mutates real cards word by word, and makes and mutates request files; what is accepted
must be what was made.
"""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carechain.cli.new_keys import read_request as read_staff_request
from carechain.cli.output import CannotRun
from carechain.cli.recovery_steps import read_request, request_of, write_request
from carechain.core.rejection import Rejected
from carechain.sdk.recovery_cards import CardsCode, join_cards, make_cards
from carechain.sdk.wallet import Wallet

SECRET = bytes(range(16))
CARDS = make_cards(SECRET, needed=2, cards=3)
WORDS = sorted({word for card in CARDS for word in card.split()})
WALLET, RELATION = Wallet(seed=bytes(32), chain_id="test").with_adopted(b"A" * 32, b"P" * 32)
REQUEST = request_of(WALLET.keys_of(RELATION), chain_id="test", attempt=0, cards=None)
quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def joined(cards: list[str]) -> bytes | None:
    try:
        return join_cards(cards)
    except Rejected as refused:
        if not isinstance(refused.code, CardsCode):
            raise
        return None


@quick
@given(st.lists(st.text(max_size=200), max_size=4))
def test_any_text(cards: list[str]) -> None:
    assert joined(cards) is None


@quick
@given(st.lists(st.lists(st.sampled_from(WORDS), min_size=18, max_size=34).map(" ".join), max_size=4))
def test_any_words_of_the_list(cards: list[str]) -> None:
    joined(cards)


@quick
@given(st.integers(0, 19), st.sampled_from(WORDS))
def test_one_word_misread(place: int, word: str) -> None:
    words = CARDS[0].split()
    words[place] = word
    read = " ".join(words)
    assert joined([read, CARDS[1]]) == (SECRET if read == CARDS[0] else None)


@quick
@given(st.binary(max_size=2048) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_any_file(tmp_path: Path, content: bytes | str) -> None:
    file = tmp_path / "request"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    for read in (read_request, read_staff_request):
        with pytest.raises(CannotRun):
            read(file, chain_id="test")


@quick
@given(st.data())
def test_a_mutated_request_is_another_one_or_none(tmp_path: Path, data: st.DataObject) -> None:
    file = tmp_path / "request"
    write_request(file, REQUEST)
    assert read_request(file, chain_id="test") == REQUEST
    with pytest.raises(CannotRun):
        read_request(file, chain_id="other")
    content = bytearray(file.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(content)
    try:
        read_request(file, chain_id="test")
    except CannotRun:
        return
