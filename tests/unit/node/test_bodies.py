"""Goal: a body is read whole, within its bounds of size and time, and the watch over slow ones hits nobody else.

Method: bodies in pieces from a test's own ``receive``; the bound of time is made short, and a read that never ends is
ended by the watch.
"""

import asyncio
from collections.abc import Sequence

import pytest
from starlette.types import Message, Receive

from carechain.core.rejection import Rejected
from carechain.node import bodies
from carechain.node.bodies import BodyReader
from carechain.node.refusals import NodeCode

GONE: Message = {"type": "http.disconnect"}


def part(body: bytes, *, more: bool = False) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


def receive_of(messages: Sequence[Message]) -> Receive:
    left = iter(messages)

    async def receive() -> Message:
        return next(left)

    return receive


async def never() -> Message:
    return await asyncio.get_running_loop().create_future()


def read(messages: Sequence[Message], *, declared: bytes | None = None, limit: int = 10) -> bytes:
    headers = {} if declared is None else {b"content-length": declared}
    return asyncio.run(BodyReader().read(receive_of(messages), headers, limit))


@pytest.mark.parametrize(
    "messages",
    [
        [part(b"0123456789")],
        [part(b"01234", more=True), part(b"56789")],
        [part(b"0", more=True)] + [part(bytes([48 + n]), more=True) for n in range(1, 10)] + [part(b"")],
        [part(b"", more=True), part(bytearray(b"0123456789"))],
    ],
)
def test_a_body_is_joined(messages: list[Message]) -> None:
    body = read(messages)
    assert (type(body), body) == (bytes, b"0123456789")
    assert read(messages, declared=b"10") == body


def test_no_body_is_empty() -> None:
    assert read([{"type": "http.request"}]) == b""


@pytest.mark.parametrize(
    ("messages", "declared", "code"),
    [
        ([part(b"0" * 11)], None, NodeCode.BODY_TOO_LARGE),
        ([part(b"0" * 6, more=True), part(b"0" * 5, more=True)], None, NodeCode.BODY_TOO_LARGE),
        ([], b"11", NodeCode.BODY_TOO_LARGE),
        ([], b"9" * 5000, NodeCode.BODY_TOO_LARGE),
        ([part(b"0", more=True), GONE], None, NodeCode.BODY_MALFORMED),
        ([GONE], b"5", NodeCode.BODY_MALFORMED),
    ],
)
def test_what_is_refused(messages: list[Message], declared: bytes | None, code: NodeCode) -> None:
    with pytest.raises(Rejected) as refused:
        read(messages, declared=declared)
    assert refused.value.code is code


def test_a_body_that_does_not_come_is_refused_and_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "HTTP_BODY_S", 0.01)

    async def main() -> None:
        reader = BodyReader()

        async def late() -> None:
            with pytest.raises(Rejected) as refused:
                await reader.read(never, {}, 10)
            assert refused.value.code is NodeCode.BODY_MALFORMED
            # The refusal is all that is left of it: the task can wait again.
            await asyncio.sleep(0)

        slow = [asyncio.create_task(late()) for _ in range(3)]
        for _ in range(3):
            assert await reader.read(receive_of([part(b"x")]), {}, 10) == b"x"
        await asyncio.gather(*slow)
        assert all(not task.cancelled() for task in slow)
        assert not reader._reading
        assert not reader._late
        # And again, after the watch had nothing to do.
        await late()

    asyncio.run(main())


def test_a_reader_that_is_cancelled_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "HTTP_BODY_S", 0.0)

    async def main() -> None:
        reader = BodyReader()
        for also_late in (False, True):
            task = asyncio.create_task(reader.read(never, {}, 10))
            await asyncio.sleep(0)
            if also_late:
                reader._look()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not reader._reading
            assert not reader._late

    asyncio.run(main())
