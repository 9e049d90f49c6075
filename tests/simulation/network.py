"""The world around the toy of consensus: messages, clock, crashes, clients, and the eye that sees every node at once.

Goal: whatever a seed brings about, compare what the nodes do while they do it. Method: one queue of events in the order
of a simulated clock. Until the network heals, messages are dropped, delayed, doubled and overtaken, nodes are cut off
and stopped between any two steps, disks fail at a commit, time leaps while nothing happens, and proposers lie.
"""

import heapq
from pathlib import Path
from random import Random
from typing import Any

from abci_grammar import check as check_grammar
from abci_grammar import word_of
from carechain.chain.queries import Asker, View, ask
from carechain.chain.questions import LogPage
from carechain.chain.receipts import Receipt
from carechain.chain.tx import SIGNING_DOMAIN, AdmissionCode, Tx, parse
from carechain.contracts.access import Decided, EntryKind
from carechain.contracts.governance import Propose, SeatValidator, SetRotation, Vote
from carechain.contracts.validators import address_of, founding_keys
from carechain.core.crypto import BadSignature, verify
from carechain.core.evidence import Evidence, Offence
from carechain.core.ids import derived_id
from carechain.core.limits import BLOCK_TXS, EVIDENCE_PER_BLOCK, TX_LIFETIME_S
from carechain.core.party import Party
from carechain.core.rejection import Rejected
from carechain.engine.session import CommittedBlock, Session
from carechain.engine.txindex import admitted
from ledgers import Life
from simulation.agreement import BEAT_MS, Node, Outcome, Stopped, Value
from world import START_S, fresh, seeded

SEATS = "abcd"
KEYS = 4
"""Consensus keys that an organisation has at hand."""
MOST_EVENTS = 60_000
"""A run that needs more makes no progress."""


class Traffic(Life):
    """The mix of ``ledgers.py``, and what members decide about who validates."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.world = fresh(validators=SEATS)
        self.genesis_keys = founding_keys(self.genesis.validators, self.genesis.rotation)
        self.seated = [one for one in self.world.members if one.label in SEATS]

    def next(self, clock_ms: int) -> list[bytes]:
        """What clients send now."""
        self.time_s = clock_ms // 1000
        if not self.sent:
            txs = self.founding()
        elif self.rnd.random() < 0.12:
            txs = self.rnd.choice((self.announce, self.vote, self.vote))()
        else:
            txs = [self.transaction() for _ in range(self.rnd.randint(1, 4))]
        self.sent += txs
        return txs

    def announce(self) -> list[bytes]:
        """An organisation votes with another key from now on; sometimes one that is somebody else's."""
        member = self.rnd.choice(self.seated)
        return [self.sign(member.announcement(self.rnd.randrange(KEYS)), by=member)]

    def vote(self) -> list[bytes]:
        """A seat is taken or given, or the rotation changes, in one go."""
        change = self.rnd.choice(
            (
                SeatValidator(member=self.rnd.choice(self.seated).id, seated=self.rnd.random() < 0.5),
                SeatValidator(member=self.rnd.choice(self.seated).id, seated=True),
                SetRotation(every_blocks=self.rnd.randint(1, 3), active=self.rnd.randint(1, 4)),
                SetRotation(every_blocks=0, active=0),
            )
        )
        proposer, *voters = self.seated
        raw = self.sign(Propose(change=change), by=proposer)
        ballot = Vote(proposal=derived_id("proposal", parse(raw).id, 0), aye=True)
        return [raw, *(self.sign(ballot, by=one) for one in voters)]


