"""Goal: every step of a ceremony that should not be taken is refused with its own code and changes nothing.

Method: one row per refusal; ceremonies are played by real participants up to the round in question.
"""

import pytest
from msgspec.structs import replace

from carechain.contracts.access import RequestAccess
from carechain.contracts.governance import Propose, RemoveMember
from carechain.contracts.keyring.schema import (
    Accuse,
    Check,
    CloseRound,
    Deal,
    Expose,
    Exposure,
    Extract,
    Join,
    Judge,
    KeyringCode,
    LoseShare,
    Phase,
)
from carechain.core.group import IDENTITY, ORDER, base_mul, scalar_from_int
from carechain.core.keyholders import SetKeyholders
from carechain.core.message import Message
from carechain.core.quorum import Complaint, DleqProof, KeyProof, ShareStatement, statement_bytes
from carechain.core.rejection import RejectionCode
from carechain.core.vocabulary import Purpose
from carechain.node.keyholder_store import HolderSecret
from carechain.sealing.quorum.release import make_share
from ceremonies import ROUND_S, Player, key_of, keyholders, make_key, play, view_of, vote
from recoveries import rotation_of
from rejections import Arrange, Attempt, Limits, Rows, check_refused
from world import CHAIN_ID, RESULTS, Actor, Organisation, World, grant_of, seeded

rows = Rows()
ROWS = rows
NO_POINT = b"\xff" * 32


def at(world: World, phase: Phase, *, hostile: bool = False) -> list[Player]:
    """A key generation of six organisations that has come to this round; the last one never extracts if ``hostile``."""
    players = [Player(one) for one in world.members]
    if hostile:
        players[-1].twist = lambda _player, _view, said: None if isinstance(said, Extract) else said
    vote(world, keyholders(*players))
    play(world, players, until=phase)
    return players


def said_by(player: Player, world: World, kind: type[Message]) -> Message:
    """What it has to say honestly, which must be of this kind."""
    said = player.participant(view_of(world)).next_message()
    assert type(said) is kind
    return said


def proposal(world: World, change: object) -> Attempt:
    return world.a, Propose(change=change)


def complaint(dealer: int) -> Complaint:
    proof = DleqProof(challenge=bytes(32), response=bytes(32))
    return Complaint(dealer=dealer, shared=base_mul(scalar_from_int(7)), proof=proof)


# --- the vote -------------------------------------------------------------------------------------------


@rows.row(KeyringCode.HOLDERS_INVALID)
def one_alone(world: World) -> Attempt:
    return proposal(world, keyholders(world.a, threshold=2))


@rows.row(KeyringCode.HOLDERS_INVALID)
def out_of_order(world: World) -> Attempt:
    change = keyholders(*world.members)
    return proposal(world, replace(change, holders=change.holders[::-1]))


@rows.row(KeyringCode.HOLDERS_INVALID)
def somebody_twice(world: World) -> Attempt:
    return proposal(world, SetKeyholders(holders=(world.a.id, world.a.id), threshold=2, round_s=ROUND_S))


@rows.row(KeyringCode.HOLDERS_INVALID)
def no_member(world: World) -> Attempt:
    return proposal(world, SetKeyholders(holders=tuple(sorted((world.a.id, world.carl.id))), threshold=2, round_s=60))


@rows.row(KeyringCode.THRESHOLD_DOES_NOT_FIT)
def one_share_opens(world: World) -> Attempt:
    return proposal(world, keyholders(world.a, world.b, world.c, threshold=1))


@rows.row(KeyringCode.THRESHOLD_DOES_NOT_FIT)
def nobody_may_be_missing(world: World) -> Attempt:
    return proposal(world, keyholders(*world.members, threshold=6))


@rows.row(KeyringCode.ROUND_OUT_OF_RANGE)
def a_round_of_a_moment(world: World) -> Attempt:
    return proposal(world, keyholders(*world.members, round_s=4))


@rows.row(KeyringCode.CEREMONY_UNDER_WAY)
def two_ceremonies(world: World) -> Attempt:
    at(world, Phase.JOIN)
    return proposal(world, keyholders(world.a, world.b))


