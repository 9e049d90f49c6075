"""The FHIR server of a node, put together: the door that ``carechain start`` hands to the node (API-1, API-3).

One port carries FHIR at ``/fhir`` and SMART on FHIR at ``/smart``. What stands behind it is the node's: its ledger, its
sessions, its charts and its gatekeeper's audit.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import structlog
from sqlalchemy import select
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from carechain.charts.outbox import unanchored
from carechain.charts.record import StoredRecord
from carechain.charts.repository import Repository
from carechain.charts.schema import records
from carechain.core.rejection import Rejected
from carechain.gatekeeper.audit import AuditTooNew, AuditUnavailable
from carechain.gateway.anchoring import Outbox
from carechain.gateway.audit import OWN_AUDIT_FILE, GatewayAudit, OwnAudit
from carechain.gateway.binding import Binder
from carechain.gateway.clients import Apps, AppsTooNew, AppsUnavailable
from carechain.gateway.fhir.app import fhir_app
from carechain.gateway.plugged import plugged
from carechain.gateway.sights import Sights
from carechain.gateway.smart import discovery
from carechain.gateway.smart.acting import ActingDesk, ActingKeys, Unlock
from carechain.gateway.smart.approving import Approvals
from carechain.gateway.smart.authenticator import GatewayAuthenticator
from carechain.gateway.smart.identity_tokens import KEY_FILE, IdentityTokens
from carechain.gateway.smart.routes import SmartRoutes
from carechain.gateway.smart.server import AuthorisationServer
from carechain.gateway.smart.waiting import Waiting
from carechain.node.hl7 import REGISTRAR_SECRET, LedgerRegistry
from carechain.node.home import HomeUnusable
from carechain.node.metrics import Metrics
from carechain.node.mounting import Gateway, Mounted, Part, Place
from carechain.sdk.registrar import RegistrarSecret

_SECOND_US: Final = 1_000_000
_OWNERS_AT_ONCE: Final = 500
_log = structlog.get_logger("carechain.gateway")


def gateway_of(unlock: Unlock) -> Gateway:
    """The gateway to hand to :func:`carechain.node.main.run`. ``unlock`` opens a key file of the home by its name."""

    @asynccontextmanager
    async def opened(place: Place) -> AsyncIterator[Mounted]:
        async with AsyncExitStack() as running:
            try:
                apps = running.enter_context(Apps.at(place.home))
                own = running.enter_context(OwnAudit.open(place.home / OWN_AUDIT_FILE))
            except (AppsUnavailable, AppsTooNew, AuditUnavailable, AuditTooNew) as failure:
                raise HomeUnusable(f"The FHIR server cannot start: {failure}.") from None
            yield await running.enter_async_context(_assembled(place, apps, own, unlock))

    return opened


def base_url(place: Place) -> str:
    """The FHIR server's address as callers know it."""
    return (place.settings.fhir.public_url or place.url) + discovery.FHIR


@asynccontextmanager
async def _assembled(place: Place, apps: Apps, own: OwnAudit, unlock: Unlock) -> AsyncIterator[Mounted]:
    base = base_url(place)
    organisation = place.identity.party
    charts = ServedCharts(Repository(place.charts), place.clock, place.entropy)
    now_s = _seconds(place)
    keys = ActingKeys(unlock)
    sights = Sights(ledger=place.ledger, custodian=organisation, clock=now_s)
    acting = ActingDesk(
        ledger=place.ledger,
        sights=sights,
        keys=keys,
        entropy=place.entropy,
    )
    authenticator = GatewayAuthenticator(
        ledger=place.ledger,
        organisation=organisation,
        sights=sights,
        sessions=place.sessions,
        apps=apps,
        acting=acting,
        clock=now_s,
    )
    audit = GatewayAudit(audit=place.audit, own=own, ledger=place.ledger, owners=charts, clock=now_s)
    routes = _smart(place, apps, charts, authenticator, base)
    plugging = plugged(
        place, repository=charts.repository, apps=apps, keys=keys, readings=audit, base=base, now_s=now_s
    )
    async with plugging as providers:
        fhir = fhir_app(
            repository=charts.repository,
            authenticator=authenticator,
            audit=audit,
            base_url=base,
            zone=place.settings.fhir.zone(),
            providers=providers,
            security=discovery.security_block(base),
            entropy=place.entropy,
            clock=place.clock,
        )
        app = Starlette(routes=[*routes.routes(), Mount(discovery.FHIR, app=fhir)])
        try:
            counted = Counted(Cors(app, apps), place.ledger.metrics)
            yield Mounted(app=counted, parts=(*_anchoring(place, charts, unlock), *_binding(place)))
        finally:
            await fhir.aclose()


def _smart(
    place: Place, apps: Apps, charts: "ServedCharts", authenticator: GatewayAuthenticator, base: str
) -> SmartRoutes:
    waiting, now_s = Waiting(), _seconds(place)
    identity = IdentityTokens.open(place.home / KEY_FILE, issuer=base)
    approvals = Approvals(
        ledger=place.ledger,
        organisation=place.identity.party,
        apps=apps,
        waiting=waiting,
        patients=charts,
        clock=now_s,
        entropy=place.entropy,
    )
    server = AuthorisationServer(
        apps=apps,
        approvals=approvals,
        waiting=waiting,
        identity=identity,
        base=base,
        token_url=discovery.root_of(base) + discovery.TOKEN,
        clock=now_s,
        entropy=place.entropy,
    )
    return SmartRoutes(
        server=server,
        approvals=approvals,
        authenticator=authenticator,
        identity=identity,
        base=base,
        clock=now_s,
        entropy=place.entropy,
    )


