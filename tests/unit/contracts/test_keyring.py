"""Goal: the consortium key comes about, passes on and is used as the ledger says, whoever lies, is silent or leaves.

Method: ceremonies of real participants on the ledger of ``world``, one kind of trouble at a time; after each, the
shares that honest organisations ended up with are compared with the public keys on the ledger.
"""

import pytest
from msgspec.structs import replace

from carechain.chain.queries import Asker, QueryCode, View, ask
from carechain.chain.questions import MisdeedPage, NoArgs, OfEpoch
from carechain.contracts.access import RequestAccess
from carechain.contracts.governance import Propose, RemoveMember, Vote
from carechain.contracts.keyring import schema
from carechain.contracts.keyring.schema import (
    Accuse,
    CeremonyDone,
    CeremonyKind,
    CeremonyOpened,
    CeremonyRow,
    Check,
    CloseRound,
    Convicted,
    CurrentRow,
    Deal,
    DealRow,
    Expose,
    Exposure,
    Extract,
    Holder,
    HolderCaught,
    HolderLeft,
    Join,
    Judge,
    KeyringCode,
    KeyRow,
    LoseShare,
    Misdeed,
    Phase,
    RoundOpened,
    in_holders,
    numbers,
)
from carechain.contracts.keyring.views import CeremonyView, check_state
from carechain.contracts.membership import MembershipCode
from carechain.core.codec import encode
from carechain.core.group import ONE, ZERO, base_mul, scalar_add, scalar_from_int, scalar_negate, scalar_sub
from carechain.core.limits import FORMER_KEYS_S, KEYHOLDERS, STATE_VALUE_BYTES, TX_SIZE_BYTES
from carechain.core.message import Message
from carechain.core.quorum import Complaint, DleqProof, KeyProof, ShareStatement, pedersen, statement_bytes
from carechain.core.rejection import Rejected
from carechain.core.scope import EVERYTHING
from carechain.core.vocabulary import Purpose
from carechain.node.keyholder_store import HolderSecret
from carechain.sealing.quorum import dkg
from carechain.sealing.quorum.dealing import Recipient, seal_pairs
from carechain.sealing.quorum.release import make_share
from ceremonies import ROUND_S, Player, check_key, key_of, keyholders, make_key, play, row_of, view_of, vote
from recoveries import rotation_of, with_key_of
from world import CHAIN_ID, Actor, Signer, World, empty_state, fresh, seeded


def everyone(world: World) -> list[Player]:
    return [Player(one) for one in world.members]


def silent_in(kind: type[Message]) -> object:
    return lambda _player, _view, said: None if isinstance(said, kind) else said


def spoiled(_player: Player, _view: CeremonyView, said: Message | None) -> Message | None:
    """A deal whose last pair is not what the commitments say."""
    if not isinstance(said, Deal):
        return said
    last = bytes([said.shares[-1][0] ^ 1]) + said.shares[-1][1:]
    return replace(said, shares=(*said.shares[:-1], last))


def other_extraction(_player: Player, view: CeremonyView, said: Message | None) -> Message | None:
    """The public part of a polynomial that was never dealt."""
    if not isinstance(said, Extract):
        return said
    other = dkg.extract(seeded("another"), ceremony=view.ceremony, threshold=view.row.threshold)
    return replace(said, commitments=other)


def complaining_of(dealer: int, kind: type[Message]) -> object:
    """A complaint about a sound pair: its proof holds and shows that the dealer is honest."""

    def twist(player: Player, view: CeremonyView, said: Message | None) -> Message | None:
        if not isinstance(said, kind):
            return said
        participant = player.participant(view)
        received = next(one for one in participant._received() if one.dealer == dealer)
        return replace(said, complaints=(participant._key.complain(received, recipient=participant._holder),))

    return twist


def events_of(world: World, players: list[Player]) -> list[object]:
    """Everything that the rest of the ceremony says."""
    found: list[object] = []
    ceremony = view_of(world).ceremony
    while row_of(world, ceremony).is_open:
        for player in players:
            said = player.says(view_of(world, ceremony))
            if said is not None:
                found += world.run(said, by=player.organisation).events
                break
        else:
            row = row_of(world, ceremony)
            when = max(world.time_s, row.round_opened_s + row.round_s) + 1
            found += world.run(CloseRound(ceremony=ceremony), by=world.a, at=when).events
    return found


