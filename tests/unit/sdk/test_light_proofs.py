"""Goal: under validators' signatures a state, a transaction with its outcome and a whole access log are proven.

Method: a ledger in memory, and over it two CometBFT headers that commit to its state, transactions and receipts as the
engine's adapter does; then every part of what a node shows is exchanged for another true part, one per row.
"""

import asyncio
from collections.abc import Callable
from functools import cache
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import replace

from carechain.chain.header import Header, Keeper, SealedHeader, receipt_root, signing_bytes, tx_root
from carechain.chain.queries import Asker, View, ask
from carechain.chain.questions import LogPage, OfPseudonym, OfRecord
from carechain.chain.receipts import OK, Receipt, encode_receipt
from carechain.chain.tx import AdmissionCode, parse
from carechain.contracts.access import RequestAccess
from carechain.core import merkle
from carechain.core.codec import encode
from carechain.core.hashing import digest
from carechain.core.vocabulary import Purpose
from carechain.sdk.answers import ProvenEntry, QueryAnswer, decode_answer
from carechain.sdk.light.header import LightBlock, Time, result_leaf
from carechain.sdk.light.proofs import (
    LightInclusion,
    Settled,
    make_inclusion,
    settle,
    settle_at,
    settle_at_async,
    verify_inclusion,
    verify_state,
)
from carechain.sdk.light.verify import Fetch, TrustedHeader, advance
from carechain.sdk.proofs import Network, NotProven, verify_answer
from carechain.sdk.verify_log import verify_log
from light_chain import START_S, block, chain
from world import RESULTS, Signer, World, anchor_of, anything, fresh, record_id

NOW_S = START_S + 10_000
FOUR = {"a": 1, "b": 1, "c": 1, "d": 1}


@pytest.fixture(scope="module")
def world() -> World:
    """Steve lets his hospital see all, has a record, and Bert asked twice."""
    world = fresh()
    world.grant(anything(world.steve, world.a), by=world.steve)
    world.done(anchor_of(world.steve, "r"), by=world.carl)
    for _ in range(2):
        world.request(RequestAccess(pseudonym=world.steve.id, scope=RESULTS, purpose=Purpose.TREAT), by=world.bert)
    return world


def settled_over(world: World, **above: Any) -> Settled:
    """The world's last block and the one above it, with the state it is in now."""
    at = Time(world.time_s, 5)
    lower = block(FOUR, height=world.height, time=at, last_block_id=block(FOUR).commit.block_id)
    fields: dict[str, Any] = {"app_hash": world.snapshot.root_hash, "time": Time(world.time_s + 1)} | above
    upper = block(FOUR, below=lower, **fields)
    trusted = TrustedHeader(lower)
    return settle(trusted, advance(trusted, upper, now_s=world.time_s))


def answer(world: World, name: str, args: Struct, *, by: Signer) -> QueryAnswer:
    view = View(snapshot=world.snapshot, height=world.height, time_s=world.time_s)
    party = view.contracts.membership.party(by.id)
    assert party is not None
    found = ask(view, Asker(by.id, party), name, args)
    keys = () if name == "access.log" else found.keys()
    proofs = [(key, world.snapshot.get(key), world.snapshot.prove(key).to_bytes()) for key in keys]
    shown = QueryAnswer(
        height=world.height,
        time_s=world.time_s,
        app_hash=world.snapshot.root_hash,
        rows=found.rows,
        proofs=tuple(ProvenEntry(key=key, value=value, proof=proof) for key, value, proof in proofs),
    )
    return decode_answer(name, msgspec.msgpack.encode(shown))


# --- states ---------------------------------------------------------------------------------------------


def test_a_query_is_proven_without_any_seal(world: World) -> None:
    args = OfRecord(world.steve.id, record_id("r"))
    true = answer(world, "records.anchor", args, by=world.steve)
    proven = verify_answer("records.anchor", args, true, settled_over(world))
    assert (proven.rows, proven.height, proven.time_s) == (true.rows, world.height, world.time_s)


