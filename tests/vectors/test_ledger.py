"""The golden vectors: these blocks give these roots, receipts and events, today and in every later version.

Method: replay ``ledger.json`` through the embedded session; then see that the generator still writes the same file,
that every kind of message succeeds in it, and that it has receipts that failed.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec import to_builtins

import ledger_vectors
from carechain.chain.genesis import Genesis, genesis_hash, read
from carechain.chain.header import decode_sealed, header_hash
from carechain.chain.receipts import OK, decode_receipt, encode_receipt
from carechain.chain.routing import MESSAGES
from carechain.chain.transition import Block
from carechain.chain.tx import AdmissionCode, parse
from carechain.core.message import tag_of
from carechain.engine.embedded import BlockProducer
from carechain.engine.session import Session


@pytest.fixture(scope="module")
def vectors() -> dict[str, Any]:
    return json.loads(ledger_vectors.VECTORS.read_text(encoding="utf-8"))


@pytest.fixture
def genesis(vectors: dict[str, Any]) -> Genesis:
    return read(json.dumps(vectors["genesis"]).encode())


def test_the_blocks_give_the_roots(tmp_path: Path, vectors: dict[str, Any], genesis: Genesis) -> None:
    assert genesis_hash(genesis).hex() == vectors["genesis_hash"]
    producer = BlockProducer.of(ledger_vectors.Script().life.world.a.signing)
    with Session.open(tmp_path, genesis) as session:
        assert session.head.app_hash.hex() == vectors["genesis_app_hash"]
        for block in vectors["blocks"]:
            txs = tuple(map(bytes.fromhex, block["txs"]))
            done = session.finalize(Block(height=block["height"], time_s=block["time_s"], txs=txs))
            assert done.tx_root.hex() == block["tx_root"]
            assert [encode_receipt(receipt).hex() for receipt in done.receipts] == [
                receipt["bytes"] for receipt in block["receipts"]
            ]
            assert done.receipt_root.hex() == block["receipt_root"]
            assert done.app_hash.hex() == block["app_hash"]
            session.commit(producer)
            sealed = decode_sealed(bytes.fromhex(block["sealed"]))
            assert header_hash(sealed.header) == session.head.block_hash


def test_receipts_say_what_their_bytes_say(vectors: dict[str, Any]) -> None:
    for block in vectors["blocks"]:
        for receipt in block["receipts"]:
            decoded = decode_receipt(bytes.fromhex(receipt["bytes"]))
            assert (decoded.code, decoded.message) == (receipt["code"], receipt["message"])
            assert json.loads(json.dumps(to_builtins(decoded.events))) == receipt["events"]


def test_the_vectors_are_what_the_generator_writes(vectors: dict[str, Any]) -> None:
    assert json.loads(json.dumps(ledger_vectors.vectors())) == vectors


def test_the_vectors_cover_every_message_and_every_kind_of_failure(vectors: dict[str, Any]) -> None:
    succeeded: set[str] = set()
    codes: set[int] = set()
    for block in vectors["blocks"]:
        for raw, receipt in zip(block["txs"], block["receipts"], strict=True):
            codes.add(receipt["code"])
            if receipt["code"] == OK:
                succeeded.update(tag_of(type(message)) for message in parse(bytes.fromhex(raw)).body.messages)
    assert sorted({tag_of(kind) for kind in MESSAGES} - succeeded) == []
    assert codes & {int(code) for code in AdmissionCode}
    assert any(code > 200 for code in codes)
    assert any(not block["txs"] for block in vectors["blocks"])
