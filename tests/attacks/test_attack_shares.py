"""Attacks by keyholders, and on them. Every case: :mod:`attacks.conftest`.

Goal: one that lies is passed over and, where it signed its lie, named on the ledger; one that is honest is never named;
an answer is of use to the one who asked. Method: the real keyholder with altered answers among four honest ones, the
real gatherer, and the ledger's judgement of every accusation.
"""

import asyncio
import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from attacks.cast import Lie, Lying, Ward, among_honest, bent, signed_anew
from carechain.contracts.keyring.schema import Accuse, KeyringCode, Misdeed
from carechain.contracts.rotation import RotateKey, rotation_message
from carechain.core import group
from carechain.core.quorum import ShareStatement, statement_bytes
from carechain.core.rejection import Rejected
from carechain.core.vocabulary import Sensitivity
from carechain.sdk.authentication import AuthCode, Service, SessionBook, sign_opening
from carechain.sdk.gathering import NotEnoughShares
from carechain.sdk.shares import KeyholderCode, SharesRefused, SignedShare, open_shares
from carechain.sealing.hpke import CannotOpen
from carechain.sealing.quorum.release import make_share
from sealed_world import Direct, SealedWorld
from world import CHAIN_ID, Actor, Organisation, anything, seeded


@pytest.fixture
def ward(sealed: SealedWorld, tmp_path: Path) -> Ward:
    return Ward(sealed, tmp_path)


def named(sealed: SealedWorld) -> list[bytes]:
    """Who stands on the ledger for a bad share."""
    return [
        party for (party, _, kind), _ in sealed.world.contracts().keyring.misdeeds.scan() if kind == Misdeed.BAD_SHARE
    ]


def passed_over(ward: Ward, liar: Lying, *, convicted: bool) -> None:
    """Bert reads the record in spite of it; it is named exactly where its own signature convicts it."""
    sealed = ward.sealed
    used = ward.read(ward.write("one"), holders=among_honest(sealed, liar))
    assert [one.holder for one in used.gatherer.failed] == [liar.party]
    assert list(used.gatherer.misbehaved) == ([liar.party] if convicted else [])
    for one in used.gatherer.misbehaved.values():
        sealed.world.done(one.accusation(), by=sealed.world.bert)
    assert named(sealed) == ([liar.party] if convicted else [])


# --- keyholders that lie ----------------------------------------------------------------------------------


def test_signed_false_share(ward: Ward) -> None:
    """It signs a share that does not hold. It is caught, and named on the ledger."""

    def lie(signed: SignedShare) -> SignedShare:
        return signed_anew(ward.sealed, "a", signed, share=bent(signed).statement.share)

    passed_over(ward, Lying(ward.sealed, "a", lie), convicted=True)


def test_unsigned_garbage_share(ward: Ward) -> None:
    """It sends rubbish without a signature that fits, so as not to be convicted: of no use, and not counted."""
    passed_over(ward, Lying(ward.sealed, "a", bent), convicted=False)


def test_share_that_is_the_identity_or_no_point(ward: Ward) -> None:
    """It signs what no arithmetic takes, to bring the requester's program down."""
    for number, point in enumerate((group.IDENTITY, bytes(31) + b"\x80", b"\xff" * 32)):

        def lie(signed: SignedShare, point: bytes = point) -> SignedShare:
            return signed_anew(ward.sealed, "a", signed, share=replace(signed.statement.share, point=point))

        liar = Lying(ward.sealed, "a", lie)
        used = ward.read(ward.write(f"record {number}"), holders=among_honest(ward.sealed, liar))
        assert list(used.gatherer.misbehaved) == [liar.party]


def test_share_of_another_record_passed_off(ward: Ward) -> None:
    """A sound, signed share for another record, sent as the answer for this one."""
    sealed = ward.sealed
    other = sealed.write("other")
    ticket = sealed.ticket()
    (signed,) = sealed.opened(sealed.ask(sealed.world.bert, sealed.request(ticket, other)), ticket)
    passed_over(ward, Lying(sealed, "a", lambda _: signed), convicted=False)


