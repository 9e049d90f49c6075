"""The ABCI socket: frames, and what happens to a connection that sends none.

Goal: requests are answered in order however they are cut; what is no request ends its own connection and no other;
memory stays bounded whatever is announced, sent or left unread; the socket is this user's only; and a live engine's
calls are legal ABCI. Method: frames through the real server, in memory and over a real socket, with an application that
answers what it is asked.
"""

import asyncio
import os
import signal
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import abci_grammar
from abci_grammar import IllegalCalls
from abci_wire import ROLES, Channel, Note, Transport, framed
from carechain.chain.genesis import Genesis
from carechain.contracts.validators import FounderNode, FounderSeat
from carechain.core.limits import ABCI_FRAME_BYTES
from carechain.engine.cometbft import config
from carechain.engine.cometbft.binary import EngineMissing, find_cometbft
from carechain.engine.cometbft.messages import Response
from carechain.engine.cometbft.server import BadFrame, Connection, Halted, frame_of, serve, take_frames
from carechain.node.consortium import ConsortiumService, Place, prepare
from carechain.node.home import make_home
from world import Organisation, OrganisationKind, seeded

HIGH_WATER = 64 * 1024


class Echo:
    """An application that repeats what it is told; ``halt`` is the text that ends it."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.halted = False

    def answer(self, kind: str, request: Any, response: Any) -> None:
        if self.halted or (kind == "echo" and request.text == "halt"):
            self.halted = True
            raise Halted
        self.calls.append(kind)
        if kind == "echo":
            response.text = request.text


def echoes(*texts: str) -> bytes:
    """The frames of these requests."""
    return b"".join(framed("echo", text=text) for text in texts)


def texts(responses: list[Any]) -> list[str]:
    """What was answered."""
    return [one.echo.text for one in responses]


# --- framing --------------------------------------------------------------------------------------------


@given(messages=st.lists(st.binary(max_size=300), max_size=6), cuts=st.lists(st.integers(0, 2_000), max_size=8))
def test_frames_come_out_as_they_went_in_however_they_are_cut(messages: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(map(frame_of, messages))
    ends = sorted({*(cut for cut in cuts if cut < len(stream)), len(stream)})
    received, found = bytearray(), []
    for start, end in zip([0, *ends], ends, strict=False):
        received += stream[start:end]
        found += take_frames(received)
    assert found == messages
    assert not received


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 2_097_152])
def test_lengths_are_leb128(size: int) -> None:
    frame = frame_of(bytes(size))
    assert len(frame) == size + max(1, -(-size.bit_length() // 7))
    assert take_frames(bytearray(frame)) == [bytes(size)]


def test_a_length_may_be_written_longer_than_it_needs() -> None:
    """As the engine's own reader allows."""
    assert take_frames(bytearray(b"\x82\x80\x00ab" + b"\x80\x00")) == [b"ab", b""]


def announced(size: int) -> bytes:
    """Four bytes that announce a message of about 64 MiB."""
    return bytes([size & 127 | 128, size >> 7 & 127 | 128, size >> 14 & 127 | 128, size >> 21])


LENGTHS = {
    "five bytes that go on": b"\xff" * 5,
    "zeros that go on": b"\x80" * 5,
    "the largest of five bytes": b"\xff\xff\xff\xff\x7f",
    "just beyond the bound": announced(ABCI_FRAME_BYTES + 1),
}


@pytest.mark.parametrize("head", LENGTHS.values(), ids=LENGTHS.keys())
def test_a_length_beyond_bounds_is_no_frame(head: bytes) -> None:
    with pytest.raises(BadFrame):
        take_frames(bytearray(head))
    with pytest.raises(BadFrame):
        take_frames(bytearray(frame_of(b"fine") + head))


# --- one connection -------------------------------------------------------------------------------------


def test_requests_are_answered_in_order_byte_by_byte_and_all_at_once() -> None:
    stream = echoes("一", "二") + framed("flush") + echoes("三")
    for pieces in ([stream], [stream[at : at + 1] for at in range(len(stream))]):
        channel = Channel(Echo())
        for piece in pieces:
            channel.connection.data_received(piece)
        answers = channel.transport.answers()
        assert [one.WhichOneof("value") for one in answers] == ["echo", "echo", "flush", "echo"]
        assert texts(answers) == ["一", "二", "", "三"]


NO_REQUESTS = {
    "an empty message": frame_of(b""),
    "no protobuf": frame_of(b"\xff\xff\xff"),
    "a field that is cut off": frame_of(b"\x0a\x7f"),
    "a kind that nobody knows": frame_of(b"\xaa\x06\x00"),
    "a kind of an older protocol": frame_of(b"\x4a\x00"),
    "text that is no UTF-8": frame_of(b"\x0a\x03\x0a\x01\xff"),
    "an endless length": b"\xff" * 5,
    "an HTTP request": b"GET / HTTP/1.1\r\nHost: engine\r\n\r\n" * 4,
}


