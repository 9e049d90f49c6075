"""Keyring, what everything else builds on: codes, messages, events, tables, and masks of holders."""

from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import Annotated, Final

from msgspec import Meta

from carechain.core.binding import Signature
from carechain.core.group import Point, Scalar
from carechain.core.ids import U8, U32, U63, Hash, Id, PartyId, TicketId
from carechain.core.limits import KEYHOLDERS
from carechain.core.message import Event, Message, Row
from carechain.core.quorum import Complaint, Dealt, KeyProof, ShareStatement
from carechain.core.rejection import RejectionCode
from carechain.state.overlay import Overlay
from carechain.state.table import TableSpec

CeremonyId = Id
HolderIndex = Annotated[int, Meta(ge=1, le=KEYHOLDERS)]
"""A holder's number: where its polynomial share is evaluated. Zero is where the key itself lies."""
Epoch = U32
HolderMask = Annotated[int, Meta(ge=0, lt=1 << KEYHOLDERS)]
"""A set of holders: bit n - 1 stands for number n."""
Points = Annotated[tuple[Point, ...], Meta(min_length=1, max_length=KEYHOLDERS)]
Complaints = Annotated[tuple[Complaint, ...], Meta(max_length=KEYHOLDERS)]

MIN_THRESHOLD: Final = 2
"""With one share enough, one organisation alone could open everything."""


# --- codes ----------------------------------------------------------------------------------------------


class KeyringCode(RejectionCode):
    """Why a step of a ceremony, a choice of keyholders or an accusation is rejected."""

    HOLDERS_INVALID = 1801, "Keyholders are 2 to 32 members, each named once, sorted by id."
    THRESHOLD_DOES_NOT_FIT = 1802, "Of n holders, a third (less one) may fail: choose a threshold that allows for it."
    ROUND_OUT_OF_RANGE = 1803, "A round of a ceremony lasts 5 seconds to 7 days."
    CEREMONY_UNDER_WAY = 1804, "A ceremony is under way. Wait for its end."
    KEY_NEEDS_HOLDER = 1805, "Too few keyholders would remain. Vote for keyholders without it first, then remove it."
    CEREMONY_NOT_FOUND = 1806, "No such ceremony is under way."
    WRONG_ROUND = 1807, "The ceremony is in another round."
    NOT_IN_THIS_CEREMONY = (
        1808,
        "Only a member's own key takes part, and only where the vote or the last epoch names it.",
    )
    ALREADY_SPOKEN = 1809, "Your organisation has spoken in this round."
    SIZE_WRONG = 1810, "Commit to as many coefficients as the threshold, and deal one pair to each holder that joined."
    COMPLAINTS_INVALID = 1811, "Complain once about each dealer, in order of their numbers, and only about dealers."
    EXPOSURES_INVALID = 1812, "Show at most one pair of each exposed dealer, in order of their numbers."
    POINT_INVALID = 1813, "A point or a scalar is not in the one encoding that the group has."
    KEY_PROOF_INVALID = 1814, "The proof does not show that you hold this ceremony key."
    DEAL_OF_ANOTHER_SHARE = 1815, "The deal does not share your own share of the present epoch."
    EXPOSED_PAIR_WRONG = 1816, "The pair does not fit what the dealer committed to."
    ROUND_STILL_OPEN = 1817, "The round has time left."
    HOLDER_UNKNOWN = 1818, "No holder of that epoch has this number."
    STATEMENT_NOT_SIGNED = 1819, "The holder's member key did not sign this statement."
    SHARE_IS_SOUND = 1820, "The share holds: nobody has done anything wrong."
    ALREADY_CAUGHT = 1821, "The ledger has proof against this holder for this epoch already."
    NOT_A_HOLDER = 1822, "Your organisation is no holder of the present epoch, or counts as one no longer."


# --- messages -------------------------------------------------------------------------------------------


class Join(Message, frozen=True, tag="keyring.join"):
    """Take part in a ceremony with a key made for it alone, and the proof that its secret is known."""

    ceremony: CeremonyId
    key: Point
    proof: KeyProof


class Deal(Message, frozen=True, tag="keyring.deal"):
    """Deal shares of a secret: commitments to the polynomial, and one encrypted pair for everyone who joined.

    In a key generation the commitments are Pedersen's and hide everything. In a resharing they are Feldman's, and the
    first one is the public key of the dealer's present share.
    """

    ceremony: CeremonyId
    commitments: Points
    shares: Annotated[tuple[Dealt, ...], Meta(min_length=1, max_length=KEYHOLDERS)]


