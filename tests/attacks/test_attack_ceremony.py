"""Attacks on the ceremonies that make the consortium's key and pass it on. Every case: :mod:`attacks.conftest`.

Goal: no minority chooses, learns or destroys the key, and who tries is named. Method: ceremonies of real participants
on the real ledger; the attacker puts its own messages in the place of honest ones.
"""

import pytest
from msgspec.structs import replace

from carechain.contracts.keyring.schema import (
    Check,
    CloseRound,
    Deal,
    Extract,
    Join,
    Judge,
    KeyringCode,
    Misdeed,
    Phase,
    in_holders,
)
from carechain.contracts.keyring.views import CeremonyView
from carechain.core import group
from carechain.core.message import Message
from carechain.core.quorum import Complaint, DleqProof, join_context, lagrange
from carechain.sealing.quorum import dkg, resharing
from carechain.sealing.quorum.dealing import CeremonyKey, Recipient
from carechain.sealing.quorum.proofs import prove_key
from ceremonies import (
    Player,
    Twist,
    check_key,
    key_of,
    keyholders,
    make_key,
    play,
    round_of,
    row_of,
    view_of,
    vote,
)
from world import World, fresh, seeded


@pytest.fixture
def world() -> World:
    return fresh()


def everyone(world: World) -> list[Player]:
    return [Player(one) for one in world.members]


def misdeeds(world: World) -> list[tuple[bytes, Misdeed]]:
    return [(party, Misdeed(kind)) for (party, _, kind), _ in world.contracts().keyring.misdeeds.scan()]


def instead_of(kind: type[Message], other: object) -> Twist:
    """A twist that sends ``other(said)`` in the place of one kind of message; None is silence."""

    def twist(_player: Player, _view: CeremonyView, said: Message | None) -> Message | None:
        if not isinstance(said, kind):
            return said
        return other(said) if callable(other) else None

    return twist


# --- joining ----------------------------------------------------------------------------------------------


def test_rogue_key_in_the_join_round(world: World) -> None:
    """A key made out of a victim's, so that both together are one that the attacker knows."""
    players = everyone(world)
    victim, attacker = players[0], players[1]
    vote(world, keyholders(*players))
    world.done(victim.says(view_of(world)), by=victim.organisation)
    view = view_of(world)
    known = group.hash_to_scalar("attacker", b"x")
    rogue = group.sub(group.base_mul(known), view.joins[victim.organisation.id])
    context = join_context(ceremony=view.ceremony, party=attacker.organisation.id)
    proof = prove_key(known, context=context, key=rogue, entropy=seeded("rogue"))
    joining = Join(ceremony=view.ceremony, key=rogue, proof=proof)
    world.refused(KeyringCode.KEY_PROOF_INVALID, joining, by=attacker.organisation)


def test_key_of_another_taken_over_in_the_join_round(world: World) -> None:
    """The victim's own key and proof under the attacker's name: whatever is dealt to it could be complained open."""
    players = everyone(world)
    vote(world, keyholders(*players))
    said = players[0].says(view_of(world))
    assert isinstance(said, Join)
    world.done(said, by=players[0].organisation)
    world.refused(KeyringCode.KEY_PROOF_INVALID, said, by=players[1].organisation)


def test_identity_or_non_canonical_point_in_a_ceremony(world: World) -> None:
    """The identity as a key makes every pad known; a second spelling of a point makes two nodes disagree."""
    players = everyone(world)
    vote(world, keyholders(*players))
    honest = players[0].says(view_of(world))
    assert isinstance(honest, Join)
    p = 2**255 - 19
    second_spelling = honest.key[:-1] + bytes([honest.key[-1] | 0x80])
    for key in (group.IDENTITY, bytes(31) + b"\x80", b"\xff" * 32, p.to_bytes(32, "little"), second_spelling):
        world.refused(KeyringCode.POINT_INVALID, replace(honest, key=key), by=players[0].organisation)
    view = play(world, players, until=Phase.DEAL)
    deal = players[0].says(view)
    assert isinstance(deal, Deal)
    for point in (group.IDENTITY, bytes(31) + b"\x80", b"\xff" * 32):
        wrong = replace(deal, commitments=(*deal.commitments[:-1], point))
        world.refused(KeyringCode.POINT_INVALID, wrong, by=players[0].organisation)


