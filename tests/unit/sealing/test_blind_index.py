"""Goal: what is in a record's texts is found by searching for it, in Chinese too, and tokens show nothing else.

Method: tables of texts with searches that must and must not find them; then the tokens themselves: equal only under one
key, padded, unchanged when a record is indexed again, and none of them a hash that could be guessed without the key.
"""

import hmac
from hashlib import sha256

import pytest

from carechain.core.hashing import tagged
from carechain.core.limits import TOKENS_PER_RECORD, TOKENS_PER_SEARCH
from carechain.core.rejection import Rejected
from carechain.core.vocabulary import Category, Sensitivity
from carechain.sealing.blind_index import (
    TOKENS_MIN,
    BlindIndex,
    bucket,
    index_key,
    index_record_id,
)
from carechain.sealing.codes import SealingCode
from carechain.sealing.words import WORD_CHARS, asked, keywords, normalised

SECRET = bytes(range(32))
PATIENT = b"P" * 32
RECORD = b"R" * 32
CATEGORY, GRADE = Category.IMAGE, Sensitivity.N


def key_of(
    secret: bytes = SECRET,
    *,
    chain_id: str = "test",
    pseudonym: bytes = PATIENT,
    category: Category = CATEGORY,
    sensitivity: Sensitivity = GRADE,
) -> bytes:
    return index_key(secret, chain_id=chain_id, pseudonym=pseudonym, category=category, sensitivity=sensitivity)


INDEX = BlindIndex(key_of())


def finds(phrase: str, *texts: str) -> bool:
    return set(INDEX.search_tokens(phrase)) <= set(INDEX.tokens(RECORD, texts))


TEXT = (
    "患者，男，58岁。２型糖尿病(E11.9)，服用 Metformin 500mg bid；HbA1c 7.2%。"
    "既往：高血压 120/80 mmHg。ＣＯＶＩＤ－１９ 疫苗已接种"
)


@pytest.mark.parametrize(
    "phrase",
    [
        "糖尿病",
        "２型糖尿病",
        "2型",
        "糖",
        "病",
        "高血压",
        "疫苗",
        "患者 男",
        "metformin",
        "METFORMIN",
        "Ｍｅｔｆｏｒｍｉｎ",
        "500mg",
        "500 mg",
        "E11.9",
        "e11",
        "HbA1c",
        "7.2",
        "120/80",
        "120",
        "mmhg",
        "covid-19",
        "ＣＯＶＩＤ",
        "糖尿病 metformin 7.2",
        "糖\u200b尿病",
    ],
)
def test_found(phrase: str) -> None:
    assert finds(phrase, TEXT)


@pytest.mark.parametrize(
    "phrase",
    ["糖病", "尿糖", "高血糖", "癌", "metform", "formin", "insulin", "11.8", "58岁女", "72", "糖尿病 insulin", "女"],
)
def test_not_found(phrase: str) -> None:
    assert not finds(phrase, TEXT)


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("ﬁbrosis", "FIBROSIS"),
        ("Straße", "STRASSE"),
        ("naïve", "nai\u0308ve"),
        ("ΣΊΣΥΦΟΣ", "σίσυφος"),
        ("㎎", "mg"),
        ("①", "1"),
        ("ﾊﾟﾝ", "パン"),
        ("血糖测定", "血糖"),
        ("𠮷野家", "𠮷野"),
        ("İ", "i\u0307"),
    ],
)
def test_two_spellings_of_one_text(text: str, phrase: str) -> None:
    assert finds(phrase, text)
    assert normalised(normalised(text)) == normalised(text)


def test_chinese_is_indexed_by_pairs_and_single_characters() -> None:
    assert list(keywords("糖尿病")) == ["糖", "尿", "病", "糖尿", "尿病"]
    assert list(asked("糖尿病")) == ["糖尿", "尿病"]
    assert list(asked("糖")) == ["糖"]
    assert list(asked("维生素D3")) == ["维生", "生素", "d3"]


def test_a_phrase_asks_for_pairs_that_may_stand_apart() -> None:
    """Documented: a hit may be wrong, and the opened record tells."""
    assert finds("糖尿病", "糖尿", "尿病")


def test_texts_do_not_flow_into_each_other() -> None:
    assert not finds("尿病", "糖尿", "病")


def test_of_a_long_word_the_beginning_counts() -> None:
    word = "a" * WORD_CHARS
    assert finds(word + "bc", word + "de")
    assert not finds(word[:-1], word)


@pytest.mark.parametrize("phrase", ["", "   ", "。，!?", "\u200b", "___"])
def test_nothing_to_search(phrase: str) -> None:
    with pytest.raises(Rejected) as refused:
        INDEX.search_tokens(phrase)
    assert refused.value.code is SealingCode.NOTHING_TO_SEARCH


