"""Goal: what this project hashes and checks is what CometBFT hashed and signed, byte for byte, and nothing else passes.

Method: the answers of four real nodes, recorded through changes of the validators, an absent one and a lost round
(``tests/e2e/test_light.py`` records them); then each field of a header, commit and validator set is changed, one per
row. The result leaves are those that CometBFT's own code gives for three results.
"""

import base64
import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import fields, replace

from carechain.core import merkle
from carechain.core.limits import LIGHT_BLOCK_BYTES, LIGHT_JSON_BYTES
from carechain.sdk.light.fetch import make_answer, pages_of, read_rpc, read_time
from carechain.sdk.light.header import (
    BlockId,
    Header,
    LightBlock,
    Time,
    decode_block,
    encode_block,
    header_hash,
    result_leaf,
    validators_hash,
)
from carechain.sdk.light.trust import read_trust, write_trust
from carechain.sdk.light.verify import (
    TooFewSigned,
    TrustedGenesis,
    TrustedHeader,
    advance,
    catch_up,
    genesis_trust,
    verify_commit,
)
from carechain.sdk.proofs import NotProven

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "light.json").read_text())
CHAIN_ID = VECTORS["chain_id"]
NOW_S = VECTORS["genesis_time_s"] + 120
RAW: dict[int, tuple[bytes, list[bytes]]] = {
    int(height): (json.dumps(one["commit"]).encode(), [json.dumps(page).encode() for page in one["validators"]])
    for height, one in VECTORS["blocks"].items()
}
BLOCKS: dict[int, LightBlock] = {height: read_rpc(*raw) for height, raw in RAW.items()}
LAST = max(BLOCKS)


def genesis() -> TrustedGenesis:
    keys = [bytes.fromhex(one) for one in VECTORS["genesis_keys"]]
    return genesis_trust(chain_id=CHAIN_ID, time_s=VECTORS["genesis_time_s"], keys=keys)


def trusted(height: int) -> TrustedHeader:
    return catch_up(genesis(), height, BLOCKS.__getitem__, now_s=NOW_S)


def test_the_recording_has_what_the_other_tests_rely_on() -> None:
    assert {len(one.validators) for one in BLOCKS.values()} == {1, 3, 4}
    assert {one.power for one in BLOCKS[LAST].validators} == {3}
    assert any(one.commit.round > 0 for one in BLOCKS.values())
    assert any(None in one.commit.signatures for one in BLOCKS.values())
    assert BLOCKS[1].header.last_block_id is None


@pytest.mark.parametrize("height", BLOCKS)
def test_every_hash_and_signature_of_a_real_chain_is_worked_out_again(height: int) -> None:
    one = BLOCKS[height]
    assert header_hash(one.header) == one.commit.block_id.hash
    assert validators_hash(one.validators) == one.header.validators_hash
    signers = verify_commit(one, chain_id=CHAIN_ID)
    assert len(signers) == sum(vote is not None for vote in one.commit.signatures)
    assert decode_block(encode_block(one)) == one


def test_transactions_and_results_lead_to_the_headers() -> None:
    for height, shown in VECTORS["txs"].items():
        txs = [base64.b64decode(tx) for tx in shown]
        leaves = [merkle.leaf_hash(sha256(tx).digest()) for tx in txs]
        results = [merkle.leaf_hash(result_leaf(code=0, data=b""))] * len(txs)
        assert merkle.root(leaves) == BLOCKS[int(height)].header.data_hash
        assert merkle.root(results) == BLOCKS[int(height) + 1].header.last_results_hash


def test_results_are_encoded_as_cometbft_encodes_them() -> None:
    leaves = [result_leaf(code=0, data=b"receipt"), result_leaf(code=617, data=b"other"), result_leaf(code=0, data=b"")]
    assert [leaf.hex() for leaf in leaves] == ["120772656365697074", "08e90412056f74686572", ""]
    root = merkle.root([merkle.leaf_hash(leaf) for leaf in leaves])
    assert root.hex() == "b6fe436443b187d12dcae160559d16cdbd62474c654fdf1583217c09f46ed9a5"