def test_somebody_who_was_not_chosen_takes_part(world: World) -> None:
    """A member outside of the vote, its staff, and a patient, with a sound key and proof."""
    chosen, outsider = everyone(world)[:5], Player(world.f)
    vote(world, keyholders(*chosen))
    view = view_of(world)
    key = CeremonyKey(seeded("outsider"), ceremony=view.ceremony)
    joining = Join(ceremony=view.ceremony, key=key.public, proof=key.prove(outsider.organisation.id))
    world.refused(KeyringCode.NOT_IN_THIS_CEREMONY, joining, by=outsider.organisation)
    for signer in (world.anna, world.steve):
        assert world.run(replace(joining, proof=key.prove(signer.id)), by=signer).code != 0
    assert play(world, chosen).row.phase is Phase.DONE
    check_key(world, chosen)


def test_a_minority_alone_makes_a_key(world: World) -> None:
    """Fewer than the threshold join and let the round run out: they would know the key among themselves."""
    players = everyone(world)
    vote(world, keyholders(*players, threshold=4))
    view = play(world, players[:3])
    assert view.row.phase is Phase.FAILED
    assert world.contracts().keyring.current() is None


# --- dealing ----------------------------------------------------------------------------------------------


def test_bad_deal_to_one_holder(world: World) -> None:
    """One victim gets rubbish; everybody else a sound pair, to say that the victim lies."""
    players = everyone(world)
    cheat = players[2]

    def spoil(said: Deal) -> Deal:
        return replace(said, shares=(seeded("rubbish", size=64), *said.shares[1:]))

    cheat.twist = instead_of(Deal, spoil)
    view = make_key(world, players)
    assert not in_holders(cheat.number(view), view.row.qualified)
    assert misdeeds(world) == [(cheat.organisation.id, Misdeed.BAD_DEAL)]
    assert check_key(world, players).holder(cheat.organisation.id) is None


def test_false_complaint_to_disqualify_an_honest_dealer(world: World) -> None:
    """Once with the sound pair opened as it is, once with a made-up one: only the complainers are put out."""
    players = everyone(world)
    opener, forger = sorted(players, key=lambda one: one.organisation.id)[4:]

    def opens(player: Player, view: CeremonyView, said: Message | None) -> Message | None:
        if not isinstance(said, Judge):
            return said
        participant = player.participant(view)
        first = next(one for one in participant._received() if one.dealer == 1)
        return replace(said, complaints=(participant._key.complain(first, recipient=participant._holder),))

    made_up = Complaint(
        dealer=2,
        shared=group.base_mul(group.hash_to_scalar("made up", b"")),
        proof=DleqProof(challenge=group.ONE, response=group.ONE),
    )
    opener.twist = opens
    forger.twist = instead_of(Judge, lambda said: replace(said, complaints=(made_up,)))
    view = make_key(world, players)
    assert in_holders(1, view.row.qualified)
    assert in_holders(2, view.row.qualified)
    assert sorted(misdeeds(world)) == sorted((one.organisation.id, Misdeed.FALSE_COMPLAINT) for one in (opener, forger))
    check_key(world, players)


