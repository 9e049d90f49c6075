"""Goal: an operator who backs up a working node and then loses the machine has everything that was acknowledged before.

Method: real processes. A node takes writes from several clients while ``carechain backup`` runs beside it; then it is
killed, its home is forgotten, and ``carechain restore`` and a new node stand in its place. What was acknowledged before
the backup began must be there, with proofs; what came later must be there wholly or not at all. Then the ledger is
rolled back, and goes on from there.
"""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from carechain.engine.session import Session
from carechain.engine.verify import verify_chain
from carechain.sdk.client import Refused, SyncClient, Unreachable
from carechain.sdk.wallet import Pseudonym
from node_network import founders, genesis_of
from node_process import GENESIS_S, make, node, populate
from world import Actor, Organisation, anchor_of

PROGRAM = "from carechain.cli.backing import app; app()"


@pytest.fixture
def members() -> dict[str, Organisation]:
    return founders()


@pytest.fixture
def home(tmp_path: Path, members: dict[str, Organisation]) -> Path:
    return make(tmp_path / "节点", members["a"], members)


def carechain(*words: str | Path, home: Path, expect: int = 0) -> dict[str, Any]:
    """A command in a process of its own, as an operator beside the node gives it."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, words), "--home", str(home), "--json"],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    assert done.returncode == expect, (done.stdout, done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


class Writers:
    """Clients that write until they are told to stop, or the node is gone; what was acknowledged, in order."""

    def __init__(self, api: str, carl: Actor, steve: Pseudonym) -> None:
        self.acknowledged: list[tuple[bytes, int]] = []
        self._enough = threading.Event()
        self._some = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(api, carl, steve, one)) for one in range(2)]
        for one in self._threads:
            one.start()

    def _write(self, api: str, carl: Actor, steve: Pseudonym, batch: int) -> None:
        with SyncClient(api, carl, give_up_s=0) as client:
            for number in range(100_000):
                if self._enough.is_set():
                    return
                try:
                    done = client.submit(anchor_of(steve, f"{batch}/{number}"))
                except (Refused, Unreachable):
                    return
                self.acknowledged.append((done.tx_id, done.height))
                if len(self.acknowledged) >= 20:
                    self._some.set()

    def wait_for_some(self) -> None:
        assert self._some.wait(60)

    def stop(self) -> None:
        self._enough.set()
        for one in self._threads:
            one.join()


def test_what_was_acknowledged_before_the_backup_is_in_it(
    home: Path, tmp_path: Path, members: dict[str, Organisation]
) -> None:
    password = home / "keys" / "password"
    with node(home) as process:
        carl, steve = populate(process.api, members["a"])
        writers = Writers(process.api, carl, steve)
        try:
            writers.wait_for_some()
            before = list(writers.acknowledged)
            made = carechain("backup", tmp_path / "b", "--password-file", password, home=home)
        finally:
            writers.stop()
        after = list(writers.acknowledged)
        # The machine is gone, without a word.
    assert made["height"] >= max(height for _, height in before)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    restored = carechain("restore", tmp_path / "b", "--password-file", password, home=elsewhere / "home")
    assert restored["height"] == made["height"]
    new = elsewhere / "home"
    genesis = genesis_of(members, time_s=GENESIS_S)
    assert verify_chain(new, genesis).ok
    with Session.open(new, genesis) as session:
        assert session.head.height == made["height"]
        for tx_id, height in before:
            place = session.locate(tx_id)
            assert place is not None
            assert place[0] == height
        for tx_id, height in after:
            assert (session.locate(tx_id) is not None) == (height <= made["height"])
    with node(new) as process, SyncClient(process.api, carl, genesis=genesis) as client:
        assert client.wait(before[0][0]).height == before[0][1]
        assert client.submit(anchor_of(steve, "afterwards")).height > made["height"]


def test_a_node_goes_back_and_goes_on(home: Path, members: dict[str, Organisation]) -> None:
    genesis = genesis_of(members, time_s=GENESIS_S)
    with node(home) as process:
        carl, steve = populate(process.api, members["a"])
        with SyncClient(process.api, carl) as client:
            stays = client.submit(anchor_of(steve, "stays"))
            goes = client.submit(anchor_of(steve, "goes"))
        assert goes.height > stays.height
        refused = carechain("rollback", "--to", str(stays.height), "--yes", home=home, expect=3)
        assert "Stop it first" in refused["error"]["reason"]
        process.ask_to_stop()
        assert process.end() == 0
    shown = carechain("rollback", "--to", str(stays.height), home=home, expect=1)
    assert shown["error"]["label"] == "ROLLBACK.NOT_CONFIRMED"
    assert shown["transactions"] == 1
    done = carechain("rollback", "--to", str(stays.height), "--yes", home=home)
    assert Path(done["kept"]).stat().st_size > 0
    assert verify_chain(home, genesis).height == stays.height
    with node(home) as process, SyncClient(process.api, carl) as client:
        assert client.wait(stays.tx_id).height == stays.height
        again = client.submit(anchor_of(steve, "goes"))
        assert again.height > stays.height
    with Session.open(home, genesis) as session:
        assert session.locate(goes.tx_id) is None
        assert session.locate(again.tx_id) is not None
