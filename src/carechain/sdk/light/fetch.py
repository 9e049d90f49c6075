"""Light blocks out of CometBFT's RPC: what a node relays as ``GET /v1/light/{height}`` (LED-10).

The RPC answers JSON with numbers and hashes as text. It is read with types and bounds; what fits is turned into the
bytes of :func:`~carechain.sdk.light.header.encode_block` and read back by the same strict decoder that clients use, so
there is one place that says what a light block may be. Everything else raises ``NotProven``.
"""

import re
from collections.abc import Sequence
from datetime import date
from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import Meta, Struct

from carechain.core.limits import LIGHT_JSON_BYTES, LIGHT_VALIDATORS
from carechain.core.units import DAY_S
from carechain.sdk.light.header import (
    BlockId,
    Commit,
    Header,
    LightBlock,
    Signed,
    Time,
    Validator,
    decode_block,
    encode_block,
)
from carechain.sdk.proofs import NotProven

PAGE_VALIDATORS: Final = 100
"""The most that ``/validators`` puts on one page."""

_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()
_FOR_THE_BLOCK: Final = 2
_RFC3339: Final = re.compile(r"(\d{4})-(\d\d)-(\d\d)T([01]\d|2[0-3]):([0-5]\d):([0-5]\d)(?:\.(\d{1,9}))?Z\Z", re.ASCII)

Hex = Annotated[str, Meta(pattern=r"^(?:[0-9A-Fa-f]{2}){0,32}\Z")]
Number = Annotated[str, Meta(pattern=r"^(?:0|[1-9][0-9]{0,18})\Z")]
"""An int64, which the RPC writes as text."""
Flag = Annotated[int, Meta(ge=1, le=3)]
"""1 absent, 2 for the block, 3 for no block."""

T = TypeVar("T")


class _Version(Struct):
    block: Number
    app: Number = "0"


class _Parts(Struct):
    total: int
    hash: Hex


class _BlockId(Struct):
    hash: Hex
    parts: _Parts


class _Header(Struct):
    version: _Version
    chain_id: str
    height: Number
    time: str
    last_block_id: _BlockId
    last_commit_hash: Hex
    data_hash: Hex
    validators_hash: Hex
    next_validators_hash: Hex
    consensus_hash: Hex
    app_hash: Hex
    last_results_hash: Hex
    evidence_hash: Hex
    proposer_address: Hex


class _Signature(Struct):
    block_id_flag: Flag
    validator_address: Hex
    timestamp: str
    signature: bytes | None


class _Commit(Struct):
    height: Number
    round: int
    block_id: _BlockId
    signatures: Annotated[list[_Signature], Meta(max_length=LIGHT_VALIDATORS)]


class _SignedHeader(Struct):
    header: _Header
    commit: _Commit


class _CommitResult(Struct):
    signed_header: _SignedHeader


class _CommitAnswer(Struct):
    result: _CommitResult


class _PublicKey(Struct, tag_field="type", tag="tendermint/PubKeyEd25519"):
    value: bytes


class _Validator(Struct):
    pub_key: _PublicKey
    voting_power: Number


class _ValidatorsResult(Struct):
    block_height: Number
    total: Number
    validators: Annotated[list[_Validator], Meta(max_length=PAGE_VALIDATORS)]


class _ValidatorsAnswer(Struct):
    result: _ValidatorsResult


_commits = msgspec.json.Decoder(_CommitAnswer)
_validators = msgspec.json.Decoder(_ValidatorsAnswer)


