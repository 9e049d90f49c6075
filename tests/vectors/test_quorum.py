"""The golden vectors of the quorum key: these bytes check and open today and in every later version.

Method: read ``quorum.json`` as another implementation would, with nothing but the public side of the protocol and the
secrets that stand in the file; write out the hashes by hand; then see that the generator still
writes the same file.
"""

import json
from hashlib import sha256, sha512
from typing import Any

import msgspec
import pytest

import quorum_vectors
from carechain.core.codec import decode_strict
from carechain.core.group import ORDER, base_mul, mul, sub, weighted_sum
from carechain.core.quorum import (
    Blinding,
    Label,
    ShareStatement,
    add_commitments,
    blinding_context,
    check_blinding,
    check_capsule,
    check_statement,
    combined_point,
    decode_capsule,
    evaluate,
    label_bytes,
    lagrange,
    statement_bytes,
    weigh_commitments,
)
from carechain.sealing.quorum.capsule import open_with
from quorum_ceremony import CHAIN, RECORD, SENDER, TICKET


@pytest.fixture(scope="module")
def vectors() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(quorum_vectors.VECTORS.read_text(encoding="utf-8"))
    return found


def raw(values: Any) -> Any:
    """Hexadecimal read back."""
    if isinstance(values, dict):
        return {int(key): raw(one) for key, one in values.items()}
    if isinstance(values, list):
        return [raw(one) for one in values]
    return bytes.fromhex(values)


def test_the_generator_still_writes_them(vectors: dict[str, Any]) -> None:
    assert quorum_vectors.build() == vectors


def test_the_hashes_are_what_the_document_says(vectors: dict[str, Any]) -> None:
    """Written out once without the code under test."""
    given = vectors["hashes"]["wide_hash"]
    tag = given["tag"].encode()
    data = bytes([len(tag)]) + tag
    for part in raw(given["parts"]):
        data += len(part).to_bytes(4, "big") + part
    assert sha512(data).hexdigest() == given["result"]
    reduced = int.from_bytes(sha512(data).digest(), "little") % ORDER
    assert reduced.to_bytes(32, "little").hex() == vectors["hashes"]["hash_to_scalar"]["result"]
    words = vectors["contexts"]["words"]
    tag = b"carechain/complaint/1"
    data = bytes([len(tag)]) + tag
    for part in (bytes.fromhex(words["ceremony"]), b"\x01", b"\x02"):
        data += len(part).to_bytes(4, "big") + part
    assert sha256(data).hexdigest() == vectors["contexts"]["complaint"]


def test_the_key_follows_from_what_was_shown(vectors: dict[str, Any]) -> None:
    made = vectors["generation"]
    extracted = raw(made["extracted"])
    qualified = [index for index in sorted(extracted) if index not in made["disqualified"]]
    assert qualified == [1, 3, 4, 5, 6, 7]
    assert sorted(made["exposed"]) == [3, 4]
    total = add_commitments([extracted[index] for index in qualified])
    check_epoch(made, total)


def test_the_resharing_keeps_the_key(vectors: dict[str, Any]) -> None:
    made = vectors["resharing"]
    assert made["disqualified"] == [1]
    chosen = [2, 3, 4]
    total = weigh_commitments([(index, raw(made["deals"][str(index)]["commitments"])) for index in chosen])
    assert total[0].hex() == vectors["generation"]["public_key"]
    check_epoch(made, total)


def check_epoch(made: dict[str, Any], total: tuple[bytes, ...]) -> None:
    keys, shares = raw(made["holder_keys"]), raw(made["shares"])
    assert total[0].hex() == made["public_key"]
    assert {index: evaluate(total, index) for index in keys} == keys
    assert {index: base_mul(share) for index, share in shares.items()} == keys


@pytest.mark.parametrize(("epoch", "ceremony"), [("1", "generation"), ("2", "resharing")])
def test_a_release_opens(vectors: dict[str, Any], epoch: str, ceremony: str) -> None:
    made, given = vectors[ceremony], vectors["release"][epoch]
    public_key, keys = bytes.fromhex(made["public_key"]), raw(made["holder_keys"])
    ids = {name: bytes.fromhex(given["label"][name]) for name in ("pseudonym", "record")}
    label = Label(**(given["label"] | ids))
    assert label_bytes(label).hex() == given["label_bytes"]
    capsule = decode_capsule(bytes.fromhex(given["capsule"]))
    check_capsule(capsule, label)
    blinding = decode_strict(msgspec.msgpack.Decoder(Blinding), bytes.fromhex(given["blinding"]))
    context = blinding_context(chain_id=CHAIN, ticket=TICKET, record=RECORD, version=1, sender=SENDER)
    check_blinding(blinding, context=context)
    combined = combined_point(capsule, blinding)
    assert combined.hex() == given["combined"]
    points = {}
    for one in given["statements"]:
        told = decode_strict(msgspec.msgpack.Decoder(ShareStatement), bytes.fromhex(one["statement"]))
        check_statement(CHAIN, told, holder_key=keys[told.share.index])
        assert told.combined == combined
        assert statement_bytes(CHAIN, told).hex() == one["signed_bytes"]
        points[told.share.index] = told.share.point
    openers = given["openers"]
    released = weighted_sum([lagrange(openers, index) for index in openers], [points[index] for index in openers])
    # What the requester takes off is q·X; the secret key, put together here only, gives the same point.
    shares = raw(made["shares"])
    secret = sum(
        int.from_bytes(lagrange(openers, index), "little") * int.from_bytes(shares[index], "little")
        for index in openers
    )
    x = (secret % ORDER).to_bytes(32, "little")
    assert base_mul(x) == public_key
    shared = mul(x, capsule.r_point)
    assert sub(released, mul(x, blinding.q_point)) == shared
    assert open_with(capsule, public_key=public_key, shared=shared).hex() == given["record_key"] == given["opened"]
