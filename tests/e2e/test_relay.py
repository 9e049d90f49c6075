"""Goal: two followers behind one hub read each other's records, and neither learns where the other is (LED-4).

Method: the hub's node with its API and relay, and two hospitals with real charts, audits and gatekeepers, all on
loopback sockets over one real ledger. Each hospital's doctor reads the other's records twice, directly and through the
hub. Every byte the hub sent, its log and its ledger are then searched for the gatekeepers' addresses.
"""

import asyncio
import io
import logging
import os
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
import structlog

from carechain.chain.queries import ask
from carechain.chain.questions import TimelinePage
from carechain.charts.store import Charts
from carechain.contracts.access import Decided, RequestAccess
from carechain.core.vocabulary import Purpose, Role
from carechain.demo import synthetic
from carechain.gatekeeper.anchoring import anchor_of, in_transactions
from carechain.gatekeeper.audit import Audit
from carechain.gatekeeper.fetch import GatekeeperClient, GatekeeperUnreachable, Reader, newest_of
from carechain.gatekeeper.listen import Listener
from carechain.gatekeeper.release import Gatekeeper
from carechain.gatekeeper.serve import app as gatekeeper_app
from carechain.node.http import Api
from carechain.node.logs import configure_logs
from carechain.node.relay import PREFIX, relay_of
from carechain.node.settings import load_settings
from carechain.sdk.opening import AnchoredRecord, OpenedRecord
from house import CARE
from node_network import Network, running
from world import Actor, Organisation, anything, bind_message, enrolment_of, entropy_of, grant_of, wallet_of


