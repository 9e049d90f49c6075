"""The organisation's vault inside its node: opened from the settings, looked after while the node runs.

``vault/`` in the home holds ``objects/`` (unless the settings name another place), ``vault.sqlite`` (metering, what was
erased, how far a scrub has come), ``tokens.sqlite`` (the blind index) and, for the distributed store, ``dht.sqlite``.
"""

import asyncio
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import httpx
import structlog
from msgspec import Struct

from carechain.chain.queries import View
from carechain.core.limits import MEMBERS
from carechain.core.rejection import Rejected
from carechain.core.suite import Institution
from carechain.core.vocabulary import PartyKind
from carechain.gatekeeper.objects_door import Policy
from carechain.node.clock import Clock
from carechain.node.ledger import LedgerNode
from carechain.node.settings import BadSettings, KademliaSettings, Settings, read_secret, require_private
from carechain.node.tls import CertificateFiles
from carechain.sdk.door import DoorSession
from carechain.sdk.identity import Identity
from carechain.sdk.signer import Signer
from carechain.sdk.tls import Trust
from carechain.state.log import make_folder
from carechain.vault.base import Vault
from carechain.vault.folder import FolderStore
from carechain.vault.kademlia_node import DhtNode, Reach, Seat
from carechain.vault.kademlia_records import SignerKey, Signers
from carechain.vault.kademlia_storage import RecordFile
from carechain.vault.kademlia_store import KademliaStore
from carechain.vault.metering import Metering
from carechain.vault.remote import RemoteStore
from carechain.vault.replicated import Replicated
from carechain.vault.s3 import S3Place, S3Store
from carechain.vault.scrub import Scrub, ScrubReport, pause_for
from carechain.vault.service import ErasedOnLedger, VaultService
from carechain.vault.tokens import TokenStore

FOLDER: Final = "vault"
METERING_FILE: Final = "vault/vault.sqlite"
TOKENS_FILE: Final = "vault/tokens.sqlite"
DHT_FILE: Final = "vault/dht.sqlite"
INCOMING: Final = "vault/arriving"
LOOK_S: Final = 60
"""How often it is looked whether something is due."""
REPUBLISH_S: Final = 3600
_SCRUBBED: Final = "scrubbed"
_HOUR_S: Final = 3600
_LOOK_UP_S: Final = 5
_LOOKED_UP: Final = 2 * MEMBERS
_PARTNER_S: Final = 60.0
_NAME_DIGITS: Final = 12
_log = structlog.get_logger("carechain.vault")

ContextOf = Callable[[bytes], ssl.SSLContext]
"""What a connection to an organisation's server is verified with, by member id."""


class Owner(Struct, frozen=True, kw_only=True):
    """Whose vault it is, and of which network."""

    identity: Identity
    chain_id: str
    suite: Institution
    clock: Clock
    context_of: ContextOf

    def now_s(self) -> int:
        """Unix time."""
        return int(self.clock())