@pytest.mark.parametrize("bad", NO_REQUESTS.values(), ids=NO_REQUESTS.keys())
def test_what_is_no_request_ends_its_connection(bad: bytes) -> None:
    application = Echo()
    channel, other = Channel(application), Channel(application)
    channel.connection.data_received(bad)
    assert channel.transport.closed
    channel.connection.data_received(echoes("more"))
    assert application.calls == []
    assert other.call("echo", text="still here").text == "still here"


def test_a_halted_application_answers_on_no_connection() -> None:
    application = Echo()
    channel, other = Channel(application), Channel(application)
    channel.connection.data_received(echoes("halt", "after"))
    other.connection.data_received(echoes("anything"))
    assert channel.transport.closed
    assert other.transport.closed
    assert not channel.transport.written
    assert not other.transport.written


def test_what_was_only_announced_takes_no_memory() -> None:
    channel = Channel(Echo())
    channel.connection.data_received(announced(ABCI_FRAME_BYTES))
    for _ in range(100):
        channel.connection.data_received(b"x")
    assert not channel.transport.closed
    assert len(channel.connection._received) == 104


def test_who_does_not_read_is_not_listened_to() -> None:
    """Answers are larger than questions: they must not pile up for somebody who takes none."""
    channel = Channel(Echo())
    text = "x" * 4_000
    channel.connection.pause_writing()
    assert not channel.transport.reading
    channel.connection.data_received(echoes(*[text] * 100))
    assert not channel.transport.written
    channel.connection.resume_writing()
    assert channel.transport.reading
    assert texts(channel.transport.answers()) == [text] * 100


class Clogged(Transport):
    """A transport whose buffer is full after every write."""

    def __init__(self) -> None:
        super().__init__()
        self.connection: Connection | None = None

    def write(self, data: Any) -> None:
        super().write(data)
        assert self.connection is not None
        self.connection.pause_writing()


def test_answers_are_written_in_bounded_bursts() -> None:
    connection, transport = Connection(Echo()), Clogged()
    transport.connection = connection
    connection.connection_made(transport)
    text = "x" * 50_000
    connection.data_received(echoes(*[text] * 6))
    found: list[str] = []
    for _ in range(3):
        assert len(transport.written) < 3 * HIGH_WATER
        found += texts(transport.answers())
        connection.resume_writing()
    assert found == [text] * 6


# --- the socket -----------------------------------------------------------------------------------------


