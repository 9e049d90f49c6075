"""Goal: what is served is what was stored, byte for byte, but for the id and the two elements of meta the server sets.

Method: hand-written texts with every kind of spacing and escaping, then generated objects: parsed, the served form is
the stored one with the three elements set; cut out again, the bytes are the stored ones.
"""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carechain.charts.serving import instant_of, served
from carechain.charts.versions import Stored

UPDATED_US = 1_700_000_000_123_456
INSTANT = "2023-11-14T22:13:20.123Z"
META = f'"meta":{{"versionId":"3","lastUpdated":"{INSTANT}"}}'


def stored(body: bytes) -> Stored:
    return Stored(
        resource_type="Basic",
        resource_id="new",
        version=3,
        updated_us=UPDATED_US,
        body=body,
        record=None,
        rid=1,
        seq=1,
    )


CASES = [
    ("{}", f'{{"id":"new",{META}}}'),
    (" {\n} ", f' {{"id":"new",{META}\n}} '),
    ('{"resourceType":"Basic"}', f'{{"id":"new",{META},"resourceType":"Basic"}}'),
    ('{"x" : 72.50 , "id":"old"}', f'{{{META},"x" : 72.50 , "id":"new"}}'),
    ('{"meta":{},"id":"old"}', f'{{{META},"id":"new"}}'),
    (
        '{"id":"old","meta" : { "tag":[{"code":"a}"}] , "versionId" : "9" },"z":"\\"}{"}',
        (
            f'{{"id":"new","meta" : {{"lastUpdated":"{INSTANT}", '
            '"tag":[{"code":"a}"}] , "versionId" : "3" },"z":"\\"}{"}'
        ),
    ),
    ('{"\\u0069d":"old","a":{"id":"in","meta":{}}}', f'{{{META},"\\u0069d":"new","a":{{"id":"in","meta":{{}}}}}}'),
    ('{"meta":null,"id":5}', f'{{{META},"id":"new"}}'),
    ('{"名":"王","id":"x"}', f'{{{META},"名":"王","id":"new"}}'),
]


@pytest.mark.parametrize(("body", "expected"), CASES)
def test_nothing_but_the_servers_elements_is_touched(body: str, expected: str) -> None:
    assert served(stored(body.encode())).decode() == expected


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
METAS = st.dictionaries(st.sampled_from(["versionId", "lastUpdated", "tag", "x"]), VALUES, max_size=4)
TREES = st.builds(
    lambda more, some: {**more, **some},
    st.dictionaries(st.text(max_size=5), VALUES, max_size=4),
    st.fixed_dictionaries({}, optional={"id": st.text(max_size=5), "meta": METAS}),
)


@given(tree=TREES, indent=st.sampled_from([None, 1]), spelling=st.sampled_from(["escaped", "plain"]))
def test_parsed_it_is_the_same_resource_with_three_elements_set(
    tree: dict[str, Any], indent: int | None, spelling: str
) -> None:
    meta = tree.get("meta", {})
    body = json.dumps(tree, indent=indent, ensure_ascii=spelling == "escaped").encode()
    expected_meta = {**(meta if isinstance(meta, dict) else {}), "versionId": "3", "lastUpdated": INSTANT}
    assert json.loads(served(stored(body))) == {**tree, "id": "new", "meta": expected_meta}


@pytest.mark.parametrize(("moment_us", "text"), [(0, "1970-01-01T00:00:00.000Z"), (UPDATED_US, INSTANT)])
def test_moments_are_instants_to_the_millisecond(moment_us: int, text: str) -> None:
    assert instant_of(moment_us) == text


def test_a_version_does_not_show_its_content_when_printed() -> None:
    assert "Canary" not in repr(stored(b'{"x":"Canary"}'))
