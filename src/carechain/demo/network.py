"""The demonstration's network: two hospitals, two insurers, two government bodies, and one ledger between them.

Everything runs in one process, but nothing is shared that would not be shared in life: each organisation has its own
folder, keys, database and gatekeeper on its own socket. The first government body makes the blocks.
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
from carechain.core.crypto import SigningKey
from carechain.core.limits import NONCE_SIZE, TX_LIFETIME_S
from carechain.core.message import Event, Message
from carechain.core.rejection import Rejected
from carechain.core.vocabulary import OrganisationKind, Role
from carechain.demo.drawn import Drawn
from carechain.demo.organisation import Organisation, Plan, Post
from carechain.engine.embedded import BatchPolicy
from carechain.gatekeeper.listen import Listener
from carechain.node.http import Api
from carechain.node.service import NodeService, Submitted

CHAIN_ID: Final = "carechain-demo"
GENESIS_FILE: Final = "genesis.json"
BATCH: Final = BatchPolicy(timeout_s=0.005)
_VALID_S: Final = TX_LIFETIME_S // 2

HARBOUR: Final = "harbour-hospital"
RIVERTOWN: Final = "rivertown-hospital"
MEADOW: Final = "meadow-mutual"
KANGNING: Final = "kangning-insurance"
MINISTRY: Final = "health-ministry"
INSTITUTE: Final = "public-health-institute"

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


class Network:
    """The six organisations and the ledger; also each gatekeeper's way of reading it."""

    def __init__(self, *, home: Path, seed: int, genesis: Genesis, members: dict[str, Organisation]) -> None:
        self.home = home
        self.genesis = genesis
        self.members = members
        self._entropy = Drawn(seed, "transactions")
        self._service = self._open()
        self._api: Listener | None = None
        self._running = False

    @classmethod
    async def found(cls, home: Path, *, seed: int) -> "Network":
        """Make the six homes below ``home``, start the ledger, enrol the staff, open the doors."""
        now_s = wall_s()
        members = {plan.handle: Organisation.found(plan, home / plan.handle, seed=seed, now_s=now_s) for plan in PLANS}
        genesis = Genesis(
            chain_id=CHAIN_ID,
            time_s=now_s,
            members=tuple(one.as_new() for one in members.values()),
            producers=(members[MINISTRY].id,),
        )
        for one in members.values():
            (one.home / GENESIS_FILE).write_bytes(founding.write(genesis))
        network = cls(home=home, seed=seed, genesis=genesis, members=members)
        await network.start()
        for one in members.values():
            for post in one.plan.staff:
                await network.send(one.member, one.employ(post, chain_id=network.chain_id, now_s=now_s))
            await one.open_door(network, clock=wall_s)
        return network

    def __getitem__(self, handle: str) -> Organisation:
        return self.members[handle]

    # --- running ------------------------------------------------------------------------------------------

    def _open(self) -> NodeService:
        producer = self.members[MINISTRY]
        return NodeService.open(producer.home, self.genesis, producer.member.signing, policy=BATCH)

    async def start(self) -> None:
        """Make blocks, and answer clients at :attr:`url`."""
        if self._running:
            return
        if not self._service.is_live and self._api is not None:
            self._service = self._open()
        await self._service.start()
        self._api = Listener(Api(self._service))
        await self._api.start()
        self._running = True

    async def stop_ledger(self) -> None:
        """Stop making blocks and let go of the ledger's files; :meth:`start` goes on from there."""
        if not self._running:
            return
        self._running = False
        if self._api is not None:
            await self._api.stop()
        await self._service.drain()

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
        return self._service.height

    @property
    def app_hash(self) -> bytes:
        """The root of the committed state."""
        return self._service.app_hash

    def view(self) -> View:
        """The committed state at the latest height."""
        return self._service.view()

    async def submit(self, raw: bytes) -> Submitted:
        """Order a signed transaction; raises ``Rejected`` when it is not admitted."""
        return await self._service.submit(raw)

    def sign(self, who: Signer, *messages: Message) -> bytes:
        """A signed transaction, valid for five minutes of block time."""
        return build(
            key=who.signing,
            sender=who.id,
            chain_id=self.chain_id,
            nonce=self._entropy(NONCE_SIZE),
            valid_until_s=self._service.time_s + _VALID_S,
            messages=messages,
        )

    async def send(self, who: Signer, *messages: Message) -> Done:
        """Sign, order, and return what happened; raises ``Rejected`` with the code of whatever refused it."""
        return done(await self.submit(self.sign(who, *messages)))

    async def send_all(self, raws: Sequence[bytes]) -> list[Done]:
        """Order many at once; raises ``Rejected`` with the first refusal."""
        outcomes = await self._service.submit_many(raws)
        return [done(outcome) for outcome in outcomes]

    def ask(self, who: Signer, name: str, args: Any) -> Answer:  # noqa: ANN401 - any query's
        """Ask the ledger as ``who``: local, needs no block, passes the three checks (CON-3)."""
        asker = self._service.asker(who.id)
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