@rows.row(KeyringCode.KEY_NEEDS_HOLDER)
def to_put_out_a_holder_that_is_needed(world: World) -> Attempt:
    make_key(world, [Player(world.b), Player(world.c)])
    return proposal(world, RemoveMember(member=world.b.id))


# --- the right ceremony, round and sender ---------------------------------------------------------------


@rows.row(KeyringCode.CEREMONY_NOT_FOUND)
def a_ceremony_that_never_was(world: World) -> Attempt:
    return world.a, CloseRound(ceremony=seeded("no ceremony"))


@rows.row(KeyringCode.CEREMONY_NOT_FOUND)
def a_ceremony_that_is_over(world: World) -> Attempt:
    view = make_key(world, [Player(one) for one in world.members])
    return world.a, Judge(ceremony=view.ceremony, complaints=())


@rows.row(KeyringCode.CEREMONY_NOT_FOUND)
def to_close_what_is_over(world: World) -> Attempt:
    view = make_key(world, [Player(one) for one in world.members])
    return world.a, CloseRound(ceremony=view.ceremony)


@rows.row(KeyringCode.WRONG_ROUND)
def a_deal_too_early(world: World) -> Attempt:
    at(world, Phase.JOIN)
    some = base_mul(scalar_from_int(3))
    return world.a, Deal(ceremony=view_of(world).ceremony, commitments=(some,), shares=(bytes(64),))


@rows.row(KeyringCode.NOT_IN_THIS_CEREMONY)
def a_member_that_was_not_voted_for(world: World) -> Attempt:
    players = [Player(world.a), Player(world.b)]
    vote(world, keyholders(*players))
    return world.c, said_by(players[0], world, Join)


@rows.row(KeyringCode.NOT_IN_THIS_CEREMONY)
def staff_of_a_holder(world: World) -> Attempt:
    (player, *_) = at(world, Phase.JOIN)
    return world.anna, said_by(player, world, Join)


@rows.row(KeyringCode.NOT_IN_THIS_CEREMONY)
def a_deal_of_one_who_did_not_join(world: World) -> Attempt:
    players = [Player(one) for one in world.members]
    players[0].twist = lambda _player, _view, _said: None
    vote(world, keyholders(*players))
    play(world, players, until=Phase.DEAL)
    return world.a, said_by(players[1], world, Deal)


@rows.row(KeyringCode.NOT_IN_THIS_CEREMONY)
def a_judgement_of_one_who_did_not_join(world: World) -> Attempt:
    players = [Player(one) for one in world.members]
    players[0].twist = lambda _player, _view, _said: None
    vote(world, keyholders(*players))
    play(world, players, until=Phase.JUDGE)
    return world.a, Judge(ceremony=view_of(world).ceremony, complaints=())


@rows.row(KeyringCode.NOT_IN_THIS_CEREMONY)
def an_extraction_of_one_who_dealt_nothing(world: World) -> Attempt:
    players = [Player(one) for one in world.members]
    players[0].twist = lambda _player, _view, said: None if isinstance(said, Deal) else said
    vote(world, keyholders(*players))
    play(world, players, until=Phase.EXTRACT)
    return world.a, said_by(players[1], world, Extract)


# --- once each ------------------------------------------------------------------------------------------


def again(world: World, phase: Phase, kind: type[Message]) -> Attempt:
    player = at(world, phase, hostile=phase is Phase.EXPOSE)[0]
    said = said_by(player, world, kind)
    world.done(said, by=player.organisation)
    return player.organisation, said


@rows.row(KeyringCode.ALREADY_SPOKEN)
def to_join_again(world: World) -> Attempt:
    return again(world, Phase.JOIN, Join)


@rows.row(KeyringCode.ALREADY_SPOKEN)
def to_deal_again(world: World) -> Attempt:
    return again(world, Phase.DEAL, Deal)


@rows.row(KeyringCode.ALREADY_SPOKEN)
def to_judge_again(world: World) -> Attempt:
    return again(world, Phase.JUDGE, Judge)