def test_the_last_block_is_believed_from_the_genesis_over_blocks_between() -> None:
    with pytest.raises(TooFewSigned):
        advance(genesis(), BLOCKS[LAST], now_s=NOW_S)
    fetched: list[int] = []

    def fetch(height: int) -> LightBlock:
        fetched.append(height)
        return BLOCKS[height]

    last = catch_up(genesis(), LAST, fetch, now_s=NOW_S)
    assert last.block == BLOCKS[LAST]
    assert len(fetched) == len(set(fetched)) < LAST
    for height in range(LAST - 1, 0, -1):
        assert catch_up(last, height, BLOCKS.__getitem__, now_s=NOW_S).block == BLOCKS[height]


def test_a_trust_file_brings_the_header_back() -> None:
    data = write_trust(trusted(7))
    assert read_trust(data, chain_id=CHAIN_ID) == trusted(7)
    shown = json.loads(data)
    assert (shown["height"], shown["hash"]) == (7, trusted(7).hash.hex())


TRUST_FORGERIES: list[dict[str, Any]] = [
    {"height": 8},
    {"hash": "00" * 32},
    {"hash": "zz" * 32},
    {"hash": trusted(7).hash.hex() + "\n"},
    {"chain_id": "other"},
    {"block": ""},
    {"block": base64.b64encode(encode_block(BLOCKS[8])).decode()},
    {"more": 1},
]


@pytest.mark.parametrize("change", TRUST_FORGERIES)
def test_a_changed_trust_file_is_refused(change: dict[str, Any]) -> None:
    data = json.dumps(json.loads(write_trust(trusted(7))) | change).encode()
    with pytest.raises(NotProven):
        read_trust(data, chain_id=CHAIN_ID)


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b"[" * 100_000, b" " * 3 * LIGHT_BLOCK_BYTES])
def test_what_is_no_trust_file_is_refused(data: bytes) -> None:
    with pytest.raises(NotProven):
        read_trust(data, chain_id=CHAIN_ID)


# --- one change at a time -------------------------------------------------------------------------------


def other(value: Any) -> Any:
    """A value of the same type that is another one."""
    match value:
        case int():
            return value + 1
        case str():
            return value + "!"
        case bytes():
            return bytes([value[0] ^ 1]) + value[1:]
        case Time():
            return replace(value, nanos=value.nanos ^ 1)
        case BlockId():
            return replace(value, parts=value.parts + 1)
        case _:
            raise TypeError(value)


@pytest.mark.parametrize("name", [field.name for field in fields(Header)])
def test_a_header_with_another_field_is_refused(name: str) -> None:
    for height in (6, LAST):
        real = BLOCKS[height]
        changed = replace(real.header, **{name: other(getattr(real.header, name))})
        assert header_hash(changed) != header_hash(real.header)
        # Another hash in the commit does not help: then it is not what was signed.
        agreeing = replace(real.commit, block_id=replace(real.commit.block_id, hash=header_hash(changed)))
        for commit in (real.commit, agreeing):
            with pytest.raises(NotProven):
                advance(trusted(5), replace(real, header=changed, commit=commit), now_s=NOW_S)


def vote(real: LightBlock, place: int, **changed: Any) -> LightBlock:
    votes = list(real.commit.signatures)
    one = votes[place]
    assert one is not None
    votes[place] = replace(one, **changed)
    return replace(real, commit=replace(real.commit, signatures=tuple(votes)))


def commit(real: LightBlock, **changed: Any) -> LightBlock:
    return replace(real, commit=replace(real.commit, **changed))


