"""The parts of a CometBFT block that a light client checks: header, commit, validators, and the bytes under each hash.

Source: CometBFT 0.39, ``spec/core/data_structures.md`` and ``spec/core/encoding.md``. What is hashed and signed there
is protobuf; the few fields are written here by hand, so a client that only verifies needs no protobuf library. Its
Merkle tree splits at the largest power of two below the count, as in RFC 6962, so :mod:`carechain.core.merkle` serves.

Blocks travel as canonical msgpack of :class:`LightBlock` (``decode_block``): positional, bounded, in one form only.
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from carechain.core import merkle
from carechain.core.codec import Malformed, decode_strict, encode
from carechain.core.evidence import ADDRESS_SIZE, Address
from carechain.core.hashing import HASH_SIZE, digest
from carechain.core.ids import U32, U63, Hash
from carechain.core.limits import CHAIN_ID_CHARS, LIGHT_BLOCK_BYTES, LIGHT_VALIDATORS, SIGNATURE_SIZE
from carechain.sdk.proofs import NotProven

BLOCK_PROTOCOL: Final = 11
"""The version of block structures that this file knows; CometBFT 0.34 to 0.39 have it."""
MAX_SECONDS: Final = 253_402_300_799
"""The last second of the year 9999, the end of protobuf's timestamps."""
_PRECOMMIT: Final = 2
_VARINT: Final = 0
_FIXED64: Final = 1
_BYTES: Final = 2

AppHash = Annotated[bytes, Meta(max_length=HASH_SIZE)]
"""CometBFT leaves its length to the application; carechain's is 32 bytes."""
Power = Annotated[int, Meta(ge=1, le=(1 << 60) - 1)]
"""Voting power of one validator: CometBFT bounds the sum of a set by an eighth of the largest int64."""
PublicKey = Hash
"""An Ed25519 consensus key."""


class Time(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, order=True):
    """Unix time as it is signed: seconds, and nanoseconds of the second."""

    seconds: Annotated[int, Meta(ge=0, le=MAX_SECONDS)]
    nanos: Annotated[int, Meta(ge=0, lt=1_000_000_000)] = 0


