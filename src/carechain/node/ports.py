"""Free ports for several nodes on one machine: a local network, a benchmark, the demonstration, the tests."""

import errno
import socket
from contextlib import ExitStack
from random import SystemRandom
from typing import Final

_LOOPBACK: Final = "127.0.0.1"
_PORTS: Final = range(10_000, 32_000)
"""Below the ports that systems lend to outgoing connections, and above those of well-known services."""


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address that nobody listens at now, all different.

    A port that the system itself picks may be lent to an outgoing connection before its listener starts, or while its
    node restarts. These are never lent. Raises ``OSError`` when there are not so many.
    """
    found: list[int] = []
    with ExitStack() as held:
        for port in SystemRandom().sample(_PORTS, len(_PORTS)):
            if len(found) == count:
                break
            try:
                held.enter_context(socket.create_server((_LOOPBACK, port)))
            except OSError as taken:
                if taken.errno != errno.EADDRINUSE:
                    raise
                continue
            found.append(port)
    if len(found) < count:
        raise OSError(errno.EADDRINUSE, f"there are not {count} free ports at {_LOOPBACK}: stop what listens there")
    return found
