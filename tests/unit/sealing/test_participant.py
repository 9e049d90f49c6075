"""Goal: what an organisation says in a ceremony follows from the ledger and its secrets alone, and its share fits.

Method: ceremonies on the ledger of ``world``; at every round each participant is made anew and asked twice.
"""

import pytest

from carechain.contracts.keyring.schema import (
    Check,
    Deal,
    Expose,
    Extract,
    Join,
    Judge,
    Phase,
    RoundOpened,
)
from carechain.contracts.keyring.views import CeremonyView
from carechain.core.codec import encode
from carechain.core.group import base_mul
from carechain.core.message import Message
from carechain.sealing.quorum.participant import NotOurSecret, Participant, Secrets
from ceremonies import Player, check_key, key_of, keyholders, make_key, play, round_of, view_of, vote
from world import World, fresh, seeded

SAID_IN = {
    Phase.JOIN: Join,
    Phase.DEAL: Deal,
    Phase.JUDGE: Judge,
    Phase.EXTRACT: Extract,
    Phase.CHECK: Check,
    Phase.EXPOSE: Expose,
}


@pytest.fixture
def world() -> World:
    return fresh()


def everyone(world: World) -> list[Player]:
    return [Player(one) for one in world.members]


def silent_in(kind: type[Message]) -> object:
    return lambda _player, _view, said: None if isinstance(said, kind) else said


def test_in_every_round_the_same_bytes_and_then_nothing(world: World) -> None:
    players = everyone(world)
    players[5].twist = silent_in(Extract)  # type: ignore[assignment]
    vote(world, keyholders(*players))
    ceremony = view_of(world).ceremony
    rounds = []
    while (view := view_of(world, ceremony)).row.is_open:
        phase = view.row.phase
        rounds.append(phase)
        first, second = players[:2]
        said = first.participant(view).next_message()
        again = first.participant(view).next_message()
        assert type(said) is SAID_IN[phase]
        assert encode(said) == encode(again)
        assert encode(said) != encode(second.participant(view).next_message()) or phase in (Phase.JUDGE, Phase.CHECK)
        events = world.done(said, by=first.organisation)
        if not any(isinstance(one, RoundOpened) for one in events):
            assert first.participant(view_of(world, ceremony)).next_message() is None
        round_of(world, players)
    assert rounds == list(SAID_IN)
    assert players[0].participant(view).next_message() is None


def test_who_is_not_named_says_nothing(world: World) -> None:
    players = everyone(world)
    vote(world, keyholders(*players[:4]))
    outsider = players[5].participant(view_of(world))
    assert not outsider.takes_part
    assert outsider.next_message() is None
    view = play(world, players[:4])
    assert players[5].participant(view).final_share() is None


def test_another_seed_is_noticed_before_anything_is_said(world: World) -> None:
    players = everyone(world)
    vote(world, keyholders(*players))
    play(world, players, until=Phase.DEAL)
    players[0].salt = "lost"
    with pytest.raises(NotOurSecret):
        players[0].participant(view_of(world))


def test_a_share_is_known_only_when_the_ceremony_is_over(world: World) -> None:
    players = everyone(world)
    vote(world, keyholders(*players))
    play(world, players, until=Phase.CHECK)
    assert players[0].participant(view_of(world)).final_share() is None
    view = play(world, players)
    holder = key_of(world).holder(players[0].organisation.id)
    share = players[0].participant(view).final_share()
    assert holder is not None
    assert share is not None
    assert base_mul(share) == holder.key


def test_who_lost_its_share_and_is_not_chosen_again_does_not_join(world: World) -> None:
    players = everyone(world)
    make_key(world, players)
    players[5].shares = {}
    vote(world, keyholders(*players[:5]))
    assert players[5].participant(view_of(world)).next_message() is None
    assert isinstance(players[4].participant(view_of(world)).next_message(), Join)
    assert play(world, players).row.phase is Phase.DONE
    check_key(world, players[:5])


def test_who_lost_its_share_and_is_chosen_again_gets_a_new_one(world: World) -> None:
    players = everyone(world)
    make_key(world, players)
    players[5].shares = {}
    vote(world, keyholders(*players))
    play(world, players, until=Phase.DEAL)
    assert players[5].participant(view_of(world)).next_message() is None
    assert play(world, players).row.phase is Phase.DONE
    assert 2 in players[5].shares
    check_key(world, players)


def test_who_was_dealt_badly_and_did_not_say_so_has_no_share(world: World) -> None:
    """It was silent when complaints were heard; the others have made the key, and its share does not fit."""
    players = everyone(world)
    victim = max(players, key=lambda one: one.organisation.id)
    cheat = next(one for one in players if one is not victim)

    def spoiled(_player: Player, _view: CeremonyView, said: Message | None) -> Message | None:
        if not isinstance(said, Deal):
            return said
        return Deal(ceremony=said.ceremony, commitments=said.commitments, shares=(*said.shares[:-1], bytes(64)))

    cheat.twist = spoiled
    victim.twist = silent_in(Judge)  # type: ignore[assignment]
    view = make_key(world, players)
    assert key_of(world).holder(victim.organisation.id) is not None
    assert victim.participant(view).final_share() is None
    check_key(world, [one for one in players if one is not victim])


def test_nothing_secret_is_printed(world: World) -> None:
    players = everyone(world)
    vote(world, keyholders(*players))
    view = view_of(world)
    secrets = Secrets(seed=seeded("seed"), share=seeded("share"))
    shown = repr(secrets) + repr(Participant(view, party=world.a.id, secrets=secrets))
    for secret in (seeded("seed"), seeded("share")):
        assert secret.hex() not in shown
        assert repr(secret)[2:10] not in shown
