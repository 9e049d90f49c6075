"""Running a node: open the home, start ledger, API, operations port and gatekeeper, and drain on SIGTERM or SIGINT.

Start and stop are in one order: what accepts work starts last and stops first, so nothing that was acknowledged
is lost and nothing is answered from a ledger that is closed.
"""

import asyncio
import gc
import os
import resource
import secrets
import signal
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final
from zoneinfo import ZoneInfo

import structlog
import uvloop
from starlette.types import ASGIApp

from carechain.chain.versions import UpgradeNeeded
from carechain.charts.store import Charts
from carechain.contracts.access import EntryKind
from carechain.core.rejection import Rejected
from carechain.engine.blocklog import CorruptHistory
from carechain.engine.cometbft.application import WrongNetwork
from carechain.engine.cometbft.binary import find_cometbft
from carechain.engine.cometbft.process import EngineKeepsEnding
from carechain.engine.session import IllegalOrder
from carechain.gatekeeper.audit import Audit
from carechain.gatekeeper.erasing import Eraser, Holdings, SealedObjects
from carechain.gatekeeper.erasure_journal import ErasureJournal
from carechain.gatekeeper.keyholder import Keyholder
from carechain.gatekeeper.objects_door import ObjectsDoor
from carechain.gatekeeper.release import Gatekeeper
from carechain.gatekeeper.reports import Reporter
from carechain.gatekeeper.serve import Extension
from carechain.gatekeeper.serve import app as gatekeeper_app
from carechain.gatekeeper.shares_door import shares_door
from carechain.node.base_check import SnapshotRefuted
from carechain.node.ceremony import CeremonyRunner
from carechain.node.consortium import ConsortiumService, Place
from carechain.node.hl7 import hl7_feed
from carechain.node.home import Home, HomeUnusable, open_home
from carechain.node.http import Api
from carechain.node.keyholder_store import KEYHOLDER_FILE, KeyholderStore
from carechain.node.ledger import LedgerNode, NodeFailed
from carechain.node.listening import addresses, announced, bound, url_of
from carechain.node.logs import configure_logs
from carechain.node.mounting import Gateway
from carechain.node.mounting import Place as GatewayPlace
from carechain.node.ops import ops_app
from carechain.node.parts import ENVIRONMENT_FAILURES, Parts
from carechain.node.relay import relay_of
from carechain.node.service import NodeService
from carechain.node.settings import (
    BadSettings,
    Settings,
    read_secret,
    require_private,
)
from carechain.node.tls import CertificateWatch, certificate_files
from carechain.node.vault import OpenVault, vault_of
from carechain.sdk.identity import Identity
from carechain.sources.reader import SourceReader
from carechain.sources.registry import Sources

DONE: Final = 0
ENVIRONMENT: Final = 3
COLLECT_AFTER: Final = (100_000, 50, 1000)
"""When Python looks for cycles of dead objects: new objects, then rounds, then rounds of those.

A node that executes transactions makes very many small objects that are freed at once without the collector. Python's
usual figures make it look through them all the time and find nothing; these gave 17 % more transactions per second.
"""
_SPEAKING: Final = (EngineKeepsEnding, SnapshotRefuted, UpgradeNeeded, WrongNetwork)
"""What says by itself why no more blocks can be made, and what to do."""
_NOT_A_PRODUCER: Final = (
    "This organisation is not one of the network's block producers. Point clients at a producer's node."
)
_log = structlog.get_logger("carechain.node")


def run(settings: Settings, *, identity: Identity | None = None, gateway: Gateway | None = None) -> int:
    """Run a node until SIGTERM or SIGINT; returns the exit status: 0 after a drain, 3 when the environment failed.

    ``identity`` is the organisation's key, where the caller has opened it already; otherwise it is read from
    ``settings.member_key`` with the password in ``settings.password_file``. ``gateway`` is the FHIR server, for a node
    that serves one.
    """
    configure_logs(settings.log.level)
    gc.set_threshold(*COLLECT_AFTER)
    allow_open_files()
    try:
        with open_home(settings.home.expanduser()) as home:
            uvloop.run(_serve(settings, home, identity or open_identity(settings), gateway))
    except ENVIRONMENT_FAILURES as failure:
        _complain(failure)
        return ENVIRONMENT
    return DONE


def allow_open_files() -> None:
    """Let this process have as many files open as it may: connections, and the files of the state tree, need them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def open_identity(settings: Settings) -> Identity:
    """The organisation's key. Raises :class:`BadSettings`, ``OSError``."""
    if settings.password_file is None:
        raise BadSettings("password_file is not set: name a file (mode 0600) with the password of the key file.")
    path = require_private(settings.path(settings.member_key))
    try:
        return Identity.load(path, password=read_secret(settings.path(settings.password_file)))
    except Rejected as refused:
        raise BadSettings(f"{path}: {refused.code.reason}") from None


