"""A consortium on one machine: one home, one node and one engine per organisation, started and stopped together.

Everything a node says is asked at its own ports; a process is only ended when it is the one that was started.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from carechain.chain.genesis import write as genesis_bytes
from carechain.chain.versions import LATEST
from carechain.cli.certifying import SERVER_DAYS, issue_for_servers
from carechain.cli.homes import TLS_LINES, join, make_applicant
from carechain.cli.keyring import Keyring
from carechain.cli.network import APPLICATION_FILE, found_consortium, read_application
from carechain.cli.output import CannotRun
from carechain.cli.peering import consensus_settings
from carechain.cli.serving import ask_status
from carechain.contracts.upgrades import ContractVersion
from carechain.contracts.validators import Rotation
from carechain.core.vocabulary import OrganisationKind
from carechain.node.home import replace_file, running
from carechain.node.ports import free_ports
from carechain.sdk.answers import Status

NETWORK_FILE: Final = "testnet.json"
GENESIS_FILE: Final = "genesis.json"
PASSWORD_FILE: Final = "password"  # noqa: S105 - the file's name
LOG_FILE: Final = "node.log"
PASSWORD: Final = "for trying things out only"  # noqa: S105 - said in the documentation
READY_S: Final = 90.0
STOP_S: Final = 40.0
LOOK_S: Final = 0.1
_REASON: Final = "carechain: "
"""How the line begins that says why a node could not run."""
_KINDS: Final = (
    OrganisationKind.HOSPITAL,
    OrganisationKind.HOSPITAL,
    OrganisationKind.INSURER,
    OrganisationKind.GOVERNMENT,
)


class LocalNode(Struct, frozen=True, kw_only=True):
    """One organisation's node: its folder below the network's, its ports, whether it has a seat."""

    name: str
    seat: bool
    p2p: int
    api: int
    ops: int
    gatekeeper: int
    node_id: str
    pid: int = 0
    fhir: int = 0


class LocalNetwork(Struct, frozen=True, kw_only=True):
    """What ``testnet.json`` holds."""

    chain_id: str
    nodes: tuple[LocalNode, ...]


class Shown(Struct, frozen=True, kw_only=True):
    """One node as it answers now."""

    name: str
    height: int
    app_hash: str
    peers: int
    ready: bool
    why: str
    seat: bool
    pid: int
    api: str
    ops: str
    gatekeeper: str
    p2p: str
    log: str


def make(
    folder: Path,
    *,
    chain_id: str,
    validators: int,
    followers: int,
    hub: bool,
    rotation: Rotation,
    versions: Sequence[ContractVersion] = LATEST,
    tls: bool = False,
) -> LocalNetwork:
    """Homes, keys, genesis and settings of a new local network. Raises :class:`CannotRun`.

    With ``tls`` each organisation's own authority certifies its node's servers.
    """
    if (folder / NETWORK_FILE).exists():
        raise CannotRun(f"{folder} holds a network already: start it with `up`, or remove the folder")
    folder.mkdir(parents=True, exist_ok=True)
    password = folder / PASSWORD_FILE
    replace_file(password, PASSWORD.encode() + b"\n")
    total = validators + followers
    names = [f"org-{number}" for number in range(1, total + 1)]
    for place, name in enumerate(names):
        make_applicant(
            folder / name,
            name=f"Organisation {place + 1}",
            kind=_KINDS[place % len(_KINDS)],
            registrar=_KINDS[place % len(_KINDS)] is OrganisationKind.HOSPITAL,
            password_file=password,
        )
    founders = [read_application(folder / name / APPLICATION_FILE) for name in names]
    seats = [one.member for one in founders[:validators]]
    genesis = found_consortium(chain_id, founders, seats=seats, rotation=rotation, versions=versions)
    replace_file(folder / GENESIS_FILE, genesis_bytes(genesis))
    ports = free_ports(5 * total)
    nodes = tuple(
        LocalNode(
            name=name,
            seat=place < validators,
            p2p=ports[5 * place],
            api=ports[5 * place + 1],
            ops=ports[5 * place + 2],
            gatekeeper=ports[5 * place + 3],
            fhir=ports[5 * place + 4],
            node_id=founders[place].node_id.hex(),
        )
        for place, name in enumerate(names)
    )
    for one in nodes:
        home = folder / one.name
        if tls:
            issue_for_servers(home, Keyring(home).authority(PASSWORD), (), days=SERVER_DAYS)
        join(home, folder / GENESIS_FILE, config=_config(one, nodes, hub=hub, tls=tls))
    network = LocalNetwork(chain_id=chain_id, nodes=nodes)
    _keep(folder, network)
    return network


def _config(one: LocalNode, nodes: Sequence[LocalNode], *, hub: bool, tls: bool) -> str:
    """The node's settings. A follower of a hub knows the hub and nobody else, and the hub waits for its followers."""
    known = [other for other in nodes if other is not one and (not hub or (other.seat and not one.seat))]
    peers = [f"{other.node_id}@127.0.0.1:{other.p2p}" for other in known]
    ports = {"api": one.api, "ops": one.ops, "gatekeeper_api": one.gatekeeper, "fhir": one.fhir}
    said = [f"password_file = {json.dumps(f'../{PASSWORD_FILE}')}"]
    said += ["\n".join(("", "[api]", *(TLS_LINES if tls else ()), f"port = {ports.pop('api')}"))]
    said += [f"\n[{group}]\nport = {port}" for group, port in ports.items()]
    return "\n".join(said) + "\n" + consensus_settings(host="127.0.0.1", port=one.p2p, peers=peers, same_host=True)


