"""From text to keywords, and from a search to the keywords it asks for: Chinese, Latin and numbers (KEY-4).

Text is normalised first (NFKC and case folding, so full-width forms, ligatures and capitals make no difference;
invisible characters are dropped). Then it falls into runs:

- **Chinese characters and kana**, which are written without spaces: every pair of neighbours (bigram) and every single
  character. A search for a phrase asks for its pairs, a search for one character asks for it.
- **Words and numbers**: letters of other scripts and digits. A run with parts, such as ``E11.9`` or ``5mg``, is there
  as a whole and in its parts (``E11``, ``9``, ``5``, ``mg``); a search asks for what was typed.

Pairs do not say where in the text they stand: 糖尿病 is also found where 糖尿 and 尿病 stand apart. Whoever opened
the record can tell.
"""

import re
import unicodedata
from collections.abc import Iterator
from typing import Final

WORD_CHARS: Final = 64
"""Of a longer word only the beginning counts, in the text and in a search alike."""

_RUNS: Final = re.compile(r"\w+(?:[.\-/]\w+)*")
_SEGMENTS: Final = re.compile(r"[^\W_]+")
_PARTS: Final = re.compile(r"[^\W\d_]+|\d+(?:\.\d+)?")
_UNSPACED: Final = (
    (0x3005, 0x3007),  # iteration mark, closing mark, zero
    (0x3021, 0x3029),  # Suzhou numerals
    (0x3040, 0x30FF),  # kana
    (0x31F0, 0x31FF),  # kana extensions
    (0x3400, 0x4DBF),  # CJK extension A
    (0x4E00, 0x9FFF),  # CJK unified ideographs
    (0xF900, 0xFAFF),  # compatibility ideographs that NFKC leaves alone
    (0x20000, 0x323AF),  # CJK extensions B to H
)
_CLASS: Final = "".join(f"{chr(first)}-{chr(last)}" for first, last in _UNSPACED)
_SPLIT: Final = re.compile(f"([{_CLASS}]+)")


def normalised(text: str) -> str:
    """The one form in which two spellings of the same text are equal."""
    visible = "".join(symbol for symbol in text if unicodedata.category(symbol) not in {"Cf", "Cs"})
    # Folding can undo the composition that NFKC made, so it is made again (Unicode standard, section 3.13).
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", visible).casefold())


def keywords(text: str) -> Iterator[str]:
    """Every keyword under which ``text`` can be found, in its order; one that occurs twice comes twice."""
    for run, unspaced in _runs(text):
        if unspaced:
            yield from run
            yield from _pairs(run)
            continue
        for part in (run, *_SEGMENTS.findall(run), *_PARTS.findall(run)):
            yield part[:WORD_CHARS]


def asked(phrase: str) -> Iterator[str]:
    """The keywords that a record must all have to be found by ``phrase``."""
    for run, unspaced in _runs(phrase):
        if not unspaced:
            yield run[:WORD_CHARS]
        elif len(run) == 1:
            yield run
        else:
            yield from _pairs(run)


def _pairs(run: str) -> Iterator[str]:
    return (run[place : place + 2] for place in range(len(run) - 1))


def _runs(text: str) -> Iterator[tuple[str, bool]]:
    """What stands between spaces and marks, and whether it is of a script without spaces."""
    for number, piece in enumerate(_SPLIT.split(normalised(text))):
        if number % 2:
            yield piece, True
        else:
            yield from ((run.strip("_"), False) for run in _RUNS.findall(piece) if run.strip("_"))
