"""Ceremonies of the consortium key on a :class:`world.World`: who takes part, what is said, and what comes of it.

Goal: let a test say who is honest, and look at the ledger. Method: every organisation is the real
:class:`~carechain.sealing.quorum.participant.Participant` with a seed of its own; every message is signed and applied
by ``apply_block``. A hostile one is a :class:`Player` whose ``twist`` puts something else in its message's place.
"""

from collections.abc import Callable, Sequence
from itertools import combinations

from carechain.chain.receipts import OK
from carechain.contracts.governance import Propose, Proposed, Vote
from carechain.contracts.keyring.schema import CeremonyRow, CloseRound, KeyRow, Phase, number_of
from carechain.contracts.keyring.views import CeremonyView, ceremony_view
from carechain.core.group import ZERO, base_mul, scalar_add, scalar_mul
from carechain.core.keyholders import SetKeyholders
from carechain.core.message import Message
from carechain.core.quorum import default_threshold, lagrange
from carechain.sealing.quorum.participant import Participant, Secrets
from world import Organisation, World, seeded

ROUND_S = 60
Twist = Callable[["Player", CeremonyView, Message | None], Message | None]


class Player:
    """One organisation in ceremonies, with the shares it has gathered."""

    def __init__(self, organisation: Organisation, *, twist: Twist | None = None, salt: str = "") -> None:
        self.organisation = organisation
        self.twist = twist
        self.salt = salt
        self.shares: dict[int, bytes] = {}
        """Epoch → share."""

    def __repr__(self) -> str:
        return f"Player({self.organisation.label})"

    def secrets(self, view: CeremonyView) -> Secrets:
        seed = seeded("ceremony", self.organisation.label, view.ceremony.hex(), self.salt)
        return Secrets(seed=seed, share=self.shares.get(view.row.from_epoch))

    def participant(self, view: CeremonyView) -> Participant:
        return Participant(view, party=self.organisation.id, secrets=self.secrets(view))

    def says(self, view: CeremonyView) -> Message | None:
        honest = self.participant(view).next_message()
        return honest if self.twist is None else self.twist(self, view, honest)

    def number(self, view: CeremonyView) -> int:
        return number_of(self.organisation.id, view.row.holders)


def holders_of(*players: Player | Organisation) -> tuple[bytes, ...]:
    """Their ids as a vote names them."""
    found = [one.organisation if isinstance(one, Player) else one for one in players]
    return tuple(sorted(one.id for one in found))


def keyholders(*players: Player | Organisation, threshold: int | None = None, round_s: int = ROUND_S) -> SetKeyholders:
    """What is voted on; the usual threshold unless it is given, and never one alone."""
    chosen = max(2, default_threshold(len(players))) if threshold is None else threshold
    return SetKeyholders(holders=holders_of(*players), threshold=chosen, round_s=round_s)


def vote(world: World, change: object) -> None:
    """Let the members decide for a change; the first six organisations are asked until it has passed."""
    events = world.done(Propose(change=change), by=world.a)
    proposed = events[0]
    assert isinstance(proposed, Proposed)
    for member in (world.b, world.c, world.d, world.e, world.f):
        row = world.contracts().governance.proposals.get(proposed.proposal)
        if row is not None and row.standing == 1 and world.contracts().membership.is_member(member.id):
            world.done(Vote(proposal=proposed.proposal, aye=True), by=member)


def view_of(world: World, ceremony: bytes | None = None) -> CeremonyView:
    """A ceremony as it stands: the one under way unless it is named."""
    tables = world.contracts().keyring
    if ceremony is None:
        found = tables.under_way()
        assert found is not None
        ceremony = found[0]
    view = ceremony_view(tables, ceremony)
    assert view is not None
    return view


def row_of(world: World, ceremony: bytes) -> CeremonyRow:
    return view_of(world, ceremony).row


def key_of(world: World) -> KeyRow:
    """The key in force."""
    key = world.contracts().keyring.current()
    assert key is not None
    return key


def round_of(world: World, players: Sequence[Player]) -> None:
    """Everyone says what it has to say in the present round, in this order, and then it is closed if it must be."""
    view = view_of(world)
    phase = view.row.phase
    for player in players:
        now = view_of(world, view.ceremony)
        if now.row.phase is not phase:
            break
        said = player.says(now)
        if said is not None:
            world.run(said, by=player.organisation)
            assert world.broken() == []
    if row_of(world, view.ceremony).phase is phase:
        over = max(world.time_s, view.row.round_opened_s + view.row.round_s) + 1
        assert world.run(CloseRound(ceremony=view.ceremony), by=world.a, at=over).code == OK
        assert world.broken() == []


def play(world: World, players: Sequence[Player], *, until: Phase | None = None) -> CeremonyView:
    """Go on with the ceremony under way to its end, or to the given round; whoever holds a share has it then."""
    ceremony = view_of(world).ceremony
    while (row := row_of(world, ceremony)).is_open and row.phase is not until:
        round_of(world, players)
    view = view_of(world, ceremony)
    if view.row.phase is Phase.DONE:
        for player in players:
            share = player.participant(view).final_share()
            if share is not None:
                player.shares[view.row.epoch] = share
    return view


def make_key(world: World, players: Sequence[Player], **settings: int) -> CeremonyView:
    """Vote for these keyholders and play the ceremony."""
    vote(world, keyholders(*players, **settings))
    return play(world, players)


def combined(shares: dict[int, bytes]) -> bytes:
    """The public key that shares, by their holders' numbers, stand for together."""
    total = ZERO
    for index, share in shares.items():
        total = scalar_add(total, scalar_mul(lagrange(tuple(shares), index), share))
    return base_mul(total)


def check_key(world: World, players: Sequence[Player]) -> KeyRow:
    """Every honest holder has the share that the ledger names, and any threshold of them make the one key."""
    key = key_of(world)
    held = {}
    for player in players:
        holder = key.holder(player.organisation.id)
        if player.twist is None and holder is not None:
            assert base_mul(player.shares[key.epoch]) == holder.key
            held[holder.index] = player.shares[key.epoch]
    assert len(held) >= key.threshold
    for some in combinations(sorted(held), key.threshold):
        assert combined({index: held[index] for index in some}) == key.public_key
    if key.threshold > 1:
        few = sorted(held)[: key.threshold - 1]
        assert combined({index: held[index] for index in few}) != key.public_key
    return key
