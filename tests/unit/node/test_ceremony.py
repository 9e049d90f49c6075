"""Goal: an organisation's node takes part in ceremonies by itself, survives any crash, and keeps nothing too long.

Method: real runners with real encrypted files. On the ledger of ``world`` the runners are stepped by hand, broken off
at every single submission and every single write, and started again from their files; on an embedded node seven of them
run by themselves.
"""

import asyncio
import io
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from carechain.chain.tx import parse
from carechain.contracts.keyring.schema import CloseRound, Expose, Extract, Phase
from carechain.core.codec import encode
from carechain.core.group import base_mul
from carechain.core.message import Message
from carechain.node import keyholder_store
from carechain.node.ceremony import CeremonyRunner
from carechain.node.keyholder_store import KEYHOLDER_FILE, HolderSecret, KeyholderFileUnusable, KeyholderStore
from carechain.node.logs import configure_logs
from carechain.sdk.keyfile import encode_key_file
from carechain.sealing.quorum.participant import Secrets
from ceremonies import ROUND_S, combined, key_of, keyholders, vote
from ceremony_network import ceremony_network, identity_of
from house import Placed, WorldLedger
from world import Organisation, World, entropy_of, fresh, seeded


class Crash(BaseException):
    """The power goes. Not an Exception: nothing may catch it and go on."""


class Death(Crash):
    """The machine is gone for good."""


class Ledger(WorldLedger):
    """The world's ledger; notes every message, and may crash before or after taking one."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.said: list[tuple[bytes, Message]] = []
        self.crash_before = self.crash_after = -1
        self.dies_at: tuple[bytes, type[Message]] | None = None
        """Who is never heard of again from which message on."""

    async def submit(self, raw: bytes) -> Placed:
        body = parse(raw).body
        self.said.append((body.sender, body.messages[0]))
        if (body.sender, type(body.messages[0])) == self.dies_at:
            raise Death
        if len(self.said) == self.crash_before:
            raise Crash
        placed = await super().submit(raw)
        if len(self.said) == self.crash_after:
            raise Crash
        return placed

    async def reached(self, height: int) -> None:
        raise NotImplementedError(height)


class Home:
    """One organisation's node, which can be started again and again."""

    def __init__(self, ledger: Ledger, organisation: Organisation, folder: Path) -> None:
        self.ledger = ledger
        self.organisation = organisation
        self.path = folder / organisation.label / KEYHOLDER_FILE
        self.path.parent.mkdir(mode=0o700, exist_ok=True)
        self.starts = 0
        self.start()

    def start(self) -> None:
        self.starts += 1
        entropy = entropy_of(self.organisation.label, self.starts)
        self.store = KeyholderStore.open(self.path, identity=identity_of(self.organisation), entropy=entropy)
        self.runner = CeremonyRunner(
            ledger=self.ledger,
            key=self.organisation.signing,
            member=self.organisation.id,
            store=self.store,
            entropy=entropy,
        )

    def step(self) -> bool:
        return asyncio.run(self.runner.step())


class Homes:
    """Homes of the world's first organisations around one ledger."""

    def __init__(self, folder: Path, labels: str = "abcd") -> None:
        self.world = fresh()
        self.ledger = Ledger(self.world)
        self.homes = [Home(self.ledger, getattr(self.world, label), folder) for label in labels]

    def vote(self, *, threshold: int = 3) -> None:
        vote(self.world, keyholders(*(one.organisation for one in self.homes), threshold=threshold))

    def settle(self) -> None:
        """Let everyone say what it has to say until nobody has anything left; whoever crashes starts again."""
        busy = True
        while busy:
            busy = False
            for home in tuple(self.homes):
                try:
                    while home.step():
                        busy = True
                except Death:
                    self.homes.remove(home)
                    busy = True
                except Crash:
                    home.start()
                    busy = True

    def finish(self) -> None:
        """As :meth:`settle`, letting rounds pass by until the ceremony is over, and once more to clean up."""
        self.settle()
        while self.world.contracts().keyring.under_way() is not None:
            self.world.wait(ROUND_S + 10)
            self.settle()
        self.settle()

    def check(self) -> None:
        """Everyone has its share, and no secret of a ceremony is left."""
        key = key_of(self.world)
        shares = {}
        for home in self.homes:
            holder = key.holder(home.organisation.id)
            assert holder is not None
            share = home.store.share(key.epoch)
            assert share is not None
            assert base_mul(share.scalar) == holder.key
            shares[holder.index] = share.scalar
            assert home.store.begun(1 << 60) == ()
            assert not home.store.has_before(key.epoch)
        assert combined(shares) == key.public_key
        assert self.world.broken() == []


