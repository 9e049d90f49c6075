"""Goal: an organisation names its nodes and keys, and members vote on seats and rules, by commands (LED-5, LED-11).

Method: the real commands on the real ledger of a consortium held in memory; only the way over HTTP is left out, because
a consortium's node needs an engine. Keys lie in the home as the engine writes them.
"""

from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer
from typer.testing import CliRunner

from carechain.chain.queries import Asker, View, ask
from carechain.chain.receipts import OK, code_named
from carechain.chain.versions import LATEST
from carechain.cli import acting, members, validators
from carechain.cli.acting import Done
from carechain.cli.output import Denied
from carechain.contracts.governance import Quorum
from carechain.contracts.validators import address_of, node_owner
from carechain.core.evidence import Evidence, Offence
from carechain.core.message import Message
from carechain.engine.cometbft.config import FOLDER, NODE_KEY, VALIDATOR_KEY, make_keys, read_key
from carechain.sdk.answers import ROWS
from world import CHAIN_ID, Organisation, World, fresh, seeded

Run = Callable[..., Any]


class MemorySeat:
    """A seat at a ledger in memory: what is submitted is executed in a block of its own."""

    chain_id = CHAIN_ID

    def __init__(self, world: World, actor: Organisation) -> None:
        self.world = world
        self.actor = actor

    def submit(self, *messages: Message) -> Done:
        receipt = self.world.run(*messages, by=self.actor)
        if receipt.code != OK:
            code = code_named(receipt.code)
            raise Denied(code=receipt.code, label=code.label, reason=code.reason)
        return Done(tx_id=bytes(32), height=self.world.height, events=tuple(receipt.events))

    def rows(self, name: str, kind: Any, args: msgspec.Struct) -> list[Any]:
        assert kind == ROWS[name]
        view = View(snapshot=self.world.snapshot, height=self.world.height, time_s=self.world.time_s)
        party = view.contracts.membership.party(self.actor.id)
        assert party is not None
        return list(ask(view, Asker(self.actor.id, party), name, args).rows)


@pytest.fixture
def world() -> World:
    return fresh(validators="abcd", versions=LATEST, quorum=Quorum(numerator=1, denominator=2))


