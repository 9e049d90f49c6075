"""Goal: references are replaced in the received bytes, and not one other byte changes (REC-4).

Method: hand-made traps (escaped quotes, keys inside text, odd spacing) and generated documents with numbers whose
digits a JSON library would lose.
"""

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carechain.gateway.fhir.references import references, rewrite

NEW = {"urn:uuid:1": "Patient/a", "urn:uuid:b": "Binary/b"}


def _target(_key: str, value: str) -> str | None:
    return NEW.get(value)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'{"reference":"urn:uuid:1"}', b'{"reference":"Patient/a"}'),
        (b'{ "reference" :\n "urn:uuid:1" , "value":72.50}', b'{ "reference" :\n "Patient/a" , "value":72.50}'),
        (b'{"reference":"urn:uuid:\\u0031"}', b'{"reference":"Patient/a"}'),
        (b'{"url":"urn:uuid:b"}', b'{"url":"Binary/b"}'),
        (b'{"valueUri":"urn:uuid:b"}', b'{"valueUri":"Binary/b"}'),
        # An identifier's value is a string and stays what it is.
        (b'{"value":"urn:uuid:1"}', b'{"value":"urn:uuid:1"}'),
        # Text that looks like a reference.
        (b'{"div":"say \\"reference\\":\\"urn:uuid:1\\""}', b'{"div":"say \\"reference\\":\\"urn:uuid:1\\""}'),
        (b'{"a":"x\\\\","reference":"urn:uuid:1"}', b'{"a":"x\\\\","reference":"Patient/a"}'),
        (b'{"reference":"Patient/1"}', b'{"reference":"Patient/1"}'),
    ],
)
def test_only_the_values_of_addresses_change(before: bytes, after: bytes) -> None:
    assert rewrite(before, _target) == after


_TEXT = st.text(st.sampled_from('ab"\\:{}[],\u738b urn:uuid:1reference'), max_size=20)
_TREES = st.recursive(
    _TEXT | st.booleans() | st.integers(-(2**53), 2**53),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT | st.just("reference"), inner, max_size=4),
    max_leaves=15,
)


@given(_TREES)
def test_nothing_to_replace_changes_nothing(tree: object) -> None:
    body = json.dumps({"a": tree}, ensure_ascii=False).encode()
    assert rewrite(body, lambda _key, _value: None) == body


@given(_TREES)
def test_what_is_replaced_is_what_a_parser_finds(tree: object) -> None:
    body = json.dumps({"a": tree, "reference": "urn:uuid:1"}).encode()
    after = rewrite(body, lambda _key, value: "Patient/a" if value == "urn:uuid:1" else None)
    assert orjson.loads(after) == _replaced({"a": tree, "reference": "urn:uuid:1"})


def _replaced(tree: object) -> object:
    keys = {"reference", "url", "uri", "valueUri", "valueUrl", "valueUuid", "valueOid", "valueCanonical"}
    if isinstance(tree, dict):
        return {
            key: "Patient/a" if key in keys and value == "urn:uuid:1" else _replaced(value)
            for key, value in tree.items()
        }
    return [_replaced(one) for one in tree] if isinstance(tree, list) else tree


def test_references_are_listed_as_they_stand() -> None:
    body = b'{"subject":{"reference":"Patient/1"},"note":"\\"reference\\":\\"x\\"","a":[{"reference":"Group/2"}]}'
    assert list(references(body)) == ["Patient/1", "Group/2"]
