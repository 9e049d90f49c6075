"""Reading a patient's records at another member, from the request to the proven Bundle: a part of ``bench fhir``.

Two hospitals on one embedded network. The first keeps the charts and has its own gatekeeper on a socket; a system of
the second reads through :class:`~carechain.gateway.remote.RemoteRead`, so every reading is a new access request in a
block that is durable, a decision that the gatekeeper checks again, a release sealed for the reader, and a Bundle with a
proof for each resource. The session at the door is kept, as a node keeps it.
"""

import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from time import perf_counter
from typing import Any, Final
from zoneinfo import ZoneInfo

import httpx

from carechain.bench.fhir_patients import bundles
from carechain.bench.fhir_server import BASE_URL
from carechain.bench.figures import milliseconds, percentile
from carechain.bench.filling import BenchFailed
from carechain.bench.workload import Network, Plan, network_of
from carechain.chain.receipts import OK, code_named
from carechain.chain.tx import build
from carechain.charts.sight import NOTHING
from carechain.charts.store import Charts
from carechain.contracts.consent.schema import Grant
from carechain.contracts.relationships import Bind
from carechain.core.crypto import SigningKey
from carechain.core.limits import NONCE_SIZE
from carechain.core.message import Message
from carechain.core.scope import EVERYTHING
from carechain.core.units import DAY_S
from carechain.core.vocabulary import Action, Category, Purpose, mask
from carechain.engine.embedded import BATCH_TIMEOUT_S, BatchPolicy
from carechain.gatekeeper.anchoring import anchor_of, in_transactions
from carechain.gatekeeper.audit import Audit
from carechain.gatekeeper.fetch import Reader
from carechain.gatekeeper.listen import Listener
from carechain.gatekeeper.release import Gatekeeper
from carechain.gatekeeper.serve import app
from carechain.gateway.principal import Principal, Rights
from carechain.gateway.remote import RemoteRead
from carechain.gateway.remote_bundle import proofs_in
from carechain.node.service import NodeService
from carechain.sdk.identity import Identity, enrolment_of
from carechain.sdk.wallet import Pseudonym, binding_proof, new_wallet

_SINCE_S: Final = 10
_VALID_S: Final = 300
_WARM: Final = 3
CATEGORIES: Final = (Category.RESULT,)
"""What is read: a patient's results, as somebody who treats them would."""


def now_s() -> int:
    """Unix seconds."""
    return int(time.time())


class TwoMembers:
    """Made by :func:`two_members`."""

    def __init__(self, service: NodeService, network: Network) -> None:
        self.service: Final = service
        self.network: Final = network
        self.reader: Final[Identity] = network.readers[0]

    async def send(self, key: SigningKey, sender: bytes, *messages: Message) -> None:
        """Sign and order; raises :class:`BenchFailed` where it was refused."""
        raw = build(
            key=key,
            sender=sender,
            chain_id=self.network.plan.chain_id,
            nonce=os.urandom(NONCE_SIZE),
            valid_until_s=self.service.time_s + _VALID_S,
            messages=messages,
        )
        receipt = (await self.service.submit(raw)).receipt
        if receipt.code != OK:
            raise BenchFailed(f"refused: {code_named(receipt.code)}")

    async def register(self) -> Pseudonym:
        """A patient of the first hospital, who lets it write and the other one's doctor read."""
        home, chain_id = self.network.custodian, self.network.plan.chain_id
        patient = new_wallet(chain_id=chain_id, entropy=os.urandom).pseudonym(home.party)
        id_hash = os.urandom(32)
        bind = Bind(
            id_hash=id_hash,
            suite=patient.signing.suite,
            public_key=patient.signing.public_key,
            hpke_key=patient.hpke.public_key,
            proof=binding_proof(patient, chain_id=chain_id, id_hash=id_hash),
        )
        await self.send(home.signing_key(), home.party, bind)
        grants = (
            Grant(
                pseudonym=patient.id,
                grantees=(party,),
                parent=None,
                scope=EVERYTHING,
                actions=int(action),
                purposes=mask(Purpose.TREAT),
                expires_s=self.service.time_s + DAY_S,
            )
            for party, action in ((home.party, Action.WRITE), (self.reader.party, Action.READ))
        )
        await self.send(patient.signing, patient.id, *grants)
        return patient

    async def enrol(self, who: Identity, member: Identity) -> None:
        """A doctor of one of the members."""
        enrolment = enrolment_of(
            who.signing_key(),
            chain_id=self.network.plan.chain_id,
            organisation=member.party,
            certificate=who.certificate,
            hpke_key=who.hpke_key().public_key,
        )
        await self.send(member.signing_key(), member.party, enrolment)


