"""Seven organisations with their shares of the consortium key, on one node: where ``bench seal`` asks for shares.

Everything is a node's own: votes and messages of a ceremony are signed transactions in durable blocks, each
organisation's :class:`~carechain.node.ceremony.CeremonyRunner` wakes on them, and its secrets lie in its own encrypted
file. All seven follow one node, as members without a node of their own do.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from carechain.bench.filling import BenchFailed
from carechain.bench.workload import Plan, doctor, hospital
from carechain.chain.genesis import Genesis
from carechain.chain.questions import AnchorLine
from carechain.chain.receipts import OK, code_named
from carechain.chain.tx import build
from carechain.contracts.access import Decided, RequestAccess
from carechain.contracts.consent.schema import Grant
from carechain.contracts.governance import Propose, Proposed, Standing, Vote
from carechain.contracts.keyring import KeyRow
from carechain.contracts.relationships import Bind
from carechain.core.crypto import SigningKey
from carechain.core.keyholders import SetKeyholders
from carechain.core.limits import NONCE_SIZE
from carechain.core.message import Event, Message
from carechain.core.party import Party
from carechain.core.scope import EVERYTHING
from carechain.core.units import DAY_S
from carechain.core.vocabulary import Action, Category, Purpose, Sensitivity, mask
from carechain.engine.embedded import BatchPolicy
from carechain.gatekeeper.anchoring import in_transactions
from carechain.node.ceremony import CeremonyRunner
from carechain.node.keyholder_store import KEYHOLDER_FILE, KeyholderStore
from carechain.node.service import NodeService
from carechain.sdk.identity import Identity, enrolment_of
from carechain.sdk.sealed import About, Consortium, seal_record
from carechain.sdk.wallet import Pseudonym, binding_proof, new_wallet

if TYPE_CHECKING:
    from carechain.contracts.records import Anchor

MEMBERS: Final = 7
ROUND_S: Final = 60
VALID_S: Final = 300
_SINCE_S: Final = 10
_DAY: Final = 45_000


class Sealed(Struct, frozen=True):
    """Records that were sealed and anchored: what the ledger shows of each, and its object."""

    lines: tuple[AnchorLine, ...]
    objects: dict[bytes, bytes]


class Seven:
    """Made by :func:`seven`."""

    def __init__(self, plan: Plan, service: NodeService, members: Sequence[Identity], folder: Path) -> None:
        self.service: Final = service
        self.members: Final = tuple(members)
        self.stores: Final = tuple(_store(folder / f"{number}", one) for number, one in enumerate(members))
        self._plan = plan
        self._runners = [
            CeremonyRunner(ledger=service, key=one.signing_key(), member=one.party, store=store, entropy=os.urandom)
            for one, store in zip(members, self.stores, strict=True)
        ]

    @property
    def chain_id(self) -> str:
        """The network's name."""
        return self._plan.chain_id

    @property
    def key(self) -> KeyRow:
        """The consortium's key in force."""
        row = self.service.view().contracts.keyring.current()
        if row is None:
            raise BenchFailed("there is no key")
        return row

    def parties(self) -> dict[bytes, Party]:
        """The members as the ledger has them."""
        tables = self.service.view().contracts.membership
        return {one.party: row for one in self.members if (row := tables.party(one.party)) is not None}

    async def send(self, key: SigningKey, sender: bytes, *messages: Message) -> tuple[Event, ...]:
        """Sign, order, and return what happened; raises :class:`BenchFailed` where it was refused."""
        raw = build(
            key=key,
            sender=sender,
            chain_id=self.chain_id,
            nonce=os.urandom(NONCE_SIZE),
            valid_until_s=self.service.time_s + VALID_S,
            messages=messages,
        )
        receipt = (await self.service.submit(raw)).receipt
        if receipt.code != OK:
            raise BenchFailed(f"refused: {code_named(receipt.code)}")
        return receipt.events

    async def hold(self, threshold: int) -> float:
        """Vote for all seven and hold the ceremony: seconds from the last vote until every share is in its file."""
        epoch = self.service.view().contracts.keyring.epoch() + 1
        change = SetKeyholders(
            holders=tuple(sorted(one.party for one in self.members)), threshold=threshold, round_s=ROUND_S
        )
        first, *others = self.members
        events = await self.send(first.signing_key(), first.party, Propose(change=change))
        proposal = next(one.proposal for one in events if isinstance(one, Proposed))
        stop = asyncio.Event()
        running = [asyncio.create_task(one.run(stop)) for one in self._runners]
        began_s = perf_counter()
        for one in others:
            row = self.service.view().contracts.governance.proposals.get(proposal)
            if row is not None and row.standing is Standing.OPEN:
                began_s = perf_counter()
                await self.send(one.signing_key(), one.party, Vote(proposal=proposal, aye=True))
        async with asyncio.timeout(ROUND_S):
            while self.service.view().contracts.keyring.epoch() < epoch:
                await self.service.reached(self.service.height + 1)
        stop.set()
        await asyncio.gather(*running)
        took_s = perf_counter() - began_s
        if any(one.share(epoch) is None for one in self.stores):
            raise BenchFailed("an organisation has no share")
        return took_s

    # --- records and who reads them -----------------------------------------------------------------------

    async def register(self, reader: Identity) -> Pseudonym:
        """A patient of the first organisation, who lets ``reader``, of the second, read everything."""
        first, second = self.members[:2]
        patient = new_wallet(chain_id=self.chain_id, entropy=os.urandom).pseudonym(first.party)
        id_hash = os.urandom(32)
        bind = Bind(
            id_hash=id_hash,
            suite=patient.signing.suite,
            public_key=patient.signing.public_key,
            hpke_key=patient.hpke.public_key,
            proof=binding_proof(patient, chain_id=self.chain_id, id_hash=id_hash),
        )
        await self.send(first.signing_key(), first.party, bind)
        enrolment = enrolment_of(
            reader.signing_key(),
            chain_id=self.chain_id,
            organisation=second.party,
            certificate=reader.certificate,
            hpke_key=reader.hpke_key().public_key,
        )
        await self.send(second.signing_key(), second.party, enrolment)
        grant = Grant(
            pseudonym=patient.id,
            grantees=(reader.party,),
            parent=None,
            scope=EVERYTHING,
            actions=int(Action.READ),
            purposes=mask(Purpose.TREAT),
            expires_s=self.service.time_s + DAY_S,
        )
        await self.send(patient.signing, patient.id, grant)
        return patient

    async def write(self, patient: Pseudonym, records: int, size_bytes: int) -> Sealed:
        """Seal so many records of the patient, of one resource each, and anchor them."""
        consortium = Consortium(chain_id=self.chain_id, public_key=self.key.public_key)
        anchors: list[Anchor] = []
        objects: dict[bytes, bytes] = {}
        for _ in range(records):
            about = About(
                pseudonym=patient.id,
                record=os.urandom(32),
                version=1,
                category=Category.RESULT,
                sensitivity=Sensitivity.N,
                day=_DAY,
            )
            resource = (os.urandom(32), os.urandom(size_bytes))
            anchor, data = seal_record([resource], about=about, consortium=consortium, entropy=os.urandom)
            anchors.append(anchor)
            if anchor.sealed is not None:
                objects[anchor.sealed.object] = data
        for part in in_transactions(anchors):
            await self.send(patient.signing, patient.id, *part)
        tables = self.service.view().contracts.records.anchors
        rows = [(one.record, tables.get(patient.id, one.record, 1)) for one in anchors]
        return Sealed(tuple(AnchorLine(record, 1, row) for record, row in rows if row is not None), objects)

    async def ticket(self, reader: Identity, patient: Pseudonym) -> bytes:
        """An allowed ticket for everything."""
        request = RequestAccess(pseudonym=patient.id, scope=EVERYTHING, purpose=Purpose.TREAT)
        events = await self.send(reader.signing_key(), reader.party, request)
        decided = next(one for one in events if isinstance(one, Decided))
        if decided.decision:
            raise BenchFailed("the request was refused")
        return decided.ticket


@asynccontextmanager
async def seven(folder: Path) -> AsyncIterator[tuple[Seven, Identity]]:
    """Seven organisations around a started node in ``folder``, and a doctor of the second."""
    plan = Plan(pseudonyms=0, genesis_s=int(time.time()) - _SINCE_S)
    made = [hospital(plan, f"hospital {number}") for number in range(MEMBERS)]
    members = [one for one, _, _ in made]
    genesis = Genesis(
        chain_id=plan.chain_id,
        time_s=plan.genesis_s,
        members=tuple(founder for _, _, founder in made),
        producers=(members[0].party,),
    )
    service = NodeService.open(folder / "node", genesis, members[0].signing_key(), policy=BatchPolicy())
    await service.start()
    try:
        yield Seven(plan, service, members, folder), doctor(plan, made[1][1], 0)
    finally:
        await service.drain()


def _store(folder: Path, member: Identity) -> KeyholderStore:
    folder.mkdir(mode=0o700)
    return KeyholderStore.open(folder / KEYHOLDER_FILE, identity=member, entropy=os.urandom)