def _complain(failure: BaseException) -> None:
    """One line in the log, and one sentence for whoever started the node."""
    # What stopped the blocks may be a bug, and then its place is all there is to go by.
    _log.error("node stopped", kind=type(failure).__name__, exc_info=failure.__cause__ or failure)
    if isinstance(failure, CorruptHistory):
        said = (
            f"The ledger is damaged at {failure}. Restore it from a backup, or in a consortium take it from the other "
            "nodes with carechain resync; carechain verify says more."
        )
    elif isinstance(failure, NodeFailed) and isinstance(failure.__cause__, _SPEAKING):
        said = str(failure.__cause__)
    elif isinstance(failure, NodeFailed):
        said = f"No block can be made any more: {type(failure.__cause__).__name__}. Check the disk and start again."
    elif isinstance(failure, OSError) and not failure.filename:
        said = f"The system refused: {failure.strerror or failure}."
    else:
        said = str(failure) or (type(failure).__doc__ or type(failure).__name__).strip()
    sys.stderr.write(f"carechain: {said}\n")


async def _serve(settings: Settings, home: Home, identity: Identity, gateway: Gateway | None) -> None:
    async with AsyncExitStack() as running:
        # Ports first: one that is taken is noticed before the ledger is opened.
        fhir = gateway is not None and settings.fhir.enabled
        groups = addresses(settings, fhir=fhir)
        sockets = {name: running.enter_context(bound(group)) for name, group in groups.items()}
        urls = {name: url_of(settings, name, one) for name, one in sockets.items()}
        messages = running.enter_context(bound(settings.hl7)) if settings.hl7.enabled else None
        service = await running.enter_async_context(_ledger(settings, home, identity))
        certificates = certificate_files(settings, service)
        watch = CertificateWatch(service, certificates)
        # A signal that comes earlier ends the process at once: nothing was acknowledged yet.
        asked_to_stop = _signals(hang_up=watch.look_now)
        parts = Parts()
        serving = parts.serving

        def tls(*, ask: bool) -> ssl.SSLContext | None:
            return None if certificates is None else certificates.context(ask=ask)

        await running.enter_async_context(parts.running("certificate watch", watch.run(), end=watch.stop))
        relay = await running.enter_async_context(relay_of(settings, service, certificates))
        await running.enter_async_context(serving("operations server", ops_app(service), settings, sockets["ops"]))
        shown = tls(ask=settings.api.require_client_certificate)
        api = Api(service, relay=relay)
        await running.enter_async_context(serving("API server", api, settings, sockets["api"], tls=shown))
        running.push_async_callback(service.finish)
        vault = await running.enter_async_context(vault_of(settings, service, identity, certificates))
        if vault is not None:
            stop = asyncio.Event()
            await running.enter_async_context(parts.running("upkeep of the vault", vault.run(stop), end=stop.set))
        await running.enter_async_context(_erasing(settings, home, service, identity, parts, vault))
        shares = await running.enter_async_context(_ceremonies(home, service, identity, parts))
        audit = running.enter_context(Audit.open(home.audit))
        if settings.gatekeeper_api.enabled or fhir:
            await running.enter_async_context(_reporting(service, identity, parts, audit))
        if settings.gatekeeper_api.enabled:
            holding = await running.enter_async_context(_keyholder(home, service, identity, parts, shares))
            app = await running.enter_async_context(
                _gatekeeper(settings, home, service, identity, audit, vault, holding)
            )
            shown = tls(ask=settings.gatekeeper_api.require_client_certificate)
            door = serving("gatekeeper's server", app, settings, sockets["gatekeeper"], tls=shown)
            await running.enter_async_context(door)
        if gateway is not None and fhir:
            charts = running.enter_context(_charts(settings, home, service, zone=settings.fhir.zone()))
            place = GatewayPlace(
                settings=settings,
                home=home.path,
                ledger=service,
                identity=identity,
                sessions=api.sessions,
                charts=charts,
                audit=audit,
                url=urls["fhir"],
                clock=time.time,
                entropy=secrets.token_bytes,
            )
            shown = tls(ask=settings.fhir.require_client_certificate)
            await running.enter_async_context(_fhir(gateway, place, parts, sockets["fhir"], tls=shown))
        if messages is not None:
            shown = tls(ask=True) if settings.hl7.tls else None
            store = running.enter_context(_charts(settings, home, service, zone=settings.fhir.zone()))
            feed = hl7_feed(
                parts.running,
                home.path,
                service,
                identity.party,
                store,
                settings.hl7,
                listening=messages,
                tls=shown,
            )
            await running.enter_async_context(feed)
        running.enter_context(announced(home, urls))
        _log.info("node started", height=service.height, chain_id=service.chain_id, pid=os.getpid(), **urls)
        await _until_stopped(service, parts, asked_to_stop)
        _log.info("node stopping", height=service.height)
    _log.info("node stopped", height=service.height)


