"""Goal: JSON Patch as RFC 6902 defines it, all of it or nothing, and every number keeps its digits.

Method: the RFC's own appendix as a table, and what must be refused.
"""

import orjson
import pytest

from carechain.core.rejection import Rejected
from carechain.gateway.codes import FhirCode
from carechain.gateway.fhir.patching import patched

APPENDIX = [
    ('{"foo":"bar"}', '[{"op":"add","path":"/baz","value":"qux"}]', '{"baz":"qux","foo":"bar"}'),
    ('{"foo":["bar","baz"]}', '[{"op":"add","path":"/foo/1","value":"qux"}]', '{"foo":["bar","qux","baz"]}'),
    ('{"baz":"qux","foo":"bar"}', '[{"op":"remove","path":"/baz"}]', '{"foo":"bar"}'),
    ('{"foo":["bar","qux","baz"]}', '[{"op":"remove","path":"/foo/1"}]', '{"foo":["bar","baz"]}'),
    ('{"baz":"qux"}', '[{"op":"replace","path":"/baz","value":"boo"}]', '{"baz":"boo"}'),
    (
        '{"foo":{"bar":"baz","waldo":"fred"},"qux":{"corge":"grault"}}',
        '[{"op":"move","from":"/foo/waldo","path":"/qux/thud"}]',
        '{"foo":{"bar":"baz"},"qux":{"corge":"grault","thud":"fred"}}',
    ),
    (
        '{"foo":["all","grass","cows","eat"]}',
        '[{"op":"move","from":"/foo/1","path":"/foo/3"}]',
        '{"foo":["all","cows","eat","grass"]}',
    ),
    (
        '{"baz":"qux","foo":["a",2,"c"]}',
        '[{"op":"test","path":"/baz","value":"qux"},{"op":"test","path":"/foo/1","value":2}]',
        '{"baz":"qux","foo":["a",2,"c"]}',
    ),
    ('{"foo":"bar"}', '[{"op":"add","path":"/child","value":{"g":{}}}]', '{"foo":"bar","child":{"g":{}}}'),
    ('{"foo":"bar"}', '[{"op":"add","path":"/baz","value":"qux","xyz":123}]', '{"foo":"bar","baz":"qux"}'),
    ('{"/":9,"~1":10}', '[{"op":"test","path":"/~01","value":10}]', '{"/":9,"~1":10}'),
    ('{"foo":["bar"]}', '[{"op":"add","path":"/foo/-","value":["abc"]}]', '{"foo":["bar",["abc"]]}'),
    ('{"a":1}', '[{"op":"copy","from":"/a","path":"/b"}]', '{"a":1,"b":1}'),
    ('{"a":1}', '[{"op":"replace","path":"","value":{"b":2}}]', '{"b":2}'),
    ('{"a":1.0}', '[{"op":"test","path":"/a","value":1}]', '{"a":1.0}'),
]

FAILING = [
    '[{"op":"remove","path":"/nope"}]',
    '[{"op":"replace","path":"/nope","value":1}]',
    '[{"op":"add","path":"/a/b/c","value":1}]',
    '[{"op":"add","path":"/list/5","value":1}]',
    '[{"op":"add","path":"/list/01","value":1}]',
    '[{"op":"remove","path":"/list/-"}]',
    '[{"op":"test","path":"/a","value":"1"}]',
    '[{"op":"test","path":"/a","value":true}]',
    '[{"op":"move","from":"/list","path":"/list/0"}]',
    '[{"op":"remove","path":""}]',
    '[{"op":"replace","path":"","value":[1]}]',
    '[{"op":"add","path":"/a/x","value":1}]',
]

MALFORMED = [
    "",
    "{}",
    "[]",
    "[1]",
    '[{"op":"add","path":"/a"}]',
    '[{"op":"jump","path":"/a"}]',
    '[{"op":"add","path":"a","value":1}]',
    '[{"op":"add","path":"/~2","value":1}]',
    '[{"op":"move","path":"/a"}]',
    '[{"op":"add","op":"remove","path":"/a","value":1}]',
    '[{"path":"/a"}]',
]


@pytest.mark.parametrize(("before", "patch", "after"), APPENDIX)
def test_patches_do_what_the_rfc_says(before: str, patch: str, after: str) -> None:
    assert orjson.loads(patched(before.encode(), patch.encode())) == orjson.loads(after)


@pytest.mark.parametrize("patch", FAILING)
def test_a_patch_that_does_not_fit_fails(patch: str) -> None:
    with pytest.raises(Rejected) as refused:
        patched(b'{"a":1,"list":[1,2]}', patch.encode())
    assert refused.value.code is FhirCode.PATCH_FAILED


@pytest.mark.parametrize("patch", MALFORMED)
def test_what_is_no_patch_is_malformed(patch: str) -> None:
    with pytest.raises(Rejected) as refused:
        patched(b'{"a":1,"list":[1,2]}', patch.encode())
    assert refused.value.code is FhirCode.PATCH_MALFORMED


def test_numbers_keep_their_digits() -> None:
    after = patched(
        b'{"value":72.50,"small":1E-9,"many":12345678901234567890.10}', b'[{"op":"add","path":"/x","value":1.20}]'
    )
    assert b"72.50" in after
    assert b"12345678901234567890.10" in after
    assert b"1.20" in after


def test_copies_cannot_fill_the_memory() -> None:
    steps = ",".join(f'{{"op":"copy","from":"","path":"/a{number}"}}' for number in range(40))
    with pytest.raises(Rejected) as refused:
        patched(b'{"text":"%b"}' % (b"0" * 100_000), f"[{steps}]".encode())
    assert refused.value.code is FhirCode.PATCH_FAILED