@rows.row(KeyringCode.ALREADY_SPOKEN)
def to_extract_again(world: World) -> Attempt:
    return again(world, Phase.EXTRACT, Extract)


@rows.row(KeyringCode.ALREADY_SPOKEN)
def to_check_again(world: World) -> Attempt:
    return again(world, Phase.CHECK, Check)


@rows.row(KeyringCode.ALREADY_SPOKEN)
def to_expose_again(world: World) -> Attempt:
    return again(world, Phase.EXPOSE, Expose)


# --- what is said ---------------------------------------------------------------------------------------


@rows.row(KeyringCode.SIZE_WRONG)
def a_deal_to_too_few(world: World) -> Attempt:
    player = at(world, Phase.DEAL)[0]
    said = said_by(player, world, Deal)
    return player.organisation, replace(said, shares=said.shares[:-1])


@rows.row(KeyringCode.SIZE_WRONG)
def a_deal_of_a_higher_degree(world: World) -> Attempt:
    player = at(world, Phase.DEAL)[0]
    said = said_by(player, world, Deal)
    return player.organisation, replace(said, commitments=(*said.commitments, said.commitments[0]))


@rows.row(KeyringCode.SIZE_WRONG)
def an_extraction_of_a_lower_degree(world: World) -> Attempt:
    player = at(world, Phase.EXTRACT)[0]
    said = said_by(player, world, Extract)
    return player.organisation, replace(said, commitments=said.commitments[:-1])


@rows.row(KeyringCode.COMPLAINTS_INVALID)
def complaints_out_of_order(world: World) -> Attempt:
    at(world, Phase.JUDGE)
    return world.a, Judge(ceremony=view_of(world).ceremony, complaints=(complaint(3), complaint(2)))


@rows.row(KeyringCode.COMPLAINTS_INVALID)
def a_complaint_about_nobody(world: World) -> Attempt:
    at(world, Phase.JUDGE)
    return world.a, Judge(ceremony=view_of(world).ceremony, complaints=(complaint(0),))


@rows.row(KeyringCode.COMPLAINTS_INVALID)
def a_complaint_about_one_who_extracted_nothing(world: World) -> Attempt:
    players = at(world, Phase.CHECK, hostile=True)
    view = view_of(world)
    return world.a, Check(ceremony=view.ceremony, complaints=(complaint(players[-1].number(view)),))


@rows.row(KeyringCode.EXPOSURES_INVALID)
def to_expose_one_who_is_not(world: World) -> Attempt:
    players = at(world, Phase.EXPOSE, hostile=True)
    said = said_by(players[0], world, Expose)
    number = players[0].number(view_of(world))
    return world.a, replace(said, shares=(replace(said.shares[0], dealer=number),))


@rows.row(KeyringCode.EXPOSURES_INVALID)
def to_expose_one_twice(world: World) -> Attempt:
    players = at(world, Phase.EXPOSE, hostile=True)
    said = said_by(players[0], world, Expose)
    return world.a, replace(said, shares=(said.shares[0], said.shares[0]))


@rows.row(KeyringCode.POINT_INVALID)
def a_key_that_is_no_point(world: World) -> Attempt:
    player = at(world, Phase.JOIN)[0]
    return player.organisation, replace(said_by(player, world, Join), key=NO_POINT)


@rows.row(KeyringCode.POINT_INVALID)
def a_commitment_to_nothing(world: World) -> Attempt:
    player = at(world, Phase.DEAL)[0]
    said = said_by(player, world, Deal)
    return player.organisation, replace(said, commitments=(*said.commitments[:-1], IDENTITY))


@rows.row(KeyringCode.POINT_INVALID)
def an_extraction_that_is_no_point(world: World) -> Attempt:
    player = at(world, Phase.EXTRACT)[0]
    said = said_by(player, world, Extract)
    return player.organisation, replace(said, commitments=(NO_POINT, *said.commitments[1:]))