# --- a ceremony among the honest ------------------------------------------------------------------------


def test_six_make_a_key_that_three_of_them_are_enough_for(world: World) -> None:
    players = everyone(world)
    view = make_key(world, players)
    key = check_key(world, players)
    assert (key.epoch, key.threshold, len(key.holders)) == (1, 3, 6)
    assert [one.index for one in key.holders] == [1, 2, 3, 4, 5, 6]
    assert len(view.row.closed) == 5
    assert view.row.exposed == view.row.struck == 0


def test_a_round_closes_when_the_last_has_spoken_and_the_events_say_so(world: World) -> None:
    players = everyone(world)
    vote(world, keyholders(*players))
    found = events_of(world, players)
    opened = [one.phase for one in found if isinstance(one, RoundOpened)]
    assert opened == [Phase.DEAL, Phase.JUDGE, Phase.EXTRACT, Phase.CHECK]
    assert [type(one) for one in found][-1] is CeremonyDone
    assert world.time_s < view_of(world, found[0].ceremony).row.opened_s + ROUND_S


def test_the_vote_opens_the_ceremony(world: World) -> None:
    events = world.done(Propose(change=keyholders(*world.members)), by=world.a)
    assert not any(isinstance(one, CeremonyOpened) for one in events)
    vote(world, keyholders(world.a, world.b))
    assert view_of(world).row.kind is CeremonyKind.GENERATION


def test_resharing_keeps_the_key_and_ends_the_old_shares(world: World) -> None:
    players = everyone(world)
    first = make_key(world, players)
    before = check_key(world, players)
    vote(world, keyholders(*players[2:], threshold=2))
    second = play(world, players)
    after = check_key(world, players)
    assert second.row.kind is CeremonyKind.RESHARING
    assert after.public_key == before.public_key
    assert (after.epoch, after.threshold, len(after.holders)) == (2, 2, 4)
    tables = world.contracts().keyring
    assert tables.ceremonies.get(first.ceremony) is None
    assert not list(tables.deals.scan(first.ceremony))
    assert tables.is_holder(world.a.id), "it held a share of the epoch before"
    assert tables.holder(world.a.id, 2) is None
    assert tables.holder(world.c.id, 2) is not None


def test_shares_of_different_epochs_do_not_combine(world: World) -> None:
    players = everyone(world)
    make_key(world, players)
    make_key(world, players)
    key = check_key(world, players)
    for one in key.holders:
        player = next(each for each in players if each.organisation.id == one.party)
        assert base_mul(player.shares[1]) != one.key


def test_the_same_holders_refresh_their_shares_again_and_again(world: World) -> None:
    players = everyone(world)
    make_key(world, players)
    first = key_of(world)
    for epoch in (2, 3, 4):
        make_key(world, players)
        key = check_key(world, players)
        assert (key.epoch, key.public_key) == (epoch, first.public_key)
    assert len(list(world.contracts().keyring.ceremonies.scan())) == 1


# --- the silent -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Join, Deal, Judge, Extract, Check])
def test_one_who_falls_silent_delays_and_changes_nothing_else(world: World, kind: type[Message]) -> None:
    players = everyone(world)
    players[2].twist = silent_in(kind)  # type: ignore[assignment]
    view = make_key(world, players)
    assert view.row.phase is Phase.DONE
    key = check_key(world, players)
    assert (key.holder(players[2].organisation.id) is None) == (kind is Join)
    assert not list(world.contracts().keyring.misdeeds.scan()), "who is silent may be without power: nobody is accused"


def test_who_says_nothing_after_dealing_cannot_choose_the_key(world: World) -> None:
    """The key is settled when deals are judged: extracting or not, honestly or not, gives the same one."""
    vote(world, keyholders(*world.members))
    made = set()
    for twist in (None, silent_in(Extract), other_extraction):
        players = everyone(fork := world.fork())
        players[4].twist = twist  # type: ignore[assignment]
        assert play(fork, players).row.phase is Phase.DONE
        made.add(check_key(fork, players).public_key)
    assert len(made) == 1


