"""A key that nobody ever held: distributed key generation (Gennaro, Jarecki, Krawczyk and Rabin 2007).

Every member deals a random polynomial under Pedersen commitments, which say nothing about it; only when it is settled
whose polynomials count are their public parts shown. So nobody can choose its part of the key by what it saw of the
others'. The functions take what stands on the ledger as plain values; the rounds are the ledger's.
"""

from collections.abc import Sequence

from carechain.core.group import SECOND, ZERO, add, scalar_add
from carechain.core.quorum import Complaint, check_feldman, check_pedersen
from carechain.sealing.quorum.dealing import CeremonyKey, Deal, Pair, Polynomial, Received, Recipient, seal_pairs

_VALUE = b"value"
_BLIND = b"blind"


def make_deal(seed: bytes, *, ceremony: bytes, threshold: int, dealer: int, recipients: Sequence[Recipient]) -> Deal:
    """The deal of this member as ``dealer``: Pedersen commitments, and a pair for everyone, itself included."""
    value = Polynomial(seed, ceremony=ceremony, threshold=threshold, use=_VALUE)
    blind = Polynomial(seed, ceremony=ceremony, threshold=threshold, use=_BLIND)
    return Deal(
        commitments=tuple(add(a, b) for a, b in zip(value.images(), blind.images(SECOND), strict=True)),
        ciphertexts=seal_pairs(
            CeremonyKey(seed, ceremony=ceremony),
            dealer=dealer,
            recipients=recipients,
            pairs=((value.value(one.index), blind.value(one.index)) for one in recipients),
        ),
    )


def judge_deals(
    key: CeremonyKey, *, recipient: int, received: Sequence[Received]
) -> tuple[tuple[Pair, ...], tuple[Complaint, ...]]:
    """The pairs that fit, and a complaint about every dealer whose pair does not, in the order received.

    ``recipient`` is this member's index. The commitments went through ``require_commitments``.
    """
    pairs: list[Pair] = []
    complaints: list[Complaint] = []
    for one in received:
        opened = key.open(one, recipient=recipient)
        if opened is None or not check_pedersen(one.commitments, recipient, *opened):
            complaints.append(key.complain(one, recipient=recipient))
        else:
            pairs.append(Pair(dealer=one.dealer, value=opened[0], blind=opened[1]))
    return tuple(pairs), tuple(complaints)


def extract(seed: bytes, *, ceremony: bytes, threshold: int) -> tuple[bytes, ...]:
    """The public part of this member's polynomial: Feldman commitments, the first one its part of the key."""
    return Polynomial(seed, ceremony=ceremony, threshold=threshold, use=_VALUE).images()


def check_extractions(
    key: CeremonyKey,
    *,
    recipient: int,
    received: Sequence[Received],
    extracted: dict[int, tuple[bytes, ...]],
) -> tuple[Complaint, ...]:
    """A complaint about every dealer that showed the public part of another polynomial than it had dealt.

    ``extracted`` is by the dealer's index; who is not in it fell silent and is exposed without a complaint.
    """
    pairs, _ = judge_deals(key, recipient=recipient, received=[one for one in received if one.dealer in extracted])
    false = {pair.dealer: None for pair in pairs if not check_feldman(extracted[pair.dealer], recipient, pair.value)}
    return tuple(key.complain(one, recipient=recipient) for one in received if one.dealer in false)


def final_share(pairs: Sequence[Pair]) -> bytes:
    """The sum of what the qualified dealers sent: this member's share of the key. Pass exactly theirs."""
    share = ZERO
    for pair in pairs:
        share = scalar_add(share, pair.value)
    return share
