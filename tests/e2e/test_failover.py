"""Goal: a client goes on with another node when one is lost, submits once whatever happens, and shares its reads out.

Method: one real node process, and in front of it doors that count what passes and can be shut, made to hang, or made
to swallow an answer, so that each looks like one of an organisation's nodes. What became of a submission is counted in
the patient's log, which has one line per access request.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from carechain.chain.questions import NoArgs
from carechain.contracts.access import RequestAccess
from carechain.core.vocabulary import Purpose
from carechain.sdk import nodes
from carechain.sdk.client import Client, HasKeys, Node, Refused, Unreachable, WrongNode
from node_network import founders, genesis_of
from node_process import GENESIS_S, Process, make, node, populate
from world import RESULTS, Actor, Organisation


class Door:
    """A TCP port in front of the node. ``mode``: open, hang (nothing passes), deaf (answers are swallowed)."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.mode = "open"
        self.requests = 0
        self.seen = asyncio.Event()
        """Set when bytes that answer to ``sought`` have passed to the node."""
        self.sought = b"POST /v1/transactions "
        self._server: asyncio.Server | None = None
        self._port = 0
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def unlock(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def shut(self) -> None:
        """As if the machine were gone: nobody listens, and open connections break."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._open:
            writer.transport.abort()
        await asyncio.gather(*self._tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._open.add(writer)
        host, port = self.target.removeprefix("http://").split(":")
        try:
            there, here = await asyncio.open_connection(host, int(port))
            self._open.add(here)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass(reader, here, self._asked))
                both.create_task(self._pass(there, writer, self._answered))
        except* (OSError, ConnectionError):
            pass
        finally:
            writer.transport.abort()
            self._open.discard(writer)
            self._tasks.discard(task)

    async def _pass(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, look: Callable[[bytes], bool]
    ) -> None:
        while data := await source.read(65536):
            if look(data):
                sink.write(data)
                await sink.drain()
        sink.close()

    def _asked(self, data: bytes) -> bool:
        self.requests += data.count(b" HTTP/1.1\r\n")
        if self.mode == "hang":
            return False
        if self.sought in data:
            self.seen.set()
        return True

    def _answered(self, _data: bytes) -> bool:
        return self.mode != "deaf"


class Scene:
    """A node with a doctor and a patient, and several doors."""

    def __init__(self, process: Process, members: dict[str, Organisation], doors: list[Door]) -> None:
        self.process = process
        self.members = members
        self.doors = doors
        self.carl: Actor
        self.steve: HasKeys

    def client(self, who: Any, *addresses: Any, give_up_s: float = 30.0) -> Client:
        listed = addresses or [door.url for door in self.doors]
        return Client(
            list(listed),
            who,
            genesis=genesis_of(self.members, time_s=GENESIS_S),
            server=self.members["a"].id,
            give_up_s=give_up_s,
        )

    def ask(self) -> RequestAccess:
        return RequestAccess(pseudonym=self.steve.id, scope=RESULTS, purpose=Purpose.TREAT)

    async def lines(self) -> int:
        """How many access requests the patient's log has, proven complete."""
        async with self.client(self.steve, self.process.api) as client:
            return len((await client.access_log(self.steve.id)).lines)


@asynccontextmanager
async def scene(home: Path, doors: int = 2) -> AsyncIterator[Scene]:
    members = founders()
    make(home, members["a"], members)
    with node(home) as process:
        made = [Door(process.api) for _ in range(doors)]
        async with AsyncExitStack() as shutting:
            for door in made:
                shutting.push_async_callback(door.shut)
                await door.unlock()
            there = Scene(process, members, made)
            there.carl, there.steve = await asyncio.to_thread(populate, process.api, members["a"])
            yield there


def play(home: Path, act: Callable[[Scene], Awaitable[None]], doors: int = 2) -> None:
    async def main() -> None:
        async with scene(home, doors) as there:
            await act(there)

    asyncio.run(main())


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that hangs is left after half a second here."""
    monkeypatch.setattr(nodes, "ANSWER_S", 0.5)
    monkeypatch.setattr(nodes, "PROBE_S", 0.2)


def test_reads_are_shared_out_over_an_organisations_nodes(tmp_path: Path) -> None:
    async def act(there: Scene) -> None:
        async with there.client(there.carl) as client:
            for _ in range(12):
                await client.query("membership.members", NoArgs())
        counts = [door.requests for door in there.doors]
        assert min(counts) >= 4, counts
        assert max(counts) - min(counts) <= 2, counts

    play(tmp_path, act, doors=3)


@pytest.mark.parametrize("how", ["shut", "hang"])
def test_a_lost_node_is_left_and_taken_up_again(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "FIRST_ASIDE_S", 0.05)
    monkeypatch.setattr(nodes, "LONGEST_ASIDE_S", 0.05)

    async def act(there: Scene) -> None:
        lost, other = there.doors
        async with there.client(there.carl) as client:
            await client.query("membership.members", NoArgs())
            await client.query("membership.members", NoArgs())
            if how == "shut":
                await lost.shut()
            else:
                lost.mode = "hang"
            for _ in range(4):
                await client.query("membership.members", NoArgs())
                assert (await client.submit(there.ask())).receipt.code == 0
            if how == "shut":
                await lost.unlock()
            lost.mode, before = "open", lost.requests
            while lost.requests < before + 3:
                await client.query("membership.members", NoArgs())
            assert other.requests
        assert await there.lines() == 4

    play(tmp_path, act)


def test_a_lost_answer_is_learned_at_another_node_and_nothing_is_there_twice(tmp_path: Path) -> None:
    async def act(there: Scene) -> None:
        deaf, other = there.doors
        async with there.client(there.carl) as client:
            raw = await client.sign(there.ask())
            await client.query("membership.members", NoArgs())
            await client.query("membership.members", NoArgs())
            deaf.mode = "deaf"
            sent = [await client.send(raw), await client.send(await client.sign(there.ask()))]
            assert deaf.seen.is_set()
            assert [one.receipt.code for one in sent] == [0, 0]
            assert sent[0].tx_id != sent[1].tx_id
            # Whoever lost the answer altogether asks for it by its id, at whichever node there is.
            await deaf.shut()
            assert await client.wait(sent[0].tx_id) == sent[0]
            assert await client.send(raw) == sent[0], "the same bytes again give the same outcome"
            assert other.requests
        assert await there.lines() == 2

    play(tmp_path, act)


def test_a_batch_goes_on_at_another_node(tmp_path: Path) -> None:
    async def act(there: Scene) -> None:
        async with there.client(there.carl) as client:
            raws = [await client.sign(there.ask()) for _ in range(5)]
            for door in there.doors:
                door.sought = b"POST /v1/transactions/batch"
            first = there.doors[client._links._turn % 2]
            first.mode = "deaf"
            outcomes = await client.send_many([*raws, b"junk"])
            assert first.seen.is_set()
            assert [isinstance(one, Refused) for one in outcomes] == [False] * 5 + [True]
        assert await there.lines() == 5

    play(tmp_path, act)


def test_a_node_that_is_killed_between_request_and_answer(tmp_path: Path) -> None:
    """Several times: the kill falls before, in, or after the block, and the outcome is one line each time."""

    async def act(there: Scene) -> None:
        there.process.ask_to_stop(signal.SIGKILL)
        await asyncio.to_thread(there.process.end)
        (door,) = there.doors
        for turn in range(3):
            with node(there.process.home) as process:
                door.target = process.api
                door.seen.clear()
                async with there.client(there.carl) as client:
                    raw = await client.sign(there.ask())
                    sending = asyncio.create_task(client.send(raw))
                    await door.seen.wait()
                    process.ask_to_stop(signal.SIGKILL)
                    await asyncio.to_thread(process.end)
                    with node(there.process.home) as restarted:
                        door.target = restarted.api
                        submitted = await sending
                        assert submitted.receipt.code == 0
                        there.process = restarted
                        assert await there.lines() == turn + 1

    play(tmp_path, act, doors=1)


def test_with_no_node_left_the_open_transaction_is_named(tmp_path: Path) -> None:
    async def act(there: Scene) -> None:
        async with there.client(there.carl, give_up_s=0.3) as client:
            raw = await client.sign(there.ask())
            for door in there.doors:
                await door.shut()
            with pytest.raises(Unreachable) as never:
                await client.send(raw)
            assert never.value.sent is False
            for door in there.doors:
                door.mode = "deaf"
                await door.unlock()
        async with there.client(there.carl, give_up_s=0.3) as client:
            with pytest.raises(Unreachable) as lost:
                await client.send(raw)
            assert (lost.value.sent, lost.value.tx_id is not None) == (True, True)
            for door in there.doors:
                door.mode = "open"
            assert lost.value.tx_id is not None
            assert (await client.wait(lost.value.tx_id)).receipt.code == 0
        assert await there.lines() == 1

    play(tmp_path, act)


def test_others_nodes_are_for_when_the_own_ones_are_gone_and_nothing_is_signed_for_a_wrong_one(tmp_path: Path) -> None:
    async def act(there: Scene) -> None:
        own, other = there.doors
        fallback = Node(other.url, there.members["b"].id)
        async with there.client(there.carl, own.url, fallback) as client:
            for _ in range(4):
                await client.query("membership.members", NoArgs())
            assert other.requests == 0
            await own.shut()
            # The node behind the other door is a's, and says so: b's was asked for.
            with pytest.raises((WrongNode, Refused)):
                await client.open_session()
        async with there.client(there.carl, own.url, Node(other.url, there.members["a"].id)) as client:
            assert (await client.query("membership.members", NoArgs())).rows

    play(tmp_path, act)


def test_events_go_on_at_another_node_without_a_gap(tmp_path: Path) -> None:
    async def act(there: Scene) -> None:
        async with there.client(there.steve) as follower, there.client(there.carl, there.process.api) as writer:
            heights: list[int] = []
            wanted: list[int] = []
            stream = follower.events(1)
            for turn in range(4):
                wanted.append((await writer.submit(there.ask())).height)
                async for message in stream:
                    assert message["kind"] in ("events", "beat")
                    heights.append(message["height"])
                    if message["height"] >= wanted[-1]:
                        break
                lost = there.doors[turn % 2]
                await lost.shut()
                await lost.unlock()
            await stream.aclose()
            assert heights == sorted(set(heights))
            assert set(wanted) <= set(heights)

    play(tmp_path, act)


# --- the command line -----------------------------------------------------------------------------------


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Callable[..., tuple[int, dict[str, Any]]]]:
    def run(home: Path, *words: str, **variables: str) -> tuple[int, dict[str, Any]]:
        done = subprocess.run(
            [sys.executable, "-m", "carechain", *words, "--home", str(home), "--json"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(one for one in sys.path if one), **variables},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, json.loads(done.stdout)

    return run


def test_commands_take_several_nodes(tmp_path: Path, program: Callable[..., tuple[int, dict[str, Any]]]) -> None:
    async def act(there: Scene) -> None:
        gone, alive = there.doors
        await gone.shut()
        home = tmp_path / "home"
        for words, variables in (
            (("--node", gone.url, "--node", alive.url), {}),
            (("--node", f"{gone.url},{alive.url}"), {}),
            ((), {"CARECHAIN_NODES": f"{gone.url},{alive.url}"}),
            ((), {"CARECHAIN_NODE": alive.url}),
        ):
            status, said = await asyncio.to_thread(program, home, "status", *words, **variables)
            assert status == 0, said
            assert said["node"] == alive.url
        status, said = await asyncio.to_thread(
            program,
            home,
            "member",
            "list",
            "--node",
            f"{gone.url},{alive.url}",
            "--password-file",
            str(home / "keys/password"),
        )
        assert status == 0, said
        assert len(said["members"]) == 4
        status, said = await asyncio.to_thread(program, home, "status", "--node", gone.url)
        assert status == 3
        status, said = await asyncio.to_thread(
            program, home, "member", "list", "--node", "nonsense", "--password-file", str(home / "keys/password")
        )
        assert status == 2, said

    play(tmp_path / "home", act)
