"""Goal: what real CometBFT nodes agree on is believed, through changes of the validators, and a lie of theirs is not.

Method: four nodes with the engine's own key-value application on loopback; one is down for a while, so commits have
empty places and later rounds, and then three validators leave. Run as a program, this module records the same run into
``light.json`` beside the golden vectors: ``python tests/e2e/test_light.py tests/vectors/light.json``.
"""

import base64
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from carechain.engine.cometbft.binary import EngineMissing, find_cometbft
from carechain.node.ports import free_ports
from carechain.sdk.light.fetch import pages_of, read_rpc
from carechain.sdk.light.header import LightBlock
from carechain.sdk.light.trust import read_trust, write_trust
from carechain.sdk.light.verify import TooFewSigned, TrustedGenesis, advance, catch_up, genesis_trust
from carechain.sdk.proofs import NotProven

pytestmark = pytest.mark.engine

CHAIN_ID: Final = "light-test"
START_S: Final = 60
SETTINGS: Final = {
    "allow_duplicate_ip": "true",
    "addr_book_strict": "false",
    "pex": "false",
    "timeout_propose": '"300ms"',
    "timeout_propose_delta": '"100ms"',
    "timeout_commit": '"50ms"',
    "skip_timeout_commit": "true",
    "create_empty_blocks": "false",
    "flush_throttle_timeout": '"10ms"',
    "peer_gossip_sleep_duration": '"10ms"',
}


class Node:
    """One CometBFT process with its built-in key-value application."""

    def __init__(self, program: Path, home: Path) -> None:
        self.program, self.home = program, home
        self.rpc, self.p2p = free_ports(2)
        self.process: subprocess.Popen[bytes] | None = None
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.rpc}", timeout=30)
        self._run("init")
        key = json.loads((home / "config/priv_validator_key.json").read_text())["pub_key"]
        self.key = base64.b64decode(key["value"])
        self.id = self._run("show-node-id").strip().splitlines()[-1]

    def _run(self, *args: str) -> str:
        done = subprocess.run([self.program, *args, "--home", self.home], capture_output=True, text=True, check=True)
        return done.stdout

    def configure(self, genesis: str, peers: list[str]) -> None:
        (self.home / "config/genesis.json").write_text(genesis)
        path = self.home / "config/config.toml"
        text = path.read_text()
        for name, value in SETTINGS.items():
            text = re.sub(rf"^{name} = .*$", f"{name} = {value}", text, flags=re.MULTILINE)
        text = re.sub(r"^persistent_peers = .*$", f'persistent_peers = "{",".join(peers)}"', text, flags=re.MULTILINE)
        path.write_text(text)

    def start(self) -> None:
        listen = [f"--rpc.laddr=tcp://127.0.0.1:{self.rpc}", f"--p2p.laddr=tcp://127.0.0.1:{self.p2p}"]
        log = (self.home / "log").open("ab")
        with log:
            self.process = subprocess.Popen(
                [self.program, "start", "--home", self.home, "--proxy_app=kvstore", "--log_level=error", *listen],
                stdout=log,
                stderr=log,
            )

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def get(self, path: str) -> bytes:
        return self.http.get(path).content

    def height(self) -> int:
        """Its latest height, 0 while it does not answer."""
        try:
            return int(json.loads(self.get("/status"))["result"]["sync_info"]["latest_block_height"])
        except (httpx.TransportError, KeyError):
            return 0

    def reach(self, height: int) -> None:
        end = time.monotonic() + START_S
        while self.height() < height:
            if time.monotonic() > end:
                raise TimeoutError((self.home / "log").read_text()[-2000:])
            time.sleep(0.05)

    def put(self, *txs: str) -> int:
        """Order transactions, all but the last without waiting; the height of the last."""
        for tx in txs[:-1]:
            self.http.get("/broadcast_tx_sync", params={"tx": f'"{tx}"'})
        answer = self.http.get("/broadcast_tx_commit", params={"tx": f'"{txs[-1]}"'}).json()
        return int(answer["result"]["height"])

    def raw(self, height: int) -> tuple[bytes, list[bytes]]:
        first = self.get(f"/validators?height={height}&per_page=100&page=1")
        pages = range(2, pages_of(first) + 1)
        more = [self.get(f"/validators?height={height}&per_page=100&page={page}") for page in pages]
        return self.get(f"/commit?height={height}"), [first, *more]

    def fetch(self, height: int) -> LightBlock:
        commit, validators = self.raw(height)
        return read_rpc(commit, validators)


