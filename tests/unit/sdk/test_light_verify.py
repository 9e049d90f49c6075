"""Goal: a header is believed only by the rules of light verification, and two signed headers of one height are shown.

Method: chains in memory whose validators sign whatever they are told to, so that each rule is the only one broken: one
row per rule, at its border on both sides. Then what a liar with too little power, or too old power, could do.
"""

import asyncio
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from carechain.core.limits import CLOCK_SKEW_S, LIGHT_BLOCKS, TRUSTING_PERIOD_S
from carechain.sdk.light import verify
from carechain.sdk.light.header import BLOCK_PROTOCOL, LightBlock, Time, header_hash, validators_hash, vote_bytes
from carechain.sdk.light.verify import (
    Forked,
    Rules,
    TooFewSigned,
    Trusted,
    TrustedGenesis,
    TrustedHeader,
    TrustExpired,
    advance,
    catch_up,
    catch_up_async,
    compare,
    genesis_trust,
    pin,
    step_down,
    verify_commit,
)
from carechain.sdk.proofs import NotProven
from light_chain import CHAIN_ID, START_S, Weights, block, chain, key, members, signed_by

FOUR: Weights = {"a": 1, "b": 1, "c": 1, "d": 1}
NOW_S = START_S + 10_000
GENESIS = genesis_trust(chain_id=CHAIN_ID, time_s=START_S, keys=[key(name).public_key for name in FOUR])
FIRST = block(FOUR)
SECOND = block(FOUR, below=FIRST)
AT_FIRST = advance(GENESIS, FIRST, now_s=NOW_S)


def far(weights: Weights, *, signers: str | None = None, height: int = 9) -> LightBlock:
    return block(weights, height=height, last_block_id=SECOND.header.last_block_id, signers=signers)


def test_trust_begins_with_the_validators_of_the_genesis_in_any_order() -> None:
    keys = [one.public_key for one in GENESIS.validators]
    assert genesis_trust(chain_id=CHAIN_ID, time_s=START_S, keys=reversed(keys)) == GENESIS
    assert GENESIS.next_validators_hash == validators_hash(members(FOUR))
    assert advance(GENESIS, FIRST, now_s=NOW_S).block == FIRST


def test_the_first_block_may_have_the_genesis_time_and_no_other_that_of_the_one_before() -> None:
    advance(GENESIS, block(FOUR, time=Time(START_S)), now_s=NOW_S)
    with pytest.raises(NotProven, match="time"):
        advance(GENESIS, block(FOUR, time=Time(START_S - 1, 999_999_999)), now_s=NOW_S)
    advance(AT_FIRST, block(FOUR, below=FIRST, time=replace(FIRST.header.time, nanos=1)), now_s=NOW_S)
    with pytest.raises(NotProven, match="time"):
        advance(AT_FIRST, block(FOUR, below=FIRST, time=FIRST.header.time), now_s=NOW_S)


ADJACENT: dict[str, tuple[Callable[[], LightBlock], str]] = {
    "the trusted height again": (lambda: FIRST, "not above"),
    "another chain": (lambda: block(FOUR, below=FIRST, chain_id="other"), "another network"),
    "another version": (lambda: block(FOUR, below=FIRST, block_version=BLOCK_PROTOCOL + 1), "version"),
    "validators that were not named": (lambda: block({**FOUR, "e": 1}, below=FIRST), "not those that the one before"),
    "another predecessor": (lambda: block(FOUR, below=block(FOUR, app_version=2)), "does not follow"),
    "no predecessor": (lambda: block(FOUR, below=FIRST, last_block_id=None), "does not follow"),
    "two of four": (lambda: block(FOUR, below=FIRST, signers="ab"), "two thirds"),
    "nobody": (lambda: block(FOUR, below=FIRST, signers=""), "two thirds"),
}


@pytest.mark.parametrize("name", ADJACENT)
def test_the_next_header_is_refused(name: str) -> None:
    make, reason = ADJACENT[name]
    with pytest.raises(NotProven, match=reason):
        advance(AT_FIRST, make(), now_s=NOW_S)


