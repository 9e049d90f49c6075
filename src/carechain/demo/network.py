"""The demonstration's network: two hospitals, two insurers, two government bodies, and one ledger between them.

Everything runs in one process, but nothing is shared that would not be shared in life: each organisation has its own
folder, keys, database and gatekeeper on its own socket. The first government body makes the blocks; or four of the six
agree on them, each with a node and a consensus engine of its own, and every gatekeeper believes its own replica alone.
"""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from msgspec import Struct
from msgspec.structs import replace

from carechain.chain import genesis as founding
from carechain.chain.genesis import Genesis
from carechain.chain.queries import Answer, View, ask
from carechain.chain.receipts import OK, code_named
from carechain.chain.tx import build
from carechain.chain.versions import LATEST
from carechain.contracts.recovery import RecoveryRules
from carechain.contracts.validators import FounderNode, FounderSeat
from carechain.core.crypto import SigningKey
from carechain.core.limits import NONCE_SIZE, TX_LIFETIME_S
from carechain.core.message import Event, Message
from carechain.core.rejection import Rejected
from carechain.core.vocabulary import OrganisationKind, Role
from carechain.demo.drawn import Drawn
from carechain.demo.keeping import Copies
from carechain.demo.organisation import Organisation, Plan, Post
from carechain.engine.cometbft import config
from carechain.engine.cometbft.binary import find_cometbft
from carechain.engine.embedded import BatchPolicy
from carechain.gatekeeper.listen import Listener
from carechain.node.consortium import ENTROPY_BYTES, ConsortiumService, Place, prepare
from carechain.node.http import Api
from carechain.node.ledger import LedgerNode
from carechain.node.ports import free_ports
from carechain.node.service import NodeService, Submitted

CHAIN_ID: Final = "carechain-demo"
GENESIS_FILE: Final = "genesis.json"
HEARTBEAT_S: Final = 1
"""How often there is a block although nothing happens: waiting times are block time, and the story waits one out."""
BATCH: Final = BatchPolicy(timeout_s=0.005, heartbeat_s=HEARTBEAT_S)
RECOVERY: Final = RecoveryRules(min_wait_s=1, default_wait_s=1)
"""A second where a real network has days."""
_VALID_S: Final = TX_LIFETIME_S // 2
_FIRST_BLOCK_S: Final = 60.0
_LOOPBACK: Final = "127.0.0.1"

HARBOUR: Final = "harbour-hospital"
RIVERTOWN: Final = "rivertown-hospital"
MEADOW: Final = "meadow-mutual"
KANGNING: Final = "kangning-insurance"
MINISTRY: Final = "health-ministry"
INSTITUTE: Final = "public-health-institute"

VALIDATORS: Final = (MINISTRY, HARBOUR, RIVERTOWN, MEADOW)
"""Who agrees on blocks in the story told with four nodes."""

PLANS: Final = (
    Plan(
        handle=MINISTRY,
        name="Ministry of Health",
        kind=OrganisationKind.GOVERNMENT,
        staff=(Post("regulator", "Greta Duval", Role.REGULATOR),),
    ),
    Plan(
        handle=HARBOUR,
        name="Harbour General Hospital",
        kind=OrganisationKind.HOSPITAL,
        registrar=True,
        staff=(
            Post("desk", "Milo Castillo", Role.REGISTRAR),
            Post("doctor", "Dr. Ada Novak", Role.DOCTOR),
            Post("carl", "Dr. Carl Savem", Role.DOCTOR),
            Post("john", "John Doe", Role.LAB_TECHNICIAN),
            Post("lab", "Leila Hassan", Role.LAB_TECHNICIAN),
        ),
    ),
    Plan(
        handle=RIVERTOWN,
        name="江城医院 Rivertown Hospital",
        kind=OrganisationKind.HOSPITAL,
        registrar=True,
        staff=(
            Post("desk", "周敏", Role.REGISTRAR),
            Post("first", "李娜医生", Role.DOCTOR),
            Post("second", "王志强医生", Role.DOCTOR),
        ),
    ),
    Plan(
        handle=MEADOW,
        name="Meadow Mutual",
        kind=OrganisationKind.INSURER,
        staff=(Post("auditor", "Hugo Bauer", Role.INSURANCE_AUDITOR),),
    ),
    Plan(
        handle=KANGNING,
        name="康宁保险 Kangning Insurance",
        kind=OrganisationKind.INSURER,
        staff=(Post("auditor", "陈静", Role.INSURANCE_AUDITOR),),
    ),
    Plan(
        handle=INSTITUTE,
        name="公共卫生研究院 Public Health Institute",
        kind=OrganisationKind.GOVERNMENT,
        staff=(Post("researcher", "Ines Ivanov", Role.RESEARCHER),),
    ),
)
"""Invented organisations and people."""

