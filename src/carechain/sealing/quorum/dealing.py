"""What a key generation and a resharing have in common: one-ceremony keys, polynomials, and dealt pairs.

Everything secret of a ceremony follows from a 32-byte seed and the ceremony's id, so a member that crashed and starts
again sends the same bytes: two different deals under one key would use a pad twice.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Struct

from carechain.core.group import (
    GENERATOR,
    IDENTITY,
    ZERO,
    BadElement,
    base_mul,
    hash_to_scalar,
    mul,
    same,
    scalar_add,
    scalar_from_int,
    scalar_mul,
)
from carechain.core.quorum import (
    Complaint,
    KeyProof,
    complaint_context,
    join_context,
    mask_dealt,
    open_dealt,
    pad_of,
)
from carechain.sealing.quorum.proofs import prove_dleq, prove_key

SEED_SIZE: Final = 32


class Recipient(Struct, frozen=True, kw_only=True):
    """Who is dealt to: the index that it will hold, and its one-ceremony key."""

    index: int
    key: bytes


class Deal(Struct, frozen=True, kw_only=True):
    """What a dealer sends: the commitments, and one ciphertext for each recipient in the order they were given."""

    commitments: tuple[bytes, ...]
    ciphertexts: tuple[bytes, ...]


class Received(Struct, frozen=True, kw_only=True):
    """What one dealer sent to this member: the index of the dealer, its one-ceremony key, its word, the ciphertext."""

    dealer: int
    key: bytes
    commitments: tuple[bytes, ...]
    ciphertext: bytes


class Pair(Struct, frozen=True, kw_only=True):
    """A dealt pair, opened and found to fit: f(j) and f'(j). Secret; shows its dealer only."""

    dealer: int
    value: bytes
    blind: bytes

    def __repr__(self) -> str:
        return f"Pair(dealer={self.dealer})"


class CeremonyKey:
    """A member's key for one ceremony. Never printed, never compared, forgotten when the ceremony is over."""

    __slots__ = ("_ceremony", "_secret", "_seed", "public")

    def __init__(self, seed: bytes, *, ceremony: bytes) -> None:
        """Derive the key; raises ``ValueError`` when the seed is not 32 bytes long."""
        self._seed = require_seed(seed)
        self._ceremony = ceremony
        self._secret = hash_to_scalar("carechain/ceremony-key/1", seed, ceremony)
        self.public = base_mul(self._secret)

    def __repr__(self) -> str:
        return f"CeremonyKey(public={self.public.hex()})"

    def prove(self, party: bytes) -> KeyProof:
        """The proof that goes with the key when ``party`` joins."""
        context = join_context(ceremony=self._ceremony, party=party)
        return prove_key(self._secret, context=context, key=self.public, entropy=self._seed)

    def pad_to(self, recipient: Recipient, *, dealer: int) -> bytes:
        """The pad of the pair that this member deals as ``dealer``."""
        shared = mul(self._secret, recipient.key)
        return pad_of(ceremony=self._ceremony, dealer=dealer, recipient=recipient.index, shared=shared)

    def open(self, received: Received, *, recipient: int) -> tuple[bytes, bytes] | None:
        """The pair that was dealt to this member as ``recipient``, or None where it is not two scalars."""
        shared = mul(self._secret, received.key)
        pad = pad_of(ceremony=self._ceremony, dealer=received.dealer, recipient=recipient, shared=shared)
        return open_dealt(received.ciphertext, pad)

    def complain(self, received: Received, *, recipient: int) -> Complaint:
        """Open the pair of this dealer for everybody. What it dealt is then known; it was no secret to the liar."""
        shared = mul(self._secret, received.key)
        return Complaint(
            dealer=received.dealer,
            shared=shared,
            proof=prove_dleq(
                self._secret,
                context=complaint_context(ceremony=self._ceremony, dealer=received.dealer, recipient=recipient),
                base1=GENERATOR,
                value1=self.public,
                base2=received.key,
                value2=shared,
                entropy=self._seed,
            ),
        )


class Polynomial:
    """A secret polynomial of degree t - 1, from a seed. Never printed, never compared."""

    __slots__ = ("_coefficients",)

    def __init__(
        self, seed: bytes, *, ceremony: bytes, threshold: int, use: bytes, constant: bytes | None = None
    ) -> None:
        """``use`` keeps the polynomials of one seed apart; ``constant`` is the value at zero, if that is given.

        The constant enters every coefficient: with another constant the whole polynomial is another one, so that no
        two are ever known at the same points but for their difference.
        """
        require_seed(seed)
        given = b"" if constant is None else constant
        coefficients = [
            hash_to_scalar(
                "carechain/ceremony-polynomial/1", seed, ceremony, use, bytes([threshold]), bytes([power]), given
            )
            for power in range(threshold)
        ]
        if constant is not None:
            coefficients[0] = constant
        self._coefficients = tuple(coefficients)

    def __repr__(self) -> str:
        return f"Polynomial(degree={len(self._coefficients) - 1})"

    def value(self, index: int) -> bytes:
        """The value at ``index``, which is never zero: there lies the secret."""
        if index < 1:
            raise ValueError("shares are values at indices from 1 on")
        at, total = scalar_from_int(index), ZERO
        for coefficient in reversed(self._coefficients):
            total = scalar_add(scalar_mul(total, at), coefficient)
        return total

    def images(self, base: bytes = GENERATOR) -> tuple[bytes, ...]:
        """Every coefficient times ``base``; raises ``BadElement`` where one is zero."""
        return tuple(
            base_mul(coefficient) if base == GENERATOR else mul(coefficient, base) for coefficient in self._coefficients
        )


def require_seed(seed: bytes) -> bytes:
    """``seed`` if it is 32 bytes long; raises ``ValueError``."""
    if len(seed) != SEED_SIZE:
        raise ValueError("a ceremony's seed is 32 bytes")
    return seed


def seal_pairs(
    key: CeremonyKey, *, dealer: int, recipients: Sequence[Recipient], pairs: Iterable[tuple[bytes, bytes]]
) -> tuple[bytes, ...]:
    """Each pair under the pad of its recipient."""
    return tuple(
        mask_dealt(value + blind, key.pad_to(recipient, dealer=dealer))
        for recipient, (value, blind) in zip(recipients, pairs, strict=True)
    )


def share_fits(share: bytes, holder_key: bytes) -> bool:
    """Whether a final share is the one that the ledger computed the public key of."""
    try:
        return same(IDENTITY if share == ZERO else base_mul(share), holder_key)
    except BadElement:
        return False
