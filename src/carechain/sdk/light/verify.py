"""Which header to believe, given one that is believed already: light client verification (LED-10).

Source: CometBFT 0.39, ``spec/light-client/verification``. The assumption is that of the chain itself: of the voting
power at a trusted header, less than a third belongs to organisations that lie within the trusting period. From one
trusted header the next is believed because the first one names its validators; one further up because more than a third
of the trusted power signed it, so at least one honest validator did. Where too few did, one between is tried first.

``advance`` and ``step_down`` are pure. ``walk`` is the whole way as a generator that yields the heights it wants to
see, so that callers with and without an event loop share it.
"""

from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Sequence

from msgspec import Struct

from carechain.core.crypto import BadSignature, Suite, verify
from carechain.core.limits import CLOCK_SKEW_S, LIGHT_BLOCKS, TRUSTING_PERIOD_S
from carechain.sdk.light.header import (
    BLOCK_PROTOCOL,
    LightBlock,
    Time,
    Validator,
    Validators,
    header_hash,
    validators_hash,
    vote_bytes,
)
from carechain.sdk.proofs import NotProven

Fetch = Callable[[int], LightBlock]
"""Gets the block of a height from somewhere; what it gives is believed only as far as it is proven."""
FetchAsync = Callable[[int], Awaitable[LightBlock]]
Walk = Generator[int, LightBlock, "TrustedHeader"]


class TrustExpired(NotProven):
    """The trusted header is older than the trusting period: get a newer one from somebody you trust."""


class TooFewSigned(NotProven):
    """Too little of the trusted voting power signed this header to believe it; one between may lead there."""


class Forked(NotProven):
    """Two headers of one height are both validly signed: a third of the voting power or more has lied.

    ``first`` and ``second`` prove it to anyone. Stop believing the chain and show both to the members.
    """

    def __init__(self, first: LightBlock, second: LightBlock) -> None:
        super().__init__(f"two different headers of height {first.height} are both validly signed")
        self.first = first
        self.second = second


class Rules(Struct, frozen=True, kw_only=True):
    """How old a trusted header may be, and how far ahead of this clock a block."""

    trusting_period_s: int = TRUSTING_PERIOD_S
    clock_drift_s: int = CLOCK_SKEW_S


DEFAULT_RULES = Rules()


class TrustedGenesis(Struct, frozen=True, kw_only=True):
    """Where trust begins without any block: the validators that the genesis names sign the first one."""

    chain_id: str
    time: Time
    validators: Validators

    @property
    def height(self) -> int:
        """The height before the first block's."""
        return 0

    @property
    def next_validators_hash(self) -> bytes:
        """What the first header must name as its validators."""
        return validators_hash(self.validators)


class TrustedHeader(Struct, frozen=True):
    """A block whose header is believed, with its commit checked. Only this package makes one."""

    block: LightBlock

    @property
    def chain_id(self) -> str:
        """The chain's name."""
        return self.block.header.chain_id

    @property
    def height(self) -> int:
        """The block's height."""
        return self.block.header.height

    @property
    def time(self) -> Time:
        """The block's time."""
        return self.block.header.time

    @property
    def hash(self) -> bytes:
        """The header's hash, which names the block."""
        return header_hash(self.block.header)

    @property
    def validators(self) -> Validators:
        """Who could vote for this block."""
        return self.block.validators

    @property
    def next_validators_hash(self) -> bytes:
        """Who can vote for the next one."""
        return self.block.header.next_validators_hash


Trusted = TrustedGenesis | TrustedHeader


def genesis_trust(*, chain_id: str, time_s: int, keys: Iterable[bytes]) -> TrustedGenesis:
    """Trust that begins with the genesis: its consensus keys (32 bytes, Ed25519), each with power 1, in any order.

    The trusting period counts from the genesis' time (Unix seconds): for an older chain start from a trust file.
    """
    validators = tuple(sorted((Validator(key, 1) for key in keys), key=lambda one: one.address))
    return TrustedGenesis(chain_id=chain_id, time=Time(time_s), validators=validators)


def pin(block: LightBlock, *, chain_id: str, height: int, expected_hash: bytes) -> TrustedHeader:
    """Trust that begins with a header hash heard elsewhere, as from an organisation's notice board.

    Raises :class:`NotProven` when the block is not the one of that hash or its commit does not hold.
    """
    if block.height != height or header_hash(block.header) != expected_hash:
        raise NotProven("this is not the block whose hash is trusted")
    verify_commit(block, chain_id=chain_id)
    return TrustedHeader(block)


