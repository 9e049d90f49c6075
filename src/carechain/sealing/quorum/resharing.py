"""The same key in other hands: proactive resharing (Desmedt and Jajodia 1997; Wong, Wang and Wing 2002).

Every old holder deals its own share, as the value at zero of a fresh polynomial, to the new holders. t of these deals,
weighted as the old shares would be to give the key, sum up to a fresh polynomial with the same key at zero. Old and new
shares lie on different polynomials: together they give nothing.

The commitments are Feldman's: the first one must be the old holder's public key, so a dealer has nothing to choose that
could change the key.
"""

from collections.abc import Sequence

from carechain.core.group import ZERO, scalar_add, scalar_mul
from carechain.core.quorum import Complaint, check_feldman, lagrange
from carechain.sealing.quorum.dealing import CeremonyKey, Deal, Pair, Polynomial, Received, Recipient, seal_pairs

_USE = b"reshare"


def make_deal(
    seed: bytes, *, ceremony: bytes, threshold: int, share: bytes, dealer: int, recipients: Sequence[Recipient]
) -> Deal:
    """Deal the old ``share`` of the old index ``dealer`` to the new holders; ``threshold`` is the new one.

    Raises :class:`~carechain.core.group.BadElement` where the share is zero.
    """
    polynomial = Polynomial(seed, ceremony=ceremony, threshold=threshold, use=_USE, constant=share)
    return Deal(
        commitments=polynomial.images(),
        ciphertexts=seal_pairs(
            CeremonyKey(seed, ceremony=ceremony),
            dealer=dealer,
            recipients=recipients,
            pairs=((polynomial.value(one.index), ZERO) for one in recipients),
        ),
    )


def judge_deals(
    key: CeremonyKey, *, recipient: int, received: Sequence[Received]
) -> tuple[tuple[Pair, ...], tuple[Complaint, ...]]:
    """The pairs that fit, and a complaint about every dealer whose pair does not, in the order received."""
    pairs: list[Pair] = []
    complaints: list[Complaint] = []
    for one in received:
        opened = key.open(one, recipient=recipient)
        if opened is None or opened[1] != ZERO or not check_feldman(one.commitments, recipient, opened[0]):
            complaints.append(key.complain(one, recipient=recipient))
        else:
            pairs.append(Pair(dealer=one.dealer, value=opened[0], blind=opened[1]))
    return tuple(pairs), tuple(complaints)


def final_share(pairs: Sequence[Pair]) -> bytes:
    """This member's new share, from the pairs of exactly those dealers whose deals the ledger combines."""
    dealers = [pair.dealer for pair in pairs]
    share = ZERO
    for pair in pairs:
        share = scalar_add(share, scalar_mul(lagrange(dealers, pair.dealer), pair.value))
    return share
