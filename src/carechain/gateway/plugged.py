"""What is plugged into the FHIR server: resources made from the ledger, and operations on a patient (API-1, REC-11)."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import httpx

from carechain.charts.repository import Repository
from carechain.core.limits import RELAY_CONNECT_S, RELAY_SILENCE_S
from carechain.core.rejection import Rejected
from carechain.gatekeeper.fetch import Reader
from carechain.gateway.clients import Apps
from carechain.gateway.codes import RemoteCode
from carechain.gateway.fhir.providing import Operations, Provider
from carechain.gateway.principal import Principal, ReadingAudit
from carechain.gateway.providers.audit_events import AuditEventProvider
from carechain.gateway.providers.consents import ConsentProvider
from carechain.gateway.providers.directory import DirectoryProvider
from carechain.gateway.providers.graph import GraphProvider
from carechain.gateway.providers.summary import SummaryProvider
from carechain.gateway.remote import OPERATION, RemoteRead
from carechain.gateway.smart.acting import ActingKeys
from carechain.node.mounting import Place
from carechain.sdk.tls import Trust, no_trust


@asynccontextmanager
async def plugged(
    place: Place,
    *,
    repository: Repository,
    apps: Apps,
    keys: ActingKeys,
    readings: ReadingAudit,
    base: str,
    now_s: Callable[[], int],
) -> AsyncIterator[tuple[Provider, ...]]:
    """Everything that is plugged in, while connections to other members' gatekeepers are kept. Raises ``OSError``."""
    ledger, zone = place.ledger, place.settings.fhir.zone()
    async with AsyncExitStack() as running:
        doors = {member: await running.enter_async_context(door) for member, door in _doors(place).items()}
        remote = RemoteRead(
            ledger=ledger,
            readers=_Readers(apps, keys).reader,
            doors=doors,
            base_url=base,
            zone=zone,
            clock=now_s,
            entropy=place.entropy,
            institution=place.charts.institution,
        )
        summary = SummaryProvider(
            ledger=ledger,
            charts=repository,
            organisation=place.identity.party,
            base_url=base,
            entropy=place.entropy,
            clock=place.clock,
            zone=zone,
            remote=remote,
            readings=readings,
        )
        graph = GraphProvider(charts=repository, readings=readings, zone=zone)
        yield (
            ConsentProvider(ledger=ledger, charts=repository, zone=zone),
            AuditEventProvider(ledger=ledger, charts=repository, audit=place.audit, zone=zone),
            DirectoryProvider(ledger=ledger, addresses={place.identity.party: base}, zone=zone),
            Operations({OPERATION: remote, **summary.operations, **graph.operations}),
        )


class _Readers:
    """The keys of the parties that apps act as, for reading at other members."""

    def __init__(self, apps: Apps, keys: ActingKeys) -> None:
        self._apps = apps
        self._keys = keys

    async def reader(self, principal: Principal) -> Reader:
        """The keys of the party that a system acts as; raises ``Rejected``.

        An app that people let in gets none: its party holds the grants of many patients, and one patient's approval
        must not reach another's records. What it may see stands in this organisation's own charts.
        """
        client = self._apps.client(principal.client_id) if principal.client_id else None
        if client is None or not client.is_backend or client.redirects or not client.acting:
            raise Rejected(RemoteCode.NO_KEY)
        identity = await self._keys.of(client)
        return Reader(party=identity.party, signing=identity.signing_key(), hpke=identity.hpke_key())


def _doors(place: Place) -> dict[bytes, httpx.AsyncClient]:
    """A connection to each gatekeeper of the settings, believed on its own organisation's authority alone."""
    named = {bytes.fromhex(member): url for member, url in place.settings.fhir.gatekeepers.items()}
    ca_file = place.settings.fhir.ca_file
    authorities = place.ledger.view().contracts.membership.authorities
    rows = {member: authorities.get(member) for member in named}
    trust = Trust(
        {member: row.certificate for member, row in rows.items() if row is not None},
        ca_file=None if ca_file is None else place.settings.path(ca_file),
    )
    timeout = httpx.Timeout(RELAY_SILENCE_S, connect=RELAY_CONNECT_S, pool=RELAY_CONNECT_S)
    return {
        member: httpx.AsyncClient(
            base_url=url,
            verify=trust.context(member) if url.startswith("https://") else no_trust(),
            timeout=timeout,
            trust_env=False,
            follow_redirects=False,
        )
        for member, url in named.items()
    }
