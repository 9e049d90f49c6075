"""How questionnaires are scored: tables, two of them built in, others from a file (REC-11).

Built in, with where the rules are published:

- PHQ-9: Kroenke, Spitzer, Williams: "The PHQ-9: validity of a brief depression severity measure", Journal of General
  Internal Medicine 16 (2001) 606-613. Nine items of 0 to 3; the sum is 0 to 27; severity from 5, 10, 15 and 20 on.
- GAD-7: Spitzer, Kroenke, Williams, Löwe: "A brief measure for assessing generalized anxiety disorder: the GAD-7",
  Archives of Internal Medicine 166 (2006) 1092-1097. Seven items of 0 to 3; the sum is 0 to 21; from 5, 10 and 15 on.

Neither paper scores a form with a missing answer, so none is scored here. A table from a file may look its sum up, as
measures with T-scores want it::

    name = "PROMIS Short Form v1.0 - Example 4a"
    source = "the manual it is taken from"
    questionnaires = ["http://example.org/q/example-4a"]
    items = ["EX1", "EX2", "EX3", "EX4"]
    least = 1
    greatest = 5
    score = {system = "http://loinc.org", code = "…", display = "T-score"}

    [[lookup]]
    sum = 4
    score = 36.3
    error = 5.4
"""

import tomllib
from decimal import Decimal
from typing import Final

import msgspec
from msgspec import Struct

from carechain.core.limits import CONFIG_FILE_BYTES
from carechain.sources.imports.base import LOINC, Unreadable
from carechain.sources.imports.codes import ImportCode


class Code(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the score is called."""

    code: str
    display: str
    system: str = LOINC


class Band(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What scores from ``least`` on are called."""

    least: Decimal
    text: str


class Looked(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The score, and its standard error, for a sum of answers."""

    sum: int
    score: Decimal
    error: Decimal | None = None


class Scoring(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A questionnaire: its items by code, what an answer may be worth, and what becomes of the sum."""

    name: str
    source: str
    questionnaires: tuple[str, ...]
    items: tuple[str, ...]
    least: int
    greatest: int
    score: Code
    answers: dict[str, int] = {}
    bands: tuple[Band, ...] = ()
    lookup: tuple[Looked, ...] = ()

    def band_of(self, score: Decimal) -> str | None:
        """What a score is called; None where the table names no bands."""
        found = [band.text for band in sorted(self.bands, key=lambda one: one.least) if band.least <= score]
        return found[-1] if found else None

    def of_sum(self, total: int) -> Looked | None:
        """The score for a sum of all answers; None where the table has none."""
        if not self.lookup:
            return Looked(sum=total, score=Decimal(total))
        return next((one for one in self.lookup if one.sum == total), None)


FREQUENCY: Final = {"LA6568-5": 0, "LA6569-3": 1, "LA6570-1": 2, "LA6571-9": 3}
"""Not at all, several days, more than half the days, nearly every day."""

PHQ_9: Final = Scoring(
    name="PHQ-9",
    source="Kroenke, Spitzer, Williams 2001, J Gen Intern Med 16:606-613",
    questionnaires=("http://loinc.org/q/44249-1", "http://loinc.org/vs/44249-1", "44249-1"),
    items=(
        *("44250-9", "44255-8", "44259-0", "44254-1", "44251-7"),
        *("44258-2", "44252-5", "44253-3", "44260-8"),
    ),
    least=0,
    greatest=3,
    answers=FREQUENCY,
    score=Code(code="44261-6", display="Patient Health Questionnaire 9 item (PHQ-9) total score [Reported]"),
    bands=(
        Band(least=Decimal(0), text="minimal"),
        Band(least=Decimal(5), text="mild"),
        Band(least=Decimal(10), text="moderate"),
        Band(least=Decimal(15), text="moderately severe"),
        Band(least=Decimal(20), text="severe"),
    ),
)

GAD_7: Final = Scoring(
    name="GAD-7",
    source="Spitzer, Kroenke, Williams, Löwe 2006, Arch Intern Med 166:1092-1097",
    questionnaires=("http://loinc.org/q/69737-5", "http://loinc.org/vs/69737-5", "69737-5"),
    items=("69725-0", "68509-9", "69733-4", "69734-2", "69735-9", "69689-8", "69736-7"),
    least=0,
    greatest=3,
    answers=FREQUENCY,
    score=Code(code="70274-6", display="Generalized anxiety disorder 7 item (GAD-7) total score [Reported.PHQ]"),
    bands=(
        Band(least=Decimal(0), text="minimal"),
        Band(least=Decimal(5), text="mild"),
        Band(least=Decimal(10), text="moderate"),
        Band(least=Decimal(15), text="severe"),
    ),
)

BUILT_IN: Final = (PHQ_9, GAD_7)


def read_scoring(data: bytes) -> Scoring:
    """A scoring table from TOML, numbers exactly as written. Raises ``Rejected(COLUMNS_MALFORMED)``."""
    try:
        if len(data) > CONFIG_FILE_BYTES:
            raise Unreadable(ImportCode.COLUMNS_MALFORMED)
        found = msgspec.convert(tomllib.loads(data.decode(), parse_float=Decimal), Scoring)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, ValueError):
        raise Unreadable(ImportCode.COLUMNS_MALFORMED) from None
    sums = [one.sum for one in found.lookup]
    possible = range(found.least * len(found.items), found.greatest * len(found.items) + 1)
    sound = found.items and len(set(found.items)) == len(found.items) and found.least < found.greatest
    if not sound or len(set(sums)) != len(sums) or not set(sums) <= set(possible):
        raise Unreadable(ImportCode.COLUMNS_MALFORMED)
    return found