def test_too_many_words() -> None:
    INDEX.search_tokens(" ".join(f"w{n}" for n in range(TOKENS_PER_SEARCH)))
    with pytest.raises(Rejected) as refused:
        INDEX.search_tokens(" ".join(f"w{n}" for n in range(TOKENS_PER_SEARCH + 1)))
    assert refused.value.code is SealingCode.TOO_MANY_WORDS
    most = " ".join(chr(ord("a") + n % 26) * (1 + n // 26) for n in range(26 * 60))
    assert len(INDEX.tokens(RECORD, [most])) == 2048
    with pytest.raises(Rejected) as refused:
        INDEX.tokens(RECORD, [f"{n}" for n in range(TOKENS_PER_RECORD + 1)])
    assert refused.value.code is SealingCode.TOO_MANY_WORDS


def test_the_fullest_index_fits_the_store() -> None:
    assert len(INDEX.tokens(RECORD, [f"{n}" for n in range(TOKENS_PER_RECORD)])) == TOKENS_PER_RECORD


# --- tokens -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "padded"), [(0, 16), (1, 16), (16, 16), (17, 32), (32, 32), (33, 64), (8192, 8192)])
def test_the_number_is_padded(count: int, padded: int) -> None:
    assert bucket(count) == padded
    if count < 100:
        assert len(INDEX.tokens(RECORD, [f"{n}" for n in range(count)])) == padded


def test_tokens_are_sorted_and_each_is_there_once() -> None:
    tokens = INDEX.tokens(RECORD, [TEXT, TEXT])
    assert list(tokens) == sorted(set(tokens))
    assert {len(one) for one in tokens} == {32}
    assert tokens == INDEX.tokens(RECORD, [TEXT])


def test_indexing_again_gives_the_same_set() -> None:
    assert BlindIndex(key_of()).tokens(RECORD, [TEXT]) == INDEX.tokens(RECORD, [TEXT])


def test_padding_is_of_its_record_and_words_are_not() -> None:
    here, there = (set(INDEX.tokens(record, ["metformin"])) for record in (RECORD, b"S" * 32))
    assert here & there == set(INDEX.search_tokens("metformin"))
    assert len(here) == len(there) == TOKENS_MIN


@pytest.mark.parametrize(
    "other",
    [
        key_of(bytes(32)),
        key_of(chain_id="other"),
        key_of(pseudonym=b"Q" * 32),
        key_of(category=Category.ENCOUNTER),
        key_of(sensitivity=Sensitivity.R),
    ],
)
def test_equal_words_under_different_keys_have_unequal_tokens(other: bytes) -> None:
    assert not set(INDEX.tokens(RECORD, [TEXT])) & set(BlindIndex(other).tokens(RECORD, [TEXT]))


def test_no_token_can_be_made_without_the_key() -> None:
    """Neither a plain hash of a word nor one under what is public leads to a token."""
    tokens = set(INDEX.tokens(RECORD, [TEXT]))
    public = [
        b"",
        PATIENT,
        RECORD,
        bytes([CATEGORY]),
        bytes([GRADE]),
        bytes(32),
        index_record_id(PATIENT, CATEGORY, GRADE),
    ]
    for word in {*keywords(TEXT)}:
        guesses = [sha256(word.encode()).digest()]
        guesses += [hmac.digest(key, word.encode(), "sha256") for key in public]
        guesses += [tagged("carechain/index/1", key, word.encode()) for key in public]
        assert not tokens & set(guesses)


def test_a_keyword_can_be_taken_as_it_is() -> None:
    assert INDEX.keyword_token("Ｅ11.9") == INDEX.search_tokens("e11.9")[0]


def test_the_key_shows_nowhere() -> None:
    assert repr(INDEX) == "BlindIndex(…)"
    assert not hasattr(INDEX, "__dict__")


def test_the_index_key_is_a_record_of_its_category_and_grade() -> None:
    ids = {
        index_record_id(pseudonym, category, grade)
        for pseudonym in (PATIENT, b"Q" * 32)
        for category in Category
        for grade in Sensitivity
    }
    assert len(ids) == 2 * len(Category) * len(Sensitivity)
    assert index_record_id(PATIENT, CATEGORY, GRADE) == tagged(
        "carechain/index/1", PATIENT, bytes([CATEGORY]), bytes([GRADE])
    )


def test_a_programs_mistake_is_no_refusal() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        BlindIndex(bytes(31))
    with pytest.raises(ValueError, match="32 bytes"):
        key_of(bytes(31))
    with pytest.raises(ValueError, match="32 bytes"):
        key_of(pseudonym=bytes(31))
    with pytest.raises(ValueError, match="32 bytes"):
        INDEX.tokens(b"short", [])
