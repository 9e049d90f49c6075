"""A toy of consensus that drives real nodes: ordered blocks by a quorum of two thirds, over a network that misbehaves.

Goal: N real sessions behind N real applications are called as CometBFT calls them, in every order that a bad network
and crashes bring about, and all of it follows from a seed. Method: the engine here agrees on each height as Paxos does,
with the validators of that height and more than two thirds of them as quorum; what it promised, accepted and decided is
durable, as CometBFT's write-ahead log and block store are. Around the application it does what CometBFT does: a block
is stored, executed, its answer stored, committed, the pool asked again, the engine's state stored; and after a crash
between any two of these steps the handshake of ``consensus/replay.go`` brings both sides together again. Validator
changes that are returned at a height act two heights later, and those that CometBFT would end itself over fail the run.

There are no Byzantine votes here: that a validator lies shows in what it proposes, and in evidence that blocks carry.
"""

from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from abci_wire import Channels, Dropped, hooks, init_chain, misbehavior_of
from carechain.contracts.validators import active, address_of
from carechain.core.evidence import Evidence
from carechain.core.limits import BLOCK_TXS, PROPOSAL_BYTES
from carechain.engine.cometbft.application import Application
from carechain.engine.embedded import BlockProducer
from carechain.engine.session import Checkpoints, CommittedBlock, Session

if TYPE_CHECKING:
    from simulation.network import Network
    from world import Organisation

ACCEPT = 1
ROUND_MS = 900
PAUSE_MS = 250
"""How long after a block the next one is proposed."""
BEAT_MS = 700
CHECKPOINTS = Checkpoints(blocks=4, txs=25)


class Stopped(BaseException):
    """The program ends here. Not an Exception: nothing may catch it and go on."""