@pytest.fixture
def socket() -> Iterator[Path]:
    """A path that is short enough for a socket."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "abci"


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, text: str) -> str:
    """One question over a real connection."""
    writer.write(echoes(text))
    await writer.drain()
    expected = frame_of(_echoed(text))
    got = await reader.readexactly(len(expected))
    (frame,) = take_frames(bytearray(got))
    return str(Response.FromString(frame).echo.text)


def _echoed(text: str) -> bytes:
    response = Response()
    response.echo.text = text
    return bytes(response.SerializeToString())


def test_the_engines_four_connections_go_on_beside_a_rogue(socket: Path) -> None:
    async def run() -> None:
        server = await serve(socket, Echo())
        engine = [await asyncio.open_unix_connection(str(socket)) for _ in ROLES]
        for bad in (*NO_REQUESTS.values(), echoes("a")[:-1], b"\xff\xff\xff\x1f" + bytes(100_000)):
            reader, writer = await asyncio.open_unix_connection(str(socket))
            writer.write(bad)
            await writer.drain()
            if bad in NO_REQUESTS.values():
                assert await reader.read() == b""
            else:
                writer.write_eof()
            writer.close()
            assert [await ask(*one, f"{number}") for number, one in enumerate(engine)] == ["0", "1", "2", "3"]
        for _, writer in engine:
            writer.close()
        server.close()

    asyncio.run(run())


def test_a_rogue_that_never_reads_holds_up_nobody(socket: Path) -> None:
    async def run() -> None:
        application = Echo()
        server = await serve(socket, application)
        _, rogue = await asyncio.open_unix_connection(str(socket))
        reader, writer = await asyncio.open_unix_connection(str(socket))
        question = echoes("x" * 60_000)
        sent = 0
        while True:
            rogue.write(question)
            sent += len(question)
            try:
                async with asyncio.timeout(0.2):
                    await rogue.drain()
            except TimeoutError:
                break
            assert sent < ABCI_FRAME_BYTES, "it is read without end"
        answered = len(application.calls)
        assert await ask(reader, writer, "and I?") == "and I?"
        assert len(application.calls) == answered + 1
        rogue.transport.abort()
        writer.close()
        server.close()

    asyncio.run(run())


def test_the_socket_is_this_users_only(socket: Path) -> None:
    async def run() -> None:
        before = os.umask(0)
        os.umask(before)
        server = await serve(socket, Echo())
        assert stat.S_IMODE(os.stat(socket).st_mode) == 0o600  # noqa: PTH116 - nothing to wait for
        assert os.umask(before) == before
        server.close()

    asyncio.run(run())


# --- the grammar ----------------------------------------------------------------------------------------


def notes(word: str, *, answered: int = 0) -> list[Note]:
    """Calls with heights that follow each other, from a word."""
    kinds = {letter: kind for kind, letter in abci_grammar.LETTERS.items()}
    height, found = answered, []
    for letter in word:
        at = height + 1 if letter in "PRF" else 0
        found.append(Note(kinds[letter], at, answered if letter == "I" else 0))
        height += letter == "F"
    return found


@pytest.mark.parametrize(
    ("word", "clean"),
    [
        ("", True),
        ("I", True),
        ("IN", True),
        ("INPRFC", True),
        ("INRPRRFCFCR", True),
        ("INF", True),
        ("OAAOAI", True),
        ("OAIFC", True),
        ("OOAIRFCI", True),
        ("I", False),
        ("IFCFCPRF", False),
        ("INFCRFC", False),
    ],
)
def test_legal_calls(word: str, *, clean: bool) -> None:
    assert abci_grammar.check(notes(word), clean=clean).startswith(word.rstrip("I"))


@pytest.mark.parametrize(
    ("word", "clean"),
    [
        ("N", True),
        ("IFC", True),
        ("INC", True),
        ("INFF", True),
        ("INFRC", True),
        ("INFCC", True),
        ("INFCN", True),
        ("AI", True),
        ("IRFCN", False),
        ("INN", False),
        ("OAIFC", False),
    ],
)
def test_illegal_calls(word: str, *, clean: bool) -> None:
    with pytest.raises(IllegalCalls):
        abci_grammar.check(notes(word), clean=clean)


def test_heights_follow_each_other() -> None:
    with pytest.raises(IllegalCalls):
        abci_grammar.check([*notes("IFC", answered=3), Note("finalize_block", 4)], clean=False)
    with pytest.raises(IllegalCalls):
        abci_grammar.check([*notes("I", answered=3), Note("process_proposal", 5)], clean=False)
    with pytest.raises(IllegalCalls):
        abci_grammar.check([*notes("I", answered=3), Note("init_chain")], clean=False)


# --- a live engine --------------------------------------------------------------------------------------


@pytest.mark.engine
def test_a_live_engines_calls_are_legal_and_no_question_of_its_rpc_ends_it(tmp_path: Path) -> None:
    """A hub of one: founded, killed with its application alive, and started anew with it."""
    try:
        program = find_cometbft()
    except EngineMissing as missing:
        pytest.skip(str(missing))
    member = Organisation("hub", kind=OrganisationKind.HOSPITAL, registrar=True)
    make_home(tmp_path / "home")
    folder = tmp_path / "home" / config.FOLDER
    prepare(folder, seeded("keys", size=64))
    key = config.read_key(folder / config.VALIDATOR_KEY).public_key
    genesis = Genesis(
        chain_id="grammar",
        time_s=int(time.time()),
        members=(member.as_new(),),
        validators=(FounderSeat(member.id, key),),
        nodes=(FounderNode(member.id, bytes.fromhex(config.node_id(folder))),),
    )
    place = Place(program=program, p2p="127.0.0.1:0", same_host=True, tuning=config.Tuning(heartbeat_ms=50))

    async def lived(*, with_a_crash: bool) -> list[list[Note]]:
        service = ConsortiumService.open(tmp_path / "home", genesis, member.signing, place)
        notes = recorded(service._application)
        await service.start()
        try:
            await grown(service)
            for path in ('"/store"', "0xff", '"/p2p/filter/id/zz"'):
                answer = await service.rpc._http.get("/abci_query", params={"path": path})
                assert answer.json()["result"]["response"]["code"] == 1
            await grown(service)
            assert service._process.starts == 1
            if with_a_crash:
                assert service.pid is not None
                os.kill(service.pid, signal.SIGKILL)
                await grown(service)
        finally:
            await service.drain()
        return runs_of(notes)

    async def run() -> list[list[Note]]:
        return [*await lived(with_a_crash=True), *await lived(with_a_crash=False)]

    first, *later = asyncio.run(run())
    assert abci_grammar.check(first, clean=True).startswith("INPRFC")
    assert len(later) == 2
    for one in later:
        assert "FC" in abci_grammar.check(one, clean=False)


async def grown(service: ConsortiumService) -> None:
    """The ledger has three blocks more."""
    height = service.height + 3
    async with asyncio.timeout(60):
        while service.height < height:  # noqa: ASYNC110 - the node's own loop makes the blocks
            await asyncio.sleep(0.02)


def runs_of(notes: list[Note]) -> list[list[Note]]:
    """The engine begins every run by asking where the application stands."""
    begins = [at for at, one in enumerate(notes) if one.kind == "info"]
    return [notes[at:end] for at, end in zip(begins, [*begins[1:], len(notes)], strict=True)]


def recorded(application: Any) -> list[Note]:
    """Everything that this application answers from now on."""
    found: list[Note] = []
    answer = application.answer

    def answering(kind: str, request: Any, response: Any) -> None:
        answer(kind, request, response)
        found.append(Note(kind, getattr(request, "height", 0), response.last_block_height if kind == "info" else 0))

    application.answer = answering
    return found