@pytest.fixture
def homes(tmp_path: Path) -> Homes:
    return Homes(tmp_path)


# --- the runner -----------------------------------------------------------------------------------------


def test_four_homes_make_a_key_and_share_it_anew(homes: Homes) -> None:
    homes.vote()
    homes.finish()
    homes.check()
    first = key_of(homes.world)
    homes.vote(threshold=2)
    homes.finish()
    homes.check()
    assert (key_of(homes.world).epoch, key_of(homes.world).public_key) == (2, first.public_key)
    assert all(home.store.share(1) is None for home in homes.homes), "old shares are gone"


def test_who_is_no_keyholder_does_nothing_and_writes_nothing(tmp_path: Path) -> None:
    homes = Homes(tmp_path, "abcde")
    outsider = homes.homes.pop()
    homes.vote()
    assert not outsider.step()
    homes.finish()
    assert not outsider.path.exists()


def test_nothing_is_said_twice(homes: Homes) -> None:
    homes.vote()
    homes.finish()
    kinds = [(sender, type(message)) for sender, message in homes.ledger.said]
    assert len(kinds) == len(set(kinds)) == 4 * 5


def two_ceremonies(folder: Path, *, crash: str = "", number: int = 0) -> Homes:
    """Two organisations make a key and share it anew; the ledger crashes at one submission if it is named."""
    folder.mkdir()
    homes = Homes(folder, "ab")
    if crash:
        setattr(homes.ledger, crash, number)
    for _ in range(2):
        homes.vote(threshold=2)
        homes.finish()
    homes.check()
    return homes


def with_an_exposed_dealer(folder: Path, *, crash: str = "", number: int = 0) -> Homes:
    """Of three organisations one dies when it should extract, and the others show what it had dealt."""
    folder.mkdir()
    homes = Homes(folder, "abc")
    if crash:
        setattr(homes.ledger, crash, number)
    homes.ledger.dies_at = (homes.homes[2].organisation.id, Extract)
    homes.vote(threshold=2)
    homes.finish()
    assert any(isinstance(message, Expose) for _, message in homes.ledger.said)
    homes.check()
    return homes


@pytest.mark.parametrize("play", [two_ceremonies, with_an_exposed_dealer])
@pytest.mark.parametrize("crash", ["crash_before", "crash_after"])
def test_a_crash_at_any_submission_changes_nothing(tmp_path: Path, crash: str, play: Callable[..., Homes]) -> None:
    """The same message is made again, byte for byte, unless the ledger has it: then it is not said again."""
    submissions = len(play(tmp_path / "whole").ledger.said)
    for number in range(1, submissions + 1):
        homes = play(tmp_path / str(number), crash=crash, number=number)
        sender, message = homes.ledger.said[number - 1]
        if isinstance(message, CloseRound) or (sender, type(message)) == homes.ledger.dies_at:
            continue
        again = [encode(one) for who, one in homes.ledger.said[number:] if who == sender and is_alike(one, message)]
        assert again == ([encode(message)] if crash == "crash_before" else [])


def is_alike(one: Message, other: Message) -> bool:
    """Whether both are said in one round of one ceremony."""
    return type(one) is type(other) and one.ceremony == other.ceremony  # type: ignore[attr-defined]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_crash_at_any_write_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, after: bool) -> None:
    writes = {"left": -1, "made": 0}
    write = keyholder_store.write_private_file

    def writing(path: Path, data: bytes, *, replace: bool) -> None:
        writes["made"] += 1
        writes["left"] -= 1
        if writes["left"] == 0 and not after:
            raise Crash
        write(path, data, replace=replace)
        if writes["left"] == 0:
            raise Crash

    monkeypatch.setattr(keyholder_store, "write_private_file", writing)

    two_ceremonies(tmp_path / "whole")
    for number in range(1, writes["made"] + 1):
        writes["left"] = number
        two_ceremonies(tmp_path / str(number))


def test_a_silent_home_is_waited_for_and_then_left_behind(homes: Homes) -> None:
    homes.vote(threshold=3)
    silent = homes.homes.pop()
    homes.finish()
    homes.check()
    assert key_of(homes.world).holder(silent.organisation.id) is None
    closed = [sender for sender, message in homes.ledger.said if isinstance(message, CloseRound)]
    assert len(closed) == 1, "one closes the round, and the others see that it is closed"


