"""Where a node listens: its ports, taken before anything else is opened, and the file that tells others of them."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeAlias

from carechain.gatekeeper import listen
from carechain.node.home import Home, HomeUnusable, Running
from carechain.node.settings import (
    ApiSettings,
    ConsensusSettings,
    FhirSettings,
    GatekeeperSettings,
    Hl7Settings,
    OpsSettings,
    Settings,
)

Listening: TypeAlias = ApiSettings | OpsSettings | GatekeeperSettings | FhirSettings | Hl7Settings
"""A group of settings that has a host and a port."""


def addresses(settings: Settings, *, fhir: bool) -> dict[str, Listening]:
    """The HTTP ports of a node by name; ``fhir``: whether a FHIR server was handed in and is wanted."""
    found: dict[str, Listening] = {"api": settings.api, "ops": settings.ops}
    if settings.gatekeeper_api.enabled:
        found["gatekeeper"] = settings.gatekeeper_api
    if fhir:
        found["fhir"] = settings.fhir
    return found


@contextmanager
def bound(group: Listening | ConsensusSettings) -> Iterator[socket.socket]:
    """A listening socket, closed at the end; raises ``HomeUnusable`` with what to do where the port is taken."""
    try:
        listening = listen.bound_socket(group.host, group.port)
    except OSError as error:
        raise HomeUnusable(
            f"Cannot listen at {group.host}:{group.port}: {error.strerror}. Choose another port, or stop what uses it."
        ) from None
    with listening:
        yield listening


def url_of(settings: Settings, name: str, listening: socket.socket) -> str:
    """The address at which a port of the node is reached from this machine."""
    host, port = listening.getsockname()[:2]
    scheme = "https" if settings.api.tls_key is not None and name != "ops" else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


@contextmanager
def announced(home: Home, urls: dict[str, str]) -> Iterator[None]:
    """Tell others on this machine where the node listens, for as long as it does."""
    home.announce(Running(pid=os.getpid(), **urls))
    try:
        yield
    finally:
        home.retire()