@pytest.mark.parametrize("kind", [Join, Deal])
def test_too_few_make_no_key_and_the_members_may_vote_again(world: World, kind: type[Message]) -> None:
    players = everyone(world)
    for one in players[:4]:
        one.twist = silent_in(kind)  # type: ignore[assignment]
    view = make_key(world, players)
    assert view.row.phase is Phase.FAILED
    assert Phase(view.row.ended_in) is (Phase.JOIN if kind is Join else Phase.DEAL)
    assert world.contracts().keyring.current() is None
    again = everyone(world)
    assert make_key(world, again).row.phase is Phase.DONE
    assert check_key(world, again).epoch == 1


def test_a_resharing_that_fails_leaves_the_epoch_before(world: World) -> None:
    players = everyone(world)
    make_key(world, players)
    before = key_of(world)
    for one in players[:4]:
        one.twist = silent_in(Deal)  # type: ignore[assignment]
    assert make_key(world, players).row.phase is Phase.FAILED
    assert key_of(world) == before
    for one in players:
        one.twist = None
    make_key(world, players)
    assert check_key(world, players).public_key == before.public_key
    assert len(list(world.contracts().keyring.ceremonies.scan())) == 1, "the failed one is gone"


def test_exposure_without_enough_pairs_makes_no_key(world: World) -> None:
    players = everyone(world)
    players[0].twist = silent_in(Extract)  # type: ignore[assignment]
    for one in players[1:5]:
        one.twist = silent_in(Expose)  # type: ignore[assignment]
    view = make_key(world, players)
    assert (view.row.phase, view.row.ended_in) == (Phase.FAILED, Phase.EXPOSE)


def saying_nothing_wrong_was_dealt(_player: Player, _view: CeremonyView, said: Message | None) -> Message | None:
    """A deal that nobody can open, and no word about it."""
    if isinstance(said, Judge):
        return replace(said, complaints=())
    return replace(said, shares=(bytes(64),) * len(said.shares)) if isinstance(said, Deal) else said


@pytest.mark.parametrize("reshared", [False, True], ids=["generation", "resharing"])
def test_a_bad_deal_that_everybody_was_kept_from_judging_makes_no_epoch(world: World, *, reshared: bool) -> None:
    """The chain stands still for a round: with the new epoch in force nobody had a share, and the old ones are gone."""
    players = everyone(world)
    if reshared:
        make_key(world, players)
    before = world.contracts().keyring.current()
    order = sorted(players, key=lambda one: one.organisation.id)
    order[0].twist = saying_nothing_wrong_was_dealt
    for one in order[1:5]:
        one.twist = silent_in(Judge)  # type: ignore[assignment]
    view = make_key(world, players)
    assert (view.row.phase, view.row.ended_in) == (Phase.FAILED, Phase.JUDGE)
    assert world.contracts().keyring.current() == before
    for one in players:
        one.twist = None
    make_key(world, players)
    check_key(world, players)


def test_a_false_extraction_that_everybody_was_kept_from_checking_makes_no_key(world: World) -> None:
    """What would be sealed under such a key nobody could ever open."""
    players = everyone(world)
    players[1].twist = lambda player, view, said: (
        replace(said, complaints=()) if isinstance(said, Check) else other_extraction(player, view, said)
    )
    for one in (players[0], *players[2:5]):
        one.twist = silent_in(Check)  # type: ignore[assignment]
    view = make_key(world, players)
    assert (view.row.phase, view.row.ended_in) == (Phase.FAILED, Phase.CHECK)
    assert world.contracts().keyring.current() is None


def test_those_who_are_enough_to_use_the_key_are_enough_to_settle_it(world: World) -> None:
    players = everyone(world)
    for one in players[:3]:
        one.twist = silent_in(Judge)  # type: ignore[assignment]
    assert make_key(world, players).row.phase is Phase.DONE
    check_key(world, players)


# --- the dishonest --------------------------------------------------------------------------------------


def caught(world: World) -> list[tuple[bytes, Misdeed]]:
    return [(party, Misdeed(kind)) for (party, _, kind), _ in world.contracts().keyring.misdeeds.scan()]