@rows.row(KeyringCode.POINT_INVALID)
def a_share_above_the_order(world: World) -> Attempt:
    players = at(world, Phase.EXPOSE, hostile=True)
    said = said_by(players[0], world, Expose)
    (pair,) = said.shares
    larger = (int.from_bytes(pair.share, "little") + ORDER).to_bytes(32, "little")
    return world.a, replace(said, shares=(replace(pair, share=larger),))


@rows.row(KeyringCode.KEY_PROOF_INVALID)
def a_rogue_key(world: World) -> Attempt:
    """Made from others' keys, so that nobody knows its secret; the proof is another's."""
    players = at(world, Phase.JOIN)
    honest = said_by(players[1], world, Join)
    return world.a, replace(honest, key=base_mul(scalar_from_int(5)))


@rows.row(KeyringCode.KEY_PROOF_INVALID)
def somebody_elses_key_and_proof(world: World) -> Attempt:
    players = at(world, Phase.JOIN)
    return world.a, said_by(players[1], world, Join)


@rows.row(KeyringCode.KEY_PROOF_INVALID)
def a_proof_of_zeros(world: World) -> Attempt:
    players = at(world, Phase.JOIN)
    honest = said_by(players[0], world, Join)
    return world.a, replace(honest, proof=KeyProof(challenge=bytes(32), response=bytes(32)))


@rows.row(KeyringCode.DEAL_OF_ANOTHER_SHARE)
def another_secret_in_a_resharing(world: World) -> Attempt:
    players = [Player(one) for one in world.members]
    make_key(world, players)
    vote(world, keyholders(*players))
    play(world, players, until=Phase.DEAL)
    first, second = players[:2]
    first.shares = second.shares
    return first.organisation, said_by(first, world, Deal)


@rows.row(KeyringCode.EXPOSED_PAIR_WRONG)
def a_pair_that_was_not_dealt(world: World) -> Attempt:
    players = at(world, Phase.EXPOSE, hostile=True)
    said = said_by(players[0], world, Expose)
    (pair,) = said.shares
    return world.a, replace(said, shares=(Exposure(dealer=pair.dealer, share=pair.blind, blind=pair.share),))


@rows.row(KeyringCode.ROUND_STILL_OPEN)
def to_close_a_round_a_second_early(world: World) -> Attempt:
    at(world, Phase.JOIN)
    view = view_of(world)
    return world.anna, CloseRound(ceremony=view.ceremony), view.row.round_opened_s + view.row.round_s - 1


# --- lost shares ----------------------------------------------------------------------------------------


@rows.row(KeyringCode.NOT_A_HOLDER)
def to_lose_what_was_lost_before(world: World) -> Attempt:
    with_key(world)
    world.done(LoseShare(epoch=1), by=world.b)
    return world.b, LoseShare(epoch=1)


@rows.row(KeyringCode.NOT_A_HOLDER)
def to_lose_a_share_of_another_epoch(world: World) -> Attempt:
    with_key(world)
    return world.b, LoseShare(epoch=2)


@rows.row(KeyringCode.NOT_A_HOLDER)
def to_lose_a_share_where_there_is_no_key(world: World) -> Attempt:
    return world.b, LoseShare(epoch=0)


@rows.row(KeyringCode.NOT_A_HOLDER)
def an_administrator_speaks_of_the_share(world: World) -> Attempt:
    with_key(world)
    return world.anna, LoseShare(epoch=1)


@rows.row(KeyringCode.KEY_NEEDS_HOLDER)
def to_lose_a_share_that_is_needed(world: World) -> Attempt:
    with_key(world)
    for one in (world.b, world.c, world.d):
        world.done(LoseShare(epoch=1), by=one)
    return world.e, LoseShare(epoch=1)


# --- accusations ----------------------------------------------------------------------------------------