COPIES: Final = {HARBOUR: INSTITUTE}
"""Who has a copy of its sealed objects kept, and by whom."""


class Signer(Protocol):
    """Anyone who signs transactions: staff, members, a wallet's pseudonym."""

    @property
    def id(self) -> bytes:
        """The party id."""

    @property
    def signing(self) -> SigningKey:
        """The ledger key."""


class Done(Struct, frozen=True):
    """A transaction that did what it asked: its height and its events."""

    height: int
    events: tuple[Event, ...]


class Replica:
    """An organisation's own node as its gatekeeper uses it; organisations without a node use the ministry's."""

    def __init__(self, network: "Network", handle: str) -> None:
        self._network = network
        self._handle = handle

    @property
    def chain_id(self) -> str:
        """The network's name."""
        return self._network.chain_id

    def view(self) -> View:
        """The state as this organisation's own node has it."""
        return self._network.node_of(self._handle).view()

    async def submit(self, raw: bytes) -> Submitted:
        """Order a transaction through this organisation's own node."""
        return await self._network.submit(raw, through=self._handle)

    async def reached(self, height: int) -> None:
        """Wait until this organisation's own node has the block at ``height``."""
        await self._network.node_of(self._handle).reached(height)


class Network:
    """The six organisations, and the ledger of one of them or of four together."""

    def __init__(
        self, *, home: Path, seed: int, genesis: Genesis, members: dict[str, Organisation], places: dict[str, Place]
    ) -> None:
        self.home = home
        self.genesis = genesis
        self.members = members
        self._entropy = Drawn(seed, "transactions")
        self._places = places
        self._nodes: dict[str, LedgerNode] = {}
        self._left_at = (0, b"")
        """Height and state when the ledger was stopped last."""
        self._api: Listener | None = None

    @classmethod
    async def found(cls, home: Path, *, seed: int, consortium: bool = False) -> "Network":
        """Make the six homes below ``home``, start the ledger, enrol the staff, open the doors.

        With ``consortium`` four organisations agree on the blocks; raises ``EngineMissing`` where that cannot be.
        """
        now_s = wall_s()
        members = {plan.handle: Organisation.found(plan, home / plan.handle, seed=seed, now_s=now_s) for plan in PLANS}
        validators = VALIDATORS if consortium else ()
        ports = zip(validators, free_ports(len(validators)), strict=True)
        seats = {handle: Seat.of(members[handle], port, seed) for handle, port in ports}
        genesis = Genesis(
            chain_id=CHAIN_ID,
            time_s=now_s,
            members=tuple(one.as_new() for one in members.values()),
            producers=() if consortium else (members[MINISTRY].id,),
            validators=tuple(FounderSeat(members[one].id, seat.consensus_key) for one, seat in seats.items()),
            nodes=tuple(FounderNode(members[one].id, bytes.fromhex(seat.node_id)) for one, seat in seats.items()),
            versions=LATEST,
            recovery=RECOVERY,
        )
        for one in members.values():
            (one.home / GENESIS_FILE).write_bytes(founding.write(genesis))
        places = places_of(seats) if consortium else {}
        network = cls(home=home, seed=seed, genesis=genesis, members=members, places=places)
        try:
            await network.start()
            for one in members.values():
                for post in one.plan.staff:
                    await network.send(one.member, one.employ(post, chain_id=network.chain_id, now_s=now_s))
            await network._open_doors()
        except BaseException:
            await network.close()
            raise
        return network

    def __getitem__(self, handle: str) -> Organisation:
        return self.members[handle]

    # --- running ------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Make blocks, and answer clients at :attr:`url`."""
        if self._nodes:
            return
        if self._places:
            await self._start_consortium()
        else:
            producer = self.members[MINISTRY]
            node = NodeService.open(producer.home, self.genesis, producer.member.signing, policy=BATCH)
            self._nodes[MINISTRY] = node
            await node.start()
        self._api = Listener(Api(self._node))
        await self._api.start()

    async def _start_consortium(self) -> None:
        for handle, place in self._places.items():
            one = self.members[handle]
            node = ConsortiumService.open(one.home, self.genesis, one.member.signing, place)
            self._nodes[handle] = node
            await node.start()
        for started in self._nodes.values():
            async with asyncio.timeout(_FIRST_BLOCK_S):
                await started.reached(started.height + 1)

    async def _open_doors(self) -> None:
        """Put the organisations to work. Those that have copies kept come last: they must know where."""
        for handle in sorted(self.members, key=COPIES.__contains__):
            one = self.members[handle]
            kept = {self.members[COPIES[handle]].id: self.url_of(COPIES[handle])} if handle in COPIES else {}
            keeps_for = tuple(self.members[other].id for other, keeper in COPIES.items() if keeper == handle)
            copies = Copies(partners=kept, keeps_for=keeps_for)
            await one.open_door(Replica(self, handle), clock=wall_s, copies=copies)

    def url_of(self, handle: str) -> str:
        """Where an organisation's doors are; raises ``LookupError`` while they are shut."""
        listener = self.members[handle].listener
        if listener is None:
            raise LookupError("these doors are shut")
        return listener.url

    async def passed(self, time_s: int) -> None:
        """Wait until the ledger's own time, that of its blocks, has come to ``time_s`` (Unix seconds)."""
        while self._node.time_s < time_s:
            await self.next_block()

    async def next_block(self) -> None:
        """Wait until every node has one more block."""
        await self._everywhere(self.height + 1)

    async def stop_ledger(self) -> None:
        """Stop making blocks and let go of the ledgers' files; :meth:`start` goes on from there."""
        if self._api is not None:
            await self._api.stop()
            self._api = None
        if self._nodes:
            self._left_at = (self.height, self.app_hash)
        nodes, self._nodes = self._nodes, {}
        await asyncio.gather(*(one.drain() for one in nodes.values()))

    async def close(self) -> None:
        """Shut every door, then the ledger."""
        await asyncio.gather(*(one.close() for one in self.members.values()))
        await self.stop_ledger()

    def addresses(self) -> dict[str, str]:
        """Where the node and each organisation's gatekeeper answer."""
        doors = {handle: one.listener.url for handle, one in self.members.items() if one.listener is not None}
        return {"node": self.url, **doors}

    # --- the ledger, for gatekeepers and everyone else -----------------------------------------------------

    @property
    def engine(self) -> str:
        """How the blocks come about."""
        return "cometbft" if self._places else "embedded"

    @property
    def keepers(self) -> tuple[str, ...]:
        """The organisations that have a node."""
        return tuple(self._places) or (MINISTRY,)

    def node_of(self, handle: str) -> LedgerNode:
        """The organisation's own node, or the ministry's for those that run none."""
        if not self._nodes:
            raise RuntimeError("no node was started")
        return self._nodes.get(handle) or self._nodes[MINISTRY]

    @property
    def _node(self) -> LedgerNode:
        return self.node_of(MINISTRY)

    @property
    def url(self) -> str:
        """Where the producer's node answers clients."""
        if self._api is None:
            raise RuntimeError("the node was not started")
        return self._api.url

    @property
    def chain_id(self) -> str:
        """The network's name."""
        return self.genesis.chain_id

    @property
    def height(self) -> int:
        """The last block's height."""
        return self._node.height if self._nodes else self._left_at[0]

    @property
    def app_hash(self) -> bytes:
        """The root of the committed state."""
        return self._node.app_hash if self._nodes else self._left_at[1]

    def view(self) -> View:
        """The committed state at the latest height."""
        return self._node.view()

    async def submit(self, raw: bytes, *, through: str = MINISTRY) -> Submitted:
        """Order a signed transaction; raises ``Rejected`` when it is not admitted.

        Returns when every node has it, so that the story can go on anywhere.
        """
        submitted = await self.node_of(through).submit(raw)
        await self._everywhere(submitted.height)
        return submitted

    async def _everywhere(self, height: int) -> None:
        await asyncio.gather(*(one.reached(height) for one in self._nodes.values()))

    def sign(self, who: Signer, *messages: Message) -> bytes:
        """A signed transaction, valid for five minutes of block time."""
        return build(
            key=who.signing,
            sender=who.id,
            chain_id=self.chain_id,
            nonce=self._entropy(NONCE_SIZE),
            valid_until_s=self._node.time_s + _VALID_S,
            messages=messages,
        )

    async def send(self, who: Signer, *messages: Message) -> Done:
        """Sign, order, and return what happened; raises ``Rejected`` with the code of whatever refused it."""
        return done(await self.submit(self.sign(who, *messages)))

    async def send_all(self, raws: Sequence[bytes]) -> list[Done]:
        """Order many at once; raises ``Rejected`` with the first refusal."""
        outcomes = await self._node.submit_many(raws)
        await self._everywhere(self.height)
        return [done(outcome) for outcome in outcomes]

    def ask(self, who: Signer, name: str, args: Any) -> Answer:  # noqa: ANN401 - any query's
        """Ask the ledger as ``who``: local, needs no block, passes the three checks (CON-3)."""
        asker = self._node.asker(who.id)
        if asker is None:
            raise LookupError("the ledger does not know who asks")
        return ask(self.view(), asker, name, args)

    def rows(self, who: Signer, name: str, args: Any) -> list[Any]:  # noqa: ANN401 - any query's
        """All rows of a query whose pages continue after one id."""
        rows: list[Any] = []
        while True:
            answer = self.ask(who, name, args)
            rows.extend(answer.rows)
            if answer.after is None:
                return rows
            args = replace(args, after=answer.after[0])