@pytest.mark.parametrize("reshared", [False, True], ids=["generation", "resharing"])
def test_who_deals_badly_is_out(world: World, *, reshared: bool) -> None:
    players = everyone(world)
    if reshared:
        make_key(world, players)
    players[1].twist = spoiled
    view = make_key(world, players)
    number = next(index for index, party in view.dealers.items() if party == world.b.id)
    assert in_holders(number, view.row.disqualified)
    assert not in_holders(number, view.row.qualified)
    key = check_key(world, players)
    assert key.holder(world.b.id) is None
    assert caught(world) == [(world.b.id, Misdeed.BAD_DEAL)]


@pytest.mark.parametrize("reshared", [False, True], ids=["generation", "resharing"])
def test_who_complains_falsely_is_out_and_the_dealer_is_not(world: World, *, reshared: bool) -> None:
    players = everyone(world)
    if reshared:
        make_key(world, players)
    players[3].twist = complaining_of(1, Judge)  # type: ignore[assignment]
    view = make_key(world, players)
    assert in_holders(1, view.row.qualified) or view.dealers[1] == world.d.id
    assert not in_holders(players[3].number(view), view.row.qualified)
    assert check_key(world, players).holder(world.d.id) is None
    assert caught(world) == [(world.d.id, Misdeed.FALSE_COMPLAINT)]


def test_who_complains_falsely_of_an_extraction_stays_part_of_the_key(world: World) -> None:
    players = everyone(world)
    liar = next(one for one in players if one.organisation.id != min(each.id for each in world.members))
    liar.twist = complaining_of(1, Check)  # type: ignore[assignment]
    view = make_key(world, players)
    assert in_holders(liar.number(view), view.row.qualified), "who counted once counts for good"
    assert not view.row.exposed
    assert check_key(world, players).holder(liar.organisation.id) is None
    assert caught(world) == [(liar.organisation.id, Misdeed.FALSE_COMPLAINT)]


def test_who_shows_another_public_part_is_exposed_and_still_counts(world: World) -> None:
    players = everyone(world)
    players[1].twist = other_extraction
    view = make_key(world, players)
    number = players[1].number(view)
    assert tuple(numbers(view.row.exposed)) == (number,)
    assert in_holders(number, view.row.qualified)
    assert view.extractions[number].reconstructed
    assert check_key(world, players).holder(world.b.id) is None
    assert caught(world) == [(world.b.id, Misdeed.BAD_EXTRACTION)]


def test_a_forged_proof_convicts_nobody_but_its_maker(world: World) -> None:
    players = everyone(world)
    zeros = Complaint(dealer=2, shared=bytes(32), proof=DleqProof(challenge=bytes(32), response=bytes(32)))
    players[0].twist = lambda _player, _view, said: (
        replace(said, complaints=(zeros,)) if isinstance(said, Judge) else said
    )
    view = make_key(world, players)
    assert [kind for _, kind in caught(world)] == [Misdeed.FALSE_COMPLAINT]
    assert view.row.phase is Phase.DONE
    check_key(world, players)


def aiming_for_nothing(player: Player, view: CeremonyView, said: Message | None) -> Message | None:
    """Having seen what the others dealt to it, it deals so that all of it sums up to zero at its own number."""
    if not isinstance(said, Deal | Extract):
        return said
    participant = player.participant(view)
    me, threshold = participant._holder, view.row.threshold
    total = ZERO
    for one in participant._received():
        pair = participant._key.open(one, recipient=me)
        assert pair is not None
        if one.dealer != me:
            total = scalar_add(total, pair[0])
    slopes = [scalar_from_int(power) for power in range(2, threshold + 1)]

    def value(index: int) -> bytes:
        return scalar_from_int(
            sum(slope * index**power for power, slope in enumerate(range(2, threshold + 1), start=1))
        )

    start = scalar_sub(scalar_negate(total), value(me))
    coefficients = [start, *slopes]
    if isinstance(said, Extract):
        return replace(said, commitments=tuple(base_mul(one) for one in coefficients))
    recipients = [
        Recipient(index=index, key=view.joins[view.row.holders[index - 1]])
        for index in numbers(view.row.joined_holders)
    ]
    pairs = [(scalar_add(start, value(one.index)), ONE) for one in recipients]
    blinds = [ONE] + [ZERO] * (threshold - 1)
    return replace(
        said,
        commitments=tuple(pedersen(one, blind) for one, blind in zip(coefficients, blinds, strict=True)),
        shares=seal_pairs(participant._key, dealer=me, recipients=recipients, pairs=pairs),
    )


