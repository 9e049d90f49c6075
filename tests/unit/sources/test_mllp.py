"""Goal: frames are cut exactly, whatever the pieces they come in, and a sender that is hostile or slow harms nobody.

Method: the framing by itself, then a real server on loopback spoken to by the client of an independent library and by
raw sockets. Time limits are given as zero or none instead of being waited for.
"""

import asyncio
import contextlib
import ipaddress
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hl7.client import MLLPClient
from hypothesis import given
from hypothesis import strategies as st

from carechain.charts.binding import provisional
from carechain.charts.store import Charts
from carechain.core.rejection import Rejected
from carechain.sources.hl7v2.journal import Journal, JournalUnavailable
from carechain.sources.hl7v2.mllp import Deframer, framed
from carechain.sources.hl7v2.patients import Identity
from carechain.sources.hl7v2.server import Patience, Server
from carechain.sources.imports.codes import ImportCode
from hl7_feeds import feed_on
from hl7_messages import CHINESE, admission, message, order, result

LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)


def cut(pieces: list[bytes], limit: int = 100) -> list[bytes]:
    frames, found = Deframer(limit), []
    for piece in pieces:
        frames.feed(piece)
        while (one := frames.next()) is not None:
            found.append(one)
    return found


BODY = st.binary(max_size=60).filter(lambda one: not {0x0B, 0x1C} & {*one})


@given(st.lists(BODY, max_size=5), st.lists(st.integers(1, 40), max_size=30))
def test_frames_come_out_however_they_are_cut(bodies: list[bytes], sizes: list[int]) -> None:
    stream, pieces = b"\r\n".join(framed(one) for one in bodies), []
    for size in sizes:
        pieces.append(stream[:size])
        stream = stream[size:]
    assert cut([*pieces, stream]) == bodies


@pytest.mark.parametrize(
    ("pieces", "code"),
    [
        ([b"MSH|"], ImportCode.FRAME_MALFORMED),
        ([b"\x0bMSH|\x0bMSH|\x1c\r"], ImportCode.FRAME_MALFORMED),
        ([b"\x0b" + b"x" * 103], ImportCode.MESSAGE_TOO_LARGE),
        ([b"\x0b" + b"x" * 101 + b"\x1c\r"], ImportCode.MESSAGE_TOO_LARGE),
        ([b"\x0b"] + [b"x" * 10] * 20, ImportCode.MESSAGE_TOO_LARGE),
    ],
)
def test_a_stream_that_is_no_mllp_is_refused(pieces: list[bytes], code: ImportCode) -> None:
    with pytest.raises(Rejected) as refused:
        cut(pieces)
    assert refused.value.code is code


def test_a_message_before_a_broken_frame_is_still_given_out() -> None:
    frames = Deframer()
    frames.feed(framed(b"one") + b"GET /")
    assert frames.next() == b"one"
    with pytest.raises(Rejected):
        frames.next()


class Running:
    """A server in a thread of its own."""

    def __init__(self, journal: Journal, charts: Charts, **how: object) -> None:
        self.journal = journal
        self.failure: BaseException | None = None
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.feed = feed_on(journal, charts)
        self._how = how
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self._started.wait()

    def _run(self) -> None:
        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            self._server = Server(self.feed, **{"allowed": LOOPBACK, **self._how})
            self._started.set()
            await self._server.run(self._socket)

        try:
            asyncio.run(serve())
        except BaseException as failure:  # noqa: BLE001 - given to the test
            self.failure = failure

    def stop(self) -> None:
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._server.stop)
        self._thread.join()
        self._socket.close()


@contextlib.contextmanager
def running(tmp_path: Path, **how: object) -> Iterator[Running]:
    with Journal.open(tmp_path / "hl7.sqlite") as journal, Charts.open(tmp_path / "charts.sqlite") as charts:
        server = Running(journal, charts, **how)
        try:
            yield server
        finally:
            server.stop()


def raw(server: Running, *pieces: bytes, ended: bool = True) -> bytes:
    """Everything the server says to these bytes until it hangs up."""
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        with contextlib.suppress(OSError):
            for piece in pieces:
                connection.sendall(piece)
            if ended:
                connection.shutdown(socket.SHUT_WR)
        found = b""
        with contextlib.suppress(OSError):
            while data := connection.recv(65536):
                found += data
    return found


def test_an_independent_client_sends_a_day_and_everything_is_filed(tmp_path: Path) -> None:
    sent = [
        admission(name=CHINESE),
        result(),
        order(),
        admission("A08", control="M4"),
        result(control="M5", status="C"),
    ]
    with running(tmp_path) as server, MLLPClient("127.0.0.1", server.port) as client:
        for one in sent:
            assert b"MSA|AA|" in client.send_message(message(*one))
        assert b"MSA|AE|" in client.send_message(message(*result()).replace(b"72.50", b"x"))
    with Journal.open(tmp_path / "hl7.sqlite") as journal, Charts.open(tmp_path / "charts.sqlite") as charts:
        # Stopping finishes the message in hand; what is left is filed by the next run.
        feed = feed_on(journal, charts)
        while feed.file_next() is not None:
            pass
        counts = journal.counts()
        assert (counts.filed, counts.waiting, counts.refused) == (len(sent), 0, 0)
        patient = charts.local_patient(provisional(Identity(authority="WEST", value="4711").patient_id()))
        assert patient is not None
        assert patient.mrn == "4711"
    assert "王".encode() not in (tmp_path / "hl7.sqlite").read_bytes()


@pytest.mark.parametrize(
    ("pieces", "said"),
    [
        ((b"GET / HTTP/1.1\r\n\r\n",), b"|2602^"),
        ((b"\x0bMSH|^~\\&|half",), b""),
        ((b"\x0b", b"x" * (9 * 1024 * 1024)), b"|2601^"),
        ((b"\x0bMSH|a\x0bMSH|", b"\x1c\r"), b"|2602^"),
        ((), b""),
    ],
)
def test_a_broken_stream_is_answered_closed_and_stores_nothing(
    tmp_path: Path, pieces: tuple[bytes, ...], said: bytes
) -> None:
    with running(tmp_path) as server:
        assert said in raw(server, *pieces)
        assert server.journal.counts().waiting == server.journal.counts().filed == 0


def test_a_sender_that_is_too_slow_is_cut_off(tmp_path: Path) -> None:
    with running(tmp_path, patience=Patience(frame_s=0, idle_s=60)) as server:
        # Nothing more comes and nothing is closed: only the limit ends it.
        assert raw(server, b"\x0bMSH|", ended=False) == b""
    with running(tmp_path, patience=Patience(frame_s=60, idle_s=0)) as server:
        assert raw(server, ended=False) == b""


def test_who_is_not_allowed_is_not_heard(tmp_path: Path) -> None:
    with running(tmp_path, allowed=(ipaddress.ip_network("192.0.2.0/24"),)) as server:
        assert raw(server, framed(message(*admission()))) == b""
        assert server.journal.counts().waiting == 0


def test_too_many_connections_are_not_heard(tmp_path: Path) -> None:
    with running(tmp_path, connections=1) as server, MLLPClient("127.0.0.1", server.port) as client:
        assert b"MSA|AA|" in client.send_message(message(*admission()))
        assert raw(server, framed(message(*admission(control="M7")))) == b""


def test_a_journal_that_cannot_write_acknowledges_nothing_and_ends_the_server(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        server.journal.close()
        # The server may notice by itself, and then nobody listens any more.
        with contextlib.suppress(ConnectionRefusedError):
            assert raw(server, framed(message(*admission()))) == b""
    assert isinstance(server.failure, JournalUnavailable)