def read(folder: Path) -> LocalNetwork:
    """The network in ``folder``. Raises :class:`CannotRun`."""
    try:
        return msgspec.json.decode((folder / NETWORK_FILE).read_bytes(), type=LocalNetwork)
    except FileNotFoundError:
        raise CannotRun(f"{folder} holds no local network: make one with `carechain testnet up`") from None
    except (OSError, msgspec.MsgspecError):
        raise CannotRun(f"{folder / NETWORK_FILE} cannot be read; remove the folder and start again") from None


def _keep(folder: Path, network: LocalNetwork) -> None:
    replace_file(folder / NETWORK_FILE, msgspec.json.format(msgspec.json.encode(network), indent=2) + b"\n")


# --- processes ------------------------------------------------------------------------------------------


def start(folder: Path, network: LocalNetwork, say: Callable[[str], None]) -> LocalNetwork:
    """Start every node that does not run, and wait until all are ready. Raises :class:`CannotRun`: then none runs."""
    started = LocalNetwork(chain_id=network.chain_id, nodes=tuple(_started(folder, one) for one in network.nodes))
    _keep(folder, started)
    until_s = time.monotonic() + READY_S
    waiting = list(started.nodes)
    while waiting:
        ready = [one for one in waiting if (shown := show(folder, one)).ready and shown.height]
        for one in ready:
            say(f"{one.name} is ready")
        waiting = [one for one in waiting if one not in ready]
        gone = [one for one in waiting if not is_ours(folder, one)]
        if gone or (waiting and time.monotonic() > until_s):
            first = (gone or waiting)[0]
            last = _last_words(folder / first.name / LOG_FILE)
            stop(folder, started)
            raise CannotRun(f"{first.name} did not get ready; its log ends with: {last}")
        time.sleep(LOOK_S)
    return started


def start_one(folder: Path, name: str) -> LocalNode:
    """Start one node of the network again, without waiting for it."""
    network = read(folder)
    nodes = tuple(_started(folder, one) if one.name == name else one for one in network.nodes)
    _keep(folder, LocalNetwork(chain_id=network.chain_id, nodes=nodes))
    return next(one for one in nodes if one.name == name)


