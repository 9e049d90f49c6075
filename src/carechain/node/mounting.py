"""A door that a layer above the node brings along: the node gives it a port and what it needs, and knows no more of it.

The FHIR server stands above the node. Whoever starts a node hands it in (``run(settings, gateway=…)``); a node without
one serves no FHIR.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

from msgspec import Struct
from starlette.types import ASGIApp

from carechain.charts.store import Charts
from carechain.gatekeeper.audit import Audit
from carechain.node.ledger import LedgerNode
from carechain.node.settings import Settings
from carechain.sdk.authentication import SessionBook
from carechain.sdk.identity import Identity


class Place(Struct, frozen=True, kw_only=True):
    """What a door is given. ``url`` is the address of its port; ``sessions`` are those of the node's API.

    ``clock()`` gives Unix seconds with their fraction.
    """

    settings: Settings
    home: Path
    ledger: LedgerNode
    identity: Identity
    sessions: SessionBook
    charts: Charts
    audit: Audit
    url: str
    clock: Callable[[], float]
    entropy: Callable[[int], bytes]


class Part(Struct, frozen=True):
    """What runs beside the door until the event is set; it must not end by itself."""

    name: str
    run: Callable[[asyncio.Event], Coroutine[None, None, None]]


class Mounted(Struct, frozen=True):
    """An open door: what answers at its port, and what runs beside it."""

    app: ASGIApp
    parts: tuple[Part, ...] = ()


class Gateway(Protocol):
    """Opens the door for as long as the context lasts. Raises ``HomeUnusable``, ``BadSettings``, ``OSError``."""

    def __call__(self, place: Place) -> AbstractAsyncContextManager[Mounted]:
        """The open door."""
