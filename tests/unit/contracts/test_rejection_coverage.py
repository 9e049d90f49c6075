"""Goal: no rejection code without a test, and codes that mean one thing for good.

Method: read the tables of the neighbouring files and compare them with every code the ledger can answer with.
"""

import runpy
from pathlib import Path

import pytest

from carechain.chain.receipts import CODES, code_named
from carechain.core.rejection import RejectionCode

HERE = Path(__file__).parent
TABLES = sorted([*HERE.glob("test_*.py"), *(HERE.parent / "chain").glob("test_*.py")])


def _covered() -> set[RejectionCode]:
    covered: set[RejectionCode] = set()
    for file in TABLES:
        if file != Path(__file__) and "ROWS = rows" in file.read_text("utf-8"):
            covered |= runpy.run_path(str(file))["ROWS"].covered()
    return covered


@pytest.mark.filterwarnings("ignore::pytest.PytestAssertRewriteWarning")
def test_every_code_has_a_row() -> None:
    missing = {code.label for group in CODES for code in group} - {code.label for code in _covered()}
    assert missing == set()


def test_numbers_are_unique_and_in_their_hundreds() -> None:
    numbers = [int(code) for group in CODES for code in group]
    assert len(numbers) == len(set(numbers))
    hundreds = [{int(code) // 100 for code in group} for group in CODES]
    assert all(len(one) == 1 for one in hundreds), hundreds


@pytest.mark.parametrize("code", [code for group in CODES for code in group], ids=lambda code: code.label)
def test_a_code_says_what_to_do_and_is_found_by_its_number(code: RejectionCode) -> None:
    assert code_named(int(code)) is code
    assert code.reason.endswith(".")
    assert len(code.reason) > 10


def test_numbers_nobody_owns_name_nothing() -> None:
    assert code_named(0) is None
    assert code_named(199) is None