class Hospital:
    """A follower with one patient's chart, and a doctor of the other hospital who may read it."""

    def __init__(self, net: Network, folder: Path, *, owner: Organisation, writer: Actor, reader: Actor) -> None:
        folder.mkdir()
        self.net = net
        self.owner = owner
        self.writer = writer
        self.reader = reader
        self.steve = wallet_of(f"steve at {owner.label}").pseudonym(owner.id)
        self.charts = Charts.open(folder / "charts.sqlite")
        self.audit = Audit.open(folder / "audit.sqlite")
        self.gatekeeper = Gatekeeper(
            organisation=owner.id,
            ledger=net.service,
            charts=self.charts,
            audit=self.audit,
            clock=lambda: int(net.clock()),
            entropy=os.urandom,
        )
        self.listener = Listener(gatekeeper_app(self.gatekeeper, clock=lambda: int(net.clock()), entropy=os.urandom))

    async def open(self) -> None:
        """Bind the patient, take its chart in, anchor it, and let the reader read."""
        await self.net.run(bind_message(self.steve, self.owner.secret.id_hash("mrn", "4711")), by=self.owner)
        await self.net.run(anything(self.steve, self.owner), by=self.steve)
        taken = self.charts.ingest(
            pseudonym=self.steve.id,
            bundle=synthetic.patient(3, seed=1),
            received_s=self.net.service.time_s,
            rng=entropy_of("charts", self.owner.label),
        )
        for messages in in_transactions(anchor_of(one, entropy=os.urandom) for one in taken.records):
            await self.net.run(*messages, by=self.writer)
        await self.net.run(grant_of(self.steve, self.reader, scope=CARE), by=self.steve)
        await self.listener.start()

    async def close(self) -> None:
        await self.listener.stop()
        await asyncio.to_thread(self.charts.close)
        self.audit.close()

    async def ticket(self) -> bytes:
        message = RequestAccess(pseudonym=self.steve.id, scope=CARE, purpose=Purpose.TREAT)
        (decided,) = (one for one in await self.net.run(message, by=self.reader) if isinstance(one, Decided))
        assert decided.decision == 0
        return decided.ticket

    def expected(self, ticket: bytes) -> tuple[AnchoredRecord, ...]:
        asker = self.net.service.asker(self.reader.id)
        assert asker is not None
        page = TimelinePage(self.steve.id, ticket)
        return newest_of(ask(self.net.service.view(), asker, "records.timeline", page).rows)

    async def read(self, url: str, ticket: bytes, sent: bytearray | None = None) -> tuple[OpenedRecord, ...]:
        """What the reader gets at ``url``; what the server sent is added to ``sent``."""

        async def keep(answer: httpx.Response) -> None:
            if sent is not None:
                sent.extend(b"\n".join(b": ".join(pair) for pair in answer.headers.raw))
                sent.extend(await answer.aread())

        async with httpx.AsyncClient(base_url=url, trust_env=False, event_hooks={"response": [keep]}) as http:
            client = GatekeeperClient(
                http,
                chain_id=self.net.service.chain_id,
                custodian=self.owner.id,
                reader=Reader(party=self.reader.id, signing=self.reader.signing, hpke=self.reader.hpke),
                clock=lambda: int(self.net.clock()),
                entropy=os.urandom,
            )
            return await client.read_all(ticket, self.expected(ticket))


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logs("debug", stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_followers_read_each_other_through_the_hub(tmp_path: Path, log: io.StringIO) -> None:
    async def main() -> None:
        async with running(tmp_path / "hub") as net, AsyncExitStack() as stack:
            hospitals = await _hospitals(net, tmp_path, stack)
            doors = {one.owner.id.hex(): one.listener.url for one in hospitals}
            settings = load_settings(flags={"relay": {"enabled": True, "gatekeepers": doors}}, home=tmp_path)
            relay = await stack.enter_async_context(relay_of(settings, net.service, None))
            hub = Listener(Api(net.service, relay=relay))
            await hub.start()
            stack.push_async_callback(hub.stop)
            sent = bytearray()
            for one in hospitals:
                ticket = await one.ticket()
                relayed = f"{hub.url}{PREFIX}{one.owner.id.hex()}"
                through = await one.read(relayed, ticket, sent)
                assert len(through) > 1
                assert through == await one.read(one.listener.url, ticket)
                audited = [entry.read for entry in one.audit.entries() if entry.read.ticket == ticket]
                assert len(audited) == 2
                assert audited[0].records == audited[1].records
            # One that went away is one that was never there.
            gone, stays = hospitals
            ticket = await gone.ticket()
            await gone.listener.stop()
            for organisation in (gone.owner.id.hex(), "cd" * 32):
                with pytest.raises(GatekeeperUnreachable):
                    await gone.read(f"{hub.url}{PREFIX}{organisation}", ticket, sent)
            assert await stays.read(f"{hub.url}{PREFIX}{stays.owner.id.hex()}", await stays.ticket(), sent)
            for url in doors.values():
                port = url.rpartition(":")[2].encode()
                assert b"127.0.0.1:" + port not in sent
                assert b"127.0.0.1:" + port not in (tmp_path / "hub" / "ledger" / "blocks.log").read_bytes()
                assert f"127.0.0.1:{port.decode()}" not in log.getvalue()
            assert '"relay_failed"' in log.getvalue()
            answered = net.service.metrics.exposition().decode()
            assert 'route="relay",status="200"' in answered
            assert 'route="relay",status="502"' in answered

    asyncio.run(main())


async def _hospitals(net: Network, folder: Path, stack: AsyncExitStack) -> tuple[Hospital, Hospital]:
    """Hospitals a and b; each one's doctor reads at the other."""
    dora = Actor("dora", organisation=net.b.id)
    await net.run(enrolment_of(dora, net.b.certify(dora, Role.DOCTOR)), by=net.b)
    pair = (
        Hospital(net, folder / "a", owner=net.a, writer=net.carl, reader=net.bert),
        Hospital(net, folder / "b", owner=net.b, writer=dora, reader=net.carl),
    )
    for one in pair:
        await one.open()
        stack.push_async_callback(one.close)
    return pair


def test_a_node_that_is_no_hub_relays_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, populate=False) as net:
            async with relay_of(load_settings(home=tmp_path), net.service, None) as relay:
                assert relay is None
            node = Listener(Api(net.service, relay=relay))
            await node.start()
            try:
                async with httpx.AsyncClient(base_url=node.url, trust_env=False) as http:
                    answer = await http.post(f"{PREFIX}{'ab' * 32}/v1/session")
                    assert answer.status_code == 404
            finally:
                await node.stop()

    asyncio.run(main())