class Judge(Message, frozen=True, tag="keyring.judge"):
    """Say which dealers dealt badly, with the proof that opens the one pair each complaint is about; empty: none."""

    ceremony: CeremonyId
    complaints: Complaints


class Extract(Message, frozen=True, tag="keyring.extract"):
    """Show the public part of the dealt secret: Feldman's commitments to the same polynomial."""

    ceremony: CeremonyId
    commitments: Points


class Check(Message, frozen=True, tag="keyring.check"):
    """Say which dealers showed the public part of another polynomial than they dealt, with the same proof; or none."""

    ceremony: CeremonyId
    complaints: Complaints


class Exposure(Row, frozen=True):
    """The pair that an exposed dealer had dealt to the sender, for everybody to see."""

    dealer: HolderIndex
    share: Scalar
    blind: Scalar


class Expose(Message, frozen=True, tag="keyring.expose"):
    """Show what exposed dealers dealt, so that their part of the key is computed without them."""

    ceremony: CeremonyId
    shares: Annotated[tuple[Exposure, ...], Meta(max_length=KEYHOLDERS)]


class CloseRound(Message, frozen=True, tag="keyring.close_round"):
    """Close a round whose time is over; those who have not spoken count as silent."""

    ceremony: CeremonyId


class LoseShare(Message, frozen=True, tag="keyring.lose_share"):
    """Say that the sender's share of the present epoch is lost, so that nobody counts on it any more."""

    epoch: Epoch


class Accuse(Message, frozen=True, tag="keyring.accuse"):
    """Show a release share that a holder signed and that does not hold: the holder is named for good."""

    statement: ShareStatement
    signature: Signature


# --- events ---------------------------------------------------------------------------------------------


class Phase(IntEnum):
    """Where a ceremony is. Data: see ``CEREMONY_TRANSITIONS``."""

    JOIN = 1
    DEAL = 2
    JUDGE = 3
    EXTRACT = 4
    CHECK = 5
    EXPOSE = 6
    DONE = 7
    FAILED = 8


class Misdeed(IntEnum):
    """What a holder was caught at. Each is proved by what stands on the ledger."""

    BAD_SHARE = 1
    BAD_DEAL = 2
    FALSE_COMPLAINT = 3
    BAD_EXTRACTION = 4


class CeremonyOpened(Event, frozen=True, tag="keyring.ceremony_opened"):
    """The members voted for keyholders: a ceremony has begun, to make the key's next epoch."""

    ceremony: CeremonyId
    epoch: Epoch


class RoundOpened(Event, frozen=True, tag="keyring.round_opened"):
    """A ceremony goes on with this round."""

    ceremony: CeremonyId
    phase: Phase


class Convicted(Event, frozen=True, tag="keyring.convicted"):
    """A participant was caught lying in a ceremony; what it takes to be sure stands on the ledger."""

    ceremony: CeremonyId
    party: PartyId
    misdeed: Misdeed


class CeremonyDone(Event, frozen=True, tag="keyring.ceremony_done"):
    """The key's new epoch is in force."""

    ceremony: CeremonyId
    epoch: Epoch


class CeremonyFailed(Event, frozen=True, tag="keyring.ceremony_failed"):
    """Too few took part honestly to finish; the epoch before stays in force. Vote again."""

    ceremony: CeremonyId
    phase: Phase


class HolderCaught(Event, frozen=True, tag="keyring.holder_caught"):
    """A holder answered a ticket with a share that does not hold."""

    holder: PartyId
    epoch: Epoch
    ticket: TicketId


class HolderLeft(Event, frozen=True, tag="keyring.holder_left"):
    """A keyholder is a member no more, or has lost its share: it counts no longer. Vote for keyholders anew soon."""

    holder: PartyId
    epoch: Epoch


# --- tables ---------------------------------------------------------------------------------------------


class CeremonyKind(IntEnum):
    """What a ceremony is for."""

    GENERATION = 1
    RESHARING = 2


CEREMONY_TRANSITIONS: Final = (
    ("join", "all have joined, or time", "deal"),
    ("deal", "all have dealt, or time", "judge"),
    ("judge", "generation: all have judged, or time", "extract"),
    ("judge", "resharing: all have judged, or time", "done"),
    ("extract", "all have extracted, or time", "check"),
    ("check", "all have checked, or time: nobody exposed", "done"),
    ("check", "all have checked, or time: somebody exposed", "expose"),
    ("expose", "enough pairs of every exposed dealer", "done"),
    ("any round", "too few are left", "failed"),
)
"""The life of a ceremony."""