def test_a_round_is_closed_by_another_where_the_first_is_silent(homes: Homes) -> None:
    homes.vote(threshold=3)
    first = min(homes.homes, key=lambda one: one.organisation.id)
    homes.homes.remove(first)
    homes.finish()
    homes.check()
    assert key_of(homes.world).holder(first.organisation.id) is None


def test_a_home_that_lost_its_seed_says_nothing_false(homes: Homes) -> None:
    homes.vote(threshold=3)
    homes.homes[0].step()
    homes.homes[0].path.unlink()
    homes.homes[0].start()
    homes.finish()
    lost = homes.homes.pop(0)
    homes.check()
    assert lost.store.share(1) is None
    assert {kind for sender, kind in _kinds(homes) if sender == lost.organisation.id} <= {"Join", "CloseRound"}
    assert not list(homes.world.contracts().keyring.misdeeds.scan())


def _kinds(homes: Homes) -> list[tuple[bytes, str]]:
    return [(sender, type(message).__name__) for sender, message in homes.ledger.said]


def test_a_second_home_of_an_organisation_leaves_the_first_alone(homes: Homes, tmp_path: Path) -> None:
    (tmp_path / "standby").mkdir()
    standby = Home(homes.ledger, homes.homes[0].organisation, tmp_path / "standby")
    homes.vote()
    homes.homes.append(standby)
    homes.finish()
    homes.homes.pop()
    homes.check()
    assert standby.store.share(1) is None


def test_a_ledger_that_is_fetched_anew_makes_nobody_forget(homes: Homes, tmp_path: Path) -> None:
    behind = homes.world.fork()
    homes.vote()
    home = homes.homes[0]
    home.step()
    home.ledger = Ledger(behind)
    home.start()
    assert not home.step()
    home.ledger = homes.ledger
    home.start()
    homes.finish()
    homes.check()


def test_a_transcript_that_is_gone_leaves_no_seed(homes: Homes) -> None:
    """A home that was down until the next ceremony was done has no share of either, and no secret left."""
    homes.vote(threshold=3)
    for home in homes.homes:
        home.step()
    late = homes.homes.pop()
    homes.finish()
    homes.vote(threshold=2)
    homes.finish()
    homes.check()
    late.start()
    assert not late.step()
    assert late.store.begun(1 << 60) == ()
    assert late.store.share(2) is None


def test_what_the_ledger_refuses_is_not_sent_in_a_loop(homes: Homes) -> None:
    homes.vote()
    home = homes.homes[0]
    held = home.organisation.signing
    home.runner._member = homes.homes[1].organisation.id
    home.runner._key = held
    assert not home.step()
    assert not home.step()
    assert len(homes.ledger.said) == 2, "what is not admitted is tried again at the next block"
    home.start()
    assert home.step()


def test_whoever_was_refused_in_a_round_closes_it_all_the_same(homes: Homes) -> None:
    """Words that came to the ledger late were sent twice, and the second time refused: the round still has an end."""
    homes.vote(threshold=3)
    homes.homes.pop()
    homes.settle()
    under_way = homes.world.contracts().keyring.under_way()
    assert under_way is not None
    for home in homes.homes:
        home.runner._given_up = (under_way[0], Phase.JOIN)
    homes.finish()
    homes.check()


# --- the file -------------------------------------------------------------------------------------------


def test_the_file_is_private_and_shows_no_secret(homes: Homes) -> None:
    homes.vote()
    home = homes.homes[0]
    home.step()
    (ceremony,) = home.store.begun(1 << 60)
    seed = home.store.seed(ceremony)
    assert seed is not None
    homes.finish()
    share = home.store.share(1)
    assert share is not None
    assert stat.S_IMODE(home.path.stat().st_mode) == 0o600
    data = home.path.read_bytes()
    for secret in (seed, share.scalar):
        assert secret not in data
        assert secret.hex() not in data.decode()
        for shown in (home.store, share, home.runner, Secrets(seed=secret, share=secret)):
            assert secret.hex() not in repr(shown)
            assert repr(secret)[2:12] not in repr(shown)