@asynccontextmanager
async def two_members(folder: Path) -> AsyncIterator[TwoMembers]:
    """The network, with a started node in ``folder`` that both members follow."""
    network = network_of(Plan(pseudonyms=0, genesis_s=now_s() - _SINCE_S))
    key = network.custodian.signing_key()
    service = NodeService.open(folder / "node", network.genesis, key, policy=BatchPolicy())
    await service.start()
    try:
        yield TwoMembers(service, network)
    finally:
        await service.drain()


async def measure_remote(members: TwoMembers, folder: Path, runs: int) -> dict[str, Any]:
    """Median and 95th percentile of so many readings, and what each of them brings."""
    async with AsyncExitStack() as opened:
        charts = opened.enter_context(Charts.open(folder / "remote.sqlite"))
        audit = Audit.open(folder / "remote-audit.sqlite")
        opened.callback(audit.close)
        patient = await _chart_of(members, charts)
        gatekeeper = Gatekeeper(
            organisation=members.network.custodian.party,
            ledger=members.service,
            charts=charts,
            audit=audit,
            clock=now_s,
            entropy=os.urandom,
        )
        listener = Listener(app(gatekeeper, clock=now_s, entropy=os.urandom))
        await listener.start()
        opened.push_async_callback(listener.stop)
        door = await opened.enter_async_context(httpx.AsyncClient(base_url=listener.url, trust_env=False))
        return await _timed(members, _remote(members, door), patient, runs)


async def _chart_of(members: TwoMembers, charts: Charts) -> Pseudonym:
    """A patient whose chart is stored and anchored."""
    network = members.network
    writer = network.staff[0]
    await members.enrol(writer, network.custodian)
    await members.enrol(members.reader, network.other)
    patient = await members.register()
    taken = charts.ingest(
        pseudonym=patient.id, bundle=next(bundles(0)).body, received_s=members.service.time_s, rng=os.urandom
    )
    for messages in in_transactions(anchor_of(one, entropy=os.urandom) for one in taken.records):
        await members.send(writer.signing_key(), writer.party, *messages)
    return patient


def _remote(members: TwoMembers, door: httpx.AsyncClient) -> RemoteRead:
    keys = Reader(party=members.reader.party, signing=members.reader.signing_key(), hpke=members.reader.hpke_key())

    async def readers(_: Principal) -> Reader:
        return keys

    return RemoteRead(
        ledger=members.service,
        readers=readers,
        doors={members.network.custodian.party: door},
        base_url=BASE_URL,
        zone=ZoneInfo("UTC"),
        clock=now_s,
        entropy=os.urandom,
    )


async def _timed(members: TwoMembers, remote: RemoteRead, patient: Pseudonym, runs: int) -> dict[str, Any]:
    principal = Principal(party=members.reader.party, sight=NOTHING, rights={"*": Rights(read=True)})
    wanted = [
        ("source", f"{patient.id.hex()}@{members.network.custodian.party.hex()}"),
        *(("category", one.name) for one in CATEGORIES),
    ]
    taken: list[float] = []
    body = b""
    for turn in range(runs + _WARM):
        began = perf_counter()
        body = await remote(principal, None, wanted, b"")
        if turn >= _WARM:
            taken.append(perf_counter() - began)
    proven = list(proofs_in(body))
    if not proven:
        raise BenchFailed("a remote reading brought nothing")
    for content, proof in proven:
        proof.check(content)
    return {
        "p50_ms": milliseconds(percentile(taken, 0.5)),
        "p95_ms": milliseconds(percentile(taken, 0.95)),
        "batch_ms": round(BATCH_TIMEOUT_S * 1000),
        "resources": len(proven),
        "answer_bytes": len(body),
    }
