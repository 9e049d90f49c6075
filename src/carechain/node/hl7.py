"""The HL7 v2 feed as a part of the node: its journal beside the charts, patients known by the registrar's hash."""

import secrets
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from ipaddress import ip_network
from pathlib import Path
from socket import socket
from typing import Final, Protocol
from zoneinfo import ZoneInfo

import structlog

from carechain.charts.store import Charts
from carechain.core.rejection import Rejected
from carechain.gatekeeper.ledger import LedgerReader
from carechain.node.ledger import LedgerNode
from carechain.node.settings import Hl7Settings
from carechain.sdk.keyfile import WalletCode
from carechain.sdk.registrar import RegistrarSecret
from carechain.sources.hl7v2.feed import Feed, NobodyRegistered, Registry
from carechain.sources.hl7v2.journal import Journal
from carechain.sources.hl7v2.server import Server
from carechain.sources.hl7v2.values import Place
from carechain.sources.intake import ChartsIntake

JOURNAL_FILE: Final = "charts/hl7.sqlite"
REGISTRAR_SECRET: Final = "keys/registrar.secret"  # noqa: S105 - a file's name


_log = structlog.get_logger("carechain.hl7")


class RunningPart(Protocol):
    """How the node runs a part meanwhile."""

    def __call__(
        self, name: str, part: Coroutine[None, None, None], *, end: Callable[[], object]
    ) -> AbstractAsyncContextManager[None]:
        """Run ``part``; ``end`` asks it to end."""


class LedgerRegistry:
    """Patients as this organisation, a registrar, has bound them on the ledger (ID-3)."""

    def __init__(self, ledger: LedgerReader, organisation: bytes, secret: RegistrarSecret, *, system: str) -> None:
        self._ledger = ledger
        self._organisation = organisation
        self._secret = secret
        self._system = system

    def pseudonym(self, value: str) -> bytes | None:
        """The pseudonym of an existing id; None for one that is not bound, or cannot be an id at all."""
        try:
            id_hash = self._secret.id_hash(self._system, value)
        except Rejected as refused:
            if isinstance(refused.code, WalletCode):
                return None
            raise
        bound = self._ledger.view().contracts.relationships.bindings.get(self._organisation, id_hash)
        return None if bound is None else bound.pseudonym


def registry_of(home: Path, ledger: LedgerReader, organisation: bytes, settings: Hl7Settings) -> Registry:
    """How the feed knows patients: by the ledger where this home has a registrar's secret, else not at all.

    Raises ``OSError`` and ``Rejected`` when the secret cannot be used.
    """
    path = home / REGISTRAR_SECRET
    if not path.is_file():
        return NobodyRegistered()
    return LedgerRegistry(ledger, organisation, RegistrarSecret.load(path), system=settings.id_system)


def feed_of(
    journal: Journal,
    charts: Charts,
    registry: Registry,
    settings: Hl7Settings,
    *,
    clock: Callable[[], int] = lambda: int(time.time()),
) -> Feed:
    """The feed between a journal and the charts, as it is set."""
    place = Place(
        zone=ZoneInfo(settings.time_zone), authorities=settings.authorities, authority=settings.assigning_authority
    )
    return Feed(
        journal=journal,
        intake=ChartsIntake(charts, rng=secrets.token_bytes, waits=True),
        registry=registry,
        place=place,
        charset=settings.charset,
        clock=clock,
        entropy=secrets.token_bytes,
    )


@asynccontextmanager
async def hl7_feed(
    running: RunningPart,
    home: Path,
    ledger: LedgerNode,
    organisation: bytes,
    charts: Charts,
    settings: Hl7Settings,
    *,
    listening: socket,
    tls: ssl.SSLContext | None,
) -> AsyncIterator[None]:
    """Take messages at ``listening`` meanwhile: what arrived before the last end is filed first.

    Raises what opening the journal and the registrar's secret raise.
    """
    with Journal.open(home / JOURNAL_FILE) as journal:
        feed = feed_of(journal, charts, registry_of(home, ledger, organisation, settings), settings)
        allowed = [ip_network(one) for one in settings.allowed]
        server = Server(feed, allowed=allowed, tls=tls)
        ledger.metrics.gauge(
            "hl7_waiting", "HL7 messages that are kept and not filed yet.", lambda: journal.counts().waiting
        )
        ledger.metrics.gauge("hl7_refused", "HL7 messages that the charts refused.", lambda: journal.counts().refused)
        async with running("HL7 feed", server.run(listening), end=server.stop):
            host, port = listening.getsockname()[:2]
            _log.info("HL7 feed started", host=host, port=port)
            yield
