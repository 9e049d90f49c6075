"""A CometBFT chain in memory for tests: validators with keys of their own that sign whatever they are told to.

The encoding of what they sign is the project's; ``tests/vectors/light.json`` shows that real validators sign the same.
"""

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Any, Final

from msgspec.structs import replace

from carechain.core.crypto import SigningKey, Suite
from carechain.sdk.light.header import (
    BLOCK_PROTOCOL,
    BlockId,
    Commit,
    Header,
    LightBlock,
    Signed,
    Time,
    Validator,
    Validators,
    header_hash,
    validators_hash,
    vote_bytes,
)

CHAIN_ID: Final = "light-unit"
START_S: Final = 1_800_000_000
BLOCK_S: Final = 10
EMPTY: Final = sha256(b"").digest()

Weights = dict[str, int]
"""A validator set: name to voting power."""


def key(name: str) -> SigningKey:
    return SigningKey(suite=Suite.ED25519, seed=sha256(name.encode()).digest())


def members(weights: Weights) -> Validators:
    made = [Validator(key(name).public_key, power) for name, power in weights.items()]
    return tuple(sorted(made, key=lambda one: (-one.power, one.address)))


def signed_by(header: Header, validators: Validators, names: Iterable[str], *, round_: int = 0) -> Commit:
    """A commit with the votes of those named, each at its own time."""
    block_id = BlockId(header_hash(header), 1, EMPTY)
    empty = Commit(height=header.height, round=round_, block_id=block_id, signatures=(None,) * len(validators))
    votes: list[Signed | None] = [None] * len(validators)
    for name in names:
        signer = key(name)
        place = next(i for i, one in enumerate(validators) if one.public_key == signer.public_key)
        time = Time(header.time.seconds + 1, place)
        signature = signer.sign(vote_bytes(header.chain_id, empty, time))
        votes[place] = Signed(validators[place].address, time, signature)
    return replace(empty, signatures=tuple(votes))


def block(
    weights: Weights,
    *,
    height: int = 1,
    below: LightBlock | None = None,
    then: Weights | None = None,
    signers: Iterable[str] | None = None,
    **changed: Any,
) -> LightBlock:
    """A block of ``weights`` on top of ``below``, signed by all or by ``signers``; ``then`` vote for the next one."""
    validators = members(weights)
    height = height if below is None else below.height + 1
    fields: dict[str, Any] = {
        "block_version": BLOCK_PROTOCOL,
        "app_version": 1,
        "chain_id": CHAIN_ID,
        "height": height,
        "time": Time(START_S + BLOCK_S * height),
        "last_block_id": None if below is None else BlockId(header_hash(below.header), 1, EMPTY),
        "last_commit_hash": EMPTY,
        "data_hash": EMPTY,
        "validators_hash": validators_hash(validators),
        "next_validators_hash": validators_hash(members(then or weights)),
        "consensus_hash": EMPTY,
        "app_hash": sha256(str(height).encode()).digest(),
        "last_results_hash": EMPTY,
        "evidence_hash": EMPTY,
        "proposer": validators[0].address,
    }
    header = Header(**fields | changed)
    commit = signed_by(header, validators, weights if signers is None else signers)
    return LightBlock(header=header, commit=commit, validators=validators)


def chain(sets: Sequence[Weights]) -> dict[int, LightBlock]:
    """Blocks 1, 2, ... with these validator sets."""
    blocks: dict[int, LightBlock] = {}
    below: LightBlock | None = None
    for number, weights in enumerate(sets, start=1):
        below = block(weights, below=below, then=sets[min(number, len(sets) - 1)])
        blocks[number] = below
    return blocks