def statement_of(world: World, player: Player, *, lie: bool, name: str = "ticket") -> ShareStatement:
    """A holder's answer to some ticket, made with its share or with another scalar."""
    key = key_of(world)
    holder = key.holder(player.organisation.id)
    assert holder is not None
    scalar = scalar_from_int(11) if lie else player.shares[key.epoch]
    combined = base_mul(scalar_from_int(13))
    about = {"ticket": seeded(name), "record": seeded("record"), "version": 1}
    share = make_share(
        HolderSecret(epoch=key.epoch, index=holder.index, scalar=scalar),
        holder_key=holder.key,
        chain_id=CHAIN_ID,
        combined=combined,
        entropy=bytes(32),
        **about,
    )
    return ShareStatement(combined=combined, share=share, **about)


def accusation(statement: ShareStatement, signer: Organisation) -> Accuse:
    return Accuse(statement=statement, signature=signer.signing.sign(statement_bytes(CHAIN_ID, statement)))


def with_key(world: World) -> list[Player]:
    players = [Player(one) for one in world.members]
    make_key(world, players)
    return players


@rows.row(KeyringCode.HOLDER_UNKNOWN)
def a_statement_of_another_epoch(world: World) -> Attempt:
    players = with_key(world)
    said = statement_of(world, players[0], lie=True)
    return world.bert, accusation(replace(said, share=replace(said.share, epoch=9)), world.a)


@rows.row(KeyringCode.HOLDER_UNKNOWN)
def a_statement_of_no_holder(world: World) -> Attempt:
    players = with_key(world)
    said = statement_of(world, players[0], lie=True)
    return world.bert, accusation(replace(said, share=replace(said.share, index=31)), world.a)


@rows.row(KeyringCode.STATEMENT_NOT_SIGNED)
def a_statement_in_anothers_name(world: World) -> Attempt:
    players = with_key(world)
    return world.bert, accusation(statement_of(world, players[0], lie=True), world.b)


@rows.row(KeyringCode.SHARE_IS_SOUND)
def an_accusation_of_the_innocent(world: World) -> Attempt:
    players = with_key(world)
    return world.bert, accusation(statement_of(world, players[0], lie=False), world.a)


@rows.row(KeyringCode.ALREADY_CAUGHT)
def a_second_proof(world: World) -> Attempt:
    players = with_key(world)
    world.done(accusation(statement_of(world, players[0], lie=True), world.a), by=world.bert)
    return world.steve, accusation(statement_of(world, players[0], lie=True, name="other"), world.a)


# --- all of them ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "arrange", "limits"), rows.params())
def test_is_refused_and_changes_nothing(
    world: World, code: RejectionCode, arrange: Arrange, limits: Limits, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_refused(world, code, arrange, limits, monkeypatch)


def test_a_refusal_in_a_round_leaves_the_ceremony_as_it_was(world: World) -> None:
    """Who was refused may say it right, and the ceremony ends as if nothing had been."""
    players = at(world, Phase.DEAL)
    said = said_by(players[0], world, Deal)
    world.refused(KeyringCode.SIZE_WRONG, replace(said, shares=said.shares[1:]), by=players[0].organisation)
    assert play(world, players).row.phase is Phase.DONE


@pytest.mark.parametrize("before_ticket", [False, True])
def test_a_new_key_is_no_way_out_and_an_older_one_proves_nothing(world: World, *, before_ticket: bool) -> None:
    """A key that counted when the ticket was given convicts; one that had ended may be a thief's by now."""
    players = with_key(world)
    world.grant(grant_of(world.steve, world.bert), by=world.steve)
    asked = RequestAccess(pseudonym=world.steve.id, scope=RESULTS, purpose=Purpose.TREAT)
    if before_ticket:
        world.done(rotation_of(world.a, Actor("next")), by=world.a)
        world.block(at=world.time_s + 1)
    ticket = world.request(asked, by=world.bert).ticket
    if not before_ticket:
        world.block(at=world.time_s + 1)
        world.done(rotation_of(world.a, Actor("next")), by=world.a)
    said = replace(statement_of(world, players[0], lie=True), ticket=ticket)
    message = accusation(said, world.a)
    if before_ticket:
        world.refused(KeyringCode.STATEMENT_NOT_SIGNED, message, by=world.bert)
    else:
        world.done(message, by=world.bert)
