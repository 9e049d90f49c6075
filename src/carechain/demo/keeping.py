"""What an organisation of the demonstration keeps of sealed records: a vault, and a share of the consortium key.

The parts are a node's own (:mod:`carechain.node.vault`, :mod:`carechain.node.ceremony`,
:mod:`carechain.gatekeeper.keyholder`), put together for one process.
"""

import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from carechain.contracts.access import EntryKind
from carechain.core.suite import Institution
from carechain.gatekeeper.audit import Audit
from carechain.gatekeeper.keyholder import Keyholder
from carechain.gatekeeper.objects_door import ObjectsDoor
from carechain.gatekeeper.reports import Reporter
from carechain.gatekeeper.serve import Extension
from carechain.gatekeeper.shares_door import shares_door
from carechain.node.ceremony import CeremonyRunner, FollowedLedger
from carechain.node.keyholder_store import KEYHOLDER_FILE, KeyholderStore
from carechain.node.settings import Settings, VaultSettings
from carechain.node.vault import OpenVault, Owner, open_vault
from carechain.sdk.identity import Identity

SHARES_FILE: Final = "shares.sqlite"
QUOTA_BYTES: Final = 1_000_000_000


class Copies(Struct, frozen=True, kw_only=True):
    """Where an organisation has copies kept (address by organisation), and for whom it keeps some itself."""

    partners: Mapping[bytes, str] = {}
    keeps_for: tuple[bytes, ...] = ()


class Own(Struct, frozen=True, kw_only=True):
    """Whose it is, and what an organisation brings along."""

    home: Path
    identity: Identity
    ledger: FollowedLedger
    clock: Callable[[], int]
    entropy: Callable[[int], bytes]


class Keeping:
    """One organisation's vault and share, opened by :func:`keeping`."""

    def __init__(self, own: Own, vault: OpenVault, shares_audit: Audit) -> None:
        self._own = own
        self.vault: Final = vault
        self.audit: Final = shares_audit
        identity = own.identity
        path = own.home / "keys" / KEYHOLDER_FILE
        self.shares: Final = KeyholderStore.open(path, identity=identity, entropy=own.entropy)
        self.ceremonies: Final = CeremonyRunner(
            ledger=own.ledger,
            key=identity.signing_key(),
            member=identity.party,
            store=self.shares,
            entropy=own.entropy,
        )
        self.reporter: Final = Reporter(
            ledger=own.ledger,
            audit=shares_audit,
            key=identity.signing_key(),
            member=identity.party,
            entropy=own.entropy,
            kind=EntryKind.KEY_SHARES,
        )

    def keyholder(self, made: type[Keyholder] = Keyholder) -> Keyholder:
        """The organisation's keyholder; the story lets one run other software than everybody else's."""
        return made(
            organisation=self._own.identity.party,
            signing=self._own.identity.signing_key(),
            ledger=self._own.ledger,
            secrets=self.shares,
            audit=self.audit,
            clock=self._own.clock,
            entropy=self._own.entropy,
        )

    def doors(self, audit: Audit, made: type[Keyholder] = Keyholder) -> list[Extension]:
        """The keyholder's door and the vault's, for the gatekeeper's application; ``audit`` is the gatekeeper's."""
        objects = ObjectsDoor(
            self.vault.service,
            ledger=self._own.ledger,
            organisation=self._own.identity.party,
            audit=audit,
            clock=self._own.clock,
            incoming=self.vault.incoming,
            policy=self.vault.policy,
        )
        return [shares_door(self.keyholder(made)), objects.routes]

    def parts(self) -> tuple[Callable[[Any], Coroutine[Any, Any, None]], ...]:
        """What runs as long as the organisation does, each until the event it is given is set."""
        return self.ceremonies.run, self.reporter.run, self.vault.run


@asynccontextmanager
async def keeping(own: Own, *, chain_id: str, copies: Copies) -> AsyncIterator[Keeping]:
    """Open the vault and the file with the share in the organisation's home."""
    wanted = VaultSettings(
        copies=1 + len(copies.partners),
        partners={organisation.hex(): url for organisation, url in copies.partners.items()},
        keeps_for=tuple(one.hex() for one in copies.keeps_for),
        quota_bytes=QUOTA_BYTES,
    )
    # Not made the usual way, because the environment of whoever watches has no say here.
    settings = Settings.model_construct(home=own.home, vault=wanted)
    owner = Owner(
        identity=own.identity,
        chain_id=chain_id,
        suite=Institution.INTERNATIONAL,
        clock=own.clock,
        context_of=lambda _: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
    )

    def is_erased(address: bytes) -> bool:
        return own.ledger.view().contracts.records.is_erased_object(address)

    async with open_vault(settings, owner, is_erased=is_erased) as vault:
        if vault is None:
            raise RuntimeError("the vault was not opened")
        with Audit.open(own.home / SHARES_FILE) as audit:
            yield Keeping(own, vault, audit)