def test_the_access_log_is_proven_complete_under_the_validators_signatures(world: World) -> None:
    pseudonym, settled = world.steve.id, settled_over(world)
    lines = answer(world, "access.log", LogPage(pseudonym=pseudonym), by=world.steve).rows
    head = answer(world, "access.log_head", OfPseudonym(pseudonym), by=world.steve)
    log = verify_log(pseudonym, lines, head, settled)
    assert (len(log.lines), log.height, log.time_s) == (2, world.height, world.time_s)
    for shown in (lines[:1], lines[1:], (), lines[::-1]):
        with pytest.raises(NotProven):
            verify_log(pseudonym, shown, head, settled)


def test_an_answer_that_is_not_of_the_settled_block_is_refused(world: World) -> None:
    args = OfRecord(world.steve.id, record_id("r"))
    true, settled = answer(world, "records.anchor", args, by=world.steve), settled_over(world)
    lies: list[tuple[QueryAnswer, Settled]] = [
        (replace(true, height=true.height + 1), settled),
        (replace(true, time_s=true.time_s + 1), settled),
        (replace(true, app_hash=bytes(32)), settled),
        (replace(true, proofs=()), settled),
        (true, settled_over(world, app_hash=bytes(32))),
        (true, settled_over(world, app_hash=b"")),
    ]
    for lie, trust in lies:
        with pytest.raises(NotProven):
            verify_answer("records.anchor", args, lie, trust)


def test_one_organisation_is_believed_only_by_those_who_named_it(world: World) -> None:
    """In a consortium nobody seals alone: a node signs its own copy, and that is its word and no more."""
    args = OfRecord(world.steve.id, record_id("r"))
    keeper = world.b.signing
    header = Header(
        chain_id=world.genesis.chain_id,
        height=world.height,
        time_s=world.time_s,
        previous=bytes(32),
        tx_count=0,
        tx_root=tx_root(()),
        receipt_root=receipt_root([]),
        app_hash=world.snapshot.root_hash,
        producer=world.a.id,
    )
    signature = keeper.sign(signing_bytes(header))
    seal = SealedHeader(header, signature, Keeper(keeper.suite, keeper.public_key))
    true = replace(answer(world, "records.anchor", args, by=world.steve), sealed=encode(seal))
    consortium = Network(chain_id=world.genesis.chain_id, producers={})
    assert verify_answer("records.anchor", args, true, replace(consortium, keeper=world.b.id)).rows == true.rows
    for distrustful in (consortium, replace(consortium, keeper=world.a.id), Network.of(world.genesis)):
        with pytest.raises(NotProven, match="nobody sealed"):
            verify_answer("records.anchor", args, true, distrustful)


def test_values_and_absences_are_proven_under_the_header_above(world: World) -> None:
    args = OfRecord(world.steve.id, record_id("r"))
    above = settled_over(world).above
    entries = answer(world, "records.anchor", args, by=world.steve).proofs
    assert {one.value is None for one in entries} == {True, False}
    for one in entries:
        verify_state(above, one.key, one.value, one.proof)
        for value in (b"other", None if one.value is not None else b""):
            with pytest.raises(NotProven):
                verify_state(above, one.key, value, one.proof)
        for proof in (b"", one.proof[:-1], one.proof + b"\x00"):
            with pytest.raises(NotProven):
                verify_state(above, one.key, one.value, proof)


def test_two_headers_that_are_not_one_above_the_other_settle_nothing(world: World) -> None:
    settled = settled_over(world)
    stranger = TrustedHeader(block(FOUR, height=world.height, app_version=2))
    pairs = [(settled.block, settled.block), (settled.above, settled.block), (stranger, settled.above)]
    first = TrustedHeader(block(FOUR))
    for lower, upper in [*pairs, (settled.block, first)]:
        with pytest.raises(NotProven):
            settle(lower, upper)