class Network:
    """N nodes and everything between them. :meth:`run` raises ``AssertionError`` where they do not agree."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.rnd = Random(f"network {seed}")
        self.traffic = Traffic(seed)
        self.genesis = self.traffic.genesis
        self.founding_keys = self.traffic.genesis_keys
        self.start_ms = START_S * 1000
        self.now_ms = 0
        self.leapt_ms = 0
        self.last_height = self.rnd.randint(7, 12)
        self.heals_ms = self.rnd.randint(3_000, 9_000)
        self.block_txs = self.rnd.choice((3, 20_000))
        self.loss = self.rnd.choice((0.0, 0.05, 0.25))
        self.latency_ms = self.rnd.choice((20, 200, 900))
        self.lies = self.rnd.choice((0.0, 0.4))
        self.cut_off: list[int] = []
        self.healed = False
        self.crashes = 0
        self.answers_kept = 0
        self.proposals_refused = 0
        self._queue: list[tuple[int, int, int, int, str, tuple[Any, ...]]] = []
        self._events = 0
        self.owners: dict[bytes, int] = {}
        self.values: dict[int, Value] = {}
        self.outcomes: dict[int, Outcome] = {}
        self.blocks: dict[int, CommittedBlock] = {}
        self.acknowledged: dict[bytes, bytes] = {}
        """What some node told its clients of: the bytes and the id."""
        self._placed: dict[bytes, int] = {}
        self._verified: dict[tuple[bytes, bytes], bool] = {}
        self.outstanding: list[bytes] = []
        self.nodes = [
            Node(self, number, member, folder / member.label) for number, member in enumerate(self.traffic.seated)
        ]
        for node in self.nodes:
            for number in range(KEYS):
                self.owners[node.organisation.consensus_key(number).public_key] = node.number

    def owner_of(self, key: bytes) -> Node:
        """The node that votes with a key."""
        return self.nodes[self.owners[key]]

    @property
    def clock_ms(self) -> int:
        """What the clocks show, Unix milliseconds."""
        return self.start_ms + self.now_ms + self.leapt_ms

    # --- events -------------------------------------------------------------------------------------------

    def at(self, delay_ms: int, node: Node, kind: str, *args: Any) -> None:
        """Something happens at a node itself, unless it is started anew before."""
        self._put(delay_ms, node, node, kind, (len(node.runs), *args))

    def send(self, sender: Node, to: Node, kind: str, *args: Any) -> None:
        """A message, which may get lost, be late or come twice."""
        if sender is to:
            self._put(0, sender, to, kind, args)
            return
        rnd = self.rnd
        if not self.healed and (
            rnd.random() < self.loss or (sender.number in self.cut_off) != (to.number in self.cut_off)
        ):
            return
        for _ in range(1 if self.healed or rnd.random() < 0.9 else 2):
            self._put(rnd.randint(5, 20 if self.healed else self.latency_ms), sender, to, kind, args)

    def spread(self, sender: Node, kind: str, *args: Any, itself: bool = False) -> None:
        """A message to all the others."""
        for to in self.nodes:
            if itself or to is not sender:
                self.send(sender, to, kind, *args)

    def _put(self, delay_ms: int, sender: Node, to: Node, kind: str, args: tuple[Any, ...]) -> None:
        self._events += 1
        heapq.heappush(self._queue, (self.now_ms + delay_ms, self._events, sender.number, to.number, kind, args))

    def run(self) -> None:
        """One life: until the network has healed and all nodes have every block."""
        for node in self.nodes:
            self.at(0, node, "start")
            self.at(BEAT_MS, node, "beat")
        self.at(100, self.nodes[0], "clients")
        self.at(400, self.nodes[0], "trouble")
        while not (self.healed and all(node.is_up and node.height > self.last_height for node in self.nodes)):
            assert self._events < MOST_EVENTS, f"no progress: {[node.store.height for node in self.nodes]}"
            self.now_ms, _, sender, to, kind, args = heapq.heappop(self._queue)
            self._happen(self.nodes[sender], self.nodes[to], kind, args)

    def _happen(self, sender: Node, node: Node, kind: str, args: tuple[Any, ...]) -> None:
        if kind in ("clients", "trouble"):
            getattr(self, f"_{kind}")()
            return
        try:
            if kind == "start":
                if not node.is_up:
                    node.start()
            elif kind == "beat":
                self.at(BEAT_MS, node, "beat")
                if node.is_up:
                    self.spread(node, "behind", node.height)
            elif kind == "timeout":
                started, *rest = args
                if node.is_up and started == len(node.runs):
                    node.on_timeout(node, *rest)
            elif node.is_up:
                getattr(node, f"on_{kind}")(sender, *args)
        except Stopped:
            self._crash(node)

    def _crash(self, node: Node) -> None:
        self.crashes += 1
        node.stop(both=self.rnd.random() < 0.6)
        self.at(self.rnd.randint(0, 1_500), node, "start")

    def _clients(self) -> None:
        """Clients send something new, and again what they have heard nothing of."""
        rnd = self.rnd
        batch = self.traffic.next(self.clock_ms)
        again = [raw for raw in self.outstanding if rnd.random() < 0.3]
        self.outstanding = [raw for raw in [*self.outstanding, *batch] if raw not in self.acknowledged][-40:]
        for raw in [*batch, *again]:
            self._put(rnd.randint(0, 30), self.nodes[0], rnd.choice(self.nodes), "tx", (raw,))
        if min(node.store.height for node in self.nodes) < self.last_height:
            self.at(rnd.randint(80, 400), self.nodes[0], "clients")

    def _trouble(self) -> None:
        """Something goes wrong, or everything is well from now on."""
        rnd = self.rnd
        if self.now_ms >= self.heals_ms:
            self.healed = True
            self.cut_off = []
            for node in self.nodes:
                node.fuse = -1
                node.disk_fault = ""
            return
        node = rnd.choice(self.nodes)
        match rnd.randrange(8):
            case 0 | 1 | 2 | 3:
                node.fuse = rnd.randint(0, 30)
            case 4:
                node.disk_fault = rnd.choice(("before", "after"))
            case 5:
                self.cut_off = rnd.sample(range(len(self.nodes)), rnd.randint(0, 2))
            case 6:
                self.leapt_ms += rnd.choice((1_000, 100_000, 400_000))
            case 7:
                if node.is_up:
                    self._crash(node)
        self.at(rnd.randint(100, 600), self.nodes[0], "trouble")

    # --- what a liar proposes -----------------------------------------------------------------------------

    def tampered(self, value: Value, height: int) -> Value:
        """A proposal, or what a proposer with other wishes makes of it."""
        rnd = self.rnd
        evidence = (
            tuple(self._evidence(height) for _ in range(rnd.choice((0, 0, 0, 0, 0, 0, 1, 2)))) if height > 1 else ()
        )
        txs = list(value.txs)
        if rnd.random() < self.lies:
            for _ in range(rnd.randint(1, 5)):
                txs.insert(rnd.randint(0, len(txs)), self._stray(txs))
            if rnd.random() < 0.1:
                txs += [b""] * (BLOCK_TXS + 1 - len(txs))
            if rnd.random() < 0.05 and height > 1:
                evidence = (*evidence, *(self._evidence(height) for _ in range(EVIDENCE_PER_BLOCK)))
        return Value(value.time_ms, tuple(txs), evidence, value.proposer)

    def _stray(self, txs: list[bytes]) -> bytes:
        """Bytes that no honest proposer puts into a block: noise, or what is there already, or too late, or wrong."""
        rnd = self.rnd
        known = [*txs, *self.traffic.sent]
        whole = rnd.choice(known) if known else b""
        at = rnd.randrange(len(whole)) if whole else 0
        return rnd.choice(
            (rnd.randbytes(rnd.randint(0, 80)), whole, whole, whole[:at], whole[:at] + b"\x00" + whole[at:])
        )

    def _evidence(self, height: int) -> Evidence:
        rnd = self.rnd
        key = rnd.choice([*self.owners, seeded("nobody")])
        return Evidence(
            offence=rnd.choice((Offence.DOUBLE_VOTE, Offence.LIGHT_CLIENT_ATTACK)),
            address=address_of(key),
            height=rnd.randint(1, height - 1),
            time_s=START_S,
        )

    # --- what must hold -----------------------------------------------------------------------------------

    def decided(self, height: int, value: Value) -> None:
        """The toy itself never decides twice."""
        assert self.values.setdefault(height, value) == value

    def agree(self, node: Node, height: int, value: Value, outcome: Outcome) -> None:
        """Every execution of a block, the first and every repeated one on any node, gives the same answer."""
        assert self.outcomes.setdefault(height, outcome) == outcome, f"node {node.number} differs at height {height}"
        assert len(outcome.results) == len(value.txs)
        if not value.txs and not value.evidence and height > 1:
            assert outcome.app_hash == self.outcomes[height - 1].app_hash, "an empty block changed the state"

    def committed(self, node: Node, block: CommittedBlock) -> None:
        """A node has told others of a block: it is as everybody else's but for the seal."""
        value = self.values[block.height]
        first = self.blocks.setdefault(block.height, block)
        assert (block.header, block.txs, block.receipts) == (first.header, first.txs, first.receipts)
        assert block.sealed.keeper is not None
        assert block.sealed.keeper.party == node.organisation.id
        proposer = next(one for key, one in self.owners.items() if address_of(key) == value.proposer)
        assert block.header.producer == self.nodes[proposer].organisation.id
        assert block.header.evidence == value.evidence[:EVIDENCE_PER_BLOCK]
        assert (block.txs, block.time_s) == (value.txs, value.time_ms // 1000)
        for raw, receipt in _admitted(block):
            tx_id = self.acknowledged.setdefault(raw, parse(raw).id)
            assert self._placed.setdefault(tx_id, block.height) == block.height, "a transaction counted twice"
            assert receipt.code == 0 or receipt.events == ()

    def check_verdict(self, node: Node, raw: bytes, code: int) -> None:
        """What the pool is told follows from admission, never from what the contracts would say."""
        assert node.session is not None
        assert (code == 0) == self.is_admissible(node, raw, node.session.head.time_s), AdmissionCode(code)
        assert code == 0 or code in list(AdmissionCode)

    def check_chosen(self, node: Node, pool: list[bytes], chosen: list[bytes], time_s: int) -> None:
        """A proposal holds what may be admitted at its time, in the pool's order, up to the cap."""
        assert chosen == [raw for raw in pool if self.is_admissible(node, raw, time_s)][: self.block_txs]

    def is_admissible(self, node: Node, raw: bytes, time_s: int) -> bool:
        """Admission by another way: form, lifetime, once, a known signer, and a signature that holds for its key."""
        try:
            tx = parse(raw)
        except Rejected:
            return False
        session = node.session
        assert session is not None
        body = tx.body
        party = session.ledger().contracts.membership.party(body.sender)
        return (
            time_s < body.valid_until_s <= time_s + TX_LIFETIME_S
            and self._placed.get(tx.id, self.last_height + 1) > session.head.height
            and party is not None
            and self._holds(party, tx)
        )

    def _holds(self, party: Party, tx: Tx) -> bool:
        key = (party.public_key, tx.raw)
        if key not in self._verified:
            message = SIGNING_DOMAIN + tx.body_bytes
            try:
                verify(suite=party.suite, public_key=party.public_key, signature=tx.signature, message=message)
            except BadSignature:
                self._verified[key] = False
            else:
                self._verified[key] = True
        return self._verified[key]

    # --- in the end ---------------------------------------------------------------------------------------

    def check_end(self) -> None:
        """All nodes have one history; what was acknowledged is in it once; a replay of it gives the same roots."""
        for node in self.nodes:
            self._check_history(node)
            self._check_access_logs(node)
            for clean, notes in node.runs:
                check_grammar(notes, clean=clean)
        node = self.rnd.choice(self.nodes)
        assert node.session is not None
        assert node.session.ledger().contracts.check_state() == []
        node.stop(both=True)
        # Opening without the tree executes every block again, from the genesis on and without any crash.
        with Session.open(node.home, self.genesis, keeper=node.organisation.id, rebuild=True) as session:
            assert session.head.app_hash == self.outcomes[self.last_height].app_hash

    def _check_history(self, node: Node) -> None:
        session = node.session
        assert session is not None
        heights = range(1, self.last_height + 1)
        found = [session.block(height) for height in heights]
        assert [one.header for one in found] == [self.blocks[height].header for height in heights]
        assert [one.receipts for one in found] == [self.blocks[height].receipts for height in heights]
        assert session.head.app_hash == session.snapshot().root_hash == self.outcomes[self.last_height].app_hash
        ids = [parse(raw).id for one in found for raw, _ in _admitted(one)]
        assert len(set(ids)) == len(ids)
        assert sorted(ids) == sorted(self.acknowledged.values())
        for raw, tx_id in self.acknowledged.items():
            height, index = session.locate(tx_id) or (0, 0)
            assert found[height - 1].txs[index] == raw

    def _check_access_logs(self, node: Node) -> None:
        """Every decision about access, refused ones above all, is in the log that the patient reads at any node."""
        assert node.session is not None
        head = node.session.head
        view = View(snapshot=node.session.snapshot(), height=head.height, time_s=head.time_s)
        decided = [event for block in self.blocks.values() for one in block.receipts for event in one.events]
        for patient in (self.traffic.world.steve, self.traffic.world.mary):
            party = view.contracts.membership.party(patient.id)
            if party is None:
                continue
            rows = ask(view, Asker(patient.id, party), "access.log", LogPage(patient.id)).rows
            wanted = [one for one in decided if isinstance(one, Decided) and one.pseudonym == patient.id]
            lines = {row.line.ticket: row.line.decision for row in rows if row.line.kind is EntryKind.REQUEST}
            assert lines == {one.ticket: one.decision for one in wanted}

    def seen(self) -> dict[str, int]:
        """How often what this simulation is for has happened."""
        events = [event for block in self.blocks.values() for one in block.receipts for event in one.events]
        words = [word_of(notes) for node in self.nodes for _, notes in node.runs]
        return {
            "crashes": self.crashes,
            "refused accesses": sum(isinstance(one, Decided) and bool(one.decision) for one in events),
            "validator changes": sum(bool(one.updates) for one in self.outcomes.values()),
            "evidence": sum(bool(one.evidence) for one in self.values.values()),
            "blocks with what is not admitted": sum(len(_admitted(one)) < len(one.txs) for one in self.blocks.values()),
            "proposals refused": self.proposals_refused,
            "blocks replayed by the handshake": sum("F" in word[:3] for word in words),
            "init_chain repeated": sum(word.startswith("IN") for word in words) - len(self.nodes),
            "proposals that were not decided": sum(word.count("R") - word.count("F") for word in words),
            "answers kept by the engine": self.answers_kept,
        }


def _admitted(block: CommittedBlock) -> list[tuple[bytes, Receipt]]:
    return [(raw, receipt) for raw, receipt in zip(block.txs, block.receipts, strict=True) if admitted(receipt)]