def test_who_aims_for_a_share_of_zero_stops_nobody(world: World) -> None:
    players = everyone(world)
    players[5].twist = aiming_for_nothing
    view = make_key(world, players)
    assert view.row.phase is Phase.DONE
    assert not view.row.struck
    assert check_key(world, players).holder(players[5].organisation.id) is None


def test_who_complains_falsely_once_is_not_listened_to_any_further(world: World) -> None:
    """What bounds the work of a round; whom the liar was right about, an honest recipient convicts."""
    players = everyone(world)
    vote(world, keyholders(*players))
    order = sorted(players, key=lambda one: one.organisation.id)
    cheat, liar = order[4], order[0]
    cheat.twist = lambda _player, _view, said: (
        replace(said, shares=(bytes(64),) * len(said.shares)) if isinstance(said, Deal) else said
    )
    play(world, players, until=Phase.JUDGE)
    view = view_of(world)
    participant = liar.participant(view)
    complaints = [participant._key.complain(one, recipient=1) for one in participant._received()]
    both = Judge(ceremony=view.ceremony, complaints=(complaints[1], complaints[4]))
    world.done(both, by=liar.organisation)
    assert caught(world) == [(liar.organisation.id, Misdeed.FALSE_COMPLAINT)]
    view = play(world, [one for one in players if one is not liar])
    assert (cheat.organisation.id, Misdeed.BAD_DEAL) in caught(world)
    assert view.row.phase is Phase.DONE


def test_a_second_complaint_about_a_convicted_dealer_is_not_looked_at(world: World) -> None:
    players = everyone(world)
    players[1].twist = lambda _player, _view, said: (
        replace(said, shares=tuple(bytes(64) for _ in said.shares)) if isinstance(said, Deal) else said
    )
    vote(world, keyholders(*players))
    convictions = [one for one in events_of(world, players) if isinstance(one, Convicted)]
    assert [(one.party, one.misdeed) for one in convictions] == [(world.b.id, Misdeed.BAD_DEAL)]
    judgements = world.contracts().keyring.judgements.scan()
    assert sum(1 for _, row in judgements if row.held) == 1


def test_nobody_opens_more_pairs_than_it_takes_to_convict(world: World) -> None:
    """A complaint shows what was dealt to the liar as well; with all of them its share would stand on the ledger."""
    players = everyone(world)
    players[1].twist = lambda _player, _view, said: (
        replace(said, shares=tuple(bytes(64) for _ in said.shares)) if isinstance(said, Deal) else said
    )
    vote(world, keyholders(*players))
    events_of(world, players)
    view = next(iter(world.contracts().keyring.ceremonies.scan()))
    about = [row.about for _, row in world.contracts().keyring.judgements.scan(*view[0])]
    assert len(about) == 1


# --- members who leave ----------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", [Phase.JOIN, Phase.DEAL, Phase.JUDGE, Phase.EXTRACT, Phase.CHECK])
def test_a_ceremony_goes_on_without_a_member_that_is_put_out(world: World, phase: Phase) -> None:
    players = everyone(world)
    vote(world, keyholders(*players))
    play(world, players, until=phase)
    leaver = world.f
    vote(world, RemoveMember(member=leaver.id))
    view = play(world, [one for one in players if one.organisation is not leaver])
    assert view.row.phase is Phase.DONE
    rest = [one for one in players if one.organisation is not leaver]
    for one in rest:
        one.shares[1] = one.participant(view).final_share() or b""
    assert check_key(world, rest).holder(leaver.id) is None


def test_a_member_that_is_put_out_says_nothing_any_more(world: World) -> None:
    players = everyone(world)
    vote(world, keyholders(*players))
    said = players[-1].says(view_of(world))
    assert said is not None
    vote(world, RemoveMember(member=world.f.id))
    world.refused(MembershipCode.ORGANISATION_NOT_A_MEMBER, said, by=world.f)


