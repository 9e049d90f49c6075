"""Goal: an organisation that joins late takes a snapshot from the others instead of all blocks, and follows from there.

Method: four validators with their engines run in this process and make blocks; every node keeps snapshots of the same
heights, byte for byte alike. A fifth node, told one block's hash to trust, starts with an empty folder. Afterwards it
has the same blocks as the others from the snapshot on, refuses what was sent before it, and goes on when it is started
again.
"""

import asyncio
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Final

import pytest

from carechain.chain.genesis import Genesis
from carechain.chain.tx import AdmissionCode, build
from carechain.contracts.membership import SetLapse
from carechain.contracts.validators import FounderNode, FounderSeat
from carechain.core.rejection import Rejected
from carechain.core.vocabulary import OrganisationKind
from carechain.engine.base import read_base
from carechain.engine.cometbft import config
from carechain.engine.cometbft.binary import EngineMissing, find_cometbft
from carechain.engine.cometbft.config import FOLDER, SyncFrom, Tuning
from carechain.engine.session import LEDGER_FOLDER
from carechain.engine.snapshots import Rhythm
from carechain.engine.verify import verify_chain
from carechain.node.consortium import ConsortiumService, Place, prepare
from carechain.node.home import make_home
from carechain.node.ports import free_ports
from carechain.sdk.light.fetch import read_time
from world import Organisation, seeded

pytestmark = pytest.mark.engine

VALIDATORS: Final = 4
LATE: Final = VALIDATORS
EVERY: Final = 10
PATIENCE_S: Final = 90.0
LOOK_S: Final = 0.05
TUNING: Final = Tuning(heartbeat_ms=150, commit_ms=50, log_level="info")


class Net:
    """Five organisations, the last without a seat, and the nodes that run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.organisations = [
            Organisation(f"org{number}", kind=OrganisationKind.HOSPITAL, registrar=True)
            for number in range(VALIDATORS + 1)
        ]
        ports = free_ports(2 * len(self.organisations))
        self.p2p, self.rpc = ports[::2], ports[1::2]
        self.nodes: dict[int, ConsortiumService] = {}
        self.nonces = 0
        for number in range(VALIDATORS + 1):
            make_home(self.home(number))
            prepare(self.home(number) / FOLDER, seeded("engine", number, size=64))

    def home(self, number: int) -> Path:
        return self.folder / f"node-{number}"

    def engine_id(self, number: int) -> str:
        return config.node_id(self.home(number) / FOLDER)

    @cached_property
    def genesis(self) -> Genesis:
        keys = [config.read_key(self.home(number) / FOLDER / config.VALIDATOR_KEY) for number in range(VALIDATORS)]
        return Genesis(
            chain_id="late",
            time_s=int(time.time()),
            members=tuple(one.as_new() for one in self.organisations),
            validators=tuple(
                FounderSeat(one.id, key.public_key) for one, key in zip(self.organisations, keys, strict=False)
            ),
            nodes=tuple(
                FounderNode(one.id, bytes.fromhex(self.engine_id(number)))
                for number, one in enumerate(self.organisations)
            ),
        )

    async def start(self, number: int, sync: SyncFrom | None = None) -> ConsortiumService:
        place = Place(
            program=find_cometbft(),
            p2p=f"127.0.0.1:{self.p2p[number]}",
            peers=tuple(
                f"{self.engine_id(other)}@127.0.0.1:{self.p2p[other]}"
                for other in range(VALIDATORS + 1)
                if other != number
            ),
            same_host=True,
            tuning=TUNING,
            sync=sync,
            rhythm=Rhythm(every_blocks=EVERY, keep=3),
            rpc_tcp=f"127.0.0.1:{self.rpc[number]}",
        )
        node = ConsortiumService.open(self.home(number), self.genesis, self.organisations[number].signing, place)
        self.nodes[number] = node
        await node.start()
        return node

    async def write(self, number: int, count: int) -> list[bytes]:
        """Transactions through one node, all in blocks when it returns."""
        raws = []
        for _ in range(count):
            self.nonces += 1
            raws.append(
                build(
                    key=self.organisations[number].signing,
                    sender=self.organisations[number].id,
                    chain_id=self.genesis.chain_id,
                    nonce=self.nonces.to_bytes(16, "big"),
                    valid_until_s=int(time.time()) + 300,
                    messages=(SetLapse(days=10 + self.nonces % 300),),
                )
            )
        outcomes = await self.nodes[number].submit_many(raws)
        assert not any(isinstance(one, Rejected) for one in outcomes)
        return raws

    async def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for it."""
        end_s = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < end_s, f"{what}: {self.said()}"
            await asyncio.sleep(LOOK_S)

    def said(self) -> object:
        return {number: (node.height, node._process.last_words()) for number, node in self.nodes.items()}


