"""Goal: what a caller wants back and which version it means is read from headers as the RFCs and FHIR say.

Method: tables of headers; printing for people is compared number by number with what was stored.
"""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carechain.core.rejection import Rejected
from carechain.gateway.codes import FhirCode
from carechain.gateway.fhir import conditions, negotiation
from carechain.gateway.fhir.parameters import parse


@pytest.mark.parametrize(
    ("accept", "query"),
    [
        ("", b""),
        ("*/*", b""),
        ("application/fhir+json", b""),
        ("application/json;q=0.9, text/html", b""),
        ("text/html", b"_format=json"),
        ("application/xml", b"_format=application/fhir%2Bjson"),
        ("application/xml", b"_format=application/fhir+json"),
    ],
)
def test_json_is_written_for_who_takes_it(accept: str, query: bytes) -> None:
    negotiation.require_json_wanted({"accept": accept}, parse(query))


@pytest.mark.parametrize(
    ("accept", "query"),
    [
        ("application/fhir+xml", b""),
        ("text/html", b""),
        ("application/fhir+json;q=0", b""),
        ("*/*", b"_format=xml"),
    ],
)
def test_who_takes_no_json_is_refused(accept: str, query: bytes) -> None:
    with pytest.raises(Rejected) as refused:
        negotiation.require_json_wanted({"accept": accept}, parse(query))
    assert refused.value.code is FhirCode.NOT_ACCEPTABLE


@pytest.mark.parametrize(
    "content_type",
    ["application/fhir+json", "application/json; charset=UTF-8", 'application/fhir+json; charset="utf-8"'],
)
def test_resources_come_as_json_in_utf8(content_type: str) -> None:
    negotiation.require_resource_type({"content-type": content_type})


@pytest.mark.parametrize(
    "content_type", ["", "text/plain", "application/fhir+xml", "application/fhir+json; charset=latin-1"]
)
def test_other_bodies_are_415(content_type: str) -> None:
    with pytest.raises(Rejected) as refused:
        negotiation.require_resource_type({"content-type": content_type})
    assert refused.value.code is FhirCode.MEDIA_TYPE_UNSUPPORTED


def test_preferences_are_read_together_and_apart() -> None:
    read = negotiation.preferences({"prefer": "return=minimal, handling=strict; respond-async"}, [])
    assert (read.returns, read.strict, read.respond_async) == ("minimal", True, True)
    assert negotiation.preferences({"prefer": "return=everything"}, []).returns == ""
    assert negotiation.preferences({}, [("_pretty", "true")]).pretty


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=20,
    )
)
def test_printing_for_people_changes_only_spaces(tree: object) -> None:
    body = orjson.dumps({"a": tree})
    assert orjson.loads(negotiation.pretty(body)) == {"a": tree}
    assert orjson.loads(negotiation.pretty(orjson.dumps({"a": tree}, option=orjson.OPT_INDENT_2))) == {"a": tree}


def test_printing_keeps_the_digits() -> None:
    assert negotiation.pretty(b'{"value":72.50,"none":[],"more":{}}') == (
        b'{\n  "value": 72.50,\n  "none": [],\n  "more": {}\n}'
    )


def test_a_version_is_named_by_its_tag() -> None:
    assert conditions.if_match(None) is None
    assert conditions.if_match('W/"3"') == 3
    assert conditions.if_match('"3"') == 3
    # A tag of another server is a tag, and matches nothing.
    assert conditions.if_match('W/"abc"') == 0
    with pytest.raises(Rejected) as refused:
        conditions.if_match("3")
    assert refused.value.code is FhirCode.ETAG_MALFORMED


@pytest.mark.parametrize(
    ("headers", "unchanged"),
    [
        ({}, False),
        ({"if-none-match": 'W/"2"'}, True),
        ({"if-none-match": 'W/"1", W/"2"'}, True),
        ({"if-none-match": 'W/"1"'}, False),
        ({"if-none-match": "*"}, True),
        ({"if-none-match": "rubbish"}, False),
        ({"if-modified-since": "Thu, 09 Oct 2025 08:53:20 GMT"}, True),
        ({"if-modified-since": "Thu, 09 Oct 2025 08:53:19 GMT"}, False),
        ({"if-modified-since": "yesterday"}, False),
        # The tag goes before the date.
        ({"if-none-match": 'W/"1"', "if-modified-since": "Thu, 09 Oct 2025 08:53:20 GMT"}, False),
    ],
)
def test_who_has_the_version_is_told_so(headers: dict[str, str], unchanged: object) -> None:
    assert conditions.is_unchanged(headers, 2, 1_760_000_000_000_000) is unchanged


def test_times_are_written_as_the_rfcs_want_them() -> None:
    assert conditions.last_modified(1_760_000_000_000_000) == "Thu, 09 Oct 2025 08:53:20 GMT"
    assert conditions.instant(1_760_000_000_123_456) == "2025-10-09T08:53:20.123Z"


@pytest.mark.parametrize("text", [b"a=%00", b"a=%ff", b"a=1&" * 300, b"a=" + b"x" * 70_000])
def test_strange_parameters_are_refused(text: bytes) -> None:
    with pytest.raises(Rejected):
        parse(text)


def test_parameters_keep_their_order_and_their_letters() -> None:
    assert parse(b"name=%E7%8E%8B&name=b+c&empty=&x") == [
        ("name", "王"),
        ("name", "b c"),
        ("empty", ""),
        ("x", ""),
    ]