FORGERIES: dict[str, tuple[Callable[[LightBlock], LightBlock], str]] = {
    "the first bit of a signature": (
        lambda real: vote(real, 0, signature=other(real.commit.signatures[0].signature)),  # type: ignore[union-attr]
        "signature does not hold",
    ),
    "no signature": (lambda real: vote(real, 2, signature=bytes(64)), "signature does not hold"),
    "a vote's time": (
        lambda real: vote(real, 0, time=other(real.commit.signatures[0].time)),  # type: ignore[union-attr]
        "signature does not hold",
    ),
    "a vote's address": (lambda real: vote(real, 0, address=bytes(20)), "another validator's place"),
    "the round": (lambda real: commit(real, round=real.commit.round + 1), "signature does not hold"),
    "the commit's height": (lambda real: commit(real, height=real.height + 1), "for another block"),
    "the block's parts": (
        lambda real: commit(real, block_id=replace(real.commit.block_id, parts=7)),
        "signature does not hold",
    ),
    "the parts' hash": (
        lambda real: commit(real, block_id=replace(real.commit.block_id, parts_hash=bytes(32))),
        "signature does not hold",
    ),
    "one vote in two places": (
        lambda real: commit(real, signatures=(real.commit.signatures[0],) * 4),
        "another validator's place",
    ),
    "half of the votes": (
        lambda real: commit(real, signatures=(real.commit.signatures[0], None, real.commit.signatures[2], None)),
        "two thirds of the voting power or less",
    ),
    "nobody's vote": (lambda real: commit(real, signatures=(None,) * 4), "two thirds of the voting power or less"),
    "a place too few": (lambda real: commit(real, signatures=real.commit.signatures[:3]), "one place per validator"),
    "a place too many": (lambda real: commit(real, signatures=(*real.commit.signatures, None)), "one place per"),
    "validators in another order": (
        lambda real: replace(real, validators=real.validators[::-1]),
        "not those that the header names",
    ),
    "a validator's power": (
        lambda real: replace(real, validators=(replace(real.validators[0], power=9), *real.validators[1:])),
        "not those that the header names",
    ),
    "a validator left out": (
        lambda real: replace(real, validators=real.validators[:3]),
        "not those that the header names",
    ),
    "another block's commit": (lambda real: replace(real, commit=BLOCKS[5].commit), "for another block"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_block_with_one_change_is_refused(name: str) -> None:
    forge, reason = FORGERIES[name]
    real, start = BLOCKS[6], trusted(5)
    assert advance(start, real, now_s=NOW_S).block == real
    with pytest.raises(NotProven, match=reason):
        advance(start, forge(real), now_s=NOW_S)


# --- JSON -----------------------------------------------------------------------------------------------


def changed_json(height: int, path: tuple[Any, ...], value: Any) -> tuple[bytes, list[bytes]]:
    content = json.loads(json.dumps(VECTORS["blocks"][str(height)]))
    at = content
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    return json.dumps(content["commit"]).encode(), [json.dumps(page).encode() for page in content["validators"]]


HEADER = ("commit", "result", "signed_header", "header")
COMMIT = ("commit", "result", "signed_header", "commit")
PAGE = ("validators", 0, "result")
MALFORMED: list[tuple[tuple[Any, ...], Any]] = [
    *[((*HEADER, "height"), value) for value in ("-1", "0", "06", "6\n", "9" * 19, "9" * 20, 6, "", None, "٦")],
    *[
        ((*HEADER, "time"), value)
        for value in ("", "2026-02-30T00:00:00Z", "2026-01-01T24:00:00Z", "0001-01-01T00:00:00Z")
    ],
    *[((*HEADER, "data_hash"), value) for value in ("", "00", "0", "zz" * 32, "00" * 33, "00" * 32 + "\n", 0)],
    *[((*HEADER, "chain_id"), value) for value in ("", "x" * 49, "\ud800", 1)],
    ((*HEADER, "version", "block"), "18446744073709551616"),
    ((*HEADER, "last_block_id", "hash"), ""),
    ((*HEADER, "last_block_id", "parts", "total"), -1),
    ((*HEADER, "last_block_id", "parts", "total"), 1 << 64),
    ((*HEADER, "proposer_address"), "00" * 19),
    ((*COMMIT, "round"), -1),
    ((*COMMIT, "round"), 1 << 31),
    ((*COMMIT, "block_id", "hash"), ""),
    ((*COMMIT, "signatures"), []),
    ((*COMMIT, "signatures"), None),
    ((*COMMIT, "signatures", 0, "block_id_flag"), 4),
    ((*COMMIT, "signatures", 0, "signature"), None),
    ((*COMMIT, "signatures", 0, "signature"), "AAAA"),
    ((*COMMIT, "signatures", 0, "validator_address"), ""),
    ((*COMMIT, "signatures", 0, "timestamp"), "0001-01-01T00:00:00Z"),
    ((*PAGE, "block_height"), "7"),
    ((*PAGE, "total"), "5"),
    ((*PAGE, "validators"), []),
    ((*PAGE, "validators", 0, "voting_power"), "0"),
    ((*PAGE, "validators", 0, "voting_power"), str(1 << 60)),
    ((*PAGE, "validators", 0, "pub_key", "type"), "tendermint/PubKeySecp256k1"),
    ((*PAGE, "validators", 0, "pub_key", "value"), "AAAA"),
    (("commit", "result"), None),
    (("commit",), {"error": {"code": -32603, "message": "Internal error"}}),
]


@pytest.mark.parametrize(("path", "value"), MALFORMED)
def test_malformed_answers_of_the_engine_are_not_proven(path: tuple[Any, ...], value: Any) -> None:
    with pytest.raises(NotProven):
        make_answer(*changed_json(6, path, value))


def test_a_vote_for_no_block_counts_for_nothing() -> None:
    real = read_rpc(*changed_json(8, (*COMMIT, "signatures", 0, "block_id_flag"), 3))
    assert real.commit.signatures[0] is None
    assert len(verify_commit(real, chain_id=CHAIN_ID)) == 3
    # And one that was absent is no vote because the node says so.
    absent = BLOCKS[6].commit.signatures.index(None)
    with pytest.raises(NotProven):
        make_answer(*changed_json(6, (*COMMIT, "signatures", absent, "block_id_flag"), 2))


def test_pages_are_counted_and_bounded() -> None:
    commit_json, pages = RAW[6]
    assert pages_of(pages[0]) == pages_of(RAW[LAST][1][0]) == 1
    assert pages_of(changed_json(6, (*PAGE, "total"), "1024")[1][0]) == 11
    for total in ("0", "1025"):
        with pytest.raises(NotProven):
            pages_of(changed_json(6, (*PAGE, "total"), total)[1][0])
    for wrong, reason in (([], "malformed"), (pages * 2, "missing"), (pages * 12, "too many pages")):
        with pytest.raises(NotProven, match=reason):
            make_answer(commit_json, wrong)


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"\xff", b"[" * 100_000, b'{"result":' * 50_000, b" " * (LIGHT_JSON_BYTES + 1)]
)
def test_what_is_no_json_of_the_engine_is_not_proven(data: bytes) -> None:
    with pytest.raises(NotProven):
        make_answer(data, RAW[6][1])
    with pytest.raises(NotProven):
        make_answer(RAW[6][0], [data])
    with pytest.raises(NotProven):
        pages_of(data)


