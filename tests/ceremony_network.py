"""Seven organisations that hold ceremonies on one embedded node, each with its own runner and its own encrypted file.

Goal: tests and measurements see the whole way: signed transactions, blocks on the disk, files in homes. Method: a real
:class:`NodeService` whose clock the machine's is, and the real runners, which wake on its blocks.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from carechain.chain.genesis import Genesis
from carechain.chain.receipts import OK, code_named
from carechain.chain.tx import build
from carechain.contracts.governance import Propose, Proposed, Vote
from carechain.contracts.keyring.schema import KeyRow
from carechain.core.message import Event, Message
from carechain.core.vocabulary import OrganisationKind, PartyKind
from carechain.engine.embedded import BatchPolicy
from carechain.node.ceremony import CeremonyRunner
from carechain.node.keyholder_store import KEYHOLDER_FILE, KeyholderStore
from carechain.node.service import NodeService
from carechain.sdk.identity import Identity
from ceremonies import keyholders
from world import CHAIN_ID, Organisation, seeded

LABELS = "abcdefg"


def identity_of(organisation: Organisation, *, name: str = "signing") -> Identity:
    """The organisation's own key as its home has it; another ``name`` gives the key that it is replaced by."""
    return Identity(
        kind=PartyKind.MEMBER,
        suite=organisation.signing.suite,
        signing_seed=seeded(organisation.label, name),
        hpke_seed=seeded(organisation.label, "hpke"),
        party=organisation.id,
        organisation=organisation.id,
    )


class CeremonyNetwork:
    """Made by :func:`ceremony_network`."""

    def __init__(self, service: NodeService, members: list[Organisation], folder: Path) -> None:
        self.service = service
        self.members = members
        self.stores = [self._store(one, folder / one.label) for one in members]
        self.runners = [
            CeremonyRunner(ledger=service, key=one.signing, member=one.id, store=store, entropy=os.urandom)
            for one, store in zip(members, self.stores, strict=True)
        ]

    @staticmethod
    def _store(member: Organisation, folder: Path) -> KeyholderStore:
        folder.mkdir(mode=0o700)
        return KeyholderStore.open(folder / KEYHOLDER_FILE, identity=identity_of(member), entropy=os.urandom)

    async def send(self, message: Message, *, by: Organisation) -> tuple[Event, ...]:
        """Send what must succeed."""
        raw = build(
            key=by.signing,
            sender=by.id,
            chain_id=CHAIN_ID,
            nonce=os.urandom(16),
            valid_until_s=self.service.time_s + 300,
            messages=(message,),
        )
        receipt = (await self.service.submit(raw)).receipt
        assert receipt.code == OK, code_named(receipt.code)
        return receipt.events

    def key(self) -> KeyRow | None:
        """The key in force."""
        return self.service.view().contracts.keyring.current()

    async def hold(self, *, threshold: int) -> float:
        """Vote for all seven, and hold the ceremony; returns the seconds from the last vote to the last share kept."""
        change = keyholders(*self.members, threshold=threshold)
        events = await self.send(Propose(change=change), by=self.members[0])
        proposed = next(one for one in events if isinstance(one, Proposed))
        for member in self.members[1:4]:
            await self.send(Vote(proposal=proposed.proposal, aye=True), by=member)
        epoch = self.service.view().contracts.keyring.epoch() + 1
        stop = asyncio.Event()
        running = [asyncio.create_task(runner.run(stop)) for runner in self.runners]
        began_s = time.perf_counter()
        await self.send(Vote(proposal=proposed.proposal, aye=True), by=self.members[4])
        async with self.service.subscribe(self.service.height) as blocks:
            async for _ in blocks:
                key = self.key()
                if key is not None and key.epoch == epoch:
                    break
        stop.set()
        await asyncio.gather(*running)
        return time.perf_counter() - began_s


@asynccontextmanager
async def ceremony_network(folder: Path) -> AsyncIterator[CeremonyNetwork]:
    """Seven organisations around a started node in ``folder``."""
    members = [Organisation(label, kind=OrganisationKind.HOSPITAL, registrar=True) for label in LABELS]
    now_s = int(time.time())
    genesis = Genesis(
        chain_id=CHAIN_ID,
        time_s=now_s - 10,
        members=tuple(one.as_new() for one in members),
        producers=(members[0].id,),
    )
    service = NodeService.open(
        folder / "node",
        genesis,
        members[0].signing,
        policy=BatchPolicy(),
    )
    await service.start()
    try:
        yield CeremonyNetwork(service, members, folder)
    finally:
        await service.drain()
