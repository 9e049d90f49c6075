"""Several whole nodes on this machine that agree on blocks: one process and one consensus engine per organisation.

They share the processors with each other and with the client, so what one of them would do alone is not seen here;
what is seen is what all of them together do with this machine.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Final

import httpx
import msgspec
from msgspec import Struct

from carechain.bench import machine
from carechain.bench.filling import BenchFailed, Progress, Signers
from carechain.bench.host import Batch, Host, Seat, hosted
from carechain.bench.load import Load, request, run_load, run_loads
from carechain.bench.workload import VALIDITY_S, Plan, engine_keys, engine_seeds, sign_enrolments
from carechain.contracts.validators import address_of
from carechain.engine.cometbft import config
from carechain.engine.session import LEDGER_FOLDER
from carechain.engine.snapshots import SNAPSHOTS_FOLDER, kept_in
from carechain.node.consortium import prepare
from carechain.node.home import make_home, running
from carechain.node.ports import free_ports
from carechain.node.settings import ConsensusSettings, SnapshotSettings, StateSyncSettings
from carechain.sdk.answers import Submitted

BATCH_TXS: Final = 200
"""Transactions a client sends in one request."""
READY_S: Final = 60.0
_LOOK_S: Final = 0.05
_RPC_SERVERS: Final = 2
_TRUSTED_HEIGHT: Final = 2
_DONE: Final = 'carechain_transactions_total{outcome="OK"}'
_UNUSED: Final = Batch(0.0, 1)
"""A consortium's blocks are the engine's business; a node's own batches are not made."""


class Timing(Struct, frozen=True, kw_only=True):
    """The engine's settings that a benchmark varies."""

    commit_wait_ms: int = 200
    skip_commit_wait: bool = True
    block_txs: int = 20_000


class Cluster:
    """Running nodes, in the order of the plan's members."""

    def __init__(self, hosts: Sequence[Host], plan: Plan, folder: Path, wires: "Wires") -> None:
        self.hosts = hosts
        self.plan = plan
        self.folder = folder
        self._wires = wires

    def late_comer(self, *, by_snapshot: bool = False) -> AbstractContextManager[Host]:
        """The last node, which was left out so far, run now and from nothing.

        ``by_snapshot``: it takes the state from a snapshot of the others, trusting a block near the beginning.
        """
        sync = self._state_sync() if by_snapshot else StateSyncSettings()
        home = self.folder / ("late-by-snapshot" if by_snapshot else f"node-{self.plan.validators}")
        return _node(self.plan, home, self.plan.validators - 1, self._wires, sync)

    def _state_sync(self) -> StateSyncSettings:
        servers = tuple(f"127.0.0.1:{port}" for port in self._wires.rpc)
        answer = httpx.get(f"http://{servers[0]}/commit", params={"height": _TRUSTED_HEIGHT}, trust_env=False).json()
        trusted = answer["result"]["signed_header"]["commit"]["block_id"]["hash"]
        return StateSyncSettings(servers=servers, trust_height=_TRUSTED_HEIGHT, trust_hash=trusted)

    def snapshots_made(self) -> int:
        """The height of the newest snapshot that two nodes have, 0 when there is none."""
        made = [{one.height for one in kept_in(_snapshots(self.folder, number))} for number in (1, 2)]
        return max(made[0] & made[1], default=0)

    def wait_until(self, height: int) -> None:
        """Wait until every node has at least this height; raises :class:`BenchFailed` after a minute."""
        until_s = time.monotonic() + READY_S
        while min(one.status.height for one in self.hosts) < height:
            if time.monotonic() > until_s:
                raise BenchFailed("the nodes do not come along")
            time.sleep(_LOOK_S)

    def agree(self) -> None:
        """Raise :class:`BenchFailed` unless all nodes come to one state."""
        until_s = time.monotonic() + READY_S
        while len({(one.status.app_hash) for one in self.hosts}) > 1:
            if time.monotonic() > until_s:
                raise BenchFailed("the nodes have different states")
            time.sleep(_LOOK_S)

    def send(self, raws: Sequence[bytes], *, connections: int = 1) -> Load:
        """Order transactions, dealt out over all nodes in batches; every one must do what it asks."""
        loads = [
            (host.address, [batch_request(part) for part in _parts(raws[place :: len(self.hosts)], BATCH_TXS)])
            for place, host in enumerate(self.hosts)
        ]
        before = self.done()
        load = run_loads([one for one in loads if one[1]], connections=connections)
        self.wait_until(max(one.status.height for one in self.hosts))
        if self.done() - before != len(raws):
            raise BenchFailed("a transaction was refused")
        return load

    def write_one(self, host: Host, raw: bytes) -> float:
        """Order one transaction; returns the seconds it took, once no block is under way any more.

        A block that changed the state is followed by an empty one, whose header has the new state's root.
        """
        load = run_load(*host.address, (request("POST", "/v1/transactions", body=raw),), connections=1)
        self.wait_until(msgspec.msgpack.decode(load.last_body, type=Submitted).height + 1)
        return load.latencies_s[0]

    def done(self) -> int:
        """How many transactions the first node has seen do what they asked."""
        found = running(self.folder / "node-1")
        said = httpx.get(f"{found.ops if found else ''}/metrics", trust_env=False).text
        counts = [line for line in said.splitlines() if line.startswith(_DONE)]
        return int(float(counts[0].rpartition(" ")[2])) if counts else 0

    def costs(self) -> list[dict[str, machine.Cost]]:
        """What each node's processes have used, by program."""
        return [machine.processes_of(one.pid) for one in self.hosts]