async def _until_stopped(service: LedgerNode, parts: Parts, asked_to_stop: asyncio.Event) -> None:
    """Return when asked to stop; raises when the ledger (:class:`NodeFailed`) or another part ends by itself."""
    asked = asyncio.create_task(asked_to_stop.wait())
    ledger = asyncio.create_task(service.stopped())
    await asyncio.wait({asked, ledger, *parts.tasks}, return_when=asyncio.FIRST_COMPLETED)
    asked.cancel()
    if ledger.done():
        ledger.result()
    ledger.cancel()
    if not asked_to_stop.is_set():
        parts.require_running()


@asynccontextmanager
async def _ledger(settings: Settings, home: Home, identity: Identity) -> AsyncIterator[LedgerNode]:
    """The node as its network wants it: making blocks alone, or agreeing on them with others."""
    opened = _consortium if home.genesis().is_consortium else _producer
    async with opened(settings, home, identity) as service:
        yield service


@asynccontextmanager
async def _consortium(settings: Settings, home: Home, identity: Identity) -> AsyncIterator[LedgerNode]:
    consensus = settings.consensus
    program = find_cometbft(None if consensus.program is None else settings.path(consensus.program))
    with bound(consensus):
        # Free now; the engine itself listens there once it runs.
        host = f"[{consensus.host}]" if ":" in consensus.host else consensus.host
        address = f"{host}:{consensus.port}"
    service = ConsortiumService.open(
        home.path,
        home.genesis(),
        identity.block_key(),
        Place(
            program=program,
            p2p=address,
            peers=consensus.peers,
            same_host=consensus.same_host,
            tuning=consensus.tuning(),
            block_txs=consensus.block_txs,
            sync=settings.state_sync.sync(),
            rhythm=settings.snapshots.rhythm(),
            resume_validator=consensus.resume_validator,
            rpc_tcp=None if consensus.rpc_port is None else f"127.0.0.1:{consensus.rpc_port}",
        ),
        checkpoints=settings.checkpoints.checkpoints(),
    )
    try:
        await service.start()
        yield service
    finally:
        await service.drain()


@asynccontextmanager
async def _producer(settings: Settings, home: Home, identity: Identity) -> AsyncIterator[LedgerNode]:
    service = NodeService.open(
        home.path,
        home.genesis(),
        identity.block_key(),
        policy=settings.batch.policy(),
        checkpoints=settings.checkpoints.checkpoints(),
        verify_in_worker=settings.verify_in_worker,
    )
    try:
        try:
            await service.start(accept_gap_days=settings.clock.accept_gap_days)
        except IllegalOrder:
            raise HomeUnusable(_NOT_A_PRODUCER) from None
        yield service
    finally:
        await service.drain()


@asynccontextmanager
async def _erasing(
    settings: Settings,
    home: Home,
    service: LedgerNode,
    identity: Identity,
    parts: Parts,
    vault: OpenVault | None,
) -> AsyncIterator[None]:
    """Erasures are carried out whether there is a door or not: the charts are there either way."""
    with (
        _charts(settings, home, service) as charts,
        SourceReader(charts=charts, sources=Sources(home.path)) as pointers,
        ErasureJournal.open(home.erasures) as journal,
    ):
        eraser = Eraser(
            ledger=service,
            journal=journal,
            key=identity.signing_key(),
            member=identity.party,
            clock=lambda: int(time.time()),
            entropy=secrets.token_bytes,
            holdings=Holdings(
                charts=None if settings.erasure.keep_charts else charts,
                pointers=None if settings.erasure.keep_charts else pointers,
                vault=None if vault is None else SealedObjects(vault.service),
                tokens=None if vault is None else vault.service.tokens,
            ),
        )
        # A store that came back from an old backup loses the erased records before anybody can ask for them.
        await eraser.destroy(everything=True)
        stop = asyncio.Event()
        async with parts.running("carrying out of erasures", eraser.run(stop), end=stop.set):
            yield