def test_the_round_closes_when_the_only_one_missing_is_put_out(world: World) -> None:
    players = everyone(world)
    vote(world, keyholders(*players))
    ceremony = view_of(world).ceremony
    for one in players[:-1]:
        said = one.says(view_of(world))
        assert said is not None
        world.done(said, by=one.organisation)
    assert row_of(world, ceremony).phase is Phase.JOIN
    vote(world, RemoveMember(member=players[-1].organisation.id))
    assert row_of(world, ceremony).phase is Phase.DEAL


def test_a_holder_that_is_put_out_counts_no_longer_and_the_key_stays(world: World) -> None:
    players = everyone(world)
    make_key(world, players)
    before = key_of(world)
    vote(world, RemoveMember(member=world.f.id))
    key = key_of(world)
    tables = world.contracts().keyring
    assert key.public_key == before.public_key
    assert (len(key.holders), key.live) == (6, 5)
    assert not tables.is_holder(world.f.id)
    assert tables.holder(world.f.id, 1) is None
    left = key.numbered(next(one.index for one in before.holders if one.party == world.f.id))
    assert left is not None
    assert left.left_s == world.time_s
    vote(world, keyholders(*players[:5]))
    view = play(world, players[:5])
    assert view.row.phase is Phase.DONE
    assert check_key(world, players[:5]).live == 5
    assert not world.contracts().keyring.is_holder(world.f.id)


def test_a_lost_share_keeps_those_who_are_needed(world: World) -> None:
    """Three of six are enough. Where three have lost theirs and said so, none of the others is put out."""
    players = everyone(world)
    make_key(world, players)
    for one in (world.b, world.c, world.d):
        assert world.done(LoseShare(epoch=1), by=one) == (HolderLeft(holder=one.id, epoch=1),)
    assert key_of(world).live == 3
    world.refused(KeyringCode.KEY_NEEDS_HOLDER, Propose(change=RemoveMember(member=world.e.id)), by=world.a)
    # A ceremony with the three that are left gives the others a share again.
    for player in players[1:4]:
        player.shares.clear()
    vote(world, keyholders(*players))
    assert play(world, players).row.phase is Phase.DONE
    assert check_key(world, players).live == 6


def test_the_event_says_that_a_holder_left(world: World) -> None:
    make_key(world, everyone(world))
    proposal = world.propose(RemoveMember(member=world.f.id), ayes=(world.b, world.c))
    events = world.done(Vote(proposal=proposal, aye=True), by=world.d)
    assert HolderLeft(holder=world.f.id, epoch=1) in events


def test_holders_are_put_out_only_as_long_as_enough_remain(world: World) -> None:
    make_key(world, [Player(one) for one in world.members[2:]], threshold=3)
    vote(world, RemoveMember(member=world.f.id))
    assert key_of(world).live == 3
    world.refused(KeyringCode.KEY_NEEDS_HOLDER, Propose(change=RemoveMember(member=world.e.id)), by=world.a)
    assert world.broken() == []


# --- wrong shares ---------------------------------------------------------------------------------------


def test_a_wrong_share_names_its_holder_and_neither_record_nor_requester(world: World) -> None:
    players = everyone(world)
    make_key(world, players)
    holder = key_of(world).holder(world.b.id)
    assert holder is not None
    about = {"ticket": seeded("ticket"), "record": seeded("record"), "version": 1}
    combined = base_mul(scalar_from_int(13))
    share = make_share(
        HolderSecret(epoch=1, index=holder.index, scalar=scalar_from_int(11)),
        holder_key=holder.key,
        chain_id=CHAIN_ID,
        combined=combined,
        entropy=bytes(32),
        **about,
    )
    statement = ShareStatement(combined=combined, share=share, **about)
    signature = world.b.signing.sign(statement_bytes(CHAIN_ID, statement))
    events = world.done(Accuse(statement=statement, signature=signature), by=world.bert)
    assert events == (HolderCaught(holder=world.b.id, epoch=1, ticket=seeded("ticket")),)
    assert caught(world) == [(world.b.id, Misdeed.BAD_SHARE)]
    row = world.contracts().keyring.misdeeds.get(world.b.id, 1, Misdeed.BAD_SHARE)
    assert row is not None
    assert (row.about, row.at_s) == (seeded("ticket"), world.time_s)
    assert all(seeded("record") not in (value or b"") for _, value in world.changes)