# --- one block ------------------------------------------------------------------------------------------


def verify_commit(block: LightBlock, *, chain_id: str) -> frozenset[bytes]:
    """Check that more than two thirds of the block's own validators signed it; the keys of those that did.

    Whether those are the chain's validators is for :func:`advance` to say. Every signature is checked, and
    one that does not hold makes the block unbelievable, as no honest node hands such a commit on. Raises
    :class:`NotProven`.
    """
    _check_fits(block, chain_id)
    signers = frozenset(_signers(block))
    if 3 * _power(block.validators, signers) <= 2 * _power(block.validators):
        raise NotProven("two thirds of the voting power or less signed the block")
    return signers


def _check_fits(block: LightBlock, chain_id: str) -> None:
    """Header, commit and validators are of one block of this chain. No signature is looked at yet."""
    header, commit, validators = block.header, block.commit, block.validators
    if header.block_version != BLOCK_PROTOCOL:
        raise NotProven("the header's version is unknown")
    if header.chain_id != chain_id:
        raise NotProven("the header is of another network")
    if commit.height != header.height or commit.block_id.hash != header_hash(header):
        raise NotProven("the commit is for another block")
    if header.validators_hash != validators_hash(validators):
        raise NotProven("the validators are not those that the header names")
    if len({one.public_key for one in validators}) != len(validators):
        raise NotProven("a validator is there twice")
    if len(commit.signatures) != len(validators):
        raise NotProven("the commit has not one place per validator")


def _signers(block: LightBlock) -> Iterator[bytes]:
    """The key of each validator that signed the block, its signature checked."""
    for validator, signed in zip(block.validators, block.commit.signatures, strict=True):
        if signed is None:
            continue
        if signed.address != validator.address:
            raise NotProven("a vote stands in another validator's place")
        message = vote_bytes(block.header.chain_id, block.commit, signed.time)
        try:
            verify(suite=Suite.ED25519, public_key=validator.public_key, signature=signed.signature, message=message)
        except BadSignature:
            raise NotProven("a validator's signature does not hold") from None
        yield validator.public_key


def _power(validators: Validators, signers: frozenset[bytes] | None = None) -> int:
    """The voting power of those validators whose keys are among ``signers``; of all when it is None."""
    return sum(one.power for one in validators if signers is None or one.public_key in signers)


def advance(trusted: Trusted, candidate: LightBlock, *, now_s: int, rules: Rules = DEFAULT_RULES) -> TrustedHeader:
    """Believe a later header, or raise :class:`NotProven`; ``now_s`` is Unix time.

    :class:`TooFewSigned` means that a header between may lead to it, :class:`TrustExpired` that none will.
    """
    header = candidate.header
    if trusted.time.seconds + rules.trusting_period_s <= now_s:
        raise TrustExpired("the trusted header is too old to vouch for others")
    if header.height <= trusted.height:
        raise NotProven("the header is not above the trusted one")
    # The first block has the genesis' own time; every other one is later than the one before it.
    if header.time < trusted.time or (header.time == trusted.time and isinstance(trusted, TrustedHeader)):
        raise NotProven("block time does not go forward")
    if header.time.seconds >= now_s + rules.clock_drift_s:
        raise NotProven("the header is from the future")
    if header.height == trusted.height + 1:
        _check_follows(trusted, candidate)
        verify_commit(candidate, chain_id=trusted.chain_id)
    else:
        signers = verify_commit(candidate, chain_id=trusted.chain_id)
        if 3 * _power(trusted.validators, signers) <= _power(trusted.validators):
            raise TooFewSigned("a third of the trusted voting power or less signed the block")
    return TrustedHeader(candidate)


def _check_follows(trusted: Trusted, candidate: LightBlock) -> None:
    header = candidate.header
    if header.validators_hash != trusted.next_validators_hash:
        raise NotProven("the block's validators are not those that the one before it names")
    previous = None if header.last_block_id is None else header.last_block_id.hash
    if previous != (trusted.hash if isinstance(trusted, TrustedHeader) else None):
        raise NotProven("the block does not follow the trusted one")