def test_a_block_is_settled_from_an_earlier_header_once_there_is_one_above() -> None:
    blocks = chain([FOUR] * 9)
    settled = settle_at(TrustedHeader(blocks[1]), 8, _from(blocks), now_s=NOW_S)
    assert (settled.block.block, settled.above.block) == (blocks[8], blocks[9])

    async def fetch(height: int) -> LightBlock:
        return _from(blocks)(height)

    assert asyncio.run(settle_at_async(TrustedHeader(blocks[1]), 8, fetch, now_s=NOW_S)) == settled
    with pytest.raises(NotProven, match="no such block"):
        settle_at(TrustedHeader(blocks[1]), 9, _from(blocks), now_s=NOW_S)


def _from(blocks: dict[int, LightBlock]) -> Fetch:
    def fetch(height: int) -> LightBlock:
        if height not in blocks:
            raise NotProven("there is no such block")
        return blocks[height]

    return fetch


# --- transactions ---------------------------------------------------------------------------------------


class Ordered(Struct):
    settled: Settled
    raws: tuple[bytes, ...]
    receipts: tuple[bytes, ...]

    def shown(self, index: int) -> LightInclusion:
        height = self.settled.block.height
        return make_inclusion(height=height, index=index, txs=self.raws, receipts=self.receipts)


def order(world: World, count: int) -> Ordered:
    """A block of ``count`` transactions, the last of them refused, under headers as the adapter lets them be made."""
    there = world.fork()
    raws = tuple(there.sign(anchor_of(there.steve, f"i{number}"), by=there.carl) for number in range(count - 1))
    raws = (*raws, there.sign(anchor_of(there.steve, "no", version=9), by=there.carl))
    receipts = there.block(*raws)
    assert [one.code == 0 for one in receipts] == [True] * (count - 1) + [False]
    return settled_order(there, raws, receipts)


def settled_order(there: World, raws: tuple[bytes, ...], receipts: list[Receipt]) -> Ordered:
    txs = merkle.root([merkle.leaf_hash(digest(raw)) for raw in raws])
    results = [result_leaf(code=one.code, data=merkle.leaf_hash(encode_receipt(one))) for one in receipts]
    lower = block(FOUR, height=there.height, data_hash=txs, last_block_id=block(FOUR).commit.block_id)
    upper = block(FOUR, below=lower, last_results_hash=merkle.root([merkle.leaf_hash(one) for one in results]))
    settled = settle(TrustedHeader(lower), TrustedHeader(upper))
    return Ordered(settled, raws, tuple(encode_receipt(one) for one in receipts))


@pytest.mark.parametrize("count", [1, 2, 3, 8, 13])
def test_every_transaction_is_proven_with_its_outcome(world: World, count: int) -> None:
    ordered = order(world, count)
    for index, raw in enumerate(ordered.raws):
        proven = verify_inclusion(ordered.settled, ordered.shown(index), parse(raw).id)
        assert (proven.tx_id, proven.height) == (parse(raw).id, ordered.settled.block.height)
        assert (proven.code == 0) == (index < count - 1)


LIES: dict[str, Callable[[Ordered, LightInclusion], LightInclusion]] = {
    "another transaction": lambda ordered, true: replace(true, raw=ordered.raws[0]),
    "a transaction that was changed": lambda _, true: replace(true, raw=true.raw[:-1] + b"\x00"),
    "another receipt": lambda ordered, true: replace(true, receipt=ordered.receipts[0]),
    "a receipt that says done": lambda _, true: replace(true, receipt=encode_receipt(Receipt(0))),
    "no receipt": lambda _, true: replace(true, receipt=b""),
    "another place": lambda _, true: replace(true, index=0),
    "a place outside": lambda _, true: replace(true, index=5),
    "a place before the first": lambda _, true: replace(true, index=-1),
    "another path": lambda ordered, true: replace(true, tx_path=ordered.shown(0).tx_path),
    "another result's path": lambda ordered, true: replace(true, result_path=ordered.shown(0).result_path),
    "another true transaction's outcome": lambda ordered, true: replace(
        true, receipt=ordered.receipts[0], result_path=ordered.shown(0).result_path
    ),
    "no path": lambda _, true: replace(true, tx_path=()),
    "a longer path": lambda _, true: replace(true, result_path=(*true.result_path, bytes(32))),
    "a hash too short": lambda _, true: replace(true, tx_path=(b"", *true.tx_path[1:])),
    "no transactions": lambda _, true: replace(true, count=0),
    "fewer than none": lambda _, true: replace(true, count=-1),
    "more than a block holds": lambda _, true: replace(true, count=1 << 80),
    "another height": lambda _, true: replace(true, height=true.height + 1),
}


