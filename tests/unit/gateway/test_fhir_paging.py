"""Goal: a page link can be neither read nor made up nor used by somebody else, and it ends (API-1).

Method: links are altered byte by byte, given to other callers and kept too long.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode

import pytest

from carechain.core.rejection import Rejected
from carechain.gateway.codes import FhirCode
from carechain.gateway.fhir.paging import Pages, Place
from fhir_world import principal
from world import entropy_of

PLACE = Place("search-type", "Patient", "", "", [("name", "王小明")], b"\x01\x02", 1_000)


def _pages(label: str = "one") -> Pages:
    return Pages(entropy_of(label)(32), entropy_of(label, "nonces"))


def test_a_link_leads_back_to_its_place() -> None:
    pages, caller = _pages(), principal("a")
    assert pages.place(caller, pages.link(caller, PLACE), 999) == PLACE


def test_a_link_shows_nothing_of_the_query() -> None:
    token = _pages().link(principal("a"), PLACE)
    raw = urlsafe_b64decode(token + "=" * (-len(token) % 4))
    assert "王小明".encode() not in raw
    assert b"Patient" not in raw


def _altered() -> list[tuple[str, str]]:
    token = _pages().link(principal("a"), PLACE)
    raw = bytearray(urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    changed = []
    for position in range(0, len(raw), 7):
        copy = bytearray(raw)
        copy[position] ^= 1
        changed.append((f"byte {position}", urlsafe_b64encode(bytes(copy)).decode()))
    return [*changed, ("cut", token[:-4]), ("empty", ""), ("short", "AAAA"), ("no base64", "王"), ("noise", "%%%")]


@pytest.mark.parametrize(("what", "token"), _altered())
def test_an_altered_link_is_unknown(what: str, token: str) -> None:
    with pytest.raises(Rejected) as refused:
        _pages().place(principal("a"), token, 0)
    assert refused.value.code is FhirCode.PAGE_UNKNOWN, what


def test_a_link_is_its_callers_alone() -> None:
    pages = _pages()
    token = pages.link(principal("a"), PLACE)
    for other in (principal("b"), principal("a", client_id="app"), principal("a", patient="1")):
        with pytest.raises(Rejected):
            pages.place(other, token, 0)
    with pytest.raises(Rejected):
        _pages("another").place(principal("a"), token, 0)


def test_a_link_ends() -> None:
    pages, caller = _pages(), principal("a")
    with pytest.raises(Rejected):
        pages.place(caller, pages.link(caller, PLACE), 1_000)
