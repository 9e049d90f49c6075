"""A consortium on a real node: ledger on disk, real signatures, a clock that the test moves.

Goal: let a node or client test say who does what. Method: the organisations, staff and patients of ``world`` with
their fixed seeds, but every transaction goes through :class:`NodeService` into a folder of the test's own.
"""

import asyncio
import io
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from carechain.chain.genesis import Genesis
from carechain.chain.receipts import OK, code_named
from carechain.chain.tx import build
from carechain.core.crypto import SigningKey
from carechain.core.message import Event, Message
from carechain.core.rejection import Rejected
from carechain.core.vocabulary import OrganisationKind, Role
from carechain.engine.embedded import BatchPolicy
from carechain.engine.session import Checkpoints
from carechain.node.service import NodeService
from carechain.sdk.client import HasKeys
from carechain.sdk.wallet import Pseudonym
from world import (
    CHAIN_ID,
    NOT_AFTER,
    NOT_BEFORE,
    START_S,
    Actor,
    Organisation,
    anchor_of,
    anything,
    bind_message,
    enrolment_of,
    wallet_of,
)

__all__ = ["NOT_AFTER", "NOT_BEFORE", "Network", "Said", "founders", "genesis_of", "running", "stopped_clock"]

QUICK = BatchPolicy(timeout_s=0.0)


class StoppedClock:
    """Time that only the test moves. Setting ``now_s``, the wall clock in Unix seconds, lets no time pass."""

    def __init__(self, now_s: float = START_S) -> None:
        self.now_s = now_s
        self.passed_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def passed(self) -> float:
        """The second clock, which nobody sets."""
        return self.passed_s

    def wait(self, for_s: float) -> None:
        """Time passes."""
        self.now_s += for_s
        self.passed_s += for_s


class Said(io.StringIO):
    """A log; ``heard`` is set once ``text`` stands in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text
        self.heard = asyncio.Event()

    def write(self, said: str) -> int:
        written = super().write(said)
        if self._text in self.getvalue():
            self.heard.set()
        return written


def founders() -> dict[str, Organisation]:
    """Hospitals a and b, insurer c, government body e."""
    return {
        "a": Organisation("a", kind=OrganisationKind.HOSPITAL, registrar=True),
        "b": Organisation("b", kind=OrganisationKind.HOSPITAL, registrar=True),
        "c": Organisation("c", kind=OrganisationKind.INSURER),
        "e": Organisation("e", kind=OrganisationKind.GOVERNMENT),
    }


def genesis_of(members: dict[str, Organisation], *, time_s: int = START_S) -> Genesis:
    """A genesis in which hospital a makes the blocks."""
    return Genesis(
        chain_id=CHAIN_ID,
        time_s=time_s,
        members=tuple(one.as_new() for one in members.values()),
        producers=(members["a"].id,),
    )


class Network:
    """Members, staff and patients around one :class:`NodeService`. Made by :func:`running`."""

    carl: Actor
    """A doctor of hospital a."""
    bert: Actor
    """A doctor of hospital b."""
    anna: Actor
    """An administrator of hospital a."""
    ivan: Actor
    """An auditor of insurer c."""
    gita: Actor
    """A regulator of government body e."""
    steve: Pseudonym
    """A patient of hospital a."""
    mary: Pseudonym

    def __init__(self, service: NodeService, members: dict[str, Organisation], clock: StoppedClock) -> None:
        self.service = service
        self.members = members
        self.clock = clock
        self.nonces = 0
        self.a, self.b, self.c, self.e = members["a"], members["b"], members["c"], members["e"]

    def sign(
        self, *messages: Message, by: HasKeys, valid_until_s: int | None = None, key: SigningKey | None = None
    ) -> bytes:
        """A signed transaction with a nonce of its own."""
        self.nonces += 1
        return build(
            key=key or by.signing,
            sender=by.id,
            chain_id=CHAIN_ID,
            nonce=self.nonces.to_bytes(16, "big"),
            valid_until_s=self.service.time_s + 300 if valid_until_s is None else valid_until_s,
            messages=messages,
        )

    async def run(self, *messages: Message, by: HasKeys) -> tuple[Event, ...]:
        """Send a transaction that must succeed; returns its events."""
        (events,) = await self.run_all([self.sign(*messages, by=by)])
        return events

    async def run_all(self, raws: Sequence[bytes]) -> list[tuple[Event, ...]]:
        """Send transactions that must all succeed; returns their events."""
        events = []
        for outcome in await self.service.submit_many(raws):
            assert not isinstance(outcome, Rejected), outcome
            assert outcome.receipt.code == OK, code_named(outcome.receipt.code)
            events.append(outcome.receipt.events)
        return events

    async def populate(self) -> None:
        """Enrol the staff, bind two patients, let hospital a write and doctor bert read Steve's records."""
        posts = (
            ("carl", "a", Role.DOCTOR),
            ("anna", "a", Role.ORGANISATION_ADMIN),
            ("bert", "b", Role.DOCTOR),
            ("ivan", "c", Role.INSURANCE_AUDITOR),
            ("gita", "e", Role.REGULATOR),
        )
        raws = []
        for name, label, role in posts:
            organisation = self.members[label]
            actor = Actor(name, organisation=organisation.id)
            setattr(self, name, actor)
            enrol = enrolment_of(actor, organisation.certify(actor, role))
            raws.append(self.sign(enrol, by=organisation))
        for name in ("steve", "mary"):
            pseudonym = wallet_of(name).pseudonym(self.a.id)
            setattr(self, name, pseudonym)
            raws.append(self.sign(bind_message(pseudonym, self.a.secret.id_hash("mrn", name)), by=self.a))
        await self.run_all(raws)
        await self.run_all(
            [
                self.sign(anything(self.steve, self.a), by=self.steve),
                self.sign(anything(self.steve, self.bert), by=self.steve),
                self.sign(anything(self.mary, self.a), by=self.mary),
            ]
        )
        await self.run_all([self.sign(anchor_of(self.steve, name), by=self.carl) for name in ("r1", "r2", "r3")])


def stopped_clock(now_s: float = START_S) -> StoppedClock:
    """A clock that stands at ``now_s``."""
    return StoppedClock(now_s)


@asynccontextmanager
async def running(
    home: Path,
    *,
    policy: BatchPolicy = QUICK,
    populate: bool = True,
    verify_in_worker: bool = False,
    checkpoints: Checkpoints | None = None,
    clock: StoppedClock | None = None,
) -> AsyncIterator[Network]:
    """A started node in ``home``, drained at the end."""
    members = founders()
    clock = clock or stopped_clock()
    service = NodeService.open(
        home,
        genesis_of(members),
        members["a"].signing,
        policy=policy,
        checkpoints=checkpoints,
        verify_in_worker=verify_in_worker,
        clock=clock,
        passed=clock.passed,
    )
    await service.start()
    network = Network(service, members, clock)
    try:
        if populate:
            await network.populate()
        yield network
    finally:
        await service.drain()