class Seat(Struct, frozen=True):
    """An organisation's part in agreeing on blocks: its consensus key and its node's id and port."""

    consensus_key: bytes
    node_id: str
    port: int

    @staticmethod
    def of(organisation: Organisation, port: int, seed: int) -> "Seat":
        """Make the keys of an organisation's engine in its home; its node will listen at ``port``."""
        folder = organisation.home / config.FOLDER
        prepare(folder, Drawn(seed, f"engine of {organisation.plan.handle}")(ENTROPY_BYTES))
        key = config.read_key(folder / config.VALIDATOR_KEY).public_key
        return Seat(key, config.node_id(folder), port)


def places_of(seats: dict[str, Seat]) -> dict[str, Place]:
    """Where each organisation's node stands: all on this machine, each knowing the others."""
    program = find_cometbft()
    peers = {handle: f"{one.node_id}@{_LOOPBACK}:{one.port}" for handle, one in seats.items()}
    return {
        handle: Place(
            program=program,
            p2p=f"{_LOOPBACK}:{one.port}",
            peers=tuple(peer for other, peer in peers.items() if other != handle),
            same_host=True,
            tuning=config.Tuning(heartbeat_ms=1000 * HEARTBEAT_S),
        )
        for handle, one in seats.items()
    }


def done(outcome: Submitted | Rejected) -> Done:
    """What a transaction did; raises ``Rejected`` when it was not admitted or a check failed."""
    if isinstance(outcome, Rejected):
        raise outcome
    code = code_named(outcome.receipt.code)
    if outcome.receipt.code != OK and code is not None:
        raise Rejected(code)
    return Done(outcome.height, outcome.receipt.events)


def wall_s() -> int:
    """The wall clock in whole seconds: the one place where the demonstration reads it."""
    return int(time.time())
