"""A real consortium on loopback for the fault tests: processes to kill, links to cut, and what must hold afterwards.

Every organisation has its own home, node and engine, made and started by the command line's own parts. With ``wired``
each node reaches each other one through a link of this module, which a test can cut or hold. Nothing here waits for a
time to pass: conditions are looked at again until they hold or a deadline is over.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct

from carechain.chain.genesis import read as read_genesis
from carechain.chain.header import Header, decode_sealed
from carechain.chain.receipts import OK, decode_receipt
from carechain.cli import local_network as local
from carechain.contracts.validators import Rotation
from carechain.core.crypto import SigningKey
from carechain.core.limits import STALE_BLOCK_S
from carechain.core.message import Message
from carechain.core.vocabulary import Role, mask
from carechain.engine.cometbft.config import FOLDER
from carechain.engine.cometbft.process import LOG_FILE as ENGINE_LOG
from carechain.engine.txindex import id_of
from carechain.sdk.answers import MSGPACK, ShownBlock, Status
from carechain.sdk.certificates import CertificateAuthority
from carechain.sdk.client import HasKeys, Node, Refused, Signer, SyncClient, Unreachable
from carechain.sdk.identity import Identity
from carechain.sdk.registrar import RegistrarSecret
from world import CHAIN_ID, Actor, anchor_of, anything, bind_message, enrolment_of, entropy_of, wallet_of

T = TypeVar("T")

LOOK_S: Final = 0.05
PATIENCE_S: Final = 90.0
"""A deadline for what takes a second or two on an idle machine."""
HEAL_S: Final = 10.0
"""The issue's own figure: so soon after a fault is mended there is progress again."""
STALE_S: Final = STALE_BLOCK_S


def until(condition: Callable[[], T], what: str, *, within_s: float = PATIENCE_S) -> T:
    """What ``condition`` gives as soon as that is true; fails with ``what`` when the time is over."""
    end_s = time.monotonic() + within_s
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > end_s:
            raise AssertionError(f"not within {within_s:.0f} s: {what}")
        time.sleep(LOOK_S)


def holds_for(seconds: float, condition: Callable[[], object], what: str) -> None:
    """``condition`` is true all the time."""
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        assert condition(), what
        time.sleep(LOOK_S)


class Keys(Struct, frozen=True):
    """Somebody with an id and a signing key."""

    id: bytes
    signing: SigningKey


def environment() -> dict[str, str]:
    """For this project's own programs."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def children_of(pid: int) -> list[int]:
    """The processes that this one started and that have not ended."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if int(parent) == pid and state != "Z":
                found.append(int(entry.name))
    return sorted(found)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not asked for its status does not."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def sentence_in(log: str) -> str:
    """Why a node ended: the one line that is meant for people."""
    return [line for line in log.splitlines() if line.startswith("carechain: ")][-1].removeprefix("carechain: ")


def left_of(folder: Path) -> list[int]:
    """Processes that name ``folder``, or something in it, on their command line."""
    found, own = [], os.fsencode(folder)
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if any(word == own or word.startswith(own + b"/") for word in words):
                found.append(int(entry.name))
    return found


@cache
def _identity(home: Path) -> Identity:
    return Identity.load(home / "keys/member.json", password=local.PASSWORD)


