"""The golden vectors: these blocks give these roots, receipts and events, today and in every later version.

Method: replay ``ledger.json``, ``consortium.json`` and ``keys.json`` through the session as the embedded engine calls
it, and through CometBFT's application by the frames that its engine sends; then see that the generators still write the
same files, that every kind of message succeeds in them, and that there are receipts that failed.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from msgspec import to_builtins

import consortium_vectors
import keys_vectors
import ledger_vectors
from abci_wire import Channels, hooks, init_chain, misbehavior_of
from carechain.chain.genesis import Genesis, genesis_hash, read
from carechain.chain.header import decode_sealed, header_hash
from carechain.chain.receipts import OK, decode_receipt, encode_receipt
from carechain.chain.routing import MESSAGES
from carechain.chain.transition import Block
from carechain.chain.tx import AdmissionCode, parse
from carechain.contracts.records import Anchor
from carechain.core.evidence import Evidence, Offence
from carechain.core.merkle import leaf_hash
from carechain.core.message import tag_of
from carechain.engine.cometbft.application import Application
from carechain.engine.embedded import BlockProducer
from carechain.engine.session import CommittedBlock, Session
from world import fresh

GENERATORS = (ledger_vectors, consortium_vectors, keys_vectors)


@pytest.fixture(scope="module", params=GENERATORS, ids=lambda module: module.VECTORS.stem)
def generator(request: pytest.FixtureRequest) -> ModuleType:
    module: ModuleType = request.param
    return module


@pytest.fixture(scope="module")
def vectors(generator: ModuleType) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(generator.VECTORS.read_text(encoding="utf-8"))
    return found


@pytest.fixture
def genesis(vectors: dict[str, Any]) -> Genesis:
    return read(json.dumps(vectors["genesis"]).encode())


@pytest.fixture
def sealer() -> BlockProducer:
    """Hospital a: the producer of the one network, and the keeper of the other's copy."""
    return BlockProducer.of(fresh().a.signing)


@pytest.fixture
def session(tmp_path: Path, genesis: Genesis, sealer: BlockProducer) -> Iterator[Session]:
    with Session.open(tmp_path, genesis, keeper=sealer.party) as session:
        yield session


def evidence_of(block: dict[str, Any]) -> tuple[Evidence, ...]:
    return tuple(
        Evidence(offence=Offence(offence), address=bytes.fromhex(address), height=height, time_s=time_s)
        for offence, address, height, time_s in block.get("evidence", ())
    )


def producer_of(block: dict[str, Any]) -> bytes:
    """Who put the block together, as its header says."""
    return decode_sealed(bytes.fromhex(block["sealed"])).header.producer


def test_the_blocks_give_the_roots(
    session: Session, genesis: Genesis, sealer: BlockProducer, vectors: dict[str, Any]
) -> None:
    assert genesis_hash(genesis).hex() == vectors["genesis_hash"]
    assert session.head.app_hash.hex() == vectors["genesis_app_hash"]
    for block in vectors["blocks"]:
        txs = tuple(map(bytes.fromhex, block["txs"]))
        done = session.finalize(
            Block(height=block["height"], time_s=block["time_s"], txs=txs, evidence=evidence_of(block))
        )
        assert done.tx_root.hex() == block["tx_root"]
        assert [encode_receipt(receipt).hex() for receipt in done.receipts] == [
            receipt["bytes"] for receipt in block["receipts"]
        ]
        assert done.receipt_root.hex() == block["receipt_root"]
        assert done.app_hash.hex() == block["app_hash"]
        session.commit(sealer, producer=producer_of(block) if genesis.is_consortium else None)
        sealed = decode_sealed(bytes.fromhex(block["sealed"]))
        assert header_hash(sealed.header) == session.head.block_hash


class SoleProducer:
    """A session whose blocks one producer seals: in who seals the two kinds of network differ, and in nothing else."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def commit(self, sealer: BlockProducer, *, producer: bytes) -> CommittedBlock:
        assert producer == bytes(32), "no address of a validator is known here"
        return self._session.commit(sealer)


def test_comets_application_gives_the_same(
    session: Session, genesis: Genesis, sealer: BlockProducer, vectors: dict[str, Any]
) -> None:
    committed: list[CommittedBlock] = []
    failed: list[BaseException] = []
    told = hooks(committed=committed.append, failed=failed.append)
    whose: Any = session if genesis.is_consortium else SoleProducer(session)
    call = Channels(Application(whose, sealer, told)).call
    assert call("init_chain", **init_chain(genesis)).app_hash.hex() == vectors["genesis_app_hash"]
    for block in vectors["blocks"]:
        txs = list(map(bytes.fromhex, block["txs"]))
        answer = call(
            "finalize_block",
            txs=txs,
            height=block["height"],
            time={"seconds": block["time_s"]},
            misbehavior=[misbehavior_of(one) for one in evidence_of(block)],
            proposer_address=bytes.fromhex(block.get("proposer", "")),
        )
        assert answer.app_hash.hex() == block["app_hash"]
        assert [(one.code, one.data) for one in answer.tx_results] == [
            (receipt["code"], leaf_hash(bytes.fromhex(receipt["bytes"]))) for receipt in block["receipts"]
        ]
        changes = [[one.pub_key.ed25519.hex(), one.power] for one in answer.validator_updates]
        assert changes == block.get("validators", [])
        call("commit")
        done = committed[-1]
        assert [encode_receipt(receipt).hex() for receipt in done.receipts] == [
            receipt["bytes"] for receipt in block["receipts"]
        ]
        assert [json.loads(json.dumps(to_builtins(receipt.events))) for receipt in done.receipts] == [
            receipt["events"] for receipt in block["receipts"]
        ]
        assert done.header == decode_sealed(bytes.fromhex(block["sealed"])).header
        info = call("info")
        assert (info.last_block_height, info.last_block_app_hash.hex()) == (block["height"], block["app_hash"])
    assert failed == []


def test_receipts_say_what_their_bytes_say(vectors: dict[str, Any]) -> None:
    for block in vectors["blocks"]:
        for receipt in block["receipts"]:
            decoded = decode_receipt(bytes.fromhex(receipt["bytes"]))
            assert (decoded.code, decoded.message) == (receipt["code"], receipt["message"])
            assert json.loads(json.dumps(to_builtins(decoded.events))) == receipt["events"]


def test_the_vectors_are_what_the_generator_writes(generator: ModuleType, vectors: dict[str, Any]) -> None:
    assert json.loads(json.dumps(generator.vectors())) == vectors


def test_the_vectors_cover_every_message_and_every_kind_of_failure() -> None:
    succeeded: set[str] = set()
    sealed: set[bool] = set()
    codes: set[int] = set()
    blocks = [block for one in GENERATORS for block in json.loads(one.VECTORS.read_text(encoding="utf-8"))["blocks"]]
    for block in blocks:
        for raw, receipt in zip(block["txs"], block["receipts"], strict=True):
            codes.add(receipt["code"])
            messages = parse(bytes.fromhex(raw)).body.messages if receipt["code"] == OK else ()
            succeeded.update(tag_of(type(message)) for message in messages)
            sealed.update(message.sealed is not None for message in messages if isinstance(message, Anchor))
    assert sorted({tag_of(kind) for kind in MESSAGES} - succeeded) == []
    assert sealed == {True, False}
    assert codes & {int(code) for code in AdmissionCode}
    assert any(code > 200 for code in codes)
    assert any(not block["txs"] for block in blocks)
    assert any(block.get("evidence") for block in blocks)
    assert {power for block in blocks for _, power in block.get("validators", ())} == {0, 1}
