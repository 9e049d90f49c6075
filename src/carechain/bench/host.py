"""A whole node in another process, the same program that ``carechain start`` runs: what HTTP figures are taken from.

``python -m carechain.bench.host HOME PLAN BATCH [MEMBER PART…]`` serves a prepared home with its key until SIGTERM.
"""

import secrets
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from carechain.bench import machine
from carechain.bench.load import fetch, request
from carechain.bench.workload import Plan, network_of
from carechain.chain.genesis import write
from carechain.core.limits import NONCE_SIZE
from carechain.node.home import GENESIS_FILE, make_home
from carechain.node.main import run
from carechain.node.settings import (
    ApiSettings,
    BatchSettings,
    ConsensusSettings,
    GatekeeperSettings,
    OpsSettings,
    Settings,
    SnapshotSettings,
    StateSyncSettings,
)
from carechain.sdk.answers import Status
from carechain.sdk.authentication import OpenSession, Service, sign_opening
from carechain.sdk.identity import Identity

if TYPE_CHECKING:
    from collections.abc import Iterator

CONNECTIONS: Final = 4_096
_END_S: Final = 120.0


class HostFailed(Exception):  # noqa: N818 - names what became of the node
    """The node did not start, or did not drain."""


class Batch(Struct, frozen=True):
    """When waiting transactions become a block, see :class:`carechain.engine.embedded.BatchPolicy`."""

    timeout_s: float
    txs: int
    eager: bool = True


class Seat(NamedTuple):
    """One node of a consortium: whose it is (a place in the plan's members), and its engine's settings."""

    member: int
    consensus: ConsensusSettings
    snapshots: SnapshotSettings = SnapshotSettings()
    state_sync: StateSyncSettings = StateSyncSettings()


class Host:
    """A running node as its clients see it."""

    def __init__(self, process: "subprocess.Popen[bytes]", plan: Plan, address: tuple[str, int]) -> None:
        self.address = address
        self.pid = process.pid
        self._process = process
        self._plan = plan
        self._status = msgspec.msgpack.decode(fetch(*address, request("GET", "/v1/status")), type=Status)

    def open_session(self, party: Identity) -> str:
        """A bearer token for ``party``, opened with its ledger key."""
        opening = sign_opening(
            party.signing_key(),
            chain_id=self._plan.chain_id,
            service=Service.NODE,
            server=self._status.server,
            party=party.party,
            time_s=int(time.time()),
            nonce=secrets.token_bytes(NONCE_SIZE),
        )
        answer = fetch(*self.address, request("POST", "/v1/session", body=msgspec.msgpack.encode(opening)))
        return msgspec.msgpack.decode(answer, type=OpenSession).token

    def cost(self) -> machine.Cost:
        """What the node and its verifier process have used."""
        return machine.cost_of(self._process.pid)

    @property
    def status(self) -> Status:
        """Where the node's chain stands now."""
        return msgspec.msgpack.decode(fetch(*self.address, request("GET", "/v1/status")), type=Status)


@contextmanager
def hosted(home: Path, plan: Plan, batch: Batch, seat: "Seat | None" = None) -> "Iterator[Host]":
    """Serve the ledger in ``home``; at the end the node drains. Raises :class:`HostFailed`."""
    make_home(home)
    (home / GENESIS_FILE).write_bytes(write(network_of(plan).genesis))
    arguments = [str(home), *(msgspec.json.encode(one).decode() for one in (plan, batch))]
    if seat is not None:
        parts = (seat.consensus, seat.snapshots, seat.state_sync)
        arguments += [str(seat.member), *(one.model_dump_json() for one in parts)]
    process = subprocess.Popen(  # noqa: S603 - this program, with arguments of its own making
        [sys.executable, "-m", __name__, *arguments], stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    try:
        yield Host(process, plan, _address(process))
        process.terminate()
        _, rest = process.communicate(timeout=_END_S)
        if process.returncode:
            raise HostFailed(rest.decode("utf-8", "replace")[-500:])
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def _address(process: "subprocess.Popen[bytes]") -> tuple[str, int]:
    """Where the node listens, from the line of its log that says that it has started."""
    if process.stderr is None:
        raise HostFailed("the node was started without a log")
    said: list[str] = []
    for line in process.stderr:
        text = line.decode("utf-8", "replace").strip()
        said.append(text)
        if text.startswith("{"):
            url = urlsplit(str(msgspec.json.decode(text).get("api", "")))
            if url.hostname and url.port:
                return url.hostname, url.port
    raise HostFailed("\n".join(said)[-500:])


def main(home: str, plan: str, batch: str, member: str = "0", *parts: str) -> int:
    """Run the node; returns the exit status. ``parts`` are a consortium's settings, in the order of :class:`Seat`."""
    consensus, snapshots, state_sync = parts or ("{}", "{}", "{}")
    wanted = msgspec.json.decode(batch, type=Batch)
    settings = Settings(
        home=Path(home),
        api=ApiSettings(port=0, connections=CONNECTIONS),
        ops=OpsSettings(port=0),
        gatekeeper_api=GatekeeperSettings(enabled=False),
        batch=BatchSettings(timeout_s=wanted.timeout_s, eager=wanted.eager, txs=wanted.txs),
        consensus=ConsensusSettings.model_validate_json(consensus),
        snapshots=SnapshotSettings.model_validate_json(snapshots),
        state_sync=StateSyncSettings.model_validate_json(state_sync),
    )
    network = network_of(msgspec.json.decode(plan, type=Plan))
    return run(settings, identity=network.members[int(member)])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
