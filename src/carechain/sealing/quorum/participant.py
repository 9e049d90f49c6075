"""One organisation's part in a ceremony: what it has to say now, and the share that it holds in the end.

A pure function of what stands on the ledger and of the organisation's secrets. It remembers nothing, so a node that
crashed anywhere says the same again, and what it said before is not said twice because the ledger shows it.
"""

from collections.abc import Callable
from typing import Final

from msgspec import Struct

from carechain.contracts.keyring.rounds import combined_dealers, has_joined, rank_of
from carechain.contracts.keyring.schema import (
    Check,
    Deal,
    Expose,
    Exposure,
    Extract,
    Join,
    Judge,
    Phase,
    in_holders,
    number_of,
    numbers,
)
from carechain.contracts.keyring.views import CeremonyView
from carechain.core.message import Message
from carechain.core.quorum import Complaint
from carechain.sealing.quorum import dkg, resharing
from carechain.sealing.quorum.dealing import CeremonyKey, Pair, Received, Recipient, share_fits


class NotOurSecret(Exception):  # noqa: N818 - says what is wrong with the secret
    """The key that the organisation joined this ceremony with does not follow from the seed at hand.

    The seed was lost, or another copy of this home took part. The organisation gets no share in this ceremony, and
    says nothing more in it; the others finish without it.
    """


class Secrets(Struct, frozen=True, kw_only=True):
    """What one ceremony needs that nobody may see: the seed of it, and the share of the epoch that is shared anew.

    ``share`` is None in a key generation, and for who held no share before. Never printed, never compared.
    """

    seed: bytes
    share: bytes | None = None

    def __repr__(self) -> str:
        return "Secrets(…)"


