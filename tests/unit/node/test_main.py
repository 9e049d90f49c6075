"""Goal: no part of a node can end without ending the node, and each failure is told as what it is.

Method: parts that end, fail, and are asked to end, beside a ledger that runs or stops; no sockets.
"""

import asyncio
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from carechain.gatekeeper.audit import AuditDamaged
from carechain.node.main import _until_stopped, allow_open_files
from carechain.node.parts import PartEnded, Parts
from carechain.node.service import NodeFailed
from node_network import running


async def ends() -> None:
    """A server whose loop is left."""


async def fails(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    ("part", "raised", "said"),
    [
        (ends, PartEnded, "The API server ended by itself"),
        (lambda: fails(KeyError("bug")), PartEnded, "The API server ended by itself"),
        (lambda: fails(OSError(24, "Too many open files")), OSError, "Too many"),
        (lambda: fails(AuditDamaged(3)), AuditDamaged, "entry 3"),
        (lambda: fails(NodeFailed("no block")), NodeFailed, "no block"),
    ],
)
def test_a_part_that_ends_by_itself_ends_the_node(
    tmp_path: Path, part: Callable[[], object], raised: type[Exception], said: str
) -> None:
    async def main() -> None:
        parts, asked = Parts(), asyncio.Event()
        async with running(tmp_path, populate=False) as net, parts.running("API server", part(), end=asked.set):  # type: ignore[arg-type]
            await _until_stopped(net.service, parts, asked)

    with pytest.raises(raised, match=said):
        asyncio.run(main())


def test_parts_end_when_asked(tmp_path: Path) -> None:
    async def main() -> list[str]:
        parts, asked, ended = Parts(), asyncio.Event(), []

        async def serve(closing: asyncio.Event) -> None:
            await closing.wait()
            ended.append("served")

        async with running(tmp_path, populate=False) as net:
            closing = asyncio.Event()
            async with parts.running("API server", serve(closing), end=closing.set):
                asked.set()
                await _until_stopped(net.service, parts, asked)
                assert ended == []
        assert not parts.tasks
        return ended

    assert asyncio.run(main()) == ["served"]


def test_what_fails_while_it_ends_is_told_unless_something_else_failed_first() -> None:
    async def main(*, first: Exception | None) -> None:
        parts, closing = Parts(), asyncio.Event()

        async def last_report() -> None:
            await closing.wait()
            raise AuditDamaged(7)

        async with parts.running("reporting of releases", last_report(), end=closing.set):
            if first is not None:
                raise first

    with pytest.raises(AuditDamaged):
        asyncio.run(main(first=None))
    with pytest.raises(NodeFailed, match="the cause"):
        asyncio.run(main(first=NodeFailed("the cause")))


def test_as_many_files_as_allowed_may_be_open() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, hard, 512), hard))
        allow_open_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
        allow_open_files()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
