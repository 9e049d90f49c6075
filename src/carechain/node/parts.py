"""What runs beside the ledger, by name, and the failures that are neither the caller's fault nor a bug."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Final

import lmdb
import uvicorn
from starlette.types import ASGIApp

from carechain.chain.genesis import BadGenesis
from carechain.chain.versions import UpgradeNeeded
from carechain.charts.schema import ChartsUnavailable
from carechain.charts.schema import StoreTooNew as ChartsTooNew
from carechain.engine.blocklog import CorruptHistory, LogTooNew, WrongChain
from carechain.engine.cometbft.application import WrongNetwork
from carechain.engine.cometbft.binary import EngineMissing
from carechain.engine.cometbft.config import BadEngineKey
from carechain.engine.cometbft.process import EngineKeepsEnding
from carechain.engine.session import ResyncNeeded
from carechain.gatekeeper import listen
from carechain.gatekeeper.audit import AuditDamaged, AuditTooNew, AuditUnavailable
from carechain.gatekeeper.erasure_journal import JournalTooNew, JournalUnavailable
from carechain.node.clock import ClockAhead
from carechain.node.home import HomeUnusable
from carechain.node.keyholder_store import KeyholderFileUnusable
from carechain.node.ledger import NodeFailed
from carechain.node.settings import BadSettings, Settings
from carechain.sources.hl7v2.journal import JournalTooNew as Hl7JournalTooNew
from carechain.sources.hl7v2.journal import JournalUnavailable as Hl7JournalUnavailable
from carechain.state.log import StoreDamaged
from carechain.state.store import StoreLocked, StoreTooNew, StoreTooOld


class PartEnded(Exception):  # noqa: N818 - names what happened
    """A part of the node that should run until it is stopped ended by itself."""


ENVIRONMENT_FAILURES: Final = (
    AuditDamaged,
    AuditTooNew,
    AuditUnavailable,
    BadEngineKey,
    BadGenesis,
    BadSettings,
    ChartsTooNew,
    ChartsUnavailable,
    ClockAhead,
    CorruptHistory,
    EngineKeepsEnding,
    EngineMissing,
    Hl7JournalTooNew,
    Hl7JournalUnavailable,
    HomeUnusable,
    JournalTooNew,
    JournalUnavailable,
    KeyholderFileUnusable,
    LogTooNew,
    NodeFailed,
    OSError,
    PartEnded,
    ResyncNeeded,
    StoreDamaged,
    StoreLocked,
    StoreTooNew,
    StoreTooOld,
    UpgradeNeeded,
    WrongChain,
    WrongNetwork,
    lmdb.Error,
)
"""What is neither the caller's fault nor a bug: disk, files, ports, another process."""


class _Server(uvicorn.Server):
    """Leaves the signals to the process: several servers run in one."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture nothing."""
        yield

    def stop(self) -> None:
        """Take no more requests, finish those that are being answered, and return from ``serve``."""
        self.should_exit = True


def _server(app: ASGIApp, settings: Settings, *, tls: ssl.SSLContext | None = None) -> _Server:
    config = uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=listen.BACKLOG,
        limit_concurrency=settings.api.connections,
        timeout_graceful_shutdown=settings.api.drain_s,
        ssl_context_factory=None if tls is None else lambda _config, _default: tls,
    )
    return _Server(config)


class Parts:
    """What runs beside the ledger, by name: a part that ends by itself must end the node, or nobody would know."""

    def __init__(self) -> None:
        self.tasks: dict[asyncio.Task[None], str] = {}

    @asynccontextmanager
    async def running(
        self, name: str, part: Coroutine[None, None, None], *, end: Callable[[], object]
    ) -> AsyncIterator[None]:
        """Run ``part`` meanwhile; ``end`` asks it to end, which is then waited for."""
        task = asyncio.create_task(part, name=f"carechain {name}")
        self.tasks[task] = name
        try:
            yield
        finally:
            end()
            await asyncio.wait({task})
            failure = task.exception()
            del self.tasks[task]
        # Only now: a failure inside is what ended the node, and this one may be its consequence.
        if failure is not None:
            raise _ended(name, failure)

    def serving(
        self,
        name: str,
        app: ASGIApp,
        settings: Settings,
        listening: socket.socket,
        *,
        tls: ssl.SSLContext | None = None,
    ) -> AbstractAsyncContextManager[None]:
        """Serve ``app`` meanwhile; at the end, what is being answered is finished."""
        server = _server(app, settings, tls=tls)
        return self.running(name, server.serve(sockets=[listening]), end=server.stop)

    def require_running(self) -> None:
        """Raise why a part is running no more, if one is."""
        for task, name in self.tasks.items():
            if task.done():
                raise _ended(name, task.exception())


def _ended(name: str, failure: BaseException | None) -> BaseException:
    """What the environment did speaks for itself; anything else is told as the end of the part."""
    if isinstance(failure, ENVIRONMENT_FAILURES):
        return failure
    ended = PartEnded(f"The {name} ended by itself. Start the node again.")
    ended.__cause__ = failure
    return ended