class BlockId(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a vote is for: the header's hash, and the number and Merkle root of the parts the block was sent in."""

    hash: Hash
    parts: U32
    parts_hash: Hash


class Header(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """The header of block ``height``: fields in the order in which CometBFT hashes them.

    ``app_hash`` and ``last_results_hash`` are those *after* block ``height - 1``. ``last_block_id`` is None at the
    first block.
    """

    block_version: U63
    app_version: U63
    chain_id: Annotated[str, Meta(min_length=1, max_length=CHAIN_ID_CHARS)]
    height: Annotated[int, Meta(ge=1, le=(1 << 63) - 1)]
    time: Time
    last_block_id: BlockId | None
    last_commit_hash: Hash
    data_hash: Hash
    validators_hash: Hash
    next_validators_hash: Hash
    consensus_hash: Hash
    app_hash: AppHash
    last_results_hash: Hash
    evidence_hash: Hash
    proposer: Address


class Signed(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One validator's precommit for the block. The time in it is its own, so every validator signs other bytes."""

    address: Address
    time: Time
    signature: Annotated[bytes, Meta(min_length=SIGNATURE_SIZE, max_length=SIGNATURE_SIZE)]


class Commit(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """Why a block counts: one place per validator, in the order of the set.

    A place is None where the validator was absent or voted for no block; neither counts for this one.
    """

    height: U63
    round: Annotated[int, Meta(ge=0, le=(1 << 31) - 1)]
    block_id: BlockId
    signatures: Annotated[tuple[Signed | None, ...], Meta(min_length=1, max_length=LIGHT_VALIDATORS)]


class Validator(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A consensus key and how much its vote weighs."""

    public_key: PublicKey
    power: Power

    @property
    def address(self) -> bytes:
        """How commits name it: the first 20 bytes of the key's SHA-256."""
        return digest(self.public_key)[:ADDRESS_SIZE]


Validators = tuple[Validator, ...]
"""A validator set, by falling power and then by address: the order is part of its hash."""


class LightBlock(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """All that is needed to check one header: itself, the votes for it, and who may vote at its height."""

    header: Header
    commit: Commit
    validators: Annotated[Validators, Meta(min_length=1, max_length=LIGHT_VALIDATORS)]

    @property
    def height(self) -> int:
        """The block's height."""
        return self.header.height


_blocks = msgspec.msgpack.Decoder(LightBlock)


def encode_block(block: LightBlock) -> bytes:
    """The canonical bytes: what ``GET /v1/light/{height}`` answers."""
    return encode(block)


def decode_block(data: bytes) -> LightBlock:
    """The inverse, for any bytes; raises :class:`NotProven`. That it is well formed says nothing of its truth."""
    if len(data) > LIGHT_BLOCK_BYTES:
        raise NotProven("the light block is too large")
    try:
        return decode_strict(_blocks, data)
    except Malformed:
        raise NotProven("the light block is malformed") from None


# --- hashes ---------------------------------------------------------------------------------------------


def header_hash(header: Header) -> bytes:
    """The block's hash: the Merkle root over the encoded fields, an empty field being an empty leaf."""
    version = _number(1, header.block_version) + _number(2, header.app_version)
    return _root(
        version,
        _data(1, header.chain_id.encode()),
        _number(1, header.height),
        _timestamp(header.time),
        _message(2, b"") if header.last_block_id is None else _block_id(header.last_block_id),
        _data(1, header.last_commit_hash),
        _data(1, header.data_hash),
        _data(1, header.validators_hash),
        _data(1, header.next_validators_hash),
        _data(1, header.consensus_hash),
        _data(1, header.app_hash),
        _data(1, header.last_results_hash),
        _data(1, header.evidence_hash),
        _data(1, header.proposer),
    )


def validators_hash(validators: Validators) -> bytes:
    """The Merkle root over key and power of each validator, in the order of the set."""
    return _root(*(_message(1, _data(1, one.public_key)) + _number(2, one.power) for one in validators))


def vote_bytes(chain_id: str, commit: Commit, time: Time) -> bytes:
    """What a validator signed for this commit: CanonicalVote, with its length before it.

    Height and round are of fixed width there, so no two different votes share a beginning by accident of length.
    """
    vote = (
        _number(1, _PRECOMMIT)
        + _fixed(2, commit.height)
        + _fixed(3, commit.round)
        + _message(4, _block_id(commit.block_id))
        + _message(5, _timestamp(time))
        + _data(6, chain_id.encode())
    )
    return _varint(len(vote)) + vote


def result_leaf(*, code: int, data: bytes) -> bytes:
    """The bytes of one result under ``last_results_hash``: code and data of ExecTxResult. carechain uses no gas."""
    return _number(1, code) + _data(2, data)


def _root(*leaves: bytes) -> bytes:
    return merkle.root([merkle.leaf_hash(leaf) for leaf in leaves])


# --- protobuf, as much of it as there is here -----------------------------------------------------------
# A field with the value zero, or without bytes, is not written; a message that must be there is, even if empty.


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:  # noqa: PLR2004 - seven bits to the byte, the eighth says that more follow
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _key(field: int, wire: int) -> bytes:
    return _varint(field << 3 | wire)


def _number(field: int, value: int) -> bytes:
    return _key(field, _VARINT) + _varint(value) if value else b""


def _fixed(field: int, value: int) -> bytes:
    return _key(field, _FIXED64) + value.to_bytes(8, "little") if value else b""


def _data(field: int, value: bytes) -> bytes:
    return _message(field, value) if value else b""


def _message(field: int, body: bytes) -> bytes:
    return _key(field, _BYTES) + _varint(len(body)) + body


def _timestamp(time: Time) -> bytes:
    return _number(1, time.seconds) + _number(2, time.nanos)


def _block_id(block_id: BlockId) -> bytes:
    parts = _number(1, block_id.parts) + _data(2, block_id.parts_hash)
    return _data(1, block_id.hash) + _message(2, parts)