@pytest.mark.parametrize(
    "data", [b"", b"\x93", encode_block(BLOCKS[6])[:-1], encode_block(BLOCKS[6]) + b"\x00", b"\x91" * 9999]
)
def test_malformed_blocks_are_not_proven(data: bytes) -> None:
    with pytest.raises(NotProven):
        decode_block(data)


def test_what_is_beyond_its_bound_is_not_read() -> None:
    """Spaces around it do not make JSON wrong, so it is the size that is refused."""
    with pytest.raises(NotProven, match="too large"):
        decode_block(bytes(LIGHT_BLOCK_BYTES + 1))
    with pytest.raises(NotProven, match="too large"):
        make_answer(RAW[6][0] + b" " * LIGHT_JSON_BYTES, RAW[6][1])
    with pytest.raises(NotProven, match="too large"):
        read_trust(write_trust(trusted(7)) + b" " * 2 * LIGHT_BLOCK_BYTES, chain_id=CHAIN_ID)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:00Z", Time(0, 0)),
        ("2026-11-21T17:36:37.5Z", Time(1_795_282_597, 500_000_000)),
        ("2028-02-29T23:59:59.000000001Z", Time(1_835_481_599, 1)),
        ("9999-12-31T23:59:59.999999999Z", Time(253_402_300_799, 999_999_999)),
    ],
)
def test_times_are_read_to_the_nanosecond(text: str, expected: Time) -> None:
    assert read_time(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-11-21 17:36:37Z",
        "2026-11-21T17:36:37",
        "2026-11-21T17:36:60Z",
        "2026-13-01T00:00:00Z",
        "2026-11-21T17:36:37.Z",
        "2026-11-21T17:36:37.1234567890Z",
        "2026-11-21T17:36:37Z\n",
        "2026-11-21T17:36:37+00:00",
        "٢٠٢٦-11-21T17:36:37Z",
    ],
)
def test_other_times_are_not_proven(text: str) -> None:
    with pytest.raises(NotProven):
        read_time(text)