def _started(folder: Path, one: LocalNode) -> LocalNode:
    if is_ours(folder, one):
        return one
    home = folder / one.name
    with (home / LOG_FILE).open("ab") as log:
        process = subprocess.Popen(  # noqa: S603 - this program
            [sys.executable, "-m", "carechain", "start", "--home", str(home)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
            env=_environment(),
        )
    _children[process.pid] = process
    return msgspec.structs.replace(one, pid=process.pid)


def _environment() -> dict[str, str]:
    """This program's own, without settings of a home: a shell's password file would stand before each node's own."""
    return {name: value for name, value in os.environ.items() if name.upper() not in _ONE_HOMES}


_ONE_HOMES: Final = frozenset({"CARECHAIN_HOME", "CARECHAIN_MEMBER_KEY", "CARECHAIN_PASSWORD_FILE"})
"""Settings that people export for the home that they work with, and that are never another home's."""

_children: Final[dict[int, "subprocess.Popen[bytes]"]] = {}
"""Nodes that this very process started: they have to be waited for when they end."""


def is_ours(folder: Path, one: LocalNode) -> bool:
    """Whether the process that was started for this node runs: the number alone could be another's by now."""
    child = _children.get(one.pid)
    if child is not None and child.poll() is not None:
        return False
    try:
        command = Path(f"/proc/{one.pid}/cmdline").read_bytes().split(b"\0") if one.pid else []
    except OSError:
        return False
    return os.fsencode(str(folder / one.name)) in command


def stop(folder: Path, network: LocalNetwork) -> list[str]:
    """End every node and wait for it; returns the names of those that had to be killed."""
    for one in network.nodes:
        if is_ours(folder, one):
            with suppress(ProcessLookupError):
                os.kill(one.pid, signal.SIGTERM)
    until_s = time.monotonic() + STOP_S
    while any(is_ours(folder, one) for one in network.nodes) and time.monotonic() < until_s:
        time.sleep(LOOK_S)
    killed = [one for one in network.nodes if is_ours(folder, one)]
    for one in killed:
        # Its engine ends with it.
        with suppress(ProcessLookupError):
            os.kill(one.pid, signal.SIGKILL)
    while any(is_ours(folder, one) for one in killed):
        time.sleep(LOOK_S)
    nodes = tuple(msgspec.structs.replace(one, pid=0) for one in network.nodes)
    _keep(folder, LocalNetwork(chain_id=network.chain_id, nodes=nodes))
    return [one.name for one in killed]


# --- looking --------------------------------------------------------------------------------------------


def show(folder: Path, one: LocalNode) -> Shown:
    """How a node answers now; one that does not is at height 0 and not ready."""
    home = folder / one.name
    status, why = None, "it does not run"
    found = running(home)
    api = found.api if found is not None else f"http://127.0.0.1:{one.api}"
    if is_ours(folder, one):
        status, why = _ask(api, home), "it does not answer yet"
    return Shown(
        name=one.name,
        height=status.height if status else 0,
        app_hash=status.app_hash.hex() if status else "",
        peers=status.peers if status else 0,
        ready=bool(status and status.ready),
        why=status.why if status else why,
        seat=one.seat,
        pid=one.pid if is_ours(folder, one) else 0,
        api=api,
        ops=f"http://127.0.0.1:{one.ops}",
        gatekeeper=found.gatekeeper if found is not None else f"http://127.0.0.1:{one.gatekeeper}",
        p2p=f"127.0.0.1:{one.p2p}",
        log=str(home / LOG_FILE),
    )


def _ask(url: str, home: Path) -> Status | None:
    try:
        return ask_status(url, home).status
    except CannotRun:
        return None


def _last_words(path: Path) -> str:
    """Why a node ended, or what it logged last."""
    with suppress(OSError):
        lines = path.read_text("utf-8", "replace").strip().splitlines()
        reasons = [line.removeprefix(_REASON) for line in lines if line.startswith(_REASON)]
        return (reasons or lines or ["nothing"])[-1]
    return "nothing"