def accusation(world: World, of: Signer, *, ticket: bytes) -> Accuse:
    """A false share of the present epoch, signed with the key that this Signer has."""
    row = key_of(world)
    holder = row.holder(of.id)
    assert holder is not None
    about = {"ticket": ticket, "record": seeded("record"), "version": 1}
    combined = base_mul(scalar_from_int(13))
    share = make_share(
        HolderSecret(epoch=row.epoch, index=holder.index, scalar=scalar_from_int(11)),
        holder_key=holder.key,
        chain_id=CHAIN_ID,
        combined=combined,
        entropy=bytes(32),
        **about,
    )
    statement = ShareStatement(combined=combined, share=share, **about)
    return Accuse(statement=statement, signature=of.signing.sign(statement_bytes(CHAIN_ID, statement)))


def ticket_of(world: World) -> bytes:
    """A ticket of today."""
    asking = RequestAccess(pseudonym=world.steve.id, scope=EVERYTHING, purpose=Purpose.PATRQT)
    return world.request(asking, by=world.steve).ticket


def test_a_key_that_was_given_up_before_an_epoch_convicts_nobody_in_it(world: World) -> None:
    """A thief has the old key, a ticket from before, and the holder's public key of today."""
    players = everyone(world)
    make_key(world, players)
    ticket, new = ticket_of(world), Actor("f's next")
    world.done(rotation_of(world.f, new), by=world.f)
    world.wait(1)
    acting = with_key_of(world.f, new)
    acting.label = world.f.label
    again = Player(acting)  # type: ignore[arg-type]
    again.shares = players[5].shares
    vote(world, keyholders(*players))
    view = play(world, [*players[:5], again])
    assert view.row.phase is Phase.DONE
    assert key_of(world).epoch == 2
    framing = accusation(world, world.f, ticket=ticket)
    world.refused(KeyringCode.STATEMENT_NOT_SIGNED, framing, by=world.bert)


def test_a_key_that_was_given_up_convicts_for_some_days_only(world: World) -> None:
    """Whoever it was given up for, because it was stolen perhaps, must not be framed for ever."""
    make_key(world, everyone(world))
    ticket = ticket_of(world)
    world.done(rotation_of(world.b, Actor("b's next")), by=world.b)
    framing = accusation(world, world.b, ticket=ticket)
    world.wait(FORMER_KEYS_S + 60)
    world.refused(KeyringCode.STATEMENT_NOT_SIGNED, framing, by=world.bert)


# --- what is read ---------------------------------------------------------------------------------------


def asked(world: World, by: Signer, name: str, args: object) -> tuple[object, ...]:
    view = View(snapshot=world.snapshot, height=world.height, time_s=world.time_s)
    party = view.contracts.membership.party(by.id)
    assert party is not None
    return ask(view, Asker(by.id, party), name, args).rows  # type: ignore[arg-type]


def test_everyone_who_writes_or_reads_records_may_ask_for_the_key(world: World) -> None:
    make_key(world, everyone(world))
    make_key(world, everyone(world))
    for one in (world.steve, world.carl, world.john, world.ivan, world.gita, world.a):
        assert asked(world, one, "keyring.key", OfEpoch()) == (key_of(world),)
    (first,) = asked(world, world.carl, "keyring.key", OfEpoch(epoch=1))
    assert isinstance(first, KeyRow)
    assert first.epoch == 1


def test_without_a_key_there_is_nothing_under_its_name(world: World) -> None:
    with pytest.raises(Rejected) as refused:
        asked(world, world.carl, "keyring.key", OfEpoch())
    assert refused.value.code is QueryCode.NOT_FOUND


def test_members_see_ceremonies_and_misdeeds_and_patients_do_not(world: World) -> None:
    players = everyone(world)
    players[1].twist = spoiled
    view = make_key(world, players)
    (line,) = asked(world, world.b, "keyring.ceremony", NoArgs())
    assert line.id == view.ceremony  # type: ignore[attr-defined]
    (misdeed,) = asked(world, world.gita, "keyring.misdeeds", MisdeedPage())
    assert (misdeed.holder, misdeed.kind) == (world.b.id, Misdeed.BAD_DEAL)  # type: ignore[attr-defined]
    after = (world.b.id, 1, int(Misdeed.BAD_DEAL))
    assert asked(world, world.gita, "keyring.misdeeds", MisdeedPage(after=after)) == ()
    with pytest.raises(Rejected) as refused:
        asked(world, world.steve, "keyring.ceremony", NoArgs())
    assert refused.value.code is QueryCode.ROLE_MAY_NOT_ASK