class OpenVault:
    """A vault that is in use."""

    def __init__(
        self, service: VaultService, settings: Settings, *, organisation: bytes, node: DhtNode | None = None
    ) -> None:
        self.service: Final = service
        self._organisation = organisation
        self._settings = settings.vault
        self._home = settings.home.expanduser()
        self._node = node
        self._republished_s = 0

    @property
    def incoming(self) -> Path:
        """The folder for what is arriving at the door."""
        return self._home / INCOMING

    @property
    def policy(self) -> Policy:
        """For whom copies are kept."""
        partners = frozenset(bytes.fromhex(one) for one in self._settings.keeps_for)
        return Policy(partners=partners, quota_bytes=self._settings.quota_bytes)

    async def scrub(
        self, *, on_object: Callable[[ScrubReport], None] | None = None, paced: bool = False
    ) -> ScrubReport:
        """Read every copy and repair what can be repaired; raises ``OSError``."""
        pause = pause_for(self._settings.scrub_bytes_per_s, asyncio.sleep) if paced else None
        metering = self.service.metering
        report = await Scrub(
            self.service.vault,
            metering,
            pause=pause,
            organisation=self._organisation,
            finish_erasure=self.service.finish_erasure,
        ).run(on_object=on_object)
        metering.note_progress(_SCRUBBED, self.service.now_s().to_bytes(8, "big"))
        return report

    def scrubbed_s(self) -> int:
        """When the last scrub ended (Unix seconds); 0 for never."""
        return int.from_bytes(self.service.metering.progress(_SCRUBBED) or b"", "big")

    async def run(self, stop: asyncio.Event) -> None:
        """Scrub and publish again when it is due, until ``stop`` is set. What cannot be done now is tried again."""
        while not stop.is_set():
            work = asyncio.create_task(self._due())
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
            work.cancel()
            try:
                await work
            except asyncio.CancelledError:
                if not stop.is_set():
                    raise
            except (OSError, Rejected) as failed:
                _log.warning("upkeep_postponed", reason=type(failed).__name__)
            await asyncio.wait({stopping}, timeout=LOOK_S)
            stopping.cancel()

    async def _due(self) -> None:
        now_s = self.service.now_s()
        if self._node is not None and now_s >= self._republished_s + REPUBLISH_S:
            await self._node.join(_contacts(self._settings.kademlia))
            published = await self._node.republish(REPUBLISH_S)
            self._republished_s = now_s
            _log.info("records_published_again", count=published)
        every_s = self._settings.scrub_hours * _HOUR_S
        last_s = self.scrubbed_s()
        if not last_s:
            # A new vault has nothing to scrub; the first pass comes after the first interval.
            self.service.metering.note_progress(_SCRUBBED, now_s.to_bytes(8, "big"))
        elif every_s and now_s >= last_s + every_s:
            await self.scrub(paced=True)


@asynccontextmanager
async def open_vault(
    settings: Settings,
    owner: Owner,
    *,
    signers: Signers | None = None,
    is_erased: ErasedOnLedger = lambda _: False,
) -> AsyncIterator[OpenVault | None]:
    """The vault that the settings describe; None where there is none.

    ``signers`` are the members that may take part in the distributed store; without them it is not opened.
    ``is_erased`` says of an address whether the ledger has a tombstone for it. Raises ``BadSettings`` and ``OSError``.
    """
    if not settings.vault.enabled:
        yield None
        return
    if owner.identity.organisation.hex() in settings.vault.partners:
        # Its door would pass every object back.
        raise BadSettings("vault.partners names this organisation itself. Partners are other organisations.")
    home = settings.home.expanduser()
    make_folder(home / FOLDER)
    make_folder(home / INCOMING)
    async with AsyncExitStack() as stack:
        node = None
        if settings.vault.backend == "kademlia":
            if signers is None:
                raise BadSettings("The distributed store is open while the node runs, and the node looks after it.")
            node = await stack.enter_async_context(_dht_node(settings, owner, signers))
        stores = [_own_store(settings, owner, node)]
        for organisation, url in sorted(settings.vault.partners.items()):
            stores.append(await stack.enter_async_context(_partner(organisation, url, owner)))
        replicated = Replicated(
            stores, copies=settings.vault.copies, minimum=settings.vault.minimum, hashing=owner.suite.new_hash
        )
        metering = stack.enter_context(Metering(home / METERING_FILE))
        tokens = stack.enter_context(TokenStore(home / TOKENS_FILE))
        service = VaultService(
            replicated,
            metering,
            tokens,
            organisation=owner.identity.organisation,
            clock=owner.now_s,
            is_erased=is_erased,
        )
        yield OpenVault(service, settings, organisation=owner.identity.organisation, node=node)


@asynccontextmanager
async def vault_of(
    settings: Settings, node: LedgerNode, identity: Identity, certificates: CertificateFiles | None
) -> AsyncIterator[OpenVault | None]:
    """The vault of a node that runs. Partners are believed on the authorities that the ledger has for them.

    Raises ``BadSettings`` and ``OSError``.
    """
    authorities = node.view().contracts.membership.authorities
    rows = {one: authorities.get(one) for one in map(bytes.fromhex, settings.vault.partners)}
    trust = Trust(
        {organisation: row.certificate for organisation, row in rows.items() if row is not None},
        ca_file=None if settings.vault.ca_file is None else settings.path(settings.vault.ca_file),
    )

    def context_of(organisation: bytes) -> ssl.SSLContext:
        believing = trust.context(organisation)
        return believing if certificates is None else certificates.show_with(believing)

    owner = Owner(
        identity=identity, chain_id=node.chain_id, suite=node.genesis.suite, clock=time.time, context_of=context_of
    )
    for left in (settings.home.expanduser() / INCOMING).glob("*"):
        # What was arriving when the last process ended without a word.
        left.unlink(missing_ok=True)

    def is_erased(address: bytes) -> bool:
        return node.view().contracts.records.is_erased_object(address)

    async with open_vault(settings, owner, signers=signers_of(node.view, time.time), is_erased=is_erased) as opened:
        yield opened