def test_share_replayed_from_another_ticket(ward: Ward) -> None:
    """What it answered yesterday under another ticket for the same record, under its signature of then."""
    sealed = ward.sealed
    line = ward.write("one")
    yesterday: list[SignedShare] = []

    def lie(signed: SignedShare) -> SignedShare:
        yesterday.append(signed)
        return yesterday[0]

    liar = Lying(sealed, "a", lie)
    assert ward.read(line, holders=among_honest(sealed, liar)).gatherer.failed == []
    used = ward.read(line, holders=among_honest(sealed, liar))
    assert [one.holder for one in used.gatherer.failed] == [liar.party]
    assert used.gatherer.misbehaved == {}


def test_share_under_a_neighbours_number_or_another_epoch(ward: Ward) -> None:
    """Two answers of one holder could pass for two holders', or an old one for a new one."""

    def neighbour(signed: SignedShare) -> SignedShare:
        share = signed.statement.share
        return signed_anew(ward.sealed, "a", signed, share=replace(share, index=share.index % 5 + 1))

    def other_epoch(signed: SignedShare) -> SignedShare:
        return signed_anew(ward.sealed, "a", signed, share=replace(signed.statement.share, epoch=7))

    lies: tuple[Lie, ...] = (neighbour, other_epoch)
    for number, lie in enumerate(lies):
        liar = Lying(ward.sealed, "a", lie)
        used = ward.read(ward.write(f"record {number}"), holders=among_honest(ward.sealed, liar))
        assert [one.holder for one in used.gatherer.failed] == [liar.party]
        assert used.gatherer.misbehaved == {}


def test_share_of_a_point_that_nobody_asked_for(ward: Ward) -> None:
    """A sound proof, a good signature, and another point than R + Q: no answer, and no false witness either."""
    sealed = ward.sealed

    def lie(signed: SignedShare) -> SignedShare:
        statement, secret = signed.statement, sealed.secrets["a"].by_epoch[1]
        combined = group.add(statement.combined, group.GENERATOR)
        share = make_share(
            secret,
            holder_key=group.base_mul(secret.scalar),
            chain_id=CHAIN_ID,
            ticket=statement.ticket,
            record=statement.record,
            version=statement.version,
            combined=combined,
            entropy=seeded("other point"),
        )
        return signed_anew(sealed, "a", signed, combined=combined, share=share)

    passed_over(ward, Lying(sealed, "a", lie), convicted=False)


def test_three_liars_of_five(ward: Ward) -> None:
    """Fewer than the threshold are honest: nothing opens, nothing false comes out, and all three are known by name."""
    sealed = ward.sealed

    def liar(label: str) -> Lying:
        return Lying(
            sealed, label, lambda signed: signed_anew(sealed, label, signed, share=bent(signed).statement.share)
        )

    used = ward.reader(holders=[*map(liar, "abc"), *sealed.direct()[3:]])
    line = ward.write("one")
    with pytest.raises(NotEnoughShares):
        asyncio.run(used.read(sealed.ticket(), sealed.world.steve.id, [line]))
    assert sorted(used.gatherer.misbehaved) == sorted(one.id for one in sealed.members[:3])


# --- accusations ------------------------------------------------------------------------------------------


def test_framing_an_honest_keyholder(sealed: SealedWorld) -> None:
    """Everything that somebody has who was answered honestly, bent into an accusation."""
    world, one, ticket = sealed.world, sealed.write("one"), sealed.ticket()
    (sound,) = sealed.opened(sealed.ask(world.bert, sealed.request(ticket, one)), ticket)
    statement = sound.statement
    framing = Accuse(statement=statement, signature=sound.signature)
    world.refused(KeyringCode.SHARE_IS_SOUND, framing, by=world.bert)
    false = bent(sound).statement
    for changed in (
        false,
        replace(statement, combined=group.GENERATOR),
        replace(statement, record=seeded("another")),
        replace(statement, ticket=seeded("another")),
        replace(statement, share=replace(statement.share, index=statement.share.index % 5 + 1)),
    ):
        accusation = Accuse(statement=changed, signature=sound.signature)
        world.refused(KeyringCode.STATEMENT_NOT_SIGNED, accusation, by=world.bert)
    world.refused(
        KeyringCode.HOLDER_UNKNOWN,
        Accuse(statement=replace(false, share=replace(false.share, epoch=9)), signature=sound.signature),
        by=world.bert,
    )
    # Signed by somebody else, for another network, or taken from a transaction of the holder's.
    others = (
        world.b.signing.sign(statement_bytes(CHAIN_ID, false)),
        world.bert.signing.sign(statement_bytes(CHAIN_ID, false)),
        world.a.signing.sign(statement_bytes("world-2", false)),
        world.a.signing.sign(statement_bytes(CHAIN_ID, statement)),
    )
    for signature in others:
        world.refused(KeyringCode.STATEMENT_NOT_SIGNED, Accuse(statement=false, signature=signature), by=world.bert)
    assert named(sealed) == []