class _EngineConnection(HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("engine", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


# --- links ----------------------------------------------------------------------------------------------


class _Link:
    """One direction: whoever connects to ``port`` reaches ``target``, unless the link is cut."""

    def __init__(self, ends: frozenset[str], target: int) -> None:
        self.ends, self.target = ends, target
        self.port = 0
        self.is_cut = False
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.open: set[asyncio.StreamWriter] = set()
        self.server: asyncio.Server | None = None

    async def listen(self) -> None:
        self.server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        other: asyncio.StreamWriter | None = None
        self.open.add(writer)
        try:
            if not self.is_cut:
                back, other = await asyncio.open_connection("127.0.0.1", self.target)
                self.open.add(other)
                await asyncio.gather(self._pump(reader, other), self._pump(back, writer))
        except OSError:
            pass  # The other side is down: whoever dialled sees a connection that ends.
        finally:
            for one in filter(None, (writer, other)):
                self.open.discard(one)
                one.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            await self.flowing.wait()
            writer.write(data)
            await writer.drain()
        writer.transport.abort()

    def cut(self) -> None:
        self.is_cut = True
        for one in self.open:
            one.transport.abort()

    def mend(self) -> None:
        self.is_cut = False
        self.flowing.set()


class Wires:
    """The links between all nodes, run by a thread of their own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="links")
        self._thread.start()
        self._links: list[_Link] = []

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def port(self, dialler: str, listener: str, target: int) -> int:
        """Where ``dialler`` reaches ``listener``, whose own port is ``target``."""

        async def add() -> _Link:
            link = _Link(frozenset((dialler, listener)), target)
            await link.listen()
            return link

        link = self._run(add())
        self._links.append(link)
        return link.port

    def cut(self, *names: str) -> None:
        """Break all connections between these and the others, and let none come up."""
        self._each(names, _Link.cut)

    def hold(self, *names: str) -> None:
        """Nothing gets through between these and the others, and nobody is told."""
        self._each(names, lambda link: link.flowing.clear())

    def mend(self) -> None:
        """All links work."""

        async def mend() -> None:
            for link in self._links:
                link.mend()

        self._run(mend())

    def _each(self, names: Collection[str], do: Callable[[_Link], None]) -> None:
        async def apply() -> None:
            for link in self._links:
                if len(link.ends & set(names)) == 1:
                    do(link)

        self._run(apply())

    def close(self) -> None:
        """End the thread."""

        async def end() -> None:
            for link in self._links:
                if link.server is not None:
                    link.server.close()
                link.mend()
                link.cut()
            running = asyncio.all_tasks() - {asyncio.current_task()}
            for one in running:
                one.cancel()
            await asyncio.gather(*running, return_exceptions=True)

        self._run(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


# --- the network ----------------------------------------------------------------------------------------


class Consortium:
    """A network in ``folder``; ``up`` starts it. They are called org-1, org-2 and so on."""

    def __init__(
        self,
        folder: Path,
        *,
        validators: int = 4,
        followers: int = 0,
        hub: bool = False,
        wired: bool = False,
        settings: str = "",
    ) -> None:
        """``settings`` are lines for the ``[consensus]`` part of every node's configuration."""
        self.folder = folder
        network = local.make(
            folder, chain_id=CHAIN_ID, validators=validators, followers=followers, hub=hub, rotation=Rotation()
        )
        self.names = [one.name for one in network.nodes]
        self.genesis = read_genesis((folder / local.GENESIS_FILE).read_bytes())
        self.wires = Wires() if wired else None
        self.acknowledged: list[bytes] = []
        """Ids of transactions that some node said are durable."""
        self._placed: dict[bytes, tuple[int, int]] = {}
        self._headers: list[Header] = []
        self._clients: dict[str, SyncClient] = {}
        for name in self.names:
            config = self.home(name) / "config.toml"
            config.write_text(config.read_text() + settings)
            if self.wires is not None:
                self._wire(name)

    def _wire(self, name: str) -> None:
        assert self.wires is not None
        config = self.home(name) / "config.toml"
        text = config.read_text()
        for other in self.names:
            if other != name:
                p2p = self.node(other).p2p
                text = text.replace(f"@127.0.0.1:{p2p}", f"@127.0.0.1:{self.wires.port(name, other, p2p)}")
        config.write_text(text)

    def close(self) -> None:
        """End everything."""
        for client in self._clients.values():
            client.close()
        self._clients.clear()
        for name in self.names:
            with suppress(ProcessLookupError):
                self.send(signal.SIGCONT, name)
        local.stop(self.folder, local.read(self.folder))
        for pid in left_of(self.folder):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.wires is not None:
            self.wires.close()

    # --- processes --------------------------------------------------------------------------------------

    def command(self, *args: str, expect: int = 0) -> dict[str, Any]:
        """What ``carechain ARGS… --json`` says."""
        done = subprocess.run(
            [sys.executable, "-m", "carechain", *args, "--json"],
            env=environment(),
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )
        assert done.returncode == expect, done.stdout + done.stderr
        return dict(json.loads(done.stdout))

    def testnet(self, what: str, *, expect: int = 0) -> dict[str, Any]:
        """``carechain testnet up``, ``status`` or ``down``."""
        return self.command("testnet", what, "--folder", str(self.folder), expect=expect)

    def up(self) -> None:
        """Start all nodes as children of this process, and wait until they are ready."""
        local.start(self.folder, local.read(self.folder), lambda _: None)

    def home(self, name: str) -> Path:
        return self.folder / name

    def node(self, name: str) -> local.LocalNode:
        return next(one for one in local.read(self.folder).nodes if one.name == name)

    def is_running(self, name: str) -> bool:
        return local.is_ours(self.folder, self.node(name))

    def engine_of(self, name: str) -> int | None:
        """The engine's process id."""
        return next(iter(children_of(self.node(name).pid)), None)

    def start(self, *names: str) -> None:
        """Start these nodes, without waiting for them."""
        for name in names:
            local.start_one(self.folder, name)

    def kill(self, *names: str) -> None:
        """Kill nodes without warning; returns when they and their engines are gone."""
        for name in names:
            node, engine = self.node(name).pid, self.engine_of(name)
            os.kill(node, signal.SIGKILL)
            until(lambda n=name: not self.is_running(n), f"{name} is gone")
            if engine is not None:
                until(lambda e=engine: not is_alive(e), f"the engine of {name} is gone")

    def stop(self, *names: str) -> None:
        """Ask nodes to stop, and wait for it."""
        for name in names:
            with suppress(ProcessLookupError):
                os.kill(self.node(name).pid, signal.SIGTERM)
        until(lambda: not any(self.is_running(name) for name in names), "they have stopped")

    def send(self, number: int, name: str) -> None:
        """A signal to a node and its engine."""
        if self.is_running(name):
            for pid in (self.node(name).pid, *children_of(self.node(name).pid)):
                os.kill(pid, number)

    def cannot_run(self, name: str, *, env: dict[str, str] | None = None) -> str:
        """The sentence of a node that must end by itself with exit status 3 and leave nothing running."""
        done = subprocess.run(
            [sys.executable, "-m", "carechain", "start", "--home", str(self.home(name))],
            env=environment() | (env or {}),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 3, done.stderr
        assert "Traceback" not in done.stderr
        assert left_of(self.home(name)) == []
        return sentence_in(done.stderr)

    def ended(self, name: str) -> str:
        """The sentence of a node that was started by this test and must end by itself with exit status 3."""
        process = local._children[self.node(name).pid]
        assert process.wait(PATIENCE_S) == 3, self.log(name)
        until(lambda: left_of(self.home(name)) == [], f"nothing of {name} is left")
        return sentence_in(self.log(name))

    # --- looking ----------------------------------------------------------------------------------------

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.node(name).api}"

    def status(self, name: str) -> Status | None:
        """How a node answers; None when it does not."""
        with closing(HTTPConnection("127.0.0.1", self.node(name).api, timeout=5)) as connection:
            try:
                connection.request("GET", "/v1/status", headers={"accept": MSGPACK})
                return msgspec.msgpack.decode(connection.getresponse().read(), type=Status)
            except (OSError, HTTPException, msgspec.MsgspecError):
                return None

    def height(self, name: str) -> int:
        status = self.status(name)
        return 0 if status is None else status.height

    def reach(self, height: int, *names: str, within_s: float = PATIENCE_S) -> None:
        """These nodes (all, unless named) get to ``height``."""
        for name in names or self.names:
            until(
                lambda n=name: self.height(n) >= height,
                f"{name} reaches {height}: {self.status(name)}",
                within_s=within_s,
            )

    def wait_ready(self, *names: str) -> None:
        """These nodes say that they are ready, and have their peers."""
        for name in names or self.names:
            until(lambda n=name: (s := self.status(n)) is not None and s.ready and s.height, f"{name} is ready")

    def log(self, name: str) -> str:
        return (self.home(name) / local.LOG_FILE).read_text("utf-8", "replace")

    def engine_log(self, name: str) -> str:
        path = self.home(name) / FOLDER / ENGINE_LOG
        return path.read_text("utf-8", "replace") if path.exists() else ""

    def ask_engine(self, name: str, method: str, **params: object) -> dict[str, Any]:
        """One call of the engine's own interface; fails when it refuses. Raises ``OSError`` while it is away."""
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        # The socket's own path may be longer than an address of a socket can be.
        with closing(_EngineConnection(f"/proc/{self.engine_of(name)}/cwd/rpc")) as connection:
            connection.request("POST", "/", body, {"content-type": "application/json"})
            answer = json.loads(connection.getresponse().read())
        assert "error" not in answer, answer
        return dict(answer["result"])

    def peers_of(self, name: str) -> set[str]:
        """The engine's ids of the nodes that this one is connected to."""
        return {one["node_info"]["id"] for one in self.ask_engine(name, "net_info")["peers"]}

    # --- acting -----------------------------------------------------------------------------------------

    def member(self, name: str) -> Identity:
        """An organisation's own key."""
        return _identity(self.home(name))

    def client(self, *names: str, by: HasKeys | Identity | Signer, give_up_s: float = PATIENCE_S) -> SyncClient:
        """A client of these nodes; the caller closes it."""
        nodes = [Node(self.url(name), self.member(name).party) for name in names]
        return SyncClient(nodes, by, genesis=self.genesis, give_up_s=give_up_s)

    def at(self, name: str) -> SyncClient:
        """A client of one node, with its organisation's key, kept open."""
        if name not in self._clients:
            self._clients[name] = self.client(name, by=self.member(name))
        return self._clients[name]

    def submit(self, name: str, *messages: Message, by: HasKeys | Identity | Signer | None = None) -> Any:
        """A transaction that must succeed, through one node; its receipt."""
        if by is None:
            done = self.at(name).submit(*messages)
        else:
            with self.client(name, by=by) as client:
                done = client.submit(*messages)
        self.acknowledged.append(done.tx_id)
        return done

    def write(self, name: str, label: str) -> None:
        """The doctor anchors a record called ``label`` through this node."""
        self.submit(name, anchor_of(self.steve, label), by=self.carl)

    def populate(self) -> None:
        """A doctor and a patient of the first organisation."""
        first = self.names[0]
        own = self.member(first).party
        self.carl: Actor = Actor("carl", organisation=own)
        self.steve = wallet_of("steve").pseudonym(own)
        keys = self.home(first) / "keys"
        secret = RegistrarSecret.load(keys / "registrar.secret")
        self.submit(first, enrolment_of(self.carl, self.certify(first, self.carl, Role.DOCTOR)))
        self.submit(first, bind_message(self.steve, secret.id_hash("mrn", "1")))
        self.submit(first, anything(self.steve, Keys(own, self.member(first).signing_key())), by=self.steve)

    def certify(self, name: str, actor: Actor, *roles: Role) -> bytes:
        """A staff certificate of this organisation."""
        authority = CertificateAuthority.load(self.home(name) / "keys/authority.json", password=local.PASSWORD)
        now = datetime.now(UTC).replace(microsecond=0)
        return authority.issue(
            actor.id,
            suite=actor.signing.suite,
            public_key=actor.signing.public_key,
            roles=mask(*roles),
            not_before=now - timedelta(minutes=30),
            not_after=now + timedelta(days=300),
            entropy=entropy_of(name, actor.label),
        )

    @contextmanager
    def load(self, *names: str, workers: int = 2) -> "Iterator[Load]":
        """Writers that never stop, spread over these nodes (all, unless named); they fail over to the others."""
        load = Load(self, names or tuple(self.names), workers)
        try:
            yield load
        finally:
            load.stop()
        assert not load.refused, load.refused
        self.acknowledged += load.acknowledged

    # --- what must hold ---------------------------------------------------------------------------------

    def agree(self, *names: str) -> int:
        """Nodes (all, unless named) have the same blocks up to the greatest height that any has now; that height.

        Same headers mean same app hashes, since these stand in them. Everything acknowledged so far is there once.
        """
        asked = names or tuple(self.names)
        top = max(self.height(name) for name in asked)
        self.reach(top, *asked)
        for height in range(len(self._headers) + 1, top + 1):
            blocks = {name: self.block(name, height) for name in asked}
            headers = {name: decode_sealed(block.sealed).header for name, block in blocks.items()}
            header = headers[asked[0]]
            assert all(one == header for one in headers.values()), f"block {height} differs: {headers}"
            assert len({block.txs for block in blocks.values()}) == 1
            assert len({block.receipts for block in blocks.values()}) == 1
            self._note(header, blocks[asked[0]])
        missing = [one.hex() for one in self.acknowledged if one not in self._placed]
        assert not missing, f"{len(missing)} acknowledged transactions are lost"
        return top

    def _note(self, header: Header, block: ShownBlock) -> None:
        if self._headers:
            assert header.height == self._headers[-1].height + 1
        self._headers.append(header)
        for index, (raw, receipt) in enumerate(zip(block.txs, block.receipts, strict=True)):
            tx_id = id_of(raw)
            code = decode_receipt(receipt).code
            if tx_id is not None and code == OK:
                assert tx_id not in self._placed, f"twice: {self._placed[tx_id]}, {header.height}"
                self._placed[tx_id] = header.height, index

    def whole(self, name: str) -> None:
        """One node has every block that was compared before: for a node that has lost some of its files."""
        for header in self._headers:
            found = decode_sealed(self.block(name, header.height).sealed).header
            assert found == header, f"block {header.height} at {name}"

    def everywhere(self, tx_ids: Sequence[bytes], *names: str) -> None:
        """Every node has a receipt for each of these transactions of the doctor's."""
        for name in names or self.names:
            with self.client(name, by=self.carl) as client:
                for tx_id in tx_ids:
                    assert client.receipt(tx_id).receipt.code == OK

    @property
    def headers(self) -> Sequence[Header]:
        """All blocks compared so far."""
        return self._headers

    def block(self, name: str, height: int) -> ShownBlock:
        """A block as a node gives it out."""
        client = self.at(name)
        data = client._run(client._client._anywhere(lambda link: link.ask("GET", f"/v1/blocks/{height}")))
        return msgspec.msgpack.decode(data, type=ShownBlock)


class Load:
    """Threads that write one record after the other, each through the node whose turn it is."""

    def __init__(self, net: Consortium, names: Sequence[str], workers: int) -> None:
        self.acknowledged: list[bytes] = []
        self.unknown = 0
        """Transactions whose outcome a client did not learn."""
        self.refused: list[str] = []
        self._net = net
        self._ended = threading.Event()
        Load.runs += 1
        self._threads = [
            threading.Thread(target=self._work, args=(f"{Load.runs}/{one}", [*names[one:], *names[:one]]))
            for one in range(workers)
        ]
        for one in self._threads:
            one.start()

    runs = 0

    def _work(self, label: str, names: Sequence[str]) -> None:
        net, number = self._net, 0
        with net.client(*names, by=net.carl, give_up_s=30) as client:
            while not self._ended.is_set():
                number += 1
                try:
                    done = client.send(client.sign(anchor_of(net.steve, f"{label}/{number}")))
                    if done.receipt.code != OK:
                        self.refused.append(str(done.receipt))
                    self.acknowledged.append(done.tx_id)
                except Unreachable:
                    self.unknown += 1
                except Refused as refused:
                    self.refused.append(repr(refused))
                    return

    def more(self, count: int, *, within_s: float = PATIENCE_S) -> None:
        """So many more are acknowledged from now on."""
        goal = len(self.acknowledged) + count
        until(lambda: self.refused or len(self.acknowledged) >= goal, f"{count} more writes", within_s=within_s)

    def stop(self) -> None:
        self._ended.set()
        for one in self._threads:
            one.join()
