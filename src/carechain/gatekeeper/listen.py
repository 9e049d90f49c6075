"""A gatekeeper on a socket of its own: bind, serve, stop. For a process that runs several servers on one loop."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import uvicorn
from starlette.types import ASGIApp

LOOPBACK: Final = "127.0.0.1"
DRAIN_S: Final = 10
BACKLOG: Final = 1024
"""Connections that may wait to be accepted."""


class CannotListen(OSError):  # noqa: N818 - the state of the environment
    """The server did not come up; the address may be taken."""


class _Server(uvicorn.Server):
    """Leaves the signals to the process and says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.up.set()


class Listener:
    """One ASGI application on one TCP port; port 0 takes a free one."""

    def __init__(self, app: ASGIApp, *, host: str = LOOPBACK, port: int = 0) -> None:
        """Bind at once, so that :attr:`url` is known before anything is served; raises ``OSError``."""
        self._socket = bound_socket(host, port)
        name = f"[{host}]" if ":" in host else host
        self.url = f"http://{name}:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(
            app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=DRAIN_S
        )
        self._server = _Server(config)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Serve until :meth:`stop`; returns when connections are accepted. Raises :class:`CannotListen`."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        up = asyncio.create_task(self._server.up.wait())
        await asyncio.wait({self._task, up}, return_when=asyncio.FIRST_COMPLETED)
        if not up.done():
            up.cancel()
            raise CannotListen(f"cannot serve at {self.url}")

    async def stop(self) -> None:
        """Finish what is being answered, then close."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task
        self._socket.close()


def bound_socket(host: str, port: int) -> socket.socket:
    """A listening socket: whoever connects from now on waits until the server behind it is up. Raises ``OSError``.

    It names its protocol, because an event loop switches Nagle's delay off only where it sees TCP; with the delay, an
    answer on a connection that is kept open takes 40 ms.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
        made.listen(BACKLOG)
    except OSError:
        made.close()
        raise
    return made