@asynccontextmanager
async def _ceremonies(
    home: Home, service: LedgerNode, identity: Identity, parts: Parts
) -> AsyncIterator[KeyholderStore]:
    """The organisation's part in ceremonies of the consortium key, and the share that it holds of it."""
    path = home.path / "keys" / KEYHOLDER_FILE
    store = KeyholderStore.open(path, identity=identity, entropy=secrets.token_bytes)
    runner = CeremonyRunner(
        ledger=service,
        key=identity.signing_key(),
        member=identity.party,
        store=store,
        entropy=secrets.token_bytes,
    )
    stop = asyncio.Event()
    async with parts.running("part in ceremonies of the consortium key", runner.run(stop), end=stop.set):
        yield store


@asynccontextmanager
async def _keyholder(
    home: Home, service: LedgerNode, identity: Identity, parts: Parts, shares: KeyholderStore
) -> AsyncIterator[Extension]:
    """The door to the organisation's share of the consortium key, and its reports of what it released."""
    with Audit.open(home.share_audit) as audit:
        keyholder = Keyholder(
            organisation=identity.party,
            signing=identity.signing_key(),
            ledger=service,
            secrets=shares,
            audit=audit,
            clock=lambda: int(time.time()),
            entropy=secrets.token_bytes,
        )
        reporter = Reporter(
            ledger=service,
            audit=audit,
            key=identity.signing_key(),
            member=identity.party,
            entropy=secrets.token_bytes,
            kind=EntryKind.KEY_SHARES,
        )
        closing = asyncio.Event()
        async with parts.running("reporting of key shares", reporter.run(closing), end=closing.set):
            yield shares_door(keyholder)


@asynccontextmanager
async def _gatekeeper(
    settings: Settings,
    home: Home,
    service: LedgerNode,
    identity: Identity,
    audit: Audit,
    vault: OpenVault | None,
    holding: Extension,
) -> AsyncIterator[ASGIApp]:
    """The organisation's door. What it releases is noted in ``audit``, which is reported to the ledger."""
    suite = service.genesis.suite
    with (
        _charts(settings, home, service) as charts,
        SourceReader(charts=charts, sources=Sources(home.path), institution=suite) as records,
    ):
        door = Gatekeeper(
            organisation=identity.party,
            ledger=service,
            charts=records,
            audit=audit,
            clock=_now_s,
            entropy=secrets.token_bytes,
        )
        extensions = [holding]
        if vault is not None:
            objects = ObjectsDoor(
                vault.service,
                ledger=service,
                organisation=identity.party,
                audit=audit,
                clock=_now_s,
                incoming=vault.incoming,
                policy=vault.policy,
            )
            extensions.append(objects.routes)
        yield gatekeeper_app(door, clock=_now_s, entropy=secrets.token_bytes, extensions=extensions)


@asynccontextmanager
async def _reporting(service: LedgerNode, identity: Identity, parts: Parts, audit: Audit) -> AsyncIterator[None]:
    """What the doors note is reported to the ledger while they are open, and once more when all have closed."""
    reporter = Reporter(
        ledger=service,
        audit=audit,
        key=identity.signing_key(),
        member=identity.party,
        entropy=secrets.token_bytes,
    )
    closing = asyncio.Event()
    async with parts.running("reporting of releases", reporter.run(closing), end=closing.set):
        yield


@asynccontextmanager
async def _fhir(
    gateway: Gateway, place: GatewayPlace, parts: Parts, listening: socket.socket, *, tls: ssl.SSLContext | None
) -> AsyncIterator[None]:
    """The FHIR server with what runs beside it; it stops serving before any of that ends."""
    async with gateway(place) as mounted, AsyncExitStack() as running:
        for part in mounted.parts:
            stop = asyncio.Event()
            await running.enter_async_context(parts.running(part.name, part.run(stop), end=stop.set))
        door = parts.serving("FHIR server", mounted.app, place.settings, listening, tls=tls)
        await running.enter_async_context(door)
        yield


def _charts(settings: Settings, home: Home, service: LedgerNode, *, zone: ZoneInfo | None = None) -> Charts:
    """The charts, where the settings say that they are."""
    return Charts.open(settings.charts(home.charts), service.genesis.suite, zone=zone)


def _now_s() -> int:
    return int(time.time())


def _signals(*, hang_up: Callable[[], None]) -> asyncio.Event:
    """An event that SIGTERM and SIGINT set. They stay caught until the loop closes: asking twice breaks no drain.

    SIGHUP means that files have changed: ``hang_up`` is called.
    """
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    loop.add_signal_handler(signal.SIGHUP, hang_up)
    return asked
