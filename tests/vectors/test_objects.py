"""The golden vectors of sealed objects: what was sealed once opens in every later version, and seals to the same bytes.

Method: read ``objects.json``; open every object that is given whole, seal every content again, compare every value that
documents an intermediate step; then see that the generator still writes the same file.
"""

import io
import json
from hashlib import sha256
from typing import Any

import pytest

import object_vectors
from carechain.core.suite import Institution
from carechain.core.vocabulary import Category, Sensitivity
from carechain.sealing.blind_index import BlindIndex, index_key, index_record_id
from carechain.sealing.contents import Contents, write_contents
from carechain.sealing.objects import ObjectReader, seal_object

VECTORS: dict[str, Any] = json.loads(object_vectors.VECTORS.read_text(encoding="utf-8"))


@pytest.mark.parametrize("vector", VECTORS["objects"], ids=lambda one: f"{one['suite']}-{one['content']['pattern']}")
def test_an_object_is_sealed_to_these_bytes_and_opens(vector: dict[str, Any]) -> None:
    suite = Institution(vector["suite"])
    key, record = bytes.fromhex(vector["key"]), bytes.fromhex(vector["record"])
    content = object_vectors.pattern(vector["content"]["pattern"])
    out = io.BytesIO()
    sealed = seal_object(
        content,
        out.write,
        key=key,
        capsule=bytes.fromhex(vector["capsule"]),
        record=record,
        version=vector["version"],
        suite=suite,
    )
    data = out.getvalue()
    assert (sealed.address.hex(), sealed.size) == (vector["address"], vector["size"])
    assert data.startswith(bytes.fromhex(vector["prefix"]))
    assert data[67:99].hex() == vector["commitment"]
    if "object" in vector:
        assert data.hex() == vector["object"]
        data = bytes.fromhex(vector["object"])
    reader = ObjectReader(data, key, record=record, version=vector["version"], suite=suite)
    assert reader.read(0, len(content)) == content
    assert reader.capsule.hex() == vector["capsule"]


def test_an_address_is_the_suites_hash() -> None:
    for vector in VECTORS["objects"]:
        if "object" in vector and vector["suite"] == Institution.INTERNATIONAL:
            assert sha256(bytes.fromhex(vector["object"])).hexdigest() == vector["address"]


@pytest.mark.parametrize("vector", VECTORS["contents"], ids=lambda one: str(one["suite"]))
def test_contents(vector: dict[str, Any]) -> None:
    suite = Institution(vector["suite"])
    resources = tuple((bytes.fromhex(salt), bytes.fromhex(content)) for salt, content in vector["resources"])
    plain, root = write_contents(resources, suite)
    assert (plain.hex(), root.hex()) == (vector["contents"], vector["root"])
    out = io.BytesIO()
    key = bytes(32)
    seal_object(bytes.fromhex(vector["contents"]), out.write, key=key, capsule=b"c", record=key, version=1, suite=suite)
    reader = ObjectReader(out, key, record=key, version=1, suite=suite)
    assert Contents(reader, root, suite).resources() == resources


def test_tokens() -> None:
    vector = VECTORS["index"]
    pseudonym = bytes.fromhex(vector["pseudonym"])
    category, grade = Category(vector["category"]), Sensitivity(vector["sensitivity"])
    key = index_key(
        bytes.fromhex(vector["secret"]),
        chain_id=vector["chain_id"],
        pseudonym=pseudonym,
        category=category,
        sensitivity=grade,
    )
    assert key.hex() == vector["key"]
    assert index_record_id(pseudonym, category, grade).hex() == vector["key_record"]
    index = BlindIndex(key)
    for one in vector["texts"]:
        tokens = index.tokens(bytes.fromhex(vector["record"]), [one["text"]])
        assert [token.hex() for token in tokens] == one["tokens"]
    for one in vector["searches"]:
        assert [token.hex() for token in index.search_tokens(one["phrase"])] == one["tokens"]


def test_the_vectors_are_what_the_generator_writes() -> None:
    assert json.loads(json.dumps(object_vectors.vectors())) == VECTORS