@pytest.mark.parametrize("name", LIES)
def test_a_transaction_with_one_part_exchanged_is_refused(world: World, name: str) -> None:
    ordered = order(world, 5)
    index = 4
    true, tx_id = ordered.shown(index), parse(ordered.raws[index]).id
    assert verify_inclusion(ordered.settled, true, tx_id).code != 0
    with pytest.raises(NotProven):
        verify_inclusion(ordered.settled, LIES[name](ordered, true), tx_id)


def test_a_true_proof_of_another_transaction_is_refused(world: World) -> None:
    ordered = order(world, 3)
    with pytest.raises(NotProven, match="another one"):
        verify_inclusion(ordered.settled, ordered.shown(0), parse(ordered.raws[1]).id)


def test_a_repetition_does_not_hide_what_became_of_a_transaction(world: World) -> None:
    """Whoever proposes can put executed bytes into a block once more: the refusal is true, and is no outcome."""
    there = world.fork()
    raw = there.sign(anchor_of(there.steve, "once"), by=there.carl)
    receipts = there.block(raw, raw)
    assert [one.code for one in receipts] == [0, AdmissionCode.REPLAYED]
    ordered = settled_order(there, (raw, raw), receipts)
    assert verify_inclusion(ordered.settled, ordered.shown(0), parse(raw).id).code == 0
    with pytest.raises(NotProven, match="not admitted"):
        verify_inclusion(ordered.settled, ordered.shown(1), parse(raw).id)


def test_bytes_that_are_no_transaction_have_no_proof(world: World) -> None:
    """An engine can order anything; what cannot be read has no id to ask about."""
    receipt = encode_receipt(Receipt(OK))
    leaf = result_leaf(code=OK, data=merkle.leaf_hash(receipt))
    lower = block(FOUR, height=3, data_hash=merkle.root([merkle.leaf_hash(digest(b"noise"))]), last_block_id=_below())
    upper = block(FOUR, below=lower, last_results_hash=merkle.root([merkle.leaf_hash(leaf)]))
    shown = make_inclusion(height=3, index=0, txs=[b"noise"], receipts=[receipt])
    with pytest.raises(NotProven, match="malformed"):
        verify_inclusion(settle(TrustedHeader(lower), TrustedHeader(upper)), shown, digest(b"noise"))


def _below() -> Any:
    lower: LightBlock = block(FOUR)
    return lower.commit.block_id


@cache
def five() -> Ordered:
    """One ledger for all examples: making it takes longer than all of them."""
    world = fresh()
    world.grant(anything(world.steve, world.a), by=world.steve)
    return order(world, 5)


@given(data=st.data())
def test_whatever_a_node_shows_only_the_true_outcome_is_proven(data: st.DataObject) -> None:
    ordered = five()
    true = ordered.shown(2)
    hashes = st.sampled_from([*true.tx_path, *true.result_path, *ordered.shown(3).tx_path, bytes(32)])
    paths = st.lists(hashes | st.binary(max_size=33), max_size=6).map(tuple)
    lie = LightInclusion(
        raw=data.draw(st.sampled_from(ordered.raws) | st.binary(max_size=60)),
        receipt=data.draw(st.sampled_from(ordered.receipts) | st.binary(max_size=60)),
        height=data.draw(st.sampled_from([true.height, true.height + 1])),
        index=data.draw(st.just(2) | st.integers()),
        count=data.draw(st.just(5) | st.integers()),
        tx_path=data.draw(st.just(true.tx_path) | paths),
        result_path=data.draw(st.just(true.result_path) | paths),
    )
    try:
        verify_inclusion(ordered.settled, lie, parse(ordered.raws[2]).id)
    except NotProven:
        return
    assert (lie.raw, lie.receipt) == (true.raw, true.receipt)
