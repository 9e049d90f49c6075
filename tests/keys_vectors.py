"""Write ``vectors/keys.json``: the golden vectors of keys, of the consortium's, of members and of patients.

    PYTHONPATH=src:tests python tests/keys_vectors.py

As ``ledger_vectors.py``, with what keeps keys: the consortium key is made among liars and a silent one, shared anew,
and not shared where nobody takes part; sealed records, shares reported, a false share shown to all, erasure with
receipts; keys that their owners change, and one that its owner lost and others replace together.
"""

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from carechain.contracts.access import ReportRelease, ReportShares, RequestAccess
from carechain.contracts.governance import RemoveMember
from carechain.contracts.keyring.schema import Accuse, CloseRound, Deal, Extract, Judge, KeyRow, LoseShare, Phase
from carechain.contracts.keyring.views import CeremonyView, ceremony_view
from carechain.contracts.records import ConfirmErasure, Erase, ErasedPart, SealedHashes
from carechain.contracts.recovery import RecoveryRules, SetPolicy
from carechain.contracts.relationships import PutSummary
from carechain.core.ids import derived_id
from carechain.core.limits import CONTESTED_WAITS, SUMMARY_BUCKET_BYTES
from carechain.core.message import Message
from carechain.core.quorum import Capsule, Label, ShareStatement, combined_point, statement_bytes
from carechain.core.scope import EVERYTHING
from carechain.core.vocabulary import Category, Purpose, Sensitivity
from carechain.node.keyholder_store import HolderSecret
from carechain.sealing.quorum import dkg
from carechain.sealing.quorum.capsule import seal_key
from carechain.sealing.quorum.release import BlindingSecret, make_share
from ceremonies import Player, Twist, keyholders
from ledger_vectors import Script, executed
from recoveries import (
    WAIT_S,
    approval_of,
    card_of,
    cards_of,
    finish_of,
    rotation_of,
    staff_rotation,
    start_of,
    terms_of,
    veto_of,
    with_key_of,
    withdrawal_of,
)
from world import CHAIN_ID, Actor, anchor_of, fresh, grant_of, record_id, seeded

VECTORS = Path(__file__).parent / "vectors" / "keys.json"
RULES = RecoveryRules(min_wait_s=10, default_wait_s=WAIT_S)
RECORD = "sealed"
DAY = 45_000
Written = tuple[int, list[bytes]]


