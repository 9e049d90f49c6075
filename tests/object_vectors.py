"""Write ``vectors/objects.json``: sealed objects, contents and search tokens. Run it when a format is meant to change.

    PYTHONPATH=src:tests python tests/object_vectors.py

Everything is hexadecimal except texts and numbers. A content is either given, or ``{"pattern": n}``: the first n bytes
of 00 01 02 … fa repeated (251 values, so that no two chunks are equal). Small objects are given whole, large ones by
their address.
"""

import io
import json
from pathlib import Path
from typing import Any

from carechain.core.suite import Institution
from carechain.core.vocabulary import Category, Sensitivity
from carechain.sealing.blind_index import BlindIndex, index_key, index_record_id
from carechain.sealing.chunks import key_commitment
from carechain.sealing.contents import write_contents
from carechain.sealing.objects import ChunkSealer, seal_object

VECTORS = Path(__file__).parent / "vectors" / "objects.json"
WHOLE_BYTES = 400
KEY = bytes(range(32))
RECORD = bytes(range(100, 132))
CAPSULE = b"an opaque capsule"
PSEUDONYM = bytes(range(200, 232))
CHAIN_ID = "test"
SIZES = (0, 1, 100, 65535, 65536, 65537, 200_000)
TEXTS = ("２型糖尿病，Metformin 500mg", "E11.9 HbA1c 7.2%", "")
PHRASES = ("糖尿病", "病", "METFORMIN", "2型糖尿病 metformin", "e11.9")


def pattern(size: int) -> bytes:
    """The bytes 0 to 250 over and over."""
    return (bytes(range(251)) * (size // 251 + 1))[:size]


def vectors() -> dict[str, Any]:
    """All vectors, as the file has them."""
    return {
        "objects": [object_vector(suite, size) for suite in Institution for size in SIZES],
        "contents": [contents_vector(suite) for suite in Institution],
        "index": index_vector(),
    }


def object_vector(suite: Institution, size: int) -> dict[str, Any]:
    """One object under one suite."""
    out = io.BytesIO()
    sealed = seal_object(pattern(size), out.write, key=KEY, capsule=CAPSULE, record=RECORD, version=2, suite=suite)
    chunks = ChunkSealer(key=KEY, capsule=CAPSULE, record=RECORD, version=2, size=size, suite=suite)
    vector = {
        "suite": int(suite),
        "key": KEY.hex(),
        "capsule": CAPSULE.hex(),
        "record": RECORD.hex(),
        "version": 2,
        "content": {"pattern": size},
        "commitment": key_commitment(suite, KEY).hex(),
        "prefix_hash": chunks.prefix_hash.hex(),
        "prefix": chunks.prefix.hex(),
        "size": sealed.size,
        "address": sealed.address.hex(),
    }
    return {**vector, "object": out.getvalue().hex()} if sealed.size <= WHOLE_BYTES else vector


def contents_vector(suite: Institution) -> dict[str, Any]:
    """The contents of a record with three resources, one of them empty."""
    resources = [(bytes([number]) * 32, content) for number, content in enumerate([b"one", b"", "三".encode()])]
    plain, root = write_contents(resources, suite)
    return {
        "suite": int(suite),
        "resources": [[salt.hex(), content.hex()] for salt, content in resources],
        "contents": plain.hex(),
        "root": root.hex(),
    }


def index_vector() -> dict[str, Any]:
    """An index key, what it makes of texts, and what searches ask for."""
    category, grade = Category.DIAGNOSIS, Sensitivity.R
    key = index_key(KEY, chain_id=CHAIN_ID, pseudonym=PSEUDONYM, category=category, sensitivity=grade)
    index = BlindIndex(key)
    return {
        "secret": KEY.hex(),
        "chain_id": CHAIN_ID,
        "pseudonym": PSEUDONYM.hex(),
        "category": int(category),
        "sensitivity": int(grade),
        "key": key.hex(),
        "key_record": index_record_id(PSEUDONYM, category, grade).hex(),
        "record": RECORD.hex(),
        "texts": [{"text": text, "tokens": [one.hex() for one in index.tokens(RECORD, [text])]} for text in TEXTS],
        "searches": [
            {"phrase": phrase, "tokens": [one.hex() for one in index.search_tokens(phrase)]} for phrase in PHRASES
        ],
    }


if __name__ == "__main__":
    VECTORS.write_text(json.dumps(vectors(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