@pytest.mark.parametrize(
    ("weights", "signers", "enough"),
    [
        (FOUR, "abc", True),
        (FOUR, "ab", False),
        ({"a": 1}, "a", True),
        ({"a": 1, "b": 1, "c": 1}, "ab", False),  # Exactly two thirds are not more than two thirds.
        ({"a": 1, "b": 1, "c": 1}, "abc", True),
        ({"a": 5, "b": 1, "c": 1}, "a", True),
        ({"a": 4, "b": 1, "c": 1}, "a", False),
        ({"a": 4, "b": 1, "c": 1}, "ab", True),
        ({"a": (1 << 60) - 1, "b": 1}, "b", False),
    ],
)
def test_more_than_two_thirds_of_the_power_must_have_signed(weights: Weights, signers: str, *, enough: bool) -> None:
    one = block(weights, signers=signers)
    if enough:
        assert verify_commit(one, chain_id=CHAIN_ID) == {key(name).public_key for name in signers}
    else:
        with pytest.raises(NotProven, match="two thirds"):
            verify_commit(one, chain_id=CHAIN_ID)


@pytest.mark.parametrize(
    ("before", "now", "signers", "enough"),
    [
        (FOUR, FOUR, "abc", True),
        (FOUR, {"a": 1, "b": 1}, "ab", True),
        (FOUR, {"a": 1}, "a", False),
        ({"a": 1, "b": 1, "c": 1}, {"a": 1}, "a", False),  # Exactly a third is not more than a third.
        ({"a": 2, "b": 1, "c": 1}, {"a": 1}, "a", True),
        (FOUR, {"a": 1, "b": 1, "x": 9}, "x", False),
        (FOUR, {"a": 1, "b": 1, "x": 9}, "abx", True),
        (FOUR, {"x": 1, "y": 1}, "xy", False),
    ],
)
def test_further_up_more_than_a_third_of_the_trusted_power_must_have_signed(
    before: Weights, now: Weights, signers: str, *, enough: bool
) -> None:
    start = TrustedHeader(block(before))
    candidate = far(now, signers=signers)
    if enough:
        assert advance(start, candidate, now_s=NOW_S).block == candidate
    else:
        with pytest.raises(TooFewSigned):
            advance(start, candidate, now_s=NOW_S)


def test_enough_trusted_power_is_not_enough_power() -> None:
    with pytest.raises(NotProven, match="two thirds"):
        advance(AT_FIRST, far({**FOUR, "x": 9}, signers="abcd"), now_s=NOW_S)


def test_a_validator_that_stands_there_twice_does_not_count_twice() -> None:
    twice = (*members({"a": 1}), *members({"a": 1}), *members({"b": 1}))
    header = replace(FIRST.header, validators_hash=validators_hash(twice), height=9)
    commit = signed_by(header, twice, "a")
    commit = replace(commit, signatures=(commit.signatures[0], commit.signatures[0], None))
    with pytest.raises(NotProven, match="twice"):
        verify_commit(LightBlock(header=header, commit=commit, validators=twice), chain_id=CHAIN_ID)


def test_a_vote_for_no_block_is_no_vote_for_this_one() -> None:
    commit = SECOND.commit
    signed = commit.signatures[0]
    assert signed is not None
    name = next(name for name in FOUR if key(name).public_key == SECOND.validators[0].public_key)
    ours = vote_bytes(CHAIN_ID, commit, signed.time)
    # What CometBFT signs for no block lacks field 4, the block's id, and its length is that much smaller.
    at = ours.index(b"\x22")
    nil = ours[1:at] + ours[at + 2 + ours[at + 1] :]
    forged = replace(signed, signature=key(name).sign(bytes([len(nil)]) + nil))
    block_ = replace(SECOND, commit=replace(commit, signatures=(forged, *commit.signatures[1:])))
    with pytest.raises(NotProven, match="signature does not hold"):
        verify_commit(block_, chain_id=CHAIN_ID)