@pytest.fixture
def run(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command for one of the world's organisations; returns the JSON object, or the text for people."""

    def run(who: str, *words: str, expect: int = 0, as_json: bool = True) -> Any:
        actor = getattr(world, who)

        @contextmanager
        def seat(_desktop: object, _actor: object) -> Any:
            yield MemorySeat(world, actor)

        monkeypatch.setattr(acting.Desktop, "member", lambda _: actor)
        monkeypatch.setattr(acting.Desktop, "seat", seat)
        home = ("--home", str(tmp_path / who))
        result = CliRunner().invoke(program(), [*words, *home, *(["--json"] if as_json else [])])
        assert result.exit_code == expect, result.output
        return msgspec.json.decode(result.stdout) if as_json else result.stdout

    return run


def program() -> typer.Typer:
    both = typer.Typer()
    both.add_typer(validators.app, name="validator")
    both.add_typer(members.app, name="member")
    return both


def engine_keys(home: Path, label: str) -> Path:
    def write(path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    make_keys(home / FOLDER, seeded(label, "engine", size=64), write=write)
    return home / FOLDER


def test_an_organisation_announces_the_key_in_its_home_and_is_voted_in(run: Run, world: World, tmp_path: Path) -> None:
    folder = engine_keys(tmp_path / "e", "e")
    announced = run("e", "validator", "announce")
    assert announced["consensus_key"] == read_key(folder / VALIDATOR_KEY).public_key.hex()
    proposed = run("a", "validator", "propose-seat", world.e.id.hex())
    assert (proposed["standing"], proposed["seated"], proposed["member"]) == ("open", True, world.e.id.hex())
    run("b", "member", "vote", proposed["proposal"], "--yes")
    assert run("c", "member", "vote", proposed["proposal"], "--yes")["standing"] == "passed"
    listed = {one["member"]: one for one in run("f", "validator", "list")["validators"]}
    assert listed[world.e.id.hex()] == {
        "member": world.e.id.hex(),
        "consensus_key": announced["consensus_key"],
        "seated": True,
    }
    assert len(listed) == 5
    text = run("f", "validator", "list", as_json=False)
    assert announced["consensus_key"] in text
    gone = run("a", "validator", "propose-unseat", world.e.id.hex())
    assert gone["seated"] is False


def test_a_node_is_registered_listed_and_retired(run: Run, world: World, tmp_path: Path) -> None:
    folder = engine_keys(tmp_path / "e", "e")
    node = address_of(read_key(folder / NODE_KEY).public_key)
    assert run("e", "validator", "register-node")["node"] == node.hex()
    assert node_owner(world.contracts().validators, node) == world.e.id
    assert {one["node"] for one in run("e", "validator", "nodes")["nodes"]} == {node.hex(), world.e.node_id.hex()}
    assert {one["node"] for one in run("f", "validator", "nodes")["nodes"]} == {world.f.node_id.hex()}
    refused = run("f", "validator", "retire-node", node.hex(), expect=1)
    assert refused["error"]["label"] == "VALIDATORS.NODE_UNKNOWN"
    assert node.hex() in run("e", "validator", "nodes", as_json=False)
    assert "retired" in run("e", "validator", "retire-node", node.hex(), as_json=False)
    assert node_owner(world.contracts().validators, node) is None


def test_a_key_file_that_is_missing_or_is_none_is_the_environment(run: Run, tmp_path: Path) -> None:
    missing = run("e", "validator", "announce", expect=3)
    assert "priv_validator_key.json is missing" in missing["error"]["reason"]
    wrong = tmp_path / "wrong.json"
    wrong.write_text("{}", encoding="utf-8")
    assert "not a key file" in run("e", "validator", "announce", "--key", str(wrong), expect=3)["error"]["reason"]


@pytest.mark.parametrize("node", ["", "zz" * 20, "00" * 19, "00" * 32])
def test_a_node_id_has_forty_digits(node: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(program(), ["validator", "retire-node", node, "--home", str(tmp_path)])
    assert result.exit_code == 2


def test_turns_are_proposed_in_words(run: Run) -> None:
    proposed = run("a", "validator", "propose-rotation", "--every", "10", "--active", "3")
    assert (proposed["every_blocks"], proposed["active"]) == (10, 3)
    (line,) = run("b", "member", "proposals")["proposals"]
    assert (line["change"], line["about"]) == ("set_rotation", "3 seats for 10 blocks")
    refused = run("a", "validator", "propose-rotation", "--every", "10", "--active", "0", expect=1)
    assert refused["error"]["label"] == "VALIDATORS.ROTATION_IMPOSSIBLE"


def test_an_upgrade_goes_to_the_next_version_and_a_proposal_is_taken_back(run: Run, world: World) -> None:
    height = world.height + 100
    proposed = run("a", "member", "propose-upgrade", "governance", "--height", str(height))
    assert (proposed["contract"], proposed["version"], proposed["from_height"]) == ("governance", 3, height)
    (line,) = run("b", "member", "proposals")["proposals"]
    assert line["about"] == f"governance to version 3 from block {height}"
    for voter in ("b", "c"):
        run(voter, "member", "vote", proposed["proposal"], "--yes")
    shown = {one["contract"]: one for one in run("a", "member", "versions")["versions"]}
    assert shown["governance"] == {
        "contract": "governance",
        "version": 2,
        "next_version": 3,
        "from_height": height,
        "known": False,
    }
    assert shown["records"]["next_version"] is None
    assert f"3 from block {height}" in run("a", "member", "versions", as_json=False)
    assert f"governance to version 3 from block {height}" in run("a", "member", "proposals", as_json=False)
    new = run("a", "member", "propose-upgrade", "200", "--height", str(height))
    assert (new["contract"], new["version"]) == ("number 200", 1)
    refused = run("b", "member", "withdraw-proposal", new["proposal"], expect=1)
    assert refused["error"]["label"] == "GOVERNANCE.NOT_THE_PROPOSER"
    assert run("a", "member", "withdraw-proposal", new["proposal"])["standing"] == "withdrawn"
    assert {one["standing"] for one in run("a", "member", "proposals")["proposals"]} == {"passed", "withdrawn"}


@pytest.mark.parametrize("name", ["weather", "0", "256", "-1", "²"])
def test_what_is_no_contract_is_usage(name: str) -> None:
    with pytest.raises(typer.BadParameter):
        members.contract_number(name)


def test_sanctions_are_listed(run: Run, world: World) -> None:
    assert run("a", "member", "sanctions")["sanctions"] == []
    address = address_of(world.b.consensus_key().public_key)
    world.block(evidence=(Evidence(offence=Offence.DOUBLE_VOTE, address=address, height=3, time_s=1_800_000_000),))
    assert run("f", "member", "sanctions")["sanctions"] == [
        {
            "member": world.b.id.hex(),
            "offence": "double_vote",
            "height": 3,
            "time_s": 1_800_000_000,
            "recorded_height": world.height,
            "unseated": True,
        }
    ]
    assert "double vote" in run("f", "member", "sanctions", as_json=False)
