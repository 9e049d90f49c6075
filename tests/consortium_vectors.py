"""Write ``vectors/consortium.json``: the golden vectors of a ledger whose blocks several organisations agree on.

    PYTHONPATH=src:tests python tests/consortium_vectors.py

As ``ledger_vectors.py``, with the same traffic and what only a consortium has: nodes and consensus keys, votes about
seats, a rotation, an upgrade that comes into force at a height, evidence. A block also has its proposer, and what comes
out are also the changes of validators, as CometBFT is told them: one list of key and power for each block.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from msgspec import Struct

from carechain.chain.genesis import genesis_hash, write
from carechain.chain.transition import Block
from carechain.contracts.governance import Propose, SeatValidator, SetRotation, Upgrade, WithdrawProposal
from carechain.contracts.validators import RetireNode, active, address_of
from carechain.core.evidence import Evidence, Offence
from carechain.core.ids import derived_id
from carechain.core.limits import UPGRADE_NOTICE_BLOCKS
from carechain.core.vocabulary import Contract
from carechain.engine.embedded import BlockProducer
from carechain.engine.session import Session
from ledger_vectors import RANDOM_BLOCKS, Script, described
from world import START_S, fresh

VECTORS = Path(__file__).parent / "vectors" / "consortium.json"


class Planned(Struct, frozen=True):
    """A block before it is executed."""

    time_s: int
    txs: list[bytes]
    evidence: tuple[Evidence, ...] = ()


class ConsortiumScript(Script):
    """The blocks of these vectors, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.life.world = fresh(validators="abcd")

    def planned(self) -> Iterator[Planned]:
        """Every block. The upgrade is voted first, so that it is in force before the end."""
        life = self.life
        yield self.written(self.people, self.upgrade)
        yield Planned(life.time_s, [])
        for write_block in (self.tree, self.inbox, self.access, self.consortium, self.seats):
            yield self.written(write_block)
        yield Planned(life.time_s, [], (self.double_vote(),))
        yield self.written(self.turns)
        yield from (Planned(life.time_s, []) for _ in range(3))
        for _ in range(RANDOM_BLOCKS):
            txs = life.next_block()
            yield Planned(life.time_s, txs)
        yield self.written(self.withdrawal)
        yield self.written(self.farewell)
        life.time_s += 100_000
        yield Planned(life.time_s, [life.sent[0], life.anchor()], (self.double_vote(),))

    def written(self, *parts: Any) -> Planned:
        """A block with these parts."""
        time_s = self.life.time_s
        for part in parts:
            part()
        return Planned(time_s, self.cut())

    def upgrade(self) -> None:
        """The second version of governance, as soon as it may be; a message of it is not in force yet."""
        self.vote(Upgrade(contract=Contract.GOVERNANCE, version=2, height=1 + UPGRADE_NOTICE_BLOCKS))
        self.send(WithdrawProposal(proposal=bytes(32)), by=self.life.world.a)

    def seats(self) -> None:
        """A node comes and one goes, a key changes hands, one member gets a seat and another loses it."""
        world = self.life.world
        self.send(world.c.registration(1), by=world.c)
        self.send(RetireNode(node_id=world.f.node_id), by=world.f)
        self.send(world.b.announcement(1), by=world.b)
        self.send(world.c.announcement(key=world.b.consensus_key()), by=world.c)
        self.vote(SeatValidator(member=world.d.id, seated=False))
        self.send(world.e.announcement(), by=world.e)
        self.vote(SeatValidator(member=world.e.id, seated=True))

    def turns(self) -> None:
        """Two seats act at a time."""
        self.vote(SetRotation(every_blocks=2, active=2))

    def withdrawal(self) -> None:
        """A proposal is taken back, which version 2 of governance allows."""
        world = self.life.world
        change = Propose(change=SetRotation(every_blocks=1, active=1))
        proposal = derived_id("proposal", self.send(change, by=world.a), 0)
        self.send(WithdrawProposal(proposal=proposal), by=world.a)

    def double_vote(self) -> Evidence:
        """Hospital a's validator voted twice at the third height."""
        address = address_of(self.life.world.a.consensus_key().public_key)
        return Evidence(offence=Offence.DOUBLE_VOTE, address=address, height=3, time_s=START_S)


def vectors() -> dict[str, Any]:
    """The vectors as they are now."""
    script = ConsortiumScript()
    life, keeper = script.life, script.life.world.a
    with TemporaryDirectory() as folder, Session.open(Path(folder), life.genesis, keeper=keeper.id) as session:
        founded = session.head.app_hash
        sealer = BlockProducer.of(keeper.signing)
        blocks = []
        for height, plan in enumerate(script.planned(), 1):
            before = active(session.ledger().contracts.validators, height - 1)
            proposer = life.world.members[height % 4]
            session.finalize(Block(height=height, time_s=plan.time_s, txs=tuple(plan.txs), evidence=plan.evidence))
            block = described(session.commit(sealer, producer=proposer.id))
            after = active(session.ledger().contracts.validators, height)
            changes = [(key.hex(), 0) for key in before if key not in after]
            changes += [(key.hex(), 1) for key in after if key not in before]
            block["proposer"] = address_of(proposer.consensus_key().public_key).hex()
            block["evidence"] = [[int(one.offence), one.address.hex(), one.height, one.time_s] for one in plan.evidence]
            block["validators"] = sorted(changes)
            blocks.append(block)
    return {
        "about": "Golden vectors of a consortium, by tests/consortium_vectors.py. Byte strings are hexadecimal.",
        "genesis": json.loads(write(life.genesis)),
        "genesis_hash": genesis_hash(life.genesis).hex(),
        "genesis_app_hash": founded.hex(),
        "blocks": blocks,
    }


def main() -> None:
    """Write the file."""
    text = json.dumps(vectors(), ensure_ascii=False, indent=1)
    VECTORS.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