def rotation_of(party: Organisation, key: Actor) -> RotateKey:
    """The member gets another key."""
    wanted = rotation_message(
        chain_id=CHAIN_ID,
        party=party.id,
        suite=key.signing.suite,
        public_key=key.signing.public_key,
        hpke_key=key.hpke.public_key,
    )
    return RotateKey(
        suite=key.signing.suite,
        public_key=key.signing.public_key,
        hpke_key=key.hpke.public_key,
        proof=key.signing.sign(wanted),
    )


def test_liar_that_changes_its_key_before_it_is_accused(sealed: SealedWorld) -> None:
    """The signature under the false share is then no longer one of its present key."""
    world, ticket = sealed.world, sealed.ticket()
    (sound,) = sealed.opened(sealed.ask(world.bert, sealed.request(ticket, sealed.write("one"))), ticket)
    lie = signed_anew(sealed, "a", sound, share=bent(sound).statement.share)
    world.done(rotation_of(world.a, Actor("a's second key")), by=world.a)
    world.done(Accuse(statement=lie.statement, signature=lie.signature), by=world.bert)
    assert named(sealed) == [world.a.id]


def test_framing_with_a_key_that_was_given_up(sealed: SealedWorld) -> None:
    """A thief has the key that a keyholder replaced, and signs a false share with it for a ticket of today."""
    world = sealed.world
    world.done(rotation_of(world.a, Actor("a's second key")), by=world.a)
    world.wait(1)
    ticket = sealed.ticket()
    (sound,) = sealed.opened(sealed.ask(world.bert, sealed.request(ticket, sealed.write("one")), "b"), ticket)
    share = replace(bent(sound).statement.share, index=sealed.secrets["a"].by_epoch[1].index)
    lie = signed_anew(sealed, "a", sound, share=share)
    framing = Accuse(statement=lie.statement, signature=lie.signature)
    world.refused(KeyringCode.STATEMENT_NOT_SIGNED, framing, by=world.bert)
    invented = signed_anew(sealed, "a", lie, ticket=seeded("no such ticket"))
    framing = Accuse(statement=invented.statement, signature=invented.signature)
    world.refused(KeyringCode.STATEMENT_NOT_SIGNED, framing, by=world.bert)


def test_framing_with_a_share_of_an_earlier_epoch(sealed: SealedWorld) -> None:
    """What held in epoch 1 does not hold with the keys of epoch 2; the statement says which epoch it is of."""
    world, one, ticket = sealed.world, sealed.write("one"), sealed.ticket()
    (sound,) = sealed.opened(sealed.ask(world.bert, sealed.request(ticket, one)), ticket)
    sealed.install(epoch=2)
    accusation = Accuse(statement=sound.statement, signature=sound.signature)
    world.refused(KeyringCode.SHARE_IS_SOUND, accusation, by=world.bert)
    moved = replace(sound.statement, share=replace(sound.statement.share, epoch=2))
    world.refused(KeyringCode.STATEMENT_NOT_SIGNED, replace(accusation, statement=moved), by=world.bert)


def test_share_from_an_old_file_that_would_convict_its_holder(sealed: SealedWorld) -> None:
    """A thief puts another file in the place of the keyholder's: it must notice before it signs."""
    sealed.secrets["a"].by_epoch[1] = sealed.secrets["b"].by_epoch[1]
    with pytest.raises(SharesRefused) as caught:
        sealed.ask(sealed.world.bert, sealed.request(sealed.ticket(), sealed.write("one")))
    assert caught.value.code is KeyholderCode.NO_SHARE


# --- answers on their way ---------------------------------------------------------------------------------