def _binding(place: Place) -> tuple[Part, ...]:
    """Only a registrar can tell who is who on the ledger."""
    if not (place.home / REGISTRAR_SECRET).is_file():
        return ()
    try:
        secret = RegistrarSecret.load(place.home / REGISTRAR_SECRET)
    except (Rejected, OSError) as failure:
        raise HomeUnusable(f"{REGISTRAR_SECRET} cannot be used: {failure}.") from None
    registry = LedgerRegistry(place.ledger, place.identity.party, secret, system=place.settings.fhir.id_system)
    binder = Binder(charts=place.charts, registry=registry)
    return (Part("binding of charts to registered patients", binder.run),)


def _anchoring(place: Place, charts: "ServedCharts", unlock: Unlock) -> tuple[Part, ...]:
    name = place.settings.fhir.anchor_as
    if not name:
        return ()
    try:
        identity = unlock(name)
    except (Rejected, OSError) as failure:
        raise HomeUnusable(f"fhir.anchor_as: the key {name} cannot be opened: {failure}.") from None
    outbox = Outbox(charts=charts, ledger=place.ledger, identity=identity, clock=_seconds(place), entropy=place.entropy)
    place.ledger.metrics.gauge(
        "anchors_waiting", "Record versions written over FHIR or HL7 that the ledger lacks.", lambda: outbox.waiting
    )
    return (Part("anchoring of what was written over FHIR", outbox.run),)


def _seconds(place: Place) -> Callable[[], int]:
    return lambda: int(place.clock())


class ServedCharts:
    """The charts as approvals, the audit and the outbox need them. Everything here blocks."""

    def __init__(self, repository: Repository, clock: Callable[[], float], entropy: Callable[[int], bytes]) -> None:
        """``clock()`` gives Unix seconds."""
        self.repository = repository
        self._clock = clock
        self._entropy = entropy

    def patient(self, pseudonym: bytes) -> str | None:
        """The local id of the Patient resource of a pseudonym."""
        with self.repository.reading() as reader:
            return reader.patient(pseudonym)

    def owners(self, record_ids: Sequence[bytes]) -> dict[bytes, bytes]:
        """The pseudonym in whose chart each record stands."""
        found: dict[bytes, bytes] = {}
        with self.repository.reading() as reader:
            for start in range(0, len(record_ids), _OWNERS_AT_ONCE):
                named = records.c.record_id.in_(record_ids[start : start + _OWNERS_AT_ONCE])
                rows = reader.connection.execute(select(records.c.record_id, records.c.pseudonym).where(named))
                found.update((bytes(row.record_id), bytes(row.pseudonym)) for row in rows)
        return found

    def unanchored(self, limit: int) -> list[StoredRecord]:
        """Record versions of bound patients that wait, oldest first."""
        with self.repository.reading() as reader:
            return unanchored(reader.connection, limit)

    def strike_off(self, anchored: Sequence[tuple[bytes, int]]) -> None:
        """The ledger has these: they wait no longer."""
        with self.repository.writing(int(self._clock() * _SECOND_US), self._entropy) as writer:
            writer.mark_anchored(anchored)


class Counted:
    """Counts the answers of the FHIR server by status, for the operator's figures."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.answered("fhir", message["status"])
            await send(message)

        await self._app(scope, receive, counted)


class Cors:
    """Lets the scripts of registered browser apps use this server, and nobody else's (Fetch standard, CORS).

    Tokens travel in headers that a script has to set itself, never in cookies, so this opens nothing to a page that
    has none.
    """

    def __init__(self, app: ASGIApp, apps: Apps) -> None:
        """``apps`` says which origins are registered: those of the apps' redirect addresses."""
        self._app = app
        self._apps = apps

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        origin = _header(scope, b"origin") if scope["type"] == "http" else ""
        if not origin or not await asyncio.to_thread(self._is_registered, origin):
            await self._app(scope, receive, send)
            return
        allowed = [(b"access-control-allow-origin", origin.encode("latin-1")), (b"vary", b"Origin")]
        if scope["method"] == "OPTIONS" and _header(scope, b"access-control-request-method"):
            headers = {name.decode(): value.decode() for name, value in (*allowed, *_PREFLIGHT)}
            await Response(status_code=204, headers=headers)(scope, receive, send)
            return

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [one for one in message.get("headers", ()) if one[0] != b"access-control-allow-origin"]
                message = {**message, "headers": [*kept, *allowed, _EXPOSED]}
            await send(message)

        await self._app(scope, receive, marked)

    def _is_registered(self, origin: str) -> bool:
        try:
            registered = [address for one in self._apps.clients() for address in one.redirects]
        except AppsUnavailable as unavailable:
            _log.error("storage_unavailable", kind=type(unavailable).__name__, reason=str(unavailable))
            return False
        return any(f"{address}/".startswith(f"{origin}/") for address in registered)


_PREFLIGHT: Final = (
    (b"access-control-allow-methods", b"GET, HEAD, POST, PUT, PATCH"),
    (
        b"access-control-allow-headers",
        (
            b"authorization, content-type, accept, prefer, if-match, if-none-match, if-none-exist, if-modified-since, "
            b"x-consent-ticket, x-purpose-of-use"
        ),
    ),
    (b"access-control-max-age", b"600"),
)
_EXPOSED: Final = (b"access-control-expose-headers", b"etag, location, content-location, last-modified, digest")


def _header(scope: Scope, name: bytes) -> str:
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value).decode("latin-1")
    return ""