def test_no_secret_is_logged_or_on_the_ledger(homes: Homes) -> None:
    said = io.StringIO()
    configure_logs(stream=said)
    homes.vote()
    seeds = []
    for home in homes.homes:
        home.step()
        seeds += [home.store.seed(one) for one in home.store.begun(1 << 60)]
    homes.finish()
    shares = [home.store.share(1) for home in homes.homes]
    secrets = [one for one in (*seeds, *(one.scalar for one in shares if one is not None)) if one is not None]
    assert len(secrets) == 8
    on_ledger = b"".join(homes.ledger.submitted)
    for secret in secrets:
        assert secret.hex() not in said.getvalue()
        assert secret not in on_ledger
    events = [json.loads(line)["event"] for line in said.getvalue().splitlines()]
    assert events == ["share_kept"] * 4


def test_another_organisation_cannot_open_the_file(homes: Homes) -> None:
    homes.vote()
    homes.finish()
    first, second = homes.homes[:2]
    with pytest.raises(KeyholderFileUnusable, match="vote for keyholders again"):
        KeyholderStore.open(first.path, identity=identity_of(second.organisation), entropy=os.urandom)


@pytest.mark.parametrize("data", [b"", b"{}", b"not json"])
def test_a_damaged_file_is_told(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / KEYHOLDER_FILE
    path.write_bytes(data)
    organisation = fresh().a
    with pytest.raises(KeyholderFileUnusable):
        KeyholderStore.open(path, identity=identity_of(organisation), entropy=os.urandom)


def test_a_file_with_something_else_inside_is_told(tmp_path: Path) -> None:
    organisation = fresh().a
    password = keyholder_store.file_password(identity_of(organisation))
    data = encode_key_file(
        encode([1, 2, 3]), kind="keyholder", password=password, entropy=os.urandom, cost=keyholder_store._COST
    )
    (tmp_path / KEYHOLDER_FILE).write_bytes(data)
    with pytest.raises(KeyholderFileUnusable):
        KeyholderStore.open(tmp_path / KEYHOLDER_FILE, identity=identity_of(organisation), entropy=os.urandom)


def test_the_share_survives_new_member_keys(homes: Homes) -> None:
    """Changed once and once more, while the node that was started with the old key still writes its file."""
    homes.vote()
    homes.finish()
    home = homes.homes[0]
    identity = identity_of(home.organisation)
    for _ in range(2):
        identity = identity.with_coming(entropy=os.urandom).with_keys_taken_over()
        assert KeyholderStore.open(home.path, identity=identity, entropy=os.urandom).share(1) is not None
    homes.vote()
    homes.finish()
    opened = KeyholderStore.open(home.path, identity=identity, entropy=os.urandom)
    assert opened.share(2) == home.store.share(2) is not None


def test_another_organisations_file_is_told(tmp_path: Path) -> None:
    world = fresh()
    path = tmp_path / KEYHOLDER_FILE
    KeyholderStore.open(path, identity=identity_of(world.a), entropy=os.urandom).begin(bytes(32), height=1)
    with pytest.raises(KeyholderFileUnusable, match="another organisation"):
        KeyholderStore.open(path, identity=identity_of(world.b), entropy=os.urandom)


def test_the_file_holds_no_more_than_it_may(tmp_path: Path) -> None:
    """Ceremonies that never came to an end here push the oldest out."""
    path = tmp_path / KEYHOLDER_FILE
    store = KeyholderStore.open(path, identity=identity_of(fresh().a), entropy=os.urandom)
    for number in range(10):
        store.begin(seeded(number), height=number)
    for epoch in range(1, 10):
        store.settle(seeded(9), HolderSecret(epoch=epoch, index=1, scalar=seeded(epoch)))
    again = KeyholderStore.open(path, identity=identity_of(fresh().a), entropy=os.urandom)
    assert again.begun(100) == tuple(seeded(number) for number in (6, 7, 8))
    assert [again.share(epoch) is not None for epoch in (7, 8, 9)] == [False, True, True]


# --- on a node ------------------------------------------------------------------------------------------


def test_seven_runners_on_a_node_make_a_key_and_share_it_anew(tmp_path: Path) -> None:
    async def main() -> Any:
        async with ceremony_network(tmp_path) as net:
            await net.hold(threshold=5)
            first = net.key()
            await net.hold(threshold=3)
            return first, net.key(), [store.share(2) for store in net.stores]

    first, second, shares = asyncio.run(main())
    assert (first.epoch, second.epoch) == (1, 2)
    assert first.public_key == second.public_key
    held = {one.index: one.scalar for one in shares}
    assert len(held) == 7
    assert combined(dict(sorted(held.items())[:3])) == second.public_key