def test_answer_opened_by_another(sealed: SealedWorld) -> None:
    """Whoever carries the answer, a colleague, and the requester under another ticket or name, read nothing."""
    world, one, ticket = sealed.world, sealed.write("one"), sealed.ticket()
    answer = sealed.ask(world.bert, sealed.request(ticket, one))
    other = sealed.ticket()
    for key, requester, about in (
        (world.bina.hpke, world.bert.id, ticket),
        (world.bina.hpke, world.bina.id, ticket),
        (world.a.hpke, world.bert.id, ticket),
        (world.bert.hpke, world.bert.id, other),
        (world.bert.hpke, world.bina.id, ticket),
    ):
        with pytest.raises(CannotOpen):
            open_shares(answer, chain_id=CHAIN_ID, ticket_id=about, requester=requester, private_key=key)
    for changed in (replace(answer, epoch=2), replace(answer, sealed=answer.sealed[:-1] + b"\0")):
        with pytest.raises(CannotOpen):
            sealed.opened(changed, ticket)


def test_answer_of_one_keyholder_sent_as_anothers(sealed: SealedWorld, ward: Ward) -> None:
    """A node in the middle answers every question with what one keyholder said."""

    class Echo(Direct):
        """Whoever is asked, a answers."""

        def __init__(self, label: str) -> None:
            super().__init__(sealed.keyholders["a"], sealed.world.bert.id)
            self.party = getattr(sealed.world, label).id

    line = ward.write("one")
    used = ward.reader(holders=[Echo(label) for label in "abcde"])
    with pytest.raises(NotEnoughShares):
        asyncio.run(used.read(sealed.ticket(), sealed.world.steve.id, [line]))


def test_session_opening_passed_on_to_another_keyholder(sealed: SealedWorld) -> None:
    """A keyholder that Bert signs in to tries to sign in as Bert at the next one, and at its own node."""
    world = sealed.world
    opening = sign_opening(
        world.bert.signing,
        chain_id=CHAIN_ID,
        service=Service.GATEKEEPER,
        server=world.a.id,
        party=world.bert.id,
        time_s=world.time_s,
        nonce=os.urandom(16),
    )
    party = world.contracts().membership.party
    for server, service, code in (
        (world.b.id, Service.GATEKEEPER, AuthCode.WRONG_SERVER),
        (world.a.id, Service.NODE, AuthCode.SIGNATURE_INVALID),
    ):
        book = SessionBook(chain_id=CHAIN_ID, service=service, server=server, known=party)
        with pytest.raises(Rejected) as caught:
            book.open(opening, party=party(world.bert.id), now_s=world.time_s, token=bytes(32))
        assert caught.value.code is code


def test_statement_signature_used_for_something_else(sealed: SealedWorld) -> None:
    """The member key signs transactions, sessions and shares: none of these signatures is one of another kind."""
    world, ticket = sealed.world, sealed.ticket()
    statement = ShareStatement(
        ticket=ticket,
        record=seeded("record"),
        version=1,
        combined=group.GENERATOR,
        share=bent(
            sealed.opened(sealed.ask(world.bert, sealed.request(ticket, sealed.write("one"))), ticket)[0]
        ).statement.share,
    )
    opening = sign_opening(
        world.a.signing,
        chain_id=CHAIN_ID,
        service=Service.NODE,
        server=world.b.id,
        party=world.a.id,
        time_s=world.time_s,
        nonce=bytes(16),
    )
    raw = world.sign(anything(world.steve, world.bert), by=world.a)
    for signature in (opening.signature, raw[-64:]):
        world.refused(KeyringCode.STATEMENT_NOT_SIGNED, Accuse(statement=statement, signature=signature), by=world.bert)


def test_restricted_record_smuggled_into_a_batch(sealed: SealedWorld) -> None:
    """One record above the ceiling among many that are allowed: the whole request is refused, not served in part."""
    allowed = [sealed.write(f"record {number}") for number in range(3)]
    restricted = sealed.write("restricted", sensitivity=Sensitivity.V)
    request = sealed.request(sealed.ticket(), *allowed, restricted)
    with pytest.raises(SharesRefused) as caught:
        sealed.ask(sealed.world.bert, request)
    assert (caught.value.code, caught.value.record_id) == (KeyholderCode.OUTSIDE_SCOPE, restricted.record)
    assert sealed.audits["a"].unreported() is None