# --- bounds ---------------------------------------------------------------------------------------------


def test_the_largest_messages_and_rows_fit() -> None:
    """At 32 holders, with as many coefficients as the types allow."""
    some, proof, ceremony = seeded("some"), DleqProof(challenge=bytes(32), response=bytes(32)), seeded("ceremony")
    points, pairs = (some,) * KEYHOLDERS, (bytes(64),) * KEYHOLDERS
    complaints = tuple(Complaint(dealer=one + 1, shared=some, proof=proof) for one in range(KEYHOLDERS))
    exposed = tuple(Exposure(dealer=one + 1, share=some, blind=some) for one in range(KEYHOLDERS))
    messages = (
        Join(ceremony=ceremony, key=some, proof=KeyProof(challenge=bytes(32), response=bytes(32))),
        Deal(ceremony=ceremony, commitments=points, shares=pairs),
        Judge(ceremony=ceremony, complaints=complaints),
        Extract(ceremony=ceremony, commitments=points),
        Check(ceremony=ceremony, complaints=complaints),
        Expose(ceremony=ceremony, shares=exposed),
    )
    world = fresh()
    assert all(len(world.sign(one, by=world.a)) < TX_SIZE_BYTES // 8 for one in messages)
    holders = tuple(Holder(party=some, index=one + 1, key=some, left_s=(1 << 63) - 1) for one in range(KEYHOLDERS))
    largest = (1 << KEYHOLDERS) - 1
    masks = {name: largest for name in CeremonyRow.__struct_fields__ if name.startswith(("joined_", "left_"))}
    rows = (
        DealRow(commitments=points, shares=pairs),
        KeyRow(
            epoch=1, public_key=some, threshold=22, holders=holders, since_s=(1 << 63) - 1, since_height=(1 << 63) - 1
        ),
        CeremonyRow(
            kind=CeremonyKind.RESHARING,
            epoch=0xFFFF_FFFF,
            from_epoch=0xFFFF_FFFF,
            threshold=22,
            holders=points,
            round_s=0xFFFF_FFFF,
            opened_s=(1 << 63) - 1,
            phase=Phase.EXPOSE,
            round_opened_s=(1 << 63) - 1,
            closed=((1 << 63) - 1,) * len(Phase),
            **masks,
        ),
    )
    assert all(len(encode(one)) < STATE_VALUE_BYTES // 8 for one in rows)


# --- invariants -----------------------------------------------------------------------------------------


def test_a_key_that_changed_or_cannot_be_used_is_noticed(world: World) -> None:
    make_key(world, everyone(world))
    key = key_of(world)
    state = empty_state()
    tables = schema.KeyringTables(state)
    tables.keys.put(1, row=key)
    tables.current_epoch.put(0, row=CurrentRow(epoch=1))
    assert check_state(tables) == []
    other = base_mul(scalar_from_int(3))
    tables.keys.put(2, row=replace(key, epoch=2, public_key=other, holders=key.holders[:2]))
    assert check_state(tables) == [
        "epoch 2 has another public key than the first",
        "epoch 2 cannot be used by its holders",
        "the epoch in force is not the newest one",
    ]


def test_a_transcript_that_cannot_be_is_noticed(world: World) -> None:
    players = everyone(world)
    vote(world, keyholders(*players))
    play(world, players, until=Phase.EXTRACT)
    view = view_of(world)
    tables = world.contracts().keyring
    tables.ceremonies.put(view.ceremony, row=replace(view.row, disqualified=1, joined_dealers=2, exposed=1 << 20))
    tables.ceremonies.put(seeded("another"), row=replace(view.row, dealt=0, qualified=1))
    flaws = "; ".join(check_state(tables))
    for flaw in (
        "several ceremonies go on at once",
        "a deal of somebody who did not join",
        "a dealer counts that did not deal soundly",
        "too few deals count",
        "a dealer is exposed that does not count",
    ):
        assert flaw in flaws