class Participant:
    """One organisation in one ceremony, as the ledger shows it now."""

    def __init__(self, view: CeremonyView, *, party: bytes, secrets: Secrets) -> None:
        """``party`` is the organisation's id. Raises :class:`NotOurSecret`."""
        row = view.row
        self._view = view
        self._row = row
        self._party = party
        self._secrets = secrets
        self._dealer = next((index for index, one in view.dealers.items() if one == party), 0)
        self._holder = number_of(party, row.holders)
        self._key = CeremonyKey(secrets.seed, ceremony=view.ceremony)
        joined = view.joins.get(party)
        if joined is not None and joined != self._key.public:
            raise NotOurSecret

    @property
    def takes_part(self) -> bool:
        """Whether the ceremony names the organisation, as a dealer or as a holder to be."""
        return bool(self._dealer or self._holder)

    def next_message(self) -> Message | None:
        """What the organisation has to say in the present round, if it has not said it."""
        saying = _SAYINGS.get(self._row.phase)
        return None if saying is None or not self.takes_part else saying(self)

    def final_share(self) -> bytes | None:
        """The organisation's share of the epoch that the ceremony made, a 32-byte scalar.

        None where the ceremony made none, the organisation is no holder of it, or what it was dealt does not add up
        to the key that the ledger names: it was silent when it should have complained.
        """
        result = self._view.result
        own = None if result is None else result.holder(self._party)
        if own is None:
            return None
        generation = self._row.is_generation
        wanted = tuple(numbers(self._row.qualified))
        if not generation:
            wanted = combined_dealers(self._row, self._view.needed)
        pairs = [pair for pair in self._judged()[0] if pair.dealer in wanted]
        if len(pairs) != len(wanted):
            return None
        share = dkg.final_share(pairs) if generation else resharing.final_share(pairs)
        return share if share_fits(share, own.key) else None

    # --- what is said in each round -----------------------------------------------------------------------

    def _join(self) -> Message | None:
        if self._party in self._view.joins:
            return None
        if not self._holder and self._secrets.share is None:
            # An old holder that lost its share has nothing to deal, and was not asked to hold a new one.
            return None
        return Join(ceremony=self._view.ceremony, key=self._key.public, proof=self._key.prove(self._party))

    def _deal(self) -> Message | None:
        row, dealer = self._row, self._dealer
        if not dealer or not in_holders(dealer, row.joined_dealers & ~row.dealt):
            return None
        recipients = [
            Recipient(index=index, key=self._view.joins[row.holders[index - 1]])
            for index in numbers(row.joined_holders)
        ]
        seed, ceremony, share = self._secrets.seed, self._view.ceremony, self._secrets.share
        if row.is_generation:
            made = dkg.make_deal(seed, ceremony=ceremony, threshold=row.threshold, dealer=dealer, recipients=recipients)
        elif share is None:
            return None
        else:
            made = resharing.make_deal(
                seed, ceremony=ceremony, threshold=row.threshold, share=share, dealer=dealer, recipients=recipients
            )
        return Deal(ceremony=ceremony, commitments=made.commitments, shares=made.ciphertexts)

    def _judge(self) -> Message | None:
        if not has_joined(self._row, self._holder) or in_holders(self._holder, self._row.judged):
            return None
        return Judge(ceremony=self._view.ceremony, complaints=self._needed(self._judged()[1]))

    def _extract(self) -> Message | None:
        row, dealer = self._row, self._dealer
        if not dealer or not in_holders(dealer, row.qualified & ~row.extracted):
            return None
        commitments = dkg.extract(self._secrets.seed, ceremony=self._view.ceremony, threshold=row.threshold)
        return Extract(ceremony=self._view.ceremony, commitments=commitments)

    def _check(self) -> Message | None:
        if not has_joined(self._row, self._holder) or in_holders(self._holder, self._row.checked):
            return None
        complaints = dkg.check_extractions(
            self._key,
            recipient=self._holder,
            received=[one for one in self._received() if in_holders(one.dealer, self._row.extracted)],
            extracted={dealer: one.commitments for dealer, one in self._view.extractions.items()},
        )
        return Check(ceremony=self._view.ceremony, complaints=self._needed(complaints))

    def _expose(self) -> Message | None:
        if not has_joined(self._row, self._holder) or in_holders(self._holder, self._row.shown):
            return None
        shares = tuple(
            Exposure(dealer=pair.dealer, share=pair.value, blind=pair.blind)
            for pair in self._judged()[0]
            if in_holders(pair.dealer, self._row.exposed)
        )
        return Expose(ceremony=self._view.ceremony, shares=shares)

    def _needed(self, complaints: tuple[Complaint, ...]) -> tuple[Complaint, ...]:
        """Those about dealers that nobody has convicted yet.

        A complaint also opens what its sender dealt to the liar. Were everybody to complain of one, the share that it
        was to have would be there for all to see, and one fewer of the others would be enough to open something.
        """
        known = self._row.disqualified | self._row.exposed
        return tuple(one for one in complaints if not in_holders(one.dealer, known))

    # --- what was received --------------------------------------------------------------------------------

    def _received(self) -> list[Received]:
        """What every dealer sent to this organisation, by the dealers' numbers."""
        place = rank_of(self._row, self._holder)
        return [
            Received(
                dealer=dealer,
                key=self._view.joins[self._view.dealers[dealer]],
                commitments=deal.commitments,
                ciphertext=deal.shares[place],
            )
            for dealer, deal in sorted(self._view.deals.items())
        ]

    def _judged(self) -> tuple[tuple[Pair, ...], tuple[Complaint, ...]]:
        judged = dkg.judge_deals if self._row.is_generation else resharing.judge_deals
        return judged(self._key, recipient=self._holder, received=self._received())


_SAYINGS: Final[dict[Phase, Callable[[Participant], Message | None]]] = {
    Phase.JOIN: Participant._join,  # noqa: SLF001 - the class's own table
    Phase.DEAL: Participant._deal,  # noqa: SLF001
    Phase.JUDGE: Participant._judge,  # noqa: SLF001
    Phase.EXTRACT: Participant._extract,  # noqa: SLF001
    Phase.CHECK: Participant._check,  # noqa: SLF001
    Phase.EXPOSE: Participant._expose,  # noqa: SLF001
}