class Wires(Struct, frozen=True, kw_only=True):
    """What the nodes of one cluster have in common: ports, and the engine's settings."""

    p2p: tuple[int, ...]
    rpc: tuple[int, ...]
    """Of the first nodes: where a late one asks what it may trust."""
    timing: Timing
    snapshot_every: int


@contextmanager
def cluster(
    plan: Plan, folder: Path, timing: Timing | None = None, *, late: int = 0, snapshot_every: int = 0
) -> Iterator[Cluster]:
    """Found the plan's consortium below ``folder`` and run its nodes, all but the last ``late`` ones.

    ``snapshot_every``: so many blocks lie between two snapshots of the state; 0: none are made.
    """
    ports = free_ports(plan.validators + _RPC_SERVERS)
    wires = Wires(
        p2p=tuple(ports[: plan.validators]),
        rpc=tuple(ports[plan.validators :]) if snapshot_every else (),
        timing=timing or Timing(),
        snapshot_every=snapshot_every,
    )
    with ExitStack() as started:
        hosts = [
            started.enter_context(_node(plan, folder / f"node-{member + 1}", member, wires, StateSyncSettings()))
            for member in range(plan.validators - late)
        ]
        made = Cluster(hosts, plan, folder, wires)
        made.wait_until(1)
        yield made


def _node(plan: Plan, home: Path, member: int, wires: Wires, sync: StateSyncSettings) -> AbstractContextManager[Host]:
    make_home(home)
    prepare(home / config.FOLDER, engine_seeds(plan, member))
    ids = [address_of(engine_keys(plan, one)[0].public_key).hex() for one in range(plan.validators)]
    peers = [f"{node}@127.0.0.1:{port}" for node, port in zip(ids, wires.p2p, strict=True)]
    consensus = ConsensusSettings(
        port=wires.p2p[member],
        peers=tuple(peer for one, peer in enumerate(peers) if one != member),
        same_host=True,
        block_txs=wires.timing.block_txs,
        commit_wait_ms=wires.timing.commit_wait_ms,
        skip_commit_wait=wires.timing.skip_commit_wait,
        rpc_port=dict(enumerate(wires.rpc)).get(member),
    )
    snapshots = SnapshotSettings(every_blocks=wires.snapshot_every)
    return hosted(home, plan, _UNUSED, Seat(member, consensus, snapshots, sync))


def _snapshots(folder: Path, number: int) -> Path:
    return folder / f"node-{number}" / LEDGER_FOLDER / SNAPSHOTS_FOLDER


def register(nodes: Cluster, signers: Signers, pseudonyms: Path, progress: Progress) -> None:
    """Enrol the staff and register the plan's patients with their grants; ``pseudonyms`` gets their ids."""
    now_s = int(time.time())
    plan = nodes.plan
    nodes.send(sign_enrolments(plan, now_s + VALIDITY_S))
    done = 0
    with pseudonyms.open("wb") as ids:
        for _, signed in signers.patients(plan, iter(lambda: int(time.time()), None)):
            nodes.send(signed.bindings)
            nodes.send(signed.grants, connections=2)
            ids.write(signed.pseudonyms)
            done += len(signed.grants)
            progress("patients", done, plan.pseudonyms)


def batch_request(raws: Sequence[bytes]) -> bytes:
    """One request with many transactions."""
    return request("POST", "/v1/transactions/batch", body=msgspec.msgpack.encode(list(raws)))


def _parts(raws: Sequence[bytes], size: int) -> list[Sequence[bytes]]:
    return [raws[start : start + size] for start in range(0, len(raws), size)]
