"""Goal: what the documentation lists about the FHIR server is what the code has.

Method: the lists are made from the code again and looked for in the page, character by character.
"""

import re
from pathlib import Path

import pytest

from carechain.gateway.fhir import described

PAGE = Path(__file__).parents[3] / "docs" / "concepts" / "fhir.md"


@pytest.mark.parametrize("name", ["operations", "refusals"])
def test_the_page_has_the_list_that_the_code_has(name: str) -> None:
    listed = re.search(f"<!-- {name} -->\n(.*?)\n?<!-- /{name} -->", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert listed is not None
    assert listed[1] == getattr(described, name)()
