"""A life for an embedded ledger: blocks of signed transactions that follow from a seed alone, good and bad ones.

Goal: engine tests, the simulator, the crash test and the golden vectors run the same kind of traffic. Method: the
people of ``world.py`` send founding messages, then a random but seeded mix of anchors, access requests, grants and
revocations, rejected messages, duplicates, expired, wrongly signed and meaningless bytes.
"""

from pathlib import Path
from random import Random

from carechain.chain.genesis import Genesis
from carechain.chain.tx import parse
from carechain.contracts.access import RequestAccess
from carechain.contracts.consent.schema import Revoke
from carechain.core.ids import derived_id
from carechain.core.scope import EVERYTHING
from carechain.core.vocabulary import Category, Purpose, Role
from carechain.engine.embedded import BlockProducer, EmbeddedEngine
from carechain.engine.session import Checkpoints, CommittedBlock, Session
from carechain.sdk.wallet import Pseudonym
from world import (
    READ_WRITE_PASS_ON,
    START_S,
    Actor,
    World,
    anchor_of,
    bind_message,
    enrolment_of,
    fresh,
    grant_of,
    wallet_of,
)

SMALL = Checkpoints(blocks=4, txs=40)
"""Checkpoints often enough for a short test to see some."""


class Life:
    """What happens on one ledger, block by block; the same seed gives the same bytes."""

    def __init__(self, seed: int = 0) -> None:
        self.world: World = fresh()
        self.rnd = Random(seed)
        self.time_s = START_S
        self.sent: list[bytes] = []
        self.grants: list[bytes] = []
        self.records = 0

    @property
    def genesis(self) -> Genesis:
        return self.world.genesis

    @property
    def producer(self) -> BlockProducer:
        return BlockProducer.of(self.world.a.signing)

    def sign(self, *messages: object, by: Actor | Pseudonym, valid_s: int = 300) -> bytes:
        """A transaction that is valid for ``valid_s`` from the present block time on."""
        return self.world.sign(*messages, by=by, valid_until_s=self.time_s + valid_s)

    def founding(self) -> list[bytes]:
        """Staff, two patients, and a grant that lets hospital a write."""
        world = self.world
        staff = ((world.a, world.carl, Role.DOCTOR), (world.a, world.john, Role.LAB_TECHNICIAN))
        staff += ((world.b, world.bert, Role.DOCTOR),)
        txs = [self.sign(enrolment_of(one, org.certify(one, role)), by=org) for org, one, role in staff]
        for patient, mrn in ((world.steve, "MRN-1"), (world.mary, "MRN-2")):
            txs.append(self.sign(bind_message(patient, world.a.secret.id_hash("mrn", mrn)), by=world.a))
            grant = grant_of(patient, world.a, scope=EVERYTHING, actions=READ_WRITE_PASS_ON)
            txs.append(self.sign(grant, by=patient))
        return txs

    def next_block(self, *, most: int = 8) -> list[bytes]:
        """The next block's transactions; every few blocks there are none. Time moves on by 0 to 40 seconds."""
        self.time_s += self.rnd.choice((0, 1, 5, 40))
        if not self.sent:
            txs = self.founding()
        elif self.rnd.random() < 0.2:
            txs = []
        else:
            txs = [self.transaction() for _ in range(self.rnd.randint(1, most))]
        self.sent += txs
        return txs

    def transaction(self) -> bytes:
        """One transaction of the mix."""
        kinds = (self.anchor, self.anchor, self.anchor, self.request, self.grant, self.revoke, self.stray)
        return self.rnd.choice(kinds)()

    def anchor(self) -> bytes:
        """A record written by somebody who may."""
        self.records += 1
        patient = self.rnd.choice((self.world.steve, self.world.mary))
        author = self.rnd.choice((self.world.carl, patient))
        return self.sign(anchor_of(patient, f"record {self.records}", locator=bytes(64)), by=author)

    def request(self) -> bytes:
        """An access request: allowed at hospital a, refused elsewhere unless a grant says otherwise."""
        by = self.rnd.choice((self.world.carl, self.world.bert, self.world.john))
        patient = self.rnd.choice((self.world.steve, self.world.mary))
        return self.sign(RequestAccess(pseudonym=patient.id, scope=EVERYTHING, purpose=Purpose.TREAT), by=by)

    def grant(self) -> bytes:
        """A patient lets a doctor of hospital b read."""
        raw = self.sign(grant_of(self.world.steve, self.world.bert, scope=EVERYTHING), by=self.world.steve)
        self.grants.append(derived_id("grant", parse(raw).id, 0))
        return raw

    def revoke(self) -> bytes:
        """An end to one of those grants, or a rejection when there is none."""
        grant_id = self.grants.pop() if self.grants else bytes(32)
        return self.sign(Revoke(pseudonym=self.world.steve.id, grant_id=grant_id), by=self.world.steve)

    def stray(self) -> bytes:
        """What goes wrong: a rejection, or something that fails admission."""
        world = self.world
        good = self.anchor()
        return self.rnd.choice(
            (
                self.sign(anchor_of(world.steve, "not his patient"), by=world.bert),
                self.sign(anchor_of(world.steve, "gap", version=7, category=Category.IMAGE), by=world.carl),
                self.sign(anchor_of(world.steve, "late"), by=world.carl, valid_s=0),
                self.sign(anchor_of(world.steve, "stranger"), by=Actor("stranger")),
                self.rnd.choice(self.sent),
                good[:-1] + bytes([good[-1] ^ 1]),
                good[: len(good) // 2],
                b"",
            )
        )


def newcomer(number: int) -> Pseudonym:
    """A patient nobody knows yet."""
    return wallet_of(f"newcomer {number}").pseudonym(fresh().a.id)


def engine_at(
    home: Path, life: Life, *, checkpoints: Checkpoints | None = None, rebuild: bool = False
) -> EmbeddedEngine:
    """The embedded engine over the ledger in ``home``."""
    session = Session.open(home, life.genesis, checkpoints=checkpoints, rebuild=rebuild)
    return EmbeddedEngine(session, life.producer)


def run(engine: EmbeddedEngine, life: Life, blocks: int) -> list[CommittedBlock]:
    """Let ``blocks`` blocks happen."""
    produced = []
    for _ in range(blocks):
        txs = life.next_block()
        produced.append(engine.produce(time_s=life.time_s, txs=txs))
    return produced