class KeysScript(Script):
    """The blocks of these vectors, in order."""

    about = "Golden vectors of keys, written by tests/keys_vectors.py. Byte strings are hexadecimal."

    def __init__(self) -> None:
        super().__init__()
        self.life.world = fresh(recovery=RULES)
        # Holders are numbered by id: so the first of these players is number 1.
        self.players = [Player(one) for one in sorted(self.life.world.members, key=lambda one: one.id)]

    def blocks(self) -> Iterator[Written]:
        """Time and transactions of every block."""
        life = self.life
        yield self.written(self.people)
        yield from self.generation()
        yield from self.resharing()
        for write_block in (self.records, self.shares, self.erasure):
            yield self.written(write_block)
        yield life.time_s, []
        yield from self.nobody_comes()
        for write_block in (self.departure, self.rotations, self.no_way_out, self.loss):
            yield self.written(write_block)
        yield from self.recovery()
        life.time_s += 100_000
        yield life.time_s, [life.sent[0]]

    def written(self, part: Any) -> Written:
        """A block with this part."""
        time_s = self.life.time_s
        part()
        return time_s, self.cut()

    # --- the consortium key -------------------------------------------------------------------------------

    def people(self) -> None:
        """Staff and patients; a doctor elsewhere may read. A release is reported where nobody holds a share yet."""
        world = self.life.world
        self.txs += self.life.founding()
        self.send(grant_of(world.steve, world.bert, scope=EVERYTHING), by=world.steve)
        ticket = self.ticket()
        self.send(ReportShares(ticket=ticket, records=1, digest=seeded("too early")), by=world.b)

    def generation(self) -> Iterator[Written]:
        """Six are asked. 1 deals badly, 4 complains falsely, 3 shows another public part, 6 says nothing: 2 and 5 hold.

        What 3 had dealt still counts, so the others show it.
        """
        first, _, third, fourth, _, _ = self.players
        first.twist, third.twist, fourth.twist = spoils_the_last_pair, shows_another_part, complains_of(2)
        yield self.written(lambda: self.vote(keyholders(*self.players, threshold=2)))
        yield from self.ceremony(*self.players[:5])
        for one in self.players:
            one.twist = None

    def resharing(self) -> Iterator[Written]:
        """The two hand the key to all six, of whom three are needed from then on; then 1 deals badly, and 5 hold it."""
        for twist in (None, spoils_the_last_pair):
            self.players[0].twist = twist
            yield self.written(lambda: self.vote(keyholders(*self.players)))
            yield from self.ceremony(*self.players)

    def nobody_comes(self) -> Iterator[Written]:
        """A resharing that fails; it is closed too early once."""
        yield self.written(lambda: self.vote(keyholders(*self.players[:4])))
        yield self.written(lambda: self.close(self.under_way()))
        yield from self.ceremony()

    def ceremony(self, *players: Player) -> Iterator[Written]:
        """The ceremony under way to its end: a block for all who speak in a round, and one to close it if it must."""
        ceremony = self.under_way()
        while (view := self.view_of(ceremony)).row.is_open:
            for player in players:
                said = player.says(view)
                if said is not None:
                    self.send(said, by=player.organisation)
            if not self.txs:
                self.life.time_s = view.row.round_opened_s + view.row.round_s
                self.close(ceremony)
            yield self.life.time_s, self.cut()
        for player in players if view.row.phase is Phase.DONE else ():
            share = player.participant(view).final_share()
            if share is not None:
                player.shares[view.row.epoch] = share

    def close(self, ceremony: bytes) -> None:
        self.send(CloseRound(ceremony=ceremony), by=self.life.world.a)

    def under_way(self) -> bytes:
        found = self.session.ledger().contracts.keyring.under_way()
        assert found is not None
        return found[0]

    def view_of(self, ceremony: bytes) -> CeremonyView:
        view = ceremony_view(self.session.ledger().contracts.keyring, ceremony)
        assert view is not None
        return view

    def departure(self) -> None:
        """A keyholder is put out of the consortium."""
        self.vote(RemoveMember(member=self.life.world.f.id))

    def loss(self) -> None:
        """Two keyholders say that they have lost their shares: after the first one nobody else can be spared."""
        key = self.key()
        left = [one.organisation for one in self.players if key.holder(one.organisation.id) is not None]
        for one in left[:2]:
            self.send(LoseShare(epoch=key.epoch), by=one)

    # --- sealed records -----------------------------------------------------------------------------------

    def records(self) -> None:
        """A sealed record with two versions, an open one; and an object that belongs to another record."""
        world = self.life.world
        for version in (1, 2):
            sealed = sealed_as(self.capsule(version), f"object {version}")
            self.send(anchor_of(world.steve, RECORD, version=version, sealed=sealed), by=world.carl)
        self.send(anchor_of(world.steve, "open"), by=world.carl)
        stolen = sealed_as(self.capsule(1), "object 1")
        self.send(anchor_of(world.steve, "other", sealed=stolen), by=world.carl)

    def shares(self) -> None:
        """Three holders report shares, one of this epoch no more. A false share is accused, and a sound one in vain."""
        world, epoch = self.life.world, self.key().epoch
        ticket = self.released = self.ticket()
        self.send(ReportRelease(ticket=ticket, records=1, digest=seeded("release")), by=world.a)
        for player in self.players[:3]:
            self.send(ReportShares(ticket=ticket, records=1, digest=seeded("shares")), by=player.organisation)
        honest, liar = self.players[1:3]
        self.send(self.accusation(ticket, honest, honest.shares[epoch]), by=world.bert)
        for _ in range(2):
            self.send(self.accusation(ticket, liar, honest.shares[epoch]), by=world.bert)

    def erasure(self) -> None:
        """The patient has the record erased; who held something of it signs for that, and nothing is added to it."""
        world = self.life.world
        about = {"pseudonym": world.steve.id, "record": record_id(RECORD)}
        self.send(Erase(**about), by=world.steve)
        destroyed = int(ErasedPart.OBJECT | ErasedPart.CAPSULE | ErasedPart.SALTS)
        self.send(ConfirmErasure(**about, destroyed=destroyed), by=world.a)
        self.send(ConfirmErasure(**about, destroyed=int(ErasedPart.OBJECT)), by=world.b)
        self.send(ConfirmErasure(**about, destroyed=int(ErasedPart.OBJECT)), by=world.b)
        self.send(anchor_of(world.steve, RECORD, version=3), by=world.carl)

    def ticket(self) -> bytes:
        """The doctor of hospital b asks for everything."""
        world = self.life.world
        wanted = RequestAccess(pseudonym=world.steve.id, scope=EVERYTHING, purpose=Purpose.TREAT)
        return derived_id("ticket", self.send(wanted, by=world.bert), 0)

    def key(self) -> KeyRow:
        key = self.session.ledger().contracts.keyring.current()
        assert key is not None
        return key

    def capsule(self, version: int) -> Capsule:
        """The capsule of the record's key."""
        label = Label(
            chain_id=CHAIN_ID,
            pseudonym=self.life.world.steve.id,
            record=record_id(RECORD),
            version=version,
            category=Category.RESULT,
            sensitivity=Sensitivity.N,
            day=DAY,
        )
        entropy = seeded("capsule", version)
        return seal_key(self.key().public_key, label=label, key=seeded("record key", version), entropy=entropy)

    def accusation(self, ticket: bytes, player: Player, scalar: bytes) -> Accuse:
        """What the holder answers with this scalar for its share, as an accusation."""
        holder = self.key().holder(player.organisation.id)
        assert holder is not None
        about = {"ticket": ticket, "record": record_id(RECORD), "version": 1}
        sender = self.life.world.bert.id
        secret = BlindingSecret(chain_id=CHAIN_ID, sender=sender, entropy=seeded("blinding"), **about)
        combined = combined_point(self.capsule(1), secret.blinding)
        share = make_share(
            HolderSecret(epoch=self.key().epoch, index=holder.index, scalar=scalar),
            holder_key=holder.key,
            chain_id=CHAIN_ID,
            combined=combined,
            entropy=seeded("share", holder.index),
            **about,
        )
        statement = ShareStatement(combined=combined, share=share, **about)
        signature = player.organisation.signing.sign(statement_bytes(CHAIN_ID, statement))
        return Accuse(statement=statement, signature=signature)

    # --- keys of members, staff and patients --------------------------------------------------------------

    def rotations(self) -> None:
        """A member, a patient and a doctor get new keys; each is used, and the old ones no longer count."""
        world = self.life.world
        for party in (world.b, world.mary):
            second, third = (Actor(f"key {number} of {party.id.hex()}") for number in (2, 3))
            self.send(rotation_of(party, second), by=party)
            for signer in (party, with_key_of(party, second)):
                self.send(rotation_of(party, third), by=signer)
        key = Actor("the doctor's second key")
        self.send(staff_rotation(world.a, world.carl, key), by=world.a)
        self.send(anchor_of(world.steve, "by the new key"), by=with_key_of(world.carl, key))
        self.send(anchor_of(world.steve, "by the old key"), by=world.carl)

    def no_way_out(self) -> None:
        """A holder that changed its key is accused of what the old one signed: for tickets since then in vain."""
        bert, epoch = self.life.world.bert, self.key().epoch
        liar, other = self.players[4], self.players[3]
        self.send(rotation_of(liar.organisation, Actor("a liar's second key")), by=liar.organisation)
        for ticket in (self.ticket(), self.released):
            self.send(self.accusation(ticket, liar, other.shares[epoch]), by=bert)

    def recovery(self) -> Iterator[Written]:
        """A patient's key is replaced against its holder's objection, by guardians, cards and the registrar."""
        world, life = self.life.world, self.life
        steve, key = world.steve, Actor("the recovered key")
        terms = terms_of(world.bert, world.c, card=card_of(steve))
        yield self.written(lambda: self.send(SetPolicy(pseudonym=steve.id, terms=terms), by=steve))
        life.time_s += WAIT_S
        yield self.written(self.withdrawn_attempt)
        yield self.written(lambda: self.contested_attempt(key))
        life.time_s += CONTESTED_WAITS * WAIT_S
        yield self.written(lambda: self.finished_attempt(key))

    def withdrawn_attempt(self) -> None:
        """The registrar begins and thinks better of it."""
        world = self.life.world
        self.send(start_of(world.steve, Actor("a wrong key")), by=world.a)
        self.send(withdrawal_of(world.steve), by=world.a)

    def contested_attempt(self, key: Actor) -> None:
        """All agree but the old key; then it takes longer, and cannot be finished now."""
        world = self.life.world
        steve = world.steve
        self.send(start_of(steve, key, attempt=1), by=world.bert)
        self.send(approval_of(steve, key, attempt=1), by=world.c)
        self.send(veto_of(steve, attempt=1), by=steve)
        self.send(approval_of(steve, key, attempt=1), by=world.a)
        self.send(approval_of(steve, key, attempt=1, cards=cards_of(steve)), by=world.john)
        self.send(approval_of(steve, key, attempt=1), by=world.d)
        self.send(finish_of(steve, attempt=1), by=world.bert)

    def finished_attempt(self, key: Actor) -> None:
        """The new key is in force, and the old one dead."""
        steve = self.life.world.steve
        self.send(finish_of(steve, attempt=1), by=self.life.world.bert)
        for signer in (steve, with_key_of(steve, key)):
            self.send(PutSummary(pseudonym=steve.id, sealed=seeded("summary", size=SUMMARY_BUCKET_BYTES)), by=signer)