def test_complaint_of_another_holder_repeated(world: World) -> None:
    """An attacker repeats a true complaint, about an honest dealer's pair, that was made by somebody else before."""
    players = everyone(world)
    vote(world, keyholders(*players))
    view = play(world, players, until=Phase.JUDGE)
    ordered = sorted(players, key=lambda one: one.organisation.id)
    victim, attacker = ordered[0], ordered[5]
    participant = victim.participant(view)
    theirs = participant._key.complain(participant._received()[1], recipient=participant._holder)
    repeated = Judge(ceremony=view.ceremony, complaints=(theirs,))
    world.done(repeated, by=attacker.organisation)
    view = play(world, [one for one in players if one is not attacker])
    assert in_holders(2, view.row.qualified)
    assert misdeeds(world) == [(attacker.organisation.id, Misdeed.FALSE_COMPLAINT)]


# --- extracting -------------------------------------------------------------------------------------------


def test_silence_at_extraction_to_bias_the_key(world: World) -> None:
    """The attacker looks at everybody's part, and drops out where it does not like the sum. Its part counts anyway."""
    twin, honest = world.fork(), everyone(world)
    make_key(twin, honest)
    liked = key_of(twin).public_key
    players = everyone(world)
    players[3].twist = instead_of(Extract, None)
    view = make_key(world, players)
    assert in_holders(players[3].number(view), view.row.exposed)
    assert key_of(world).public_key == liked


def test_lying_extraction(world: World) -> None:
    """The attacker shows the public part of a polynomial that moves the key to where it wants it."""
    players = everyone(world)
    players[4].twist = lambda _player, view, said: (
        replace(said, commitments=dkg.extract(seeded("other"), ceremony=view.ceremony, threshold=view.row.threshold))
        if isinstance(said, Extract)
        else said
    )
    twin = world.fork()
    make_key(twin, everyone(twin))
    make_key(world, players)
    assert key_of(world).public_key == key_of(twin).public_key
    assert misdeeds(world) == [(players[4].organisation.id, Misdeed.BAD_EXTRACTION)]
    check_key(world, players)


def test_false_complaint_to_expose_an_honest_dealer(world: World) -> None:
    """An exposed dealer's polynomial is computed in public; a lie must not expose one."""
    players = everyone(world)
    liar = max(players, key=lambda one: one.organisation.id)

    def complain(player: Player, view: CeremonyView, said: Message | None) -> Message | None:
        if not isinstance(said, Check):
            return said
        participant = player.participant(view)
        first = next(one for one in participant._received() if one.dealer == 1)
        return replace(said, complaints=(participant._key.complain(first, recipient=participant._holder),))

    liar.twist = complain
    view = make_key(world, players)
    assert view.row.exposed == 0
    assert list(world.contracts().keyring.exposures.scan(view.ceremony)) == []
    assert misdeeds(world) == [(liar.organisation.id, Misdeed.FALSE_COMPLAINT)]


def test_censored_extractions_put_the_key_on_the_ledger(world: World) -> None:
    """Who orders transactions holds back every extraction, or the chain stands still until the round is over.

    Each silent dealer's polynomial is then computed in public. With all of them public so would be the key: whoever
    reads the ledger could open every record. Where too few parts stay secret there must be no key.
    """
    players = everyone(world)
    vote(world, keyholders(*players))
    view = play(world, players, until=Phase.EXTRACT)
    over = view.row.round_opened_s + view.row.round_s + 1
    world.run(CloseRound(ceremony=view.ceremony), by=world.a, at=over)
    play(world, players)
    tables = world.contracts().keyring
    secret = group.ZERO
    for dealer in view.deals:
        shown = {index: pair.share for (_, _, index), pair in tables.exposures.scan(view.ceremony, dealer)}
        for index in list(shown)[: view.row.threshold]:
            weight = lagrange(tuple(shown)[: view.row.threshold], index)
            secret = group.scalar_add(secret, group.scalar_mul(weight, shown[index]))
    key = tables.current()
    assert key is None or key.public_key != group.base_mul(secret), "the ledger shows the secret of the key in force"


# --- replays and resharings -------------------------------------------------------------------------------