def test_votes_of_another_round_or_chain_do_not_hold() -> None:
    again = replace(SECOND.commit, signatures=signed_by(SECOND.header, SECOND.validators, FOUR, round_=1).signatures)
    with pytest.raises(NotProven, match="signature does not hold"):
        verify_commit(replace(SECOND, commit=again), chain_id=CHAIN_ID)
    elsewhere = block(FOUR, below=FIRST, chain_id="other")
    here = block(FOUR, below=FIRST)
    mixed = replace(here, commit=replace(here.commit, signatures=elsewhere.commit.signatures))
    with pytest.raises(NotProven, match="signature does not hold"):
        verify_commit(mixed, chain_id=CHAIN_ID)


# --- time -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [GENESIS, AT_FIRST])
def test_trust_ends_with_the_trusting_period(start: Trusted) -> None:
    ends_s = start.time.seconds + TRUSTING_PERIOD_S
    target = {GENESIS: FIRST, AT_FIRST: SECOND}[start]
    for candidate in (target, far(FOUR)):
        advance(start, candidate, now_s=ends_s - 1)
        with pytest.raises(TrustExpired):
            advance(start, candidate, now_s=ends_s)
        advance(start, candidate, now_s=ends_s, rules=Rules(trusting_period_s=TRUSTING_PERIOD_S + 1))


def test_a_header_from_the_future_is_refused() -> None:
    for candidate in (SECOND, far(FOUR)):
        at_s = candidate.header.time.seconds
        advance(AT_FIRST, candidate, now_s=at_s - CLOCK_SKEW_S + 1)
        with pytest.raises(NotProven, match="future"):
            advance(AT_FIRST, candidate, now_s=at_s - CLOCK_SKEW_S)


# --- the way --------------------------------------------------------------------------------------------


def turnover(count: int) -> dict[int, LightBlock]:
    """Each block replaces one of four validators, so that after three too few of the first are left."""
    return chain([{f"v{height + place}": 1 for place in range(4)} for height in range(count)])


def test_the_way_up_halves_the_distance_and_fetches_nothing_twice() -> None:
    blocks = turnover(24)
    start = TrustedHeader(blocks[1])
    fetched: list[int] = []

    def fetch(height: int) -> LightBlock:
        fetched.append(height)
        return blocks[height]

    assert catch_up(start, 24, fetch, now_s=NOW_S).block == blocks[24]
    assert fetched[:4] == [24, 12, 6, 3]
    assert len(set(fetched)) == len(fetched)
    same = asyncio.run(catch_up_async(start, 24, _later(blocks), now_s=NOW_S))
    assert same.block == blocks[24]


def _later(blocks: dict[int, LightBlock]) -> verify.FetchAsync:
    async def fetch(height: int) -> LightBlock:
        await asyncio.sleep(0)
        return blocks[height]

    return fetch


def test_one_that_is_trusted_already_needs_no_fetching() -> None:
    def fetch(height: int) -> LightBlock:
        raise AssertionError(height)

    assert catch_up(AT_FIRST, 1, fetch, now_s=NOW_S + 10 * TRUSTING_PERIOD_S) == AT_FIRST
    for height in (0, -1):
        with pytest.raises(NotProven, match="no block"):
            catch_up(AT_FIRST, height, fetch, now_s=NOW_S)


def test_a_block_of_another_height_than_asked_for_is_refused() -> None:
    for start, target in ((GENESIS, 5), (TrustedHeader(SECOND), 1)):
        with pytest.raises(NotProven, match="another height"):
            catch_up(start, target, lambda _: SECOND, now_s=NOW_S)


def test_the_way_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = turnover(24)
    top = TrustedHeader(block(FOUR, height=LIGHT_BLOCKS + 2))
    with pytest.raises(NotProven, match="too many"):
        catch_up(top, 1, blocks.__getitem__, now_s=NOW_S)
    monkeypatch.setattr(verify, "LIGHT_BLOCKS", 3)
    with pytest.raises(NotProven, match="too many"):
        catch_up(TrustedHeader(blocks[1]), 24, blocks.__getitem__, now_s=NOW_S)


def test_a_chain_that_strangers_made_up_is_never_believed() -> None:
    strangers = {"x": 1, "y": 1, "z": 1}
    made_up = {1: FIRST, **{height: far(strangers, height=height) for height in range(2, 20)}}
    for start in (GENESIS, AT_FIRST):
        with pytest.raises(NotProven, match="not those that the one before it names"):
            catch_up(start, 19, made_up.__getitem__, now_s=NOW_S)


