"""Goal: ``carechain snapshot`` lists what is whole and makes one of a stopped node.

Method: a home made by ``init`` gets blocks from the embedded engine; the command runs on it as a user would call it.
"""

import json
from pathlib import Path
from typing import Any

from typer import Typer
from typer.testing import CliRunner

from carechain.cli import operating, snapshots
from carechain.cli.network import home_genesis
from carechain.engine.embedded import BlockProducer, EmbeddedEngine
from carechain.engine.session import LEDGER_FOLDER, Session
from carechain.engine.snapshots import SNAPSHOTS_FOLDER
from carechain.node.home import open_home
from carechain.sdk.identity import Identity

BLOCKS = 3
app = Typer()
app.add_typer(operating.app)
app.add_typer(snapshots.app)


def run(home: Path, *words: str, expect: int = 0) -> Any:
    result = CliRunner().invoke(app, [*words, "--json", "--home", str(home)])
    assert result.exit_code == expect, (result.stdout, result.stderr)
    return json.loads(result.stdout) if result.stdout else None


def made(folder: Path) -> Path:
    """A home whose ledger has no block yet."""
    password = folder / "password"
    password.touch(mode=0o600)
    password.write_text("password", encoding="utf-8")
    home = folder / "home"
    run(home, "init", "--name", "协和医院", "--kind", "hospital", "--password-file", str(password))
    return home


def test_a_stopped_nodes_state_is_listed_and_made(tmp_path: Path) -> None:
    home = made(tmp_path)
    assert "no ledger" in run(home, "snapshot", expect=3)["error"]["reason"]
    genesis = home_genesis(home)
    key = Identity.load(home / "keys" / "member.json", password="password").signing_key()
    Session.open(home, genesis).close()
    assert "no block" in run(home, "snapshot", "--now", expect=3)["error"]["reason"]
    assert run(home, "snapshot") == {"made": None, "snapshots": []}
    with Session.open(home, genesis) as session:
        engine = EmbeddedEngine(session, BlockProducer.of(key))
        for number in range(BLOCKS):
            engine.produce(time_s=genesis.time_s + number, txs=[])
        app_hash = session.head.app_hash
    assert run(home, "snapshot", "--now")["made"] == BLOCKS
    found = run(home, "snapshot")
    (one,) = found["snapshots"]
    assert (one["height"], one["app_hash"], one["ids"]) == (BLOCKS, app_hash.hex(), 0)
    assert one["entries"] > 1
    assert run(home, "snapshot", "--now") == {"made": BLOCKS, "snapshots": [one]}
    with open_home(home):
        assert "running" in run(home, "snapshot", "--now", expect=3)["error"]["reason"]
        assert run(home, "snapshot") == found
    folder = home / LEDGER_FOLDER / SNAPSHOTS_FOLDER / f"{BLOCKS}-1"
    (folder / "manifest").write_bytes(b"")
    assert run(home, "snapshot")["snapshots"] == []
    shown = CliRunner().invoke(app, ["snapshot", "--now", "--home", str(home)])
    assert one["hash"] in shown.stdout