def test_transcript_of_another_ceremony_replayed(world: World) -> None:
    """What was said in the generation is said again in the resharing, under the new ceremony's name."""
    players = everyone(world)
    first = make_key(world, players)
    vote(world, keyholders(*players))
    view = view_of(world)
    attacker = players[0]
    tables = world.contracts().keyring
    key = tables.joins.get(first.ceremony, attacker.organisation.id)
    assert key is not None
    old = CeremonyKey(attacker.secrets(first).seed, ceremony=first.ceremony)
    assert old.public == key.key
    joining = Join(ceremony=view.ceremony, key=old.public, proof=old.prove(attacker.organisation.id))
    world.refused(KeyringCode.KEY_PROOF_INVALID, joining, by=attacker.organisation)
    view = play(world, players, until=Phase.DEAL)
    dealt = first.deals[attacker.number(first)]
    replayed = Deal(ceremony=view.ceremony, commitments=dealt.commitments, shares=dealt.shares)
    world.refused(KeyringCode.DEAL_OF_ANOTHER_SHARE, replayed, by=attacker.organisation)
    stale = Judge(ceremony=first.ceremony, complaints=())
    world.refused(KeyringCode.CEREMONY_NOT_FOUND, stale, by=attacker.organisation)
    assert play(world, players).row.phase is Phase.DONE
    check_key(world, players)


def test_dealer_that_reshares_another_share(world: World) -> None:
    """Another constant would move the key to one that the attacker knows."""
    players = everyone(world)
    before = make_key(world, players).result
    assert before is not None
    cheat = players[1]
    vote(world, keyholders(*players))
    view = play(world, players, until=Phase.DEAL)
    seat = before.holder(cheat.organisation.id)
    assert seat is not None
    recipients = [
        Recipient(index=index, key=view.joins[party]) for index, party in enumerate(view.row.holders, start=1)
    ]
    made = resharing.make_deal(
        cheat.secrets(view).seed,
        ceremony=view.ceremony,
        threshold=view.row.threshold,
        share=group.scalar_add(cheat.shares[1], group.ONE),
        dealer=seat.index,
        recipients=recipients,
    )
    wrong = Deal(ceremony=view.ceremony, commitments=made.commitments, shares=made.ciphertexts)
    world.refused(KeyringCode.DEAL_OF_ANOTHER_SHARE, wrong, by=cheat.organisation)
    # With the right first commitment the pairs no longer fit, and every recipient can show it.
    disguised = replace(wrong, commitments=(seat.key, *wrong.commitments[1:]))
    world.done(disguised, by=cheat.organisation)
    play(world, players)
    assert misdeeds(world) == [(cheat.organisation.id, Misdeed.BAD_DEAL)]
    assert key_of(world).public_key == before.public_key
    check_key(world, players)


def test_second_deal_after_the_others_were_seen(world: World) -> None:
    """The last word would belong to whoever may speak twice."""
    players = everyone(world)
    vote(world, keyholders(*players))
    view = play(world, players, until=Phase.DEAL)
    attacker, rest = players[0], players[1:]
    first = attacker.says(view)
    assert isinstance(first, Deal)
    world.done(first, by=attacker.organisation)
    again = replace(first, shares=tuple(seeded("again", number, size=64) for number in range(len(first.shares))))
    world.refused(KeyringCode.ALREADY_SPOKEN, again, by=attacker.organisation)
    round_of(world, rest)
    world.refused(KeyringCode.WRONG_ROUND, again, by=attacker.organisation)
    assert play(world, players).row.phase is Phase.DONE


def test_round_closed_before_its_time(world: World) -> None:
    """Closing early would shut out whoever the attacker wants out."""
    players = everyone(world)
    vote(world, keyholders(*players))
    view = view_of(world)
    world.refused(KeyringCode.ROUND_STILL_OPEN, CloseRound(ceremony=view.ceremony), by=world.f)
    assert row_of(world, view.ceremony).phase is Phase.JOIN