def test_one_fourth_of_the_power_cannot_lead_astray() -> None:
    """Validator d signs anything: a second block of its own, and later ones that it and a stranger vote for."""
    own = {1: FIRST, 2: block(FOUR, below=FIRST, signers="d", app_version=9)}
    own |= {height: far({"d": 1, "x": 1}, height=height, signers="dx") for height in range(3, 12)}
    with pytest.raises(NotProven):
        catch_up(AT_FIRST, 11, own.__getitem__, now_s=NOW_S)


# --- downward -------------------------------------------------------------------------------------------


def test_below_a_trusted_header_hashes_lead_the_way_whatever_its_age() -> None:
    blocks = turnover(6)
    top = TrustedHeader(blocks[6])
    later_s = NOW_S + 10 * TRUSTING_PERIOD_S
    assert catch_up(top, 2, blocks.__getitem__, now_s=later_s).block == blocks[2]


def test_another_block_below_is_refused() -> None:
    blocks = turnover(6)
    top = TrustedHeader(blocks[6])
    five = blocks[5]
    sixth = {f"v{5 + place}": 1 for place in range(4)}
    late = block(sixth, below=five, time=five.header.time)
    lies: list[tuple[TrustedHeader, LightBlock]] = [
        (top, blocks[4]),
        (top, blocks[6]),
        (top, replace(five, header=replace(five.header, app_hash=bytes(32)))),
        (top, replace(five, commit=replace(five.commit, signatures=(None,) * 4))),
        (TrustedHeader(late), five),
        (TrustedHeader(blocks[1]), blocks[1]),
    ]
    for above, lie in lies:
        with pytest.raises(NotProven):
            step_down(above, lie)


def test_trust_in_a_hash_heard_elsewhere() -> None:
    expected = header_hash(SECOND.header)
    assert pin(SECOND, chain_id=CHAIN_ID, height=2, expected_hash=expected) == TrustedHeader(SECOND)
    for lie, height, hash_ in ((FIRST, 1, expected), (SECOND, 2, bytes(32)), (SECOND, 3, expected)):
        with pytest.raises(NotProven, match="whose hash is trusted"):
            pin(lie, chain_id=CHAIN_ID, height=height, expected_hash=hash_)
    with pytest.raises(NotProven):
        pin(block(FOUR, below=FIRST, signers="a"), chain_id=CHAIN_ID, height=2, expected_hash=expected)


# --- forks ----------------------------------------------------------------------------------------------


def test_two_signed_headers_of_one_height_are_shown_as_evidence() -> None:
    second = block(FOUR, below=FIRST, signers="abc", app_hash=bytes(32))
    mine, theirs = (advance(AT_FIRST, one, now_s=NOW_S) for one in (SECOND, second))
    assert compare([mine, mine]) == mine
    with pytest.raises(Forked) as caught:
        compare([mine, mine, theirs])
    for shown, expected in ((caught.value.first, SECOND), (caught.value.second, second)):
        assert shown == expected
        verify_commit(shown, chain_id=CHAIN_ID)


def test_another_commit_of_the_same_header_is_no_fork() -> None:
    fewer = replace(SECOND, commit=signed_by(SECOND.header, SECOND.validators, "abc", round_=2))
    mine, theirs = (advance(AT_FIRST, one, now_s=NOW_S) for one in (SECOND, fewer))
    assert compare([mine, theirs]) == mine


def test_nothing_and_different_heights_cannot_be_compared() -> None:
    with pytest.raises(NotProven, match="nobody"):
        compare([])
    with pytest.raises(NotProven, match="different heights"):
        compare([AT_FIRST, TrustedHeader(SECOND)])


def test_a_genesis_without_validators_believes_nothing() -> None:
    nobody = TrustedGenesis(chain_id=CHAIN_ID, time=Time(START_S), validators=())
    for candidate in (FIRST, far(FOUR)):
        with pytest.raises(NotProven):
            advance(nobody, candidate, now_s=NOW_S)
