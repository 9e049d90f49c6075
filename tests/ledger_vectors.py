"""Write ``vectors/ledger.json``: the golden vectors of the ledger. Run it when the protocol is meant to change.

    PYTHONPATH=src:tests python tests/ledger_vectors.py

The vectors hold a genesis, and blocks with height, time and transactions as bytes; for each block the three roots, the
receipts as bytes and what they say. Here and in ``consortium_vectors.py`` and ``keys_vectors.py`` every kind of message
is sent at least once and succeeds; here come also random traffic, bytes that fail admission, empty blocks and a long
silence. Any engine that is given these blocks must come to these roots: the embedded one and CometBFT replay the same
files. ``sealed`` is the header as the embedded engine's producer seals it.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from carechain.chain.genesis import genesis_hash, write
from carechain.chain.receipts import encode_receipt
from carechain.chain.transition import Block
from carechain.chain.tx import parse
from carechain.contracts.access import ReportRelease, RequestAccess, RevokeTicket
from carechain.contracts.consent.schema import (
    Answer,
    AnswerRequest,
    Ask,
    Dismiss,
    DropRule,
    Extend,
    Narrow,
    Renounce,
    Revoke,
    SetRule,
    Who,
    Withdraw,
)
from carechain.contracts.governance import AcceptAgreement, AdmitMember, EndAgreement, OfferAgreement, Propose, Vote
from carechain.contracts.membership import DismissStaff, RenewStaff, ReplaceAuthority, SetLapse
from carechain.contracts.relationships import Leave, PutSummary
from carechain.core.codec import encode
from carechain.core.ids import derived_id
from carechain.core.scope import EVERYTHING
from carechain.core.vocabulary import Action, OrganisationKind, Purpose, Role, Sensitivity
from carechain.engine.session import CommittedBlock, Session
from ledgers import Life, engine_at
from world import (
    LATER_S,
    RESULTS,
    TREAT,
    Actor,
    Organisation,
    anchor_of,
    anything,
    appoint_message,
    bind_message,
    enrolment_of,
    grant_of,
    seeded,
    wallet_of,
)

VECTORS = Path(__file__).parent / "vectors" / "ledger.json"
RANDOM_BLOCKS = 8


class Script:
    """The blocks of the vectors, in order."""

    about = "Golden vectors of the ledger, written by tests/ledger_vectors.py. Byte strings are hexadecimal."
    session: Session
    """The ledger as it stands before the block that is being written."""

    def __init__(self) -> None:
        self.life = Life(2026)
        self.txs: list[bytes] = []

    def send(self, *messages: Any, by: Any) -> bytes:
        """Put a transaction into the block being written; returns its id."""
        raw = self.life.sign(*messages, by=by)
        self.txs.append(raw)
        return parse(raw).id

    def vote(self, change: Any) -> None:
        """Four of six members decide something."""
        proposer, *voters = self.life.world.members[:4]
        proposal = derived_id("proposal", self.send(Propose(change=change), by=proposer), 0)
        for member in voters:
            self.send(Vote(proposal=proposal, aye=True), by=member)

    def cut(self) -> list[bytes]:
        """End the block."""
        txs, self.txs = self.txs, []
        self.life.sent += txs
        self.life.time_s += 7
        return txs

    def blocks(self) -> Iterator[tuple[int, list[bytes]]]:
        """Time and transactions of every block."""
        life = self.life
        for write_block in (self.people, self.tree, self.inbox, self.access, self.consortium, self.farewell):
            time_s = life.time_s
            write_block()
            yield time_s, self.cut()
            yield life.time_s, []
        for _ in range(RANDOM_BLOCKS):
            # The block's time is the one at which its transactions were made.
            txs = life.next_block()
            yield life.time_s, txs
        life.time_s += 100_000
        yield life.time_s, []
        yield life.time_s, [life.sent[0], life.anchor(), life.grant()]

    def people(self) -> None:
        """Staff, patients, a family member, a sealed summary."""
        world, life = self.life.world, self.life
        self.txs += life.founding()
        for org, one, role in ((world.a, world.anna, Role.ORGANISATION_ADMIN), (world.a, world.rosa, Role.REGISTRAR)):
            self.send(enrolment_of(one, org.certify(one, role)), by=org)
        self.send(RenewStaff(certificate=world.a.certify(world.john, Role.LAB_TECHNICIAN)), by=world.anna)
        self.send(SetLapse(days=30), by=world.anna)
        lee = wallet_of("李雷").pseudonym(world.a.id)
        self.send(bind_message(lee, world.a.secret.id_hash("mrn", "病历-7")), by=world.rosa)
        self.send(PutSummary(pseudonym=lee.id, sealed=seeded("summary", size=1024)), by=lee)
        mother = self.mother = Actor("mother", organisation=world.steve.id)
        self.send(appoint_message(mother, world.steve), by=world.steve)

    def tree(self) -> None:
        """Grants: a root, one passed on, narrowed, extended, revoked, renounced; records with two versions."""
        steve, bert, carl = self.life.world.steve, self.life.world.bert, self.life.world.carl
        root = derived_id("grant", self.send(anything(steve, carl), by=steve), 0)
        leaf = derived_id("grant", self.send(grant_of(steve, bert, parent=root), by=carl), 0)
        terms = {"pseudonym": steve.id, "grant_id": root, "scope": RESULTS, "purposes": TREAT, "expires_s": LATER_S}
        self.send(Narrow(**terms, actions=int(Action.READ | Action.DELEGATE)), by=steve)
        self.send(Extend(**terms | {"scope": EVERYTHING}, actions=int(Action.READ | Action.DELEGATE)), by=steve)
        self.send(Renounce(pseudonym=steve.id, grant_id=leaf), by=bert)
        self.send(Revoke(pseudonym=steve.id, grant_id=root), by=self.mother)
        self.send(anchor_of(steve, "lipids"), by=carl)
        self.send(anchor_of(steve, "lipids", version=2, sensitivity=Sensitivity.R), anchor_of(steve, "ecg"), by=carl)

    def inbox(self) -> None:
        """Requests and standing rules."""
        steve, bert = self.life.world.steve, self.life.world.bert
        ask = Ask(pseudonym=steve.id, scope=RESULTS, actions=int(Action.READ), purpose=Purpose.TREAT, expires_s=LATER_S)
        first = derived_id("request", self.send(ask, by=bert), 0)
        answer = AnswerRequest(pseudonym=steve.id, request_id=first, approve=True, scope=RESULTS, expires_s=LATER_S)
        self.send(answer, by=steve)
        second = derived_id("request", self.send(ask, by=bert), 0)
        self.send(Withdraw(pseudonym=steve.id, request_id=second), by=bert)
        rule = SetRule(
            pseudonym=steve.id,
            rule=1,
            who=Who(organisation=self.life.world.b.id),
            purposes=TREAT,
            scope=RESULTS,
            answer=Answer.ALLOW,
            expires_s=LATER_S,
        )
        self.send(rule, by=steve)
        self.send(DropRule(pseudonym=steve.id, rule=1), by=steve)

    def access(self) -> None:
        """Tickets: one allowed, reported and revoked, one refused."""
        world = self.life.world
        wanted = {"pseudonym": world.steve.id, "scope": RESULTS}
        ticket = derived_id("ticket", self.send(RequestAccess(**wanted, purpose=Purpose.TREAT), by=world.bert), 0)
        self.send(ReportRelease(ticket=ticket, records=2, digest=seeded("release")), by=world.a)
        self.send(RevokeTicket(ticket=ticket), by=world.steve)
        self.send(RequestAccess(**wanted, purpose=Purpose.HRESCH), by=world.bert)

    def consortium(self) -> None:
        """A member is admitted by vote; an agreement is made and ended; an authority is replaced."""
        world = self.life.world
        newcomer = Organisation("g", kind=OrganisationKind.HOSPITAL)
        change = Propose(change=AdmitMember(new=newcomer.as_new()))
        proposal = derived_id("proposal", self.send(change, by=world.a), 0)
        for member in (world.b, world.c, world.d):
            self.send(Vote(proposal=proposal, aye=True), by=member)
        terms = seeded("terms")
        self.send(OfferAgreement(other=world.b.id, terms=terms, expires_s=LATER_S), by=world.a)
        self.send(AcceptAgreement(other=world.a.id, terms=terms), by=world.b)
        self.send(EndAgreement(other=world.b.id), by=world.a)
        second = world.b.another_authority()
        self.send(ReplaceAuthority(certificate=second.certificate), by=world.b)

    def farewell(self) -> None:
        """A representative, a member of staff and a patient go."""
        world = self.life.world
        self.send(Dismiss(pseudonym=world.steve.id, representative=self.mother.id), by=world.steve)
        self.send(DismissStaff(party=world.john.id), by=world.anna)
        self.send(Leave(pseudonym=world.mary.id), by=world.mary)


def vectors() -> dict[str, Any]:
    """The vectors as they are now."""
    return executed(Script())


def executed(script: Script) -> dict[str, Any]:
    """What one producer's ledger makes of a script."""
    life = script.life
    with TemporaryDirectory() as folder:
        script.session = session = engine_at(Path(folder), life).session
        founded = session.head.app_hash
        blocks = []
        for height, (time_s, txs) in enumerate(script.blocks(), 1):
            session.finalize(Block(height=height, time_s=time_s, txs=tuple(txs)))
            blocks.append(described(session.commit(life.producer)))
        session.close()
    return {
        "about": script.about,
        "genesis": json.loads(write(life.genesis)),
        "genesis_hash": genesis_hash(life.genesis).hex(),
        "genesis_app_hash": founded.hex(),
        "blocks": blocks,
    }


def described(block: CommittedBlock) -> dict[str, Any]:
    """One block: what goes in, and what must come out."""
    header = block.header
    return {
        "height": header.height,
        "time_s": header.time_s,
        "txs": [raw.hex() for raw in block.txs],
        "tx_root": header.tx_root.hex(),
        "receipt_root": header.receipt_root.hex(),
        "app_hash": header.app_hash.hex(),
        "sealed": encode(block.sealed).hex(),
        "receipts": [
            {
                "bytes": encode_receipt(receipt).hex(),
                "code": receipt.code,
                "message": receipt.message,
                "events": msgspec.to_builtins(receipt.events, builtin_types=()),
            }
            for receipt in block.receipts
        ],
    }


def main() -> None:
    """Write the file."""
    text = json.dumps(vectors(), ensure_ascii=False, indent=1)
    VECTORS.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