class Holder(Row, frozen=True):
    """A keyholder of an epoch; ``key`` is the public key of its share.

    ``left_s`` 0: it counts still, as a member that has its share.
    """

    party: PartyId
    index: HolderIndex
    key: Point
    left_s: U63 = 0


class KeyRow(Row, frozen=True):
    """The consortium's public key in one epoch, and who holds its shares; ``threshold`` of them open something."""

    epoch: Epoch
    public_key: Point
    threshold: U8
    holders: Annotated[tuple[Holder, ...], Meta(max_length=KEYHOLDERS)]
    since_s: U63
    since_height: U63

    def holder(self, party: bytes) -> Holder | None:
        """The organisation as a holder of this epoch, unless it left the consortium."""
        return next((one for one in self.holders if one.party == party and not one.left_s), None)

    def numbered(self, index: int) -> Holder | None:
        """The holder with this number, also one that has left."""
        return next((one for one in self.holders if one.index == index), None)

    @property
    def live(self) -> int:
        """How many holders are members still."""
        return sum(1 for one in self.holders if not one.left_s)


class CurrentRow(Row, frozen=True):
    """The epoch in force."""

    epoch: Epoch


class CeremonyRow(Row, frozen=True, kw_only=True):
    """A ceremony: who may hold shares (number = place in ``holders``, from 1), and who did what as masks.

    In a resharing the dealers are the holders of ``from_epoch``, with their numbers there; in a generation (0) dealers
    and holders are the same. ``left_*`` stopped being members, ``struck`` were caught lying and become no holders,
    ``qualified`` dealt soundly, ``exposed`` have their part computed by the others. ``closed`` has the height at which
    each round closed. ``ended_in`` is the round in which a ceremony failed.
    """

    kind: CeremonyKind
    epoch: Epoch
    from_epoch: Epoch
    threshold: U8
    holders: Annotated[tuple[PartyId, ...], Meta(max_length=KEYHOLDERS)]
    round_s: U32
    opened_s: U63
    phase: Phase
    round_opened_s: U63
    closed: Annotated[tuple[U63, ...], Meta(max_length=len(Phase))] = ()
    ended_in: U8 = 0
    joined_holders: HolderMask = 0
    joined_dealers: HolderMask = 0
    left_holders: HolderMask = 0
    left_dealers: HolderMask = 0
    dealt: HolderMask = 0
    judged: HolderMask = 0
    disqualified: HolderMask = 0
    struck: HolderMask = 0
    qualified: HolderMask = 0
    extracted: HolderMask = 0
    checked: HolderMask = 0
    exposed: HolderMask = 0
    shown: HolderMask = 0

    @property
    def is_open(self) -> bool:
        """Whether the ceremony goes on."""
        return self.phase not in (Phase.DONE, Phase.FAILED)

    @property
    def is_generation(self) -> bool:
        """Whether the key is made now, and not only shared anew."""
        return self.kind is CeremonyKind.GENERATION


class JoinRow(Row, frozen=True):
    """A participant's key for this ceremony."""

    key: Point


class DealRow(Row, frozen=True):
    """What a dealer committed to, and its encrypted pairs in the order of those who joined as holders."""

    commitments: Points
    shares: Annotated[tuple[Dealt, ...], Meta(max_length=KEYHOLDERS)]


class JudgementRow(Row, frozen=True):
    """About whom a holder complained in a round, and which of these complaints held."""

    about: HolderMask
    held: HolderMask


class ExtractionRow(Row, frozen=True):
    """The public part of what a dealer dealt; ``reconstructed`` where the others computed it."""

    commitments: Points
    reconstructed: bool = False


class ExposureRow(Row, frozen=True):
    """A pair of an exposed dealer, shown by whom it was dealt to."""

    share: Scalar
    blind: Scalar


class MisdeedRow(Row, frozen=True):
    """What a holder was caught at, and when; ``about`` is the ticket, or the ceremony."""

    about: Hash
    at_s: U63
    height: U63