class Value(Struct, frozen=True):
    """What a height may decide on: a block as the engine has it."""

    time_ms: int
    txs: tuple[bytes, ...]
    evidence: tuple[Evidence, ...]
    proposer: bytes
    """The address of the proposer's key."""

    @property
    def digest(self) -> bytes:
        parts = (self.time_ms, self.txs, self.evidence, self.proposer)
        return sha256(repr(parts).encode()).digest()

    @property
    def time(self) -> dict[str, int]:
        """As a message has it."""
        return {"seconds": self.time_ms // 1000, "nanos": self.time_ms % 1000 * 1_000_000}


class Outcome(Struct, frozen=True):
    """What an application answered for a block; all must answer alike."""

    app_hash: bytes
    results: tuple[tuple[int, bytes], ...]
    updates: tuple[tuple[bytes, int], ...]

    @classmethod
    def of(cls, answer: Any) -> "Outcome":
        return cls(
            answer.app_hash,
            tuple((one.code, one.data) for one in answer.tx_results),
            tuple((one.pub_key.ed25519, one.power) for one in answer.validator_updates),
        )


class Voting(Struct):
    """What a node has bound itself to at one height; durable."""

    promise: int = 0
    accepted: tuple[int, Value] | None = None
    proposed: dict[int, Value] = {}


class Store:
    """The engine's own disk. It is written in single steps, and a crash falls between them."""

    def __init__(self) -> None:
        self.blocks: list[Value] = []
        self.height = 0
        self.app_hash = b""
        self.sets: dict[int, tuple[bytes, ...]] = {}
        self.response: tuple[int, Outcome] | None = None
        self.voting = Voting()

    @property
    def is_new(self) -> bool:
        return not self.sets

    def found(self, app_hash: bytes, keys: tuple[bytes, ...]) -> None:
        """The answer to ``init_chain``: the founding validators act at the first two heights."""
        self.app_hash = app_hash
        self.sets = {1: keys, 2: keys}

    def next_set(self, height: int, updates: tuple[tuple[bytes, int], ...]) -> tuple[bytes, ...]:
        """The validators at ``height + 2``; as strict as CometBFT, which ends itself over anything else."""
        present = self.sets[height + 1]
        keys = [key for key, _ in updates]
        assert len(set(keys)) == len(keys), "a validator is changed twice"
        assert all(power in (0, 1) and len(key) == 32 for key, power in updates)
        assert all(power or key in present for key, power in updates), "somebody is removed who is no validator"
        assert all(not power or key not in present for key, power in updates), "a change that changes nothing"
        found = {*present, *(key for key, power in updates if power)} - {key for key, power in updates if not power}
        assert found, "nobody decides any more"
        return tuple(sorted(found))

    def settle(self, height: int, outcome: Outcome) -> None:
        """The block is executed on both sides."""
        self.sets[height + 2] = self.next_set(height, outcome.updates)
        self.app_hash = outcome.app_hash
        self.height = height
        self.voting = Voting()


class FaultyLog:
    """The block log of a node, which may be stopped before or after it has written, or fail."""

    def __init__(self, log: Any, node: "Node") -> None:
        self._log = log
        self._node = node

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def append(self, *args: Any) -> None:
        self._node.burn()
        fault, self._node.disk_fault = self._node.disk_fault, ""
        if fault == "before":
            raise OSError(28, "No space left on device")
        self._log.append(*args)
        if fault == "after":
            raise OSError(5, "Input/output error")
        self._node.burn()


class Node:
    """One organisation's node: its application and session, and the toy engine before them."""

    def __init__(self, network: "Network", number: int, organisation: "Organisation", home: Path) -> None:
        self.network = network
        self.number = number
        self.organisation = organisation
        self.home = home
        self.store = Store()
        self.session: Session | None = None
        self.application: Application | None = None
        self.channels: Channels | None = None
        self.runs: list[tuple[bool, list[Any]]] = []
        self.fuse = -1
        self.disk_fault = ""
        self.durable = 0
        """The height that this node has told others it has."""
        self.skew_ms = network.rnd.randint(-1500, 1500)
        self.failure: BaseException | None = None
        self._forget()

    def _forget(self) -> None:
        """What the engine had in memory."""
        self.pool: dict[bytes, None] = {}
        self._fresh_height()

    def _fresh_height(self) -> None:
        self.round = self.store.voting.promise
        self.promises: dict[int, dict[int, tuple[int, Value] | None]] = {}
        self.votes: dict[tuple[int, bytes], list[int]] = {}
        self.values: dict[bytes, Value] = {}
        self.judged: list[int] = []

    # --- starting and stopping ----------------------------------------------------------------------------

    @property
    def is_up(self) -> bool:
        return self.channels is not None

    @property
    def height(self) -> int:
        """The height that is being decided."""
        return self.store.height + 1

    @property
    def validators(self) -> tuple[bytes, ...]:
        return self.store.sets[self.height]

    def burn(self) -> None:
        """One step; at the last one the program ends."""
        if self.fuse == 0:
            raise Stopped
        self.fuse -= 1

    def start(self) -> None:
        """Both programs, or the engine alone where the application outlived it."""
        if self.session is None:
            self.session = Session.open(
                self.home, self.network.genesis, keeper=self.organisation.id, checkpoints=CHECKPOINTS
            )
            self.session._log = FaultyLog(self.session._log, self)
            told = hooks(committed=self._committed, failed=self._failed)
            self.application = Application(
                self.session, BlockProducer.of(self.organisation.signing), told, block_txs=self.network.block_txs
            )
        assert self.application is not None
        self.channels = Channels(self.application)
        self.runs.append((self.store.is_new and not self.session.head.height, self.channels.notes))
        self._forget()
        self._shake_hands()
        self._begin_height()

    def stop(self, *, both: bool) -> None:
        """Whatever was going on, nothing more of it happens."""
        self.fuse = -1
        self.disk_fault = ""
        self.channels = None
        failure, self.failure = self.failure, None
        if failure is not None and not isinstance(failure, OSError):
            raise AssertionError("the application halted") from failure
        if self.session is not None and (both or not self.session._open):
            self.session.__exit__(Stopped, None, None)
            self.session = self.application = None

    def call(self, kind: str, **fields: Any) -> Any:
        """One call; the program may end before it and after it."""
        assert self.channels is not None
        self.burn()
        try:
            answer = self.channels.call(kind, **fields)
        except Dropped:
            # The engine loses its connection and ends; whoever runs the application sees that it has failed.
            assert self.failure is not None, "the application closed a connection and says not why"
            raise Stopped from None
        self.burn()
        return answer

    def _committed(self, block: CommittedBlock) -> None:
        self.durable = block.height
        self.network.committed(self, block)

    def _failed(self, error: BaseException) -> None:
        self.failure = error

    def _shake_hands(self) -> None:
        """``Handshaker.ReplayBlocks``: bring the application to the height of the engine's blocks."""
        store = self.store
        info = self.call("info", version="0.39.4", abci_version="2.0.0")
        app = info.last_block_height
        assert self.durable <= app <= len(store.blocks), "an acknowledged block is gone, or one came from nowhere"
        if app == 0:
            answer = self.call("init_chain", **init_chain(self.network.genesis))
            if store.height == 0:
                store.found(answer.app_hash, self.network.founding_keys)
        else:
            assert info.last_block_app_hash == self.network.outcomes[app].app_hash
        assert store.height <= len(store.blocks) <= store.height + 1
        for height in range(app + 1, len(store.blocks) + 1):
            if height > store.height:
                self._execute(height)
            else:
                self.finalize(height)
                self.call("commit")
        if app == len(store.blocks) == store.height + 1:
            # The application has the block and the engine did not note it: it uses the answer that it kept.
            assert store.response is not None
            assert store.response[0] == app
            self.network.answers_kept += 1
            store.settle(*store.response)

    # --- executing ----------------------------------------------------------------------------------------

    def finalize(self, height: int) -> Outcome:
        """Execute a decided block and compare the answer with everybody else's."""
        value = self.store.blocks[height - 1]
        answer = self.call(
            "finalize_block",
            txs=list(value.txs),
            misbehavior=[misbehavior_of(one) for one in value.evidence],
            height=height,
            time=value.time,
            proposer_address=value.proposer,
        )
        outcome = Outcome.of(answer)
        self.network.agree(self, height, value, outcome)
        return outcome

    def decide(self, value: Value) -> None:
        """A block is decided: store it, execute it, go on."""
        height = self.height
        self.network.decided(height, value)
        self.store.blocks.append(value)
        self.burn()
        self._execute(height)
        self._begin_height()

    def _execute(self, height: int) -> None:
        outcome = self.finalize(height)
        self.store.response = height, outcome
        self.burn()
        following = self.store.next_set(height, outcome.updates)
        assert self.session is not None
        assert following == active(self.session.finalized_ledger().contracts.validators, height)
        self.call("commit")
        for raw in self.store.blocks[height - 1].txs:
            self.pool.pop(raw, None)
        for raw in list(self.pool):
            if self.check(raw, again=True):
                del self.pool[raw]
        self.burn()
        self.store.settle(height, outcome)

    # --- the pool -----------------------------------------------------------------------------------------

    def check(self, raw: bytes, *, again: bool = False) -> int:
        """Ask the application whether the pool may hold a transaction; 0: yes."""
        code: int = self.call("check_tx", tx=raw, type=int(again)).code
        self.network.check_verdict(self, raw, code)
        return code

    def on_tx(self, _sender: "Node", raw: bytes) -> None:
        """A client or another node brings a transaction."""
        if raw not in self.pool and not self.check(raw):
            self.pool[raw] = None
            self.network.spread(self, "tx", raw)

    # --- deciding -----------------------------------------------------------------------------------------

    def _begin_height(self) -> None:
        self._fresh_height()
        if self.height <= self.network.last_height:
            self.network.at(PAUSE_MS, self, "timeout", self.height, self.round - 1)

    def on_timeout(self, _sender: "Node", height: int, number: int) -> None:
        """The round took too long (or, before the first: it is time): go to the next."""
        if height != self.height or number + 1 < self.round:
            return
        voting = self.store.voting
        self._enter(number + 1)
        leader = self.leader_of(self.round)
        if self.round:
            self.network.send(self, leader, "promise", self.height, self.round, voting.accepted)
        elif leader is self and 0 not in voting.proposed:
            self._propose(0, self._make())

    def _enter(self, number: int) -> None:
        """Take no further part in earlier rounds, and wait for this one only so long."""
        self.round = self.store.voting.promise = number
        patience_ms = ROUND_MS * (number + 2) // 2 + self.number * 10
        self.network.at(patience_ms, self, "timeout", self.height, number)

    def leader_of(self, number: int) -> "Node":
        keys = self.validators
        return self.network.owner_of(keys[(self.height + number) % len(keys)])

    def _has_quorum(self, numbers: list[int]) -> bool:
        count = sum(self.network.owner_of(key).number in numbers for key in self.validators)
        return 3 * count > 2 * len(self.validators)

    def _is_current(self, sender: "Node", height: int) -> bool:
        """Whether a message is about the height being decided; who is behind is helped."""
        if height > self.height:
            self.network.send(self, sender, "need", self.height)
        elif height < self.height:
            self.network.send(self, sender, "block", height, self.store.blocks[height - 1])
        return height == self.height

    def on_behind(self, sender: "Node", height: int) -> None:
        self._is_current(sender, height)

    def on_need(self, sender: "Node", height: int) -> None:
        if height < self.height:
            self.network.send(self, sender, "block", height, self.store.blocks[height - 1])

    def on_block(self, _sender: "Node", height: int, value: Value) -> None:
        if height == self.height:
            self.decide(value)

    def on_promise(self, sender: "Node", height: int, number: int, accepted: tuple[int, Value] | None) -> None:
        voting = self.store.voting
        if not self._is_current(sender, height) or number < voting.promise or self.leader_of(number) is not self:
            return
        if number > self.round:
            self._enter(number)
        promises = self.promises.setdefault(number, {})
        promises[sender.number] = accepted
        if number in voting.proposed or not self._has_quorum(list(promises)):
            return
        earlier = [one for one in promises.values() if one is not None]
        value = max(earlier, key=lambda one: one[0])[1] if earlier else self._make()
        self._propose(number, value)

    def _make(self) -> Value:
        """A block of one's own: what the application lets pass of the pool, and what a liar adds to it."""
        network, height, pool = self.network, self.height, list(self.pool)
        key = next(one for one in self.validators if network.owner_of(one) is self)
        last_ms = self.store.blocks[-1].time_ms if height > 1 else network.start_ms
        time_ms = max(last_ms + 1, network.clock_ms + self.skew_ms) if height > 1 else network.start_ms
        value = Value(time_ms, (), (), address_of(key))
        chosen = self.call(
            "prepare_proposal", max_tx_bytes=PROPOSAL_BYTES, txs=pool, height=height, time=value.time
        ).txs
        network.check_chosen(self, pool, list(chosen), time_ms // 1000)
        return network.tampered(replace(value, txs=tuple(chosen)), height)

    def _propose(self, number: int, value: Value) -> None:
        self.store.voting.proposed = {**self.store.voting.proposed, number: value}
        self.burn()
        self.network.spread(self, "proposal", self.height, number, value, itself=True)

    def on_proposal(self, sender: "Node", height: int, number: int, value: Value) -> None:
        voting = self.store.voting
        if not self._is_current(sender, height) or number < voting.promise or number in self.judged:
            return
        self.judged.append(number)
        before = self._outlook()
        status = self.call("process_proposal", txs=list(value.txs), height=height, time=value.time).status
        assert self._outlook() == before, "judging a proposal changed something"
        assert (status == ACCEPT) == (len(value.txs) <= BLOCK_TXS)
        self.network.proposals_refused += status != ACCEPT
        if status == ACCEPT:
            self.values[value.digest] = value
            if number > self.round:
                self._enter(number)
            voting.accepted = number, value
            self.burn()
            self.network.spread(self, "vote", height, number, value.digest, itself=True)
            self._count(number, value.digest)

    def _outlook(self) -> tuple[Any, ...]:
        """What judging a proposal must leave alone: the head, the state, the verdicts kept about signatures."""
        session = self.session
        assert session is not None
        return session.head, session.snapshot().root_hash, list(session.signatures._held), session._pending

    def on_vote(self, sender: "Node", height: int, number: int, digest: bytes) -> None:
        if self._is_current(sender, height):
            voters = self.votes.setdefault((number, digest), [])
            if sender.number not in voters:
                voters.append(sender.number)
            self._count(number, digest)

    def _count(self, number: int, digest: bytes) -> None:
        value = self.values.get(digest)
        if value is not None and self._has_quorum(self.votes.get((number, digest), [])):
            self.decide(value)