def signers_of(view: Callable[[], View], clock: Clock) -> Signers:
    """The members' keys as the ledger has them, looked up anew every few seconds: every datagram asks."""
    found: dict[bytes, SignerKey | None] = {}
    since_s = 0.0

    def known(party_id: bytes) -> SignerKey | None:
        nonlocal since_s
        if abs(clock() - since_s) >= _LOOK_UP_S or len(found) > _LOOKED_UP:
            found.clear()
            since_s = clock()
        if party_id not in found:
            found[party_id] = looked_up(party_id)
        return found[party_id]

    def looked_up(party_id: bytes) -> SignerKey | None:
        now = view()
        membership = now.contracts.membership
        party = membership.party(party_id)
        if party is None or party.kind is not PartyKind.MEMBER or membership.standing(party, now.time_s) is not None:
            return None
        return SignerKey(party.suite, party.public_key)

    return known


def fresh_entropy(size: int) -> bytes:
    """Random bytes."""
    return secrets.token_bytes(size)


def _own_store(settings: Settings, owner: Owner, node: DhtNode | None) -> Vault:
    hashing = owner.suite.new_hash
    if node is not None:
        return KademliaStore(node, minimum=settings.vault.kademlia.minimum)
    if settings.vault.backend == "folder":
        return FolderStore(settings.path(settings.vault.folder), hashing=hashing)
    s3 = settings.vault.s3
    if s3.secret_key_file is None:
        raise BadSettings("vault.s3.secret_key_file is not set.")
    place = S3Place(
        bucket=s3.bucket,
        endpoint=s3.endpoint,
        region=s3.region,
        prefix=s3.prefix,
        access_key_id=s3.access_key_id,
        secret_access_key=read_secret(require_private(settings.path(s3.secret_key_file))),
    )
    return S3Store(place, hashing=hashing)


@asynccontextmanager
async def _partner(organisation: str, url: str, owner: Owner) -> AsyncIterator[Vault]:
    member = bytes.fromhex(organisation)
    async with httpx.AsyncClient(
        base_url=url, timeout=_PARTNER_S, trust_env=False, verify=owner.context_of(member)
    ) as http:
        session = DoorSession(
            http,
            Signer.of(owner.identity),
            chain_id=owner.chain_id,
            server=member,
            clock=owner.now_s,
            entropy=fresh_entropy,
        )
        name = f"partner {organisation[:_NAME_DIGITS]}"
        yield RemoteStore(http, session, name=name, hashing=owner.suite.new_hash)


@asynccontextmanager
async def _dht_node(settings: Settings, owner: Owner, signers: Signers) -> AsyncIterator[DhtNode]:
    wanted = settings.vault.kademlia
    seat = Seat(
        network=owner.chain_id,
        party=owner.identity.party,
        key=owner.identity.signing_key(),
        signers=signers,
        clock=owner.now_s,
        number=wanted.number,
        hashing=owner.suite.new_hash,
    )
    path = settings.home.expanduser() / DHT_FILE
    with RecordFile(path, capacity_bytes=wanted.capacity_bytes, signer_bytes=wanted.member_bytes) as file:
        node = DhtNode(seat, file, Reach(copies=wanted.copies))
        try:
            known = await node.start(host=wanted.host, port=wanted.port, peers=_contacts(wanted))
            _log.info("distributed_store_joined", count=known)
            yield node
        finally:
            await node.close()


def _contacts(wanted: KademliaSettings) -> list[tuple[str, int]]:
    found = []
    for one in wanted.peers:
        host, _, port = one.rpartition(":")
        found.append((host.strip("[]"), int(port)))
    return found
