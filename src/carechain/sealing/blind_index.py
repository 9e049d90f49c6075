"""Search without showing what is searched: keyed tokens in place of keywords (KEY-4).

A record's keywords become tokens, ``HMAC(token key, keyword)``, and only these lie beside the ciphertext. The keys come
from an index key of its own for every patient, category and grade, so that equal keywords of two patients, or of two
grades, give unequal tokens. An index key is sealed as a record of that category and grade (:func:`index_record_id`):
who has a ticket that covers it opens it, and can search there and nowhere else.

The number of tokens is padded to a power of two with tokens that look like any other, the same ones every time a record
is indexed. What a store of tokens still learns is in ``docs/concepts/searching.md``.
"""

import hmac
from collections.abc import Iterable
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from carechain.core.hashing import HASH_SIZE, tagged
from carechain.core.limits import ID_SIZE, TOKENS_PER_RECORD, TOKENS_PER_SEARCH
from carechain.core.rejection import require
from carechain.core.vocabulary import Category, Sensitivity
from carechain.sealing.codes import SealingCode
from carechain.sealing.words import WORD_CHARS, asked, keywords, normalised

INDEX_KEY_SIZE: Final = 32
INDEX_SECRET_SIZE: Final = 32
TOKEN_SIZE: Final = HASH_SIZE
TOKENS_MIN: Final = 16
_KEY_INFO: Final = b"carechain/index-key/1"
_TOKENS_INFO: Final = b"carechain/index-tokens/1"
_PADDING_INFO: Final = b"carechain/index-padding/1"


def index_key(secret: bytes, *, chain_id: str, pseudonym: bytes, category: Category, sensitivity: Sensitivity) -> bytes:
    """The 32-byte key of one patient's records of one category and grade, from the writing organisation's secret.

    ``secret`` is 32 random bytes that stay with that organisation: with them it indexes new records without opening
    anything. Raises ``ValueError`` when it, or the pseudonym, has another size.
    """
    if len(secret) != INDEX_SECRET_SIZE or len(pseudonym) != ID_SIZE:
        raise ValueError("an index secret and a pseudonym have 32 bytes")
    return _derive(secret, _KEY_INFO + bytes([category, sensitivity]) + pseudonym + chain_id.encode())


def index_record_id(pseudonym: bytes, category: Category, sensitivity: Sensitivity) -> bytes:
    """The id of the sealed record that holds the index key of a patient's records of one category and grade."""
    return tagged("carechain/index/1", pseudonym, bytes([category]), bytes([sensitivity]))


class BlindIndex:
    """Makes tokens under one index key. The repr shows no key."""

    __slots__ = ("_padding_key", "_token_key")

    def __init__(self, key: bytes) -> None:
        """Raises ``ValueError`` when the key is not 32 bytes long."""
        if len(key) != INDEX_KEY_SIZE:
            raise ValueError("an index key has 32 bytes")
        self._token_key = _derive(key, _TOKENS_INFO)
        self._padding_key = _derive(key, _PADDING_INFO)

    def tokens(self, record: bytes, texts: Iterable[str]) -> tuple[bytes, ...]:
        """All tokens of a record with these texts, sorted, each once, padded to 16, 32, 64, … of them.

        The same record and texts give the same tokens. A text with too many different words is refused, because what
        was left out could not be found: ``Rejected(TOO_MANY_WORDS)``.
        """
        if len(record) != ID_SIZE:
            raise ValueError("a record id has 32 bytes")
        words: set[str] = set()
        for text in texts:
            for word in keywords(text):
                words.add(word)
                require(len(words) <= TOKENS_PER_RECORD, SealingCode.TOO_MANY_WORDS)
        padding = [self._padding(record, number) for number in range(bucket(len(words)) - len(words))]
        return tuple(sorted([*map(self._token, words), *padding]))

    def search_tokens(self, phrase: str) -> tuple[bytes, ...]:
        """The tokens that a record must all have to be found by ``phrase``, sorted.

        Raises ``Rejected`` (``NOTHING_TO_SEARCH``, ``TOO_MANY_WORDS``).
        """
        words = set(asked(phrase))
        require(bool(words), SealingCode.NOTHING_TO_SEARCH)
        require(len(words) <= TOKENS_PER_SEARCH, SealingCode.TOO_MANY_WORDS)
        return tuple(sorted(map(self._token, words)))

    def keyword_token(self, keyword: str) -> bytes:
        """The token of one keyword taken as it is, for lists of codes; it is normalised, not divided."""
        return self._token(normalised(keyword)[:WORD_CHARS])

    def _token(self, word: str) -> bytes:
        return hmac.digest(self._token_key, word.encode(), "sha256")

    def _padding(self, record: bytes, number: int) -> bytes:
        return hmac.digest(self._padding_key, record + number.to_bytes(4, "big"), "sha256")

    def __repr__(self) -> str:
        return "BlindIndex(…)"


def bucket(count: int) -> int:
    """To how many tokens ``count`` keywords are padded: the next power of two, at least 16.

    The most that a record may have is a power of two, so a padded set never exceeds it.
    """
    return max(TOKENS_MIN, 1 << max(0, count - 1).bit_length())


def _derive(key: bytes, info: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=INDEX_KEY_SIZE, salt=None, info=info).derive(key)