# --- who lies in a ceremony -------------------------------------------------------------------------------


def spoils_the_last_pair(_player: Player, _view: CeremonyView, said: Message | None) -> Message | None:
    """A deal whose last pair does not fit its commitments."""
    if not isinstance(said, Deal):
        return said
    last = said.shares[-1]
    return replace(said, shares=(*said.shares[:-1], bytes([last[0] ^ 1]) + last[1:]))


def shows_another_part(_player: Player, view: CeremonyView, said: Message | None) -> Message | None:
    """The public part of a polynomial that was never dealt."""
    if not isinstance(said, Extract):
        return said
    other = dkg.extract(seeded("another"), ceremony=view.ceremony, threshold=view.row.threshold)
    return replace(said, commitments=other)


def complains_of(dealer: int) -> Twist:
    """A complaint about a deal that was sound."""

    def twist(player: Player, view: CeremonyView, said: Message | None) -> Message | None:
        if not isinstance(said, Judge):
            return said
        participant = player.participant(view)
        received = next(one for one in participant._received() if one.dealer == dealer)
        return replace(said, complaints=(participant._key.complain(received, recipient=participant._holder),))

    return twist


def sealed_as(capsule: Capsule, name: str) -> SealedHashes:
    """What an anchor says of a sealed version whose object has this name."""
    return SealedHashes(capsule=sha256(capsule.encode()).digest(), object=seeded(name))


def vectors() -> dict[str, Any]:
    """The vectors as they are now."""
    return executed(KeysScript())


def main() -> None:
    """Write the file."""
    text = json.dumps(vectors(), ensure_ascii=False, indent=1)
    VECTORS.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