@pytest.fixture
def net(tmp_path: Path) -> Net:
    try:
        find_cometbft()
    except EngineMissing as missing:
        pytest.skip(str(missing))
    return Net(tmp_path)


def test_a_late_organisation_begins_with_a_snapshot(net: Net) -> None:
    asyncio.run(story(net))
    late = net.organisations[LATE]
    found = verify_chain(net.home(LATE), net.genesis, keeper=late.id)
    assert found.ok, found
    assert found.base
    assert found.height > found.base


async def story(net: Net) -> None:
    try:
        for number in range(VALIDATORS):
            await net.start(number)
        first = net.nodes[0]
        await net.until(lambda: first.height >= 1, "the first block")
        sent = await net.write(0, 200)
        await net.until(lambda: first.height >= 2 * EVERY + 3, "some blocks")
        await net.until(
            lambda: all(len(net.nodes[one].snapshots.kept) >= 2 for one in range(VALIDATORS)), "snapshots everywhere"
        )
        same_snapshots(net)
        trusted = await first.rpc.call("commit", height=str(EVERY // 2))
        sync = SyncFrom(
            servers=[f"127.0.0.1:{net.rpc[one]}" for one in range(2)],
            trust_height=EVERY // 2,
            trust_hash=trusted["signed_header"]["commit"]["block_id"]["hash"],
        )
        late = await net.start(LATE, sync)
        await net.until(lambda: late.height, "a snapshot")
        session = late._session
        base = session.base_height
        assert base
        assert base % EVERY == 0
        await net.until(lambda: late.height > base + 2, "following")
        more = await net.write(1, 50)
        goal = net.nodes[1].height
        await net.until(lambda: first.height >= goal, "the first node")
        await net.until(lambda: late.height >= goal, "following after a write")
        for height in range(base + 1, goal + 1):
            assert session.block(height).header == first.block(height).header
        for raw in (sent[0], sent[-1], more[0]):
            with pytest.raises(Rejected) as refused:
                session.check(raw)
            assert refused.value.code is AdmissionCode.REPLAYED
        held = read_base(net.home(LATE) / LEDGER_FOLDER)
        assert held is not None
        assert held.header == first.block(base).header
        commit = await first.rpc.call("commit", height=str(base))
        signed = commit["signed_header"]["header"]
        assert (signed["chain_id"], int(signed["height"])) == (held.header.chain_id, base)
        assert int(read_time(signed["time"]).seconds) == held.header.time_s
        await net.until(lambda: late._unconfirmed is None, "the comparison with what the validators signed")
        # Restarted, the engine has its own state and asks for no snapshot.
        await late.drain()
        again = await net.start(LATE, sync)
        goal = first.height + 3
        await net.until(lambda: again.height >= goal, "following after a restart")
        assert again._session.block(goal).header == first.block(goal).header
    finally:
        for node in net.nodes.values():
            await node.drain()


def same_snapshots(net: Net) -> None:
    """Of every height that two nodes have, they have the same."""
    known: dict[int, bytes] = {}
    for number in range(VALIDATORS):
        for one in net.nodes[number].snapshots.kept:
            assert known.setdefault(one.height, one.hash) == one.hash
    assert known