def pages_of(validators_json: bytes) -> int:
    """How many pages of ``/validators?per_page=100`` there are, from the first of them; raises :class:`NotProven`."""
    total = int(_decode(_validators, validators_json).result.total)
    if not 1 <= total <= LIGHT_VALIDATORS:
        raise NotProven("the engine's number of validators is out of bounds")
    return -(-total // PAGE_VALIDATORS)


def make_answer(commit_json: bytes, validators_json: Sequence[bytes]) -> bytes:
    """What a node answers for a height: ``/commit`` and all pages of ``/validators`` in compact form.

    Raises :class:`NotProven` when they do not fit. Nothing is verified: clients do that.
    """
    signed = _decode(_commits, commit_json).result.signed_header
    validators: list[Validator] = []
    total = 0
    if len(validators_json) > -(-LIGHT_VALIDATORS // PAGE_VALIDATORS):
        raise NotProven("the engine's answer has too many pages")
    for page in validators_json:
        result = _decode(_validators, page).result
        if result.block_height != signed.header.height:
            raise NotProven("the engine's validators are of another height than its commit")
        total = int(result.total)
        validators += [Validator(one.pub_key.value, int(one.voting_power)) for one in result.validators]
    if total != len(validators):
        raise NotProven("a page of the engine's validators is missing")
    block = LightBlock(header=_header(signed.header), commit=_commit(signed.commit), validators=tuple(validators))
    try:
        data = encode_block(block)
    except (OverflowError, UnicodeEncodeError):
        raise NotProven("the engine's answer has a number or text out of bounds") from None
    decode_block(data)
    return data


def read_rpc(commit_json: bytes, validators_json: Sequence[bytes]) -> LightBlock:
    """The light block that the engine's own answers make, for clients beside an engine; raises :class:`NotProven`."""
    return decode_block(make_answer(commit_json, validators_json))


def _decode(decoder: "msgspec.json.Decoder[T]", data: bytes) -> T:
    if len(data) > LIGHT_JSON_BYTES:
        raise NotProven("the engine's answer is too large")
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise NotProven("the engine's answer is malformed, or has no such block") from None


def _header(shown: _Header) -> Header:
    return Header(
        block_version=int(shown.version.block),
        app_version=int(shown.version.app),
        chain_id=shown.chain_id,
        height=int(shown.height),
        time=read_time(shown.time),
        last_block_id=_last_block_id(shown.last_block_id),
        last_commit_hash=bytes.fromhex(shown.last_commit_hash),
        data_hash=bytes.fromhex(shown.data_hash),
        validators_hash=bytes.fromhex(shown.validators_hash),
        next_validators_hash=bytes.fromhex(shown.next_validators_hash),
        consensus_hash=bytes.fromhex(shown.consensus_hash),
        app_hash=bytes.fromhex(shown.app_hash),
        last_results_hash=bytes.fromhex(shown.last_results_hash),
        evidence_hash=bytes.fromhex(shown.evidence_hash),
        proposer=bytes.fromhex(shown.proposer_address),
    )


def _commit(shown: _Commit) -> Commit:
    return Commit(
        height=int(shown.height),
        round=shown.round,
        block_id=_block_id(shown.block_id),
        signatures=tuple(_signed(one) for one in shown.signatures),
    )


def _signed(shown: _Signature) -> Signed | None:
    """A vote for the block. Absence and a vote for no block count alike, for nothing."""
    if shown.block_id_flag != _FOR_THE_BLOCK:
        return None
    return Signed(bytes.fromhex(shown.validator_address), read_time(shown.timestamp), shown.signature or b"")


def _last_block_id(shown: _BlockId) -> BlockId | None:
    empty = not shown.hash and not shown.parts.total and not shown.parts.hash
    return None if empty else _block_id(shown)


def _block_id(shown: _BlockId) -> BlockId:
    return BlockId(bytes.fromhex(shown.hash), shown.parts.total, bytes.fromhex(shown.parts.hash))


def read_time(text: str) -> Time:
    """A UTC time of RFC 3339 with up to nine decimals, to the nanosecond; raises :class:`NotProven`."""
    found = _RFC3339.match(text)
    if found is None:
        raise NotProven("a time is malformed")
    year, month, day, hour, minute, second = (int(part) for part in found.groups()[:6])
    try:
        days = date(year, month, day).toordinal() - _EPOCH_DAY
    except ValueError:
        raise NotProven("there is no such day") from None
    seconds = days * DAY_S + hour * 3600 + minute * 60 + second
    return Time(seconds, int((found[7] or "").ljust(9, "0")))