KEYS: Final = TableSpec(
    name="keyring.keys", prefix=0xA0, key=(4,), row=KeyRow, note="epoch → the public key and its holders"
)
CURRENT: Final = TableSpec(name="keyring.current", prefix=0xA1, key=(1,), row=CurrentRow, note="the epoch in force")
CEREMONIES: Final = TableSpec(
    name="keyring.ceremonies", prefix=0xA2, key=(32,), row=CeremonyRow, note="ceremony → where it stands"
)
JOINS: Final = TableSpec(
    name="keyring.joins", prefix=0xA3, key=(32, 32), row=JoinRow, note="ceremony, member → its key for the ceremony"
)
DEALS: Final = TableSpec(
    name="keyring.deals", prefix=0xA4, key=(32, 1), row=DealRow, note="ceremony, dealer's number → its deal"
)
JUDGEMENTS: Final = TableSpec(
    name="keyring.judgements",
    prefix=0xA5,
    key=(32, 1, 1),
    row=JudgementRow,
    note="ceremony, round, holder's number → complaints",
)
EXTRACTIONS: Final = TableSpec(
    name="keyring.extractions",
    prefix=0xA6,
    key=(32, 1),
    row=ExtractionRow,
    note="ceremony, dealer's number → the public part of its deal",
)
EXPOSURES: Final = TableSpec(
    name="keyring.exposures",
    prefix=0xA7,
    key=(32, 1, 1),
    row=ExposureRow,
    note="ceremony, dealer's number, holder's number → the pair shown",
)
MISDEEDS: Final = TableSpec(
    name="keyring.misdeeds",
    prefix=0xA8,
    key=(32, 4, 1),
    row=MisdeedRow,
    note="member, epoch, kind → what it was caught at",
)


class KeyringTables:
    """The tables of this contract, and what other contracts and the keyholders may ask of it."""

    __slots__ = (
        "ceremonies",
        "current_epoch",
        "deals",
        "exposures",
        "extractions",
        "joins",
        "judgements",
        "keys",
        "misdeeds",
    )

    def __init__(self, state: Overlay) -> None:
        self.keys = KEYS.bind(state)
        self.current_epoch = CURRENT.bind(state)
        self.ceremonies = CEREMONIES.bind(state)
        self.joins = JOINS.bind(state)
        self.deals = DEALS.bind(state)
        self.judgements = JUDGEMENTS.bind(state)
        self.extractions = EXTRACTIONS.bind(state)
        self.exposures = EXPOSURES.bind(state)
        self.misdeeds = MISDEEDS.bind(state)

    def epoch(self) -> int:
        """The epoch in force; 0 before there is a key."""
        row = self.current_epoch.get(0)
        return 0 if row is None else row.epoch

    def current(self) -> KeyRow | None:
        """The key in force, or None before there is one."""
        return self.keys.get(self.epoch())

    def key_at(self, epoch: int) -> KeyRow | None:
        """The key as an epoch had it."""
        return self.keys.get(epoch)

    def holder(self, organisation: bytes, epoch: int) -> Holder | None:
        """The organisation as a holder of an epoch; None where it was none, or is a member no more."""
        row = self.keys.get(epoch)
        return None if row is None else row.holder(organisation)

    def is_holder(self, organisation: bytes) -> bool:
        """Whether the organisation holds a share of the epoch in force, or held one of the epoch before it."""
        epoch = self.epoch()
        return any(self.holder(organisation, one) is not None for one in (epoch, epoch - 1) if one > 0)

    def under_way(self) -> tuple[bytes, CeremonyRow] | None:
        """The ceremony that goes on now, if one does."""
        return next(((ceremony, row) for (ceremony,), row in self.ceremonies.scan() if row.is_open), None)

    def dealers(self, row: CeremonyRow) -> dict[int, bytes]:
        """Number → organisation of everyone who may deal, by number."""
        if row.is_generation:
            return dict(enumerate(row.holders, start=1))
        before = self.keys.get(row.from_epoch)
        return {} if before is None else {one.index: one.party for one in before.holders}


# --- masks ----------------------------------------------------------------------------------------------


def in_holders(index: int, holders: int) -> bool:
    """Whether number ``index`` is in the mask."""
    return bool(holders >> (index - 1) & 1)


def holder_bit(index: int) -> int:
    """The mask of one number."""
    return 1 << (index - 1)


def holder_mask(indices: Iterable[int]) -> int:
    """The mask of these numbers."""
    found = 0
    for index in indices:
        found |= holder_bit(index)
    return found


def numbers(holders: int) -> Iterator[int]:
    """The numbers in a mask, ascending."""
    return (index for index in range(1, KEYHOLDERS + 1) if in_holders(index, holders))


def number_of(party: bytes, holders: tuple[bytes, ...]) -> int:
    """A party's number among the holders, or 0."""
    return holders.index(party) + 1 if party in holders else 0