def step_down(trusted: TrustedHeader, candidate: LightBlock) -> TrustedHeader:
    """Believe the header right below a trusted one, which has its hash; raises :class:`NotProven`.

    No trusting period applies: whoever believes a header believes what it was built on.
    """
    below = trusted.block.header.last_block_id
    header = candidate.header
    if below is None or header.height != trusted.height - 1 or header_hash(header) != below.hash:
        raise NotProven("the block is not the one below the trusted one")
    if header.time >= trusted.time:
        raise NotProven("block time does not go forward")
    verify_commit(candidate, chain_id=trusted.chain_id)
    return TrustedHeader(candidate)


# --- the way to a height --------------------------------------------------------------------------------


def walk(trusted: Trusted, target: int, *, now_s: int, rules: Rules = DEFAULT_RULES) -> Walk:
    """Yields heights, is sent their blocks, and returns the believed header of ``target``.

    Upward it tries the target first and halves the distance while too few signed; downward it goes block by block.
    Raises :class:`NotProven`, also when more than ``LIGHT_BLOCKS`` would be needed.
    """
    if target < 1:
        raise NotProven("there is no block at this height")
    if isinstance(trusted, TrustedHeader) and target <= trusted.height:
        return (yield from _walk_down(trusted, target))
    return (yield from _walk_up(trusted, target, now_s, rules))


def _walk_up(trusted: Trusted, target: int, now_s: int, rules: Rules) -> Walk:
    wanted = [(yield from _see(target))]
    fetched = 1
    while True:
        try:
            trusted = advance(trusted, wanted[-1], now_s=now_s, rules=rules)
        except TooFewSigned:
            if fetched == LIGHT_BLOCKS:
                raise NotProven("too many steps to this height: start from a later trusted header") from None
            # An adjacent header never has too few, so there is always a height between.
            wanted.append((yield from _see((trusted.height + wanted[-1].height) // 2)))
            fetched += 1
            continue
        wanted.pop()
        if not wanted:
            return trusted


def _walk_down(trusted: TrustedHeader, target: int) -> Walk:
    if trusted.height - target > LIGHT_BLOCKS:
        raise NotProven("too many steps to this height: start from an earlier trusted header")
    while trusted.height > target:
        trusted = step_down(trusted, (yield from _see(trusted.height - 1)))
    return trusted


def _see(height: int) -> Generator[int, LightBlock, LightBlock]:
    block = yield height
    if block.height != height:
        raise NotProven("the block is of another height than was asked for")
    return block


def catch_up(trusted: Trusted, target: int, fetch: Fetch, *, now_s: int, rules: Rules = DEFAULT_RULES) -> TrustedHeader:
    """The believed header of height ``target``; raises :class:`NotProven` and whatever ``fetch`` raises."""
    way = walk(trusted, target, now_s=now_s, rules=rules)
    block: LightBlock | None = None
    while True:
        try:
            height = next(way) if block is None else way.send(block)
        except StopIteration as arrived:
            return _believed(arrived)
        block = fetch(height)


async def catch_up_async(
    trusted: Trusted, target: int, fetch: FetchAsync, *, now_s: int, rules: Rules = DEFAULT_RULES
) -> TrustedHeader:
    """As :func:`catch_up`, where fetching is awaited."""
    way = walk(trusted, target, now_s=now_s, rules=rules)
    block: LightBlock | None = None
    while True:
        try:
            height = next(way) if block is None else way.send(block)
        except StopIteration as arrived:
            return _believed(arrived)
        block = await fetch(height)


def _believed(arrived: StopIteration) -> TrustedHeader:
    header = arrived.value
    if not isinstance(header, TrustedHeader):
        raise TypeError("the walk ended without a header")
    return header


def compare(believed: Sequence[TrustedHeader]) -> TrustedHeader:
    """The one header that several nodes led to from one trusted header; raises :class:`Forked` where there are two.

    Each must be the end of a :func:`catch_up` of its own. Raises :class:`NotProven` when there is none, or when they
    are of different heights.
    """
    if not believed:
        raise NotProven("nobody showed a header")
    first = believed[0]
    for other in believed[1:]:
        if other.height != first.height:
            raise NotProven("the headers are of different heights")
        if other.hash != first.hash:
            raise Forked(first.block, other.block)
    return first