@contextmanager
def network(program: Path, folder: Path) -> Iterator[list[Node]]:
    with ExitStack() as stack:
        nodes = [Node(program, folder / name) for name in "abcd"]
        for node in nodes:
            stack.callback(node.http.close)
            stack.callback(node.stop)
        genesis = json.loads((nodes[0].home / "config/genesis.json").read_text())
        first = genesis["validators"][0]
        genesis["chain_id"] = CHAIN_ID
        genesis["genesis_time"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        genesis["validators"] = [
            {
                "address": "",
                "pub_key": first["pub_key"] | {"value": base64.b64encode(node.key).decode()},
                "power": "1",
                "name": "",
            }
            for node in nodes
        ]
        for node in nodes:
            peers = [f"{other.id}@127.0.0.1:{other.p2p}" for other in nodes if other is not node]
            node.configure(json.dumps(genesis), peers)
            node.start()
        yield nodes


def weigh(node: Node, power: int) -> str:
    return f"val=ed25519!{base64.b64encode(node.key).decode()}!{power}"


def live(nodes: list[Node]) -> None:
    """The story: everybody; without the last; only the last."""
    a, b, c, d = nodes
    for node in nodes:
        node.reach(1)
    a.put("name=ann", "name=bob", "name=carl")
    d.stop()
    # Whoever proposes changes with every block, so within four the absent one's turn comes and a round is lost.
    for number in range(4):
        a.put(f"down={number}")
    d.start()
    d.reach(a.height())
    a.put(weigh(d, 3))
    a.put(weigh(a, 0), weigh(b, 0), weigh(c, 0))
    for number in range(4):
        last = d.put(f"alone={number}")
    d.reach(last + 1)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Node]]:
    try:
        program = find_cometbft()
    except EngineMissing as missing:
        pytest.skip(str(missing))
    with network(program, tmp_path_factory.mktemp("light")) as running:
        live(running)
        yield running


def genesis_of(nodes: list[Node]) -> TrustedGenesis:
    first = nodes[3].fetch(1)
    return genesis_trust(chain_id=CHAIN_ID, time_s=first.header.time.seconds, keys=[node.key for node in nodes])


def test_the_last_header_is_believed_from_the_genesis(nodes: list[Node]) -> None:
    node = nodes[3]
    trusted, height, now_s = genesis_of(nodes), node.height(), int(time.time())
    with pytest.raises(TooFewSigned):
        advance(trusted, node.fetch(height), now_s=now_s)
    fetched: list[int] = []

    def fetch(wanted: int) -> LightBlock:
        fetched.append(wanted)
        return node.fetch(wanted)

    last = catch_up(trusted, height, fetch, now_s=now_s)
    assert len(last.validators) == 1
    assert len(fetched) < height
    again = read_trust(write_trust(last), chain_id=CHAIN_ID)
    first = catch_up(again, 1, node.fetch, now_s=now_s)
    assert first.block == node.fetch(1)


def test_every_header_is_believed_from_the_one_before(nodes: list[Node]) -> None:
    node, now_s = nodes[3], int(time.time())
    trusted = advance(genesis_of(nodes), node.fetch(1), now_s=now_s)
    for height in range(2, node.height() + 1):
        trusted = advance(trusted, node.fetch(height), now_s=now_s)
        assert trusted.height == height


def test_heights_that_are_not_there_are_not_proven(nodes: list[Node]) -> None:
    node = nodes[3]
    beyond = node.height() + 1_000
    with pytest.raises(NotProven):
        node.fetch(beyond)
    with pytest.raises(NotProven):
        read_rpc(node.get("/status"), [node.get("/validators?height=1")])
    with pytest.raises(NotProven):
        read_rpc(node.get("/commit?height=2"), [node.get("/validators?height=1")])


def record() -> dict[str, Any]:
    """The run's answers as the engine wrote them, without the envelope's spaces."""
    with tempfile.TemporaryDirectory() as folder, network(find_cometbft(), Path(folder)) as running:
        live(running)
        node = running[3]
        heights = range(1, node.height() + 1)
        blocks = {height: json.loads(node.get(f"/block?height={height}"))["result"]["block"] for height in heights}
        return {
            "chain_id": CHAIN_ID,
            "genesis_time_s": node.fetch(1).header.time.seconds,
            "genesis_keys": [one.key.hex() for one in running],
            "txs": {height: block["data"]["txs"] for height, block in blocks.items() if block["data"]["txs"]},
            "blocks": {
                height: {"commit": json.loads(commit), "validators": [json.loads(page) for page in pages]}
                for height in heights
                for commit, pages in [node.raw(height)]
            },
        }


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(record(), separators=(",", ":")) + "\n")
