"""Goal: members choose keyholders and see how a ceremony goes by commands (KEY-3).

Method: the real commands on the ledger of ``world``; the ceremonies are played by real participants.
"""

import os
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
from carechain.cli import acting, keyholders, members
from carechain.cli.acting import Done
from carechain.cli.keyring import Keyring
from carechain.cli.output import Denied
from carechain.contracts.keyring.schema import Deal
from carechain.core.message import Message
from carechain.node.keyholder_store import KEYHOLDER_FILE, HolderSecret, KeyholderStore
from carechain.sdk.answers import ROWS
from ceremonies import Player, play, round_of, view_of
from ceremony_network import identity_of
from world import CHAIN_ID, Organisation, World, fresh

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
    return fresh()


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
    both.add_typer(keyholders.app, name="keyholders")
    both.add_typer(members.app, name="member")
    return both


def ids(world: World, labels: str = "abcdef") -> list[str]:
    return [getattr(world, label).id.hex() for label in labels]


def chosen(run: Run, world: World, *words: str, labels: str = "abcdef") -> Any:
    """Proposed by the first organisation and voted for by three more."""
    proposed = run("a", "keyholders", "propose", *ids(world, labels), *words)
    for voter in "bcd":
        run(voter, "member", "vote", proposed["proposal"], "--yes")
    return proposed


def test_keyholders_are_proposed_with_the_usual_threshold(run: Run, world: World) -> None:
    proposed = chosen(run, world)
    assert proposed["holders"] == sorted(ids(world))
    assert (proposed["threshold"], proposed["round_s"], proposed["standing"]) == (3, 600, "open")
    (line,) = run("b", "member", "proposals")["proposals"]
    assert (line["change"], line["about"]) == ("set_keyholders", "6 keyholders, 3 of whom open something")
    (ceremony,) = run("e", "keyholders", "status")["ceremonies"]
    assert (ceremony["kind"], ceremony["round"], ceremony["epoch"]) == ("generation", "join", 1)


def test_the_status_tells_whom_a_round_waits_for_and_who_was_caught(run: Run, world: World) -> None:
    assert run("a", "keyholders", "status") == {
        "key": None,
        "own_share": None,
        "ceremonies": [],
        "misdeeds": [],
    }
    players = [Player(one) for one in world.members]
    players[0].twist = lambda _player, _view, said: (
        msgspec.structs.replace(said, shares=tuple(bytes(64) for _ in said.shares)) if isinstance(said, Deal) else said
    )
    chosen(run, world, "--threshold", "4", "--round", "60")
    for player in players[1:]:
        said = player.says(view_of(world))
        assert said is not None
        world.done(said, by=player.organisation)
    (ceremony,) = run("b", "keyholders", "status")["ceremonies"]
    assert ceremony["waits_for"] == [world.a.id.hex()]
    round_of(world, players)
    play(world, players)
    shown = run("b", "keyholders", "status")
    assert (shown["key"]["epoch"], shown["key"]["threshold"], len(shown["key"]["holders"])) == (1, 4, 5)
    (misdeed,) = shown["misdeeds"]
    assert (misdeed["holder"], misdeed["kind"]) == (world.a.id.hex(), "bad_deal")
    text = run("b", "keyholders", "status", as_json=False)
    assert world.b.id.hex() in text
    assert "bad deal" in text


def test_a_holder_without_its_share_is_told(
    run: Run, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else would notice: the others open everything until one too many is without."""
    players = [Player(one) for one in world.members]
    chosen(run, world, "--threshold", "3", "--round", "60")
    play(world, players)
    identity = identity_of(world.b)
    monkeypatch.setattr(acting.Desktop, "password", "p")
    monkeypatch.setattr(Keyring, "identity", lambda *_: identity)
    keys = tmp_path / "b" / "keys"
    keys.mkdir(parents=True)
    assert run("b", "keyholders", "status")["own_share"] is None, "no key of the organisation, no share to miss"
    (keys / "member.json").touch()
    assert run("b", "keyholders", "status")["own_share"] is False
    store = KeyholderStore.open(keys / KEYHOLDER_FILE, identity=identity, entropy=os.urandom)
    store.settle(bytes(32), HolderSecret(epoch=1, index=2, scalar=b"\x01" + bytes(31)))
    assert run("b", "keyholders", "status")["own_share"] is True
    assert "has its share" in run("b", "keyholders", "lost", expect=3)["error"]["reason"]
    (keys / KEYHOLDER_FILE).write_bytes(b"{}")
    assert KEYHOLDER_FILE in run("b", "keyholders", "status", expect=3)["error"]["reason"]
    (keys / KEYHOLDER_FILE).unlink()
    assert run("b", "keyholders", "lost")["epoch"] == 1
    assert {one["holder"]: one["left_s"] for one in run("b", "keyholders", "status")["key"]["holders"]}[
        world.b.id.hex()
    ]
    assert run("b", "keyholders", "status")["own_share"] is None, "nobody counts on it any more"
    assert run("b", "keyholders", "lost", expect=1)["error"]["label"] == "KEYRING.NOT_A_HOLDER"


def test_what_the_ledger_refuses_is_told(run: Run, world: World) -> None:
    refused = run("a", "keyholders", "propose", *ids(world), "--threshold", "6", expect=1)
    assert refused["error"]["label"] == "KEYRING.THRESHOLD_DOES_NOT_FIT"
    alone = run("a", "keyholders", "propose", *ids(world, "a"), expect=1)
    assert alone["error"]["label"] == "KEYRING.HOLDERS_INVALID"
    run("a", "keyholders", "propose", *ids(world), "--round", "1", expect=2, as_json=False)
    many = [bytes([one] * 32).hex() for one in range(33)]
    run("a", "keyholders", "propose", *many, expect=2, as_json=False)
