"""Goal: whatever bytes a node shows, reading them ends in a block or in ``NotProven``, and only the true header passes.

Method: Hypothesis makes random bytes, and real blocks and answers with bytes exchanged, cut or doubled; whatever is
still read is then put to the check from the header before.
"""

import json
from pathlib import Path

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from carechain.sdk.light.fetch import make_answer, pages_of, read_rpc
from carechain.sdk.light.header import decode_block, encode_block
from carechain.sdk.light.trust import read_trust, write_trust
from carechain.sdk.light.verify import advance, genesis_trust
from carechain.sdk.proofs import NotProven

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "light.json").read_text())
CHAIN_ID = VECTORS["chain_id"]
NOW_S = VECTORS["genesis_time_s"] + 120
COMMITS = {height: json.dumps(VECTORS["blocks"][height]["commit"]).encode() for height in ("1", "6", "11")}
PAGES = {height: json.dumps(VECTORS["blocks"][height]["validators"][0]).encode() for height in COMMITS}
FIRST = read_rpc(COMMITS["1"], [PAGES["1"]])
GENESIS = genesis_trust(
    chain_id=CHAIN_ID,
    time_s=VECTORS["genesis_time_s"],
    keys=[bytes.fromhex(one) for one in VECTORS["genesis_keys"]],
)
TRUST_FILE = write_trust(advance(GENESIS, FIRST, now_s=NOW_S))


@st.composite
def damaged(draw: st.DrawFn, real: bytes) -> bytes:
    data = bytearray(real)
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 40)))
        data[start:end] = draw(
            st.one_of(st.binary(max_size=8), st.just(bytes(data[start:end]) * 2), st.sampled_from([b"", b"0", b"null"]))
        )
    return bytes(data)


@given(data=st.one_of(st.binary(max_size=300), damaged(encode_block(FIRST))))
@settings(max_examples=300)
def test_a_damaged_block_is_the_true_header_or_not_proven(data: bytes) -> None:
    try:
        block = decode_block(data)
        believed = advance(GENESIS, block, now_s=NOW_S)
    except NotProven:
        return
    # Votes beyond two thirds may be missing: that is a true block too.
    assert believed.block.header == FIRST.header
    assert encode_block(block) == data


@given(st.data())
@settings(max_examples=200)
def test_damaged_answers_of_the_engine_are_a_block_or_not_proven(data: st.DataObject) -> None:
    height = data.draw(st.sampled_from(sorted(COMMITS)))
    commit = data.draw(st.one_of(st.just(COMMITS[height]), damaged(COMMITS[height]), st.binary(max_size=100)))
    page = data.draw(st.one_of(st.just(PAGES[height]), damaged(PAGES[height]), st.binary(max_size=100)))
    try:
        assert pages_of(page) >= 1
        answer = make_answer(commit, [page])
    except NotProven:
        return
    assert encode_block(decode_block(answer)) == answer


NESTED = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=70) | st.text(max_size=50),
    lambda inner: st.lists(inner, max_size=16),
    max_leaves=30,
)


@given(NESTED)
def test_other_messagepack_is_not_proven(value: object) -> None:
    try:
        decode_block(msgspec.msgpack.encode(value))
    except NotProven:
        return
    raise AssertionError("nothing that small is a block")


@given(damaged(TRUST_FILE))
def test_a_damaged_trust_file_is_the_true_header_or_not_proven(data: bytes) -> None:
    try:
        trusted = read_trust(data, chain_id=CHAIN_ID)
    except NotProven:
        return
    assert trusted.block.header == FIRST.header
