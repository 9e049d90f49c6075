"""A busy story that touches every contract, told the same way every time; prints what it led to.

Run by ``test_determinism.py`` in interpreters of their own.
"""

import sys

from carechain.chain.header import receipt_root
from carechain.contracts.access import RequestAccess
from carechain.contracts.consent.schema import Answer, Ask, Revoke, SetRule, TreatmentPolicy, Who
from carechain.contracts.governance import AcceptAgreement, OfferAgreement, Propose, RemoveMember
from carechain.contracts.membership import DismissStaff, SetLapse
from carechain.contracts.relationships import Leave, PutSummary
from carechain.core.scope import EVERYTHING
from carechain.core.vocabulary import Purpose
from world import LATER_S, RESULTS, TREAT, World, anchor_of, anything, fresh, grant_of, seeded


def tell() -> tuple[str, str, str]:
    """The state root, the receipts' root and the hash of Steve's access log after the story."""
    world: World = fresh(policy=TreatmentPolicy(enabled=True))
    steve = world.steve
    receipts = []
    asking = RequestAccess(pseudonym=steve.id, scope=RESULTS, purpose=Purpose.TREAT)
    for number in range(12):
        receipts += world.block(
            world.sign(anchor_of(steve, f"record {number}"), by=steve),
            world.sign(asking, by=(world.carl, world.bert, world.rita, world.anna)[number % 4]),
            world.sign(grant_of(steve, world.carl, world.bert, world.a), by=steve),
            world.sign(anchor_of(world.mary, f"record {number}"), by=world.carl),
            world.sign(
                Ask(pseudonym=steve.id, scope=EVERYTHING, actions=3, purpose=1, expires_s=LATER_S), by=world.bina
            ),
        )
    root = world.grant(anything(steve, world.carl), by=steve)
    world.grant(anything(steve, world.bert, parent=root), by=world.carl)
    rule = SetRule(
        pseudonym=steve.id,
        rule=9,
        who=Who(organisation=world.b.id),
        purposes=TREAT,
        scope=EVERYTHING,
        answer=Answer.DENY,
        expires_s=LATER_S,
    )
    for message, by in (
        (rule, steve),
        (Revoke(pseudonym=steve.id, grant_id=root), steve),
        (PutSummary(pseudonym=steve.id, sealed=bytes(2048)), steve),
        (OfferAgreement(other=world.b.id, terms=seeded("terms"), expires_s=LATER_S), world.a),
        (AcceptAgreement(other=world.a.id, terms=seeded("terms")), world.b),
        (Propose(change=RemoveMember(member=world.f.id)), world.a),
        (SetLapse(days=5), world.b),
        (DismissStaff(party=world.carl.id), world.anna),
        (Leave(pseudonym=steve.id), steve),
        (asking, world.bert),
    ):
        receipts.append(world.run(message, by=by))
    world.appoint("aunt", world.mary)
    head = world.contracts().access.log_heads.get(steve.id)
    return world.root_hash.hex(), receipt_root(receipts).hex(), head.running.hex() if head else ""


if __name__ == "__main__":
    sys.stdout.write(" ".join(tell()))
